/* SPDX-License-Identifier: Apache-2.0 */
#include "fake-agent.h"

#define GRANTS_MAX 64u

struct hybus_agent_question {
    hybus_agent_question *next;
    uint32_t uid;
    char *permissions[2];
    size_t n;
    hybus_row_callback row;
    hybus_verdict_callback verdict;
    void *userdata;
};

static struct {
    struct {
        uint32_t uid;
        char permission[300];
    } grants[GRANTS_MAX];
    size_t n_grants, judged;
    hybus_agent_question *first;
    bool away, all;
    unsigned stale;
    uint64_t generation, settled;
    hybus_agent_changed changed;
    void *changed_userdata;
} fake;

static bool granted(uint32_t uid, const char *permission)
{
    for (size_t i = 0; i < fake.n_grants; i++)
        if (fake.grants[i].uid == uid && streq(fake.grants[i].permission, permission))
            return true;
    return fake.all;
}

static void question_free(hybus_agent_question *q)
{
    for (size_t i = 0; i < q->n; i++)
        free(q->permissions[i]);
    free(q);
}

void fake_agent_reset(void)
{
    while (fake.first)
        hybus_agent_question_cancel(fake.first);
    memset(&fake, 0, sizeof(fake));
    fake.generation = 1;
}

void fake_agent_grant(uint32_t uid, const char *permission)
{
    size_t i = 0;

    while (i < fake.n_grants && fake.grants[i].permission[0]) /* revoked ones are free */
        i++;
    if (i == GRANTS_MAX)
        abort();
    fake.n_grants = MAX_OF(fake.n_grants, i + 1);
    fake.grants[i].uid = uid;
    snprintf(fake.grants[i].permission, 300, "%s", permission);
}

void fake_agent_grant_all(void)
{
    fake.all = true;
}

void fake_agent_revoke(uint32_t uid, const char *permission)
{
    for (size_t i = 0; i < fake.n_grants; i++)
        if (fake.grants[i].uid == uid && streq(fake.grants[i].permission, permission))
            fake.grants[i].permission[0] = 0;
}

static void answer_row(hybus_agent_question *q)
{
    hybus_row *row;

    if (fake.away) {
        q->row(NULL, -ENOKEY, q->userdata);
        return;
    }
    row = calloc(1, sizeof(*row) + sizeof(uint64_t));
    if (!row)
        abort();
    row->n_bits = (uint32_t)q->n;
    row->stamp = fake.stale > 0 ? 0 : 1;
    fake.stale -= fake.stale > 0;
    for (size_t i = 0; i < q->n; i++)
        row->bits[0] |= (uint64_t)granted(q->uid, q->permissions[i]) << i;
    q->row(row, 0, q->userdata);
}

static void answer_verdict(hybus_agent_question *q)
{
    hybus_verdict v = {
        .allowed = granted(q->uid, q->permissions[0]),
        .audit = "f00d-1",
        .rule = "default",
        .reason = "nothing grants it",
    };

    fake.judged++;
    q->verdict(&v, 0, q->userdata);
}

size_t fake_agent_answer(void)
{
    size_t n = 0;

    for (size_t waiting = fake_agent_waiting(); waiting > 0 && fake.first; waiting--, n++) {
        hybus_agent_question *q = fake.first;
        fake.first = q->next;
        if (q->row)
            answer_row(q);
        else
            answer_verdict(q);
        question_free(q);
    }
    return n;
}

size_t fake_agent_waiting(void)
{
    size_t n = 0;

    for (const hybus_agent_question *q = fake.first; q; q = q->next)
        n++;
    return n;
}

void fake_agent_away(bool away)
{
    fake.away = away;
}

void fake_agent_stale(unsigned n)
{
    fake.stale = n;
}

void fake_agent_change(void)
{
    fake.changed((hybus_agent *)&fake, ++fake.generation, fake.changed_userdata);
}

uint64_t fake_agent_settled(void)
{
    return fake.settled;
}

size_t fake_agent_judged(void)
{
    return fake.judged;
}

/* --- what the daemon calls ----------------------------------------------------------------------
 */

static hybus_agent_question *question_new(const hybus_subject *s, const char *const *permissions,
                                          size_t n, void *userdata, hybus_agent_question **ret)
{
    hybus_agent_question *q = calloc(1, sizeof(*q)), **at;

    if (!q || s->remote || n > 2)
        abort();
    q->uid = s->uid;
    q->n = n;
    q->userdata = userdata;
    for (size_t i = 0; i < n; i++)
        q->permissions[i] = strdup(permissions[i]);
    for (at = &fake.first; *at; at = &(*at)->next)
        ;
    *at = q;
    *ret = q;
    return q;
}

int hybus_agent_row(hybus_agent *a, const hybus_subject *subject, const char *const *permissions,
                    size_t n_permissions, hybus_row_callback f, void *userdata,
                    hybus_agent_question **ret)
{
    question_new(subject, permissions, n_permissions, userdata, ret)->row = f;
    return 0;
}

int hybus_agent_judge(hybus_agent *a, const hybus_subject *subject, const hybus_call *call,
                      hybus_verdict_callback f, void *userdata, hybus_agent_question **ret)
{
    question_new(subject, &call->permission, 1, userdata, ret)->verdict = f;
    return 0;
}

bool hybus_agent_row_current(hybus_agent *a, const hybus_row *row)
{
    return row->stamp == 1;
}

int hybus_agent_add_changed(hybus_agent *a, hybus_agent_changed f, void *userdata)
{
    fake.changed = f;
    fake.changed_userdata = userdata;
    return 0;
}

void hybus_agent_settled(hybus_agent *a, hybus_agent_changed f, void *userdata, uint64_t generation)
{
    fake.settled = generation;
}

void hybus_agent_used(hybus_agent *a, const hybus_subject *subject, const char *permission,
                      uint64_t count)
{
}

void hybus_agent_question_cancel(hybus_agent_question *q)
{
    hybus_agent_question **at;

    if (!q)
        return;
    for (at = &fake.first; *at && *at != q; at = &(*at)->next)
        ;
    if (!*at)
        abort(); /* cancelled twice, or after its answer */
    *at = q->next;
    question_free(q);
}
