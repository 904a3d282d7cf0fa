/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "accepted.h"
#include "fixture.h"
#include "policy-read.h"

static const char xml[] =
    "<node><interface name=\"org.hybridos.Log1\"><method name=\"Read\"><annotation "
    "name=\"org.hybridos.Permission\" value=\"log.read\"/></method><method name=\"Hidden\"/>"
    "<property name=\"Level\" type=\"u\" access=\"readwrite\"><annotation "
    "name=\"org.hybridos.Permission\" value=\"log.read\"/><annotation "
    "name=\"org.hybridos.Permission.Write\" value=\"log.configure\"/></property>"
    "</interface></node>";

static int set_up(void **state)
{
    Fixture *f = fixture_new();

    fixture_write(f->settings.vendor_interfaces[0], "org.hybridos.Log1.xml", xml);
    fixture_write(f->policy_directories[0], "60-site.policy",
                  "[grant readers]\nTo = uid:1000 user:alice\nPermission = log.read\n"
                  "When = encrypted\nDescription = who may look\n"
                  "[deny nobody-writes]\nTo = anyone\nPermission = log.configure\n"
                  "[ask consent]\nTo = local\nPermission = camera.use\n");
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture_free(*state);
    return 0;
}

static const char *state_directory(const Fixture *f)
{
    return f->settings.state_directory;
}

static AcceptedMark mark;

static void break_policy(const Fixture *f)
{
    fixture_write(f->policy_directories[0], "90-broken.policy", "[grant\n");
}

static void test_the_same_comes_back(void **state)
{
    _cleanup_(policy_unrefp) Policy *policy = NULL;
    _cleanup_(catalogue_freep) Catalogue *catalogue = NULL;
    Fixture *f = *state;
    const Rule *rule;

    assert_int_equal(accepted_load(state_directory(f), &policy, &catalogue, &mark), -ENOENT);
    fixture_open(f);
    assert_int_equal(accepted_load(state_directory(f), &policy, &catalogue, &mark), 0);
    assert_true(policy_equal(policy, f->security->policy));
    assert_true(catalogue_equal(catalogue, f->security->catalogue));
    rule = policy_rule(policy, "nobody-writes");
    assert_true(startswith(rule->file, f->policy_directories[0]));
    assert_int_equal(rule->line, 6);
    assert_int_equal(rule->column, 1);
    assert_string_equal(policy_rule(policy, "readers")->when, "encrypted");
    assert_string_equal(catalogue_find(catalogue, "org.hybridos.Log1", "Level", 's')->permission,
                        "log.configure");
    assert_null(catalogue_find(catalogue, "org.hybridos.Log1", "Hidden", 'm')->permission);
}

static void test_an_empty_policy_is_one_too(void **state)
{
    _cleanup_(policy_unrefp) Policy *policy = NULL, *empty = NULL;
    _cleanup_(catalogue_freep) Catalogue *catalogue = NULL, *none = NULL;
    Fixture *f = *state;

    assert_int_equal(policy_parse("", "", 0, &empty, NULL, NULL), 0);
    assert_int_equal(catalogue_new(&none), 0);
    assert_int_equal(accepted_save(state_directory(f), empty, none, &mark), 0);
    assert_int_equal(accepted_load(state_directory(f), &policy, &catalogue, &mark), 0);
    assert_int_equal(policy_rules(policy, NULL), 0);
}

/* A change of policy is one file to be written, and its number is in it. */
static void test_the_number_of_a_change_outlives_the_agent(void **state)
{
    Fixture *f = *state;
    const Rule *rule;
    uint64_t generation, floor;

    fixture_open(f);
    assert_int_equal(
        security_grant(f->security, &fixture_root, "g", "uid:1000", "log.follow", "", &rule, NULL),
        1);
    generation = security_generation(f->security);
    floor = f->security->store->floor;
    assert_true(generation >= 2 && floor > 0);
    assert_false(fixture_has(state_directory(f), "state.db"));
    fixture_open(f);
    assert_int_equal(security_generation(f->security), generation);
    assert_true(f->security->store->floor >= floor);
    assert_int_equal(security_revoke(f->security, &fixture_root, "g", NULL), 1);
    assert_int_equal(security_generation(f->security), generation + 1);
    assert_false(fixture_has(state_directory(f), "state.db"));
}

