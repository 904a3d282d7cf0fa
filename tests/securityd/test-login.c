/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>
#include <systemd/sd-event.h>

#include "agent-socket.h"
#include "fixture.h"
#include "password.h"
#include "security-internal.h"

#define SERVER 60990u
#define RIGHT "correct horse battery"

static int set_up(void **state)
{
    Fixture *f = fixture_new();

    password_cost = 1; /* the least that yescrypt does */
    fixture_write(f->paths[2], "60-test.policy",
                  "[grant server]\nTo = uid:60990\nPermission = security.connect security.row\n"
                  "[grant alice-reads]\nTo = user:alice\nPermission = log.read\n"
                  "[grant operators]\nTo = role:operator\nPermission = log.follow\n"
                  "[grant helper]\nTo = uid:60991\nPermission = security.users\n"
                  "[deny banned]\nTo = user:eve\nPermission = connect.http\n");
    f->settings.session_idle = UINT64_C(3600000000);
    f->settings.session_lifetime = UINT64_C(36000000000);
    fixture_open(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture_free(*state);
    return 0;
}

static void add_user(Fixture *f, const char *name, const char *password)
{
    _cleanup_(freep) char *hash = NULL;

    if (password)
        assert_int_equal(password_hash(password, &hash), 0);
    assert_int_equal(security_add_user_with(f->security, &fixture_root, name, NULL, hash, NULL), 0);
}

/* What security_login_begin() or _end() says; *ret_secret is for free(). */
static int login_from(Fixture *f, const char *user, const char *password, const char *peer,
                      char **ret_secret)
{
    const Login l = {.user = user, .protocol = "http", .peer = peer, .tls = "TLSv1.3"};
    LoginCheck check = {0};
    uint64_t expires, wait = 0;
    char *secret = NULL;
    int r = security_login_begin(f->security, &l, &check, &wait);

    if (r >= 0)
        r = security_login_end(f->security, &l, &check, password_is(password, check.hash), &secret,
                               &expires, &wait);
    login_check_done(&check);
    assert_int_equal(r == 1, secret != NULL);
    assert_int_equal(r == -EAGAIN, wait > 0);
    if (ret_secret)
        *ret_secret = secret;
    else
        free(secret);
    return r;
}

static Principal *connect_with(Fixture *f, const char *secret)
{
    const Connect c = {
        .protocol = "http", .peer = "192.0.2.1:1", .tls = "TLSv1.3", .bearer = secret};
    Principal *p = NULL;
    uint64_t wait;

    return security_connect(f->security, &c, &p, &wait) >= 0 ? p : NULL;
}

static bool holds(Fixture *f, Principal *p, const char *permission)
{
    Subject subject;

    assert_int_equal(security_principal_refresh(f->security, p), 0);
    subject = security_remote_subject(p);
    subject.ended = security_principal_is_void(f->security, p);
    return fixture_allows(f, subject, permission);
}

/* --- passwords ------------------------------------------------------------------------------- */

static void test_passwords(void **state)
{
    _cleanup_(freep) char *a = NULL, *b = NULL;
    char longest[PASSWORD_MAX + 2];

    assert_int_equal(password_hash(RIGHT, &a), 0);
    assert_int_equal(password_hash(RIGHT, &b), 0);
    assert_string_not_equal(a, b); /* salted */
    assert_true(startswith(a, "$y$"));
    assert_true(password_is(RIGHT, a) && password_is(RIGHT, b));
    assert_false(password_is("correct horse batterx", a));
    assert_false(password_is("", a));
    assert_false(password_is(RIGHT, NULL));
    assert_false(password_is(RIGHT, ""));
    assert_false(password_is(RIGHT, "x"));
    assert_false(password_is("*0", "*0"));
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = '\0';
    assert_false(password_is_acceptable(longest));
    assert_false(password_is(longest, a));
    longest[PASSWORD_MAX] = '\0';
    assert_true(password_is_acceptable(longest));
    assert_false(password_is_acceptable("1234567"));
    assert_true(password_is_acceptable("12345678"));
}

/* What is shipped takes memory: a guess must not be cheap. */
static void test_the_shipped_cost(void **state)
{
    _cleanup_(freep) char *hash = NULL;

    password_cost = 0;
    assert_int_equal(password_hash(RIGHT, &hash), 0);
    assert_true(startswith(hash, "$y$j9T$")); /* N = 4096, r = 32: 16 MiB */
    assert_true(password_is(RIGHT, hash));
}

/* --- the queue ------------------------------------------------------------------------------- */

typedef struct Result {
    unsigned called;
    unsigned *order, place;
    bool right;
    char *hash;
} Result;

static void note(bool right, const char *hash, void *userdata)
{
    Result *r = userdata;

    r->called++;
    r->right = right;
    r->place = r->order ? ++*r->order : 0;
    r->hash = hash ? strdup(hash) : NULL;
}

static void run_until(sd_event *event, const Result *r)
{
    while (!r->called)
        assert_true(sd_event_run(event, 60000000) > 0);
    assert_int_equal(r->called, 1);
}

static void test_the_queue(void **state)
{
    _cleanup_(password_queue_freep) PasswordQueue *q = NULL;
    sd_event *event;
    Result made = {0}, checked[4] = {0};
    unsigned order = 0;
    PasswordJob *job;

    assert_int_equal(sd_event_new(&event), 0);
    assert_int_equal(password_queue_new(event, &q), 0);
    assert_int_equal(password_queue_hash(q, RIGHT, note, &made, NULL), 0);
    assert_int_equal(made.called, 0);
    run_until(event, &made);
    assert_true(made.right && password_is(RIGHT, made.hash));
    for (size_t i = 0; i < ELEMENTS(checked); i++)
        checked[i].order = &order;
    assert_int_equal(password_queue_check(q, RIGHT, made.hash, 1, false, note, &checked[0], NULL),
                     0);
    assert_int_equal(password_queue_check(q, "wrong", made.hash, 2, false, note, &checked[1], &job),
                     0);
    assert_int_equal(password_queue_check(q, "wrong", NULL, 3, false, note, &checked[2], NULL), 0);
    assert_int_equal(password_queue_check(q, RIGHT, made.hash, 4, true, note, &checked[3], NULL),
                     0);
    /* Nobody takes two places. */
    assert_int_equal(password_queue_check(q, RIGHT, made.hash, 3, false, note, NULL, NULL), -EBUSY);
    password_job_cancel(job);
    run_until(event, &checked[2]);
    /* Whoever is known goes first; whoever has left is not called. */
    assert_true(checked[3].called && checked[3].right && checked[0].right);
    assert_false(checked[2].right);
    assert_int_equal(checked[1].called, 0);
    assert_true(checked[3].place < checked[2].place);
    assert_int_equal(password_queue_check(q, RIGHT, made.hash, 3, false, note, &checked[1], NULL),
                     0);
    free(made.hash);
    password_queue_free(TAKE_PTR(q)); /* with one in it */
    assert_int_equal(checked[1].called, 0);
    sd_event_unref(event);
}

static void test_the_queue_is_bounded(void **state)
{
    _cleanup_(password_queue_freep) PasswordQueue *q = NULL;
    Result results[PASSWORD_KNOWN_MAX] = {0};
    sd_event *event;
    unsigned n = 0;
    int r = 0;

    assert_int_equal(sd_event_new(&event), 0);
    assert_int_equal(password_queue_new(event, &q), 0);
    for (; n < PASSWORD_KNOWN_MAX && r == 0; n++)
        r = password_queue_check(q, RIGHT, NULL, n + 1, false, note, &results[n], NULL);
    assert_int_equal(r, -ENOBUFS);
    assert_int_equal(n - 1, PASSWORD_WAITING_MAX);
    /* Strangers have filled what is theirs; there is room for whoever is known. */
    for (r = 0, n = PASSWORD_WAITING_MAX; n < PASSWORD_KNOWN_MAX && r == 0; n++)
        r = password_queue_check(q, RIGHT, NULL, n + 1, true, note, &results[n], NULL);
    assert_int_equal(r, 0);
    assert_int_equal(password_queue_check(q, RIGHT, NULL, 99, true, note, NULL, NULL), -ENOBUFS);
    for (n = 0; n < PASSWORD_KNOWN_MAX; n++)
        run_until(event, &results[n]);
    password_queue_free(TAKE_PTR(q));
    sd_event_unref(event);
}

/* --- login ----------------------------------------------------------------------------------- */

static void test_login_and_logout(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *p = NULL, *again = NULL;
    _cleanup_(freep) char *secret = NULL, *other = NULL;

    add_user(f, "alice", RIGHT);
    add_user(f, "bob", NULL);
    assert_int_equal(login_from(f, "alice", "wrong", "192.0.2.1:1", NULL), -EKEYREJECTED);
    assert_string_equal(fixture_record(f, "denied")->subject, "user:alice");
    assert_int_equal(login_from(f, "bob", "", "192.0.2.1:1", NULL), -EKEYREJECTED);
    assert_int_equal(login_from(f, "nobody", RIGHT, "192.0.2.1:1", NULL), -EKEYREJECTED);
    assert_int_equal(login_from(f, "No One", RIGHT, "192.0.2.1:1", NULL), -EINVAL);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &secret), 1);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &other), 1);
    assert_string_not_equal(secret, other);
    p = connect_with(f, secret);
    assert_string_equal(p->name, "user:alice");
    assert_null(p->token);
    assert_true(holds(f, p, "log.read"));
    assert_false(holds(f, p, "log.follow"));
    /* The one ends, at once and for what it has opened; the other goes on. */
    assert_int_equal(security_logout(f->security, secret), 1);
    assert_int_equal(security_logout(f->security, secret), -ENOENT);
    assert_false(holds(f, p, "log.read"));
    assert_null(connect_with(f, secret));
    again = connect_with(f, other);
    assert_true(holds(f, again, "log.read"));
    assert_int_equal(security_remove_session(f->security, &fixture_root, 99), -ENOENT);
    assert_int_equal(
        security_remove_session(f->security, &fixture_root, f->security->sessions.list[0].id), 1);
    assert_false(holds(f, again, "log.read"));
}

