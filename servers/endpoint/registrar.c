/* SPDX-License-Identifier: Apache-2.0 */
#include <sys/socket.h>
#include <sys/un.h>

#include "core.h"

#define BACKOFF_FIRST (20u * 1000u)
#define BACKOFF_LAST (1000u * 1000u)

static void try_again(registrar *g)
{
    timer_start(&g->core->timers, TIMERS_SHORT, &g->timer, timer_now() + g->backoff);
    g->backoff = MIN_OF(g->backoff * 2, (uint64_t)BACKOFF_LAST);
}

static int take_string(const endpoint_field *f, char **to)
{
    free(TAKE_PTR(*to));
    if (memchr(f->value, 0, f->value_size))
        return -EBADMSG;
    *to = strndup(f->value, f->value_size);
    return *to ? 0 : -ENOMEM;
}

static int take_flag(const endpoint_field *f, bool *to)
{
    *to = f->value_size == 1 && *f->value == '1';
    return 0;
}

static int take_road(const endpoint_field *f, entry_road *to)
{
    char text[16];
    int r = hybus_frame_field_copy(f, text, sizeof(text));

    if (r < 0)
        return r;
    if (streq(text, "channel"))
        *to = ROAD_CHANNEL;
    else if (streq(text, "bus"))
        *to = ROAD_BUS;
    else if (streq(text, "start"))
        *to = ROAD_START;
    else
        return -EBADMSG;
    return 0;
}

/* A rule that cannot be understood must not open what it was meant to guard: the whole entry goes.
 */
static int take_rule(table *t, const endpoint_field *f, entry_definition *d)
{
    char text[2 * LIMIT_RULE_SUBPATH + LIMIT_PERMISSION];
    int r = hybus_frame_field_copy(f, text, sizeof(text));

    return r < 0 ? r : entry_definition_add_rule(t, d, text);
}

static int take_field(table *t, const endpoint_field *f, char *namespace, entry_definition *d,
                      uint64_t *revision)
{
    uint64_t n;
    int r = 0;

    if (hybus_frame_field_is(f, ":namespace"))
        return hybus_frame_field_copy(f, namespace, CHANNEL_NAMESPACE_MAX + 1);
    if (hybus_frame_field_is(f, ":revision"))
        return hybus_frame_field_number(f, UINT64_MAX, revision);
    if (hybus_frame_field_is(f, ":key"))
        return hybus_frame_field_copy(f, d->key, sizeof(d->key));
    if (hybus_frame_field_is(f, ":uid")) {
        r = hybus_frame_field_number(f, UINT32_MAX - 1, &n);
        if (r >= 0)
            d->uid = (uint32_t)n;
        return r;
    }
    if (hybus_frame_field_is(f, ":road"))
        return take_road(f, &d->road);
    if (hybus_frame_field_is(f, ":bus-name"))
        return take_string(f, &d->bus_name);
    if (hybus_frame_field_is(f, ":object"))
        return take_string(f, &d->object);
    if (hybus_frame_field_is(f, ":unit"))
        return take_string(f, &d->unit);
    if (hybus_frame_field_is(f, ":title"))
        return take_string(f, &d->title);
    if (hybus_frame_field_is(f, ":attributes"))
        return take_string(f, &d->attributes);
    if (hybus_frame_field_is(f, ":stream"))
        return take_flag(f, &d->stream);
    if (hybus_frame_field_is(f, ":watch"))
        return take_flag(f, &d->watch);
    if (hybus_frame_field_is(f, ":rule"))
        return take_rule(t, f, d);
    return 0;
}

int registrar_parse_entry(table *t, const hybus_frame *f, char *namespace, entry_definition *ret,
                          uint64_t *ret_revision)
{
    hybus_frame_fields fields;
    endpoint_field field;
    int r;

    *ret = (entry_definition){.uid = UINT32_MAX};
    namespace[0] = 0;
    hybus_frame_fields_init(&fields, f->payload, f->size);
    while ((r = hybus_frame_fields_next(&fields, &field)) > 0) {
        r = take_field(t, &field, namespace, ret, ret_revision);
        if (r < 0)
            break;
    }
    /* An empty ENTRY with END closes a snapshot that holds nothing. */
    if (r >= 0 && namespace[0] && !namespace_valid(namespace))
        r = -EBADMSG;
    if (r >= 0 && namespace[0] && !(f->flags & CHANNEL_GONE)) {
        if (ret->uid == UINT32_MAX ||
            (ret->road == ROAD_BUS &&
             (!ret->bus_name || !ret->object || !sd_bus_object_path_is_valid(ret->object))))
            r = -EBADMSG;
    }
    if (r < 0)
        entry_definition_done(t, ret);
    return r;
}

/* The snapshot of a registrar that has just been started knows nobody yet: its apps have some
 * seconds to come back before what they had is gone. */
static void snapshot_complete(registrar *g)
{
    endpoint_core *c = g->core;

    g->snapshot = false;
    list_for_each(n, &c->table.entries)
    {
        entry *e = list_entry(n, entry, node);
        if (!e->seen && list_empty(&e->stale.node))
            timer_start(&c->timers, TIMERS_SHORT, &e->stale, timer_now() + LIMIT_GRACE_USEC);
    }
}

