/* SPDX-License-Identifier: Apache-2.0 */

/* What h-securityd keeps beside its state, with a checksum that is right: answers of people,
 * sessions, and who is bound on the bus. Whatever is taken stays within its bounds and can be
 * written and read again. */

#include <assert.h>
#include <ftw.h>
#include <sys/stat.h>

#include "binding.h"
#include "security-internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* In memory where possible: everything here is synchronised to the disk again and again. */
static char directory[] = "/dev/shm/fuzz-kept-XXXXXX";
static SecuritySettings settings;
static Store *store;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static void remove_all(void)
{
    store_free(store);
    (void)nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static void fuzz_consents(const char *data, size_t size)
{
    const ConsentRemembered *list;
    Consent *c, *again;
    size_t n;

    assert(write_checked_file(directory, "consents", "consents 1", data, size) == 0);
    assert(consent_new(directory, &c) == 0);
    n = consent_list(c, 1, &list);
    assert(n <= CONSENT_REMEMBERED_MAX);
    for (size_t i = 0; i < n; i++)
        assert(list[i].subject && list[i].call && list[i].rule && list[i].why && *list[i].id);
    if (n > 0) {
        assert(consent_forget(c, list[0].id) >= 0); /* which writes the others */
        n = consent_list(c, 1, &list);
        assert(consent_new(directory, &again) == 0);
        assert(consent_list(again, 1, &list) == n);
        consent_free(again);
    }
    consent_free(c);
}

static void fuzz_sessions(const char *data, size_t size)
{
    Security s = {.settings = &settings, .store = store};
    uint64_t now = security_boottime();
    size_t n;

    assert(write_checked_file(directory, "sessions", "sessions", data, size) == 0);
    assert(security_load_sessions(&s) == 0);
    n = s.sessions.n;
    assert(n <= SESSIONS_OF_USER_MAX); /* there is one user */
    for (size_t i = 0; i < n; i++) {
        const Session *one = &s.sessions.list[i];

        assert(streq(one->user, "alice") && one->begun <= one->used && one->used <= now);
        assert(one->id <= s.sessions.last_id && sessions_find(&s.sessions, one->id) == one);
    }
    assert(security_save_sessions(&s) == 0);
    sessions_done(&s.sessions);
    assert(security_load_sessions(&s) == 0 && s.sessions.n == n);
    sessions_done(&s.sessions);
}

static void fuzz_bindings(const char *data, size_t size)
{
    Security s = {.settings = &settings, .store = store, .bindings_fd = -1};
    char id[64];
    size_t n;

    assert(write_file_atomically(directory, "bindings", data, size, 0600) == 0);
    assert(security_bindings_load(&s) == 0);
    n = s.n_bindings;
    if (!s.bindings_lost && s.bus_id) {
        snprintf(id, sizeof id, "%.60s", s.bus_id);
        if (streq(id, s.bus_id)) {
            assert(security_bindings_adopt(&s, id) == 0);
            security_bindings_done(&s);
            assert(security_bindings_load(&s) == 0 && !s.bindings_lost && s.n_bindings == n);
        }
    }
    security_bindings_done(&s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    User *u;

    if (!store) {
        if (access("/dev/shm", W_OK) < 0)
            strcpy(directory, "/tmp/fuzz-kept-XXXXXX");
        assert(mkdtemp(directory));
        settings = (SecuritySettings){.state_directory = directory, .runtime_directory = directory};
        assert(store_open(directory, &store) == 0 && store_add_user(store, "alice", NULL) == 0);
        u = store_user(store, "alice");
        assert(u && (u->password = strdup("$y$j75$alice")));
        atexit(remove_all);
    }
    fuzz_consents((const char *)data, size);
    fuzz_sessions((const char *)data, size);
    fuzz_bindings((const char *)data, size);
    return 0;
}
