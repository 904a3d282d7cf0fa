/* SPDX-License-Identifier: Apache-2.0 */
#pragma GCC visibility push(default)
#include "hybridos-log.h"
#pragma GCC visibility pop

#include <errno.h>
#include <log-protocol.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#define FIELDS_MAX 120u   /* of the caller; the library adds some */
#define TEXT_MAX 4096u    /* bytes of a formatted message */
#define LINE_MAX_ 2048u   /* bytes of a line on standard error */
#define PARTS_MAX (FIELDS_MAX + 4u)

/* No lock: the descriptor stays the same, and is connected again when h-logged's socket was made anew. */
static struct {
    atomic_int fd;
    atomic_uint dropped;
    atomic_int level, tty; /* -1: to be found out */
    char identifier[64];
} state = {.fd = -1, .level = -1, .tty = -1};

/* A record in the making: the small parts here, the values where they are. */
struct record {
    uint8_t small[HLOG_HEAD_SIZE + PARTS_MAX * (4u + HLOG_NAME_MAX)];
    struct iovec vectors[2u * PARTS_MAX + 1u];
    size_t n_vectors, used, size;
    unsigned n;
};

void hybridos_log_identifier(const char *identifier)
{
    snprintf(state.identifier, sizeof(state.identifier), "%s", identifier);
}

void hybridos_log_level(int max_priority)
{
    atomic_store(&state.level, max_priority & 7);
}

static int level(void)
{
    int l = atomic_load(&state.level);

    if (l < 0) {
        const char *s = secure_getenv("HYBRIDOS_LOG_LEVEL");
        l = s && s[0] >= '0' && s[0] <= '7' && !s[1] ? s[0] - '0' : LOG_INFO;
        atomic_store(&state.level, l);
    }
    return l;
}

/* Whoever runs a program by hand wants to see what it says. */
static bool stderr_is_terminal(void)
{
    int tty = atomic_load(&state.tty);

    if (tty < 0) {
        tty = isatty(STDERR_FILENO);
        atomic_store(&state.tty, tty);
    }
    return tty;
}

static const char *identifier(void)
{
    return state.identifier[0] ? state.identifier : program_invocation_short_name;
}

static void count(uint32_t n)
{
    unsigned old = atomic_load(&state.dropped);

    while (!atomic_compare_exchange_weak(&state.dropped, &old, n > UINT32_MAX - old ? UINT32_MAX : old + n))
        ;
}

/* --- the record ---------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    uint8_t code;
} well_known[] = {
    {"MESSAGE", HLOG_MESSAGE},     {"IDENTIFIER", HLOG_IDENTIFIER}, {"CODE_FILE", HLOG_CODE_FILE},
    {"CODE_LINE", HLOG_CODE_LINE}, {"ERRNO", HLOG_ERRNO},           {"HOSTNAME", HLOG_HOSTNAME},
    {"PROCID", HLOG_PROCID},       {"MSGID", HLOG_MSGID},           {"STRUCTURED_DATA", HLOG_STRUCTURED_DATA},
    {"AUDIT", HLOG_AUDIT},         {"UNIT", HLOG_UNIT},             {"PEER", HLOG_PEER},
    {"DROPPED", HLOG_DROPPED},
};

/* HLOG_NAMED for any other name; negative for what no name is, or nobody's but h-logged's. */
static int code_of(const char *name)
{
    size_t n = 0;

    for (size_t i = 0; i < sizeof(well_known) / sizeof(*well_known); i++)
        if (strcmp(name, well_known[i].name) == 0)
            return well_known[i].code == HLOG_UNIT || well_known[i].code == HLOG_PEER ||
                           well_known[i].code == HLOG_DROPPED || well_known[i].code == HLOG_AUDIT
                       ? -EINVAL
                       : well_known[i].code;
    for (; name[n]; n++)
        if (!((name[n] >= 'A' && name[n] <= 'Z') || (n > 0 && name[n] == '_') ||
              (n > 0 && name[n] >= '0' && name[n] <= '9')) ||
            n >= HLOG_NAME_MAX)
            return -EINVAL;
    return n > 0 ? HLOG_NAMED : -EINVAL;
}

