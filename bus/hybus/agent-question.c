/* SPDX-License-Identifier: Apache-2.0 */
/* What is asked of the agent and what it answers: in order, each with a deadline, answered exactly
 * once. */
#include <sys/epoll.h>
#include <sys/socket.h>

#include "agent-internal.h"
#include "json.h"

static char *dump(json_t *o)
{
    return json_dumps(o, JSON_COMPACT);
}

static int subject_json(json_t *o, const hybus_subject *s)
{
    json_t *gids;
    int r = 0;

    if (s->unknown)
        return json_object_set_new(o, "name", json_string(strempty(s->bus_name)));
    if (s->remote)
        return json_object_set_new(o, "handle", json_integer((json_int_t)s->handle));
    gids = json_array();
    for (size_t i = 0; i < s->n_gids; i++)
        r |= json_array_append_new(gids, json_integer(s->gids[i]));
    r |= json_object_set_new(o, "uid", json_integer(s->uid));
    r |= json_object_set_new(o, "gids", gids);
    if (s->bus_name)
        r |= json_object_set_new(o, "name", json_string(s->bus_name));
    return r;
}

static int set_string(json_t *o, const char *key, const char *value)
{
    return value ? json_object_set_new(o, key, json_string(value)) : 0;
}

/* --- sending --------------------------------------------------------------------------------- */

static void note_free(hybus_agent *a, Note *n)
{
    TAILQ_REMOVE(&a->notes, n, queue);
    a->n_notes--;
    free(n->packet);
    free(n);
}

/* And so it is not asked twice. */
static bool holds_secret(const hybus_agent_question *q)
{
    return q->kind == QUESTION_CONNECT || q->kind == QUESTION_LOGIN || q->kind == QUESTION_EXCHANGE;
}

void agent_flush(hybus_agent *a)
{
    hybus_agent_question *q, *next;
    Note *n;
    int r;

    if (a->fd < 0 || !a->ready)
        return;
    while ((n = TAILQ_FIRST(&a->notes))) {
        r = agent_send_packet(a, n->packet);
        if (r == 0)
            goto full;
        note_free(a, n);
    }
    for (q = TAILQ_FIRST(&a->waiting); q; q = next) {
        next = TAILQ_NEXT(q, queue);
        r = agent_send_packet(a, q->packet);
        if (r == 0)
            goto full;
        if (r < 0)
            break;
        q->sent = true;
        q->hello = a->hellos_sent;
        TAILQ_REMOVE(&a->waiting, q, queue);
        TAILQ_INSERT_TAIL(&a->asked, q, queue);
        if (holds_secret(q)) {
            wipe_free(q->packet);
            q->packet = NULL;
        }
    }
    agent_want(a, EPOLLIN);
    return;
full:
    agent_want(a, EPOLLIN | EPOLLOUT);
}

bool agent_send_note(hybus_agent *a, json_t *o, bool droppable)
{
    _cleanup_(freep) char *packet = o ? dump(o) : NULL;
    Note *n;

    json_decref(o);
    if (a->fd < 0 || !a->ready)
        return false; /* what it speaks of ended with the connection */
    if (!packet || (droppable && a->n_notes >= AGENT_NOTES_MAX) || !(n = calloc(1, sizeof *n))) {
        a->dropped++;
        return false;
    }
    n->packet = TAKE_PTR(packet);
    TAILQ_INSERT_TAIL(&a->notes, n, queue);
    a->n_notes++;
    agent_flush(a);
    return true;
}

/* --- questions ------------------------------------------------------------------------------- */

static void question_free(hybus_agent_question *q)
{
    hybus_agent *a = q->agent;

    if (q->patient)
        TAILQ_REMOVE(&a->patient, q, queue);
    else if (q->sent)
        TAILQ_REMOVE(&a->asked, q, queue);
    else
        TAILQ_REMOVE(&a->waiting, q, queue);
    a->by_id[q->id % HYBUS_AGENT_PENDING_MAX] = NULL;
    a->n_questions--;
    wipe_free(q->packet);
    free(q);
}

