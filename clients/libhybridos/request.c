/* SPDX-License-Identifier: Apache-2.0 */

/* One request: its body coming in, its answer going out, each within the other side's credit. */

#include "internal.h"

/* --- what came ------------------------------------------------------------------------------ */

const char *hybridos_request_field(const hybridos_request *r, const char *name)
{
    for (const char *p = r->fields, *end = p + r->fields_size; p < end;) {
        const char *value = p + strlen(p) + 1;
        if (strcmp(p, name) == 0)
            return value;
        p = value + strlen(value) + 1;
    }
    return NULL;
}

static const char *field_or_empty(const hybridos_request *r, const char *name)
{
    const char *value = hybridos_request_field(r, name);
    return value ? value : "";
}

static bool field_number(const hybridos_request *r, const char *name, uint64_t max, uint64_t *ret)
{
    const char *s = field_or_empty(r, name);
    char *end;

    if (*s < '0' || *s > '9')
        return false;
    errno = 0;
    unsigned long long n = strtoull(s, &end, 10);
    if (errno != 0 || *end != '\0' || n > max)
        return false;
    *ret = n;
    return true;
}

const char *hybridos_request_method(const hybridos_request *r)
{
    return field_or_empty(r, ":method");
}

const char *hybridos_request_path(const hybridos_request *r)
{
    return field_or_empty(r, ":path");
}

const char *hybridos_request_subpath(const hybridos_request *r)
{
    const char *path = hybridos_request_path(r);
    size_t n = strlen(r->endpoint->namespace_);
    return strlen(path) > n ? path + n : "/";
}

const char *hybridos_request_query(const hybridos_request *r)
{
    return field_or_empty(r, ":query");
}

const char *hybridos_request_principal(const hybridos_request *r)
{
    return field_or_empty(r, ":principal");
}

uint64_t hybridos_request_handle(const hybridos_request *r)
{
    uint64_t handle;

    /* What cannot be one is anonymous: whoever binds to that holds less, not more. */
    return field_number(r, ":handle", CHANNEL_HANDLE_MAX, &handle) ? handle : 0;
}

uint32_t hybridos_request_deadline(const hybridos_request *r)
{
    if (r->deadline == 0)
        return UINT32_MAX;
    uint64_t now = now_usec();
    return now >= r->deadline ? 0 : (uint32_t)((r->deadline - now) / 1000);
}

const void *hybridos_request_body(const hybridos_request *r, size_t *ret_size)
{
    *ret_size = buffer_used(&r->body);
    return r->body.data ? r->body.data + r->body.start : (const void *)"";
}

void hybridos_request_set_userdata(hybridos_request *r, void *userdata)
{
    r->userdata = userdata;
}

void *hybridos_request_userdata(const hybridos_request *r)
{
    return r->userdata;
}

void request_free(hybridos_request *r)
{
    r->endpoint->app->collected -= buffer_used(&r->body);
    buffer_done(&r->body);
    buffer_done(&r->rest);
    buffer_done(&r->headers);
    free(r);
}

static void request_end(hybridos_request *r)
{
    server_remove(r->connection, r);
    request_free(r);
}

void request_cancelled(hybridos_request *r, unsigned status)
{
    r->gone = true;
    if (r->called && r->endpoint->cancel && !r->endpoint->removed)
        r->endpoint->cancel(r, status, r->endpoint->userdata);
}

static void refuse_stream(struct connection *c, uint32_t stream, uint16_t status)
{
    wire_put(&c->out, CHANNEL_RESPONSE, CHANNEL_END, status, stream, 0, NULL, 0);
}

static void give_credit(hybridos_request *r, size_t size)
{
    r->allowed += (uint32_t)size;
    wire_put(&r->connection->out, CHANNEL_CREDIT, 0, 0, r->stream, (uint32_t)size, NULL, 0);
    app_kick(r->endpoint->app);
}

void hybridos_request_consumed(hybridos_request *r, size_t size)
{
    /* Never more than the first allowance, whatever the app says. */
    size_t used = CHANNEL_CREDIT_INITIAL - r->allowed;
    if (!r->streamed || r->body_end || r->gone)
        return;
    if (size > used - r->owed)
        size = used - r->owed;
    r->owed += (uint32_t)size;
    /* In few frames: half the window is enough to keep the client sending. */
    if (r->owed > 0 && r->allowed < CHANNEL_CREDIT_INITIAL / 2) {
        give_credit(r, r->owed);
        r->owed = 0;
    }
}

static void call_app(hybridos_request *r)
{
    r->called = true;
    r->endpoint->request(r, r->endpoint->userdata);
}

/* Collects; the app is called when the body is complete. */
static void collect(hybridos_request *r, const void *data, size_t size)
{
    hybridos_app *app = r->endpoint->app;
    unsigned refused = buffer_used(&r->body) + size > COLLECT_MAX  ? 413
                       : app->collected + size > COLLECT_TOTAL_MAX ? 503
                                                                   : 0;
    if (!refused) {
        size_t before = buffer_used(&r->body);
        buffer_put(&r->body, data, size);
        app->collected += buffer_used(&r->body) - before;
        if (r->body.failed)
            refused = 503;
    }
    if (refused) {
        refuse_stream(r->connection, r->stream, (uint16_t)refused);
        request_end(r);
    } else if (r->body_end) {
        call_app(r);
    } else if (r->allowed < CHANNEL_CREDIT_INITIAL / 2) {
        give_credit(r, CHANNEL_CREDIT_INITIAL - r->allowed);
    }
}

