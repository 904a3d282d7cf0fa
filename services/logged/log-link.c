/* SPDX-License-Identifier: Apache-2.0 */
#include "log-link.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define KEEPALIVE_SECONDS 60

/* Shared with the thread that looks a name up, which cannot be stopped. */
typedef struct lookup {
    _Atomic unsigned refs;
    int fd; /* written to when there is a result */
    int error;
    struct addrinfo *result;
    char *host, *port;
} lookup;

struct log_link {
    sd_event *event;
    log_sink *sink;
    char *host, *port, *name, *authority, *certificate, *key;
    lookup *lookup;
    int lookup_fd, fd;
    struct addrinfo *next; /* address to try */
    SSL_CTX *context;
    SSL *tls;
    BIO *wire;
    sd_event_source *found, *io, *deadline;
    bool connected, known; /* the connection; the server */
    uint64_t turn;         /* changes with each open and close: a callback may do either */
    char why[256];
};

static void lookup_unref(lookup *k)
{
    if (!k || --k->refs > 0)
        return;
    if (k->result)
        freeaddrinfo(k->result);
    safe_close(k->fd);
    free(k->host);
    free(k->port);
    free(k);
}

/* --- why it does not work
 * --------------------------------------------------------------------------- */

static const char *tls_reason(log_link *l, const char *what)
{
    unsigned long e = ERR_peek_last_error();
    long verified = l->tls ? SSL_get_verify_result(l->tls) : X509_V_OK;

    if (verified != X509_V_OK)
        snprintf(l->why, sizeof(l->why), "%s: %s", what, X509_verify_cert_error_string(verified));
    else
        snprintf(l->why, sizeof(l->why), "%s: %s", what,
                 e ? strempty(ERR_reason_error_string(e)) : "it has hung up");
    ERR_clear_error();
    return l->why;
}

static void lost(log_link *l, int error, const char *why)
{
    log_sink_lost(l->sink, error, why);
}

/* --- closing
 * ---------------------------------------------------------------------------------------- */

static void close_socket(log_link *l)
{
    sd_event_source_disable_unref(l->io);
    l->io = NULL;
    if (l->tls && l->known)
        (void)SSL_shutdown(l->tls);
    SSL_free(l->tls);
    ERR_clear_error();
    l->tls = NULL;
    l->wire = NULL;
    l->fd = safe_close(l->fd);
    l->connected = l->known = false;
}

static void link_close(void *userdata)
{
    log_link *l = userdata;

    l->turn++;
    close_socket(l);
    SSL_CTX_free(l->context);
    l->context = NULL;
    sd_event_source_disable_unref(l->found);
    l->found = NULL;
    (void)sd_event_source_set_enabled(l->deadline, SD_EVENT_OFF);
    l->next = NULL;
    lookup_unref(l->lookup);
    l->lookup = NULL;
    l->lookup_fd = safe_close(l->lookup_fd);
}

/* --- TLS
 * -------------------------------------------------------------------------------------------- */

static int on_io(sd_event_source *s, int fd, uint32_t events, void *userdata);

