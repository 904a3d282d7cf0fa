/* SPDX-License-Identifier: Apache-2.0 */
#include "http-request.h"

#include <ctype.h>
#include <hybus/utf8.h>
#include <strings.h>

bool http_span_is_nocase(http_span s, const char *literal)
{
    return s.size == strlen(literal) && (s.size == 0 || strncasecmp(s.base, literal, s.size) == 0);
}

/* --- request target -------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int decode(http_span in, char *out, size_t *ret_size)
{
    size_t n = 0;

    for (size_t i = 0; i < in.size; i++) {
        unsigned char c = (unsigned char)in.base[i];

        if (c == '%') {
            int high, low;

            if (in.size - i < 3)
                return -EINVAL;
            high = hex_digit(in.base[i + 1]);
            low = hex_digit(in.base[i + 2]);
            if (high < 0 || low < 0)
                return -EINVAL;
            c = (unsigned char)(high << 4 | low);
            i += 2;
        }
        if (c < 0x20 || c == 0x7f)
            return -EINVAL;
        if (n >= HTTP_PATH_MAX)
            return -ENAMETOOLONG;
        out[n++] = (char)c;
    }
    *ret_size = n;
    return 0;
}

/* In place; `path` starts with "/". Each turn reads one segment, "/" included. */
static size_t remove_dot_segments(char *path, size_t size)
{
    size_t out = 0;

    for (size_t i = 0; i < size;) {
        size_t end = i + 1;
        bool last;

        while (end < size && path[end] != '/')
            end++;
        last = end == size;
        if (end - i == 2 && path[i + 1] == '.') {
            if (last)
                path[out++] = '/';
        } else if (end - i == 3 && path[i + 1] == '.' && path[i + 2] == '.') {
            while (out > 0 && path[--out] != '/')
                ;
            if (last)
                path[out++] = '/';
        } else {
            memmove(path + out, path + i, end - i);
            out += end - i;
        }
        i = end;
    }
    if (out == 0)
        path[out++] = '/';
    return out;
}

int http_target_parse(http_span target, char *path, size_t *ret_path_size, http_span *ret_query)
{
    http_span raw = target, query = HTTP_SPAN("");
    const char *mark, *at;
    size_t size;
    int r;

    if (target.size == 0 || target.base[0] != '/')
        return -EINVAL;
    mark = memchr(target.base, '?', target.size);
    if (mark) {
        raw.size = (size_t)(mark - target.base);
        query = (http_span){mark + 1, target.size - raw.size - 1};
    }
    if (query.size > HTTP_QUERY_MAX)
        return -ENAMETOOLONG;
    for (at = query.base; at < query.base + query.size; at++)
        if ((unsigned char)*at <= 0x20 || (unsigned char)*at >= 0x7f)
            return -EINVAL;
    r = decode(raw, path, &size);
    if (r < 0)
        return r;
    if (!hybus_utf8_is_valid(path, size) || memchr(raw.base, '#', raw.size))
        return -EINVAL;
    size = remove_dot_segments(path, size);
    path[size] = '\0';
    *ret_path_size = size;
    *ret_query = query;
    return 0;
}

/* --- HTTP/1 framing -------------------------------------------------------------------------- */

typedef struct head {
    unsigned hosts, lengths, codings;
    bool old; /* HTTP/1.0 */
} head;

/* The next line without its CRLF; false: no proper line is there. */
static bool next_line(const char **at, const char *end, http_span *ret)
{
    const char *newline = memchr(*at, '\n', (size_t)(end - *at));

    if (!newline || newline == *at || newline[-1] != '\r')
        return false;
    *ret = (http_span){*at, (size_t)(newline - 1 - *at)};
    *at = newline + 1;
    return true;
}

static bool is_token_char(unsigned char c)
{
    return isalnum(c) || (c && strchr("!#$%&'*+-.^_`|~", c));
}

static bool is_token(http_span s)
{
    for (size_t i = 0; i < s.size; i++)
        if (!is_token_char((unsigned char)s.base[i]))
            return false;
    return s.size > 0;
}

static http_span trim(http_span s)
{
    while (s.size > 0 && (s.base[0] == ' ' || s.base[0] == '\t'))
        s.base++, s.size--;
    while (s.size > 0 && (s.base[s.size - 1] == ' ' || s.base[s.size - 1] == '\t'))
        s.size--;
    return s;
}

bool http_value_is_clean(http_span value)
{
    for (size_t i = 0; i < value.size; i++) {
        unsigned char c = (unsigned char)value.base[i];

        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return false;
    }
    return true;
}

