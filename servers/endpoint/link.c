/* SPDX-License-Identifier: Apache-2.0 */
#include <sys/epoll.h>
#include <sys/socket.h>

#include "core.h"

#define STREAM_LAST 0x7fffff01u /* no new ones after this; the app connects anew */

/* --- owners
 * --------------------------------------------------------------------------------------------- */

owner *owner_get(endpoint_core *c, uint32_t uid)
{
    owner *o;

    list_for_each(n, &c->owners)
    {
        o = list_entry(n, owner, node);
        if (o->uid == uid) {
            o->refs++;
            return o;
        }
    }
    o = calloc(1, sizeof(*o));
    if (!o)
        return NULL;
    o->uid = uid;
    o->refs = 1;
    list_init(&o->bus_queue);
    list_init(&o->bus_node);
    list_append(&c->owners, &o->node);
    return o;
}

void owner_unref(owner *o)
{
    if (!o || --o->refs > 0)
        return;
    list_remove(&o->node);
    free(o);
}

/* --- streams
 * --------------------------------------------------------------------------------------------- */

static struct endpoint_request **stream_bucket(link_t *l, uint32_t id)
{
    return &l->streams[(id >> 1) % LINK_BUCKETS];
}

static struct endpoint_request *stream_find(link_t *l, uint32_t id)
{
    struct endpoint_request *r = *stream_bucket(l, id);

    while (r && r->stream != id)
        r = r->next_stream;
    return r;
}

void link_remove_stream(struct endpoint_request *r)
{
    link_t *l = r->link;
    struct endpoint_request **at;

    if (!l)
        return;
    for (at = stream_bucket(l, r->stream); *at != r; at = &(*at)->next_stream)
        ;
    *at = r->next_stream;
    r->link = NULL;
    l->open--;
    if (l->open == 0 && l->goaway)
        wire_dirty(&l->wire); /* the flush closes it */
}

/* --- attachments
 * ----------------------------------------------------------------------------------------- */

static void attachment_free(attachment *a)
{
    if (a->entry && a->entry->attachment == a) {
        a->entry->attachment = NULL;
        resume_detached(a->link->wire.core, a->entry);
    }
    timer_stop(&a->timer);
    list_remove(&a->node);
    a->link->n_attachments--;
    free(a->namespace);
    free(a);
}

static void refuse(link_t *l, uint32_t id, uint16_t code, const char *reason)
{
    hybus_frame_begin(&l->wire.out, CHANNEL_REFUSED, 0, code, id, 0);
    hybus_frame_put(&l->wire.out, ":reason", reason);
    wire_end(&l->wire);
}

void attachment_detach(attachment *a, const char *reason)
{
    refuse(a->link, a->id, 410, reason);
    attachment_free(a);
}

static void attach_timeout(endpoint_timer *timer)
{
    attachment *a = list_entry(timer, attachment, timer);

    refuse(a->link, a->id, 403, "No registration of this namespace has this key and this user.");
    attachment_free(a);
}

void entry_deliver_waiting(entry *e)
{
    list waiting;

    list_move_all(&e->waiting, &waiting);
    while (!list_empty(&waiting)) {
        struct endpoint_request *r = list_entry(waiting.next, struct endpoint_request, wait_node);
        list_remove(&r->wait_node);
        request_decide_saved(r);
    }
}

static bool attach_try(attachment *a, entry *e)
{
    link_t *l = a->link;

    if (e->d.road != ROAD_CHANNEL || e->d.uid != l->owner->uid || !streq(e->d.key, a->key))
        return false;
    if (e->attachment) {
        if (e->attachment->link == l)
            refuse(l, e->attachment->id, 410, "Attached again.");
        attachment_free(e->attachment);
    }
    timer_stop(&a->timer);
    a->entry = e;
    e->attachment = a;
    wire_send(&l->wire, CHANNEL_ATTACHED, 0, a->id, 0);
    watch_attached(l->wire.core, e);
    entry_deliver_waiting(e);
    return true;
}

void link_table_changed(endpoint_core *c, entry *e)
{
    list_for_each(n, &c->links)
    {
        link_t *l = list_entry(n, link_t, node);
        for (list *m = l->attachments.next; m != &l->attachments; m = m->next) {
            attachment *a = list_entry(m, attachment, node);
            if (!a->entry && streq(a->namespace, e->namespace) && attach_try(a, e))
                return;
        }
    }
}

