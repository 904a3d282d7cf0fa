/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <syslog.h>

#include "log-format.h"
#include "log-native.h"
#include "log-responder.h"
#include "log-syslog.h"

#define SECOND 1000000ull

static char state_folder[] = "/tmp/test-log-s-XXXXXX", run_folder[] = "/tmp/test-log-r-XXXXXX";
static log_clock now = {.realtime = 1700000000 * SECOND, .monotonic = 100 * SECOND};
static log_settings settings;
static log_book *book;

static void open_book(log_storage storage)
{
    log_book_options o = {.settings = &settings,
                          .state_directory = state_folder,
                          .runtime_directory = run_folder,
                          .boot_id = {0xb0, 0x07},
                          .now = now};

    settings.storage = storage;
    assert_int_equal(log_book_open(&o, &book), 0);
}

static void close_book(void)
{
    log_book_close(book);
    book = NULL;
}

static int fresh(void **state)
{
    char command[256];

    settings = (log_settings){.size = 1 << 20,
                              .important_size = 1 << 18,
                              .audit_size = 1 << 18,
                              .rate_interval = 10 * SECOND,
                              .rate_burst = 1000000};
    now = (log_clock){.realtime = 1700000000 * SECOND, .monotonic = 100 * SECOND};
    snprintf(command, sizeof(command), "rm -f %s/* %s/*", state_folder, run_folder);
    return system(command);
}

static int done(void **state)
{
    log_book_close(book);
    book = NULL;
    return 0;
}

/* A datagram as a program would send it. */
static int say_as(uint32_t uid, const char *unit, uint8_t priority, const char *text)
{
    uint8_t data[2048], *to = hlog_head(data, priority, 0);

    to = hlog_put(to, data + sizeof(data), NULL, 0, HLOG_MESSAGE, text, strlen(text));
    to = hlog_put(to, data + sizeof(data), NULL, 0, HLOG_IDENTIFIER, "prog", 4);
    to = hlog_put(to, data + sizeof(data), "COLOUR", 6, HLOG_NAMED, "red", 3);
    to = hlog_put(to, data + sizeof(data), "PIN", 3, HLOG_NAMED | HLOG_SECRET, "1234", 4);
    return log_native_take(book, data, (size_t)(to - data), uid, 77, unit, 60601, now);
}

static void say(const char *unit, uint8_t severity, const char *text)
{
    assert_int_equal(say_as(60700, unit, (uint8_t)(LOG_DAEMON | severity), text), 1);
    now.realtime += SECOND;
    now.monotonic += SECOND;
}

static char *found_text;

/* The messages that a filter finds, in one string. */
static const char *find(const log_filter *f)
{
    static char all[8192];
    uint64_t budget = 100000;
    log_found found;
    log_walk w;

    all[0] = '\0';
    log_walk_start(&w, book, f);
    while (log_walk_next(&w, &budget, &found) > 0) {
        log_field m;
        assert_int_equal(log_record_field(found.record, HLOG_MESSAGE, &m), 0);
        snprintf(all + strlen(all), sizeof(all) - strlen(all), "%.*s ", (int)m.size,
                 (const char *)m.value);
    }
    found_text = all;
    return all;
}

static const char *find_by(const char *name, const char *value)
{
    log_filter f = {};

    assert_int_equal(log_filter_set(&f, name, value, now.realtime), 0);
    (void)find(&f);
    log_filter_done(&f);
    return found_text;
}

/* --- the book
 * --------------------------------------------------------------------------------------- */

static void test_split(void **state)
{
    open_book(LOG_STORAGE_SPLIT);
    say("a.service", LOG_INFO, "one");
    say("a.service", LOG_WARNING, "two");
    say("b.service", LOG_DEBUG, "three");
    say("b.service", LOG_CRIT, "four");
    assert_string_equal(find(&(log_filter){}), "one two three four ");
    assert_string_equal(find(&(log_filter){.backwards = true}), "four three two one ");
    assert_int_equal(log_store_newest(log_book_store(book, LOG_STREAM_IMPORTANT))->seq,
                     log_book_newest(book));
}

