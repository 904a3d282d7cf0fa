/* SPDX-License-Identifier: Apache-2.0 */
#include "http-bus.h"

#include <hybus/error.h>
#include <hybus/log.h>

#define OBJECT "/org/hybridos/Http1"
#define SERVER_INTERFACE "org.hybridos.Server1"
#define HTTP_INTERFACE "org.hybridos.Http1"
#define SECURITY "org.hybridos.Security1"
#define SECURITY_OBJECT "/org/hybridos/Security1"

/* --- methods ------------------------------------------------------------------------------------
 */

static const char *principal_of(const HttpConnection *c)
{
    for (const HttpPeer *p = c->peers; p; p = p->next)
        if (p->checked && !p->dead && p->bearer)
            return endpoint_peer_principal(p->peer);
    return "anonymous";
}

static int method_list_clients(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    Http *h = userdata;
    sd_bus_message *reply;
    int r;

    r = sd_bus_message_new_method_return(m, &reply);
    if (r < 0)
        return r;
    r = sd_bus_message_open_container(reply, 'a', "(tssstt)");
    for (HttpConnection *c = h->connections; c && r >= 0; c = c->next)
        r = sd_bus_message_append(reply, "(tssstt)", c->id, c->http2 ? "h2" : "http/1.1",
                                  c->peer_name, principal_of(c), c->since_usec, c->requests);
    if (r >= 0)
        r = sd_bus_message_close_container(reply);
    if (r >= 0)
        r = sd_bus_send(NULL, reply, NULL);
    sd_bus_message_unref(reply);
    return r;
}

static int method_kick(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    Http *h = userdata;
    HttpConnection *c;
    uint64_t id;
    int r;

    r = sd_bus_message_read(m, "t", &id);
    if (r < 0)
        return r;
    c = http_connection_find(h, id);
    if (!c || c->dying)
        return hybus_error_set(error, -ENOENT, "No client %llu.", (unsigned long long)id);
    http_connection_kill(c);
    h->counters.kicked++;
    return sd_bus_reply_method_return(m, NULL);
}

/* --- properties ----------------------------------------------------------------------------------
 */

static int get_listeners(sd_bus *bus, const char *path, const char *interface, const char *property,
                         sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
    Http *h = userdata;
    int r = sd_bus_message_open_container(reply, 'a', "(sqs)");

    for (size_t i = 0; i < h->n_listeners && r >= 0; i++) {
        const HttpListener *l = h->listeners[i];
        r = sd_bus_message_append(reply, "(sqs)", l->address, l->port, l->tls ? "tls" : "plain");
    }
    return r < 0 ? r : sd_bus_message_close_container(reply);
}

typedef struct appending {
    sd_bus_message *reply;
    int r;
} appending;

static void append_counter(const char *name, uint64_t value, void *userdata)
{
    appending *a = userdata;

    if (a->r >= 0)
        a->r = sd_bus_message_append(a->reply, "{st}", name, value);
}

static int get_statistics(sd_bus *bus, const char *path, const char *interface,
                          const char *property, sd_bus_message *reply, void *userdata,
                          sd_bus_error *error)
{
    appending a = {.reply = reply};

    a.r = sd_bus_message_open_container(reply, 'a', "{st}");
    http_statistics(userdata, append_counter, &a);
    return a.r < 0 ? a.r : sd_bus_message_close_container(reply);
}

static int get_fingerprint(sd_bus *bus, const char *path, const char *interface,
                           const char *property, sd_bus_message *reply, void *userdata,
                           sd_bus_error *error)
{
    Http *h = userdata;
    return sd_bus_message_append(reply, "s", h->fingerprint);
}

static int get_open(sd_bus *bus, const char *path, const char *interface, const char *property,
                    sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
    Http *h = userdata;
    return sd_bus_message_append(reply, "b", http_listen_is_open(h));
}

static int get_draining(sd_bus *bus, const char *path, const char *interface, const char *property,
                        sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
    Http *h = userdata;
    return sd_bus_message_append(reply, "b", h->draining);
}

/* --- tables
 * --------------------------------------------------------------------------------------- */

