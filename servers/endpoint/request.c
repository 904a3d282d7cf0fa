/* SPDX-License-Identifier: Apache-2.0 */
#include <time.h>

#include "core.h"

struct saved_info {
    endpoint_request_info info; /* without body: that is in r->held */
    size_t size;
};

/* --- the end
 * --------------------------------------------------------------------------------------------- */

static void forget_saved(endpoint_request *r)
{
    endpoint_core *c = r->core;

    if (!r->saved)
        return;
    c->held_bytes -= r->saved->size;
    c->n_waiting--;
    r->peer->n_waiting--;
    free(TAKE_PTR(r->saved));
}

void request_release(endpoint_request *r)
{
    link_remove_stream(r);
    bus_release(r);
    if (r->owner) {
        r->owner->open--;
        owner_unref(TAKE_PTR(r->owner));
    }
}

/* Nothing is told after this; the server still has to free it. */
static void request_done(endpoint_request *r)
{
    if (r->state == REQUEST_DONE)
        return;
    r->state = REQUEST_DONE;
    request_release(r);
    timer_stop(&r->deadline);
    list_remove(&r->wait_node);
    forget_saved(r);
    if (r->judging)
        hybus_agent_question_cancel(r->question);
    r->judging = false;
    if (r->held) {
        r->core->held_bytes -= r->held_size;
        free(TAKE_PTR(r->held));
    }
    permission_unref(&r->core->table, TAKE_PTR(r->permission));
    r->core->open--;
    r->peer->open--;
}

static void count_status(endpoint_core *c, unsigned status)
{
    endpoint_statistics *s = &c->statistics;
    uint64_t *counter = status == 401                    ? &s->unauthenticated
                        : status == 403                  ? &s->refused
                        : status == 404                  ? &s->not_found
                        : status == 502                  ? &s->responder_gone
                        : status == 504                  ? &s->timeouts
                        : status == 503 || status == 429 ? &s->overloaded
                                                         : NULL;

    if (counter)
        (*counter)++;
}

static void finish(endpoint_request *r, unsigned status, const char *detail, const char *audit)
{
    char problem[PROBLEM_MAX];
    endpoint_field fields[] = {
        {"content-type", 12, "application/problem+json", 24},
        {"cache-control", 13, "no-store", 8},
        {"retry-after", 11, "1", 1},
    };
    bool replied = r->replied;
    size_t size;

    if (r->state == REQUEST_DONE)
        return;
    count_status(r->core, status);
    request_done(r);
    r->replied = true;
    if (replied) {
        r->ops->abort(r, status, r->userdata);
        return;
    }
    size = status_problem(problem, status, detail, audit);
    r->ops->reply(r, status, fields, status_retry(status) ? 3 : 2, problem, r->head ? 0 : size,
                  true, r->userdata);
}

void request_fail(endpoint_request *r, unsigned status, const char *detail)
{
    if (r->state == REQUEST_OPEN && (status == 403 || status == 401 || status == 503)) {
        link_cancel(r, 403);
        bus_cancel(r);
    }
    finish(r, status, detail, NULL);
}

static void on_deadline(endpoint_timer *timer)
{
    endpoint_request *r = list_entry(timer, endpoint_request, deadline);

    link_cancel(r, 504);
    bus_cancel(r);
    finish(r, 504, "The app did not answer in time.", NULL);
}

void request_id_text(const endpoint_request *r, char text[34])
{
    static const char digits[] = "0123456789abcdef";
    uint64_t words[2] = {r->core->id_prefix, r->id};
    char *p = text;

    for (size_t w = 0; w < 2; w++) {
        for (int shift = 60; shift >= 0; shift -= 4)
            *p++ = digits[words[w] >> shift & 15];
        *p++ = w == 0 ? '-' : 0;
    }
}

/* --- waiting
 * -----------------------------------------------------------------------------------------------
 */

