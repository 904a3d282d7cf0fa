/* SPDX-License-Identifier: Apache-2.0 */
/* One request with its answer, over all their blocks (RFC 7959). A request that comes in blocks is
 * streamed to the responder as they come; an answer that goes in blocks is held as far as the
 * client has not asked for it, and the responder is given credit as it does. A responder that takes
 * its time makes the answer a separate one. */

#include "coap-node.h"

#include <openssl/rand.h>

#define LINK_FORMAT 40u
#define LINK_AGAIN_USEC (50u * 1000u)
#define LINK_TRIES 50u
#define CONTINUE ((coap_pdu_code_t)COAP_RESPONSE_CODE(231))
#define INCOMPLETE ((coap_pdu_code_t)COAP_RESPONSE_CODE(408))
#define TOO_LARGE ((coap_pdu_code_t)COAP_RESPONSE_CODE(413))
#define UNAVAILABLE ((coap_pdu_code_t)COAP_RESPONSE_CODE(503))

/* --- life ---------------------------------------------------------------------------------------
 */

static void on_acknowledge(endpoint_timer *t)
{
    CoapdExchange *x = list_entry(t, CoapdExchange, acknowledge);

    if (x->waiting)
        coapd_acknowledge(x->session, &x->message);
}

static void on_linger(endpoint_timer *t)
{
    CoapdExchange *x = list_entry(t, CoapdExchange, linger);

    if (!x->waiting)
        coapd_exchange_free(x);
}

static coapd_rank rank_of(const CoapdSession *s)
{
    return s->counted    ? COAPD_RANK_KNOWN
           : s->verified ? COAPD_RANK_STRANGER
                         : COAPD_RANK_UNVERIFIED;
}

static CoapdExchange *exchange_new(CoapdSession *s, uint64_t key)
{
    CoapdExchange *x = calloc(1, sizeof(*x));

    if (!x)
        return NULL;
    x->session = s;
    x->busy = 1;
    x->key = key;
    x->szx = 6;
    x->accept = COAPD_FORMAT_NONE;
    x->answer = COAPD_ANSWER(0);
    list_init(&x->idle);
    list_init(&x->acknowledge.node);
    list_init(&x->linger.node);
    list_init(&x->again.node);
    x->acknowledge.fire = on_acknowledge;
    x->linger.fire = on_linger;
    list_append(&s->exchanges, &x->node);
    s->n_exchanges++;
    x->rank = rank_of(s);
    s->coapd->n_of_rank[x->rank]++;
    s->coapd->n_exchanges++;
    coapd_session_hold(s);
    return x;
}

static void set_waiting(CoapdExchange *x, bool waiting)
{
    if (x->waiting == waiting)
        return;
    x->waiting = waiting;
    x->session->coapd->n_waiting[x->rank] += waiting ? 1 : (size_t)-1;
}

/* Its client is to ask for the next block, or to send it. */
static void await_client(CoapdExchange *x)
{
    Coapd *d = x->session->coapd;

    /* What has been told in full keeps no place with its responder. */
    if (x->ended)
        endpoint_request_free(TAKE_PTR(x->request));
    list_remove(&x->idle);
    list_append(&d->idle[x->rank], &x->idle);
    timer_start(&d->timers, TIMERS_REQUEST, &x->linger, timer_now() + COAPD_LINGER_USEC);
}

/* Of all requests, a quarter may be of those who may not be there, and three eighths of strangers
 * in all: a responder takes half of them at the same time, so some of its places are left for the
 * known. */
static bool is_full(const Coapd *d, coapd_rank rank)
{
    size_t all = d->settings->requests, strangers;

    strangers = d->n_of_rank[COAPD_RANK_UNVERIFIED] + d->n_of_rank[COAPD_RANK_STRANGER];
    return d->n_exchanges >= all || (rank < COAPD_RANK_KNOWN && strangers >= all * 3 / 8) ||
           (rank == COAPD_RANK_UNVERIFIED && d->n_of_rank[rank] >= all / 4);
}

/* A responder answers one request after the other: a forger's, who never sees the answers, would be
 * ahead of everybody's. Beyond some, those who may not be there have to show that they are. */
static bool must_show_itself(const CoapdSession *s)
{
    const Coapd *d = s->coapd;

    return !s->verified &&
           d->n_waiting[COAPD_RANK_UNVERIFIED] >= MAX_OF(d->settings->requests / 32, 4u);
}

/* There is room for another request of `s`, maybe because one went that waited for its client: the
 * longest, of those who are no better known. */
