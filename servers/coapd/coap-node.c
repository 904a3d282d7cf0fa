/* SPDX-License-Identifier: Apache-2.0 */
/* The endpoint at /nodes/<name>: HTTP's words become CoAP's and back (RFC 8075), what was said not
 * long ago is said again, many who ask the same ask once, and many who watch observe once. */

#include "coap-node.h"

#include <hybus/log.h>
#include <strings.h>

#define RETRY_USEC (30u * 1000000u) /* an observation that failed */
#define GRACE_USEC (10u * 1000000u) /* a notification may be late (RFC 7641, 3.3.1) */
#define POLL_USEC (5u * 1000000u)   /* at least, of what cannot be observed */
#define MAX_AGE_LONGEST (86400u * 7u)

/* A client's request until it is answered. */
typedef struct waiter {
    list node; /* of the endpoint's node, or of the fetch */
    CoapdNode *of;
    hybridos_request *request;
    CoapdUpstream *upstream; /* of its own, when it is no GET */
    uint8_t *body;
    size_t size;
    bool too_large, again;
} waiter;

/* One GET for all who ask the same at the same time. */
typedef struct fetch {
    list node, waiters;
    CoapdNode *of;
    CoapdUpstream *upstream;
    bool again; /* in another format */
    char key[];
} fetch;

typedef struct relation {
    list node;
    CoapdNode *of;
    CoapdUpstream *upstream;
    endpoint_timer again;
    char path[];
} relation;

/* --- answers ------------------------------------------------------------------------------------
 */

static void waiter_free(waiter *w)
{
    list_remove(&w->node);
    w->of->n_waiting--;
    coapd_upstream_free(w->upstream);
    free(w->body);
    free(w);
}

/* The waiter is gone. */
static void reply(waiter *w, unsigned status, const char *type, const void *body, size_t size)
{
    hybridos_request *r = w->request;
    Coapd *d = w->of->coapd;

    hybridos_request_set_userdata(r, NULL);
    waiter_free(w);
    if (hybridos_reply(r, status, type, body, size) < 0)
        hybridos_abort(r);
    coapd_app_flush(d);
}

static void reply_problem(waiter *w, unsigned status, const char *detail)
{
    char body[160];
    int n = snprintf(body, sizeof(body), "{\"status\":%u,\"detail\":\"%s\"}\n", status, detail);

    w->of->coapd->counters.node_failures++;
    if (status == 503)
        (void)hybridos_header(w->request, "retry-after", "1");
    reply(w, status, "application/problem+json", body, (size_t)n);
}

static void reply_error(waiter *w, int error)
{
    switch (error) {
    case -ETIMEDOUT:
        reply_problem(w, 504, "the node does not answer");
        break;
    case -ENOBUFS:
        reply_problem(w, 503, "too much waits for this node");
        break;
    case -ENAMETOOLONG:
    case -EMSGSIZE:
        reply_problem(w, 502, "more than a message or a body may hold");
        break;
    default:
        reply_problem(w, 502, "the node is gone, or its answer is broken");
        break;
    }
}

/* RFC 8075, 7. What CoAP says to its proxy, which is us, is the gateway's failure. */
static unsigned status_of(const coapd_told *t)
{
    static const struct {
        unsigned code, status;
    } table[] = {{201, 201}, {203, 304}, {400, 400}, {401, 403}, {402, 400}, {403, 403},
                 {404, 404}, {405, 405}, {406, 406}, {408, 400}, {409, 409}, {412, 412},
                 {413, 413}, {415, 415}, {422, 422}, {429, 429}, {500, 500}, {501, 501},
                 {502, 502}, {503, 503}, {504, 504}, {505, 502}};
    unsigned code = COAP_RESPONSE_CLASS(t->code) * 100u + (t->code & 31u);

    for (size_t i = 0; i < ELEMENTS(table); i++)
        if (table[i].code == code)
            return table[i].status;
    switch (COAP_RESPONSE_CLASS(t->code)) {
    case 2:
        return t->size > 0 || code == 205 ? 200 : 204;
    case 4:
        return 400;
    case 5:
        return 500;
    default:
        return 502;
    }
}

