/* SPDX-License-Identifier: Apache-2.0 */
/* What stands after When=, the rates, and calls that are judged by themselves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <time.h>

#include "agent-socket.h"
#include "fixture.h"

#define SECOND UINT64_C(1000000)
/* Monday, 5 January 2026, 00:00 UTC */
#define MONDAY (UINT64_C(1767571200) * SECOND)
#define AT(day, hour, minute) (MONDAY + (((day) * 24u + (hour)) * 60u + (minute)) * 60u * SECOND)

static Policy *policy(const char *when)
{
    char text[1024];
    Policy *p;

    snprintf(text, sizeof text, "[grant r]\nTo = anyone\nPermission = x.y\nWhen = %s\n", when);
    assert_int_equal(policy_parse("test", text, strlen(text), &p, NULL, NULL), 0);
    return p;
}

static bool holds_for(const char *when, const Subject *s)
{
    _cleanup_(policy_unrefp) Policy *p = policy(when);

    return policy_judge(p, s, "x.y").allowed;
}

static bool open_at(const char *when, uint64_t wall)
{
    const Moment m = {.wall_usec = wall};
    const Subject s = {.uid = 1000, .moment = &m};

    return holds_for(when, &s);
}

static void words_are_read_or_refused(void **state)
{
    static const char *const good[] = {
        "time=08:00-18:00", "time=22:00-06:00", "time=00:00-24:00", "days=mon-fri,sun", "days=sat-mon",
        "rate=10/s",        "rate=1000000/h",   "peer=10.0.0.0/8",  "peer=2001:db8::/32", "peer=::1",
        "arg.unit=ssh.service", "arg.a=b arg.c=", "local time=08:00-18:00 rate=3/m"};
    static const char *const bad[] = {
        "time=8:00-18:00", "time=08:00",     "time=08:60-09:00", "time=24:00-08:00", "time=25:00-26:00",
        "time=08:00-08:00", "time=08:00-18:00x", "days=", "days=mond", "days=mon-", "days=mon,", "rate=0/s",
        "rate=1/d", "rate=1", "rate=/s", "rate=-1/s", "rate=1000001/s", "peer=10.0.0.0/33", "peer=nowhere",
        "peer=::/129", "peer=10.0.0.0/", "arg.=x", "arg.unit", "arg.a-b=c", "rate=1/s rate=1/s", "days=mon days=tue",
        "time=01:00-02:00 time=03:00-04:00"};

    for (size_t i = 0; i < ELEMENTS(good); i++) {
        _cleanup_(policy_unrefp) Policy *p = policy(good[i]);

        assert_int_equal(policy_rules(p, NULL), 1);
    }
    for (size_t i = 0; i < ELEMENTS(bad); i++) {
        _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
        char text[512];
        Policy *p;

        snprintf(text, sizeof text, "[grant r]\nTo = anyone\nPermission = x.y\nWhen = local %s\n", bad[i]);
        if (policy_parse("t", text, strlen(text), &p, NULL, &e) != -EBADMSG)
            fail_msg("\"%s\" was taken", bad[i]);
        assert_non_null(startswith(e.message, "t:4:"));
    }
}

/* "Denied as long as it is done seldom" means nothing. */
static void a_rate_is_a_grants(void **state)
{
    static const char text[] = "[deny r]\nTo = anyone\nPermission = x.y\nWhen = rate=1/s\n";
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    Policy *p;

    assert_int_equal(policy_parse("t", text, strlen(text), &p, NULL, &e), -EBADMSG);
}

