/* SPDX-License-Identifier: Apache-2.0 */
#include <hybus/log.h>
#include <openssl/crypto.h>
#include <sys/random.h>

#include "security-internal.h"

#define CODE_FILE "setup-code"
#define ISSUE_FILE "setup.issue"

/* 60 bits without letters that look alike; shown on the console until somebody has claimed the
 * device. Throttled, it outlives anybody's patience. */
static int make_code(char code[SECURITY_CODE_SIZE + 1])
{
    static const char digits[] = "0123456789abcdefghjkmnpqrstvwxyz";
    uint8_t random[SECURITY_CODE_SIZE];

    if (getrandom(random, sizeof random, 0) != sizeof random)
        return -EIO;
    for (size_t i = 0; i < SECURITY_CODE_SIZE; i++)
        code[i] = digits[random[i] % 32];
    code[SECURITY_CODE_SIZE] = '\0';
    return 0;
}

int security_offer_code(Security *s)
{
    const char *runtime = s->settings->runtime_directory;
    char issue[256];
    int n, r;

    if (s->store->claimed)
        return 0;
    r = make_code(s->setup_code);
    if (r < 0)
        return r;
    r = write_file_atomically(runtime, CODE_FILE, s->setup_code, strlen(s->setup_code), 0600);
    if (r >= 0) {
        n = snprintf(issue, sizeof issue,
                     "\nThis HybridOS device has no administrator yet. To become one, run\n"
                     "    h-policy setup --code\n"
                     "and enter %s\n\n",
                     s->setup_code);
        r = write_file_atomically(runtime, ISSUE_FILE, issue, (size_t)n, 0600);
    }
    if (r < 0) {
        hybus_log_errno(LOG_WARNING, r, "Cannot show the setup code; only local root can claim");
        explicit_bzero(s->setup_code, sizeof s->setup_code);
    }
    return 0;
}

static void withdraw_code(Security *s)
{
    static const char *const files[] = {CODE_FILE, ISSUE_FILE};

    explicit_bzero(s->setup_code, sizeof s->setup_code);
    for (size_t i = 0; i < ELEMENTS(files); i++) {
        _cleanup_(freep) char *path = NULL;

        if (asprintf(&path, "%s/%s", s->settings->runtime_directory, files[i]) < 0)
            path = NULL;
        else
            (void)unlink(path);
    }
}

static bool code_is(const char *expected, const char *code)
{
    uint8_t a[SHA256_SIZE], b[SHA256_SIZE];

    if (!*expected)
        return false;
    sha256(expected, strlen(expected), a);
    sha256(code, strlen(code), b);
    return CRYPTO_memcmp(a, b, sizeof a) == 0;
}

/* The code shown on the console, or the one printed on the device. */
static bool code_is_right(const Security *s, const char *code)
{
    _cleanup_(freep) char *label = NULL, *directory = NULL;
    const char *path = strempty(s->settings->label_code_file), *slash = strrchr(path, '/');
    size_t size;
    bool right = code_is(s->setup_code, code);

    if (!slash || !(directory = strndup(path, (size_t)(slash - path))) ||
        read_file_limited(directory, slash + 1, 128, &label, &size) < 0)
        return right;
    label[strcspn(label, " \t\r\n")] = '\0';
    /* A short label could be guessed in spite of the throttle. */
    right |= strlen(label) >= 8 && code_is(label, code);
    explicit_bzero(label, size);
    return right;
}

static int check_code(Security *s, const Subject *caller, const char *code, uint64_t *ret_wait)
{
    const char *peer = security_subject_name(caller);

    *ret_wait = throttle_wait(&s->codes, peer, security_boottime());
    if (*ret_wait > 0) {
        s->statistics.throttled++;
        return -EAGAIN;
    }
    if (code_is_right(s, code))
        return 0;
    (void)throttle_failure(&s->codes, peer, security_boottime());
    return -EACCES;
}