static const char *type_of(uint32_t format)
{
    const char *name = format == COAPD_FORMAT_NONE ? NULL : coapd_format_name(format);

    return name ? format == 0 ? "text/plain; charset=utf-8" : name : "application/octet-stream";
}

/* A tag as text: as it is, when that can be read back, or in hexadecimal. */
static const char *etag_text(const coapd_etag *e, char text[24])
{
    char plain[11];

    if (coapd_etag_text(e, plain) && e->bytes[0] != '~') {
        memcpy(text, plain, strlen(plain) + 1);
        return text;
    }
    strcpy(text, "\"~");
    for (size_t i = 0; i < e->size; i++)
        sprintf(text + 2 + 2 * i, "%02x", e->bytes[i]);
    strcat(text, "\"");
    return text;
}

static bool lists_etag(const char *tags, const coapd_etag *e)
{
    char text[24];

    return tags && e->size > 0 && (streq(tags, "*") || strstr(tags, etag_text(e, text)));
}

static void add_number(hybridos_request *r, const char *name, const char *before, uint64_t value)
{
    char text[48];

    snprintf(text, sizeof(text), "%s%llu", before, (unsigned long long)value);
    (void)hybridos_header(r, name, text);
}

static void add_validity(hybridos_request *r, const coapd_etag *e, uint32_t max_age)
{
    char text[24];

    if (e->size > 0)
        (void)hybridos_header(r, "etag", etag_text(e, text));
    add_number(r, "cache-control", "max-age=", max_age);
    (void)hybridos_header(r, "vary", "accept");
}

static int accept_of(const char *text, uint32_t *ret);

/* What the client takes instead of what the node has said; false: that, or something that cannot be
 * made. */
static bool convert(const waiter *w, uint32_t format, const void *body, size_t size,
                    uint32_t *ret_format, uint8_t **ret, size_t *ret_size)
{
    uint32_t accept;

    if (accept_of(hybridos_request_field(w->request, "accept"), &accept) < 0 ||
        accept == COAPD_FORMAT_NONE || accept == format ||
        coapd_convert(format, accept, body, size, ret, ret_size) < 0)
        return false;
    *ret_format = accept;
    return true;
}

/* What the node said then. Its tag is not one of what was made of it. */
static void reply_cached(waiter *w, const coapd_cached *e, bool fresh)
{
    bool known = lists_etag(hybridos_request_field(w->request, "if-none-match"), &e->etag);
    _cleanup_(freep) uint8_t *made = NULL;
    uint32_t format;
    size_t size;
    bool converted = convert(w, e->format, e->body, e->size, &format, &made, &size);

    add_validity(w->request, converted ? &(coapd_etag){} : &e->etag, e->max_age);
    if (!fresh) {
        w->of->coapd->counters.node_cached++;
        add_number(w->request, "age", "", coapd_cached_age(e, timer_now()));
    }
    if (converted)
        reply(w, 200, type_of(format), made, size);
    else if (known)
        reply(w, 304, NULL, NULL, 0);
    else
        reply(w, 200, type_of(e->format), e->body, e->size);
}

