/* SPDX-License-Identifier: Apache-2.0 */
#include "log-format.h"

#include <hybus/json.h>
#include <stdarg.h>
#include <time.h>

/* --- bytes that grow ----------------------------------------------------------------------------
 */

void log_text_done(log_text *t)
{
    free(t->data);
    *t = (log_text){};
}

static char *room(log_text *t, size_t size)
{
    size_t wanted = t->allocated ? t->allocated : 4096;
    char *data;

    if (t->failed)
        return NULL;
    while (wanted < t->size + size)
        wanted *= 2;
    if (wanted > t->allocated) {
        data = realloc(t->data, wanted);
        if (!data) {
            t->failed = true;
            return NULL;
        }
        t->data = data;
        t->allocated = wanted;
    }
    return t->data + t->size;
}

void log_text_put(log_text *t, const void *data, size_t size)
{
    char *to = room(t, size);

    if (!to || size == 0)
        return;
    memcpy(to, data, size);
    t->size += size;
}

void log_text_string(log_text *t, const char *s)
{
    log_text_put(t, s, strlen(s));
}

void log_text_printf(log_text *t, const char *format, ...)
{
    char line[512];
    va_list args;
    int n;

    va_start(args, format);
    n = vsnprintf(line, sizeof(line), format, args);
    va_end(args);
    if (n > 0)
        log_text_put(t, line, MIN_OF((size_t)n, sizeof(line) - 1));
}

/* --- escaping
 * ------------------------------------------------------------------------------------- */

/* Bytes of the character at `s`, and the character; 0: not UTF-8. */
static size_t decode(const uint8_t *s, size_t size, uint32_t *ret)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t n = s[0] < 0x80 ? 1 : s[0] >> 5 == 6 ? 2 : s[0] >> 4 == 14 ? 3 : s[0] >> 3 == 30 ? 4 : 0;
    uint32_t c;

    if (n == 0 || n > size)
        return 0;
    c = n == 1 ? s[0] : s[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if (s[i] >> 6 != 2)
            return 0;
        c = c << 6 | (s[i] & 0x3fu);
    }
    if (n > 1 && (c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)))
        return 0;
    *ret = c;
    return n;
}

bool log_utf8_valid(const void *data, size_t size)
{
    const uint8_t *s = data;
    uint32_t c;
    size_t n;

    for (; size > 0; s += n, size -= n) {
        n = decode(s, size, &c);
        if (n == 0)
            return false;
    }
    return true;
}

/* Controls, and what turns the direction of a line around or ends it. */
static bool hidden(uint32_t c)
{
    return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x200b && c <= 0x200f) ||
           (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x2069) || c == 0xfeff ||
           c == 0x61c || (c >= 0xe0000 && c <= 0xe007f);
}

static const char *html_entity(uint32_t c)
{
    return c == '&'    ? "&amp;"
           : c == '<'  ? "&lt;"
           : c == '>'  ? "&gt;"
           : c == '"'  ? "&quot;"
           : c == '\'' ? "&#39;"
                       : NULL;
}

static void put_hidden(log_text *t, uint32_t c, log_escape how)
{
    if (how == LOG_ESCAPE_TERMINAL && c == '\n')
        log_text_string(t, "\n    ");
    else if (how != LOG_ESCAPE_JSON && c == '\t')
        log_text_string(t, "\t");
    else if (c == '\n')
        log_text_string(t, "\\n");
    else if (c == '\t')
        log_text_string(t, "\\t");
    else if (c == '\r')
        log_text_string(t, "\\r");
    else if (c > 0xffff)
        log_text_printf(t, "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10),
                        0xdc00 + ((c - 0x10000) & 0x3ff));
    else
        log_text_printf(t, "\\u%04x", c);
}

