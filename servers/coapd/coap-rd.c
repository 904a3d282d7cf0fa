/* SPDX-License-Identifier: Apache-2.0 */
/* What is asked of the resource directory (RFC 9176). Who registers has shown that it is where its
 * messages come from, and holds node.register:<name>; the node is reached there and nowhere else,
 * whatever its registration says. What a look-up shows is what the asker may read. */

#include "coap-node.h"

#include <hybus/log.h>
#include <openssl/rand.h>

#define RD "/rd"
#define RD_RESOURCES "/rd-lookup/res"
#define RD_ENDPOINTS "/rd-lookup/ep"
#define LINK_FORMAT 40u
#define AGAIN_USEC (50u * 1000u)
#define TRIES 60u
#define EXPIRY_USEC (60u * 1000000u) /* a lifetime's end is looked for at least so often */
#define SIMPLE_MAX 8u                /* simple registrations at a time */

/* A question to the directory that cannot be answered at once. */
typedef struct rd_question {
    CoapdExchange *exchange; /* NULL: it has been answered, the links are being fetched */
    CoapdSession *session;
    CoapdPermit *permit;
    CoapdUpstream *upstream;
    list node; /* of those without an exchange */
    bool lookup, simple, nodes;
    char query[512];
    directory_spec spec;
    char *links;
    size_t size;
} rd_question;

bool coapd_rd_path(const Coapd *d, const char *path)
{
    return d->settings->nodes > 0 &&
           (streq(path, RD) || startswith(path, RD "/") || streq(path, RD_RESOURCES) ||
            streq(path, RD_ENDPOINTS) || streq(path, COAPD_SIMPLE));
}

static bool is_anonymous(const CoapdSession *s)
{
    return endpoint_peer_anonymous(s->peer);
}

static directory_owner owner_of(const CoapdSession *s, char host[ENDPOINT_ADDRESS_TEXT])
{
    endpoint_address_format_host(&s->remote.sa, host);
    return (directory_owner){
        .principal = endpoint_peer_principal(s->peer), .host = host, .anonymous = is_anonymous(s)};
}

/* --- answers ------------------------------------------------------------------------------------
 */

static void question_free(rd_question *q)
{
    coapd_permit_cancel(q->permit);
    coapd_upstream_free(q->upstream);
    if (!q->exchange) {
        q->session->coapd->n_simple--;
        coapd_session_release(q->session);
    }
    list_remove(&q->node);
    free(q->links);
    free(q);
}

void coapd_rd_forget(CoapdExchange *x)
{
    if (x->rd)
        question_free(TAKE_PTR(x->rd));
}

static void answer(CoapdExchange *x, coap_pdu_code_t code, const char *text)
{
    coapd_answer a = COAPD_ANSWER(code);

    a.payload = text;
    a.payload_size = strlen(text);
    coapd_exchange_finish(x, &a);
}

static void answer_error(CoapdExchange *x, int error, const char *why)
{
    switch (error) {
    case -EEXIST:
        answer(x, COAP_RESPONSE_CODE(403), why);
        break;
    case -EINVAL:
        answer(x, COAP_RESPONSE_CODE(400), why);
        break;
    case -ENOBUFS:
        answer(x, COAP_RESPONSE_CODE(413), why);
        break;
    default:
        answer(x, COAP_RESPONSE_CODE(503), "");
        break;
    }
}

static void answer_links(CoapdExchange *x, const char *text, size_t size)
{
    coapd_answer a = COAPD_ANSWER(COAP_RESPONSE_CODE(205));

    a.format = LINK_FORMAT;
    a.payload = text;
    a.payload_size = size;
    coapd_exchange_answer(x, &a);
}

/* --- nodes --------------------------------------------------------------------------------------
 */

static void remove_node(Coapd *d, directory_node *entry)
{
    coapd_node_free(entry->userdata);
    directory_remove(&d->directory, entry);
}

int coapd_rd_remove(Coapd *d, const char *name)
{
    directory_node *entry = directory_find(&d->directory, name);

    if (!entry)
        return -ENOENT;
    remove_node(d, entry);
    return 0;
}

static void on_expiry(endpoint_timer *t)
{
    Coapd *d = list_entry(t, Coapd, node_expiry);
    uint64_t next, now = timer_now();
    directory_node *gone;

    while ((gone = directory_expired(&d->directory, now, &next))) {
        hybus_debug("node %s has not been heard of for its lifetime", gone->name);
        remove_node(d, gone);
    }
    if (next != UINT64_MAX)
        timer_start(&d->timers, TIMERS_SHORT, t, MIN_OF(next, now + EXPIRY_USEC));
}

