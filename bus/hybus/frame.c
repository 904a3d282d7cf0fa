/* SPDX-License-Identifier: Apache-2.0 */
#include "frame.h"

#include <sys/socket.h>

/* Buffers begin with this and double. */
#define BUFFER_FIRST 4096u

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static void put32(uint8_t *p, uint32_t v)
{
    put16(p, (uint16_t)v);
    put16(p + 2, (uint16_t)(v >> 16));
}

void hybus_frame_header_encode(const hybus_frame *frame, uint8_t ret[HYBUS_FRAME_HEADER_SIZE])
{
    put32(ret, frame->size);
    ret[4] = frame->type;
    ret[5] = frame->flags;
    put16(ret + 6, frame->code);
    put32(ret + 8, frame->stream);
    put32(ret + 12, frame->value);
}

int hybus_frame_header_decode(const uint8_t header[HYBUS_FRAME_HEADER_SIZE], hybus_frame *ret)
{
    uint32_t size = get32(header);

    if (size > HYBUS_FRAME_PAYLOAD_MAX)
        return -EBADMSG;
    *ret = (hybus_frame){
        .size = size,
        .type = header[4],
        .flags = header[5],
        .code = get16(header + 6),
        .stream = get32(header + 8),
        .value = get32(header + 12),
    };
    return 0;
}

ssize_t hybus_frame_parse(const void *data, size_t size, hybus_frame *ret)
{
    hybus_frame frame;
    int error;

    if (size < HYBUS_FRAME_HEADER_SIZE)
        return 0;
    error = hybus_frame_header_decode(data, &frame);
    if (error < 0)
        return error;
    if (size - HYBUS_FRAME_HEADER_SIZE < frame.size)
        return 0;
    frame.payload = (const uint8_t *)data + HYBUS_FRAME_HEADER_SIZE;
    *ret = frame;
    return (ssize_t)(HYBUS_FRAME_HEADER_SIZE + frame.size);
}

/* --- fields --------------------------------------------------------------------------------- */

void hybus_frame_fields_init(hybus_frame_fields *f, const void *data, size_t size)
{
    *f = (hybus_frame_fields){.at = data, .end = size > 0 ? (const uint8_t *)data + size : data};
}

int hybus_frame_split(const hybus_frame *frame, hybus_frame_fields *ret_fields,
                      const uint8_t **ret_body, size_t *ret_size)
{
    if (frame->value > frame->size)
        return -EBADMSG;
    hybus_frame_fields_init(ret_fields, frame->payload, frame->value);
    *ret_size = frame->size - frame->value;
    *ret_body = *ret_size > 0 ? frame->payload + frame->value : NULL;
    return 0;
}

static bool name_valid(const uint8_t *name, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (name[i] <= ' ' || name[i] >= 0x7f || (name[i] >= 'A' && name[i] <= 'Z'))
            return false;
    return true;
}

int hybus_frame_fields_next(hybus_frame_fields *f, hybus_frame_field *ret)
{
    size_t left = (size_t)(f->end - f->at), name_size, value_size;

    if (left == 0)
        return 0;
    if (left < 4 || f->n >= HYBUS_FRAME_FIELDS_MAX)
        return -EBADMSG;
    name_size = get16(f->at);
    value_size = get16(f->at + 2);
    if (name_size + value_size > left - 4 || name_size == 0 ||
        (!f->any_name && !name_valid(f->at + 4, name_size)))
        return -EBADMSG;
    *ret = (hybus_frame_field){
        .name = (const char *)f->at + 4,
        .name_size = name_size,
        .value = (const char *)f->at + 4 + name_size,
        .value_size = value_size,
    };
    f->at += 4 + name_size + value_size;
    f->n++;
    return 1;
}

bool hybus_frame_field_is(const hybus_frame_field *field, const char *name)
{
    return field->name_size == strlen(name) && memcmp(field->name, name, field->name_size) == 0;
}

int hybus_frame_field_string(const hybus_frame_field *field, size_t max, char **ret)
{
    char *s;

    if (field->value_size > max || memchr(field->value, 0, field->value_size))
        return -EBADMSG;
    s = strndup(field->value, field->value_size);
    if (!s)
        return -ENOMEM;
    *ret = s;
    return 0;
}

int hybus_frame_field_copy(const hybus_frame_field *field, char *buffer, size_t size)
{
    if (field->value_size >= size || memchr(field->value, 0, field->value_size))
        return -EBADMSG;
    memcpy(buffer, field->value, field->value_size);
    buffer[field->value_size] = 0;
    return 0;
}

