/* SPDX-License-Identifier: Apache-2.0 */
/* A socket that is closed while the client still sends (the rest of a body that was refused, window
 * updates) resets the connection, and the reset takes the end of the answer along before the client
 * has read it (RFC 9112, 9.6). So a connection that ends by itself only stops writing here, and is
 * read into nothing for a moment. */

#include "http.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#define LINGER_MAX 64u
#define LINGER_USEC (2u * 1000u * 1000u)
#define LINGER_BYTES (4u * 1024u * 1024u)
#define READS_PER_TURN 16

struct HttpLinger {
    HttpLinger *next, **prev;
    Http *http;
    int fd;
    size_t size;
    sd_event_source *readable, *timeout;
};

static void linger_free(HttpLinger *l)
{
    *l->prev = l->next;
    if (l->next)
        l->next->prev = l->prev;
    l->http->n_lingers--;
    sd_event_source_disable_unref(l->readable);
    sd_event_source_disable_unref(l->timeout);
    safe_close(l->fd);
    free(l);
}

static int on_readable(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
    static char nothing[16 * 1024];
    HttpLinger *l = userdata;

    for (int i = 0; i < READS_PER_TURN; i++) {
        ssize_t n = recv(fd, nothing, sizeof(nothing), MSG_DONTWAIT);

        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            return 0;
        if (n <= 0 || (l->size += (size_t)n) > LINGER_BYTES) {
            linger_free(l);
            return 0;
        }
    }
    return 0;
}

static int on_timeout(sd_event_source *s, uint64_t usec, void *userdata)
{
    linger_free(userdata);
    return 0;
}

static bool is_at_end(int fd)
{
    char c;

    return recv(fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

void http_linger(Http *h, int fd)
{
    HttpLinger *l;

    if (shutdown(fd, SHUT_WR) < 0 || is_at_end(fd) || h->n_lingers >= LINGER_MAX ||
        !(l = calloc(1, sizeof(*l)))) {
        safe_close(fd);
        return;
    }
    *l = (HttpLinger){.next = h->lingers, .prev = &h->lingers, .http = h, .fd = fd};
    if (l->next)
        l->next->prev = &l->next;
    h->lingers = l;
    h->n_lingers++;
    if (sd_event_add_io(h->event, &l->readable, fd, EPOLLIN, on_readable, l) < 0 ||
        sd_event_add_time_relative(h->event, &l->timeout, CLOCK_MONOTONIC, LINGER_USEC, 250000,
                                   on_timeout, l) < 0)
        linger_free(l);
}

void http_lingers_free(Http *h)
{
    while (h->lingers)
        linger_free(h->lingers);
}
