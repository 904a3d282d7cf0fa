/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The frames of the responder channel (docs/protocols/channel.md): bytes to frames and back, for
 * the registrar and for the servers. No policy, no loop, no knowledge of what a frame means. */

#include "base.h"

#define HYBUS_FRAME_HEADER_SIZE 16u
#define HYBUS_FRAME_PAYLOAD_MAX 65536u
#define HYBUS_FRAME_FIELDS_MAX 128u
#define HYBUS_FRAME_MAX (HYBUS_FRAME_HEADER_SIZE + HYBUS_FRAME_PAYLOAD_MAX)

typedef struct hybus_frame {
    uint32_t size; /* bytes of payload */
    uint8_t type, flags;
    uint16_t code;
    uint32_t stream, value;
    const uint8_t *payload; /* a view; see hybus_frame_reader_next() */
} hybus_frame;

HYBUS_EXPORT void hybus_frame_header_encode(const hybus_frame *frame,
                                            uint8_t ret[HYBUS_FRAME_HEADER_SIZE]);
/* `payload` is left NULL. -EBADMSG: announces more payload than a frame may have. */
HYBUS_EXPORT int hybus_frame_header_decode(const uint8_t header[HYBUS_FRAME_HEADER_SIZE],
                                           hybus_frame *ret);

/* The number of bytes that the first frame in `data` takes, 0 when it is not complete, -EBADMSG
 * when its header alone breaks the format. The payload is a view of `data`. */
HYBUS_EXPORT ssize_t hybus_frame_parse(const void *data, size_t size, hybus_frame *ret);

/* --- fields --------------------------------------------------------------------------------- */

/* A view of one field; the strings are not terminated and may contain any byte. */
typedef struct hybus_frame_field {
    const char *name;
    size_t name_size;
    const char *value;
    size_t value_size;
} hybus_frame_field;

typedef struct hybus_frame_fields {
    const uint8_t *at, *end;
    unsigned n;
    bool any_name; /* whoever reads them judges the names; only an empty one is an error */
} hybus_frame_fields;

/* The fields of a frame whose payload is fields alone. */
HYBUS_EXPORT void hybus_frame_fields_init(hybus_frame_fields *f, const void *data, size_t size);
/* The fields and the body of a frame whose payload is "fields + body". -EBADMSG: `value` is more
 * than there is. `ret_body` is NULL when there is none. */
HYBUS_EXPORT int hybus_frame_split(const hybus_frame *frame, hybus_frame_fields *ret_fields,
                                   const uint8_t **ret_body, size_t *ret_size);
/* 1: one more in `ret`; 0: no more; -EBADMSG: cut off, too many, or a name that is empty or not
 * lower case. */
HYBUS_EXPORT int hybus_frame_fields_next(hybus_frame_fields *f, hybus_frame_field *ret);
HYBUS_EXPORT bool hybus_frame_field_is(const hybus_frame_field *field, const char *name);
/* The value as an allocated string. -EBADMSG: longer than `max` bytes or with a NUL byte inside. */
HYBUS_EXPORT int hybus_frame_field_string(const hybus_frame_field *field, size_t max, char **ret);
/* The same into `buffer`, which has room for `size` bytes, the NUL at the end included. */
HYBUS_EXPORT int hybus_frame_field_copy(const hybus_frame_field *field, char *buffer, size_t size);
/* A decimal number. -EBADMSG: none, or none that 64 bits can hold; -ERANGE: more than `max`. */
HYBUS_EXPORT int hybus_frame_field_number(const hybus_frame_field *field, uint64_t max,
                                          uint64_t *ret);

/* --- reading --------------------------------------------------------------------------------- */

/* Bytes from a stream socket, bounded; the buffer exists only while bytes wait in it. Starts zeroed
 * except for `max`, the most that is buffered (at least HYBUS_FRAME_MAX). */
typedef struct hybus_frame_reader {
    size_t max;
    uint8_t *buffer;
    size_t allocated, start, end;
    size_t hint; /* what reads lately brought */
} hybus_frame_reader;