int request_hold_body(endpoint_request *r, const void *data, size_t size, bool end)
{
    uint8_t *p;

    r->held_end = end;
    if (size == 0) {
        r->held = malloc(1);
        return r->held ? 0 : -ENOMEM;
    }
    if (size > LIMIT_HELD_BYTES - r->core->held_bytes)
        return -ENOBUFS;
    p = malloc(size);
    if (!p)
        return -ENOMEM;
    memcpy(p, data, size);
    r->held = p;
    r->held_size = size;
    r->held_at = 0;
    r->core->held_bytes += size;
    return 0;
}

static char *put(char **at, const char *s, size_t size)
{
    char *start = *at;

    memcpy(start, s, size);
    start[size] = 0;
    *at += size + 1;
    return start;
}

static int save(endpoint_request *r, const endpoint_request_info *i)
{
    endpoint_core *c = r->core;
    size_t size = sizeof(struct saved_info) + i->n_headers * sizeof(endpoint_field);
    endpoint_field *fields;
    struct saved_info *s;
    char *at;
    int k;

    if (r->saved)
        return 0;
    if (c->n_waiting >= LIMIT_WAITING || r->peer->n_waiting >= LIMIT_WAITING_PEER)
        return -ENOBUFS;
    size += strlen(i->method) + strlen(i->path) + strlen(strempty(i->query)) + 3;
    for (size_t n = 0; n < i->n_headers; n++)
        size += i->headers[n].name_size + i->headers[n].value_size + 2;
    if (size > LIMIT_HELD_BYTES - c->held_bytes)
        return -ENOBUFS;
    s = malloc(size);
    if (!s)
        return -ENOMEM;
    k = request_hold_body(r, i->body, i->body_size, i->body_end);
    if (k < 0) {
        free(s);
        return k;
    }
    fields = (endpoint_field *)(s + 1);
    at = (char *)(fields + i->n_headers);
    s->size = size;
    s->info = (endpoint_request_info){.headers = fields, .n_headers = i->n_headers};
    s->info.method = put(&at, i->method, strlen(i->method));
    s->info.path = put(&at, i->path, strlen(i->path));
    s->info.query = put(&at, strempty(i->query), strlen(strempty(i->query)));
    for (size_t n = 0; n < i->n_headers; n++) {
        const endpoint_field *f = &i->headers[n];
        fields[n] =
            (endpoint_field){put(&at, f->name, f->name_size), f->name_size, NULL, f->value_size};
        fields[n].value = put(&at, f->value, f->value_size);
    }
    r->saved = s;
    c->held_bytes += size;
    c->n_waiting++;
    r->peer->n_waiting++;
    return 0;
}

static void wait_in(endpoint_request *r, const endpoint_request_info *i, list *where)
{
    if (save(r, i) < 0)
        finish(r, r->peer->n_waiting >= LIMIT_WAITING_PEER ? 429 : 503, "Too many requests wait.",
               NULL);
    else
        list_append(where, &r->wait_node);
}

/* --- deciding
 * ------------------------------------------------------------------------------------------------
 */

static void on_verdict(const hybus_verdict *v, int error, void *userdata)
{
    endpoint_request *r = userdata;

    r->judging = false;
    r->question = NULL;
    if (error < 0)
        finish(r, 503, "The policy agent is away.", NULL);
    else if (v->allowed) {
        r->has_pass = v->once;
        r->pass = v->pass;
        request_decide_saved(r);
    }
    else if (endpoint_peer_anonymous(r->peer))
        finish(r, 401, "This needs a login.", v->audit);
    else
        finish(r, 403, "The policy does not allow this.", v->audit);
}

/* Every refusal is recorded by the agent, and tells its audit id. */
static void refuse(endpoint_request *r, const endpoint_request_info *i)
{
    char path[AUDIT_PATH_MAX];
    hybus_call call = {
        .permission = r->permission->name,
        .interface = "org.hybridos.Responder1",
        .member = i->method,
        .path = path,
        .kind = HYBUS_MEMBER_METHOD,
        .single = true,
    };
    hybus_subject subject = principal_subject(r->peer->principal);
    hybus_agent_question *q = NULL;
    int k;

    if (save(r, i) < 0) {
        finish(r, 503, "Too many requests wait.", NULL);
        return;
    }
    status_audit_path(path, i->path);
    r->judging = true;
    k = hybus_agent_judge(r->core->agent, &subject, &call, on_verdict, r, &q);
    if (k < 0) {
        r->judging = false;
        finish(r, 503, "The policy agent is away.", NULL);
    } else if (r->judging) /* never after a callback that came at once: r may be gone */
        r->question = q;
}

