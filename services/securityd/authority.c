/* SPDX-License-Identifier: Apache-2.0 */
#include "authority.h"

#include <fcntl.h>
#include <hybus/json.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>

/* A device may have no clock when this runs, and so may whoever verifies. */
#define VALID_FROM INT64_C(1767225600) /* 2026-01-01 */
#define LIFETIME_SECONDS (INT64_C(30) * 365 * 24 * 3600)

HYBUS_DEFINE_CLEANUP(EVP_PKEY, EVP_PKEY_free)
HYBUS_DEFINE_CLEANUP(X509, X509_free)
HYBUS_DEFINE_CLEANUP(BIO, BIO_free_all)
HYBUS_DEFINE_CLEANUP(PKCS12, PKCS12_free)

void issued_done(Issued *i)
{
    if (i->bundle)
        explicit_bzero(i->bundle, strlen(i->bundle));
    free(i->bundle);
    i->bundle = NULL;
}

static int add_extension(X509 *cert, X509 *issuer, int nid, const char *value)
{
    X509V3_CTX context;
    X509_EXTENSION *extension;
    int ok;

    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, issuer, cert, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    if (!extension)
        return -EIO;
    ok = X509_add_ext(cert, extension, -1);
    X509_EXTENSION_free(extension);
    return ok == 1 ? 0 : -EIO;
}

static int set_serial(X509 *cert, unsigned char serial[16])
{
    BIGNUM *number;
    bool ok;

    if (RAND_bytes(serial, 16) != 1)
        return -EIO;
    serial[0] = (unsigned char)((serial[0] & 0x7f) | 0x40);
    number = BN_bin2bn(serial, 16, NULL);
    ok = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert));
    BN_free(number);
    return ok ? 0 : -EIO;
}

static int set_name(X509 *cert, const char *name)
{
    return X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
                                      (const unsigned char *)name, -1, -1, 0) == 1
               ? 0
               : -EIO;
}

static int certificate_new(EVP_PKEY *key, int64_t not_after, X509 **ret)
{
    _cleanup_(X509_freep) X509 *cert = X509_new();
    unsigned char serial[16];

    if (!cert || X509_set_version(cert, 2) != 1 || X509_set_pubkey(cert, key) != 1 ||
        set_serial(cert, serial) < 0 ||
        !ASN1_TIME_set(X509_getm_notBefore(cert), (time_t)VALID_FROM) ||
        !ASN1_TIME_set(X509_getm_notAfter(cert), (time_t)not_after))
        return -EIO;
    *ret = TAKE_PTR(cert);
    return 0;
}

