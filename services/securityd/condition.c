/* SPDX-License-Identifier: Apache-2.0 */
#include "condition.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <time.h>

#include "rule.h"
#include "subject.h"
#include "words.h"

#define DAY_MINUTES 1440u

static const char *const day_names[] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun"};

void conditions_done(Conditions *c)
{
    words_free(c->arguments);
    *c = (Conditions){0};
}

bool conditions_any(const Conditions *c)
{
    return c->has_peer || c->has_time || c->days || c->rate || c->arguments;
}

/* --- networks -------------------------------------------------------------------------------- */

/* How far apart the two ways of counting a prefix are. */
#define MAPPED_BITS 96u

static int parse_address(const char *text, uint8_t ret[16], bool *ret_is_4)
{
    static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

    *ret_is_4 = inet_pton(AF_INET, text, ret + 12) == 1;
    if (*ret_is_4)
        memcpy(ret, mapped, sizeof mapped);
    return *ret_is_4 || inet_pton(AF_INET6, text, ret) == 1 ? 0 : -EINVAL;
}

static int parse_number(const char *s, unsigned max, unsigned *ret)
{
    unsigned n = 0;

    if (!*s || strlen(s) > 9)
        return -EINVAL;
    for (; *s; s++) {
        if (!isdigit((unsigned char)*s))
            return -EINVAL;
        n = n * 10 + (unsigned)(*s - '0');
    }
    if (n > max)
        return -EINVAL;
    *ret = n;
    return 0;
}

int network_parse(const char *text, Network *ret)
{
    char copy[64], *slash;
    unsigned prefix;
    bool is_4;

    if (strlen(text) >= sizeof copy)
        return -EINVAL;
    strcpy(copy, text);
    slash = strchr(copy, '/');
    if (slash)
        *slash++ = '\0';
    *ret = (Network){0};
    if (parse_address(copy, ret->address, &is_4) < 0)
        return -EINVAL;
    prefix = is_4 ? 32 : 128;
    if (slash && parse_number(slash, prefix, &prefix) < 0)
        return -EINVAL;
    ret->prefix = (uint8_t)(is_4 ? prefix + MAPPED_BITS : prefix);
    return 0;
}

int network_parse_peer(const char *text, Network *ret)
{
    char copy[64];
    const char *end;

    if (*text == '[') {
        end = strchr(++text, ']');
        if (!end)
            return -EINVAL;
    } else {
        end = strchr(text, ':');
        if (!end || strchr(end + 1, ':')) /* IPv6 without a port */
            end = text + strlen(text);
    }
    end = text + MIN_OF((size_t)(end - text), strcspn(text, "%")); /* a scope is no part of it */
    if ((size_t)(end - text) >= sizeof copy)
        return -EINVAL;
    snprintf(copy, sizeof copy, "%.*s", (int)(end - text), text);
    return strchr(copy, '/') ? -EINVAL : network_parse(copy, ret);
}

bool network_contains(const Network *n, const Network *address)
{
    unsigned whole = n->prefix / 8, rest = n->prefix % 8;
    uint8_t mask = (uint8_t)(0xff00u >> rest);

    return memcmp(n->address, address->address, whole) == 0 &&
           (rest == 0 || !((n->address[whole] ^ address->address[whole]) & mask));
}

/* --- parsing --------------------------------------------------------------------------------- */

static int parse_clock(const char **s, uint16_t *ret)
{
    const char *p = *s;

    if (!isdigit((unsigned char)p[0]) || !isdigit((unsigned char)p[1]) || p[2] != ':' ||
        !isdigit((unsigned char)p[3]) || !isdigit((unsigned char)p[4]))
        return -EINVAL;
    *ret = (uint16_t)(((p[0] - '0') * 10 + p[1] - '0') * 60 + (p[3] - '0') * 10 + p[4] - '0');
    *s = p + 5;
    return *ret > DAY_MINUTES || p[3] > '5' ? -EINVAL : 0;
}

/* "08:00-18:00"; 24:00 is the end of the day. */
static int parse_time(const char *s, Conditions *c)
{
    if (c->has_time || parse_clock(&s, &c->from) < 0 || *s++ != '-' || parse_clock(&s, &c->to) < 0 ||
        *s || c->from == c->to || c->from == DAY_MINUTES)
        return -EINVAL;
    c->has_time = true;
    return 0;
}

