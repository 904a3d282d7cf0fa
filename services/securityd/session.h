/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Who has logged in with a password. Sessions are kept in memory, and in a file in memory
 * (session-file.c): they end with the boot, and no login costs flash. Their time is that of the
 * clock which is never set. */

#include "state-file.h"

#define SESSIONS_MAX 1024u
#define SESSIONS_OF_USER_MAX 32u /* the one that was used least recently makes room */
#define SESSIONS_SAVE_USEC (60u * 1000u * 1000u) /* how old the times in the file may be */
#define SESSION_PREFIX "hys_"

typedef struct Session {
    uint64_t id;
    char *user, *protocol, *peer;
    uint8_t hash[SHA256_SIZE]; /* of its secret */
    uint64_t created;          /* µs of CLOCK_REALTIME, to be shown */
    uint64_t begun, used;      /* µs of CLOCK_BOOTTIME */
} Session;

typedef struct Sessions {
    Session *list;
    size_t n;
    uint64_t last_id;
    uint64_t saved; /* µs of CLOCK_BOOTTIME */
} Sessions;

void sessions_done(Sessions *s);

/* Where a new one goes, after its limits: NULL, or one that must be ended first. -ENOBUFS: all are
 * in use by others. */
int sessions_make_room(Sessions *s, const char *user, Session **ret_victim);
/* -ENOMEM. */
int sessions_add(Sessions *s, const Session *new, Session **ret);
void sessions_remove(Sessions *s, Session *session);
Session *sessions_find(Sessions *s, uint64_t id);
/* Compares with all of them, in constant time. */
Session *sessions_match(Sessions *s, const uint8_t hash[SHA256_SIZE]);

/* µs of CLOCK_BOOTTIME at which it ends: unused for `idle`, or `absolute` old. 0: no such bound. */
uint64_t session_deadline(const Session *session, uint64_t idle, uint64_t absolute);