void log_text_escaped(log_text *t, const void *data, size_t size, log_escape how)
{
    const uint8_t *s = data, *plain = s, *end = s + size;

    while (s < end) {
        uint32_t c = 0;
        size_t n = *s >= 0x20 && *s < 0x7f ? (c = *s, 1) : decode(s, (size_t)(end - s), &c);
        const char *entity = how == LOG_ESCAPE_HTML && n == 1 ? html_entity(c) : NULL;
        bool quote = c == '\\' || (how == LOG_ESCAPE_JSON && c == '"');

        if (n > 0 && !hidden(c) && !entity && !(n == 1 && quote && how == LOG_ESCAPE_JSON)) {
            s += n;
            continue;
        }
        log_text_put(t, plain, (size_t)(s - plain));
        if (n == 0)
            log_text_printf(t, how == LOG_ESCAPE_JSON ? "\\ufffd" : "\\x%02x", *s);
        else if (entity)
            log_text_string(t, entity);
        else if (quote)
            log_text_printf(t, "\\%c", c);
        else
            put_hidden(t, c, how);
        s += n > 0 ? n : 1;
        plain = s;
    }
    log_text_put(t, plain, (size_t)(end - plain));
}

/* --- JSON
 * ----------------------------------------------------------------------------------------- */

static void put_hex(log_text *t, const uint8_t *id)
{
    for (unsigned i = 0; i < 16; i++)
        log_text_printf(t, "%02x", id[i]);
}

/* A name may come twice; then its values are told apart by a number. */
static unsigned times_before(const log_record *r, const log_field *field)
{
    log_fields fields;
    log_field other;
    unsigned n = 0;

    log_record_fields(r, &fields);
    while (log_fields_next(&fields, &other) > 0 && other.value != field->value)
        n += other.name_size == field->name_size &&
             memcmp(other.name, field->name, field->name_size) == 0;
    return n;
}

static void json_value(log_text *t, const log_field *field, bool secrets)
{
    _cleanup_(freep) char *base64 = NULL;

    if (field->secret && !secrets)
        log_text_printf(t, "{\"secret\":%u}", field->size);
    else if (log_utf8_valid(field->value, field->size)) {
        log_text_string(t, "\"");
        log_text_escaped(t, field->value, field->size, LOG_ESCAPE_JSON);
        log_text_string(t, "\"");
    } else if (hybus_base64_encode(field->value, field->size, &base64) >= 0) {
        log_text_string(t, "{\"base64\":\"");
        log_text_string(t, base64);
        log_text_string(t, "\"}");
    } else
        t->failed = true;
}

static void json(log_text *t, const log_found *f, const log_look *look)
{
    const log_record *r = f->record;
    log_fields fields;
    log_field field;

    log_text_printf(t, "{\"cursor\":\"%llu\",\"realtime\":%llu,\"monotonic\":%llu,\"boot\":",
                    (unsigned long long)r->seq, (unsigned long long)r->realtime,
                    (unsigned long long)r->monotonic);
    if (f->boot) {
        log_text_string(t, "\"");
        put_hex(t, f->boot);
        log_text_string(t, "\"");
    } else
        log_text_string(t, "null");
    log_text_printf(t, ",\"priority\":%u,\"facility\":%u,\"source\":\"%s\"", r->priority & 7u,
                    r->priority >> 3, log_source_name(r->source));
    if (f->stream == LOG_STREAM_AUDIT)
        log_text_string(t, ",\"audit\":true");
    if (r->uid != LOG_NOBODY)
        log_text_printf(t, ",\"uid\":%u", r->uid);
    if (r->pid)
        log_text_printf(t, ",\"pid\":%u", r->pid);
    log_record_fields(r, &fields);
    while (log_fields_next(&fields, &field) > 0) {
        unsigned n = times_before(r, &field);
        log_text_printf(t, n ? ",\"%.*s.%u\":" : ",\"%.*s\":", (int)field.name_size, field.name,
                        n + 1);
        json_value(t, &field, look->secrets);
    }
    log_text_string(t, "}\n");
}

/* --- text
 * ------------------------------------------------------------------------------------------ */

typedef enum date { DATE_SHORT, DATE_ISO, DATE_LONG } date;