static void add_vector(struct record *r, const void *data, size_t size)
{
    r->vectors[r->n_vectors++] = (struct iovec){.iov_base = (void *)(uintptr_t)data, .iov_len = size};
}

static int add(struct record *r, const char *name, const void *value, size_t size, bool secret)
{
    uint8_t *to = r->small + r->used, *end;
    size_t name_size = strlen(name);
    int code = code_of(name);

    if (code < 0)
        return code;
    if (size > HLOG_FIELDS_MAX)
        return -E2BIG;
    /* What hlog_put() writes before a value. */
    end = hlog_put(to, r->small + sizeof(r->small), name, name_size,
                   (uint8_t)(code | (secret ? HLOG_SECRET : 0)), "", 0);
    if (!end)
        return -E2BIG;
    end[-2] = (uint8_t)size;
    end[-1] = (uint8_t)(size >> 8);
    if (r->size + (size_t)(end - to) + size > HLOG_FIELDS_MAX)
        return -E2BIG;
    add_vector(r, to, (size_t)(end - to));
    if (size > 0)
        add_vector(r, value, size);
    r->used += (size_t)(end - to);
    r->size += (size_t)(end - to) + size;
    return 0;
}

/* Where a text that is cut at `size` has to end so that it does not end in half a character. */
static size_t whole_utf8(const char *s, size_t size)
{
    size_t n = size, more = 0, wanted;
    unsigned char lead;

    while (n > 0 && more < 3 && ((unsigned char)s[n - 1] & 0xc0) == 0x80) {
        n--;
        more++;
    }
    if (n == 0)
        return size;
    lead = (unsigned char)s[n - 1];
    wanted = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : lead >= 0xc0 ? 1 : 0;
    return wanted > more ? n - 1 : size;
}

static int make(struct record *r, const char *message, const hybridos_log_field *fields, size_t n)
{
    size_t size = message ? strlen(message) : 0, room;
    bool named = false;
    int k;

    r->n_vectors = 1; /* the head */
    r->used = HLOG_HEAD_SIZE;
    r->size = 0;
    if (n > FIELDS_MAX)
        return -E2BIG;
    for (size_t i = 0; i < n; i++) {
        k = add(r, fields[i].name, fields[i].value, fields[i].size, fields[i].secret);
        if (k < 0)
            return k;
        named |= strcmp(fields[i].name, "IDENTIFIER") == 0;
    }
    k = named ? 0 : add(r, "IDENTIFIER", identifier(), strlen(identifier()), false);
    if (k < 0 || !message)
        return k;
    room = HLOG_FIELDS_MAX - r->size;
    if (room < 3)
        return -E2BIG;
    if (size > room - 3)
        size = whole_utf8(message, room - 3);
    return add(r, "MESSAGE", message, size, false);
}

/* --- on its way ------------------------------------------------------------------------------------ */

static int socket_of(void)
{
    int fd = atomic_load(&state.fd), expected = -1;

    if (fd >= 0)
        return fd;
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (!atomic_compare_exchange_strong(&state.fd, &expected, fd)) {
        close(fd);
        fd = expected;
    }
    return fd;
}

static int connect_again(int fd)
{
    const char *path = secure_getenv("HYBRIDOS_LOG_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (snprintf(address.sun_path, sizeof(address.sun_path), "%s", path ? path : HLOG_SOCKET) >=
        (int)sizeof(address.sun_path))
        return -ENAMETOOLONG;
    return connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
}

