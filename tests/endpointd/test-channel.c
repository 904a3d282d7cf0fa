/* SPDX-License-Identifier: Apache-2.0 */

/* Registrar and channel together, over socket pairs, with the agent played by the test. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <cmocka.h>

#include <channel.h>
#include <hybus/log.h>

#include "endpoints-channel.h"
#include "fake-agent.h"

#define APP 60700u
#define OTHER 60701u
#define HTTPD 60604u

typedef struct world {
    sd_event *event;
    sd_event_source *answers;
    registrar *registrar;
    channel *channel;
    char directory[32];
    bool silent; /* the agent does not answer */
} world;

typedef struct client {
    int fd;
    hybus_frame_reader reader;
    hybus_frame_queue queue;
    hybus_frame frame; /* the last one */
} client;

static uint32_t next_uid;

static int fake_identify(int fd, endpoints_identity **ret)
{
    return endpoints_identity_new(next_uid, &next_uid, 1, NULL, ret);
}

static int fake_user_name(uint32_t uid, char **ret)
{
    *ret = strdup(uid == HTTPD ? "h-httpd" : "somebody");
    return *ret ? 0 : -ENOMEM;
}

static int on_answers(sd_event_source *s, void *userdata)
{
    world *w = userdata;

    if (!w->silent)
        (void)fake_agent_answer();
    return 0;
}

/* Runs until nothing is left to do. */
static void settle(world *w)
{
    for (unsigned quiet = 0; quiet < 3; quiet++) {
        assert_true(sd_event_source_set_enabled(w->answers, SD_EVENT_ONESHOT) >= 0);
        while (sd_event_run(w->event, 0) > 0)
            ;
        if (!w->silent && fake_agent_waiting() > 0)
            quiet = 0;
    }
}

static void start(world *w)
{
    channel_options options = {
        .event = w->event, .listen_fd = -1, .identify = fake_identify, .user_name = fake_user_name};

    assert_int_equal(registrar_new(w->event, (hybus_agent *)w, w->directory, &w->registrar), 0);
    assert_int_equal(registrar_restore(w->registrar, "bus-1"), 0);
    options.registrar = w->registrar;
    assert_int_equal(channel_new(&options, &w->channel), 0);
}

static void stop(world *w)
{
    registrar_stop(w->registrar);
    channel_free(TAKE_PTR(w->channel));
    registrar_free(TAKE_PTR(w->registrar));
}

static int setup(void **state)
{
    world *w = calloc(1, sizeof(*w));

    if (!w || sd_event_new(&w->event) < 0)
        return -1;
    strcpy(w->directory, "/tmp/test-channel-XXXXXX");
    if (!mkdtemp(w->directory))
        return -1;
    hybus_log_set_level(LOG_CRIT);
    fake_agent_reset();
    fake_agent_grant(HTTPD, "endpoint.serve");
    fake_agent_grant(APP, "endpoint.register:/thermo");
    fake_agent_grant(APP, "endpoint.register:/lamp");
    fake_agent_grant(OTHER, "endpoint.register:/thermo");
    fake_agent_grant(OTHER, "endpoint.register:/thermo/x");
    if (sd_event_add_defer(w->event, &w->answers, on_answers, w) < 0)
        return -1;
    start(w);
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    world *w = *state;
    char command[128];

    stop(w);
    fake_agent_reset();
    sd_event_source_disable_unref(w->answers);
    sd_event_unref(w->event);
    snprintf(command, sizeof(command), "rm -r %s", w->directory);
    assert_int_equal(system(command), 0);
    free(w);
    return 0;
}

/* --- clients ---------------------------------------------------------------------------------- */

static void client_connect(world *w, client *c, uint32_t uid)
{
    int fds[2];

    *c = (client){.fd = -1, .reader.max = 32u << 20, .queue.max = 32u << 20};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    c->fd = fds[0];
    next_uid = uid;
    assert_int_equal(channel_accept(w->channel, fds[1]), 0);
}

static void client_close(client *c)
{
    c->fd = safe_close(c->fd);
    hybus_frame_reader_done(&c->reader);
    hybus_frame_queue_done(&c->queue);
}

static void client_flush(world *w, client *c)
{
    while (hybus_frame_queue_flush(&c->queue, c->fd) == 0)
        settle(w);
    settle(w);
}

