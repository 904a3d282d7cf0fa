/* SPDX-License-Identifier: Apache-2.0 */
/* Who calls, what they may, and which of their calls wait for the answer to either. */
#include "credentials.h"
#include "mediate-internal.h"
#include "members.h"

/* --- calls that wait ------------------------------------------------------------------------- */

static void arm_deadline(hybus_mediator *m)
{
    Call *first = TAILQ_FIRST(&m->calls);

    if (!first) {
        (void)sd_event_source_set_enabled(m->deadline, SD_EVENT_OFF);
        return;
    }
    (void)sd_event_source_set_time(m->deadline, first->deadline_usec);
    (void)sd_event_source_set_enabled(m->deadline, SD_EVENT_ONESHOT);
}

static void watch_deadline(hybus_mediator *m, Call *c)
{
    bool first = TAILQ_EMPTY(&m->calls);

    TAILQ_INSERT_TAIL(&m->calls, c, all);
    if (first)
        arm_deadline(m);
}

Call *call_new(Sender *s, sd_bus_message *message, CallState state)
{
    hybus_mediator *m = s->mediator;
    uint64_t now;
    Call *c;

    if (s->n_calls >= HYBUS_MEDIATE_PARKED_PER_SENDER_MAX || m->n_calls >= HYBUS_MEDIATE_PARKED_MAX)
        return NULL;
    c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    (void)sd_event_now(m->event, CLOCK_MONOTONIC, &now);
    c->sender = s;
    c->message = sd_bus_message_ref(message);
    c->state = state;
    c->deadline_usec = now + HYBUS_AGENT_DEADLINE_USEC;
    s->n_calls++;
    m->n_calls++;
    if (state == CALL_REFUSED) {
        TAILQ_INSERT_TAIL(&s->refused, c, queue);
        return c;
    }
    TAILQ_INSERT_TAIL(&s->calls, c, queue);
    watch_deadline(m, c);
    return c;
}

void call_refuse(Call *c)
{
    TAILQ_REMOVE(&c->sender->calls, c, queue);
    TAILQ_REMOVE(&c->sender->mediator->calls, c, all);
    TAILQ_INSERT_TAIL(&c->sender->refused, c, queue);
    c->state = CALL_REFUSED;
}

void call_return(Call *c, CallState state)
{
    Sender *s = c->sender;
    Call *before;
    uint64_t now;

    (void)sd_event_now(s->mediator->event, CLOCK_MONOTONIC, &now);
    TAILQ_REMOVE(&s->refused, c, queue);
    for (before = TAILQ_FIRST(&s->calls); before && before->state == CALL_ADMITTED;)
        before = TAILQ_NEXT(before, queue);
    if (state == CALL_ADMITTED && before)
        TAILQ_INSERT_BEFORE(before, c, queue);
    else
        TAILQ_INSERT_TAIL(&s->calls, c, queue);
    c->state = state;
    c->deadline_usec = now + HYBUS_AGENT_DEADLINE_USEC;
    watch_deadline(s->mediator, c);
}

void call_free(Call *c)
{
    Sender *s = c->sender;
    hybus_mediator *m = s->mediator;

    if (c->state == CALL_REFUSED) {
        TAILQ_REMOVE(&s->refused, c, queue);
    } else {
        TAILQ_REMOVE(&s->calls, c, queue);
        TAILQ_REMOVE(&m->calls, c, all);
    }
    s->n_calls--;
    m->n_calls--;
    hybus_agent_question_cancel(c->question);
    sd_bus_message_unref(c->message);
    free(c);
}

/* A resumed call is about to be decided, and must not get two answers. */
static Call *expired(hybus_mediator *m, uint64_t usec)
{
    Call *c;

    TAILQ_FOREACH (c, &m->calls, all)
        if (c->deadline_usec > usec)
            return NULL;
        else if (c->state != CALL_RESUMED && c->state != CALL_ADMITTED)
            return c;
    return NULL;
}