/* What was in memory has gone, what matters has not, and nothing gets a number twice. */
static void test_power_off(void **state)
{
    char command[256];
    uint64_t seq;

    open_book(LOG_STORAGE_SPLIT);
    say("a.service", LOG_WARNING, "warning");
    say("a.service", LOG_INFO, "info");
    seq = log_book_newest(book);
    close_book();
    snprintf(command, sizeof(command), "rm -f %s/*", run_folder);
    assert_int_equal(system(command), 0);
    open_book(LOG_STORAGE_SPLIT);
    say("a.service", LOG_INFO, "later");
    assert_true(log_book_newest(book) > seq);
    assert_string_equal(find(&(log_filter){}), "warning later ");
    close_book();
    /* A restart alone loses nothing, and goes on counting. */
    open_book(LOG_STORAGE_SPLIT);
    seq = log_book_newest(book);
    say("a.service", LOG_INFO, "last");
    assert_int_equal(log_book_newest(book), seq + 1);
    assert_string_equal(find(&(log_filter){}), "warning later last ");
}

/* The clock of a device without one: it goes back, and jumps ahead by fifty years. */
static void test_clock_jumps(void **state)
{
    uint64_t seq;

    open_book(LOG_STORAGE_PERSISTENT);
    say("a.service", LOG_INFO, "one");
    now.realtime = 5 * SECOND;
    say("a.service", LOG_INFO, "two");
    now.realtime = 3300000000ull * SECOND;
    say("a.service", LOG_INFO, "three");
    now.realtime = 1700000100 * SECOND;
    say("a.service", LOG_INFO, "four");
    assert_string_equal(find(&(log_filter){}), "one two three four ");
    assert_string_equal(find_by("since", "1700000050"), "three four ");
    assert_string_equal(find_by("until", "1000"), "two ");
    seq = log_book_newest(book);
    close_book();
    now.realtime = 7 * SECOND;
    open_book(LOG_STORAGE_PERSISTENT);
    say("a.service", LOG_INFO, "five");
    assert_true(log_book_newest(book) > seq);
    assert_string_equal(find(&(log_filter){}), "one two three four five ");
}

static void test_rate_limit(void **state)
{
    log_filter f = {};
    log_book_statistics st;

    settings.rate_burst = 10;
    open_book(LOG_STORAGE_VOLATILE);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(say_as(60700, "flood.service", LOG_INFO, "flood"), i < 10);
    assert_int_equal(say_as(60700, "calm.service", LOG_INFO, "calm"), 1);
    assert_int_equal(say_as(60701, "flood.service", LOG_INFO, "other"), 1);
    log_book_statistics_get(book, &st);
    assert_int_equal(st.rate_limited, 90);
    assert_int_equal(log_book_due(book), now.monotonic + 10 * SECOND);
    log_book_tick(book, now); /* not yet */
    assert_true(log_book_due(book) != UINT64_MAX);
    now.monotonic += 10 * SECOND;
    log_book_tick(book, now);
    assert_true(log_book_due(book) == UINT64_MAX);
    assert_int_equal(log_filter_set(&f, "field", "DROPPED=90", 0), 0);
    assert_string_equal(find(&f),
                        "90 records of flood.service (uid 60700) were dropped: more than 10 "
                        "in 10 s ");
    log_filter_done(&f);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(say_as(60700, "flood.service", LOG_INFO, "again"), i < 10);
}

/* More senders than there are places share one: no number of units gets around the limit. */
static void test_many_senders(void **state)
{
    char unit[32];
    unsigned stored = 0;

    settings.rate_burst = 10;
    open_book(LOG_STORAGE_VOLATILE);
    for (unsigned i = 0; i < 100000; i++) {
        snprintf(unit, sizeof(unit), "u%u.service", i);
        stored += (unsigned)say_as(60700, unit, LOG_INFO, "x");
    }
    assert_true(stored < 1000);
}

