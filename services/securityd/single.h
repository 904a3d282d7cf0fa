/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A call that is judged by itself, with its rate and its arguments: what no row can hold. */

#include <jansson.h>

#include "security.h"

typedef struct Single {
    const Member *member; /* of the call; NULL: no interface file describes it */
    Moment moment, behalf_moment;
    Subject behalf; /* of a bound caller: the same call, and what it has used up of its own rates */
    const char *names[CATALOGUE_ARGUMENTS_MAX], *values[CATALOGUE_ARGUMENTS_MAX];
    char numbers[CATALOGUE_ARGUMENTS_MAX][32];
    Verdict verdict;
    bool wants_arguments; /* not decided without them */
    bool once;            /* allowed, but only this call */
    bool ask;             /* a person decides */
} Single;

/* `arguments`: an array, false when they can be asked for, or NULL. What is allowed has been
 * counted and recorded. Without `wants_arguments` and `once` the subject's row says it all. The
 * subject's moment is that of `ret` afterwards, so that a refusal is explained by it. */
int single_judge(Security *s, Subject *subject, const Question *q, const json_t *arguments,
                 Single *ret);