static void question_fail(hybus_agent_question *q, int error)
{
    hybus_agent_question copy = *q;

    question_free(q);
    switch (copy.kind) {
    case QUESTION_ROW:
        copy.f.row(NULL, error, copy.userdata);
        break;
    case QUESTION_JUDGE:
        copy.f.verdict(NULL, error, copy.userdata);
        break;
    case QUESTION_CONNECT:
        copy.f.principal(NULL, error, 0, copy.userdata);
        break;
    case QUESTION_LOGIN:
        copy.f.login(NULL, error, 0, copy.userdata);
        break;
    case QUESTION_EXCHANGE:
        copy.f.reply(NULL, 0, error, copy.userdata);
        break;
    }
}

static hybus_agent_question *oldest(hybus_agent *a)
{
    hybus_agent_question *all[] = {TAILQ_FIRST(&a->waiting), TAILQ_FIRST(&a->asked),
                                   TAILQ_FIRST(&a->patient)};
    hybus_agent_question *first = NULL;

    for (size_t i = 0; i < ELEMENTS(all); i++)
        if (all[i] && (!first || all[i]->deadline_usec < first->deadline_usec))
            first = all[i];
    return first;
}

/* One timer, set only when there is something to wait for: an idle daemon does not wake. */
void agent_arm_deadline(hybus_agent *a)
{
    hybus_agent_question *q = oldest(a);

    if (!q) {
        (void)sd_event_source_set_enabled(a->deadline, SD_EVENT_OFF);
        return;
    }
    (void)sd_event_source_set_time(a->deadline, q->deadline_usec);
    (void)sd_event_source_set_enabled(a->deadline, SD_EVENT_ONESHOT);
}

int agent_on_deadline(sd_event_source *s, uint64_t usec, void *userdata)
{
    hybus_agent *a = userdata;
    hybus_agent_question *q;

    while ((q = oldest(a)) && q->deadline_usec <= usec)
        question_fail(q, -ENOKEY);
    agent_arm_deadline(a);
    return 0;
}

/* Takes over `o`, the question without its id. */
static int ask(hybus_agent *a, json_t *o, QuestionKind kind, hybus_agent_question **ret)
{
    hybus_agent_question *q;
    uint64_t now;
    int r = -ENOMEM;

    if (a->n_questions >= HYBUS_AGENT_PENDING_MAX) {
        json_decref(o);
        return -ENOBUFS;
    }
    while (a->by_id[a->next_id % HYBUS_AGENT_PENDING_MAX] || a->next_id == 0)
        a->next_id++;
    q = calloc(1, sizeof *q);
    if (q && o && json_object_set_new(o, "id", json_integer((json_int_t)a->next_id)) == 0)
        q->packet = dump(o);
    json_decref(o);
    if (q && q->packet)
        r = strlen(q->packet) > HYBUS_AGENT_PACKET_MAX ? -EMSGSIZE : 0;
    if (r < 0) {
        if (q)
            wipe_free(q->packet);
        free(q);
        return r;
    }
    q->agent = a;
    q->kind = kind;
    q->id = a->next_id++;
    (void)sd_event_now(a->event, CLOCK_MONOTONIC, &now);
    q->deadline_usec = now + HYBUS_AGENT_DEADLINE_USEC;
    a->by_id[q->id % HYBUS_AGENT_PENDING_MAX] = q;
    a->n_questions++;
    TAILQ_INSERT_TAIL(&a->waiting, q, queue);
    if (oldest(a) == q)
        agent_arm_deadline(a);
    *ret = q;
    return 0;
}

static int started(hybus_agent *a, hybus_agent_question *q, void *userdata,
                   hybus_agent_question **ret)
{
    q->userdata = userdata;
    if (ret)
        *ret = q;
    agent_flush(a);
    return 0;
}

int hybus_agent_row(hybus_agent *a, const hybus_subject *subject, const char *const *permissions,
                    size_t n_permissions, hybus_row_callback f, void *userdata,
                    hybus_agent_question **ret)
{
    json_t *o = json_pack("{ss}", "op", "row");
    hybus_agent_question *q;
    int r = o ? subject_json(o, subject) : -1;

    if (permissions) {
        json_t *list = json_array();

        if (n_permissions > HYBUS_AGENT_PERMISSIONS_MAX) {
            json_decref(list);
            json_decref(o);
            return -E2BIG;
        }
        for (size_t i = 0; i < n_permissions; i++)
            r |= json_array_append_new(list, json_string(permissions[i]));
        r |= json_object_set_new(o, "permissions", list);
    }
    if (r != 0) {
        json_decref(o);
        return -EINVAL;
    }
    r = ask(a, o, QUESTION_ROW, &q);
    if (r < 0)
        return r;
    q->own_list = !permissions;
    q->f.row = f;
    return started(a, q, userdata, ret);
}

