/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Getting records onto the disk, without the loop waiting for it: fdatasync() of a slow flash takes
 * a second, so one thread does nothing else. It touches descriptors only, never records. */

#include <systemd/sd-event.h>

#include "log.h"

typedef struct log_sync log_sync;

/* `seq`: everything up to here is on the disk; error: why it is not. */
typedef void (*log_sync_callback)(uint64_t seq, int error, void *userdata);

int log_sync_new(sd_event *event, log_book *b, log_sync **ret);
/* Waits for what is under way. Callbacks are not called any more. */
void log_sync_free(log_sync *s);
HYBUS_DEFINE_CLEANUP(log_sync, log_sync_free)

/* Everything stored by now. Those who ask while one is under way share the next. -ENOBUFS: too many
 * wait. `f` NULL: nobody wants to know. */
#define LOG_SYNC_WAITING_MAX 64u
int log_sync_request(log_sync *s, log_sync_callback f, void *userdata);
uint64_t log_sync_done(const log_sync *s); /* seq of the last that succeeded */
