/* SPDX-License-Identifier: Apache-2.0 */

/* org.hybridos.Endpoints1 on a bus of the test's own: every member, every error, and what servers
 * are told of it. The filter in front of it has tests of its own. */

#include <pwd.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include <cmocka.h>

#include <channel.h>
#include <hybus/error.h>

#include "endpoints-bus.h"
#include "fake-agent.h"
#include "private-bus.h"
#include "world.h"

#define DEADLINE_SECONDS 60
#define USERS (ENDPOINTS_BUS_OWNERS_MAX / ENDPOINTS_UID_MAX)
#define RULE "GET /public endpoint.public"

typedef struct fixture {
    world *w;
    private_bus *bus;
    sd_bus *daemon;
    endpoints_bus *object;
} fixture;

/* Somebody on the bus, and what they were answered last. */
typedef struct caller {
    fixture *f;
    sd_bus *bus;
    sd_bus_slot *slot, *match;
    sd_bus_message *reply;
    char unregistered[512]; /* the last signal of this name: "/namespace code reason" */
} caller;

static uint32_t us;

/* --- the loop --------------------------------------------------------------------------------- */

static void turn(fixture *f, uint64_t usec)
{
    assert_true(sd_event_run(f->w->event, usec) >= 0);
    if (!f->w->silent)
        (void)fake_agent_answer();
}

static time_t deadline(void)
{
    return time(NULL) + DEADLINE_SECONDS;
}