/* Of a version that kept the number in the database alone. */
static void test_a_file_without_its_number(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *text = NULL;
    const Rule *rule;
    uint64_t generation;
    size_t size;
    char *last;

    fixture_open(f);
    for (unsigned i = 0; i < 3; i++) {
        char id[8];

        snprintf(id, sizeof id, "g%u", i);
        assert_int_equal(security_grant(f->security, &fixture_root, id, "uid:1000", "log.follow",
                                        "", &rule, NULL),
                         1);
    }
    generation = security_generation(f->security);
    assert_int_equal(store_save(f->security->store), 0);
    assert_int_equal(
        read_checked_file(state_directory(f), "accepted", "policy", ACCEPTED_MAX, &text, &size), 0);
    last = strstr(text, "<!-- generation");
    assert_non_null(last);
    assert_int_equal(
        write_checked_file(state_directory(f), "accepted", "policy", text, (size_t)(last - text)),
        0);
    break_policy(f);
    fixture_open(f);
    assert_false(f->security->fallback);
    assert_int_equal(security_generation(f->security), generation);
    assert_true(fixture_allows(f, fixture_uid(1000), "log.follow"));
    /* One that is no number is damage. */
    strcpy(last, "<!-- generation x -->\n<node/>\n\x1e\n");
    assert_int_equal(
        write_checked_file(state_directory(f), "accepted", "policy", text, strlen(text)), 0);
    fixture_open(f);
    assert_true(f->security->fallback);
}

/* What was in force when the files were good decides at a boot at which they are not. */
static void test_broken_files_at_boot(void **state)
{
    Fixture *f = *state;
    uint64_t generation;

    fixture_open(f);
    generation = security_generation(f->security);
    break_policy(f);
    fixture_open(f);
    assert_false(f->security->fallback);
    assert_non_null(f->security->policy_error);
    assert_non_null(strstr(f->security->policy_error, "90-broken.policy:1:"));
    assert_int_equal(security_generation(f->security), generation);
    assert_true(fixture_allows(f, fixture_uid(1000), "log.read"));
    assert_false(fixture_allows(f, fixture_root, "log.configure"));
    assert_true(fixture_allows(f, fixture_root, "anything.else"));
    assert_non_null(catalogue_find(f->security->catalogue, "org.hybridos.Log1", "Read", 'm'));
    /* Repaired, it goes on as if nothing had been. */
    fixture_remove(f->policy_directories[0], "90-broken.policy");
    assert_true(security_reload(f->security) >= 0);
    assert_null(f->security->policy_error);
}

/* Also when it is the interface files that are broken. */
static void test_broken_interfaces_at_boot(void **state)
{
    Fixture *f = *state;

    fixture_open(f);
    fixture_write(f->settings.vendor_interfaces[0], "org.hybridos.Log1.xml", "<node><interface>");
    fixture_open(f);
    assert_non_null(f->security->policy_error);
    assert_string_equal(
        catalogue_find(f->security->catalogue, "org.hybridos.Log1", "Read", 'm')->permission,
        "log.read");
}

static void test_development_is_named_at_such_a_boot(void **state)
{
    Fixture *f = *state;

    fixture_write(f->policy_directories[0], "90-development.policy",
                  "[grant open]\nTo = anonymous\nPermission = endpoint.read:*\n");
    fixture_open(f);
    assert_string_equal(f->security->notes.development[0], "90-development.policy");
    fixture_write(f->policy_directories[0], "95-broken.policy", "[grant\n");
    fixture_open(f);
    assert_non_null(f->security->policy_error);
    assert_true(fixture_allows(f, security_remote_subject(NULL), "endpoint.read:/x"));
    assert_int_equal(words_count(f->security->notes.development), 1);
    assert_string_equal(f->security->notes.development[0], "90-development.policy");
}

static void expect_last_resort(Fixture *f)
{
    fixture_open(f);
    assert_true(f->security->fallback);
    assert_true(fixture_allows(f, fixture_root, "log.read"));
    assert_false(fixture_allows(f, fixture_uid(1000), "log.read"));
    assert_false(fixture_allows(f, security_remote_subject(NULL), "log.read"));
    /* Root has something to call. */
    assert_string_equal(
        catalogue_find(f->security->catalogue, "org.hybridos.Log1", "Read", 'm')->permission,
        "log.read");
}

