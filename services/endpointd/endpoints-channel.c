/* SPDX-License-Identifier: Apache-2.0 */
#include "endpoints-channel.h"

#include <pwd.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <channel.h>
#include <hybus/log.h>

#define SERVER_NAME_MAX 32u
#define ACCEPT_TURN_MAX 32u /* connections taken in one turn */
#define GROUPS_MAX 65536u   /* NGROUPS_MAX of Linux */
#define COMPLAINTS_MAX 20u  /* lines in the log about peers, per period: anybody can cause them */
#define COMPLAINTS_USEC (10u * 1000u * 1000u)

typedef enum role { ROLE_NONE, ROLE_APP, ROLE_SERVER } role;

typedef struct connection connection;

/* A REGISTER on its way; the judge bounds how many. */
typedef struct pending {
    connection *connection;
    struct pending *next;
    uint32_t id;
    registrar_request *request;
} pending;

struct connection {
    channel *channel;
    connection *previous, *next; /* newest first */
    int fd;
    sd_event_source *io;
    endpoints_identity *identity;
    role role;
    bool ready;   /* a server that gets the table */
    bool closing; /* what is queued still leaves, nothing more is read */
    bool dirty;
    uint32_t events; /* of the loop, as it was told */
    char name[SERVER_NAME_MAX + 1], protocol[SERVER_NAME_MAX + 1];
    judge_case *judged;
    pending *pending;
    hybus_frame_reader reader;
    hybus_frame_queue queue;
};

/* What a uid has put into the servers' queues since they were empty. */
typedef struct notifier {
    uint32_t uid;
    size_t size;
} notifier;

struct channel {
    sd_event *event;
    sd_event_source *listen, *post;
    registrar *registrar;
    int (*user_name)(uint32_t uid, char **ret);
    int (*identify)(int fd, endpoints_identity **ret);
    int listen_fd;
    connection *connections;
    size_t n_connections;
    notifier *notifiers;
    size_t n_notifiers;
    unsigned n_complaints;
    uint64_t complaints_usec; /* when the period began */
};

/* --- connections ---------------------------------------------------------------------------- */

static void connection_free(connection *k);
static void tell_server(connection *app, const connection *server, bool gone);
static void server_gone(connection *k);

/* May something be logged that any local user can make happen as often as it likes? */
static bool may_complain(channel *c)
{
    uint64_t now = 0;

    (void)sd_event_now(c->event, CLOCK_MONOTONIC, &now);
    if (now - c->complaints_usec >= COMPLAINTS_USEC) {
        if (c->n_complaints > COMPLAINTS_MAX)
            hybus_notice("%u more messages about channel connections were left out",
                         c->n_complaints - COMPLAINTS_MAX);
        c->complaints_usec = now;
        c->n_complaints = 0;
    }
    return c->n_complaints++ < COMPLAINTS_MAX;
}

static void pending_free(pending *p)
{
    connection *k = p->connection;
    pending **at;

    for (at = &k->pending; *at != p; at = &(*at)->next)
        ;
    *at = p->next;
    registrar_request_cancel(p->request);
    free(p);
}

static void touch(connection *k)
{
    k->dirty = true;
}

/* What `goaway` says still leaves, then the connection ends. Safe at any time: nothing is freed
 * here. */
static void goaway(connection *k, uint16_t code, const char *text)
{
    hybus_frame frame = {
        .type = CHANNEL_GOAWAY,
        .code = code,
        .size = (uint32_t)strlen(text),
        .payload = (const uint8_t *)text,
    };

    if (k->closing)
        return;
    (void)hybus_frame_queue_add(&k->queue, &frame);
    k->closing = true;
    touch(k);
}

/* A frame has been put: did it fit? Who lets so much pile up is cut off, and so is who has missed
 * one for any other reason: it would go on with half the truth. */
static void queued(connection *k, int r)
{
    if (r < 0 && !k->closing) {
        if (may_complain(k->channel))
            hybus_log_errno(LOG_WARNING, r == -ENOBUFS ? 0 : r,
                            "A channel connection of uid %u does not read; it is closed",
                            k->identity->uid);
        hybus_frame_queue_done(&k->queue);
        k->closing = true;
    }
    touch(k);
}

/* A server that is still being judged: what it says next waits where it is. */
static bool held(const connection *k)
{
    return k->role == ROLE_SERVER && !k->ready;
}

