/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Passwords are kept as crypt(5) writes them, by yescrypt: each guess costs an attacker 16 MiB and some
 * tens of milliseconds, and us as well. So no loop waits for it: a queue with one thread at work,
 * in which nobody takes more than one place. */

#include <hybus/base.h>
#include <systemd/sd-event.h>

#define PASSWORD_MIN 8u
#define PASSWORD_MAX 256u   /* bytes */
#define PASSWORD_WAITING_MAX 8u /* in the queue, of anybody */
#define PASSWORD_KNOWN_MAX 16u   /* of those who have been here before, together with the others */

/* Long enough, and not longer than is read. */
bool password_is_acceptable(const char *password);

/* yescrypt's cost, 1 to 11; for tests. */
extern unsigned long password_cost;

/* Both block. */
int password_hash(const char *password, char **ret);
/* `hash` NULL: takes as long as if there were one, and is false. */
bool password_is(const char *password, const char *hash);

typedef struct PasswordQueue PasswordQueue;
typedef struct PasswordJob PasswordJob;

int password_queue_new(sd_event *event, PasswordQueue **ret);
void password_queue_free(PasswordQueue *q); /* calls nobody back */
HYBUS_DEFINE_CLEANUP(PasswordQueue, password_queue_free)

/* `right`: it is the password; of password_queue_hash(): there is a hash, NULL when something failed. Never
 * called from inside. */
typedef void (*PasswordDone)(bool right, const char *hash, void *userdata);

/* One at a time with the same `key`, other than 0: -EBUSY. Others wait in their turn, `known` ones before
 * strangers: -ENOBUFS when too many do. */
int password_queue_check(PasswordQueue *q, const char *password, const char *hash, uint64_t key,
                         bool known, PasswordDone f, void *userdata, PasswordJob **ret);
int password_queue_hash(PasswordQueue *q, const char *password, PasswordDone f, void *userdata,
                        PasswordJob **ret);
/* It will not be called back. */
void password_job_cancel(PasswordJob *job);
