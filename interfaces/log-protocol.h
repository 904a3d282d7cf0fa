/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The native log protocol, shared by h-logged and by whoever sends to it (docs/protocols/log.md).
 *
 * One datagram is one record: this head, then fields, little endian, nothing aligned:
 *
 *     u8 'H'   u8 'L'   u8 version   u8 priority (facility * 8 + severity, as in syslog)
 *     u32 dropped    records that the sender had to give up since the last one that went through
 *
 *     field:  u8 code | HLOG_SECRET
 *             code HLOG_NAMED only: u8 length, name of [A-Z0-9_], not starting with _ or a digit
 *             u16 size, value: any bytes
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define HLOG_SOCKET "/run/hybridos/logged/log.sock"
/* The same over a stream: u32 length, then what would be the datagram. */
#define HLOG_STREAM_SOCKET "/run/hybridos/logged/log-stream.sock"

#define HLOG_VERSION 1u
#define HLOG_HEAD_SIZE 8u
#define HLOG_FIELDS_MAX 61440u /* bytes of all fields of a record */
#define HLOG_NAME_MAX 64u      /* bytes of a field name */
#define HLOG_COUNT_MAX 128u    /* fields of a record */

#define HLOG_SECRET 0x80u /* bit of the code: shown only to whoever may see secrets */

enum hlog_code {
    HLOG_NAMED = 0,      /* the name stands in the field */
    HLOG_MESSAGE = 1,    /* MESSAGE: for people */
    HLOG_UNIT = 2,       /* UNIT: set by h-logged alone, from the sender's control group */
    HLOG_IDENTIFIER = 3, /* IDENTIFIER: name of the program, as it says itself */
    HLOG_CODE_FILE = 4,
    HLOG_CODE_LINE = 5,
    HLOG_ERRNO = 6,
    HLOG_HOSTNAME = 7,        /* of a node that logs over the network */
    HLOG_PROCID = 8,          /* RFC 5424 */
    HLOG_MSGID = 9,           /* RFC 5424 */
    HLOG_STRUCTURED_DATA = 10, /* RFC 5424 */
    HLOG_PEER = 11,           /* PEER: set by h-logged alone: network address of the sender */
    HLOG_DROPPED = 12,        /* DROPPED: set by h-logged alone: records that were not stored */
    HLOG_AUDIT = 13,          /* AUDIT: id of an audit record; taken from h-securityd alone */
    HLOG_CODE_END
};

/* Writes the head; fields follow. */
static inline uint8_t *hlog_head(uint8_t to[HLOG_HEAD_SIZE], uint8_t priority, uint32_t dropped)
{
    *to++ = 'H';
    *to++ = 'L';
    *to++ = HLOG_VERSION;
    *to++ = priority;
    for (unsigned i = 0; i < 4; i++)
        *to++ = (uint8_t)(dropped >> (8 * i));
    return to;
}

/* Appends one field at `to`, and gives what follows it; NULL when it does not fit before `end`, or
 * `to` is NULL already. A name goes with HLOG_NAMED alone. */
static inline uint8_t *hlog_put(uint8_t *to, const uint8_t *end, const char *name, size_t name_size,
                                uint8_t code, const void *value, size_t size)
{
    size_t named = (code & ~HLOG_SECRET) == HLOG_NAMED ? 1 + name_size : 0;

    if (!to || size > UINT16_MAX || name_size > HLOG_NAME_MAX ||
        (size_t)(end - to) < 3 + named + size)
        return NULL;
    *to++ = code;
    if (named > 0 && name) {
        *to++ = (uint8_t)name_size;
        memcpy(to, name, name_size);
        to += name_size;
    }
    *to++ = (uint8_t)size;
    *to++ = (uint8_t)(size >> 8);
    if (size > 0)
        memcpy(to, value, size);
    return to + size;
}
