/* SPDX-License-Identifier: Apache-2.0 */
/* Who speaks inside a connection. A token is checked once per connection; what is remembered of it
 * is its hash, compared in constant time. A peer that failed its check is forgotten at once, so
 * that every further attempt is judged (and throttled) by h-securityd. */

#include "http.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

static void peer_free(HttpPeer *p)
{
    http_permit_leave(p);
    if (p->peer)
        endpoint_peer_free(p->peer);
    OPENSSL_cleanse(p->hash, sizeof(p->hash));
    free(p->row);
    free(p);
}

static void unlink_peer(HttpPeer *p)
{
    HttpPeer **at = &p->connection->peers;

    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    p->connection->n_peers--;
}

/* The dead and unused go; from the end of the world if need be. */
static void collect(HttpConnection *c)
{
    HttpPeer *p = c->peers;

    while (p) {
        HttpPeer *next = p->next;

        if (p->dead && p->users == 0) {
            unlink_peer(p);
            peer_free(p);
        }
        p = next;
    }
}

static bool evict_unused(HttpConnection *c)
{
    HttpPeer *oldest = NULL;

    for (HttpPeer *p = c->peers; p; p = p->next)
        if (p->users == 0 && p->checked && (!oldest || p->used_usec < oldest->used_usec))
            oldest = p;
    if (!oldest)
        return false;
    unlink_peer(oldest);
    peer_free(oldest);
    return true;
}

static void set_authenticated(HttpConnection *c)
{
    if (!c->authenticated) {
        c->authenticated = true;
        c->http->n_authenticated++;
    }
}

static void peer_checked(endpoint_peer *peer, int error, uint64_t retry_usec, void *userdata)
{
    HttpPeer *p = userdata;
    HttpExchange *x = p->waiting;

    p->checked = true;
    p->dead = error != 0;
    p->error = error;
    p->retry_usec = retry_usec;
    if (error == 0 && !endpoint_peer_anonymous(peer))
        set_authenticated(p->connection);
    p->waiting = p->waiting_tail = NULL;
    while (x) {
        HttpExchange *next = x->waiting_next;

        x->waiting_next = NULL;
        http_exchange_checked(x, error, retry_usec);
        x = next;
    }
}

/* A cut may be the end of the exchange. */
void http_peer_cut(HttpPeer *p, bool files_only)
{
    HttpExchange *x = p->connection->exchanges;

    while (x) {
        if (x->peer == p && (x->file || !files_only) && !x->cut) {
            x->cut = true;
            http_reply_cut(x);
            x = p->connection->exchanges;
        } else {
            x = x->next;
        }
    }
}

static bool is_authenticated(const HttpConnection *c)
{
    for (const HttpPeer *p = c->peers; p; p = p->next)
        if (p->checked && !p->dead && !endpoint_peer_anonymous(p->peer))
            return true;
    return false;
}

/* Others may speak on the same connection; nobody else's stream ends with this one. */
static void peer_revoked(endpoint_peer *peer, void *userdata)
{
    HttpPeer *p = userdata;
    HttpConnection *c = p->connection;
    bool others = false;

    p->dead = true;
    for (const HttpPeer *other = c->peers; other; other = other->next)
        others |= !other->dead;
    if (c->authenticated && !is_authenticated(c)) {
        c->authenticated = false;
        c->http->n_authenticated--;
    }
    if (c->http2 && others)
        http_peer_cut(p, false);
    else
        http_connection_kill(c);
}

static const endpoint_peer_ops peer_ops = {.checked = peer_checked, .revoked = peer_revoked};

static int peer_new(HttpConnection *c, const http_span *bearer, const unsigned char *hash,
                    HttpPeer **ret)
{
    char tls[96], token[HTTP_BEARER_MAX + 1] = "";
    hybus_connection connection = {
        .protocol = "http", .peer = c->peer_name, .local = c->local_name};
    HttpPeer *p;
    int r;

    if (c->tls) {
        http_tls_describe(c->socket, tls, sizeof(tls));
        connection.tls = tls;
    }
    if (bearer) {
        memcpy(token, bearer->base, bearer->size);
        connection.bearer = token;
    }
    if (*c->certificate)
        connection.cert_sha256 = c->certificate;
    p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->connection = c;
    p->bearer = bearer;
    memcpy(p->hash, hash, sizeof(p->hash));
    p->next = c->peers;
    c->peers = p;
    c->n_peers++;
    r = endpoint_peer_new(c->http->core, &connection, &peer_ops, p, &p->peer);
    OPENSSL_cleanse(token, sizeof(token));
    if (r < 0) {
        unlink_peer(p);
        free(p);
        return r;
    }
    *ret = p;
    return 0;
}

static HttpPeer *find(HttpConnection *c, bool bearer, const unsigned char *hash)
{
    for (HttpPeer *p = c->peers; p; p = p->next)
        if (!p->dead && p->bearer == bearer && CRYPTO_memcmp(p->hash, hash, sizeof(p->hash)) == 0)
            return p;
    return NULL;
}

int http_peer_get(HttpConnection *c, const http_span *bearer, HttpPeer **ret)
{
    unsigned char hash[SHA256_DIGEST_LENGTH] = {};
    HttpPeer *p;
    int r;

    if (bearer)
        SHA256((const unsigned char *)bearer->base, bearer->size, hash);
    p = find(c, bearer, hash);
    if (!p) {
        collect(c);
        if (c->n_peers >= HTTP_PEERS_PER_CONNECTION && !evict_unused(c))
            return -ENOBUFS;
        r = peer_new(c, bearer, hash, &p);
        if (r < 0)
            return r;
    }
    p->users++;
    *ret = p;
    return 0;
}

void http_peer_leave(HttpPeer *p)
{
    p->users--;
    p->used_usec = http_now();
}

void http_peers_free(HttpConnection *c)
{
    HttpPeer *p;

    while ((p = c->peers)) {
        unlink_peer(p);
        peer_free(p);
    }
}
