/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "endpoints.h"

/* What the servers and the holders were told, last first. */
static struct {
    char changed[128], displaced[128];
    size_t n_changed, n_displaced, n_freed;
} told;

static void on_changed(const endpoints_entry *e, bool gone, void *userdata)
{
    told.n_changed++;
    snprintf(told.changed, sizeof(told.changed), "%s %s%s", e->spec.ns,
             endpoints_road_name(e->spec.road), gone ? " gone" : "");
}

static void on_displaced(endpoints_entry *e, void *userdata)
{
    told.n_displaced++;
    snprintf(told.displaced, sizeof(told.displaced), "%s %u", e->spec.ns, e->owner_id);
}

static void on_freed(endpoints_entry *e, void *userdata)
{
    told.n_freed++;
}

static const endpoints_ops ops = {
    .changed = on_changed, .displaced = on_displaced, .freed = on_freed};

static int setup(void **state)
{
    endpoints *t;

    memset(&told, 0, sizeof(told));
    if (endpoints_new(&ops, NULL, &t) < 0)
        return -1;
    *state = t;
    return 0;
}

static int teardown(void **state)
{
    endpoints_free(*state);
    return 0;
}

typedef struct ask {
    const char *ns, *key;
    uint32_t uid, id;
    void *owner;
    bool takeover;
} ask;

static endpoints_entry *entered;
static const char *why;

static int put(endpoints *t, ask a)
{
    endpoints_spec s = {.uid = a.uid, .takeover = a.takeover};
    int r;

    assert_int_equal(endpoints_spec_set_namespace(&s, a.ns, strlen(a.ns)), 0);
    if (a.key)
        assert_int_equal(endpoints_spec_set_key(&s, a.key, strlen(a.key)), 0);
    why = NULL;
    r = endpoints_register(t, &s, NULL, a.owner, a.id, &entered, &why);
    endpoints_spec_done(&s);
    assert_true(r >= 0 || why);
    return r;
}

static void manifest(endpoints *t, const char *ns, uint32_t uid, const char *unit)
{
    endpoints_spec s = {.uid = uid, .road = ENDPOINTS_START};

    assert_int_equal(endpoints_spec_set_namespace(&s, ns, strlen(ns)), 0);
    assert_int_equal(endpoints_spec_set_unit(&s, unit, strlen(unit)), 0);
    assert_int_equal(endpoints_set_manifests(t, &s, 1), 0);
}

static char app_a, app_b, app_c;

static void test_namespaces(void **state)
{
    static const char *const good[] = {"/a",   "/thermo", "/a/b/c", "/A9._~-",
                                       "/..a", "/a..",    "/..."};
    static const char *const bad[] = {"",      "/",     "a",         "//a",   "/a/",
                                      "/a//b", "/.",    "/..",       "/a/..", "/a/./b",
                                      "/a b",  "/a%20", "/\xc3\xa4", "/a?b",  "/a\n"};
    char longest[ENDPOINTS_NAMESPACE_MAX + 2] = "/";

    for (size_t i = 0; i < ELEMENTS(good); i++)
        assert_true(endpoints_namespace_valid(good[i], strlen(good[i])));
    for (size_t i = 0; i < ELEMENTS(bad); i++)
        if (endpoints_namespace_valid(bad[i], strlen(bad[i])))
            fail_msg("\"%s\" is accepted", bad[i]);
    assert_false(endpoints_namespace_valid("/a\0b", 4));
    memset(longest + 1, 'x', ENDPOINTS_NAMESPACE_MAX);
    assert_true(endpoints_namespace_valid(longest, ENDPOINTS_NAMESPACE_MAX));
    assert_false(endpoints_namespace_valid(longest, ENDPOINTS_NAMESPACE_MAX + 1));
}

static int rule(const char *text)
{
    endpoints_spec s = {};
    int r = endpoints_spec_add_rule(&s, text, strlen(text));

    endpoints_spec_done(&s);
    return r;
}