static void test_audit_is_apart(void **state)
{
    uint8_t data[512], *to;
    log_filter f = {.audit = true};

    settings.rate_burst = 5;
    open_book(LOG_STORAGE_VOLATILE);
    to = hlog_head(data, LOG_AUTHPRIV | LOG_NOTICE, 0);
    to = hlog_put(to, data + sizeof(data), NULL, 0, HLOG_MESSAGE, "denied", 6);
    to = hlog_put(to, data + sizeof(data), NULL, 0, HLOG_AUDIT, "a1b2-1", 6);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(log_native_take(book, data, (size_t)(to - data), 60601, 1,
                                         "h-securityd.service", 60601, now),
                         1);
    /* Nobody else can write there, root neither; and no flood reaches it. */
    assert_int_equal(log_native_take(book, data, (size_t)(to - data), 0, 1, NULL, 60601, now),
                     -EPERM);
    settings.rate_burst = 0;
    assert_int_equal(log_book_set_settings(book, &settings), 0);
    for (unsigned i = 0; i < 20000; i++)
        assert_int_equal(say_as(60601, "h-securityd.service", LOG_NOTICE, "flood"), 1);
    assert_string_equal(strtok((char *)find(&f), " "), "denied");
    f.limit = 3;
    assert_string_equal(find(&f), "denied denied denied ");
    assert_null(strstr(find_by("limit", "50"), "denied"));
}

/* --- filters
 * ---------------------------------------------------------------------------------------- */

static void test_filters(void **state)
{
    log_filter f = {};
    char cursor[24];

    open_book(LOG_STORAGE_SPLIT);
    say("h-httpd.service", LOG_INFO, "Hello");
    say("h-logged.service", LOG_ERR, "world");
    say("thermo.service", LOG_DEBUG, "HELLO again");
    say(NULL, LOG_WARNING, "nobody");
    assert_string_equal(find_by("unit", "httpd"), "Hello ");
    assert_string_equal(find_by("unit", "h-httpd.service"), "Hello ");
    assert_string_equal(find_by("unit", "h-*"), "Hello world ");
    assert_string_equal(find_by("unit", "http"), "");
    assert_string_equal(find_by("unit", "httpd thermo"), "Hello HELLO again ");
    assert_string_equal(find_by("unit", "logg* nothing  httpd"), "Hello world ");
    assert_string_equal(find_by("source", "native"), "Hello world HELLO again nobody ");
    assert_string_equal(find_by("source", "kernel"), "");
    assert_string_equal(find_by("priority", "warning"), "world nobody ");
    assert_string_equal(find_by("priority", "3"), "world ");
    assert_string_equal(find_by("text", "hello"), "Hello HELLO again ");
    assert_string_equal(find_by("field", "COLOUR=red"), "Hello world HELLO again nobody ");
    assert_string_equal(find_by("field", "COLOUR=green"), "");
    assert_string_equal(find_by("field", "UNIT=thermo.service"), "HELLO again ");
    assert_string_equal(find_by("identifier", "prog"), "Hello world HELLO again nobody ");
    assert_string_equal(find_by("uid", "60700"), "Hello world HELLO again nobody ");
    assert_string_equal(find_by("uid", "0"), "");
    assert_string_equal(find_by("limit", "2"), "Hello world ");
    assert_string_equal(find_by("reverse", "1"), "nobody HELLO again world Hello ");
    assert_string_equal(find_by("since", "-2s"), "HELLO again nobody ");
    assert_string_equal(find_by("boot", "b0070000000000000000000000000000"),
                        "Hello world HELLO again nobody ");
    assert_string_equal(find_by("boot", "b1070000000000000000000000000000"), "");
    snprintf(cursor, sizeof(cursor), "%llu", (unsigned long long)log_book_newest(book) - 2);
    assert_string_equal(find_by("cursor", cursor), "HELLO again nobody ");
    assert_string_equal(find_by("before", cursor), "Hello ");
    /* A secret cannot be guessed by asking for it. */
    assert_string_equal(find_by("field", "PIN=1234"), "");

    assert_int_equal(log_filter_set(&f, "priority", "loud", 0), -EINVAL);
    assert_int_equal(log_filter_set(&f, "source", "radio", 0), -EINVAL);
    assert_int_equal(log_filter_set(&f, "source", "", 0), -EINVAL);
    assert_int_equal(log_filter_set(&f, "priority", "8", 0), -EINVAL);
    assert_int_equal(log_filter_set(&f, "limit", "-1", 0), -EINVAL);
    assert_int_equal(log_filter_set(&f, "since", "soon", 0), -EINVAL);
    assert_int_equal(log_filter_set(&f, "boot", "b00", 0), -EINVAL);
    assert_int_equal(log_filter_set(&f, "field", "lower=1", 0), -EINVAL);
    assert_int_equal(log_filter_set(&f, "colour", "red", 0), -ENOENT);
    for (unsigned i = 0; i < LOG_FILTER_FIELDS_MAX; i++)
        assert_int_equal(log_filter_set(&f, "field", "A=1", 0), 0);
    assert_int_equal(log_filter_set(&f, "field", "A=1", 0), -E2BIG);
    log_filter_done(&f);
}