static bool make_room(CoapdSession *s)
{
    Coapd *d = s->coapd;
    coapd_rank rank = rank_of(s);

    for (unsigned i = 0; i <= rank; i++)
        while (!list_empty(&d->idle[i]) && is_full(d, rank)) {
            coapd_exchange_free(list_entry(d->idle[i].next, CoapdExchange, idle));
            d->counters.exchanges_evicted++;
        }
    return !is_full(d, rank);
}

/* The core may answer from within a call; whoever makes one stays in the exchange for its length.
 */
static void enter(CoapdExchange *x)
{
    x->busy++;
}

static bool leave(CoapdExchange *x)
{
    bool gone = x->gone;

    if (--x->busy == 0 && gone)
        free(x);
    return gone;
}

void coapd_exchange_free(CoapdExchange *x)
{
    CoapdSession *s = x->session;

    timer_stop(&x->acknowledge);
    timer_stop(&x->linger);
    timer_stop(&x->again);
    list_remove(&x->idle);
    if (x->observer)
        coapd_observer_free(TAKE_PTR(x->observer));
    coapd_rd_forget(x);
    endpoint_request_free(x->request);
    s->coapd->held -= x->body_room;
    free(x->body);
    free(x->stuck);
    list_remove(&x->node);
    set_waiting(x, false);
    s->n_exchanges--;
    s->coapd->n_of_rank[x->rank]--;
    s->coapd->n_exchanges--;
    x->request = NULL;
    x->stuck = NULL;
    x->gone = true;
    leave(x);
    coapd_session_release(s);
}

static CoapdExchange *find(CoapdSession *s, uint64_t key)
{
    list_for_each(n, &s->exchanges)
    {
        CoapdExchange *x = list_entry(n, CoapdExchange, node);
        if (x->key == key)
            return x;
    }
    return NULL;
}

/* What lies here to be fetched in blocks was allowed under another policy; what is still open is
 * judged by the core. */
void coapd_exchanges_recheck(Coapd *d)
{
    list_for_each(n, &d->sessions)
    {
        CoapdSession *s = list_entry(n, CoapdSession, node);

        coapd_session_hold(s);
        for (list *m = s->exchanges.next, *next; m != &s->exchanges; m = next) {
            CoapdExchange *x = list_entry(m, CoapdExchange, node);

            next = m->next;
            if (!x->waiting && x->ended)
                coapd_exchange_free(x);
        }
        coapd_session_release(s);
    }
}

/* --- the answer's way out -----------------------------------------------------------------------
 */

static int hold(CoapdExchange *x, const void *data, size_t size)
{
    Coapd *d = x->session->coapd;
    size_t need = x->body_size + size;
    uint8_t *bytes;

    if (size == 0)
        return 0;
    if (need > x->body_room) {
        size_t twice = MIN_OF(x->body_room * 2, (size_t)COAPD_WINDOW), room = MAX_OF(need, twice);

        if (d->held - x->body_room + room > COAPD_HELD_BYTES)
            return -ENOBUFS;
        bytes = realloc(x->body, room);
        if (!bytes)
            return -ENOMEM;
        d->held += room - x->body_room;
        x->body = bytes;
        x->body_room = room;
    }
    memcpy(x->body + x->body_size, data, size);
    x->body_size = need;
    return 0;
}

/* The client has said what it takes, and this is something else. */
static bool is_mismatch(const CoapdExchange *x)
{
    return COAP_RESPONSE_CLASS(x->answer.code) == 2 && x->accept != COAPD_FORMAT_NONE &&
           x->answer.format != x->accept && (x->body_size > 0 || !x->ended);
}

/* Blocks that the client has behind it make room for what follows. */
static void drop_old(CoapdExchange *x)
{
    size_t keep_from = x->wanted > COAPD_HISTORY ? x->wanted - COAPD_HISTORY : 0;
    size_t n;

    if (x->ended || keep_from <= x->body_at || is_mismatch(x))
        return;
    n = MIN_OF(keep_from - x->body_at, x->body_size);
    memmove(x->body, x->body + n, x->body_size - n);
    x->body_at += n;
    x->body_size -= n;
    if (x->request)
        endpoint_request_consumed(x->request, n);
}

/* --- formats ------------------------------------------------------------------------------------
 */

