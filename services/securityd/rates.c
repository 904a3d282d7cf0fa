/* SPDX-License-Identifier: Apache-2.0 */
#include "rates.h"

#include <sys/random.h>

int rates_init(Rates *r)
{
    *r = (Rates){0};
    return getrandom(&r->seed, sizeof r->seed, 0) == sizeof r->seed ? 0 : -EIO;
}

static uint64_t key_of(const Rates *r, const char *id, const char *who)
{
    uint64_t h = 0xcbf29ce484222325u ^ r->seed;

    for (; *id; id++)
        h = (h ^ (unsigned char)*id) * 0x100000001b3u;
    h = (h ^ '\n') * 0x100000001b3u;
    for (; *who; who++)
        h = (h ^ (unsigned char)*who) * 0x100000001b3u;
    h ^= h >> 33;
    return h ? h : 1;
}

/* Its place, or a free one, or NULL. */
static const struct Rate *place_of(const Rates *r, uint64_t key, uint64_t now)
{
    const struct Rate *empty = NULL;

    for (size_t i = 0; i < RATES_MAX; i++) {
        if (r->rates[i].key == key)
            return &r->rates[i];
        if (!empty && r->rates[i].full_usec <= now)
            empty = &r->rates[i];
    }
    return empty;
}

bool rates_left(const Rates *r, const char *id, const char *who, uint32_t n, uint64_t per_usec,
                uint64_t now)
{
    uint64_t key = key_of(r, id, who), each = per_usec / n;
    const struct Rate *place = place_of(r, key, now);

    if (!place)
        return false;
    return place->key != key || place->full_usec <= now || place->full_usec - now + each <= per_usec;
}

void rates_take(Rates *r, const char *id, const char *who, uint32_t n, uint64_t per_usec,
                uint64_t now)
{
    uint64_t key = key_of(r, id, who);
    struct Rate *place = (struct Rate *)place_of(r, key, now);

    if (!place)
        return;
    if (place->key != key)
        *place = (struct Rate){.key = key};
    place->full_usec = MAX_OF(place->full_usec, now) + per_usec / n;
}
