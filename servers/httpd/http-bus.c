/* SPDX-License-Identifier: Apache-2.0 */
#include "http-bus.h"

#include <endpoint/claim.h>
#include <endpoint/server1.h>
#include <hybus/log.h>

#define OBJECT "/org/hybridos/Http1"
#define HTTP_INTERFACE "org.hybridos.Http1"

struct HttpBus {
    Http *http;
    hybus_object *own;
    endpoint_server1 *server;
    endpoint_claim *claim;
};

/* --- what every server tells --------------------------------------------------------------------
 */

static const char *principal_of(const HttpConnection *c)
{
    for (const HttpPeer *p = c->peers; p; p = p->next)
        if (p->checked && !p->dead && p->bearer)
            return endpoint_peer_principal(p->peer);
    return "anonymous";
}

static void each_client(void *server, endpoint_client_each each, void *to)
{
    const Http *h = server;

    for (const HttpConnection *c = h->connections; c; c = c->next) {
        endpoint_client client = {.id = c->id,
                                  .protocol = c->http2 ? "h2" : "http/1.1",
                                  .peer = c->peer_name,
                                  .principal = principal_of(c),
                                  .since_usec = c->since_usec,
                                  .requests = c->requests};
        each(&client, to);
    }
}

static int kick(void *server, uint64_t id)
{
    Http *h = server;
    HttpConnection *c = http_connection_find(h, id);

    if (!c || c->dying)
        return -ENOENT;
    http_connection_kill(c);
    h->counters.kicked++;
    return 0;
}

static void each_listener(void *server, endpoint_listener_each each, void *to)
{
    const Http *h = server;

    for (size_t i = 0; i < h->n_listeners; i++)
        each(h->listeners[i]->address, h->listeners[i]->port,
             h->listeners[i]->tls ? "tls" : "plain", to);
}

static void each_counter(void *server, endpoint_counter_each each, void *to)
{
    http_statistics(server, each, to);
}

static const endpoint_server_ops server_ops = {.clients = each_client,
                                               .kick = kick,
                                               .listeners = each_listener,
                                               .statistics = each_counter};

/* --- properties ----------------------------------------------------------------------------------
 */

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

static const sd_bus_vtable http_vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_PROPERTY("CertificateFingerprint", "s", get_fingerprint, 0,
                    SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
    SD_BUS_PROPERTY("Open", "b", get_open, 0, SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
    SD_BUS_PROPERTY("Draining", "b", get_draining, 0, 0),
    SD_BUS_VTABLE_END,
};

/* --- object --------------------------------------------------------------------------------------
 */

static void on_listeners_changed(Http *h, void *userdata)
{
    HttpBus *b = userdata;

    endpoint_server1_listeners_changed(b->server);
    hybus_object_changed(b->own, "Open", NULL);
}

void http_bus_certificate_changed(HttpBus *b)
{
    hybus_object_changed(b->own, "CertificateFingerprint", NULL);
}

static void on_claimed(bool claimed, void *userdata)
{
    http_set_claimed(userdata, claimed);
}

int http_bus_publish(Http *h, sd_bus *bus, HttpBus **ret)
{
    _cleanup_(http_bus_freep) HttpBus *b = calloc(1, sizeof(*b));
    int r;

    if (!b)
        return hybus_log_errno(LOG_ERR, -ENOMEM, "cannot publish the objects");
    b->http = h;
    r = endpoint_server1_publish(bus, OBJECT, &server_ops, h, &b->server);
    if (r >= 0)
        r = hybus_object_publish(bus, OBJECT, HTTP_INTERFACE, http_vtable, h, &b->own);
    if (r >= 0)
        r = endpoint_claim_follow(bus, h->agent, on_claimed, h, &b->claim);
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
    endpoint_claim_free(b->claim);
    endpoint_server1_free(b->server);
    hybus_object_free(b->own);
    free(b);
}
