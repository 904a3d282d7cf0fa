/* SPDX-License-Identifier: Apache-2.0 */
/* What the bus itself carries: the same message to the same responder, without a server around it.
 *
 *     bench-call NAME IN-FLIGHT CALLS
 *
 * prints the calls a second. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>
#include <time.h>

typedef struct Caller {
    sd_bus *bus;
    sd_event *event;
    const char *name;
    unsigned long left, answered, in_flight;
} Caller;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int on_reply(sd_bus_message *m, void *userdata, sd_bus_error *error);

static int call(Caller *c)
{
    sd_bus_message *m = NULL;
    int r = sd_bus_message_new_method_call(c->bus, &m, c->name, "/bench", "org.hybridos.Bench1",
                                           "Handle");

    if (r >= 0)
        r = sd_bus_message_append(
            m, "a{sv}", 10, "id", "s", "0123456789abcdef-0123456789abcdef", "namespace", "s",
            "/bench-bus", "protocol", "s", "http", "method", "s", "GET", "path", "s", "/bench-bus",
            "query", "s", "", "principal", "s", "anonymous", "peer", "s", "127.0.0.1:44444",
            "headers", "a(ss)", 1, "user-agent", "h2load nghttp2/1.52.0", "deadline", "u", 30000);
    if (r >= 0)
        r = sd_bus_message_append_array(m, 'y', NULL, 0);
    if (r >= 0)
        r = sd_bus_call_async(c->bus, NULL, m, on_reply, c, UINT64_MAX);
    sd_bus_message_unref(m);
    c->left--;
    c->in_flight++;
    return r;
}

static int on_reply(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    Caller *c = userdata;

    (void)error;
    c->in_flight--;
    c->answered++;
    if (sd_bus_message_is_method_error(m, NULL)) {
        fprintf(stderr, "bench-call: %s\n", sd_bus_message_get_error(m)->message);
        return sd_event_exit(c->event, 1);
    }
    if (c->left > 0)
        return call(c);
    return c->in_flight > 0 ? 0 : sd_event_exit(c->event, 0);
}

int main(int argc, char *argv[])
{
    Caller c = {.name = argc > 1 ? argv[1] : ""};
    unsigned long n = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    double began;
    int r;

    c.left = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
    if (n == 0 || c.left < n) {
        fputs("usage: bench-call NAME IN-FLIGHT CALLS\n", stderr);
        return 2;
    }
    r = sd_event_default(&c.event);
    if (r >= 0)
        r = sd_bus_open_system(&c.bus);
    if (r >= 0)
        r = sd_bus_attach_event(c.bus, c.event, 0);
    began = now();
    for (unsigned long i = 0; i < n && r >= 0; i++)
        r = call(&c);
    if (r >= 0)
        r = sd_event_loop(c.event);
    if (r != 0) {
        fprintf(stderr, "bench-call: %s\n", r < 0 ? strerror(-r) : "failed");
        return 1;
    }
    printf("%.0f\n", (double)c.answered / (now() - began));
    return 0;
}
