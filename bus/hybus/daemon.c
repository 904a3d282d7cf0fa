/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon.h"

#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <sys/stat.h>
#include <systemd/sd-daemon.h>
#include <time.h>

#include "error.h"
#include "log.h"
#include "mediate-internal.h"

#define IDLE_ACCURACY_USEC (1000u * 1000u)

static const char *const config_directories[] = {"/etc/hybridos", "/run/hybridos/config",
                                                 "/usr/lib/hybridos", NULL};

struct hybus_daemon {
    const hybus_daemon_info *info;
    void *userdata;
    char *config_path; /* --config; NULL: the standard directories */
    void *settings;
    char name[128]; /* org.hybridos.Log1 */
    sd_event *event;
    sd_bus *bus;
    hybus_agent *agent;
    hybus_mediator *mediator;
    sd_event_source *idle;
    uint64_t holds, calls, calls_at_idle;
    char **passed; /* names of the sockets from systemd; NULL: given to somebody */
    int n_passed;  /* -1: not asked for yet */
    bool check_config, started, stopping, finished;
};

/* --- settings -------------------------------------------------------------------------------- */

static int read_optional(hybus_config *c, const char *path, hybus_config_error *e)
{
    if (access(path, F_OK) < 0 && errno == ENOENT)
        return 0;
    return hybus_config_read_file(c, path, NULL, e);
}

/* <component>.conf of the first directory that has one, then all drop-ins. */
static int read_below(hybus_config *c, const char *const *directories, const char *component,
                      hybus_config_error *e)
{
    char paths[4][PATH_MAX], main_file[PATH_MAX];
    const char *dropins[5] = {NULL};
    bool found = false;
    int r = 0;

    for (size_t i = 0; directories[i] && i < 4; i++) {
        snprintf(paths[i], sizeof paths[i], "%s/%s.conf.d", directories[i], component);
        dropins[i] = paths[i];
        snprintf(main_file, sizeof main_file, "%s/%s.conf", directories[i], component);
        if (!found && access(main_file, F_OK) == 0) {
            found = true;
            r = read_optional(c, main_file, e);
        }
        if (r < 0)
            return r;
    }
    return hybus_config_read_directories(c, dropins, ".conf", NULL, e);
}

static int read_configuration(const hybus_daemon *d, hybus_config *c, hybus_config_error *e)
{
    const char *const only[] = {d->config_path, NULL};
    struct stat st;

    if (!d->config_path)
        return read_below(c, config_directories, d->info->component, e);
    if (stat(d->config_path, &st) == 0 && S_ISDIR(st.st_mode))
        return read_below(c, only, d->info->component, e);
    return hybus_config_read_file(c, d->config_path, NULL, e);
}

static void settings_free(const hybus_daemon *d, void *settings)
{
    if (!settings)
        return;
    hybus_settings_done(d->info->settings, settings);
    free(settings);
}

static int load_settings(const hybus_daemon *d, void **ret)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    _cleanup_(hybus_config_freep) hybus_config *c = NULL;
    _cleanup_(freep) void *settings = NULL;
    int r;

    if (!d->info->settings) {
        *ret = NULL;
        return 0;
    }
    settings = calloc(1, d->info->settings_size);
    if (!settings)
        return hybus_log_errno(LOG_ERR, -ENOMEM, "Cannot read the configuration");
    r = hybus_config_new(&c);
    if (r >= 0)
        r = read_configuration(d, c, &e);
    if (r >= 0)
        r = hybus_settings_load(d->info->settings, c, settings, &e);
    if (r < 0 && e.message)
        return hybus_log_full(LOG_ERR, 0, __FILE__, __LINE__, "%s", e.message), r;
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot read the configuration");
    *ret = TAKE_PTR(settings);
    return 0;
}

/* --- signals --------------------------------------------------------------------------------- */

static void finish(hybus_daemon *d, int code)
{
    if (d->finished)
        return;
    d->finished = true;
    (void)sd_event_exit(d->event, code);
}

