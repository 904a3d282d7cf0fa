/* SPDX-License-Identifier: Apache-2.0 */
#include "file.h"

#include <sys/stat.h>

int hybus_file_read(int fd, size_t max, void **ret, size_t *ret_size)
{
    _cleanup_(freep) uint8_t *data = NULL;
    size_t size, done = 0;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EBADMSG;
    if (st.st_size < 0 || (uint64_t)st.st_size > max)
        return -EFBIG;
    size = (size_t)st.st_size;
    data = malloc(size + HYBUS_FILE_PADDING);
    if (!data)
        return -ENOMEM;
    while (done < size) {
        ssize_t n = read(fd, data + done, size - done);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0) /* cut meanwhile */
            break;
        done += (size_t)n;
    }
    memset(data + done, 0, HYBUS_FILE_PADDING);
    *ret = TAKE_PTR(data);
    *ret_size = done;
    return 0;
}
