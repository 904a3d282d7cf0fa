/* SPDX-License-Identifier: Apache-2.0 */
/* call, get, set, send: one message out, typed by introspection, one answer back. */
#include "hybus/signature.h"
#include "ubus.h"

#define PROPERTIES "org.freedesktop.DBus.Properties"

/* NAME [PATH] [INTERFACE.]MEMBER, as the user wrote it and as it was found. */
typedef struct target {
    hybus_xml_kind kind;
    const char *name, *written;
    char *path, *interface, *member, *signature;
    bool any_interface; /* get -a: `written` is an interface */
    hybus_xml *xml;     /* of the object */
    const hybus_xml_member *found;
    unsigned n_found; /* while looking through all objects */
} target;

static void target_done(target *t)
{
    free(t->path);
    free(t->interface);
    free(t->member);
    free(t->signature);
    hybus_xml_free(t->xml);
}

static int split_member(target *t, const char *written)
{
    const char *dot = strrchr(written, '.');

    t->written = written;
    if (t->any_interface) {
        t->interface = strdup(written);
        return sd_bus_interface_name_is_valid(written) > 0
                   ? UBUS_OK
                   : ubus_usage_error("'%s' is not an interface", written);
    }
    t->interface = dot ? strndup(written, dot - written) : NULL;
    t->member = strdup(dot ? dot + 1 : written);
    if (!t->member || (dot && !t->interface))
        return ubus_failed("arguments", NULL, -ENOMEM);
    if (!sd_bus_member_name_is_valid(t->member) ||
        (t->interface && !sd_bus_interface_name_is_valid(t->interface)))
        return ubus_usage_error("'%s' is not [INTERFACE.]MEMBER", written);
    return UBUS_OK;
}

/* Takes NAME [PATH] MEMBER off the arguments; *ret_used says how many. */
static int parse_target(target *t, int argc, char *argv[], int *ret_used)
{
    bool with_path = argc > 1 && argv[1][0] == '/';

    t->name = argv[0];
    if (!ubus_is_name(t->name))
        return ubus_usage_error("'%s' is not a bus name", t->name);
    if (with_path && !sd_bus_object_path_is_valid(argv[1]))
        return ubus_usage_error("'%s' is not an object path", argv[1]);
    if (argc < 2 + with_path)
        return ubus_usage_error("what of %s?", t->name);
    if (with_path && !(t->path = strdup(argv[1])))
        return ubus_failed("arguments", NULL, -ENOMEM);
    *ret_used = 2 + with_path;
    return split_member(t, argv[1 + with_path]);
}

/* 1: found, 0: not there, negative: several interfaces have it. */
static int look_in(target *t, const hybus_xml *xml, const char **ret_interface,
                   const hybus_xml_member **ret)
{
    int n = 0;

    if (t->any_interface) {
        *ret_interface = t->interface;
        return hybus_xml_find_interface(xml, t->interface) ? 1 : 0;
    }
    for (size_t i = 0; i < xml->n_interfaces; i++) {
        const hybus_xml_interface *iface = &xml->interfaces[i];
        const hybus_xml_member *m = hybus_xml_find_member(iface, t->kind, t->member);

        if (!m || (t->interface && !streq(t->interface, iface->name)))
            continue;
        *ret_interface = iface->name;
        *ret = m;
        n++;
    }
    return n > 1 ? -1 : n;
}

/* `signature`: as the user told it, or NULL. */
static int found(target *t, const char *path, const char *interface, const hybus_xml_member *m,
                 const char *signature)
{
    free(t->path);
    t->path = strdup(path);
    if (!t->interface)
        t->interface = strdup(interface);
    free(t->signature);
    if (!signature)
        signature = !m ? "" : m->kind == HYBUS_XML_METHOD ? m->in : m->out;
    t->signature = strdup(signature);
    return t->path && t->interface && t->signature ? 0 : -ENOMEM;
}