static void expect_expiry(Coapd *d)
{
    timer_start(&d->timers, TIMERS_SHORT, &d->node_expiry, timer_now());
}

void coapd_rd_init(Coapd *d)
{
    directory_init(&d->directory);
    list_init(&d->node_expiry.node);
    list_init(&d->simple);
    d->node_expiry.fire = on_expiry;
}

void coapd_rd_done(Coapd *d)
{
    timer_stop(&d->node_expiry);
    while (!list_empty(&d->simple))
        question_free(list_entry(d->simple.next, rd_question, node));
    while (!list_empty(&d->directory.nodes))
        remove_node(d, list_entry(d->directory.nodes.next, directory_node, node));
}

/* Its nodes stay until their lifetime is over, and may come back from elsewhere. */
void coapd_rd_session_over(CoapdSession *s)
{
    for (list *p = s->coapd->simple.next, *next; p != &s->coapd->simple; p = next) {
        rd_question *q = list_entry(p, rd_question, node);

        next = p->next;
        if (q->session == s)
            question_free(q);
    }
    while (!list_empty(&s->nodes)) {
        CoapdNode *n = list_entry(s->nodes.next, CoapdNode, session_node);

        list_remove(&n->session_node);
        n->session = NULL;
        coapd_session_release(s);
    }
}

static int store(CoapdSession *s, const directory_spec *spec, const char *links, size_t size,
                 directory_node **ret, const char **ret_why)
{
    Coapd *d = s->coapd;
    char host[ENDPOINT_ADDRESS_TEXT], id[17];
    directory_owner owner = owner_of(s, host);
    unsigned char random[8];
    directory_node *entry;
    CoapdNode *n;
    int r;

    if (RAND_bytes(random, sizeof(random)) != 1)
        return -EIO;
    for (size_t i = 0; i < sizeof(random); i++)
        snprintf(id + 2 * i, 3, "%02x", random[i]);
    d->directory.limits = coapd_directory_limits(d->settings);
    r = directory_register(&d->directory, spec, &owner, id, links, size, timer_now(), &entry,
                           ret_why);
    if (r < 0)
        return r;
    if (entry->userdata) {
        coapd_node_moved(entry->userdata, s, true);
    } else {
        r = coapd_node_new(d, entry, s, &n);
        if (r < 0) {
            *ret_why = "";
            directory_remove(&d->directory, entry);
            return r;
        }
        entry->userdata = n;
        d->counters.nodes++;
    }
    expect_expiry(d);
    *ret = entry;
    return 0;
}

/* --- registration -------------------------------------------------------------------------------
 */

/* A base is believed when it says what we know. */
static bool is_base(const CoapdSession *s, const char *base)
{
    const char *port = s->road->encrypted ? ":5684" : ":5683";
    char own[ENDPOINT_ADDRESS_TEXT + 16];
    size_t n = (size_t)snprintf(own, sizeof(own), "%s://%s", s->road->protocol, s->peer_name);

    if (strncmp(base, own, n) == 0 && (!base[n] || streq(base + n, "/")))
        return true;
    return n > 5 && streq(own + n - 5, port) && strncmp(base, own, n - 5) == 0 &&
           (!base[n - 5] || streq(base + n - 5, "/"));
}

/* That an acknowledgement came shows too little here: a message id is soon guessed. Who registers
 * simply has nothing to show yet, but will be asked with a token. */
static bool is_somewhere(CoapdExchange *x, bool simple)
{
    CoapdSession *s = x->session;
    coapd_answer unverified = COAPD_ANSWER(COAP_RESPONSE_CODE(401));

    if (endpoint_address_is_loopback(&s->remote) && !s->coapd->settings->node_loopback) {
        answer(x, COAP_RESPONSE_CODE(403), "nodes do not register from this machine");
        return false;
    }
    if (s->proven || simple)
        return true;
    unverified.echo_size = COAPD_ECHO_SIZE;
    coapd_echo_make(s, unverified.echo);
    coapd_exchange_finish(x, &unverified);
    return false;
}

