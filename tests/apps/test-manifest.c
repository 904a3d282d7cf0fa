/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "app-manifest.h"

static char message[512];

static int parse(const char *text, AppManifest *ret)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    int r = app_manifest_parse(text, strlen(text), ret, NULL, &e);

    snprintf(message, sizeof message, "%s", strempty(e.message));
    return r;
}

static void test_everything(void **state)
{
    AppManifest m;

    assert_int_equal(
        parse(
            "{\"name\":\"thermo-2\",\"title\":\"Heat 50%\",\"exec\":[\"/opt/t/t\",\"-v\",\"\"],"
            "\"endpoints\":[\"/thermo\",\"/a/b.c\"],\"permissions\":[{\"permission\":\"log.read\","
            "\"reason\":\"zeigt Fehler "
            "\xc3\xbc\"}],\"limits\":{\"memory\":4194304,\"tasks\":1,\"cpu\":200},"
            "\"start\":\"demand\"}",
            &m),
        0);
    assert_string_equal(m.name, "thermo-2");
    assert_string_equal(m.title, "Heat 50%");
    assert_string_equal(m.exec[2], "");
    assert_null(m.exec[3]);
    assert_string_equal(m.endpoints[1], "/a/b.c");
    /* What its endpoints need comes first. */
    assert_int_equal(m.n_requests, 4);
    assert_string_equal(m.requests[0].permission, "endpoint.register");
    assert_string_equal(m.requests[2].permission, "endpoint.register:/a/b.c");
    assert_string_equal(m.requests[3].permission, "log.read");
    assert_ptr_equal(app_manifest_request(&m, "log.read"), &m.requests[3]);
    assert_null(app_manifest_request(&m, "log"));
    assert_int_equal(m.memory, 4194304);
    assert_int_equal(m.tasks, 1);
    assert_int_equal(m.cpu, 200);
    assert_int_equal(m.start, APP_START_DEMAND);
    app_manifest_done(&m);
}

static void test_the_least(void **state)
{
    AppManifest m;

    assert_int_equal(parse("{\"name\":\"a\",\"exec\":[\"/a\"]}", &m), 0);
    assert_int_equal(m.n_requests, 0);
    assert_null(m.endpoints);
    assert_int_equal(m.memory, APP_MEMORY_DEFAULT);
    assert_int_equal(m.tasks, APP_TASKS_DEFAULT);
    assert_int_equal(m.cpu, APP_CPU_DEFAULT);
    assert_int_equal(m.start, APP_START_BOOT);
    app_manifest_done(&m);
}

/* With one more key, whose value is wrong: what is said names the place. */
static void refused(const char *more, const char *where)
{
    char text[4096];
    AppManifest m;

    snprintf(text, sizeof text, "{\"name\":\"a\",\"exec\":[\"/a\"],%s}", more);
    assert_int_equal(parse(text, &m), -EBADMSG);
    if (!strstr(message, where))
        fail_msg("%s: %s", more, message);
}

static void refused_whole(const char *text, const char *where)
{
    AppManifest m;

    assert_int_equal(parse(text, &m), -EBADMSG);
    if (!strstr(message, where))
        fail_msg("%s: %s", text, message);
}

static void test_what_is_wrong_is_named(void **state)
{
    refused("\"exce\":1", "\"exce\"");
    refused("\"name\":\"b\"", "name");
    refused("\"title\":\"a\\nb\"", "title");
    refused("\"title\":\"a\\\\\"", "title");
    refused("\"title\":7", "title");
    refused("\"endpoints\":[\"thermo\"]", "endpoints[0]");
    refused("\"endpoints\":[\"/a\",\"/a/\"]", "endpoints[1]");
    refused("\"endpoints\":[\"/a/../b\"]", "endpoints[0]");
    refused("\"endpoints\":[\"/a b\"]", "endpoints[0]");
    refused("\"endpoints\":{}", "endpoints");
    refused("\"permissions\":[{\"permission\":\"*\",\"reason\":\"x\"}]",
            "permissions[0].permission");
    refused("\"permissions\":[{\"permission\":\"log.*\",\"reason\":\"x\"}]",
            "permissions[0].permission");
    refused("\"permissions\":[{\"permission\":\"log.read\"}]", "permissions[0].reason");
    refused("\"permissions\":[{\"permission\":\"log.read\",\"reason\":\"\"}]",
            "permissions[0].reason");
    refused("\"permissions\":[{\"permission\":\"log.read\",\"reason\":\"\\u001b[2J\"}]",
            "permissions[0].reason");
    refused("\"permissions\":[{\"permission\":\"log.read\",\"reason\":\"\\u009b\"}]",
            "permissions[0].reason");
    refused("\"permissions\":[{\"permission\":\"log.read\",\"reason\":\"x\",\"granted\":true}]",
            "\"granted\"");
    refused("\"permissions\":[{\"permission\":\"a.b\",\"reason\":\"x\"},{\"permission\":\"a.b\","
            "\"reason\":\"y\"}]",
            "permissions[1]");
    refused("\"permissions\":[\"log.read\"]", "permissions[0]");
    refused("\"limits\":{\"memory\":4194303}", "limits.memory");
    refused("\"limits\":{\"memory\":536870913}", "limits.memory");
    refused("\"limits\":{\"memory\":\"64M\"}", "limits.memory");
    refused("\"limits\":{\"tasks\":0}", "limits.tasks");
    refused("\"limits\":{\"tasks\":257}", "limits.tasks");
    refused("\"limits\":{\"cpu\":-1}", "limits.cpu");
    refused("\"limits\":{\"cpu\":201}", "limits.cpu");
    refused("\"limits\":{\"disk\":1}", "\"disk\"");
    refused("\"limits\":[]", "limits");
    refused("\"start\":\"now\"", "start");
    refused("\"start\":null", "start");
    refused("\"start\":\"demand\"", "start");
}