void request_sent(endpoint_request *r, owner *o, uint32_t uid)
{
    r->state = REQUEST_OPEN;
    r->uid = uid;
    r->owner = o;
    o->refs++;
    o->open++;
}

static size_t responder_limit(const endpoint_core *c)
{
    size_t half = MAX_OF(c->settings.requests_max / 2, (size_t)1);

    /* However large it is set, one app never holds all requests there may be. */
    return MIN_OF(c->settings.responder_max, half);
}

static void start_unit(endpoint_request *r, entry *e, const endpoint_request_info *i)
{
    uint64_t now = timer_now();

    /* Once for all who wait, and again when nothing has come of it. */
    if (e->start_asked == 0 || now - e->start_asked > LIMIT_ATTACH_USEC) {
        if (registrar_start_unit(&r->core->registrar, e) < 0) {
            finish(r, 503, "The registrar is away.", NULL);
            return;
        }
        e->start_asked = now;
    }
    wait_in(r, i, &e->waiting);
}

static void deliver(endpoint_request *r, entry *e, const endpoint_request_info *i)
{
    endpoint_core *c = r->core;
    unsigned status = 0;
    owner *o;

    if (e->d.road == ROAD_START) {
        start_unit(r, e, i);
        return;
    }
    if (e->d.road == ROAD_CHANNEL && !e->attachment) {
        if (timer_now() < e->wait_until)
            wait_in(r, i, &e->waiting); /* registered a moment ago: it is on its way here */
        else
            finish(r, 502, "The app behind this address has gone.", NULL);
        return;
    }
    o = owner_get(c, e->d.uid);
    if (!o || o->open >= responder_limit(c))
        status = 503;
    else if (e->d.road == ROAD_BUS)
        status = bus_send_request(e, r, i);
    else
        status = link_send_request(e->attachment->link, e, r, i);
    owner_unref(o);
    if (status)
        finish(r, status, status == 503 ? "The app has too much to do." : status_title(status),
               NULL);
    else {
        forget_saved(r);
        if (r->starved && !r->held && !r->body_ended && r->ops->taken) {
            r->starved = false;
            r->ops->taken(r, 0, r->userdata); /* the last: r may be gone */
        }
    }
}

static bool expired(const principal *p)
{
    struct timespec t;

    if (p->expires == UINT64_MAX || p->expires == 0)
        return false;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u >= p->expires;
}

static void decide(endpoint_request *r, const endpoint_request_info *i)
{
    endpoint_core *c = r->core;
    endpoint_peer *p = r->peer;
    permission *needed;
    entry *e;
    bool passes;
    int k;

    if (p->state == PEER_GOOD && p->principal->handle != 0 && expired(p->principal))
        peer_check(p);
    if (r->state == REQUEST_DONE) /* the check came back at once, and ended it */
        return;
    if (p->state == PEER_CHECKING) {
        wait_in(r, i, &p->waiting);
        return;
    }
    if (p->state == PEER_BAD || ++r->decisions > LIMIT_DECISIONS) {
        finish(r, 503, "The policy agent has not admitted this connection.", NULL);
        return;
    }
    e = table_match(&c->table, i->path);
    if (!e) {
        finish(r, 404, "No app answers for this address.", NULL);
        return;
    }
    needed = permission_ref(entry_permission(e, i->method, i->path));
    passes = r->has_pass && needed == r->permission && hybus_agent_pass_current(c->agent, &r->pass);
    permission_unref(&c->table, r->permission);
    r->permission = needed;
    k = passes ? 1 : principal_allows(p->principal, needed, true);
    if (_likely_(k > 0))
        deliver(r, e, i);
    else if (k == 0)
        refuse(r, i);
    else if (k == -EAGAIN)
        wait_in(r, i, &p->waiting);
    else
        finish(r, 503, "The policy agent is away.", NULL);
}

