/* SPDX-License-Identifier: Apache-2.0 */
#include <hybus/daemon.h>
#include <hybus/log.h>
#include <malloc.h>
#include <pwd.h>
#include <sys/socket.h>

#include "log-bus.h"
#include "log-connection.h"
#include "log-journal.h"
#include "log-link.h"
#include "log-native.h"
#include "log-receive.h"
#include "log-remote.h"
#include "log-report.h"
#include "log-responder.h"

#define STATE_DIRECTORY "/var/lib/hybridos/logged"
#define RUNTIME_DIRECTORY "/run/hybridos/logged"
#define AUDIT_USER "h-securityd"
#define BUS_USER "messagebus"
#define HOUSEKEEPING_USEC (1000u * 1000u)

typedef struct Settings {
    log_settings log;
    char **listen, **allow; /* syslog of other nodes */
    log_remote_settings remote;
} Settings;

typedef struct Manager {
    log_settings settings;
    log_networks allowed;
    sd_event *event;
    log_book *book;
    log_pipes *pipes;
    log_sync *sync;
    log_native *native;
    log_connections *connections;
    log_journal *journal;
    log_receive *receive; /* NULL: nothing listens */
    log_remote *remote;   /* NULL: no sink */
    log_report *report;   /* NULL: the journal is not read */
    log_bus *bus;
    log_responder *responder;
    sd_event_source *tick;
    bool ticking;
    uint64_t last_stored, next_sync;
} Manager;

static const hybus_setting settings_table[] = {
    {"log", "Storage", HYBUS_SETTING_STRING, offsetof(Settings, log.storage_name), "split"},
    {"log", "Size", HYBUS_SETTING_BYTES, offsetof(Settings, log.size), "4M", LOG_FILE_SIZE_MIN,
     LOG_FILE_SIZE_MAX},
    {"log", "ImportantSize", HYBUS_SETTING_BYTES, offsetof(Settings, log.important_size), "1M",
     LOG_FILE_SIZE_MIN, LOG_FILE_SIZE_MAX},
    {"log", "AuditSize", HYBUS_SETTING_BYTES, offsetof(Settings, log.audit_size), "1M",
     LOG_FILE_SIZE_MIN, LOG_FILE_SIZE_MAX},
    {"log", "RateInterval", HYBUS_SETTING_SECONDS, offsetof(Settings, log.rate_interval), "10s",
     100000, 3600000000u},
    {"log", "RateBurst", HYBUS_SETTING_UINT, offsetof(Settings, log.rate_burst), "5000", 0,
     1000000000u},
    {"log", "SyncInterval", HYBUS_SETTING_SECONDS, offsetof(Settings, log.sync_interval), "5min", 0,
     86400000000u},
    {"syslog", "Listen", HYBUS_SETTING_STRINGS, offsetof(Settings, listen), ""},
    {"syslog", "Allow", HYBUS_SETTING_STRINGS, offsetof(Settings, allow), "127.0.0.0/8 ::1"},
    {"syslog", "RateBurst", HYBUS_SETTING_UINT, offsetof(Settings, log.node_burst), "1000", 0,
     1000000000u},
    {"sink", "Address", HYBUS_SETTING_STRING, offsetof(Settings, remote.address), ""},
    {"sink", "Protocol", HYBUS_SETTING_STRING, offsetof(Settings, remote.protocol), "syslog"},
    {"sink", "Authority", HYBUS_SETTING_STRING, offsetof(Settings, remote.authority), ""},
    {"sink", "ServerName", HYBUS_SETTING_STRING, offsetof(Settings, remote.server_name), ""},
    {"sink", "Certificate", HYBUS_SETTING_STRING, offsetof(Settings, remote.certificate), ""},
    {"sink", "Key", HYBUS_SETTING_STRING, offsetof(Settings, remote.key), ""},
    {"sink", "Priority", HYBUS_SETTING_STRING, offsetof(Settings, remote.priority), "debug"},
    {"sink", "Audit", HYBUS_SETTING_BOOL, offsetof(Settings, remote.audit), "no"},
    {},
};

