/* SPDX-License-Identifier: Apache-2.0 */
#include "agent-login.h"

#include "agent-answer.h"
#include "password.h"

/* A question whose answer waits for the thread. */
struct Pending {
    LIST_ENTRY(Pending) list;
    Peer *peer;
    PasswordJob *job; /* NULL: there is no loop, see run_now() */
    json_t *question; /* without its secret */
    LoginCheck check;
    char *fresh;      /* the password that shall be the new one */
    uint64_t session; /* whose user wants that */
    void (*done)(struct Pending *p, bool right, const char *hash);
};
typedef struct Pending Pending;

static void pending_free(Pending *p)
{
    LIST_REMOVE(p, list);
    json_decref(p->question);
    login_check_done(&p->check);
    if (p->fresh)
        explicit_bzero(p->fresh, strlen(p->fresh));
    free(p->fresh);
    free(p);
}

void login_leave(Peer *p)
{
    while (!LIST_EMPTY(&p->pending)) {
        Pending *one = LIST_FIRST(&p->pending);

        password_job_cancel(one->job);
        pending_free(one);
    }
}

static Pending *pending_new(Peer *p, const json_t *q)
{
    Pending *new = calloc(1, sizeof *new);

    if (!new)
        return NULL;
    new->peer = p;
    new->question = json_deep_copy(q);
    if (!new->question) {
        free(new);
        return NULL;
    }
    (void)json_object_del(new->question, "secret");
    (void)json_object_del(new->question, "new");
    (void)json_object_del(new->question, "bearer");
    LIST_INSERT_HEAD(&p->pending, new, list);
    return new;
}

static void on_password(bool right, const char *hash, void *userdata)
{
    Pending *p = userdata;
    Peer *peer = p->peer;

    p->done(p, right, hash);
    pending_free(p);
    if (peer->socket)
        agent_socket_wake(peer);
}

/* For tests and the fuzzer: nobody else is kept waiting there. */
static void run_now(Pending *p, const char *password, bool makes)
{
    _cleanup_(freep) char *hash = NULL;

    if (makes)
        (void)password_hash(password, &hash);
    on_password(makes ? hash != NULL : password_is(password, p->check.hash), hash, p);
}

static int wait_for_check(Pending *p, const char *password)
{
    PasswordQueue *queue = p->peer->socket ? agent_socket_passwords(p->peer->socket) : NULL;

    if (queue)
        return password_queue_check(queue, password, p->check.hash, p->check.key, p->check.known,
                                    on_password, p, &p->job);
    run_now(p, password, false);
    return 0;
}

static int wait_for_hash(Pending *p, const char *password)
{
    PasswordQueue *queue = p->peer->socket ? agent_socket_passwords(p->peer->socket) : NULL;

    if (queue)
        return password_queue_hash(queue, password, on_password, p, &p->job);
    run_now(p, password, true);
    return 0;
}

/* --- login and logout ------------------------------------------------------------------------ */

static Login login_of(const json_t *q)
{
    return (Login){.user = strempty(string(q, "user")),
                   .protocol = string(q, "protocol"),
                   .peer = strempty(string(q, "peer")),
                   .tls = string(q, "tls")};
}

static void send_session(Pending *p, char *secret, uint64_t expires)
{
    json_t *answer = answer_to(p->question);
    char principal[80];

    snprintf(principal, sizeof principal, "user:%s", strempty(string(p->question, "user")));
    json_object_set_new(answer, "secret", json_string(secret));
    json_object_set_new(answer, "principal", json_string(principal));
    json_object_set_new(answer, "expires",
                        expires == UINT64_MAX ? json_string("never") : decimal(expires));
    explicit_bzero(secret, strlen(secret));
    free(secret);
    (void)peer_send(p->peer, answer, -1);
}

static void login_done(Pending *p, bool right, const char *hash)
{
    const Login l = login_of(p->question);
    Peer *peer = p->peer;
    uint64_t expires = 0, wait = 0;
    char *secret = NULL;
    int r = security_login_end(peer->security, &l, &p->check, right, &secret, &expires, &wait);

    if (r == -EAGAIN)
        (void)throttled(peer, p->question, wait);
    else if (r < 0)
        (void)refuse(peer, p->question, r,
                     r == -EKEYREJECTED ? "wrong user or password" : "refused");
    else {
        send_session(p, secret, expires);
        if (peer->socket)
            agent_socket_arm_expiry(peer->socket);
    }
}

