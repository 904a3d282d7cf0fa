/* SPDX-License-Identifier: Apache-2.0 */
/* CoAP over DTLS. Whoever says hello is asked to say it again with a cookie, and nothing is kept of
 * it until then (RFC 6347, 4.2.1). Messages are acknowledged, repeated and held back here as RFC
 * 7252 (4.2 and 4.7) has it: one confirmable message at a time. */

#include "coap-connection.h"
#include "coap-node.h"
#include "coap-wire.h"

#include <hybus/log.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <sys/epoll.h>

#define MTU 1232 /* of IPv6's least, less its headers */
#define DATAGRAMS_PER_TURN 64
#define CONFIRMABLE_MAX 64u       /* that wait; 16 requests and 16 observers have one each */
#define ACK_TIMEOUT_USEC 2000000u /* RFC 7252, 4.8 */
#define RETRANSMISSIONS 4u
#define RECORD_HANDSHAKE 22
#define HELLO_HEAD 19 /* bytes up to and with the number of the handshake message */

/* Where a datagram came from, and to which of our addresses. */
typedef struct flow_way {
    int fd;
    endpoint_address remote, local;
    union {
        struct in_pktinfo four;
        struct in6_pktinfo six;
    } info;
    const uint8_t *in; /* the one that is there to be read */
    size_t in_size;
    bool peek;
} flow_way;

struct CoapdHello {
    CoapdConnection base; /* for callbacks: it has no session */
    flow_way way;
    BIO_ADDR *address;
};

typedef struct flow_message {
    list node;
    coap_mid_t mid;
    size_t size;
    uint8_t bytes[];
} flow_message;

typedef struct CoapdFlow {
    CoapdConnection base;
    flow_way way;
    endpoint_timer timer; /* handshake, idling; or the end */
    endpoint_timer resend;
    uint64_t deadline; /* of the handshake */
    uint64_t moved;
    bool ready, broken;
    list messages; /* confirmable; the first is on its way */
    size_t n_messages;
    unsigned tries;
    uint64_t timeout;
} CoapdFlow;

static CoapdFlow *flow_of(const CoapdSession *s)
{
    return s->below;
}

/* --- datagrams under the TLS library ------------------------------------------------------------
 */

static int way_read(BIO *b, char *out, int room)
{
    flow_way *w = BIO_get_data(b);
    size_t n = MIN_OF(w->in_size, (size_t)room);

    BIO_clear_retry_flags(b);
    if (!w->in) {
        BIO_set_retry_read(b);
        return -1;
    }
    memcpy(out, w->in, n);
    if (!w->peek)
        w->in = NULL;
    return (int)n;
}

static void set_source(const flow_way *w, struct msghdr *m, void *control)
{
    struct cmsghdr *c;
    bool six = w->local.sa.sa_family == AF_INET6;

    m->msg_control = control;
    m->msg_controllen = six ? CMSG_SPACE(sizeof(w->info.six)) : CMSG_SPACE(sizeof(w->info.four));
    c = CMSG_FIRSTHDR(m);
    c->cmsg_level = six ? IPPROTO_IPV6 : IPPROTO_IP;
    c->cmsg_type = six ? IPV6_PKTINFO : IP_PKTINFO;
    c->cmsg_len = six ? CMSG_LEN(sizeof(w->info.six)) : CMSG_LEN(sizeof(w->info.four));
    memcpy(CMSG_DATA(c), &w->info, six ? sizeof(w->info.six) : sizeof(w->info.four));
}

