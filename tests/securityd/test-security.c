/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "fixture.h"
#include "named-subject.h"

static int set_up(void **state)
{
    Fixture *f = fixture_new();

    fixture_write(f->policy_directories[0], "60-site.policy",
                  "[grant helper]\nTo = uid:500\n"
                  "Permission = security.grant security.revoke security.tokens log.*\n"
                  "[grant oncall]\nTo = role:oncall\nPermission = reboot.now\n"
                  "[grant alice]\nTo = user:alice\nPermission = log.read\n");
    fixture_open(f);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture_free(*state);
    return 0;
}

static int grant(Fixture *f, Subject caller, const char *id, const char *to, const char *what,
                 const char *when)
{
    hybus_config_error e = {0};
    const Rule *rule = NULL;
    int r = security_grant(f->security, &caller, id, to, what, when, &rule, &e);

    assert_true(r == 1 ? rule != NULL : r < 0);
    hybus_config_error_done(&e);
    return r;
}

static uint64_t slot(Fixture *f, const Subject *subject)
{
    return hybus_page_writer_slot(f->security->page, security_slot(subject));
}

/* --- grant and revoke ------------------------------------------------------------------------ */

static void test_grant_and_revoke(void **state)
{
    Fixture *f = *state;
    const Subject tom = fixture_uid(1000), other = fixture_uid(1001);
    uint64_t generation = security_generation(f->security), stamp = slot(f, &tom);
    uint64_t stamp_of_other = slot(f, &other);
    hybus_config_error e = {0};

    assert_int_equal(grant(f, fixture_root, "tom", "uid:1000", "log.read", ""), 1);
    assert_true(fixture_allows(f, tom, "log.read"));
    assert_int_equal(security_generation(f->security), generation + 1);
    assert_true(slot(f, &tom) > stamp);
    assert_int_equal(slot(f, &other), stamp_of_other);
    assert_true(fixture_has(f->settings.grant_directory, "70-granted-tom.policy"));
    assert_string_equal(fixture_record(f, "changed")->call, "Grant");
    assert_string_equal(fixture_record(f, "changed")->reason, "tom");
    /* It is still there after a restart, and after a reload nothing has changed. */
    fixture_open(f);
    assert_true(fixture_allows(f, tom, "log.read"));
    assert_int_equal(security_reload(f->security), 0);
    stamp = slot(f, &tom);
    assert_int_equal(security_revoke(f->security, &fixture_root, "tom", &e), 1);
    assert_false(fixture_allows(f, tom, "log.read"));
    assert_true(slot(f, &tom) > stamp);
    assert_false(fixture_has(f->settings.grant_directory, "70-granted-tom.policy"));
    assert_string_equal(fixture_record(f, "changed")->call, "Revoke");
    fixture_open(f);
    assert_false(fixture_allows(f, tom, "log.read"));
}

static void test_a_rule_for_many_moves_everybody(void **state)
{
    static const char *const many[] = {"gid:7", "local", "remote", "anyone", "role:x",
                                       "cert:0000000000000000000000000000000000000000000000000000000"
                                       "000000000"};
    const Subject somebody = fixture_uid(77), somebody_else = fixture_uid(78);
    Fixture *f = *state;

    for (size_t i = 0; i < ELEMENTS(many); i++) {
        uint64_t a = slot(f, &somebody), b = slot(f, &somebody_else);

        assert_int_equal(grant(f, fixture_root, "", many[i], "a.x", ""), 1);
        assert_true(slot(f, &somebody) > a);
        assert_true(slot(f, &somebody_else) > b);
    }
}

static void test_ids_are_made(void **state)
{
    Fixture *f = *state;

    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(grant(f, fixture_root, "", "uid:1000", "log.read", ""), 1);
    assert_int_equal(policy_rules(f->security->policy, NULL), 4 + 5);
}

static void test_grants_that_are_refused(void **state)
{
    static const struct {
        const char *id, *to, *what, *when;
        int result;
    } cases[] = {
        {"x", "uid:1000", "reboot.now", "", -EACCES},       /* not held */
        {"x", "uid:1000", "*", "", -EACCES},
        {"x", "uid:1000", "log.read reboot.now", "", -EACCES},
        {"helper", "uid:1000", "log.read", "", -EEXIST},
        {"default", "uid:1000", "log.read", "", -EINVAL},
        {"X y", "uid:1000", "log.read", "", -EINVAL},
        {"../x", "uid:1000", "log.read", "", -EINVAL},
        {"x", "", "log.read", "", -EINVAL},
        {"x", "uid:1000", "", "", -EINVAL},
        {"x", "nobody-like-this", "log.read", "", -EINVAL},
        {"x", "unix:no-such-user-here", "log.read", "", -EINVAL},
        {"x", "uid:1000", "log..read", "", -EINVAL},
        {"x", "uid:1000", "log.read", "whenever", -EINVAL},
        {"x", "uid:1000", "log.read\n[grant y]", "", -EINVAL},
        {"x", "uid:65534", "log.read", "", -EINVAL},
        {"x", "uid:61184", "log.read", "", -EINVAL},
        {"x", "gid:65534", "log.read", "", -EINVAL},
    };
    Fixture *f = *state;
    uint64_t generation = security_generation(f->security);
    size_t n = policy_rules(f->security->policy, NULL);

    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        int r = grant(f, fixture_uid(500), cases[i].id, cases[i].to, cases[i].what, cases[i].when);

        if (r != cases[i].result)
            fail_msg("%zu: %d", i, r);
    }
    /* Nothing of it has left a trace. */
    assert_int_equal(security_generation(f->security), generation);
    assert_int_equal(policy_rules(f->security->policy, NULL), n);
    assert_false(fixture_has(f->settings.grant_directory, "70-granted-x.policy"));
    assert_int_equal(grant(f, fixture_uid(500), "x", "uid:1000", "log.read", "encrypted"), 1);
}

