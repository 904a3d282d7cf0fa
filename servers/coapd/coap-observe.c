/* SPDX-License-Identifier: Apache-2.0 */
/* Observers (RFC 7641). The registration is answered by the responder itself; from then on each
 * value that the core tells goes out, the newest one only: while a confirmable notification is on
 * its way, or within a round trip of the last, values replace each other here. Some are
 * confirmable, so that a client that has gone is found. A value is kept once for all who observe
 * it. */

#include "coapd.h"

#define FAST_USEC (3u * 1000000u) /* between two when the round trip is not known (4.5.1) */
#define UNCONFIRMED_MAX 4u        /* then one that asks for an acknowledgement */
/* An acknowledgement that comes later may be of a repetition: it tells nothing of the round trip.
 */
#define FIRST_USEC (2u * 1000000u) /* ACK_TIMEOUT (RFC 7252, 4.8) */
/* Many who observe the same would acknowledge at the same time, and a socket holds some 270 small
 * datagrams: the others are lost, and their senders silent for seconds. So the loop sends some,
 * reads, and goes on when not too many acknowledgements are to be expected. */
#define TURN_MAX 32u
#define EXPECTED_MAX 128u
#define READS_MAX 8u
#define EXPECTED_USEC (100u * 1000u) /* who has not answered by then is far away, or gone */
/* MAX_TRANSMIT_WAIT (RFC 7252, 4.8.2) and a little more: a message that could not even be sent is
 * not given up by anybody else. */
#define OVERDUE_USEC (110u * 1000000u)

typedef struct coapd_value {
    unsigned refs;
    uint64_t sequence;
    uint32_t number; /* of the Observe option */
    bool gone, has_max_age;
    uint32_t max_age;
    uint32_t format;
    size_t size;
    char *path;
    uint8_t body[];
} coapd_value;

struct CoapdObserver {
    list node; /* of the session: first */
    list due;  /* of all whose turn comes */
    CoapdSession *session;
    endpoint_watch *watch;
    endpoint_timer later;
    coapd_message message; /* its token */
    uint64_t key;
    size_t request_size;
    uint32_t accept;
    uint8_t szx;
    bool started, registered, ended;
    unsigned status;    /* how it ended */
    coapd_value *value; /* not sent yet */
    bool outstanding;   /* a confirmable one is on its way */
    coap_mid_t mid;     /* of the last one */
    unsigned unconfirmed;
    uint64_t asked_usec, sent_usec, confirm_usec, round_trip_usec;
};

/* --- values -------------------------------------------------------------------------------------
 */

static void value_unref(coapd_value *v)
{
    if (!v || --v->refs > 0)
        return;
    free(v->path);
    free(v);
}

/* All observers of a path are told in a row: the first one makes the copy. */
static coapd_value *value_get(Coapd *d, const endpoint_value *of)
{
    coapd_value *v = d->last_value;

    if (v && v->sequence == of->sequence && streq(v->path, of->path)) {
        v->refs++;
        return v;
    }
    v = calloc(1, sizeof(*v) + of->size);
    if (!v || !(v->path = strdup(of->path))) {
        free(v);
        return NULL;
    }
    v->refs = 2;
    v->sequence = of->sequence;
    v->number = ++d->observe_sequence & 0xffffffu;
    v->gone = of->gone;
    v->has_max_age = of->max_age_usec > 0;
    v->max_age = (uint32_t)MIN_OF(of->max_age_usec / 1000000u, (uint64_t)UINT32_MAX);
    v->format = coapd_format_of(of->content_type, strlen(of->content_type));
    v->size = of->size;
    if (of->size > 0)
        memcpy(v->body, of->body, of->size);
    value_unref(d->last_value);
    d->last_value = v;
    return v;
}

/* --- sending ------------------------------------------------------------------------------------
 */

static bool must_confirm(const CoapdObserver *o, uint64_t now)
{
    uint64_t since = now - o->confirm_usec;

    if (o->session->reliable)
        return false;
    return o->round_trip_usec == 0 || !o->session->verified || o->unconfirmed >= UNCONFIRMED_MAX ||
           since > o->session->coapd->settings->confirm;
}

