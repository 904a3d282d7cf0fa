/* SPDX-License-Identifier: Apache-2.0 */
/* This server as a client of a node (RFC 7252, 7641, 7959), over the session from which the node
 * registered: no address that somebody says is ever asked. One message at a time is on its way to a
 * node (NSTART is 1), and the library is given no second one, since it would queue them without
 * limit and cannot be told to forget one. */

#include "coap-node.h"

#include <openssl/rand.h>

#define LINGER_USEC (100u * 1000000u)  /* after MAX_TRANSMIT_WAIT (RFC 7252, 4.8.2) */
#define OBSERVE_USEC (128u * 1000000u) /* RFC 7641, 3.4 */
#define BODY_FIRST 1024u

struct CoapdUpstream {
    list node; /* of the session, in the order of asking */
    CoapdSession *session;
    endpoint_timer deadline;
    uint64_t usec; /* for each answer */
    coapd_ask ask; /* path, query and body are our own */
    uint8_t token[8], block_token[8];
    bool due;      /* there is something to send */
    bool standing; /* an observation that has been accepted: not counted among those that wait */
    bool cancel;   /* nobody observes any more */
    bool expired;  /* whoever asked has been told, but the message is still out */
    bool fetching; /* what is out asks for a block of the answer */
    coap_mid_t mid;
    size_t sent; /* of the body, acknowledged */
    uint8_t szx;
    uint32_t want; /* the next block of the answer; 0: none of it is there */
    coapd_told told;
    uint8_t *body;
    size_t size, room;
    uint32_t observe;
    uint64_t observe_usec;
    coapd_told_fn done; /* NULL: nobody waits any more */
    void *userdata;
};

/* --- life ---------------------------------------------------------------------------------------
 */

static void body_done(CoapdUpstream *u)
{
    u->session->coapd->held -= u->room;
    free(TAKE_PTR(u->body));
    u->size = u->room = 0;
    u->want = 0;
}

static void count(CoapdUpstream *u, bool more)
{
    size_t one = more ? 1 : (size_t)-1;

    if (u->standing)
        return;
    u->session->n_upstream += one;
    u->session->coapd->n_upstream += one;
}

static void set_standing(CoapdUpstream *u, bool standing)
{
    if (u->standing == standing)
        return;
    count(u, false);
    u->standing = standing;
    count(u, true);
}

static void destroy(CoapdUpstream *u)
{
    CoapdSession *s = u->session;

    if (s->in_flight == u)
        s->in_flight = NULL;
    timer_stop(&u->deadline);
    list_remove(&u->node);
    count(u, false);
    body_done(u);
    free((char *)u->ask.path);
    free((char *)u->ask.query);
    free((void *)u->ask.body);
    free(u);
}

static void pump(CoapdSession *s);

/* The last word; `u` is gone. */
static void conclude(CoapdUpstream *u, int error, const coapd_told *t)
{
    CoapdSession *s = u->session;
    coapd_told_fn done = TAKE_PTR(u->done);
    void *userdata = u->userdata;

    coapd_session_hold(s);
    if (done)
        done(error, t, true, userdata);
    destroy(u);
    pump(s);
    coapd_session_release(s);
}

static void wait_for(CoapdUpstream *u, uint64_t usec)
{
    timer_start(&u->session->coapd->timers, TIMERS_REQUEST, &u->deadline, timer_now() + usec);
}

/* A message that is out goes on being repeated by the library, and holds the place of the next. */
static void on_deadline(endpoint_timer *t)
{
    CoapdUpstream *u = list_entry(t, CoapdUpstream, deadline);
    coapd_told_fn done;

    if (u->session->in_flight != u || !u->done) {
        conclude(u, -ETIMEDOUT, NULL);
        return;
    }
    done = TAKE_PTR(u->done);
    u->due = false;
    u->expired = true;
    set_standing(u, false);
    body_done(u);
    wait_for(u, LINGER_USEC);
    done(-ETIMEDOUT, NULL, true, u->userdata);
}

bool coapd_upstream_asleep(const CoapdSession *s)
{
    return s->in_flight && s->in_flight->expired;
}

/* --- messages -----------------------------------------------------------------------------------
 */

static bool add(coap_pdu_t *p, uint16_t number, const void *value, size_t size)
{
    return coap_add_option(p, number, size, value) > 0;
}