static int on_entry(registrar *g, const hybus_frame *f)
{
    endpoint_core *c = g->core;
    char namespace[CHANNEL_NAMESPACE_MAX + 1];
    entry_definition d;
    entry *e;
    int r;

    if (!g->snapshot && f->size == 0)
        return 0;
    r = registrar_parse_entry(&c->table, f, namespace, &d, &c->table.revision);
    if (r < 0)
        return r;
    if (namespace[0] && (f->flags & CHANNEL_GONE)) {
        e = table_find(&c->table, namespace, strlen(namespace));
        if (e)
            table_remove(c, e);
    } else if (namespace[0]) {
        r = table_set(c, namespace, &d, &e);
        if (r >= 0) {
            link_table_changed(c, e);
            if (e->d.road == ROAD_BUS) {
                watch_attached(c, e);
                entry_deliver_waiting(e);
            }
        }
    }
    entry_definition_done(&c->table, &d);
    if (f->flags & CHANNEL_END)
        snapshot_complete(g);
    return r == -ENOBUFS ? 0 : r; /* a full table keeps serving what it has */
}

/* What an app on the bus said to Endpoints1.Notify. */
static int on_notify(registrar *g, const hybus_frame *f)
{
    char namespace[CHANNEL_NAMESPACE_MAX + 1] = "";
    hybus_frame_fields fields;
    endpoint_field field;
    const uint8_t *body;
    size_t size;
    entry *e;
    int r = hybus_frame_split(f, &fields, &body, &size);

    while (r >= 0 && (r = hybus_frame_fields_next(&fields, &field)) > 0)
        if (hybus_frame_field_is(&field, ":namespace"))
            r = hybus_frame_field_copy(&field, namespace, sizeof(namespace));
    if (r < 0)
        return r;
    e = table_find(&g->core->table, namespace, strlen(namespace));
    return e ? watch_notify_frame(g->core, e, f) : 0;
}

static int on_frame(wire *w, const hybus_frame *f)
{
    registrar *g = list_entry(w, registrar, wire);

    if (!g->greeted && f->type != CHANNEL_HELLO)
        return -EBADMSG;
    switch (f->type) {
    case CHANNEL_HELLO:
        g->greeted = true;
        g->backoff = BACKOFF_FIRST;
        g->snapshot = true;
        list_for_each(n, &g->core->table.entries) list_entry(n, entry, node)->seen = false;
        return 0;
    case CHANNEL_ENTRY:
        return on_entry(g, f);
    case CHANNEL_NOTIFY:
        return on_notify(g, f);
    case CHANNEL_PING:
        wire_send(w, CHANNEL_PONG, 0, 0, f->value);
        return 0;
    case CHANNEL_PONG:
    case CHANNEL_GOAWAY:
        return 0;
    default:
        return f->type >= CHANNEL_IGNORABLE ? 0 : -EBADMSG;
    }
}

/* The last table stays: requests go on. */
static void on_closed(wire *w, int error)
{
    registrar *g = list_entry(w, registrar, wire);

    g->connected = g->greeted = false;
    try_again(g);
}

static const wire_ops registrar_ops = {.frame = on_frame, .closed = on_closed};

static int open_socket(registrar *g)
{
    union {
        struct sockaddr sa;
        struct sockaddr_un un;
    } address = {.un.sun_family = AF_UNIX};
    _cleanup_(closep) int fd = -1;
    size_t n = strlen(g->path);
    int r;

    if (n >= sizeof(address.un.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.un.sun_path, g->path, n + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    /* Either at once or not at all: EAGAIN is a full backlog. */
    if (connect(fd, &address.sa, sizeof(address.un)) < 0)
        return -errno;
    r = wire_open(&g->wire, g->core, fd, &registrar_ops);
    if (r >= 0)
        TAKE_FD(fd);
    return r;
}

static void registrar_connect(registrar *g)
{
    if (open_socket(g) < 0) {
        try_again(g);
        return;
    }
    g->connected = true;
    hybus_frame_begin(&g->wire.out, CHANNEL_HELLO, 0, 0, 0, CHANNEL_VERSION);
    hybus_frame_put(&g->wire.out, ":role", "server");
    hybus_frame_put(&g->wire.out, ":name", g->core->server);
    wire_end(&g->wire);
}

static void on_retry(endpoint_timer *timer)
{
    registrar_connect(list_entry(timer, registrar, timer));
}

int registrar_init(registrar *g, endpoint_core *c, const char *path)
{
    g->core = c;
    g->wire.fd = -1;
    g->backoff = BACKOFF_FIRST;
    g->timer.fire = on_retry;
    list_init(&g->timer.node);
    list_init(&g->wire.dirty_node);
    g->path = strdup(path);
    if (!g->path)
        return -ENOMEM;
    registrar_connect(g);
    return 0;
}

void registrar_done(registrar *g)
{
    if (g->core) {
        timer_stop(&g->timer);
        wire_close(&g->wire);
    }
    free(TAKE_PTR(g->path));
}

int registrar_start_unit(registrar *g, const entry *e)
{
    if (!g->greeted)
        return -ENOTCONN;
    hybus_frame_begin(&g->wire.out, CHANNEL_START, 0, 0, 0, 0);
    hybus_frame_put(&g->wire.out, ":namespace", e->namespace);
    wire_end(&g->wire);
    return 0;
}
