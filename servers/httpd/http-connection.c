/* SPDX-License-Identifier: Apache-2.0 */
/* Connections and the limits on them: how many in all, how many of one address, slots kept for
 * authenticated peers, the budget of requests that end before their answer, and the sweep that
 * finds clients which do not move. Its cuts are by shutdown(2): the library sees the end of the
 * stream and cleans up by its own ways. */

#include "http.h"

#include <h2o/http2.h>
#include <h2o/http2_internal.h>
#include <poll.h>
#include <sys/socket.h>

#define ADDRESSES_MAX 1024u
#define BODIES_MAX (64u * 1024u * 1024u) /* bytes of unfinished requests in all connections */
#define BODIES_SWEEP_USEC (50u * 1000u)

/* --- addresses ------------------------------------------------------------------------------- */

/* An address is remembered for a second after its last connection, so that the rate of its requests
 * is not forgotten by reconnecting. Others go as soon as somebody looks for one. */
static void forget_addresses(Http *h)
{
    uint64_t now = http_now();
    HttpAddress **p = &h->addresses;

    while (*p) {
        HttpAddress *a = *p;

        if (a->connections > 0 ||
            (now - a->refilled_usec < 1000000u && h->n_addresses < ADDRESSES_MAX)) {
            p = &a->next;
            continue;
        }
        *p = a->next;
        h->n_addresses--;
        free(a);
    }
}

static HttpAddress *address_get(Http *h, const struct sockaddr *sa)
{
    unsigned char key[16];
    HttpAddress *a;

    forget_addresses(h);
    endpoint_address_key(sa, key);
    for (a = h->addresses; a; a = a->next)
        if (memcmp(a->key, key, sizeof(key)) == 0)
            return a;
    a = calloc(1, sizeof(*a));
    if (!a)
        return NULL;
    memcpy(a->key, key, sizeof(key));
    a->refilled_usec = http_now();
    a->tokens = h->settings->rate_address * 1000000u;
    a->next = h->addresses;
    h->addresses = a;
    h->n_addresses++;
    return a;
}

/* One second's worth of requests may be saved up. */
static uint64_t address_take(Http *h, HttpAddress *a)
{
    uint64_t rate = h->settings->rate_address, now = http_now(), full = rate * 1000000u;
    uint64_t gained;

    if (rate == 0)
        return 0;
    gained = MIN_OF(now - a->refilled_usec, (uint64_t)1000000u) * rate;
    a->tokens = MIN_OF(a->tokens + gained, full);
    a->refilled_usec = now;
    if (a->tokens < 1000000u)
        return (1000000u - a->tokens) / rate + 1;
    a->tokens -= 1000000u;
    return 0;
}

/* --- connections ------------------------------------------------------------------------------ */

void http_connection_leave(HttpConnection *c)
{
    if (!c->dying && c->socket)
        c->linger_fd = fcntl(h2o_socket_get_fd(c->socket), F_DUPFD_CLOEXEC, 3);
}

static void connection_closed(void *data)
{
    HttpConnection *c = data;
    Http *h = c->http;
    HttpConnection **p;

    c->socket = NULL;
    for (p = &h->dying; *p; p = &(*p)->dying_next)
        if (*p == c) {
            *p = c->dying_next;
            break;
        }
    http_peers_free(c);
    *c->prev = c->next;
    if (c->next)
        c->next->prev = c->prev;
    h->n_connections--;
    if (c->authenticated)
        h->n_authenticated--;
    c->address->connections--;
    if (c->linger_fd >= 0 && !c->dying)
        http_linger(h, TAKE_FD(c->linger_fd));
    safe_close(c->linger_fd);
    free(c);
}

/* Whom a newcomer may push out: the oldest connection that has not authenticated itself, of the
 * address that holds most of them. */
static HttpConnection *find_victim(Http *h)
{
    HttpConnection *victim = NULL;

    for (HttpConnection *c = h->connections; c; c = c->next) {
        if (c->authenticated || c->dying)
            continue;
        if (!victim || c->address->connections >= victim->address->connections)
            victim = c;
    }
    return victim;
}

