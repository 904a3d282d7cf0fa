/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HYBRIDOS_LOG_H
#define HYBRIDOS_LOG_H

/* The device's log: one call, from any thread, with or without an app.
 *
 *     hybridos_log(LOG_WARNING, "the pump does not answer: %s", strerror(errno));
 *
 *     hybridos_log_fields(LOG_INFO, "measured",
 *                         (hybridos_log_field[]){HYBRIDOS_LOG_TEXT("SENSOR", "kitchen"),
 *                                                HYBRIDOS_LOG_SECRET("PIN", pin)}, 2);
 *
 * A call never waits. What h-logged has no room for is counted, and the count goes with the next record.
 * When h-logged is not there, and also when the standard error output is a terminal, the record is
 * written there as a line "<N>identifier: message FIELD=value", with control characters escaped and only
 * the length of secrets. Priorities are those of syslog(3); without a facility LOG_USER is meant. Not
 * from signal handlers. A longer text is hybridos_log(3). */

#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <syslog.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hybridos_log_field {
    const char *name;  /* [A-Z0-9_], at most 64, not beginning with _ or a digit */
    const void *value; /* any bytes */
    size_t size;
    bool secret; /* shown only to whoever holds log.secrets */
} hybridos_log_field;

#define HYBRIDOS_LOG_TEXT(name, text)                                                              \
    {                                                                                              \
        (name), (text), strlen(text), false                                                        \
    }
#define HYBRIDOS_LOG_SECRET(name, text)                                                            \
    {                                                                                              \
        (name), (text), strlen(text), true                                                         \
    }

/* What the program calls itself; by default its file's name. At most 63 bytes. Call it before threads. */
void hybridos_log_identifier(const char *identifier);
/* Records of lesser priority are left out; by default LOG_INFO, or what $HYBRIDOS_LOG_LEVEL (0 to 7) says. */
void hybridos_log_level(int max_priority);

/* 0: on its way, or written to standard error, or left out for its priority. -EAGAIN: no room, counted.
 * -EINVAL: a name is none, or the priority. -E2BIG: more than 120 fields, or more than fits beside
 * a message (60 KiB in all); a message alone is cut instead. errno stays as it was. */
int hybridos_log_fields(int priority, const char *message, const hybridos_log_field *fields,
                        size_t n_fields);
/* With a format, and the place of the call as CODE_FILE and CODE_LINE. A text over 4 KiB is cut. */
#define hybridos_log(priority, ...) hybridos_log_at(priority, __FILE__, __LINE__, __VA_ARGS__)
int hybridos_log_at(int priority, const char *file, int line, const char *format, ...)
#ifdef __GNUC__
    __attribute__((format(printf, 4, 5)))
#endif
    ;

#ifdef __cplusplus
}
#endif
#endif