static void test_granted_rules_are_bounded(void **state)
{
    Fixture *f = *state;
    int r = 1;

    for (unsigned i = 0; i <= SECURITY_GRANTED_FILES_MAX && r == 1; i++)
        r = grant(f, fixture_root, "", "uid:1000", "log.read", "");
    assert_int_equal(r, -ENOBUFS);
    assert_int_equal(policy_rules(f->security->policy, NULL), 4 + SECURITY_GRANTED_FILES_MAX);
    /* As many as that can be read again. */
    assert_int_equal(security_reload(f->security), 0);
}

/* Runs with files limited to a few bytes: the disk is full. */
static void with_full_disk(bool full)
{
    const struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY}, little = {20, RLIM_INFINITY};

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, full ? &little : &none), 0);
}

static void test_a_failed_grant_leaves_nothing(void **state)
{
    Fixture *f = *state;
    const Subject tom = fixture_uid(1000);
    uint64_t generation = security_generation(f->security), stamp = slot(f, &tom);

    with_full_disk(true);
    assert_true(grant(f, fixture_root, "tom", "uid:1000", "log.read", "") < 0);
    with_full_disk(false);
    assert_false(fixture_allows(f, tom, "log.read"));
    assert_int_equal(security_generation(f->security), generation);
    assert_int_equal(slot(f, &tom), stamp);
    assert_false(fixture_has(f->settings.grant_directory, "70-granted-tom.policy"));
    assert_false(fixture_has(f->settings.grant_directory, ".70-granted-tom.policy.new"));
    assert_int_equal(security_reload(f->security), 0);
    assert_false(fixture_allows(f, tom, "log.read"));
}

static void test_a_failed_revoke_never_rolls_back(void **state)
{
    Fixture *f = *state;
    const Subject tom = fixture_uid(1000);
    hybus_config_error e = {0};
    char path[128], moved[160];
    uint64_t stamp;

    assert_int_equal(grant(f, fixture_root, "tom", "uid:1000", "log.read", ""), 1);
    /* The file cannot be removed, and what is in force cannot be written. */
    snprintf(path, sizeof path, "%s", f->settings.grant_directory);
    snprintf(moved, sizeof moved, "%s.away", path);
    assert_int_equal(rename(path, moved), 0);
    stamp = slot(f, &tom);
    with_full_disk(true);
    assert_true(security_revoke(f->security, &fixture_root, "tom", &e) < 0);
    with_full_disk(false);
    assert_non_null(strstr(e.message, "revoked, but"));
    assert_false(fixture_allows(f, tom, "log.read"));
    assert_true(slot(f, &tom) > stamp);
    assert_int_equal(rename(moved, path), 0);
    hybus_config_error_done(&e);
}

static void test_what_cannot_be_revoked(void **state)
{
    Fixture *f = *state;
    hybus_config_error e = {0};

    assert_int_equal(security_revoke(f->security, &fixture_root, "no-such-rule", &e), -ENOENT);
    assert_int_equal(security_revoke(f->security, &fixture_root, "", &e), -ENOENT);
    /* Written by hand: the message says where. */
    assert_int_equal(security_revoke(f->security, &fixture_root, "helper", &e), -EOPNOTSUPP);
    assert_non_null(strstr(e.message, "60-site.policy:1"));
    hybus_config_error_done(&e);
    assert_true(fixture_allows(f, fixture_uid(500), "log.read"));
}

static void test_reload_is_all_or_nothing(void **state)
{
    Fixture *f = *state;
    uint64_t generation = security_generation(f->security);

    assert_int_equal(security_reload(f->security), 0);
    fixture_write(f->policy_directories[0], "61-more.policy",
                  "[grant more]\nTo = uid:9\nPermission = a.x\n");
    fixture_write(f->policy_directories[0], "62-bad.policy", "[grant bad]\nTo = uid:9\n");
    assert_int_equal(security_reload(f->security), -EBADMSG);
    assert_non_null(strstr(f->security->policy_error, "62-bad.policy:1:"));
    assert_false(fixture_allows(f, fixture_uid(9), "a.x"));
    assert_int_equal(security_generation(f->security), generation);
    fixture_remove(f->policy_directories[0], "62-bad.policy");
    assert_int_equal(security_reload(f->security), 1);
    assert_null(f->security->policy_error);
    assert_true(fixture_allows(f, fixture_uid(9), "a.x"));
    /* It is in force although it cannot be kept for the next boot. */
    fixture_remove(f->policy_directories[0], "61-more.policy");
    with_full_disk(true);
    assert_int_equal(security_reload(f->security), 1);
    with_full_disk(false);
    assert_false(fixture_allows(f, fixture_uid(9), "a.x"));
}

