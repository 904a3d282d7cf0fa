/* SPDX-License-Identifier: Apache-2.0 */
#include "app-bus.h"

#include <hybus/error.h>

#include "security-call.h"

static bool act_is_known(const char *act)
{
    static const char *const acts[] = {"install", "update", "remove", "removed"};

    for (size_t i = 0; i < ELEMENTS(acts); i++)
        if (streq(acts[i], act))
            return true;
    return false;
}

static int note_app(Call *c, sd_bus_error *error)
{
    const char *act, *name;
    char call[32], reason[96], subject[24];
    uint32_t uid;
    int r = sd_bus_message_read(c->message, "ssu", &act, &name, &uid);

    if (r < 0)
        return r;
    if (!act_is_known(act))
        return hybus_error_set(error, -EINVAL,
                               "\"%.32s\" is no act: install, update, remove, removed", act);
    if (!principal_name_is_valid(name))
        return hybus_error_set(error, -EINVAL, "\"%.64s\" is no name of an app", name);
    if (uid == 0 || !uid_may_hold(uid))
        return hybus_error_set(error, -EINVAL, "%u is no uid of an app", uid);
    snprintf(call, sizeof call, "app-%s", act);
    snprintf(reason, sizeof reason, "%s uid:%u", name, uid);
    security_note(c->bus->security, &c->subject, call, reason);
    if (streq(act, "removed")) {
        snprintf(subject, sizeof subject, "uid:%u", uid);
        consent_forget_subject(c->bus->security->consent, subject);
    }
    r = sd_bus_message_new_method_return(c->message, &c->reply);
    return r < 0 ? r : 1;
}

int method_note_app(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return call_with_caller(m, userdata, note_app, error);
}
