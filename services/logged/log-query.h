/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Finding records: what is asked for, and walking all rings in one order. */

#include "log.h"

#define LOG_FILTER_FIELDS_MAX 16u
#define LOG_FILTER_TEXT_MAX 1024u

typedef struct log_filter_field {
    char name[HLOG_NAME_MAX + 1];
    char *value;
} log_filter_field;

/* Zeroed it wants everything of the main log, oldest first. */
typedef struct log_filter {
    uint64_t since, until;   /* microseconds since 1970; until 0: no end */
    uint64_t after, before;  /* cursors, neither included; 0: none */
    bool unit_is_pattern, unit_is_whole; /* has wildcards, or is several; has a suffix */
    size_t unit_size;
    char *unit;              /* glob(7) patterns, apart by spaces; "httpd" is h-httpd.service as well */
    char *identifier, *text; /* text: anywhere in the message, ASCII case aside */
    log_filter_field fields[LOG_FILTER_FIELDS_MAX]; /* all of them */
    size_t n_fields;
    uint8_t boot[16]; /* all zero: any */
    uint8_t severity; /* this and worse, if has_severity */
    uint8_t source;   /* log_source; 0: any */
    bool has_severity, has_uid, audit, backwards;
    bool both;    /* the log and the audit, in one order */
    uint32_t uid;   /* if has_uid: records of this one only */
    uint64_t limit; /* 0: none */
} log_filter;

void log_filter_done(log_filter *f);

/* Sets one thing by its name, as a query string or an a{sv} names it: unit, identifier, priority
 * (number or name), since, until ("2026-11-24 15:00", "-2h", "1732462000.5", "@…"), boot (32
 * hexadecimal digits), text, cursor or after, before, limit, reverse, audit, uid, source
 * (native, journal, kernel, syslog, self), field (NAME=VALUE, may repeat). `now` is for relative times. -EINVAL: not a value for that; -ENOENT: no
 * such thing; -E2BIG. */
int log_filter_set(log_filter *f, const char *name, const char *value, uint64_t now);
/* Seconds or a date to microseconds since 1970. */
int log_time_parse(const char *s, uint64_t now, uint64_t *ret);

bool log_filter_matches(const log_filter *f, const log_record *r, const log_file_head *head);

/* --- walking ------------------------------------------------------------------------------------
 */

typedef struct log_found {
    const log_record *record; /* until the next append */
    const uint8_t *boot;      /* 16 bytes, or NULL: no longer known */
    log_stream stream;
} log_found;

/* Where a walk stands. It survives appends, and records being overwritten under it. */
typedef struct log_walk {
    log_book *book;
    const log_filter *filter;
    struct {
        log_place place; /* of the last record that was looked at */
        uint64_t seq;    /* of it; 0: none yet */
        uint32_t ordinal;
        const log_record *next; /* the one after it; good until the next append */
    } streams[LOG_STREAMS];
    uint64_t as_of; /* newest record of the book when `next` was looked up */
    bool looked_up;
    uint64_t given;  /* records */
    uint64_t missed; /* overwritten or damaged before they were looked at, since last asked */
} log_walk;

void log_walk_start(log_walk *w, log_book *b, const log_filter *f);
/* Skips all there is: only what comes from now on. */
void log_walk_to_end(log_walk *w);
/* 1: one more; 0: no more for now (forwards, later calls may find new ones); -EAGAIN: `*budget`
 * records have been looked at without an end: go on later. */
int log_walk_next(log_walk *w, uint64_t *budget, log_found *ret);
bool log_walk_complete(const log_walk *w); /* the limit is reached */
