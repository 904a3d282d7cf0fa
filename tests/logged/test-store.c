/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "log-store.h"

#define RING (256u * 1024u)
#define ROUNDS 3000u

static char folder[] = "/tmp/test-log-store-XXXXXX";
static char path[64];
static uint32_t seed = 1;

static uint32_t next_random(uint32_t bound)
{
    seed ^= seed << 13;
    seed ^= seed >> 17;
    seed ^= seed << 5;
    return seed % bound;
}

static log_store *open_store(const char *where, uint64_t size)
{
    const log_store_options o = {.path = where, .size = size, .boot_id = {1, 2, 3}, .realtime = 1};
    log_store *s;

    assert_int_equal(log_store_open(&o, &s), 0);
    return s;
}

/* What a record says follows from its seq, so that whoever finds one can tell that it is whole. */
static uint32_t length_of(uint64_t seq)
{
    return (uint32_t)(seq * 2654435761u >> 7) % 400u + 1u;
}

static uint32_t fill(uint64_t seq, uint8_t *to, uint8_t *end)
{
    char text[512];
    uint8_t *at;

    memset(text, 'a' + (int)(seq % 26), sizeof(text));
    memcpy(text, &seq, sizeof(seq));
    at = hlog_put(to, end, NULL, 0, HLOG_MESSAGE, text, length_of(seq) + 8);
    assert_non_null(at);
    return (uint32_t)(at - to);
}

static void append(log_store *s, uint64_t seq)
{
    uint32_t size = length_of(seq) + 8 + 3;
    log_record *r = log_store_begin(s, size);

    r->seq = seq;
    r->realtime = 1000000 - seq; /* a clock that runs backwards */
    r->monotonic = seq;
    r->uid = 60700;
    r->pid = (uint32_t)seq;
    r->priority = (uint8_t)(seq % 8);
    r->source = LOG_SOURCE_NATIVE;
    r->boot = log_store_boot(s);
    log_store_commit(s, r, fill(seq, (uint8_t *)(r + 1), (uint8_t *)(r + 1) + size));
}

static bool is_whole(const log_record *r)
{
    uint8_t expected[600];
    uint32_t n = fill(r->seq, expected, expected + sizeof(expected));

    return r->size == sizeof(*r) + n && memcmp(r + 1, expected, n) == 0 && r->monotonic == r->seq &&
           r->realtime == 1000000 - r->seq;
}

/* All from oldest to newest, without a hole, both ways. */
static uint64_t check_all(log_store *s, uint64_t newest)
{
    const log_record *r = log_store_newest(s), *before;
    uint64_t n = 0, seq = newest;

    for (; r; r = log_store_previous(s, r), n++) {
        assert_int_equal(r->seq, seq--);
        assert_true(is_whole(r));
    }
    r = log_store_oldest(s);
    assert_int_equal(r->seq, seq + 1);
    for (before = NULL; r; before = r, r = log_store_next(s, r))
        assert_true(!before || r->seq == before->seq + 1);
    assert_int_equal(before->seq, newest);
    return n;
}

static void test_empty(void **state)
{
    log_store *s = open_store(path, RING);

    assert_null(log_store_oldest(s));
    assert_null(log_store_newest(s));
    assert_null(log_store_after(s, 0));
    log_store_close(s);
    s = open_store(path, RING);
    assert_null(log_store_newest(s));
    append(s, 1);
    assert_int_equal(check_all(s, 1), 1);
    log_store_close(s);
}

