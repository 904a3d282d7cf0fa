/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>

#include <cmocka.h>

#include <channel.h>
#include <hybus/log.h>

#include "fake-agent.h"
#include "world.h"

uint32_t world_next_uid;

static int fake_identify(int fd, endpoints_identity **ret)
{
    return endpoints_identity_new(world_next_uid, &world_next_uid, 1, NULL, ret);
}

static int fake_user_name(uint32_t uid, char **ret)
{
    *ret = strdup(uid == HTTPD ? "h-httpd" : uid == COAPD ? "h-coapd" : "somebody");
    return *ret ? 0 : -ENOMEM;
}

static int on_answers(sd_event_source *s, void *userdata)
{
    world *w = userdata;

    if (!w->silent)
        (void)fake_agent_answer();
    return 0;
}

void world_settle(world *w)
{
    for (unsigned quiet = 0; quiet < 3; quiet++) {
        assert_true(sd_event_source_set_enabled(w->answers, SD_EVENT_ONESHOT) >= 0);
        while (sd_event_run(w->event, 0) > 0)
            ;
        if (!w->silent && fake_agent_waiting() > 0)
            quiet = 0;
    }
}

void world_start(world *w)
{
    channel_options options = {
        .event = w->event, .listen_fd = -1, .identify = fake_identify, .user_name = fake_user_name};

    assert_int_equal(registrar_new(w->event, (hybus_agent *)w, w->directory, &w->registrar), 0);
    assert_int_equal(registrar_restore(w->registrar, "bus-1"), 0);
    options.registrar = w->registrar;
    assert_int_equal(channel_new(&options, &w->channel), 0);
}

void world_stop(world *w)
{
    registrar_stop(w->registrar);
    channel_free(TAKE_PTR(w->channel));
    registrar_free(TAKE_PTR(w->registrar));
}

int world_setup(void **state)
{
    world *w = calloc(1, sizeof(*w));

    if (!w || sd_event_new(&w->event) < 0)
        return -1;
    strcpy(w->directory, "/tmp/test-endpointd-XXXXXX");
    if (!mkdtemp(w->directory))
        return -1;
    hybus_log_set_level(LOG_CRIT);
    fake_agent_reset();
    fake_agent_grant(HTTPD, "endpoint.serve");
    fake_agent_grant(APP, "endpoint.register:/thermo");
    fake_agent_grant(APP, "endpoint.register:/lamp");
    fake_agent_grant(OTHER, "endpoint.register:/thermo");
    fake_agent_grant(OTHER, "endpoint.register:/thermo/x");
    if (sd_event_add_defer(w->event, &w->answers, on_answers, w) < 0)
        return -1;
    world_start(w);
    *state = w;
    return 0;
}

int world_teardown(void **state)
{
    world *w = *state;
    char command[128];

    world_stop(w);
    fake_agent_reset();
    sd_event_source_disable_unref(w->answers);
    sd_event_unref(w->event);
    snprintf(command, sizeof(command), "rm -r %s", w->directory);
    assert_int_equal(system(command), 0);
    free(w);
    return 0;
}

/* --- clients ---------------------------------------------------------------------------------- */

void client_connect(world *w, client *c, uint32_t uid)
{
    int fds[2];

    *c = (client){.fd = -1, .reader.max = 32u << 20, .queue.max = 32u << 20};
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
    c->fd = fds[0];
    world_next_uid = uid;
    assert_int_equal(channel_accept(w->channel, fds[1]), 0);
}

void client_close(client *c)
{
    c->fd = safe_close(c->fd);
    hybus_frame_reader_done(&c->reader);
    hybus_frame_queue_done(&c->queue);
}

void client_flush(world *w, client *c)
{
    while (hybus_frame_queue_flush(&c->queue, c->fd) == 0)
        world_settle(w);
    world_settle(w);
}

bool client_next(world *w, client *c)
{
    for (unsigned i = 0; i < 10000; i++) {
        ssize_t n;
        if (hybus_frame_reader_next(&c->reader, &c->frame) == 1)
            return true;
        world_settle(w);
        n = hybus_frame_reader_fill(&c->reader, c->fd);
        if (n <= 0)
            return false;
    }
    return false;
}

bool client_ended(world *w, client *c)
{
    char byte;

    while (client_next(w, c))
        ;
    return recv(c->fd, &byte, 1, MSG_DONTWAIT) == 0;
}

void client_expect(world *w, client *c, uint8_t type)
{
    if (!client_next(w, c))
        fail_msg("no frame, 0x%02x expected", type);
    if (c->frame.type != type)
        fail_msg("frame 0x%02x, 0x%02x expected", c->frame.type, type);
}

const char *client_field(client *c, const char *name)
{
    static char values[8][1024];
    static unsigned at;
    char *to = values[at++ % 8];
    hybus_frame_fields fields;
    hybus_frame_field f;

    to[0] = 0;
    if (c->frame.type == CHANNEL_NOTIFY) {
        const uint8_t *body;
        size_t size;
        assert_int_equal(hybus_frame_split(&c->frame, &fields, &body, &size), 0);
    } else
        hybus_frame_fields_init(&fields, c->frame.payload, c->frame.size);
    while (hybus_frame_fields_next(&fields, &f) > 0)
        if (hybus_frame_field_is(&f, name))
            snprintf(to, 1024, "%.*s", (int)f.value_size, f.value);
    return to;
}

void client_hello(client *c, const char *role, const char *name)
{
    hybus_frame_begin(&c->queue, CHANNEL_HELLO, 0, 0, 0, CHANNEL_VERSION);
    hybus_frame_put(&c->queue, ":role", role);
    hybus_frame_put(&c->queue, ":name", name);
    assert_int_equal(hybus_frame_end(&c->queue), 0);
}

void app_connect(world *w, client *c, uint32_t uid)
{
    client_connect(w, c, uid);
    client_hello(c, "app", NULL);
    client_flush(w, c);
    client_expect(w, c, CHANNEL_HELLO);
    assert_string_equal(client_field(c, ":role"), "registrar");
}

size_t server_connect(world *w, client *c)
{
    size_t n = 0;

    client_connect(w, c, HTTPD);
    client_hello(c, "server", "httpd");
    client_flush(w, c);
    client_expect(w, c, CHANNEL_HELLO);
    for (;; n++) {
        client_expect(w, c, CHANNEL_ENTRY);
        if (c->frame.flags & CHANNEL_END)
            return n;
    }
}

void client_register(world *w, client *c, uint32_t id, const char *ns, const char *key,
                     bool takeover)
{
    hybus_frame_begin(&c->queue, CHANNEL_REGISTER, 0, 0, id, 0);
    hybus_frame_put(&c->queue, ":namespace", ns);
    hybus_frame_put(&c->queue, ":key", key);
    hybus_frame_put(&c->queue, ":takeover", takeover ? "1" : NULL);
    hybus_frame_put(&c->queue, ":rule", "GET /public endpoint.public");
    assert_int_equal(hybus_frame_end(&c->queue), 0);
    client_flush(w, c);
}

void client_expect_refused(world *w, client *c, uint32_t id, unsigned code)
{
    client_expect(w, c, CHANNEL_REFUSED);
    assert_int_equal(c->frame.stream, id);
    assert_int_equal(c->frame.code, code);
}

void client_register_ok(world *w, client *c, uint32_t id, const char *ns)
{
    client_register(w, c, id, ns, NULL, false);
    client_expect(w, c, CHANNEL_REGISTERED);
    assert_int_equal(c->frame.stream, id);
    assert_string_equal(client_field(c, ":namespace"), ns);
}
