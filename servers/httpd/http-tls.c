/* SPDX-License-Identifier: Apache-2.0 */
/* The device's key and certificate: made here at the first start, never part of an image. A reload
 * replaces the context for new connections; old ones keep theirs until they end. */

#include "http.h"

#include <fcntl.h>
#include <hybus/log.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#define HTTP_AUTHORITY "/run/hybridos/security/ca.pem"
#define LIFETIME_SECONDS (30LL * 365 * 24 * 3600)

HYBUS_DEFINE_CLEANUP(EVP_PKEY, EVP_PKEY_free)
HYBUS_DEFINE_CLEANUP(X509, X509_free)
HYBUS_DEFINE_CLEANUP(SSL_CTX, SSL_CTX_free)

/* --- making ------------------------------------------------------------------------------------
 */

static int add_extension(X509 *cert, int nid, const char *value)
{
    X509V3_CTX context;
    X509_EXTENSION *extension;
    int ok;

    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, cert, cert, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    if (!extension)
        return -EIO;
    ok = X509_add_ext(cert, extension, -1);
    X509_EXTENSION_free(extension);
    return ok == 1 ? 0 : -EIO;
}

static bool is_host_name(const char *name)
{
    http_span host;
    uint16_t port;

    return http_authority_parse((http_span){name, strlen(name)}, &host, &port) == 0 && port == 0 &&
           !strchr(name, ':');
}

/* A device may have no clock when this runs: validity starts when this program was built. */
static int set_validity(X509 *cert)
{
    return ASN1_TIME_set(X509_getm_notBefore(cert), (time_t)HTTP_BUILD_EPOCH) &&
                   ASN1_TIME_set(X509_getm_notAfter(cert),
                                 (time_t)(HTTP_BUILD_EPOCH + LIFETIME_SECONDS))
               ? 0
               : -EIO;
}

static int set_names(X509 *cert, const char *host_name)
{
    X509_NAME *name = X509_get_subject_name(cert);
    const char *common = is_host_name(host_name) ? host_name : "localhost";
    char names[512];

    snprintf(names, sizeof(names), "DNS:%s,DNS:%s.local,DNS:localhost,IP:127.0.0.1,IP:::1", common,
             common);
    if (X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)common,
                                   (int)MIN_OF(strlen(common), (size_t)64), -1, 0) != 1 ||
        X509_set_issuer_name(cert, name) != 1)
        return -EIO;
    return add_extension(cert, NID_subject_alt_name, names);
}

static int make_certificate(EVP_PKEY *key, const char *host_name, X509 **ret)
{
    _cleanup_(X509_freep) X509 *cert = X509_new();
    unsigned char serial[16];

    if (!cert || RAND_bytes(serial, sizeof(serial)) != 1)
        return -EIO;
    serial[0] &= 0x7f;
    serial[0] |= 0x40;
    BIGNUM *number = BN_bin2bn(serial, sizeof(serial), NULL);
    bool ok = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert)) &&
              X509_set_version(cert, 2) == 1 && X509_set_pubkey(cert, key) == 1;
    BN_free(number);
    if (!ok || set_validity(cert) < 0 || set_names(cert, host_name) < 0 ||
        add_extension(cert, NID_basic_constraints, "critical,CA:FALSE") < 0 ||
        add_extension(cert, NID_key_usage, "critical,digitalSignature") < 0 ||
        add_extension(cert, NID_ext_key_usage, "serverAuth") < 0 ||
        X509_sign(cert, key, EVP_sha256()) == 0)
        return -EIO;
    *ret = TAKE_PTR(cert);
    return 0;
}

/* Complete or not there: written aside, synced, renamed. */
static int write_file(const char *path, mode_t mode, int (*write)(FILE *f, void *object),
                      void *object)
{
    char aside[PATH_MAX];
    _cleanup_(fclosep) FILE *f = NULL;
    int fd;

    if ((size_t)snprintf(aside, sizeof(aside), "%s.new", path) >= sizeof(aside))
        return -ENAMETOOLONG;
    fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return -errno;
    f = fdopen(fd, "w");
    if (!f) {
        safe_close(fd);
        return -ENOMEM;
    }
    if (fchmod(fd, mode) < 0 || write(f, object) != 1 || fflush(f) != 0 || fsync(fd) < 0 ||
        rename(aside, path) < 0) {
        unlink(aside);
        return -EIO;
    }
    return 0;
}

