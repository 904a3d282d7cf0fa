/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <syslog.h>

#include "log-format.h"
#include "log-native.h"
#include "log-receive.h"

#define SECOND 1000000ull

static char text[65536];

/* "PRIORITY|time|host|identifier|procid|msgid|structured data|message" */
static const char *parse_bytes(const void *data, size_t size)
{
    log_syslog s;

    if (log_syslog_parse(data, size, &s) < 0)
        return "nothing";
    const log_span spans[] = {s.time,  s.hostname,        s.identifier, s.procid,
                              s.msgid, s.structured_data, s.message};
    size_t n = (size_t)sprintf(text, "%u", s.priority);
    for (size_t i = 0; i < ELEMENTS(spans); i++)
        n += (size_t)sprintf(text + n, "|%.*s", (int)spans[i].size, strempty(spans[i].data));
    return text;
}

static const char *parse(const char *message)
{
    return parse_bytes(message, strlen(message));
}

/* The examples of RFC 5424, 6.5. */
static void test_rfc5424(void **state)
{
    assert_string_equal(
        parse("<34>1 2003-10-11T22:14:15.003Z mymachine.example.com su - ID47 - \xef\xbb\xbf"
              "'su root' failed for lonvick on /dev/pts/8"),
        "34|2003-10-11T22:14:15.003Z|mymachine.example.com|su||ID47||'su root' failed for "
        "lonvick on /dev/pts/8");
    assert_string_equal(parse("<165>1 2003-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - %% "
                              "It's time to make the do-nuts."),
                        "165|2003-08-24T05:14:15.000003-07:00|192.0.2.1|myproc|8710|||%% It's time "
                        "to make the do-nuts.");
    assert_string_equal(
        parse("<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 "
              "[exampleSDID@32473 iut=\"3\" eventSource=\"Application\" eventID=\"1011\"] "
              "\xef\xbb\xbf"
              "An application event log entry..."),
        "165|2003-10-11T22:14:15.003Z|mymachine.example.com|evntslog||ID47|[exampleSDID@32473 "
        "iut=\"3\" eventSource=\"Application\" eventID=\"1011\"]|An application event log "
        "entry...");
    assert_string_equal(
        parse("<165>1 2003-10-11T22:14:15.003Z mymachine.example.com evntslog - ID47 "
              "[exampleSDID@32473 iut=\"3\"][examplePriority@32473 class=\"high\"]"),
        "165|2003-10-11T22:14:15.003Z|mymachine.example.com|evntslog||ID47|[exampleSDID@32473 "
        "iut=\"3\"][examplePriority@32473 class=\"high\"]|");
    assert_string_equal(parse("<0>1 - - - - - -"), "0|||||||");
    /* Not well formed: nothing is lost, and it is not taken for what it is not. */
    assert_string_equal(parse("<13>1 - host app - - [a b] x"), "13|||||||1 - host app - - [a b] x");
    assert_string_equal(parse("<13>1 - host app - - [a b=\"c\"x] x"),
                        "13|||||||1 - host app - - [a b=\"c\"x] x");
    assert_string_equal(parse("<13>2 - host app - - - x"), "13|||||||2 - host app - - - x");
}

/* The examples of RFC 3164, 5.4, and what devices send. */
static void test_rfc3164(void **state)
{
    assert_string_equal(
        parse("<34>Oct 11 22:14:15 mymachine su: 'su root' failed for lonvick on /dev/pts/8"),
        "34|Oct 11 22:14:15|mymachine|su||||'su root' failed for lonvick on /dev/pts/8");
    assert_string_equal(parse("Use the BFG!"), "13|||||||Use the BFG!");
    assert_string_equal(
        parse("<165>Aug 24 05:34:00 CST 1987 mymachine myproc[10]: %% It's time to make the "
              "do-nuts.  %%  Ingredients: Mix=OK, Jelly=OK #"),
        "165|Aug 24 05:34:00|CST|||||1987 mymachine myproc[10]: %% It's time to make the "
        "do-nuts.  %%  Ingredients: Mix=OK, Jelly=OK #");
    assert_string_equal(
        parse("<0>1990 Oct 22 10:52:01 TZ-6 scapegoat.dmz.example.org 10.1.2.3 sched[0]: That's "
              "All Folks!"),
        "0|||||||1990 Oct 22 10:52:01 TZ-6 scapegoat.dmz.example.org 10.1.2.3 sched[0]: That's All "
        "Folks!");
    assert_string_equal(parse("<13>Feb  5 17:32:18 10.0.0.99 Use the BFG!"),
                        "13|Feb  5 17:32:18|10.0.0.99|||||Use the BFG!");
    /* busybox's syslogd sends no host name. */
    assert_string_equal(parse("<86>Nov 24 15:31:16 cron[7]: job\n"),
                        "86|Nov 24 15:31:16||cron|7|||job");
    assert_string_equal(parse("<30>2026-11-24T15:31:16.123456+01:00 node app[1]: message\r\n"),
                        "30|2026-11-24T15:31:16.123456+01:00|node|app|1|||message");
    assert_string_equal(parse("<30>kernel: started"), "30|||kernel||||started");
    assert_string_equal(parse("<30>see http://x.org/"), "30|||||||see http://x.org/");
    assert_string_equal(parse("<30>http://x.org/"), "30|||||||http://x.org/");
    /* What is no priority is text. */
    for (const char *const *bad = (const char *const[]){"<>x", "<192>x", "<1920>x", "<01>x", "<a>x",
                                                        "<1", "<13 >x", NULL};
         *bad; bad++) {
        char expected[64];
        snprintf(expected, sizeof(expected), "13|||||||%s", *bad);
        assert_string_equal(parse(*bad), expected);
    }
    assert_string_equal(parse("<191>x"), "191|||||||x");
    assert_string_equal(parse(""), "nothing");
    assert_string_equal(parse_bytes("\0\n\r\n", 4), "nothing");
}

