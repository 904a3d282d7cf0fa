/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "page.h"
#include "status.h"

static char root[] = "/tmp/test-sysinfo-XXXXXX";

static void put(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof(full), "%s%s", root, path);
    for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); p++) {
        *p = '\0';
        mkdir(full, 0755);
        *p = '/';
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static int set_up(void **state)
{
    return mkdtemp(root) ? 0 : -1;
}

static int tear_down(void **state)
{
    char command[64];
    snprintf(command, sizeof(command), "rm -r %s", root);
    return system(command);
}

static json_int_t integer(const json_t *o, const char *a, const char *b)
{
    return json_integer_value(json_object_get(json_object_get(o, a), b));
}

static void test_figures(void **state)
{
    put("/proc/uptime", "90061.5 100.0\n");
    put("/proc/loadavg", "0.50 1.25 2.00 1/100 42\n");
    put("/proc/stat", "cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 1 1 1\ncpu1 1 1 1 1\nintr 5\n");
    put("/proc/meminfo",
        "MemTotal:   2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\nSwapTotal: 0 kB\n");
    put("/proc/net/dev", "Inter-| x\n face | y\n  eth0: 1000 1 0 0 0 0 0 0 2000 2 0 0 0 0 0 0\n");
    put("/sys/class/net/eth0/operstate", "up\n");
    put("/proc/self/mountinfo",
        "1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 8:1 /x /usr rw - ext4 /dev/a rw\n"
        "3 1 0:5 / /proc rw - proc proc rw\n4 1 8:2 / /proc/uptime rw - ext4 /dev/b rw\n");
    put("/sys/firmware/devicetree/base/model", "Board 3");
    put("/sys/fs/cgroup/system.slice/b.service/cgroup.threads", "1\n2\n3\n");
    put("/sys/fs/cgroup/system.slice/b.service/memory.current", "4096\n");
    put("/sys/fs/cgroup/system.slice/b.service/cpu.stat", "usage_usec 2500000\nuser_usec 1\n");
    put("/sys/fs/cgroup/unified/system.slice/c.service/cpu.stat", "usage_usec 10000\n");

    struct status s = {.root = root};
    json_t *o = status_sample(&s, NULL);
    assert_int_equal(json_integer_value(json_object_get(o, "uptime")), 90061);
    assert_int_equal(integer(o, "cpu", "cores"), 2);
    assert_true(json_real_value(json_object_get(json_object_get(o, "cpu"), "percent")) == 20.0);
    assert_int_equal(integer(o, "memory", "total"), 2048 * 1024);
    assert_int_equal(integer(o, "memory", "available"), 1024 * 1024);
    assert_int_equal(integer(o, "memory", "used"), 1024 * 1024);
    assert_true(json_real_value(json_object_get(json_object_get(o, "memory"), "percent")) == 50.0);
    assert_string_equal(json_string_value(json_object_get(o, "model")), "Board 3");
    const json_t *net = json_array_get(json_object_get(o, "network"), 0);
    assert_int_equal(json_integer_value(json_object_get(net, "received")), 1000);
    assert_int_equal(json_integer_value(json_object_get(net, "sent")), 2000);
    assert_string_equal(json_string_value(json_object_get(net, "state")), "up");
    assert_int_equal(json_array_size(json_object_get(o, "disks")),
                     1);                      /* one device, one row; no file */
    assert_null(json_object_get(o, "units")); /* not known */
    assert_null(json_object_get(o, "failed"));
    json_decref(o);

    /* The second sample counts from the first. */
    put("/proc/stat", "cpu  150 0 150 700 100 0 0 0 0 0\ncpu0 1 1 1 1\n");
    o = status_sample(&s, NULL);
    assert_true(json_real_value(json_object_get(json_object_get(o, "cpu"), "percent")) == 100.0);
    json_decref(o);
}

static json_t *some_units(void)
{
    return json_pack("[{ssssss}{ssssss}{ssssss}]", "name", "bad.service", "description", "Bad",
                     "state", "failed", "name", "b.service", "description", "B", "state", "running",
                     "name", "c.service", "description", "C", "state", "running");
}

static void test_units(void **state)
{
    struct status s = {.root = root};
    json_t *units = some_units(), *o = status_sample(&s, units);
    const json_t *rows = json_object_get(o, "units"), *failed = json_object_get(o, "failed");

    assert_int_equal(json_array_size(rows), 3);
    assert_int_equal(json_array_size(failed), 1);
    assert_string_equal(json_string_value(json_array_get(failed, 0)), "bad.service");
    const json_t *b = json_array_get(rows, 1), *c = json_array_get(rows, 2);
    assert_int_equal(json_integer_value(json_object_get(b, "tasks")), 3);
    assert_int_equal(json_integer_value(json_object_get(b, "memory")), 4096);
    assert_true(json_real_value(json_object_get(b, "cpu-seconds")) == 2.5);
    /* Of the hybrid layout: what is there. */
    assert_true(json_real_value(json_object_get(c, "cpu-seconds")) == 0.01);
    assert_null(json_object_get(c, "memory"));
    /* What the caller gave is as it was. */
    assert_null(json_object_get(json_array_get(units, 1), "tasks"));
    json_decref(o);
    json_decref(units);
}

static char *page_of(const json_t *status)
{
    size_t size;
    char *page = page_render(status, &size);

    assert_non_null(page);
    assert_int_equal(strlen(page), size);
    return page;
}

static void test_nothing_readable(void **state)
{
    struct status s = {.root = "/nonexistent"};
    json_t *o = status_sample(&s, NULL);
    assert_non_null(o);
    assert_null(json_object_get(o, "memory"));
    char *page = page_of(o);
    assert_non_null(strstr(page, "is not known"));
    free(page);
    json_decref(o);
}

static void test_page(void **state)
{
    struct status s = {.root = root};
    json_t *units = some_units(), *o = status_sample(&s, units);
    char *page = page_of(o);

    assert_non_null(strstr(page, "id=\"health\" class=\"bad\""));
    assert_non_null(strstr(page, "1 unit has failed: bad.service"));
    assert_non_null(strstr(page, "<tr class=\"failed\"><td class=\"\">bad.service</td>"));
    assert_non_null(strstr(page, "data-k=\"memory.total\" data-f=\"bytes\">2.0 MiB<"));
    assert_non_null(strstr(page, "data-k=\"uptime\" data-f=\"duration\">1 d 01:01:01<"));
    assert_non_null(strstr(page, "width=\"50.0\""));
    assert_null(strstr(page, "style=")); /* the content security policy would block it */
    assert_null(strstr(page, "<script>"));
    free(page);
    json_array_clear(units);
    json_decref(o);
    o = status_sample(&s, units);
    page = page_of(o);
    assert_non_null(strstr(page, "All units are well"));
    free(page);
    json_decref(o);
    json_decref(units);
}

static void test_page_escapes(void **state)
{
    json_t *o = json_pack("{ss s[{ss}]}", "hostname", "<script>&\"", "units", "name", "<b>'x'");
    char *page = page_of(o);
    assert_null(strstr(page, "<b>"));
    assert_non_null(strstr(page, "&lt;script&gt;&amp;&quot;"));
    assert_non_null(strstr(page, "&lt;b&gt;&#39;x&#39;"));
    free(page);
    json_decref(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures),          cmocka_unit_test(test_units),
        cmocka_unit_test(test_nothing_readable), cmocka_unit_test(test_page),
        cmocka_unit_test(test_page_escapes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
