/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* org.hybridos.Security1 on the bus. Who may call what is the mediation filter's matter; here a caller
 * is looked up only where the answer depends on who asks. */

#include <systemd/sd-bus.h>

#include "agent-socket.h"
#include "bus-policy.h"
#include "security.h"

#define SECURITY_BUS_CALLS_MAX 256u /* waiting for credentials or for peers to settle */

typedef struct SecurityBus SecurityBus;

/* `bus_policy`: NULL without one; it must outlive the SecurityBus. */
int security_bus_publish(Security *security, AgentSocket *socket, BusPolicy *bus_policy, sd_bus *bus,
                         SecurityBus **ret);
/* After the socket, which calls back. */
void security_bus_free(SecurityBus *b);
HYBUS_DEFINE_CLEANUP(SecurityBus, security_bus_free)

/* After a change that did not come over the bus. */
void security_bus_changed(SecurityBus *b);