static void test_wraps(void **state)
{
    log_store *s = open_store(path, RING);
    log_store_statistics st;
    log_place place = {};

    for (uint64_t seq = 1; seq <= 20000; seq++) {
        append(s, seq);
        if (seq == 10000)
            place = log_store_place(s, log_store_newest(s));
        if (seq == 10001)
            assert_int_equal(log_store_at(s, place)->seq, 10000);
        if (seq % 97 == 0)
            (void)check_all(s, seq);
    }
    assert_null(log_store_at(s, place));
    log_store_statistics_get(s, &st);
    assert_int_equal(st.stored, 20000);
    assert_int_equal(st.records + st.overwritten, 20000);
    assert_true(st.bytes <= st.size && st.bytes > st.size / 10 * 9);
    assert_true(st.saved && st.error == 0 && st.lost == 0);
    assert_int_equal(log_store_after(s, 19990)->seq, 19991);
    assert_null(log_store_after(s, 20000));
    assert_int_equal(log_store_after(s, 5)->seq, log_store_oldest(s)->seq);
    log_store_close(s);

    s = open_store(path, RING);
    log_store_statistics_get(s, &st);
    assert_int_equal(check_all(s, 20000), st.records);
    assert_int_equal(st.lost, 0);
    for (uint64_t seq = 20001; seq <= 21000; seq++)
        append(s, seq);
    (void)check_all(s, 21000);
    log_store_close(s);
}

/* Records of the largest size, one after the other, in the smallest file. */
static void test_largest(void **state)
{
    log_store *s = open_store(path, 1);
    static char text[UINT16_MAX];

    for (uint64_t seq = 1; seq < 50; seq++) {
        log_record *r = log_store_begin(s, HLOG_FIELDS_MAX);
        uint8_t *fields = (uint8_t *)(r + 1);
        uint8_t *end = hlog_put(fields, fields + HLOG_FIELDS_MAX, NULL, 0, HLOG_MESSAGE, text,
                                HLOG_FIELDS_MAX - 3);
        assert_non_null(end);
        r->seq = seq;
        log_store_commit(s, r, (uint32_t)(end - fields));
        assert_int_equal(log_store_newest(s)->seq, seq);
        assert_true(seq < 3 || log_store_previous(s, log_store_newest(s))->seq == seq - 1);
    }
    log_store_close(s);
}

static size_t resident(void)
{
    size_t total, pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%zu %zu", &total, &pages), 2);
    fclose(f);
    return pages * (size_t)sysconf(_SC_PAGESIZE);
}

static void test_million(void **state)
{
    uint64_t size = 4u * 1024u * 1024u;
    log_store *s = open_store(path, size);
    size_t before;
    struct stat st;

    for (uint64_t seq = 1; seq <= 50000; seq++)
        append(s, seq);
    before = resident();
    for (uint64_t seq = 50001; seq <= 1000000; seq++)
        append(s, seq);
    assert_true(resident() <= before + 1024 * 1024);
    assert_true(check_all(s, 1000000) > 10000);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, size);
    log_store_close(s);
}

static void test_another_size(void **state)
{
    log_store *s = open_store(path, RING);
    log_store_statistics st;
    uint64_t n;

    for (uint64_t seq = 1; seq <= 3000; seq++)
        append(s, seq);
    n = check_all(s, 3000);
    log_store_close(s);
    s = open_store(path, 2 * RING);
    assert_int_equal(check_all(s, 3000), n);
    log_store_statistics_get(s, &st);
    assert_true(st.saved);
    log_store_close(s);
    s = open_store(path, 2 * RING);
    assert_int_equal(check_all(s, 3000), n);
    log_store_close(s);
    s = open_store(path, RING);
    assert_true(check_all(s, 3000) <= n);
    log_store_close(s);
}

/* --- damage ----------------------------------------------------------------------------------- */

typedef struct image {
    uint8_t *bytes;
    uint64_t size;
} image;

static image take_image(void)
{
    image i = {};
    void *bytes;

    assert_int_equal(log_file_read(path, &bytes, &i.size), 0);
    i.bytes = bytes;
    return i;
}

static image make_image(uint64_t n)
{
    log_store *s = open_store(path, RING);

    for (uint64_t seq = 1; seq <= n; seq++)
        append(s, seq);
    log_store_close(s);
    return take_image();
}

