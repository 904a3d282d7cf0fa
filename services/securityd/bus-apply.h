/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Brings compiled rules into force at the message bus and proves it. Both buses answer ReloadConfig
 * with success while skipping a file that they do not like, so every file of every try permits one
 * name of its own: only when h-securityd has owned that name is the file in force. */

#include <systemd/sd-bus.h>

#include "bus-rules.h"

/* 0: proven. -EPROTO: the bus reloaded, but does not obey; -ETIMEDOUT and what else a call gives;
 * or what a write gave. `message` says in a sentence what is wrong. */
typedef void (*BusApplied)(int result, const char *message, void *userdata);

typedef struct BusApply BusApply;

/* `directory`: included by the static bus configuration. */
int bus_apply_new(sd_bus *bus, const char *directory, BusApply **ret);
void bus_apply_free(BusApply *a);
HYBUS_DEFINE_CLEANUP(BusApply, bus_apply_free)

/* One try at a time; `rules` must stay until `f` has been called, which is never from inside.
 * -EBUSY. */
int bus_apply_start(BusApply *a, const BusRules *rules, BusApplied f, void *userdata);
