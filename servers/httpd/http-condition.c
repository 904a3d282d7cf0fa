/* SPDX-License-Identifier: Apache-2.0 */
#include "http-condition.h"

#include <strings.h>
#include <time.h>

#define YEAR_MAX 9999

/* --- dates ------------------------------------------------------------------------------------ */

static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
static const char days[] = "SunMonTueWedThuFriSat";

/* `n` digits; leading spaces where `padded`. */
static bool take_number(http_span *s, size_t n, bool padded, int *ret)
{
    int value = 0;
    size_t i = 0;

    if (s->size < n)
        return false;
    while (padded && i + 1 < n && s->base[i] == ' ')
        i++;
    for (; i < n; i++) {
        if (s->base[i] < '0' || s->base[i] > '9')
            return false;
        value = value * 10 + (s->base[i] - '0');
    }
    s->base += n;
    s->size -= n;
    *ret = value;
    return true;
}

static bool take(http_span *s, const char *literal)
{
    size_t n = strlen(literal);

    if (s->size < n || memcmp(s->base, literal, n) != 0)
        return false;
    s->base += n;
    s->size -= n;
    return true;
}

static bool take_month(http_span *s, int *ret)
{
    if (s->size < 3)
        return false;
    for (int i = 0; i < 12; i++)
        if (memcmp(s->base, months + 3 * i, 3) == 0) {
            *ret = i;
            s->base += 3;
            s->size -= 3;
            return true;
        }
    return false;
}

static bool take_time(http_span *s, struct tm *t)
{
    return take_number(s, 2, false, &t->tm_hour) && take(s, ":") &&
           take_number(s, 2, false, &t->tm_min) && take(s, ":") &&
           take_number(s, 2, false, &t->tm_sec);
}

/* "06 Nov 1994 08:49:37 GMT", after the name of the day. */
static bool parse_today(http_span s, struct tm *t)
{
    return take_number(&s, 2, false, &t->tm_mday) && take(&s, " ") && take_month(&s, &t->tm_mon) &&
           take(&s, " ") && take_number(&s, 4, false, &t->tm_year) && take(&s, " ") &&
           take_time(&s, t) && take(&s, " GMT") && s.size == 0;
}

/* "06-Nov-94 08:49:37 GMT": a year of the last fifty or the next (RFC 9110, 5.6.7). */
static bool parse_old(http_span s, struct tm *t)
{
    time_t now = time(NULL);
    struct tm today;

    if (!take_number(&s, 2, false, &t->tm_mday) || !take(&s, "-") || !take_month(&s, &t->tm_mon) ||
        !take(&s, "-") || !take_number(&s, 2, false, &t->tm_year) || !take(&s, " ") ||
        !take_time(&s, t) || !take(&s, " GMT") || s.size != 0)
        return false;
    gmtime_r(&now, &today);
    t->tm_year += 1900 + today.tm_year / 100 * 100;
    if (t->tm_year > 1900 + today.tm_year + 50)
        t->tm_year -= 100;
    return true;
}

/* "Nov  6 08:49:37 1994", after the name of the day. */
static bool parse_asctime(http_span s, struct tm *t)
{
    return take_month(&s, &t->tm_mon) && take(&s, " ") && take_number(&s, 2, true, &t->tm_mday) &&
           take(&s, " ") && take_time(&s, t) && take(&s, " ") &&
           take_number(&s, 4, false, &t->tm_year) && s.size == 0;
}

int http_date_parse(http_span text, int64_t *ret_seconds)
{
    const char *space = text.size > 0 ? memchr(text.base, ' ', text.size) : NULL;
    struct tm t = {};
    http_span rest;

    if (!space || space - text.base < 3)
        return -EINVAL;
    rest = (http_span){space + 1, text.size - (size_t)(space + 1 - text.base)};
    if (!(space[-1] == ',' ? parse_today(rest, &t) || parse_old(rest, &t)
                           : parse_asctime(rest, &t)))
        return -EINVAL;
    if (t.tm_hour > 23 || t.tm_min > 59 || t.tm_sec > 60 || t.tm_mday < 1 || t.tm_mday > 31)
        return -EINVAL;
    t.tm_year -= 1900;
    *ret_seconds = timegm(&t);
    return 0;
}

const char *http_date_format(int64_t seconds, char buffer[HTTP_DATE_SIZE])
{
    time_t value = (time_t)seconds;
    struct tm t;

    if (!gmtime_r(&value, &t) || t.tm_year < 0 || t.tm_year + 1900 > YEAR_MAX)
        return NULL;
    snprintf(buffer, HTTP_DATE_SIZE, "%.3s, %02d %.3s %04d %02d:%02d:%02d GMT",
             days + 3 * t.tm_wday, t.tm_mday, months + 3 * t.tm_mon, t.tm_year + 1900, t.tm_hour,
             t.tm_min, t.tm_sec);
    return buffer;
}

/* --- conditions ------------------------------------------------------------------------------- */

static bool is_weak(http_span tag)
{
    return tag.size > 2 && tag.base[0] == 'W' && tag.base[1] == '/';
}

static http_span opaque(http_span tag)
{
    return is_weak(tag) ? (http_span){tag.base + 2, tag.size - 2} : tag;
}