/* The whole body, in the format that is wanted. */
static int convert(CoapdExchange *x)
{
    uint8_t *bytes = NULL;
    size_t size = 0;
    int r;

    r = coapd_convert(x->answer.format, x->accept, x->body, x->body_size, &bytes, &size);
    if (r < 0)
        return r;
    x->body_size = 0;
    r = hold(x, bytes, size);
    free(bytes);
    x->answer.format = x->accept;
    /* Another representation has another tag. */
    if (x->answer.etag.size > 0)
        coapd_etag_of_body(x->body, x->body_size, &x->answer.etag);
    return r;
}

static bool has_etag(const CoapdExchange *x, const coapd_etag *e)
{
    for (size_t i = 0; i < x->n_etags; i++)
        if (coapd_etag_equal(&x->etags[i], e))
            return true;
    return false;
}

/* Blocks need a tag, so that a client never puts two answers together. */
static void make_etag(CoapdExchange *x)
{
    if (x->answer.etag.size > 0)
        return;
    if (x->ended && x->body_at == 0) {
        coapd_etag_of_body(x->body, x->body_size, &x->answer.etag);
    } else {
        x->answer.etag.size = 8;
        if (RAND_bytes(x->answer.etag.bytes, 8) != 1)
            x->answer.etag.size = 0;
    }
}

/* A validation: the client has it already. */
static void answer_valid(coapd_answer *a)
{
    a->code = COAP_RESPONSE_CODE(203);
    a->format = COAPD_FORMAT_NONE;
    a->payload = NULL;
    a->payload_size = 0;
    a->block2.there = a->has_size2 = false;
}

static void fill_payload(CoapdExchange *x, coapd_answer *a, bool whole)
{
    size_t left = x->body_at + x->body_size - x->wanted;
    size_t most = coapd_block_size(x->szx);

    a->payload = x->body + (x->wanted - x->body_at);
    a->payload_size = whole ? left : MIN_OF(left, most);
    if (whole)
        return;
    make_etag(x);
    a->etag = x->answer.etag;
    a->block2 = (coapd_block){.there = true,
                              .more = !x->ended || left > most,
                              .number = (uint32_t)(x->wanted / most),
                              .szx = x->szx};
    a->has_size2 = x->ended && x->wanted == 0;
    a->size2 = (uint32_t)(x->body_at + x->body_size);
}

/* An error's document becomes text; CoAP's errors carry no more. */
static void fill_error(CoapdExchange *x, coapd_answer *a, char *text, size_t room)
{
    a->format = COAPD_FORMAT_NONE;
    a->payload = text;
    a->payload_size = coapd_diagnostic(x->body, x->body_size, text, room);
    if (!x->session->verified)
        a->payload_size = MIN_OF(a->payload_size, 2 * x->request_size);
    if (a->code == TOO_LARGE) {
        a->has_size1 = true;
        a->size1 = (uint32_t)x->session->coapd->settings->body;
    }
}

static void finish(CoapdExchange *x, coapd_answer *a)
{
    bool more = a->block2.there && a->block2.more;

    timer_stop(&x->acknowledge);
    set_waiting(x, false);
    if (x->block1.there) {
        a->block1 = x->block1;
        a->block1.more = false;
    }
    if (x->observer)
        coapd_observer_answer(TAKE_PTR(x->observer), a);
    if (a->block2.there)
        x->session->coapd->counters.blocks++;
    if (a->block2.there && !x->session->verified) {
        a->echo_size = COAPD_ECHO_SIZE;
        coapd_echo_make(x->session, a->echo);
    }
    (void)coapd_send_answer(x->session, &x->message, a);
    if (!more && x->ended)
        coapd_exchange_free(x);
    else
        await_client(x);
}

static void finish_refused(CoapdExchange *x, coap_pdu_code_t code)
{
    coapd_answer a = COAPD_ANSWER(code);

    x->ended = true;
    finish(x, &a);
}

/* Whether there is enough to answer what was asked for. */
static bool is_ready(const CoapdExchange *x, bool whole)
{
    size_t there = x->body_at + x->body_size;

    if (x->ended)
        return true;
    if (COAP_RESPONSE_CLASS(x->answer.code) != 2 || is_mismatch(x))
        return false;
    return !whole && there > x->wanted + coapd_block_size(x->szx);
}

/* Does all of it, as far as it is there, fit into one message? */
static bool is_whole(CoapdExchange *x)
{
    size_t there = x->body_at + x->body_size;
    uint8_t szx = coapd_echo_szx(x->session, x->szx, x->request_size);
    size_t most =
        x->session->reliable ? coapd_session_payload_room(x->session) : coapd_block_size(szx);

    x->szx = szx;
    return !x->blockwise && there <= most;
}

