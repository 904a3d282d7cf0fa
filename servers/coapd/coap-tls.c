/* SPDX-License-Identifier: Apache-2.0 */
/* What the server shows, and whom it knows: its own key pair, the keys of nodes (a copy in memory of
 * what h-securityd holds, because the handshake asks for them and cannot wait), and the device's
 * authority for client certificates. Nothing is resumed: a session from before would not be asked
 * who it is. */

#include "coap-connection.h"

#include <endpoint/key-pair.h>
#include <hybus/log.h>
#include <openssl/err.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <sys/stat.h>

#define AUTHORITY "/run/hybridos/security/ca.pem"
#define NODES_MAX 1024u
#define KEY_MAX 64u
/* Those of nodes first: whoever offers them has a key. CCM_8 is what RFC 7252 (9.1.3) asks for. */
#define CIPHERS                                                                                    \
    "ECDHE-PSK-CHACHA20-POLY1305:PSK-AES128-GCM-SHA256:PSK-AES256-GCM-SHA384:"                     \
    "PSK-CHACHA20-POLY1305:PSK-AES128-CCM:PSK-AES128-CCM8:"                                        \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"                                 \
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-CCM:ECDHE-ECDSA-AES128-CCM8"
/* A key of a node goes with SHA-256 alone. */
#define SUITES                                                                                     \
    "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_CCM_SHA256:"                  \
    "TLS_AES_128_CCM_8_SHA256"

typedef struct node {
    char name[65], key_id[33];
    uint8_t key[KEY_MAX];
    size_t size;
} node;

typedef struct CoapdSecrets {
    Coapd *coapd;
    SSL_CTX *stream, *datagram;
    node *nodes, *next; /* those in force; those being told */
    size_t n_nodes, n_next;
    unsigned char secret[32]; /* of this process: cookies, and answers to names that nobody has */
    struct timespec authority; /* of the file that is in force; 0: none */
} CoapdSecrets;

/* --- keys of nodes ------------------------------------------------------------------------------
 */

static void nodes_wipe(node **nodes, size_t *n)
{
    if (*nodes)
        OPENSSL_cleanse(*nodes, NODES_MAX * sizeof(**nodes));
    free(TAKE_PTR(*nodes));
    *n = 0;
}

int coapd_nodes_begin(Coapd *d)
{
    CoapdSecrets *s = d->secrets;

    nodes_wipe(&s->next, &s->n_next);
    s->next = calloc(NODES_MAX, sizeof(*s->next));
    return s->next ? 0 : -ENOMEM;
}

/* What tells this key from a later one of the same name, and nothing else of it. */
static void identify_key(const uint8_t *key, size_t size, char ret[33])
{
    unsigned char digest[EVP_MAX_MD_SIZE] = {};
    unsigned n = 0;

    (void)EVP_Digest(key, size, digest, &n, EVP_sha256(), NULL);
    for (int i = 0; i < 16; i++)
        snprintf(ret + 2 * i, 3, "%02x", digest[i]);
    OPENSSL_cleanse(digest, sizeof(digest));
}

int coapd_nodes_add(Coapd *d, const char *name, const void *key, size_t size)
{
    CoapdSecrets *s = d->secrets;
    node *n;

    if (!s->next || s->n_next >= NODES_MAX)
        return -ENOBUFS;
    if (!*name || strlen(name) >= sizeof(n->name) || size == 0 || size > KEY_MAX)
        return -EINVAL;
    n = &s->next[s->n_next++];
    snprintf(n->name, sizeof(n->name), "%s", name);
    memcpy(n->key, key, size);
    n->size = size;
    identify_key(n->key, size, n->key_id);
    return 0;
}

void coapd_nodes_commit(Coapd *d)
{
    CoapdSecrets *s = d->secrets;

    nodes_wipe(&s->nodes, &s->n_nodes);
    s->nodes = TAKE_PTR(s->next);
    s->n_nodes = s->n_next;
    s->n_next = 0;
    coapd_connections_recheck(d);
}

bool coapd_nodes_has(const Coapd *d, const char *name, const char *key_id)
{
    const CoapdSecrets *s = d->secrets;

    for (size_t i = 0; i < s->n_nodes; i++)
        if (streq(s->nodes[i].name, name))
            return CRYPTO_memcmp(s->nodes[i].key_id, key_id, sizeof(s->nodes[i].key_id)) == 0;
    return false;
}