static void test_files_that_others_may_write_reject_all(void **state)
{
    Fixture *f = *state;
    char path[256];

    snprintf(path, sizeof path, "%s/60-site.policy", f->policy_directories[0]);
    assert_int_equal(chmod(path, 0620), 0);
    assert_int_equal(security_reload(f->security), -EBADMSG);
    assert_int_equal(chmod(path, 0600), 0);
    assert_int_equal(security_reload(f->security), 0);
    assert_int_equal(chmod(f->policy_directories[0], 0770), 0);
    assert_int_equal(security_reload(f->security), -EBADMSG);
    assert_int_equal(chmod(f->policy_directories[0], 0700), 0);
    if (geteuid() == 0) {
        assert_int_equal(chown(path, 1, 1), 0);
        assert_int_equal(security_reload(f->security), -EBADMSG);
        assert_int_equal(chown(path, 0, 0), 0);
    }
    assert_int_equal(security_reload(f->security), 0);
}

static void expect_files_record(Fixture *f, const char *words)
{
    const AuditRecord *r = NULL;
    uint64_t number = UINT64_MAX;

    while ((r = audit_older(f->security->audit, number))) {
        number = r->number;
        if (streq(r->call, "policy files") && strstr(r->reason, words)) {
            assert_string_equal(r->verdict, "changed");
            return;
        }
    }
    fail_msg("no record says %s", words);
}

static void test_a_masked_vendor_file_is_recorded(void **state)
{
    Fixture *f = *state;

    fixture_write(f->policy_directories[0], "50-vendor.policy", "");
    assert_int_equal(security_reload(f->security), 1);
    assert_false(fixture_allows(f, fixture_root, "log.read"));
    expect_files_record(f, "50-vendor.policy is not in force");
}

/* Whether its file went, or only the rule; also while the agent was not there. A rule that moved from one file of
 * the vendor to another is still there. */
static void test_a_removed_vendor_rule_is_recorded(void **state)
{
    static const char root[] = "[grant root-all]\nTo = uid:0\nPermission = *\n",
                      secret[] = "[deny nobody-reads]\nTo = anyone\nPermission = log.read\n";
    Fixture *f = *state;
    const char *vendor = f->policy_directories[2];

    fixture_write(vendor, "40-deny.policy", secret);
    assert_int_equal(security_reload(f->security), 1);
    fixture_remove(vendor, "40-deny.policy");
    fixture_write(vendor, "60-moved.policy", secret);
    assert_int_equal(security_reload(f->security), 0);
    assert_null(fixture_record(f, "changed"));
    fixture_remove(vendor, "60-moved.policy");
    assert_int_equal(security_reload(f->security), 1);
    expect_files_record(f, "rule nobody-reads of ");
    fixture_write(vendor, "40-deny.policy", secret);
    fixture_open(f);
    assert_null(fixture_record(f, "changed"));
    fixture_close(f);
    fixture_write(vendor, "40-deny.policy", "# nothing\n");
    fixture_open(f);
    expect_files_record(f, "40-deny.policy:1 is gone");
    /* What an administrator takes away is not the vendor's. */
    fixture_write(f->policy_directories[0], "45-own.policy", "[grant own]\nTo = uid:7\nPermission = log.read\n");
    fixture_write(vendor, "50-vendor.policy", root);
    fixture_open(f);
    fixture_remove(f->policy_directories[0], "45-own.policy");
    assert_int_equal(security_reload(f->security), 1);
    assert_null(fixture_record(f, "changed"));
}

/* However many. */
static void test_removed_vendor_rules_do_not_fill_the_audit(void **state)
{
    Fixture *f = *state;
    const AuditRecord *r = NULL;
    _cleanup_(freep) char *text = NULL;
    uint64_t number = UINT64_MAX;
    size_t size, n = 0;
    FILE *file = open_memstream(&text, &size);

    for (unsigned i = 0; i < 300; i++)
        fprintf(file, "[grant many-%u]\nTo = uid:7\nPermission = log.read\n", i);
    assert_int_equal(fclose(file), 0);
    fixture_write(f->policy_directories[2], "40-many.policy", text);
    assert_int_equal(security_reload(f->security), 1);
    fixture_remove(f->policy_directories[2], "40-many.policy");
    assert_int_equal(security_reload(f->security), 1);
    while ((r = audit_older(f->security->audit, number))) {
        n += streq(r->call, "policy files");
        number = r->number;
    }
    assert_int_equal(n, 65);
    expect_files_record(f, "and more");
}

/* --- setup ----------------------------------------------------------------------------------- */

static int setup(Fixture *f, Subject caller, const char *code, const char *user, char **ret_secret,
                 uint64_t *ret_wait)
{
    hybus_config_error e = {0};
    int r;

    *ret_secret = NULL;
    *ret_wait = 0;
    r = security_setup(f->security, &caller, code, user, ret_secret, ret_wait, &e);
    if (r == -EACCES || r == -EINVAL)
        assert_non_null(e.message);
    hybus_config_error_done(&e);
    assert_true((r == 1) == (*ret_secret != NULL));
    return r;
}

static Principal *connect_with(Fixture *f, const char *secret)
{
    const Connect c = {.protocol = "http", .peer = "192.0.2.1:1", .tls = "TLSv1.3", .bearer = secret};
    Principal *p = NULL;
    uint64_t wait = 0;

    return security_connect(f->security, &c, &p, &wait) == 0 ? p : NULL;
}

