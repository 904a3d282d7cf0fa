/* SPDX-License-Identifier: Apache-2.0 */
#include "consent-bus.h"

#include <hybus/call.h>
#include <hybus/error.h>

#include "security-internal.h"

#define AGENT_INTERFACE "org.hybridos.ConsentAgent1"

typedef struct Agent {
    LIST_ENTRY(Agent) agents;
    ConsentBus *bus;
    char *name, *path;
    uint32_t uid;
    sd_bus_slot *gone;
} Agent;

/* A question that is before an agent. */
typedef struct Asking {
    LIST_ENTRY(Asking) askings;
    ConsentBus *bus;
    Agent *agent;
    ConsentQuestion *question;
    sd_bus_slot *slot;
    char id[24];
} Asking;

struct ConsentBus {
    SecurityBus *security_bus;
    LIST_HEAD(, Agent) agents; /* the newest first */
    size_t n_agents;
    LIST_HEAD(, Asking) askings;
    uint64_t last_id;
};

/* --- questions ------------------------------------------------------------------------------- */

static void asking_free(Asking *a)
{
    LIST_REMOVE(a, askings);
    sd_bus_slot_unref(a->slot);
    free(a);
}

static void finish(Asking *a, bool yes, uint64_t keep, const char *why)
{
    ConsentQuestion *q = a->question;

    asking_free(a);
    (void)consent_answer(q, yes, keep, why, security_boottime());
}

static void on_answer(sd_bus_message *reply, int error, void *userdata)
{
    Asking *a = userdata;
    uint64_t keep = 0;
    char why[128];
    int yes = 0;

    if (error == 0 && sd_bus_message_read(reply, "bt", &yes, &keep) < 0)
        error = -EBADMSG;
    if (error == -ETIMEDOUT)
        snprintf(why, sizeof why, "needs the consent of a person, who has not answered in time");
    else if (error < 0)
        snprintf(why, sizeof why, "needs the consent of a person, and the agent that asks them failed");
    else
        snprintf(why, sizeof why, "%s by the person whom an agent of uid %u has asked",
                 yes ? "consented" : "declined", a->agent->uid);
    finish(a, error == 0 && yes, error == 0 ? keep : 0, why);
}

static const char *kind_name(char kind)
{
    return kind == 'g' ? "get" : kind == 's' ? "set" : "method";
}

/* A sequence of bytes is cut where a character begins. */
static size_t shown(const char *text)
{
    size_t n = strlen(text);

    if (n <= CONSENT_ARGUMENTS_SHOWN)
        return n;
    for (n = CONSENT_ARGUMENTS_SHOWN; n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80; n--)
        ;
    return n;
}

static int append_question(sd_bus_message *m, const Asking *a, const ConsentCall *c)
{
    _cleanup_(freep) char *arguments = strndup(c->arguments, shown(c->arguments));
    char call[520];

    if (!arguments)
        return -ENOMEM;
    snprintf(call, sizeof call, "%.255s.%.255s", c->interface, c->member);
    return sd_bus_message_append(
        m, "a{sv}", 13, "id", "s", a->id, "subject", "s", c->subject, "inputs", "s", c->inputs, "permission",
        "s", c->permission, "service", "s", c->service, "call", "s", call, "kind", "s", kind_name(c->kind),
        "path", "s", c->path, "arguments", "s", arguments, "cut", "b",
        (int)(strlen(arguments) < strlen(c->arguments)), "once", "b", (int)c->secret, "rule", "s", c->rule,
        "seconds", "u", (uint32_t)(CONSENT_WAIT_USEC / 1000000u));
}

/* Nobody is asked about themselves. */
static Agent *agent_for(const ConsentBus *c, uint32_t uid)
{
    Agent *a;

    LIST_FOREACH (a, &c->agents, agents)
        if (a->uid != uid)
            return a;
    return NULL;
}

static int ask(ConsentQuestion *q, const ConsentCall *call, void *userdata)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
    ConsentBus *c = userdata;
    Agent *agent = agent_for(c, call->uid);
    Asking *a;
    int r;

    if (!agent)
        return -ENOENT;
    a = calloc(1, sizeof *a);
    if (!a)
        return -ENOMEM;
    a->bus = c;
    a->agent = agent;
    a->question = q;
    snprintf(a->id, sizeof a->id, "%llu", (unsigned long long)++c->last_id);
    LIST_INSERT_HEAD(&c->askings, a, askings);
    r = sd_bus_message_new_method_call(c->security_bus->bus, &m, agent->name, agent->path, AGENT_INTERFACE,
                                       "Ask");
    if (r >= 0)
        r = append_question(m, a, call);
    if (r >= 0)
        r = hybus_call_send(m, CONSENT_WAIT_USEC, on_answer, a, &a->slot);
    if (r < 0) {
        asking_free(a);
        return r;
    }
    consent_set_tag(q, a);
    return 0;
}

static void cancel(ConsentQuestion *q, void *userdata)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
    Asking *a = consent_tag(q);
    int r = sd_bus_message_new_method_call(a->bus->security_bus->bus, &m, a->agent->name, a->agent->path,
                                           AGENT_INTERFACE, "Cancel");

    if (r >= 0)
        r = sd_bus_message_append(m, "s", a->id);
    if (r >= 0)
        r = sd_bus_message_set_expect_reply(m, false);
    if (r >= 0)
        (void)sd_bus_send(NULL, m, NULL);
    asking_free(a);
}

/* --- agents ---------------------------------------------------------------------------------- */

