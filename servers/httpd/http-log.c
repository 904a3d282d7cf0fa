/* SPDX-License-Identifier: Apache-2.0 */
/* The access log: one line a request, without query (it may carry secrets), bounded in lines a
 * second so that a flood does not become a flood of the journal. */

#include "http.h"

#include <hybus/log.h>

#define LINES_PER_SECOND 500u

static bool is_wanted(const HttpExchange *x)
{
    const char *mode = x->connection->http->settings->access_log;

    return streq(mode, "all") || (streq(mode, "errors") && x->req->res.status >= 400);
}

static bool has_room(Http *h)
{
    uint64_t second = http_now() / 1000000u;

    if (second != h->log_second) {
        if (h->log_lines > LINES_PER_SECOND)
            hybus_warning("access log: %u lines left out", h->log_lines - LINES_PER_SECOND);
        h->log_second = second;
        h->log_lines = 0;
    }
    return ++h->log_lines <= LINES_PER_SECOND;
}

void http_log_access(HttpExchange *x)
{
    h2o_req_t *req = x->req;
    const char *principal = "-", *mark;
    char method[64], path[512];
    http_span target = {req->path.base, req->path.len};

    if (!is_wanted(x) || !has_room(x->connection->http))
        return;
    if (x->peer && x->peer->peer && x->peer->checked && !x->peer->dead)
        principal = endpoint_peer_principal(x->peer->peer);
    mark = memchr(target.base, '?', target.size);
    if (mark)
        target.size = (size_t)(mark - target.base);
    hybus_info("%s %s %s %s HTTP/%d %d %zu", x->connection->peer_name, principal,
               http_escape((http_span){req->method.base, req->method.len}, method, sizeof(method)),
               http_escape(target, path, sizeof(path)), req->version >> 8, req->res.status,
               req->bytes_sent);
}