static void windows_of_time(void **state)
{
    assert_false(open_at("time=08:00-18:00", AT(0, 7, 59)));
    assert_true(open_at("time=08:00-18:00", AT(0, 8, 0)));
    assert_true(open_at("time=08:00-18:00", AT(0, 17, 59)));
    assert_false(open_at("time=08:00-18:00", AT(0, 18, 0)));
    /* Over midnight, and the night belongs to the day in which it begins. */
    assert_true(open_at("time=22:00-06:00 days=fri", AT(4, 23, 0)));
    assert_true(open_at("time=22:00-06:00 days=fri", AT(5, 5, 59)));
    assert_false(open_at("time=22:00-06:00 days=fri", AT(5, 6, 0)));
    assert_false(open_at("time=22:00-06:00 days=fri", AT(4, 5, 0)));
    assert_false(open_at("time=22:00-06:00 days=fri", AT(5, 22, 0)));
    assert_true(open_at("days=sat-mon", AT(6, 12, 0)));
    assert_true(open_at("days=sat-mon", AT(0, 12, 0)));
    assert_false(open_at("days=sat-mon", AT(1, 0, 0)));
    assert_true(open_at("time=18:00-24:00", AT(0, 23, 59)));
}

/* What is not known fulfils no grant and every deny. */
static void what_is_unknown_helps_nobody(void **state)
{
    static const char *const all[] = {"time=00:00-24:00", "days=mon-sun", "rate=1/s", "arg.a=b", "peer=::/0"};
    const Subject local = {.uid = 1000}, remote = {.remote = true, .name = "user:a", .encrypted = YES};

    for (size_t i = 0; i < ELEMENTS(all); i++) {
        _cleanup_(policy_unrefp) Policy *p = NULL;
        char text[256];

        assert_false(holds_for(all[i], &local));
        assert_false(holds_for(all[i], &remote));
        if (startswith(all[i], "rate"))
            continue;
        snprintf(text, sizeof text,
                 "[grant g]\nTo = anyone\nPermission = x.y\n[deny d]\nTo = anyone\nPermission = x.y\n"
                 "When = %s\n", all[i]);
        assert_int_equal(policy_parse("t", text, strlen(text), &p, NULL, NULL), 0);
        assert_false(policy_judge(p, &remote, "x.y").allowed);
    }
}

static void networks(void **state)
{
    static const struct {
        const char *network, *peer;
        bool inside;
    } all[] = {
        {"10.0.0.0/8", "10.1.2.3:4711", true},      {"10.0.0.0/8", "11.1.2.3:4711", false},
        {"192.168.4.0/22", "192.168.7.255", true},  {"192.168.4.0/22", "192.168.8.0", false},
        {"10.0.0.0/8", "[::ffff:10.1.2.3]:1", true}, {"2001:db8::/32", "[2001:db8::1]:4711", true},
        {"2001:db8::/32", "2001:db9::1", false},     {"fe80::/10", "[fe80::1%eth0]:5683", true},
        {"0.0.0.0/0", "127.0.0.1:1", true},          {"0.0.0.0/0", "[2001:db8::1]:1", false},
        {"::/0", "127.0.0.1:1", true},               {"127.0.0.1", "127.0.0.1:80", true},
    };

    for (size_t i = 0; i < ELEMENTS(all); i++) {
        Subject s = {.remote = true, .name = "user:a", .encrypted = YES};
        char when[64];
        Network peer;

        assert_int_equal(network_parse_peer(all[i].peer, &peer), 0);
        s.peer = &peer;
        snprintf(when, sizeof when, "peer=%s", all[i].network);
        if (holds_for(when, &s) != all[i].inside)
            fail_msg("%s in %s", all[i].peer, all[i].network);
    }
    for (const char *const *bad = (const char *const[]){"", "x", "[::1", "10.0.0.0/8", "1.2.3", NULL}; *bad;
         bad++) {
        Network peer;

        assert_int_equal(network_parse_peer(*bad, &peer), -EINVAL);
    }
}

static void rates_count_and_recover(void **state)
{
    static Rates r;
    uint64_t now = 1000 * SECOND;

    assert_int_equal(rates_init(&r), 0);
    for (int i = 0; i < 3; i++) {
        assert_true(rates_left(&r, "a", "uid:1", 3, 60 * SECOND, now));
        rates_take(&r, "a", "uid:1", 3, 60 * SECOND, now);
    }
    assert_false(rates_left(&r, "a", "uid:1", 3, 60 * SECOND, now));
    assert_true(rates_left(&r, "a", "uid:2", 3, 60 * SECOND, now)); /* of others nothing was used */
    assert_true(rates_left(&r, "b", "uid:1", 3, 60 * SECOND, now));
    assert_false(rates_left(&r, "a", "uid:1", 3, 60 * SECOND, now + 19 * SECOND));
    assert_true(rates_left(&r, "a", "uid:1", 3, 60 * SECOND, now + 20 * SECOND));
}

