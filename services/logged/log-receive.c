/* SPDX-License-Identifier: Apache-2.0 */
#include "log-receive.h"

#include <hybus/log.h>
#include <netinet/tcp.h>
#include <sys/queue.h>

#include "log-native.h"

#define UDP_BUFFER (1024 * 1024)
#define KEEPALIVE_SECONDS 60

typedef struct connection {
    LIST_ENTRY(connection) list;
    log_receive *receive;
    sd_event_source *source;
    int fd;
    log_address address;
    log_peer peer;
    log_clock now; /* of the bytes that are being taken apart */
    log_syslog_stream stream;
} connection;

struct log_receive {
    sd_event *event;
    log_book *book;
    sd_event_source *listeners[LOG_RECEIVE_LISTENERS_MAX];
    size_t n_listeners;
    LIST_HEAD(, connection) connections;
    log_networks allowed;
    log_receive_statistics statistics;
    uint64_t next_note, noted; /* refusals */
    struct mmsghdr messages[LOG_RECEIVE_BATCH];
    struct iovec data[LOG_RECEIVE_BATCH];
    log_address senders[LOG_RECEIVE_BATCH];
    uint8_t buffers[LOG_RECEIVE_BATCH][LOG_SYSLOG_MAX];
    uint8_t fields[LOG_SYSLOG_FIELDS_MAX + 64];
};

/* --- one message
 * ----------------------------------------------------------------------------------- */

static void take(log_receive *v, const void *data, size_t size, bool cut, const log_peer *peer,
                 log_clock now)
{
    static const char cut_name[] = "TRUNCATED";
    char unit[LOG_PEER_TEXT + 8], speaker[LOG_PEER_TEXT + 8];
    uint8_t *end;
    log_syslog s;

    if (log_syslog_parse(data, size, &s) < 0) {
        v->statistics.malformed++;
        return;
    }
    v->statistics.cut += cut;
    size = log_syslog_fields(&s, v->fields);
    end = cut ? hlog_put(v->fields + size, v->fields + sizeof(v->fields), cut_name,
                         sizeof(cut_name) - 1, HLOG_NAMED, "1", 1)
              : NULL;
    snprintf(unit, sizeof(unit), "syslog@%s", peer->address);
    snprintf(speaker, sizeof(speaker), "syslog@%s", peer->sender);
    (void)log_book_append(v->book,
                          &(log_entry){.when = now,
                                       .uid = LOG_NOBODY,
                                       .priority = s.priority,
                                       .source = LOG_SOURCE_SYSLOG,
                                       .unit = unit,
                                       .peer = peer->address,
                                       .speaker = speaker,
                                       .fields = v->fields,
                                       .size = end ? (size_t)(end - v->fields) : size},
                          now, NULL);
}

/* Says at most once a minute who was turned away: they may be many. */
static void refuse(log_receive *v, const log_address *a, log_clock now)
{
    uint64_t n = ++v->statistics.refused - v->noted;
    log_peer peer;

    if (now.monotonic < v->next_note)
        return;
    log_peer_of(a, &peer);
    log_book_note(v->book, now, LOG_WARNING, NULL, 0,
                  "Syslog from %s is not taken: its network is not in Allow= ([syslog] in "
                  "logged.conf); %llu so refused",
                  peer.address, (unsigned long long)n);
    v->noted += n;
    v->next_note = now.monotonic + LOG_RECEIVE_NOTE_USEC;
}

/* --- datagrams
 * ------------------------------------------------------------------------------------- */

static int receive_batch(log_receive *v, int fd)
{
    for (unsigned i = 0; i < LOG_RECEIVE_BATCH; i++) {
        v->data[i] = (struct iovec){.iov_base = v->buffers[i], .iov_len = LOG_SYSLOG_MAX};
        v->messages[i].msg_hdr = (struct msghdr){.msg_name = &v->senders[i],
                                                 .msg_namelen = sizeof(v->senders[i]),
                                                 .msg_iov = &v->data[i],
                                                 .msg_iovlen = 1};
    }
    return recvmmsg(fd, v->messages, LOG_RECEIVE_BATCH, MSG_DONTWAIT, NULL);
}

static int on_datagrams(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
    log_receive *v = userdata;
    log_peer peer;

    for (unsigned turn = 0; turn < LOG_RECEIVE_TURN; turn++) {
        int got = receive_batch(v, fd);
        log_clock now = log_clock_now();

        if (got < 0) /* an ICMP error of somebody we never sent to is no reason to complain */
            return 0;
        for (int i = 0; i < got; i++) {
            if (!log_networks_have(&v->allowed, &v->senders[i])) {
                refuse(v, &v->senders[i], now);
                continue;
            }
            log_peer_of(&v->senders[i], &peer);
            take(v, v->buffers[i], v->messages[i].msg_len,
                 v->messages[i].msg_hdr.msg_flags & MSG_TRUNC, &peer, now);
        }
        if ((unsigned)got < LOG_RECEIVE_BATCH)
            break;
    }
    return 0;
}

/* --- connections
 * ------------------------------------------------------------------------------------ */

static void connection_free(connection *c)
{
    LIST_REMOVE(c, list);
    c->receive->statistics.connections--;
    sd_event_source_disable_unref(c->source);
    safe_close(c->fd);
    free(c);
}

