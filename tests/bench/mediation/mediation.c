/* SPDX-License-Identifier: Apache-2.0 */

/* What mediation costs, all in one run: the time of the filter itself per decision on a hit, looped in
 * process; and the median round trip of a plain call (a) without a filter, (b) with it, (c) with a
 * question to another service on the bus for every call, which is what mediation without cached rows
 * would be, (d) with a question to polkit for every call. Calls of all kinds are interleaved, so that
 * a slow moment of the machine hits them alike. A miss is the first call of a connection, beside the
 * first call of a connection to the service without a filter. Prints one JSON object.
 *
 *     bench-mediation          on a private dbus-daemon, with a stand-in for h-securityd; no polkit
 *     bench-mediation UID      as root in a device: the system bus, h-securityd, polkit; UID calls */

#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include <hybus/error.h>
#include <hybus/mediate-internal.h>

#include "fake-agent.h"
#include "private-bus.h"

#define INTERFACE "com.example.Bench1"
#define PATH "/com/example/Bench1"
#define ACTION "com.example.bench.call"
#define DECISIONS 2000000u
#define WARM_UP 100u
#define CALLS 6000u /* of each kind */
#define FIRST_CALLS 500u
#define POLKIT_EACH 10u /* it takes so long that one of so many calls has to do */

enum { PLAIN, FILTERED, ASKING, POLKIT, JUDGE, N_SERVERS };

static const char *const names[] = {"com.example.BenchPlain1", "com.example.BenchFiltered1",
                                    "com.example.BenchAsking1", "com.example.BenchPolkit1",
                                    "com.example.BenchJudge1"};
static const char *const permissions[] = {"bench.call", NULL};
static const hybus_member surface[] = {{INTERFACE, "Call", HYBUS_MEMBER_METHOD, 0}, {NULL}};

