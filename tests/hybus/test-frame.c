/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <sys/socket.h>

#include <cmocka.h>

#include <hybus/frame.h>

static void pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
}

static void test_header(void **state)
{
    /* The layout as the protocol page gives it, byte for byte. */
    static const uint8_t expected[] = {0x03, 0x02, 0x00, 0x00, 0x22, 0x01, 0x94, 0x01,
                                       0x05, 0x00, 0x00, 0x80, 0x78, 0x56, 0x34, 0x12};
    hybus_frame in = {.size = 0x203,
                      .type = 0x22,
                      .flags = 1,
                      .code = 404,
                      .stream = 0x80000005,
                      .value = 0x12345678},
                out;
    uint8_t header[HYBUS_FRAME_HEADER_SIZE];

    hybus_frame_header_encode(&in, header);
    assert_memory_equal(header, expected, sizeof(expected));
    assert_int_equal(hybus_frame_header_decode(header, &out), 0);
    assert_int_equal(out.size, in.size);
    assert_int_equal(out.type, in.type);
    assert_int_equal(out.flags, in.flags);
    assert_int_equal(out.code, in.code);
    assert_int_equal(out.stream, in.stream);
    assert_int_equal(out.value, in.value);

    in.size = HYBUS_FRAME_PAYLOAD_MAX;
    hybus_frame_header_encode(&in, header);
    assert_int_equal(hybus_frame_header_decode(header, &out), 0);
    in.size = HYBUS_FRAME_PAYLOAD_MAX + 1;
    hybus_frame_header_encode(&in, header);
    assert_int_equal(hybus_frame_header_decode(header, &out), -EBADMSG);
}

static void test_round_trip(void **state)
{
    hybus_frame_queue queue = {.max = 1 << 20};
    hybus_frame_reader reader = {.max = 1 << 20};
    _cleanup_(freep) char *value = NULL;
    hybus_frame_fields fields;
    hybus_frame_field field;
    hybus_frame frame;
    const uint8_t *body;
    size_t size;
    int fds[2];

    pair(fds);
    hybus_frame_begin(&queue, 0x20, 1, 0, 7, 0);
    hybus_frame_put(&queue, ":path", "/thermo");
    hybus_frame_put(&queue, ":none", NULL);
    hybus_frame_put_number(&queue, ":deadline", UINT64_MAX);
    hybus_frame_put(&queue, "empty", "");
    hybus_frame_put_body(&queue, "body\0here", 9);
    assert_int_equal(hybus_frame_end(&queue), 0);
    assert_int_equal(hybus_frame_queue_add(&queue, &(hybus_frame){.type = 0x03, .value = 42}), 0);
    assert_int_equal(hybus_frame_queue_flush(&queue, fds[0]), 1);
    assert_int_equal(hybus_frame_queue_pending(&queue), 0);

    assert_true(hybus_frame_reader_fill(&reader, fds[1]) > 0);
    assert_int_equal(hybus_frame_reader_next(&reader, &frame), 1);
    assert_int_equal(frame.type, 0x20);
    assert_int_equal(frame.stream, 7);
    assert_int_equal(hybus_frame_split(&frame, &fields, &body, &size), 0);
    assert_int_equal(size, 9);
    assert_memory_equal(body, "body\0here", 9);
    assert_int_equal(hybus_frame_fields_next(&fields, &field), 1);
    assert_true(hybus_frame_field_is(&field, ":path"));
    assert_false(hybus_frame_field_is(&field, ":pat"));
    assert_false(hybus_frame_field_is(&field, ":path2"));
    assert_int_equal(hybus_frame_field_string(&field, 6, &value), -EBADMSG);
    assert_int_equal(hybus_frame_field_string(&field, 7, &value), 0);
    assert_string_equal(value, "/thermo");
    assert_int_equal(hybus_frame_fields_next(&fields, &field), 1);
    assert_memory_equal(field.value, "18446744073709551615", 20);
    assert_int_equal(hybus_frame_fields_next(&fields, &field), 1);
    assert_int_equal(field.value_size, 0);
    assert_int_equal(hybus_frame_fields_next(&fields, &field), 0);
    assert_int_equal(hybus_frame_reader_next(&reader, &frame), 1);
    assert_int_equal(frame.type, 0x03);
    assert_int_equal(frame.value, 42);
    assert_int_equal(hybus_frame_reader_next(&reader, &frame), 0);
    assert_null(reader.buffer); /* idle: no memory held */

    assert_int_equal(hybus_frame_reader_fill(&reader, fds[1]), -EAGAIN);
    assert_null(reader.buffer);
    close(fds[0]);
    assert_int_equal(hybus_frame_reader_fill(&reader, fds[1]), 0);
    close(fds[1]);
    hybus_frame_reader_done(&reader);
    hybus_frame_queue_done(&queue);
}

