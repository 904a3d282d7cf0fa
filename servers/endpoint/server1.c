/* SPDX-License-Identifier: Apache-2.0 */
#include "server1.h"

#include <hybus/error.h>

#define INTERFACE "org.hybridos.Server1"

struct endpoint_server1 {
    const endpoint_server_ops *ops;
    void *server;
    hybus_object *object;
};

typedef struct appending {
    sd_bus_message *reply;
    int r;
} appending;

/* --- methods ------------------------------------------------------------------------------------
 */

static void append_client(const endpoint_client *c, void *to)
{
    appending *a = to;

    if (a->r >= 0)
        a->r = sd_bus_message_append(a->reply, "(tssstt)", c->id, c->protocol, c->peer,
                                     c->principal, c->since_usec, c->requests);
}

static int method_list_clients(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    endpoint_server1 *s = userdata;
    appending a = {};

    a.r = sd_bus_message_new_method_return(m, &a.reply);
    if (a.r < 0)
        return a.r;
    a.r = sd_bus_message_open_container(a.reply, 'a', "(tssstt)");
    s->ops->clients(s->server, append_client, &a);
    if (a.r >= 0)
        a.r = sd_bus_message_close_container(a.reply);
    if (a.r >= 0)
        a.r = sd_bus_send(NULL, a.reply, NULL);
    sd_bus_message_unref(a.reply);
    return a.r;
}

static int method_kick(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    endpoint_server1 *s = userdata;
    uint64_t id;
    int r;

    r = sd_bus_message_read(m, "t", &id);
    if (r < 0)
        return r;
    r = s->ops->kick(s->server, id);
    if (r < 0)
        return hybus_error_set(error, r, "No client %llu.", (unsigned long long)id);
    return sd_bus_reply_method_return(m, NULL);
}

/* --- properties ----------------------------------------------------------------------------------
 */

static void append_listener(const char *address, uint16_t port, const char *kind, void *to)
{
    appending *a = to;

    if (a->r >= 0)
        a->r = sd_bus_message_append(a->reply, "(sqs)", address, port, kind);
}

static int get_listeners(sd_bus *bus, const char *path, const char *interface, const char *property,
                         sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
    endpoint_server1 *s = userdata;
    appending a = {.reply = reply};

    a.r = sd_bus_message_open_container(reply, 'a', "(sqs)");
    s->ops->listeners(s->server, append_listener, &a);
    return a.r < 0 ? a.r : sd_bus_message_close_container(reply);
}

static void append_counter(const char *name, uint64_t value, void *to)
{
    appending *a = to;

    if (a->r >= 0)
        a->r = sd_bus_message_append(a->reply, "{st}", name, value);
}

static int get_statistics(sd_bus *bus, const char *path, const char *interface,
                          const char *property, sd_bus_message *reply, void *userdata,
                          sd_bus_error *error)
{
    endpoint_server1 *s = userdata;
    appending a = {.reply = reply};

    a.r = sd_bus_message_open_container(reply, 'a', "{st}");
    s->ops->statistics(s->server, append_counter, &a);
    return a.r < 0 ? a.r : sd_bus_message_close_container(reply);
}

/* --- object --------------------------------------------------------------------------------------
 */

static const sd_bus_vtable vtable[] = {
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

int endpoint_server1_publish(sd_bus *bus, const char *object, const endpoint_server_ops *ops,
                             void *server, endpoint_server1 **ret)
{
    _cleanup_(endpoint_server1_freep) endpoint_server1 *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->ops = ops;
    s->server = server;
    r = hybus_object_publish(bus, object, INTERFACE, vtable, s, &s->object);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(s);
    return 0;
}

void endpoint_server1_free(endpoint_server1 *s)
{
    if (!s)
        return;
    hybus_object_free(s->object);
    free(s);
}

void endpoint_server1_listeners_changed(endpoint_server1 *s)
{
    hybus_object_changed(s->object, "Listeners", NULL);
}

void endpoint_statistics_each(const endpoint_core *core, endpoint_counter_each each, void *to)
{
    endpoint_statistics e = {};

    if (core)
        endpoint_core_statistics(core, &e);
    const struct {
        const char *name;
        uint64_t value;
    } table[] = {
        {"endpoint_requests_total", e.requests},
        {"endpoint_refused_total", e.refused},
        {"endpoint_unauthenticated_total", e.unauthenticated},
        {"endpoint_not_found_total", e.not_found},
        {"endpoint_responder_gone_total", e.responder_gone},
        {"endpoint_timeouts_total", e.timeouts},
        {"endpoint_overloaded_total", e.overloaded},
        {"endpoint_cancelled_total", e.cancelled},
        {"endpoint_notifies_total", e.notifies},
        {"endpoint_notifies_dropped_total", e.notifies_dropped},
        {"endpoint_open_requests", e.open_requests},
        {"endpoint_peers", e.peers},
        {"endpoint_watches", e.watches},
        {"endpoint_values", e.values},
        {"endpoint_responders", e.responders},
        {"endpoint_namespaces", e.namespaces},
    };

    for (size_t i = 0; i < ELEMENTS(table); i++)
        each(table[i].name, table[i].value, to);
}