int hybus_frame_field_number(const hybus_frame_field *field, uint64_t max, uint64_t *ret)
{
    uint64_t v = 0;

    if (field->value_size == 0 || field->value_size > 20)
        return -EBADMSG;
    for (size_t i = 0; i < field->value_size; i++) {
        unsigned digit = (unsigned)((unsigned char)field->value[i] - '0');
        if (digit > 9 || v > (UINT64_MAX - digit) / 10)
            return -EBADMSG;
        v = v * 10 + digit;
    }
    if (v > max)
        return -ERANGE;
    *ret = v;
    return 0;
}

/* --- buffers: reader and queue share the way they grow -----------------------------------------
 */

/* Room for `more` bytes after `*end`, by moving the content to the front or growing. */
static int reserve(uint8_t **buffer, size_t *allocated, size_t *start, size_t *end, size_t max,
                   size_t more)
{
    size_t used = *end - *start, size;
    uint8_t *b;

    if (more > max || used > max - more)
        return -ENOBUFS;
    if (*allocated - *end >= more)
        return 0;
    if (*start > 0) {
        memmove(*buffer, *buffer + *start, used);
        *start = 0;
        *end = used;
        if (*allocated - used >= more)
            return 0;
    }
    for (size = MAX_OF(*allocated, (size_t)BUFFER_FIRST); size < used + more;)
        size *= 2;
    size = MIN_OF(size, max);
    b = realloc(*buffer, size);
    if (!b)
        return -ENOMEM;
    *buffer = b;
    *allocated = size;
    return 0;
}

static void release(hybus_frame_reader *r)
{
    free(r->buffer);
    r->buffer = NULL;
    r->allocated = r->start = r->end = 0;
}

void hybus_frame_reader_done(hybus_frame_reader *r)
{
    release(r);
    r->hint = 0;
}

/* How much to ask for: what the frame at the front still lacks, or what reads lately brought. */
static size_t wanted(const hybus_frame_reader *r)
{
    size_t used = r->end - r->start, more = MAX_OF(r->hint, (size_t)BUFFER_FIRST);

    if (used >= HYBUS_FRAME_HEADER_SIZE) {
        size_t whole = HYBUS_FRAME_HEADER_SIZE + (size_t)get32(r->buffer + r->start);
        if (whole <= HYBUS_FRAME_MAX && whole > used)
            more = MAX_OF(more, whole - used);
    }
    return MIN_OF(more, r->max - used);
}

ssize_t hybus_frame_reader_fill(hybus_frame_reader *r, int fd)
{
    size_t room, more = wanted(r);
    ssize_t n;
    int error;

    if (more == 0)
        return -ENOBUFS;
    error = reserve(&r->buffer, &r->allocated, &r->start, &r->end, r->max, more);
    if (error < 0)
        return error;
    room = MIN_OF(r->allocated - r->end, r->max - (r->end - r->start));
    n = recv(fd, r->buffer + r->end, room, MSG_DONTWAIT);
    if (n < 0) {
        error = errno == EWOULDBLOCK || errno == EINTR ? -EAGAIN : -errno;
        if (r->start == r->end)
            release(r);
        return error;
    }
    r->end += (size_t)n;
    /* A busy peer gets larger reads, a quiet one small ones again. */
    if ((size_t)n == room)
        r->hint = MIN_OF(room * 2, r->max);
    else if ((size_t)n < r->hint / 4)
        r->hint /= 2;
    return n;
}

int hybus_frame_reader_push(hybus_frame_reader *r, const void *data, size_t size)
{
    int error = reserve(&r->buffer, &r->allocated, &r->start, &r->end, r->max, size);

    if (error < 0)
        return error;
    if (size > 0)
        memcpy(r->buffer + r->end, data, size);
    r->end += size;
    return 0;
}

int hybus_frame_reader_next(hybus_frame_reader *r, hybus_frame *ret)
{
    ssize_t n;

    if (r->start == r->end) {
        /* An idle connection holds no memory. */
        release(r);
        return 0;
    }
    n = hybus_frame_parse(r->buffer + r->start, r->end - r->start, ret);
    if (n <= 0)
        return (int)n;
    r->start += (size_t)n;
    return 1;
}

/* --- writing --------------------------------------------------------------------------------- */