static void test_whoever_may_not_connect_cannot_log_in(void **state)
{
    Fixture *f = *state;

    add_user(f, "eve", RIGHT);
    assert_int_equal(login_from(f, "eve", RIGHT, "192.0.2.1:1", NULL), -EACCES);
    assert_int_equal(f->security->sessions.n, 0);
}

static void test_roles_follow_at_once(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *p = NULL, *by_token = NULL;
    _cleanup_(freep) char *secret = NULL, *token = NULL;
    char *operator[] = {(char *)"operator", NULL};
    const Subject helper = fixture_uid(60991);
    hybus_config_error e = {0};

    add_user(f, "alice", RIGHT);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &secret), 1);
    p = connect_with(f, secret);
    assert_int_equal(
        security_add_token(f->security, &fixture_root, "ci", "user:alice", NULL, 0, &token, NULL),
        0);
    by_token = connect_with(f, token);
    assert_false(holds(f, p, "log.follow") || holds(f, by_token, "log.follow"));
    /* Nobody hands out what they do not hold, neither by a role nor by a password. */
    assert_int_equal(security_set_roles(f->security, &helper, "alice", operator, & e), -EACCES);
    hybus_config_error_done(&e);
    assert_int_equal(security_set_password(f->security, &helper, "alice", "x", &e), -EACCES);
    hybus_config_error_done(&e);
    assert_int_equal(security_set_roles(f->security, &fixture_root, "alice", operator, NULL), 1);
    assert_true(holds(f, p, "log.follow") && holds(f, by_token, "log.follow"));
    assert_int_equal(security_set_roles(f->security, &fixture_root, "alice", NULL, NULL), 1);
    assert_false(holds(f, p, "log.follow") || holds(f, by_token, "log.follow"));
    assert_true(holds(f, p, "log.read"));
}

