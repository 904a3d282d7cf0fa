/* SPDX-License-Identifier: Apache-2.0 */
/* Calls to others while serving: one loop holds caller and callees, so that whatever waited would
 * hang the test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <hybus/credentials.h>
#include <hybus/error.h>

#include "private-bus.h"

#define PATH "/org/hybridos/Test1"
#define NAME "org.hybridos.Test1"
#define DEADLINE_USEC                                                                              \
    (60u * 1000u * 1000u) /* of a whole wait; reached only when something is wrong */

typedef struct Fixture {
    private_bus *bus_process;
    sd_event *event;
    sd_bus *caller, *callee;
    sd_bus_message *kept; /* a call that is never answered */
    unsigned served;      /* calls that the caller answered itself */
} Fixture;

typedef struct Answer {
    unsigned n;
    int error;
    uint32_t value;
    char name[96];
    sd_bus_slot *slot;
} Answer;

static void on_answer(sd_bus_message *reply, int error, void *userdata)
{
    const sd_bus_error *e = sd_bus_message_get_error(reply);
    Answer *a = userdata;

    a->n++;
    a->error = error;
    a->slot = sd_bus_slot_unref(a->slot);
    snprintf(a->name, sizeof a->name, "%s", e ? e->name : "");
    if (error == 0)
        assert_true(sd_bus_message_read(reply, "u", &a->value) > 0);
}

static int method_double(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    uint32_t n;

    assert_true(sd_bus_message_read(m, "u", &n) > 0);
    return sd_bus_reply_method_return(m, "u", 2 * n);
}

static int method_keep(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    Fixture *f = userdata;

    f->kept = sd_bus_message_ref(m);
    return 1;
}

static int method_fail(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *name;

    assert_true(sd_bus_message_read(m, "s", &name) > 0);
    return sd_bus_error_set(error, name, "as asked");
}

static int method_serve(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    Fixture *f = userdata;

    f->served++;
    return sd_bus_reply_method_return(m, "u", 1);
}

static const sd_bus_vtable callee_vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Double", "u", "u", method_double, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("Keep", NULL, "u", method_keep, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("Fail", "s", "u", method_fail, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};
static const sd_bus_vtable caller_vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Serve", NULL, "u", method_serve, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

static void turn(Fixture *f)
{
    assert_true(sd_event_run(f->event, DEADLINE_USEC) > 0);
}

static void wait_for(Fixture *f, const Answer *a)
{
    while (a->n == 0)
        turn(f);
}

static int ask(Fixture *f, Answer *a, uint64_t deadline_usec, const char *destination,
               const char *member, const char *text)
{
    sd_bus_message *m = NULL;
    int r;

    *a = (Answer){0};
    assert_true(sd_bus_message_new_method_call(f->caller, &m, destination, PATH, NAME, member) >=
                0);
    if (text)
        assert_true(sd_bus_message_append(m, "s", text) >= 0);
    r = hybus_call_send(m, deadline_usec, on_answer, a, &a->slot);
    sd_bus_message_unref(m);
    return r;
}

