/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets: what settings and claim allow (endpoint/doors.h) is kept open. */

#include "http.h"

#include <endpoint/doors.h>
#include <hybus/log.h>

#define ACCEPTS_PER_TURN 16
#define BACKLOG 128

bool http_listen_is_open(const Http *h)
{
    return endpoint_scope_is_open(h->settings->scope, h->claimed);
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

/* --- listeners
 * ------------------------------------------------------------------------------------ */

static int listener_add(Http *h, int fd, const endpoint_door *want)
{
    const endpoint_address *a = &want->address;
    HttpListener *l = calloc(1, sizeof(*l));

    if (!l)
        return -ENOMEM;
    l->http = h;
    l->tls = want->kind == HTTP_DOOR_TLS;
    l->bound = *a;
    l->port = endpoint_address_port(a);
    endpoint_address_format_host(&a->sa, l->address);
    l->accept = (h2o_accept_ctx_t){
        .ctx = &h->context, .hosts = h->config.hosts, .ssl_ctx = l->tls ? h->tls : NULL};
    l->socket = h2o_evloop_socket_create(h->loop, fd, H2O_SOCKET_FLAG_DONT_READ);
    l->socket->data = l;
    h2o_socket_read_start(l->socket, on_accept);
    h->listeners[h->n_listeners++] = l;
    hybus_info("listening on %s port %u (%s)", l->address, l->port, l->tls ? "tls" : "plain");
    return 0;
}

static int open_socket(const endpoint_address *a, int *ret)
{
    int on = 1;
    _cleanup_(closep) int fd =
        socket(a->sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (a->sa.sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
    if (bind(fd, &a->sa, endpoint_address_size(a)) < 0 || listen(fd, BACKLOG) < 0)
        return -errno;
    *ret = TAKE_FD(fd);
    return 0;
}

static int open_wanted(Http *h, const endpoint_door *w)
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
static void close_unwanted(Http *h, endpoint_doors *d)
{
    for (size_t i = h->n_listeners; i-- > 0;) {
        const HttpListener *l = h->listeners[i];

        if (!endpoint_doors_find(d, &l->bound, l->tls ? HTTP_DOOR_TLS : HTTP_DOOR_PLAIN))
            listener_close(h, i);
    }
}

static int want_all(Http *h, endpoint_doors *d)
{
    int r, result = endpoint_doors_want(d, h->settings->tls, HTTP_DOOR_TLS);

    r = endpoint_doors_want(d, h->settings->plain, HTTP_DOOR_PLAIN);
    result = result < 0 ? result : r;
    for (size_t i = 0; i < h->n_passed; i++) {
        r = endpoint_doors_want_passed(d, h->passed[i],
                                       h->passed_tls[i] ? HTTP_DOOR_TLS : HTTP_DOOR_PLAIN);
        result = result < 0 ? result : r;
    }
    return result;
}

int http_listen_update(Http *h)
{
    endpoint_doors d = {.open = http_listen_is_open(h)};
    int result;

    if (h->draining)
        return 0;
    result = want_all(h, &d);
    close_unwanted(h, &d);
    for (size_t i = 0; i < d.n; i++) {
        int r = d.list[i].there ? 0 : open_wanted(h, &d.list[i]);

        if (r < 0)
            result = hybus_log_errno(LOG_ERR, r, "cannot listen on port %u",
                                     endpoint_address_port(&d.list[i].address));
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