static void test_rules(void **state)
{
    static const char *const good[] = {"GET / endpoint.public", "GET,HEAD /public endpoint.public",
                                       "* /a/b log.read", "POST /x endpoint.write:/thermo"};
    static const char *const bad[] = {"",
                                      "GET",
                                      "GET /",
                                      "GET / ",
                                      "get / a.b",
                                      "GET, / a.b",
                                      ",GET / a.b",
                                      "GET,,PUT / a.b",
                                      "GET x a.b",
                                      "GET /x/ a.b",
                                      "GET /.. a.b",
                                      "GET / a",
                                      "GET / a..b",
                                      "GET / .a",
                                      "GET / a.b c",
                                      "GET  / a.b",
                                      "GET / *",
                                      "GET / a.*",
                                      "GET / a.b:thermo",
                                      "GET / A.b",
                                      "GET\t/ a.b"};
    endpoints_spec s = {};
    char large[ENDPOINTS_RULES_SIZE];
    int r = 0;

    for (size_t i = 0; i < ELEMENTS(good); i++)
        if (rule(good[i]) != 0)
            fail_msg("\"%s\" is refused", good[i]);
    for (size_t i = 0; i < ELEMENTS(bad); i++)
        if (rule(bad[i]) != -EINVAL)
            fail_msg("\"%s\" is accepted", bad[i]);
    assert_int_equal(endpoints_spec_add_rule(&s, "GET / a.b\0", 10), -EINVAL);
    for (size_t i = 0; i < ENDPOINTS_RULES_MAX; i++)
        assert_int_equal(endpoints_spec_add_rule(&s, "GET / a.b", 9), 0);
    assert_int_equal(endpoints_spec_add_rule(&s, "GET / a.b", 9), -ENOBUFS);
    endpoints_spec_done(&s);
    snprintf(large, sizeof(large), "GET /%0200d endpoint.write:/%0200d", 1, 1);
    while (r == 0)
        r = endpoints_spec_add_rule(&s, large, strlen(large));
    assert_int_equal(r, -ENOBUFS);
    assert_true(s.rules_size <= ENDPOINTS_RULES_SIZE && s.n_rules < ENDPOINTS_RULES_MAX);
    endpoints_spec_done(&s);
}

static void test_attributes(endpoints_spec *s)
{
    static const char *const good[] = {"rt=heat", "rt=\"a b,c;d\";if=x;ct=50", "obs",
                                       "x-y.z=1;obs"};
    static const char *const bad[] = {"",      "rt=",     "rt=\"x",      "rt=x;",     ";rt=x",
                                      "=x",    "RT=x",    "rt=a b",      "rt=\"\\\"", "rt=a,<b>",
                                      "rt=\n", "href=/x", "title=\"x\"", "anchor=x",  "rt=\"x\"y"};
    char large[ENDPOINTS_ATTRIBUTES_MAX + 2];

    for (size_t i = 0; i < ELEMENTS(good); i++)
        assert_int_equal(endpoints_spec_set_attributes(s, good[i], strlen(good[i])), 0);
    for (size_t i = 0; i < ELEMENTS(bad); i++)
        assert_int_equal(endpoints_spec_set_attributes(s, bad[i], strlen(bad[i])), -EINVAL);
    assert_string_equal(s->attributes, good[ELEMENTS(good) - 1]);
    memset(large, 'x', sizeof(large));
    assert_int_equal(endpoints_spec_set_attributes(s, large, ENDPOINTS_ATTRIBUTES_MAX + 1),
                     -EINVAL);
}

