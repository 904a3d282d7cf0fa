/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>

#include <cmocka.h>

#include <channel.h>

#include "endpoints-table.h"

static const endpoints_ops ops = {};
static char owner;

static endpoints_spec bus_spec(void)
{
    endpoints_spec s = {.uid = 60700, .road = ENDPOINTS_BUS, .stream = true, .watch = true};

    assert_int_equal(endpoints_spec_set_namespace(&s, "/thermo", 7), 0);
    assert_int_equal(endpoints_spec_set_title(&s, "Thermo", 6), 0);
    assert_int_equal(endpoints_spec_set_attributes(&s, "rt=heat", 7), 0);
    assert_int_equal(endpoints_spec_set_bus_name(&s, ":1.42", 5), 0);
    assert_int_equal(endpoints_spec_set_object(&s, "/r", 2), 0);
    assert_int_equal(endpoints_spec_add_rule(&s, "GET / a.b", 9), 0);
    assert_int_equal(endpoints_spec_add_rule(&s, "PUT /x c.d", 10), 0);
    return s;
}

static void test_entry(void **state)
{
    endpoints_entry entry = {.spec = bus_spec(), .revision = 12};
    hybus_frame_queue q = {.max = HYBUS_FRAME_MAX};
    hybus_frame_reader reader = {.max = HYBUS_FRAME_MAX};
    endpoints_spec got;
    hybus_frame frame;

    assert_int_equal(endpoints_spec_set_key(&entry.spec, "0123456789abcdef", 16), 0);
    assert_int_equal(endpoints_entry_put(&q, &entry, 0), 0);
    assert_int_equal(hybus_frame_reader_push(&reader, q.buffer, q.end), 0);
    assert_int_equal(hybus_frame_reader_next(&reader, &frame), 1);
    assert_int_equal(frame.type, CHANNEL_ENTRY);
    assert_int_equal(endpoints_entry_parse(&frame, &got), 0);
    assert_string_equal(got.ns, "/thermo");
    assert_string_equal(got.title, "Thermo");
    assert_string_equal(got.attributes, "rt=heat");
    assert_string_equal(got.bus_name, ":1.42");
    assert_string_equal(got.object, "/r");
    assert_string_equal(got.key, "0123456789abcdef");
    assert_int_equal(got.uid, 60700);
    assert_int_equal(got.road, ENDPOINTS_BUS);
    assert_true(got.stream && got.watch);
    assert_int_equal(got.n_rules, 2);
    assert_string_equal(got.rules[1], "PUT /x c.d");
    endpoints_spec_done(&got);
    endpoints_spec_done(&entry.spec);
    hybus_frame_queue_done(&q);
    hybus_frame_reader_done(&reader);
}

/* The largest entry that the limits allow goes into one frame, and all of them into the file. */
static void test_largest(void **state)
{
    endpoints_entry entry = {};
    hybus_frame_queue q = {.max = HYBUS_FRAME_MAX};
    char text[ENDPOINTS_NAMESPACE_MAX + 1];
    int r = 0;

    memset(text, 'x', sizeof(text));
    text[0] = '/';
    assert_int_equal(endpoints_spec_set_namespace(&entry.spec, text, ENDPOINTS_NAMESPACE_MAX), 0);
    assert_int_equal(endpoints_spec_set_object(&entry.spec, text, 255), 0);
    assert_int_equal(endpoints_spec_set_title(&entry.spec, text, ENDPOINTS_TITLE_MAX), 0);
    assert_int_equal(endpoints_spec_set_key(&entry.spec, "0123456789abcdef", 16), 0);
    text[0] = ':';
    assert_int_equal(endpoints_spec_set_bus_name(&entry.spec, text, 255), 0);
    while (r == 0) {
        char rule[200];
        snprintf(rule, sizeof(rule), "GET /%0100d a.b", 1);
        r = endpoints_spec_add_rule(&entry.spec, rule, strlen(rule));
    }
    assert_int_equal(r, -ENOBUFS);
    assert_int_equal(endpoints_entry_put(&q, &entry, 0), 0);
    assert_true((q.end + 100 + ENDPOINTS_RULES_SIZE) * (ENDPOINTS_MAX + ENDPOINTS_MANIFESTS_MAX) /
                    2 <
                ENDPOINTS_TABLE_SIZE_MAX);
    endpoints_spec_done(&entry.spec);
    hybus_frame_queue_done(&q);
}

static void fill(endpoints *t)
{
    endpoints_spec bus = bus_spec(), lamp = {.uid = 60701};
    endpoints_entry *entry;
    const char *why;

    assert_int_equal(endpoints_register(t, &bus, NULL, &owner, 0, &entry, &why), 0);
    assert_int_equal(endpoints_spec_set_namespace(&lamp, "/lamp", 5), 0);
    assert_int_equal(endpoints_register(t, &lamp, NULL, &owner, 0, &entry, &why), 0);
}

static void test_file(void **state)
{
    _cleanup_(endpoints_freep) endpoints *t = NULL, *same = NULL, *other = NULL, *none = NULL;
    char directory[] = "/tmp/test-table-XXXXXX", path[64];
    struct stat st;
    FILE *f;

    assert_non_null(mkdtemp(directory));
    snprintf(path, sizeof(path), "%s/table", directory);
    assert_int_equal(endpoints_new(&ops, NULL, &t), 0);
    assert_int_equal(endpoints_new(&ops, NULL, &same), 0);
    assert_int_equal(endpoints_new(&ops, NULL, &other), 0);
    assert_int_equal(endpoints_new(&ops, NULL, &none), 0);
    fill(t);
    assert_int_equal(endpoints_table_load(none, path, "bus-1"), -ENOENT);
    assert_int_equal(endpoints_table_save(t, path, "bus-1"), 0);
    assert_int_equal(endpoints_table_save(t, path, "bus-1"), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600); /* there are keys in it */

    assert_int_equal(endpoints_table_load(same, path, "bus-1"), 0);
    assert_non_null(endpoints_find(same, "/lamp"));
    assert_string_equal(endpoints_find(same, "/thermo")->spec.key,
                        endpoints_find(t, "/thermo")->spec.key);
    assert_null(endpoints_find(same, "/thermo")->owner);
    /* unique names of another bus mean nothing */
    assert_int_equal(endpoints_table_load(other, path, "bus-2"), 0);
    assert_non_null(endpoints_find(other, "/lamp"));
    assert_null(endpoints_find(other, "/thermo"));

    /* cut short: what is whole is used */
    assert_int_equal(truncate(path, st.st_size - 3), 0);
    assert_int_equal(endpoints_table_load(none, path, "bus-1"), 0);
    assert_non_null(endpoints_find(none, "/lamp"));
    assert_null(endpoints_find(none, "/thermo"));
    f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs("this is not a table", f) >= 0);
    fclose(f);
    assert_int_equal(endpoints_table_load(none, path, "bus-1"), -EBADMSG);
    unlink(path);
    assert_int_equal(symlink("/dev/null", path), 0);
    assert_int_equal(endpoints_table_load(none, path, "bus-1"), -ELOOP);
    unlink(path);
    rmdir(directory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entry),
        cmocka_unit_test(test_largest),
        cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