int op_login(Peer *p, const json_t *q)
{
    const Login l = login_of(q);
    const char *password = string(q, "secret");
    uint64_t wait = 0;
    Pending *pending;
    int r;

    if (!peer_may(p, "security.connect"))
        return refuse(p, q, -EACCES, "only servers ask this: it needs security.connect");
    if (!password || strlen(password) > PASSWORD_MAX)
        return refuse(p, q, -EINVAL, "secret: a password of at most 256 bytes");
    pending = pending_new(p, q);
    if (!pending)
        return -ENOMEM;
    pending->done = login_done;
    r = security_login_begin(p->security, &l, &pending->check, &wait);
    if (r >= 0)
        r = wait_for_check(pending, password);
    if (r >= 0)
        return 0;
    pending_free(pending);
    /* The same address is being looked at, or too many are: soon it will be otherwise. */
    if (r == -EBUSY || r == -ENOBUFS)
        return throttled(p, q, 1000000);
    return r == -EAGAIN ? throttled(p, q, wait) : refuse(p, q, r, "not a login");
}

int op_logout(Peer *p, const json_t *q)
{
    int r;

    if (!peer_may(p, "security.connect"))
        return refuse(p, q, -EACCES, "only servers ask this: it needs security.connect");
    r = security_logout(p->security, strempty(string(q, "bearer")));
    if (r < 0)
        return refuse(p, q, r, "there is no such session");
    if (p->socket)
        (void)agent_socket_changed(p->socket, NULL, NULL);
    return peer_send(p, answer_to(q), -1);
}

/* --- one's own password ---------------------------------------------------------------------- */

static void own_password_hashed(Pending *p, bool right, const char *hash)
{
    const Login l = login_of(p->question);
    Peer *peer = p->peer;
    uint64_t expires = 0;
    char *secret = NULL;
    int r = right ? security_own_password_end(peer->security, &l, p->session, &p->check, hash,
                                              &secret, &expires)
                  : -EIO;

    if (r >= 0 && peer->socket)
        (void)agent_socket_changed(peer->socket, NULL, NULL);
    if (r < 0)
        (void)refuse(peer, p->question, r, "the password has not been changed");
    else
        send_session(p, secret, expires);
    if (r >= 0 && peer->socket)
        agent_socket_arm_expiry(peer->socket);
}

/* It is known who that is: the new password's turn. */
static void own_password_checked(Pending *p, bool right, const char *hash)
{
    const Login l = login_of(p->question);
    Peer *peer = p->peer;
    uint64_t wait = 0;
    int r = security_login_proved(peer->security, &l, &p->check, right, &wait);
    Pending *next = r < 0 ? NULL : pending_new(peer, p->question);

    if (next) {
        next->done = own_password_hashed;
        next->session = p->session;
        next->check = p->check;
        p->check = (LoginCheck){0};
        r = wait_for_hash(next, p->fresh);
        if (r >= 0)
            return;
        pending_free(next);
    }
    if (r == -EAGAIN)
        (void)throttled(peer, p->question, wait);
    else if (r == -ENOBUFS)
        (void)throttled(peer, p->question, 1000000);
    else
        (void)refuse(peer, p->question, r < 0 ? r : -ENOMEM,
                     r == -EKEYREJECTED ? "wrong password" : "the password has not been changed");
}

static int start_own_password(Pending *pending, const json_t *q, uint64_t *ret_wait)
{
    Login l = login_of(q);
    int r;

    pending->fresh = strdup(string(q, "new"));
    if (!pending->fresh)
        return -ENOMEM;
    r = security_own_password_begin(pending->peer->security, strempty(string(q, "bearer")), &l,
                                    &pending->session, &pending->check, ret_wait);
    if (r < 0)
        return r;
    if (json_object_set_new(pending->question, "user", json_string(l.user)) < 0)
        return -ENOMEM;
    return wait_for_check(pending, string(q, "secret"));
}

int op_own_password(Peer *p, const json_t *q)
{
    const char *old = string(q, "secret"), *fresh = string(q, "new");
    uint64_t wait = 1000000;
    Pending *pending;
    int r;

    if (!peer_may(p, "security.connect"))
        return refuse(p, q, -EACCES, "only servers ask this: it needs security.connect");
    if (!old || strlen(old) > PASSWORD_MAX)
        return refuse(p, q, -EINVAL, "secret: a password of at most 256 bytes");
    if (!fresh || !password_is_acceptable(fresh))
        return refuse(p, q, -EINVAL, "new: a password has 8 to 256 bytes");
    pending = pending_new(p, q);
    if (!pending)
        return -ENOMEM;
    pending->done = own_password_checked;
    r = start_own_password(pending, q, &wait);
    if (r >= 0)
        return 0;
    pending_free(pending);
    if (r == -EBUSY || r == -ENOBUFS)
        return throttled(p, q, 1000000);
    return r == -EAGAIN ? throttled(p, q, wait)
                        : refuse(p, q, r, r == -ENOENT ? "there is no such session" : "refused");
}

