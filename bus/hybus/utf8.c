/* SPDX-License-Identifier: Apache-2.0 */
#include "utf8.h"

size_t hybus_utf8_sequence(const char *text, size_t size)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t n = s[0] < 0x80   ? 1
               : s[0] < 0xc2 ? 0
               : s[0] < 0xe0 ? 2
               : s[0] < 0xf0 ? 3
               : s[0] < 0xf5 ? 4
                             : 0;

    if (n == 0 || n > size)
        return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return n;
}

bool hybus_utf8_is_valid(const char *s, size_t size)
{
    for (size_t i = 0, n; i < size; i += n) {
        n = hybus_utf8_sequence(s + i, size - i);
        if (n == 0)
            return false;
    }
    return true;
}