/* The next frame, or false when there is none and none will come. */
static bool next_frame(world *w, client *c)
{
    for (unsigned i = 0; i < 10000; i++) {
        ssize_t n;
        if (hybus_frame_reader_next(&c->reader, &c->frame) == 1)
            return true;
        settle(w);
        n = hybus_frame_reader_fill(&c->reader, c->fd);
        if (n <= 0)
            return false;
    }
    return false;
}

static bool ended(world *w, client *c)
{
    char byte;

    while (next_frame(w, c))
        ;
    return recv(c->fd, &byte, 1, MSG_DONTWAIT) == 0;
}

static void expect(world *w, client *c, uint8_t type)
{
    if (!next_frame(w, c))
        fail_msg("no frame, 0x%02x expected", type);
    if (c->frame.type != type)
        fail_msg("frame 0x%02x, 0x%02x expected", c->frame.type, type);
}

/* A field of the last frame; "" if it has none of the name. */
static const char *field(client *c, const char *name)
{
    static char values[8][1024];
    static unsigned at;
    char *to = values[at++ % 8];
    hybus_frame_fields fields;
    hybus_frame_field f;

    to[0] = 0;
    if (c->frame.type == CHANNEL_NOTIFY) {
        const uint8_t *body;
        size_t size;
        assert_int_equal(hybus_frame_split(&c->frame, &fields, &body, &size), 0);
    } else
        hybus_frame_fields_init(&fields, c->frame.payload, c->frame.size);
    while (hybus_frame_fields_next(&fields, &f) > 0)
        if (hybus_frame_field_is(&f, name))
            snprintf(to, 1024, "%.*s", (int)f.value_size, f.value);
    return to;
}

static void say_hello(client *c, const char *role, const char *name)
{
    hybus_frame_begin(&c->queue, CHANNEL_HELLO, 0, 0, 0, CHANNEL_VERSION);
    hybus_frame_put(&c->queue, ":role", role);
    hybus_frame_put(&c->queue, ":name", name);
    assert_int_equal(hybus_frame_end(&c->queue), 0);
}

static void app_connect(world *w, client *c, uint32_t uid)
{
    client_connect(w, c, uid);
    say_hello(c, "app", NULL);
    client_flush(w, c);
    expect(w, c, CHANNEL_HELLO);
    assert_string_equal(field(c, ":role"), "registrar");
}

/* Up to the end of the snapshot; how many entries it had. */
static size_t server_connect(world *w, client *c)
{
    size_t n = 0;

    client_connect(w, c, HTTPD);
    say_hello(c, "server", "httpd");
    client_flush(w, c);
    expect(w, c, CHANNEL_HELLO);
    for (;; n++) {
        expect(w, c, CHANNEL_ENTRY);
        if (c->frame.flags & CHANNEL_END)
            return n;
    }
}

static void send_register(world *w, client *c, uint32_t id, const char *ns, const char *key,
                          bool takeover)
{
    hybus_frame_begin(&c->queue, CHANNEL_REGISTER, 0, 0, id, 0);
    hybus_frame_put(&c->queue, ":namespace", ns);
    hybus_frame_put(&c->queue, ":key", key);
    hybus_frame_put(&c->queue, ":takeover", takeover ? "1" : NULL);
    hybus_frame_put(&c->queue, ":rule", "GET /public endpoint.public");
    assert_int_equal(hybus_frame_end(&c->queue), 0);
    client_flush(w, c);
}

static void expect_refused(world *w, client *c, uint32_t id, unsigned code)
{
    expect(w, c, CHANNEL_REFUSED);
    assert_int_equal(c->frame.stream, id);
    assert_int_equal(c->frame.code, code);
}

static void register_ok(world *w, client *c, uint32_t id, const char *ns)
{
    send_register(w, c, id, ns, NULL, false);
    expect(w, c, CHANNEL_REGISTERED);
    assert_int_equal(c->frame.stream, id);
    assert_string_equal(field(c, ":namespace"), ns);
}

/* --- tests ------------------------------------------------------------------------------------ */

