/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bus-rules.h"
#include "policy-read.h"

#define PERMISSION(value) "<annotation name=\"org.hybridos.Permission\" value=\"" value "\"/>"
#define ANNOTATED(what, value) "<annotation name=\"org.hybridos." what "\" value=\"" value "\"/>"

static uint32_t operators[] = {60600, 70};
static BusUser two[] = {
    {.name = (char *)"h-one", .uid = 60701, .gids = operators, .n_gids = 1},
    {.name = (char *)"h-two", .uid = 60702, .gids = operators, .n_gids = 2},
};
static const BusUsers users = {.users = two, .n_users = ELEMENTS(two)};

static Catalogue *catalogue_of(const char *xml)
{
    Catalogue *c;

    assert_int_equal(catalogue_new(&c), 0);
    assert_int_equal(catalogue_parse(c, "test.xml", xml, strlen(xml), true, NULL), 0);
    catalogue_finish(c);
    return c;
}

static Policy *policy_of(const char *text)
{
    Policy *p;

    assert_int_equal(policy_parse("test.policy", text, strlen(text), &p, NULL, NULL), 0);
    return p;
}

static const char pump[] = "<node><interface name=\"a.Pump1\">" ANNOTATED(
    "Destination", "a.Pump1") ANNOTATED("Properties", "pump.read")
    ANNOTATED("Properties.Write", "pump.write") "<method name=\"Start\">" PERMISSION(
        "pump.start") "</method>"
                      "<method name=\"Bare\"/></interface>"
                      "<interface name=\"a.Pump1.Extra\">" ANNOTATED("Destination", "a.Pump1")
                          ANNOTATED("Properties",
                                    "pump.extra") "</interface>"
                                                  "<interface name=\"a.Local1\"><method "
                                                  "name=\"M\">" PERMISSION(
                                                      "pump.start") "</method></interface></node>";

static char *compile_one(const char *policy)
{
    _cleanup_(catalogue_freep) Catalogue *c = catalogue_of(pump);
    _cleanup_(policy_unrefp) Policy *p = policy_of(policy);
    BusRules rules;
    char *text;

    assert_int_equal(bus_rules_compile(p, c, &users, &rules), 0);
    assert_int_equal(rules.n_bodies, 1);
    text = TAKE_PTR(rules.bodies[0]);
    bus_rules_done(&rules);
    return text;
}

#define ALLOW(interface, member)                                                                   \
    "    <allow send_type=\"method_call\" send_destination=\"a.Pump1\" "                           \
    "send_interface=\"" interface "\" send_member=\"" member "\"/>\n"
#define PROPERTIES "org.freedesktop.DBus.Properties"

static void test_what_is_granted_and_nothing_else(void **state)
{
    static const struct {
        const char *policy, *rules;
    } cases[] = {
        {"", ""},
        {"[grant g]\nTo = uid:60701\nPermission = pump.start\n",
         "  <policy user=\"h-one\">\n" ALLOW("a.Pump1", "Start") "  </policy>\n"},
        {"[grant g]\nTo = gid:70\nPermission = pump.start pump.write\n",
         "  <policy user=\"h-two\">\n" ALLOW("a.Pump1", "Start")
             ALLOW(PROPERTIES, "Set") "  </policy>\n"},
        /* The bus sees no names of properties: all of the service's permissions, or none. */
        {"[grant g]\nTo = uid:60701\nPermission = pump.read\n", ""},
        {"[grant g]\nTo = uid:60701\nPermission = pump.read pump.extra\n",
         "  <policy user=\"h-one\">\n" ALLOW(PROPERTIES, "Get")
             ALLOW(PROPERTIES, "GetAll") "  </policy>\n"},
        {"[grant g]\nTo = local\nPermission = *\n[deny d]\nTo = uid:60701\nPermission = pump.*\n"
         "[deny e]\nTo = uid:60702\nPermission = pump.read pump.write\n",
         "  <policy user=\"h-two\">\n" ALLOW("a.Pump1", "Start") "  </policy>\n"},
        {"[grant g]\nTo = local\nPermission = pump.start\nWhen = remote\n", ""},
        {"[ask a]\nTo = local\nPermission = pump.start\n", ""},
        {"[grant g]\nTo = user:alice anonymous\nPermission = *\n", ""},
    };

    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        _cleanup_(freep) char *text = compile_one(cases[i].policy);

        assert_string_equal(text, cases[i].rules);
    }
}

/* What explain says is what the compiled rules do. */
static void test_judge_says_what_the_rules_do(void **state)
{
    _cleanup_(catalogue_freep) Catalogue *c = catalogue_of(pump);
    _cleanup_(policy_unrefp) Policy *p =
        policy_of("[grant g]\nTo = uid:60701\nPermission = pump.start pump.read pump.write\n");
    const Subject one = {.uid = 60701, .gids = operators, .n_gids = 1};
    const char *permission;

    assert_true(bus_rules_judge(p, c, &one, "a.Pump1", "Start", 'm', &permission).allowed);
    assert_string_equal(permission, "pump.start");
    assert_false(bus_rules_judge(p, c, &one, "a.Pump1", "Bare", 'm', &permission).allowed);
    assert_null(permission);
    assert_false(bus_rules_judge(p, c, &one, "a.Pump1", "Speed", 'g', &permission).allowed);
    assert_string_equal(permission, "pump.extra");
    assert_true(bus_rules_judge(p, c, &one, "a.Pump1", "Speed", 's', &permission).allowed);
    assert_false(bus_rules_judge(p, c, &one, "a.Local1", "M", 'm', &permission).allowed);
}

