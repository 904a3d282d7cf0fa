/* SPDX-License-Identifier: Apache-2.0 */
#include "state-file.h"

#include <fcntl.h>
#include <hybus/file.h>
#include <openssl/sha.h>
#include <sys/stat.h>

#define HEADER_MAX 160u

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

/* What is only in the page cache would be gone after a crash, and the old content with it. */
static int write_file(const char *directory, const char *name, const char *header, const char *data,
                      size_t size, unsigned mode)
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
    r = write_all(fd, header, strlen(header));
    if (r >= 0)
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

int write_file_atomically(const char *directory, const char *name, const char *data, size_t size,
                          unsigned mode)
{
    return write_file(directory, name, "", data, size, mode);
}

/* Whoever else could have written it could have made users, tokens or a whole policy. */
static bool is_ours(const struct stat *st)
{
    return (st->st_uid == 0 || st->st_uid == geteuid()) && !(st->st_mode & (S_IWGRP | S_IWOTH));
}

int read_file_limited(const char *directory, const char *name, size_t max, char **ret,
                      size_t *ret_size)
{
    _cleanup_(closep) int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;
    struct stat st;
    void *data;
    int r;

    if (dir < 0)
        return -errno;
    fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return -EBADMSG;
    if (!is_ours(&st))
        return -EPERM;
    r = hybus_file_read(fd, max, &data, ret_size);
    if (r >= 0)
        *ret = data;
    return r;
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

/* "hybridos-KIND 1 sha256 HEX\n" before the content. */
static int header_of(const char *kind, const char *data, size_t size, char *ret, size_t ret_size)
{
    uint8_t hash[SHA256_SIZE];
    char hex[2 * SHA256_SIZE + 1];
    int n;

    sha256(data, size, hash);
    hex_encode(hash, sizeof hash, hex);
    n = snprintf(ret, ret_size, "hybridos-%s 1 sha256 %s\n", kind, hex);
    return n < 0 || (size_t)n >= ret_size ? -ENAMETOOLONG : n;
}

int write_checked_file(const char *directory, const char *name, const char *kind, const char *data,
                       size_t size)
{
    char header[HEADER_MAX];
    int r = header_of(kind, data, size, header, sizeof header);

    return r < 0 ? r : write_file(directory, name, header, data, size, 0600);
}

int read_checked_file(const char *directory, const char *name, const char *kind, size_t max,
                      char **ret, size_t *ret_size)
{
    _cleanup_(freep) char *text = NULL;
    char header[HEADER_MAX], *newline;
    size_t size, first;
    int r = read_file_limited(directory, name, max + HEADER_MAX, &text, &size);

    if (r < 0)
        return r;
    newline = memchr(text, '\n', MIN_OF(size, sizeof header));
    if (!newline)
        return -EBADMSG;
    first = (size_t)(newline - text) + 1;
    r = header_of(kind, text + first, size - first, header, sizeof header);
    if (r < 0 || (size_t)r != first || memcmp(text, header, first) != 0)
        return r < 0 ? r : -EBADMSG;
    memmove(text, text + first, size - first + 1);
    *ret = TAKE_PTR(text);
    *ret_size = size - first;
    return 0;
}