/* Every record of `good` that `hurt` does not hold is found in `bytes`, and nothing else. */
static void check_image(const uint8_t *bytes, uint64_t size, const log_file *good, const bool *hurt)
{
    uint64_t expected = 0, oldest_intact = 0;
    log_file f;
    size_t at = 0;
    int r = log_file_scan(bytes, size, &f);

    for (size_t i = 0; i < good->n; i++)
        if (!hurt[i])
            oldest_intact = expected++ == 0 ? i : oldest_intact;
    if (r == -EBADMSG) {
        assert_int_equal(expected, 0);
        return;
    }
    assert_int_equal(r, 0);
    assert_int_equal(f.n, expected);
    for (size_t i = 0; i < good->n; i++)
        if (!hurt[i]) {
            assert_int_equal(log_file_record(&f, at)->seq, log_file_record(good, i)->seq);
            assert_true(is_whole(log_file_record(&f, at)));
            at++;
        }
    if (expected > 0 && !hurt[good->n - 1]) {
        const log_record *newest = log_file_record(good, good->n - 1);
        uint64_t write = good->offsets[good->n - 1] + log_record_padded(newest->size);
        uint64_t left = good->offsets[oldest_intact] +
                        (good->offsets[oldest_intact] < write ? f.data_size : 0) - write;
        uint64_t from = left <= 2 * LOG_RECORD_MAX ? oldest_intact : 0;
        assert_int_equal(f.lost, good->n - from - expected);
    }
    assert_true(f.lost <= good->n);
    log_file_done(&f);
}

static void mark_hurt(const log_file *good, bool *hurt, uint64_t from, uint64_t to)
{
    for (size_t i = 0; i < good->n; i++)
        if (good->offsets[i] < to && from < good->offsets[i] + log_file_record(good, i)->size)
            hurt[i] = true;
}

static void test_flipped(void **state)
{
    image whole = make_image(7000);
    uint8_t *copy = malloc(whole.size);
    log_file good;

    assert_int_equal(log_file_scan(whole.bytes, whole.size, &good), 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        bool *hurt = calloc(good.n, sizeof(*hurt));

        memcpy(copy, whole.bytes, whole.size);
        for (unsigned i = next_random(20) + 1; i > 0; i--) {
            uint64_t at = next_random((uint32_t)whole.size);
            copy[at] ^= (uint8_t)(1u << next_random(8));
            mark_hurt(&good, hurt, at, at + 1);
        }
        check_image(copy, whole.size, &good, hurt);
        free(hurt);
    }
    /* Both heads gone, and a page of the middle. */
    for (unsigned round = 0; round < ROUNDS / 10; round++) {
        bool *hurt = calloc(good.n, sizeof(*hurt));
        uint64_t at = 4096 + (uint64_t)next_random((uint32_t)whole.size / 4096 - 2) * 4096;

        memcpy(copy, whole.bytes, whole.size);
        for (unsigned i = 0; i < LOG_FILE_HEAD_SIZE; i++) {
            copy[i] = (uint8_t)next_random(256);
            copy[whole.size - 1 - i] = (uint8_t)next_random(256);
            copy[at + i] = (uint8_t)next_random(256);
        }
        mark_hurt(&good, hurt, at, at + 4096);
        check_image(copy, whole.size, &good, hurt);
        free(hurt);
    }
    log_file_done(&good);
    free(copy);
    free(whole.bytes);
}