/* What it was asking is a no. */
static void agent_free(Agent *agent)
{
    ConsentBus *c = agent->bus;
    Asking *a, *next;

    LIST_REMOVE(agent, agents);
    c->n_agents--;
    for (a = LIST_FIRST(&c->askings); a; a = next) {
        next = LIST_NEXT(a, askings);
        if (a->agent == agent)
            finish(a, false, 0, "needs the consent of a person, and the agent that asked them has gone");
    }
    sd_bus_slot_unref(agent->gone);
    free(agent->name);
    free(agent->path);
    free(agent);
}

static Agent *find(const ConsentBus *c, const char *name)
{
    Agent *a;

    LIST_FOREACH (a, &c->agents, agents)
        if (streq(a->name, name))
            return a;
    return NULL;
}

static int on_gone(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *name, *old, *new;

    if (sd_bus_message_read(m, "sss", &name, &old, &new) >= 0 && !*new)
        agent_free(userdata);
    return 0;
}

static int watch(Agent *a)
{
    char match[400];

    snprintf(match, sizeof match,
             "type='signal',sender='org.freedesktop.DBus',interface='org.freedesktop.DBus',"
             "member='NameOwnerChanged',arg0='%s'",
             a->name);
    return sd_bus_add_match_async(a->bus->security_bus->bus, &a->gone, match, on_gone, NULL, a);
}

static int agent_new(ConsentBus *c, const char *name, const char *path, uint32_t uid)
{
    Agent *a = calloc(1, sizeof *a);
    int r = a ? 0 : -ENOMEM;

    if (r < 0)
        return r;
    a->bus = c;
    a->uid = uid;
    LIST_INSERT_HEAD(&c->agents, a, agents);
    c->n_agents++;
    a->name = strdup(name);
    a->path = strdup(path);
    r = a->name && a->path ? watch(a) : -ENOMEM;
    if (r < 0)
        agent_free(a);
    return r;
}

static int register_agent(Call *call, sd_bus_error *error)
{
    ConsentBus *c = call->bus->consent;
    const char *path, *name = sd_bus_message_get_sender(call->message);
    char note[300];
    int r = sd_bus_message_read(call->message, "o", &path);

    if (r < 0)
        return r;
    if (find(c, name))
        return hybus_error_set(error, -EEXIST, "This connection has registered an agent already");
    if (c->n_agents >= CONSENT_AGENTS_MAX)
        return hybus_error_set(error, -ENOBUFS, "There are %u agents already", CONSENT_AGENTS_MAX);
    r = agent_new(c, name, path, call->subject.uid);
    if (r < 0)
        return r;
    snprintf(note, sizeof note, "%s", name);
    security_note(call->bus->security, &call->subject, "RegisterConsentAgent", note);
    r = sd_bus_message_new_method_return(call->message, &call->reply);
    return r < 0 ? r : 1;
}

int consent_method_register(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return call_with_caller(m, userdata, register_agent, error);
}

int consent_method_unregister(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    SecurityBus *b = userdata;
    Agent *a = find(b->consent, sd_bus_message_get_sender(m));

    if (!a)
        return hybus_error_set(error, -ENOENT, "This connection has registered no agent");
    agent_free(a);
    return sd_bus_reply_method_return(m, "");
}

/* --- what has been answered ------------------------------------------------------------------- */

int consent_method_list(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
    SecurityBus *b = userdata;
    uint64_t now = security_boottime();
    const ConsentRemembered *all;
    size_t n = consent_list(b->security->consent, now, &all);
    int r = sd_bus_message_new_method_return(m, &reply);

    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'a', "(sssbst)");
    for (size_t i = 0; i < n && r >= 0; i++)
        r = sd_bus_message_append(reply, "(sssbst)", all[i].id, all[i].subject, all[i].call, (int)all[i].yes,
                                  all[i].why,
                                  all[i].until == CONSENT_ALWAYS ? CONSENT_ALWAYS
                                                                 : (all[i].until - now) / 1000000u);
    if (r >= 0)
        r = sd_bus_message_close_container(reply);
    return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int forget(Call *c, sd_bus_error *error)
{
    const char *id;
    int r = sd_bus_message_read(c->message, "s", &id);

    if (r >= 0)
        r = consent_forget(c->bus->security->consent, id);
    if (r == -ENOENT)
        return hybus_error_set(error, r, "There is no answer %.32s", id);
    if (r < 0)
        return r;
    security_note(c->bus->security, &c->subject, "ForgetConsent", id);
    r = sd_bus_message_new_method_return(c->message, &c->reply);
    return r < 0 ? r : 1;
}

int consent_method_forget(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return call_with_caller(m, userdata, forget, error);
}

/* --- the whole ------------------------------------------------------------------------------- */

int consent_bus_new(SecurityBus *b, ConsentBus **ret)
{
    ConsentBus *c = calloc(1, sizeof *c);

    if (!c)
        return -ENOMEM;
    c->security_bus = b;
    LIST_INIT(&c->agents);
    LIST_INIT(&c->askings);
    consent_set_asker(b->security->consent, &(ConsentAsker){.ask = ask, .cancel = cancel, .userdata = c});
    *ret = c;
    return 0;
}

void consent_bus_free(ConsentBus *c)
{
    if (!c)
        return;
    while (!LIST_EMPTY(&c->agents))
        agent_free(LIST_FIRST(&c->agents));
    consent_set_asker(c->security_bus->security->consent, NULL);
    free(c);
}
