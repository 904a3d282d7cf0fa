/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-socket.h"

#include <fcntl.h>
#include <hybus/agent.h>
#include <hybus/log.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "agent-peer.h"
#include "password.h"

#define PACKET_MAX HYBUS_AGENT_PACKET_MAX
#define WINDOW_ACCURACY_USEC 10000u

/* Somebody who waits until all are settled. */
typedef struct Settling {
    TAILQ_ENTRY(Settling) list;
    AgentSocket *socket;
    uint64_t generation;
    sd_event_source *timer;
    AgentSettled f;
    void *userdata;
} Settling;

struct AgentSocket {
    sd_event *event;
    Security *security;
    int fd;
    sd_event_source *io, *settled, *expiry, *windows;
    PasswordQueue *passwords;
    uint64_t expired_until;
    TAILQ_HEAD(, Peer) peers;
    TAILQ_HEAD(, Settling) settling;
    size_t n_peers, n_settling;
    char *buffer;
    AgentSettled on_change;
    void *on_change_userdata;
};

/* --- peers ----------------------------------------------------------------------------------- */

/* 1: a packet, 0: nothing there. */
static int receive(Peer *p)
{
    char *buffer = p->socket->buffer;
    ssize_t n;
    int r;

    /* No control data is taken: descriptors that come along are closed by the kernel. */
    n = recv(p->fd, buffer, PACKET_MAX + 1, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    if (n == 0)
        return -ECONNRESET;
    r = peer_packet(p, buffer, (size_t)n);
    explicit_bzero(buffer, (size_t)n);
    return r < 0 ? r : 1;
}

static void drop_peer(Peer *p)
{
    AgentSocket *a = p->socket;

    TAILQ_REMOVE(&a->peers, p, peers);
    a->n_peers--;
    peer_free(p);
    agent_socket_look(a); /* one less to wait for */
}

static int on_peer(sd_event_source *source, int fd, uint32_t events, void *userdata)
{
    Peer *p = userdata;
    int r = 1;

    if (events & EPOLLIN)
        for (unsigned i = 0; i < AGENT_PACKETS_PER_TURN && r > 0; i++)
            r = receive(p);
    else if (events & (EPOLLHUP | EPOLLERR))
        r = -ECONNRESET;
    if (r >= 0)
        r = peer_flush(p);
    if (r < 0)
        drop_peer(p);
    return 0;
}

/* However many strangers come, the daemons that judge and serve get through. */
static bool admits(const AgentSocket *a, const Peer *new)
{
    size_t n = 0, limit = new->uid == 0 ? AGENT_CONNECTIONS_OF_ROOT : AGENT_CONNECTIONS_PER_UID;
    const Peer *p;

    TAILQ_FOREACH (p, &a->peers, peers)
        n += p->uid == new->uid;
    return n < limit && (a->n_peers < AGENT_CONNECTIONS_MAX || new->uid == 0 ||
                         peer_may(new, "security.row") || peer_may(new, "security.connect"));
}

static int add_peer(AgentSocket *a, int fd)
{
    _cleanup_(peer_freep) Peer *p = peer_new(a->security, fd);
    int r;

    if (!p)
        return -ENOMEM;
    r = peer_identify(p);
    if (r >= 0 && !admits(a, p))
        r = -ENOBUFS;
    if (r >= 0)
        r = sd_event_add_io(a->event, &p->io, fd, EPOLLIN, on_peer, p);
    if (r < 0)
        return r;
    p->socket = a;
    TAILQ_INSERT_TAIL(&a->peers, p, peers);
    a->n_peers++;
    TAKE_PTR(p);
    return 0;
}

static int on_accept(sd_event_source *source, int listener, uint32_t events, void *userdata)
{
    AgentSocket *a = userdata;

    for (unsigned i = 0; i < AGENT_PACKETS_PER_TURN; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

        if (fd < 0)
            return 0;
        (void)add_peer(a, fd);
    }
    return 0;
}

/* --- changes --------------------------------------------------------------------------------- */

static void settling_free(Settling *s)
{
    TAILQ_REMOVE(&s->socket->settling, s, list);
    s->socket->n_settling--;
    sd_event_source_disable_unref(s->timer);
    free(s);
}

static void settling_end(Settling *s)
{
    AgentSettled f = s->f;
    void *userdata = s->userdata;

    settling_free(s);
    f(userdata);
}

/* A stranger who only listens has nothing to settle, and could keep everybody waiting. */
static bool all_settled(const AgentSocket *a, uint64_t generation)
{
    const Peer *p;

    TAILQ_FOREACH (p, &a->peers, peers)
        if (p->holds && p->settled < generation)
            return false;
    return true;
}

void agent_socket_look(AgentSocket *a)
{
    (void)sd_event_source_set_enabled(a->settled, SD_EVENT_ONESHOT);
}

static int on_settled(sd_event_source *source, void *userdata)
{
    AgentSocket *a = userdata;
    Settling *s, *next;

    for (s = TAILQ_FIRST(&a->settling); s; s = next) {
        next = TAILQ_NEXT(s, list);
        if (all_settled(a, s->generation))
            settling_end(s);
    }
    return 0;
}

/* Those who have not settled are cut off: what they still allow ends with their page. */
static int on_settle_timeout(sd_event_source *source, uint64_t usec, void *userdata)
{
    Settling *s = userdata;
    Peer *p, *next;

    for (p = TAILQ_FIRST(&s->socket->peers); p; p = next) {
        next = TAILQ_NEXT(p, peers);
        if (!p->holds || p->settled >= s->generation)
            continue;
        hybus_warning("%s (uid %u) did not settle in time and is disconnected", p->service, p->uid);
        drop_peer(p);
    }
    settling_end(s);
    return 0;
}

static void tell_all(AgentSocket *a, uint64_t generation)
{
    Peer *p, *next;

    for (p = TAILQ_FIRST(&a->peers); p; p = next) {
        next = TAILQ_NEXT(p, peers);
        if (!*p->service)
            continue;
        if (peer_send(p, json_pack("{s:s, s:I}", "op", "changed", "generation",
                                   (json_int_t)generation), -1) < 0)
            (void)shutdown(p->fd, SHUT_RDWR); /* freed by its own event: a caller may stand on it */
        else
            (void)sd_event_source_set_io_events(p->io, EPOLLIN | EPOLLOUT);
    }
}

static void arm_windows(AgentSocket *a)
{
    uint64_t next = security_next_window(a->security);

    if (next == UINT64_MAX) {
        (void)sd_event_source_set_enabled(a->windows, SD_EVENT_OFF);
        return;
    }
    (void)sd_event_source_set_time_relative(a->windows, next);
    (void)sd_event_source_set_enabled(a->windows, SD_EVENT_ONESHOT);
}

int agent_socket_changed(AgentSocket *a, AgentSettled f, void *userdata)
{
    uint64_t generation = hybus_page_writer_generation(a->security->page);
    Settling *s;
    int r;

    tell_all(a, generation);
    agent_socket_arm_expiry(a);
    arm_windows(a);
    if (!f)
        return 0;
    if (a->n_settling >= AGENT_SETTLING_MAX)
        return -ENOBUFS;
    s = calloc(1, sizeof *s);
    if (!s)
        return -ENOMEM;
    *s = (Settling){.socket = a, .generation = generation, .f = f, .userdata = userdata};
    TAILQ_INSERT_TAIL(&a->settling, s, list);
    a->n_settling++;
    r = sd_event_add_time_relative(a->event, &s->timer, CLOCK_MONOTONIC, AGENT_SETTLE_USEC, 10000,
                                   on_settle_timeout, s);
    if (r < 0) {
        settling_free(s);
        return r;
    }
    agent_socket_look(a);
    return 0;
}

void agent_socket_on_change(AgentSocket *a, AgentSettled f, void *userdata)
{
    a->on_change = f;
    a->on_change_userdata = userdata;
}

void agent_socket_tell_change(AgentSocket *a)
{
    (void)agent_socket_changed(a, NULL, NULL);
    if (a->on_change)
        a->on_change(a->on_change_userdata);
}

size_t agent_socket_principals(const AgentSocket *a, Subject *subjects, size_t size)
{
    const Peer *p;
    size_t n = 0;

    TAILQ_FOREACH (p, &a->peers, peers)
        for (size_t i = 0; i < p->handles_size; i++) {
            if (!p->handles[i])
                continue;
            if (n < size) {
                subjects[n] = security_remote_subject(p->handles[i]);
                subjects[n].ended = security_principal_is_void(a->security, p->handles[i]);
            }
            n++;
        }
    return n;
}

/* A token has expired: what it opened is cut like by a revocation. */
static int on_expiry(sd_event_source *source, uint64_t usec, void *userdata)
{
    AgentSocket *a = userdata;
    uint64_t since = a->expired_until;

    a->expired_until = store_now(a->security->store);
    if (security_expire(a->security, since))
        return agent_socket_changed(a, NULL, NULL);
    agent_socket_arm_expiry(a);
    return 0;
}

/* The clock may be set meanwhile, so never sleep for more than a minute while something can expire. */
void agent_socket_arm_expiry(AgentSocket *a)
{
    uint64_t next = security_next_expiry(a->security), now = store_now(a->security->store);

    if (next == UINT64_MAX) {
        (void)sd_event_source_set_enabled(a->expiry, SD_EVENT_OFF);
        return;
    }
    (void)sd_event_source_set_time_relative(a->expiry,
                                            MIN_OF(next - now, UINT64_C(60000000)) + 1000);
    (void)sd_event_source_set_enabled(a->expiry, SD_EVENT_ONESHOT);
}

/* A window of time has opened or closed: what depends on it is judged anew. */
static int on_window(sd_event_source *source, uint64_t usec, void *userdata)
{
    AgentSocket *a = userdata;

    if (security_windows_moved(a->security))
        return agent_socket_changed(a, NULL, NULL);
    arm_windows(a);
    return 0;
}

const Principal *agent_socket_principal(const AgentSocket *a, uint32_t uid, uint64_t handle)
{
    const Principal *found = NULL;
    const Peer *p;

    TAILQ_FOREACH (p, &a->peers, peers)
        if (!found && (uid == UINT32_MAX || p->uid == uid))
            found = peer_principal(p, handle);
    return found;
}

PasswordQueue *agent_socket_passwords(AgentSocket *a)
{
    return a->passwords;
}

void agent_socket_wake(Peer *p)
{
    (void)sd_event_source_set_io_events(p->io, EPOLLIN | EPOLLOUT);
}

/* --- the socket ------------------------------------------------------------------------------ */

int agent_socket_listen(const char *path)
{
    _cleanup_(closep) int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (fd < 0)
        return -errno;
    if (strlen(path) >= sizeof address.sun_path)
        return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    if (unlink(path) < 0 && errno != ENOENT)
        return -errno;
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || chmod(path, 0666) < 0 ||
        listen(fd, 128) < 0)
        return -errno;
    return TAKE_FD(fd);
}

