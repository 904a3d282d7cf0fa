/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the answers on the private socket share: agent-ops.c has most of them, agent-judge.c those about a
 * single call. */

#include "agent-answer.h"

typedef struct Asked {
    Subject subject, behalf;
    uint32_t gids[POLICY_GROUPS_MAX];
} Asked;

/* -EINVAL, -ENOENT */
int ops_read_subject(const Peer *p, const json_t *q, Asked *ret);

int ops_judge(Peer *p, const json_t *q);
int ops_withdraw(Peer *p, const json_t *q);
