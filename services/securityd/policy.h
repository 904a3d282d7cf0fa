/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The policy: rules, subjects, and who may do what. Knows neither files (policy-read.c) nor buses.
 *
 * A Policy is immutable. Changes make a new one that shares the rules, so that whoever judges sees
 * one generation or the next, never a mixture. */

#include <hybus/credentials.h>

#define POLICY_RULES_MAX 200000u
#define POLICY_NAME_MAX 255u  /* bytes of a permission or subject */
#define POLICY_LIST_MAX 1024u /* subjects or permissions of one rule */
#define POLICY_GROUPS_MAX HYBUS_CREDENTIALS_GROUPS_MAX

typedef enum RuleKind {
    RULE_DENY, /* in the order in which they beat each other */
    RULE_ASK,
    RULE_GRANT,
} RuleKind;

const char *rule_kind_to_string(RuleKind kind);

typedef enum Condition {
    CONDITION_LOCAL = 1 << 0,
    CONDITION_REMOTE = 1 << 1,
    CONDITION_ENCRYPTED = 1 << 2,
} Condition;

typedef struct Rule {
    unsigned n_ref;
    RuleKind kind;
    char *id;
    char **subjects;    /* in canonical form: "uid:0", "gid:4", "user:alice", "anonymous", … */
    char **permissions; /* names and patterns */
    unsigned conditions;
    char *protocol;     /* NULL: any */
    char *description;
    char *to, *permission, *when; /* as written, with single spaces */
    char *file;
    unsigned line, column;
} Rule;

Rule *rule_ref(Rule *rule);
void rule_unref(Rule *rule);
HYBUS_DEFINE_CLEANUP(Rule, rule_unref)

/* A list of words; all functions take NULL for an empty one. */
void words_free(char **words);
HYBUS_DEFINE_CLEANUP(char *, words_free)
size_t words_count(char *const *words);
bool words_contain(char *const *words, const char *word);
int words_add(char ***words, const char *word, size_t size);
char *words_join(char *const *words);

/* 1 to 64 of [a-z0-9._-] */
bool rule_id_is_valid(const char *id);
/* 1 to 64 of [a-z0-9_-], for users, tokens and roles */
bool principal_name_is_valid(const char *name);
bool permission_is_valid(const char *name);         /* one name, nothing left open */
bool permission_pattern_is_valid(const char *name); // or with an open end
bool permission_pattern_covers(const char *pattern, const char *other);

/* Turns a word of To= into its canonical form. 0 and *ret; -EINVAL: no such form; -ENOENT: the form is
 * right, but NSS knows no such user or group: *ret is set and matches nobody. */
int subject_parse(const char *word, char **ret);

/* Turns the words of When= into conditions. -EINVAL: *ret_bad is the unknown word (points into s). */
int conditions_parse(const char *s, unsigned *ret, char **ret_protocol, const char **ret_bad);

/* Whom a decision is about. Nothing here is taken over. */
typedef enum Knowledge { UNKNOWN = -1, NO = 0, YES = 1 } Knowledge;

typedef struct Subject {
    bool remote;
    /* local */
    uint32_t uid;
    const uint32_t *gids;
    size_t n_gids;
    bool group_only; /* a group by itself, as `h-policy explain group:adm` asks for */
    /* remote; name NULL: anonymous */
    const char *name;  /* "user:alice", "token:ci", "cert:…" */
    const char *token; /* "token:ci" when a token speaks for a user */
    char *const *roles;
    bool ended;          /* its credentials are no longer good: it holds nothing, not even as anonymous */
    Knowledge encrypted;  /* of a remote one. What is unknown fulfils no grant and every deny */
    const char *protocol; /* NULL: unknown */
} Subject;

/* Overflow and dynamic ids are shared or recycled: they never hold a grant. */
bool uid_may_hold(uint32_t uid);
bool gid_may_hold(uint32_t gid);

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
bool policy_equal(const Policy *a, const Policy *b);

Verdict policy_judge(const Policy *p, const Subject *subject, const char *permission);

/* Sets bit i of `bits` (zeroed by the caller) when permissions[i] is allowed. */
void policy_row(const Policy *p, const Subject *subject, const char *const *permissions,
                size_t n_permissions, uint64_t *bits);

/* Does the subject hold all of a pattern under (at most) the conditions of `rule`? Nobody grants
 * what they do not hold. */
bool policy_holds(const Policy *p, const Subject *subject, const char *pattern,
                  const Rule *rule);
