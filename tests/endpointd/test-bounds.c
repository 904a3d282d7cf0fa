/* SPDX-License-Identifier: Apache-2.0 */

/* Every bound of the registrar, filled: what comes beyond it is refused with a word, and only who
 * has filled it feels it. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

#include <channel.h>
#include <hybus/log.h>

#include "endpoints-pace.h"
#include "fake-agent.h"
#include "world.h"

#define FILLER 50000u

static void register_numbered(world *w, client *c, uint32_t id)
{
    char ns[32];

    snprintf(ns, sizeof(ns), "/u%u-%u", world_next_uid, id);
    client_register(w, c, id, ns, NULL, false);
}

/* --- connections ------------------------------------------------------------------------------ */

static void test_connections_of_one_uid(void **state)
{
    client clients[CHANNEL_CONNECTIONS_UID_MAX], other;
    world *w = *state;
    int fds[2];
    char byte;

    for (size_t i = 0; i < CHANNEL_CONNECTIONS_UID_MAX; i++)
        client_connect(w, &clients[i], FILLER);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    world_next_uid = FILLER;
    assert_int_equal(channel_accept(w->channel, fds[1]), -ENOBUFS);
    assert_int_equal(recv(fds[0], &byte, 1, 0), 0);
    close(fds[0]);
    app_connect(w, &other, OTHER);
    /* one that leaves makes room */
    client_close(&clients[0]);
    world_settle(w);
    client_connect(w, &clients[0], FILLER);
    for (size_t i = 0; i < CHANNEL_CONNECTIONS_UID_MAX; i++)
        client_close(&clients[i]);
    client_close(&other);
}

static void test_connections_in_all(void **state)
{
    static client clients[CHANNEL_CONNECTIONS_MAX];
    world *w = *state;
    client server, app, lone;
    size_t n = 0, alive = 0;

    client_connect(w, &lone, FILLER - 1); /* has but one: keeps it */
    for (uint32_t uid = FILLER; n < CHANNEL_CONNECTIONS_MAX - 1; uid++)
        for (size_t i = 0; i < CHANNEL_CONNECTIONS_UID_MAX && n < CHANNEL_CONNECTIONS_MAX - 1; i++)
            client_connect(w, &clients[n++], uid);
    assert_int_equal(server_connect(w, &server), 0);
    app_connect(w, &app, APP);
    client_expect(w, &app, CHANNEL_SERVER);
    client_register_ok(w, &app, 1, "/thermo");
    client_expect(w, &server, CHANNEL_ENTRY);
    client_expect(w, &lone, CHANNEL_HELLO);
    assert_false(client_ended(w, &lone));
    for (size_t i = 0; i < n; i++)
        alive += !client_ended(w, &clients[i]);
    assert_int_equal(alive, n - 2);
    client_close(&server);
    client_close(&app);
    client_close(&lone);
    for (size_t i = 0; i < n; i++)
        client_close(&clients[i]);
}

/* Nobody has more than another: who is there stays. */
static void test_connections_of_many(void **state)
{
    static client clients[CHANNEL_CONNECTIONS_MAX];
    world *w = *state;
    int fds[2];
    char byte;

    for (size_t i = 0; i < ELEMENTS(clients); i++)
        client_connect(w, &clients[i], FILLER + (uint32_t)i);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    world_next_uid = APP;
    assert_int_equal(channel_accept(w->channel, fds[1]), -ENOBUFS);
    assert_int_equal(recv(fds[0], &byte, 1, 0), 0);
    close(fds[0]);
    for (size_t i = 0; i < ELEMENTS(clients); i++) {
        assert_false(client_ended(w, &clients[i]));
        client_close(&clients[i]);
    }
}

/* --- registrations ---------------------------------------------------------------------------- */

