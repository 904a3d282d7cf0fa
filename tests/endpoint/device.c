/* SPDX-License-Identifier: Apache-2.0 */
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "device.h"

static int listen_at(const char *path)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    snprintf(un.sun_path, sizeof(un.sun_path), "%s", path);
    assert_true(fd >= 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&un, sizeof(un)), 0);
    assert_int_equal(listen(fd, 64), 0);
    return fd;
}

device *device_new(const endpoint_settings *settings, sd_bus *bus)
{
    device *d = calloc(1, sizeof(*d));
    endpoint_options o = {.server = "httpd", .protocol = "http"};

    assert_non_null(d);
    snprintf(d->directory, sizeof(d->directory), "/tmp/endpoint-test-XXXXXX");
    assert_non_null(mkdtemp(d->directory));
    snprintf(d->registrar_path, sizeof(d->registrar_path), "%s/registrar", d->directory);
    snprintf(d->server_path, sizeof(d->server_path), "%s/server", d->directory);
    d->registrar.fd = -1;
    d->registrar_listen = listen_at(d->registrar_path);
    assert_true(sd_event_new(&d->event) >= 0);
    d->agent = agent_fake_new(d->event);
    if (bus) {
        d->bus = bus;
        assert_true(sd_bus_attach_event(bus, d->event, 0) >= 0);
    }
    o.event = d->event;
    o.agent = d->agent;
    o.bus = bus;
    o.listen_fd = listen_at(d->server_path);
    o.registrar_path = d->registrar_path;
    if (settings)
        o.settings = *settings;
    assert_int_equal(endpoint_core_new(&o, &d->core), 0);
    registrar_accept(d);
    return d;
}

void device_free(device *d)
{
    endpoint_core_free(d->core);
    hybus_agent_free(d->agent);
    registrar_close(d);
    close(d->registrar_listen);
    unlink(d->registrar_path);
    unlink(d->server_path);
    rmdir(d->directory);
    if (d->bus)
        sd_bus_detach_event(d->bus);
    sd_event_unref(d->event);
    free(d);
}

void device_turn(device *d)
{
    assert_true(sd_event_run(d->event, 1000) >= 0);
}

void app_free(side *s)
{
    if (s->fd >= 0)
        close(s->fd);
    hybus_frame_queue_done(&s->out);
    free(s);
}

bool side_poll(side *s, hybus_frame *ret)
{
    ssize_t n;

    if (s->fd < 0)
        return false;
    n = recv(s->fd, s->data + s->size, sizeof(s->data) - s->size, MSG_DONTWAIT);
    if (n > 0)
        s->size += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && sizeof(s->data) > s->size))
        s->closed = true;
    n = hybus_frame_parse(s->data, s->size, ret);
    assert_true(n >= 0);
    if (n == 0)
        return false;
    memcpy(s->payload, ret->payload, ret->size);
    ret->payload = s->payload;
    memmove(s->data, s->data + n, s->size - (size_t)n);
    s->size -= (size_t)n;
    return true;
}

const hybus_frame *side_wait(device *d, side *s, uint8_t type)
{
    uint64_t until = timer_now() + 30000000u;

    for (;;) {
        if (side_poll(s, &s->last)) {
            if (s->last.type == type)
                return &s->last;
            continue;
        }
        assert_false(s->closed);
        assert_true(timer_now() < until);
        device_turn(d);
    }
}

void side_wait_closed(device *d, side *s)
{
    hybus_frame f;

    while (!s->closed)
        if (!side_poll(s, &f))
            device_turn(d);
}

void side_flush(device *d, side *s)
{
    while (hybus_frame_queue_pending(&s->out) > 0 && !s->closed) {
        ssize_t n = send(s->fd, s->out.buffer + s->out.start, hybus_frame_queue_pending(&s->out),
                         MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n > 0)
            s->out.start += (size_t)n;
        else if (errno != EAGAIN)
            s->closed = true;
        else
            device_turn(d);
    }
    s->out.start = s->out.end = 0;
}

static void side_write(side *s)
{
    ssize_t n = send(s->fd, s->out.buffer + s->out.start, hybus_frame_queue_pending(&s->out),
                     MSG_DONTWAIT | MSG_NOSIGNAL);

    if (n > 0)
        s->out.start += (size_t)n;
    if (s->out.start == s->out.end)
        s->out.start = s->out.end = 0;
}

void side_send(side *s, uint8_t type, uint8_t flags, uint16_t code, uint32_t stream, uint32_t value,
               const void *payload, size_t size)
{
    hybus_frame f = {.size = (uint32_t)size,
                     .type = type,
                     .flags = flags,
                     .code = code,
                     .stream = stream,
                     .value = value,
                     .payload = payload};

    s->out.max = 64u * 1024u * 1024u;
    assert_int_equal(hybus_frame_queue_add(&s->out, &f), 0);
    if (hybus_frame_queue_pending(&s->out) < 32768)
        side_write(s);
}

