/* SPDX-License-Identifier: Apache-2.0 */
#include "key-pair.h"

#include <fcntl.h>
#include <hybus/log.h>
#include <limits.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#define LIFETIME_SECONDS (30LL * 365 * 24 * 3600)

static int add_extension(X509 *cert, int nid, const char *value)
{
    X509_EXTENSION *extension;
    X509V3_CTX context;
    int ok;

    X509V3_set_ctx_nodb(&context);
    X509V3_set_ctx(&context, cert, cert, NULL, NULL, 0);
    extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    ok = extension ? X509_add_ext(cert, extension, -1) : 0;
    X509_EXTENSION_free(extension);
    return ok == 1 ? 0 : -EIO;
}

/* It goes into a list of names, where a comma would begin another one. */
static bool is_host_name(const char *name)
{
    size_t n = strlen(name);

    return n > 0 && n <= 64 &&
           strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                        "0123456789-._") == n;
}

static int set_names(X509 *cert, const char *host_name)
{
    X509_NAME *name = X509_get_subject_name(cert);
    const char *common = is_host_name(host_name) ? host_name : "localhost";
    char names[512];

    snprintf(names, sizeof(names), "DNS:%s,DNS:%s.local,DNS:localhost,IP:127.0.0.1,IP:::1", common,
             common);
    if (X509_NAME_add_entry_by_txt(name, "CN", MBSTRING_ASC, (const unsigned char *)common, -1, -1,
                                   0) != 1 ||
        X509_set_issuer_name(cert, name) != 1)
        return -EIO;
    return add_extension(cert, NID_subject_alt_name, names);
}

static int set_serial(X509 *cert)
{
    unsigned char serial[16];
    BIGNUM *number;
    bool ok;

    if (RAND_bytes(serial, sizeof(serial)) != 1)
        return -EIO;
    serial[0] = (serial[0] & 0x3f) | 0x40;
    number = BN_bin2bn(serial, sizeof(serial), NULL);
    ok = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert));
    BN_free(number);
    return ok ? 0 : -EIO;
}

static int make_certificate(EVP_PKEY *key, const char *host_name, long long epoch, X509 **ret)
{
    _cleanup_(X509_freep) X509 *cert = X509_new();

    if (!cert || set_serial(cert) < 0 || X509_set_version(cert, 2) != 1 ||
        X509_set_pubkey(cert, key) != 1 ||
        !ASN1_TIME_set(X509_getm_notBefore(cert), (time_t)epoch) ||
        !ASN1_TIME_set(X509_getm_notAfter(cert), (time_t)(epoch + LIFETIME_SECONDS)) ||
        set_names(cert, host_name) < 0 ||
        add_extension(cert, NID_basic_constraints, "critical,CA:FALSE") < 0 ||
        add_extension(cert, NID_key_usage, "critical,digitalSignature") < 0 ||
        add_extension(cert, NID_ext_key_usage, "serverAuth") < 0 ||
        X509_sign(cert, key, EVP_sha256()) == 0)
        return -EIO;
    *ret = TAKE_PTR(cert);
    return 0;
}

/* Complete or not there: written aside, synced, renamed. */
static int write_pem(const char *path, mode_t mode, EVP_PKEY *key, X509 *cert)
{
    _cleanup_(fclosep) FILE *f = NULL;
    char aside[PATH_MAX + 8];
    int fd, ok;

    snprintf(aside, sizeof(aside), "%s.new", path);
    fd = open(aside, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, mode);
    if (fd < 0)
        return -errno;
    f = fdopen(fd, "w");
    if (!f) {
        safe_close(fd);
        return -ENOMEM;
    }
    ok = key ? PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL) : PEM_write_X509(f, cert);
    if (ok != 1 || fchmod(fd, mode) < 0 || fflush(f) != 0 || fsync(fd) < 0 ||
        rename(aside, path) < 0) {
        unlink(aside);
        return -EIO;
    }
    return 0;
}

int endpoint_key_pair_make(const char *directory, const char *host_name, long long build_epoch)
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
    r = key ? make_certificate(key, host_name, build_epoch, &cert) : -EIO;
    ERR_clear_error();
    if (r >= 0)
        r = write_pem(key_path, 0600, key, NULL);
    if (r >= 0)
        r = write_pem(cert_path, 0644, NULL, cert);
    return r < 0 ? r : 1;
}

static void fingerprint(const X509 *certificate, const char *separator, char *ret, size_t room)
{
    unsigned char digest[32] = {};
    unsigned size = sizeof(digest);
    size_t at = 0;

    ret[0] = 0;
    if (X509_digest(certificate, EVP_sha256(), digest, &size) != 1)
        return;
    for (unsigned i = 0; i < size && at < room; i++)
        at += (size_t)snprintf(ret + at, room - at, *separator ? "%s%02X" : "%s%02x",
                               i ? separator : "", digest[i]);
}

void endpoint_fingerprint(const X509 *certificate, char ret[ENDPOINT_FINGERPRINT_SIZE])
{
    fingerprint(certificate, ":", ret, ENDPOINT_FINGERPRINT_SIZE);
}

void endpoint_fingerprint_plain(const X509 *certificate, char ret[65])
{
    fingerprint(certificate, "", ret, 65);
}
