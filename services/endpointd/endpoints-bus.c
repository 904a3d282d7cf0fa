/* SPDX-License-Identifier: Apache-2.0 */
#include "endpoints-bus.h"

#include <hybus/credentials.h>
#include <hybus/error.h>
#include <hybus/log.h>
#include <hybus/object.h>

#define DRIVER "org.freedesktop.DBus"

/* A connection to the bus that has registered something or asks to. Lives until it leaves the bus.
 */
typedef struct bus_owner {
    endpoints_bus *bus;
    struct bus_owner *next;
    char *name;
    endpoints_identity *identity; /* NULL: the bus is being asked */
    sd_bus_slot *credentials;
    size_t n_calls;
} bus_owner;

/* A Register on its way: first its caller has to be known, then the policy is asked, then it is written
 * down. An app on the bus does not register again after a crash of ours, so it is told only then. */
typedef struct bus_call {
    endpoints_bus *bus;
    struct bus_call *next; /* in the order of arrival */
    bus_owner *owner;
    sd_bus_message *message;
    endpoints_spec spec;
    registrar_request *request;
    char key[ENDPOINTS_KEY_SIZE + 1]; /* registered, but not written down yet */
} bus_call;

struct endpoints_bus {
    sd_bus *bus;
    registrar *registrar;
    channel *channel;
    hybus_object *object;
    sd_bus_slot *left, *adopting;
    bus_owner *owners;
    bus_call *calls;
    size_t n_owners;
    endpoints_spec *adopt; /* namespace and bus name of who is expected back */
    size_t n_adopt, adopt_at;
};

/* --- owners and calls ----------------------------------------------------------------------- */

static void call_free(bus_call *c)
{
    bus_call **at;

    for (at = &c->bus->calls; *at != c; at = &(*at)->next)
        ;
    *at = c->next;
    c->owner->n_calls--;
    registrar_request_cancel(c->request);
    endpoints_spec_done(&c->spec);
    sd_bus_message_unref(c->message);
    free(c);
}

static bus_owner *find_owner(const endpoints_bus *b, const char *name)
{
    for (bus_owner *o = b->owners; o; o = o->next)
        if (streq(o->name, name))
            return o;
    return NULL;
}

static void owner_free(bus_owner *o)
{
    endpoints_bus *b = o->bus;
    bus_owner **at;
    bus_call *next;

    for (bus_call *c = b->calls; c; c = next) {
        next = c->next;
        if (c->owner == o)
            call_free(c);
    }
    registrar_owner_gone(b->registrar, o);
    for (at = &b->owners; *at != o; at = &(*at)->next)
        ;
    *at = o->next;
    b->n_owners--;
    sd_bus_slot_unref(o->credentials);
    endpoints_identity_unref(o->identity);
    free(o->name);
    free(o);
}

static bool owner_idle(const endpoints_bus *b, const bus_owner *o)
{
    const endpoints_entry *entry;

    if (o->n_calls > 0)
        return false;
    for (size_t i = 0; (entry = endpoints_registration_at(registrar_table(b->registrar), i)); i++)
        if (entry->owner == o || (!entry->owner && entry->spec.bus_name &&
                                  streq(entry->spec.bus_name, o->name))) /* being adopted */
            return false;
    return true;
}

static int get_owner(endpoints_bus *b, const char *name, sd_bus_error *error, bus_owner **ret)
{
    bus_owner *o = find_owner(b, name), *next;

    if (o) {
        *ret = o;
        return 0;
    }
    /* Who asked once and holds nothing is not worth remembering. */
    if (b->n_owners >= ENDPOINTS_BUS_OWNERS_MAX)
        for (o = b->owners; o; o = next) {
            next = o->next;
            if (owner_idle(b, o))
                owner_free(o);
        }
    if (b->n_owners >= ENDPOINTS_BUS_OWNERS_MAX)
        return hybus_error_set(error, -ENOBUFS, "too many apps on the bus");
    o = calloc(1, sizeof(*o));
    if (!o)
        return -ENOMEM;
    o->bus = b;
    o->name = strdup(name);
    if (!o->name) {
        free(o);
        return -ENOMEM;
    }
    o->next = b->owners;
    b->owners = o;
    b->n_owners++;
    *ret = o;
    return 0;
}

