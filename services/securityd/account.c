/* SPDX-License-Identifier: Apache-2.0 */
#include "security-internal.h"

/* Whoever could make a token with rights of others would grant what they do not hold. */
int security_check_rights_of(const Security *s, const Subject *caller, const char *subject,
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

static int check_rights_of_roles(const Security *s, const Subject *caller, char *const *roles,
                                 hybus_config_error *e)
{
    char name[80];
    int r = 0;

    for (; r >= 0 && roles && *roles; roles++) {
        if (!principal_name_is_valid(*roles))
            return -EINVAL;
        snprintf(name, sizeof name, "role:%s", *roles);
        r = security_check_rights_of(s, caller, name, e);
    }
    return r;
}

/* What somebody holds who comes from outside as `name`, with these roles. */
static int check_rights_from_outside(const Security *s, const Subject *caller, const char *name,
                                     char *const *roles, hybus_config_error *e)
{
    int r = security_check_rights_of(s, caller, "remote", e);

    if (r >= 0)
        r = security_check_rights_of(s, caller, "anyone", e);
    if (r >= 0)
        r = security_check_rights_of(s, caller, name, e);
    return r < 0 ? r : check_rights_of_roles(s, caller, roles, e);
}

/* --- users ----------------------------------------------------------------------------------- */

int security_check_user(Security *s, const Subject *caller, const char *name, char *const *roles,
                        hybus_config_error *e)
{
    const User *u = store_user(s->store, name);
    char principal[80];
    int r;

    if (!principal_name_is_valid(name) || words_count(roles) > STORE_ROLES_MAX)
        return -EINVAL;
    snprintf(principal, sizeof principal, "user:%s", name);
    r = check_rights_from_outside(s, caller, principal, roles, e);
    return r < 0 || !u ? r : check_rights_of_roles(s, caller, u->roles, e);
}

static int set_password(User *u, const char *password)
{
    char *copy = password ? strdup(password) : NULL;

    if (password && !copy)
        return -ENOMEM;
    if (u->password)
        explicit_bzero(u->password, strlen(u->password));
    free(u->password);
    u->password = copy;
    return 0;
}

int security_add_user_with(Security *s, const Subject *caller, const char *name, char *const *roles,
                           const char *password, hybus_config_error *e)
{
    int r = security_check_user(s, caller, name, roles, e);

    if (r >= 0)
        r = store_add_user(s->store, name, roles);
    if (r < 0)
        return r;
    r = set_password(store_user(s->store, name), password);
    if (r >= 0)
        r = store_save(s->store);
    if (r < 0) {
        (void)store_remove_user(s->store, name);
        return r;
    }
    security_note(s, caller, "user-add", name);
    return 0;
}

/* The old one would be back after a start. */
int security_write_password(Security *s, User *u, const char *hash)
{
    _cleanup_(freep) char *old = TAKE_PTR(u->password);
    int r = set_password(u, hash);

    if (r >= 0)
        r = store_save(s->store);
    if (r < 0) {
        free(u->password);
        u->password = TAKE_PTR(old);
    } else if (old) {
        explicit_bzero(old, strlen(old));
    }
    return r;
}

int security_set_password(Security *s, const Subject *caller, const char *name,
                          const char *password, hybus_config_error *e)
{
    User *u = store_user(s->store, name);
    int r;

    if (!u)
        return -ENOENT;
    r = security_check_user(s, caller, name, NULL, e);
    if (r >= 0)
        r = security_write_password(s, u, password);
    if (r < 0)
        return r;
    (void)security_end_sessions(s, name); /* in the file they name the old password */
    security_note(s, caller, "user-password", name);
    return 1;
}

int security_set_roles(Security *s, const Subject *caller, const char *name, char *const *roles,
                       hybus_config_error *e)
{
    User *u = store_user(s->store, name);
    char principal[80];
    int r;

    if (!u)
        return -ENOENT;
    r = security_check_user(s, caller, name, roles, e);
    if (r >= 0)
        r = store_set_roles(s->store, u, roles);
    if (r < 0)
        return r;
    snprintf(principal, sizeof principal, "user:%s", name);
    security_move_principal(s, principal);
    security_note(s, caller, "SetUserRoles", name);
    r = store_save(s->store);
    return r < 0 ? r : 1;
}

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
    for (size_t i = 0; i < s->store->n_certificates; i++)
        if (streq(s->store->certificates[i].principal, principal) &&
            !s->store->certificates[i].revoked)
            s->store->certificates[i].revoked = store_now(s->store);
    consent_forget_subject(s->consent, principal);
    (void)security_end_sessions(s, name); /* in the file they name a password that nobody has */
    security_move_principal(s, principal);
    security_note(s, caller, "RemoveUser", name);
    r = store_save(s->store);
    return r < 0 ? r : 1;
}

int security_check_from_outside(Security *s, const Subject *caller, const char *as,
                                char *const *roles, hybus_config_error *e)
{
    int r = check_rights_from_outside(s, caller, "remote", roles, e);

    return r < 0 || !as ? r : security_check_user(s, caller, as + strlen("user:"), NULL, e);
}

/* --- tokens ---------------------------------------------------------------------------------- */

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

int security_add_token(Security *s, const Subject *caller, const char *name, const char *as,
                       char *const *roles, uint64_t lifetime_usec, char **ret_secret,
                       hybus_config_error *e)
{
    char own[80];
    int r;

    if (!principal_name_is_valid(name))
        return -EINVAL;
    snprintf(own, sizeof own, "token:%s", name);
    if (words_count(roles) > 64)
        return -EINVAL;
    if (as && (!startswith(as, "user:") || !store_user(s->store, as + strlen("user:"))))
        return -ENOENT;
    r = check_rights_from_outside(s, caller, own, roles, e);
    if (r >= 0 && as)
        r = security_check_user(s, caller, as + strlen("user:"), NULL, e);
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
