/* SPDX-License-Identifier: Apache-2.0 */
#include "coap-directory.h"

#define PAGE_MAX 1000000u

void directory_init(directory *d)
{
    list_init(&d->nodes);
}

static void links_free(char **links, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(links[i]);
    free(links);
}

static void node_free(directory_node *n)
{
    links_free(n->links, n->n_links);
    free(n->principal);
    free(n->host);
    free(n);
}

void directory_remove(directory *d, directory_node *n)
{
    list_remove(&n->node);
    d->n--;
    node_free(n);
}

void directory_done(directory *d)
{
    while (!list_empty(&d->nodes))
        directory_remove(d, list_entry(d->nodes.next, directory_node, node));
}

/* --- what a registration says -------------------------------------------------------------------
 */

/* A name is one segment of a namespace. */
bool directory_name_valid(const char *s, size_t size)
{
    if (size == 0 || size > DIRECTORY_NAME_MAX || (size == 1 && s[0] == '.') ||
        (size == 2 && s[0] == '.' && s[1] == '.'))
        return false;
    for (size_t i = 0; i < size; i++)
        if (!((s[i] >= 'a' && s[i] <= 'z') || (s[i] >= 'A' && s[i] <= 'Z') ||
              (s[i] >= '0' && s[i] <= '9') || (s[i] && strchr("._~-", s[i]))))
            return false;
    return true;
}

static int parse_lifetime(const directory *d, const char *text, uint32_t *ret)
{
    uint64_t n = 0;

    if (!*text || strlen(text) > 10)
        return -EINVAL;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -EINVAL;
        n = n * 10 + (uint64_t)(*text - '0');
    }
    if (n == 0 || n > d->limits.lifetime_max)
        return -EINVAL;
    *ret = (uint32_t)n;
    return 0;
}

