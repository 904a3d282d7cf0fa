/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <openssl/crypto.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "fixture.h"
#include "store-internal.h"

/* Takes the place of OpenSSL's: how often, and with how many bytes, secrets are compared. */
static unsigned compared;

int CRYPTO_memcmp(const void *pa, const void *pb, size_t size)
{
    const volatile unsigned char *a = pa, *b = pb;
    unsigned char difference = 0;

    compared++;
    assert_int_equal(size, SHA256_SIZE);
    for (size_t i = 0; i < size; i++)
        difference |= a[i] ^ b[i];
    return difference;
}

static int set_up(void **state)
{
    *state = fixture_new();
    return 0;
}

static int tear_down(void **state)
{
    fixture_free(*state);
    return 0;
}

static const char *directory(void **state)
{
    const Fixture *f = *state;
    return f->settings.state_directory;
}

static Store *open_store(void **state)
{
    Store *s = NULL;

    assert_int_equal(store_open(directory(state), &s), 0);
    return s;
}

/* alice, bob; ci speaks for alice and has two roles, none is its own and expires in an hour. */
static void fill(Store *s, char *secrets[2])
{
    char *roles[] = {(char *)"operator", (char *)"reader", NULL};

    assert_int_equal(store_add_user(s, "alice", NULL), 0);
    assert_int_equal(store_add_user(s, "bob", &roles[1]), 0);
    assert_int_equal(store_add_token(s, "ci", "user:alice", roles, 0, &secrets[0]), 0);
    assert_int_equal(
        store_add_token(s, "own", "token:own", NULL, UINT64_C(3600000000), &secrets[1]), 0);
    s->generation = 42;
    s->claimed = true;
    assert_int_equal(store_save(s), 0);
}

static void free_secrets(char *secrets[2])
{
    free(secrets[0]);
    free(secrets[1]);
}

static void test_nothing_there_is_an_empty_store(void **state)
{
    _cleanup_(store_freep) Store *s = open_store(state);

    assert_int_equal(s->n_users + s->n_tokens, 0);
    assert_false(s->claimed || s->damaged || s->restored);
    assert_null(store_match(s, ""));
    assert_null(store_match(s, "hyb_"));
}

static void test_everything_comes_back(void **state)
{
    _cleanup_(store_freep) Store *first = open_store(state);
    _cleanup_(store_freep) Store *s = NULL;
    char *secrets[2];
    const Token *t;
    struct stat st;
    char path[256];

    fill(first, secrets);
    s = open_store(state);
    assert_false(s->damaged || s->restored);
    assert_true(s->claimed);
    assert_int_equal(s->generation, 42);
    assert_int_equal(s->n_users, 2);
    assert_non_null(store_user(s, "alice"));
    assert_int_equal(store_user(s, "bob")->created, store_user(first, "bob")->created);
    assert_string_equal(store_user(s, "bob")->roles[0], "reader");
    assert_null(store_user(s, "bob")->roles[1]);
    assert_null(store_user(s, "alice")->roles);
    t = store_match(s, secrets[0]);
    assert_non_null(t);
    assert_string_equal(t->principal, "user:alice");
    assert_string_equal(t->roles[0], "operator");
    assert_string_equal(t->roles[1], "reader");
    assert_null(t->roles[2]);
    assert_int_equal(t->expires, 0);
    t = store_match(s, secrets[1]);
    assert_string_equal(t->principal, "token:own");
    assert_int_equal(t->expires, t->created + UINT64_C(3600000000));
    /* What is on the disk is nobody's business, and holds no secret. */
    snprintf(path, sizeof path, "%s/state.db", directory(state));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    size_t size;
    char *text = fixture_read(directory(state), "state.db", &size);
    assert_non_null(memmem(text, size, "user:alice", 10));
    assert_null(memmem(text, size, secrets[0] + 4, 43));
    assert_null(memmem(text, size, secrets[1] + 4, 43));
    free(text);
    /* Nothing else stays: no journal, no file of its making. */
    assert_false(fixture_has(directory(state), "state.db-journal"));
    assert_false(fixture_has(directory(state), ".state.db.new"));
    free_secrets(secrets);
}

