/* SPDX-License-Identifier: Apache-2.0 */

/* One socket to the registrar or to a server: connecting and connecting again, one read and one
 * write for each turn, and the frames that concern the connection itself. */

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "internal.h"

struct connection *connection_new(hybridos_app *app, enum role role, const char *name,
                                  const char *path)
{
    struct connection *c = calloc(1, sizeof(*c));
    if (!c)
        return NULL;
    c->app = app;
    c->role = role;
    c->fd = -1;
    c->name = strdup(name);
    c->path = strdup(path);
    if (role == ROLE_SERVER)
        c->requests = calloc(REQUEST_BUCKETS, sizeof(*c->requests));
    if (!c->name || !c->path || (role == ROLE_SERVER && !c->requests)) {
        connection_free(c);
        return NULL;
    }
    return c;
}

void connection_free(struct connection *c)
{
    if (!c)
        return;
    if (c->fd >= 0)
        close(c->fd);
    for (size_t i = 0; c->requests && i < REQUEST_BUCKETS; i++)
        while (c->requests[i]) {
            hybridos_request *r = c->requests[i];
            server_remove(c, r);
            request_free(r);
        }
    free(c->requests);
    while (c->attachments) {
        struct attachment *a = c->attachments;
        c->attachments = a->next;
        free(a);
    }
    while (c->watches) {
        struct watch *w = c->watches;
        c->watches = w->next;
        free(w);
    }
    buffer_done(&c->in);
    buffer_done(&c->out);
    free(c->name);
    free(c->path);
    free(c);
}

bool connection_open(const struct connection *c)
{
    return c->fd >= 0 && !c->removed;
}

static void say_hello(struct connection *c)
{
    size_t at = wire_begin(&c->out);
    wire_put_field(&c->out, ":role", "app");
    wire_put_field(&c->out, ":name", c->app->name);
    wire_finish(&c->out, at, CHANNEL_HELLO, 0, 0, 0, CHANNEL_VERSION);
}

static int open_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    /* On a Unix socket this never waits: it has a place in the backlog, or it fails. */
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int r = -errno;
        close(fd);
        return r;
    }
    return fd;
}

void connection_connect(struct connection *c)
{
    int fd = open_socket(c->path);
    if (fd < 0) {
        if (c->stale)
            c->removed = true;
        retry_later(&c->retry);
        return;
    }
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(c->app->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0) {
        close(fd);
        retry_later(&c->retry);
        return;
    }
    c->fd = fd;
    c->events = EPOLLIN;
    c->retry.at = 0;
    say_hello(c);
}

void connection_lost(struct connection *c)
{
    if (c->fd < 0)
        return;
    close(c->fd);
    c->fd = -1;
    c->hello = c->draining = c->stopped = false;
    c->highest = 0;
    buffer_done(&c->in);
    buffer_done(&c->out);
    retry_later(&c->retry);
    if (c->role == ROLE_REGISTRAR)
        registrar_lost(c);
    else
        server_lost(c);
}

static int handle_hello(struct connection *c, const struct frame *f)
{
    if (f->value < 1 || f->stream != 0 || wire_check_fields(f->payload, f->length) < 0)
        return -EBADMSG;
    c->hello = true;
    c->retry = (struct retry){0};
    return 0;
}

static int handle_frame(struct connection *c, const struct frame *f)
{
    if (!c->hello)
        return f->type == CHANNEL_HELLO ? handle_hello(c, f) : -EBADMSG;
    switch (f->type) {
    case CHANNEL_GOAWAY:
        c->draining = true;
        return 0;
    case CHANNEL_PING:
        wire_put(&c->out, CHANNEL_PONG, 0, 0, 0, f->value, NULL, 0);
        return 0;
    case CHANNEL_PONG:
        c->stopped = c->app->stopping;
        return 0;
    case CHANNEL_HELLO:
        return -EBADMSG;
    default:
        if (f->type >= CHANNEL_IGNORABLE &&
            (f->type != CHANNEL_RESUME || c->role == ROLE_REGISTRAR))
            return 0;
        return c->role == ROLE_REGISTRAR ? registrar_frame(c, f) : server_frame(c, f);
    }
}

static int handle_input(struct connection *c)
{
    for (;;) {
        struct frame f;
        int n = wire_next(c->in.data + c->in.start, buffer_used(&c->in), &f);
        if (n <= 0)
            return n;
        int r = handle_frame(c, &f);
        if (r < 0)
            return r;
        buffer_consume(&c->in, (size_t)n);
    }
}

void connection_read(struct connection *c)
{
    if (!c->in.data && !buffer_reserve(&c->in, INPUT_SIZE)) {
        connection_lost(c);
        return;
    }
    /* What is left of the last read is less than one frame, so there is always room. */
    if (c->in.start > 0) {
        memmove(c->in.data, c->in.data + c->in.start, buffer_used(&c->in));
        c->in.end -= c->in.start;
        c->in.start = 0;
    }
    ssize_t n = read(c->fd, c->in.data + c->in.end, c->in.size - c->in.end);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        connection_lost(c);
        return;
    }
    c->in.end += (size_t)n;
    if (handle_input(c) < 0)
        connection_lost(c);
}

static void set_events(struct connection *c)
{
    size_t waiting = buffer_used(&c->out);
    /* A peer that does not take our answers gets no further requests in. */
    uint32_t events = (waiting > 0 ? EPOLLOUT : 0) | (waiting < OUTPUT_HIGH ? EPOLLIN : 0);
    if (events == c->events)
        return;
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(c->app->epoll_fd, EPOLL_CTL_MOD, c->fd, &event) == 0)
        c->events = events;
}

void connection_flush(struct connection *c)
{
    if (c->fd < 0)
        return;
    if (c->out.failed) {
        connection_lost(c);
        return;
    }
    size_t waiting = buffer_used(&c->out);
    if (waiting > 0) {
        ssize_t n = send(c->fd, c->out.data + c->out.start, waiting, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno != EAGAIN && errno != EINTR) {
            /* What the peer sent before it closed is still to be read. */
            if (errno == EPIPE || errno == ECONNRESET) {
                buffer_consume(&c->out, waiting);
                return;
            }
            connection_lost(c);
            return;
        }
        if (n > 0)
            buffer_consume(&c->out, (size_t)n);
    }
    /* The peer wants to go, and nothing is open or waiting any more. */
    if (c->draining && c->n_requests == 0 && buffer_used(&c->out) == 0)
        connection_lost(c);
    else
        set_events(c);
}
