/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>

#include "agent-socket.h"
#include "binding.h"
#include "fixture.h"
#include "single.h"

#define FILTER 60990u
#define HOLDER 60991u

static int set_up(void **state)
{
    Fixture *f = fixture_new();

    fixture_write(
        f->paths[2], "60-test.policy",
        "[grant filter]\nTo = uid:60990\nPermission = security.row\n"
        "[grant holder]\nTo = uid:60991\nPermission = log.read log.follow security.grant\n"
        "[grant alice]\nTo = user:alice\nPermission = log.read log.write\n"
        "[grant token]\nTo = token:ci\nPermission = log.follow\n"
        "[grant nobody]\nTo = anonymous\nPermission = log.follow\n");
    fixture_open(f);
    assert_int_equal(store_add_user(f->security->store, "alice", NULL), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture_free(*state);
    return 0;
}

/* A principal with a token of its own name; *ret_secret is for free(). */
static Principal *principal(Fixture *f, const char *token, const char *as)
{
    _cleanup_(freep) char *secret = NULL;
    Connect c = {.protocol = "http", .peer = "192.0.2.1:1", .tls = "TLSv1.3"};
    Principal *p = NULL;
    uint64_t wait;

    assert_int_equal(
        security_add_token(f->security, &fixture_root, token, as, NULL, 0, &secret, NULL), 0);
    c.bearer = secret;
    assert_int_equal(security_connect(f->security, &c, &p, &wait), 0);
    return p;
}

static bool allows(Fixture *f, const char *name, const char *permission)
{
    Subject subject = fixture_uid(HOLDER), behalf;
    const char *const permissions[] = {permission};
    uint64_t bits = 0;

    security_apply_binding(f->security, &subject, name, &behalf);
    policy_row(f->security->policy, &subject, permissions, 1, &bits);
    assert_int_equal(bits & 1, policy_judge(f->security->policy, &subject, permission).allowed);
    return bits & 1;
}

static void test_both_must_be_allowed(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *alice = principal(f, "ci", "user:alice");

    assert_true(allows(f, ":1.1", "log.read") && allows(f, ":1.1", "log.follow"));
    assert_int_equal(security_bind(f->security, ":1.1", HOLDER, alice), 1);
    assert_true(allows(f, ":1.1", "log.read"));        /* both */
    assert_true(allows(f, ":1.1", "log.follow"));      /* alice by her token */
    assert_false(allows(f, ":1.1", "log.write"));      /* alice alone */
    assert_false(allows(f, ":1.1", "security.grant")); /* the holder alone */
    assert_int_equal(security_bind(f->security, ":1.2", HOLDER, NULL), 1);
    assert_true(allows(f, ":1.2", "log.follow"));
    assert_false(allows(f, ":1.2", "log.read"));
    /* Other connections are as they were. */
    assert_true(allows(f, ":1.3", "security.grant"));
    assert_true(allows(f, NULL, "security.grant"));
}

static void test_it_is_never_undone(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *alice = principal(f, "ci", "user:alice");
    _cleanup_(principal_freep) Principal *other = principal(f, "other", NULL);

    assert_int_equal(security_bind(f->security, ":1.1", HOLDER, alice), 1);
    assert_int_equal(security_bind(f->security, ":1.1", HOLDER, alice), 0);
    assert_int_equal(security_bind(f->security, ":1.1", HOLDER, other), -EEXIST);
    assert_int_equal(security_bind(f->security, ":1.1", HOLDER, NULL), -EEXIST);
    assert_int_equal(security_bind(f->security, ":1.1", HOLDER + 1, alice), -EEXIST);
    assert_false(allows(f, ":1.1", "security.grant"));
    /* It does not live by the handle, but by what the principal came with. */
    principal_free(TAKE_PTR(alice));
    assert_true(allows(f, ":1.1", "log.read"));
    assert_int_equal(security_remove_token(f->security, &fixture_root, "ci"), 1);
    assert_false(allows(f, ":1.1", "log.read"));
    assert_false(allows(f, ":1.1", "security.grant"));
    /* The name is gone with its connection. Nobody gets it again in the life of a bus. */
    security_unbind(f->security, ":1.1");
    security_unbind(f->security, ":1.1");
    assert_int_equal(f->security->n_bindings, 0);
}

/* Every row that could allow more than what now holds is void. */
static void test_slots_move(void **state)
{
    Fixture *f = *state;
    hybus_page_writer *page = f->security->page;
    Subject holder = fixture_uid(HOLDER), bound = fixture_uid(HOLDER), behalf;
    _cleanup_(principal_freep) Principal *alice = principal(f, "ci", "user:alice");
    uint64_t stamp = hybus_page_writer_slot(page, security_slot(&holder));
    hybus_config_error e = {0};
    const Rule *rule;

    assert_int_equal(security_bind(f->security, ":1.1", HOLDER, alice), 1);
    assert_int_not_equal(hybus_page_writer_slot(page, security_slot(&holder)), stamp);
    security_apply_binding(f->security, &bound, ":1.1", &behalf);
    assert_int_not_equal(security_slot(&bound), security_slot(&holder));
    for (unsigned i = 0; i < 4; i++) {
        stamp = hybus_page_writer_slot(page, security_slot(&bound));
        if (i == 0)
            assert_int_equal(
                security_grant(f->security, &fixture_root, "a", "uid:60991", "x.y", "", &rule, &e),
                1);
        else if (i == 1)
            assert_int_equal(
                security_grant(f->security, &fixture_root, "b", "user:alice", "x.y", "", &rule, &e),
                1);
        else if (i == 2)
            assert_int_equal(security_revoke(f->security, &fixture_root, "b", &e), 1);
        else
            assert_int_equal(security_remove_token(f->security, &fixture_root, "ci"), 1);
        assert_int_not_equal(hybus_page_writer_slot(page, security_slot(&bound)), stamp);
    }
}

static void test_nobody_hands_on_more_than_both_hold(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *alice = principal(f, "ci", "user:alice");
    Subject bound = fixture_uid(HOLDER), behalf;
    const Rule *rule;
    hybus_config_error e = {0};

    assert_int_equal(security_bind(f->security, ":1.1", HOLDER, alice), 1);
    security_apply_binding(f->security, &bound, ":1.1", &behalf);
    assert_int_equal(
        security_grant(f->security, &bound, "x", "uid:1", "security.grant", "", &rule, &e),
        -EACCES);
    hybus_config_error_done(&e);
    assert_int_equal(security_grant(f->security, &bound, "y", "uid:1", "log.write", "", &rule, &e),
                     -EACCES);
    hybus_config_error_done(&e);
    assert_int_equal(security_grant(f->security, &bound, "z", "uid:1", "log.read", "", &rule, &e),
                     1);
}

static void test_the_audit_names_both(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *alice = principal(f, "ci", "user:alice");
    Subject bound = fixture_uid(HOLDER), behalf;
    const Question grant = {.permission = "security.grant", .kind = 'm'};
    const Question write = {.permission = "log.write", .kind = 'm'};
    const AuditRecord *r;
    Verdict v;

    assert_int_equal(security_bind(f->security, ":1.1", HOLDER, alice), 1);
    security_apply_binding(f->security, &bound, ":1.1", &behalf);
    assert_int_equal(security_refuse(f->security, &bound, &grant, &v, &r), 0);
    assert_string_equal(r->subject, "uid:60991 for user:alice");
    assert_string_equal(r->suggestion, "h-policy grant user:alice security.grant");
    assert_int_equal(security_refuse(f->security, &bound, &write, &v, &r), 0);
    assert_string_equal(r->suggestion, "h-policy grant uid:60991 log.write");
}

/* --- a restart of the agent, which must not widen -------------------------------------------- */

static void test_bindings_outlive_the_agent(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *alice = principal(f, "ci", "user:alice");

    assert_int_equal(security_bindings_adopt(f->security, "bus-1"), 0);
    assert_int_equal(security_bind(f->security, ":1.1", HOLDER, alice), 1);
    assert_int_equal(security_bind(f->security, ":1.2", HOLDER, NULL), 1);
    for (unsigned round = 0; round < 3; round++) {
        fixture_open(f);
        /* Before it is known which bus it is, and after. */
        assert_false(allows(f, ":1.1", "security.grant") || allows(f, ":1.2", "security.grant"));
        assert_int_equal(security_bindings_adopt(f->security, "bus-1"), 0);
        assert_false(allows(f, ":1.1", "security.grant") || allows(f, ":1.2", "security.grant"));
        assert_true(allows(f, ":1.1", "log.read") && allows(f, ":1.2", "log.follow"));
        assert_int_equal(f->security->n_bindings, 2);
        assert_int_equal(security_bind(f->security, ":1.1", HOLDER, alice), 0);
        assert_int_equal(security_bind(f->security, ":1.1", HOLDER, NULL), -EEXIST);
    }
    assert_int_equal(security_remove_token(f->security, &fixture_root, "ci"), 1);
    assert_false(allows(f, ":1.1", "log.read"));
    /* Another bus gives the same names to others. */
    fixture_open(f);
    assert_int_equal(security_bindings_adopt(f->security, "bus-2"), 0);
    assert_int_equal(f->security->n_bindings, 0);
    assert_true(allows(f, ":1.1", "security.grant"));
    fixture_open(f);
    assert_int_equal(f->security->n_bindings, 0);
}

static void test_a_file_that_cannot_be_read_lets_nobody_through(void **state)
{
    static const char *const bad[] = {
        "x\n", "{}\n", "{\"bus\":\"bus-1\",\"name\":\"x\"}\n",
        "{\"bus\":\"bus-1\",\"name\":\":1.1\",\"principal\":\"user:alice\"}\n"};
    Fixture *f = *state;
    Subject root = fixture_root, behalf;

    for (size_t i = 0; i < ELEMENTS(bad); i++) {
        fixture_write(f->settings.runtime_directory, "bindings", bad[i]);
        fixture_open(f);
        assert_false(allows(f, ":1.9", "log.read"));
        assert_int_equal(security_bind(f->security, ":1.7", HOLDER, NULL), 1);
        assert_false(allows(f, ":1.7", "log.read"));
        security_apply_binding(f->security, &root, ":1.8", &behalf);
        assert_true(fixture_allows(f, root, "anything"));
        assert_true(allows(f, NULL, "log.read")); /* what is not asked on the bus */
    }
    /* What was never acknowledged is no line. */
    fixture_write(f->settings.runtime_directory, "bindings", "{\"bus\":\"bus-1\",\"na");
    fixture_open(f);
    assert_true(allows(f, ":1.9", "log.read"));
}

static void test_bounds(void **state)
{
    Fixture *f = *state;
    char name[16];
    unsigned n = 0;
    int r = 1;

    for (; r == 1; n++) {
        snprintf(name, sizeof name, ":1.%u", n);
        r = security_bind(f->security, name, HOLDER, NULL);
    }
    assert_int_equal(r, -ENOBUFS);
    assert_int_equal(n - 1, BINDINGS_OF_UID_MAX);
    assert_int_equal(security_bind(f->security, ":2.1", HOLDER + 1, NULL), 1); /* nobody else's */
    for (unsigned i = 0; i < n; i++) {
        snprintf(name, sizeof name, ":1.%u", i);
        security_unbind(f->security, name);
    }
    assert_int_equal(f->security->n_bindings, 1);
    /* Names come and go: the file does not grow without end. */
    assert_int_equal(security_bindings_adopt(f->security, "bus-1"), 0);
    for (unsigned i = 0; i < 3 * BINDINGS_MAX; i++) {
        snprintf(name, sizeof name, ":3.%u", i);
        assert_int_equal(security_bind(f->security, name, HOLDER, NULL), 1);
        security_unbind(f->security, name);
    }
    assert_true(f->security->bindings_written <= 2 * BINDINGS_MAX + 1);
}

/* --- the filters' questions ------------------------------------------------------------------ */

static json_t *ask(Fixture *f, const char *question)
{
    char *answer = NULL;
    json_t *j;

    assert_int_equal(agent_socket_feed(f->security, FILTER, question, strlen(question), &answer),
                     0);
    j = json_loads(answer, 0, NULL);
    assert_non_null(j);
    free(answer);
    return j;
}

static void test_rows_and_judgements(void **state)
{
    static const char row[] =
        "{\"id\":1,\"op\":\"row\",\"uid\":60991,\"gids\":[],\"name\":\":1.1\","
        "\"permissions\":[\"log.read\",\"security.grant\"]}";
    static const char judge[] =
        "{\"id\":1,\"op\":\"judge\",\"uid\":60991,\"gids\":[],\"name\":\":1.1\","
        "\"permission\":\"security.grant\",\"interface\":\"a.b\",\"member\":\"C\"}";
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *alice = principal(f, "ci", "user:alice");
    json_t *before = ask(f, row), *after, *v = ask(f, judge);

    assert_true(json_is_true(json_object_get(v, "allowed")));
    json_decref(v);
    assert_int_equal(security_bind(f->security, ":1.1", HOLDER, alice), 1);
    after = ask(f, row);
    assert_string_equal(json_string_value(json_object_get(before, "bits")), "Aw==");
    assert_string_equal(json_string_value(json_object_get(after, "bits")), "AQ==");
    assert_int_not_equal(json_integer_value(json_object_get(before, "slot")),
                         json_integer_value(json_object_get(after, "slot")));
    v = ask(f, judge);
    assert_true(json_is_false(json_object_get(v, "allowed")));
    assert_string_equal(fixture_record(f, "denied")->subject, "uid:60991 for user:alice");
    json_decref(v);
    json_decref(before);
    json_decref(after);
}

/* --- rules with conditions -------------------------------------------------------------------- */

static const char pump[] = "<node><interface name=\"a.Pump1\"><method name=\"Start\"><arg "
                           "name=\"pump\" type=\"s\" direction=\"in\"/>"
                           "<annotation name=\"org.hybridos.Permission\" "
                           "value=\"pump.start\"/></method></interface></node>";

static void rules_of(Fixture *f, const char *holder, const char *principal)
{
    char text[512];

    snprintf(text, sizeof text,
             "[grant pump-holder]\nTo = uid:60991\nPermission = pump.start\n%s%s\n"
             "[grant pump-principal]\nTo = user:alice user:bob\nPermission = pump.start\n%s%s\n",
             *holder ? "When = " : "", holder, *principal ? "When = " : "", principal);
    fixture_write(f->paths[2], "70-pump.policy", text);
    fixture_write(f->vendor[0], "a.Pump1.xml", pump);
    assert_int_equal(security_reload(f->security), 1);
}

/* Start(pump) by the connection `name` of `uid`. */
static bool starts_by(Fixture *f, uint32_t uid, const char *name, const char *pump_name)
{
    const Question q = {
        .permission = "pump.start", .interface = "a.Pump1", .member = "Start", .kind = 'm'};
    Subject subject = fixture_uid(uid), behalf;
    json_t *arguments = json_pack("[s]", pump_name);
    Single single;
    bool row;

    security_apply_binding(f->security, &subject, name, &behalf);
    assert_int_equal(single_judge(f->security, &subject, &q, arguments, &single), 0);
    row = !single.once && !single.wants_arguments &&
          policy_judge(f->security->policy, &subject, q.permission).allowed;
    json_decref(arguments);
    return single.once || row;
}

static bool starts(Fixture *f, const char *name)
{
    return starts_by(f, HOLDER, name, "one");
}

/* Whichever of the two has it: both must be fulfilled, of whom they speak. */
static void test_conditions_of_either(void **state)
{
    static const struct {
        const char *holder, *principal;
        bool starts;
    } cases[] = {
        {"", "", true},
        {"local", "remote", true},
        {"remote", "", false}, /* the holder is none, for whomever it acts */
        {"", "local", false},
        {"", "encrypted", true},
        {"", "protocol=coap", false},
        {"", "protocol=http peer=192.0.2.0/24", true},
        {"", "peer=198.51.100.0/24", false},
        {"arg.pump=one", "", true},
        {"", "arg.pump=one", true},
        {"arg.pump=two", "", false},
        {"", "arg.pump=two", false},
        {"arg.pump=one", "arg.pump=one", true},
        {"arg.pump=one", "arg.pump=two", false},
        {"arg.pump=two", "arg.pump=one", false},
        {"time=00:00-24:00", "arg.pump=one", true},
        {"rate=100/h", "arg.pump=one", true},
        {"rate=100/h", "arg.pump=two", false},
        {"arg.pump=two", "rate=100/h", false},
        {"arg.pump=one", "rate=100/h", true},
    };
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *alice = principal(f, "ci", "user:alice");

    assert_int_equal(security_bindings_adopt(f->security, "bus"), 0);
    assert_int_equal(security_bind(f->security, ":1.1", HOLDER, alice), 1);
    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        rules_of(f, cases[i].holder, cases[i].principal);
        if (starts(f, ":1.1") != cases[i].starts)
            fail_msg("\"%s\" and \"%s\"", cases[i].holder, cases[i].principal);
        /* Also when the agent was started anew. */
        fixture_open(f);
        if (starts(f, ":1.1") != cases[i].starts)
            fail_msg("after a start: \"%s\" and \"%s\"", cases[i].holder, cases[i].principal);
    }
}

