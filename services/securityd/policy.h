/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The policy: rules, subjects, and who may do what. Knows neither files (policy-read.c) nor buses.
 *
 * A Policy is immutable. Changes make a new one that shares the rules, so that whoever judges sees
 * one generation or the next, never a mixture. */

#include "permission.h"
#include "rule.h"
#include "subject.h"
#include "words.h"

#define POLICY_RULES_MAX 200000u
#define POLICY_LIST_MAX 1024u /* subjects or permissions of one rule */

typedef struct Policy Policy;

typedef struct Verdict {
    bool allowed;
    const Rule *rule;      /* that decided; NULL: default */
    const Rule *candidate; /* would grant it, did its conditions hold; or NULL */
    const char *reason;    /* static text */
} Verdict;

/* Takes references to the rules. -EEXIST: an id stands twice, *ret_index is the second one. */
int policy_new(Rule *const *rules, size_t n_rules, Policy **ret, size_t *ret_index);
Policy *policy_ref(Policy *p);
void policy_unref(Policy *p);
HYBUS_DEFINE_CLEANUP(Policy, policy_unref)

size_t policy_rules(const Policy *p, Rule *const **ret);
Rule *policy_rule(const Policy *p, const char *id);
/* In whatever order the rules stand: it decides nothing. */
bool policy_equal(const Policy *a, const Policy *b);

Verdict policy_judge(const Policy *p, const Subject *subject, const char *permission);

/* Which windows of time (time=, days=) stand open, as a number that changes when one opens or closes.
 * 0: no rule depends on the time of day. */
uint64_t policy_windows(const Policy *p, uint64_t wall_usec);

/* Sets bit i of `bits` (zeroed by the caller) when permissions[i] is allowed. */
void policy_row(const Policy *p, const Subject *subject, const char *const *permissions,
                size_t n_permissions, uint64_t *bits);

/* Does the subject hold all of a pattern under (at most) the conditions of `rule`? Nobody grants
 * what they do not hold. A deny or ask of any part stands in the way, unless it binds everybody. */
bool policy_holds(const Policy *p, const Subject *subject, const char *pattern,
                  const Rule *rule);
