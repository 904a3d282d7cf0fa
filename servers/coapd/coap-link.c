/* SPDX-License-Identifier: Apache-2.0 */
/* What there is to see (RFC 6690): the namespaces that this client may read, and nothing of others.
 */

#include "coapd.h"

typedef struct filter {
    char name[16], value[256];
    bool there, prefix;
} filter;

typedef struct document {
    FILE *file;
    filter filter;
    size_t links;
} document;

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* An attribute's name and its value, or the beginning of one and a star. */
static void parse_filter(const char *query, filter *f)
{
    const char *equals = strchr(query, '=');
    size_t n = equals ? (size_t)(equals - query) : 0, size = 0;

    if (n == 0 || n >= sizeof(f->name))
        return;
    memcpy(f->name, query, n);
    for (const char *p = equals + 1; *p && *p != '&' && size + 1 < sizeof(f->value); p++) {
        bool escaped = *p == '%' && hex(p[1]) >= 0 && hex(p[2]) >= 0;

        f->value[size++] = escaped ? (char)(hex(p[1]) << 4 | hex(p[2])) : *p;
        p += escaped ? 2 : 0;
    }
    f->there = true;
    f->prefix = size > 0 && f->value[size - 1] == '*';
    f->value[size - f->prefix] = 0;
}

static bool matches(const filter *f, const char *value)
{
    return f->prefix ? startswith(value, f->value) != NULL : streq(value, f->value);
}

static bool is_wanted(const filter *f, const endpoint_listing *l)
{
    if (!f->there)
        return true;
    if (streq(f->name, "href"))
        return matches(f, l->namespace);
    return streq(f->name, "title") && l->title && matches(f, l->title);
}

static void write_quoted(FILE *file, const char *text)
{
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            putc('\\', file);
        if ((unsigned char)*text >= 0x20 && *text != 0x7f)
            putc(*text, file);
    }
}

static void each(const endpoint_listing *l, void *userdata)
{
    document *d = userdata;

    if (!is_wanted(&d->filter, l))
        return;
    fprintf(d->file, "%s<%s>", d->links++ ? "," : "", l->namespace);
    if (l->title && *l->title) {
        fputs(";title=\"", d->file);
        write_quoted(d->file, l->title);
        putc('"', d->file);
    }
    fputs(";obs", d->file);
}

int coapd_links(CoapdSession *s, const char *query, char **ret, size_t *ret_size)
{
    document d = {};
    char *text = NULL;
    size_t size = 0;
    int r;

    parse_filter(query, &d.filter);
    d.file = open_memstream(&text, &size);
    if (!d.file)
        return -ENOMEM;
    r = endpoint_peer_list(s->peer, each, &d);
    if (fclose(d.file) != 0 && r >= 0)
        r = -ENOMEM;
    if (r < 0) {
        free(text);
        return r;
    }
    *ret = text;
    *ret_size = size;
    return 0;
}