/* Sends what there is to send. The exchange may be gone afterwards. */
static void progress(CoapdExchange *x)
{
    size_t there;
    coapd_answer a;
    char text[256];
    bool whole;

    if (!x->waiting) {
        if (x->ended && x->failed)
            coapd_exchange_free(x);
        return;
    }
    if (x->failed) {
        finish_refused(x, x->replied ? COAP_RESPONSE_CODE(502) : UNAVAILABLE);
        return;
    }
    whole = is_whole(x);
    if (!x->replied || !is_ready(x, whole) ||
        (x->observer && coapd_observer_undecided(x->observer)))
        return;
    if (is_mismatch(x)) {
        if (x->body_at > 0 || convert(x) < 0) {
            finish_refused(x, COAP_RESPONSE_CODE(406));
            return;
        }
        whole = is_whole(x);
    }
    a = x->answer;
    there = x->body_at + x->body_size;
    if (COAP_RESPONSE_CLASS(a.code) != 2) {
        fill_error(x, &a, text, sizeof(text));
    } else if (x->wanted > there || (x->wanted == there && x->wanted > 0)) {
        a = COAPD_ANSWER(COAP_RESPONSE_CODE(400)); /* behind the end */
    } else if (a.code == COAP_RESPONSE_CODE(203) ||
               (a.etag.size > 0 && x->wanted == 0 && a.code == COAP_RESPONSE_CODE(205) &&
                has_etag(x, &a.etag))) {
        answer_valid(&a);
    } else {
        x->blockwise = x->blockwise || !whole;
        fill_payload(x, &a, whole);
    }
    finish(x, &a);
}

void coapd_exchange_answer(CoapdExchange *x, const coapd_answer *a)
{
    if (hold(x, a->payload, a->payload_size) < 0) {
        finish_refused(x, UNAVAILABLE);
        return;
    }
    x->answer = *a;
    x->answer.payload = NULL;
    x->answer.payload_size = 0;
    x->replied = x->ended = true;
    progress(x);
}

void coapd_exchange_finish(CoapdExchange *x, const coapd_answer *a)
{
    coapd_answer copy = *a;

    x->body_size = 0;
    x->ended = true;
    if (!x->session->verified)
        copy.payload_size = MIN_OF(copy.payload_size, 2 * x->request_size);
    finish(x, &copy);
}

void coapd_exchange_decided(CoapdSession *s, const CoapdObserver *o)
{
    list_for_each(n, &s->exchanges)
    {
        CoapdExchange *x = list_entry(n, CoapdExchange, node);

        if (x->observer != o)
            continue;
        progress(x);
        return;
    }
}

/* The size of the answer, when it was not what the responder promised, shows as an abort. */
static void on_reply(endpoint_request *r, unsigned status, const endpoint_field *headers, size_t n,
                     const void *body, size_t size, bool end, void *userdata)
{
    CoapdExchange *x = userdata;

    x->status = status;
    x->replied = true;
    x->uploading = false;
    x->ended = end;
    x->answer.code = coapd_code_of(status, x->method);
    coapd_answer_fields(&x->answer, headers, n);
    if (x->answer.code == COAP_RESPONSE_CODE(203) && x->answer.etag.size == 0 && x->n_etags == 1)
        x->answer.etag = x->etags[0];
    if (hold(x, body, size) < 0)
        x->failed = x->ended = true;
    if (x->request)
        progress(x);
}

/* Credit may bring the next piece at once. */
static void go_on(CoapdExchange *x)
{
    enter(x);
    drop_old(x);
    if (!leave(x))
        progress(x);
}

static void on_data(endpoint_request *r, const void *data, size_t size, bool end, void *userdata)
{
    CoapdExchange *x = userdata;
    bool error = COAP_RESPONSE_CLASS(x->answer.code) != 2;

    if (error && x->body_size + size > COAPD_BLOCK_SIZE_MAX) /* of an error, a line is enough */
        size = 0;
    x->ended = end;
    /* What is to be converted has to be whole, and no more than that is held. */
    if (hold(x, data, size) < 0 || (!end && is_mismatch(x) && x->body_size >= COAPD_CONVERT_MAX))
        x->failed = x->ended = true;
    go_on(x);
}

static void on_abort(endpoint_request *r, unsigned status, void *userdata)
{
    CoapdExchange *x = userdata;

    x->failed = x->ended = true;
    progress(x);
}

/* --- a request in blocks ------------------------------------------------------------------------
 */