void hybus_frame_queue_done(hybus_frame_queue *q)
{
    free(q->buffer);
    *q = (hybus_frame_queue){.max = q->max, .spare = q->spare};
}

static uint8_t *append(hybus_frame_queue *q, size_t size)
{
    size_t before = q->start;
    uint8_t *p;

    if (q->error < 0)
        return NULL;
    if (q->end - q->frame + size > HYBUS_FRAME_MAX) {
        q->error = -EMSGSIZE;
        return NULL;
    }
    q->error = reserve(&q->buffer, &q->allocated, &q->start, &q->end, q->max, size);
    if (q->error < 0)
        return NULL;
    if (before > 0 && q->start == 0)
        q->frame -= before;
    p = q->buffer + q->end;
    q->end += size;
    return p;
}

void hybus_frame_begin(hybus_frame_queue *q, uint8_t type, uint8_t flags, uint16_t code,
                       uint32_t stream, uint32_t value)
{
    hybus_frame frame = {
        .type = type, .flags = flags, .code = code, .stream = stream, .value = value};
    uint8_t *p;

    q->frame = q->end;
    q->n_fields = 0;
    q->error = 0;
    q->open = true;
    p = append(q, HYBUS_FRAME_HEADER_SIZE);
    if (p)
        hybus_frame_header_encode(&frame, p);
}

void hybus_frame_put_field(hybus_frame_queue *q, const char *name, size_t name_size,
                           const void *value, size_t value_size)
{
    uint8_t *p;

    if (q->error == 0 && (name_size > UINT16_MAX || value_size > UINT16_MAX ||
                          q->n_fields >= HYBUS_FRAME_FIELDS_MAX))
        q->error = -EMSGSIZE;
    p = append(q, 4 + name_size + value_size);
    if (!p)
        return;
    put16(p, (uint16_t)name_size);
    put16(p + 2, (uint16_t)value_size);
    memcpy(p + 4, name, name_size);
    if (value_size > 0)
        memcpy(p + 4 + name_size, value, value_size);
    q->n_fields++;
}

void hybus_frame_put(hybus_frame_queue *q, const char *name, const char *value)
{
    if (value)
        hybus_frame_put_field(q, name, strlen(name), value, strlen(value));
}

void hybus_frame_put_number(hybus_frame_queue *q, const char *name, uint64_t value)
{
    char s[20];
    size_t at = sizeof(s);

    do
        s[--at] = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    hybus_frame_put_field(q, name, strlen(name), s + at, sizeof(s) - at);
}

void hybus_frame_put_body(hybus_frame_queue *q, const void *data, size_t size)
{
    uint8_t *p;

    if (q->error == 0)
        put32(q->buffer + q->frame + 12, (uint32_t)(q->end - q->frame - HYBUS_FRAME_HEADER_SIZE));
    p = append(q, size);
    if (p && size > 0)
        memcpy(p, data, size);
}

void hybus_frame_set_flags(hybus_frame_queue *q, uint8_t flags)
{
    if (q->error == 0)
        q->buffer[q->frame + 5] = flags;
}

void hybus_frame_drop(hybus_frame_queue *q)
{
    q->open = false;
    q->end = q->frame;
}

int hybus_frame_end(hybus_frame_queue *q)
{
    if (!q->open)
        return -EINVAL;
    q->open = false;
    if (q->error < 0) {
        q->end = q->frame;
        return q->error;
    }
    put32(q->buffer + q->frame, (uint32_t)(q->end - q->frame - HYBUS_FRAME_HEADER_SIZE));
    return 0;
}

int hybus_frame_queue_add(hybus_frame_queue *q, const hybus_frame *frame)
{
    uint8_t *p;

    hybus_frame_begin(q, frame->type, frame->flags, frame->code, frame->stream, frame->value);
    p = append(q, frame->size);
    if (p && frame->size > 0)
        memcpy(p, frame->payload, frame->size);
    return hybus_frame_end(q);
}

int hybus_frame_queue_flush(hybus_frame_queue *q, int fd)
{
    ssize_t n;

    if (q->start < q->end) {
        n = send(fd, q->buffer + q->start, q->end - q->start, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0)
            return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -errno;
        q->start += (size_t)n;
    }
    if (q->start < q->end)
        return 0;
    if (q->allocated > MAX_OF(q->spare, (size_t)BUFFER_FIRST))
        hybus_frame_queue_done(q);
    q->start = q->end = 0;
    return 1;
}
