/* SPDX-License-Identifier: Apache-2.0 */
#include <hybus/daemon.h>
#include <hybus/log.h>
#include <limits.h>

#include <endpoint/key-pair.h>

#include "coap-bus.h"
#include "coap-connection.h"

#define STATE_DIRECTORY "/var/lib/hybridos/coapd"

typedef struct Manager {
    hybus_daemon *daemon;
    Coapd *coapd;
    CoapdBus *bus;
    endpoint_core *core;
} Manager;

static void manager_done(Manager *m)
{
    coapd_bus_free(m->bus);
    /* Requests go first, then the core that they live in. */
    coapd_free(m->coapd);
    endpoint_core_free(m->core);
}

/* Without a key pair, those who have a key are served all the same. */
static int show_certificate(Coapd *d)
{
    char host_name[HOST_NAME_MAX + 1] = "";
    int r;

    (void)gethostname(host_name, HOST_NAME_MAX);
    r = endpoint_key_pair_make(STATE_DIRECTORY, host_name, COAPD_BUILD_EPOCH);
    if (r > 0)
        hybus_notice("made a key and a certificate in %s", STATE_DIRECTORY);
    r = coapd_secrets_load(d, STATE_DIRECTORY "/certificate.pem", STATE_DIRECTORY "/key.pem");
    return r < 0 ? hybus_log_errno(LOG_ERR, r, "no certificate to show from %s", STATE_DIRECTORY)
                 : 0;
}

static int reload(hybus_daemon *d, void *userdata)
{
    Manager *m = userdata;
    const coapd_settings *settings = hybus_daemon_settings(d);
    endpoint_settings core;

    coapd_settings_to_core(settings, &core);
    endpoint_core_configure(m->core, &core);
    (void)show_certificate(m->coapd);
    return coapd_reconfigure(m->coapd, settings);
}

static int stop(hybus_daemon *d, void *userdata)
{
    Manager *m = userdata;

    endpoint_core_drain(m->core);
    coapd_drain(m->coapd);
    return 0;
}

static int make_core(Manager *m, int channel)
{
    endpoint_settings settings = {};
    int r;

    coapd_settings_to_core(hybus_daemon_settings(m->daemon), &settings);
    r = endpoint_core_of_daemon(m->daemon, "coapd", "coap", channel, &settings, &m->core);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "cannot set up the endpoint core");
    coapd_set_core(m->coapd, m->core, hybus_daemon_agent(m->daemon));
    return 0;
}

static int set_up(Manager *m)
{
    const coapd_settings *settings = hybus_daemon_settings(m->daemon);
    int channel, r;

    r = coapd_new(hybus_daemon_event(m->daemon), settings, &m->coapd);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "cannot set up the server");
    (void)show_certificate(m->coapd);
    channel = hybus_daemon_listen_fd(m->daemon, "channel", AF_UNIX, SOCK_STREAM);
    if (channel < 0)
        return hybus_log_errno(LOG_ERR, channel,
                               "no socket came from h-coapd.socket; start that unit");
    r = hybus_daemon_connect(m->daemon);
    if (r < 0) {
        safe_close(channel);
        return r;
    }
    r = make_core(m, channel);
    if (r < 0)
        return r;
    r = coapd_bus_publish(m->coapd, hybus_daemon_bus(m->daemon), &m->bus);
    if (r < 0)
        return r;
    r = coapd_reconfigure(m->coapd, settings);
    return r < 0 ? hybus_log_errno(LOG_ERR, r, "cannot start listening") : 0;
}

int main(int argc, char *argv[])
{
    static const char *const interfaces[] = {"org.hybridos.Server1", "org.hybridos.Coap1", NULL};
    static const hybus_daemon_info info = {.component = "coapd",
                                           .concept = "Coap",
                                           .description = "CoAP server of the device",
                                           .interfaces = interfaces,
                                           .settings = coapd_setting_table,
                                           .settings_size = sizeof(coapd_settings),
                                           .mediate = true,
                                           .reload = reload,
                                           .stop = stop};
    _cleanup_(hybus_daemon_freep) hybus_daemon *daemon = NULL;
    _cleanup_(manager_done) Manager manager = {};
    int r;

    coapd_nodes_init();
    r = hybus_daemon_new(&info, argc, argv, &daemon);
    if (r <= 0)
        return hybus_daemon_exit_status(r);
    manager.daemon = daemon;
    r = set_up(&manager);
    if (r >= 0)
        r = hybus_daemon_run(daemon, &manager);
    return hybus_daemon_exit_status(r);
}