static void test_times(void **state)
{
    uint64_t t;

    setenv("TZ", "UTC", true);
    assert_int_equal(log_time_parse("2026-11-24 15:31:16", 0, &t), 0);
    assert_int_equal(t, 1795534276 * SECOND);
    assert_int_equal(log_time_parse("2026-11-24T15:31:16.25Z", 0, &t), 0);
    assert_int_equal(t, 1795534276 * SECOND + 250000);
    assert_int_equal(log_time_parse("2026-11-24", 0, &t), 0);
    assert_int_equal(t, 1795478400 * SECOND);
    assert_int_equal(log_time_parse("@1700000000", 0, &t), 0);
    assert_int_equal(t, 1700000000 * SECOND);
    assert_int_equal(log_time_parse("-1h", 1700000000 * SECOND, &t), 0);
    assert_int_equal(t, 1699996400 * SECOND);
    assert_int_equal(log_time_parse("-2 min", 1700000000 * SECOND, &t), 0);
    assert_int_equal(t, 1699999880 * SECOND);
    assert_int_equal(log_time_parse("2 hours ago", 1700000000 * SECOND, &t), 0);
    assert_int_equal(t, 1699992800 * SECOND);
    assert_int_equal(log_time_parse("1 day ago", 1700000000 * SECOND, &t), 0);
    assert_int_equal(t, 1699913600 * SECOND);
    assert_int_equal(log_time_parse("90s ago", 1700000000 * SECOND, &t), 0);
    assert_int_equal(t, 1699999910 * SECOND);
    assert_int_equal(log_time_parse("15:31", 1795534276 * SECOND, &t), 0);
    assert_int_equal(t, 1795534260 * SECOND);
    assert_int_equal(log_time_parse("09:05:07", 1795534276 * SECOND, &t), 0);
    assert_int_equal(t, 1795511107 * SECOND);
    assert_int_equal(log_time_parse("25:00", 1795534276 * SECOND, &t), -EINVAL);
    assert_int_equal(log_time_parse(" ago", 5, &t), -EINVAL);
    assert_int_equal(log_time_parse("2 moons ago", 5, &t), -EINVAL);
    assert_int_equal(log_time_parse("yesterday", 1795534276 * SECOND, &t), 0);
    assert_int_equal(t, 1795392000 * SECOND);
    assert_int_equal(log_time_parse("-9999999999d", 5, &t), -EINVAL);
    assert_int_equal(log_time_parse("-100d", 5, &t), 0);
    assert_int_equal(t, 0);
    assert_int_equal(log_time_parse("", 5, &t), -EINVAL);
    assert_int_equal(log_time_parse("2026-11-24 junk", 5, &t), -EINVAL);
}

