/* SPDX-License-Identifier: Apache-2.0 */
#include "history.h"

#include "words.h"

/* A subject with all that it points to, shared by its kinds. */
typedef struct Who {
    unsigned n_ref;
    uint64_t hash;
    Subject subject;
    uint32_t *gids;
    char *name, *token, *protocol;
    char **roles;
} Who;

typedef struct Entry {
    HistoryKind kind;
    Who *who;
    uint64_t hash; /* of subject, permission and service */
} Entry;

struct History {
    Entry *entries;
    size_t n_entries, allocated;
    uint64_t number;
};

/* --- who ------------------------------------------------------------------------------------- */

static uint64_t hash_bytes(uint64_t h, const void *data, size_t size)
{
    for (const unsigned char *p = data; size-- > 0; p++)
        h = (h ^ *p) * 0x100000001b3u;
    return (h ^ 0xff) * 0x100000001b3u;
}

static uint64_t hash_text(uint64_t h, const char *s)
{
    return hash_bytes(h, strempty(s), strlen(strempty(s)));
}

static uint64_t hash_subject(const Subject *s)
{
    uint64_t h = hash_bytes(0xcbf29ce484222325u, &s->remote, sizeof s->remote);

    if (!s->remote) {
        h = hash_bytes(h, &s->uid, sizeof s->uid);
        return hash_bytes(h, s->gids, s->n_gids * sizeof *s->gids);
    }
    h = hash_text(h, s->name);
    h = hash_text(h, s->token);
    for (char *const *role = s->roles; role && *role; role++)
        h = hash_text(h, *role);
    h = hash_bytes(h, &s->encrypted, sizeof s->encrypted);
    return hash_text(h, s->protocol);
}

static bool is_same(const Subject *a, const Subject *b)
{
    if (a->remote != b->remote)
        return false;
    if (!a->remote)
        return a->uid == b->uid && a->n_gids == b->n_gids &&
               (a->n_gids == 0 || memcmp(a->gids, b->gids, a->n_gids * sizeof *a->gids) == 0);
    return !a->name == !b->name && streq(strempty(a->name), strempty(b->name)) &&
           streq(strempty(a->token), strempty(b->token)) && words_equal(a->roles, b->roles) &&
           a->encrypted == b->encrypted && streq(strempty(a->protocol), strempty(b->protocol));
}

static void who_unref(Who *w)
{
    if (!w || --w->n_ref > 0)
        return;
    free(w->gids);
    free(w->name);
    free(w->token);
    free(w->protocol);
    words_free(w->roles);
    free(w);
}

static int copy_text(char **to, const char *from)
{
    return !from || (*to = strdup(from)) ? 0 : -ENOMEM;
}

static Who *who_new(const Subject *s, uint64_t hash)
{
    Who *w = calloc(1, sizeof *w);
    int r = w ? 0 : -ENOMEM;

    if (!w)
        return NULL;
    w->n_ref = 1;
    w->hash = hash;
    w->gids = calloc(s->n_gids + 1, sizeof *w->gids);
    if (!w->gids || copy_text(&w->name, s->name) < 0 || copy_text(&w->token, s->token) < 0 ||
        copy_text(&w->protocol, s->protocol) < 0)
        r = -ENOMEM;
    for (char *const *role = s->roles; r >= 0 && role && *role; role++)
        r = words_add(&w->roles, *role, strlen(*role));
    if (r < 0) {
        who_unref(w);
        return NULL;
    }
    if (s->n_gids > 0)
        memcpy(w->gids, s->gids, s->n_gids * sizeof *w->gids);
    w->subject = *s;
    w->subject.gids = w->gids;
    w->subject.name = w->name;
    w->subject.token = w->token;
    w->subject.roles = w->roles;
    w->subject.protocol = w->protocol;
    w->subject.bus_name = NULL;
    w->subject.moment = NULL;
    w->subject.peer = NULL;
    w->subject.ended = false;
    return w;
}

/* --- the kinds ------------------------------------------------------------------------------- */

int history_new(History **ret)
{
    History *h = calloc(1, sizeof *h);

    if (!h)
        return -ENOMEM;
    *ret = h;
    return 0;
}

static void entry_done(Entry *e)
{
    who_unref(e->who);
    free(e->kind.permission);
    free(e->kind.service);
    free(e->kind.call);
}

