/* SPDX-License-Identifier: Apache-2.0 */
#include "log-peer.h"

#include <arpa/inet.h>

static const uint8_t v4_prefix[12] = {[10] = 0xff, [11] = 0xff};

static bool is_v4(const uint8_t a[16])
{
    return memcmp(a, v4_prefix, sizeof(v4_prefix)) == 0;
}

static void bytes_of(const log_address *a, uint8_t ret[16])
{
    if (a->sa.sa_family == AF_INET) {
        memcpy(ret, v4_prefix, sizeof(v4_prefix));
        memcpy(ret + 12, &a->in.sin_addr, 4);
    } else
        memcpy(ret, &a->in6.sin6_addr, 16);
}

static int parse_number(const char *s, unsigned long max, unsigned *ret)
{
    char *end;
    unsigned long n;

    if (s[0] < '0' || s[0] > '9')
        return -EINVAL;
    n = strtoul(s, &end, 10);
    if (*end || n > max)
        return -EINVAL;
    *ret = (unsigned)n;
    return 0;
}

int log_networks_add(log_networks *n, const char *text)
{
    const char *slash = strchr(text, '/');
    char address[INET6_ADDRSTRLEN];
    log_network network = {};
    unsigned offset = 0;
    int size = slash ? (int)(slash - text) : (int)strlen(text);

    if (n->n == LOG_NETWORKS_MAX)
        return -E2BIG;
    if (snprintf(address, sizeof(address), "%.*s", size, text) >= (int)sizeof(address))
        return -EINVAL;
    if (inet_pton(AF_INET, address, network.address + 12) == 1) {
        memcpy(network.address, v4_prefix, sizeof(v4_prefix));
        offset = 96;
    } else if (inet_pton(AF_INET6, address, network.address) != 1)
        return -EINVAL;
    network.bits = 128;
    if (slash) {
        if (parse_number(slash + 1, 128 - offset, &network.bits) < 0)
            return -EINVAL;
        network.bits += offset;
    }
    n->list[n->n++] = network;
    return 0;
}

int log_networks_parse(char *const *texts, log_networks *ret, const char **ret_bad)
{
    log_networks networks = {};
    int r;

    for (; texts && *texts; texts++) {
        r = log_networks_add(&networks, *texts);
        if (r < 0) {
            *ret_bad = *texts;
            return r;
        }
    }
    *ret = networks;
    return 0;
}

static bool inside(const log_network *n, const uint8_t a[16])
{
    unsigned whole = n->bits / 8, rest = n->bits % 8;

    return memcmp(n->address, a, whole) == 0 &&
           (rest == 0 || ((n->address[whole] ^ a[whole]) >> (8 - rest)) == 0);
}

bool log_networks_have(const log_networks *n, const log_address *a)
{
    uint8_t bytes[16];

    bytes_of(a, bytes);
    for (size_t i = 0; i < n->n; i++) {
        /* "::/0" is every IPv6 address; IPv4 inside IPv6 is IPv4. */
        if (n->list[i].bits < 96 && is_v4(bytes))
            continue;
        if (inside(&n->list[i], bytes))
            return true;
    }
    return false;
}

void log_peer_of(const log_address *a, log_peer *ret)
{
    uint8_t bytes[16];

    *ret = (log_peer){};
    bytes_of(a, bytes);
    if (is_v4(bytes)) {
        inet_ntop(AF_INET, bytes + 12, ret->address, sizeof(ret->address));
        memcpy(ret->sender, ret->address, sizeof(ret->sender));
        return;
    }
    inet_ntop(AF_INET6, bytes, ret->address, sizeof(ret->address));
    memset(bytes + 8, 0, 8);
    inet_ntop(AF_INET6, bytes, ret->sender, INET6_ADDRSTRLEN);
    strcat(ret->sender, "/64");
}

int log_address_parse(const char *text, log_address *ret, socklen_t *ret_size)
{
    const char *colon = strrchr(text, ':'), *from = text;
    char host[INET6_ADDRSTRLEN];
    unsigned port;
    int size;

    if (!colon || parse_number(colon + 1, UINT16_MAX, &port) < 0)
        return -EINVAL;
    size = (int)(colon - text);
    *ret = (log_address){};
    if (size > 2 && text[0] == '[' && text[size - 1] == ']') {
        from++;
        size -= 2;
        ret->in6.sin6_family = AF_INET6;
    } else
        ret->in.sin_family = AF_INET;
    if (snprintf(host, sizeof(host), "%.*s", size, from) >= (int)sizeof(host))
        return -EINVAL;
    if (ret->sa.sa_family == AF_INET6) {
        ret->in6.sin6_port = htons((uint16_t)port);
        *ret_size = sizeof(ret->in6);
        return inet_pton(AF_INET6, host, &ret->in6.sin6_addr) == 1 ? 0 : -EINVAL;
    }
    ret->in.sin_port = htons((uint16_t)port);
    *ret_size = sizeof(ret->in);
    return inet_pton(AF_INET, host, &ret->in.sin_addr) == 1 ? 0 : -EINVAL;
}
