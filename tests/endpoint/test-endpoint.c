/* SPDX-License-Identifier: Apache-2.0 */
#include <sys/socket.h>

#include "device.h"

#define KEY "0123456789abcdef"

/* The first test proves the harness: one request goes all the way and back. */
static void test_round_trip(void **state)
{
    device *d = device_new(NULL, NULL);
    client c;
    answer *a;
    side *app;
    const hybus_frame *f;
    uint32_t id;

    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    registrar_channel(d, "/thermo", KEY);
    app = app_attached(d, "/thermo", KEY);
    client_new(d, &c, NULL);
    a = request(&c, "GET", "/thermo/now", NULL, 0, true);
    f = side_wait(d, app, CHANNEL_REQUEST);
    id = f->stream;
    assert_int_equal(id % 2, 1);
    assert_int_equal(f->flags, CHANNEL_END);
    assert_string_equal(side_field(f, ":namespace"), "/thermo");
    assert_string_equal(side_field(f, ":path"), "/thermo/now");
    assert_string_equal(side_field(f, ":query"), "q=1");
    assert_string_equal(side_field(f, ":principal"), "anonymous");
    assert_null(side_field(f, ":handle"));
    assert_string_equal(side_field(f, ":method"), "GET");
    assert_string_equal(side_field(f, "accept"), "*/*");
    side_fields(app, CHANNEL_RESPONSE, CHANNEL_END, 200, id, "21.5", 4, "content-type",
                "text/plain", "connection", "close", "set-cookie", "__Host-hybridos=x", NULL);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 200);
    assert_string_equal(a->fields, "content-type: text/plain\n");
    assert_memory_equal(a->body, "21.5", 4);
    assert_int_equal(endpoint_request_uid(a->request), getuid());
    answer_free(a);
    assert_int_equal(endpoint_core_open_requests(d->core), 0);

    /* A second request on the warm row asks the agent nothing. */
    unsigned rows = agent_fake_rows(d->agent);
    a = request(&c, "GET", "/thermo", NULL, 0, true);
    assert_int_equal(a->request->state, REQUEST_OPEN);
    f = side_wait(d, app, CHANNEL_REQUEST);
    assert_int_equal(f->stream, id + 2);
    assert_int_equal(agent_fake_rows(d->agent), rows);
    a->free_at_once = true;
    side_send(app, CHANNEL_RESPONSE, CHANNEL_END, 204, f->stream, 0, NULL, 0);
    wait_for(d, a->ended);
    answer_free(a);
    client_free(&c);
    app_free(app);
    device_free(d);
}

/* For whom an app may bind a connection to the bus goes along with what they ask. */
static void test_handle(void **state)
{
    device *d = device_new(NULL, NULL);
    client c;
    answer *a;
    side *app;
    const hybus_frame *f;
    char handle[24];

    agent_fake_grant(d->agent, "token:reader", ALLOW_ALL);
    registrar_channel(d, "/thermo", KEY);
    app = app_attached(d, "/thermo", KEY);
    client_new(d, &c, "reader");
    a = request(&c, "GET", "/thermo", NULL, 0, true);
    f = side_wait(d, app, CHANNEL_REQUEST);
    assert_string_equal(side_field(f, ":principal"), "token:reader");
    snprintf(handle, sizeof(handle), "%llu", (unsigned long long)endpoint_peer_handle(c.peer));
    assert_string_not_equal(handle, "0");
    assert_string_equal(side_field(f, ":handle"), handle);
    side_send(app, CHANNEL_RESPONSE, CHANNEL_END, 204, f->stream, 0, NULL, 0);
    wait_for(d, a->ended);
    answer_free(a);
    client_free(&c);
    app_free(app);
    device_free(d);
}

/* A server need not wait for the check: what it asks before is decided by it, also when the row of
 * whom the peer turns out to be has long been there. */
static void test_requests_before_the_check(void **state)
{
    device *d = device_new(NULL, NULL);
    client first, c;
    watcher *w;
    answer *a;
    side *app;
    uint32_t id;

    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    registrar_channel(d, "/thermo", KEY);
    app = app_attached(d, "/thermo", KEY);
    for (unsigned i = 0; i < 2; i++) { /* without a row, and with one */
        client *now = i ? &c : &first;

        client_begin(d, now, NULL);
        w = watch(now, "/thermo");
        a = request(now, "GET", "/thermo", NULL, 0, true);
        assert_int_equal(a->request->state, REQUEST_WAITING);
        id = side_wait(d, app, CHANNEL_REQUEST)->stream;
        side_send(app, CHANNEL_RESPONSE, CHANNEL_END, 204, id, 0, NULL, 0);
        wait_for(d, a->ended && w->started);
        assert_int_equal(a->status, 204);
        answer_free(a);
        watcher_free(w);
    }
    client_free(&first);
    client_begin(d, &first, "wrong");
    a = request(&first, "GET", "/thermo", NULL, 0, true);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 401);
    answer_free(a);
    client_free(&first);
    client_free(&c);
    app_free(app);
    device_free(d);
}

/* What no row can hold is judged request by request, and one that was let through so ends with a
 * change. */