#define UNTIL(f, condition)                                                                        \
    do {                                                                                           \
        time_t end_ = deadline();                                                                  \
        while (!(condition)) {                                                                     \
            if (time(NULL) > end_)                                                                 \
                fail_msg("%s:%d: not in time: " #condition, __FILE__, __LINE__);                   \
            turn(f, 20000);                                                                        \
        }                                                                                          \
    } while (0)

/* --- life ------------------------------------------------------------------------------------- */

static void publish(fixture *f)
{
    f->daemon = private_bus_connect(f->bus, f->w->event);
    assert_true(sd_bus_request_name(f->daemon, ENDPOINTS_BUS_NAME, 0) >= 0);
    assert_true(endpoints_bus_new(f->daemon, f->w->registrar, f->w->channel, &f->object) >= 0);
}

static void end(fixture *f)
{
    registrar_stop(f->w->registrar);
    endpoints_bus_free(f->object);
    sd_bus_flush_close_unref(f->daemon);
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof(*f));
    void *w = NULL;

    assert_non_null(f);
    us = geteuid();
    assert_true(hybus_error_register() >= 0);
    assert_int_equal(world_setup(&w), 0);
    f->w = w;
    fake_agent_grant(us, "endpoint.register:/thermo");
    fake_agent_grant(us, "endpoint.register:/lamp");
    fake_agent_grant(us, "endpoint.register:/system/x");
    f->bus = private_bus_new();
    publish(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;
    void *w = f->w;

    end(f);
    private_bus_free(f->bus);
    assert_int_equal(world_teardown(&w), 0);
    free(f);
    return 0;
}

/* --- callers ---------------------------------------------------------------------------------- */

static int on_unregistered(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    caller *c = userdata;
    const char *ns, *reason;
    uint32_t code;

    assert_true(sd_bus_message_read(m, "sus", &ns, &code, &reason) > 0);
    snprintf(c->unregistered, sizeof(c->unregistered), "%s %u %s", ns, code, reason);
    return 0;
}

static int on_ready(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    *(bool *)userdata = true;
    return 0;
}

/* As whom a socket is connected is whose connection it is. */
static void caller_open_as(fixture *f, caller *c, uint32_t uid)
{
    bool ready = false;

    *c = (caller){.f = f};
    assert_int_equal(seteuid(uid), 0);
    c->bus = private_bus_connect(f->bus, f->w->event);
    assert_int_equal(seteuid(us), 0);
    assert_true(sd_bus_match_signal_async(c->bus, &c->match, NULL, ENDPOINTS_BUS_PATH,
                                          ENDPOINTS_BUS_NAME, "Unregistered", on_unregistered, NULL,
                                          c) >= 0);
    assert_true(sd_bus_call_method_async(c->bus, NULL, "org.freedesktop.DBus", "/",
                                         "org.freedesktop.DBus", "GetId", on_ready, &ready,
                                         "") >= 0);
    UNTIL(f, ready);
}

static void caller_open(fixture *f, caller *c)
{
    caller_open_as(f, c, us);
}

static void caller_close(caller *c)
{
    sd_bus_message_unref(c->reply);
    sd_bus_slot_unref(c->slot);
    sd_bus_slot_unref(c->match);
    sd_bus_flush_close_unref(c->bus);
    *c = (caller){};
}

static const char *caller_name(caller *c)
{
    const char *name;

    assert_true(sd_bus_get_unique_name(c->bus, &name) >= 0);
    return name;
}

static int on_reply(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    caller *c = userdata;

    c->reply = sd_bus_message_ref(m);
    return 0;
}

static sd_bus_message *message(caller *c, const char *member)
{
    sd_bus_message *m;

    assert_true(sd_bus_message_new_method_call(c->bus, &m, ENDPOINTS_BUS_NAME, ENDPOINTS_BUS_PATH,
                                               ENDPOINTS_BUS_NAME, member) >= 0);
    return m;
}

/* Sends; `c->reply` is there when it has come. */
static void send_message(caller *c, sd_bus_message *m)
{
    c->reply = sd_bus_message_unref(c->reply);
    c->slot = sd_bus_slot_unref(c->slot);
    assert_true(sd_bus_call_async(c->bus, &c->slot, m, on_reply, c, 0) >= 0);
    sd_bus_message_unref(m);
}

static void answered(caller *c)
{
    UNTIL(c->f, c->reply);
}

static void expect_error(caller *c, const char *name, const char *text)
{
    const sd_bus_error *e;

    answered(c);
    e = sd_bus_message_get_error(c->reply);
    if (!e)
        fail_msg("no error, %s expected", name);
    assert_string_equal(e->name, name);
    if (!strstr(e->message, text))
        fail_msg("\"%s\" does not contain \"%s\"", e->message, text);
}

static void expect_ok(caller *c)
{
    const sd_bus_error *e;

    answered(c);
    e = sd_bus_message_get_error(c->reply);
    if (e)
        fail_msg("%s: %s", e->name, e->message);
}

/* --- Register --------------------------------------------------------------------------------- */

/* `types` and what follows: the options, as for sd_bus_message_append(). */
static void send_register(caller *c, const char *ns, const char *types, ...)
{
    sd_bus_message *m = message(c, "Register");
    va_list args;

    assert_true(sd_bus_message_append(m, "so", ns, "/org/example/Thermo") >= 0);
    va_start(args, types);
    assert_true(sd_bus_message_appendv(m, types, args) >= 0);
    va_end(args);
    send_message(c, m);
}

static const char *register_ok(caller *c, const char *ns)
{
    const char *key;

    send_register(c, ns, "a{sv}", 0);
    expect_ok(c);
    assert_true(sd_bus_message_read(c->reply, "s", &key) > 0);
    assert_int_equal(strlen(key), ENDPOINTS_KEY_SIZE);
    return key;
}

/* The next thing that a server is told, with the bus in the loop. */
static void expect_entry(fixture *f, client *server, const char *ns, uint8_t flags)
{
    UNTIL(f, hybus_frame_reader_next(&server->reader, &server->frame) == 1 ||
                 (hybus_frame_reader_fill(&server->reader, server->fd) > 0 &&
                  hybus_frame_reader_next(&server->reader, &server->frame) == 1));
    assert_int_equal(server->frame.type, CHANNEL_ENTRY);
    assert_string_equal(client_field(server, ":namespace"), ns);
    assert_int_equal(server->frame.flags, flags);
}

static void test_register_is_told(void **state)
{
    fixture *f = *state;
    client server, late;
    const char *key;
    char first[32];
    caller c;

    caller_open(f, &c);
    assert_int_equal(server_connect(f->w, &server), 0);
    send_register(&c, "/thermo", "a{sv}", 6, "attributes", "s", "rt=\"heat\"", "title", "s", "Heat", "stream", "b", 1, "watch", "b",
                  1, "takeover", "b", 0, "rules", "as", 2, RULE, "* / endpoint.write");
    expect_ok(&c);
    assert_true(sd_bus_message_read(c.reply, "s", &key) > 0);
    expect_entry(f, &server, "/thermo", 0);
    assert_string_equal(client_field(&server, ":key"), key);
    assert_string_equal(client_field(&server, ":road"), "bus");
    assert_string_equal(client_field(&server, ":bus-name"), caller_name(&c));
    assert_string_equal(client_field(&server, ":object"), "/org/example/Thermo");
    assert_string_equal(client_field(&server, ":stream"), "1");
    assert_string_equal(client_field(&server, ":watch"), "1");
    assert_string_equal(client_field(&server, ":title"), "Heat");
    assert_string_equal(client_field(&server, ":attributes"), "rt=\"heat\"");
    assert_string_equal(client_field(&server, ":rule"), "* / endpoint.write"); /* the last one */
    assert_int_equal(atoi(client_field(&server, ":uid")), us);
    snprintf(first, sizeof(first), "%s", client_field(&server, ":revision"));

    /* Without options; and the snapshot of one that comes later. */
    (void)register_ok(&c, "/lamp");
    expect_entry(f, &server, "/lamp", 0);
    assert_string_equal(client_field(&server, ":stream"), "");
    assert_string_equal(client_field(&server, ":watch"), "");
    assert_true(atoi(client_field(&server, ":revision")) > atoi(first));
    assert_int_equal(server_connect(f->w, &late), 2);
    assert_int_equal(atoi(client_field(&late, ":revision")),
                     endpoints_revision(registrar_table(f->w->registrar)));

    /* It ends with the connection. */
    caller_close(&c);
    expect_entry(f, &late, "/thermo", CHANNEL_GONE);
    expect_entry(f, &late, "/lamp", CHANNEL_GONE);
    client_close(&server);
    client_close(&late);
}

static void test_register_what_is_not_valid(void **state)
{
    fixture *f = *state;
    sd_bus_message *m;
    char path[300];
    caller c;

    caller_open(f, &c);
    send_register(&c, "thermo", "a{sv}", 0);
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "\"thermo\" is not a namespace");
    send_register(&c, "/a/../b", "a{sv}", 0);
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "is not a namespace");
    send_register(&c, "/thermo", "a{sv}", 1, "colour", "s", "red");
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "unknown option \"colour\"");
    send_register(&c, "/thermo", "a{sv}", 1, "title", "u", 7);
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "wrong type");
    send_register(&c, "/thermo", "a{sv}", 1, "takeover", "s", "yes");
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "wrong type");
    send_register(&c, "/thermo", "a{sv}", 1, "rules", "s", RULE);
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "wrong type");
    send_register(&c, "/thermo", "a{sv}", 1, "title", "s", "two\nlines");
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "\"title\" is not valid");
    send_register(&c, "/thermo", "a{sv}", 1, "key", "s", "0123");
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "\"key\" is not valid");
    send_register(&c, "/thermo", "a{sv}", 1, "rules", "as", 2, RULE, "GET");
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "\"GET\" is not METHODS SUBPATH PERMISSION");

    m = message(&c, "Register");
    memset(path, 'x', sizeof(path) - 1);
    path[0] = '/';
    path[sizeof(path) - 1] = 0;
    assert_true(sd_bus_message_append(m, "soa{sv}", "/thermo", path, 0) >= 0);
    send_message(&c, m);
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "object path is too long");

    m = message(&c, "Register");
    assert_true(sd_bus_message_append(m, "ss", "/thermo", "/x") >= 0);
    send_message(&c, m);
    expect_error(&c, SD_BUS_ERROR_INVALID_ARGS, "soa{sv}");

    m = message(&c, "Register");
    assert_true(sd_bus_message_append(m, "so", "/thermo", "/x") >= 0);
    assert_true(sd_bus_message_open_container(m, 'a', "{sv}") >= 0);
    for (unsigned i = 0; i <= ENDPOINTS_BUS_OPTIONS_MAX; i++)
        assert_true(sd_bus_message_append(m, "{sv}", "stream", "b", 1) >= 0);
    assert_true(sd_bus_message_close_container(m) >= 0);
    send_message(&c, m);
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "more than 16 options");

    m = message(&c, "Register");
    assert_true(sd_bus_message_append(m, "so", "/thermo", "/x") >= 0);
    assert_true(sd_bus_message_open_container(m, 'a', "{sv}") >= 0);
    assert_true(sd_bus_message_open_container(m, 'e', "sv") >= 0);
    assert_true(sd_bus_message_append(m, "s", "rules") >= 0);
    assert_true(sd_bus_message_open_container(m, 'v', "as") >= 0);
    assert_true(sd_bus_message_open_container(m, 'a', "s") >= 0);
    for (unsigned i = 0; i <= ENDPOINTS_RULES_MAX; i++)
        assert_true(sd_bus_message_append(m, "s", RULE) >= 0);
    for (unsigned i = 0; i < 4; i++)
        assert_true(sd_bus_message_close_container(m) >= 0);
    send_message(&c, m);
    expect_error(&c, HYBUS_ERROR_LIMIT_EXCEEDED, "too many rules");

    assert_null(endpoints_find(registrar_table(f->w->registrar), "/thermo"));
    assert_int_equal(fake_agent_judged(), 0); /* nobody was asked for any of this */
    caller_close(&c);
}

