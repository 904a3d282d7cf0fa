/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-peer.h"

#include "agent-login.h"

#include <hybus/agent.h>
#include <sys/socket.h>

#define PACKET_MAX HYBUS_AGENT_PACKET_MAX

struct Packet {
    TAILQ_ENTRY(Packet) queue;
    size_t size;
    int fd; /* to go with it, or -1; not owned */
    char text[];
};

/* --- principals of a peer -------------------------------------------------------------------- */

static Principal **find_place(const Peer *p, uint64_t handle)
{
    if (p->handles_size == 0 || handle == 0)
        return NULL;
    for (size_t i = handle * UINT64_C(0x9e3779b97f4a7c15) >> 32;; i++) {
        Principal **place = &p->handles[i & (p->handles_size - 1)];

        if (!*place)
            return NULL;
        if ((*place)->handle == handle)
            return place;
    }
}

static void put_principal(Peer *p, Principal *principal)
{
    for (size_t i = principal->handle * UINT64_C(0x9e3779b97f4a7c15) >> 32;; i++) {
        Principal **place = &p->handles[i & (p->handles_size - 1)];

        if (*place)
            continue;
        *place = principal;
        return;
    }
}

Principal *peer_principal(const Peer *p, uint64_t handle)
{
    Principal **place = find_place(p, handle);
    return place ? *place : NULL;
}

static int rehash(Peer *p, size_t size)
{
    Principal **old = p->handles, **new = calloc(size, sizeof(Principal *));
    size_t old_size = p->handles_size;

    if (!new)
        return -ENOMEM;
    p->handles = new;
    p->handles_size = size;
    for (size_t i = 0; i < old_size; i++)
        if (old[i])
            put_principal(p, old[i]);
    free(old);
    return 0;
}

int peer_add_principal(Peer *p, Principal *principal)
{
    int r = p->n_handles >= AGENT_HANDLES_MAX ? -ENOBUFS : 0;

    if (r >= 0 && (p->n_handles + 1) * 2 > p->handles_size)
        r = rehash(p, p->handles_size ? p->handles_size * 2 : 16);
    if (r < 0) {
        principal_free(principal);
        return r;
    }
    put_principal(p, principal);
    p->n_handles++;
    return 0;
}

void peer_remove_principal(Peer *p, uint64_t handle)
{
    Principal **place = find_place(p, handle);
    size_t i;

    if (!place)
        return;
    principal_free(*place);
    *place = NULL;
    p->n_handles--;
    /* Those behind it in the same run may have been moved on by it. */
    for (i = (size_t)(place - p->handles) + 1; p->handles[i & (p->handles_size - 1)]; i++) {
        Principal *moved = TAKE_PTR(p->handles[i & (p->handles_size - 1)]);
        put_principal(p, moved);
    }
}

/* --- peers ----------------------------------------------------------------------------------- */

Peer *peer_new(Security *security, int fd)
{
    Peer *p = calloc(1, sizeof *p);

    if (!p) {
        safe_close(fd);
        return NULL;
    }
    TAILQ_INIT(&p->out);
    TAILQ_INIT(&p->waiting);
    LIST_INIT(&p->pending);
    p->security = security;
    p->fd = fd;
    return p;
}

void peer_free(Peer *p)
{
    Packet *packet;

    if (!p)
        return;
    peer_withdraw_all(p);
    login_leave(p);
    sd_event_source_disable_unref(p->io);
    safe_close(p->fd);
    while ((packet = TAILQ_FIRST(&p->out))) {
        TAILQ_REMOVE(&p->out, packet, queue);
        explicit_bzero(packet->text, packet->size);
        free(packet);
    }
    for (size_t i = 0; i < p->handles_size; i++)
        principal_free(p->handles[i]);
    free(p->handles);
    words_free(p->permissions);
    free(p->gids);
    free(p);
}

Subject peer_subject(const Peer *p)
{
    return (Subject){.uid = p->uid, .gids = p->gids, .n_gids = p->n_gids};
}

bool peer_may(const Peer *p, const char *permission)
{
    const Subject subject = peer_subject(p);

    /* h-securityd's own filter asks like everybody else's. */
    return p->uid == geteuid() || security_allows(p->security, &subject, permission);
}

int peer_send(Peer *p, json_t *j, int fd)
{
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    size_t size = text ? strlen(text) : 0;
    Packet *packet;

    json_decref(j);
    if (!text)
        return -ENOMEM;
    if (size > PACKET_MAX || p->n_out >= AGENT_UNANSWERED_MAX ||
        p->out_bytes + size > AGENT_UNANSWERED_BYTES) {
        explicit_bzero(text, size);
        free(text);
        return size > PACKET_MAX ? -EMSGSIZE : -EPROTO;
    }
    packet = malloc(sizeof *packet + size + 1);
    if (packet) {
        packet->size = size;
        packet->fd = fd;
        memcpy(packet->text, text, size + 1);
        TAILQ_INSERT_TAIL(&p->out, packet, queue);
        p->n_out++;
        p->out_bytes += size;
    }
    explicit_bzero(text, size);
    free(text);
    return packet ? 0 : -ENOMEM;
}

/* 1: sent, 0: the peer does not read, <0: gone. */
static int send_packet(const Peer *p, Packet *packet)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {packet->text, packet->size};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    if (packet->fd >= 0) {
        struct cmsghdr *c;

        message.msg_control = &control;
        message.msg_controllen = sizeof control.space;
        c = CMSG_FIRSTHDR(&message);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(c), &packet->fd, sizeof(int));
    }
    if (sendmsg(p->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
        return 1;
    return errno == EAGAIN || errno == EINTR || errno == ENOBUFS ? 0 : -errno;
}

char *peer_first_answer(const Peer *p)
{
    return TAILQ_EMPTY(&p->out) ? NULL : strdup(TAILQ_FIRST(&p->out)->text);
}

int peer_flush(Peer *p)
{
    Packet *packet;
    int r;

    while ((packet = TAILQ_FIRST(&p->out))) {
        r = send_packet(p, packet);
        if (r < 0)
            return r;
        if (r == 0)
            break;
        TAILQ_REMOVE(&p->out, packet, queue);
        p->n_out--;
        p->out_bytes -= packet->size;
        explicit_bzero(packet->text, packet->size);
        free(packet);
    }
    return sd_event_source_set_io_events(p->io, packet ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

/* --- who it is ------------------------------------------------------------------------------- */

static int read_groups(Peer *p, gid_t first)
{
    socklen_t size = 64 * sizeof(gid_t);
    size_t n;

    for (;;) {
        gid_t *larger = realloc(p->gids, size + sizeof(gid_t));

        if (!larger)
            return -ENOMEM;
        p->gids = larger;
        if (getsockopt(p->fd, SOL_SOCKET, SO_PEERGROUPS, p->gids, &size) >= 0)
            break;
        if (errno != ERANGE || size > 65536 * sizeof(gid_t))
            return -errno;
    }
    n = size / sizeof(gid_t);
    p->gids[n] = first;
    p->n_gids = n + 1;
    return 0;
}

int peer_identify(Peer *p)
{
    struct ucred credentials;
    socklen_t size = sizeof credentials;

    if (getsockopt(p->fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0)
        return -errno;
    p->uid = credentials.uid;
    return read_groups(p, credentials.gid);
}
