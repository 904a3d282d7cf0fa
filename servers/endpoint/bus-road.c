/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "core.h"

#define INTERFACE "org.hybridos.Responder1"
#define CHUNK (64u * 1024u)
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

typedef struct bus_call {
    endpoint_request *request;
    sd_bus_slot *slot;
    sd_event_source *source; /* the pipe, or a defer source that reads the memfd */
    entry_definition to;     /* a copy: the table may change meanwhile */
    char *namespace;
    sd_bus_message *message; /* complete but for its body */
    int body_fd, reply_fd;
    bool collecting, sent, streaming, piped;
    size_t body_size;
    uint64_t left; /* of the memfd */
} bus_call;

static int errno_status(const sd_bus_error *e)
{
    if (sd_bus_error_has_names(e, SD_BUS_ERROR_TIMEOUT, "org.hybridos.Error.Timeout"))
        return 504;
    if (sd_bus_error_has_names(e, SD_BUS_ERROR_LIMITS_EXCEEDED, "org.hybridos.Error.LimitExceeded"))
        return 503;
    return 502;
}

static void call_free(bus_call *b)
{
    endpoint_core *c = b->request->core;

    sd_bus_slot_unref(b->slot);
    sd_event_source_disable_unref(b->source);
    sd_bus_message_unref(b->message);
    safe_close(b->body_fd);
    safe_close(b->reply_fd);
    free(b->to.bus_name);
    free(b->to.object);
    free(b->namespace);
    c->bus_open--;
    free(b);
}

void bus_release(endpoint_request *r)
{
    if (r->bus)
        call_free(TAKE_PTR(r->bus));
}

static int fire(endpoint_core *c, const entry_definition *to, const char *member,
                sd_bus_message **ret)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
    int k = sd_bus_message_new_method_call(c->bus, &m, to->bus_name, to->object, INTERFACE, member);

    if (k >= 0)
        k = sd_bus_message_set_expect_reply(m, false);
    if (k >= 0)
        k = sd_bus_message_set_auto_start(m, false);
    if (k >= 0)
        *ret = TAKE_PTR(m);
    return k;
}

void bus_cancel(endpoint_request *r)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
    char id[34];

    if (!r->bus || !r->bus->sent)
        return;
    request_id_text(r, id);
    if (fire(r->core, &r->bus->to, "Cancel", &m) >= 0 && sd_bus_message_append(m, "s", id) >= 0)
        (void)sd_bus_send(r->core->bus, m, NULL); /* nobody waits for it */
}

void bus_watch(endpoint_core *c, entry *e, const char *subpath, uint32_t watchers)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;

    if (c->bus && sd_bus_is_ready(c->bus) > 0 && fire(c, &e->d, "Watch", &m) >= 0 &&
        sd_bus_message_append(m, "su", subpath, watchers) >= 0)
        (void)sd_bus_send(c->bus, m, NULL);
}

/* --- the reply
 * ------------------------------------------------------------------------------------------- */

static void stream_next(bus_call *b)
{
    if (b->source)
        sd_event_source_set_enabled(b->source,
                                    b->request->receive_credit > 0 ? SD_EVENT_ON : SD_EVENT_OFF);
}

void bus_consumed(endpoint_request *r)
{
    stream_next(r->bus);
}

static void broken(endpoint_request *r, const char *detail)
{
    bus_cancel(r);
    request_fail(r, 502, detail);
}