static void on_permit(int error, const char *audit, void *userdata)
{
    rd_question *q = userdata;
    CoapdExchange *x = q->exchange;
    coapd_answer a = COAPD_ANSWER(COAP_RESPONSE_CODE(201));
    directory_node *entry;
    const char *why = "";
    char text[96];
    int r;

    q->permit = NULL;
    if (error < 0) {
        snprintf(text, sizeof(text), "node.register:%s is needed (%s)", q->spec.name,
                 strempty(audit));
        answer(x,
               error == -EACCES
                   ? is_anonymous(x->session) ? COAP_RESPONSE_CODE(401) : COAP_RESPONSE_CODE(403)
                   : COAP_RESPONSE_CODE(503),
               error == -EACCES ? text : "");
        return;
    }
    r = store(x->session, &q->spec, q->links, q->size, &entry, &why);
    if (r < 0) {
        answer_error(x, r, why);
        return;
    }
    snprintf(a.location, sizeof(a.location), RD "/%s", entry->id);
    coapd_exchange_finish(x, &a);
}

static bool ask_permit(rd_question *q, coapd_permit_done done)
{
    char permission[sizeof("node.register:") + DIRECTORY_NAME_MAX];

    snprintf(permission, sizeof(permission), "node.register:%s", q->spec.name);
    return coapd_permit_ask(q->session, permission, RD, true, done, q, &q->permit) >= 0;
}

static bool is_link_format(const coapd_question *q)
{
    return q->format == LINK_FORMAT || (q->format == COAPD_FORMAT_NONE && q->payload_size == 0);
}

static void begin_registration(rd_question *q)
{
    CoapdExchange *x = q->exchange;
    const char *why;

    if (directory_parse(&x->session->coapd->directory, q->query, false, &q->spec, &why) < 0)
        answer(x, COAP_RESPONSE_CODE(400), why);
    else if (q->spec.base[0] && !is_base(x->session, q->spec.base))
        answer(x, COAP_RESPONSE_CODE(400), "base is where the request comes from");
    else if (!ask_permit(q, on_permit))
        answer(x, COAP_RESPONSE_CODE(503), "");
}

/* --- simple registration (RFC 9176, 5.1): the node is asked for its links
 * -------------------------
 */

static void on_links(int error, const coapd_told *t, bool end, void *userdata)
{
    rd_question *q = userdata;
    directory_node *entry;
    const char *why = "";

    q->upstream = NULL;
    if (error == 0 && t->code == COAP_RESPONSE_CODE(205) &&
        (t->format == LINK_FORMAT || t->format == COAPD_FORMAT_NONE)) {
        coapd_verified(q->session); /* it has received our token */
        q->session->proven = true;
        if (store(q->session, &q->spec, t->body, t->size, &entry, &why) < 0)
            hybus_debug("the links of node %s are not taken: %s", q->spec.name, why);
    }
    question_free(q);
}

static void on_simple_permit(int error, const char *audit, void *userdata)
{
    rd_question *q = userdata;
    CoapdExchange *x = q->exchange;
    CoapdSession *s = q->session;
    coapd_ask a = {.method = COAP_REQUEST_CODE_GET,
                   .path = COAPD_WELL_KNOWN,
                   .query = "",
                   .format = COAPD_FORMAT_NONE,
                   .accept = LINK_FORMAT};

    if (error < 0) {
        on_permit(error, audit, q);
        return;
    }
    q->permit = NULL;
    if (s->coapd->n_simple >= SIMPLE_MAX ||
        coapd_upstream_ask(s, &a, s->coapd->settings->node_timeout, on_links, q, &q->upstream) <
            0) {
        answer(x, COAP_RESPONSE_CODE(503), "");
        return;
    }
    coapd_session_hold(s);
    s->coapd->n_simple++;
    list_append(&s->coapd->simple, &q->node);
    q->exchange = NULL;
    x->rd = NULL;
    answer(x, COAP_RESPONSE_CODE(204), "");
}

static void begin_simple(rd_question *q)
{
    CoapdExchange *x = q->exchange;
    const char *why;

    if (directory_parse(&x->session->coapd->directory, q->query, false, &q->spec, &why) < 0)
        answer(x, COAP_RESPONSE_CODE(400), why);
    else if (q->spec.base[0])
        answer(x, COAP_RESPONSE_CODE(400), "base is where the request comes from");
    else if (!ask_permit(q, on_simple_permit))
        answer(x, COAP_RESPONSE_CODE(503), "");
}

/* --- update and removal -------------------------------------------------------------------------
 */

