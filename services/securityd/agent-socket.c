/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-socket.h"

#include <fcntl.h>
#include <hybus/agent.h>
#include <hybus/error.h>
#include <hybus/json.h>
#include <hybus/log.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#define PACKET_MAX HYBUS_AGENT_PACKET_MAX

typedef struct Packet {
    TAILQ_ENTRY(Packet) queue;
    size_t size;
    int fd; /* to go with it, or -1; not owned */
    char text[];
} Packet;

typedef struct Peer {
    TAILQ_ENTRY(Peer) peers;
    AgentSocket *socket; /* NULL in agent_socket_feed() */
    Security *security;
    int fd;
    sd_event_source *io;
    uint32_t uid;
    uint32_t *gids;
    size_t n_gids;
    char service[64]; /* of its hello; "" before */
    char **permissions;
    TAILQ_HEAD(, Packet) out;
    size_t n_out, out_bytes;
    uint64_t settled;      /* the newest generation it has settled */
    Principal **handles;   /* open addressing by handle */
    size_t n_handles, handles_size;
} Peer;

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
    sd_event_source *io, *settled, *expiry;
    uint64_t expired_until;
    TAILQ_HEAD(, Peer) peers;
    TAILQ_HEAD(, Settling) settling;
    size_t n_peers, n_settling;
    char *buffer;
};

static void json_cleanup(json_t **j)
{
    json_decref(*j);
}

/* --- principals of a peer -------------------------------------------------------------------- */

static Principal **find_handle(const Peer *p, uint64_t handle)
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

static void put_handle(Peer *p, Principal *principal)
{
    for (size_t i = principal->handle * UINT64_C(0x9e3779b97f4a7c15) >> 32;; i++) {
        Principal **place = &p->handles[i & (p->handles_size - 1)];

        if (*place)
            continue;
        *place = principal;
        return;
    }
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
            put_handle(p, old[i]);
    free(old);
    return 0;
}

/* Takes over `principal`. */
static int add_handle(Peer *p, Principal *principal)
{
    int r = p->n_handles >= AGENT_HANDLES_MAX ? -ENOBUFS : 0;

    if (r >= 0 && (p->n_handles + 1) * 2 > p->handles_size)
        r = rehash(p, p->handles_size ? p->handles_size * 2 : 16);
    if (r < 0) {
        principal_free(principal);
        return r;
    }
    put_handle(p, principal);
    p->n_handles++;
    return 0;
}

static void remove_handle(Peer *p, uint64_t handle)
{
    Principal **place = find_handle(p, handle);
    size_t i;

    if (!place)
        return;
    principal_free(*place);
    *place = NULL;
    p->n_handles--;
    /* Those behind it in the same run may have been moved on by it. */
    for (i = (size_t)(place - p->handles) + 1; p->handles[i & (p->handles_size - 1)]; i++) {
        Principal *moved = TAKE_PTR(p->handles[i & (p->handles_size - 1)]);
        put_handle(p, moved);
    }
}

/* --- peers ----------------------------------------------------------------------------------- */

