/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One sd-event timer for all who wait, armed only while somebody does. */

#include <stdint.h>
#include <systemd/sd-event.h>

#include "list.h"

typedef struct endpoint_timer {
    list node;
    uint64_t when; /* CLOCK_MONOTONIC, microseconds */
    void (*fire)(struct endpoint_timer *t);
} endpoint_timer;

/* Waits of about the same length share a list, so that inserting is constant time. */
enum { TIMERS_REQUEST, TIMERS_SHORT, TIMERS_COUNT };

typedef struct endpoint_timers {
    sd_event_source *source;
    uint64_t armed; /* UINT64_MAX: not */
    list lists[TIMERS_COUNT];
} endpoint_timers;

uint64_t timer_now(void);
int timers_init(endpoint_timers *t, sd_event *event);
void timers_done(endpoint_timers *t);
void timer_start(endpoint_timers *t, unsigned class, endpoint_timer *timer, uint64_t when);
static inline void timer_stop(endpoint_timer *timer)
{
    list_remove(&timer->node);
}
