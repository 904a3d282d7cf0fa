/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "core.h"

#define SPARE_OUT (64u * 1024u) /* bytes that a drained connection may keep for its next turn */

static int handle(wire *w, const uint8_t *data, size_t size)
{
    size_t at = 0;

    while (w->fd >= 0) {
        frame f;
        ssize_t n = frame_parse(data + at, size - at, &f);
        int r;

        if (n < 0)
            return (int)n;
        if (n == 0)
            break;
        at += (size_t)n;
        r = w->ops->frame(w, &f);
        if (r < 0)
            return r;
    }
    if (w->fd < 0 || at == size)
        return 0;
    w->rest = malloc(size - at);
    if (!w->rest)
        return -ENOMEM;
    memcpy(w->rest, data + at, size - at);
    w->rest_size = size - at;
    return 0;
}

/* One read drains what has come. What is left of an incomplete frame is put in front of the next,
 * so that an idle connection holds no buffer. */
static int receive(wire *w)
{
    uint8_t *buffer = w->core->read_buffer;
    size_t kept = w->rest_size;
    ssize_t n;

    n = recv(w->fd, buffer + kept, LIMIT_READ_TURN, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (n == 0)
        return -ECONNRESET;
    if (kept > 0) {
        memcpy(buffer, w->rest, kept);
        w->rest_size = 0;
        free(TAKE_PTR(w->rest));
    }
    return handle(w, buffer, kept + (size_t)n);
}

static int on_io(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    wire *w = userdata;
    int r = 0;

    if (revents & EPOLLOUT)
        wire_flush(w);
    if (w->fd >= 0 && (revents & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        r = receive(w);
    if (r < 0)
        wire_fail(w, r);
    return 0;
}

int wire_open(wire *w, endpoint_core *c, int fd, const wire_ops *ops)
{
    int r;

    *w = (wire){.core = c, .ops = ops, .fd = -1, .out.max = LIMIT_OUT_MAX};
    list_init(&w->dirty_node);
    r = sd_event_add_io(c->event, &w->source, fd, EPOLLIN, on_io, w);
    if (r < 0)
        return r;
    w->fd = fd;
    return 0;
}

void wire_close(wire *w)
{
    w->source = sd_event_source_disable_unref(w->source);
    w->fd = safe_close(w->fd);
    free(TAKE_PTR(w->rest));
    w->rest_size = 0;
    frame_buffer_done(&w->out);
    list_remove(&w->dirty_node);
}

void wire_fail(wire *w, int error)
{
    if (w->fd < 0)
        return;
    wire_close(w);
    w->ops->closed(w, error);
}

void wire_dirty(wire *w)
{
    if (w->fd < 0 || w->dirty_node.next != &w->dirty_node)
        return;
    list_append(&w->core->dirty_wires, &w->dirty_node);
    core_wake(w->core);
}

static void want_write(wire *w, bool on)
{
    if (w->writing == on)
        return;
    w->writing = on;
    sd_event_source_set_io_events(w->source, on ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

void wire_flush(wire *w)
{
    frame_buffer *b = &w->out;

    list_remove(&w->dirty_node);
    if (w->fd < 0)
        return;
    if (b->failed) { /* it does not read what it made us say */
        wire_fail(w, -ENOBUFS);
        return;
    }
    while (frame_buffer_size(b) > 0 && !w->deaf) {
        ssize_t n =
            send(w->fd, b->data + b->start, frame_buffer_size(b), MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            break;
        if (n < 0)
            w->deaf = true; /* its last answers may still be there to be read; that will end it */
        else
            b->start += (size_t)n;
    }
    if (w->deaf || frame_buffer_size(b) == 0) {
        b->start = b->end = 0;
        if (b->allocated > SPARE_OUT)
            frame_buffer_done(b);
    }
    want_write(w, frame_buffer_size(b) > 0);
    if (frame_buffer_size(b) >= LIMIT_OUT_HIGH)
        w->high = true;
    else if (w->high && frame_buffer_size(b) < LIMIT_OUT_HIGH / 2) {
        w->high = false;
        if (w->ops->drained)
            w->ops->drained(w);
    }
}
