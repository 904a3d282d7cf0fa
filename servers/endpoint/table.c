/* SPDX-License-Identifier: Apache-2.0 */
#include "core.h"

#define HASH_START 2166136261u

static inline uint32_t hash_byte(uint32_t h, char ch)
{
    return (h ^ (unsigned char)ch) * 16777619u;
}

static uint32_t hash_bytes(const char *s, size_t size)
{
    uint32_t h = HASH_START;

    for (size_t i = 0; i < size; i++)
        h = hash_byte(h, s[i]);
    return h;
}

void table_init(table *t)
{
    list_init(&t->entries);
}

/* --- permissions
 * ------------------------------------------------------------------------------------- */

static int permission_place(table *t, permission *p)
{
    size_t size = strlen(p->name) + 3; /* as it stands in JSON */

    for (uint32_t i = 0; i < LIMIT_PERMISSION_PAGES; i++) {
        permission_page *page = t->pages[i];
        uint32_t bit;

        if (!page) {
            page = t->pages[i] = calloc(1, sizeof(*page));
            if (!page)
                return -ENOMEM;
        }
        if (page->used == HYBUS_AGENT_PERMISSIONS_MAX ||
            page->bytes + size > LIMIT_PERMISSION_PAGE_BYTES)
            continue;
        for (bit = 0; page->permissions[bit]; bit++)
            ;
        page->permissions[bit] = p;
        page->used++;
        page->bytes += size;
        page->end = MAX_OF(page->end, bit + 1);
        p->since = ++page->version;
        p->page = i;
        p->bit = bit;
        return 0;
    }
    return -ENOBUFS;
}

int permission_get(table *t, const char *name, permission **ret)
{
    size_t size = strlen(name);
    uint32_t hash = hash_bytes(name, size);
    permission **bucket = &t->permissions[hash % TABLE_BUCKETS], *p;
    int r;

    if (size == 0 || size > LIMIT_PERMISSION)
        return -EINVAL;
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)name[i] <= 0x20 || (unsigned char)name[i] >= 0x7f)
            return -EINVAL;
    for (p = *bucket; p; p = p->next)
        if (p->hash == hash && streq(p->name, name)) {
            *ret = permission_ref(p);
            return 0;
        }
    p = calloc(1, sizeof(*p) + size + 1);
    if (!p)
        return -ENOMEM;
    memcpy(p->name, name, size);
    p->hash = hash;
    p->refs = 1;
    r = permission_place(t, p);
    if (r < 0) {
        free(p);
        return r;
    }
    p->next = *bucket;
    *bucket = p;
    *ret = p;
    return 0;
}

void permission_unref(table *t, permission *p)
{
    permission_page *page;
    permission **at;

    if (!p || --p->refs > 0)
        return;
    page = t->pages[p->page];
    page->permissions[p->bit] = NULL;
    page->used--;
    page->bytes -= strlen(p->name) + 3;
    while (page->end > 0 && !page->permissions[page->end - 1])
        page->end--;
    for (at = &t->permissions[p->hash % TABLE_BUCKETS]; *at != p; at = &(*at)->next)
        ;
    *at = p->next;
    free(p);
}

/* --- definitions
 * --------------------------------------------------------------------------------------- */

void entry_definition_done(table *t, entry_definition *d)
{
    for (size_t i = 0; i < d->n_rules; i++) {
        free(d->rules[i].methods);
        free(d->rules[i].subpath);
        permission_unref(t, d->rules[i].permission);
    }
    free(d->rules);
    free(d->bus_name);
    free(d->object);
    free(d->unit);
    free(d->title);
    free(d->attributes);
    *d = (entry_definition){};
}

static bool methods_valid(const char *s)
{
    if (streq(s, "*"))
        return true;
    for (const char *p = s; *p; p++)
        if (!((*p >= 'A' && *p <= 'Z') || *p == '-' ||
              (*p == ',' && p > s && p[1] && p[-1] != ',')))
            return false;
    return *s != 0;
}