static void connection_watch(connection *k, bool writable)
{
    uint32_t events = (k->closing || held(k) ? 0 : (uint32_t)EPOLLIN) |
                      (writable ? (uint32_t)EPOLLOUT : 0);

    if (events == k->events)
        return;
    k->events = events;
    (void)sd_event_source_set_io_events(k->io, events);
}

static void connection_flush(connection *k)
{
    int r;

    k->dirty = false;
    r = hybus_frame_queue_flush(&k->queue, k->fd);
    if (r < 0 || (r > 0 && k->closing))
        connection_free(k);
    else
        connection_watch(k, r == 0);
}

/* After each turn: one write per connection for all that the turn has produced. */
static int on_post(sd_event_source *source, void *userdata)
{
    channel *c = userdata;
    bool again;

    do { /* the end of one connection is news for others */
        connection *next;
        again = false;
        for (connection *k = c->connections; k; k = next) {
            next = k->next;
            if (k->dirty) {
                connection_flush(k);
                again = true;
            }
        }
    } while (again);
    return 0;
}

static void connection_free(connection *k)
{
    channel *c = k->channel;

    if (k->previous)
        k->previous->next = k->next;
    else
        c->connections = k->next;
    if (k->next)
        k->next->previous = k->previous;
    c->n_connections--;

    while (k->pending)
        pending_free(k->pending);
    judge_case_free(k->judged);
    endpoints_remove_owner(registrar_table(c->registrar), k);
    server_gone(k);
    sd_event_source_disable_unref(k->io);
    safe_close(k->fd);
    endpoints_identity_unref(k->identity);
    hybus_frame_reader_done(&k->reader);
    hybus_frame_queue_done(&k->queue);
    free(k);
}

/* --- apps ----------------------------------------------------------------------------------- */

static void send_refused(connection *k, uint32_t id, unsigned code, const char *reason,
                         const char *audit)
{
    hybus_frame_begin(&k->queue, CHANNEL_REFUSED, 0, (uint16_t)code, id, 0);
    hybus_frame_put(&k->queue, ":reason", reason);
    hybus_frame_put(&k->queue, ":audit", audit);
    queued(k, hybus_frame_end(&k->queue));
}

static void on_registered(const registrar_outcome *o, void *userdata)
{
    pending *p = userdata;
    connection *k = p->connection;
    uint32_t id = p->id;

    p->request = NULL;
    pending_free(p);
    if (o->code != 200) {
        send_refused(k, id, o->code, o->reason, o->audit);
        return;
    }
    hybus_frame_begin(&k->queue, CHANNEL_REGISTERED, 0, 0, id, 0);
    hybus_frame_put(&k->queue, ":key", o->entry->spec.key);
    hybus_frame_put(&k->queue, ":namespace", o->entry->spec.ns);
    queued(k, hybus_frame_end(&k->queue));
}

static void on_withdrawn(void *owner, const endpoints_entry *entry, unsigned code,
                         const char *reason, const char *audit)
{
    connection *k = owner;

    send_refused(k, entry->owner_id, code, reason, audit);
}

static const registrar_road channel_road = {.withdrawn = on_withdrawn};

static pending *find_pending(connection *k, uint32_t id)
{
    for (pending *p = k->pending; p; p = p->next)
        if (p->id == id)
            return p;
    return NULL;
}

static int take_register_field(const hybus_frame_field *f, endpoints_spec *s)
{
    if (hybus_frame_field_is(f, ":namespace"))
        return s->ns ? -EINVAL : endpoints_spec_set_namespace(s, f->value, f->value_size);
    if (hybus_frame_field_is(f, ":key"))
        return endpoints_spec_set_key(s, f->value, f->value_size);
    if (hybus_frame_field_is(f, ":rule"))
        return endpoints_spec_add_rule(s, f->value, f->value_size);
    if (hybus_frame_field_is(f, ":title"))
        return endpoints_spec_set_title(s, f->value, f->value_size);
    if (hybus_frame_field_is(f, ":attributes"))
        return endpoints_spec_set_attributes(s, f->value, f->value_size);
    if (hybus_frame_field_is(f, ":takeover"))
        s->takeover = f->value_size == 1 && f->value[0] == '1';
    return 0;
}

