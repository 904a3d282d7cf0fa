/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The device's own certificate authority, for certificates of clients. Its key is made here and never
 * leaves the state directory; its certificate is for everybody to read. */

#include "state-file.h"

#define AUTHORITY_FILE "ca.pem"
#define AUTHORITY_KEY_FILE "ca-key.pem"
#define AUTHORITY_PEM_MAX (32u * 1024u)

/* -EEXIST: there is one. */
int authority_make(const char *state_directory);
/* Puts its certificate where servers find it. -ENOENT: there is none. */
int authority_publish(const char *state_directory, const char *runtime_directory);

typedef struct Issued {
    uint8_t hash[SHA256_SIZE]; /* of the certificate as DER */
    char *bundle;              /* wiped and freed by issued_done(): see below */
} Issued;
void issued_done(Issued *i);
HYBUS_DEFINE_CLEANUP(Issued, issued_done)

/* A new key and a certificate for it, good until `not_after` (seconds since 1970; 0: as long as the
 * authority's). The bundle is PEM (key, certificate, authority) or, with a passphrase, PKCS #12 in base64.
 * -ENOENT: there is no authority. */
int authority_issue(const char *state_directory, const char *name, int64_t not_after,
                    const char *passphrase, Issued *ret);