/* Some slots are kept for those who authenticate themselves, so that a flood does not lock the
 * owner out. Everybody is a stranger at first: a newcomer takes a stranger's place. */
static bool make_room(Http *h, HttpAddress *a)
{
    const http_settings *s = h->settings;
    size_t strangers = h->n_connections - h->n_authenticated;
    HttpConnection *victim;

    if (a->connections >= s->connections_address)
        return false;
    if (h->n_connections < s->connections && strangers < s->connections - s->connections_reserved)
        return true;
    victim = find_victim(h);
    if (!victim)
        return false;
    h->counters.evicted++;
    http_connection_kill(victim);
    /* The dying are gone at the end of this turn: never far above the limit. */
    return h->n_connections < s->connections + s->connections_reserved;
}

static HttpConnection *connection_alloc(Http *h, h2o_socket_t *socket, const struct sockaddr *peer)
{
    HttpAddress *a = address_get(h, peer);
    HttpConnection *c;

    if (!a)
        return NULL;
    if (!make_room(h, a) || !(c = calloc(1, sizeof(*c))))
        return NULL;
    a->connections++;
    c->address = a;
    c->http = h;
    c->socket = socket;
    c->linger_fd = -1;
    return c;
}

bool http_connection_new(Http *h, h2o_socket_t *socket, bool tls)
{
    struct sockaddr_storage peer = {}, local = {};
    struct timespec now;
    HttpConnection *c = NULL;

    if (h2o_socket_getpeername(socket, (struct sockaddr *)&peer) != 0)
        c = connection_alloc(h, socket, (struct sockaddr *)&peer);
    if (!c) {
        h->counters.refused_connections++;
        h2o_socket_close(socket);
        return false;
    }
    h2o_socket_getsockname(socket, (struct sockaddr *)&local);
    endpoint_address_format((struct sockaddr *)&peer, c->peer_name);
    endpoint_address_format_host((struct sockaddr *)&local, c->local_name);
    clock_gettime(CLOCK_REALTIME, &now);
    c->since_usec = (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
    c->active_usec = http_now();
    c->id = ++h->next_id;
    c->tls = tls;
    c->next = h->connections;
    if (c->next)
        c->next->prev = &c->next;
    c->prev = &h->connections;
    h->connections = c;
    h->n_connections++;
    h->counters.connections++;
    socket->on_close.cb = connection_closed;
    socket->on_close.data = c;
    return true;
}

HttpConnection *http_socket_connection(const h2o_socket_t *socket)
{
    return socket->on_close.cb == connection_closed ? socket->on_close.data : NULL;
}

HttpConnection *http_connection_of(h2o_req_t *req)
{
    return http_socket_connection(req->conn->callbacks->get_socket(req->conn));
}

HttpConnection *http_connection_find(Http *h, uint64_t id)
{
    for (HttpConnection *c = h->connections; c; c = c->next)
        if (c->id == id)
            return c;
    return NULL;
}

void http_connection_kill(HttpConnection *c)
{
    if (c->dying)
        return;
    c->dying = true;
    c->dying_next = c->http->dying;
    c->http->dying = c;
    if (c->socket)
        shutdown(h2o_socket_get_fd(c->socket), SHUT_RDWR);
}

/* HTTP/1 does not read while it waits for an answer, so it notices the shutdown only when its
 * exchange writes. An exchange may take its connection along as it ends. */
void http_connections_bury(Http *h)
{
    HttpConnection *c;

    while ((c = h->dying)) {
        h->dying = c->dying_next;
        c->dying_next = NULL;
        if (!c->http2 && c->exchanges)
            http_exchange_cut(c->exchanges);
    }
}

/* --- requests --------------------------------------------------------------------------------- */

/* A peer that opens requests only to drop them makes us work for nothing (CVE-2023-44487 by its own
 * resets, CVE-2025-8671 by provoking ours). An honest one drops a few of the many it lets finish.
 */
static bool over_budget(const HttpConnection *c)
{
    return c->resets > c->http->settings->resets && c->resets > c->requests / 2;
}

void http_connection_reset(HttpConnection *c)
{
    c->resets++;
    c->http->counters.resets++;
    if (!c->dying && over_budget(c))
        http_connection_kill(c);
}

unsigned http_connection_admit(HttpConnection *c, uint64_t *ret_retry_usec)
{
    Http *h = c->http;
    uint64_t wait;

    *ret_retry_usec = 1000000u;
    if (h->draining)
        return 503;
    if (c->address->requests > h->settings->requests_address)
        return 429;
    wait = address_take(h, c->address);
    if (wait > 0) {
        *ret_retry_usec = wait;
        return 429;
    }
    return 0;
}

/* --- the sweep ---------------------------------------------------------------------------------
 */

static int add_body(h2o_req_t *req, void *userdata)
{
    h2o_http2_stream_t *stream = H2O_STRUCT_FROM_MEMBER(h2o_http2_stream_t, req, req);
    HttpConnection *c = http_connection_of(req);

    if (c && stream->_req_body)
        c->collected += stream->_req_body->capacity;
    return 0;
}

static HttpConnection *find_collector(Http *h, size_t *ret_total)
{
    HttpConnection *worst = NULL;
    size_t total = 0;

    for (HttpConnection *c = h->connections; c; c = c->next) {
        if (c->dying)
            continue;
        total += c->collected;
        if (!worst || c->collected > worst->collected)
            worst = c;
    }
    *ret_total = total;
    return worst;
}

/* The library collects whole bodies before it tells us: of HTTP/1 in the socket's buffer, of HTTP/2
 * in up to 100 streams of each connection. */
static void sweep_bodies(Http *h)
{
    HttpConnection *worst;
    size_t total;

    for (HttpConnection *c = h->connections; c; c = c->next)
        c->collected = c->socket ? c->socket->input->capacity : 0;
    H2O_HTTP2_CALLBACKS.foreach_request(&h->context, add_body, NULL);
    while ((worst = find_collector(h, &total)) && total > BODIES_MAX) {
        h->counters.greedy++;
        http_connection_kill(worst);
    }
}

/* The library does not read HTTP/1 while it waits for an answer, so it does not see the end.
 * Somebody who closes only his half, and waits longer than a second, is taken for gone, as proxies
 * do. */
static bool is_gone(const HttpConnection *c)
{
    struct pollfd p = {.events = POLLRDHUP};

    if (c->http2 || !c->exchanges || c->exchanges->state == HTTP_DONE || !c->socket)
        return false;
    p.fd = h2o_socket_get_fd(c->socket);
    return poll(&p, 1, 0) == 1;
}

static void sweep_connection(HttpConnection *c, uint64_t now)
{
    const http_settings *s = c->http->settings;

    for (HttpExchange *x = c->exchanges; x; x = x->next) {
        size_t moved = x->req->bytes_sent;

        if (!x->in_flight && x->state != HTTP_DONE)
            continue;
        if (moved != x->moved_bytes) {
            x->moved_bytes = moved;
            x->moved_usec = now;
        } else if (now - x->moved_usec > s->stall_timeout) {
            c->http->counters.stalled++;
            http_connection_kill(c);
            return;
        }
    }
    if (is_gone(c) || (!c->exchanges && now - c->active_usec > s->idle_timeout))
        http_connection_kill(c);
}

void http_connections_sweep(Http *h)
{
    uint64_t now = http_now();

    if (!h->connections)
        return;
    if (now - h->bodies_swept_usec >= BODIES_SWEEP_USEC) {
        h->bodies_swept_usec = now;
        sweep_bodies(h);
    }
    if (now - h->swept_usec < 1000000u)
        return;
    h->swept_usec = now;
    for (HttpConnection *c = h->connections; c; c = c->next)
        if (!c->dying)
            sweep_connection(c, now);
}
