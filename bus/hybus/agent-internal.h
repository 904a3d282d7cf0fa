/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "agent.h"

/* One packet as if it had come from the agent, for fuzzing. */
int hybus_agent_packet(hybus_agent *a, const char *packet, size_t size, int fd);