static void test_on_their_way_of_one_connection(void **state)
{
    world *w = *state;
    client app;

    app_connect(w, &app, APP);
    w->silent = true;
    for (uint32_t i = 1; i <= JUDGE_ASKED_UID_MAX; i++)
        client_register(w, &app, i, "/thermo", NULL, false);
    assert_int_equal(fake_agent_waiting(), JUDGE_ASKED_UID_MAX);
    client_register(w, &app, 1000, "/thermo", NULL, false);
    client_expect_refused(w, &app, 1000, 429);
    w->silent = false;
    client_expect(w, &app, CHANNEL_REGISTERED);
    for (uint32_t i = 2; i <= JUDGE_ASKED_UID_MAX; i++)
        client_expect_refused(w, &app, i, 409);
    client_close(&app);
}

/* Many connections of one user who has no right to anything: as many questions as one user may have
 * registrations, so that apps and servers are still heard. */
static void test_on_their_way_of_one_uid(void **state)
{
    client fillers[4], app, server;
    world *w = *state;

    for (size_t i = 0; i < ELEMENTS(fillers); i++)
        app_connect(w, &fillers[i], FILLER);
    w->silent = true;
    for (size_t i = 0; i < ELEMENTS(fillers); i++)
        for (uint32_t id = 1; id <= JUDGE_ASKED_UID_MAX; id++)
            client_register(w, &fillers[i], id, "/thermo", NULL, false);
    assert_int_equal(fake_agent_waiting(), JUDGE_ASKED_UID_MAX);
    client_expect_refused(w, &fillers[1], 1, 429);
    app_connect(w, &app, APP);
    client_register(w, &app, 1, "/thermo", NULL, false);
    client_connect(w, &server, HTTPD);
    client_hello(&server, "server", "httpd");
    client_flush(w, &server);
    assert_int_equal(fake_agent_waiting(), JUDGE_ASKED_UID_MAX + 2);
    w->silent = false;
    client_expect(w, &app, CHANNEL_REGISTERED);
    client_expect(w, &server, CHANNEL_HELLO);
    client_expect(w, &server, CHANNEL_ENTRY);
    client_close(&app);
    client_close(&server);
    for (size_t i = 0; i < ELEMENTS(fillers); i++)
        client_close(&fillers[i]);
}

static void test_on_their_way_in_all(void **state)
{
    client fillers[JUDGE_ASKED_MAX / JUDGE_ASKED_UID_MAX], app;
    world *w = *state;

    app_connect(w, &app, APP);
    w->silent = true;
    for (size_t i = 0; i < ELEMENTS(fillers); i++) {
        app_connect(w, &fillers[i], FILLER + (uint32_t)i);
        for (uint32_t id = 1; id <= JUDGE_ASKED_UID_MAX; id++)
            client_register(w, &fillers[i], id, "/thermo", NULL, false);
    }
    assert_int_equal(fake_agent_waiting(), JUDGE_ASKED_MAX);
    client_register(w, &app, 1, "/thermo", NULL, false);
    client_expect_refused(w, &app, 1, 429);
    w->silent = false;
    world_settle(w);
    client_register_ok(w, &app, 2, "/thermo");
    client_close(&app);
    for (size_t i = 0; i < ELEMENTS(fillers); i++)
        client_close(&fillers[i]);
}

static void test_registrations(void **state)
{
    static client clients[ENDPOINTS_MAX / ENDPOINTS_UID_MAX];
    world *w = *state;
    client late, server;

    fake_agent_grant_all();
    for (uint32_t i = 0; i < ELEMENTS(clients); i++) {
        app_connect(w, &clients[i], FILLER + i);
        for (uint32_t id = 1; id <= ENDPOINTS_UID_MAX; id++) {
            register_numbered(w, &clients[i], id);
            client_expect(w, &clients[i], CHANNEL_REGISTERED);
        }
        if (i > 0)
            continue;
        register_numbered(w, &clients[0], 1000); /* its own bound */
        client_expect_refused(w, &clients[0], 1000, 429);
        assert_string_equal(client_field(&clients[0], ":reason"),
                            "too many registrations of this user");
    }
    app_connect(w, &late, APP);
    client_register(w, &late, 1, "/thermo", NULL, false);
    client_expect_refused(w, &late, 1, 429);
    assert_string_equal(client_field(&late, ":reason"), "too many registrations");
    /* Those who have a place keep it, and may take it up again. */
    client_register(w, &clients[1], 2000, "/u50001-1", NULL, true);
    client_expect_refused(w, &clients[1], 1, 410);
    client_expect(w, &clients[1], CHANNEL_REGISTERED);
    assert_int_equal(server_connect(w, &server), ENDPOINTS_MAX);
    /* The next life begins with all of them. */
    world_stop(w);
    world_start(w);
    client_close(&server);
    assert_int_equal(server_connect(w, &server), ENDPOINTS_MAX);
    client_close(&late);
    client_close(&server);
    for (size_t i = 0; i < ELEMENTS(clients); i++)
        client_close(&clients[i]);
}

