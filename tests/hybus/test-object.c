/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <hybus/object.h>

#include "private-bus.h"

#define PATH "/org/hybridos/Test1"
#define NAME "org.hybridos.Test1"
#define DEADLINE_USEC                                                                              \
    (60u * 1000u * 1000u) /* of a whole wait; reached only when something is wrong */

/* The members of an interface file, each as it should be. */
#define PERMISSION "<annotation name='org.hybridos.Permission' value='test.use'/>"
#define EMITS(value)                                                                               \
    "<annotation name='org.freedesktop.DBus.Property.EmitsChangedSignal' value='" value "'/>"
#define ADD                                                                                        \
    "<method name='Add'>" PERMISSION "<arg type='u' direction='in'/>"                              \
    "<arg type='u' direction='in'/><arg type='t' direction='out'/></method>"
#define CHANGED "<signal name='Changed'>" PERMISSION "<arg type='s'/></signal>"
#define LEVEL                                                                                      \
    "<property name='Level' type='u' access='readwrite'>" PERMISSION EMITS(                        \
        "invalidates") "</property>"
#define LIST                                                                                       \
    "<property name='List' type='as' access='read'>" PERMISSION EMITS("false") "</property>"

typedef struct Fixture {
    private_bus *bus_process;
    sd_event *event;
    sd_bus *bus, *listener;
    char directory[64], file[128];
    unsigned signals;
    bool with_value;
    char invalidated[64];
} Fixture;

static int handler(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return sd_bus_reply_method_return(m, "t", UINT64_C(3));
}

static int get_level(sd_bus *bus, const char *path, const char *interface, const char *property,
                     sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
    return sd_bus_message_append(reply, "u", 42);
}

static int set_level(sd_bus *bus, const char *path, const char *interface, const char *property,
                     sd_bus_message *value, void *userdata, sd_bus_error *error)
{
    return 0;
}

#define METHOD(in, flags) SD_BUS_METHOD("Add", in, "t", handler, flags)
#define SIGNAL SD_BUS_SIGNAL("Changed", "s", 0)
#define PROPERTY(flags) SD_BUS_WRITABLE_PROPERTY("Level", "u", get_level, set_level, 0, flags)
#define LIST_PROPERTY(flags) SD_BUS_PROPERTY("List", "as", get_level, 0, flags)
#define OPEN SD_BUS_VTABLE_UNPRIVILEGED
#define INVALIDATES SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION

static const sd_bus_vtable good[] = {
    SD_BUS_VTABLE_START(0),       METHOD("uu", OPEN), SIGNAL,
    PROPERTY(OPEN | INVALIDATES), LIST_PROPERTY(0),   SD_BUS_VTABLE_END,
};

static void write_file(Fixture *f, const char *members)
{
    FILE *file = fopen(f->file, "we");

    assert_non_null(file);
    fprintf(file, "<node><interface name='" NAME "'>%s</interface></node>", members);
    assert_int_equal(fclose(file), 0);
}

static int publish(Fixture *f, const char *members, const sd_bus_vtable *vtable)
{
    hybus_object *o = NULL;
    int r;

    write_file(f, members);
    r = hybus_object_publish(f->bus, PATH, NAME, vtable, f, &o);
    assert_true(r < 0 || o);
    hybus_object_free(o);
    return r;
}

#define REFUSED(f, members, ...)                                                                   \
    do {                                                                                           \
        const sd_bus_vtable _v[] = {SD_BUS_VTABLE_START(0), __VA_ARGS__, SD_BUS_VTABLE_END};       \
        assert_int_equal(publish(f, members, _v), -EINVAL);                                        \
    } while (0)
#define ACCEPTED(f, members, ...)                                                                  \
    do {                                                                                           \
        const sd_bus_vtable _v[] = {SD_BUS_VTABLE_START(0), __VA_ARGS__, SD_BUS_VTABLE_END};       \
        assert_int_equal(publish(f, members, _v), 0);                                              \
    } while (0)

static void test_agreement(void **state)
{
    Fixture *f = *state;

    assert_int_equal(publish(f, ADD CHANGED LEVEL LIST, good), 0);
    ACCEPTED(f, ADD, METHOD("uu", OPEN));
    /* A member more, on either side. */
    REFUSED(f, ADD, METHOD("uu", OPEN), SIGNAL);
    REFUSED(f, ADD CHANGED, METHOD("uu", OPEN));
    /* Other types. */
    REFUSED(f, ADD, METHOD("us", OPEN));
    REFUSED(f,
            "<method name='Add'>" PERMISSION "<arg type='u' direction='in'/>"
            "<arg type='u' direction='in'/></method>",
            METHOD("uu", OPEN));
    REFUSED(f, "<signal name='Changed'>" PERMISSION "<arg type='u'/></signal>", SIGNAL);
    REFUSED(f,
            "<property name='List' type='s' access='read'>" PERMISSION EMITS("false") "</property>",
            LIST_PROPERTY(0));
    /* The same name, another kind. */
    REFUSED(f, "<signal name='Add'>" PERMISSION "</signal>", METHOD("uu", OPEN));
}

static void test_permission(void **state)
{
    Fixture *f = *state;

    REFUSED(f, "<signal name='Changed'><arg type='s'/></signal>", SIGNAL);
    /* Reading alone is not enough for what can be written. */
    REFUSED(
        f,
        "<property name='Level' type='u' access='readwrite'><annotation "
        "name='org.hybridos.Permission.Read' value='test.use'/>" EMITS("invalidates") "</property>",
        PROPERTY(OPEN | INVALIDATES));
}