static void test_register_refused(void **state)
{
    fixture *f = *state;
    client app;
    caller c;

    caller_open(f, &c);
    send_register(&c, "/secret", "a{sv}", 0);
    expect_error(&c, HYBUS_ERROR_ACCESS_DENIED, "endpoint.register:/secret");
    assert_non_null(strstr(sd_bus_message_get_error(c.reply)->message, "audit f00d-1"));
    send_register(&c, "/system/x", "a{sv}", 0);
    expect_error(&c, HYBUS_ERROR_ACCESS_DENIED, "endpoint.nest:/system/x");

    /* Another user has it, on the other road: no way to take it over. */
    app_connect(f->w, &app, APP);
    client_register_ok(f->w, &app, 1, "/thermo");
    send_register(&c, "/thermo", "a{sv}", 1, "takeover", "b", 1);
    expect_error(&c, HYBUS_ERROR_EXISTS, "taken by another user");

    fake_agent_away(true);
    send_register(&c, "/lamp", "a{sv}", 0);
    expect_error(&c, HYBUS_ERROR_POLICY_UNAVAILABLE, "could not be asked");
    fake_agent_away(false);
    (void)register_ok(&c, "/lamp");
    client_close(&app);
    caller_close(&c);
}

static void test_takeover(void **state)
{
    fixture *f = *state;
    caller a, b, bystander;
    char key[32];

    caller_open(f, &a);
    caller_open(f, &b);
    caller_open(f, &bystander);
    (void)register_ok(&a, "/thermo");
    send_register(&a, "/thermo", "a{sv}", 0);
    expect_error(&a, HYBUS_ERROR_EXISTS, "already registered here");
    send_register(&b, "/thermo", "a{sv}", 0);
    expect_error(&b, HYBUS_ERROR_EXISTS, "may ask with takeover");
    send_register(&b, "/thermo", "a{sv}", 1, "key", "s", "0123456789abcdef");
    expect_error(&b, HYBUS_ERROR_EXISTS, "may ask with takeover");
    assert_string_equal(a.unregistered, "");

    send_register(&b, "/thermo", "a{sv}", 1, "takeover", "b", 1);
    expect_ok(&b);
    UNTIL(f, a.unregistered[0]);
    assert_non_null(startswith(a.unregistered, "/thermo 410 "));

    /* With its own key its place is its own, and nobody has lost it. */
    snprintf(key, sizeof(key), "%s", register_ok(&a, "/lamp"));
    a.unregistered[0] = 0;
    send_register(&a, "/lamp", "a{sv}", 1, "key", "s", key);
    expect_ok(&a);
    send_register(&b, "/lamp", "a{sv}", 1, "key", "s", key);
    expect_ok(&b);
    UNTIL(f, a.unregistered[0]);
    assert_non_null(startswith(a.unregistered, "/lamp 410 "));

    /* Who left before has nothing to take along, and nobody else hears of anything. */
    caller_close(&a);
    send_register(&bystander, "/secret", "a{sv}", 0);
    expect_error(&bystander, HYBUS_ERROR_ACCESS_DENIED, "");
    assert_non_null(endpoints_find(registrar_table(f->w->registrar), "/thermo"));
    assert_non_null(endpoints_find(registrar_table(f->w->registrar), "/lamp"));
    assert_string_equal(b.unregistered, "");
    assert_string_equal(bystander.unregistered, "");
    caller_close(&b);
    caller_close(&bystander);
}

