/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "policy-read.h"
#include "policy.h"

static Policy *parse(const char *text)
{
    hybus_config_error e = {0};
    Policy *p = NULL;
    int r = policy_parse("test.policy", text, strlen(text), &p, NULL, &e);

    if (r < 0)
        fail_msg("%s", strempty(e.message));
    hybus_config_error_done(&e);
    return p;
}

static bool allows(const Policy *p, Subject s, const char *permission)
{
    uint64_t bits[1] = {0};
    bool allowed = policy_judge(p, &s, permission).allowed;

    /* Both ways to ask agree. */
    policy_row(p, &s, &permission, 1, bits);
    assert_int_equal(bits[0] & 1, allowed);
    return allowed;
}

static Subject local(uint32_t uid)
{
    return (Subject){.uid = uid};
}

static Subject remote(const char *name)
{
    return (Subject){.remote = true, .name = name, .encrypted = UNKNOWN};
}

static void test_nothing_is_allowed_by_default(void **state)
{
    _cleanup_(policy_unrefp) Policy *p = parse("");

    assert_false(allows(p, local(0), "log.read"));
    assert_false(allows(p, local(1000), "log.read"));
    assert_false(allows(p, remote(NULL), "log.read"));
}

static void test_subjects(void **state)
{
    _cleanup_(policy_unrefp) Policy *p = parse("[grant a]\nTo = uid:7\nPermission = a.x\n"
                                               "[grant b]\nTo = gid:9\nPermission = b.x\n"
                                               "[grant c]\nTo = local\nPermission = c.x\n"
                                               "[grant d]\nTo = remote\nPermission = d.x\n"
                                               "[grant e]\nTo = anonymous\nPermission = e.x\n"
                                               "[grant f]\nTo = anyone\nPermission = f.x\n"
                                               "[grant g]\nTo = user:alice\nPermission = g.x\n"
                                               "[grant h]\nTo = token:ci role:op\nPermission = h.x\n");
    const uint32_t gids[] = {3, 9, 65534};
    char *roles[] = {(char *)"op", NULL};
    const Subject in_group = {.uid = 8, .gids = gids, .n_gids = ELEMENTS(gids)};
    const Subject token = {.remote = true, .name = "user:alice", .token = "token:ci"};
    const Subject operator = {.remote = true, .name = "user:bob", .roles = roles};

    assert_true(allows(p, local(7), "a.x"));
    assert_false(allows(p, local(8), "a.x"));
    assert_true(allows(p, in_group, "b.x"));
    assert_false(allows(p, local(9), "b.x"));
    assert_true(allows(p, local(8), "c.x"));
    assert_false(allows(p, remote("user:alice"), "c.x"));
    assert_true(allows(p, remote("user:alice"), "d.x"));
    assert_false(allows(p, remote(NULL), "d.x"));
    assert_true(allows(p, remote(NULL), "e.x"));
    assert_false(allows(p, remote("user:alice"), "e.x"));
    assert_true(allows(p, remote(NULL), "f.x"));
    assert_true(allows(p, local(8), "f.x"));
    assert_true(allows(p, token, "g.x"));
    assert_true(allows(p, token, "h.x"));
    assert_true(allows(p, operator, "h.x"));
    assert_false(allows(p, operator, "g.x"));
}

static void test_overflow_and_dynamic_ids_hold_nothing(void **state)
{
    _cleanup_(policy_unrefp) Policy *p =
        parse("[grant a]\nTo = anyone local uid:65534 uid:61184\nPermission = *\n"
              "[grant b]\nTo = gid:65534\nPermission = b.x\n");
    _cleanup_(policy_unrefp) Policy *group =
        parse("[grant b]\nTo = gid:65534 gid:4\nPermission = b.x\n");
    const uint32_t gids[] = {65534, 4};

    assert_false(allows(p, local(65534), "a.x"));
    assert_false(allows(p, local(61184), "a.x"));
    assert_false(allows(p, local(65519), "a.x"));
    assert_false(allows(p, local(UINT32_MAX), "a.x"));
    assert_true(allows(p, local(61183), "a.x"));
    assert_true(allows(p, local(65520), "a.x"));
    assert_false(allows(group, (Subject){.uid = 1000, .gids = gids, .n_gids = 1}, "b.x"));
    assert_true(allows(group, (Subject){.uid = 1000, .gids = gids, .n_gids = 2}, "b.x"));
}