static void test_another_password_ends_the_sessions(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *p = NULL;
    _cleanup_(freep) char *secret = NULL, *hash = NULL;
    const Login l = {.user = "alice", .protocol = "http", .peer = "192.0.2.1:1"};
    LoginCheck check;
    uint64_t expires, wait;
    char *none = NULL;

    add_user(f, "alice", RIGHT);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &secret), 1);
    p = connect_with(f, secret);
    assert_int_equal(password_hash("another one", &hash), 0);
    assert_int_equal(security_login_begin(f->security, &l, &check, &wait), 0);
    assert_int_equal(security_set_password(f->security, &fixture_root, "alice", hash, NULL), 1);
    assert_false(holds(f, p, "log.read"));
    assert_null(connect_with(f, secret));
    /* It was compared with the one of before. */
    assert_int_equal(security_login_end(f->security, &l, &check, true, &none, &expires, &wait),
                     -EKEYREJECTED);
    login_check_done(&check);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", NULL), -EKEYREJECTED);
    assert_int_equal(login_from(f, "alice", "another one", "192.0.2.1:1", NULL), 1);
    fixture_open(f); /* it was written down */
    assert_null(connect_with(f, secret));
    assert_int_equal(login_from(f, "alice", "another one", "192.0.2.1:1", NULL), 1);
}

