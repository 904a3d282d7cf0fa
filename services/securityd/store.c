/* SPDX-License-Identifier: Apache-2.0 */
#include "store-internal.h"

#include <fcntl.h>
#include <openssl/crypto.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include "policy.h"

#define ANCHOR_FILE "anchor"
#define SECRET_PREFIX "hyb_"

/* --- the store ------------------------------------------------------------------------------- */

static void user_done(User *u)
{
    free(u->name);
    free(u->password);
    words_free(u->roles);
    words_free(u->known);
}

static void token_done(Token *t)
{
    free(t->name);
    free(t->principal);
    words_free(t->roles);
}

static void certificate_done(Certificate *c)
{
    free(c->name);
    free(c->principal);
    words_free(c->roles);
}

void store_clear(Store *s)
{
    for (size_t i = 0; i < s->n_users; i++)
        user_done(&s->users[i]);
    for (size_t i = 0; i < s->n_tokens; i++)
        token_done(&s->tokens[i]);
    for (size_t i = 0; i < s->n_certificates; i++)
        certificate_done(&s->certificates[i]);
    s->n_users = s->n_tokens = s->n_certificates = 0;
    s->generation = s->floor = 0;
    s->claimed = s->restored = false;
}

void store_free(Store *s)
{
    if (!s)
        return;
    store_clear(s);
    free(s->users);
    free(s->tokens);
    free(s->certificates);
    free(s->directory);
    free(s);
}

int store_anchor(const char *directory, char ret[64])
{
    _cleanup_(freep) char *path = NULL;
    struct statx st;

    if (asprintf(&path, "%s/%s", directory, ANCHOR_FILE) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &st) < 0) {
        if (errno != ENOENT)
            return -errno;
        int r = write_file_atomically(directory, ANCHOR_FILE, "", 0, 0600);
        if (r < 0)
            return r;
        if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &st) < 0)
            return -errno;
    }
    /* A file system without birth times protects less: say so by a constant. */
    if (!(st.stx_mask & STATX_BTIME))
        snprintf(ret, 64, "none");
    else
        snprintf(ret, 64, "%lld.%09u", (long long)st.stx_btime.tv_sec, st.stx_btime.tv_nsec);
    return 0;
}

static int store_new(const char *directory, Store **ret)
{
    _cleanup_(store_freep) Store *s = calloc(1, sizeof *s);

    if (!s)
        return -ENOMEM;
    s->directory = strdup(directory);
    s->users = calloc(STORE_USERS_MAX, sizeof *s->users);
    s->tokens = calloc(STORE_TOKENS_MAX, sizeof *s->tokens);
    s->certificates = calloc(STORE_CERTIFICATES_MAX, sizeof *s->certificates);
    if (!s->directory || !s->users || !s->tokens || !s->certificates)
        return -ENOMEM;
    *ret = TAKE_PTR(s);
    return 0;
}

static bool is_damage(int r)
{
    return r == -EBADMSG || r == -EPERM || r == -EACCES || r == -EFBIG || r == -ELOOP;
}

/* A device that nobody can reach must start, but not as one that the next visitor may claim. It is
 * written down at once: the next start finds nothing else. */
static int start_over(Store *s, const char *anchor)
{
    int r = store_database_put_aside(s->directory);

    store_clear(s);
    s->claimed = s->damaged = true;
    return r < 0 ? r : store_database_save(s, anchor);
}

/* There is no database: what an older version left, or nothing. */
static int load_old(Store *s, const char *anchor)
{
    int r = store_old_load(s, anchor);

    if (r == -ENOENT)
        return 0;
    if (r == -EALREADY) /* the database has gone, and whoever took it must not become the owner */
        return start_over(s, anchor);
    if (is_damage(r)) {
        r = store_old_put_aside(s->directory);
        return r < 0 ? r : start_over(s, anchor);
    }
    if (r < 0)
        return r;
    snprintf(s->backup, sizeof s->backup, STORE_OLD_BACKUP);
    r = store_database_save(s, anchor);
    return r < 0 ? r : store_old_retire(s->directory);
}