static void test_byte_by_byte(void **state)
{
    hybus_frame_queue queue = {.max = 1 << 20};
    hybus_frame_reader reader = {.max = HYBUS_FRAME_MAX};
    hybus_frame frame;
    size_t n = 0;

    for (uint32_t i = 0; i < 5; i++) {
        hybus_frame_begin(&queue, 0x21, 0, 0, i, 0);
        hybus_frame_put(&queue, "name", "value");
        assert_int_equal(hybus_frame_end(&queue), 0);
    }
    for (size_t i = queue.start; i < queue.end; i++) {
        assert_int_equal(hybus_frame_reader_push(&reader, queue.buffer + i, 1), 0);
        if (hybus_frame_reader_next(&reader, &frame) == 1)
            assert_int_equal(frame.stream, n++);
    }
    assert_int_equal(n, 5);
    hybus_frame_reader_done(&reader);
    hybus_frame_queue_done(&queue);
}

/* Large frames through a socket whose buffer is smaller than what waits: partial writes and reads,
 * buffers that move and grow. */
static void test_large_stream(void **state)
{
    enum { FRAMES = 40 };
    hybus_frame_queue queue = {.max = FRAMES * HYBUS_FRAME_MAX};
    hybus_frame_reader reader = {.max = 2 * HYBUS_FRAME_MAX};
    _cleanup_(freep) uint8_t *payload = malloc(HYBUS_FRAME_PAYLOAD_MAX);
    uint32_t seen = 0;
    hybus_frame frame;
    int fds[2], flushed = 0;

    pair(fds);
    assert_non_null(payload);
    for (uint32_t i = 0; i < FRAMES; i++) {
        uint32_t size = i % 3 ? HYBUS_FRAME_PAYLOAD_MAX - i : i;
        memset(payload, (int)i, HYBUS_FRAME_PAYLOAD_MAX);
        assert_int_equal(
            hybus_frame_queue_add(
                &queue,
                &(hybus_frame){.type = 0x21, .stream = i, .size = size, .payload = payload}),
            0);
    }
    while (seen < FRAMES) {
        ssize_t n;
        if (flushed == 0)
            flushed = hybus_frame_queue_flush(&queue, fds[0]);
        assert_true(flushed >= 0);
        n = hybus_frame_reader_fill(&reader, fds[1]);
        assert_true(n > 0);
        while (hybus_frame_reader_next(&reader, &frame) == 1) {
            assert_int_equal(frame.stream, seen);
            assert_int_equal(frame.size, seen % 3 ? HYBUS_FRAME_PAYLOAD_MAX - seen : seen);
            for (uint32_t k = 0; k < frame.size; k++)
                if (frame.payload[k] != (uint8_t)seen)
                    fail_msg("frame %u differs at %u", seen, k);
            seen++;
        }
        assert_true(reader.end - reader.start <= reader.max);
    }
    assert_int_equal(flushed, 1);
    assert_null(queue.buffer);
    close(fds[0]);
    close(fds[1]);
    hybus_frame_reader_done(&reader);
    hybus_frame_queue_done(&queue);
}

static void test_reader_bounds(void **state)
{
    static const uint8_t too_long[HYBUS_FRAME_HEADER_SIZE] = {0x01, 0x00, 0x01, 0x00};
    hybus_frame_reader reader = {.max = HYBUS_FRAME_MAX};
    _cleanup_(freep) uint8_t *bytes = calloc(1, HYBUS_FRAME_MAX + 1);
    hybus_frame frame;
    int fds[2];

    pair(fds);
    assert_int_equal(hybus_frame_reader_push(&reader, too_long, sizeof(too_long)), 0);
    assert_int_equal(hybus_frame_reader_next(&reader, &frame), -EBADMSG);
    hybus_frame_reader_done(&reader);

    assert_int_equal(hybus_frame_reader_push(&reader, bytes, HYBUS_FRAME_MAX + 1), -ENOBUFS);
    assert_int_equal(hybus_frame_reader_push(&reader, bytes, HYBUS_FRAME_MAX), 0);
    assert_int_equal(hybus_frame_reader_push(&reader, bytes, 1), -ENOBUFS);
    assert_int_equal(hybus_frame_reader_fill(&reader, fds[0]), -ENOBUFS);
    hybus_frame_reader_done(&reader);
    close(fds[0]);
    close(fds[1]);
}

