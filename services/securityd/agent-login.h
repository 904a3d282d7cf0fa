/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What is asked about passwords over the private socket. The answer waits while a password is
 * worked on, and the asker may leave meanwhile. */

#include "agent-peer.h"

int op_login(Peer *p, const json_t *q);
int op_own_password(Peer *p, const json_t *q);
int op_logout(Peer *p, const json_t *q);
int op_touch(Peer *p, const json_t *q);
int op_user_add(Peer *p, const json_t *q);
int op_user_password(Peer *p, const json_t *q);

/* The peer goes: nothing of what it waits for is done. */
void login_leave(Peer *p);