static int on_name_left(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    endpoints_bus *b = userdata;
    const char *name, *before, *now;
    bus_owner *o;

    if (sd_bus_message_read(m, "sss", &name, &before, &now) < 0 || now[0])
        return 0;
    o = find_owner(b, name);
    if (o)
        owner_free(o);
    return 0;
}

static int error_of(unsigned code)
{
    switch (code) {
    case 400:
        return -EINVAL;
    case 403:
        return -EACCES;
    case 409:
    case 410:
        return -EEXIST;
    case 429:
        return -ENOBUFS;
    default:
        return -ENOKEY;
    }
}

static void call_refuse(bus_call *c, int error, const char *reason, const char *audit)
{
    _cleanup_(sd_bus_error_free) sd_bus_error e = SD_BUS_ERROR_NULL;

    hybus_error_set(&e, error, audit ? "%s (audit %s)" : "%s", reason, audit);
    (void)sd_bus_reply_method_error(c->message, &e);
    call_free(c);
}

static void on_withdrawn(void *owner, const endpoints_entry *entry, unsigned code,
                         const char *reason, const char *audit)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
    const bus_owner *o = owner;
    const endpoints_entry *now = endpoints_find(registrar_table(o->bus->registrar), entry->spec.ns);
    char text[512];
    int r;

    if (now && now != entry && now->owner == owner) /* it has taken its own place */
        return;
    for (bus_call *c = o->bus->calls; c; c = c->next)
        if (c->owner == o && streq(c->key, entry->spec.key)) { /* it has not been told of it yet */
            call_refuse(c, error_of(code), reason, audit);
            return;
        }
    snprintf(text, sizeof(text), audit ? "%s (audit %s)" : "%s", reason, audit);
    /* To nobody else: who registers what is not everybody's business. */
    r = sd_bus_message_new_signal(o->bus->bus, &m, ENDPOINTS_BUS_PATH, ENDPOINTS_BUS_NAME,
                                  "Unregistered");
    if (r >= 0)
        r = sd_bus_message_set_destination(m, o->name);
    if (r >= 0)
        r = sd_bus_message_append(m, "sus", entry->spec.ns, code, text);
    if (r >= 0)
        r = sd_bus_send(o->bus->bus, m, NULL);
    if (r < 0)
        hybus_log_errno(LOG_NOTICE, r, "Cannot tell %s that %s has ended", o->name, entry->spec.ns);
}

static const registrar_road bus_road = {.withdrawn = on_withdrawn};

/* --- credentials ------------------------------------------------------------------------------ */

static int read_identity(sd_bus_message *m, int error, const char *name, endpoints_identity **ret)
{
    hybus_credentials c;
    int r = error < 0 ? error : hybus_credentials_read(m, &c);

    return r < 0 ? r : endpoints_identity_new(c.uid, c.gids, c.n_gids, name, ret);
}

/* --- Register -----------------------------------------------------------------------------------
 */

static void call_succeed(bus_call *c)
{
    (void)sd_bus_reply_method_return(c->message, "s", c->key);
    call_free(c);
}

/* Of one owner, or with NULL of all. */
static void tell_registered(endpoints_bus *b, const bus_owner *owner)
{
    bus_call *next;

    for (bus_call *c = b->calls; c; c = next) {
        next = c->next;
        if (c->key[0] && (!owner || c->owner == owner))
            call_succeed(c);
    }
}

static void on_registered(const registrar_outcome *o, void *userdata)
{
    bus_call *c = userdata;

    c->request = NULL;
    if (o->code != 200) {
        call_refuse(c, error_of(o->code), strempty(o->reason), o->audit);
        return;
    }
    snprintf(c->key, sizeof(c->key), "%s", o->entry->spec.key);
    if (!registrar_unsaved(c->bus->registrar))
        call_succeed(c);
}

static void call_ask(bus_call *c)
{
    int r = registrar_register(c->bus->registrar, &c->spec, c->owner->identity, c->owner, 0,
                               on_registered, c, &c->request);

    if (r < 0)
        call_refuse(c, r == -ENOBUFS || r == -EBUSY ? -ENOBUFS : -ENOKEY, registrar_refusal(r), NULL);
}

static void on_credentials(sd_bus_message *m, int error, void *userdata)
{
    bus_owner *o = userdata;
    bus_call *next;
    int r;

    o->credentials = sd_bus_slot_unref(o->credentials);
    r = read_identity(m, error, o->name, &o->identity);
    for (bus_call *c = o->bus->calls; c; c = next) {
        next = c->next;
        if (c->owner != o)
            continue;
        if (r < 0)
            call_refuse(c, -EACCES, "the caller cannot be identified", NULL);
        else
            call_ask(c);
    }
}

