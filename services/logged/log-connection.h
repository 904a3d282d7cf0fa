/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The native protocol's stream socket, for languages without datagrams: the same records, each after
 * its length. Who sends is who connected (SO_PEERCRED). */

#include <systemd/sd-event.h>

#include "log.h"

#define LOG_CONNECTIONS_MAX 64u      /* in all; one more is closed at once */
#define LOG_CONNECTIONS_USER_MAX 16u /* of one user */

/* Whose records come, as they are given to log_native_take(). */
typedef struct log_speaker {
    uint32_t uid, pid;
    const char *unit;
} log_speaker;

/* All whole records at the beginning of `data`. How many bytes they were, -EBADMSG: what comes
 * next is none, and no later one can be found. Records that are refused count in `malformed`. */
ssize_t log_connection_take(log_book *b, const uint8_t *data, size_t size, const log_speaker *who,
                            uint32_t audit_uid, log_clock now, uint64_t *malformed);

typedef struct log_connections log_connections;

/* `fd` listens, and is taken over. */
int log_connections_new(sd_event *event, int fd, log_book *b, uint32_t audit_uid,
                        log_connections **ret);
void log_connections_free(log_connections *s);
HYBUS_DEFINE_CLEANUP(log_connections, log_connections_free)

uint64_t log_connections_malformed(const log_connections *s);