static int write_key(FILE *f, void *object)
{
    return PEM_write_PrivateKey(f, object, NULL, NULL, 0, NULL, NULL);
}

static int write_certificate(FILE *f, void *object)
{
    return PEM_write_X509(f, object);
}

int http_tls_make(const char *directory, const char *host_name)
{
    _cleanup_(EVP_PKEY_freep) EVP_PKEY *key = NULL;
    _cleanup_(X509_freep) X509 *cert = NULL;
    char key_path[PATH_MAX], cert_path[PATH_MAX];
    int r;

    snprintf(key_path, sizeof(key_path), "%s/key.pem", directory);
    snprintf(cert_path, sizeof(cert_path), "%s/certificate.pem", directory);
    if (access(key_path, F_OK) == 0 && access(cert_path, F_OK) == 0)
        return 0;
    key = EVP_EC_gen("P-256");
    if (!key)
        return -EIO;
    r = make_certificate(key, host_name, &cert);
    if (r < 0)
        return r;
    r = write_file(key_path, 0600, write_key, key);
    if (r < 0)
        return r;
    r = write_file(cert_path, 0644, write_certificate, cert);
    if (r < 0)
        return r;
    hybus_notice("made a key and a certificate for this device in %s", directory);
    return 1;
}

/* --- using -------------------------------------------------------------------------------------
 */

static void fingerprint(X509 *cert, char *buffer)
{
    unsigned char digest[32];
    unsigned size = sizeof(digest);

    buffer[0] = '\0';
    if (X509_digest(cert, EVP_sha256(), digest, &size) != 1)
        return;
    for (unsigned i = 0; i < size; i++)
        snprintf(buffer + 3 * i, i + 1 < size ? 4 : 3, i + 1 < size ? "%02X:" : "%02X", digest[i]);
}

/* Whether it is still good is h-securityd's to say, by a clock that never runs backwards. */
static int on_verify(int ok, X509_STORE_CTX *store)
{
    int error = X509_STORE_CTX_get_error(store);

    if (ok || (error != X509_V_ERR_CERT_NOT_YET_VALID && error != X509_V_ERR_CERT_HAS_EXPIRED))
        return ok;
    X509_STORE_CTX_set_error(store, X509_V_OK);
    return 1;
}

/* The library keeps SSL to itself; its BIO knows the socket, which is believed only if it is one of ours. */
static void on_handshake(const SSL *ssl, int where, int ret)
{
    HttpConnection *c;
    unsigned char digest[32];
    unsigned size = sizeof(digest);
    const Http *h;
    void *socket;
    X509 *cert;

    if (!(where & SSL_CB_HANDSHAKE_DONE))
        return;
    cert = SSL_get0_peer_certificate(ssl);
    if (!cert || SSL_get_verify_result(ssl) != X509_V_OK ||
        X509_digest(cert, EVP_sha256(), digest, &size) != 1)
        return;
    h = SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl));
    socket = BIO_get_data(SSL_get_rbio(ssl));
    for (c = h->connections; c && (void *)c->socket != socket; c = c->next)
        ;
    for (unsigned i = 0; c && i < size; i++)
        snprintf(c->certificate + 2 * i, 3, "%02x", digest[i]);
}

/* A certificate is asked for when somebody can have one, and nobody has to show one. */
static int ask_for_certificates(SSL_CTX *c, Http *h)
{
    static const unsigned char context[] = "h-httpd";
    STACK_OF(X509_NAME) *names;
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

    return stat(HTTP_AUTHORITY, &st) == 0 && (st.st_mtim.tv_sec != h->authority.tv_sec ||
                                              st.st_mtim.tv_nsec != h->authority.tv_nsec);
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
    fingerprint(SSL_CTX_get0_certificate(c), h->fingerprint);
    hybus_notice("certificate SHA-256 fingerprint %s", h->fingerprint);
    return 0;
}

void http_tls_describe(h2o_socket_t *socket, char *buffer, size_t room)
{
    snprintf(buffer, room, "%s %s", strempty(h2o_socket_get_ssl_protocol_version(socket)),
             strempty(h2o_socket_get_ssl_cipher(socket)));
}
