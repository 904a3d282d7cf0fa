/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A record as it lies in the ring, and its fields. docs/logged.md has the format for others. */

#include <hybus/base.h>

#include <log-protocol.h>

#define LOG_RECORD_MAX ((uint32_t)sizeof(log_record) + HLOG_FIELDS_MAX)

typedef enum log_source {
    LOG_SOURCE_NATIVE = 1,  /* the datagram protocol; uid and pid are the kernel's word */
    LOG_SOURCE_JOURNAL = 2, /* a unit's output, syslog(3), the journal's own protocol */
    LOG_SOURCE_KERNEL = 3,
    LOG_SOURCE_SYSLOG = 4, /* over the network: nothing in it is verified */
    LOG_SOURCE_SELF = 5,   /* h-logged itself: drops, losses */
    LOG_SOURCE_END
} log_source;

/* "native", "journal", …; "?" for what is none. */
const char *log_source_name(uint8_t source);
/* LOG_SOURCE_END: there is no such. */
log_source log_source_of(const char *name);

#define LOG_NOBODY UINT32_MAX /* uid when there is none */

/* 64 bytes, little endian, at a multiple of 8; fields follow. `checksum` is XXH3 (64 bits, seed
 * `mark`) of everything after itself, to `size`. */
typedef struct log_record {
    uint64_t checksum;
    uint32_t mark;      /* the file's own; never 0 */
    uint32_t size;      /* of header and fields; the next record starts at the next multiple of 8 */
    uint64_t seq;       /* one sequence over all files of a device */
    uint64_t realtime;  /* microseconds since 1970 */
    uint64_t monotonic; /* microseconds since boot */
    uint32_t ordinal;   /* counts the records of this file, without holes, wrapping */
    uint32_t live;      /* how many the file held with this one: what is missing of them was lost */
    uint32_t uid, pid;
    uint32_t back;    /* bytes back to the record before, 0: not known, or at the file's end */
    uint16_t boot;    /* number of the boot in the file's header */
    uint8_t priority; /* facility * 8 + severity */
    uint8_t source;
} log_record;

_Static_assert(sizeof(log_record) == 64, "the header of a record is part of the file format");
#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "the file format is little endian and read in place"
#endif

static inline uint32_t log_record_padded(uint32_t size)
{
    return (size + 7u) & ~7u;
}

static inline unsigned log_record_severity(const log_record *r)
{
    return r->priority & 7u;
}

uint64_t log_record_checksum(const log_record *r);
/* Is this a whole, undamaged record of that file? `room` is what lies behind the pointer. */
bool log_record_intact(const log_record *r, uint64_t room, uint32_t mark);

/* --- fields --------------------------------------------------------------------------------- */

typedef struct log_field {
    const uint8_t *value;
    uint32_t size;
    uint8_t code;
    uint8_t name_size;
    bool secret;
    const char *name; /* not terminated; for a known code the well-known name */
} log_field;

typedef struct log_fields {
    const uint8_t *at, *end;
    unsigned n;
} log_fields;

static inline void log_fields_init(log_fields *f, const void *data, size_t size)
{
    *f = (log_fields){.at = data, .end = (const uint8_t *)data + size};
}

static inline void log_record_fields(const log_record *r, log_fields *ret)
{
    log_fields_init(ret, r + 1, r->size - sizeof(*r));
}

/* 1: one more in `ret`; 0: no more; -EBADMSG: cut off, too many, or not a name. */
int log_fields_next(log_fields *f, log_field *ret);
/* The first field of that code; 0 or -ENOENT. */
int log_record_field(const log_record *r, uint8_t code, log_field *ret);

/* Name of a well-known code, or NULL. */
const char *log_code_name(uint8_t code, uint8_t *ret_size);
/* Code of a well-known name, or HLOG_NAMED. */
uint8_t log_code_of(const char *name, size_t size);
bool log_field_name_valid(const char *name, size_t size);