static char *shown_code(Fixture *f)
{
    return fixture_read(f->settings.runtime_directory, "setup-code", NULL);
}

static void test_setup_by_code(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *code = shown_code(f), *issue = NULL, *secret = NULL, *again = NULL;
    _cleanup_(principal_freep) Principal *p = NULL;
    Subject subject;
    uint64_t wait;

    assert_int_equal(strlen(code), SECURITY_CODE_SIZE);
    issue = fixture_read(f->settings.runtime_directory, "setup.issue", NULL);
    assert_non_null(strstr(issue, code));
    assert_non_null(strstr(issue, "    h-policy setup --code\n"));
    assert_int_equal(setup(f, fixture_uid(1000), NULL, "admin", &secret, &wait), -EACCES);
    assert_int_equal(setup(f, fixture_uid(1000), "", "admin", &secret, &wait), -EACCES);
    assert_int_equal(setup(f, fixture_uid(1000), "wrong", "admin", &secret, &wait), -EACCES);
    assert_false(f->security->store->claimed);
    assert_int_equal(setup(f, fixture_uid(1000), code, "No Name", &secret, &wait), -EINVAL);
    assert_false(f->security->store->claimed);
    assert_int_equal(setup(f, fixture_uid(1000), code, "admin", &secret, &wait), 1);
    assert_true(f->security->store->claimed);
    p = connect_with(f, secret);
    assert_non_null(p);
    assert_string_equal(p->name, "user:admin");
    subject = security_remote_subject(p);
    assert_true(fixture_allows(f, subject, "anything.at-all"));
    subject.encrypted = NO;
    assert_false(fixture_allows(f, subject, "anything.at-all"));
    /* Once. */
    assert_false(fixture_has(f->settings.runtime_directory, "setup-code"));
    assert_false(fixture_has(f->settings.runtime_directory, "setup.issue"));
    assert_int_equal(setup(f, fixture_uid(1000), code, "eve", &again, &wait), -EACCES);
    assert_null(store_user(f->security->store, "eve"));
    /* And for good. */
    fixture_open(f);
    assert_true(f->security->store->claimed);
    assert_false(fixture_has(f->settings.runtime_directory, "setup-code"));
    assert_int_equal(setup(f, fixture_uid(1000), code, "eve", &again, &wait), -EACCES);
}

static void test_a_restart_shows_another_code(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *first = shown_code(f), *second = NULL, *secret = NULL;
    uint64_t wait;

    fixture_open(f);
    second = shown_code(f);
    assert_string_not_equal(first, second);
    assert_int_equal(setup(f, fixture_uid(1000), first, "admin", &secret, &wait), -EACCES);
    assert_int_equal(setup(f, fixture_uid(1000), second, "admin", &secret, &wait), 1);
}

static void test_guessing_the_code(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *code = shown_code(f), *secret = NULL;
    unsigned tried = 0;
    uint64_t wait;
    int r;

    while ((r = setup(f, fixture_uid(666), "wrong", "admin", &secret, &wait)) == -EACCES)
        tried++;
    assert_int_equal(r, -EAGAIN);
    assert_int_equal(tried, 5);
    assert_true(wait > 0 && wait <= 60 * UINT64_C(1000000));
    assert_int_equal(f->security->statistics.throttled, 1);
    /* Even the right one is not looked at then, or it could be guessed all the same. */
    assert_int_equal(setup(f, fixture_uid(666), code, "admin", &secret, &wait), -EAGAIN);
    assert_string_equal(fixture_record(f, "changed")->reason, "throttled");
    /* Whoever did not guess is not locked out. */
    assert_int_equal(setup(f, fixture_uid(1000), code, "admin", &secret, &wait), 1);
}

static void test_the_code_on_the_label(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *secret = NULL;
    char path[128];
    uint64_t wait;

    snprintf(path, sizeof path, "%s/label", f->directory);
    f->settings.label_code_file = path;
    fixture_write(f->directory, "label", "short\n");
    assert_int_equal(setup(f, fixture_uid(1000), "short", "admin", &secret, &wait), -EACCES);
    fixture_write(f->directory, "label", "long-enough and what comes behind\n");
    assert_int_equal(chmod(path, 0666), 0);
    assert_int_equal(setup(f, fixture_uid(1000), "long-enough", "admin", &secret, &wait), -EACCES);
    assert_int_equal(chmod(path, 0400), 0);
    assert_int_equal(setup(f, fixture_uid(1001), "long-enough", "admin", &secret, &wait), 1);
    f->settings.label_code_file = (char *)"";
}

static void test_setup_by_root(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *first = NULL, *second = NULL, *third = NULL;
    uint64_t wait;

    assert_int_equal(setup(f, fixture_root, NULL, "admin", &first, &wait), 1);
    /* On a claimed device root may because it holds what it hands on: no more, no less. */
    assert_int_equal(setup(f, fixture_root, NULL, "admin", &second, &wait), 1);
    assert_string_not_equal(first, second);
    assert_int_equal(f->security->store->n_users, 1);
    assert_int_equal(f->security->store->n_tokens, 2);
    assert_int_equal(setup(f, fixture_uid(500), NULL, "eve", &third, &wait), -EACCES);
    fixture_write(f->policy_directories[0], "50-vendor.policy",
                  "[grant root-little]\nTo = uid:0\nPermission = security.*\n");
    assert_int_equal(security_reload(f->security), 1);
    assert_int_equal(setup(f, fixture_root, NULL, "eve", &third, &wait), -EACCES);
    assert_null(store_user(f->security->store, "eve"));
}

