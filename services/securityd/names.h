/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Strings are numbered, so that the index compares numbers. */

#include <hybus/base.h>

typedef struct Names {
    char **names;
    uint32_t *table; /* open addressing, number + 1 */
    size_t n_names, n_table;
} Names;

void names_done(Names *n);
/* UINT32_MAX: unknown. */
uint32_t names_find(const Names *n, const char *name, size_t size);
/* 1: new, 0: known already. */
int names_add(Names *n, const char *name, uint32_t *ret);
