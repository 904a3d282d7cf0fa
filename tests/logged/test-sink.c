/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <syslog.h>

#include "log-link.h"
#include "log-native.h"
#include "log-relp.h"
#include "log-sink-state.h"
#include "log-syslog.h"

#define SECOND 1000000ull
#define WIRE_MAX (16u * 1024u * 1024u)
#define RECORDS_MAX 300000u

static char folder[] = "/tmp/test-sink-XXXXXX", state_path[64], run_path[64];
static sd_event *event;
static log_book *book;
static log_sink *sink;
static log_settings settings;
static log_sink_options options;

/* A server in the same process, and the wire to it. */
static struct {
    uint8_t *wire; /* of this connection */
    size_t sent, delivered, acknowledged;
    size_t bounds[4096], n_bounds; /* ends of what was sent at once: it is delivered whole or not at all */
    bool open, reachable, full, relp, slow;
    log_syslog_stream stream;
    size_t taken; /* RELP: bytes taken apart */
    uint64_t *cursors;
    size_t n, again;
    uint64_t newest, missed;
    char last[LOG_SYSLOG_MAX + 1];
    unsigned opened;
} server;

static void message(const void *data, size_t size, bool cut, void *userdata)
{
    const char *at;
    log_syslog s;

    assert_false(cut);
    memcpy(server.last, data, size);
    server.last[size] = '\0';
    assert_int_equal(log_syslog_parse(data, size, &s), 0);
    assert_true(s.rfc5424);
    at = strstr(server.last, " missed=\"");
    if (at) {
        server.missed += strtoull(at + 9, NULL, 10);
        return;
    }
    at = strstr(server.last, " cursor=\"");
    assert_non_null(at);
    uint64_t cursor = strtoull(at + 9, NULL, 10);
    if (cursor <= server.newest) {
        server.again++;
        return;
    }
    assert_true(server.n < RECORDS_MAX);
    server.cursors[server.n++] = server.newest = cursor;
}

static void relp_messages(void)
{
    log_relp_frame f;
    char answer[64];
    ssize_t n;

    while ((n = log_relp_parse(server.wire + server.taken, server.delivered - server.taken, &f)) > 0) {
        server.taken += (size_t)n;
        if (streq(f.command, "syslog"))
            message(f.data, f.size, false, NULL);
        else
            assert_string_equal(f.command, "open");
        n = snprintf(answer, sizeof(answer), "%u rsp 6 200 OK\n", f.txnr);
        log_sink_received(sink, answer, (size_t)n);
    }
    assert_true(n >= 0);
}

/* The server reads up to here; its machine says so. */
static void deliver(size_t to)
{
    if (to <= server.delivered)
        return;
    if (!server.relp)
        assert_int_equal(log_syslog_stream_feed(&server.stream, server.wire + server.delivered,
                                                to - server.delivered, message, NULL),
                         0);
    server.delivered = to;
    if (server.relp)
        relp_messages();
}

static void take_all(void)
{
    deliver(server.sent);
    server.acknowledged = server.delivered;
    log_sink_wake(sink);
}

static int road_open(void *userdata)
{
    server.opened++;
    server.sent = server.delivered = server.acknowledged = server.n_bounds = server.taken = 0;
    server.stream = (log_syslog_stream){};
    server.open = server.reachable;
    return server.reachable ? 0 : -ECONNREFUSED;
}

static void road_close(void *userdata)
{
    server.open = false;
}

static int road_send(const void *data, size_t size, void *userdata)
{
    assert_true(server.open);
    if (server.full)
        return -EAGAIN;
    assert_true(server.sent + size <= WIRE_MAX && server.n_bounds < ELEMENTS(server.bounds));
    memcpy(server.wire + server.sent, data, size);
    server.sent += size;
    server.bounds[server.n_bounds++] = server.sent;
    return 0;
}

static uint64_t road_sent(void *userdata)
{
    return server.sent;
}

static uint64_t road_acknowledged(void *userdata)
{
    uint64_t start = log_clock_now().monotonic;

    while (server.slow && log_clock_now().monotonic < start + 100)
        ;
    return server.acknowledged;
}

static const log_sink_road road = {.open = road_open,
                                   .close = road_close,
                                   .send = road_send,
                                   .sent = road_sent,
                                   .acknowledged = road_acknowledged};

