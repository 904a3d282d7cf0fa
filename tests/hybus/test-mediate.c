/* SPDX-License-Identifier: Apache-2.0 */
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#include <hybus/error.h>
#include <hybus/mediate-internal.h>

#include "fake-agent.h"
#include "private-bus.h"

#define NAME "org.hybridos.Test1"
#define PATH "/org/hybridos/Test1"
#define DEADLINE_USEC                                                                              \
    (60u * 1000u * 1000u) /* of a whole wait; reached only when something is wrong */

static const char *const permissions[] = {"test.call", "test.read", "test.secret", NULL};
static const hybus_member surface[] = {
    {NAME, "Add", HYBUS_MEMBER_METHOD, 0}, {NAME, "Unannotated", HYBUS_MEMBER_METHOD, UINT32_MAX},
    {NAME, "Open", HYBUS_MEMBER_GET, 1},   {NAME, "Secret", HYBUS_MEMBER_GET, 2},
    {NAME, "Open", HYBUS_MEMBER_SET, 0},   {NULL},
};

typedef struct Fixture {
    private_bus *bus_process;
    fake_agent *fake;
    sd_event *event;
    sd_bus *server, *client;
    hybus_agent *agent;
    hybus_mediator *mediator;
    char me[32];
    uint32_t added[2048];
    size_t n_added;
    sd_bus_message *kept;
} Fixture;

static int method_add(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    Fixture *f = userdata;
    uint32_t n;

    assert_true(sd_bus_message_read(m, "u", &n) > 0);
    assert_true(f->n_added < ELEMENTS(f->added));
    f->added[f->n_added++] = n;
    if (!f->kept)
        f->kept = sd_bus_message_ref(m);
    return sd_bus_reply_method_return(m, "u", n);
}

static int property(sd_bus *bus, const char *path, const char *interface, const char *name,
                    sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
    return sd_bus_message_append(reply, "s", name);
}

static int set_property(sd_bus *bus, const char *path, const char *interface, const char *name,
                        sd_bus_message *value, void *userdata, sd_bus_error *error)
{
    const char *text;

    return sd_bus_message_read(value, "s", &text);
}

static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Add", "u", "u", method_add, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("Unannotated", "u", "u", method_add, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("Unknown", "u", "u", method_add, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_WRITABLE_PROPERTY("Open", "s", property, set_property, 0, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_PROPERTY("Secret", "s", property, 0, 0),
    SD_BUS_VTABLE_END,
};

/* --- waiting for events ---------------------------------------------------------------------- */

static void turn(Fixture *f)
{
    assert_true(sd_event_run(f->event, DEADLINE_USEC) > 0);
}

#define WAIT(f, condition)                                                                         \
    do                                                                                             \
        turn(f);                                                                                   \
    while (!(condition))

typedef struct Answer {
    bool done;
    char error[96], text[512];
} Answer;

static int on_answer(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const sd_bus_error *e = sd_bus_message_get_error(m);
    Answer *a = userdata;

    a->done = true;
    snprintf(a->error, sizeof a->error, "%s", e ? e->name : "");
    snprintf(a->text, sizeof a->text, "%s", e ? strempty(e->message) : "");
    return 0;
}

static void send_add(Fixture *f, Answer *a, uint32_t n)
{
    *a = (Answer){0};
    assert_true(sd_bus_call_method_async(f->client, NULL, NAME, PATH, NAME, "Add", on_answer, a,
                                         "u", n) >= 0);
}

static const char *call(Fixture *f, const char *interface, const char *member, const char *types,
                        ...)
{
    static Answer a;
    sd_bus_message *m = NULL;
    va_list args;

    a = (Answer){0};
    assert_true(sd_bus_message_new_method_call(f->client, &m, NAME, PATH, interface, member) >= 0);
    va_start(args, types);
    assert_true(sd_bus_message_appendv(m, types, args) >= 0);
    va_end(args);
    assert_true(sd_bus_call_async(f->client, NULL, m, on_answer, &a, DEADLINE_USEC) >= 0);
    sd_bus_message_unref(m);
    if (!a.done)
        WAIT(f, a.done);
    return a.error;
}

