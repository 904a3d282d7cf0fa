/* SPDX-License-Identifier: Apache-2.0 */
#include "consent.h"

#include <jansson.h>

#define FILE_NAME "consents"
#define FILE_KIND "consents 1"
#define FILE_SIZE_MAX (4u * 1024u * 1024u)

struct ConsentQuestion {
    TAILQ_ENTRY(ConsentQuestion) list;
    Consent *consent;
    uint8_t digest[SHA256_SIZE];
    char *subject, *call, *rule;
    bool secret;
    TAILQ_HEAD(, ConsentWaiter) waiters;
    void *tag; /* the asker's */
};

struct Consent {
    char *directory;
    ConsentAsker asker;
    TAILQ_HEAD(, ConsentQuestion) pending;
    size_t n_pending, n_waiters;
    Rates rates;
    ConsentRemembered remembered[CONSENT_REMEMBERED_MAX];
    size_t n_remembered;
};

/* --- what has been answered ------------------------------------------------------------------- */

static void remembered_done(ConsentRemembered *r)
{
    free(r->subject);
    free(r->call);
    free(r->rule);
    free(r->why);
    *r = (ConsentRemembered){0};
}

static void drop(Consent *c, size_t i)
{
    remembered_done(&c->remembered[i]);
    c->remembered[i] = c->remembered[--c->n_remembered];
}

static void drop_old(Consent *c, uint64_t now)
{
    for (size_t i = c->n_remembered; i-- > 0;)
        if (c->remembered[i].until != CONSENT_ALWAYS && c->remembered[i].until <= now)
            drop(c, i);
}

static int save(const Consent *c)
{
    json_t *list = json_array();
    char *text;
    int r;

    for (size_t i = 0; i < c->n_remembered; i++) {
        const ConsentRemembered *k = &c->remembered[i];
        char digest[2 * SHA256_SIZE + 1];

        if (k->until != CONSENT_ALWAYS)
            continue;
        hex_encode(k->digest, sizeof k->digest, digest);
        json_array_append_new(list, json_pack("{ss ss ss ss ss sb}", "digest", digest, "subject",
                                              k->subject, "call", k->call, "rule", k->rule, "why",
                                              k->why, "yes", k->yes));
    }
    text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    if (!text)
        return -ENOMEM;
    r = write_checked_file(c->directory, FILE_NAME, FILE_KIND, text, strlen(text));
    free(text);
    return r;
}

static int remember(Consent *c, const uint8_t *digest, const char *subject, const char *call,
                    const char *rule, const char *why, bool yes, uint64_t until)
{
    ConsentRemembered k = {.subject = strdup(subject),
                           .call = strdup(call),
                           .rule = strdup(rule),
                           .why = strdup(why),
                           .yes = yes,
                           .until = until};

    memcpy(k.digest, digest, sizeof k.digest);
    hex_encode(digest, 8, k.id);
    if (!k.subject || !k.call || !k.rule || !k.why || c->n_remembered >= CONSENT_REMEMBERED_MAX) {
        bool full = c->n_remembered >= CONSENT_REMEMBERED_MAX;

        remembered_done(&k);
        return full ? -ENOBUFS : -ENOMEM;
    }
    c->remembered[c->n_remembered++] = k;
    return 0;
}

static void load_one(Consent *c, const json_t *j)
{
    const char *digest, *subject, *call, *rule, *why;
    uint8_t bytes[SHA256_SIZE];
    int yes;

    if (json_unpack((json_t *)j, "{ss ss ss ss ss sb}", "digest", &digest, "subject", &subject,
                    "call", &call, "rule", &rule, "why", &why, "yes", &yes) == 0 &&
        strlen(digest) == 2 * SHA256_SIZE && hex_decode(digest, bytes, sizeof bytes) >= 0)
        (void)remember(c, bytes, subject, call, rule, why, yes, CONSENT_ALWAYS);
}

static void load(Consent *c)
{
    _cleanup_(freep) char *text = NULL;
    size_t size, i;
    json_t *list, *one;

    if (read_checked_file(c->directory, FILE_NAME, FILE_KIND, FILE_SIZE_MAX, &text, &size) < 0)
        return;
    list = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    json_array_foreach(list, i, one) load_one(c, one);
    json_decref(list);
}