static void on_frame(const void *data, size_t size, bool cut, void *userdata)
{
    connection *c = userdata;

    take(c->receive, data, size, cut, &c->peer, c->now);
}

static int on_bytes(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
    connection *c = userdata;
    uint8_t buffer[LOG_RECEIVE_READ];
    ssize_t n = recv(fd, buffer, sizeof(buffer), MSG_DONTWAIT);

    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return 0;
    c->now = log_clock_now();
    if (n > 0 && log_syslog_stream_feed(&c->stream, buffer, (size_t)n, on_frame, c) >= 0)
        return 0;
    if (n > 0) {
        c->receive->statistics.malformed++;
        log_book_note(c->receive->book, c->now, LOG_WARNING, NULL, 0,
                      "What %s sends by TCP is not syslog (RFC 6587); the connection is closed",
                      c->peer.address);
    } else
        log_syslog_stream_end(&c->stream, on_frame, c);
    connection_free(c);
    return 0;
}

static size_t connections_of(const log_receive *v, const log_peer *peer)
{
    const connection *c;
    size_t n = 0;

    LIST_FOREACH(c, &v->connections, list)
    n += streq(c->peer.sender, peer->sender);
    return n;
}

static int connection_new(log_receive *v, int fd, const log_address *a, const log_peer *peer)
{
    const int on = 1, seconds = KEEPALIVE_SECONDS;
    connection *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return -ENOMEM;
    c->receive = v;
    c->fd = -1;
    c->address = *a;
    c->peer = *peer;
    LIST_INSERT_HEAD(&v->connections, c, list);
    v->statistics.connections++;
    /* Nodes that are gone without a word must not keep their places. */
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof(seconds));
    r = sd_event_add_io(v->event, &c->source, fd, EPOLLIN, on_bytes, c);
    if (r < 0)
        connection_free(c);
    else
        c->fd = fd;
    return r;
}

static int on_connection(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
    log_receive *v = userdata;
    log_address a = {};
    socklen_t size = sizeof(a);
    int r, peer_fd = accept4(fd, &a.sa, &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    log_peer peer;

    if (peer_fd < 0)
        return 0;
    log_peer_of(&a, &peer);
    if (!log_networks_have(&v->allowed, &a)) {
        refuse(v, &a, log_clock_now());
        r = -EACCES;
    } else if (v->statistics.connections >= LOG_RECEIVE_CONNECTIONS_MAX ||
               connections_of(v, &peer) >= LOG_RECEIVE_CONNECTIONS_PEER_MAX) {
        v->statistics.busy++;
        r = -EBUSY;
    } else
        r = connection_new(v, peer_fd, &a, &peer);
    if (r < 0)
        close(peer_fd);
    return 0;
}

/* --- listening
 * -------------------------------------------------------------------------------------- */

int log_receive_add(log_receive *v, int fd)
{
    sd_event_source **s = &v->listeners[v->n_listeners];
    int r, type, buffer = UDP_BUFFER;
    socklen_t size = sizeof(type);

    if (v->n_listeners == LOG_RECEIVE_LISTENERS_MAX)
        r = -E2BIG;
    else if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0)
        r = -errno;
    else
        r = sd_event_add_io(v->event, s, fd, EPOLLIN,
                            type == SOCK_STREAM ? on_connection : on_datagrams, v);
    if (r < 0) {
        close(fd);
        return r;
    }
    if (type != SOCK_STREAM)
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof(buffer));
    v->n_listeners++;
    (void)sd_event_source_set_io_fd_own(*s, true);
    /* What comes from outside waits for what comes from the device itself. */
    return sd_event_source_set_priority(*s, SD_EVENT_PRIORITY_NORMAL + 10);
}

int log_receive_listen(log_receive *v, const char *text)
{
    const char *udp = startswith(text, "udp:"), *tcp = startswith(text, "tcp:");
    _cleanup_(closep) int fd = -1;
    const int on = 1;
    log_address a;
    socklen_t size;

    if ((!udp && !tcp) || log_address_parse(udp ? udp : tcp, &a, &size) < 0)
        return -EINVAL;
    fd = socket(a.sa.sa_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if ((tcp && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0) ||
        bind(fd, &a.sa, size) < 0 || (tcp && listen(fd, 16) < 0))
        return -errno;
    return log_receive_add(v, TAKE_FD(fd));
}

void log_receive_allow(log_receive *v, const log_networks *networks)
{
    connection *c, *next;

    v->allowed = *networks;
    for (c = LIST_FIRST(&v->connections); c; c = next) {
        next = LIST_NEXT(c, list);
        if (!log_networks_have(networks, &c->address))
            connection_free(c);
    }
}

void log_receive_statistics_get(const log_receive *v, log_receive_statistics *ret)
{
    *ret = v->statistics;
}

int log_receive_new(sd_event *event, log_book *b, log_receive **ret)
{
    log_receive *v = calloc(1, sizeof(*v));

    if (!v)
        return -ENOMEM;
    v->event = event;
    v->book = b;
    LIST_INIT(&v->connections);
    *ret = v;
    return 0;
}

void log_receive_free(log_receive *v)
{
    if (!v)
        return;
    while (!LIST_EMPTY(&v->connections))
        connection_free(LIST_FIRST(&v->connections));
    for (size_t i = 0; i < v->n_listeners; i++)
        sd_event_source_disable_unref(v->listeners[i]);
    free(v);
}
