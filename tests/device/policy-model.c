/* SPDX-License-Identifier: Apache-2.0 */
/* Holds every outcome against a model of the policy while several administrators change it at random.
 *
 * Three administrators toggle rules of their own kind for three permissions of three daemons: grants
 * for a user and grants for a group by Grant and Revoke, denials for the user by a file and Reload.
 * Callers with the user, the group or both call what the permissions guard. Each rule has a counter in
 * shared memory:
 *
 *     even   acknowledged: the rule is in force when counter / 2 is odd
 *     odd    a change is on its way: it may be in force or not
 *
 * A call looks at the counters before it is sent and after it was answered. What did not move is known,
 * what did may have been either. An outcome that no such state of the policy gives is wrong: a call was
 * judged by what an acknowledged change had replaced. The agent may be killed meanwhile: then a change
 * stays on its way until it has been made again, and calls without a verdict do not count.
 *
 * usage: policy-model UID GID OTHER-UID SEED CHANGES, as root; prints one JSON object. */
#include <grp.h>
#include <inttypes.h>
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
#define DENY_FILE "/etc/hybridos/policy.d/test-model.policy"
#define CALLERS_EACH 2
#define ATTEMPTS 600 /* with a pause of 100 ms: as long as an agent that is killed may be away */

enum { FOR_USER, FOR_GROUP, DENIED, N_KINDS };

static const struct {
    const char *service, *path, *method, *permission;
} guarded[] = {
    {"org.hybridos.Endpoints1", "/org/hybridos/Endpoints1", "List", "endpoint.list"},
    {"org.hybridos.Log1", "/org/hybridos/Log1", "GetStatistics", "log.statistics"},
    {"org.hybridos.Security1", "/org/hybridos/Security1", "ListRules", "security.read"},
};
#define N_GUARDED (sizeof guarded / sizeof *guarded)

typedef struct Model {
    _Atomic uint64_t rules[N_KINDS][N_GUARDED];
    _Atomic bool over;
    _Atomic uint64_t changes, allowed, refused, wrong, undecided;
} Model;

static uid_t user, other;
static gid_t group;

/* --- callers --------------------------------------------------------------------------------- */

typedef struct Known {
    bool least, most;
} Known;

static Known known(uint64_t before, uint64_t after)
{
    bool in_force = before / 2 % 2;

    return before == after && before % 2 == 0 ? (Known){in_force, in_force} : (Known){false, true};
}

static void judge(Model *m, size_t i, bool is_user, bool in_group, const uint64_t *before, bool allowed)
{
    Known k[N_KINDS], may;

    for (int kind = 0; kind < N_KINDS; kind++)
        k[kind] = known(before[kind], atomic_load(&m->rules[kind][i]));
    if (!is_user)
        k[FOR_USER] = k[DENIED] = (Known){false, false};
    if (!in_group)
        k[FOR_GROUP] = (Known){false, false};
    may.least = (k[FOR_USER].least || k[FOR_GROUP].least) && !k[DENIED].most;
    may.most = (k[FOR_USER].most || k[FOR_GROUP].most) && !k[DENIED].least;
    if (allowed ? may.most : !may.least) {
        atomic_fetch_add(allowed ? &m->allowed : &m->refused, 1);
        return;
    }
    if (atomic_fetch_add(&m->wrong, 1) == 0)
        fprintf(stderr, "%s was %s for %s%s, rules %" PRIu64 " %" PRIu64 " %" PRIu64 "\n",
                guarded[i].permission, allowed ? "allowed" : "refused", is_user ? "user" : "other",
                in_group ? " in the group" : "", before[0], before[1], before[2]);
}

static int caller(Model *m, uid_t uid, bool in_group, unsigned seed)
{
    sd_bus *bus = NULL;

    if (setgroups(in_group, &group) || setresgid(uid, uid, uid) || setresuid(uid, uid, uid) ||
        sd_bus_open_system(&bus) < 0)
        return 1;
    while (!atomic_load(&m->over)) {
        sd_bus_error error = SD_BUS_ERROR_NULL;
        size_t i = (size_t)rand_r(&seed) % N_GUARDED;
        uint64_t before[N_KINDS];
        int r;

        for (int kind = 0; kind < N_KINDS; kind++)
            before[kind] = atomic_load(&m->rules[kind][i]);
        r = sd_bus_call_method(bus, guarded[i].service, guarded[i].path, guarded[i].service,
                               guarded[i].method, &error, NULL, "");
        if (r >= 0 || sd_bus_error_has_name(&error, "org.hybridos.Error.AccessDenied"))
            judge(m, i, uid == user, in_group, before, r >= 0);
        else
            atomic_fetch_add(&m->undecided, 1);
        sd_bus_error_free(&error);
    }
    sd_bus_flush_close_unref(bus);
    return 0;
}

/* --- administrators -------------------------------------------------------------------------- */