static void reply_told(waiter *w, const coapd_told *t)
{
    bool get = streq(hybridos_request_method(w->request), "GET");
    _cleanup_(freep) uint8_t *made = NULL;
    char location[512];
    uint32_t format;
    size_t size;

    if (COAP_RESPONSE_CLASS(t->code) == 2 && t->size > 0 &&
        convert(w, t->format, t->body, t->size, &format, &made, &size)) {
        coapd_told other = *t;

        other.etag.size = 0;
        other.format = format;
        other.body = made;
        other.size = size;
        reply_told(w, &other);
        return;
    }
    if (t->code == COAP_RESPONSE_CODE(201) && t->location[0]) {
        snprintf(location, sizeof(location), "%s%s", hybridos_endpoint_namespace(w->of->endpoint),
                 t->location);
        (void)hybridos_header(w->request, "location", location);
    }
    if (get && COAP_RESPONSE_CLASS(t->code) == 2)
        add_validity(w->request, &t->etag, t->has_max_age ? t->max_age : 60);
    else if (t->etag.size > 0)
        add_validity(w->request, &t->etag, 0);
    if ((t->code == COAP_RESPONSE_CODE(503) || t->code == COAP_RESPONSE_CODE(429)))
        add_number(w->request, "retry-after", "", t->has_max_age ? t->max_age : 60);
    reply(w, status_of(t),
          t->size > 0 ? COAP_RESPONSE_CLASS(t->code) == 2 || t->format != COAPD_FORMAT_NONE
                            ? type_of(t->format)
                            : "text/plain; charset=utf-8"
                      : NULL,
          t->body, t->size);
}

/* --- questions ----------------------------------------------------------------------------------
 */

