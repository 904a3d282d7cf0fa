/* SPDX-License-Identifier: Apache-2.0 */
#include "log-store.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "log-map.h"

struct log_store {
    log_map map; /* head, data, copy of the head */
    int fd;      /* -1: memory alone */
    uint8_t *data;
    uint64_t size;
    uint32_t mark;
    uint16_t boot;
    /* Where the next record goes, where the oldest stands, where the last lap ended: offsets in
     * `data`. From `oldest` to `lap_end`, then from 0 to `write`; or in one piece. */
    uint64_t write, oldest, lap_end;
    uint64_t newest; /* offset; only if live > 0 */
    uint32_t live, next_ordinal;
    uint64_t last_seq;
    uint64_t stored, overwritten, lost;
    int error;
};

static log_record *record_at(const log_store *s, uint64_t offset)
{
    return (log_record *)(void *)(s->data + offset);
}

static uint64_t offset_of(const log_store *s, const log_record *r)
{
    return (uint64_t)((const uint8_t *)r - s->data);
}

static log_file_head *head(const log_store *s)
{
    return (log_file_head *)(void *)s->map.bytes;
}

static bool intact_at(const log_store *s, uint64_t offset)
{
    return offset < s->size && log_record_intact(record_at(s, offset), s->size - offset, s->mark);
}

/* --- writing --------------------------------------------------------------------------------- */

/* The record that follows the one at `offset`, also when that one or some after it are damaged; the
 * write position when there is none. Takes up to `live` records, so it needs not look at the age.
 */
static uint64_t follow(log_store *s, uint64_t offset)
{
    bool behind = offset >= s->write; /* in the part of the lap before */
    uint64_t end = behind ? s->lap_end : s->write, at;

    at = intact_at(s, offset) ? offset + log_record_padded(record_at(s, offset)->size) : offset + 8;
    for (;;) {
        while (at < end && !intact_at(s, at))
            at += 8;
        if (at < end)
            return at;
        if (!behind)
            return s->write;
        behind = false;
        at = 0;
        end = s->write;
    }
}

/* Takes the oldest out, and says so in the file before anything is written over it: how memory is
 * copied is not in our hand, and of those that make room a later one must not go before an earlier
 * one. */
static void evict(log_store *s)
{
    uint64_t going = s->oldest;
    uint32_t before = s->next_ordinal - s->live, gone;
    uint64_t next;

    if (s->live == 1 || s->oldest == s->newest) {
        gone = s->live;
    } else {
        next = follow(s, s->oldest);
        if (next == s->write) { /* all that is left is damaged */
            gone = s->live;
        } else {
            gone = record_at(s, next)->ordinal - before;
            if (gone == 0 || gone > s->live) /* cannot be: take it as one, and look again */
                gone = 1;
            s->oldest = next;
        }
    }
    __atomic_store_n(&record_at(s, going)->mark, 0, __ATOMIC_RELEASE);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    s->live -= gone;
    s->overwritten += gone;
    if (s->live == 0)
        s->oldest = s->write;
}

/* Makes room for `need` bytes at the write position, which may move to the start. */
static void make_room(log_store *s, uint64_t need)
{
    if (s->write + need > s->size) {
        while (s->live > 0 && s->oldest >= s->write)
            evict(s);
        /* Nothing of earlier laps may show up here as a record. */
        memset(s->data + s->write, 0, s->size - s->write);
        s->lap_end = s->write;
        s->write = 0;
        if (s->live == 0)
            s->oldest = 0;
    }
    while (s->live > 0 && s->oldest >= s->write && s->oldest < s->write + need)
        evict(s);
}

log_record *log_store_begin(log_store *s, uint32_t fields_size)
{
    log_record *r;

    make_room(s, log_record_padded((uint32_t)sizeof(*r) + fields_size));
    r = record_at(s, s->write);
    r->checksum = 0;
    return r;
}

void log_store_commit(log_store *s, log_record *r, uint32_t fields_size)
{
    uint64_t offset = offset_of(s, r);

    if (s->live == 0)
        s->oldest = offset;
    r->mark = s->mark;
    r->size = (uint32_t)sizeof(*r) + fields_size;
    r->ordinal = s->next_ordinal++;
    r->live = ++s->live;
    r->back = s->live > 1 && s->newest < offset ? (uint32_t)(offset - s->newest) : 0;
    /* The padding is not covered by the checksum, but it is part of the file. */
    memset((uint8_t *)r + r->size, 0, log_record_padded(r->size) - r->size);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    r->checksum = log_record_checksum(r);
    s->newest = offset;
    s->write = offset + log_record_padded(r->size);
    s->last_seq = r->seq;
    s->stored++;
}

/* --- reading --------------------------------------------------------------------------------- */