/* A datagram that cannot be sent is one that is lost. */
static int way_write(BIO *b, const char *data, int size)
{
    const flow_way *w = BIO_get_data(b);
    _Alignas(struct cmsghdr) char control[CMSG_SPACE(sizeof(struct in6_pktinfo))] = {};
    struct iovec part = {.iov_base = (void *)data, .iov_len = (size_t)size};
    struct msghdr m = {.msg_name = (void *)&w->remote.sa,
                       .msg_namelen = endpoint_address_size(&w->remote),
                       .msg_iov = &part,
                       .msg_iovlen = 1};

    BIO_clear_retry_flags(b);
    set_source(w, &m, control);
    (void)sendmsg(w->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
    return size;
}

static long way_control(BIO *b, int what, long number, void *pointer)
{
    flow_way *w = BIO_get_data(b);

    switch (what) {
    case BIO_CTRL_DGRAM_SET_PEEK_MODE:
        w->peek = number != 0;
        return 1;
    case BIO_CTRL_DGRAM_QUERY_MTU:
        return MTU;
    case BIO_CTRL_DGRAM_GET_MTU_OVERHEAD:
        return 48;
    case BIO_CTRL_FLUSH:
    case BIO_CTRL_DGRAM_SET_NEXT_TIMEOUT:
        return 1;
    default:
        return 0;
    }
}

static int way_create(BIO *b)
{
    BIO_set_init(b, 1);
    return 1;
}

static BIO_METHOD *way_method(void)
{
    static BIO_METHOD *method;

    if (method)
        return method;
    method = BIO_meth_new(BIO_TYPE_DGRAM, "flow");
    if (method && BIO_meth_set_read(method, way_read) && BIO_meth_set_write(method, way_write) &&
        BIO_meth_set_ctrl(method, way_control) && BIO_meth_set_create(method, way_create))
        return method;
    return NULL;
}

static SSL *ssl_new(Coapd *d, flow_way *w, CoapdConnection *c)
{
    BIO_METHOD *method = way_method();
    SSL *ssl = method ? coapd_secrets_server(d, true) : NULL;
    BIO *bio = ssl ? BIO_new(method) : NULL;

    if (!bio) {
        SSL_free(ssl);
        return NULL;
    }
    BIO_set_data(bio, w);
    SSL_set_bio(ssl, bio, bio);
    SSL_set_options(ssl, SSL_OP_COOKIE_EXCHANGE);
    SSL_set_mtu(ssl, MTU);
    SSL_set_app_data(ssl, c);
    return ssl;
}

/* --- the end ------------------------------------------------------------------------------------
 */

static void message_free(CoapdFlow *f, flow_message *m)
{
    list_remove(&m->node);
    f->n_messages--;
    free(m);
}

static void flow_close(CoapdSession *s)
{
    CoapdFlow *f = flow_of(s);

    if (f->ready && !f->broken)
        (void)SSL_shutdown(f->base.ssl);
    ERR_clear_error();
    timer_stop(&f->timer);
    timer_stop(&f->resend);
    while (!list_empty(&f->messages))
        message_free(f, list_entry(f->messages.next, flow_message, node));
    coapd_connection_done(&f->base);
    free(f);
}

static void start_timer(CoapdFlow *f, unsigned class, uint64_t when)
{
    timer_start(&f->base.coapd->timers, class, &f->timer, when);
}

/* Not at once: whoever sends is in the middle of something. */
static void break_off(CoapdFlow *f)
{
    f->broken = true;
    start_timer(f, TIMERS_SHORT, timer_now());
}

/* --- sending ------------------------------------------------------------------------------------
 */

static void transmit(CoapdFlow *f, const uint8_t *bytes, size_t size)
{
    if (SSL_write(f->base.ssl, bytes, (int)size) <= 0)
        break_off(f);
    ERR_clear_error();
}

static void start_resend(CoapdFlow *f)
{
    timer_start(&f->base.coapd->timers, TIMERS_SHORT, &f->resend, timer_now() + f->timeout);
}

/* The first one of those that wait, for the first time. */
static void transmit_first(CoapdFlow *f)
{
    const flow_message *m;
    uint16_t random = 0;

    timer_stop(&f->resend);
    if (list_empty(&f->messages))
        return;
    m = list_entry(f->messages.next, flow_message, node);
    (void)RAND_bytes((unsigned char *)&random, sizeof(random));
    f->tries = 0;
    f->timeout = ACK_TIMEOUT_USEC + (uint64_t)random * (ACK_TIMEOUT_USEC / 2) / UINT16_MAX;
    transmit(f, m->bytes, m->size);
    start_resend(f);
}

static void on_resend(endpoint_timer *t)
{
    CoapdFlow *f = list_entry(t, CoapdFlow, resend);
    CoapdSession *s = f->base.session;
    flow_message *m = list_entry(f->messages.next, flow_message, node);
    coap_mid_t mid = m->mid;

    if (f->tries++ < RETRANSMISSIONS) {
        f->timeout *= 2;
        transmit(f, m->bytes, m->size);
        start_resend(f);
        return;
    }
    message_free(f, m);
    transmit_first(f);
    coapd_session_hold(s);
    coapd_observer_lost(s, mid, false);
    coapd_upstream_failed(s, mid, false);
    coapd_session_release(s);
}

static int enqueue(CoapdFlow *f, const uint8_t *bytes, size_t size, coap_mid_t mid)
{
    flow_message *m;

    if (f->n_messages >= CONFIRMABLE_MAX)
        return -ENOBUFS;
    m = malloc(sizeof(*m) + size);
    if (!m)
        return -ENOMEM;
    m->mid = mid;
    m->size = size;
    memcpy(m->bytes, bytes, size);
    list_append(&f->messages, &m->node);
    if (f->n_messages++ == 0)
        transmit_first(f);
    return 0;
}

static coap_mid_t flow_send(CoapdSession *s, coap_pdu_t *pdu)
{
    CoapdFlow *f = flow_of(s);
    coap_mid_t mid = coap_pdu_get_mid(pdu);
    bool confirmable = coap_pdu_get_type(pdu) == COAP_MESSAGE_CON;
    size_t size = 0;
    uint8_t *bytes = NULL;

    if (f && f->ready && !f->broken)
        bytes = coapd_wire_datagram(pdu, &size);
    coap_delete_pdu(pdu);
    if (!bytes)
        return COAP_INVALID_MID;
    if (!confirmable)
        transmit(f, bytes, size);
    else if (enqueue(f, bytes, size, mid) < 0)
        mid = COAP_INVALID_MID;
    free(bytes);
    return mid;
}

static void send_empty(CoapdFlow *f, unsigned type, unsigned mid)
{
    const uint8_t bytes[4] = {(uint8_t)(1u << 6 | type << 4), 0, (uint8_t)(mid >> 8), (uint8_t)mid};

    transmit(f, bytes, sizeof(bytes));
}

/* --- messages -----------------------------------------------------------------------------------
 */

/* `empty`: it says nothing but that. */
static void take_receipt(CoapdFlow *f, coap_mid_t mid, bool rejected, bool empty)
{
    CoapdSession *s = f->base.session;
    flow_message *m =
        list_empty(&f->messages) ? NULL : list_entry(f->messages.next, flow_message, node);

    if (m && m->mid == mid) {
        message_free(f, m);
        transmit_first(f);
    }
    if (rejected)
        coapd_observer_lost(s, mid, true);
    else
        coapd_observer_acknowledged(s, mid);
    if (rejected)
        coapd_upstream_failed(s, mid, true);
    else if (empty)
        coapd_upstream_acknowledged(s, mid);
}

static void take_response(CoapdFlow *f, const coap_pdu_t *p)
{
    const CoapdSession *s = f->base.session;
    bool awaited = coapd_take_response(f->base.session, p);

    if (!s->closed && coap_pdu_get_type(p) == COAP_MESSAGE_CON)
        send_empty(f, awaited ? COAP_MESSAGE_ACK : COAP_MESSAGE_RST, (unsigned)coap_pdu_get_mid(p));
}

static void take_message(CoapdFlow *f, const uint8_t *bytes, size_t size)
{
    coap_pdu_t *p;
    unsigned type, class, mid;

    if (size < 4 || bytes[0] >> 6 != 1)
        return;
    type = bytes[0] >> 4 & 3;
    class = bytes[1] >> 5;
    mid = (unsigned)bytes[2] << 8 | bytes[3];
    if (type == COAP_MESSAGE_ACK || type == COAP_MESSAGE_RST)
        take_receipt(f, (coap_mid_t)mid, type == COAP_MESSAGE_RST, bytes[1] == 0);
    if (type == COAP_MESSAGE_RST || (type == COAP_MESSAGE_ACK && class < 2))
        return;
    p = coapd_wire_parse(COAP_PROTO_UDP, bytes, size);
    if (p && class == 0 && bytes[1] != 0)
        coapd_take_request(f->base.session, p);
    else if (p && class >= 2)
        take_response(f, p);
    else if (type == COAP_MESSAGE_CON) /* a ping, a broken message */
        send_empty(f, COAP_MESSAGE_RST, mid);
    coap_delete_pdu(p);
}

/* --- what comes in ------------------------------------------------------------------------------
 */

static void on_ready(CoapdFlow *f)
{
    f->ready = true;
    coapd_secrets_identify(&f->base);
    coapd_connection_established(&f->base);
    f->moved = timer_now();
    start_timer(f, TIMERS_REQUEST, timer_now() + f->base.coapd->settings->idle);
}

/* The handshake's own repetition; its clock may jump, the deadline's does not. */
static void await(CoapdFlow *f)
{
    uint64_t now = timer_now(), wait = f->deadline > now ? f->deadline - now : 0;
    struct timeval left;

    if (DTLSv1_get_timeout(f->base.ssl, &left) == 1)
        wait = MIN_OF(wait, (uint64_t)left.tv_sec * 1000000u + (uint64_t)left.tv_usec + 1000u);
    start_timer(f, TIMERS_SHORT, now + wait);
}

static bool is_over(const SSL *ssl, int r)
{
    int e = SSL_get_error(ssl, r);

    ERR_clear_error();
    return e != SSL_ERROR_WANT_READ && e != SSL_ERROR_WANT_WRITE;
}

/* The flow may be gone afterwards. */
static void feed(CoapdFlow *f, const uint8_t *bytes, size_t size)
{
    CoapdSession *s = f->base.session;
    uint8_t text[2 * MTU];
    int r = 1;

    coapd_session_hold(s);
    f->way.in = bytes;
    f->way.in_size = size;
    if (!f->ready) {
        r = SSL_accept(f->base.ssl);
        if (r == 1)
            on_ready(f);
        else if (is_over(f->base.ssl, r))
            break_off(f);
        else
            await(f);
    }
    while (!s->closed && f->ready && !f->broken) {
        r = SSL_read(f->base.ssl, text, sizeof(text));
        if (r <= 0) {
            if (is_over(f->base.ssl, r))
                break_off(f);
            break;
        }
        f->moved = timer_now();
        take_message(f, text, (size_t)r);
    }
    OPENSSL_cleanse(text, sizeof(text));
    if (!s->closed)
        f->way.in = NULL;
    coapd_session_release(s);
}

static void on_timer(endpoint_timer *t)
{
    CoapdFlow *f = list_entry(t, CoapdFlow, timer);
    CoapdSession *s = f->base.session;
    uint64_t now = timer_now(), idle = f->base.coapd->settings->idle;

    if (f->broken || (!f->ready && now >= f->deadline)) {
        coapd_session_close(s);
    } else if (!f->ready) {
        if (DTLSv1_handle_timeout(f->base.ssl) < 0)
            break_off(f);
        else
            await(f);
        ERR_clear_error();
    } else if (coapd_session_is_idle(s) && now - f->moved >= idle) {
        coapd_session_close(s);
    } else {
        start_timer(f, TIMERS_REQUEST, MAX_OF(f->moved + idle, now + 1000000u));
    }
}

/* --- hello --------------------------------------------------------------------------------------
 */

static int on_cookie_make(SSL *ssl, unsigned char *cookie, unsigned *size)
{
    const CoapdConnection *c = SSL_get_app_data(ssl);
    const flow_way *w = BIO_get_data(SSL_get_rbio(ssl));

    coapd_cookie_make(c->coapd, &w->remote, timer_now() / 60000000u, cookie);
    *size = COAPD_COOKIE_SIZE;
    return 1;
}

static int on_cookie_check(SSL *ssl, const unsigned char *cookie, unsigned size)
{
    const CoapdConnection *c = SSL_get_app_data(ssl);
    const flow_way *w = BIO_get_data(SSL_get_rbio(ssl));

    return coapd_cookie_good(c->coapd, &w->remote, cookie, size);
}

static const coapd_road dtls_road = {
    .protocol = "coaps", .encrypted = true, .send = flow_send, .close = flow_close};

static int renew(struct CoapdHello *h)
{
    SSL_CTX *context;

    h->base.ssl = ssl_new(h->base.coapd, &h->way, &h->base);
    if (!h->base.ssl)
        return -ENOMEM;
    context = SSL_get_SSL_CTX(h->base.ssl);
    SSL_CTX_set_cookie_generate_cb(context, on_cookie_make);
    SSL_CTX_set_cookie_verify_cb(context, on_cookie_check);
    return 0;
}

/* The far end is there: the library's state becomes a flow of its own. */
static void begin(struct CoapdHello *h)
{
    Coapd *d = h->base.coapd;
    CoapdFlow *f = coapd_connection_admit(d, &h->way.remote) ? calloc(1, sizeof(*f)) : NULL;

    if (!f || coapd_connection_begin(&f->base, d, &dtls_road, &h->way.remote, &h->way.local) < 0) {
        d->counters.connections_refused++;
        free(f);
        return;
    }
    f->base.ssl = TAKE_PTR(h->base.ssl);
    f->way = h->way;
    BIO_set_data(SSL_get_rbio(f->base.ssl), &f->way);
    SSL_set_app_data(f->base.ssl, &f->base);
    list_init(&f->messages);
    list_init(&f->timer.node);
    list_init(&f->resend.node);
    f->timer.fire = on_timer;
    f->resend.fire = on_resend;
    f->deadline = timer_now() + d->settings->handshake;
    start_timer(f, TIMERS_SHORT, f->deadline);
    feed(f, f->way.in, f->way.in_size);
}

static void find_flow(CoapdSession *s, void *userdata)
{
    CoapdFlow **found = userdata;

    if (s->road == &dtls_road && !s->closed)
        *found = flow_of(s);
}

static void take_hello(CoapdListener *l, CoapdFlow *old)
{
    struct CoapdHello *h = l->hello;
    int r;

    if (!h->base.ssl && renew(h) < 0)
        return;
    r = DTLSv1_listen(h->base.ssl, h->address);
    ERR_clear_error();
    if (r != 1)
        return;
    if (old) { /* its client has begun anew, and has shown that it is there (4.2.8) */
        old->broken = true;
        coapd_session_close(old->base.session);
    }
    begin(h);
}

static bool is_hello(const uint8_t *bytes, size_t size, unsigned *ret_number)
{
    if (size < HELLO_HEAD || bytes[0] != RECORD_HANDSHAKE || bytes[3] || bytes[4] || bytes[13] != 1)
        return false;
    *ret_number = (unsigned)bytes[17] << 8 | bytes[18];
    return true;
}

static void take_datagram(CoapdListener *l, const uint8_t *bytes, size_t size)
{
    flow_way *w = &l->hello->way;
    CoapdFlow *f = NULL;
    unsigned number = 0;

    coapd_session_each_of(l->coapd, &w->remote.sa, find_flow, &f);
    if (is_hello(bytes, size, &number) && (!f || f->ready || number == 0)) {
        w->in = bytes;
        w->in_size = size;
        w->peek = false;
        take_hello(l, f);
        w->in = NULL;
    } else if (f) {
        f->way.info = w->info;
        feed(f, bytes, size);
    }
}

static void take_info(flow_way *w, struct msghdr *m, const CoapdListener *l)
{
    w->local = l->bound;
    memset(&w->info, 0, sizeof(w->info));
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
            memcpy(&w->info.four, CMSG_DATA(c), sizeof(w->info.four));
            w->local.in.sin_addr = w->info.four.ipi_addr;
            w->info.four.ipi_spec_dst = w->info.four.ipi_addr;
            w->info.four.ipi_ifindex = 0;
        } else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
            memcpy(&w->info.six, CMSG_DATA(c), sizeof(w->info.six));
            w->local.in6.sin6_addr = w->info.six.ipi6_addr;
        }
    }
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    CoapdListener *l = userdata;
    flow_way *w = &l->hello->way;
    uint8_t bytes[2048];

    for (int i = 0; i < DATAGRAMS_PER_TURN; i++) {
        _Alignas(struct cmsghdr) char control[128];
        struct iovec part = {.iov_base = bytes, .iov_len = sizeof(bytes)};
        struct msghdr m = {.msg_name = &w->remote.sa,
                           .msg_namelen = sizeof(w->remote),
                           .msg_iov = &part,
                           .msg_iovlen = 1,
                           .msg_control = control,
                           .msg_controllen = sizeof(control)};
        ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);

        if (n < 0)
            break;
        take_info(w, &m, l);
        if (n > 0 && !(m.msg_flags & MSG_TRUNC))
            take_datagram(l, bytes, (size_t)n);
    }
    return 0;
}

