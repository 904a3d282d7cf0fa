/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* How far the sink has come, in a file of two slots that are written in turn: one of them is always whole. */

#include "log.h"

typedef struct log_sink_place {
    uint64_t seq; /* all up to here has arrived */
    /* The last record of each ring that was looked at, to know what is missing later. */
    struct {
        uint8_t file[16]; /* id of the ring's file */
        log_place place;
        uint32_t ordinal, pad;
    } streams[LOG_STREAMS];
} log_sink_place;

typedef struct log_sink_state {
    int fd; /* -1: none */
    uint64_t count;
} log_sink_state;

/* Opens or makes it. -ENOENT: it says nothing about this destination (0: any), or cannot be had: then nothing is
 * kept. */
int log_sink_state_open(log_sink_state *s, const char *path, uint64_t destination,
                        log_sink_place *ret);
/* As above, reading alone. */
int log_sink_state_read(const char *path, uint64_t destination, log_sink_place *ret);
int log_sink_state_write(log_sink_state *s, uint64_t destination, const log_sink_place *p);
void log_sink_state_done(log_sink_state *s);

uint64_t log_sink_hash(const void *data, size_t size);
