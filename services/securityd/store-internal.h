/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the files of the store share: store.c, store-database.c, store-old.c. */

#include "store.h"

#define STORE_DATABASE "state.db"
#define STORE_OLD_FILE "state" /* what was written before there was a database; now says so */

#define STORE_OLD_BACKUP "state.backup-0"

void store_clear(Store *s);

/* The birth time of the anchor, which is made if there is none. */
int store_anchor(const char *directory, char ret[64]);

/* Both check what they are told. -EINVAL; -EEXIST: there is one of that name. */
int store_put_user(Store *s, const User *u);
int store_put_token(Store *s, const Token *t);
int store_put_certificate(Store *s, const Certificate *c);

/* The database. Loading: -ENOENT; -EBADMSG, -EPERM: it cannot be trusted; -EPROTONOSUPPORT: written by a
 * version that is too new for this one. */
int store_database_load(Store *s, const char *anchor);
int store_database_save(Store *s, const char *anchor);
/* Out of the way, under a name that nobody opens. */
int store_database_put_aside(const char *directory);

/* The file that came before it. Loading: as above; -EALREADY: there is a database in its place. */
int store_old_load(Store *s, const char *anchor);
/* Keeps a copy, if it was in use, and leaves a note that an older version takes for a damaged file. */
int store_old_retire(const char *directory);
int store_old_put_aside(const char *directory);
