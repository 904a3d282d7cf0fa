/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* org.hybridos.Server1, which every server publishes at its own object. */

#include <hybus/object.h>

#include "endpoint.h"

typedef struct endpoint_server1 endpoint_server1;

/* Handed to the functions below, to be called once for each client, listener or counter. */
typedef struct endpoint_client {
    uint64_t id;
    const char *protocol, *peer, *principal;
    uint64_t since_usec; /* CLOCK_REALTIME */
    uint64_t requests;
} endpoint_client;
typedef void (*endpoint_client_each)(const endpoint_client *c, void *to);
typedef void (*endpoint_listener_each)(const char *address, uint16_t port, const char *kind,
                                       void *to);
typedef void (*endpoint_counter_each)(const char *name, uint64_t value, void *to);

typedef struct endpoint_server_ops {
    void (*clients)(void *server, endpoint_client_each each, void *to);
    int (*kick)(void *server, uint64_t id); /* -ENOENT: no such client */
    void (*listeners)(void *server, endpoint_listener_each each, void *to);
    void (*statistics)(void *server, endpoint_counter_each each, void *to);
} endpoint_server_ops;

/* <0: said why. */
int endpoint_server1_publish(sd_bus *bus, const char *object, const endpoint_server_ops *ops,
                             void *server, endpoint_server1 **ret);
void endpoint_server1_free(endpoint_server1 *s);
HYBUS_DEFINE_CLEANUP(endpoint_server1, endpoint_server1_free)
void endpoint_server1_listeners_changed(endpoint_server1 *s);

/* The core's own counters, as every server names them. `core` may be NULL. */
void endpoint_statistics_each(const endpoint_core *core, endpoint_counter_each each, void *to);
