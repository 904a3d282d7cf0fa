/* SPDX-License-Identifier: Apache-2.0 */
/* Certificates of clients: issued here, known by their hash, gone at once when revoked. A certificate that
 * the authority has signed but that is not known here opens nothing. */

#include "authority.h"
#include "security-internal.h"

#define SECOND UINT64_C(1000000)

int security_init_authority(Security *s, const Subject *caller)
{
    int r = authority_make(s->settings->state_directory);

    if (r >= 0)
        r = authority_publish(s->settings->state_directory, s->settings->runtime_directory);
    if (r < 0)
        return r;
    security_move_principal(s, "cert:"); /* nobody's: servers look at what has changed when something has */
    security_note(s, caller, "cert-init", "the device has an authority for client certificates");
    return 0;
}

static void make_room(Store *s)
{
    const Certificate *oldest = NULL;

    if (s->n_certificates < STORE_CERTIFICATES_MAX)
        return;
    for (size_t i = 0; i < s->n_certificates; i++) {
        const Certificate *c = &s->certificates[i];

        if ((c->revoked || (c->expires && c->expires <= store_now(s))) &&
            (!oldest || c->created < oldest->created))
            oldest = c;
    }
    if (oldest)
        (void)store_remove_certificate(s, oldest->name);
}

static int add(Security *s, const char *name, const char *as, char *const *roles, uint64_t expires,
               const uint8_t hash[SHA256_SIZE])
{
    char principal[80] = "cert:";
    Certificate c = {.name = (char *)name,
                     .principal = as ? (char *)as : principal,
                     .roles = (char **)roles,
                     .created = store_now(s->store),
                     .expires = expires};

    hex_encode(hash, SHA256_SIZE, principal + strlen(principal));
    memcpy(c.hash, hash, sizeof c.hash);
    make_room(s->store);
    return store_put_certificate(s->store, &c);
}

int security_issue_certificate(Security *s, const Subject *caller, const char *name, const char *as,
                               char *const *roles, uint64_t lifetime_usec, const char *passphrase,
                               char **ret_bundle, hybus_config_error *e)
{
    const Certificate *old = store_certificate(s->store, name);
    uint64_t expires = lifetime_usec ? store_now(s->store) + lifetime_usec : 0;
    _cleanup_(issued_done) Issued issued = {0};
    int r;

    if (!principal_name_is_valid(name) || words_count(roles) > STORE_ROLES_MAX)
        return -EINVAL;
    if (as && (!startswith(as, "user:") || !store_user(s->store, as + strlen("user:"))))
        return -ENOENT;
    if (old && !old->revoked)
        return -EEXIST;
    r = security_check_from_outside(s, caller, as, roles, e);
    if (r >= 0)
        r = authority_issue(s->settings->state_directory, name,
                            expires ? (int64_t)(expires / SECOND) + 1 : 0, passphrase, &issued);
    if (r == -ENOENT)
        (void)hybus_config_error_set(e, NULL, "there is no authority yet: h-policy cert init");
    if (r >= 0 && old)
        (void)store_remove_certificate(s->store, name);
    if (r >= 0)
        r = add(s, name, as, roles, expires, issued.hash);
    if (r < 0)
        return r;
    r = store_save(s->store);
    if (r < 0) {
        (void)store_remove_certificate(s->store, name);
        return r;
    }
    *ret_bundle = TAKE_PTR(issued.bundle);
    security_note(s, caller, "cert-issue", name);
    return 0;
}

int security_revoke_certificate(Security *s, const Subject *caller, const char *name)
{
    Certificate *c = store_certificate(s->store, name);
    int r;

    if (!c || c->revoked)
        return -ENOENT;
    c->revoked = store_now(s->store);
    security_move_principal(s, c->principal);
    security_note(s, caller, "RevokeCertificate", name);
    r = store_save(s->store);
    return r < 0 ? r : 1;
}

bool security_certificate_is_good(Security *s, const Certificate *c)
{
    return c && !c->revoked && (!c->expires || c->expires > store_now(s->store));
}