static void add_text(json_t *list, const char *text)
{
    json_array_append_new(list, json_string(strempty(text)));
}

/* -ENOMEM, or for texts that are no UTF-8 */
static int digest_of(const ConsentCall *call, uint8_t ret[SHA256_SIZE])
{
    const char kind[] = {call->kind, '\0'};
    json_t *list = json_array();
    char *text;

    add_text(list, call->subject);
    add_text(list, call->permission);
    add_text(list, call->rule);
    add_text(list, call->service);
    add_text(list, call->interface);
    add_text(list, call->member);
    add_text(list, call->path);
    add_text(list, kind);
    add_text(list, call->arguments);
    text = json_array_size(list) == 9 ? json_dumps(list, JSON_COMPACT) : NULL;
    json_decref(list);
    if (!text)
        return -ENOMEM;
    sha256(text, strlen(text), ret);
    free(text);
    return 0;
}

int consent_remembered(Consent *c, const ConsentCall *call, uint64_t now, const char **ret_why)
{
    uint8_t digest[SHA256_SIZE];

    drop_old(c, now);
    if (call->secret || digest_of(call, digest) < 0)
        return 0;
    for (size_t i = 0; i < c->n_remembered; i++)
        if (memcmp(c->remembered[i].digest, digest, sizeof digest) == 0) {
            *ret_why = c->remembered[i].why;
            return c->remembered[i].yes ? 1 : -EACCES;
        }
    return 0;
}

size_t consent_list(Consent *c, uint64_t now, const ConsentRemembered **ret)
{
    drop_old(c, now);
    *ret = c->remembered;
    return c->n_remembered;
}

int consent_forget(Consent *c, const char *id)
{
    for (size_t i = 0; i < c->n_remembered; i++) {
        bool always = c->remembered[i].until == CONSENT_ALWAYS;

        if (!streq(c->remembered[i].id, id))
            continue;
        drop(c, i);
        return always ? save(c) : 0;
    }
    return -ENOENT;
}

void consent_forget_subject(Consent *c, const char *subject)
{
    bool any = false;

    for (size_t i = c->n_remembered; i-- > 0;)
        if (streq(c->remembered[i].subject, subject)) {
            any |= c->remembered[i].until == CONSENT_ALWAYS;
            drop(c, i);
        }
    if (any)
        (void)save(c);
}

/* --- what is being asked --------------------------------------------------------------------- */

int consent_new(const char *directory, Consent **ret)
{
    Consent *c = calloc(1, sizeof *c);

    if (!c || !(c->directory = strdup(directory)) || rates_init(&c->rates) < 0) {
        consent_free(c);
        return -ENOMEM;
    }
    TAILQ_INIT(&c->pending);
    load(c);
    *ret = c;
    return 0;
}

void consent_set_asker(Consent *c, const ConsentAsker *asker)
{
    c->asker = asker ? *asker : (ConsentAsker){0};
}

static void question_free(ConsentQuestion *q)
{
    TAILQ_REMOVE(&q->consent->pending, q, list);
    q->consent->n_pending--;
    free(q->subject);
    free(q->call);
    free(q->rule);
    free(q);
}

void consent_free(Consent *c)
{
    ConsentQuestion *q;
    ConsentWaiter *w;

    if (!c)
        return;
    if (c->directory)
        while ((q = TAILQ_FIRST(&c->pending))) {
            while ((w = TAILQ_FIRST(&q->waiters))) {
                TAILQ_REMOVE(&q->waiters, w, list);
                w->question = NULL;
            }
            question_free(q);
        }
    while (c->n_remembered > 0)
        drop(c, 0);
    free(c->directory);
    free(c);
}

static ConsentQuestion *find(const Consent *c, const uint8_t *digest)
{
    ConsentQuestion *q;

    TAILQ_FOREACH (q, &c->pending, list)
        if (memcmp(q->digest, digest, sizeof q->digest) == 0)
            return q;
    return NULL;
}

static size_t pending_of(const Consent *c, const char *subject)
{
    const ConsentQuestion *q;
    size_t n = 0;

    TAILQ_FOREACH (q, &c->pending, list)
        n += streq(q->subject, subject);
    return n;
}

