/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The codec of docs/protocols/channel.md. Parsed frames and fields are views into the caller's
 * buffer; nothing is copied and nothing is allocated while reading. */

#include <channel.h>

#include "endpoint.h"

typedef struct frame {
    uint32_t size; /* of the payload */
    uint8_t type, flags;
    uint16_t code;
    uint32_t stream, value;
    const uint8_t *payload;
} frame;

/* The number of bytes that the first frame in `data` takes, 0 when it is not complete, -EBADMSG
 * when it breaks the format. */
ssize_t frame_parse(const void *data, size_t size, frame *ret);

typedef struct frame_fields {
    const uint8_t *at, *end;
    unsigned left;
} frame_fields;

/* All of the payload, or its first `value` bytes with the body after them. -EBADMSG: no such part.
 */
void frame_fields_whole(const frame *f, frame_fields *ret);
int frame_fields_body(const frame *f, frame_fields *ret, const uint8_t **ret_body,
                      size_t *ret_size);
/* 1: *ret is the next field; 0: that was all; -EBADMSG. */
int frame_fields_next(frame_fields *fields, endpoint_field *ret);

static inline bool field_is(const endpoint_field *f, const char *name)
{
    size_t n = strlen(name);
    return f->name_size == n && memcmp(f->name, name, n) == 0;
}

/* Copies a value into `buffer` as a string. -EBADMSG: too long, or a NUL byte in it. */
int field_string(const endpoint_field *f, char *buffer, size_t size);
int field_number(const endpoint_field *f, uint64_t max, uint64_t *ret);

/* What is to be written: a growing buffer of whole frames. `failed` is set when memory or the limit
 * ran out; nothing more is added then. */
typedef struct frame_buffer {
    uint8_t *data;
    size_t start, end, allocated, max;
    bool failed;
} frame_buffer;

void frame_buffer_done(frame_buffer *b);
static inline size_t frame_buffer_size(const frame_buffer *b)
{
    return b->end - b->start;
}

/* Starts a frame; frame_end() fills in its length. What is put between the two is the payload. */
size_t frame_begin(frame_buffer *b, uint8_t type, uint32_t stream);
void frame_put(frame_buffer *b, const void *data, size_t size);
void frame_put_field(frame_buffer *b, const char *name, size_t name_size, const char *value,
                     size_t value_size);
void frame_put_string(frame_buffer *b, const char *name, const char *value);
void frame_put_number(frame_buffer *b, const char *name, uint64_t value);
/* Bytes of payload since `at` (from frame_begin). */
size_t frame_payload(const frame_buffer *b, size_t at);
void frame_end(frame_buffer *b, size_t at, uint8_t flags, uint16_t code, uint32_t value);
/* Takes an unfinished frame back. */
void frame_drop(frame_buffer *b, size_t at);
void frame_short(frame_buffer *b, uint8_t type, uint8_t flags, uint16_t code, uint32_t stream,
                 uint32_t value);
