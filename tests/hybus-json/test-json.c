/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include "generate.h"
#include <cmocka.h>

/* text -> message -> text; NULL when the text was refused. */
static char *convert(const char *signature, const char *text, int *ret_error, hybus_json_error *e)
{
    sd_bus_message *m = message_new();
    json_t *json = NULL, *back = NULL;
    char *result = NULL;
    int r = hybus_json_load(text, strlen(text), &json, e);

    if (r >= 0)
        r = hybus_json_append(m, signature, json, e);
    if (r >= 0) {
        message_seal(m);
        assert_string_equal(strempty(sd_bus_message_get_signature(m, true)), signature);
        check_round_trip(m);
        assert_true(sd_bus_message_rewind(m, true) >= 0);
        r = hybus_json_read(m, &back, e);
    }
    if (r >= 0)
        r = hybus_json_dump(back, HYBUS_JSON_COMPACT, &result);
    *ret_error = r;
    json_decref(json);
    json_decref(back);
    sd_bus_message_unref(m);
    return result;
}

static void expect(const char *signature, const char *text, const char *wanted)
{
    hybus_json_error e = {};
    int r;
    char *result = convert(signature, text, &r, &e);

    if (r < 0 || !streq(result, wanted))
        print_message("%s %s -> %s %s\n", signature, text, strempty(result), strempty(e.message));
    assert_true(r >= 0);
    assert_string_equal(result, wanted);
    free(result);
    hybus_json_error_done(&e);
}

static void same(const char *signature, const char *text)
{
    expect(signature, text, text);
}

static void refuse(const char *signature, const char *text, int error, const char *message,
                   const char *expected)
{
    hybus_json_error e = {};
    int r;
    char *result = convert(signature, text, &r, &e);

    if (r != error || !e.message || !streq(e.message, message) || !streq(e.expected, expected))
        print_message("%s %s -> %d %s (%s)\n", signature, text, r, strempty(e.message), e.expected);
    assert_null(result);
    assert_int_equal(r, error);
    assert_string_equal(e.message, message);
    assert_string_equal(e.expected, expected);
    hybus_json_error_done(&e);
}

static void test_integers(void **state)
{
    same("y", "[0]");
    same("y", "[255]");
    same("n", "[-32768]");
    same("n", "[32767]");
    same("q", "[65535]");
    same("i", "[-2147483648]");
    same("i", "[2147483647]");
    same("u", "[4294967295]");
    same("x", "[9007199254740992]");
    same("x", "[-9007199254740992]");
    same("t", "[9007199254740992]");
    same("x", "[\"9007199254740993\"]");
    same("x", "[\"-9223372036854775808\"]");
    same("t", "[\"18446744073709551615\"]");
    expect("x", "[9007199254740993]", "[\"9007199254740993\"]");
    expect("x", "[-9223372036854775808]", "[\"-9223372036854775808\"]");
    expect("t", "[18446744073709551615]", "[\"18446744073709551615\"]");
    expect("t", "[ 9223372036854775808 ]", "[\"9223372036854775808\"]");
    expect("y", "[\"7\"]", "[7]");

    refuse("y", "[256]", -ERANGE, "$[0]: 256 is out of range for y (0..255)", "y");
    refuse("y", "[-1]", -ERANGE, "$[0]: -1 is out of range for y (0..255)", "y");
    refuse("n", "[32768]", -ERANGE, "$[0]: 32768 is out of range for n (-32768..32767)", "n");
    refuse("x", "[9223372036854775808]", -ERANGE,
           "$[0]: 9223372036854775808 is out of range for x "
           "(-9223372036854775808..9223372036854775807)",
           "x");
    refuse("t", "[18446744073709551616]", -ERANGE,
           "$[0]: 18446744073709551616 is out of range for t (0..18446744073709551615)", "t");
    refuse("t", "[-1]", -ERANGE, "$[0]: -1 is out of range for t (0..18446744073709551615)", "t");
    refuse("u", "[1.0]", -EINVAL, "$[0]: u needs a whole number or its decimal string, not 1.0",
           "u");
    refuse("u", "[\"01\"]", -EINVAL,
           "$[0]: u needs a whole number or its decimal string, not \"01\"", "u");
    refuse("u", "[\"+1\"]", -EINVAL,
           "$[0]: u needs a whole number or its decimal string, not \"+1\"", "u");
    refuse("u", "[\"\"]", -EINVAL, "$[0]: u needs a whole number or its decimal string, not \"\"",
           "u");
    refuse("u", "[\"-0\"]", -EINVAL,
           "$[0]: u needs a whole number or its decimal string, not \"-0\"", "u");
    refuse("u", "[true]", -EINVAL, "$[0]: u needs a whole number or its decimal string, not true",
           "u");
}