static attachment *attachment_find(link_t *l, uint32_t id)
{
    list_for_each(n, &l->attachments)
    {
        attachment *a = list_entry(n, attachment, node);
        if (a->id == id)
            return a;
    }
    return NULL;
}

static int on_attach(link_t *l, const hybus_frame *f)
{
    endpoint_core *c = l->wire.core;
    char namespace[CHANNEL_NAMESPACE_MAX + 1] = "", key[17] = "";
    hybus_frame_fields fields;
    endpoint_field field;
    uint64_t resume = 0;
    attachment *a;
    entry *e;
    int r;

    hybus_frame_fields_init(&fields, f->payload, f->size);
    while ((r = hybus_frame_fields_next(&fields, &field)) > 0) {
        if (hybus_frame_field_is(&field, ":resume"))
            r = hybus_frame_field_number(&field, 1, &resume);
        else if (hybus_frame_field_is(&field, ":namespace"))
            r = hybus_frame_field_copy(&field, namespace, sizeof(namespace));
        else if (hybus_frame_field_is(&field, ":key"))
            r = hybus_frame_field_copy(&field, key, sizeof(key));
        if (r < 0)
            return r;
    }
    if (r < 0 || !namespace_valid(namespace) || !*key || attachment_find(l, f->stream))
        return -EBADMSG;
    if (l->n_attachments >= LIMIT_ATTACHMENTS || l->goaway) {
        refuse(l, f->stream, 429, "Too many namespaces on this connection.");
        return 0;
    }
    a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    a->namespace = strdup(namespace);
    if (!a->namespace) {
        free(a);
        return -ENOMEM;
    }
    a->link = l;
    a->id = f->stream;
    a->resume = resume == 1;
    memcpy(a->key, key, sizeof(key));
    list_init(&a->timer.node);
    a->timer.fire = attach_timeout;
    list_append(&l->attachments, &a->node);
    l->n_attachments++;
    e = table_find(&c->table, namespace, strlen(namespace));
    if (!e || !attach_try(a, e))
        timer_start(&c->timers, TIMERS_SHORT, &a->timer, timer_now() + LIMIT_ATTACH_USEC);
    return 0;
}

void link_watch(attachment *a, const char *subpath, uint32_t watchers)
{
    hybus_frame_queue *q = &a->link->wire.out;

    hybus_frame_begin(q, CHANNEL_WATCH, 0, 0, a->id, watchers);
    hybus_frame_put(q, ":path", *subpath ? subpath : "/");
    wire_end(&a->link->wire);
}

void link_resume(attachment *a, uint32_t token, const char *subpath, const char *id)
{
    hybus_frame_queue *q = &a->link->wire.out;

    hybus_frame_begin(q, CHANNEL_RESUME, 0, 0, a->id, token);
    hybus_frame_put(q, ":path", *subpath ? subpath : "/");
    hybus_frame_put(q, ":id", id);
    wire_end(&a->link->wire);
}

/* --- what an app says
 * ------------------------------------------------------------------------------------- */

static int on_hello(link_t *l, const hybus_frame *f)
{
    bool app = false;
    hybus_frame_fields fields;
    endpoint_field field;
    uint64_t n;
    int r;

    if (l->greeted || f->value < 1)
        return -EBADMSG;
    hybus_frame_fields_init(&fields, f->payload, f->size);
    while ((r = hybus_frame_fields_next(&fields, &field)) > 0) {
        if (hybus_frame_field_is(&field, ":role"))
            app = field.value_size == 3 && memcmp(field.value, "app", 3) == 0;
        else if (hybus_frame_field_is(&field, ":max-requests")) {
            if (hybus_frame_field_number(&field, CHANNEL_REQUESTS_MAX, &n) >= 0 && n > 0)
                l->requests_max = n;
        }
    }
    if (r < 0 || !app)
        return -EBADMSG;
    l->greeted = true;
    timer_stop(&l->hello);
    return 0;
}

/* A stream that has ended may still get frames that crossed; one that never was may not. */
static int stream_of(link_t *l, const hybus_frame *f, struct endpoint_request **ret)
{
    if (f->stream % 2 == 0 || f->stream > l->last_stream)
        return -EBADMSG;
    *ret = stream_find(l, f->stream);
    return *ret ? 1 : 0;
}

