/* SPDX-License-Identifier: Apache-2.0 */
/* Examples of RFC 8949, appendix A, both ways, and what must be refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "coap-format.h"

static size_t unhex(const char *text, uint8_t *to)
{
    size_t n = 0;

    for (; *text; text += 2, n++)
        sscanf(text, "%2hhx", &to[n]);
    return n;
}

static void check_json(const char *hex, const char *expected)
{
    uint8_t bytes[256] = {}, *json = NULL;
    size_t size = 0, n = unhex(hex, bytes);

    assert_int_equal(coapd_cbor_to_json(bytes, n, &json, &size), 0);
    assert_int_equal(size, strlen(expected));
    assert_memory_equal(json, expected, size);
    free(json);
    for (size_t i = 0; i < n; i++) { /* every beginning of it is broken */
        json = NULL;
        assert_int_equal(coapd_cbor_to_json(bytes, i, &json, &size), -EBADMSG);
        assert_null(json);
    }
}

static void check_cbor(const char *json, const char *expected)
{
    uint8_t bytes[256] = {}, *cbor = NULL;
    size_t size = 0, n = unhex(expected, bytes);

    assert_int_equal(coapd_json_to_cbor(json, strlen(json), &cbor, &size), 0);
    assert_int_equal(size, n);
    assert_memory_equal(cbor, bytes, n);
    free(cbor);
}

static void both(const char *hex, const char *json)
{
    check_json(hex, json);
    check_cbor(json, hex);
}

static void test_both_ways(void **state)
{
    both("00", "0");
    both("17", "23");
    both("1818", "24");
    both("1b000000e8d4a51000", "1000000000000");
    both("20", "-1");
    both("3903e7", "-1000");
    both("f4", "false");
    both("f6", "null");
    both("60", "\"\"");
    both("62225c", "\"\\\"\\\\\"");
    both("62c3bc", "\"\xc3\xbc\"");
    both("80", "[]");
    both("83010203", "[1,2,3]");
    both("8301820203820405", "[1,[2,3],[4,5]]");
    both("a0", "{}");
    both("a26161016162820203", "{\"a\":1,\"b\":[2,3]}");
    both("826161a161626163", "[\"a\",{\"b\":\"c\"}]");
    both("fb3ff199999999999a", "1.1");
    check_json("fa47c35000", "100000");
    check_cbor("100000.0", "fa47c35000");
}

static void test_what_only_cbor_has(void **state)
{
    check_json("1bffffffffffffffff", "18446744073709551615");
    check_json("3bffffffffffffffff", "-18446744073709551616");
    check_json("f93c00", "1");
    check_json("f97c00", "null");
    check_json("f97e00", "null");
    check_json("f7", "null");
    check_json("c11a514b67b0", "1363896240");
    check_json("d74401020304", "\"AQIDBA\"");
    check_json("4101", "\"AQ\"");
    check_json("a201020304", "{\"1\":2,\"3\":4}");
    check_json("5f42010243030405ff", "\"AQIDBAU\"");
    check_json("7f657374726561646d696e67ff", "\"streaming\"");
    check_json("9fff", "[]");
    check_json("9f018202039f0405ffff", "[1,[2,3],[4,5]]");
    check_json("bf61610161629f0203ffff", "{\"a\":1,\"b\":[2,3]}");
    check_json("bf6346756ef563416d7421ff", "{\"Fun\":true,\"Amt\":-2}");
}

static void refused(const char *hex, int error)
{
    uint8_t bytes[256] = {}, *json = NULL;
    size_t size = 0, n = unhex(hex, bytes);

    assert_int_equal(coapd_cbor_to_json(bytes, n, &json, &size), error);
    assert_null(json);
}

static void test_refused(void **state)
{
    refused("", -EBADMSG);
    refused("0000", -EBADMSG);         /* two items */
    refused("ff", -EBADMSG);           /* a break of nothing */
    refused("a1f501", -EBADMSG);       /* true as a key */
    refused("a1800100", -EBADMSG);     /* a list as a key */
    refused("bf01ff", -EBADMSG);       /* a key without a value */
    refused("61ff", -EBADMSG);         /* no UTF-8 */
    refused("5f6161ff", -EBADMSG);     /* text among bytes */
    refused("7f7f6161ffff", -EBADMSG); /* pieces in pieces */
    refused("7f01ff", -EBADMSG);
    refused("c1", -EBADMSG);
    refused("9fc1ff", -EBADMSG);
    refused("1c", -EBADMSG);
    refused("9bffffffffffffffff", -EBADMSG);
    refused("bbffffffffffffffff", -EBADMSG);
    refused("7bffffffffffffffff", -EBADMSG);
    for (size_t depth = 31; depth <= 34; depth++) {
        uint8_t bytes[40], *json = NULL;
        size_t size = 0;

        memset(bytes, 0x81, depth);
        bytes[depth] = 0;
        assert_int_equal(coapd_cbor_to_json(bytes, depth + 1, &json, &size),
                         depth <= COAPD_CONVERT_DEPTH ? 0 : -EBADMSG);
        free(json);
    }
}

static void test_refused_json(void **state)
{
    static const char *const bad[] = {"",    "{",   "[1,]",     "{\"a\":1,\"a\":2}",
                                      "1 2", "nul", "\"\xff\"", "1e999"};
    uint8_t *cbor = NULL;
    size_t size = 0;
    char deep[100];

    for (size_t i = 0; i < ELEMENTS(bad); i++) {
        assert_int_equal(coapd_json_to_cbor(bad[i], strlen(bad[i]), &cbor, &size), -EBADMSG);
        assert_null(cbor);
    }
    memset(deep, '[', 40);
    memset(deep + 40, ']', 40);
    assert_int_equal(coapd_json_to_cbor(deep, 80, &cbor, &size), -EBADMSG);
}

static void test_sizes(void **state)
{
    size_t n = COAPD_CONVERT_MAX - 8, size = 0;
    uint8_t *bytes = calloc(1, COAPD_CONVERT_MAX + 1), *out = NULL;

    bytes[0] = 0x5a; /* bytes grow by a third */
    bytes[1] = (uint8_t)(n >> 24);
    bytes[2] = (uint8_t)(n >> 16);
    bytes[3] = (uint8_t)(n >> 8);
    bytes[4] = (uint8_t)n;
    assert_int_equal(coapd_cbor_to_json(bytes, n + 5, &out, &size), -EMSGSIZE);
    assert_null(out);
    assert_int_equal(coapd_cbor_to_json(bytes, COAPD_CONVERT_MAX + 1, &out, &size), -EMSGSIZE);
    assert_int_equal(coapd_json_to_cbor(bytes, COAPD_CONVERT_MAX + 1, &out, &size), -EMSGSIZE);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways), cmocka_unit_test(test_what_only_cbor_has),
        cmocka_unit_test(test_refused),   cmocka_unit_test(test_refused_json),
        cmocka_unit_test(test_sizes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
