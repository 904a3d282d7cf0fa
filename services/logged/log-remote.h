/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The sink and its road as the section [sink] of the settings wants them. */

#include "log-sink.h"

typedef struct log_remote_settings {
    char *address;               /* empty: no sink */
    char *protocol, *priority;   /* names */
    char *authority, *server_name, *certificate, *key;
    bool audit;
} log_remote_settings;

typedef struct log_remote log_remote;

/* 0, or -EINVAL with what is wrong in `ret_why`. */
int log_remote_check(const log_remote_settings *s, const char **ret_why);

/* `ret` is NULL when there is no sink to be. */
int log_remote_new(sd_event *event, log_book *b, const log_remote_settings *s,
                   uint64_t save_interval, log_remote **ret);
void log_remote_free(log_remote *r);
HYBUS_DEFINE_CLEANUP(log_remote, log_remote_free)

void log_remote_wake(log_remote *r); /* NULL is fine */
void log_remote_statistics(const log_remote *r, log_sink_statistics *ret); /* likewise */
/* What a sink may have told others already. */
uint64_t log_remote_saved(void);
