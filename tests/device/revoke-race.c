/* SPDX-License-Identifier: Apache-2.0 */
/* Looks for a late allow: a call that was sent after Revoke had returned, and was let through.
 *
 * One administrator grants and revokes one rule, round after round; callers of another uid call the
 * guarded method all the time. The stage is shared memory:
 *
 *     odd    the rule is revoked: Revoke has returned, Grant has not begun
 *     even   anything may be
 *
 * A call is judged only if the stage was the same odd number before it was sent and after it was
 * answered. Prints rounds, judged refusals, allowed calls (there must be some, or the test has shown
 * nothing) and late allows; fails on a late allow. */
#include <errno.h>
#include <grp.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <systemd/sd-bus.h>
#include <unistd.h>

#define SECURITY "org.hybridos.Security1", "/org/hybridos/Security1", "org.hybridos.Security1"
#define RULE "test-revoke-race"
#define WINDOW_CALLS 100

typedef struct Stage {
    _Atomic uint64_t stage;
    _Atomic bool over;
    _Atomic uint64_t refused, allowed, late, broken;
} Stage;

static const char *service, *path, *interface, *method;

static int call(sd_bus *bus, sd_bus_error *error)
{
    return sd_bus_call_method(bus, service, path, interface, method, error, NULL, "");
}

static int caller(Stage *s, uid_t uid)
{
    sd_bus *bus = NULL;

    if (setgroups(0, NULL) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid) ||
        sd_bus_open_system(&bus) < 0)
        return 1;
    while (!atomic_load(&s->over)) {
        sd_bus_error error = SD_BUS_ERROR_NULL;
        uint64_t before = atomic_load(&s->stage);
        int r = call(bus, &error);
        bool judged = before % 2 == 1 && atomic_load(&s->stage) == before;

        if (r >= 0)
            atomic_fetch_add(judged ? &s->late : &s->allowed, 1);
        else if (sd_bus_error_has_name(&error, "org.hybridos.Error.AccessDenied"))
            atomic_fetch_add(&s->refused, judged);
        else if (atomic_fetch_add(&s->broken, 1) == 0)
            fprintf(stderr, "a call failed otherwise: %s: %s\n", error.name, error.message);
        sd_bus_error_free(&error);
    }
    sd_bus_flush_close_unref(bus);
    return 0;
}

static int administer(Stage *s, sd_bus *bus, const char *permission, uid_t uid)
{
    sd_bus_error error = SD_BUS_ERROR_NULL;
    char to[32];
    int r;

    snprintf(to, sizeof(to), "uid:%u", uid);
    atomic_fetch_add(&s->stage, 1); /* even: from here on it may be allowed */
    r = sd_bus_call_method(bus, SECURITY, "Grant", &error, NULL, "ssss", RULE, to, permission, "");
    if (r >= 0)
        r = sd_bus_call_method(bus, SECURITY, "Revoke", &error, NULL, "s", RULE);
    if (r < 0)
        fprintf(stderr, "the administrator failed: %s\n", error.message ? error.message : strerror(-r));
    else {
        /* odd: revoked. Stays so until a call fell into this window, so that each round tests it. */
        uint64_t refused = atomic_load(&s->refused);

        atomic_fetch_add(&s->stage, 1);
        for (int i = 0; i < WINDOW_CALLS && r >= 0 && atomic_load(&s->refused) == refused; i++)
            r = call(bus, &error);
    }
    sd_bus_error_free(&error);
    return r;
}

int main(int argc, char *argv[])
{
    if (argc != 9) {
        fprintf(stderr, "usage: %s SERVICE PATH INTERFACE METHOD PERMISSION UID CALLERS ROUNDS\n", argv[0]);
        return 2;
    }
    service = argv[1], path = argv[2], interface = argv[3], method = argv[4];
    uid_t uid = (uid_t)atoi(argv[6]);
    unsigned callers = (unsigned)atoi(argv[7]), rounds = (unsigned)atoi(argv[8]), failed = 0, done = 0;
    Stage *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    sd_bus *bus = NULL;

    if (s == MAP_FAILED)
        return 1;
    atomic_store(&s->stage, 1);
    for (unsigned i = 0; i < callers; i++)
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            _exit(caller(s, uid));
        }
    if (sd_bus_open_system(&bus) < 0)
        return 1;
    while (done < rounds && administer(s, bus, argv[5], uid) >= 0)
        done++;
    atomic_store(&s->over, true);
    for (int status; wait(&status) > 0;)
        failed += status != 0;
    printf("{\"rounds\": %u, \"refused\": %" PRIu64 ", \"allowed\": %" PRIu64 ", \"late\": %" PRIu64
           ", \"broken\": %" PRIu64 ", \"failed\": %u}\n",
           done, atomic_load(&s->refused), atomic_load(&s->allowed), atomic_load(&s->late),
           atomic_load(&s->broken), failed);
    sd_bus_flush_close_unref(bus);
    return done == rounds && !failed && !atomic_load(&s->late) && !atomic_load(&s->broken) &&
                   atomic_load(&s->refused) && atomic_load(&s->allowed)
               ? 0
               : 1;
}