static const char *add(Fixture *f)
{
    return call(f, NAME, "Add", "u", 1);
}

static hybus_mediator_statistics statistics(Fixture *f)
{
    hybus_mediator_statistics s;

    hybus_mediator_statistics_get(f->mediator, &s);
    return s;
}

static void wait_count(Fixture *f, const char *op, unsigned n)
{
    while (fake_agent_count(f->fake, op) < n)
        assert_true(sd_event_run(f->event, 20000) >= 0);
}

static int set_up(void **state)
{
    static const char *const interfaces[] = {NAME, NULL};
    Fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    f->bus_process = private_bus_new();
    f->fake = fake_agent_new(surface, permissions);
    assert_true(sd_event_new(&f->event) >= 0);
    f->server = private_bus_connect(f->bus_process, f->event);
    assert_true(hybus_error_register() >= 0);
    assert_int_equal(
        hybus_agent_new(f->event, "test", interfaces, fake_agent_path(f->fake), &f->agent), 0);
    assert_int_equal(hybus_mediator_new(f->server, f->agent, &f->mediator), 0);
    assert_true(sd_bus_add_object_vtable(f->server, NULL, PATH, NAME, vtable, f) >= 0);
    assert_true(sd_bus_add_object_manager(f->server, NULL, "/org/hybridos") >= 0);
    assert_true(sd_bus_request_name(f->server, NAME, 0) >= 0);
    f->client = private_bus_connect(f->bus_process, f->event);
    snprintf(f->me, sizeof f->me, "uid:%u", getuid());
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    sd_bus_message_unref(f->kept);
    hybus_mediator_free(f->mediator);
    hybus_agent_free(f->agent);
    sd_bus_close_unref(f->client);
    sd_bus_close_unref(f->server);
    sd_event_unref(f->event);
    fake_agent_free(f->fake);
    private_bus_free(f->bus_process);
    free(f);
    return 0;
}

/* --- tests ----------------------------------------------------------------------------------- */

static void test_hit(void **state)
{
    Fixture *f = *state;

    fake_agent_allow(f->fake, f->me, "test.call", true);
    assert_string_equal(add(f), "");
    assert_int_equal(fake_agent_count(f->fake, "row"), 1);
    for (int i = 0; i < 20; i++)
        assert_string_equal(add(f), "");
    assert_int_equal(f->n_added, 21);
    assert_int_equal(fake_agent_count(f->fake, "row"), 1);
    assert_int_equal(statistics(f).hits, 21);
    assert_int_equal(statistics(f).misses, 1);
    wait_count(f, "used", 1);
    assert_int_equal(fake_agent_used(f->fake, "test.call"), 1);
    /* The rest is told when the caller goes. */
    sd_bus_close(f->client);
    wait_count(f, "used", 2);
    assert_int_equal(fake_agent_used(f->fake, "test.call"), 21);
}

static Answer last;

static void test_denied(void **state)
{
    Fixture *f = *state;

    send_add(f, &last, 1);
    WAIT(f, last.done);
    assert_string_equal(last.error, HYBUS_ERROR_ACCESS_DENIED);
    assert_non_null(strstr(last.text, "fake-1"));
    assert_non_null(strstr(last.text, "h-policy explain fake-1"));
    assert_non_null(strstr(last.text, "default"));
    assert_int_equal(f->n_added, 0);
    assert_int_equal(fake_agent_count(f->fake, "judge"), 1);
}

