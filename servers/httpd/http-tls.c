/* SPDX-License-Identifier: Apache-2.0 */
/* The device's key and certificate in use (key-pair.h makes them). A reload
 * replaces the context for new connections; old ones keep theirs until they end. */

#include "http.h"

#include <hybus/log.h>
#include <openssl/err.h>
#include <sys/stat.h>

#define HTTP_AUTHORITY "/run/hybridos/security/ca.pem"

/* Whether it is still good is h-securityd's to say, by a clock that never runs backwards. */
static int on_verify(int ok, X509_STORE_CTX *store)
{
    int error = X509_STORE_CTX_get_error(store);

    if (ok || (error != X509_V_ERR_CERT_NOT_YET_VALID && error != X509_V_ERR_CERT_HAS_EXPIRED))
        return ok;
    X509_STORE_CTX_set_error(store, X509_V_OK);
    return 1;
}

/* The library keeps SSL to itself; its BIO knows the socket, which is believed only if it is one of
 * ours. */
static void on_handshake(const SSL *ssl, int where, int ret)
{
    HttpConnection *c;
    const Http *h;
    void *socket;
    X509 *cert;

    if (!(where & SSL_CB_HANDSHAKE_DONE))
        return;
    cert = SSL_get0_peer_certificate(ssl);
    if (!cert || SSL_get_verify_result(ssl) != X509_V_OK)
        return;
    h = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    socket = BIO_get_data(SSL_get_rbio(ssl));
    for (c = h->connections; c && (void *)c->socket != socket; c = c->next)
        ;
    if (c)
        endpoint_fingerprint_plain(cert, c->certificate);
}

/* A certificate is asked for when somebody can have one, and nobody has to show one. */
static int ask_for_certificates(SSL_CTX *c, Http *h)
{
    static const unsigned char context[] = "h-httpd";
    STACK_OF(X509_NAME) * names;
    struct stat st;

    h->authority = (struct timespec){};
    if (stat(HTTP_AUTHORITY, &st) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (SSL_CTX_load_verify_locations(c, HTTP_AUTHORITY, NULL) != 1 ||
        SSL_CTX_set_session_id_context(c, context, sizeof(context) - 1) != 1)
        return -EKEYREJECTED;
    names = SSL_load_client_CA_file(HTTP_AUTHORITY);
    if (!names)
        return -EKEYREJECTED;
    SSL_CTX_set_client_CA_list(c, names);
    SSL_CTX_set_app_data(c, h);
    SSL_CTX_set_info_callback(c, on_handshake);
    SSL_CTX_set_verify_depth(c, 1);
    SSL_CTX_set_verify(c, SSL_VERIFY_PEER, on_verify);
    h->authority = st.st_mtim;
    return 0;
}

bool http_tls_is_stale(const Http *h)
{
    struct stat st;

    return stat(HTTP_AUTHORITY, &st) == 0 &&
           (st.st_mtim.tv_sec != h->authority.tv_sec || st.st_mtim.tv_nsec != h->authority.tv_nsec);
}

static int context_new(Http *h, const char *certificate, const char *key, SSL_CTX **ret)
{
    _cleanup_(SSL_CTX_freep) SSL_CTX *c = SSL_CTX_new(TLS_server_method());

    if (!c)
        return -ENOMEM;
    SSL_CTX_set_min_proto_version(c, TLS1_2_VERSION);
    SSL_CTX_set_options(c, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION |
                               SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
    SSL_CTX_set_mode(c, SSL_MODE_RELEASE_BUFFERS);
    if (SSL_CTX_set_cipher_list(c, "ECDHE+AESGCM:ECDHE+CHACHA20") != 1 ||
        SSL_CTX_set1_groups_list(c, "X25519:P-256") != 1)
        return -EIO;
    SSL_CTX_set_session_cache_mode(c, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_num_tickets(c, 1);
    if (SSL_CTX_use_certificate_chain_file(c, certificate) != 1 ||
        SSL_CTX_use_PrivateKey_file(c, key, SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_check_private_key(c) != 1)
        return -EKEYREJECTED;
    if (ask_for_certificates(c, h) < 0)
        hybus_warning("%s cannot be used: clients are not asked for certificates", HTTP_AUTHORITY);
    h2o_ssl_register_alpn_protocols(c, h2o_http2_alpn_protocols);
    *ret = TAKE_PTR(c);
    return 0;
}

int http_tls_load(Http *h, const char *certificate, const char *key)
{
    SSL_CTX *c;
    int r;

    r = context_new(h, certificate, key, &c);
    ERR_clear_error();
    if (r < 0)
        return r;
    if (h->tls)
        SSL_CTX_free(h->tls);
    h->tls = c;
    for (size_t i = 0; i < h->n_listeners; i++)
        if (h->listeners[i]->tls)
            h->listeners[i]->accept.ssl_ctx = c;
    endpoint_fingerprint(SSL_CTX_get0_certificate(c), h->fingerprint);
    hybus_notice("certificate SHA-256 fingerprint %s", h->fingerprint);
    return 0;
}

void http_tls_describe(h2o_socket_t *socket, char *buffer, size_t room)
{
    snprintf(buffer, room, "%s %s", strempty(h2o_socket_get_ssl_protocol_version(socket)),
             strempty(h2o_socket_get_ssl_cipher(socket)));
}
