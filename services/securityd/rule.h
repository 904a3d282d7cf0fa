/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One rule of the policy: who may, may not, or must ask to do what, and when. */

#include "condition.h"

typedef enum RuleKind {
    RULE_DENY, /* in the order in which they beat each other */
    RULE_ASK,
    RULE_GRANT,
} RuleKind;

const char *rule_kind_to_string(RuleKind kind);

struct Rule {
    unsigned n_ref;
    RuleKind kind;
    char *id;
    char **subjects;    /* in canonical form: "uid:0", "gid:4", "user:alice", "anonymous", … */
    char **permissions; /* names and patterns */
    unsigned conditions;
    char *protocol;     /* NULL: any */
    Conditions more;
    char *description;
    char *to, *permission, *when; /* as written, with single spaces */
    char *file;
    unsigned line, column;
};

Rule *rule_ref(Rule *rule);
void rule_unref(Rule *rule);
HYBUS_DEFINE_CLEANUP(Rule, rule_unref)

/* 1 to 64 of [a-z0-9._-] */
bool rule_id_is_valid(const char *id);