static void test_single_requests(void **state)
{
    device *d = device_new(NULL, NULL);
    client c;
    answer *a;
    side *app;
    uint32_t id;

    agent_fake_grant(d->agent, "once", ALLOW_ALL);
    registrar_channel(d, "/thermo", KEY);
    app = app_attached(d, "/thermo", KEY);
    client_new(d, &c, NULL);
    for (unsigned i = 1; i <= 2; i++) {
        a = request(&c, "GET", "/thermo", NULL, 0, true);
        id = side_wait(d, app, CHANNEL_REQUEST)->stream;
        assert_int_equal(agent_fake_judged(d->agent), i);
        side_send(app, CHANNEL_RESPONSE, CHANNEL_END, 204, id, 0, NULL, 0);
        wait_for(d, a->ended);
        assert_int_equal(a->status, 204);
        answer_free(a);
    }
    a = request(&c, "GET", "/thermo", NULL, 0, true);
    (void)side_wait(d, app, CHANNEL_REQUEST);
    agent_fake_change(d->agent);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 401);
    answer_free(a);
    client_free(&c);
    app_free(app);
    device_free(d);
}

typedef struct listed {
    unsigned n;
    char text[256];
} listed;

static void on_listing(const endpoint_listing *l, void *userdata)
{
    listed *me = userdata;
    size_t at = strlen(me->text);

    me->n++;
    snprintf(me->text + at, sizeof(me->text) - at, "%s=%s;", l->namespace, strempty(l->title));
}

/* What may not be read is not told of, and nothing is told before that is known. */
static void test_listing(void **state)
{
    device *d = device_new(NULL, NULL);
    listed l = {};
    client c;
    int r;

    agent_fake_grant(d->agent, "anonymous", "endpoint.read:/a");
    registrar_entry(d, 0, ":namespace", "/a", ":key", KEY, ":uid", "1", ":road", "channel",
                    ":title", "the first", NULL);
    registrar_entry(d, CHANNEL_END, ":namespace", "/b", ":key", KEY, ":uid", "1", ":road",
                    "channel", NULL);
    wait_for(d, table_find(&d->core->table, "/b", 2));
    client_begin(d, &c, NULL);
    assert_int_equal(endpoint_peer_list(c.peer, on_listing, &l), -EAGAIN);
    wait_for(d, (r = endpoint_peer_list(c.peer, on_listing, &l)) != -EAGAIN);
    assert_int_equal(r, 0);
    assert_int_equal(l.n, 1);
    assert_string_equal(l.text, "/a=the first;");
    client_free(&c);
    client_new(d, &c, "wrong");
    assert_int_equal(endpoint_peer_list(c.peer, on_listing, &l), -ENOKEY);
    assert_int_equal(l.n, 1);
    client_free(&c);
    device_free(d);
}

static void test_refusals(void **state)
{
    endpoint_settings s = {.body_max = 1000};
    device *d = device_new(&s, NULL);
    client nobody, token, bad;
    char *path = malloc(LIMIT_PATH + 2);
    answer *a;
    side *app;

    agent_fake_grant(d->agent, "token:reader", "endpoint.read:/thermo");
    registrar_channel(d, "/thermo", KEY);
    app = app_attached(d, "/thermo", KEY);
    client_new(d, &nobody, NULL);
    client_new(d, &token, "reader");
    client_new(d, &bad, "wrong");
    assert_int_equal(bad.error, -EKEYREJECTED);
    assert_string_equal(endpoint_peer_principal(token.peer), "token:reader");

    a = request(&nobody, "GET", "/thermo", NULL, 0, true);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 401);
    a->body[a->size] = 0;
    assert_non_null(strstr((char *)a->body, "\"audit\":\"f00d-7\""));
    answer_free(a);

    a = request(&token, "POST", "/thermo", "x", 1, true);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 403);
    answer_free(a);
    assert_int_equal(agent_fake_judged(d->agent), 2);

    a = request(&bad, "GET", "/thermo", NULL, 0, true);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 503);
    answer_free(a);

    a = request(&token, "GET", "/thermometer", NULL, 0, true);
    assert_int_equal(a->status, 404);
    answer_free(a);

    a = request(&token, "POST", "/thermo", path, 1001, true);
    assert_int_equal(a->status, 413);
    answer_free(a);

    memset(path, 'a', LIMIT_PATH + 1);
    path[0] = '/';
    path[LIMIT_PATH + 1] = 0;
    a = request(&token, "GET", path, NULL, 0, true);
    assert_int_equal(a->status, 414);
    answer_free(a);

    a = request(&token, "GET", "thermo", NULL, 0, true);
    assert_int_equal(a->status, 400);
    answer_free(a);

    free(path);
    client_free(&nobody);
    client_free(&token);
    client_free(&bad);
    assert_int_equal(agent_fake_released(d->agent), 1);
    app_free(app);
    device_free(d);
}