static int set_up(void **state)
{
    Fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    assert_true(hybus_error_register() >= 0);
    f->bus_process = private_bus_new();
    assert_true(sd_event_new(&f->event) >= 0);
    f->caller = private_bus_connect(f->bus_process, f->event);
    f->callee = private_bus_connect(f->bus_process, f->event);
    assert_true(sd_bus_add_object_vtable(f->callee, NULL, PATH, NAME, callee_vtable, f) >= 0);
    assert_true(sd_bus_add_object_vtable(f->caller, NULL, PATH, "org.hybridos.Caller1",
                                         caller_vtable, f) >= 0);
    assert_true(sd_bus_request_name(f->callee, NAME, 0) >= 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    sd_bus_message_unref(f->kept);
    sd_bus_close_unref(f->caller);
    sd_bus_close_unref(f->callee);
    sd_event_unref(f->event);
    private_bus_free(f->bus_process);
    free(f);
    return 0;
}

static void test_answer(void **state)
{
    Fixture *f = *state;
    Answer a = {0};

    assert_int_equal(
        hybus_call_method(f->caller, NAME, PATH, NAME, "Double", on_answer, &a, &a.slot, "u", 21),
        0);
    wait_for(f, &a);
    assert_int_equal(a.error, 0);
    assert_int_equal(a.value, 42);
    /* Without a slot it runs to its end by itself. */
    a = (Answer){0};
    assert_int_equal(
        hybus_call_method(f->caller, NAME, PATH, NAME, "Double", on_answer, &a, NULL, "u", 4), 0);
    wait_for(f, &a);
    assert_int_equal(a.value, 8);
}

static void test_errors(void **state)
{
    static const struct {
        const char *name;
        int error;
    } errors[] = {
        {HYBUS_ERROR_ACCESS_DENIED, -EACCES},
        {HYBUS_ERROR_LIMIT_EXCEEDED, -ENOBUFS},
        {HYBUS_ERROR_POLICY_UNAVAILABLE, -ENOKEY},
        {"org.freedesktop.DBus.Error.AccessDenied", -EACCES},
        {"org.freedesktop.DBus.Error.Failed", -EIO}, /* and no refusal */
        {"org.freedesktop.DBus.Error.UnknownObject", -EOPNOTSUPP},
        {"org.freedesktop.DBus.Error.Timeout", -ETIMEDOUT},
        {"org.freedesktop.systemd1.NoSuchUnit", -EHOSTDOWN},
        {"com.example.Whatever", -EIO},
    };
    Fixture *f = *state;
    Answer a;

    for (size_t i = 0; i < ELEMENTS(errors); i++) {
        assert_int_equal(ask(f, &a, DEADLINE_USEC, NAME, "Fail", errors[i].name), 0);
        wait_for(f, &a);
        assert_string_equal(a.name, errors[i].name);
        assert_int_equal(a.error, errors[i].error);
    }
    assert_int_equal(ask(f, &a, DEADLINE_USEC, "org.hybridos.Nobody1", "Double", NULL), 0);
    wait_for(f, &a);
    assert_int_equal(a.error, -EHOSTDOWN);
}

/* Nobody answers: the deadline does, and until then the connection serves others. */
static void test_deadline(void **state)
{
    Fixture *f = *state;
    const char *own;
    Answer a, served = {0};

    assert_int_equal(ask(f, &a, 300000, NAME, "Keep", NULL), 0);
    while (!f->kept)
        turn(f);
    assert_true(sd_bus_get_unique_name(f->caller, &own) >= 0);
    assert_int_equal(hybus_call_method(f->callee, own, PATH, "org.hybridos.Caller1", "Serve",
                                       on_answer, &served, NULL, ""),
                     0);
    wait_for(f, &served);
    assert_int_equal(served.error, 0);
    assert_int_equal(f->served, 1);
    wait_for(f, &a);
    assert_int_equal(a.error, -ETIMEDOUT);
    /* An answer that comes later is nobody's. */
    assert_true(sd_bus_reply_method_return(f->kept, "u", 1) >= 0);
    assert_int_equal(ask(f, &served, DEADLINE_USEC, NAME, "Fail", HYBUS_ERROR_EXISTS), 0);
    wait_for(f, &served);
    assert_int_equal(a.n, 1);
}

/* The same name from the bus, but not because of time. */
static void test_gone(void **state)
{
    Fixture *f = *state;
    Answer a;

    assert_int_equal(ask(f, &a, DEADLINE_USEC, NAME, "Keep", NULL), 0);
    while (!f->kept)
        turn(f);
    f->kept = sd_bus_message_unref(f->kept);
    sd_bus_close(f->callee);
    wait_for(f, &a);
    assert_string_equal(a.name, "org.freedesktop.DBus.Error.NoReply");
    assert_int_equal(a.error, -EHOSTDOWN);
}

static void test_dropped(void **state)
{
    Fixture *f = *state;
    Answer a, other;

    assert_int_equal(ask(f, &a, DEADLINE_USEC, NAME, "Fail", HYBUS_ERROR_EXISTS), 0);
    a.slot = sd_bus_slot_unref(a.slot);
    assert_int_equal(ask(f, &other, DEADLINE_USEC, NAME, "Fail", HYBUS_ERROR_EXISTS), 0);
    wait_for(f, &other);
    assert_int_equal(a.n, 0);
}

static void test_lost_bus(void **state)
{
    Fixture *f = *state;
    Answer a;

    assert_int_equal(ask(f, &a, DEADLINE_USEC, NAME, "Keep", NULL), 0);
    while (!f->kept)
        turn(f);
    private_bus_free(TAKE_PTR(f->bus_process));
    wait_for(f, &a);
    assert_int_equal(a.error, -EHOSTDOWN);
    while (sd_bus_is_open(f->caller) > 0)
        turn(f);
    assert_int_equal(ask(f, &a, DEADLINE_USEC, NAME, "Keep", NULL), -EHOSTDOWN);
}

/* --- credentials ----------------------------------------------------------------------------- */

typedef struct Identity {
    bool done;
    int error;
    uint32_t uid;
    size_t n_gids;
    bool has_gid;
} Identity;

static void on_credentials(sd_bus_message *reply, int error, void *userdata)
{
    hybus_credentials c = {0};
    Identity *i = userdata;

    i->error = error < 0 ? error : hybus_credentials_read(reply, &c);
    i->uid = c.uid;
    i->n_gids = c.n_gids;
    for (size_t n = 0; n < c.n_gids; n++)
        i->has_gid |= c.gids[n] == getgid();
    i->done = true;
}

static void test_credentials(void **state)
{
    Fixture *f = *state;
    Identity i = {0};
    const char *name;

    assert_true(sd_bus_get_unique_name(f->callee, &name) >= 0);
    assert_int_equal(hybus_credentials_ask(f->caller, name, on_credentials, &i, NULL), 0);
    while (!i.done)
        turn(f);
    assert_int_equal(i.error, 0);
    assert_int_equal(i.uid, getuid());
    assert_true(i.has_gid);
    i = (Identity){0};
    assert_int_equal(hybus_credentials_ask(f->caller, ":1.99999", on_credentials, &i, NULL), 0);
    while (!i.done)
        turn(f);
    assert_int_equal(i.error, -EHOSTDOWN);
}

static int read_made(Fixture *f, bool uid, uint32_t uid_value, int n_gids)
{
    hybus_credentials c = {.uid = 7};
    sd_bus_message *m = NULL;
    int r;

    assert_true(sd_bus_message_new_signal(f->caller, &m, PATH, NAME, "Made") >= 0);
    assert_true(sd_bus_message_open_container(m, 'a', "{sv}") >= 0);
    assert_true(sd_bus_message_append(m, "{sv}", "ProcessID", "u", 1) >= 0);
    if (uid)
        assert_true(sd_bus_message_append(m, "{sv}", "UnixUserID", "u", uid_value) >= 0);
    if (n_gids >= 0) {
        static uint32_t gids[2048];

        assert_true(sd_bus_message_open_container(m, 'e', "sv") >= 0);
        assert_true(sd_bus_message_append(m, "s", "UnixGroupIDs") >= 0);
        assert_true(sd_bus_message_open_container(m, 'v', "au") >= 0);
        assert_true(sd_bus_message_append_array(m, 'u', gids, (size_t)n_gids * 4) >= 0);
        assert_true(sd_bus_message_close_container(m) >= 0);
        assert_true(sd_bus_message_close_container(m) >= 0);
    }
    assert_true(sd_bus_message_close_container(m) >= 0);
    assert_true(sd_bus_message_seal(m, 1, 0) >= 0);
    r = hybus_credentials_read(m, &c);
    if (r == 0)
        assert_true(c.uid == uid_value && c.n_gids == (size_t)n_gids);
    else
        assert_int_equal(c.uid, 7); /* untouched */
    sd_bus_message_unref(m);
    return r;
}

/* What the bus does not attest is no identity, and groups are never cut short. */
static void test_half_credentials(void **state)
{
    Fixture *f = *state;

    assert_int_equal(read_made(f, true, 1000, 0), 0);
    assert_int_equal(read_made(f, true, 1000, HYBUS_CREDENTIALS_GROUPS_MAX), 0);
    assert_int_equal(read_made(f, true, 1000, HYBUS_CREDENTIALS_GROUPS_MAX + 1), -E2BIG);
    assert_int_equal(read_made(f, true, 1000, -1), -EACCES);
    assert_int_equal(read_made(f, false, 0, 3), -EACCES);
    assert_int_equal(read_made(f, true, UINT32_MAX, 3), -EACCES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_answer, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_errors, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_deadline, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_gone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_dropped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_lost_bus, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_credentials, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_half_credentials, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