static int write_denials(const bool *denied)
{
    FILE *f = fopen(DENY_FILE ".new", "we");

    if (!f)
        return -1;
    fputs("# made by a test\n", f);
    for (size_t i = 0; i < N_GUARDED; i++)
        if (denied[i])
            fprintf(f, "[deny test-model-deny-%zu]\nTo = uid:%u\nPermission = %s\n", i, user,
                    guarded[i].permission);
    return fclose(f) || rename(DENY_FILE ".new", DENY_FILE) ? -1 : 0;
}

static int change(sd_bus *bus, int kind, size_t i, bool on, sd_bus_error *error)
{
    char id[64], to[32];

    if (kind == DENIED)
        return sd_bus_call_method(bus, SECURITY, "Reload", error, NULL, "");
    snprintf(id, sizeof id, "test-model-%d-%zu", kind, i);
    if (!on)
        return sd_bus_call_method(bus, SECURITY, "Revoke", error, NULL, "s", id);
    snprintf(to, sizeof to, kind == FOR_USER ? "uid:%u" : "gid:%u", kind == FOR_USER ? user : group);
    return sd_bus_call_method(bus, SECURITY, "Grant", error, NULL, "ssss", id, to,
                              guarded[i].permission, "");
}

/* Until it is in force: an agent that died in the middle may have done it or not. */
static int make_sure(sd_bus *bus, int kind, size_t i, bool on)
{
    for (int n = 0; n < ATTEMPTS; n++) {
        sd_bus_error error = SD_BUS_ERROR_NULL;
        int r = change(bus, kind, i, on, &error);
        bool done = r >= 0 ||
                    (n > 0 && sd_bus_error_has_name(&error, on ? "org.hybridos.Error.Exists"
                                                               : "org.hybridos.Error.NotFound"));

        if (!done && n == ATTEMPTS - 1)
            fprintf(stderr, "a change failed for good: %s: %s\n", error.name, error.message);
        sd_bus_error_free(&error);
        if (done)
            return 0;
        usleep(100000);
    }
    return -1;
}

static int administrator(Model *m, int kind, uint64_t changes, unsigned seed)
{
    bool on[N_GUARDED] = {false};
    sd_bus *bus = NULL;

    if (sd_bus_open_system(&bus) < 0)
        return 1;
    for (uint64_t n = 0; n < changes + N_GUARDED; n++) {
        /* In the end all goes again. */
        size_t i = n < changes ? (size_t)rand_r(&seed) % N_GUARDED : (size_t)(n - changes);
        bool new = n < changes && !on[i];

        if (new == on[i])
            continue;
        on[i] = new;
        atomic_fetch_add(&m->rules[kind][i], 1);
        if ((kind == DENIED && write_denials(on) < 0) || make_sure(bus, kind, i, new) < 0)
            return 1;
        atomic_fetch_add(&m->rules[kind][i], 1);
        atomic_fetch_add(&m->changes, 1);
        usleep((useconds_t)rand_r(&seed) % 4000);
    }
    sd_bus_flush_close_unref(bus);
    return 0;
}

/* --- all of it ------------------------------------------------------------------------------- */

static pid_t start(void)
{
    pid_t pid = fork();

    if (pid == 0)
        prctl(PR_SET_PDEATHSIG, SIGKILL);
    return pid;
}

int main(int argc, char *argv[])
{
    Model *m = mmap(NULL, sizeof *m, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    unsigned seed, failed = 0;
    pid_t administrators[N_KINDS];

    if (argc != 6 || m == MAP_FAILED) {
        fprintf(stderr, "usage: %s UID GID OTHER-UID SEED CHANGES\n", argv[0]);
        return 2;
    }
    user = (uid_t)atoi(argv[1]), group = (gid_t)atoi(argv[2]), other = (uid_t)atoi(argv[3]);
    seed = (unsigned)atoi(argv[4]);
    for (unsigned i = 0; i < 3 * CALLERS_EACH; i++)
        if (start() == 0)
            _exit(caller(m, i % 3 == 1 ? other : user, i % 3 > 0, seed + 100 + i));
    for (int kind = 0; kind < N_KINDS; kind++)
        if ((administrators[kind] = start()) == 0)
            _exit(administrator(m, kind, (uint64_t)atoi(argv[5]), seed + (unsigned)kind));
    for (int kind = 0, status; kind < N_KINDS; kind++)
        failed += waitpid(administrators[kind], &status, 0) < 0 || status != 0;
    atomic_store(&m->over, true);
    for (int status; wait(&status) > 0;)
        failed += status != 0;
    (void)unlink(DENY_FILE);
    printf("{\"changes\": %" PRIu64 ", \"allowed\": %" PRIu64 ", \"refused\": %" PRIu64
           ", \"wrong\": %" PRIu64 ", \"undecided\": %" PRIu64 ", \"failed\": %u}\n",
           atomic_load(&m->changes), atomic_load(&m->allowed), atomic_load(&m->refused),
           atomic_load(&m->wrong), atomic_load(&m->undecided), failed);
    return failed || atomic_load(&m->wrong) || !atomic_load(&m->allowed) || !atomic_load(&m->refused);
}
