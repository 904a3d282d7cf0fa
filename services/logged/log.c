/* SPDX-License-Identifier: Apache-2.0 */
#include "log.h"

#include <stdarg.h>
#include <syslog.h>

#include "log-rate.h"

#define NOTE_MAX 512u
/* A sequence that begins anew begins above all of before, as long as the clock has not gone back:
 * fewer than a million records a second were written meanwhile. */
#define SEQ_PER_SECOND 20u

struct log_book {
    log_settings settings;
    log_store *stores[LOG_STREAMS];
    uint64_t next_seq;
    log_rate rate;
    log_rate nodes; /* apart: nodes of the network must not take the places of what runs here */
    log_book_statistics statistics;
    log_book_stored stored;
    void *userdata;
};

int log_storage_parse(const char *name, log_storage *ret)
{
    if (streq(name, "persistent"))
        *ret = LOG_STORAGE_PERSISTENT;
    else if (streq(name, "volatile"))
        *ret = LOG_STORAGE_VOLATILE;
    else if (streq(name, "split"))
        *ret = LOG_STORAGE_SPLIT;
    else
        return -EINVAL;
    return 0;
}

const char *log_stream_name(log_stream s)
{
    static const char *const names[LOG_STREAMS] = {"main", "important", "audit"};

    return names[s];
}

/* --- opening -----------------------------------------------------------------------------------
 */

static int open_store(log_book *b, const log_book_options *o, log_stream stream)
{
    const log_settings *s = o->settings;
    const uint64_t sizes[LOG_STREAMS] = {s->size, s->important_size, s->audit_size};
    bool on_disk = s->storage == LOG_STORAGE_PERSISTENT ||
                   (s->storage == LOG_STORAGE_SPLIT && stream != LOG_STREAM_MAIN);
    log_store_options options = {.size = sizes[stream], .realtime = o->now.realtime};
    const char *directory = on_disk ? o->state_directory : o->runtime_directory;
    char path[PATH_MAX];

    if (stream == LOG_STREAM_IMPORTANT && s->storage != LOG_STORAGE_SPLIT)
        return 0;
    if (directory) {
        if (snprintf(path, sizeof(path), "%s/%s.hlog", directory, log_stream_name(stream)) >=
            (int)sizeof(path))
            return -ENAMETOOLONG;
        options.path = path;
    }
    memcpy(options.boot_id, o->boot_id, sizeof(options.boot_id));
    return log_store_open(&options, &b->stores[stream]);
}

static void set_rates(log_book *b, const log_settings *s)
{
    b->rate.interval = b->nodes.interval = s->rate_interval;
    b->rate.burst = s->rate_burst;
    b->nodes.burst = s->node_burst;
}

static void find_sequence(log_book *b, const log_book_options *o)
{
    const log_record *newest;
    bool anew = false;

    b->next_seq = o->seq_floor + 1;
    for (unsigned i = 0; i < LOG_STREAMS; i++) {
        newest = b->stores[i] ? log_store_newest(b->stores[i]) : NULL;
        if (newest)
            b->next_seq = MAX_OF(b->next_seq, newest->seq + 1);
        else if (i == LOG_STREAM_MAIN)
            anew = true;
    }
    if (anew)
        b->next_seq = MAX_OF(b->next_seq, (o->now.realtime / 1000000u) << SEQ_PER_SECOND);
}

int log_book_open(const log_book_options *o, log_book **ret)
{
    _cleanup_(log_book_closep) log_book *b = calloc(1, sizeof(*b));
    int r;

    if (!b)
        return -ENOMEM;
    b->settings = *o->settings;
    b->settings.storage_name = NULL;
    set_rates(b, o->settings);
    for (log_stream s = 0; s < LOG_STREAMS; s++) {
        r = open_store(b, o, s);
        if (r < 0)
            return r;
    }
    find_sequence(b, o);
    *ret = TAKE_PTR(b);
    return 0;
}

void log_book_close(log_book *b)
{
    if (!b)
        return;
    for (unsigned i = 0; i < LOG_STREAMS; i++)
        log_store_close(b->stores[i]);
    free(b);
}

/* --- taking in ---------------------------------------------------------------------------------
 */

int log_fields_check(const void *data, size_t size)
{
    log_fields fields;
    log_field field;
    int r;

    if (size > HLOG_FIELDS_MAX)
        return -EMSGSIZE;
    log_fields_init(&fields, data, size);
    while ((r = log_fields_next(&fields, &field)) > 0) {
        uint8_t code =
            field.code != HLOG_NAMED ? field.code : log_code_of(field.name, field.name_size);
        if (code == HLOG_UNIT || code == HLOG_PEER || code == HLOG_DROPPED)
            return -EPERM;
        if (field.code == HLOG_NAMED && code != HLOG_NAMED)
            return -EBADMSG; /* a well-known name has one spelling, or filters would miss it */
    }
    return r;
}

static log_store *choose(const log_book *b, const log_entry *e)
{
    if (e->stream == LOG_STREAM_AUDIT)
        return b->stores[LOG_STREAM_AUDIT];
    if (b->stores[LOG_STREAM_IMPORTANT] && (e->priority & 7u) <= LOG_WARNING)
        return b->stores[LOG_STREAM_IMPORTANT];
    return b->stores[LOG_STREAM_MAIN];
}

static size_t text_room(const char *s)
{
    return s ? 3 + strlen(s) : 0;
}