static void test_which_rules_concern_the_bus(void **state)
{
    static const struct {
        const char *permissions;
        bool concern;
    } cases[] = {
        {"log.read", false},  {"pump.start", true},  {"pump.write", true},       {"pump.extra", true},
        {"pump.*", true},     {"*", true},           {"pump.other", false},      {"log.read pump.read", true},
        {"pump.start:/x", false}, {"valve.*", false}, {"endpoint.read:/pump.start/*", false},
    };
    _cleanup_(catalogue_freep) Catalogue *c = catalogue_of(pump), *own = catalogue_of(
        "<node><interface name=\"a.Local1\"><method name=\"M\">" PERMISSION("pump.start") "</method></interface></node>");

    for (size_t i = 0; i < ELEMENTS(cases); i++)
        for (unsigned kind = 0; kind < 3; kind++) {
            static const char *const kinds[] = {"grant", "deny", "ask"};
            _cleanup_(policy_unrefp) Policy *p = NULL;
            char text[200];

            snprintf(text, sizeof text, "[%s r]\nTo = uid:60701\nPermission = %s\n", kinds[kind],
                     cases[i].permissions);
            p = policy_of(text);
            if (bus_rules_concern(c, policy_rule(p, "r")) != cases[i].concern)
                fail_msg("%s", cases[i].permissions);
            /* Interfaces that their own daemons guard are not the bus's. */
            assert_false(bus_rules_concern(own, policy_rule(p, "r")));
        }
}

static char *large_interface(unsigned n_methods)
{
    size_t size;
    char *text;
    FILE *f = open_memstream(&text, &size);

    assert_non_null(f);
    fprintf(f, "<node><interface name=\"a.Pump1\">" ANNOTATED("Destination", "a.Pump1"));
    for (unsigned i = 0; i < n_methods; i++)
        fprintf(f, "<method name=\"M%u\">" PERMISSION("pump.x") "</method>", i);
    fprintf(f, "</interface></node>");
    assert_int_equal(fclose(f), 0);
    return text;
}

static void name_user(BusUser *u, unsigned i)
{
    assert_true(asprintf(&u->name, "h-app-%u", i) > 0);
    u->uid = 60700 + i;
}

/* No file is larger than a bus reads, no allow is lost on the way, and there is an end to it. */
static void test_many_rules_are_spread_and_bounded(void **state)
{
    static const struct {
        unsigned methods, users;
        int result;
    } cases[] = {{2000, 4, 0}, {2000, 40, 0}, {7999, 13, -E2BIG}, {1000, 101, -E2BIG}};
    _cleanup_(policy_unrefp) Policy *p = policy_of("[grant g]\nTo = local\nPermission = pump.x\n");

    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        _cleanup_(freep) char *xml = large_interface(cases[i].methods);
        _cleanup_(catalogue_freep) Catalogue *c = catalogue_of(xml);
        BusUser many[128] = {0};
        BusRules rules = {0};
        size_t allows = 0;

        for (unsigned k = 0; k < cases[i].users; k++)
            name_user(&many[k], k);
        assert_int_equal(
            bus_rules_compile(p, c, &(BusUsers){.users = many, .n_users = cases[i].users}, &rules),
            cases[i].result);
        for (size_t k = 0; k < rules.n_bodies; k++) {
            _cleanup_(freep) char *file =
                bus_rules_file(rules.bodies[k], "a.Canary", "h-securityd");

            assert_true(strlen(file) < 1024 * 1024);
            for (const char *at = rules.bodies[k]; (at = strstr(at, "<allow ")); at++)
                allows++;
        }
        assert_int_equal(allows, cases[i].result ? 0 : cases[i].methods * cases[i].users);
        bus_rules_done(&rules);
        for (unsigned k = 0; k < cases[i].users; k++)
            free(many[k].name);
    }
}

static void test_users_of_a_group(void **state)
{
    BusUsers nobody, root;
    bool found = false;

    assert_int_equal(bus_users_read("no-such-group-here", &nobody), 0);
    assert_int_equal(nobody.n_users, 0);
    assert_int_equal(bus_users_read("root", &root), 0);
    for (size_t i = 0; i < root.n_users; i++)
        found |= streq(root.users[i].name, "root") && root.users[i].uid == 0;
    assert_true(found);
    bus_users_done(&root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_granted_and_nothing_else),
        cmocka_unit_test(test_which_rules_concern_the_bus),
        cmocka_unit_test(test_judge_says_what_the_rules_do),
        cmocka_unit_test(test_many_rules_are_spread_and_bounded),
        cmocka_unit_test(test_users_of_a_group),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