static void stop(hybus_daemon *d)
{
    int r = 0;

    if (d->stopping) { /* asked a second time: at once */
        finish(d, 0);
        return;
    }
    d->stopping = true;
    (void)sd_notify(false, "STOPPING=1");
    if (d->started && d->info->stop)
        r = d->info->stop(d, d->userdata);
    if (r < 0)
        hybus_log_errno(LOG_WARNING, r, "Cannot end gracefully");
    if (r <= 0)
        finish(d, 0);
}

static int on_terminate(sd_event_source *s, const struct signalfd_siginfo *si, void *userdata)
{
    stop(userdata);
    return 0;
}

static void reload(hybus_daemon *d)
{
    void *new = NULL, *old = d->settings;

    if (load_settings(d, &new) < 0) {
        hybus_warning("The new configuration is not used; the old one stays");
        return;
    }
    d->settings = new;
    if (d->started && d->info->reload) {
        int r = d->info->reload(d, d->userdata);

        if (r < 0) {
            hybus_log_errno(LOG_WARNING, r,
                            "The new configuration cannot be used; the old one stays");
            d->settings = old;
            settings_free(d, new);
            return;
        }
    }
    settings_free(d, old);
    hybus_info("Configuration read again");
}

static int on_reload(sd_event_source *s, const struct signalfd_siginfo *si, void *userdata)
{
    hybus_daemon *d = userdata;
    struct timespec now;

    if (d->stopping)
        return 0;
    clock_gettime(CLOCK_MONOTONIC, &now);
    (void)sd_notifyf(false, "RELOADING=1\nMONOTONIC_USEC=%llu",
                     (unsigned long long)now.tv_sec * 1000000ull +
                         (unsigned long long)now.tv_nsec / 1000ull);
    reload(d);
    (void)sd_notify(false, "READY=1");
    return 0;
}

static int set_up_loop(hybus_daemon *d)
{
    sigset_t set;
    int r;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    (void)signal(SIGPIPE, SIG_IGN);

    r = sd_event_default(&d->event);
    if (r < 0)
        return r;
    r = sd_event_add_signal(d->event, NULL, SIGTERM, on_terminate, d);
    if (r >= 0)
        r = sd_event_add_signal(d->event, NULL, SIGINT, on_terminate, d);
    if (r >= 0)
        r = sd_event_add_signal(d->event, NULL, SIGHUP, on_reload, d);
    if (r >= 0)
        r = sd_event_set_watchdog(d->event, true);
    return r;
}

/* --- sockets from systemd --------------------------------------------------------------------- */

static void passed_done(hybus_daemon *d)
{
    for (int i = 0; i < d->n_passed; i++) {
        if (d->passed[i]) /* nobody wanted it */
            close(SD_LISTEN_FDS_START + i);
        free(d->passed[i]);
    }
    free(d->passed);
}

int hybus_daemon_listen_fd(hybus_daemon *d, const char *name, int family, int type)
{
    int i = 0, fd, r;

    if (d->n_passed < 0) {
        r = sd_listen_fds_with_names(true, &d->passed);
        if (r < 0)
            return r;
        d->n_passed = r;
    }
    while (i < d->n_passed && (!d->passed[i] || (name && !streq(d->passed[i], name))))
        i++;
    if (i == d->n_passed)
        return -ENOENT;
    fd = SD_LISTEN_FDS_START + i;
    /* Datagrams need no listening. */
    r = sd_is_socket(fd, family, type, type == SOCK_DGRAM ? -1 : true);
    if (r <= 0)
        return r < 0 ? r : -EPROTOTYPE;
    /* systemd passes it blocking: accepting all there is would wait in the last accept. */
    r = fcntl(fd, F_GETFL);
    if (r < 0 || fcntl(fd, F_SETFL, r | O_NONBLOCK) < 0)
        return -errno;
    free(TAKE_PTR(d->passed[i]));
    return fd;
}

/* --- arguments ------------------------------------------------------------------------------- */

static void help(const hybus_daemon_info *info)
{
    printf("h-%s [OPTIONS…]\n\n%s\n\n"
           "  -h, --help          Show this help\n"
           "      --version       Show the version\n",
           info->component, info->description);
    if (info->settings)
        printf("      --config=PATH   Read this file, or %s.conf and %s.conf.d/ in this\n"
               "                      directory, instead of the standard places\n",
               info->component, info->component);
    if (info->settings || info->check)
        printf("      --check-config  Check the configuration and end\n");
}

