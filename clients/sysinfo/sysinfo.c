/* SPDX-License-Identifier: Apache-2.0 */

/* h-sysinfo: the device's own figures at /system/status. JSON, or a page for who prefers HTML;
 * while somebody watches, a new value every second, and no timer at all otherwise.
 *
 * What the units do is asked of systemd, and nobody is kept waiting for that but those who asked
 * for the status: their requests stand in `waiting` until the answer is there. */

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>
#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <hybridos-log.h>
#include <hybridos.h>

#include "assets.h"
#include "page.h"
#include "status.h"
#include "units.h"

/* The page needs its own two files and its event stream, nothing else. */
#define PAGE_POLICY                                                                                \
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src "        \
    "'self'; "                                                                                     \
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

#define WAITING_MAX 64u /* more are answered with what is known of the units */

/* Reals are rounded figures: no digits that mean nothing. */
#define JSON_FORMAT (JSON_COMPACT | JSON_REAL_PRECISION(10))

struct sysinfo {
    hybridos_endpoint *endpoint;
    Units *units;
    struct status status; /* for requests */
    struct status live;   /* for watchers: CPU use of the last second */
    hybridos_request *waiting[WAITING_MAX];
    size_t n_waiting;
    bool push; /* watchers wait too */
    int timer_fd;
};

static hybridos_app *app; /* for the signal handler */

static void on_signal(int signal_number)
{
    hybridos_stop(app);
}

static const char *media_type(const char *range)
{
    return range + strspn(range, " \t");
}

static bool is_media(const char *range, const char *type)
{
    range = media_type(range);
    size_t n = strlen(type);
    return strncasecmp(range, type, n) == 0 && (range[n] == '\0' || strchr(",; \t", range[n]));
}

/* Browsers name text/html; programs say anything or JSON. */
static bool wants_page(const char *accept)
{
    for (const char *p = accept; p; p = strchr(p, ',')) {
        p += *p == ',';
        if (is_media(p, "application/json"))
            return false;
        if (is_media(p, "text/html"))
            return true;
    }
    return false;
}

static void reply_page(hybridos_request *r, const json_t *status)
{
    size_t size;
    char *page = page_render(status, &size);
    if (!page) {
        hybridos_abort(r);
        return;
    }
    hybridos_header(r, "content-security-policy", PAGE_POLICY);
    if (hybridos_reply(r, 200, "text/html; charset=utf-8", page, size) < 0)
        hybridos_abort(r);
    free(page);
}

static void reply_json(hybridos_request *r, const json_t *status)
{
    char *text = json_dumps(status, JSON_FORMAT);
    if (!text || hybridos_reply(r, 200, "application/json", text, strlen(text)) < 0)
        hybridos_abort(r);
    free(text);
}

static void reply_asset(hybridos_request *r, const char *type, const void *data, size_t size)
{
    hybridos_header(r, "cache-control", "max-age=3600");
    hybridos_header(r, "x-content-type-options", "nosniff");
    if (hybridos_reply(r, 200, type, data, size) < 0)
        hybridos_abort(r);
}

static void reply_error(hybridos_request *r, unsigned status, const char *text)
{
    if (hybridos_reply(r, status, "text/plain; charset=utf-8", text, strlen(text)) < 0)
        hybridos_abort(r);
}

static void reply_status(struct sysinfo *s, hybridos_request *r)
{
    json_t *status = status_sample(&s->status, units_list(s->units));
    if (!status) {
        hybridos_abort(r);
        return;
    }
    hybridos_header(r, "vary", "accept");
    hybridos_header(r, "cache-control", "no-store");
    if (wants_page(hybridos_request_field(r, "accept")))
        reply_page(r, status);
    else
        reply_json(r, status);
    json_decref(status);
}

static void on_request(hybridos_request *r, void *userdata)
{
    struct sysinfo *s = userdata;
    const char *path = hybridos_request_subpath(r), *method = hybridos_request_method(r);

    if (strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0) {
        hybridos_header(r, "allow", "GET, HEAD");
        reply_error(r, 405, "only GET and HEAD\n");
        return;
    }
    if (strcmp(path, "/app.js") == 0) {
        reply_asset(r, "text/javascript; charset=utf-8", asset_script, asset_script_size);
        return;
    }
    if (strcmp(path, "/style.css") == 0) {
        reply_asset(r, "text/css; charset=utf-8", asset_style, asset_style_size);
        return;
    }
    if (strcmp(path, "/icon.svg") == 0) {
        reply_asset(r, "image/svg+xml", asset_icon, asset_icon_size);
        return;
    }
    if (strcmp(path, "/") != 0) {
        reply_error(r, 404, "no such page\n");
        return;
    }
    /* How many hang on one answer is bounded; whoever comes on top gets an older one. */
    if (units_ask(s->units) && s->n_waiting < WAITING_MAX)
        s->waiting[s->n_waiting++] = r;
    else
        reply_status(s, r);
}