void request_decide_saved(endpoint_request *r)
{
    endpoint_request_info i = r->saved->info;

    decide(r, &i);
}

void request_recheck(endpoint_request *r)
{
    if (r->state != REQUEST_OPEN || !r->permission)
        return;
    if (r->has_pass && hybus_agent_pass_current(r->core->agent, &r->pass))
        return;
    if (principal_allows(r->peer->principal, r->permission, false) == 0)
        request_fail(r, endpoint_peer_anonymous(r->peer) ? 401 : 403,
                     "The policy no longer allows this.");
}

/* --- replies
 * ----------------------------------------------------------------------------------------------------
 */

/* A body that is not as long as it says could end as another response in some client. */
static int check_length(endpoint_request *r, unsigned status, const endpoint_field *fields,
                        size_t n, size_t size, bool end)
{
    bool seen = false;

    r->has_length = false;
    for (size_t k = 0; k < n; k++) {
        if (!hybus_frame_field_is(&fields[k], "content-length"))
            continue;
        if (seen || hybus_frame_field_number(&fields[k], INT64_MAX, &r->length_left) < 0)
            return -EBADMSG;
        seen = true;
    }
    if (!seen || r->head || status == 204 || status == 304)
        return 0;
    if (size > r->length_left || (end && size != r->length_left))
        return -EBADMSG;
    r->length_left -= size;
    r->has_length = true;
    return 0;
}

int request_reply(endpoint_request *r, unsigned status, const endpoint_field *fields,
                  size_t n_fields, const void *body, size_t size, bool end)
{
    endpoint_field kept[CHANNEL_FIELDS_MAX];
    size_t n = MIN_OF(n_fields, ELEMENTS(kept));
    int k;

    memcpy(kept, fields, n * sizeof(*kept));
    k = status_filter_fields(kept, &n);
    if (k >= 0)
        k = check_length(r, status, kept, n, size, end);
    if (k < 0)
        return k;
    if (status == 204 || status == 304)
        r->head = true;
    if (r->head)
        size = 0;
    r->replied = true;
    timer_stop(&r->deadline);
    if (end)
        request_done(r);
    r->ops->reply(r, status, kept, n, body, size, end, r->userdata);
    return 0;
}

int request_data(endpoint_request *r, const void *data, size_t size, bool end)
{
    if (r->has_length) {
        if (size > r->length_left || (end && size != r->length_left))
            return -EBADMSG;
        r->length_left -= size;
    }
    if (end)
        request_done(r);
    if (r->head) { /* nobody takes it; what is sent in vain gets its credit back */
        if (!end) {
            endpoint_request_consumed(r, size);
            return 0;
        }
        size = 0;
    }
    if (size > 0 || end)
        r->ops->data(r, data, size, end, r->userdata);
    return 0;
}

/* --- what servers call
 * ------------------------------------------------------------------------------------------ */

static unsigned check_info(const endpoint_core *c, const endpoint_peer *p,
                           const endpoint_request_info *i)
{
    if (c->draining || c->open > c->settings.requests_max)
        return 503;
    if (p->open > c->settings.requests_peer_max)
        return 429;
    if (!i->method[0] || strlen(i->method) > 32 || i->path[0] != '/')
        return 400;
    if (strlen(i->path) > LIMIT_PATH || strlen(strempty(i->query)) > LIMIT_QUERY)
        return 414;
    if (i->n_headers > LIMIT_HEADERS)
        return 431;
    for (size_t n = 0, total = 0; n < i->n_headers; n++) {
        total += i->headers[n].name_size + i->headers[n].value_size + 4;
        if (total > LIMIT_FIELDS)
            return 431;
    }
    return i->body_size > c->settings.body_max ? 413 : 0;
}

