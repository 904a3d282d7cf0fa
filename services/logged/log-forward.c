/* SPDX-License-Identifier: Apache-2.0 */
#include "log-forward.h"

#include <stdarg.h>
#include <syslog.h>
#include <time.h>

#include "log-format.h"
#include "log-syslog.h"

#define SD_ROOM (LOG_FORWARD_MAX / 2) /* the rest belongs to the message */

typedef struct out {
    char *at, *end;
} out;

static void put(out *o, const void *data, size_t size)
{
    size = MIN_OF(size, (size_t)(o->end - o->at));
    memcpy(o->at, data, size);
    o->at += size;
}

static void put_string(out *o, const char *s)
{
    put(o, s, strlen(s));
}

static void _printf_(2, 3) put_format(out *o, const char *format, ...)
{
    char text[128];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (n > 0)
        put(o, text, MIN_OF((size_t)n, sizeof(text) - 1));
}

/* A word of the head: printable ASCII without spaces, or "-". */
static void put_word(out *o, const void *data, size_t size, size_t max)
{
    const char *from = data;

    size = MIN_OF(size, max);
    if (size == 0)
        put_string(o, "-");
    for (size_t i = 0; i < size; i++)
        put(o, from[i] > ' ' && from[i] < 0x7f ? &from[i] : "?", 1);
    put_string(o, " ");
}

static void put_field_word(out *o, const log_record *r, uint8_t code, size_t max)
{
    log_field f;

    if (log_record_field(r, code, &f) < 0 || f.secret)
        f.size = 0;
    put_word(o, f.value, f.size, max);
}

static void put_time(out *o, uint64_t usec)
{
    time_t seconds = (time_t)(usec / 1000000u);
    char text[32];
    struct tm tm;

    gmtime_r(&seconds, &tm);
    put(o, text, strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm));
    put_format(o, ".%06uZ ", (unsigned)(usec % 1000000u));
}

static void put_host(out *o, const log_record *r, const char *host)
{
    log_field f;

    if ((log_record_field(r, HLOG_HOSTNAME, &f) == 0 || log_record_field(r, HLOG_PEER, &f) == 0) &&
        !f.secret && r->source == LOG_SOURCE_SYSLOG)
        put_word(o, f.value, f.size, 255);
    else
        put_word(o, host, strlen(host), 255);
}

static void put_program(out *o, const log_record *r)
{
    char pid[16];
    log_field f;

    if (log_record_field(r, HLOG_IDENTIFIER, &f) < 0 || f.secret || f.size == 0) {
        if (r->source == LOG_SOURCE_KERNEL)
            f = (log_field){.value = (const uint8_t *)"kernel", .size = 6};
        else if (log_record_field(r, HLOG_UNIT, &f) < 0)
            f.size = 0;
    }
    put_word(o, f.value, f.size, 48);
    if (r->pid) {
        snprintf(pid, sizeof(pid), "%u", r->pid);
        put_word(o, pid, strlen(pid), 128);
    } else
        put_field_word(o, r, HLOG_PROCID, 128);
}

/* --- structured data
 * -------------------------------------------------------------------------------- */

/* All of it or nothing. */
static void put_param(out *o, const char *name, size_t name_size, const void *value, size_t size)
{
    out at = *o;
    const char *v = value;

    if (!log_utf8_valid(value, size) || name_size + 2 * size + 8 > (size_t)(o->end - o->at))
        return;
    put_string(&at, " ");
    put(&at, name, MIN_OF(name_size, (size_t)32));
    put_string(&at, "=\"");
    for (size_t i = 0; i < size; i++) {
        if (v[i] == '"' || v[i] == '\\' || v[i] == ']')
            put_string(&at, "\\");
        put(&at, &v[i], 1);
    }
    put_string(&at, "\"");
    *o = at;
}

static void put_number(out *o, const char *name, unsigned long long n)
{
    char text[24];

    put_param(o, name, strlen(name), text, (size_t)snprintf(text, sizeof(text), "%llu", n));
}

/* In the head already, or in the node's own structured data. */
static bool told(const log_record *r, const log_field *f)
{
    static const char prefix[] = {'S', 'D', '_'};
    bool node = r->source == LOG_SOURCE_SYSLOG;

    return f->secret || f->code == HLOG_MESSAGE || f->code == HLOG_IDENTIFIER ||
           f->code == HLOG_PROCID || f->code == HLOG_MSGID || f->code == HLOG_STRUCTURED_DATA ||
           (node && f->code == HLOG_HOSTNAME) ||
           (node && f->name_size > sizeof(prefix) && memcmp(f->name, prefix, sizeof(prefix)) == 0);
}

