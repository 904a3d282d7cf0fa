/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "throttle.h"

#define SECOND UINT64_C(1000000)
#define NOW (UINT64_C(1000) * SECOND)

/* As h-securityd throttles tokens: ten at once and one in six seconds; 240 at once and four a second
 * of all together. */
static Throttle t;

static int set_up(void **state)
{
    throttle_init(&t, 6 * SECOND, 60 * SECOND, SECOND / 4, 60 * SECOND);
    return 0;
}

static void test_a_peer_has_a_burst_and_then_a_rate(void **state)
{
    uint64_t wait;

    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(throttle_failure(&t, "192.0.2.1:1000", NOW), 0);
    wait = throttle_failure(&t, "192.0.2.1:1001", NOW);
    assert_int_equal(wait, 6 * SECOND);
    /* Whoever goes on does not wait longer and longer. */
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(throttle_failure(&t, "192.0.2.1:1002", NOW), 6 * SECOND);
    /* Nor for ever: one that waits as long as it is told is admitted, again and again. */
    for (unsigned i = 1; i < 100; i++) {
        assert_int_equal(throttle_failure(&t, "192.0.2.1:1003", NOW + i * wait), 0);
        assert_int_equal(throttle_failure(&t, "192.0.2.1:1003", NOW + i * wait + 1), wait - 1);
    }
}

static void test_it_forgets(void **state)
{
    for (unsigned i = 0; i < 20; i++)
        (void)throttle_failure(&t, "192.0.2.1", NOW);
    assert_true(throttle_wait(&t, "192.0.2.1", NOW) > 0);
    assert_int_equal(throttle_wait(&t, "192.0.2.1", NOW + 66 * SECOND), 0);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(throttle_failure(&t, "192.0.2.1", NOW + 70 * SECOND), 0);
    assert_true(throttle_failure(&t, "192.0.2.1", NOW + 70 * SECOND) > 0);
}

static void test_waiting_costs_nothing(void **state)
{
    for (unsigned i = 0; i < 10; i++)
        (void)throttle_failure(&t, "192.0.2.1", NOW);
    /* The next failure would be over the limit: asking says so and does not count. */
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(throttle_wait(&t, "192.0.2.1", NOW), 6 * SECOND);
    assert_int_equal(throttle_wait(&t, "192.0.2.1", NOW + 6 * SECOND), 0);
}

static void test_what_is_one_peer(void **state)
{
    static const struct {
        const char *a, *b;
        bool same;
    } cases[] = {
        {"192.0.2.1:1", "192.0.2.1:2", true},
        {"192.0.2.1", "192.0.2.1:2", true},
        {"192.0.2.1:1", "192.0.2.2:1", false},
        {"[2001:db8::1]:443", "2001:db8::2", true},
        {"[2001:db8::1]:443", "[2001:db8:0:1::1]:443", false},
        {"[fe80::1%eth0]:1", "[fe80::2%eth1]:1", true},
        {"[::ffff:192.0.2.1]:1", "192.0.2.1:9", true},
        {"::ffff:192.0.2.1", "::ffff:192.0.2.2", false},
        {"uid:1000", "uid:1001", false},
        {"uid:1000", "uid:1000", true},
        {NULL, "", true},
        {"[", "]", false},
        {"", "0.0.0.0", false},
    };

    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        uint64_t wait;

        set_up(NULL);
        for (unsigned k = 0; k < 11; k++)
            (void)throttle_failure(&t, cases[i].a, NOW);
        wait = throttle_wait(&t, cases[i].b, NOW);
        if ((wait > 0) != cases[i].same)
            fail_msg("%s and %s", cases[i].a, cases[i].b);
    }
}

static void test_the_owner_is_not_locked_out_by_another(void **state)
{
    for (unsigned i = 0; i < 200; i++)
        (void)throttle_failure(&t, "192.0.2.1", NOW);
    assert_int_equal(throttle_wait(&t, "192.0.2.2", NOW), 0);
    assert_int_equal(throttle_failure(&t, "192.0.2.2", NOW), 0);
}

/* One who has many addresses meets the bound of all together. */
static void test_all_peers_together(void **state)
{
    unsigned admitted = 0;
    char peer[32];

    for (unsigned i = 0; i < 1000; i++) {
        snprintf(peer, sizeof peer, "198.51.%u.%u", i / 250, i % 250);
        admitted += throttle_failure(&t, peer, NOW) == 0;
    }
    assert_int_equal(admitted, 240);
    assert_true(throttle_wait(&t, "203.0.113.1", NOW) > 0);
    assert_int_equal(throttle_wait(&t, "203.0.113.1", NOW + SECOND), 0);
}

static void test_the_table_is_bounded(void **state)
{
    char peer[32];

    throttle_init(&t, 6 * SECOND, 60 * SECOND, 0, 60 * SECOND);
    for (unsigned i = 0; i < 30; i++)
        (void)throttle_failure(&t, "192.0.2.1", NOW);
    /* More peers than there are places: who failed most is remembered longest. */
    for (unsigned i = 0; i < 10 * THROTTLE_PEERS; i++) {
        snprintf(peer, sizeof peer, "10.%u.%u.1", i / 256, i % 256);
        assert_int_equal(throttle_failure(&t, peer, NOW), 0);
    }
    assert_true(throttle_wait(&t, "192.0.2.1", NOW) > 0);
}

#define T(name) cmocka_unit_test_setup(name, set_up)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_a_peer_has_a_burst_and_then_a_rate),
        T(test_it_forgets),
        T(test_waiting_costs_nothing),
        T(test_what_is_one_peer),
        T(test_the_owner_is_not_locked_out_by_another),
        T(test_all_peers_together),
        T(test_the_table_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
