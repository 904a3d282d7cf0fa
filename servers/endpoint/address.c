/* SPDX-License-Identifier: Apache-2.0 */
#include "address.h"

int endpoint_address_parse(const char *text, endpoint_address *ret)
{
    const char *colon = strrchr(text, ':');
    bool bracket = text[0] == '[';
    char host[INET6_ADDRSTRLEN];
    size_t size = colon ? (size_t)(colon - text) : 0;
    endpoint_address a = {};
    unsigned long port;
    char *end;

    if (bracket) {
        if (size < 2 || colon[-1] != ']')
            return -EINVAL;
        text++;
        size -= 2;
    }
    if (size == 0 || size >= sizeof(host) || colon[1] < '0' || colon[1] > '9')
        return -EINVAL;
    memcpy(host, text, size);
    host[size] = 0;
    port = strtoul(colon + 1, &end, 10);
    if (*end || port == 0 || port > 65535)
        return -EINVAL;
    if (!bracket && inet_pton(AF_INET, host, &a.in.sin_addr) == 1) {
        a.in.sin_family = AF_INET;
        a.in.sin_port = htons((uint16_t)port);
    } else if (bracket && inet_pton(AF_INET6, host, &a.in6.sin6_addr) == 1) {
        a.in6.sin6_family = AF_INET6;
        a.in6.sin6_port = htons((uint16_t)port);
    } else
        return -EINVAL;
    *ret = a;
    return 0;
}

/* Says whether it was an IPv6 address in earnest. */
static bool format_host(const struct sockaddr *sa, char *text, size_t room)
{
    const endpoint_address *a = (const endpoint_address *)sa;

    text[0] = 0;
    if (sa->sa_family == AF_INET)
        inet_ntop(AF_INET, &a->in.sin_addr, text, (socklen_t)room);
    else if (sa->sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&a->in6.sin6_addr))
        inet_ntop(AF_INET, a->in6.sin6_addr.s6_addr + 12, text, (socklen_t)room);
    else if (sa->sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &a->in6.sin6_addr, text, (socklen_t)room);
        return true;
    }
    return false;
}

void endpoint_address_format_host(const struct sockaddr *a, char text[ENDPOINT_ADDRESS_TEXT])
{
    (void)format_host(a, text, ENDPOINT_ADDRESS_TEXT);
}

void endpoint_address_format(const struct sockaddr *a, char text[ENDPOINT_ADDRESS_TEXT])
{
    char host[INET6_ADDRSTRLEN];
    bool six = format_host(a, host, sizeof(host));

    if (!*host)
        text[0] = 0;
    else
        snprintf(text, ENDPOINT_ADDRESS_TEXT, six ? "[%s]:%u" : "%s:%u", host,
                 endpoint_address_port((const endpoint_address *)a));
}

socklen_t endpoint_address_size(const endpoint_address *a)
{
    return a->sa.sa_family == AF_INET ? sizeof(a->in) : sizeof(a->in6);
}

uint16_t endpoint_address_port(const endpoint_address *a)
{
    return ntohs(a->sa.sa_family == AF_INET ? a->in.sin_port : a->in6.sin6_port);
}

bool endpoint_address_equal(const endpoint_address *a, const endpoint_address *b)
{
    if (a->sa.sa_family != b->sa.sa_family)
        return false;
    if (a->sa.sa_family == AF_INET)
        return a->in.sin_port == b->in.sin_port && a->in.sin_addr.s_addr == b->in.sin_addr.s_addr;
    return a->in6.sin6_port == b->in6.sin6_port &&
           IN6_ARE_ADDR_EQUAL(&a->in6.sin6_addr, &b->in6.sin6_addr);
}

bool endpoint_address_is_loopback(const endpoint_address *a)
{
    if (a->sa.sa_family == AF_INET)
        return ntohl(a->in.sin_addr.s_addr) >> 24 == 127;
    return a->sa.sa_family == AF_INET6 && IN6_IS_ADDR_LOOPBACK(&a->in6.sin6_addr);
}

void endpoint_address_key(const struct sockaddr *sa, unsigned char key[16])
{
    const endpoint_address *a = (const endpoint_address *)sa;

    memset(key, 0, 16);
    if (sa->sa_family == AF_INET) {
        memcpy(key + 12, &a->in.sin_addr, 4);
        key[10] = key[11] = 0xff;
    } else if (sa->sa_family == AF_INET6) {
        const struct in6_addr *six = &a->in6.sin6_addr;

        /* A host has its whole /64; mapped IPv4 is told apart by all 16 bytes. */
        memcpy(key, six, IN6_IS_ADDR_V4MAPPED(six) || IN6_IS_ADDR_LOOPBACK(six) ? 16 : 8);
    }
}
