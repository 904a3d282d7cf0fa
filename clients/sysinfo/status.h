/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the machine is doing, from /proc and /sys. Knows neither the channel nor a protocol.
 *
 * Units come from the control group tree that systemd keeps: system users of the group "hybridos"
 * may not call other services on the bus, and running services with their tasks, memory and CPU
 * time are all there. A unit that has failed has no group, and so does not show. */

#include <jansson.h>
#include <stdint.h>

struct status {
    const char *root;             /* "" for the real machine; tests have a tree of their own */
    uint64_t cpu_busy, cpu_total; /* of the last sample, in ticks */
};

/* A new object: hostname, os, kernel, time, uptime, load, cpu, memory, disks, network, units. What
 * cannot be read is left out. CPU percent is since the last call (the first time: since boot). NULL
 * without memory. */
json_t *status_sample(struct status *s);