static void test_others(void **state)
{
    same("bb", "[true,false]");
    same("d", "[0.10000000000000001]");
    same("d", "[\"NaN\"]");
    same("dd", "[\"Infinity\",\"-Infinity\"]");
    same("d", "[-0.0]");
    expect("d", "[1]", "[1.0]");
    expect("d", "[18446744073709551616]", "[1.8446744073709552e19]");
    same("s", "[\"\"]");
    same("s", "[\"\xc3\xa9\"]");
    same("og", "[\"/\",\"a{sv}\"]");
    same("ay", "[\"AAEC/w==\"]");
    same("ay", "[\"\"]");
    expect("ay", "[[0,1,2,255]]", "[\"AAEC/w==\"]");
    same("aay", "[[\"AA==\",\"\"]]");
    same("", "[]");

    refuse("b", "[1]", -EINVAL, "$[0]: b needs true or false, not 1", "b");
    refuse("b", "[null]", -EINVAL, "$[0]: b needs true or false, not null", "b");
    refuse("s", "[18446744073709551616]", -EINVAL,
           "$[0]: s needs a string, not 18446744073709551616", "s");
    refuse("o", "[\"a\"]", -EINVAL, "$[0]: \"a\" is not an object path", "o");
    refuse("g", "[\"a\"]", -EINVAL, "$[0]: \"a\" is not a signature", "g");
    refuse("h", "[0]", -EOPNOTSUPP, "$[0]: file descriptors cannot be written as JSON", "h");
    refuse("ay", "[\"AA\"]", -EINVAL, "$[0]: the string is not base64", "ay");
    refuse("ay", "[\"AB==\"]", -EINVAL, "$[0]: the string is not base64", "ay");
    refuse("ay", "[\"A===\"]", -EINVAL, "$[0]: the string is not base64", "ay");
    refuse("ay", "[\"AA==AA==\"]", -EINVAL, "$[0]: the string is not base64", "ay");
    refuse("ay", "[[256]]", -ERANGE, "$[0][0]: 256 is out of range for y (0..255)", "y");
    refuse("ay", "[1]", -EINVAL, "$[0]: ay needs base64 or an array, not 1", "ay");
    refuse("d", "[\"nan\"]", -EINVAL,
           "$[0]: d needs a number, \"NaN\", \"Infinity\" or \"-Infinity\", not \"nan\"", "d");
}