static int load(Store *s, const char *anchor)
{
    int r = store_database_load(s, anchor);

    if (r == -ENOENT)
        return load_old(s, anchor);
    if (r == -EPROTONOSUPPORT) {
        store_clear(s);
        s->claimed = s->foreign = true;
        return 0;
    }
    if (is_damage(r))
        return start_over(s, anchor);
    /* Also when the power failed between the two. */
    return r < 0 ? r : store_old_retire(s->directory);
}

int store_open(const char *directory, Store **ret)
{
    _cleanup_(store_freep) Store *s = NULL;
    char anchor[64];
    int r = store_new(directory, &s);

    if (r >= 0)
        r = store_anchor(directory, anchor);
    if (r >= 0)
        r = load(s, anchor);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(s);
    return 0;
}

int store_save(Store *s)
{
    char anchor[64];
    int r = s->foreign ? -EROFS : store_anchor(s->directory, anchor);

    if (r < 0)
        return r;
    (void)store_now(s);
    r = store_database_save(s, anchor);
    return r < 0 ? r : store_old_retire(s->directory);
}

uint64_t store_now(Store *s)
{
    struct timespec ts;
    uint64_t now;

    clock_gettime(CLOCK_REALTIME, &ts);
    now = (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
    if (now > s->floor)
        s->floor = now;
    return s->floor;
}

/* --- users and tokens ------------------------------------------------------------------------ */

User *store_user(Store *s, const char *name)
{
    for (size_t i = 0; i < s->n_users; i++)
        if (streq(s->users[i].name, name))
            return &s->users[i];
    return NULL;
}

static int copy_words(char *const *from, char ***to)
{
    int r = 0;

    for (; r >= 0 && from && *from; from++)
        r = words_add(to, *from, strlen(*from));
    return r;
}

static bool roles_are_valid(char *const *roles)
{
    if (words_count(roles) > STORE_ROLES_MAX)
        return false;
    for (; roles && *roles; roles++)
        if (!principal_name_is_valid(*roles))
            return false;
    return true;
}

int store_put_user(Store *s, const User *u)
{
    User *new = &s->users[s->n_users];

    if (!principal_name_is_valid(u->name) || !roles_are_valid(u->roles) ||
        strlen(strempty(u->password)) > STORE_PASSWORD_MAX)
        return -EINVAL;
    if (store_user(s, u->name))
        return -EEXIST;
    if (s->n_users >= STORE_USERS_MAX)
        return -ENOBUFS;
    *new = (User){.name = strdup(u->name), .created = u->created, .serial = ++s->last_serial};
    if (u->password)
        new->password = strdup(u->password);
    if (!new->name || !new->password != !u->password || copy_words(u->roles, &new->roles) < 0 ||
        copy_words(u->known, &new->known) < 0) {
        user_done(new);
        return -ENOMEM;
    }
    s->n_users++;
    return 0;
}

int store_add_user(Store *s, const char *name, char *const *roles)
{
    const User u = {.name = (char *)name, .roles = (char **)roles, .created = store_now(s)};

    return store_put_user(s, &u);
}

int store_set_roles(Store *s, User *u, char *const *roles)
{
    char **new = NULL;

    if (!roles_are_valid(roles))
        return -EINVAL;
    if (copy_words(roles, &new) < 0) {
        words_free(new);
        return -ENOMEM;
    }
    words_free(u->roles);
    u->roles = new;
    u->serial = ++s->last_serial;
    return 0;
}

int store_remove_user(Store *s, const char *name)
{
    User *u = store_user(s, name);

    if (!u)
        return -ENOENT;
    user_done(u);
    memmove(u, u + 1, (size_t)(s->users + s->n_users - u - 1) * sizeof *u);
    s->n_users--;
    return 0;
}

Token *store_token(Store *s, const char *name)
{
    for (size_t i = 0; i < s->n_tokens; i++)
        if (streq(s->tokens[i].name, name))
            return &s->tokens[i];
    return NULL;
}

/* 43 characters of base64url. */
int store_make_secret(const char *prefix, char **ret)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t random[33] = {0};
    char *s = malloc(strlen(prefix) + 45), *p;

    if (!s)
        return -ENOMEM;
    if (getrandom(random, 32, 0) != 32) {
        free(s);
        return -EIO;
    }
    p = stpcpy(s, prefix);
    for (size_t i = 0; i < 33; i += 3) {
        uint32_t v = (uint32_t)random[i] << 16 | (uint32_t)random[i + 1] << 8 | random[i + 2];

        for (int shift = 18; shift >= 0; shift -= 6)
            *p++ = digits[v >> shift & 63];
    }
    p[-1] = '\0'; /* the 44th only holds padding */
    explicit_bzero(random, sizeof random);
    *ret = s;
    return 0;
}

