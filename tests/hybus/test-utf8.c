/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <hybus/utf8.h>

static void encode(uint32_t c, unsigned char out[4], size_t *ret_size)
{
    static const unsigned char first[] = {0, 0, 0xc0, 0xe0, 0xf0};
    size_t n = c < 0x80 ? 1 : c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;

    for (size_t i = n; i-- > 1; c >>= 6)
        out[i] = (unsigned char)(0x80 | (c & 0x3f));
    out[0] = (unsigned char)(first[n] | c);
    *ret_size = n;
}

/* Every code point there is, and the surrogates, which are none. */
static void test_code_points(void **state)
{
    unsigned char s[4];
    size_t n;

    for (uint32_t c = 0; c <= 0x1fffff; c++) {
        bool good = c <= 0x10ffff && (c < 0xd800 || c > 0xdfff);

        encode(c, s, &n);
        assert_int_equal(hybus_utf8_sequence((char *)s, n), good ? n : 0);
        if (n > 1)
            assert_int_equal(hybus_utf8_sequence((char *)s, n - 1), 0);
    }
}

static void test_broken(void **state)
{
    static const char *const broken[] = {
        "\x80",  "\xff",      "\xc0\x80",  "\xc1\xbf",  "\xe0\x9f\xbf",  "\xf0\x8f\xbf\xbf",
        "\xc3(", "a\xe2\x82", "\xe2(\x80", "\xe2\x82(", "\xf0\x90\x80(", "\xf8\x88\x80\x80\x80"};

    for (size_t i = 0; i < ELEMENTS(broken); i++)
        assert_false(hybus_utf8_is_valid(broken[i], strlen(broken[i])));
    assert_true(hybus_utf8_is_valid("", 0));
    assert_true(hybus_utf8_is_valid("gr\xc3\xbc\xc3\x9f dich \xf0\x9f\x8c\x8d", 16));
    assert_true(hybus_utf8_is_valid("a\0b", 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_code_points),
        cmocka_unit_test(test_broken),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
