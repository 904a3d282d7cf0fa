/* SPDX-License-Identifier: Apache-2.0 */
/* The library tells nobody when a message of ours is acknowledged, nor when a client answers a
 * notification that asked for no acknowledgement with a Reset, although RFC 7641 (3.6) makes that
 * the end of the observation. Both are bare headers of four bytes: while somebody observes, we look
 * at the head of each datagram before the library takes it. What is encrypted comes on a road of
 * ours (coap-dtls.c), which sees it. */

#include "coap-node.h"

#define TYPE_ACKNOWLEDGEMENT 2
#define TYPE_RESET 3
#define DESCRIPTORS_MAX 4096

int coapd_peek_find(const endpoint_address *a, int type)
{
    for (int fd = 3; fd < DESCRIPTORS_MAX; fd++) {
        endpoint_address bound = {};
        socklen_t size = sizeof(bound), n = sizeof(int);
        int kind = 0;

        if (getsockname(fd, &bound.sa, &size) == 0 && endpoint_address_equal(&bound, a) &&
            getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &n) == 0 && kind == type)
            return fd;
    }
    return -ENOENT;
}

typedef struct head {
    bool reset, empty;
    coap_mid_t mid;
} head;

static void tell(CoapdSession *s, void *userdata)
{
    const head *h = userdata;

    if (!s->session)
        return;
    coapd_session_hold(s);
    if (h->reset)
        coapd_observer_lost(s, h->mid, true);
    else
        coapd_observer_acknowledged(s, h->mid);
    if (h->empty && !h->reset)
        coapd_upstream_acknowledged(s, h->mid);
    coapd_session_release(s);
}

static void peek(Coapd *d, int fd)
{
    uint8_t bytes[4];
    endpoint_address from = {};
    socklen_t size = sizeof(from);
    ssize_t n = recvfrom(fd, bytes, sizeof(bytes), MSG_PEEK | MSG_DONTWAIT, &from.sa, &size);
    unsigned type = bytes[0] >> 4 & 3;
    head h;

    if (n < 4 || bytes[0] >> 6 != 1 || type < TYPE_ACKNOWLEDGEMENT)
        return;
    h = (head){.reset = type == TYPE_RESET, .empty = bytes[1] == 0, .mid = bytes[2] << 8 | bytes[3]};
    coapd_session_each_of(d, &from.sa, tell, &h);
}

void coapd_peek(Coapd *d)
{
    for (size_t i = 0; i < d->n_listeners; i++)
        if (d->listeners[i].kind == COAPD_DOOR_UDP && d->listeners[i].fd >= 0)
            peek(d, d->listeners[i].fd);
}
