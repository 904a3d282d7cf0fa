/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-fake.h"

#define GRANTS_MAX 64
#define HANDLES_MAX 4096

enum kind { ROW, JUDGE, CONNECT };

struct hybus_agent_question {
    hybus_agent_question *next;
    enum kind kind;
    bool cancelled;
    uint64_t handle;
    char **permissions;
    size_t n;
    char *bearer;
    void *callback, *userdata;
};

struct hybus_agent {
    sd_event *event;
    sd_event_source *defer;
    bool alive, silent;
    uint64_t epoch, stamp, generation, settled;
    unsigned overtaken, rows, judged, released;
    struct {
        char principal[64], permission[320];
    } grants[GRANTS_MAX];
    size_t n_grants;
    struct {
        char name[64];
        uint64_t epoch;
    } handles[HANDLES_MAX];
    uint64_t next_handle;
    hybus_agent_question *first, **last;
    hybus_agent_changed changed;
    void *changed_userdata;
};

static const char *name_of(hybus_agent *a, uint64_t handle)
{
    if (handle == 0)
        return "anonymous";
    if (handle >= HANDLES_MAX || a->handles[handle].epoch != a->epoch)
        return NULL;
    return a->handles[handle].name;
}

static bool granted(hybus_agent *a, const char *principal, const char *permission)
{
    for (size_t i = 0; i < a->n_grants; i++) {
        const char *p = a->grants[i].permission;
        size_t n = strlen(p);
        if (!streq(a->grants[i].principal, principal))
            continue;
        if (streq(p, permission) || (p[n - 1] == '*' && strncmp(p, permission, n - 1) == 0))
            return true;
    }
    return false;
}

static void question_free(hybus_agent_question *q)
{
    for (size_t i = 0; i < q->n; i++)
        free(q->permissions[i]);
    free(q->permissions);
    free(q->bearer);
    free(q);
}

static void answer_row(hybus_agent *a, hybus_agent_question *q)
{
    hybus_row_callback f = (hybus_row_callback)q->callback;
    const char *name = name_of(a, q->handle);
    size_t words = (q->n + 63) / 64;
    hybus_row *row;

    if (!name) {
        f(NULL, -ENOENT, q->userdata);
        return;
    }
    a->rows++;
    row = calloc(1, sizeof(*row) + words * sizeof(uint64_t));
    row->epoch = a->epoch;
    row->stamp = a->stamp;
    row->n_bits = (uint32_t)q->n;
    if (a->overtaken > 0) {
        a->overtaken--;
        row->stamp--;
    }
    for (size_t i = 0; i < q->n; i++)
        if (granted(a, name, q->permissions[i]))
            row->bits[i / 64] |= UINT64_C(1) << (i % 64);
    f(row, 0, q->userdata);
}

static void answer_judge(hybus_agent *a, hybus_agent_question *q)
{
    hybus_verdict_callback f = (hybus_verdict_callback)q->callback;
    const char *name = name_of(a, q->handle);
    hybus_verdict v = {.audit = "f00d-7", .rule = "default", .reason = "because"};

    a->judged++;
    v.allowed = name && granted(a, name, q->permissions[0]);
    if (granted(a, "once", q->permissions[0])) {
        v.allowed = v.once = true;
        v.pass = (hybus_pass){.epoch = a->epoch, .stamp = a->stamp};
    }
    f(&v, 0, q->userdata);
}

static void answer_connect(hybus_agent *a, hybus_agent_question *q)
{
    hybus_principal_callback f = (hybus_principal_callback)q->callback;
    hybus_principal p = {.name = "anonymous", .expires_usec = UINT64_MAX};

    if (q->bearer && streq(q->bearer, "wrong")) {
        f(NULL, -EKEYREJECTED, 0, q->userdata);
        return;
    }
    if (q->bearer && streq(q->bearer, "throttled")) {
        f(NULL, -EAGAIN, 5000000, q->userdata);
        return;
    }
    if (q->bearer) {
        p.handle = a->next_handle++;
        snprintf(a->handles[p.handle].name, sizeof(a->handles[0].name), "token:%s", q->bearer);
        a->handles[p.handle].epoch = a->epoch;
        p.name = a->handles[p.handle].name;
    }
    f(&p, 0, 0, q->userdata);
}

static int on_defer(sd_event_source *s, void *userdata)
{
    hybus_agent *a = userdata;

    while (a->first && !a->silent) {
        hybus_agent_question *q = a->first;
        a->first = q->next;
        if (!a->first)
            a->last = &a->first;
        if (q->cancelled) {
            question_free(q);
            continue;
        }
        if (!a->alive && q->kind == ROW)
            ((hybus_row_callback)q->callback)(NULL, -ENOKEY, q->userdata);
        else if (!a->alive && q->kind == JUDGE)
            ((hybus_verdict_callback)q->callback)(NULL, -ENOKEY, q->userdata);
        else if (!a->alive)
            ((hybus_principal_callback)q->callback)(NULL, -ENOKEY, 0, q->userdata);
        else if (q->kind == ROW)
            answer_row(a, q);
        else if (q->kind == JUDGE)
            answer_judge(a, q);
        else
            answer_connect(a, q);
        question_free(q);
    }
    return 0;
}

static int ask(hybus_agent *a, enum kind kind, uint64_t handle, const char *const *permissions,
               size_t n, const char *bearer, void *f, void *userdata, hybus_agent_question **ret)
{
    hybus_agent_question *q = calloc(1, sizeof(*q));

    q->kind = kind;
    q->handle = handle;
    q->permissions = calloc(n + 1, sizeof(char *));
    for (size_t i = 0; i < n; i++)
        q->permissions[i] = strdup(permissions[i]);
    q->n = n;
    q->bearer = bearer ? strdup(bearer) : NULL;
    q->callback = f;
    q->userdata = userdata;
    *a->last = q;
    a->last = &q->next;
    sd_event_source_set_enabled(a->defer, SD_EVENT_ONESHOT);
    if (ret)
        *ret = q;
    return 0;
}

