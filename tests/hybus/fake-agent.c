/* SPDX-License-Identifier: Apache-2.0 */
#include "fake-agent.h"

#include <hybus/json.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#define CONNECTIONS_MAX 64
#define RULES_MAX 256
#define HELD_MAX 4096

struct fake_agent {
    char directory[64], path[96];
    int listen_fd, control_fd;
    pid_t pid;
    const hybus_member *members;
    const char *const *permissions;
    /* What was allowed, to be told again to a successor. */
    struct {
        char subject[32], permission[96];
        bool allowed;
    } rules[RULES_MAX];
    size_t n_rules;
};

#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "fake agent: %s:%i: %s: %m\n", __FILE__, __LINE__, #x);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* --- the child ------------------------------------------------------------------------------- */

typedef struct Child {
    fake_agent *config;
    hybus_page_writer *page;
    int connections[CONNECTIONS_MAX];
    bool greeted[CONNECTIONS_MAX];
    size_t n_connections;
    json_t *held_ops, *counts, *used;
    struct {
        int fd;
        json_t *question;
    } held[HELD_MAX];
    size_t n_held;
    uint64_t next_handle;
} Child;

static void send_json(int fd, json_t *o, int pass_fd)
{
    _cleanup_(freep) char *text = json_dumps(o, JSON_COMPACT);
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {text, strlen(text)};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};

    if (pass_fd >= 0) {
        msg.msg_control = &control;
        msg.msg_controllen = sizeof control;
        control.header = (struct cmsghdr){
            .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
        memcpy(CMSG_DATA(&control.header), &pass_fd, sizeof pass_fd);
    }
    (void)sendmsg(fd, &msg, MSG_NOSIGNAL);
    json_decref(o);
}

static void set_decimal(json_t *o, const char *key, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    json_object_set_new(o, key, json_string(text));
}

static void count(json_t *counts, const char *key, json_int_t n)
{
    json_object_set_new(counts, key,
                        json_integer(json_integer_value(json_object_get(counts, key)) + n));
}

static void subject_text(const json_t *question, char *ret, size_t size)
{
    json_t *handle = json_object_get(question, "handle");

    if (handle)
        snprintf(ret, size, "handle:%lld", (long long)json_integer_value(handle));
    else if (!json_object_get(question, "uid"))
        snprintf(ret, size, "unknown");
    else
        snprintf(ret, size, "uid:%lld",
                 (long long)json_integer_value(json_object_get(question, "uid")));
}

static bool allowed(const Child *c, const json_t *question, const char *permission)
{
    bool result = false;
    char subject[32];

    subject_text(question, subject, sizeof subject);
    for (size_t i = 0; permission && i < c->config->n_rules; i++)
        if ((streq(c->config->rules[i].subject, "*") ||
             streq(c->config->rules[i].subject, subject)) &&
            streq(c->config->rules[i].permission, permission))
            result = c->config->rules[i].allowed;
    return result;
}

static void answer_hello(Child *c, int fd, json_t *o)
{
    json_t *permissions = json_array(), *members = json_array();

    set_decimal(o, "epoch", hybus_page_writer_epoch(c->page));
    json_object_set_new(o, "generation",
                        json_integer((json_int_t)hybus_page_writer_generation(c->page)));
    for (const char *const *p = c->config->permissions; *p; p++)
        json_array_append_new(permissions, json_string(*p));
    for (const hybus_member *m = c->config->members; m->interface; m++) {
        const char kind[] = {(char)m->kind, 0};
        json_array_append_new(
            members, json_pack("[sssi]", m->interface, m->member, kind, (int)m->permission));
    }
    json_object_set_new(o, "permissions", permissions);
    json_object_set_new(o, "members", members);
    for (size_t i = 0; i < c->n_connections; i++)
        if (c->connections[i] == fd)
            c->greeted[i] = true;
    send_json(fd, o, hybus_page_writer_fd(c->page));
}

