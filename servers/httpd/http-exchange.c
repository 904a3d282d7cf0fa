/* SPDX-License-Identifier: Apache-2.0 */
/* One request on its way in: framing, host, limits, origin, peer, then the core. The answer's way
 * out is http-reply.c. */

#include "http.h"

#define BUDGET_RETRY_USEC (1000u * 1000u)

/* --- life ------------------------------------------------------------------------------------- */

static void leave_waiting(HttpExchange *x)
{
    HttpExchange *before = NULL;

    if (!x->peer)
        return;
    for (HttpExchange **at = &x->peer->waiting; *at; before = *at, at = &(*at)->waiting_next)
        if (*at == x) {
            *at = x->waiting_next;
            if (x->peer->waiting_tail == x)
                x->peer->waiting_tail = before;
            return;
        }
}

/* The pool of the request is cleared: answered, reset by either side, or the connection has gone.
 */
static void exchange_dispose(void *data)
{
    HttpExchange *x = data;
    HttpConnection *c = x->connection;
    unsigned status = (unsigned)x->req->res.status;

    if (x->replied)
        c->http->counters.responses[status < 600 ? status / 100 : 5]++;
    http_log_access(x);
    c->http->counters.body_bytes_out += x->req->bytes_sent;
    http_exchange_release(x, x->held);
    leave_waiting(x);
    http_login_leave(x);
    hybus_agent_question_cancel(x->question);
    if (x->request)
        endpoint_request_free(x->request);
    if (x->watch)
        endpoint_watch_free(x->watch);
    if (x->event_stream)
        c->http->n_streams--;
    if (x->sending)
        h2o_buffer_dispose(&x->sending);
    if (x->pending)
        h2o_buffer_dispose(&x->pending);
    if (x->peer)
        http_peer_leave(x->peer);
    *x->prev = x->next;
    if (x->next)
        x->next->prev = x->prev;
    c->open--;
    c->address->requests--;
    c->active_usec = http_now();
    if (!x->replied)
        http_connection_reset(c);
}

/* What the library keeps of a header as long as the request is open. */
static size_t header_size(const h2o_req_t *req)
{
    size_t size = req->input.path.len;

    for (size_t i = 0; i < req->headers.size; i++)
        size += sizeof(*req->headers.entries) + req->headers.entries[i].name->len +
                req->headers.entries[i].value.len;
    return size;
}

static HttpExchange *exchange_new(HttpConnection *c, h2o_req_t *req)
{
    HttpExchange *x = h2o_mem_alloc_shared(&req->pool, sizeof(*x), exchange_dispose);

    memset(x, 0, sizeof(*x));
    x->connection = c;
    x->req = req;
    x->head = h2o_memis(req->method.base, req->method.len, H2O_STRLIT("HEAD"));
    x->next = c->exchanges;
    if (x->next)
        x->next->prev = &x->next;
    x->prev = &c->exchanges;
    c->exchanges = x;
    c->requests++;
    c->open++;
    c->address->requests++;
    c->http2 = req->version >= 0x200;
    c->http->counters.requests++;
    c->http->counters.body_bytes_in += req->entity.len;
    http_exchange_hold(x, header_size(req));
    return x;
}

static HttpConnection *find_greediest(Http *h)
{
    HttpConnection *worst = NULL;

    for (HttpConnection *c = h->connections; c; c = c->next)
        if (!c->dying && (!worst || c->held > worst->held))
            worst = c;
    return worst;
}

void http_exchange_hold(HttpExchange *x, size_t size)
{
    Http *h = x->connection->http;
    HttpConnection *worst;

    x->held += size;
    x->connection->held += size;
    h->held += size;
    if (h->held <= HTTP_HELD_MAX)
        return;
    worst = find_greediest(h);
    if (worst) {
        h->counters.stalled++;
        http_connection_kill(worst);
    }
}

void http_exchange_release(HttpExchange *x, size_t size)
{
    x->held -= size;
    x->connection->held -= size;
    x->connection->http->held -= size;
}

void http_exchange_problem(HttpExchange *x, unsigned status, uint64_t retry_usec)
{
    char body[160], seconds[24];
    int n;

    n = snprintf(body, sizeof(body), "{\"title\":\"%s\",\"status\":%u}\n", http_reason(status),
                 status);
    http_reply_start(x, status);
    if (status == 401)
        http_reply_header(x, "www-authenticate", "Bearer");
    if (status == 401 && x->session.size > 0)
        http_login_forget_cookie(x);
    if (retry_usec > 0) {
        snprintf(seconds, sizeof(seconds), "%llu",
                 (unsigned long long)(retry_usec + 999999u) / 1000000u);
        http_reply_header(x, "retry-after", seconds);
    }
    http_reply_body(x, "application/problem+json", body, (size_t)n);
}

void http_exchange_cut(HttpExchange *x)
{
    x->req->http1_is_persistent = 0;
    if (x->state == HTTP_WAITING)
        http_exchange_problem(x, 503, BUDGET_RETRY_USEC);
    else if (x->state == HTTP_STREAMING && !x->in_flight)
        h2o_send(x->req, NULL, 0, H2O_SEND_STATE_ERROR);
}