static void manager_done(Manager *m)
{
    log_responder_free(m->responder);
    log_bus_free(m->bus);
    log_journal_free(m->journal);
    log_report_free(m->report);
    log_connections_free(m->connections);
    log_native_free(m->native);
    log_receive_free(m->receive);
    log_remote_free(m->remote);
    log_pipes_free(m->pipes);
    log_sync_free(m->sync);
    sd_event_source_disable_unref(m->tick);
    log_book_close(m->book);
}

/* All of it or nothing. */
static int adopt_settings(Manager *m, const Settings *from)
{
    log_settings settings = from->log;
    log_networks allowed;
    const char *bad;
    int r;

    if (log_remote_check(&from->remote, &bad) < 0)
        return hybus_log_errno(LOG_ERR, -EINVAL, "[sink] %s", bad);
    if (log_storage_parse(settings.storage_name, &settings.storage) < 0)
        return hybus_log_errno(LOG_ERR, -EINVAL,
                               "Storage=%s is none of persistent, volatile and split",
                               settings.storage_name);
    r = log_networks_parse(from->allow, &allowed, &bad);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r,
                               "[syslog] Allow: %s is not a network (\"192.168.1.0/24\")", bad);
    settings.storage_name = NULL;
    m->settings = settings;
    m->allowed = allowed;
    return 0;
}

/* Anew: its files may be others. A log that cannot be sent elsewhere is kept all the same. */
static void open_sink(Manager *m, hybus_daemon *d)
{
    const Settings *settings = hybus_daemon_settings(d);
    int r;

    log_remote_free(m->remote);
    m->remote = NULL;
    r = log_remote_new(m->event, m->book, &settings->remote, m->settings.sync_interval, &m->remote);
    if (r < 0)
        hybus_log_errno(LOG_ERR, r, "Cannot set up the sink; the log stays here");
}

static int reload(hybus_daemon *d, void *userdata)
{
    Manager *m = userdata;
    int r = adopt_settings(m, hybus_daemon_settings(d));

    if (r < 0)
        return r;
    if (m->receive)
        log_receive_allow(m->receive, &m->allowed);
    open_sink(m, d);
    if (log_book_set_settings(m->book, &m->settings))
        hybus_notice("Storage and sizes change when h-logged is started anew");
    log_bus_settings_changed(m->bus);
    return 0;
}

/* --- housekeeping: while there is something to tell, to write or to give back
 * ---------------------- */

static int on_tick(sd_event_source *s, uint64_t usec, void *userdata)
{
    Manager *m = userdata;
    log_clock now = log_clock_now();
    uint64_t newest;
    log_store *store;

    m->ticking = false;
    for (log_stream i = 0; i < LOG_STREAMS; i++) {
        store = log_book_store(m->book, i);
        if (store && log_store_failed(store))
            hybus_error("The file of the ring \"%s\" has failed under it; it goes on in memory",
                        log_stream_name(i));
    }
    log_book_tick(m->book, now);
    newest = log_book_newest(m->book);
    if (m->settings.sync_interval > 0 && now.monotonic >= m->next_sync &&
        log_sync_done(m->sync) < newest) {
        m->next_sync = now.monotonic + m->settings.sync_interval;
        (void)log_sync_request(m->sync, NULL, NULL);
    }
    if (newest == m->last_stored && log_book_due(m->book) == UINT64_MAX) {
        /* Quiet: the pages go back to the page cache, and nothing wakes us up any more, but for
         * what is not on the disk yet. */
        for (log_stream i = 0; i < LOG_STREAMS; i++)
            if ((store = log_book_store(m->book, i)))
                log_store_rest(store);
        (void)malloc_trim(0);
        if (m->settings.sync_interval == 0 || log_sync_done(m->sync) >= newest)
            return 0;
        /* Not "ticking": whatever is stored meanwhile makes it come sooner. */
        (void)sd_event_source_set_time(s, MAX_OF(m->next_sync, now.monotonic + HOUSEKEEPING_USEC));
    } else {
        (void)sd_event_source_set_time_relative(s, HOUSEKEEPING_USEC);
        m->ticking = true;
    }
    m->last_stored = newest;
    return sd_event_source_set_enabled(s, SD_EVENT_ONESHOT);
}

