/* SPDX-License-Identifier: Apache-2.0 */

/* The conversation with one server: attaching, requests as far as they are many, watches, values.
 */

#include "internal.h"

static struct attachment *find_attachment(struct connection *c, const hybridos_endpoint *e)
{
    struct attachment *a = c->attachments;
    while (a && a->endpoint != e)
        a = a->next;
    return a;
}

static struct attachment *find_attachment_id(struct connection *c, uint32_t id)
{
    struct attachment *a = c->attachments;
    while (a && (a->state == ATTACHMENT_NEW || a->id != id))
        a = a->next;
    return a;
}

static void attach(struct connection *c, hybridos_endpoint *e, uint64_t now)
{
    struct attachment *a = find_attachment(c, e);
    if (!a) {
        a = calloc(1, sizeof(*a));
        if (!a)
            return; /* tried again at the next turn */
        a->endpoint = e;
        a->next = c->attachments;
        c->attachments = a;
    }
    if (a->state != ATTACHMENT_NEW || a->retry.at > now)
        return;
    a->id = app_new_id(c->app);
    size_t at = wire_begin(&c->out);
    wire_put_field(&c->out, ":namespace", e->namespace_);
    wire_put_field(&c->out, ":key", e->key);
    if (e->resume)
        wire_put_field(&c->out, ":resume", "1");
    wire_finish(&c->out, at, CHANNEL_ATTACH, 0, 0, a->id, 0);
    a->state = ATTACHMENT_ASKED;
    a->retry.at = 0;
}

void server_turn(struct connection *c, uint64_t now)
{
    if (c->removed)
        return;
    if (c->app->stopping)
        return;
    if (c->fd < 0 && c->retry.at <= now)
        connection_connect(c);
    if (c->fd < 0 || c->draining)
        return;
    /* While the registrar is away the key is still good: a restarted server gets its table when the
     * registrar is back, and until then refuses, which is tried again. */
    for (hybridos_endpoint *e = c->app->endpoints; e; e = e->next)
        if (!e->removed && e->key[0])
            attach(c, e, now);
}

static unsigned watchers_of(hybridos_app *app, const hybridos_endpoint *e, const char *path)
{
    unsigned n = 0;
    for (struct connection *c = app->servers; c; c = c->next)
        for (struct watch *w = c->watches; w; w = w->next)
            if (w->endpoint == e && strcmp(w->path, path) == 0)
                n += w->watchers;
    return n;
}

static void remove_watch(struct connection *c, struct watch **p, bool tell)
{
    struct watch *w = *p;

    *p = w->next;
    c->n_watches--;
    if (tell && !w->endpoint->removed && w->endpoint->watch)
        w->endpoint->watch(w->endpoint, w->path, watchers_of(c->app, w->endpoint, w->path),
                           w->endpoint->userdata);
    free(w);
}

static void forget_watches(struct connection *c, const hybridos_endpoint *e)
{
    /* A callback may unregister and so change the list: begin again after each. */
    for (struct watch **p = &c->watches; *p;)
        if (!e || (*p)->endpoint == e) {
            remove_watch(c, p, true);
            p = &c->watches;
        } else {
            p = &(*p)->next;
        }
}

/* --- requests ------------------------------------------------------------------------------- */

static hybridos_request **bucket(struct connection *c, uint32_t stream)
{
    return &c->requests[(stream >> 1) & (REQUEST_BUCKETS - 1)];
}

hybridos_request *server_find(struct connection *c, uint32_t stream)
{
    hybridos_request *r = *bucket(c, stream);
    while (r && r->stream != stream)
        r = r->next;
    return r;
}

void server_remove(struct connection *c, hybridos_request *r)
{
    hybridos_request **p = bucket(c, r->stream);
    while (*p != r)
        p = &(*p)->next;
    *p = r->next;
    c->n_requests--;
}

static void cancel_requests(struct connection *c, const hybridos_endpoint *e, bool tell)
{
    for (size_t i = 0; i < REQUEST_BUCKETS && c->n_requests > 0; i++)
        for (hybridos_request **p = &c->requests[i]; *p;) {
            hybridos_request *r = *p;
            if (e && r->endpoint != e) {
                p = &r->next;
                continue;
            }
            if (!tell)
                wire_put(&c->out, CHANNEL_CANCEL, 0, 500, r->stream, 0, NULL, 0);
            server_remove(c, r);
            if (tell)
                request_cancelled(r, 502);
            request_free(r);
            p = &c->requests[i]; /* the callback may have ended others */
        }
}

