/* SPDX-License-Identifier: Apache-2.0 */
#include "store.h"

#include <fcntl.h>
#include <jansson.h>
#include <openssl/crypto.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>

#include "policy.h"

#define STATE_FILE "state"
#define DAMAGED_FILE "state.damaged"
#define STATE_KIND "state"
#define ANCHOR_FILE "anchor"
#define STATE_MAX (4u * 1024u * 1024u)
#define SECRET_PREFIX "hyb_"

/* --- the file of the store ------------------------------------------------------------------- */

static void user_done(User *u)
{
    free(u->name);
}

static void token_done(Token *t)
{
    free(t->name);
    free(t->principal);
    words_free(t->roles);
}

void store_free(Store *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_users; i++)
        user_done(&s->users[i]);
    for (size_t i = 0; i < s->n_tokens; i++)
        token_done(&s->tokens[i]);
    free(s->users);
    free(s->tokens);
    free(s->directory);
    free(s);
}

static void json_cleanup(json_t **j)
{
    json_decref(*j);
}

static int anchor_time(const char *directory, char ret[64])
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

static uint64_t number(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (uint64_t)value : 0;
}

static const char *string(const json_t *object, const char *key)
{
    return strempty(json_string_value(json_object_get(object, key)));
}

static int load_user(Store *s, const json_t *j)
{
    const char *name = string(j, "name");

    if (!principal_name_is_valid(name) || store_user(s, name))
        return -EBADMSG;
    if (!(s->users[s->n_users].name = strdup(name)))
        return -ENOMEM;
    s->users[s->n_users++].created = number(j, "created");
    return 0;
}

static int load_token(Store *s, const json_t *j)
{
    Token *t = &s->tokens[s->n_tokens];
    const json_t *roles = json_object_get(j, "roles"), *role;
    size_t i;

    if (!principal_name_is_valid(string(j, "name")) || store_token(s, string(j, "name")) ||
        hex_decode(string(j, "sha256"), t->hash, sizeof t->hash) < 0)
        return -EBADMSG;
    t->name = strdup(string(j, "name"));
    t->principal = strdup(string(j, "principal"));
    s->n_tokens++;
    if (!t->name || !t->principal)
        return -ENOMEM;
    if (!startswith(t->principal, "user:") && !startswith(t->principal, "token:"))
        return -EBADMSG;
    json_array_foreach (roles, i, role) {
        const char *text = strempty(json_string_value(role));
        int r = principal_name_is_valid(text) ? words_add(&t->roles, text, strlen(text)) : -EBADMSG;

        if (r < 0)
            return r;
    }
    t->created = number(j, "created");
    t->expires = number(j, "expires");
    t->last_used = number(j, "last_used");
    return 0;
}

static int load(Store *s, const char *text, size_t size, const char *anchor)
{
    _cleanup_(json_cleanup) json_t *j = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    const json_t *users = json_object_get(j, "users"), *tokens = json_object_get(j, "tokens"), *one;
    size_t i;
    int r = 0;

    if (!json_is_object(j) || !json_is_array(users) || !json_is_array(tokens) ||
        json_array_size(users) > STORE_USERS_MAX || json_array_size(tokens) > STORE_TOKENS_MAX)
        return -EBADMSG;
    s->generation = number(j, "generation");
    s->floor = number(j, "floor");
    s->claimed = json_is_true(json_object_get(j, "claimed"));
    json_array_foreach (users, i, one)
        if (r >= 0)
            r = load_user(s, one);
    s->restored = !streq(string(j, "anchor"), anchor);
    if (s->restored)
        return r;
    json_array_foreach (tokens, i, one)
        if (r >= 0)
            r = load_token(s, one);
    return r;
}

static int store_new(const char *directory, Store **ret)
{
    _cleanup_(store_freep) Store *s = calloc(1, sizeof *s);

    if (!s)
        return -ENOMEM;
    s->directory = strdup(directory);
    s->users = calloc(STORE_USERS_MAX, sizeof *s->users);
    s->tokens = calloc(STORE_TOKENS_MAX, sizeof *s->tokens);
    if (!s->directory || !s->users || !s->tokens)
        return -ENOMEM;
    *ret = TAKE_PTR(s);
    return 0;
}

/* A device that nobody can reach must start, but not as one that the next visitor may claim. */
static int start_over(const char *directory, Store **ret)
{
    _cleanup_(store_freep) Store *s = NULL;
    _cleanup_(closep) int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = dir < 0 ? -errno : store_new(directory, &s);

    if (r >= 0 && renameat(dir, STATE_FILE, dir, DAMAGED_FILE) < 0)
        r = -errno;
    if (r < 0)
        return r;
    s->claimed = s->damaged = true;
    *ret = TAKE_PTR(s);
    return 0;
}

