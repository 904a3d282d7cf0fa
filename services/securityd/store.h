/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What h-securityd remembers across boots: users, tokens, certificates, how many policies it has
 * accepted, and a floor under the clock. All of it in memory; a change is written to a database in one
 * transaction (store-database.c).
 *
 * Tokens and certificates belong to this device and this state: the database carries the birth time of
 * a second file beside it, which is never written again. Whoever copies the state elsewhere or puts an
 * old copy back cannot copy that time, so all of them are void then. */

#include "state-file.h"
#include "words.h"

#define STORE_TOKENS_MAX 1024u
#define STORE_USERS_MAX 1024u
#define STORE_CERTIFICATES_MAX 1024u
#define STORE_ROLES_MAX 64u
#define STORE_PASSWORD_MAX 255u /* bytes of its hash */

typedef struct User {
    char *name;
    char *password; /* as crypt(5) writes its hash; NULL: none, no login */
    char **roles;
    char **known;     /* keys of the places from which it has logged in */
    uint64_t created; /* µs of CLOCK_REALTIME */
    uint64_t serial;  /* another one whenever its roles change; not kept */
} User;

typedef struct Token {
    char *name;
    char *principal; /* "token:NAME", or "user:NAME" when it speaks for a user */
    char **roles;
    uint8_t hash[SHA256_SIZE];         /* SHA-256: 256 random bits need no slow hash */
    uint64_t created, expires, last_used; /* µs of CLOCK_REALTIME; 0: never */
} Token;

typedef struct Certificate {
    char *name;
    char *principal; /* "cert:SHA256" in hex, or "user:NAME" when it speaks for a user */
    char **roles;
    uint8_t hash[SHA256_SIZE];          /* of the certificate as DER */
    uint64_t created, expires, revoked; /* µs of CLOCK_REALTIME; 0: never */
} Certificate;

typedef struct Store {
    char *directory;
    User *users;
    size_t n_users;
    Token *tokens;
    size_t n_tokens;
    Certificate *certificates;
    size_t n_certificates;
    uint64_t last_serial;
    uint64_t generation;
    uint64_t floor; /* no earlier time than this has been since the last write */
    bool claimed;
    bool restored; /* the tokens have been made void, see above */
    bool damaged;  /* started over: users and tokens are gone, but nobody can claim the device anew */
    bool foreign;  /* a version that is too new for this one wrote it: nobody is known, nothing is saved */
    char backup[32]; /* of what an older version wrote, from which this was made; "" */
} Store;

/* Nothing there is an empty store. A damaged one (or one that others can write) is put aside. */
int store_open(const char *directory, Store **ret);
void store_free(Store *s);
HYBUS_DEFINE_CLEANUP(Store, store_free)
/* All or nothing. -EROFS: see `foreign`. */
int store_save(Store *s);

/* µs; never behind what has been seen before, whatever the clock says. */
uint64_t store_now(Store *s);

User *store_user(Store *s, const char *name);
/* `roles` may be NULL. -EEXIST, -ENOBUFS, -EINVAL. */
int store_add_user(Store *s, const char *name, char *const *roles);
int store_set_roles(Store *s, User *u, char *const *roles);
int store_remove_user(Store *s, const char *name);

/* `prefix` and 256 random bits that are safe in headers, URLs and shells. */
int store_make_secret(const char *prefix, char **ret);

Token *store_token(Store *s, const char *name);
/* Makes a token; *ret_secret is shown once and never kept. -EEXIST, -ENOBUFS. */
int store_add_token(Store *s, const char *name, const char *principal, char *const *roles,
                    uint64_t lifetime_usec, char **ret_secret);
int store_remove_token(Store *s, const char *name);
/* Compares with every token, in constant time. NULL: unknown or expired. */
Token *store_match(Store *s, const char *secret);

Certificate *store_certificate(Store *s, const char *name);
