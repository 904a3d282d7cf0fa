/* SPDX-License-Identifier: Apache-2.0 */
#include "log-syslog.h"

#include <syslog.h>

#define TAG_MAX 48u /* RFC 3164 has 32; programs have longer names */
#define TIMESTAMP_MAX 40u

/* What is left to read. */
typedef struct cursor {
    const char *at, *end;
} cursor;

static size_t left(const cursor *c)
{
    return (size_t)(c->end - c->at);
}

static bool digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool printable(char c)
{
    return c > ' ' && c < 0x7f;
}

static bool skip(cursor *c, char wanted)
{
    if (c->at == c->end || *c->at != wanted)
        return false;
    c->at++;
    return true;
}

static log_span span(const char *from, const char *to)
{
    return (log_span){.data = from, .size = (size_t)(to - from)};
}

/* Up to a space or the end: printable characters, at least one, at most `max`. */
static bool word(cursor *c, size_t max, log_span *ret)
{
    const char *from = c->at;

    while (c->at < c->end && printable(*c->at))
        c->at++;
    *ret = span(from, c->at);
    return ret->size > 0 && ret->size <= max && (c->at == c->end || *c->at == ' ');
}

/* "<0>" to "<191>", no leading zeros. */
static bool priority(cursor *c, uint8_t *ret)
{
    const char *at = c->at;
    unsigned n = 0, digits = 0;

    if (at == c->end || *at++ != '<')
        return false;
    for (; at < c->end && digit(*at) && digits < 4; at++, digits++)
        n = n * 10 + (unsigned)(*at - '0');
    if (at == c->end || *at != '>' || digits == 0 || digits > 3 || n > 191 ||
        (digits > 1 && c->at[1] == '0'))
        return false;
    c->at = at + 1;
    *ret = (uint8_t)n;
    return true;
}

/* --- RFC 5424
 * ------------------------------------------------------------------------------------- */

static bool is_nil(log_span s)
{
    return s.size == 1 && *s.data == '-';
}

/* A word of the head and the space after it; "-" is nothing. */
static bool head_word(cursor *c, size_t max, log_span *ret)
{
    if (!word(c, max, ret) || !skip(c, ' '))
        return false;
    if (is_nil(*ret))
        ret->size = 0;
    return true;
}

static bool sd_name(cursor *c, log_span *ret)
{
    const char *from = c->at;

    while (c->at < c->end && printable(*c->at) && *c->at != '=' && *c->at != ']' && *c->at != '"')
        c->at++;
    *ret = span(from, c->at);
    return ret->size > 0 && ret->size <= 32;
}

static bool sd_value(cursor *c, log_span *ret)
{
    const char *from;

    if (!skip(c, '"'))
        return false;
    for (from = c->at; c->at < c->end && *c->at != '"'; c->at++)
        if (*c->at == '\\' && c->at + 1 < c->end)
            c->at++;
    *ret = span(from, c->at);
    return skip(c, '"');
}

int log_syslog_next_param(log_span sd, log_syslog_param *p)
{
    cursor c = {.at = sd.data + p->at, .end = sd.data + sd.size};

    while (c.at < c.end && (*c.at == ']' || *c.at == '[')) {
        bool begins = *c.at++ == '[';
        if (begins && !sd_name(&c, &p->id))
            return -EBADMSG;
    }
    if (c.at == c.end)
        return 0;
    if (!skip(&c, ' ') || !sd_name(&c, &p->name) || !skip(&c, '=') || !sd_value(&c, &p->value) ||
        c.at == c.end || (*c.at != ' ' && *c.at != ']'))
        return -EBADMSG;
    p->at = (size_t)(c.at - sd.data);
    return 1;
}

/* "-", or elements in brackets; leaves the cursor behind them. */
static bool structured_data(cursor *c, log_span *ret)
{
    const char *from = c->at;
    log_span name, value;

    *ret = (log_span){};
    if (skip(c, '-'))
        return true;
    while (skip(c, '[')) {
        if (!sd_name(c, &name))
            return false;
        while (skip(c, ' '))
            if (!sd_name(c, &name) || !skip(c, '=') || !sd_value(c, &value))
                return false;
        if (!skip(c, ']'))
            return false;
    }
    *ret = span(from, c->at);
    return ret->size > 0;
}

static void plain_message(cursor *c, log_syslog *s)
{
    if (left(c) >= 3 && memcmp(c->at, "\xef\xbb\xbf", 3) == 0)
        c->at += 3;
    s->message = span(c->at, c->end);
}

static bool rfc5424(cursor c, log_syslog *ret)
{
    log_syslog s = {.priority = ret->priority, .rfc5424 = true};

    if (!skip(&c, '1') || !skip(&c, ' ') || !head_word(&c, TIMESTAMP_MAX, &s.time) ||
        !head_word(&c, 255, &s.hostname) || !head_word(&c, 48, &s.identifier) ||
        !head_word(&c, 128, &s.procid) || !head_word(&c, 32, &s.msgid) ||
        !structured_data(&c, &s.structured_data) || (c.at < c.end && *c.at != ' '))
        return false;
    (void)skip(&c, ' ');
    plain_message(&c, &s);
    *ret = s;
    return true;
}