static void test_rules(void **state)
{
    device *d = device_new(NULL, NULL);
    entry *e;
    char uid[16];

    snprintf(uid, sizeof(uid), "%u", getuid());
    registrar_entry(d, 0, ":revision", "1", ":namespace", "/a", ":key", KEY, ":uid", uid, ":road",
                    "channel", ":rule", "GET /public a.public", ":rule", "GET /public/not a.not",
                    ":rule", "* /locked a.locked", NULL);
    registrar_entry(d, 0, ":revision", "2", ":namespace", "/a/b", ":key", KEY, ":uid", uid, ":road",
                    "channel", NULL);
    wait_for(d, table_find(&d->core->table, "/a/b", 4));
    e = table_match(&d->core->table, "/a/bc/d");
    assert_string_equal(e->namespace, "/a");
    assert_string_equal(table_match(&d->core->table, "/a/b/c")->namespace, "/a/b");
    assert_string_equal(table_match(&d->core->table, "/a/b")->namespace, "/a/b");
    assert_null(table_match(&d->core->table, "/ab"));
    assert_null(table_match(&d->core->table, "/"));
    assert_string_equal(entry_permission(e, "GET", "/a/public")->name, "a.public");
    assert_string_equal(entry_permission(e, "HEAD", "/a/public/x")->name, "a.public");
    assert_string_equal(entry_permission(e, "GET", "/a/publicity")->name, "endpoint.read:/a");
    assert_string_equal(entry_permission(e, "GET", "/a/public/not/this")->name, "a.not");
    assert_string_equal(entry_permission(e, "POST", "/a/public")->name, "endpoint.write:/a");
    assert_string_equal(entry_permission(e, "DELETE", "/a/locked")->name, "a.locked");
    assert_string_equal(entry_permission(e, "FETCH", "/a")->name, "endpoint.read:/a");

    static const char *const bad[] = {"", "/", "a", "/a/", "//a", "/a/../b", "/.", "/a b", "/a%20"};
    for (size_t i = 0; i < ELEMENTS(bad); i++)
        assert_false(namespace_valid(bad[i]));
    assert_true(namespace_valid("/a.b/~c-_9"));

    /* A rule that cannot be read takes the registrar's word as broken: nothing opens by accident.
     */
    registrar_entry(d, 0, ":namespace", "/c", ":key", KEY, ":uid", uid, ":road", "channel", ":rule",
                    "GET nonsense", NULL);
    wait_for(d, !d->core->registrar.connected);
    assert_false(endpoint_core_has(d->core, "/c"));
    assert_true(endpoint_core_has(d->core, "/a"));
    device_free(d);
}

static void test_bodies_and_credit(void **state)
{
    device *d = device_new(NULL, NULL);
    static uint8_t chunk[CHANNEL_PAYLOAD_MAX];
    size_t got = 0;
    client c;
    answer *a;
    side *app;
    const hybus_frame *f;
    uint32_t id;

    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    registrar_channel(d, "/up", KEY);
    app = app_attached(d, "/up", KEY);
    client_new(d, &c, NULL);

    a = request(&c, "POST", "/up", chunk, 10, false);
    wait_for(d, a->request->state == REQUEST_OPEN);
    /* The credit is 256 KiB: ten bytes are gone, three chunks fit and a fourth does not. */
    for (int i = 0; i < 3; i++)
        assert_int_equal(endpoint_request_body(a->request, chunk, sizeof(chunk), false), 0);
    assert_int_equal(endpoint_request_body(a->request, chunk, sizeof(chunk), true), -EAGAIN);
    assert_int_equal(endpoint_request_body(a->request, chunk, CHANNEL_CREDIT_INITIAL + 1, true),
                     -EMSGSIZE);
    f = side_wait(d, app, CHANNEL_REQUEST);
    id = f->stream;
    got = f->size - f->value;
    while (got < 10 + 3 * sizeof(chunk))
        got += side_wait(d, app, CHANNEL_DATA)->size;
    assert_int_equal(got, 10 + 3 * sizeof(chunk));
    side_send(app, CHANNEL_CREDIT, 0, 0, id, (uint32_t)got, NULL, 0);
    wait_for(d, a->taken == got);
    assert_int_equal(endpoint_request_body(a->request, chunk, sizeof(chunk), true), 0);
    assert_int_equal(side_wait(d, app, CHANNEL_DATA)->flags, CHANNEL_END);

    /* Streamed back: exactly the credit passes, more needs consumed(). */
    side_send(app, CHANNEL_RESPONSE, 0, 200, id, 0, NULL, 0);
    for (int i = 0; i < 4; i++)
        side_send(app, CHANNEL_DATA, 0, 0, id, 0, chunk, sizeof(chunk));
    side_flush(d, app);
    wait_for(d, a->size == CHANNEL_CREDIT_INITIAL);
    endpoint_request_consumed(a->request, 1000);
    assert_int_equal(side_wait(d, app, CHANNEL_CREDIT)->value, 1000);
    side_send(app, CHANNEL_DATA, CHANNEL_END, 0, id, 0, chunk, 1000);
    wait_for(d, a->ended);
    assert_int_equal(a->aborted, 0);
    assert_int_equal(a->size, CHANNEL_CREDIT_INITIAL + 1000);
    answer_free(a);

    /* Beyond the credit: the connection ends, the open stream is aborted. */
    a = request(&c, "GET", "/up", NULL, 0, true);
    id = side_wait(d, app, CHANNEL_REQUEST)->stream;
    side_send(app, CHANNEL_RESPONSE, 0, 200, id, 0, NULL, 0);
    for (int i = 0; i < 5; i++)
        side_send(app, CHANNEL_DATA, 0, 0, id, 0, chunk, sizeof(chunk));
    side_flush(d, app);
    wait_for(d, a->ended);
    assert_int_equal(a->aborted, 502);
    side_wait_closed(d, app);
    answer_free(a);
    client_free(&c);
    app_free(app);
    device_free(d);
}

/* What one misbehaving app does, each on a connection of its own, while another one is served. */
static void misbehave(device *d, client *c, void (*act)(device *, side *, uint32_t),
                      unsigned status)
{
    side *app = app_attached(d, "/bad", KEY);
    answer *a = request(c, "GET", "/bad", NULL, 0, true);
    uint32_t id = side_wait(d, app, CHANNEL_REQUEST)->stream;

    act(d, app, id);
    wait_for(d, a->ended);
    if (status)
        assert_int_equal(a->status, status);
    answer_free(a);
    app_free(app);
}

static void act_die(device *d, side *s, uint32_t id)
{
    close(s->fd);
    s->fd = -1;
}