/* -EBADMSG: not even fields. -EINVAL, with `why`: fields that say something impossible. */
static int parse_register(const hybus_frame *frame, endpoints_spec *ret, char why[64])
{
    endpoints_spec spec = {.road = ENDPOINTS_CHANNEL};
    hybus_frame_fields fields;
    hybus_frame_field f;
    int r;

    hybus_frame_fields_init(&fields, frame->payload, frame->size);
    while ((r = hybus_frame_fields_next(&fields, &f)) > 0) {
        r = take_register_field(&f, &spec);
        if (r < 0) {
            snprintf(why, 64, "%.*s is not valid", (int)MIN_OF(f.name_size, (size_t)16), f.name);
            break;
        }
    }
    if (r == 0 && !spec.ns) {
        snprintf(why, 64, ":namespace is missing");
        r = -EINVAL;
    }
    if (r < 0) {
        endpoints_spec_done(&spec);
        return r;
    }
    *ret = spec;
    return 0;
}

static int on_register(connection *k, const hybus_frame *frame)
{
    endpoints *table = registrar_table(k->channel->registrar);
    endpoints_spec spec = {};
    char why[64] = "";
    pending *p;
    int r;

    if (frame->stream == 0 || find_pending(k, frame->stream) || endpoints_find_owned(table, k, frame->stream))
        return -EBADMSG;
    r = parse_register(frame, &spec, why);
    if (r == -EBADMSG)
        return r;
    if (r < 0) {
        send_refused(k, frame->stream, r == -EINVAL ? 400 : r == -ENOBUFS ? 429 : 503, why, NULL);
        return 0;
    }
    p = calloc(1, sizeof(*p));
    if (!p) {
        endpoints_spec_done(&spec);
        send_refused(k, frame->stream, 503, "out of memory", NULL);
        return 0;
    }
    p->connection = k;
    p->id = frame->stream;
    p->next = k->pending;
    k->pending = p;
    r = registrar_register(k->channel->registrar, &spec, k->identity, k, p->id, on_registered, p,
                           &p->request);
    endpoints_spec_done(&spec);
    if (r < 0) {
        pending_free(p);
        send_refused(k, frame->stream, r == -ENOBUFS || r == -EBUSY ? 429 : 503,
                     registrar_refusal(r), NULL);
    }
    return 0;
}

static int on_unregister(connection *k, const hybus_frame *frame)
{
    endpoints *table = registrar_table(k->channel->registrar);
    endpoints_entry *entry = endpoints_find_owned(table, k, frame->stream);
    pending *p = find_pending(k, frame->stream);

    if (!entry && !p) /* it may have crossed our own end of it */
        return 0;
    if (p)
        pending_free(p);
    else
        endpoints_remove(table, entry);
    send_refused(k, frame->stream, 410, "unregistered", NULL);
    return 0;
}

static void server_socket(const connection *server, char ret[128])
{
    snprintf(ret, 128, CHANNEL_SERVERS_DIRECTORY "/h-%s.sock", server->name);
}

static void tell_server(connection *app, const connection *server, bool gone)
{
    char path[128];

    server_socket(server, path);
    hybus_frame_begin(&app->queue, CHANNEL_SERVER, gone ? CHANNEL_GONE : 0, 0, 0, 0);
    hybus_frame_put(&app->queue, ":name", server->name);
    hybus_frame_put(&app->queue, ":socket", path);
    queued(app, hybus_frame_end(&app->queue));
}

/* --- servers -------------------------------------------------------------------------------- */

static void send_snapshot(connection *k)
{
    endpoints *table = registrar_table(k->channel->registrar);
    endpoints_cursor cursor = {};
    endpoints_entry *entry;
    int r = 0;

    while (r >= 0 && (entry = endpoints_next(table, &cursor)))
        r = endpoints_entry_put(&k->queue, entry, 0);
    if (r >= 0) {
        hybus_frame_begin(&k->queue, CHANNEL_ENTRY, CHANNEL_END, 0, 0, 0);
        hybus_frame_put_number(&k->queue, ":revision", endpoints_revision(table));
        r = hybus_frame_end(&k->queue);
    }
    queued(k, r);
}

static int system_user_name(uint32_t uid, char **ret)
{
    const struct passwd *pw;

    errno = 0;
    pw = getpwuid(uid);
    if (!pw)
        return errno ? -errno : -ESRCH;
    *ret = strdup(pw->pw_name);
    return *ret ? 0 : -ENOMEM;
}

