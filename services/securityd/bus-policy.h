/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Keeps layer 1 in step with the policy: compiles, lets bus-apply.c bring it into force, tells
 * those who wait for the proof. Several changes at once share a try. As long as a try has failed it
 * is repeated, slower and slower, so that a repaired bus recovers by itself. */

#include "bus-apply.h"
#include "security.h"

typedef struct BusPolicy BusPolicy;

/* `group`: of whom the static bus configuration denies everything. */
int bus_policy_new(Security *security, sd_bus *bus, const char *directory, const char *group,
                   BusPolicy **ret);
void bus_policy_free(BusPolicy *b);
HYBUS_DEFINE_CLEANUP(BusPolicy, bus_policy_free)

/* The policy, the interfaces or the users have changed: `f` is called when the bus obeys what is in
 * force now together with `more` (a rule that is only to be adopted then; NULL: none), or when it
 * failed; never from inside. */
int bus_policy_update(BusPolicy *b, Rule *more, BusApplied f, void *userdata);
/* Forgets who waits with `userdata`. */
void bus_policy_cancel(BusPolicy *b, void *userdata);

/* Whether the bus asks this policy about somebody at all: a daemon of ours or an app. */
bool bus_policy_governs(const BusPolicy *b, const Subject *subject);

/* NULL: the bus obeys. Otherwise what is wrong. */
const char *bus_policy_error(const BusPolicy *b);