/* What does not fit stays unknown. */
static int single_json(json_t *o, const hybus_call *call)
{
    json_t *arguments = NULL;
    int r = 0;

    if (!call->single)
        return 0;
    r |= json_object_set_new(o, "single", json_true());
    if (call->arguments && strlen(call->arguments) <= HYBUS_AGENT_ARGUMENTS_MAX)
        arguments = json_loads(call->arguments, JSON_REJECT_DUPLICATES, NULL);
    if (json_is_array(arguments))
        return r | json_object_set_new(o, "arguments", arguments);
    json_decref(arguments);
    if (call->has_arguments && !call->arguments)
        r |= json_object_set_new(o, "arguments", json_false());
    return r;
}

int hybus_agent_judge(hybus_agent *a, const hybus_subject *subject, const hybus_call *call,
                      hybus_verdict_callback f, void *userdata, hybus_agent_question **ret)
{
    const char kind[] = {(char)call->kind, '\0'};
    json_t *o = json_pack("{ss ss? ss ss ss ss}", "op", "judge", "permission", call->permission,
                          "interface", strempty(call->interface), "member", strempty(call->member),
                          "path", strempty(call->path), "kind", kind);
    hybus_agent_question *q;
    int r;

    if (!o || subject_json(o, subject) != 0 || single_json(o, call) != 0) {
        json_decref(o);
        return -EINVAL;
    }
    r = ask(a, o, QUESTION_JUDGE, &q);
    if (r < 0)
        return r;
    q->f.verdict = f;
    return started(a, q, userdata, ret);
}

int hybus_agent_check_connection(hybus_agent *a, const hybus_connection *c,
                                 hybus_principal_callback f, void *userdata,
                                 hybus_agent_question **ret)
{
    json_t *o = json_pack("{ss ss}", "op", "connect", "protocol", strempty(c->protocol));
    hybus_agent_question *q;
    int r;

    if (!o || set_string(o, "peer", c->peer) | set_string(o, "local", c->local) |
                  set_string(o, "tls", c->tls) | set_string(o, "cert_sha256", c->cert_sha256) |
                  set_string(o, "node", c->node) | set_string(o, "node_key", c->node_key) |
                  set_string(o, "bearer", c->bearer)) {
        json_decref(o);
        return -EINVAL;
    }
    r = ask(a, o, QUESTION_CONNECT, &q);
    if (r < 0)
        return r;
    q->f.principal = f;
    return started(a, q, userdata, ret);
}

static int ask_login(hybus_agent *a, json_t *o, hybus_login_callback f, void *userdata,
                     hybus_agent_question **ret)
{
    hybus_agent_question *q;
    int r = o ? ask(a, o, QUESTION_LOGIN, &q) : -EINVAL; /* not UTF-8 */

    if (r < 0)
        return r;
    q->f.login = f;
    return started(a, q, userdata, ret);
}

int hybus_agent_login(hybus_agent *a, const hybus_connection *c, const char *user,
                      const char *password, hybus_login_callback f, void *userdata,
                      hybus_agent_question **ret)
{
    return ask_login(a,
                     json_pack("{ss ss ss ss ss* ss*}", "op", "login", "user", user, "secret",
                               password, "protocol", strempty(c->protocol), "peer", c->peer, "tls",
                               c->tls),
                     f, userdata, ret);
}

int hybus_agent_own_password(hybus_agent *a, const hybus_connection *c, const char *old,
                             const char *new, hybus_login_callback f, void *userdata,
                             hybus_agent_question **ret)
{
    return ask_login(a,
                     json_pack("{ss ss ss ss ss ss* ss*}", "op", "own-password", "bearer",
                               strempty(c->bearer), "secret", old, "new", new, "protocol",
                               strempty(c->protocol), "peer", c->peer, "tls", c->tls),
                     f, userdata, ret);
}

