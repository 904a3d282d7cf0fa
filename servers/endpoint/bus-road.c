/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <hybus/memfd.h>
#include <hybus/utf8.h>
#include <sys/mman.h>

#include "bus-road.h"

#define INTERFACE "org.hybridos.Responder1"
/* Not against writing, which would also keep us from taking the memory back. */
#define BODY_SEALS (HYBUS_MEMFD_SEALS_SIZE | F_SEAL_SEAL)

/* --- places: what is in flight, for whom
 * ------------------------------------------------------------------------------------------- */

/* Whoever has taken much gets no more before the others: after this, what an app has is at most as
 * much as there is left. So a few apps that never answer do not take everything. */
static bool share(size_t own, size_t all, size_t more, size_t limit)
{
    return all + more <= limit && own + more <= limit - all - more;
}

static bool may_send(const bus_call *b)
{
    const endpoint_core *c = b->core;
    const owner *o = b->owner;

    return o->bus_open < LIMIT_BUS_RESPONDER &&
           share(o->bus_open, c->bus_open, 1, LIMIT_BUS_REQUESTS) &&
           (b->fds == 0 || share(o->bus_fds, c->bus_fds, b->fds, LIMIT_BUS_FDS));
}

static void take_place(bus_call *b)
{
    b->core->bus_open++;
    b->owner->bus_open++;
    b->core->bus_fds += b->fds;
    b->owner->bus_fds += b->fds;
}

static void leave_place(bus_call *b)
{
    b->core->bus_open--;
    b->owner->bus_open--;
    b->core->bus_fds -= b->fds;
    b->owner->bus_fds -= b->fds;
    if (!list_empty(&b->core->bus_queues))
        core_wake(b->core);
}

static void leave_queue(bus_call *b)
{
    timer_stop(&b->timer);
    list_remove(&b->node);
    if (list_empty(&b->owner->bus_queue)) {
        list_remove(&b->owner->bus_node);
        b->core->n_bus_queues--;
    }
}

/* --- life
 * ------------------------------------------------------------------------------------------- */

/* The app may still hold the file: what stays with it is a hole, not memory that we pay for. Beyond
 * the end, since a page that is reached in part would stay. */
static void drop_body(bus_call *b)
{
    if (b->body_fd >= 0 && b->spooled > 0)
        (void)fallocate(b->body_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                        (off_t)b->spooled + 65536);
    b->body_fd = safe_close(b->body_fd);
    if (b->spooled > 0) {
        b->core->bus_spooled -= b->spooled;
        b->owner->bus_spooled -= b->spooled;
        b->spooled = 0;
    }
}

static void call_free(bus_call *b)
{
    drop_body(b);
    list_remove(&b->node);
    sd_bus_slot_unref(b->slot);
    sd_event_source_disable_unref(b->source);
    sd_bus_message_unref(b->message);
    safe_close(b->reply_fd);
    owner_unref(b->owner);
    free(b->to.bus_name);
    free(b->to.object);
    free(b);
}

/* The request is over. */
void bus_release(endpoint_request *r)
{
    bus_call *b = TAKE_PTR(r->bus);

    if (!b)
        return;
    b->request = NULL;
    if (b->state == BUS_QUEUED)
        leave_queue(b);
    if (b->state != BUS_SENT) {
        call_free(b);
        return;
    }
    b->state = BUS_LOST;
    b->owner->bus_lost++;
    list_append(&b->core->bus_lost, &b->node);
    drop_body(b);
    b->reply_fd = safe_close(b->reply_fd);
}

/* The app's reply is here, or the bus says that none will come. */
void bus_answered(bus_call *b)
{
    b->core->bus_busy = true;
    core_wake(b->core);
    leave_place(b);
    b->slot = sd_bus_slot_unref(b->slot);
    if (b->state == BUS_LOST) {
        b->owner->bus_lost--;
        call_free(b);
    } else
        b->state = BUS_STREAMING;
}

/* A Watch on its way. Whether the app is glad of it is its own business, but it has to read it. */
typedef struct telling {
    list node;
    endpoint_core *core;
    owner *owner;
    char *bus_name;
    sd_bus_slot *slot;
} telling;

static void telling_free(telling *t)
{
    list_remove(&t->node);
    t->core->bus_watches--;
    t->owner->bus_watches--;
    sd_bus_slot_unref(t->slot);
    owner_unref(t->owner);
    free(t->bus_name);
    free(t);
}

