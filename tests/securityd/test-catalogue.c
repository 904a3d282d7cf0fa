/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "catalogue.h"

static int add(Catalogue *c, const char *xml, bool vendor, char *message, size_t size)
{
    hybus_config_error e = {0};
    int r = catalogue_parse(c, "test.xml", xml, strlen(xml), vendor, &e);

    snprintf(message, size, "%s", strempty(e.message));
    hybus_config_error_done(&e);
    return r;
}

#define METHOD(permission)                                                                         \
    "<method name=\"M\"><annotation name=\"org.hybridos.Permission\" value=\"" permission          \
    "\"/></method>"
#define INTERFACE(name, members) "<node><interface name=\"" name "\">" members "</interface></node>"

static void test_members_and_permissions(void **state)
{
    _cleanup_(catalogue_freep) Catalogue *c = NULL;
    const Member *m;
    char message[512];

    assert_int_equal(catalogue_new(&c), 0);
    assert_int_equal(
        add(c,
            "<!DOCTYPE node PUBLIC \"-//x\" \"http://x\"><node><!-- c --><interface "
            "name=\"a.B1\">" METHOD(
                "b.call") "<method name=\"Open\"/>"
                          "<property name=\"P\" type=\"s\" access=\"readwrite\">"
                          "<annotation name=\"org.hybridos.Permission\" value=\"b.read\"/>"
                          "<annotation name=\"org.hybridos.Permission.Write\" value=\"b.write\"/>"
                          "</property><property name=\"Q\" type=\"s\" access=\"readwrite\">"
                          "<annotation name=\"org.hybridos.Permission\" value=\"b.read\"/>"
                          "</property><signal name=\"S\"/></interface></node>",
            true, message, sizeof message),
        0);
    catalogue_finish(c);
    assert_int_equal(catalogue_interface(c, "a.B1", &m), 7);
    assert_int_equal(catalogue_interface(c, "a.B", &m), 0);
    assert_string_equal(catalogue_find(c, "a.B1", "M", 'm')->permission, "b.call");
    assert_null(catalogue_find(c, "a.B1", "Open", 'm')->permission);
    assert_string_equal(catalogue_find(c, "a.B1", "P", 'g')->permission, "b.read");
    assert_string_equal(catalogue_find(c, "a.B1", "P", 's')->permission, "b.write");
    assert_string_equal(catalogue_find(c, "a.B1", "Q", 'g')->permission, "b.read");
    assert_null(catalogue_find(c, "a.B1", "Q", 's')->permission);
    assert_null(catalogue_find(c, "a.B1", "S", 'e')->permission);
    assert_null(catalogue_find(c, "a.B1", "M", 'g'));
}

static void test_overlays_and_conflicts(void **state)
{
    _cleanup_(catalogue_freep) Catalogue *c = NULL;
    char message[512];

    assert_int_equal(catalogue_new(&c), 0);
    assert_int_equal(add(c, INTERFACE("x.Y", "<method name=\"M\"/>"), true, message, 512), 0);
    assert_int_equal(add(c, INTERFACE("x.Y", METHOD("y.call")), true, message, 512), 0);
    assert_int_equal(add(c, INTERFACE("x.Y", METHOD("y.call")), true, message, 512), 0);
    assert_int_equal(add(c, INTERFACE("x.Z", METHOD("z.call")), true, message, 512), 0);
    assert_int_equal(add(c, INTERFACE("x.Z", METHOD("z.other")), true, message, 512), 0);
    /* a third file does not heal what two others disagree about */
    assert_int_equal(add(c, INTERFACE("x.Z", METHOD("z.call")), true, message, 512), 0);
    catalogue_finish(c);
    assert_string_equal(catalogue_find(c, "x.Y", "M", 'm')->permission, "y.call");
    assert_null(catalogue_find(c, "x.Z", "M", 'm')->permission);
    assert_true(catalogue_find(c, "x.Z", "M", 'm')->conflict);
}