/* However many come, nobody's limit is forgotten. */
static void a_full_table_of_rates_refuses(void **state)
{
    uint64_t now = 1000 * SECOND, refused = 0;
    static Rates r;
    char who[32];

    assert_int_equal(rates_init(&r), 0);
    rates_take(&r, "a", "uid:1", 1, 3600 * SECOND, now);
    for (unsigned i = 0; i < 4 * RATES_MAX; i++) {
        snprintf(who, sizeof who, "uid:%u", 1000 + i);
        if (rates_left(&r, "a", who, 1, 3600 * SECOND, now))
            rates_take(&r, "a", who, 1, 3600 * SECOND, now);
        else
            refused++;
    }
    assert_true(refused == 3 * RATES_MAX + 1);
    assert_false(rates_left(&r, "a", "uid:1", 1, 3600 * SECOND, now));
    assert_true(rates_left(&r, "a", "uid:1", 1, 3600 * SECOND, now + 3600 * SECOND));
}

/* --- what may be handed on -------------------------------------------------------------------- */

static void nobody_hands_on_more_than_under_the_same_conditions(void **state)
{
    static const struct {
        const char *mine, *theirs;
        bool may;
    } all[] = {
        {"time=08:00-18:00", "", false},       {"time=08:00-18:00", "time=08:00-18:00", true},
        {"time=08:00-18:00", "time=08:00-19:00", false}, {"days=mon-fri", "days=mon", true},
        {"days=mon", "days=mon-fri", false},   {"peer=10.0.0.0/8", "peer=10.1.0.0/16", true},
        {"peer=10.1.0.0/16", "peer=10.0.0.0/8", false},  {"peer=10.0.0.0/8", "", false},
        {"rate=3/s", "", false},               {"rate=3/s", "rate=3/s", true},
        {"rate=3/s", "rate=4/s", false},       {"arg.a=b", "", false},
        {"arg.a=b", "arg.a=b arg.c=d", true},  {"arg.a=b", "arg.a=c", false},
        {"local", "local time=08:00-18:00", true},
    };
    const Subject me = {.uid = 1000};

    for (size_t i = 0; i < ELEMENTS(all); i++) {
        _cleanup_(policy_unrefp) Policy *p = policy(all[i].mine);
        _cleanup_(rule_unrefp) Rule *rule = NULL;

        assert_int_equal(rule_new(RULE_GRANT, "new", "uid:1", "x.y", all[i].theirs, &rule, NULL), 0);
        if (policy_holds(p, &me, "x.y", rule) != all[i].may)
            fail_msg("\"%s\" handed on as \"%s\"", all[i].mine, all[i].theirs);
    }
}

/* --- over the private socket ------------------------------------------------------------------ */

static const char xml[] =
    "<node><interface name=\"org.hybridos.Unit1\">"
    "<method name=\"Start\"><annotation name=\"org.hybridos.Permission\" value=\"unit.start\"/>"
    "<arg name=\"unit\" type=\"s\" direction=\"in\"/><arg name=\"done\" type=\"b\" direction=\"out\"/>"
    "<arg name=\"key\" type=\"s\" direction=\"in\"><annotation name=\"org.hybridos.Secret\" "
    "value=\"true\"/></arg></method></interface></node>";

static int set_up(void **state)
{
    Fixture *f = fixture_new();

    fixture_write(f->settings.vendor_interfaces[0], "org.hybridos.Unit1.xml", xml);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture_free(*state);
    return 0;
}

static void with(Fixture *f, const char *rules)
{
    fixture_write(f->policy_directories[0], "60-site.policy", rules);
    fixture_open(f);
}

