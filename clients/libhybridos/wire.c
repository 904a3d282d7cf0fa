/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void set16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void set32(uint8_t *p, uint32_t v)
{
    set16(p, (uint16_t)v);
    set16(p + 2, (uint16_t)(v >> 16));
}

uint8_t *buffer_reserve(struct buffer *b, size_t size)
{
    if (b->failed)
        return NULL;
    if (b->size - b->end >= size)
        return b->data + b->end;
    size_t used = buffer_used(b);
    if (b->start > 0) {
        memmove(b->data, b->data + b->start, used);
        b->start = 0;
        b->end = used;
        if (b->size - used >= size)
            return b->data + used;
    }
    size_t grown = b->size ? b->size : 4096;
    while (grown - used < size)
        grown *= 2;
    uint8_t *data = realloc(b->data, grown);
    if (!data) {
        b->failed = true;
        return NULL;
    }
    b->data = data;
    b->size = grown;
    return data + used;
}

void buffer_put(struct buffer *b, const void *data, size_t size)
{
    if (size == 0)
        return;
    uint8_t *p = buffer_reserve(b, size);
    if (!p)
        return;
    memcpy(p, data, size);
    b->end += size;
}

void buffer_consume(struct buffer *b, size_t size)
{
    b->start += size;
    if (b->start < b->end)
        return;
    b->start = b->end = 0;
    /* One large burst shall not cost its memory for ever. */
    if (b->size > 1024 * 1024) {
        free(b->data);
        b->data = NULL;
        b->size = 0;
    }
}

void buffer_done(struct buffer *b)
{
    free(b->data);
    *b = (struct buffer){0};
}

int wire_next(const uint8_t *data, size_t size, struct frame *ret)
{
    if (size < CHANNEL_HEADER_SIZE)
        return 0;
    uint32_t length = get32(data);
    if (length > CHANNEL_PAYLOAD_MAX)
        return -EBADMSG;
    if (size - CHANNEL_HEADER_SIZE < length)
        return 0;
    *ret = (struct frame){
        .length = length,
        .type = data[4],
        .flags = data[5],
        .code = get16(data + 6),
        .stream = get32(data + 8),
        .value = get32(data + 12),
        .payload = data + CHANNEL_HEADER_SIZE,
    };
    return (int)(CHANNEL_HEADER_SIZE + length);
}

int wire_next_field(const uint8_t **data, size_t *size, struct field *ret)
{
    if (*size == 0)
        return 0;
    if (*size < 4)
        return -EBADMSG;
    size_t name = get16(*data), value = get16(*data + 2);
    if (name == 0 || *size - 4 < name + value)
        return -EBADMSG;
    ret->name = (const char *)*data + 4;
    ret->name_size = name;
    ret->value = ret->name + name;
    ret->value_size = value;
    *data += 4 + name + value;
    *size -= 4 + name + value;
    return 1;
}

int wire_check_fields(const uint8_t *data, size_t size)
{
    struct field f;
    unsigned n = 0;
    int r;

    while ((r = wire_next_field(&data, &size, &f)) > 0)
        if (++n > CHANNEL_FIELDS_MAX)
            return -EBADMSG;
    return r < 0 ? r : (int)n;
}

bool wire_find(const uint8_t *data, size_t size, const char *name, struct field *ret)
{
    size_t n = strlen(name);
    struct field f;

    while (wire_next_field(&data, &size, &f) > 0)
        if (f.name_size == n && memcmp(f.name, name, n) == 0) {
            *ret = f;
            return true;
        }
    return false;
}

char *wire_copy(const struct field *f)
{
    return strndup(f->value, f->value_size);
}

size_t wire_begin(struct buffer *b)
{
    /* Relative to the start, because making room moves the bytes. */
    size_t at = buffer_used(b);
    if (buffer_reserve(b, CHANNEL_HEADER_SIZE))
        b->end += CHANNEL_HEADER_SIZE;
    return at;
}

size_t wire_payload(const struct buffer *b, size_t at)
{
    return b->failed ? 0 : buffer_used(b) - at - CHANNEL_HEADER_SIZE;
}

void wire_put_field(struct buffer *b, const char *name, const char *value)
{
    size_t n = strlen(name), v = strlen(value);
    if (n > UINT16_MAX || v > UINT16_MAX) {
        b->failed = true;
        return;
    }
    uint8_t *p = buffer_reserve(b, 4 + n + v);
    if (!p)
        return;
    set16(p, (uint16_t)n);
    set16(p + 2, (uint16_t)v);
    memcpy(p + 4, name, n);
    memcpy(p + 4 + n, value, v);
    b->end += 4 + n + v;
}

void wire_finish(struct buffer *b, size_t at, enum channel_type type, uint8_t flags, uint16_t code,
                 uint32_t stream, uint32_t value)
{
    if (b->failed)
        return;
    uint8_t *p = b->data + b->start + at;
    set32(p, (uint32_t)wire_payload(b, at));
    p[4] = (uint8_t)type;
    p[5] = flags;
    set16(p + 6, code);
    set32(p + 8, stream);
    set32(p + 12, value);
}

void wire_put(struct buffer *b, enum channel_type type, uint8_t flags, uint16_t code,
              uint32_t stream, uint32_t value, const void *payload, size_t size)
{
    size_t at = wire_begin(b);
    buffer_put(b, payload, size);
    wire_finish(b, at, type, flags, code, stream, value);
}