/* --- after a restart ------------------------------------------------------------------------- */

static void test_sessions_outlive_the_agent(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *p = NULL;
    _cleanup_(freep) char *secret = NULL, *over = NULL, *removed = NULL, *text = NULL;
    uint64_t last, begun;

    add_user(f, "alice", RIGHT);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &secret), 1);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &over), 1);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &removed), 1);
    last = f->security->sessions.last_id;
    begun = f->security->sessions.list[0].begun;
    assert_int_equal(security_logout(f->security, over), 1);
    assert_int_equal(security_remove_session(f->security, &fixture_root, last), 1);
    fixture_open(f);
    p = connect_with(f, secret);
    assert_string_equal(p->name, "user:alice");
    assert_null(connect_with(f, over));
    assert_null(connect_with(f, removed));
    assert_int_equal(f->security->sessions.list[0].begun, begun);
    assert_string_equal(f->security->sessions.list[0].peer, "192.0.2.1:1");
    assert_int_equal(f->security->sessions.last_id, last); /* no id is given twice */
    /* Not the secret, nor the password. */
    text = fixture_read(f->settings.runtime_directory, "sessions", NULL);
    assert_null(strstr(text, secret));
    assert_null(strstr(text, "$y$"));
}

/* Killed between writing the state and the sessions: the old file is still there. */
static void test_no_session_comes_back_by_an_old_file(void **state)
{
    Fixture *f = *state;
    const char *run = f->settings.runtime_directory;
    _cleanup_(freep) char *secret = NULL, *text = NULL, *hash = NULL;

    add_user(f, "alice", RIGHT);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &secret), 1);
    text = fixture_read(run, "sessions", NULL);
    assert_int_equal(password_hash(RIGHT, &hash), 0); /* the same, anew */
    assert_int_equal(security_set_password(f->security, &fixture_root, "alice", hash, NULL), 1);
    fixture_write(run, "sessions", text);
    fixture_open(f);
    assert_null(connect_with(f, secret));
    assert_int_equal(security_remove_user(f->security, &fixture_root, "alice"), 1);
    fixture_write(run, "sessions", text);
    fixture_open(f);
    add_user(f, "alice", RIGHT);
    assert_null(connect_with(f, secret));
}

static void test_sessions_of_another_state_are_none(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *secret = NULL;

    add_user(f, "alice", RIGHT);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &secret), 1);
    fixture_close(f);
    fixture_remove(f->settings.state_directory, "anchor"); /* put back from a backup */
    fixture_open(f);
    assert_true(f->security->store->restored);
    assert_null(connect_with(f, secret));
    assert_false(fixture_has(f->settings.runtime_directory, "sessions"));
}