static int look_object(ubus *u, const char *name, const char *path, const hybus_xml *xml,
                       void *userdata)
{
    const hybus_xml_member *m = NULL;
    const char *interface = NULL;
    target *t = userdata;

    if (look_in(t, xml, &interface, &m) != 1)
        return 0;
    if (t->n_found++ == 0)
        return found(t, path, interface, m, NULL);
    fprintf(stderr, "h-ubus: several objects have it; say which: ");
    ubus_print_safe(stderr, t->path);
    fputs(", ", stderr);
    ubus_print_safe(stderr, path);
    fputs(", …\n", stderr);
    return UBUS_USAGE;
}

static int not_found(const target *t)
{
    fputs("h-ubus: ", stderr);
    ubus_print_safe(stderr, t->name);
    fputs(t->path ? " has at " : " has no ", stderr);
    if (t->path) {
        ubus_print_safe(stderr, t->path);
        fputs(" no ", stderr);
    }
    fprintf(stderr, "%s ",
            t->any_interface              ? "interface"
            : t->kind == HYBUS_XML_METHOD ? "method"
                                          : "property");
    ubus_print_safe(stderr, t->written);
    fputs("; see h-ubus list -v ", stderr);
    ubus_print_safe(stderr, t->name);
    fputc('\n', stderr);
    return UBUS_NOT_FOUND;
}

/* Finds object, interface and types by asking the service. */
static int resolve(ubus *u, target *t)
{
    _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
    _cleanup_(freep) char *path = t->path ? strdup(t->path) : ubus_default_path(t->name);
    const hybus_xml_member *m = NULL;
    const char *interface = NULL;
    int r;

    if (u->signature) {
        if (!hybus_signature_is_valid(u->signature))
            return ubus_usage_error("'%s' is not a signature", u->signature);
        if (!t->interface || !path)
            return ubus_usage_error("with --signature, say PATH and INTERFACE.MEMBER in full");
        return found(t, path, t->interface, NULL, u->signature) < 0
                   ? ubus_failed("arguments", NULL, -ENOMEM)
                   : 0;
    }

    r = path ? ubus_introspect(u, t->name, path, &t->xml, &error) : -ENOENT;
    if (r >= 0) {
        r = look_in(t, t->xml, &interface, &m);
        if (r < 0)
            return ubus_usage_error("several interfaces have %s; write INTERFACE.%s", t->member,
                                    t->member);
        if (r > 0) {
            t->found = m;
            return found(t, path, interface, m, NULL) < 0 ? ubus_failed("arguments", NULL, -ENOMEM)
                                                          : 0;
        }
    } else if (t->path || (!sd_bus_error_has_name(&error, SD_BUS_ERROR_UNKNOWN_OBJECT) &&
                           !sd_bus_error_has_name(&error, SD_BUS_ERROR_UNKNOWN_METHOD) && path))
        return ubus_failed(t->name, &error, r);
    if (t->path)
        return not_found(t);

    r = ubus_walk(u, t->name, "/", look_object, t);
    if (r != 0)
        return r;
    if (t->n_found == 0)
        return not_found(t);
    /* Once more, for the names of the arguments in errors. */
    if (ubus_introspect(u, t->name, t->path, &t->xml, &error) >= 0 &&
        look_in(t, t->xml, &interface, &m) == 1)
        t->found = m;
    return UBUS_OK;
}

static int bad_json(const target *t, const char *verb, hybus_json_error *e, int r)
{
    _cleanup_(freep) char *example = NULL;

    fputs("h-ubus: ", stderr);
    ubus_print_safe(stderr, e->message ? e->message : strerror(-r));
    fputc('\n', stderr);
    hybus_json_error_done(e);
    if (r == -ENOMEM)
        return UBUS_LOCAL;
    fputs("Expected: ", stderr);
    if (t->found)
        ubus_print_member(stderr, t->found);
    else
        ubus_print_safe(stderr, t->signature);
    fputc('\n', stderr);
    if (hybus_json_example(t->signature, &example) >= 0) {
        size_t n = strlen(example);

        /* A property is one value, without the list of arguments around it. */
        if (t->kind == HYBUS_XML_PROPERTY)
            memmove(example, example + 1, n - 2), example[n - 2] = 0;
        fprintf(stderr, "Example:  h-ubus %s ", verb);
        if (t->name) {
            ubus_print_safe(stderr, t->name);
            fputc(' ', stderr);
        }
        if (t->path)
            fprintf(stderr, "%s ", t->path);
        fprintf(stderr, "%s%s%s '%s'\n", t->interface ? t->interface : "", t->interface ? "." : "",
                t->member, example);
    }
    return UBUS_USAGE;
}