/* The client of a handle has asked something: its session is in use. */
int op_touch(Peer *p, const json_t *q)
{
    json_int_t handle = json_integer_value(json_object_get(q, "handle"));
    const Principal *principal = handle > 0 ? peer_principal(p, (uint64_t)handle) : NULL;

    if (principal)
        security_principal_touch(p->security, principal);
    return 0;
}

/* --- users ----------------------------------------------------------------------------------- */

static int check_caller(Peer *p, const json_t *q, const char *member)
{
    const Subject caller = peer_subject(p);
    const Question question = {
        .permission = "security.users", .interface = "agent", .member = member, .kind = 'm'};
    const AuditRecord *record;
    Verdict v;

    if (policy_judge(p->security->policy, &caller, "security.users").allowed)
        return 1;
    (void)security_refuse(p->security, &caller, &question, &v, &record);
    return refuse(p, q, -EACCES, "this needs security.users");
}

static void answer_change(Peer *p, const json_t *q, int r, hybus_config_error *e, bool cuts)
{
    if (r < 0) {
        (void)refuse(p, q, r, e->message ? e->message : strerror(-r));
        return;
    }
    if (cuts && p->socket)
        (void)agent_socket_changed(p->socket, NULL, NULL);
    (void)peer_send(p, answer_to(q), -1);
}

static void add_user(Peer *p, const json_t *q, const char *hash)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    _cleanup_(words_freep) char **roles = NULL;
    const Subject caller = peer_subject(p);
    int r = read_words(json_object_get(q, "roles"), &roles);

    if (r >= 0)
        r = security_add_user_with(p->security, &caller, strempty(string(q, "name")), roles, hash,
                                   &e);
    answer_change(p, q, r, &e, false);
}

static void hash_for_new_user(Pending *p, bool right, const char *hash)
{
    if (right)
        add_user(p->peer, p->question, hash);
    else
        (void)refuse(p->peer, p->question, -EIO, "the password could not be hashed");
}

static void hash_for_user(Pending *p, bool right, const char *hash)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    const Subject caller = peer_subject(p->peer);
    int r = right ? security_set_password(p->peer->security, &caller,
                                          strempty(string(p->question, "name")), hash, &e)
                  : -EIO;

    answer_change(p->peer, p->question, r, &e, true);
}

static int hash_and(Peer *p, const json_t *q, const char *password,
                    void (*done)(Pending *, bool, const char *))
{
    Pending *pending;
    int r;

    if (!password_is_acceptable(password))
        return refuse(p, q, -EINVAL, "a password has 8 to 256 bytes");
    pending = pending_new(p, q);
    if (!pending)
        return -ENOMEM;
    pending->done = done;
    r = wait_for_hash(pending, password);
    if (r >= 0)
        return 0;
    pending_free(pending);
    return refuse(p, q, r, "too many passwords are being worked on; try again");
}

/* Everything is checked before the work, and again after it: the policy may have moved. */
int op_user_add(Peer *p, const json_t *q)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    _cleanup_(words_freep) char **roles = NULL;
    const char *name = strempty(string(q, "name")), *password = string(q, "secret");
    const Subject caller = peer_subject(p);
    int r = check_caller(p, q, "user-add");

    if (r <= 0)
        return r;
    if (!is_missing_or(q, "secret", JSON_STRING))
        return refuse(p, q, -EINVAL, "secret: a password");
    r = read_words(json_object_get(q, "roles"), &roles);
    if (r >= 0)
        r = security_check_user(p->security, &caller, name, roles, &e);
    if (r >= 0 && store_user(p->security->store, name))
        r = -EEXIST;
    if (r < 0)
        return refuse(p, q, r, e.message ? e.message : strerror(-r));
    if (password)
        return hash_and(p, q, password, hash_for_new_user);
    add_user(p, q, NULL);
    return 0;
}

int op_user_password(Peer *p, const json_t *q)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    const char *name = strempty(string(q, "name"));
    const Subject caller = peer_subject(p);
    int r = check_caller(p, q, "user-password");

    if (r <= 0)
        return r;
    r = security_check_user(p->security, &caller, name, NULL, &e);
    if (r >= 0 && !store_user(p->security->store, name))
        r = -ENOENT;
    if (r < 0)
        return refuse(p, q, r, e.message ? e.message : strerror(-r));
    return hash_and(p, q, strempty(string(q, "secret")), hash_for_user);
}
