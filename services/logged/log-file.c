/* SPDX-License-Identifier: Apache-2.0 */
#include "log-file.h"

#include <fcntl.h>
#include <hybus/file.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define MARKS_MAX 16u /* candidates when no head says which mark it is */

uint64_t log_file_head_checksum(const log_file_head *h)
{
    return XXH3_64bits(h, offsetof(log_file_head, checksum));
}

uint64_t log_file_synced_checksum(const log_file_synced *s)
{
    return XXH3_64bits((const uint8_t *)s + sizeof(s->checksum), sizeof(*s) - sizeof(s->checksum));
}

const uint8_t *log_file_boot_id(const log_file_head *h, uint16_t number)
{
    const log_file_boot *b = h ? &h->boots[number % LOG_FILE_BOOTS] : NULL;

    return b && h->n_boots > 0 && (uint16_t)b->number == number ? b->id : NULL;
}

static bool head_whole(const log_file_head *h)
{
    return memcmp(h->magic, LOG_FILE_MAGIC, sizeof(h->magic)) == 0 &&
           h->head_size == LOG_FILE_HEAD_SIZE && h->checksum == log_file_head_checksum(h) &&
           h->mark != 0;
}

static const log_record *record_at(const log_file *f, uint64_t offset)
{
    return (const log_record *)(const void *)(f->bytes + offset);
}

/* The head, or its copy: of the size that it tells, or, cut short or grown, at the very end. */
static int find_head(log_file *f)
{
    const log_file_head *first = (const log_file_head *)(const void *)f->bytes, *last = NULL;

    if (f->size >= 2u * LOG_FILE_HEAD_SIZE)
        last = (const log_file_head *)(const void *)(f->bytes + (f->size & ~7ull) -
                                                     LOG_FILE_HEAD_SIZE);
    if (f->size >= LOG_FILE_HEAD_SIZE && head_whole(first))
        f->head = first;
    else if (last && head_whole(last))
        f->head = last;
    f->data = 0;
    f->data_size = f->size;
    if (!f->head)
        return 0;
    if (f->head->version != LOG_FILE_VERSION)
        return -EPROTONOSUPPORT;
    f->mark = f->head->mark;
    f->data = LOG_FILE_HEAD_SIZE;
    f->data_size = MIN_OF(f->head->data_size, f->size > f->data ? f->size - f->data : 0);
    return 0;
}

/* Without a head the records have to say themselves whose they are: the mark that most of them
 * bear. What somebody wrote to look like a record has another one. */
static void vote_mark(log_file *f)
{
    struct {
        uint32_t mark;
        uint64_t n;
    } votes[MARKS_MAX] = {};
    uint64_t at = 0;

    while (at + sizeof(log_record) <= f->size) {
        const log_record *r = record_at(f, at);
        if (r->mark == 0 || !log_record_intact(r, f->size - at, r->mark)) {
            at += 8;
            continue;
        }
        for (unsigned i = 0; i < MARKS_MAX; i++)
            if (votes[i].n == 0 || votes[i].mark == r->mark) {
                votes[i].mark = r->mark;
                votes[i].n++;
                break;
            }
        at += log_record_padded(r->size);
    }
    for (unsigned i = 0, best = 0; i < MARKS_MAX && votes[i].n > 0; i++)
        if (votes[i].n > votes[best].n)
            f->mark = votes[best = i].mark;
        else if (i == 0)
            f->mark = votes[0].mark;
}

static int add(log_file *f, size_t *allocated, uint64_t offset)
{
    if (f->n == *allocated) {
        size_t more = *allocated ? 2 * *allocated : 1024;
        uint64_t *offsets = reallocarray(f->offsets, more, sizeof(*offsets));
        if (!offsets)
            return -ENOMEM;
        f->offsets = offsets;
        *allocated = more;
    }
    f->offsets[f->n++] = offset;
    return 0;
}

