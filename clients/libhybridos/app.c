/* SPDX-License-Identifier: Apache-2.0 */

/* The app object and its loop: one epoll with the sockets, a timer for what is tried again, and an
 * eventfd for threads and for output made outside of a turn. */

#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include "internal.h"

uint64_t now_usec(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

void retry_later(struct retry *retry)
{
    retry->pause = retry->pause == 0 ? BACKOFF_MIN_USEC : retry->pause * 2;
    if (retry->pause > BACKOFF_MAX_USEC)
        retry->pause = BACKOFF_MAX_USEC;
    retry->at = now_usec() + retry->pause;
}

uint32_t app_new_id(hybridos_app *app)
{
    return ++app->next_id;
}

void app_kick(hybridos_app *app)
{
    /* Within a turn everything is looked at before it ends anyway. */
    if (app->in_turn || atomic_exchange(&app->kicked, true))
        return;
    eventfd_write(app->event_fd, 1);
}

int hybridos_app_new(const char *name, const char *registrar, hybridos_app **ret)
{
    if (!name || !*name || strlen(name) > 128)
        return -EINVAL;
    if (!registrar)
        registrar = secure_getenv("HYBRIDOS_REGISTRAR");
    if (!registrar)
        registrar = CHANNEL_REGISTRAR_SOCKET;

    hybridos_app *app = calloc(1, sizeof(*app));
    if (!app)
        return -ENOMEM;
    app->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    app->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    app->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    app->name = strdup(name);
    app->registrar = connection_new(app, ROLE_REGISTRAR, "registrar", registrar);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &app->event_fd};
    struct epoll_event timer = {.events = EPOLLIN, .data.ptr = &app->timer_fd};
    if (app->epoll_fd < 0 || app->event_fd < 0 || app->timer_fd < 0 ||
        epoll_ctl(app->epoll_fd, EPOLL_CTL_ADD, app->event_fd, &event) < 0 ||
        epoll_ctl(app->epoll_fd, EPOLL_CTL_ADD, app->timer_fd, &timer) < 0) {
        int r = -errno;
        hybridos_app_free(app);
        return r;
    }
    if (!app->name || !app->registrar) {
        hybridos_app_free(app);
        return -ENOMEM;
    }
    app_kick(app);
    *ret = app;
    return 0;
}

void hybridos_app_free(hybridos_app *app)
{
    if (!app)
        return;
    while (app->servers) {
        struct connection *c = app->servers;
        app->servers = c->next;
        connection_free(c);
    }
    connection_free(app->registrar);
    while (app->endpoints) {
        hybridos_endpoint *e = app->endpoints;
        app->endpoints = e->next;
        endpoint_free(e);
    }
    if (app->timer_fd >= 0)
        close(app->timer_fd);
    if (app->event_fd >= 0)
        close(app->event_fd);
    if (app->epoll_fd >= 0)
        close(app->epoll_fd);
    free(app->name);
    free(app);
}

int hybridos_fd(hybridos_app *app)
{
    return app->epoll_fd;
}

void hybridos_on_wakeup(hybridos_app *app, hybridos_wakeup_fn wakeup, void *userdata)
{
    app->wakeup = wakeup;
    app->wakeup_userdata = userdata;
}

void hybridos_wakeup(hybridos_app *app)
{
    int saved = errno;
    if (!atomic_exchange(&app->woken, true))
        eventfd_write(app->event_fd, 1);
    errno = saved;
}

void hybridos_stop(hybridos_app *app)
{
    int saved = errno;
    atomic_store(&app->stop, true);
    eventfd_write(app->event_fd, 1);
    errno = saved;
}

static void stop_begin(hybridos_app *app)
{
    static const char reason[] = "the app stops";

    app->stopping = true;
    app->stop_at = now_usec() + STOP_USEC;
    for (struct connection *c = app->servers; c; c = c->next)
        if (connection_open(c)) {
            /* The answer to the PING says that no request is under way to us any more. */
            wire_put(&c->out, CHANNEL_GOAWAY, 0, 503, 0, 0, reason, sizeof(reason) - 1);
            wire_put(&c->out, CHANNEL_PING, 0, 0, 0, 1, NULL, 0);
        }
}