static void keyed(const CoapdSecrets *s, const void *data, size_t size, unsigned char ret[32])
{
    unsigned n = 32;

    if (!HMAC(EVP_sha256(), s->secret, sizeof(s->secret), data, size, ret, &n))
        memset(ret, 0, 32);
}

/* The time that this takes does not tell how much of a name was right, and a name that nobody has
 * fails as a wrong key does (RFC 4279, 2): nobody learns which there are. */
static unsigned on_identity(SSL *ssl, const char *identity, unsigned char *psk, unsigned room)
{
    CoapdConnection *c = SSL_get_app_data(ssl);
    const CoapdSecrets *s = c->coapd->secrets;
    char asked[65] = {};
    unsigned char key[KEY_MAX] = {};
    size_t size = 32;

    if (!identity || strlen(identity) >= sizeof(asked) || room < KEY_MAX)
        return 0;
    memcpy(asked, identity, strlen(identity));
    keyed(s, asked, sizeof(asked), key);
    c->offered = (coapd_identity){};
    for (size_t i = 0; i < s->n_nodes; i++)
        if (CRYPTO_memcmp(s->nodes[i].name, asked, sizeof(asked)) == 0) {
            memcpy(key, s->nodes[i].key, KEY_MAX);
            size = s->nodes[i].size;
            memcpy(c->offered.name, s->nodes[i].name, sizeof(c->offered.name));
            memcpy(c->offered.key_id, s->nodes[i].key_id, sizeof(c->offered.key_id));
        }
    memcpy(psk, key, size);
    OPENSSL_cleanse(key, sizeof(key));
    return (unsigned)size;
}

/* --- cookies ------------------------------------------------------------------------------------
 */

void coapd_cookie_make(const Coapd *d, const endpoint_address *remote, uint64_t minute,
                       uint8_t ret[COAPD_COOKIE_SIZE])
{
    char text[24 + ENDPOINT_ADDRESS_TEXT] = {};

    snprintf(text, 24, "%llu", (unsigned long long)minute);
    endpoint_address_format(&remote->sa, text + 24);
    keyed(d->secrets, text, sizeof(text), ret);
}

bool coapd_cookie_good(const Coapd *d, const endpoint_address *remote, const uint8_t *cookie,
                       size_t size)
{
    uint64_t minute = timer_now() / 60000000u;
    uint8_t now[COAPD_COOKIE_SIZE], before[COAPD_COOKIE_SIZE];

    if (size != COAPD_COOKIE_SIZE)
        return false;
    coapd_cookie_make(d, remote, minute, now);
    coapd_cookie_make(d, remote, minute - 1, before);
    return (CRYPTO_memcmp(now, cookie, size) == 0) | (CRYPTO_memcmp(before, cookie, size) == 0);
}

/* --- contexts -----------------------------------------------------------------------------------
 */

/* Whoever asks for another protocol by name has come to the wrong door (RFC 8323, 8.2). */
static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *n, const unsigned char *in,
                   unsigned size, void *arg)
{
    static const unsigned char ours[] = "\4coap";

    return SSL_select_next_proto((unsigned char **)out, n, ours, 5, in, size) ==
                   OPENSSL_NPN_NEGOTIATED
               ? SSL_TLSEXT_ERR_OK
               : SSL_TLSEXT_ERR_ALERT_FATAL;
}