static int find_records(log_file *f)
{
    uint64_t at = f->data, end = f->data + f->data_size;
    size_t allocated = 0;
    int r;

    while (at + sizeof(log_record) <= end) {
        const log_record *record = record_at(f, at);
        if (record->mark != f->mark || !log_record_intact(record, end - at, f->mark)) {
            at += 8;
            continue;
        }
        r = add(f, &allocated, at);
        if (r < 0)
            return r;
        at += log_record_padded(record->size);
    }
    return 0;
}

static int by_seq(const void *a, const void *b, void *file)
{
    const log_record *x = record_at(file, *(const uint64_t *)a),
                     *y = record_at(file, *(const uint64_t *)b);

    return x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* How many of the `live` records that end with `newest` are missing. The oldest of them may have
 * made room for one that was never finished: they were next to go, and are no loss, as long as that
 * explains the space they left. */
static uint64_t count_lost(const log_file *f, uint32_t newest, uint32_t live)
{
    const log_record *last = log_file_record(f, f->n - 1);
    uint64_t write = f->offsets[f->n - 1] + log_record_padded(last->size), free_space;
    uint32_t oldest_age = 0, n = 0;
    size_t oldest = 0;

    for (size_t i = f->n; i-- > 0;) {
        uint32_t age = newest - log_file_record(f, i)->ordinal;
        if (age >= live)
            continue;
        n++;
        if (age >= oldest_age) {
            oldest_age = age;
            oldest = i;
        }
    }
    if (n == 0)
        return live;
    free_space = f->offsets[oldest] >= write
                     ? f->offsets[oldest] - write
                     : f->data + f->data_size - write + f->offsets[oldest] - f->data;
    if (last->ordinal == newest && free_space <= 2 * log_record_padded(LOG_RECORD_MAX))
        live = oldest_age + 1;
    return live - n;
}

/* The newest record tells how many there were; older ones are left from a lap before, where the
 * disk has not got what was written over them. If sync() promised a newer one, that one tells. */
static void judge(log_file *f)
{
    const log_file_synced *s = NULL;
    const log_record *newest;
    size_t from = 0;

    for (unsigned i = 0; f->head && i < 2; i++) {
        const log_file_synced *slot = &f->head->synced[i];
        if (slot->checksum == log_file_synced_checksum(slot) && slot->seq > f->synced) {
            f->synced = slot->seq;
            s = slot;
        }
    }
    if (f->n == 0) {
        f->lost = s ? s->live : 0;
        return;
    }
    qsort_r(f->offsets, f->n, sizeof(*f->offsets), by_seq, f);
    newest = log_file_record(f, f->n - 1);
    while (from < f->n - 1 && newest->ordinal - log_file_record(f, from)->ordinal >= newest->live)
        from++;
    memmove(f->offsets, f->offsets + from, (f->n - from) * sizeof(*f->offsets));
    f->n -= from;
    if (s && s->seq > newest->seq)
        f->lost = count_lost(f, s->ordinal, s->live);
    else
        f->lost = count_lost(f, newest->ordinal, newest->live);
}

int log_file_scan(const void *bytes, uint64_t size, log_file *ret)
{
    log_file f = {.bytes = bytes, .size = size};
    int r;

    r = find_head(&f);
    if (r < 0)
        return r;
    if (!f.head)
        vote_mark(&f);
    if (f.mark != 0)
        r = find_records(&f);
    if (r >= 0 && !f.head && f.n == 0)
        r = -EBADMSG;
    if (r < 0) {
        log_file_done(&f);
        return r;
    }
    judge(&f);
    *ret = f;
    return 0;
}

void log_file_done(log_file *f)
{
    free(f->offsets);
    *f = (log_file){};
}

int log_file_read(const char *path, void **ret, uint64_t *ret_size)
{
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    size_t size;
    int r = fd < 0 ? -errno : hybus_file_read(fd, LOG_FILE_SIZE_MAX, ret, &size);

    if (r >= 0)
        *ret_size = size;
    return r == -EFBIG ? -EBADMSG : r;
}
