/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <hybus/memfd.h>
#include <sys/epoll.h>

#include "bus-road.h"

static int errno_status(const sd_bus_error *e)
{
    if (sd_bus_error_has_names(e, SD_BUS_ERROR_TIMEOUT, "org.hybridos.Error.Timeout"))
        return 504;
    if (sd_bus_error_has_names(e, SD_BUS_ERROR_LIMITS_EXCEEDED, "org.hybridos.Error.LimitExceeded"))
        return 503;
    return 502;
}

void bus_stream_next(bus_call *b)
{
    if (b->source)
        sd_event_source_set_enabled(b->source,
                                    b->request->receive_credit > 0 ? SD_EVENT_ON : SD_EVENT_OFF);
}

void bus_consumed(endpoint_request *r)
{
    bus_stream_next(r->bus);
}

static void broken(endpoint_request *r, const char *detail)
{
    bus_cancel(r);
    request_fail(r, 502, detail);
}

static void pump(bus_call *b)
{
    endpoint_request *r = b->request;
    uint8_t buffer[BUS_CHUNK];
    size_t room = MIN_OF(sizeof(buffer), (size_t)r->receive_credit);
    ssize_t n;
    bool end;

    if (room == 0) {
        bus_stream_next(b);
        return;
    }
    n = b->piped ? read(b->reply_fd, buffer, room)
                 : read(b->reply_fd, buffer, MIN_OF(room, (size_t)b->left));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0 || (n == 0 && !b->piped && b->left > 0)) {
        broken(r, "The app's answer could not be read.");
        return;
    }
    r->receive_credit -= (uint32_t)n;
    if (!b->piped)
        b->left -= (uint64_t)n;
    end = b->piped ? n == 0 : b->left == 0;
    if (!end)
        bus_stream_next(b);
    if (request_data(r, buffer, (size_t)n, end) < 0)
        broken(r, "The app's answer was not as long as it said.");
}

static int on_pipe(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    pump(userdata);
    return 0;
}

static int on_memfd(sd_event_source *s, void *userdata)
{
    pump(userdata);
    return 0;
}

typedef struct bus_reply {
    uint32_t status;
    endpoint_field fields[CHANNEL_FIELDS_MAX];
    size_t n_fields, size;
    const void *body;
    int fd;
    bool stream;
} bus_reply;

static int read_headers(sd_bus_message *m, bus_reply *a)
{
    const char *name, *value;
    size_t total = 0;
    int k = sd_bus_message_enter_container(m, 'a', "(ss)");

    if (k < 0)
        return k;
    while ((k = sd_bus_message_read(m, "(ss)", &name, &value)) > 0) {
        total += strlen(name) + strlen(value);
        if (a->n_fields == ELEMENTS(a->fields) || total > CHANNEL_PAYLOAD_MAX || name[0] == ':')
            return -EBADMSG;
        a->fields[a->n_fields++] = (endpoint_field){name, strlen(name), value, strlen(value)};
    }
    return k < 0 ? k : sd_bus_message_exit_container(m);
}

static int read_option(sd_bus_message *m, const char *key, bus_reply *a)
{
    const char *type;
    int flag, k = sd_bus_message_peek_type(m, NULL, &type);

    if (k < 0)
        return k;
    if (streq(key, "body") && streq(type, "ay")) {
        k = sd_bus_message_enter_container(m, 'v', "ay");
        if (k >= 0)
            k = sd_bus_message_read_array(m, 'y', &a->body, &a->size);
    } else if (streq(key, "body") && streq(type, "h")) {
        k = sd_bus_message_enter_container(m, 'v', "h");
        if (k >= 0)
            k = sd_bus_message_read(m, "h", &a->fd);
    } else if (streq(key, "stream") && streq(type, "b")) {
        k = sd_bus_message_enter_container(m, 'v', "b");
        if (k >= 0)
            k = sd_bus_message_read(m, "b", &flag);
        if (k >= 0)
            a->stream = flag;
    } else
        return sd_bus_message_skip(m, "v");
    return k < 0 ? k : sd_bus_message_exit_container(m);
}

static int read_reply(sd_bus_message *m, bus_reply *a)
{
    const char *key;
    int k;

    if (!sd_bus_message_has_signature(m, "ua(ss)a{sv}"))
        return -EBADMSG;
    k = sd_bus_message_read(m, "u", &a->status);
    if (k >= 0)
        k = read_headers(m, a);
    if (k >= 0)
        k = sd_bus_message_enter_container(m, 'a', "{sv}");
    while (k >= 0 && (k = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
        k = sd_bus_message_read(m, "s", &key);
        if (k >= 0)
            k = read_option(m, key, a);
        if (k >= 0)
            k = sd_bus_message_exit_container(m);
    }
    if (k >= 0 && (a->status < 200 || a->status > 599 || (a->stream && (a->body || a->fd >= 0))))
        k = -EBADMSG;
    return k;
}

static int begin_stream(bus_call *b, const bus_reply *a)
{
    endpoint_core *c = b->request->core;
    int k;

    b->state = BUS_STREAMING;
    b->piped = a->stream;
    if (a->stream)
        return b->reply_fd < 0
                   ? -EBADMSG
                   : sd_event_add_io(c->event, &b->source, b->reply_fd, EPOLLIN, on_pipe, b);
    b->reply_fd = safe_close(b->reply_fd);
    k = hybus_memfd_open(a->fd, HYBUS_MEMFD_SEALS, LIMIT_BUS_REPLY, &b->reply_fd, &b->left);
    if (k < 0)
        return k;
    return sd_event_add_defer(c->event, &b->source, on_memfd, b);
}

/* What the app said to a call that somebody still waits for. */
static void take_reply(bus_call *b, sd_bus_message *m)
{
    endpoint_request *r = b->request;
    bus_reply a = {.fd = -1};
    bool streaming;
    int k;

    if (sd_bus_message_is_method_error(m, NULL)) {
        request_fail(r, (unsigned)errno_status(sd_bus_message_get_error(m)),
                     "The app gave an error.");
        return;
    }
    k = read_reply(m, &a);
    streaming = (a.stream || a.fd >= 0) && !r->head;
    if (k >= 0 && streaming)
        k = begin_stream(b, &a);
    if (k < 0) {
        request_fail(r, 502, "The app's answer was not valid.");
        return;
    }
    if (streaming && !b->piped && b->left == 0)
        streaming = false;
    if (request_reply(r, a.status, a.fields, a.n_fields, a.body, a.size, !streaming) < 0)
        broken(r, "The app's answer was not valid.");
}

int bus_on_reply(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
    bus_call *b = userdata;
    bool wanted = b->state == BUS_SENT;

    bus_answered(b); /* a lost one is gone with this */
    if (wanted)
        take_reply(b, m);
    return 0;
}
