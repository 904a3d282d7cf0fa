/* SPDX-License-Identifier: Apache-2.0 */
/* One remote address and port, and whom it stands for. The library bounds sessions that are idle
 * and forgets the oldest; those in use are held, and bounded by what they do. */

#include "coap-connection.h"
#include "coap-node.h"

#include <openssl/rand.h>
#include <time.h>

#define OVERHEAD 128u /* bytes of a message that are not payload: header, token, options */

uint32_t coapd_address_hash(const struct sockaddr *sa)
{
    const endpoint_address *a = (const endpoint_address *)sa;
    unsigned char key[18] = {};
    uint32_t h = 2166136261u;

    if (sa->sa_family == AF_INET) {
        key[10] = key[11] = 0xff; /* as it looks on an IPv6 socket */
        memcpy(key + 12, &a->in.sin_addr, 4);
    } else {
        memcpy(key, &a->in6.sin6_addr, 16);
    }
    memcpy(key + 16, sa->sa_family == AF_INET ? &a->in.sin_port : &a->in6.sin6_port, 2);
    for (size_t i = 0; i < sizeof(key); i++)
        h = (h ^ key[i]) * 16777619u;
    return h % COAPD_SESSION_BUCKETS;
}

/* --- the library's road -------------------------------------------------------------------------
 */

static coap_mid_t library_send(CoapdSession *s, coap_pdu_t *p)
{
    return coap_send(s->session, p);
}

static const coapd_road library_road = {.protocol = "coap", .send = library_send};

coap_mid_t coapd_session_send(CoapdSession *s, coap_pdu_t *p)
{
    if (!s->closed)
        return s->road->send(s, p);
    coap_delete_pdu(p);
    return COAP_INVALID_MID;
}

coap_mid_t coapd_session_mid(CoapdSession *s)
{
    return s->session ? coap_new_message_id(s->session) : ++s->next_mid;
}

size_t coapd_session_message_max(const CoapdSession *s)
{
    return s->session ? coap_session_max_pdu_size(s->session) : s->message_max;
}

bool coapd_session_is_full(const CoapdSession *s)
{
    return s->road->full && s->road->full(s);
}

/* --- sessions -----------------------------------------------------------------------------------
 */

void coapd_session_each_of(Coapd *d, const struct sockaddr *remote,
                           void (*f)(CoapdSession *s, void *userdata), void *userdata)
{
    for (CoapdSession *s = d->buckets[coapd_address_hash(remote)], *next; s; s = next) {
        next = s->next;
        if (endpoint_address_equal(&s->remote, (const endpoint_address *)remote))
            f(s, userdata);
    }
}

static void link_session(Coapd *d, CoapdSession *s)
{
    CoapdSession **bucket = &d->buckets[coapd_address_hash(&s->remote.sa)];

    s->next = *bucket;
    *bucket = s;
    list_append(&d->sessions, &s->node);
    d->n_sessions++;
    d->counters.sessions++;
}