/* The name that a server gives itself is that of its user; nobody can stand for another. Asked only
 * of those who may serve: the lookup may take its time. */
static int check_server_name(const connection *k)
{
    _cleanup_(freep) char *user = NULL;
    const char *name;
    int r = k->channel->user_name(k->identity->uid, &user);

    if (r < 0)
        return r;
    name = startswith(user, "h-");
    return name && streq(name, k->name) ? 0 : -EACCES;
}

static void server_gone(connection *k)
{
    if (!k->ready)
        return;
    k->ready = false;
    for (connection *app = k->channel->connections; app; app = app->next)
        if (app->role == ROLE_APP)
            tell_server(app, k, true);
}

static void read_frames(connection *k);

static void server_ready(connection *k)
{
    channel *c = k->channel;

    /* One server of a name: an older connection is one that has not been seen to end yet. */
    for (connection *o = c->connections; o; o = o->next)
        if (o != k && o->ready && streq(o->name, k->name)) {
            o->ready = false;
            goaway(o, 409, "another connection of this server has come");
        }
    k->ready = true;
    k->queue.max = CHANNEL_SERVER_QUEUE_MAX;
    send_snapshot(k);
    for (connection *app = c->connections; app; app = app->next)
        if (app->role == ROLE_APP)
            tell_server(app, k, false);
    connection_watch(k, k->events & EPOLLOUT);
    read_frames(k);
}

static void on_server_judged(judge_case *judged, const judge_verdict *v, void *userdata)
{
    connection *k = userdata;
    int r = v->error;

    if (r < 0) {
        if (k->ready || may_complain(k->channel))
            hybus_warning("uid %u may not be the server %s: %s", k->identity->uid, k->name,
                          v->reason);
        server_gone(k);
        goaway(k, r == -EACCES ? 403 : 503, v->reason);
        return;
    }
    r = check_server_name(k);
    if (r < 0) {
        if (may_complain(k->channel))
            hybus_warning("uid %u is not the user h-%s, so it is not that server",
                          k->identity->uid, k->name);
        goaway(k, 403, "a server's name is that of its user");
        return;
    }
    server_ready(k);
}

static int on_start_wanted(connection *k, const hybus_frame *frame)
{
    char ns[ENDPOINTS_NAMESPACE_MAX + 1] = "";
    hybus_frame_fields fields;
    hybus_frame_field f;
    int r;

    hybus_frame_fields_init(&fields, frame->payload, frame->size);
    while ((r = hybus_frame_fields_next(&fields, &f)) > 0)
        if (hybus_frame_field_is(&f, ":namespace")) {
            if (!endpoints_namespace_valid(f.value, f.value_size))
                return -EBADMSG;
            memcpy(ns, f.value, f.value_size);
            ns[f.value_size] = 0;
        }
    if (r < 0 || !ns[0])
        return -EBADMSG;
    /* Whatever comes of it, the server sees by the table, or by its deadline. */
    (void)registrar_start(k->channel->registrar, ns);
    return 0;
}

static void on_changed(const endpoints_entry *entry, bool gone, void *userdata)
{
    channel *c = userdata;

    for (connection *k = c->connections; k; k = k->next)
        if (k->ready && !k->closing)
            queued(k, endpoints_entry_put(&k->queue, entry, gone ? CHANNEL_GONE : 0));
}

static const registrar_servers channel_servers = {.changed = on_changed};

static int put_value(hybus_frame_queue *q, const channel_value *v)
{
    hybus_frame_begin(q, CHANNEL_NOTIFY, v->gone ? CHANNEL_GONE : 0, 0, 0, 0);
    hybus_frame_put(q, ":namespace", v->ns);
    hybus_frame_put(q, ":path", v->path);
    hybus_frame_put(q, "content-type", v->content_type);
    hybus_frame_put(q, ":id", v->id);
    if (v->has_max_age)
        hybus_frame_put_number(q, ":max-age", v->max_age);
    hybus_frame_put_body(q, v->body, v->size);
    return hybus_frame_end(q);
}

