/* SPDX-License-Identifier: Apache-2.0 */
/* sd-journal.h would otherwise record this file as the place of every message. */
#define SD_JOURNAL_SUPPRESS_LOCATION
#include "log.h"

#include <log-protocol.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <systemd/sd-journal.h>

#define MESSAGE_MAX 4096u /* bytes of one message; longer ones are cut */

static struct {
    char program[64];
    int max_priority;
    bool journal;
    const char *socket;
    int fd;           /* connected to h-logged, or -1 */
    uint32_t dropped; /* records that h-logged had no room for */
} state = {.program = "hybridos", .max_priority = LOG_INFO, .fd = -1};

/* The service manager says in $JOURNAL_STREAM which stream it attached; standard error is the
 * journal only if it is still that one (systemd.exec(5)). */
static bool stderr_is_journal(void)
{
    const char *s = secure_getenv("JOURNAL_STREAM");
    unsigned long long device, inode;
    struct stat st;

    return s && sscanf(s, "%llu:%llu", &device, &inode) == 2 && fstat(STDERR_FILENO, &st) == 0 &&
           st.st_dev == device && st.st_ino == inode;
}

void hybus_log_open(const char *program)
{
    const char *level = secure_getenv("HYBRIDOS_LOG_LEVEL");

    snprintf(state.program, sizeof state.program, "%s", program);
    state.socket = secure_getenv("HYBRIDOS_LOG_SOCKET");
    /* A unit logs to h-logged, whoever runs a program by hand wants to see what it says. */
    state.journal = stderr_is_journal();
    if (!state.socket && state.journal)
        state.socket = HLOG_SOCKET;
    if (level && level[0] >= '0' && level[0] <= '7' && !level[1])
        state.max_priority = level[0] - '0';
}

void hybus_log_set_level(int max_priority)
{
    state.max_priority = max_priority;
}

int hybus_log_level(void)
{
    return state.max_priority;
}

/* A message may quote a peer: nothing in it may start a new line or move a terminal's cursor. */
static void escape(const char *in, char *out, size_t size)
{
    size_t n = 0;

    for (; *in && n + 5 < size; in++) {
        unsigned char c = (unsigned char)*in;

        if (c < 0x20 || c == 0x7f)
            n += (size_t)snprintf(out + n, size - n, "\\x%02x", c);
        else
            out[n++] = (char)c;
    }
    out[n] = '\0';
}

/* --- h-logged --------------------------------------------------------------------------------- */

static int logged_connect(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(state.socket) >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    strcpy(address.sun_path, state.socket);
    fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        int r = -errno;
        close(fd);
        return r;
    }
    state.fd = fd;
    return 0;
}

static int logged_send(const void *data, size_t size)
{
    for (unsigned attempt = 0; attempt < 2; attempt++) {
        int r = state.fd < 0 ? logged_connect() : 0;

        if (r < 0)
            return r;
        if (send(state.fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
            return 0;
        if (errno == EAGAIN || errno == ENOBUFS || errno == EMSGSIZE)
            return -EAGAIN;
        /* Its socket was made anew. */
        state.fd = safe_close(state.fd);
    }
    return -ECONNREFUSED;
}

/* Never waits: what finds no room is counted, and the count goes with the next one. False when
 * h-logged is not there. */
static bool to_logged(int priority, int error, const char *file, int line, const char *text)
{
    uint8_t data[MESSAGE_MAX + 512], *to, *end = data + sizeof data;
    char number[16];
    int r;

    to = hlog_head(data, (uint8_t)(LOG_DAEMON | LOG_PRI(priority)), state.dropped);
    to = hlog_put(to, end, NULL, 0, HLOG_MESSAGE, text, strlen(text));
    to = hlog_put(to, end, NULL, 0, HLOG_IDENTIFIER, state.program, strlen(state.program));
    to = hlog_put(to, end, NULL, 0, HLOG_CODE_FILE, file, strnlen(file, 200));
    snprintf(number, sizeof number, "%i", line);
    to = hlog_put(to, end, NULL, 0, HLOG_CODE_LINE, number, strlen(number));
    snprintf(number, sizeof number, "%i", abs(error));
    if (error)
        to = hlog_put(to, end, NULL, 0, HLOG_ERRNO, number, strlen(number));
    if (!to)
        return false;
    r = logged_send(data, (size_t)(to - data));
    if (r == -EAGAIN && state.dropped < UINT32_MAX)
        state.dropped++;
    else if (r >= 0)
        state.dropped = 0;
    return r >= 0 || r == -EAGAIN;
}

int hybus_log_send(int priority, const void *fields, size_t size)
{
    uint8_t data[HLOG_HEAD_SIZE + 8192];
    int r;

    if (!state.socket)
        return -ENOTCONN;
    if (size > sizeof data - HLOG_HEAD_SIZE)
        return -EMSGSIZE;
    memcpy(hlog_head(data, (uint8_t)priority, state.dropped), fields, size);
    r = logged_send(data, HLOG_HEAD_SIZE + size);
    if (r >= 0)
        state.dropped = 0;
    return r;
}

/* --- the journal, and standard error ----------------------------------------------------------- */

#define FIELD(field) ((struct iovec){.iov_base = (field), .iov_len = strlen(field)})

static void to_journal(int priority, int error, const char *file, int line, const char *text)
{
    char message[MESSAGE_MAX + 16], identifier[96], code_file[256];
    char priority_field[16], code_line[32], errno_field[32];
    struct iovec fields[6];
    int n = 0;

    snprintf(message, sizeof message, "MESSAGE=%s", text);
    snprintf(priority_field, sizeof priority_field, "PRIORITY=%i", priority);
    snprintf(identifier, sizeof identifier, "SYSLOG_IDENTIFIER=%s", state.program);
    snprintf(code_file, sizeof code_file, "CODE_FILE=%s", file);
    snprintf(code_line, sizeof code_line, "CODE_LINE=%i", line);
    fields[n++] = FIELD(message);
    fields[n++] = FIELD(priority_field);
    fields[n++] = FIELD(identifier);
    fields[n++] = FIELD(code_file);
    fields[n++] = FIELD(code_line);
    if (error) {
        snprintf(errno_field, sizeof errno_field, "ERRNO=%i", abs(error));
        fields[n++] = FIELD(errno_field);
    }
    (void)sd_journal_sendv(fields, n);
}

int hybus_log_full(int priority, int error, const char *file, int line, const char *format, ...)
{
    char raw[MESSAGE_MAX], text[MESSAGE_MAX];
    int saved = errno;
    va_list args;
    int n;

    if (priority > state.max_priority)
        return error;

    va_start(args, format);
    n = vsnprintf(raw, sizeof raw, format, args);
    va_end(args);
    if (n >= 0 && (size_t)n < sizeof raw && error)
        snprintf(raw + n, sizeof raw - (size_t)n, ": %s",
                 strerrordesc_np(abs(error)) ?: "Unknown error");
    escape(raw, text, sizeof text);

    if (state.socket && to_logged(priority, error, file, line, text)) {
        errno = saved;
        return error;
    }
    if (state.journal)
        to_journal(priority, error, file, line, text);
    else
        fprintf(stderr, "<%i>%s: %s\n", priority, state.program, text);
    errno = saved;
    return error;
}