static void test_register_reaches_servers(void **state)
{
    world *w = *state;
    client app, server, late;
    char key[32];

    assert_int_equal(server_connect(w, &server), 0);
    app_connect(w, &app, APP);
    expect(w, &app, CHANNEL_SERVER);
    assert_string_equal(field(&app, ":name"), "httpd");
    assert_string_equal(field(&app, ":socket"), "/run/hybridos/servers/h-httpd.sock");
    register_ok(w, &app, 3, "/thermo");
    snprintf(key, sizeof(key), "%s", field(&app, ":key"));
    expect(w, &server, CHANNEL_ENTRY);
    assert_string_equal(field(&server, ":namespace"), "/thermo");
    assert_string_equal(field(&server, ":key"), key);
    assert_string_equal(field(&server, ":uid"), "60700");
    assert_string_equal(field(&server, ":road"), "channel");
    assert_string_equal(field(&server, ":rule"), "GET /public endpoint.public");

    /* the same for one that comes later; the one before was the same server */
    assert_int_equal(server_connect(w, &late), 1);
    assert_true(ended(w, &server));
    hybus_frame_begin(&app.queue, CHANNEL_UNREGISTER, 0, 0, 3, 0);
    assert_int_equal(hybus_frame_end(&app.queue), 0);
    client_flush(w, &app);
    while (app.frame.type != CHANNEL_REFUSED) /* the server that went and the one that came */
        assert_true(next_frame(w, &app));
    assert_int_equal(app.frame.code, 410);
    expect(w, &late, CHANNEL_ENTRY);
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
    register_ok(w, &app, 1, "/thermo");
    assert_int_equal(server_connect(w, &server), 1);
    client_close(&app);
    expect(w, &server, CHANNEL_ENTRY);
    assert_int_equal(server.frame.flags, CHANNEL_GONE);
    assert_string_equal(field(&server, ":namespace"), "/thermo");
    client_close(&server);
}

static void test_refused_by_policy(void **state)
{
    world *w = *state;
    client app;

    app_connect(w, &app, APP);
    send_register(w, &app, 1, "/secret", NULL, false);
    expect_refused(w, &app, 1, 403);
    assert_string_equal(field(&app, ":audit"), "f00d-1");
    assert_non_null(strstr(field(&app, ":reason"), "endpoint.register:/secret"));
    assert_int_equal(fake_agent_judged(), 1);
    /* the reserved ones need leave to nest, for whoever it is */
    fake_agent_grant(APP, "endpoint.register:/system/x");
    send_register(w, &app, 2, "/system/x", NULL, false);
    expect_refused(w, &app, 2, 403);
    assert_non_null(strstr(field(&app, ":reason"), "endpoint.nest:/system/x"));
    fake_agent_grant(APP, "endpoint.nest:/system/x");
    register_ok(w, &app, 3, "/system/x");
    client_close(&app);
}

static void test_nesting(void **state)
{
    world *w = *state;
    client app, other;

    app_connect(w, &app, APP);
    app_connect(w, &other, OTHER);
    register_ok(w, &app, 1, "/thermo");
    send_register(w, &other, 1, "/thermo/x", NULL, false);
    expect_refused(w, &other, 1, 403);
    fake_agent_grant(OTHER, "endpoint.nest:/thermo/x");
    register_ok(w, &other, 2, "/thermo/x");
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
    send_register(w, &app, 1, "/thermo", NULL, false);
    send_register(w, &other, 1, "/thermo/x", NULL, false);
    assert_int_equal(fake_agent_waiting(), 2);
    w->silent = false;
    expect(w, &app, CHANNEL_REGISTERED);
    expect_refused(w, &other, 1, 403);
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
    register_ok(w, &app, 1, "/thermo");
    send_register(w, &other, 1, "/thermo", NULL, true);
    expect_refused(w, &other, 1, 409);
    send_register(w, &again, 5, "/thermo", NULL, false);
    expect_refused(w, &again, 5, 409);
    send_register(w, &again, 6, "/thermo", NULL, true);
    expect(w, &again, CHANNEL_REGISTERED);
    expect_refused(w, &app, 1, 410);
    client_close(&app);
    settle(w);
    assert_non_null(endpoints_find(registrar_table(w->registrar), "/thermo"));
    client_close(&again);
    client_close(&other);
}

