/* SPDX-License-Identifier: Apache-2.0 */
/* The bus surface over a socketpair: the client's end is a second connection in the same loop. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <sys/socket.h>

#include <hybus/error.h>

#include "http-bus.h"

#define OBJECT "/org/hybridos/Http1"

static http_settings settings;

typedef struct fixture {
    sd_event *event;
    endpoint_core *core;
    Http *http;
    HttpBus *bus;
    sd_bus *server, *client;
    sd_bus_message *answer;
} fixture;

static void turn(fixture *f)
{
    assert_true(http_turn(f->http, 10000) >= 0);
}

static sd_bus *bus_on(fixture *f, int fd, bool server)
{
    sd_bus *bus;
    sd_id128_t id;

    assert_true(sd_bus_new(&bus) >= 0);
    assert_true(sd_bus_set_fd(bus, fd, fd) >= 0);
    if (server) {
        assert_true(sd_id128_randomize(&id) >= 0);
        assert_true(sd_bus_set_server(bus, true, id) >= 0);
    }
    assert_true(sd_bus_start(bus) >= 0);
    assert_true(sd_bus_attach_event(bus, f->event, 0) >= 0);
    return bus;
}

static int set_up(void **state)
{
    fixture *f = calloc(1, sizeof(*f));
    hybus_config_error e = {};
    hybus_config *config;
    endpoint_options options = {};
    int pair[2];

    assert_true(hybus_error_register() >= 0);
    assert_true(hybus_config_new(&config) >= 0);
    assert_true(hybus_settings_load(http_setting_table, config, &settings, &e) >= 0);
    hybus_config_free(config);
    assert_true(sd_event_new(&f->event) >= 0);
    options.event = f->event;
    assert_true(endpoint_core_new(&options, &f->core) >= 0);
    assert_true(http_new(f->event, &settings, &f->http) >= 0);
    assert_int_equal(http_set_core(f->http, f->core, NULL), 0);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair), 0);
    f->server = bus_on(f, pair[0], true);
    f->client = bus_on(f, pair[1], false);
    assert_true(http_bus_publish(f->http, f->server, &f->bus) >= 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture *f = *state;

    sd_bus_message_unref(f->answer);
    sd_bus_flush_close_unref(f->client);
    sd_bus_flush_close_unref(f->server);
    http_bus_free(f->bus);
    http_free(f->http);
    endpoint_core_free(f->core);
    sd_event_unref(f->event);
    hybus_settings_done(http_setting_table, &settings);
    free(f);
    return 0;
}

static int on_answer(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    fixture *f = userdata;

    f->answer = sd_bus_message_ref(m);
    return 0;
}

/* Sends and turns the loop until the answer is there. */
static sd_bus_message *ask(fixture *f, sd_bus_message *m)
{
    f->answer = sd_bus_message_unref(f->answer);
    assert_true(sd_bus_call_async(f->client, NULL, m, on_answer, f, 0) >= 0);
    sd_bus_message_unref(m);
    while (!f->answer)
        turn(f);
    return f->answer;
}

static sd_bus_message *call(fixture *f, const char *interface, const char *member)
{
    sd_bus_message *m;

    assert_true(sd_bus_message_new_method_call(f->client, &m, NULL, OBJECT, interface, member) >=
                0);
    return m;
}

static sd_bus_message *get(fixture *f, const char *interface, const char *property)
{
    sd_bus_message *m = call(f, "org.freedesktop.DBus.Properties", "Get"), *answer;

    assert_true(sd_bus_message_append(m, "ss", interface, property) >= 0);
    answer = ask(f, m);
    assert_false(sd_bus_message_is_method_error(answer, NULL));
    return answer;
}

/* A connection as the listener would take it; returns the client's end. */
static int connect_client(fixture *f)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
    socklen_t size = sizeof(address);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    h2o_accept_ctx_t accept_context = {.ctx = &f->http->context, .hosts = f->http->config.hosts};
    h2o_socket_t *socket;
    int taken;

    assert_int_equal(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&address, &size), 0);
    assert_int_equal(connect(client, (struct sockaddr *)&address, sizeof(address)), 0);
    taken = accept(listener, NULL, NULL);
    assert_true(taken >= 0);
    close(listener);
    socket = h2o_evloop_socket_create(f->http->loop, taken, H2O_SOCKET_FLAG_IS_ACCEPTED_CONNECTION);
    assert_true(http_connection_new(f->http, socket, false));
    h2o_accept(&accept_context, socket);
    return client;
}

static void test_clients(void **state)
{
    fixture *f = *state;
    const char *protocol, *peer, *principal;
    uint64_t id, since, requests;
    int client = connect_client(f);
    sd_bus_message *answer = ask(f, call(f, "org.hybridos.Server1", "ListClients")), *kick;
    char byte;

    assert_true(sd_bus_message_enter_container(answer, 'a', "(tssstt)") > 0);
    assert_true(sd_bus_message_read(answer, "(tssstt)", &id, &protocol, &peer, &principal, &since,
                                    &requests) > 0);
    assert_true(startswith(peer, "127.0.0.1:"));
    assert_string_equal(principal, "anonymous");
    kick = call(f, "org.hybridos.Server1", "Kick");
    assert_true(sd_bus_message_append(kick, "t", id) >= 0);
    assert_false(sd_bus_message_is_method_error(ask(f, kick), NULL));
    assert_int_equal(read(client, &byte, 1), 0); /* blocks until the server has closed */
    while (f->http->connections)
        turn(f);
    close(client);
    /* The same again finds nobody. */
    kick = call(f, "org.hybridos.Server1", "Kick");
    assert_true(sd_bus_message_append(kick, "t", id) >= 0);
    assert_true(sd_bus_message_is_method_error(ask(f, kick), HYBUS_ERROR_NOT_FOUND));
}

static void test_properties(void **state)
{
    fixture *f = *state;
    sd_bus_message *answer;
    const char *fingerprint, *name;
    uint64_t value, seen = 0;
    int open = 1;

    answer = get(f, "org.hybridos.Server1", "Statistics");
    assert_true(sd_bus_message_enter_container(answer, 'v', "a{st}") > 0);
    assert_true(sd_bus_message_enter_container(answer, 'a', "{st}") > 0);
    while (sd_bus_message_read(answer, "{st}", &name, &value) > 0)
        seen += streq(name, "requests_total");
    assert_int_equal(seen, 1);
    answer = get(f, "org.hybridos.Server1", "Listeners");
    assert_true(sd_bus_message_has_signature(answer, "v"));
    answer = get(f, "org.hybridos.Http1", "CertificateFingerprint");
    assert_true(sd_bus_message_read(answer, "v", "s", &fingerprint) > 0);
    assert_string_equal(fingerprint, "");
    answer = get(f, "org.hybridos.Http1", "Open");
    assert_true(sd_bus_message_read(answer, "v", "b", &open) > 0);
    assert_false(open); /* closed until claimed */
    f->http->claimed = true;
    answer = get(f, "org.hybridos.Http1", "Open");
    assert_true(sd_bus_message_read(answer, "v", "b", &open) > 0);
    assert_true(open);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_clients, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_properties, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