/* --- the device
 * ------------------------------------------------------------------------------------- */

static void on_stored(log_book *b, void *userdata)
{
    log_sink_wake(sink);
}

static void say_with(uint8_t severity, const uint8_t *fields, size_t size, log_stream stream)
{
    log_clock now = log_clock_now();

    assert_int_equal(log_book_append(book,
                                     &(log_entry){.stream = stream,
                                                  .when = now,
                                                  .uid = 1000,
                                                  .pid = 7,
                                                  .priority = (uint8_t)(LOG_DAEMON | severity),
                                                  .source = LOG_SOURCE_NATIVE,
                                                  .unit = "a.service",
                                                  .fields = fields,
                                                  .size = size},
                                     now, NULL),
                     1);
}

static void say(uint8_t severity, const char *text)
{
    uint8_t fields[LOG_SYSLOG_MAX * 2];
    uint8_t *to =
        hlog_put(fields, fields + sizeof(fields), NULL, 0, HLOG_MESSAGE, text, strlen(text));

    say_with(severity, fields, (size_t)(to - fields), LOG_STREAM_MAIN);
}

static void start_sink(void)
{
    assert_int_equal(log_sink_new(&options, &sink), 0);
}

static void stop_sink(void)
{
    log_sink_free(sink);
    sink = NULL;
}

static void read_file(const char *path, char to[1024], size_t *ret)
{
    FILE *f = fopen(path, "re");

    assert_non_null(f);
    *ret = fread(to, 1, 1024, f);
    fclose(f);
}

static void write_file(const char *path, const char *from, size_t size)
{
    FILE *f = fopen(path, "we");

    assert_non_null(f);
    assert_int_equal(fwrite(from, 1, size, f), size);
    fclose(f);
}

/* As by SIGKILL: what it says at its end is not written. */
static void kill_sink(void)
{
    static char run[1024], saved[1024];
    size_t run_size, saved_size;

    read_file(run_path, run, &run_size);
    read_file(state_path, saved, &saved_size);
    stop_sink();
    write_file(run_path, run, run_size);
    write_file(state_path, saved, saved_size);
}

static int begin(void **state)
{
    char command[128];

    settings = (log_settings){.storage = LOG_STORAGE_SPLIT,
                              .size = 1 << 20,
                              .important_size = 1 << 18,
                              .audit_size = 1 << 18};
    snprintf(command, sizeof(command), "rm -rf %s/*", folder);
    assert_int_equal(system(command), 0);
    assert_int_equal(sd_event_new(&event), 0);
    assert_int_equal(log_book_open(&(log_book_options){.settings = &settings,
                                                       .state_directory = folder,
                                                       .runtime_directory = folder,
                                                       .boot_id = {0xb0, 0x07},
                                                       .now = log_clock_now()},
                                   &book),
                     0);
    log_book_on_stored(book, on_stored, NULL);
    options = (log_sink_options){.event = event,
                                 .book = book,
                                 .road = &road,
                                 .destination = "server",
                                 .state_path = state_path,
                                 .run_path = run_path,
                                 .retry = 1,
                                 .severity = LOG_DEBUG};
    server.reachable = true;
    server.relp = server.full = server.slow = false;
    server.n = server.again = 0;
    server.newest = server.missed = 0;
    server.opened = 0;
    return 0;
}

static int begin_relp(void **state)
{
    int r = begin(state);

    options.protocol = LOG_SINK_RELP;
    server.relp = true;
    return r;
}

static int end(void **state)
{
    stop_sink();
    log_book_close(book);
    sd_event_unref(event);
    return 0;
}

static log_sink_statistics statistics(void)
{
    log_sink_statistics st;

    log_sink_statistics_get(sink, &st);
    return st;
}

static void turn(void)
{
    assert_true(sd_event_run(event, 60 * SECOND) > 0);
}

/* All that there is to do now. */
static void turns(void)
{
    int r;

    while ((r = sd_event_run(event, 0)) > 0)
        ;
    assert_int_equal(r, 0);
}

/* Until the connection is up. */
static void connected(void)
{
    unsigned before = server.opened;

    while (server.opened == before || !server.open)
        turn();
    log_sink_opened(sink);
    if (server.relp) {
        take_all();
        assert_true(statistics().connected);
    }
}