static bool check_request_line(http_span line, head *h)
{
    static const char version[] = " HTTP/1.";
    size_t n = sizeof(version) - 1;
    const char *space = memchr(line.base, ' ', line.size);
    http_span tail;

    if (!space || line.size < n + 1 || !http_value_is_clean(line))
        return false;
    tail = (http_span){line.base + line.size - n - 1, n};
    if (!http_span_is(tail, version) || tail.base <= space)
        return false;
    h->old = line.base[line.size - 1] == '0';
    if (!h->old && line.base[line.size - 1] != '1')
        return false;
    /* Exactly two spaces: what lies between must not hold one. */
    return is_token((http_span){line.base, (size_t)(space - line.base)}) &&
           !memchr(space + 1, ' ', (size_t)(tail.base - space - 1)) &&
           !memchr(line.base, '\t', line.size);
}

static bool is_number(http_span s)
{
    for (size_t i = 0; i < s.size; i++)
        if (s.base[i] < '0' || s.base[i] > '9')
            return false;
    return s.size > 0 && s.size <= 15;
}

static bool check_field(http_span line, head *h)
{
    const char *colon = memchr(line.base, ':', line.size);
    http_span name, value;

    if (!colon)
        return false;
    name = (http_span){line.base, (size_t)(colon - line.base)};
    value = trim((http_span){colon + 1, line.size - name.size - 1});
    if (!is_token(name) || !http_value_is_clean(value))
        return false;
    if (http_span_is_nocase(name, "host"))
        h->hosts++;
    if (http_span_is_nocase(name, "content-length")) {
        h->lengths++;
        return is_number(value);
    }
    if (http_span_is_nocase(name, "transfer-encoding")) {
        h->codings++;
        return http_span_is_nocase(value, "chunked");
    }
    return true;
}

int http_head_check(const char *bytes, size_t size, bool *ret_body)
{
    const char *at = bytes, *end = bytes + size;
    http_span line;
    head h = {};

    if (!next_line(&at, end, &line) || !check_request_line(line, &h))
        return -EBADMSG;
    for (;;) {
        if (!next_line(&at, end, &line))
            return -EBADMSG;
        if (line.size == 0)
            break;
        if (!check_field(line, &h))
            return -EBADMSG;
    }
    if (h.hosts > 1 || (h.hosts == 0 && !h.old) || h.lengths > 1 || h.codings > 1 ||
        (h.lengths && h.codings) || (h.codings && h.old))
        return -EBADMSG;
    *ret_body = h.lengths || h.codings;
    return 0;
}

/* --- HTTP/2 header blocks -------------------------------------------------------------------- */

/* RFC 7541, 5.1, as far as the library reads it: four octets after the prefix. */
static bool skip_integer(const uint8_t **at, const uint8_t *end, unsigned bits, uint32_t *ret)
{
    uint32_t mask = (1u << bits) - 1, value;

    if (*at >= end)
        return false;
    value = *(*at)++ & mask;
    if (value == mask)
        for (unsigned shift = 0;; shift += 7) {
            if (*at >= end || shift > 21)
                return false;
            value += (uint32_t)(**at & 127) << shift;
            if (!(*(*at)++ & 128))
                break;
        }
    *ret = value;
    return true;
}

static bool skip_string(const uint8_t **at, const uint8_t *end)
{
    uint32_t size;

    if (!skip_integer(at, end, 7, &size) || size > (size_t)(end - *at))
        return false;
    *at += size;
    return true;
}

static bool skip_field(const uint8_t **at, const uint8_t *end)
{
    uint32_t index;

    if (**at >= 128)
        return skip_integer(at, end, 7, &index);
    if (**at >= 32 && **at < 64)
        return skip_integer(at, end, 5, &index);
    return skip_integer(at, end, **at >= 64 ? 6 : 4, &index) &&
           (index > 0 || skip_string(at, end)) && skip_string(at, end);
}

size_t http_hpack_count(const uint8_t *block, size_t size)
{
    const uint8_t *at = block, *end = block + size;
    size_t n = 0;

    while (at < end) {
        n++;
        if (!skip_field(&at, end))
            break;
    }
    return n;
}

/* --- fields ---------------------------------------------------------------------------------- */

static int port_parse(http_span s, uint16_t *ret)
{
    unsigned port = 0;

    if (s.size == 0 || s.size > 5)
        return -EINVAL;
    for (size_t i = 0; i < s.size; i++) {
        if (s.base[i] < '0' || s.base[i] > '9')
            return -EINVAL;
        port = port * 10 + (unsigned)(s.base[i] - '0');
    }
    if (port == 0 || port > 65535)
        return -EINVAL;
    *ret = (uint16_t)port;
    return 0;
}

