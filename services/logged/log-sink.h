/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The log for a server elsewhere: from the rings in order, each record as an RFC 5424 message, in counted
 * frames (RFC 5425) or as RELP transactions. The rings are the buffer; beside them there are one chunk and
 * a bounded list of what is on its way. A cursor moves behind what has arrived, and outlives the daemon.
 * Knows no socket: the road to the server is behind a table. */

#include <systemd/sd-event.h>

#include "log-forward.h"

#define LOG_SINK_CHUNK (16u * 1024u) /* bytes: one TLS record */
#define LOG_SINK_CHUNKS 64u          /* on their way */
#define LOG_SINK_BUDGET 5000u        /* records looked at in one turn of the loop */
#define LOG_SINK_RETRY_USEC (1000u * 1000u)
#define LOG_SINK_RETRY_TIMES 64u /* it doubles with each failure, up to so much */
#define LOG_SINK_STALL_USEC (120ull * 1000u * 1000u) /* nothing arrives: a new connection */
#define LOG_SINK_DOUBT_USEC (10u * 1000u * 1000u)

typedef enum log_sink_protocol { LOG_SINK_SYSLOG, LOG_SINK_RELP } log_sink_protocol;

/* One connection at a time. */
typedef struct log_sink_road {
    int (*open)(void *userdata); /* begins; log_sink_opened() or log_sink_lost() follows, later */
    void (*close)(void *userdata);
    /* All of it, or -EAGAIN (log_sink_writable() follows; then the same again), or another error. */
    int (*send)(const void *data, size_t size, void *userdata);
    /* Bytes on the wire since it was opened, and how many of these the server's machine has. */
    uint64_t (*sent)(void *userdata);
    uint64_t (*acknowledged)(void *userdata);
} log_sink_road;

typedef struct log_sink log_sink;

typedef struct log_sink_options {
    sd_event *event;
    log_book *book;
    const log_sink_road *road;
    void *userdata;
    log_sink_protocol protocol;
    const char *destination; /* copied: another one begins anew */
    const char *state_path;  /* on the disk; written now and then */
    const char *run_path;    /* in memory; written at every step */
    uint64_t save_interval;  /* microseconds; 0: at the end alone */
    uint64_t retry;          /* microseconds before the first new try; 0: LOG_SINK_RETRY_USEC */
    uint8_t severity;        /* this and worse, but for the audit */
    bool audit;
} log_sink_options;

/* What came last by these files, whatever the destination; 0: nothing. For the sequence of a new ring. */
uint64_t log_sink_saved(const char *state_path, const char *run_path);

int log_sink_new(const log_sink_options *o, log_sink **ret);
/* Saves where it is. */
void log_sink_free(log_sink *s);
HYBUS_DEFINE_CLEANUP(log_sink, log_sink_free)

/* Something was stored. Cheap. */
void log_sink_wake(log_sink *s);

/* From the road. */
void log_sink_opened(log_sink *s);
void log_sink_writable(log_sink *s);
void log_sink_received(log_sink *s, const void *data, size_t size);
void log_sink_lost(log_sink *s, int error, const char *why);

typedef struct log_sink_statistics {
    bool on, connected;
    uint64_t sent;         /* messages, with those that were sent again */
    uint64_t acknowledged; /* of them */
    uint64_t again;        /* that went once more */
    uint64_t missed;       /* records overwritten before they could be sent */
    uint64_t failures;     /* connections that could not be made, or ended */
    uint64_t cursor;       /* all up to this record has arrived */
} log_sink_statistics;
void log_sink_statistics_get(const log_sink *s, log_sink_statistics *ret);
