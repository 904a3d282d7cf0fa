/* SPDX-License-Identifier: Apache-2.0 */
/* A CoAP load generator that is not the bottleneck: datagrams made once and changed in place, taken
 * and sent many at a time.
 *
 *     bench-coap get HOST PORT PATH BYTES SOCKETS DEPTH SECONDS
 * Confirmable GETs, DEPTH of them in flight from each of SOCKETS ports; each answer has to be
 * a 2.05 of BYTES bytes. What is not answered within a second is lost, and asked anew.
 *
 *     bench-coap observe HOST PORT PATH OBSERVERS SECONDS
 * As many ports that observe; every confirmable notification is acknowledged. Says "observing" on
 * standard error when all are registered. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DEPTH_MAX 64
#define SOCKETS_MAX 4096
#define ROOM 1500
#define LOST_USEC 1000000u
#define RETRY_USEC 3000000u
#define BUCKETS 2000000u /* of a microsecond each */

typedef struct port {
    int fd;
    uint16_t mid;
    uint16_t mids[DEPTH_MAX];
    uint64_t sent[DEPTH_MAX];
    bool registered;
    uint64_t values;
    uint32_t observed; /* the Observe option of the last one */
} port;

static port ports[SOCKETS_MAX];
static uint32_t histogram[BUCKETS + 1];
static uint8_t incoming[DEPTH_MAX][ROOM], outgoing[DEPTH_MAX][256];
static uint64_t answers, lost, bad;

static uint64_t now_usec(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

/* "a/b" as Uri-Path options; the option before had the number `last`. */
static size_t put_path(uint8_t *to, const char *path, unsigned last)
{
    size_t n = 0;

    for (unsigned delta = 11 - last; *path; delta = 0) {
        size_t size = strcspn(path, "/");

        if (size > 12) {
            to[n++] = (uint8_t)(delta << 4 | 13);
            to[n++] = (uint8_t)(size - 13);
        } else {
            to[n++] = (uint8_t)(delta << 4 | size);
        }
        memcpy(to + n, path, size);
        n += size;
        path += size + (path[size] == '/');
    }
    return n;
}

/* With a token of two bytes, which is the slot. */
static size_t make_get(uint8_t *to, uint16_t mid, uint16_t slot, const char *path, bool observe)
{
    size_t n = 6;

    to[0] = 0x42;
    to[1] = 1;
    to[2] = (uint8_t)(mid >> 8);
    to[3] = (uint8_t)mid;
    to[4] = (uint8_t)(slot >> 8);
    to[5] = (uint8_t)slot;
    if (observe)
        to[n++] = 0x60; /* Observe, empty: 0 */
    return n + put_path(to + n, path, observe ? 6 : 0);
}

static int open_port(const struct sockaddr_in *to)
{
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), size = 1 << 20;

    if (fd < 0 || connect(fd, (const struct sockaddr *)to, sizeof(*to)) < 0) {
        perror("socket");
        exit(1);
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    return fd;
}

/* The payload's size, or -1: not a 2.05 that can be read. */
static int payload_of(const uint8_t *m, size_t size)
{
    size_t at = 4u + (m[0] & 15);

    if (size < 4 || m[1] != 0x45)
        return -1;
    while (at < size && m[at] != 0xff) {
        unsigned delta = m[at] >> 4, n = m[at] & 15;

        at++;
        at += delta == 13 ? 1 : delta == 14 ? 2 : 0;
        if (n == 13)
            n = m[at++] + 13u;
        at += n;
    }
    return at < size ? (int)(size - at - 1) : 0;
}

/* The Observe option, which comes behind no other but an entity tag. */
static bool observe_of(const uint8_t *m, size_t size, uint32_t *ret)
{
    unsigned number = 0;

    for (size_t at = 4u + (m[0] & 15); at < size && number < 6; at += m[at] & 15u, at++) {
        number += m[at] >> 4;
        if (number != 6)
            continue;
        *ret = 0;
        for (size_t i = 1; i <= (m[at] & 15u) && at + i < size; i++)
            *ret = *ret << 8 | m[at + i];
        return true;
    }
    return false;
}

static size_t take_batch(int fd, size_t n, struct mmsghdr *h, struct iovec *v)
{
    int got;

    for (size_t i = 0; i < n; i++) {
        v[i] = (struct iovec){incoming[i], ROOM};
        h[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &v[i], .msg_iovlen = 1}};
    }
    got = recvmmsg(fd, h, (unsigned)n, MSG_DONTWAIT, NULL);
    return got > 0 ? (size_t)got : 0;
}