static void on_stored(log_book *b, void *userdata)
{
    Manager *m = userdata;

    log_pipes_wake(m->pipes);
    log_responder_wake(m->responder);
    log_remote_wake(m->remote);
    if (!m->ticking && sd_event_source_set_time_relative(m->tick, HOUSEKEEPING_USEC) >= 0 &&
        sd_event_source_set_enabled(m->tick, SD_EVENT_ONESHOT) >= 0)
        m->ticking = true;
}

/* --- setting up
 * ------------------------------------------------------------------------------------- */

static int open_book(Manager *m)
{
    log_book_options o = {.settings = &m->settings,
                          .state_directory = STATE_DIRECTORY,
                          .runtime_directory = RUNTIME_DIRECTORY,
                          .now = log_clock_now(),
                          .seq_floor = log_remote_saved()};
    log_store_statistics st;
    int r;

    r = log_journal_boot_id(o.boot_id);
    if (r >= 0)
        r = log_book_open(&o, &m->book);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot set up the rings");
    for (log_stream s = 0; s < LOG_STREAMS; s++) {
        if (!log_book_store(m->book, s))
            continue;
        log_store_statistics_get(log_book_store(m->book, s), &st);
        if (st.error < 0)
            hybus_log_errno(LOG_ERR, st.error, "The ring \"%s\" is in memory alone, without a file",
                            log_stream_name(s));
        if (st.lost > 0)
            log_book_note(m->book, o.now, LOG_WARNING, NULL, st.lost,
                          "%llu records of the ring \"%s\" were found missing or damaged",
                          (unsigned long long)st.lost, log_stream_name(s));
    }
    return 0;
}

static void counters(log_counters *ret, void *userdata)
{
    const Manager *m = userdata;

    ret->malformed = log_native_malformed(m->native) + log_connections_malformed(m->connections);
    if (m->receive)
        log_receive_statistics_get(m->receive, &ret->receive);
    log_remote_statistics(m->remote, &ret->sink);
}

static int open_native(Manager *m, hybus_daemon *d)
{
    const struct passwd *auditor = getpwnam(AUDIT_USER);
    uint32_t audit_uid = auditor ? auditor->pw_uid : LOG_NOBODY;
    int r, fd = hybus_daemon_listen_fd(d, "native", AF_UNIX, SOCK_DGRAM);

    if (fd < 0)
        return hybus_log_errno(LOG_ERR, fd, "No socket came from h-logged.socket; start that unit");
    if (!auditor)
        hybus_warning("There is no user " AUDIT_USER "; nobody can write to the audit");
    r = log_native_new(m->event, fd, m->book, audit_uid, &m->native);
    if (r >= 0) {
        /* The socket unit names both; an administrator's own may have the datagrams alone. */
        fd = hybus_daemon_listen_fd(d, "native", AF_UNIX, SOCK_STREAM);
        if (fd >= 0)
            r = log_connections_new(m->event, fd, m->book, audit_uid, &m->connections);
    }
    return r < 0 ? hybus_log_errno(LOG_ERR, r, "Cannot take records in") : 0;
}

/* From systemd (h-logged-syslog.socket, for port 514), and what Listen= says. */
static int open_receive(Manager *m, hybus_daemon *d)
{
    const Settings *settings = hybus_daemon_settings(d);
    size_t n = 0;
    int r, fd;

    r = log_receive_new(m->event, m->book, &m->receive);
    if (r < 0)
        return r;
    log_receive_allow(m->receive, &m->allowed);
    for (;; n++) {
        fd = hybus_daemon_listen_fd(d, "syslog", AF_UNSPEC, SOCK_DGRAM);
        if (fd == -EPROTOTYPE)
            fd = hybus_daemon_listen_fd(d, "syslog", AF_UNSPEC, SOCK_STREAM);
        if (fd < 0)
            break;
        r = log_receive_add(m->receive, fd);
        if (r < 0)
            return hybus_log_errno(LOG_ERR, r, "Cannot take syslog from h-logged-syslog.socket");
    }
    for (char **l = settings->listen; l && *l; l++, n++) {
        r = log_receive_listen(m->receive, *l);
        if (r == -EAFNOSUPPORT)
            return hybus_log_errno(LOG_ERR, r, "[syslog] Listen: " LOG_LINK_NO_NETWORK);
        if (r < 0)
            return hybus_log_errno(LOG_ERR, r,
                                   "[syslog] Listen: cannot listen on %s (\"udp:ADDRESS:PORT\", "
                                   "\"tcp:ADDRESS:PORT\")",
                                   *l);
    }
    if (n == 0) {
        log_receive_free(m->receive);
        m->receive = NULL;
    }
    return 0;
}

