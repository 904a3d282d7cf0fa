/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Where a server should listen. A port alone means: loopback until the device is claimed, every
 * address after (an administrator exists then). Sockets that systemd passes are kept closed to all
 * until then, unless they stand on loopback. */

#include "address.h"

#define ENDPOINT_DOORS_MAX 16u

typedef struct endpoint_door {
    endpoint_address address;
    unsigned kind; /* the server's own: "tls", "plain", … */
    bool optional; /* an IPv6 address on a device without IPv6 is no error */
    int passed;    /* systemd's socket, or -1 */
    bool there;    /* for whoever walks the list: it is open already */
} endpoint_door;

typedef struct endpoint_doors {
    bool open; /* may the network come in where no address is given? */
    endpoint_door list[ENDPOINT_DOORS_MAX];
    size_t n;
} endpoint_doors;

/* `scope`: "claimed", "loopback" or "all". */
bool endpoint_scope_valid(const char *scope);
bool endpoint_scope_is_open(const char *scope, bool claimed);
/* Adds what the entries name ("5683", "192.0.2.1:5683", "[::1]:5683"). An entry that cannot be
 * understood is logged and left out: -EINVAL in the end; -ENOBUFS: too many. */
int endpoint_doors_want(endpoint_doors *d, char *const *entries, unsigned kind);
/* Adds a socket of systemd's. */
int endpoint_doors_want_passed(endpoint_doors *d, int fd, unsigned kind);
/* The door that stands at `address`, marked as there, or NULL: not wanted (any more). */
endpoint_door *endpoint_doors_find(endpoint_doors *d, const endpoint_address *address,
                                   unsigned kind);