int hybus_agent_logout(hybus_agent *a, const char *secret, hybus_login_callback f, void *userdata,
                       hybus_agent_question **ret)
{
    return ask_login(a, json_pack("{ss ss}", "op", "logout", "bearer", secret), f, userdata, ret);
}

int hybus_agent_exchange(hybus_agent *a, const char *request, hybus_agent_reply f, void *userdata,
                         hybus_agent_question **ret)
{
    json_t *o = json_loads(request, JSON_REJECT_DUPLICATES, NULL);
    hybus_agent_question *q;
    int r;

    if (!json_is_object(o)) {
        json_decref(o);
        return -EINVAL;
    }
    r = ask(a, o, QUESTION_EXCHANGE, &q);
    if (r < 0)
        return r;
    q->f.reply = f;
    return started(a, q, userdata, ret);
}

/* A person must not be asked for somebody who no longer waits. */
void hybus_agent_question_cancel(hybus_agent_question *q)
{
    if (!q)
        return;
    if (q->patient)
        agent_send_note(
            q->agent, json_pack("{ss sI}", "op", "withdraw", "question", (json_int_t)q->id), false);
    question_free(q);
}

void hybus_agent_used(hybus_agent *a, const hybus_subject *subject, const char *permission,
                      uint64_t count)
{
    json_t *o = json_pack("{ss ss sI}", "op", "used", "permission", permission, "count",
                          (json_int_t)MIN_OF(count, (uint64_t)1 << 53));

    if (o && subject_json(o, subject) != 0) {
        json_decref(o);
        o = NULL;
    }
    agent_send_note(a, o, true);
}

bool hybus_agent_unjudged(hybus_agent *a, const hybus_subject *subject, const char *reason,
                          const char *audit, const char *interface, const char *member,
                          uint64_t count)
{
    json_t *o = json_pack("{ss ss ss* ss* ss* sI}", "op", "unjudged", "reason", reason, "audit",
                          audit, "interface", interface, "member", member, "count",
                          (json_int_t)MIN_OF(count, (uint64_t)1 << 53));

    if (o && subject_json(o, subject) != 0) {
        json_decref(o);
        o = NULL;
    }
    return agent_send_note(a, o, true);
}

bool hybus_agent_bus_refused(hybus_agent *a, const hybus_subject *subject,
                             const hybus_refusal *refusal, uint64_t count)
{
    const char type[] = {refusal->type, '\0'};
    json_t *o = json_pack("{ss ss sb ss* ss* ss* ss* sI}", "op", "bus-refused", "type", type,
                          "receive", (int)refusal->receive, "destination", refusal->destination,
                          "interface", refusal->interface, "member", refusal->member, "path",
                          refusal->path, "count", (json_int_t)MIN_OF(count, (uint64_t)1 << 53));

    if (o && subject_json(o, subject) != 0) {
        json_decref(o);
        o = NULL;
    }
    return agent_send_note(a, o, true);
}

void hybus_agent_release(hybus_agent *a, uint64_t handle)
{
    if (handle != 0)
        agent_send_note(a, json_pack("{ss sI}", "op", "release", "handle", (json_int_t)handle),
                        false);
}

void hybus_agent_touch(hybus_agent *a, uint64_t handle)
{
    if (handle != 0)
        agent_send_note(a, json_pack("{ss sI}", "op", "touch", "handle", (json_int_t)handle), true);
}

/* --- answers --------------------------------------------------------------------------------- */

static int parse_row(const json_t *answer, hybus_row **ret)
{
    _cleanup_(freep) uint8_t *bytes = NULL;
    const char *bits = json_string_value(json_object_get(answer, "bits"));
    uint64_t epoch, stamp, slot, count;
    hybus_row *row;
    size_t words, size;

    if (!bits || agent_decimal(json_object_get(answer, "epoch"), &epoch) < 0 ||
        agent_decimal(json_object_get(answer, "stamp"), &stamp) < 0 ||
        agent_decimal(json_object_get(answer, "slot"), &slot) < 0 || slot >= HYBUS_PAGE_SLOTS ||
        agent_decimal(json_object_get(answer, "count"), &count) < 0 || count > AGENT_MEMBERS_MAX)
        return -EPROTO;
    if (hybus_base64_decode(bits, strlen(bits), (void **)&bytes, &size) < 0 ||
        size != (count + 7) / 8)
        return -EPROTO;
    words = (count + 63) / 64;
    row = calloc(1, sizeof *row + words * sizeof row->bits[0]);
    if (!row)
        return -ENOMEM;
    row->epoch = epoch;
    row->stamp = stamp;
    row->slot = (uint32_t)slot;
    row->n_bits = (uint32_t)count;
    for (size_t i = 0; i < count; i++)
        row->bits[i / 64] |= (uint64_t)(bytes[i / 8] >> (i % 8) & 1) << (i % 64);
    *ret = row;
    return 0;
}