static void put_fields(hybus_frame_queue *b, va_list args)
{
    const char *name;

    while ((name = va_arg(args, const char *)))
        hybus_frame_put(b, name, va_arg(args, const char *));
}

void side_fields(side *s, uint8_t type, uint8_t flags, uint16_t code, uint32_t stream,
                 const void *body, size_t size, ...)
{
    va_list args;

    s->out.max = 64u * 1024u * 1024u;
    hybus_frame_begin(&s->out, type, flags, code, stream, 0);
    va_start(args, size);
    put_fields(&s->out, args);
    va_end(args);
    hybus_frame_put_body(&s->out, body, size);
    assert_int_equal(hybus_frame_end(&s->out), 0);
    if (hybus_frame_queue_pending(&s->out) < 32768)
        side_write(s);
}

const char *side_field(const hybus_frame *f, const char *name)
{
    static char value[8192];
    hybus_frame_fields fields;
    endpoint_field field;
    const uint8_t *body;
    size_t size;

    if (f->type == CHANNEL_REQUEST)
        assert_int_equal(hybus_frame_split(f, &fields, &body, &size), 0);
    else
        hybus_frame_fields_init(&fields, f->payload, f->size);
    while (hybus_frame_fields_next(&fields, &field) > 0)
        if (hybus_frame_field_is(&field, name)) {
            assert_int_equal(hybus_frame_field_copy(&field, value, sizeof(value)), 0);
            return value;
        }
    return NULL;
}

void registrar_accept(device *d)
{
    wait_for(d, (d->registrar.fd = accept4(d->registrar_listen, NULL, NULL, SOCK_CLOEXEC)) >= 0);
    d->registrar.closed = false;
    d->registrar.size = 0;
    side_wait(d, &d->registrar, CHANNEL_HELLO);
    side_fields(&d->registrar, CHANNEL_HELLO, 0, 0, 0, NULL, 0, ":role", "registrar", NULL);
    wait_for(d, d->core->registrar.greeted);
}

void registrar_close(device *d)
{
    if (d->registrar.fd >= 0)
        close(d->registrar.fd);
    d->registrar.fd = -1;
    hybus_frame_queue_done(&d->registrar.out);
}

void registrar_entry(device *d, uint8_t flags, ...)
{
    side *s = &d->registrar;
    va_list args;

    s->out.max = 1u << 20;
    hybus_frame_begin(&s->out, CHANNEL_ENTRY, flags, 0, 0, 0);
    va_start(args, flags);
    put_fields(&s->out, args);
    va_end(args);
    assert_int_equal(hybus_frame_end(&s->out), 0);
    side_flush(d, s);
}

void registrar_channel(device *d, const char *namespace, const char *key)
{
    char uid[16];

    snprintf(uid, sizeof(uid), "%u", getuid());
    registrar_entry(d, 0, ":revision", "1", ":namespace", namespace, ":key", key, ":uid", uid,
                    ":road", "channel", NULL);
    wait_for(d, table_find(&d->core->table, namespace, strlen(namespace)));
}

side *app_connect(device *d)
{
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    side *s = calloc(1, sizeof(*s));

    assert_non_null(s);
    snprintf(un.sun_path, sizeof(un.sun_path), "%s", d->server_path);
    s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(s->fd, (struct sockaddr *)&un, sizeof(un)), 0);
    return s;
}

side *app_attached(device *d, const char *namespace, const char *key)
{
    side *s = app_connect(d);

    side_send(s, CHANNEL_HELLO, 0, 0, 0, 1, "\5\0\3\0:roleapp", 12);
    side_fields(s, CHANNEL_ATTACH, 0, 0, 1, NULL, 0, ":namespace", namespace, ":key", key, NULL);
    side_wait(d, s, CHANNEL_ATTACHED);
    return s;
}

side *app_attached_resuming(device *d, const char *namespace, const char *key)
{
    side *s = app_connect(d);

    side_send(s, CHANNEL_HELLO, 0, 0, 0, 1, "\5\0\3\0:roleapp", 12);
    side_fields(s, CHANNEL_ATTACH, 0, 0, 1, NULL, 0, ":namespace", namespace, ":key", key, ":resume", "1",
                NULL);
    side_wait(d, s, CHANNEL_ATTACHED);
    return s;
}

/* --- the protocol side
 * ----------------------------------------------------------------------------- */

static void on_data(endpoint_request *r, const void *data, size_t size, bool end, void *userdata)
{
    answer *a = userdata;

    a->told++;
    assert_false(a->ended);
    assert_true(a->size + size <= sizeof(a->body));
    if (size > 0)
        memcpy(a->body + a->size, data, size);
    a->size += size;
    a->ended = end;
}