static void peer_free(Peer *p)
{
    Packet *packet;

    if (p->socket) {
        TAILQ_REMOVE(&p->socket->peers, p, peers);
        p->socket->n_peers--;
        /* One less to wait for. */
        (void)sd_event_source_set_enabled(p->socket->settled, SD_EVENT_ONESHOT);
    }
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

static Subject peer_subject(const Peer *p)
{
    return (Subject){.uid = p->uid, .gids = p->gids, .n_gids = p->n_gids};
}

static bool peer_may(const Peer *p, const char *permission)
{
    const Subject subject = peer_subject(p);

    /* h-securityd's own filter asks like everybody else's. */
    return p->uid == geteuid() || policy_judge(p->security->policy, &subject, permission).allowed;
}

/* Takes over `j`. */
static int send_json(Peer *p, json_t *j, int fd)
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

static int flush_out(Peer *p)
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

/* --- answers --------------------------------------------------------------------------------- */

static json_t *decimal(uint64_t n)
{
    char text[24];

    snprintf(text, sizeof text, "%llu", (unsigned long long)n);
    return json_string(text);
}

static json_t *answer_to(const json_t *question)
{
    json_t *answer = json_object();

    json_object_set(answer, "id", json_object_get(question, "id"));
    json_object_set_new(answer, "ok", json_true());
    return answer;
}

static const char *error_name(int error)
{
    switch (error) {
    case -EACCES:
    case -EKEYREJECTED:
    case -EINVAL:
    case -ENOENT:
    case -EEXIST:
    case -ENOBUFS:
        return startswith(hybus_error_name(error), HYBUS_ERROR_PREFIX);
    case -EAGAIN:
        return "Throttled";
    default:
        return "Internal";
    }
}

static json_t *failure(const json_t *question, int error, const char *message)
{
    json_t *answer = json_object();

    json_object_set(answer, "id", json_object_get(question, "id"));
    json_object_set_new(answer, "error", json_string(error_name(error)));
    json_object_set_new(answer, "message", json_string(message));
    return answer;
}

static int refuse(Peer *p, const json_t *question, int error, const char *message)
{
    return send_json(p, failure(question, error, message), -1);
}

static int throttled(Peer *p, const json_t *question, uint64_t wait)
{
    json_t *answer = failure(question, -EAGAIN, "too many wrong attempts");

    json_object_set_new(answer, "retry_after",
                        json_integer((json_int_t)((wait + 999999) / 1000000)));
    return send_json(p, answer, -1);
}

static const char *string(const json_t *j, const char *key)
{
    return json_string_value(json_object_get(j, key));
}

/* --- hello ----------------------------------------------------------------------------------- */

static int permission_index(char ***list, const char *permission)
{
    size_t n = 0;
    int r;

    for (; *list && (*list)[n]; n++)
        if (streq((*list)[n], permission))
            return (int)n;
    r = words_add(list, permission, strlen(permission));
    return r < 0 ? r : (int)n;
}

static int add_members(const Peer *p, const char *interface, json_t *members, char ***permissions)
{
    const Member *m;
    size_t n = catalogue_interface(p->security->catalogue, interface, &m);

    for (size_t i = 0; i < n; i++) {
        const char kind[] = {m[i].kind, '\0'};
        int index = m[i].permission ? permission_index(permissions, m[i].permission) : -1;

        if (index < -1)
            return index;
        json_array_append_new(members, json_pack("[s, s, s, i]", interface, m[i].name, kind, index));
    }
    return 0;
}

static int send_hello(Peer *p, const json_t *q, json_t *members)
{
    hybus_page_writer *page = p->security->page;
    json_t *answer = answer_to(q), *list = json_array();
    int r;

    for (char **w = p->permissions; w && *w; w++)
        json_array_append_new(list, json_string(*w));
    json_object_set_new(answer, "epoch", decimal(hybus_page_writer_epoch(page)));
    json_object_set_new(answer, "generation", json_integer((json_int_t)hybus_page_writer_generation(
                                                  page)));
    json_object_set_new(answer, "permissions", list);
    json_object_set_new(answer, "members", members);
    json_object_set_new(answer, "claimed", json_boolean(p->security->store->claimed));
    r = send_json(p, answer, hybus_page_writer_fd(page));
    return r == -EMSGSIZE ? refuse(p, q, -ENOBUFS, "these interfaces do not fit into one answer") : r;
}

static int op_hello(Peer *p, const json_t *q)
{
    const json_t *interfaces = json_object_get(q, "interfaces"), *one;
    const char *service = strempty(string(q, "service"));
    char **permissions = NULL;
    json_t *members;
    size_t i;
    int r = 0;

    if (json_integer_value(json_object_get(q, "version")) != 1)
        return refuse(p, q, -EINVAL, "only version 1 is spoken here");
    if (!principal_name_is_valid(service))
        return refuse(p, q, -EINVAL, "service: a component name is needed");
    if (interfaces && !json_is_array(interfaces))
        return refuse(p, q, -EINVAL, "interfaces: a list is needed");
    if (json_array_size(interfaces) > AGENT_INTERFACES_MAX)
        return refuse(p, q, -ENOBUFS, "too many interfaces");
    members = json_array();
    json_array_foreach (interfaces, i, one)
        if (r >= 0)
            r = add_members(p, strempty(json_string_value(one)), members, &permissions);
    if (r < 0) {
        json_decref(members);
        words_free(permissions);
        return r;
    }
    words_free(p->permissions);
    p->permissions = permissions;
    if (!*p->service) /* it cannot hold on to anything yet */
        p->settled = hybus_page_writer_generation(p->security->page);
    snprintf(p->service, sizeof p->service, "%s", service);
    return send_hello(p, q, members);
}

/* --- rows and judgements --------------------------------------------------------------------- */

typedef struct Asked {
    Subject subject;
    uint32_t gids[POLICY_GROUPS_MAX];
} Asked;

static bool is_id(const json_t *j)
{
    return json_is_integer(j) && json_integer_value(j) >= 0 && json_integer_value(j) <= UINT32_MAX;
}

/* A handle of another connection is as unknown as one that never was. */
static int read_remote(const Peer *p, const json_t *handle, Asked *ret)
{
    Principal **principal;

    if (!json_is_integer(handle) || json_integer_value(handle) < 0)
        return -EINVAL;
    if (json_integer_value(handle) == 0) {
        ret->subject = security_remote_subject(NULL);
        return 0;
    }
    principal = find_handle(p, (uint64_t)json_integer_value(handle));
    if (!principal)
        return -ENOENT;
    ret->subject = security_remote_subject(*principal);
    ret->subject.ended = security_principal_is_void(p->security, *principal);
    return 0;
}

static int read_subject(const Peer *p, const json_t *q, Asked *ret)
{
    const json_t *handle = json_object_get(q, "handle"), *uid = json_object_get(q, "uid");
    const json_t *gids = json_object_get(q, "gids"), *gid;
    size_t i;

    if (handle && uid)
        return -EINVAL;
    if (handle)
        return read_remote(p, handle, ret);
    if (!is_id(uid) || (gids && !json_is_array(gids)) || json_array_size(gids) > POLICY_GROUPS_MAX)
        return -EINVAL;
    json_array_foreach (gids, i, gid) {
        if (!is_id(gid))
            return -EINVAL;
        ret->gids[i] = (uint32_t)json_integer_value(gid);
    }
    ret->subject = (Subject){.uid = (uint32_t)json_integer_value(uid),
                             .gids = ret->gids,
                             .n_gids = json_array_size(gids)};
    return 0;
}

static int asked_permissions(const Peer *p, const json_t *q, const char ***ret, size_t *ret_n)
{
    const json_t *list = json_object_get(q, "permissions"), *one;
    size_t n = list ? json_array_size(list) : words_count(p->permissions), i;
    const char **permissions;

    if (list && (!json_is_array(list) || n > HYBUS_AGENT_PERMISSIONS_MAX))
        return json_is_array(list) ? -ENOBUFS : -EINVAL;
    permissions = calloc(n + 1, sizeof *permissions);
    if (!permissions)
        return -ENOMEM;
    for (i = 0; !list && i < n; i++)
        permissions[i] = p->permissions[i];
    json_array_foreach (list, i, one) {
        /* An ill-formed name is simply one that nobody holds. */
        permissions[i] = strempty(json_string_value(one));
    }
    *ret = permissions;
    *ret_n = n;
    return 0;
}

static int op_row(Peer *p, const json_t *q)
{
    _cleanup_(freep) const char **permissions = NULL;
    _cleanup_(freep) uint64_t *bits = NULL;
    _cleanup_(freep) char *text = NULL;
    Security *s = p->security;
    uint64_t stamp;
    uint32_t slot;
    json_t *answer;
    Asked asked;
    size_t n;
    int r;

    if (!peer_may(p, "security.row"))
        return refuse(p, q, -EACCES, "asking about others needs security.row");
    r = read_subject(p, q, &asked);
    if (r >= 0)
        r = asked_permissions(p, q, &permissions, &n);
    if (r < 0)
        return refuse(p, q, r, "not a subject or not a list of permissions");
    slot = security_slot(&asked.subject);
    stamp = hybus_page_writer_slot(s->page, slot);
    bits = calloc(n / 64 + 1, sizeof *bits);
    if (!bits)
        return -ENOMEM;
    policy_row(s->policy, &asked.subject, permissions, n, bits);
    for (size_t i = 0; i < n / 64 + 1; i++)
        bits[i] = htole64(bits[i]);
    r = hybus_base64_encode(bits, (n + 7) / 8, &text);
    if (r < 0)
        return r;
    s->statistics.rows++;
    answer = answer_to(q);
    json_object_set_new(answer, "epoch", decimal(hybus_page_writer_epoch(s->page)));
    json_object_set_new(answer, "slot", json_integer(slot));
    json_object_set_new(answer, "stamp", decimal(stamp));
    json_object_set_new(answer, "count", json_integer((json_int_t)n));
    json_object_set_new(answer, "bits", json_string(text));
    return send_json(p, answer, -1);
}

static int send_verdict(Peer *p, const json_t *q, const Verdict *v, const AuditRecord *record)
{
    json_t *answer = answer_to(q);

    json_object_set_new(answer, "allowed", json_boolean(v->allowed));
    if (!v->allowed) {
        json_object_set_new(answer, "audit", json_string(record ? record->id : ""));
        json_object_set_new(answer, "rule", json_string(v->rule ? v->rule->id : "default"));
        json_object_set_new(answer, "reason", json_string(v->reason));
    }
    return send_json(p, answer, -1);
}

static int op_judge(Peer *p, const json_t *q)
{
    const char *kind = strempty(string(q, "kind"));
    const Question question = {
        .permission = string(q, "permission"),
        .interface = strempty(string(q, "interface")),
        .member = strempty(string(q, "member")),
        .path = strempty(string(q, "path")),
        .service = p->service,
        .kind = *kind ? *kind : 'm',
    };
    const AuditRecord *record = NULL;
    Verdict v;
    Asked asked;
    int r;

    if (!peer_may(p, "security.row"))
        return refuse(p, q, -EACCES, "asking about others needs security.row");
    r = read_subject(p, q, &asked);
    if (r < 0)
        return refuse(p, q, r, "not a subject");
    if (strlen(kind) > 1 || (*kind && !strchr("mgse", *kind)))
        return refuse(p, q, -EINVAL, "kind: one of m, g, s, e");
    r = security_refuse(p->security, &asked.subject, &question, &v, &record);
    return r < 0 ? r : send_verdict(p, q, &v, record);
}

static int op_used(Peer *p, const json_t *q)
{
    json_int_t count = json_integer_value(json_object_get(q, "count"));

    if (peer_may(p, "security.row") && count > 0)
        p->security->statistics.used += (uint64_t)count;
    return 0;
}

/* --- connections, setup, tokens -------------------------------------------------------------- */

/* µs of CLOCK_BOOTTIME at which the token expires, by the clock that is never set. */
static json_t *expires_json(Security *s, const Principal *principal)
{
    struct timespec ts;
    uint64_t now = store_now(s->store);

    if (!principal || !principal->expires)
        return json_string("never");
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return decimal((uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u +
                   (principal->expires > now ? principal->expires - now : 0));
}

static void arm_expiry(AgentSocket *a);

static int op_connect(Peer *p, const json_t *q)
{
    const Connect c = {.protocol = string(q, "protocol"),
                       .peer = string(q, "peer"),
                       .tls = string(q, "tls"),
                       .bearer = string(q, "bearer")};
    Principal *principal = NULL;
    uint64_t wait = 0;
    json_t *answer;
    int r;

    if (!peer_may(p, "security.connect"))
        return refuse(p, q, -EACCES, "only servers ask this: it needs security.connect");
    r = security_connect(p->security, &c, &principal, &wait);
    if (r == -EAGAIN)
        return throttled(p, q, wait);
    if (r < 0)
        return refuse(p, q, r, r == -EKEYREJECTED ? "wrong or expired credentials" : "refused");
    answer = answer_to(q);
    json_object_set_new(answer, "handle",
                        json_integer(principal ? (json_int_t)principal->handle : 0));
    json_object_set_new(answer, "principal",
                        json_string(principal ? principal->name : "anonymous"));
    json_object_set_new(answer, "expires", expires_json(p->security, principal));
    r = principal ? add_handle(p, principal) : 0;
    if (r < 0) {
        json_decref(answer);
        return refuse(p, q, r, "too many handles; release some");
    }
    p->security->statistics.connections++;
    return send_json(p, answer, -1);
}

static int op_release(Peer *p, const json_t *q)
{
    json_int_t handle = json_integer_value(json_object_get(q, "handle"));

    if (handle > 0)
        remove_handle(p, (uint64_t)handle);
    return 0;
}

static int send_secret(Peer *p, const json_t *q, char *secret)
{
    json_t *answer = answer_to(q);

    json_object_set_new(answer, "secret", json_string(secret));
    explicit_bzero(secret, strlen(secret));
    free(secret);
    return send_json(p, answer, -1);
}

static int op_setup(Peer *p, const json_t *q)
{
    const Subject caller = peer_subject(p);
    uint64_t wait = 0;
    char *secret = NULL;
    int r = security_setup(p->security, &caller, string(q, "code"), strempty(string(q, "user")),
                           &secret, &wait);

    if (r == -EAGAIN)
        return throttled(p, q, wait);
    if (r == -EACCES)
        return refuse(p, q, r, p->security->store->claimed
                                   ? "this device has an administrator; only local root may add one"
                                   : "wrong setup code");
    if (r < 0)
        return refuse(p, q, r, r == -EINVAL ? "not a user name" : "setup failed");
    if (p->socket)
        (void)agent_socket_changed(p->socket, NULL, NULL);
    return send_secret(p, q, secret);
}

static int read_words(const json_t *list, char ***ret)
{
    const json_t *one;
    size_t i;
    int r = 0;

    if (list && (!json_is_array(list) || json_array_size(list) > 64))
        return -EINVAL;
    json_array_foreach (list, i, one) {
        const char *word = strempty(json_string_value(one));

        if (r >= 0)
            r = words_add(ret, word, strlen(word));
    }
    return r;
}

static int op_token_add(Peer *p, const json_t *q)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    _cleanup_(words_freep) char **roles = NULL;
    const Subject caller = peer_subject(p);
    json_int_t lifetime = json_integer_value(json_object_get(q, "expires"));
    char *secret = NULL;
    int r;

    if (!policy_judge(p->security->policy, &caller, "security.tokens").allowed) {
        const Question question = {.permission = "security.tokens",
                                   .interface = "agent",
                                   .member = "token-add",
                                   .kind = 'm'};
        const AuditRecord *record;
        Verdict v;

        (void)security_refuse(p->security, &caller, &question, &v, &record);
        return refuse(p, q, -EACCES, "making tokens needs security.tokens");
    }
    if (lifetime < 0 || lifetime > INT32_MAX)
        return refuse(p, q, -EINVAL, "expires: seconds, 0 for never");
    r = read_words(json_object_get(q, "roles"), &roles);
    if (r >= 0)
        r = security_add_token(p->security, &caller, strempty(string(q, "name")), string(q, "user"),
                               roles, (uint64_t)lifetime * 1000000u, &secret, &e);
    if (r < 0)
        return refuse(p, q, r, e.message ? e.message : strerror(-r));
    if (p->socket)
        arm_expiry(p->socket);
    return send_secret(p, q, secret);
}

static int op_settled(Peer *p, const json_t *q)
{
    json_int_t generation = json_integer_value(json_object_get(q, "generation"));

    if (generation > 0 && (uint64_t)generation > p->settled)
        p->settled = (uint64_t)generation;
    if (p->socket)
        (void)sd_event_source_set_enabled(p->socket->settled, SD_EVENT_ONESHOT);
    return 0;
}

/* --- packets --------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int (*f)(Peer *, const json_t *);
    bool one_way, before_hello;
} operations[] = {
    {"row", op_row},
    {"judge", op_judge},
    {"used", op_used, .one_way = true},
    {"connect", op_connect},
    {"release", op_release, .one_way = true},
    {"settled", op_settled, .one_way = true},
    {"hello", op_hello, .before_hello = true},
    {"setup", op_setup, .before_hello = true},
    {"token-add", op_token_add, .before_hello = true},
};

static int dispatch(Peer *p, const json_t *q)
{
    const json_t *id = json_object_get(q, "id");
    const char *op = strempty(string(q, "op"));
    bool valid_id = json_is_integer(id) && json_integer_value(id) >= 1 &&
                    json_integer_value(id) <= (json_int_t)1 << 53;

    for (size_t i = 0; i < ELEMENTS(operations); i++) {
        if (!streq(operations[i].name, op))
            continue;
        if (!operations[i].one_way && !valid_id)
            return -EPROTO;
        if (!*p->service && !operations[i].before_hello)
            return -EPROTO;
        return operations[i].f(p, q);
    }
    if (!*p->service || !valid_id)
        return -EPROTO;
    return refuse(p, q, -EINVAL, "no such op");
}

/* <0: the connection is of no more use. */
static int handle_packet(Peer *p, const char *packet, size_t size)
{
    _cleanup_(json_cleanup) json_t *q = NULL;

    if (size > PACKET_MAX)
        return -EPROTO;
    q = json_loadb(packet, size, JSON_REJECT_DUPLICATES, NULL);
    if (!json_is_object(q))
        return -EPROTO;
    return dispatch(p, q);
}

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
    r = handle_packet(p, buffer, (size_t)n);
    explicit_bzero(buffer, (size_t)n);
    return r < 0 ? r : 1;
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
        r = flush_out(p);
    if (r < 0)
        peer_free(p);
    return 0;
}