static void test_denies_of_either(void **state)
{
    static const char *const whom[] = {"uid:60991", "user:alice"};
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *alice = principal(f, "ci", "user:alice");
    char text[128];

    assert_int_equal(security_bind(f->security, ":1.1", HOLDER, alice), 1);
    rules_of(f, "rate=1000/s", "");
    for (size_t i = 0; i < ELEMENTS(whom); i++) {
        snprintf(text, sizeof text,
                 "[deny no-two]\nTo = %s\nPermission = pump.start\nWhen = arg.pump=two\n", whom[i]);
        fixture_write(f->paths[2], "71-deny.policy", text);
        assert_int_equal(security_reload(f->security), 1);
        assert_true(starts_by(f, HOLDER, ":1.1", "one"));
        assert_false(starts_by(f, HOLDER, ":1.1", "two"));
    }
    /* It is asked for, whoever's rule needs it. */
    {
        const Question q = {
            .permission = "pump.start", .interface = "a.Pump1", .member = "Start", .kind = 'm'};
        Subject subject = fixture_uid(HOLDER), behalf;
        Single single;

        security_apply_binding(f->security, &subject, ":1.1", &behalf);
        assert_int_equal(single_judge(f->security, &subject, &q, json_false(), &single), 0);
        assert_true(single.wants_arguments && !single.once);
    }
}

