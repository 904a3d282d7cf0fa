/* SPDX-License-Identifier: Apache-2.0 */
#include "session.h"

#include <openssl/crypto.h>

static void session_done(Session *s)
{
    free(s->user);
    free(s->protocol);
    free(s->peer);
    explicit_bzero(s, sizeof *s);
}

void sessions_done(Sessions *s)
{
    for (size_t i = 0; i < s->n; i++)
        session_done(&s->list[i]);
    free(s->list);
    *s = (Sessions){0};
}

int sessions_make_room(Sessions *s, const char *user, Session **ret_victim)
{
    Session *oldest = NULL;
    size_t n = 0;

    for (size_t i = 0; i < s->n; i++) {
        Session *one = &s->list[i];

        if (!streq(one->user, user))
            continue;
        n++;
        if (!oldest || one->used < oldest->used)
            oldest = one;
    }
    if (n < SESSIONS_OF_USER_MAX && s->n < SESSIONS_MAX)
        oldest = NULL;
    else if (!oldest)
        return -ENOBUFS;
    *ret_victim = oldest;
    return 0;
}

int sessions_add(Sessions *s, const Session *new, Session **ret)
{
    Session *larger = reallocarray(s->list, s->n + 1, sizeof *larger), *one;

    if (!larger)
        return -ENOMEM;
    s->list = larger;
    one = &s->list[s->n];
    *one = *new;
    one->id = s->last_id + 1;
    one->user = strdup(new->user);
    one->protocol = strdup(strempty(new->protocol));
    one->peer = strdup(strempty(new->peer));
    if (!one->user || !one->protocol || !one->peer) {
        session_done(one);
        return -ENOMEM;
    }
    s->n++;
    s->last_id++;
    *ret = one;
    return 0;
}

void sessions_remove(Sessions *s, Session *session)
{
    session_done(session);
    s->n--;
    memmove(session, session + 1, (size_t)(s->list + s->n - session) * sizeof *session);
}

Session *sessions_find(Sessions *s, uint64_t id)
{
    for (size_t i = 0; i < s->n; i++)
        if (s->list[i].id == id)
            return &s->list[i];
    return NULL;
}

Session *sessions_match(Sessions *s, const uint8_t hash[SHA256_SIZE])
{
    Session *match = NULL;

    for (size_t i = 0; i < s->n; i++)
        if (CRYPTO_memcmp(s->list[i].hash, hash, SHA256_SIZE) == 0)
            match = &s->list[i];
    return match;
}

uint64_t session_deadline(const Session *session, uint64_t idle, uint64_t absolute)
{
    uint64_t a = idle ? session->used + idle : UINT64_MAX;
    uint64_t b = absolute ? session->begun + absolute : UINT64_MAX;

    return MIN_OF(a, b);
}