/* --- new peers ------------------------------------------------------------------------------- */

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

static int read_credentials(Peer *p)
{
    struct ucred credentials;
    socklen_t size = sizeof credentials;

    if (getsockopt(p->fd, SOL_SOCKET, SO_PEERCRED, &credentials, &size) < 0)
        return -errno;
    p->uid = credentials.uid;
    return read_groups(p, credentials.gid);
}

static bool admits(const AgentSocket *a, uint32_t uid)
{
    size_t n = 0, limit = uid == 0 ? AGENT_CONNECTIONS_OF_ROOT : AGENT_CONNECTIONS_PER_UID;
    const Peer *p;

    TAILQ_FOREACH (p, &a->peers, peers)
        n += p->uid == uid;
    return n < limit && (a->n_peers < AGENT_CONNECTIONS_MAX || uid == 0 || uid == geteuid());
}

static int add_peer(AgentSocket *a, int fd)
{
    Peer *p = calloc(1, sizeof *p);
    int r;

    if (!p) {
        safe_close(fd);
        return -ENOMEM;
    }
    TAILQ_INIT(&p->out);
    p->security = a->security;
    p->fd = fd;
    r = read_credentials(p);
    if (r >= 0 && !admits(a, p->uid))
        r = -ENOBUFS;
    if (r >= 0)
        r = sd_event_add_io(a->event, &p->io, fd, EPOLLIN, on_peer, p);
    if (r < 0) {
        peer_free(p);
        return r;
    }
    p->socket = a;
    TAILQ_INSERT_TAIL(&a->peers, p, peers);
    a->n_peers++;
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

/* A peer counts when it has got hold of the page. */
static bool all_settled(const AgentSocket *a, uint64_t generation)
{
    const Peer *p;

    TAILQ_FOREACH (p, &a->peers, peers)
        if (*p->service && p->settled < generation)
            return false;
    return true;
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
        if (!*p->service || p->settled >= s->generation)
            continue;
        hybus_warning("%s (uid %u) did not settle in time and is disconnected", p->service, p->uid);
        peer_free(p);
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
        if (send_json(p, json_pack("{s:s, s:I}", "op", "changed", "generation",
                                   (json_int_t)generation), -1) < 0)
            (void)shutdown(p->fd, SHUT_RDWR); /* freed by its own event: a caller may stand on it */
        else
            (void)sd_event_source_set_io_events(p->io, EPOLLIN | EPOLLOUT);
    }
}