static bool add_number(coap_pdu_t *p, uint16_t number, uint32_t value)
{
    uint8_t bytes[4];

    return add(p, number, bytes, coap_encode_var_safe(bytes, sizeof(bytes), value));
}

static bool add_tags(coap_pdu_t *p, uint16_t number, const coapd_etag *tags, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!add(p, number, tags[i].bytes, tags[i].size))
            return false;
    return true;
}

static int hex(char c)
{
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}

static bool add_decoded(coap_pdu_t *p, uint16_t number, const char *text, size_t size)
{
    char value[256];
    size_t n = 0;

    for (size_t i = 0; i < size; i++) {
        bool escaped =
            text[i] == '%' && i + 2 < size && hex(text[i + 1]) >= 0 && hex(text[i + 2]) >= 0;

        if (n == 255)
            return false;
        value[n++] = escaped ? (char)(hex(text[i + 1]) << 4 | hex(text[i + 2])) : text[i];
        i += escaped ? 2 : 0;
    }
    return add(p, number, value, n);
}

static bool add_parts(coap_pdu_t *p, uint16_t number, const char *text, char separator, bool decode)
{
    while (text) {
        const char *end = strchr(text, separator);
        size_t n = end ? (size_t)(end - text) : strlen(text);

        if (decode ? !add_decoded(p, number, text, n) : n > 255 || !add(p, number, text, n))
            return false;
        text = end ? end + 1 : NULL;
    }
    return true;
}

static bool add_question(const CoapdUpstream *u, coap_pdu_t *p, bool block)
{
    const coapd_ask *a = &u->ask;
    bool first = !block, blockwise = a->size > coapd_block_size(u->szx) || u->sent > 0;
    size_t left = a->size - u->sent, n = MIN_OF(left, coapd_block_size(u->szx));
    uint32_t number = (uint32_t)(u->sent / coapd_block_size(u->szx));

    return add_tags(p, COAP_OPTION_IF_MATCH, a->if_match, a->n_if_match) &&
           (!first || add_tags(p, COAP_OPTION_ETAG, a->etags, a->n_etags)) &&
           (!a->if_none_match || add(p, COAP_OPTION_IF_NONE_MATCH, "", 0)) &&
           (!first || !a->observe || add_number(p, COAP_OPTION_OBSERVE, u->cancel)) &&
           (streq(a->path, "/") || add_parts(p, COAP_OPTION_URI_PATH, a->path + 1, '/', false)) &&
           (a->format == COAPD_FORMAT_NONE ||
            add_number(p, COAP_OPTION_CONTENT_FORMAT, a->format)) &&
           (!*a->query || add_parts(p, COAP_OPTION_URI_QUERY, a->query, '&', true)) &&
           (a->accept == COAPD_FORMAT_NONE || add_number(p, COAP_OPTION_ACCEPT, a->accept)) &&
           (!block || add_number(p, COAP_OPTION_BLOCK2, u->want << 4 | u->told.block2.szx)) &&
           (block || !blockwise ||
            add_number(p, COAP_OPTION_BLOCK1, number << 4 | (left > n ? 8u : 0u) | u->szx)) &&
           (block || !blockwise || number > 0 ||
            add_number(p, COAP_OPTION_SIZE1, (uint32_t)a->size)) &&
           (block || n == 0 || coap_add_data(p, n, (const uint8_t *)a->body + u->sent));
}

/* -EMSGSIZE: no message holds it. */
static int send_due(CoapdUpstream *u)
{
    CoapdSession *s = u->session;
    bool block = u->want > 0;
    const uint8_t *token = block ? u->block_token : u->token;
    coap_pdu_t *p;

    u->due = false;
    u->fetching = block;
    if (block && RAND_bytes(u->block_token, sizeof(u->block_token)) != 1)
        return -EIO;
    u->mid = coapd_session_mid(s);
    p = coap_pdu_init(COAP_MESSAGE_CON, u->ask.method, u->mid, coapd_session_message_max(s));
    if (!p)
        return -ENOMEM;
    if (!coap_add_token(p, sizeof(u->token), token) || !add_question(u, p, block)) {
        coap_delete_pdu(p);
        return -EMSGSIZE;
    }
    return coapd_session_send(s, p) == COAP_INVALID_MID ? -ECONNRESET : 0;
}

static CoapdUpstream *next_due(const CoapdSession *s)
{
    list_for_each(n, &s->upstream)
    {
        CoapdUpstream *u = list_entry(n, CoapdUpstream, node);
        if (u->due)
            return u;
    }
    return NULL;
}

