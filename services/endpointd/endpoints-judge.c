/* SPDX-License-Identifier: Apache-2.0 */
#include "endpoints-judge.h"

#define OBJECT "/org/hybridos/Endpoints1"
#define INTERFACE "org.hybridos.Endpoints1"
#define SERVE "endpoint.serve"
#define REGISTER "endpoint.register:"
#define NEST "endpoint.nest:"

typedef enum case_state {
    CASE_NEW,     /* asked for the first time */
    CASE_ALLOWED, /* stands */
    CASE_DUE,     /* stands, but has to be judged again */
    CASE_AGAIN,   /* stands, and is being judged again */
    CASE_OVER,
} case_state;

struct judge_case {
    judge *judge;
    judge_case *previous, *next;
    case_state state;
    endpoints_identity *identity;
    char *ns; /* NULL: a server */
    char permissions[2][sizeof(REGISTER) + ENDPOINTS_NAMESPACE_MAX];
    unsigned refused; /* which of them */
    bool nested;      /* as it was when it was allowed: who comes above later takes nothing away */
    unsigned tries;
    hybus_agent_question *question;
    judge_callback callback;
    void *userdata;
};

struct judge {
    hybus_agent *agent;
    const endpoints *table;
    judge_case *cases;
    size_t n_new, n_again, n_due;
    uint64_t generation; /* that has to be settled */
    bool settling;
};

static int ask(judge_case *c);

static size_t *counter(judge *j, case_state state)
{
    static size_t none;

    switch (state) {
    case CASE_NEW:
        return &j->n_new;
    case CASE_DUE:
        return &j->n_due;
    case CASE_AGAIN:
        return &j->n_again;
    default:
        return &none;
    }
}

static void set_state(judge_case *c, case_state state)
{
    --*counter(c->judge, c->state);
    c->state = state;
    ++*counter(c->judge, c->state);
}

static void on_changed(hybus_agent *a, uint64_t generation, void *userdata);

/* Starts those who are due, as many as may be asked at once; when none is left it is settled. */
static void go_on(judge *j)
{
    judge_case *next;

    for (judge_case *c = j->cases; c && j->n_due > 0 && j->n_again < JUDGE_AGAIN_MAX; c = next) {
        next = c->next;
        if (c->state != CASE_DUE)
            continue;
        c->tries = 0;
        /* On failure the case stays due: the next answer, or the next change, comes by here. */
        if (ask(c) < 0)
            break;
        set_state(c, CASE_AGAIN);
    }
    if (j->settling && j->n_due == 0 && j->n_again == 0) {
        j->settling = false;
        hybus_agent_settled(j->agent, on_changed, j, j->generation);
    }
}

static void on_changed(hybus_agent *a, uint64_t generation, void *userdata)
{
    judge *j = userdata;

    j->generation = generation;
    j->settling = true;
    for (judge_case *c = j->cases; c; c = c->next) {
        if (c->state == CASE_AGAIN) {
            hybus_agent_question_cancel(TAKE_PTR(c->question));
            set_state(c, CASE_DUE);
        } else if (c->state == CASE_ALLOWED)
            set_state(c, CASE_DUE);
    }
    go_on(j);
}

/* The callback may free the case. */
static void conclude(judge_case *c, int error, const char *reason, const char *audit)
{
    judge *j = c->judge;
    bool first = c->state == CASE_NEW;

    set_state(c, error == 0 ? CASE_ALLOWED : CASE_OVER);
    if (first || error < 0)
        c->callback(c, &(judge_verdict){.error = error, .reason = reason, .audit = audit},
                    c->userdata);
    go_on(j);
}

/* Nobody could say. What stands stays: a new agent makes everything be judged again, and until
 * then the servers get no decision for any request either. */
static void conclude_unknown(judge_case *c, int error)
{
    if (c->state == CASE_AGAIN && error == -ENOKEY)
        conclude(c, 0, NULL, NULL);
    else
        conclude(c, error, "the policy could not be asked", NULL);
}

static hybus_subject subject_of(const judge_case *c)
{
    return (hybus_subject){
        .uid = c->identity->uid,
        .gids = c->identity->gids,
        .n_gids = c->identity->n_gids,
        .bus_name = c->identity->bus_name,
    };
}

static void try_again(judge_case *c)
{
    int r = ++c->tries < JUDGE_TRIES_MAX ? ask(c) : -EAGAIN;

    if (r < 0)
        conclude_unknown(c, r);
}

static void on_verdict(const hybus_verdict *v, int error, void *userdata)
{
    judge_case *c = userdata;
    char reason[512];

    c->question = NULL;
    if (error < 0) {
        /* The row has refused; only the reason is unknown. */
        conclude(c, -EACCES, "refused by the policy", NULL);
        return;
    }
    if (v->allowed) {
        try_again(c);
        return;
    }
    snprintf(reason, sizeof(reason), "%s needs %s: %s (rule %s)", c->ns ? c->ns : "a server",
             c->permissions[c->refused], strempty(v->reason), strempty(v->rule));
    conclude(c, -EACCES, reason, v->audit);
}