static void answer_continue(CoapdExchange *x)
{
    coapd_answer a = COAPD_ANSWER(CONTINUE);

    a.block1 = x->block1;
    timer_stop(&x->acknowledge);
    set_waiting(x, false);
    x->session->coapd->counters.blocks++;
    (void)coapd_send_answer(x->session, &x->message, &a);
    await_client(x);
}

/* The block that waits goes on when the responder has room; that is what slows its client down. */
static void on_taken(endpoint_request *r, size_t size, void *userdata)
{
    CoapdExchange *x = userdata;
    bool end = !x->block1.more;
    int k;

    if (!x->stuck || !x->request)
        return;
    enter(x);
    k = endpoint_request_body(x->request, x->stuck, x->stuck_size, end);
    if (leave(x) || k < 0)
        return;
    x->uploaded += x->stuck_size;
    free(TAKE_PTR(x->stuck));
    if (end)
        x->uploading = false;
    else if (x->waiting)
        answer_continue(x);
}

static const endpoint_reply_ops reply_ops = {
    .reply = on_reply, .data = on_data, .abort = on_abort, .taken = on_taken};

static int keep_stuck(CoapdExchange *x, const coapd_question *q)
{
    x->stuck = malloc(MAX_OF(q->payload_size, (size_t)1));
    if (!x->stuck)
        return -ENOMEM;
    memcpy(x->stuck, q->payload, q->payload_size);
    x->stuck_size = q->payload_size;
    return 0;
}

static void next_upload(CoapdExchange *x, const coapd_question *q)
{
    const void *data = q->payload ? (const void *)q->payload : "";
    int r;

    enter(x);
    r = endpoint_request_body(x->request, data, q->payload_size, !q->block1.more);
    if (leave(x) || x->replied) /* answered by the core or the responder, just now */
        return;
    if (r == -EAGAIN && keep_stuck(x, q) == 0)
        return;
    if (r < 0) {
        finish_refused(x, UNAVAILABLE);
        return;
    }
    x->uploaded += q->payload_size;
    if (q->block1.more)
        answer_continue(x);
    else
        x->uploading = false;
}

/* --- asking the core ----------------------------------------------------------------------------
 */

static void add_field(endpoint_field *fields, size_t *n, const char *name, const char *value)
{
    if (value && *value)
        fields[(*n)++] = (endpoint_field){name, strlen(name), value, strlen(value)};
}

static const char *etag_list(const coapd_etag *tags, size_t n, char *text, size_t room)
{
    size_t at = 0;

    text[0] = 0;
    for (size_t i = 0; i < n; i++) {
        char one[11];

        if (coapd_etag_text(&tags[i], one) && at + strlen(one) + 3 < room)
            at += (size_t)snprintf(text + at, room - at, "%s%s", at ? ", " : "", one);
    }
    return text;
}

/* The other one is as good: it is converted here. */
static const char *accept_of(const coapd_question *q)
{
    return q->accept == COAPD_FORMAT_JSON   ? "application/json, application/cbor;q=0.5"
           : q->accept == COAPD_FORMAT_CBOR ? "application/cbor, application/json;q=0.5"
                                            : coapd_format_name(q->accept);
}

static void ask_core(CoapdExchange *x, const coapd_question *q)
{
    char matches[64], tags[64];
    endpoint_field fields[COAPD_FIELDS_MAX];
    endpoint_request_info info = {.method = q->method,
                                  .path = q->path,
                                  .query = q->query,
                                  .headers = fields,
                                  .body = q->payload,
                                  .body_size = q->payload_size,
                                  .body_end = !q->block1.there || !q->block1.more};
    endpoint_request *request;

    add_field(fields, &info.n_headers, "host", q->host[0] ? q->host : x->session->local_name);
    add_field(fields, &info.n_headers, "accept", accept_of(q));
    add_field(fields, &info.n_headers, "content-type", coapd_format_name(q->format));
    add_field(fields, &info.n_headers, "if-match",
              etag_list(q->if_match, q->n_if_match, matches, sizeof(matches)));
    add_field(fields, &info.n_headers, "if-none-match",
              q->if_none_match ? "*" : etag_list(q->etags, q->n_etags, tags, sizeof(tags)));
    x->uploading = !info.body_end;
    x->uploaded = q->payload_size;
    if (endpoint_request_new(x->session->peer, &info, &reply_ops, x, &request) < 0) {
        finish_refused(x, UNAVAILABLE);
        return;
    }
    x->request = request;
    if (x->replied)
        progress(x);
    else if (x->uploading)
        answer_continue(x);
}

