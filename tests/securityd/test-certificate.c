/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <hybus/json.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include "authority.h"
#include "fixture.h"

HYBUS_DEFINE_CLEANUP(X509, X509_free)
HYBUS_DEFINE_CLEANUP(EVP_PKEY, EVP_PKEY_free)

static int set_up(void **state)
{
    Fixture *f = fixture_new();

    fixture_write(f->paths[2], "60-test.policy",
                  "[grant alice]\nTo = user:alice\nPermission = log.read\n"
                  "[grant operators]\nTo = role:operator\nPermission = log.follow\n"
                  "[grant helper]\nTo = uid:60991\nPermission = security.tokens\n");
    fixture_open(f);
    assert_int_equal(store_add_user(f->security->store, "alice", NULL), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    fixture_free(*state);
    return 0;
}

static int issue(Fixture *f, const char *name, const char *as, uint64_t lifetime, char **ret)
{
    return security_issue_certificate(f->security, &fixture_root, name, as, NULL, lifetime, NULL, ret,
                                      NULL);
}

static X509 *parse(const char *pem, EVP_PKEY **ret_key)
{
    BIO *b = BIO_new_mem_buf(pem, -1);
    X509 *cert;

    if (ret_key)
        *ret_key = PEM_read_bio_PrivateKey(b, NULL, NULL, NULL);
    cert = PEM_read_bio_X509(b, NULL, NULL, NULL);
    BIO_free(b);
    assert_non_null(cert);
    return cert;
}

static void hash_of(X509 *cert, char ret[65])
{
    unsigned char digest[32];
    unsigned size = sizeof digest;

    assert_int_equal(X509_digest(cert, EVP_sha256(), digest, &size), 1);
    hex_encode(digest, size, ret);
}

static int connect_with(Fixture *f, const char *hash, Principal **ret)
{
    const Connect c = {.protocol = "http", .peer = "192.0.2.1:1", .tls = "TLSv1.3", .cert_sha256 = hash};
    uint64_t wait;

    *ret = NULL;
    return security_connect(f->security, &c, ret, &wait);
}

static void test_the_authority(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *published = NULL, *own = NULL, *bundle = NULL;
    _cleanup_(X509_freep) X509 *ca = NULL;
    struct stat st;
    char path[160];

    assert_int_equal(issue(f, "laptop", "user:alice", 0, &bundle), -ENOENT);
    assert_int_equal(f->security->store->n_certificates, 0);
    assert_int_equal(security_init_authority(f->security, &fixture_root), 0);
    assert_int_equal(security_init_authority(f->security, &fixture_root), -EEXIST);
    published = fixture_read(f->settings.runtime_directory, "ca.pem", NULL);
    own = fixture_read(f->settings.state_directory, "ca.pem", NULL);
    assert_string_equal(published, own);
    assert_null(strstr(published, "PRIVATE"));
    ca = parse(published, NULL);
    assert_int_equal(X509_check_ca(ca), 1);
    assert_int_equal(X509_get_pathlen(ca), 0);
    snprintf(path, sizeof path, "%s/ca-key.pem", f->settings.state_directory);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    snprintf(path, sizeof path, "%s/ca.pem", f->settings.runtime_directory);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0644);
    /* It is there again after a boot. */
    fixture_remove(f->settings.runtime_directory, "ca.pem");
    fixture_open(f);
    assert_true(fixture_has(f->settings.runtime_directory, "ca.pem"));
}

static void test_what_is_issued(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *bundle = NULL, *published = NULL;
    _cleanup_(X509_freep) X509 *cert = NULL, *ca = NULL;
    _cleanup_(EVP_PKEY_freep) EVP_PKEY *key = NULL, *ca_key = NULL;
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *context = X509_STORE_CTX_new();

    assert_int_equal(security_init_authority(f->security, &fixture_root), 0);
    assert_int_equal(issue(f, "laptop", "user:alice", UINT64_C(3600000000), &bundle), 0);
    published = fixture_read(f->settings.runtime_directory, "ca.pem", NULL);
    cert = parse(bundle, &key);
    ca = parse(published, NULL);
    assert_non_null(key);
    assert_int_equal(X509_check_private_key(cert, key), 1);
    ca_key = X509_get_pubkey(ca);
    assert_int_equal(X509_verify(cert, ca_key), 1);
    assert_int_equal(X509_check_ca(cert), 0);
    assert_int_equal(X509_check_purpose(cert, X509_PURPOSE_SSL_CLIENT, 0), 1);
    assert_int_equal(X509_check_purpose(cert, X509_PURPOSE_SSL_SERVER, 0), 0);
    assert_int_equal(X509_STORE_add_cert(store, ca), 1);
    assert_int_equal(X509_STORE_CTX_init(context, store, cert, NULL), 1);
    X509_STORE_CTX_set_purpose(context, X509_PURPOSE_SSL_CLIENT);
    assert_int_equal(X509_verify_cert(context), 1);
    X509_STORE_CTX_free(context);
    X509_STORE_free(store);
    /* In the bundle stands the authority's certificate, and not its key. */
    assert_non_null(strstr(bundle, strstr(published, "-----BEGIN")));
    assert_ptr_equal(strstr(strstr(bundle, "PRIVATE KEY-----") + 16, "BEGIN PRIVATE"), NULL);
}