static void test_own_key_is_no_news(void **state)
{
    fixture *f = *state;
    char key[32];
    caller c;

    caller_open(f, &c);
    snprintf(key, sizeof(key), "%s", register_ok(&c, "/thermo"));
    send_register(&c, "/thermo", "a{sv}", 1, "key", "s", key);
    expect_ok(&c);
    (void)register_ok(&c, "/lamp"); /* a signal would have come before this answer */
    assert_string_equal(c.unregistered, "");
    caller_close(&c);
}

static void test_revocation(void **state)
{
    fixture *f = *state;
    client server;
    caller c;

    caller_open(f, &c);
    (void)register_ok(&c, "/thermo");
    (void)register_ok(&c, "/lamp");
    assert_int_equal(server_connect(f->w, &server), 2);
    fake_agent_revoke(us, "endpoint.register:/thermo");
    fake_agent_change();
    expect_entry(f, &server, "/thermo", CHANNEL_GONE);
    UNTIL(f, c.unregistered[0]);
    assert_non_null(startswith(c.unregistered, "/thermo 403 "));
    assert_non_null(strstr(c.unregistered, "audit f00d-1"));
    UNTIL(f, fake_agent_settled() == 2);
    assert_non_null(endpoints_find(registrar_table(f->w->registrar), "/lamp"));
    client_close(&server);
    caller_close(&c);
}

static bool is_written(fixture *f, const char *ns)
{
    char path[64], text[65536];
    FILE *file;
    size_t n;

    snprintf(path, sizeof(path), "%s/table", f->w->directory);
    file = fopen(path, "re");
    if (!file)
        return false;
    n = fread(text, 1, sizeof(text), file);
    fclose(file);
    return memmem(text, n, ns, strlen(ns));
}

/* Whoever has been told that they are registered does not ask again after a crash. */
static void test_told_when_it_is_written(void **state)
{
    fixture *f = *state;
    char ns[24];
    caller c;

    caller_open(f, &c);
    fake_agent_grant_all();
    for (unsigned i = 0; i < 30; i++) {
        snprintf(ns, sizeof(ns), "/written-%02u", i);
        (void)register_ok(&c, ns);
        assert_true(is_written(f, ns));
    }
    /* With much to say all at once as well. */
    send_register(&c, "/written-30", "a{sv}", 0);
    UNTIL(f, endpoints_find(registrar_table(f->w->registrar), "/written-30"));
    UNTIL(f, c.reply || is_written(f, "/written-30"));
    expect_ok(&c);
    caller_close(&c);
}

/* What is taken back before it was told of. */
static void test_withdrawn_before_it_is_told(void **state)
{
    fixture *f = *state;
    caller c;

    caller_open(f, &c);
    (void)register_ok(&c, "/thermo");
    send_register(&c, "/lamp", "a{sv}", 0);
    UNTIL(f, endpoints_find(registrar_table(f->w->registrar), "/lamp"));
    if (registrar_unsaved(f->w->registrar)) { /* else the machine was too slow to see it */
        fake_agent_revoke(us, "endpoint.register:/lamp");
        fake_agent_change();
        (void)fake_agent_answer();
        expect_error(&c, HYBUS_ERROR_ACCESS_DENIED, "audit f00d-1");
        assert_null(endpoints_find(registrar_table(f->w->registrar), "/lamp"));
        send_message(&c, message(&c, "List"));
        answered(&c);
        assert_string_equal(c.unregistered, "");
    }
    caller_close(&c);
}

static void test_caller_leaves_while_asked(void **state)
{
    fixture *f = *state;
    caller c;

    caller_open(f, &c);
    f->w->silent = true;
    send_register(&c, "/thermo", "a{sv}", 0);
    UNTIL(f, fake_agent_waiting() == 1);
    caller_close(&c);
    UNTIL(f, fake_agent_waiting() == 0);
    assert_null(endpoints_find(registrar_table(f->w->registrar), "/thermo"));
}

/* --- Unregister ------------------------------------------------------------------------------- */

static void send_unregister(caller *c, const char *ns)
{
    sd_bus_message *m = message(c, "Unregister");

    assert_true(sd_bus_message_append(m, "s", ns) >= 0);
    send_message(c, m);
}

static void test_unregister(void **state)
{
    fixture *f = *state;
    caller c, other;
    client server;

    caller_open(f, &c);
    caller_open(f, &other);
    assert_int_equal(server_connect(f->w, &server), 0);
    send_unregister(&c, "/thermo");
    expect_error(&c, HYBUS_ERROR_NOT_FOUND, "/thermo is not registered by the caller");
    (void)register_ok(&c, "/thermo");
    expect_entry(f, &server, "/thermo", 0);
    (void)register_ok(&other, "/lamp");
    expect_entry(f, &server, "/lamp", 0);
    send_unregister(&other, "/thermo");
    expect_error(&other, HYBUS_ERROR_NOT_FOUND, "not registered by the caller");
    send_unregister(&c, "/thermo");
    expect_ok(&c);
    expect_entry(f, &server, "/thermo", CHANNEL_GONE);
    send_unregister(&c, "/thermo");
    expect_error(&c, HYBUS_ERROR_NOT_FOUND, "");
    assert_string_equal(c.unregistered, ""); /* it knows */
    (void)register_ok(&other, "/thermo");
    client_close(&server);
    caller_close(&c);
    caller_close(&other);
}

/* --- Notify ----------------------------------------------------------------------------------- */

