/* SPDX-License-Identifier: Apache-2.0 */

/* What mediation costs, all in one run on a private dbus-daemon: the time of the filter itself per
 * decision on a hit, looped in process; and the median round trip of a plain call (a) without a
 * filter, (b) with it, (c) with a question to another service on the bus for every call, which is
 * what mediation without cached rows would be. Calls of the three are interleaved, so that a slow
 * moment of the machine hits them alike. Prints one JSON object. */

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include <hybus/error.h>
#include <hybus/mediate-internal.h>

#include "fake-agent.h"
#include "private-bus.h"

#define INTERFACE "org.hybridos.Bench1"
#define PATH "/org/hybridos/Bench1"
#define DECISIONS 2000000u
#define WARM_UP 100u
#define CALLS 6000u /* of each kind */

enum { PLAIN, FILTERED, ASKING, N_KINDS, JUDGE = N_KINDS, N_SERVERS };

static const char *const names[] = {"org.hybridos.BenchPlain1", "org.hybridos.BenchFiltered1",
                                    "org.hybridos.BenchAsking1", "org.hybridos.BenchJudge1"};
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

typedef struct Server {
    int kind;
    sd_bus *bus;
    sd_event *event;
    hybus_agent *agent;
    hybus_mediator *mediator;
    uint32_t calls;
} Server;

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

/* The last call of a warm server measures the decisions in process. */
static int method_call(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    Server *s = userdata;
    int measure = 0;

    REQUIRE(sd_bus_message_read(m, "b", &measure));
    if (s->kind == ASKING)
        return sd_bus_call_method_async(s->bus, NULL, names[JUDGE], PATH, INTERFACE, "Call",
                                        on_asked, sd_bus_message_ref(m), "b", 0);
    return sd_bus_reply_method_return(m, "d", measure ? decision_ns(s, m) : 0.0);
}

static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Call", "b", "d", method_call, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

static pid_t serve(int kind, const private_bus *bus, const fake_agent *fake)
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
    s.bus = private_bus_connect(bus, s.event);
    REQUIRE(sd_bus_add_object_vtable(s.bus, NULL, PATH, INTERFACE, vtable, &s));
    if (kind == FILTERED) {
        REQUIRE(hybus_agent_new(s.event, "bench", interfaces, fake_agent_path(fake), &s.agent));
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

static void wait_for_names(sd_bus *client)
{
    for (int kind = 0; kind < N_SERVERS; kind++)
        for (int owned = 0; !owned;) {
            sd_bus_message *reply = NULL;

            REQUIRE(sd_bus_call_method(client, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                       "org.freedesktop.DBus", "NameHasOwner", NULL, &reply, "s",
                                       names[kind]));
            REQUIRE(sd_bus_message_read(reply, "b", &owned));
            sd_bus_message_unref(reply);
        }
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

int main(void)
{
    static double times[N_KINDS][CALLS];
    double p50[N_KINDS], decision;
    fake_agent *fake = fake_agent_new(surface, permissions);
    private_bus *bus = private_bus_new();
    pid_t servers[N_SERVERS];
    sd_bus *client;

    fake_agent_allow(fake, "*", "bench.call", true);
    for (int kind = 0; kind < N_SERVERS; kind++)
        servers[kind] = serve(kind, bus, fake);
    client = private_bus_connect(bus, NULL);
    wait_for_names(client);
    for (int kind = 0; kind < N_KINDS; kind++)
        for (unsigned i = 0; i < WARM_UP; i++)
            (void)call(client, kind, false);
    for (unsigned i = 0; i < CALLS; i++)
        for (unsigned k = 0; k < N_KINDS; k++) {
            int kind = (int)((i + k) % N_KINDS);
            double start = now_ns();

            (void)call(client, kind, false);
            times[kind][i] = now_ns() - start;
        }
    decision = call(client, FILTERED, true);
    for (int kind = 0; kind < N_KINDS; kind++)
        p50[kind] = median(times[kind], CALLS);
    for (int kind = 0; kind < N_SERVERS; kind++) {
        kill(servers[kind], SIGKILL);
        (void)waitpid(servers[kind], NULL, 0);
    }
    sd_bus_close_unref(client);
    private_bus_free(bus);
    fake_agent_free(fake);
    if (decision < 0) {
        fprintf(stderr, "bench-mediation: a decision that should have been a hit was none\n");
        return 1;
    }
    printf("{\"decision_ns\": %.1f, \"plain_p50_us\": %.2f, \"filtered_p50_us\": %.2f, "
           "\"asking_p50_us\": %.2f, \"decision_of_plain_percent\": %.3f, \"budget_percent\": 2, "
           "\"filtered_to_plain\": %.3f, \"asking_to_plain\": %.3f}\n",
           decision, p50[PLAIN] / 1e3, p50[FILTERED] / 1e3, p50[ASKING] / 1e3,
           decision / p50[PLAIN] * 100, p50[FILTERED] / p50[PLAIN], p50[ASKING] / p50[PLAIN]);
    return 0;
}
