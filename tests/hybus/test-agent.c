/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <hybus/agent.h>

#include "fake-agent.h"

#define DEADLINE_USEC (60u * 1000u * 1000u)

static const char *const permissions[] = {"a.read", "a.write", NULL};
static const hybus_member members[] = {{"org.hybridos.A1", "Read", HYBUS_MEMBER_METHOD, 0},
                                       {"org.hybridos.A1", "Never", HYBUS_MEMBER_GET, UINT32_MAX},
                                       {NULL}};

typedef struct Fixture {
    fake_agent *fake;
    sd_event *event;
    hybus_agent *agent;
    unsigned changed;
    uint64_t generation;
} Fixture;

typedef struct Got {
    unsigned n;
    int error;
    hybus_row *row;
    bool allowed;
    char text[128];
    uint64_t handle;
} Got;

static void turn(Fixture *f)
{
    assert_true(sd_event_run(f->event, DEADLINE_USEC) > 0);
}

#define WAIT(f, condition)                                                                         \
    do                                                                                             \
        turn(f);                                                                                   \
    while (!(condition))

static void on_row(hybus_row *row, int error, void *userdata)
{
    Got *g = userdata;

    g->n++;
    g->error = error;
    g->row = row;
}

static void on_verdict(const hybus_verdict *v, int error, void *userdata)
{
    Got *g = userdata;

    g->n++;
    g->error = error;
    if (v) {
        g->allowed = v->allowed;
        snprintf(g->text, sizeof g->text, "%s %s", v->rule, v->audit);
    }
}

static void on_principal(const hybus_principal *p, int error, uint64_t retry, void *userdata)
{
    Got *g = userdata;

    g->n++;
    g->error = error;
    if (p) {
        g->handle = p->handle;
        snprintf(g->text, sizeof g->text, "%s", p->name);
    }
}

static void on_reply(const char *reply, size_t size, int error, void *userdata)
{
    Got *g = userdata;

    g->n++;
    g->error = error;
}

static void on_changed(hybus_agent *a, uint64_t generation, void *userdata)
{
    Fixture *f = userdata;

    f->changed++;
    f->generation = generation;
}

static int set_up(void **state)
{
    static const char *const interfaces[] = {"org.hybridos.A1", NULL};
    Fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    f->fake = fake_agent_new(members, permissions);
    assert_true(sd_event_new(&f->event) >= 0);
    assert_int_equal(
        hybus_agent_new(f->event, "a", interfaces, fake_agent_path(f->fake), &f->agent), 0);
    assert_int_equal(hybus_agent_add_changed(f->agent, on_changed, f), 0);
    assert_false(hybus_agent_alive(f->agent));
    WAIT(f, hybus_agent_alive(f->agent));
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    hybus_agent_free(f->agent);
    sd_event_unref(f->event);
    fake_agent_free(f->fake);
    free(f);
    return 0;
}

static const hybus_subject subject = {.uid = 1234};

static void ask_row(Fixture *f, Got *g)
{
    *g = (Got){0};
    assert_int_equal(hybus_agent_row(f->agent, &subject, NULL, 0, on_row, g, NULL), 0);
    assert_int_equal(g->n, 0); /* never from inside the question */
}

static void test_hello(void **state)
{
    Fixture *f = *state;
    const hybus_member *m;
    const char *const *p;

    assert_int_equal(f->changed, 1);
    assert_int_equal(hybus_agent_members(f->agent, &m), 2);
    assert_string_equal(m[0].member, "Read");
    assert_int_equal(m[0].permission, 0);
    assert_int_equal(m[1].permission, UINT32_MAX);
    assert_int_equal(hybus_agent_permissions(f->agent, &p), 2);
    assert_string_equal(p[1], "a.write");
}

static void test_rows(void **state)
{
    static const char *const asked[] = {"other", "a.write", "x"};
    Fixture *f = *state;
    Got g;

    fake_agent_allow(f->fake, "uid:1234", "a.write", true);
    ask_row(f, &g);
    WAIT(f, g.n);
    assert_int_equal(g.error, 0);
    assert_true(hybus_agent_row_current(f->agent, g.row));
    assert_int_equal(g.row->n_bits, 2);
    assert_false(hybus_row_bit(g.row, 0));
    assert_true(hybus_row_bit(g.row, 1));
    assert_false(hybus_row_bit(g.row, 2));
    assert_false(hybus_row_bit(g.row, UINT32_MAX));
    fake_agent_bump(f->fake);
    assert_false(hybus_agent_row_current(f->agent, g.row));
    free(g.row);

    g = (Got){0};
    assert_int_equal(hybus_agent_row(f->agent, &subject, asked, 3, on_row, &g, NULL), 0);
    WAIT(f, g.n);
    assert_int_equal(g.row->n_bits, 3);
    assert_int_equal(g.row->bits[0], 2);
    fake_agent_kill(f->fake);
    assert_false(hybus_agent_row_current(f->agent, g.row));
    assert_false(hybus_agent_alive(f->agent));
    free(g.row);
}