/* The endpoint leaves this server, at our wish. */
void server_forget(struct connection *c, hybridos_endpoint *e)
{
    for (struct attachment **p = &c->attachments; *p;) {
        struct attachment *a = *p;
        if (a->endpoint != e) {
            p = &a->next;
            continue;
        }
        *p = a->next;
        free(a);
    }
    cancel_requests(c, e, false);
    forget_watches(c, e);
}

void server_lost(struct connection *c)
{
    for (struct attachment *a = c->attachments; a; a = a->next) {
        a->state = ATTACHMENT_NEW;
        a->retry = (struct retry){0};
    }
    cancel_requests(c, NULL, true);
    forget_watches(c, NULL);
}

/* --- frames --------------------------------------------------------------------------------- */

static int handle_attached(struct connection *c, const struct frame *f)
{
    struct attachment *a = find_attachment_id(c, f->stream);
    if (a) {
        a->state = ATTACHMENT_UP;
        a->retry = (struct retry){0};
    }
    return 0;
}

static int handle_refused(struct connection *c, const struct frame *f)
{
    if (wire_check_fields(f->payload, f->length) < 0)
        return -EBADMSG;
    struct attachment *a = find_attachment_id(c, f->stream);
    if (!a)
        return 0;
    /* Often the server just has not heard of the registration yet. */
    a->state = ATTACHMENT_NEW;
    retry_later(&a->retry);
    forget_watches(c, a->endpoint);
    return 0;
}

static int handle_watch(struct connection *c, const struct frame *f)
{
    struct field path;
    if (wire_check_fields(f->payload, f->length) < 0 ||
        !wire_find(f->payload, f->length, ":path", &path) ||
        memchr(path.value, '\0', path.value_size))
        return -EBADMSG;
    struct attachment *a = find_attachment_id(c, f->stream);
    if (!a)
        return 0;

    hybridos_endpoint *e = a->endpoint;
    struct watch **p = &c->watches;
    while (*p && ((*p)->endpoint != e || strlen((*p)->path) != path.value_size ||
                  memcmp((*p)->path, path.value, path.value_size) != 0))
        p = &(*p)->next;
    if (f->value == 0) {
        if (*p)
            remove_watch(c, p, true);
        return 0;
    }
    struct watch *w = *p;
    if (!w) {
        if (c->n_watches == WATCHES_MAX)
            return 0;
        w = calloc(1, sizeof(*w) + path.value_size + 1);
        if (!w)
            return 0;
        memcpy(w->path, path.value, path.value_size);
        w->endpoint = e;
        w->next = c->watches;
        c->watches = w;
        c->n_watches++;
    }
    w->watchers = f->value;
    if (e->watch) {
        /* The callback may unregister, and so free `w`. */
        char *copy = strdup(w->path);
        if (copy)
            e->watch(e, copy, watchers_of(c->app, e, copy), e->userdata);
        free(copy);
    }
    return 0;
}

/* What came after a value: one question at a time, answered within the callback. */
struct resuming {
    struct connection *connection;
    uint32_t attachment, token;
    bool answered;
};

static void send_resumed(const struct resuming *s, unsigned code, const char *content_type,
                         const char *id, bool missed, const void *body, size_t size)
{
    struct buffer *out = &s->connection->out;
    size_t at = wire_begin(out), fields;
    char digits[11], *p = digits + sizeof(digits) - 1;

    *p = '\0';
    for (uint32_t n = s->token; n > 0; n /= 10)
        *--p = (char)('0' + n % 10);
    wire_put_field(out, ":token", p);
    if (content_type)
        wire_put_field(out, "content-type", content_type);
    if (id)
        wire_put_field(out, ":id", id);
    if (missed)
        wire_put_field(out, ":gap", "1");
    fields = wire_payload(out, at);
    buffer_put(out, body, size);
    wire_finish(out, at, CHANNEL_RESUMED, 0, (uint16_t)code, s->attachment, (uint32_t)fields);
}

int hybridos_resume(hybridos_endpoint *e, const char *content_type, const char *id, bool missed,
                    const void *body, size_t size)
{
    if (!e->resuming || e->resuming->answered || !id || !*id || strlen(id) > CHANNEL_NOTIFY_ID_MAX)
        return -EINVAL;
    if (size > NOTIFY_SIZE_MAX || (content_type && strlen(content_type) > 256))
        return -EMSGSIZE;
    send_resumed(e->resuming, 200, content_type, id, missed, body, size);
    e->resuming->answered = true;
    return 0;
}

