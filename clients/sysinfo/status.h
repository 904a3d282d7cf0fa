/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the machine is doing, from /proc and /sys. Knows neither the channel nor a protocol nor the
 * bus: which units there are is said by the caller, what they use stands in their control groups.
 */

#include <jansson.h>
#include <stdint.h>

struct status {
    const char *root;             /* "" for the real machine; tests have a tree of their own */
    uint64_t cpu_busy, cpu_total; /* of the last sample, in ticks */
};

/* A new object: hostname, model, os, kernel, architecture, time, uptime, load, cpu, memory, disks,
 * network, units, failed. What cannot be read is left out. CPU percent is since the last call (the
 * first time: since boot). `units` is an array of {name, description, state}, or NULL: not known;
 * figures are added to those that run. NULL without memory. */
json_t *status_sample(struct status *s, const json_t *units);