static uint64_t wall_clock(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static CoapdSession *session_new(Coapd *d, const coapd_road *road, const endpoint_address *remote,
                                 const endpoint_address *local)
{
    CoapdSession *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->coapd = d;
    s->road = road;
    s->remote = *remote;
    s->port = endpoint_address_port(local);
    s->id = ++d->next_id;
    s->since_usec = wall_clock();
    s->reliable = road->reliable;
    list_init(&s->exchanges);
    list_init(&s->observers);
    list_init(&s->records);
    list_init(&s->nodes);
    list_init(&s->upstream);
    endpoint_address_format(&remote->sa, s->peer_name);
    endpoint_address_format_host(&local->sa, s->local_name);
    link_session(d, s);
    return s;
}

static endpoint_address address_of(const coap_address_t *a)
{
    endpoint_address out = {};

    memcpy(&out, &a->addr, MIN_OF((size_t)a->size, sizeof(out)));
    return out;
}

CoapdSession *coapd_session_get(Coapd *d, coap_session_t *session)
{
    CoapdSession *s = coap_session_get_app_data(session);
    endpoint_address remote, local;

    if (s)
        return s;
    remote = address_of(coap_session_get_addr_remote(session));
    local = address_of(coap_session_get_addr_local(session));
    s = session_new(d, &library_road, &remote, &local);
    if (!s)
        return NULL;
    s->session = session;
    coapd_echo_begin(s);
    coap_session_set_app_data(session, s);
    return s;
}

CoapdSession *coapd_session_new(Coapd *d, const coapd_road *road, void *below,
                                const endpoint_address *remote, const endpoint_address *local)
{
    CoapdSession *s = session_new(d, road, remote, local);
    uint16_t mid = 0;

    if (!s)
        return NULL;
    s->below = below;
    s->verified = s->proven = true; /* it has answered a cookie, or TCP's own */
    s->message_max = COAPD_DATAGRAM_MAX;
    (void)RAND_bytes((unsigned char *)&mid, sizeof(mid));
    s->next_mid = mid;
    return s;
}

static void dispose(CoapdSession *s)
{
    Coapd *d = s->coapd;
    CoapdSession **at = &d->buckets[coapd_address_hash(&s->remote.sa)];

    for (; *at != s; at = &(*at)->next)
        ;
    *at = s->next;
    list_remove(&s->node);
    d->n_sessions--;
    free(s);
}

void coapd_session_hold(CoapdSession *s)
{
    if (s->holds++ == 0 && s->session)
        coap_session_reference(s->session);
}

void coapd_session_release(CoapdSession *s)
{
    if (--s->holds > 0)
        return;
    if (s->session)
        coap_session_release(s->session);
    else if (s->closed)
        dispose(s);
}

void coapd_session_end(CoapdSession *s)
{
    coapd_session_hold(s);
    coapd_rd_session_over(s);
    coapd_upstream_session_over(s);
    while (!list_empty(&s->observers))
        coapd_observer_free((CoapdObserver *)s->observers.next);
    while (!list_empty(&s->exchanges))
        coapd_exchange_free(list_entry(s->exchanges.next, CoapdExchange, node));
    coapd_records_free(s);
    s->checked = false;
    if (s->peer)
        endpoint_peer_free(TAKE_PTR(s->peer));
    coapd_session_release(s);
}

void coapd_session_forget(CoapdSession *s)
{
    coapd_session_end(s);
    coap_session_set_app_data(s->session, NULL);
    dispose(s);
}

void coapd_session_close(CoapdSession *s)
{
    if (s->session) {
        coapd_session_end(s);
        coap_session_disconnected(s->session, COAP_NACK_NOT_DELIVERABLE);
        return;
    }
    coapd_session_hold(s);
    coapd_session_end(s);
    if (!s->closed) {
        s->closed = true;
        s->road->close(s);
    }
    coapd_session_release(s);
}

CoapdSession *coapd_session_find(Coapd *d, uint64_t id)
{
    list_for_each(n, &d->sessions)
    {
        CoapdSession *s = list_entry(n, CoapdSession, node);
        if (s->id == id)
            return s;
    }
    return NULL;
}

size_t coapd_session_payload_room(const CoapdSession *s)
{
    size_t most = coapd_session_message_max(s);

    return most > OVERHEAD ? most - OVERHEAD : 0;
}

bool coapd_session_is_idle(const CoapdSession *s)
{
    return s->n_exchanges == 0 && s->n_observers == 0 && list_empty(&s->nodes) &&
           list_empty(&s->upstream);
}

/* --- the principal ------------------------------------------------------------------------------
 */

/* Who waits for the check has been refused by the core; the next request is a new attempt. */
static void on_checked(endpoint_peer *peer, int error, uint64_t retry_usec, void *userdata)
{
    CoapdSession *s = userdata;

    s->checked = error >= 0;
    s->dead = error < 0; /* its peer cannot go from within its own check */
    if (error == 0 && !s->session && !s->closed && !s->counted && !endpoint_peer_anonymous(peer)) {
        s->counted = true;
        s->coapd->n_authenticated++;
    }
}

static void on_revoked(endpoint_peer *peer, void *userdata)
{
    CoapdSession *s = userdata;

    s->dead = true;
    coapd_session_end(s);
}

static void on_stranger_checked(endpoint_peer *peer, int error, uint64_t retry_usec, void *userdata)
{
    /* Until then, and when it fails, each is asked about by itself. */
}

/* What h-securityd says of an anonymous client does not depend on where it is: a flood of them is
 * no flood of questions. */
void coapd_strangers_check(Coapd *d)
{
    static const endpoint_peer_ops ops = {.checked = on_stranger_checked};
    const hybus_connection connection = {.protocol = "coap"};

    endpoint_peer_free(TAKE_PTR(d->stranger));
    (void)endpoint_peer_new(d->core, &connection, &ops, d, &d->stranger);
}

coap_pdu_code_t coapd_session_admit(CoapdSession *s)
{
    static const endpoint_peer_ops ops = {.checked = on_checked, .revoked = on_revoked};
    const CoapdConnection *c = coapd_connection_of(s);
    hybus_connection connection = {
        .protocol = "coap", .peer = s->peer_name, .local = s->local_name};

    if (c && c->tls[0]) {
        connection.tls = c->tls;
        connection.cert_sha256 = c->certificate[0] ? c->certificate : NULL;
        connection.node = c->known.name[0] ? c->known.name : NULL;
        connection.node_key = c->known.name[0] ? c->known.key_id : NULL;
    }

    if (s->dead) {
        coapd_session_end(s);
        s->dead = false;
    }
    if (s->peer)
        return 0;
    if (s->session && s->coapd->stranger &&
        endpoint_peer_new_like(s->coapd->stranger, &connection, &ops, s, &s->peer) >= 0) {
        s->checked = true;
        return 0;
    }
    if (endpoint_peer_new(s->coapd->core, &connection, &ops, s, &s->peer) < 0)
        return COAP_RESPONSE_CODE(503);
    return 0;
}
