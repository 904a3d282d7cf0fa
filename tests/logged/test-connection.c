/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "log-connection.h"
#include "log-query.h"

static sd_event *event;
static log_book *book;
static log_connections *connections;
static struct sockaddr_un address = {.sun_family = AF_UNIX};

static int set_up(void **state)
{
    static log_settings settings = {
        .storage = LOG_STORAGE_VOLATILE, .size = 1 << 20, .rate_interval = 1000000};
    socklen_t size = sizeof(sa_family_t);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

    /* An abstract name of the kernel's choice. */
    assert_int_equal(bind(fd, (struct sockaddr *)&address, size), 0);
    size = sizeof(address);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &size), 0);
    address.sun_path[size - offsetof(struct sockaddr_un, sun_path)] = '\0';
    assert_int_equal(listen(fd, 64), 0);
    assert_int_equal(sd_event_new(&event), 0);
    assert_int_equal(
        log_book_open(&(log_book_options){.settings = &settings, .now = {1700000000000000, 1}}, &book), 0);
    assert_int_equal(log_connections_new(event, fd, book, LOG_NOBODY, &connections), 0);
    return 0;
}

static int tear_down(void **state)
{
    log_connections_free(connections);
    log_book_close(book);
    sd_event_unref(event);
    return 0;
}

static void settle(void)
{
    while (sd_event_run(event, 0) > 0)
        ;
}

static int dial(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    assert_int_equal(connect(fd, (struct sockaddr *)&address,
                             (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 +
                                         strlen(address.sun_path + 1))),
                     0);
    settle();
    return fd;
}

static size_t record(uint8_t *to, const char *text)
{
    uint8_t *end = hlog_head(to + 4, 14, 0);
    uint32_t n;

    end = hlog_put(end, end + 200, NULL, 0, HLOG_MESSAGE, text, strlen(text));
    n = (uint32_t)(end - to - 4);
    memcpy(to, &n, 4);
    return n + 4;
}

static bool closed(int fd)
{
    char c;

    settle();
    return recv(fd, &c, 1, MSG_DONTWAIT) == 0;
}

static void assert_newest(const char *text)
{
    log_filter f = {.backwards = true};
    uint64_t budget = 1;
    log_found found;
    log_field field;
    log_walk w;

    log_walk_start(&w, book, &f);
    assert_int_equal(log_walk_next(&w, &budget, &found), 1);
    assert_int_equal(found.record->uid, getuid());
    assert_int_equal(found.record->pid, getpid());
    assert_int_equal(log_record_field(found.record, HLOG_MESSAGE, &field), 0);
    assert_int_equal(field.size, strlen(text));
    assert_memory_equal(field.value, text, field.size);
}

static void test_in_any_pieces(void **state)
{
    uint8_t data[512];
    size_t size = record(data, "one");
    uint64_t before = log_book_newest(book);
    int fd = dial();

    size += record(data + size, "two");
    for (size_t i = 0; i < size; i++) {
        assert_int_equal(send(fd, data + i, 1, 0), 1);
        settle();
    }
    assert_int_equal(log_book_newest(book) - before, 2);
    assert_newest("two");
    assert_int_equal(send(fd, data, size, 0), size);
    settle();
    assert_int_equal(log_book_newest(book) - before, 4);
    assert_false(closed(fd));
    /* Half a record goes with its connection. */
    assert_int_equal(send(fd, data, 9, 0), 9);
    settle();
    close(fd);
    settle();
    assert_int_equal(log_book_newest(book) - before, 4);
}

static void test_the_largest(void **state)
{
    static uint8_t data[4 + HLOG_HEAD_SIZE + HLOG_FIELDS_MAX];
    static char text[HLOG_FIELDS_MAX - 3];
    uint32_t n = HLOG_HEAD_SIZE + HLOG_FIELDS_MAX;
    uint64_t before = log_book_newest(book);
    int fd = dial();

    memset(text, 'x', sizeof(text));
    memcpy(data, &n, 4);
    assert_non_null(hlog_put(hlog_head(data + 4, 14, 0), data + sizeof(data), NULL, 0, HLOG_MESSAGE, text,
                             sizeof(text)));
    for (unsigned i = 0; i < 3; i++) {
        for (size_t at = 0; at < sizeof(data); at += 16384) {
            size_t part = MIN_OF(sizeof(data) - at, (size_t)16384);
            assert_int_equal(send(fd, data + at, part, 0), part);
            settle();
        }
    }
    assert_int_equal(log_book_newest(book) - before, 3);
    close(fd);
    settle();
}

static void test_what_is_no_record(void **state)
{
    uint64_t malformed = log_connections_malformed(connections);
    static const uint32_t lengths[] = {0, 7, HLOG_HEAD_SIZE + HLOG_FIELDS_MAX + 1, UINT32_MAX};
    uint8_t data[512];
    size_t size = record(data, "three");
    int fd;

    for (size_t i = 0; i < ELEMENTS(lengths); i++) {
        fd = dial();
        assert_int_equal(send(fd, &lengths[i], 4, 0), 4);
        assert_true(closed(fd));
        close(fd);
    }
    assert_int_equal(log_connections_malformed(connections), malformed + 4);
    /* A bad record is skipped, the next one is found. */
    fd = dial();
    data[4] = 'X';
    size += record(data + size, "four");
    assert_int_equal(send(fd, data, size, 0), size);
    assert_false(closed(fd));
    assert_newest("four");
    assert_int_equal(log_connections_malformed(connections), malformed + 5);
    close(fd);
    settle();
}

static void test_one_user_has_so_many(void **state)
{
    int fds[LOG_CONNECTIONS_USER_MAX], more;
    uint8_t data[512];
    size_t size = record(data, "five");

    for (unsigned i = 0; i < LOG_CONNECTIONS_USER_MAX; i++)
        fds[i] = dial();
    more = dial();
    assert_true(closed(more));
    close(more);
    for (unsigned i = 0; i < LOG_CONNECTIONS_USER_MAX; i++)
        assert_false(closed(fds[i]));
    close(fds[0]);
    settle();
    fds[0] = dial();
    assert_int_equal(send(fds[0], data, size, 0), size);
    assert_false(closed(fds[0]));
    assert_newest("five");
    for (unsigned i = 0; i < LOG_CONNECTIONS_USER_MAX; i++)
        close(fds[i]);
    settle();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_any_pieces),
        cmocka_unit_test(test_the_largest),
        cmocka_unit_test(test_what_is_no_record),
        cmocka_unit_test(test_one_user_has_so_many),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
