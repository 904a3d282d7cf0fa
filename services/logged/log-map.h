/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A mapped file can fail at any load or store: it was cut, its disk is full or broken. The kernel
 * says so by SIGBUS. The page in question becomes private memory then, zeroed, and the guard is
 * told; whoever owns it looks before it trusts. */

#include <hybus/base.h>

#define LOG_MAP_GUARDS_MAX 8u

typedef struct log_map {
    uint8_t *bytes;
    uint64_t size;
    volatile int failed;
} log_map;

/* Registers a mapping; it must stay where it is until it is removed. -ENOBUFS: too many. */
int log_map_guard(log_map *m);
void log_map_unguard(log_map *m);
