/* SPDX-License-Identifier: Apache-2.0 */
#include "claim.h"

#include <hybus/call.h>
#include <hybus/log.h>

#define SECURITY "org.hybridos.Security1"
#define SECURITY_OBJECT "/org/hybridos/Security1"
#define PROPERTIES "org.freedesktop.DBus.Properties"

struct endpoint_claim {
    sd_bus *bus;
    hybus_agent *agent;
    void (*changed)(bool claimed, void *userdata);
    void *userdata;
    sd_bus_slot *security_changed, *security_came, *asking;
    bool ask_again; /* something moved while the question was on its way */
};

static void ask(endpoint_claim *c);

static void on_claimed(sd_bus_message *m, int error, void *userdata)
{
    endpoint_claim *c = userdata;
    int claimed = 0;

    c->asking = sd_bus_slot_unref(c->asking);
    /* No answer: stay as we are; the next sign of h-securityd asks again. */
    if (error == 0 && sd_bus_message_read(m, "v", "b", &claimed) > 0)
        c->changed(claimed, c->userdata);
    if (c->ask_again)
        ask(c);
}

/* One question at a time, however often h-securityd says that something has changed. */
static void ask(endpoint_claim *c)
{
    int r;

    c->ask_again = c->asking;
    if (c->asking)
        return;
    r = hybus_call_method(c->bus, SECURITY, SECURITY_OBJECT, PROPERTIES, "Get", on_claimed, c,
                          &c->asking, "ss", SECURITY, "Claimed");
    if (r < 0)
        hybus_log_errno(LOG_WARNING, r, "cannot ask whether the device is claimed");
}

static int on_security_changed(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    ask(userdata);
    return 0;
}

/* Whatever the policy has become, a claim may be part of it. Nothing of ours has to be cut for it.
 */
static void on_policy_changed(hybus_agent *agent, uint64_t generation, void *userdata)
{
    hybus_agent_settled(agent, on_policy_changed, userdata, generation);
    ask(userdata);
}

int endpoint_claim_follow(sd_bus *bus, hybus_agent *agent,
                          void (*changed)(bool claimed, void *userdata), void *userdata,
                          endpoint_claim **ret)
{
    _cleanup_(endpoint_claim_freep) endpoint_claim *c = calloc(1, sizeof(*c));
    int r = c ? 0 : -ENOMEM;

    if (r >= 0) {
        c->bus = sd_bus_ref(bus);
        c->changed = changed;
        c->userdata = userdata;
        r = agent ? hybus_agent_add_changed(agent, on_policy_changed, c) : 0;
    }
    if (r >= 0) {
        c->agent = agent;
        r = sd_bus_match_signal_async(c->bus, &c->security_changed, SECURITY, SECURITY_OBJECT,
                                      PROPERTIES, "PropertiesChanged", on_security_changed, NULL,
                                      c);
    }
    if (r >= 0)
        r = sd_bus_add_match_async(c->bus, &c->security_came,
                                   "type='signal',sender='org.freedesktop.DBus',"
                                   "interface='org.freedesktop.DBus',member='NameOwnerChanged',"
                                   "arg0='" SECURITY "'",
                                   on_security_changed, NULL, c);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "cannot follow whether the device is claimed");
    ask(c);
    *ret = TAKE_PTR(c);
    return 0;
}

void endpoint_claim_free(endpoint_claim *c)
{
    if (!c)
        return;
    if (c->agent)
        hybus_agent_remove_changed(c->agent, on_policy_changed, c);
    sd_bus_slot_unref(c->asking);
    sd_bus_slot_unref(c->security_changed);
    sd_bus_slot_unref(c->security_came);
    sd_bus_unref(c->bus);
    free(c);
}