int store_put_token(Store *s, const Token *t)
{
    Token *new = &s->tokens[s->n_tokens];

    if (!principal_name_is_valid(t->name) || !roles_are_valid(t->roles) ||
        (!startswith(t->principal, "user:") && !startswith(t->principal, "token:")))
        return -EINVAL;
    if (store_token(s, t->name))
        return -EEXIST;
    if (s->n_tokens >= STORE_TOKENS_MAX)
        return -ENOBUFS;
    *new = *t;
    new->name = strdup(t->name);
    new->principal = strdup(t->principal);
    new->roles = NULL;
    if (!new->name || !new->principal || copy_words(t->roles, &new->roles) < 0) {
        token_done(new);
        return -ENOMEM;
    }
    s->n_tokens++;
    return 0;
}

int store_add_token(Store *s, const char *name, const char *principal, char *const *roles,
                    uint64_t lifetime_usec, char **ret_secret)
{
    _cleanup_(freep) char *secret = NULL;
    Token t = {.name = (char *)name,
               .principal = (char *)principal,
               .roles = (char **)roles,
               .created = store_now(s)};
    int r = store_make_secret(SECRET_PREFIX, &secret);

    if (r < 0)
        return r;
    if (lifetime_usec)
        t.expires = t.created + lifetime_usec;
    sha256(secret, strlen(secret), t.hash);
    r = store_put_token(s, &t);
    if (r < 0)
        explicit_bzero(secret, strlen(secret));
    else
        *ret_secret = TAKE_PTR(secret);
    return r;
}

int store_remove_token(Store *s, const char *name)
{
    Token *t = store_token(s, name);

    if (!t)
        return -ENOENT;
    token_done(t);
    memmove(t, t + 1, (size_t)(s->tokens + s->n_tokens - t - 1) * sizeof *t);
    s->n_tokens--;
    return 0;
}

Token *store_match(Store *s, const char *secret)
{
    uint8_t hash[SHA256_SIZE];
    Token *match = NULL;

    sha256(secret, strlen(secret), hash);
    for (size_t i = 0; i < s->n_tokens; i++)
        if (CRYPTO_memcmp(s->tokens[i].hash, hash, sizeof hash) == 0)
            match = &s->tokens[i];
    explicit_bzero(hash, sizeof hash);
    if (match && match->expires && match->expires <= store_now(s))
        return NULL;
    return match;
}

/* --- certificates ---------------------------------------------------------------------------- */

Certificate *store_certificate(Store *s, const char *name)
{
    for (size_t i = 0; i < s->n_certificates; i++)
        if (streq(s->certificates[i].name, name))
            return &s->certificates[i];
    return NULL;
}

int store_put_certificate(Store *s, const Certificate *c)
{
    Certificate *new = &s->certificates[s->n_certificates];

    if (!principal_name_is_valid(c->name) || !roles_are_valid(c->roles) ||
        (!startswith(c->principal, "user:") && !startswith(c->principal, "cert:")))
        return -EINVAL;
    if (store_certificate(s, c->name))
        return -EEXIST;
    if (s->n_certificates >= STORE_CERTIFICATES_MAX)
        return -ENOBUFS;
    *new = *c;
    new->name = strdup(c->name);
    new->principal = strdup(c->principal);
    new->roles = NULL;
    if (!new->name || !new->principal || copy_words(c->roles, &new->roles) < 0) {
        certificate_done(new);
        return -ENOMEM;
    }
    s->n_certificates++;
    return 0;
}