static void test_other_fields(void **state)
{
    endpoints_spec s = {};

    assert_int_equal(endpoints_spec_set_key(&s, "0123456789abcdef", 16), 0);
    assert_int_equal(endpoints_spec_set_key(&s, "0123456789ABCDEF", 16), -EINVAL);
    assert_int_equal(endpoints_spec_set_key(&s, "0123456789abcde", 15), -EINVAL);
    assert_int_equal(endpoints_spec_set_title(&s, "Heat & light", 12), 0);
    assert_int_equal(endpoints_spec_set_title(&s, "a\nb", 3), -EINVAL);
    test_attributes(&s);
    assert_int_equal(endpoints_spec_set_unit(&s, "thermo.service", 14), 0);
    assert_int_equal(endpoints_spec_set_unit(&s, "../x.service", 12), -EINVAL);
    assert_int_equal(endpoints_spec_set_unit(&s, ".service", 8), -EINVAL);
    assert_int_equal(endpoints_spec_set_unit(&s, "-a.service", 10), -EINVAL);
    assert_int_equal(endpoints_spec_set_unit(&s, "a/b.service", 11), -EINVAL);
    assert_int_equal(endpoints_spec_set_unit(&s, "a@b.service", 11), 0);
    assert_int_equal(endpoints_spec_set_unit(&s, "@b.service", 10), -EINVAL);
    assert_int_equal(endpoints_spec_set_unit(&s, "a@.service", 10),
                     -EINVAL); /* nothing that can be started */
    assert_int_equal(endpoints_spec_set_unit(&s, "thermo.socket", 13), -EINVAL);
    assert_int_equal(endpoints_spec_set_object(&s, "/", 1), 0);
    assert_int_equal(endpoints_spec_set_object(&s, "/a/b_1", 6), 0);
    assert_int_equal(endpoints_spec_set_object(&s, "/a/", 3), -EINVAL);
    assert_int_equal(endpoints_spec_set_object(&s, "a", 1), -EINVAL);
    assert_int_equal(endpoints_spec_set_bus_name(&s, ":1.42", 5), 0);
    assert_int_equal(endpoints_spec_set_bus_name(&s, "org.example", 11), -EINVAL);
    endpoints_spec_done(&s);
}

static void test_register_and_leave(void **state)
{
    endpoints *t = *state;
    uint64_t before;

    assert_int_equal(put(t, (ask){"/thermo", .uid = 1, .owner = &app_a, .id = 7}), 0);
    assert_string_equal(told.changed, "/thermo channel");
    assert_int_equal(strlen(entered->spec.key), ENDPOINTS_KEY_SIZE);
    assert_ptr_equal(endpoints_find(t, "/thermo"), entered);
    assert_ptr_equal(endpoints_find_owned(t, &app_a, 7), entered);
    assert_null(endpoints_find_owned(t, &app_b, 7));
    assert_null(endpoints_find_owned(t, &app_a, 8));
    assert_null(endpoints_find(t, "/therm"));
    assert_int_equal(put(t, (ask){"/a", .uid = 1, .owner = &app_a, .id = 8}), 0);
    assert_int_equal(put(t, (ask){"/z", .uid = 2, .owner = &app_b, .id = 8}), 0);
    before = endpoints_revision(t);
    endpoints_remove_owner(t, &app_a);
    assert_null(endpoints_find(t, "/thermo"));
    assert_null(endpoints_find(t, "/a"));
    assert_non_null(endpoints_find(t, "/z"));
    assert_int_equal(endpoints_revision(t), before + 2);
    assert_int_equal(told.n_freed, 2);
}