static void act_half_frame(device *d, side *s, uint32_t id)
{
    assert_int_equal(send(s->fd, "\x04\0\0\0\x22\x01", 6, 0), 6);
    act_die(d, s, id);
}

static void act_garbage(device *d, side *s, uint32_t id)
{
    uint8_t noise[4096];

    memset(noise, 0xee, sizeof(noise));
    assert_int_equal(send(s->fd, noise, sizeof(noise), 0), sizeof(noise));
}

static void act_unknown_type(device *d, side *s, uint32_t id)
{
    side_send(s, 0x7f, 0, 0, 0, 0, NULL, 0);
}

static void act_answer_twice(device *d, side *s, uint32_t id)
{
    side_send(s, CHANNEL_RESPONSE, 0, 200, id, 0, NULL, 0);
    side_send(s, CHANNEL_RESPONSE, 0, 200, id, 0, NULL, 0);
}

static void act_never_was(device *d, side *s, uint32_t id)
{
    side_send(s, CHANNEL_DATA, 0, 0, id + 2, 0, "x", 1);
}

static void act_data_first(device *d, side *s, uint32_t id)
{
    side_send(s, CHANNEL_DATA, 0, 0, id, 0, "x", 1);
}

static void act_status(device *d, side *s, uint32_t id)
{
    side_send(s, CHANNEL_RESPONSE, CHANNEL_END, 101, id, 0, NULL, 0);
}

static void act_control(device *d, side *s, uint32_t id)
{
    side_fields(s, CHANNEL_RESPONSE, CHANNEL_END, 200, id, NULL, 0, "x-a", "b\r\nset-cookie: c",
                NULL);
}

/* Costs this request alone: the connection goes on. */
static void act_name(device *d, side *s, uint32_t id)
{
    side_fields(s, CHANNEL_RESPONSE, CHANNEL_END, 200, id, NULL, 0, "X-Upper", "1", NULL);
    side_send(s, CHANNEL_PING, 0, 0, 0, 77, NULL, 0);
    assert_int_equal(side_wait(d, s, CHANNEL_PONG)->value, 77);
}

static void act_length(device *d, side *s, uint32_t id)
{
    side_fields(s, CHANNEL_RESPONSE, CHANNEL_END, 200, id, "abc", 3, "content-length", "2", NULL);
}

static void act_give_up(device *d, side *s, uint32_t id)
{
    side_send(s, CHANNEL_CANCEL, 0, 500, id, 0, NULL, 0);
}

static void act_fields(device *d, side *s, uint32_t id)
{
    side_send(s, CHANNEL_RESPONSE, CHANNEL_END, 200, id, 9, "\xff\xff\xff\xff", 4);
}

static void act_flood(device *d, side *s, uint32_t id)
{
    for (int i = 0; i < 200000; i++)
        side_send(s, CHANNEL_PING, 0, 0, 0, 0, NULL, 0);
    side_flush(d, s); /* it never reads the pongs */
}

static void act_credit(device *d, side *s, uint32_t id)
{
    side_send(s, CHANNEL_CREDIT, 0, 0, id, UINT32_MAX, NULL, 0);
}

static void test_misbehaving(void **state)
{
    static void (*const acts[])(device *, side *, uint32_t) = {
        act_die,        act_half_frame, act_garbage, act_unknown_type, act_never_was,
        act_data_first, act_status,     act_control, act_length,       act_give_up,
        act_fields,     act_flood,      act_credit,  act_name,
    };
    device *d = device_new(NULL, NULL);
    client c;
    side *good;

    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    registrar_channel(d, "/good", KEY);
    registrar_channel(d, "/bad", KEY);
    good = app_attached(d, "/good", KEY);
    client_new(d, &c, NULL);
    for (size_t i = 0; i < ELEMENTS(acts); i++) {
        answer *a = request(&c, "GET", "/good", NULL, 0, true);
        uint32_t id = side_wait(d, good, CHANNEL_REQUEST)->stream;
        misbehave(d, &c, acts[i], 502);
        assert_false(a->ended);
        side_send(good, CHANNEL_RESPONSE, CHANNEL_END, 200, id, 0, NULL, 0);
        wait_for(d, a->ended);
        assert_int_equal(a->status, 200);
        answer_free(a);
    }
    misbehave(d, &c, act_answer_twice, 200);
    client_free(&c);
    app_free(good);
    device_free(d);
}

static void test_cancel_and_late_frames(void **state)
{
    device *d = device_new(NULL, NULL);
    client c;
    answer *a;
    side *app;
    uint32_t id;

    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    registrar_channel(d, "/a", KEY);
    app = app_attached(d, "/a", KEY);
    client_new(d, &c, NULL);
    a = request(&c, "GET", "/a", NULL, 0, true);
    id = side_wait(d, app, CHANNEL_REQUEST)->stream;
    answer_free(a);
    assert_int_equal(side_wait(d, app, CHANNEL_CANCEL)->code, 499);
    /* These have crossed with the cancel. */
    side_send(app, CHANNEL_RESPONSE, 0, 200, id, 0, "late", 4);
    side_send(app, CHANNEL_DATA, CHANNEL_END, 0, id, 0, "late", 4);
    side_send(app, CHANNEL_PING, 0, 0, 0, 77, NULL, 0);
    assert_int_equal(side_wait(d, app, CHANNEL_PONG)->value, 77);
    client_free(&c);
    app_free(app);
    device_free(d);
}

