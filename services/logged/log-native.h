/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The native protocol's socket: datagrams in, records into the book. Who sent one is the kernel's
 * word (SCM_CREDENTIALS). */

#include <systemd/sd-event.h>

#include "log-unit.h"
#include "log.h"

#define LOG_NATIVE_BATCH 32u /* datagrams for one system call */
#define LOG_NATIVE_TURN 8u   /* batches before others get their turn */

/* The clock of now. */
log_clock log_clock_now(void);

/* One datagram, without its socket. 1: stored, 0: dropped by a limit; -EBADMSG, -EPERM, -EMSGSIZE.
 */
int log_native_take(log_book *b, const void *data, size_t size, uint32_t uid, uint32_t pid,
                    const char *unit, uint32_t audit_uid, log_clock now);

typedef struct log_native log_native;

/* `fd` is a datagram socket, taken over. `audit_uid` is the one whose AUDIT records are the audit.
 */
int log_native_new(sd_event *event, int fd, log_book *b, uint32_t audit_uid, log_native **ret);
void log_native_free(log_native *n);
HYBUS_DEFINE_CLEANUP(log_native, log_native_free)

uint64_t log_native_malformed(const log_native *n);