static void send_notify(caller *c, const char *ns, const char *path, const char *content_type,
                        size_t size, const char *types, ...)
{
    static const uint8_t body[ENDPOINTS_NOTIFY_MAX + 1] = "21.5";
    sd_bus_message *m = message(c, "Notify");
    va_list args;

    assert_true(sd_bus_message_append(m, "sss", ns, path, content_type) >= 0);
    va_start(args, types);
    assert_true(sd_bus_message_appendv(m, types, args) >= 0);
    va_end(args);
    assert_true(sd_bus_message_append_array(m, 'y', body, size) >= 0);
    send_message(c, m);
}

static void expect_notify(fixture *f, client *server)
{
    UNTIL(f, hybus_frame_reader_next(&server->reader, &server->frame) == 1 ||
                 (hybus_frame_reader_fill(&server->reader, server->fd) > 0 &&
                  hybus_frame_reader_next(&server->reader, &server->frame) == 1));
    assert_int_equal(server->frame.type, CHANNEL_NOTIFY);
}

static void test_notify(void **state)
{
    fixture *f = *state;
    client server;
    char id[130];
    caller c;

    caller_open(f, &c);
    (void)register_ok(&c, "/thermo");
    send_notify(&c, "/thermo", "/", "text/plain", 4, "a{sv}", 0); /* no server: nobody to tell */
    expect_ok(&c);
    assert_int_equal(server_connect(f->w, &server), 1);
    memset(id, 'i', CHANNEL_NOTIFY_ID_MAX);
    id[CHANNEL_NOTIFY_ID_MAX] = 0;
    send_notify(&c, "/thermo", "/t", "text/plain", 4, "a{sv}", 2, "id", "s", id, "max-age", "u",
                60);
    expect_ok(&c);
    expect_notify(f, &server);
    assert_string_equal(client_field(&server, ":namespace"), "/thermo");
    assert_string_equal(client_field(&server, ":path"), "/t");
    assert_string_equal(client_field(&server, "content-type"), "text/plain");
    assert_string_equal(client_field(&server, ":id"), id);
    assert_string_equal(client_field(&server, ":max-age"), "60");
    assert_int_equal(server.frame.flags, 0);
    assert_int_equal(server.frame.size - server.frame.value, 4);
    assert_memory_equal(server.frame.payload + server.frame.value, "21.5", 4);

    send_notify(&c, "/thermo", "/t", "", 0, "a{sv}", 1, "gone", "b", 1);
    expect_ok(&c);
    expect_notify(f, &server);
    assert_int_equal(server.frame.flags, CHANNEL_GONE);
    assert_string_equal(client_field(&server, ":max-age"), "");

    send_notify(&c, "/thermo", "/", "text/plain", ENDPOINTS_NOTIFY_MAX, "a{sv}", 0);
    expect_ok(&c);
    expect_notify(f, &server);
    assert_int_equal(server.frame.size - server.frame.value, ENDPOINTS_NOTIFY_MAX);
    client_close(&server);
    caller_close(&c);
}

static void test_notify_refused(void **state)
{
    fixture *f = *state;
    char path[ENDPOINTS_NOTIFY_PATH_MAX + 2], id[CHANNEL_NOTIFY_ID_MAX + 2];
    caller c, other;
    client server;

    caller_open(f, &c);
    caller_open(f, &other);
    (void)register_ok(&c, "/thermo");
    (void)register_ok(&other, "/lamp");
    assert_int_equal(server_connect(f->w, &server), 2);
    memset(path, 'x', sizeof(path) - 1);
    path[0] = '/';
    path[sizeof(path) - 1] = 0;
    memset(id, 'i', sizeof(id) - 1);
    id[sizeof(id) - 1] = 0;

    send_notify(&c, "/nothing", "/", "text/plain", 4, "a{sv}", 0);
    expect_error(&c, HYBUS_ERROR_NOT_FOUND, "/nothing is not registered by the caller");
    send_notify(&other, "/thermo", "/", "text/plain", 4, "a{sv}", 0);
    expect_error(&other, HYBUS_ERROR_NOT_FOUND, "not registered by the caller");
    send_notify(&c, "/thermo", "t", "text/plain", 4, "a{sv}", 0);
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "path starts with /");
    send_notify(&c, "/thermo", path, "text/plain", 4, "a{sv}", 0);
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "at most 1024 bytes");
    send_notify(&c, "/thermo", "/\r\n", "text/plain", 4, "a{sv}", 0);
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "path");
    send_notify(&c, "/thermo", "/", "text/plain\r\nset-cookie: a=b", 4, "a{sv}", 0);
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "content type or id");
    send_notify(&c, "/thermo", "/", "text/plain", 4, "a{sv}", 1, "id", "s", id);
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "content type or id");
    send_notify(&c, "/thermo", "/", "text/plain", 4, "a{sv}", 1, "id", "u", 1);
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "sssa{sv}ay");
    send_notify(&c, "/thermo", "/", "text/plain", 4, "a{sv}", 1, "colour", "u", 1);
    expect_error(&c, HYBUS_ERROR_INVALID_ARGUMENT, "unknown option \"colour\"");
    send_notify(&c, "/thermo", "/", "text/plain", ENDPOINTS_NOTIFY_MAX + 1, "a{sv}", 0);
    expect_error(&c, HYBUS_ERROR_LIMIT_EXCEEDED, "at most 61440 bytes");
    world_settle(f->w);
    assert_int_equal(hybus_frame_reader_fill(&server.reader, server.fd), -EAGAIN);

    /* The server lags. */
    for (unsigned i = 0; i < 100; i++) {
        send_notify(&c, "/thermo", "/", "text/plain", ENDPOINTS_NOTIFY_MAX, "a{sv}", 0);
        answered(&c);
        if (sd_bus_message_is_method_error(c.reply, NULL))
            break;
    }
    expect_error(&c, HYBUS_ERROR_LIMIT_EXCEEDED, "does not keep up");
    while (client_next(f->w, &server))
        assert_int_equal(server.frame.type, CHANNEL_NOTIFY);
    send_notify(&c, "/thermo", "/", "text/plain", 1, "a{sv}", 0);
    expect_ok(&c);
    client_close(&server);
    caller_close(&c);
    caller_close(&other);
}