int http_authority_parse(http_span authority, http_span *ret_host, uint16_t *ret_port)
{
    http_span host = authority;
    uint16_t port = 0;
    const char *end;

    if (authority.size == 0 || authority.size > 300)
        return -EINVAL;
    if (authority.base[0] == '[') {
        end = memchr(authority.base, ']', authority.size);
        if (!end)
            return -EINVAL;
        host = (http_span){authority.base + 1, (size_t)(end - authority.base - 1)};
        end++;
    } else {
        end = memchr(authority.base, ':', authority.size);
        if (!end)
            end = authority.base + authority.size;
        host.size = (size_t)(end - authority.base);
    }
    if (end < authority.base + authority.size) {
        http_span rest = {end + 1, authority.size - (size_t)(end - authority.base) - 1};

        if (*end != ':' || port_parse(rest, &port) < 0)
            return -EINVAL;
    }
    for (size_t i = 0; i < host.size; i++)
        if (!isalnum((unsigned char)host.base[i]) && !memchr("-._:", host.base[i], 4))
            return -EINVAL;
    if (host.size == 0 || host.size > 255)
        return -EINVAL;
    *ret_host = host;
    *ret_port = port;
    return 0;
}

static bool in_list(http_span name, const char *const *list)
{
    for (; *list; list++)
        if (http_span_is(name, *list))
            return true;
    return false;
}

static bool is_hop_by_hop(http_span name)
{
    static const char *const list[] = {"connection", "keep-alive",     "proxy-connection",
                                       "te",         "trailer",        "transfer-encoding",
                                       "upgrade",    "http2-settings", NULL};
    return in_list(name, list);
}

static bool starts_with(http_span s, const char *prefix)
{
    size_t n = strlen(prefix);
    return s.size >= n && memcmp(s.base, prefix, n) == 0;
}

bool http_field_is_forwarded(http_span name)
{
    static const char *const list[] = {"authorization", "cookie",    "cookie2", "content-length",
                                       "expect",        "forwarded", "host",    "via",
                                       "x-real-ip",     NULL};

    if (name.size == 0 || !is_token(name))
        return false;
    switch (name.base[0]) {
    case 'p':
        return !starts_with(name, "proxy-");
    case 'x':
        return !starts_with(name, "x-forwarded-") && !http_span_is(name, "x-real-ip");
    default:
        return !in_list(name, list) && !is_hop_by_hop(name);
    }
}

bool http_field_is_returned(http_span name)
{
    static const char *const list[] = {"alt-svc",
                                       "clear-site-data",
                                       "content-length",
                                       "date",
                                       "nel",
                                       "origin-agent-cluster",
                                       "public-key-pins",
                                       "refresh",
                                       "report-to",
                                       "reporting-endpoints",
                                       "server",
                                       "service-worker-allowed",
                                       "set-cookie",
                                       "set-cookie2",
                                       "strict-transport-security",
                                       "x-content-type-options",
                                       "x-reproxy-url",
                                       NULL};

    if (!is_token(name))
        return false;
    return !in_list(name, list) && !is_hop_by_hop(name) && !starts_with(name, "proxy-") &&
           !starts_with(name, "access-control-") && !starts_with(name, "content-security-policy") &&
           !starts_with(name, "cross-origin-");
}

static bool is_bearer(http_span token)
{
    for (size_t i = 0; i < token.size; i++) {
        unsigned char c = (unsigned char)token.base[i];

        if (!isalnum(c) && !(c && strchr("-._~+/=:", c)))
            return false;
    }
    return token.size > 0 && token.size <= HTTP_BEARER_MAX;
}

bool http_bearer_parse(http_span authorization, http_span *ret_token)
{
    static const char scheme[] = "bearer ";
    http_span token;

    if (authorization.size < sizeof(scheme) - 1 ||
        strncasecmp(authorization.base, scheme, sizeof(scheme) - 1) != 0)
        return false;
    token = trim((http_span){authorization.base + sizeof(scheme) - 1,
                             authorization.size - sizeof(scheme) + 1});
    if (!is_bearer(token))
        return false;
    *ret_token = token;
    return true;
}

int http_cookie_find(http_span cookies, const char *name, http_span *ret)
{
    size_t n = strlen(name);
    bool found = false;

    while (cookies.size > 0) {
        const char *end = memchr(cookies.base, ';', cookies.size);
        size_t size = end ? (size_t)(end - cookies.base) : cookies.size;
        http_span pair = trim((http_span){cookies.base, size});

        if (pair.size > n && pair.base[n] == '=' && memcmp(pair.base, name, n) == 0) {
            *ret = (http_span){pair.base + n + 1, pair.size - n - 1};
            if (found || !is_bearer(*ret))
                return -EBADMSG;
            found = true;
        }
        if (!end)
            break;
        cookies = (http_span){end + 1, cookies.size - size - 1};
    }
    return found;
}

