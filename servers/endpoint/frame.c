/* SPDX-License-Identifier: Apache-2.0 */
#include <endian.h>

#include "frame.h"

static uint16_t get16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, sizeof(v));
    return le16toh(v);
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, sizeof(v));
    return le32toh(v);
}

static void put16(uint8_t *p, uint16_t v)
{
    v = htole16(v);
    memcpy(p, &v, sizeof(v));
}

static void put32(uint8_t *p, uint32_t v)
{
    v = htole32(v);
    memcpy(p, &v, sizeof(v));
}

ssize_t frame_parse(const void *data, size_t size, frame *ret)
{
    const uint8_t *p = data;
    frame f;

    if (size < CHANNEL_HEADER_SIZE)
        return 0;
    f = (frame){
        .size = get32(p),
        .type = p[4],
        .flags = p[5],
        .code = get16(p + 6),
        .stream = get32(p + 8),
        .value = get32(p + 12),
        .payload = p + CHANNEL_HEADER_SIZE,
    };
    /* Refused by the header alone: a sender must not make us wait for what we will not take. */
    if (f.size > CHANNEL_PAYLOAD_MAX)
        return -EBADMSG;
    if (size - CHANNEL_HEADER_SIZE < f.size)
        return 0;
    *ret = f;
    return (ssize_t)(CHANNEL_HEADER_SIZE + f.size);
}

void frame_fields_whole(const frame *f, frame_fields *ret)
{
    *ret = (frame_fields){f->payload, f->payload + f->size, CHANNEL_FIELDS_MAX};
}

int frame_fields_body(const frame *f, frame_fields *ret, const uint8_t **ret_body, size_t *ret_size)
{
    if (f->value > f->size)
        return -EBADMSG;
    *ret = (frame_fields){f->payload, f->payload + f->value, CHANNEL_FIELDS_MAX};
    *ret_body = f->payload + f->value;
    *ret_size = f->size - f->value;
    return 0;
}

int frame_fields_next(frame_fields *fields, endpoint_field *ret)
{
    size_t left = (size_t)(fields->end - fields->at);
    size_t name, value;

    if (left == 0)
        return 0;
    if (left < 4 || fields->left == 0)
        return -EBADMSG;
    name = get16(fields->at);
    value = get16(fields->at + 2);
    if (name == 0 || name + value > left - 4)
        return -EBADMSG;
    *ret = (endpoint_field){
        .name = (const char *)fields->at + 4,
        .name_size = name,
        .value = (const char *)fields->at + 4 + name,
        .value_size = value,
    };
    fields->at += 4 + name + value;
    fields->left--;
    return 1;
}

int field_string(const endpoint_field *f, char *buffer, size_t size)
{
    if (f->value_size >= size || memchr(f->value, 0, f->value_size))
        return -EBADMSG;
    memcpy(buffer, f->value, f->value_size);
    buffer[f->value_size] = 0;
    return 0;
}

int field_number(const endpoint_field *f, uint64_t max, uint64_t *ret)
{
    uint64_t v = 0;

    if (f->value_size == 0 || f->value_size > 20)
        return -EBADMSG;
    for (size_t i = 0; i < f->value_size; i++) {
        unsigned digit = (unsigned)((unsigned char)f->value[i] - '0');
        if (digit > 9 || v > (UINT64_MAX - digit) / 10)
            return -EBADMSG;
        v = v * 10 + digit;
    }
    if (v > max)
        return -ERANGE;
    *ret = v;
    return 0;
}

void frame_buffer_done(frame_buffer *b)
{
    free(b->data);
    *b = (frame_buffer){.max = b->max};
}

static uint8_t *buffer_extend(frame_buffer *b, size_t n)
{
    size_t used = b->end - b->start;
    uint8_t *p;

    if (b->failed || n > b->max || used > b->max - n) {
        b->failed = true;
        return NULL;
    }
    if (b->allocated - b->end < n && b->start > 0) {
        memmove(b->data, b->data + b->start, used);
        b->start = 0;
        b->end = used;
    }
    if (b->allocated - b->end < n) {
        size_t size = b->allocated ? b->allocated : 4096;
        while (size - b->end < n)
            size *= 2;
        p = realloc(b->data, size);
        if (!p) {
            b->failed = true;
            return NULL;
        }
        b->data = p;
        b->allocated = size;
    }
    p = b->data + b->end;
    b->end += n;
    return p;
}

/* A frame is known by the distance of its header from `start`: a growing buffer may move. */
size_t frame_begin(frame_buffer *b, uint8_t type, uint32_t stream)
{
    size_t at = b->end - b->start;
    uint8_t *p = buffer_extend(b, CHANNEL_HEADER_SIZE);

    if (p) {
        memset(p, 0, CHANNEL_HEADER_SIZE);
        p[4] = type;
        put32(p + 8, stream);
    }
    return at;
}

void frame_put(frame_buffer *b, const void *data, size_t size)
{
    uint8_t *p;

    if (size == 0)
        return;
    p = buffer_extend(b, size);
    if (p)
        memcpy(p, data, size);
}

void frame_put_field(frame_buffer *b, const char *name, size_t name_size, const char *value,
                     size_t value_size)
{
    uint8_t *p;

    if (name_size > UINT16_MAX || value_size > UINT16_MAX) {
        b->failed = true;
        return;
    }
    p = buffer_extend(b, 4 + name_size + value_size);
    if (!p)
        return;
    put16(p, (uint16_t)name_size);
    put16(p + 2, (uint16_t)value_size);
    memcpy(p + 4, name, name_size);
    if (value_size > 0)
        memcpy(p + 4 + name_size, value, value_size);
}

void frame_put_string(frame_buffer *b, const char *name, const char *value)
{
    frame_put_field(b, name, strlen(name), value, strlen(value));
}

void frame_put_number(frame_buffer *b, const char *name, uint64_t value)
{
    char text[20];
    size_t i = sizeof(text);

    do
        text[--i] = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    frame_put_field(b, name, strlen(name), text + i, sizeof(text) - i);
}

size_t frame_payload(const frame_buffer *b, size_t at)
{
    return b->failed ? 0 : b->end - b->start - at - CHANNEL_HEADER_SIZE;
}

void frame_end(frame_buffer *b, size_t at, uint8_t flags, uint16_t code, uint32_t value)
{
    uint8_t *p;

    if (b->failed)
        return;
    p = b->data + b->start + at;
    put32(p, (uint32_t)frame_payload(b, at));
    p[5] = flags;
    put16(p + 6, code);
    put32(p + 12, value);
}

void frame_drop(frame_buffer *b, size_t at)
{
    if (b->end - b->start > at)
        b->end = b->start + at;
}

void frame_short(frame_buffer *b, uint8_t type, uint8_t flags, uint16_t code, uint32_t stream,
                 uint32_t value)
{
    frame_end(b, frame_begin(b, type, stream), flags, code, value);
}
