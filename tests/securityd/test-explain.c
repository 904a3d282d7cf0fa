/* SPDX-License-Identifier: Apache-2.0 */
/* What is remembered of calls, and what a change of policy would do to them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fixture.h"
#include "simulate.h"

#define SECOND UINT64_C(1000000)

/* --- the history ----------------------------------------------------------------------------- */

static size_t count(const History *h, uint64_t now)
{
    uint64_t number = UINT64_MAX;
    const HistoryKind *k;
    size_t n = 0;

    for (; (k = history_older(h, number, now)); n++)
        number = k->number;
    return n;
}

static void a_kind_is_one_whatever_became_of_it(void **state)
{
    _cleanup_(history_freep) History *h = NULL;
    const Subject tom = fixture_uid(1000);
    const HistoryKind *k;

    assert_int_equal(history_new(&h), 0);
    history_note(h, &tom, "log.read", "logged", NULL, true, 3, SECOND);
    history_note(h, &tom, "log.read", "logged", "org.hybridos.Log1.Read (method)", false, 1, 2 * SECOND);
    history_note(h, &tom, "log.read", "other", NULL, true, 1, 2 * SECOND);
    assert_int_equal(count(h, 2 * SECOND), 2);
    k = history_older(h, UINT64_MAX, 2 * SECOND);
    assert_string_equal(k->service, "other");
    k = history_older(h, k->number, 2 * SECOND);
    assert_int_equal(k->allowed, 3);
    assert_int_equal(k->denied, 1);
    assert_string_equal(k->call, "org.hybridos.Log1.Read (method)");
    assert_int_equal(k->subject->uid, 1000);
}

/* The caller's subject may be gone when it is judged again. */
static void a_subject_is_kept_with_all_that_a_judgement_needs(void **state)
{
    _cleanup_(history_freep) History *h = NULL;
    uint32_t gids[] = {4, 27};
    char name[] = "user:alice", token[] = "token:phone", role[] = "family", protocol[] = "http";
    char *roles[] = {role, NULL};
    Subject tom = {.uid = 1000, .gids = gids, .n_gids = 2};
    Subject alice = {.remote = true, .name = name, .token = token, .roles = roles,
                     .encrypted = YES, .protocol = protocol};
    const HistoryKind *k;

    assert_int_equal(history_new(&h), 0);
    history_note(h, &tom, "log.read", "logged", NULL, true, 1, SECOND);
    history_note(h, &alice, "lamp.use", "httpd", NULL, true, 1, SECOND);
    memset(gids, 0, sizeof gids);
    memset(name, 'x', 4);
    memset(token, 'x', 4);
    memset(role, 'x', 4);
    memset(protocol, 'x', 4);
    k = history_older(h, UINT64_MAX, SECOND);
    assert_string_equal(k->subject->name, "user:alice");
    assert_string_equal(k->subject->token, "token:phone");
    assert_string_equal(k->subject->roles[0], "family");
    assert_null(k->subject->roles[1]);
    assert_string_equal(k->subject->protocol, "http");
    assert_int_equal(k->subject->encrypted, YES);
    k = history_older(h, k->number, SECOND);
    assert_int_equal(k->subject->n_gids, 2);
    assert_int_equal(k->subject->gids[1], 27);
}

static void a_day_is_remembered_and_no_longer(void **state)
{
    _cleanup_(history_freep) History *h = NULL;
    const Subject tom = fixture_uid(1000);

    assert_int_equal(history_new(&h), 0);
    history_note(h, &tom, "log.read", "logged", NULL, true, 1, SECOND);
    assert_int_equal(count(h, SECOND + HISTORY_USEC), 1);
    assert_int_equal(count(h, SECOND + HISTORY_USEC + 1), 0);
}

