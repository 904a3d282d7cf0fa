/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the bus itself (layer 1) refused, in the audit: told after the fact by whoever reads its
 * log, so the policy may have moved since. */

#include "security.h"

typedef struct BusRefusal {
    char type;    /* 'm' a call, 'e' a signal, 'r' an answer or error */
    bool receive; /* refused on the receiver's side */
    const char *destination, *interface, *member, *path; /* NULL or "": not known */
} BusRefusal;

/* `subject`: who sent it, with the groups that NSS knows (the rules were compiled for those). The
 * same again is one record with a count. */
void security_bus_refused(Security *s, const Subject *subject, const BusRefusal *refusal,
                          uint64_t n);