/* --- who does not read ------------------------------------------------------------------------ */

/* An app that asks and never reads: its answers pile up to the limit, then it is cut off, and what
 * it had registered ends. */
static void test_app_that_does_not_read(void **state)
{
    world *w = *state;
    hybus_frame ping = {.type = CHANNEL_PING};
    client app, other;
    int r = 0;

    app_connect(w, &app, APP);
    app_connect(w, &other, OTHER);
    client_register_ok(w, &app, 1, "/thermo");
    for (unsigned i = 0; r >= 0 && i < 1000; i++) {
        for (unsigned k = 0; k < 1000; k++)
            assert_int_equal(hybus_frame_queue_add(&app.queue, &ping), 0);
        while ((r = hybus_frame_queue_flush(&app.queue, app.fd)) == 0)
            world_settle(w);
        world_settle(w);
    }
    assert_true(r == -EPIPE || r == -ECONNRESET);
    client_register_ok(w, &other, 1, "/thermo");
    client_close(&app);
    client_close(&other);
}

/* Registers /thermo with as much to say about it as there may be, and takes it back. The bytes that
 * this is for a server. */
static size_t toggle(world *w, client *app, uint32_t id)
{
    hybus_frame_queue q = {.max = 2 * HYBUS_FRAME_MAX};
    const endpoints_entry *entry;
    size_t size;
    char rule[256];

    snprintf(rule, sizeof(rule), "GET /%0200u endpoint.public", id);
    hybus_frame_begin(&app->queue, CHANNEL_REGISTER, 0, 0, id, 0);
    hybus_frame_put(&app->queue, ":namespace", "/thermo");
    for (unsigned i = 0; i < 16; i++)
        hybus_frame_put(&app->queue, ":rule", rule);
    assert_int_equal(hybus_frame_end(&app->queue), 0);
    client_flush(w, app);
    do /* SERVER, when the server goes */
        assert_true(client_next(w, app));
    while (app->frame.type != CHANNEL_REGISTERED);
    entry = endpoints_find(registrar_table(w->registrar), "/thermo");
    assert_int_equal(endpoints_entry_put(&q, entry, 0), 0);
    assert_int_equal(endpoints_entry_put(&q, entry, CHANNEL_GONE), 0);
    size = hybus_frame_queue_pending(&q);
    hybus_frame_queue_done(&q);
    hybus_frame_begin(&app->queue, CHANNEL_UNREGISTER, 0, 0, id, 0);
    assert_int_equal(hybus_frame_end(&app->queue), 0);
    client_flush(w, app);
    do
        assert_true(client_next(w, app));
    while (app->frame.type != CHANNEL_REFUSED);
    return size;
}

/* A server that has stopped reading: changes wait for it up to the bound, then its connection ends,
 * so that it begins anew with a snapshot. Neither the app nor the registrar waits. */
