/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "core.h"

#define SPARE_OUT (64u * 1024u) /* bytes that a drained connection may keep for its next turn */

static int handle(wire *w)
{
    hybus_frame f;
    int r = 0;

    w->reading = true;
    while (w->fd >= 0 && (r = hybus_frame_reader_next(&w->in, &f)) > 0) {
        r = w->ops->frame(w, &f);
        if (r < 0)
            break;
    }
    w->reading = false;
    if (w->fd < 0)
        hybus_frame_reader_done(&w->in);
    return r;
}

/* One read drains what has come. */
static int receive(wire *w)
{
    ssize_t n = hybus_frame_reader_fill(&w->in, w->fd);

    if (n < 0)
        return n == -EAGAIN ? 0 : (int)n;
    return n == 0 ? -ECONNRESET : handle(w);
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

    *w = (wire){.core = c,
                .ops = ops,
                .fd = -1,
                .in.max = LIMIT_READ_TURN,
                .out.max = LIMIT_OUT_MAX,
                .out.spare = SPARE_OUT};
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
    if (!w->reading)
        hybus_frame_reader_done(&w->in);
    hybus_frame_queue_done(&w->out);
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

void wire_end(wire *w)
{
    if (hybus_frame_end(&w->out) < 0)
        w->full = true;
    wire_dirty(w);
}

void wire_add(wire *w, const hybus_frame *f)
{
    if (hybus_frame_queue_add(&w->out, f) < 0)
        w->full = true;
    wire_dirty(w);
}

void wire_send(wire *w, uint8_t type, uint16_t code, uint32_t stream, uint32_t value)
{
    hybus_frame_begin(&w->out, type, 0, code, stream, value);
    wire_end(w);
}

void wire_flush(wire *w)
{
    hybus_frame_queue *q = &w->out;

    list_remove(&w->dirty_node);
    if (w->fd < 0)
        return;
    if (w->full) {
        wire_fail(w, -ENOBUFS);
        return;
    }
    if (!w->deaf && hybus_frame_queue_flush(q, w->fd) < 0)
        w->deaf = true; /* its last answers may still be there to be read; that will end it */
    if (w->deaf)
        hybus_frame_queue_done(q);
    want_write(w, hybus_frame_queue_pending(q) > 0);
    if (hybus_frame_queue_pending(q) >= LIMIT_OUT_HIGH)
        w->high = true;
    else if (w->high && hybus_frame_queue_pending(q) < LIMIT_OUT_HIGH / 2) {
        w->high = false;
        if (w->ops->drained)
            w->ops->drained(w);
    }
}
