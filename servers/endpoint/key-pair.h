/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A server's own key and certificate: made on the device at its first start, never part of an image. */

#include <openssl/ssl.h>

#include <hybus/base.h>

#define ENDPOINT_FINGERPRINT_SIZE 96u /* "AB:CD:…" */

HYBUS_DEFINE_CLEANUP(EVP_PKEY, EVP_PKEY_free)
HYBUS_DEFINE_CLEANUP(X509, X509_free)
HYBUS_DEFINE_CLEANUP(SSL_CTX, SSL_CTX_free)

/* key.pem and certificate.pem in `directory`, P-256, self-signed for `host_name`, unless they are
 * there. Validity starts at `build_epoch`, since a device may have no clock. 1: made. */
int endpoint_key_pair_make(const char *directory, const char *host_name, long long build_epoch);
/* SHA-256 of the certificate: as people compare it, or 64 lower-case digits. "" when it fails. */
void endpoint_fingerprint(const X509 *certificate, char ret[ENDPOINT_FINGERPRINT_SIZE]);
void endpoint_fingerprint_plain(const X509 *certificate, char ret[65]);