/* Nobody becomes administrator by a rule of the right name, nor without one. */
static void test_the_rule_of_an_administrator(void **state)
{
    static const char longest[] = "a123456789012345678901234567890123456789012345678901234567890123";
    Fixture *f = *state;
    _cleanup_(freep) char *bob = NULL, *other = NULL;
    _cleanup_(principal_freep) Principal *p = NULL, *q = NULL;
    uint64_t wait;

    assert_int_equal(grant(f, fixture_root, "administrator-bob", "user:eve", "a.x", ""), 1);
    assert_int_equal(setup(f, fixture_root, NULL, "bob", &bob, &wait), 1);
    p = connect_with(f, bob);
    assert_true(fixture_allows(f, security_remote_subject(p), "b.x"));
    assert_int_equal(setup(f, fixture_root, NULL, longest, &other, &wait), 1);
    q = connect_with(f, other);
    assert_true(fixture_allows(f, security_remote_subject(q), "b.x"));
}

static void test_a_setup_that_fails_changes_nothing(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *code = shown_code(f), *secret = NULL;
    char kept[128], moved[160];
    uint64_t wait;

    /* The rule can be written, the state cannot. */
    snprintf(kept, sizeof kept, "%s", f->settings.state_directory);
    snprintf(moved, sizeof moved, "%s.away", kept);
    assert_int_equal(rename(kept, moved), 0);
    assert_true(setup(f, fixture_root, NULL, "admin", &secret, &wait) < 0);
    assert_int_equal(rename(moved, kept), 0);
    assert_false(f->security->store->claimed);
    assert_null(store_user(f->security->store, "admin"));
    assert_int_equal(f->security->store->n_tokens, 0);
    assert_null(policy_rule(f->security->policy, "administrator-admin"));
    assert_false(fixture_has(f->settings.grant_directory, "70-granted-administrator-admin.policy"));
    assert_true(fixture_has(f->settings.runtime_directory, "setup-code"));
    /* Nor can the rule. */
    with_full_disk(true);
    assert_true(setup(f, fixture_root, NULL, "admin", &secret, &wait) < 0);
    with_full_disk(false);
    assert_false(f->security->store->claimed);
    assert_int_equal(setup(f, fixture_uid(1000), code, "admin", &secret, &wait), 1);
}

static void test_no_setup_without_a_policy(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *secret = NULL;
    uint64_t wait;

    fixture_write(f->policy_directories[0], "99-broken.policy", "[");
    fixture_remove(f->settings.state_directory, "accepted");
    fixture_open(f);
    assert_true(f->security->fallback);
    assert_int_equal(setup(f, fixture_root, NULL, "admin", &secret, &wait), -EACCES);
}

/* --- users and tokens ------------------------------------------------------------------------ */

static int add_token(Fixture *f, Subject caller, const char *name, const char *as, char *role,
                     uint64_t lifetime, char **ret_secret)
{
    char *roles[] = {role, NULL};
    hybus_config_error e = {0};
    int r;

    *ret_secret = NULL;
    r = security_add_token(f->security, &caller, name, as, roles, lifetime, ret_secret, &e);
    hybus_config_error_done(&e);
    assert_true((r == 0) == (*ret_secret != NULL));
    return r;
}

static void test_nobody_makes_a_token_for_more_than_they_hold(void **state)
{
    Fixture *f = *state;
    const Subject helper = fixture_uid(500);
    char *secret;

    assert_int_equal(security_add_user(f->security, &fixture_root, "alice"), 0);
    assert_int_equal(security_add_user(f->security, &fixture_root, "boss"), 0);
    assert_int_equal(grant(f, fixture_root, "boss", "user:boss", "reboot.now", ""), 1);
    assert_int_equal(grant(f, fixture_root, "dormant", "token:dormant", "reboot.now", ""), 1);
    assert_int_equal(add_token(f, helper, "a", "user:alice", NULL, 0, &secret), 0);
    free(secret);
    assert_int_equal(add_token(f, helper, "b", "user:boss", NULL, 0, &secret), -EACCES);
    assert_int_equal(add_token(f, helper, "c", NULL, (char *)"oncall", 0, &secret), -EACCES);
    assert_int_equal(add_token(f, helper, "dormant", NULL, NULL, 0, &secret), -EACCES);
    assert_int_equal(add_token(f, helper, "d", "user:nobody", NULL, 0, &secret), -ENOENT);
    assert_int_equal(add_token(f, helper, "d", "unix:root", NULL, 0, &secret), -ENOENT);
    assert_int_equal(add_token(f, helper, "d", NULL, (char *)"A b", 0, &secret), -EINVAL);
    assert_int_equal(add_token(f, helper, "../d", NULL, NULL, 0, &secret), -EINVAL);
    assert_int_equal(add_token(f, helper, "a", NULL, NULL, 0, &secret), -EEXIST);
    /* What every remote client has would be new to somebody local. */
    assert_int_equal(grant(f, fixture_root, "all-remote", "remote", "door.open", ""), 1);
    assert_int_equal(add_token(f, helper, "e", NULL, NULL, 0, &secret), -EACCES);
    assert_int_equal(add_token(f, fixture_root, "e", NULL, NULL, 0, &secret), 0);
    free(secret);
    assert_int_equal(f->security->store->n_tokens, 2);
}