static void test_deadline(void **state)
{
    endpoint_settings s = {.deadline_usec = 200000};
    device *d = device_new(&s, NULL);
    client c;
    answer *a;
    side *app;

    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    registrar_channel(d, "/a", KEY);
    app = app_attached(d, "/a", KEY);
    client_new(d, &c, NULL);
    a = request(&c, "GET", "/a", NULL, 0, true);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 504);
    assert_int_equal(side_wait(d, app, CHANNEL_CANCEL)->code, 504);
    answer_free(a);
    client_free(&c);
    app_free(app);
    device_free(d);
}

static void test_limits(void **state)
{
    endpoint_settings s = {.requests_max = 20, .requests_peer_max = 8, .responder_max = 12};
    device *d = device_new(&s, NULL);
    client c[4];
    answer *a[32];
    side *app;
    size_t n = 0;

    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    registrar_channel(d, "/a", KEY);
    app = app_attached(d, "/a", KEY);
    for (size_t i = 0; i < ELEMENTS(c); i++)
        client_new(d, &c[i], NULL);
    for (; n < 8; n++) {
        a[n] = request(&c[0], "GET", "/a", NULL, 0, true);
        wait_for(d, a[n]->request->state == REQUEST_OPEN);
    }
    a[n] = request(&c[0], "GET", "/a", NULL, 0, true);
    assert_int_equal(a[n]->status, 429);
    assert_non_null(strstr(a[n]->fields, "retry-after"));
    n++;
    /* One app never holds more than half of everything, whatever it may hold by itself. */
    for (int i = 0; i < 2; i++)
        a[n++] = request(&c[1], "GET", "/a", NULL, 0, true);
    wait_for(d, a[n - 1]->request->state == REQUEST_OPEN);
    a[n] = request(&c[1], "GET", "/a", NULL, 0, true);
    wait_for(d, a[n]->ended);
    assert_int_equal(a[n++]->status, 503);
    for (size_t i = 0; i < n; i++)
        answer_free(a[i]);
    assert_int_equal(endpoint_core_open_requests(d->core), 0);
    for (size_t i = 0; i < ELEMENTS(c); i++)
        client_free(&c[i]);
    app_free(app);
    device_free(d);
}

static void test_ten_thousand_held(void **state)
{
    endpoint_settings s = {.requests_peer_max = 20000};
    device *d = device_new(&s, NULL);
    answer **a = calloc(10000, sizeof(*a)), *b;
    size_t served = 0, refused = 0;
    client c;
    side *app, *good;

    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    registrar_channel(d, "/hold", KEY);
    registrar_channel(d, "/good", KEY);
    app = app_attached(d, "/hold", KEY);
    client_new(d, &c, NULL);
    b = request(&c, "GET", "/hold", NULL, 0, true);
    wait_for(d, b->request->state == REQUEST_OPEN);
    answer_free(b);
    for (size_t i = 0; i < 10000; i++) {
        a[i] = request(&c, "GET", "/hold", NULL, 0, true);
        if (a[i]->ended)
            refused++;
        else
            served++;
        if (i >= 2000) { /* an answer is a megabyte here */
            answer_free(a[i]);
            a[i] = NULL;
        }
    }
    assert_true(served <= 1024);
    assert_true(refused >= 10000 - 1024);
    /* It holds all that one uid may hold; its end gives everything back at once. */
    app_free(app);
    wait_for(d, endpoint_core_open_requests(d->core) == 0);
    for (size_t i = 0; i < 2000; i++) {
        assert_true(a[i]->status == 502 || a[i]->status == 503);
        answer_free(a[i]);
    }
    good = app_attached(d, "/good", KEY);
    b = request(&c, "GET", "/good", NULL, 0, true);
    side_send(good, CHANNEL_RESPONSE, CHANNEL_END, 200, side_wait(d, good, CHANNEL_REQUEST)->stream,
              0, NULL, 0);
    wait_for(d, b->ended);
    assert_int_equal(b->status, 200);
    answer_free(b);
    free(a);
    client_free(&c);
    app_free(good);
    device_free(d);
}

static void test_attach(void **state)
{
    device *d = device_new(NULL, NULL);
    side *app = app_connect(d), *second;
    client c;
    answer *a;

    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    client_new(d, &c, NULL);
    side_send(app, CHANNEL_HELLO, 0, 0, 0, 1, "\5\0\3\0:roleapp", 12);
    /* Before the table has caught up, and with a key that never fits. */
    side_fields(app, CHANNEL_ATTACH, 0, 0, 1, NULL, 0, ":namespace", "/early", ":key", KEY, NULL);
    side_fields(app, CHANNEL_ATTACH, 0, 0, 2, NULL, 0, ":namespace", "/early", ":key", "ffff",
                NULL);
    side_wait(d, app, CHANNEL_HELLO);
    registrar_channel(d, "/early", KEY);
    assert_int_equal(side_wait(d, app, CHANNEL_ATTACHED)->stream, 1);
    const hybus_frame *f = side_wait(d, app, CHANNEL_REFUSED);
    assert_int_equal(f->stream, 2);
    assert_int_equal(f->code, 403);

    /* Takeover: the old holder is told, the new one answers. */
    registrar_channel(d, "/early", "00000000000000aa");
    f = side_wait(d, app, CHANNEL_REFUSED);
    assert_int_equal(f->stream, 1);
    assert_int_equal(f->code, 410);
    a = request(&c, "GET", "/early", NULL, 0, true); /* waits for the new one */
    second = app_attached(d, "/early", "00000000000000aa");
    side_send(second, CHANNEL_RESPONSE, CHANNEL_END, 200,
              side_wait(d, second, CHANNEL_REQUEST)->stream, 0, NULL, 0);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 200);
    answer_free(a);

    /* Another uid's entry is nothing that this connection can attach to. */
    registrar_entry(d, 0, ":namespace", "/other", ":key", KEY, ":uid", "12345", ":road", "channel",
                    NULL);
    side_fields(second, CHANNEL_ATTACH, 0, 0, 9, NULL, 0, ":namespace", "/other", ":key", KEY,
                NULL);
    assert_int_equal(side_wait(d, second, CHANNEL_REFUSED)->stream, 9);
    client_free(&c);
    app_free(app);
    app_free(second);
    device_free(d);
}

