/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The registrar's side of docs/protocols/channel.md: apps that register, servers that are told the
 * table. */

#include "endpoints-registrar.h"

#define CHANNEL_CONNECTIONS_MAX 512u
#define CHANNEL_CONNECTIONS_UID_MAX 32u
/* Together with the connections above at most 64 MiB, half of what the unit may have. */
#define CHANNEL_READ_MAX HYBUS_FRAME_MAX    /* bytes buffered of one connection */
#define CHANNEL_APP_QUEUE_MAX (64u * 1024u) /* bytes not read by an app: it is cut off */
#define CHANNEL_SERVER_QUEUE_MAX (2u * ENDPOINTS_TABLE_SIZE_MAX)
#define CHANNEL_NOTIFY_HIGH (1024u * 1024u) /* bytes queued to a server: no more notifications */
#define CHANNEL_NOTIFY_UID_MAX (CHANNEL_NOTIFY_HIGH / 4u) /* of one uid, while some wait */

typedef struct channel channel;

typedef struct channel_options {
    sd_event *event;
    registrar *registrar;
    int listen_fd; /* taken over */
    /* Who a uid is: 0 and an allocated name. NULL: the system's users. */
    int (*user_name)(uint32_t uid, char **ret);
    /* Credentials of a socket's peer. NULL: the kernel's. */
    int (*identify)(int fd, endpoints_identity **ret);
} channel_options;

int channel_new(const channel_options *options, channel **ret);
void channel_free(channel *c);
HYBUS_DEFINE_CLEANUP(channel, channel_free)

/* A connection that did not come through the listening socket. Takes the descriptor over. */
int channel_accept(channel *c, int fd);

/* Kernel-attested: SO_PEERCRED and SO_PEERGROUPS. */
int channel_identify(int fd, endpoints_identity **ret);

typedef struct channel_value {
    const char *ns, *path, *content_type;
    const char *id; /* NULL: none */
    uint32_t uid;   /* whose it is */
    uint32_t max_age;
    bool has_max_age, gone;
    const void *body;
    size_t size;
} channel_value;

/* To every server, or to none: -ENOBUFS when one of them does not keep up with all of it, or with
 * this uid's; -EMSGSIZE. */
int channel_notify(channel *c, const channel_value *v);

typedef struct channel_server {
    const char *name, *protocol;
    char socket[128];
} channel_server;
/* Index 0 upwards; false: no more. Strings live until the loop goes on. */
bool channel_server_at(const channel *c, size_t index, channel_server *ret);
