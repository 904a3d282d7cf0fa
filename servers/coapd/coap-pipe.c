/* SPDX-License-Identifier: Apache-2.0 */
/* CoAP over TCP and TLS (RFC 8323). What a client does not take is bounded: beyond a high mark it
 * is not read from any more, and its observers wait with the newest value. */

#include "coap-connection.h"
#include "coap-node.h"
#include "coap-wire.h"

#include <fcntl.h>
#include <hybus/log.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <sys/epoll.h>

#define READ_SIZE 16384u            /* of a TLS record: nothing stays in the library then */
#define OUT_HIGH (64u * 1024u)      /* nothing is read then */
#define OUT_MAX (512u * 1024u)      /* the end: 16 requests and 16 observers do not get there */
#define STALL_USEC (60u * 1000000u) /* nothing was taken for so long */
#define ACCEPTS_PER_TURN 16

typedef struct CoapdPipe {
    CoapdConnection base;
    int fd;
    sd_event_source *io;
    endpoint_timer timer; /* handshake, idling, stalling; or the end */
    bool ready;           /* TCP, or the handshake is over */
    bool greeted;         /* its CSM has come */
    bool leaving;         /* what is written goes out, nothing is read */
    bool broken;
    uint64_t moved; /* something was read or written */
    uint8_t *in, *out;
    size_t in_size, in_room, out_at, out_size, out_room;
} CoapdPipe;

static CoapdPipe *pipe_of(const CoapdSession *s)
{
    return s->below;
}

/* --- the end ------------------------------------------------------------------------------------
 */

static void pipe_close(CoapdSession *s)
{
    CoapdPipe *p = pipe_of(s);

    if (p->base.ssl && p->ready && !p->broken)
        (void)SSL_shutdown(p->base.ssl);
    ERR_clear_error();
    timer_stop(&p->timer);
    sd_event_source_disable_unref(p->io);
    coapd_connection_done(&p->base);
    safe_close(p->fd);
    free(p->in);
    free(p->out);
    free(p);
}

static void start_timer(CoapdPipe *p, uint64_t when)
{
    timer_start(&p->base.coapd->timers, TIMERS_REQUEST, &p->timer, when);
}

/* Not at once: whoever sends is in the middle of something. */
static void break_off(CoapdPipe *p)
{
    p->broken = true;
    timer_start(&p->base.coapd->timers, TIMERS_SHORT, &p->timer, timer_now());
}

static bool is_full(const CoapdSession *s)
{
    const CoapdPipe *p = pipe_of(s);

    return p && p->out_size > OUT_HIGH;
}

/* --- writing ------------------------------------------------------------------------------------
 */