void bus_done(endpoint_core *c)
{
    while (!list_empty(&c->bus_lost))
        call_free(list_entry(c->bus_lost.next, bus_call, node));
    while (!list_empty(&c->bus_tellings))
        telling_free(list_entry(c->bus_tellings.next, telling, node));
}

/* --- Cancel and Watch
 * ------------------------------------------------------------------------------------------- */

static int small_call(endpoint_core *c, const entry_definition *to, const char *member,
                      sd_bus_message **ret)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
    int k = sd_bus_message_new_method_call(c->bus, &m, to->bus_name, to->object, INTERFACE, member);

    if (k >= 0)
        k = sd_bus_message_set_auto_start(m, false);
    if (k >= 0)
        *ret = TAKE_PTR(m);
    return k;
}

void bus_cancel(endpoint_request *r)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
    const bus_call *b = r->bus;
    char id[34];

    if (!b || !(b->state == BUS_SENT || (b->state == BUS_STREAMING && b->piped)))
        return;
    request_id_text(r, id);
    /* Nobody waits for it, and there is one at most for each Handle, of which there are few. */
    if (small_call(r->core, &b->to, "Cancel", &m) >= 0 &&
        sd_bus_message_set_expect_reply(m, false) >= 0 && sd_bus_message_append(m, "s", id) >= 0)
        (void)sd_bus_send(r->core->bus, m, NULL);
}

static int on_told(sd_bus_message *m, void *userdata, sd_bus_error *e)
{
    telling *t = userdata;
    endpoint_core *c = t->core;

    telling_free(t);
    watch_places(c);
    return 0;
}

/* The bus would keep for an app whatever it does not read. So it is told one thing at a time, and of what
 * changes meanwhile the end alone. */
static bool may_tell(const endpoint_core *c, const owner *o, const char *bus_name)
{
    if (o->bus_watches >= LIMIT_BUS_WATCHES_UID || c->bus_watches >= LIMIT_BUS_WATCHES)
        return false;
    list_for_each(n, &c->bus_tellings)
    {
        if (streq(list_entry(n, telling, node)->bus_name, bus_name))
            return false;
    }
    return true;
}

static telling *telling_new(endpoint_core *c, const entry_definition *to)
{
    owner *o = owner_get(c, to->uid);
    telling *t = o && may_tell(c, o, to->bus_name) ? calloc(1, sizeof(*t)) : NULL;

    if (t && !(t->bus_name = strdup(to->bus_name)))
        free(TAKE_PTR(t));
    if (!t) {
        owner_unref(o);
        return NULL;
    }
    t->core = c;
    t->owner = o;
    o->bus_watches++;
    c->bus_watches++;
    list_append(&c->bus_tellings, &t->node);
    return t;
}

bool bus_watch(endpoint_core *c, entry *e, const char *subpath, uint32_t watchers)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
    telling *t;
    int k;

    if (!c->bus || sd_bus_is_ready(c->bus) <= 0)
        return false;
    t = telling_new(c, &e->d);
    if (!t)
        return false;
    k = small_call(c, &e->d, "Watch", &m);
    if (k >= 0)
        k = sd_bus_message_append(m, "su", subpath, watchers);
    if (k >= 0)
        k = sd_bus_call_async(c->bus, &t->slot, m, on_told, t, UINT64_MAX);
    if (k < 0)
        telling_free(t);
    return true; /* what cannot be said now cannot be said later */
}

/* --- the message
 * ------------------------------------------------------------------------------------------- */

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
        _cleanup_(freep) char *name = NULL, *value = NULL;

        /* What is no text to D-Bus cannot travel on this road. */
        if (!hybus_utf8_is_valid(f->name, f->name_size) ||
            !hybus_utf8_is_valid(f->value, f->value_size))
            continue;
        name = strndup(f->name, f->name_size);
        value = strndup(f->value, f->value_size);
        if (!name || !value)
            return -ENOMEM;
        k = sd_bus_message_append(m, "(ss)", name, value);
    }
    for (int depth = 0; k >= 0 && depth < 3; depth++)
        k = sd_bus_message_close_container(m);
    return k;
}

/* What is known at once; the request's dictionary stays open. */
static int begin_message(bus_call *b, entry *e, const endpoint_request_info *i)
{
    endpoint_request *r = b->request;
    endpoint_core *c = r->core;
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
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
        k = append_headers(m, i);
    if (k >= 0)
        b->message = TAKE_PTR(m);
    return k;
}

