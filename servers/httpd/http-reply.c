/* SPDX-License-Identifier: Apache-2.0 */
/* The answer's way out: the core's reply becomes the library's, in one piece or streamed. While the
 * client takes what was given to the library, further pieces wait here; the responder gets credit
 * only for what the client has taken, so that a slow client slows its responder and nobody else. */

#include "http.h"

#define SYSTEM_UID_FIRST 60600u /* uids of our own daemons and shipped apps */
#define SYSTEM_UID_LAST 60699u

/* Pages of our own may run their own scripts, and nothing else. */
#define SYSTEM_CSP                                                                                 \
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' "     \
    "data:; connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; "            \
    "frame-ancestors 'none'"

/* --- headers -----------------------------------------------------------------------------------
 */

void http_reply_header(HttpExchange *x, const char *name, const char *value)
{
    h2o_iovec_t copy = h2o_strdup(&x->req->pool, value, strlen(value));

    h2o_add_header_by_str(&x->req->pool, &x->req->res.headers, name, strlen(name), 1, NULL,
                          copy.base, copy.len);
}

static void add_common_headers(HttpExchange *x)
{
    static const char name[] = "x-content-type-options";

    h2o_add_header_by_str(&x->req->pool, &x->req->res.headers, name, sizeof(name) - 1, 0, NULL,
                          H2O_STRLIT("nosniff"));
    /* Unlike Authorization, a cookie does not keep a shared cache from keeping the answer. */
    if (x->session.size > 0) {
        http_reply_header(x, "cache-control", "private");
        http_reply_header(x, "vary", "cookie");
    }
}

void http_reply_start(HttpExchange *x, unsigned status)
{
    x->replied = true;
    x->state = HTTP_DONE;
    x->moved_usec = http_now();
    x->req->res.status = (int)status;
    x->req->res.reason = http_reason(status);
    add_common_headers(x);
}

static bool has_body(HttpExchange *x, unsigned status)
{
    return !x->head && status != 204 && status != 304;
}

static h2o_generator_t nothing_more;

void http_reply_body(HttpExchange *x, const char *type, const void *body, size_t size)
{
    h2o_iovec_t copy = h2o_strdup(&x->req->pool, body, size);

    http_reply_header(x, "content-type", type);
    http_reply_header(x, "cache-control", "no-store");
    x->req->res.content_length = size;
    h2o_start_response(x->req, &nothing_more);
    h2o_send(x->req, &copy, has_body(x, (unsigned)x->req->res.status) ? 1 : 0,
             H2O_SEND_STATE_FINAL);
}

void http_reply_empty(HttpExchange *x)
{
    h2o_start_response(x->req, &nothing_more);
    h2o_send(x->req, NULL, 0, H2O_SEND_STATE_FINAL);
}

void http_reply_page_policy(HttpExchange *x, http_span type)
{
    if (!http_type_is_passive(type))
        http_reply_header(x, "content-security-policy", SYSTEM_CSP);
}

static bool is_system(endpoint_request *r)
{
    uint32_t uid = endpoint_request_uid(r);
    return uid >= SYSTEM_UID_FIRST && uid <= SYSTEM_UID_LAST;
}

/* A page of an app shares the origin with the system's pages: it is sandboxed into one of its own.
 * Types that are no documents need no such cage. */
static void add_policy(HttpExchange *x, endpoint_request *r, http_span type, http_span own)
{
    bool system = is_system(r);

    if (http_type_is_passive(type))
        return;
    if (!system)
        http_reply_header(x, "content-security-policy", "sandbox");
    else if (own.size == 0)
        http_reply_header(x, "content-security-policy", SYSTEM_CSP);
    if (own.size > 0) /* of an app: a second policy can only narrow */
        h2o_add_header_by_str(&x->req->pool, &x->req->res.headers,
                              H2O_STRLIT("content-security-policy"), 0, NULL,
                              h2o_strdup(&x->req->pool, own.base, own.size).base, own.size);
}

