/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <ftw.h>
#include <sys/stat.h>

#include "app-files.h"

static char top[64], userdb[80], units[80], endpoints[80];
static AppFiles files = {.userdb = userdb, .units = units, .endpoints = endpoints, .gid = 60600};

static int setup(void **state)
{
    strcpy(top, "/tmp/app-files-XXXXXX");
    if (!mkdtemp(top))
        return -1;
    snprintf(userdb, sizeof userdb, "%s/userdb", top);
    snprintf(units, sizeof units, "%s/units", top);
    snprintf(endpoints, sizeof endpoints, "%s/endpoints", top);
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *w)
{
    return remove(path);
}

static int teardown(void **state)
{
    return nftw(top, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static App app_of(const char *text)
{
    App app = {.uid = 70007};

    assert_int_equal(app_manifest_parse(text, strlen(text), &app.manifest, NULL, NULL), 0);
    return app;
}

static bool is_there(const char *folder, const char *name)
{
    char path[256];
    struct stat st;

    snprintf(path, sizeof path, "%s/%s", folder, name);
    return lstat(path, &st) == 0;
}

static void test_words_mean_what_they_are(void **state)
{
    App app =
        app_of("{\"name\":\"a\",\"title\":\"50% \\\"of\\\"\",\"exec\":[\"/bin/a\",\"b "
               "c\",\"%n\",\"$HOME\","
               "\"\\\"\\\\\",\"\",\"; x\"],\"limits\":{\"memory\":5000000,\"tasks\":3,\"cpu\":7}}");
    char *text = app_files_unit_text(&app, false);

    assert_non_null(strstr(text, "\nDescription=HybridOS app a: 50%% \"of\"\n"));
    assert_non_null(
        strstr(text, "\nExecStart=:/bin/a \"b c\" \"%%n\" \"$HOME\" \"\\\"\\\\\" \"\" \"; x\"\n"));
    assert_non_null(strstr(text, "\nMemoryMax=5000000\nTasksMax=3\nLimitNPROC=3\nCPUQuota=7%\n"));
    assert_null(strstr(text, "Network"));
    assert_null(strstr(text, "User="));
    free(text);
    text = app_files_unit_text(&app, true);
    assert_non_null(strstr(text, "\nPrivateNetwork=no\n"));
    assert_non_null(strstr(text, "h-app allowed a app.network\n"));
    free(text);
    app_manifest_done(&app.manifest);
}

static void test_a_user_comes_leaves_the_group_and_goes(void **state)
{
    App app = app_of("{\"name\":\"a\",\"exec\":[\"/bin/a\"]}");
    char *text = app_files_user_text(&files, &app, true);

    assert_non_null(strstr(text, "\"userName\":\"h-app-a\",\"uid\":70007,\"gid\":60600,"));
    free(text);
    text = app_files_user_text(&files, &app, false);
    assert_non_null(strstr(text, "\"gid\":65534,"));
    free(text);
    assert_int_equal(app_files_write_user(&files, &app, true), 0);
    assert_int_equal(app_files_write_user(&files, &app, true), 0);
    assert_true(is_there(userdb, "h-app-a.user") && is_there(userdb, "70007.user"));
    assert_int_equal(app_files_remove_user(&files, &app), 0);
    assert_int_equal(app_files_remove_user(&files, &app), 0);
    assert_false(is_there(userdb, "h-app-a.user") || is_there(userdb, "70007.user"));
    app_manifest_done(&app.manifest);
}

static void test_a_link_to_somebody_else_is_replaced(void **state)
{
    App app = app_of("{\"name\":\"a\",\"exec\":[\"/bin/a\"]}");
    char path[128], target[64];
    ssize_t n;

    assert_int_equal(mkdir(userdb, 0755), 0);
    snprintf(path, sizeof path, "%s/70007.user", userdb);
    assert_int_equal(symlink("h-app-b.user", path), 0);
    assert_int_equal(app_files_write_user(&files, &app, true), 0);
    n = readlink(path, target, sizeof target);
    assert_int_equal(n, strlen("h-app-a.user"));
    assert_memory_equal(target, "h-app-a.user", (size_t)n);
    app_manifest_done(&app.manifest);
}

static void test_a_unit_is_written_when_it_changes(void **state)
{
    App app = app_of("{\"name\":\"a\",\"exec\":[\"/bin/a\"]}");

    assert_int_equal(app_files_write_unit(&files, &app, false), 1);
    assert_int_equal(app_files_write_unit(&files, &app, false), 0);
    assert_int_equal(app_files_write_unit(&files, &app, true), 1);
    assert_int_equal(app_files_remove_unit(&files, &app), 0);
    assert_false(is_there(units, "h-app@a.service.d"));
    assert_int_equal(app_files_remove_unit(&files, &app), 0);
    app_manifest_done(&app.manifest);
}

static void test_what_is_no_app_s_is_swept(void **state)
{
    App list[] = {app_of("{\"name\":\"a\",\"exec\":[\"/bin/a\"]}"),
                  app_of("{\"name\":\"b\",\"exec\":[\"/bin/a\"]}"),
                  app_of("{\"name\":\"c\",\"exec\":[\"/bin/a\"]}")};
    Apps apps = {.list = list, .n = 2};

    list[1].state = APP_UNFINISHED;
    assert_int_equal(app_files_sweep_units(&files, &apps), 0);
    for (size_t i = 0; i < ELEMENTS(list); i++)
        assert_int_equal(app_files_write_unit(&files, &list[i], false), 1);
    assert_int_equal(app_files_sweep_units(&files, &apps), 1);
    assert_true(is_there(units, "h-app@a.service.d"));
    assert_false(is_there(units, "h-app@b.service.d") || is_there(units, "h-app@c.service.d"));
    assert_int_equal(app_files_sweep_units(&files, &apps), 0);
    for (size_t i = 0; i < ELEMENTS(list); i++)
        app_manifest_done(&list[i].manifest);
}

static void test_endpoints_of_those_on_demand(void **state)
{
    App app = app_of(
        "{\"name\":\"a\",\"title\":\"T\",\"exec\":[\"/bin/a\"],\"endpoints\":[\"/x\",\"/y\"],"
        "\"start\":\"demand\"}");
    const bool none[APP_ENDPOINTS_MAX] = {false}, both[APP_ENDPOINTS_MAX] = {true, true},
               second[APP_ENDPOINTS_MAX] = {false, true};
    char *text = app_files_endpoints_text(&app, both);

    assert_non_null(strstr(
        text, "[endpoint /x]\nUnit = h-app@a.service\nUser = h-app-a\nTitle = T\n[endpoint /y]\n"));
    free(text);
    text = app_files_endpoints_text(&app, second);
    assert_null(strstr(text, "/x"));
    assert_non_null(strstr(text, "[endpoint /y]\n"));
    free(text);
    assert_int_equal(app_files_write_endpoints(&files, &app, both), 1);
    assert_int_equal(app_files_write_endpoints(&files, &app, both), 0);
    assert_true(is_there(endpoints, "h-app-a.app"));
    assert_int_equal(app_files_write_endpoints(&files, &app, none), 1);
    assert_false(is_there(endpoints, "h-app-a.app"));
    assert_int_equal(app_files_write_endpoints(&files, &app, none), 0);
    assert_int_equal(app_files_remove_endpoints(&files, &app), 0);
    app_manifest_done(&app.manifest);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_words_mean_what_they_are),
        TEST(test_a_user_comes_leaves_the_group_and_goes),
        TEST(test_a_link_to_somebody_else_is_replaced),
        TEST(test_a_unit_is_written_when_it_changes),
        TEST(test_what_is_no_app_s_is_swept),
        TEST(test_endpoints_of_those_on_demand),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