static int read_rules(sd_bus_message *m, endpoints_spec *s, sd_bus_error *error)
{
    const char *rule;
    int r;

    r = sd_bus_message_enter_container(m, 'v', "as");
    if (r >= 0)
        r = sd_bus_message_enter_container(m, 'a', "s");
    while (r >= 0 && (r = sd_bus_message_read(m, "s", &rule)) > 0) {
        r = endpoints_spec_add_rule(s, rule, strlen(rule));
        if (r == -EINVAL)
            return hybus_error_set(error, r, "\"%s\" is not METHODS SUBPATH PERMISSION", rule);
        if (r < 0)
            return hybus_error_set(error, r, "too many rules");
    }
    if (r >= 0)
        r = sd_bus_message_exit_container(m);
    return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_flag(sd_bus_message *m, bool *ret)
{
    int value, r = sd_bus_message_read(m, "v", "b", &value);

    if (r > 0)
        *ret = value;
    return r;
}

static int read_option(sd_bus_message *m, const char *key, endpoints_spec *s, sd_bus_error *error)
{
    const char *value;
    int r;

    if (streq(key, "rules"))
        return read_rules(m, s, error);
    if (streq(key, "takeover"))
        return read_flag(m, &s->takeover);
    if (streq(key, "stream"))
        return read_flag(m, &s->stream);
    if (streq(key, "watch"))
        return read_flag(m, &s->watch);
    if (!streq(key, "title") && !streq(key, "attributes") && !streq(key, "key"))
        return hybus_error_set(error, -EINVAL, "unknown option \"%s\"", key);
    r = sd_bus_message_read(m, "v", "s", &value);
    if (r < 0)
        return r;
    r = streq(key, "title")        ? endpoints_spec_set_title(s, value, strlen(value))
        : streq(key, "attributes") ? endpoints_spec_set_attributes(s, value, strlen(value))
                                   : endpoints_spec_set_key(s, value, strlen(value));
    return r < 0 ? hybus_error_set(error, r, "option \"%s\" is not valid", key) : r;
}

static int read_register(sd_bus_message *m, endpoints_spec *s, sd_bus_error *error)
{
    const char *ns, *object, *sender = sd_bus_message_get_sender(m), *key;
    unsigned n = 0;
    int r;

    r = sd_bus_message_read(m, "so", &ns, &object);
    if (r < 0)
        return hybus_error_set(error, -EINVAL, "expected soa{sv}");
    s->road = ENDPOINTS_BUS;
    if (endpoints_spec_set_namespace(s, ns, strlen(ns)) < 0)
        return hybus_error_set(error, -EINVAL, "\"%s\" is not a namespace", ns);
    if (endpoints_spec_set_object(s, object, strlen(object)) < 0)
        return hybus_error_set(error, -EINVAL, "the object path is too long");
    if (!sender || endpoints_spec_set_bus_name(s, sender, strlen(sender)) < 0)
        return hybus_error_set(error, -EACCES, "the caller has no name on the bus");
    r = sd_bus_message_enter_container(m, 'a', "{sv}");
    while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
        if (++n > ENDPOINTS_BUS_OPTIONS_MAX)
            return hybus_error_set(error, -EINVAL, "more than %u options",
                                   ENDPOINTS_BUS_OPTIONS_MAX);
        r = sd_bus_message_read(m, "s", &key);
        if (r >= 0)
            r = read_option(m, key, s, error);
        if (r >= 0)
            r = sd_bus_message_exit_container(m);
    }
    if (r < 0 && !sd_bus_error_is_set(error))
        return hybus_error_set(error, -EINVAL, "an option has the wrong type");
    return r;
}

static bool many_unknown(const endpoints_bus *b)
{
    size_t n = 0;

    for (const bus_call *c = b->calls; c; c = c->next)
        n += !c->owner->identity;
    return n >= ENDPOINTS_BUS_CALLS_MAX;
}