/* >0: bytes; 0: not now; <0: the end. */
static ssize_t write_some(CoapdPipe *p, const uint8_t *data, size_t size)
{
    ssize_t n;

    if (!p->base.ssl) {
        n = send(p->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
        return n >= 0 ? n : errno == EAGAIN || errno == EINTR ? 0 : -errno;
    }
    n = SSL_write(p->base.ssl, data, (int)MIN_OF(size, (size_t)INT_MAX));
    if (n > 0)
        return n;
    n = SSL_get_error(p->base.ssl, (int)n);
    ERR_clear_error();
    return n == SSL_ERROR_WANT_WRITE || n == SSL_ERROR_WANT_READ ? 0 : -EPIPE;
}

static void want(CoapdPipe *p)
{
    uint32_t events = p->out_size > 0 ? EPOLLOUT : 0;

    if (!p->leaving && p->out_size <= OUT_HIGH)
        events |= EPOLLIN;
    (void)sd_event_source_set_io_events(p->io, events);
}

static void write_out(CoapdPipe *p)
{
    while (p->out_size > 0 && !p->broken) {
        ssize_t n = write_some(p, p->out + p->out_at, p->out_size);

        if (n < 0)
            break_off(p);
        if (n <= 0)
            break;
        p->moved = timer_now();
        p->out_at += (size_t)n;
        p->out_size -= (size_t)n;
    }
    if (p->out_size == 0) {
        free(TAKE_PTR(p->out));
        p->out_at = p->out_room = 0;
    }
    want(p);
}

static int keep(CoapdPipe *p, const uint8_t *data, size_t size)
{
    uint8_t *bytes;
    size_t room;

    if (p->out_size + size > OUT_MAX)
        return -ENOBUFS;
    if (p->out_at + p->out_size + size > p->out_room) {
        if (p->out_at > 0)
            memmove(p->out, p->out + p->out_at, p->out_size);
        p->out_at = 0;
        room = MIN_OF(2 * p->out_room, (size_t)OUT_MAX);
        room = MAX_OF(p->out_size + size, room);
        if (room > p->out_room) {
            bytes = realloc(p->out, room);
            if (!bytes)
                return -ENOMEM;
            p->out = bytes;
            p->out_room = room;
        }
    }
    memcpy(p->out + p->out_at + p->out_size, data, size);
    p->out_size += size;
    return 0;
}

/* What one turn produces goes out together, when the turn is over or the buffer is full. */
static coap_mid_t pipe_send(CoapdSession *s, coap_pdu_t *pdu)
{
    CoapdPipe *p = pipe_of(s);
    coap_mid_t mid = coap_pdu_get_mid(pdu);
    size_t size = 0;
    uint8_t *bytes = NULL;

    if (p && p->ready && !p->broken)
        bytes = coapd_wire_stream(pdu, &size);
    coap_delete_pdu(pdu);
    if (!bytes)
        return COAP_INVALID_MID;
    if (keep(p, bytes, size) < 0) {
        break_off(p);
        mid = COAP_INVALID_MID;
    } else {
        want(p);
    }
    free(bytes);
    return mid;
}

static void send_signal(CoapdPipe *p, coap_pdu_t *pdu)
{
    if (pdu)
        (void)pipe_send(p->base.session, pdu);
}

/* Says why, and goes when that is out. */
static void leave(CoapdPipe *p, coap_pdu_t *last)
{
    if (p->leaving)
        return;
    send_signal(p, last);
    p->leaving = true;
    start_timer(p, timer_now() + 1000000u);
    want(p);
}

static void abort_pipe(CoapdPipe *p, const char *why, uint16_t bad_option)
{
    p->base.coapd->counters.aborts++;
    leave(p, coapd_signal_abort(why, bad_option));
}

/* --- messages -----------------------------------------------------------------------------------
 */

static void take_csm(CoapdPipe *p, const coapd_signal *g)
{
    uint64_t most = MIN_OF(g->message_max, (uint64_t)COAPD_STREAM_MAX);

    if (most > 0)
        p->base.session->message_max = (size_t)MAX_OF(most, (uint64_t)64);
    p->greeted = true;
}

static bool has_answered_all(const CoapdSession *s)
{
    list_for_each(n, &s->exchanges) if (list_entry(n, CoapdExchange, node)->waiting) return false;
    return true;
}

static void take_signal(CoapdPipe *p, const coap_pdu_t *pdu)
{
    coap_pdu_code_t code = coap_pdu_get_code(pdu);
    coapd_signal g;

    coapd_signal_parse(pdu, &g);
    if (g.bad_option) {
        abort_pipe(p, "", g.bad_option);
    } else if (code == COAP_SIGNALING_CODE_CSM) {
        take_csm(p, &g);
    } else if (code == COAP_SIGNALING_CODE_PING) {
        send_signal(p, coapd_signal_pong(pdu, g.custody && has_answered_all(p->base.session)));
    } else if (code == COAP_SIGNALING_CODE_ABORT || code == COAP_SIGNALING_CODE_RELEASE) {
        /* What it still waits for is answered before it goes (5.5); its end of the stream says so.
         */
        if (code == COAP_SIGNALING_CODE_ABORT || has_answered_all(p->base.session))
            leave(p, NULL);
    } else if (code != COAP_SIGNALING_CODE_PONG) {
        abort_pipe(p, "unknown signal", 0);
    }
}

static void take_pdu(CoapdPipe *p, const coap_pdu_t *pdu)
{
    coap_pdu_code_t code = coap_pdu_get_code(pdu);
    unsigned class = COAP_RESPONSE_CLASS(code);

    if (code == 0)
        return; /* "is ignored" (3.4) */
    if (!p->greeted && code != COAP_SIGNALING_CODE_CSM && class != 7) {
        abort_pipe(p, "the first message is a CSM", 0);
        return;
    }
    if (class == 7)
        take_signal(p, pdu);
    else if (class == 0)
        coapd_take_request(p->base.session, pdu);
    else
        (void)coapd_take_response(p->base.session, pdu);
}

/* One message out of what has been read. False: there is none, or the end has come. */
static bool take_message(CoapdPipe *p, size_t *at)
{
    ssize_t size = coapd_stream_size(p->in + *at, p->in_size - *at, COAPD_STREAM_MAX);
    coap_pdu_t *pdu;

    if (size < 0) {
        abort_pipe(p, size == -EMSGSIZE ? "larger than Max-Message-Size" : "not a message", 0);
        return false;
    }
    if (size == 0 || (size_t)size > p->in_size - *at)
        return false;
    pdu = coapd_wire_parse(COAP_PROTO_TCP, p->in + *at, (size_t)size);
    *at += (size_t)size;
    if (!pdu) {
        abort_pipe(p, "not a message", 0);
        return false;
    }
    take_pdu(p, pdu);
    coap_delete_pdu(pdu);
    return true;
}

static void take_messages(CoapdPipe *p)
{
    const CoapdSession *s = p->base.session;
    size_t at = 0;

    /* When the session is closed the pipe is gone. */
    while (!s->closed && !p->leaving && !p->broken && p->out_size <= OUT_HIGH &&
           take_message(p, &at))
        ;
    if (s->closed)
        return;
    if (p->greeted)
        coapd_connection_established(&p->base);
    memmove(p->in, p->in + at, p->in_size - at);
    p->in_size -= at;
    if (p->in_size == 0) {
        free(TAKE_PTR(p->in));
        p->in_room = 0;
    }
}

/* --- reading ------------------------------------------------------------------------------------
 */

/* >0: bytes; 0: not now; <0: the end. */
static ssize_t read_some(CoapdPipe *p, uint8_t *data, size_t size)
{
    ssize_t n;

    if (!p->base.ssl) {
        n = recv(p->fd, data, size, MSG_DONTWAIT);
        return n > 0 ? n : n < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : -ECONNRESET;
    }
    n = SSL_read(p->base.ssl, data, (int)size);
    if (n > 0)
        return n;
    n = SSL_get_error(p->base.ssl, (int)n);
    ERR_clear_error();
    return n == SSL_ERROR_WANT_READ || n == SSL_ERROR_WANT_WRITE ? 0 : -ECONNRESET;
}

static void read_in(CoapdPipe *p)
{
    uint8_t *bytes;
    ssize_t n;

    if (p->in_size + READ_SIZE > p->in_room) {
        bytes = realloc(p->in, p->in_size + READ_SIZE);
        if (!bytes) {
            break_off(p);
            return;
        }
        p->in = bytes;
        p->in_room = p->in_size + READ_SIZE;
    }
    n = read_some(p, p->in + p->in_size, READ_SIZE);
    if (n < 0) {
        break_off(p);
    } else if (n > 0) {
        p->moved = timer_now();
        p->in_size += (size_t)n;
    }
}

/* --- the handshake ------------------------------------------------------------------------------
 */

static void on_ready(CoapdPipe *p)
{
    p->ready = true;
    if (p->base.ssl)
        coapd_secrets_identify(&p->base);
    send_signal(p, coapd_signal_csm());
}

static void shake(CoapdPipe *p)
{
    int r = SSL_accept(p->base.ssl), e;

    if (r == 1) {
        on_ready(p);
        return;
    }
    e = SSL_get_error(p->base.ssl, r);
    ERR_clear_error();
    if (e == SSL_ERROR_WANT_WRITE)
        (void)sd_event_source_set_io_events(p->io, EPOLLIN | EPOLLOUT);
    else if (e == SSL_ERROR_WANT_READ)
        (void)sd_event_source_set_io_events(p->io, EPOLLIN);
    else
        break_off(p);
}

/* --- the loop -----------------------------------------------------------------------------------
 */

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    CoapdPipe *p = userdata;
    CoapdSession *s = p->base.session;
    bool was_full = p->out_size > OUT_HIGH;

    coapd_session_hold(s);
    if (!p->ready) {
        shake(p);
    } else {
        if (revents & EPOLLOUT)
            write_out(p);
        if (was_full && p->out_size <= OUT_HIGH) {
            take_messages(p); /* what had been read before */
            if (!s->closed)
                coapd_observers_flush(s);
        }
        if (!s->closed && !p->leaving && !p->broken &&
            (revents & (EPOLLIN | EPOLLHUP | EPOLLERR)) && p->out_size <= OUT_HIGH) {
            read_in(p);
            if (!p->broken)
                take_messages(p);
        }
        if (!s->closed)
            write_out(p);
        if (!s->closed && (revents & (EPOLLHUP | EPOLLERR)) && p->out_size > OUT_HIGH)
            break_off(p);
    }
    if (!s->closed && (p->broken || (p->leaving && p->out_size == 0)))
        coapd_session_close(s);
    coapd_session_release(s);
    return 0;
}