/* Since the boot, as the kernel's own messages have it. */
static void put_uptime(log_text *t, uint64_t usec)
{
    log_text_printf(t, "[%5llu.%06u]", (unsigned long long)(usec / 1000000u),
                    (unsigned)(usec % 1000000u));
}

static void put_time(log_text *t, uint64_t usec, date how, const log_look *look)
{
    time_t seconds = (time_t)(usec / 1000000u);
    char text[64];
    struct tm tm;
    size_t n;

    if (look->utc)
        gmtime_r(&seconds, &tm);
    else
        localtime_r(&seconds, &tm);
    if (how == DATE_SHORT)
        n = strftime(text, sizeof(text), "%b %d %H:%M:%S", &tm);
    else if (how == DATE_ISO)
        n = strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
    else
        n = strftime(text, sizeof(text), "%a %Y-%m-%d %H:%M:%S", &tm);
    log_text_put(t, text, n);
    if (look->precise)
        log_text_printf(t, ".%06u", (unsigned)(usec % 1000000u));
}

static const char *colour_of(const log_record *r, const log_look *look)
{
    static const char *const by_severity[] = {"\x1b[1;31m", "\x1b[1;31m", "\x1b[1;31m",
                                              "\x1b[1;31m", "\x1b[1;33m", "\x1b[1m",
                                              "",           "\x1b[2m"};

    return look->colours ? by_severity[log_record_severity(r)] : "";
}

static void put_text_value(log_text *t, const log_field *field, const log_look *look,
                           log_escape how)
{
    if (field->secret && !look->secrets)
        log_text_printf(t, "[secret, %u bytes]", field->size);
    else
        log_text_escaped(t, field->value, field->size, how);
}

static void put_message(log_text *t, const log_record *r, const log_look *look, log_escape how)
{
    log_field message;

    if (log_record_field(r, HLOG_MESSAGE, &message) == 0)
        put_text_value(t, &message, look, how);
}

/* Who speaks: what it calls itself, or its unit. */
static void put_speaker(log_text *t, const log_record *r, const log_look *look, log_escape how)
{
    log_field field;

    if (log_record_field(r, HLOG_HOSTNAME, &field) == 0) {
        put_text_value(t, &field, look, how);
        log_text_string(t, " ");
    }
    if (log_record_field(r, HLOG_IDENTIFIER, &field) == 0 ||
        log_record_field(r, HLOG_UNIT, &field) == 0)
        put_text_value(t, &field, look, how);
    else if (r->source == LOG_SOURCE_KERNEL)
        log_text_string(t, "kernel");
    else
        log_text_string(t, "-");
    if (r->pid)
        log_text_printf(t, "[%u]", r->pid);
}

static void short_line(log_text *t, const log_found *f, const log_look *look)
{
    const log_record *r = f->record;
    const char *colour = colour_of(r, look);

    if (look->uptime)
        put_uptime(t, r->monotonic);
    else
        put_time(t, r->realtime, look->utc || look->iso ? DATE_ISO : DATE_SHORT, look);
    log_text_string(t, " ");
    put_speaker(t, r, look, LOG_ESCAPE_LINE);
    log_text_string(t, ": ");
    log_text_string(t, colour);
    put_message(t, r, look, LOG_ESCAPE_TERMINAL);
    log_text_string(t, *colour ? "\x1b[0m\n" : "\n");
}

static void verbose(log_text *t, const log_found *f, const log_look *look)
{
    const log_record *r = f->record;
    log_look precise = *look;
    log_fields fields;
    log_field field;

    precise.precise = true;
    put_time(t, r->realtime, DATE_LONG, &precise);
    log_text_printf(t, " [cursor %llu, %s]\n    PRIORITY=%u\n    FACILITY=%u\n    SOURCE=%s\n",
                    (unsigned long long)r->seq, log_stream_name(f->stream), r->priority & 7u,
                    r->priority >> 3, log_source_name(r->source));
    log_text_printf(t, "    MONOTONIC=%llu\n    BOOT=", (unsigned long long)r->monotonic);
    if (f->boot)
        put_hex(t, f->boot);
    log_text_string(t, "\n");
    if (r->uid != LOG_NOBODY)
        log_text_printf(t, "    UID=%u\n", r->uid);
    if (r->pid)
        log_text_printf(t, "    PID=%u\n", r->pid);
    log_record_fields(r, &fields);
    while (log_fields_next(&fields, &field) > 0) {
        log_text_printf(t, "    %.*s=", (int)field.name_size, field.name);
        put_text_value(t, &field, look, LOG_ESCAPE_LINE);
        log_text_string(t, "\n");
    }
}