static void test_containers(void **state)
{
    same("a{sv}", "[{\"foo\":{\"type\":\"u\",\"value\":7}}]");
    same("a{us}", "[{\"1\":\"a\",\"2\":\"b\"}]");
    same("a{tb}", "[{\"18446744073709551615\":true}]");
    same("a{bs}", "[{\"true\":\"x\",\"false\":\"y\"}]");
    same("a{ds}", "[{\"0.5\":\"x\",\"NaN\":\"y\",\"-Infinity\":\"z\"}]");
    same("a{oas}", "[{\"/a\":[]}]");
    same("(s(iu)av)", "[[\"a\",[-1,1],[]]]");
    same("aa{s(ay)}", "[[{},{\"k\":[\"AA==\"]}]]");
    same("v", "[{\"type\":\"v\",\"value\":{\"type\":\"as\",\"value\":[]}}]");

    refuse("a{sy}", "[{\"foo\":256}]", -ERANGE, "$[0].foo: 256 is out of range for y (0..255)",
           "y");
    refuse("a{sy}", "[{\"a b\":256}]", -ERANGE, "$[0][\"a b\"]: 256 is out of range for y (0..255)",
           "y");
    refuse("a{us}", "[{\"01\":\"a\"}]", -EINVAL,
           "$[0][\"01\"]: u needs a whole number or its decimal string, not \"01\"", "u");
    refuse("a{bs}", "[{\"1\":\"a\"}]", -EINVAL, "$[0][\"1\"]: the key is no b", "b");
    refuse("a{os}", "[{\"x\":\"a\"}]", -EINVAL, "$[0].x: \"x\" is not an object path", "o");
    refuse("a{sv}", "[[]]", -EINVAL, "$[0]: a{sv} needs an object, not an array", "a{sv}");
    refuse("as", "[{}]", -EINVAL, "$[0]: as needs an array, not an object", "as");
    refuse("(ii)", "[[1]]", -EINVAL, "$[0]: 2 values expected (ii), not 1", "ii");
    refuse("su", "[\"a\"]", -EINVAL, "$: 2 values expected (su), not 1", "su");
    refuse("s", "[]", -EINVAL, "$: 1 value expected (s), not 0", "s");
    refuse("", "[1]", -EINVAL, "$: 0 values expected (), not 1", "");
    refuse("s", "{}", -EINVAL, "$: s needs an array, not an object", "s");
    refuse("z", "[1]", -EINVAL, "$: the signature is not valid", "");
    refuse("ah", "[[3]]", -EOPNOTSUPP, "$[0][0]: file descriptors cannot be written as JSON", "h");
    same("ah", "[[]]");
}

static void test_variants(void **state)
{
    expect("v", "[\"a\"]", "[{\"type\":\"s\",\"value\":\"a\"}]");
    expect("v", "[true]", "[{\"type\":\"b\",\"value\":true}]");
    expect("v", "[1]", "[{\"type\":\"i\",\"value\":1}]");
    expect("v", "[-2147483648]", "[{\"type\":\"x\",\"value\":-2147483648}]");
    expect("v", "[2147483648]", "[{\"type\":\"x\",\"value\":2147483648}]");
    expect("v", "[18446744073709551615]", "[{\"type\":\"t\",\"value\":\"18446744073709551615\"}]");
    expect("v", "[0.5]", "[{\"type\":\"d\",\"value\":0.5}]");
    expect("v", "[[\"a\",\"b\"]]", "[{\"type\":\"as\",\"value\":[\"a\",\"b\"]}]");
    expect("v", "[[1,2147483648]]", "[{\"type\":\"ax\",\"value\":[1,2147483648]}]");
    expect("v", "[{\"a\":1}]",
           "[{\"type\":\"a{sv}\",\"value\":{\"a\":{\"type\":\"i\",\"value\":1}}}]");
    expect("v", "[{}]", "[{\"type\":\"a{sv}\",\"value\":{}}]");

    refuse("v", "[null]", -EINVAL,
           "$[0]: the type cannot be told; write {\"type\": \"…\", \"value\": …}", "v");
    refuse("v", "[[]]", -EINVAL,
           "$[0]: the type cannot be told; write {\"type\": \"…\", \"value\": …}", "v");
    refuse("v", "[[1,\"a\"]]", -EINVAL,
           "$[0]: the type cannot be told; write {\"type\": \"…\", \"value\": …}", "v");
    refuse("v", "[[1,-18446744073709551615]]", -EINVAL,
           "$[0]: the type cannot be told; write {\"type\": \"…\", \"value\": …}", "v");
    refuse("v", "[{\"type\":\"ss\",\"value\":1}]", -EINVAL,
           "$[0].type: v needs one complete type here, not \"ss\"", "v");
    refuse("v", "[{\"type\":\"y\",\"value\":256}]", -ERANGE,
           "$[0].value: 256 is out of range for y (0..255)", "y");
    refuse("v", "[{\"type\":\"h\",\"value\":0}]", -EOPNOTSUPP,
           "$[0].value: file descriptors cannot be written as JSON", "h");
}