static const char *fields_of(const char *message)
{
    static uint8_t fields[LOG_SYSLOG_FIELDS_MAX];
    log_fields at;
    log_field field;
    log_syslog s;
    size_t size, n = 0;

    assert_int_equal(log_syslog_parse(message, strlen(message), &s), 0);
    size = log_syslog_fields(&s, fields);
    assert_int_equal(log_fields_check(fields, size), 0);
    log_fields_init(&at, fields, size);
    while (log_fields_next(&at, &field) > 0)
        n += (size_t)sprintf(text + n, "%.*s=%.*s\n", (int)field.name_size, field.name,
                             (int)field.size, (const char *)field.value);
    return text;
}

static void test_fields(void **state)
{
    char many[LOG_SYSLOG_MAX + 1];
    size_t n;

    assert_string_equal(fields_of("<165>1 2003-10-11T22:14:15.003Z h app 7 ID47 [ex-S@32473 "
                                  "iut=\"3\" s=\"a\\\"b\\]c\\\\d\\e\"][x] text"),
                        "MESSAGE=text\nIDENTIFIER=app\nHOSTNAME=h\nPROCID=7\nMSGID=ID47\n"
                        "STRUCTURED_DATA=[ex-S@32473 iut=\"3\" s=\"a\\\"b\\]c\\\\d\\e\"][x]\n"
                        "SENDER_TIME=2003-10-11T22:14:15.003Z\n"
                        "SD_EX_S_32473_IUT=3\nSD_EX_S_32473_S=a\"b]c\\d\\e\n");
    /* A node cannot claim what is h-logged's or the audit's. */
    assert_null(strstr(fields_of("<13>1 - - - - - [UNIT AUDIT=\"x\"][PEER DROPPED=\"1\"] x"), "\nPEER="));
    /* More parameters than there is room for. */
    n = (size_t)sprintf(many, "<13>1 - - - - - [a");
    while (n + 16 < sizeof(many))
        n += (size_t)sprintf(many + n, " b=\"c\"");
    sprintf(many + n, "] x");
    assert_non_null(strstr(fields_of(many), "SD_A_B=c\n"));
}

/* --- frames
 * ----------------------------------------------------------------------------------------- */

static void on_frame(const void *data, size_t size, bool cut, void *userdata)
{
    size_t n = strlen(text);

    sprintf(text + n, "[%.*s]%s", (int)MIN_OF(size, (size_t)20), (const char *)data,
            cut ? "cut" : "");
}

static const char *frames(const void *data, size_t size, size_t step)
{
    static log_syslog_stream s;

    s = (log_syslog_stream){};
    *text = '\0';
    for (size_t at = 0; at < size; at += step)
        if (log_syslog_stream_feed(&s, (const char *)data + at, MIN_OF(step, size - at), on_frame,
                                   NULL) < 0)
            return strcat(text, "bad");
    log_syslog_stream_end(&s, on_frame, NULL);
    return text;
}

