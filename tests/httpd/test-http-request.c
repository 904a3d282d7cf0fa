/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "http-condition.h"
#include "http-request.h"

static http_span span(const char *s)
{
    return (http_span){s, strlen(s)};
}

static void check_target(const char *target, int expected, const char *path, const char *query)
{
    char buffer[HTTP_PATH_MAX + 1];
    http_span q;
    size_t size;

    assert_int_equal(http_target_parse(span(target), buffer, &size, &q), expected);
    if (expected < 0)
        return;
    assert_string_equal(buffer, path);
    assert_int_equal(size, strlen(path));
    assert_int_equal(q.size, strlen(query));
    assert_memory_equal(q.base, query, q.size);
}

static void test_target(void **state)
{
    check_target("/", 0, "/", "");
    check_target("/a/b?c=d%20e?f", 0, "/a/b", "c=d%20e?f");
    check_target("/a//b/", 0, "/a//b/", "");
    check_target("/%61", 0, "/a", "");
    check_target("/%2561", 0, "/%61", "");
    check_target("/a/./b/../c/.", 0, "/a/c/", "");
    check_target("/a/b/..", 0, "/a/", "");
    check_target("/../../..", 0, "/", "");
    check_target("/a/%2e%2e/b", 0, "/b", "");
    check_target("/a/%2e%2E%2fb", 0, "/b", "");
    check_target("/a%2fb", 0, "/a/b", "");
    check_target("/...", 0, "/...", "");
    check_target("/%c3%a9", 0, "/\xc3\xa9", "");
    check_target("/%23", 0, "/#", "");
}

static void test_target_refused(void **state)
{
    static const char *const bad[] = {
        "",           "*",    "a",      "http://x/",  "/%",           "/%4",
        "/%4g",       "/%00", "/%0a",   "/%7f",       "/%ff",         "/%c0%ae",
        "/%ed%a0%80", "/#",   "/?a\tb", "/?\xc3\xa9", "/%f4%90%80%80"};
    char long_path[HTTP_PATH_MAX + 3];

    for (size_t i = 0; i < ELEMENTS(bad); i++)
        check_target(bad[i], -EINVAL, NULL, NULL);
    memset(long_path, 'a', sizeof(long_path));
    long_path[0] = '/';
    long_path[sizeof(long_path) - 1] = '\0';
    check_target(long_path, -ENAMETOOLONG, NULL, NULL);
    long_path[HTTP_PATH_MAX] = '\0';
    check_target(long_path, 0, long_path, "");
}

static void check_head(const char *head, int expected, bool expected_body)
{
    bool body = !expected_body;

    assert_int_equal(http_head_check(head, strlen(head), &body), expected);
    if (expected == 0)
        assert_int_equal(body, expected_body);
}

