/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>

#include "app-registry.h"

static char directory[64], said[512];
static uint32_t taken_uid;

static void complain(const char *file, const char *why)
{
    snprintf(said, sizeof said, "%s: %s", file, why);
}

static bool taken(uint32_t uid)
{
    return uid == taken_uid;
}

static int setup(void **state)
{
    strcpy(directory, "/tmp/apps-XXXXXX");
    *said = '\0';
    taken_uid = 0;
    return mkdtemp(directory) ? 0 : -1;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *w)
{
    return remove(path);
}

static int teardown(void **state)
{
    return nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static Apps open_apps(void)
{
    Apps apps;

    assert_int_equal(apps_open(directory, true, complain, &apps), 0);
    return apps;
}

static int add(Apps *apps, const char *name, App **ret)
{
    json_t *source = json_pack("{ss s[s]}", "name", name, "exec", "/a");
    AppManifest m;
    int r;

    assert_int_equal(app_manifest_read(source, &m, NULL), 0);
    r = apps_add(apps, &m, source, taken, ret);
    app_manifest_done(&m);
    json_decref(source);
    return r;
}

static void in_file(const char *name, const char *text)
{
    char path[128];
    int fd;

    snprintf(path, sizeof path, "%s/%s", directory, name);
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

static void test_uids_are_given_out_once(void **state)
{
    Apps apps = open_apps();
    App *app;

    assert_int_equal(add(&apps, "one", &app), 0);
    assert_int_equal(app->uid, APP_UID_FIRST);
    assert_int_equal(add(&apps, "two", &app), 0);
    assert_int_equal(app->uid, APP_UID_FIRST + 1);
    assert_int_equal(add(&apps, "two", &app), -EEXIST);
    assert_int_equal(apps_remove(&apps, apps_find(&apps, "two")), 0);
    assert_null(apps_find(&apps, "two"));
    apps_done(&apps);
    /* Also when it is opened anew. */
    apps = open_apps();
    taken_uid = APP_UID_FIRST + 2;
    assert_int_equal(add(&apps, "two", &app), 0);
    assert_int_equal(app->uid, APP_UID_FIRST + 3);
    apps_done(&apps);
}

static void test_what_was_written_is_read(void **state)
{
    Apps apps = open_apps();
    App *app;

    assert_int_equal(add(&apps, "one", &app), 0);
    assert_int_equal(apps_set_state(&apps, app, APP_INSTALLED), 0);
    assert_int_equal(add(&apps, "two", &app), 0);
    assert_int_equal(apps_set_state(&apps, app, APP_KEPT), 0);
    assert_int_equal(add(&apps, "three", &app), 0);
    apps_done(&apps);
    apps = open_apps();
    assert_int_equal(apps.n, 3);
    assert_int_equal(apps.n_bad, 0);
    assert_int_equal(apps_find(&apps, "one")->state, APP_INSTALLED);
    assert_int_equal(apps_find(&apps, "three")->state, APP_UNFINISHED);
    assert_int_equal(apps_find(&apps, "two")->state, APP_KEPT);
    assert_string_equal(apps_find(&apps, "two")->manifest.exec[0], "/a");
    apps_done(&apps);
}

static void test_damage_is_said_and_costs_one_app(void **state)
{
    Apps apps = open_apps();
    App *app;

    assert_int_equal(add(&apps, "one", &app), 0);
    assert_int_equal(add(&apps, "two", &app), 0);
    apps_done(&apps);
    in_file("one.app", "hybridos-app 1 sha256 0000\n{}");
    apps = open_apps();
    assert_int_equal(apps.n, 1);
    assert_int_equal(apps.n_bad, 1);
    assert_non_null(strstr(said, "one.app"));
    assert_non_null(strstr(said, "damaged"));
    assert_non_null(apps_find(&apps, "two"));
    /* Its name stays its own. */
    assert_int_equal(add(&apps, "one", &app), -EEXIST);
    apps_done(&apps);
}

static void test_a_file_under_another_name_is_not_taken(void **state)
{
    Apps apps = open_apps();
    char from[128], to[128];
    App *app;

    assert_int_equal(add(&apps, "one", &app), 0);
    apps_done(&apps);
    snprintf(from, sizeof from, "%s/one.app", directory);
    snprintf(to, sizeof to, "%s/two.app", directory);
    assert_int_equal(link(from, to), 0);
    apps = open_apps();
    assert_int_equal(apps.n, 1);
    assert_int_equal(apps.n_bad, 1);
    assert_non_null(strstr(said, "two.app"));
    apps_done(&apps);
}

static void test_without_the_number_nothing_is_given_out(void **state)
{
    char path[128];
    Apps apps = open_apps();
    App *app;

    assert_int_equal(add(&apps, "one", &app), 0);
    snprintf(path, sizeof path, "%s/next-uid", directory);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(add(&apps, "two", &app), -EBADMSG);
    in_file("next-uid", "70001");
    assert_int_equal(add(&apps, "two", &app), -EBADMSG);
    apps_done(&apps);
}

static void test_the_end_of_the_range(void **state)
{
    Apps apps = open_apps();
    char text[256];
    App *app;

    /* As written by apps_add() with the last one. */
    snprintf(text, sizeof text,
             "hybridos-next-app-uid 1 sha256 "
             "47b25095a0fe135a688b20614771dbb445ad5e27e9cd4f2c2089c5af216e305b\n80000");
    in_file("next-uid", text);
    assert_int_equal(add(&apps, "one", &app), -ENOSPC);
    assert_int_equal(apps.n, 0);
    apps_done(&apps);
}

/* Damaged ones count: they are somebody's. */
static void test_no_more_than_a_device_may_have(void **state)
{
    char name[16];
    Apps apps;
    App *app;

    for (unsigned i = 0; i < APPS_MAX; i++) {
        snprintf(name, sizeof name, "a%u.app", i);
        in_file(name, "");
    }
    apps = open_apps();
    assert_int_equal(apps.n_bad, APPS_MAX);
    assert_int_equal(add(&apps, "more", &app), -EOVERFLOW);
    apps_done(&apps);
}

static void test_others_may_not_write_there(void **state)
{
    Apps apps;

    assert_int_equal(chmod(directory, 0777), 0);
    assert_int_equal(apps_open(directory, true, complain, &apps), -EPERM);
}

static void test_nothing_is_there(void **state)
{
    char path[80];
    Apps apps;

    snprintf(path, sizeof path, "%s/none", directory);
    assert_int_equal(apps_open(path, false, complain, &apps), 0);
    assert_int_equal(apps.n, 0);
    apps_done(&apps);
    assert_int_equal(access(path, F_OK), -1);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_uids_are_given_out_once),
        TEST(test_what_was_written_is_read),
        TEST(test_damage_is_said_and_costs_one_app),
        TEST(test_a_file_under_another_name_is_not_taken),
        TEST(test_without_the_number_nothing_is_given_out),
        TEST(test_the_end_of_the_range),
        TEST(test_no_more_than_a_device_may_have),
        TEST(test_others_may_not_write_there),
        TEST(test_nothing_is_there),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