/* --- the request as the core wants it ----------------------------------------------------------
 */

static size_t collect_fields(HttpExchange *x, endpoint_field *fields)
{
    h2o_req_t *req = x->req;
    size_t n = 0;

    fields[n++] = (endpoint_field){"host", 4, req->authority.base, req->authority.len};
    for (size_t i = 0; i < req->headers.size && n < HTTP_FIELDS_MAX; i++) {
        const h2o_header_t *h = req->headers.entries + i;

        if (!http_field_is_forwarded((http_span){h->name->base, h->name->len}))
            continue;
        fields[n++] = (endpoint_field){h->name->base, h->name->len, h->value.base, h->value.len};
    }
    return n;
}

static void send_body(HttpExchange *x)
{
    h2o_iovec_t entity = x->req->entity;

    while (x->body_sent < entity.len) {
        size_t size = MIN_OF(entity.len - x->body_sent, (size_t)HTTP_BODY_PIECE);
        bool end = x->body_sent + size == entity.len;

        if (endpoint_request_body(x->request, entity.base + x->body_sent, size, end) < 0)
            return;
        x->body_sent += size;
    }
}

static void body_taken(endpoint_request *r, size_t size, void *userdata)
{
    HttpExchange *x = userdata;

    if (x->request && x->state == HTTP_WAITING)
        send_body(x);
}

static void ask_core(HttpExchange *x)
{
    static endpoint_reply_ops ops;
    endpoint_field fields[HTTP_FIELDS_MAX];
    char method[HTTP_METHOD_MAX + 1];
    h2o_req_t *req = x->req;
    endpoint_request_info info = {.method = method, .path = x->path, .headers = fields};
    endpoint_request *request;

    if (!ops.taken) {
        ops = http_reply_ops;
        ops.taken = body_taken;
    }
    memcpy(method, req->method.base, req->method.len);
    method[req->method.len] = '\0';
    info.query = h2o_strdup(&req->pool, x->query.base, x->query.size).base;
    info.n_headers = collect_fields(x, fields);
    info.body = req->entity.base;
    info.body_size = MIN_OF(req->entity.len, (size_t)HTTP_BODY_PIECE);
    info.body_end = info.body_size == req->entity.len;
    x->body_sent = info.body_size;
    if (endpoint_request_new(x->peer->peer, &info, &ops, x, &request) < 0) {
        http_exchange_problem(x, 503, BUDGET_RETRY_USEC);
        return;
    }
    x->request = request;
    if (x->state == HTTP_WAITING)
        send_body(x);
}

static http_span field(HttpExchange *x, const h2o_token_t *token)
{
    ssize_t at = h2o_find_header(&x->req->headers, token, -1);

    if (at == -1)
        return (http_span){"", 0};
    return (http_span){x->req->headers.entries[at].value.base,
                       x->req->headers.entries[at].value.len};
}

static bool wants_events(HttpExchange *x)
{
    return h2o_memis(x->req->method.base, x->req->method.len, H2O_STRLIT("GET")) &&
           http_list_has(field(x, H2O_TOKEN_ACCEPT), "text/event-stream");
}

static bool is_method(const HttpExchange *x, const char *method)
{
    return http_span_is((http_span){x->req->method.base, x->req->method.len}, method);
}

/* Files and our own pages are read, and nothing else. */
static void answer_page(HttpExchange *x, http_page page, void (*allowed)(HttpExchange *x))
{
    if (x->head || is_method(x, "GET")) {
        http_permit(x, page, allowed);
        return;
    }
    http_reply_header(x, "allow", "GET, HEAD, OPTIONS");
    if (is_method(x, "OPTIONS")) {
        http_reply_start(x, 204);
        http_reply_empty(x);
    } else {
        http_exchange_problem(x, 405, 0);
    }
}

void http_exchange_checked(HttpExchange *x, int error, uint64_t retry_usec)
{
    switch (error) {
    case 0:
        break;
    case -EKEYREJECTED:
        http_exchange_problem(x, 401, 0);
        return;
    case -EACCES:
        http_exchange_problem(x, 403, 0);
        return;
    case -EAGAIN:
        http_exchange_problem(x, 429, MAX_OF(retry_usec, (uint64_t)BUDGET_RETRY_USEC));
        return;
    default:
        http_exchange_problem(x, 503, BUDGET_RETRY_USEC);
        return;
    }
    if (streq(x->path, HTTP_METRICS_PATH))
        answer_page(x, HTTP_PAGE_METRICS, http_metrics_reply);
    else if (http_static_has(x))
        answer_page(x, HTTP_PAGE_FILES, http_static_reply);
    else if (wants_events(x))
        http_stream_start(x);
    else
        ask_core(x);
}

/* --- the door -----------------------------------------------------------------------------------
 */

/* No HTTP/1 framing that two parsers could read in two ways is served, and after a body the
 * connection ends: what follows it is never taken for a request. */
