/* SPDX-License-Identifier: Apache-2.0 */
/* Arguments annotated org.hybridos.Secret are shown as a length: whoever watches the bus for others
 * keeps the output, in terminals, logs and bug reports. */
#include "ubus.h"

#define CALLS_MAX 4096u /* whose answers are recognised; those of older ones are withheld */
#define PROPERTIES "org.freedesktop.DBus.Properties"
#define OBJECTS "org.freedesktop.DBus.ObjectManager"

/* Where secrets may stand in the arguments of a message. */
typedef enum Shape {
    SHAPE_PLAIN,      /* nowhere */
    SHAPE_ARGUMENTS,  /* as annotated in `member` */
    SHAPE_VALUE,      /* the value of the property `member`, in argument `at` */
    SHAPE_VALUES,     /* properties of `interface`, an object in argument `at` */
    SHAPE_INTERFACES, /* interfaces with such objects, in argument `at` */
    SHAPE_OBJECTS,    /* objects with such interfaces, in argument `at` */
} Shape;

typedef struct Secrets {
    Shape shape;
    const hybus_xml_interface *interface;
    const hybus_xml_member *member;
    size_t at;
    bool out; /* the results of a method */
} Secrets;

typedef struct Call {
    char *caller;
    uint64_t cookie;
    Secrets answer;
} Call;

struct ubus_secrets {
    ubus *u;
    hybus_xml **files; /* those with an interface that was met */
    size_t n_files;
    Call calls[CALLS_MAX]; /* a ring */
    size_t next;
};

ubus_secrets *ubus_secrets_new(ubus *u)
{
    ubus_secrets *s = calloc(1, sizeof *s);

    if (s)
        s->u = u;
    return s;
}

void ubus_secrets_free(ubus_secrets *s)
{
    if (!s)
        return;
    for (size_t i = 0; i < s->n_files; i++)
        hybus_xml_free(s->files[i]);
    free(s->files);
    for (size_t i = 0; i < CALLS_MAX; i++)
        free(s->calls[i].caller);
    free(s);
}

/* NULL: no file describes it. Only files that exist are kept, so that names which somebody makes up
 * take no memory. */
static const hybus_xml_interface *find_interface(ubus_secrets *s, const char *name)
{
    const hybus_xml_interface *i;
    hybus_xml **files, *xml;
    bool ours;

    for (size_t n = 0; n < s->n_files; n++)
        if ((i = hybus_xml_find_interface(s->files[n], name)))
            return i;
    xml = ubus_installed(s->u, name, &ours);
    i = xml ? hybus_xml_find_interface(xml, name) : NULL;
    files = i ? reallocarray(s->files, s->n_files + 1, sizeof(*files)) : NULL;
    if (!files) {
        hybus_xml_free(xml);
        return NULL;
    }
    s->files = files;
    files[s->n_files++] = xml;
    return i;
}

static const hybus_xml_member *find_member(ubus_secrets *s, const char *interface,
                                           hybus_xml_kind kind, const char *name)
{
    const hybus_xml_interface *i = find_interface(s, interface);

    return i ? hybus_xml_find_member(i, kind, name) : NULL;
}

static bool is_secret(const hybus_xml_annotation *annotations, size_t n)
{
    return hybus_xml_annotation_get(annotations, n, HYBUS_ANNOTATION_SECRET);
}

/* Bytes of a string or of binary data, elements of anything else. */
static json_t *length_of(const json_t *value, const char *type)
{
    size_t size = json_is_array(value) ? json_array_size(value) : json_object_size(value);

    if (json_is_string(value)) {
        size_t n = json_string_length(value);
        const char *text = json_string_value(value);

        size = n;
        if (streq(type, "ay")) {
            size = n / 4 * 3;
            for (size_t k = n; k > 0 && text[k - 1] == '='; k--)
                size--;
        }
    }
    return json_pack("{sI}", "secret", (json_int_t)size);
}

static void mask_argument(json_t *args, size_t at, const char *type)
{
    const json_t *value = json_array_get(args, at);

    if (value)
        json_array_set_new(args, at, length_of(value, type));
}

/* A property's value within its variant: {"type", "value"}. */
static json_t *length_of_variant(const json_t *variant)
{
    const char *type = json_string_value(json_object_get(variant, "type"));

    return length_of(json_object_get(variant, "value"), strempty(type));
}

static void mask_values(const hybus_xml_interface *i, json_t *values)
{
    for (size_t n = 0; i && n < i->n_members; n++) {
        const hybus_xml_member *m = &i->members[n];
        const json_t *value = json_object_get(values, m->name);

        if (m->kind == HYBUS_XML_PROPERTY && value && is_secret(m->annotations, m->n_annotations))
            json_object_set_new(values, m->name, length_of_variant(value));
    }
}

static void mask_interfaces(ubus_secrets *s, json_t *interfaces)
{
    const char *name;
    json_t *values;

    json_object_foreach(interfaces, name, values) mask_values(find_interface(s, name), values);
}

static bool has_secret(const hybus_xml_member *m)
{
    for (size_t i = 0; i < m->n_args; i++)
        if (is_secret(m->args[i].annotations, m->args[i].n_annotations))
            return true;
    return false;
}