static void test_pkcs12(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *bundle = NULL;
    _cleanup_(X509_freep) X509 *cert = NULL;
    _cleanup_(EVP_PKEY_freep) EVP_PKEY *key = NULL;
    const unsigned char *at;
    PKCS12 *p12;
    size_t size;
    void *der;

    assert_int_equal(security_init_authority(f->security, &fixture_root), 0);
    assert_int_equal(security_issue_certificate(f->security, &fixture_root, "phone", "user:alice", NULL, 0,
                                                "secret", &bundle, NULL),
                     0);
    assert_int_equal(hybus_base64_decode(bundle, strlen(bundle), &der, &size), 0);
    at = der;
    p12 = d2i_PKCS12(NULL, &at, (long)size);
    assert_non_null(p12);
    assert_int_equal(PKCS12_parse(p12, "wrong", &key, &cert, NULL), 0);
    assert_int_equal(PKCS12_parse(p12, "secret", &key, &cert, NULL), 1);
    assert_int_equal(X509_check_private_key(cert, key), 1);
    PKCS12_free(p12);
    free(der);
}

static void test_connecting(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *bundle = NULL, *own = NULL;
    _cleanup_(X509_freep) X509 *cert = NULL, *own_cert = NULL;
    _cleanup_(principal_freep) Principal *p = NULL, *q = NULL, *none = NULL;
    char hash[65], own_hash[65];

    assert_int_equal(security_init_authority(f->security, &fixture_root), 0);
    assert_int_equal(issue(f, "laptop", "user:alice", 0, &bundle), 0);
    assert_int_equal(issue(f, "sensor", NULL, 0, &own), 0);
    hash_of(cert = parse(bundle, NULL), hash);
    hash_of(own_cert = parse(own, NULL), own_hash);
    assert_int_equal(connect_with(f, hash, &p), 0);
    assert_string_equal(p->name, "user:alice");
    assert_true(fixture_allows(f, security_remote_subject(p), "log.read"));
    assert_int_equal(connect_with(f, own_hash, &q), 0);
    assert_true(startswith(q->name, "cert:") && streq(q->name + 5, own_hash));
    /* One that this device has not issued is nobody, not even anonymous. */
    hash[0] = hash[0] == '0' ? '1' : '0';
    assert_int_equal(connect_with(f, hash, &none), -EKEYREJECTED);
    assert_int_equal(connect_with(f, "", &none), -EINVAL);
    assert_int_equal(connect_with(f, "xyz", &none), -EINVAL);
    /* Revoked: at once, and for good. */
    assert_false(security_principal_is_void(f->security, p));
    assert_int_equal(issue(f, "laptop", NULL, 0, &bundle), -EEXIST);
    assert_int_equal(security_revoke_certificate(f->security, &fixture_root, "laptop"), 1);
    assert_int_equal(security_revoke_certificate(f->security, &fixture_root, "laptop"), -ENOENT);
    assert_true(security_principal_is_void(f->security, p));
    assert_false(security_principal_is_void(f->security, q));
    hash_of(cert, hash);
    fixture_open(f);
    assert_int_equal(connect_with(f, hash, &none), -EKEYREJECTED);
    assert_int_equal(f->security->store->n_certificates, 2);
    /* Another one of the name does not revive it. */
    free(TAKE_PTR(bundle));
    assert_int_equal(issue(f, "laptop", "user:alice", 0, &bundle), 0);
    assert_int_equal(connect_with(f, hash, &none), -EKEYREJECTED);
    assert_true(security_principal_is_void(f->security, p));
}