static void test_head(void **state)
{
    check_head("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0, false);
    check_head("GET / HTTP/1.0\r\n\r\n", 0, false);
    check_head("GET / HTTP/1.1\r\nHOST:\ta \r\nX: \r\n\r\nmore\nafter", 0, false);
    check_head("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", 0, true);
    check_head("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n", 0, true);
}

static void test_head_refused(void **state)
{
    static const char *const bad[] = {
        "",
        "GET / HTTP/1.1",
        "GET / HTTP/1.1\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / x HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n",
        "G\tT / HTTP/1.1\r\nHost: a\r\n\r\n",
        "P / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "P / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        "P / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
        "P / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "P / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "P / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0b"
        "chunked\r\n\r\n",
        "P / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"};

    for (size_t i = 0; i < ELEMENTS(bad); i++)
        check_head(bad[i], -EBADMSG, false);
}

static void check_authority(const char *text, int expected, const char *host, uint16_t port)
{
    http_span h;
    uint16_t p;

    assert_int_equal(http_authority_parse(span(text), &h, &p), expected);
    if (expected < 0)
        return;
    assert_true(http_span_is(h, host));
    assert_int_equal(p, port);
}

static void test_authority(void **state)
{
    check_authority("localhost", 0, "localhost", 0);
    check_authority("127.0.0.1:8443", 0, "127.0.0.1", 8443);
    check_authority("[::1]:80", 0, "::1", 80);
    check_authority("[::1]", 0, "::1", 0);
    check_authority("", -EINVAL, NULL, 0);
    check_authority("a:", -EINVAL, NULL, 0);
    check_authority("a:0", -EINVAL, NULL, 0);
    check_authority("a:65536", -EINVAL, NULL, 0);
    check_authority("a:1:2", -EINVAL, NULL, 0);
    check_authority("[::1]x", -EINVAL, NULL, 0);
    check_authority("user@a", -EINVAL, NULL, 0);
    check_authority("a b", -EINVAL, NULL, 0);
}

static void test_fields(void **state)
{
    static const char *const kept[] = {
        "authorization",   "cookie",    "proxy-authorization", "te",
        "x-forwarded-for", "forwarded", "connection",          "bad name",
        ":handle",         ""};
    static const char *const answers[] = {"set-cookie",
                                          "connection",
                                          "access-control-allow-origin",
                                          "content-security-policy-report-only",
                                          "clear-site-data",
                                          "strict-transport-security",
                                          "service-worker-allowed",
                                          "transfer-encoding",
                                          "a\r\nb"};

    for (size_t i = 0; i < ELEMENTS(kept); i++)
        assert_false(http_field_is_forwarded(span(kept[i])));
    for (size_t i = 0; i < ELEMENTS(answers); i++)
        assert_false(http_field_is_returned(span(answers[i])));
    assert_true(http_field_is_forwarded(span("accept")));
    assert_true(http_field_is_forwarded(span("x-thing")));
    assert_true(http_field_is_returned(span("etag")));
    assert_true(http_field_is_returned(span("content-type")));
}

static void test_bearer(void **state)
{
    http_span token;

    assert_true(http_bearer_parse(span("bEARER  abc.-_~+/= "), &token));
    assert_true(http_span_is(token, "abc.-_~+/="));
    assert_false(http_bearer_parse(span("Bearer "), &token));
    assert_false(http_bearer_parse(span("Bearer a b"), &token));
    assert_false(http_bearer_parse(span("Basic abc"), &token));
    assert_false(http_bearer_parse(span("Bearer"), &token));
}

static void test_cookies(void **state)
{
    http_span value;

    assert_int_equal(http_cookie_find(span("a=b; __Host-x=hys_abc-_ ; c=d"), "__Host-x", &value),
                     1);
    assert_true(http_span_is(value, "hys_abc-_"));
    assert_int_equal(http_cookie_find(span("__Host-x=1"), "__Host-x", &value), 1);
    assert_int_equal(http_cookie_find(span(""), "__Host-x", &value), 0);
    assert_int_equal(http_cookie_find(span("__Host-xy=1; x__Host-x=2; __host-x=3; __Host-x"),
                                      "__Host-x", &value),
                     0);
    /* Whoever could set one beside ours would choose the session. */
    assert_int_equal(http_cookie_find(span("__Host-x=1; __Host-x=2"), "__Host-x", &value),
                     -EBADMSG);
    assert_int_equal(http_cookie_find(span("__Host-x="), "__Host-x", &value), -EBADMSG);
    assert_int_equal(http_cookie_find(span("__Host-x=\"1\""), "__Host-x", &value), -EBADMSG);
    assert_int_equal(http_cookie_find(span("__Host-x=a b"), "__Host-x", &value), -EBADMSG);
}

static void test_forms(void **state)
{
    char value[8];

    assert_int_equal(http_form_find(span("user=al%20ice+&x=1"), "user", value, sizeof(value)), 0);
    assert_string_equal(value, "al ice ");
    assert_int_equal(http_form_find(span("x=1&user=a+b%2b%C3%A4"), "user", value, sizeof(value)),
                     0);
    assert_string_equal(value, "a b+\xc3\xa4");
    assert_int_equal(http_form_find(span("user="), "user", value, sizeof(value)), 0);
    assert_string_equal(value, "");
    assert_int_equal(http_form_find(span("user"), "user", value, sizeof(value)), -ENOENT);
    assert_int_equal(http_form_find(span("xuser=1&&user2=2"), "user", value, sizeof(value)),
                     -ENOENT);
    assert_int_equal(http_form_find(span("user=a&user=b"), "user", value, sizeof(value)), -EEXIST);
    assert_int_equal(http_form_find(span("user=a%00"), "user", value, sizeof(value)), -EINVAL);
    assert_int_equal(http_form_find(span("user=a%4"), "user", value, sizeof(value)), -EINVAL);
    assert_int_equal(http_form_find(span("user=a%zz"), "user", value, sizeof(value)), -EINVAL);
    assert_int_equal(http_form_find(span("user=1234567"), "user", value, sizeof(value)), 0);
    assert_int_equal(http_form_find(span("user=12345678"), "user", value, sizeof(value)),
                     -ENAMETOOLONG);
}

static void test_lists(void **state)
{
    assert_true(http_list_has(span("text/html, Text/Event-Stream;q=0.1"), "text/event-stream"));
    assert_false(http_list_has(span("text/event-stream;q=0.0"), "text/event-stream"));
    assert_false(http_list_has(span("text/event-stream; a=b; Q=0"), "text/event-stream"));
    assert_false(http_list_has(span("text/event-streams"), "text/event-stream"));
    assert_false(http_list_has(span(""), "text/event-stream"));
}

static void test_hpack_count(void **state)
{
    /* RFC 7541, C.3.1: four fields; C.4.1 the same with Huffman coding. */
    static const char plain[] = "\x82\x86\x84\x41\x0fwww.example.com";
    static const char huffman[] =
        "\x82\x86\x84\x41\x8c\xf1\xe3\xc2\xe5\xf2\x3a\x6b\xa0\xab\x90\xf4\xff";
    static const char literal[] = "\x00\x01"
                                  "a\x01"
                                  "b\x3f\x00\x40\x01"
                                  "c\x01"
                                  "d\x0f\x01\x01"
                                  "e";
    static const char longer[] = "\x00\x01"
                                 "a\x7f\x01"; /* 128 bytes, which are not there */

    assert_int_equal(http_hpack_count((const uint8_t *)plain, sizeof(plain) - 1), 4);
    assert_int_equal(http_hpack_count((const uint8_t *)huffman, sizeof(huffman) - 1), 4);
    assert_int_equal(http_hpack_count((const uint8_t *)literal, sizeof(literal) - 1), 4);
    assert_int_equal(http_hpack_count((const uint8_t *)longer, sizeof(longer) - 1), 1);
    assert_int_equal(http_hpack_count((const uint8_t *)"\xff\xff\xff\xff\xff\xff\x90", 7), 1);
    assert_int_equal(http_hpack_count((const uint8_t *)"\x90\x90\x90", 3), 3);
    assert_int_equal(http_hpack_count((const uint8_t *)"", 0), 0);
}

static void test_dates(void **state)
{
    static const char *const bad[] = {"",
                                      "yesterday",
                                      "Sun, 06 Nov 1994 08:49:37",
                                      "Sun, 06 Nov 1994 24:49:37 GMT",
                                      "Sun, 06 Nov 1994 08:49:37 GMT ",
                                      "Sun, 32 Nov 1994 08:49:37 GMT",
                                      "Sun, 6 Nov 1994 08:49:37 GMT",
                                      "Sun, 06 nov 1994 08:49:37 GMT",
                                      "Sun Nov 06 1994"};
    char buffer[HTTP_DATE_SIZE];
    int64_t seconds;

    assert_int_equal(http_date_parse(span("Sun, 06 Nov 1994 08:49:37 GMT"), &seconds), 0);
    assert_int_equal(seconds, 784111777);
    assert_string_equal(http_date_format(seconds, buffer), "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_int_equal(http_date_parse(span("Sunday, 06-Nov-94 08:49:37 GMT"), &seconds), 0);
    assert_int_equal(seconds, 784111777);
    assert_int_equal(http_date_parse(span("Sun Nov  6 08:49:37 1994"), &seconds), 0);
    assert_int_equal(seconds, 784111777);
    assert_int_equal(http_date_parse(span("Tue, 29 Feb 2028 00:00:00 GMT"), &seconds), 0);
    assert_string_equal(http_date_format(seconds, buffer), "Tue, 29 Feb 2028 00:00:00 GMT");
    for (size_t i = 0; i < ELEMENTS(bad); i++)
        assert_int_equal(http_date_parse(span(bad[i]), &seconds), -EINVAL);
    assert_null(http_date_format(INT64_MAX, buffer));
}

static void test_escape(void **state)
{
    char buffer[32];

    assert_string_equal(http_escape(span("a\n\"\\\xc3"), buffer, sizeof(buffer)),
                        "a\\x0a\\x22\\x5c\\xc3");
    assert_string_equal(http_escape(span("abcdefgh"), buffer, 8), "abc");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_target),    cmocka_unit_test(test_target_refused),
        cmocka_unit_test(test_head),      cmocka_unit_test(test_head_refused),
        cmocka_unit_test(test_authority), cmocka_unit_test(test_fields),
        cmocka_unit_test(test_bearer),    cmocka_unit_test(test_lists),
        cmocka_unit_test(test_cookies),   cmocka_unit_test(test_forms),
        cmocka_unit_test(test_escape),    cmocka_unit_test(test_hpack_count),
        cmocka_unit_test(test_dates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
