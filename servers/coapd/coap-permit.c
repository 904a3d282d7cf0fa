/* SPDX-License-Identifier: Apache-2.0 */
/* What the directory lets somebody do is judged like everything else: by a row of the principal's. A
 * refusal is judged once more by h-securityd, so that it is on record. */

#include "coap-node.h"

#define OVERTAKEN_MAX 8u /* rows that another change has made void before they came */

struct CoapdPermit {
    Coapd *coapd;
    endpoint_timer now; /* without an agent: the answer of a test */
    hybus_agent_question *question;
    hybus_subject subject;
    unsigned overtaken;
    bool record;
    coapd_permit_done done;
    void *userdata;
    char *permission, *path;
};

void coapd_permit_cancel(CoapdPermit *p)
{
    if (!p)
        return;
    timer_stop(&p->now);
    hybus_agent_question_cancel(p->question);
    free(p->permission);
    free(p->path);
    free(p);
}

static void conclude(CoapdPermit *p, int error, const char *audit)
{
    coapd_permit_done done = p->done;
    void *userdata = p->userdata;

    done(error, audit, userdata); /* whoever asked forgets it there */
    coapd_permit_cancel(p);
}

static void ask_row(CoapdPermit *p);

static void try_again(CoapdPermit *p)
{
    if (p->overtaken++ < OVERTAKEN_MAX)
        ask_row(p);
    else
        conclude(p, -EAGAIN, NULL);
}

static void on_verdict(const hybus_verdict *v, int error, void *userdata)
{
    CoapdPermit *p = userdata;

    p->question = NULL;
    if (error < 0)
        conclude(p, -EAGAIN, NULL);
    else if (v->allowed) /* the policy has moved */
        try_again(p);
    else
        conclude(p, -EACCES, v->audit);
}

static void refuse(CoapdPermit *p)
{
    hybus_call call = {.permission = p->permission,
                       .interface = "org.hybridos.Coap1",
                       .member = "Register",
                       .path = p->path,
                       .kind = HYBUS_MEMBER_METHOD};

    if (!p->record)
        conclude(p, -EACCES, NULL);
    else if (hybus_agent_judge(p->coapd->agent, &p->subject, &call, on_verdict, p, &p->question) <
             0)
        conclude(p, -EAGAIN, NULL);
}

static void on_row(hybus_row *taken, int error, void *userdata)
{
    _cleanup_(freep) hybus_row *row = taken;
    CoapdPermit *p = userdata;

    p->question = NULL;
    if (error < 0) {
        conclude(p, -EAGAIN, NULL);
    } else if (!hybus_agent_row_current(p->coapd->agent, row)) {
        try_again(p);
    } else if (!hybus_row_bit(row, 0)) {
        refuse(p);
    } else {
        hybus_agent_used(p->coapd->agent, &p->subject, p->permission, 1);
        conclude(p, 0, NULL);
    }
}

static void ask_row(CoapdPermit *p)
{
    const char *permissions[] = {p->permission};

    if (hybus_agent_row(p->coapd->agent, &p->subject, permissions, 1, on_row, p, &p->question) < 0)
        timer_start(&p->coapd->timers, TIMERS_SHORT, &p->now, timer_now());
}

static void on_now(endpoint_timer *t)
{
    CoapdPermit *p = list_entry(t, CoapdPermit, now);
    Coapd *d = p->coapd;

    if (d->agent || !d->judge)
        conclude(p, -EAGAIN, NULL);
    else
        conclude(p, d->judge(p->permission) ? 0 : -EACCES, "test");
}

int coapd_permit_ask(CoapdSession *s, const char *permission, const char *path, bool record,
                     coapd_permit_done done, void *userdata, CoapdPermit **ret)
{
    CoapdPermit *p = calloc(1, sizeof(*p));

    if (!p)
        return -ENOMEM;
    *p = (CoapdPermit){.coapd = s->coapd,
                       .now.fire = on_now,
                       .subject = {.remote = true, .handle = endpoint_peer_handle(s->peer)},
                       .record = record,
                       .done = done,
                       .userdata = userdata,
                       .permission = strdup(permission),
                       .path = strdup(path)};
    list_init(&p->now.node);
    if (!p->permission || !p->path) {
        coapd_permit_cancel(p);
        return -ENOMEM;
    }
    *ret = p;
    if (s->coapd->agent)
        ask_row(p);
    else
        timer_start(&s->coapd->timers, TIMERS_SHORT, &p->now, timer_now());
    return 0;
}