static void test_conflicts(void **state)
{
    endpoints *t = *state;
    char key[ENDPOINTS_KEY_SIZE + 1];

    assert_int_equal(put(t, (ask){"/thermo", .uid = 1, .owner = &app_a, .id = 1}), 0);
    memcpy(key, entered->spec.key, sizeof(key));
    /* another uid, whatever it says or knows */
    assert_int_equal(put(t, (ask){"/thermo", .uid = 2, .owner = &app_b}), -EEXIST);
    assert_int_equal(put(t, (ask){"/thermo", .uid = 2, .owner = &app_b, .takeover = true}),
                     -EEXIST);
    assert_int_equal(put(t, (ask){"/thermo", .uid = 2, .owner = &app_b, .key = key}), -EEXIST);
    /* the same uid only on purpose */
    assert_int_equal(put(t, (ask){"/thermo", .uid = 1, .owner = &app_a}), -EEXIST);
    assert_int_equal(put(t, (ask){"/thermo", .uid = 1, .owner = &app_b, .key = "0000000000000000"}),
                     -EEXIST);
    assert_int_equal(told.n_displaced, 0);
    assert_int_equal(put(t, (ask){"/thermo", .uid = 1, .owner = &app_b, .id = 9, .takeover = true}),
                     0);
    assert_string_equal(told.displaced, "/thermo 1");
    assert_ptr_equal(endpoints_find(t, "/thermo")->owner, &app_b);
    assert_string_not_equal(endpoints_find(t, "/thermo")->spec.key, key);
    /* with the key it is the same registration, come back */
    memcpy(key, entered->spec.key, sizeof(key));
    assert_int_equal(put(t, (ask){"/thermo", .uid = 1, .owner = &app_c, .key = key}), 0);
    assert_string_equal(told.displaced, "/thermo 9");
    assert_string_equal(entered->spec.key, key);
    /* the one that was taken over takes nothing with it when it leaves */
    endpoints_remove_owner(t, &app_b);
    assert_non_null(endpoints_find(t, "/thermo"));
}

static void test_nesting(void **state)
{
    endpoints *t = *state;

    assert_true(endpoints_nested(t, "/system", 1));
    assert_true(endpoints_nested(t, "/system/x/y", 1));
    assert_true(endpoints_nested(t, "/nodes/x", 0));
    assert_false(endpoints_nested(t, "/systematic", 1));
    assert_false(endpoints_nested(t, "/thermo/x", 2));
    assert_int_equal(put(t, (ask){"/thermo", .uid = 1, .owner = &app_a}), 0);
    assert_true(endpoints_nested(t, "/thermo/x", 2));
    assert_true(endpoints_nested(t, "/thermo/x/y", 2));
    assert_false(endpoints_nested(t, "/thermo/x", 1));
    assert_false(endpoints_nested(t, "/thermometer", 2));
    assert_false(endpoints_nested(t, "/thermo", 2));
    /* being let in between does not lend the rest */
    assert_int_equal(put(t, (ask){"/thermo/x", .uid = 2, .owner = &app_b}), 0);
    assert_true(endpoints_nested(t, "/thermo/x/y", 2));
    manifest(t, "/lamp", 5, "lamp.service");
    assert_true(endpoints_nested(t, "/lamp/on", 2));
    assert_false(endpoints_nested(t, "/lamp/on", 5));
}

static void test_limits(void **state)
{
    endpoints *t = *state;
    char ns[32];
    size_t n = 0;

    for (uint32_t uid = 0; n < ENDPOINTS_MAX; uid++)
        for (size_t i = 0; i < ENDPOINTS_UID_MAX && n < ENDPOINTS_MAX; i++, n++) {
            snprintf(ns, sizeof(ns), "/n%zu", n);
            assert_int_equal(put(t, (ask){ns, .uid = uid, .owner = &app_a}), 0);
            if (i == ENDPOINTS_UID_MAX - 1 && uid == 0)
                assert_int_equal(put(t, (ask){"/more", .uid = uid, .owner = &app_a}), -ENOBUFS);
        }
    assert_int_equal(put(t, (ask){"/more", .uid = 99999, .owner = &app_b}), -ENOBUFS);
    /* a takeover needs no new place */
    assert_int_equal(put(t, (ask){"/n0", .uid = 0, .owner = &app_b, .takeover = true}), 0);
    endpoints_remove_owner(t, &app_b);
    assert_int_equal(put(t, (ask){"/more", .uid = 99999, .owner = &app_b}), 0);
    assert_null(endpoints_registration_at(t, ENDPOINTS_MAX));
}

static int expect(endpoints *t, const char *ns, uint32_t uid, const char *key)
{
    endpoints_spec s = {.uid = uid};
    int r;

    assert_int_equal(endpoints_spec_set_namespace(&s, ns, strlen(ns)), 0);
    assert_int_equal(endpoints_spec_set_key(&s, key, strlen(key)), 0);
    r = endpoints_expect(t, &s);
    endpoints_spec_done(&s);
    return r;
}

