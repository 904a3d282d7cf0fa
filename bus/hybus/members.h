/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a service's members need, as bits over its row: the filter's own copy of what h-securityd
 * read from the interface XML. Immutable once made. */

#include "agent.h"

typedef struct members members;

int members_new(const hybus_member *list, size_t n, const char *const *permissions,
                size_t n_permissions, members **ret);
void members_free(members *m);
HYBUS_DEFINE_CLEANUP(members, members_free)

/* The bit, or UINT32_MAX: nobody may, or no such member. */
uint32_t members_find(const members *m, const char *interface, const char *member,
                      hybus_member_kind kind);

/* Every entry of the interface, readable properties only; NULL when the interface is unknown. */
const uint32_t *members_readable(const members *m, const char *interface, size_t *ret_n);

const char *members_permission(const members *m, uint32_t bit); /* NULL for UINT32_MAX */
size_t members_permissions(const members *m);
bool members_same_permissions(const members *m, const char *const *permissions, size_t n);
