/* SPDX-License-Identifier: Apache-2.0 */
#include <hybus/daemon.h>
#include <hybus/log.h>
#include <sys/socket.h>

#include "http-bus.h"

#define TURN_USEC (60u * 1000u * 1000u)

typedef struct Manager {
    hybus_daemon *daemon;
    Http *http;
    endpoint_core *core;
    HttpBus *bus;
} Manager;

static void manager_done(Manager *m)
{
    http_bus_free(m->bus);
    /* Requests go first, then the core that they live in. */
    if (m->http)
        http_free(m->http);
    if (m->core)
        endpoint_core_free(m->core);
}

static int reload(hybus_daemon *d, void *userdata)
{
    Manager *m = userdata;
    const http_settings *settings = hybus_daemon_settings(d);
    endpoint_settings core;
    int r;

    r = http_reconfigure(m->http, settings);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "reload: keeping certificate and listeners as they are");
    http_settings_to_core(settings, &core);
    endpoint_core_configure(m->core, &core);
    http_bus_certificate_changed(m->bus);
    return 0;
}

static void drained(Http *h, void *userdata)
{
    hybus_daemon_stopped(userdata);
}

static int stop(hybus_daemon *d, void *userdata)
{
    Manager *m = userdata;

    endpoint_core_drain(m->core);
    return http_drain(m->http, drained, d);
}

static int pass_sockets(Manager *m, const char *name, bool tls)
{
    int fd = -ENOENT, r = 0;

    while (r >= 0 && (fd = hybus_daemon_listen_fd(m->daemon, name, AF_UNSPEC, SOCK_STREAM)) >= 0)
        r = http_listen_pass(m->http, fd, tls);
    return r < 0 ? r : fd == -ENOENT ? 0 : fd;
}

/* The channel's socket goes to the core, "plain" and all others ("tls") are ours. */
static int take_sockets(Manager *m, int *ret_channel)
{
    int r, channel = hybus_daemon_listen_fd(m->daemon, "channel", AF_UNIX, SOCK_STREAM);

    if (channel < 0)
        return hybus_log_errno(LOG_ERR, channel,
                               "no socket came from h-httpd.socket; start that unit");
    r = pass_sockets(m, "plain", false);
    if (r >= 0)
        r = pass_sockets(m, NULL, true);
    if (r < 0) {
        safe_close(channel);
        return hybus_log_errno(LOG_ERR, r, "cannot take the sockets from systemd");
    }
    *ret_channel = channel;
    return 0;
}

static int make_core(Manager *m, int channel)
{
    endpoint_settings settings = {};
    int r;

    http_settings_to_core(hybus_daemon_settings(m->daemon), &settings);
    r = endpoint_core_of_daemon(m->daemon, "httpd", "http", channel, &settings, &m->core);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "cannot set up the endpoint core");
    r = http_set_core(m->http, m->core, hybus_daemon_agent(m->daemon));
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "cannot follow the policy");
    return 0;
}

static int set_up(Manager *m)
{
    const http_settings *settings = hybus_daemon_settings(m->daemon);
    int channel = -1, r;

    r = http_new(hybus_daemon_event(m->daemon), settings, &m->http);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "cannot set up the server");
    if (!settings->certificate[0]) {
        r = endpoint_key_pair_make(HTTP_STATE_DIRECTORY, m->http->host_name, HTTP_BUILD_EPOCH);
        if (r < 0)
            return hybus_log_errno(LOG_ERR, r,
                                   "cannot make a certificate in " HTTP_STATE_DIRECTORY);
        if (r > 0)
            hybus_notice("made a key and a certificate for this device in " HTTP_STATE_DIRECTORY);
    }
    r = take_sockets(m, &channel);
    if (r < 0)
        return r;
    r = hybus_daemon_connect(m->daemon);
    if (r < 0)
        return r;
    r = make_core(m, channel);
    if (r < 0)
        return r;
    r = http_bus_publish(m->http, hybus_daemon_bus(m->daemon), &m->bus);
    if (r < 0)
        return r;
    r = http_reconfigure(m->http, settings);
    return r < 0 ? hybus_log_errno(LOG_ERR, r, "cannot start listening") : 0;
}

static int run(Manager *m)
{
    int r = hybus_daemon_start(m->daemon, m);

    while (r >= 0 && !hybus_daemon_finished(m->daemon))
        r = http_turn(m->http, TURN_USEC);
    return r;
}

/* The library writes a line to standard error for each frame of a type it does not know: a client
 * could fill the journal, or make us wait for it. Our own messages go to the journal's own socket.
 */
static void silence_library(void)
{
    if (secure_getenv("JOURNAL_STREAM") && !freopen("/dev/null", "we", stderr))
        hybus_warning("cannot silence the library");
}

int main(int argc, char *argv[])
{
    static const char *const interfaces[] = {"org.hybridos.Server1", "org.hybridos.Http1", NULL};
    static const hybus_daemon_info info = {.component = "httpd",
                                           .concept = "Http",
                                           .description =
                                               "HTTP/2 and HTTP/1.1 server of the device",
                                           .interfaces = interfaces,
                                           .settings = http_setting_table,
                                           .settings_size = sizeof(http_settings),
                                           .mediate = true,
                                           .reload = reload,
                                           .stop = stop};
    _cleanup_(hybus_daemon_freep) hybus_daemon *daemon = NULL;
    _cleanup_(manager_done) Manager manager = {};
    int r;

    r = hybus_daemon_new(&info, argc, argv, &daemon);
    if (r <= 0)
        return hybus_daemon_exit_status(r);
    silence_library();
    manager.daemon = daemon;
    r = set_up(&manager);
    if (r >= 0)
        r = run(&manager);
    return hybus_daemon_exit_status(r);
}
