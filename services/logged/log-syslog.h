/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Syslog as others send it: RFC 5424, RFC 3164 and what devices make of that, and the frames in which it
 * comes over a stream (RFC 6587). Nothing is allocated, nothing is refused for its form: what fits no
 * format is a message without a head. Knows no socket. */

#include "log-record.h"

/* Of one message; RFC 5424, 6.1 asks for 2,048. What is longer is cut. */
#define LOG_SYSLOG_MAX 8192u
#define LOG_SYSLOG_NAME_MAX 255u /* bytes of host names and the like; they are cut */
#define LOG_SYSLOG_PARAMS_MAX 64u /* structured data that become fields */

/* A piece of the message; size 0: not there, or "-". */
typedef struct log_span {
    const char *data;
    size_t size;
} log_span;

typedef struct log_syslog {
    uint8_t priority; /* user.notice when the message has none (RFC 3164, 4.3.3) */
    bool rfc5424;
    log_span time; /* as its sender wrote it */
    log_span hostname, identifier, procid, msgid;
    log_span structured_data; /* well formed */
    log_span message;
} log_syslog;

/* -EBADMSG: there is nothing in it. The pieces point into `data`. */
int log_syslog_parse(const void *data, size_t size, log_syslog *ret);

/* The next parameter of structured data: 1; 0: no more; -EBADMSG. Start with `at` zeroed; `id` and `name`
 * are as they stand there, `value` still has its backslashes. */
typedef struct log_syslog_param {
    log_span id, name, value;
    size_t at;
} log_syslog_param;
int log_syslog_next_param(log_span structured_data, log_syslog_param *p);

/* As fields of a record: MESSAGE, IDENTIFIER, HOSTNAME, PROCID, MSGID, STRUCTURED_DATA, SENDER_TIME, and
 * SD_<ID>_<NAME> for each parameter, as many as fit. Gives how many bytes. */
#define LOG_SYSLOG_FIELDS_MAX (4u * LOG_SYSLOG_MAX)
size_t log_syslog_fields(const log_syslog *s, uint8_t to[LOG_SYSLOG_FIELDS_MAX]);

/* --- frames of a stream ------------------------------------------------------------------------ */

/* Each frame is counted ("5 hello") when it begins with a digit that is not 0, otherwise it ends with a line
 * end (or a NUL, as some send). */
typedef struct log_syslog_stream {
    uint8_t data[LOG_SYSLOG_MAX];
    size_t have;
    uint32_t count, left; /* counted: the number that is being read; bytes still to come */
    enum { LOG_FRAME_START, LOG_FRAME_COUNT, LOG_FRAME_COUNTED, LOG_FRAME_LINE } state;
    bool cut; /* of this frame, some bytes found no room */
} log_syslog_stream;

#define LOG_SYSLOG_COUNT_MAX (1024u * 1024u) /* a frame said to be larger is an error */

typedef void (*log_syslog_frame)(const void *data, size_t size, bool cut, void *userdata);

/* -EBADMSG: not framed as it should be; nothing more can be made of this stream. */
int log_syslog_stream_feed(log_syslog_stream *s, const void *data, size_t size, log_syslog_frame f,
                           void *userdata);
/* The stream has ended: a line without its end still is one, part of a counted frame is not. */
void log_syslog_stream_end(log_syslog_stream *s, log_syslog_frame f, void *userdata);
