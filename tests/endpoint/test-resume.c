/* SPDX-License-Identifier: Apache-2.0 */

/* Watchers that come back: what they missed is asked of the app, one value after another. */
#include "device.h"

#define KEY "0123456789abcdef"

typedef struct world {
    device *d;
    client c;
    side *app;
} world;

static void set_up(world *w)
{
    w->d = device_new(NULL, NULL);
    agent_fake_grant(w->d->agent, "token:me", ALLOW_ALL);
    registrar_channel(w->d, "/t", KEY);
    w->app = app_attached_resuming(w->d, "/t", KEY);
    client_new(w->d, &w->c, "me");
}

static void tear_down(world *w)
{
    client_free(&w->c);
    app_free(w->app);
    device_free(w->d);
}

static void say(world *w, const char *id, const char *body)
{
    side_fields(w->app, CHANNEL_NOTIFY, 0, 0, 1, body, strlen(body), ":path", "/x", ":id", id, NULL);
    side_flush(w->d, w->app);
}

static void resumed(world *w, uint32_t token, const char *id, const char *body)
{
    char number[16];

    snprintf(number, sizeof(number), "%u", token);
    if (id)
        side_fields(w->app, CHANNEL_RESUMED, 0, 200, 1, body, strlen(body), ":token", number, ":id", id, NULL);
    else
        side_fields(w->app, CHANNEL_RESUMED, 0, 204, 1, NULL, 0, ":token", number, NULL);
    side_flush(w->d, w->app);
}

/* The next question; its token. */
static uint32_t asked(world *w, const char *id)
{
    const hybus_frame *f = side_wait(w->d, w->app, CHANNEL_RESUME);

    assert_int_equal(f->stream, 1);
    assert_string_equal(side_field(f, ":path"), "/x");
    assert_string_equal(side_field(f, ":id"), id);
    assert_int_not_equal(f->value, 0);
    return f->value;
}

/* A value to another watcher proves that all before it has been dealt with. */
static void settle(world *w, watcher *other, const char *id)
{
    say(w, id, "live");
    wait_for(w->d, strcmp(other->id, id) == 0);
}

static void test_value_by_value(void **state)
{
    world w;
    watcher *me, *other;
    uint32_t token;

    set_up(&w);
    other = watch(&w.c, "/t/x");
    settle(&w, other, "v4");
    me = watch_again(&w.c, "/t/x", "v1");
    wait_for(w.d, me->started);
    token = asked(&w, "v1");
    /* What is live meanwhile is what the app will say later. */
    settle(&w, other, "v5");
    assert_int_equal(me->values, 0);
    resumed(&w, token, "v2", "two");
    wait_for(w.d, me->values == 1);
    assert_string_equal(me->last, "two");
    assert_string_equal(me->id, "v2");
    assert_true(me->resumed && !me->gap);
    /* The next one only when the client has taken this one. */
    settle(&w, other, "v6");
    resumed(&w, token, "v9", "not asked for");
    settle(&w, other, "v7");
    assert_int_equal(me->values, 1);
    endpoint_watch_next(me->watch);
    endpoint_watch_next(me->watch);
    token = asked(&w, "v2");
    resumed(&w, token, "v7", "rest");
    wait_for(w.d, me->values == 2);
    endpoint_watch_next(me->watch);
    token = asked(&w, "v7");
    resumed(&w, token, NULL, NULL);
    settle(&w, other, "v8");
    wait_for(w.d, me->values == 3);
    assert_string_equal(me->last, "live");
    assert_true(me->resumed && !me->gap); /* it follows on v7 */
    settle(&w, other, "v9");
    assert_true(me->values == 4 && !me->resumed && !me->gap);
    watcher_free(me);
    watcher_free(other);
    tear_down(&w);
}

static void test_who_does_not_care(void **state)
{
    device *d = device_new(NULL, NULL);
    client c;
    watcher *w;
    side *app;

    agent_fake_grant(d->agent, "token:me", ALLOW_ALL);
    registrar_channel(d, "/t", KEY);
    app = app_attached(d, "/t", KEY);
    client_new(d, &c, "me");
    side_fields(app, CHANNEL_NOTIFY, 0, 0, 1, "one", 3, ":path", "/x", NULL);
    side_flush(d, app);
    w = watch_again(&c, "/t/x", "v1");
    wait_for(d, w->values == 1);
    assert_true(!w->resumed && !w->gap);
    watcher_free(w);
    client_free(&c);
    app_free(app);
    device_free(d);
}