static void answer_row(hybus_agent_question *q, const json_t *answer)
{
    hybus_agent *a = q->agent;
    hybus_agent_question copy = *q;
    hybus_row *row = NULL;
    int r = agent_error_code(answer);

    if (q->own_list && q->hello != a->hellos_answered) {
        /* Its bits are over a list that is not the one we hold: ask again. */
        TAILQ_REMOVE(&a->asked, q, queue);
        q->sent = false;
        TAILQ_INSERT_HEAD(&a->waiting, q, queue);
        agent_flush(a);
        return;
    }
    if (r == 0)
        r = parse_row(answer, &row);
    question_free(q);
    copy.f.row(row, r, copy.userdata);
}

static uint64_t hidden(const json_t *list)
{
    uint64_t mask = 0;
    const json_t *one;
    size_t i;

    json_array_foreach(list, i,
                       one) if (json_integer_value(one) >= 0 && json_integer_value(one) < 64)
        mask |= UINT64_C(1) << json_integer_value(one);
    return mask;
}

static int parse_pass(const json_t *answer, hybus_pass *ret)
{
    uint64_t slot;

    if (agent_decimal(json_object_get(answer, "epoch"), &ret->epoch) < 0 ||
        agent_decimal(json_object_get(answer, "stamp"), &ret->stamp) < 0 ||
        agent_decimal(json_object_get(answer, "slot"), &slot) < 0 || slot >= HYBUS_PAGE_SLOTS)
        return -EPROTO;
    ret->slot = (uint32_t)slot;
    return 0;
}

/* A person is being asked: this is not the answer yet. */
static bool is_put_off(hybus_agent_question *q, const json_t *answer)
{
    hybus_agent *a = q->agent;
    uint64_t wait, now;

    if (q->patient || agent_decimal(json_object_get(answer, "wait"), &wait) < 0)
        return false;
    (void)sd_event_now(a->event, CLOCK_MONOTONIC, &now);
    TAILQ_REMOVE(&a->asked, q, queue);
    q->patient = true;
    q->deadline_usec =
        now + MIN_OF(wait, (uint64_t)HYBUS_AGENT_WAIT_MAX_USEC) + HYBUS_AGENT_DEADLINE_USEC;
    TAILQ_INSERT_TAIL(&a->patient, q, queue);
    agent_arm_deadline(a);
    return true;
}

static void answer_judge(hybus_agent_question *q, const json_t *answer)
{
    hybus_agent_question copy = *q;
    const json_t *allowed = json_object_get(answer, "allowed");
    hybus_verdict v = {
        .allowed = json_is_true(allowed),
        .audit = strempty(json_string_value(json_object_get(answer, "audit"))),
        .rule = strempty(json_string_value(json_object_get(answer, "rule"))),
        .reason = strempty(json_string_value(json_object_get(answer, "reason"))),
    };
    int r = agent_error_code(answer);

    if (r == 0 && is_put_off(q, answer))
        return;
    v.wants_arguments =
        streq(strempty(json_string_value(json_object_get(answer, "want"))), "arguments");
    v.hide = hidden(json_object_get(answer, "hide"));
    v.once = v.allowed && json_is_true(json_object_get(answer, "once"));
    if (r == 0 && !json_is_boolean(allowed))
        r = -EPROTO;
    if (r == 0 && v.once)
        r = parse_pass(answer, &v.pass);
    question_free(q);
    copy.f.verdict(r == 0 ? &v : NULL, r, copy.userdata);
}

static uint64_t retry_after(const json_t *answer, int error)
{
    uint64_t retry = 0;

    if (error == -EAGAIN && agent_decimal(json_object_get(answer, "retry_after"), &retry) == 0)
        retry = MIN_OF(retry, (uint64_t)86400) * 1000000u;
    return retry;
}