static void test_frames(void **state)
{
    static char large[3 * LOG_SYSLOG_MAX];
    size_t n;

    for (size_t step = 1; step < 40; step += 3) {
#define IS(input, expected) assert_string_equal(frames(input, sizeof(input) - 1, step), expected)
        IS("5 hello6 <13>a\n5 last!", "[hello][<13>a\n][last!]");
        IS("one\ntwo\r\n\n\0three", "[one][two\r][three]");
        IS("<13>x\n4 <13>y\n", "[<13>x][<13>][y]");
        IS("10 half", "");
        IS("5x", "bad");
        IS("1048577 x", "bad");
        IS("99999999999999999999 x", "bad");
        IS("0 x\n", "[0 x]");
#undef IS
    }
    /* Longer than is kept: the rest is passed over, what follows is not. */
    memset(large, 'x', sizeof(large));
    strcpy(large + 2 * LOG_SYSLOG_MAX, "\n<13>y\n");
    assert_string_equal(frames(large, strlen(large), 1000), "[xxxxxxxxxxxxxxxxxxxx]cut[<13>y]");
    n = (size_t)sprintf(large, "%u ", LOG_SYSLOG_MAX + 5);
    memset(large + n, 'x', LOG_SYSLOG_MAX + 5);
    strcpy(large + n + LOG_SYSLOG_MAX + 5, "3 abc");
    assert_string_equal(frames(large, strlen(large), 1000), "[xxxxxxxxxxxxxxxxxxxx]cut[abc]");
}

/* --- networks
 * --------------------------------------------------------------------------------------- */

static bool allowed(const char *networks, const char *address)
{
    log_networks n = {};
    char copy[256], *rest = copy, *one;
    log_address a;
    socklen_t size;

    snprintf(copy, sizeof(copy), "%s", networks);
    while ((one = strsep(&rest, " ")))
        assert_int_equal(log_networks_add(&n, one), 0);
    assert_int_equal(log_address_parse(address, &a, &size), 0);
    return log_networks_have(&n, &a);
}

static void test_networks(void **state)
{
    log_networks n = {};
    log_address a;
    socklen_t size;
    log_peer peer;

    assert_true(allowed("10.0.0.0/8", "10.255.1.2:5"));
    assert_false(allowed("10.0.0.0/8", "11.0.0.1:5"));
    assert_true(allowed("192.168.1.128/25", "192.168.1.129:5"));
    assert_false(allowed("192.168.1.128/25", "192.168.1.127:5"));
    assert_true(allowed("192.0.2.7", "192.0.2.7:5"));
    assert_false(allowed("192.0.2.7", "192.0.2.6:5"));
    assert_true(allowed("0.0.0.0/0", "203.0.113.9:1"));
    assert_false(allowed("0.0.0.0/0", "[2001:db8::1]:1"));
    assert_false(allowed("::/0", "203.0.113.9:1"));
    assert_true(allowed("::/0", "[2001:db8::1]:1"));
    assert_true(allowed("fd00::/8 10.0.0.0/8", "[fd12::1]:1"));
    assert_true(allowed("10.0.0.0/8", "[::ffff:10.0.0.1]:1"));
    assert_false(allowed("10.0.0.0/8", "[::ffff:11.0.0.1]:1"));
    for (const char *const *bad =
             (const char *const[]){"", "x", "10.0.0.0/33", "::1/129", "10.0.0.0/", "10.0.0.0/-1",
                                   "10.0.0.0/8x", "10.0.0/8", "/8", NULL};
         *bad; bad++)
        assert_int_equal(log_networks_add(&n, *bad), -EINVAL);
    while (n.n < LOG_NETWORKS_MAX)
        assert_int_equal(log_networks_add(&n, "10.0.0.1"), 0);
    assert_int_equal(log_networks_add(&n, "10.0.0.1"), -E2BIG);

    assert_int_equal(log_address_parse("[2001:db8:1:2:3::4]:1", &a, &size), 0);
    log_peer_of(&a, &peer);
    assert_string_equal(peer.address, "2001:db8:1:2:3::4");
    assert_string_equal(peer.sender, "2001:db8:1:2::/64");
    assert_int_equal(log_address_parse("[::ffff:10.1.2.3]:1", &a, &size), 0);
    log_peer_of(&a, &peer);
    assert_string_equal(peer.address, "10.1.2.3");
    assert_string_equal(peer.sender, "10.1.2.3");
    assert_int_equal(log_address_parse("10.0.0.1", &a, &size), -EINVAL);
    assert_int_equal(log_address_parse("host:1", &a, &size), -EINVAL);
    assert_int_equal(log_address_parse("10.0.0.1:65536", &a, &size), -EINVAL);
}

/* --- sockets
 * ---------------------------------------------------------------------------------------- */

typedef struct node {
    sd_event *event;
    log_book *book;
    log_receive *receive;
    int udp, tcp; /* what sends */
    uint16_t port;
    log_settings settings;
} node;