static void send_batch(int fd, const size_t *sizes, size_t n)
{
    struct mmsghdr h[DEPTH_MAX];
    struct iovec v[DEPTH_MAX];

    for (size_t i = 0; i < n; i++) {
        v[i] = (struct iovec){outgoing[i], sizes[i]};
        h[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &v[i], .msg_iovlen = 1}};
    }
    for (size_t at = 0; at < n;) {
        int done = sendmmsg(fd, h + at, (unsigned)(n - at), 0);

        if (done > 0)
            at += (size_t)done;
        else if (errno == EAGAIN)
            (void)poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, 10);
        else
            return; /* what is not sent counts as lost in a second */
    }
}

static size_t ask(port *p, unsigned slot, const char *path, size_t n, uint64_t now)
{
    p->mids[slot] = p->mid++;
    p->sent[slot] = now;
    return make_get(outgoing[n], p->mids[slot], (uint16_t)slot, path, false);
}

static void count(uint64_t took)
{
    histogram[took < BUCKETS ? took : BUCKETS]++;
    answers++;
}

static void take_answers(port *p, const char *path, unsigned depth, int bytes)
{
    struct mmsghdr h[DEPTH_MAX];
    struct iovec v[DEPTH_MAX];
    size_t sizes[DEPTH_MAX], got = take_batch(p->fd, DEPTH_MAX, h, v), n = 0;
    uint64_t now = now_usec();

    for (size_t i = 0; i < got; i++) {
        const uint8_t *m = incoming[i];
        unsigned slot = m[4] << 8 | m[5], mid = m[2] << 8 | m[3];

        if (h[i].msg_len < 6 || (m[0] & 0xf) != 2 || slot >= depth) {
            bad++;
            continue;
        }
        if ((m[0] & 0x30) == 0x20 && mid != p->mids[slot])
            continue; /* of one that was given up */
        if (payload_of(m, h[i].msg_len) != bytes) {
            bad++;
            if (bad == 1)
                fprintf(stderr, "code %u.%02u with %d bytes\n", m[1] >> 5, m[1] & 31,
                        payload_of(m, h[i].msg_len));
        } else {
            count(now - p->sent[slot]);
        }
        sizes[n] = ask(p, slot, path, n, now);
        n++;
    }
    send_batch(p->fd, sizes, n);
}

static void ask_lost(port *p, const char *path, unsigned depth, uint64_t now)
{
    size_t sizes[DEPTH_MAX], n = 0;

    for (unsigned slot = 0; slot < depth; slot++)
        if (now > p->sent[slot] + LOST_USEC) {
            lost += p->sent[slot] != 0;
            sizes[n] = ask(p, slot, path, n, now);
            n++;
        }
    send_batch(p->fd, sizes, n);
}

static uint32_t percentile(double part)
{
    uint64_t wanted = (uint64_t)((double)answers * part), seen = 0;

    for (uint32_t i = 0; i <= BUCKETS; i++) {
        seen += histogram[i];
        if (seen > wanted)
            return i;
    }
    return BUCKETS;
}

