/* SPDX-License-Identifier: Apache-2.0 */

/* The frame codec: the same bytes in one piece and in pieces give the same frames, and what it
 * reads it writes back byte for byte. */

#include <assert.h>

#include <hybus/frame.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void walk_fields(const hybus_frame *frame)
{
    hybus_frame_fields fields;
    hybus_frame_field field;
    const uint8_t *body;
    size_t body_size;
    uint64_t sum = 0;

    if (hybus_frame_split(frame, &fields, &body, &body_size) < 0)
        hybus_frame_fields_init(&fields, frame->payload, frame->size);
    while (hybus_frame_fields_next(&fields, &field) > 0) {
        _cleanup_(freep) char *s = NULL;
        char copy[256];
        uint64_t number;

        for (size_t i = 0; i < field.value_size; i++)
            sum += (uint8_t)field.value[i];
        if (hybus_frame_field_string(&field, 255, &s) == 0)
            assert(strlen(s) == field.value_size);
        assert((hybus_frame_field_copy(&field, copy, sizeof(copy)) == 0) == (s != NULL));
        if (hybus_frame_field_number(&field, UINT64_MAX, &number) == 0)
            assert(s && strtoull(s, NULL, 10) == number);
        (void)hybus_frame_field_is(&field, ":namespace");
    }
    (void)sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hybus_frame_reader whole = {.max = 256 * 1024}, pieces = {.max = 256 * 1024};
    hybus_frame_queue queue = {.max = 512 * 1024};
    size_t used = 0, n_whole = 0, n_pieces = 0;
    hybus_frame frame;
    int r_whole, r_pieces = 0;

    if (size > 200 * 1024 || hybus_frame_reader_push(&whole, data, size) < 0)
        return 0;
    while ((r_whole = hybus_frame_reader_next(&whole, &frame)) > 0) {
        n_whole++;
        used += HYBUS_FRAME_HEADER_SIZE + frame.size;
        walk_fields(&frame);
        assert(hybus_frame_queue_add(&queue, &frame) == 0);
    }
    assert(hybus_frame_queue_pending(&queue) == used);
    assert(used == 0 || memcmp(queue.buffer + queue.start, data, used) == 0);

    for (size_t at = 0, step; at < size && r_pieces >= 0; at += step) {
        step = MIN_OF((size_t)(data[at] % 37 + 1), size - at);
        assert(hybus_frame_reader_push(&pieces, data + at, step) == 0);
        while ((r_pieces = hybus_frame_reader_next(&pieces, &frame)) > 0)
            n_pieces++;
    }
    assert(n_pieces == n_whole && (r_whole < 0) == (r_pieces < 0));

    hybus_frame_reader_done(&whole);
    hybus_frame_reader_done(&pieces);
    hybus_frame_queue_done(&queue);
    return 0;
}