static void test_restart(void **state)
{
    endpoints *t = *state;

    assert_int_equal(expect(t, "/a", 1, "aaaaaaaaaaaaaaaa"), 0);
    assert_int_equal(expect(t, "/b", 1, "bbbbbbbbbbbbbbbb"), 0);
    assert_int_equal(expect(t, "/c", 1, "cccccccccccccccc"), 0);
    assert_int_equal(expect(t, "/c", 1, "cccccccccccccccc"), -EEXIST);
    assert_non_null(endpoints_find(t, "/a"));
    assert_int_equal(put(t, (ask){"/a", .uid = 2, .owner = &app_b}), -EEXIST);
    assert_int_equal(put(t, (ask){"/a", .uid = 1, .owner = &app_a, .key = "aaaaaaaaaaaaaaaa"}), 0);
    assert_string_equal(entered->spec.key, "aaaaaaaaaaaaaaaa");
    /* the app itself was started anew: it knows no key, but nobody holds the place */
    assert_int_equal(put(t, (ask){"/b", .uid = 1, .owner = &app_b}), 0);
    assert_string_not_equal(entered->spec.key, "bbbbbbbbbbbbbbbb");
    assert_int_equal(told.n_displaced, 0);
    assert_int_equal(endpoints_expire(t, NULL, NULL), 1);
    assert_string_equal(told.changed, "/c channel gone");
    assert_non_null(endpoints_find(t, "/a"));
    assert_non_null(endpoints_find(t, "/b"));
    assert_int_equal(endpoints_expire(t, NULL, NULL), 0);
}

static void test_manifests(void **state)
{
    endpoints *t = *state;
    endpoints_cursor cursor = {};
    endpoints_spec twice[2] = {{.uid = 5}, {.uid = 5}};
    uint64_t before;

    assert_int_equal(put(t, (ask){"/z", .uid = 1, .owner = &app_a}), 0);
    manifest(t, "/lamp", 5, "lamp.service");
    assert_string_equal(told.changed, "/lamp start");
    assert_int_equal(put(t, (ask){"/lamp", .uid = 6, .owner = &app_b}), -EEXIST);
    assert_int_equal(put(t, (ask){"/lamp", .uid = 5, .owner = &app_b}), 0);
    assert_string_equal(told.changed, "/lamp channel");
    assert_string_equal(endpoints_next(t, &cursor)->spec.ns, "/lamp");
    assert_string_equal(endpoints_next(t, &cursor)->spec.ns, "/z");
    assert_null(endpoints_next(t, &cursor));
    /* read again without change, while the app is there: nothing to tell */
    before = endpoints_revision(t);
    manifest(t, "/lamp", 5, "lamp.service");
    assert_int_equal(endpoints_revision(t), before);
    endpoints_remove_owner(t, &app_b);
    assert_string_equal(told.changed, "/lamp start");
    before = endpoints_revision(t);
    manifest(t, "/lamp", 5, "lamp.service");
    assert_int_equal(endpoints_revision(t), before);
    manifest(t, "/lamp", 5, "other.service");
    assert_int_equal(endpoints_revision(t), before + 1);
    /* two for one place: none is taken, what was stays */
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(endpoints_spec_set_namespace(&twice[i], "/x", 2), 0);
        assert_int_equal(endpoints_spec_set_unit(&twice[i], "x.service", 9), 0);
    }
    assert_int_equal(endpoints_set_manifests(t, twice, 2), -EEXIST);
    for (size_t i = 0; i < 2; i++)
        endpoints_spec_done(&twice[i]);
    assert_non_null(endpoints_find(t, "/lamp"));
    assert_int_equal(endpoints_set_manifests(t, NULL, 0), 0);
    assert_string_equal(told.changed, "/lamp start gone");
    assert_null(endpoints_find(t, "/lamp"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_namespaces), T(test_rules),   T(test_other_fields), T(test_register_and_leave),
        T(test_conflicts),  T(test_nesting), T(test_limits),       T(test_restart),
        T(test_manifests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