static void pump(bus_call *b)
{
    endpoint_request *r = b->request;
    uint8_t buffer[CHUNK];
    size_t room = MIN_OF(sizeof(buffer), (size_t)r->receive_credit);
    ssize_t n;
    bool end;

    if (room == 0) {
        stream_next(b);
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
        stream_next(b);
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

/* Only what nobody can change any more while we read it. */
static int check_memfd(int fd, uint64_t *ret_size)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);

    if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
        return -EBADMSG;
    if (st.st_size < 0 || (uint64_t)st.st_size > LIMIT_BUS_REPLY)
        return -EFBIG;
    *ret_size = (uint64_t)st.st_size;
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

    b->streaming = true;
    b->piped = a->stream;
    if (a->stream)
        return b->reply_fd < 0
                   ? -EBADMSG
                   : sd_event_add_io(c->event, &b->source, b->reply_fd, EPOLLIN, on_pipe, b);
    k = check_memfd(a->fd, &b->left);
    if (k < 0)
        return k;
    safe_close(b->reply_fd);
    /* Our own open of it: the sender shares the offset of the one that it passed. */
    b->reply_fd = -1;
    {
        char path[40];
        snprintf(path, sizeof(path), "/proc/self/fd/%d", a->fd);
        b->reply_fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    if (b->reply_fd < 0)
        return -errno;
    return sd_event_add_defer(c->event, &b->source, on_memfd, b);
}

static int on_reply(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
    bus_call *b = userdata;
    endpoint_request *r = b->request;
    bus_reply a = {.fd = -1};
    bool streaming;
    int k;

    b->slot = sd_bus_slot_unref(b->slot);
    b->sent = false; /* answered: a Cancel would come too late, unless a stream follows */
    if (sd_bus_message_is_method_error(m, NULL)) {
        request_fail(r, (unsigned)errno_status(sd_bus_message_get_error(m)),
                     "The app gave an error.");
        return 0;
    }
    k = read_reply(m, &a);
    streaming = a.stream || a.fd >= 0;
    if (k >= 0 && streaming && !r->head)
        k = begin_stream(b, &a);
    if (k < 0) {
        request_fail(r, 502, "The app's answer was not valid.");
        return 0;
    }
    b->sent = b->piped;
    streaming = streaming && !r->head;
    if (streaming && r->receive_credit > 0 && !b->piped && b->left == 0)
        streaming = false;
    if (request_reply(r, a.status, a.fields, a.n_fields, a.body, a.size, !streaming) < 0)
        broken(r, "The app's answer was not valid.");
    return 0;
}

/* --- the request
 * ------------------------------------------------------------------------------------------ */

static int append_string(sd_bus_message *m, const char *key, const char *value)
{
    return sd_bus_message_append(m, "{sv}", key, "s", value);
}

static int append_headers(sd_bus_message *m, const endpoint_request_info *i)
{
    int k = sd_bus_message_open_container(m, 'e', "sv");

    if (k >= 0)
        k = sd_bus_message_append(m, "s", "headers");
    if (k >= 0)
        k = sd_bus_message_open_container(m, 'v', "a(ss)");
    if (k >= 0)
        k = sd_bus_message_open_container(m, 'a', "(ss)");
    for (size_t n = 0; k >= 0 && n < i->n_headers; n++) {
        const endpoint_field *f = &i->headers[n];
        _cleanup_(freep) char *name = strndup(f->name, f->name_size);
        _cleanup_(freep) char *value = strndup(f->value, f->value_size);
        if (!name || !value)
            return -ENOMEM;
        /* What is not text to D-Bus (bytes that are no UTF-8) cannot travel on this road. */
        k = sd_bus_message_append(m, "(ss)", name, value);
        if (k == -EINVAL)
            k = 0;
    }
    for (int depth = 0; k >= 0 && depth < 3; depth++)
        k = sd_bus_message_close_container(m);
    return k;
}

static int make_pipe(bus_call *b, sd_bus_message *m)
{
    _cleanup_(closep) int far = -1;
    int fds[2], k;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    b->reply_fd = fds[0];
    far = fds[1];
    if (fcntl(b->reply_fd, F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    k = sd_bus_message_append(m, "{sv}", "stream", "h", far); /* duplicates it */
    return k;
}

static int begin_message(bus_call *b, entry *e, const endpoint_request_info *i)
{
    endpoint_request *r = b->request;
    endpoint_core *c = r->core;
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
    uint64_t now = timer_now();
    char id[34];
    int k;

    request_id_text(r, id);
    k = sd_bus_message_new_method_call(c->bus, &m, e->d.bus_name, e->d.object, INTERFACE, "Handle");
    if (k >= 0)
        k = sd_bus_message_set_auto_start(m, false);
    if (k >= 0)
        k = sd_bus_message_open_container(m, 'a', "{sv}");
    if (k >= 0)
        k = append_string(m, "id", id);
    if (k >= 0)
        k = append_string(m, "namespace", e->namespace);
    if (k >= 0)
        k = append_string(m, "protocol", c->protocol);
    if (k >= 0)
        k = append_string(m, "method", i->method);
    if (k >= 0)
        k = append_string(m, "path", i->path);
    if (k >= 0)
        k = append_string(m, "query", strempty(i->query));
    if (k >= 0)
        k = append_string(m, "principal", r->peer->principal->name);
    if (k >= 0)
        k = append_string(m, "peer", strempty(r->peer->connection.peer));
    if (k >= 0)
        k = sd_bus_message_append(
            m, "{sv}", "deadline", "u",
            (uint32_t)(r->deadline.when > now ? (r->deadline.when - now) / 1000 : 0));
    if (k >= 0)
        k = append_headers(m, i);
    if (k >= 0 && e->d.stream)
        k = make_pipe(b, m);
    if (k >= 0)
        b->message = TAKE_PTR(m);
    return k;
}

static int send_message(bus_call *b, const void *body, size_t size)
{
    endpoint_core *c = b->request->core;
    sd_bus_message *m = b->message;
    int k = 0;

    if (b->body_fd >= 0) {
        if (fcntl(b->body_fd, F_ADD_SEALS, SEALS | F_SEAL_SEAL) < 0)
            return -errno;
        (void)lseek(b->body_fd, 0, SEEK_SET);
        k = sd_bus_message_append(m, "{sv}", "body", "h", b->body_fd);
        size = 0;
    }
    if (k >= 0)
        k = sd_bus_message_close_container(m);
    if (k >= 0)
        k = sd_bus_message_append_array(m, 'y', body, size);
    if (k >= 0)
        k = sd_bus_call_async(c->bus, &b->slot, m, on_reply, b,
                              c->settings.deadline_usec + 1000000u);
    b->message = sd_bus_message_unref(b->message);
    b->body_fd = safe_close(b->body_fd);
    b->collecting = false;
    b->sent = k >= 0;
    b->request->body_ended = true;
    return k;
}

static int spool(bus_call *b, const uint8_t *data, size_t size)
{
    if (b->body_fd < 0)
        b->body_fd = memfd_create("request-body",
                                  MFD_CLOEXEC | MFD_ALLOW_SEALING | 0x0008U /* NOEXEC_SEAL */);
    if (b->body_fd < 0 && errno == EINVAL) /* kernels before 6.3 */
        b->body_fd = memfd_create("request-body", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (b->body_fd < 0)
        return -errno;
    while (size > 0) {
        ssize_t n = write(b->body_fd, data, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return -EIO;
        data += n;
        size -= (size_t)n;
        b->body_size += (size_t)n;
    }
    return 0;
}

int bus_body(endpoint_request *r, const void *data, size_t size, bool end)
{
    bus_call *b = r->bus;
    int k;

    if (!b->collecting)
        return 0;
    k = spool(b, data, size);
    if (k >= 0 && end)
        k = send_message(b, NULL, 0);
    if (k < 0)
        request_fail(r, 502, "The request could not be passed on.");
    else if (r->ops->taken)
        r->ops->taken(r, size, r->userdata);
    return 0;
}

unsigned bus_send_request(entry *e, endpoint_request *r, const endpoint_request_info *i)
{
    endpoint_core *c = r->core;
    const uint8_t *body = r->held ? r->held : i->body;
    size_t size = r->held ? r->held_size : i->body_size;
    bool end = r->held ? r->held_end : i->body_end;
    owner *o;
    bus_call *b;
    int k;

    if (!c->bus)
        return 502;
    if (sd_bus_is_ready(c->bus) <= 0) /* sending would wait for it, in the middle of the loop */
        return 503;
    o = owner_get(c, e->d.uid);
    if (!o || c->bus_open >= LIMIT_BUS_REQUESTS || o->open >= LIMIT_BUS_RESPONDER) {
        owner_unref(o);
        return 503;
    }
    b = calloc(1, sizeof(*b));
    if (!b) {
        owner_unref(o);
        return 503;
    }
    b->request = r;
    b->body_fd = b->reply_fd = -1;
    c->bus_open++;
    r->bus = b;
    b->to.bus_name = strdup(e->d.bus_name);
    b->to.object = strdup(e->d.object);
    r->receive_credit = CHANNEL_CREDIT_INITIAL;
    k = b->to.bus_name && b->to.object ? begin_message(b, e, i) : -ENOMEM;
    b->collecting = !end;
    if (k >= 0 && (!end || size > LIMIT_BUS_INLINE))
        k = spool(b, body, size);
    if (k >= 0 && end)
        k = send_message(b, body, b->body_fd >= 0 ? 0 : size);
    if (k < 0) {
        bus_release(r);
        owner_unref(o);
        return k == -EINVAL ? 400 : 502; /* a path that is no UTF-8 */
    }
    request_sent(r, o, e->d.uid);
    owner_unref(o);
    if (r->held) {
        c->held_bytes -= r->held_size;
        free(TAKE_PTR(r->held));
        r->held_size = 0;
    }
    return 0;
}