static void test_secrets_are_long_and_never_the_same(void **state)
{
    _cleanup_(store_freep) Store *s = open_store(state);
    char *a, *b;

    assert_int_equal(store_add_token(s, "a", "token:a", NULL, 0, &a), 0);
    assert_int_equal(store_add_token(s, "b", "token:b", NULL, 0, &b), 0);
    assert_true(startswith(a, "hyb_"));
    assert_int_equal(strlen(a), 4 + 43);
    assert_int_equal(strspn(a + 4, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
                     43);
    assert_string_not_equal(a, b);
    free(a);
    free(b);
}

static void test_every_token_is_compared_whole(void **state)
{
    _cleanup_(store_freep) Store *s = open_store(state);
    char *secrets[8], name[8];

    for (unsigned i = 0; i < ELEMENTS(secrets); i++) {
        snprintf(name, sizeof name, "t%u", i);
        assert_int_equal(store_add_token(s, name, "user:x", NULL, 0, &secrets[i]), 0);
    }
    /* As many comparisons for the first as for the last and for none. */
    for (unsigned i = 0; i < ELEMENTS(secrets); i++) {
        compared = 0;
        snprintf(name, sizeof name, "t%u", i);
        assert_string_equal(store_match(s, secrets[i])->name, name);
        assert_int_equal(compared, ELEMENTS(secrets));
    }
    compared = 0;
    assert_null(store_match(s, "hyb_wrong"));
    assert_int_equal(compared, ELEMENTS(secrets));
    for (unsigned i = 0; i < ELEMENTS(secrets); i++)
        free(secrets[i]);
}

static void test_expiry(void **state)
{
    _cleanup_(store_freep) Store *s = open_store(state), *later = NULL;
    char *secrets[2];
    uint64_t expires;

    fill(s, secrets);
    expires = store_token(s, "own")->expires;
    s->floor = expires - 1000000;
    assert_non_null(store_match(s, secrets[1]));
    /* The clock of the machine is an hour behind: the floor counts. */
    s->floor = expires;
    assert_null(store_match(s, secrets[1]));
    assert_non_null(store_match(s, secrets[0]));
    assert_int_equal(store_save(s), 0);
    later = open_store(state);
    assert_true(store_now(later) >= expires);
    assert_null(store_match(later, secrets[1]));
    free_secrets(secrets);
}

static void test_time_never_runs_backwards(void **state)
{
    _cleanup_(store_freep) Store *s = open_store(state);
    uint64_t now = store_now(s);

    assert_true(store_now(s) >= now);
    s->floor = now + UINT64_C(1000000000000);
    assert_int_equal(store_now(s), now + UINT64_C(1000000000000));
}

static void test_names_and_limits(void **state)
{
    _cleanup_(store_freep) Store *s = open_store(state);
    char name[16], *secret;
    int r = 0;

    assert_int_equal(store_add_user(s, "", NULL), -EINVAL);
    assert_int_equal(store_add_user(s, "Alice", NULL), -EINVAL);
    assert_int_equal(store_add_user(s, "a\nb", NULL), -EINVAL);
    assert_int_equal(store_add_user(s, "alice", NULL), 0);
    assert_int_equal(store_add_user(s, "alice", NULL), -EEXIST);
    assert_int_equal(store_remove_user(s, "bob"), -ENOENT);
    assert_int_equal(store_remove_token(s, "x"), -ENOENT);
    assert_int_equal(store_add_token(s, "a/b", "user:alice", NULL, 0, &secret), -EINVAL);
    for (unsigned i = 0; i <= STORE_USERS_MAX && r == 0; i++) {
        snprintf(name, sizeof name, "u%u", i);
        r = store_add_user(s, name, NULL);
    }
    assert_int_equal(r, -ENOBUFS);
    assert_int_equal(s->n_users, STORE_USERS_MAX);
    r = 0;
    for (unsigned i = 0; i <= STORE_TOKENS_MAX && r == 0; i++) {
        snprintf(name, sizeof name, "t%u", i);
        r = store_add_token(s, name, "user:alice", NULL, 0, &secret);
        if (r == 0)
            free(secret);
    }
    assert_int_equal(r, -ENOBUFS);
    assert_int_equal(s->n_tokens, STORE_TOKENS_MAX);
    /* Full as it is, it can be written and read. */
    assert_int_equal(store_save(s), 0);
    _cleanup_(store_freep) Store *again = open_store(state);
    assert_false(again->damaged);
    assert_int_equal(again->n_tokens, STORE_TOKENS_MAX);
    /* Removing one in the middle keeps the others apart. */
    assert_int_equal(store_remove_token(s, "t500"), 0);
    assert_null(store_token(s, "t500"));
    assert_non_null(store_token(s, "t499"));
    assert_non_null(store_token(s, "t501"));
}

static sqlite3 *open_database(void **state)
{
    char path[256];
    sqlite3 *db;

    snprintf(path, sizeof path, "%s/state.db", directory(state));
    assert_int_equal(sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL), SQLITE_OK);
    return db;
}

