/* SPDX-License-Identifier: Apache-2.0 */
#include "state-file.h"

#include <fcntl.h>
#include <openssl/sha.h>
#include <sys/stat.h>

static int write_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

int write_file_atomically(const char *directory, const char *name, const char *data, size_t size,
                          unsigned mode)
{
    _cleanup_(closep) int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;
    char temporary[300];
    int r;

    if (dir < 0)
        return -errno;
    if ((size_t)snprintf(temporary, sizeof temporary, ".%s.new", name) >= sizeof temporary)
        return -ENAMETOOLONG;
    if (unlinkat(dir, temporary, 0) < 0 && errno != ENOENT)
        return -errno;
    fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return -errno;
    r = write_all(fd, data, size);
    if (r >= 0 && fchmod(fd, mode) < 0) /* the umask is for files that nobody thought about */
        r = -errno;
    if (r >= 0 && fsync(fd) < 0)
        r = -errno;
    if (r >= 0 && renameat(dir, temporary, dir, name) < 0)
        r = -errno;
    if (r < 0) {
        (void)unlinkat(dir, temporary, 0);
        return r;
    }
    return fsync(dir) < 0 ? -errno : 0;
}

int read_file_limited(const char *directory, const char *name, size_t max, char **ret,
                      size_t *ret_size)
{
    _cleanup_(closep) int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;
    _cleanup_(freep) char *data = NULL;
    struct stat st;
    size_t size = 0;

    if (dir < 0)
        return -errno;
    fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EBADMSG;
    if (st.st_size < 0 || (size_t)st.st_size > max)
        return -EFBIG;
    data = malloc((size_t)st.st_size + 1);
    if (!data)
        return -ENOMEM;
    while (size < (size_t)st.st_size) {
        ssize_t n = read(fd, data + size, (size_t)st.st_size - size);

        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        size += (size_t)n;
    }
    data[size] = '\0';
    *ret = TAKE_PTR(data);
    *ret_size = size;
    return 0;
}

void sha256(const void *data, size_t size, uint8_t ret[SHA256_SIZE])
{
    SHA256(data, size, ret);
}

void hex_encode(const uint8_t *data, size_t size, char *ret)
{
    for (size_t i = 0; i < size; i++)
        sprintf(ret + 2 * i, "%02x", data[i]);
    ret[2 * size] = '\0';
}

int hex_decode(const char *s, uint8_t *ret, size_t size)
{
    static const char digits[] = "0123456789abcdef";

    if (strlen(s) != 2 * size || strspn(s, digits) != 2 * size)
        return -EINVAL;
    for (size_t i = 0; i < size; i++)
        ret[i] = (uint8_t)((strchr(digits, s[2 * i]) - digits) << 4 |
                           (strchr(digits, s[2 * i + 1]) - digits));
    return 0;
}