static int dispatch(CoapdUpstream *u)
{
    CoapdSession *s = u->session;
    int r;

    s->in_flight = u;
    r = send_due(u);
    if (r < 0 || s->reliable) /* nothing tells there when it has arrived, and nothing needs to */
        s->in_flight = NULL;
    return r;
}

static void pump(CoapdSession *s)
{
    CoapdUpstream *u;

    while (!s->in_flight && (u = next_due(s))) {
        int r = dispatch(u);

        if (r < 0) {
            conclude(u, r, NULL); /* comes by here again */
            return;
        }
    }
}

/* --- asking -------------------------------------------------------------------------------------
 */

static int copy_ask(CoapdUpstream *u, const coapd_ask *ask)
{
    u->ask = *ask;
    u->ask.path = strdup(ask->path);
    u->ask.query = strdup(ask->query);
    u->ask.body = malloc(MAX_OF(ask->size, (size_t)1));
    if (!u->ask.path || !u->ask.query || !u->ask.body)
        return -ENOMEM;
    if (ask->size > 0)
        memcpy((void *)u->ask.body, ask->body, ask->size);
    return 0;
}

int coapd_upstream_ask(CoapdSession *s, const coapd_ask *ask, uint64_t usec, coapd_told_fn told,
                       void *userdata, CoapdUpstream **ret)
{
    Coapd *d = s->coapd;
    CoapdUpstream *u;
    int r;

    if (s->n_upstream >= COAPD_UPSTREAM_QUEUE || d->n_upstream >= COAPD_UPSTREAM_MAX)
        return -ENOBUFS;
    u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    *u = (CoapdUpstream){.session = s,
                         .usec = usec,
                         .due = true,
                         .szx = 6,
                         .mid = COAP_INVALID_MID,
                         .done = told,
                         .userdata = userdata};
    u->deadline.fire = on_deadline;
    list_init(&u->deadline.node);
    list_append(&s->upstream, &u->node);
    count(u, true);
    r = copy_ask(u, ask);
    if (r >= 0 && RAND_bytes(u->token, sizeof(u->token)) != 1)
        r = -EIO;
    if (r >= 0 && !s->in_flight)
        r = dispatch(u);
    if (r < 0) {
        destroy(u);
        return r;
    }
    wait_for(u, usec);
    *ret = u;
    return 0;
}

void coapd_upstream_free(CoapdUpstream *u)
{
    if (!u)
        return;
    u->done = NULL;
    body_done(u);
    if (u->standing) {
        set_standing(u, false);
        u->cancel = u->due = true;
        wait_for(u, u->usec);
        pump(u->session);
    } else if (u->session->in_flight == u) {
        u->due = false;
        wait_for(u, LINGER_USEC);
    } else {
        destroy(u);
    }
}

/* --- what the node says -------------------------------------------------------------------------
 */

static uint32_t number_of(const coap_opt_t *o)
{
    return coap_opt_length(o) > 4 ? UINT32_MAX
                                  : coap_decode_var_bytes(coap_opt_value(o), coap_opt_length(o));
}

static coapd_block block_of(const coap_opt_t *o)
{
    uint32_t n = number_of(o);

    return (coapd_block){.there = coap_opt_length(o) <= 3,
                         .more = n & 8,
                         .number = n >> 4,
                         .szx = MIN_OF((uint8_t)(n & 7), (uint8_t)6)};
}

static void add_location(coapd_told *t, char separator, const coap_opt_t *o)
{
    static const char digits[] = "0123456789ABCDEF";
    size_t at = strlen(t->location), n = coap_opt_length(o);
    const uint8_t *v = coap_opt_value(o);

    if (at + 2 + 3 * n >= sizeof(t->location))
        return;
    t->location[at++] = separator;
    for (size_t i = 0; i < n; i++) {
        bool plain = v[i] > 0x20 && v[i] < 0x7f && !strchr("%/?#&\"<>\\", v[i]);

        if (plain) {
            t->location[at++] = (char)v[i];
        } else {
            t->location[at++] = '%';
            t->location[at++] = digits[v[i] >> 4];
            t->location[at++] = digits[v[i] & 15];
        }
    }
    t->location[at] = 0;
}

