/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What h-logread was asked for. */

#include "log-format.h"

#define LINES_MAX 100000u /* that are kept to be turned around */

typedef struct logread_options {
    log_filter filter; /* for files; `given` for the daemon */
    char *given[2 * 64];
    size_t n_given;
    log_look look;
    uint64_t lines;
    const char *file;
    bool has_lines, follow, reverse, pager, pager_end, sync, statistics, show_cursor, list_boots;
    bool has_boot; /* by number, as journalctl counts: 0 is this one, -1 the one before, 1 the oldest */
    long boot;
} logread_options;

/* 1: go on; 0: all is done (--help); <0: said what is wrong. */
int logread_arguments(logread_options *o, int argc, char *argv[]);
/* Sets a filter, for files and for the daemon. */
int logread_filter(logread_options *o, const char *name, const char *value);
void logread_options_done(logread_options *o);