static void change(CoapdExchange *x, const coapd_question *q, const char *id)
{
    CoapdSession *s = x->session;
    Coapd *d = s->coapd;
    char host[ENDPOINT_ADDRESS_TEXT];
    directory_owner owner = owner_of(s, host);
    directory_node *entry = directory_by_id(&d->directory, id);
    directory_spec spec;
    const char *why;

    if (!entry) {
        answer(x, COAP_RESPONSE_CODE(404), "");
        return;
    }
    if (!directory_owns(entry, &owner)) {
        answer(x, is_anonymous(s) ? COAP_RESPONSE_CODE(401) : COAP_RESPONSE_CODE(403), "");
        return;
    }
    /* It comes back on another road: whether it may is asked when it registers. */
    if (!((CoapdNode *)entry->userdata)->session && !streq(q->method, "DELETE")) {
        answer(x, COAP_RESPONSE_CODE(404), "");
        return;
    }
    if (streq(q->method, "DELETE")) {
        remove_node(d, entry);
        answer(x, COAP_RESPONSE_CODE(202), "");
        return;
    }
    if (!streq(q->method, "POST")) {
        answer(x, COAP_RESPONSE_CODE(405), "");
        return;
    }
    d->directory.limits = coapd_directory_limits(d->settings);
    if (directory_parse(&d->directory, q->query, true, &spec, &why) < 0) {
        answer(x, COAP_RESPONSE_CODE(400), why);
        return;
    }
    if (spec.base[0] && !is_base(s, spec.base)) {
        answer(x, COAP_RESPONSE_CODE(400), "base is where the request comes from");
        return;
    }
    directory_update(entry, &spec, timer_now());
    coapd_node_moved(entry->userdata, s, false);
    expect_expiry(d);
    answer(x, COAP_RESPONSE_CODE(204), "");
}

/* --- look-up ------------------------------------------------------------------------------------
 */

typedef struct readable {
    const directory *directory;
    const void *seen[DIRECTORY_NODES_MAX];
    size_t n;
} readable;

static void each_readable(const endpoint_listing *l, void *userdata)
{
    readable *r = userdata;
    const char *name = startswith(l->namespace, DIRECTORY_PREFIX);
    const directory_node *entry = name ? directory_find(r->directory, name) : NULL;

    if (entry && r->n < DIRECTORY_NODES_MAX)
        r->seen[r->n++] = entry;
}

static bool may_see(const directory_node *n, void *userdata)
{
    const readable *r = userdata;

    for (size_t i = 0; i < r->n; i++)
        if (r->seen[i] == n)
            return true;
    return false;
}

static const char *base_of(const directory_node *n)
{
    return ((const CoapdNode *)n->userdata)->base;
}

static void look_up(CoapdExchange *x)
{
    Coapd *d = x->session->coapd;
    rd_question *q = x->rd;
    readable seen = {.directory = &d->directory};
    char *text = NULL;
    size_t size = 0;
    FILE *file;
    int r = endpoint_peer_list(x->session->peer, each_readable, &seen);

    if (r == -EAGAIN && x->tries++ < TRIES) {
        timer_start(&d->timers, TIMERS_SHORT, &x->again, timer_now() + AGAIN_USEC);
        return;
    }
    if (r < 0 || !(file = open_memstream(&text, &size))) {
        answer(x, COAP_RESPONSE_CODE(503), "");
        return;
    }
    r = directory_look_up(&d->directory, q->nodes, q->query, may_see, base_of, &seen, file);
    if (fclose(file) != 0 && r >= 0)
        r = -ENOMEM;
    if (r < 0)
        answer_error(x, r == -ENOBUFS ? -EINVAL : r, "the query is broken");
    else
        answer_links(x, text, size);
    free(text);
}

/* --- the door -----------------------------------------------------------------------------------
 */

static rd_question *question_new(CoapdExchange *x, const coapd_question *asked, const void *body,
                                 size_t size)
{
    rd_question *q = strlen(asked->query) < sizeof(q->query) ? calloc(1, sizeof(*q)) : NULL;

    if (!q)
        return NULL;
    q->exchange = x;
    q->session = x->session;
    list_init(&q->node);
    strcpy(q->query, asked->query);
    q->simple = streq(asked->path, COAPD_SIMPLE);
    q->nodes = streq(asked->path, RD_ENDPOINTS);
    q->lookup = q->nodes || streq(asked->path, RD_RESOURCES);
    q->links = malloc(MAX_OF(size, (size_t)1));
    if (!q->links) {
        free(q);
        return NULL;
    }
    if (size > 0)
        memcpy(q->links, body, size);
    q->size = size;
    return q;
}