static void nobody_washes_away_what_others_did(void **state)
{
    _cleanup_(history_freep) History *h = NULL;
    const Subject tom = fixture_uid(1000), flood = fixture_uid(1001);
    uint64_t number = UINT64_MAX;
    const HistoryKind *k;
    size_t n_flood = 0;
    bool found = false;
    char name[64];

    assert_int_equal(history_new(&h), 0);
    history_note(h, &tom, "log.read", "logged", NULL, true, 1, SECOND);
    for (unsigned i = 0; i < 3 * HISTORY_KINDS_MAX; i++) {
        snprintf(name, sizeof name, "endpoint.read:/flood/%u", i);
        history_note(h, &flood, name, "httpd", NULL, false, 1, SECOND);
    }
    while ((k = history_older(h, number, SECOND))) {
        number = k->number;
        n_flood += k->subject->uid == 1001;
        found |= k->subject->uid == 1000;
    }
    assert_true(found);
    assert_int_equal(n_flood, HISTORY_KINDS_MAX / HISTORY_SHARE);

    /* Many subjects together do not pass the bound either. */
    for (unsigned i = 0; i < 2 * HISTORY_KINDS_MAX; i++) {
        const Subject s = fixture_uid(100000 + i);

        history_note(h, &s, "log.read", "logged", NULL, false, 1, SECOND);
    }
    assert_int_equal(count(h, SECOND), HISTORY_KINDS_MAX);
}

static void who_is_nobody_is_not_remembered(void **state)
{
    _cleanup_(history_freep) History *h = NULL;
    const Subject unknown = {.unknown = true, .bus_name = ":1.7"};
    uint32_t gids[HISTORY_GROUPS_MAX + 1] = {0};
    const Subject many = {.uid = 1, .gids = gids, .n_gids = ELEMENTS(gids)};

    assert_int_equal(history_new(&h), 0);
    history_note(h, &unknown, "log.read", "logged", NULL, false, 1, SECOND);
    history_note(h, &many, "log.read", "logged", NULL, false, 1, SECOND);
    assert_int_equal(count(h, SECOND), 0);
}

/* --- simulate -------------------------------------------------------------------------------- */

static const char xml[] =
    "<node><interface name=\"org.hybridos.Log1\"><method name=\"Read\"><annotation "
    "name=\"org.hybridos.Permission\" value=\"log.read\"/></method><method name=\"Clear\"><annotation "
    "name=\"org.hybridos.Permission\" value=\"log.clear\"/></method></interface></node>";

static int set_up(void **state)
{
    Fixture *f = fixture_new();

    fixture_write(f->policy_directories[0], "60-site.policy",
                  "[grant tom]\nTo = uid:1000\nPermission = log.read\n");
    fixture_write(f->settings.vendor_interfaces[0], "org.hybridos.Log1.xml", xml);
    fixture_open(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture_free(*state);
    return 0;
}

typedef struct Seen {
    size_t n_allowed, n_denied;
    char last[128];
    uint64_t count;
} Seen;

static int on_change(const Change *c, void *userdata)
{
    Seen *seen = userdata;

    *(c->after.allowed ? &seen->n_allowed : &seen->n_denied) += 1;
    snprintf(seen->last, sizeof seen->last, "%s %s %s", security_subject_name(c->subject),
             c->permission, c->after.rule ? c->after.rule->id : "default");
    seen->count = c->count;
    return 0;
}

static Seen try(Fixture *f, const char *name, const char *text, const Subject *live, size_t n_live)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    _cleanup_(policy_unrefp) Policy *after = NULL;
    Seen seen = {0};

    assert_int_equal(simulate_policy(f->security->policy, name, text, &after, &e), 0);
    assert_int_equal(simulate(f->security, after, live, n_live, on_change, &seen), 0);
    return seen;
}

static void a_new_file_is_tried_on_who_is_connected(void **state)
{
    const Subject live[] = {fixture_uid(1000), fixture_uid(1001)};
    Fixture *f = *state;
    Seen seen = try(f, "70-new.policy", "[grant ann]\nTo = uid:1001\nPermission = log.*\n", live, 2);

    assert_int_equal(seen.n_allowed, 2); /* log.read and log.clear, for ann only */
    assert_int_equal(seen.n_denied, 0);
    assert_int_equal(seen.count, 0);
    /* Nothing has changed. */
    assert_false(fixture_allows(f, live[1], "log.read"));
    seen = try(f, "70-new.policy", "[deny all]\nTo = local\nPermission = log.read\n", live, 2);
    assert_int_equal(seen.n_allowed, 0);
    assert_int_equal(seen.n_denied, 1);
    assert_string_equal(seen.last, "uid:1000 log.read all");
}

