/* SPDX-License-Identifier: Apache-2.0 */
#include "log-sink-state.h"

#include <fcntl.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SLOT_SIZE 512u

typedef struct slot {
    uint64_t checksum; /* of what follows */
    uint64_t count, destination;
    log_sink_place place;
} slot;

_Static_assert(sizeof(slot) <= SLOT_SIZE, "a slot is one sector");

uint64_t log_sink_hash(const void *data, size_t size)
{
    return XXH3_64bits(data, size);
}

static uint64_t checksum(const slot *s)
{
    return log_sink_hash(&s->count, sizeof(*s) - offsetof(slot, count));
}

/* The newer one of those that are whole. */
static int newest(int fd, slot *ret)
{
    slot s, best = {};

    for (unsigned i = 0; i < 2; i++)
        if (pread(fd, &s, sizeof(s), (off_t)(i * SLOT_SIZE)) == sizeof(s) &&
            s.checksum == checksum(&s) && s.count > best.count)
            best = s;
    *ret = best;
    return best.count > 0 ? 0 : -ENOENT;
}

static int read_place(int fd, uint64_t destination, log_sink_place *ret, uint64_t *ret_count)
{
    slot s;

    if (newest(fd, &s) < 0)
        return -ENOENT;
    *ret_count = s.count;
    if (destination != 0 && s.destination != destination)
        return -ENOENT;
    *ret = s.place;
    return 0;
}

int log_sink_state_open(log_sink_state *s, const char *path, uint64_t destination,
                        log_sink_place *ret)
{
    *s = (log_sink_state){.fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600)};
    return s->fd < 0 ? -ENOENT : read_place(s->fd, destination, ret, &s->count);
}

int log_sink_state_read(const char *path, uint64_t destination, log_sink_place *ret)
{
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    uint64_t count;

    return fd < 0 ? -ENOENT : read_place(fd, destination, ret, &count);
}

int log_sink_state_write(log_sink_state *s, uint64_t destination, const log_sink_place *p)
{
    slot new = {.count = s->count + 1, .destination = destination, .place = *p};
    ssize_t n;

    if (s->fd < 0)
        return -EBADF;
    new.checksum = checksum(&new);
    n = pwrite(s->fd, &new, sizeof(new), (off_t)(new.count % 2 * SLOT_SIZE));
    if (n != sizeof(new))
        return n < 0 ? -errno : -EIO;
    s->count++;
    return 0;
}

void log_sink_state_done(log_sink_state *s)
{
    s->fd = safe_close(s->fd);
}