static void test_nobody(void **state)
{
    Fixture *f = *state;

    for (const char *const *p = permissions; *p; p++)
        fake_agent_allow(f->fake, "*", *p, true);
    assert_string_equal(add(f), "");
    assert_string_equal(call(f, NAME, "Unannotated", "u", 1), HYBUS_ERROR_ACCESS_DENIED);
    assert_string_equal(call(f, NAME, "Unknown", "u", 1), HYBUS_ERROR_ACCESS_DENIED);
    assert_string_equal(call(f, "org.other.Name", "Add", "u", 1), HYBUS_ERROR_ACCESS_DENIED);
    assert_string_equal(call(f, NULL, "Add", "u", 1), HYBUS_ERROR_ACCESS_DENIED);
    assert_string_equal(call(f, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects", ""),
                        HYBUS_ERROR_ACCESS_DENIED);
    assert_int_equal(f->n_added, 1);
    assert_int_equal(fake_agent_count(f->fake, "judge"), 5);
}

static void test_free_calls(void **state)
{
    Fixture *f = *state;

    assert_string_equal(call(f, "org.freedesktop.DBus.Introspectable", "Introspect", ""), "");
    assert_string_equal(call(f, "org.freedesktop.DBus.Peer", "Ping", ""), "");
    assert_string_equal(call(f, "org.freedesktop.DBus.Peer", "Other", ""),
                        HYBUS_ERROR_ACCESS_DENIED);
}

static void test_properties(void **state)
{
    static const char p[] = "org.freedesktop.DBus.Properties";
    Fixture *f = *state;

    fake_agent_allow(f->fake, f->me, "test.read", true);
    assert_string_equal(call(f, p, "Get", "ss", NAME, "Open"), "");
    assert_string_equal(call(f, p, "Get", "ss", NAME, "Secret"), HYBUS_ERROR_ACCESS_DENIED);
    assert_string_equal(call(f, p, "Get", "ss", NAME, "Add"), HYBUS_ERROR_ACCESS_DENIED);
    assert_string_equal(call(f, p, "Get", "ss", "", "Open"), HYBUS_ERROR_ACCESS_DENIED);
    assert_string_equal(call(f, p, "Get", "s", NAME), HYBUS_ERROR_ACCESS_DENIED);
    assert_string_equal(call(f, p, "Set", "ssv", NAME, "Open", "s", "x"),
                        HYBUS_ERROR_ACCESS_DENIED);
    assert_string_equal(call(f, p, "GetAll", "s", NAME), HYBUS_ERROR_ACCESS_DENIED);
    assert_string_equal(call(f, p, "GetAll", "s", ""), HYBUS_ERROR_ACCESS_DENIED);
    assert_string_equal(call(f, p, "GetAll", "s", "org.freedesktop.DBus.Peer"),
                        HYBUS_ERROR_ACCESS_DENIED);
    fake_agent_allow(f->fake, f->me, "test.secret", true);
    fake_agent_allow(f->fake, f->me, "test.call", true);
    assert_string_equal(call(f, p, "GetAll", "s", NAME), "");
    assert_string_equal(call(f, p, "Set", "ssv", NAME, "Open", "s", "x"), "");
}

/* "… (audit id ID; …" */
static const char *audit_id(const char *text)
{
    static char id[64];
    const char *begin = strstr(text, "(audit id ");

    if (!begin)
        fail_msg("no audit id: %s", text);
    snprintf(id, sizeof id, "%.*s", (int)strcspn(begin + 10, ";"), begin + 10);
    return id;
}

static void test_parked(void **state)
{
    enum { N = HYBUS_MEDIATE_PARKED_PER_SENDER_MAX + 6 };
    static Answer answers[N], later;
    Fixture *f = *state;
    size_t refused = 0;
    char id[64] = "";

    fake_agent_allow(f->fake, f->me, "test.call", true);
    fake_agent_hold(f->fake, "row", true);
    for (uint32_t i = 0; i < N; i++)
        send_add(f, &answers[i], i);
    WAIT(f, answers[N - 1].done);
    for (size_t i = 0; i < N; i++)
        if (answers[i].done) {
            assert_string_equal(answers[i].error, HYBUS_ERROR_LIMIT_EXCEEDED);
            if (refused++ > 0) /* one record for all of this caller */
                assert_string_equal(audit_id(answers[i].text), id);
            snprintf(id, sizeof id, "%s", audit_id(answers[i].text));
        }
    assert_int_equal(refused, 6);
    assert_int_equal(f->n_added, 0);
    wait_count(f, "row", 1);
    fake_agent_hold(f->fake, "row", false);
    send_add(f, &later, 1000);
    WAIT(f, later.done);
    /* Everybody in the order of arrival, exactly once. (`later` may have come while the bound was
     * still filled.) */
    if (f->n_added == HYBUS_MEDIATE_PARKED_PER_SENDER_MAX + 1)
        assert_int_equal(f->added[--f->n_added], 1000);
    else
        assert_string_equal(later.error, HYBUS_ERROR_LIMIT_EXCEEDED);
    while (f->n_added < HYBUS_MEDIATE_PARKED_PER_SENDER_MAX || !answers[63].done)
        turn(f);
    for (uint32_t i = 0; i < HYBUS_MEDIATE_PARKED_PER_SENDER_MAX; i++) {
        assert_int_equal(f->added[i], i);
        assert_string_equal(answers[i].error, "");
    }
    /* The agent hears of all that were turned away, but not of each one by one. */
    sd_bus_close(f->client);
    wait_count(f, "unjudged", 1);
    while (fake_agent_used(f->fake, "limit") < statistics(f).dropped)
        assert_true(sd_event_run(f->event, 20000) >= 0);
    assert_int_equal(fake_agent_used(f->fake, "limit"), statistics(f).dropped);
    assert_int_equal(fake_agent_used(f->fake, id), statistics(f).dropped);
    assert_in_range(fake_agent_count(f->fake, "unjudged"), 1, 3);
}

/* A call as if `sender` had sent it, who is not there for the bus to attest. */
static void filter_as(Fixture *f, const char *sender)
{
    sd_bus_message *m = NULL;

    assert_true(sd_bus_message_new_method_call(f->server, &m, NAME, PATH, NAME, "Add") >= 0);
    assert_true(sd_bus_message_append(m, "u", 1) >= 0);
    assert_true(sd_bus_message_set_sender(m, sender) >= 0);
    assert_true(sd_bus_message_seal(m, 1, 0) >= 0);
    assert_int_equal(hybus_mediator_filter(m, f->mediator, NULL), 1);
    sd_bus_message_unref(m);
}

static void test_unknown_callers_are_refused_and_recorded(void **state)
{
    Fixture *f = *state;

    fake_agent_allow(f->fake, "*", "test.call", true);
    filter_as(f, ":1.987654");
    wait_count(f, "judge", 1);
    assert_int_equal(fake_agent_count(f->fake, "row"), 0);
    assert_int_equal(f->n_added, 0);
    while (!hybus_mediator_idle(f->mediator))
        turn(f);
    assert_int_equal(statistics(f).denied, 1);
}

static void test_callers_that_leave_before_they_are_known_are_recorded(void **state)
{
    Fixture *f = *state;
    sd_bus *other, *witness;
    const char *name;
    char kept[64];

    fake_agent_allow(f->fake, "*", "test.call", true);
    assert_string_equal(add(f), "");
    other = private_bus_connect(f->bus_process, NULL);
    witness = private_bus_connect(f->bus_process, NULL);
    assert_true(sd_bus_get_unique_name(other, &name) >= 0);
    snprintf(kept, sizeof kept, "%s", name);
    assert_true(sd_bus_call_method_async(other, NULL, NAME, PATH, NAME, "Add", on_answer, &last,
                                         "u", 2) >= 0);
    assert_true(sd_bus_flush(other) >= 0);
    sd_bus_close_unref(other);
    /* The filter, in this thread, sees the call only when its sender has gone. */
    for (int owned = true; owned;) {
        sd_bus_message *reply = NULL;

        assert_true(sd_bus_call_method(witness, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                       "org.freedesktop.DBus", "NameHasOwner", NULL, &reply, "s",
                                       kept) >= 0);
        assert_true(sd_bus_message_read(reply, "b", &owned) > 0);
        sd_bus_message_unref(reply);
    }
    sd_bus_close_unref(witness);
    wait_count(f, "unjudged", 1);
    assert_int_equal(fake_agent_used(f->fake, "identity"), 1);
    assert_int_equal(f->n_added, 1);
}

/* One connection of a crowd, which all ask in one loop. */
typedef struct Member {
    sd_bus *bus;
    Answer answer;
} Member;

static void member_connect(Fixture *f, Member *m)
{
    m->bus = private_bus_connect(f->bus_process, f->event);
}

static void member_send(Member *m, Answer *a, uint32_t n)
{
    *a = (Answer){0};
    assert_true(
        sd_bus_call_method_async(m->bus, NULL, NAME, PATH, NAME, "Add", on_answer, a, "u", n) >= 0);
}

/* Many callers together are bounded, too; who was let in is served, in the order of each caller. */
static void test_parked_in_all(void **state)
{
    enum {
        CALLERS = HYBUS_MEDIATE_PARKED_MAX / HYBUS_MEDIATE_PARKED_PER_SENDER_MAX + 1,
        EACH = HYBUS_MEDIATE_PARKED_PER_SENDER_MAX,
    };
    static Member members[CALLERS];
    static Answer answers[CALLERS][EACH];
    Fixture *f = *state;
    size_t refused = 0, served = 0;

    fake_agent_allow(f->fake, f->me, "test.call", true);
    fake_agent_hold(f->fake, "row", true);
    for (size_t i = 0; i < CALLERS; i++) {
        member_connect(f, &members[i]);
        for (uint32_t n = 0; n < EACH; n++)
            member_send(&members[i], &answers[i][n], n);
    }
    WAIT(f, statistics(f).parked == HYBUS_MEDIATE_PARKED_MAX && statistics(f).dropped == EACH);
    assert_int_equal(f->mediator->n_calls, HYBUS_MEDIATE_PARKED_MAX);
    fake_agent_hold(f->fake, "row", false);
    WAIT(f, hybus_mediator_idle(f->mediator));
    for (size_t i = 0; i < CALLERS; i++)
        for (size_t n = 0; n < EACH; n++) {
            while (!answers[i][n].done)
                turn(f);
            if (*answers[i][n].error) {
                assert_string_equal(answers[i][n].error, HYBUS_ERROR_LIMIT_EXCEEDED);
                refused++;
            } else
                served++;
        }
    assert_int_equal(refused, EACH);
    assert_int_equal(served, HYBUS_MEDIATE_PARKED_MAX);
    assert_int_equal(f->n_added, HYBUS_MEDIATE_PARKED_MAX);
    for (size_t i = 0; i < CALLERS; i++)
        sd_bus_close_unref(members[i].bus);
}

/* More connections than are remembered: the one that has been silent for longest is forgotten, and
 * asked about anew when it calls again; one whose call waits is not forgotten. */
static void test_many_callers(void **state)
{
    enum { CALLERS = HYBUS_MEDIATE_SENDERS_MAX + 8 };
    static Member members[CALLERS];
    static Answer waiting;
    Fixture *f = *state;
    Member refused;
    unsigned rows;

    fake_agent_allow(f->fake, f->me, "test.call", true);
    /* Connecting takes the time, and a judgement that is held back has a deadline. */
    for (size_t i = 0; i < CALLERS; i++)
        member_connect(f, &members[i]);
    member_connect(f, &refused);
    fake_agent_hold(f->fake, "wait", true); /* no deadline of the filter ends it meanwhile */
    assert_true(sd_bus_call_method_async(refused.bus, NULL, NAME, PATH, NAME, "Unannotated",
                                         on_answer, &waiting, "u", 1) >= 0);
    wait_count(f, "judge", 1);
    for (size_t i = 0; i < CALLERS; i++) {
        member_send(&members[i], &members[i].answer, (uint32_t)i);
        WAIT(f, members[i].answer.done);
        assert_string_equal(members[i].answer.error, "");
        assert_true(f->mediator->n_senders <= HYBUS_MEDIATE_SENDERS_MAX);
        if (i == 100) {
            member_send(&members[1], &members[1].answer, 1);
            WAIT(f, members[1].answer.done);
        }
    }
    assert_int_equal(f->mediator->n_senders, HYBUS_MEDIATE_SENDERS_MAX);
    rows = fake_agent_count(f->fake, "row");
    member_send(&members[1], &members[1].answer, 1); /* not silent for so long */
    WAIT(f, members[1].answer.done);
    assert_int_equal(fake_agent_count(f->fake, "row"), rows);
    member_send(&members[0], &members[0].answer, 1);
    WAIT(f, members[0].answer.done);
    assert_string_equal(members[0].answer.error, "");
    assert_int_equal(fake_agent_count(f->fake, "row"), rows + 1);
    assert_false(waiting.done);
    fake_agent_hold(f->fake, "judge", false); /* answers */
    WAIT(f, waiting.done);
    assert_string_equal(waiting.error, HYBUS_ERROR_ACCESS_DENIED);
    for (size_t i = 0; i < CALLERS; i++)
        sd_bus_close_unref(members[i].bus);
    sd_bus_close_unref(refused.bus);
}

/* Whoever comes after one that has gone is somebody else, also to the row that was asked for. */
static void test_gone_while_the_row_is_fetched(void **state)
{
    Fixture *f = *state;
    Member gone;

    fake_agent_allow(f->fake, f->me, "test.call", true);
    fake_agent_hold(f->fake, "row", true);
    member_connect(f, &gone);
    member_send(&gone, &gone.answer, 7);
    wait_count(f, "row", 1);
    assert_int_equal(f->mediator->n_senders, 1);
    sd_bus_close_unref(gone.bus);
    WAIT(f, f->mediator->n_senders == 0);
    assert_true(hybus_mediator_idle(f->mediator));
    fake_agent_hold(f->fake, "row", false);
    assert_string_equal(add(f), "");
    assert_int_equal(f->n_added, 1);
    assert_int_equal(f->added[0], 1);
}

static void test_revoked_while_parked(void **state)
{
    Fixture *f = *state;

    fake_agent_allow(f->fake, f->me, "test.call", true);
    fake_agent_hold(f->fake, "row", true);
    send_add(f, &last, 1);
    wait_count(f, "row", 1);
    fake_agent_allow(f->fake, f->me, "test.call", false);
    fake_agent_hold(f->fake, "row", false);
    WAIT(f, last.done);
    assert_string_equal(last.error, HYBUS_ERROR_ACCESS_DENIED);
    assert_int_equal(f->n_added, 0);
}

/* The answer was computed at a generation, and comes when that has passed: void on arrival. */
static void test_overtaken(void **state)
{
    Fixture *f = *state;

    fake_agent_allow(f->fake, f->me, "test.call", true);
    fake_agent_hold(f->fake, "row", true);
    send_add(f, &last, 1);
    wait_count(f, "row", 1);
    fake_agent_bump(f->fake);
    fake_agent_hold(f->fake, "row", false);
    WAIT(f, last.done);
    assert_string_equal(last.error, "");
    assert_int_equal(fake_agent_count(f->fake, "row"), 2);
}

static void test_revoke(void **state)
{
    Fixture *f = *state;

    for (int i = 0; i < 10; i++) {
        fake_agent_allow(f->fake, f->me, "test.call", true);
        assert_string_equal(add(f), "");
        fake_agent_allow(f->fake, f->me, "test.call", false);
        assert_string_equal(add(f), HYBUS_ERROR_ACCESS_DENIED);
    }
    wait_count(f, "settled", 2);
}

/* An agent whose rows and judgements contradict each other keeps nobody busy for ever. */
static void test_contradiction(void **state)
{
    Fixture *f = *state;

    fake_agent_hold(f->fake, "no judge", true);
    assert_string_equal(add(f), HYBUS_ERROR_POLICY_UNAVAILABLE);
    assert_int_equal(f->n_added, 0);
    assert_int_equal(fake_agent_count(f->fake, "judge"), 4);
    assert_true(hybus_mediator_idle(f->mediator));
}

static void test_killed(void **state)
{
    Fixture *f = *state;

    fake_agent_allow(f->fake, f->me, "test.call", true);
    assert_string_equal(add(f), "");
    fake_agent_kill(f->fake);
    /* Warm, and yet nothing is allowed: the first is answered by the deadline. */
    assert_string_equal(add(f), HYBUS_ERROR_POLICY_UNAVAILABLE);
    assert_int_equal(f->n_added, 1);
    assert_int_equal(statistics(f).unavailable, 1);
    /* One that waits when the agent returns is served. */
    send_add(f, &last, 2);
    assert_true(sd_bus_flush(f->client) >= 0);
    WAIT(f, statistics(f).parked >= 3);
    fake_agent_start(f->fake);
    WAIT(f, last.done);
    assert_string_equal(last.error, "");
    assert_int_equal(f->n_added, 2);
}

static void test_killed_and_stricter(void **state)
{
    Fixture *f = *state;

    fake_agent_allow(f->fake, f->me, "test.call", true);
    assert_string_equal(add(f), "");
    fake_agent_kill(f->fake);
    fake_agent_allow(f->fake, f->me, "test.call", false);
    fake_agent_start(f->fake);
    assert_string_equal(add(f), HYBUS_ERROR_ACCESS_DENIED);
    assert_int_equal(f->n_added, 1);
}

static void test_caller_gone(void **state)
{
    Fixture *f = *state;
    sd_bus *gone = private_bus_connect(f->bus_process, NULL);
    sd_bus_message *m = NULL;

    fake_agent_allow(f->fake, f->me, "test.call", true);
    assert_true(sd_bus_message_new_method_call(gone, &m, NAME, PATH, NAME, "Add") >= 0);
    assert_true(sd_bus_message_append(m, "u", 77) >= 0);
    assert_true(sd_bus_send(gone, m, NULL) >= 0);
    assert_true(sd_bus_flush(gone) >= 0);
    sd_bus_message_unref(m);
    sd_bus_close_unref(gone);
    assert_string_equal(add(f), "");
    assert_int_equal(f->n_added, 1);
    assert_int_equal(f->added[0], 1);
    WAIT(f, hybus_mediator_idle(f->mediator) || true);
    assert_true(hybus_mediator_idle(f->mediator));
}

/* --- calls that are judged by themselves ------------------------------------------------------- */

static void test_once(void **state)
{
    Fixture *f = *state;

    fake_agent_hold(f->fake, "once", true);
    assert_string_equal(add(f), "");
    assert_string_equal(add(f), "");
    assert_int_equal(f->n_added, 2);
    assert_int_equal(fake_agent_count(f->fake, "judge"), 2); /* each by itself */
    assert_int_equal(fake_agent_count(f->fake, "row"), 1);
    fake_agent_hold(f->fake, "once", false);
    assert_string_equal(add(f), HYBUS_ERROR_ACCESS_DENIED);
    assert_int_equal(f->n_added, 2);
    assert_true(hybus_mediator_idle(f->mediator));
}

/* A pass that a change of policy has overtaken lets nothing through, however often it is given. */
static void test_once_overtaken(void **state)
{
    Fixture *f = *state;

    fake_agent_hold(f->fake, "once", true);
    fake_agent_hold(f->fake, "stale", true);
    assert_string_equal(add(f), HYBUS_ERROR_POLICY_UNAVAILABLE);
    assert_int_equal(f->n_added, 0);
    assert_true(hybus_mediator_idle(f->mediator));
}

/* What follows it waits, so that the order stays. */
static void test_once_keeps_the_order(void **state)
{
    Answer answers[8];
    Fixture *f = *state;

    fake_agent_hold(f->fake, "once", true);
    for (unsigned i = 0; i < ELEMENTS(answers); i++)
        send_add(f, &answers[i], i);
    for (unsigned i = 0; i < ELEMENTS(answers); i++)
        if (!answers[i].done)
            WAIT(f, answers[i].done);
    assert_int_equal(f->n_added, ELEMENTS(answers));
    for (unsigned i = 0; i < ELEMENTS(answers); i++)
        assert_string_equal(answers[i].error, "");
    assert_true(hybus_mediator_idle(f->mediator));
}

static void test_arguments(void **state)
{
    Fixture *f = *state;

    fake_agent_hold(f->fake, "want", true);
    fake_agent_hold(f->fake, "once", true);
    assert_string_equal(add(f), "");
    assert_int_equal(fake_agent_count(f->fake, "judge"), 2);
    assert_int_equal(fake_agent_used(f->fake, "[{\"secret\":0}]"), 1);
    assert_string_equal(call(f, "org.freedesktop.DBus.Properties", "Set", "ssv", NAME, "Open", "s", "hello"),
                        "");
    assert_int_equal(fake_agent_used(f->fake, "[{\"secret\":5}]"), 1);
}

/* Longer than an ordinary question may take; the bounds for parked calls hold meanwhile. */
static void test_waits_for_a_person(void **state)
{
    static Answer answers[HYBUS_MEDIATE_PARKED_PER_SENDER_MAX + 1];
    Fixture *f = *state;
    size_t i;

    fake_agent_hold(f->fake, "once", true);
    fake_agent_hold(f->fake, "wait", true);
    for (i = 0; i < ELEMENTS(answers) - 1; i++)
        send_add(f, &answers[i], (uint32_t)i);
    WAIT(f, fake_agent_count(f->fake, "judge") == i);
    send_add(f, &answers[i], (uint32_t)i);
    WAIT(f, answers[i].done);
    assert_string_equal(answers[i].error, HYBUS_ERROR_LIMIT_EXCEEDED);
    assert_int_equal(f->n_added, 0);
    fake_agent_hold(f->fake, "wait", false);
    fake_agent_hold(f->fake, "judge", false); /* answers */
    for (i = 0; i < ELEMENTS(answers) - 1; i++)
        if (!answers[i].done)
            WAIT(f, answers[i].done);
    for (i = 0; i < ELEMENTS(answers) - 1; i++)
        assert_string_equal(answers[i].error, "");
    assert_int_equal(f->n_added, ELEMENTS(answers) - 1);
    assert_true(hybus_mediator_idle(f->mediator));
}

/* The person need not be asked any longer, and an answer that comes all the same does nothing. */
static void test_gone_while_a_person_is_asked(void **state)
{
    Fixture *f = *state;
    sd_bus *gone = private_bus_connect(f->bus_process, NULL);
    sd_bus_message *m = NULL;

    fake_agent_hold(f->fake, "once", true);
    fake_agent_hold(f->fake, "wait", true);
    assert_true(sd_bus_message_new_method_call(gone, &m, NAME, PATH, NAME, "Add") >= 0);
    assert_true(sd_bus_message_append(m, "u", 77) >= 0);
    assert_true(sd_bus_send(gone, m, NULL) >= 0);
    assert_true(sd_bus_flush(gone) >= 0);
    sd_bus_message_unref(m);
    WAIT(f, fake_agent_count(f->fake, "judge") == 1);
    /* The word that somebody is asked has arrived when the answer to a later question has. */
    fake_agent_hold(f->fake, "wait", false);
    assert_string_equal(add(f), "");
    sd_bus_close_unref(gone);
    WAIT(f, fake_agent_count(f->fake, "withdraw") == 1);
    fake_agent_hold(f->fake, "judge", false);
    assert_string_equal(add(f), "");
    assert_int_equal(f->n_added, 2);
    for (size_t i = 0; i < f->n_added; i++)
        assert_int_not_equal(f->added[i], 77);
    assert_true(hybus_mediator_idle(f->mediator));
}

/* In a child under strict seccomp any system call but exit kills: a hit makes none. */
static void test_no_system_call(void **state)
{
    Fixture *f = *state;
    int status;
    pid_t pid;

    fake_agent_allow(f->fake, f->me, "test.call", true);
    assert_string_equal(add(f), "");
    assert_string_equal(add(f), "");
    assert_non_null(f->kept);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        int bad = 0;

        (void)prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
        for (int i = 0; i < 10000; i++)
            bad |= hybus_mediator_filter(f->kept, f->mediator, NULL);
        syscall(SYS_exit, bad ? 2 : 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);

    /* The test can fail: a miss does make system calls. */
    fake_agent_bump(f->fake);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        (void)prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
        (void)hybus_mediator_filter(f->kept, f->mediator, NULL);
        syscall(SYS_exit, 0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hit, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_denied, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_nobody, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_free_calls, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_properties, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_parked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_parked_in_all, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_many_callers, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_gone_while_the_row_is_fetched, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_unknown_callers_are_refused_and_recorded, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_callers_that_leave_before_they_are_known_are_recorded,
                                        set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_revoked_while_parked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_overtaken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_revoke, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_contradiction, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_killed_and_stricter, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_caller_gone, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_once_overtaken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_once_keeps_the_order, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_arguments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_waits_for_a_person, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_gone_while_a_person_is_asked, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_no_system_call, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
