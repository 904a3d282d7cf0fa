/* SPDX-License-Identifier: Apache-2.0 */
#include "log-unit.h"

#include <systemd/sd-login.h>

static int ask_kernel(uint32_t pid, char ret[LOG_UNIT_MAX])
{
    _cleanup_(freep) char *unit = NULL;
    int r = sd_pid_get_unit((pid_t)pid, &unit);

    if (r >= 0)
        snprintf(ret, LOG_UNIT_MAX, "%s", unit);
    return r;
}

const char *log_units_find(log_units *u, uint32_t pid, uint32_t uid, uint64_t now)
{
    log_unit *e = &u->cache[(pid * 2654435761u >> 16) % LOG_UNITS_CACHED];
    bool same = e->asked != 0 && e->pid == pid && e->uid == uid;
    char name[LOG_UNIT_MAX];

    if (same && now - e->asked < LOG_UNIT_AGE_USEC)
        return *e->name ? e->name : NULL;
    if ((u->lookup ? u->lookup : ask_kernel)(pid, name) >= 0)
        memcpy(e->name, name, sizeof(name));
    else if (!same)
        e->name[0] = '\0';
    e->pid = pid;
    e->uid = uid;
    e->asked = now ? now : 1;
    return *e->name ? e->name : NULL;
}