void history_free(History *h)
{
    if (!h)
        return;
    for (size_t i = 0; i < h->n_entries; i++)
        entry_done(&h->entries[i]);
    free(h->entries);
    free(h);
}

/* A free place, or the oldest of the subject when its share is used up, or the oldest of all. It is
 * emptied by the caller. NULL: no memory. */
static Entry *place_for(History *h, uint64_t who)
{
    Entry *own = NULL, *oldest = NULL;
    size_t n_own = 0;

    for (size_t i = 0; i < h->n_entries; i++) {
        Entry *e = &h->entries[i];

        if (!oldest || e->kind.number < oldest->kind.number)
            oldest = e;
        if (e->who->hash != who)
            continue;
        n_own++;
        if (!own || e->kind.number < own->kind.number)
            own = e;
    }
    if (n_own >= HISTORY_KINDS_MAX / HISTORY_SHARE || h->n_entries >= HISTORY_KINDS_MAX) {
        Entry *e = n_own >= HISTORY_KINDS_MAX / HISTORY_SHARE ? own : oldest;

        entry_done(e);
        return e;
    }
    if (h->n_entries == h->allocated) {
        size_t want = h->allocated ? h->allocated * 2 : 16;
        Entry *larger = reallocarray(h->entries, want, sizeof *larger);

        if (!larger)
            return NULL;
        h->entries = larger;
        h->allocated = want;
    }
    return &h->entries[h->n_entries++];
}

static Who *who_for(const History *h, const Subject *s, uint64_t hash)
{
    for (size_t i = 0; i < h->n_entries; i++) {
        Who *w = h->entries[i].who;

        if (w->hash == hash && is_same(&w->subject, s)) {
            w->n_ref++;
            return w;
        }
    }
    return who_new(s, hash);
}

static Entry *add(History *h, const Subject *s, uint64_t who_hash, uint64_t hash,
                  const char *permission, const char *service, uint64_t now)
{
    Who *who = who_for(h, s, who_hash);
    char *p = strdup(permission), *v = strdup(service), *c = strdup("");
    Entry *e = who && p && v && c ? place_for(h, who_hash) : NULL;

    if (!e) {
        who_unref(who);
        free(p);
        free(v);
        free(c);
        return NULL;
    }
    *e = (Entry){.who = who,
                 .hash = hash,
                 .kind = {.subject = &who->subject,
                          .permission = p,
                          .service = v,
                          .call = c,
                          .first_usec = now}};
    return e;
}

static Entry *find(const History *h, const Subject *s, uint64_t hash, const char *permission,
                   const char *service)
{
    for (size_t i = 0; i < h->n_entries; i++) {
        Entry *e = &h->entries[i];

        if (e->hash == hash && streq(e->kind.permission, permission) &&
            streq(e->kind.service, service) && is_same(e->kind.subject, s))
            return e;
    }
    return NULL;
}

void history_note(History *h, const Subject *s, const char *permission, const char *service,
                  const char *call, bool allowed, uint64_t n, uint64_t now)
{
    uint64_t who = hash_subject(s), hash;
    Entry *e;

    if (s->unknown || s->behalf || s->group_only || s->n_gids > HISTORY_GROUPS_MAX)
        return;
    permission = strempty(permission);
    service = strempty(service);
    /* Without a permission it is the member that makes the kind. */
    hash = hash_text(hash_text(hash_text(who, permission), service), *permission ? "" : call);
    e = find(h, s, hash, permission, service);
    if (!e)
        e = add(h, s, who, hash, permission, service, now);
    if (!e)
        return;
    if (call && *call && !*e->kind.call) {
        char *copy = strndup(call, 255);

        if (copy) {
            free(e->kind.call);
            e->kind.call = copy;
        }
    }
    *(allowed ? &e->kind.allowed : &e->kind.denied) += n;
    e->kind.last_allowed = allowed;
    e->kind.last_usec = now;
    e->kind.number = ++h->number;
}

const HistoryKind *history_older(const History *h, uint64_t number, uint64_t now)
{
    const HistoryKind *best = NULL;

    for (size_t i = 0; i < h->n_entries; i++) {
        const HistoryKind *k = &h->entries[i].kind;

        if (k->number < number && now - k->last_usec <= HISTORY_USEC &&
            (!best || k->number > best->number))
            best = k;
    }
    return best;
}

uint64_t history_number(const History *h)
{
    return h->number;
}
