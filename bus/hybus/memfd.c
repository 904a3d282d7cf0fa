/* SPDX-License-Identifier: Apache-2.0 */
#include "memfd.h"

#include <fcntl.h>
#include <sys/stat.h>

int hybus_memfd_open(int fd, int wanted, uint64_t max, int *ret_fd, uint64_t *ret_size)
{
    int seals = fcntl(fd, F_GET_SEALS), own;
    char path[32];
    struct stat st;

    if (seals < 0 || (seals & wanted) != wanted || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) ||
        st.st_size < 0)
        return -EBADMSG;
    if ((uint64_t)st.st_size > max)
        return -EFBIG;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    own = open(path, O_RDONLY | O_CLOEXEC);
    if (own < 0)
        return -errno;
    *ret_fd = own;
    *ret_size = (uint64_t)st.st_size;
    return 0;
}
