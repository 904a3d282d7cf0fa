/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the answers on the private socket share: agent-ops.c has most of them, agent-judge.c those about a
 * single call. */

#include "agent-peer.h"

typedef struct Asked {
    Subject subject;
    uint32_t gids[POLICY_GROUPS_MAX];
} Asked;

json_t *ops_decimal(uint64_t n);
json_t *ops_answer_to(const json_t *question);
int ops_refuse(Peer *p, const json_t *question, int error, const char *message);
const char *ops_string(const json_t *j, const char *key);
/* -EINVAL, -ENOENT */
int ops_read_subject(const Peer *p, const json_t *q, Asked *ret);

int ops_judge(Peer *p, const json_t *q);
int ops_withdraw(Peer *p, const json_t *q);
