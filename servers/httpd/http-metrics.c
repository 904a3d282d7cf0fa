/* SPDX-License-Identifier: Apache-2.0 */
/* Counters, on D-Bus as they are and at an endpoint of our own in the Prometheus text format. */

#include "http.h"

#include <endpoint/server1.h>

#define ROOM (8u * 1024u)

void http_statistics(Http *h, void (*each)(const char *name, uint64_t value, void *userdata),
                     void *userdata)
{
    const http_counters *c = &h->counters;

    const struct {
        const char *name;
        uint64_t value;
    } table[] = {
        {"connections_total", c->connections},
        {"connections_refused_total", c->refused_connections},
        {"connections_evicted_total", c->evicted},
        {"connections_kicked_total", c->kicked},
        {"connections_stalled_total", c->stalled},
        {"connections_greedy_total", c->greedy},
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
    };

    for (size_t i = 0; i < ELEMENTS(table); i++)
        each(table[i].name, table[i].value, userdata);
    endpoint_statistics_each(h->core, each, userdata);
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

    http_statistics(x->connection->http, add_line, &t);
    http_reply_start(x, 200);
    http_reply_body(x, "text/plain; version=0.0.4; charset=utf-8", t.buffer, t.size);
}
