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

static int listener_add(Http *h, int fd, bool tls, bool passed)
{
    address a = {};
    socklen_t size = sizeof(a);
    HttpListener *l;

    if (h->n_listeners >= HTTP_LISTENERS_MAX)
        return -ENOBUFS;
    if (getsockname(fd, &a.sa, &size) < 0)
        return -errno;
    l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->http = h;
    l->tls = tls;
    l->passed = passed;
    l->port = ntohs(a.sa.sa_family == AF_INET ? a.in.sin_port : a.in6.sin6_port);
    inet_ntop(a.sa.sa_family,
              a.sa.sa_family == AF_INET ? (void *)&a.in.sin_addr : (void *)&a.in6.sin6_addr,
              l->address, sizeof(l->address));
    l->accept = (h2o_accept_ctx_t){
        .ctx = &h->context, .hosts = h->config.hosts, .ssl_ctx = tls ? h->tls : NULL};
    l->socket = h2o_evloop_socket_create(h->loop, fd, H2O_SOCKET_FLAG_DONT_READ);
    l->socket->data = l;
    h2o_socket_read_start(l->socket, on_accept);
    h->listeners[h->n_listeners++] = l;
    hybus_info("listening on %s port %u (%s)", l->address, l->port, tls ? "tls" : "plain");
    return 0;
}

static int open_address(Http *h, const address *a, bool tls)
{
    int on = 1;
    _cleanup_(closep) int fd =
        socket(a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int r;

    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (a->sa.sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    if (bind(fd, &a->sa, a->sa.sa_family == AF_INET ? sizeof(a->in) : sizeof(a->in6)) < 0 ||
        listen(fd, BACKLOG) < 0)
        return -errno;
    r = listener_add(h, fd, tls, false);
    if (r >= 0)
        (void)TAKE_FD(fd);
    return r;
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
static int open_port(Http *h, uint16_t port, bool tls)
{
    address four = {.in = {.sin_family = AF_INET, .sin_port = htons(port)}};
    address six = {.in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)}};
    int r4, r6;

    if (!http_listen_is_open(h)) {
        four.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        six.in6.sin6_addr = in6addr_loopback;
    }
    r4 = open_address(h, &four, tls);
    r6 = open_address(h, &six, tls);
    if (r6 < 0 && r6 != -EAFNOSUPPORT && r6 != -EADDRNOTAVAIL)
        return r6;
    return r4 < 0 && r6 < 0 ? r4 : 0;
}

static int open_entry(Http *h, const char *text, bool tls)
{
    char *end;
    unsigned long port = strtoul(text, &end, 10);
    address a;

    if (*end == '\0')
        return port == 0 || port > 65535 ? -EINVAL : open_port(h, (uint16_t)port, tls);
    if (parse_literal(text, &a) < 0)
        return -EINVAL;
    return http_listen_is_open(h) || is_loopback(&a) ? open_address(h, &a, tls) : 0;
}

static int open_entries(Http *h, char **entries, bool tls)
{
    int result = 0;

    for (; entries && *entries; entries++) {
        int r = open_entry(h, *entries, tls);

        if (r < 0)
            result = hybus_log_errno(LOG_ERR, r, "cannot listen on %s", *entries);
    }
    return result;
}

int http_listen_pass(Http *h, int fd, bool tls)
{
    if (h->n_passed >= HTTP_LISTENERS_MAX)
        return -ENOBUFS;
    h->passed[h->n_passed] = fd;
    h->passed_tls[h->n_passed++] = tls;
    return 0;
}

static int open_passed(Http *h)
{
    int result = 0;

    for (size_t i = 0; i < h->n_passed; i++) {
        address a = {};
        socklen_t size = sizeof(a);
        int fd, r;

        if (getsockname(h->passed[i], &a.sa, &size) < 0 ||
            (!http_listen_is_open(h) && !is_loopback(&a)))
            continue;
        fd = fcntl(h->passed[i], F_DUPFD_CLOEXEC, 3);
        r = fd < 0 ? -errno : listener_add(h, fd, h->passed_tls[i], true);
        if (r < 0) {
            safe_close(fd);
            result = hybus_log_errno(LOG_ERR, r, "cannot listen on a socket from systemd");
        }
    }
    return result;
}

void http_listen_close(Http *h)
{
    for (size_t i = 0; i < h->n_listeners; i++) {
        h2o_socket_read_stop(h->listeners[i]->socket);
        h2o_socket_close(h->listeners[i]->socket);
        free(h->listeners[i]);
    }
    h->n_listeners = 0;
}

int http_listen_update(Http *h)
{
    int r, result;

    http_listen_close(h);
    if (h->draining)
        return 0;
    result = open_entries(h, h->settings->tls, true);
    r = open_entries(h, h->settings->plain, false);
    result = result < 0 ? result : r;
    r = open_passed(h);
    if (h->listeners_changed)
        h->listeners_changed(h, h->listeners_userdata);
    return result < 0 ? result : r;
}

void http_set_claimed(Http *h, bool claimed)
{
    if (h->claimed == claimed)
        return;
    h->claimed = claimed;
    if (streq(h->settings->scope, "claimed"))
        (void)http_listen_update(h);
}