static void test_damaged_files_of_sessions(void **state)
{
    Fixture *f = *state;
    const char *run = f->settings.runtime_directory;
    _cleanup_(freep) char *secret = NULL, *text = NULL;
    size_t size;

    add_user(f, "alice", RIGHT);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &secret), 1);
    fixture_close(f);
    text = fixture_read(run, "sessions", &size);
    text[size - 3] ^= 1;
    fixture_write(run, "sessions", text);
    fixture_open(f);
    assert_null(connect_with(f, secret));
    fixture_write(run, "sessions", "");
    fixture_open(f);
    assert_int_equal(f->security->sessions.n, 0);
    /* And goes on. */
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", NULL), 1);
    fixture_open(f);
    assert_int_equal(f->security->sessions.n, 1);
}

/* What was over when the agent was away, and how far what was in use may have been forgotten. */
static void test_time_passes_while_the_agent_is_away(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *p = NULL;
    _cleanup_(freep) char *secret = NULL;
    Session *session;

    add_user(f, "alice", RIGHT);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &secret), 1);
    p = connect_with(f, secret);
    session = &f->security->sessions.list[0];
    session->begun -= 4 * SESSIONS_SAVE_USEC;
    session->used -= 2 * SESSIONS_SAVE_USEC;
    f->security->sessions.saved -= SESSIONS_SAVE_USEC;
    security_principal_touch(f->security, p);
    principal_free(TAKE_PTR(p));
    fixture_open(f);
    session = &f->security->sessions.list[0];
    assert_true(security_boottime() - session->used < SESSIONS_SAVE_USEC);
    session->begun -= f->settings.session_lifetime;
    session->used = session->begun;
    assert_int_equal(security_save_sessions(f->security), 0);
    fixture_open(f);
    assert_int_equal(f->security->sessions.n, 0);
}

static void test_a_removed_user_is_gone(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *p = NULL;
    _cleanup_(freep) char *secret = NULL;

    add_user(f, "alice", RIGHT);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &secret), 1);
    p = connect_with(f, secret);
    assert_int_equal(security_remove_user(f->security, &fixture_root, "alice"), 1);
    assert_false(holds(f, p, "log.read"));
    add_user(f, "alice", RIGHT); /* another one of that name */
    assert_false(holds(f, p, "log.read"));
    assert_null(connect_with(f, secret));
}

static void test_sessions_end_by_themselves(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *p = NULL;
    _cleanup_(freep) char *secret = NULL;
    Session *session;

    add_user(f, "alice", RIGHT);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &secret), 1);
    p = connect_with(f, secret);
    session = &f->security->sessions.list[0];
    assert_true(security_next_expiry(f->security) <=
                store_now(f->security->store) + f->settings.session_idle);
    /* Unused for as long as that: over, until it is seen to be in use. */
    session->used -= f->settings.session_idle - 1000000;
    assert_true(holds(f, p, "log.read"));
    security_principal_touch(f->security, p);
    session->used -= f->settings.session_idle;
    assert_false(holds(f, p, "log.read"));
    security_principal_touch(f->security, p); /* too late */
    assert_false(holds(f, p, "log.read"));
    assert_null(connect_with(f, secret));
    assert_true(security_expire(f->security, store_now(f->security->store)));
    assert_int_equal(f->security->sessions.n, 0);
    /* In use all the time, it ends all the same. */
    free(TAKE_PTR(secret));
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &secret), 1);
    f->security->sessions.list[0].begun -= f->settings.session_lifetime;
    assert_null(connect_with(f, secret));
}

static void test_sessions_are_bounded(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *first = NULL;
    Session new = {.user = (char *)"other"}, *one;

    add_user(f, "alice", RIGHT);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &first), 1);
    for (unsigned i = 0; i < SESSIONS_OF_USER_MAX; i++)
        assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", NULL), 1);
    assert_int_equal(f->security->sessions.n, SESSIONS_OF_USER_MAX);
    assert_null(connect_with(f, first)); /* the oldest made room */
    while (f->security->sessions.n < SESSIONS_MAX)
        assert_int_equal(sessions_add(&f->security->sessions, &new, &one), 0);
    /* All are in use: one's own makes room, others are told. */
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", NULL), 1);
    add_user(f, "bob", RIGHT);
    assert_int_equal(login_from(f, "bob", RIGHT, "192.0.2.1:1", NULL), -ENOBUFS);
    assert_int_equal(f->security->sessions.n, SESSIONS_MAX);
}