static void test_it_ends_with_its_time_and_its_user(void **state)
{
    Fixture *f = *state;
    _cleanup_(freep) char *bundle = NULL, *other = NULL;
    _cleanup_(X509_freep) X509 *cert = NULL, *other_cert = NULL;
    _cleanup_(principal_freep) Principal *p = NULL, *q = NULL, *none = NULL;
    char hash[65], other_hash[65];
    uint64_t now;

    assert_int_equal(security_init_authority(f->security, &fixture_root), 0);
    assert_int_equal(issue(f, "short", "user:alice", UINT64_C(3600000000), &bundle), 0);
    assert_int_equal(issue(f, "long", "user:alice", 0, &other), 0);
    hash_of(cert = parse(bundle, NULL), hash);
    hash_of(other_cert = parse(other, NULL), other_hash);
    assert_int_equal(connect_with(f, hash, &p), 0);
    assert_int_equal(connect_with(f, other_hash, &q), 0);
    now = store_now(f->security->store);
    assert_true(security_next_expiry(f->security) <= now + UINT64_C(3600000000));
    f->security->store->floor = now + UINT64_C(3600000001);
    assert_true(security_expire(f->security, now));
    assert_true(security_principal_is_void(f->security, p));
    assert_int_equal(connect_with(f, hash, &none), -EKEYREJECTED);
    assert_false(security_principal_is_void(f->security, q));
    assert_int_equal(security_remove_user(f->security, &fixture_root, "alice"), 1);
    assert_true(security_principal_is_void(f->security, q));
    assert_int_equal(connect_with(f, other_hash, &none), -EKEYREJECTED);
    assert_int_equal(store_add_user(f->security->store, "alice", NULL), 0);
    assert_int_equal(connect_with(f, other_hash, &none), -EKEYREJECTED);
}

static void test_nobody_issues_more_than_they_hold(void **state)
{
    Fixture *f = *state;
    const Subject helper = fixture_uid(60991);
    char *roles[] = {(char *)"operator", NULL}, *bad[] = {(char *)"Not A Role", NULL};
    hybus_config_error e = {0};
    char *bundle = NULL;

    assert_int_equal(security_init_authority(f->security, &fixture_root), 0);
    assert_int_equal(security_issue_certificate(f->security, &helper, "a", "user:alice", NULL, 0, NULL,
                                                &bundle, &e), -EACCES);
    hybus_config_error_done(&e);
    assert_int_equal(security_issue_certificate(f->security, &helper, "a", NULL, roles, 0, NULL, &bundle,
                                                &e), -EACCES);
    hybus_config_error_done(&e);
    assert_int_equal(security_issue_certificate(f->security, &fixture_root, "a", NULL, bad, 0, NULL,
                                                &bundle, &e), -EINVAL);
    assert_int_equal(issue(f, "a", "user:nobody", 0, &bundle), -ENOENT);
    assert_int_equal(issue(f, "Not A Name", NULL, 0, &bundle), -EINVAL);
    assert_int_equal(f->security->store->n_certificates, 0);
    assert_int_equal(security_issue_certificate(f->security, &helper, "a", NULL, NULL, 0, NULL, &bundle,
                                                &e), 0);
    free(bundle);
}

static void test_bounds(void **state)
{
    Fixture *f = *state;
    Store *s = f->security->store;
    char name[16], *bundle = NULL;
    int r = 0;

    assert_int_equal(security_init_authority(f->security, &fixture_root), 0);
    for (unsigned i = 0; i <= STORE_CERTIFICATES_MAX && r == 0; i++) {
        Certificate c = {.name = name, .principal = (char *)"user:alice", .created = i + 1};

        snprintf(name, sizeof name, "c%u", i);
        memcpy(c.hash, &i, sizeof i);
        r = store_put_certificate(s, &c);
    }
    assert_int_equal(r, -ENOBUFS);
    assert_int_equal(issue(f, "more", NULL, 0, &bundle), -ENOBUFS);
    /* What has been revoked makes room, the oldest first. */
    assert_int_equal(security_revoke_certificate(f->security, &fixture_root, "c9"), 1);
    assert_int_equal(security_revoke_certificate(f->security, &fixture_root, "c5"), 1);
    assert_int_equal(issue(f, "more", NULL, 0, &bundle), 0);
    free(bundle);
    assert_null(store_certificate(s, "c5"));
    assert_non_null(store_certificate(s, "c9"));
    fixture_open(f);
    assert_int_equal(f->security->store->n_certificates, STORE_CERTIFICATES_MAX);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_the_authority),
        T(test_what_is_issued),
        T(test_pkcs12),
        T(test_connecting),
        T(test_it_ends_with_its_time_and_its_user),
        T(test_nobody_issues_more_than_they_hold),
        T(test_bounds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
