/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The mediation filter (layer 2). It sees every message before any handler of the connection:
 *
 *   free        Introspectable.Introspect, Peer.Ping, Peer.GetMachineId, replies, and messages from
 *               the bus driver
 *   judged      every other method call, by (interface, member); Properties.Get/Set by the interface
 *               and property named; GetAll needs the read permission of every property of that
 *               interface; a call without an interface is refused; GetManagedObjects and GetAll with
 *               an empty interface are refused
 *   hit         hash lookup of the sender, generation load, bit test: no system call
 *   miss        the sender's credentials (GetConnectionCredentials, asynchronous) and its row are
 *               fetched; its calls are parked in order, bounded, and then decided from scratch
 *   refusal     is judged once more and recorded by h-securityd; the error carries rule and audit id
 *   agent away  calls wait up to the deadline, then PolicyUnavailable; nothing is allowed
 */

#include <systemd/sd-bus.h>

#include "agent.h"
#include "base.h"

#define HYBUS_MEDIATE_SENDERS_MAX 1024u        /* cached connections; the least recent idle leaves */
#define HYBUS_MEDIATE_PARKED_PER_SENDER_MAX 64u /* more give LimitExceeded at once */
#define HYBUS_MEDIATE_PARKED_MAX 1024u

typedef struct hybus_mediator hybus_mediator;

/* Installs the filter. It must be the last filter installed (sd-bus runs that one first). */
HYBUS_EXPORT int hybus_mediator_new(sd_bus *bus, hybus_agent *agent, hybus_mediator **ret);
HYBUS_EXPORT void hybus_mediator_free(hybus_mediator *m);
HYBUS_DEFINE_CLEANUP(hybus_mediator, hybus_mediator_free)

typedef struct hybus_mediator_statistics {
    uint64_t hits, misses, denied, parked, dropped, unavailable;
} hybus_mediator_statistics;
HYBUS_EXPORT void hybus_mediator_statistics_get(hybus_mediator *m, hybus_mediator_statistics *ret);