/* --- guessing -------------------------------------------------------------------------------- */

static void test_guessing_from_one_place_is_slowed(void **state)
{
    Fixture *f = *state;
    unsigned tried = 0;

    add_user(f, "alice", RIGHT);
    add_user(f, "bob", RIGHT);
    while (login_from(f, "alice", "wrong", "192.0.2.7:1", NULL) == -EKEYREJECTED)
        tried++;
    assert_in_range(tried, 5, 20);
    /* Nothing is compared any more, whatever the name and however right; others are not concerned.
     */
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.7:2", NULL), -EAGAIN);
    assert_int_equal(login_from(f, "bob", RIGHT, "192.0.2.7:3", NULL), -EAGAIN);
    assert_int_equal(login_from(f, "bob", RIGHT, "192.0.2.8:1", NULL), 1);
}

static void test_many_attackers_do_not_lock_the_owner_out(void **state)
{
    Fixture *f = *state;
    char peer[32];
    unsigned compared = 0;

    add_user(f, "alice", RIGHT);
    add_user(f, "bob", RIGHT);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", NULL), 1);
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(peer, sizeof peer, "198.51.%u.%u:1", i / 250, i % 250);
        compared += login_from(f, "alice", "wrong", peer, NULL) == -EKEYREJECTED;
    }
    assert_in_range(compared, 5, 20);
    /* A stranger is slowed even with the right one: else the slowing could be told from a wrong
     * one. */
    assert_int_equal(login_from(f, "alice", RIGHT, "203.0.113.5:1", NULL), -EAGAIN);
    /* The owner comes from where they have been before; also after a restart, with the attack going
     * on. */
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:99", NULL), 1);
    fixture_open(f);
    for (unsigned i = 0; i < 20; i++) {
        snprintf(peer, sizeof peer, "198.51.100.%u:1", i);
        (void)login_from(f, "alice", "wrong", peer, NULL);
    }
    assert_int_equal(login_from(f, "alice", RIGHT, "203.0.113.5:1", NULL), -EAGAIN);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:99", NULL), 1);
    assert_int_equal(login_from(f, "bob", RIGHT, "203.0.113.5:1", NULL), 1);
    /* A known place guesses no faster than any other. */
    compared = 0;
    while (login_from(f, "alice", "wrong", "192.0.2.1:1", NULL) == -EKEYREJECTED)
        compared++;
    assert_in_range(compared, 5, 20);
    /* As many places as are remembered. */
    for (unsigned i = 0; i < 20; i++) {
        snprintf(peer, sizeof peer, "203.0.113.%u:1", i);
        assert_int_equal(login_from(f, "bob", RIGHT, peer, NULL), 1);
    }
    assert_int_equal(words_count(store_user(f->security->store, "bob")->known), 8);
}

/* --- the private socket ---------------------------------------------------------------------- */

static json_t *ask(Fixture *f, uint32_t uid, const char *question)
{
    char *answer = NULL;
    json_t *j;

    assert_int_equal(agent_socket_feed(f->security, uid, question, strlen(question), &answer), 0);
    if (!answer)
        return NULL;
    j = json_loads(answer, 0, NULL);
    assert_non_null(j);
    free(answer);
    return j;
}

static void expect(Fixture *f, uint32_t uid, const char *question, const char *error)
{
    json_t *j = ask(f, uid, question);

    if (error)
        assert_string_equal(json_string_value(json_object_get(j, "error")), error);
    else
        assert_true(json_is_true(json_object_get(j, "ok")));
    json_decref(j);
}

/* What the server's question of `bearer` gets. */
static json_t *change_own(Fixture *f, const char *bearer, const char *old, const char *new)
{
    char question[700];

    snprintf(question, sizeof question,
             "{\"id\":1,\"op\":\"own-password\",\"bearer\":\"%s\",\"secret\":\"%s\",\"new\":\"%s\","
             "\"protocol\":\"http\",\"peer\":\"192.0.2.1:1\"}",
             bearer, old, new);
    return ask(f, SERVER, question);
}