/* --- listening ----------------------------------------------------------------------------------
 */

void coapd_flow_unlisten(CoapdListener *l)
{
    struct CoapdHello *h = TAKE_PTR(l->hello);

    if (!h)
        return;
    SSL_free(h->base.ssl);
    BIO_ADDR_free(h->address);
    free(h);
}

static int open_socket(CoapdListener *l)
{
    int one = 1, fd = socket(l->bound.sa.sa_family, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    bool six = l->bound.sa.sa_family == AF_INET6;

    if (fd < 0)
        return -errno;
    if (six)
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    if (setsockopt(fd, six ? IPPROTO_IPV6 : IPPROTO_IP, six ? IPV6_RECVPKTINFO : IP_PKTINFO, &one,
                   sizeof(one)) < 0 ||
        bind(fd, &l->bound.sa, endpoint_address_size(&l->bound)) < 0) {
        int r = -errno;
        safe_close(fd);
        return r;
    }
    return fd;
}

int coapd_flow_listen(Coapd *d, CoapdListener *l)
{
    struct CoapdHello *h = calloc(1, sizeof(*h));
    int r;

    if (!h)
        return -ENOMEM;
    l->hello = h;
    h->base.coapd = d;
    h->address = BIO_ADDR_new();
    l->fd = open_socket(l);
    h->way.fd = l->fd;
    r = l->fd < 0 ? l->fd : h->address ? 0 : -ENOMEM;
    if (r >= 0)
        r = sd_event_add_io(d->event, &l->io, l->fd, EPOLLIN, on_io, l);
    if (r < 0) {
        coapd_flow_unlisten(l);
        if (l->fd >= 0)
            safe_close(l->fd);
        l->fd = -1;
    }
    return r;
}