/* Acting for many, or being acted for by many, gives nobody more. */
static void test_rates_are_each_ones_own(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *alice = principal(f, "ci", "user:alice"), *bob = NULL;

    assert_int_equal(store_add_user(f->security->store, "bob", NULL), 0);
    bob = principal(f, "ci2", "user:bob");
    assert_int_equal(security_bind(f->security, ":1.1", HOLDER, alice), 1);
    assert_int_equal(security_bind(f->security, ":1.2", HOLDER, bob), 1);
    assert_int_equal(security_bind(f->security, ":1.3", 60992, alice), 1);
    rules_of(f, "rate=2/h", "");
    assert_true(starts(f, ":1.1") && starts(f, ":1.2"));
    assert_false(starts(f, ":1.1") || starts(f, ":1.2"));
    assert_false(starts(f, ":1.9")); /* nor when it acts for itself */
    /* The other way round. */
    rules_of(f, "", "rate=2/h");
    fixture_write(f->paths[2], "71-other.policy",
                  "[grant other]\nTo = uid:60992\nPermission = pump.start\n");
    assert_int_equal(security_reload(f->security), 1);
    assert_true(starts(f, ":1.1") && starts_by(f, 60992, ":1.3", "one"));
    assert_false(starts(f, ":1.1") || starts_by(f, 60992, ":1.3", "one"));
    assert_true(starts(f, ":1.2")); /* bob has not used anything */
}