static void change_database(void **state, const char *sql)
{
    sqlite3 *db = open_database(state);

    assert_int_equal(sqlite3_exec(db, sql, NULL, NULL, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
}

static int query_database(void **state, const char *sql)
{
    sqlite3 *db = open_database(state);
    sqlite3_stmt *s;
    int n;

    assert_int_equal(sqlite3_prepare_v2(db, sql, -1, &s, NULL), SQLITE_OK);
    assert_int_equal(sqlite3_step(s), SQLITE_ROW);
    n = sqlite3_column_int(s, 0);
    sqlite3_finalize(s);
    assert_int_equal(sqlite3_close(db), SQLITE_OK);
    return n;
}

static void expect_claimed_and_empty(void **state)
{
    _cleanup_(store_freep) Store *s = open_store(state);

    assert_true(s->claimed && !s->damaged);
    assert_int_equal(s->n_users + s->n_tokens, 0);
}

/* Nobody is let in, nobody can claim the device anew, and the damaged file is kept to look at. */
static void expect_started_over(void **state)
{
    _cleanup_(store_freep) Store *s = open_store(state);

    assert_true(s->damaged && s->claimed);
    assert_int_equal(s->n_users + s->n_tokens, 0);
    assert_true(fixture_has(directory(state), "state.damaged"));
    fixture_remove(directory(state), "state.damaged");
    /* Also after a start without a single change in between. */
    expect_claimed_and_empty(state);
}

static void write_bytes(void **state, const char *data, size_t size)
{
    char path[256];
    FILE *f;

    snprintf(path, sizeof path, "%s/state.db", directory(state));
    f = fopen(path, "we");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    fclose(f);
    assert_int_equal(chmod(path, 0600), 0);
}

/* Nothing in between: what was written, or a store that knows nobody. Whether it has started over. */
static bool expect_same_or_started_over(void **state, char *secrets[2])
{
    Store *s = open_store(state);
    bool damaged = s->damaged;

    assert_true(s->claimed);
    assert_false(s->restored);
    if (s->foreign) /* the number of its version is what has changed */
        assert_int_equal(s->n_users + s->n_tokens, 0);
    else if (!damaged) {
        assert_int_equal(s->n_users, 2);
        assert_int_equal(s->n_tokens, 2);
        assert_int_equal(s->generation, 42);
        assert_string_equal(store_match(s, secrets[0])->principal, "user:alice");
        assert_string_equal(store_match(s, secrets[0])->roles[1], "reader");
        assert_string_equal(store_match(s, secrets[1])->principal, "token:own");
        assert_string_equal(store_user(s, "bob")->roles[0], "reader");
    }
    store_free(s);
    if (damaged) {
        fixture_remove(directory(state), "state.damaged");
        expect_claimed_and_empty(state);
    }
    return damaged;
}

static void test_truncated_anywhere(void **state)
{
    Store *s = open_store(state);
    char *secrets[2], *data;
    size_t size;

    fill(s, secrets);
    store_free(s);
    data = fixture_read(directory(state), "state.db", &size);
    for (size_t i = 0; i < size; i += i < 512 ? 1 : 509) {
        write_bytes(state, data, i);
        if (i <= size / 2)
            expect_started_over(state);
        else /* the end may be a page without rows */
            expect_same_or_started_over(state, secrets);
    }
    write_bytes(state, data, size);
    s = open_store(state);
    assert_false(s->damaged);
    store_free(s);
    free(data);
    free_secrets(secrets);
}

/* SQLite leaves much of its pages unused: a change there may go unseen, for it changes nothing. */
static void test_any_byte_changed(void **state)
{
    Store *s = open_store(state);
    unsigned damaged = 0, tried = 0;
    char *secrets[2], *data;
    size_t size;

    fill(s, secrets);
    store_free(s);
    data = fixture_read(directory(state), "state.db", &size);
    for (size_t i = 0; i < size; i++) {
        /* The header, and every other byte that is in use. */
        if (i >= 100 && data[i] == 0 && i % 64)
            continue;
        data[i] ^= 1;
        write_bytes(state, data, size);
        data[i] ^= 1;
        damaged += expect_same_or_started_over(state, secrets);
        tried++;
    }
    assert_true(damaged > tried / 2);
    free(data);
    free_secrets(secrets);
}

/* Every name, hash and right is under the seal. */
static void test_a_database_that_says_something_else(void **state)
{
    static const char *const changes[] = {
        "UPDATE users SET name = 'mallory' WHERE name = 'bob'",
        "UPDATE users SET roles = 'operator' WHERE name = 'bob'",
        "UPDATE users SET password = 'x' WHERE name = 'bob'",
        "UPDATE users SET known = 'x' WHERE name = 'bob'",
        "UPDATE tokens SET principal = 'user:alice' WHERE name = 'own'",
        "UPDATE tokens SET roles = 'reader operator' WHERE name = 'own'",
        "UPDATE tokens SET sha256 = zeroblob(32) WHERE name = 'own'",
        "UPDATE tokens SET expires = 0 WHERE name = 'own'",
        "UPDATE state SET value = 0 WHERE key = 'claimed'",
        "UPDATE state SET value = 41 WHERE key = 'generation'",
        "UPDATE state SET value = 1 WHERE key = 'floor'",
        "INSERT INTO users VALUES('mallory', '', '', '', 0)",
        "DELETE FROM users WHERE name = 'bob'",
        "DELETE FROM state WHERE key = 'seal'",
        "DROP TABLE tokens",
        "PRAGMA user_version = 0",
        "DROP TABLE users; CREATE VIEW users AS SELECT 'mallory' name, '' password, '' roles, 0 created",
    };

    for (size_t i = 0; i < ELEMENTS(changes); i++) {
        Store *s = open_store(state);
        char *secrets[2];

        if (s->n_users == 0)
            fill(s, secrets);
        free_secrets(secrets);
        store_free(s);
        change_database(state, changes[i]);
        expect_started_over(state);
        fixture_remove(directory(state), "state.db");
        fixture_remove(directory(state), "state");
    }
}

/* A later version that says this one may go on: what it added stays. */
static void test_a_later_version_beside_which_this_one_may_write(void **state)
{
    Store *s = open_store(state);
    char *secrets[2];

    fill(s, secrets);
    store_free(s);
    change_database(state, "ALTER TABLE users ADD COLUMN later TEXT; CREATE TABLE more(x);"
                           "UPDATE users SET later = 'kept'; INSERT INTO more VALUES(7);"
                           "INSERT INTO state VALUES('compatible', 2);"
                           "PRAGMA user_version = 3");
    s = open_store(state);
    assert_false(s->damaged || s->foreign);
    assert_non_null(store_match(s, secrets[0]));
    assert_int_equal(store_add_user(s, "carol", NULL), 0);
    assert_int_equal(store_save(s), 0);
    store_free(s);
    assert_int_equal(query_database(state, "SELECT count(*) FROM users WHERE later = 'kept'"), 2);
    assert_int_equal(query_database(state, "SELECT x FROM more"), 7);
    assert_int_equal(query_database(state, "PRAGMA user_version"), 3);
    s = open_store(state);
    assert_non_null(store_user(s, "carol"));
    store_free(s);
    free_secrets(secrets);
}

/* One that does not: nobody gets in, nothing is changed, and all is there when it returns. */
static void test_a_later_version_is_left_alone(void **state)
{
    Store *s = open_store(state);
    char *secrets[2], *before, *after;
    size_t size, size_after;

    fill(s, secrets);
    store_free(s);
    change_database(state, "PRAGMA user_version = 3");
    before = fixture_read(directory(state), "state.db", &size);
    s = open_store(state);
    assert_true(s->foreign && s->claimed);
    assert_false(s->damaged);
    assert_int_equal(s->n_users + s->n_tokens, 0);
    assert_null(store_match(s, secrets[0]));
    assert_int_equal(store_add_user(s, "mallory", NULL), 0);
    assert_int_equal(store_save(s), -EROFS);
    store_free(s);
    after = fixture_read(directory(state), "state.db", &size_after);
    assert_int_equal(size, size_after);
    assert_memory_equal(before, after, size);
    change_database(state, "PRAGMA user_version = 2");
    s = open_store(state);
    assert_non_null(store_match(s, secrets[0]));
    store_free(s);
    free(before);
    free(after);
    free_secrets(secrets);
}

/* --- from the file that came before the database --------------------------------------------- */

static void write_old(void **state, const char *text)
{
    assert_int_equal(write_checked_file(directory(state), "state", "state", text, strlen(text)), 0);
}

static char *old_state(void **state)
{
    char anchor[64], *text;

    assert_int_equal(store_anchor(directory(state), anchor), 0);
    assert_true(asprintf(&text,
                         "{\"generation\": 42, \"floor\": 1, \"claimed\": true, \"anchor\": \"%s\","
                         "\"users\": [{\"name\": \"alice\", \"created\": 5}],"
                         "\"tokens\": [{\"name\": \"ci\", \"principal\": \"user:alice\", \"sha256\": "
                         "\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\","
                         "\"roles\": [\"operator\"], \"created\": 6, \"expires\": 0, "
                         "\"last_used\": 7}]}",
                         anchor) > 0);
    return text;
}

static void expect_migrated(void **state, bool first)
{
    _cleanup_(store_freep) Store *s = open_store(state);

    assert_string_equal(s->backup, first ? "state.backup-0" : "");
    assert_false(s->damaged || s->restored);
    assert_true(s->claimed);
    assert_int_equal(s->generation, 42);
    assert_int_equal(store_user(s, "alice")->created, 5);
    assert_string_equal(store_match(s, "")->roles[0], "operator"); /* SHA-256 of nothing */
    assert_int_equal(store_token(s, "ci")->last_used, 7);
}

static void test_migration(void **state)
{
    _cleanup_(freep) char *text = old_state(state), *backup = NULL, *note = NULL, *before = NULL;
    size_t size;

    write_old(state, text);
    before = fixture_read(directory(state), "state", NULL);
    expect_migrated(state, true);
    backup = fixture_read(directory(state), "state.backup-0", NULL);
    assert_string_equal(backup, before);
    expect_migrated(state, false);
    /* What an older version finds is a file that it takes for damaged, so the device stays claimed. */
    note = fixture_read(directory(state), "state", NULL);
    assert_non_null(strstr(note, "state.db"));
    free(TAKE_PTR(note));
    assert_int_equal(read_checked_file(directory(state), "state", "state", 4096, &note, &size),
                     -EBADMSG);
}

/* A database that the first version with one has written, under an anchor of its own. */
static void test_migration_of_a_database(void **state)
{
    _cleanup_(freep) char *old = NULL;
    const char *seeds = getenv("HYBRIDOS_STATES");
    Store *s;
    size_t size;

    if (!seeds)
        skip();
    old = fixture_read(seeds, "database-1", &size);
    write_bytes(state, old, size);
    for (unsigned round = 0; round < 2; round++) {
        s = open_store(state);
        assert_string_equal(s->backup, round == 0 ? "state.backup-1" : "");
        assert_true(s->claimed && s->restored);
        assert_false(s->damaged || s->foreign);
        assert_int_equal(s->generation, 42);
        assert_int_equal(s->n_users, 2);
        assert_string_equal(store_user(s, "bob")->roles[0], "reader");
        assert_null(store_user(s, "bob")->known);
        store_free(s);
    }
    /* The backup is what the older version would take. */
    free(TAKE_PTR(old));
    old = fixture_read(directory(state), "state.backup-1", &size);
    write_bytes(state, old, size);
    assert_int_equal(query_database(state, "PRAGMA user_version"), 1);
    s = open_store(state);
    assert_non_null(store_user(s, "alice"));
    store_free(s);
    /* One letter of another name in it, and it is not taken over. */
    write_bytes(state, old, size);
    change_database(state, "UPDATE users SET name = 'mallory' WHERE name = 'bob'");
    expect_started_over(state);
}

/* The power failed after the database was written, before the old file was retired. */
static void test_a_migration_that_was_cut_short(void **state)
{
    _cleanup_(freep) char *text = old_state(state), *backup = NULL;

    write_old(state, text);
    expect_migrated(state, true);
    fixture_remove(directory(state), "state.backup-0");
    write_old(state, text);
    expect_migrated(state, false);
    backup = fixture_read(directory(state), "state.backup-0", NULL);
    assert_non_null(strstr(backup, "alice"));
}

static void test_a_database_that_has_gone(void **state)
{
    Store *s = open_store(state);
    char *secrets[2];

    fill(s, secrets);
    store_free(s);
    fixture_remove(directory(state), "state.db");
    s = open_store(state);
    assert_true(s->damaged && s->claimed);
    assert_int_equal(s->n_users + s->n_tokens, 0);
    store_free(s);
    expect_claimed_and_empty(state);
    free_secrets(secrets);
}

/* Right as a file, wrong in what it says. */
static void test_nonsense_in_an_old_file(void **state)
{
    static const char *const texts[] = {
        "",
        "null",
        "[]",
        "{}",
        "{\"users\": {}, \"tokens\": []}",
        "{\"users\": [{\"name\": \"A b\"}], \"tokens\": []}",
        "{\"users\": [{\"name\": \"a\"}, {\"name\": \"a\"}], \"tokens\": []}",
        "{\"users\": [1, null], \"tokens\": []}",
        "{\"users\": [], \"users\": [], \"tokens\": []}",
    };

    for (size_t i = 0; i < ELEMENTS(texts); i++) {
        write_old(state, texts[i]);
        expect_started_over(state);
        fixture_remove(directory(state), "state.db");
    }
    /* Another kind of file in its place. */
    assert_int_equal(write_checked_file(directory(state), "state", "policy", "{}", 2), 0);
    expect_started_over(state);
}

static void test_files_of_others(void **state)
{
    char path[256], elsewhere[256];
    Store *s = open_store(state);
    char *secrets[2];

    fill(s, secrets);
    snprintf(path, sizeof path, "%s/state.db", directory(state));
    snprintf(elsewhere, sizeof elsewhere, "%s/elsewhere", directory(state));
    assert_int_equal(chmod(path, 0620), 0);
    expect_started_over(state);
    assert_int_equal(store_save(s), 0);
    assert_int_equal(chmod(path, 0602), 0);
    expect_started_over(state);
    if (geteuid() == 0) {
        assert_int_equal(store_save(s), 0);
        assert_int_equal(chown(path, 1, 1), 0);
        expect_started_over(state);
    }
    assert_int_equal(store_save(s), 0);
    assert_int_equal(rename(path, elsewhere), 0);
    assert_int_equal(symlink(elsewhere, path), 0);
    expect_started_over(state);
    store_free(s);
    free_secrets(secrets);
}

/* A copy of the state beside another anchor: elsewhere, or put back later. */
static void test_a_copy_voids_the_tokens(void **state)
{
    _cleanup_(store_freep) Store *first = open_store(state);
    Store *s;
    char *secrets[2];

    fill(first, secrets);
    fixture_remove(directory(state), "anchor");
    usleep(50000); /* birth times are as coarse as the kernel's tick */
    s = open_store(state);
    if (!s->restored) {
        /* A file system without birth times cannot tell. */
        store_free(s);
        store_free(TAKE_PTR(first)); /* skip() does not return */
        free_secrets(secrets);
        skip();
    }
    assert_null(store_match(s, secrets[0]));
    assert_int_equal(s->n_tokens, 0);
    assert_int_equal(s->n_users, 2);
    assert_true(s->claimed);
    /* What is made from here on belongs here. */
    assert_int_equal(store_save(s), 0);
    store_free(s);
    s = open_store(state);
    assert_false(s->restored);
    store_free(s);
    free_secrets(secrets);
}

/* A disk that is full keeps the old content, and no half file. */
static void test_a_write_that_fails(void **state)
{
    const struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY}, little = {200, RLIM_INFINITY};
    _cleanup_(store_freep) Store *s = open_store(state), *again = NULL;
    char *secrets[2];

    fill(s, secrets);
    assert_int_equal(store_add_user(s, "carol", NULL), 0);
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &little), 0);
    assert_true(store_save(s) < 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    again = open_store(state);
    assert_false(again->damaged);
    assert_non_null(store_match(again, secrets[0]));
    assert_null(store_user(again, "carol"));
    free_secrets(secrets);
}