void coapd_told_parse(const coap_pdu_t *pdu, coapd_told *t)
{
    coap_opt_iterator_t it;
    coap_opt_t *o;

    *t = (coapd_told){.code = coap_pdu_get_code(pdu), .format = COAPD_FORMAT_NONE};
    coap_option_iterator_init(pdu, &it, COAP_OPT_ALL);
    while ((o = coap_option_next(&it)))
        switch (it.number) {
        case COAP_OPTION_ETAG:
            if (t->etag.size == 0 && coap_opt_length(o) <= sizeof(t->etag.bytes)) {
                t->etag.size = (uint8_t)coap_opt_length(o);
                memcpy(t->etag.bytes, coap_opt_value(o), t->etag.size);
            }
            break;
        case COAP_OPTION_OBSERVE:
            t->has_observe = true;
            t->observe = number_of(o) & 0xffffffu;
            break;
        case COAP_OPTION_LOCATION_PATH:
            add_location(t, '/', o);
            break;
        case COAP_OPTION_CONTENT_FORMAT:
            t->format = number_of(o);
            break;
        case COAP_OPTION_MAXAGE:
            t->has_max_age = true;
            t->max_age = number_of(o);
            break;
        case COAP_OPTION_LOCATION_QUERY:
            add_location(t, strchr(t->location, '?') ? '&' : '?', o);
            break;
        case COAP_OPTION_BLOCK2:
            t->block2 = block_of(o);
            break;
        case COAP_OPTION_BLOCK1:
            t->block1 = block_of(o);
            break;
        default:
            break;
        }
    (void)coap_get_data(pdu, &t->size, (const uint8_t **)&t->body);
}

static int append(CoapdUpstream *u, const void *data, size_t size)
{
    Coapd *d = u->session->coapd;
    size_t need = u->size + size, room = u->room > 0 ? u->room * 2 : BODY_FIRST;
    uint8_t *bytes;

    if (need > COAPD_NODE_ANSWER)
        return -EMSGSIZE;
    if (need > u->room) {
        room = MAX_OF(room, need);
        if (d->held - u->room + room > COAPD_HELD_BYTES)
            return -ENOBUFS;
        bytes = realloc(u->body, room);
        if (!bytes)
            return -ENOMEM;
        d->held += room - u->room;
        u->body = bytes;
        u->room = room;
    }
    if (size > 0)
        memcpy(u->body + u->size, data, size);
    u->size = need;
    return 0;
}

/* A partial answer is no answer; an observation waits for the next one. */
static void drop_answer(CoapdUpstream *u, int error)
{
    body_done(u);
    if (!u->standing) {
        conclude(u, error, NULL);
        return;
    }
    timer_stop(&u->deadline);
    pump(u->session);
}

static void deliver(CoapdUpstream *u, coapd_told *t)
{
    CoapdSession *s = u->session;
    bool stands = u->standing && COAP_RESPONSE_CLASS(t->code) == 2;

    if (u->want > 0) {
        t->body = u->body;
        t->size = u->size;
    }
    if (!stands) {
        conclude(u, 0, t);
        return;
    }
    timer_stop(&u->deadline);
    coapd_session_hold(s);
    u->done(0, t, false, u->userdata); /* may free it */
    pump(s);
    coapd_session_release(s);
}

static void take_block(CoapdUpstream *u, coapd_told *t)
{
    uint32_t expected = u->fetching ? u->want : 0;
    size_t block = coapd_block_size(t->block2.szx);
    bool bert =
        u->session->reliable && t->block2.szx == 6; /* more than one may come (RFC 8323, 6) */
    int r;

    if (expected == 0)
        body_done(u);
    if (t->block2.number != expected ||
        (expected > 0 &&
         (t->block2.szx != u->told.block2.szx || !coapd_etag_equal(&t->etag, &u->told.etag))) ||
        (t->block2.more && (bert ? t->size == 0 || t->size % block != 0 : t->size != block))) {
        drop_answer(u, -EBADMSG);
        return;
    }
    r = append(u, t->body, t->size);
    if (r < 0) {
        drop_answer(u, r);
        return;
    }
    if (expected == 0)
        u->told = *t;
    u->want = expected + MAX_OF((uint32_t)(t->size / block), 1u);
    if (!t->block2.more) {
        coapd_told whole = u->told;

        deliver(u, &whole);
        return;
    }
    u->due = true;
    wait_for(u, u->usec);
    pump(u->session);
}