static int admit_call(endpoints_bus *b, const char *name, sd_bus_error *error, bus_owner **ret)
{
    int r = get_owner(b, name, error, ret);

    if (r < 0)
        return r;
    if ((*ret)->n_calls >= ENDPOINTS_BUS_CALLS_OWNER_MAX)
        return hybus_error_set(error, -ENOBUFS,
                               "too many registrations of this connection on their way");
    if (!(*ret)->identity && many_unknown(b))
        return hybus_error_set(error, -ENOBUFS, "too many registrations on their way");
    return 0;
}

static int call_new(bus_owner *owner, sd_bus_message *m, endpoints_spec *spec, bus_call **ret)
{
    endpoints_bus *b = owner->bus;
    bus_call *c = calloc(1, sizeof(*c)), **at;

    if (!c)
        return -ENOMEM;
    c->bus = b;
    c->owner = owner;
    c->message = sd_bus_message_ref(m);
    c->spec = *spec;
    *spec = (endpoints_spec){};
    for (at = &b->calls; *at; at = &(*at)->next)
        ;
    *at = c;
    owner->n_calls++;
    *ret = c;
    return 0;
}

static int method_register(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    endpoints_bus *b = userdata;
    endpoints_spec spec = {};
    bus_owner *owner;
    bus_call *c;
    int r;

    r = read_register(m, &spec, error);
    if (r >= 0)
        r = admit_call(b, spec.bus_name, error, &owner);
    if (r >= 0)
        r = call_new(owner, m, &spec, &c);
    endpoints_spec_done(&spec);
    if (r < 0)
        return r;
    if (owner->identity)
        call_ask(c);
    else if (!owner->credentials) {
        r = hybus_credentials_ask(b->bus, owner->name, on_credentials, owner, &owner->credentials);
        if (r < 0) {
            call_free(c);
            return r;
        }
    }
    return 1;
}

/* --- the other members
 * ---------------------------------------------------------------------------- */

static endpoints_entry *find_own(endpoints_bus *b, sd_bus_message *m, const char *ns)
{
    const char *sender = sd_bus_message_get_sender(m);
    bus_owner *o = sender ? find_owner(b, sender) : NULL;
    endpoints_entry *entry = o ? endpoints_find(registrar_table(b->registrar), ns) : NULL;

    return entry && entry->owner == o ? entry : NULL;
}

static int method_unregister(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    endpoints_bus *b = userdata;
    endpoints_entry *entry;
    const char *ns;
    int r;

    r = sd_bus_message_read(m, "s", &ns);
    if (r < 0)
        return r;
    entry = find_own(b, m, ns);
    if (!entry)
        return hybus_error_set(error, -ENOENT, "%s is not registered by the caller", ns);
    tell_registered(b, entry->owner); /* one after the other */
    endpoints_remove(registrar_table(b->registrar), entry);
    return sd_bus_reply_method_return(m, NULL);
}

/* Printable ASCII, as header fields have it. */
static bool text_valid(const char *s, size_t min, size_t max)
{
    size_t n = strlen(s);

    if (n < min || n > max)
        return false;
    for (; *s; s++)
        if (*s < ' ' || *s > '~')
            return false;
    return true;
}

static int read_value_option(sd_bus_message *m, const char *key, channel_value *v,
                             sd_bus_error *error)
{
    if (streq(key, "id"))
        return sd_bus_message_read(m, "v", "s", &v->id);
    if (streq(key, "gone"))
        return read_flag(m, &v->gone);
    if (streq(key, "max-age")) {
        v->has_max_age = true;
        return sd_bus_message_read(m, "v", "u", &v->max_age);
    }
    return hybus_error_set(error, -EINVAL, "unknown option \"%s\"", key);
}

static int read_value(sd_bus_message *m, channel_value *v, sd_bus_error *error)
{
    const char *key;
    int r;

    r = sd_bus_message_read(m, "sss", &v->ns, &v->path, &v->content_type);
    if (r >= 0)
        r = sd_bus_message_enter_container(m, 'a', "{sv}");
    while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
        r = sd_bus_message_read(m, "s", &key);
        if (r >= 0)
            r = read_value_option(m, key, v, error);
        if (r >= 0)
            r = sd_bus_message_exit_container(m);
    }
    if (r >= 0)
        r = sd_bus_message_exit_container(m);
    if (r >= 0)
        r = sd_bus_message_read_array(m, 'y', &v->body, &v->size);
    if (r < 0)
        return sd_bus_error_is_set(error) ? r
                                          : hybus_error_set(error, -EINVAL, "expected sssa{sv}ay");
    if (v->path[0] != '/' || !text_valid(v->path, 1, ENDPOINTS_NOTIFY_PATH_MAX))
        return hybus_error_set(error, -EINVAL, "the path starts with / and has at most %u bytes",
                               ENDPOINTS_NOTIFY_PATH_MAX);
    if (!text_valid(v->content_type, 0, 255) || (v->id && !text_valid(v->id, 1, 128)))
        return hybus_error_set(error, -EINVAL, "content type or id is not valid");
    if (v->size > ENDPOINTS_NOTIFY_MAX)
        return hybus_error_set(error, -ENOBUFS, "a value has at most %u bytes",
                               ENDPOINTS_NOTIFY_MAX);
    return 0;
}