/* The JSON argument is the list of arguments; anything but a list is the only argument. */
static int append_arguments(const target *t, const char *verb, sd_bus_message *m, const char *text)
{
    _cleanup_(hybus_json_decrefp) json_t *json = NULL, *list = NULL;
    hybus_json_error e = {};
    int r = text                    ? hybus_json_load(text, strlen(text), &json, &e)
            : (json = json_array()) ? 0
                                    : -ENOMEM;

    if (r >= 0 && !json_is_array(json)) {
        list = json_array();
        if (!list || json_array_append(list, json) < 0)
            r = -ENOMEM;
    }
    if (r >= 0)
        r = hybus_json_append(m, t->signature, list ? list : json, &e);
    return r < 0 ? bad_json(t, verb, &e, r) : UBUS_OK;
}

/* Shows an answer: nothing for none, the value for one, a list for several. */
static int print_reply(ubus *u, sd_bus_message *reply)
{
    _cleanup_(hybus_json_decrefp) json_t *json = NULL;
    hybus_json_error e = {};
    int r = hybus_json_read(reply, &json, &e);

    if (r < 0) {
        fputs("h-ubus: the answer cannot be shown: ", stderr);
        ubus_print_safe(stderr, e.message ? e.message : strerror(-r));
        fputc('\n', stderr);
        hybus_json_error_done(&e);
        return UBUS_LOCAL;
    }
    if (json_array_size(json) == 0)
        return UBUS_OK;
    return ubus_print_json(u, json_array_size(json) == 1 ? json_array_get(json, 0) : json);
}

static int exchange(ubus *u, sd_bus_message *m, const char *what, bool unwrap)
{
    _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
    _message_ *reply = NULL;
    int r = sd_bus_call(u->bus, m, u->timeout_usec, &error, &reply);
    const char *contents;

    if (r < 0)
        return ubus_failed(what, &error, r);
    if (unwrap) {
        /* The type of a property is known; it is shown bare. */
        r = sd_bus_message_peek_type(reply, NULL, &contents);
        if (r > 0) {
            _cleanup_(hybus_json_decrefp) json_t *value = NULL;
            hybus_json_error e = {};

            r = sd_bus_message_enter_container(reply, 'v', contents);
            if (r > 0)
                r = hybus_json_read_value(reply, contents, &value, &e);
            if (r >= 0)
                return ubus_print_json(u, value);
            ubus_failed(e.message ? e.message : what, NULL, r);
            hybus_json_error_done(&e);
        }
        return UBUS_LOCAL;
    }
    return print_reply(u, reply);
}

/* Takes the target off the arguments and finds it on the bus; at most (or exactly) `n` more stand
 * behind it, or `usage` is said. */
static int find_target(ubus *u, target *t, int argc, char *argv[], int n, bool exactly,
                       const char *usage, int *ret_used)
{
    int code = parse_target(t, argc, argv, ret_used);

    if (code == 0 && (argc > *ret_used + n || (exactly && argc < *ret_used + n)))
        code = ubus_usage_error("%s", usage);
    if (code == 0)
        code = ubus_connect(u);
    return code ? code : resolve(u, t);
}

int verb_call(ubus *u, int argc, char *argv[])
{
    _cleanup_(target_done) target t = {.kind = HYBUS_XML_METHOD};
    _message_ *m = NULL;
    int used, r,
        code = find_target(u, &t, argc, argv, 1, false,
                           "one JSON list holds all arguments: '[…, …]'", &used);

    if (code)
        return code;
    r = sd_bus_message_new_method_call(u->bus, &m, t.name, t.path, t.interface, t.member);
    if (r < 0)
        return ubus_failed(t.member, NULL, r);
    code = append_arguments(&t, "call", m, argc > used ? argv[used] : NULL);
    return code ? code : exchange(u, m, t.member, false);
}