static void test_registrar_returns(void **state)
{
    device *d = device_new(NULL, NULL);
    client c;
    answer *a;
    side *app;

    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    registrar_channel(d, "/stays", KEY);
    registrar_channel(d, "/leaves", KEY);
    app = app_attached(d, "/stays", KEY);
    client_new(d, &c, NULL);
    registrar_close(d);
    wait_for(d, !d->core->registrar.connected);
    a = request(&c, "GET", "/stays", NULL, 0, true);
    side_send(app, CHANNEL_RESPONSE, CHANNEL_END, 200, side_wait(d, app, CHANNEL_REQUEST)->stream,
              0, NULL, 0);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 200);
    answer_free(a);
    registrar_accept(d);
    registrar_channel(d, "/stays", KEY);
    registrar_entry(d, CHANNEL_END, ":revision", "3", NULL);
    /* The same key: nobody had to attach again. What did not come back goes after its time. */
    assert_non_null(table_find(&d->core->table, "/stays", 6)->attachment);
    wait_for(d, !endpoint_core_has(d->core, "/leaves"));
    assert_true(endpoint_core_has(d->core, "/stays"));
    registrar_entry(d, CHANNEL_GONE, ":revision", "4", ":namespace", "/stays", NULL);
    wait_for(d, !endpoint_core_has(d->core, "/stays"));
    client_free(&c);
    app_free(app);
    device_free(d);
}

static void test_start_on_demand(void **state)
{
    device *d = device_new(NULL, NULL);
    char uid[16];
    client c;
    answer *a, *b;
    side *app;

    snprintf(uid, sizeof(uid), "%u", getuid());
    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    registrar_entry(d, 0, ":revision", "1", ":namespace", "/lazy", ":key", KEY, ":uid", uid,
                    ":road", "start", ":unit", "lazy.service", NULL);
    wait_for(d, endpoint_core_has(d->core, "/lazy"));
    client_new(d, &c, NULL);
    a = request(&c, "POST", "/lazy", "body", 4, true);
    assert_string_equal(side_field(side_wait(d, &d->registrar, CHANNEL_START), ":namespace"),
                        "/lazy");
    b = request(&c, "GET", "/lazy", NULL, 0, true);
    registrar_channel(d, "/lazy", KEY);
    app = app_attached(d, "/lazy", KEY);
    const hybus_frame *f = side_wait(d, app, CHANNEL_REQUEST);
    uint32_t first = f->stream;
    if (f->size == f->value) /* the body follows */
        assert_int_equal(side_wait(d, app, CHANNEL_DATA)->size, 4);
    side_send(app, CHANNEL_RESPONSE, CHANNEL_END, 200, first, 0, NULL, 0);
    side_send(app, CHANNEL_RESPONSE, CHANNEL_END, 200, side_wait(d, app, CHANNEL_REQUEST)->stream,
              0, NULL, 0);
    wait_for(d, a->ended && b->ended);
    assert_int_equal(a->status, 200);
    assert_int_equal(b->status, 200);
    answer_free(a);
    answer_free(b);
    client_free(&c);
    app_free(app);
    device_free(d);
}