static coap_mid_t push(CoapdObserver *o, coapd_answer *a, bool confirm)
{
    Coapd *d = o->session->coapd;
    uint64_t now = timer_now();

    o->message.confirmable = confirm;
    o->message.mid = coapd_session_mid(o->session);
    o->mid = o->message.mid;
    o->sent_usec = now;
    d->counters.notifications++;
    if (confirm) {
        d->counters.notifications_confirmable++;
        o->confirm_usec = now;
        o->unconfirmed = 0;
        o->outstanding = true;
        d->expected += !o->session->reliable;
        timer_start(&d->timers, TIMERS_REQUEST, &o->later, now + OVERDUE_USEC);
    } else {
        o->unconfirmed++;
    }
    return coapd_push(o->session, &o->message, a);
}

/* The end of an observation is an answer like any other, without the option. */
static void push_end(CoapdObserver *o, coap_pdu_code_t code)
{
    coapd_answer a = COAPD_ANSWER(code);

    (void)push(o, &a, !o->session->reliable);
    coapd_observer_free(o);
}

static uint8_t szx_of(const CoapdObserver *o)
{
    return coapd_echo_szx(o->session, o->szx, o->request_size);
}

static bool fits(const CoapdObserver *o, size_t size)
{
    return size <= coapd_session_payload_room(o->session) &&
           (o->session->reliable || size <= coapd_block_size(szx_of(o)));
}

/* In the format that the client takes; -ENOTSUP and the like. */
static int fill_value(const CoapdObserver *o, const coapd_value *v, coapd_answer *a, uint8_t **made)
{
    size_t size = 0;
    int r;

    a->format = v->format;
    a->payload = v->body;
    a->payload_size = v->size;
    if (o->accept == COAPD_FORMAT_NONE || o->accept == v->format)
        return 0;
    r = coapd_convert(v->format, o->accept, v->body, v->size, made, &size);
    if (r < 0)
        return r;
    a->format = o->accept;
    a->payload = *made;
    a->payload_size = size;
    return 0;
}

static void push_value(CoapdObserver *o)
{
    coapd_value *v = TAKE_PTR(o->value);
    coapd_answer a = COAPD_ANSWER(COAP_RESPONSE_CODE(205));
    _cleanup_(freep) uint8_t *made = NULL;

    if (v->gone || fill_value(o, v, &a, &made) < 0) {
        push_end(o, v->gone ? COAP_RESPONSE_CODE(404) : COAP_RESPONSE_CODE(406));
        value_unref(v);
        return;
    }
    a.has_observe = true;
    a.observe = v->number;
    a.has_max_age = v->has_max_age;
    a.max_age = v->max_age;
    if (fits(o, a.payload_size) || coapd_exchange_of_value(o->session, o->key, a.payload,
                                                           a.payload_size, szx_of(o), &a) == 0) {
        (void)push(o, &a, must_confirm(o, timer_now()));
        value_unref(v);
    } else {
        o->value = v; /* its client fetches the one before */
        timer_start(&o->session->coapd->timers, TIMERS_SHORT, &o->later,
                    timer_now() + COAPD_FETCH_USEC / 4);
    }
}

static uint64_t pause_of(const CoapdObserver *o)
{
    if (o->session->reliable)
        return 0;
    return o->round_trip_usec ? o->round_trip_usec : FAST_USEC;
}

static void wake(Coapd *d)
{
    if (!list_empty(&d->due))
        (void)sd_event_source_set_enabled(d->turn, SD_EVENT_ONESHOT);
}

/* Sends the newest value as soon as it is time. The observer may be gone afterwards. */
static void flush(CoapdObserver *o)
{
    uint64_t now = timer_now(), next = o->sent_usec + pause_of(o);

    if (!o->registered || o->outstanding || (!o->ended && coapd_session_is_full(o->session)))
        return;
    if (o->ended) {
        push_end(o, coapd_code_of(o->status, "GET"));
        return;
    }
    if (!o->value)
        return;
    if (o->sent_usec > 0 && now < next && !o->value->gone) {
        timer_start(&o->session->coapd->timers, TIMERS_SHORT, &o->later, next);
    } else if (list_empty(&o->due)) {
        list_append(&o->session->coapd->due, &o->due);
        wake(o->session->coapd);
    }
}