static int method_notify(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    endpoints_bus *b = userdata;
    channel_value v = {};
    const endpoints_entry *own;
    int r;

    r = read_value(m, &v, error);
    if (r < 0)
        return r;
    own = find_own(b, m, v.ns);
    if (!own)
        return hybus_error_set(error, -ENOENT, "%s is not registered by the caller", v.ns);
    v.uid = own->spec.uid;
    r = channel_notify(b->channel, &v);
    if (r < 0)
        return hybus_error_set(error, -ENOBUFS, "a server does not keep up; try later");
    return sd_bus_reply_method_return(m, NULL);
}

static int method_list(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
    endpoints_bus *b = userdata;
    endpoints_cursor cursor = {};
    const endpoints_entry *e;
    int r;

    r = sd_bus_message_new_method_return(m, &reply);
    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'a', "(ssussb)");
    while (r >= 0 && (e = endpoints_next(registrar_table(b->registrar), &cursor))) {
        const endpoints_spec *s = &e->spec;
        const char *owner = s->road == ENDPOINTS_BUS     ? s->bus_name
                            : s->road == ENDPOINTS_START ? s->unit
                                                         : "";
        r = sd_bus_message_append(reply, "(ssussb)", s->ns, strempty(s->title), s->uid,
                                  endpoints_road_name(s->road), owner, e->owner != NULL);
    }
    if (r >= 0)
        r = sd_bus_message_close_container(reply);
    return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int method_list_servers(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
    endpoints_bus *b = userdata;
    channel_server s;
    int r;

    r = sd_bus_message_new_method_return(m, &reply);
    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'a', "(sssb)");
    for (size_t i = 0; r >= 0 && channel_server_at(b->channel, i, &s); i++)
        r = sd_bus_message_append(reply, "(sssb)", s.name, s.protocol, s.socket, true);
    if (r >= 0)
        r = sd_bus_message_close_container(reply);
    return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int property_revision(sd_bus *bus, const char *path, const char *interface,
                             const char *property, sd_bus_message *reply, void *userdata,
                             sd_bus_error *error)
{
    endpoints_bus *b = userdata;

    return sd_bus_message_append(reply, "t", endpoints_revision(registrar_table(b->registrar)));
}