/* "METHODS SUBPATH PERMISSION" */
int entry_definition_add_rule(table *t, entry_definition *d, const char *text)
{
    _cleanup_(freep) char *copy = strdup(text);
    char *state, *methods, *subpath, *name;
    rule made = {}, *rules;
    size_t size;
    int r;

    if (!copy)
        return -ENOMEM;
    if (d->n_rules == LIMIT_RULES)
        return -ENOBUFS;
    methods = strtok_r(copy, " ", &state);
    subpath = strtok_r(NULL, " ", &state);
    name = strtok_r(NULL, " ", &state);
    if (!name || strtok_r(NULL, " ", &state) || !methods_valid(methods) || subpath[0] != '/')
        return -EINVAL;
    size = strlen(subpath);
    if (size > LIMIT_RULE_SUBPATH)
        return -EINVAL;
    while (size > 0 && subpath[size - 1] == '/') /* "/" is the whole namespace */
        subpath[--size] = 0;
    rules = realloc(d->rules, (d->n_rules + 1) * sizeof(*rules));
    if (!rules)
        return -ENOMEM;
    d->rules = rules;
    made.methods = strdup(methods);
    made.subpath = strdup(subpath);
    made.subpath_size = size;
    r = made.methods && made.subpath ? permission_get(t, name, &made.permission) : -ENOMEM;
    if (r < 0) {
        free(made.methods);
        free(made.subpath);
        return r;
    }
    d->rules[d->n_rules++] = made;
    return 0;
}

static bool rule_names(const rule *r, const char *method)
{
    size_t n = strlen(method);

    if (streq(r->methods, "*"))
        return true;
    for (const char *p = r->methods; p; p = strchr(p, ','), p = p ? p + 1 : NULL)
        if (strncmp(p, method, n) == 0 && (p[n] == 0 || p[n] == ','))
            return true;
    return false;
}

static const rule *rule_find(const entry *e, const char *method, const char *sub)
{
    const rule *best = NULL;

    for (size_t i = 0; i < e->d.n_rules; i++) {
        const rule *r = &e->d.rules[i];
        if (strncmp(sub, r->subpath, r->subpath_size) != 0 ||
            (sub[r->subpath_size] != 0 && sub[r->subpath_size] != '/'))
            continue;
        if ((!best || r->subpath_size > best->subpath_size) && rule_names(r, method))
            best = r;
    }
    return best;
}

permission *entry_permission(const entry *e, const char *method, const char *path)
{
    const char *sub = path + e->size;
    bool head = streq(method, "HEAD");
    const rule *r = e->d.n_rules > 0 ? rule_find(e, method, sub) : NULL;

    /* What GET is guarded with, HEAD must not tell around it. */
    if (!r && head && e->d.n_rules > 0)
        r = rule_find(e, "GET", sub);
    if (r)
        return r->permission;
    return head || streq(method, "GET") || streq(method, "FETCH") ? e->read : e->write;
}

/* --- entries
 * ------------------------------------------------------------------------------------------- */

bool namespace_valid(const char *s)
{
    size_t n = strlen(s);

    if (n < 2 || n > CHANNEL_NAMESPACE_MAX || s[0] != '/' || s[n - 1] == '/')
        return false;
    for (const char *p = s; *p;) { /* *p is the slash before a segment */
        size_t size = strcspn(p + 1, "/");
        if (size == 0 || (size == 1 && p[1] == '.') || (size == 2 && p[1] == '.' && p[2] == '.'))
            return false;
        p += 1 + size;
    }
    return strspn(s, "/ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._~-") == n;
}

static entry *find_hashed(const table *t, uint32_t hash, const char *s, size_t size)
{
    for (entry *e = t->buckets[hash % TABLE_BUCKETS]; e; e = e->next)
        if (e->hash == hash && e->size == size && memcmp(e->namespace, s, size) == 0)
            return e;
    return NULL;
}

entry *table_find(const table *t, const char *namespace, size_t size)
{
    return find_hashed(t, hash_bytes(namespace, size), namespace, size);
}

entry *table_match(const table *t, const char *path)
{
    uint32_t h = HASH_START;
    entry *best = NULL;

    for (size_t i = 0; i <= t->longest; i++) {
        if (i > 0 && (path[i] == '/' || path[i] == 0)) {
            entry *e = find_hashed(t, h, path, i);
            if (e)
                best = e;
        }
        if (path[i] == 0)
            break;
        h = hash_byte(h, path[i]);
    }
    return best;
}

