/* SPDX-License-Identifier: Apache-2.0 */
/* The connection to h-securityd and its life. */
#include "agent-internal.h"

#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#define DEADLINE_ACCURACY_USEC (50u * 1000u)
#define DESCRIPTORS_MAX 4u /* of one packet; only one is ever expected */

static void connect_agent(hybus_agent *a);

/* --- packets --------------------------------------------------------------------------------- */

int agent_decimal(const json_t *v, uint64_t *ret)
{
    const char *s = json_string_value(v);
    uint64_t n = 0;

    if (json_is_integer(v) && json_integer_value(v) >= 0) {
        *ret = (uint64_t)json_integer_value(v);
        return 0;
    }
    if (!s || !*s)
        return -EPROTO;
    for (; *s; s++)
        if (*s < '0' || *s > '9' || __builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, (uint64_t)(*s - '0'), &n))
            return -EPROTO;
    *ret = n;
    return 0;
}

int agent_error_code(const json_t *answer)
{
    static const struct {
        const char *name;
        int error;
    } names[] = {
        {"AccessDenied", -EACCES}, {"Unauthenticated", -EKEYREJECTED}, {"InvalidArgument", -EINVAL},
        {"NotFound", -ENOENT},     {"LimitExceeded", -ENOBUFS},        {"Throttled", -EAGAIN},
        {"Exists", -EEXIST},
    };
    const char *name = json_string_value(json_object_get(answer, "error"));

    if (json_is_true(json_object_get(answer, "ok")))
        return 0;
    for (size_t i = 0; name && i < ELEMENTS(names); i++)
        if (streq(name, names[i].name))
            return names[i].error;
    return -EIO;
}

int agent_send_packet(hybus_agent *a, const char *packet)
{
    if (send(a->fd, packet, strlen(packet), MSG_NOSIGNAL | MSG_DONTWAIT) >= 0)
        return 1;
    return errno == EAGAIN || errno == ENOBUFS || errno == EINTR ? 0 : -errno;
}

void agent_want(hybus_agent *a, uint32_t events)
{
    (void)sd_event_source_set_io_events(a->io, events);
}

/* --- the connection -------------------------------------------------------------------------- */

static void retry_later(hybus_agent *a)
{
    (void)sd_event_source_set_time_relative(a->retry, a->retry_usec);
    (void)sd_event_source_set_enabled(a->retry, SD_EVENT_ONESHOT);
    a->retry_usec = MIN_OF(a->retry_usec * 2, (uint64_t)AGENT_RETRY_LAST_USEC);
}

static void disconnect(hybus_agent *a)
{
    a->io = sd_event_source_disable_unref(a->io);
    a->fd = safe_close(a->fd);
    a->ready = false;
    a->hellos_sent = a->hellos_answered = 0;
    a->generation = a->settled = 0;
    for (size_t i = 0; i < a->n_changed; i++)
        a->changed[i].settled = 0;
    hybus_page_unmap(a->page);
    a->page = NULL;
    agent_notes_drop(a);
    agent_requeue(a);
}

static int handle_changed(hybus_agent *a, const json_t *packet)
{
    uint64_t generation;

    if (agent_decimal(json_object_get(packet, "generation"), &generation) < 0)
        return -EPROTO;
    if (!a->ready || generation <= a->generation)
        return 0;
    a->generation = generation;
    /* The interfaces may have changed with it: members first, then the callbacks. */
    return agent_send_hello(a);
}

static int handle_answer(hybus_agent *a, json_t *answer, const char *packet, size_t size, int fd)
{
    uint64_t id;

    if (streq(strempty(json_string_value(json_object_get(answer, "op"))), "changed"))
        return handle_changed(a, answer);
    if (agent_decimal(json_object_get(answer, "id"), &id) < 0)
        return -EPROTO;
    if (id == (uint64_t)AGENT_HELLO_ID)
        return a->hellos_answered < a->hellos_sent ? agent_answer_hello(a, answer, fd) : -EPROTO;
    agent_answer(a, id, answer, packet, size);
    return 0;
}

int hybus_agent_packet(hybus_agent *a, const char *packet, size_t size, int fd)
{
    json_t *answer = json_loadb(packet, size, JSON_REJECT_DUPLICATES, NULL);
    int r = json_is_object(answer) ? handle_answer(a, answer, packet, size, fd) : -EPROTO;

    json_decref(answer);
    return r;
}

