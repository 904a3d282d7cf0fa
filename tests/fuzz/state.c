/* SPDX-License-Identifier: Apache-2.0 */

/* The files that h-securityd keeps, with a checksum that is right: the input is a state as it was
 * kept before there was a database, and then a last accepted policy; or a database. Whatever is
 * taken must be the same after it was written and read again. */

#include <assert.h>
#include <ftw.h>
#include <sys/stat.h>

#include "accepted.h"
#include "store-internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In memory where possible: everything here is synchronised to the disk again and again. */
static char directory[] = "/dev/shm/fuzz-state-XXXXXX";

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static void remove_all(void)
{
    (void)nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

/* Tokens are void beside another anchor than theirs, which no input can know. */
static char anchor[128];

static void learn_anchor(void)
{
    char time[64];

    assert(store_anchor(directory, time) == 0);
    snprintf(anchor, sizeof anchor, "{\"anchor\": \"%s\",", time);
}

static void remove_file(const char *name)
{
    char path[128];

    snprintf(path, sizeof path, "%s/%s", directory, name);
    (void)unlink(path);
}

static void write_old(const char *data, size_t size)
{
    bool object = size > 0 && *data == '{';
    size_t n = object ? strlen(anchor) : 0;
    char *text = malloc(n + size + 1);

    assert(text);
    memcpy(text, anchor, n);
    memcpy(text + n, data + object, size - object);
    remove_file("state.db");
    assert(write_checked_file(directory, "state", "state", text, n + size - object) == 0);
    free(text);
}

static void write_database(const char *data, size_t size)
{
    assert(write_file_atomically(directory, "state.db", data, size, 0600) == 0);
}

static void fuzz_store(void)
{
    Store *s, *again;

    assert(store_open(directory, &s) == 0);
    assert(s->n_users <= STORE_USERS_MAX && s->n_tokens <= STORE_TOKENS_MAX);
    assert(!s->damaged || (s->claimed && s->n_users + s->n_tokens == 0));
    for (size_t i = 0; i < s->n_tokens; i++)
        assert(store_token(s, s->tokens[i].name) == &s->tokens[i]);
    assert(!store_match(s, ""));
    if (s->foreign) {
        assert(s->claimed && s->n_users + s->n_tokens == 0 && store_save(s) == -EROFS);
        store_free(s);
        return;
    }
    assert(store_save(s) == 0);
    assert(store_open(directory, &again) == 0);
    assert(!again->damaged && !again->restored);
    assert(again->n_users == s->n_users && again->n_tokens == s->n_tokens &&
           again->claimed == s->claimed);
    store_free(s);
    store_free(again);
}

static void fuzz_accepted(const char *data, size_t size)
{
    Policy *policy = NULL, *same = NULL;
    Catalogue *catalogue = NULL, *also = NULL;
    AcceptedMark mark, same_mark;

    assert(write_checked_file(directory, "accepted", "policy", data, size) == 0);
    if (accepted_load(directory, &policy, &catalogue, &mark) < 0) {
        assert(!policy && !catalogue);
        return;
    }
    assert(accepted_save(directory, policy, catalogue, &mark) == 0);
    assert(accepted_load(directory, &same, &also, &same_mark) == 0);
    assert(mark.generation == same_mark.generation && mark.time_usec == same_mark.time_usec);
    assert(policy_equal(policy, same) && catalogue_equal(catalogue, also));
    policy_unref(policy);
    policy_unref(same);
    catalogue_free(catalogue);
    catalogue_free(also);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char magic[16] = "SQLite format 3";
    static bool ready;

    if (!ready) {
        if (access("/dev/shm", W_OK) < 0)
            strcpy(directory, "/tmp/fuzz-state-XXXXXX");
        assert(mkdtemp(directory));
        learn_anchor();
        atexit(remove_all);
        ready = true;
    }
    if (size >= sizeof magic && memcmp(data, magic, sizeof magic) == 0) {
        write_database((const char *)data, size);
        fuzz_store();
        return 0;
    }
    write_old((const char *)data, size);
    fuzz_store();
    fuzz_accepted((const char *)data, size);
    return 0;
}
