/* SPDX-License-Identifier: Apache-2.0 */
/* The state in SQLite. The database is opened to be read at the start and for each change, and is closed
 * in between: an idle agent keeps neither its pages nor its locks. A rollback journal and full
 * synchronisation make a change all or nothing, whenever the power fails.
 *
 * SQLite notices much damage, but not a changed letter in a name: the row `seal` holds a checksum of all
 * rows that this version knows. A later version may add tables and columns; it says in `compatible` which
 * versions may still write beside it, and its own rows stay as they are. */

#include <fcntl.h>
#include <openssl/evp.h>
#include <sqlite3.h>
#include <sys/stat.h>

#include "policy.h"
#include "store-internal.h"

#define VERSION 2
#define NEW_FILE ".state.db.new"
#define DAMAGED_FILE "state.damaged"
#define DATABASE_MAX (16u * 1024u * 1024u)

#define STRINGIFY_(x) #x
#define STRINGIFY(x) STRINGIFY_(x)

#define SEALED_STATE \
    "SELECT key, value FROM state WHERE key IN ('anchor', 'claimed', 'floor', 'generation') ORDER BY key"
#define SEALED_TOKENS \
    "SELECT name, principal, roles, sha256, created, expires, last_used FROM tokens ORDER BY name"
#define SEALED_CERTIFICATES \
    "SELECT name, principal, roles, sha256, created, expires, revoked FROM certificates ORDER BY name"

/* Every row of every table that each version knows, in one order. */
static const char *const sealed[VERSION + 1][5] = {
    [1] = {SEALED_STATE, "SELECT name, password, roles, created FROM users ORDER BY name",
           SEALED_TOKENS, SEALED_CERTIFICATES},
    [2] = {SEALED_STATE, "SELECT name, password, roles, known, created FROM users ORDER BY name",
           SEALED_TOKENS, SEALED_CERTIFICATES},
};

/* What makes a version of the one before it. */
static const char *const steps[VERSION + 1] = {
    [2] = "ALTER TABLE users ADD COLUMN known TEXT NOT NULL DEFAULT ''",
};

static const char schema[] =
    "CREATE TABLE state(key TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE users(name TEXT PRIMARY KEY, password TEXT NOT NULL, roles TEXT NOT NULL, "
    "known TEXT NOT NULL, created INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE tokens(name TEXT PRIMARY KEY, principal TEXT NOT NULL, roles TEXT NOT NULL, "
    "sha256 BLOB NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL, "
    "last_used INTEGER NOT NULL) WITHOUT ROWID;"
    "CREATE TABLE certificates(name TEXT PRIMARY KEY, principal TEXT NOT NULL, roles TEXT NOT NULL, "
    "sha256 BLOB NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL, "
    "revoked INTEGER NOT NULL) WITHOUT ROWID;"
    "PRAGMA user_version = " STRINGIFY(VERSION);

/* --- SQLite ---------------------------------------------------------------------------------- */

static void close_database(sqlite3 **db)
{
    (void)sqlite3_close_v2(*db);
}

static void finalize(sqlite3_stmt **s)
{
    (void)sqlite3_finalize(*s);
}

static int error_of(sqlite3 *db, int r)
{
    int e = db ? sqlite3_system_errno(db) : 0;

    switch (r & 0xff) {
    case SQLITE_OK:
    case SQLITE_ROW:
    case SQLITE_DONE:
        return 0;
    case SQLITE_NOMEM:
        return -ENOMEM;
    case SQLITE_FULL:
        return -ENOSPC;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
        return -EBUSY;
    case SQLITE_IOERR:
    case SQLITE_CANTOPEN:
    case SQLITE_READONLY:
        return e > 0 ? -e : -EIO;
    default: /* CORRUPT, NOTADB, a table that is not there, … */
        return -EBADMSG;
    }
}

static int run(sqlite3 *db, const char *sql)
{
    return error_of(db, sqlite3_exec(db, sql, NULL, NULL, NULL));
}

static int prepare(sqlite3 *db, const char *sql, sqlite3_stmt **ret)
{
    return error_of(db, sqlite3_prepare_v2(db, sql, -1, ret, NULL));
}

/* 1: a row, 0: no more. */
static int step(sqlite3 *db, sqlite3_stmt *s)
{
    int r = sqlite3_step(s);

    return r == SQLITE_ROW ? 1 : error_of(db, r);
}

