/* SPDX-License-Identifier: Apache-2.0 */
#include "coap-bus.h"

#include "coap-node.h"

#include <hybus/error.h>
#include <hybus/log.h>

#define OBJECT "/org/hybridos/Coap1"
#define COAP_INTERFACE "org.hybridos.Coap1"

struct CoapdBus {
    Coapd *coapd;
    hybus_object *own;
    endpoint_server1 *server;
    endpoint_claim *claim;
};

/* --- what every server tells --------------------------------------------------------------------
 */

static void each_client(void *server, endpoint_client_each each, void *to)
{
    Coapd *d = server;

    list_for_each(n, &d->sessions)
    {
        const CoapdSession *s = list_entry(n, CoapdSession, node);
        const char *principal = s->peer ? endpoint_peer_principal(s->peer) : "";
        endpoint_client client = {.id = s->id,
                                  .protocol = s->road->protocol,
                                  .peer = s->peer_name,
                                  .principal = *principal ? principal : "anonymous",
                                  .since_usec = s->since_usec,
                                  .requests = s->requests};
        each(&client, to);
    }
}

static int kick(void *server, uint64_t id)
{
    Coapd *d = server;
    CoapdSession *s = coapd_session_find(d, id);

    if (!s)
        return -ENOENT;
    d->counters.kicked++;
    coapd_session_close(s);
    return 0;
}

static void each_listener(void *server, endpoint_listener_each each, void *to)
{
    const Coapd *d = server;

    for (size_t i = 0; i < d->n_listeners; i++)
        each(d->listeners[i].address, d->listeners[i].port, coapd_door_name(d->listeners[i].kind), to);
}

static void each_counter(void *server, endpoint_counter_each each, void *to)
{
    coapd_statistics(server, each, to);
}

static const endpoint_server_ops server_ops = {
    .clients = each_client, .kick = kick, .listeners = each_listener, .statistics = each_counter};

/* --- our own ------------------------------------------------------------------------------------
 */

static int get_open(sd_bus *bus, const char *path, const char *interface, const char *property,
                    sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
    return sd_bus_message_append(reply, "b", coapd_listen_is_open(userdata));
}

static int get_observers(sd_bus *bus, const char *path, const char *interface, const char *property,
                         sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
    const Coapd *d = userdata;

    return sd_bus_message_append(reply, "t", (uint64_t)d->n_observers);
}

static int append_node(sd_bus_message *reply, const directory_node *n, uint64_t now)
{
    const CoapdNode *node = n->userdata;

    return sd_bus_message_append(reply, "(ssssutb)", n->name, n->principal, node->base, n->type,
                                 (uint32_t)n->n_links,
                                 n->expires_usec > now ? (n->expires_usec - now) / 1000000u : 0,
                                 node->session && !coapd_upstream_asleep(node->session));
}

static int method_list_nodes(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
    Coapd *d = userdata;
    uint64_t now = timer_now();
    int r = sd_bus_message_new_method_return(m, &reply);

    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'a', "(ssssutb)");
    list_for_each(p, &d->directory.nodes)
    {
        if (r >= 0)
            r = append_node(reply, list_entry(p, directory_node, node), now);
    }
    if (r >= 0)
        r = sd_bus_message_close_container(reply);
    return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int method_remove_node(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *name;
    int r = sd_bus_message_read(m, "s", &name);

    if (r < 0)
        return r;
    r = coapd_rd_remove(userdata, name);
    if (r < 0)
        return hybus_error_set(error, r, "There is no such node.");
    return sd_bus_reply_method_return(m, NULL);
}

static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD_WITH_ARGS("ListNodes", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(ssssutb)", nodes),
                            method_list_nodes, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("RemoveNode", SD_BUS_ARGS("s", name), SD_BUS_NO_RESULT,
                            method_remove_node, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_PROPERTY("Open", "b", get_open, 0, SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
    SD_BUS_PROPERTY("Observers", "t", get_observers, 0, 0),
    SD_BUS_VTABLE_END,
};

static void on_listeners_changed(Coapd *d, void *userdata)
{
    CoapdBus *b = userdata;

    endpoint_server1_listeners_changed(b->server);
    hybus_object_changed(b->own, "Open", NULL);
}

static void on_claimed(bool claimed, void *userdata)
{
    coapd_set_claimed(userdata, claimed);
}

int coapd_bus_publish(Coapd *d, sd_bus *bus, CoapdBus **ret)
{
    _cleanup_(coapd_bus_freep) CoapdBus *b = calloc(1, sizeof(*b));
    int r;

    if (!b)
        return hybus_log_errno(LOG_ERR, -ENOMEM, "cannot publish the objects");
    b->coapd = d;
    r = endpoint_server1_publish(bus, OBJECT, &server_ops, d, &b->server);
    if (r >= 0)
        r = hybus_object_publish(bus, OBJECT, COAP_INTERFACE, vtable, d, &b->own);
    if (r >= 0)
        r = endpoint_claim_follow(bus, d->agent, on_claimed, d, &b->claim);
    if (r < 0)
        return r;
    d->listeners_changed = on_listeners_changed;
    d->listeners_userdata = b;
    *ret = TAKE_PTR(b);
    return 0;
}

void coapd_bus_free(CoapdBus *b)
{
    if (!b)
        return;
    if (b->coapd->listeners_userdata == b)
        b->coapd->listeners_changed = NULL;
    endpoint_claim_free(b->claim);
    endpoint_server1_free(b->server);
    hybus_object_free(b->own);
    free(b);
}