static void test_bad_requests(void **state)
{
    world *w = *state;
    client app;

    app_connect(w, &app, APP);
    send_register(w, &app, 1, "/a/../b", NULL, false);
    expect_refused(w, &app, 1, 400);
    send_register(w, &app, 2, "/thermo", "nokey", false);
    expect_refused(w, &app, 2, 400);
    hybus_frame_begin(&app.queue, CHANNEL_REGISTER, 0, 0, 3, 0);
    assert_int_equal(hybus_frame_end(&app.queue), 0);
    client_flush(w, &app);
    expect_refused(w, &app, 3, 400);
    /* unknown types from 0x80 up are for later versions; PING is answered */
    assert_int_equal(hybus_frame_queue_add(&app.queue, &(hybus_frame){.type = 0x99}), 0);
    assert_int_equal(
        hybus_frame_queue_add(&app.queue, &(hybus_frame){.type = CHANNEL_PING, .value = 77}), 0);
    client_flush(w, &app);
    expect(w, &app, CHANNEL_PONG);
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
        {.type = CHANNEL_REGISTER, .stream = 9, .size = 3, .payload = (const uint8_t *)"abc"},
    };
    world *w = *state;
    client app, server;

    assert_int_equal(server_connect(w, &server), 0);
    for (size_t i = 0; i < ELEMENTS(frames); i++) {
        app_connect(w, &app, APP);
        expect(w, &app, CHANNEL_SERVER);
        register_ok(w, &app, 1, "/thermo");
        expect(w, &server, CHANNEL_ENTRY);
        assert_int_equal(hybus_frame_queue_add(&app.queue, &frames[i]), 0);
        client_flush(w, &app);
        expect(w, &app, CHANNEL_GOAWAY);
        assert_true(ended(w, &app));
        expect(w, &server, CHANNEL_ENTRY);
        assert_int_equal(server.frame.flags, CHANNEL_GONE);
        client_close(&app);
    }
    /* not even a header that makes sense, and no HELLO */
    client_connect(w, &app, APP);
    assert_int_equal(send(app.fd, "GET / HTTP/1.1\r\n\r\n", 18, 0), 18);
    expect(w, &app, CHANNEL_HELLO);
    expect(w, &app, CHANNEL_GOAWAY);
    assert_true(ended(w, &app));
    client_close(&app);
    client_close(&server);
}

static void test_false_servers(void **state)
{
    world *w = *state;
    client c;

    client_connect(w, &c, APP); /* no permission */
    say_hello(&c, "server", "httpd");
    client_flush(w, &c);
    expect(w, &c, CHANNEL_HELLO);
    expect(w, &c, CHANNEL_GOAWAY);
    assert_int_equal(c.frame.code, 403);
    client_close(&c);

    client_connect(w, &c, HTTPD); /* permission, but another's name */
    say_hello(&c, "server", "coapd");
    client_flush(w, &c);
    expect(w, &c, CHANNEL_HELLO);
    expect(w, &c, CHANNEL_GOAWAY);
    assert_int_equal(c.frame.code, 403);
    assert_true(ended(w, &c));
    client_close(&c);
}

static void test_revocation(void **state)
{
    world *w = *state;
    client app, server;

    app_connect(w, &app, APP);
    register_ok(w, &app, 1, "/thermo");
    register_ok(w, &app, 2, "/lamp");
    assert_int_equal(server_connect(w, &server), 2);
    expect(w, &app, CHANNEL_SERVER);

    fake_agent_change(); /* nothing of ours */
    assert_int_not_equal(fake_agent_settled(), 2);
    settle(w);
    assert_int_equal(fake_agent_settled(), 2);
    assert_false(next_frame(w, &app));

    fake_agent_revoke(APP, "endpoint.register:/thermo");
    fake_agent_change();
    expect_refused(w, &app, 1, 403);
    assert_string_equal(field(&app, ":audit"), "f00d-1");
    expect(w, &server, CHANNEL_ENTRY);
    assert_int_equal(server.frame.flags, CHANNEL_GONE);
    assert_int_equal(fake_agent_settled(), 3);
    assert_non_null(endpoints_find(registrar_table(w->registrar), "/lamp"));

    fake_agent_revoke(HTTPD, "endpoint.serve");
    fake_agent_change();
    expect(w, &server, CHANNEL_GOAWAY);
    assert_true(ended(w, &server));
    expect(w, &app, CHANNEL_SERVER);
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
    register_ok(w, &app, 1, "/thermo");
    w->silent = true;
    fake_agent_change();
    fake_agent_change();
    settle(w);
    assert_int_equal(fake_agent_waiting(), 1);
    assert_int_equal(fake_agent_settled(), 0);
    w->silent = false;
    settle(w);
    assert_int_equal(fake_agent_settled(), 3);
    /* one that leaves while it is judged does not hold the settlement up */
    w->silent = true;
    fake_agent_change();
    client_close(&app);
    settle(w);
    assert_int_equal(fake_agent_settled(), 4);
    assert_int_equal(fake_agent_waiting(), 0);
}