int request_data(hybridos_request *r, const struct frame *f)
{
    if (r->body_end || f->length > r->allowed)
        return -EBADMSG;
    r->allowed -= f->length;
    r->body_end = f->flags & CHANNEL_END;
    if (!r->streamed)
        collect(r, f->payload, f->length);
    else if (r->called)
        r->endpoint->body(r, f->payload, f->length, r->body_end, r->endpoint->userdata);
    return 0;
}

static uint64_t parse_deadline(const hybridos_request *r)
{
    uint64_t ms;

    return field_number(r, ":deadline", UINT32_MAX, &ms) ? now_usec() + ms * 1000 : 0;
}

/* Copies the fields as C strings; false if one holds a NUL. */
static bool copy_fields(hybridos_request *r, const uint8_t *data, size_t size)
{
    struct field f;
    char *p = r->fields;

    while (wire_next_field(&data, &size, &f) > 0) {
        if (memchr(f.name, '\0', f.name_size + f.value_size))
            return false;
        p = (char *)mempcpy(p, f.name, f.name_size);
        *p++ = '\0';
        p = (char *)mempcpy(p, f.value, f.value_size);
        *p++ = '\0';
    }
    r->fields_size = (size_t)(p - r->fields);
    return true;
}

static hybridos_endpoint *find_endpoint(struct connection *c, const struct frame *f)
{
    struct field name;
    if (!wire_find(f->payload, f->value, ":namespace", &name))
        return NULL;
    for (struct attachment *a = c->attachments; a; a = a->next)
        if (strlen(a->endpoint->namespace_) == name.value_size &&
            memcmp(a->endpoint->namespace_, name.value, name.value_size) == 0)
            return a->endpoint;
    return NULL;
}

int request_open(struct connection *c, const struct frame *f)
{
    struct field method, path;

    if (f->value > f->length || !(f->stream & 1) || server_find(c, f->stream))
        return -EBADMSG;
    int n = wire_check_fields(f->payload, f->value);
    if (n < 0)
        return n;
    if (!wire_find(f->payload, f->value, ":method", &method) ||
        !wire_find(f->payload, f->value, ":path", &path))
        return -EBADMSG;
    if (f->stream > c->highest)
        c->highest = f->stream;

    hybridos_endpoint *e = find_endpoint(c, f);
    if (!e || c->app->stopping || c->n_requests >= REQUESTS_MAX) {
        refuse_stream(c, f->stream, 503);
        return 0;
    }
    /* A field costs 4 bytes in the frame and 2 here, so the frame's size is enough. */
    hybridos_request *r = calloc(1, sizeof(*r) + f->value + 1);
    if (!r) {
        refuse_stream(c, f->stream, 503);
        return 0;
    }
    r->connection = c;
    r->endpoint = e;
    r->stream = f->stream;
    r->credit = r->allowed = CHANNEL_CREDIT_INITIAL;
    r->streamed = e->body;
    if (!copy_fields(r, f->payload, f->value)) {
        refuse_stream(c, f->stream, 400);
        request_free(r);
        return 0;
    }
    r->deadline = parse_deadline(r);
    hybridos_request **bucket = &c->requests[(r->stream >> 1) & (REQUEST_BUCKETS - 1)];
    r->next = *bucket;
    *bucket = r;
    c->n_requests++;

    size_t size = f->length - f->value;
    r->allowed -= (uint32_t)size;
    r->body_end = f->flags & CHANNEL_END;
    if (!r->streamed) {
        collect(r, f->payload + f->value, size);
        return 0;
    }
    call_app(r);
    /* It may be gone by now. */
    r = server_find(c, f->stream);
    if (r && r->called && (size > 0 || f->flags & CHANNEL_END))
        e->body(r, f->payload + f->value, size, f->flags & CHANNEL_END, e->userdata);
    return 0;
}

/* --- what goes ------------------------------------------------------------------------------ */

static bool name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || (c && strchr("!#$%&'*+-.^_`|~", c));
}

