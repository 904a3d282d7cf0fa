/* SPDX-License-Identifier: Apache-2.0 */
/* The responder over the system bus: plain sd-bus, no SDK. Prints its name on the bus, at which it
 * can also be called as org.hybridos.Bench1, by bench-call. */
#include <stdio.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "body.h"

static int handle(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    sd_bus_message *reply = NULL;
    int r = sd_bus_message_new_method_return(m, &reply);

    (void)userdata, (void)error;
    if (r >= 0)
        r = sd_bus_message_append(reply, "ua(ss)", 200u, 1u, "content-type", BODY_TYPE);
    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'a', "{sv}");
    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'e', "sv");
    if (r >= 0)
        r = sd_bus_message_append(reply, "s", "body");
    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'v', "ay");
    if (r >= 0)
        r = sd_bus_message_append_array(reply, 'y', body, BODY_SIZE);
    for (int i = 0; i < 3 && r >= 0; i++)
        r = sd_bus_message_close_container(reply);
    if (r >= 0)
        r = sd_bus_send(NULL, reply, NULL);
    sd_bus_message_unref(reply);
    return r;
}

static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Handle", "a{sv}ay", "ua(ss)a{sv}", handle, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

int main(int argc, char *argv[])
{
    sd_event *event = NULL;
    sd_bus *bus = NULL;
    sd_bus_error error = SD_BUS_ERROR_NULL;
    const char *name;
    int r = sd_event_default(&event);

    if (r >= 0)
        r = sd_bus_open_system(&bus);
    if (r >= 0)
        r = sd_bus_attach_event(bus, event, 0);
    if (r >= 0)
        r = sd_bus_add_object_vtable(bus, NULL, "/bench", "org.hybridos.Responder1", vtable, NULL);
    if (r >= 0)
        r = sd_bus_add_object_vtable(bus, NULL, "/bench", "org.hybridos.Bench1", vtable, NULL);
    if (r >= 0)
        r = sd_bus_call_method(bus, "org.hybridos.Endpoints1", "/org/hybridos/Endpoints1",
                               "org.hybridos.Endpoints1", "Register", &error, NULL, "soa{sv}",
                               argc > 1 ? argv[1] : "/bench-bus", "/bench", 0);
    if (r < 0) {
        fprintf(stderr, "cannot register: %s\n", error.message ? error.message : strerror(-r));
        return 1;
    }
    if (sd_bus_get_unique_name(bus, &name) >= 0)
        puts(name);
    fflush(stdout);
    return sd_event_loop(event) < 0;
}