static void test_a_removed_token_opens_nothing(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *p = NULL;
    char *first, *second;
    Subject subject;
    uint64_t stamp;

    assert_int_equal(add_token(f, fixture_root, "ci", NULL, NULL, 0, &first), 0);
    assert_int_equal(grant(f, fixture_root, "", "token:ci", "log.read", ""), 1);
    p = connect_with(f, first);
    subject = security_remote_subject(p);
    assert_true(fixture_allows(f, subject, "log.read"));
    assert_false(security_principal_is_void(f->security, p));
    stamp = slot(f, &subject);
    assert_int_equal(security_remove_token(f->security, &fixture_root, "ci"), 1);
    assert_true(security_principal_is_void(f->security, p));
    assert_true(slot(f, &subject) > stamp);
    assert_null(connect_with(f, first));
    assert_int_equal(security_remove_token(f->security, &fixture_root, "ci"), -ENOENT);
    /* Another token of the same name does not bring back what the first had opened. */
    assert_int_equal(add_token(f, fixture_root, "ci", NULL, NULL, 0, &second), 0);
    assert_true(security_principal_is_void(f->security, p));
    assert_null(connect_with(f, first));
    free(first);
    free(second);
}

static void test_a_removed_user_takes_its_tokens_along(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *p = NULL;
    char *a, *b, *other;

    assert_int_equal(security_add_user(f->security, &fixture_root, "alice"), 0);
    assert_int_equal(security_add_user(f->security, &fixture_root, "alice"), -EEXIST);
    assert_int_equal(add_token(f, fixture_root, "a", "user:alice", NULL, 0, &a), 0);
    assert_int_equal(add_token(f, fixture_root, "other", NULL, NULL, 0, &other), 0);
    assert_int_equal(add_token(f, fixture_root, "b", "user:alice", NULL, 0, &b), 0);
    p = connect_with(f, a);
    assert_int_equal(security_remove_user(f->security, &fixture_root, "alice"), 1);
    assert_true(security_principal_is_void(f->security, p));
    assert_int_equal(f->security->store->n_tokens, 1);
    assert_null(connect_with(f, b));
    assert_int_equal(security_remove_user(f->security, &fixture_root, "alice"), -ENOENT);
    free(a);
    free(b);
    free(other);
}

static void test_what_could_not_be_written_is_not_made_but_is_removed(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *p = NULL;
    char *secret, *none;

    assert_int_equal(add_token(f, fixture_root, "ci", NULL, NULL, 0, &secret), 0);
    p = connect_with(f, secret);
    with_full_disk(true);
    assert_int_equal(security_add_user(f->security, &fixture_root, "alice"), -EFBIG);
    assert_int_equal(add_token(f, fixture_root, "new", NULL, NULL, 0, &none), -EFBIG);
    assert_int_equal(security_remove_token(f->security, &fixture_root, "ci"), -EFBIG);
    with_full_disk(false);
    assert_null(store_user(f->security->store, "alice"));
    assert_null(store_token(f->security->store, "new"));
    assert_true(security_principal_is_void(f->security, p));
    free(secret);
}

static void test_tokens_expire(void **state)
{
    Fixture *f = *state;
    _cleanup_(principal_freep) Principal *p = NULL;
    uint64_t now = store_now(f->security->store), expires, stamp;
    NamedSubject named;
    Subject subject;
    char *secret;

    assert_int_equal(security_next_expiry(f->security), UINT64_MAX);
    assert_int_equal(add_token(f, fixture_root, "ci", NULL, NULL, UINT64_C(3600000000), &secret), 0);
    expires = store_token(f->security->store, "ci")->expires;
    assert_int_equal(security_next_expiry(f->security), expires);
    p = connect_with(f, secret);
    subject = security_remote_subject(p);
    assert_false(security_expire(f->security, now));
    assert_false(security_principal_is_void(f->security, p));
    /* An hour passes. */
    stamp = slot(f, &subject);
    f->security->store->floor = expires;
    assert_true(security_principal_is_void(f->security, p));
    assert_null(connect_with(f, secret));
    assert_int_equal(security_next_expiry(f->security), UINT64_MAX);
    assert_true(security_expire(f->security, now));
    assert_true(slot(f, &subject) > stamp);
    assert_false(security_expire(f->security, expires));
    assert_int_equal(named_subject_parse(f->security, "token:ci", &named), 0);
    assert_true(named.subject.ended);
    named_subject_done(&named);
    /* Nor does it come back with a clock that starts anew: the time was written down. */
    fixture_open(f);
    assert_true(f->security->store->floor >= expires);
    assert_null(connect_with(f, secret));
    free(secret);
}

/* --- connect requests ------------------------------------------------------------------------ */

