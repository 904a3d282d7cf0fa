/* SPDX-License-Identifier: Apache-2.0 */
/* Listening sockets: what settings and claim allow (endpoint/doors.h) is kept open. The library
 * makes those for UDP, so none come from systemd; CoAP's ports are above 1024. */

#include "coap-connection.h"

#include <hybus/log.h>

bool coapd_listen_is_open(const Coapd *d)
{
    return endpoint_scope_is_open(d->settings->scope, d->claimed);
}

static coap_address_t library_address(const endpoint_address *a)
{
    coap_address_t out;

    coap_address_init(&out);
    out.size = endpoint_address_size(a);
    memcpy(&out.addr, a, out.size);
    return out;
}

static int open_library(Coapd *d, CoapdListener *l)
{
    coap_address_t address = library_address(&l->bound);

    errno = 0;
    l->endpoint = coap_new_endpoint(d->context, &address, COAP_PROTO_UDP);
    if (!l->endpoint)
        return errno ? -errno : -EADDRINUSE;
    l->fd = coapd_peek_find(&l->bound, SOCK_DGRAM);
    return 0;
}

const char *coapd_door_name(unsigned kind)
{
    static const char *const names[] = {[COAPD_DOOR_UDP] = "udp",
                                        [COAPD_DOOR_TCP] = "tcp",
                                        [COAPD_DOOR_DTLS] = "dtls",
                                        [COAPD_DOOR_TLS] = "tls"};

    return names[kind];
}

static int open_door(Coapd *d, const endpoint_door *door)
{
    CoapdListener *l = &d->listeners[d->n_listeners];
    int r;

    *l = (CoapdListener){.coapd = d, .bound = door->address, .kind = door->kind, .fd = -1};
    r = l->kind == COAPD_DOOR_UDP    ? open_library(d, l)
        : l->kind == COAPD_DOOR_DTLS ? coapd_flow_listen(d, l)
                                     : coapd_pipe_listen(d, l);
    if (r < 0)
        return r;
    l->port = endpoint_address_port(&l->bound);
    endpoint_address_format_host(&l->bound.sa, l->address);
    d->n_listeners++;
    hybus_info("listening on %s port %u (%s)", l->address, l->port, coapd_door_name(l->kind));
    return 0;
}

/* The library's IPv6 sockets take IPv4 as well: a second socket beside an open one would share its
 * datagrams by chance. */
static bool is_covered(const Coapd *d, const endpoint_door *door)
{
    const endpoint_address *a = &door->address;

    if (door->kind != COAPD_DOOR_UDP)
        return false;
    if (a->sa.sa_family != AF_INET || a->in.sin_addr.s_addr != htonl(INADDR_ANY))
        return false;
    for (size_t i = 0; i < d->n_listeners; i++) {
        const CoapdListener *l = &d->listeners[i];

        if (l->kind == door->kind && l->bound.sa.sa_family == AF_INET6 &&
            IN6_IS_ADDR_UNSPECIFIED(&l->bound.in6.sin6_addr) && l->port == endpoint_address_port(a))
            return true;
    }
    return false;
}

static int open_family(Coapd *d, endpoint_doors *doors, sa_family_t family)
{
    int result = 0;

    for (size_t i = 0; i < doors->n; i++) {
        endpoint_door *door = &doors->list[i];
        int r;

        if (door->there || door->address.sa.sa_family != family || is_covered(d, door))
            continue;
        r = open_door(d, door);
        if (r == 0 || (door->optional && (r == -EAFNOSUPPORT || r == -EADDRNOTAVAIL)))
            continue;
        result = hybus_log_errno(LOG_ERR, r, "cannot listen on port %u",
                                 endpoint_address_port(&door->address));
    }
    return result;
}

/* The library cannot close a socket whose sessions are in use, and tells nobody when it forgets
 * them. DTLS goes through its listener's socket; connections of TCP live on without theirs. */
static void forget_sessions_of(Coapd *d, const CoapdListener *l)
{
    for (list *n = d->sessions.next, *next; n != &d->sessions; n = next) {
        CoapdSession *s = list_entry(n, CoapdSession, node);

        next = n->next;
        if (s->port != l->port || !s->session != !l->endpoint || s->reliable)
            continue;
        coapd_session_close(s);
        if (l->endpoint)
            coapd_session_forget(s);
    }
}

static void listener_close(Coapd *d, size_t at)
{
    CoapdListener *l = &d->listeners[at];

    forget_sessions_of(d, l);
    if (l->endpoint) {
        coap_free_endpoint(l->endpoint);
    } else {
        sd_event_source_disable_unref(l->io);
        coapd_flow_unlisten(l);
        safe_close(l->fd);
    }
    if (at == --d->n_listeners)
        return;
    *l = d->listeners[d->n_listeners];
    if (l->io)
        (void)sd_event_source_set_userdata(l->io, l);
}

void coapd_listen_close(Coapd *d)
{
    while (d->n_listeners > 0)
        listener_close(d, d->n_listeners - 1);
}

static int want_all(const Coapd *d, endpoint_doors *doors)
{
    char *const *const entries[] = {[COAPD_DOOR_UDP] = d->settings->udp,
                                    [COAPD_DOOR_TCP] = d->settings->tcp,
                                    [COAPD_DOOR_DTLS] = d->settings->dtls,
                                    [COAPD_DOOR_TLS] = d->settings->tls};
    int result = 0;

    for (unsigned kind = 0; kind < ELEMENTS(entries); kind++) {
        int r = endpoint_doors_want(doors, entries[kind], kind);

        result = result < 0 ? result : r;
    }
    return result;
}

int coapd_listen_update(Coapd *d)
{
    endpoint_doors doors = {.open = coapd_listen_is_open(d)};
    int r, result;

    if (d->draining)
        return 0;
    result = want_all(d, &doors);
    for (size_t i = d->n_listeners; i-- > 0;)
        if (!endpoint_doors_find(&doors, &d->listeners[i].bound, d->listeners[i].kind))
            listener_close(d, i);
    r = open_family(d, &doors, AF_INET6);
    result = result < 0 ? result : r;
    r = open_family(d, &doors, AF_INET);
    result = result < 0 ? result : r;
    if (d->listeners_changed)
        d->listeners_changed(d, d->listeners_userdata);
    return result;
}

void coapd_set_claimed(Coapd *d, bool claimed)
{
    if (d->claimed == claimed)
        return;
    d->claimed = claimed;
    if (streq(d->settings->scope, "claimed"))
        (void)coapd_listen_update(d);
}
