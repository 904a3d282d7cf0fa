/* SPDX-License-Identifier: Apache-2.0 */
/* Passwords from outside, and the sessions that they open.
 *
 * Guessing is slowed twice: each address has its own allowance, and each name has one that all
 * strangers share. An attacker with many addresses can use up the second, but not for those who
 * come from where the user has logged in before: these have only their own address's allowance to
 * lose. Tokens, certificates and sessions are not concerned at all, nor is local root. */

#include <hybus/log.h>

#include "password.h"
#include "security-internal.h"

#define KNOWN_MAX 8u

static void peer_key(const char *peer, char ret[20])
{
    snprintf(ret, 20, "%016llx", (unsigned long long)throttle_key(strempty(peer)));
}

static bool is_known(const User *u, const char *peer)
{
    char key[20];

    peer_key(peer, key);
    return u && words_contain(u->known, key);
}

int security_login_begin(Security *s, const Login *l, LoginCheck *ret, uint64_t *ret_wait)
{
    const User *u = store_user(s->store, l->user);
    uint64_t now = security_boottime();

    if (!principal_name_is_valid(strempty(l->protocol)) || !principal_name_is_valid(l->user) ||
        strlen(strempty(l->peer)) > 128)
        return -EINVAL;
    *ret = (LoginCheck){.known = is_known(u, l->peer), .key = throttle_key(strempty(l->peer))};
    *ret_wait = throttle_wait(&s->logins, l->peer, now);
    if (!ret->known)
        *ret_wait = MAX_OF(*ret_wait, throttle_wait(&s->names, l->user, now));
    if (*ret_wait > 0) {
        s->statistics.throttled++;
        return -EAGAIN;
    }
    if (u && u->password && !(ret->hash = strdup(u->password)))
        return -ENOMEM;
    return 0;
}

static void note_failure(Security *s, const Login *l)
{
    char subject[80], call[256];
    const AuditRecord record = {
        .verdict = "denied",
        .layer = 2,
        .generation = security_generation(s),
        .subject = subject,
        .call = call,
        .rule = (char *)"",
        .reason = (char *)"wrong user or password",
    };

    snprintf(subject, sizeof subject, "user:%s", l->user);
    snprintf(call, sizeof call, "login over %s from %.128s", l->protocol, strempty(l->peer));
    (void)audit_count(s->audit, &record, 1, NULL);
}

static int login_failed(Security *s, const Login *l, bool known, uint64_t *ret_wait)
{
    uint64_t now = security_boottime();

    *ret_wait = throttle_failure(&s->logins, l->peer, now);
    if (!known)
        *ret_wait = MAX_OF(*ret_wait, throttle_failure(&s->names, l->user, now));
    s->statistics.throttled += *ret_wait > 0;
    note_failure(s, l);
    return *ret_wait > 0 ? -EAGAIN : -EKEYREJECTED;
}

/* The last few places, the newest last. It is written down only when it is a new one. */
static void remember_peer(Security *s, User *u, const char *peer)
{
    char key[20];
    int r;

    peer_key(peer, key);
    if (words_contain(u->known, key))
        return;
    if (words_count(u->known) >= KNOWN_MAX) {
        free(u->known[0]);
        memmove(u->known, u->known + 1, KNOWN_MAX * sizeof *u->known);
    }
    if (words_add(&u->known, key, strlen(key)) < 0)
        return;
    r = store_save(s->store);
    if (r < 0)
        hybus_log_errno(LOG_WARNING, r, "Cannot write down where a user has logged in from");
}

static void end_session(Security *s, Session *session)
{
    char principal[80];

    snprintf(principal, sizeof principal, "user:%s", session->user);
    sessions_remove(&s->sessions, session);
    security_move_principal(s, principal);
}

static int add_session(Security *s, const Login *l, char **ret_secret, Session **ret)
{
    _cleanup_(freep) char *secret = NULL;
    Session new = {.user = (char *)l->user,
                   .protocol = (char *)l->protocol,
                   .peer = (char *)l->peer,
                   .created = store_now(s->store),
                   .begun = security_boottime()};
    Session *victim;
    int r = sessions_make_room(&s->sessions, l->user, &victim);

    if (r >= 0)
        r = store_make_secret(SESSION_PREFIX, &secret);
    if (r < 0)
        return r;
    if (victim)
        end_session(s, victim);
    new.used = new.begun;
    sha256(secret, strlen(secret), new.hash);
    r = sessions_add(&s->sessions, &new, ret);
    if (r < 0)
        explicit_bzero(secret, strlen(secret));
    else
        *ret_secret = TAKE_PTR(secret);
    return r;
}

static Connect connect_of(const Login *l)
{
    return (Connect){.protocol = l->protocol, .peer = l->peer, .tls = l->tls};
}

int security_login_proved(Security *s, const Login *l, const LoginCheck *check, bool right,
                          uint64_t *ret_wait)
{
    const User *u = store_user(s->store, l->user);

    s->statistics.checks++;
    /* The password may have been changed while it was compared. */
    if (!right || !u || !check->hash || !u->password || !streq(u->password, check->hash))
        return login_failed(s, l, check->known, ret_wait);
    return 0;
}