static int count_fields(const void *data, size_t size)
{
    hybus_frame_fields fields;
    hybus_frame_field field;
    int r, n = 0;

    hybus_frame_fields_init(&fields, data, size);
    while ((r = hybus_frame_fields_next(&fields, &field)) > 0)
        n++;
    return r < 0 ? r : n;
}

static void test_bad_fields(void **state)
{
    uint8_t many[(HYBUS_FRAME_FIELDS_MAX + 1) * 5];
    hybus_frame frame = {.size = 4, .value = 5, .payload = (const uint8_t *)"abcd"};
    hybus_frame_fields fields;
    hybus_frame_field nul = {.value = "a\0b", .value_size = 3};
    const uint8_t *body;
    char *s = NULL;
    size_t size;

    assert_int_equal(count_fields(NULL, 0), 0);
    assert_int_equal(count_fields("\1\0\1\0nv", 6), 1);
    assert_int_equal(count_fields("\1\0\1\0n", 5), -EBADMSG);   /* cut in the value */
    assert_int_equal(count_fields("\1\0\1", 3), -EBADMSG);      /* cut in the sizes */
    assert_int_equal(count_fields("\0\0\1\0v", 5), -EBADMSG);   /* no name */
    assert_int_equal(count_fields("\1\0\1\0Nv", 6), -EBADMSG);  /* upper case */
    assert_int_equal(count_fields("\1\0\1\0\nv", 6), -EBADMSG); /* control */
    assert_int_equal(count_fields("\xff\xff\xff\xffnv", 6), -EBADMSG);
    for (size_t i = 0; i < sizeof(many); i += 5)
        memcpy(many + i, "\1\0\0\0n", 5);
    assert_int_equal(count_fields(many, sizeof(many) - 5), HYBUS_FRAME_FIELDS_MAX);
    assert_int_equal(count_fields(many, sizeof(many)), -EBADMSG);
    assert_int_equal(hybus_frame_split(&frame, &fields, &body, &size), -EBADMSG);
    assert_int_equal(hybus_frame_field_string(&nul, 10, &s), -EBADMSG);
    assert_null(s);
}

/* Straight from memory, and what whoever writes or reads a frame may also need. */
static void test_parse(void **state)
{
    hybus_frame_queue queue = {.max = 1 << 20, .spare = 8192};
    hybus_frame_fields fields;
    hybus_frame_field field;
    hybus_frame frame;
    const uint8_t *body;
    char text[8];
    uint64_t n;
    size_t size;
    int fds[2];

    hybus_frame_begin(&queue, 0x22, 0, 200, 7, 0);
    hybus_frame_put(&queue, "X-Any", "1234567");
    hybus_frame_put_number(&queue, "n", 0);
    assert_int_equal(hybus_frame_size(&queue), 4 + 5 + 7 + 4 + 1 + 1);
    hybus_frame_put_body(&queue, "abc", 3);
    hybus_frame_set_flags(&queue, 1);
    assert_int_equal(hybus_frame_end(&queue), 0);
    hybus_frame_begin(&queue, 0x21, 0, 0, 9, 0);
    hybus_frame_put(&queue, "gone", "gone");
    hybus_frame_drop(&queue);

    size = hybus_frame_queue_pending(&queue);
    for (size_t i = 0; i < size; i++)
        assert_int_equal(hybus_frame_parse(queue.buffer, i, &frame), 0);
    assert_int_equal(hybus_frame_parse(queue.buffer, size + 1, &frame), size);
    assert_int_equal(hybus_frame_parse("\1\0\1\0000123456789ab", 16, &frame), -EBADMSG);
    assert_int_equal(frame.flags, 1);
    assert_int_equal(frame.code, 200);
    assert_int_equal(hybus_frame_split(&frame, &fields, &body, &size), 0);
    assert_int_equal(size, 3);
    assert_int_equal(hybus_frame_fields_next(&fields, &field), -EBADMSG);
    assert_int_equal(hybus_frame_split(&frame, &fields, &body, &size), 0);
    fields.any_name = true;
    assert_int_equal(hybus_frame_fields_next(&fields, &field), 1);
    assert_int_equal(hybus_frame_field_copy(&field, text, 7), -EBADMSG);
    assert_int_equal(hybus_frame_field_copy(&field, text, 8), 0);
    assert_string_equal(text, "1234567");
    assert_int_equal(hybus_frame_field_number(&field, 1234566, &n), -ERANGE);
    assert_int_equal(hybus_frame_field_number(&field, 1234567, &n), 0);
    assert_int_equal(n, 1234567);
    assert_int_equal(hybus_frame_fields_next(&fields, &field), 1);
    assert_memory_equal(field.value, "0", field.value_size);

    /* An empty buffer of the size that was asked for is kept, a larger one is not. */
    pair(fds);
    assert_int_equal(hybus_frame_queue_flush(&queue, fds[0]), 1);
    assert_non_null(queue.buffer);
    hybus_frame_begin(&queue, 0x21, 0, 0, 9, 0);
    for (int i = 0; i < 9; i++)
        hybus_frame_put_field(&queue, "n", 1, (const char[1024]){0}, 1024);
    assert_int_equal(hybus_frame_end(&queue), 0);
    assert_int_equal(hybus_frame_queue_flush(&queue, fds[0]), 1);
    assert_null(queue.buffer);
    assert_int_equal(queue.spare, 8192);
    close(fds[0]);
    close(fds[1]);
}