static void test_agent_away(void **state)
{
    world *w = *state;
    client app;

    app_connect(w, &app, APP);
    register_ok(w, &app, 1, "/thermo");
    fake_agent_away(true);
    send_register(w, &app, 2, "/lamp", NULL, false);
    expect_refused(w, &app, 2, 503);
    fake_agent_change();
    assert_false(next_frame(w, &app));
    assert_non_null(endpoints_find(registrar_table(w->registrar), "/thermo"));
    /* rows that are overtaken by changes are asked for again, but not for ever */
    fake_agent_away(false);
    fake_agent_stale(2);
    register_ok(w, &app, 3, "/lamp");
    fake_agent_stale(1000);
    send_register(w, &app, 4, "/thermo/y", NULL, false);
    expect_refused(w, &app, 4, 503);
    client_close(&app);
}

static void test_app_leaves_while_asked(void **state)
{
    world *w = *state;
    client app;

    app_connect(w, &app, APP);
    w->silent = true;
    send_register(w, &app, 1, "/thermo", NULL, false);
    assert_int_equal(fake_agent_waiting(), 1);
    hybus_frame_begin(&app.queue, CHANNEL_UNREGISTER, 0, 0, 1, 0);
    assert_int_equal(hybus_frame_end(&app.queue), 0);
    client_flush(w, &app);
    expect_refused(w, &app, 1, 410);
    assert_int_equal(fake_agent_waiting(), 0);
    send_register(w, &app, 2, "/thermo", NULL, false);
    client_close(&app);
    settle(w);
    assert_int_equal(fake_agent_waiting(), 0);
    assert_null(endpoints_find(registrar_table(w->registrar), "/thermo"));
}

static void test_restart(void **state)
{
    world *w = *state;
    client app, server;
    char key[32];

    app_connect(w, &app, APP);
    register_ok(w, &app, 1, "/thermo");
    snprintf(key, sizeof(key), "%s", field(&app, ":key"));
    register_ok(w, &app, 2, "/lamp");
    settle(w);
    stop(w);
    client_close(&app);
    start(w);
    /* no hole for the servers, whoever is first */
    assert_int_equal(server_connect(w, &server), 2);
    app_connect(w, &app, APP);
    expect(w, &app, CHANNEL_SERVER);
    send_register(w, &app, 1, "/thermo", key, false);
    expect(w, &app, CHANNEL_REGISTERED);
    assert_string_equal(field(&app, ":key"), key);
    expect(w, &server, CHANNEL_ENTRY);
    assert_int_equal(server.frame.flags, 0);
    assert_string_equal(field(&server, ":key"), key);
    assert_int_equal(endpoints_expire(registrar_table(w->registrar)), 1);
    expect(w, &server, CHANNEL_ENTRY);
    assert_int_equal(server.frame.flags, CHANNEL_GONE);
    assert_string_equal(field(&server, ":namespace"), "/lamp");
    client_close(&app);
    client_close(&server);
}

