/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The server of the private socket (docs/protocols/agent.md). Who asks is known from the kernel alone.
 * Everything a peer can make grow has its limit here. */

#include <systemd/sd-event.h>

#include "security.h"

#define AGENT_CONNECTIONS_PER_UID 64u
#define AGENT_CONNECTIONS_OF_ROOT 256u
#define AGENT_CONNECTIONS_MAX 1024u
#define AGENT_UNANSWERED_MAX 1024u        /* packets waiting for a peer that does not read */
#define AGENT_UNANSWERED_BYTES (4u << 20) /* and their bytes, of one peer */
#define AGENT_HANDLES_MAX 16384u          /* principals of one server */
#define AGENT_INTERFACES_MAX 64u          /* in one hello */
#define AGENT_MEMBERS_MAX 4096u           /* in one answer to a hello */
#define AGENT_PACKETS_PER_TURN 32u
#define AGENT_SETTLE_USEC (2u * 1000u * 1000u)
#define AGENT_NODES_PER_ANSWER 256u       /* keys */
#define AGENT_SETTLING_MAX 256u

typedef struct AgentSocket AgentSocket;

/* Takes over `fd`, a listening SOCK_SEQPACKET socket. */
int agent_socket_new(sd_event *event, Security *security, int fd, AgentSocket **ret);
void agent_socket_free(AgentSocket *a);
HYBUS_DEFINE_CLEANUP(AgentSocket, agent_socket_free)

/* Tells all peers that the page has moved and calls `f` once everyone has cut what is no longer
 * allowed, or after AGENT_SETTLE_USEC without those who have not: they are disconnected. `f` is never
 * called from inside. NULL: tell only. */
typedef void (*AgentSettled)(void *userdata);
int agent_socket_changed(AgentSocket *a, AgentSettled f, void *userdata);

/* `f` is called when somebody has changed the policy over the socket (setup). */
void agent_socket_on_change(AgentSocket *a, AgentSettled f, void *userdata);
/* Somebody has. */
void agent_socket_tell_change(AgentSocket *a);
/* A token was made or has gone: look again when the next one expires. */
void agent_socket_arm_expiry(AgentSocket *a);
/* Those whom servers serve now: fills at most `size` subjects, which are good until the loop turns, and
 * returns how many there are. */
size_t agent_socket_principals(const AgentSocket *a, Subject *subjects, size_t size);
/* A principal that was given to a server of this uid (UINT32_MAX: of any); NULL: none was. */
const Principal *agent_socket_principal(const AgentSocket *a, uint32_t uid, uint64_t handle);
/* Somebody has settled: look whether all have. */
void agent_socket_look(AgentSocket *a);

/* A listening socket at `path`, for tests and for starting without systemd. */
int agent_socket_listen(const char *path);

/* Feeds one packet as if a peer of these credentials had sent it; the answer (a new string) or NULL.
 * -EPROTO: the connection would be closed. For tests and the fuzzer. */
int agent_socket_feed(Security *security, uint32_t uid, const char *packet, size_t size,
                      char **ret_answer);