/* When acknowledgements have come, or when it is too late for them; what has come and was not read
 * yet, because this device is slow, is not late. */
static bool is_quiet(Coapd *d)
{
    uint64_t now = timer_now();

    if (now >= d->expected_until) {
        for (unsigned i = 0; d->expected > 0 && i < READS_MAX && !coapd_read(d); i++)
            ;
        d->expected = 0;
        now = timer_now();
        d->expected_until = now + EXPECTED_USEC;
    }
    return d->expected < EXPECTED_MAX;
}

static void on_silence(endpoint_timer *t)
{
    wake(list_entry(t, Coapd, silence));
}

static void take_turn(CoapdObserver *o)
{
    list_remove(&o->due);
    if (o->value && !o->outstanding && !coapd_session_is_full(o->session))
        push_value(o);
}

static int on_turn(sd_event_source *source, void *userdata)
{
    Coapd *d = userdata;

    /* To look whether it is quiet may read, after which nobody may be left. */
    for (unsigned i = 0; i < TURN_MAX && is_quiet(d) && !list_empty(&d->due); i++)
        take_turn(list_entry(d->due.next, CoapdObserver, due));
    if (is_quiet(d))
        wake(d);
    else
        timer_start(&d->timers, TIMERS_SHORT, &d->silence, d->expected_until);
    return 0;
}

int coapd_observers_open(Coapd *d)
{
    int r = sd_event_add_defer(d->event, &d->turn, on_turn, d);

    d->silence.fire = on_silence;
    list_init(&d->silence.node);
    return r < 0 ? r : sd_event_source_set_enabled(d->turn, SD_EVENT_OFF);
}

static void on_later(endpoint_timer *t)
{
    CoapdObserver *o = list_entry(t, CoapdObserver, later);
    uint64_t now = timer_now(), until = o->confirm_usec + OVERDUE_USEC;

    if (!o->outstanding) {
        flush(o);
    } else if (now < until) {
        timer_start(&o->session->coapd->timers, TIMERS_REQUEST, &o->later, until);
    } else {
        o->session->coapd->counters.observers_lost++;
        coapd_observer_free(o);
    }
}

/* --- what the core tells ------------------------------------------------------------------------
 */

static void on_started(endpoint_watch *w, void *userdata)
{
    CoapdObserver *o = userdata;

    o->started = true;
    if (!o->registered)
        coapd_exchange_decided(o->session, o); /* the observer may be gone */
}

static void on_value(endpoint_watch *w, const endpoint_value *v, void *userdata)
{
    CoapdObserver *o = userdata;

    /* The answer to the registration is newer than what was known when it was asked for. */
    if (!v->gone && v->received_usec < o->asked_usec)
        return;
    value_unref(o->value);
    o->value = value_get(o->session->coapd, v);
    flush(o);
}

static void on_ended(endpoint_watch *w, unsigned status, const char *detail, void *userdata)
{
    CoapdObserver *o = userdata;

    o->ended = true;
    o->started = false;
    o->status = status;
    o->outstanding = false; /* what is on its way has been overtaken */
    if (o->registered)
        flush(o);
    else
        coapd_exchange_decided(o->session, o);
}

bool coapd_observer_undecided(const CoapdObserver *o)
{
    return !o->started && !o->ended;
}

/* --- registration -------------------------------------------------------------------------------
 */

static CoapdObserver *find(CoapdSession *s, const coapd_message *m)
{
    list_for_each(n, &s->observers)
    {
        CoapdObserver *o = list_entry(n, CoapdObserver, node);
        if (o->message.token_size == m->token_size &&
            memcmp(o->message.token, m->token, m->token_size) == 0)
            return o;
    }
    return NULL;
}

/* Half of all places are for those who are there, an eighth for those who have authenticated. */
static bool has_room(const CoapdSession *s)
{
    const Coapd *d = s->coapd;
    size_t most = d->settings->observers;

    if (!s->verified)
        most /= 2;
    else if (!s->counted)
        most -= most / COAPD_RESERVED;
    return d->n_observers < most && s->n_observers < d->settings->observers_session;
}

