/* SPDX-License-Identifier: Apache-2.0 */
#include "json.h"

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int hybus_base64_encode(const void *data, size_t size, char **ret)
{
    const uint8_t *d = data;
    char *text, *t;

    if (size > SIZE_MAX / 2)
        return -E2BIG;
    text = t = malloc((size + 2) / 3 * 4 + 1);
    if (!text)
        return -ENOMEM;
    for (size_t i = 0; i < size; i += 3) {
        size_t left = size - i;
        uint32_t v =
            (uint32_t)d[i] << 16 | (left > 1 ? d[i + 1] << 8 : 0) | (left > 2 ? d[i + 2] : 0);

        *t++ = alphabet[v >> 18];
        *t++ = alphabet[v >> 12 & 63];
        *t++ = left > 1 ? alphabet[v >> 6 & 63] : '=';
        *t++ = left > 2 ? alphabet[v & 63] : '=';
    }
    *t = 0;
    *ret = text;
    return 0;
}

static int digit(char c)
{
    if (c >= 'A' && c <= 'Z')
        return c - 'A';
    if (c >= 'a' && c <= 'z')
        return c - 'a' + 26;
    if (c >= '0' && c <= '9')
        return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
}

int hybus_base64_decode(const char *text, size_t length, void **ret, size_t *ret_size)
{
    size_t padding = 0, n = 0;
    _cleanup_(freep) uint8_t *data = NULL;

    if (length % 4)
        return -EBADMSG;
    while (padding < 2 && padding < length && text[length - 1 - padding] == '=')
        padding++;
    data = malloc(length / 4 * 3 + 1);
    if (!data)
        return -ENOMEM;
    for (size_t i = 0; i < length; i += 4) {
        size_t pad = i + 4 == length ? padding : 0;
        uint32_t v = 0;

        for (size_t j = 0; j < 4; j++) {
            int d = j < 4 - pad ? digit(text[i + j]) : 0;

            if (d < 0)
                return -EBADMSG;
            v = v << 6 | (uint32_t)d;
        }
        if ((pad == 1 && v & 0xff) || (pad == 2 && v & 0xffff))
            return -EBADMSG;
        data[n++] = v >> 16;
        if (pad < 2)
            data[n++] = v >> 8;
        if (pad < 1)
            data[n++] = v;
    }
    *ret = TAKE_PTR(data);
    *ret_size = n;
    return 0;
}
