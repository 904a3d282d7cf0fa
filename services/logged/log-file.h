/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The ring's file: what stands in it, and how to find every intact record in whatever is left of
 * it. Knows no mapping and no writing: bytes in, records out. */

#include "log-record.h"

#define LOG_FILE_MAGIC "HYBRLOG" /* with its NUL: 8 bytes */
#define LOG_FILE_VERSION 1u
#define LOG_FILE_HEAD_SIZE 4096u
#define LOG_FILE_BOOTS 128u
#define LOG_FILE_SIZE_MIN (256u * 1024u)
#define LOG_FILE_SIZE_MAX (1024u * 1024u * 1024u)

typedef struct log_file_boot {
    uint8_t id[16];
    uint32_t number, reserved;
} log_file_boot;

/* What sync() promised. Two of them in turn, so that one is always whole. */
typedef struct log_file_synced {
    uint64_t checksum;      /* XXH3, seed 0, of the rest */
    uint64_t count;         /* the larger one counts */
    uint64_t seq;           /* everything up to here is on the disk */
    uint32_t ordinal, live; /* of that record */
} log_file_synced;

/* The first 4096 bytes, and a copy of them at the end of the file. */
typedef struct log_file_head {
    char magic[8];
    uint32_t version, head_size;
    uint64_t file_size, data_size; /* data starts after the head */
    uint64_t created;              /* microseconds since 1970 */
    uint8_t id[16];
    uint32_t mark, n_boots;              /* boots so far; the newest LOG_FILE_BOOTS are kept */
    log_file_boot boots[LOG_FILE_BOOTS]; /* boot number n at n % LOG_FILE_BOOTS */
    uint64_t checksum;                   /* XXH3, seed 0, of all before */
    log_file_synced synced[2];           /* not covered by the checksum */
} log_file_head;

_Static_assert(sizeof(log_file_head) <= LOG_FILE_HEAD_SIZE, "the head is one page");

uint64_t log_file_head_checksum(const log_file_head *h);
uint64_t log_file_synced_checksum(const log_file_synced *s);

/* What was found. Records are in order, oldest first; they point into the bytes. */
typedef struct log_file {
    const uint8_t *bytes;
    uint64_t size;
    const log_file_head *head; /* a whole one, or NULL: neither copy is */
    uint64_t data, data_size;  /* where records may stand */
    uint32_t mark;             /* 0: there is not one record */
    uint64_t *offsets;         /* in `bytes` */
    size_t n;
    uint64_t lost;   /* records that should be there and are not */
    uint64_t synced; /* seq of the newest that sync() promised, 0: none */
} log_file;

/* `bytes` starts at a multiple of 8. -EBADMSG: not such a file at all (no head, no record);
 * -EPROTONOSUPPORT: of a version of the future; -ENOMEM. */
int log_file_scan(const void *bytes, uint64_t size, log_file *ret);
void log_file_done(log_file *f);

static inline const log_record *log_file_record(const log_file *f, size_t i)
{
    return (const log_record *)(const void *)(f->bytes + f->offsets[i]);
}

/* The id of the boot in which a record was made, or NULL when it is no longer known. */
const uint8_t *log_file_boot_id(const log_file_head *h, uint16_t number);

/* Reads a whole file, also while it is being written. free() the bytes. */
int log_file_read(const char *path, void **ret, uint64_t *ret_size);
