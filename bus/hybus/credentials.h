/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Who a connection to the bus is, as the kernel told the bus when it connected. A connection's
 * answer never changes, so ask once; a unique name is never given twice in the life of a bus. */

#include "call.h"

#define HYBUS_CREDENTIALS_GROUPS_MAX                                                               \
    1024u /* more are not judged: h-securityd takes no more either */

typedef struct hybus_credentials {
    uint32_t uid;
    const uint32_t *gids; /* in the message that it was read from */
    size_t n_gids;
} hybus_credentials;

/* Asks the bus; `f` passes the reply on to hybus_credentials_read(). */
HYBUS_EXPORT int hybus_credentials_ask(sd_bus *bus, const char *name, hybus_call_callback f,
                                       void *userdata, sd_bus_slot **ret);

/* -EACCES: the bus does not attest all of it, which denies (without the groups a deny of one of
 * them would be passed by). -E2BIG: more groups than are judged; other errors: not such a reply.
 * Only 0 sets `ret`. */
HYBUS_EXPORT int hybus_credentials_read(sd_bus_message *reply, hybus_credentials *ret);