static char *judge(Fixture *f, unsigned uid, const char *more)
{
    char packet[1024], *answer;

    snprintf(packet, sizeof packet,
             "{\"id\":1,\"op\":\"judge\",\"uid\":%u,\"gids\":[],\"permission\":\"unit.start\","
             "\"interface\":\"org.hybridos.Unit1\",\"member\":\"Start\",\"path\":\"/\",\"kind\":\"m\"%s}",
             uid, more);
    assert_int_equal(agent_socket_feed(f->security, 0, packet, strlen(packet), &answer), 0);
    assert_non_null(answer);
    return answer;
}

#define SAYS(f, uid, more, text)                                                                   \
    do {                                                                                           \
        char *answer_ = judge(f, uid, more);                                                       \
        if (!strstr(answer_, text))                                                                \
            fail_msg("%s: no %s in %s", more, text, answer_);                                      \
        free(answer_);                                                                             \
    } while (0)

#define ONCE "\"once\":true"
#define DENIED "\"allowed\":false"
#define SINGLE ",\"single\":true"

static bool in_row(Fixture *f, unsigned uid)
{
    char packet[256], *answer;
    bool yes;

    snprintf(packet, sizeof packet,
             "{\"id\":1,\"op\":\"row\",\"uid\":%u,\"gids\":[],\"permissions\":[\"unit.start\"]}", uid);
    assert_int_equal(agent_socket_feed(f->security, 0, packet, strlen(packet), &answer), 0);
    yes = strstr(answer, "\"bits\":\"AQ==\"");
    free(answer);
    return yes;
}

static void a_rate_is_never_in_a_row_and_counts_single_calls(void **state)
{
    Fixture *f = *state;
    const AuditRecord *record;

    with(f, "[grant slow]\nTo = uid:1000 uid:1001\nPermission = unit.start\nWhen = rate=2/h\n");
    assert_false(in_row(f, 1000));
    SAYS(f, 1000, "", DENIED); /* who cannot let a single call through is refused */
    SAYS(f, 1000, SINGLE, ONCE);
    SAYS(f, 1000, SINGLE, ONCE);
    SAYS(f, 1000, SINGLE, DENIED);
    SAYS(f, 1001, SINGLE, ONCE);
    record = fixture_record(f, "denied");
    assert_non_null(strstr(record->suggestion, "rate=2/h"));
    record = fixture_record(f, "allowed");
    assert_string_equal(record->rule, "slow");
}

static void arguments_are_asked_for_and_secrets_match_nothing(void **state)
{
    Fixture *f = *state;

    with(f, "[grant ssh]\nTo = uid:1000\nPermission = unit.start\nWhen = arg.unit=ssh.service\n"
            "[grant web]\nTo = uid:1000\nPermission = unit.start\nWhen = arg.unit=web-*\n"
            "[grant key]\nTo = uid:1001\nPermission = unit.start\nWhen = arg.key=*\n");
    assert_false(in_row(f, 1000));
    SAYS(f, 1000, SINGLE, DENIED);
    SAYS(f, 1000, SINGLE ",\"arguments\":false", "\"want\":\"arguments\",\"hide\":[1]");
    SAYS(f, 1000, SINGLE ",\"arguments\":[\"ssh.service\",{\"secret\":3}]", ONCE);
    SAYS(f, 1000, SINGLE ",\"arguments\":[\"ssh.services\",{\"secret\":3}]", DENIED);
    SAYS(f, 1000, SINGLE ",\"arguments\":[\"web-1\",{\"secret\":3}]", ONCE);
    SAYS(f, 1000, SINGLE ",\"arguments\":[]", DENIED);
    SAYS(f, 1000, SINGLE ",\"arguments\":[[\"ssh.service\"]]", DENIED);
    SAYS(f, 1001, SINGLE ",\"arguments\":[\"x\",\"key\"]", DENIED);
    SAYS(f, 1002, SINGLE ",\"arguments\":false", DENIED); /* nothing would change it: not asked for */
}

static void a_deny_of_an_argument_spares_the_others(void **state)
{
    Fixture *f = *state;

    with(f, "[grant all]\nTo = uid:1000\nPermission = unit.start\n"
            "[deny ssh]\nTo = uid:1000\nPermission = unit.start\nWhen = arg.unit=ssh.service\n");
    assert_false(in_row(f, 1000));
    SAYS(f, 1000, SINGLE ",\"arguments\":[\"ssh.service\",\"\"]", "\"rule\":\"ssh\"");
    SAYS(f, 1000, SINGLE ",\"arguments\":[\"web.service\",\"\"]", ONCE);
    SAYS(f, 1000, SINGLE, DENIED); /* unknown: the deny holds */
}