static void on_reply(endpoint_request *r, unsigned status, const endpoint_field *headers, size_t n,
                     const void *body, size_t size, bool end, void *userdata)
{
    answer *a = userdata;
    size_t at = 0;

    assert_int_equal(a->replies++, 0);
    a->status = status;
    for (size_t i = 0; i < n; i++)
        at += (size_t)snprintf(a->fields + at, sizeof(a->fields) - at, "%.*s: %.*s\n",
                               (int)headers[i].name_size, headers[i].name,
                               (int)headers[i].value_size, headers[i].value);
    on_data(r, body, size, end, a);
    if (a->free_at_once) {
        endpoint_request_free(r);
        a->request = NULL;
    }
}

static void on_abort(endpoint_request *r, unsigned status, void *userdata)
{
    answer *a = userdata;

    assert_false(a->ended);
    a->told++;
    a->ended = true;
    a->aborted = status;
}

static void on_taken(endpoint_request *r, size_t size, void *userdata)
{
    ((answer *)userdata)->taken += size;
}

static const endpoint_reply_ops ops = {
    .reply = on_reply,
    .data = on_data,
    .abort = on_abort,
    .taken = on_taken,
};

static answer *ask(client *c, const endpoint_request_info *i)
{
    answer *a = calloc(1, sizeof(*a));
    endpoint_request *r;

    assert_non_null(a);
    assert_int_equal(endpoint_request_new(c->peer, i, &ops, a, &r), 0);
    a->request = r;
    return a;
}

answer *request(client *c, const char *method, const char *path, const void *body, size_t size,
                bool end)
{
    static const endpoint_field headers[] = {{"accept", 6, "*/*", 3}};
    endpoint_request_info i = {.method = method,
                               .path = path,
                               .query = "q=1",
                               .headers = headers,
                               .n_headers = 1,
                               .body = body,
                               .body_size = size,
                               .body_end = end};

    return ask(c, &i);
}

answer *request_with(client *c, const char *method, const char *path, const endpoint_field *headers,
                     size_t n)
{
    endpoint_request_info i = {
        .method = method, .path = path, .headers = headers, .n_headers = n, .body_end = true};

    return ask(c, &i);
}

void answer_free(answer *a)
{
    endpoint_request_free(a->request);
    free(a);
}

static void on_checked(endpoint_peer *p, int error, uint64_t retry, void *userdata)
{
    client *c = userdata;

    c->checked++;
    c->error = error;
}

static void on_revoked(endpoint_peer *p, void *userdata)
{
    ((client *)userdata)->revoked++;
}

void client_begin(device *d, client *c, const char *bearer)
{
    static const endpoint_peer_ops peer_ops = {.checked = on_checked, .revoked = on_revoked};
    hybus_connection n = {.protocol = "http", .peer = "127.0.0.1:9", .bearer = bearer};

    *c = (client){};
    assert_int_equal(endpoint_peer_new(d->core, &n, &peer_ops, c, &c->peer), 0);
}

void client_new(device *d, client *c, const char *bearer)
{
    client_begin(d, c, bearer);
    wait_for(d, c->checked == 1);
}

void client_free(client *c)
{
    endpoint_peer_free(c->peer);
}

static void on_started(endpoint_watch *w, void *userdata)
{
    ((watcher *)userdata)->started++;
}

static void on_value(endpoint_watch *w, const endpoint_value *v, void *userdata)
{
    watcher *me = userdata;

    assert_true(v->sequence > me->sequence);
    assert_true(v->id[0] != 0);
    me->values++;
    me->sequence = v->sequence;
    me->gone = v->gone;
    me->resumed = v->resumed;
    me->gap = v->gap;
    snprintf(me->last, sizeof(me->last), "%.*s", (int)v->size, (const char *)v->body);
    snprintf(me->id, sizeof(me->id), "%s", v->id);
}

static void on_ended(endpoint_watch *w, unsigned status, const char *detail, void *userdata)
{
    assert_int_equal(((watcher *)userdata)->ended, 0);
    ((watcher *)userdata)->ended = status;
}

watcher *watch(client *c, const char *path)
{
    return watch_again(c, path, NULL);
}

watcher *watch_again(client *c, const char *path, const char *last_id)
{
    static const endpoint_watch_ops watch_ops = {on_started, on_value, on_ended};
    watcher *w = calloc(1, sizeof(*w));

    assert_non_null(w);
    assert_int_equal(endpoint_watch_resume(c->peer, path, last_id, &watch_ops, w, &w->watch), 0);
    return w;
}

void watcher_free(watcher *w)
{
    endpoint_watch_free(w->watch);
    free(w);
}