static bool stop_done(const hybridos_app *app)
{
    if (now_usec() >= app->stop_at)
        return true;
    for (const struct connection *c = app->servers; c; c = c->next)
        if (connection_open(c) && (!c->stopped || c->n_requests > 0 || buffer_used(&c->out) > 0))
            return false;
    return true;
}

static void sooner(uint64_t *at, uint64_t candidate)
{
    if (candidate != 0 && (*at == 0 || candidate < *at))
        *at = candidate;
}

static void set_timer(hybridos_app *app)
{
    uint64_t at = app->stopping ? app->stop_at : 0;

    sooner(&at, app->registrar->retry.at);
    for (const hybridos_endpoint *e = app->endpoints; e; e = e->next)
        sooner(&at, e->retry.at);
    for (const struct connection *c = app->servers; c; c = c->next) {
        sooner(&at, c->retry.at);
        for (const struct attachment *a = c->attachments; a; a = a->next)
            sooner(&at, a->retry.at);
    }
    if (at == app->timer_at)
        return;
    app->timer_at = at;
    struct itimerspec when = {
        .it_value = {.tv_sec = (time_t)(at / 1000000), .tv_nsec = (long)(at % 1000000) * 1000}};
    timerfd_settime(app->timer_fd, TFD_TIMER_ABSTIME, &when, NULL);
}

/* Frees what was removed while it may have been in use. */
static void sweep(hybridos_app *app)
{
    for (struct connection **p = &app->servers; *p;) {
        struct connection *c = *p;
        if (!c->removed) {
            p = &c->next;
            continue;
        }
        *p = c->next;
        app->n_servers--;
        connection_free(c);
    }
    for (hybridos_endpoint **p = &app->endpoints; *p;) {
        hybridos_endpoint *e = *p;
        if (!e->removed) {
            p = &e->next;
            continue;
        }
        *p = e->next;
        endpoint_free(e);
    }
}

static void handle_events(hybridos_app *app, struct epoll_event *events, int n)
{
    for (int i = 0; i < n; i++) {
        uint64_t count;
        if (events[i].data.ptr == &app->event_fd) {
            /* Read before the flags are cleared: a wake-up in between is seen at the next turn. */
            eventfd_read(app->event_fd, &count);
            atomic_store(&app->kicked, false);
            if (atomic_exchange(&app->woken, false) && app->wakeup)
                app->wakeup(app, app->wakeup_userdata);
        } else if (events[i].data.ptr == &app->timer_fd) {
            if (read(app->timer_fd, &count, sizeof(count)) > 0)
                app->timer_at = 0;
        } else {
            struct connection *c = events[i].data.ptr;
            if (c->fd >= 0 && events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
                connection_read(c);
        }
    }
}

static int turn(hybridos_app *app, int timeout)
{
    struct epoll_event events[SERVERS_MAX + 3];
    if (app->in_turn) /* from a callback: the turn that called it goes on after it */
        return -EBUSY;
    int n = epoll_wait(app->epoll_fd, events, SERVERS_MAX + 3, timeout);
    if (n < 0)
        return errno == EINTR ? 0 : -errno;

    app->in_turn = true;
    app->error = 0;
    handle_events(app, events, n);
    if (!app->stopping && atomic_load(&app->stop))
        stop_begin(app);

    uint64_t now = now_usec();
    if (!app->stopping)
        registrar_turn(app, now);
    for (struct connection *c = app->servers; c; c = c->next)
        server_turn(c, now);

    connection_flush(app->registrar);
    for (struct connection *c = app->servers; c; c = c->next)
        connection_flush(c);
    /* A connection that was lost just now changes what is to be waited for. */
    sweep(app);
    app->stop_complete = app->stopping && stop_done(app);
    set_timer(app);
    app->in_turn = false;
    return app->error;
}

int hybridos_process(hybridos_app *app)
{
    int r = turn(app, 0);
    return r < 0 ? r : app->stop_complete;
}

int hybridos_run(hybridos_app *app)
{
    for (;;) {
        int r = turn(app, -1);
        if (r < 0)
            return r;
        if (app->stop_complete)
            return 0;
    }
}