/* Until all that was said has arrived, and the sink knows. */
static void all_arrived(void)
{
    while (statistics().cursor < log_book_newest(book)) {
        take_all();
        if (statistics().cursor < log_book_newest(book))
            turn();
    }
}

/* --- tests
 * ------------------------------------------------------------------------------------------ */

static void test_in_order(void **state)
{
    char text[64];

    say(LOG_INFO, "before there was a sink");
    start_sink();
    connected();
    for (unsigned i = 0; i < 2000; i++) {
        snprintf(text, sizeof(text), "record %u", i);
        say(i % 7 ? LOG_INFO : LOG_ERR, text);
        if (i % 50 == 0)
            turns();
    }
    all_arrived();
    assert_int_equal(server.n, 2001);
    assert_int_equal(server.cursors[2000] - server.cursors[0], 2000);
    assert_int_equal(statistics().sent, 2001);
    assert_int_equal(statistics().acknowledged, 2001);
    assert_int_equal(statistics().again + server.again, 0);
    assert_non_null(strstr(server.last, "record 1999"));
    /* And not again after a restart. */
    stop_sink();
    start_sink();
    connected();
    say(LOG_INFO, "more");
    all_arrived();
    assert_int_equal(server.n, 2002);
    assert_int_equal(server.again, 0);
}

static uint32_t state_of_random = 2463534242u;

static uint32_t random_below(uint32_t n)
{
    state_of_random ^= state_of_random << 13;
    state_of_random ^= state_of_random >> 17;
    state_of_random ^= state_of_random << 5;
    return state_of_random % n;
}

/* Connections that break anywhere, daemons that die anywhere: nothing is missing, and what comes twice is only what the
 * server had without the device being able to know. */
static void breaks_anywhere(void)
{
    uint64_t said = 0, unknown = 0, first = log_book_newest(book) + 1;
    char text[400];

    memset(text, 'x', sizeof(text));
    start_sink();
    for (unsigned round = 0; round < 1500; round++) {
        connected();
        for (unsigned i = random_below(120); i > 0; i--, said++) {
            text[1 + random_below(sizeof(text) - 1)] = '\0';
            say(random_below(8) ? LOG_INFO : LOG_WARNING, text);
            memset(text, 'x', sizeof(text));
            if (random_below(20) == 0)
                turns();
        }
        if (random_below(4) > 0)
            turns();
        /* Some of it arrives, and of that the device gets to know some. */
        if (server.n_bounds > 0) {
            size_t k = random_below((uint32_t)server.n_bounds + 1);
            deliver(k > 0 ? server.bounds[k - 1] : 0);
            k = random_below((uint32_t)k + 1);
            if (k > 0)
                server.acknowledged = MAX_OF(server.acknowledged, server.bounds[k - 1]);
            if (server.acknowledged < server.delivered)
                unknown++;
            log_sink_wake(sink);
            if (random_below(2))
                turns();
        }
        if (random_below(3) == 0) {
            kill_sink();
            start_sink();
        } else
            log_sink_lost(sink, random_below(2) ? 0 : -EHOSTUNREACH, "a test");
    }
    connected();
    all_arrived();
    (void)first;
    assert_int_equal(server.missed, 0);
    assert_int_equal(server.n, log_book_newest(book) - first + 1);
    for (size_t i = 1; i < server.n; i++)
        assert_int_equal(server.cursors[i], server.cursors[i - 1] + 1);
    assert_true(said > 20000 && unknown > 100);
}

static void test_breaks_anywhere(void **state)
{
    breaks_anywhere();
}

static void test_breaks_anywhere_relp(void **state)
{
    breaks_anywhere();
}

/* A break of which nothing was unknown brings nothing twice. */
static void test_known_comes_once(void **state)
{
    start_sink();
    for (unsigned round = 0; round < 100; round++) {
        connected();
        for (unsigned i = 0; i < 20; i++)
            say(LOG_INFO, "x");
        all_arrived();
        if (round % 2) {
            kill_sink();
            start_sink();
        } else
            log_sink_lost(sink, 0, "a test");
    }
    assert_int_equal(server.again, 0);
}