static int try_connect(Fixture *f, const char *protocol, const char *peer, const char *bearer,
                       uint64_t *ret_wait)
{
    const Connect c = {.protocol = protocol, .peer = peer, .tls = NULL, .bearer = bearer};
    Principal *p = NULL;
    int r;

    *ret_wait = 0;
    r = security_connect(f->security, &c, &p, ret_wait);
    principal_free(p);
    return r;
}

static void test_connecting(void **state)
{
    Fixture *f = *state;
    uint64_t wait;

    assert_int_equal(try_connect(f, "http", "192.0.2.1:1", NULL, &wait), 0);
    assert_int_equal(try_connect(f, "http", NULL, NULL, &wait), 0);
    assert_int_equal(try_connect(f, NULL, "192.0.2.1:1", NULL, &wait), -EINVAL);
    assert_int_equal(try_connect(f, "HTTP/2", "192.0.2.1:1", NULL, &wait), -EINVAL);
    assert_int_equal(try_connect(f, "http", "192.0.2.1:1", "", &wait), -EKEYREJECTED);
    assert_int_equal(try_connect(f, "http", "192.0.2.1:1", "hyb_x", &wait), -EKEYREJECTED);
    /* Only a deny keeps somebody from connecting at all. */
    fixture_write(f->policy_directories[0], "80-deny.policy",
                  "[deny no-coap]\nTo = anonymous\nPermission = connect.coap\n"
                  "[deny no-plain]\nTo = anyone\nPermission = connect.mqtt\nWhen = protocol=mqtt\n");
    assert_int_equal(security_reload(f->security), 1);
    assert_int_equal(try_connect(f, "http", "192.0.2.1:1", NULL, &wait), 0);
    assert_int_equal(try_connect(f, "coap", "192.0.2.1:1", NULL, &wait), -EACCES);
    assert_int_equal(try_connect(f, "mqtt", "192.0.2.1:1", NULL, &wait), -EACCES);
}

static void test_guessing_tokens(void **state)
{
    Fixture *f = *state;
    unsigned wrong = 0;
    uint64_t wait;
    char *secret;
    int r;

    assert_int_equal(add_token(f, fixture_root, "ci", NULL, NULL, 0, &secret), 0);
    while ((r = try_connect(f, "http", "192.0.2.1:1", "hyb_guess", &wait)) == -EKEYREJECTED)
        wrong++;
    assert_int_equal(r, -EAGAIN);
    assert_in_range(wrong, 10, 11); /* a slow machine earns one more meanwhile */
    assert_true(wait > 0 && wait <= 6000000);
    assert_int_equal(f->security->statistics.throttled, 1);
    /* The owner behind the same address gets through all the time, and so does everybody else. */
    assert_int_equal(try_connect(f, "http", "192.0.2.1:2", secret, &wait), 0);
    assert_int_equal(try_connect(f, "http", "192.0.2.1:2", NULL, &wait), 0);
    assert_int_equal(try_connect(f, "http", "192.0.2.2:1", "hyb_guess", &wait), -EKEYREJECTED);
    free(secret);
}

/* --- judging --------------------------------------------------------------------------------- */

static void test_every_refusal_says_why(void **state)
{
    const Question q = {.permission = "log.read",
                        .interface = "org.hybridos.Log1",
                        .member = "Read\n\x1b[2J",
                        .path = "/org/hybridos/Log1",
                        .service = "logd",
                        .kind = 'm'};
    Fixture *f = *state;
    const Subject tom = fixture_uid(1000);
    const AuditRecord *r;
    Verdict v;

    assert_int_equal(security_refuse(f->security, &tom, &q, &v, &r), 0);
    assert_false(v.allowed);
    assert_ptr_equal(audit_find(f->security->audit, r->id), r);
    assert_string_equal(r->subject, "uid:1000");
    assert_string_equal(r->permission, "log.read");
    assert_string_equal(r->call, "logd: org.hybridos.Log1.Read\\x0a\\x1b[2J (method) on "
                                 "/org/hybridos/Log1");
    assert_string_equal(r->rule, "default");
    assert_string_equal(r->suggestion, "h-policy grant uid:1000 log.read");
    assert_int_equal(r->generation, security_generation(f->security));
    assert_int_equal(f->security->statistics.denied, 1);
    /* What is allowed leaves no refusal. */
    assert_int_equal(security_refuse(f->security, &fixture_root, &q, &v, &r), 0);
    assert_true(v.allowed);
    assert_null(r);
}

static void test_reasons(void **state)
{
    Fixture *f = *state;
    const Question q = {.permission = "log.read", .kind = 'm'};
    const Question bare = {.interface = "org.hybridos.Log1", .member = "Hidden", .kind = 'm'};
    const Question without = {.member = "Read", .kind = 'm'};
    const uint32_t gids[POLICY_GROUPS_MAX + 1] = {0};
    const struct {
        Subject subject;
        const Question *q;
        const char *reason, *suggestion;
    } cases[] = {
        {{.uid = 65534}, &q, "overflow and dynamic uids", "a user of its own"},
        {{.uid = 0, .gids = gids, .n_gids = ELEMENTS(gids)}, &q, "more groups", ""},
        {{.unknown = true, .bus_name = ":1.5"}, &q, "identity cannot be established", ""},
        {{.unknown = true, .bus_name = ":1.5"}, &bare, "identity cannot be established", ""},
        {{.remote = true, .name = "token:ci", .ended = true}, &q, "removed or have expired",
         "token add"},
        {{.uid = 0}, &bare, "no permission: nobody", ""},
        {{.uid = 0}, &without, "names no interface", ""},
    };

    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        const AuditRecord *r;
        Verdict v;

        assert_int_equal(security_refuse(f->security, &cases[i].subject, cases[i].q, &v, &r), 0);
        if (v.allowed || !strstr(r->reason, cases[i].reason) ||
            !strstr(r->suggestion, cases[i].suggestion))
            fail_msg("%zu: %s (%s)", i, r ? r->reason : "allowed", r ? r->suggestion : "");
    }
    assert_string_equal(audit_older(f->security->audit, 5)->subject, "bus::1.5");
}

