/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a change of policy would alter: the rules in force are compared with the same rules after one
 * file was put in place, for those who are connected now and for the calls of the last day. */

#include "security.h"

#define SIMULATE_TEXT_MAX (256u * 1024u) /* bytes of a file that is tried */

/* The rules in force, but those of the files called `name` replaced by what `text` says (an empty one
 * masks such files). -EBADMSG with a message in `e`. */
int simulate_policy(const Policy *in_force, const char *name, const char *text, Policy **ret,
                    hybus_config_error *e);

typedef struct Change {
    const Subject *subject;
    const char *permission, *service; /* service: NULL of somebody who is only connected */
    uint64_t count;                   /* of calls in the last day; 0: none, but connected now */
    Verdict before, after;
} Change;

/* Calls `f` for every difference, the recorded calls first, until it returns a negative error. */
int simulate(Security *s, const Policy *after, const Subject *live, size_t n_live,
             int (*f)(const Change *change, void *userdata), void *userdata);