static void on_cancel(hybridos_request *r, unsigned status, void *userdata)
{
    struct sysinfo *s = userdata;
    for (size_t i = 0; i < s->n_waiting; i++)
        if (s->waiting[i] == r) {
            s->waiting[i] = s->waiting[--s->n_waiting];
            return;
        }
}

static void push(struct sysinfo *s)
{
    json_t *status = status_sample(&s->live, units_list(s->units));
    char *text = status ? json_dumps(status, JSON_FORMAT) : NULL;
    /* A server that does not keep up misses a second; the next value is whole again. */
    if (text)
        hybridos_notify(s->endpoint, "/", "application/json", NULL, 2, text, strlen(text));
    free(text);
    json_decref(status);
}

static void tick(struct sysinfo *s)
{
    if (units_ask(s->units))
        s->push = true;
    else
        push(s);
}

static void on_units(void *userdata)
{
    struct sysinfo *s = userdata;

    while (s->n_waiting > 0)
        reply_status(s, s->waiting[--s->n_waiting]);
    if (s->push)
        push(s);
    s->push = false;
}

static void on_watch(hybridos_endpoint *e, const char *path, unsigned watchers, void *userdata)
{
    struct sysinfo *s = userdata;
    if (strcmp(path, "/") != 0)
        return;
    struct itimerspec each_second = {0};
    if (watchers > 0)
        each_second = (struct itimerspec){.it_interval.tv_sec = 1, .it_value.tv_sec = 1};
    timerfd_settime(s->timer_fd, 0, &each_second, NULL);
    if (watchers > 0)
        tick(s);
}

static void on_state(hybridos_endpoint *e, unsigned status, const char *reason, void *userdata)
{
    if (status == HYBRIDOS_REGISTERED)
        hybridos_log(LOG_INFO, "%s is registered", hybridos_endpoint_namespace(e));
    else if (status != 429 && status != 503) {
        hybridos_log(LOG_ERR, "%s is refused: %s", hybridos_endpoint_namespace(e), reason);
        hybridos_stop(
            app); /* systemd starts us again, with a pause, when the policy may have changed */
    }
}

static int run(struct sysinfo *s)
{
    for (;;) {
        /* The bus is a stranger to the others: only its descriptor and when it wants to be called.
         */
        struct pollfd fds[] = {{.fd = hybridos_fd(app), .events = POLLIN},
                               {.fd = s->timer_fd, .events = POLLIN},
                               {.fd = units_fd(s->units), .events = units_events(s->units)}};
        if (poll(fds, 3, units_timeout_msec(s->units)) < 0 && errno != EINTR)
            return -errno;
        uint64_t expirations;
        if (read(s->timer_fd, &expirations, sizeof(expirations)) > 0)
            tick(s);
        units_process(s->units);
        int r = hybridos_process(app);
        if (r != 0)
            return r < 0 ? r : 0;
    }
}

int main(int argc, char *argv[])
{
    struct sysinfo s = {.status.root = "", .live.root = ""};
    const char *namespace_ = argc > 1 ? argv[1] : "/system/status";

    s.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    int r = s.timer_fd < 0 ? -errno : units_new(on_units, &s, &s.units);
    if (r >= 0)
        r = hybridos_app_new("sysinfo", NULL, &app);
    if (r >= 0)
        r = hybridos_register(app, namespace_, on_request, &s, &s.endpoint);
    if (r < 0) {
        hybridos_log(LOG_ERR, "Cannot start: %s", strerror(-r));
        return EXIT_FAILURE;
    }
    hybridos_endpoint_title(s.endpoint, "Device status");
    hybridos_on_watch(s.endpoint, on_watch);
    hybridos_on_cancel(s.endpoint, on_cancel);
    hybridos_on_state(s.endpoint, on_state);

    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sd_notify(false, "READY=1");
    r = run(&s);
    hybridos_app_free(app);
    units_free(s.units);
    close(s.timer_fd);
    if (r < 0)
        hybridos_log(LOG_ERR, "Stopped: %s", strerror(-r));
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