static void test_truncated(void **state)
{
    image whole = make_image(7000);
    log_file good;

    assert_int_equal(log_file_scan(whole.bytes, whole.size, &good), 0);
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t size = next_random((uint32_t)whole.size + 1);
        uint8_t *copy = malloc(size + 1); /* exact, for the sanitizer */
        bool *hurt = calloc(good.n, sizeof(*hurt));

        memcpy(copy, whole.bytes, size);
        mark_hurt(&good, hurt, size, whole.size);
        check_image(copy, size, &good, hurt);
        free(hurt);
        free(copy);
    }
    /* The daemon takes up what is left, and goes on in a whole file. */
    for (unsigned round = 0; round < 50; round++) {
        log_store *s;
        log_file left;
        uint64_t size = next_random((uint32_t)whole.size);
        size_t n = 0;

        FILE *f = fopen(path, "we");
        assert_int_equal(fwrite(whole.bytes, 1, size, f), size);
        fclose(f);
        if (log_file_scan(whole.bytes, size, &left) == 0) {
            n = left.n;
            log_file_done(&left);
        }
        s = open_store(path, RING);
        for (const log_record *r = log_store_oldest(s); r; r = log_store_next(s, r))
            n--;
        assert_int_equal(n, 0);
        append(s, 100000);
        assert_int_equal(log_store_newest(s)->seq, 100000);
        log_store_close(s);
        s = open_store(path, RING);
        assert_int_equal(log_store_newest(s)->seq, 100000);
        log_store_close(s);
    }
    log_file_done(&good);
    free(whole.bytes);
}

/* The machine stops somewhere between two records: a part of the bytes that the second one changed
 * has reached the disk, in order, backwards, or at random. */
static void test_torn(void **state)
{
    uint8_t *copy = malloc(RING);
    uint64_t seq = 7000;
    image before = make_image(seq);

    for (unsigned round = 0; round < ROUNDS; round++) {
        static uint64_t changed[RING];
        size_t n = 0, some, i;
        log_file f, after_file;
        log_store *s = open_store(path, RING);
        image after;

        append(s, ++seq);
        log_store_close(s);
        after = take_image();
        for (i = 0; i < RING; i++)
            if (before.bytes[i] != after.bytes[i])
                changed[n++] = i;
        assert_int_equal(log_file_scan(after.bytes, RING, &after_file), 0);
        memcpy(copy, before.bytes, RING);
        some = next_random((uint32_t)n);
        for (i = 0; i < some; i++) {
            uint64_t at = round % 3 == 0   ? changed[i]
                          : round % 3 == 1 ? changed[n - 1 - i]
                                           : changed[next_random((uint32_t)n)];
            copy[at] = after.bytes[at];
        }
        assert_int_equal(log_file_scan(copy, RING, &f), 0);
        /* All that both states have is there, and whole; only the newest may be missing, and of
         * those that were to make room for it some (one page of it there, another not). */
        assert_true(f.lost <= 5);
        for (size_t k = 0; k < f.n; k++)
            assert_true(is_whole(log_file_record(&f, k)));
        assert_in_range(log_file_record(&f, f.n - 1)->seq, seq - 1, seq);
        assert_true(log_file_record(&f, 0)->seq <= log_file_record(&after_file, 0)->seq);
        for (size_t k = 1; k < f.n && f.lost == 0; k++)
            assert_int_equal(log_file_record(&f, k)->seq, log_file_record(&f, k - 1)->seq + 1);
        log_file_done(&f);
        log_file_done(&after_file);
        free(before.bytes);
        before = after;
    }
    free(before.bytes);
    free(copy);
}

/* Power fails some time after a sync: of the pages written since, any may have reached the disk. */
static void test_synced_is_kept(void **state)
{
    uint8_t *copy = malloc(RING);
    uint64_t seq = 7000;

    free(make_image(seq).bytes);
    for (unsigned round = 0; round < ROUNDS / 3; round++) {
        log_store *s = open_store(path, RING);
        uint64_t synced, oldest;
        image before, after;
        log_file f;

        for (unsigned i = next_random(50); i > 0; i--)
            append(s, ++seq);
        assert_int_equal(log_store_sync(s), 0);
        synced = seq;
        before = take_image();
        for (unsigned i = next_random(50) + 1; i > 0; i--)
            append(s, ++seq);
        oldest = log_store_oldest(s)->seq;
        log_store_close(s);
        after = take_image();
        for (uint64_t at = 0; at < RING; at += 4096)
            memcpy(copy + at, (next_random(2) ? before : after).bytes + at, 4096);
        assert_int_equal(log_file_scan(copy, RING, &f), 0);
        assert_int_equal(f.synced, synced);
        for (size_t i = 0; i < f.n; i++) {
            assert_true(is_whole(log_file_record(&f, i)));
            if (log_file_record(&f, i)->seq == oldest)
                oldest++;
        }
        assert_true(oldest > synced);
        log_file_done(&f);
        /* With the records that it promised cut away, it says how many they were. */
        memset(before.bytes + 4096, 0, RING - 8192);
        assert_int_equal(log_file_scan(before.bytes, RING, &f), 0);
        assert_int_equal(f.n, 0);
        assert_true(f.lost > 500);
        log_file_done(&f);
        free(before.bytes);
        free(after.bytes);
    }
    free(copy);
}

