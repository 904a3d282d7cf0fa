/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <time.h>

#include <hybridos-log.h>

#include "units.h"

#define UNITS_MAX 256u
#define ANSWER_USEC 2000000u /* systemd is busy: go on without */
#define FRESH_USEC 900000u   /* less than the period of those who ask every second */
#define TURNS_MAX 64u        /* of the bus for one of the loop */

struct Units {
    units_answered_fn answered;
    void *userdata;
    sd_bus *bus;       /* NULL: not connected */
    sd_bus_slot *slot; /* of the question that is under way */
    json_t *list;
    uint64_t answered_usec; /* 0: never */
    int error;              /* of the last question, told when it changes */
};

static uint64_t now_usec(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void disconnect(Units *u)
{
    u->slot = sd_bus_slot_unref(u->slot);
    u->bus = sd_bus_close_unref(u->bus);
}

/* The question has ended; takes `list`. */
static void answer(Units *u, json_t *list, int error)
{
    if (error != u->error && error < 0)
        hybridos_log(LOG_WARNING, "Cannot ask systemd for its units: %s", strerror(-error));
    u->error = error;
    json_decref(u->list);
    u->list = list;
    u->answered_usec = now_usec();
    u->answered(u->userdata);
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* By name; takes `unit`. */
static void insert(json_t *list, json_t *unit)
{
    const char *name = json_string_value(json_object_get(unit, "name"));
    size_t i = json_array_size(list);

    while (name && i > 0 &&
           strcmp(json_string_value(json_object_get(json_array_get(list, i - 1), "name")), name) >
               0)
        i--;
    if (json_array_size(list) < UNITS_MAX)
        json_array_insert_new(list, i, unit);
    else
        json_decref(unit);
}

/* One of a(ssssssouso); 0 at the end. */
static int read_unit(sd_bus_message *m, json_t *failed, json_t *others)
{
    const char *name, *description, *active, *sub;

    int r = sd_bus_message_enter_container(m, 'r', "ssssssouso");
    if (r <= 0)
        return r;
    r = sd_bus_message_read(m, "sssssso", &name, &description, NULL, &active, &sub, NULL, NULL);
    if (r < 0 || (r = sd_bus_message_skip(m, "uso")) < 0 ||
        (r = sd_bus_message_exit_container(m)) < 0)
        return r;
    bool has_failed = strcmp(active, "failed") == 0;
    if (!has_failed && !ends_with(name, ".service"))
        return 1;
    insert(has_failed ? failed : others,
           json_pack("{ssssss}", "name", name, "description", description, "state",
                     has_failed ? active : sub));
    return 1;
}

static int on_answer(sd_bus_message *m, void *userdata, sd_bus_error *ret_error)
{
    Units *u = userdata;
    json_t *failed = json_array(), *others = json_array();

    u->slot = sd_bus_slot_unref(u->slot);
    int r = -sd_bus_message_get_errno(m);
    if (r == 0)
        r = sd_bus_message_enter_container(m, 'a', "(ssssssouso)");
    while (r > 0)
        r = read_unit(m, failed, others);
    if (r == 0)
        json_array_extend(failed, others);
    json_decref(others);
    if (r < 0) {
        json_decref(failed);
        failed = NULL;
    }
    answer(u, failed, r);
    return 1;
}

/* Both active and sub states are meant: also sockets and mounts that have failed. */
static int send_question(Units *u)
{
    sd_bus_message *m = NULL;

    int r = u->bus ? 0 : sd_bus_open_system(&u->bus);
    if (r >= 0)
        r = sd_bus_message_new_method_call(u->bus, &m, "org.freedesktop.systemd1",
                                           "/org/freedesktop/systemd1",
                                           "org.freedesktop.systemd1.Manager", "ListUnitsFiltered");
    if (r >= 0)
        r = sd_bus_message_append(m, "as", 4, "failed", "running", "activating", "reloading");
    if (r >= 0)
        r = sd_bus_call_async(u->bus, &u->slot, m, on_answer, u, ANSWER_USEC);
    sd_bus_message_unref(m);
    return r;
}

bool units_ask(Units *u)
{
    if (u->slot)
        return true;
    if (u->answered_usec > 0 && now_usec() - u->answered_usec < FRESH_USEC)
        return false;
    int r = send_question(u);
    if (r >= 0)
        return true;
    /* There is no bus. Not answered from here: the caller has the list at hand. */
    disconnect(u);
    json_decref(u->list);
    u->list = NULL;
    u->answered_usec = now_usec();
    return false;
}

const json_t *units_list(const Units *u)
{
    return u->list;
}

int units_fd(const Units *u)
{
    return u->bus ? sd_bus_get_fd(u->bus) : -1;
}

short units_events(const Units *u)
{
    int events = u->bus ? sd_bus_get_events(u->bus) : 0;
    return (short)(events < 0 ? 0 : events);
}

int units_timeout_msec(const Units *u)
{
    uint64_t until;

    if (!u->bus || sd_bus_get_timeout(u->bus, &until) <= 0 || until == UINT64_MAX)
        return -1;
    uint64_t now = now_usec();
    return until <= now ? 0 : (int)((until - now + 999) / 1000);
}

void units_process(Units *u)
{
    int r = 0;

    for (unsigned i = 0; u->bus && i < TURNS_MAX && (r = sd_bus_process(u->bus, NULL)) > 0; i++)
        ;
    if (r >= 0 || !u->bus)
        return;
    /* The bus was restarted, or would not have us. */
    bool waiting = u->slot;
    disconnect(u);
    if (waiting)
        answer(u, NULL, r);
}

int units_new(units_answered_fn answered, void *userdata, Units **ret)
{
    Units *u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    u->answered = answered;
    u->userdata = userdata;
    *ret = u;
    return 0;
}

void units_free(Units *u)
{
    if (!u)
        return;
    disconnect(u);
    json_decref(u->list);
    free(u);
}