static void refuse(judge_case *c, unsigned which)
{
    hybus_subject subject = subject_of(c);
    hybus_call call = {
        .permission = c->permissions[which],
        .interface = INTERFACE,
        .member = c->ns ? "Register" : "ListServers",
        .path = OBJECT,
        .kind = HYBUS_MEMBER_METHOD,
    };
    int r;

    c->refused = which;
    r = hybus_agent_judge(c->judge->agent, &subject, &call, on_verdict, c, &c->question);
    if (r < 0)
        conclude(c, -EACCES, "refused by the policy", NULL);
}

static void on_row(hybus_row *taken, int error, void *userdata)
{
    _cleanup_(freep) hybus_row *row = taken;
    judge_case *c = userdata;
    judge *j = c->judge;
    hybus_subject subject = subject_of(c);

    c->question = NULL;
    if (error < 0) {
        conclude_unknown(c, error);
        return;
    }
    if (!hybus_agent_row_current(j->agent, row)) {
        /* What stands does not fall because the policy moves fast: the change that has overtaken
         * this answer is about to be told, and asks anew. */
        if (c->state == CASE_AGAIN)
            c->tries = 0;
        try_again(c);
        return;
    }
    if (c->state == CASE_NEW)
        c->nested = c->ns && endpoints_nested(j->table, c->ns, c->identity->uid);
    if (!hybus_row_bit(row, 0)) {
        refuse(c, 0);
        return;
    }
    if (c->nested && !hybus_row_bit(row, 1)) {
        refuse(c, 1);
        return;
    }
    if (c->state == CASE_NEW) {
        hybus_agent_used(j->agent, &subject, c->permissions[0], 1);
        if (c->nested)
            hybus_agent_used(j->agent, &subject, c->permissions[1], 1);
    }
    conclude(c, 0, NULL, NULL);
}

static int ask(judge_case *c)
{
    const char *permissions[] = {c->permissions[0], c->permissions[1]};
    hybus_subject subject = subject_of(c);

    return hybus_agent_row(c->judge->agent, &subject, permissions, c->ns ? 2 : 1, on_row, c,
                           &c->question);
}

static bool may_ask(const judge *j, uint32_t uid)
{
    size_t n = 0;

    for (const judge_case *c = j->cases; c && n < JUDGE_ASKED_UID_MAX; c = c->next)
        n += c->state == CASE_NEW && c->identity->uid == uid;
    return j->n_new < JUDGE_ASKED_MAX && n < JUDGE_ASKED_UID_MAX;
}

int judge_ask(judge *j, endpoints_identity *identity, const char *ns, judge_callback f,
              void *userdata, judge_case **ret)
{
    judge_case *c;
    int r;

    if (!may_ask(j, identity->uid))
        return -ENOBUFS;
    c = calloc(1, sizeof(*c));
    if (!c)
        return -ENOMEM;
    c->judge = j;
    c->callback = f;
    c->userdata = userdata;
    c->state = CASE_NEW;
    c->identity = endpoints_identity_ref(identity);
    if (ns) {
        c->ns = strdup(ns);
        snprintf(c->permissions[0], sizeof(c->permissions[0]), REGISTER "%s", ns);
        snprintf(c->permissions[1], sizeof(c->permissions[1]), NEST "%s", ns);
    } else
        snprintf(c->permissions[0], sizeof(c->permissions[0]), SERVE);
    j->n_new++;
    c->next = j->cases;
    if (c->next)
        c->next->previous = c;
    j->cases = c;
    r = ns && !c->ns ? -ENOMEM : ask(c);
    if (r < 0) {
        judge_case_free(c);
        return r;
    }
    *ret = c;
    return 0;
}

void judge_case_free(judge_case *c)
{
    judge *j;

    if (!c)
        return;
    j = c->judge;
    hybus_agent_question_cancel(c->question);
    set_state(c, CASE_OVER);
    if (c->previous)
        c->previous->next = c->next;
    else
        j->cases = c->next;
    if (c->next)
        c->next->previous = c->previous;
    endpoints_identity_unref(c->identity);
    free(c->ns);
    free(c);
    if (j->settling)
        go_on(j);
}

int judge_new(hybus_agent *agent, const endpoints *table, judge **ret)
{
    _cleanup_(judge_freep) judge *j = calloc(1, sizeof(*j));
    int r;

    if (!j)
        return -ENOMEM;
    j->agent = agent;
    j->table = table;
    r = hybus_agent_add_changed(agent, on_changed, j);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(j);
    return 0;
}

void judge_free(judge *j)
{
    free(j);
}