static int check_claim(Security *s, const Subject *caller, const char *code, uint64_t *ret_wait,
                       hybus_config_error *e)
{
    int r;

    if (s->fallback) {
        (void)hybus_config_error_set(e, NULL, "no policy could be read; repair the files first");
        return -EACCES;
    }
    if (s->store->claimed) {
        if (security_allows(s, caller, "security.tokens"))
            return 0;
        (void)hybus_config_error_set(e, NULL, "this device has an administrator already");
        return -EACCES;
    }
    if (!caller->remote && caller->uid == 0)
        return 0;
    r = code && *code ? check_code(s, caller, code, ret_wait) : -EACCES;
    if (r == -EACCES)
        (void)hybus_config_error_set(e, NULL, "%s", code && *code ? "wrong setup code"
                                                                  : "the setup code is needed");
    return r;
}

/* A rule of that name may be somebody else's. */
static bool makes_administrator(const Rule *rule, const char *subject)
{
    return rule->kind == RULE_GRANT && streq(rule->to, subject) && streq(rule->permission, "*") &&
           streq(strempty(rule->when), "encrypted");
}

/* *ret: the rule that was made; NULL: it was there already. */
static int grant_administrator(Security *s, const Subject *caller, const char *user, Rule **ret,
                               hybus_config_error *e)
{
    _cleanup_(rule_unrefp) Rule *rule = NULL;
    char id[80], to[80];
    const Rule *old;
    int r;

    snprintf(to, sizeof to, "user:%s", user);
    snprintf(id, sizeof id, "administrator-%s", user);
    old = policy_rule(s->policy, id);
    if (old && makes_administrator(old, to))
        return 0;
    if (old || !rule_id_is_valid(id))
        security_fresh_id(s, id, sizeof id);
    r = rule_new(RULE_GRANT, id, to, "*", "encrypted", &rule, e);
    /* Of a device that nobody has claimed it comes from the owner, who holds nothing yet. */
    if (r >= 0 && s->store->claimed)
        r = security_check_holds(s, caller, rule, e);
    if (r >= 0)
        r = security_grant_rule(s, caller, rule);
    if (r >= 0)
        *ret = TAKE_PTR(rule);
    return r;
}

/* User, token and the claim, in one write. */
static int make_administrator(Security *s, const char *user, char **ret_secret)
{
    bool known = store_user(s->store, user), claimed = s->store->claimed;
    char principal[80], name[80];
    int r = known ? 0 : store_add_user(s->store, user, NULL);

    if (r < 0)
        return r;
    snprintf(principal, sizeof principal, "user:%s", user);
    snprintf(name, sizeof name, "setup-%.50s", user);
    for (unsigned n = 2; store_token(s->store, name); n++)
        snprintf(name, sizeof name, "setup-%.50s-%u", user, n);
    r = store_add_token(s->store, name, principal, NULL, 0, ret_secret);
    if (r >= 0) {
        s->store->claimed = true;
        r = store_save(s->store);
        if (r >= 0)
            return 0;
        s->store->claimed = claimed;
        explicit_bzero(*ret_secret, strlen(*ret_secret));
        free(TAKE_PTR(*ret_secret));
        (void)store_remove_token(s->store, name);
    }
    if (!known)
        (void)store_remove_user(s->store, user);
    return r;
}

int security_setup(Security *s, const Subject *caller, const char *code, const char *user,
                   char **ret_secret, uint64_t *ret_wait, hybus_config_error *e)
{
    _cleanup_(rule_unrefp) Rule *rule = NULL;
    int r = check_claim(s, caller, code, ret_wait, e);

    if (r >= 0 && !principal_name_is_valid(user)) {
        (void)hybus_config_error_set(e, NULL, "\"%.80s\" is not a user name (1 to 64 of a-z 0-9 _ -)",
                                     user);
        return -EINVAL;
    }
    /* The rule first: without a user it is good for nothing, while a user without it would leave a
     * claimed device that nobody administers. */
    if (r >= 0)
        r = grant_administrator(s, caller, user, &rule, e);
    if (r < 0) {
        security_note(s, caller, "setup", r == -EAGAIN ? "throttled" : "refused");
        return r;
    }
    r = make_administrator(s, user, ret_secret);
    if (r < 0) {
        if (rule)
            security_ungrant_rule(s, rule);
        return r;
    }
    withdraw_code(s);
    security_note(s, caller, "setup", user);
    return 1;
}
