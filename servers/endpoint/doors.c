/* SPDX-License-Identifier: Apache-2.0 */
#include "doors.h"

#include <hybus/log.h>

bool endpoint_scope_valid(const char *scope)
{
    return streq(scope, "claimed") || streq(scope, "loopback") || streq(scope, "all");
}

bool endpoint_scope_is_open(const char *scope, bool claimed)
{
    return streq(scope, "all") || (streq(scope, "claimed") && claimed);
}

static int add(endpoint_doors *d, const endpoint_address *a, unsigned kind, bool optional,
               int passed)
{
    if (d->n >= ENDPOINT_DOORS_MAX)
        return -ENOBUFS;
    d->list[d->n++] =
        (endpoint_door){.address = *a, .kind = kind, .optional = optional, .passed = passed};
    return 0;
}

/* Both families; a device without IPv6 is fine. */
static int want_port(endpoint_doors *d, uint16_t port, unsigned kind)
{
    endpoint_address four = {.in = {.sin_family = AF_INET, .sin_port = htons(port)}};
    endpoint_address six = {.in6 = {.sin6_family = AF_INET6, .sin6_port = htons(port)}};
    int r;

    if (!d->open) {
        four.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        six.in6.sin6_addr = in6addr_loopback;
    }
    r = add(d, &four, kind, false, -1);
    return r < 0 ? r : add(d, &six, kind, true, -1);
}

static int want_entry(endpoint_doors *d, const char *text, unsigned kind)
{
    char *end;
    unsigned long port = strtoul(text, &end, 10);
    endpoint_address a;

    if (*end == '\0' && text[0] >= '0' && text[0] <= '9')
        return port == 0 || port > 65535 ? -EINVAL : want_port(d, (uint16_t)port, kind);
    if (endpoint_address_parse(text, &a) < 0)
        return -EINVAL;
    return d->open || endpoint_address_is_loopback(&a) ? add(d, &a, kind, false, -1) : 0;
}

int endpoint_doors_want(endpoint_doors *d, char *const *entries, unsigned kind)
{
    int result = 0;

    for (; entries && *entries; entries++) {
        int r = want_entry(d, *entries, kind);

        if (r < 0)
            result = hybus_log_errno(LOG_ERR, r, "cannot listen on %s", *entries);
    }
    return result;
}

int endpoint_doors_want_passed(endpoint_doors *d, int fd, unsigned kind)
{
    endpoint_address a = {};
    socklen_t size = sizeof(a);

    if (getsockname(fd, &a.sa, &size) < 0 || (!d->open && !endpoint_address_is_loopback(&a)))
        return 0;
    return add(d, &a, kind, false, fd);
}

endpoint_door *endpoint_doors_find(endpoint_doors *d, const endpoint_address *address,
                                   unsigned kind)
{
    for (size_t i = 0; i < d->n; i++) {
        endpoint_door *door = &d->list[i];

        if (door->kind == kind && endpoint_address_equal(&door->address, address)) {
            door->there = true;
            return door;
        }
    }
    return NULL;
}
