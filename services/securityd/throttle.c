/* SPDX-License-Identifier: Apache-2.0 */
#include "throttle.h"

#include <arpa/inet.h>

void throttle_init(Throttle *t, uint64_t cost, uint64_t burst, uint64_t all_cost,
                   uint64_t all_burst)
{
    *t = (Throttle){.cost = cost, .burst = burst, .all_cost = all_cost, .all_burst = all_burst};
}

static uint64_t hash(const void *data, size_t size)
{
    const unsigned char *bytes = data;
    uint64_t h = 0xcbf29ce484222325u;

    for (size_t i = 0; i < size; i++)
        h = (h ^ bytes[i]) * 0x100000001b3u;
    return (h ^ h >> 31) | 1;
}

uint64_t throttle_key(const char *peer)
{
    char text[INET6_ADDRSTRLEN + 32];
    unsigned char address[16] = {0};
    char *end;

    snprintf(text, sizeof text, "%s", strempty(peer));
    if (text[0] == '[' && (end = strchr(text, ']'))) {
        memmove(text, text + 1, (size_t)(end - text));
        text[end - text - 1] = '\0';
    } else if ((end = strrchr(text, ':')) && strchr(text, ':') == end)
        *end = '\0';
    if ((end = strchr(text, '%')))
        *end = '\0';
    if (inet_pton(AF_INET6, text, address) == 1) {
        static const unsigned char mapped[12] = {[10] = 0xff, [11] = 0xff};
        if (memcmp(address, mapped, sizeof mapped) == 0)
            return hash(address + sizeof mapped, 4);
        return hash(address, 8);
    }
    if (inet_pton(AF_INET, text, address) == 1)
        return hash(address, 4);
    return hash(strempty(peer), strlen(strempty(peer)));
}

static const ThrottleBucket *find(const Throttle *t, uint64_t hash)
{
    for (size_t i = 0; i < THROTTLE_PEERS; i++)
        if (t->peers[i].hash == hash)
            return &t->peers[i];
    return NULL;
}

/* The one that is forgotten soonest makes room. */
static ThrottleBucket *take(Throttle *t, uint64_t hash)
{
    ThrottleBucket *b = (ThrottleBucket *)find(t, hash);

    if (b)
        return b;
    b = &t->peers[0];
    for (size_t i = 1; i < THROTTLE_PEERS; i++)
        if (t->peers[i].empty_at < b->empty_at)
            b = &t->peers[i];
    *b = (ThrottleBucket){.hash = hash};
    return b;
}

static uint64_t over(uint64_t empty_at, uint64_t now, uint64_t burst)
{
    return empty_at > now && empty_at - now > burst ? empty_at - now - burst : 0;
}

/* Failures beyond the limit do not count: whoever waits as long as told is within it. */
static uint64_t fill(uint64_t *empty_at, uint64_t now, uint64_t cost, uint64_t burst)
{
    uint64_t filled = MAX_OF(*empty_at, now) + cost, wait = over(filled, now, burst);

    if (!wait)
        *empty_at = filled;
    return wait;
}

uint64_t throttle_failure(Throttle *t, const char *peer, uint64_t now)
{
    uint64_t own = fill(&take(t, throttle_key(peer))->empty_at, now, t->cost, t->burst);
    uint64_t all = fill(&t->all_empty_at, now, t->all_cost, t->all_burst);

    return MAX_OF(own, all);
}

uint64_t throttle_wait(const Throttle *t, const char *peer, uint64_t now)
{
    const ThrottleBucket *b = find(t, throttle_key(peer));
    uint64_t own = b ? over(b->empty_at + t->cost, now, t->burst) : 0;

    return MAX_OF(own, over(t->all_empty_at + t->all_cost, now, t->all_burst));
}
