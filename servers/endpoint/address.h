/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Internet addresses as servers need them: to listen on, to show, and to count peers by. */

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <hybus/base.h>

typedef union endpoint_address {
    struct sockaddr sa;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
} endpoint_address;

#define ENDPOINT_ADDRESS_TEXT (INET6_ADDRSTRLEN + 10u) /* room for any text below */

/* "192.0.2.1:5683" or "[2001:db8::1]:5683"; -EINVAL. */
int endpoint_address_parse(const char *text, endpoint_address *ret);
/* As above; IPv4 inside IPv6 is shown as what it is. */
void endpoint_address_format(const struct sockaddr *a, char text[ENDPOINT_ADDRESS_TEXT]);
/* The same without brackets and port. */
void endpoint_address_format_host(const struct sockaddr *a, char text[ENDPOINT_ADDRESS_TEXT]);
socklen_t endpoint_address_size(const endpoint_address *a);
uint16_t endpoint_address_port(const endpoint_address *a);
bool endpoint_address_equal(const endpoint_address *a, const endpoint_address *b);
bool endpoint_address_is_loopback(const endpoint_address *a);
/* What limits are counted by: one IPv4 address, or a whole IPv6 /64. */
void endpoint_address_key(const struct sockaddr *a, unsigned char key[16]);