const log_record *log_store_oldest(log_store *s)
{
    uint64_t at;

    if (s->live == 0)
        return NULL;
    if (intact_at(s, s->oldest))
        return record_at(s, s->oldest);
    at = follow(s, s->oldest);
    return at == s->write ? NULL : record_at(s, at);
}

const log_record *log_store_next(log_store *s, const log_record *r)
{
    uint64_t at;

    if (offset_of(s, r) == s->newest)
        return NULL;
    at = follow(s, offset_of(s, r));
    return at == s->write ? NULL : record_at(s, at);
}

const log_record *log_store_next_of_intact(log_store *s, const log_record *r)
{
    uint64_t at = offset_of(s, r) + log_record_padded(r->size);

    /* The usual case: it stands right behind, in the same part of the lap. */
    if (offset_of(s, r) != s->newest && at != s->write &&
        at < (offset_of(s, r) >= s->write ? s->lap_end : s->write) && intact_at(s, at))
        return record_at(s, at);
    return log_store_next(s, r);
}

const log_record *log_store_newest(log_store *s)
{
    const log_record *r, *last = NULL;

    if (s->live == 0)
        return NULL;
    if (intact_at(s, s->newest))
        return record_at(s, s->newest);
    for (r = log_store_oldest(s); r; r = log_store_next(s, r))
        last = r;
    return last;
}

static const log_record *previous_by_walking(log_store *s, const log_record *r)
{
    const log_record *at, *last = NULL;

    for (at = log_store_oldest(s); at && at != r; at = log_store_next(s, at))
        last = at;
    return at ? last : NULL;
}

const log_record *log_store_previous(log_store *s, const log_record *r)
{
    uint64_t offset = offset_of(s, r);
    const log_record *before;

    if (offset == s->oldest)
        return NULL;
    if (r->back == 0 || r->back > offset)
        return previous_by_walking(s, r);
    before = record_at(s, offset - r->back);
    if (!intact_at(s, offset - r->back) || before->ordinal != r->ordinal - 1)
        return previous_by_walking(s, r);
    /* Behind the write position the one before may be gone already. */
    if (offset >= s->write && s->oldest >= s->write && offset - r->back < s->oldest)
        return NULL;
    return before;
}

log_place log_store_place(const log_store *s, const log_record *r)
{
    return r ? (log_place){.offset = offset_of(s, r), .seq = r->seq} : (log_place){};
}

const log_record *log_store_at(log_store *s, log_place p)
{
    const log_record *r;

    if (p.seq == 0 || s->live == 0 || p.offset % 8 != 0 || !intact_at(s, p.offset))
        return NULL;
    r = record_at(s, p.offset);
    if (r->seq != p.seq || s->next_ordinal - 1 - r->ordinal >= s->live)
        return NULL;
    return r;
}

const log_record *log_store_after(log_store *s, uint64_t seq)
{
    const log_record *r = log_store_newest(s);

    if (!r || r->seq <= seq)
        return NULL;
    for (r = log_store_oldest(s); r && r->seq <= seq; r = log_store_next(s, r))
        ;
    return r;
}

const log_file_head *log_store_head(const log_store *s)
{
    return head(s);
}

uint16_t log_store_boot(const log_store *s)
{
    return s->boot;
}

void log_store_statistics_get(const log_store *s, log_store_statistics *ret)
{
    uint64_t used = 0;

    if (s->live > 0)
        used = s->oldest < s->write ? s->write - s->oldest : s->lap_end - s->oldest + s->write;
    *ret = (log_store_statistics){
        .records = s->live,
        .bytes = used,
        .size = s->size,
        .stored = s->stored,
        .overwritten = s->overwritten,
        .lost = s->lost,
        .error = s->error,
        .saved = s->fd >= 0 && !s->map.failed,
    };
}

/* --- the disk ----------------------------------------------------------------------------------
 */

int log_store_fd(const log_store *s)
{
    return s->map.failed ? -1 : s->fd;
}

void log_store_synced(log_store *s, uint64_t seq, uint32_t ordinal, uint32_t live)
{
    log_file_head *h = head(s);
    log_file_synced now = {.seq = seq, .ordinal = ordinal, .live = live};
    unsigned slot = h->synced[0].count > h->synced[1].count;

    now.count = h->synced[!slot].count + 1;
    now.checksum = log_file_synced_checksum(&now);
    h->synced[slot] = now;
}

int log_store_sync(log_store *s)
{
    int fd = log_store_fd(s);

    if (fd < 0)
        return s->error < 0 ? s->error : -ENODEV;
    if (fdatasync(fd) < 0)
        return -errno;
    if (s->live > 0)
        log_store_synced(s, s->last_seq, s->next_ordinal - 1, s->live);
    return fdatasync(fd) < 0 ? -errno : 0;
}

