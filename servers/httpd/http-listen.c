/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets. A port alone means: loopback until the device is claimed, every address after
 * (an administrator exists then). Sockets that systemd passes are kept closed to all until then,
 * unless they stand on loopback. */

#include "http.h"

#include <arpa/inet.h>
#include <hybus/log.h>
#include <sys/socket.h>

#define ACCEPTS_PER_TURN 16
#define BACKLOG 128

typedef union address {
    struct sockaddr sa;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
} address;

static bool is_loopback(const address *a)
{
    if (a->sa.sa_family == AF_INET)
        return ntohl(a->in.sin_addr.s_addr) >> 24 == 127;
    return a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&a->in6.sin6_addr);
}

bool http_listen_is_open(const Http *h)
{
    if (streq(h->settings->scope, "all"))
        return true;
    return streq(h->settings->scope, "claimed") && h->claimed;
}

static void on_accept(h2o_socket_t *socket, const char *error)
{
    HttpListener *l = socket->data;

    if (error)
        return;
    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        h2o_socket_t *accepted = h2o_evloop_socket_accept(socket);

        if (!accepted)
            return;
        if (http_connection_new(l->http, accepted, l->tls))
            h2o_accept(&l->accept, accepted);
    }
}

static socklen_t address_size(const address *a)
{
    return a->sa.sa_family == AF_INET ? sizeof(a->in) : sizeof(a->in6);
}

static bool address_equal(const address *a, const address *b)
{
    if (a->sa.sa_family != b->sa.sa_family)
        return false;
    if (a->sa.sa_family == AF_INET)
        return a->in.sin_port == b->in.sin_port && a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
    return a->in6.sin6_port == b->in6.sin6_port &&
           IN6_ARE_ADDR_EQUAL(&a->in6.sin6_addr, &b->in6.sin6_addr);
}

/* --- what is wanted ------------------------------------------------------------------------------
 */

typedef struct wanted {
    address address;
    bool tls, optional;
    int passed; /* systemd's socket, or -1 */
    bool there;
} wanted;

typedef struct wishes {
    wanted list[HTTP_LISTENERS_MAX];
    size_t n;
} wishes;

static int want(wishes *w, const address *a, bool tls, bool optional, int passed)
{
    if (w->n >= HTTP_LISTENERS_MAX)
        return -ENOBUFS;
    w->list[w->n++] = (wanted){.address = *a, .tls = tls, .optional = optional, .passed = passed};
    return 0;
}

static int parse_literal(const char *text, address *ret)
{
    http_span host;
    uint16_t port;
    char buffer[64];

    if (http_authority_parse((http_span){text, strlen(text)}, &host, &port) < 0 || port == 0 ||
        host.size >= sizeof(buffer))
        return -EINVAL;
    memcpy(buffer, host.base, host.size);
    buffer[host.size] = '\0';
    *ret = (address){};
    if (inet_pton(AF_INET, buffer, &ret->in.sin_addr) == 1) {
        ret->in.sin_family = AF_INET;
        ret->in.sin_port = htons(port);
    } else if (inet_pton(AF_INET6, buffer, &ret->in6.sin6_addr) == 1) {
        ret->in6.sin6_family = AF_INET6;
        ret->in6.sin6_port = htons(port);
    } else {
        return -EINVAL;
    }
    return 0;
}

/* Both families; a device without IPv6 is fine. */
static int want_port(Http *h, wishes *w, uint16_t port, bool tls)
{
    address four = {.in = {.sin_family = AF_INET, .sin_port = htons(port)}};
    address six = {.in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)}};
    int r;

    if (!http_listen_is_open(h)) {
        four.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        six.in6.sin6_addr = in6addr_loopback;
    }
    r = want(w, &four, tls, false, -1);
    return r < 0 ? r : want(w, &six, tls, true, -1);
}

static int want_entry(Http *h, wishes *w, const char *text, bool tls)
{
    char *end;
    unsigned long port = strtoul(text, &end, 10);
    address a;

    if (*end == '\0')
        return port == 0 || port > 65535 ? -EINVAL : want_port(h, w, (uint16_t)port, tls);
    if (parse_literal(text, &a) < 0)
        return -EINVAL;
    return http_listen_is_open(h) || is_loopback(&a) ? want(w, &a, tls, false, -1) : 0;
}

static int want_entries(Http *h, wishes *w, char **entries, bool tls)
{
    int result = 0;

    for (; entries && *entries; entries++) {
        int r = want_entry(h, w, *entries, tls);

        if (r < 0)
            result = hybus_log_errno(LOG_ERR, r, "cannot listen on %s", *entries);
    }
    return result;
}

