/* SPDX-License-Identifier: Apache-2.0 */
/* The server over the fake core, for attacks.py: serve DIRECTORY TLS-PORT PLAIN-PORT [LINE…]; each
 * LINE is one of configuration. Says "ready" when it listens. Standard input: "d" drains, "r" loads
 * the certificate again, "g" grants everybody files and metrics, "v" revokes that and says
 * "settled" when it holds; its end ends the server. */

#include <endpoint/endpoint.h>
#include <hybus/config.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "../endpoint/agent-fake.h"
#include "http.h"

static const char *const pages[] = {"endpoint.read:/", "server.read"};

static void on_drained(Http *h, void *userdata)
{
    sd_event_exit(h->event, 0);
}

static int on_input(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
    Http *h = userdata;
    char order = 0;

    if (read(fd, &order, 1) == 1 && order == 'r')
        return http_reconfigure(h, h->settings);
    if (order == 'g' || order == 'v') {
        for (size_t i = 0; i < ELEMENTS(pages); i++)
            (order == 'g' ? agent_fake_grant : agent_fake_revoke)(h->agent, "anonymous", pages[i]);
        agent_fake_change(h->agent);
        return 0;
    }
    if (order == 'd' && http_drain(h, on_drained, NULL) == 1)
        return 0;
    return sd_event_exit(h->event, 0);
}

static void say_settled(const hybus_agent *agent)
{
    static uint64_t said;

    if (agent_fake_settled(agent) <= said)
        return;
    said = agent_fake_settled(agent);
    puts("settled");
    fflush(stdout);
}

static int load(int argc, char *argv[], http_settings *ret)
{
    _cleanup_(hybus_config_freep) hybus_config *config = NULL;
    hybus_config_error e = {};
    char text[4096];
    int n, r;

    n = snprintf(text, sizeof(text),
                 "[tls]\nCertificate = %s/certificate.pem\nKey = %s/key.pem\n"
                 "[listen]\nTls = %s\nPlain = %s\n[files]\nRoot = %s/files\n"
                 "[cors]\nOrigins = https://friend.example\n",
                 argv[1], argv[1], argv[2], argv[3], argv[1]);
    for (int i = 4; i < argc; i++)
        n += snprintf(text + n, sizeof(text) - (size_t)n, "%s\n", argv[i]);
    r = hybus_config_new(&config);
    if (r >= 0)
        r = hybus_config_parse(config, "arguments", text, (size_t)n, &e);
    if (r >= 0)
        r = hybus_settings_load(http_setting_table, config, ret, &e);
    if (r < 0)
        fprintf(stderr, "%s\n", strempty(e.message));
    hybus_config_error_done(&e);
    return r;
}

/* Connections inherit it. On a real network a write often stays unfinished; on loopback only so. */
static void shrink_send_buffers(const Http *h)
{
    int size = 4096;

    for (size_t i = 0; i < h->n_listeners; i++)
        (void)setsockopt(h2o_socket_get_fd(h->listeners[i]->socket), SOL_SOCKET, SO_SNDBUF, &size,
                         sizeof(size));
}

int main(int argc, char *argv[])
{
    http_settings settings = {};
    endpoint_options options = {};
    endpoint_core *core = NULL;
    hybus_agent *agent;
    sd_event *event = NULL;
    Http *http = NULL;

    if (argc < 4 || load(argc, argv, &settings) < 0 || sd_event_new(&event) < 0 ||
        endpoint_key_pair_make(argv[1], "testhost", HTTP_BUILD_EPOCH) < 0 ||
        http_new(event, &settings, &http) < 0)
        return 1;
    options.event = event;
    if (endpoint_core_new(&options, &core) < 0)
        return 1;
    agent = agent_fake_new(event);
    if (http_set_core(http, core, agent) < 0 || http_reconfigure(http, &settings) < 0 ||
        sd_event_add_io(event, NULL, 0, EPOLLIN, on_input, http) < 0)
        return 1;
    shrink_send_buffers(http);
    puts("ready");
    fflush(stdout);
    while (sd_event_get_state(event) != SD_EVENT_FINISHED)
        if (http_turn(http, 60000000u) < 0)
            return 1;
        else
            say_settled(agent);
    http_free(http);
    hybus_agent_free(agent);
    endpoint_core_free(core);
    sd_event_unref(event);
    hybus_settings_done(http_setting_table, &settings);
    return 0;
}
