/* SPDX-License-Identifier: Apache-2.0 */
/* Message ids (RFC 7252, 4.4 and 4.5): a message that comes again is answered as it was the first
 * time, and acts once. Of a session's messages the newest are remembered; when there are too many,
 * those that would do no harm a second time are forgotten first. */

#include "coapd.h"

struct CoapdRecord {
    list node;
    uint64_t when;
    coap_mid_t mid;
    bool idempotent, acknowledged, answered;
    coapd_answer *answer; /* its payload follows it; NULL: none, or it is not said again */
};

static size_t bytes_of(const CoapdRecord *r)
{
    return sizeof(*r) + (r->answer ? sizeof(*r->answer) + r->answer->payload_size : 0);
}

/* How many records there are for ids that end alike: most messages are new, and need no search. */
static uint8_t *count_of(CoapdSession *s, coap_mid_t mid)
{
    return &s->record_counts[(unsigned)mid % ELEMENTS(s->record_counts)];
}

static void record_free(CoapdSession *s, CoapdRecord *r)
{
    s->coapd->record_bytes -= bytes_of(r);
    s->n_records--;
    --*count_of(s, r->mid);
    list_remove(&r->node);
    free(r->answer);
    free(r);
}

void coapd_records_free(CoapdSession *s)
{
    while (!list_empty(&s->records))
        record_free(s, list_entry(s->records.next, CoapdRecord, node));
}

/* The newest first: what is answered has mostly just come. */
static CoapdRecord *find(CoapdSession *s, coap_mid_t mid)
{
    if (*count_of(s, mid) == 0)
        return NULL;
    for (list *n = s->records.prev; n != &s->records; n = n->prev) {
        CoapdRecord *r = list_entry(n, CoapdRecord, node);
        if (r->mid == mid)
            return r;
    }
    return NULL;
}

static void forget_one(CoapdSession *s)
{
    list_for_each(n, &s->records)
    {
        CoapdRecord *r = list_entry(n, CoapdRecord, node);
        if (r->idempotent && r->answered) {
            record_free(s, r);
            return;
        }
    }
    record_free(s, list_entry(s->records.next, CoapdRecord, node));
}

/* Of all sessions, the one that has not been heard of for longest gives its records first. */
static void make_room(CoapdSession *s, size_t size)
{
    Coapd *d = s->coapd;
    uint64_t now = timer_now();

    while (s->n_records > 0) {
        CoapdRecord *r = list_entry(s->records.next, CoapdRecord, node);
        if (now - r->when < COAPD_RECORD_USEC)
            break;
        record_free(s, r);
    }
    while (s->n_records >= COAPD_RECORDS_MAX)
        forget_one(s);
    list_for_each(n, &d->sessions)
    {
        CoapdSession *other = list_entry(n, CoapdSession, node);
        if (d->record_bytes + size <= COAPD_RECORD_BYTES)
            return;
        if (other != s)
            coapd_records_free(other);
    }
}

static coapd_answer *copy_answer(const coapd_answer *a)
{
    coapd_answer *copy = malloc(sizeof(*copy) + a->payload_size);

    if (!copy)
        return NULL;
    *copy = *a;
    copy->payload = copy + 1;
    if (a->payload_size > 0)
        memcpy(copy + 1, a->payload, a->payload_size);
    return copy;
}

/* There is one already, unless it had to go meanwhile. */
static CoapdRecord *get(CoapdSession *s, const coapd_message *m, size_t size)
{
    CoapdRecord *r = find(s, m->mid);

    if (r) {
        list_remove(&r->node); /* so that it does not make room for itself */
        s->n_records--;
    }
    make_room(s, size);
    if (!r) {
        r = calloc(1, sizeof(*r));
        if (!r)
            return NULL;
        r->mid = m->mid;
        ++*count_of(s, m->mid);
        s->coapd->record_bytes += bytes_of(r);
    }
    list_append(&s->records, &r->node);
    s->n_records++;
    return r;
}