/* Killed at any moment of a write, the old or the new content is there, never something else. */
static void test_killed_while_writing(void **state)
{
    char *secrets[2], byte;
    Store *s = open_store(state);

    fill(s, secrets);
    store_free(s);
    for (unsigned round = 0; round < 50; round++) {
        int ready[2];
        pid_t pid;

        assert_int_equal(pipe(ready), 0);
        pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            if (store_open(directory(state), &s) < 0)
                _exit(1);
            for (;;) {
                s->generation++;
                if (store_save(s) < 0 || write(ready[1], "x", 1) != 1)
                    _exit(1);
            }
        }
        close(ready[1]);
        for (unsigned i = 0; i <= round % 7; i++)
            assert_int_equal(read(ready[0], &byte, 1), 1);
        for (volatile unsigned i = 0; i < round * 997; i++)
            ;
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, NULL, 0), pid);
        close(ready[0]);
        s = open_store(state);
        assert_false(s->damaged);
        assert_non_null(store_match(s, secrets[0]));
        assert_true(s->generation >= 42);
        /* What a killed writer left is in nobody's way. */
        assert_int_equal(store_save(s), 0);
        store_free(s);
    }
    free_secrets(secrets);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_nothing_there_is_an_empty_store),
        T(test_everything_comes_back),
        T(test_secrets_are_long_and_never_the_same),
        T(test_every_token_is_compared_whole),
        T(test_expiry),
        T(test_time_never_runs_backwards),
        T(test_names_and_limits),
        T(test_truncated_anywhere),
        T(test_any_byte_changed),
        T(test_a_database_that_says_something_else),
        T(test_a_later_version_beside_which_this_one_may_write),
        T(test_a_later_version_is_left_alone),
        T(test_migration),
        T(test_migration_of_a_database),
        T(test_a_migration_that_was_cut_short),
        T(test_a_database_that_has_gone),
        T(test_nonsense_in_an_old_file),
        T(test_files_of_others),
        T(test_a_copy_voids_the_tokens),
        T(test_a_write_that_fails),
        T(test_killed_while_writing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
