/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One connection to the private socket: who is at its far end, the principals that were given to it,
 * and what waits to be sent. Everything a peer can make grow has its limit here. */

#include <jansson.h>
#include <sys/queue.h>
#include <systemd/sd-event.h>

#include "agent-socket.h"

typedef struct Packet Packet;
typedef struct Waiting Waiting;
struct Pending; /* agent-login.c */

typedef struct Peer {
    TAILQ_ENTRY(Peer) peers;
    AgentSocket *socket; /* NULL in agent_socket_feed(), and before it is admitted */
    Security *security;
    int fd;
    sd_event_source *io;
    uint32_t uid;
    uint32_t *gids;
    size_t n_gids;
    char service[64]; /* of its hello; "" before */
    char **permissions;
    bool holds; /* has been given a row or a principal, which a revocation must take back */
    TAILQ_HEAD(, Waiting) waiting; /* for a person (agent-judge.c) */
    size_t n_waiting;
    TAILQ_HEAD(, Packet) out;
    size_t n_out, out_bytes;
    uint64_t settled;      /* the newest generation it has settled */
    LIST_HEAD(, Pending) pending; /* questions that wait for a password's hash */
    Principal **handles;   /* open addressing by handle */
    size_t n_handles, handles_size;
} Peer;

/* Takes over `fd`. NULL: no memory. */
Peer *peer_new(Security *security, int fd);
void peer_free(Peer *p);
HYBUS_DEFINE_CLEANUP(Peer, peer_free)

/* Reads from the kernel who is at the far end. */
int peer_identify(Peer *p);
Subject peer_subject(const Peer *p);
bool peer_may(const Peer *p, const char *permission);

/* Both take over what they get. -ENOBUFS: too many principals. */
int peer_add_principal(Peer *p, Principal *principal);
void peer_remove_principal(Peer *p, uint64_t handle);
Principal *peer_principal(const Peer *p, uint64_t handle);

/* Takes over `j`; `fd` (or -1) goes along and stays the caller's. -EMSGSIZE: larger than a packet;
 * -EPROTO: the peer does not read what it asks for. */
int peer_send(Peer *p, json_t *j, int fd);
int peer_flush(Peer *p);
/* A copy of what would be sent next, for tests. */
char *peer_first_answer(const Peer *p);

/* Nobody is asked for it any more. */
void peer_withdraw_all(Peer *p);
/* The thread that works on passwords. */
struct PasswordQueue *agent_socket_passwords(AgentSocket *a);
/* An answer waits for it that did not come from its own question. */
void agent_socket_wake(Peer *p);

/* What one packet asks is done and answered. <0: the connection is of no more use. */
int peer_packet(Peer *p, const char *packet, size_t size);