static uint64_t store(log_book *b, const log_entry *e)
{
    size_t size = text_room(e->unit) + text_room(e->peer) + e->size;
    log_store *s = choose(b, e);
    log_record *r = log_store_begin(s, (uint32_t)size);
    uint8_t *to = (uint8_t *)(r + 1), *end = to + size;
    uint64_t seq = b->next_seq++;

    r->seq = seq;
    r->realtime = e->when.realtime;
    r->monotonic = e->when.monotonic;
    r->uid = e->uid;
    r->pid = e->pid;
    r->priority = e->priority;
    r->source = (uint8_t)e->source;
    r->boot = log_store_boot(s);
    if (e->unit)
        to = hlog_put(to, end, NULL, 0, HLOG_UNIT, e->unit, strlen(e->unit));
    if (e->peer)
        to = hlog_put(to, end, NULL, 0, HLOG_PEER, e->peer, strlen(e->peer));
    if (e->size > 0)
        memcpy(to, e->fields, e->size);
    log_store_commit(s, r, (uint32_t)size);
    b->statistics.stored++;
    b->statistics.by_source[e->source]++;
    if (b->stored)
        b->stored(b, b->userdata);
    return seq;
}

int log_book_append(log_book *b, const log_entry *e, log_clock now, uint64_t *ret_seq)
{
    const char *speaker = e->speaker ? e->speaker : e->unit ? e->unit : e->peer;
    uint64_t seq;

    if (text_room(e->unit) + text_room(e->peer) + e->size > HLOG_FIELDS_MAX) {
        b->statistics.too_large++;
        return -EMSGSIZE;
    }
    /* The audit has a ring of its own, and its only sender bounds itself by subject. */
    if (e->stream != LOG_STREAM_AUDIT &&
        !log_rate_admits(e->source == LOG_SOURCE_SYSLOG ? &b->nodes : &b->rate, now.monotonic,
                         e->uid, speaker)) {
        b->statistics.rate_limited++;
        return 0;
    }
    seq = store(b, e);
    if (ret_seq)
        *ret_seq = seq;
    return 1;
}

void log_book_note(log_book *b, log_clock now, uint8_t priority, const char *unit, uint64_t dropped,
                   const char *format, ...)
{
    uint8_t fields[NOTE_MAX + 64], *to = fields, *end = fields + sizeof(fields);
    char text[NOTE_MAX], number[24];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (n < 0)
        return;
    to = hlog_put(to, end, NULL, 0, HLOG_MESSAGE, text, MIN_OF((size_t)n, sizeof(text) - 1));
    to = hlog_put(to, end, NULL, 0, HLOG_IDENTIFIER, "h-logged", 8);
    if (dropped > 0) {
        n = snprintf(number, sizeof(number), "%llu", (unsigned long long)dropped);
        to = hlog_put(to, end, NULL, 0, HLOG_DROPPED, number, (size_t)n);
    }
    store(b, &(log_entry){.when = now,
                          .uid = (uint32_t)getuid(),
                          .pid = (uint32_t)getpid(),
                          .priority = (uint8_t)(LOG_DAEMON | priority),
                          .source = LOG_SOURCE_SELF,
                          .unit = unit && *unit ? unit : NULL,
                          .fields = fields,
                          .size = (size_t)(to - fields)});
}

void log_book_tick(log_book *b, log_clock now)
{
    const log_rate_sender *s;
    uint64_t dropped;

    while ((s = log_rate_ended(&b->nodes, now.monotonic, &dropped)))
        log_book_note(b, now, LOG_WARNING, s->unit, dropped,
                      "%llu records of %s were dropped: more than %llu in %llu s",
                      (unsigned long long)dropped, s->unit, (unsigned long long)b->nodes.burst,
                      (unsigned long long)(b->nodes.interval / 1000000u));
    while ((s = log_rate_ended(&b->rate, now.monotonic, &dropped)))
        log_book_note(b, now, LOG_WARNING, s->unit, dropped,
                      "%llu records of %s (uid %u) were dropped: more than %llu in %llu s",
                      (unsigned long long)dropped, *s->unit ? s->unit : "no unit", s->uid,
                      (unsigned long long)b->rate.burst,
                      (unsigned long long)(b->rate.interval / 1000000u));
}

uint64_t log_book_due(const log_book *b)
{
    return MIN_OF(log_rate_due(&b->rate), log_rate_due(&b->nodes));
}

/* --- around it ----------------------------------------------------------------------------------
 */

void log_book_on_stored(log_book *b, log_book_stored f, void *userdata)
{
    b->stored = f;
    b->userdata = userdata;
}

log_store *log_book_store(log_book *b, log_stream s)
{
    return b->stores[s];
}

uint64_t log_book_newest(const log_book *b)
{
    return b->next_seq - 1;
}

const log_settings *log_book_settings(const log_book *b)
{
    return &b->settings;
}

int log_book_set_settings(log_book *b, const log_settings *s)
{
    bool other = s->storage != b->settings.storage || s->size != b->settings.size ||
                 s->important_size != b->settings.important_size ||
                 s->audit_size != b->settings.audit_size;

    b->settings.rate_interval = s->rate_interval;
    b->settings.rate_burst = s->rate_burst;
    b->settings.node_burst = s->node_burst;
    set_rates(b, s);
    b->settings.sync_interval = s->sync_interval;
    return other;
}

void log_book_statistics_get(const log_book *b, log_book_statistics *ret)
{
    *ret = b->statistics;
}

void log_book_count_dropped(log_book *b, uint64_t n)
{
    b->statistics.sender_dropped += n;
}
