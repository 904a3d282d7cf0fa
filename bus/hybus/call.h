/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Calls that a daemon makes of others while it serves: never waited for, always with a deadline,
 * and every failure is an errno of the table in error.h, whoever reports it (the callee, the bus,
 * or nobody in time). */

#include <systemd/sd-bus.h>

#include "base.h"

#define HYBUS_CALL_DEADLINE_USEC                                                                   \
    (25u * 1000u * 1000u) /* of hybus_call_method(); D-Bus's usual one */

/* Exactly once, from the loop; never when the slot was dropped first. `error` is 0 and `reply` the
 * answer, or `error` is negative and `reply` the error message (sd_bus_message_get_error() has what
 * was said). -EHOSTDOWN: nobody there, or gone without an answer; -ETIMEDOUT: no answer by the
 * deadline; -EACCES, -EINVAL, …: refused by the callee or the bus; -EIO: any other error. */
typedef void (*hybus_call_callback)(sd_bus_message *reply, int error, void *userdata);

/* Sends a method call. `ret` gets what to drop (sd_bus_slot_unref()) when the answer is of no more
 * interest, and has to be dropped after it, too; NULL: the call runs to its end by itself.
 * -EHOSTDOWN: the connection is not open. */
HYBUS_EXPORT int hybus_call_send(sd_bus_message *m, uint64_t deadline_usec, hybus_call_callback f,
                                 void *userdata, sd_bus_slot **ret);

/* Makes and sends one; `types` as for sd_bus_message_append(). */
HYBUS_EXPORT int hybus_call_method(sd_bus *bus, const char *destination, const char *path,
                                   const char *interface, const char *member, hybus_call_callback f,
                                   void *userdata, sd_bus_slot **ret, const char *types, ...);
