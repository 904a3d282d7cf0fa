/* SPDX-License-Identifier: Apache-2.0 */
#include "coap-linkformat.h"

#include <hybus/utf8.h>

/* --- reading ------------------------------------------------------------------------------------
 */

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static void skip_spaces(const char **at, const char *end)
{
    while (*at < end && is_space(**at))
        (*at)++;
}

static bool is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("!#$&+-.^_`|~*", c));
}

/* What may stand without quotes: ptokenchar of RFC 6690, 2. */
static bool is_token(char c)
{
    return c > 0x20 && c < 0x7f && !strchr("\",;\\", c);
}

static bool is_control(char c)
{
    return (unsigned char)c < 0x20 || c == 0x7f;
}

static int take_target(const char **at, const char *end, coapd_span *ret)
{
    const char *close;

    if (*at >= end || **at != '<')
        return -EINVAL;
    ++*at;
    close = memchr(*at, '>', (size_t)(end - *at));
    if (!close)
        return -EINVAL;
    *ret = (coapd_span){*at, (size_t)(close - *at)};
    *at = close + 1;
    return ret->size > COAPD_LINK_TARGET_MAX ? -ENOBUFS : 0;
}

static int take_quoted(const char **at, const char *end, coapd_span *ret)
{
    const char *p = *at;

    for (; p < end && *p != '"'; p++) {
        if (*p == '\\' && ++p == end)
            return -EINVAL;
        if (is_control(*p))
            return -EINVAL;
    }
    if (p >= end)
        return -EINVAL;
    *ret = (coapd_span){*at, (size_t)(p - *at)};
    *at = p + 1;
    return 0;
}

static int take_value(const char **at, const char *end, coapd_span *ret)
{
    const char *begin = *at;
    int r = 0;

    if (*at < end && **at == '"') {
        ++*at;
        r = take_quoted(at, end, ret);
    } else {
        while (*at < end && is_token(**at))
            ++*at;
        *ret = (coapd_span){begin, (size_t)(*at - begin)};
        if (ret->size == 0)
            return -EINVAL;
    }
    if (r < 0)
        return r;
    if (ret->size > COAPD_LINK_VALUE_MAX)
        return -ENOBUFS;
    return hybus_utf8_is_valid(ret->base, ret->size) ? 0 : -EINVAL;
}

static int take_attribute(const char **at, const char *end, coapd_attribute *ret)
{
    const char *begin = *at;

    while (*at < end && is_name(**at))
        ++*at;
    *ret = (coapd_attribute){.name = {begin, (size_t)(*at - begin)}};
    if (ret->name.size == 0)
        return -EINVAL;
    if (ret->name.size > COAPD_LINK_NAME_MAX)
        return -ENOBUFS;
    skip_spaces(at, end);
    if (*at >= end || **at != '=')
        return 0;
    ++*at;
    skip_spaces(at, end);
    return take_value(at, end, &ret->value);
}

int coapd_link_next(const char **at, const char *end, coapd_link *ret)
{
    int r;

    skip_spaces(at, end);
    if (*at >= end)
        return 0;
    ret->n = 0;
    r = take_target(at, end, &ret->target);
    if (r < 0)
        return r;
    for (skip_spaces(at, end); *at < end && **at == ';'; skip_spaces(at, end)) {
        ++*at;
        skip_spaces(at, end);
        if (ret->n == COAPD_LINK_ATTRIBUTES_MAX)
            return -ENOBUFS;
        r = take_attribute(at, end, &ret->attributes[ret->n]);
        if (r < 0)
            return r;
        ret->n++;
    }
    if (*at == end)
        return 1;
    if (**at != ',')
        return -EINVAL;
    ++*at;
    skip_spaces(at, end);
    return *at < end ? 1 : -EINVAL; /* something has to follow a comma */
}

size_t coapd_link_unquote(coapd_span value, char text[COAPD_LINK_VALUE_MAX + 1])
{
    size_t n = 0;

    for (size_t i = 0; i < value.size && n < COAPD_LINK_VALUE_MAX; i++) {
        if (value.base[i] == '\\' && i + 1 < value.size)
            i++;
        text[n++] = value.base[i];
    }
    text[n] = 0;
    return n;
}

const coapd_attribute *coapd_link_find(const coapd_link *l, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (l->attributes[i].name.size == strlen(name) &&
            memcmp(l->attributes[i].name.base, name, strlen(name)) == 0)
            return &l->attributes[i];
    return NULL;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
}