static void test_the_first_use_is_recorded_and_the_rest_counted(void **state)
{
    Fixture *f = *state;
    const AuditRecord *r;

    security_used(f->security, &fixture_root, "log.read", "logd", 1);
    r = fixture_record(f, "allowed");
    assert_string_equal(r->subject, "uid:0");
    assert_string_equal(r->permission, "log.read");
    assert_string_equal(r->call, "logd");
    assert_string_equal(r->rule, "root-all");
    assert_non_null(strstr(r->file, "50-vendor.policy"));
    assert_int_equal(r->count, 1);
    security_used(f->security, &fixture_root, "log.read", "logd", 99);
    assert_ptr_equal(fixture_record(f, "allowed"), r);
    assert_int_equal(r->count, 100);
    assert_int_equal(f->security->statistics.used, 100);
    /* Another service, another subject, another permission: each has a first time. */
    security_used(f->security, &fixture_root, "log.read", "httpd", 1);
    assert_ptr_not_equal(fixture_record(f, "allowed"), r);
    /* What was allowed when it was used may have been revoked since. */
    security_used(f->security, &(Subject){.uid = 1234}, "log.read", "logd", 5);
    assert_string_equal(fixture_record(f, "allowed")->reason, "granted then, and no longer");
    assert_string_equal(fixture_record(f, "allowed")->rule, "");
}

static void test_what_was_turned_away_is_counted(void **state)
{
    const Question q = {.interface = "org.hybridos.Log1", .member = "Read", .service = "logd",
                        .kind = 'm'};
    const Question unsaid = {.service = "logd"};
    Fixture *f = *state;

    security_turned_away(f->security, &fixture_root, &q, "too many", NULL, 1);
    for (unsigned i = 0; i < 1000; i++)
        security_turned_away(f->security, &fixture_root, &unsaid, "too many", NULL, 10);
    assert_int_equal(fixture_record(f, "limited")->count, 10000);
    assert_string_equal(fixture_record(f, "limited")->call, "logd");
    assert_int_equal(f->security->statistics.limited, 10001);
}

/* --- a damaged state ------------------------------------------------------------------------- */

static void test_a_damaged_state_does_not_open_the_device(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *secret = NULL, *again = NULL;
    _cleanup_(principal_freep) Principal *p = NULL;
    uint64_t wait;

    assert_int_equal(setup(f, fixture_root, NULL, "admin", &secret, &wait), 1);
    fixture_write(f->settings.state_directory, "state.db", "{\"claimed\": false}");
    fixture_open(f);
    assert_true(f->security->store->claimed);
    assert_false(fixture_has(f->settings.runtime_directory, "setup-code"));
    assert_null(connect_with(f, secret));
    assert_string_equal(fixture_record(f, "changed")->call, "state");
    assert_int_equal(setup(f, fixture_uid(1000), "", "eve", &again, &wait), -EACCES);
    assert_int_equal(setup(f, fixture_root, NULL, "admin", &again, &wait), 1);
    p = connect_with(f, again);
    assert_non_null(p);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_grant_and_revoke),
        T(test_a_rule_for_many_moves_everybody),
        T(test_ids_are_made),
        T(test_grants_that_are_refused),
        T(test_granted_rules_are_bounded),
        T(test_a_failed_grant_leaves_nothing),
        T(test_a_failed_revoke_never_rolls_back),
        T(test_what_cannot_be_revoked),
        T(test_reload_is_all_or_nothing),
        T(test_files_that_others_may_write_reject_all),
        T(test_a_masked_vendor_file_is_recorded),
        T(test_a_removed_vendor_rule_is_recorded),
        T(test_removed_vendor_rules_do_not_fill_the_audit),
        T(test_setup_by_code),
        T(test_a_restart_shows_another_code),
        T(test_guessing_the_code),
        T(test_the_code_on_the_label),
        T(test_setup_by_root),
        T(test_the_rule_of_an_administrator),
        T(test_a_setup_that_fails_changes_nothing),
        T(test_no_setup_without_a_policy),
        T(test_nobody_makes_a_token_for_more_than_they_hold),
        T(test_a_removed_token_opens_nothing),
        T(test_a_removed_user_takes_its_tokens_along),
        T(test_what_could_not_be_written_is_not_made_but_is_removed),
        T(test_tokens_expire),
        T(test_connecting),
        T(test_guessing_tokens),
        T(test_every_refusal_says_why),
        T(test_reasons),
        T(test_the_first_use_is_recorded_and_the_rest_counted),
        T(test_what_was_turned_away_is_counted),
        T(test_a_damaged_state_does_not_open_the_device),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
