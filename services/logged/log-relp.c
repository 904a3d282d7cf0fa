/* SPDX-License-Identifier: Apache-2.0 */
#include "log-relp.h"

/* Digits up to a separator; what follows them is at `*at`. 0: cut off. */
static int number(const char *data, size_t size, size_t *at, uint32_t max, uint32_t *ret)
{
    size_t from = *at;
    uint64_t n = 0;

    for (; *at < size && data[*at] >= '0' && data[*at] <= '9'; ++*at) {
        n = n * 10 + (uint64_t)(data[*at] - '0');
        if (n > max)
            return -EBADMSG;
    }
    if (*at == size)
        return 0;
    if (*at == from)
        return -EBADMSG;
    *ret = (uint32_t)n;
    return 1;
}

ssize_t log_relp_parse(const void *bytes, size_t size, log_relp_frame *ret)
{
    const char *data = bytes;
    log_relp_frame f = {};
    size_t at = 0, n = 0;
    uint32_t length;
    int r;

    r = number(data, size, &at, LOG_RELP_TXNR_MAX, &f.txnr);
    if (r <= 0)
        return r;
    if (data[at++] != ' ')
        return -EBADMSG;
    for (; at < size && data[at] >= 'a' && data[at] <= 'z'; at++) {
        if (n == sizeof(f.command) - 1)
            return -EBADMSG;
        f.command[n++] = data[at];
    }
    if (at == size)
        return 0;
    if (n == 0 || data[at++] != ' ')
        return -EBADMSG;
    r = number(data, size, &at, LOG_RELP_DATA_MAX, &length);
    if (r <= 0)
        return r;
    if (data[at] == ' ')
        at++;
    else if (length > 0)
        return -EBADMSG;
    if (size - at < (size_t)length + 1)
        return 0;
    f.data = data + at;
    f.size = length;
    if (data[at + length] != '\n')
        return -EBADMSG;
    *ret = f;
    return (ssize_t)(at + length + 1);
}

int log_relp_status(const log_relp_frame *f)
{
    if (!streq(f->command, "rsp") || f->size < 3)
        return -EBADMSG;
    for (unsigned i = 0; i < 3; i++)
        if (f->data[i] < '0' || f->data[i] > '9')
            return -EBADMSG;
    return (f->data[0] - '0') * 100 + (f->data[1] - '0') * 10 + (f->data[2] - '0');
}