static void test_patterns(void **state)
{
    static const struct {
        const char *pattern, *permission;
        bool covers;
    } cases[] = {
        {"log.read", "log.read", true},
        {"log.read", "log.readall", false},
        {"log.*", "log.read", true},
        {"log.*", "log", false},
        {"log.*", "logs.read", false},
        {"*", "log.read", true},
        {"*", "endpoint.read:/a/b", true},
        {"endpoint.read:/thermo", "endpoint.read:/thermo", true},
        {"endpoint.read:/thermo", "endpoint.read:/thermo/x", false},
        {"endpoint.read:/thermo/*", "endpoint.read:/thermo", true},
        {"endpoint.read:/thermo/*", "endpoint.read:/thermo/x", true},
        {"endpoint.read:/thermo/*", "endpoint.read:/thermos", false},
        {"endpoint.read:/thermo/*", "endpoint.write:/thermo", false},
        {"endpoint.read:*", "endpoint.read:/x/y/z", true},
        {"endpoint.read:*", "endpoint.read", false},
        {"endpoint.*", "endpoint.write:/x", true},
    };

    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        char text[256];
        Policy *p;

        snprintf(text, sizeof text, "[grant a]\nTo = uid:1\nPermission = %s\n", cases[i].pattern);
        p = parse(text);
        if (allows(p, local(1), cases[i].permission) != cases[i].covers ||
            permission_pattern_covers(cases[i].pattern, cases[i].permission) != cases[i].covers)
            fail_msg("%s and %s", cases[i].pattern, cases[i].permission);
        policy_unref(p);
    }
}

static void test_deny_beats_grant(void **state)
{
    _cleanup_(policy_unrefp) Policy *p =
        parse("[grant a]\nTo = user:guest\nPermission = endpoint.*\n"
              "[deny b]\nTo = anyone\nPermission = endpoint.write:*\n"
              "[grant c]\nTo = user:guest\nPermission = endpoint.write:/x\n");
    Subject guest = remote("user:guest");
    Verdict v = policy_judge(p, &guest, "endpoint.write:/x");

    assert_false(v.allowed);
    assert_string_equal(v.rule->id, "b");
    assert_true(allows(p, guest, "endpoint.read:/x"));
}

static void test_ask_stands_between(void **state)
{
    _cleanup_(policy_unrefp) Policy *p = parse("[grant a]\nTo = local\nPermission = camera.use\n"
                                               "[ask b]\nTo = uid:5\nPermission = camera.use\n");

    assert_true(allows(p, local(4), "camera.use"));
    assert_false(allows(p, local(5), "camera.use"));
}

static void test_conditions(void **state)
{
    _cleanup_(policy_unrefp) Policy *p =
        parse("[grant a]\nTo = anyone\nPermission = a.x\nWhen = encrypted\n"
              "[grant b]\nTo = anyone\nPermission = b.x\nWhen = remote protocol=http\n"
              "[grant c]\nTo = anyone\nPermission = c.x\n"
              "[deny d]\nTo = anyone\nPermission = c.x\nWhen = protocol=coap\n");
    Subject s = remote("user:alice");

    assert_true(allows(p, local(1), "a.x"));
    assert_false(allows(p, s, "a.x"));
    s.encrypted = NO;
    assert_false(allows(p, s, "a.x"));
    s.encrypted = YES;
    assert_true(allows(p, s, "a.x"));
    assert_false(allows(p, s, "b.x"));
    /* Unknown facts fulfil no grant and every deny. */
    assert_false(allows(p, s, "c.x"));
    s.protocol = "http";
    assert_true(allows(p, s, "b.x"));
    assert_true(allows(p, s, "c.x"));
    s.protocol = "coap";
    assert_false(allows(p, s, "b.x"));
    assert_false(allows(p, s, "c.x"));
    assert_false(allows(p, local(1), "b.x"));
}

static void test_ended_principals_hold_nothing(void **state)
{
    _cleanup_(policy_unrefp) Policy *p = parse("[grant a]\nTo = anyone\nPermission = *\n");
    Subject s = remote("user:alice");

    assert_true(allows(p, s, "a.x"));
    s.ended = true;
    assert_false(allows(p, s, "a.x"));
}

