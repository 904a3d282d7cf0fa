/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The codec of docs/protocols/channel.md: frames and fields in and out of byte buffers. Knows no
 * socket. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "channel.h"

/* Bytes start..end are used. `failed` sticks after an allocation failed; the owner looks at it
 * once, before it writes. */
struct buffer {
    uint8_t *data;
    size_t start, end, size;
    bool failed;
};

static inline size_t buffer_used(const struct buffer *b)
{
    return b->end - b->start;
}
/* Room for `size` bytes at the end, or NULL (and `failed`). */
uint8_t *buffer_reserve(struct buffer *b, size_t size);
void buffer_put(struct buffer *b, const void *data, size_t size);
void buffer_consume(struct buffer *b, size_t size);
void buffer_done(struct buffer *b);

struct frame {
    uint32_t length;
    uint8_t type, flags;
    uint16_t code;
    uint32_t stream, value;
    const uint8_t *payload;
};

struct field {
    const char *name, *value; /* not ended by NUL */
    size_t name_size, value_size;
};

/* The first frame of `data`: its size with header; 0 if it is not complete yet; -EBADMSG. */
int wire_next(const uint8_t *data, size_t size, struct frame *ret);

/* Takes one field off the front: 1, or 0 at the end, or -EBADMSG. */
int wire_next_field(const uint8_t **data, size_t *size, struct field *ret);
/* How many fields, or -EBADMSG. After it neither wire_next_field() nor wire_find() fails. */
int wire_check_fields(const uint8_t *data, size_t size);
bool wire_find(const uint8_t *data, size_t size, const char *name, struct field *ret);
/* A copy ended by NUL; NULL without memory. */
char *wire_copy(const struct field *f);

/* Begin a frame, put its payload, finish it. The offset survives growth of the buffer. */
size_t wire_begin(struct buffer *b);
void wire_put_field(struct buffer *b, const char *name, const char *value);
void wire_finish(struct buffer *b, size_t at, enum channel_type type, uint8_t flags, uint16_t code,
                 uint32_t stream, uint32_t value);
/* Bytes put since wire_begin(). */
size_t wire_payload(const struct buffer *b, size_t at);
/* A frame in one go. */
void wire_put(struct buffer *b, enum channel_type type, uint8_t flags, uint16_t code,
              uint32_t stream, uint32_t value, const void *payload, size_t size);