static int parse_arguments(hybus_daemon *d, int argc, char *argv[])
{
    enum { ARG_VERSION = 256, ARG_CONFIG, ARG_CHECK };
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, ARG_VERSION},
        {"config", required_argument, NULL, ARG_CONFIG},
        {"check-config", no_argument, NULL, ARG_CHECK},
        {0},
    };
    int c;

    optind = 0; /* GNU: start over, also when a test parses twice */
    while ((c = getopt_long(argc, argv, "h", options, NULL)) >= 0) {
        switch (c) {
        case 'h':
            help(d->info);
            return 0;
        case ARG_VERSION:
            printf("h-%s (HybridOS) %s\n", d->info->component, HYBUS_VERSION);
            return 0;
        case ARG_CONFIG:
            free(d->config_path);
            d->config_path = strdup(optarg);
            if (!d->config_path)
                return hybus_log_errno(LOG_ERR, -ENOMEM, "Cannot read the arguments");
            break;
        case ARG_CHECK:
            d->check_config = true;
            break;
        default: /* getopt has said why */
            return -EINVAL;
        }
    }
    if (optind < argc) {
        hybus_error("Unexpected argument \"%s\"; see --help", argv[optind]);
        return -EINVAL;
    }
    return 1;
}

int hybus_daemon_new(const hybus_daemon_info *info, int argc, char *argv[], hybus_daemon **ret)
{
    _cleanup_(hybus_daemon_freep) hybus_daemon *d = calloc(1, sizeof *d);
    char program[64];
    int r;

    snprintf(program, sizeof program, "h-%s", info->component);
    hybus_log_open(program);
    if (!d)
        return hybus_log_errno(LOG_ERR, -ENOMEM, "Cannot start");
    d->info = info;
    d->n_passed = -1;
    snprintf(d->name, sizeof d->name, "org.hybridos.%s1", info->concept);

    r = parse_arguments(d, argc, argv);
    if (r <= 0)
        return r;
    r = load_settings(d, &d->settings);
    if (r < 0)
        return r;
    if (d->check_config) {
        r = info->check && !d->config_path ? info->check() : 0;
        if (r < 0)
            return r;
        puts("The configuration is good.");
        return 0;
    }
    r = set_up_loop(d);
    if (r >= 0)
        r = hybus_error_register();
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot set up the event loop");
    if (info->mediate) {
        r = hybus_agent_new(d->event, info->component, info->interfaces,
                            secure_getenv("HYBRIDOS_AGENT_SOCKET"), &d->agent);
        if (r < 0)
            return hybus_log_errno(LOG_ERR, r, "Cannot set up the connection to h-securityd");
    }
    *ret = TAKE_PTR(d);
    return 1;
}

void hybus_daemon_free(hybus_daemon *d)
{
    if (!d)
        return;
    sd_event_source_disable_unref(d->idle);
    passed_done(d);
    hybus_mediator_free(d->mediator);
    hybus_agent_free(d->agent);
    sd_bus_flush_close_unref(d->bus);
    sd_event_unref(d->event);
    if (d->info)
        settings_free(d, d->settings);
    free(d->config_path);
    free(d);
}

sd_event *hybus_daemon_event(hybus_daemon *d)
{
    return d->event;
}

sd_bus *hybus_daemon_bus(hybus_daemon *d)
{
    return d->bus;
}

hybus_agent *hybus_daemon_agent(hybus_daemon *d)
{
    return d->agent;
}

const void *hybus_daemon_settings(hybus_daemon *d)
{
    return d->settings;
}

/* --- the bus --------------------------------------------------------------------------------- */

static int on_disconnected(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    hybus_daemon *d = userdata;

    if (!d->stopping)
        hybus_error("The connection to the bus is lost; ending, to be started again");
    finish(d, d->stopping ? 0 : -ECONNRESET);
    return 0;
}

