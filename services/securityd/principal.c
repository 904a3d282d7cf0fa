/* SPDX-License-Identifier: Apache-2.0 */
#include <hybus/log.h>
#include <sys/random.h>

#include "security-internal.h"

void principal_free(Principal *p)
{
    if (!p)
        return;
    free(p->name);
    free(p->token);
    free(p->protocol);
    words_free(p->own_roles);
    words_free(p->roles);
    free(p);
}

Subject security_remote_subject(const Principal *p)
{
    if (!p)
        return (Subject){.remote = true, .encrypted = UNKNOWN};
    return (Subject){.remote = true,
                     .name = p->name,
                     .token = p->token,
                     .roles = p->roles,
                     .encrypted = p->encrypted ? YES : NO,
                     .protocol = p->protocol,
                     .peer = p->has_peer ? &p->peer : NULL};
}

/* By its hash: a later one of the same name is another. */
static const Token *token_of(Security *s, const Principal *p)
{
    const char *name = p->token ? startswith(p->token, "token:") : NULL;
    const Token *t = name ? store_token(s->store, name) : NULL;

    return t && memcmp(t->hash, p->hash, sizeof t->hash) == 0 ? t : NULL;
}

static const User *user_of(Security *s, const Principal *p)
{
    const char *name = startswith(p->name, "user:");

    return name ? store_user(s->store, name) : NULL;
}

bool security_principal_is_void(Security *s, const Principal *p)
{
    const Session *session;

    if (startswith(p->name, "user:") && !user_of(s, p))
        return true;
    switch (p->credential) {
    case CREDENTIAL_TOKEN:
        if (!token_of(s, p))
            return true;
        break;
    case CREDENTIAL_SESSION:
        session = sessions_match(&s->sessions, p->hash);
        return !session || security_session_is_over(s, session);
    case CREDENTIAL_CERTIFICATE:
        return !security_certificate_is_good(s, store_certificate_of(s->store, p->hash));
    case CREDENTIAL_NODE:
        return security_node_is_void(s, p);
    }
    return p->expires && p->expires <= store_now(s->store);
}

static int add_roles(char *const *from, char ***to)
{
    int r = 0;

    for (; r >= 0 && from && *from; from++)
        if (!words_contain(*to, *from))
            r = words_add(to, *from, strlen(*from));
    return r;
}

int security_principal_refresh(Security *s, Principal *p)
{
    const User *u = user_of(s, p);
    uint64_t serial = u ? u->serial : 0;
    char **roles = NULL;

    if (p->serial == serial && p->serial)
        return 0;
    if (add_roles(p->own_roles, &roles) < 0 || (u && add_roles(u->roles, &roles) < 0)) {
        words_free(roles);
        return -ENOMEM;
    }
    words_free(p->roles);
    p->roles = roles;
    p->serial = serial;
    return 0;
}

void security_principal_touch(Security *s, const Principal *p)
{
    Session *session =
        p->credential == CREDENTIAL_SESSION ? sessions_match(&s->sessions, p->hash) : NULL;

    if (!session || security_session_is_over(s, session))
        return;
    session->used = security_boottime();
    /* Not at each, but before it would matter to when it ends. */
    if (session->used - s->sessions.saved >= SESSIONS_SAVE_USEC)
        (void)security_save_sessions(s);
}

/* Nobody guesses one: whoever names it has been told by the server it was given to. JSON numbers
 * are exact up to 2^53. */
static int new_handle(uint64_t *ret)
{
    uint64_t handle = 0;

    while (handle == 0) {
        if (getrandom(&handle, sizeof handle, 0) != sizeof handle)
            return -EIO;
        handle &= (UINT64_C(1) << 53) - 1;
    }
    *ret = handle;
    return 0;
}

int security_principal_new(Security *s, const char *name, const Connect *c, char *const *roles,
                           Principal **ret)
{
    _cleanup_(principal_freep) Principal *p = calloc(1, sizeof *p);

    if (!p)
        return -ENOMEM;
    p->name = strdup(name);
    p->protocol = strdup(c->protocol);
    p->encrypted = c->tls && *c->tls;
    p->has_peer = network_parse_peer(strempty(c->peer), &p->peer) == 0;
    if (!p->name || !p->protocol || add_roles(roles, &p->own_roles) < 0)
        return -ENOMEM;
    if (security_principal_refresh(s, p) < 0)
        return -ENOMEM;
    if (new_handle(&p->handle) < 0)
        return -EIO;
    *ret = TAKE_PTR(p);
    return 0;
}

static int principal_of_token(Security *s, Token *t, const Connect *c, Principal **ret)
{
    _cleanup_(principal_freep) Principal *p = NULL;
    int r = security_principal_new(s, t->principal, c, t->roles, &p);

    if (r < 0)
        return r;
    p->credential = CREDENTIAL_TOKEN;
    p->expires = t->expires;
    memcpy(p->hash, t->hash, sizeof p->hash);
    if (asprintf(&p->token, "token:%s", t->name) < 0) {
        p->token = NULL;
        return -ENOMEM;
    }
    t->last_used = store_now(s->store); /* kept with the next write: use costs no flash */
    *ret = TAKE_PTR(p);
    return 0;
}