static int want_passed(Http *h, wishes *w)
{
    for (size_t i = 0; i < h->n_passed; i++) {
        address a = {};
        socklen_t size = sizeof(a);
        int r;

        if (getsockname(h->passed[i], &a.sa, &size) < 0 ||
            (!http_listen_is_open(h) && !is_loopback(&a)))
            continue;
        r = want(w, &a, h->passed_tls[i], false, h->passed[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

/* --- listeners
 * ------------------------------------------------------------------------------------ */

static int listener_add(Http *h, int fd, const wanted *want)
{
    const address *a = &want->address;
    HttpListener *l = calloc(1, sizeof(*l));

    if (!l)
        return -ENOMEM;
    l->http = h;
    l->tls = want->tls;
    memcpy(&l->bound, a, address_size(a));
    l->port = ntohs(a->sa.sa_family == AF_INET ? a->in.sin_port : a->in6.sin6_port);
    inet_ntop(a->sa.sa_family,
              a->sa.sa_family == AF_INET ? (const void *)&a->in.sin_addr : &a->in6.sin6_addr,
              l->address, sizeof(l->address));
    l->accept = (h2o_accept_ctx_t){
        .ctx = &h->context, .hosts = h->config.hosts, .ssl_ctx = want->tls ? h->tls : NULL};
    l->socket = h2o_evloop_socket_create(h->loop, fd, H2O_SOCKET_FLAG_DONT_READ);
    l->socket->data = l;
    h2o_socket_read_start(l->socket, on_accept);
    h->listeners[h->n_listeners++] = l;
    hybus_info("listening on %s port %u (%s)", l->address, l->port, l->tls ? "tls" : "plain");
    return 0;
}

static int open_socket(const address *a, int *ret)
{
    int on = 1;
    _cleanup_(closep) int fd =
        socket(a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (a->sa.sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    if (bind(fd, &a->sa, address_size(a)) < 0 || listen(fd, BACKLOG) < 0)
        return -errno;
    *ret = TAKE_FD(fd);
    return 0;
}

static int open_wanted(Http *h, const wanted *w)
{
    int fd = -1, r = 0;

    if (w->passed >= 0)
        fd = fcntl(w->passed, F_DUPFD_CLOEXEC, 3);
    else
        r = open_socket(&w->address, &fd);
    if (r >= 0 && fd < 0)
        r = -errno;
    if (r >= 0)
        r = listener_add(h, fd, w);
    if (r < 0)
        safe_close(fd);
    return w->optional && (r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL) ? 0 : r;
}

static void listener_close(Http *h, size_t at)
{
    HttpListener *l = h->listeners[at];

    h->listeners[at] = h->listeners[--h->n_listeners];
    h2o_socket_read_stop(l->socket);
    h2o_socket_close(l->socket);
    free(l);
}

int http_listen_pass(Http *h, int fd, bool tls)
{
    if (h->n_passed >= HTTP_LISTENERS_MAX)
        return -ENOBUFS;
    h->passed[h->n_passed] = fd;
    h->passed_tls[h->n_passed++] = tls;
    return 0;
}

void http_listen_close(Http *h)
{
    while (h->n_listeners > 0)
        listener_close(h, h->n_listeners - 1);
}

/* What stays is not touched: connections that wait there to be accepted are kept. What goes is
 * closed before anything opens, since a wider address needs the port of a narrower one. */
static void close_unwanted(Http *h, wishes *w)
{
    for (size_t i = h->n_listeners; i-- > 0;) {
        const HttpListener *l = h->listeners[i];
        bool keep = false;

        for (size_t k = 0; k < w->n && !keep; k++)
            if (l->tls == w->list[k].tls &&
                address_equal((const address *)&l->bound, &w->list[k].address))
                keep = w->list[k].there = true;
        if (!keep)
            listener_close(h, i);
    }
}

int http_listen_update(Http *h)
{
    wishes w = {};
    int r, result;

    if (h->draining)
        return 0;
    result = want_entries(h, &w, h->settings->tls, true);
    r = want_entries(h, &w, h->settings->plain, false);
    result = result < 0 ? result : r;
    r = want_passed(h, &w);
    result = result < 0 ? result : r;
    close_unwanted(h, &w);
    for (size_t i = 0; i < w.n; i++) {
        if (w.list[i].there)
            continue;
        r = open_wanted(h, &w.list[i]);
        if (r < 0)
            result = hybus_log_errno(LOG_ERR, r, "cannot listen on port %u",
                                     ntohs(w.list[i].address.in.sin_port));
    }
    if (h->listeners_changed)
        h->listeners_changed(h, h->listeners_userdata);
    return result;
}

void http_set_claimed(Http *h, bool claimed)
{
    if (h->claimed == claimed)
        return;
    h->claimed = claimed;
    if (streq(h->settings->scope, "claimed"))
        (void)http_listen_update(h);
}