int verb_get(ubus *u, int argc, char *argv[])
{
    _cleanup_(target_done) target t = {.kind = HYBUS_XML_PROPERTY, .any_interface = u->all};
    _message_ *m = NULL;
    int used, r, code = find_target(u, &t, argc, argv, 0, false, "get takes no value", &used);

    if (code)
        return code;
    r = sd_bus_message_new_method_call(u->bus, &m, t.name, t.path, PROPERTIES,
                                       u->all ? "GetAll" : "Get");
    if (r >= 0)
        r = u->all ? sd_bus_message_append(m, "s", t.interface)
                   : sd_bus_message_append(m, "ss", t.interface, t.member);
    if (r < 0)
        return ubus_failed(t.written, NULL, r);
    return exchange(u, m, t.written, !u->all);
}

int verb_set(ubus *u, int argc, char *argv[])
{
    _cleanup_(target_done) target t = {.kind = HYBUS_XML_PROPERTY};
    _cleanup_(hybus_json_decrefp) json_t *json = NULL;
    hybus_json_error e = {};
    _message_ *m = NULL;
    int used, r, code = find_target(u, &t, argc, argv, 1, true, "which value?", &used);

    if (code)
        return code;
    if (!hybus_signature_is_single(t.signature))
        return ubus_usage_error("a property has one complete type");
    r = sd_bus_message_new_method_call(u->bus, &m, t.name, t.path, PROPERTIES, "Set");
    if (r >= 0)
        r = sd_bus_message_append(m, "ss", t.interface, t.member);
    if (r >= 0)
        r = sd_bus_message_open_container(m, 'v', t.signature);
    if (r < 0)
        return ubus_failed(t.written, NULL, r);
    r = hybus_json_load(argv[used], strlen(argv[used]), &json, &e);
    if (r >= 0)
        r = hybus_json_append_value(m, t.signature, json, &e);
    if (r < 0)
        return bad_json(&t, "set", &e, r);
    r = sd_bus_message_close_container(m);
    return r < 0 ? ubus_failed(t.written, NULL, r) : exchange(u, m, t.written, false);
}

int verb_send(ubus *u, int argc, char *argv[])
{
    _cleanup_(target_done) target t = {.kind = HYBUS_XML_SIGNAL};
    _message_ *m = NULL;
    bool ours;
    int code, r;

    if (!sd_bus_object_path_is_valid(argv[0]))
        return ubus_usage_error("'%s' is not an object path", argv[0]);
    code = split_member(&t, argv[1]);
    if (code)
        return code;
    if (!t.interface)
        return ubus_usage_error("'%s' is not INTERFACE.SIGNAL", argv[1]);
    if (u->destination && !ubus_is_name(u->destination))
        return ubus_usage_error("'%s' is not a bus name", u->destination);
    if (!u->signature && (t.xml = ubus_installed(u, t.interface, &ours))) {
        const hybus_xml_interface *i = hybus_xml_find_interface(t.xml, t.interface);

        t.found = i ? hybus_xml_find_member(i, HYBUS_XML_SIGNAL, t.member) : NULL;
    }
    if (!u->signature && !t.found && argc > 2)
        return ubus_usage_error("no installed interface file has the signal %s; say --signature",
                                argv[1]);
    if (u->signature && !hybus_signature_is_valid(u->signature))
        return ubus_usage_error("'%s' is not a signature", u->signature);
    t.signature = strdup(u->signature ? u->signature : t.found ? t.found->out : "");
    t.path = strdup(argv[0]);
    if (!t.signature || !t.path)
        return ubus_failed("arguments", NULL, -ENOMEM);
    code = ubus_connect(u);
    if (code)
        return code;
    r = sd_bus_message_new_signal(u->bus, &m, t.path, t.interface, t.member);
    if (r >= 0 && u->destination)
        r = sd_bus_message_set_destination(m, u->destination);
    if (r < 0)
        return ubus_failed(argv[1], NULL, r);
    code = append_arguments(&t, "send", m, argc > 2 ? argv[2] : NULL);
    if (code)
        return code;
    r = sd_bus_send(u->bus, m, NULL);
    if (r >= 0)
        r = sd_bus_flush(u->bus);
    return r < 0 ? ubus_failed(argv[1], NULL, r) : UBUS_OK;
}