static void on_refused(const log_refusal *refusal, uint64_t monotonic, void *userdata)
{
    Manager *m = userdata;

    log_report_add(m->report, refusal, monotonic);
}

/* What the bus refuses enters the audit. */
static int watch_bus(Manager *m, hybus_daemon *d)
{
    const struct passwd *bus = getpwnam(BUS_USER);
    int r;

    if (!m->journal)
        return 0;
    if (!bus) {
        hybus_warning("There is no user " BUS_USER
                      "; what the bus refuses does not enter the audit");
        return 0;
    }
    r = log_report_new(hybus_daemon_bus(d), hybus_daemon_agent(d), &m->report);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot watch what the bus refuses");
    log_journal_on_refused(m->journal, bus->pw_uid, on_refused, m);
    return 0;
}

static int set_up(Manager *m, hybus_daemon *d)
{
    int r;

    m->event = hybus_daemon_event(d);
    r = adopt_settings(m, hybus_daemon_settings(d));
    if (r < 0)
        return r;
    r = open_book(m);
    if (r < 0)
        return r;
    r = log_pipes_new(m->event, m->book, &m->pipes);
    if (r >= 0)
        r = log_sync_new(m->event, m->book, &m->sync);
    if (r >= 0)
        r = log_responder_new(m->event, m->book, &m->responder);
    if (r >= 0)
        r = sd_event_add_time_relative(m->event, &m->tick, CLOCK_MONOTONIC, HOUSEKEEPING_USEC, 0,
                                       on_tick, m);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot set up the event loop");
    m->ticking = true;
    m->next_sync = log_clock_now().monotonic + m->settings.sync_interval;
    log_book_on_stored(m->book, on_stored, m);
    r = open_native(m, d);
    if (r >= 0)
        r = open_receive(m, d);
    if (r < 0)
        return r;
    r = log_journal_new(m->event, m->book, RUNTIME_DIRECTORY "/journal.cursor", &m->journal);
    if (r < 0)
        hybus_log_errno(LOG_ERR, r, "Cannot read the journal; what comes by it is not taken in");
    open_sink(m, d);
    r = hybus_daemon_connect(d);
    if (r >= 0)
        r = watch_bus(m, d);
    if (r < 0)
        return r;
    return log_bus_new(&(log_bus_options){.bus = hybus_daemon_bus(d),
                                          .agent = hybus_daemon_agent(d),
                                          .book = m->book,
                                          .pipes = m->pipes,
                                          .sync = m->sync,
                                          .counters = counters,
                                          .userdata = m},
                       &m->bus);
}

int main(int argc, char *argv[])
{
    static const char *const interfaces[] = {LOG_BUS_NAME, NULL};
    static const hybus_daemon_info info = {
        .component = "logged",
        .concept = "Log",
        .description = "The log of the device, in a ring of fixed size",
        .interfaces = interfaces,
        .settings = settings_table,
        .settings_size = sizeof(Settings),
        .mediate = true,
        .reload = reload,
    };
    _cleanup_(hybus_daemon_freep) hybus_daemon *daemon = NULL;
    _cleanup_(manager_done) Manager manager = {};
    int r;

    r = hybus_daemon_new(&info, argc, argv, &daemon);
    if (r <= 0)
        return hybus_daemon_exit_status(r);
    r = set_up(&manager, daemon);
    if (r >= 0)
        r = hybus_daemon_run(daemon, &manager);
    return hybus_daemon_exit_status(r);
}
