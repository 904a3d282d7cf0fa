/* SPDX-License-Identifier: Apache-2.0 */

/* The registrar as its peers on the channel see it. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>
#include <fcntl.h>

#include <channel.h>

#include "fake-agent.h"
#include "world.h"

/* --- tests ------------------------------------------------------------------------------------ */

static void test_register_reaches_servers(void **state)
{
    world *w = *state;
    client app, server, late;
    char key[32];

    assert_int_equal(server_connect(w, &server), 0);
    app_connect(w, &app, APP);
    client_expect(w, &app, CHANNEL_SERVER);
    assert_string_equal(client_field(&app, ":name"), "httpd");
    assert_string_equal(client_field(&app, ":socket"), "/run/hybridos/servers/h-httpd.sock");
    client_register_ok(w, &app, 3, "/thermo");
    snprintf(key, sizeof(key), "%s", client_field(&app, ":key"));
    client_expect(w, &server, CHANNEL_ENTRY);
    assert_string_equal(client_field(&server, ":namespace"), "/thermo");
    assert_string_equal(client_field(&server, ":key"), key);
    assert_string_equal(client_field(&server, ":uid"), "60700");
    assert_string_equal(client_field(&server, ":road"), "channel");
    assert_string_equal(client_field(&server, ":rule"), "GET /public endpoint.public");

    /* the same for one that comes later; the one before was the same server */
    assert_int_equal(server_connect(w, &late), 1);
    assert_true(client_ended(w, &server));
    hybus_frame_begin(&app.queue, CHANNEL_UNREGISTER, 0, 0, 3, 0);
    assert_int_equal(hybus_frame_end(&app.queue), 0);
    client_flush(w, &app);
    while (app.frame.type != CHANNEL_REFUSED) /* the server that went and the one that came */
        assert_true(client_next(w, &app));
    assert_int_equal(app.frame.code, 410);
    client_expect(w, &late, CHANNEL_ENTRY);
    assert_int_equal(late.frame.flags, CHANNEL_GONE);
    client_close(&app);
    client_close(&server);
    client_close(&late);
}

static void test_connection_is_the_registration(void **state)
{
    world *w = *state;
    client app, server;

    app_connect(w, &app, APP);
    client_register_ok(w, &app, 1, "/thermo");
    assert_int_equal(server_connect(w, &server), 1);
    client_close(&app);
    client_expect(w, &server, CHANNEL_ENTRY);
    assert_int_equal(server.frame.flags, CHANNEL_GONE);
    assert_string_equal(client_field(&server, ":namespace"), "/thermo");
    client_close(&server);
}

static void test_refused_by_policy(void **state)
{
    world *w = *state;
    client app;

    app_connect(w, &app, APP);
    client_register(w, &app, 1, "/secret", NULL, false);
    client_expect_refused(w, &app, 1, 403);
    assert_string_equal(client_field(&app, ":audit"), "f00d-1");
    assert_non_null(strstr(client_field(&app, ":reason"), "endpoint.register:/secret"));
    assert_int_equal(fake_agent_judged(), 1);
    /* the reserved ones need leave to nest, for whoever it is */
    fake_agent_grant(APP, "endpoint.register:/system/x");
    client_register(w, &app, 2, "/system/x", NULL, false);
    client_expect_refused(w, &app, 2, 403);
    assert_non_null(strstr(client_field(&app, ":reason"), "endpoint.nest:/system/x"));
    fake_agent_grant(APP, "endpoint.nest:/system/x");
    client_register_ok(w, &app, 3, "/system/x");
    client_close(&app);
}

static void test_nesting(void **state)
{
    world *w = *state;
    client app, other;

    app_connect(w, &app, APP);
    app_connect(w, &other, OTHER);
    client_register_ok(w, &app, 1, "/thermo");
    client_register(w, &other, 1, "/thermo/x", NULL, false);
    client_expect_refused(w, &other, 1, 403);
    fake_agent_grant(OTHER, "endpoint.nest:/thermo/x");
    client_register_ok(w, &other, 2, "/thermo/x");
    client_close(&app);
    client_close(&other);
}

