/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Which unit a process belongs to, from its control group. Remembered for a moment, because it
 * costs more than storing the record. */

#include <hybus/base.h>

#define LOG_UNITS_CACHED 64u
#define LOG_UNIT_MAX 128u /* bytes; longer names are cut */
#define LOG_UNIT_AGE_USEC (1000u * 1000u)

typedef int (*log_unit_lookup)(uint32_t pid, char ret[LOG_UNIT_MAX]); /* <0: not known */

typedef struct log_unit {
    uint32_t pid, uid;
    uint64_t asked; /* monotonic microseconds; 0: free */
    char name[LOG_UNIT_MAX];
} log_unit;

typedef struct log_units {
    log_unit cache[LOG_UNITS_CACHED];
    log_unit_lookup lookup; /* NULL: the kernel */
} log_units;

/* NULL: not known. Good until the next call. A process that has ended since is still known by what
 * it was, if the same user's number asked less than a moment ago. */
const char *log_units_find(log_units *u, uint32_t pid, uint32_t uid, uint64_t now);