static void test_what_is_refused(void **state)
{
    static const struct {
        const char *xml, *about;
    } cases[] = {
        {"<!DOCTYPE node [<!ENTITY a \"b\">]><node/>", "DTD"},
        {"<!DOCTYPE node [<!ENTITY % a SYSTEM \"/etc/passwd\">%a;]><node/>", "DTD"},
        {"<node>&a;</node>", ""},
        {"<node><interface name=\"a.B\"></node>", "mismatched"},
        {"<node><interface/></node>", "name"},
        {"<node><interface name=\"B\"/></node>", "name"},
        {"<node><interface name=\"a.B\"><interface name=\"a.C\"/></interface></node>", "inside"},
        {"<other/>", "node"},
        {"", ""},
        {INTERFACE("a.B", "<method/>"), "name"},
        {INTERFACE("a.B", "<method name=\"a.b\"/>"), "name"},
        {INTERFACE("a.B", "<property name=\"P\"/>"), "access"},
        {INTERFACE("a.B", METHOD("not a permission")), "permission"},
        {INTERFACE("a.B", METHOD("b.*")), "permission"},
        {INTERFACE("a.B", METHOD("b.x") METHOD("b.x")), "twice"},
        {INTERFACE("a.B", "<annotation name=\"org.hybridos.Permission\" value=\"b.x\"/>"),
         "belongs"},
        {INTERFACE("a.B", "<method name=\"M\"><annotation name=\"org.hybridos.Permission.Write\" "
                          "value=\"b.x\"/></method>"),
         "fit"},
        {"<node><node><node><node><node><node><node><node><node><node><node><node><node><node><"
         "node>"
         "<node><node>",
         "nested"},
    };

    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        _cleanup_(catalogue_freep) Catalogue *c = NULL;
        const Member *m;
        char message[512];
        int r;

        assert_int_equal(catalogue_new(&c), 0);
        r = add(c, cases[i].xml, true, message, sizeof message);
        if (r != -EBADMSG || !startswith(message, "test.xml:") || !strstr(message, cases[i].about))
            fail_msg("%s\ngave %d %s", cases[i].xml, r, message);
        assert_int_equal(catalogue_members(c, &m), 0);
    }
}

static void test_administrator_files_keep_to_their_own(void **state)
{
    _cleanup_(catalogue_freep) Catalogue *c = NULL;
    char message[512];

    assert_int_equal(catalogue_new(&c), 0);
    assert_int_equal(add(c, INTERFACE("org.hybridos.Log1", METHOD("log.read")), true, message, 512),
                     0);
    assert_int_equal(add(c, INTERFACE("com.a.B", METHOD("log.read")), false, message, 512),
                     -EBADMSG);
    assert_int_equal(
        add(c, INTERFACE("org.hybridos.Log1", "<method name=\"N\"/>"), false, message, 512),
        -EBADMSG);
    assert_int_equal(add(c, INTERFACE("com.a.B", METHOD("com-a.read")), false, message, 512), 0);
}

#define ANNOTATED(what, value) "<annotation name=\"org.hybridos." what "\" value=\"" value "\"/>"
#define OF(destination) ANNOTATED("Destination", destination)