/* Appends in the middle of a walk over two rings change nothing: each record comes once, in order, or is counted. */
static void test_appended_while_walking(void **state)
{
    uint64_t budget = 1 << 30, seen = 0, last = 0;
    log_found found;
    log_walk w;
    log_filter f = {};

    open_book(LOG_STORAGE_SPLIT);
    say("a.service", LOG_WARNING, "x");
    log_walk_start(&w, book, &f);
    assert_int_equal(log_walk_next(&w, &budget, &found), 1);
    for (unsigned i = 0; i < 100; i++)
        say("a.service", LOG_INFO, "x");
    for (unsigned i = 0; i < 5000; i++)
        say("a.service", LOG_WARNING, "x");
    for (unsigned i = 0; i < 100; i++)
        say("a.service", LOG_INFO, "x");
    while (log_walk_next(&w, &budget, &found) > 0) {
        assert_true(found.record->seq > last);
        last = found.record->seq;
        if (seen++ % 50 == 0 && seen < 1000)
            say("a.service", LOG_INFO, "x");
    }
    assert_int_equal(1 + w.missed + seen, 5201 + 20);
    assert_int_equal(last, log_book_newest(book));
    close_book();
}

/* A walk that is overtaken by the writer goes on where it can, and knows how much it has missed. */
static void test_overtaken(void **state)
{
    uint64_t budget = 1 << 30, seen = 0, first;
    log_found found;
    log_walk w;
    log_filter f = {};

    open_book(LOG_STORAGE_VOLATILE);
    for (unsigned i = 0; i < 1000; i++)
        say("a.service", LOG_INFO, "x");
    first = log_book_newest(book) - 999;
    log_walk_start(&w, book, &f);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(log_walk_next(&w, &budget, &found), 1);
    assert_int_equal(found.record->seq, first + 9);
    for (unsigned i = 0; i < 50000; i++)
        say("a.service", LOG_INFO, "x");
    while (log_walk_next(&w, &budget, &found) > 0)
        seen++;
    assert_int_equal(found.record->seq, log_book_newest(book));
    assert_int_equal(10 + w.missed + seen, 51000);
    /* At the end it waits for what comes. */
    say("a.service", LOG_INFO, "new");
    assert_int_equal(log_walk_next(&w, &budget, &found), 1);
    assert_int_equal(log_walk_next(&w, &budget, &found), 0);
}

/* What is missing in one ring is counted once, however many records of the others come before. */
static void test_overtaken_in_one_ring(void **state)
{
    uint64_t budget = 1 << 30, seen = 0;
    log_found found;
    log_walk w;
    log_filter f = {};

    open_book(LOG_STORAGE_SPLIT);
    say("a.service", LOG_INFO, "x");
    say("a.service", LOG_ERR, "x");
    log_walk_start(&w, book, &f);
    assert_int_equal(log_walk_next(&w, &budget, &found), 1);
    assert_int_equal(log_walk_next(&w, &budget, &found), 1);
    for (unsigned i = 0; i < 100; i++)
        say("a.service", LOG_ERR, "important");
    for (unsigned i = 0; i < 20000; i++)
        say("a.service", LOG_INFO, "x");
    while (log_walk_next(&w, &budget, &found) > 0)
        seen++;
    assert_true(w.missed > 1000);
    assert_int_equal(w.missed + seen, 20100);
}

/* --- formats
 * ---------------------------------------------------------------------------------------- */

static const char *format(const char *text, log_look look)
{
    static log_text t;
    uint64_t budget = 10;
    log_found found;
    log_walk w;
    log_filter f = {.backwards = true};

    say("u.service", LOG_INFO, text);
    log_walk_start(&w, book, &f);
    assert_int_equal(log_walk_next(&w, &budget, &found), 1);
    t.size = 0;
    log_format_record(&t, &found, &look);
    log_text_put(&t, "", 1);
    return t.data;
}