int agent_socket_changed(AgentSocket *a, AgentSettled f, void *userdata)
{
    uint64_t generation = hybus_page_writer_generation(a->security->page);
    Settling *s;
    int r;

    tell_all(a, generation);
    arm_expiry(a);
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
    (void)sd_event_source_set_enabled(a->settled, SD_EVENT_ONESHOT);
    return 0;
}

/* A token has expired: what it opened is cut like by a revocation. */
static int on_expiry(sd_event_source *source, uint64_t usec, void *userdata)
{
    AgentSocket *a = userdata;
    uint64_t since = a->expired_until;

    a->expired_until = store_now(a->security->store);
    if (security_expire(a->security, since))
        return agent_socket_changed(a, NULL, NULL);
    arm_expiry(a);
    return 0;
}

/* The clock may be set meanwhile, so never sleep for more than a minute while something can expire. */
static void arm_expiry(AgentSocket *a)
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
    if (r < 0)
        return r;
    arm_expiry(a);
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
        peer_free(TAILQ_FIRST(&a->peers));
    sd_event_source_disable_unref(a->io);
    sd_event_source_disable_unref(a->settled);
    sd_event_source_disable_unref(a->expiry);
    safe_close(a->fd);
    sd_event_unref(a->event);
    free(a->buffer);
    free(a);
}

int agent_socket_feed(Security *security, uint32_t uid, const char *packet, size_t size,
                      char **ret_answer)
{
    Peer *p = calloc(1, sizeof *p);
    Packet *first;
    int r;

    if (!p)
        return -ENOMEM;
    TAILQ_INIT(&p->out);
    p->security = security;
    p->fd = -1;
    p->uid = uid;
    snprintf(p->service, sizeof p->service, "feed");
    r = handle_packet(p, packet, size);
    first = TAILQ_FIRST(&p->out);
    *ret_answer = r >= 0 && first ? strdup(first->text) : NULL;
    peer_free(p);
    return r;
}