/* Servers that do not keep up are felt by those who say most, before all are refused. */
static int notify_admit(channel *c, const channel_value *v)
{
    size_t waiting = 0, size = v->size + strlen(v->ns) + strlen(v->path), i = 0;

    for (const connection *k = c->connections; k; k = k->next)
        if (k->ready)
            waiting = MAX_OF(waiting, hybus_frame_queue_pending(&k->queue));
    if (waiting == 0)
        c->n_notifiers = 0;
    while (i < c->n_notifiers && c->notifiers[i].uid != v->uid)
        i++;
    if (i == c->n_notifiers) {
        notifier *more = realloc(c->notifiers, (i + 1) * sizeof(*more));
        if (!more)
            return -ENOMEM;
        c->notifiers = more;
        c->notifiers[c->n_notifiers++] = (notifier){.uid = v->uid};
    }
    if (waiting > CHANNEL_NOTIFY_HIGH ||
        (waiting > 0 && c->notifiers[i].size + size > CHANNEL_NOTIFY_UID_MAX))
        return -ENOBUFS;
    c->notifiers[i].size += size;
    return 0;
}

int channel_notify(channel *c, const channel_value *v)
{
    int admitted = notify_admit(c, v);

    if (admitted < 0)
        return admitted;
    for (connection *k = c->connections; k; k = k->next) {
        int r;
        if (!k->ready || k->closing)
            continue;
        r = put_value(&k->queue, v);
        if (r == -EMSGSIZE)
            return r; /* the same for all of them */
        queued(k, r);
    }
    return 0;
}

bool channel_server_at(const channel *c, size_t index, channel_server *ret)
{
    for (const connection *k = c->connections; k; k = k->next)
        if (k->ready && index-- == 0) {
            *ret = (channel_server){.name = k->name, .protocol = k->protocol};
            server_socket(k, ret->socket);
            return true;
        }
    return false;
}

/* --- frames --------------------------------------------------------------------------------- */

static bool word_valid(const hybus_frame_field *f)
{
    if (f->value_size == 0 || f->value_size > SERVER_NAME_MAX)
        return false;
    for (size_t i = 0; i < f->value_size; i++)
        if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789-", f->value[i]) || !f->value[i])
            return false;
    return true;
}

static void take_word(const hybus_frame_field *f, char ret[SERVER_NAME_MAX + 1])
{
    memcpy(ret, f->value, f->value_size);
    ret[f->value_size] = 0;
}

static int on_hello_server(connection *k)
{
    size_t n = strlen(k->name);

    if (n == 0)
        return -EBADMSG;
    k->role = ROLE_SERVER;
    /* "httpd" speaks http, unless it says otherwise. */
    if (!k->protocol[0])
        snprintf(k->protocol, sizeof(k->protocol), "%.*s",
                 (int)(n > 1 && k->name[n - 1] == 'd' ? n - 1 : n), k->name);
    if (judge_ask(registrar_judge(k->channel->registrar), k->identity, NULL, on_server_judged, k,
                  &k->judged) < 0)
        goaway(k, 503, "the policy could not be asked");
    connection_watch(k, k->events & EPOLLOUT);
    return 0;
}

static int on_hello_app(connection *k)
{
    k->role = ROLE_APP;
    for (const connection *server = k->channel->connections; server; server = server->next)
        if (server->ready)
            tell_server(k, server, false);
    return 0;
}

static int on_hello(connection *k, const hybus_frame *frame)
{
    hybus_frame_fields fields;
    hybus_frame_field f;
    role wanted = ROLE_NONE;
    int r;

    if (frame->value < CHANNEL_VERSION)
        return -EBADMSG;
    hybus_frame_fields_init(&fields, frame->payload, frame->size);
    while ((r = hybus_frame_fields_next(&fields, &f)) > 0) {
        if (hybus_frame_field_is(&f, ":role"))
            wanted = f.value_size == 3 && memcmp(f.value, "app", 3) == 0      ? ROLE_APP
                     : f.value_size == 6 && memcmp(f.value, "server", 6) == 0 ? ROLE_SERVER
                                                                              : ROLE_NONE;
        else if (hybus_frame_field_is(&f, ":name") && word_valid(&f))
            take_word(&f, k->name);
        else if (hybus_frame_field_is(&f, ":protocol") && word_valid(&f))
            take_word(&f, k->protocol);
    }
    if (r < 0 || wanted == ROLE_NONE)
        return -EBADMSG;
    return wanted == ROLE_APP ? on_hello_app(k) : on_hello_server(k);
}

