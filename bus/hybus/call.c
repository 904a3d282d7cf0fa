/* SPDX-License-Identifier: Apache-2.0 */
#include "call.h"

#include <stdarg.h>
#include <time.h>

#include "error.h"

typedef struct Pending {
    hybus_call_callback f;
    void *userdata;
    uint64_t deadline_usec; /* CLOCK_MONOTONIC */
} Pending;

static uint64_t now_usec(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

/* The bus and sd-bus report a callee that died and one that takes too long by the same name. */
static int error_of(sd_bus_message *reply, const Pending *p)
{
    const sd_bus_error *e = sd_bus_message_get_error(reply);

    if (!sd_bus_message_is_method_error(reply, NULL))
        return 0;
    if (sd_bus_error_has_name(e, SD_BUS_ERROR_NO_REPLY))
        return now_usec() < p->deadline_usec ? -EHOSTDOWN : -ETIMEDOUT;
    return hybus_error_errno(e);
}

static int on_reply(sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
    Pending *p = userdata;

    p->f(reply, error_of(reply, p), p->userdata);
    return 0;
}

int hybus_call_send(sd_bus_message *m, uint64_t deadline_usec, hybus_call_callback f,
                    void *userdata, sd_bus_slot **ret)
{
    Pending *p = malloc(sizeof *p);
    sd_bus_slot *slot;
    int r;

    if (!p)
        return -ENOMEM;
    *p = (Pending){f, userdata, now_usec() + deadline_usec};
    r = sd_bus_call_async(NULL, &slot, m, on_reply, p, deadline_usec);
    if (r < 0) {
        free(p);
        return r == -ENOTCONN ? -EHOSTDOWN : r;
    }
    (void)sd_bus_slot_set_destroy_callback(slot, free);
    if (ret) {
        *ret = slot;
        return 0;
    }
    (void)sd_bus_slot_set_floating(slot, true);
    sd_bus_slot_unref(slot);
    return 0;
}

int hybus_call_method(sd_bus *bus, const char *destination, const char *path, const char *interface,
                      const char *member, hybus_call_callback f, void *userdata, sd_bus_slot **ret,
                      const char *types, ...)
{
    sd_bus_message *m = NULL;
    va_list args;
    int r = sd_bus_message_new_method_call(bus, &m, destination, path, interface, member);

    va_start(args, types);
    if (r >= 0)
        r = sd_bus_message_appendv(m, types, args);
    va_end(args);
    if (r >= 0)
        r = hybus_call_send(m, HYBUS_CALL_DEADLINE_USEC, f, userdata, ret);
    sd_bus_message_unref(m);
    return r < 0 ? r : 0;
}