static void a_file_replaces_one_of_its_name(void **state)
{
    const Subject tom = fixture_uid(1000);
    Fixture *f = *state;
    Seen seen = try(f, "60-site.policy", "", &tom, 1);

    assert_int_equal(seen.n_denied, 1);
    assert_string_equal(seen.last, "uid:1000 log.read default");
    seen = try(f, "60-site.policy", "[grant tom]\nTo = uid:1000\nPermission = log.read\n", &tom, 1);
    assert_int_equal(seen.n_allowed + seen.n_denied, 0);
}

static void the_calls_of_the_last_day_are_judged_anew(void **state)
{
    Fixture *f = *state;
    const Subject guest = {.remote = true, .name = "token:guest", .encrypted = NO, .protocol = "http"};
    const Question q = {.permission = "endpoint.read:/thermo", .service = "httpd", .kind = 'm'};
    const AuditRecord *record;
    Verdict v;
    Seen seen;

    assert_int_equal(security_refuse(f->security, &guest, &q, &v, &record), 0);
    assert_string_equal(record->inputs, "principal=token:guest encrypted=no protocol=http");
    seen = try(f, "70-new.policy", "[grant guest]\nTo = token:guest\nPermission = endpoint.read:*\n",
               NULL, 0);
    assert_int_equal(seen.n_allowed, 1);
    assert_string_equal(seen.last, "token:guest endpoint.read:/thermo guest");
    assert_int_equal(seen.count, 1);
    /* Its connection was not encrypted, and that is remembered too. */
    seen = try(f, "70-new.policy",
               "[grant guest]\nTo = token:guest\nPermission = endpoint.read:*\nWhen = encrypted\n", NULL,
               0);
    assert_int_equal(seen.n_allowed, 0);
}

static void a_bad_file_says_where(void **state)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    Fixture *f = *state;
    Policy *after = NULL;

    assert_int_equal(simulate_policy(f->security->policy, "x.policy", "[grant a]\nTo = nobody\n", &after,
                                     &e),
                     -EBADMSG);
    assert_non_null(strstr(e.message, "x.policy:2:"));
    hybus_config_error_done(&e);
    assert_int_equal(simulate_policy(f->security->policy, "x.policy",
                                     "[grant tom]\nTo = local\nPermission = log.read\n", &after, &e),
                     -EBADMSG);
    assert_non_null(strstr(e.message, "tom"));
}

/* --- inputs ---------------------------------------------------------------------------------- */

static void inputs_are_cut_and_never_overflow(void **state)
{
    uint32_t gids[200];
    const Subject s = {.uid = 4294967294u, .gids = gids, .n_gids = ELEMENTS(gids)};
    const char *text;

    for (size_t i = 0; i < ELEMENTS(gids); i++)
        gids[i] = 4000000000u + (uint32_t)i;
    text = security_inputs(&s);
    assert_true(strlen(text) < AUDIT_TEXT_MAX);
    assert_non_null(startswith(text, "uid=4294967294 gids=4000000000,"));
    assert_string_equal(text + strlen(text) - 3, "...");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_kind_is_one_whatever_became_of_it),
        cmocka_unit_test(a_subject_is_kept_with_all_that_a_judgement_needs),
        cmocka_unit_test(a_day_is_remembered_and_no_longer),
        cmocka_unit_test(nobody_washes_away_what_others_did),
        cmocka_unit_test(who_is_nobody_is_not_remembered),
        cmocka_unit_test_setup_teardown(a_new_file_is_tried_on_who_is_connected, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_file_replaces_one_of_its_name, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_calls_of_the_last_day_are_judged_anew, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_bad_file_says_where, set_up, tear_down),
        cmocka_unit_test(inputs_are_cut_and_never_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