static int append_pipe(bus_call *b, sd_bus_message *m)
{
    _cleanup_(closep) int far = -1;
    int fds[2];

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    b->reply_fd = fds[0];
    far = fds[1];
    if (fcntl(b->reply_fd, F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    return sd_bus_message_append(m, "{sv}", "stream", "h", far); /* duplicates it */
}

/* The rest, which is different a moment later or costs a descriptor. */
static int end_message(bus_call *b, const void *body, size_t size)
{
    sd_bus_message *m = b->message;
    uint64_t now = timer_now(), until = b->request->deadline.when;
    int k;

    k = sd_bus_message_append(m, "{sv}", "deadline", "u",
                              (uint32_t)(until > now ? (until - now) / 1000 : 0));
    if (k >= 0 && b->stream)
        k = append_pipe(b, m);
    if (k >= 0 && b->body_fd >= 0) {
        (void)lseek(b->body_fd, 0, SEEK_SET);
        k = sd_bus_message_append(m, "{sv}", "body", "h", b->body_fd);
        size = 0;
    }
    if (k >= 0)
        k = sd_bus_message_close_container(m);
    if (k >= 0)
        k = sd_bus_message_append_array(m, 'y', body, size);
    return k;
}

/* No timeout of sd-bus: the core has its own deadline, and the place stays taken until the app has
 * answered or left. */
static int send_message(bus_call *b, const void *body, size_t size)
{
    endpoint_request *r = b->request;
    int k = end_message(b, body, size);

    if (k >= 0)
        k = sd_bus_call_async(b->core->bus, &b->slot, b->message, bus_on_reply, b, UINT64_MAX);
    b->message = sd_bus_message_unref(b->message);
    if (k < 0)
        return k;
    b->state = BUS_SENT;
    take_place(b);
    if (r->held) {
        b->core->held_bytes -= r->held_size;
        free(TAKE_PTR(r->held));
        r->held_size = 0;
    }
    return 0;
}

/* --- the queue
 * ------------------------------------------------------------------------------------------- */

static void on_queue_timeout(endpoint_timer *timer)
{
    bus_call *b = list_entry(timer, bus_call, timer);
    request_fail(b->request, 503, "The app has too much to do.");
}

/* The request is complete: it goes out now, or waits for its turn. */
static int go(bus_call *b, const void *body, size_t size)
{
    endpoint_request *r = b->request;
    endpoint_core *c = b->core;
    owner *o = b->owner;

    r->body_ended = true;
    b->fds = (unsigned)b->stream + (b->body_fd >= 0);
    if (list_empty(&o->bus_queue) && may_send(b))
        return send_message(b, body, size);
    if (o->bus_open > 0 && o->bus_open == o->bus_lost)
        return -EBUSY; /* whatever it was asked, it has not answered in time: no use in waiting */
    if (b->body_fd < 0 && size > 0 && !r->held) {
        int k = request_hold_body(r, body, size, true);
        if (k < 0)
            return k;
    }
    b->state = BUS_QUEUED;
    if (list_empty(&o->bus_queue)) {
        list_append(&c->bus_queues, &o->bus_node);
        c->n_bus_queues++;
    }
    list_append(&o->bus_queue, &b->node);
    timer_start(&c->timers, TIMERS_SHORT, &b->timer, timer_now() + LIMIT_BUS_WAIT_USEC);
    return 0;
}

static unsigned error_status(int k)
{
    return k == -EINVAL                                   ? 400 /* a path that is no UTF-8 */
           : k == -EBUSY || k == -ENOBUFS || k == -ENOMEM ? 503
                                                          : 502;
}

/* Round robin over the apps, one request each. What is sent may fail, and callbacks may free any
 * other: everything is looked up anew each time. */
static void send_queued(endpoint_core *c)
{
    for (size_t idle = 0; !list_empty(&c->bus_queues) && idle < c->n_bus_queues;) {
        owner *o = list_entry(c->bus_queues.next, owner, bus_node);
        bus_call *b = list_entry(o->bus_queue.next, bus_call, node);
        endpoint_request *r = b->request;
        int k;

        list_remove(&o->bus_node);
        list_append(&c->bus_queues, &o->bus_node);
        if (!may_send(b)) {
            idle++;
            continue;
        }
        idle = 0;
        leave_queue(b);
        b->state = BUS_COLLECTING;
        k = send_message(b, r->held, r->held ? r->held_size : 0);
        if (k < 0)
            request_fail(r, error_status(k), "The request could not be passed on.");
    }
}

/* sd-bus takes one message per turn of the loop. When replies come, as many as there are are taken
 * at once, so that the server writes their answers together. */
void bus_turn(endpoint_core *c)
{
    if (c->bus_busy) {
        for (unsigned i = 0; i < LIMIT_BUS_TURN; i++)
            if (sd_bus_process(c->bus, NULL) <= 0)
                break;
        c->bus_busy = false;
    }
    send_queued(c);
}

/* --- the request
 * ------------------------------------------------------------------------------------------- */

static int spool(bus_call *b, const uint8_t *data, size_t size)
{
    endpoint_core *c = b->core;

    if (!share(b->owner->bus_spooled, c->bus_spooled, size, LIMIT_BUS_SPOOL))
        return -ENOBUFS;
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
        b->spooled += (size_t)n;
        b->owner->bus_spooled += (size_t)n;
        c->bus_spooled += (size_t)n;
    }
    return 0;
}

static int seal(bus_call *b)
{
    return fcntl(b->body_fd, F_ADD_SEALS, BODY_SEALS) < 0 ? -errno : 0;
}

/* It came in parts, but in the end it was small: the app gets it like any small body. */
static int unspool(bus_call *b)
{
    size_t size = b->spooled;
    _cleanup_(freep) void *body = malloc(size + 1);
    int k;

    if (!body)
        return -ENOMEM;
    if (pread(b->body_fd, body, size, 0) != (ssize_t)size)
        return -EIO;
    k = request_hold_body(b->request, body, size, true);
    if (k >= 0)
        drop_body(b);
    return k;
}

int bus_body(endpoint_request *r, const void *data, size_t size, bool end)
{
    bus_call *b = r->bus;
    int k;

    if (b->state != BUS_COLLECTING)
        return 0;
    k = spool(b, data, size);
    if (k >= 0 && end)
        k = b->spooled > LIMIT_BUS_INLINE ? seal(b) : unspool(b);
    if (k >= 0 && end)
        k = go(b, r->held, r->held ? r->held_size : 0);
    if (k < 0)
        request_fail(r, error_status(k), "The request could not be passed on.");
    return 0;
}

static bus_call *call_new(entry *e, endpoint_request *r)
{
    bus_call *b = calloc(1, sizeof(*b));

    if (!b)
        return NULL;
    b->core = r->core;
    b->request = r;
    b->body_fd = b->reply_fd = -1;
    list_init(&b->node);
    list_init(&b->timer.node);
    b->timer.fire = on_queue_timeout;
    b->stream = e->d.stream;
    b->owner = owner_get(r->core, e->d.uid);
    b->to.bus_name = strdup(e->d.bus_name);
    b->to.object = strdup(e->d.object);
    if (b->owner && b->to.bus_name && b->to.object)
        return b;
    call_free(b);
    return NULL;
}

unsigned bus_send_request(entry *e, endpoint_request *r, const endpoint_request_info *i)
{
    endpoint_core *c = r->core;
    const uint8_t *body = r->held ? r->held : i->body;
    size_t size = r->held ? r->held_size : i->body_size;
    bool end = r->held ? r->held_end : i->body_end;
    bus_call *b;
    int k;

    if (!c->bus)
        return 502;
    if (sd_bus_is_ready(c->bus) <= 0) /* sending would wait for it, in the middle of the loop */
        return 503;
    b = call_new(e, r);
    if (!b)
        return 503;
    r->bus = b;
    r->receive_credit = CHANNEL_CREDIT_INITIAL;
    k = begin_message(b, e, i);
    if (k >= 0 && (!end || size > LIMIT_BUS_INLINE))
        k = spool(b, body, size);
    if (k >= 0 && end && b->body_fd >= 0)
        k = seal(b);
    if (k >= 0 && end)
        k = go(b, body, size);
    if (k < 0) {
        bus_release(r);
        return error_status(k);
    }
    request_sent(r, b->owner, e->d.uid);
    if (r->held && (b->state != BUS_QUEUED || b->body_fd >= 0)) {
        c->held_bytes -= r->held_size;
        free(TAKE_PTR(r->held));
        r->held_size = 0;
    }
    return 0;
}