static int make_authority(EVP_PKEY *key, X509 **ret)
{
    _cleanup_(X509_freep) X509 *cert = NULL;
    unsigned char random[4];
    char name[64];
    int r = certificate_new(key, VALID_FROM + LIFETIME_SECONDS, &cert);

    if (r < 0 || RAND_bytes(random, sizeof random) != 1)
        return -EIO;
    /* Two devices, or the device after a reset, are told apart. */
    snprintf(name, sizeof name, "HybridOS device CA %02x%02x%02x%02x", random[0], random[1], random[2],
             random[3]);
    if (set_name(cert, name) < 0 || X509_set_issuer_name(cert, X509_get_subject_name(cert)) != 1 ||
        add_extension(cert, cert, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") < 0 ||
        add_extension(cert, cert, NID_key_usage, "critical,keyCertSign") < 0 ||
        add_extension(cert, cert, NID_subject_key_identifier, "hash") < 0 ||
        X509_sign(cert, key, EVP_sha256()) == 0)
        return -EIO;
    *ret = TAKE_PTR(cert);
    return 0;
}

/* What a BIO holds, for free(). */
static int text_of(BIO *b, char **ret, size_t *ret_size)
{
    char *data;
    long size = BIO_get_mem_data(b, &data);

    *ret = size > 0 ? strndup(data, (size_t)size) : NULL;
    *ret_size = size > 0 ? (size_t)size : 0;
    return *ret ? 0 : -ENOMEM;
}

static int write_key(const char *directory, EVP_PKEY *key)
{
    _cleanup_(BIO_free_allp) BIO *b = BIO_new(BIO_s_secmem());
    char *data;
    long size;

    if (!b || PEM_write_bio_PrivateKey(b, key, NULL, NULL, 0, NULL, NULL) != 1)
        return -EIO;
    size = BIO_get_mem_data(b, &data);
    return write_file_atomically(directory, AUTHORITY_KEY_FILE, data, (size_t)size, 0600);
}

static int write_certificate(const char *directory, X509 *cert)
{
    _cleanup_(BIO_free_allp) BIO *b = BIO_new(BIO_s_mem());
    char *data;
    long size;

    if (!b || PEM_write_bio_X509(b, cert) != 1)
        return -EIO;
    size = BIO_get_mem_data(b, &data);
    return write_file_atomically(directory, AUTHORITY_FILE, data, (size_t)size, 0644);
}

static int read_pem(const char *directory, const char *name, BIO **ret)
{
    char *text;
    size_t size;
    int r = read_file_limited(directory, name, AUTHORITY_PEM_MAX, &text, &size);

    if (r < 0)
        return r;
    *ret = BIO_new(BIO_s_secmem());
    r = *ret && BIO_write(*ret, text, (int)size) == (int)size ? 0 : -ENOMEM;
    explicit_bzero(text, size);
    free(text);
    return r;
}

static int load(const char *directory, X509 **ret_cert, EVP_PKEY **ret_key)
{
    _cleanup_(BIO_free_allp) BIO *cert = NULL, *key = NULL;
    int r = read_pem(directory, AUTHORITY_FILE, &cert);

    if (r >= 0)
        r = read_pem(directory, AUTHORITY_KEY_FILE, &key);
    if (r < 0)
        return r;
    *ret_cert = PEM_read_bio_X509(cert, NULL, NULL, NULL);
    *ret_key = PEM_read_bio_PrivateKey(key, NULL, NULL, NULL);
    ERR_clear_error();
    return *ret_cert && *ret_key ? 0 : -EBADMSG;
}

/* The certificate last: without it there is no authority, whatever a power failure has left. */
int authority_make(const char *state_directory)
{
    _cleanup_(EVP_PKEY_freep) EVP_PKEY *key = NULL;
    _cleanup_(X509_freep) X509 *cert = NULL;
    char *text;
    size_t size;
    int r = read_file_limited(state_directory, AUTHORITY_FILE, AUTHORITY_PEM_MAX, &text, &size);

    if (r >= 0) {
        free(text);
        return -EEXIST;
    }
    if (r != -ENOENT)
        return r;
    key = EVP_EC_gen("P-256");
    r = key ? make_authority(key, &cert) : -EIO;
    if (r >= 0)
        r = write_key(state_directory, key);
    return r < 0 ? r : write_certificate(state_directory, cert);
}

int authority_publish(const char *state_directory, const char *runtime_directory)
{
    _cleanup_(freep) char *text = NULL;
    size_t size;
    int r = read_file_limited(state_directory, AUTHORITY_FILE, AUTHORITY_PEM_MAX, &text, &size);

    return r < 0 ? r : write_file_atomically(runtime_directory, AUTHORITY_FILE, text, size, 0644);
}

static int make_certificate(EVP_PKEY *key, const char *name, int64_t not_after, X509 *authority,
                            EVP_PKEY *authority_key, X509 **ret)
{
    _cleanup_(X509_freep) X509 *cert = NULL;
    int r = certificate_new(key, not_after ? not_after : VALID_FROM + LIFETIME_SECONDS, &cert);

    if (r < 0 || set_name(cert, name) < 0 ||
        X509_set_issuer_name(cert, X509_get_subject_name(authority)) != 1 ||
        add_extension(cert, authority, NID_basic_constraints, "critical,CA:FALSE") < 0 ||
        add_extension(cert, authority, NID_key_usage, "critical,digitalSignature") < 0 ||
        add_extension(cert, authority, NID_ext_key_usage, "clientAuth") < 0 ||
        add_extension(cert, authority, NID_subject_key_identifier, "hash") < 0 ||
        add_extension(cert, authority, NID_authority_key_identifier, "keyid:always") < 0 ||
        X509_sign(cert, authority_key, EVP_sha256()) == 0)
        return -EIO;
    *ret = TAKE_PTR(cert);
    return 0;
}

static int bundle_pem(EVP_PKEY *key, X509 *cert, X509 *authority, char **ret)
{
    _cleanup_(BIO_free_allp) BIO *b = BIO_new(BIO_s_secmem());
    size_t size;

    if (!b || PEM_write_bio_PrivateKey(b, key, NULL, NULL, 0, NULL, NULL) != 1 ||
        PEM_write_bio_X509(b, cert) != 1 || PEM_write_bio_X509(b, authority) != 1)
        return -EIO;
    return text_of(b, ret, &size);
}

static int bundle_pkcs12(const char *passphrase, const char *name, EVP_PKEY *key, X509 *cert,
                         X509 *authority, char **ret)
{
    _cleanup_(PKCS12_freep) PKCS12 *p12 = NULL;
    STACK_OF(X509) *chain = sk_X509_new_null();
    unsigned char *der = NULL;
    int size = -1, r;

    if (chain && sk_X509_push(chain, authority) > 0)
        p12 = PKCS12_create(passphrase, name, key, cert, chain, 0, 0, 0, 0, 0);
    sk_X509_free(chain);
    if (p12)
        size = i2d_PKCS12(p12, &der);
    r = size > 0 ? hybus_base64_encode(der, (size_t)size, ret) : -EIO;
    OPENSSL_free(der);
    return r;
}

int authority_issue(const char *state_directory, const char *name, int64_t not_after,
                    const char *passphrase, Issued *ret)
{
    _cleanup_(EVP_PKEY_freep) EVP_PKEY *authority_key = NULL, *key = NULL;
    _cleanup_(X509_freep) X509 *authority = NULL, *cert = NULL;
    unsigned size = SHA256_SIZE;
    Issued issued = {0};
    int r = load(state_directory, &authority, &authority_key);

    if (r < 0)
        return r;
    key = EVP_EC_gen("P-256");
    r = key ? make_certificate(key, name, not_after, authority, authority_key, &cert) : -EIO;
    if (r >= 0 && X509_digest(cert, EVP_sha256(), issued.hash, &size) != 1)
        r = -EIO;
    if (r >= 0)
        r = passphrase ? bundle_pkcs12(passphrase, name, key, cert, authority, &issued.bundle)
                       : bundle_pem(key, cert, authority, &issued.bundle);
    ERR_clear_error();
    if (r >= 0)
        *ret = issued;
    return r;
}