static int run_bound(sqlite3 *db, sqlite3_stmt *s)
{
    int r = step(db, s);

    (void)sqlite3_reset(s);
    return r;
}

/* A file that others can write could hold any users and tokens; so could a journal, which SQLite would
 * play back into it. */
static int check_file(const char *directory, const char *name, const char *suffix)
{
    _cleanup_(freep) char *path = NULL;
    struct stat st;

    if (asprintf(&path, "%s/%s%s", directory, name, suffix) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    if (lstat(path, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode) || st.st_nlink != 1 || st.st_size > DATABASE_MAX)
        return -EBADMSG;
    if ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & (S_IWGRP | S_IWOTH)))
        return -EPERM;
    return 0;
}

/* What is in the file is data: no views, triggers or functions of its making run. */
static int open_file(const char *directory, const char *name, sqlite3 **ret)
{
    _cleanup_(close_database) sqlite3 *db = NULL;
    _cleanup_(freep) char *path = NULL;
    int r;

    if (asprintf(&path, "%s/%s", directory, name) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    r = sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_NOMUTEX,
                        NULL);
    if (r != SQLITE_OK)
        return error_of(db, r);
    (void)sqlite3_extended_result_codes(db, 1);
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_TRIGGER, 0, NULL);
    (void)sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_VIEW, 0, NULL);
    (void)sqlite3_busy_timeout(db, 2000);
    r = run(db, "PRAGMA cell_size_check = ON; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY;"
                "PRAGMA cache_size = -256; PRAGMA synchronous = EXTRA; PRAGMA secure_delete = ON");
    if (r < 0)
        return r;
    *ret = TAKE_PTR(db);
    return 0;
}

static int number_of(sqlite3 *db, const char *sql, int64_t *ret)
{
    _cleanup_(finalize) sqlite3_stmt *s = NULL;
    int r = prepare(db, sql, &s);

    if (r >= 0)
        r = step(db, s);
    if (r == 0)
        return -EBADMSG;
    if (r > 0)
        *ret = sqlite3_column_int64(s, 0);
    return r < 0 ? r : 0;
}

/* --- the seal -------------------------------------------------------------------------------- */

static void digest_free(EVP_MD_CTX **d)
{
    EVP_MD_CTX_free(*d);
}

/* Types and lengths go along: no two sets of rows read the same. */
static int seal_row(EVP_MD_CTX *d, sqlite3_stmt *s)
{
    bool ok = true;

    for (int i = 0; i < sqlite3_column_count(s); i++) {
        int type = sqlite3_column_type(s, i);
        const void *data = sqlite3_column_blob(s, i); /* integers as text */
        int size = sqlite3_column_bytes(s, i);
        char head[32];
        int n = snprintf(head, sizeof head, "%d:%d:", type, size);

        ok = ok && EVP_DigestUpdate(d, head, (size_t)n) == 1 &&
             EVP_DigestUpdate(d, size ? data : "", (size_t)size) == 1;
    }
    return ok ? 0 : -ENOMEM;
}