static void answer_row(Child *c, json_t *question, int fd, json_t *o)
{
    const json_t *list = json_object_get(question, "permissions");
    uint8_t bits[HYBUS_AGENT_PERMISSIONS_MAX / 8] = {0};
    _cleanup_(freep) char *text = NULL;
    char subject[32];
    uint32_t slot = 0;
    size_t n = 0;

    subject_text(question, subject, sizeof subject);
    for (const char *s = subject; *s; s++)
        slot = slot * 31 + (unsigned char)*s;
    slot %= HYBUS_PAGE_SLOTS;
    for (;; n++) {
        const char *p =
            list ? json_string_value(json_array_get(list, n)) : c->config->permissions[n];

        if (!p)
            break;
        if (allowed(c, question, p))
            bits[n / 8] |= (uint8_t)(1u << n % 8);
    }
    REQUIRE(hybus_base64_encode(bits, (n + 7) / 8, &text) == 0);
    set_decimal(o, "epoch", hybus_page_writer_epoch(c->page));
    /* A held question was overtaken: its stamp is the one from before. */
    set_decimal(o, "stamp",
                json_object_get(question, "stamp")
                    ? (uint64_t)json_integer_value(json_object_get(question, "stamp"))
                    : hybus_page_writer_slot(c->page, slot));
    json_object_set_new(o, "slot", json_integer(slot));
    json_object_set_new(o, "count", json_integer((json_int_t)n));
    json_object_set_new(o, "bits", json_string(text));
    send_json(fd, o, -1);
}

static bool is_on(Child *c, const char *mode)
{
    return json_is_true(json_object_get(c->held_ops, mode));
}

static void add_pass(Child *c, const json_t *question, json_t *o)
{
    char subject[32];
    uint32_t slot = 0;

    subject_text(question, subject, sizeof subject);
    for (const char *s = subject; *s; s++)
        slot = slot * 31 + (unsigned char)*s;
    slot %= HYBUS_PAGE_SLOTS;
    json_object_set_new(o, "once", json_true());
    set_decimal(o, "epoch", hybus_page_writer_epoch(c->page));
    set_decimal(o, "stamp", hybus_page_writer_slot(c->page, slot) - is_on(c, "stale"));
    json_object_set_new(o, "slot", json_integer(slot));
}

/* Whether the single call is dealt with. */
static bool answer_single(Child *c, json_t *question, int fd, json_t *o)
{
    json_t *arguments = json_object_get(question, "arguments");

    if (is_on(c, "want") && json_is_false(arguments)) {
        json_object_set_new(o, "allowed", json_false());
        json_object_set_new(o, "want", json_string("arguments"));
        json_object_set_new(o, "hide", json_pack("[i]", 0));
    } else if (is_on(c, "once")) {
        json_object_set_new(o, "allowed", json_true());
        add_pass(c, question, o);
    } else {
        return false;
    }
    send_json(fd, o, -1);
    return true;
}

static void answer_judge(Child *c, json_t *question, int fd, json_t *o)
{
    static unsigned serial;
    char audit[32];
    bool yes = json_is_true(json_object_get(c->held_ops, "no judge")) ||
               allowed(c, question, json_string_value(json_object_get(question, "permission")));

    if (json_is_true(json_object_get(question, "single")) && answer_single(c, question, fd, o))
        return;
    json_object_set_new(o, "allowed", json_boolean(yes));
    if (!yes) {
        snprintf(audit, sizeof audit, "fake-%u", ++serial);
        json_object_set_new(o, "audit", json_string(audit));
        json_object_set_new(o, "rule", json_string("default"));
        json_object_set_new(o, "reason", json_string("no rule grants it"));
    }
    send_json(fd, o, -1);
}

static void answer_connect(Child *c, json_t *question, int fd, json_t *o)
{
    const char *bearer = json_string_value(json_object_get(question, "bearer"));

    json_object_set_new(o, "expires", json_string("never"));
    if (!bearer) {
        json_object_set_new(o, "handle", json_integer(0));
        json_object_set_new(o, "principal", json_string("anonymous"));
    } else if (streq(bearer, "good")) {
        json_object_set_new(o, "handle", json_integer((json_int_t)++c->next_handle));
        json_object_set_new(o, "principal", json_string("token:test"));
    } else {
        json_object_del(o, "ok");
        json_object_set_new(o, "error", json_string("Unauthenticated"));
        json_object_set_new(o, "message", json_string("wrong token"));
    }
    send_json(fd, o, -1);
}

static void answer(Child *c, json_t *question, int fd)
{
    const char *op = strempty(json_string_value(json_object_get(question, "op")));
    json_t *o = json_pack("{sO? sb}", "id", json_object_get(question, "id"), "ok", 1);

    if (streq(op, "hello"))
        answer_hello(c, fd, o);
    else if (streq(op, "row"))
        answer_row(c, question, fd, o);
    else if (streq(op, "judge"))
        answer_judge(c, question, fd, o);
    else if (streq(op, "connect"))
        answer_connect(c, question, fd, o);
    else if (json_object_get(question, "id"))
        send_json(fd, o, -1);
    else
        json_decref(o);
}

