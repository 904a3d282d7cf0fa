/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One ring of records: a file of fixed size, mapped, in which the newest record takes the place of
 * the oldest. Whoever writes fills a record in place; nothing is allocated and no system call made.
 * A record counts as soon as its checksum is there, so a writer may die between any two
 * instructions. Where no file can be had, or its disk fails, the ring goes on in memory and says
 * why. */

#include "log-file.h"

typedef struct log_store log_store;

typedef struct log_store_options {
    const char *path; /* NULL: memory alone */
    uint64_t size;    /* of the whole file; raised to what is needed for one record */
    uint8_t boot_id[16];
    uint64_t realtime; /* now, microseconds: when the file was made */
} log_store_options;

/* Opens or makes the file. One of another size keeps what fits; one that is damaged keeps what is
 * intact; what is no such file at all is moved to "<path>.bad". Without a file (full disk,
 * read-only file system, no right) what can be read of it is kept in memory. Fails for -ENOMEM
 * only. */
int log_store_open(const log_store_options *o, log_store **ret);
void log_store_close(log_store *s);
HYBUS_DEFINE_CLEANUP(log_store, log_store_close)

typedef struct log_store_statistics {
    uint64_t records, bytes; /* that are in the ring */
    uint64_t size;           /* bytes there are for records */
    uint64_t stored;         /* since this store was opened */
    uint64_t overwritten;
    uint64_t lost; /* that were found missing or damaged at opening */
    int error;     /* why there is no file (negative errno), 0: there is one */
    bool saved;    /* there is a file */
} log_store_statistics;
void log_store_statistics_get(const log_store *s, log_store_statistics *ret);

/* Starts a record with room for `fields_size` bytes of fields after it (at most HLOG_FIELDS_MAX).
 * Fill seq, times, uid, pid, priority, source, boot and the fields; then commit with what was used
 * of the room. Until then nothing else may be done with the store. */
log_record *log_store_begin(log_store *s, uint32_t fields_size);
void log_store_commit(log_store *s, log_record *r, uint32_t fields_size);

/* Reading, between appends: a pointer is good until the next one. NULL: no more. Every record that
 * is given has been checked; damaged ones are passed over. */
const log_record *log_store_oldest(log_store *s);
const log_record *log_store_newest(log_store *s);
const log_record *log_store_next(log_store *s, const log_record *r);
/* The same when `r` was found intact and nothing was appended since: half the work. */
const log_record *log_store_next_of_intact(log_store *s, const log_record *r);
const log_record *log_store_previous(log_store *s, const log_record *r);

/* A place that stays good across appends: the record may have been overwritten by then. */
typedef struct log_place {
    uint64_t offset, seq; /* seq 0: no place */
} log_place;
log_place log_store_place(const log_store *s, const log_record *r);
/* The record at that place, or NULL when it is gone. */
const log_record *log_store_at(log_store *s, log_place p);
/* The oldest record whose seq is larger, or NULL. */
const log_record *log_store_after(log_store *s, uint64_t seq);

const log_file_head *log_store_head(const log_store *s);
uint16_t log_store_boot(const log_store *s); /* the number of this boot */

/* Where the descriptor for fdatasync() is; -1: no file. The mapping's dirty pages go with it. */
int log_store_fd(const log_store *s);
/* fdatasync() has succeeded for all that was committed up to this record: remember it. The next
 * fdatasync() makes that lasting. */
void log_store_synced(log_store *s, uint64_t seq, uint32_t ordinal, uint32_t live);
/* Both in one, blocking: 0, or why nothing is safe. For tests, and at the end. */
int log_store_sync(log_store *s);

/* True once when the file failed under the mapping since the last call (it was cut, or the disk
 * cannot be read): the ring goes on in memory. */
bool log_store_failed(log_store *s);
/* Gives the mapped pages back to the page cache: for idle times. */
void log_store_rest(log_store *s);