static void test_damaged_it_leaves_local_root_only(void **state)
{
    Fixture *f = *state;
    char *data, path[256];
    size_t size;

    fixture_open(f);
    fixture_close(f);
    break_policy(f);
    data = fixture_read(state_directory(f), "accepted", &size);
    snprintf(path, sizeof path, "%s/accepted", state_directory(f));
    /* Every length and every byte would take minutes with a start each: the reader alone first. */
    for (size_t i = 0; i < 2 * size; i++) {
        _cleanup_(policy_unrefp) Policy *policy = NULL;
        _cleanup_(catalogue_freep) Catalogue *catalogue = NULL;
        FILE *file = fopen(path, "we");

        assert_non_null(file);
        if (i >= size)
            data[i - size] ^= 0x20;
        assert_int_equal(fwrite(data, 1, i < size ? i : size, file), i < size ? i : size);
        if (i >= size)
            data[i - size] ^= 0x20;
        fclose(file);
        assert_int_equal(accepted_load(state_directory(f), &policy, &catalogue, &mark), -EBADMSG);
        assert_null(policy);
    }
    expect_last_resort(f);
    /* Repaired files put an end to it. */
    fixture_remove(f->policy_directories[0], "90-broken.policy");
    assert_int_equal(security_reload(f->security), 1);
    assert_false(f->security->fallback);
    assert_true(fixture_allows(f, fixture_uid(1000), "log.read"));
    free(data);
}

static void test_nothing_at_all_leaves_local_root_only(void **state)
{
    Fixture *f = *state;

    break_policy(f);
    expect_last_resort(f);
    assert_false(fixture_has(state_directory(f), "accepted"));
}

/* A right checksum over something that no rule is. */
static void test_nonsense_with_a_right_checksum(void **state)
{
    static const char *const texts[] = {
        "no tab and no end",
        "f\t1\t1\n[grant a]\nTo = uid:0\nPermission = *\n", /* the end of the part is missing */
        "f\t1\t1\n[grant\n\x1e\n\x1e\n",
        "f\t1\t1\n\x1e\n\x1e\n",
        "f\n\x1e\n\x1e\n",
        "f\t1\t1\n[grant a]\nTo = uid:0\nPermission = *\n[grant b]\nTo = uid:1\nPermission = "
        "*\n\x1e\n\x1e\n",
        "f\t1\t1\n[grant a]\nTo = uid:0\nPermission = *\n\x1e\nf\t1\t1\n[grant a]\nTo = "
        "uid:1\nPermission = *\n\x1e\n\x1e\n",
        "\x1e\n<node>\x1e\n",
    };
    Fixture *f = *state;

    for (size_t i = 0; i < ELEMENTS(texts); i++) {
        _cleanup_(policy_unrefp) Policy *policy = NULL;
        _cleanup_(catalogue_freep) Catalogue *catalogue = NULL;
        int r;

        assert_int_equal(write_checked_file(state_directory(f), "accepted", "policy", texts[i],
                                            strlen(texts[i])),
                         0);
        r = accepted_load(state_directory(f), &policy, &catalogue, &mark);
        if (r != -EBADMSG)
            fail_msg("%zu gave %d", i, r);
    }
}

/* A grant and a revoke are remembered as well. */
static void test_it_follows_every_change(void **state)
{
    hybus_config_error e = {0};
    Fixture *f = *state;
    const Rule *rule;

    fixture_open(f);
    assert_int_equal(
        security_grant(f->security, &fixture_root, "extra", "uid:2000", "log.read", "", &rule, &e),
        1);
    break_policy(f);
    fixture_open(f);
    assert_true(fixture_allows(f, fixture_uid(2000), "log.read"));
    assert_int_equal(security_revoke(f->security, &fixture_root, "extra", &e), 1);
    fixture_open(f);
    assert_false(f->security->fallback);
    assert_false(fixture_allows(f, fixture_uid(2000), "log.read"));
    assert_false(fixture_has(f->settings.grant_directory, "70-granted-extra.policy"));
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_the_same_comes_back),
        T(test_an_empty_policy_is_one_too),
        T(test_the_number_of_a_change_outlives_the_agent),
        T(test_a_file_without_its_number),
        T(test_broken_files_at_boot),
        T(test_broken_interfaces_at_boot),
        T(test_development_is_named_at_such_a_boot),
        T(test_damaged_it_leaves_local_root_only),
        T(test_nothing_at_all_leaves_local_root_only),
        T(test_nonsense_with_a_right_checksum),
        T(test_it_follows_every_change),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