/* A server that was killed: what its machine had taken a moment before may not have been read. */
static void test_reset_is_doubt(void **state)
{
    size_t before;

    start_sink();
    connected();
    for (unsigned i = 0; i < 20; i++)
        say(LOG_INFO, "x");
    while (server.sent == 0)
        turn();
    server.acknowledged = server.sent; /* and read nothing */
    while (statistics().cursor < log_book_newest(book))
        turn();
    log_sink_lost(sink, -ECONNRESET, "a test");
    connected();
    all_arrived();
    assert_int_equal(server.missed, 0);
    before = server.n;
    assert_true(before >= 20);
    /* Ended by the server at its ease: it has read everything. */
    log_sink_lost(sink, 0, "a test");
    connected();
    all_arrived();
    assert_int_equal(server.again, 0);
}

/* While nobody listens the ring goes on; what it had to give up is told, where it was. */
static void test_overwritten(void **state)
{
    uint64_t first = log_book_newest(book) + 1;

    server.reachable = false;
    start_sink();
    say(LOG_INFO, "the oldest");
    for (unsigned i = 0; i < 30; i++)
        turn();
    assert_true(statistics().failures > 3);
    server.reachable = true;
    connected();
    all_arrived();
    server.reachable = false;
    log_sink_lost(sink, 0, "a test");
    for (unsigned i = 0; i < 60000; i++)
        say(LOG_INFO, "many more than the ring holds");
    kill_sink();
    start_sink();
    server.reachable = true;
    connected();
    all_arrived();
    assert_true(server.missed > 10000);
    assert_int_equal(statistics().missed, server.missed);
    assert_int_equal(server.n + server.missed, log_book_newest(book) - first + 1);
}