/* 0, -EAGAIN: no room, -ENOTCONN: h-logged is not there. */
static int send_record(struct record *r, int priority)
{
    struct msghdr m = {.msg_iov = r->vectors, .msg_iovlen = r->n_vectors};
    uint32_t dropped;

    dropped = atomic_exchange(&state.dropped, 0);
    hlog_head(r->small, (uint8_t)priority, dropped);
    r->vectors[0] = (struct iovec){.iov_base = r->small, .iov_len = HLOG_HEAD_SIZE};
    for (unsigned attempt = 0; attempt < 3; attempt++) {
        int fd = socket_of(), e;

        if (fd < 0)
            break;
        if (sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            return 0;
        e = errno;
        if (e == EAGAIN || e == ENOBUFS || e == ENOMEM || e == EINTR) {
            count(dropped);
            count(1);
            return -EAGAIN;
        }
        if (e == EBADF || e == ENOTSOCK) /* whoever closes all descriptors closes this one, too */
            atomic_compare_exchange_strong(&state.fd, &fd, -1);
        else if (connect_again(fd) < 0)
            break;
    }
    count(dropped);
    return -ENOTCONN;
}

/* --- standard error --------------------------------------------------------------------------------- */

static size_t put_escaped(char *to, size_t at, const void *data, size_t size)
{
    const unsigned char *from = data;

    for (size_t i = 0; i < size && at + 5 < LINE_MAX_; i++)
        if (from[i] < 0x20 || from[i] == 0x7f)
            at += (size_t)snprintf(to + at, LINE_MAX_ - at, "\\x%02x", from[i]);
        else
            to[at++] = (char)from[i];
    return at;
}

static void to_stderr(int priority, const char *message, const hybridos_log_field *fields, size_t n)
{
    char line[LINE_MAX_ + 1];
    const char *who = identifier();
    size_t at;
    ssize_t written;

    for (size_t i = 0; i < n; i++)
        if (strcmp(fields[i].name, "IDENTIFIER") == 0 && !fields[i].secret)
            who = NULL;
    at = (size_t)snprintf(line, sizeof(line), "<%d>", priority & 7);
    if (who)
        at = put_escaped(line, at, who, strlen(who));
    for (size_t i = 0; i < n && !who; i++)
        if (strcmp(fields[i].name, "IDENTIFIER") == 0)
            at = put_escaped(line, at, fields[i].value, fields[i].size);
    at = put_escaped(line, at, ": ", 2);
    if (message)
        at = put_escaped(line, at, message, strlen(message));
    for (size_t i = 0; i < n; i++) {
        char length[48];

        if (strcmp(fields[i].name, "IDENTIFIER") == 0 || strncmp(fields[i].name, "CODE_", 5) == 0)
            continue;
        at = put_escaped(line, at, " ", 1);
        at = put_escaped(line, at, fields[i].name, strlen(fields[i].name));
        at = put_escaped(line, at, "=", 1);
        if (fields[i].secret) {
            snprintf(length, sizeof(length), "(secret, %zu bytes)", fields[i].size);
            at = put_escaped(line, at, length, strlen(length));
        } else
            at = put_escaped(line, at, fields[i].value, fields[i].size);
    }
    line[at++] = '\n';
    written = write(STDERR_FILENO, line, at);
    (void)written;
}

/* --- calls --------------------------------------------------------------------------------------- */

int hybridos_log_fields(int priority, const char *message, const hybridos_log_field *fields,
                        size_t n_fields)
{
    int saved = errno, r;
    struct record record;

    if (priority < 0 || priority > 191)
        return -EINVAL;
    if ((priority & 7) > level())
        return 0;
    r = make(&record, message, fields, n_fields);
    if (r >= 0) {
        r = send_record(&record, priority < 8 ? priority | LOG_USER : priority);
        if (r == -ENOTCONN || stderr_is_terminal()) {
            to_stderr(priority, message, fields, n_fields);
            r = r == -EAGAIN ? r : 0;
        }
    }
    errno = saved;
    return r;
}

int hybridos_log_at(int priority, const char *file, int line, const char *format, ...)
{
    char text[TEXT_MAX], number[16];
    int saved = errno, r;
    va_list args;

    if (priority >= 0 && (priority & 7) > level())
        return 0;
    va_start(args, format);
    r = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    errno = saved;
    if (r < 0)
        return -EINVAL;
    if ((size_t)r >= sizeof(text))
        text[whole_utf8(text, sizeof(text) - 1)] = '\0';
    snprintf(number, sizeof(number), "%d", line);
    return hybridos_log_fields(priority, text,
                               (hybridos_log_field[]){HYBRIDOS_LOG_TEXT("CODE_FILE", file),
                                                      HYBRIDOS_LOG_TEXT("CODE_LINE", number)},
                               2);
}
