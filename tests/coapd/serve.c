/* SPDX-License-Identifier: Apache-2.0 */
/* The server over httpd's fake core, for features.py: serve PORT [LINE…]; each LINE is one of
 * configuration. Says "ready" when it listens. Standard input: "s" prints the counters, its end
 * ends the server. */

#include <endpoint/endpoint.h>
#include <sys/epoll.h>

#include "coapd.h"

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
    }
    return 0;
}

static int load(int argc, char *argv[], coapd_settings *ret)
{
    _cleanup_(hybus_config_freep) hybus_config *config = NULL;
    hybus_config_error e = {};
    char text[4096];
    int n, r;

    n = snprintf(text, sizeof(text), "[listen]\nUdp = %s\n", argv[1]);
    for (int i = 2; i < argc; i++)
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

int main(int argc, char *argv[])
{
    coapd_settings settings = {};
    endpoint_options options = {};
    endpoint_core *core = NULL;
    sd_event *event = NULL;
    Coapd *d = NULL;

    if (argc < 2 || load(argc, argv, &settings) < 0 || sd_event_new(&event) < 0 ||
        coapd_new(event, &settings, &d) < 0)
        return 1;
    options.event = event;
    if (endpoint_core_new(&options, &core) < 0)
        return 1;
    coapd_set_core(d, core, NULL);
    if (coapd_reconfigure(d, &settings) < 0 ||
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