static void keep(CoapdSession *s, const coapd_message *m, const coapd_answer *a, bool answered)
{
    CoapdRecord *r = get(s, m, sizeof(*r) + (a ? sizeof(*a) + a->payload_size : 0));

    if (!r)
        return;
    r->when = timer_now();
    r->idempotent = m->idempotent;
    r->acknowledged = m->acknowledged;
    r->answered = answered;
    s->coapd->record_bytes -= bytes_of(r);
    free(r->answer);
    r->answer = a ? copy_answer(a) : NULL;
    s->coapd->record_bytes += bytes_of(r);
}

void coapd_record_new(CoapdSession *s, const coapd_message *m)
{
    if (!s->reliable)
        keep(s, m, NULL, false);
}

/* --- sending ------------------------------------------------------------------------------------
 */

static void send_empty(CoapdSession *s, coap_mid_t mid)
{
    coap_pdu_t *p = coap_pdu_init(COAP_MESSAGE_ACK, 0, mid, 0);

    if (p)
        (void)coapd_session_send(s, p);
}

static coap_mid_t send_answer(CoapdSession *s, const coapd_message *m, const coapd_answer *a,
                              coap_pdu_type_t type, coap_mid_t mid)
{
    coap_pdu_t *p = coapd_answer_pdu(a, type, mid, m->token, m->token_size,
                                     coapd_session_message_max(s));

    return p ? coapd_session_send(s, p) : COAP_INVALID_MID;
}

bool coapd_record_again(CoapdSession *s, const coapd_message *m)
{
    CoapdRecord *r = s->reliable ? NULL : find(s, m->mid);

    if (!r)
        return false;
    if (timer_now() - r->when >= COAPD_RECORD_USEC) {
        record_free(s, r);
        return false;
    }
    s->coapd->counters.duplicates++;
    if (!m->confirmable)
        return true;
    if (r->acknowledged)
        send_empty(s, m->mid); /* the library sends the answer again by itself */
    else if (r->answered && r->answer)
        (void)send_answer(s, m, r->answer, COAP_MESSAGE_ACK, m->mid);
    return true;
}

void coapd_acknowledge(CoapdSession *s, coapd_message *m)
{
    if (!m->confirmable || m->acknowledged || s->reliable)
        return;
    m->acknowledged = true;
    keep(s, m, NULL, false);
    send_empty(s, m->mid);
}

static bool is_unwanted(const coapd_message *m, coap_pdu_code_t code)
{
    return m->no_response & 1u << (COAP_RESPONSE_CLASS(code) - 1);
}

coap_mid_t coapd_send_answer(CoapdSession *s, coapd_message *m, const coapd_answer *a)
{
    coap_mid_t mid = m->mid;
    coap_pdu_type_t type = COAP_MESSAGE_ACK;

    s->coapd->counters.answers[MIN_OF(COAP_RESPONSE_CLASS(a->code), 5u)]++;
    if (is_unwanted(m, a->code)) {
        coapd_acknowledge(s, m);
        return COAP_INVALID_MID;
    }
    if (!m->confirmable || m->acknowledged || s->reliable) {
        type = m->confirmable ? COAP_MESSAGE_CON : COAP_MESSAGE_NON;
        mid = coapd_session_mid(s);
    }
    if (m->acknowledged)
        s->coapd->counters.separate++;
    if (!s->reliable && m->confirmable)
        keep(s, m, m->acknowledged ? NULL : a, true);
    return send_answer(s, m, a, type, mid);
}

void coapd_refuse(CoapdSession *s, coapd_message *m, coap_pdu_code_t code, const char *text)
{
    coapd_answer a = COAPD_ANSWER(code);

    a.payload = text;
    a.payload_size = strlen(text);
    (void)coapd_send_answer(s, m, &a);
}

coap_mid_t coapd_push(CoapdSession *s, const coapd_message *m, const coapd_answer *a)
{
    return send_answer(s, m, a, m->confirmable ? COAP_MESSAGE_CON : COAP_MESSAGE_NON, m->mid);
}