static bool is_idle(const CoapdPipe *p)
{
    const CoapdSession *s = p->base.session;

    return coapd_session_is_idle(s);
}

static void on_timer(endpoint_timer *t)
{
    CoapdPipe *p = list_entry(t, CoapdPipe, timer);
    const coapd_settings *settings = p->base.coapd->settings;
    uint64_t now = timer_now(), allowed = is_idle(p) ? settings->idle : STALL_USEC;

    if (p->broken || p->leaving || p->base.handshaking) {
        coapd_session_close(p->base.session);
        return;
    }
    if (p->out_size > 0 && now - p->moved >= STALL_USEC) {
        coapd_session_close(p->base.session);
    } else if (is_idle(p) && now - p->moved >= allowed) {
        leave(p, coapd_signal_release());
    } else {
        start_timer(p, MAX_OF(p->moved + allowed, now + 1000000u));
    }
}

/* --- arriving -----------------------------------------------------------------------------------
 */

static const coapd_road tcp_road = {.protocol = "coap+tcp",
                                    .reliable = true,
                                    .send = pipe_send,
                                    .full = is_full,
                                    .close = pipe_close};
static const coapd_road tls_road = {.protocol = "coaps+tcp",
                                    .reliable = true,
                                    .encrypted = true,
                                    .send = pipe_send,
                                    .full = is_full,
                                    .close = pipe_close};