static void test_numbers(void **state)
{
    static const char *const bad[] = {
        "", "x", "1x", "-1", "+1", " 1", "18446744073709551616", "000000000000000000001"};
    hybus_frame_field field;
    uint64_t n = 7;

    for (size_t i = 0; i < ELEMENTS(bad); i++) {
        field = (hybus_frame_field){.value = bad[i], .value_size = strlen(bad[i])};
        assert_int_equal(hybus_frame_field_number(&field, UINT64_MAX, &n), -EBADMSG);
        assert_int_equal(n, 7);
    }
    field = (hybus_frame_field){.value = "18446744073709551615", .value_size = 20};
    assert_int_equal(hybus_frame_field_number(&field, UINT64_MAX, &n), 0);
    assert_true(n == UINT64_MAX);
}

/* A frame that does not fit is taken back whole, and what was queued before stays good. */
static void test_queue_bounds(void **state)
{
    hybus_frame_queue queue = {.max = 100};
    _cleanup_(freep) uint8_t *bytes = calloc(1, HYBUS_FRAME_PAYLOAD_MAX + 1);

    assert_int_equal(hybus_frame_end(&queue), -EINVAL);
    assert_int_equal(hybus_frame_queue_add(&queue, &(hybus_frame){.type = 3}), 0);
    hybus_frame_begin(&queue, 0x12, 0, 403, 1, 0);
    hybus_frame_put(&queue, ":reason", "a reason");
    hybus_frame_put_field(&queue, ":audit", 6, bytes, 80);
    hybus_frame_put(&queue, ":more", "x");
    assert_int_equal(hybus_frame_end(&queue), -ENOBUFS);
    assert_int_equal(hybus_frame_queue_pending(&queue), HYBUS_FRAME_HEADER_SIZE);
    assert_int_equal(queue.buffer[queue.start + 4], 3);
    assert_int_equal(hybus_frame_queue_add(&queue, &(hybus_frame){.type = 4}), 0);
    assert_int_equal(hybus_frame_queue_pending(&queue), 2 * HYBUS_FRAME_HEADER_SIZE);

    queue.max = 1 << 20;
    assert_int_equal(
        hybus_frame_queue_add(
            &queue,
            &(hybus_frame){.type = 0x21, .payload = bytes, .size = HYBUS_FRAME_PAYLOAD_MAX + 1}),
        -EMSGSIZE);
    hybus_frame_begin(&queue, 0x12, 0, 0, 0, 0);
    hybus_frame_put_field(&queue, ":x", 2, bytes, HYBUS_FRAME_PAYLOAD_MAX);
    assert_int_equal(hybus_frame_end(&queue), -EMSGSIZE);
    hybus_frame_begin(&queue, 0x12, 0, 0, 0, 0);
    for (unsigned i = 0; i <= HYBUS_FRAME_FIELDS_MAX; i++)
        hybus_frame_put(&queue, "n", "");
    assert_int_equal(hybus_frame_end(&queue), -EMSGSIZE);
    assert_int_equal(hybus_frame_queue_pending(&queue), 2 * HYBUS_FRAME_HEADER_SIZE);
    hybus_frame_queue_done(&queue);
}

static void test_flush_broken(void **state)
{
    hybus_frame_queue queue = {.max = 100};
    int fds[2];

    pair(fds);
    close(fds[1]);
    assert_int_equal(hybus_frame_queue_add(&queue, &(hybus_frame){.type = 3}), 0);
    assert_int_equal(hybus_frame_queue_flush(&queue, fds[0]), -EPIPE);
    close(fds[0]);
    hybus_frame_queue_done(&queue);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_header),        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_byte_by_byte),  cmocka_unit_test(test_large_stream),
        cmocka_unit_test(test_reader_bounds), cmocka_unit_test(test_parse),
        cmocka_unit_test(test_numbers),       cmocka_unit_test(test_bad_fields),
        cmocka_unit_test(test_queue_bounds),  cmocka_unit_test(test_flush_broken),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