/* --- RFC 3164, and what is sent as such
 * ----------------------------------------------------------- */

/* "Oct 11 22:14:15", "Oct  1 22:14:15" */
static bool bsd_time(cursor *c, log_span *ret)
{
    static const char form[] = "Aaa 99 99:99:99", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    const char *at = c->at;

    if (left(c) < sizeof(form) - 1)
        return false;
    for (size_t i = 0; i < sizeof(form) - 1; i++)
        if (form[i] == '9' ? !digit(at[i]) && !(i == 4 && at[i] == ' ')
                           : form[i] != 'A' && form[i] != 'a' && at[i] != form[i])
            return false;
    for (size_t i = 0; i < sizeof(months) - 1; i += 3)
        if (memcmp(months + i, at, 3) == 0) {
            *ret = span(at, at + sizeof(form) - 1);
            c->at += sizeof(form) - 1;
            return true;
        }
    return false;
}

/* "2026-11-24T15:31:16.123456+01:00", which rsyslog puts there. */
static bool iso_time(cursor *c, log_span *ret)
{
    static const char form[] = "9999-99-99T99:99:99";
    cursor copy = *c;

    if (left(c) < sizeof(form) - 1)
        return false;
    for (size_t i = 0; i < sizeof(form) - 1; i++)
        if (form[i] == '9' ? !digit(c->at[i]) : c->at[i] != form[i])
            return false;
    if (!word(&copy, TIMESTAMP_MAX, ret))
        return false;
    *c = copy;
    return true;
}

static bool tag_character(char c)
{
    return printable(c) && c != '[' && c != ']' && c != ':' && c != '<' && c != '>' && c != '"';
}

/* "su: ", "sshd[123]: ", "cron: "; the cursor stays when there is none. */
static bool tag(cursor *c, log_syslog *s)
{
    cursor at = *c;
    log_span name, id = {};

    while (at.at < at.end && tag_character(*at.at))
        at.at++;
    name = span(c->at, at.at);
    if (name.size == 0 || name.size > TAG_MAX || at.at == at.end)
        return false;
    if (skip(&at, '[')) {
        const char *from = at.at;
        while (at.at < at.end && printable(*at.at) && *at.at != ']')
            at.at++;
        id = span(from, at.at);
        if (id.size > 128 || !skip(&at, ']'))
            return false;
        (void)skip(&at, ':');
    } else if (!skip(&at, ':') || (at.at < at.end && *at.at != ' '))
        return false;
    (void)skip(&at, ' ');
    s->identifier = name;
    s->procid = id;
    *c = at;
    return true;
}

static void rfc3164(cursor c, log_syslog *s)
{
    cursor behind;

    if (!bsd_time(&c, &s->time) && !iso_time(&c, &s->time)) {
        (void)tag(&c, s);
        plain_message(&c, s);
        return;
    }
    (void)skip(&c, ' ');
    /* What comes next is the host's name, unless it reads as a tag: many send none. */
    if (!tag(&c, s)) {
        behind = c;
        if (word(&behind, 255, &s->hostname) && skip(&behind, ' ')) {
            c = behind;
            (void)tag(&c, s);
        } else
            s->hostname = (log_span){};
    }
    plain_message(&c, s);
}

int log_syslog_parse(const void *data, size_t size, log_syslog *ret)
{
    cursor c = {.at = data, .end = (const char *)data + size};
    log_syslog s = {.priority = LOG_USER | LOG_NOTICE};

    /* Line ends and NULs that senders put at the end are none of the message. */
    while (c.at < c.end && (c.end[-1] == '\n' || c.end[-1] == '\r' || c.end[-1] == '\0'))
        c.end--;
    if (c.at == c.end)
        return -EBADMSG;
    if (!priority(&c, &s.priority))
        plain_message(&c, &s);
    else if (!rfc5424(c, &s))
        rfc3164(c, &s);
    *ret = s;
    return 0;
}

/* --- fields
 * ----------------------------------------------------------------------------------------- */

static uint8_t *put(uint8_t *to, const uint8_t *end, uint8_t code, log_span value)
{
    return value.size > 0 ? hlog_put(to, end, NULL, 0, code, value.data, value.size) : to;
}

static size_t put_name(char *to, size_t at, log_span from)
{
    for (size_t i = 0; i < from.size && at < HLOG_NAME_MAX; i++) {
        char c = from.data[i];
        c = c >= 'a' && c <= 'z' ? (char)(c - 'a' + 'A') : c;
        to[at++] = (c >= 'A' && c <= 'Z') || digit(c) ? c : '_';
    }
    return at;
}