static int question_new(Consent *c, const ConsentCall *call, const uint8_t *digest,
                        ConsentQuestion **ret)
{
    ConsentQuestion *q = calloc(1, sizeof *q);

    if (!q)
        return -ENOMEM;
    q->consent = c;
    q->secret = call->secret;
    memcpy(q->digest, digest, sizeof q->digest);
    TAILQ_INIT(&q->waiters);
    TAILQ_INSERT_TAIL(&c->pending, q, list);
    c->n_pending++;
    q->subject = strdup(call->subject);
    q->rule = strdup(call->rule);
    if (asprintf(&q->call, "%s.%s%s%s", strempty(call->interface), strempty(call->member),
                 *strempty(call->arguments) ? " " : "", strempty(call->arguments)) < 0)
        q->call = NULL;
    if (!q->subject || !q->rule || !q->call) {
        question_free(q);
        return -ENOMEM;
    }
    *ret = q;
    return 0;
}

static int ask_anew(Consent *c, const ConsentCall *call, const uint8_t *digest, uint64_t now,
                    ConsentQuestion **ret)
{
    int r;

    if (!c->asker.ask)
        return -ENOENT;
    if (c->n_pending >= CONSENT_PENDING_MAX ||
        pending_of(c, call->subject) >= CONSENT_PER_SUBJECT_MAX ||
        !rates_left(&c->rates, "", call->subject, CONSENT_RATE, CONSENT_RATE_USEC, now))
        return -ENOBUFS;
    r = question_new(c, call, digest, ret);
    if (r < 0)
        return r;
    r = c->asker.ask(*ret, call, c->asker.userdata);
    if (r < 0) {
        question_free(*ret);
        return r;
    }
    rates_take(&c->rates, "", call->subject, CONSENT_RATE, CONSENT_RATE_USEC, now);
    return 0;
}

int consent_ask(Consent *c, const ConsentCall *call, uint64_t now, ConsentWaiter *w)
{
    uint8_t digest[SHA256_SIZE];
    ConsentQuestion *q;
    int r = digest_of(call, digest);

    if (r < 0)
        return r;
    if (c->n_waiters >= CONSENT_WAITERS_MAX)
        return -ENOBUFS;
    q = call->secret ? NULL : find(c, digest);
    if (!q && (r = ask_anew(c, call, digest, now, &q)) < 0)
        return r;
    w->question = q;
    TAILQ_INSERT_TAIL(&q->waiters, w, list);
    c->n_waiters++;
    return 0;
}

void consent_withdraw(ConsentWaiter *w)
{
    ConsentQuestion *q = w->question;
    Consent *c;

    if (!q)
        return;
    c = q->consent;
    TAILQ_REMOVE(&q->waiters, w, list);
    w->question = NULL;
    c->n_waiters--;
    if (!TAILQ_EMPTY(&q->waiters))
        return;
    c->asker.cancel(q, c->asker.userdata);
    question_free(q);
}

int consent_answer(ConsentQuestion *q, bool yes, uint64_t keep, const char *why, uint64_t now)
{
    Consent *c = q->consent;
    ConsentWaiter *w;
    int r = 0;

    if (keep > 0 && !q->secret) {
        uint64_t until = keep == CONSENT_ALWAYS
                             ? CONSENT_ALWAYS
                             : now + MIN_OF(keep, (uint64_t)CONSENT_KEEP_MAX_SECONDS) * 1000000u;

        r = remember(c, q->digest, q->subject, q->call, q->rule, why, yes, until);
        if (r >= 0 && until == CONSENT_ALWAYS && (r = save(c)) < 0)
            drop(c, c->n_remembered - 1);
    }
    while ((w = TAILQ_FIRST(&q->waiters))) {
        TAILQ_REMOVE(&q->waiters, w, list);
        w->question = NULL;
        c->n_waiters--;
        w->f(w, yes, why);
    }
    question_free(q);
    return r;
}

void *consent_tag(const ConsentQuestion *q)
{
    return q->tag;
}

void consent_set_tag(ConsentQuestion *q, void *tag)
{
    q->tag = tag;
}