static void answer_login(hybus_agent_question *q, const json_t *answer)
{
    hybus_agent_question copy = *q;
    int r = agent_error_code(answer);

    question_free(q);
    copy.f.login(json_string_value(json_object_get(answer, "secret")), r, retry_after(answer, r),
                 copy.userdata);
}

static void answer_connect(hybus_agent_question *q, const json_t *answer)
{
    hybus_agent_question copy = *q;
    const json_t *expires = json_object_get(answer, "expires");
    hybus_principal p = {.name = json_string_value(json_object_get(answer, "principal")),
                         .expires_usec = UINT64_MAX};
    int r = agent_error_code(answer);
    uint64_t retry = retry_after(answer, r);

    if (r == 0 && (!p.name || agent_decimal(json_object_get(answer, "handle"), &p.handle) < 0))
        r = -EPROTO;
    if (r == 0 && expires && !streq(strempty(json_string_value(expires)), "never"))
        r = agent_decimal(expires, &p.expires_usec);
    question_free(q);
    copy.f.principal(r == 0 ? &p : NULL, r, retry, copy.userdata);
}

static void answer_exchange(hybus_agent_question *q, const char *packet, size_t size)
{
    hybus_agent_question copy = *q;

    question_free(q);
    copy.f.reply(packet, size, 0, copy.userdata);
}

/* Somebody gave up on a connect question; nobody will ever release what it was given. */
static void abandon(hybus_agent *a, const json_t *answer)
{
    uint64_t handle;

    if (agent_decimal(json_object_get(answer, "handle"), &handle) == 0)
        hybus_agent_release(a, handle);
}

/* --- the connection and its loss -------------------------------------------------------------- */

void agent_requeue(hybus_agent *a)
{
    struct Questions asked = TAILQ_HEAD_INITIALIZER(asked);
    struct Questions failed = TAILQ_HEAD_INITIALIZER(failed);
    hybus_agent_question *q;

    while ((q = TAILQ_FIRST(&a->patient))) { /* nobody knows any more that somebody was asked */
        TAILQ_REMOVE(&a->patient, q, queue);
        q->patient = false;
        TAILQ_INSERT_TAIL(&failed, q, queue);
    }
    while ((q = TAILQ_FIRST(&a->asked))) {
        TAILQ_REMOVE(&a->asked, q, queue);
        q->sent = false;
        if (q->packet)
            TAILQ_INSERT_TAIL(&asked, q, queue);
        else
            TAILQ_INSERT_TAIL(&failed, q, queue);
    }
    TAILQ_CONCAT(&asked, &a->waiting, queue);
    TAILQ_CONCAT(&a->waiting, &asked, queue);
    /* A callback may cancel others, so they go back to a queue first. */
    TAILQ_FOREACH (q, &failed, queue)
        q->sent = true;
    TAILQ_CONCAT(&a->asked, &failed, queue);
    while ((q = TAILQ_FIRST(&a->asked)))
        question_fail(q, -ENOKEY);
    agent_arm_deadline(a);
}

void agent_answer(hybus_agent *a, uint64_t id, const json_t *answer, const char *packet,
                  size_t size)
{
    hybus_agent_question *q = a->by_id[id % HYBUS_AGENT_PENDING_MAX];

    if (!q || q->id != id || !q->sent) {
        abandon(a, answer);
        return;
    }
    switch (q->kind) {
    case QUESTION_ROW:
        answer_row(q, answer);
        break;
    case QUESTION_JUDGE:
        answer_judge(q, answer);
        break;
    case QUESTION_CONNECT:
        answer_connect(q, answer);
        break;
    case QUESTION_LOGIN:
        answer_login(q, answer);
        break;
    case QUESTION_EXCHANGE:
        answer_exchange(q, packet, size);
        break;
    }
}

void agent_notes_drop(hybus_agent *a)
{
    Note *n;

    while ((n = TAILQ_FIRST(&a->notes)))
        note_free(a, n);
}

void agent_questions_free(hybus_agent *a)
{
    hybus_agent_question *q;

    while ((q = TAILQ_FIRST(&a->waiting)) || (q = TAILQ_FIRST(&a->asked)) ||
           (q = TAILQ_FIRST(&a->patient)))
        question_free(q);
}
