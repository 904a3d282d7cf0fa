/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Registrar and channel together, over socket pairs, with the agent played by the test: for the
 * tests and the fuzz target of h-endpointd. */

#include "endpoints-channel.h"

#define APP 60700u   /* may register /thermo, /lamp */
#define OTHER 60701u /* may register /thermo, /thermo/x */
#define HTTPD 60604u /* the user h-httpd; may serve */
#define COAPD 60605u /* the user h-coapd */

typedef struct world {
    sd_event *event;
    sd_event_source *answers;
    registrar *registrar;
    channel *channel;
    char directory[32];
    bool silent; /* the agent does not answer */
} world;

/* Who connects next, as far as the channel can see. */
extern uint32_t world_next_uid;

/* For cmocka: `state` becomes a world. */
int world_setup(void **state);
int world_teardown(void **state);
/* The registrar alone; its table stays in the directory for the next life. */
void world_start(world *w);
void world_stop(world *w);
/* Runs until nothing is left to do. */
void world_settle(world *w);

/* A peer on the channel. */
typedef struct client {
    int fd;
    hybus_frame_reader reader;
    hybus_frame_queue queue;
    hybus_frame frame; /* the last one */
} client;

void client_connect(world *w, client *c, uint32_t uid);
void client_close(client *c);
/* Sends what is queued. */
void client_flush(world *w, client *c);
/* The next frame, or false when there is none and none will come. */
bool client_next(world *w, client *c);
void client_expect(world *w, client *c, uint8_t type);
/* Reads all there is: has the registrar closed the connection? */
bool client_ended(world *w, client *c);
/* A field of the last frame; "" if it has none of the name. */
const char *client_field(client *c, const char *name);

void client_hello(client *c, const char *role, const char *name);
void app_connect(world *w, client *c, uint32_t uid);
/* Up to the end of the snapshot; how many entries it had. */
size_t server_connect(world *w, client *c);
void client_register(world *w, client *c, uint32_t id, const char *ns, const char *key,
                     bool takeover);
void client_register_ok(world *w, client *c, uint32_t id, const char *ns);
void client_expect_refused(world *w, client *c, uint32_t id, unsigned code);