static const sd_bus_vtable server_vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD_WITH_ARGS("ListClients", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(tssstt)", clients),
                            method_list_clients, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Kick", SD_BUS_ARGS("t", id), SD_BUS_NO_RESULT, method_kick,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_PROPERTY("Listeners", "a(sqs)", get_listeners, 0,
                    SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
    SD_BUS_PROPERTY("Statistics", "a{st}", get_statistics, 0, 0),
    SD_BUS_VTABLE_END,
};

static const sd_bus_vtable http_vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_PROPERTY("CertificateFingerprint", "s", get_fingerprint, 0,
                    SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
    SD_BUS_PROPERTY("Open", "b", get_open, 0, SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
    SD_BUS_PROPERTY("Draining", "b", get_draining, 0, 0),
    SD_BUS_VTABLE_END,
};

/* --- claimed ------------------------------------------------------------------------------------
 */

static int on_claimed(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    int claimed = 0;

    /* No answer: stay as we are; the next sign of h-securityd asks again. */
    if (sd_bus_message_is_method_error(m, NULL) ||
        sd_bus_message_enter_container(m, 'v', "b") < 0 ||
        sd_bus_message_read(m, "b", &claimed) < 0)
        return 0;
    http_set_claimed(userdata, claimed);
    return 0;
}

static void ask_claimed(sd_bus *bus, Http *h)
{
    int r = sd_bus_call_method_async(bus, NULL, SECURITY, SECURITY_OBJECT,
                                     "org.freedesktop.DBus.Properties", "Get", on_claimed, h, "ss",
                                     SECURITY, "Claimed");
    if (r < 0)
        hybus_log_errno(LOG_WARNING, r, "cannot ask whether the device is claimed");
}

static int on_security_changed(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    ask_claimed(sd_bus_message_get_bus(m), userdata);
    return 0;
}

/* Whatever the policy has become, a claim may be part of it. Nothing of ours has to be cut for it. */
static void on_policy_changed(hybus_agent *agent, uint64_t generation, void *userdata)
{
    Http *h = userdata;

    hybus_agent_settled(agent, on_policy_changed, h, generation);
    ask_claimed(h->listeners_userdata, h);
}

static int follow_claimed(Http *h, sd_bus *bus)
{
    int r = h->agent ? hybus_agent_add_changed(h->agent, on_policy_changed, h) : 0;

    if (r < 0)
        return r;

    r = sd_bus_match_signal_async(bus, NULL, SECURITY, SECURITY_OBJECT,
                                  "org.freedesktop.DBus.Properties", "PropertiesChanged",
                                  on_security_changed, NULL, h);
    if (r >= 0)
        r = sd_bus_add_match_async(bus, NULL,
                                   "type='signal',sender='org.freedesktop.DBus',"
                                   "interface='org.freedesktop.DBus',member='NameOwnerChanged',"
                                   "arg0='" SECURITY "'",
                                   on_security_changed, NULL, h);
    if (r >= 0)
        ask_claimed(bus, h);
    return r;
}

/* --- object --------------------------------------------------------------------------------------
 */

static void on_listeners_changed(Http *h, void *userdata)
{
    (void)sd_bus_emit_properties_changed(userdata, OBJECT, SERVER_INTERFACE, "Listeners", NULL);
    (void)sd_bus_emit_properties_changed(userdata, OBJECT, HTTP_INTERFACE, "Open", NULL);
}

void http_bus_certificate_changed(sd_bus *bus)
{
    (void)sd_bus_emit_properties_changed(bus, OBJECT, HTTP_INTERFACE, "CertificateFingerprint",
                                         NULL);
}

int http_bus_publish(Http *h, sd_bus *bus)
{
    int r;

    r = sd_bus_add_object_vtable(bus, NULL, OBJECT, SERVER_INTERFACE, server_vtable, h);
    if (r >= 0)
        r = sd_bus_add_object_vtable(bus, NULL, OBJECT, HTTP_INTERFACE, http_vtable, h);
    if (r < 0)
        return r;
    h->listeners_changed = on_listeners_changed;
    h->listeners_userdata = bus;
    return follow_claimed(h, bus);
}
