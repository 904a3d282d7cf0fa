/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the policy says about registrations and servers: the seam to h-securityd. Asks, and keeps
 * watching: when the policy moves, everything that was allowed is judged again. */

#include <hybus/agent.h>

#include "endpoints.h"

#define JUDGE_ASKED_MAX 512u /* questions of newcomers in flight, of the agent's 1,024 */
#define JUDGE_ASKED_UID_MAX ENDPOINTS_UID_MAX /* of one uid: one who asks keeps nobody else out */
#define JUDGE_AGAIN_MAX 64u                   /* of those who are judged again, at the same time */
#define JUDGE_TRIES_MAX 3u /* the policy may move under a newcomer's question this often */

typedef struct judge judge;
typedef struct judge_case judge_case;

typedef struct judge_verdict {
    int error;          /* 0: allowed; -EACCES: refused; else nobody could say (-ENOKEY, …) */
    const char *reason; /* for people; never NULL when refused */
    const char *audit;  /* may be NULL */
} judge_verdict;

/* Called once with the verdict of judge_ask(), not before its return. If that was "allowed" the
 * case lives on and this is called a second and last time should the policy take it back. After any
 * call that is not "allowed" the case is over; free it, there or later. */
typedef void (*judge_callback)(judge_case *c, const judge_verdict *v, void *userdata);

int judge_new(hybus_agent *agent, const endpoints *table, judge **ret);
void judge_free(judge *j); /* after all cases */
HYBUS_DEFINE_CLEANUP(judge, judge_free)

/* May this identity register `ns`, or with NULL: be a server? -ENOBUFS: too many questions wait, of
 * this uid or in all. Whether leave to nest is needed
 * is looked up in the table at the moment of the verdict. */
int judge_ask(judge *j, endpoints_identity *identity, const char *ns, judge_callback f,
              void *userdata, judge_case **ret);
void judge_case_free(judge_case *c);
HYBUS_DEFINE_CLEANUP(judge_case, judge_case_free)
