/* SPDX-License-Identifier: Apache-2.0 */
/* Where a server listens before and after the claim, and addresses as text and as keys. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <endpoint/doors.h>

enum { PLAIN, TLS };

static void shown(const endpoint_door *d, char text[ENDPOINT_ADDRESS_TEXT])
{
    endpoint_address_format(&d->address.sa, text);
}

static void assert_doors(const endpoint_doors *d, const char *const *expected)
{
    char text[ENDPOINT_ADDRESS_TEXT];
    size_t n = 0;

    for (; expected[n]; n++) {
        assert_true(n < d->n);
        shown(&d->list[n], text);
        assert_string_equal(text, expected[n]);
    }
    assert_int_equal(d->n, n);
}

static void test_closed(void **state)
{
    char *const entries[] = {"5683", "192.0.2.1:5683", "127.0.0.1:7000", "[::1]:7001", NULL};
    endpoint_doors d = {};

    assert_int_equal(endpoint_doors_want(&d, entries, PLAIN), 0);
    assert_doors(&d, (const char *const[]){"127.0.0.1:5683", "[::1]:5683", "127.0.0.1:7000",
                                           "[::1]:7001", NULL});
    assert_false(d.list[0].optional);
    assert_true(d.list[1].optional);
}

static void test_open(void **state)
{
    char *const entries[] = {"5683", "192.0.2.1:5684", NULL};
    endpoint_doors d = {.open = true};

    assert_int_equal(endpoint_doors_want(&d, entries, PLAIN), 0);
    assert_doors(&d, (const char *const[]){"0.0.0.0:5683", "[::]:5683", "192.0.2.1:5684", NULL});
}

static void test_find(void **state)
{
    char *const entries[] = {"5683", NULL};
    endpoint_doors d = {.open = true};
    endpoint_address narrow = {}, wide = {};

    assert_int_equal(endpoint_doors_want(&d, entries, PLAIN), 0);
    assert_int_equal(endpoint_address_parse("127.0.0.1:5683", &narrow), 0);
    assert_int_equal(endpoint_address_parse("0.0.0.0:5683", &wide), 0);
    assert_null(endpoint_doors_find(&d, &narrow, PLAIN));
    assert_null(endpoint_doors_find(&d, &wide, TLS));
    assert_ptr_equal(endpoint_doors_find(&d, &wide, PLAIN), &d.list[0]);
    assert_true(d.list[0].there);
    assert_false(d.list[1].there);
}

static void test_bad(void **state)
{
    static const char *const bad[] = {"",
                                      "0",
                                      "65536",
                                      "-1",
                                      "+80",
                                      "80x",
                                      "host:80",
                                      "1.2.3.4",
                                      "1.2.3.4:",
                                      "1.2.3.4:0",
                                      "::1:80",
                                      "[::1]",
                                      "[1.2.3.4]:80",
                                      "[::1:80",
                                      "1.2.3.4:+80",
                                      "1.2.3.4:65536"};
    endpoint_doors d = {.open = true};

    for (size_t i = 0; i < ELEMENTS(bad); i++) {
        char *const entries[] = {(char *)bad[i], NULL};

        assert_int_equal(endpoint_doors_want(&d, entries, PLAIN), -EINVAL);
    }
    assert_int_equal(d.n, 0);
}

static void test_bound(void **state)
{
    char *const entries[] = {"1", "2", "3", "4", "5", "6", "7", "8", "9", NULL};
    endpoint_doors d = {.open = true};

    assert_int_equal(endpoint_doors_want(&d, entries, PLAIN), -ENOBUFS);
    assert_int_equal(d.n, ENDPOINT_DOORS_MAX);
}

static void test_scope(void **state)
{
    assert_false(endpoint_scope_is_open("claimed", false));
    assert_true(endpoint_scope_is_open("claimed", true));
    assert_true(endpoint_scope_is_open("all", false));
    assert_false(endpoint_scope_is_open("loopback", true));
    assert_false(endpoint_scope_is_open("nonsense", true));
    assert_false(endpoint_scope_valid("nonsense"));
}

static void key_of(const char *text, unsigned char key[16])
{
    endpoint_address a;

    assert_int_equal(endpoint_address_parse(text, &a), 0);
    endpoint_address_key(&a.sa, key);
}

static void assert_keys(const char *a, const char *b, bool same)
{
    unsigned char left[16], right[16];

    key_of(a, left);
    key_of(b, right);
    assert_int_equal(memcmp(left, right, 16) == 0, same);
}

static void test_keys(void **state)
{
    assert_keys("192.0.2.1:1", "192.0.2.1:2", true);
    assert_keys("192.0.2.1:1", "192.0.2.2:1", false);
    assert_keys("192.0.2.1:1", "[::ffff:192.0.2.1]:1", true);
    assert_keys("[2001:db8::1]:1", "[2001:db8::2]:9", true);
    assert_keys("[2001:db8::1]:1", "[2001:db8:0:1::1]:1", false);
    assert_keys("[::1]:1", "[::2]:1", false);
}

static void test_mapped_is_shown_as_it_is(void **state)
{
    char text[ENDPOINT_ADDRESS_TEXT];
    endpoint_address a;

    assert_int_equal(endpoint_address_parse("[::ffff:192.0.2.1]:80", &a), 0);
    endpoint_address_format(&a.sa, text);
    assert_string_equal(text, "192.0.2.1:80");
    endpoint_address_format_host(&a.sa, text);
    assert_string_equal(text, "192.0.2.1");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_closed), cmocka_unit_test(test_open),
        cmocka_unit_test(test_find),   cmocka_unit_test(test_bad),
        cmocka_unit_test(test_bound),  cmocka_unit_test(test_scope),
        cmocka_unit_test(test_keys),   cmocka_unit_test(test_mapped_is_shown_as_it_is),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