static int day_of(const char *s)
{
    for (int i = 0; i < 7; i++)
        if (strncmp(s, day_names[i], 3) == 0)
            return i;
    return -EINVAL;
}

/* "mon-fri,sun" */
static int parse_days(const char *s, Conditions *c)
{
    if (c->days)
        return -EINVAL;
    for (;;) {
        int first = strlen(s) >= 3 ? day_of(s) : -EINVAL, last = first;

        if (first < 0)
            return -EINVAL;
        s += 3;
        if (*s == '-') {
            last = strlen(s) >= 4 ? day_of(s + 1) : -EINVAL;
            if (last < 0)
                return -EINVAL;
            s += 4;
        }
        for (int day = first;; day = (day + 1) % 7) {
            c->days |= (uint8_t)(1u << day);
            if (day == last)
                break;
        }
        if (*s == '\0')
            return 0;
        if (*s++ != ',')
            return -EINVAL;
    }
}

/* "10/s", "3/m", "100/h" */
static int parse_rate(const char *s, Conditions *c)
{
    const char *slash = strchr(s, '/');
    char number[16];
    unsigned n;

    if (c->rate || !slash || slash - s >= (ptrdiff_t)sizeof number || strlen(slash) != 2)
        return -EINVAL;
    snprintf(number, sizeof number, "%.*s", (int)(slash - s), s);
    if (parse_number(number, 1000000, &n) < 0 || n == 0)
        return -EINVAL;
    switch (slash[1]) {
    case 's':
        c->rate_usec = UINT64_C(1000000);
        break;
    case 'm':
        c->rate_usec = UINT64_C(60000000);
        break;
    case 'h':
        c->rate_usec = UINT64_C(3600000000);
        break;
    default:
        return -EINVAL;
    }
    c->rate = n;
    return 0;
}

/* "unit=ssh.service" */
static int parse_argument(const char *s, Conditions *c)
{
    size_t n = strcspn(s, "=");

    if (n < 1 || n > 64 || s[n] != '=' || words_count(c->arguments) >= CONDITION_ARGUMENTS_MAX)
        return -EINVAL;
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && s[i] != '_')
            return -EINVAL;
    return words_add(&c->arguments, s, strlen(s));
}

static int parse_word(const char *word, Rule *rule)
{
    Conditions *c = &rule->more;
    const char *rest;

    if (streq(word, "local"))
        rule->conditions |= CONDITION_LOCAL;
    else if (streq(word, "remote"))
        rule->conditions |= CONDITION_REMOTE;
    else if (streq(word, "encrypted"))
        rule->conditions |= CONDITION_ENCRYPTED;
    else if ((rest = startswith(word, "protocol="))) {
        if (rule->protocol || !word_is_made_of(rest, 32, "-"))
            return -EINVAL;
        rule->protocol = strdup(rest);
        return rule->protocol ? 0 : -ENOMEM;
    } else if ((rest = startswith(word, "peer="))) {
        if (c->has_peer || network_parse(rest, &c->peer) < 0)
            return -EINVAL;
        c->has_peer = true;
    } else if ((rest = startswith(word, "time=")))
        return parse_time(rest, c);
    else if ((rest = startswith(word, "days=")))
        return parse_days(rest, c);
    /* "Allowed as long as it is done seldom" has a meaning, "denied as long as it is done seldom" none. */
    else if ((rest = startswith(word, "rate=")))
        return rule->kind == RULE_GRANT ? parse_rate(rest, c) : -EINVAL;
    else if ((rest = startswith(word, "arg.")))
        return parse_argument(rest, c);
    else
        return -EINVAL;
    return 0;
}

int conditions_parse(const char *s, Rule *rule, const char **ret_bad)
{
    for (;;) {
        char word[512];
        size_t n;
        int r;

        s += strspn(s, " \t");
        n = strcspn(s, " \t");
        if (n == 0)
            return 0;
        r = n < sizeof word ? 0 : -EINVAL;
        if (r == 0) {
            memcpy(word, s, n);
            word[n] = '\0';
            r = parse_word(word, rule);
        }
        if (r == -EINVAL)
            *ret_bad = s;
        if (r < 0)
            return r;
        s += n;
    }
}