static int on_frame(connection *k, const hybus_frame *frame)
{
    if (k->role == ROLE_NONE)
        return frame->type == CHANNEL_HELLO ? on_hello(k, frame) : -EBADMSG;
    switch (frame->type) {
    case CHANNEL_PING:
        queued(k, hybus_frame_queue_add(
                      &k->queue, &(hybus_frame){.type = CHANNEL_PONG, .value = frame->value}));
        return 0;
    case CHANNEL_PONG:
    case CHANNEL_GOAWAY:
        return 0;
    case CHANNEL_REGISTER:
        return k->role == ROLE_APP ? on_register(k, frame) : -EBADMSG;
    case CHANNEL_UNREGISTER:
        return k->role == ROLE_APP ? on_unregister(k, frame) : -EBADMSG;
    case CHANNEL_START:
        return k->ready ? on_start_wanted(k, frame) : -EBADMSG;
    default:
        return frame->type >= CHANNEL_IGNORABLE ? 0 : -EBADMSG;
    }
}

static void read_frames(connection *k)
{
    hybus_frame frame;
    int r = 0;

    while (!k->closing && !held(k) && (r = hybus_frame_reader_next(&k->reader, &frame)) > 0) {
        r = on_frame(k, &frame);
        if (r < 0)
            break;
    }
    if (r >= 0)
        return;
    if (may_complain(k->channel))
        hybus_notice("A channel connection of uid %u broke the protocol; it is closed",
                     k->identity->uid);
    /* What it held ends here, not when it gets round to reading the farewell. */
    while (k->pending)
        pending_free(k->pending);
    endpoints_remove_owner(registrar_table(k->channel->registrar), k);
    server_gone(k);
    goaway(k, 400, "protocol error");
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    connection *k = userdata;
    ssize_t n;

    if (revents & EPOLLOUT)
        touch(k); /* written after this turn */
    if (k->closing) {
        if (revents & (EPOLLHUP | EPOLLERR))
            connection_free(k);
        return 0;
    }
    if (!(revents & (EPOLLIN | EPOLLHUP | EPOLLERR)))
        return 0;
    n = hybus_frame_reader_fill(&k->reader, fd);
    if (n == -EAGAIN)
        return 0;
    if (n <= 0) {
        connection_free(k);
        return 0;
    }
    read_frames(k);
    return 0;
}

/* --- accepting ------------------------------------------------------------------------------- */

static int peer_groups(int fd, gid_t **ret, size_t *ret_n)
{
    _cleanup_(freep) gid_t *groups = NULL;
    socklen_t size = 32 * sizeof(gid_t);

    for (;;) {
        gid_t *more = realloc(groups, size > 0 ? size : sizeof(gid_t));
        if (!more)
            return -ENOMEM;
        groups = more;
        if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) >= 0)
            break;
        if (errno != ERANGE || size > GROUPS_MAX * sizeof(gid_t))
            return -errno;
    }
    *ret = TAKE_PTR(groups);
    *ret_n = size / sizeof(gid_t);
    return 0;
}

int channel_identify(int fd, endpoints_identity **ret)
{
    _cleanup_(freep) gid_t *groups = NULL;
    _cleanup_(freep) uint32_t *gids = NULL;
    struct ucred cred;
    socklen_t size = sizeof(cred);
    size_t n_groups = 0, n = 1;
    int r;

    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &size) < 0)
        return -errno;
    if (cred.uid == (uid_t)-1)
        return -EACCES;
    r = peer_groups(fd, &groups, &n_groups);
    if (r < 0)
        return r;
    gids = calloc(n_groups + 1, sizeof(*gids));
    if (!gids)
        return -ENOMEM;
    gids[0] = cred.gid;
    for (size_t i = 0; i < n_groups; i++)
        if (groups[i] != cred.gid)
            gids[n++] = groups[i];
    return endpoints_identity_new(cred.uid, gids, n, NULL, ret);
}

static size_t count_uid(const channel *c, uint32_t uid)
{
    size_t n = 0;

    for (const connection *k = c->connections; k; k = k->next)
        n += k->identity->uid == uid;
    return n;
}

/* When all places are taken, whoever has most of them gives one up: many connections of a few do
 * not keep a server or another app out. */