static void test_server_that_does_not_read(void **state)
{
    world *w = *state;
    client app, server;
    channel_server told;
    size_t size = 0;
    uint32_t id = 1;

    registrar_unpaced(w->registrar);
    assert_int_equal(server_connect(w, &server), 0);
    app_connect(w, &app, APP);
    for (; channel_server_at(w->channel, 0, &told); id++) {
        size += toggle(w, &app, id);
        assert_true(size < CHANNEL_SERVER_QUEUE_MAX + 1024 * 1024); /* and what the kernel holds */
    }
    assert_true(size > CHANNEL_SERVER_QUEUE_MAX);
    assert_true(client_ended(w, &server));
    client_close(&server);
    client_register_ok(w, &app, id, "/lamp");
    assert_int_equal(server_connect(w, &server), 1);
    client_close(&server);
    client_close(&app);
}

/* Values of one app fill its share while a server lags; another's still go through, up to the mark
 * from which on nobody's do; the connection lives. */
static void test_notifications(void **state)
{
    static char body[60 * 1024];
    channel_value v = {.ns = "/thermo",
                       .path = "/",
                       .content_type = "text/plain",
                       .body = body,
                       .size = sizeof(body)};
    world *w = *state;
    unsigned n = 0, uids = 0;
    client server;

    assert_int_equal(server_connect(w, &server), 0);
    v.uid = APP;
    while (channel_notify(w->channel, &v) == 0) {
        world_settle(w);
        assert_true(++n < 100);
    }
    assert_true(n >= CHANNEL_NOTIFY_UID_MAX / sizeof(body));
    v.uid = OTHER;
    assert_int_equal(channel_notify(w->channel, &v), 0);
    for (v.uid = FILLER; channel_notify(w->channel, &v) == 0; v.uid += n % 3 == 0, n++)
        assert_true(++uids < 1000);
    v.size = 1;
    v.uid = 1;
    assert_int_equal(channel_notify(w->channel, &v), -ENOBUFS);
    while (client_next(w, &server))
        assert_int_equal(server.frame.type, CHANNEL_NOTIFY);
    v.size = sizeof(body);
    v.uid = APP;
    assert_int_equal(channel_notify(w->channel, &v), 0);
    client_expect(w, &server, CHANNEL_NOTIFY);
    client_close(&server);
}

/* A server that reads takes any number of values of one app. */
static void test_notifications_that_are_read(void **state)
{
    static char body[60 * 1024];
    channel_value v = {.ns = "/thermo",
                       .path = "/",
                       .content_type = "text/plain",
                       .uid = APP,
                       .body = body,
                       .size = sizeof(body)};
    world *w = *state;
    client server;

    assert_int_equal(server_connect(w, &server), 0);
    for (unsigned i = 0; i < 100; i++) {
        assert_int_equal(channel_notify(w->channel, &v), 0);
        client_expect(w, &server, CHANNEL_NOTIFY);
    }
    for (unsigned i = 0; i < 4; i++) /* and what it has read does not count any more */
        assert_int_equal(channel_notify(w->channel, &v), 0);
    client_close(&server);
}

/* --- who comes and goes ------------------------------------------------------------------------ */

static void unregister(world *w, client *app, uint32_t id)
{
    hybus_frame_begin(&app->queue, CHANNEL_UNREGISTER, 0, 0, id, 0);
    assert_int_equal(hybus_frame_end(&app->queue), 0);
    client_flush(w, app);
    client_expect_refused(w, app, id, 410);
}

static bool registers(world *w, client *app, uint32_t id)
{
    client_register(w, app, id, "/thermo", NULL, false);
    assert_true(client_next(w, app));
    return app->frame.type == CHANNEL_REGISTERED;
}