static int on_response(link_t *l, const hybus_frame *f)
{
    endpoint_field fields[CHANNEL_FIELDS_MAX];
    size_t n = 0, size;
    struct endpoint_request *r;
    hybus_frame_fields it;
    const uint8_t *body;
    int k;

    k = stream_of(l, f, &r);
    if (k <= 0)
        return k;
    if (r->replied || f->code < 200 || f->code > 599 || (f->flags & ~CHANNEL_END))
        return -EBADMSG;
    k = hybus_frame_split(f, &it, &body, &size);
    if (k < 0)
        return k;
    it.any_name = true; /* a bad name costs this request, not the connection */
    while ((k = hybus_frame_fields_next(&it, &fields[n])) > 0)
        if (++n == ELEMENTS(fields))
            break;
    if (k < 0 || it.at != it.end || size > r->receive_credit)
        return -EBADMSG;
    r->receive_credit -= (uint32_t)size;
    k = request_reply(r, f->code, fields, n, body, size, f->flags & CHANNEL_END);
    if (k == -EBADMSG) { /* well-formed frame, words that HTTP cannot carry */
        link_cancel(r, 500);
        request_fail(r, 502, "The app's answer was not valid.");
    }
    return 0;
}

static int on_data(link_t *l, const hybus_frame *f)
{
    struct endpoint_request *r;
    int k = stream_of(l, f, &r);

    if (k <= 0)
        return k;
    if (!r->replied || f->size > r->receive_credit || (f->flags & ~CHANNEL_END))
        return -EBADMSG;
    r->receive_credit -= f->size;
    if (request_data(r, f->payload, f->size, f->flags & CHANNEL_END) < 0) {
        link_cancel(r, 500);
        request_fail(r, 502, "The app's answer was not as long as it said.");
    }
    return 0;
}

static int on_cancel(link_t *l, const hybus_frame *f)
{
    struct endpoint_request *r;
    int k = stream_of(l, f, &r);

    if (k <= 0)
        return k;
    request_fail(r, 502, "The app gave up on this request.");
    return 0;
}

static int on_credit(link_t *l, const hybus_frame *f)
{
    struct endpoint_request *r;
    int k = stream_of(l, f, &r);

    if (k <= 0)
        return k;
    if (f->value > INT32_MAX - r->send_credit)
        return -EBADMSG;
    r->send_credit += f->value;
    link_pump(r);
    r->starved = false;
    if (r->ops->taken && !r->body_ended)
        r->ops->taken(r, f->value, r->userdata);
    return 0;
}

static int on_notify(link_t *l, const hybus_frame *f)
{
    attachment *a = attachment_find(l, f->stream);

    /* Not, or no longer, its to speak for: it may have crossed with the news of that. */
    if (!a || !a->entry) {
        l->wire.core->statistics.notifies_dropped++;
        return 0;
    }
    return watch_notify_frame(l->wire.core, a->entry, f);
}

static int on_resumed(link_t *l, const hybus_frame *f)
{
    attachment *a = attachment_find(l, f->stream);

    return resume_answer(l->wire.core, a ? a->entry : NULL, f);
}

static int on_frame(wire *w, const hybus_frame *f)
{
    link_t *l = list_entry(w, link_t, wire);

    if (!l->greeted && f->type != CHANNEL_HELLO)
        return -EBADMSG;
    switch (f->type) {
    case CHANNEL_HELLO:
        return on_hello(l, f);
    case CHANNEL_GOAWAY:
        l->goaway = true;
        if (l->open == 0)
            wire_dirty(w);
        return 0;
    case CHANNEL_PING:
        wire_send(w, CHANNEL_PONG, 0, 0, f->value);
        return 0;
    case CHANNEL_PONG:
        return 0;
    case CHANNEL_ATTACH:
        return on_attach(l, f);
    case CHANNEL_RESPONSE:
        return on_response(l, f);
    case CHANNEL_DATA:
        return on_data(l, f);
    case CHANNEL_CANCEL:
        return on_cancel(l, f);
    case CHANNEL_CREDIT:
        return on_credit(l, f);
    case CHANNEL_NOTIFY:
        return on_notify(l, f);
    case CHANNEL_RESUMED:
        return on_resumed(l, f);
    default:
        return f->type >= CHANNEL_IGNORABLE ? 0 : -EBADMSG;
    }
}

/* --- what is said to it
 * ------------------------------------------------------------------------------------ */