static void test_nobody_grants_more_than_they_hold(void **state)
{
    _cleanup_(policy_unrefp) Policy *p = parse("[grant a]\nTo = uid:0\nPermission = *\n"
                                               "[grant b]\nTo = uid:1\nPermission = log.* x.y\n"
                                               "[deny c]\nTo = uid:1\nPermission = log.delete\n"
                                               "[grant d]\nTo = uid:2\nPermission = z.*\n"
                                               "When = encrypted\n");
    const Subject root = local(0), one = local(1), two = local(2);
    const Rule plain = {.kind = RULE_GRANT};
    const Rule encrypted = {.kind = RULE_GRANT, .conditions = CONDITION_ENCRYPTED};

    assert_true(policy_holds(p, &root, "*", &plain));
    assert_true(policy_holds(p, &root, "endpoint.read:/a/*", &plain));
    assert_true(policy_holds(p, &one, "log.read", &plain));
    assert_true(policy_holds(p, &one, "x.y", &plain));
    assert_false(policy_holds(p, &one, "x.*", &plain));
    assert_false(policy_holds(p, &one, "*", &plain));
    assert_false(policy_holds(p, &one, "log.delete", &plain));
    assert_false(policy_holds(p, &one, "log.*", &plain)); /* a part of it is denied */
    assert_false(policy_holds(p, &two, "z.a", &plain));
    assert_true(policy_holds(p, &two, "z.a", &encrypted));
    assert_false(policy_holds(p, &(Subject){.uid = 3}, "log.read", &plain));
}

static void test_errors_name_their_place(void **state)
{
    static const struct {
        const char *text, *place;
    } cases[] = {
        {"[grant a]\nTo = uid:0\nPermission = a.b\nFoo = x\n", "test.policy:4:1:"},
        {"[permit a]\nTo = uid:0\nPermission = a.b\n", "test.policy:1:"},
        {"[grant A]\nTo = uid:0\nPermission = a.b\n", "test.policy:1:"},
        {"[grant]\nTo = uid:0\nPermission = a.b\n", "test.policy:1:"},
        {"[grant default]\nTo = uid:0\nPermission = a.b\n", "test.policy:1:"},
        {"[grant a]\nTo = uid:0 nobody\nPermission = a.b\n", "test.policy:2:12:"},
        {"[grant a]\nTo = uid:0\nPermission = a.b a..b\n", "test.policy:3:18:"},
        {"[grant a]\nTo = uid:0\nPermission = a*\n", "test.policy:3:14:"},
        {"[grant a]\nTo = uid:0\nPermission = a.b\nWhen = local tls\n", "test.policy:4:14:"},
        {"[grant a]\nTo = uid:-1\nPermission = a.b\n", "test.policy:2:6:"},
        {"[grant a]\nTo = uid:4294967295\nPermission = a.b\n", "test.policy:2:6:"},
        {"[grant a]\nTo = uid:0\n", "test.policy:1:"},
        {"[grant a]\nPermission = a.b\n", "test.policy:1:"},
        {"[grant a]\nTo =\nPermission = a.b\n", "test.policy:2:"},
        {"[grant a]\nTo = uid:0\nTo = uid:1\nPermission = a.b\n", "test.policy:3:1:"},
        {"[grant a]\nTo = uid:0\nPermission = a.b\n[deny a]\nTo = uid:0\nPermission = a.b\n",
         "test.policy:4:"},
        {"[grant a]\nTo = cert:12\nPermission = a.b\n", "test.policy:2:6:"},
    };

    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        hybus_config_error e = {0};
        Policy *p = NULL;
        int r = policy_parse("test.policy", cases[i].text, strlen(cases[i].text), &p, NULL, &e);

        if (r != -EBADMSG || !e.message || !startswith(e.message, cases[i].place))
            fail_msg("%s\ngave %d %s", cases[i].text, r, strempty(e.message));
        assert_null(p);
        hybus_config_error_done(&e);
    }
}

static void test_unknown_names_match_nobody_and_are_reported(void **state)
{
    static const char text[] = "[grant a]\nTo = unix:no-such-user-here group:no-such-group-here\n"
                               "Permission = a.x\n";
    PolicyNotes notes = {0};
    Policy *p = NULL;

    assert_int_equal(policy_parse("t", text, strlen(text), &p, &notes, NULL), 0);
    assert_int_equal(words_count(notes.warnings), 2);
    assert_non_null(strstr(notes.warnings[0], "t:2:6:"));
    assert_false(allows(p, local(0), "a.x"));
    policy_notes_done(&notes);
    policy_unref(p);
}

