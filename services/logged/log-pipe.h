/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Records on their way out through pipes: all that match, or all that will. A pipe is a place in
 * the rings and a bounded piece of text; who reads slowly makes nobody wait, and is told how much
 * it has missed. */

#include <systemd/sd-event.h>

#include "log-format.h"

#define LOG_PIPES_MAX 64u
#define LOG_PIPES_USER_MAX 16u
#define LOG_PIPE_TEXT (64u * 1024u) /* bytes that are made before any are written */
#define LOG_PIPE_BUDGET 20000u      /* records looked at in one turn of the loop */

typedef struct log_pipes log_pipes;
typedef struct log_pipe log_pipe;

typedef struct log_pipe_options {
    log_filter filter; /* taken over, also on failure */
    log_look look;
    bool follow;   /* go on for ever */
    bool from_end; /* follow: only what comes from now on */
    uint32_t uid;  /* for the limit */
} log_pipe_options;

int log_pipes_new(sd_event *event, log_book *b, log_pipes **ret);
void log_pipes_free(log_pipes *p);
HYBUS_DEFINE_CLEANUP(log_pipes, log_pipes_free)

/* `ret_fd` is the end to read from. -ENOBUFS: too many. The pipe frees itself when all is written
 * or nobody reads any more; `gone` (may be NULL) is called then, before. */
typedef void (*log_pipe_gone)(log_pipe *p, void *userdata);
int log_pipe_new(log_pipes *ps, log_pipe_options *o, log_pipe_gone gone, void *userdata,
                 log_pipe **ret, int *ret_fd);
/* Cuts it off; `gone` is not called. */
void log_pipe_free(log_pipe *p);

/* Something was stored. Cheap. */
void log_pipes_wake(log_pipes *ps);
size_t log_pipes_count(const log_pipes *ps);