/* --- List, ListServers, Revision ----------------------------------------------------------------
 */

static void read_list(caller *c, const char *ns, const char *title, uint32_t uid, const char *road,
                      const char *owner, bool active)
{
    const char *got_ns, *got_title, *got_road, *got_owner;
    uint32_t got_uid;
    int got_active;

    assert_true(sd_bus_message_read(c->reply, "(ssussb)", &got_ns, &got_title, &got_uid, &got_road,
                                    &got_owner, &got_active) > 0);
    assert_string_equal(got_ns, ns);
    assert_string_equal(got_title, title);
    assert_int_equal(got_uid, uid);
    assert_string_equal(got_road, road);
    assert_string_equal(got_owner, owner);
    assert_int_equal(got_active, active);
}

static void open_list(caller *c, const char *member, const char *types)
{
    send_message(c, message(c, member));
    expect_ok(c);
    assert_true(sd_bus_message_enter_container(c->reply, 'a', types) > 0);
}

static void test_lists(void **state)
{
    endpoints_spec s = {.uid = OTHER, .road = ENDPOINTS_START};
    const char *name, *protocol, *path;
    fixture *f = *state;
    client app, server;
    int connected;
    caller c;

    caller_open(f, &c);
    open_list(&c, "List", "(ssussb)");
    assert_int_equal(sd_bus_message_at_end(c.reply, false), true);
    open_list(&c, "ListServers", "(sssb)");
    assert_int_equal(sd_bus_message_at_end(c.reply, false), true);

    assert_int_equal(endpoints_spec_set_namespace(&s, "/start", 6), 0);
    assert_int_equal(endpoints_spec_set_unit(&s, "start.service", 13), 0);
    assert_int_equal(registrar_set_manifests(f->w->registrar, &s, 1), 0);
    send_register(&c, "/thermo", "a{sv}", 1, "title", "s", "Heat");
    expect_ok(&c);
    app_connect(f->w, &app, APP);
    client_register_ok(f->w, &app, 1, "/lamp");
    assert_int_equal(server_connect(f->w, &server), 3);

    open_list(&c, "List", "(ssussb)");
    read_list(&c, "/lamp", "", APP, "channel", "", true);
    read_list(&c, "/start", "", OTHER, "start", "start.service", false);
    read_list(&c, "/thermo", "Heat", us, "bus", caller_name(&c), true);
    assert_int_equal(sd_bus_message_at_end(c.reply, false), true);
    open_list(&c, "ListServers", "(sssb)");
    assert_true(sd_bus_message_read(c.reply, "(sssb)", &name, &protocol, &path, &connected) > 0);
    assert_string_equal(name, "httpd");
    assert_string_equal(protocol, "http");
    assert_string_equal(path, "/run/hybridos/servers/h-httpd.sock");
    assert_true(connected);
    assert_int_equal(sd_bus_message_at_end(c.reply, false), true);
    client_close(&app);
    client_close(&server);
    caller_close(&c);
}

static int on_changed(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *interface, *name;

    /* Invalidated, without the value: it is for those who may read it. */
    assert_true(sd_bus_message_read(m, "s", &interface) > 0);
    assert_string_equal(interface, ENDPOINTS_BUS_NAME);
    assert_true(sd_bus_message_enter_container(m, 'a', "{sv}") > 0);
    assert_int_equal(sd_bus_message_at_end(m, false), true);
    assert_true(sd_bus_message_exit_container(m) > 0);
    assert_true(sd_bus_message_enter_container(m, 'a', "s") > 0);
    assert_true(sd_bus_message_read(m, "s", &name) > 0);
    assert_string_equal(name, "Revision");
    ++*(unsigned *)userdata;
    return 0;
}

static uint64_t get_revision(caller *c)
{
    sd_bus_message *m;
    uint64_t revision;

    assert_true(sd_bus_message_new_method_call(c->bus, &m, ENDPOINTS_BUS_NAME, ENDPOINTS_BUS_PATH,
                                               "org.freedesktop.DBus.Properties", "Get") >= 0);
    assert_true(sd_bus_message_append(m, "ss", ENDPOINTS_BUS_NAME, "Revision") >= 0);
    send_message(c, m);
    expect_ok(c);
    assert_true(sd_bus_message_read(c->reply, "v", "t", &revision) > 0);
    return revision;
}

static void test_revision(void **state)
{
    sd_bus_slot *slot;
    fixture *f = *state;
    unsigned n = 0;
    uint64_t before;
    caller c;

    caller_open(f, &c);
    assert_true(sd_bus_match_signal_async(c.bus, &slot, NULL, ENDPOINTS_BUS_PATH,
                                          "org.freedesktop.DBus.Properties", "PropertiesChanged",
                                          on_changed, NULL, &n) >= 0);
    before = get_revision(&c);
    (void)register_ok(&c, "/thermo");
    UNTIL(f, n == 1);
    assert_int_equal(get_revision(&c), before + 1);
    send_unregister(&c, "/thermo");
    expect_ok(&c);
    UNTIL(f, n == 2);
    assert_int_equal(get_revision(&c), before + 2);
    assert_int_equal(n, 2);
    sd_bus_slot_unref(slot);
    caller_close(&c);
}

/* --- bounds -------------------------------------------------------------------------------------
 */

