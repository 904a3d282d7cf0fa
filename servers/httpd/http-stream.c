/* SPDX-License-Identifier: Apache-2.0 */
/* Server-sent events (WHATWG HTML, 9.2) from Notify. A client that comes back with Last-Event-ID
 * gets what it has missed if the app knows that, at the pace at which it reads; otherwise the latest
 * value, and a "gap" event first when it has missed something. A client that reads
 * slower than values come gets the newest ones, and a "gap" event where others were left out. */

#include "http.h"

#include <openssl/evp.h>

#define RETRY_MS 2000
#define ID_MAX 128u /* bytes of a value's id */

static bool is_text(const char *body, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        unsigned char c = (unsigned char)body[i];

        if (c == 0 || (c < 0x20 && c != '\t' && c != '\n' && c != '\r'))
            return false;
    }
    return true;
}

static int write_string(HttpExchange *x, const char *s)
{
    return http_reply_write(x, s, strlen(s));
}

/* Each line of the body is a line of data; CR, LF and CRLF end lines. */
static int write_lines(HttpExchange *x, const char *body, size_t size)
{
    size_t at = 0;
    int r;

    do {
        size_t end = at;

        while (end < size && body[end] != '\n' && body[end] != '\r')
            end++;
        r = write_string(x, "data: ");
        if (r >= 0)
            r = http_reply_write(x, body + at, end - at);
        if (r >= 0)
            r = write_string(x, "\n");
        if (r < 0)
            return r;
        if (end + 1 < size && body[end] == '\r' && body[end + 1] == '\n')
            end++;
        at = end + 1;
    } while (at < size);
    return 0;
}

static int write_bytes(HttpExchange *x, const void *body, size_t size)
{
    h2o_iovec_t text = {h2o_mem_alloc(size * 4 / 3 + 8), 0};
    int r;

    text.len = (size_t)EVP_EncodeBlock((unsigned char *)text.base, body, (int)size);
    r = write_string(x, "event: base64\n");
    if (r >= 0)
        r = write_lines(x, text.base, text.len);
    free(text.base);
    return r;
}

/* The id as the client sees it. A number made by the core counts within this life of the server
 * only, so it gets a mark of it. */