/* The app is made anew in the middle, and goes on where the watcher stands; or it no longer can. */
static void test_the_app_comes_back(void **state)
{
    world w;
    watcher *me;
    uint32_t token;

    set_up(&w);
    me = watch_again(&w.c, "/t/x", "v1");
    token = asked(&w, "v1");
    resumed(&w, token, "v2", "two");
    wait_for(w.d, me->values == 1);
    endpoint_watch_next(me->watch);
    (void)asked(&w, "v2");
    app_free(w.app);
    w.app = app_attached_resuming(w.d, "/t", KEY);
    token = asked(&w, "v2");
    resumed(&w, token, "v3", "three");
    wait_for(w.d, me->values == 2);
    endpoint_watch_next(me->watch);
    (void)asked(&w, "v3");
    app_free(w.app);
    w.app = app_attached(w.d, "/t", KEY);
    device_turn(w.d);
    say(&w, "v5", "five");
    wait_for(w.d, me->values == 3);
    assert_true(me->gap && !me->resumed);
    assert_string_equal(me->last, "five");
    say(&w, "v6", "six");
    wait_for(w.d, me->values == 4);
    assert_false(me->gap);
    watcher_free(me);
    tear_down(&w);
}

/* Nobody speaks for the watchers of others, and nobody is given the same for ever. */
static void test_hostile_answers(void **state)
{
    world w;
    watcher *me;
    uint32_t token;
    side *evil;
    char number[16];

    set_up(&w);
    registrar_channel(w.d, "/evil", "fedcba9876543210");
    evil = app_attached_resuming(w.d, "/evil", "fedcba9876543210");
    me = watch_again(&w.c, "/t/x", "v1");
    token = asked(&w, "v1");
    snprintf(number, sizeof(number), "%u", token);
    side_fields(evil, CHANNEL_RESUMED, 0, 200, 1, "evil", 4, ":token", number, ":id", "v2", NULL);
    side_fields(evil, CHANNEL_RESUMED, 0, 200, 7, "evil", 4, ":token", number, ":id", "v2", NULL);
    side_send(evil, CHANNEL_PING, 0, 0, 0, 1, NULL, 0);
    side_flush(w.d, evil);
    side_wait(w.d, evil, CHANNEL_PONG);
    assert_int_equal(me->values, 0);
    say(&w, "v4", "four");
    resumed(&w, token, "v1", "again and again");
    wait_for(w.d, me->values == 1);
    assert_string_equal(me->last, "four");
    assert_true(me->gap);
    watcher_free(me);
    /* A watcher that has gone is answered into the void. */
    me = watch_again(&w.c, "/t/x", "v1");
    token = asked(&w, "v1");
    watcher_free(me);
    resumed(&w, token, "v2", "two");
    side_send(w.app, CHANNEL_PING, 0, 0, 0, 1, NULL, 0);
    side_flush(w.d, w.app);
    side_wait(w.d, w.app, CHANNEL_PONG);
    /* What is no answer ends the connection. */
    side_fields(w.app, CHANNEL_RESUMED, 0, 200, 1, "x", 1, ":token", "1", ":id", "a\nb", NULL);
    side_flush(w.d, w.app);
    side_wait_closed(w.d, w.app);
    app_free(evil);
    tear_down(&w);
}

static void test_revoked_meanwhile(void **state)
{
    world w;
    watcher *me;
    uint32_t token;

    set_up(&w);
    me = watch_again(&w.c, "/t/x", "v1");
    token = asked(&w, "v1");
    agent_fake_revoke(w.d->agent, "token:me", ALLOW_ALL);
    agent_fake_change(w.d->agent);
    wait_for(w.d, me->ended);
    resumed(&w, token, "v2", "two");
    side_send(w.app, CHANNEL_PING, 0, 0, 0, 1, NULL, 0);
    side_flush(w.d, w.app);
    side_wait(w.d, w.app, CHANNEL_PONG);
    assert_int_equal(me->values, 0);
    endpoint_watch_next(me->watch);
    watcher_free(me);
    tear_down(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_value_by_value),
        cmocka_unit_test(test_who_does_not_care),
        cmocka_unit_test(test_the_app_comes_back),
        cmocka_unit_test(test_hostile_answers),
        cmocka_unit_test(test_revoked_meanwhile),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