/* Nobody's principal is known before the connection has been checked. */
static void go_on(CoapdExchange *x)
{
    CoapdSession *s = x->session;
    rd_question *q = x->rd;

    if (q->lookup) {
        look_up(x);
    } else if (!s->checked && x->tries++ < TRIES) {
        timer_start(&s->coapd->timers, TIMERS_SHORT, &x->again, timer_now() + AGAIN_USEC);
    } else if (!s->checked) {
        answer(x, COAP_RESPONSE_CODE(503), "");
    } else if (q->simple) {
        begin_simple(q);
    } else {
        begin_registration(q);
    }
}

static void on_again(endpoint_timer *t)
{
    go_on(list_entry(t, CoapdExchange, again));
}

void coapd_rd_ask(CoapdExchange *x, const coapd_question *q, const void *body, size_t size)
{
    const char *id = startswith(q->path, RD "/");
    bool lookup = startswith(q->path, "/rd-lookup/") != NULL;
    Coapd *d = x->session->coapd;

    d->directory.limits = coapd_directory_limits(d->settings);
    if (!lookup && !is_somewhere(x, streq(q->path, COAPD_SIMPLE)))
        return;
    if (id) {
        change(x, q, id);
        return;
    }
    if (!streq(q->method, lookup ? "GET" : "POST")) {
        answer(x, COAP_RESPONSE_CODE(405), "");
        return;
    }
    if (!lookup && (streq(q->path, RD) ? !is_link_format(q) : size > 0)) {
        answer(x, COAP_RESPONSE_CODE(415), "");
        return;
    }
    x->rd = question_new(x, q, body, size);
    x->again.fire = on_again;
    if (!x->rd)
        answer(x, COAP_RESPONSE_CODE(400), "");
    else
        go_on(x);
}

size_t coapd_rd_links(const Coapd *d, const coapd_filters *f, FILE *file, size_t n)
{
    static const char *const table[][2] = {
        {RD, "core.rd"}, {RD_RESOURCES, "core.rd-lookup-res"}, {RD_ENDPOINTS, "core.rd-lookup-ep"}};

    for (size_t i = 0; d->settings->nodes > 0 && i < ELEMENTS(table); i++) {
        bool wanted = true;

        for (size_t k = 0; k < f->n; k++) {
            const coapd_filter *c = &f->list[k];

            wanted = wanted && ((streq(c->name, "href") && coapd_filter_text(c, table[i][0])) ||
                                (streq(c->name, "rt") && coapd_filter_value(c, table[i][1])) ||
                                (streq(c->name, "ct") && coapd_filter_value(c, "40")));
        }
        if (wanted)
            fprintf(file, "%s<%s>;rt=\"%s\";ct=40", n++ ? "," : "", table[i][0], table[i][1]);
    }
    return n;
}

/* --- when the policy moves ----------------------------------------------------------------------
 */

static void settle(Coapd *d)
{
    if (d->rechecking == 0)
        coapd_policy_settled(d, COAPD_SETTLE_NODES);
}

void coapd_rd_rechecked(CoapdNode *n)
{
    coapd_permit_cancel(TAKE_PTR(n->permit));
    n->coapd->rechecking--;
    settle(n->coapd);
}

static void on_recheck(int error, const char *audit, void *userdata)
{
    CoapdNode *n = userdata;
    Coapd *d = n->coapd;

    n->permit = NULL;
    d->rechecking--;
    if (error == -EACCES) {
        hybus_info("node %s may no longer be here", n->entry->name);
        remove_node(d, n->entry);
    }
    settle(d);
}

void coapd_rd_recheck(Coapd *d)
{
    d->rechecking++; /* nothing settles before all have been asked */
    list_for_each(p, &d->directory.nodes)
    {
        directory_node *entry = list_entry(p, directory_node, node);
        CoapdNode *n = entry->userdata;
        char permission[sizeof("node.register:") + DIRECTORY_NAME_MAX];

        if (n->permit)
            coapd_rd_rechecked(n);
        snprintf(permission, sizeof(permission), "node.register:%s", entry->name);
        if (n->session && n->session->peer &&
            coapd_permit_ask(n->session, permission, RD, false, on_recheck, n, &n->permit) >= 0)
            d->rechecking++;
    }
    d->rechecking--;
    settle(d);
}