/* --- requests in CBOR: a responder is spoken to in JSON
 * -------------------------------------------
 */

static bool is_converted(const CoapdSession *s, const coapd_question *q)
{
    return s->coapd->settings->convert && q->format == COAPD_FORMAT_CBOR &&
           (q->payload_size > 0 || q->block1.there);
}

static void ask_converted(CoapdExchange *x, const coapd_question *q, const void *data, size_t size)
{
    coapd_question asked = *q;
    uint8_t *json = NULL;
    size_t n = 0;
    int r = coapd_cbor_to_json(data, size, &json, &n);

    x->collecting = false;
    x->body_size = 0; /* it was the request's */
    if (r < 0) {
        finish_refused(x, r == -EMSGSIZE ? TOO_LARGE : COAP_RESPONSE_CODE(400));
        return;
    }
    asked.format = COAPD_FORMAT_JSON;
    asked.payload = json;
    asked.payload_size = n;
    ask_core(x, &asked);
    free(json);
}

static void ask_directory(CoapdExchange *x, const coapd_question *q, const void *data, size_t size)
{
    x->collecting = x->uploading = false;
    x->body_size = 0; /* it was the request's, and is copied */
    coapd_rd_ask(x, q, data, size);
}

static void collect(CoapdExchange *x, const coapd_question *q)
{
    size_t most = MIN_OF(x->session->coapd->settings->body, (uint64_t)COAPD_CONVERT_MAX);

    if (coapd_rd_path(x->session->coapd, q->path))
        most = x->session->coapd->settings->node_link_bytes;
    x->collecting = x->uploading = true;
    if (q->payload_size > most - x->body_size || hold(x, q->payload, q->payload_size) < 0) {
        finish_refused(x, TOO_LARGE);
        return;
    }
    x->uploaded += q->payload_size;
    if (q->block1.more)
        answer_continue(x);
    else if (coapd_rd_path(x->session->coapd, q->path))
        ask_directory(x, q, x->body, x->body_size);
    else
        ask_converted(x, q, x->body, x->body_size);
}

/* What the client asks for cannot be asked in HTTP's words, or is too much. */
static coap_pdu_code_t judge(CoapdSession *s, const coapd_question *q)
{
    const Coapd *d = s->coapd;
    char text[11];

    if (q->accept != COAPD_FORMAT_NONE && !coapd_format_name(q->accept))
        return COAP_RESPONSE_CODE(406);
    if (q->format != COAPD_FORMAT_NONE && !coapd_format_name(q->format))
        return COAP_RESPONSE_CODE(415);
    for (size_t i = 0; i < q->n_if_match; i++)
        if (q->if_match[i].size > 0 && !coapd_etag_text(&q->if_match[i], text))
            return COAP_RESPONSE_CODE(412); /* none of a responder's that we could have told */
    if (q->block1.there && q->block1.more &&
        (q->payload_size == 0 || q->payload_size % coapd_block_size(q->block1.szx) != 0 ||
         (q->block1.szx < 7 && q->payload_size != coapd_block_size(q->block1.szx))))
        return COAP_RESPONSE_CODE(400);
    if ((q->size1 != UINT64_MAX && q->size1 > d->settings->body) ||
        q->payload_size > d->settings->body)
        return TOO_LARGE;
    if (s->n_exchanges >= d->settings->requests_session)
        return COAP_RESPONSE_CODE(429);
    return d->draining ? UNAVAILABLE : 0;
}

static void refuse(CoapdSession *s, coapd_message *m, coap_pdu_code_t code)
{
    coapd_answer a = COAPD_ANSWER(code);

    if (code == TOO_LARGE) {
        a.has_size1 = true;
        a.size1 = (uint32_t)s->coapd->settings->body;
    }
    if (code == COAP_RESPONSE_CODE(429) || code == UNAVAILABLE) {
        s->coapd->counters.limited++;
        a.has_max_age = true;
        a.max_age = 1;
    }
    (void)coapd_send_answer(s, m, &a);
}

static void demand_echo(CoapdSession *s, coapd_message *m)
{
    coapd_answer a = COAPD_ANSWER(COAP_RESPONSE_CODE(401));

    s->coapd->counters.limited++;
    a.echo_size = COAPD_ECHO_SIZE;
    coapd_echo_make(s, a.echo);
    (void)coapd_send_answer(s, m, &a);
}

