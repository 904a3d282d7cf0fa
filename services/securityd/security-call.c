/* SPDX-License-Identifier: Apache-2.0 */
#include "security-call.h"

#include <hybus/credentials.h>
#include <hybus/error.h>

#include "connections.h"
#include "binding.h"

void call_free(Call *c)
{
    LIST_REMOVE(c, calls);
    c->bus->n_calls--;
    if (c->bus->bus_policy)
        bus_policy_cancel(c->bus->bus_policy, c);
    rule_unref(c->rule);
    connections_free(c->connections);
    sd_bus_slot_unref(c->slot);
    sd_bus_message_unref(c->message);
    sd_bus_message_unref(c->reply);
    free(c);
}

void call_end(Call *c, int result, sd_bus_error *error)
{
    if (result == 0 && c->settling)
        return;
    if (result < 0 && sd_bus_error_is_set(error))
        (void)sd_bus_reply_method_error(c->message, error);
    else if (result < 0)
        (void)sd_bus_reply_method_errno(c->message, result, NULL);
    else if (c->reply)
        (void)sd_bus_send(NULL, c->reply, NULL);
    sd_bus_error_free(error);
    call_free(c);
}

static void on_credentials(sd_bus_message *m, int result, void *userdata)
{
    sd_bus_error error = SD_BUS_ERROR_NULL;
    hybus_credentials credentials;
    Call *c = userdata;
    int r = result;

    c->slot = sd_bus_slot_unref(c->slot);
    if (r == 0)
        r = hybus_credentials_read(m, &credentials);
    if (r == -EHOSTDOWN)
        r = hybus_error_set(&error, -ENOENT, "Nobody has that name on the bus");
    else if (r < 0)
        r = hybus_error_set(&error, -EACCES, "The bus does not tell who that is");
    if (r >= 0) {
        memcpy(c->gids, credentials.gids, credentials.n_gids * sizeof c->gids[0]);
        c->subject.uid = credentials.uid;
        c->subject.gids = c->gids;
        c->subject.n_gids = credentials.n_gids;
        security_apply_binding(c->bus->security, &c->subject, c->asked, &c->behalf);
        r = c->handler(c, &error);
    }
    call_end(c, r, &error);
}

int call_ask_credentials(Call *c, const char *name)
{
    snprintf(c->asked, sizeof c->asked, "%s", name);
    return hybus_credentials_ask(c->bus->bus, name, on_credentials, c, &c->slot);
}

int call_new(sd_bus_message *m, SecurityBus *b, CallHandler handler, Call **ret, sd_bus_error *error)
{
    Call *c;

    if (b->n_calls >= SECURITY_BUS_CALLS_MAX)
        return hybus_error_set(error, -ENOBUFS, "Too many changes at once; try again");
    c = calloc(1, sizeof *c);
    if (!c)
        return -ENOMEM;
    c->bus = b;
    c->message = sd_bus_message_ref(m);
    c->handler = handler;
    LIST_INSERT_HEAD(&b->calls, c, calls);
    b->n_calls++;
    *ret = c;
    return 0;
}

int call_with_connection(sd_bus_message *m, SecurityBus *b, const char *name, CallHandler handler,
                         sd_bus_error *error)
{
    Call *c;
    int r;

    if (*name != ':' || strlen(name) > 255)
        return hybus_error_set(error, -EINVAL, "a connection has a unique name such as :1.42");
    r = call_new(m, b, handler, &c, error);
    if (r < 0)
        return r;
    r = call_ask_credentials(c, name);
    if (r < 0)
        call_free(c);
    if (r == -EINVAL)
        return hybus_error_set(error, r, "a connection has a unique name such as :1.42");
    return r < 0 ? r : 1;
}

int call_with_caller(sd_bus_message *m, SecurityBus *b, CallHandler handler, sd_bus_error *error)
{
    return call_with_connection(m, b, sd_bus_message_get_sender(m), handler, error);
}

static void on_bus_obeys(int result, const char *message, void *userdata)
{
    sd_bus_error error = SD_BUS_ERROR_NULL;
    Call *c = userdata;

    if (result < 0)
        result = hybus_error_set(&error, result,
                                 "Our own daemons obey the change, but the bus may still let calls "
                                 "to other services pass: %s",
                                 message);
    call_end(c, result < 0 ? result : 1, &error);
}

/* The streams are cut; now the bus. */
static void on_settled(void *userdata)
{
    sd_bus_error error = SD_BUS_ERROR_NULL;
    Call *c = userdata;
    bool waits = c->bus_too && c->bus->bus_policy;
    int r = waits ? bus_policy_update(c->bus->bus_policy, NULL, on_bus_obeys, c) : 1;

    if (r != 0)
        call_end(c, r, &error);
}

/* The answer (c->reply) leaves when nobody allows any more what has been revoked. */
static int settle(Call *c)
{
    int r;

    c->settling = true;
    r = agent_socket_changed(c->bus->socket, on_settled, c);
    if (r < 0)
        c->settling = false;
    security_bus_announce(c->bus);
    return r;
}

int call_settle_with_generation(Call *c, const char *rule)
{
    int r = sd_bus_message_new_method_return(c->message, &c->reply);

    if (r >= 0 && rule)
        r = sd_bus_message_append(c->reply, "s", rule);
    if (r >= 0)
        r = sd_bus_message_append(c->reply, "t", security_generation(c->bus->security));
    return r < 0 ? r : settle(c);
}

int call_settle_empty(Call *c)
{
    int r = sd_bus_message_new_method_return(c->message, &c->reply);
    return r < 0 ? r : settle(c);
}