/* 1: a packet, 0: nothing there, <0: the connection is of no more use. */
static int receive(hybus_agent *a)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(DESCRIPTORS_MAX * sizeof(int))];
    } control;
    struct iovec iov = {a->buffer, HYBUS_AGENT_PACKET_MAX + 1};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = &control,
                         .msg_controllen = sizeof control};
    int fds[DESCRIPTORS_MAX], r;
    size_t n_fds = 0;
    ssize_t n;

    n = recvmsg(a->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c))
        if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
            size_t more = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

            memcpy(fds + n_fds, CMSG_DATA(c), more * sizeof(int));
            n_fds += more;
        }
    if (n == 0)
        r = -ECONNRESET;
    else if ((size_t)n > HYBUS_AGENT_PACKET_MAX || (msg.msg_flags & (MSG_TRUNC | MSG_CTRUNC)))
        r = -EPROTO;
    else
        r = hybus_agent_packet(a, a->buffer, (size_t)n, n_fds == 1 ? fds[0] : -1);
    if (n > 0)
        explicit_bzero(a->buffer, (size_t)n);
    for (size_t i = 0; i < n_fds; i++)
        safe_close(fds[i]);
    return r < 0 ? r : 1;
}

static int on_io(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    hybus_agent *a = userdata;
    int r = 0;

    /* Bounded, so that a busy agent does not keep the rest of the loop waiting. */
    for (int i = 0; i < 32; i++) {
        r = receive(a);
        if (r <= 0)
            break;
    }
    if (r < 0 || (r == 0 && (revents & EPOLLERR))) {
        disconnect(a);
        retry_later(a);
        return 0;
    }
    if (revents & EPOLLOUT)
        agent_flush(a);
    agent_arm_deadline(a);
    return 0;
}

static int open_connection(hybus_agent *a)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    _cleanup_(closep) int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int r;

    if (fd < 0)
        return -errno;
    memcpy(address.sun_path, a->path, strlen(a->path) + 1);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
        return -errno;
    r = sd_event_add_io(a->event, &a->io, fd, EPOLLIN, on_io, a);
    if (r < 0)
        return r;
    a->fd = TAKE_FD(fd);
    return agent_send_hello(a);
}

static void connect_agent(hybus_agent *a)
{
    if (open_connection(a) < 0) {
        if (a->fd >= 0)
            disconnect(a);
        retry_later(a);
    }
}

static int on_retry(sd_event_source *s, uint64_t usec, void *userdata)
{
    connect_agent(userdata);
    return 0;
}

static int new_parts(hybus_agent *a, const char *service, const char *const *interfaces,
                     const char *path)
{
    int r;

    a->service = strdup(service);
    a->path = strdup(path);
    a->interfaces = json_array();
    a->buffer = malloc(HYBUS_AGENT_PACKET_MAX + 1);
    if (!a->service || !a->path || !a->interfaces || !a->buffer)
        return -ENOMEM;
    for (; interfaces && *interfaces; interfaces++)
        if (json_array_append_new(a->interfaces, json_string(*interfaces)) != 0)
            return -EINVAL;
    r = sd_event_add_time(a->event, &a->deadline, CLOCK_MONOTONIC, 0, DEADLINE_ACCURACY_USEC,
                          agent_on_deadline, a);
    if (r >= 0)
        r = sd_event_source_set_enabled(a->deadline, SD_EVENT_OFF);
    if (r >= 0)
        r = sd_event_add_time(a->event, &a->retry, CLOCK_MONOTONIC, 0, 1000, on_retry, a);
    if (r >= 0)
        r = sd_event_source_set_enabled(a->retry, SD_EVENT_OFF);
    return r;
}

int hybus_agent_new(sd_event *event, const char *service, const char *const *interfaces,
                    const char *socket_path, hybus_agent **ret)
{
    _cleanup_(hybus_agent_freep) hybus_agent *a = NULL;
    const char *path = socket_path ? socket_path : HYBUS_AGENT_SOCKET;
    int r;

    if (strlen(path) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return -ENAMETOOLONG;
    a = calloc(1, sizeof *a);
    if (!a)
        return -ENOMEM;
    a->fd = -1;
    a->event = sd_event_ref(event);
    a->retry_usec = AGENT_RETRY_FIRST_USEC;
    a->next_id = 1;
    TAILQ_INIT(&a->waiting);
    TAILQ_INIT(&a->asked);
    TAILQ_INIT(&a->patient);
    TAILQ_INIT(&a->notes);
    r = new_parts(a, service, interfaces, path);
    if (r < 0)
        return r;
    connect_agent(a);
    *ret = TAKE_PTR(a);
    return 0;
}

void hybus_agent_free(hybus_agent *a)
{
    if (!a)
        return;
    agent_questions_free(a);
    agent_notes_drop(a);
    sd_event_source_disable_unref(a->io);
    sd_event_source_disable_unref(a->retry);
    sd_event_source_disable_unref(a->deadline);
    safe_close(a->fd);
    hybus_page_unmap(a->page);
    free(a->members);
    free(a->permissions);
    json_decref(a->hello);
    json_decref(a->interfaces);
    free(a->path);
    free(a->service);
    free(a->buffer);
    sd_event_unref(a->event);
    free(a);
}