/* Read anew for each connection: certificates are renewed. */
static int make_context(log_link *l)
{
    const char *what = NULL;

    l->context = SSL_CTX_new(TLS_client_method());
    if (!l->context)
        return -ENOMEM;
    SSL_CTX_set_min_proto_version(l->context, TLS1_2_VERSION);
    SSL_CTX_set_verify(l->context, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_mode(l->context, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    /* What the sink sends goes out at once, and nothing is worth keeping for the next connection. */
    SSL_CTX_set_session_cache_mode(l->context, SSL_SESS_CACHE_OFF);
    if (SSL_CTX_load_verify_locations(l->context, l->authority, NULL) != 1)
        what = "Authority= cannot be used";
    else if (l->certificate &&
             SSL_CTX_use_certificate_chain_file(l->context, l->certificate) != 1)
        what = "Certificate= cannot be used";
    else if (l->certificate &&
             (SSL_CTX_use_PrivateKey_file(l->context, l->key, SSL_FILETYPE_PEM) != 1 ||
              SSL_CTX_check_private_key(l->context) != 1))
        what = "Key= cannot be used";
    if (!what)
        return 0;
    (void)tls_reason(l, what);
    return -EKEYREJECTED;
}

static int begin_tls(log_link *l)
{
    struct in6_addr address;
    bool numeric = inet_pton(AF_INET, l->name, &address) == 1 ||
                   inet_pton(AF_INET6, l->name, &address) == 1;
    bool good;

    l->tls = SSL_new(l->context);
    if (!l->tls || SSL_set_fd(l->tls, l->fd) != 1)
        return -ENOMEM;
    l->wire = SSL_get_wbio(l->tls);
    if (numeric)
        good = X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(l->tls), l->name) == 1;
    else {
        SSL_set_hostflags(l->tls, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
        good = SSL_set1_host(l->tls, l->name) == 1 && SSL_set_tlsext_host_name(l->tls, l->name) == 1;
    }
    SSL_set_connect_state(l->tls);
    return good ? 0 : -EINVAL;
}

static int want(log_link *l, int tls_error)
{
    return sd_event_source_set_io_events(l->io, tls_error == SSL_ERROR_WANT_WRITE
                                                    ? EPOLLIN | EPOLLOUT
                                                    : EPOLLIN);
}

static void shake_hands(log_link *l)
{
    int r, e;

    ERR_clear_error();
    r = SSL_do_handshake(l->tls);
    if (r == 1) {
        l->known = true;
        (void)sd_event_source_set_enabled(l->deadline, SD_EVENT_OFF);
        (void)want(l, SSL_ERROR_WANT_READ);
        log_sink_opened(l->sink);
        return;
    }
    e = SSL_get_error(l->tls, r);
    if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE)
        (void)want(l, e);
    else
        lost(l, -ECONNABORTED, tls_reason(l, "TLS with the server fails"));
}

/* --- connecting
 * ------------------------------------------------------------------------------------- */

static int connect_to(log_link *l, const struct addrinfo *a)
{
    const int on = 1, seconds = KEEPALIVE_SECONDS, buffer = LOG_LINK_SEND_BUFFER;
    const unsigned dead = LOG_LINK_DEAD_MSEC;
    int r;

    l->fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);
    if (l->fd < 0)
        return -errno;
    (void)setsockopt(l->fd, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
    (void)setsockopt(l->fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(l->fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof(seconds));
    (void)setsockopt(l->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(l->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead, sizeof(dead));
    if (connect(l->fd, a->ai_addr, a->ai_addrlen) < 0 && errno != EINPROGRESS)
        return -errno;
    r = sd_event_add_io(l->event, &l->io, l->fd, EPOLLOUT, on_io, l);
    return r < 0 ? r : begin_tls(l);
}

/* The next address that can be tried. */
static void connect_next(log_link *l, int error)
{
    while (l->next) {
        const struct addrinfo *a = l->next;
        l->next = l->next->ai_next;
        close_socket(l);
        error = connect_to(l, a);
        if (error >= 0)
            return;
    }
    snprintf(l->why, sizeof(l->why), "%s port %s: %s", l->host, l->port, strerror(-error));
    lost(l, error, l->why);
}

static int on_found(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
    log_link *l = userdata;

    sd_event_source_disable_unref(l->found);
    l->found = NULL;
    if (l->lookup->error != 0) {
        snprintf(l->why, sizeof(l->why), "%s: %s", l->host, gai_strerror(l->lookup->error));
        lost(l, -EADDRNOTAVAIL, l->why);
        return 0;
    }
    l->next = l->lookup->result;
    connect_next(l, -EADDRNOTAVAIL);
    return 0;
}

static void *look_up(void *userdata)
{
    const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_protocol = IPPROTO_TCP};
    lookup *k = userdata;

    k->error = getaddrinfo(k->host, k->port, &hints, &k->result);
    k->fd = safe_close(k->fd); /* the other end sees it */
    lookup_unref(k);
    return NULL;
}

static int begin_lookup(log_link *l)
{
    pthread_attr_t attributes;
    pthread_t thread;
    int fds[2], r;

    l->lookup = calloc(1, sizeof(*l->lookup));
    if (!l->lookup)
        return -ENOMEM;
    l->lookup->refs = 1;
    l->lookup->fd = -1;
    l->lookup->host = strdup(l->host);
    l->lookup->port = strdup(l->port);
    if (!l->lookup->host || !l->lookup->port)
        return -ENOMEM;
    if (pipe2(fds, O_CLOEXEC) < 0)
        return -errno;
    l->lookup_fd = fds[0];
    l->lookup->fd = fds[1];
    r = sd_event_add_io(l->event, &l->found, fds[0], EPOLLIN, on_found, l);
    if (r < 0)
        return r;
    l->lookup->refs++;
    (void)pthread_attr_init(&attributes);
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    r = -pthread_create(&thread, &attributes, look_up, l->lookup);
    (void)pthread_attr_destroy(&attributes);
    if (r < 0)
        l->lookup->refs--;
    return r;
}

/* The unit is closed unless somebody has opened it. Without this the reason would be that a name is not found. */
static bool has_network(void)
{
    _cleanup_(closep) int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    return fd >= 0 || errno != EAFNOSUPPORT;
}

static int link_open(void *userdata)
{
    log_link *l = userdata;
    int r;

    l->turn++;
    if (!has_network()) {
        lost(l, -EAFNOSUPPORT, LOG_LINK_NO_NETWORK);
        return 0;
    }
    r = make_context(l);
    if (r == -EKEYREJECTED) {
        lost(l, r, l->why);
        return 0;
    }
    if (r >= 0)
        r = sd_event_source_set_time_relative(l->deadline, LOG_LINK_OPEN_USEC);
    if (r >= 0)
        r = sd_event_source_set_enabled(l->deadline, SD_EVENT_ONESHOT);
    return r < 0 ? r : begin_lookup(l);
}

static int on_deadline(sd_event_source *s, uint64_t usec, void *userdata)
{
    lost(userdata, -ETIMEDOUT, "No connection in 30 seconds");
    return 0;
}

/* --- when it is up
 * ---------------------------------------------------------------------------------- */

static void read_all(log_link *l)
{
    uint64_t turn = l->turn;
    char buffer[4096];
    int n, e;

    for (;;) {
        ERR_clear_error();
        n = SSL_read(l->tls, buffer, sizeof(buffer));
        if (n > 0) {
            log_sink_received(l->sink, buffer, (size_t)n);
            if (l->turn != turn)
                return;
            continue;
        }
        e = SSL_get_error(l->tls, n);
        if (e == SSL_ERROR_WANT_READ || e == SSL_ERROR_WANT_WRITE)
            return;
        if (e == SSL_ERROR_ZERO_RETURN)
            lost(l, 0, "The server has ended the connection");
        else if (e == SSL_ERROR_SYSCALL && errno != 0)
            lost(l, -errno, strerror(errno));
        else /* without close_notify: whoever cut it, it was not the server at its ease */
            lost(l, -ECONNRESET, tls_reason(l, "The connection has broken"));
        return;
    }
}

static int on_io(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
    log_link *l = userdata;
    uint64_t turn = l->turn;
    int error = 0;
    socklen_t size = sizeof(error);

    if (!l->connected) {
        if (getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &error, &size) < 0)
            error = errno;
        if (error != 0) {
            connect_next(l, -error);
            return 0;
        }
        l->connected = true;
    }
    if (!l->known) {
        shake_hands(l);
        return 0;
    }
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR))
        read_all(l);
    if (l->turn == turn) { /* what waited may have waited for reading, too */
        (void)want(l, SSL_ERROR_WANT_READ);
        log_sink_writable(l->sink);
    }
    return 0;
}

