/* SPDX-License-Identifier: Apache-2.0 */
#include "log-connection.h"

#include <hybus/log.h>
#include <sys/queue.h>
#include <sys/socket.h>

#include "log-native.h"

#define LENGTH_SIZE 4u
#define RECORD_MAX (HLOG_HEAD_SIZE + HLOG_FIELDS_MAX)
#define READ_MAX (128u * 1024)

typedef struct connection {
    LIST_ENTRY(connection) list;
    log_connections *all;
    int fd;
    sd_event_source *source;
    uint32_t uid, pid;
    char unit[LOG_UNIT_MAX];
    uint8_t *rest; /* the beginning of a record; NULL while there is none */
    size_t rest_size;
} connection;

struct log_connections {
    log_book *book;
    int fd;
    uint32_t audit_uid;
    sd_event_source *source;
    sd_event *event;
    log_units units;
    uint64_t malformed;
    LIST_HEAD(, connection) list;
    size_t n;
    bool told; /* that there are too many */
    /* One for all: between two turns nothing is in it. */
    uint8_t buffer[LENGTH_SIZE + RECORD_MAX + READ_MAX];
};

ssize_t log_connection_take(log_book *b, const uint8_t *data, size_t size, const log_speaker *who,
                            uint32_t audit_uid, log_clock now, uint64_t *malformed)
{
    size_t at = 0;

    while (size - at >= LENGTH_SIZE) {
        const uint8_t *p = data + at;
        uint32_t n =
            (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
        int r;

        if (n < HLOG_HEAD_SIZE || n > RECORD_MAX)
            return -EBADMSG;
        if (size - at - LENGTH_SIZE < n)
            break;
        r = log_native_take(b, p + LENGTH_SIZE, n, who->uid, who->pid, who->unit, audit_uid, now);
        if (r < 0 && r != -EMSGSIZE)
            ++*malformed;
        at += LENGTH_SIZE + n;
    }
    return (ssize_t)at;
}

static void connection_free(connection *c)
{
    LIST_REMOVE(c, list);
    c->all->n--;
    sd_event_source_disable_unref(c->source);
    safe_close(c->fd);
    free(c->rest);
    free(c);
}

/* False: it is over. */
static bool read_some(connection *c)
{
    log_connections *s = c->all;
    log_speaker who = {.uid = c->uid, .pid = c->pid, .unit = *c->unit ? c->unit : NULL};
    size_t size = c->rest_size;
    ssize_t n, taken;

    n = recv(c->fd, s->buffer + size, sizeof(s->buffer) - size, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return true;
    if (n <= 0)
        return false;
    if (size > 0)
        memcpy(s->buffer, c->rest, size);
    free(TAKE_PTR(c->rest));
    c->rest_size = 0;
    size += (size_t)n;
    taken = log_connection_take(s->book, s->buffer, size, &who, s->audit_uid, log_clock_now(),
                                &s->malformed);
    if (taken < 0) {
        s->malformed++;
        return false;
    }
    size -= (size_t)taken;
    if (size == 0)
        return true;
    c->rest = malloc(size);
    if (!c->rest)
        return false;
    memcpy(c->rest, s->buffer + taken, size);
    c->rest_size = size;
    return true;
}

static int on_readable(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    connection *c = userdata;

    if (!read_some(c))
        connection_free(c);
    return 0;
}

static size_t count_of(const log_connections *s, uint32_t uid)
{
    const connection *c;
    size_t n = 0;

    LIST_FOREACH(c, &s->list, list)
    n += c->uid == uid;
    return n;
}

static int connection_new(log_connections *s, int fd, const struct ucred *who)
{
    connection *c = calloc(1, sizeof(*c));
    const char *unit;
    int r;

    if (!c) {
        close(fd);
        return -ENOMEM;
    }
    c->all = s;
    c->fd = fd;
    c->uid = who->uid;
    c->pid = (uint32_t)who->pid;
    /* Once: later the number may be another process's. */
    unit = log_units_find(&s->units, c->pid, c->uid, log_clock_now().monotonic);
    snprintf(c->unit, sizeof(c->unit), "%s", strempty(unit));
    LIST_INSERT_HEAD(&s->list, c, list);
    s->n++;
    r = sd_event_add_io(s->event, &c->source, fd, EPOLLIN, on_readable, c);
    if (r >= 0)
        r = sd_event_source_set_priority(c->source, SD_EVENT_PRIORITY_NORMAL - 5);
    if (r < 0)
        connection_free(c);
    return r;
}

static int on_connect(sd_event_source *source, int listening, uint32_t events, void *userdata)
{
    log_connections *s = userdata;
    struct ucred who;
    socklen_t size = sizeof(who);
    int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), r;

    if (fd < 0)
        return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED
                   ? 0
                   : hybus_log_errno(LOG_ERR, -errno, "Cannot accept a connection to the log");
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0) {
        close(fd);
        return 0;
    }
    if (s->n >= LOG_CONNECTIONS_MAX || count_of(s, who.uid) >= LOG_CONNECTIONS_USER_MAX) {
        close(fd);
        if (!s->told)
            hybus_warning("Too many connections to the log; uid %u has %zu of %zu", who.uid,
                          count_of(s, who.uid), s->n);
        s->told = true;
        return 0;
    }
    s->told = false;
    r = connection_new(s, fd, &who);
    if (r < 0)
        hybus_log_errno(LOG_ERR, r, "Cannot take a connection to the log");
    return 0;
}

int log_connections_new(sd_event *event, int fd, log_book *b, uint32_t audit_uid,
                        log_connections **ret)
{
    _cleanup_(log_connections_freep) log_connections *s = calloc(1, sizeof(*s));
    int r;

    if (!s) {
        close(fd);
        return -ENOMEM;
    }
    s->fd = fd;
    s->book = b;
    s->event = event;
    s->audit_uid = audit_uid;
    LIST_INIT(&s->list);
    r = sd_event_add_io(event, &s->source, fd, EPOLLIN, on_connect, s);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(s);
    return 0;
}

void log_connections_free(log_connections *s)
{
    if (!s)
        return;
    while (!LIST_EMPTY(&s->list))
        connection_free(LIST_FIRST(&s->list));
    sd_event_source_disable_unref(s->source);
    safe_close(s->fd);
    free(s);
}

uint64_t log_connections_malformed(const log_connections *s)
{
    return s ? s->malformed : 0;
}
