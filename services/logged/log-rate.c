/* SPDX-License-Identifier: Apache-2.0 */
#include "log-rate.h"

#define PROBES 8u

static uint64_t key_of(uint32_t uid, const char *unit)
{
    uint64_t h = 0xcbf29ce484222325u ^ uid;

    for (; unit && *unit; unit++)
        h = (h ^ (unsigned char)*unit) * 0x100000001b3u;
    h ^= h >> 29;
    return h ? h : 1;
}

static bool over(const log_rate *r, const log_rate_sender *s, uint64_t now)
{
    return now - s->since >= r->interval;
}

static log_rate_sender *find(log_rate *r, uint64_t now, uint64_t key)
{
    log_rate_sender *free_one = NULL;

    for (unsigned i = 0; i < PROBES; i++) {
        log_rate_sender *s = &r->senders[(key + i) % LOG_RATE_SENDERS];
        if (s->key == key)
            return s;
        if (!free_one && (s->key == 0 || (over(r, s, now) && s->dropped == 0)))
            free_one = s;
    }
    if (!free_one)
        return &r->senders[LOG_RATE_SENDERS];
    free_one->key = 0;
    return free_one;
}

bool log_rate_admits(log_rate *r, uint64_t now, uint32_t uid, const char *unit)
{
    uint64_t key;
    log_rate_sender *s;

    if (r->burst == 0)
        return true;
    key = key_of(uid, unit);
    s = find(r, now, key);
    if (s->key == 0) {
        *s = (log_rate_sender){.key = key, .since = now, .uid = uid};
        if (s == &r->senders[LOG_RATE_SENDERS])
            unit = "(many)";
        snprintf(s->unit, sizeof(s->unit), "%s", strempty(unit));
    }
    /* What was dropped in an interval is told before the next one starts, by log_rate_ended(). */
    if (over(r, s, now) && s->dropped == 0) {
        s->since = now;
        s->n = 0;
    }
    if (s->n < r->burst || over(r, s, now)) {
        s->n++;
        return true;
    }
    if (s->dropped++ == 0)
        r->n_dropping++;
    return false;
}

const log_rate_sender *log_rate_ended(log_rate *r, uint64_t now, uint64_t *ret_dropped)
{
    for (unsigned i = 0; r->n_dropping > 0 && i <= LOG_RATE_SENDERS; i++) {
        log_rate_sender *s = &r->senders[i];
        if (s->dropped == 0 || !over(r, s, now))
            continue;
        *ret_dropped = s->dropped;
        s->dropped = s->n = 0;
        s->since = now;
        r->n_dropping--;
        return s;
    }
    return NULL;
}

uint64_t log_rate_due(const log_rate *r)
{
    uint64_t first = UINT64_MAX;

    for (unsigned i = 0; r->n_dropping > 0 && i <= LOG_RATE_SENDERS; i++)
        if (r->senders[i].dropped > 0)
            first = MIN_OF(first, r->senders[i].since + r->interval);
    return first;
}
