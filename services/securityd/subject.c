/* SPDX-License-Identifier: Apache-2.0 */
#include "subject.h"

#include <grp.h>
#include <pwd.h>

#include "words.h"

bool principal_name_is_valid(const char *name)
{
    return word_is_made_of(name, 64, "_-");
}

bool uid_may_hold(uint32_t uid)
{
    return uid != 65534 && uid != 65535 && uid != UINT32_MAX && !(uid >= 61184 && uid <= 65519);
}

bool gid_may_hold(uint32_t gid)
{
    return uid_may_hold(gid);
}

static int parse_id(const char *s, uint32_t *ret)
{
    unsigned long long value;
    char *end;

    if (*s < '0' || *s > '9' || (*s == '0' && s[1]) || strlen(s) > 10)
        return -EINVAL;
    value = strtoull(s, &end, 10);
    if (*end || value >= UINT32_MAX)
        return -EINVAL;
    *ret = (uint32_t)value;
    return 0;
}

static int canonical(char **ret, const char *prefix, uint32_t id)
{
    return asprintf(ret, "%s:%u", prefix, id) < 0 ? -ENOMEM : 0;
}

static int unresolved(char **ret, const char *word)
{
    char *copy = strdup(word);

    if (!copy)
        return -ENOMEM;
    *ret = copy;
    return -ENOENT;
}

static bool local_name_is_valid(const char *s)
{
    size_t n = strlen(s);

    if (n < 1 || n > 64)
        return false;
    for (; *s; s++)
        if (*s <= ' ' || *s >= 127 || *s == ':' || *s == '/')
            return false;
    return true;
}

int subject_parse(const char *word, char **ret)
{
    static const char *const plain[] = {"anonymous", "local", "remote", "anyone"};
    const char *rest;
    uint32_t id;

    for (size_t i = 0; i < ELEMENTS(plain); i++)
        if (streq(word, plain[i]))
            return (*ret = strdup(word)) ? 0 : -ENOMEM;
    if ((rest = startswith(word, "uid:")))
        return parse_id(rest, &id) < 0 ? -EINVAL : canonical(ret, "uid", id);
    if ((rest = startswith(word, "gid:")))
        return parse_id(rest, &id) < 0 ? -EINVAL : canonical(ret, "gid", id);
    if ((rest = startswith(word, "unix:"))) {
        const struct passwd *pw;

        if (!local_name_is_valid(rest))
            return -EINVAL;
        pw = getpwnam(rest);
        return pw ? canonical(ret, "uid", pw->pw_uid) : unresolved(ret, word);
    }
    if ((rest = startswith(word, "group:"))) {
        const struct group *gr;

        if (!local_name_is_valid(rest))
            return -EINVAL;
        gr = getgrnam(rest);
        return gr ? canonical(ret, "gid", gr->gr_gid) : unresolved(ret, word);
    }
    if ((rest = startswith(word, "user:")) || (rest = startswith(word, "token:")) ||
        (rest = startswith(word, "role:")) || (rest = startswith(word, "node:"))) {
        if (!principal_name_is_valid(rest))
            return -EINVAL;
        return (*ret = strdup(word)) ? 0 : -ENOMEM;
    }
    if ((rest = startswith(word, "cert:"))) {
        if (strlen(rest) != 64 || strspn(rest, "0123456789abcdef") != 64)
            return -EINVAL;
        return (*ret = strdup(word)) ? 0 : -ENOMEM;
    }
    return -EINVAL;
}
