/* SPDX-License-Identifier: Apache-2.0 */
/* One call, judged with all that is known of it; what a person must be asked waits here for the answer. */
#include <sys/socket.h>

#include "agent-ops.h"
#include "security-internal.h"
#include "single.h"

#define WAITING_OF_PEER_MAX 256u

struct Waiting {
    ConsentWaiter waiter;
    TAILQ_ENTRY(Waiting) list;
    Peer *peer;
    json_t *question;
};

static int send_pass(Peer *p, const json_t *q, const Subject *subject)
{
    hybus_page_writer *page = p->security->page;
    uint32_t slot = security_slot(subject);
    json_t *answer = answer_to(q);

    p->holds = true;
    json_object_set_new(answer, "allowed", json_true());
    json_object_set_new(answer, "once", json_true());
    json_object_set_new(answer, "epoch", decimal(hybus_page_writer_epoch(page)));
    json_object_set_new(answer, "slot", json_integer(slot));
    json_object_set_new(answer, "stamp", decimal(hybus_page_writer_slot(page, slot)));
    return peer_send(p, answer, -1);
}

static int want_arguments(Peer *p, const json_t *q, const Member *m)
{
    json_t *answer = answer_to(q), *hidden = json_array();

    for (unsigned i = 0; m && i < CATALOGUE_ARGUMENTS_MAX; i++)
        if (m->secret >> i & 1)
            json_array_append_new(hidden, json_integer(i));
    json_object_set_new(answer, "allowed", json_false());
    json_object_set_new(answer, "want", json_string("arguments"));
    json_object_set_new(answer, "hide", hidden);
    return peer_send(p, answer, -1);
}

static int send_verdict(Peer *p, const json_t *q, const Verdict *v, const AuditRecord *record)
{
    json_t *answer = answer_to(q);

    json_object_set_new(answer, "allowed", json_boolean(v->allowed));
    if (!v->allowed) {
        json_object_set_new(answer, "audit", json_string(record ? record->id : ""));
        json_object_set_new(answer, "rule", json_string(v->rule ? v->rule->id : "default"));
        json_object_set_new(answer, "reason", json_string(v->reason));
    }
    return peer_send(p, answer, -1);
}

/* What the packet asks. */
typedef struct Judgement {
    Question question;
    Asked asked;
    Single single;
} Judgement;

static int answered(int r)
{
    return r < 0 ? r : 1;
}

/* Positive: answered already. */
static int read_judgement(Peer *p, const json_t *q, Judgement *ret)
{
    const char *kind = strempty(string(q, "kind"));
    int r;

    ret->question = (Question){
        .permission = string(q, "permission"),
        .interface = strempty(string(q, "interface")),
        .member = strempty(string(q, "member")),
        .path = strempty(string(q, "path")),
        .service = p->service,
        .kind = *kind ? *kind : 'm',
    };
    ret->single = (Single){0};
    if (!peer_may(p, "security.row"))
        return answered(refuse(p, q, -EACCES, "asking about others needs security.row"));
    r = ops_read_subject(p, q, &ret->asked);
    if (r < 0)
        return answered(refuse(p, q, r, "not a subject"));
    if (strlen(kind) > 1 || (*kind && !strchr("mgse", *kind)))
        return answered(refuse(p, q, -EINVAL, "kind: one of m, g, s, e"));
    return 0;
}

/* `why` NULL: as the policy says. */
static int send_refusal(Peer *p, const json_t *q, Judgement *j, const char *why)
{
    const AuditRecord *record = NULL;
    Verdict v;
    int r;

    if (why) {
        v = (Verdict){.rule = j->single.verdict.rule, .reason = why};
        r = security_record_refusal(p->security, &j->asked.subject, &j->question, &v, &record);
    } else {
        r = security_refuse(p->security, &j->asked.subject, &j->question, &v, &record);
    }
    return r < 0 ? r : send_verdict(p, q, &v, record);
}

/* --- calls that a person decides -------------------------------------------------------------- */

static void waiting_free(Waiting *w)
{
    consent_withdraw(&w->waiter);
    TAILQ_REMOVE(&w->peer->waiting, w, list);
    w->peer->n_waiting--;
    json_decref(w->question);
    free(w);
}

void peer_withdraw_all(Peer *p)
{
    while (!TAILQ_EMPTY(&p->waiting))
        waiting_free(TAILQ_FIRST(&p->waiting));
}

int ops_withdraw(Peer *p, const json_t *q)
{
    json_int_t id = json_integer_value(json_object_get(q, "question"));
    Waiting *w;

    TAILQ_FOREACH (w, &p->waiting, list)
        if (json_integer_value(json_object_get(w->question, "id")) == id) {
            waiting_free(w);
            break;
        }
    return 0;
}

static void note_consent(Peer *p, Judgement *j, const char *why)
{
    const Verdict v = {.allowed = true, .rule = j->single.verdict.rule, .reason = why};
    AuditRecord record;

    if (security_explain(p->security, &j->asked.subject, &j->question, &v, &record) < 0)
        return;
    record.verdict = "consented";
    (void)audit_add(p->security->audit, &record, NULL);
    audit_record_done(&record);
    history_note(p->security->history, &j->asked.subject, j->question.permission, j->question.service, NULL,
                 true, 1, security_boottime());
}