/* A real SIGKILL, wherever it strikes. */
static void test_killed(void **state)
{
    volatile uint64_t *done =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    uint64_t seq = 0;

    for (unsigned round = 0; round < 1000; round++) {
        log_store *s;
        uint64_t newest;
        pid_t pid;

        *done = seq;
        pid = fork();
        if (pid == 0) {
            s = open_store(path, RING);
            for (;;) {
                append(s, ++seq);
                *done = seq;
            }
        }
        while (*done == seq)
            ;
        usleep(next_random(300));
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        s = open_store(path, RING);
        newest = log_store_newest(s)->seq;
        assert_in_range(newest, *done, *done + 1);
        (void)check_all(s, newest);
        log_store_close(s);
        seq = newest;
    }
    munmap((void *)done, 4096);
}

/* What a caller writes into a record is never taken for a record, also when what is around it is
 * damaged; not even if it is a copy of one from another file. */
static void test_forged(void **state)
{
    image other = make_image(7000);
    log_store *s;
    log_file f;

    assert_int_equal(unlink(path), 0);
    s = open_store(path, RING);
    for (uint64_t seq = 1; seq < 100; seq++) {
        log_record *r = log_store_begin(s, 40000);
        uint8_t *fields = (uint8_t *)(r + 1);
        uint8_t *end = hlog_put(fields, fields + 40000, NULL, 0, HLOG_MESSAGE,
                                other.bytes + 4096 + seq, 30000);
        r->seq = seq;
        r->realtime = 42;
        log_store_commit(s, r, (uint32_t)(end - fields));
    }
    log_store_close(s);
    free(other.bytes);
    other = take_image();
    for (unsigned i = 0; i < 200; i++)
        other.bytes[next_random((uint32_t)other.size - 8192) + 4096]++;
    assert_int_equal(log_file_scan(other.bytes, other.size, &f), 0);
    for (size_t i = 0; i < f.n; i++)
        assert_int_equal(log_file_record(&f, i)->realtime, 42);
    log_file_done(&f);
    free(other.bytes);
}

/* --- an outside world that fails ------------------------------------------------------------- */

static void test_cut_while_mapped(void **state)
{
    log_store *s = open_store(path, RING);
    log_store_statistics st;

    for (uint64_t seq = 1; seq <= 5000; seq++)
        append(s, seq);
    assert_false(log_store_failed(s));
    assert_int_equal(truncate(path, 8192), 0);
    for (uint64_t seq = 5001; seq <= 9000; seq++)
        append(s, seq);
    assert_true(log_store_failed(s));
    assert_false(log_store_failed(s));
    (void)check_all(s, 9000);
    log_store_statistics_get(s, &st);
    assert_false(st.saved);
    assert_int_equal(st.error, -EIO);
    assert_int_equal(log_store_fd(s), -1);
    assert_true(log_store_sync(s) < 0);
    log_store_close(s);
}

