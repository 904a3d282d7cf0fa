/* SPDX-License-Identifier: Apache-2.0 */
#include <strings.h>

#include "core.h"

static const struct {
    unsigned status;
    const char *title;
    bool retry;
} statuses[] = {
    {400, "Bad Request", false},
    {401, "Unauthorized", false},
    {403, "Forbidden", false},
    {404, "Not Found", false},
    {410, "Gone", false},
    {413, "Content Too Large", false},
    {414, "URI Too Long", false},
    {429, "Too Many Requests", true},
    {431, "Request Header Fields Too Large", false},
    {502, "Bad Gateway", false},
    {503, "Service Unavailable", true},
    {504, "Gateway Timeout", false},
};

const char *status_title(unsigned status)
{
    for (size_t i = 0; i < ELEMENTS(statuses); i++)
        if (statuses[i].status == status)
            return statuses[i].title;
    return "Error";
}

bool status_retry(unsigned status)
{
    for (size_t i = 0; i < ELEMENTS(statuses); i++)
        if (statuses[i].status == status)
            return statuses[i].retry;
    return false;
}

/* What is put in is the core's own text and the agent's audit id; anything that JSON would have to
 * escape does not get in. */
static void plain(char *to, size_t room, const char *from)
{
    size_t n = 0;

    for (; *from && n + 1 < room; from++)
        if ((unsigned char)*from >= 0x20 && (unsigned char)*from < 0x7f && *from != '"' &&
            *from != '\\')
            to[n++] = *from;
    to[n] = 0;
}

size_t status_problem(char buffer[PROBLEM_MAX], unsigned status, const char *detail,
                      const char *audit)
{
    char text[200], id[80];
    int n;

    plain(text, sizeof(text), strempty(detail));
    plain(id, sizeof(id), strempty(audit));
    n = snprintf(
        buffer, PROBLEM_MAX,
        "{\"type\":\"about:blank\",\"title\":\"%s\",\"status\":%u,\"detail\":\"%s\"%s%s%s}",
        status_title(status), status, text, *id ? ",\"audit\":\"" : "", id, *id ? "\"" : "");
    return n > 0 ? MIN_OF((size_t)n, (size_t)PROBLEM_MAX - 1) : 0;
}

void status_audit_path(char buffer[AUDIT_PATH_MAX], const char *path)
{
    static const char digits[] = "0123456789ABCDEF";
    size_t n = 0;

    for (; *path && n + 4 < AUDIT_PATH_MAX; path++) {
        unsigned char ch = (unsigned char)*path;
        if (ch > 0x20 && ch < 0x7f && ch != '%') {
            buffer[n++] = (char)ch;
        } else {
            buffer[n++] = '%';
            buffer[n++] = digits[ch >> 4];
            buffer[n++] = digits[ch & 15];
        }
    }
    buffer[n] = 0;
}

static bool is_token(const endpoint_field *f)
{
    for (size_t i = 0; i < f->name_size; i++) {
        unsigned char ch = (unsigned char)f->name[i];
        if (!((ch >= 'a' && ch <= 'z') || (ch >= '0' && ch <= '9') ||
              (ch != 0 && strchr("!#$%&'*+-.^_`|~", ch))))
            return false;
    }
    return f->name_size > 0;
}

static bool is_value(const endpoint_field *f)
{
    for (size_t i = 0; i < f->value_size; i++) {
        unsigned char ch = (unsigned char)f->value[i];
        if ((ch < 0x20 && ch != '\t') || ch == 0x7f)
            return false;
    }
    return true;
}

static bool begins(const char *s, size_t size, const char *prefix)
{
    size_t n = strlen(prefix);
    return size >= n && strncasecmp(s, prefix, n) == 0;
}

/* The cookies of the device itself; the two prefixes promise a browser what only the server knows.
 */
static bool is_our_cookie(const endpoint_field *f)
{
    const char *v = f->value;
    size_t n = f->value_size;

    while (n > 0 && (*v == ' ' || *v == '\t'))
        v++, n--;
    return begins(v, n, "__host-") || begins(v, n, "__secure-") || begins(v, n, "hybridos");
}

static bool is_ours(const endpoint_field *f)
{
    static const char *const names[] = {
        "connection",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "strict-transport-security",
        "service-worker-allowed",
        "clear-site-data",
        "alt-svc",
        "public-key-pins",
        "www-authenticate",
    };

    for (size_t i = 0; i < ELEMENTS(names); i++)
        if (hybus_frame_field_is(f, names[i]))
            return true;
    if (begins(f->name, f->name_size, "access-control-") || begins(f->name, f->name_size, "proxy-"))
        return true;
    return hybus_frame_field_is(f, "set-cookie") && is_our_cookie(f);
}

int status_filter_fields(endpoint_field *fields, size_t *n_fields)
{
    size_t kept = 0;

    for (size_t i = 0; i < *n_fields; i++) {
        endpoint_field *f = &fields[i];
        if (f->name_size > 0 && f->name[0] == ':')
            continue;
        if (!is_token(f) || !is_value(f))
            return -EBADMSG;
        if (!is_ours(f))
            fields[kept++] = *f;
    }
    *n_fields = kept;
    return 0;
}
