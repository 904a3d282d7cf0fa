/* SPDX-License-Identifier: Apache-2.0 */
#include "account-bus.h"

#include <hybus/error.h>

#include "security-call.h"

static void message_unrefp(sd_bus_message **m)
{
    sd_bus_message_unref(*m);
}

static int append_user(sd_bus_message *reply, const User *u)
{
    int r = sd_bus_message_open_container(reply, 'r', "stasb");

    if (r >= 0)
        r = sd_bus_message_append(reply, "st", u->name, u->created);
    if (r >= 0)
        r = sd_bus_message_append_strv(reply, u->roles);
    if (r >= 0)
        r = sd_bus_message_append(reply, "b", u->password != NULL);
    return r < 0 ? r : sd_bus_message_close_container(reply);
}

int method_list_users(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    _cleanup_(message_unrefp) sd_bus_message *reply = NULL;
    const SecurityBus *b = userdata;
    const Store *s = b->security->store;
    int r = sd_bus_message_new_method_return(m, &reply);

    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'a', "(stasb)");
    for (size_t i = 0; r >= 0 && i < s->n_users; i++)
        r = append_user(reply, &s->users[i]);
    if (r >= 0)
        r = sd_bus_message_close_container(reply);
    return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

/* Times of the clock that is never set, as those of the other one. */
static uint64_t shown(uint64_t boottime, uint64_t now_boottime, uint64_t now)
{
    return boottime > now_boottime ? now : now - MIN_OF(now, now_boottime - boottime);
}

int method_list_sessions(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    _cleanup_(message_unrefp) sd_bus_message *reply = NULL;
    const SecurityBus *b = userdata;
    const Sessions *s = &b->security->sessions;
    uint64_t now = store_now(b->security->store), boottime = security_boottime();
    int r = sd_bus_message_new_method_return(m, &reply);

    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'a', "(tssstt)");
    for (size_t i = 0; r >= 0 && i < s->n; i++) {
        const Session *one = &s->list[i];

        r = sd_bus_message_append(reply, "(tssstt)", one->id, one->user, one->protocol, one->peer,
                                  one->created, shown(one->used, boottime, now));
    }
    if (r >= 0)
        r = sd_bus_message_close_container(reply);
    return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int remove_session(Call *c, sd_bus_error *error)
{
    uint64_t id;
    int r = sd_bus_message_read(c->message, "t", &id);

    if (r >= 0)
        r = security_remove_session(c->bus->security, &c->subject, id);
    if (r == -ENOENT)
        return hybus_error_set(error, r, "There is no session %llu", (unsigned long long)id);
    return r < 0 ? r : call_settle_empty(c);
}

int method_remove_session(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return call_with_caller(m, userdata, remove_session, error);
}

/* `r` as the model returned it, with what it said about it. */
static int roles_error(sd_bus_error *error, int r, hybus_config_error *e)
{
    r = hybus_error_set(error, r, "%s",
                        e->message       ? e->message
                        : r == -ENOENT   ? "There is no such user"
                        : r == -EINVAL   ? "At most 64 roles, each 1 to 64 of [a-z0-9_-]"
                                         : strerror(-r));
    hybus_config_error_done(e);
    return r;
}

static int set_user_roles(Call *c, sd_bus_error *error)
{
    hybus_config_error e = {0};
    const char *name;
    char **roles = NULL;
    int r = sd_bus_message_read(c->message, "s", &name);

    if (r >= 0)
        r = sd_bus_message_read_strv(c->message, &roles);
    if (r < 0)
        return r;
    r = security_set_roles(c->bus->security, &c->subject, name, roles, &e);
    words_free(roles);
    return r < 0 ? roles_error(error, r, &e) : call_settle_empty(c);
}

int method_set_user_roles(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return call_with_caller(m, userdata, set_user_roles, error);
}
