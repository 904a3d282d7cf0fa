/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Intrusive doubly linked ring lists. A node that stands in no list points at itself, so removing
 * twice is harmless. */

#include <stdbool.h>
#include <stddef.h>

typedef struct list {
    struct list *prev, *next;
} list;

#define list_entry(node, type, member) ((type *)((char *)(node)-offsetof(type, member)))

static inline void list_init(list *l)
{
    l->prev = l->next = l;
}

static inline bool list_empty(const list *l)
{
    return l->next == l;
}

static inline void list_insert_before(list *at, list *node)
{
    node->prev = at->prev;
    node->next = at;
    at->prev->next = node;
    at->prev = node;
}

static inline void list_append(list *l, list *node)
{
    list_insert_before(l, node);
}

static inline void list_remove(list *node)
{
    node->prev->next = node->next;
    node->next->prev = node->prev;
    list_init(node);
}

/* Moves all of `from` to the end of the empty list `to`. */
static inline void list_move_all(list *from, list *to)
{
    list_init(to);
    if (list_empty(from))
        return;
    to->next = from->next;
    to->prev = from->prev;
    to->next->prev = to->prev->next = to;
    list_init(from);
}

#define list_for_each(node, l) for (list *node = (l)->next; node != (l); node = node->next)