static void test_names_and_programs(void **state)
{
    refused_whole("{\"exec\":[\"/a\"]}", "name");
    refused_whole("{\"name\":\"A\",\"exec\":[\"/a\"]}", "name");
    refused_whole("{\"name\":\"1\",\"exec\":[\"/a\"]}", "name");
    refused_whole("{\"name\":\"a-\",\"exec\":[\"/a\"]}", "name");
    refused_whole("{\"name\":\"a.service\",\"exec\":[\"/a\"]}", "name");
    refused_whole("{\"name\":\"a123456789012345678901234\",\"exec\":[\"/a\"]}", "name");
    refused_whole("{\"name\":\"a\"}", "exec");
    refused_whole("{\"name\":\"a\",\"exec\":[]}", "exec");
    refused_whole("{\"name\":\"a\",\"exec\":\"/a\"}", "exec");
    refused_whole("{\"name\":\"a\",\"exec\":[\"a\"]}", "exec[0]");
    refused_whole("{\"name\":\"a\",\"exec\":[\"+/a\"]}", "exec[0]");
    refused_whole("{\"name\":\"a\",\"exec\":[\"/a b\"]}", "exec[0]");
    refused_whole("{\"name\":\"a\",\"exec\":[\"/a\",\"b\\nUser=root\"]}", "exec[1]");
    refused_whole("{\"name\":\"a\",\"exec\":[\"/a\",\"b\\u0000c\"]}", "u0000");
    refused_whole("{\"name\":\"a\",\"name\":\"b\",\"exec\":[\"/a\"]}", "");
    refused_whole("[]", "manifest");
    refused_whole("", "");
}

static void test_limits_of_lists(void **state)
{
    char text[16384] = "{\"name\":\"a\",\"exec\":[\"/a\"";
    AppManifest m;

    for (unsigned i = 1; i < APP_WORDS_MAX; i++)
        strcat(text, ",\"x\"");
    strcat(text, "]}");
    assert_int_equal(parse(text, &m), 0);
    app_manifest_done(&m);
    strcpy(text + strlen(text) - 2, ",\"x\"]}");
    refused_whole(text, "exec");
    strcpy(text, "\"permissions\":[{\"permission\":\"a.p0\",\"reason\":\"x\"}");
    for (unsigned i = 1; i <= APP_REQUESTS_MAX; i++)
        snprintf(text + strlen(text), 64, ",{\"permission\":\"a.p%u\",\"reason\":\"x\"}", i);
    strcat(text, "]");
    refused(text, "permissions");
}

static void test_too_large(void **state)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    _cleanup_(freep) char *text = malloc(APP_MANIFEST_MAX + 1);
    AppManifest m;

    assert_non_null(text);
    memset(text, ' ', APP_MANIFEST_MAX + 1);
    assert_int_equal(app_manifest_parse(text, APP_MANIFEST_MAX + 1, &m, NULL, &e), -EBADMSG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_everything),
        cmocka_unit_test(test_the_least),
        cmocka_unit_test(test_what_is_wrong_is_named),
        cmocka_unit_test(test_names_and_programs),
        cmocka_unit_test(test_limits_of_lists),
        cmocka_unit_test(test_too_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