static uint64_t touched(const world *w)
{
    char path[64];
    struct stat st;

    snprintf(path, sizeof(path), "%s/start/lamp", w->directory);
    assert_int_equal(stat(path, &st), 0);
    return (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
}

static void test_start_on_demand(void **state)
{
    world *w = *state;
    client app, server;
    endpoints_spec s = {.uid = APP, .road = ENDPOINTS_START};
    uint64_t made, first;

    assert_int_equal(endpoints_spec_set_namespace(&s, "/lamp", 5), 0);
    assert_int_equal(endpoints_spec_set_unit(&s, "lamp.service", 12), 0);
    assert_int_equal(registrar_set_manifests(w->registrar, &s, 1), 0);
    made = touched(w);
    assert_int_equal(server_connect(w, &server), 1);
    for (unsigned i = 0; i < 1000; i++) {
        hybus_frame_begin(&server.queue, CHANNEL_START, 0, 0, 0, 0);
        hybus_frame_put(&server.queue, ":namespace", i % 2 ? "/lamp" : "/nothing");
        assert_int_equal(hybus_frame_end(&server.queue), 0);
    }
    client_flush(w, &server);
    first = touched(w);
    assert_true(first > made);
    app_connect(w, &app, APP);
    expect(w, &app, CHANNEL_SERVER);
    register_ok(w, &app, 1, "/lamp");
    expect(w, &server, CHANNEL_ENTRY);
    assert_string_equal(field(&server, ":road"), "channel");
    /* there is nothing to start while it is there */
    assert_int_equal(registrar_start(w->registrar, "/lamp"), -ENOENT);
    client_close(&app);
    expect(w, &server, CHANNEL_ENTRY);
    assert_string_equal(field(&server, ":road"), "start");
    assert_string_equal(field(&server, ":unit"), "lamp.service");
    assert_int_equal(server.frame.flags, 0);
    client_close(&server);
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
    settle(w);
    expect(w, &server, CHANNEL_NOTIFY);
    assert_string_equal(field(&server, ":namespace"), "/thermo");
    assert_string_equal(field(&server, ":path"), "/t");
    assert_string_equal(field(&server, "content-type"), "text/plain");
    assert_string_equal(field(&server, ":max-age"), "60");
    assert_int_equal(server.frame.size - server.frame.value, 4);
    /* a server that does not read: refused past the mark, and the connection lives */
    v.size = sizeof(body);
    for (unsigned i = 0; r == 0 && i < 1000; i++)
        r = channel_notify(w->channel, &v);
    assert_int_equal(r, -ENOBUFS);
    while (next_frame(w, &server))
        assert_int_equal(server.frame.type, CHANNEL_NOTIFY);
    assert_int_equal(channel_notify(w->channel, &v), 0);
    client_close(&server);
}

static void test_connection_limits(void **state)
{
    static client clients[CHANNEL_CONNECTIONS_MAX];
    world *w = *state;
    client server, one_more;
    size_t n = 0;
    int fds[2];

    for (uint32_t uid = 1000; n < CHANNEL_CONNECTIONS_MAX; uid++)
        for (size_t i = 0; i < CHANNEL_CONNECTIONS_UID_MAX; i++)
            client_connect(w, &clients[n++], uid);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
    next_uid = 1000;
    assert_int_equal(channel_accept(w->channel, fds[1]), -ENOBUFS);
    assert_int_equal(recv(fds[0], &n, 1, 0), 0);
    close(fds[0]);
    /* many connections of few keep neither a server nor an app out */
    assert_int_equal(server_connect(w, &server), 0);
    app_connect(w, &one_more, APP);
    client_close(&server);
    client_close(&one_more);
    for (size_t i = 0; i < CHANNEL_CONNECTIONS_MAX; i++)
        client_close(&clients[i]);
}

static void test_pending_limit(void **state)
{
    world *w = *state;
    client app;

    app_connect(w, &app, APP);
    w->silent = true;
    for (uint32_t i = 1; i <= CHANNEL_PENDING_MAX; i++)
        send_register(w, &app, i, "/thermo", NULL, false);
    assert_int_equal(fake_agent_waiting(), CHANNEL_PENDING_MAX);
    send_register(w, &app, 1000, "/thermo", NULL, false);
    expect_refused(w, &app, 1000, 429);
    w->silent = false;
    expect(w, &app, CHANNEL_REGISTERED);
    for (uint32_t i = 2; i <= CHANNEL_PENDING_MAX; i++)
        expect_refused(w, &app, i, 409);
    client_close(&app);
}

/* An app that asks and never reads: its answers pile up to the limit, then it is cut off. */
static void test_app_that_does_not_read(void **state)
{
    world *w = *state;
    hybus_frame ping = {.type = CHANNEL_PING};
    client app, other;
    int r = 0;

    app_connect(w, &app, APP);
    app_connect(w, &other, OTHER);
    for (unsigned i = 0; r >= 0 && i < 1000; i++) {
        for (unsigned k = 0; k < 1000; k++)
            assert_int_equal(hybus_frame_queue_add(&app.queue, &ping), 0);
        while ((r = hybus_frame_queue_flush(&app.queue, app.fd)) == 0)
            settle(w);
        settle(w);
    }
    assert_true(r == -EPIPE || r == -ECONNRESET);
    register_ok(w, &other, 1, "/thermo");
    client_close(&app);
    client_close(&other);
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

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

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
        T(test_revocation),
        T(test_change_upon_change),
        T(test_agent_away),
        T(test_app_leaves_while_asked),
        T(test_restart),
        T(test_start_on_demand),
        T(test_notify),
        T(test_connection_limits),
        T(test_pending_limit),
        T(test_app_that_does_not_read),
        cmocka_unit_test(test_identify),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
