/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What stands after When=: on what a rule depends besides who and what (docs/policy.md). */

#include <hybus/base.h>

#include "rates.h"

typedef struct Rule Rule;
typedef struct Subject Subject;

#define CONDITION_ARGUMENTS_MAX 16u

typedef enum Condition {
    CONDITION_LOCAL = 1 << 0,
    CONDITION_REMOTE = 1 << 1,
    CONDITION_ENCRYPTED = 1 << 2,
} Condition;

/* An IPv4 address is kept as its IPv6-mapped form. */
typedef struct Network {
    uint8_t address[16];
    uint8_t prefix; /* 0 to 128 */
} Network;

/* The rarer ones. */
typedef struct Conditions {
    bool has_peer, has_time;
    Network peer;
    uint16_t from, to;  /* minutes of the day; from > to goes over midnight, which belongs to the day it begins in */
    uint8_t days;       /* bit 0: Monday; 0: every day */
    uint32_t rate;      /* 0: any; that many in */
    uint64_t rate_usec; /* this time */
    char **arguments;   /* "unit=ssh.service" */
} Conditions;

void conditions_done(Conditions *c);
bool conditions_any(const Conditions *c);

/* What is known of one call besides who makes it. What is not known fulfils no grant and every deny. */
typedef struct Moment {
    uint64_t wall_usec;  /* time of day, as CLOCK_REALTIME, but never running backwards; 0: unknown */
    uint64_t now_usec;   /* CLOCK_BOOTTIME, for rates */
    const Rates *rates;  /* NULL: unknown */
    const char *who;     /* whose calls rates count */
    const char *const *names; /* of the arguments; NULL: unknown */
    const char *const *values;
    size_t n_arguments;
    bool *wants_arguments; /* set when a rule depends on arguments that are not known; may be NULL */
} Moment;

/* Turns the words of When= into the conditions of a rule. -EINVAL: *ret_bad is the bad word (points
 * into s). */
int conditions_parse(const char *s, Rule *rule, const char **ret_bad);

/* Do the conditions of a rule hold? */
bool conditions_hold(const Rule *rule, const Subject *subject);

/* Does `mine` hold whenever `other` does, as far as the words tell? */
bool conditions_imply(const Rule *mine, const Rule *other);

/* Whether a window stands open at that time. */
bool conditions_in_time(const Conditions *c, uint64_t wall_usec);

/* "192.0.2.7:4711", "[2001:db8::1]:4711", an address alone, or with "/24". */
int network_parse(const char *text, Network *ret);
/* The address of a peer as servers write it; -EINVAL. */
int network_parse_peer(const char *text, Network *ret);
bool network_contains(const Network *n, const Network *address);