static size_t parse_length(http_span s)
{
    size_t n = 0;

    if (s.size == 0 || s.size > 15)
        return SIZE_MAX;
    for (size_t i = 0; i < s.size; i++) {
        if (s.base[i] < '0' || s.base[i] > '9')
            return SIZE_MAX;
        n = n * 10 + (size_t)(s.base[i] - '0');
    }
    return n;
}

typedef struct notable {
    http_span type, policy, length;
} notable;

/* All names and values go into one piece of the pool. -EBADMSG: control characters. */
static int copy_fields(HttpExchange *x, const endpoint_field *fields, size_t n, notable *ret)
{
    size_t room = 0;
    char *at;

    for (size_t i = 0; i < n; i++)
        room += fields[i].name_size + fields[i].value_size;
    at = h2o_mem_alloc_pool(&x->req->pool, room + 1);
    for (size_t i = 0; i < n; i++) {
        http_span name = {fields[i].name, fields[i].name_size};
        http_span value = {fields[i].value, fields[i].value_size};
        char *name_copy = at, *value_copy = at + name.size;

        if (!http_value_is_clean(value))
            return -EBADMSG;
        if (http_span_is(name, "content-type"))
            ret->type = value;
        else if (http_span_is(name, "content-security-policy"))
            ret->policy = value;
        else if (http_span_is(name, "content-length"))
            ret->length = value;
        if (!http_field_is_returned(name))
            continue;
        memcpy(name_copy, name.base, name.size);
        memcpy(value_copy, value.base, value.size);
        at += name.size + value.size;
        h2o_add_header_by_str(&x->req->pool, &x->req->res.headers, name_copy, name.size, 1, NULL,
                              value_copy, value.size);
    }
    return 0;
}

/* --- streaming ----------------------------------------------------------------------------------
 */

static void finish(HttpExchange *x, h2o_send_state_t state)
{
    x->state = HTTP_DONE;
    x->moved_usec = http_now();
    /* The exchange may be gone when this returns. */
    h2o_send(x->req, NULL, 0, state);
}

/* HTTP/1 closes at once when it is told of an error, exchange and connection included: that waits
 * for the end of this turn. */
void http_reply_cut(HttpExchange *x)
{
    if (!x->in_flight && x->state != HTTP_STREAMING)
        return;
    if (!x->connection->http2)
        http_connection_kill(x->connection);
    else if (x->in_flight)
        http_library_reset(x->req);
    else
        finish(x, H2O_SEND_STATE_ERROR);
}

void http_reply_send_more(HttpExchange *x)
{
    h2o_iovec_t piece;
    bool last;

    if (x->in_flight)
        return;
    if (x->file && !x->aborted && (!x->pending || x->pending->size == 0))
        http_static_refill(x);
    if (x->aborted) {
        http_reply_cut(x);
        return;
    }
    if (!x->pending || x->pending->size == 0) {
        if (x->ended)
            finish(x, H2O_SEND_STATE_FINAL);
        return;
    }
    last = x->ended;
    if (x->sending)
        h2o_buffer_dispose(&x->sending);
    x->sending = TAKE_PTR(x->pending);
    piece = h2o_iovec_init(x->sending->bytes, x->sending->size);
    x->in_flight = true;
    x->moved_usec = http_now();
    if (last)
        x->state = HTTP_DONE;
    h2o_send(x->req, &piece, 1, last ? H2O_SEND_STATE_FINAL : H2O_SEND_STATE_IN_PROGRESS);
}

static void on_proceed(h2o_generator_t *generator, h2o_req_t *req)
{
    HttpExchange *x = (HttpExchange *)generator;
    size_t size = x->sending ? x->sending->size : 0;

    x->in_flight = false;
    http_exchange_release(x, size);
    if (x->sending)
        h2o_buffer_dispose(&x->sending);
    x->sending = NULL;
    if (size > 0 && x->request && !x->ended)
        endpoint_request_consumed(x->request, size);
    if (x->resumes && (!x->pending || x->pending->size == 0))
        http_stream_next(x);
    http_reply_send_more(x);
}