int store_open(const char *directory, Store **ret)
{
    _cleanup_(store_freep) Store *s = NULL;
    _cleanup_(freep) char *text = NULL;
    char anchor[64];
    size_t size = 0;
    int r;

    r = store_new(directory, &s);
    if (r >= 0)
        r = anchor_time(directory, anchor);
    if (r < 0)
        return r;
    r = read_checked_file(directory, STATE_FILE, STATE_KIND, STATE_MAX, &text, &size);
    if (r >= 0)
        r = load(s, text, size, anchor);
    if (r == -EBADMSG || r == -EPERM || r == -EFBIG || r == -ELOOP)
        return start_over(directory, ret);
    if (r < 0 && r != -ENOENT)
        return r;
    *ret = TAKE_PTR(s);
    return 0;
}

static json_t *users_to_json(const Store *s)
{
    json_t *list = json_array();

    for (size_t i = 0; i < s->n_users; i++)
        json_array_append_new(list, json_pack("{s:s, s:I}", "name", s->users[i].name, "created",
                                              (json_int_t)s->users[i].created));
    return list;
}

static json_t *tokens_to_json(const Store *s)
{
    json_t *list = json_array();

    for (size_t i = 0; i < s->n_tokens; i++) {
        const Token *t = &s->tokens[i];
        json_t *roles = json_array();
        char hash[2 * SHA256_SIZE + 1];

        hex_encode(t->hash, sizeof t->hash, hash);
        for (char **role = t->roles; role && *role; role++)
            json_array_append_new(roles, json_string(*role));
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:s, s:o, s:I, s:I, s:I}", "name", t->name, "principal",
                            t->principal, "sha256", hash, "roles", roles, "created",
                            (json_int_t)t->created, "expires", (json_int_t)t->expires, "last_used",
                            (json_int_t)t->last_used));
    }
    return list;
}

int store_save(Store *s)
{
    _cleanup_(json_cleanup) json_t *j = NULL;
    _cleanup_(freep) char *text = NULL;
    char anchor[64];
    int r = anchor_time(s->directory, anchor);

    if (r < 0)
        return r;
    (void)store_now(s);
    j = json_pack("{s:I, s:I, s:b, s:s, s:o, s:o}", "generation", (json_int_t)s->generation,
                  "floor", (json_int_t)s->floor, "claimed", s->claimed, "anchor", anchor, "users",
                  users_to_json(s), "tokens", tokens_to_json(s));
    if (!j || json_array_size(json_object_get(j, "users")) != s->n_users ||
        json_array_size(json_object_get(j, "tokens")) != s->n_tokens)
        return -ENOMEM;
    text = json_dumps(j, JSON_INDENT(1));
    if (!text)
        return -ENOMEM;
    return write_checked_file(s->directory, STATE_FILE, STATE_KIND, text, strlen(text));
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

int store_add_user(Store *s, const char *name)
{
    if (!principal_name_is_valid(name))
        return -EINVAL;
    if (store_user(s, name))
        return -EEXIST;
    if (s->n_users >= STORE_USERS_MAX)
        return -ENOBUFS;
    if (!(s->users[s->n_users].name = strdup(name)))
        return -ENOMEM;
    s->users[s->n_users++].created = store_now(s);
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

/* "hyb_" and 43 characters of base64url: 256 bits, safe in headers, URLs and shells. */
static int make_secret(char **ret)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t random[33] = {0};
    char *s = malloc(sizeof SECRET_PREFIX + 44), *p;

    if (!s)
        return -ENOMEM;
    if (getrandom(random, 32, 0) != 32) {
        free(s);
        return -EIO;
    }
    p = stpcpy(s, SECRET_PREFIX);
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

static int copy_words(char *const *from, char ***to)
{
    int r = 0;

    for (; r >= 0 && from && *from; from++)
        r = words_add(to, *from, strlen(*from));
    return r;
}

int store_add_token(Store *s, const char *name, const char *principal, char *const *roles,
                    uint64_t lifetime_usec, char **ret_secret)
{
    _cleanup_(freep) char *secret = NULL;
    Token *t = &s->tokens[s->n_tokens];
    int r;

    if (!principal_name_is_valid(name))
        return -EINVAL;
    if (store_token(s, name))
        return -EEXIST;
    if (s->n_tokens >= STORE_TOKENS_MAX)
        return -ENOBUFS;
    r = make_secret(&secret);
    if (r < 0)
        return r;
    *t = (Token){.name = strdup(name), .principal = strdup(principal), .created = store_now(s)};
    if (lifetime_usec)
        t->expires = t->created + lifetime_usec;
    if (!t->name || !t->principal || copy_words(roles, &t->roles) < 0) {
        token_done(t);
        return -ENOMEM;
    }
    sha256(secret, strlen(secret), t->hash);
    s->n_tokens++;
    *ret_secret = TAKE_PTR(secret);
    return 0;
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
