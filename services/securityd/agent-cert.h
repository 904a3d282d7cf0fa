/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What is asked about certificates of clients over the private socket. */

#include "agent-peer.h"

int op_cert_init(Peer *p, const json_t *q);
int op_cert_issue(Peer *p, const json_t *q);
