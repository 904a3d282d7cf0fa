/* SPDX-License-Identifier: Apache-2.0 */
#include "log-query.h"

#include <fnmatch.h>
#include <syslog.h>
#include <time.h>

#define SECOND 1000000ull

void log_filter_done(log_filter *f)
{
    free(f->unit);
    free(f->identifier);
    free(f->text);
    for (size_t i = 0; i < f->n_fields; i++)
        free(f->fields[i].value);
    *f = (log_filter){};
}

/* --- what is asked for ---------------------------------------------------------------------------
 */

static int parse_number(const char *s, uint64_t max, uint64_t *ret)
{
    char *end;
    unsigned long long n;

    errno = 0;
    n = strtoull(s, &end, 10);
    if (s[0] < '0' || s[0] > '9' || *end || errno || n > max)
        return -EINVAL;
    *ret = n;
    return 0;
}

static int parse_span(const char *s, uint64_t *ret)
{
    static const struct {
        const char *name;
        uint64_t usec;
    } units[] = {
        {"us", 1},          {"ms", 1000},         {"s", SECOND},         {"min", 60 * SECOND},
        {"m", 60 * SECOND}, {"h", 3600 * SECOND}, {"d", 86400 * SECOND}, {"w", 604800 * SECOND},
        {"", SECOND},       {"sec", SECOND},      {"second", SECOND},    {"minute", 60 * SECOND},
        {"hour", 3600 * SECOND},                  {"day", 86400 * SECOND},
        {"week", 604800 * SECOND}};
    char *end, name[16];
    size_t size;
    double n;

    if (s[0] < '0' || s[0] > '9')
        return -EINVAL;
    n = strtod(s, &end);
    while (*end == ' ')
        end++;
    size = strlen(end);
    if (size >= sizeof(name))
        return -EINVAL;
    strcpy(name, end);
    if (size > 3 && name[size - 1] == 's') /* "2 hours" */
        name[size - 1] = '\0';
    for (size_t i = 0; i < ELEMENTS(units); i++)
        if (streq(name, units[i].name) && n * (double)units[i].usec < 4e18) {
            *ret = (uint64_t)(n * (double)units[i].usec);
            return 0;
        }
    return -EINVAL;
}

/* A local date; -EINVAL. */
static int parse_date(const char *s, uint64_t *ret)
{
    static const char *const formats[] = {"%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S",
                                          "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M", "%Y-%m-%d"};
    uint64_t fraction = 0, scale = SECOND / 10;

    for (size_t i = 0; i < ELEMENTS(formats); i++) {
        struct tm tm = {.tm_isdst = -1};
        const char *rest = strptime(s, formats[i], &tm);
        bool utc;
        time_t t;
        if (!rest)
            continue;
        if (*rest == '.' && i < 2)
            for (rest++; *rest >= '0' && *rest <= '9'; rest++, scale /= 10)
                fraction += (uint64_t)(*rest - '0') * scale;
        utc = *rest == 'Z';
        if (rest[utc])
            continue;
        t = utc ? timegm(&tm) : mktime(&tm);
        if (t < 0)
            return -EINVAL;
        *ret = (uint64_t)t * SECOND + fraction;
        return 0;
    }
    return -EINVAL;
}

/* "15:31" and "15:31:16", today; -EINVAL. */
static int parse_clock(const char *s, uint64_t now, uint64_t *ret)
{
    time_t t = (time_t)(now / SECOND);
    struct tm tm, clock = {};
    const char *rest = strptime(s, "%H:%M:%S", &clock) ?: strptime(s, "%H:%M", &clock);

    if (!rest || *rest)
        return -EINVAL;
    localtime_r(&t, &tm);
    tm.tm_hour = clock.tm_hour;
    tm.tm_min = clock.tm_min;
    tm.tm_sec = clock.tm_sec;
    tm.tm_isdst = -1;
    t = mktime(&tm);
    *ret = t > 0 ? (uint64_t)t * SECOND : 0;
    return 0;
}

/* "2 hours ago"; -EINVAL. */
static int parse_ago(const char *s, uint64_t *ret)
{
    static const char ago[] = " ago";
    size_t size = strlen(s), tail = sizeof(ago) - 1;
    char span[32];

    if (size <= tail || size - tail >= sizeof(span) || !streq(s + size - tail, ago))
        return -EINVAL;
    snprintf(span, sizeof(span), "%.*s", (int)(size - tail), s);
    return parse_span(span, ret);
}