static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD_WITH_ARGS("Register", SD_BUS_ARGS("s", namespace, "o", object, "a{sv}", options),
                            SD_BUS_RESULT("s", key), method_register, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Unregister", SD_BUS_ARGS("s", namespace), SD_BUS_NO_RESULT,
                            method_unregister, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS(
        "Notify",
        SD_BUS_ARGS("s", namespace, "s", path, "s", content_type, "a{sv}", options, "ay", body),
        SD_BUS_NO_RESULT, method_notify, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("List", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(ssussb)", endpoints),
                            method_list, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("ListServers", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(sssb)", servers),
                            method_list_servers, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_SIGNAL_WITH_ARGS("Unregistered", SD_BUS_ARGS("s", namespace, "u", code, "s", reason), 0),
    SD_BUS_PROPERTY("Revision", "t", property_revision, 0,
                    SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
    SD_BUS_VTABLE_END,
};

/* --- after a restart
 * ------------------------------------------------------------------------------ */

static void adopt_next(endpoints_bus *b);

/* A unique name is never given twice in the life of a bus: who bears it is who registered. */
static int adopt(endpoints_bus *b, const endpoints_spec *wanted, sd_bus_message *m, int error)
{
    _cleanup_(endpoints_identity_unrefp) endpoints_identity *identity = NULL;
    const endpoints_entry *e = endpoints_find(registrar_table(b->registrar), wanted->ns);
    bus_owner *owner;
    int r;

    /* The table may have moved on while the bus was asked. */
    if (!e || e->owner || !e->spec.bus_name || !streq(e->spec.bus_name, wanted->bus_name))
        return 0;
    r = read_identity(m, error, wanted->bus_name, &identity);
    if (r >= 0 && identity->uid != e->spec.uid)
        r = -EACCES;
    if (r >= 0)
        r = get_owner(b, wanted->bus_name, NULL, &owner);
    if (r < 0)
        return r;
    if (!owner->identity)
        owner->identity = endpoints_identity_ref(identity);
    return registrar_adopt(b->registrar, wanted->ns, identity, owner);
}

static void on_holder(sd_bus_message *m, int error, void *userdata)
{
    endpoints_bus *b = userdata;
    const endpoints_spec *wanted = &b->adopt[b->adopt_at++];
    int r;

    b->adopting = sd_bus_slot_unref(b->adopting);
    r = adopt(b, wanted, m, error);
    if (r < 0)
        hybus_log_errno(LOG_NOTICE, r, "%s on the bus has gone with %s", wanted->ns,
                        wanted->bus_name);
    adopt_next(b);
}

/* One after the other: few, and the bus limits open calls. What nobody is found for expires. */
static void adopt_next(endpoints_bus *b)
{
    if (b->adopt_at < b->n_adopt &&
        hybus_credentials_ask(b->bus, b->adopt[b->adopt_at].bus_name, on_holder, b, &b->adopting) <
            0)
        hybus_warning("Cannot look for the apps on the bus; they have to register again");
}

static int adopt_list(endpoints_bus *b)
{
    const endpoints_entry *e;
    int r = 0;

    b->adopt = calloc(ENDPOINTS_MAX, sizeof(*b->adopt));
    if (!b->adopt)
        return -ENOMEM;
    for (size_t i = 0; r >= 0; i++) {
        endpoints_spec *to = &b->adopt[b->n_adopt];
        e = endpoints_registration_at(registrar_table(b->registrar), i);
        if (!e)
            break;
        if (e->owner || e->spec.road != ENDPOINTS_BUS)
            continue;
        b->n_adopt++;
        r = endpoints_spec_set_namespace(to, e->spec.ns, strlen(e->spec.ns));
        if (r >= 0)
            r = endpoints_spec_set_bus_name(to, e->spec.bus_name, strlen(e->spec.bus_name));
    }
    return r;
}

static void on_moved(void *userdata)
{
    endpoints_bus *b = userdata;

    tell_registered(b, NULL);
    hybus_object_changed(b->object, "Revision", NULL);
}

int endpoints_bus_new(sd_bus *bus, registrar *g, channel *c, endpoints_bus **ret)
{
    _cleanup_(endpoints_bus_freep) endpoints_bus *b = calloc(1, sizeof(*b));
    int r;

    if (!b)
        return hybus_log_errno(LOG_ERR, -ENOMEM, "Cannot publish " ENDPOINTS_BUS_PATH);
    b->bus = sd_bus_ref(bus);
    b->registrar = g;
    b->channel = c;
    r = hybus_object_publish(bus, ENDPOINTS_BUS_PATH, ENDPOINTS_BUS_NAME, vtable, b, &b->object);
    if (r < 0)
        return r;
    r = sd_bus_add_match_async(bus, &b->left,
                               "type='signal',sender='" DRIVER
                               "',path='/org/freedesktop/DBus',interface='" DRIVER
                               "',member='NameOwnerChanged',arg2=''",
                               on_name_left, NULL, b);
    if (r >= 0)
        r = adopt_list(b);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot follow who is on the bus");
    registrar_set_road(g, ENDPOINTS_BUS, &bus_road);
    registrar_set_moved(g, on_moved, b);
    adopt_next(b);
    *ret = TAKE_PTR(b);
    return 0;
}

void endpoints_bus_free(endpoints_bus *b)
{
    if (!b)
        return;
    registrar_set_road(b->registrar, ENDPOINTS_BUS, NULL);
    registrar_set_moved(b->registrar, NULL, NULL);
    while (b->owners)
        owner_free(b->owners);
    for (size_t i = 0; i < b->n_adopt; i++)
        endpoints_spec_done(&b->adopt[i]);
    free(b->adopt);
    sd_bus_slot_unref(b->adopting);
    sd_bus_slot_unref(b->left);
    hybus_object_free(b->object);
    sd_bus_unref(b->bus);
    free(b);
}
