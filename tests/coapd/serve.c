/* SPDX-License-Identifier: Apache-2.0 */
/* The server over httpd's fake core, for features.py: serve ADDRESS SECURE [LINE…]. UDP and TCP
 * listen at ADDRESS, DTLS and TLS at SECURE. A LINE is one of configuration, or "@node NAME KEY" (as
 * text), or "@pair CERTIFICATE KEY". Says "ready" when it listens. Standard input: "s" prints the
 * counters, "n" takes all nodes away; its end ends the server. */

#include <endpoint/endpoint.h>
#include <sys/epoll.h>

#include "coap-connection.h"

static void print(const char *name, uint64_t value, void *to)
{
    printf("%s %llu\n", name, (unsigned long long)value);
}

static int on_input(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
    Coapd *d = userdata;
    char order = 0;

    if (read(fd, &order, 1) != 1)
        return sd_event_exit(d->event, 0);
    if (order == 's') {
        coapd_statistics(d, print, NULL);
        puts("end");
        fflush(stdout);
    } else if (order == 'n' && coapd_nodes_begin(d) >= 0) {
        coapd_nodes_commit(d);
        puts("end");
        fflush(stdout);
    }
    return 0;
}

static int load(int argc, char *argv[], coapd_settings *ret)
{
    _cleanup_(hybus_config_freep) hybus_config *config = NULL;
    hybus_config_error e = {};
    char text[4096];
    int n, r;

    n = snprintf(text, sizeof(text), "[listen]\nUdp = %s\nTcp = %s\nDtls = %s\nTls = %s\n",
                 argv[1], argv[1], argv[2], argv[2]);
    for (int i = 3; i < argc; i++)
        if (argv[i][0] != '@')
            n += snprintf(text + n, sizeof(text) - (size_t)n, "%s\n", argv[i]);
    r = hybus_config_new(&config);
    if (r >= 0)
        r = hybus_config_parse(config, "arguments", text, (size_t)n, &e);
    if (r >= 0)
        r = hybus_settings_load(coapd_setting_table, config, ret, &e);
    if (r < 0)
        fprintf(stderr, "%s\n", strempty(e.message));
    hybus_config_error_done(&e);
    return r;
}

static int know(Coapd *d, int argc, char *argv[])
{
    int r = coapd_nodes_begin(d);

    for (int i = 3; i < argc && r >= 0; i++) {
        char one[256], two[256];

        if (sscanf(argv[i], "@node %255s %255s", one, two) == 2)
            r = coapd_nodes_add(d, one, two, strlen(two));
        else if (sscanf(argv[i], "@pair %255s %255s", one, two) == 2)
            r = coapd_secrets_load(d, one, two);
    }
    coapd_nodes_commit(d);
    return r;
}

/* Names that begin with "x" are not anybody's. */
static bool judge(const char *permission)
{
    return !startswith(permission, "node.register:x");
}

int main(int argc, char *argv[])
{
    coapd_settings settings = {};
    endpoint_options options = {};
    endpoint_core *core = NULL;
    sd_event *event = NULL;
    Coapd *d = NULL;

    if (argc < 3 || load(argc, argv, &settings) < 0 || sd_event_new(&event) < 0 ||
        coapd_new(event, &settings, &d) < 0)
        return 1;
    options.event = event;
    if (endpoint_core_new(&options, &core) < 0)
        return 1;
    coapd_set_core(d, core, NULL);
    d->judge = judge;
    if (know(d, argc, argv) < 0 || coapd_reconfigure(d, &settings) < 0 ||
        sd_event_add_io(event, NULL, 0, EPOLLIN, on_input, d) < 0)
        return 1;
    puts("ready");
    fflush(stdout);
    if (sd_event_loop(event) < 0)
        return 1;
    coapd_free(d);
    endpoint_core_free(core);
    sd_event_unref(event);
    hybus_settings_done(coapd_setting_table, &settings);
    return 0;
}
