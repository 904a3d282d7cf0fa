/* SPDX-License-Identifier: Apache-2.0 */

/* The native protocol over a stream: however the bytes are cut into pieces, the same records are taken. */

#include <assert.h>

#include "log-connection.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const log_clock now = {.realtime = 1700000000000000, .monotonic = 1000000};
static const log_speaker who = {.uid = 1000, .pid = 7, .unit = "u.service"};

/* How many records, in pieces of at most `step`; what is not whole is offered again with the next. */
static uint64_t feed(log_book *book, const uint8_t *data, size_t size, size_t step, bool *ret_bad,
                     uint64_t *malformed)
{
    uint64_t before = log_book_newest(book);
    size_t taken = 0, there = 0;

    *ret_bad = false;
    while (there < size && !*ret_bad) {
        ssize_t n;
        there += step < size - there ? step : size - there;
        n = log_connection_take(book, data + taken, there - taken, &who, 1000, now, malformed);
        assert(n == -EBADMSG || (n >= 0 && (size_t)n <= there - taken));
        *ret_bad = n < 0;
        taken += n > 0 ? (size_t)n : 0;
    }
    return log_book_newest(book) - before;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static log_book *books[2];
    uint64_t n, m, malformed[2] = {0};
    bool bad[2];

    for (unsigned i = 0; i < 2 && !books[i]; i++) {
        log_settings settings = {.storage = LOG_STORAGE_VOLATILE, .rate_interval = 1000000};
        assert(log_book_open(&(log_book_options){.settings = &settings, .now = now}, &books[i]) == 0);
    }
    n = feed(books[0], data, size, size, &bad[0], &malformed[0]);
    m = feed(books[1], data, size, 1 + (size ? data[0] % 16u : 0), &bad[1], &malformed[1]);
    assert(bad[0] == bad[1] && malformed[0] == malformed[1]);
    /* A bad length ends a connection: what came before it in the same read is stored all the same. */
    assert(n == m);
    return 0;
}