static void the_accepted_policy_remembers_arguments(void **state)
{
    Fixture *f = *state;

    with(f, "[grant ssh]\nTo = uid:1000\nPermission = unit.start\nWhen = arg.unit=ssh.service\n");
    fixture_close(f);
    /* The files are of no use at the next start: what was accepted serves. */
    fixture_write(f->policy_directories[0], "60-site.policy", "[grant");
    fixture_open(f);
    SAYS(f, 1000, SINGLE ",\"arguments\":false", "\"hide\":[1]");
    SAYS(f, 1000, SINGLE ",\"arguments\":[\"ssh.service\",\"\"]", ONCE);
}

/* --- the clock ------------------------------------------------------------------------------- */

static void a_clock_set_back_neither_reopens_nor_keeps_open(void **state)
{
    Fixture *f = *state;
    Security *s;
    uint64_t wall;

    with(f, "[grant day]\nTo = uid:1000\nPermission = unit.start\nWhen = time=08:00-18:00\n");
    s = f->security;
    wall = security_moment(s)->wall_usec;
    /* As if the clock had stood two days ahead of what it says now: it goes on from there. */
    s->moment.wall_usec = wall + 2 * 86400 * SECOND;
    assert_true(security_moment(s)->wall_usec >= wall + 2 * 86400 * SECOND);
    /* And by as much as really passes, not the less. */
    s->wall_at -= 3600 * SECOND;
    assert_true(security_moment(s)->wall_usec >= wall + (2 * 86400 + 3600) * SECOND);
}

static void a_window_that_opens_or_closes_moves_every_row(void **state)
{
    Fixture *f = *state;
    Security *s;
    uint64_t generation, wall, until_noon;

    with(f, "[grant morning]\nTo = uid:1000\nPermission = unit.start\nWhen = time=00:00-12:00\n");
    s = f->security;
    wall = security_moment(s)->wall_usec;
    assert_true(security_next_window(s) <= 60 * SECOND);
    generation = hybus_page_writer_generation(s->page);
    until_noon = (36 * 3600 * SECOND - wall % (86400 * SECOND)) % (86400 * SECOND);
    s->moment.wall_usec = wall + until_noon; /* noon or later, as long as the tests take */
    assert_false(fixture_allows(f, fixture_uid(1000), "unit.start"));
    (void)security_windows_moved(s);
    s->moment.wall_usec = wall + until_noon + 12 * 3600 * SECOND; /* midnight */
    assert_true(security_windows_moved(s));
    assert_true(hybus_page_writer_generation(s->page) > generation);
    assert_true(in_row(f, 1000));
    assert_false(security_windows_moved(s));
    s->moment.wall_usec += 12 * 3600 * SECOND;
    assert_true(security_windows_moved(s));
    assert_false(in_row(f, 1000));
    with(f, "");
    assert_true(security_next_window(f->security) == UINT64_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(words_are_read_or_refused),
        cmocka_unit_test(a_rate_is_a_grants),
        cmocka_unit_test(windows_of_time),
        cmocka_unit_test(what_is_unknown_helps_nobody),
        cmocka_unit_test(networks),
        cmocka_unit_test(rates_count_and_recover),
        cmocka_unit_test(a_full_table_of_rates_refuses),
        cmocka_unit_test(nobody_hands_on_more_than_under_the_same_conditions),
        cmocka_unit_test_setup_teardown(a_rate_is_never_in_a_row_and_counts_single_calls, set_up, tear_down),
        cmocka_unit_test_setup_teardown(arguments_are_asked_for_and_secrets_match_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_deny_of_an_argument_spares_the_others, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_accepted_policy_remembers_arguments, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_clock_set_back_neither_reopens_nor_keeps_open, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_window_that_opens_or_closes_moves_every_row, set_up, tear_down),
    };

    setenv("TZ", "UTC", 1);
    tzset();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