static void test_flags(void **state)
{
    Fixture *f = *state;

    /* sd-bus would judge by itself. */
    REFUSED(f, ADD, METHOD("uu", 0));
    REFUSED(f, ADD, METHOD("uu", OPEN | SD_BUS_VTABLE_CAPABILITY(12)));
    REFUSED(f, LEVEL, PROPERTY(INVALIDATES));
    REFUSED(f, ADD, METHOD("uu", OPEN | SD_BUS_VTABLE_HIDDEN));
    /* Access. */
    REFUSED(f,
            "<property name='Level' type='u' access='read'>" PERMISSION EMITS(
                "invalidates") "</property>",
            PROPERTY(OPEN | INVALIDATES));
    REFUSED(f,
            "<property name='List' type='as' access='readwrite'>" PERMISSION EMITS(
                "false") "</property>",
            LIST_PROPERTY(0));
    /* What is announced, and never with the value. */
    REFUSED(f, LEVEL, PROPERTY(OPEN));
    REFUSED(f, LIST, LIST_PROPERTY(INVALIDATES));
    REFUSED(f, "<property name='List' type='as' access='read'>" PERMISSION "</property>",
            LIST_PROPERTY(SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE));
    REFUSED(f,
            "<property name='List' type='as' access='read'>" PERMISSION EMITS("true") "</property>",
            LIST_PROPERTY(SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE));
    ACCEPTED(
        f, "<property name='List' type='as' access='read'>" PERMISSION EMITS("const") "</property>",
        LIST_PROPERTY(SD_BUS_VTABLE_PROPERTY_CONST));
}

static void test_secret(void **state)
{
    static const char members[] = "<method name='Add'>" PERMISSION
                                  "<arg type='u' direction='in'/><arg type='u' direction='in'>"
                                  "<annotation name='org.hybridos.Secret' value='true'/></arg>"
                                  "<arg type='t' direction='out'/></method>";
    Fixture *f = *state;

    REFUSED(f, members, METHOD("uu", OPEN));
    ACCEPTED(f, members, METHOD("uu", OPEN | SD_BUS_VTABLE_SENSITIVE));
}

static void test_bad_file(void **state)
{
    Fixture *f = *state;
    hybus_object *o = NULL;

    assert_int_equal(publish(f, "<method name='Add'>", good), -EBADMSG);
    assert_int_equal(unlink(f->file), 0);
    assert_int_equal(hybus_object_publish(f->bus, PATH, NAME, good, f, &o), -ENOENT);
    assert_null(o);
}

static int on_changed(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *interface, *name;
    Fixture *f = userdata;

    f->signals++;
    assert_true(sd_bus_message_read(m, "s", &interface) > 0);
    assert_string_equal(interface, NAME);
    assert_true(sd_bus_message_enter_container(m, 'a', "{sv}") > 0);
    f->with_value |= sd_bus_message_at_end(m, false) == 0;
    while (sd_bus_message_at_end(m, false) == 0)
        assert_true(sd_bus_message_skip(m, "{sv}") >= 0);
    assert_true(sd_bus_message_exit_container(m) >= 0);
    assert_true(sd_bus_message_enter_container(m, 'a', "s") > 0);
    while (sd_bus_message_read(m, "s", &name) > 0) {
        size_t n = strlen(f->invalidated);

        snprintf(f->invalidated + n, sizeof f->invalidated - n, "%s ", name);
    }
    return 0;
}

static void test_changed(void **state)
{
    static const sd_bus_vtable vtable[] = {
        SD_BUS_VTABLE_START(0),
        PROPERTY(OPEN | INVALIDATES),
        SD_BUS_PROPERTY("List", "u", get_level, 0, INVALIDATES),
        SD_BUS_VTABLE_END,
    };
    Fixture *f = *state;
    hybus_object *o;

    write_file(f, LEVEL "<property name='List' type='u' access='read'>" PERMISSION EMITS(
                      "invalidates") "</property>");
    assert_int_equal(hybus_object_publish(f->bus, PATH, NAME, vtable, f, &o), 0);
    assert_true(sd_bus_match_signal(f->listener, NULL, NULL, PATH,
                                    "org.freedesktop.DBus.Properties", "PropertiesChanged",
                                    on_changed, f) >= 0);
    hybus_object_changed(o, "Level", "List", NULL);
    while (f->signals == 0)
        assert_true(sd_event_run(f->event, DEADLINE_USEC) > 0);
    assert_false(f->with_value);
    assert_string_equal(f->invalidated, "Level List ");
    hybus_object_free(o);
}

static int set_up(void **state)
{
    Fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    f->bus_process = private_bus_new();
    assert_true(sd_event_new(&f->event) >= 0);
    f->bus = private_bus_connect(f->bus_process, f->event);
    f->listener = private_bus_connect(f->bus_process, f->event);
    strcpy(f->directory, "/tmp/test-object-XXXXXX");
    assert_non_null(mkdtemp(f->directory));
    snprintf(f->file, sizeof f->file, "%s/" NAME ".xml", f->directory);
    assert_int_equal(setenv("HYBRIDOS_INTERFACES", f->directory, true), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    sd_bus_close_unref(f->bus);
    sd_bus_close_unref(f->listener);
    sd_event_unref(f->event);
    private_bus_free(f->bus_process);
    (void)unlink(f->file);
    assert_int_equal(rmdir(f->directory), 0);
    free(f);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_agreement, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_permission, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_flags, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_secret, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bad_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_changed, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