#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        int _r = (x);                                                                              \
        if (_r < 0) {                                                                              \
            fprintf(stderr, "bench-mediation: %s: %s\n", #x, strerror(-_r));                       \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

/* Where all this happens. */
typedef struct World {
    private_bus *bus; /* NULL: the system's, with h-securityd */
    fake_agent *fake;
    int n_kinds; /* those that are called */
} World;

typedef struct Server {
    int kind;
    sd_bus *bus;
    sd_event *event;
    hybus_agent *agent;
    hybus_mediator *mediator;
    uint32_t calls;
} Server;

static sd_bus *connect_to(const World *w, sd_event *event)
{
    sd_bus *bus = NULL;

    if (w->bus)
        return private_bus_connect(w->bus, event);
    REQUIRE(sd_bus_open_system(&bus));
    if (event)
        REQUIRE(sd_bus_attach_event(bus, event, 0));
    return bus;
}

static double now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static double decision_ns(const Server *s, sd_bus_message *m)
{
    double start = now_ns();

    for (unsigned i = 0; i < DECISIONS; i++)
        if (hybus_mediator_filter(m, s->mediator, NULL) != 0)
            return -1;
    return (now_ns() - start) / DECISIONS;
}

static int on_asked(sd_bus_message *answer, void *userdata, sd_bus_error *error)
{
    sd_bus_message *m = userdata;
    int r = sd_bus_reply_method_return(m, "d", 0.0);

    sd_bus_message_unref(m);
    return r;
}

static int on_polkit(sd_bus_message *answer, void *userdata, sd_bus_error *error)
{
    sd_bus_message *m = userdata;
    int allowed = 0, challenge, r;

    if (!sd_bus_message_is_method_error(answer, NULL) &&
        sd_bus_message_enter_container(answer, 'r', "bba{ss}") > 0)
        (void)sd_bus_message_read(answer, "bb", &allowed, &challenge);
    r = allowed ? sd_bus_reply_method_return(m, "d", 0.0)
                : sd_bus_reply_method_errorf(m, SD_BUS_ERROR_ACCESS_DENIED, "polkit refuses");
    sd_bus_message_unref(m);
    return r;
}

static int ask_polkit(Server *s, sd_bus_message *m)
{
    return sd_bus_call_method_async(
        s->bus, NULL, "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority",
        "org.freedesktop.PolicyKit1.Authority", "CheckAuthorization", on_polkit,
        sd_bus_message_ref(m), "(sa{sv})sa{ss}us", "system-bus-name", 1, "name", "s",
        sd_bus_message_get_sender(m), ACTION, 0, 0u, "");
}

/* The last call of a warm server measures the decisions in process. */
static int method_call(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    Server *s = userdata;
    int measure = 0;

    REQUIRE(sd_bus_message_read(m, "b", &measure));
    if (s->kind == ASKING)
        return sd_bus_call_method_async(s->bus, NULL, names[JUDGE], PATH, INTERFACE, "Call",
                                        on_asked, sd_bus_message_ref(m), "b", 0);
    if (s->kind == POLKIT)
        return ask_polkit(s, m);
    return sd_bus_reply_method_return(m, "d", measure ? decision_ns(s, m) : 0.0);
}

static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Call", "b", "d", method_call, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

static pid_t serve(int kind, const World *w)
{
    static const char *const interfaces[] = {INTERFACE, NULL};
    Server s = {.kind = kind};
    pid_t pid;

    fflush(NULL);
    pid = fork();
    if (pid != 0)
        return pid;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    REQUIRE(sd_event_new(&s.event));
    s.bus = connect_to(w, s.event);
    REQUIRE(sd_bus_add_object_vtable(s.bus, NULL, PATH, INTERFACE, vtable, &s));
    if (kind == FILTERED) {
        REQUIRE(hybus_agent_new(s.event, "bench", interfaces,
                                w->fake ? fake_agent_path(w->fake) : NULL, &s.agent));
        REQUIRE(hybus_mediator_new(s.bus, s.agent, &s.mediator));
    }
    REQUIRE(sd_bus_request_name(s.bus, names[kind], 0));
    _exit(sd_event_loop(s.event) < 0);
}

static double call(sd_bus *client, int kind, bool measure)
{
    _cleanup_(sd_bus_error_free) sd_bus_error e = SD_BUS_ERROR_NULL;
    sd_bus_message *reply = NULL;
    double result;
    int r =
        sd_bus_call_method(client, names[kind], PATH, INTERFACE, "Call", &e, &reply, "b", measure);

    if (r < 0) {
        fprintf(stderr, "bench-mediation: %s: %s\n", names[kind], e.message);
        exit(1);
    }
    REQUIRE(sd_bus_message_read(reply, "d", &result));
    sd_bus_message_unref(reply);
    return result;
}

static bool is_owned(sd_bus *client, const char *name)
{
    sd_bus_message *reply = NULL;
    int owned;

    REQUIRE(sd_bus_call_method(client, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                               "org.freedesktop.DBus", "NameHasOwner", NULL, &reply, "s", name));
    REQUIRE(sd_bus_message_read(reply, "b", &owned));
    sd_bus_message_unref(reply);
    return owned;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, compare);
    return values[n / 2];
}

static double first_call(const World *w, int kind)
{
    sd_bus *client = connect_to(w, NULL);
    double start;

    (void)is_owned(client, names[kind]); /* the connection is there */
    start = now_ns();
    (void)call(client, kind, false);
    start = now_ns() - start;
    sd_bus_flush_close_unref(client);
    return start;
}

static void become(uid_t uid, gid_t gid)
{
    REQUIRE(setgroups(0, NULL) < 0 ? -errno : 0);
    REQUIRE(setresgid(gid, gid, gid) < 0 ? -errno : 0);
    REQUIRE(setresuid(uid, uid, uid) < 0 ? -errno : 0);
}

static bool measure(const World *w)
{
    static double times[POLKIT + 1][CALLS], first[FILTERED + 1][FIRST_CALLS];
    double p50[POLKIT + 1], p50_first[FILTERED + 1], decision;
    size_t n[POLKIT + 1] = {0};
    sd_bus *client = connect_to(w, NULL);

    for (int kind = 0; kind < w->n_kinds; kind++)
        for (unsigned i = 0; i < WARM_UP; i++)
            (void)call(client, kind, false);
    for (unsigned i = 0; i < CALLS; i++)
        for (int k = 0; k < w->n_kinds; k++) {
            int kind = (int)(i + (unsigned)k) % w->n_kinds;
            double start = now_ns();

            if (kind == POLKIT && i % POLKIT_EACH != 0)
                continue;
            (void)call(client, kind, false);
            times[kind][n[kind]++] = now_ns() - start;
        }
    for (unsigned i = 0; i < FIRST_CALLS; i++)
        for (int kind = PLAIN; kind <= FILTERED; kind++)
            first[kind][i] = first_call(w, kind);
    decision = call(client, FILTERED, true);
    sd_bus_flush_close_unref(client);
    if (decision < 0)
        return false;
    for (int kind = 0; kind < w->n_kinds; kind++)
        p50[kind] = median(times[kind], n[kind]);
    for (int kind = PLAIN; kind <= FILTERED; kind++)
        p50_first[kind] = median(first[kind], FIRST_CALLS);
    printf("{\"decision_ns\": %.1f, \"plain_p50_us\": %.2f, \"filtered_p50_us\": %.2f, "
           "\"asking_p50_us\": %.2f, \"plain_first_p50_us\": %.2f, \"miss_p50_us\": %.2f, "
           "\"decision_of_plain_percent\": %.3f, \"budget_percent\": 2, "
           "\"filtered_to_plain\": %.3f, \"asking_to_plain\": %.3f, \"miss_to_plain_first\": %.3f",
           decision, p50[PLAIN] / 1e3, p50[FILTERED] / 1e3, p50[ASKING] / 1e3,
           p50_first[PLAIN] / 1e3, p50_first[FILTERED] / 1e3, decision / p50[PLAIN] * 100,
           p50[FILTERED] / p50[PLAIN], p50[ASKING] / p50[PLAIN],
           p50_first[FILTERED] / p50_first[PLAIN]);
    if (w->n_kinds > POLKIT)
        printf(", \"polkit_p50_us\": %.2f, \"polkit_to_filtered\": %.3f", p50[POLKIT] / 1e3,
               p50[POLKIT] / p50[FILTERED]);
    printf("}\n");
    return true;
}

int main(int argc, char *argv[])
{
    World w = {.n_kinds = argc > 1 ? POLKIT + 1 : ASKING + 1};
    pid_t servers[N_SERVERS];
    sd_bus *client;
    bool measured;

    if (argc == 1) {
        w.fake = fake_agent_new(surface, permissions);
        w.bus = private_bus_new();
        fake_agent_allow(w.fake, "*", "bench.call", true);
    }
    for (int kind = 0; kind < N_SERVERS; kind++)
        servers[kind] = serve(kind, &w);
    client = connect_to(&w, NULL);
    for (int kind = 0; kind < N_SERVERS; kind++)
        while (!is_owned(client, names[kind]))
            usleep(10000);
    sd_bus_flush_close_unref(client);
    if (argc == 1) {
        measured = measure(&w);
    } else {
        /* Whoever calls has its own uid; the servers are ended by root. */
        int status = 1;
        pid_t pid;

        fflush(NULL);
        pid = fork();
        if (pid == 0) {
            become((uid_t)atoi(argv[1]), (gid_t)atoi(argv[1]));
            measured = measure(&w);
            exit(!measured);
        }
        (void)waitpid(pid, &status, 0);
        measured = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    }
    for (int kind = 0; kind < N_SERVERS; kind++) {
        kill(servers[kind], SIGKILL);
        (void)waitpid(servers[kind], NULL, 0);
    }
    if (argc == 1) {
        private_bus_free(w.bus);
        fake_agent_free(w.fake);
    }
    if (!measured)
        fprintf(stderr, "bench-mediation: nothing was measured\n");
    return !measured;
}