/* RFC 5424, 6.3.3: a backslash before anything but these three is a backslash. */
static uint8_t *put_param(uint8_t *to, const uint8_t *end, const log_syslog_param *p)
{
    static const char prefix[] = {'S', 'D', '_'};
    static const char line[] = {'_'};
    char name[HLOG_NAME_MAX], value[LOG_SYSLOG_MAX];
    size_t size = put_name(name, 0, (log_span){prefix, sizeof(prefix)}), n = 0;

    size = put_name(name, size, p->id);
    size = put_name(name, size, (log_span){line, sizeof(line)});
    size = put_name(name, size, p->name);
    for (size_t i = 0; i < p->value.size && n < sizeof(value); i++) {
        const char *c = &p->value.data[i];
        if (*c == '\\' && i + 1 < p->value.size && strchr("\"\\]", c[1]) && c[1]) {
            i++;
            c++;
        }
        value[n++] = *c;
    }
    return hlog_put(to, end, name, size, HLOG_NAMED, value, n);
}

size_t log_syslog_fields(const log_syslog *s, uint8_t fields[LOG_SYSLOG_FIELDS_MAX])
{
    static const char time_name[] = "SENDER_TIME";
    const uint8_t *end = fields + LOG_SYSLOG_FIELDS_MAX;
    log_syslog_param p = {};
    uint8_t *to = fields, *more;

    to = put(to, end, HLOG_MESSAGE, s->message);
    to = put(to, end, HLOG_IDENTIFIER, s->identifier);
    to = put(to, end, HLOG_HOSTNAME, s->hostname);
    to = put(to, end, HLOG_PROCID, s->procid);
    to = put(to, end, HLOG_MSGID, s->msgid);
    to = put(to, end, HLOG_STRUCTURED_DATA, s->structured_data);
    if (s->time.size > 0)
        to = hlog_put(to, end, time_name, sizeof(time_name) - 1, HLOG_NAMED, s->time.data,
                      s->time.size);
    for (unsigned n = 0; to && s->structured_data.size > 0 && n < LOG_SYSLOG_PARAMS_MAX; n++) {
        if (log_syslog_next_param(s->structured_data, &p) <= 0)
            break;
        more = put_param(to, end, &p);
        to = more ? more : to;
    }
    return to ? (size_t)(to - fields) : 0;
}

/* --- frames
 * ----------------------------------------------------------------------------------------- */

static void give(log_syslog_stream *s, log_syslog_frame f, void *userdata)
{
    if (s->have > 0)
        f(s->data, s->have, s->cut, userdata);
    s->have = s->left = s->count = 0;
    s->cut = false;
    s->state = LOG_FRAME_START;
}

static void keep(log_syslog_stream *s, const uint8_t *data, size_t size)
{
    size_t fits = MIN_OF(size, sizeof(s->data) - s->have);

    memcpy(s->data + s->have, data, fits);
    s->have += fits;
    s->cut = s->cut || fits < size;
}

static const uint8_t *line_end(const uint8_t *at, const uint8_t *end)
{
    while (at < end && *at != '\n' && *at != '\0')
        at++;
    return at;
}

int log_syslog_stream_feed(log_syslog_stream *s, const void *data, size_t size, log_syslog_frame f,
                           void *userdata)
{
    const uint8_t *at = data, *end = at + size, *stop;

    while (at < end) {
        switch (s->state) {
        case LOG_FRAME_START:
            if (*at == '\n' || *at == '\0' || *at == '\r')
                at++;
            else
                s->state = *at >= '1' && *at <= '9' ? LOG_FRAME_COUNT : LOG_FRAME_LINE;
            break;
        case LOG_FRAME_COUNT:
            if (*at >= '0' && *at <= '9' && s->count <= LOG_SYSLOG_COUNT_MAX)
                s->count = s->count * 10 + (uint32_t)(*at - '0');
            else if (*at == ' ' && s->count <= LOG_SYSLOG_COUNT_MAX) {
                s->left = s->count;
                s->state = LOG_FRAME_COUNTED;
            } else
                return -EBADMSG;
            at++;
            break;
        case LOG_FRAME_COUNTED:
            stop = at + MIN_OF((size_t)(end - at), (size_t)s->left);
            keep(s, at, (size_t)(stop - at));
            s->left -= (uint32_t)(stop - at);
            at = stop;
            if (s->left == 0)
                give(s, f, userdata);
            break;
        case LOG_FRAME_LINE:
            stop = line_end(at, end);
            keep(s, at, (size_t)(stop - at));
            at = stop;
            if (at < end) {
                at++;
                give(s, f, userdata);
            }
            break;
        }
    }
    return 0;
}

void log_syslog_stream_end(log_syslog_stream *s, log_syslog_frame f, void *userdata)
{
    if (s->state == LOG_FRAME_LINE)
        give(s, f, userdata);
}