static void test_formats(void **state)
{
    const log_look json = {.format = LOG_FORMAT_JSON},
                   brief = {.format = LOG_FORMAT_SHORT, .utc = true},
                   html = {.format = LOG_FORMAT_HTML, .utc = true};
    const char *s;

    open_book(LOG_STORAGE_VOLATILE);
    s = format("a \"quoted\" \\ line\n\x1b[2J\x07 \xc2\x9b \xe2\x80\xae", json);
    assert_non_null(strstr(
        s, "\"MESSAGE\":\"a \\\"quoted\\\" \\\\ line\\n\\u001b[2J\\u0007 \\u009b \\u202e\""));
    assert_non_null(strstr(s, "\"boot\":\"b0070000000000000000000000000000\""));
    assert_non_null(strstr(s, "\"PIN\":{\"secret\":4}"));
    assert_null(strstr(s, "1234"));
    assert_non_null(strstr(s, "\"UNIT\":\"u.service\""));
    assert_int_equal(strchr(s, '\n') - s, (long)strlen(s) - 1);
    s = format("x", (log_look){.format = LOG_FORMAT_JSON, .secrets = true});
    assert_non_null(strstr(s, "\"PIN\":\"1234\""));
    s = format("\xff\xfe", json);
    assert_non_null(strstr(s, "\"MESSAGE\":{\"base64\":\"//4=\"}"));

    s = format("one\ntwo \x1b[31m \xff", brief);
    assert_non_null(strstr(s, " prog[77]: one\n    two \\u001b[31m \\xff\n"));
    assert_null(strchr(s, '\x1b'));
    s = format("x", (log_look){.format = LOG_FORMAT_VERBOSE});
    assert_non_null(strstr(s, "    PIN=[secret, 4 bytes]\n"));
    assert_non_null(strstr(s, "    COLOUR=red\n"));
    s = format("<script>alert('&\"')</script>", html);
    assert_non_null(strstr(s, "&lt;script&gt;alert(&#39;&amp;&quot;&#39;)&lt;/script&gt;"));
    assert_null(strstr(s, "<script"));
    assert_string_equal(format("plain", (log_look){.format = LOG_FORMAT_CAT}), "plain\n");
}

/* --- memory
 * ------------------------------------------------------------------------------------------- */

#ifndef __SANITIZE_ADDRESS__
static size_t allocations;

void *__libc_malloc(size_t size);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t size);

void *malloc(size_t size)
{
    allocations++;
    return __libc_malloc(size);
}

void *calloc(size_t n, size_t size)
{
    allocations++;
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t size)
{
    allocations++;
    return __libc_realloc(p, size);
}

static int say_as_node(unsigned i)
{
    static uint8_t fields[LOG_SYSLOG_FIELDS_MAX];
    char text[128];
    log_syslog s;
    int n = snprintf(text, sizeof(text), "<34>1 - h app %u - [a@1 b=\"c\"] message %u", i, i);

    if (log_syslog_parse(text, (size_t)n, &s) < 0)
        return -EBADMSG;
    return log_book_append(book,
                           &(log_entry){.when = now,
                                        .uid = LOG_NOBODY,
                                        .priority = s.priority,
                                        .source = LOG_SOURCE_SYSLOG,
                                        .unit = "syslog@192.0.2.1",
                                        .peer = "192.0.2.1",
                                        .fields = fields,
                                        .size = log_syslog_fields(&s, fields)},
                           now, NULL);
}

/* From the receive buffer to the ring, however many records and senders: not one allocation. */
static void test_no_allocation(void **state)
{
    size_t before, limited = 0;
    char unit[32];

    settings.rate_burst = 100;
    settings.node_burst = 20000;
    open_book(LOG_STORAGE_SPLIT);
    before = allocations;
    for (unsigned i = 0; i < 50000; i++) {
        snprintf(unit, sizeof(unit), "unit-%u.service", i % 1000);
        limited += say_as(i % 7, unit, (uint8_t)(i % 8), "some text") == 0;
        limited += say_as_node(i) == 0;
        if (i % 1000 == 0) {
            now.monotonic += SECOND;
            log_book_tick(book, now);
        }
    }
    assert_int_equal(allocations, before);
    assert_true(limited > 1000);
}
#endif

/* --- datagrams
 * --------------------------------------------------------------------------------------- */