/* false: who sent it did not keep to the file, and a secret may stand anywhere. */
static bool mask_arguments(const Secrets *w, const char *signature, json_t *args)
{
    const hybus_xml_member *m = w->member;
    size_t at = 0;

    for (size_t i = 0; !m && w->interface && i < w->interface->n_members; i++)
        if (has_secret(&w->interface->members[i]))
            return false;
    if (!m || !has_secret(m))
        return true;
    if (!streq(signature, w->out ? m->out : m->in))
        return false;
    for (size_t i = 0; i < m->n_args; i++) {
        if (m->args[i].out != w->out)
            continue;
        if (is_secret(m->args[i].annotations, m->args[i].n_annotations))
            mask_argument(args, at, m->args[i].type);
        at++;
    }
    return true;
}

static bool mask(ubus_secrets *s, const Secrets *w, const char *signature, json_t *args)
{
    json_t *value = json_array_get(args, w->at), *object;
    const char *path;

    switch (w->shape) {
    case SHAPE_PLAIN:
        break;
    case SHAPE_ARGUMENTS:
        return mask_arguments(w, signature, args);
    case SHAPE_VALUE:
        if (value && w->member && is_secret(w->member->annotations, w->member->n_annotations))
            json_array_set_new(args, w->at, length_of_variant(value));
        break;
    case SHAPE_VALUES:
        mask_values(w->interface, value);
        break;
    case SHAPE_INTERFACES:
        mask_interfaces(s, value);
        break;
    case SHAPE_OBJECTS:
        json_object_foreach(value, path, object) mask_interfaces(s, object);
        break;
    }
    return true;
}

static const char *argument(const json_t *args, size_t at)
{
    return strempty(json_string_value(json_array_get(args, at)));
}

/* What a call or a signal itself may hold, and for a call also what its answer may. */
static void look_at(ubus_secrets *s, const char *interface, const char *member, bool signal,
                    const json_t *args, Secrets *ret, Secrets *ret_answer)
{
    *ret = *ret_answer = (Secrets){0};
    if (streq(interface, PROPERTIES)) {
        *ret_answer = *ret = (Secrets){
            .interface = find_interface(s, argument(args, 0)),
            .member = find_member(s, argument(args, 0), HYBUS_XML_PROPERTY, argument(args, 1))};
        if (streq(member, "PropertiesChanged"))
            ret->shape = SHAPE_VALUES, ret->at = 1;
        else if (streq(member, "Set"))
            ret->shape = SHAPE_VALUE, ret->at = 2;
        else if (streq(member, "Get"))
            ret_answer->shape = SHAPE_VALUE;
        else if (streq(member, "GetAll"))
            ret_answer->shape = SHAPE_VALUES;
    } else if (streq(interface, OBJECTS)) {
        if (streq(member, "InterfacesAdded"))
            *ret = (Secrets){.shape = SHAPE_INTERFACES, .at = 1};
        else
            ret_answer->shape = SHAPE_OBJECTS;
    } else {
        ret->shape = ret_answer->shape = SHAPE_ARGUMENTS;
        ret->interface = ret_answer->interface = find_interface(s, interface);
        ret->member = ret_answer->member =
            find_member(s, interface, signal ? HYBUS_XML_SIGNAL : HYBUS_XML_METHOD, member);
        ret->out = signal;
        ret_answer->out = true;
    }
}

static void remember(ubus_secrets *s, sd_bus_message *m, const Secrets *answer)
{
    Call *c = &s->calls[s->next++ % CALLS_MAX];

    free(c->caller);
    c->caller = strdup(strempty(sd_bus_message_get_sender(m)));
    c->answer = *answer;
    if (sd_bus_message_get_cookie(m, &c->cookie) < 0)
        c->cookie = 0; /* no answer names it */
}

/* The call that this answers: true, and forgotten. */
static bool recall(ubus_secrets *s, sd_bus_message *m, Secrets *ret)
{
    const char *caller = strempty(sd_bus_message_get_destination(m));
    uint64_t cookie;

    if (sd_bus_message_get_reply_cookie(m, &cookie) < 0)
        return false;
    for (size_t i = 0; i < CALLS_MAX; i++) {
        Call *c = &s->calls[(s->next - 1 - i) % CALLS_MAX];

        if (c->cookie != cookie || !c->caller || !streq(c->caller, caller))
            continue;
        *ret = c->answer;
        free(TAKE_PTR(c->caller));
        return true;
    }
    return false;
}

const char *ubus_secrets_mask(ubus_secrets *s, sd_bus_message *m, json_t *args)
{
    const char *interface = sd_bus_message_get_interface(m);
    const char *member = strempty(sd_bus_message_get_member(m));
    const char *signature = strempty(sd_bus_message_get_signature(m, true));
    Secrets secrets = {0}, answer;
    uint8_t type = 0;

    (void)sd_bus_message_get_type(m, &type);
    if (type == SD_BUS_MESSAGE_METHOD_ERROR) /* a text for people */
        return NULL;
    if (type == SD_BUS_MESSAGE_METHOD_RETURN) {
        if (!recall(s, m, &secrets) && json_array_size(args))
            return "the call was not seen; the answer may be a secret";
    } else {
        if (!interface)
            return json_array_size(args) ? "no interface says what may be a secret" : NULL;
        look_at(s, interface, member, type == SD_BUS_MESSAGE_SIGNAL, args, &secrets, &answer);
        if (type == SD_BUS_MESSAGE_METHOD_CALL && sd_bus_message_get_expect_reply(m) > 0)
            remember(s, m, &answer);
    }
    return json_array_size(args) == 0 || mask(s, &secrets, signature, args)
               ? NULL
               : "it is not as the interface file says, which has secrets";
}