/* Sends what the credit admits of `data` and returns how much that was. */
static size_t send_body(struct endpoint_request *r, const uint8_t *data, size_t size, bool end)
{
    wire *w = &r->link->wire;
    size_t sent = 0;

    do {
        size_t room = MIN_OF((size_t)CHANNEL_PAYLOAD_MAX, (size_t)r->send_credit);
        size_t n = MIN_OF(size - sent, room);
        bool last = end && sent + n == size;
        hybus_frame f = {.size = (uint32_t)n,
                         .type = CHANNEL_DATA,
                         .flags = last ? CHANNEL_END : 0,
                         .stream = r->stream,
                         .payload = data + sent};

        if ((n == 0 && !last) || hybus_frame_queue_pending(&w->out) >= LIMIT_OUT_HIGH)
            break;
        wire_add(w, &f);
        r->send_credit -= (uint32_t)n;
        sent += n;
        r->body_ended = last;
    } while (sent < size);
    return sent;
}

void link_pump(struct endpoint_request *r)
{
    size_t n;

    if (!r->held || r->body_ended)
        return;
    n = send_body(r, r->held + r->held_at, r->held_size - r->held_at, r->held_end);
    r->held_at += n;
    if (r->held_at < r->held_size || (r->held_end && !r->body_ended))
        return;
    r->core->held_bytes -= r->held_size;
    free(TAKE_PTR(r->held));
    r->held_size = r->held_at = 0;
}

static void put_request_fields(hybus_frame_queue *b, struct endpoint_request *r, const entry *e,
                               const endpoint_request_info *i)
{
    uint64_t now = timer_now();
    char id[34];

    request_id_text(r, id);
    hybus_frame_put(b, ":id", id);
    hybus_frame_put_field(b, ":namespace", 10, e->namespace, e->size);
    hybus_frame_put(b, ":protocol", r->core->protocol);
    hybus_frame_put(b, ":method", i->method);
    hybus_frame_put(b, ":path", i->path);
    hybus_frame_put(b, ":query", strempty(i->query));
    hybus_frame_put(b, ":principal", r->peer->principal->name);
    if (r->peer->principal->handle > 0) /* so that the app can act for it on the bus */
        hybus_frame_put_number(b, ":handle", r->peer->principal->handle);
    hybus_frame_put(b, ":peer", strempty(r->peer->connection.peer));
    hybus_frame_put_number(b, ":deadline",
                           r->deadline.when > now ? (r->deadline.when - now) / 1000 : 0);
    for (size_t k = 0; k < i->n_headers; k++)
        hybus_frame_put_field(b, i->headers[k].name, i->headers[k].name_size, i->headers[k].value,
                              i->headers[k].value_size);
}

unsigned link_send_request(link_t *l, entry *e, struct endpoint_request *r,
                           const endpoint_request_info *i)
{
    hybus_frame_queue *b = &l->wire.out;
    struct endpoint_request **bucket;
    size_t fields, n;
    bool fresh = !r->held;

    if (l->open >= l->requests_max || hybus_frame_queue_pending(b) >= LIMIT_OUT_HIGH || l->goaway)
        return 503;
    r->stream = l->last_stream ? l->last_stream + 2 : 1;
    hybus_frame_begin(b, CHANNEL_REQUEST, 0, 0, r->stream, 0);
    put_request_fields(b, r, e, i);
    fields = hybus_frame_size(b);
    if (b->error < 0 || fields > LIMIT_FIELDS) {
        unsigned status = b->error == -EMSGSIZE || b->error == 0 ? 431 : 503;
        hybus_frame_drop(b);
        return status;
    }
    r->send_credit = r->receive_credit = CHANNEL_CREDIT_INITIAL;
    n = fresh ? MIN_OF(i->body_size, (size_t)CHANNEL_PAYLOAD_MAX - fields) : 0;
    hybus_frame_put_body(b, i->body, n);
    r->body_ended = fresh ? i->body_end && n == i->body_size : r->held_end && r->held_size == 0;
    if (r->body_ended)
        hybus_frame_set_flags(b, CHANNEL_END);
    r->send_credit -= (uint32_t)n;
    l->last_stream = r->stream;
    wire_end(&l->wire);
    bucket = stream_bucket(l, r->stream);
    r->next_stream = *bucket;
    *bucket = r;
    r->link = l;
    l->open++;
    request_sent(r, l->owner, l->owner->uid);
    if (fresh && n < i->body_size) {
        const uint8_t *rest = (const uint8_t *)i->body + n;
        size_t left = i->body_size - n, sent = send_body(r, rest, left, i->body_end);
        if (sent < left && request_hold_body(r, rest + sent, left - sent, i->body_end) < 0) {
            link_cancel(r, 503);
            link_remove_stream(r);
            return 503;
        }
    }
    link_pump(r);
    if (l->last_stream >= STREAM_LAST)
        link_goaway(l);
    return 0;
}