static void test_not_ours(void **state)
{
    log_store_statistics st;
    char bad[80];
    log_store *s;
    FILE *f = fopen(path, "we");

    for (unsigned i = 0; i < 100000; i++)
        fputc((int)next_random(256), f);
    fclose(f);
    s = open_store(path, RING);
    append(s, 1);
    log_store_statistics_get(s, &st);
    assert_true(st.saved);
    log_store_close(s);
    snprintf(bad, sizeof(bad), "%s.bad", path);
    assert_int_equal(access(bad, F_OK), 0);
}

static bool own_mounts(const char *options)
{
    return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("tmpfs", folder, "tmpfs", 0, options) == 0;
}

static void test_full_disk(void **state)
{
    log_store_statistics st;
    log_store *s;

    if (!own_mounts("size=64k"))
        skip();
    s = open_store(path, RING);
    log_store_statistics_get(s, &st);
    assert_int_equal(st.error, -ENOSPC);
    assert_false(st.saved);
    for (uint64_t seq = 1; seq <= 5000; seq++)
        append(s, seq);
    (void)check_all(s, 5000);
    log_store_close(s);
    assert_int_not_equal(access(path, F_OK), 0); /* nothing half made stays */
    assert_int_equal(umount(folder), 0);
}

static void test_read_only(void **state)
{
    log_store_statistics st;
    log_store *s;

    if (!own_mounts(""))
        skip();
    free(make_image(5000).bytes);
    assert_int_equal(mount(NULL, folder, NULL, MS_REMOUNT | MS_RDONLY, NULL), 0);
    s = open_store(path, RING);
    log_store_statistics_get(s, &st);
    assert_int_equal(st.error, -EROFS);
    (void)check_all(s, 5000); /* what was there can be read */
    for (uint64_t seq = 5001; seq <= 6000; seq++)
        append(s, seq);
    (void)check_all(s, 6000);
    log_store_close(s);
    assert_int_equal(umount(folder), 0);
}

static void test_boots(void **state)
{
    log_store_options o = {.path = path, .size = RING, .boot_id = {1}, .realtime = 1};
    log_store *s;

    for (unsigned boot = 1; boot < 300; boot++) {
        o.boot_id[0] = (uint8_t)boot;
        o.boot_id[1] = (uint8_t)(boot >> 8);
        for (unsigned twice = 0; twice < 2; twice++) {
            assert_int_equal(log_store_open(&o, &s), 0);
            assert_int_equal(log_store_boot(s), boot - 1);
            append(s, 2 * boot + twice);
            log_store_close(s);
        }
    }
    assert_int_equal(log_store_open(&o, &s), 0);
    assert_null(log_file_boot_id(log_store_head(s), 3));
    assert_int_equal(log_file_boot_id(log_store_head(s), 298)[0], 299 & 255);
    assert_int_equal(log_file_boot_id(log_store_head(s), 260)[0], 261 & 255);
    assert_null(log_file_boot_id(log_store_head(s), 299));
    log_store_close(s);
}

static int fresh(void **state)
{
    (void)unlink(path);
    return 0;
}

static int set_up(void **state)
{
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof(path), "%s/ring", folder);
    return 0;
}

static int tear_down(void **state)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_empty, fresh),
        cmocka_unit_test_setup(test_wraps, fresh),
        cmocka_unit_test_setup(test_largest, fresh),
        cmocka_unit_test_setup(test_million, fresh),
        cmocka_unit_test_setup(test_another_size, fresh),
        cmocka_unit_test_setup(test_flipped, fresh),
        cmocka_unit_test_setup(test_truncated, fresh),
        cmocka_unit_test_setup(test_torn, fresh),
        cmocka_unit_test_setup(test_synced_is_kept, fresh),
        cmocka_unit_test_setup(test_killed, fresh),
        cmocka_unit_test_setup(test_forged, fresh),
        cmocka_unit_test_setup(test_cut_while_mapped, fresh),
        cmocka_unit_test_setup(test_not_ours, fresh),
        cmocka_unit_test_setup(test_boots, fresh),
        cmocka_unit_test_setup(test_full_disk, fresh),
        cmocka_unit_test_setup(test_read_only, fresh),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
