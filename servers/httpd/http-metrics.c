/* SPDX-License-Identifier: Apache-2.0 */
/* Counters, on D-Bus as they are and at an endpoint of our own in the Prometheus text format. */

#include "http.h"

#define ROOM (8u * 1024u)

void http_statistics(Http *h, void (*each)(const char *name, uint64_t value, void *userdata),
                     void *userdata)
{
    const http_counters *c = &h->counters;
    endpoint_statistics e = {};

    if (h->core)
        endpoint_core_statistics(h->core, &e);
    const struct {
        const char *name;
        uint64_t value;
    } table[] = {
        {"connections_total", c->connections},
        {"connections_refused_total", c->refused_connections},
        {"connections_evicted_total", c->evicted},
        {"connections_kicked_total", c->kicked},
        {"connections_stalled_total", c->stalled},
        {"requests_total", c->requests},
        {"requests_limited_total", c->limited},
        {"requests_bad_total", c->bad_requests},
        {"requests_misdirected_total", c->misdirected},
        {"requests_reset_total", c->resets},
        {"responses_2xx_total", c->responses[2]},
        {"responses_3xx_total", c->responses[3]},
        {"responses_4xx_total", c->responses[4]},
        {"responses_5xx_total", c->responses[5]},
        {"request_body_bytes_total", c->body_bytes_in},
        {"response_body_bytes_total", c->body_bytes_out},
        {"streams_total", c->streams},
        {"connections", h->n_connections},
        {"connections_authenticated", h->n_authenticated},
        {"addresses", h->n_addresses},
        {"streams", h->n_streams},
        {"endpoint_requests_total", e.requests},
        {"endpoint_refused_total", e.refused},
        {"endpoint_unauthenticated_total", e.unauthenticated},
        {"endpoint_not_found_total", e.not_found},
        {"endpoint_responder_gone_total", e.responder_gone},
        {"endpoint_timeouts_total", e.timeouts},
        {"endpoint_overloaded_total", e.overloaded},
        {"endpoint_cancelled_total", e.cancelled},
        {"endpoint_notifies_total", e.notifies},
        {"endpoint_notifies_dropped_total", e.notifies_dropped},
        {"endpoint_open_requests", e.open_requests},
        {"endpoint_peers", e.peers},
        {"endpoint_watches", e.watches},
        {"endpoint_values", e.values},
        {"endpoint_responders", e.responders},
        {"endpoint_namespaces", e.namespaces},
    };

    for (size_t i = 0; i < ELEMENTS(table); i++)
        each(table[i].name, table[i].value, userdata);
}

typedef struct text {
    char *buffer;
    size_t size;
} text;

static void add_line(const char *name, uint64_t value, void *userdata)
{
    text *t = userdata;
    size_t n = strlen(name);
    bool counter = n > 6 && streq(name + n - 6, "_total");
    int r = snprintf(t->buffer + t->size, ROOM - t->size,
                     "# TYPE hybridos_http_%s %s\n"
                     "hybridos_http_%s %llu\n",
                     name, counter ? "counter" : "gauge", name, (unsigned long long)value);

    if (r > 0 && (size_t)r < ROOM - t->size)
        t->size += (size_t)r;
}

void http_metrics_reply(HttpExchange *x)
{
    text t = {.buffer = h2o_mem_alloc_pool(&x->req->pool, ROOM)};

    if (!x->head && !h2o_memis(x->req->method.base, x->req->method.len, H2O_STRLIT("GET"))) {
        http_exchange_problem(x, 405, 0);
        return;
    }
    http_statistics(x->connection->http, add_line, &t);
    http_reply_start(x, 200);
    http_reply_body(x, "text/plain; version=0.0.4; charset=utf-8", t.buffer, t.size);
}
