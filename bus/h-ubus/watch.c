/* SPDX-License-Identifier: Apache-2.0 */
/* listen, subscribe, wait_for, monitor: what the bus says by itself. */
#include <fnmatch.h>

#include "ubus.h"

typedef struct watch {
    ubus *u;
    ubus_secrets *secrets;
    const char *pattern;
    uint64_t n;
    int code; /* -1: go on */
    char **names;
    bool *owned;
    int n_names;
} watch;

static void note(const ubus *u, const char *text)
{
    if (!u->quiet)
        fprintf(stderr, "h-ubus: %s\n", text);
}

/* {"type", "sender", "path", "interface", "member", "args"} and what else the message has. */
static json_t *describe(watch *w, sd_bus_message *m)
{
    static const char *const types[] = {"invalid", "call", "return", "error", "signal"};
    _cleanup_(hybus_json_decrefp) json_t *json = json_object(), *args = NULL;
    hybus_json_error e = {};
    const sd_bus_error *error = sd_bus_message_get_error(m);
    const char *withheld;
    uint64_t cookie;
    uint8_t type = 0;
    int r = hybus_json_read(m, &args, &e);
    const struct {
        const char *key, *value;
    } fields[] = {
        {"sender", sd_bus_message_get_sender(m)},
        {"destination", sd_bus_message_get_destination(m)},
        {"path", sd_bus_message_get_path(m)},
        {"interface", sd_bus_message_get_interface(m)},
        {"member", sd_bus_message_get_member(m)},
        {"error", error ? error->name : NULL},
        {"signature", sd_bus_message_get_signature(m, true)},
    };

    sd_bus_message_get_type(m, &type);
    if (type != SD_BUS_MESSAGE_SIGNAL) {
        json_object_set_new(json, "type", json_string(type < ELEMENTS(types) ? types[type] : "?"));
        if (sd_bus_message_get_cookie(m, &cookie) >= 0)
            json_object_set_new(json, "serial", json_integer((json_int_t)cookie));
        if (sd_bus_message_get_reply_cookie(m, &cookie) >= 0)
            json_object_set_new(json, "reply_to", json_integer((json_int_t)cookie));
    }
    for (size_t i = 0; i < ELEMENTS(fields); i++)
        if (fields[i].value && *fields[i].value)
            json_object_set_new(json, fields[i].key, json_string(fields[i].value));
    withheld = r >= 0 ? ubus_secrets_mask(w->secrets, m, args) : NULL;
    if (withheld)
        json_object_set_new(json, "withheld", json_string(withheld));
    else if (r >= 0)
        json_object_set(json, "args", args);
    else /* for example descriptors */
        json_object_set_new(json, "unreadable", json_string(e.message ? e.message : strerror(-r)));
    hybus_json_error_done(&e);
    return TAKE_PTR(json);
}

static void show(watch *w, sd_bus_message *m)
{
    json_t *json = describe(w, m);
    int code = ubus_print_json(w->u, json);

    json_decref(json);
    if (code)
        w->code = code;
    else if (w->u->count && ++w->n >= w->u->count)
        w->code = UBUS_OK;
}

static int on_signal(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    watch *w = userdata;
    _cleanup_(freep) char *full = NULL;

    if (w->code >= 0)
        return 0;
    if (w->pattern) {
        if (asprintf(&full, "%s.%s", strempty(sd_bus_message_get_interface(m)),
                     strempty(sd_bus_message_get_member(m))) < 0) {
            full = NULL;
            return 0;
        }
        if (fnmatch(w->pattern, full, 0) != 0)
            return 0;
    }
    show(w, m);
    return 0;
}

/* Until the code is set, the time is over, or the bus is gone. */
static int loop(watch *w, uint64_t deadline)
{
    while (w->code < 0) {
        uint64_t now = ubus_now();
        int r = sd_bus_process(w->u->bus, NULL);

        if (r == 0 && w->code < 0) {
            if (now >= deadline)
                return UBUS_TIMEOUT;
            r = sd_bus_wait(w->u->bus, deadline == UINT64_MAX ? UINT64_MAX : deadline - now);
            if (r == -EINTR)
                r = 0;
        }
        if (r < 0) {
            ubus_failed("the bus went away", NULL, r);
            return UBUS_NO_BUS;
        }
    }
    return w->code;
}

int verb_listen(ubus *u, int argc, char *argv[])
{
    _cleanup_(ubus_secrets_freep) ubus_secrets *secrets = ubus_secrets_new(u);
    watch w = {.u = u, .secrets = secrets, .pattern = argc > 0 ? argv[0] : NULL, .code = -1};
    uint64_t deadline = ubus_deadline(u);
    int code = ubus_connect(u), r;

    if (code)
        return code;
    if (!secrets)
        return ubus_failed("listen", NULL, -ENOMEM);
    r = sd_bus_add_match(u->bus, NULL, "type='signal'", on_signal, &w);
    if (r < 0)
        return ubus_failed("listen", NULL, r);
    note(u, "listening");
    return loop(&w, deadline);
}

static int on_owner(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *name, *old, *new;
    watch *w = userdata;

    if (w->code >= 0 || sd_bus_message_read(m, "sss", &name, &old, &new) < 0)
        return 0;
    json_t *json = json_pack("{ssss}", "name", name, "owner", new);
    int code = ubus_print_json(w->u, json);

    json_decref(json);
    if (code)
        w->code = code;
    return 0;
}