int hybus_agent_row(hybus_agent *a, const hybus_subject *subject, const char *const *permissions,
                    size_t n, hybus_row_callback f, void *userdata, hybus_agent_question **ret)
{
    return ask(a, ROW, subject->handle, permissions, n, NULL, (void *)f, userdata, ret);
}

int hybus_agent_judge(hybus_agent *a, const hybus_subject *subject, const hybus_call *call,
                      hybus_verdict_callback f, void *userdata, hybus_agent_question **ret)
{
    return ask(a, JUDGE, subject->handle, &call->permission, 1, NULL, (void *)f, userdata, ret);
}

int hybus_agent_check_connection(hybus_agent *a, const hybus_connection *c,
                                 hybus_principal_callback f, void *userdata,
                                 hybus_agent_question **ret)
{
    return ask(a, CONNECT, 0, NULL, 0, c->bearer, (void *)f, userdata, ret);
}

void hybus_agent_question_cancel(hybus_agent_question *q)
{
    if (q)
        q->cancelled = true;
}

bool hybus_agent_row_current(hybus_agent *a, const hybus_row *row)
{
    return a->alive && row->epoch == a->epoch && row->stamp == a->stamp;
}

bool hybus_agent_pass_current(hybus_agent *a, const hybus_pass *pass)
{
    return a->alive && pass->epoch == a->epoch && pass->stamp == a->stamp;
}

bool hybus_agent_alive(hybus_agent *a)
{
    return a->alive;
}

void hybus_agent_used(hybus_agent *a, const hybus_subject *subject, const char *permission,
                      uint64_t count)
{
}

void hybus_agent_release(hybus_agent *a, uint64_t handle)
{
    if (handle < HANDLES_MAX)
        a->handles[handle].epoch = 0;
    a->released++;
}

void hybus_agent_touch(hybus_agent *a, uint64_t handle)
{
}

/* Nobody here knows a password. */
int hybus_agent_login(hybus_agent *a, const hybus_connection *c, const char *user,
                      const char *password, hybus_login_callback f, void *userdata,
                      hybus_agent_question **ret)
{
    return -ENOKEY;
}

int hybus_agent_own_password(hybus_agent *a, const hybus_connection *c, const char *old,
                             const char *new, hybus_login_callback f, void *userdata,
                             hybus_agent_question **ret)
{
    return -ENOKEY;
}

int hybus_agent_logout(hybus_agent *a, const char *secret, hybus_login_callback f, void *userdata,
                       hybus_agent_question **ret)
{
    return -ENOKEY;
}

int hybus_agent_add_changed(hybus_agent *a, hybus_agent_changed f, void *userdata)
{
    a->changed = f;
    a->changed_userdata = userdata;
    return 0;
}

void hybus_agent_remove_changed(hybus_agent *a, hybus_agent_changed f, void *userdata)
{
    a->changed = NULL;
}

void hybus_agent_settled(hybus_agent *a, hybus_agent_changed f, void *userdata, uint64_t generation)
{
    a->settled = generation;
}

hybus_agent *agent_fake_new(sd_event *event)
{
    hybus_agent *a = calloc(1, sizeof(*a));

    a->event = event;
    a->alive = true;
    a->epoch = a->stamp = 1000;
    a->next_handle = 1;
    a->last = &a->first;
    sd_event_add_defer(event, &a->defer, on_defer, a);
    sd_event_source_set_enabled(a->defer, SD_EVENT_OFF);
    return a;
}

void hybus_agent_free(hybus_agent *a)
{
    while (a->first) {
        hybus_agent_question *q = a->first;
        a->first = q->next;
        question_free(q);
    }
    sd_event_source_disable_unref(a->defer);
    free(a);
}

void agent_fake_grant(hybus_agent *a, const char *principal, const char *permission)
{
    snprintf(a->grants[a->n_grants].principal, 64, "%s", principal);
    snprintf(a->grants[a->n_grants++].permission, 320, "%s", permission);
}

void agent_fake_revoke(hybus_agent *a, const char *principal, const char *permission)
{
    for (size_t i = 0; i < a->n_grants; i++)
        if (streq(a->grants[i].principal, principal) && streq(a->grants[i].permission, permission))
            a->grants[i].principal[0] = 0;
}

void agent_fake_change(hybus_agent *a)
{
    a->stamp++;
    a->generation++;
    if (a->changed)
        a->changed(a, a->generation, a->changed_userdata);
}

void agent_fake_restart(hybus_agent *a)
{
    a->epoch++;
    a->alive = true;
    agent_fake_change(a);
}

void agent_fake_set_alive(hybus_agent *a, bool alive)
{
    a->alive = alive;
}

void agent_fake_set_silent(hybus_agent *a, bool silent)
{
    a->silent = silent;
    sd_event_source_set_enabled(a->defer, SD_EVENT_ONESHOT);
}

void agent_fake_set_overtaken(hybus_agent *a, unsigned n)
{
    a->overtaken = n;
}

uint64_t agent_fake_settled(const hybus_agent *a)
{
    return a->settled;
}

uint64_t agent_fake_generation(const hybus_agent *a)
{
    return a->generation;
}

unsigned agent_fake_rows(const hybus_agent *a)
{
    return a->rows;
}

unsigned agent_fake_judged(const hybus_agent *a)
{
    return a->judged;
}

unsigned agent_fake_released(const hybus_agent *a)
{
    return a->released;
}