static int principal_of_session(Security *s, Session *session, const Connect *c, Principal **ret)
{
    _cleanup_(principal_freep) Principal *p = NULL;
    uint64_t now = security_boottime(), end;
    char name[80];
    int r;

    snprintf(name, sizeof name, "user:%s", session->user);
    r = security_principal_new(s, name, c, NULL, &p);
    if (r < 0)
        return r;
    p->credential = CREDENTIAL_SESSION;
    memcpy(p->hash, session->hash, sizeof p->hash);
    end = session_deadline(session, 0, s->settings->session_lifetime);
    if (end != UINT64_MAX)
        p->expires = store_now(s->store) + (end > now ? end - now : 0);
    session->used = now;
    *ret = TAKE_PTR(p);
    return 0;
}

static int match_certificate(Security *s, const Connect *c, Principal **ret)
{
    _cleanup_(principal_freep) Principal *p = NULL;
    uint8_t hash[SHA256_SIZE];
    const Certificate *known;
    int r = hex_decode(c->cert_sha256, hash, sizeof hash);

    if (r < 0)
        return r;
    known = store_certificate_of(s->store, hash);
    if (!security_certificate_is_good(s, known))
        return -EKEYREJECTED;
    r = security_principal_new(s, known->principal, c, known->roles, &p);
    if (r < 0)
        return r;
    p->credential = CREDENTIAL_CERTIFICATE;
    p->expires = known->expires;
    memcpy(p->hash, hash, sizeof p->hash);
    *ret = TAKE_PTR(p);
    return 0;
}

static int match_bearer(Security *s, const Connect *c, Principal **ret, uint64_t *ret_wait)
{
    Session *session =
        startswith(c->bearer, SESSION_PREFIX) ? security_session_of(s, c->bearer) : NULL;
    Token *t = session ? NULL : store_match(s->store, c->bearer);

    if (session)
        return principal_of_session(s, session, c, ret);
    if (t)
        return principal_of_token(s, t, c, ret);
    *ret_wait = throttle_failure(&s->bearers, c->peer, security_boottime());
    s->statistics.throttled += *ret_wait > 0;
    return *ret_wait > 0 ? -EAGAIN : -EKEYREJECTED;
}

/* Whether no rule keeps them from it. */
static bool may_unless_denied(Security *s, const Connect *c, Subject subject,
                              const char *permission)
{
    Network peer;
    Verdict v;

    subject.encrypted = c->tls && *c->tls ? YES : NO;
    subject.protocol = c->protocol;
    subject.peer = network_parse_peer(strempty(c->peer), &peer) == 0 ? &peer : NULL;
    subject.moment = security_moment(s);
    v = policy_judge(s->policy, &subject, permission);
    return !v.rule || v.rule->kind == RULE_GRANT;
}

/* Only a rule that says so keeps somebody from connecting: whoever holds nothing may still connect
 * and is then told to authenticate. */
static bool may_connect(Security *s, const Connect *c, Subject subject)
{
    char permission[64];

    snprintf(permission, sizeof permission, "connect.%s", c->protocol);
    return may_unless_denied(s, c, subject, permission);
}

bool security_user_may_connect(Security *s, const User *u, const Connect *c)
{
    char name[80];

    snprintf(name, sizeof name, "user:%s", u->name);
    return may_connect(s, c, (Subject){.remote = true, .name = name, .roles = u->roles});
}

bool security_user_may_change_password(Security *s, const User *u, const Connect *c)
{
    char name[80];

    snprintf(name, sizeof name, "user:%s", u->name);
    return may_unless_denied(s, c, (Subject){.remote = true, .name = name, .roles = u->roles},
                             "security.own-password");
}

int security_connect(Security *s, const Connect *c, Principal **ret, uint64_t *ret_wait)
{
    _cleanup_(principal_freep) Principal *p = NULL;
    int r = 0;

    s->statistics.checks++;
    if (!principal_name_is_valid(strempty(c->protocol)))
        return -EINVAL;
    if (c->bearer)
        r = match_bearer(s, c, &p, ret_wait);
    else if (c->cert_sha256)
        r = match_certificate(s, c, &p);
    else if (c->node)
        r = security_connect_node(s, c, &p);
    if (r < 0)
        return r;
    if (!may_connect(s, c, security_remote_subject(p)))
        return -EACCES;
    *ret = TAKE_PTR(p);
    return 0;
}

uint64_t security_next_expiry(Security *s)
{
    uint64_t now = store_now(s->store), next = UINT64_MAX;
    uint64_t boot = security_boottime(), session = security_next_session_end(s);

    for (size_t i = 0; i < s->store->n_tokens; i++) {
        uint64_t expires = s->store->tokens[i].expires;

        if (expires > now && expires < next)
            next = expires;
    }
    for (size_t i = 0; i < s->store->n_certificates; i++) {
        uint64_t expires = s->store->certificates[i].expires;

        if (expires > now && expires < next)
            next = expires;
    }
    if (session != UINT64_MAX)
        next = MIN_OF(next, now + (session > boot ? session - boot : 0));
    return next;
}

bool security_expire(Security *s, uint64_t since)
{
    uint64_t now = store_now(s->store);
    bool any = false;
    int r;

    for (size_t i = 0; i < s->store->n_tokens; i++) {
        const Token *t = &s->store->tokens[i];

        if (t->expires > since && t->expires <= now) {
            security_move_principal(s, t->principal);
            any = true;
        }
    }
    for (size_t i = 0; i < s->store->n_certificates; i++) {
        const Certificate *c = &s->store->certificates[i];

        if (c->expires > since && c->expires <= now) {
            security_move_principal(s, c->principal);
            any = true;
        }
    }
    /* So that a clock that starts anew does not bring it back. */
    if (any && (r = store_save(s->store)) < 0)
        hybus_log_errno(LOG_WARNING, r, "Cannot write down the time at which a token expired");
    return security_expire_sessions(s) || any;
}