/* Part of it has arrived a moment after the loop looked at the clock: that is no reason to give up. */
static void test_progress_is_progress(void **state)
{
    start_sink();
    connected();
    for (unsigned i = 0; i < 1000; i++)
        say(LOG_INFO, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
    while (server.n_bounds < 3)
        turn();
    server.slow = true;
    server.acknowledged = server.bounds[0];
    while (statistics().acknowledged == 0)
        turn();
    assert_true(statistics().connected);
    assert_int_equal(statistics().failures, 0);
    server.slow = false;
    all_arrived();
}

/* A server that takes nothing: a bounded number of chunks, and the ring does not wait. */
static void test_bounded(void **state)
{
    start_sink();
    connected();
    for (unsigned i = 0; i < 30000; i++) {
        say(LOG_INFO, "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
        if (i % 100 == 0)
            turns();
    }
    while (server.n_bounds < LOG_SINK_CHUNKS)
        turn();
    turns();
    assert_int_equal(server.n_bounds, LOG_SINK_CHUNKS);
    server.full = true;
    take_all();
    while (statistics().acknowledged == 0)
        turn();
    turns();
    assert_int_equal(server.n_bounds, LOG_SINK_CHUNKS); /* blocked */
    server.full = false;
    log_sink_writable(sink);
    all_arrived();
    assert_int_equal(server.n + server.missed, log_book_newest(book) - server.cursors[0] + 1);
    assert_int_equal(server.again, 0);
}

static void test_what_is_sent(void **state)
{
    uint8_t fields[512], *to = fields, *at;
    const uint8_t *limit = fields + sizeof(fields);

    options.severity = LOG_WARNING;
    options.audit = true;
    start_sink();
    connected();
    say(LOG_INFO, "too quiet");
    to = hlog_put(to, limit, NULL, 0, HLOG_MESSAGE, "a \"]\\ b", 7);
    to = hlog_put(to, limit, NULL, 0, HLOG_IDENTIFIER, "my prog", 7);
    to = hlog_put(to, limit, "STATE", 5, HLOG_NAMED, "a\"]\\b", 5);
    to = hlog_put(to, limit, "BINARY", 6, HLOG_NAMED, "\xff", 1);
    at = to;
    to = hlog_put(to, limit, "PIN", 3, HLOG_NAMED | HLOG_SECRET, "1234", 4);
    say_with(LOG_WARNING, fields, (size_t)(to - fields), LOG_STREAM_MAIN);
    all_arrived();
    assert_int_equal(server.n, 1);
    assert_memory_equal(server.last, "<28>1 2", 7);
    assert_non_null(strstr(server.last, " my?prog 7 - [meta sequenceId=\""));
    assert_non_null(strstr(server.last, "\"][hybridos@32473 cursor=\""));
    assert_non_null(strstr(server.last, " boot=\"b0070000000000000000000000000000\" source=\"native\" "
                                        "uid=\"1000\" UNIT=\"a.service\" STATE=\"a\\\"\\]\\\\b\"] "
                                        "a \"]\\ b"));
    assert_null(strstr(server.last, "1234"));
    assert_null(strstr(server.last, "PIN"));
    /* The audit, however quiet. */
    at = hlog_put(at, limit, NULL, 0, HLOG_AUDIT, "a1-1", 4);
    say_with(LOG_INFO, fields, (size_t)(at - fields), LOG_STREAM_AUDIT);
    all_arrived();
    assert_int_equal(server.n, 2);
    assert_non_null(strstr(server.last, " 7 audit [meta"));
    assert_non_null(strstr(server.last, " AUDIT=\"a1-1\"]"));
    /* A secret message. */
    to = hlog_put(fields, limit, NULL, 0, HLOG_MESSAGE | HLOG_SECRET, "1234", 4);
    say_with(LOG_ERR, fields, (size_t)(to - fields), LOG_STREAM_MAIN);
    all_arrived();
    assert_null(strstr(server.last, "1234"));
    assert_non_null(strstr(server.last, "] [secret, 4 bytes]"));
    /* Without the audit. */
    stop_sink();
    options.audit = false;
    start_sink();
    connected();
    say_with(LOG_EMERG, fields, (size_t)(to - fields), LOG_STREAM_AUDIT);
    say(LOG_ERR, "last");
    all_arrived();
    assert_int_equal(server.n, 4);
}

/* Longer than a message may be: cut between characters. */
static void test_long_messages(void **state)
{
    static char text[LOG_SYSLOG_MAX + 100];
    size_t size;

    for (size_t i = 0; i + 2 < sizeof(text); i += 2)
        memcpy(text + i, "\xc3\xa4", 2);
    start_sink();
    connected();
    for (unsigned shift = 0; shift < 2; shift++) {
        say(LOG_INFO, text);
        all_arrived();
        size = strlen(server.last);
        assert_true(size > LOG_SYSLOG_MAX - 4 && size <= LOG_SYSLOG_MAX);
        assert_memory_equal(server.last + size - 2, "\xc3\xa4", 2);
        memmove(text + 1, text, sizeof(text) - 2);
        text[0] = 'x';
    }
}

static void test_another_server(void **state)
{
    start_sink();
    connected();
    say(LOG_INFO, "one");
    all_arrived();
    stop_sink();
    options.destination = "another server";
    start_sink();
    connected();
    server.newest = 0;
    say(LOG_INFO, "two");
    all_arrived();
    assert_int_equal(server.n, 3);
    /* What it has told is never told under the same number again. */
    assert_int_equal(log_sink_saved(state_path, run_path), log_book_newest(book));
}

static void test_state_file(void **state)
{
    log_sink_place p = {.seq = 5}, q = {};
    log_sink_state s;
    char byte;
    FILE *f;

    assert_int_equal(log_sink_state_open(&s, state_path, 7, &q), -ENOENT);
    for (unsigned i = 0; i < 5; i++, p.seq++)
        assert_int_equal(log_sink_state_write(&s, 7, &p), 0);
    log_sink_state_done(&s);
    assert_int_equal(log_sink_state_read(state_path, 7, &q), 0);
    assert_int_equal(q.seq, 9);
    assert_int_equal(log_sink_state_read(state_path, 8, &q), -ENOENT);
    /* The newest slot is torn anywhere: the one before it counts. */
    for (long at = 0; at < 100; at++) {
        f = fopen(state_path, "r+e");
        assert_non_null(f);
        fseek(f, 512 + at, SEEK_SET);
        byte = (char)fgetc(f);
        fseek(f, 512 + at, SEEK_SET);
        fputc(byte ^ 0x10, f);
        fclose(f);
        assert_int_equal(log_sink_state_read(state_path, 7, &q), 0);
        assert_int_equal(q.seq, 8);
        f = fopen(state_path, "r+e");
        fseek(f, 512 + at, SEEK_SET);
        fputc(byte, f);
        fclose(f);
    }
    assert_int_equal(truncate(state_path, 3), 0);
    assert_int_equal(log_sink_state_read(state_path, 7, &q), -ENOENT);
}

/* --- RELP
 * ------------------------------------------------------------------------------------------- */

static void answer(const char *text)
{
    log_sink_received(sink, text, strlen(text));
}

static void test_relp(void **state)
{
    uint64_t first;

    start_sink();
    connected();
    say(LOG_INFO, "one");
    while (server.n_bounds < 2)
        turn();
    say(LOG_INFO, "two");
    while (server.n_bounds < 3)
        turn();
    assert_non_null(memmem(server.wire, server.sent, "\n2 syslog ", 10));
    assert_non_null(memmem(server.wire, server.sent, "\n3 syslog ", 10));
    first = log_book_newest(book) - 2;
    /* The other way round, and in pieces: nothing has arrived before all before it has. */
    answer("3 rsp 6 20");
    answer("0 OK\n");
    assert_true(statistics().cursor <= first);
    answer("2 rsp 6 200 OK\n");
    assert_int_equal(statistics().cursor, log_book_newest(book));
    /* An answer to what was never sent. */
    answer("9 rsp 6 200 OK\n");
    assert_false(statistics().connected);
    for (const char *const *bad =
             (const char *const[]){"x", "2 rsp 6 200 OKx", "1234567890 rsp 0\n", "2 RSP 0\n",
                                   "2 rsp 99999 x", "2 rsp 6 500 NO\n", "2 rsp 0\n",
                                   "0 serverclose 0\n", NULL};
         *bad; bad++) {
        connected();
        answer(*bad);
        assert_false(statistics().connected);
    }
    connected();
    all_arrived();
}

/* --- the road's small parts
 * ------------------------------------------------------------------------- */

static const char *address(const char *text)
{
    _cleanup_(freep) char *host = NULL, *port = NULL;
    static char all[512];

    if (log_link_parse(text, "6514", &host, &port) < 0)
        return "bad";
    snprintf(all, sizeof(all), "%s|%s", host, port);
    return all;
}

static void test_addresses(void **state)
{
    assert_string_equal(address("logs.example.com"), "logs.example.com|6514");
    assert_string_equal(address("logs.example.com:10514"), "logs.example.com|10514");
    assert_string_equal(address("192.0.2.1:1"), "192.0.2.1|1");
    assert_string_equal(address("[2001:db8::1]"), "2001:db8::1|6514");
    assert_string_equal(address("[2001:db8::1]:99"), "2001:db8::1|99");
    for (const char *const *bad = (const char *const[]){"", ":1", "a:", "2001:db8::1", "[", "[]", "[]:1",
                                                        "[::1", "[::1]x", "[::1]:", NULL};
         *bad; bad++)
        assert_string_equal(address(*bad), "bad");
}

static int set_up(void **state)
{
    server.wire = malloc(WIRE_MAX);
    server.cursors = calloc(RECORDS_MAX, sizeof(*server.cursors));
    if (!server.wire || !server.cursors || !mkdtemp(folder))
        return -1;
    snprintf(state_path, sizeof(state_path), "%s/state", folder);
    snprintf(run_path, sizeof(run_path), "%s/run", folder);
    return 0;
}

static int tear_down(void **state)
{
    char command[128];

    free(server.wire);
    free(server.cursors);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, begin, end)
    const struct CMUnitTest tests[] = {
        TEST(test_in_order),
        TEST(test_breaks_anywhere),
        cmocka_unit_test_setup_teardown(test_breaks_anywhere_relp, begin_relp, end),
        TEST(test_known_comes_once),
        TEST(test_reset_is_doubt),
        TEST(test_overwritten),
        TEST(test_progress_is_progress),
        TEST(test_bounded),
        TEST(test_what_is_sent),
        TEST(test_long_messages),
        TEST(test_another_server),
        TEST(test_state_file),
        cmocka_unit_test_setup_teardown(test_relp, begin_relp, end),
        cmocka_unit_test(test_addresses),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
