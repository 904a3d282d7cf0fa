/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire.h"

static void test_frame_round_trip(void **state)
{
    struct buffer b = {0};
    size_t at = wire_begin(&b);
    wire_put_field(&b, ":namespace", "/thermo");
    wire_put_field(&b, "accept", "");
    wire_finish(&b, at, CHANNEL_REGISTER, CHANNEL_END, 404, 0x01020304, 0xfffffffe);
    wire_put(&b, CHANNEL_DATA, 0, 0, 7, 0, "body", 4);

    struct frame f;
    for (size_t i = 0; i < CHANNEL_HEADER_SIZE + 31; i++)
        assert_int_equal(wire_next(b.data, i, &f), 0);
    int n = wire_next(b.data, b.end, &f);
    assert_int_equal(n, CHANNEL_HEADER_SIZE + 4 + 10 + 7 + 4 + 6);
    assert_int_equal(f.type, CHANNEL_REGISTER);
    assert_int_equal(f.flags, CHANNEL_END);
    assert_int_equal(f.code, 404);
    assert_int_equal(f.stream, 0x01020304);
    assert_int_equal(f.value, 0xfffffffe);
    assert_int_equal(wire_check_fields(f.payload, f.length), 2);
    struct field v;
    assert_true(wire_find(f.payload, f.length, "accept", &v));
    assert_int_equal(v.value_size, 0);
    assert_false(wire_find(f.payload, f.length, "accep", &v));
    assert_int_equal(wire_next(b.data + n, b.end - (size_t)n, &f), CHANNEL_HEADER_SIZE + 4);
    assert_memory_equal(f.payload, "body", 4);
    buffer_done(&b);
}

static void test_header_is_little_endian(void **state)
{
    static const uint8_t expected[] = {2, 0, 0, 0, 0x22, 1, 0xc8, 0,   3,
                                       0, 0, 0, 1, 2,    0, 0,    'o', 'k'};
    struct buffer b = {0};
    wire_put(&b, CHANNEL_RESPONSE, CHANNEL_END, 200, 3, 0x201, "ok", 2);
    assert_int_equal(buffer_used(&b), sizeof(expected));
    assert_memory_equal(b.data, expected, sizeof(expected));
    buffer_done(&b);
}

static void test_too_long_is_refused(void **state)
{
    uint8_t header[CHANNEL_HEADER_SIZE] = {1, 0, 1, 0, CHANNEL_DATA};
    struct frame f;
    assert_int_equal(wire_next(header, sizeof(header), &f), -EBADMSG);
    header[0] = 0; /* exactly 65,536: not refused, only incomplete */
    assert_int_equal(wire_next(header, sizeof(header), &f), 0);
}

static void test_broken_fields(void **state)
{
    static const uint8_t cut[] = {1, 0, 5, 0, 'a', 'b'}, no_name[] = {0, 0, 1, 0, 'x'},
                         tail[] = {1, 0, 0};
    assert_int_equal(wire_check_fields(cut, sizeof(cut)), -EBADMSG);
    assert_int_equal(wire_check_fields(no_name, sizeof(no_name)), -EBADMSG);
    assert_int_equal(wire_check_fields(tail, sizeof(tail)), -EBADMSG);

    struct buffer b = {0};
    for (unsigned i = 0; i < CHANNEL_FIELDS_MAX; i++)
        wire_put_field(&b, "a", "b");
    assert_int_equal(wire_check_fields(b.data, b.end), CHANNEL_FIELDS_MAX);
    wire_put_field(&b, "a", "b");
    assert_int_equal(wire_check_fields(b.data, b.end), -EBADMSG);
    buffer_done(&b);
}

static void test_frame_survives_moving(void **state)
{
    struct buffer b = {0};
    char large[5000];
    memset(large, 'x', sizeof(large));
    wire_put(&b, CHANNEL_PING, 0, 0, 0, 0, NULL, 0);
    wire_put(&b, CHANNEL_PING, 0, 0, 0, 0, NULL, 0);
    buffer_consume(&b, CHANNEL_HEADER_SIZE);
    size_t at = wire_begin(&b);
    buffer_put(&b, large, sizeof(large)); /* moves and grows */
    wire_finish(&b, at, CHANNEL_DATA, 0, 0, 1, 0);
    buffer_consume(&b, CHANNEL_HEADER_SIZE);
    struct frame f;
    assert_int_equal(wire_next(b.data + b.start, buffer_used(&b), &f),
                     CHANNEL_HEADER_SIZE + sizeof(large));
    assert_int_equal(f.type, CHANNEL_DATA);
    assert_memory_equal(f.payload, large, sizeof(large));
    buffer_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frame_round_trip),
        cmocka_unit_test(test_header_is_little_endian),
        cmocka_unit_test(test_too_long_is_refused),
        cmocka_unit_test(test_broken_fields),
        cmocka_unit_test(test_frame_survives_moving),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
