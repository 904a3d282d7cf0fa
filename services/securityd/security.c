/* SPDX-License-Identifier: Apache-2.0 */
#include "security.h"

#include <fcntl.h>
#include <hybus/log.h>
#include <openssl/crypto.h>
#include <sys/random.h>
#include <time.h>

#include "accepted.h"

#define SECOND UINT64_C(1000000)
#define CODE_FILE "setup-code"
#define ISSUE_FILE "setup.issue"

/* Only local root, as long as nothing better can be read. */
static const char fallback_policy[] = "[grant last-resort-root]\n"
                                      "To = uid:0\n"
                                      "Permission = *\n"
                                      "When = local\n"
                                      "Description = no policy could be read\n";

void principal_free(Principal *p)
{
    if (!p)
        return;
    free(p->name);
    free(p->token);
    free(p->protocol);
    words_free(p->roles);
    free(p);
}

/* --- subjects -------------------------------------------------------------------------------- */

static uint32_t slot_of(const char *key)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (; *key; key++)
        h = (h ^ (unsigned char)*key) * 0x100000001b3u;
    return (uint32_t)((h ^ h >> 32) % HYBUS_PAGE_SLOTS);
}

const char *security_subject_name(const Subject *subject)
{
    static char text[32];

    if (subject->remote)
        return subject->name ? subject->name : "anonymous";
    if (subject->group_only)
        snprintf(text, sizeof text, "gid:%u", subject->n_gids ? subject->gids[0] : UINT32_MAX);
    else
        snprintf(text, sizeof text, "uid:%u", subject->uid);
    return text;
}

uint32_t security_slot(const Subject *subject)
{
    return slot_of(security_subject_name(subject));
}

Subject security_remote_subject(const Principal *p)
{
    if (!p)
        return (Subject){.remote = true, .encrypted = UNKNOWN};
    return (Subject){.remote = true,
                     .name = p->name,
                     .token = p->token,
                     .roles = p->roles,
                     .encrypted = p->encrypted ? YES : NO,
                     .protocol = p->protocol};
}

uint64_t security_generation(const Security *s)
{
    return s->store->generation;
}

/* --- changes --------------------------------------------------------------------------------- */

/* Moves what a rule may have touched. A rule for groups, roles or everybody touches all. */
static void move_slots_of(Security *s, const Rule *rule)
{
    for (char **subject = rule->subjects; subject && *subject; subject++) {
        const char *name = startswith(*subject, "token:");
        const Token *token = name ? store_token(s->store, name) : NULL;

        if (!startswith(*subject, "uid:") && !startswith(*subject, "user:") && !name &&
            !streq(*subject, "anonymous")) {
            (void)hybus_page_writer_bump(s->page, UINT32_MAX);
            return;
        }
        (void)hybus_page_writer_bump(s->page, slot_of(*subject));
        if (token && !streq(token->principal, *subject))
            (void)hybus_page_writer_bump(s->page, slot_of(token->principal));
    }
}

static void adopt(Security *s, Policy *policy)
{
    policy_unref(s->policy);
    s->policy = policy;
    s->fallback = false;
}

/* What is in force has changed: count it and remember it for the next boot. */
static int accept_generation(Security *s)
{
    int r, result;

    s->store->generation++;
    result = accepted_save(s->settings->state_directory, s->policy, s->catalogue);
    r = store_save(s->store);
    return result < 0 ? result : r;
}

static void set_policy_error(Security *s, int error, hybus_config_error *e)
{
    free(s->policy_error);
    s->policy_error = NULL;
    if (error >= 0)
        return;
    s->policy_error = e->message ? TAKE_PTR(e->message) : strdup(strerror(-error));
    hybus_error("The policy files are not accepted, what was in force stays: %s",
                strempty(s->policy_error));
}

static int read_catalogue(const Security *s, Catalogue **ret, hybus_config_error *e)
{
    CatalogueSource sources[32];
    size_t n = 0;

    for (char **d = s->settings->vendor_interfaces; d && *d && n < 16; d++)
        sources[n++] = (CatalogueSource){.directory = *d, .vendor = true};
    for (char **d = s->settings->administrator_interfaces; d && *d && n < ELEMENTS(sources); d++)
        sources[n++] = (CatalogueSource){.directory = *d};
    return catalogue_read(sources, n, policy_file_check, ret, e);
}