static unsigned check_framing(HttpExchange *x)
{
    h2o_buffer_t *input = x->connection->socket->input;
    bool body = false;

    if (x->req->version >= 0x200)
        return x->req->input.authority.len > 0 ? 0 : 400;
    if (http_head_check(input->bytes, input->size, &body) < 0) {
        x->req->http1_is_persistent = 0;
        return 400;
    }
    if (body || x->req->entity.base || x->req->upgrade.base)
        x->req->http1_is_persistent = 0;
    return 0;
}

static unsigned check_target(HttpExchange *x)
{
    http_span target = {x->req->path.base, x->req->path.len};
    char path[HTTP_PATH_MAX + 1];
    size_t size;
    int r;

    if (x->req->method.len > HTTP_METHOD_MAX)
        return 501;
    if (h2o_memis(x->req->method.base, x->req->method.len, H2O_STRLIT("CONNECT")) ||
        h2o_memis(x->req->method.base, x->req->method.len, H2O_STRLIT("TRACE")))
        return 405;
    r = http_target_parse(target, path, &size, &x->query);
    if (r < 0)
        return r == -ENAMETOOLONG ? 414 : 400;
    x->path = h2o_strdup(&x->req->pool, path, size).base;
    return 0;
}

/* 0, or a status. */
static unsigned find_session(HttpExchange *x)
{
    const h2o_headers_t *headers = &x->req->headers;
    ssize_t at = -1;

    while ((at = h2o_find_header(headers, H2O_TOKEN_COOKIE, at)) != -1) {
        const http_span cookies = {headers->entries[at].value.base, headers->entries[at].value.len};
        http_span value;
        int r = http_cookie_find(cookies, HTTP_SESSION_COOKIE, &value);

        if (r < 0 || (r > 0 && x->session.size > 0))
            return 400;
        if (r > 0)
            x->session = value;
    }
    return 0;
}

/* 0, or a status. `ret_token` is empty without credentials. */
static unsigned check_credentials(HttpExchange *x, http_span *ret_token)
{
    const h2o_headers_t *headers = &x->req->headers;
    ssize_t at = h2o_find_header(headers, H2O_TOKEN_AUTHORIZATION, -1);
    http_span value;

    *ret_token = (http_span){};
    if (at == -1)
        return 0;
    if (h2o_find_header(headers, H2O_TOKEN_AUTHORIZATION, at) != -1)
        return 400;
    value = (http_span){headers->entries[at].value.base, headers->entries[at].value.len};
    return http_bearer_parse(value, ret_token) ? 0 : 401;
}

static unsigned judge(HttpExchange *x, http_span *ret_token, uint64_t *ret_retry)
{
    HttpConnection *c = x->connection;
    http_span authority = {x->req->input.authority.base, x->req->input.authority.len};
    unsigned status;

    status = check_framing(x);
    if (status)
        return status;
    if (!http_host_is_ours(c->http, c, authority)) {
        c->http->counters.misdirected++;
        return 421;
    }
    status = http_connection_admit(c, ret_retry);
    if (status) {
        c->http->counters.limited++;
        return status;
    }
    *ret_retry = 0;
    status = check_target(x);
    if (status)
        return status;
    status = check_credentials(x, ret_token);
    if (status)
        return status;
    /* A cookie that came over a connection anybody can read is nobody's credential. */
    status = c->tls ? find_session(x) : 0;
    if (status)
        return status;
    return http_origin_check(x, ret_token->size > 0,
                             ret_token->size == 0 && x->session.size > 0);
}

static void enqueue(HttpExchange *x)
{
    HttpPeer *p = x->peer;

    if (p->waiting_tail)
        p->waiting_tail->waiting_next = x;
    else
        p->waiting = x;
    p->waiting_tail = x;
}

/* What still stands in the buffer of a connection that has been cut. HTTP/2 notices the cut by
 * itself; HTTP/1 only when it writes. */
static void ignore(HttpExchange *x)
{
    x->replied = true;
    if (!x->connection->http2)
        http_exchange_cut(x);
}

int http_exchange_on_request(h2o_handler_t *handler, h2o_req_t *req)
{
    HttpExchange *x = exchange_new(http_connection_of(req), req);
    http_span token = {};
    uint64_t retry = 0;
    unsigned status;

    req->compress_hint = H2O_COMPRESS_HINT_DISABLE;
    if (x->connection->dying) {
        ignore(x);
        return 0;
    }
    status = judge(x, &token, &retry);
    if (status) {
        if (status == 400)
            x->connection->http->counters.bad_requests++;
        http_exchange_problem(x, status, retry);
        return 0;
    }
    if (http_origin_preflight(x) || http_login_takes(x, token))
        return 0;
    /* What the client says itself goes before what its browser adds. */
    if (token.size > 0)
        x->session = (http_span){};
    else
        token = x->session;
    if (http_peer_get(x->connection, token.size > 0 ? &token : NULL, &x->peer) < 0)
        http_exchange_problem(x, 503, BUDGET_RETRY_USEC);
    else if (x->peer->checked)
        http_exchange_checked(x, x->peer->error, x->peer->retry_usec);
    else
        enqueue(x);
    return 0;
}