static SSL_CTX *context_new(const SSL_METHOD *method, bool datagram)
{
    _cleanup_(SSL_CTX_freep) SSL_CTX *c = SSL_CTX_new(method);

    if (!c || SSL_CTX_set_min_proto_version(c, datagram ? DTLS1_2_VERSION : TLS1_2_VERSION) != 1 ||
        SSL_CTX_set_cipher_list(c, CIPHERS) != 1 || SSL_CTX_set_ciphersuites(c, SUITES) != 1 ||
        SSL_CTX_set1_groups_list(c, "X25519:P-256") != 1)
        return NULL;
    SSL_CTX_set_options(c, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET |
                               SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_NO_QUERY_MTU);
    SSL_CTX_set_mode(c, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE |
                            SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(c, 0);
    SSL_CTX_set_psk_server_callback(c, on_identity);
    SSL_CTX_set_verify_depth(c, 4);
    if (!datagram)
        SSL_CTX_set_alpn_select_cb(c, on_alpn, NULL);
    return TAKE_PTR(c);
}

int coapd_secrets_new(Coapd *d)
{
    CoapdSecrets *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    d->secrets = s;
    s->coapd = d;
    s->stream = context_new(TLS_server_method(), false);
    s->datagram = context_new(DTLS_server_method(), true);
    if (!s->stream || !s->datagram || RAND_bytes(s->secret, sizeof(s->secret)) != 1)
        return -EIO;
    return 0;
}

void coapd_secrets_free(CoapdSecrets *s)
{
    if (!s)
        return;
    nodes_wipe(&s->nodes, &s->n_nodes);
    nodes_wipe(&s->next, &s->n_next);
    SSL_CTX_free(s->stream);
    SSL_CTX_free(s->datagram);
    OPENSSL_cleanse(s->secret, sizeof(s->secret));
    free(s);
}

static int use_pair(SSL_CTX *c, const char *certificate, const char *key)
{
    return SSL_CTX_use_certificate_chain_file(c, certificate) == 1 &&
                   SSL_CTX_use_PrivateKey_file(c, key, SSL_FILETYPE_PEM) == 1 &&
                   SSL_CTX_check_private_key(c) == 1
               ? 0
               : -EKEYREJECTED;
}

int coapd_secrets_load(Coapd *d, const char *certificate, const char *key)
{
    CoapdSecrets *s = d->secrets;
    char text[ENDPOINT_FINGERPRINT_SIZE];
    int r;

    if (access(certificate, R_OK) < 0)
        return -errno;
    r = use_pair(s->stream, certificate, key);
    if (r >= 0)
        r = use_pair(s->datagram, certificate, key);
    ERR_clear_error();
    if (r < 0)
        return r;
    endpoint_fingerprint(SSL_CTX_get0_certificate(s->stream), text);
    hybus_notice("certificate SHA-256 fingerprint %s", text);
    return 0;
}

/* --- the device's authority ---------------------------------------------------------------------
 */

static void trust(SSL_CTX *c, bool there)
{
    X509_STORE *store = X509_STORE_new();
    STACK_OF(X509_NAME) *names = there ? SSL_load_client_CA_file(AUTHORITY) : NULL;

    if (!store)
        return;
    if (there && (!names || X509_STORE_load_file(store, AUTHORITY) != 1)) {
        hybus_warning("%s cannot be read: no client certificate is good", AUTHORITY);
        there = false;
    }
    SSL_CTX_set_cert_store(c, store);
    SSL_CTX_set_client_CA_list(c, names);
    SSL_CTX_set_verify(c, there ? SSL_VERIFY_PEER : SSL_VERIFY_NONE, NULL);
    ERR_clear_error();
}

/* The file may come, change and go while we run. */
static void follow_authority(CoapdSecrets *s)
{
    struct stat st;
    bool there = stat(AUTHORITY, &st) == 0;
    struct timespec now = there ? st.st_ctim : (struct timespec){};

    if (now.tv_sec == s->authority.tv_sec && now.tv_nsec == s->authority.tv_nsec)
        return;
    s->authority = now;
    trust(s->stream, there);
    trust(s->datagram, there);
}

/* --- connections --------------------------------------------------------------------------------
 */

SSL *coapd_secrets_server(Coapd *d, bool datagram)
{
    SSL *ssl;

    follow_authority(d->secrets);
    ssl = SSL_new(datagram ? d->secrets->datagram : d->secrets->stream);
    if (ssl)
        SSL_set_accept_state(ssl);
    return ssl;
}

/* The keys may have changed since the handshake began: what counts is the one that it used. As no
 * session is ever resumed, one that TLS 1.3 calls so was begun with a key. */
void coapd_secrets_identify(CoapdConnection *c)
{
    const char *name = SSL_get_psk_identity(c->ssl);
    X509 *certificate = SSL_get0_peer_certificate(c->ssl);
    bool by_key = SSL_version(c->ssl) == TLS1_3_VERSION ? SSL_session_reused(c->ssl)
                                                        : name && streq(name, c->offered.name);

    snprintf(c->tls, sizeof(c->tls), "%s %s", SSL_get_version(c->ssl), SSL_get_cipher_name(c->ssl));
    if (by_key && coapd_nodes_has(c->coapd, c->offered.name, c->offered.key_id))
        c->known = c->offered;
    if (certificate && SSL_get_verify_result(c->ssl) == X509_V_OK)
        endpoint_fingerprint_plain(certificate, c->certificate);
}