int log_time_parse(const char *s, uint64_t now, uint64_t *ret)
{
    uint64_t span;
    time_t t;
    struct tm tm;

    if (streq(s, "now"))
        span = 0;
    else if (streq(s, "today") || streq(s, "yesterday")) {
        t = (time_t)(now / SECOND);
        localtime_r(&t, &tm);
        tm.tm_mday -= *s == 'y';
        tm.tm_hour = tm.tm_min = tm.tm_sec = 0;
        tm.tm_isdst = -1;
        t = mktime(&tm);
        *ret = t > 0 ? (uint64_t)t * SECOND : 0;
        return 0;
    } else if (s[0] == '-') {
        if (parse_span(s + 1, &span) < 0)
            return -EINVAL;
    } else if (parse_ago(s, &span) == 0)
        ;
    else if (parse_date(s, ret) == 0 || parse_clock(s, now, ret) == 0)
        return 0;
    else
        return parse_span(s[0] == '@' ? s + 1 : s, ret);
    *ret = now > span ? now - span : 0;
    return 0;
}

static int parse_severity(const char *s, uint8_t *ret)
{
    static const char *const names[][2] = {{"emerg", "panic"}, {"alert", ""},       {"crit", ""},
                                           {"err", "error"},   {"warning", "warn"}, {"notice", ""},
                                           {"info", ""},       {"debug", ""}};

    for (uint8_t i = 0; i < ELEMENTS(names); i++)
        if (streq(s, names[i][0]) || (*names[i][1] && streq(s, names[i][1])) ||
            (s[0] == '0' + i && !s[1])) {
            *ret = i;
            return 0;
        }
    return -EINVAL;
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static int parse_boot(const char *s, uint8_t ret[16])
{
    uint8_t id[16];

    if (strlen(s) != 32)
        return -EINVAL;
    for (unsigned i = 0; i < 16; i++) {
        if (hex(s[2 * i]) < 0 || hex(s[2 * i + 1]) < 0)
            return -EINVAL;
        id[i] = (uint8_t)(hex(s[2 * i]) << 4 | hex(s[2 * i + 1]));
    }
    memcpy(ret, id, sizeof(id));
    return 0;
}

static int set_text(char **to, const char *value)
{
    char *copy;

    if (strlen(value) > LOG_FILTER_TEXT_MAX)
        return -E2BIG;
    copy = strdup(value);
    if (!copy)
        return -ENOMEM;
    free(*to);
    *to = copy;
    return 0;
}

static int add_field(log_filter *f, const char *value)
{
    const char *equal = strchr(value, '=');
    log_filter_field *field;
    int r;

    if (f->n_fields == LOG_FILTER_FIELDS_MAX)
        return -E2BIG;
    if (!equal || !log_field_name_valid(value, (size_t)(equal - value)))
        return -EINVAL;
    field = &f->fields[f->n_fields];
    memcpy(field->name, value, (size_t)(equal - value));
    field->name[equal - value] = '\0';
    r = set_text(&field->value, equal + 1);
    if (r >= 0)
        f->n_fields++;
    return r;
}

static int parse_flag(const char *s, bool *ret)
{
    if (!*s || streq(s, "1") || streq(s, "true") || streq(s, "yes"))
        *ret = true;
    else if (streq(s, "0") || streq(s, "false") || streq(s, "no"))
        *ret = false;
    else
        return -EINVAL;
    return 0;
}

int log_filter_set(log_filter *f, const char *name, const char *value, uint64_t now)
{
    uint64_t n;
    int r;

    if (streq(name, "unit")) {
        f->unit_is_pattern = strpbrk(value, "*?[\\ ") != NULL;
        f->unit_is_whole = strchr(value, '.') != NULL;
        f->unit_size = strlen(value);
        return set_text(&f->unit, value);
    }
    if (streq(name, "identifier"))
        return set_text(&f->identifier, value);
    if (streq(name, "text"))
        return set_text(&f->text, value);
    if (streq(name, "field"))
        return add_field(f, value);
    if (streq(name, "since"))
        return log_time_parse(value, now, &f->since);
    if (streq(name, "until"))
        return log_time_parse(value, now, &f->until);
    if (streq(name, "cursor") || streq(name, "after"))
        return parse_number(value, UINT64_MAX - 1, &f->after);
    if (streq(name, "before"))
        return parse_number(value, UINT64_MAX - 1, &f->before);
    if (streq(name, "limit"))
        return parse_number(value, UINT64_MAX - 1, &f->limit);
    if (streq(name, "boot"))
        return parse_boot(value, f->boot);
    if (streq(name, "reverse"))
        return parse_flag(value, &f->backwards);
    if (streq(name, "audit"))
        return parse_flag(value, &f->audit);
    if (streq(name, "source")) {
        log_source source = log_source_of(value);
        f->source = source < LOG_SOURCE_END ? (uint8_t)source : f->source;
        return source < LOG_SOURCE_END ? 0 : -EINVAL;
    }
    if (streq(name, "priority")) {
        r = parse_severity(value, &f->severity);
        f->has_severity = f->has_severity || r >= 0;
        return r;
    }
    if (streq(name, "uid")) {
        r = parse_number(value, UINT32_MAX, &n);
        if (r >= 0) {
            f->uid = (uint32_t)n;
            f->has_uid = true;
        }
        return r;
    }
    return -ENOENT;
}

/* --- matching ------------------------------------------------------------------------------------
 */

/* "httpd" is httpd.service and h-httpd.service, too. */
static bool unit_is(const log_filter *f, const log_field *field)
{
    static const char suffix[] = ".service";
    size_t after = f->unit_is_whole || field->size == f->unit_size ? 0 : sizeof(suffix) - 1;
    size_t before = after > 0 && field->size == f->unit_size + after + 2 ? 2 : 0;

    return field->size == before + f->unit_size + after &&
           memcmp(field->value + before, f->unit, f->unit_size) == 0 &&
           memcmp(field->value, "h-", before) == 0 &&
           memcmp(field->value + before + f->unit_size, suffix, after) == 0;
}

static bool one_unit_matches(const char *wanted, const char *unit)
{
    char full[LOG_FILTER_TEXT_MAX + 16];

    if (fnmatch(wanted, unit, 0) == 0)
        return true;
    if (strchr(wanted, '.'))
        return false;
    snprintf(full, sizeof(full), "%s.service", wanted);
    if (fnmatch(full, unit, 0) == 0)
        return true;
    snprintf(full, sizeof(full), "h-%s.service", wanted);
    return fnmatch(full, unit, 0) == 0;
}

static bool unit_matches(const log_filter *f, const log_field *field)
{
    char unit[256], list[LOG_FILTER_TEXT_MAX + 1], *rest = list, *one;

    if (!f->unit_is_pattern)
        return unit_is(f, field);
    if (field->size >= sizeof(unit))
        return false;
    memcpy(unit, field->value, field->size);
    unit[field->size] = '\0';
    snprintf(list, sizeof(list), "%s", f->unit);
    while ((one = strsep(&rest, " ")))
        if (*one && one_unit_matches(one, unit))
            return true;
    return false;
}

static bool value_is(const log_field *field, const char *value)
{
    return field->size == strlen(value) && memcmp(field->value, value, field->size) == 0;
}

static uint8_t lower(uint8_t c)
{
    return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

static bool contains(const log_field *field, const char *text)
{
    size_t size = strlen(text);

    for (size_t i = 0; size <= field->size && i <= field->size - size; i++) {
        size_t k = 0;
        while (k < size && lower(field->value[i + k]) == lower((uint8_t)text[k]))
            k++;
        if (k == size)
            return true;
    }
    return false;
}

/* A secret must not be found out by asking for it again and again. */
static bool fields_match(const log_filter *f, const log_record *r)
{
    bool unit = !f->unit, identifier = !f->identifier, text = !f->text;
    uint32_t wanted = (1u << f->n_fields) - 1u, found = 0;
    log_fields fields;
    log_field field;

    if (unit && identifier && text && wanted == 0)
        return true;
    log_record_fields(r, &fields);
    while (log_fields_next(&fields, &field) > 0) {
        if (field.secret)
            continue;
        if (!unit && field.code == HLOG_UNIT) {
            unit = unit_matches(f, &field);
            if (!unit) /* it has one, and it stands before the others */
                return false;
        } else if (!identifier && field.code == HLOG_IDENTIFIER)
            identifier = value_is(&field, f->identifier);
        else if (!text && field.code == HLOG_MESSAGE)
            text = contains(&field, f->text);
        for (size_t i = 0; i < f->n_fields; i++)
            if (strlen(f->fields[i].name) == field.name_size &&
                memcmp(f->fields[i].name, field.name, field.name_size) == 0 &&
                value_is(&field, f->fields[i].value))
                found |= 1u << i;
    }
    return unit && identifier && text && found == wanted;
}

bool log_filter_matches(const log_filter *f, const log_record *r, const log_file_head *head)
{
    static const uint8_t any[16];

    if (r->realtime < f->since || (f->until && r->realtime > f->until))
        return false;
    if (f->has_severity && log_record_severity(r) > f->severity)
        return false;
    if ((f->has_uid && r->uid != f->uid) || (f->source && r->source != f->source))
        return false;
    if (memcmp(f->boot, any, sizeof(any)) != 0) {
        const uint8_t *boot = log_file_boot_id(head, r->boot);
        if (!boot || memcmp(boot, f->boot, sizeof(f->boot)) != 0)
            return false;
    }
    return fields_match(f, r);
}

/* --- walking -------------------------------------------------------------------------------------
 */

static bool wanted_stream(const log_walk *w, log_stream s)
{
    return (w->filter->both || (s == LOG_STREAM_AUDIT) == w->filter->audit) &&
           log_book_store(w->book, s);
}

void log_walk_start(log_walk *w, log_book *b, const log_filter *f)
{
    *w = (log_walk){.book = b, .filter = f};
}

void log_walk_to_end(log_walk *w)
{
    for (log_stream s = 0; s < LOG_STREAMS; s++) {
        log_store *store = log_book_store(w->book, s);
        const log_record *newest = store ? log_store_newest(store) : NULL;
        w->streams[s].place = store ? log_store_place(store, newest) : (log_place){};
        w->streams[s].seq = newest ? newest->seq : log_book_newest(w->book);
        w->streams[s].ordinal = newest ? newest->ordinal : 0;
    }
    w->looked_up = false;
}

/* The record after the place of the walk in one stream. */
static const log_record *forward(log_walk *w, log_stream s)
{
    log_store *store = log_book_store(w->book, s);
    const log_record *last = log_store_at(store, w->streams[s].place);

    if (last)
        return log_store_next(store, last);
    if (w->streams[s].seq > 0) /* overwritten meanwhile, or nothing was there */
        return log_store_after(store, w->streams[s].seq);
    return w->filter->after ? log_store_after(store, w->filter->after) : log_store_oldest(store);
}

static const log_record *backward(log_walk *w, log_stream s)
{
    log_store *store = log_book_store(w->book, s);
    const log_record *last = log_store_at(store, w->streams[s].place), *r;

    if (last)
        return log_store_previous(store, last);
    if (w->streams[s].seq > 0)
        return NULL; /* overwritten meanwhile: so is all that is older */
    r = log_store_newest(store);
    while (r && w->filter->before && r->seq >= w->filter->before)
        r = log_store_previous(store, r);
    return r;
}

bool log_walk_complete(const log_walk *w)
{
    return w->filter->limit > 0 && w->given >= w->filter->limit;
}

static void look_up(log_walk *w, log_stream s)
{
    w->streams[s].next = NULL;
    if (wanted_stream(w, s))
        w->streams[s].next = w->filter->backwards ? backward(w, s) : forward(w, s);
}

/* After the record that was given last, which is still there. */
static void look_on(log_walk *w, log_stream s, const log_record *last)
{
    log_store *store = log_book_store(w->book, s);

    w->streams[s].next = w->filter->backwards ? log_store_previous(store, last)
                                              : log_store_next_of_intact(store, last);
}

/* The next record of all streams, whatever it says. */
static const log_record *step(log_walk *w, log_stream *ret)
{
    bool backwards = w->filter->backwards;
    const log_record *best = NULL;

    if (!w->looked_up || w->as_of != log_book_newest(w->book))
        for (log_stream s = 0; s < LOG_STREAMS; s++)
            look_up(w, s);
    w->looked_up = true;
    w->as_of = log_book_newest(w->book);
    for (log_stream s = 0; s < LOG_STREAMS; s++) {
        const log_record *r = w->streams[s].next;
        if (r && (!best || (backwards ? r->seq > best->seq : r->seq < best->seq))) {
            best = r;
            *ret = s;
        }
    }
    if (best) {
        if (!backwards && w->streams[*ret].place.seq > 0)
            w->missed += best->ordinal - w->streams[*ret].ordinal - 1;
        w->streams[*ret].place = log_store_place(log_book_store(w->book, *ret), best);
        w->streams[*ret].seq = best->seq;
        w->streams[*ret].ordinal = best->ordinal;
        look_on(w, *ret, best);
    }
    return best;
}

/* Others have run since: the disk may have failed under what was found then. */
static void check_again(log_walk *w)
{
    for (log_stream s = 0; w->looked_up && s < LOG_STREAMS; s++) {
        log_store *store = log_book_store(w->book, s);
        const log_record *r = w->streams[s].next;

        if (r && log_store_at(store, log_store_place(store, r)) != r)
            w->looked_up = false;
    }
}

int log_walk_next(log_walk *w, uint64_t *budget, log_found *ret)
{
    const log_filter *f = w->filter;
    const log_file_head *head;
    const log_record *r;
    log_stream s;

    if (log_walk_complete(w))
        return 0;
    check_again(w);
    while ((r = step(w, &s))) {
        head = log_store_head(log_book_store(w->book, s));
        if (f->backwards ? (f->after && r->seq <= f->after) : (f->before && r->seq >= f->before))
            return 0;
        if (log_filter_matches(f, r, head)) {
            *ret = (log_found){.record = r, .boot = log_file_boot_id(head, r->boot), .stream = s};
            w->given++;
            return 1;
        }
        if (*budget == 0)
            return -EAGAIN;
        --*budget;
    }
    return 0;
}
