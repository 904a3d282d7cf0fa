/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Follows whether the device has been claimed (org.hybridos.Security1.Claimed): a server opens its
 * doors to the network then. Without an answer everything stays as it was. */

#include <systemd/sd-bus.h>

#include <hybus/agent.h>

typedef struct endpoint_claim endpoint_claim;

/* `changed` is told each answer, also when it is the same as before. `agent` may be NULL. <0: said
 * why. */
int endpoint_claim_follow(sd_bus *bus, hybus_agent *agent,
                          void (*changed)(bool claimed, void *userdata), void *userdata,
                          endpoint_claim **ret);
void endpoint_claim_free(endpoint_claim *c);
HYBUS_DEFINE_CLEANUP(endpoint_claim, endpoint_claim_free)
