/* SPDX-License-Identifier: Apache-2.0 */
/* What the bus really lets pass.
 *
 *     bus-pairs serve NAME…      owns the names and answers every call with nothing
 *                                and prints "signal MEMBER", "reply" for each of these
 *     bus-pairs try < CALLS      a line "DESTINATION INTERFACE MEMBER" per call ("-": no
 * interface); prints "passed" or "refused" for each, in the same order. "!signal DESTINATION MEMBER" and
 * "!reply DESTINATION" send one that nobody asked for (and print "sent"), "!own NAME" asks for a name.
 *
 * "Passed" means that somebody other than the bus answered, whatever the answer was. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

static int on_message(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *sender = sd_bus_message_get_sender(m);
    uint8_t type = 0;

    (void)sd_bus_message_get_type(m, &type);
    if (type == SD_BUS_MESSAGE_SIGNAL && sender && *sender == ':')
        printf("signal %s\n", sd_bus_message_get_member(m));
    if ((type == SD_BUS_MESSAGE_METHOD_RETURN || type == SD_BUS_MESSAGE_METHOD_ERROR) && sender &&
        *sender == ':')
        puts("reply");
    fflush(stdout);
    return sd_bus_message_is_method_call(m, NULL, NULL) > 0 ? sd_bus_reply_method_return(m, NULL)
                                                            : 0;
}

static int serve(sd_bus *bus, char *names[])
{
    sd_event *event;
    int r = sd_event_default(&event);

    if (r >= 0)
        r = sd_bus_add_filter(bus, NULL, on_message, NULL);
    for (; *names && r >= 0; names++)
        r = sd_bus_request_name(bus, *names, 0);
    if (r >= 0)
        r = sd_bus_attach_event(bus, event, 0);
    if (r >= 0) {
        puts("ready");
        fflush(stdout);
        r = sd_event_loop(event);
    }
    return r;
}

/* dbus-daemon and dbus-broker refuse under the same name, which no service here uses. */
static bool is_refusal(const sd_bus_error *e)
{
    return sd_bus_error_has_name(e, "org.freedesktop.DBus.Error.AccessDenied") &&
           (strstr(e->message, "Rejected send message") || strstr(e->message, "not authorized") ||
            strstr(e->message, "policy prevents"));
}

static int try_call(sd_bus *bus, const char *destination, const char *interface, const char *member)
{
    sd_bus_error error = SD_BUS_ERROR_NULL;
    sd_bus_message *m = NULL, *reply = NULL;
    int r = sd_bus_message_new_method_call(bus, &m, destination, "/",
                                           strcmp(interface, "-") ? interface : NULL, member);

    if (r < 0)
        return r;
    r = sd_bus_call(bus, m, 10 * 1000 * 1000, &error, &reply);
    if (r >= 0 || is_refusal(&error))
        puts(r >= 0 ? "passed" : "refused");
    else
        printf("other %s: %s\n", error.name, error.message);
    sd_bus_error_free(&error);
    sd_bus_message_unref(m);
    sd_bus_message_unref(reply);
    return 0;
}

static int send_signal(sd_bus *bus, const char *destination, const char *member)
{
    sd_bus_message *m = NULL;
    int r = sd_bus_message_new_signal(bus, &m, "/", "com.example.Probe1", member);

    if (r >= 0)
        r = sd_bus_message_set_destination(m, destination);
    if (r >= 0)
        r = sd_bus_send(bus, m, NULL);
    sd_bus_message_unref(m);
    puts("sent");
    return r;
}

/* An answer to a call that was never made. */
static int send_reply(sd_bus *bus, const char *destination)
{
    sd_bus_message *call = NULL, *reply = NULL;
    int r = sd_bus_message_new_method_call(bus, &call, NULL, "/", "com.example.Probe1", "Nothing");

    if (r >= 0)
        r = sd_bus_message_seal(call, 77, 0);
    if (r >= 0)
        r = sd_bus_message_new_method_return(call, &reply);
    if (r >= 0)
        r = sd_bus_message_set_destination(reply, destination);
    if (r >= 0)
        r = sd_bus_send(bus, reply, NULL);
    sd_bus_message_unref(call);
    sd_bus_message_unref(reply);
    puts("sent");
    return r;
}

static int try_special(sd_bus *bus, const char *line)
{
    char name[300], member[300];
    int r;

    if (sscanf(line, "!signal %299s %299s", name, member) == 2)
        return send_signal(bus, name, member);
    if (sscanf(line, "!reply %299s", name) == 1)
        return send_reply(bus, name);
    if (sscanf(line, "!own %299s", name) != 1)
        return -EINVAL;
    r = sd_bus_request_name(bus, name, 0);
    puts(r >= 0 || r == -EEXIST || r == -EALREADY ? "passed" : r == -EACCES ? "refused" : strerror(-r));
    return 0;
}

static int try_all(sd_bus *bus)
{
    char line[1024], destination[300], interface[300], member[300];
    int r = 0;

    while (r >= 0 && fgets(line, sizeof(line), stdin))
        r = *line == '!' ? try_special(bus, line)
            : sscanf(line, "%299s %299s %299s", destination, interface, member) == 3
                ? try_call(bus, destination, interface, member)
                : -EINVAL;
    return r;
}

int main(int argc, char *argv[])
{
    sd_bus *bus = NULL;
    int r = sd_bus_open_system(&bus);

    if (r >= 0)
        r = argc > 2 && strcmp(argv[1], "serve") == 0  ? serve(bus, argv + 2)
            : argc == 2 && strcmp(argv[1], "try") == 0 ? try_all(bus)
                                                       : -EINVAL;
    sd_bus_flush_close_unref(bus);
    if (r < 0)
        fprintf(stderr, "bus-pairs: %s\n", strerror(-r));
    return r < 0;
}
