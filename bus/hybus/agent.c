/* SPDX-License-Identifier: Apache-2.0 */
#include "agent.h"

#include <jansson.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "agent-internal.h"
#include "json.h"

#define RETRY_FIRST_USEC (10u * 1000u)
#define RETRY_LAST_USEC (1000u * 1000u)
#define DEADLINE_ACCURACY_USEC (50u * 1000u)
#define NOTES_MAX 256u /* one-way packets waiting; more "used" notes are dropped */
#define CHANGED_MAX 8u
#define MEMBERS_MAX 8192u
#define DESCRIPTORS_MAX 4u /* of one packet; only one is ever expected */

typedef enum QuestionKind {
    QUESTION_ROW,
    QUESTION_JUDGE,
    QUESTION_CONNECT,
    QUESTION_EXCHANGE,
} QuestionKind;

struct hybus_agent_question {
    TAILQ_ENTRY(hybus_agent_question) queue;
    hybus_agent *agent;
    QuestionKind kind;
    uint64_t id, deadline_usec;
    char *packet;
    uint64_t hello; /* the last hello sent before it: what the bits of a row refer to */
    bool own_list;  /* a row over the permissions of that hello */
    bool sent;
    union {
        hybus_row_callback row;
        hybus_verdict_callback verdict;
        hybus_principal_callback principal;
        hybus_agent_reply reply;
    } f;
    void *userdata;
};

typedef struct Note {
    TAILQ_ENTRY(Note) queue;
    char *packet;
} Note;

typedef struct Changed {
    hybus_agent_changed f;
    void *userdata;
    uint64_t settled;
} Changed;

TAILQ_HEAD(Questions, hybus_agent_question);

struct hybus_agent {
    sd_event *event;
    char *path, *service;
    json_t *interfaces;
    int fd;
    sd_event_source *io, *retry, *deadline;
    uint64_t retry_usec;
    bool ready; /* hello has been answered */

    const hybus_page *page;
    json_t *hello; /* the last answer; owns the strings of the two arrays */
    hybus_member *members;
    size_t n_members;
    const char **permissions;
    size_t n_permissions;
    uint64_t hellos_sent, hellos_answered;
    uint64_t generation, settled;

    Changed changed[CHANGED_MAX];
    size_t n_changed;

    struct Questions waiting, asked;                      /* each in the order of their deadlines */
    hybus_agent_question *by_id[HYBUS_AGENT_PENDING_MAX]; /* by id modulo its size */
    uint64_t next_id;
    size_t n_questions;
    TAILQ_HEAD(, Note) notes;
    size_t n_notes;
    uint64_t dropped;
    char *buffer; /* of HYBUS_AGENT_PACKET_MAX + 1 */
};

static void connect_agent(hybus_agent *a);
static void flush_out(hybus_agent *a);

/* --- packets --------------------------------------------------------------------------------- */

static char *dump(json_t *o)
{
    return json_dumps(o, JSON_COMPACT);
}

static void wipe_free(char *s)
{
    if (s)
        explicit_bzero(s, strlen(s));
    free(s);
}

static int decimal(const json_t *v, uint64_t *ret)
{
    const char *s = json_string_value(v);
    uint64_t n = 0;

    if (json_is_integer(v) && json_integer_value(v) >= 0) {
        *ret = (uint64_t)json_integer_value(v);
        return 0;
    }
    if (!s || !*s)
        return -EPROTO;
    for (; *s; s++)
        if (*s < '0' || *s > '9' || __builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, (uint64_t)(*s - '0'), &n))
            return -EPROTO;
    *ret = n;
    return 0;
}