int call_on_deadline(sd_event_source *source, uint64_t usec, void *userdata)
{
    hybus_mediator *m = userdata;
    Call *c;

    while ((c = expired(m, usec))) {
        Sender *s = c->sender;

        mediate_unavailable(m, c->message);
        call_free(c);
        sender_resume_if_due(s);
    }
    arm_deadline(m);
    return 0;
}

/* --- senders --------------------------------------------------------------------------------- */

uint32_t sender_bucket(const char *name)
{
    uint32_t h = 2166136261u;

    for (; *name; name++)
        h = (h ^ (unsigned char)*name) * 16777619u;
    return (h ^ h >> 15) % MEDIATE_BUCKETS;
}

hybus_subject sender_subject(const Sender *s)
{
    return (hybus_subject){.unknown = !s->known,
                           .uid = s->uid,
                           .gids = s->gids,
                           .n_gids = s->n_gids,
                           .bus_name = s->name};
}

void sender_report(Sender *s)
{
    hybus_subject subject = sender_subject(s);
    char audit[MEDIATE_AUDIT_SIZE];

    mediate_audit_id(s->mediator, s->limited_number, audit);
    if (s->limited > 0 &&
        hybus_agent_unjudged(s->mediator->agent, &subject, "limit", audit, NULL, NULL, s->limited))
        s->limited = 0;
    if (!s->counted)
        return;
    s->counted = false;
    for (uint32_t i = 0; i < s->row->n_bits; i++) {
        const char *permission = members_permission(s->mediator->members, i);

        if (s->counts[i] <= 1)
            continue;
        if (permission)
            hybus_agent_used(s->mediator->agent, &subject, permission, s->counts[i] - 1);
        s->counts[i] = 1;
    }
}

void sender_drop_row(Sender *s)
{
    sender_report(s);
    free(s->row);
    free(s->counts);
    s->row = NULL;
    s->counts = NULL;
}

void sender_free(Sender *s)
{
    hybus_mediator *m = s->mediator;
    Sender **p = &m->buckets[s->bucket];
    Call *c;

    while ((c = TAILQ_FIRST(&s->calls)) || (c = TAILQ_FIRST(&s->refused)))
        call_free(c);
    sender_drop_row(s);
    while (*p != s)
        p = &(*p)->next;
    *p = s->next;
    TAILQ_REMOVE(&m->senders, s, used);
    m->n_senders--;
    hybus_agent_question_cancel(s->question);
    sd_bus_slot_unref(s->identify);
    free(s->gids);
    free(s);
}

Sender *sender_find(hybus_mediator *m, const char *name, uint32_t bucket)
{
    for (Sender *s = m->buckets[bucket]; s; s = s->next)
        if (streq(s->name, name))
            return s;
    return NULL;
}

static bool make_room(hybus_mediator *m)
{
    Sender *s;

    if (m->n_senders < HYBUS_MEDIATE_SENDERS_MAX)
        return true;
    TAILQ_FOREACH (s, &m->senders, used)
        if (s->n_calls == 0) {
            sender_free(s);
            return true;
        }
    return false;
}

Sender *sender_new(hybus_mediator *m, const char *name, uint32_t bucket)
{
    size_t size = strlen(name) + 1;
    Sender *s;

    if (size > MEDIATE_NAME_MAX + 1 || !make_room(m))
        return NULL;
    s = calloc(1, sizeof *s + size);
    if (!s)
        return NULL;
    memcpy(s->name, name, size);
    s->mediator = m;
    s->bucket = bucket;
    TAILQ_INIT(&s->calls);
    TAILQ_INIT(&s->refused);
    s->next = m->buckets[bucket];
    m->buckets[bucket] = s;
    TAILQ_INSERT_TAIL(&m->senders, s, used);
    m->n_senders++;
    return s;
}

