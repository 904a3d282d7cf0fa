/* SPDX-License-Identifier: Apache-2.0 */
#include <hybus/daemon.h>
#include <hybus/log.h>
#include <jansson.h>
#include <malloc.h>
#include <sys/socket.h>

#include "agent-socket.h"
#include "security-bus.h"
#include "security.h"

#define FIELD(name) offsetof(SecuritySettings, name)

static const hybus_setting settings[] = {
    {"Policy", "Directories", HYBUS_SETTING_STRINGS, FIELD(policy_directories),
     "/etc/hybridos/policy.d /var/lib/hybridos/policy.d /usr/lib/hybridos/policy.d"},
    {"Policy", "GrantDirectory", HYBUS_SETTING_STRING, FIELD(grant_directory),
     "/var/lib/hybridos/policy.d"},
    {"Interfaces", "Vendor", HYBUS_SETTING_STRINGS, FIELD(vendor_interfaces),
     "/usr/lib/hybridos/interfaces"},
    {"Interfaces", "Administrator", HYBUS_SETTING_STRINGS, FIELD(administrator_interfaces),
     "/etc/hybridos/interfaces"},
    {"State", "Directory", HYBUS_SETTING_STRING, FIELD(state_directory),
     "/var/lib/hybridos/securityd"},
    {"State", "RuntimeDirectory", HYBUS_SETTING_STRING, FIELD(runtime_directory),
     "/run/hybridos/security"},
    {"Setup", "LabelCodeFile", HYBUS_SETTING_STRING, FIELD(label_code_file),
     "/etc/hybridos/setup-code"},
    {"Sessions", "Idle", HYBUS_SETTING_SECONDS, FIELD(session_idle), "1h"},
    {"Sessions", "Lifetime", HYBUS_SETTING_SECONDS, FIELD(session_lifetime), "12h"},
    {"Bus", "Directory", HYBUS_SETTING_STRING, FIELD(bus_directory), "/run/hybridos/bus"},
    {"Bus", "Group", HYBUS_SETTING_STRING, FIELD(bus_group), "hybridos"},
    {0},
};

typedef struct Manager {
    Security *security;
    AgentSocket *socket;
    BusPolicy *bus_policy;
    SecurityBus *bus;
} Manager;

static void manager_done(Manager *m)
{
    agent_socket_free(m->socket);
    security_bus_free(m->bus);
    bus_policy_free(m->bus_policy);
    security_free(m->security);
    audit_journal_end();
}

static int on_reload(hybus_daemon *d, void *userdata)
{
    Manager *m = userdata;
    int r;

    m->security->settings = hybus_daemon_settings(d);
    r = security_reload(m->security);
    (void)agent_socket_changed(m->socket, NULL, NULL);
    security_bus_changed(m->bus);
    /* What was wrong with the files has been said; the daemon's own settings are good. */
    return r == -ENOMEM ? r : 0;
}

/* What passes through jansson may be a secret: nothing of it stays in freed memory. The memory is plain
 * malloc's, since texts from json_dumps() are freed with free(). */
static void wiping_free(void *data)
{
    if (data)
        explicit_bzero(data, malloc_usable_size(data));
    free(data);
}

/* systemd keeps the socket while we are restarted, so that nobody's question is lost. */
static int open_socket(hybus_daemon *d, const SecuritySettings *s)
{
    _cleanup_(freep) char *path = NULL;
    int fd = hybus_daemon_listen_fd(d, NULL, AF_UNIX, SOCK_SEQPACKET);

    if (fd != -ENOENT)
        return fd;
    if (asprintf(&path, "%s/agent.sock", s->runtime_directory) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    return agent_socket_listen(path);
}

static int manager_open(Manager *m, hybus_daemon *d)
{
    const SecuritySettings *s = hybus_daemon_settings(d);
    int fd, r;

    r = security_new(s, audit_journal, &m->security);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot read the state in %s", s->state_directory);
    fd = open_socket(d, s);
    if (fd < 0)
        return hybus_log_errno(LOG_ERR, fd, "Cannot listen in %s", s->runtime_directory);
    r = agent_socket_new(hybus_daemon_event(d), m->security, fd, &m->socket);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot serve the private socket");
    return 0;
}

static int manager_publish(Manager *m, hybus_daemon *d)
{
    const SecuritySettings *s = hybus_daemon_settings(d);
    sd_bus *bus = hybus_daemon_bus(d);
    int r = 0;

    if (*s->bus_directory)
        r = bus_policy_new(m->security, bus, s->bus_directory, s->bus_group, &m->bus_policy);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot look after the rules of the bus");
    r = security_bus_publish(m->security, m->socket, m->bus_policy, bus, &m->bus);
    if (r >= 0)
        security_bus_changed(m->bus);
    return r;
}

/* --check-config: the policy and interface files too. */
static int check_files(void)
{
    static const char *const directories[] = {"/etc/hybridos/policy.d", "/var/lib/hybridos/policy.d",
                                              "/usr/lib/hybridos/policy.d", NULL};
    static const CatalogueSource sources[] = {
        {.directory = "/usr/lib/hybridos/interfaces", .vendor = true},
        {.directory = "/etc/hybridos/interfaces"},
    };
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    _cleanup_(catalogue_freep) Catalogue *catalogue = NULL;
    _cleanup_(policy_unrefp) Policy *policy = NULL;
    PolicyNotes notes = {0};
    int r;

    r = policy_read_directories(directories, &policy, &notes, &e);
    if (r >= 0)
        r = catalogue_read(sources, ELEMENTS(sources), policy_file_check, &catalogue, &e);
    if (r < 0)
        fprintf(stderr, "%s\n", e.message ? e.message : strerror(-r));
    for (char **w = notes.warnings; w && *w; w++)
        fprintf(stderr, "Note: %s\n", *w);
    for (char **m = notes.masked; m && *m; m++)
        fprintf(stderr, "Note: %s\n", *m);
    policy_notes_done(&notes);
    return r;
}

static const char *const interfaces[] = {"org.hybridos.Security1", NULL};

/* Its own filter asks over the private socket like everybody's, never waiting: one judge, one way. */
static const hybus_daemon_info info = {
    .component = "securityd",
    .concept = "Security",
    .description = "The policy agent of HybridOS: who may do what, and why",
    .interfaces = interfaces,
    .settings = settings,
    .settings_size = sizeof(SecuritySettings),
    .mediate = true,
    .reload = on_reload,
    .check = check_files,
};

int main(int argc, char *argv[])
{
    _cleanup_(hybus_daemon_freep) hybus_daemon *daemon = NULL;
    _cleanup_(manager_done) Manager manager = {0};
    int r;

    json_set_alloc_funcs(malloc, wiping_free);
    r = hybus_daemon_new(&info, argc, argv, &daemon);
    if (r <= 0)
        return hybus_daemon_exit_status(r);
    r = manager_open(&manager, daemon);
    if (r >= 0)
        r = hybus_daemon_connect(daemon);
    if (r >= 0)
        r = manager_publish(&manager, daemon);
    if (r >= 0)
        r = hybus_daemon_run(daemon, &manager);
    if (r >= 0 && manager.security->store->floor)
        (void)store_save(manager.security->store);
    return hybus_daemon_exit_status(r);
}