/* A pair of ports of loopback on which nothing else is. */
static void listen_somewhere(node *n)
{
    char udp[64], tcp[64];
    int r;

    for (n->port = 20514; n->port < 21514; n->port++) {
        snprintf(tcp, sizeof(tcp), "tcp:127.0.0.1:%u", n->port);
        snprintf(udp, sizeof(udp), "udp:127.0.0.1:%u", n->port);
        r = log_receive_listen(n->receive, tcp);
        if (r >= 0 && log_receive_listen(n->receive, udp) >= 0)
            return;
        assert_true(r >= 0 || r == -EADDRINUSE);
    }
    fail_msg("no port is free");
}

static int connected(const node *n, int type)
{
    struct sockaddr_in a = {.sin_family = AF_INET,
                            .sin_port = htons(n->port),
                            .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
    return fd;
}

static int begin(void **state)
{
    static node n;
    log_networks all = {};

    n = (node){.settings = {.storage = LOG_STORAGE_VOLATILE,
                            .rate_interval = 3600 * SECOND,
                            .rate_burst = 10,
                            .node_burst = 100}};
    assert_int_equal(sd_event_new(&n.event), 0);
    assert_int_equal(log_book_open(&(log_book_options){.settings = &n.settings,
                                                       .now = log_clock_now()},
                                   &n.book),
                     0);
    assert_int_equal(log_receive_new(n.event, n.book, &n.receive), 0);
    assert_int_equal(log_networks_add(&all, "127.0.0.0/8"), 0);
    log_receive_allow(n.receive, &all);
    listen_somewhere(&n);
    n.udp = connected(&n, SOCK_DGRAM);
    n.tcp = connected(&n, SOCK_STREAM);
    *state = &n;
    return 0;
}

static int end(void **state)
{
    node *n = *state;

    close(n->udp);
    if (n->tcp >= 0)
        close(n->tcp);
    log_receive_free(n->receive);
    log_book_close(n->book);
    sd_event_unref(n->event);
    return 0;
}

/* Runs the loop until as many are stored, or refused, or …, as are wanted. */
#define RUN_UNTIL(n, condition)                                                                    \
    while (!(condition))                                                                           \
    assert_true(sd_event_run((n)->event, 60 * SECOND) > 0)

static uint64_t stored(const node *n)
{
    log_book_statistics st;

    log_book_statistics_get(n->book, &st);
    return st.by_source[LOG_SOURCE_SYSLOG];
}

static log_receive_statistics statistics(const node *n)
{
    log_receive_statistics st;

    log_receive_statistics_get(n->receive, &st);
    return st;
}

static void send_all(int fd, const char *s)
{
    assert_int_equal(send(fd, s, strlen(s), 0), (ssize_t)strlen(s));
}

/* The last record, as JSON. */
static const char *last(const node *n)
{
    log_filter filter = {.backwards = true};
    uint64_t budget = UINT64_MAX;
    static log_text t;
    log_found found;
    log_walk walk;

    log_walk_start(&walk, n->book, &filter);
    assert_int_equal(log_walk_next(&walk, &budget, &found), 1);
    t.size = 0;
    log_format_record(&t, &found, &(log_look){.format = LOG_FORMAT_JSON});
    log_text_put(&t, "", 1);
    return t.data;
}

static void test_udp(void **state)
{
    node *n = *state;
    static char large[LOG_SYSLOG_MAX + 100];

    send_all(n->udp, "<34>Oct 11 22:14:15 mymachine su[5]: failed");
    RUN_UNTIL(n, stored(n) == 1);
    assert_non_null(strstr(last(n), "\"priority\":2,\"facility\":4,\"source\":\"syslog\","
                                    "\"UNIT\":\"syslog@127.0.0.1\",\"PEER\":\"127.0.0.1\","
                                    "\"MESSAGE\":\"failed\",\"IDENTIFIER\":\"su\","
                                    "\"HOSTNAME\":\"mymachine\",\"PROCID\":\"5\","
                                    "\"SENDER_TIME\":\"Oct 11 22:14:15\"}"));
    /* Our clock, not the sender's. */
    assert_null(strstr(last(n), "\"realtime\":0"));
    memset(large, 'x', sizeof(large) - 1);
    send_all(n->udp, large);
    RUN_UNTIL(n, stored(n) == 2);
    assert_non_null(strstr(last(n), "\"TRUNCATED\":\"1\""));
    assert_int_equal(statistics(n).cut, 1);
    send_all(n->udp, "\n");
    RUN_UNTIL(n, statistics(n).malformed == 1);
}

static void test_tcp(void **state)
{
    node *n = *state;

    send_all(n->tcp, "<13>one\n9 <14>hello<15>three");
    RUN_UNTIL(n, stored(n) == 2);
    assert_non_null(strstr(last(n), "\"MESSAGE\":\"hello\""));
    close(n->tcp);
    n->tcp = -1;
    RUN_UNTIL(n, stored(n) == 3);
    assert_non_null(strstr(last(n), "\"MESSAGE\":\"three\""));
    RUN_UNTIL(n, statistics(n).connections == 0);
    n->tcp = connected(n, SOCK_STREAM);
    send_all(n->tcp, "5GET / HTTP/1.1\r\n");
    RUN_UNTIL(n, statistics(n).malformed == 1);
    assert_int_equal(statistics(n).connections, 0);
    assert_non_null(strstr(last(n), "is not syslog"));
}

static void test_who_is_allowed(void **state)
{
    node *n = *state;
    log_networks other = {};
    char c;

    send_all(n->tcp, "<13>one\n");
    RUN_UNTIL(n, stored(n) == 1);
    assert_int_equal(log_networks_add(&other, "10.0.0.0/8"), 0);
    log_receive_allow(n->receive, &other);
    assert_int_equal(recv(n->tcp, &c, 1, 0), 0); /* cut off */
    send_all(n->udp, "<13>two");
    RUN_UNTIL(n, statistics(n).refused == 1);
    assert_non_null(strstr(last(n), "Syslog from 127.0.0.1 is not taken"));
    close(n->tcp);
    n->tcp = connected(n, SOCK_STREAM);
    RUN_UNTIL(n, statistics(n).refused == 2);
    assert_int_equal(stored(n), 1);
}

/* One node has its limit, what is dropped is recorded, and what runs here does not feel it. */
static void test_node_rate(void **state)
{
    node *n = *state;
    log_clock now = log_clock_now();
    log_book_statistics st;

    for (unsigned i = 0; i < 150; i++) {
        send_all(n->udp, "<13>flood");
        RUN_UNTIL(n, (log_book_statistics_get(n->book, &st),
                      st.by_source[LOG_SOURCE_SYSLOG] + st.rate_limited == i + 1));
    }
    assert_int_equal(stored(n), 100);
    assert_int_equal(log_book_append(n->book,
                                     &(log_entry){.when = now, .uid = 0, .source = LOG_SOURCE_NATIVE},
                                     now, NULL),
                     1);
    now.monotonic += 3601 * SECOND;
    log_book_tick(n->book, now);
    assert_non_null(strstr(last(n), "50 records of syslog@127.0.0.1 were dropped"));
    assert_non_null(strstr(last(n), "\"DROPPED\":\"50\""));
}

static void test_connections_are_bounded(void **state)
{
    node *n = *state;
    int fds[LOG_RECEIVE_CONNECTIONS_PEER_MAX];

    for (unsigned i = 0; i < ELEMENTS(fds); i++)
        fds[i] = connected(n, SOCK_STREAM);
    RUN_UNTIL(n, statistics(n).busy == 1);
    assert_int_equal(statistics(n).connections, LOG_RECEIVE_CONNECTIONS_PEER_MAX);
    close(n->tcp);
    n->tcp = -1;
    RUN_UNTIL(n, statistics(n).connections == LOG_RECEIVE_CONNECTIONS_PEER_MAX - 1);
    n->tcp = connected(n, SOCK_STREAM);
    send_all(n->tcp, "<13>there is room again\n");
    RUN_UNTIL(n, stored(n) == 1);
    for (unsigned i = 0; i < ELEMENTS(fds); i++)
        close(fds[i]);
}

static void test_listen_forms(void **state)
{
    node *n = *state;

    for (const char *const *bad =
             (const char *const[]){"", "127.0.0.1:1514", "udp:", "udp:1514", "tls:127.0.0.1:1",
                                   "tcp:localhost:1", NULL};
         *bad; bad++)
        assert_int_equal(log_receive_listen(n->receive, *bad), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rfc5424),
        cmocka_unit_test(test_rfc3164),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_frames),
        cmocka_unit_test(test_networks),
        cmocka_unit_test_setup_teardown(test_udp, begin, end),
        cmocka_unit_test_setup_teardown(test_tcp, begin, end),
        cmocka_unit_test_setup_teardown(test_who_is_allowed, begin, end),
        cmocka_unit_test_setup_teardown(test_node_rate, begin, end),
        cmocka_unit_test_setup_teardown(test_connections_are_bounded, begin, end),
        cmocka_unit_test_setup_teardown(test_listen_forms, begin, end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