/* The namespace above appears while the policy is being asked: what counts is the moment of the
 * verdict. */
static void test_nesting_race(void **state)
{
    world *w = *state;
    client app, other;

    app_connect(w, &app, APP);
    app_connect(w, &other, OTHER);
    w->silent = true;
    client_register(w, &app, 1, "/thermo", NULL, false);
    client_register(w, &other, 1, "/thermo/x", NULL, false);
    assert_int_equal(fake_agent_waiting(), 2);
    w->silent = false;
    client_expect(w, &app, CHANNEL_REGISTERED);
    client_expect_refused(w, &other, 1, 403);
    client_close(&app);
    client_close(&other);
}

static void test_conflict_and_takeover(void **state)
{
    world *w = *state;
    client app, again, other;

    app_connect(w, &app, APP);
    app_connect(w, &again, APP);
    app_connect(w, &other, OTHER);
    client_register_ok(w, &app, 1, "/thermo");
    client_register(w, &other, 1, "/thermo", NULL, true);
    client_expect_refused(w, &other, 1, 409);
    client_register(w, &again, 5, "/thermo", NULL, false);
    client_expect_refused(w, &again, 5, 409);
    client_register(w, &again, 6, "/thermo", NULL, true);
    client_expect(w, &again, CHANNEL_REGISTERED);
    client_expect_refused(w, &app, 1, 410);
    client_close(&app);
    world_settle(w);
    assert_non_null(endpoints_find(registrar_table(w->registrar), "/thermo"));
    client_close(&again);
    client_close(&other);
}

static void test_bad_requests(void **state)
{
    world *w = *state;
    client app;

    app_connect(w, &app, APP);
    client_register(w, &app, 1, "/a/../b", NULL, false);
    client_expect_refused(w, &app, 1, 400);
    client_register(w, &app, 2, "/thermo", "nokey", false);
    client_expect_refused(w, &app, 2, 400);
    hybus_frame_begin(&app.queue, CHANNEL_REGISTER, 0, 0, 3, 0);
    assert_int_equal(hybus_frame_end(&app.queue), 0);
    client_flush(w, &app);
    client_expect_refused(w, &app, 3, 400);
    /* unknown types from 0x80 up are for later versions; PING is answered */
    assert_int_equal(hybus_frame_queue_add(&app.queue, &(hybus_frame){.type = 0x99}), 0);
    assert_int_equal(
        hybus_frame_queue_add(&app.queue, &(hybus_frame){.type = CHANNEL_PING, .value = 77}), 0);
    client_flush(w, &app);
    client_expect(w, &app, CHANNEL_PONG);
    assert_int_equal(app.frame.value, 77);
    client_close(&app);
}