/* What a node said, as it said it; but it cannot speak for us. */
static void put_nodes_data(out *o, const log_record *r)
{
    static const char ours[] = "[" LOG_FORWARD_SD_ID, meta[] = "[meta";
    log_field f;

    if (r->source != LOG_SOURCE_SYSLOG || log_record_field(r, HLOG_STRUCTURED_DATA, &f) < 0 ||
        f.size > (size_t)(o->end - o->at) || memmem(f.value, f.size, ours, sizeof(ours) - 1) ||
        memmem(f.value, f.size, meta, sizeof(meta) - 1))
        return;
    put(o, f.value, f.size);
}

static void put_structured_data(out *whole, const log_found *found)
{
    const log_record *r = found->record;
    out o = {.at = whole->at, .end = whole->at + SD_ROOM - 2};
    char boot[33];
    log_fields fields;
    log_field f;

    /* RFC 5424, 7.3.1: from 1 to 2^31-1 and round again. */
    put_format(&o, "[meta sequenceId=\"%llu\"]",
               (unsigned long long)((r->seq - 1) % 2147483647u) + 1);
    put_string(&o, "[" LOG_FORWARD_SD_ID);
    put_number(&o, "cursor", r->seq);
    if (found->boot) {
        for (unsigned i = 0; i < 16; i++)
            snprintf(boot + 2 * i, 3, "%02x", found->boot[i]);
        put_param(&o, "boot", 4, boot, 32);
    }
    put_param(&o, "source", 6, log_source_name(r->source), strlen(log_source_name(r->source)));
    if (r->uid != LOG_NOBODY)
        put_number(&o, "uid", r->uid);
    log_record_fields(r, &fields);
    while (log_fields_next(&fields, &f) > 0)
        if (!told(r, &f))
            put_param(&o, f.name, f.name_size, f.value, f.size);
    o.end = whole->end;
    put_string(&o, "]");
    put_nodes_data(&o, r);
    whole->at = o.at;
}

/* --- messages
 * --------------------------------------------------------------------------------------- */

/* As much as fits, and no half of a character. */
static void put_message(out *o, const log_record *r)
{
    size_t room = (size_t)(o->end - o->at);
    log_field f;

    if (log_record_field(r, HLOG_MESSAGE, &f) < 0)
        return;
    if (f.secret) {
        put_format(o, "[secret, %u bytes]", f.size);
        return;
    }
    if (f.size > room)
        for (f.size = (uint32_t)room; f.size > 0 && f.value[f.size] >> 6 == 2;)
            f.size--;
    put(o, f.value, f.size);
}

size_t log_forward_message(const log_found *found, const char *host, char to[LOG_FORWARD_MAX])
{
    const log_record *r = found->record;
    out o = {.at = to, .end = to + LOG_FORWARD_MAX};
    log_field f;

    put_format(&o, "<%u>1 ", r->priority);
    put_time(&o, r->realtime);
    put_host(&o, r, host);
    put_program(&o, r);
    if (log_record_field(r, HLOG_MSGID, &f) < 0 && found->stream == LOG_STREAM_AUDIT)
        put_word(&o, "audit", 5, 32);
    else
        put_field_word(&o, r, HLOG_MSGID, 32);
    put_structured_data(&o, found);
    put_string(&o, " ");
    put_message(&o, r);
    return (size_t)(o.at - to);
}

size_t log_forward_gap(uint64_t missed, log_clock now, const char *host, char to[LOG_FORWARD_MAX])
{
    out o = {.at = to, .end = to + LOG_FORWARD_MAX};

    put_format(&o, "<%u>1 ", LOG_DAEMON | LOG_WARNING);
    put_time(&o, now.realtime);
    put_word(&o, host, strlen(host), 255);
    put_format(&o, "h-logged %u gap [" LOG_FORWARD_SD_ID " missed=\"%llu\"] ", (unsigned)getpid(),
               (unsigned long long)missed);
    put_format(&o, "%llu records are missing here: overwritten before they could be sent",
               (unsigned long long)missed);
    return (size_t)(o.at - to);
}