static int handle_resume(struct connection *c, const struct frame *f)
{
    struct field path, id;
    if (f->value == 0 || wire_check_fields(f->payload, f->length) < 0 ||
        !wire_find(f->payload, f->length, ":path", &path) ||
        !wire_find(f->payload, f->length, ":id", &id) ||
        memchr(path.value, '\0', path.value_size) || memchr(id.value, '\0', id.value_size))
        return -EBADMSG;
    struct attachment *a = find_attachment_id(c, f->stream);
    if (!a || !a->endpoint->resume)
        return 0;

    hybridos_endpoint *e = a->endpoint;
    struct resuming s = {.connection = c, .attachment = a->id, .token = f->value};
    char *path_copy = strndup(path.value, path.value_size);
    char *id_copy = strndup(id.value, id.value_size);
    e->resuming = &s;
    if (path_copy && id_copy)
        e->resume(e, path_copy, id_copy, e->userdata);
    e->resuming = NULL;
    if (!s.answered)
        send_resumed(&s, 204, NULL, NULL, false, NULL, 0);
    free(path_copy);
    free(id_copy);
    return 0;
}

static bool was(const struct connection *c, uint32_t stream)
{
    return stream & 1 && stream <= c->highest;
}

static int handle_request_frame(struct connection *c, const struct frame *f)
{
    hybridos_request *r = server_find(c, f->stream);
    if (!r)
        return was(c, f->stream) ? 0 : -EBADMSG; /* may have crossed with our end */
    switch (f->type) {
    case CHANNEL_DATA:
        return request_data(r, f);
    case CHANNEL_CREDIT:
        return request_credit(r, f->value);
    default:
        server_remove(c, r);
        request_cancelled(r, f->code);
        request_free(r);
        return 0;
    }
}

int server_frame(struct connection *c, const struct frame *f)
{
    switch (f->type) {
    case CHANNEL_ATTACHED:
        return handle_attached(c, f);
    case CHANNEL_REFUSED:
        return handle_refused(c, f);
    case CHANNEL_WATCH:
        return handle_watch(c, f);
    case CHANNEL_RESUME:
        return handle_resume(c, f);
    case CHANNEL_REQUEST:
        return request_open(c, f);
    case CHANNEL_DATA:
    case CHANNEL_CREDIT:
    case CHANNEL_CANCEL:
        return handle_request_frame(c, f);
    case CHANNEL_SESSION:
        /* Not spoken by this version of the SDK: refused like any request without a responder. */
        if (f->stream > c->highest)
            c->highest = f->stream;
        wire_put(&c->out, CHANNEL_RESPONSE, CHANNEL_END, 501, f->stream, 0, NULL, 0);
        return 0;
    case CHANNEL_MESSAGE:
    case CHANNEL_CLOSE:
        return was(c, f->stream) ? 0 : -EBADMSG;
    default:
        return -EBADMSG;
    }
}

/* --- values --------------------------------------------------------------------------------- */

static int notify(hybridos_endpoint *e, uint8_t flags, const char *path, const char *content_type,
                  const char *id, uint32_t max_age, const void *body, size_t size)
{
    if (!path || path[0] != '/' || (id && strlen(id) > CHANNEL_NOTIFY_ID_MAX))
        return -EINVAL;
    if (size > NOTIFY_SIZE_MAX || strlen(path) > 2048 ||
        (content_type && strlen(content_type) > 256))
        return -EMSGSIZE;
    if (e->removed)
        return -ENOTCONN;

    int result = -ENOTCONN;
    bool full = false;
    for (struct connection *c = e->app->servers; c; c = c->next) {
        struct attachment *a = c->fd >= 0 ? find_attachment(c, e) : NULL;
        if (!a || a->state != ATTACHMENT_UP)
            continue;
        result = 0;
        if (buffer_used(&c->out) > OUTPUT_NOTIFY_MAX) {
            full = true;
            continue;
        }
        size_t at = wire_begin(&c->out);
        wire_put_field(&c->out, ":path", path);
        if (content_type)
            wire_put_field(&c->out, "content-type", content_type);
        if (id)
            wire_put_field(&c->out, ":id", id);
        if (max_age > 0) {
            char digits[11], *p = digits + sizeof(digits) - 1;
            *p = '\0';
            for (uint32_t n = max_age; n > 0; n /= 10)
                *--p = (char)('0' + n % 10);
            wire_put_field(&c->out, ":max-age", p);
        }
        size_t fields = wire_payload(&c->out, at);
        buffer_put(&c->out, body, size);
        wire_finish(&c->out, at, CHANNEL_NOTIFY, flags, 0, a->id, (uint32_t)fields);
    }
    app_kick(e->app);
    return full ? -EAGAIN : result;
}

int hybridos_notify(hybridos_endpoint *e, const char *path, const char *content_type,
                    const char *id, uint32_t max_age, const void *body, size_t size)
{
    return notify(e, 0, path, content_type, id, max_age, body, size);
}

int hybridos_notify_gone(hybridos_endpoint *e, const char *path)
{
    return notify(e, CHANNEL_GONE, path, NULL, NULL, 0, NULL, 0);
}
