/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What h-securityd remembers across boots: users, tokens, how many policies it has accepted, and a
 * floor under the clock. One file, replaced atomically.
 *
 * Tokens belong to this device and this state: their file carries the birth time of a second file
 * beside it, which is never written again. Whoever copies the state elsewhere or puts an old copy
 * back cannot copy that time, so all tokens are void then. */

#include "state-file.h"

#define STORE_TOKENS_MAX 1024u
#define STORE_USERS_MAX 1024u

typedef struct User {
    char *name;
    uint64_t created; /* µs of CLOCK_REALTIME */
} User;

typedef struct Token {
    char *name;
    char *principal; /* "token:NAME", or "user:NAME" when it speaks for a user */
    char **roles;
    uint8_t hash[SHA256_SIZE];         /* SHA-256: 256 random bits need no slow hash */
    uint64_t created, expires, last_used; /* µs of CLOCK_REALTIME; 0: never */
} Token;

typedef struct Store {
    char *directory;
    User *users;
    size_t n_users;
    Token *tokens;
    size_t n_tokens;
    uint64_t generation;
    uint64_t floor; /* no earlier time than this has been since the last write */
    bool claimed;
    bool restored; /* the tokens have been made void, see above */
    bool damaged;  /* started over: users and tokens are gone, but nobody can claim the device anew */
} Store;

/* A missing file is an empty store. A damaged one (or one that others can write) is put aside. */
int store_open(const char *directory, Store **ret);
void store_free(Store *s);
HYBUS_DEFINE_CLEANUP(Store, store_free)
int store_save(Store *s);

/* µs; never behind what has been seen before, whatever the clock says. */
uint64_t store_now(Store *s);

User *store_user(Store *s, const char *name);
int store_add_user(Store *s, const char *name);
int store_remove_user(Store *s, const char *name);

Token *store_token(Store *s, const char *name);
/* Makes a token; *ret_secret is shown once and never kept. -EEXIST, -ENOBUFS. */
int store_add_token(Store *s, const char *name, const char *principal, char *const *roles,
                    uint64_t lifetime_usec, char **ret_secret);
int store_remove_token(Store *s, const char *name);
/* Compares with every token, in constant time. NULL: unknown or expired. */
Token *store_match(Store *s, const char *secret);
