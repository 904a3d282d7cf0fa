/* SPDX-License-Identifier: Apache-2.0 */
#include "object.h"

#include <fcntl.h>
#include <stdarg.h>

#include "interface.h"
#include "log.h"

#define CHANGED_MAX 16u
#define EMITS_CHANGED "org.freedesktop.DBus.Property.EmitsChangedSignal"

struct hybus_object {
    sd_bus *bus;
    sd_bus_slot *slot;
    char *path, *interface;
};

/* --- the vtable against the file -------------------------------------------------------------- */

/* One entry of the vtable, as far as the file speaks of it. */
typedef struct Entry {
    hybus_xml_kind kind;
    const char *name, *in, *out;
    bool writable;
    uint64_t flags;
} Entry;

static bool next_entry(const sd_bus_vtable **at, Entry *ret)
{
    const sd_bus_vtable *v = ++*at;

    switch (v->type) {
    case _SD_BUS_VTABLE_METHOD:
        *ret = (Entry){HYBUS_XML_METHOD, v->x.method.member, strempty(v->x.method.signature),
                       strempty(v->x.method.result), .flags = v->flags};
        return true;
    case _SD_BUS_VTABLE_SIGNAL:
        *ret = (Entry){HYBUS_XML_SIGNAL, v->x.signal.member, "", strempty(v->x.signal.signature),
                       .flags = v->flags};
        return true;
    case _SD_BUS_VTABLE_PROPERTY:
    case _SD_BUS_VTABLE_WRITABLE_PROPERTY:
        *ret = (Entry){HYBUS_XML_PROPERTY,
                       v->x.property.member,
                       "",
                       v->x.property.signature,
                       v->type == _SD_BUS_VTABLE_WRITABLE_PROPERTY,
                       v->flags};
        return true;
    default:
        return false;
    }
}

static bool has_secret(const hybus_xml_member *m)
{
    for (size_t i = 0; i < m->n_args; i++)
        if (hybus_xml_annotation_get(m->args[i].annotations, m->args[i].n_annotations,
                                     HYBUS_ANNOTATION_SECRET))
            return true;
    return hybus_xml_annotation_get(m->annotations, m->n_annotations, HYBUS_ANNOTATION_SECRET);
}

static const char *emits(uint64_t flags)
{
    return flags & SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE         ? "true"
           : flags & SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION ? "invalidates"
           : flags & SD_BUS_VTABLE_PROPERTY_CONST              ? "const"
                                                               : "false";
}

static const char *wrong_with_property(const Entry *e, const hybus_xml_member *m)
{
    const char *told = hybus_xml_annotation_get(m->annotations, m->n_annotations, EMITS_CHANGED);

    if (e->writable != m->writable || !m->readable)
        return "can be read and written otherwise than its interface file says";
    if (e->flags & SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE)
        return "would be sent to whoever listens; use SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION";
    /* The specification's default is "true", which cannot be. */
    if (!streq(told ? told : "true", emits(e->flags)))
        return "announces changes otherwise than its interface file says (" EMITS_CHANGED ")";
    return NULL;
}

/* NULL: as it should be. */
static const char *wrong_with(const Entry *e, const hybus_xml_member *m)
{
    if (!m)
        return "is not in its interface file";
    if (!streq(e->in, m->in) || !streq(e->out, m->out))
        return "has other types than in its interface file";
    if (!hybus_xml_permission(m, false) || (e->writable && !hybus_xml_permission(m, true)))
        return "has no " HYBUS_ANNOTATION_PERMISSION " in its interface file";
    if (e->flags & SD_BUS_VTABLE_HIDDEN)
        return "is hidden from introspection";
    if (e->flags & _SD_BUS_VTABLE_CAPABILITY_MASK)
        return "asks for a capability of the caller, and sd-bus would judge instead of the policy";
    if ((e->kind == HYBUS_XML_METHOD || e->writable) && !(e->flags & SD_BUS_VTABLE_UNPRIVILEGED))
        return "needs SD_BUS_VTABLE_UNPRIVILEGED, or sd-bus allows it to root alone";
    if (has_secret(m) && !(e->flags & SD_BUS_VTABLE_SENSITIVE))
        return "has a secret argument and needs SD_BUS_VTABLE_SENSITIVE";
    return e->kind == HYBUS_XML_PROPERTY ? wrong_with_property(e, m) : NULL;
}

