/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "endpoints-manifest.h"

static int fake_user(const char *name, uint32_t *ret)
{
    if (!streq(name, "thermo"))
        return -ESRCH;
    *ret = 60700;
    return 0;
}

static char message[512];

static int read_text(const char *text, endpoints_spec **ret, size_t *ret_n)
{
    _cleanup_(hybus_config_freep) hybus_config *c = NULL;
    _cleanup_(hybus_config_error_done) hybus_config_error e = {};
    int r;

    message[0] = 0;
    assert_int_equal(hybus_config_new(&c), 0);
    r = hybus_config_parse(c, "thermo.app", text, strlen(text), &e);
    if (r >= 0)
        r = manifest_read(c, fake_user, ret, ret_n, &e);
    if (r < 0)
        snprintf(message, sizeof(message), "%s", strempty(e.message));
    return r;
}

static void test_good(void **state)
{
    endpoints_spec *specs;
    size_t n;

    assert_int_equal(
        read_text(
            "[endpoint /thermo]\nUnit = thermo.service\nUser = thermo\n"
            "Title = Heat\nAttributes = rt=\"heat\";ct=50\nRule = GET / a.b\nRule = PUT /x c.d\n"
            "[endpoint /other]\nUser=thermo\nUnit=h-app@thermo.service\n",
            &specs, &n),
        0);
    assert_int_equal(n, 2);
    assert_string_equal(specs[0].ns, "/thermo");
    assert_string_equal(specs[0].unit, "thermo.service");
    assert_string_equal(specs[0].title, "Heat");
    assert_string_equal(specs[0].attributes, "rt=\"heat\";ct=50");
    assert_string_equal(specs[1].unit, "h-app@thermo.service");
    assert_int_equal(specs[0].uid, 60700);
    assert_int_equal(specs[0].road, ENDPOINTS_START);
    assert_int_equal(specs[0].n_rules, 2);
    manifest_done(specs, n);
    assert_int_equal(read_text("", &specs, &n), 0);
    assert_int_equal(n, 0);
    manifest_done(specs, n);
}

static void refused(const char *text, const char *place)
{
    endpoints_spec *specs;
    size_t n;

    assert_int_equal(read_text(text, &specs, &n), -EBADMSG);
    if (!startswith(message, place))
        fail_msg("\"%s\" does not start with %s", message, place);
}

#define HEAD "[endpoint /thermo]\nUnit = thermo.service\nUser = thermo\n"

static void test_bad(void **state)
{
    refused("[endpoint thermo]\n", "thermo.app:1:");
    refused("[endpoint]\n", "thermo.app:1:");
    refused("[server /thermo]\n", "thermo.app:1:");
    refused("[endpoint /thermo]\nUnit = thermo.service\n", "thermo.app:1:");
    refused("[endpoint /thermo]\nUser = thermo\n", "thermo.app:1:");
    refused("[endpoint /thermo]\nUnit = ../evil.service\n", "thermo.app:2:8:");
    refused("[endpoint /thermo]\nUnit = thermo.service\nUser = nobody-here\n", "thermo.app:3:8:");
    refused(HEAD "Rule = GET\n", "thermo.app:4:8:");
    refused(HEAD "Exec = /bin/sh\n", "thermo.app:4:1:");
    refused(HEAD HEAD, "thermo.app:4:");
    refused("nonsense\n", "thermo.app:1:");
}

static void test_limit(void **state)
{
    _cleanup_(freep) char *text = NULL;
    endpoints_spec *specs;
    size_t n, size;
    FILE *f = open_memstream(&text, &size);

    assert_non_null(f);
    for (unsigned i = 0; i < ENDPOINTS_MANIFESTS_MAX; i++)
        fprintf(f, "[endpoint /n%u]\nUnit = a.service\nUser = thermo\n", i);
    fflush(f);
    assert_int_equal(read_text(text, &specs, &n), 0);
    assert_int_equal(n, ENDPOINTS_MANIFESTS_MAX);
    manifest_done(specs, n);
    fprintf(f, "[endpoint /more]\nUnit = a.service\nUser = thermo\n");
    fclose(f);
    assert_int_equal(read_text(text, &specs, &n), -EBADMSG);
}

static void test_users(void **state)
{
    uint32_t uid = 7;

    assert_int_equal(manifest_system_user("root", &uid), 0);
    assert_int_equal(uid, 0);
    assert_int_equal(manifest_system_user("60700", &uid), 0);
    assert_int_equal(uid, 60700);
    assert_int_equal(manifest_system_user("4294967295", &uid), -EINVAL);
    assert_int_equal(manifest_system_user("12x", &uid), -EINVAL);
    assert_int_equal(manifest_system_user("no-such-user-here", &uid), -ESRCH);
    assert_int_equal(uid, 60700);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_bad),
        cmocka_unit_test(test_limit),
        cmocka_unit_test(test_users),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
