/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How often a uid may register. Each registration is judged, told to every server and written down: one
 * that comes and goes in a loop would keep everybody busy. */

#include <hybus/base.h>

#define PACE_COST_USEC (100u * 1000u)         /* ten in a second, */
#define PACE_BURST_USEC (128u * PACE_COST_USEC) /* after twice as many at once as it may hold */
#define PACE_UIDS 256u

typedef struct pace {
    struct {
        uint32_t uid;
        uint64_t free_usec; /* when all its registrations will be forgotten */
    } uids[PACE_UIDS];
} pace; /* zeroed */

/* CLOCK_MONOTONIC. What is refused does not count. */
bool pace_admit(pace *p, uint32_t uid, uint64_t now);
