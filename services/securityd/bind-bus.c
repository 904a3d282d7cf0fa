/* SPDX-License-Identifier: Apache-2.0 */
#include "bind-bus.h"

#include <hybus/error.h>
#include <hybus/log.h>

#include "binding.h"
#include "security-call.h"

#define DRIVER "org.freedesktop.DBus"

static int on_left(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const SecurityBus *b = userdata;
    const char *name, *old, *new;

    if (sd_bus_message_read(m, "sss", &name, &old, &new) >= 0 && !*new && *name == ':')
        security_unbind(b->security, name);
    return 0;
}

/* Those that left while nobody looked: a name is never given again in the life of a bus. */
static int on_names(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const SecurityBus *b = userdata;
    Security *s = b->security;
    char **names = NULL;

    if (sd_bus_message_is_method_error(m, NULL) || sd_bus_message_read_strv(m, &names) < 0)
        return 0; /* more bindings than connections, which does no harm */
    for (size_t i = s->n_bindings; i-- > 0;)
        if (!words_contain(names, s->bindings[i].name))
            security_unbind(s, s->bindings[i].name);
    words_free(names);
    return 0;
}

int bind_bus_start(SecurityBus *b, sd_bus_slot **ret)
{
    char id[SD_ID128_STRING_MAX];
    sd_id128_t bus_id;
    int r = sd_bus_get_bus_id(b->bus, &bus_id);

    if (r >= 0)
        r = security_bindings_adopt(b->security, sd_id128_to_string(bus_id, id));
    if (r >= 0)
        r = sd_bus_add_match_async(b->bus, ret,
                                   "type='signal',sender='" DRIVER "',interface='" DRIVER
                                   "',member='NameOwnerChanged',arg2=''",
                                   on_left, NULL, b);
    if (r >= 0 && b->security->n_bindings > 0)
        r = sd_bus_call_method_async(b->bus, NULL, DRIVER, "/org/freedesktop/DBus", DRIVER, "ListNames",
                                     on_names, b, "");
    return r;
}

static int refuse(Call *c, uint64_t handle, int r, const char *why, sd_bus_error *error)
{
    char text[128];

    snprintf(text, sizeof text, "refused: %s", why);
    security_note(c->bus->security, &c->subject, "Bind", text);
    return hybus_error_set(error, r, "%s", why);
}

/* A handle is known to the server that was given it and to those whom it has told. Another server
 * has no business with it. */
static int do_bind(Call *c, sd_bus_error *error)
{
    const char *name = sd_bus_message_get_sender(c->message);
    Security *s = c->bus->security;
    const Principal *principal = NULL;
    uint64_t handle;
    int r = sd_bus_message_read(c->message, "t", &handle);

    if (r < 0)
        return r;
    if (handle > 0) {
        bool server = policy_judge(s->policy, &c->subject, "security.connect").allowed;

        principal = agent_socket_principal(c->bus->socket, server ? c->subject.uid : UINT32_MAX, handle);
        if (!principal)
            return refuse(c, handle, -ENOENT, "no such principal was given to you", error);
    }
    r = security_bind(s, name, c->subject.uid, principal);
    if (r == -EEXIST)
        return refuse(c, handle, r, "this connection is bound to another principal, for good", error);
    if (r == -ENOBUFS)
        return hybus_error_set(error, r, "too many connections are bound");
    if (r < 0)
        return r;
    r = sd_bus_message_new_method_return(c->message, &c->reply);
    if (r >= 0)
        r = sd_bus_message_append(c->reply, "s", principal ? principal->name : "anonymous");
    return r < 0 ? r : 1;
}

int method_bind(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return call_with_caller(m, userdata, do_bind, error);
}
