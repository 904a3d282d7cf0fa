/* SPDX-License-Identifier: Apache-2.0 */
#include "members.h"

typedef struct Entry {
    char *interface, *member;
    hybus_member_kind kind;
    uint32_t bit;
} Entry;

typedef struct Interface {
    const char *name; /* of an entry */
    uint32_t *readable;
    size_t n_readable;
} Interface;

struct members {
    Entry *entries;
    size_t n;
    uint32_t *table; /* index + 1 of an entry; open addressing */
    size_t mask;
    Interface *interfaces;
    size_t n_interfaces;
    char **permissions;
    size_t n_permissions;
};

/* FNV-1a: both strings are short and come from trusted XML; a caller's string that collides costs a
 * comparison only. */
static uint64_t hash(const char *interface, const char *member, hybus_member_kind kind)
{
    uint64_t h = 0xcbf29ce484222325u ^ (uint64_t)kind;

    for (; *interface; interface++)
        h = (h ^ (unsigned char)*interface) * 0x100000001b3u;
    for (; *member; member++)
        h = (h ^ (unsigned char)*member) * 0x100000001b3u;
    return h ^ h >> 29;
}

static bool is(const Entry *e, const char *interface, const char *member, hybus_member_kind kind)
{
    return e->kind == kind && streq(e->member, member) && streq(e->interface, interface);
}

static void insert(members *m, size_t i)
{
    const Entry *e = &m->entries[i];
    size_t at = hash(e->interface, e->member, e->kind) & m->mask;

    for (; m->table[at]; at = (at + 1) & m->mask)
        if (is(&m->entries[m->table[at] - 1], e->interface, e->member, e->kind)) {
            /* Said twice: the stricter reading is that nobody may, unless both agree. */
            if (m->entries[m->table[at] - 1].bit != e->bit)
                m->entries[m->table[at] - 1].bit = UINT32_MAX;
            return;
        }
    m->table[at] = (uint32_t)i + 1;
}

static Interface *find_interface(const members *m, const char *name)
{
    for (size_t i = 0; i < m->n_interfaces; i++)
        if (streq(m->interfaces[i].name, name))
            return &m->interfaces[i];
    return NULL;
}

static int add_readable(members *m, const Entry *e)
{
    Interface *i = find_interface(m, e->interface);
    uint32_t *larger;

    if (!i) {
        i = &m->interfaces[m->n_interfaces++];
        i->name = e->interface;
    }
    if (e->kind != HYBUS_MEMBER_GET)
        return 0;
    larger = reallocarray(i->readable, i->n_readable + 1, sizeof *larger);
    if (!larger)
        return -ENOMEM;
    i->readable = larger;
    larger[i->n_readable++] = e->bit;
    return 0;
}

static int copy_strings(members *m, const hybus_member *list, size_t n,
                        const char *const *permissions, size_t n_permissions)
{
    for (size_t i = 0; i < n; i++) {
        Entry *e = &m->entries[m->n++];

        *e = (Entry){strdup(list[i].interface), strdup(list[i].member), list[i].kind,
                     list[i].permission};
        if (!e->interface || !e->member)
            return -ENOMEM;
    }
    for (size_t i = 0; i < n_permissions; i++) {
        m->permissions[m->n_permissions] = strdup(permissions[i]);
        if (!m->permissions[m->n_permissions++])
            return -ENOMEM;
    }
    return 0;
}

int members_new(const hybus_member *list, size_t n, const char *const *permissions,
                size_t n_permissions, members **ret)
{
    _cleanup_(members_freep) members *m = calloc(1, sizeof *m);
    size_t size = 16;
    int r;

    if (!m)
        return -ENOMEM;
    while (size < n * 2)
        size *= 2;
    m->mask = size - 1;
    m->table = calloc(size, sizeof *m->table);
    m->entries = calloc(n + 1, sizeof *m->entries);
    m->interfaces = calloc(n + 1, sizeof *m->interfaces);
    m->permissions = calloc(n_permissions + 1, sizeof *m->permissions);
    if (!m->table || !m->entries || !m->interfaces || !m->permissions)
        return -ENOMEM;
    r = copy_strings(m, list, n, permissions, n_permissions);
    for (size_t i = 0; i < n && r == 0; i++) {
        insert(m, i);
        r = add_readable(m, &m->entries[i]);
    }
    if (r < 0)
        return r;
    *ret = TAKE_PTR(m);
    return 0;
}

void members_free(members *m)
{
    if (!m)
        return;
    for (size_t i = 0; i < m->n; i++) {
        free(m->entries[i].interface);
        free(m->entries[i].member);
    }
    for (size_t i = 0; i < m->n_interfaces; i++)
        free(m->interfaces[i].readable);
    for (size_t i = 0; i < m->n_permissions; i++)
        free(m->permissions[i]);
    free(m->permissions);
    free(m->interfaces);
    free(m->entries);
    free(m->table);
    free(m);
}

uint32_t members_find(const members *m, const char *interface, const char *member,
                      hybus_member_kind kind)
{
    for (size_t at = hash(interface, member, kind) & m->mask; m->table[at];
         at = (at + 1) & m->mask) {
        const Entry *e = &m->entries[m->table[at] - 1];

        if (is(e, interface, member, kind))
            return e->bit;
    }
    return UINT32_MAX;
}

const uint32_t *members_readable(const members *m, const char *interface, size_t *ret_n)
{
    static const uint32_t none;
    const Interface *i = find_interface(m, interface);

    *ret_n = i ? i->n_readable : 0;
    return !i ? NULL : i->readable ? i->readable : &none;
}

const char *members_permission(const members *m, uint32_t bit)
{
    return bit < m->n_permissions ? m->permissions[bit] : NULL;
}

size_t members_permissions(const members *m)
{
    return m->n_permissions;
}

bool members_same_permissions(const members *m, const char *const *permissions, size_t n)
{
    if (n != m->n_permissions)
        return false;
    for (size_t i = 0; i < n; i++)
        if (!streq(permissions[i], m->permissions[i]))
            return false;
    return true;
}
