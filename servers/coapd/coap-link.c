/* SPDX-License-Identifier: Apache-2.0 */
/* What there is to see (RFC 6690): the namespaces that this client may read, and nothing of others.
 */

#include "coap-node.h"

typedef struct document {
    FILE *file;
    coapd_filters filters;
    size_t links;
} document;

/* As link format has it, so that it is read as everybody reads it. */
static bool has_attribute(const coapd_filter *f, const endpoint_listing *l)
{
    char text[640], value[COAPD_LINK_VALUE_MAX + 1];
    const coapd_attribute *a;
    const char *at = text;
    coapd_link link;

    snprintf(text, sizeof(text), "<>;%s", l->attributes);
    if (coapd_link_next(&at, text + strlen(text), &link) <= 0 || !(a = coapd_link_find(&link, f->name)))
        return false;
    coapd_link_unquote(a->value, value);
    return coapd_filter_value(f, value);
}

static bool is_wanted(const coapd_filters *filters, const endpoint_listing *l)
{
    for (size_t i = 0; i < filters->n; i++) {
        const coapd_filter *f = &filters->list[i];

        if (!(streq(f->name, "href") && coapd_filter_text(f, l->namespace)) &&
            !(streq(f->name, "title") && l->title && coapd_filter_text(f, l->title)) &&
            !(l->attributes && has_attribute(f, l)))
            return false;
    }
    return true;
}

static void write_attributes(FILE *file, const char *attributes)
{
    char text[640], name[COAPD_LINK_NAME_MAX + 1], value[COAPD_LINK_VALUE_MAX + 1];
    const char *at = text;
    coapd_link link;

    snprintf(text, sizeof(text), "<>;%s", attributes);
    if (coapd_link_next(&at, text + strlen(text), &link) <= 0)
        return;
    for (size_t i = 0; i < link.n; i++) {
        const coapd_attribute *a = &link.attributes[i];

        snprintf(name, sizeof(name), "%.*s", (int)a->name.size, a->name.base);
        coapd_link_unquote(a->value, value);
        if (!streq(name, "obs")) /* said of all */
            coapd_link_write(file, name, a->value.base ? value : NULL);
    }
}

static void each(const endpoint_listing *l, void *userdata)
{
    document *d = userdata;

    if (!is_wanted(&d->filters, l))
        return;
    fprintf(d->file, "%s<%s>", d->links++ ? "," : "", l->namespace);
    if (l->title && *l->title)
        coapd_link_write(d->file, "title", l->title);
    if (l->attributes)
        write_attributes(d->file, l->attributes);
    fputs(";obs", d->file);
}

int coapd_links(CoapdSession *s, const char *query, char **ret, size_t *ret_size)
{
    document d = {};
    char *text = NULL;
    size_t size = 0;
    int r;

    /* A query that cannot be understood finds nothing, rather than everything. */
    if (coapd_filters_parse(query, &d.filters) < 0)
        return -EINVAL;
    d.file = open_memstream(&text, &size);
    if (!d.file)
        return -ENOMEM;
    r = endpoint_peer_list(s->peer, each, &d);
    if (r >= 0)
        d.links = coapd_rd_links(s->coapd, &d.filters, d.file, d.links);
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
