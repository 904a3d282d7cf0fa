/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The log of the device: its rings, one sequence over all of them, and who may fill how much. Knows
 * no bus, no socket, no clock but the one it is given. */

#include "log-store.h"

typedef enum log_stream {
    LOG_STREAM_MAIN,
    LOG_STREAM_IMPORTANT, /* split storage: warnings and above, on the disk */
    LOG_STREAM_AUDIT,     /* h-securityd's alone; nothing else can push it out */
    LOG_STREAMS
} log_stream;

typedef enum log_storage {
    LOG_STORAGE_PERSISTENT, /* everything on the disk */
    LOG_STORAGE_VOLATILE,   /* everything in memory (a file in /run: it outlives the daemon) */
    LOG_STORAGE_SPLIT,      /* warnings, worse and the audit on the disk, the rest in memory */
} log_storage;

typedef struct log_clock {
    uint64_t realtime, monotonic; /* microseconds */
} log_clock;

typedef struct log_settings {
    char *storage_name;
    log_storage storage;                       /* of storage_name */
    uint64_t size, important_size, audit_size; /* bytes of each file */
    uint64_t rate_interval, rate_burst;        /* of one sender; a burst of 0: no limit */
    uint64_t node_burst;                       /* of one node that sends syslog; likewise */
    uint64_t sync_interval;                    /* microseconds; 0: only when asked */
} log_settings;

/* "persistent", "volatile", "split"; -EINVAL. */
int log_storage_parse(const char *name, log_storage *ret);

typedef struct log_book log_book;

typedef struct log_book_options {
    const log_settings *settings;  /* copied */
    const char *state_directory;   /* on the disk */
    const char *runtime_directory; /* in memory */
    uint8_t boot_id[16];
    log_clock now;
    uint64_t seq_floor; /* somebody outside knows records up to this one */
} log_book_options;

int log_book_open(const log_book_options *o, log_book **ret);
void log_book_close(log_book *b);
HYBUS_DEFINE_CLEANUP(log_book, log_book_close)

/* What came in, before it has a place. */
typedef struct log_entry {
    log_stream stream; /* LOG_STREAM_AUDIT, or whatever else: the book chooses */
    log_clock when;
    uint32_t uid, pid;
    uint8_t priority;
    log_source source;
    const char *unit, *peer; /* verified; NULL: not known */
    const char *speaker;     /* whose limit it counts against; NULL: the unit's or the peer's */
    const uint8_t *fields;   /* as in the datagram, well formed (log_fields_check()) */
    size_t size;
} log_entry;

/* Fields that came from outside: well formed, and none that only h-logged may set. */
int log_fields_check(const void *data, size_t size);

/* 1: stored, 0: dropped by the sender's rate limit, <0: too large. Allocates nothing. `ret_seq` may
 * be NULL. */
int log_book_append(log_book *b, const log_entry *e, log_clock now, uint64_t *ret_seq);

/* Notes of the log itself: about a sender that lost records (unit may be NULL). */
void log_book_note(log_book *b, log_clock now, uint8_t priority, const char *unit, uint64_t dropped,
                   const char *format, ...) _printf_(6, 7);

/* Records what was dropped by limits that have ended. Call when log_book_due() says (microseconds,
 * monotonic; UINT64_MAX: nothing to do). */
void log_book_tick(log_book *b, log_clock now);
uint64_t log_book_due(const log_book *b);

/* Called after each record that was stored: wake readers up, later. */
typedef void (*log_book_stored)(log_book *b, void *userdata);
void log_book_on_stored(log_book *b, log_book_stored f, void *userdata);

log_store *log_book_store(log_book *b, log_stream s); /* NULL: not in this kind of storage */
const char *log_stream_name(log_stream s);
uint64_t log_book_newest(const log_book *b); /* seq of the last record, 0: none yet */
const log_settings *log_book_settings(const log_book *b);

/* New limits at once; storage and sizes need a restart (1 is returned then). */
int log_book_set_settings(log_book *b, const log_settings *settings);

typedef struct log_book_statistics {
    uint64_t stored, rate_limited, sender_dropped, too_large;
    uint64_t by_source[LOG_SOURCE_END];
} log_book_statistics;
void log_book_statistics_get(const log_book *b, log_book_statistics *ret);
void log_book_count_dropped(log_book *b, uint64_t n); /* senders say so themselves */