/* The first media type that CoAP has a number for; with a wildcard the node chooses. */
static int accept_of(const char *text, uint32_t *ret)
{
    *ret = COAPD_FORMAT_NONE;
    if (!text || strstr(text, "*/*"))
        return 0;
    while (*text) {
        size_t n = strcspn(text, ",");
        uint32_t format;

        while (n > 0 && *text == ' ')
            text++, n--;
        format = coapd_format_of(text, n);
        if (format != COAPD_FORMAT_NONE) {
            *ret = format;
            return 0;
        }
        text += n + (text[n] == ',');
    }
    return -ENOENT;
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool etag_parse(const char *text, size_t size, coapd_etag *ret)
{
    if (size < 4 || size > 19 || text[1] != '~' || size % 2 == 0) {
        coapd_etag_of(text, size, ret);
        return size >= 3 && size <= 10 && text[0] == '"';
    }
    ret->size = (uint8_t)((size - 3) / 2);
    for (size_t i = 0; i < ret->size; i++) {
        int high = hex(text[2 + 2 * i]), low = hex(text[3 + 2 * i]);

        if (high < 0 || low < 0)
            return false;
        ret->bytes[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

/* If-Match; tags that no node can have given match nothing. */
static int take_matches(const char *text, coapd_ask *a)
{
    bool any = false;

    if (!text)
        return 0;
    if (streq(text, "*")) {
        a->if_match[a->n_if_match++] = (coapd_etag){};
        return 0;
    }
    while (*text) {
        size_t n = strcspn(text, ",");

        while (n > 0 && *text == ' ')
            text++, n--;
        if (a->n_if_match < COAPD_ETAGS_MAX && etag_parse(text, n, &a->if_match[a->n_if_match]))
            a->n_if_match++;
        any = true;
        text += n + (text[n] == ',');
    }
    return any && a->n_if_match == 0 ? -ESTALE : 0;
}

static coap_pdu_code_t method_of(const char *name)
{
    static const struct {
        const char *name;
        coap_pdu_code_t code;
    } methods[] = {{"GET", COAP_REQUEST_CODE_GET},       {"HEAD", COAP_REQUEST_CODE_GET},
                   {"POST", COAP_REQUEST_CODE_POST},     {"PUT", COAP_REQUEST_CODE_PUT},
                   {"DELETE", COAP_REQUEST_CODE_DELETE}, {"FETCH", COAP_REQUEST_CODE_FETCH},
                   {"PATCH", COAP_REQUEST_CODE_PATCH}};

    for (size_t i = 0; i < ELEMENTS(methods); i++)
        if (streq(methods[i].name, name))
            return methods[i].code;
    return 0;
}

/* 0, or the status with which it is refused. */
static unsigned make_ask(hybridos_request *r, coapd_ask *a)
{
    const char *type = hybridos_request_field(r, "content-type");
    const char *match = hybridos_request_field(r, "if-none-match");

    *a = (coapd_ask){.method = method_of(hybridos_request_method(r)),
                     .path = hybridos_request_subpath(r),
                     .query = hybridos_request_query(r),
                     .format = COAPD_FORMAT_NONE};
    if (!a->method)
        return 501;
    if (accept_of(hybridos_request_field(r, "accept"), &a->accept) < 0)
        return 406;
    if (type && *type && (a->format = coapd_format_of(type, strlen(type))) == COAPD_FORMAT_NONE)
        return 415;
    a->if_none_match = match && streq(match, "*") && a->method != COAP_REQUEST_CODE_GET;
    return take_matches(hybridos_request_field(r, "if-match"), a) < 0 ? 412 : 0;
}

static uint64_t patience(const CoapdNode *n, const hybridos_request *r)
{
    uint64_t left = (uint64_t)hybridos_request_deadline(r) * 1000u;

    return MIN_OF(n->coapd->settings->node_timeout, left * 9 / 10) + 1000;
}

/* JSON is CBOR in other words, and the other way round. */
static uint32_t other_format(uint32_t format)
{
    return format == COAPD_FORMAT_JSON   ? COAPD_FORMAT_CBOR
           : format == COAPD_FORMAT_CBOR ? COAPD_FORMAT_JSON
                                         : COAPD_FORMAT_NONE;
}

/* --- GET: once for all who ask ------------------------------------------------------------------
 */

static void fetch_free(fetch *f)
{
    list_remove(&f->node);
    coapd_upstream_free(f->upstream);
    free(f);
}

static fetch *fetch_find(CoapdNode *n, const char *key)
{
    list_for_each(p, &n->fetches)
    {
        fetch *f = list_entry(p, fetch, node);
        if (streq(f->key, key))
            return f;
    }
    return NULL;
}

static void on_fetched(int error, const coapd_told *t, bool end, void *userdata);

/* The node does not have what is wanted, but maybe what that can be made of. */
static bool fetch_other(fetch *f)
{
    CoapdNode *n = f->of;
    const waiter *w = list_empty(&f->waiters) ? NULL : list_entry(f->waiters.next, waiter, node);
    const coapd_cached *e;
    coapd_ask a;

    if (!w || f->again || !n->session || make_ask(w->request, &a) != 0)
        return false;
    f->again = true;
    a.accept = other_format(a.accept);
    if (a.accept == COAPD_FORMAT_NONE)
        return false;
    e = coapd_cache_find(n->coapd->cache, n, f->key);
    if (e && e->etag.size > 0)
        a.etags[a.n_etags++] = e->etag;
    n->coapd->counters.node_requests++;
    return coapd_upstream_ask(n->session, &a, patience(n, w->request), on_fetched, f,
                              &f->upstream) >= 0;
}

static void on_fetched(int error, const coapd_told *t, bool end, void *userdata)
{
    fetch *f = userdata;
    CoapdNode *n = f->of;
    coapd_cache *cache = n->coapd->cache;
    coapd_cached *e = coapd_cache_find(cache, n, f->key);
    uint64_t now = timer_now();
    bool kept = false;

    f->upstream = NULL;
    if (error == 0 && t->code == COAP_RESPONSE_CODE(406) && fetch_other(f))
        return;
    if (error == 0 && t->code == COAP_RESPONSE_CODE(203) && e) {
        e->received_usec = now;
        e->max_age = t->has_max_age ? t->max_age : 60;
        kept = true;
    } else if (error == 0 && t->code == COAP_RESPONSE_CODE(205)) {
        e = coapd_cache_put(cache, n, f->key, t, now);
        kept = e != NULL;
    } else if (error == 0 && e && COAP_RESPONSE_CLASS(t->code) == 4) {
        coapd_cache_drop(cache, e);
        e = NULL;
    }
    while (!list_empty(&f->waiters)) {
        waiter *w = list_entry(f->waiters.next, waiter, node);

        if (kept)
            reply_cached(w, e, true);
        else if (error == -ETIMEDOUT && e &&
                 coapd_cached_age(e, now) <= n->coapd->settings->node_stale / 1000000u)
            reply_cached(w, e, false);
        else if (error < 0)
            reply_error(w, error);
        else
            reply_told(w, t);
    }
    fetch_free(f);
}

static int fetch_new(CoapdNode *n, const char *key, coapd_ask *a, const coapd_cached *e,
                     uint64_t usec, fetch **ret)
{
    fetch *f;
    int r;

    if (!n->session)
        return -ETIMEDOUT;
    f = calloc(1, sizeof(*f) + strlen(key) + 1);
    if (!f)
        return -ENOMEM;
    f->of = n;
    list_init(&f->waiters);
    strcpy(f->key, key);
    list_append(&n->fetches, &f->node);
    if (e && e->etag.size > 0)
        a->etags[a->n_etags++] = e->etag;
    n->coapd->counters.node_requests++;
    r = coapd_upstream_ask(n->session, a, usec, on_fetched, f, &f->upstream);
    if (r < 0) {
        fetch_free(f);
        return r;
    }
    *ret = f;
    return 0;
}

static bool is_fresh(const coapd_cached *e, const hybridos_request *r)
{
    const char *control = hybridos_request_field(r, "cache-control");

    return coapd_cached_age(e, timer_now()) < e->max_age &&
           !(control && strstr(control, "no-cache"));
}

static bool cache_key(char key[COAPD_CACHE_KEY_MAX], const coapd_ask *a)
{
    return snprintf(key, COAPD_CACHE_KEY_MAX, "%u %s %s", a->accept, a->query, a->path) <
           (int)COAPD_CACHE_KEY_MAX;
}

static void get(waiter *w, coapd_ask *a)
{
    CoapdNode *n = w->of;
    char key[COAPD_CACHE_KEY_MAX];
    coapd_cached *e;
    fetch *f;
    int r = 0;

    if (!cache_key(key, a)) {
        reply_problem(w, 414, "too long for a node");
        return;
    }
    e = coapd_cache_find(n->coapd->cache, n, key);
    if (e && (is_fresh(e, w->request) ||
              ((!n->session || coapd_upstream_asleep(n->session)) &&
               coapd_cached_age(e, timer_now()) <= n->coapd->settings->node_stale / 1000000u))) {
        reply_cached(w, e, false);
        return;
    }
    f = fetch_find(n, key);
    if (!f)
        r = fetch_new(n, key, a, e, patience(n, w->request), &f);
    if (r < 0) {
        reply_error(w, r);
        return;
    }
    list_remove(&w->node);
    list_append(&f->waiters, &w->node);
}

/* --- everything else is asked of the node each time ---------------------------------------------
 */

static void on_told(int error, const coapd_told *t, bool end, void *userdata);

/* The node does not take what was sent, but maybe what that can be made into. */
static bool tell_other(waiter *w)
{
    CoapdNode *n = w->of;
    uint8_t *made = NULL;
    size_t size;
    coapd_ask a;
    uint32_t from;

    if (w->again || !n->session || make_ask(w->request, &a) != 0)
        return false;
    w->again = true;
    from = a.format;
    a.format = other_format(from);
    if (a.format == COAPD_FORMAT_NONE ||
        coapd_convert(from, a.format, w->body, w->size, &made, &size) < 0)
        return false;
    free(w->body);
    a.body = w->body = made;
    a.size = w->size = size;
    n->coapd->counters.node_requests++;
    return coapd_upstream_ask(n->session, &a, patience(n, w->request), on_told, w, &w->upstream) >=
           0;
}

static void on_told(int error, const coapd_told *t, bool end, void *userdata)
{
    waiter *w = userdata;
    CoapdNode *n = w->of;

    w->upstream = NULL;
    if (error == 0 && t->code == COAP_RESPONSE_CODE(415) && tell_other(w))
        return;
    if (error < 0) {
        reply_error(w, error);
        return;
    }
    if (COAP_RESPONSE_CLASS(t->code) == 2 && !streq(hybridos_request_method(w->request), "FETCH"))
        coapd_cache_drop_of(n->coapd->cache, n, hybridos_request_subpath(w->request));
    reply_told(w, t);
}

static void ask_node(waiter *w, coapd_ask *a)
{
    CoapdNode *n = w->of;
    int r = -ETIMEDOUT; /* it has gone, and may come back */

    n->coapd->counters.node_requests++;
    if (n->session)
        r = coapd_upstream_ask(n->session, a, patience(n, w->request), on_told, w, &w->upstream);
    if (r < 0)
        reply_error(w, r);
}

static void handle(waiter *w)
{
    unsigned refused;
    coapd_ask a;

    if (w->too_large) {
        reply_problem(w, 413, "too large for a node");
        return;
    }
    refused = make_ask(w->request, &a);
    if (refused) {
        reply_problem(w, refused, "a node cannot be asked like this");
        return;
    }
    if (a.method == COAP_REQUEST_CODE_GET) {
        get(w, &a);
        return;
    }
    a.body = w->body;
    a.size = w->size;
    ask_node(w, &a);
}

/* --- what the servers ask -----------------------------------------------------------------------
 */

static void on_request(hybridos_request *r, void *userdata)
{
    CoapdNode *n = userdata;
    waiter *w = n->n_waiting < COAPD_NODE_REQUESTS_MAX ? calloc(1, sizeof(*w)) : NULL;

    if (!w) {
        (void)hybridos_header(r, "retry-after", "1");
        if (hybridos_reply(r, 503, NULL, NULL, 0) < 0)
            hybridos_abort(r);
        return;
    }
    w->of = n;
    w->request = r;
    list_append(&n->waiting, &w->node);
    n->n_waiting++;
    hybridos_request_set_userdata(r, w);
}

static void on_body(hybridos_request *r, const void *data, size_t size, bool end, void *userdata)
{
    waiter *w = hybridos_request_userdata(r);
    uint8_t *bytes;

    if (!w)
        return;
    hybridos_request_consumed(r, size);
    if (!w->too_large && size > 0) {
        bytes = w->size + size <= COAPD_NODE_BODY ? realloc(w->body, w->size + size) : NULL;
        w->too_large = !bytes;
        if (bytes) {
            memcpy(bytes + w->size, data, size);
            w->body = bytes;
            w->size += size;
        }
    }
    if (end)
        handle(w);
}

static void on_cancel(hybridos_request *r, unsigned status, void *userdata)
{
    waiter *w = hybridos_request_userdata(r);

    if (w)
        waiter_free(w);
}

static void on_state(hybridos_endpoint *e, unsigned status, const char *reason, void *userdata)
{
    if (status != HYBRIDOS_REGISTERED && status != 429 && status != 503)
        hybus_warning("%s is refused: %s", hybridos_endpoint_namespace(e), reason);
}

/* --- what is watched is observed ----------------------------------------------------------------
 */

static void observe(relation *r);

static void on_again(endpoint_timer *t)
{
    relation *r = list_entry(t, relation, again);

    coapd_upstream_free(TAKE_PTR(r->upstream));
    observe(r);
}

static void again_in(relation *r, uint64_t usec)
{
    timer_start(&r->of->coapd->timers, TIMERS_REQUEST, &r->again, timer_now() + usec);
}

static void publish(relation *r, const coapd_told *t)
{
    CoapdNode *n = r->of;
    uint32_t max_age = MIN_OF(t->has_max_age ? t->max_age : 60, MAX_AGE_LONGEST);
    coapd_ask a = {.path = r->path, .query = "", .accept = COAPD_FORMAT_NONE};
    char key[COAPD_CACHE_KEY_MAX], tag[24];

    if (cache_key(key, &a))
        (void)coapd_cache_put(n->coapd->cache, n, key, t, timer_now());
    n->coapd->counters.node_notifications++;
    (void)hybridos_notify(n->endpoint, r->path, type_of(t->format),
                          t->etag.size > 0 ? etag_text(&t->etag, tag) : NULL, max_age, t->body,
                          t->size);
    coapd_app_flush(n->coapd);
}

static void on_observed(int error, const coapd_told *t, bool end, void *userdata)
{
    relation *r = userdata;
    uint64_t age;

    if (end)
        r->upstream = NULL;
    if (error < 0) {
        again_in(r, RETRY_USEC);
        return;
    }
    age = 1000000u * (uint64_t)MIN_OF(t->has_max_age ? t->max_age : 60, MAX_AGE_LONGEST);
    if (t->code == COAP_RESPONSE_CODE(205)) {
        publish(r, t);
        again_in(r, end ? MAX_OF(age, (uint64_t)POLL_USEC) : age + GRACE_USEC);
        return;
    }
    if (t->code == COAP_RESPONSE_CODE(404)) {
        (void)hybridos_notify_gone(r->of->endpoint, r->path);
        coapd_app_flush(r->of->coapd);
    }
    again_in(r, RETRY_USEC);
}

static void observe(relation *r)
{
    coapd_ask a = {.method = COAP_REQUEST_CODE_GET,
                   .path = r->path,
                   .query = "",
                   .format = COAPD_FORMAT_NONE,
                   .accept = COAPD_FORMAT_NONE,
                   .observe = true};

    timer_stop(&r->again);
    if (!r->of->session || r->upstream)
        return; /* when it is back */
    if (coapd_upstream_ask(r->of->session, &a, r->of->coapd->settings->node_timeout, on_observed, r,
                           &r->upstream) < 0)
        again_in(r, RETRY_USEC);
}

static void relation_free(relation *r)
{
    timer_stop(&r->again);
    coapd_upstream_free(r->upstream);
    list_remove(&r->node);
    r->of->n_relations--;
    free(r);
}

static void on_watch(hybridos_endpoint *e, const char *path, unsigned watchers, void *userdata)
{
    CoapdNode *n = userdata;
    relation *r;

    list_for_each(p, &n->relations)
    {
        r = list_entry(p, relation, node);
        if (!streq(r->path, path))
            continue;
        if (watchers == 0)
            relation_free(r);
        return;
    }
    if (watchers == 0 || n->n_relations >= COAPD_NODE_RELATIONS_MAX ||
        !(r = calloc(1, sizeof(*r) + strlen(path) + 1)))
        return;
    r->of = n;
    r->again.fire = on_again;
    list_init(&r->again.node);
    strcpy(r->path, path);
    list_append(&n->relations, &r->node);
    n->n_relations++;
    observe(r);
}

/* --- life ---------------------------------------------------------------------------------------
 */

void coapd_node_free(CoapdNode *n)
{
    if (n->permit)
        coapd_rd_rechecked(n);
    list_remove(&n->session_node);
    while (!list_empty(&n->relations))
        relation_free(list_entry(n->relations.next, relation, node));
    while (!list_empty(&n->fetches)) {
        fetch *f = list_entry(n->fetches.next, fetch, node);

        while (!list_empty(&f->waiters))
            reply_error(list_entry(f->waiters.next, waiter, node), -ECONNRESET);
        fetch_free(f);
    }
    while (!list_empty(&n->waiting))
        reply_error(list_entry(n->waiting.next, waiter, node), -ECONNRESET);
    coapd_cache_drop_of(n->coapd->cache, n, NULL);
    if (n->endpoint)
        hybridos_unregister(n->endpoint);
    coapd_app_flush(n->coapd);
    if (n->session)
        coapd_session_release(n->session);
    free(n);
}

static int register_endpoint(CoapdNode *n)
{
    char namespace[sizeof(DIRECTORY_PREFIX) + DIRECTORY_NAME_MAX];
    int r;

    snprintf(namespace, sizeof(namespace), DIRECTORY_PREFIX "%s", n->entry->name);
    r = hybridos_register(n->coapd->app, namespace, on_request, n, &n->endpoint);
    if (r < 0)
        return r;
    hybridos_on_body(n->endpoint, on_body);
    hybridos_on_cancel(n->endpoint, on_cancel);
    hybridos_on_state(n->endpoint, on_state);
    hybridos_on_watch(n->endpoint, on_watch);
    if (n->entry->type[0])
        (void)hybridos_endpoint_title(n->endpoint, n->entry->type);
    coapd_app_flush(n->coapd);
    return 0;
}

int coapd_node_new(Coapd *d, directory_node *entry, CoapdSession *s, CoapdNode **ret)
{
    CoapdNode *n = calloc(1, sizeof(*n));
    int r;

    if (!n)
        return -ENOMEM;
    n->coapd = d;
    n->entry = entry;
    list_init(&n->session_node);
    list_init(&n->waiting);
    list_init(&n->fetches);
    list_init(&n->relations);
    r = register_endpoint(n);
    if (r < 0) {
        coapd_node_free(n);
        return r;
    }
    coapd_node_moved(n, s, true);
    *ret = n;
    return 0;
}

/* A node that registers anew may have forgotten who observes it. */
void coapd_node_moved(CoapdNode *n, CoapdSession *s, bool anew)
{
    CoapdSession *before = n->session;

    if (before != s) {
        coapd_session_hold(s);
        n->session = s;
        list_remove(&n->session_node);
        list_append(&s->nodes, &n->session_node);
        snprintf(n->base, sizeof(n->base), "%s://%s", s->road->protocol, s->peer_name);
        if (before)
            coapd_session_release(before);
    }
    if (before == s && !anew)
        return;
    list_for_each(p, &n->relations)
    {
        relation *r = list_entry(p, relation, node);

        coapd_upstream_free(TAKE_PTR(r->upstream));
        observe(r);
    }
}

/* --- this daemon as an app ----------------------------------------------------------------------
 */

static int on_app(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
    Coapd *d = userdata;

    (void)hybridos_process(d->app);
    return 0;
}

static int on_flush(sd_event_source *s, void *userdata)
{
    Coapd *d = userdata;

    (void)hybridos_process(d->app);
    return 0;
}

void coapd_app_flush(Coapd *d)
{
    if (d->app_flush)
        (void)sd_event_source_set_enabled(d->app_flush, SD_EVENT_ONESHOT);
}

int coapd_app_open(Coapd *d)
{
    int r;

    d->cache = calloc(1, sizeof(*d->cache));
    if (!d->cache)
        return -ENOMEM;
    coapd_cache_init(d->cache);
    r = hybridos_app_new("coapd", d->registrar, &d->app);
    if (r >= 0)
        r = sd_event_add_io(d->event, &d->app_io, hybridos_fd(d->app), EPOLLIN, on_app, d);
    if (r >= 0)
        r = sd_event_add_defer(d->event, &d->app_flush, on_flush, d);
    if (r >= 0)
        r = sd_event_source_set_enabled(d->app_flush, SD_EVENT_OFF);
    return r;
}

void coapd_app_close(Coapd *d)
{
    d->app_io = sd_event_source_disable_unref(d->app_io);
    d->app_flush = sd_event_source_disable_unref(d->app_flush);
    if (d->app)
        hybridos_app_free(TAKE_PTR(d->app));
    if (d->cache)
        coapd_cache_resize(d->cache, 0);
    free(TAKE_PTR(d->cache));
}