static void test_formatted_rules_read_the_same(void **state)
{
    _cleanup_(policy_unrefp) Policy *p =
        parse("[deny one-rule]\nTo = uid:0   gid:4 \\\n   user:alice\nPermission = a.b c.*\n"
              "When = remote encrypted protocol=http\nDescription = what  for\n");
    _cleanup_(policy_unrefp) Policy *again = NULL;
    Rule *const *rules;
    char *text;

    assert_int_equal(policy_rules(p, &rules), 1);
    text = rule_format(rules[0], true);
    again = parse(text);
    assert_true(policy_equal(p, again));
    free(text);
}

static void test_rules_from_words_cannot_smuggle_lines(void **state)
{
    hybus_config_error e = {0};
    Rule *rule = NULL;

    assert_int_equal(rule_new(RULE_GRANT, "a", "uid:1", "a.b\n[grant x]", "", &rule, &e), -EINVAL);
    assert_int_equal(rule_new(RULE_GRANT, "a", "uid:1\\", "a.b", "", &rule, &e), -EINVAL);
    assert_int_equal(rule_new(RULE_GRANT, "a]\n[b", "uid:1", "a.b", "", &rule, &e), -EINVAL);
    assert_int_equal(rule_new(RULE_GRANT, "a", "", "a.b", "", &rule, &e), -EINVAL);
    assert_null(rule);
    assert_int_equal(rule_new(RULE_GRANT, "a", "uid:1", "a.b", "local", &rule, &e), 0);
    rule_unref(rule);
    hybus_config_error_done(&e);
}

/* 100,000 rules for 1,000 subjects: every answer is right, and each row looks at few rules (what that
 * costs in time is the benchmarks' matter; a scan of all rules would not end here for minutes). */
static void test_large_policies(void **state)
{
    enum { SUBJECTS = 1000, RULES = 100 };
    Rule **rules = calloc(SUBJECTS * RULES, sizeof *rules);
    const char *permissions[RULES + 1];
    char names[RULES + 1][32];
    Policy *p = NULL;
    size_t twice;

    for (uint32_t i = 0; i < SUBJECTS * RULES; i++) {
        char id[32], to[32], permission[32];

        snprintf(id, sizeof id, "r%u", i);
        snprintf(to, sizeof to, "uid:%u", 1000 + i % SUBJECTS);
        snprintf(permission, sizeof permission, "a.p%u", i / SUBJECTS);
        assert_int_equal(rule_new(RULE_GRANT, id, to, permission, "", &rules[i], NULL), 0);
    }
    for (uint32_t i = 0; i <= RULES; i++) {
        snprintf(names[i], sizeof names[i], "a.p%u", i);
        permissions[i] = names[i];
    }
    assert_int_equal(policy_new(rules, SUBJECTS * RULES, &p, &twice), 0);
    for (uint32_t uid = 999; uid <= 1000 + SUBJECTS; uid++) {
        bool known = uid >= 1000 && uid < 1000 + SUBJECTS;
        const Subject s = local(uid);
        uint64_t bits[2] = {0};

        policy_row(p, &s, permissions, RULES + 1, bits);
        assert_true(bits[0] == (known ? UINT64_MAX : 0));
        assert_true(bits[1] == (known ? (UINT64_C(1) << (RULES - 64)) - 1 : 0));
    }
    policy_unref(p);
    for (uint32_t i = 0; i < SUBJECTS * RULES; i++)
        rule_unref(rules[i]);
    free(rules);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nothing_is_allowed_by_default),
        cmocka_unit_test(test_subjects),
        cmocka_unit_test(test_overflow_and_dynamic_ids_hold_nothing),
        cmocka_unit_test(test_patterns),
        cmocka_unit_test(test_deny_beats_grant),
        cmocka_unit_test(test_ask_stands_between),
        cmocka_unit_test(test_conditions),
        cmocka_unit_test(test_ended_principals_hold_nothing),
        cmocka_unit_test(test_nobody_grants_more_than_they_hold),
        cmocka_unit_test(test_errors_name_their_place),
        cmocka_unit_test(test_unknown_names_match_nobody_and_are_reported),
        cmocka_unit_test(test_formatted_rules_read_the_same),
        cmocka_unit_test(test_rules_from_words_cannot_smuggle_lines),
        cmocka_unit_test(test_large_policies),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