static void expect_own(Fixture *f, const char *bearer, const char *old, const char *new,
                       const char *error)
{
    json_t *j = change_own(f, bearer, old, new);

    assert_string_equal(strempty(json_string_value(json_object_get(j, "error"))), error);
    json_decref(j);
}

static void test_ones_own_password(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *p = NULL;
    _cleanup_(freep) char *secret = NULL, *other = NULL, *of_bob = NULL;
    const char *fresh;
    json_t *j;

    add_user(f, "alice", RIGHT);
    add_user(f, "bob", RIGHT);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &secret), 1);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &other), 1);
    assert_int_equal(login_from(f, "bob", RIGHT, "192.0.2.1:1", &of_bob), 1);
    p = connect_with(f, other);
    /* Nobody does it for somebody else, nor with a session alone. */
    expect(f, 1000, "{\"id\":1,\"op\":\"own-password\",\"secret\":\"a\",\"new\":\"another one\"}",
           "AccessDenied");
    expect_own(f, "hys_none", RIGHT, "another one", "NotFound");
    expect_own(f, secret, "wrong", "another one", "Unauthenticated");
    expect_own(f, secret, RIGHT, "short", "InvalidArgument");
    expect_own(f, secret, RIGHT, "", "InvalidArgument");
    assert_true(holds(f, p, "log.read"));
    j = change_own(f, secret, RIGHT, "another one");
    fresh = json_string_value(json_object_get(j, "secret"));
    assert_non_null(fresh);
    assert_string_equal(json_string_value(json_object_get(j, "principal")), "user:alice");
    assert_string_equal(fixture_record(f, "changed")->call, "own password");
    /* All that the old one had opened is over, of hers. */
    assert_false(holds(f, p, "log.read"));
    assert_null(connect_with(f, secret));
    assert_null(connect_with(f, other));
    principal_free(p);
    p = connect_with(f, fresh);
    assert_string_equal(p->name, "user:alice");
    principal_free(p);
    p = connect_with(f, of_bob);
    assert_string_equal(p->name, "user:bob");
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", NULL), -EKEYREJECTED);
    assert_int_equal(login_from(f, "alice", "another one", "192.0.2.1:1", NULL), 1);
    expect_own(f, secret, "another one", "a third one", "NotFound");
    json_decref(j);
}

/* It would be a way around the bound of logins. */
static void test_guessing_ones_own_password_is_slowed_as_well(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *secret = NULL;
    unsigned tried = 0;
    json_t *j;

    add_user(f, "alice", RIGHT);
    assert_int_equal(login_from(f, "alice", RIGHT, "192.0.2.1:1", &secret), 1);
    for (;; tried++) {
        j = change_own(f, secret, "wrong", "another one");
        if (!streq(json_string_value(json_object_get(j, "error")), "Unauthenticated"))
            break;
        json_decref(j);
    }
    assert_string_equal(json_string_value(json_object_get(j, "error")), "Throttled");
    assert_true(json_integer_value(json_object_get(j, "retry_after")) > 0);
    json_decref(j);
    assert_in_range(tried, 5, 15);
    expect_own(f, secret, RIGHT, "another one", "Throttled");
}

static void test_a_rule_keeps_a_user_from_it(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *secret = NULL;

    add_user(f, "kiosk", RIGHT);
    assert_int_equal(login_from(f, "kiosk", RIGHT, "192.0.2.1:1", &secret), 1);
    fixture_write(f->paths[2], "61-kiosk.policy",
                  "[deny kiosk]\nTo = user:kiosk\nPermission = security.own-password\n");
    assert_int_equal(security_reload(f->security), 1);
    expect_own(f, secret, RIGHT, "another one", "AccessDenied");
    assert_int_equal(login_from(f, "kiosk", RIGHT, "192.0.2.1:1", NULL), 1);
}