static bool in_vtable(const sd_bus_vtable *vtable, const hybus_xml_member *m)
{
    Entry e;

    while (next_entry(&vtable, &e))
        if (e.kind == m->kind && streq(e.name, m->name))
            return true;
    return false;
}

static int check(const char *interface, const sd_bus_vtable *vtable, const hybus_xml_interface *i)
{
    const sd_bus_vtable *at = vtable;
    const char *wrong;
    int r = 0;
    Entry e;

    while (next_entry(&at, &e)) {
        wrong = wrong_with(&e, hybus_xml_find_member(i, e.kind, e.name));
        if (!wrong)
            continue;
        hybus_error("%s.%s %s", interface, e.name, wrong);
        r = -EINVAL;
    }
    for (size_t n = 0; n < i->n_members; n++) {
        if (in_vtable(vtable, &i->members[n]))
            continue;
        hybus_error("%s.%s is in its interface file only", interface, i->members[n].name);
        r = -EINVAL;
    }
    return r;
}

static int read_file(const char *interface, hybus_xml **ret)
{
    const char *directory = secure_getenv("HYBRIDOS_INTERFACES");
    _cleanup_(freep) char *path = NULL, *error = NULL;
    _cleanup_(closep) int fd = -1;
    int r;

    if (asprintf(&path, "%s/%s.xml", directory ? directory : HYBUS_INTERFACES, interface) < 0) {
        path = NULL;
        return hybus_log_errno(LOG_ERR, -ENOMEM, "Cannot publish %s", interface);
    }
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return hybus_log_errno(LOG_ERR, -errno, "Cannot read %s, which says what %s is", path,
                               interface);
    r = hybus_xml_read_fd(path, fd, HYBUS_XML_STRICT, ret, &error);
    if (r < 0 && error)
        return hybus_error("%s", error), r;
    return r < 0 ? hybus_log_errno(LOG_ERR, r, "Cannot read %s", path) : 0;
}

static int check_against_file(const char *interface, const sd_bus_vtable *vtable)
{
    _cleanup_(hybus_xml_freep) hybus_xml *xml = NULL;
    const hybus_xml_interface *i;
    int r = read_file(interface, &xml);

    if (r < 0)
        return r;
    i = hybus_xml_find_interface(xml, interface);
    if (!i)
        return hybus_error("The interface file of %s has another one", interface), -EINVAL;
    return check(interface, vtable, i);
}

/* --- the object ------------------------------------------------------------------------------- */

int hybus_object_publish(sd_bus *bus, const char *path, const char *interface,
                         const sd_bus_vtable *vtable, void *userdata, hybus_object **ret)
{
    _cleanup_(hybus_object_freep) hybus_object *o = NULL;
    int r = check_against_file(interface, vtable);

    if (r < 0)
        return r;
    o = calloc(1, sizeof *o);
    if (o) {
        o->bus = sd_bus_ref(bus);
        o->path = strdup(path);
        o->interface = strdup(interface);
    }
    if (!o || !o->path || !o->interface)
        return hybus_log_errno(LOG_ERR, -ENOMEM, "Cannot publish %s", interface);
    r = sd_bus_add_object_vtable(bus, &o->slot, path, interface, vtable, userdata);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot publish %s at %s", interface, path);
    *ret = TAKE_PTR(o);
    return 0;
}

void hybus_object_free(hybus_object *o)
{
    if (!o)
        return;
    sd_bus_slot_unref(o->slot);
    sd_bus_unref(o->bus);
    free(o->path);
    free(o->interface);
    free(o);
}

void hybus_object_changed(hybus_object *o, const char *property, ...)
{
    char *names[CHANGED_MAX + 1] = {(char *)property};
    size_t n = 1;
    va_list args;
    int r;

    va_start(args, property);
    while (n < CHANGED_MAX && (names[n] = va_arg(args, char *)))
        n++;
    va_end(args);
    r = sd_bus_emit_properties_changed_strv(o->bus, o->path, o->interface, names);
    if (r < 0 && r != -ENOTCONN)
        hybus_log_errno(LOG_WARNING, r, "Cannot announce that %s of %s changed", property,
                        o->interface);
}
