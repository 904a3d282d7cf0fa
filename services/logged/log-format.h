/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Records as others want them. Whatever a sender wrote, it cannot end a line, move a terminal's
 * cursor, leave a JSON string or become markup. */

#include "log-query.h"

/* Bytes that grow; the memory is used again. */
typedef struct log_text {
    char *data;
    size_t size, allocated;
    bool failed; /* no memory: what is there is not whole */
} log_text;

void log_text_done(log_text *t);
void log_text_put(log_text *t, const void *data, size_t size);
void log_text_string(log_text *t, const char *s);
void log_text_printf(log_text *t, const char *format, ...) _printf_(2, 3);

typedef enum log_escape {
    LOG_ESCAPE_JSON,
    LOG_ESCAPE_TERMINAL, /* line ends become one that is indented */
    LOG_ESCAPE_LINE,     /* line ends are escaped as well */
    LOG_ESCAPE_HTML,
} log_escape;
void log_text_escaped(log_text *t, const void *data, size_t size, log_escape how);

typedef enum log_format {
    LOG_FORMAT_JSON,    /* an object on a line */
    LOG_FORMAT_SHORT,   /* "Nov 24 15:31:16 unit[pid]: message" */
    LOG_FORMAT_VERBOSE, /* all fields, one a line */
    LOG_FORMAT_CAT,     /* the message alone */
    LOG_FORMAT_HTML,    /* a row of a table */
    LOG_FORMAT_RECORD,  /* log_wire and the record, for h-logread */
} log_format;
/* "json", "short", "verbose", "cat", "record"; -EINVAL. */
int log_format_parse(const char *name, log_format *ret);

typedef struct log_look {
    log_format format;
    bool secrets; /* show them; else their length */
    bool colours, utc, precise;
    bool iso, uptime; /* short: the date as ISO 8601 has it; the time since boot instead */
} log_look;

/* A record on its way to h-logread, before the record itself (with its size in it). */
typedef struct log_wire {
    uint8_t boot[16];        /* zero: not known */
    uint32_t stream, missed; /* with a missed count and size 0 of the record: a gap */
} log_wire;

void log_format_record(log_text *t, const log_found *f, const log_look *look);
/* Says that records are missing here. */
void log_format_gap(log_text *t, uint64_t missed, const log_look *look);

bool log_utf8_valid(const void *data, size_t size);
