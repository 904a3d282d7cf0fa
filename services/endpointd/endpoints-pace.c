/* SPDX-License-Identifier: Apache-2.0 */
#include "endpoints-pace.h"

bool pace_admit(pace *p, uint32_t uid, uint64_t now)
{
    uint64_t filled;
    size_t at = 0;

    /* The one that is forgotten soonest makes room. */
    for (size_t i = 0; i < PACE_UIDS; i++) {
        if (p->uids[i].uid == uid) {
            at = i;
            break;
        }
        if (p->uids[i].free_usec < p->uids[at].free_usec)
            at = i;
    }
    if (p->uids[at].uid != uid) {
        p->uids[at].uid = uid;
        p->uids[at].free_usec = 0;
    }
    filled = MAX_OF(p->uids[at].free_usec, now) + PACE_COST_USEC;
    if (filled - now > PACE_BURST_USEC)
        return false;
    p->uids[at].free_usec = filled;
    return true;
}