static void test_datagrams(void **state)
{
    uint8_t d[512], *to;
    log_book_statistics st;

    open_book(LOG_STORAGE_VOLATILE);
#define TAKE(size) log_native_take(book, d, (size_t)(size), 1000, 5, "u.service", 60601, now)
    assert_int_equal(TAKE(0), -EBADMSG);
    to = hlog_head(d, LOG_INFO, 0);
    assert_int_equal(TAKE(7), -EBADMSG);
    assert_int_equal(TAKE(to - d), 1); /* says nothing, but well formed */
    d[2] = 2;
    assert_int_equal(TAKE(to - d), -EBADMSG);
    to = hlog_put(hlog_head(d, 192, 0), d + 512, NULL, 0, HLOG_MESSAGE, "x", 1);
    assert_int_equal(TAKE(to - d), -EBADMSG);
    for (uint8_t code = HLOG_UNIT;; code = code == HLOG_UNIT ? HLOG_PEER : HLOG_DROPPED) {
        to = hlog_put(hlog_head(d, LOG_INFO, 0), d + 512, NULL, 0, code, "h-securityd.service", 19);
        assert_int_equal(TAKE(to - d), -EPERM);
        to = hlog_put(hlog_head(d, LOG_INFO, 0), d + 512, NULL, 0, code | HLOG_SECRET, "x", 1);
        assert_int_equal(TAKE(to - d), -EPERM);
        if (code == HLOG_DROPPED)
            break;
    }
    to = hlog_put(hlog_head(d, LOG_INFO, 0), d + 512, "UNIT", 4, HLOG_NAMED, "x", 1);
    assert_int_equal(TAKE(to - d), -EPERM);
    to = hlog_put(hlog_head(d, LOG_INFO, 0), d + 512, "MESSAGE", 7, HLOG_NAMED, "x", 1);
    assert_int_equal(TAKE(to - d), -EBADMSG);
    to = hlog_put(hlog_head(d, LOG_INFO, 0), d + 512, "lower", 5, HLOG_NAMED, "x", 1);
    assert_int_equal(TAKE(to - d), -EBADMSG);
    to = hlog_put(hlog_head(d, LOG_INFO, 0), d + 512, "NAME", 4, HLOG_NAMED, "x", 1);
    for (long n = 9; n < to - d; n++)
        assert_int_equal(TAKE(n), -EBADMSG);
    /* What a sender had to give up is on record. */
    to = hlog_put(hlog_head(d, LOG_INFO, 7), d + 512, NULL, 0, HLOG_MESSAGE, "x", 1);
    assert_int_equal(TAKE(to - d), 1);
    log_book_statistics_get(book, &st);
    assert_int_equal(st.sender_dropped, 7);
    assert_string_equal(
        find_by("field", "DROPPED=7"),
        "u.service (uid 1000, pid 5) had to give up 7 records: they came too fast ");
#undef TAKE
}

/* --- /system/log
 * ---------------------------------------------------------------------------------------- */

static int parse(const char *path, const char *query, log_filter *f, bool *follow)
{
    log_filter_done(f);
    return log_responder_parse(path, query, now.realtime, f, follow);
}