static void event_id(const Http *h, const endpoint_value *v, char *buffer, size_t room)
{
    char number[24];

    snprintf(number, sizeof(number), "%llu", (unsigned long long)v->sequence);
    if (streq(v->id, number))
        snprintf(buffer, room, "%s.%s", h->life, number);
    else
        snprintf(buffer, room, "%s", v->id);
    for (char *c = buffer; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '_';
}

static int write_gap(HttpExchange *x, http_span last)
{
    char escaped[300], event[400];

    snprintf(event, sizeof(event), "event: gap\ndata: {\"after\":\"%s\"}\n\n",
             http_escape(last, escaped, sizeof(escaped)));
    for (char *c = event; *c; c++)
        if (*c == '\\')
            *c = '_';
    return write_string(x, event);
}

static int write_value(HttpExchange *x, const endpoint_value *v, const char *id)
{
    char line[200];
    int r;

    snprintf(line, sizeof(line), "id: %s\n", id);
    r = write_string(x, line);
    if (r >= 0 && v->gone)
        r = write_string(x, "event: gone\ndata:\n");
    else if (r >= 0 && is_text(v->body, v->size))
        r = write_lines(x, v->body, v->size);
    else if (r >= 0)
        r = write_bytes(x, v->body, v->size);
    return r < 0 ? r : write_string(x, "\n");
}

/* A slow reader: what waits is old already. */
static void make_room(HttpExchange *x, size_t size)
{
    size_t waiting = x->pending ? x->pending->size : 0;

    if (waiting == 0 || waiting + size <= HTTP_STREAM_PENDING_MAX)
        return;
    h2o_buffer_consume(&x->pending, waiting);
    http_exchange_release(x, waiting);
    (void)write_gap(x, HTTP_SPAN(""));
}

static void on_value(endpoint_watch *w, const endpoint_value *v, void *userdata)
{
    HttpExchange *x = userdata;
    char id[160];
    bool first = x->first_value;

    if (x->state != HTTP_STREAMING || x->ended)
        return;
    event_id(x->connection->http, v, id, sizeof(id));
    x->first_value = false;
    if (first && !v->resumed && !v->gap && x->last_event_id.size > 0) {
        if (http_span_is(x->last_event_id, id))
            return; /* it has this one */
        (void)write_gap(x, x->last_event_id);
    } else if (v->gap)
        (void)write_gap(x, first ? x->last_event_id : HTTP_SPAN(""));
    x->resumes = v->resumed;
    make_room(x, v->size);
    if (write_value(x, v, id) < 0)
        x->aborted = true;
    http_reply_send_more(x);
}

static void on_started(endpoint_watch *w, void *userdata)
{
    HttpExchange *x = userdata;
    char retry[32];

    if (x->state != HTTP_WAITING)
        return;
    http_reply_start(x, 200);
    http_reply_header(x, "content-type", "text/event-stream");
    http_reply_header(x, "cache-control", "no-store");
    snprintf(retry, sizeof(retry), "retry: %d\n\n", RETRY_MS);
    (void)write_string(x, retry);
    x->event_stream = true;
    if (x->connection->http->n_streams == 0)
        x->connection->http->streams_usec = http_now();
    x->connection->http->n_streams++;
    x->connection->http->counters.streams++;
    http_reply_stream(x);
}

void http_stream_end(HttpExchange *x, unsigned status)
{
    char event[64];

    if (x->ended)
        return;
    snprintf(event, sizeof(event), "event: end\ndata: {\"status\":%u}\n\n", status);
    (void)write_string(x, event);
    http_reply_end(x);
}

static void on_ended(endpoint_watch *w, unsigned status, const char *detail, void *userdata)
{
    HttpExchange *x = userdata;

    if (x->state == HTTP_WAITING) {
        http_reply_start(x, status);
        if (status == 401)
            http_reply_header(x, "www-authenticate", "Bearer");
        if (status == 429 || status == 503)
            http_reply_header(x, "retry-after", "1");
        http_reply_body(x, "application/problem+json", strempty(detail), strlen(strempty(detail)));
        return;
    }
    if (x->state != HTTP_STREAMING)
        return;
    if (x->in_flight && (status == 401 || status == 403)) {
        http_reply_cut(x); /* what waits for a slow reader is not for him any more */
        return;
    }
    http_stream_end(x, status);
}

static const endpoint_watch_ops watch_ops = {
    .started = on_started, .value = on_value, .ended = on_ended};

/* The client has taken all there was. */
void http_stream_next(HttpExchange *x)
{
    x->resumes = false;
    if (x->watch)
        endpoint_watch_next(x->watch);
}

void http_stream_start(HttpExchange *x)
{
    ssize_t at = h2o_find_header_by_str(&x->req->headers, H2O_STRLIT("last-event-id"), -1);
    endpoint_watch *watch = NULL;
    char last[ID_MAX + 1] = "";

    x->first_value = true;
    if (at != -1) {
        h2o_iovec_t v = x->req->headers.entries[at].value;
        x->last_event_id = (http_span){v.base, v.len};
        if (v.len < sizeof(last) && !memchr(v.base, '\0', v.len))
            memcpy(last, v.base, v.len);
    }
    if (endpoint_watch_resume(x->peer->peer, x->path, last, &watch_ops, x, &watch) < 0)
        http_exchange_problem(x, 503, 1000000u);
    else
        x->watch = watch;
}

/* Comments keep middle boxes from closing quiet streams, and find readers that have gone. */
void http_streams_tick(Http *h)
{
    uint64_t now = http_now();

    if (h->n_streams == 0 || now - h->streams_usec < h->settings->keep_alive)
        return;
    h->streams_usec = now;
    for (HttpConnection *c = h->connections; c; c = c->next)
        for (HttpExchange *x = c->exchanges, *next; x; x = next) {
            next = x->next;
            if (!x->event_stream || x->state != HTTP_STREAMING || x->in_flight)
                continue;
            (void)write_string(x, ":\n\n");
            http_reply_send_more(x);
        }
}
