/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Acting for somebody on the bus: on a connection of its own, bound before anything else is asked on it.
 * From there on each call needs the grants of both, at every daemon of ours, and the audit names both
 * (org.hybridos.Security1.Bind). The bus itself sees no binding: other services are not for such a
 * connection. */

#include <systemd/sd-bus.h>

#include "base.h"

#define HYBUS_BOUND_MAX 64u /* connections of one pool; the bus allows 256 of a uid */

/* For programs that may wait. `handle` 0: anonymous. *ret_principal (may be NULL) is for free().
 * -ENOENT: no such principal was given; -EEXIST: the connection is bound to another one. After a failure
 * the connection must not be used for the principal. */
HYBUS_EXPORT int hybus_bus_bind(sd_bus *bus, uint64_t handle, char **ret_principal);

/* For daemons: connections by handle, made when first asked for, kept while used and some time after. */
typedef struct hybus_bound_pool hybus_bound_pool;
typedef struct hybus_bound hybus_bound;

HYBUS_EXPORT int hybus_bound_pool_new(sd_event *event, hybus_bound_pool **ret);
HYBUS_EXPORT void hybus_bound_pool_free(hybus_bound_pool *p);
HYBUS_DEFINE_CLEANUP(hybus_bound_pool, hybus_bound_pool_free)

/* `bus` is bound, or NULL with an error; valid until hybus_bound_leave(), which the holder calls in any
 * case, also after an error and also before it has been called back (it then is not). From the loop,
 * never from inside. A lost connection shows in its calls; ask anew then. */
typedef void (*hybus_bound_ready)(sd_bus *bus, int error, void *userdata);
/* -ENOBUFS: all connections are in use. */
HYBUS_EXPORT int hybus_bound_get(hybus_bound_pool *p, uint64_t handle, hybus_bound_ready f,
                                 void *userdata, hybus_bound **ret);
HYBUS_EXPORT void hybus_bound_leave(hybus_bound *b);
/* How many connections there are. */
HYBUS_EXPORT size_t hybus_bound_connections(const hybus_bound_pool *p);