static void test_requests(void **state)
{
    log_filter f = {};
    const char *type;
    bool follow;

    assert_int_equal(parse("/", "", &f, &follow), 0);
    assert_false(follow || f.audit);
    assert_int_equal(parse("/", "unit=h-%2a&text=a+b%26c&follow&limit=5", &f, &follow), 0);
    assert_string_equal(f.unit, "h-*");
    assert_string_equal(f.text, "a b&c");
    assert_int_equal(f.limit, 5);
    assert_true(follow);
    assert_int_equal(parse("/audit", "follow=0", &f, &follow), 0);
    assert_true(f.audit && !follow);
    assert_int_equal(parse("/unit/a.service", "", &f, &follow), 0);
    assert_string_equal(f.unit, "a.service");
    assert_int_equal(parse("/priority/err", "", &f, &follow), 0);
    assert_true(f.has_severity && f.severity == 3);
    /* What a path is not allowed to show, a query cannot ask for either. */
    assert_int_equal(parse("/", "audit=1", &f, &follow), -EINVAL);
    assert_int_equal(parse("/", "%61udit=1", &f, &follow), -EINVAL);
    assert_int_equal(parse("/", "follow=1&reverse=1", &f, &follow), -EINVAL);
    assert_int_equal(parse("/", "text=%zz", &f, &follow), -EINVAL);
    assert_int_equal(parse("/", "text=%2", &f, &follow), -EINVAL);
    assert_int_equal(parse("/", "text=a%00b", &f, &follow), -EINVAL);
    assert_int_equal(parse("/", "colour=red", &f, &follow), -EINVAL);
    assert_int_equal(parse("/audit/x", "", &f, &follow), -ENOENT);
    assert_int_equal(parse("/unit/", "", &f, &follow), -ENOENT);
    assert_int_equal(parse("/priority/loud", "", &f, &follow), -ENOENT);

    assert_int_equal(log_responder_format(NULL, &type), LOG_FORMAT_JSON);
    assert_int_equal(log_responder_format("*/*", &type), LOG_FORMAT_JSON);
    assert_int_equal(log_responder_format("application/json, text/html", &type), LOG_FORMAT_JSON);
    assert_int_equal(log_responder_format("text/html,application/xml;q=0.9", &type),
                     LOG_FORMAT_HTML);
    assert_int_equal(log_responder_format("image/png, text/plain", &type), LOG_FORMAT_SHORT);
}

static unsigned asked;

static int fake_unit(uint32_t pid, char ret[LOG_UNIT_MAX])
{
    asked++;
    if (pid == 9)
        return -ESRCH;
    snprintf(ret, LOG_UNIT_MAX, "u%u-%u.service", pid, asked);
    return 0;
}

static void test_units(void **state)
{
    static log_units u = {.lookup = fake_unit};

    assert_string_equal(log_units_find(&u, 1, 1000, 5), "u1-1.service");
    assert_string_equal(log_units_find(&u, 1, 1000, 6), "u1-1.service");
    assert_int_equal(asked, 1);
    assert_string_equal(log_units_find(&u, 1, 1000, 5 + LOG_UNIT_AGE_USEC), "u1-2.service");
    /* The number belongs to somebody else now. */
    assert_string_equal(log_units_find(&u, 1, 1001, 6 + LOG_UNIT_AGE_USEC), "u1-3.service");
    assert_null(log_units_find(&u, 9, 1000, 5));
}

static int set_up(void **state)
{
    return mkdtemp(state_folder) && mkdtemp(run_folder) ? 0 : -1;
}

static int tear_down(void **state)
{
    char command[256];

    snprintf(command, sizeof(command), "rm -rf %s %s", state_folder, run_folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_split, fresh, done),
        cmocka_unit_test_setup_teardown(test_power_off, fresh, done),
        cmocka_unit_test_setup_teardown(test_clock_jumps, fresh, done),
        cmocka_unit_test_setup_teardown(test_rate_limit, fresh, done),
        cmocka_unit_test_setup_teardown(test_many_senders, fresh, done),
        cmocka_unit_test_setup_teardown(test_audit_is_apart, fresh, done),
        cmocka_unit_test_setup_teardown(test_filters, fresh, done),
        cmocka_unit_test_setup_teardown(test_times, fresh, done),
        cmocka_unit_test_setup_teardown(test_overtaken, fresh, done),
        cmocka_unit_test_setup_teardown(test_overtaken_in_one_ring, fresh, done),
        cmocka_unit_test_setup_teardown(test_appended_while_walking, fresh, done),
        cmocka_unit_test_setup_teardown(test_formats, fresh, done),
#ifndef __SANITIZE_ADDRESS__
        cmocka_unit_test_setup_teardown(test_no_allocation, fresh, done),
#endif
        cmocka_unit_test_setup_teardown(test_datagrams, fresh, done),
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_units),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