static void test_text(void **state)
{
    hybus_json_error e = {};
    json_t *json = NULL;
    char *text, *example;

    refuse("v", "[{\"a\":1,\"a\":2}]", -EBADMSG,
           "$: not JSON, line 1 column 11: duplicate object key near '\"a\"'", "");
    refuse("s", "[\"a\\u0000b\"]", -EBADMSG, "$: \\u0000 is not accepted", "");
    refuse("v", "[{\"a\\u0000\":1}]", -EBADMSG, "$: \\u0000 is not accepted", "");
    same("s", "[\"\\\\u0000\"]"); /* a backslash and six letters */
    assert_int_equal(hybus_json_load("[\"\xff\"]", 5, &json, &e), -EBADMSG);
    hybus_json_error_done(&e);
    assert_int_equal(hybus_json_load("[\"\0\"]", 5, &json, &e), -EBADMSG);
    hybus_json_error_done(&e);
    assert_int_equal(hybus_json_load("[1] x", 5, &json, &e), -EBADMSG);
    hybus_json_error_done(&e);

    text = calloc(1, HYBUS_JSON_TEXT_DEPTH_MAX + 2);
    memset(text, '[', HYBUS_JSON_TEXT_DEPTH_MAX + 1);
    assert_int_equal(hybus_json_load(text, strlen(text), &json, &e), -E2BIG);
    hybus_json_error_done(&e);
    free(text);
    text = malloc(HYBUS_JSON_TEXT_MAX + 1);
    memset(text, ' ', HYBUS_JSON_TEXT_MAX + 1);
    assert_int_equal(hybus_json_load(text, HYBUS_JSON_TEXT_MAX + 1, &json, &e), -E2BIG);
    hybus_json_error_done(&e);
    free(text);

    /* What a terminal would obey is escaped, and reads back as the same string. */
    json = json_string("a\x1b[\x7f\xc2\x9b\xe2\x80\xae\xe2\x81\xa6\xd8\x9c\xc3\xa9\xe2\x82\xac");
    assert_int_equal(hybus_json_dump(json, HYBUS_JSON_COMPACT, &text), 0);
    assert_string_equal(text,
                        "\"a\\u001B[\\u007F\\u009B\\u202E\\u2066\\u061C\xc3\xa9\xe2\x82\xac\"");
    json_decref(json);
    free(text);

    /* Every example is accepted by its own signature. */
    static const char *const signatures[] = {"", "ybnqiuxtdsogv", "ayaayas(sa{sv})",
                                             "a{os}a{gs}a{bs}a{ys}a{du}"};
    for (size_t i = 0; i < ELEMENTS(signatures); i++) {
        int r;

        assert_int_equal(hybus_json_example(signatures[i], &example), 0);
        text = convert(signatures[i], example, &r, &e);
        if (r < 0)
            print_message("%s: %s\n", example, strempty(e.message));
        assert_non_null(text);
        free(text);
        free(example);
    }
    assert_int_equal(hybus_json_example("a", &example), -EINVAL);
}