static void audit_notes(Security *s, const PolicyNotes *old)
{
    const Subject self = {.uid = geteuid()};

    for (char **m = s->notes.masked; m && *m; m++)
        if (!words_contain(old->masked, *m))
            security_note(s, &self, "policy files", *m);
    for (char **w = s->notes.warnings; w && *w; w++)
        if (!words_contain(old->warnings, *w))
            hybus_warning("%s", *w);
    for (char **d = s->notes.development; d && *d; d++)
        if (!words_contain(old->development, *d))
            hybus_warning("Development policy in force: %s opens more than a device should", *d);
}

/* Both files are good: take them. */
static int take(Security *s, Policy *policy, Catalogue *catalogue, PolicyNotes *notes)
{
    PolicyNotes old = s->notes;
    bool changed = !s->policy || s->fallback || !policy_equal(s->policy, policy) ||
                   !s->catalogue || !catalogue_equal(s->catalogue, catalogue);
    int r = 0;

    adopt(s, policy);
    catalogue_free(s->catalogue);
    s->catalogue = catalogue;
    s->notes = *notes;
    *notes = (PolicyNotes){0};
    if (changed) {
        (void)hybus_page_writer_bump(s->page, UINT32_MAX);
        r = accept_generation(s);
    }
    audit_notes(s, &old);
    policy_notes_done(&old);
    return r < 0 ? r : changed;
}

int security_reload(Security *s)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    _cleanup_(catalogue_freep) Catalogue *catalogue = NULL;
    _cleanup_(policy_unrefp) Policy *policy = NULL;
    PolicyNotes notes = {0};
    int r;

    r = policy_read_directories((const char *const *)s->settings->policy_directories, &policy,
                                &notes, &e);
    if (r >= 0)
        r = read_catalogue(s, &catalogue, &e);
    set_policy_error(s, r, &e);
    if (r >= 0)
        r = take(s, TAKE_PTR(policy), TAKE_PTR(catalogue), &notes);
    policy_notes_done(&notes);
    return r;
}

/* --- start ----------------------------------------------------------------------------------- */

/* The last accepted policy first: whatever the files look like now, it is what was in force. */
static int load_policy(Security *s)
{
    int r;

    r = accepted_load(s->settings->state_directory, &s->policy, &s->catalogue);
    if (r < 0 && r != -ENOENT)
        hybus_log_errno(LOG_ERR, r, "The last accepted policy is damaged and not used");
    if (r < 0) {
        s->fallback = true;
        r = policy_parse("(last resort)", fallback_policy, strlen(fallback_policy), &s->policy,
                         NULL, NULL);
        if (r < 0)
            return r;
        r = catalogue_new(&s->catalogue);
        if (r < 0)
            return r;
    }
    r = security_reload(s);
    if (r < 0 && s->fallback)
        hybus_error("No policy at all: only local root may act until the files are repaired");
    return r == -ENOMEM ? r : 0;
}

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

static int offer_code(Security *s)
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
                     "\nThis HybridOS device has no administrator yet. To become one:\n"
                     "    h-policy setup --code %s\n\n",
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

int security_new(const SecuritySettings *settings, AuditSink sink, Security **ret)
{
    _cleanup_(security_freep) Security *s = calloc(1, sizeof *s);
    int r;

    if (!s)
        return -ENOMEM;
    s->settings = settings;
    if (getrandom(&s->next_handle, sizeof s->next_handle, 0) != sizeof s->next_handle)
        return -EIO;
    /* JSON numbers are exact up to 2^53. */
    s->next_handle = (s->next_handle & ((UINT64_C(1) << 51) - 1)) | 1;
    throttle_init(&s->bearers, 6 * SECOND, 60 * SECOND, SECOND / 4, 60 * SECOND);
    throttle_init(&s->codes, 60 * SECOND, 300 * SECOND, 20 * SECOND, 600 * SECOND);
    r = audit_new(sink, s, &s->audit);
    if (r >= 0)
        r = hybus_page_writer_new(&s->page);
    if (r >= 0)
        r = store_open(settings->state_directory, &s->store);
    if (r < 0)
        return r;
    if (s->store->restored)
        hybus_warning("The state comes from elsewhere or from a backup: all tokens are void");
    r = load_policy(s);
    if (r >= 0)
        r = offer_code(s);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(s);
    return 0;
}