static bool is_newer(CoapdUpstream *u, const coapd_told *t)
{
    uint32_t ahead = (t->observe - u->observe) & 0xffffffu;
    uint64_t now = timer_now();

    if (u->standing && (ahead == 0 || ahead >= 1u << 23) && now - u->observe_usec < OBSERVE_USEC)
        return false;
    u->observe = t->observe;
    u->observe_usec = now;
    return true;
}

/* The node takes the next block, in its size. */
static bool goes_on(CoapdUpstream *u, const coapd_told *t)
{
    size_t n = coapd_block_size(u->szx);

    if (t->code != COAP_RESPONSE_CODE(231) || !t->block1.there || u->ask.size - u->sent <= n)
        return false;
    u->sent += n;
    if (t->block1.szx < u->szx)
        u->szx = t->block1.szx;
    u->due = true;
    wait_for(u, u->usec);
    pump(u->session);
    return true;
}

static void take(CoapdUpstream *u, coapd_told *t, bool block)
{
    bool good = COAP_RESPONSE_CLASS(t->code) == 2;

    if (!block && goes_on(u, t))
        return;
    if (!block && good && u->ask.observe && t->has_observe) {
        if (!is_newer(u, t))
            return;
        set_standing(u, true);
    } else if (!block) {
        set_standing(u, false); /* it is not observed, or no longer */
    }
    if (!block)
        u->fetching = false;
    if (good && t->block2.there)
        take_block(u, t);
    else if (block)
        drop_answer(u, -EBADMSG);
    else
        deliver(u, t);
}

static CoapdUpstream *find(CoapdSession *s, const coap_pdu_t *pdu, bool *ret_block)
{
    coap_bin_const_t token = coap_pdu_get_token(pdu);

    list_for_each(n, &s->upstream)
    {
        CoapdUpstream *u = list_entry(n, CoapdUpstream, node);

        *ret_block = u->want > 0 && memcmp(token.s, u->block_token, sizeof(u->token)) == 0;
        if (token.length == sizeof(u->token) &&
            (*ret_block || memcmp(token.s, u->token, sizeof(u->token)) == 0))
            return u;
    }
    return NULL;
}

bool coapd_take_response(CoapdSession *s, const coap_pdu_t *received)
{
    bool block = false,
         acknowledges = !s->reliable && coap_pdu_get_type(received) == COAP_MESSAGE_ACK;
    coap_mid_t mid = coap_pdu_get_mid(received);
    coapd_told told;
    CoapdUpstream *u;

    u = coap_pdu_get_token(received).length == 8 ? find(s, received, &block) : NULL;
    if (s->in_flight &&
        ((acknowledges && s->in_flight->mid == mid) || (s->in_flight == u && u->fetching == block)))
        s->in_flight = NULL;
    coapd_session_hold(s);
    if (u && u->done) {
        coapd_told_parse(received, &told);
        take(u, &told, block);
    } else if (u) {
        destroy(u);
    }
    pump(s);
    coapd_session_release(s);
    return u || acknowledges;
}

coap_response_t coapd_on_response(coap_session_t *session, const coap_pdu_t *sent,
                                  const coap_pdu_t *received, const coap_mid_t mid)
{
    CoapdSession *s = coap_session_get_app_data(session);

    return s && coapd_take_response(s, received) ? COAP_RESPONSE_OK : COAP_RESPONSE_FAIL;
}

/* The node thinks: the answer will be a message of its own. */
void coapd_upstream_acknowledged(CoapdSession *s, coap_mid_t mid)
{
    CoapdUpstream *u = s->in_flight;

    if (!u || u->mid != mid)
        return;
    s->in_flight = NULL;
    if (!u->done)
        destroy(u);
    pump(s);
}

void coapd_upstream_failed(CoapdSession *s, coap_mid_t mid, bool rejected)
{
    CoapdUpstream *u = s->in_flight;

    if (!u || u->mid != mid)
        return;
    s->in_flight = NULL;
    conclude(u, rejected ? -ECONNRESET : -ETIMEDOUT, NULL);
}

void coapd_upstream_session_over(CoapdSession *s)
{
    s->in_flight = NULL;
    list_for_each(n, &s->upstream) list_entry(n, CoapdUpstream, node)->due = false;
    while (!list_empty(&s->upstream))
        conclude(list_entry(s->upstream.next, CoapdUpstream, node), -ETIMEDOUT, NULL);
}
