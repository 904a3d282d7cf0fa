/* SPDX-License-Identifier: Apache-2.0 */
#include <hybus/daemon.h>
#include <hybus/log.h>
#include <sys/socket.h>

#include "endpoints-bus.h"
#include "endpoints-channel.h"
#include "endpoints-manifest.h"
#include "endpoints-registrar.h"

#define RUNTIME_DIRECTORY "/run/hybridos/endpointd"

typedef struct Manager {
    registrar *registrar;
    channel *channel;
    endpoints_bus *bus;
} Manager;

static void manager_done(Manager *m)
{
    /* What is registered stays in the table for the next life; then the roads go, then what they
     * stand on. */
    if (m->registrar)
        registrar_stop(m->registrar);
    endpoints_bus_free(m->bus);
    channel_free(m->channel);
    registrar_free(m->registrar);
}

static int read_manifests(endpoints_spec **ret, size_t *ret_n)
{
    static const char *const directories[] = {"/etc/hybridos/apps.d", "/run/hybridos/apps.d",
                                              "/usr/lib/hybridos/apps.d", NULL};
    _cleanup_(hybus_config_error_done) hybus_config_error e = {};
    int r = manifest_load(directories, manifest_system_user, ret, ret_n, &e);

    if (r < 0 && e.message) /* it says where and what */
        return hybus_log_errno(LOG_ERR, 0, "Cannot read the manifests: %s", e.message), r;
    return r < 0 ? hybus_log_errno(LOG_ERR, r, "Cannot read the manifests") : 0;
}

static int check_manifests(void)
{
    endpoints_spec *specs;
    size_t n;
    int r = read_manifests(&specs, &n);

    if (r >= 0)
        manifest_done(specs, n);
    return r;
}

/* With bad manifests the ones before go on. */
static int load_manifests(Manager *m)
{
    endpoints_spec *specs;
    size_t n;
    int r;

    r = read_manifests(&specs, &n);
    if (r < 0)
        return r;
    r = registrar_set_manifests(m->registrar, specs, n);
    manifest_done(specs, n);
    return r < 0 ? hybus_log_errno(LOG_ERR, r, "Cannot adopt the manifests") : 0;
}

static int reload(hybus_daemon *d, void *userdata)
{
    return load_manifests(userdata);
}

static int set_up(Manager *m, hybus_daemon *d)
{
    channel_options options = {.event = hybus_daemon_event(d)};
    char bus_id[SD_ID128_STRING_MAX] = "";
    sd_id128_t id;
    int r;

    r = hybus_daemon_connect(d);
    if (r < 0)
        return r;
    r = registrar_new(hybus_daemon_event(d), hybus_daemon_agent(d), RUNTIME_DIRECTORY,
                      &m->registrar);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot set up the registrar");
    (void)load_manifests(m);
    if (sd_bus_get_bus_id(hybus_daemon_bus(d), &id) >= 0)
        (void)sd_id128_to_string(id, bus_id);
    r = registrar_restore(m->registrar, bus_id);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot take up the table of before");
    options.registrar = m->registrar;
    options.listen_fd = hybus_daemon_listen_fd(d, "channel", AF_UNIX, SOCK_STREAM);
    if (options.listen_fd < 0)
        return hybus_log_errno(LOG_ERR, options.listen_fd,
                               "No socket came from h-endpointd.socket; start that unit");
    r = channel_new(&options, &m->channel);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot listen on the channel");
    return endpoints_bus_new(hybus_daemon_bus(d), m->registrar, m->channel, &m->bus);
}

int main(int argc, char *argv[])
{
    static const char *const interfaces[] = {ENDPOINTS_BUS_NAME, NULL};
    static const hybus_daemon_info info = {
        .component = "endpointd",
        .concept = "Endpoints",
        .description = "Registrar of endpoints: who answers for which namespace",
        .interfaces = interfaces,
        .mediate = true,
        .reload = reload,
        .check = check_manifests,
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