void link_cancel(struct endpoint_request *r, uint16_t code)
{
    if (!r->link)
        return;
    wire_send(&r->link->wire, CHANNEL_CANCEL, code, r->stream, 0);
}

void link_goaway(link_t *l)
{
    if (l->goaway)
        return;
    l->goaway = true;
    wire_send(&l->wire, CHANNEL_GOAWAY, 503, 0, 0);
}

/* --- life
 * ---------------------------------------------------------------------------------------------------
 */

static void on_closed(wire *w, int error)
{
    link_t *l = list_entry(w, link_t, wire);
    endpoint_core *c = w->core;

    timer_stop(&l->hello);
    list_remove(&l->node);
    list_append(&c->dead_links, &l->dead_node);
    c->n_links--;
    l->owner->links--;
    while (!list_empty(&l->attachments))
        attachment_free(list_entry(l->attachments.next, attachment, node));
    for (size_t i = 0; i < LINK_BUCKETS; i++)
        while (l->streams[i])
            request_fail(l->streams[i], 502, "The app behind this address has gone.");
    core_wake(c);
}

static struct endpoint_request *find_starved(link_t *l)
{
    for (size_t i = 0; i < LINK_BUCKETS; i++)
        for (struct endpoint_request *r = l->streams[i]; r; r = r->next_stream)
            if (r->starved && !r->held)
                return r;
    return NULL;
}

static void on_drained(wire *w)
{
    link_t *l = list_entry(w, link_t, wire);
    struct endpoint_request *r;

    for (size_t i = 0; i < LINK_BUCKETS; i++)
        for (r = l->streams[i]; r; r = r->next_stream)
            link_pump(r);
    /* Callbacks may free any of them, or fill the buffer again: look anew each time, but not for
     * ever. */
    for (size_t n = l->open; n > 0 && !w->high && (r = find_starved(l)); n--) {
        r->starved = false;
        if (r->ops->taken)
            r->ops->taken(r, 0, r->userdata);
    }
}

static const wire_ops link_ops = {.frame = on_frame, .closed = on_closed, .drained = on_drained};

static void hello_timeout(endpoint_timer *timer)
{
    link_t *l = list_entry(timer, link_t, hello);
    wire_fail(&l->wire, -ETIMEDOUT);
}

int link_new(endpoint_core *c, int fd, link_t **ret)
{
    struct ucred creds;
    socklen_t size = sizeof(creds);
    link_t *l;
    int r;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &creds, &size) < 0)
        return -errno;
    l = calloc(1, sizeof(*l));
    if (!l)
        return -ENOMEM;
    l->owner = owner_get(c, creds.uid);
    r = !l->owner ? -ENOMEM
        : l->owner->links >= LIMIT_LINKS_UID || c->n_links >= LIMIT_LINKS || c->draining
            ? -ENOBUFS
            : wire_open(&l->wire, c, fd, &link_ops);
    if (r < 0) {
        owner_unref(l->owner);
        free(l);
        return r;
    }
    l->owner->links++;
    l->requests_max = CHANNEL_REQUESTS_MAX;
    list_init(&l->attachments);
    list_init(&l->dead_node);
    list_init(&l->hello.node);
    list_append(&c->links, &l->node);
    c->n_links++;
    l->hello.fire = hello_timeout;
    timer_start(&c->timers, TIMERS_SHORT, &l->hello, timer_now() + LIMIT_HELLO_USEC);
    hybus_frame_begin(&l->wire.out, CHANNEL_HELLO, 0, 0, 0, CHANNEL_VERSION);
    hybus_frame_put(&l->wire.out, ":role", "server");
    hybus_frame_put(&l->wire.out, ":name", c->server);
    wire_end(&l->wire);
    if (ret)
        *ret = l;
    return 0;
}

void link_close(link_t *l, int error)
{
    wire_fail(&l->wire, error);
}

void link_free(link_t *l)
{
    list_remove(&l->dead_node);
    owner_unref(l->owner);
    free(l);
}

static int on_accept(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    endpoint_core *c = userdata;
    _cleanup_(closep) int connection = accept4(fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (connection >= 0 && link_new(c, connection, NULL) >= 0)
        TAKE_FD(connection);
    return 0;
}

int link_listen(endpoint_core *c)
{
    return sd_event_add_io(c->event, &c->listen_source, c->listen_fd, EPOLLIN, on_accept, c);
}