static void receive(Child *c, json_t *question, int fd)
{
    const char *op = strempty(json_string_value(json_object_get(question, "op")));

    count(c->counts, op, 1);
    if (streq(op, "used"))
        count(c->used, strempty(json_string_value(json_object_get(question, "permission"))),
              json_integer_value(json_object_get(question, "count")));
    if (streq(op, "unjudged")) {
        count(c->used, strempty(json_string_value(json_object_get(question, "reason"))),
              json_integer_value(json_object_get(question, "count")));
        count(c->used, strempty(json_string_value(json_object_get(question, "audit"))),
              json_integer_value(json_object_get(question, "count")));
    }
    if (json_is_array(json_object_get(question, "arguments"))) {
        char *text = json_dumps(json_object_get(question, "arguments"), JSON_COMPACT);

        count(c->used, text, 1);
        free(text);
    }
    if (streq(op, "judge") && is_on(c, "wait"))
        send_json(fd, json_pack("{sO sb sI}", "id", json_object_get(question, "id"), "ok", 1, "wait",
                                (json_int_t)60000000), -1);
    else if (!json_is_true(json_object_get(c->held_ops, op))) {
        answer(c, question, fd);
        return;
    }
    if (streq(op, "row")) { /* the stamp is read before the row is computed */
        char subject[32];
        uint32_t slot = 0;

        subject_text(question, subject, sizeof subject);
        for (const char *s = subject; *s; s++)
            slot = slot * 31 + (unsigned char)*s;
        json_object_set_new(question, "stamp",
                            json_integer((json_int_t)hybus_page_writer_slot(c->page, slot)));
    }
    REQUIRE(c->n_held < HELD_MAX);
    c->held[c->n_held].fd = fd;
    c->held[c->n_held++].question = json_incref(question);
}

static void release(Child *c, const char *op)
{
    size_t kept = 0;

    for (size_t i = 0; i < c->n_held; i++) {
        json_t *q = c->held[i].question;

        if (!streq(op, strempty(json_string_value(json_object_get(q, "op"))))) {
            c->held[kept++] = c->held[i];
            continue;
        }
        answer(c, q, c->held[i].fd);
        json_decref(q);
    }
    c->n_held = kept;
}

static void set_rule(fake_agent *f, const char *subject, const char *permission, bool yes)
{
    REQUIRE(f->n_rules < RULES_MAX);
    snprintf(f->rules[f->n_rules].subject, sizeof f->rules[0].subject, "%s", subject);
    snprintf(f->rules[f->n_rules].permission, sizeof f->rules[0].permission, "%s", permission);
    f->rules[f->n_rules++].allowed = yes;
}

static void publish(Child *c, bool tell)
{
    uint64_t generation = hybus_page_writer_bump(c->page, UINT32_MAX);

    for (size_t i = 0; tell && i < c->n_connections; i++)
        if (c->greeted[i])
            send_json(c->connections[i],
                      json_pack("{ss sI}", "op", "changed", "generation", (json_int_t)generation),
                      -1);
}

static json_int_t command(Child *c, const json_t *o)
{
    const char *what, *a, *b;
    int yes;

    REQUIRE(json_unpack((json_t *)o, "[sssb]", &what, &a, &b, &yes) == 0);
    if (streq(what, "allow")) {
        set_rule(c->config, a, b, yes);
        publish(c, true);
    } else if (streq(what, "bump")) {
        publish(c, false);
    } else if (streq(what, "hold")) {
        json_object_set_new(c->held_ops, a, json_boolean(yes));
        if (!yes)
            release(c, a);
    } else if (streq(what, "count")) {
        return json_integer_value(json_object_get(c->counts, a));
    } else if (streq(what, "used")) {
        return json_integer_value(json_object_get(c->used, a));
    }
    return 0;
}

static json_t *receive_json(int fd)
{
    static char buffer[HYBUS_AGENT_PACKET_MAX];
    ssize_t n = recv(fd, buffer, sizeof buffer, 0);

    return n > 0 ? json_loadb(buffer, (size_t)n, 0, NULL) : NULL;
}

static void forget(Child *c, size_t i)
{
    size_t kept = 0;

    for (size_t k = 0; k < c->n_held; k++)
        if (c->held[k].fd == c->connections[i])
            json_decref(c->held[k].question);
        else
            c->held[kept++] = c->held[k];
    c->n_held = kept;
    close(c->connections[i]);
    c->connections[i] = c->connections[--c->n_connections];
    c->greeted[i] = c->greeted[c->n_connections];
}