static bool make_room(channel *c, size_t n_newcomer)
{
    connection *victim = NULL;
    size_t most = n_newcomer + 1;

    for (connection *k = c->connections; k; k = k->next) {
        size_t n = count_uid(c, k->identity->uid);
        if (n > most) {
            most = n;
            victim = k;
        }
    }
    if (!victim)
        return false;
    if (may_complain(c))
        hybus_warning("All %u channel connections are taken; one of uid %u is closed",
                      CHANNEL_CONNECTIONS_MAX, victim->identity->uid);
    connection_free(victim);
    return true;
}

static void send_hello(connection *k)
{
    hybus_frame_begin(&k->queue, CHANNEL_HELLO, 0, 0, 0, CHANNEL_VERSION);
    hybus_frame_put(&k->queue, ":role", "registrar");
    hybus_frame_put(&k->queue, ":name", "endpointd");
    queued(k, hybus_frame_end(&k->queue));
}

static int connection_new(channel *c, int fd, endpoints_identity *identity, connection **ret)
{
    connection *k = calloc(1, sizeof(*k));
    int r;

    if (!k)
        return -ENOMEM;
    r = sd_event_add_io(c->event, &k->io, fd, EPOLLIN, on_io, k);
    if (r < 0) {
        free(k);
        return r;
    }
    k->channel = c;
    k->fd = fd;
    k->identity = endpoints_identity_ref(identity);
    k->events = EPOLLIN;
    k->reader.max = CHANNEL_READ_MAX;
    k->queue.max = CHANNEL_APP_QUEUE_MAX;
    k->next = c->connections;
    if (k->next)
        k->next->previous = k;
    c->connections = k;
    c->n_connections++;
    *ret = k;
    return 0;
}

int channel_accept(channel *c, int taken)
{
    _cleanup_(endpoints_identity_unrefp) endpoints_identity *identity = NULL;
    _cleanup_(closep) int fd = taken;
    connection *k;
    size_t n;
    int r;

    r = c->identify(fd, &identity);
    if (r < 0)
        return r;
    n = count_uid(c, identity->uid);
    if (n >= CHANNEL_CONNECTIONS_UID_MAX)
        return -ENOBUFS;
    if (c->n_connections >= CHANNEL_CONNECTIONS_MAX && !make_room(c, n))
        return -ENOBUFS;
    r = connection_new(c, fd, identity, &k);
    if (r < 0)
        return r;
    TAKE_FD(fd);
    send_hello(k);
    return 0;
}

static int on_listen(sd_event_source *source, int listen_fd, uint32_t revents, void *userdata)
{
    channel *c = userdata;

    for (unsigned i = 0; i < ACCEPT_TURN_MAX; i++) {
        int r, fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED && may_complain(c))
                hybus_log_errno(LOG_WARNING, -errno, "Cannot accept a channel connection");
            break;
        }
        r = channel_accept(c, fd);
        if (r < 0 && may_complain(c))
            hybus_log_errno(LOG_NOTICE, r, "A channel connection was turned away");
    }
    return 0;
}

/* --- life ------------------------------------------------------------------------------------ */

int channel_new(const channel_options *options, channel **ret)
{
    _cleanup_(channel_freep) channel *c = calloc(1, sizeof(*c));
    int r;

    if (!c) {
        safe_close(options->listen_fd);
        return -ENOMEM;
    }
    c->listen_fd = options->listen_fd;
    c->event = sd_event_ref(options->event);
    c->registrar = options->registrar;
    c->user_name = options->user_name ? options->user_name : system_user_name;
    c->identify = options->identify ? options->identify : channel_identify;
    r = sd_event_add_post(c->event, &c->post, on_post, c);
    if (r >= 0 && c->listen_fd >= 0)
        r = sd_event_add_io(c->event, &c->listen, c->listen_fd, EPOLLIN, on_listen, c);
    if (r < 0)
        return r;
    registrar_set_road(c->registrar, ENDPOINTS_CHANNEL, &channel_road);
    registrar_set_servers(c->registrar, &channel_servers, c);
    *ret = TAKE_PTR(c);
    return 0;
}

void channel_free(channel *c)
{
    if (!c)
        return;
    registrar_set_road(c->registrar, ENDPOINTS_CHANNEL, NULL);
    registrar_set_servers(c->registrar, NULL, NULL);
    while (c->connections)
        connection_free(c->connections);
    free(c->notifiers);
    sd_event_source_disable_unref(c->listen);
    sd_event_source_disable_unref(c->post);
    safe_close(c->listen_fd);
    sd_event_unref(c->event);
    free(c);
}