static void test_watch(void **state)
{
    endpoint_settings s = {.watches_peer_max = 2, .values_max = 16};
    device *d = device_new(&s, NULL);
    client c, guest;
    watcher *w, *second, *third;
    side *app;
    const hybus_frame *f;

    agent_fake_grant(d->agent, "token:me", ALLOW_ALL);
    registrar_channel(d, "/t", KEY);
    app = app_attached(d, "/t", KEY);
    client_new(d, &c, "me");
    client_new(d, &guest, NULL);
    w = watch(&c, "/t/x");
    f = side_wait(d, app, CHANNEL_WATCH);
    assert_int_equal(f->value, 1);
    assert_string_equal(side_field(f, ":path"), "/x");
    assert_int_equal(w->started, 1);
    side_fields(app, CHANNEL_NOTIFY, 0, 0, 1, "one", 3, ":path", "/x", "content-type", "text/plain",
                NULL);
    wait_for(d, w->values == 1);
    assert_string_equal(w->last, "one");
    /* Not its own namespace, and not attached: nothing comes of it. */
    side_fields(app, CHANNEL_NOTIFY, 0, 0, 99, "evil", 4, ":path", "/x", NULL);
    second = watch(&c, "/t/x"); /* gets the last value in the same turn */
    wait_for(d, second->values == 1);
    assert_string_equal(second->last, "one");
    third = watch(&c, "/t/x");
    assert_int_equal(third->ended, 429);
    watcher_free(third);
    third = watch(&guest, "/t/x");
    wait_for(d, third->ended);
    assert_int_equal(third->ended, 401);
    watcher_free(third);
    third = watch(&guest, "/nothing");
    assert_int_equal(third->ended, 404);
    watcher_free(third);

    /* Floods of values: the cache stays small, the watchers hear all. */
    for (int i = 0; i < 1000; i++) {
        char path[32];
        snprintf(path, sizeof(path), "/v%d", i);
        side_fields(app, CHANNEL_NOTIFY, 0, 0, 1, "v", 1, ":path", path, NULL);
    }
    side_fields(app, CHANNEL_NOTIFY, 0, 0, 1, "two", 3, ":path", "/x", ":id", "abc", NULL);
    side_flush(d, app);
    wait_for(d, w->values == 2);
    assert_string_equal(w->id, "abc");
    endpoint_statistics statistics;
    endpoint_core_statistics(d->core, &statistics);
    assert_true(statistics.values <= 16 / LIMIT_VALUES_SHARE);

    watcher_free(second);
    watcher_free(w);
    assert_int_equal(side_wait(d, app, CHANNEL_WATCH)->value, 0);

    /* Revoked mid-stream: cut before the generation is settled. */
    w = watch(&c, "/t/x");
    assert_int_equal(side_wait(d, app, CHANNEL_WATCH)->value, 1);
    agent_fake_revoke(d->agent, "token:me", ALLOW_ALL);
    agent_fake_change(d->agent);
    wait_for(d, agent_fake_settled(d->agent) == agent_fake_generation(d->agent));
    assert_int_equal(w->ended, 403);
    watcher_free(w);
    agent_fake_grant(d->agent, "token:me", ALLOW_ALL);
    agent_fake_change(d->agent);

    /* The endpoint goes: so do its watchers. */
    w = watch(&c, "/t/x");
    wait_for(d, w->started);
    registrar_entry(d, CHANNEL_GONE, ":namespace", "/t", NULL);
    wait_for(d, w->ended);
    assert_int_equal(w->ended, 410);
    watcher_free(w);
    client_free(&c);
    client_free(&guest);
    app_free(app);
    device_free(d);
}

static void test_policy_moves(void **state)
{
    device *d = device_new(NULL, NULL);
    client c;
    answer *a, *b;
    side *app;

    agent_fake_grant(d->agent, "token:me", ALLOW_ALL);
    registrar_channel(d, "/a", KEY);
    app = app_attached(d, "/a", KEY);
    client_new(d, &c, "me");

    /* A row that was overtaken on its way is asked for again. */
    agent_fake_change(d->agent);
    agent_fake_set_overtaken(d->agent, 2);
    a = request(&c, "GET", "/a", NULL, 0, true);
    uint32_t id = side_wait(d, app, CHANNEL_REQUEST)->stream;
    side_send(app, CHANNEL_RESPONSE, 0, 200, id, 0, "stream", 6);
    wait_for(d, a->size == 6);

    /* A restarted agent knows no handles: the connection is checked again by itself, and the stream
     * lives on. */
    agent_fake_restart(d->agent);
    b = request(&c, "GET", "/a", NULL, 0, true);
    side_send(app, CHANNEL_RESPONSE, CHANNEL_END, 200, side_wait(d, app, CHANNEL_REQUEST)->stream,
              0, NULL, 0);
    wait_for(d, b->ended);
    assert_int_equal(b->status, 200);
    assert_false(a->ended);
    assert_int_equal(c.revoked, 0);
    answer_free(b);

    /* While the agent is away nothing new is allowed, warm row or not. */
    agent_fake_set_alive(d->agent, false);
    b = request(&c, "GET", "/a", NULL, 0, true);
    wait_for(d, b->ended);
    assert_int_equal(b->status, 503);
    answer_free(b);
    agent_fake_restart(d->agent);

    agent_fake_revoke(d->agent, "token:me", ALLOW_ALL);
    agent_fake_change(d->agent);
    b = request(&c, "GET", "/a", NULL, 0, true); /* sent after the revocation */
    wait_for(d, agent_fake_settled(d->agent) == agent_fake_generation(d->agent));
    assert_int_equal(a->aborted, 403);
    assert_int_equal(side_wait(d, app, CHANNEL_CANCEL)->code, 403);
    wait_for(d, b->ended);
    assert_int_equal(b->status, 403);
    answer_free(a);
    answer_free(b);
    client_free(&c);
    app_free(app);
    device_free(d);
}

/* Requests and peers may go at any moment, also while the agent thinks. */
static void test_gone_while_waiting(void **state)
{
    device *d = device_new(NULL, NULL);
    client c, other;
    answer *a[LIMIT_WAITING_PEER + 1];
    watcher *w;
    side *app;

    registrar_channel(d, "/a", KEY);
    app = app_attached(d, "/a", KEY);
    client_new(d, &c, "me");
    client_new(d, &other, NULL);
    wait_for(d, agent_fake_rows(d->agent) >= 2);
    agent_fake_set_silent(d->agent, true);
    agent_fake_change(d->agent);
    for (size_t i = 0; i < LIMIT_WAITING_PEER; i++) {
        a[i] = request(&c, "GET", "/a", NULL, 0, true);
        assert_false(a[i]->ended);
    }
    a[LIMIT_WAITING_PEER] = request(&c, "GET", "/a", NULL, 0, true);
    assert_int_equal(a[LIMIT_WAITING_PEER]->status, 429);
    w = watch(&other, "/a");
    for (size_t i = 0; i <= LIMIT_WAITING_PEER; i++)
        answer_free(a[i]);
    watcher_free(w);
    client_free(&c);
    client_free(&other);
    agent_fake_set_silent(d->agent, false);
    wait_for(d, agent_fake_settled(d->agent) == agent_fake_generation(d->agent));
    assert_int_equal(d->core->held_bytes, 0);
    assert_int_equal(d->core->n_waiting, 0);
    app_free(app);
    device_free(d);
}

