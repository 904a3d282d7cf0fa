/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a caller on the bus may see, beyond being allowed to ask at all: h-securityd's word on four
 * permissions, got once and again whenever the policy moves. */

#include <hybus/agent.h>
#include <systemd/sd-bus.h>

typedef struct log_rights {
    bool own;     /* log.read-own: what its own user wrote */
    bool all;     /* log.read */
    bool audit;   /* log.audit */
    bool secrets; /* log.secrets */
} log_rights;

typedef struct log_access log_access;

/* Asks who `name` is and what it may; then calls back, from the loop, once. error: as
 * hybus_agent_row(), or -EACCES when nobody can say who it is. */
typedef void (*log_access_callback)(log_access *a, int error, void *userdata);
int log_access_new(sd_bus *bus, hybus_agent *agent, const char *name, log_access_callback f,
                   void *userdata, log_access **ret);
/* The same again for a caller that is known already; a question under way is withdrawn. */
int log_access_again(log_access *a, log_access_callback f, void *userdata);
void log_access_free(log_access *a);
HYBUS_DEFINE_CLEANUP(log_access, log_access_free)

const log_rights *log_access_rights(const log_access *a);
uint32_t log_access_uid(const log_access *a);
hybus_subject log_access_subject(const log_access *a);