static void test_limits(void **state)
{
    sd_bus_message *m = message_new();
    hybus_json_error e = {};
    json_t *json = NULL, *many = json_array(), *args = json_array();
    uint32_t u = 1;

    /* 65 variants in each other can be made by hand, but not read. */
    for (unsigned i = 0; i < HYBUS_JSON_DEPTH_MAX; i++)
        check_ok(sd_bus_message_open_container(m, 'v', i + 1 < HYBUS_JSON_DEPTH_MAX ? "v" : "as"));
    check_ok(sd_bus_message_open_container(m, 'a', "s"));
    check_ok(sd_bus_message_close_container(m));
    for (unsigned i = 0; i < HYBUS_JSON_DEPTH_MAX; i++)
        check_ok(sd_bus_message_close_container(m));
    message_seal(m);
    assert_int_equal(hybus_json_read(m, &json, &e), -E2BIG);
    assert_non_null(strstr(e.message, "containers in each other"));
    hybus_json_error_done(&e);
    sd_bus_message_unref(m);

    m = message_new();
    for (unsigned i = 0; i < HYBUS_JSON_VALUES_MAX; i++)
        json_array_append_new(many, json_integer(1));
    json_array_append_new(args, many);
    assert_int_equal(hybus_json_append(m, "ai", args, &e), -E2BIG);
    hybus_json_error_done(&e);
    sd_bus_message_unref(m);
    json_decref(args);

    m = message_new();
    check_ok(sd_bus_message_open_container(m, 'a', "u"));
    for (unsigned i = 0; i < HYBUS_JSON_VALUES_MAX; i++)
        check_ok(sd_bus_message_append_basic(m, 'u', &u));
    check_ok(sd_bus_message_close_container(m));
    message_seal(m);
    assert_int_equal(hybus_json_read(m, &json, &e), -E2BIG);
    hybus_json_error_done(&e);
    sd_bus_message_unref(m);

    /* A dictionary may say a key twice; an object may not. */
    m = message_new();
    check_ok(sd_bus_message_append(m, "a{ss}", 2, "k", "1", "k", "2"));
    message_seal(m);
    assert_int_equal(hybus_json_read(m, &json, &e), -EBADMSG);
    assert_string_equal(e.message, "$[0].k: the key is there twice");
    hybus_json_error_done(&e);
    sd_bus_message_unref(m);

    m = message_new();
    check_ok(sd_bus_message_append(m, "h", 0));
    message_seal(m);
    assert_int_equal(hybus_json_read(m, &json, &e), -EOPNOTSUPP);
    hybus_json_error_done(&e);
    sd_bus_message_unref(m);
}

static void test_random(void **state)
{
    for (uint64_t seed = 1; seed <= 20000; seed++) {
        source s = {.seed = seed * 0x9e3779b97f4a7c15u};
        sd_bus_message *m = message_new();
        char type[HYBUS_SIGNATURE_MAX + 1];

        for (int i = 0; i < 3; i++) {
            type[generate_type(&s, type, 40, 0)] = 0;
            assert_true(hybus_signature_is_single(type));
            generate_value(&s, m, type, 0);
        }
        message_seal(m);
        check_round_trip(m);
        sd_bus_message_unref(m);
    }
}

static void test_base64(void **state)
{
    static const char *const pairs[][2] = {/* RFC 4648, section 10 */
                                           {"", ""},
                                           {"f", "Zg=="},
                                           {"fo", "Zm8="},
                                           {"foo", "Zm9v"},
                                           {"foob", "Zm9vYg=="},
                                           {"fooba", "Zm9vYmE="},
                                           {"foobar", "Zm9vYmFy"}};

    for (size_t i = 0; i < ELEMENTS(pairs); i++) {
        char *text;
        void *data;
        size_t size;

        assert_int_equal(hybus_base64_encode(pairs[i][0], strlen(pairs[i][0]), &text), 0);
        assert_string_equal(text, pairs[i][1]);
        assert_int_equal(hybus_base64_decode(text, strlen(text), &data, &size), 0);
        assert_int_equal(size, strlen(pairs[i][0]));
        assert_memory_equal(data, pairs[i][0], size);
        free(text);
        free(data);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_integers),   cmocka_unit_test(test_others),
        cmocka_unit_test(test_containers), cmocka_unit_test(test_variants),
        cmocka_unit_test(test_text),       cmocka_unit_test(test_limits),
        cmocka_unit_test(test_random),     cmocka_unit_test(test_base64),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