void sender_left(Sender *s)
{
    hybus_subject subject = sender_subject(s);
    Call *first = TAILQ_FIRST(&s->calls);

    if (s->known || !first)
        return;
    (void)hybus_agent_unjudged(s->mediator->agent, &subject, "identity", NULL,
                               sd_bus_message_get_interface(first->message),
                               sd_bus_message_get_member(first->message), s->n_calls);
}

void sender_touch(Sender *s)
{
    struct Senders *l = &s->mediator->senders;

    if (!TAILQ_NEXT(s, used))
        return;
    TAILQ_REMOVE(l, s, used);
    TAILQ_INSERT_TAIL(l, s, used);
}

/* --- fetching who it is and what it may ------------------------------------------------------- */

/* Every call that waits for this sender is refused: its identity is not known, which denies
 * (CVE-2021-3560 is what happens otherwise). */
static void identity_failed(Sender *s)
{
    Call *c, *next;

    for (c = TAILQ_FIRST(&s->calls); c; c = next) {
        next = TAILQ_NEXT(c, queue);
        if (c->state != CALL_PARKED)
            continue;
        mediate_deny_unknown(c);
    }
}

static int keep_identity(Sender *s, const hybus_credentials *c)
{
    s->gids = calloc(c->n_gids + 1, sizeof *s->gids);
    if (!s->gids)
        return -ENOMEM;
    if (c->n_gids > 0)
        memcpy(s->gids, c->gids, c->n_gids * sizeof *s->gids);
    s->n_gids = c->n_gids;
    s->uid = c->uid;
    s->known = true;
    return 0;
}

static void on_credentials(sd_bus_message *reply, int error, void *userdata)
{
    Sender *s = userdata;
    hybus_credentials c;

    s->identify = sd_bus_slot_unref(s->identify);
    if (error < 0 || hybus_credentials_read(reply, &c) < 0 || keep_identity(s, &c) < 0) {
        identity_failed(s);
        if (s->n_calls == 0)
            sender_free(s);
        return;
    }
    sender_report(s);
    sender_fetch(s);
}

static void resume(Sender *s)
{
    Call *c, *next;

    for (c = TAILQ_FIRST(&s->calls); c; c = next) {
        next = TAILQ_NEXT(c, queue);
        if (c->state != CALL_PARKED)
            continue;
        c->state = CALL_RESUMED;
        if (sd_bus_enqueue_for_read(s->mediator->bus, c->message) < 0) {
            (void)mediate_over_limit(s->mediator, s, c->message);
            call_free(c);
        }
    }
}

void sender_resume_if_due(Sender *s)
{
    Call *c;

    TAILQ_FOREACH (c, &s->calls, queue)
        if (c->state == CALL_RESUMED || c->state == CALL_ADMITTED)
            return;
    if (!s->identify && !s->question)
        resume(s);
}

static void on_row(hybus_row *row, int error, void *userdata)
{
    Sender *s = userdata;
    hybus_mediator *m = s->mediator;
    Call *c, *next;

    s->question = NULL;
    if (error == 0) {
        uint64_t *counts = calloc(row->n_bits + 1u, sizeof *counts);

        if (!counts) {
            free(row);
            error = -ENOMEM;
        } else {
            sender_drop_row(s);
            s->row = row;
            s->counts = counts;
            resume(s);
            return;
        }
    }
    for (c = TAILQ_FIRST(&s->calls); c; c = next) {
        next = TAILQ_NEXT(c, queue);
        if (c->state != CALL_PARKED)
            continue;
        mediate_unavailable(m, c->message);
        call_free(c);
    }
}

void sender_fetch(Sender *s)
{
    hybus_mediator *m = s->mediator;
    hybus_subject subject = sender_subject(s);

    if (s->identify || s->question)
        return;
    if (!s->known) {
        if (hybus_credentials_ask(m->bus, s->name, on_credentials, s, &s->identify) < 0)
            identity_failed(s);
        return;
    }
    if (hybus_agent_row(m->agent, &subject, NULL, 0, on_row, s, &s->question) < 0) {
        s->question = NULL;
        on_row(NULL, -ENOBUFS, s);
    }
}
