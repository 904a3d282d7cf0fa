/* SPDX-License-Identifier: Apache-2.0 */
/* What nodes have said, as long as it holds (Max-Age), and longer for those that sleep. */

#include "coap-node.h"

static uint64_t hash_of(const void *of, const char *key)
{
    uint64_t h = 14695981039346656037u ^ (uintptr_t)of;

    for (; *key; key++)
        h = (h ^ (unsigned char)*key) * 1099511628211u;
    return h;
}

static size_t bytes_of(const coapd_cached *e)
{
    return sizeof(*e) + strlen(e->key) + 1 + e->size;
}

void coapd_cache_init(coapd_cache *c)
{
    list_init(&c->entries);
}

void coapd_cache_drop(coapd_cache *c, coapd_cached *e)
{
    c->bytes -= bytes_of(e);
    c->n--;
    list_remove(&e->node);
    free(e->key);
    free(e->body);
    free(e);
}

static void make_room(coapd_cache *c, size_t size)
{
    while (c->n > 0 && (c->bytes + size > c->bytes_max || c->n >= COAPD_CACHE_ENTRIES_MAX))
        coapd_cache_drop(c, list_entry(c->entries.next, coapd_cached, node));
}

void coapd_cache_resize(coapd_cache *c, size_t bytes_max)
{
    c->bytes_max = bytes_max;
    make_room(c, 0);
}

coapd_cached *coapd_cache_find(coapd_cache *c, const void *of, const char *key)
{
    uint64_t hash = hash_of(of, key);

    list_for_each(p, &c->entries)
    {
        coapd_cached *e = list_entry(p, coapd_cached, node);

        if (e->hash != hash || e->of != of || !streq(e->key, key))
            continue;
        list_remove(&e->node);
        list_append(&c->entries, &e->node);
        return e;
    }
    return NULL;
}

coapd_cached *coapd_cache_put(coapd_cache *c, void *of, const char *key, const coapd_told *t,
                              uint64_t now)
{
    coapd_cached *e = coapd_cache_find(c, of, key);
    size_t size = sizeof(*e) + strlen(key) + 1 + t->size;

    if (e)
        coapd_cache_drop(c, e);
    /* One value is never most of what there is. */
    if (size > c->bytes_max / 2 || !(e = calloc(1, sizeof(*e))))
        return NULL;
    make_room(c, size);
    *e = (coapd_cached){.of = of,
                        .hash = hash_of(of, key),
                        .key = strdup(key),
                        .format = t->format,
                        .max_age = t->has_max_age ? t->max_age : 60, /* RFC 7252, 5.10.5 */
                        .etag = t->etag,
                        .received_usec = now,
                        .body = malloc(MAX_OF(t->size, (size_t)1)),
                        .size = t->size};
    if (!e->key || !e->body) {
        free(e->key);
        free(e->body);
        free(e);
        return NULL;
    }
    if (t->size > 0)
        memcpy(e->body, t->body, t->size);
    list_append(&c->entries, &e->node);
    c->bytes += size;
    c->n++;
    return e;
}

/* A key is "ACCEPT QUERY PATH", of which only the path may have spaces. */
static const char *path_of(const char *key)
{
    const char *query = strchr(key, ' '), *path = query ? strchr(query + 1, ' ') : NULL;

    return path ? path + 1 : "";
}

void coapd_cache_drop_of(coapd_cache *c, const void *of, const char *path)
{
    for (list *p = c->entries.next, *next; p != &c->entries; p = next) {
        coapd_cached *e = list_entry(p, coapd_cached, node);

        next = p->next;
        if (e->of == of && (!path || streq(path_of(e->key), path)))
            coapd_cache_drop(c, e);
    }
}