typedef struct burst {
    unsigned ok, limited, other;
    const char *why; /* of those that count as limited */
} burst;

static int on_burst(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    burst *b = userdata;

    if (!sd_bus_message_is_method_error(m, NULL))
        b->ok++;
    else if (sd_bus_message_is_method_error(m, HYBUS_ERROR_LIMIT_EXCEEDED) &&
             streq(sd_bus_message_get_error(m)->message, b->why))
        b->limited++;
    else
        b->other++;
    return 0;
}

static void send_burst(caller *c, burst *b, unsigned n, const char *prefix)
{
    for (unsigned i = 0; i < n; i++) {
        sd_bus_message *m = message(c, "Register");
        char ns[64];

        snprintf(ns, sizeof(ns), "%s%u", prefix, i);
        assert_true(sd_bus_message_append(m, "soa{sv}", ns, "/x", 0) >= 0);
        assert_true(sd_bus_call_async(c->bus, NULL, m, on_burst, b, 0) >= 0);
        sd_bus_message_unref(m);
    }
}

/* The policy does not answer: sixteen of one connection wait, the next is refused at once, and
 * another connection is heard. */
static void test_calls_of_one_connection(void **state)
{
    fixture *f = *state;
    caller a, b;
    burst burst_a = {.why = "too many registrations of this connection on their way"};
    burst burst_b = {};

    fake_agent_grant_all();
    caller_open(f, &a);
    caller_open(f, &b);
    f->w->silent = true;
    send_burst(&a, &burst_a, ENDPOINTS_BUS_CALLS_OWNER_MAX + 5, "/a");
    UNTIL(f, burst_a.limited == 5);
    assert_int_equal(burst_a.ok + burst_a.other, 0);
    send_burst(&b, &burst_b, 1, "/b");
    UNTIL(f, fake_agent_waiting() == ENDPOINTS_BUS_CALLS_OWNER_MAX + 1);
    f->w->silent = false;
    UNTIL(f, burst_b.ok == 1 && burst_a.ok == ENDPOINTS_BUS_CALLS_OWNER_MAX);
    send_burst(&a, &burst_a, 1, "/again");
    UNTIL(f, burst_a.ok == ENDPOINTS_BUS_CALLS_OWNER_MAX + 1);
    caller_close(&a);
    caller_close(&b);
}

/* Five connections in one moment, none of them known: what has come before the bus could say who
 * they are. All of it is in the daemon's socket before the daemon gets to read. */
static void test_calls_of_the_unknown(void **state)
{
    fixture *f = *state;
    caller c[5];
    burst bursts = {.why = "too many registrations on their way"};
    bool ready = false;

    fake_agent_grant_all();
    for (size_t i = 0; i < ELEMENTS(c); i++)
        caller_open(f, &c[i]);
    assert_true(sd_bus_detach_event(f->daemon) >= 0);
    for (size_t i = 0; i < ELEMENTS(c); i++) {
        char prefix[8];
        snprintf(prefix, sizeof(prefix), "/%zu-", i);
        send_burst(&c[i], &bursts, ENDPOINTS_BUS_CALLS_OWNER_MAX, prefix);
        ready = false;
        assert_true(sd_bus_call_method_async(c[i].bus, NULL, "org.freedesktop.DBus", "/",
                                             "org.freedesktop.DBus", "GetId", on_ready, &ready,
                                             "") >= 0);
        UNTIL(f, ready);
    }
    assert_true(sd_bus_attach_event(f->daemon, f->w->event, 0) >= 0);
    UNTIL(f, bursts.ok + bursts.limited + bursts.other == 5 * ENDPOINTS_BUS_CALLS_OWNER_MAX);
    assert_int_equal(bursts.limited, 5 * ENDPOINTS_BUS_CALLS_OWNER_MAX - ENDPOINTS_BUS_CALLS_MAX);
    /* the registrations of one user are as many */
    assert_int_equal(bursts.ok, ENDPOINTS_UID_MAX);
    send_register(&c[4], "/thermo", "a{sv}", 0);
    expect_error(&c[4], HYBUS_ERROR_LIMIT_EXCEEDED, "too many registrations of this user");
    for (size_t i = 0; i < ELEMENTS(c); i++)
        caller_close(&c[i]);
}

/* The directory of the bus is its owner's alone. */
static void let_everybody_connect(fixture *f)
{
    const char *address = startswith(private_bus_address(f->bus), "unix:path=");
    char path[128];

    assert_non_null(address);
    snprintf(path, sizeof(path), "%.*s", (int)strcspn(address, ","), address);
    *strrchr(path, '/') = 0;
    assert_int_equal(chmod(path, 0755), 0);
}

/* Users of this machine but root: the bus lets in nobody whom it cannot look up. */
static size_t find_users(uint32_t *ret, size_t max)
{
    const struct passwd *pw;
    size_t n = 0;

    setpwent();
    while (n < max && (pw = getpwent()))
        if (pw->pw_uid != 0)
            ret[n++] = pw->pw_uid;
    endpwent();
    return n;
}

/* 512 apps of eight users; one more is refused, those that are there are heard, and one that leaves
 * makes room. */
