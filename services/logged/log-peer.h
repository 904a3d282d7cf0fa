/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Addresses of nodes: which networks are allowed, and what a limit counts as one sender. */

#include <hybus/base.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define LOG_NETWORKS_MAX 64u

typedef union log_address {
    struct sockaddr sa;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
} log_address;

typedef struct log_network {
    uint8_t address[16]; /* IPv4 as ::ffff:a.b.c.d */
    unsigned bits;       /* of 128 */
} log_network;

typedef struct log_networks {
    log_network list[LOG_NETWORKS_MAX];
    size_t n;
} log_networks;

/* "192.168.1.0/24", "fd00::/8", "10.0.0.7"; -EINVAL; -E2BIG. */
int log_networks_add(log_networks *n, const char *text);
/* All of a list; what is wrong is in `ret_bad`. */
int log_networks_parse(char *const *texts, log_networks *ret, const char **ret_bad);
bool log_networks_have(const log_networks *n, const log_address *a);

#define LOG_PEER_TEXT (INET6_ADDRSTRLEN + 4u)

typedef struct log_peer {
    char address[LOG_PEER_TEXT];
    char sender[LOG_PEER_TEXT]; /* what limits count: the address, or the whole /64 of IPv6 */
} log_peer;
void log_peer_of(const log_address *a, log_peer *ret);

/* "192.0.2.1:514", "[::]:514"; -EINVAL. */
int log_address_parse(const char *text, log_address *ret, socklen_t *ret_size);
