/* SPDX-License-Identifier: Apache-2.0 */
#include "names.h"

static uint64_t hash(const char *s, size_t size)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < size; i++)
        h = (h ^ (unsigned char)s[i]) * 0x100000001b3u;
    return h ^ h >> 29;
}

void names_done(Names *n)
{
    for (size_t i = 0; i < n->n_names; i++)
        free(n->names[i]);
    free(n->names);
    free(n->table);
}

uint32_t names_find(const Names *n, const char *name, size_t size)
{
    if (n->n_table == 0)
        return UINT32_MAX;
    for (size_t i = hash(name, size);; i++) {
        uint32_t number = n->table[i & (n->n_table - 1)];

        if (number == 0)
            return UINT32_MAX;
        if (strncmp(n->names[number - 1], name, size) == 0 && !n->names[number - 1][size])
            return number - 1;
    }
}

static int names_grow(Names *n)
{
    size_t size = n->n_table ? n->n_table * 2 : 64;
    uint32_t *table;
    char **larger;

    if ((n->n_names + 1) * 2 < n->n_table)
        return 0;
    larger = reallocarray(n->names, size, sizeof *larger);
    if (!larger)
        return -ENOMEM;
    n->names = larger;
    table = calloc(size, sizeof *table);
    if (!table)
        return -ENOMEM;
    for (size_t k = 0; k < n->n_names; k++)
        for (size_t i = hash(n->names[k], strlen(n->names[k]));; i++)
            if (table[i & (size - 1)] == 0) {
                table[i & (size - 1)] = (uint32_t)k + 1;
                break;
            }
    free(n->table);
    n->table = table;
    n->n_table = size;
    return 0;
}

int names_add(Names *n, const char *name, uint32_t *ret)
{
    uint32_t number = names_find(n, name, strlen(name));
    char *copy;

    if (number != UINT32_MAX) {
        *ret = number;
        return 0;
    }
    if (names_grow(n) < 0)
        return -ENOMEM;
    copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    for (size_t i = hash(name, strlen(name));; i++)
        if (n->table[i & (n->n_table - 1)] == 0) {
            n->table[i & (n->n_table - 1)] = (uint32_t)n->n_names + 1;
            break;
        }
    *ret = (uint32_t)n->n_names;
    n->names[n->n_names++] = copy;
    return 1;
}