/* --- judging --------------------------------------------------------------------------------- */

static bool is_day(const Conditions *c, int weekday)
{
    return !c->days || (c->days & 1u << (weekday % 7));
}

bool conditions_in_time(const Conditions *c, uint64_t wall_usec)
{
    time_t t = (time_t)(wall_usec / 1000000u);
    unsigned minute;
    struct tm tm;
    int today;

    if (!localtime_r(&t, &tm))
        return false;
    minute = (unsigned)(tm.tm_hour * 60 + tm.tm_min);
    today = (tm.tm_wday + 6) % 7; /* from Monday */
    if (!c->has_time)
        return is_day(c, today);
    if (c->from < c->to)
        return is_day(c, today) && minute >= c->from && minute < c->to;
    return (is_day(c, today) && minute >= c->from) || (is_day(c, today + 6) && minute < c->to);
}

/* A value ends with * to match what begins like it. */
static bool value_matches(const char *wanted, const char *value)
{
    size_t n = strlen(wanted);

    if (n > 0 && wanted[n - 1] == '*')
        return strncmp(wanted, value, n - 1) == 0;
    return streq(wanted, value);
}

static bool argument_matches(const Moment *m, const char *word)
{
    size_t n = strcspn(word, "=");

    for (size_t i = 0; i < m->n_arguments; i++)
        if (strlen(m->names[i]) == n && strncmp(m->names[i], word, n) == 0)
            return m->values[i] && value_matches(word + n + 1, m->values[i]);
    return false;
}

static bool arguments_hold(const Conditions *c, const Moment *m, bool benefit)
{
    if (!m || !m->names) {
        if (m && m->wants_arguments)
            *m->wants_arguments = true;
        return benefit;
    }
    for (char **word = c->arguments; *word; word++)
        if (!argument_matches(m, *word))
            return false;
    return true;
}

static bool more_hold(const Rule *rule, const Subject *s, bool benefit)
{
    const Conditions *c = &rule->more;
    const Moment *m = s->moment;

    if (c->has_peer && (!s->remote || (s->peer ? !network_contains(&c->peer, s->peer) : !benefit)))
        return false;
    if ((c->has_time || c->days) &&
        !(m && m->wall_usec ? conditions_in_time(c, m->wall_usec) : benefit))
        return false;
    if (c->rate && !(m && m->rates && m->who &&
                     rates_left(m->rates, rule->id, m->who, c->rate, c->rate_usec, m->now_usec)))
        return false; /* only of grants */
    return !c->arguments || arguments_hold(c, m, benefit);
}

bool conditions_hold(const Rule *rule, const Subject *s)
{
    bool benefit = rule->kind != RULE_GRANT;

    if ((rule->conditions & CONDITION_LOCAL) && s->remote)
        return false;
    if ((rule->conditions & CONDITION_REMOTE) && !s->remote)
        return false;
    /* Local callers never leave the machine: for them every road is as good as encrypted. */
    if ((rule->conditions & CONDITION_ENCRYPTED) && s->remote &&
        !(s->encrypted == UNKNOWN ? benefit : s->encrypted == YES))
        return false;
    if (rule->protocol &&
        (!s->remote || !(s->protocol ? streq(rule->protocol, s->protocol) : benefit)))
        return false;
    return more_hold(rule, s, benefit);
}

/* The rarer ones only when they are the very same. */
static bool same_more(const Conditions *a, const Conditions *b)
{
    if (a->has_peer && !(b->has_peer && a->peer.prefix <= b->peer.prefix &&
                         network_contains(&a->peer, &b->peer)))
        return false;
    if (a->has_time && !(b->has_time && a->from == b->from && a->to == b->to))
        return false;
    if (a->days && (!b->days || (b->days & ~a->days)))
        return false;
    if (a->rate && !(b->rate && b->rate == a->rate && b->rate_usec == a->rate_usec))
        return false;
    for (char **word = a->arguments; word && *word; word++)
        if (!words_contain(b->arguments, *word))
            return false;
    return true;
}

bool conditions_imply(const Rule *mine, const Rule *other)
{
    if (mine->conditions & ~other->conditions)
        return false;
    if (mine->protocol && !(other->protocol && streq(mine->protocol, other->protocol)))
        return false;
    return same_more(&mine->more, &other->more);
}
