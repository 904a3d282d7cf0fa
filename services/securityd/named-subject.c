/* SPDX-License-Identifier: Apache-2.0 */
#include "named-subject.h"

#include <grp.h>
#include <pwd.h>

void named_subject_done(NamedSubject *n)
{
    free(n->name);
    free(n->token);
    words_free(n->roles);
}

/* A uid without a name is a subject too: it has no groups then. */
static int read_groups(NamedSubject *n, uint32_t uid)
{
    const struct passwd *pw = getpwuid(uid);
    int count = POLICY_GROUPS_MAX;

    n->subject = (Subject){.uid = uid, .gids = n->gids};
    if (!pw)
        return 0;
    if (getgrouplist(pw->pw_name, pw->pw_gid, n->gids, &count) < 0)
        return -ENOBUFS;
    n->subject.n_gids = (size_t)count;
    return 0;
}

static int add_roles_of_user(Security *s, NamedSubject *n, const char *name)
{
    const User *u = store_user(s->store, name);
    int r = 0;

    for (char **role = u ? u->roles : NULL; r >= 0 && role && *role; role++)
        if (!words_contain(n->roles, *role))
            r = words_add(&n->roles, *role, strlen(*role));
    return r;
}

static int read_token(Security *s, NamedSubject *n, const char *name)
{
    const Token *t = store_token(s->store, name);
    int r = 0;

    if (!t)
        return -ENOENT;
    n->subject.ended = t->expires && t->expires <= store_now(s->store);
    n->name = strdup(t->principal);
    if (asprintf(&n->token, "token:%s", name) < 0)
        n->token = NULL;
    for (char **role = t->roles; r >= 0 && role && *role; role++)
        r = words_add(&n->roles, *role, strlen(*role));
    if (r >= 0 && startswith(t->principal, "user:"))
        r = add_roles_of_user(s, n, t->principal + strlen("user:"));
    return r < 0 || !n->name || !n->token ? -ENOMEM : 0;
}

static int read_remote(Security *s, NamedSubject *n, const char *word)
{
    const char *rest;
    int r = 0;

    if ((rest = startswith(word, "token:")))
        r = read_token(s, n, rest);
    else if ((rest = startswith(word, "user:")))
        r = store_user(s->store, rest) ? add_roles_of_user(s, n, rest) : -ENOENT;
    else if ((rest = startswith(word, "role:")))
        r = words_add(&n->roles, rest, strlen(rest));
    if (r < 0)
        return r;
    if (!n->name && !streq(word, "anonymous") && !(n->name = strdup(word)))
        return -ENOMEM;
    n->subject = (Subject){.remote = true,
                           .name = n->name,
                           .token = n->token,
                           .roles = n->roles,
                           .ended = n->subject.ended,
                           .encrypted = UNKNOWN};
    return 0;
}

int named_subject_parse(Security *s, const char *text, NamedSubject *ret)
{
    _cleanup_(freep) char *word = NULL;
    const char *rest;
    int r;

    *ret = (NamedSubject){0};
    if (strlen(text) > POLICY_NAME_MAX)
        return -EINVAL;
    r = subject_parse(text, &word);
    if (r < 0)
        return r;
    if (streq(word, "local") || streq(word, "remote") || streq(word, "anyone"))
        return -EINVAL;
    if ((rest = startswith(word, "uid:")))
        return read_groups(ret, (uint32_t)strtoul(rest, NULL, 10));
    if ((rest = startswith(word, "gid:"))) {
        ret->gids[0] = (uint32_t)strtoul(rest, NULL, 10);
        ret->subject = (Subject){.group_only = true, .gids = ret->gids, .n_gids = 1};
        return 0;
    }
    r = read_remote(s, ret, word);
    if (r < 0)
        named_subject_done(ret);
    return r;
}