static void serve_connection(Child *c, size_t i)
{
    json_t *o = receive_json(c->connections[i]);

    if (o)
        receive(c, o, c->connections[i]);
    else
        forget(c, i);
    json_decref(o);
}

static void child(fake_agent *f)
{
    Child c = {
        .config = f, .held_ops = json_object(), .counts = json_object(), .used = json_object()};

    REQUIRE(hybus_page_writer_new(&c.page) == 0);
    for (;;) {
        struct pollfd p[2 + CONNECTIONS_MAX] = {{f->control_fd, POLLIN, 0},
                                                {f->listen_fd, POLLIN, 0}};
        size_t n = c.n_connections;

        for (size_t i = 0; i < n; i++)
            p[2 + i] = (struct pollfd){c.connections[i], POLLIN, 0};
        if (poll(p, 2 + n, -1) < 0)
            continue;
        for (size_t i = n; i > 0; i--)
            if (p[1 + i].revents)
                serve_connection(&c, i - 1);
        if (p[1].revents && c.n_connections < CONNECTIONS_MAX) {
            int fd = accept4(f->listen_fd, NULL, NULL, SOCK_CLOEXEC);

            if (fd >= 0) {
                c.greeted[c.n_connections] = false;
                c.connections[c.n_connections++] = fd;
            }
        }
        if (p[0].revents) {
            json_t *o = receive_json(f->control_fd);

            if (!o)
                _exit(0);
            send_json(f->control_fd, json_pack("[I]", command(&c, o)), -1);
            json_decref(o);
        }
    }
}

/* --- the parent ------------------------------------------------------------------------------ */

fake_agent *fake_agent_new(const hybus_member *members, const char *const *permissions)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    fake_agent *f = calloc(1, sizeof *f);

    REQUIRE(f);
    f->members = members;
    f->permissions = permissions;
    strcpy(f->directory, "/tmp/fake-agent-XXXXXX");
    REQUIRE(mkdtemp(f->directory));
    snprintf(f->path, sizeof f->path, "%s/agent.sock", f->directory);
    strcpy(address.sun_path, f->path);
    f->listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    REQUIRE(f->listen_fd >= 0);
    REQUIRE(bind(f->listen_fd, (struct sockaddr *)&address, sizeof address) == 0);
    REQUIRE(listen(f->listen_fd, 64) == 0);
    fake_agent_start(f);
    return f;
}

void fake_agent_start(fake_agent *f)
{
    pid_t parent = getpid();
    int pair[2];

    REQUIRE(f->pid == 0);
    REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0);
    fflush(NULL);
    f->pid = fork();
    REQUIRE(f->pid >= 0);
    if (f->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        close(pair[0]);
        f->control_fd = pair[1];
        child(f);
    }
    close(pair[1]);
    f->control_fd = pair[0];
}

void fake_agent_kill(fake_agent *f)
{
    if (f->pid == 0)
        return;
    kill(f->pid, SIGKILL);
    REQUIRE(waitpid(f->pid, NULL, 0) == f->pid);
    f->pid = 0;
    close(f->control_fd);
}

void fake_agent_free(fake_agent *f)
{
    if (!f)
        return;
    fake_agent_kill(f);
    close(f->listen_fd);
    unlink(f->path);
    rmdir(f->directory);
    free(f);
}

const char *fake_agent_path(const fake_agent *f)
{
    return f->path;
}

static unsigned tell(fake_agent *f, const char *what, const char *a, const char *b, bool yes)
{
    json_int_t n;
    json_t *o;

    send_json(f->control_fd, json_pack("[sssb]", what, a, b, yes), -1);
    o = receive_json(f->control_fd);
    REQUIRE(o && json_unpack(o, "[I]", &n) == 0);
    json_decref(o);
    return (unsigned)n;
}

void fake_agent_allow(fake_agent *f, const char *subject, const char *permission, bool yes)
{
    if (f->pid > 0)
        (void)tell(f, "allow", subject, permission, yes);
    set_rule(f, subject, permission, yes);
}

void fake_agent_bump(fake_agent *f)
{
    (void)tell(f, "bump", "", "", true);
}

void fake_agent_hold(fake_agent *f, const char *op, bool hold)
{
    (void)tell(f, "hold", op, "", hold);
}

unsigned fake_agent_count(fake_agent *f, const char *op)
{
    return tell(f, "count", op, "", true);
}

unsigned fake_agent_used(fake_agent *f, const char *permission)
{
    return tell(f, "used", permission, "", true);
}