static void test_what_one_may_not_do_uses_up_nothing_of_the_other(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *alice = principal(f, "ci", "user:alice");

    assert_int_equal(security_bind(f->security, ":1.1", HOLDER, alice), 1);
    rules_of(f, "rate=1/h", "arg.pump=two");
    assert_false(starts(f, ":1.1") || starts(f, ":1.1"));
    assert_true(starts_by(f, HOLDER, ":1.1", "two"));
    assert_false(starts_by(f, HOLDER, ":1.1", "two"));
    rules_of(f, "arg.pump=two", "rate=1/h");
    assert_false(starts(f, ":1.1") || starts(f, ":1.1"));
    assert_true(starts_by(f, HOLDER, ":1.1", "two"));
    assert_false(starts_by(f, HOLDER, ":1.1", "two"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_both_must_be_allowed),
        T(test_it_is_never_undone),
        T(test_slots_move),
        T(test_nobody_hands_on_more_than_both_hold),
        T(test_the_audit_names_both),
        T(test_bindings_outlive_the_agent),
        T(test_a_file_that_cannot_be_read_lets_nobody_through),
        T(test_bounds),
        T(test_rows_and_judgements),
        T(test_conditions_of_either),
        T(test_denies_of_either),
        T(test_rates_are_each_ones_own),
        T(test_what_one_may_not_do_uses_up_nothing_of_the_other),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