static void html(log_text *t, const log_found *f, const log_look *look)
{
    const log_record *r = f->record;

    log_text_printf(t, "<tr class=\"p%u\"><td>", log_record_severity(r));
    put_time(t, r->realtime, DATE_ISO, look);
    log_text_string(t, "</td><td>");
    put_speaker(t, r, look, LOG_ESCAPE_HTML);
    log_text_string(t, "</td><td>");
    put_message(t, r, look, LOG_ESCAPE_HTML);
    log_text_string(t, "</td></tr>\n");
}

/* --- for h-logread
 * ---------------------------------------------------------------------------------- */

/* The record as it is, but for secrets, which keep their length and lose their bytes. */
static void raw(log_text *t, const log_found *f, const log_look *look)
{
    log_wire wire = {.stream = f->stream};
    size_t at = t->size + sizeof(wire);
    log_fields fields;
    log_field field;

    if (f->boot)
        memcpy(wire.boot, f->boot, sizeof(wire.boot));
    log_text_put(t, &wire, sizeof(wire));
    log_text_put(t, f->record, f->record->size);
    if (t->failed || look->secrets)
        return;
    log_record_fields(f->record, &fields);
    while (log_fields_next(&fields, &field) > 0)
        if (field.secret)
            memset(t->data + at + (field.value - (const uint8_t *)f->record), '*', field.size);
}

void log_format_record(log_text *t, const log_found *f, const log_look *look)
{
    switch (look->format) {
    case LOG_FORMAT_JSON:
        json(t, f, look);
        break;
    case LOG_FORMAT_SHORT:
        short_line(t, f, look);
        break;
    case LOG_FORMAT_VERBOSE:
        verbose(t, f, look);
        break;
    case LOG_FORMAT_CAT:
        put_message(t, f->record, look, LOG_ESCAPE_TERMINAL);
        log_text_string(t, "\n");
        break;
    case LOG_FORMAT_HTML:
        html(t, f, look);
        break;
    case LOG_FORMAT_RECORD:
        raw(t, f, look);
        break;
    }
}

void log_format_gap(log_text *t, uint64_t missed, const log_look *look)
{
    log_wire wire = {.missed = (uint32_t)MIN_OF(missed, (uint64_t)UINT32_MAX)};
    log_record none = {.size = sizeof(none)};
    unsigned long long n = missed;

    if (look->format == LOG_FORMAT_JSON)
        log_text_printf(t, "{\"missed\":%llu}\n", n);
    else if (look->format == LOG_FORMAT_HTML)
        log_text_printf(t, "<tr><td colspan=\"3\">%llu records are missing here</td></tr>\n", n);
    else if (look->format == LOG_FORMAT_RECORD) {
        log_text_put(t, &wire, sizeof(wire));
        log_text_put(t, &none, sizeof(none));
    } else
        log_text_printf(t, "-- %llu records are missing here --\n", n);
}

int log_format_parse(const char *name, log_format *ret)
{
    static const struct {
        const char *name;
        log_format format;
    } names[] = {{"json", LOG_FORMAT_JSON},
                 {"short", LOG_FORMAT_SHORT},
                 {"verbose", LOG_FORMAT_VERBOSE},
                 {"cat", LOG_FORMAT_CAT},
                 {"record", LOG_FORMAT_RECORD}};

    for (size_t i = 0; i < ELEMENTS(names); i++)
        if (streq(name, names[i].name)) {
            *ret = names[i].format;
            return 0;
        }
    return -EINVAL;
}