static endpoint_request *request_alloc(endpoint_core *c)
{
    endpoint_request *r;

    if (list_empty(&c->spare))
        return calloc(1, sizeof(*r));
    r = list_entry(c->spare.next, endpoint_request, peer_node);
    list_remove(&r->peer_node);
    c->n_spare--;
    memset(r, 0, sizeof(*r));
    return r;
}

int endpoint_request_new(endpoint_peer *p, const endpoint_request_info *i,
                         const endpoint_reply_ops *ops, void *userdata, endpoint_request **ret)
{
    endpoint_core *c = p->core;
    endpoint_request *r = request_alloc(c);
    unsigned status;

    if (!r)
        return -ENOMEM;
    r->core = c;
    r->peer = p;
    r->ops = ops;
    r->userdata = userdata;
    r->uid = UINT32_MAX;
    r->id = c->id_next++;
    r->head = streq(i->method, "HEAD");
    r->body_total = i->body_size;
    r->body_ended = false;
    list_append(&p->requests, &r->peer_node);
    list_init(&r->wait_node);
    list_init(&r->deadline.node);
    r->deadline.fire = on_deadline;
    c->open++;
    p->open++;
    c->statistics.requests++;
    *ret = r;
    status = check_info(c, p, i);
    if (status) {
        finish(r, status, status_title(status), NULL);
        return 0;
    }
    timer_start(&c->timers, TIMERS_REQUEST, &r->deadline, timer_now() + c->settings.deadline_usec);
    decide(r, i);
    return 0;
}

/* A body that keeps coming is not a responder that does not answer. */
static void body_came(endpoint_request *r, size_t size)
{
    r->body_total += size;
    if (!r->replied)
        timer_start(&r->core->timers, TIMERS_REQUEST, &r->deadline,
                    timer_now() + r->core->settings.deadline_usec);
}

int endpoint_request_body(endpoint_request *r, const void *data, size_t size, bool end)
{
    if (r->state == REQUEST_DONE)
        return 0;
    if (size > CHANNEL_CREDIT_INITIAL)
        return -EMSGSIZE;
    if (r->body_total + size > r->core->settings.body_max) {
        link_cancel(r, 413);
        bus_cancel(r);
        finish(r, 413, status_title(413), NULL);
        return -EFBIG;
    }
    if (r->state == REQUEST_WAITING || r->held ||
        (r->link && (size > r->send_credit ||
                     hybus_frame_queue_pending(&r->link->wire.out) + size >= LIMIT_OUT_HIGH))) {
        r->starved = true;
        return -EAGAIN;
    }
    if (r->bus) {
        int k = bus_body(r, data, size, end);
        if (k >= 0)
            body_came(r, size);
        return k;
    }
    body_came(r, size);
    if (request_hold_body(r, data, size, end) < 0)
        return -EAGAIN;
    link_pump(r);
    return 0;
}

void endpoint_request_consumed(endpoint_request *r, size_t size)
{
    if (r->state != REQUEST_OPEN || size == 0)
        return;
    if (r->link) {
        uint32_t n = (uint32_t)MIN_OF(size, (size_t)(CHANNEL_CREDIT_INITIAL - r->receive_credit));
        if (n == 0)
            return;
        r->receive_credit += n;
        wire_send(&r->link->wire, CHANNEL_CREDIT, 0, r->stream, n);
    } else if (r->bus) {
        r->receive_credit +=
            (uint32_t)MIN_OF(size, (size_t)(CHANNEL_CREDIT_INITIAL - r->receive_credit));
        bus_consumed(r);
    }
}

uint32_t endpoint_request_uid(const endpoint_request *r)
{
    return r->uid;
}

void endpoint_request_free(endpoint_request *r)
{
    endpoint_core *c;

    if (!r)
        return;
    c = r->core;
    if (r->state != REQUEST_DONE) {
        c->statistics.cancelled++;
        link_cancel(r, 499);
        bus_cancel(r);
        request_done(r);
    }
    list_remove(&r->peer_node);
    if (c->n_spare < LIMIT_SPARE_REQUESTS) {
        list_append(&c->spare, &r->peer_node);
        c->n_spare++;
    } else
        free(r);
}