static void take_question(CoapdExchange *x, const coapd_message *m, const coapd_question *q)
{
    Coapd *d = x->session->coapd;

    x->message = *m;
    x->request_size = q->size;
    x->accept = q->accept;
    set_waiting(x, true);
    x->method = q->method;
    x->block1 = q->block1;
    if (q->block2.there) {
        x->szx = MIN_OF(q->block2.szx, (uint8_t)6);
        x->wanted = (size_t)q->block2.number * coapd_block_size(q->block2.szx);
        x->blockwise = true;
    }
    x->n_etags = q->n_etags;
    memcpy(x->etags, q->etags, sizeof(x->etags));
    timer_stop(&x->linger);
    list_remove(&x->idle);
    if (!x->session->reliable)
        timer_start(&d->timers, TIMERS_SHORT, &x->acknowledge,
                    timer_now() + d->settings->acknowledge);
}

/* --- /.well-known/core --------------------------------------------------------------------------
 */

static void answer_links(CoapdExchange *x)
{
    char *text = NULL;
    size_t size = 0;
    int r = coapd_links(x->session, x->query, &text, &size);

    if (r == -EAGAIN && x->tries++ < LINK_TRIES) {
        timer_start(&x->session->coapd->timers, TIMERS_SHORT, &x->again,
                    timer_now() + LINK_AGAIN_USEC);
        return;
    }
    if (r >= 0)
        r = hold(x, text, size);
    free(text);
    if (r < 0) {
        finish_refused(x, r == -EINVAL ? COAP_RESPONSE_CODE(400) : UNAVAILABLE);
        return;
    }
    x->answer = COAPD_ANSWER(COAP_RESPONSE_CODE(205));
    x->answer.format = LINK_FORMAT;
    x->replied = x->ended = true;
    progress(x);
}

static void on_again(endpoint_timer *t)
{
    answer_links(list_entry(t, CoapdExchange, again));
}

static void list_links(CoapdExchange *x, const coapd_question *q)
{
    if (!streq(q->method, "GET")) {
        finish_refused(x, COAP_RESPONSE_CODE(405));
        return;
    }
    if (strlen(q->query) >= sizeof(x->query)) {
        finish_refused(x, COAP_RESPONSE_CODE(400));
        return;
    }
    memcpy(x->query, q->query, strlen(q->query) + 1);
    x->again.fire = on_again;
    answer_links(x);
}

static void begin(CoapdSession *s, coapd_message *m, const coapd_question *q)
{
    CoapdExchange *old = find(s, q->key), *x;
    coap_pdu_code_t refused;
    bool rd;

    /* Asked anew. Two messages that ask the same at the same time are answered both. */
    if (old && !old->waiting)
        coapd_exchange_free(old);
    refused = judge(s, q);
    if (!refused && must_show_itself(s)) {
        demand_echo(s, m);
        return;
    }
    if (!refused && !make_room(s))
        refused = UNAVAILABLE;
    x = refused ? NULL : exchange_new(s, q->key);
    if (!x) {
        refuse(s, m, refused ? refused : UNAVAILABLE);
        return;
    }
    take_question(x, m, q);
    rd = coapd_rd_path(s->coapd, q->path);
    if (q->observe == 0 && streq(q->method, "GET") && !rd && !streq(q->path, COAPD_WELL_KNOWN))
        x->observer = coapd_observer_new(x, q);
    if (streq(q->path, COAPD_WELL_KNOWN))
        list_links(x, q);
    else if (rd && q->block1.there)
        collect(x, q);
    else if (rd)
        ask_directory(x, q, q->payload, q->payload_size);
    else if (is_converted(s, q) && q->block1.there)
        collect(x, q);
    else if (is_converted(s, q))
        ask_converted(x, q, q->payload, q->payload_size);
    else
        ask_core(x, q);
}

static void continue_upload(CoapdSession *s, coapd_message *m, const coapd_question *q)
{
    CoapdExchange *x = find(s, q->key);
    size_t at = (size_t)q->block1.number * coapd_block_size(q->block1.szx);

    if (x && (x->waiting || x->stuck)) {
        coapd_refuse(s, m, INCOMPLETE, "one block at a time");
        return;
    }
    if (x && x->replied && !x->uploading) { /* the responder has said what it thinks */
        take_question(x, m, q);
        progress(x);
        return;
    }
    if (!x || !x->uploading || at != x->uploaded || judge(s, q) == COAP_RESPONSE_CODE(400)) {
        if (x)
            coapd_exchange_free(x);
        coapd_refuse(s, m, INCOMPLETE, "");
        return;
    }
    take_question(x, m, q);
    if (x->collecting)
        collect(x, q);
    else
        next_upload(x, q);
}

