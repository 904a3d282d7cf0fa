/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A core with everything around it played by the test: the registrar, apps that speak raw frames,
 * the agent, and the protocol side. One loop, one thread; waiting means turning the loop. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent-fake.h"
#include "core.h"

#define ALLOW_ALL "endpoint.*"

typedef struct side { /* the far end of a channel */
    int fd;
    uint8_t data[256 * 1024];
    size_t size;
    hybus_frame_queue out;
    hybus_frame last;
    uint8_t payload[CHANNEL_PAYLOAD_MAX];
    bool closed;
} side;

typedef struct device {
    sd_event *event;
    hybus_agent *agent;
    endpoint_core *core;
    sd_bus *bus;
    char directory[64], registrar_path[96], server_path[96];
    int registrar_listen;
    side registrar;
} device;

typedef struct answer { /* what the protocol side was told of one request */
    endpoint_request *request;
    unsigned replies, status, aborted;
    bool ended;
    uint8_t body[1024 * 1024];
    size_t size;
    char fields[4096];
    size_t taken;
    unsigned told;
    bool free_at_once;
} answer;

typedef struct client {
    endpoint_peer *peer;
    int error;
    unsigned checked, revoked;
} client;

typedef struct watcher {
    endpoint_watch *watch;
    unsigned started, values, ended;
    char last[256], id[64];
    uint64_t sequence;
    bool gone, resumed, gap;
} watcher;

device *device_new(const endpoint_settings *settings, sd_bus *bus);
void device_free(device *d);
void device_turn(device *d);
#define wait_for(d, condition)                                                                     \
    do {                                                                                           \
        uint64_t _until = timer_now() + 30000000u;                                                 \
        while (!(condition)) {                                                                     \
            assert_true(timer_now() < _until);                                                     \
            device_turn(d);                                                                        \
        }                                                                                          \
    } while (0)

void registrar_accept(device *d);
void registrar_close(device *d);
/* Fields as "name", "value", …, NULL. */
void registrar_entry(device *d, uint8_t flags, ...) __attribute__((sentinel));
void registrar_channel(device *d, const char *namespace, const char *key);

side *app_connect(device *d);
side *app_attached(device *d, const char *namespace, const char *key);
/* One that answers RESUME. */
side *app_attached_resuming(device *d, const char *namespace, const char *key);
void app_free(side *s);
void side_send(side *s, uint8_t type, uint8_t flags, uint16_t code, uint32_t stream, uint32_t value,
               const void *payload, size_t size);
void side_fields(side *s, uint8_t type, uint8_t flags, uint16_t code, uint32_t stream,
                 const void *body, size_t size, ...) __attribute__((sentinel));
void side_flush(device *d, side *s);
/* Turns the loop until a frame of that type comes; others before it are dropped. */
const hybus_frame *side_wait(device *d, side *s, uint8_t type);
bool side_poll(side *s, hybus_frame *ret);
void side_wait_closed(device *d, side *s);
const char *side_field(const hybus_frame *f, const char *name);

void client_begin(device *d, client *c, const char *bearer); /* its check is on its way */
void client_new(device *d, client *c, const char *bearer);
void client_free(client *c);
answer *request(client *c, const char *method, const char *path, const void *body, size_t size,
                bool end);
answer *request_with(client *c, const char *method, const char *path, const endpoint_field *headers,
                     size_t n);
void answer_free(answer *a);
watcher *watch(client *c, const char *path);
watcher *watch_again(client *c, const char *path, const char *last_id);
void watcher_free(watcher *w);
