/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a list shall hold, as all methods that list take it: "a{sv}u", keys that narrow it and a
 * limit. */

#include <systemd/sd-bus.h>

#include <hybus/base.h>

#define FILTER_LIMIT_MAX 1000u

typedef struct FilterKey {
    const char *name;
    char type;   /* 's': a const char *, the message's; 't': a uint64_t */
    void *value; /* untouched when the key is not there */
} FilterKey;

/* `keys` ends with {0}. */
int filter_read(sd_bus_message *m, const FilterKey *keys, uint32_t *ret_limit, sd_bus_error *error);