static void test_destinations(void **state)
{
    static const struct {
        const char *xml;
        bool vendor;
        const char *about; /* NULL: accepted */
    } cases[] = {
        {INTERFACE("a.B.C", OF("a.B") ANNOTATED("Properties", "b.read")), true, NULL},
        {INTERFACE("a.B.D", OF("a.B")), false, NULL},
        {INTERFACE("a.Bee", OF("a.B")), false, "does not belong"},
        {INTERFACE("a.Bee", OF("a.B")), true, NULL},
        {INTERFACE("a.B.E", OF("org.hybridos.Log1")), true, "not a service"},
        {INTERFACE("a.B.E", OF("org.freedesktop.DBus")), true, "not a service"},
        {INTERFACE("a.B.E", OF(":1.5")), true, "not a well-known"},
        {INTERFACE("a.B.E", OF("a\"/><x y=\"")), true, ""},
        {INTERFACE("a.B.E", OF("a.B") OF("a.B")), true, "twice"},
        {INTERFACE("a.B.E", ANNOTATED("Properties", "e.read")), true, "Destination"},
        {INTERFACE("a.B.E", OF("a.B") ANNOTATED("Properties", "not one")), true, "permission"},
        {INTERFACE("a.B.E", OF("a.B") ANNOTATED("Properties", "b.read")), false, "reserved"},
        {INTERFACE("a.B.E", "<method name=\"M\">" OF("a.B") "</method>"), true, "belongs"},
    };
    _cleanup_(catalogue_freep) Catalogue *c = NULL;
    const Destination *all;
    char message[512];

    assert_int_equal(catalogue_new(&c), 0);
    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        int r = add(c, cases[i].xml, cases[i].vendor, message, sizeof message);

        if (r != (cases[i].about ? -EBADMSG : 0) || !strstr(message, strempty(cases[i].about)))
            fail_msg("%s\ngave %d %s", cases[i].xml, r, message);
    }
    catalogue_finish(c);
    assert_int_equal(catalogue_destinations(c, &all), 3);
    assert_string_equal(catalogue_destination(c, "a.B.C")->read, "b.read");
    assert_null(catalogue_destination(c, "a.B.E"));
    assert_null(catalogue_destination(c, "a.B"));
}

static void test_destinations_in_conflict_are_nobodys(void **state)
{
    _cleanup_(catalogue_freep) Catalogue *c = NULL;
    char message[512];

    assert_int_equal(catalogue_new(&c), 0);
    assert_int_equal(add(c, INTERFACE("a.B", OF("a.X")), true, message, 512), 0);
    assert_int_equal(
        add(c, INTERFACE("a.B", OF("a.X") ANNOTATED("Properties", "b.r")), true, message, 512), 0);
    catalogue_finish(c);
    assert_string_equal(catalogue_destination(c, "a.B")->read, "b.r");
    assert_int_equal(
        add(c, INTERFACE("a.B", OF("a.X") ANNOTATED("Properties", "b.other")), true, message, 512),
        0);
    assert_int_equal(
        add(c, INTERFACE("a.B", OF("a.X") ANNOTATED("Properties", "b.r")), true, message, 512), 0);
    catalogue_finish(c);
    assert_null(catalogue_destination(c, "a.B")->name);
}

static int parse_again(const char *xml, size_t size, void *userdata)
{
    return catalogue_parse(userdata, "again.xml", xml, size, true, NULL);
}

static void test_format_reads_the_same(void **state)
{
    _cleanup_(catalogue_freep) Catalogue *c = NULL, *again = NULL;
    char message[512];

    assert_int_equal(catalogue_new(&c), 0);
    assert_int_equal(catalogue_new(&again), 0);
    assert_int_equal(
        add(c,
            INTERFACE("a.B", METHOD("b.call") "<property name=\"P\" access=\"readwrite\">"
                                              "<annotation name=\"org.hybridos.Permission.Write\" "
                                              "value=\"b.w\"/></property><signal name=\"S\"/>"),
            true, message, 512),
        0);
    assert_int_equal(add(c, INTERFACE("a.C", METHOD("c.call")), true, message, 512), 0);
    assert_int_equal(add(c,
                         INTERFACE("x.Y.Z", OF("x.Y") ANNOTATED("Properties", "y.r")
                                                ANNOTATED("Properties.Write", "y.w")),
                         true, message, 512),
                     0);
    catalogue_finish(c);
    assert_int_equal(catalogue_format(c, parse_again, again), 0);
    catalogue_finish(again);
    assert_true(catalogue_equal(c, again));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_members_and_permissions),
        cmocka_unit_test(test_overlays_and_conflicts),
        cmocka_unit_test(test_what_is_refused),
        cmocka_unit_test(test_administrator_files_keep_to_their_own),
        cmocka_unit_test(test_destinations),
        cmocka_unit_test(test_destinations_in_conflict_are_nobodys),
        cmocka_unit_test(test_format_reads_the_same),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