static void continue_download(CoapdSession *s, coapd_message *m, const coapd_question *q)
{
    CoapdExchange *x = find(s, q->key);
    size_t at = (size_t)q->block2.number * coapd_block_size(q->block2.szx);

    if (x && !x->waiting && x->replied && at >= x->body_at) {
        take_question(x, m, q);
        go_on(x);
    } else if (q->safe) {
        begin(s, m, q); /* from somewhere in the middle: what is before it is passed over */
    } else {
        coapd_refuse(s, m, INCOMPLETE, "");
    }
}

static void serve(CoapdSession *s, coapd_message *m, const coapd_question *q)
{
    coap_pdu_code_t refused = coapd_session_admit(s);

    if (refused)
        refuse(s, m, refused);
    else if (q->block1.there && q->block1.number > 0)
        continue_upload(s, m, q);
    else if (q->block2.there && q->block2.number > 0)
        continue_download(s, m, q);
    else
        begin(s, m, q);
}

/* --- the door -----------------------------------------------------------------------------------
 */

static void take_message(const coap_pdu_t *request, coapd_message *m)
{
    coap_bin_const_t token = coap_pdu_get_token(request);

    *m = (coapd_message){.mid = coap_pdu_get_mid(request),
                         .confirmable = coap_pdu_get_type(request) == COAP_MESSAGE_CON,
                         .token_size = (uint8_t)MIN_OF(token.length, (size_t)8)};
    if (m->token_size > 0)
        memcpy(m->token, token.s, m->token_size);
}

void coapd_take_request(CoapdSession *s, const coap_pdu_t *request)
{
    Coapd *d = s->coapd;
    coap_pdu_code_t refused;
    coapd_question q;
    coapd_message m;

    take_message(request, &m);
    if (coapd_record_again(s, &m))
        return;
    s->requests++;
    d->counters.requests++;
    refused = coapd_question_parse(request, s->reliable, &q);
    m.no_response = q.no_response;
    m.idempotent = q.idempotent;
    coapd_record_new(s, &m);
    coapd_session_hold(s);
    if (q.echo)
        coapd_echo_check(s, q.echo, q.echo_size);
    /* Who fetches further blocks and says Observe again (some do) means the same observation. */
    if (q.observe == 1 || (q.observe == 0 && q.block2.number == 0))
        coapd_observer_cancel(s, &m);
    if (refused) {
        d->counters.malformed++;
        /* Nobody waits to be told of an option that is not understood (RFC 7252, 5.4.1). */
        if (refused != COAP_RESPONSE_CODE(402) || m.confirmable || s->reliable)
            refuse(s, &m, refused);
    } else {
        serve(s, &m, &q);
    }
    coapd_session_release(s);
}

void coapd_on_request(coap_resource_t *resource, coap_session_t *session, const coap_pdu_t *request,
                      const coap_string_t *query, coap_pdu_t *response)
{
    CoapdSession *s =
        coapd_session_get(coap_get_app_data(coap_session_get_context(session)), session);

    /* An empty message that is not confirmable is dropped: we answer by ourselves, now or later. */
    coap_pdu_set_type(response, COAP_MESSAGE_NON);
    if (s && !coap_is_mcast(coap_session_get_addr_local(session)))
        coapd_take_request(s, request);
}

/* Few clients begin again when a representation changes under their hands: who has just been given
 * a block has some time to ask for the next, and longer when it has asked for one before. */
static bool is_being_fetched(const CoapdExchange *x)
{
    uint64_t since = timer_now() + COAPD_LINGER_USEC - x->linger.when;

    return !list_empty(&x->linger.node) &&
           since < (x->wanted > 0 ? COAPD_FETCH_USEC : COAPD_FETCH_USEC / 4);
}

int coapd_exchange_of_value(CoapdSession *s, uint64_t key, const void *body, size_t size,
                            uint8_t szx, coapd_answer *a)
{
    CoapdExchange *x = find(s, key);

    if (x && (x->waiting || is_being_fetched(x)))
        return -EBUSY;
    if (x)
        coapd_exchange_free(x);
    x = exchange_new(s, key);
    if (!x)
        return -ENOMEM;
    if (hold(x, body, size) < 0) {
        coapd_exchange_free(x);
        return -ENOBUFS;
    }
    x->method = "GET";
    x->replied = x->ended = x->blockwise = true;
    x->szx = szx;
    x->answer = *a;
    x->answer.has_observe = false;
    fill_payload(x, a, false);
    await_client(x);
    return 0;
}
