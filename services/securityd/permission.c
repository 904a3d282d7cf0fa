/* SPDX-License-Identifier: Apache-2.0 */
#include "permission.h"

/* The stem "log.read", then perhaps ":" and a namespace or other printable object. */
static bool permission_check(const char *name, bool open_end)
{
    size_t n = strlen(name), stem = strcspn(name, ":");

    if (n < 1 || n > POLICY_NAME_MAX)
        return false;
    if (open_end && streq(name, "*"))
        return true;
    if (open_end && name[n - 1] == '*') {
        char before = n > 1 ? name[n - 2] : '\0';
        if (stem < n ? (before != '/' && before != ':') : before != '.')
            return false;
        n--;
    }
    for (size_t i = 0; i < n; i++) {
        char c = name[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');

        if (i < stem) {
            /* no empty part: neither ".x" nor "x..y" nor "x.:y" */
            if (!letter && c != '_' && c != '-' && c != '.')
                return false;
            if (c == '.' && (i == 0 || name[i - 1] == '.' || i + 1 == stem))
                return false;
        } else if (!(i == stem && c == ':') && !letter && !strchr("/._~-:@", c))
            return false;
    }
    if (stem < strlen(name) && n == stem + 1 && name[n] != '*')
        return false;
    return stem > 0;
}

bool permission_is_valid(const char *name)
{
    return permission_check(name, false);
}

bool permission_pattern_is_valid(const char *name)
{
    return permission_check(name, true);
}

bool permission_is_open(const char *pattern)
{
    size_t n = strlen(pattern);
    return n > 0 && pattern[n - 1] == '*';
}

bool permission_pattern_covers(const char *pattern, const char *other)
{
    size_t n = strlen(pattern);

    if (streq(pattern, other))
        return true;
    if (!permission_is_open(pattern))
        return false;
    if (strncmp(pattern, other, n - 1) == 0)
        return true;
    /* "x:/thermo" followed by "/" and "*" is that namespace and all below */
    return n > 3 && pattern[n - 2] == '/' && strchr(pattern, ':') && strlen(other) == n - 2 &&
           strncmp(pattern, other, n - 2) == 0;
}