static bool has_owner(ubus *u, const char *name)
{
    _message_ *reply = NULL;
    int has = 0;
    int r = sd_bus_call_method(u->bus, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                               "org.freedesktop.DBus", "NameHasOwner", NULL, &reply, "s", name);

    return r >= 0 && sd_bus_message_read(reply, "b", &has) >= 0 && has;
}

int verb_subscribe(ubus *u, int argc, char *argv[])
{
    _cleanup_(ubus_secrets_freep) ubus_secrets *secrets = ubus_secrets_new(u);
    watch w = {.u = u, .secrets = secrets, .code = -1};
    _cleanup_(freep) char *rule = NULL, *owner = NULL;
    uint64_t deadline = ubus_deadline(u);
    int code, r;

    if (!ubus_is_name(argv[0]))
        return ubus_usage_error("'%s' is not a bus name", argv[0]);
    if (argc > 1 && !sd_bus_interface_name_is_valid(argv[1]))
        return ubus_usage_error("'%s' is not an interface", argv[1]);
    if (asprintf(&rule, "type='signal',sender='%s'%s%s%s", argv[0], argc > 1 ? ",interface='" : "",
                 argc > 1 ? argv[1] : "", argc > 1 ? "'" : "") < 0)
        return ubus_failed("subscribe", NULL, -ENOMEM);
    if (asprintf(&owner,
                 "type='signal',sender='org.freedesktop.DBus',path='/org/freedesktop/DBus',"
                 "interface='org.freedesktop.DBus',member='NameOwnerChanged',arg0='%s'",
                 argv[0]) < 0 ||
        !secrets)
        return ubus_failed("subscribe", NULL, -ENOMEM);
    code = ubus_connect(u);
    if (code)
        return code;
    r = sd_bus_add_match(u->bus, NULL, rule, on_signal, &w);
    if (r >= 0)
        r = sd_bus_add_match(u->bus, NULL, owner, on_owner, &w);
    if (r < 0)
        return ubus_failed("subscribe", NULL, r);
    note(u, has_owner(u, argv[0]) ? "listening" : "listening; the name has no owner yet");
    return loop(&w, deadline);
}

static void check_owned(watch *w)
{
    int n = 0;

    for (int i = 0; i < w->n_names; i++)
        n += w->owned[i];
    if (n == w->n_names)
        w->code = UBUS_OK;
}

static int on_wanted(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *name, *old, *new;
    watch *w = userdata;

    if (sd_bus_message_read(m, "sss", &name, &old, &new) < 0)
        return 0;
    for (int i = 0; i < w->n_names; i++)
        if (streq(w->names[i], name))
            w->owned[i] = *new;
    check_owned(w);
    return 0;
}

int verb_wait_for(ubus *u, int argc, char *argv[])
{
    bool owned[64] = {};
    watch w = {.u = u, .code = -1, .names = argv, .n_names = argc, .owned = owned};
    uint64_t deadline = ubus_deadline(u);
    int code, r;

    for (int i = 0; i < argc; i++)
        if (!ubus_is_name(argv[i]) || argv[i][0] == ':')
            return ubus_usage_error("'%s' is not a well-known bus name", argv[i]);
    code = ubus_connect(u);
    if (code)
        return code;
    /* First watch, then look: a name that comes in between is seen either way. */
    r = sd_bus_match_signal(u->bus, NULL, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                            "org.freedesktop.DBus", "NameOwnerChanged", on_wanted, &w);
    if (r < 0)
        return ubus_failed("wait_for", NULL, r);
    for (int i = 0; i < argc; i++)
        owned[i] = has_owner(u, argv[i]);
    check_owned(&w);
    if (w.code < 0)
        note(u, "waiting");
    code = loop(&w, deadline);
    for (int i = 0; code == UBUS_TIMEOUT && i < argc; i++)
        if (!owned[i])
            fprintf(stderr, "h-ubus: %s has no owner\n", argv[i]);
    return code;
}

static int on_any(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *destination = sd_bus_message_get_destination(m), *own;
    watch *w = userdata;

    /* Who becomes a monitor loses its name and is told so: nothing that was asked for. */
    if (destination && sd_bus_get_unique_name(w->u->bus, &own) >= 0 && streq(own, destination))
        return 1;
    if (w->code < 0)
        show(w, m);
    return 1; /* nothing is ours to answer */
}

int verb_monitor(ubus *u, int argc, char *argv[])
{
    _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
    _cleanup_(ubus_secrets_freep) ubus_secrets *secrets = ubus_secrets_new(u);
    watch w = {.u = u, .secrets = secrets, .code = -1};
    _message_ *m = NULL;
    uint64_t deadline = ubus_deadline(u);
    int code = ubus_connect_monitor(u), r;

    if (code)
        return code;
    if (!secrets)
        return ubus_failed("monitor", NULL, -ENOMEM);
    r = sd_bus_message_new_method_call(u->bus, &m, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                       "org.freedesktop.DBus.Monitoring", "BecomeMonitor");
    if (r >= 0)
        r = sd_bus_message_open_container(m, 'a', "s");
    for (int i = 0; i < argc && r >= 0; i++)
        r = sd_bus_message_append(m, "s", argv[i]);
    if (r >= 0)
        r = sd_bus_message_close_container(m);
    if (r >= 0)
        r = sd_bus_message_append(m, "u", 0);
    if (r >= 0)
        r = sd_bus_call(u->bus, m, u->timeout_usec, &error, NULL);
    if (r < 0)
        return ubus_failed("monitor", &error, r);
    r = sd_bus_add_filter(u->bus, NULL, on_any, &w);
    if (r < 0)
        return ubus_failed("monitor", NULL, r);
    note(u, "monitoring");
    return loop(&w, deadline);
}
