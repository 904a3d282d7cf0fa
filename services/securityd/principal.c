/* SPDX-License-Identifier: Apache-2.0 */
#include <hybus/log.h>

#include "security-internal.h"

void principal_free(Principal *p)
{
    if (!p)
        return;
    free(p->name);
    free(p->token);
    free(p->protocol);
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

bool security_principal_is_void(Security *s, const Principal *p)
{
    const char *name = p->token ? startswith(p->token, "token:") : NULL;
    const Token *t = name ? store_token(s->store, name) : NULL;

    return !t || memcmp(t->hash, p->hash, sizeof t->hash) != 0 ||
           (t->expires && t->expires <= store_now(s->store));
}

static int principal_of(Security *s, const Token *t, const Connect *c, Principal **ret)
{
    _cleanup_(principal_freep) Principal *p = calloc(1, sizeof *p);

    if (!p)
        return -ENOMEM;
    p->handle = s->next_handle;
    p->name = strdup(t->principal);
    p->protocol = strdup(c->protocol);
    p->encrypted = c->tls && *c->tls;
    p->has_peer = network_parse_peer(strempty(c->peer), &p->peer) == 0;
    p->expires = t->expires;
    memcpy(p->hash, t->hash, sizeof p->hash);
    if (asprintf(&p->token, "token:%s", t->name) < 0)
        p->token = NULL;
    if (!p->name || !p->protocol || !p->token)
        return -ENOMEM;
    for (char **role = t->roles; role && *role; role++)
        if (words_add(&p->roles, *role, strlen(*role)) < 0)
            return -ENOMEM;
    s->next_handle++;
    *ret = TAKE_PTR(p);
    return 0;
}

static int match_bearer(Security *s, const Connect *c, Principal **ret, uint64_t *ret_wait)
{
    Token *t = store_match(s->store, c->bearer);

    if (!t) {
        *ret_wait = throttle_failure(&s->bearers, c->peer, security_boottime());
        s->statistics.throttled += *ret_wait > 0;
        return *ret_wait > 0 ? -EAGAIN : -EKEYREJECTED;
    }
    t->last_used = store_now(s->store); /* kept with the next write: use costs no flash */
    return principal_of(s, t, c, ret);
}

/* Only a rule that says so keeps somebody from connecting: whoever holds nothing may still connect
 * and is then told to authenticate. */
static bool may_connect(Security *s, const Connect *c, const Principal *p)
{
    Subject subject = security_remote_subject(p);
    Network peer;
    char permission[64];
    Verdict v;

    if (!p) {
        subject.encrypted = c->tls && *c->tls ? YES : NO;
        subject.protocol = c->protocol;
        if (network_parse_peer(strempty(c->peer), &peer) == 0)
            subject.peer = &peer;
    }
    subject.moment = security_moment(s);
    snprintf(permission, sizeof permission, "connect.%s", c->protocol);
    v = policy_judge(s->policy, &subject, permission);
    return !v.rule || v.rule->kind == RULE_GRANT;
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
    if (r < 0)
        return r;
    if (!may_connect(s, c, p))
        return -EACCES;
    *ret = TAKE_PTR(p);
    return 0;
}

uint64_t security_next_expiry(Security *s)
{
    uint64_t now = store_now(s->store), next = UINT64_MAX;

    for (size_t i = 0; i < s->store->n_tokens; i++) {
        uint64_t expires = s->store->tokens[i].expires;

        if (expires > now && expires < next)
            next = expires;
    }
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
    /* So that a clock that starts anew does not bring it back. */
    if (any && (r = store_save(s->store)) < 0)
        hybus_log_errno(LOG_WARNING, r, "Cannot write down the time at which a token expired");
    return any;
}
