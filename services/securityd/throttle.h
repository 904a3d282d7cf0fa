/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Slows down guessing, per peer and in all. Only failures are counted and only failures are slowed:
 * the right secret always passes, so nobody can lock the owner out by guessing wrong. */

#include <hybus/base.h>

#define THROTTLE_PEERS 1024u

typedef struct ThrottleBucket {
    uint64_t hash;
    uint64_t empty_at; /* µs: when all its failures will be forgotten */
} ThrottleBucket;

typedef struct Throttle {
    uint64_t cost, burst, all_cost, all_burst; /* µs per failure, µs of failures allowed at once */
    ThrottleBucket peers[THROTTLE_PEERS];
    uint64_t all_empty_at;
} Throttle;

void throttle_init(Throttle *t, uint64_t cost, uint64_t burst, uint64_t all_cost,
                   uint64_t all_burst);

/* What stands for `peer` below: the same for whatever counts as one. */
uint64_t throttle_key(const char *peer);

/* Counts a failure of `peer` at `now`. "192.0.2.7:4711" is an address, whatever the port; of an IPv6
 * address only the network of 64 bits counts; any other text is a peer by itself ("uid 1000").
 * Returns 0 when it is within what is allowed, else the µs to wait. */
uint64_t throttle_failure(Throttle *t, const char *peer, uint64_t now);

/* The µs to wait before another try may be made at all; 0: now. For secrets short enough to guess. */
uint64_t throttle_wait(const Throttle *t, const char *peer, uint64_t now);
