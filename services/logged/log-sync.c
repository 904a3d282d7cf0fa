/* SPDX-License-Identifier: Apache-2.0 */
#include "log-sync.h"

#include <pthread.h>
#include <sys/eventfd.h>

typedef struct waiting {
    log_sync_callback callback;
    void *userdata;
} waiting;

/* What was newest when a round began. */
typedef struct mark {
    int fd;
    uint64_t seq;
    uint32_t ordinal, live;
} mark;

struct log_sync {
    log_book *book;
    int request_fd, done_fd; /* eventfds */
    sd_event_source *source;
    pthread_t thread;
    bool threaded, busy, second; /* second: the promises themselves are being written */
    int broken;                  /* a ring that should be on the disk is not */
    int error;                   /* of the thread, read after done_fd */
    mark marks[LOG_STREAMS];
    uint64_t seq, done;
    waiting waiting[LOG_SYNC_WAITING_MAX], under_way[LOG_SYNC_WAITING_MAX];
    size_t n_waiting, n_under_way;
    bool again;
    _Atomic bool stop;
};

static void *work(void *userdata)
{
    log_sync *s = userdata;
    const uint64_t one = 1;
    uint64_t n;

    while (read(s->request_fd, &n, sizeof(n)) == sizeof(n) && !s->stop) {
        s->error = 0;
        for (unsigned i = 0; i < LOG_STREAMS; i++)
            if (s->marks[i].fd >= 0 && fdatasync(s->marks[i].fd) < 0 && errno != EINVAL)
                s->error = -errno;
        if (write(s->done_fd, &one, sizeof(one)) != sizeof(one))
            break;
    }
    return NULL;
}

static int wake(int fd)
{
    const uint64_t one = 1;

    return write(fd, &one, sizeof(one)) == sizeof(one) ? 0 : -errno;
}

static void begin(log_sync *s)
{
    s->busy = true;
    s->second = s->again = false;
    s->broken = 0;
    memcpy(s->under_way, s->waiting, sizeof(s->waiting));
    s->n_under_way = s->n_waiting;
    s->n_waiting = 0;
    s->seq = log_book_newest(s->book);
    for (log_stream i = 0; i < LOG_STREAMS; i++) {
        log_store *store = log_book_store(s->book, i);
        const log_record *r = store ? log_store_newest(store) : NULL;
        log_store_statistics st = {};
        if (store)
            log_store_statistics_get(store, &st);
        s->broken = st.error < 0 ? st.error : s->broken;
        s->marks[i] = (mark){.fd = r ? log_store_fd(store) : -1};
        if (s->marks[i].fd >= 0) {
            s->marks[i].seq = r->seq;
            s->marks[i].ordinal = r->ordinal;
            s->marks[i].live = r->live;
        }
    }
    (void)wake(s->request_fd);
}

static void conclude(log_sync *s)
{
    size_t n = s->n_under_way;
    int error = s->error < 0 ? s->error : s->broken;

    s->busy = false;
    s->n_under_way = 0;
    if (error >= 0)
        s->done = s->seq;
    for (size_t i = 0; i < n; i++)
        if (s->under_way[i].callback)
            s->under_way[i].callback(s->seq, error, s->under_way[i].userdata);
    if (s->again)
        begin(s);
}

static int on_done(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    log_sync *s = userdata;
    uint64_t n;

    if (read(s->done_fd, &n, sizeof(n)) != sizeof(n))
        return 0;
    for (log_stream i = 0; i < LOG_STREAMS && s->error >= 0 && !s->second; i++)
        if (s->marks[i].fd >= 0)
            log_store_synced(log_book_store(s->book, i), s->marks[i].seq, s->marks[i].ordinal,
                             s->marks[i].live);
    if (s->error >= 0 && !s->second) {
        s->second = true;
        (void)wake(s->request_fd);
        return 0;
    }
    conclude(s);
    return 0;
}

int log_sync_request(log_sync *s, log_sync_callback f, void *userdata)
{
    if (f) {
        if (s->n_waiting == LOG_SYNC_WAITING_MAX)
            return -ENOBUFS;
        s->waiting[s->n_waiting++] = (waiting){.callback = f, .userdata = userdata};
    }
    if (s->busy)
        s->again = true;
    else
        begin(s);
    return 0;
}

uint64_t log_sync_done(const log_sync *s)
{
    return s->done;
}

int log_sync_new(sd_event *event, log_book *b, log_sync **ret)
{
    _cleanup_(log_sync_freep) log_sync *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->book = b;
    s->request_fd = eventfd(0, EFD_CLOEXEC);
    s->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (s->request_fd < 0 || s->done_fd < 0)
        return -errno;
    r = sd_event_add_io(event, &s->source, s->done_fd, EPOLLIN, on_done, s);
    if (r < 0)
        return r;
    r = -pthread_create(&s->thread, NULL, work, s);
    if (r < 0)
        return r;
    s->threaded = true;
    *ret = TAKE_PTR(s);
    return 0;
}

void log_sync_free(log_sync *s)
{
    if (!s)
        return;
    sd_event_source_disable_unref(s->source);
    if (s->threaded) {
        s->stop = true;
        (void)wake(s->request_fd);
        pthread_join(s->thread, NULL);
    }
    safe_close(s->request_fd);
    safe_close(s->done_fd);
    free(s);
}
