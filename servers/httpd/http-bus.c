/* SPDX-License-Identifier: Apache-2.0 */
#include "http-bus.h"

#include <hybus/call.h>
#include <hybus/error.h>
#include <hybus/log.h>
#include <hybus/object.h>

#define OBJECT "/org/hybridos/Http1"
#define SERVER_INTERFACE "org.hybridos.Server1"
#define HTTP_INTERFACE "org.hybridos.Http1"
#define SECURITY "org.hybridos.Security1"
#define SECURITY_OBJECT "/org/hybridos/Security1"
#define PROPERTIES "org.freedesktop.DBus.Properties"

struct HttpBus {
    Http *http;
    sd_bus *bus;
    hybus_object *server, *own;
    sd_bus_slot *security_changed, *security_came, *asking;
    bool ask_again; /* something moved while the question was on its way */
};

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

static void ask_claimed(HttpBus *b);

static void on_claimed(sd_bus_message *m, int error, void *userdata)
{
    HttpBus *b = userdata;
    int claimed = 0;

    b->asking = sd_bus_slot_unref(b->asking);
    /* No answer: stay as we are; the next sign of h-securityd asks again. */
    if (error == 0 && sd_bus_message_read(m, "v", "b", &claimed) > 0)
        http_set_claimed(b->http, claimed);
    if (b->ask_again)
        ask_claimed(b);
}

/* One question at a time, however often h-securityd says that something has changed. */
static void ask_claimed(HttpBus *b)
{
    int r;

    b->ask_again = b->asking;
    if (b->asking)
        return;
    r = hybus_call_method(b->bus, SECURITY, SECURITY_OBJECT, PROPERTIES, "Get", on_claimed, b,
                          &b->asking, "ss", SECURITY, "Claimed");
    if (r < 0)
        hybus_log_errno(LOG_WARNING, r, "cannot ask whether the device is claimed");
}

static int on_security_changed(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    ask_claimed(userdata);
    return 0;
}

/* Whatever the policy has become, a claim may be part of it. Nothing of ours has to be cut for it. */
static void on_policy_changed(hybus_agent *agent, uint64_t generation, void *userdata)
{
    hybus_agent_settled(agent, on_policy_changed, userdata, generation);
    ask_claimed(userdata);
}

static int follow_claimed(HttpBus *b)
{
    hybus_agent *agent = b->http->agent;
    int r = agent ? hybus_agent_add_changed(agent, on_policy_changed, b) : 0;

    if (r >= 0)
        r = sd_bus_match_signal_async(b->bus, &b->security_changed, SECURITY, SECURITY_OBJECT,
                                      PROPERTIES, "PropertiesChanged", on_security_changed, NULL,
                                      b);
    if (r >= 0)
        r = sd_bus_add_match_async(b->bus, &b->security_came,
                                   "type='signal',sender='org.freedesktop.DBus',"
                                   "interface='org.freedesktop.DBus',member='NameOwnerChanged',"
                                   "arg0='" SECURITY "'",
                                   on_security_changed, NULL, b);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "cannot follow whether the device is claimed");
    ask_claimed(b);
    return 0;
}

/* --- object --------------------------------------------------------------------------------------
 */

static void on_listeners_changed(Http *h, void *userdata)
{
    HttpBus *b = userdata;

    hybus_object_changed(b->server, "Listeners", NULL);
    hybus_object_changed(b->own, "Open", NULL);
}

void http_bus_certificate_changed(HttpBus *b)
{
    hybus_object_changed(b->own, "CertificateFingerprint", NULL);
}

int http_bus_publish(Http *h, sd_bus *bus, HttpBus **ret)
{
    _cleanup_(http_bus_freep) HttpBus *b = calloc(1, sizeof(*b));
    int r;

    if (!b)
        return hybus_log_errno(LOG_ERR, -ENOMEM, "cannot publish the objects");
    b->http = h;
    b->bus = sd_bus_ref(bus);
    r = hybus_object_publish(bus, OBJECT, SERVER_INTERFACE, server_vtable, h, &b->server);
    if (r >= 0)
        r = hybus_object_publish(bus, OBJECT, HTTP_INTERFACE, http_vtable, h, &b->own);
    if (r >= 0)
        r = follow_claimed(b);
    if (r < 0)
        return r;
    h->listeners_changed = on_listeners_changed;
    h->listeners_userdata = b;
    *ret = TAKE_PTR(b);
    return 0;
}

void http_bus_free(HttpBus *b)
{
    if (!b)
        return;
    if (b->http->listeners_userdata == b)
        b->http->listeners_changed = NULL;
    if (b->http->agent)
        hybus_agent_remove_changed(b->http->agent, on_policy_changed, b);
    sd_bus_slot_unref(b->asking);
    sd_bus_slot_unref(b->security_changed);
    sd_bus_slot_unref(b->security_came);
    hybus_object_free(b->server);
    hybus_object_free(b->own);
    sd_bus_unref(b->bus);
    free(b);
}