static void test_over_the_socket(void **state)
{
    Fixture *f = *state;
    char question[256];
    const char *secret;
    json_t *j;

    expect(f, 0, "{\"id\":1,\"op\":\"user-add\",\"name\":\"alice\",\"secret\":\"short\"}",
           "InvalidArgument");
    expect(f, 0, "{\"id\":1,\"op\":\"user-add\",\"name\":\"alice\",\"secret\":7}",
           "InvalidArgument");
    expect(f, 1000, "{\"id\":1,\"op\":\"user-add\",\"name\":\"alice\",\"secret\":\"" RIGHT "\"}",
           "AccessDenied");
    expect(f, 0, "{\"id\":1,\"op\":\"user-add\",\"name\":\"alice\",\"secret\":\"" RIGHT "\"}",
           NULL);
    expect(f, 0, "{\"id\":1,\"op\":\"user-add\",\"name\":\"alice\",\"secret\":\"" RIGHT "\"}",
           "Exists");
    expect(f, 0, "{\"id\":1,\"op\":\"user-password\",\"name\":\"bob\",\"secret\":\"" RIGHT "\"}",
           "NotFound");
    expect(f, 0, "{\"id\":1,\"op\":\"user-password\",\"name\":\"alice\"}", "InvalidArgument");
    expect(f, 60991,
           "{\"id\":1,\"op\":\"user-password\",\"name\":\"alice\",\"secret\":\"" RIGHT "\"}",
           "AccessDenied");
    /* Only a server may ask, and only for what is a login. */
    expect(f, 1000,
           "{\"id\":1,\"op\":\"login\",\"user\":\"alice\",\"protocol\":\"http\","
           "\"secret\":\"" RIGHT "\"}",
           "AccessDenied");
    expect(f, SERVER, "{\"id\":1,\"op\":\"login\",\"user\":\"alice\",\"protocol\":\"http\"}",
           "InvalidArgument");
    expect(f, SERVER, "{\"id\":1,\"op\":\"login\",\"user\":\"alice\",\"secret\":\"" RIGHT "\"}",
           "InvalidArgument");
    expect(f, SERVER,
           "{\"id\":1,\"op\":\"login\",\"user\":\"alice\",\"protocol\":\"http\","
           "\"peer\":\"192.0.2.1:1\",\"secret\":\"wrong\"}",
           "Unauthenticated");
    j = ask(f, SERVER,
            "{\"id\":1,\"op\":\"login\",\"user\":\"alice\",\"protocol\":\"http\","
            "\"peer\":\"192.0.2.1:1\",\"secret\":\"" RIGHT "\"}");
    secret = json_string_value(json_object_get(j, "secret"));
    assert_true(secret && startswith(secret, "hys_"));
    assert_string_equal(json_string_value(json_object_get(j, "principal")), "user:alice");
    snprintf(question, sizeof question,
             "{\"id\":1,\"op\":\"connect\",\"protocol\":\"http\",\"bearer\":\"%s\"}", secret);
    expect(f, SERVER, question, NULL);
    snprintf(question, sizeof question, "{\"id\":1,\"op\":\"logout\",\"bearer\":\"%s\"}", secret);
    expect(f, 1000, question, "AccessDenied");
    expect(f, SERVER, question, NULL);
    expect(f, SERVER, question, "NotFound");
    assert_null(ask(f, SERVER, "{\"op\":\"touch\",\"handle\":5}"));
    json_decref(j);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_passwords),
        T(test_the_shipped_cost),
        T(test_the_queue),
        T(test_the_queue_is_bounded),
        T(test_login_and_logout),
        T(test_whoever_may_not_connect_cannot_log_in),
        T(test_roles_follow_at_once),
        T(test_another_password_ends_the_sessions),
        T(test_a_removed_user_is_gone),
        T(test_sessions_outlive_the_agent),
        T(test_no_session_comes_back_by_an_old_file),
        T(test_sessions_of_another_state_are_none),
        T(test_damaged_files_of_sessions),
        T(test_time_passes_while_the_agent_is_away),
        T(test_sessions_end_by_themselves),
        T(test_sessions_are_bounded),
        T(test_guessing_from_one_place_is_slowed),
        T(test_many_attackers_do_not_lock_the_owner_out),
        T(test_ones_own_password),
        T(test_guessing_ones_own_password_is_slowed_as_well),
        T(test_a_rule_keeps_a_user_from_it),
        T(test_over_the_socket),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
