/* SPDX-License-Identifier: Apache-2.0 */
#include "coap-connection.h"

static size_t count_of(const Coapd *d, const unsigned char key[16])
{
    size_t n = 0;

    list_for_each(l, &d->connections)
    {
        n += memcmp(((const CoapdConnection *)l)->key, key, 16) == 0;
    }
    return n;
}

#define BUCKETS 1024u

static size_t bucket_of(const unsigned char key[16])
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < 16; i++)
        h = (h ^ key[i]) * 16777619u;
    return h % BUCKETS;
}

static bool may_go(const CoapdConnection *c, bool handshaking)
{
    return !c->session->counted && !c->session->closed && (!handshaking || c->handshaking);
}

/* Whom a newcomer may push out: the oldest that has not authenticated itself, of the address that
 * holds most of them (two addresses of one bucket count as one). */
static CoapdConnection *find_victim(const Coapd *d, bool handshaking)
{
    uint16_t counts[BUCKETS] = {};
    CoapdConnection *victim = NULL;
    size_t most = 0;

    list_for_each(l, &d->connections) counts[bucket_of(((CoapdConnection *)l)->key)]++;
    list_for_each(l, &d->connections)
    {
        CoapdConnection *c = (CoapdConnection *)l;
        size_t n = counts[bucket_of(c->key)];

        if (n > most && may_go(c, handshaking)) {
            victim = c;
            most = n;
        }
    }
    return victim;
}

static bool push_out(Coapd *d, bool handshaking)
{
    CoapdConnection *victim = find_victim(d, handshaking);

    if (!victim)
        return false;
    d->counters.connections_evicted++;
    coapd_session_close(victim->session);
    return true;
}

bool coapd_connection_admit(Coapd *d, const endpoint_address *remote)
{
    const coapd_settings *s = d->settings;
    unsigned char key[16];

    endpoint_address_key(&remote->sa, key);
    if (d->draining || count_of(d, key) >= s->connections_address)
        return false;
    while (d->n_connections >= s->connections ||
           d->n_connections - d->n_authenticated >= s->connections - s->connections_reserved)
        if (!push_out(d, false))
            return false;
    while (d->n_handshakes >= s->handshakes)
        if (!push_out(d, true))
            return false;
    return true;
}

int coapd_connection_begin(CoapdConnection *c, Coapd *d, const coapd_road *road,
                           const endpoint_address *remote, const endpoint_address *local)
{
    c->coapd = d;
    c->session = coapd_session_new(d, road, c, remote, local);
    if (!c->session)
        return -ENOMEM;
    endpoint_address_key(&remote->sa, c->key);
    c->handshaking = true;
    list_append(&d->connections, &c->node);
    d->n_connections++;
    d->n_handshakes++;
    d->counters.connections++;
    return 0;
}

void coapd_connection_established(CoapdConnection *c)
{
    if (!c->handshaking)
        return;
    c->handshaking = false;
    c->coapd->n_handshakes--;
}

void coapd_connection_done(CoapdConnection *c)
{
    Coapd *d = c->coapd;

    if (c->handshaking) {
        d->n_handshakes--;
        d->counters.handshakes_failed++;
    }
    if (c->session->counted)
        d->n_authenticated--;
    c->session->counted = false;
    c->session->below = NULL;
    d->n_connections--;
    list_remove(&c->node);
    SSL_free(c->ssl);
}

/* Closing one may close no other, but takes it out of the list. */
void coapd_connections_recheck(Coapd *d)
{
    for (list *l = d->connections.next, *next; l != &d->connections; l = next) {
        CoapdConnection *c = (CoapdConnection *)l;

        next = l->next;
        if (c->known.name[0] && !coapd_nodes_has(d, c->known.name, c->known.key_id))
            coapd_session_close(c->session);
    }
}
