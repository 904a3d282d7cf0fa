/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How many records one sender may bring. A fixed table: who finds no place in it shares one with
 * all others that find none, so that no number of senders grows it or gets around it. */

#include <hybus/base.h>

#define LOG_RATE_SENDERS 256u
#define LOG_RATE_NAME_MAX 64u

typedef struct log_rate_sender {
    uint64_t key; /* 0: free */
    uint64_t since;
    uint64_t n, dropped;          /* in this interval */
    char unit[LOG_RATE_NAME_MAX]; /* to say whose records were dropped */
    uint32_t uid;
} log_rate_sender;

typedef struct log_rate {
    uint64_t interval, burst;                      /* burst 0: no limit */
    log_rate_sender senders[LOG_RATE_SENDERS + 1]; /* the last one is shared */
    size_t n_dropping;                             /* that have dropped something to tell */
} log_rate;

/* May one more come? `now` in microseconds, monotonic. */
bool log_rate_admits(log_rate *r, uint64_t now, uint32_t uid, const char *unit);
/* The next sender whose interval is over and that dropped records, which starts it anew; NULL:
 * none. `ret_dropped` is how many. */
const log_rate_sender *log_rate_ended(log_rate *r, uint64_t now, uint64_t *ret_dropped);
/* When the first such interval ends; UINT64_MAX: none. */
uint64_t log_rate_due(const log_rate *r);