/* As decode(), with "+" for a space, and any byte but NUL. */
static int form_decode(http_span in, char *out, size_t room)
{
    size_t n = 0;

    for (size_t i = 0; i < in.size; i++) {
        int c = (unsigned char)in.base[i];

        if (c == '+')
            c = ' ';
        else if (c == '%') {
            if (in.size - i < 3 || hex_digit(in.base[i + 1]) < 0 || hex_digit(in.base[i + 2]) < 0)
                return -EINVAL;
            c = hex_digit(in.base[i + 1]) << 4 | hex_digit(in.base[i + 2]);
            i += 2;
        }
        if (c == 0)
            return -EINVAL;
        if (n + 1 >= room)
            return -ENAMETOOLONG;
        out[n++] = (char)c;
    }
    out[n] = '\0';
    return 0;
}

int http_form_find(http_span form, const char *name, char *value, size_t room)
{
    size_t n = strlen(name);
    int r = -ENOENT;

    while (form.size > 0) {
        const char *end = memchr(form.base, '&', form.size);
        size_t size = end ? (size_t)(end - form.base) : form.size;

        if (size > n && form.base[n] == '=' && memcmp(form.base, name, n) == 0) {
            if (r != -ENOENT)
                return -EEXIST;
            r = form_decode((http_span){form.base + n + 1, size - n - 1}, value, room);
            if (r < 0)
                return r;
        }
        if (!end)
            break;
        form = (http_span){end + 1, form.size - size - 1};
    }
    return r;
}

/* "q=0", "q=0.0…": the client does not want it. */
static bool is_refused(http_span parameters)
{
    while (parameters.size > 0) {
        const char *end = memchr(parameters.base, ';', parameters.size);
        size_t n = end ? (size_t)(end - parameters.base) : parameters.size;
        http_span p = trim((http_span){parameters.base, n});

        if (p.size >= 3 && (p.base[0] | 0x20) == 'q' && p.base[1] == '=') {
            for (size_t i = 2; i < p.size; i++)
                if (p.base[i] != '0' && p.base[i] != '.')
                    return false;
            return true;
        }
        if (!end)
            break;
        parameters = (http_span){end + 1, parameters.size - n - 1};
    }
    return false;
}

bool http_list_has(http_span list, const char *token)
{
    while (list.size > 0) {
        const char *comma = memchr(list.base, ',', list.size);
        size_t n = comma ? (size_t)(comma - list.base) : list.size;
        const char *semicolon = memchr(list.base, ';', n);
        size_t m = semicolon ? (size_t)(semicolon - list.base) : n;

        if (http_span_is_nocase(trim((http_span){list.base, m}), token))
            return m == n || !is_refused((http_span){list.base + m + 1, n - m - 1});
        if (!comma)
            break;
        list = (http_span){comma + 1, list.size - n - 1};
    }
    return false;
}

bool http_method_is_safe(http_span method)
{
    return http_span_is(method, "GET") || http_span_is(method, "HEAD") ||
           http_span_is(method, "OPTIONS") || http_span_is(method, "FETCH");
}

bool http_type_is_passive(http_span type)
{
    static const char *const list[] = {"application/json",
                                       "text/plain",
                                       "application/problem+json",
                                       "application/octet-stream",
                                       "text/css",
                                       "image/png",
                                       "image/jpeg",
                                       "application/cbor",
                                       NULL};
    const char *end = type.size > 0 ? memchr(type.base, ';', type.size) : NULL;

    if (end)
        type.size = (size_t)(end - type.base);
    return in_list(trim(type), list);
}

const char *http_reason(unsigned status)
{
    static const struct {
        unsigned status;
        const char *reason;
    } table[] = {
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"},
        {421, "Misdirected Request"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
    };

    for (size_t i = 0; i < ELEMENTS(table); i++)
        if (table[i].status == status)
            return table[i].reason;
    return status < 400 ? "OK" : "Error";
}

const char *http_escape(http_span s, char *buffer, size_t room)
{
    static const char digits[] = "0123456789abcdef";
    size_t n = 0;

    for (size_t i = 0; i < s.size && n + 5 < room; i++) {
        unsigned char c = (unsigned char)s.base[i];

        if (c > 0x20 && c < 0x7f && c != '"' && c != '\\') {
            buffer[n++] = (char)c;
            continue;
        }
        buffer[n++] = '\\';
        buffer[n++] = 'x';
        buffer[n++] = digits[c >> 4];
        buffer[n++] = digits[c & 15];
    }
    if (room > 0)
        buffer[n] = '\0';
    return buffer;
}