static void test_apps(void **state)
{
    static caller c[ENDPOINTS_BUS_OWNERS_MAX];
    uint32_t users[USERS + 1];
    fixture *f = *state;
    caller late;

    if (us != 0 || find_users(users, ELEMENTS(users)) < ELEMENTS(users))
        skip();
    let_everybody_connect(f);
    fake_agent_grant_all();
    for (size_t i = 0; i < ELEMENTS(c); i++) {
        char ns[32];
        caller_open_as(f, &c[i], users[i / ENDPOINTS_UID_MAX]);
        snprintf(ns, sizeof(ns), "/n%zu", i);
        (void)register_ok(&c[i], ns);
    }
    caller_open_as(f, &late, users[USERS]);
    send_register(&late, "/late", "a{sv}", 0);
    expect_error(&late, HYBUS_ERROR_LIMIT_EXCEEDED, "too many apps on the bus");
    send_register(&late, "/n0", "a{sv}", 1, "takeover", "b", 1);
    expect_error(&late, HYBUS_ERROR_LIMIT_EXCEEDED, "too many apps on the bus");
    send_unregister(&c[7], "/n7");
    expect_ok(&c[7]);
    (void)register_ok(&c[7], "/n7");
    caller_close(&c[0]);
    UNTIL(f, !endpoints_find(registrar_table(f->w->registrar), "/n0"));
    (void)register_ok(&late, "/late");
    for (size_t i = 1; i < ELEMENTS(c); i++)
        caller_close(&c[i]);
    caller_close(&late);
}

/* --- the next life ------------------------------------------------------------------------------
 */

static void restart(fixture *f)
{
    world_settle(f->w);
    end(f);
    world_stop(f->w);
    world_start(f->w);
    publish(f);
}

static bool is_active(fixture *f, const char *ns)
{
    const endpoints_entry *e = endpoints_find(registrar_table(f->w->registrar), ns);

    return e && e->owner;
}

/* The app does nothing at all, and no server sees a hole. */
static void test_restart(void **state)
{
    fixture *f = *state;
    char key[32];
    client server;
    caller c;

    caller_open(f, &c);
    snprintf(key, sizeof(key), "%s", register_ok(&c, "/thermo"));
    restart(f);
    assert_int_equal(server_connect(f->w, &server), 1);
    UNTIL(f, is_active(f, "/thermo"));
    assert_int_equal(hybus_frame_reader_fill(&server.reader, server.fd), -EAGAIN);
    assert_string_equal(endpoints_find(registrar_table(f->w->registrar), "/thermo")->spec.key, key);
    /* as if nothing had been: it ends with the connection, and is judged like any other */
    send_unregister(&c, "/lamp");
    expect_error(&c, HYBUS_ERROR_NOT_FOUND, "");
    caller_close(&c);
    expect_entry(f, &server, "/thermo", CHANNEL_GONE);
    client_close(&server);
}

/* What became of those who were registered while nobody was there: one left (and is forgotten in
 * time), one may no longer, and of two the policy cannot be asked until later than that; one of
 * these leaves then. */
static void test_restart_of_all_kinds(void **state)
{
    fixture *f = *state;
    caller left, refused, patient, leaving;

    fake_agent_grant(us, "endpoint.register:/left");
    fake_agent_grant(us, "endpoint.register:/leaving");
    caller_open(f, &left);
    caller_open(f, &refused);
    caller_open(f, &patient);
    caller_open(f, &leaving);
    (void)register_ok(&left, "/left");
    (void)register_ok(&refused, "/lamp");
    (void)register_ok(&patient, "/thermo");
    (void)register_ok(&leaving, "/leaving");
    registrar_stop(f->w->registrar);
    caller_close(&left);
    fake_agent_revoke(us, "endpoint.register:/lamp");
    f->w->silent = true;
    restart(f);
    UNTIL(f, fake_agent_waiting() == 3);
    fake_agent_away(true); /* the question's own deadline passes: it is asked again */
    (void)fake_agent_answer();
    fake_agent_away(false);
    assert_int_equal(fake_agent_waiting(), 3);
    UNTIL(f, !endpoints_find(registrar_table(f->w->registrar), "/left"));
    assert_non_null(endpoints_find(registrar_table(f->w->registrar), "/lamp"));
    assert_non_null(endpoints_find(registrar_table(f->w->registrar), "/thermo"));
    assert_false(is_active(f, "/thermo"));
    caller_close(&leaving);
    UNTIL(f, !endpoints_find(registrar_table(f->w->registrar), "/leaving"));
    assert_int_equal(fake_agent_waiting(), 2);
    f->w->silent = false;
    UNTIL(f, is_active(f, "/thermo"));
    UNTIL(f, !endpoints_find(registrar_table(f->w->registrar), "/lamp"));
    caller_close(&refused);
    caller_close(&patient);
}

/* One that registers by itself, as apps do that see the registrar's name come back. */
static void test_restart_and_register(void **state)
{
    fixture *f = *state;
    caller c;

    caller_open(f, &c);
    (void)register_ok(&c, "/thermo");
    f->w->silent = true;
    restart(f);
    UNTIL(f, fake_agent_waiting() == 1);
    send_register(&c, "/thermo", "a{sv}", 0);
    UNTIL(f, fake_agent_waiting() == 2);
    f->w->silent = false;
    answered(&c);
    assert_true(is_active(f, "/thermo"));
    caller_close(&c);
    UNTIL(f, !endpoints_find(registrar_table(f->w->registrar), "/thermo"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_register_is_told),
        T(test_register_what_is_not_valid),
        T(test_register_refused),
        T(test_takeover),
        T(test_own_key_is_no_news),
        T(test_revocation),
        T(test_told_when_it_is_written),
        T(test_withdrawn_before_it_is_told),
        T(test_caller_leaves_while_asked),
        T(test_unregister),
        T(test_notify),
        T(test_notify_refused),
        T(test_lists),
        T(test_revision),
        T(test_calls_of_one_connection),
        T(test_calls_of_the_unknown),
        T(test_apps),
        T(test_restart),
        T(test_restart_of_all_kinds),
        T(test_restart_and_register),
    };
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) { /* for test_apps, and for its bus */
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit);
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