HYBUS_EXPORT void hybus_frame_reader_done(hybus_frame_reader *r);
/* One recv(2). The number of bytes; 0: the peer has ended; -EAGAIN: nothing there; -ENOBUFS: full,
 * take frames out first. Ends the life of views. Descriptors sent along are closed by the kernel.
 */
HYBUS_EXPORT ssize_t hybus_frame_reader_fill(hybus_frame_reader *r, int fd);
/* The same from memory, all of it or nothing. */
HYBUS_EXPORT int hybus_frame_reader_push(hybus_frame_reader *r, const void *data, size_t size);
/* 1: a whole frame, whose payload is a view that lives until the next call with this reader; 0:
 * none is complete; -EBADMSG: the stream is broken for good. */
HYBUS_EXPORT int hybus_frame_reader_next(hybus_frame_reader *r, hybus_frame *ret);

/* --- writing --------------------------------------------------------------------------------- */

/* Frames that wait to be written, at most `max` bytes; the buffer exists only while some wait,
 * except that an empty one of up to `spare` bytes is kept. Starts zeroed except for these two. A
 * frame is written in place between begin and end:
 *
 *     hybus_frame_begin(q, CHANNEL_REFUSED, 0, 403, stream, 0);
 *     hybus_frame_put(q, ":reason", reason);
 *     r = hybus_frame_end(q);
 *
 * An error in between is remembered and returned by hybus_frame_end(), which then takes the whole
 * frame back: -ENOBUFS (queue full), -EMSGSIZE (payload, field or number of fields too large),
 * -ENOMEM. */
typedef struct hybus_frame_queue {
    size_t max, spare;
    uint8_t *buffer;
    size_t allocated, start, end;
    size_t frame;      /* offset of the frame that is being written */
    unsigned n_fields; /* of that frame */
    int error;
    bool open;
} hybus_frame_queue;

HYBUS_EXPORT void hybus_frame_queue_done(hybus_frame_queue *q);
HYBUS_EXPORT void hybus_frame_begin(hybus_frame_queue *q, uint8_t type, uint8_t flags,
                                    uint16_t code, uint32_t stream, uint32_t value);
HYBUS_EXPORT void hybus_frame_put_field(hybus_frame_queue *q, const char *name, size_t name_size,
                                        const void *value, size_t value_size);
/* For strings; a NULL value puts nothing. */
HYBUS_EXPORT void hybus_frame_put(hybus_frame_queue *q, const char *name, const char *value);
HYBUS_EXPORT void hybus_frame_put_number(hybus_frame_queue *q, const char *name, uint64_t value);
/* Ends the fields of a "fields + body" frame: sets its `value`. */
HYBUS_EXPORT void hybus_frame_put_body(hybus_frame_queue *q, const void *data, size_t size);
/* Bytes of payload that the frame has so far. */
static inline size_t hybus_frame_size(const hybus_frame_queue *q)
{
    return q->error < 0 ? 0 : q->end - q->frame - HYBUS_FRAME_HEADER_SIZE;
}
/* Other flags than it began with. */
HYBUS_EXPORT void hybus_frame_set_flags(hybus_frame_queue *q, uint8_t flags);
HYBUS_EXPORT int hybus_frame_end(hybus_frame_queue *q);
/* Takes the frame back instead of ending it. */
HYBUS_EXPORT void hybus_frame_drop(hybus_frame_queue *q);
/* A frame in one call; `payload` may be NULL when frame->size is 0. */
HYBUS_EXPORT int hybus_frame_queue_add(hybus_frame_queue *q, const hybus_frame *frame);
static inline size_t hybus_frame_queue_pending(const hybus_frame_queue *q)
{
    return q->end - q->start;
}
/* One send(2) of everything that waits. 1: nothing waits any more; 0: the socket is full, some
 * waits; <0: the connection is broken. */
HYBUS_EXPORT int hybus_frame_queue_flush(hybus_frame_queue *q, int fd);