/* Stream ids run out after two thousand million requests: the app is asked to connect anew. */
static void test_stream_ids_run_out(void **state)
{
    device *d = device_new(NULL, NULL);
    client c;
    answer *a;
    side *app, *next;
    uint32_t id;

    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    registrar_channel(d, "/a", KEY);
    app = app_attached(d, "/a", KEY);
    client_new(d, &c, NULL);
    list_entry(d->core->links.next, link_t, node)->last_stream = 0x7ffffeff;
    a = request(&c, "GET", "/a", NULL, 0, true);
    id = side_wait(d, app, CHANNEL_REQUEST)->stream;
    side_wait(d, app, CHANNEL_GOAWAY);
    next = app_attached(d, "/a", KEY);
    side_send(app, CHANNEL_RESPONSE, CHANNEL_END, 200, id, 0, NULL, 0);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 200);
    answer_free(a);
    side_wait_closed(d, app);
    a = request(&c, "GET", "/a", NULL, 0, true);
    assert_int_equal(side_wait(d, next, CHANNEL_REQUEST)->stream, 1);
    answer_free(a);
    client_free(&c);
    app_free(app);
    app_free(next);
    device_free(d);
}

/* More permissions than one question holds, by number and by bytes; and numbers that are used
 * again. */
static void test_many_permissions(void **state)
{
    device *d = device_new(NULL, NULL);
    char name[CHANNEL_NAMESPACE_MAX + 1], wanted[LIMIT_PERMISSION];
    client c;
    answer *a;
    side *app;

    for (int i = 0; i < 400; i++) {
        snprintf(name, sizeof(name), "/%0200d", i);
        registrar_channel(d, name, KEY);
    }
    assert_non_null(d->core->table.pages[3]);
    for (size_t i = 0; i < LIMIT_PERMISSION_PAGES && d->core->table.pages[i]; i++)
        assert_true(d->core->table.pages[i]->bytes <= LIMIT_PERMISSION_PAGE_BYTES);
    snprintf(wanted, sizeof(wanted), "endpoint.read:%s", name);
    agent_fake_grant(d->agent, "anonymous", wanted);
    app = app_attached(d, name, KEY);
    client_new(d, &c, NULL);
    a = request(&c, "GET", name, NULL, 0, true);
    side_send(app, CHANNEL_RESPONSE, CHANNEL_END, 200, side_wait(d, app, CHANNEL_REQUEST)->stream,
              0, NULL, 0);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 200);
    answer_free(a);

    /* Another namespace takes over the bits of this one: the old row must not open it. */
    registrar_entry(d, CHANNEL_GONE, ":namespace", name, NULL);
    wait_for(d, !endpoint_core_has(d->core, name));
    registrar_channel(d, "/heir", KEY);
    a = request(&c, "GET", "/heir", NULL, 0, true);
    wait_for(d, a->ended);
    assert_int_equal(a->status, 401);
    answer_free(a);
    client_free(&c);
    app_free(app);
    device_free(d);
}

/* Whoever registers and unregisters without end has no part in what is asked for another's
 * endpoint. */
static void test_others_come_and_go(void **state)
{
    device *d = device_new(NULL, NULL);
    char name[32];
    client c;
    answer *a;
    side *app;
    unsigned rows;

    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    registrar_channel(d, "/thermo", KEY);
    app = app_attached(d, "/thermo", KEY);
    client_new(d, &c, NULL);
    a = request(&c, "GET", "/thermo", NULL, 0, true);
    side_send(app, CHANNEL_RESPONSE, CHANNEL_END, 200, side_wait(d, app, CHANNEL_REQUEST)->stream,
              0, NULL, 0);
    wait_for(d, a->ended);
    answer_free(a);
    rows = agent_fake_rows(d->agent);
    for (int i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "/other/%i", i);
        registrar_channel(d, name, KEY);
        wait_for(d, endpoint_core_has(d->core, name));
        if (i % 2) {
            registrar_entry(d, CHANNEL_GONE, ":namespace", name, NULL);
            wait_for(d, !endpoint_core_has(d->core, name));
        }
        a = request(&c, "GET", "/thermo", NULL, 0, true);
        assert_int_equal(a->request->state, REQUEST_OPEN);
        answer_free(a);
    }
    assert_int_equal(agent_fake_rows(d->agent), rows);

    /* The row knows nothing of what came later. */
    a = request(&c, "GET", "/other/0", NULL, 0, true);
    assert_int_not_equal(a->request->state, REQUEST_OPEN);
    wait_for(d, agent_fake_rows(d->agent) > rows);
    answer_free(a);
    client_free(&c);
    app_free(app);
    device_free(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_handle),
        cmocka_unit_test(test_requests_before_the_check),
        cmocka_unit_test(test_single_requests),
        cmocka_unit_test(test_listing),
        cmocka_unit_test(test_many_permissions),
        cmocka_unit_test(test_others_come_and_go),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_bodies_and_credit),
        cmocka_unit_test(test_misbehaving),
        cmocka_unit_test(test_cancel_and_late_frames),
        cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_ten_thousand_held),
        cmocka_unit_test(test_attach),
        cmocka_unit_test(test_registrar_returns),
        cmocka_unit_test(test_start_on_demand),
        cmocka_unit_test(test_watch),
        cmocka_unit_test(test_policy_moves),
        cmocka_unit_test(test_gone_while_waiting),
        cmocka_unit_test(test_stream_ids_run_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