/* A client that has lost its power is noticed. */
static void set_options(int fd)
{
    static const struct {
        int level, name, value;
    } options[] = {{IPPROTO_TCP, TCP_NODELAY, 1},
                   {SOL_SOCKET, SO_KEEPALIVE, 1},
                   {IPPROTO_TCP, TCP_KEEPIDLE, 60},
                   {IPPROTO_TCP, TCP_KEEPINTVL, 20},
                   {IPPROTO_TCP, TCP_KEEPCNT, 3}};

    for (size_t i = 0; i < ELEMENTS(options); i++)
        (void)setsockopt(fd, options[i].level, options[i].name, &options[i].value, sizeof(int));
}

static int begin(Coapd *d, const CoapdListener *l, int fd, const endpoint_address *remote)
{
    CoapdPipe *p = calloc(1, sizeof(*p));
    endpoint_address local = l->bound;
    socklen_t size = sizeof(local);
    bool tls = l->kind == COAPD_DOOR_TLS;

    if (!p)
        return -ENOMEM;
    (void)getsockname(fd, &local.sa, &size);
    p->base.ssl = tls ? coapd_secrets_server(d, false) : NULL;
    if ((tls && (!p->base.ssl || SSL_set_fd(p->base.ssl, fd) != 1)) ||
        coapd_connection_begin(&p->base, d, tls ? &tls_road : &tcp_road, remote, &local) < 0) {
        SSL_free(p->base.ssl);
        free(p);
        return -ENOMEM;
    }
    if (tls)
        SSL_set_app_data(p->base.ssl, &p->base);
    p->fd = fd;
    p->moved = timer_now();
    p->base.session->message_max = COAPD_STREAM_DEFAULT;
    list_init(&p->timer.node);
    p->timer.fire = on_timer;
    set_options(fd);
    start_timer(p, timer_now() + d->settings->handshake);
    if (sd_event_add_io(d->event, &p->io, fd, EPOLLIN, on_io, p) < 0) {
        coapd_session_close(p->base.session);
        return 0;
    }
    if (!tls)
        on_ready(p);
    return 0;
}

static int on_accept(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    CoapdListener *l = userdata;
    Coapd *d = l->coapd;

    for (int i = 0; i < ACCEPTS_PER_TURN; i++) {
        endpoint_address remote = {};
        socklen_t size = sizeof(remote);
        int one = accept4(fd, &remote.sa, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (one < 0)
            break;
        if (!coapd_connection_admit(d, &remote) || begin(d, l, one, &remote) < 0) {
            d->counters.connections_refused++;
            safe_close(one);
        }
    }
    return 0;
}

int coapd_pipe_listen(Coapd *d, CoapdListener *l)
{
    int one = 1, r;

    l->fd = socket(l->bound.sa.sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0)
        return -errno;
    (void)setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (l->bound.sa.sa_family == AF_INET6)
        (void)setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one));
    if (bind(l->fd, &l->bound.sa, endpoint_address_size(&l->bound)) < 0 || listen(l->fd, 128) < 0)
        r = -errno;
    else
        r = sd_event_add_io(d->event, &l->io, l->fd, EPOLLIN, on_accept, l);
    if (r < 0) {
        safe_close(l->fd);
        l->fd = -1;
    }
    return r;
}