static int link_send(const void *data, size_t size, void *userdata)
{
    log_link *l = userdata;
    int n, e;

    if (!l->known)
        return -ENOTCONN;
    ERR_clear_error();
    n = SSL_write(l->tls, data, (int)size);
    if (n > 0)
        return 0;
    e = SSL_get_error(l->tls, n);
    if (e == SSL_ERROR_WANT_WRITE || e == SSL_ERROR_WANT_READ) {
        (void)want(l, e);
        return -EAGAIN;
    }
    return e == SSL_ERROR_SYSCALL && errno != 0 ? -errno : -ECONNRESET;
}

static uint64_t link_sent(void *userdata)
{
    log_link *l = userdata;

    return l->wire ? BIO_number_written(l->wire) : 0;
}

static uint64_t link_acknowledged(void *userdata)
{
    log_link *l = userdata;
    uint64_t sent = link_sent(l);
    int queued = 0;

    if (l->fd < 0 || ioctl(l->fd, SIOCOUTQ, &queued) < 0 || queued < 0)
        return 0;
    return sent > (uint64_t)queued ? sent - (uint64_t)queued : 0;
}

const log_sink_road log_link_road = {
    .open = link_open,
    .close = link_close,
    .send = link_send,
    .sent = link_sent,
    .acknowledged = link_acknowledged,
};

