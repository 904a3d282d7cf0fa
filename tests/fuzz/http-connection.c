/* SPDX-License-Identifier: Apache-2.0 */
/* A whole connection, library and all, over the fake core: the first byte chooses HTTP/1 or HTTP/2,
 * then come steps. The socket's buffer is small, so that writes stay unfinished as they do on a
 * real network. Whatever came, the end of the connection leaves nothing behind. */

#include "http.h"

#include <assert.h>
#include <endpoint/endpoint.h>
#include <h2o/http1.h>
#include <h2o/http2.h>
#include <hybus/config.h>
#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FRAME_HEADER 9
#define TURNS_MAX 1000

static struct {
    sd_event *event;
    endpoint_core *core;
    Http *http;
    http_settings settings;
    h2o_accept_ctx_t accept;
} world;

typedef struct client {
    int fd;
    const uint8_t *at, *end;
} client;

static void set_up(void)
{
    static const char text[] = "[tls]\nCertificate = none\nKey = none\n[listen]\nTls =\n"
                               "[cors]\nOrigins = https://friend.example\n";
    endpoint_options options = {};
    hybus_config_error e = {};
    hybus_config *config;
    int r;

    r = hybus_config_new(&config);
    assert(r >= 0);
    r = hybus_config_parse(config, "fuzz", text, sizeof(text) - 1, &e);
    assert(r >= 0);
    r = hybus_settings_load(http_setting_table, config, &world.settings, &e);
    assert(r >= 0);
    hybus_config_free(config);
    r = sd_event_new(&world.event);
    assert(r >= 0);
    options.event = world.event;
    r = endpoint_core_new(&options, &world.core);
    assert(r >= 0);
    r = http_new(world.event, &world.settings, &world.http);
    assert(r >= 0);
    r = http_set_core(world.http, world.core, NULL);
    assert(r >= 0);
    world.accept =
        (h2o_accept_ctx_t){.ctx = &world.http->context, .hosts = world.http->config.hosts};
}

static void turn(unsigned times)
{
    for (unsigned i = 0; i < times; i++)
        assert(http_turn(world.http, 0) >= 0);
}

static uint8_t byte(client *c)
{
    return c->at < c->end ? *c->at++ : 0;
}

static const uint8_t *take(client *c, size_t *size)
{
    const uint8_t *p = c->at;

    *size = MIN_OF(*size, (size_t)(c->end - c->at));
    c->at += *size;
    return p;
}

static void put(client *c, const void *data, size_t size)
{
    (void)!send(c->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void get(client *c, size_t size)
{
    char buffer[4096];

    while (size > 0) {
        ssize_t n = recv(c->fd, buffer, MIN_OF(size, sizeof(buffer)), MSG_DONTWAIT);

        if (n <= 0)
            return;
        size -= (size_t)n;
    }
}

static void put_frame(client *c, uint8_t type, uint8_t flags, uint32_t stream, const void *payload,
                      size_t size)
{
    uint8_t frame[FRAME_HEADER + 512] = {0,
                                         (uint8_t)(size >> 8),
                                         (uint8_t)size,
                                         type,
                                         flags,
                                         (uint8_t)(stream >> 24),
                                         (uint8_t)(stream >> 16),
                                         (uint8_t)(stream >> 8),
                                         (uint8_t)stream};

    memcpy(frame + FRAME_HEADER, payload, size);
    put(c, frame, FRAME_HEADER + size);
}

/* A request as the core knows it; more fields follow from the input. */
static void put_request(client *c, uint32_t stream, uint8_t flags)
{
    static const char *const paths[] = {"/hello", "/echo",        "/slow", "/stream",
                                        "/html",  "/events/next", "/evil", "/events"};
    const char *path = paths[byte(c) % ELEMENTS(paths)];
    uint8_t block[512], *p = block;
    size_t extra = byte(c) % 64;
    const uint8_t *more = take(c, &extra);

    *p++ = flags & 0x40 ? 0x83 : 0x82; /* POST, GET */
    *p++ = 0x86;                       /* http */
    *p++ = 0x04;
    *p++ = (uint8_t)strlen(path);
    p = mempcpy(p, path, strlen(path));
    *p++ = 0x01;
    *p++ = 9;
    p = mempcpy(p, "localhost", 9);
    if (flags & 0x80)
        p = mempcpy(p, "\x0f\x04\x11text/event-stream", 20);
    p = mempcpy(p, more, extra);
    put_frame(c, 1, flags & 0x2d, stream, block, (size_t)(p - block));
}

static void step(client *c)
{
    uint8_t what = byte(c), flags, type;
    uint32_t stream;
    size_t size;

    switch (what % 8) {
    case 0: /* bytes as they are */
        size = byte(c);
        const uint8_t *p = take(c, &size);
        put(c, p, size);
        break;
    case 1:
        get(c, (size_t)byte(c) * 256);
        break;
    case 2:
        turn(1 + byte(c) % 4);
        break;
    case 3:
    case 4:
        flags = byte(c);
        stream = byte(c);
        put_request(c, stream, flags);
        break;
    case 5: /* WINDOW_UPDATE */
        stream = byte(c);
        put_frame(c, 8, 0, stream, (uint8_t[]){byte(c), byte(c), byte(c), byte(c)}, 4);
        break;
    case 6: /* SETTINGS_INITIAL_WINDOW_SIZE */
        put_frame(c, 4, 0, 0, (uint8_t[]){0, 4, byte(c), byte(c), byte(c), byte(c)}, 6);
        break;
    default: /* any frame */
        type = byte(c);
        flags = byte(c);
        stream = byte(c);
        size = byte(c);
        const uint8_t *payload = take(c, &size);
        put_frame(c, type % 11, flags, stream, payload, size);
    }
}

static h2o_socket_t *accept_one(int fd)
{
    h2o_socket_t *s =
        h2o_evloop_socket_create(world.http->loop, fd, H2O_SOCKET_FLAG_IS_ACCEPTED_CONNECTION);

    return http_connection_new(world.http, s, false) ? s : NULL;
}

static void check_nothing_is_left(void)
{
    /* HTTP/1 does not read while it waits for an answer; the sweep that would notice takes a
     * second. */
    if (world.http->connections && !world.http->connections->http2 &&
        world.http->connections->exchanges)
        http_connection_kill(world.http->connections);
    for (int i = 0; i < TURNS_MAX && world.http->connections; i++)
        turn(1);
    http_lingers_free(world.http);
    assert(!world.http->connections && !world.http->dying && world.http->n_connections == 0);
    assert(world.http->n_authenticated == 0 && world.http->held == 0);
    assert(world.http->n_streams == 0 && endpoint_core_open_requests(world.core) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    client c = {.fd = -1, .at = data + 1, .end = data + size};
    int pair[2], room = 4096;
    h2o_socket_t *s;

    if (size < 1)
        return 0;
    if (!world.http)
        set_up();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
        return 0;
    setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    c.fd = pair[0];
    s = accept_one(pair[1]);
    assert(s);
    if (data[0] == '1') {
        h2o_http1_accept(&world.accept, s, (struct timeval){});
    } else {
        h2o_http2_accept(&world.accept, s, (struct timeval){});
        put(&c, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
        put_frame(&c, 4, 0, 0, "\x00\x04\x00\x00\x00\x0c", data[0] & 1 ? 6 : 0);
    }
    while (c.at < c.end)
        step(&c);
    turn(4);
    close(c.fd);
    check_nothing_is_left();
    return 0;
}