static bool tags_match(http_span tag, const char *etag, bool strong)
{
    http_span own = {etag, strlen(etag)};

    if (strong && (is_weak(tag) || is_weak(own)))
        return false;
    tag = opaque(tag);
    own = opaque(own);
    return tag.size == own.size && memcmp(tag.base, own.base, own.size) == 0;
}

/* The next entity tag of a list; false: there is none, or it is malformed. */
static bool next_tag(http_span *list, http_span *ret)
{
    const char *at = list->base, *end = at + list->size, *quote, *close;

    while (at < end && (*at == ' ' || *at == '\t' || *at == ','))
        at++;
    quote = end - at > 2 && at[0] == 'W' && at[1] == '/' ? at + 2 : at;
    if (quote >= end || *quote != '"' ||
        !(close = memchr(quote + 1, '"', (size_t)(end - quote) - 1)))
        return false;
    *ret = (http_span){at, (size_t)(close + 1 - at)};
    *list = (http_span){close + 1, (size_t)(end - close) - 1};
    return true;
}

static bool list_matches(http_span list, const char *etag, bool strong)
{
    http_span tag;

    if (http_span_is(list, "*"))
        return true;
    while (next_tag(&list, &tag))
        if (tags_match(tag, etag, strong))
            return true;
    return false;
}

unsigned http_conditions_judge(const http_conditions *c, const http_validators *v)
{
    int64_t date;

    if (c->if_match.size > 0) {
        if (!list_matches(c->if_match, v->etag, true))
            return 412;
    } else if (c->if_unmodified_since.size > 0 && v->modified >= 0 &&
               http_date_parse(c->if_unmodified_since, &date) == 0 && v->modified > date) {
        return 412;
    }
    if (c->if_none_match.size > 0)
        return list_matches(c->if_none_match, v->etag, false) ? 304 : 0;
    if (c->if_modified_since.size > 0 && v->modified >= 0 &&
        http_date_parse(c->if_modified_since, &date) == 0 && v->modified <= date)
        return 304;
    return 0;
}

/* A date counts only when it is the very one: an older state may have come later. */
bool http_if_range_holds(http_span if_range, const http_validators *v)
{
    int64_t date;

    if (if_range.size == 0)
        return true;
    if (if_range.base[0] == '"' || is_weak(if_range))
        return tags_match(if_range, v->etag, true);
    return v->modified >= 0 && http_date_parse(if_range, &date) == 0 && date == v->modified;
}

/* --- ranges ----------------------------------------------------------------------------------- */

static bool take_position(http_span *s, uint64_t *ret)
{
    uint64_t value = 0;
    size_t n = 0;

    while (n < s->size && s->base[n] >= '0' && s->base[n] <= '9') {
        if (n >= 18)
            return false;
        value = value * 10 + (uint64_t)(s->base[n++] - '0');
    }
    s->base += n;
    s->size -= n;
    *ret = value;
    return n > 0;
}

static http_span trim_spaces(http_span s)
{
    while (s.size > 0 && (s.base[0] == ' ' || s.base[0] == '\t'))
        s.base++, s.size--;
    while (s.size > 0 && (s.base[s.size - 1] == ' ' || s.base[s.size - 1] == '\t'))
        s.size--;
    return s;
}

/* 1: a range that is there; 0: one that is not; -EINVAL. */
static int parse_range(http_span s, uint64_t size, http_range *ret)
{
    uint64_t first, last = UINT64_MAX;

    if (take(&s, "-")) {
        if (!take_position(&s, &last) || s.size > 0)
            return -EINVAL;
        if (last == 0 || size == 0)
            return 0;
        *ret = (http_range){last < size ? size - last : 0, size - 1};
        return 1;
    }
    if (!take_position(&s, &first) || !take(&s, "-") ||
        (s.size > 0 && (!take_position(&s, &last) || s.size > 0 || last < first)))
        return -EINVAL;
    if (first >= size)
        return 0;
    *ret = (http_range){first, MIN_OF(last, size - 1)};
    return 1;
}

int http_ranges_parse(http_span value, uint64_t size, http_range ret[HTTP_RANGES_MAX])
{
    uint64_t total = 0;
    bool any = false;
    int n = 0;

    if (value.size < 6 || strncasecmp(value.base, "bytes=", 6) != 0)
        return 0;
    value = (http_span){value.base + 6, value.size - 6};
    while (value.size > 0) {
        const char *comma = memchr(value.base, ',', value.size);
        http_span one = {value.base, comma ? (size_t)(comma - value.base) : value.size};
        int r;

        value.base += one.size + (comma ? 1 : 0);
        value.size -= one.size + (comma ? 1 : 0);
        one = trim_spaces(one);
        if (one.size == 0)
            continue;
        if (n >= (int)HTTP_RANGES_MAX)
            return 0;
        r = parse_range(one, size, &ret[n]);
        if (r < 0)
            return 0;
        any = true;
        if (r > 0)
            total += ret[n].last - ret[n].first + 1, n++;
    }
    if (!any)
        return 0;
    if (n == 0)
        return -ERANGE;
    return total > size ? 0 : n;
}