/* --- life
 * ------------------------------------------------------------------------------------------- */

int log_link_parse(const char *text, const char *default_port, char **ret_host, char **ret_port)
{
    _cleanup_(freep) char *host = NULL, *port = NULL;
    const char *end, *rest;

    if (text[0] == '[') {
        end = strchr(++text, ']');
        rest = end ? end + 1 : NULL;
    } else {
        end = rest = strchrnul(text, ':');
        if (*end && strchr(end + 1, ':'))
            return -EINVAL; /* an IPv6 address belongs into brackets */
    }
    if (!rest || end == text || (*rest && (*rest != ':' || !rest[1])) || end - text > 255 ||
        strlen(rest) > 16)
        return -EINVAL;
    host = strndup(text, (size_t)(end - text));
    port = strdup(*rest ? rest + 1 : default_port);
    if (!host || !port)
        return -ENOMEM;
    *ret_host = TAKE_PTR(host);
    *ret_port = TAKE_PTR(port);
    return 0;
}

static char *copy(const char *s, bool *failed)
{
    char *new = s ? strdup(s) : NULL;

    *failed = *failed || (s && !new);
    return new;
}

int log_link_new(sd_event *event, const log_link_options *o, log_link **ret)
{
    _cleanup_(log_link_freep) log_link *l = calloc(1, sizeof(*l));
    bool failed = false;
    int r;

    if (!l)
        return -ENOMEM;
    l->event = event;
    l->fd = l->lookup_fd = -1;
    l->host = copy(o->host, &failed);
    l->port = copy(o->port, &failed);
    l->name = copy(o->name, &failed);
    l->authority = copy(o->authority, &failed);
    l->certificate = copy(o->certificate, &failed);
    l->key = copy(o->key, &failed);
    if (failed)
        return -ENOMEM;
    r = sd_event_add_time(event, &l->deadline, CLOCK_MONOTONIC, 0, 0, on_deadline, l);
    if (r >= 0)
        r = sd_event_source_set_enabled(l->deadline, SD_EVENT_OFF);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(l);
    return 0;
}

void log_link_serve(log_link *l, log_sink *s)
{
    l->sink = s;
}

void log_link_free(log_link *l)
{
    if (!l)
        return;
    link_close(l);
    sd_event_source_disable_unref(l->deadline);
    free(l->host);
    free(l->port);
    free(l->name);
    free(l->authority);
    free(l->certificate);
    free(l->key);
    free(l);
}