/* In a loop: for a while as fast as it likes, then as often as others can bear, and only this user. */
static void test_who_registers_too_often(void **state)
{
    world *w = *state;
    client app, again, other;
    uint32_t id = 1;

    app_connect(w, &app, APP);
    for (; registers(w, &app, id); id++) {
        unregister(w, &app, id);
        assert_true(id < 10000);
    }
    assert_true(id > PACE_BURST_USEC / PACE_COST_USEC);
    assert_int_equal(app.frame.type, CHANNEL_REFUSED);
    assert_int_equal(app.frame.code, 429);
    assert_non_null(strstr(client_field(&app, ":reason"), "too often"));
    /* Not by another connection either; and nobody was asked anything. */
    app_connect(w, &again, APP);
    w->silent = true;
    client_register(w, &again, 1, "/lamp", NULL, false);
    client_expect_refused(w, &again, 1, 429);
    assert_int_equal(fake_agent_waiting(), 0);
    w->silent = false;
    app_connect(w, &other, OTHER);
    client_register_ok(w, &other, 1, "/thermo");
    client_close(&other);
    world_settle(w);
    for (id++; !registers(w, &app, id); id++) /* it is forgotten with time */
        assert_true(sd_event_run(w->event, 100000) >= 0);
    client_close(&app);
    client_close(&again);
}

static ino_t table_file(const world *w)
{
    char path[64];
    struct stat st;

    snprintf(path, sizeof(path), "%s/table", w->directory);
    return stat(path, &st) < 0 ? 0 : st.st_ino;
}

/* Whoever comes and goes, the table is not written every time, but what stands in the end is. */
static void test_table_is_written_seldom(void **state)
{
    uint64_t begin, end;
    world *w = *state;
    ino_t before = 0;
    unsigned writes = 0;
    client app;

    registrar_unpaced(w->registrar);
    app_connect(w, &app, APP);
    assert_true(sd_event_now(w->event, CLOCK_MONOTONIC, &begin) >= 0);
    for (uint32_t id = 1; id <= 500; id++) {
        assert_true(registers(w, &app, id));
        unregister(w, &app, id);
        writes += table_file(w) != before; /* each makes a new file */
        before = table_file(w);
    }
    assert_true(sd_event_now(w->event, CLOCK_MONOTONIC, &end) >= 0);
    if (writes > 2 + (end - begin) / REGISTRAR_SAVE_MIN_USEC)
        fail_msg("written %u times", writes);
    client_register_ok(w, &app, 1000, "/lamp");
    while (registrar_unsaved(w->registrar))
        assert_true(sd_event_run(w->event, UINT64_MAX) >= 0);
    assert_true(table_file(w) != before);
    client_close(&app);
}

/* --- the log ---------------------------------------------------------------------------------- */

static size_t count_lines(int fd)
{
    size_t n = 0;
    char text[4096];

    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    for (ssize_t got; (got = read(fd, text, sizeof(text))) > 0;)
        for (ssize_t i = 0; i < got; i++)
            n += text[i] == '\n';
    return n;
}

/* Anybody can connect and talk nonsense, as often as they like; the journal is not theirs. */
static void test_complaints(void **state)
{
    int fd = memfd_create("log", MFD_CLOEXEC), saved = dup(STDERR_FILENO);
    world *w = *state;
    client c;
    size_t n;

    assert_true(fd >= 0 && saved >= 0);
    hybus_log_set_level(LOG_INFO);
    assert_true(dup2(fd, STDERR_FILENO) >= 0);
    for (unsigned i = 0; i < 200; i++) {
        client_connect(w, &c, FILLER);
        if (i % 2) {
            client_hello(&c, "server", "httpd");
            client_flush(w, &c);
        } else
            assert_int_equal(send(c.fd, "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
        (void)client_ended(w, &c);
        client_close(&c);
        world_settle(w);
    }
    assert_true(dup2(saved, STDERR_FILENO) >= 0);
    hybus_log_set_level(LOG_CRIT);
    n = count_lines(fd);
    close(fd);
    close(saved);
    if (n < 10 || n > 50)
        fail_msg("%zu lines", n);
}

#define T(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_connections_of_one_uid),
        T(test_connections_in_all),
        T(test_connections_of_many),
        T(test_on_their_way_of_one_connection),
        T(test_who_registers_too_often),
        T(test_table_is_written_seldom),
        T(test_on_their_way_of_one_uid),
        T(test_on_their_way_in_all),
        T(test_registrations),
        T(test_app_that_does_not_read),
        T(test_server_that_does_not_read),
        T(test_notifications),
        T(test_notifications_that_are_read),
        T(test_complaints),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