/* Runs after the mediation filter: only calls that were allowed are work. */
static int count_calls(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    hybus_daemon *d = userdata;

    if (sd_bus_message_is_method_call(m, NULL, NULL))
        d->calls++;
    return 0;
}

int hybus_daemon_connect(hybus_daemon *d)
{
    int r = sd_bus_open_system_with_description(&d->bus, d->info->component);

    if (r >= 0)
        r = sd_bus_attach_event(d->bus, d->event, SD_EVENT_PRIORITY_NORMAL);
    if (r >= 0)
        r = sd_bus_match_signal_async(d->bus, NULL, "org.freedesktop.DBus.Local",
                                      "/org/freedesktop/DBus/Local", "org.freedesktop.DBus.Local",
                                      "Disconnected", on_disconnected, NULL, d);
    if (r >= 0 && d->info->idle_exit_usec > 0)
        r = sd_bus_add_filter(d->bus, NULL, count_calls, d);
    /* The last one installed, which sd-bus runs first. */
    if (r >= 0 && d->info->mediate)
        r = hybus_mediator_new(d->bus, d->agent, &d->mediator);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot connect to the system bus");
    return 0;
}

/* --- idle exit ------------------------------------------------------------------------------- */

static bool busy(const hybus_daemon *d)
{
    return d->holds > 0 || (d->mediator && !hybus_mediator_idle(d->mediator));
}

static int arm_idle(hybus_daemon *d)
{
    int r = sd_event_source_set_time_relative(d->idle, d->info->idle_exit_usec);
    return r < 0 ? r : sd_event_source_set_enabled(d->idle, SD_EVENT_ONESHOT);
}

/* The bus delivers in order: whatever was sent to the name before the release has come by now. If
 * there was something, the name is taken back, else nobody is lost by ending. */
static int on_released(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    hybus_daemon *d = userdata;

    if (d->calls == d->calls_at_idle && !busy(d)) {
        hybus_debug("Nothing to do; ending");
        stop(d);
        return 0;
    }
    (void)sd_bus_request_name_async(d->bus, NULL, d->name, 0, NULL, NULL);
    (void)arm_idle(d);
    return 0;
}

static int on_idle(sd_event_source *s, uint64_t usec, void *userdata)
{
    hybus_daemon *d = userdata;

    if (d->calls != d->calls_at_idle || busy(d) || !d->bus) {
        d->calls_at_idle = d->calls;
        return arm_idle(d);
    }
    return sd_bus_release_name_async(d->bus, NULL, d->name, on_released, d);
}

static int set_up_idle(hybus_daemon *d)
{
    if (d->info->idle_exit_usec == 0)
        return 0;
    return sd_event_add_time_relative(d->event, &d->idle, CLOCK_MONOTONIC, d->info->idle_exit_usec,
                                      IDLE_ACCURACY_USEC, on_idle, d);
}

void hybus_daemon_hold(hybus_daemon *d)
{
    d->holds++;
    d->calls++;
}

void hybus_daemon_release(hybus_daemon *d)
{
    d->holds--;
}

/* --- running --------------------------------------------------------------------------------- */

int hybus_daemon_start(hybus_daemon *d, void *userdata)
{
    int r;

    d->userdata = userdata;
    d->started = true;
    if (d->bus) {
        r = sd_bus_request_name(d->bus, d->name, 0);
        if (r < 0)
            return hybus_log_errno(LOG_ERR, r, "Cannot take the name %s on the bus", d->name);
    }
    r = set_up_idle(d);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot set up the idle timer");
    (void)sd_notify(false, "READY=1");
    return 0;
}

int hybus_daemon_run(hybus_daemon *d, void *userdata)
{
    int r = hybus_daemon_start(d, userdata);

    if (r < 0)
        return r;
    r = sd_event_loop(d->event);
    d->finished = true;
    return r;
}

bool hybus_daemon_finished(hybus_daemon *d)
{
    return d->finished || sd_event_get_state(d->event) == SD_EVENT_FINISHED;
}

void hybus_daemon_stopped(hybus_daemon *d)
{
    finish(d, 0);
}

int hybus_daemon_exit_status(int r)
{
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}
