/* SPDX-License-Identifier: Apache-2.0 */
/* Which hosts we are, and which origins may speak to us from a browser. A page of another origin
 * must not ride on what a browser adds by itself: cookies, a client certificate, or simply the
 * place in the network that the browser stands in. */

#include "http.h"

#include <strings.h>

static bool equal_nocase(http_span s, const char *name)
{
    return http_span_is_nocase(s, name);
}

/* Names we were given, our own host name (also with .local), localhost, and the literal address
 * that the connection came to. Anything else is a name that somebody else pointed at us. */
bool http_host_is_ours(Http *h, HttpConnection *c, http_span authority)
{
    http_span host;
    uint16_t port;

    if (http_authority_parse(authority, &host, &port) < 0)
        return false;
    if (equal_nocase(host, "localhost") || equal_nocase(host, c->local_name) ||
        equal_nocase(host, h->host_name))
        return true;
    if (host.size > 6 && strncasecmp(host.base + host.size - 6, ".local", 6) == 0 &&
        equal_nocase((http_span){host.base, host.size - 6}, h->host_name))
        return true;
    for (char **name = h->settings->host_names; name && *name; name++)
        if (equal_nocase(host, *name))
            return true;
    return false;
}

static http_span header(HttpExchange *x, const char *name)
{
    ssize_t at = h2o_find_header_by_str(&x->req->headers, name, strlen(name), -1);

    if (at == -1)
        return (http_span){};
    return (http_span){x->req->headers.entries[at].value.base,
                       x->req->headers.entries[at].value.len};
}

static bool is_same_origin(HttpExchange *x, http_span origin)
{
    const char *scheme = x->connection->tls ? "https://" : "http://";
    size_t n = strlen(scheme);

    return origin.size > n && memcmp(origin.base, scheme, n) == 0 &&
           origin.size - n == x->req->authority.len &&
           strncasecmp(origin.base + n, x->req->authority.base, origin.size - n) == 0;
}

static bool is_allowed_origin(const Http *h, http_span origin)
{
    for (char **o = h->settings->origins; o && *o; o++)
        if (http_span_is(origin, *o))
            return true;
    return false;
}

static void add_cors(HttpExchange *x, http_span origin)
{
    char value[256];

    if (origin.size >= sizeof(value))
        return;
    memcpy(value, origin.base, origin.size);
    value[origin.size] = '\0';
    http_reply_header(x, "access-control-allow-origin", value);
    http_reply_header(x, "access-control-expose-headers", "*");
    http_reply_header(x, "vary", "origin");
}

unsigned http_origin_check(HttpExchange *x, bool bearer, bool ambient)
{
    http_span origin = header(x, "origin");
    bool safe = http_method_is_safe((http_span){x->req->method.base, x->req->method.len});

    if (origin.size == 0)
        return ambient && !safe ? 403 : 0;
    if (is_same_origin(x, origin))
        return 0;
    /* Also of one that may call with a token of its own: what a browser adds is not the page's. */
    if (ambient && !safe)
        return 403;
    if (is_allowed_origin(x->connection->http, origin)) {
        add_cors(x, origin);
        return 0;
    }
    return safe || bearer ? 0 : 403;
}

/* A preflight (Fetch, 3.2.2) is answered here: it carries no credentials and asks no responder. */
bool http_origin_preflight(HttpExchange *x)
{
    http_span method = header(x, "access-control-request-method");

    if (!h2o_memis(x->req->method.base, x->req->method.len, H2O_STRLIT("OPTIONS")) ||
        method.size == 0)
        return false;
    if (!is_allowed_origin(x->connection->http, header(x, "origin"))) {
        http_exchange_problem(x, 403, 0);
        return true;
    }
    http_reply_start(x, 204);
    http_reply_header(x, "access-control-allow-methods",
                      "GET, HEAD, POST, PUT, PATCH, DELETE, FETCH");
    http_reply_header(
        x, "access-control-allow-headers",
        "authorization, content-type, accept, last-event-id, if-match, if-none-match");
    http_reply_header(x, "access-control-max-age", "600");
    http_reply_body(x, "text/plain", "", 0);
    return true;
}