static int get(const struct sockaddr_in *to, char *argv[])
{
    const char *path = argv[0];
    int bytes = atoi(argv[1]), epoll = epoll_create1(0);
    unsigned sockets = (unsigned)atoi(argv[2]), depth = (unsigned)atoi(argv[3]);
    double seconds = atof(argv[4]);
    uint64_t begin, end, check = 0;
    struct epoll_event events[64];
    struct rusage usage;

    if (sockets > SOCKETS_MAX || depth > DEPTH_MAX)
        return 1;
    for (unsigned i = 0; i < sockets; i++) {
        ports[i].fd = open_port(to);
        ports[i].mid = (uint16_t)random();
        (void)epoll_ctl(epoll, EPOLL_CTL_ADD, ports[i].fd,
                        &(struct epoll_event){.events = EPOLLIN, .data.ptr = &ports[i]});
        ask_lost(&ports[i], path, depth, now_usec());
    }
    begin = now_usec();
    end = begin + (uint64_t)(seconds * 1e6);
    for (uint64_t now = begin; now < end; now = now_usec()) {
        int n = epoll_wait(epoll, events, 64, 100);

        for (int i = 0; i < n; i++)
            take_answers(events[i].data.ptr, path, depth, bytes);
        if (now - check > LOST_USEC / 4) {
            check = now;
            for (unsigned i = 0; i < sockets; i++)
                ask_lost(&ports[i], path, depth, now);
        }
    }
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"requests\": %.0f, \"p50\": %u, \"p99\": %u, \"lost\": %llu, \"bad\": %llu, \"own "
           "cpu\": %.2f}\n",
           (double)answers / ((double)(now_usec() - begin) / 1e6), percentile(0.5),
           percentile(0.99), (unsigned long long)lost, (unsigned long long)bad,
           ((double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
            (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6) /
               seconds);
    return bad > 0 || answers == 0;
}

/* --- observers ----------------------------------------------------------------------------------
 */

static unsigned registered;

static void take_values(port *p)
{
    uint8_t m[ROOM];
    uint32_t number;
    ssize_t n;

    while ((n = recv(p->fd, m, sizeof(m), MSG_DONTWAIT)) >= 4) {
        if (m[1] == 0)
            continue; /* the answer follows */
        if ((m[0] & 0x30) == 0) {
            uint8_t ack[4] = {0x60, 0, m[2], m[3]};

            (void)send(p->fd, ack, sizeof(ack), 0);
        }
        if (m[1] != 0x45) {
            bad++;
            continue;
        }
        if (!observe_of(m, (size_t)n, &number))
            continue; /* an answer that is no observation */
        if (!p->registered)
            registered++;
        else if (number == p->observed)
            continue; /* the same once more */
        p->registered = true;
        p->observed = number;
        p->values++;
    }
}

static void wait_for_values(int epoll, int milliseconds)
{
    struct epoll_event events[64];
    int n = epoll_wait(epoll, events, 64, milliseconds);

    for (int i = 0; i < n; i++)
        take_values(events[i].data.ptr);
}

static int observe(const struct sockaddr_in *to, char *argv[])
{
    unsigned n = (unsigned)atoi(argv[1]);
    uint64_t end, least = UINT64_MAX, total = 0;
    int epoll = epoll_create1(0);
    uint8_t message[256];

    if (n > SOCKETS_MAX)
        return 1;
    for (unsigned i = 0; i < n; i++) {
        ports[i].fd = open_port(to);
        (void)epoll_ctl(epoll, EPOLL_CTL_ADD, ports[i].fd,
                        &(struct epoll_event){.events = EPOLLIN, .data.ptr = &ports[i]});
        (void)send(ports[i].fd, message, make_get(message, (uint16_t)i, 7, argv[0], true), 0);
        if (i % 32 == 31)
            wait_for_values(epoll, 5);
    }
    end = now_usec() + 60000000u;
    for (uint64_t again = now_usec() + RETRY_USEC; registered < n && now_usec() < end;) {
        wait_for_values(epoll, 100);
        if (now_usec() < again)
            continue;
        for (unsigned i = 0; i < n; i++) /* the same message once more */
            if (!ports[i].registered)
                (void)send(ports[i].fd, message, make_get(message, (uint16_t)i, 7, argv[0], true),
                           0);
        again = now_usec() + RETRY_USEC;
    }
    if (registered < n)
        fprintf(stderr, "only %u of %u are registered\n", registered, n);
    fprintf(stderr, "observing\n");
    for (unsigned i = 0; i < n; i++)
        ports[i].values = 0;
    end = now_usec() + (uint64_t)(atof(argv[2]) * 1e6);
    while (now_usec() < end)
        wait_for_values(epoll, 100);
    for (unsigned i = 0; i < n; i++) {
        total += ports[i].values;
        least = ports[i].values < least ? ports[i].values : least;
    }
    printf("{\"observers\": %u, \"notifications\": %llu, \"fewest of one\": %llu, \"bad\": %llu}\n",
           registered, (unsigned long long)total, (unsigned long long)least,
           (unsigned long long)bad);
    return registered < n || bad > 0;
}

int main(int argc, char *argv[])
{
    struct sockaddr_in to = {.sin_family = AF_INET};

    if (argc < 4 || inet_pton(AF_INET, argv[2], &to.sin_addr) != 1)
        return 2;
    to.sin_port = htons((uint16_t)atoi(argv[3]));
    if (strcmp(argv[1], "get") == 0 && argc == 9)
        return get(&to, argv + 4);
    if (strcmp(argv[1], "observe") == 0 && argc == 7)
        return observe(&to, argv + 4);
    return 2;
}