static void test_judge(void **state)
{
    const hybus_call call = {"a.read", "org.hybridos.A1", "Read", "/", HYBUS_MEMBER_METHOD};
    Fixture *f = *state;
    Got g = {0};

    assert_int_equal(hybus_agent_judge(f->agent, &subject, &call, on_verdict, &g, NULL), 0);
    WAIT(f, g.n);
    assert_int_equal(g.error, 0);
    assert_false(g.allowed);
    assert_string_equal(g.text, "default fake-1");
}

static void test_connect(void **state)
{
    Fixture *f = *state;
    const hybus_connection nobody = {.protocol = "http"};
    const hybus_connection good = {.protocol = "http", .bearer = "good"};
    const hybus_connection bad = {.protocol = "http", .bearer = "bad"};
    hybus_agent_question *q;
    Got g[4] = {0};

    assert_int_equal(hybus_agent_check_connection(f->agent, &nobody, on_principal, &g[0], NULL), 0);
    assert_int_equal(hybus_agent_check_connection(f->agent, &good, on_principal, &g[1], NULL), 0);
    assert_int_equal(hybus_agent_check_connection(f->agent, &bad, on_principal, &g[2], NULL), 0);
    WAIT(f, g[0].n && g[1].n && g[2].n);
    assert_string_equal(g[0].text, "anonymous");
    assert_int_equal(g[0].handle, 0);
    assert_string_equal(g[1].text, "token:test");
    assert_int_not_equal(g[1].handle, 0);
    assert_int_equal(g[2].error, -EKEYREJECTED);

    /* A handle that comes for nobody any more is given back. */
    assert_int_equal(hybus_agent_check_connection(f->agent, &good, on_principal, &g[3], &q), 0);
    hybus_agent_question_cancel(q);
    while (fake_agent_count(f->fake, "release") < 1)
        assert_true(sd_event_run(f->event, 20000) >= 0);
    assert_int_equal(g[3].n, 0);
}

static void test_changed(void **state)
{
    Fixture *f = *state;
    uint64_t before = f->generation;

    while (fake_agent_count(f->fake, "hello") < 1)
        assert_true(sd_event_run(f->event, 20000) >= 0);
    fake_agent_allow(f->fake, "*", "a.read", true);
    WAIT(f, f->changed == 2);
    assert_true(f->generation > before);
    assert_int_equal(fake_agent_count(f->fake, "settled"), 0);
    hybus_agent_settled(f->agent, on_changed, f, f->generation);
    while (fake_agent_count(f->fake, "settled") < 1)
        assert_true(sd_event_run(f->event, 20000) >= 0);
}

/* A row is asked again of the next agent; a connect request and an exchange may have had effect. */
static void test_restart(void **state)
{
    Fixture *f = *state;
    const hybus_connection good = {.protocol = "http", .bearer = "good"};
    Got row, connect = {0}, exchange = {0};

    fake_agent_allow(f->fake, "*", "a.read", true);
    fake_agent_hold(f->fake, "row", true);
    fake_agent_hold(f->fake, "connect", true);
    fake_agent_hold(f->fake, "token-add", true);
    ask_row(f, &row);
    assert_int_equal(hybus_agent_check_connection(f->agent, &good, on_principal, &connect, NULL),
                     0);
    assert_int_equal(
        hybus_agent_exchange(f->agent, "{\"op\":\"token-add\"}", on_reply, &exchange, NULL), 0);
    while (fake_agent_count(f->fake, "token-add") < 1)
        assert_true(sd_event_run(f->event, 20000) >= 0);
    fake_agent_kill(f->fake);
    fake_agent_start(f->fake);
    WAIT(f, row.n && connect.n && exchange.n);
    assert_int_equal(row.error, 0);
    assert_true(hybus_row_bit(row.row, 0));
    assert_true(hybus_agent_row_current(f->agent, row.row));
    assert_int_equal(connect.error, -ENOKEY);
    assert_int_equal(exchange.error, -ENOKEY);
    assert_int_equal(row.n + connect.n + exchange.n, 3);
    free(row.row);
}

static void test_away(void **state)
{
    Fixture *f = *state;
    Got g, many[4] = {0};

    fake_agent_kill(f->fake);
    ask_row(f, &g);
    for (size_t i = 0; i < HYBUS_AGENT_PENDING_MAX - 1; i++)
        assert_int_equal(hybus_agent_row(f->agent, &subject, NULL, 0, on_row, &many[i % 4], NULL),
                         0);
    assert_int_equal(hybus_agent_row(f->agent, &subject, NULL, 0, on_row, &g, NULL), -ENOBUFS);
    WAIT(f, g.n);
    assert_int_equal(g.error, -ENOKEY);
    assert_null(g.row);
}

static void test_cancel(void **state)
{
    Fixture *f = *state;
    hybus_agent_question *q;
    Got g = {0}, other;

    assert_int_equal(hybus_agent_row(f->agent, &subject, NULL, 0, on_row, &g, &q), 0);
    hybus_agent_question_cancel(q);
    ask_row(f, &other);
    WAIT(f, other.n);
    assert_int_equal(g.n, 0);
    free(other.row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hello, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_rows, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_judge, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_connect, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_changed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_restart, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_away, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_cancel, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