static void entry_stale(endpoint_timer *timer)
{
    entry *e = list_entry(timer, entry, stale);
    table_remove(e->core, e);
}

static int entry_new(endpoint_core *c, const char *namespace, entry **ret)
{
    table *t = &c->table;
    char name[LIMIT_PERMISSION + 1];
    size_t size = strlen(namespace);
    entry *e;
    int r;

    if (t->n_entries >= LIMIT_NAMESPACES)
        return -ENOBUFS;
    e = calloc(1, sizeof(*e) + size + 1);
    if (!e)
        return -ENOMEM;
    memcpy(e->namespace, namespace, size);
    e->size = size;
    e->core = c;
    snprintf(name, sizeof(name), "endpoint.read:%s", namespace);
    r = permission_get(t, name, &e->read);
    snprintf(name, sizeof(name), "endpoint.write:%s", namespace);
    if (r >= 0)
        r = permission_get(t, name, &e->write);
    if (r < 0) {
        permission_unref(t, e->read);
        free(e);
        return r;
    }
    e->hash = hash_bytes(namespace, size);
    e->next = t->buckets[e->hash % TABLE_BUCKETS];
    t->buckets[e->hash % TABLE_BUCKETS] = e;
    list_init(&e->stale.node);
    e->stale.fire = entry_stale;
    list_init(&e->waiting);
    list_init(&e->values);
    list_append(&t->entries, &e->node);
    t->n_entries++;
    t->longest = MAX_OF(t->longest, size);
    *ret = e;
    return 0;
}

int table_set(endpoint_core *c, const char *namespace, entry_definition *d, entry **ret)
{
    entry *e = table_find(&c->table, namespace, strlen(namespace));
    bool same;
    int r;

    if (!e) {
        r = entry_new(c, namespace, &e);
        if (r < 0)
            return r;
    }
    same = streq(e->d.key, d->key) && e->d.uid == d->uid && e->d.road == d->road &&
           streq(strempty(e->d.bus_name), strempty(d->bus_name));
    if (!same) {
        /* Another holder: what the old one said is not the new one's word. */
        if (e->attachment)
            attachment_detach(e->attachment, "The namespace has a new holder.");
        watch_entry_gone(c, e);
        e->wait_until = timer_now() + LIMIT_ATTACH_USEC;
        e->start_asked = 0;
    }
    entry_definition_done(&c->table, &e->d);
    e->d = *d;
    *d = (entry_definition){};
    timer_stop(&e->stale);
    e->seen = true;
    c->table_dirty = true;
    core_wake(c);
    if (ret)
        *ret = e;
    return 0;
}

static void entry_free(table *t, entry *e)
{
    entry_definition_done(t, &e->d);
    permission_unref(t, e->read);
    permission_unref(t, e->write);
    free(e);
}

void table_remove(endpoint_core *c, entry *e)
{
    table *t = &c->table;
    entry **at;
    list waiting;

    timer_stop(&e->stale);
    if (e->attachment)
        attachment_detach(e->attachment, "The namespace is no longer registered.");
    watch_entry_gone(c, e);
    for (at = &t->buckets[e->hash % TABLE_BUCKETS]; *at != e; at = &(*at)->next)
        ;
    *at = e->next;
    list_remove(&e->node);
    t->n_entries--;
    t->longest = 0;
    list_for_each(n, &t->entries) t->longest = MAX_OF(t->longest, list_entry(n, entry, node)->size);
    list_move_all(&e->waiting, &waiting);
    entry_free(t, e);
    c->table_dirty = true;
    core_wake(c);
    while (!list_empty(&waiting)) {
        struct endpoint_request *r = list_entry(waiting.next, struct endpoint_request, wait_node);
        list_remove(&r->wait_node);
        request_fail(r, 502, "The app behind this address has gone.");
    }
}

void table_done(table *t)
{
    while (!list_empty(&t->entries)) {
        entry *e = list_entry(t->entries.next, entry, node);
        list_remove(&e->node);
        entry_free(t, e);
    }
    for (size_t i = 0; i < LIMIT_PERMISSION_PAGES; i++)
        free(t->pages[i]);
    for (size_t i = 0; i < TABLE_BUCKETS; i++)
        while (t->permissions[i]) {
            permission *p = t->permissions[i];
            t->permissions[i] = p->next;
            free(p);
        }
}
