/* SPDX-License-Identifier: Apache-2.0 */
#include "log-pipe.h"

#include <fcntl.h>
#include <sys/queue.h>

struct log_pipe {
    LIST_ENTRY(log_pipe) list;
    log_pipes *pipes;
    log_pipe_options options;
    log_walk walk;
    log_text text;
    size_t written; /* of the text */
    int fd;
    bool full; /* waits until it can be written to */
    sd_event_source *io;
    log_pipe_gone gone;
    void *userdata;
};

struct log_pipes {
    sd_event *event;
    log_book *book;
    sd_event_source *turn; /* makes all of them go on */
    LIST_HEAD(, log_pipe) list;
    size_t n;
};

void log_pipe_free(log_pipe *p)
{
    if (!p)
        return;
    LIST_REMOVE(p, list);
    p->pipes->n--;
    sd_event_source_disable_unref(p->io);
    safe_close(p->fd);
    log_filter_done(&p->options.filter);
    log_text_done(&p->text);
    free(p);
}

static void end(log_pipe *p)
{
    if (p->gone)
        p->gone(p, p->userdata);
    log_pipe_free(p);
}

/* 1: all is written; 0: the pipe is full; <0: nobody reads. */
static int write_out(log_pipe *p)
{
    while (p->written < p->text.size) {
        ssize_t n = write(p->fd, p->text.data + p->written, p->text.size - p->written);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        p->written += (size_t)n;
    }
    p->text.size = p->written = 0;
    /* One very large record should not stay paid for. */
    if (p->text.allocated > 4u * LOG_PIPE_TEXT)
        log_text_done(&p->text);
    return 1;
}

static void tell_missed(log_pipe *p)
{
    if (p->walk.missed == 0)
        return;
    log_format_gap(&p->text, p->walk.missed, &p->options.look);
    p->walk.missed = 0;
}

/* 1: go on later by itself; 0: waits for records or for room; <0: it has ended. */
static int go_on(log_pipe *p)
{
    uint64_t budget = LOG_PIPE_BUDGET;
    log_found found;
    int r = 1, w;

    while (r > 0) {
        while (p->text.size < LOG_PIPE_TEXT && (r = log_walk_next(&p->walk, &budget, &found)) > 0) {
            if (budget > 0)
                budget--;
            tell_missed(p);
            log_format_record(&p->text, &found, &p->options.look);
        }
        tell_missed(p);
        if (p->text.failed)
            return -ENOMEM;
        w = write_out(p);
        if (w < 0)
            return w;
        p->full = w == 0;
        if (p->full)
            return sd_event_source_set_io_events(p->io, EPOLLOUT) < 0 ? -EIO : 0;
        if (budget == 0)
            return 1;
    }
    if (r == -EAGAIN)
        return 1;
    return p->options.follow && !log_walk_complete(&p->walk) ? 0 : -EPIPE;
}

static void turn(log_pipe *p)
{
    int r = go_on(p);

    if (r < 0)
        end(p);
    else if (r > 0)
        log_pipes_wake(p->pipes);
}

static int on_turn(sd_event_source *s, void *userdata)
{
    log_pipes *ps = userdata;
    log_pipe *p = LIST_FIRST(&ps->list), *next;

    (void)sd_event_source_set_enabled(s, SD_EVENT_OFF);
    for (; p; p = next) {
        next = LIST_NEXT(p, list);
        if (!p->full)
            turn(p);
    }
    return 0;
}

/* There is room, or nobody reads any more. */
static int on_io(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
    log_pipe *p = userdata;

    if (events & EPOLLERR) {
        end(p);
        return 0;
    }
    p->full = false;
    /* EPOLLERR is told without being asked for. */
    (void)sd_event_source_set_io_events(p->io, 0);
    turn(p);
    return 0;
}

static size_t count_user(const log_pipes *ps, uint32_t uid)
{
    const log_pipe *p;
    size_t n = 0;

    LIST_FOREACH(p, &ps->list, list)
    n += p->options.uid == uid;
    return n;
}

static int make_pipe(log_pipe *p, int *ret_fd)
{
    int fds[2], r;

    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    p->fd = fds[1];
    if (fcntl(p->fd, F_SETFL, O_NONBLOCK) < 0)
        r = -errno;
    else
        r = sd_event_add_io(p->pipes->event, &p->io, p->fd, 0, on_io, p);
    if (r < 0)
        close(fds[0]);
    else
        *ret_fd = fds[0];
    return r;
}

int log_pipe_new(log_pipes *ps, log_pipe_options *o, log_pipe_gone gone, void *userdata,
                 log_pipe **ret, int *ret_fd)
{
    log_pipe *p = NULL;
    int r;

    if (ps->n < LOG_PIPES_MAX && count_user(ps, o->uid) < LOG_PIPES_USER_MAX)
        p = calloc(1, sizeof(*p));
    if (!p) {
        r = ps->n < LOG_PIPES_MAX && count_user(ps, o->uid) < LOG_PIPES_USER_MAX ? -ENOMEM
                                                                                 : -ENOBUFS;
        log_filter_done(&o->filter);
        return r;
    }
    p->pipes = ps;
    p->fd = -1;
    p->options = *o;
    o->filter = (log_filter){};
    LIST_INSERT_HEAD(&ps->list, p, list);
    ps->n++;
    log_walk_start(&p->walk, ps->book, &p->options.filter);
    if (p->options.from_end)
        log_walk_to_end(&p->walk);
    r = make_pipe(p, ret_fd);
    if (r < 0) {
        log_pipe_free(p);
        return r;
    }
    p->gone = gone;
    p->userdata = userdata;
    log_pipes_wake(ps);
    *ret = p;
    return 0;
}

void log_pipes_wake(log_pipes *ps)
{
    if (ps->n > 0)
        (void)sd_event_source_set_enabled(ps->turn, SD_EVENT_ONESHOT);
}

size_t log_pipes_count(const log_pipes *ps)
{
    return ps->n;
}

int log_pipes_new(sd_event *event, log_book *b, log_pipes **ret)
{
    _cleanup_(log_pipes_freep) log_pipes *ps = calloc(1, sizeof(*ps));
    int r;

    if (!ps)
        return -ENOMEM;
    ps->event = event;
    ps->book = b;
    LIST_INIT(&ps->list);
    r = sd_event_add_defer(event, &ps->turn, on_turn, ps);
    if (r >= 0)
        r = sd_event_source_set_enabled(ps->turn, SD_EVENT_OFF);
    /* After what takes in: what came together goes out together. */
    if (r >= 0)
        r = sd_event_source_set_priority(ps->turn, SD_EVENT_PRIORITY_NORMAL + 10);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(ps);
    return 0;
}

void log_pipes_free(log_pipes *ps)
{
    if (!ps)
        return;
    while (!LIST_EMPTY(&ps->list))
        end(LIST_FIRST(&ps->list));
    sd_event_source_disable_unref(ps->turn);
    free(ps);
}
