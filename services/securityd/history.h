/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Which kinds of calls there were in the last day: who used, or was refused, which permission at which
 * service. It is what a change of policy is tried on, and what a minimal policy is made of. In memory
 * only; one subject fills at most a fixed share of it. */

#include "subject.h"

#define HISTORY_KINDS_MAX 4096u
#define HISTORY_SHARE 8u       /* one subject gets at most that part */
#define HISTORY_GROUPS_MAX 64u /* who has more groups is not remembered */
#define HISTORY_USEC (UINT64_C(86400) * 1000000u)

typedef struct HistoryKind {
    const Subject *subject;
    char *permission;          /* "": the member carries none */
    char *service, *call;      /* call: "" when only its permission is known */
    uint64_t allowed, denied;  /* how often */
    bool last_allowed;         /* what became of the last one */
    uint64_t first_usec, last_usec; /* as the caller's clock, which must never be set back */
    uint64_t number;           /* of the last event, counted over all kinds */
} HistoryKind;

typedef struct History History;

int history_new(History **ret);
void history_free(History *h);
HYBUS_DEFINE_CLEANUP(History, history_free)

/* `call` may be NULL. What was allowed and what was refused of the same permission is one kind. Without
 * memory it is forgotten. */
void history_note(History *h, const Subject *subject, const char *permission, const char *service,
                  const char *call, bool allowed, uint64_t n, uint64_t now);

/* Newest first: the next kind whose number is smaller (UINT64_MAX: the newest) and that was last seen
 * within HISTORY_USEC before `now`; NULL: none. Valid until the next history_note(). */
const HistoryKind *history_older(const History *h, uint64_t number, uint64_t now);
/* The number of the last event. */
uint64_t history_number(const History *h);