bool log_store_failed(log_store *s)
{
    if (!s->map.failed || s->error)
        return false;
    s->error = -EIO;
    return true;
}

void log_store_rest(log_store *s)
{
    if (s->fd >= 0 && !s->map.failed)
        (void)madvise(s->map.bytes, s->map.size, MADV_DONTNEED);
}

/* --- opening ------------------------------------------------------------------------------------
 */

static uint64_t whole_size(uint64_t wanted)
{
    wanted = MAX_OF(wanted, (uint64_t)LOG_FILE_SIZE_MIN);
    wanted = MIN_OF(wanted, (uint64_t)LOG_FILE_SIZE_MAX);
    return wanted & ~(uint64_t)(LOG_FILE_HEAD_SIZE - 1);
}

static void head_write(log_store *s)
{
    log_file_head *h = head(s);

    h->checksum = log_file_head_checksum(h);
    /* One of the two is whole at any moment. */
    memcpy(s->map.bytes + s->map.size - LOG_FILE_HEAD_SIZE, h, sizeof(*h));
}

static int head_make(log_store *s, const log_store_options *o)
{
    log_file_head *h = head(s);

    memset(h, 0, LOG_FILE_HEAD_SIZE);
    memcpy(h->magic, LOG_FILE_MAGIC, sizeof(h->magic));
    h->version = LOG_FILE_VERSION;
    h->head_size = LOG_FILE_HEAD_SIZE;
    h->file_size = s->map.size;
    h->data_size = s->size;
    h->created = o->realtime;
    while (h->mark == 0)
        if (getrandom(h->id, sizeof(h->id), 0) != sizeof(h->id) ||
            getrandom(&h->mark, sizeof(h->mark), 0) != sizeof(h->mark))
            return -EIO;
    s->mark = h->mark;
    return 0;
}

/* The boot's number, a new one unless the newest in the head is this boot already. */
static void head_boot(log_store *s, const uint8_t id[16])
{
    log_file_head *h = head(s);
    log_file_boot *b = &h->boots[(h->n_boots - 1) % LOG_FILE_BOOTS];

    if (h->n_boots == 0 || memcmp(b->id, id, sizeof(b->id)) != 0) {
        b = &h->boots[h->n_boots % LOG_FILE_BOOTS];
        memcpy(b->id, id, sizeof(b->id));
        b->number = h->n_boots++;
        head_write(s);
    }
    s->boot = (uint16_t)b->number;
}

static void adopt_map(log_store *s)
{
    s->data = s->map.bytes + LOG_FILE_HEAD_SIZE;
    s->size = s->map.size - 2u * LOG_FILE_HEAD_SIZE;
    s->lap_end = s->size;
}

static int map_memory(log_store *s, uint64_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (p == MAP_FAILED)
        return -ENOMEM;
    s->map = (log_map){.bytes = p, .size = size};
    adopt_map(s);
    return 0;
}

static int map_file(log_store *s, int fd, uint64_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (p == MAP_FAILED)
        return -errno;
    s->map = (log_map){.bytes = p, .size = size};
    if (log_map_guard(&s->map) < 0) {
        munmap(p, size);
        s->map = (log_map){};
        return -ENOBUFS;
    }
    s->fd = fd;
    adopt_map(s);
    return 0;
}

/* Goes on after what stands in the file. */
static void take_up(log_store *s, const log_file *f)
{
    const log_record *newest;

    s->lost = f->lost;
    s->mark = head(s)->mark;
    if (f->n == 0)
        return;
    newest = log_file_record(f, f->n - 1);
    s->newest = f->offsets[f->n - 1] - LOG_FILE_HEAD_SIZE;
    s->oldest = f->offsets[0] - LOG_FILE_HEAD_SIZE;
    s->write = s->newest + log_record_padded(newest->size);
    s->next_ordinal = newest->ordinal + 1;
    s->live = newest->ordinal - log_file_record(f, 0)->ordinal + 1;
    s->last_seq = newest->seq;
    /* The end of the lap before: nothing intact of it stands behind that. */
    s->lap_end = s->write;
    for (size_t i = 0; i < f->n; i++) {
        uint64_t end =
            f->offsets[i] - LOG_FILE_HEAD_SIZE + log_record_padded(log_file_record(f, i)->size);
        s->lap_end = MAX_OF(s->lap_end, end);
    }
}

