/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What comes by the journal: units' output, syslog(3), the kernel, the journal's own protocol. Read
 * with a cursor; unit, process and both clocks are kept as the journal attests them. Nothing is
 * read twice and nothing left out, also when h-logged is killed between two instructions: the
 * cursor file names the entry and the sequence number that it gets before it is stored. */

#include <systemd/sd-event.h>

#include "log-refusal.h"
#include "log.h"

#define LOG_JOURNAL_TURN 256u /* entries before others get their turn */

typedef struct log_journal log_journal;

/* `cursor_path` is in memory (/run), as long-lived as the journal of this boot. */
int log_journal_new(sd_event *event, log_book *b, const char *cursor_path, log_journal **ret);
void log_journal_free(log_journal *j);
HYBUS_DEFINE_CLEANUP(log_journal, log_journal_free)

/* Calls `f` for each message that the bus refused, as its own unit logs it under the user `uid`.
 * What others write in its words does not count. `monotonic`: when it was logged. */
typedef void (*log_journal_refused)(const log_refusal *refusal, uint64_t monotonic, void *userdata);
void log_journal_on_refused(log_journal *j, uint32_t uid, log_journal_refused f, void *userdata);

/* Which boot this is. */
int log_journal_boot_id(uint8_t ret[16]);

uint64_t log_journal_entries(const log_journal *j);

/* One datum of the journal ("NAME=value") as a field at `to`; what is not kept puts nothing. NULL:
 * it does not fit. */
uint8_t *log_journal_field(uint8_t *to, const uint8_t *end, const void *data, size_t size);