CoapdObserver *coapd_observer_new(CoapdExchange *x, const coapd_question *q)
{
    static const endpoint_watch_ops ops = {
        .started = on_started, .value = on_value, .ended = on_ended};
    CoapdSession *s = x->session;
    CoapdObserver *o;

    if (!has_room(s) || !(o = calloc(1, sizeof(*o))))
        return NULL;
    o->session = s;
    o->message = x->message;
    o->message.no_response = 0;
    o->key = q->key;
    o->request_size = q->size;
    o->accept = q->accept;
    o->szx = q->block2.there ? MIN_OF(q->block2.szx, (uint8_t)6) : 6;
    o->mid = COAP_INVALID_MID;
    o->asked_usec = timer_now();
    o->later.fire = on_later;
    list_init(&o->later.node);
    list_init(&o->due);
    list_append(&s->observers, &o->node);
    s->n_observers++;
    s->coapd->n_observers++;
    coapd_session_hold(s);
    if (endpoint_watch_new(s->peer, q->path, &ops, o, &o->watch) < 0) {
        coapd_observer_free(o);
        return NULL;
    }
    return o;
}

void coapd_observer_free(CoapdObserver *o)
{
    CoapdSession *s = o->session;

    list_for_each(n, &s->exchanges)
    {
        CoapdExchange *x = list_entry(n, CoapdExchange, node);
        if (x->observer == o)
            x->observer = NULL;
    }
    timer_stop(&o->later);
    list_remove(&o->due);
    endpoint_watch_free(o->watch);
    value_unref(o->value);
    list_remove(&o->node);
    s->n_observers--;
    s->coapd->n_observers--;
    if (s->coapd->n_observers == 0) {
        value_unref(s->coapd->last_value);
        s->coapd->last_value = NULL;
    }
    free(o);
    coapd_session_release(s);
}

void coapd_observer_answer(CoapdObserver *o, coapd_answer *a)
{
    Coapd *d = o->session->coapd;
    bool good = a->code == COAP_RESPONSE_CODE(205) || a->code == COAP_RESPONSE_CODE(203);

    if (!good || !o->started) {
        coapd_observer_free(o);
        return;
    }
    a->has_observe = true;
    a->observe = ++d->observe_sequence & 0xffffffu;
    o->registered = true;
    d->counters.observers++;
    if (o->value) /* has come meanwhile: said right after this answer */
        timer_start(&d->timers, TIMERS_SHORT, &o->later, timer_now());
}

void coapd_observer_cancel(CoapdSession *s, const coapd_message *m)
{
    CoapdObserver *o = find(s, m);

    if (o)
        coapd_observer_free(o);
}

void coapd_observers_flush(CoapdSession *s)
{
    coapd_session_hold(s);
    for (list *n = s->observers.next, *next; n != &s->observers; n = next) {
        next = n->next;
        flush(list_entry(n, CoapdObserver, node));
    }
    coapd_session_release(s);
}

/* --- what the client says to it -----------------------------------------------------------------
 */

static CoapdObserver *find_sent(CoapdSession *s, coap_mid_t mid)
{
    list_for_each(n, &s->observers)
    {
        CoapdObserver *o = list_entry(n, CoapdObserver, node);
        if (o->mid == mid)
            return o;
    }
    return NULL;
}

void coapd_observer_acknowledged(CoapdSession *s, coap_mid_t mid)
{
    CoapdObserver *o = find_sent(s, mid);
    uint64_t took;

    if (!o || !o->outstanding)
        return;
    o->outstanding = false;
    timer_stop(&o->later);
    if (s->coapd->expected > 0)
        s->coapd->expected--;
    wake(s->coapd);
    coapd_verified(s);
    took = MAX_OF(timer_now() - o->confirm_usec, (uint64_t)1);
    if (took < FIRST_USEC)
        o->round_trip_usec = o->round_trip_usec ? (7 * o->round_trip_usec + took) / 8 : took;
    flush(o);
}

void coapd_observer_lost(CoapdSession *s, coap_mid_t mid, bool rejected)
{
    CoapdObserver *o = find_sent(s, mid);

    if (!o)
        return;
    if (rejected)
        s->coapd->counters.observers_rejected++;
    else
        s->coapd->counters.observers_lost++;
    coapd_observer_free(o);
}