static int open_session(Security *s, const Login *l, char **ret_secret, uint64_t *ret_expires)
{
    Session *session;
    int r = add_session(s, l, ret_secret, &session);

    if (r < 0)
        return r;
    (void)security_save_sessions(s);
    *ret_expires = session_deadline(session, 0, s->settings->session_lifetime);
    return 1;
}

int security_login_end(Security *s, const Login *l, const LoginCheck *check, bool right,
                       char **ret_secret, uint64_t *ret_expires, uint64_t *ret_wait)
{
    User *u = store_user(s->store, l->user);
    const Connect c = connect_of(l);
    int r = security_login_proved(s, l, check, right, ret_wait);

    if (r >= 0 && !security_user_may_connect(s, u, &c))
        r = -EACCES;
    if (r >= 0)
        r = open_session(s, l, ret_secret, ret_expires);
    if (r < 0)
        return r;
    security_note_as(s, "user:", l->user, "login", l->peer);
    remember_peer(s, u, l->peer);
    return 1;
}

int security_own_password_begin(Security *s, const char *session_secret, Login *l,
                                uint64_t *ret_session, LoginCheck *ret, uint64_t *ret_wait)
{
    const Session *session = security_session_of(s, session_secret);
    const User *u = session ? store_user(s->store, session->user) : NULL;
    const Connect c = connect_of(l);

    if (!u)
        return -ENOENT;
    if (!principal_name_is_valid(strempty(l->protocol)) ||
        !security_user_may_change_password(s, u, &c))
        return -EACCES;
    l->user = u->name;
    *ret_session = session->id;
    return security_login_begin(s, l, ret, ret_wait);
}

int security_own_password_end(Security *s, const Login *l, uint64_t session_id,
                              const LoginCheck *check, const char *hash, char **ret_secret,
                              uint64_t *ret_expires)
{
    const Session *session = sessions_find(&s->sessions, session_id);
    User *u = store_user(s->store, l->user);
    const Connect c = connect_of(l);
    int r;

    /* All of it may have ended while the new one was hashed. */
    if (!session || !u || !streq(session->user, l->user) || security_session_is_over(s, session) ||
        !u->password || !streq(u->password, check->hash))
        return -ENOENT;
    if (!security_user_may_change_password(s, u, &c))
        return -EACCES;
    r = security_write_password(s, u, hash);
    if (r < 0)
        return r;
    (void)security_end_sessions(s, l->user); /* in the file they name the old password */
    security_note_as(s, "user:", l->user, "own password", l->peer);
    return open_session(s, l, ret_secret, ret_expires);
}

void login_check_done(LoginCheck *c)
{
    if (c->hash)
        explicit_bzero(c->hash, strlen(c->hash));
    free(c->hash);
    c->hash = NULL;
}

Session *security_session_of(Security *s, const char *secret)
{
    uint8_t hash[SHA256_SIZE];
    Session *session;

    sha256(secret, strlen(secret), hash);
    session = sessions_match(&s->sessions, hash);
    explicit_bzero(hash, sizeof hash);
    return session && security_session_is_over(s, session) ? NULL : session;
}

bool security_session_is_over(const Security *s, const Session *session)
{
    return session_deadline(session, s->settings->session_idle, s->settings->session_lifetime) <=
           security_boottime();
}

int security_logout(Security *s, const char *secret)
{
    Session *session = security_session_of(s, secret);
    int r;

    if (!session)
        return -ENOENT;
    security_note_as(s, "user:", session->user, "logout", session->peer);
    end_session(s, session);
    r = security_save_sessions(s);
    return r < 0 ? r : 1;
}

int security_remove_session(Security *s, const Subject *caller, uint64_t id)
{
    Session *session = sessions_find(&s->sessions, id);
    char text[96];
    int r;

    if (!session)
        return -ENOENT;
    snprintf(text, sizeof text, "%llu of user:%.64s", (unsigned long long)id, session->user);
    end_session(s, session);
    security_note(s, caller, "RemoveSession", text);
    r = security_save_sessions(s);
    return r < 0 ? r : 1;
}

int security_end_sessions(Security *s, const char *user)
{
    int n = 0, r;

    for (size_t i = s->sessions.n; i-- > 0;)
        if (streq(s->sessions.list[i].user, user)) {
            end_session(s, &s->sessions.list[i]);
            n++;
        }
    r = n > 0 ? security_save_sessions(s) : 0;
    return r < 0 ? r : n;
}

bool security_expire_sessions(Security *s)
{
    bool any = false;

    for (size_t i = s->sessions.n; i-- > 0;)
        if (security_session_is_over(s, &s->sessions.list[i])) {
            end_session(s, &s->sessions.list[i]);
            any = true;
        }
    if (any)
        (void)security_save_sessions(s); /* over is over, whatever the file says */
    return any;
}

uint64_t security_next_session_end(const Security *s)
{
    uint64_t next = UINT64_MAX;

    for (size_t i = 0; i < s->sessions.n; i++)
        next = MIN_OF(next, session_deadline(&s->sessions.list[i], s->settings->session_idle,
                                             s->settings->session_lifetime));
    return next;
}