int hybridos_header(hybridos_request *r, const char *name, const char *value)
{
    char lower[128];
    size_t n = strlen(name), v = strlen(value);

    if (r->gone)
        return -ECANCELED;
    if (r->begun)
        return -EALREADY;
    if (n == 0 || n >= sizeof(lower))
        return -EINVAL;
    for (size_t i = 0; i <= n; i++)
        lower[i] = name[i] >= 'A' && name[i] <= 'Z' ? (char)(name[i] | 0x20) : name[i];
    for (size_t i = 0; i < n; i++)
        if (!name_char(lower[i]))
            return -EINVAL;
    for (size_t i = 0; i < v; i++)
        if (((unsigned char)value[i] < 0x20 && value[i] != '\t') || value[i] == 0x7f)
            return -EINVAL;
    if (r->n_headers + 2 > CHANNEL_FIELDS_MAX ||
        buffer_used(&r->headers) + n + v + 4 > HEADERS_SIZE_MAX)
        return -E2BIG;
    wire_put_field(&r->headers, lower, value);
    if (r->headers.failed)
        return -ENOMEM;
    r->n_headers++;
    return 0;
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* As much as credit allows; END with the last byte if `end`. */
static size_t send_data(hybridos_request *r, const uint8_t *data, size_t size, bool end)
{
    size_t sent = 0;
    while (sent < size && r->credit > 0) {
        size_t n = least(least(size - sent, r->credit), CHANNEL_PAYLOAD_MAX);
        bool last = end && sent + n == size;
        wire_put(&r->connection->out, CHANNEL_DATA, last ? CHANNEL_END : 0, 0, r->stream, 0,
                 data + sent, n);
        r->credit -= (uint32_t)n;
        sent += n;
    }
    return sent;
}

static int check_answer(const hybridos_request *r, unsigned status, const char *content_type)
{
    if (r->gone)
        return -ECANCELED;
    if (r->begun)
        return -EALREADY;
    if (status < 200 || status > 599)
        return -EINVAL;
    if (!content_type)
        return 0;
    if (strlen(content_type) > 256)
        return -EINVAL;
    for (const char *p = content_type; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return -EINVAL;
    return 0;
}

/* RESPONSE with as much of the body as fits; how much that was. */
static size_t send_response(hybridos_request *r, unsigned status, const char *content_type,
                            const uint8_t *body, size_t size, bool end)
{
    struct buffer *out = &r->connection->out;
    size_t at = wire_begin(out);
    if (content_type)
        wire_put_field(out, "content-type", content_type);
    buffer_put(out, r->headers.data ? r->headers.data + r->headers.start : NULL,
               buffer_used(&r->headers));
    size_t fields = wire_payload(out, at);
    size_t n = least(least(size, r->credit), CHANNEL_PAYLOAD_MAX - fields);
    buffer_put(out, body, n);
    wire_finish(out, at, CHANNEL_RESPONSE, end && n == size ? CHANNEL_END : 0, (uint16_t)status,
                r->stream, (uint32_t)fields);
    r->credit -= (uint32_t)n;
    r->begun = true;
    app_kick(r->endpoint->app);
    return n;
}

int hybridos_reply(hybridos_request *r, unsigned status, const char *content_type, const void *body,
                   size_t size)
{
    int error = check_answer(r, status, content_type);
    if (error < 0)
        return error;
    /* What cannot go now is kept: make sure of the memory before anything is sent. */
    if (size > CHANNEL_CREDIT_INITIAL - HEADERS_SIZE_MAX && !buffer_reserve(&r->rest, size))
        return -ENOMEM;
    size_t sent = send_response(r, status, content_type, body, size, true);
    if (sent < size)
        sent += send_data(r, (const uint8_t *)body + sent, size - sent, true);
    if (sent == size) {
        request_end(r);
        return 0;
    }
    buffer_put(&r->rest, (const uint8_t *)body + sent, size - sent);
    r->finish = true;
    r->called = false; /* the app is done with it */
    return 0;
}

int hybridos_begin(hybridos_request *r, unsigned status, const char *content_type)
{
    int error = check_answer(r, status, content_type);
    if (error < 0)
        return error;
    send_response(r, status, content_type, NULL, 0, false);
    return 0;
}

ssize_t hybridos_write(hybridos_request *r, const void *data, size_t size)
{
    if (r->gone)
        return -ECANCELED;
    if (!r->begun)
        return -EINVAL;
    size_t sent = send_data(r, data, size, false);
    r->want_credit = sent < size;
    app_kick(r->endpoint->app);
    return (ssize_t)sent;
}

int hybridos_end(hybridos_request *r)
{
    if (r->gone)
        return -ECANCELED;
    if (!r->begun)
        return -EINVAL;
    wire_put(&r->connection->out, CHANNEL_DATA, CHANNEL_END, 0, r->stream, 0, NULL, 0);
    app_kick(r->endpoint->app);
    request_end(r);
    return 0;
}

void hybridos_abort(hybridos_request *r)
{
    if (r->gone)
        return;
    wire_put(&r->connection->out, CHANNEL_CANCEL, 0, 500, r->stream, 0, NULL, 0);
    app_kick(r->endpoint->app);
    request_end(r);
}

int request_credit(hybridos_request *r, uint32_t credit)
{
    if (credit > UINT32_MAX - r->credit)
        return -EBADMSG;
    r->credit += credit;
    if (r->finish) {
        size_t n = buffer_used(&r->rest);
        size_t sent = send_data(r, r->rest.data + r->rest.start, n, true);
        buffer_consume(&r->rest, sent);
        if (sent == n)
            request_end(r);
    } else if (r->want_credit && r->called && credit > 0) {
        r->want_credit = false;
        if (r->endpoint->writable)
            r->endpoint->writable(r, r->endpoint->userdata);
    }
    return 0;
}