/* The policy may have moved while the person thought: only what would still be left to them passes. */
static int answer_waiting(Peer *p, const json_t *q, bool yes, const char *why)
{
    Judgement j;
    int r = read_judgement(p, q, &j);

    if (r != 0)
        return MIN_OF(r, 0);
    r = single_judge(p->security, &j.asked.subject, &j.question, json_object_get(q, "arguments"), &j.single);
    if (r < 0)
        return r;
    if (j.single.once)
        return send_pass(p, q, &j.asked.subject);
    if (!j.single.ask)
        return send_refusal(p, q, &j, NULL);
    if (!yes)
        return send_refusal(p, q, &j, why);
    note_consent(p, &j, why);
    return send_pass(p, q, &j.asked.subject);
}

static void on_answer(ConsentWaiter *waiter, bool yes, const char *why)
{
    Waiting *w = (Waiting *)((char *)waiter - offsetof(Waiting, waiter));
    Peer *p = w->peer;

    /* Its loss is seen by its own event: a caller may stand on it. */
    if (answer_waiting(p, w->question, yes, why) < 0)
        (void)shutdown(p->fd, SHUT_RDWR);
    else if (p->io)
        (void)sd_event_source_set_io_events(p->io, EPOLLIN | EPOLLOUT);
    waiting_free(w);
}

static int wait_for_person(Peer *p, const json_t *q, const ConsentCall *call)
{
    json_t *answer;
    Waiting *w;
    int r;

    if (p->n_waiting >= WAITING_OF_PEER_MAX)
        return -ENOBUFS;
    w = calloc(1, sizeof *w);
    if (!w)
        return -ENOMEM;
    w->waiter.f = on_answer;
    w->peer = p;
    r = consent_ask(p->security->consent, call, security_boottime(), &w->waiter);
    if (r < 0) {
        free(w);
        return r;
    }
    w->question = json_incref((json_t *)q);
    TAILQ_INSERT_TAIL(&p->waiting, w, list);
    p->n_waiting++;
    answer = answer_to(q);
    json_object_set_new(answer, "wait", json_integer(CONSENT_WAIT_USEC));
    r = peer_send(p, answer, -1);
    return r < 0 ? r : 1;
}

static const char *refusal_reason(int error)
{
    switch (error) {
    case -ENOENT:
        return "needs the consent of a person, and nobody is there to be asked";
    case -ENOBUFS:
        return "needs the consent of a person, who has been asked too much already";
    default:
        return "needs the consent of a person, who could not be asked";
    }
}

static int ask_person(Peer *p, const json_t *q, Judgement *j)
{
    _cleanup_(freep) char *inputs = strdup(security_inputs(&j->asked.subject)), *arguments = NULL;
    const json_t *list = json_object_get(q, "arguments");
    char subject[300];
    const char *why = NULL;
    ConsentCall call;
    int r;

    snprintf(subject, sizeof subject, "%s", security_subject_name(&j->asked.subject));
    if (json_is_array(list) && json_array_size(list) > 0)
        arguments = json_dumps(list, JSON_COMPACT);
    if (!inputs || (json_is_array(list) && json_array_size(list) > 0 && !arguments))
        return -ENOMEM;
    call = (ConsentCall){
        .subject = subject,
        .inputs = inputs,
        .permission = j->question.permission,
        .rule = j->single.verdict.rule->id,
        .service = p->service,
        .interface = j->question.interface,
        .member = j->question.member,
        .path = j->question.path,
        .arguments = strempty(arguments),
        .kind = j->question.kind,
        .secret = j->single.member && j->single.member->secret,
        .uid = j->asked.subject.remote ? UINT32_MAX : j->asked.subject.uid,
    };
    r = consent_remembered(p->security->consent, &call, security_boottime(), &why);
    if (r > 0) {
        security_used(p->security, &j->asked.subject, j->question.permission, p->service, 1);
        return send_pass(p, q, &j->asked.subject);
    }
    if (r < 0)
        return send_refusal(p, q, j, why);
    r = wait_for_person(p, q, &call);
    return r > 0 ? 0 : send_refusal(p, q, j, refusal_reason(r));
}

/* --- the question ----------------------------------------------------------------------------- */

int ops_judge(Peer *p, const json_t *q)
{
    Judgement j;
    int r = read_judgement(p, q, &j);

    if (r != 0)
        return MIN_OF(r, 0);
    if (!json_is_true(json_object_get(q, "single")))
        return send_refusal(p, q, &j, NULL);
    r = single_judge(p->security, &j.asked.subject, &j.question, json_object_get(q, "arguments"), &j.single);
    if (r < 0)
        return r;
    if (j.single.wants_arguments)
        return want_arguments(p, q, j.single.member);
    if (j.single.once)
        return send_pass(p, q, &j.asked.subject);
    if (j.single.ask)
        return ask_person(p, q, &j);
    return send_refusal(p, q, &j, NULL);
}
