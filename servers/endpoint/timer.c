/* SPDX-License-Identifier: Apache-2.0 */
#include "timer.h"

#include <time.h>

#define TICK_USEC (100u * 1000u)

uint64_t timer_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t); /* vdso: no system call */
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

/* Only ever earlier: a timer whose owner has gone fires once for nothing, and saves a system call
 * with each of the thousands that came and went before it. */
static void arm(endpoint_timers *t, uint64_t when)
{
    when = (when + TICK_USEC - 1) / TICK_USEC * TICK_USEC;
    if (when >= t->armed)
        return;
    if (sd_event_source_set_time(t->source, when) >= 0 &&
        sd_event_source_set_enabled(t->source, SD_EVENT_ONESHOT) >= 0)
        t->armed = when;
}

static int on_time(sd_event_source *s, uint64_t usec, void *userdata)
{
    endpoint_timers *t = userdata;
    uint64_t now = timer_now();

    t->armed = UINT64_MAX;
    for (unsigned i = 0; i < TIMERS_COUNT; i++) {
        list *l = &t->lists[i];
        while (!list_empty(l)) {
            endpoint_timer *timer = list_entry(l->next, endpoint_timer, node);
            if (timer->when > now)
                break;
            list_remove(&timer->node);
            timer->fire(timer);
        }
    }
    for (unsigned i = 0; i < TIMERS_COUNT; i++)
        if (!list_empty(&t->lists[i]))
            arm(t, list_entry(t->lists[i].next, endpoint_timer, node)->when);
    return 0;
}

int timers_init(endpoint_timers *t, sd_event *event)
{
    int r;

    t->armed = UINT64_MAX;
    for (unsigned i = 0; i < TIMERS_COUNT; i++)
        list_init(&t->lists[i]);
    r = sd_event_add_time(event, &t->source, CLOCK_MONOTONIC, UINT64_MAX, TICK_USEC / 2, on_time,
                          t);
    if (r >= 0)
        r = sd_event_source_set_enabled(t->source, SD_EVENT_OFF);
    return r;
}

void timers_done(endpoint_timers *t)
{
    t->source = sd_event_source_disable_unref(t->source);
}

void timer_start(endpoint_timers *t, unsigned class, endpoint_timer *timer, uint64_t when)
{
    list *l = &t->lists[class], *at = l;

    timer->when = when;
    list_remove(&timer->node);
    while (at->prev != l && list_entry(at->prev, endpoint_timer, node)->when > when)
        at = at->prev;
    list_insert_before(at, &timer->node);
    arm(t, when);
}