static bool is_attribute(const char *name)
{
    for (; *name; name++)
        if (!((*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z') ||
              (*name >= '0' && *name <= '9') || *name == '-' || *name == '.'))
            return false;
    return true;
}

static int add_attribute(directory_spec *s, const char *name, const char *value)
{
    char *text = NULL;
    size_t size = 0, used = strlen(s->attributes);
    FILE *file = open_memstream(&text, &size);
    int r = -ENOMEM;

    if (!file)
        return r;
    coapd_link_write(file, name, value);
    if (fclose(file) == 0) {
        r = used + size < sizeof(s->attributes) ? 0 : -ENOBUFS;
        if (r == 0)
            memcpy(s->attributes + used, text, size + 1);
    }
    free(text);
    return r;
}

static const char *take_parameter(const directory *d, const coapd_filter *f, bool update,
                                  directory_spec *s)
{
    char value[COAPD_LINK_VALUE_MAX + 2];

    snprintf(value, sizeof(value), "%s%s", f->value, f->prefix ? "*" : "");
    if (streq(f->name, "ep")) {
        if (update || s->name[0])
            return "ep is not said here";
        if (!directory_name_valid(value, strlen(value)))
            return "ep is 1 to 63 of A-Z a-z 0-9 . _ ~ -";
        memcpy(s->name, value, strlen(value) + 1);
    } else if (streq(f->name, "lt")) {
        if (parse_lifetime(d, value, &s->lifetime) < 0)
            return "lt is not a number of seconds that is allowed here";
        s->has_lifetime = true;
    } else if (streq(f->name, "base")) {
        if (!*value || strlen(value) >= sizeof(s->base))
            return "base is where the request comes from";
        memcpy(s->base, value, strlen(value) + 1);
    } else if (streq(f->name, "d")) {
        return "there are no sectors here";
    } else if (streq(f->name, "href") || streq(f->name, "page") || streq(f->name, "count") ||
               streq(f->name, "rt") || !is_attribute(f->name)) {
        return "not an attribute of a node";
    } else if (!update) {
        if (streq(f->name, "et") && strlen(value) < sizeof(s->type))
            memcpy(s->type, value, strlen(value) + 1);
        if (add_attribute(s, f->name, value) < 0)
            return "too many attributes";
    }
    return NULL;
}

int directory_parse(const directory *d, const char *query, bool update, directory_spec *ret,
                    const char **ret_why)
{
    coapd_filters parameters;

    *ret = (directory_spec){.lifetime = MIN_OF(DIRECTORY_LIFETIME, d->limits.lifetime_max)};
    *ret_why = "the query is broken, or has too many parameters";
    if (coapd_filters_parse(query, &parameters) < 0)
        return -EINVAL;
    for (size_t i = 0; i < parameters.n; i++) {
        *ret_why = take_parameter(d, &parameters.list[i], update, ret);
        if (*ret_why)
            return -EINVAL;
    }
    *ret_why = "ep is missing";
    return update || ret->name[0] ? 0 : -EINVAL;
}

/* --- links --------------------------------------------------------------------------------------
 */

static bool is_known(const coapd_attribute *a)
{
    /* An anchor says of whom the link speaks: of the node itself, or it is not the node's to say. */
    static const char *const dropped[] = {"anchor", "href"};

    for (size_t i = 0; i < ELEMENTS(dropped); i++)
        if (a->name.size == strlen(dropped[i]) && memcmp(a->name.base, dropped[i], a->name.size) == 0)
            return false;
    return true;
}

static char *link_text(const coapd_link *l)
{
    char *text = NULL, name[COAPD_LINK_NAME_MAX + 1], value[COAPD_LINK_VALUE_MAX + 1];
    size_t size = 0;
    FILE *file = open_memstream(&text, &size);

    if (!file)
        return NULL;
    fprintf(file, "<%.*s>", (int)l->target.size, l->target.base);
    for (size_t i = 0; i < l->n; i++) {
        const coapd_attribute *a = &l->attributes[i];

        if (!is_known(a))
            continue;
        snprintf(name, sizeof(name), "%.*s", (int)a->name.size, a->name.base);
        coapd_link_unquote(a->value, value);
        coapd_link_write(file, name, a->value.base ? value : NULL);
    }
    if (fclose(file) == 0)
        return text;
    free(text);
    return NULL;
}

static bool is_foreign(const coapd_link *l)
{
    const coapd_attribute *anchor = coapd_link_find(l, "anchor");

    return !coapd_link_target_local(l->target) ||
           (anchor && (!anchor->value.base || !coapd_link_target_local(anchor->value)));
}

static int links_parse(const directory *d, const char *text, size_t size, directory_node *n,
                       const char **ret_why)
{
    const char *end = text + size;
    coapd_link link;
    int r;

    *ret_why = "too much text";
    if (size > d->limits.link_bytes)
        return -ENOBUFS;
    n->links = calloc(MAX_OF(d->limits.links, (size_t)1), sizeof(char *));
    if (!n->links)
        return -ENOMEM;
    while ((r = coapd_link_next(&text, end, &link)) > 0) {
        *ret_why = "a link leads elsewhere: only paths of the node's own are taken";
        if (is_foreign(&link))
            return -EINVAL;
        *ret_why = "too many links";
        if (n->n_links == d->limits.links)
            return -ENOBUFS;
        n->links[n->n_links] = link_text(&link);
        if (!n->links[n->n_links])
            return -ENOMEM;
        n->link_bytes += strlen(n->links[n->n_links++]);
    }
    if (r < 0)
        *ret_why = r == -ENOBUFS ? "a link is too long" : "not link format";
    return r;
}

/* --- the table ----------------------------------------------------------------------------------
 */

directory_node *directory_find(const directory *d, const char *name)
{
    list_for_each(p, &d->nodes)
    {
        directory_node *n = list_entry(p, directory_node, node);
        if (streq(n->name, name))
            return n;
    }
    return NULL;
}

directory_node *directory_by_id(const directory *d, const char *id)
{
    list_for_each(p, &d->nodes)
    {
        directory_node *n = list_entry(p, directory_node, node);
        if (streq(n->id, id))
            return n;
    }
    return NULL;
}

bool directory_owns(const directory_node *n, const directory_owner *o)
{
    if (n->anonymous || o->anonymous)
        return n->anonymous && o->anonymous && streq(n->host, o->host);
    return streq(n->principal, o->principal);
}

/* Nobody takes all the places: an owner has so many, and one without a name is its address. */
static bool is_room(const directory *d, const directory_owner *o)
{
    size_t own = 0;

    list_for_each(p, &d->nodes) own += directory_owns(list_entry(p, directory_node, node), o);
    return d->n < d->limits.nodes && own < d->limits.nodes_owner;
}

static void take_spec(directory_node *n, const directory_spec *s, uint64_t now)
{
    n->lifetime = s->lifetime;
    n->expires_usec = now + (uint64_t)s->lifetime * 1000000u;
    memcpy(n->type, s->type, sizeof(n->type));
    memcpy(n->attributes, s->attributes, sizeof(n->attributes));
}

static int node_new(const directory_spec *s, const directory_owner *o, const char *id,
                    directory_node **ret)
{
    directory_node *n = calloc(1, sizeof(*n));

    if (!n)
        return -ENOMEM;
    list_init(&n->node);
    memcpy(n->name, s->name, sizeof(n->name));
    snprintf(n->id, sizeof(n->id), "%s", id);
    n->anonymous = o->anonymous;
    n->principal = strdup(o->principal);
    n->host = strdup(o->host);
    if (!n->principal || !n->host) {
        node_free(n);
        return -ENOMEM;
    }
    *ret = n;
    return 0;
}

static void replace_links(directory_node *old, directory_node *with)
{
    links_free(old->links, old->n_links);
    old->links = TAKE_PTR(with->links);
    old->n_links = with->n_links;
    old->link_bytes = with->link_bytes;
    with->n_links = 0;
}

int directory_register(directory *d, const directory_spec *s, const directory_owner *o,
                       const char *id, const char *links, size_t size, uint64_t now,
                       directory_node **ret, const char **ret_why)
{
    directory_node *old = directory_find(d, s->name), *n = NULL;
    int r;

    *ret_why = "this name is another's";
    if (old && !directory_owns(old, o))
        return -EEXIST;
    *ret_why = "no more nodes";
    if (!old && !is_room(d, o))
        return -ENOBUFS;
    *ret_why = "no memory";
    r = node_new(s, o, id, &n);
    if (r < 0)
        return r;
    r = links_parse(d, links, size, n, ret_why);
    if (r < 0) {
        node_free(n);
        return r;
    }
    if (old) {
        replace_links(old, n);
        node_free(n);
        n = old;
    } else {
        list_append(&d->nodes, &n->node);
        d->n++;
        n->since_usec = now;
    }
    take_spec(n, s, now);
    *ret = n;
    return 0;
}

void directory_update(directory_node *n, const directory_spec *s, uint64_t now)
{
    if (s->has_lifetime)
        n->lifetime = s->lifetime;
    n->expires_usec = now + (uint64_t)n->lifetime * 1000000u;
}

directory_node *directory_expired(const directory *d, uint64_t now, uint64_t *ret_next)
{
    *ret_next = UINT64_MAX;
    list_for_each(p, &d->nodes)
    {
        directory_node *n = list_entry(p, directory_node, node);
        if (n->expires_usec <= now)
            return n;
        *ret_next = MIN_OF(*ret_next, n->expires_usec);
    }
    return NULL;
}

/* --- look-up ------------------------------------------------------------------------------------
 */

typedef struct lookup {
    coapd_filters filters;
    uint32_t page, count, passed, written;
    FILE *file;
} lookup;

static int take_number(const coapd_filter *f, uint32_t *ret)
{
    char *end;
    unsigned long n = strtoul(f->value, &end, 10);

    if (f->prefix || f->value[0] < '0' || f->value[0] > '9' || *end || n > PAGE_MAX)
        return -EINVAL;
    *ret = (uint32_t)n;
    return 0;
}

static int lookup_parse(lookup *l, const char *query)
{
    size_t kept = 0;
    int r = coapd_filters_parse(query, &l->filters);

    l->count = UINT32_MAX;
    for (size_t i = 0; r >= 0 && i < l->filters.n; i++) {
        const coapd_filter *f = &l->filters.list[i];

        if (streq(f->name, "page"))
            r = take_number(f, &l->page);
        else if (streq(f->name, "count"))
            r = take_number(f, &l->count);
        else
            l->filters.list[kept++] = *f;
    }
    l->filters.n = kept;
    return r < 0 ? r : 0;
}

static bool matches_attributes(const coapd_filter *f, const char *text)
{
    char value[COAPD_LINK_VALUE_MAX + 1], whole[DIRECTORY_TEXT_MAX + 4];
    const coapd_attribute *a;
    coapd_link link;
    const char *at = text;

    if (*text != '<') { /* a node's attributes stand without a target */
        snprintf(whole, sizeof(whole), "<>%s", text);
        at = whole;
    }
    if (coapd_link_next(&at, at + strlen(at), &link) <= 0 || !(a = coapd_link_find(&link, f->name)))
        return false;
    coapd_link_unquote(a->value, value);
    return coapd_filter_value(f, value);
}

static bool matches_node(const coapd_filter *f, const directory_node *n)
{
    char target[32];

    snprintf(target, sizeof(target), "/rd/%s", n->id);
    return (streq(f->name, "ep") && coapd_filter_text(f, n->name)) ||
           (streq(f->name, "href") && coapd_filter_text(f, target)) ||
           (streq(f->name, "rt") && coapd_filter_text(f, "core.rd-ep")) ||
           matches_attributes(f, n->attributes);
}

static bool matches_link(const coapd_filter *f, const directory_node *n, const char *text)
{
    char target[COAPD_LINK_TARGET_MAX + DIRECTORY_NAME_MAX + 16];

    if (streq(f->name, "href")) {
        snprintf(target, sizeof(target), DIRECTORY_PREFIX "%s%.*s", n->name,
                 (int)strcspn(text + 1, ">"), text + 1);
        return coapd_filter_text(f, target) || matches_node(f, n);
    }
    return matches_attributes(f, text) || matches_node(f, n);
}

/* A node is found by what it is, and by what it has; a link by what it is, and by whose it is. */
static bool is_wanted(const lookup *l, const directory_node *n, const char *text)
{
    for (size_t i = 0; i < l->filters.n; i++) {
        const coapd_filter *f = &l->filters.list[i];
        bool found = text ? matches_link(f, n, text) : matches_node(f, n);

        for (size_t k = 0; !found && !text && k < n->n_links; k++)
            found = matches_link(f, n, n->links[k]);
        if (!found)
            return false;
    }
    return true;
}

static bool is_on_page(lookup *l)
{
    uint64_t first = (uint64_t)l->page * l->count;
    uint32_t at = l->passed++;

    if (l->count != UINT32_MAX && (at < first || at >= first + l->count))
        return false;
    if (l->written++ > 0)
        putc(',', l->file);
    return true;
}

static void write_node(lookup *l, const directory_node *n, const char *base)
{
    if (!is_wanted(l, n, NULL) || !is_on_page(l))
        return;
    fprintf(l->file, "</rd/%s>;ep=\"%s\"", n->id, n->name);
    coapd_link_write(l->file, "base", base);
    fprintf(l->file, ";lt=%u%s;rt=\"core.rd-ep\"", n->lifetime, n->attributes);
}

static void write_links(lookup *l, const directory_node *n)
{
    for (size_t i = 0; i < n->n_links; i++)
        if (is_wanted(l, n, n->links[i]) && is_on_page(l))
            fprintf(l->file, "<" DIRECTORY_PREFIX "%s%s", n->name, n->links[i] + 1);
}

int directory_look_up(const directory *d, bool nodes, const char *query, directory_may may,
                      const char *(*base)(const directory_node *n), void *userdata, FILE *file)
{
    lookup l = {.file = file};
    int r = lookup_parse(&l, query);

    if (r < 0)
        return r;
    list_for_each(p, &d->nodes)
    {
        const directory_node *n = list_entry(p, directory_node, node);

        if (!may(n, userdata))
            continue;
        if (nodes)
            write_node(&l, n, base(n));
        else
            write_links(&l, n);
    }
    return 0;
}
