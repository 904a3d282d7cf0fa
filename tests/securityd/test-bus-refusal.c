/* SPDX-License-Identifier: Apache-2.0 */
/* What the bus refused, as the audit has it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <grp.h>

#include "bus-refusal.h"
#include "fixture.h"

static const char pump[] = "<node><interface name=\"a.Pump1\"><annotation "
                           "name=\"org.hybridos.Destination\" value=\"a.Pump1\"/>"
                           "<annotation name=\"org.hybridos.Properties\" value=\"pump.read\"/>"
                           "<method name=\"Start\"><annotation name=\"org.hybridos.Permission\" "
                           "value=\"pump.start\"/></method>"
                           "<method name=\"Bare\"/></interface></node>";

static uint32_t group;
static Subject app;

static int set_up(void **state)
{
    struct group *gr = getgrgid(1);
    Fixture *f;

    if (!gr)
        return -1;
    group = gr->gr_gid;
    app = (Subject){.uid = 60701, .gids = &group, .n_gids = 1};
    f = fixture_new();
    f->settings.bus_directory = (char *)"/run/hybridos/bus";
    f->settings.bus_group = strdup(gr->gr_name);
    fixture_write(f->vendor[0], "a.Pump1.xml", pump);
    fixture_write(f->policy_directories[0], "60-test.policy",
                  "[deny no-start]\nTo = uid:60701\nPermission = pump.start\n");
    fixture_open(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    free(f->settings.bus_group);
    fixture_free(f);
    return 0;
}

static const AuditRecord *refused(Fixture *f, Subject subject, BusRefusal refusal)
{
    security_bus_refused(f->security, &subject, &refusal, 1);
    return fixture_record(f, "denied");
}

static BusRefusal call(const char *interface, const char *member)
{
    return (BusRefusal){.type = 'm',
                        .destination = "a.Pump1",
                        .interface = interface,
                        .member = member,
                        .path = "/a"};
}

static void test_a_call_names_its_rule(void **state)
{
    const AuditRecord *r = refused(*state, app, call("a.Pump1", "Start"));

    assert_int_equal(r->layer, 1);
    assert_string_equal(r->subject, "uid:60701");
    assert_string_equal(r->permission, "pump.start");
    assert_string_equal(r->rule, "no-start");
    assert_string_equal(r->call, "a.Pump1: a.Pump1.Start (method) on /a");
}

static void test_a_property_needs_the_permission_of_its_service(void **state)
{
    const AuditRecord *r = refused(*state, app, call("org.freedesktop.DBus.Properties", "GetAll"));

    assert_string_equal(r->permission, "pump.read");
    assert_string_equal(r->rule, "default");
    assert_string_equal(r->suggestion, "h-policy grant uid:60701 pump.read");
    r = refused(*state, app, call("org.freedesktop.DBus.Properties", "Set"));
    assert_string_equal(r->permission, "");
}

static void test_what_no_interface_file_describes(void **state)
{
    const AuditRecord *r = refused(*state, app, call("a.Other1", "Start"));

    assert_string_equal(r->permission, "");
    assert_non_null(strstr(r->reason, "interface file"));
    assert_string_equal(r->suggestion, "");
}

/* A record must not tell somebody to grant what is granted. */
static void test_what_the_policy_grants_was_refused_by_others(void **state)
{
    Fixture *f = *state;
    const AuditRecord *r;

    fixture_write(f->policy_directories[0], "60-test.policy",
                  "[grant start]\nTo = uid:60701\nPermission = pump.start\n");
    assert_int_equal(security_reload(f->security), 1);
    r = refused(f, app, call("a.Pump1", "Start"));
    assert_non_null(strstr(r->reason, "grants it"));
    assert_string_equal(r->suggestion, "");
}

static void test_others_are_refused_by_the_bus_alone(void **state)
{
    const AuditRecord *r = refused(*state, fixture_uid(1000), call("a.Pump1", "Start"));

    assert_string_equal(r->permission, "");
    assert_non_null(strstr(r->reason, "dbus-1/system.d"));
    r = refused(*state, app,
                (BusRefusal){.type = 'r', .destination = ":1.4", .interface = "", .member = ""});
    assert_string_equal(r->call, ":1.4: answer");
    r = refused(
        *state, app,
        (BusRefusal){.type = 'm', .receive = true, .interface = "a.Pump1", .member = "Start"});
    assert_string_equal(r->permission, "");
}

static void test_the_same_again_is_a_count(void **state)
{
    Fixture *f = *state;
    const Subject gone = {.unknown = true, .bus_name = ":1.9"};
    const AuditRecord *r;

    for (unsigned i = 0; i < 1000; i++)
        r = refused(f, app, call("a.Pump1", "Start"));
    assert_int_equal(r->count, 1000);
    assert_int_equal(r->number, 1);
    assert_int_equal(f->security->statistics.denied, 1000);
    r = refused(f, gone, call("a.Pump1", "Start"));
    assert_string_equal(r->subject, "bus::1.9");
    assert_int_equal(r->layer, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_a_call_names_its_rule, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_a_property_needs_the_permission_of_its_service, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_what_no_interface_file_describes, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_what_the_policy_grants_was_refused_by_others, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_others_are_refused_by_the_bus_alone, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(test_the_same_again_is_a_count, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
