/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <hybus/log.h>

#include "security-internal.h"

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

int security_check_holds(const Security *s, const Subject *caller, const Rule *rule,
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

void security_fresh_id(Security *s, char *ret, size_t size)
{
    do {
        s->last_id = MAX_OF(s->last_id, s->store->generation) + 1;
        snprintf(ret, size, "grant-%llu", (unsigned long long)s->last_id);
    } while (policy_rule(s->policy, ret));
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
    r = write_file_atomically(s->settings->grant_directory, name, text, strlen(text), 0600);
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

int security_policy_with(const Policy *old, Rule *const *more, size_t n_more, const Rule *less,
                         Policy **ret)
{
    Rule *const *rules;
    size_t n = policy_rules(old, &rules), k = 0, twice;
    _cleanup_(freep) Rule **list = calloc(n + n_more + 1, sizeof *list);

    if (!list)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        if (rules[i] != less)
            list[k++] = rules[i];
    for (size_t i = 0; i < n_more; i++)
        list[k++] = more[i];
    return policy_new(list, k, ret, &twice);
}

int security_grant_rule(Security *s, const Subject *caller, Rule *rule)
{
    _cleanup_(policy_unrefp) Policy *policy = NULL;
    int r;

    /* The model first, so that what is written can also be loaded. */
    r = security_policy_with(s->policy, &rule, 1, NULL, &policy);
    if (r < 0)
        return r;
    r = write_rule(s, rule, caller);
    if (r < 0) {
        /* It may stand there all the same, and be in force after the next start. */
        (void)remove_file(s, rule->id);
        return r;
    }
    security_adopt(s, TAKE_PTR(policy));
    security_move_rule(s, rule);
    r = security_accept(s);
    if (r < 0)
        hybus_log_errno(LOG_WARNING, r, "The policy in force could not be kept for the next boot");
    return 1;
}

static int check_grant(Security *s, const Subject *caller, const Rule *rule, hybus_config_error *e)
{
    int r = check_subjects(rule, e);

    if (r >= 0)
        r = security_check_holds(s, caller, rule, e);
    if (r < 0)
        return r;
    if (policy_rule(s->policy, rule->id)) {
        (void)hybus_config_error_set(e, NULL, "the id \"%s\" is taken", rule->id);
        return -EEXIST;
    }
    if (granted_files(s) >= SECURITY_GRANTED_FILES_MAX) {
        (void)hybus_config_error_set(e, NULL, "more than %u granted rules; write them into one file",
                                     SECURITY_GRANTED_FILES_MAX);
        return -ENOBUFS;
    }
    return 0;
}

int security_grant_check(Security *s, const Subject *caller, const char *id, const char *to,
                         const char *permissions, const char *when, Rule **ret,
                         hybus_config_error *e)
{
    _cleanup_(rule_unrefp) Rule *rule = NULL;
    char made[64];
    int r;

    if (s->fallback) {
        (void)hybus_config_error_set(e, NULL, "no policy could be read; repair the files first");
        return -EACCES;
    }
    if (!*id) {
        security_fresh_id(s, made, sizeof made);
        id = made;
    }
    r = rule_new(RULE_GRANT, id, to, permissions, when, &rule, e);
    if (r >= 0)
        r = check_grant(s, caller, rule, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(rule);
    return 0;
}

int security_grant_commit(Security *s, const Subject *caller, Rule *rule, hybus_config_error *e)
{
    int r = check_grant(s, caller, rule, e);

    if (r >= 0)
        r = security_grant_rule(s, caller, rule);
    if (r >= 0)
        security_note(s, caller, "Grant", rule->id);
    return r;
}

int security_grant(Security *s, const Subject *caller, const char *id, const char *to,
                   const char *permissions, const char *when, const Rule **ret,
                   hybus_config_error *e)
{
    _cleanup_(rule_unrefp) Rule *rule = NULL;
    int r = security_grant_check(s, caller, id, to, permissions, when, &rule, e);

    if (r >= 0)
        r = security_grant_commit(s, caller, rule, e);
    if (r >= 0)
        *ret = policy_rule(s->policy, rule->id);
    return r;
}

/* *ret_removed: whether its file could be removed; positive: it is in force as before. */
static int revoke_rule(Security *s, const Rule *rule, int *ret_removed)
{
    _cleanup_(policy_unrefp) Policy *policy = NULL;
    int r = security_policy_with(s->policy, NULL, 0, rule, &policy);

    *ret_removed = 1;
    if (r < 0)
        return r;
    /* From here on it is revoked, whatever happens to files. */
    security_adopt(s, TAKE_PTR(policy));
    security_move_rule(s, rule);
    *ret_removed = remove_file(s, rule->id);
    return security_accept(s);
}

void security_ungrant_rule(Security *s, Rule *rule)
{
    int removed, r;

    rule_ref(rule);
    r = revoke_rule(s, rule, &removed);
    if (r < 0 || removed < 0)
        hybus_log_errno(LOG_ERR, r < 0 ? r : removed, "Rule \"%s\" could not be taken back",
                        rule->id);
    rule_unref(rule);
}

int security_revoke(Security *s, const Subject *caller, const char *id, hybus_config_error *e)
{
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
    r = revoke_rule(s, rule, &removed);
    if (removed > 0)
        return r;
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
