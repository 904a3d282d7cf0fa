/* SPDX-License-Identifier: Apache-2.0 */
#include "security-internal.h"

int security_add_user(Security *s, const Subject *caller, const char *name)
{
    int r = store_add_user(s->store, name, NULL);

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
    consent_forget_subject(s->consent, principal);
    security_move_principal(s, principal);
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
    if (startswith(principal, "token:"))
        consent_forget_subject(s->consent, principal);
    security_move_principal(s, principal);
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
            int r = security_check_holds(s, caller, rules[i], e);
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
    r = check_rights_of(s, caller, "remote", e);
    if (r >= 0)
        r = check_rights_of(s, caller, "anyone", e);
    if (r >= 0)
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