void security_free(Security *s)
{
    if (!s)
        return;
    hybus_page_writer_free(s->page);
    policy_unref(s->policy);
    catalogue_free(s->catalogue);
    policy_notes_done(&s->notes);
    store_free(s->store);
    audit_free(s->audit);
    free(s->policy_error);
    explicit_bzero(s->setup_code, sizeof s->setup_code);
    free(s);
}

/* --- grant and revoke ------------------------------------------------------------------------ */

static int granted_file(const char *id, char *ret, size_t size)
{
    return (size_t)snprintf(ret, size, "70-granted-%s.policy", id) < size ? 0 : -ENAMETOOLONG;
}

static bool is_granted_file(const Security *s, const Rule *rule)
{
    char name[128];
    const char *rest = startswith(rule->file, s->settings->grant_directory);

    return granted_file(rule->id, name, sizeof name) >= 0 && rest && *rest == '/' &&
           streq(rest + 1, name);
}

static size_t granted_files(const Security *s)
{
    Rule *const *rules;
    size_t n = policy_rules(s->policy, &rules), found = 0;

    for (size_t i = 0; i < n; i++)
        found += is_granted_file(s, rules[i]);
    return found;
}

/* Those who can never hold a permission must not look as if they did. */
static int check_subjects(const Rule *rule, hybus_config_error *e)
{
    for (char **subject = rule->subjects; *subject; subject++) {
        const char *id = startswith(*subject, "uid:");

        if (!id)
            id = startswith(*subject, "gid:");
        if (id && !uid_may_hold((uint32_t)strtoul(id, NULL, 10))) {
            (void)hybus_config_error_set(
                e, NULL, "%s is an overflow or dynamic id and never holds a permission", *subject);
            return -EINVAL;
        }
    }
    return 0;
}

static int check_holds(const Security *s, const Subject *caller, const Rule *rule,
                       hybus_config_error *e)
{
    for (char **p = rule->permissions; *p; p++)
        if (!policy_holds(s->policy, caller, *p, rule)) {
            (void)hybus_config_error_set(
                e, NULL, "you do not hold %s yourself, at least not under all conditions of this rule",
                *p);
            return -EACCES;
        }
    return 0;
}

static int fresh_id(const Security *s, char *ret, size_t size)
{
    for (uint64_t n = s->store->generation + 1;; n++) {
        snprintf(ret, size, "grant-%llu", (unsigned long long)n);
        if (!policy_rule(s->policy, ret))
            return 0;
    }
}

static int write_rule(const Security *s, Rule *rule, const Subject *caller)
{
    _cleanup_(freep) char *section = rule_format(rule, false), *text = NULL, *file = NULL;
    char name[128];
    int r = granted_file(rule->id, name, sizeof name);

    if (r < 0)
        return r;
    if (!section ||
        asprintf(&text, "# granted by %s\n%s", security_subject_name(caller), section) < 0) {
        text = NULL;
        return -ENOMEM;
    }
    if (asprintf(&file, "%s/%s", s->settings->grant_directory, name) < 0) {
        file = NULL;
        return -ENOMEM;
    }
    r = write_file_atomically(s->settings->grant_directory, name, text, strlen(text), 0644);
    if (r < 0)
        return r;
    free(rule->file);
    rule->file = TAKE_PTR(file);
    rule->line = 2;
    rule->column = 1;
    return 0;
}

