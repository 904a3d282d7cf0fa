/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Logging of programs (libraries do not log). In a unit, whose standard error is the journal
 * ($JOURNAL_STREAM), it goes to h-logged with structured fields, never waiting, and to the journal
 * when h-logged is not there; otherwise to standard error with a <N> prefix.
 * Priorities are those of syslog(3). Control characters in the message are escaped. Never pass a
 * secret. */

#include <syslog.h>

#include "base.h"

HYBUS_EXPORT void hybus_log_open(const char *program);
HYBUS_EXPORT void hybus_log_set_level(int max_priority);
HYBUS_EXPORT int hybus_log_level(void);

/* Logs and returns `error` (negative errno, or 0); with an error, ": strerror" is appended. */
HYBUS_EXPORT int hybus_log_full(int priority, int error, const char *file, int line,
                                const char *format, ...) _printf_(5, 6);

#define hybus_log(priority, ...) hybus_log_full(priority, 0, __FILE__, __LINE__, __VA_ARGS__)
#define hybus_log_errno(priority, error, ...)                                                      \
    hybus_log_full(priority, error, __FILE__, __LINE__, __VA_ARGS__)
#define hybus_error(...) hybus_log(LOG_ERR, __VA_ARGS__)
#define hybus_warning(...) hybus_log(LOG_WARNING, __VA_ARGS__)
#define hybus_notice(...) hybus_log(LOG_NOTICE, __VA_ARGS__)
#define hybus_info(...) hybus_log(LOG_INFO, __VA_ARGS__)
#define hybus_debug(...) hybus_log(LOG_DEBUG, __VA_ARGS__)

/* One record of the caller's own making for h-logged: `fields` as interfaces/log-protocol.h has them.
 * 0: on its way; -EAGAIN: no room there now; other errors: h-logged is not there, or this program
 * does not run as a unit. The caller then says it some other way. */
HYBUS_EXPORT int hybus_log_send(int priority, const void *fields, size_t size);
