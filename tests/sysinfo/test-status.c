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
        "3 1 0:5 / /proc rw - proc proc rw\n");
    put("/sys/fs/cgroup/system.slice/b.service/pids.current", "3\n");
    put("/sys/fs/cgroup/system.slice/b.service/memory.current", "4096\n");
    put("/sys/fs/cgroup/system.slice/b.service/cpu.stat", "usage_usec 2500000\nuser_usec 1\n");
    put("/sys/fs/cgroup/system.slice/a.service/pids.current", "0\n");
    put("/sys/fs/cgroup/system.slice/c.mount/pids.current", "1\n");

    struct status s = {.root = root};
    json_t *o = status_sample(&s);
    assert_int_equal(json_integer_value(json_object_get(o, "uptime")), 90061);
    assert_int_equal(integer(o, "cpu", "cores"), 2);
    assert_true(json_real_value(json_object_get(json_object_get(o, "cpu"), "percent")) == 20.0);
    assert_int_equal(integer(o, "memory", "total"), 2048 * 1024);
    assert_int_equal(integer(o, "memory", "available"), 1024 * 1024);
    const json_t *net = json_array_get(json_object_get(o, "network"), 0);
    assert_int_equal(json_integer_value(json_object_get(net, "received")), 1000);
    assert_int_equal(json_integer_value(json_object_get(net, "sent")), 2000);
    assert_string_equal(json_string_value(json_object_get(net, "state")), "up");
    assert_int_equal(json_array_size(json_object_get(o, "disks")), 1); /* one device, one row */
    const json_t *units = json_object_get(o, "units");
    assert_int_equal(json_array_size(units), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(units, 0), "name")),
                        "b.service");
    json_decref(o);

    /* The second sample counts from the first. */
    put("/proc/stat", "cpu  150 0 150 700 100 0 0 0 0 0\ncpu0 1 1 1 1\n");
    o = status_sample(&s);
    assert_true(json_real_value(json_object_get(json_object_get(o, "cpu"), "percent")) == 100.0);
    json_decref(o);
}

static void test_nothing_readable(void **state)
{
    struct status s = {.root = "/nonexistent"};
    json_t *o = status_sample(&s);
    assert_non_null(o);
    assert_null(json_object_get(o, "memory"));
    size_t size;
    char *page = page_render(o, &size);
    assert_non_null(page);
    free(page);
    json_decref(o);
}

static void test_page_escapes(void **state)
{
    json_t *o = json_pack("{ss s[{ssss}]}", "hostname", "<script>&\"", "units", "name", "<b>'x'",
                          "<k>", "v");
    size_t size;
    char *page = page_render(o, &size);
    assert_int_equal(strlen(page), size);
    assert_null(strstr(page, "<b>"));
    assert_null(strstr(page, "<k>"));
    assert_non_null(strstr(page, "&lt;script&gt;&amp;&quot;"));
    assert_non_null(strstr(page, "&lt;b&gt;&#39;x&#39;"));
    free(page);
    json_decref(o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_figures),
        cmocka_unit_test(test_nothing_readable),
        cmocka_unit_test(test_page_escapes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