static int remove_file(const Security *s, const char *id)
{
    _cleanup_(closep) int dir =
        open(s->settings->grant_directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    char name[128];

    if (dir < 0)
        return -errno;
    if (granted_file(id, name, sizeof name) < 0)
        return -ENAMETOOLONG;
    if (unlinkat(dir, name, 0) < 0 && errno != ENOENT)
        return -errno;
    return fsync(dir) < 0 ? -errno : 0;
}

/* The rules in force with one more, or without one. */
static int policy_with(const Policy *old, Rule *more, const Rule *less, Policy **ret)
{
    Rule *const *rules;
    size_t n = policy_rules(old, &rules), k = 0, twice;
    _cleanup_(freep) Rule **list = calloc(n + 1, sizeof *list);

    if (!list)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        if (rules[i] != less)
            list[k++] = rules[i];
    if (more)
        list[k++] = more;
    return policy_new(list, k, ret, &twice);
}

static int grant_rule(Security *s, const Subject *caller, Rule *rule)
{
    _cleanup_(policy_unrefp) Policy *policy = NULL;
    int r;

    /* The model first, so that what is written can also be loaded. */
    r = policy_with(s->policy, rule, NULL, &policy);
    if (r >= 0)
        r = write_rule(s, rule, caller);
    if (r < 0)
        return r;
    adopt(s, TAKE_PTR(policy));
    move_slots_of(s, rule);
    r = accept_generation(s);
    if (r < 0)
        hybus_log_errno(LOG_WARNING, r, "The policy in force could not be kept for the next boot");
    return 1;
}

int security_grant(Security *s, const Subject *caller, const char *id, const char *to,
                   const char *permissions, const char *when, const Rule **ret,
                   hybus_config_error *e)
{
    _cleanup_(rule_unrefp) Rule *rule = NULL;
    char made[64];
    int r;

    if (!*id && fresh_id(s, made, sizeof made) >= 0)
        id = made;
    if (s->fallback) {
        (void)hybus_config_error_set(e, NULL, "no policy could be read; repair the files first");
        return -EACCES;
    }
    r = rule_new(RULE_GRANT, id, to, permissions, when, &rule, e);
    if (r >= 0)
        r = check_subjects(rule, e);
    if (r >= 0)
        r = check_holds(s, caller, rule, e);
    if (r < 0)
        return r;
    if (policy_rule(s->policy, id)) {
        (void)hybus_config_error_set(e, NULL, "the id \"%s\" is taken", id);
        return -EEXIST;
    }
    if (granted_files(s) >= SECURITY_GRANTED_FILES_MAX) {
        (void)hybus_config_error_set(e, NULL, "more than %u granted rules; write them into one file",
                                     SECURITY_GRANTED_FILES_MAX);
        return -ENOBUFS;
    }
    r = grant_rule(s, caller, rule);
    if (r < 0)
        return r;
    security_note(s, caller, "Grant", rule->id);
    *ret = policy_rule(s->policy, rule->id);
    return r;
}

int security_revoke(Security *s, const Subject *caller, const char *id, hybus_config_error *e)
{
    _cleanup_(policy_unrefp) Policy *policy = NULL;
    _cleanup_(rule_unrefp) Rule *rule = policy_rule(s->policy, id);
    int r, removed;

    if (!rule)
        return -ENOENT;
    rule_ref(rule);
    if (!is_granted_file(s, rule)) {
        (void)hybus_config_error_set(e, NULL, "rule \"%s\" stands in %s:%u and was not made by Grant",
                                     id, rule->file, rule->line);
        return -EOPNOTSUPP;
    }
    r = policy_with(s->policy, NULL, rule, &policy);
    if (r < 0)
        return r;
    /* From here on it is revoked, whatever happens to files. */
    adopt(s, TAKE_PTR(policy));
    move_slots_of(s, rule);
    removed = remove_file(s, id);
    r = accept_generation(s);
    security_note(s, caller, "Revoke", id);
    if (removed < 0 || r < 0) {
        hybus_log_errno(LOG_ERR, removed < 0 ? removed : r,
                        "Rule \"%s\" is revoked, but may be back after the next start", id);
        (void)hybus_config_error_set(e, NULL,
                                     "revoked, but its file could not be removed: it may be back "
                                     "after the next start");
    }
    return removed < 0 ? removed : r < 0 ? r : 1;
}

/* --- users and tokens ------------------------------------------------------------------------ */

int security_add_user(Security *s, const Subject *caller, const char *name)
{
    int r = store_add_user(s->store, name);

    if (r < 0)
        return r;
    r = store_save(s->store);
    if (r < 0) {
        (void)store_remove_user(s->store, name);
        return r;
    }
    security_note(s, caller, "AddUser", name);
    return 0;
}

static void move_principal(Security *s, const char *principal)
{
    (void)hybus_page_writer_bump(s->page, slot_of(principal));
}

int security_remove_user(Security *s, const Subject *caller, const char *name)
{
    char principal[80];
    int r = store_remove_user(s->store, name);

    if (r < 0)
        return r;
    snprintf(principal, sizeof principal, "user:%s", name);
    for (size_t i = s->store->n_tokens; i-- > 0;)
        if (streq(s->store->tokens[i].principal, principal))
            (void)store_remove_token(s->store, s->store->tokens[i].name);
    move_principal(s, principal);
    security_note(s, caller, "RemoveUser", name);
    r = store_save(s->store);
    return r < 0 ? r : 1;
}

int security_remove_token(Security *s, const Subject *caller, const char *name)
{
    _cleanup_(freep) char *principal = NULL, *kept = strdup(name);
    const Token *token = store_token(s->store, name);
    int r;

    if (!token)
        return -ENOENT;
    principal = strdup(token->principal);
    if (!principal || !kept)
        return -ENOMEM;
    (void)store_remove_token(s->store, kept);
    move_principal(s, principal);
    security_note(s, caller, "RemoveToken", kept);
    r = store_save(s->store);
    return r < 0 ? r : 1;
}

/* Whoever could make a token with rights of others would grant what they do not hold. */
static int check_rights_of(const Security *s, const Subject *caller, const char *subject,
                           hybus_config_error *e)
{
    Rule *const *rules;
    size_t n = policy_rules(s->policy, &rules);

    for (size_t i = 0; i < n; i++)
        if (rules[i]->kind == RULE_GRANT && words_contain(rules[i]->subjects, subject)) {
            int r = check_holds(s, caller, rules[i], e);
            if (r < 0)
                return r;
        }
    return 0;
}

int security_add_token(Security *s, const Subject *caller, const char *name, const char *as,
                       char *const *roles, uint64_t lifetime_usec, char **ret_secret,
                       hybus_config_error *e)
{
    char own[80], role_name[80];
    int r = 0;

    if (!principal_name_is_valid(name))
        return -EINVAL;
    snprintf(own, sizeof own, "token:%s", name);
    if (words_count(roles) > 64)
        return -EINVAL;
    if (as && (!startswith(as, "user:") || !store_user(s->store, as + strlen("user:"))))
        return -ENOENT;
    r = check_rights_of(s, caller, own, e);
    if (r >= 0 && as)
        r = check_rights_of(s, caller, as, e);
    for (char *const *role = roles; r >= 0 && role && *role; role++) {
        if (!principal_name_is_valid(*role))
            return -EINVAL;
        snprintf(role_name, sizeof role_name, "role:%s", *role);
        r = check_rights_of(s, caller, role_name, e);
    }
    if (r >= 0)
        r = store_add_token(s->store, name, as ? as : own, roles, lifetime_usec, ret_secret);
    if (r < 0)
        return r;
    r = store_save(s->store);
    if (r < 0) {
        (void)store_remove_token(s->store, name);
        explicit_bzero(*ret_secret, strlen(*ret_secret));
        free(*ret_secret);
        *ret_secret = NULL;
        return r;
    }
    security_note(s, caller, "token-add", name);
    return 0;
}

/* --- setup ----------------------------------------------------------------------------------- */

static uint64_t boottime(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec / 1000u;
}

static bool code_is(const char *expected, const char *code)
{
    uint8_t a[TOKEN_HASH_SIZE], b[TOKEN_HASH_SIZE];

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

static int check_claim(Security *s, const Subject *caller, const char *code, uint64_t *ret_wait)
{
    char peer[32];

    if (!caller->remote && caller->uid == 0)
        return 0;
    if (s->store->claimed || !code || !*code)
        return -EACCES;
    snprintf(peer, sizeof peer, "uid %u", caller->uid);
    *ret_wait = throttle_wait(&s->codes, peer, boottime());
    if (*ret_wait > 0) {
        s->statistics.throttled++;
        return -EAGAIN;
    }
    if (code_is_right(s, code))
        return 0;
    (void)throttle_failure(&s->codes, peer, boottime());
    return -EACCES;
}

static int grant_administrator(Security *s, const Subject *caller, const char *user)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    _cleanup_(rule_unrefp) Rule *rule = NULL;
    char id[80], to[80];
    int r;

    snprintf(id, sizeof id, "administrator-%s", user);
    id[64] = '\0';
    snprintf(to, sizeof to, "user:%s", user);
    if (policy_rule(s->policy, id))
        return 0;
    r = rule_new(RULE_GRANT, id, to, "*", "encrypted", &rule, &e);
    return r < 0 ? r : grant_rule(s, caller, rule);
}

int security_setup(Security *s, const Subject *caller, const char *code, const char *user,
                   char **ret_secret, uint64_t *ret_wait)
{
    char principal[80], name[80];
    int r = check_claim(s, caller, code, ret_wait);

    if (r < 0) {
        security_note(s, caller, "setup", "refused");
        return r;
    }
    if (!principal_name_is_valid(user) || s->fallback)
        return -EINVAL;
    snprintf(principal, sizeof principal, "user:%s", user);
    snprintf(name, sizeof name, "setup-%.50s", user);
    for (unsigned n = 2; store_token(s->store, name); n++)
        snprintf(name, sizeof name, "setup-%.50s-%u", user, n);
    r = grant_administrator(s, caller, user);
    if (r < 0)
        return r;
    if (!store_user(s->store, user))
        r = store_add_user(s->store, user);
    if (r >= 0)
        r = store_add_token(s->store, name, principal, NULL, 0, ret_secret);
    if (r < 0)
        return r;
    s->store->claimed = true;
    r = store_save(s->store);
    if (r < 0) {
        explicit_bzero(*ret_secret, strlen(*ret_secret));
        free(TAKE_PTR(*ret_secret));
        (void)store_remove_token(s->store, name);
        return r;
    }
    withdraw_code(s);
    security_note(s, caller, "setup", user);
    return 1;
}

/* --- connect requests ------------------------------------------------------------------------ */

bool security_principal_is_void(Security *s, const Principal *p)
{
    const char *name = p->token ? startswith(p->token, "token:") : NULL;
    const Token *t = name ? store_token(s->store, name) : NULL;

    /* A new token of the same name is another one. */
    return !t || !streq(t->principal, p->name) || t->expires != p->expires ||
           (t->expires && t->expires <= store_now(s->store));
}

static int principal_of(Security *s, const Token *t, const Connect *c, Principal **ret)
{
    _cleanup_(principal_freep) Principal *p = calloc(1, sizeof *p);

    if (!p)
        return -ENOMEM;
    p->handle = s->next_handle;
    p->name = strdup(t->principal);
    p->protocol = strdup(c->protocol);
    p->encrypted = c->tls && *c->tls;
    p->expires = t->expires;
    if (asprintf(&p->token, "token:%s", t->name) < 0)
        p->token = NULL;
    if (!p->name || !p->protocol || !p->token)
        return -ENOMEM;
    for (char **role = t->roles; role && *role; role++)
        if (words_add(&p->roles, *role, strlen(*role)) < 0)
            return -ENOMEM;
    s->next_handle++;
    *ret = TAKE_PTR(p);
    return 0;
}

static int match_bearer(Security *s, const Connect *c, Principal **ret, uint64_t *ret_wait)
{
    Token *t = store_match(s->store, c->bearer);

    if (!t) {
        *ret_wait = throttle_failure(&s->bearers, c->peer, boottime());
        s->statistics.throttled += *ret_wait > 0;
        return *ret_wait > 0 ? -EAGAIN : -EKEYREJECTED;
    }
    t->last_used = store_now(s->store); /* kept with the next write: use costs no flash */
    return principal_of(s, t, c, ret);
}

/* Only a rule that says so keeps somebody from connecting: whoever holds nothing may still connect
 * and is then told to authenticate. */
static bool may_connect(Security *s, const Connect *c, const Principal *p)
{
    Subject subject = security_remote_subject(p);
    char permission[64];
    Verdict v;

    if (!p) {
        subject.encrypted = c->tls && *c->tls ? YES : NO;
        subject.protocol = c->protocol;
    }
    snprintf(permission, sizeof permission, "connect.%s", c->protocol);
    v = policy_judge(s->policy, &subject, permission);
    return !v.rule || v.rule->kind == RULE_GRANT;
}

int security_connect(Security *s, const Connect *c, Principal **ret, uint64_t *ret_wait)
{
    _cleanup_(principal_freep) Principal *p = NULL;
    int r = 0;

    s->statistics.checks++;
    if (!principal_name_is_valid(strempty(c->protocol)))
        return -EINVAL;
    if (c->bearer)
        r = match_bearer(s, c, &p, ret_wait);
    if (r < 0)
        return r;
    if (!may_connect(s, c, p))
        return -EACCES;
    *ret = TAKE_PTR(p);
    return 0;
}

uint64_t security_next_expiry(Security *s)
{
    uint64_t now = store_now(s->store), next = UINT64_MAX;

    for (size_t i = 0; i < s->store->n_tokens; i++) {
        uint64_t expires = s->store->tokens[i].expires;

        if (expires > now && expires < next)
            next = expires;
    }
    return next;
}

bool security_expire(Security *s, uint64_t since)
{
    uint64_t now = store_now(s->store);
    bool any = false;

    for (size_t i = 0; i < s->store->n_tokens; i++) {
        const Token *t = &s->store->tokens[i];

        if (t->expires > since && t->expires <= now) {
            move_principal(s, t->principal);
            any = true;
        }
    }
    return any;
}

/* --- judging and explaining ------------------------------------------------------------------ */

Verdict security_judge(Security *s, const Subject *subject, const Question *q)
{
    s->statistics.judgements++;
    if (!q->permission)
        return (Verdict){.reason = q->interface && *q->interface
                                       ? "this member carries no permission: nobody may use it"
                                       : "the call names no interface"};
    return policy_judge(s->policy, subject, q->permission);
}

static const char *kind_name(char kind)
{
    return kind == 'm' ? "method" : kind == 'g' ? "get" : kind == 's' ? "set" : "signal";
}

static int suggest(const Subject *subject, const Question *q, const Verdict *v, char **ret)
{
    const char *name = security_subject_name(subject);
    int n;

    if (v->allowed || !q->permission)
        n = asprintf(ret, "%s", "");
    else if (v->rule)
        n = asprintf(ret, "change rule %s in %s:%u", v->rule->id, v->rule->file, v->rule->line);
    else if (v->candidate)
        n = asprintf(ret, "meet the conditions of rule %s (When = %s)", v->candidate->id,
                     strempty(v->candidate->when));
    else if (!subject->remote && !subject->group_only && !uid_may_hold(subject->uid))
        n = asprintf(ret, "%s", "give the program a user of its own");
    else
        n = asprintf(ret, "h-policy grant %s %s", name, q->permission);
    if (n < 0) {
        *ret = NULL;
        return -ENOMEM;
    }
    return 0;
}

static int describe_call(const Question *q, char **ret)
{
    int n;

    if (!q->interface && !q->member)
        n = asprintf(ret, "%s", "");
    else
        n = asprintf(ret, "%s%s%.255s.%.255s (%s)%s%.255s", strempty(q->service),
                     q->service ? ": " : "", strempty(q->interface), strempty(q->member),
                     kind_name(q->kind), q->path && *q->path ? " on " : "", strempty(q->path));
    if (n < 0) {
        *ret = NULL;
        return -ENOMEM;
    }
    return 0;
}

int security_explain(Security *s, const Subject *subject, const Question *q, const Verdict *v,
                     AuditRecord *ret)
{
    AuditRecord r = {.verdict = v->allowed ? "allowed" : "denied",
                     .layer = 2,
                     .line = v->rule ? v->rule->line : 0,
                     .generation = security_generation(s),
                     .subject = strdup(security_subject_name(subject)),
                     .permission = strdup(strempty(q->permission)),
                     .rule = strdup(v->rule ? v->rule->id : "default"),
                     .file = strdup(v->rule ? v->rule->file : ""),
                     .reason = strdup(v->reason)};
    int error = describe_call(q, &r.call);

    if (error >= 0)
        error = suggest(subject, q, v, &r.suggestion);
    if (error < 0 || !r.subject || !r.permission || !r.rule || !r.file || !r.reason) {
        audit_record_done(&r);
        return -ENOMEM;
    }
    *ret = r;
    return 0;
}

int security_refuse(Security *s, const Subject *subject, const Question *q, Verdict *ret,
                    const AuditRecord **ret_record)
{
    AuditRecord record;
    int r;

    *ret = security_judge(s, subject, q);
    *ret_record = NULL;
    if (ret->allowed)
        return 0;
    s->statistics.denied++;
    r = security_explain(s, subject, q, ret, &record);
    if (r < 0)
        return r;
    r = audit_add(s->audit, &record, ret_record);
    audit_record_done(&record);
    return r;
}

void security_note(Security *s, const Subject *subject, const char *call, const char *reason)
{
    const AuditRecord record = {.verdict = "changed",
                                .layer = 2,
                                .generation = s->store ? security_generation(s) : 0,
                                .subject = (char *)security_subject_name(subject),
                                .call = (char *)call,
                                .rule = (char *)"",
                                .reason = (char *)reason};

    (void)audit_add(s->audit, &record, NULL);
}