static int seal_of(sqlite3 *db, int64_t version, uint8_t ret[SHA256_SIZE])
{
    const char *const *query = sealed[MIN_OF(version, VERSION)];
    _cleanup_(digest_free) EVP_MD_CTX *d = EVP_MD_CTX_new();
    int r = d && EVP_DigestInit_ex(d, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;

    for (; r >= 0 && *query; query++) {
        _cleanup_(finalize) sqlite3_stmt *s = NULL;

        r = prepare(db, *query, &s);
        while (r >= 0 && (r = step(db, s)) > 0)
            r = seal_row(d, s);
    }
    if (r >= 0 && EVP_DigestFinal_ex(d, ret, NULL) != 1)
        r = -ENOMEM;
    return r;
}

static int check_seal(sqlite3 *db, int64_t version)
{
    _cleanup_(finalize) sqlite3_stmt *s = NULL;
    uint8_t seal[SHA256_SIZE];
    int r = seal_of(db, version, seal);

    if (r >= 0)
        r = prepare(db, "SELECT value FROM state WHERE key = 'seal'", &s);
    if (r >= 0)
        r = step(db, s);
    if (r < 0)
        return r;
    return r > 0 && sqlite3_column_type(s, 0) == SQLITE_BLOB &&
                   sqlite3_column_bytes(s, 0) == sizeof seal &&
                   memcmp(sqlite3_column_blob(s, 0), seal, sizeof seal) == 0
               ? 0
               : -EBADMSG;
}

static const char put_state_sql[] =
    "INSERT INTO state(key, value) VALUES(?1, ?2) ON CONFLICT(key) DO UPDATE "
    "SET value = excluded.value WHERE value IS NOT excluded.value";

static void bind_text(sqlite3_stmt *q, int i, const char *text)
{
    (void)sqlite3_bind_text(q, i, strempty(text), -1, SQLITE_TRANSIENT);
}

static void bind_number(sqlite3_stmt *q, int i, uint64_t number)
{
    (void)sqlite3_bind_int64(q, i, (sqlite3_int64)MIN_OF(number, (uint64_t)INT64_MAX));
}

static void bind_hash(sqlite3_stmt *q, int i, const uint8_t hash[SHA256_SIZE])
{
    (void)sqlite3_bind_blob(q, i, hash, SHA256_SIZE, SQLITE_TRANSIENT);
}

static int save_seal(sqlite3 *db)
{
    _cleanup_(finalize) sqlite3_stmt *q = NULL;
    uint8_t seal[SHA256_SIZE];
    int r = seal_of(db, VERSION, seal);

    if (r >= 0)
        r = prepare(db, put_state_sql, &q);
    if (r < 0)
        return r;
    bind_text(q, 1, "seal");
    bind_hash(q, 2, seal);
    return run_bound(db, q);
}

/* --- reading --------------------------------------------------------------------------------- */

static const char *text_at(sqlite3_stmt *s, int column)
{
    return strempty((const char *)sqlite3_column_text(s, column));
}

static uint64_t number_at(sqlite3_stmt *s, int column)
{
    return (uint64_t)MAX_OF(sqlite3_column_int64(s, column), 0);
}

static int load_state(Store *s, sqlite3 *db, const char *anchor)
{
    _cleanup_(finalize) sqlite3_stmt *q = NULL;
    int r = prepare(db, "SELECT key, value FROM state", &q);

    s->restored = true;
    while (r >= 0 && (r = step(db, q)) > 0) {
        const char *key = text_at(q, 0);

        if (streq(key, "generation"))
            s->generation = number_at(q, 1);
        else if (streq(key, "floor"))
            s->floor = number_at(q, 1);
        else if (streq(key, "claimed"))
            s->claimed = number_at(q, 1) != 0;
        else if (streq(key, "anchor"))
            s->restored = !streq(text_at(q, 1), anchor);
    }
    return r;
}

static int load_users(Store *s, sqlite3 *db)
{
    _cleanup_(finalize) sqlite3_stmt *q = NULL;
    int r = prepare(db, "SELECT name, password, roles, known, created FROM users", &q);

    while (r >= 0 && (r = step(db, q)) > 0) {
        _cleanup_(words_freep) char **roles = NULL, **known = NULL;
        User u = {.name = (char *)text_at(q, 0), .created = number_at(q, 4)};

        u.password = *text_at(q, 1) ? (char *)text_at(q, 1) : NULL;
        r = words_split(text_at(q, 2), &roles);
        if (r >= 0)
            r = words_split(text_at(q, 3), &known);
        u.roles = roles;
        u.known = known;
        if (r >= 0)
            r = store_put_user(s, &u);
    }
    return r;
}

static int hash_at(sqlite3_stmt *q, int column, uint8_t ret[SHA256_SIZE])
{
    if (sqlite3_column_bytes(q, column) != SHA256_SIZE)
        return -EBADMSG;
    memcpy(ret, sqlite3_column_blob(q, column), SHA256_SIZE);
    return 0;
}

static int load_tokens(Store *s, sqlite3 *db)
{
    _cleanup_(finalize) sqlite3_stmt *q = NULL;
    int r = prepare(db, "SELECT name, principal, roles, sha256, created, expires, last_used FROM tokens",
                    &q);

    while (r >= 0 && (r = step(db, q)) > 0) {
        _cleanup_(words_freep) char **roles = NULL;
        Token t = {.name = (char *)text_at(q, 0),
                   .principal = (char *)text_at(q, 1),
                   .created = number_at(q, 4),
                   .expires = number_at(q, 5),
                   .last_used = number_at(q, 6)};

        r = hash_at(q, 3, t.hash);
        if (r >= 0)
            r = words_split(text_at(q, 2), &roles);
        t.roles = roles;
        if (r >= 0)
            r = store_put_token(s, &t);
    }
    return r;
}

static int load_certificates(Store *s, sqlite3 *db)
{
    _cleanup_(finalize) sqlite3_stmt *q = NULL;
    int r = prepare(db,
                    "SELECT name, principal, roles, sha256, created, expires, revoked FROM certificates",
                    &q);

    while (r >= 0 && (r = step(db, q)) > 0) {
        _cleanup_(words_freep) char **roles = NULL;
        Certificate c = {.name = (char *)text_at(q, 0),
                         .principal = (char *)text_at(q, 1),
                         .created = number_at(q, 4),
                         .expires = number_at(q, 5),
                         .revoked = number_at(q, 6)};

        r = hash_at(q, 3, c.hash);
        if (r >= 0)
            r = words_split(text_at(q, 2), &roles);
        c.roles = roles;
        if (r >= 0)
            r = store_put_certificate(s, &c);
    }
    return r;
}

/* 0: ours or one that we may write beside. A version that cannot be told apart from none is damage. */
static int check_version(sqlite3 *db, int64_t *ret)
{
    int64_t version, compatible = 0;
    int r = number_of(db, "PRAGMA user_version", &version);

    if (r >= 0 && version < 1)
        return -EBADMSG;
    if (r >= 0)
        *ret = version;
    if (r < 0 || version <= VERSION)
        return r;
    r = number_of(db, "SELECT value FROM state WHERE key = 'compatible'", &compatible);
    return r == -ENOMEM ? r : r >= 0 && compatible >= 1 && compatible <= VERSION ? 0 : -EPROTONOSUPPORT;
}

static int check_pages(sqlite3 *db)
{
    _cleanup_(finalize) sqlite3_stmt *q = NULL;
    int r = prepare(db, "PRAGMA integrity_check(1)", &q);

    if (r >= 0)
        r = step(db, q);
    return r < 0 ? r : r > 0 && streq(text_at(q, 0), "ok") ? 0 : -EBADMSG;
}

static int check_files(const char *directory)
{
    int r = check_file(directory, STORE_DATABASE, ""), journal;

    if (r < 0)
        return r;
    journal = check_file(directory, STORE_DATABASE, "-journal");
    return journal == -ENOENT ? 0 : journal;
}

static int check_database(sqlite3 *db, int64_t *ret_version)
{
    int r = run(db, "BEGIN IMMEDIATE"); /* plays back what a power failure has left */

    if (r >= 0)
        r = check_version(db, ret_version);
    if (r >= 0)
        r = check_pages(db);
    if (r >= 0)
        r = check_seal(db, *ret_version);
    return r < 0 ? r : run(db, "COMMIT");
}

/* A copy of what the older version could go on with. */
static int back_up(Store *s, sqlite3 *db, int64_t version)
{
    _cleanup_(finalize) sqlite3_stmt *q = NULL;
    _cleanup_(freep) char *path = NULL;
    mode_t mask;
    int r;

    snprintf(s->backup, sizeof s->backup, "state.backup-%d", (int)version);
    if (asprintf(&path, "%s/%s", s->directory, s->backup) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    if (unlink(path) < 0 && errno != ENOENT)
        return -errno;
    r = prepare(db, "VACUUM INTO ?1", &q);
    if (r < 0)
        return r;
    bind_text(q, 1, path);
    mask = umask(0077);
    r = step(db, q);
    (void)umask(mask);
    return r;
}

static int migrate(Store *s, sqlite3 *db, int64_t version)
{
    int r = back_up(s, db, version);

    if (r >= 0)
        r = run(db, "BEGIN IMMEDIATE");
    for (int64_t next = version + 1; r >= 0 && next <= VERSION; next++)
        r = run(db, steps[next]);
    if (r >= 0)
        r = run(db, "PRAGMA user_version = " STRINGIFY(VERSION));
    if (r >= 0)
        r = save_seal(db);
    return r < 0 ? r : run(db, "COMMIT");
}

int store_database_load(Store *s, const char *anchor)
{
    _cleanup_(close_database) sqlite3 *db = NULL;
    int64_t version = VERSION;
    int r = check_files(s->directory);

    if (r >= 0)
        r = open_file(s->directory, STORE_DATABASE, &db);
    if (r >= 0)
        r = check_database(db, &version);
    if (r >= 0 && version < VERSION)
        r = migrate(s, db, version);
    if (r >= 0)
        r = run(db, "BEGIN");
    if (r >= 0)
        r = load_state(s, db, anchor);
    if (r >= 0)
        r = load_users(s, db);
    if (r >= 0 && !s->restored)
        r = load_tokens(s, db);
    if (r >= 0 && !s->restored)
        r = load_certificates(s, db);
    if (r == -EINVAL || r == -EEXIST || r == -ENOBUFS)
        r = -EBADMSG;
    return r < 0 ? r : run(db, "COMMIT");
}

/* --- writing --------------------------------------------------------------------------------- */

/* Only what has changed is written: a page that stays the same costs no flash. */
static const char put_user_sql[] =
    "INSERT INTO users(name, password, roles, known, created) VALUES(?1, ?2, ?3, ?4, ?5) "
    "ON CONFLICT(name) DO UPDATE SET password = excluded.password, roles = excluded.roles, "
    "known = excluded.known, created = excluded.created WHERE (password, roles, known, created) "
    "IS NOT (excluded.password, excluded.roles, excluded.known, excluded.created)";
static const char put_token_sql[] =
    "INSERT INTO tokens(name, principal, roles, sha256, created, expires, last_used) "
    "VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT(name) DO "
    "UPDATE SET principal = excluded.principal, roles = excluded.roles, sha256 = excluded.sha256, "
    "created = excluded.created, expires = excluded.expires, last_used = excluded.last_used "
    "WHERE (principal, roles, sha256, created, expires, last_used) IS NOT (excluded.principal, "
    "excluded.roles, excluded.sha256, excluded.created, excluded.expires, excluded.last_used)";
static const char put_certificate_sql[] =
    "INSERT INTO certificates(name, principal, roles, sha256, created, expires, revoked) "
    "VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT(name) DO "
    "UPDATE SET principal = excluded.principal, roles = excluded.roles, sha256 = excluded.sha256, "
    "created = excluded.created, expires = excluded.expires, revoked = excluded.revoked "
    "WHERE (principal, roles, sha256, created, expires, revoked) IS NOT (excluded.principal, "
    "excluded.roles, excluded.sha256, excluded.created, excluded.expires, excluded.revoked)";

static int bind_words(sqlite3_stmt *q, int i, char *const *words)
{
    _cleanup_(freep) char *text = words_join(words);

    bind_text(q, i, text);
    return text ? 0 : -ENOMEM;
}

static int put_number(sqlite3 *db, sqlite3_stmt *q, const char *key, uint64_t number)
{
    bind_text(q, 1, key);
    bind_number(q, 2, number);
    return run_bound(db, q);
}

static int save_state(const Store *s, sqlite3 *db, const char *anchor)
{
    _cleanup_(finalize) sqlite3_stmt *q = NULL;
    int r = prepare(db, put_state_sql, &q);

    if (r >= 0)
        r = put_number(db, q, "generation", s->generation);
    if (r >= 0)
        r = put_number(db, q, "floor", s->floor);
    if (r >= 0)
        r = put_number(db, q, "claimed", s->claimed);
    if (r < 0)
        return r;
    bind_text(q, 1, "anchor");
    bind_text(q, 2, anchor);
    return run_bound(db, q);
}

static int save_users(const Store *s, sqlite3 *db)
{
    _cleanup_(finalize) sqlite3_stmt *q = NULL;
    int r = prepare(db, put_user_sql, &q);

    for (size_t i = 0; r >= 0 && i < s->n_users; i++) {
        const User *u = &s->users[i];

        bind_text(q, 1, u->name);
        bind_text(q, 2, u->password);
        bind_number(q, 5, u->created);
        r = bind_words(q, 4, u->known);
        if (r >= 0)
            r = bind_words(q, 3, u->roles);
        if (r >= 0)
            r = run_bound(db, q);
    }
    return r;
}

static int save_tokens(const Store *s, sqlite3 *db)
{
    _cleanup_(finalize) sqlite3_stmt *q = NULL;
    int r = prepare(db, put_token_sql, &q);

    for (size_t i = 0; r >= 0 && i < s->n_tokens; i++) {
        const Token *t = &s->tokens[i];

        bind_text(q, 1, t->name);
        bind_text(q, 2, t->principal);
        bind_hash(q, 4, t->hash);
        bind_number(q, 5, t->created);
        bind_number(q, 6, t->expires);
        bind_number(q, 7, t->last_used);
        r = bind_words(q, 3, t->roles);
        if (r >= 0)
            r = run_bound(db, q);
    }
    return r;
}

static int save_certificates(const Store *s, sqlite3 *db)
{
    _cleanup_(finalize) sqlite3_stmt *q = NULL;
    int r = prepare(db, put_certificate_sql, &q);

    for (size_t i = 0; r >= 0 && i < s->n_certificates; i++) {
        const Certificate *c = &s->certificates[i];

        bind_text(q, 1, c->name);
        bind_text(q, 2, c->principal);
        bind_hash(q, 4, c->hash);
        bind_number(q, 5, c->created);
        bind_number(q, 6, c->expires);
        bind_number(q, 7, c->revoked);
        r = bind_words(q, 3, c->roles);
        if (r >= 0)
            r = run_bound(db, q);
    }
    return r;
}

/* SQL: is_kept('users', name). */
static void is_kept(sqlite3_context *context, int n, sqlite3_value **values)
{
    Store *s = sqlite3_user_data(context);
    const char *table = strempty((const char *)sqlite3_value_text(values[0]));
    const char *name = strempty((const char *)sqlite3_value_text(values[1]));

    sqlite3_result_int(context, *table == 'u'   ? store_user(s, name) != NULL
                                : *table == 't' ? store_token(s, name) != NULL
                                                : store_certificate(s, name) != NULL);
}

static int remove_rows(Store *s, sqlite3 *db)
{
    int r = sqlite3_create_function(db, "is_kept", 2, SQLITE_UTF8 | SQLITE_DIRECTONLY, s, is_kept,
                                    NULL, NULL);

    return r != SQLITE_OK ? error_of(db, r)
                          : run(db, "DELETE FROM users WHERE NOT is_kept('users', name);"
                                    "DELETE FROM tokens WHERE NOT is_kept('tokens', name);"
                                    "DELETE FROM certificates WHERE NOT is_kept('certificates', name)");
}

static int save(Store *s, sqlite3 *db, const char *anchor, bool new)
{
    int r = run(db, "BEGIN IMMEDIATE");
    int64_t version;

    if (r >= 0)
        r = new ? run(db, schema) : check_version(db, &version);
    if (r >= 0)
        r = remove_rows(s, db);
    if (r >= 0)
        r = save_state(s, db, anchor);
    if (r >= 0)
        r = save_users(s, db);
    if (r >= 0)
        r = save_tokens(s, db);
    if (r >= 0)
        r = save_certificates(s, db);
    if (r >= 0)
        r = save_seal(db);
    return r < 0 ? r : run(db, "COMMIT");
}

/* Under another name until it is whole: an empty file in the place of the database is damage. */
static int save_new(Store *s, const char *anchor)
{
    _cleanup_(closep) int dir = open(s->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd = -1;
    sqlite3 *db = NULL;
    int r;

    if (dir < 0)
        return -errno;
    (void)unlinkat(dir, NEW_FILE "-journal", 0);
    if (unlinkat(dir, NEW_FILE, 0) < 0 && errno != ENOENT)
        return -errno;
    fd = openat(dir, NEW_FILE, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return -errno;
    r = open_file(s->directory, NEW_FILE, &db);
    if (r >= 0)
        r = save(s, db, anchor, true);
    close_database(&db);
    if (r >= 0 && renameat(dir, NEW_FILE, dir, STORE_DATABASE) < 0)
        r = -errno;
    if (r < 0) {
        (void)unlinkat(dir, NEW_FILE, 0);
        (void)unlinkat(dir, NEW_FILE "-journal", 0);
        return r;
    }
    return fsync(dir) < 0 ? -errno : 0;
}

int store_database_save(Store *s, const char *anchor)
{
    _cleanup_(close_database) sqlite3 *db = NULL;
    int r = check_files(s->directory);

    if (r == -ENOENT)
        return save_new(s, anchor);
    if (r >= 0)
        r = open_file(s->directory, STORE_DATABASE, &db);
    return r < 0 ? r : save(s, db, anchor, false);
}

int store_database_put_aside(const char *directory)
{
    _cleanup_(closep) int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir < 0)
        return -errno;
    /* The journal first: it must not be played back into the next database. */
    if (renameat(dir, STORE_DATABASE "-journal", dir, DAMAGED_FILE "-journal") < 0 && errno != ENOENT)
        return -errno;
    if (renameat(dir, STORE_DATABASE, dir, DAMAGED_FILE) < 0 && errno != ENOENT)
        return -errno;
    return fsync(dir) < 0 ? -errno : 0;
}