int agent_socket_new(sd_event *event, Security *security, int fd, AgentSocket **ret)
{
    _cleanup_(agent_socket_freep) AgentSocket *a = calloc(1, sizeof *a);
    int r;

    if (!a) {
        safe_close(fd);
        return -ENOMEM;
    }
    TAILQ_INIT(&a->peers);
    TAILQ_INIT(&a->settling);
    a->event = sd_event_ref(event);
    a->security = security;
    a->fd = fd;
    a->buffer = malloc(PACKET_MAX + 1);
    if (!a->buffer)
        return -ENOMEM;
    a->expired_until = store_now(security->store);
    /* A socket that systemd hands over is a blocking one. */
    if (fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
        return -errno;
    r = sd_event_add_io(event, &a->io, fd, EPOLLIN, on_accept, a);
    if (r >= 0)
        r = sd_event_add_defer(event, &a->settled, on_settled, a);
    if (r >= 0)
        r = sd_event_source_set_enabled(a->settled, SD_EVENT_OFF);
    if (r >= 0)
        r = sd_event_add_time_relative(event, &a->expiry, CLOCK_BOOTTIME, 0, 100000, on_expiry, a);
    if (r >= 0)
        r = sd_event_add_time_relative(event, &a->windows, CLOCK_BOOTTIME, 0, WINDOW_ACCURACY_USEC,
                                       on_window, a);
    if (r < 0)
        return r;
    r = password_queue_new(event, &a->passwords);
    if (r < 0)
        return r;
    agent_socket_arm_expiry(a);
    arm_windows(a);
    *ret = TAKE_PTR(a);
    return 0;
}

void agent_socket_free(AgentSocket *a)
{
    if (!a)
        return;
    while (!TAILQ_EMPTY(&a->settling))
        settling_free(TAILQ_FIRST(&a->settling));
    while (!TAILQ_EMPTY(&a->peers))
        drop_peer(TAILQ_FIRST(&a->peers));
    password_queue_free(a->passwords);
    sd_event_source_disable_unref(a->io);
    sd_event_source_disable_unref(a->settled);
    sd_event_source_disable_unref(a->expiry);
    sd_event_source_disable_unref(a->windows);
    safe_close(a->fd);
    sd_event_unref(a->event);
    free(a->buffer);
    free(a);
}

int agent_socket_feed(Security *security, uint32_t uid, const char *packet, size_t size,
                      char **ret_answer)
{
    Peer *p = peer_new(security, -1);
    int r;

    if (!p)
        return -ENOMEM;
    p->uid = uid;
    snprintf(p->service, sizeof p->service, "feed");
    r = peer_packet(p, packet, size);
    *ret_answer = r >= 0 ? peer_first_answer(p) : NULL;
    peer_free(p);
    return r;
}
