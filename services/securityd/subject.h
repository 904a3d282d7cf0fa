/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Whom a decision is about, and the words by which rules name them. */

#include <hybus/credentials.h>

#include "condition.h"

#define POLICY_GROUPS_MAX HYBUS_CREDENTIALS_GROUPS_MAX

/* 1 to 64 of [a-z0-9_-], for users, tokens and roles */
bool principal_name_is_valid(const char *name);

/* Turns a word of To= into its canonical form. 0 and *ret; -EINVAL: no such form; -ENOENT: the form is
 * right, but NSS knows no such user or group: *ret is set and matches nobody. */
int subject_parse(const char *word, char **ret);

/* Nothing here is taken over. */
typedef enum Knowledge { UNKNOWN = -1, NO = 0, YES = 1 } Knowledge;

struct Subject {
    bool unknown; /* a connection to the bus whose credentials nobody attests: it holds nothing */
    const char *bus_name; /* of an unknown one, and of a bound one */
    const struct Subject *behalf; /* for whom a bound connection acts: both must be allowed */
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
    const Network *peer;  /* its address; NULL: unknown */
    const Moment *moment; /* what is known of the call; NULL: nothing */
};

/* Overflow and dynamic ids are shared or recycled: they never hold a grant. */
bool uid_may_hold(uint32_t uid);
bool gid_may_hold(uint32_t gid);

