/* SPDX-License-Identifier: Apache-2.0 */

/* A program that logs, for ./hybridos bench log: bench-log-send KIND SOCKET COUNT IDENTIFIER. It sends COUNT
 * records with a message of 100 bytes one after another, waiting where there is no room, so that none is lost,
 * and prints how many seconds that took. KIND: native, journal, syslog. */

#include <err.h>
#include <log-protocol.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

static size_t native(uint8_t *to, size_t room, const char *identifier, const char *message)
{
    uint8_t *end = hlog_head(to, LOG_USER | LOG_INFO, 0);

    end = hlog_put(end, to + room, NULL, 0, HLOG_MESSAGE, message, strlen(message));
    end = hlog_put(end, to + room, NULL, 0, HLOG_IDENTIFIER, identifier, strlen(identifier));
    return (size_t)(end - to);
}

/* The journal's own protocol, as sd_journal_send() speaks it. */
static size_t journal(uint8_t *to, size_t room, const char *identifier, const char *message)
{
    return (size_t)snprintf((char *)to, room, "MESSAGE=%s\nPRIORITY=6\nSYSLOG_IDENTIFIER=%s\n", message,
                            identifier);
}

/* As syslog(3) has it. */
static size_t syslog_line(uint8_t *to, size_t room, const char *identifier, const char *message)
{
    time_t now = time(NULL);
    struct tm tm;
    char stamp[32];

    strftime(stamp, sizeof(stamp), "%b %e %T", localtime_r(&now, &tm));
    return (size_t)snprintf((char *)to, room, "<%d>%s %s[%d]: %s", LOG_USER | LOG_INFO, stamp, identifier,
                            getpid(), message);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

int main(int argc, char *argv[])
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t (*make)(uint8_t *, size_t, const char *, const char *);
    unsigned long count;
    double began;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    if (argc != 5 || fd < 0)
        errx(EXIT_FAILURE, "KIND SOCKET COUNT IDENTIFIER");
    make = strcmp(argv[1], "native") == 0 ? native : strcmp(argv[1], "journal") == 0 ? journal : syslog_line;
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", argv[2]);
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        err(EXIT_FAILURE, "%s", argv[2]);
    count = strtoul(argv[3], NULL, 10);
    began = now();
    for (unsigned long i = 0; i < count; i++) {
        uint8_t data[512];
        char message[128];
        size_t size;

        snprintf(message, sizeof(message), "the sensor in room %7lu says 21.5 degrees, %060lu", i % 977, i);
        message[100] = '\0';
        size = make(data, sizeof(data), argv[4], message);
        if (send(fd, data, size, MSG_NOSIGNAL) < 0)
            err(EXIT_FAILURE, "send");
    }
    printf("%.6f\n", now() - began);
    return EXIT_SUCCESS;
}