static void on_stop(h2o_generator_t *generator, h2o_req_t *req)
{
    HttpExchange *x = (HttpExchange *)generator;

    /* The pool goes next and frees everything; nothing must be sent any more. */
    x->state = HTTP_DONE;
}

int http_reply_write(HttpExchange *x, const void *data, size_t size)
{
    h2o_iovec_t room;

    if (!x->pending)
        h2o_buffer_init(&x->pending, &h2o_socket_buffer_prototype);
    if (x->pending->size + size > HTTP_SENDING_MAX)
        return -ENOBUFS;
    room = h2o_buffer_reserve(&x->pending, size);
    if (!room.base)
        return -ENOMEM;
    memcpy(room.base, data, size);
    x->pending->size += size;
    http_exchange_hold(x, size);
    return 0;
}

void http_reply_end(HttpExchange *x)
{
    x->ended = true;
    http_reply_send_more(x);
}

/* The first piece goes together with the header. */
void http_reply_stream(HttpExchange *x)
{
    x->state = HTTP_STREAMING;
    x->generator = (h2o_generator_t){.proceed = on_proceed, .stop = on_stop};
    if (x->req->version < 0x101)
        x->req->http1_is_persistent = 0; /* the end of the connection is the end of the body */
    h2o_start_response(x->req, &x->generator);
    if (x->pending && x->pending->size > 0) {
        http_reply_send_more(x);
        return;
    }
    x->in_flight = true;
    h2o_send(x->req, NULL, 0, H2O_SEND_STATE_IN_PROGRESS);
}

/* --- what the core says --------------------------------------------------------------------------
 */

static void refuse_reply(HttpExchange *x)
{
    x->req->res.headers.size = 0;
    http_exchange_problem(x, 502, 0);
}

static void send_whole(HttpExchange *x, unsigned status, const void *body, size_t size,
                       http_span length)
{
    h2o_iovec_t copy = {NULL, 0};

    if (has_body(x, status)) {
        x->req->res.content_length = size;
        copy.base = h2o_mem_alloc_pool(&x->req->pool, size + 1);
        copy.len = size;
        memcpy(copy.base, body, size);
        http_exchange_hold(x, size);
    } else if (x->head) {
        size_t n = parse_length(length);
        x->req->res.content_length = n != SIZE_MAX ? n : size;
    }
    h2o_start_response(x->req, &nothing_more);
    h2o_send(x->req, &copy, copy.len > 0 ? 1 : 0, H2O_SEND_STATE_FINAL);
}

static void on_reply(endpoint_request *r, unsigned status, const endpoint_field *headers,
                     size_t n_headers, const void *body, size_t size, bool end, void *userdata)
{
    HttpExchange *x = userdata;
    notable n = {};

    if (x->state != HTTP_WAITING)
        return;
    if (status < 200 || status > 599 || copy_fields(x, headers, n_headers, &n) < 0) {
        refuse_reply(x);
        return;
    }
    http_reply_start(x, status);
    if (status == 401)
        http_reply_header(x, "www-authenticate", "Bearer");
    add_policy(x, r, n.type, n.policy);
    if (end || !has_body(x, status)) {
        send_whole(x, status, body, size, n.length);
        return;
    }
    if (size > 0 && http_reply_write(x, body, size) < 0) {
        refuse_reply(x);
        return;
    }
    http_reply_stream(x);
}

static void on_data(endpoint_request *r, const void *data, size_t size, bool end, void *userdata)
{
    HttpExchange *x = userdata;

    if (x->state != HTTP_STREAMING || x->ended)
        return;
    if (size > 0 && http_reply_write(x, data, size) < 0)
        x->aborted = true;
    x->ended = end;
    http_reply_send_more(x);
}

static void on_abort(endpoint_request *r, unsigned status, void *userdata)
{
    HttpExchange *x = userdata;

    if (x->state == HTTP_WAITING) {
        http_exchange_problem(x, status >= 400 && status < 600 ? status : 502, 0);
    } else {
        x->aborted = true;
        http_reply_cut(x);
    }
}

const endpoint_reply_ops http_reply_ops = {.reply = on_reply, .data = on_data, .abort = on_abort};