/* Into an empty ring, as new as they come, with the boots' numbers as they were. */
static void copy_records(log_store *s, const log_file *f)
{
    log_file_head *h = head(s);

    s->lost = f->lost;
    if (f->head) {
        memcpy(h->boots, f->head->boots, sizeof(h->boots));
        h->n_boots = f->head->n_boots;
    }
    for (size_t i = 0; i < f->n; i++) {
        const log_record *from = log_file_record(f, i);
        uint32_t fields = from->size - (uint32_t)sizeof(*from);
        log_record *to = log_store_begin(s, fields);

        memcpy((uint8_t *)to + 8, (const uint8_t *)from + 8, from->size - 8);
        log_store_commit(s, to, fields);
    }
    s->stored = s->overwritten = 0;
}

static int new_ring(log_store *s, const log_store_options *o, const log_file *old)
{
    int r = head_make(s, o);

    if (r < 0)
        return r;
    if (old)
        copy_records(s, old);
    head_write(s);
    return 0;
}

static int make_file(const char *path, uint64_t size)
{
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0640), r;

    if (fd < 0)
        return -errno;
    /* All blocks now: a store into a hole on a full disk would be a SIGBUS. */
    r = posix_fallocate(fd, 0, (off_t)size);
    if (r == 0)
        return fd;
    close(fd);
    (void)unlink(path);
    return -r;
}

/* A new file beside the old one, with what the old one has, and then in its place. */
static int replace_file(log_store *s, const log_store_options *o, uint64_t size,
                        const log_file *old)
{
    char path[PATH_MAX];
    int fd, r;

    if (snprintf(path, sizeof(path), "%s.new", o->path) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    (void)unlink(path);
    fd = make_file(path, size);
    if (fd < 0)
        return fd;
    r = map_file(s, fd, size);
    if (r < 0) {
        close(fd);
        (void)unlink(path);
        return r;
    }
    r = new_ring(s, o, old);
    if (r >= 0 && (fdatasync(fd) < 0 || rename(path, o->path) < 0))
        r = -errno;
    if (r < 0) {
        log_map_unguard(&s->map);
        munmap(s->map.bytes, s->map.size);
        (void)unlink(path);
        close(fd);
        *s = (log_store){.fd = -1};
    }
    return r;
}

/* The file as it is, when it is whole: of the right size, with its first head. */
static int open_as_it_is(log_store *s, const log_store_options *o, uint64_t size,
                         const log_file *old)
{
    _cleanup_(closep) int fd = -1;
    struct stat st;
    int r;

    if (old->size != size || (const void *)old->head != (const void *)old->bytes ||
        old->head->file_size != size)
        return -ESTALE;
    fd = open(o->path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0)
        return -errno;
    if ((uint64_t)st.st_size != size || (uint64_t)st.st_blocks * 512u < size)
        return -ESTALE; /* with holes: made by a copy; the disk might be full when they fill */
    r = map_file(s, fd, size);
    if (r < 0)
        return r;
    TAKE_FD(fd);
    take_up(s, old);
    return 0;
}

static void move_aside(const char *path)
{
    char bad[PATH_MAX];

    if (snprintf(bad, sizeof(bad), "%s.bad", path) < (int)sizeof(bad))
        (void)rename(path, bad);
}

static int open_file(log_store *s, const log_store_options *o, uint64_t size, const log_file *old)
{
    int r = -ESTALE;

    if (old)
        r = open_as_it_is(s, o, size, old);
    return r == -ESTALE ? replace_file(s, o, size, old) : r;
}

int log_store_open(const log_store_options *o, log_store **ret)
{
    _cleanup_(log_store_closep) log_store *s = calloc(1, sizeof(*s));
    uint64_t size = whole_size(o->size), old_size = 0;
    _cleanup_(log_file_done) log_file old = {};
    _cleanup_(freep) void *bytes = NULL;
    bool have = false;
    int r = 0;

    if (!s)
        return -ENOMEM;
    s->fd = -1;
    if (o->path) {
        r = log_file_read(o->path, &bytes, &old_size);
        if (r == -ENOMEM)
            return r;
        if (r >= 0) {
            r = log_file_scan(bytes, old_size, &old);
            have = r >= 0;
        }
        if (r == -EBADMSG || r == -EPROTONOSUPPORT)
            move_aside(o->path);
        r = open_file(s, o, size, have ? &old : NULL);
        if (r < 0)
            s->error = r;
    }
    if (!s->map.bytes) {
        r = map_memory(s, size);
        if (r >= 0)
            r = new_ring(s, o, have ? &old : NULL);
        if (r < 0)
            return r;
    }
    head_boot(s, o->boot_id);
    *ret = TAKE_PTR(s);
    return 0;
}

void log_store_close(log_store *s)
{
    if (!s)
        return;
    if (s->map.bytes) {
        log_map_unguard(&s->map);
        munmap(s->map.bytes, s->map.size);
    }
    safe_close(s->fd);
    free(s);
}
