/* SPDX-License-Identifier: Apache-2.0 */

/* Syslog of other nodes, as a datagram and as a stream: whatever comes, its pieces lie within it, its fields are
 * ones that a sender may set, and cutting a stream in other places changes nothing. */

#include <assert.h>

#include "log-syslog.h"
#include "log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct frames {
    uint64_t hash;
    size_t n;
} frames;

static void inside(log_span s, const uint8_t *data, size_t size)
{
    assert(s.size == 0 || ((const uint8_t *)s.data >= data &&
                           (const uint8_t *)s.data + s.size <= data + size));
}

static void on_frame(const void *frame, size_t size, bool cut, void *userdata)
{
    static uint8_t fields[LOG_SYSLOG_FIELDS_MAX];
    const uint8_t *bytes = frame;
    frames *f = userdata;
    log_syslog s;

    assert(size > 0 && size <= LOG_SYSLOG_MAX);
    for (size_t i = 0; i < size; i++)
        f->hash = (f->hash ^ bytes[i]) * 0x100000001b3u;
    f->hash ^= size + cut;
    f->n++;
    if (log_syslog_parse(frame, size, &s) < 0)
        return;
    assert(s.priority <= 191);
    inside(s.time, frame, size);
    inside(s.hostname, frame, size);
    inside(s.identifier, frame, size);
    inside(s.procid, frame, size);
    inside(s.msgid, frame, size);
    inside(s.structured_data, frame, size);
    inside(s.message, frame, size);
    size = log_syslog_fields(&s, fields);
    assert(size <= sizeof(fields) && log_fields_check(fields, size) == 0);
}

static int feed(log_syslog_stream *s, const uint8_t *data, size_t size, size_t step, frames *f)
{
    int r = 0;

    *s = (log_syslog_stream){};
    for (size_t at = 0; at < size && r >= 0; at += step)
        r = log_syslog_stream_feed(s, data + at, MIN_OF(step, size - at), on_frame, f);
    if (r >= 0)
        log_syslog_stream_end(s, on_frame, f);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static log_syslog_stream s;
    frames one = {}, all = {}, bytes = {};
    int r;

    if (size > 0 && size <= LOG_SYSLOG_MAX)
        on_frame(data, size, false, &one);
    r = feed(&s, data, size, size ? size : 1, &all);
    assert(feed(&s, data, size, 1, &bytes) == r);
    assert(all.n == bytes.n && all.hash == bytes.hash);
    return 0;
}