/* Each ends its own connection, with what it held, and nobody else's. */
static void test_protocol_errors(void **state)
{
    static const hybus_frame frames[] = {
        {.type = CHANNEL_HELLO, .value = 1},
        {.type = 0x7f},
        {.type = CHANNEL_ENTRY},
        {.type = CHANNEL_START},
        {.type = CHANNEL_REQUEST, .stream = 1},
        {.type = CHANNEL_REGISTER, .stream = 1}, /* an id that is in use */
        {.type = CHANNEL_REGISTER, .stream = 0}, /* the connection itself */
        {.type = CHANNEL_REGISTER, .stream = 9, .size = 3, .payload = (const uint8_t *)"abc"},
    };
    world *w = *state;
    client app, server;

    assert_int_equal(server_connect(w, &server), 0);
    for (size_t i = 0; i < ELEMENTS(frames); i++) {
        app_connect(w, &app, APP);
        client_expect(w, &app, CHANNEL_SERVER);
        client_register_ok(w, &app, 1, "/thermo");
        client_expect(w, &server, CHANNEL_ENTRY);
        assert_int_equal(hybus_frame_queue_add(&app.queue, &frames[i]), 0);
        client_flush(w, &app);
        client_expect(w, &app, CHANNEL_GOAWAY);
        assert_true(client_ended(w, &app));
        client_expect(w, &server, CHANNEL_ENTRY);
        assert_int_equal(server.frame.flags, CHANNEL_GONE);
        client_close(&app);
    }
    /* not even a header that makes sense, and no HELLO */
    client_connect(w, &app, APP);
    assert_int_equal(send(app.fd, "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
    client_expect(w, &app, CHANNEL_HELLO);
    client_expect(w, &app, CHANNEL_GOAWAY);
    assert_true(client_ended(w, &app));
    client_close(&app);
    client_close(&server);
}

static void test_false_servers(void **state)
{
    world *w = *state;
    client c;

    client_connect(w, &c, APP); /* no permission */
    client_hello(&c, "server", "httpd");
    client_flush(w, &c);
    client_expect(w, &c, CHANNEL_HELLO);
    client_expect(w, &c, CHANNEL_GOAWAY);
    assert_int_equal(c.frame.code, 403);
    client_close(&c);

    client_connect(w, &c, HTTPD); /* permission, but another's name */
    client_hello(&c, "server", "coapd");
    client_flush(w, &c);
    client_expect(w, &c, CHANNEL_HELLO);
    client_expect(w, &c, CHANNEL_GOAWAY);
    assert_int_equal(c.frame.code, 403);
    assert_true(client_ended(w, &c));
    client_close(&c);
}

/* When the unit was last asked for; 0: not since untouch(). */
static uint64_t touched(const world *w, const char *stem)
{
    char path[64];
    struct stat st;

    snprintf(path, sizeof(path), "%s/start/%s", w->directory, stem);
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
}

/* So that the next time it is asked for shows. */
static void untouch(const world *w, const char *stem)
{
    struct timespec never[2] = {};
    char path[64];

    snprintf(path, sizeof(path), "%s/start/%s", w->directory, stem);
    assert_int_equal(utimensat(AT_FDCWD, path, never, 0), 0);
}

/* Of /lamp by lamp.service and /thermo by thermo.service. */
static void add_manifests(world *w)
{
    endpoints_spec s[2] = {{.uid = APP, .road = ENDPOINTS_START},
                           {.uid = APP, .road = ENDPOINTS_START}};

    assert_int_equal(endpoints_spec_set_namespace(&s[0], "/lamp", 5), 0);
    assert_int_equal(endpoints_spec_set_unit(&s[0], "lamp.service", 12), 0);
    assert_int_equal(endpoints_spec_set_namespace(&s[1], "/thermo", 7), 0);
    assert_int_equal(endpoints_spec_set_unit(&s[1], "thermo.service", 14), 0);
    assert_int_equal(registrar_set_manifests(w->registrar, s, 2), 0);
    untouch(w, "lamp");
    untouch(w, "thermo");
}

/* It asks before it has been let in, since it still has the table of the life before. */
static void test_server_in_a_hurry(void **state)
{
    world *w = *state;
    client server, stranger;

    add_manifests(w);
    w->silent = true;
    client_connect(w, &server, HTTPD);
    client_hello(&server, "server", "httpd");
    for (unsigned i = 0; i < 10000; i++) { /* more than is read at once */
        hybus_frame_begin(&server.queue, CHANNEL_START, 0, 0, 0, 0);
        hybus_frame_put(&server.queue, ":namespace", "/lamp");
        assert_int_equal(hybus_frame_end(&server.queue), 0);
    }
    (void)hybus_frame_queue_flush(&server.queue, server.fd);
    world_settle(w);
    client_expect(w, &server, CHANNEL_HELLO);
    assert_false(client_next(w, &server));
    assert_false(client_ended(w, &server));
    assert_int_equal(touched(w, "lamp"), 0);
    w->silent = false;
    client_flush(w, &server);
    do
        client_expect(w, &server, CHANNEL_ENTRY);
    while (server.frame.flags != CHANNEL_END);
    assert_int_not_equal(touched(w, "lamp"), 0);

    /* One that is none is not heard at all, nor held on to when it leaves while it is judged. */
    w->silent = true;
    client_connect(w, &stranger, APP);
    client_hello(&stranger, "server", "httpd");
    client_flush(w, &stranger);
    assert_int_equal(fake_agent_waiting(), 1);
    client_close(&stranger);
    world_settle(w);
    assert_int_equal(fake_agent_waiting(), 0);
    client_close(&server);
}

/* A server that has lost its right and does not read its farewell: apps hear of it at once. */
static void test_server_is_withdrawn(void **state)
{
    world *w = *state;
    client app, server;
    channel_server told;

    assert_int_equal(server_connect(w, &server), 0);
    app_connect(w, &app, APP);
    client_expect(w, &app, CHANNEL_SERVER);
    registrar_unpaced(w->registrar);
    for (uint32_t i = 1; i < 2000; i++) { /* more than a socket holds */
        client_register_ok(w, &app, i, "/thermo");
        hybus_frame_begin(&app.queue, CHANNEL_UNREGISTER, 0, 0, i, 0);
        assert_int_equal(hybus_frame_end(&app.queue), 0);
        client_flush(w, &app);
        client_expect_refused(w, &app, i, 410);
    }
    assert_true(channel_server_at(w->channel, 0, &told));
    fake_agent_revoke(HTTPD, "endpoint.serve");
    fake_agent_change();
    client_expect(w, &app, CHANNEL_SERVER);
    assert_int_equal(app.frame.flags, CHANNEL_GONE);
    assert_false(channel_server_at(w->channel, 0, &told));
    assert_true(client_ended(w, &server));
    client_close(&app);
    client_close(&server);
}

static void test_revocation(void **state)
{
    world *w = *state;
    client app, server;

    app_connect(w, &app, APP);
    client_register_ok(w, &app, 1, "/thermo");
    client_register_ok(w, &app, 2, "/lamp");
    assert_int_equal(server_connect(w, &server), 2);
    client_expect(w, &app, CHANNEL_SERVER);

    fake_agent_change(); /* nothing of ours */
    assert_int_not_equal(fake_agent_settled(), 2);
    world_settle(w);
    assert_int_equal(fake_agent_settled(), 2);
    assert_false(client_next(w, &app));

    fake_agent_revoke(APP, "endpoint.register:/thermo");
    fake_agent_change();
    client_expect_refused(w, &app, 1, 403);
    assert_string_equal(client_field(&app, ":audit"), "f00d-1");
    client_expect(w, &server, CHANNEL_ENTRY);
    assert_int_equal(server.frame.flags, CHANNEL_GONE);
    assert_int_equal(fake_agent_settled(), 3);
    assert_non_null(endpoints_find(registrar_table(w->registrar), "/lamp"));

    fake_agent_revoke(HTTPD, "endpoint.serve");
    fake_agent_change();
    client_expect(w, &server, CHANNEL_GOAWAY);
    assert_true(client_ended(w, &server));
    client_expect(w, &app, CHANNEL_SERVER);
    assert_int_equal(app.frame.flags, CHANNEL_GONE);
    assert_int_equal(fake_agent_settled(), 4);
    client_close(&app);
    client_close(&server);
}

/* A change that comes while the last one is still being judged. */
static void test_change_upon_change(void **state)
{
    world *w = *state;
    client app;

    app_connect(w, &app, APP);
    client_register_ok(w, &app, 1, "/thermo");
    w->silent = true;
    fake_agent_change();
    fake_agent_change();
    world_settle(w);
    assert_int_equal(fake_agent_waiting(), 1);
    assert_int_equal(fake_agent_settled(), 0);
    w->silent = false;
    world_settle(w);
    assert_int_equal(fake_agent_settled(), 3);
    /* one that leaves while it is judged does not hold the settlement up */
    w->silent = true;
    fake_agent_change();
    client_close(&app);
    world_settle(w);
    assert_int_equal(fake_agent_settled(), 4);
    assert_int_equal(fake_agent_waiting(), 0);
}

static void test_agent_away(void **state)
{
    world *w = *state;
    client app;

    app_connect(w, &app, APP);
    client_register_ok(w, &app, 1, "/thermo");
    fake_agent_away(true);
    client_register(w, &app, 2, "/lamp", NULL, false);
    client_expect_refused(w, &app, 2, 503);
    fake_agent_change();
    assert_false(client_next(w, &app));
    assert_non_null(endpoints_find(registrar_table(w->registrar), "/thermo"));
    /* rows that are overtaken by changes are asked for again, but not for ever */
    fake_agent_away(false);
    fake_agent_stale(2);
    client_register_ok(w, &app, 3, "/lamp");
    fake_agent_stale(1000);
    client_register(w, &app, 4, "/thermo/y", NULL, false);
    client_expect_refused(w, &app, 4, 503);
    /* What stands does not fall for that. */
    fake_agent_stale(50);
    fake_agent_change();
    assert_false(client_next(w, &app));
    assert_non_null(endpoints_find(registrar_table(w->registrar), "/thermo"));
    assert_int_equal(fake_agent_settled(), 3);
    client_close(&app);
}

static void test_app_leaves_while_asked(void **state)
{
    world *w = *state;
    client app;

    app_connect(w, &app, APP);
    w->silent = true;
    client_register(w, &app, 1, "/thermo", NULL, false);
    assert_int_equal(fake_agent_waiting(), 1);
    hybus_frame_begin(&app.queue, CHANNEL_UNREGISTER, 0, 0, 1, 0);
    assert_int_equal(hybus_frame_end(&app.queue), 0);
    client_flush(w, &app);
    client_expect_refused(w, &app, 1, 410);
    assert_int_equal(fake_agent_waiting(), 0);
    client_register(w, &app, 2, "/thermo", NULL, false);
    client_close(&app);
    world_settle(w);
    assert_int_equal(fake_agent_waiting(), 0);
    assert_null(endpoints_find(registrar_table(w->registrar), "/thermo"));
}

static void test_restart(void **state)
{
    world *w = *state;
    client app, server;
    char key[32];

    app_connect(w, &app, APP);
    client_register_ok(w, &app, 1, "/thermo");
    snprintf(key, sizeof(key), "%s", client_field(&app, ":key"));
    client_register_ok(w, &app, 2, "/lamp");
    world_settle(w);
    world_stop(w);
    client_close(&app);
    world_start(w);
    /* no hole for the servers, whoever is first */
    assert_int_equal(server_connect(w, &server), 2);
    app_connect(w, &app, APP);
    client_expect(w, &app, CHANNEL_SERVER);
    client_register(w, &app, 1, "/thermo", key, false);
    client_expect(w, &app, CHANNEL_REGISTERED);
    assert_string_equal(client_field(&app, ":key"), key);
    client_expect(w, &server, CHANNEL_ENTRY);
    assert_int_equal(server.frame.flags, 0);
    assert_string_equal(client_field(&server, ":key"), key);
    assert_int_equal(endpoints_expire(registrar_table(w->registrar), NULL, NULL), 1);
    client_expect(w, &server, CHANNEL_ENTRY);
    assert_int_equal(server.frame.flags, CHANNEL_GONE);
    assert_string_equal(client_field(&server, ":namespace"), "/lamp");
    client_close(&app);
    client_close(&server);
}

static void test_start_on_demand(void **state)
{
    world *w = *state;
    client app, server;

    add_manifests(w);
    assert_int_equal(server_connect(w, &server), 2);
    for (unsigned i = 0; i < 1000; i++) {
        hybus_frame_begin(&server.queue, CHANNEL_START, 0, 0, 0, 0);
        hybus_frame_put(&server.queue, ":namespace", i % 2 ? "/lamp" : "/nothing");
        assert_int_equal(hybus_frame_end(&server.queue), 0);
    }
    client_flush(w, &server);
    assert_true(touched(w, "lamp") > 0);
    app_connect(w, &app, APP);
    client_expect(w, &app, CHANNEL_SERVER);
    client_register_ok(w, &app, 1, "/lamp");
    client_expect(w, &server, CHANNEL_ENTRY);
    assert_string_equal(client_field(&server, ":road"), "channel");
    /* there is nothing to start while it is there */
    assert_int_equal(registrar_start(w->registrar, "/lamp"), -ENOENT);
    client_close(&app);
    client_expect(w, &server, CHANNEL_ENTRY);
    assert_string_equal(client_field(&server, ":road"), "start");
    assert_string_equal(client_field(&server, ":unit"), "lamp.service");
    assert_int_equal(server.frame.flags, 0);
    client_close(&server);
}

/* systemd has not seen it, since the unit was just stopping: it is asked again, for as long as the
 * app does not come. */
static void test_start_again(void **state)
{
    world *w = *state;
    client app;

    add_manifests(w);
    assert_int_equal(registrar_start(w->registrar, "/lamp"), 0);
    assert_int_equal(registrar_start(w->registrar, "/thermo"), 0);
    assert_int_not_equal(touched(w, "lamp"), 0);
    assert_int_not_equal(touched(w, "thermo"), 0);
    untouch(w, "lamp");
    untouch(w, "thermo");
    app_connect(w, &app, APP);
    client_register_ok(w, &app, 1, "/lamp");
    while (touched(w, "thermo") == 0)
        if (sd_event_run(w->event, 30 * 1000 * 1000) == 0)
            fail_msg("not asked again");
    assert_int_equal(touched(w, "lamp"), 0); /* it would have been its turn */
    client_close(&app);
}

static void test_notify(void **state)
{
    world *w = *state;
    char body[60 * 1024] = "21.5";
    channel_value v = {.ns = "/thermo",
                       .path = "/t",
                       .content_type = "text/plain",
                       .id = "7",
                       .max_age = 60,
                       .has_max_age = true,
                       .body = body,
                       .size = 4};
    client server;
    int r = 0;

    assert_int_equal(channel_notify(w->channel, &v), 0); /* nobody there is fine */
    assert_int_equal(server_connect(w, &server), 0);
    assert_int_equal(channel_notify(w->channel, &v), 0);
    w->silent = false;
    world_settle(w);
    client_expect(w, &server, CHANNEL_NOTIFY);
    assert_string_equal(client_field(&server, ":namespace"), "/thermo");
    assert_string_equal(client_field(&server, ":path"), "/t");
    assert_string_equal(client_field(&server, "content-type"), "text/plain");
    assert_string_equal(client_field(&server, ":max-age"), "60");
    assert_int_equal(server.frame.size - server.frame.value, 4);
    /* a server that does not read: refused past the mark, and the connection lives */
    v.size = sizeof(body);
    for (unsigned i = 0; r == 0 && i < 1000; i++)
        r = channel_notify(w->channel, &v);
    assert_int_equal(r, -ENOBUFS);
    while (client_next(w, &server))
        assert_int_equal(server.frame.type, CHANNEL_NOTIFY);
    assert_int_equal(channel_notify(w->channel, &v), 0);
    client_close(&server);
}

static void test_identify(void **state)
{
    endpoints_identity *identity;
    int fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    assert_int_equal(channel_identify(fds[0], &identity), 0);
    assert_int_equal(identity->uid, getuid());
    assert_true(identity->n_gids >= 1);
    assert_int_equal(identity->gids[0], getgid());
    assert_null(identity->bus_name);
    endpoints_identity_unref(identity);
    close(fds[0]);
    close(fds[1]);
}

#define T(f) cmocka_unit_test_setup_teardown(f, world_setup, world_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_register_reaches_servers),
        T(test_connection_is_the_registration),
        T(test_refused_by_policy),
        T(test_nesting),
        T(test_nesting_race),
        T(test_conflict_and_takeover),
        T(test_bad_requests),
        T(test_protocol_errors),
        T(test_false_servers),
        T(test_server_in_a_hurry),
        T(test_server_is_withdrawn),
        T(test_revocation),
        T(test_change_upon_change),
        T(test_agent_away),
        T(test_app_leaves_while_asked),
        T(test_restart),
        T(test_start_on_demand),
        T(test_start_again),
        T(test_notify),
        cmocka_unit_test(test_identify),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
