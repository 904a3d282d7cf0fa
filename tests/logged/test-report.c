/* SPDX-License-Identifier: Apache-2.0 */
/* What the bus has refused, on its way to h-securityd: folded, bounded, and kept while that is
 * away. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "log-record.h"
#include "log-report.h"

/* --- in place of h-securityd --------------------------------------------------------------------
 */

typedef struct Told {
    bool unknown;
    uint32_t uid;
    char sender[32], member[32];
    uint64_t count;
} Told;

static Told told[2 * LOG_REPORT_KINDS_MAX];
static size_t n_told;
static bool takes, alive;
static hybus_agent_changed changed;
static void *changed_userdata;

bool hybus_agent_bus_refused(hybus_agent *a, const hybus_subject *subject,
                             const hybus_refusal *refusal, uint64_t count)
{
    Told *t = &told[n_told];

    if (!takes)
        return false;
    assert_true(n_told < ELEMENTS(told));
    *t = (Told){.unknown = subject->unknown, .uid = subject->uid, .count = count};
    snprintf(t->sender, sizeof(t->sender), "%s", subject->bus_name);
    snprintf(t->member, sizeof(t->member), "%s", refusal->member);
    n_told++;
    return true;
}

bool hybus_agent_alive(hybus_agent *a)
{
    return alive;
}

int hybus_agent_add_changed(hybus_agent *a, hybus_agent_changed f, void *userdata)
{
    changed = f;
    changed_userdata = userdata;
    return 0;
}

void hybus_agent_remove_changed(hybus_agent *a, hybus_agent_changed f, void *userdata)
{
    changed = NULL;
}

void hybus_agent_settled(hybus_agent *a, hybus_agent_changed f, void *userdata, uint64_t generation)
{
}

/* --- the tests ----------------------------------------------------------------------------------
 */

typedef struct Fixture {
    sd_event *event;
    sd_bus *bus; /* goes nowhere */
    log_report *report;
} Fixture;

static int set_up(void **state)
{
    static Fixture f;

    n_told = 0;
    takes = alive = true;
    assert_int_equal(sd_event_new(&f.event), 0);
    assert_int_equal(sd_bus_new(&f.bus), 0);
    assert_int_equal(sd_bus_attach_event(f.bus, f.event, 0), 0);
    assert_int_equal(log_report_new(f.bus, (hybus_agent *)&f, &f.report), 0);
    *state = &f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    log_report_free(f->report);
    assert_null(changed);
    sd_bus_detach_event(f->bus);
    sd_bus_unref(f->bus);
    sd_event_unref(f->event);
    return 0;
}

static void turn(Fixture *f)
{
    while (sd_event_run(f->event, 0) > 0)
        ;
}

static log_refusal refusal(uint32_t uid, unsigned n)
{
    log_refusal r = {.uid = uid, .type = 'm'};

    snprintf(r.sender, sizeof(r.sender), ":1.%u", n);
    strcpy(r.member, "Start");
    return r;
}

static void add(Fixture *f, uint32_t uid, unsigned n)
{
    log_refusal r = refusal(uid, n);

    log_report_add(f->report, &r, 0);
}

static void test_the_same_again_is_a_count(void **state)
{
    Fixture *f = *state;

    for (unsigned i = 0; i < 1000; i++)
        add(f, 1000, 7);
    add(f, 1000, 8);
    assert_int_equal(n_told, 0); /* after what has come at once */
    turn(f);
    assert_int_equal(n_told, 2);
    assert_int_equal(told[0].count, 1000);
    assert_int_equal(told[0].uid, 1000);
    assert_string_equal(told[0].sender, ":1.7");
    assert_string_equal(told[0].member, "Start");
    assert_int_equal(told[1].count, 1);
    turn(f);
    assert_int_equal(n_told, 2);
    add(f, 1000, 7);
    turn(f);
    assert_int_equal(told[2].count, 1);
}

/* Whoever cannot be asked for, or was logged before the bus that can be asked was there, is
 * unknown. */
static void test_nobody_knows_who_that_was(void **state)
{
    Fixture *f = *state;

    add(f, LOG_NOBODY, 7);
    turn(f);
    assert_int_equal(n_told, 1);
    assert_true(told[0].unknown);
    assert_string_equal(told[0].sender, ":1.7");
}

static void test_more_kinds_than_there_is_room_for(void **state)
{
    Fixture *f = *state;
    uint64_t sum = 0;

    for (unsigned i = 0; i < 5000; i++)
        add(f, 1000, i);
    turn(f);
    assert_int_equal(n_told, LOG_REPORT_KINDS_MAX + 1);
    for (size_t i = 0; i < n_told; i++)
        sum += told[i].count;
    assert_int_equal(sum, 5000);
    assert_true(told[LOG_REPORT_KINDS_MAX].unknown);
    assert_string_equal(told[LOG_REPORT_KINDS_MAX].sender, "");
    turn(f);
    assert_int_equal(n_told, LOG_REPORT_KINDS_MAX + 1);
}

static void test_it_is_kept_while_h_securityd_is_away(void **state)
{
    Fixture *f = *state;

    takes = alive = false;
    for (unsigned i = 0; i < 5000; i++)
        add(f, 1000, i);
    turn(f);
    assert_int_equal(n_told, 0);
    takes = alive = true;
    changed(NULL, 1, changed_userdata);
    turn(f);
    assert_int_equal(n_told, LOG_REPORT_KINDS_MAX + 1);
}

/* It is there and does not take more: it is asked again by itself. */
static void test_it_is_kept_while_there_is_no_room(void **state)
{
    Fixture *f = *state;

    takes = false;
    add(f, 1000, 7);
    turn(f);
    takes = true;
    while (n_told == 0)
        assert_true(sd_event_run(f->event, UINT64_MAX) > 0);
    assert_int_equal(told[0].count, 1);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_the_same_again_is_a_count),         T(test_nobody_knows_who_that_was),
        T(test_more_kinds_than_there_is_room_for), T(test_it_is_kept_while_h_securityd_is_away),
        T(test_it_is_kept_while_there_is_no_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
