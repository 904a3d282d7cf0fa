/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Syslog from other nodes, by UDP (RFC 5426) and TCP (RFC 6587): sockets, connections and their limits.
 * Nothing in it is verified but the address that it came from, and by UDP not even that. */

#include <systemd/sd-event.h>

#include "log-peer.h"
#include "log-syslog.h"
#include "log.h"

#define LOG_RECEIVE_LISTENERS_MAX 16u
#define LOG_RECEIVE_CONNECTIONS_MAX 64u
#define LOG_RECEIVE_CONNECTIONS_PEER_MAX 8u
#define LOG_RECEIVE_BATCH 16u              /* datagrams of one system call */
#define LOG_RECEIVE_TURN 8u                /* of these before others get their turn */
#define LOG_RECEIVE_READ (16u * 1024u)     /* bytes of one connection in a turn */
#define LOG_RECEIVE_NOTE_USEC (60u * 1000u * 1000u)

typedef struct log_receive log_receive;

int log_receive_new(sd_event *event, log_book *b, log_receive **ret);
void log_receive_free(log_receive *v);
HYBUS_DEFINE_CLEANUP(log_receive, log_receive_free)

/* Takes over a socket that is bound (and listens, if it is a stream); also on failure. */
int log_receive_add(log_receive *v, int fd);
/* "udp:192.0.2.1:1514", "tcp:[::]:1514"; -EINVAL: not of that form. */
int log_receive_listen(log_receive *v, const char *text);
/* From whom; connections of others are closed. */
void log_receive_allow(log_receive *v, const log_networks *networks);

typedef struct log_receive_statistics {
    uint64_t refused;   /* datagrams and connections of networks that are not allowed */
    uint64_t busy;      /* connections that found no place */
    uint64_t cut;       /* messages that were too long */
    uint64_t malformed; /* empty ones, and streams that are no syslog */
    size_t connections;
} log_receive_statistics;
void log_receive_statistics_get(const log_receive *v, log_receive_statistics *ret);