/* Encoded dots and slashes are dots and slashes to whoever decodes them later. */
static bool is_dots(const char *s, size_t size)
{
    return (size == 1 && s[0] == '.') || (size == 2 && s[0] == '.' && s[1] == '.');
}

bool coapd_link_target_local(coapd_span t)
{
    char path[COAPD_LINK_TARGET_MAX + 1];
    size_t n = 0, segment = 1;
    bool query = false;

    if (t.size == 0 || t.size > COAPD_LINK_TARGET_MAX || t.base[0] != '/' ||
        (t.size > 1 && t.base[1] == '/'))
        return false;
    for (size_t i = 0; i < t.size; i++) {
        char c = t.base[i];

        if (c <= 0x20 || c >= 0x7f || strchr("<>\"\\^`{|}#", c))
            return false;
        if (c == '%') {
            int high = i + 2 < t.size ? hex(t.base[i + 1]) : -1;
            int low = i + 2 < t.size ? hex(t.base[i + 2]) : -1;

            if (high < 0 || low < 0)
                return false;
            c = (char)(high << 4 | low);
            i += 2;
            if (is_control(c) || c == '/')
                return false;
        } else if (!query && (c == '/' || c == '?')) {
            if (n > segment && is_dots(path + segment, n - segment))
                return false;
            query = c == '?';
            segment = n + 1;
        }
        path[n++] = c;
    }
    return hybus_utf8_is_valid(path, n) &&
           (query || n <= segment || !is_dots(path + segment, n - segment));
}

/* --- writing ------------------------------------------------------------------------------------
 */

void coapd_link_write(FILE *file, const char *name, const char *value)
{
    fprintf(file, ";%s", name);
    if (!value)
        return;
    fputs("=\"", file);
    for (; *value; value++) {
        if (*value == '"' || *value == '\\')
            putc('\\', file);
        if (!is_control(*value))
            putc(*value, file);
    }
    putc('"', file);
}

/* --- filters ------------------------------------------------------------------------------------
 */

static int decode(const char *from, size_t size, char *to, size_t room)
{
    size_t n = 0;

    for (size_t i = 0; i < size; i++) {
        char c = from[i];

        if (c == '%') {
            int high = i + 2 < size ? hex(from[i + 1]) : -1;
            int low = i + 2 < size ? hex(from[i + 2]) : -1;

            if (high < 0 || low < 0)
                return -EINVAL;
            c = (char)(high << 4 | low);
            i += 2;
        }
        if (is_control(c))
            return -EINVAL;
        if (n + 1 >= room)
            return -ENOBUFS;
        to[n++] = c;
    }
    to[n] = 0;
    return (int)n;
}

static int parse_filter(const char *text, size_t size, coapd_filter *f)
{
    const char *equals = memchr(text, '=', size);
    size_t name = equals ? (size_t)(equals - text) : size;
    int n = decode(text, name, f->name, sizeof(f->name));

    if (n <= 0)
        return n < 0 ? n : -EINVAL;
    n = equals ? decode(equals + 1, size - name - 1, f->value, sizeof(f->value)) : 0;
    if (n < 0)
        return n;
    f->prefix = n > 0 && f->value[n - 1] == '*';
    f->value[f->prefix ? n - 1 : n] = 0;
    return 0;
}

int coapd_filters_parse(const char *query, coapd_filters *ret)
{
    ret->n = 0;
    while (*query) {
        const char *end = strchrnul(query, '&');
        int r;

        if (ret->n == COAPD_FILTERS_MAX)
            return -ENOBUFS;
        r = parse_filter(query, (size_t)(end - query), &ret->list[ret->n]);
        if (r < 0)
            return r;
        ret->n++;
        query = *end ? end + 1 : end;
    }
    return 0;
}

bool coapd_filter_text(const coapd_filter *f, const char *value)
{
    return f->prefix ? startswith(value, f->value) != NULL : streq(value, f->value);
}

bool coapd_filter_value(const coapd_filter *f, const char *value)
{
    static const char *const lists[] = {"rt", "if", "rel", "rev", "ct"};
    bool list = false;

    for (size_t i = 0; i < ELEMENTS(lists); i++)
        list = list || streq(f->name, lists[i]);
    if (!list || coapd_filter_text(f, value))
        return coapd_filter_text(f, value);
    while (*value) {
        size_t n = strcspn(value, " "), wanted = strlen(f->value);

        if (n >= wanted && (f->prefix || n == wanted) && memcmp(value, f->value, wanted) == 0)
            return true;
        value += n + strspn(value + n, " ");
    }
    return false;
}
