/* SPDX-License-Identifier: Apache-2.0 */
#include "log-native.h"

#include <hybus/log.h>
#include <sys/socket.h>
#include <time.h>

#define DATAGRAM_MAX (HLOG_HEAD_SIZE + HLOG_FIELDS_MAX)

typedef struct slot {
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(sizeof(struct ucred))];
    } control;
    struct iovec data;
} slot;

struct log_native {
    log_book *book;
    int fd;
    uint32_t audit_uid;
    sd_event_source *source;
    log_units units;
    uint64_t malformed;
    struct mmsghdr messages[LOG_NATIVE_BATCH];
    slot slots[LOG_NATIVE_BATCH];
    /* Small records touch one page each of this. */
    uint8_t buffers[LOG_NATIVE_BATCH][DATAGRAM_MAX + 8];
};

log_clock log_clock_now(void)
{
    struct timespec real, mono;

    clock_gettime(CLOCK_REALTIME, &real);
    clock_gettime(CLOCK_MONOTONIC, &mono);
    return (log_clock){
        .realtime = (uint64_t)real.tv_sec * 1000000u + (uint64_t)real.tv_nsec / 1000u,
        .monotonic = (uint64_t)mono.tv_sec * 1000000u + (uint64_t)mono.tv_nsec / 1000u,
    };
}

static bool has_audit(const uint8_t *fields, size_t size)
{
    log_fields f;
    log_field field;

    log_fields_init(&f, fields, size);
    while (log_fields_next(&f, &field) > 0)
        if (field.code == HLOG_AUDIT)
            return true;
    return false;
}

int log_native_take(log_book *b, const void *data, size_t size, uint32_t uid, uint32_t pid,
                    const char *unit, uint32_t audit_uid, log_clock now)
{
    const uint8_t *d = data, *fields = d + HLOG_HEAD_SIZE;
    uint32_t dropped;
    bool audit;
    int r;

    if (size < HLOG_HEAD_SIZE || d[0] != 'H' || d[1] != 'L' || d[2] != HLOG_VERSION || d[3] > 191)
        return -EBADMSG;
    size -= HLOG_HEAD_SIZE;
    r = log_fields_check(fields, size);
    if (r < 0)
        return r;
    audit = has_audit(fields, size);
    if (audit && uid != audit_uid)
        return -EPERM;
    dropped = (uint32_t)d[4] | (uint32_t)d[5] << 8 | (uint32_t)d[6] << 16 | (uint32_t)d[7] << 24;
    if (dropped > 0) {
        log_book_count_dropped(b, dropped);
        log_book_note(b, now, LOG_WARNING, unit, dropped,
                      "%s (uid %u, pid %u) had to give up %u records: they came too fast",
                      unit ? unit : "A program", uid, pid, dropped);
    }
    return log_book_append(b,
                           &(log_entry){.stream = audit ? LOG_STREAM_AUDIT : LOG_STREAM_MAIN,
                                        .when = now,
                                        .uid = uid,
                                        .pid = pid,
                                        .priority = d[3],
                                        .source = LOG_SOURCE_NATIVE,
                                        .unit = unit,
                                        .fields = fields,
                                        .size = size},
                           now, NULL);
}

static const struct ucred *credentials_of(struct msghdr *m)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS &&
            c->cmsg_len == CMSG_LEN(sizeof(struct ucred)))
            return (const struct ucred *)(const void *)CMSG_DATA(c);
    return NULL;
}

static void take_one(log_native *n, unsigned i, log_clock now)
{
    struct msghdr *m = &n->messages[i].msg_hdr;
    const struct ucred *who = credentials_of(m);
    int r = -EBADMSG;

    if (who && !(m->msg_flags & MSG_TRUNC))
        r = log_native_take(n->book, n->buffers[i], n->messages[i].msg_len, who->uid,
                            (uint32_t)who->pid,
                            log_units_find(&n->units, (uint32_t)who->pid, who->uid, now.monotonic),
                            n->audit_uid, now);
    if (r < 0 && r != -EMSGSIZE)
        n->malformed++;
}

/* What a datagram has changed in its slot. */
static void prepare(log_native *n, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        n->slots[i].data = (struct iovec){.iov_base = n->buffers[i], .iov_len = DATAGRAM_MAX + 1};
        n->messages[i].msg_hdr = (struct msghdr){.msg_iov = &n->slots[i].data,
                                                 .msg_iovlen = 1,
                                                 .msg_control = n->slots[i].control.bytes,
                                                 .msg_controllen = sizeof(n->slots[i].control)};
    }
}

static int on_readable(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
    log_native *n = userdata;

    for (unsigned turn = 0; turn < LOG_NATIVE_TURN; turn++) {
        log_clock now;
        int got;

        got = recvmmsg(n->fd, n->messages, LOG_NATIVE_BATCH, MSG_DONTWAIT | MSG_CMSG_CLOEXEC, NULL);
        if (got < 0)
            return errno == EAGAIN || errno == EINTR
                       ? 0
                       : hybus_log_errno(LOG_ERR, -errno, "Cannot receive log records");
        now = log_clock_now();
        for (int i = 0; i < got; i++)
            take_one(n, (unsigned)i, now);
        prepare(n, (unsigned)got);
        if ((unsigned)got < LOG_NATIVE_BATCH)
            break;
    }
    return 0;
}

int log_native_new(sd_event *event, int fd, log_book *b, uint32_t audit_uid, log_native **ret)
{
    _cleanup_(log_native_freep) log_native *n = NULL;
    const int on = 1;
    int r;

    n = calloc(1, sizeof(*n));
    if (!n) {
        close(fd);
        return -ENOMEM;
    }
    n->fd = fd;
    n->book = b;
    n->audit_uid = audit_uid;
    prepare(n, LOG_NATIVE_BATCH);
    if (setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
        return -errno;
    r = sd_event_add_io(event, &n->source, fd, EPOLLIN, on_readable, n);
    if (r < 0)
        return r;
    /* Above what answers others: whoever asks gets what was sent before. */
    r = sd_event_source_set_priority(n->source, SD_EVENT_PRIORITY_NORMAL - 10);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(n);
    return 0;
}

void log_native_free(log_native *n)
{
    if (!n)
        return;
    sd_event_source_disable_unref(n->source);
    safe_close(n->fd);
    free(n);
}

uint64_t log_native_malformed(const log_native *n)
{
    return n->malformed;
}
