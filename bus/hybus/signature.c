/* SPDX-License-Identifier: Apache-2.0 */
#include "signature.h"

static bool is_basic(char c)
{
    return c && strchr("ybnqiuxtdsogh", c);
}

/* Recursion is bounded by the two nesting limits. */
static int first(const char *s, unsigned arrays, unsigned structs, bool in_array)
{
    int n, length;

    if (is_basic(*s) || *s == 'v')
        return 1;

    switch (*s) {
    case 'a':
        if (arrays >= HYBUS_SIGNATURE_ARRAYS_MAX)
            return -EINVAL;
        n = first(s + 1, arrays + 1, structs, true);
        return n < 0 ? n : n + 1;
    case '{':
        if (!in_array || structs >= HYBUS_SIGNATURE_STRUCTS_MAX || !is_basic(s[1]))
            return -EINVAL;
        n = first(s + 2, arrays, structs + 1, false);
        if (n < 0)
            return n;
        return s[2 + n] == '}' ? n + 3 : -EINVAL;
    case '(':
        if (structs >= HYBUS_SIGNATURE_STRUCTS_MAX)
            return -EINVAL;
        for (length = 1; s[length] != ')'; length += n) {
            n = first(s + length, arrays, structs + 1, false);
            if (n < 0)
                return n;
        }
        return length > 1 ? length + 1 : -EINVAL;
    default:
        return -EINVAL;
    }
}

int hybus_signature_first(const char *signature)
{
    int n = first(signature, 0, 0, false);

    return n > (int)HYBUS_SIGNATURE_MAX ? -EINVAL : n;
}

bool hybus_signature_is_valid(const char *signature)
{
    if (strnlen(signature, HYBUS_SIGNATURE_MAX + 1) > HYBUS_SIGNATURE_MAX)
        return false;
    while (*signature) {
        int n = first(signature, 0, 0, false);

        if (n < 0)
            return false;
        signature += n;
    }
    return true;
}

bool hybus_signature_is_single(const char *signature)
{
    int n;

    if (strnlen(signature, HYBUS_SIGNATURE_MAX + 1) > HYBUS_SIGNATURE_MAX)
        return false;
    n = first(signature, 0, 0, false);
    return n > 0 && !signature[n];
}