static int subject_json(json_t *o, const hybus_subject *s)
{
    json_t *gids;
    int r = 0;

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

/* 1: sent, 0: later, <0: this packet cannot be sent, or the connection is lost. */
static int send_packet(hybus_agent *a, const char *packet)
{
    if (send(a->fd, packet, strlen(packet), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
        return 1;
    return errno == EAGAIN || errno == ENOBUFS || errno == EINTR ? 0 : -errno;
}

static void note_free(hybus_agent *a, Note *n)
{
    TAILQ_REMOVE(&a->notes, n, queue);
    a->n_notes--;
    free(n->packet);
    free(n);
}

static void want(hybus_agent *a, uint32_t events)
{
    (void)sd_event_source_set_io_events(a->io, events);
}

/* Sends what waits. Never closes the connection itself: a loss shows as EPOLLHUP in the loop, so
 * that no callback runs inside a caller's question. */
static void flush_out(hybus_agent *a)
{
    hybus_agent_question *q, *next;
    Note *n;
    int r;

    if (a->fd < 0 || !a->ready)
        return;
    while ((n = TAILQ_FIRST(&a->notes))) {
        r = send_packet(a, n->packet);
        if (r == 0)
            goto full;
        note_free(a, n);
    }
    for (q = TAILQ_FIRST(&a->waiting); q; q = next) {
        next = TAILQ_NEXT(q, queue);
        r = send_packet(a, q->packet);
        if (r == 0)
            goto full;
        if (r < 0)
            break;
        q->sent = true;
        q->hello = a->hellos_sent;
        TAILQ_REMOVE(&a->waiting, q, queue);
        TAILQ_INSERT_TAIL(&a->asked, q, queue);
        if (q->kind == QUESTION_CONNECT || q->kind == QUESTION_EXCHANGE) {
            wipe_free(q->packet);
            q->packet = NULL;
        }
    }
    want(a, EPOLLIN);
    return;
full:
    want(a, EPOLLIN | EPOLLOUT);
}

/* Takes over `o`. */
static void send_note(hybus_agent *a, json_t *o, bool droppable)
{
    _cleanup_(freep) char *packet = o ? dump(o) : NULL;
    Note *n;

    json_decref(o);
    if (a->fd < 0 || !a->ready)
        return; /* what it speaks of ended with the connection */
    if (!packet || (droppable && a->n_notes >= NOTES_MAX) || !(n = calloc(1, sizeof *n))) {
        a->dropped++;
        return;
    }
    n->packet = TAKE_PTR(packet);
    TAILQ_INSERT_TAIL(&a->notes, n, queue);
    a->n_notes++;
    flush_out(a);
}

/* --- questions ------------------------------------------------------------------------------- */

static void question_free(hybus_agent_question *q)
{
    hybus_agent *a = q->agent;

    if (q->sent)
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
    case QUESTION_EXCHANGE:
        copy.f.reply(NULL, 0, error, copy.userdata);
        break;
    }
}

static hybus_agent_question *oldest(hybus_agent *a)
{
    hybus_agent_question *x = TAILQ_FIRST(&a->waiting), *y = TAILQ_FIRST(&a->asked);

    if (!x || !y)
        return x ? x : y;
    return x->deadline_usec < y->deadline_usec ? x : y;
}

/* One timer, set only when there is something to wait for: an idle daemon does not wake. */
static void arm_deadline(hybus_agent *a)
{
    hybus_agent_question *q = oldest(a);

    if (!q) {
        (void)sd_event_source_set_enabled(a->deadline, SD_EVENT_OFF);
        return;
    }
    (void)sd_event_source_set_time(a->deadline, q->deadline_usec);
    (void)sd_event_source_set_enabled(a->deadline, SD_EVENT_ONESHOT);
}

static int on_deadline(sd_event_source *s, uint64_t usec, void *userdata)
{
    hybus_agent *a = userdata;
    hybus_agent_question *q;

    while ((q = oldest(a)) && q->deadline_usec <= usec)
        question_fail(q, -ENOKEY);
    arm_deadline(a);
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
        arm_deadline(a);
    *ret = q;
    return 0;
}

static int started(hybus_agent *a, hybus_agent_question *q, void *userdata,
                   hybus_agent_question **ret)
{
    q->userdata = userdata;
    if (ret)
        *ret = q;
    flush_out(a);
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

int hybus_agent_judge(hybus_agent *a, const hybus_subject *subject, const hybus_call *call,
                      hybus_verdict_callback f, void *userdata, hybus_agent_question **ret)
{
    const char kind[] = {(char)call->kind, '\0'};
    json_t *o = json_pack("{ss ss? ss ss ss ss}", "op", "judge", "permission", call->permission,
                          "interface", strempty(call->interface), "member", strempty(call->member),
                          "path", strempty(call->path), "kind", kind);
    hybus_agent_question *q;
    int r;

    if (!o || subject_json(o, subject) != 0) {
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

void hybus_agent_question_cancel(hybus_agent_question *q)
{
    if (q)
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
    send_note(a, o, true);
}

void hybus_agent_release(hybus_agent *a, uint64_t handle)
{
    if (handle != 0)
        send_note(a, json_pack("{ss sI}", "op", "release", "handle", (json_int_t)handle), false);
}

/* --- answers --------------------------------------------------------------------------------- */

static int error_code(const json_t *answer)
{
    static const struct {
        const char *name;
        int error;
    } names[] = {
        {"AccessDenied", -EACCES}, {"Unauthenticated", -EKEYREJECTED}, {"InvalidArgument", -EINVAL},
        {"NotFound", -ENOENT},     {"LimitExceeded", -ENOBUFS},        {"Throttled", -EAGAIN},
        {"Exists", -EEXIST},
    };
    const char *name = json_string_value(json_object_get(answer, "error"));

    if (json_is_true(json_object_get(answer, "ok")))
        return 0;
    for (size_t i = 0; name && i < ELEMENTS(names); i++)
        if (streq(name, names[i].name))
            return names[i].error;
    return -EIO;
}

static int parse_row(const json_t *answer, hybus_row **ret)
{
    _cleanup_(freep) uint8_t *bytes = NULL;
    const char *bits = json_string_value(json_object_get(answer, "bits"));
    uint64_t epoch, stamp, slot, count;
    hybus_row *row;
    size_t words, size;

    if (!bits || decimal(json_object_get(answer, "epoch"), &epoch) < 0 ||
        decimal(json_object_get(answer, "stamp"), &stamp) < 0 ||
        decimal(json_object_get(answer, "slot"), &slot) < 0 || slot >= HYBUS_PAGE_SLOTS ||
        decimal(json_object_get(answer, "count"), &count) < 0 || count > MEMBERS_MAX)
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
    int r = error_code(answer);

    if (q->own_list && q->hello != a->hellos_answered) {
        /* Its bits are over a list that is not the one we hold: ask again. */
        TAILQ_REMOVE(&a->asked, q, queue);
        q->sent = false;
        TAILQ_INSERT_HEAD(&a->waiting, q, queue);
        flush_out(a);
        return;
    }
    if (r == 0)
        r = parse_row(answer, &row);
    question_free(q);
    copy.f.row(row, r, copy.userdata);
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
    int r = error_code(answer);

    if (r == 0 && !json_is_boolean(allowed))
        r = -EPROTO;
    question_free(q);
    copy.f.verdict(r == 0 ? &v : NULL, r, copy.userdata);
}

static void answer_connect(hybus_agent_question *q, const json_t *answer)
{
    hybus_agent_question copy = *q;
    const json_t *expires = json_object_get(answer, "expires");
    hybus_principal p = {.name = json_string_value(json_object_get(answer, "principal")),
                         .expires_usec = UINT64_MAX};
    uint64_t retry = 0;
    int r = error_code(answer);

    if (r == -EAGAIN && decimal(json_object_get(answer, "retry_after"), &retry) == 0)
        retry = MIN_OF(retry, (uint64_t)86400) * 1000000u;
    if (r == 0 && (!p.name || decimal(json_object_get(answer, "handle"), &p.handle) < 0))
        r = -EPROTO;
    if (r == 0 && expires && !streq(strempty(json_string_value(expires)), "never"))
        r = decimal(expires, &p.expires_usec);
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

    if (decimal(json_object_get(answer, "handle"), &handle) == 0)
        hybus_agent_release(a, handle);
}

/* --- hello ----------------------------------------------------------------------------------- */

static int parse_permissions(const json_t *hello, const char ***ret, size_t *ret_n)
{
    const json_t *list = json_object_get(hello, "permissions");
    size_t n = json_array_size(list);
    _cleanup_(freep) const char **permissions = NULL;

    if (!json_is_array(list) || n > MEMBERS_MAX)
        return -EPROTO;
    permissions = calloc(n + 1, sizeof *permissions);
    if (!permissions)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        permissions[i] = json_string_value(json_array_get(list, i));
        if (!permissions[i])
            return -EPROTO;
    }
    *ret = TAKE_PTR(permissions);
    *ret_n = n;
    return 0;
}

static int parse_member(const json_t *v, size_t n_permissions, hybus_member *ret)
{
    const char *kind = json_string_value(json_array_get(v, 2));
    const json_t *permission = json_array_get(v, 3);
    json_int_t index = json_integer_value(permission);

    ret->interface = json_string_value(json_array_get(v, 0));
    ret->member = json_string_value(json_array_get(v, 1));
    if (!ret->interface || !ret->member || !kind || !*kind || kind[1] || !strchr("mgse", *kind) ||
        !json_is_integer(permission) || index < -1 || index >= (json_int_t)n_permissions)
        return -EPROTO;
    ret->kind = (hybus_member_kind)*kind;
    ret->permission = index < 0 ? UINT32_MAX : (uint32_t)index;
    return 0;
}

static int parse_members(const json_t *hello, size_t n_permissions, hybus_member **ret,
                         size_t *ret_n)
{
    const json_t *list = json_object_get(hello, "members");
    size_t n = json_array_size(list);
    _cleanup_(freep) hybus_member *members = NULL;

    if (!json_is_array(list) || n > MEMBERS_MAX)
        return -EPROTO;
    members = calloc(n + 1, sizeof *members);
    if (!members)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        int r = parse_member(json_array_get(list, i), n_permissions, &members[i]);
        if (r < 0)
            return r;
    }
    *ret = TAKE_PTR(members);
    *ret_n = n;
    return 0;
}

static void send_settled(hybus_agent *a)
{
    uint64_t least = a->generation;

    for (size_t i = 0; i < a->n_changed; i++)
        least = MIN_OF(least, a->changed[i].settled);
    if (least <= a->settled)
        return;
    a->settled = least;
    send_note(a, json_pack("{ss sI}", "op", "settled", "generation", (json_int_t)least), false);
}

/* Takes over the page when the descriptor is good. */
static int attach_page(hybus_agent *a, const json_t *answer, int fd)
{
    const hybus_page *page;
    uint64_t epoch;
    int r;

    if (fd < 0)
        return a->page ? 0 : -EPROTO;
    r = hybus_page_map(fd, &page);
    if (r < 0)
        return r;
    if (decimal(json_object_get(answer, "epoch"), &epoch) < 0 || epoch != page->epoch ||
        !hybus_page_alive(page)) {
        hybus_page_unmap(page);
        return -EPROTO;
    }
    hybus_page_unmap(a->page);
    a->page = page;
    return 0;
}

static int answer_hello(hybus_agent *a, json_t *answer, int fd)
{
    _cleanup_(freep) hybus_member *members = NULL;
    _cleanup_(freep) const char **permissions = NULL;
    size_t n_members = 0, n_permissions = 0;
    uint64_t generation;
    int r = error_code(answer);

    if (r == 0)
        r = decimal(json_object_get(answer, "generation"), &generation);
    if (r == 0)
        r = parse_permissions(answer, &permissions, &n_permissions);
    if (r == 0)
        r = parse_members(answer, n_permissions, &members, &n_members);
    if (r == 0)
        r = attach_page(a, answer, fd);
    if (r < 0)
        return r;

    free(a->members);
    free(a->permissions);
    json_decref(a->hello);
    a->hello = json_incref(answer);
    a->members = TAKE_PTR(members);
    a->n_members = n_members;
    a->permissions = TAKE_PTR(permissions);
    a->n_permissions = n_permissions;
    a->hellos_answered++;
    a->generation = MAX_OF(a->generation, generation);
    a->ready = true;
    a->retry_usec = RETRY_FIRST_USEC;
    for (size_t i = 0; i < a->n_changed; i++)
        a->changed[i].f(a, a->generation, a->changed[i].userdata);
    send_settled(a);
    flush_out(a);
    return 0;
}

static int send_hello(hybus_agent *a)
{
    _cleanup_(freep) char *packet = NULL;
    json_t *o = json_pack("{ss sI si ss sO}", "op", "hello", "id",
                          (json_int_t)HYBUS_AGENT_PENDING_MAX << 32, "version", 1, "service",
                          a->service, "interfaces", a->interfaces);
    int r;

    packet = o ? dump(o) : NULL;
    json_decref(o);
    if (!packet)
        return -ENOMEM;
    r = send_packet(a, packet);
    if (r <= 0) /* full: cannot be with so few packets, unless the agent hangs */
        return r < 0 ? r : -ENOBUFS;
    a->hellos_sent++;
    return 0;
}

/* --- the connection -------------------------------------------------------------------------- */

static void retry_later(hybus_agent *a)
{
    (void)sd_event_source_set_time_relative(a->retry, a->retry_usec);
    (void)sd_event_source_set_enabled(a->retry, SD_EVENT_ONESHOT);
    a->retry_usec = MIN_OF(a->retry_usec * 2, (uint64_t)RETRY_LAST_USEC);
}

/* Questions that may be asked twice wait for the next agent; the others fail. */
static void requeue(hybus_agent *a)
{
    struct Questions asked = TAILQ_HEAD_INITIALIZER(asked);
    struct Questions failed = TAILQ_HEAD_INITIALIZER(failed);
    hybus_agent_question *q;

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
    arm_deadline(a);
}

static void disconnect(hybus_agent *a)
{
    Note *n;

    a->io = sd_event_source_disable_unref(a->io);
    a->fd = safe_close(a->fd);
    a->ready = false;
    a->hellos_sent = a->hellos_answered = 0;
    a->generation = a->settled = 0;
    for (size_t i = 0; i < a->n_changed; i++)
        a->changed[i].settled = 0;
    hybus_page_unmap(a->page);
    a->page = NULL;
    while ((n = TAILQ_FIRST(&a->notes)))
        note_free(a, n);
    requeue(a);
}

static int handle_changed(hybus_agent *a, const json_t *packet)
{
    uint64_t generation;

    if (decimal(json_object_get(packet, "generation"), &generation) < 0)
        return -EPROTO;
    if (!a->ready || generation <= a->generation)
        return 0;
    a->generation = generation;
    /* The interfaces may have changed with it: members first, then the callbacks. */
    return send_hello(a);
}

static int handle_answer(hybus_agent *a, json_t *answer, const char *packet, size_t size, int fd)
{
    hybus_agent_question *q;
    uint64_t id;

    if (streq(strempty(json_string_value(json_object_get(answer, "op"))), "changed"))
        return handle_changed(a, answer);
    if (decimal(json_object_get(answer, "id"), &id) < 0)
        return -EPROTO;
    if (id == (uint64_t)HYBUS_AGENT_PENDING_MAX << 32)
        return a->hellos_answered < a->hellos_sent ? answer_hello(a, answer, fd) : -EPROTO;
    q = a->by_id[id % HYBUS_AGENT_PENDING_MAX];
    if (!q || q->id != id || !q->sent) {
        abandon(a, answer);
        return 0;
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
    case QUESTION_EXCHANGE:
        answer_exchange(q, packet, size);
        break;
    }
    return 0;
}

int hybus_agent_packet(hybus_agent *a, const char *packet, size_t size, int fd)
{
    json_t *answer = json_loadb(packet, size, JSON_REJECT_DUPLICATES, NULL);
    int r = json_is_object(answer) ? handle_answer(a, answer, packet, size, fd) : -EPROTO;

    json_decref(answer);
    return r;
}

/* 1: a packet, 0: nothing there, <0: the connection is of no more use. */
static int receive(hybus_agent *a)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
    } control;
    struct iovec iov = {a->buffer, HYBUS_AGENT_PACKET_MAX + 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof control};
    int fds[DESCRIPTORS_MAX], r;
    size_t n_fds = 0;
    ssize_t n;

    n = recvmsg(a->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            size_t more = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

            memcpy(fds + n_fds, CMSG_DATA(c), more * sizeof(int));
            n_fds += more;
        }
    if (n == 0)
        r = -ECONNRESET;
    else if ((size_t)n > HYBUS_AGENT_PACKET_MAX || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        r = -EPROTO;
    else
        r = hybus_agent_packet(a, a->buffer, (size_t)n, n_fds == 1 ? fds[0] : -1);
    if (n > 0)
        explicit_bzero(a->buffer, (size_t)n);
    for (size_t i = 0; i < n_fds; i++)
        safe_close(fds[i]);
    return r < 0 ? r : 1;
}

static int on_io(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    hybus_agent *a = userdata;
    int r = 0;

    /* Bounded, so that a busy agent does not keep the rest of the loop waiting. */
    for (int i = 0; i < 32; i++) {
        r = receive(a);
        if (r <= 0)
            break;
    }
    if (r < 0 || (r == 0 && (revents & EPOLLERR))) {
        disconnect(a);
        retry_later(a);
        return 0;
    }
    if (revents & EPOLLOUT)
        flush_out(a);
    arm_deadline(a);
    return 0;
}

static int open_connection(hybus_agent *a)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    _cleanup_(closep) int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int r;

    if (fd < 0)
        return -errno;
    memcpy(address.sun_path, a->path, strlen(a->path) + 1);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return -errno;
    r = sd_event_add_io(a->event, &a->io, fd, EPOLLIN, on_io, a);
    if (r < 0)
        return r;
    a->fd = TAKE_FD(fd);
    return send_hello(a);
}

static void connect_agent(hybus_agent *a)
{
    if (open_connection(a) < 0) {
        if (a->fd >= 0)
            disconnect(a);
        retry_later(a);
    }
}

static int on_retry(sd_event_source *s, uint64_t usec, void *userdata)
{
    connect_agent(userdata);
    return 0;
}

static int new_parts(hybus_agent *a, const char *service, const char *const *interfaces,
                     const char *path)
{
    int r;

    a->service = strdup(service);
    a->path = strdup(path);
    a->interfaces = json_array();
    a->buffer = malloc(HYBUS_AGENT_PACKET_MAX + 1);
    if (!a->service || !a->path || !a->interfaces || !a->buffer)
        return -ENOMEM;
    for (; interfaces && *interfaces; interfaces++)
        if (json_array_append_new(a->interfaces, json_string(*interfaces)) != 0)
            return -EINVAL;
    r = sd_event_add_time(a->event, &a->deadline, CLOCK_MONOTONIC, 0, DEADLINE_ACCURACY_USEC,
                          on_deadline, a);
    if (r >= 0)
        r = sd_event_source_set_enabled(a->deadline, SD_EVENT_OFF);
    if (r >= 0)
        r = sd_event_add_time(a->event, &a->retry, CLOCK_MONOTONIC, 0, 1000, on_retry, a);
    if (r >= 0)
        r = sd_event_source_set_enabled(a->retry, SD_EVENT_OFF);
    return r;
}

int hybus_agent_new(sd_event *event, const char *service, const char *const *interfaces,
                    const char *socket_path, hybus_agent **ret)
{
    _cleanup_(hybus_agent_freep) hybus_agent *a = NULL;
    const char *path = socket_path ? socket_path : HYBUS_AGENT_SOCKET;
    int r;

    if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return -ENAMETOOLONG;
    a = calloc(1, sizeof *a);
    if (!a)
        return -ENOMEM;
    a->fd = -1;
    a->event = sd_event_ref(event);
    a->retry_usec = RETRY_FIRST_USEC;
    a->next_id = 1;
    TAILQ_INIT(&a->waiting);
    TAILQ_INIT(&a->asked);
    TAILQ_INIT(&a->notes);
    r = new_parts(a, service, interfaces, path);
    if (r < 0)
        return r;
    connect_agent(a);
    *ret = TAKE_PTR(a);
    return 0;
}

void hybus_agent_free(hybus_agent *a)
{
    hybus_agent_question *q;
    Note *n;

    if (!a)
        return;
    while ((q = TAILQ_FIRST(&a->waiting)) || (q = TAILQ_FIRST(&a->asked)))
        question_free(q);
    while ((n = TAILQ_FIRST(&a->notes)))
        note_free(a, n);
    sd_event_source_disable_unref(a->io);
    sd_event_source_disable_unref(a->retry);
    sd_event_source_disable_unref(a->deadline);
    safe_close(a->fd);
    hybus_page_unmap(a->page);
    free(a->members);
    free(a->permissions);
    json_decref(a->hello);
    json_decref(a->interfaces);
    free(a->path);
    free(a->service);
    free(a->buffer);
    sd_event_unref(a->event);
    free(a);
}

/* --- what is known --------------------------------------------------------------------------- */

bool hybus_agent_alive(hybus_agent *a)
{
    return a->ready && hybus_page_alive(a->page);
}

bool hybus_agent_row_current(hybus_agent *a, const hybus_row *row)
{
    const hybus_page *page = a->page;

    return _likely_(page && row->epoch == page->epoch) &&
           row->stamp == hybus_page_slot(page, row->slot) && hybus_page_alive(page);
}

size_t hybus_agent_members(hybus_agent *a, const hybus_member **ret)
{
    *ret = a->members;
    return a->n_members;
}

size_t hybus_agent_permissions(hybus_agent *a, const char *const **ret)
{
    *ret = a->permissions;
    return a->n_permissions;
}

int hybus_agent_add_changed(hybus_agent *a, hybus_agent_changed f, void *userdata)
{
    if (a->n_changed == CHANGED_MAX)
        return -ENOBUFS;
    a->changed[a->n_changed++] = (Changed){.f = f, .userdata = userdata};
    return 0;
}

void hybus_agent_remove_changed(hybus_agent *a, hybus_agent_changed f, void *userdata)
{
    for (size_t i = 0; i < a->n_changed; i++)
        if (a->changed[i].f == f && a->changed[i].userdata == userdata) {
            a->changed[i] = a->changed[--a->n_changed];
            return;
        }
}

void hybus_agent_settled(hybus_agent *a, hybus_agent_changed f, void *userdata, uint64_t generation)
{
    for (size_t i = 0; i < a->n_changed; i++)
        if (a->changed[i].f == f && a->changed[i].userdata == userdata)
            a->changed[i].settled = MAX_OF(a->changed[i].settled, generation);
    send_settled(a);
}
