/* SPDX-License-Identifier: Apache-2.0 */
#include "interface.h"

#include <expat.h>
#include <stdarg.h>
#include <systemd/sd-bus.h>

#include "signature.h"

/* What an open element is; children of SKIPPED are skipped too. */
typedef enum element {
    ELEMENT_SKIPPED,
    ELEMENT_NODE,
    ELEMENT_INTERFACE,
    ELEMENT_MEMBER,
    ELEMENT_ARG,
    ELEMENT_ANNOTATION,
} element;

typedef struct parser {
    XML_Parser expat;
    hybus_xml_flags flags;
    const char *name;
    hybus_xml *xml;
    element stack[HYBUS_INTERFACE_DEPTH_MAX];
    unsigned depth;
    size_t n_members;
    char *comment; /* the last one, not yet claimed by an element */
    int error;
    char *message;
} parser;

static void *grow(void *items, size_t n, size_t size, void *ret_new)
{
    /* Capacities are powers of two, so the array is full exactly when n is one. */
    if ((n & (n - 1)) == 0) {
        void *bigger = reallocarray(items, n ? n * 2 : 1, size);

        if (!bigger)
            return NULL;
        items = bigger;
    }
    *(void **)ret_new = (char *)items + n * size;
    memset((char *)items + n * size, 0, size);
    return items;
}

/* Appends a zeroed item, evaluates to a pointer to it, or to NULL when memory is short. */
#define APPEND(items, n)                                                                           \
    ({                                                                                             \
        void *_item = NULL;                                                                        \
        void *_items = grow((items), (n), sizeof *(items), &_item);                                \
        if (_items) {                                                                              \
            (items) = _items;                                                                      \
            (n)++;                                                                                 \
        }                                                                                          \
        (__typeof__(items))_item;                                                                  \
    })

static _printf_(3, 4) void fail(parser *p, int error, const char *format, ...)
{
    _cleanup_(freep) char *what = NULL;
    va_list args;
    int n;

    if (p->error)
        return;
    p->error = error;
    va_start(args, format);
    n = vasprintf(&what, format, args);
    va_end(args);
    if (n < 0) {
        what = NULL;
        p->error = -ENOMEM;
    } else if (asprintf(&p->message, "%s:%lu:%lu: %s", p->name, XML_GetCurrentLineNumber(p->expat),
                        XML_GetCurrentColumnNumber(p->expat) + 1, what) < 0)
        p->message = NULL;
    XML_StopParser(p->expat, XML_FALSE);
}

static bool strict(const parser *p)
{
    return p->flags & HYBUS_XML_STRICT;
}

/* Takes the attributes whose names are given, as (name, &value) pairs up to NULL. */
static bool attributes(parser *p, const XML_Char **atts, ...)
{
    for (size_t i = 0; atts[i]; i += 2) {
        bool known = false;
        const char *name;
        va_list args;

        if (strlen(atts[i + 1]) > HYBUS_INTERFACE_VALUE_MAX) {
            fail(p, -E2BIG, "An attribute is longer than %u bytes", HYBUS_INTERFACE_VALUE_MAX);
            return false;
        }
        va_start(args, atts);
        while (!known && (name = va_arg(args, const char *))) {
            const char **value = va_arg(args, const char **);

            known = streq(name, atts[i]);
            if (known)
                *value = atts[i + 1];
        }
        va_end(args);
        if (!known && strict(p) && !startswith(atts[i], "xmlns")) {
            fail(p, -EBADMSG, "Unknown attribute '%.100s'", atts[i]);
            return false;
        }
    }
    return true;
}

static char *take_comment(parser *p)
{
    return TAKE_PTR(p->comment);
}

static void set_position(parser *p, unsigned *ret_line, unsigned *ret_column)
{
    *ret_line = XML_GetCurrentLineNumber(p->expat);
    *ret_column = XML_GetCurrentColumnNumber(p->expat) + 1;
}

static bool duplicate(char **ret, const char *s)
{
    return (*ret = strdup(s));
}

static bool count_member(parser *p)
{
    if (++p->n_members <= HYBUS_INTERFACE_MEMBERS_MAX)
        return true;
    fail(p, -E2BIG, "More than %u interfaces and members", HYBUS_INTERFACE_MEMBERS_MAX);
    return false;
}

static element start_node(parser *p, const XML_Char **atts)
{
    const char *name = NULL;
    char **child;

    if (!attributes(p, atts, "name", &name, NULL))
        return ELEMENT_SKIPPED;

    if (p->depth == 0) {
        if (name && *name) {
            /* busctl and sd-bus leave it out; a few libraries write the absolute path. */
            if (!sd_bus_object_path_is_valid(name)) {
                if (strict(p))
                    fail(p, -EBADMSG, "'%.100s' is not an object path", name);
            } else if (!duplicate(&p->xml->path, name))
                fail(p, -ENOMEM, "Out of memory");
        }
        free(take_comment(p));
        return ELEMENT_NODE;
    }

    if (!name || !*name || strlen(name) > 255) {
        if (strict(p))
            fail(p, -EBADMSG, "A child node needs a name");
        return ELEMENT_SKIPPED;
    }
    if (p->xml->n_children >= HYBUS_INTERFACE_CHILDREN_MAX) {
        fail(p, -E2BIG, "More than %u child nodes", HYBUS_INTERFACE_CHILDREN_MAX);
        return ELEMENT_SKIPPED;
    }
    for (const char *c = name; *c; c++)
        if (!strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_/", *c)) {
            if (strict(p))
                fail(p, -EBADMSG, "'%.100s' is not the name of a node", name);
            return ELEMENT_SKIPPED;
        }
    child = APPEND(p->xml->children, p->xml->n_children);
    if (!child || !duplicate(child, name))
        fail(p, -ENOMEM, "Out of memory");
    return ELEMENT_SKIPPED;
}

static element start_interface(parser *p, const XML_Char **atts)
{
    const char *name = NULL;
    hybus_xml_interface *i;

    if (!attributes(p, atts, "name", &name, NULL))
        return ELEMENT_SKIPPED;
    if (!name || !sd_bus_interface_name_is_valid(name)) {
        fail(p, -EBADMSG, "'%.100s' is not the name of an interface", strempty(name));
        return ELEMENT_SKIPPED;
    }
    if (hybus_xml_find_interface(p->xml, name)) {
        if (strict(p))
            fail(p, -EBADMSG, "Interface %s stands here twice", name);
        return ELEMENT_SKIPPED;
    }
    if (!count_member(p))
        return ELEMENT_SKIPPED;
    i = APPEND(p->xml->interfaces, p->xml->n_interfaces);
    if (!i || !duplicate(&i->name, name)) {
        fail(p, -ENOMEM, "Out of memory");
        return ELEMENT_SKIPPED;
    }
    i->doc = take_comment(p);
    set_position(p, &i->line, &i->column);
    return ELEMENT_INTERFACE;
}

static hybus_xml_interface *last_interface(parser *p)
{
    return &p->xml->interfaces[p->xml->n_interfaces - 1];
}

static hybus_xml_member *last_member(parser *p)
{
    hybus_xml_interface *i = last_interface(p);

    return &i->members[i->n_members - 1];
}

static element start_member(parser *p, hybus_xml_kind kind, const XML_Char **atts)
{
    static const char *const words[] = {"method", "signal", "property"};
    const char *name = NULL, *type = NULL, *access = NULL;
    hybus_xml_interface *i = last_interface(p);
    hybus_xml_member *m;
    bool ok = kind == HYBUS_XML_PROPERTY
                  ? attributes(p, atts, "name", &name, "type", &type, "access", &access, NULL)
                  : attributes(p, atts, "name", &name, NULL);

    if (!ok)
        return ELEMENT_SKIPPED;
    if (!name || !sd_bus_member_name_is_valid(name)) {
        fail(p, -EBADMSG, "'%.100s' is not the name of a %s", strempty(name), words[kind]);
        return ELEMENT_SKIPPED;
    }
    if (kind == HYBUS_XML_PROPERTY &&
        (!type || !hybus_signature_is_single(type) || !access ||
         !(streq(access, "read") || streq(access, "write") || streq(access, "readwrite")))) {
        fail(p, -EBADMSG,
             "Property %s needs one complete type, and an access of 'read', 'write' or "
             "'readwrite'",
             name);
        return ELEMENT_SKIPPED;
    }
    if (hybus_xml_find_member(i, kind, name)) {
        if (strict(p))
            fail(p, -EBADMSG, "%s %s of %s stands here twice", words[kind], name, i->name);
        return ELEMENT_SKIPPED;
    }
    if (!count_member(p))
        return ELEMENT_SKIPPED;
    m = APPEND(i->members, i->n_members);
    if (!m || !duplicate(&m->name, name) || !duplicate(&m->in, "") ||
        !duplicate(&m->out, kind == HYBUS_XML_PROPERTY ? type : "")) {
        fail(p, -ENOMEM, "Out of memory");
        return ELEMENT_SKIPPED;
    }
    m->kind = kind;
    m->readable = access && startswith(access, "read");
    m->writable = access && strstr(access, "write");
    m->doc = take_comment(p);
    set_position(p, &m->line, &m->column);
    return ELEMENT_MEMBER;
}

static bool extend_signature(parser *p, char **signature, const char *type)
{
    char *longer = NULL;

    if (strlen(*signature) + strlen(type) > HYBUS_SIGNATURE_MAX) {
        fail(p, -E2BIG, "The arguments have a signature of more than %u bytes",
             HYBUS_SIGNATURE_MAX);
        return false;
    }
    if (asprintf(&longer, "%s%s", *signature, type) < 0) {
        fail(p, -ENOMEM, "Out of memory");
        return false;
    }
    free(*signature);
    *signature = longer;
    return true;
}

static element start_arg(parser *p, const XML_Char **atts)
{
    const char *name = NULL, *type = NULL, *direction = NULL;
    hybus_xml_member *m = last_member(p);
    hybus_xml_arg *a;
    bool out = m->kind == HYBUS_XML_SIGNAL;

    if (!attributes(p, atts, "name", &name, "type", &type, "direction", &direction, NULL))
        return ELEMENT_SKIPPED;
    if (m->kind == HYBUS_XML_PROPERTY) {
        if (strict(p))
            fail(p, -EBADMSG, "A property has no arguments");
        return ELEMENT_SKIPPED;
    }
    if (!type || !hybus_signature_is_single(type)) {
        fail(p, -EBADMSG, "An argument of %s needs one complete type, not '%.100s'", m->name,
             strempty(type));
        return ELEMENT_SKIPPED;
    }
    if (direction && !(streq(direction, "out") || (!out && streq(direction, "in")))) {
        fail(p, -EBADMSG, "An argument of %s has the direction '%.20s'", m->name, direction);
        return ELEMENT_SKIPPED;
    }
    if (m->n_args >= HYBUS_INTERFACE_ARGS_MAX) {
        fail(p, -E2BIG, "%s has more than %u arguments", m->name, HYBUS_INTERFACE_ARGS_MAX);
        return ELEMENT_SKIPPED;
    }
    out = out || (direction && streq(direction, "out"));
    if (!extend_signature(p, out ? &m->out : &m->in, type))
        return ELEMENT_SKIPPED;
    a = APPEND(m->args, m->n_args);
    if (!a || !duplicate(&a->name, strempty(name)) || !duplicate(&a->type, type)) {
        fail(p, -ENOMEM, "Out of memory");
        return ELEMENT_SKIPPED;
    }
    a->out = out;
    free(take_comment(p));
    return ELEMENT_ARG;
}

static void add_annotation(parser *p, hybus_xml_annotation **items, size_t *n, const char *name,
                           const char *value)
{
    hybus_xml_annotation *a;

    if (hybus_xml_annotation_get(*items, *n, name)) {
        if (strict(p))
            fail(p, -EBADMSG, "Annotation %.200s stands here twice", name);
        return;
    }
    if (*n >= HYBUS_INTERFACE_ANNOTATIONS_MAX) {
        fail(p, -E2BIG, "More than %u annotations", HYBUS_INTERFACE_ANNOTATIONS_MAX);
        return;
    }
    a = APPEND(*items, *n);
    if (!a || !duplicate(&a->name, name) || !duplicate(&a->value, value))
        fail(p, -ENOMEM, "Out of memory");
}

static element start_annotation(parser *p, element parent, const XML_Char **atts)
{
    const char *name = NULL, *value = NULL;

    if (!attributes(p, atts, "name", &name, "value", &value, NULL))
        return ELEMENT_SKIPPED;
    if (!name || !*name || !value) {
        fail(p, -EBADMSG, "An annotation needs a name and a value");
        return ELEMENT_SKIPPED;
    }
    if (parent == ELEMENT_INTERFACE) {
        hybus_xml_interface *i = last_interface(p);

        add_annotation(p, &i->annotations, &i->n_annotations, name, value);
    } else if (parent == ELEMENT_MEMBER) {
        hybus_xml_member *m = last_member(p);

        add_annotation(p, &m->annotations, &m->n_annotations, name, value);
    } else if (parent == ELEMENT_ARG) {
        hybus_xml_member *m = last_member(p);
        hybus_xml_arg *a = &m->args[m->n_args - 1];

        add_annotation(p, &a->annotations, &a->n_annotations, name, value);
    }
    return ELEMENT_ANNOTATION;
}

static element start(parser *p, const char *name, const XML_Char **atts)
{
    element parent = p->depth ? p->stack[p->depth - 1] : ELEMENT_SKIPPED;

    if (p->depth == 0) {
        if (streq(name, "node"))
            return start_node(p, atts);
        fail(p, -EBADMSG, "The root element is '%.100s', not 'node'", name);
        return ELEMENT_SKIPPED;
    }
    if (parent == ELEMENT_NODE && streq(name, "node"))
        return start_node(p, atts);
    if (parent == ELEMENT_NODE && streq(name, "interface"))
        return start_interface(p, atts);
    if (parent == ELEMENT_INTERFACE && streq(name, "method"))
        return start_member(p, HYBUS_XML_METHOD, atts);
    if (parent == ELEMENT_INTERFACE && streq(name, "signal"))
        return start_member(p, HYBUS_XML_SIGNAL, atts);
    if (parent == ELEMENT_INTERFACE && streq(name, "property"))
        return start_member(p, HYBUS_XML_PROPERTY, atts);
    if (parent == ELEMENT_MEMBER && streq(name, "arg"))
        return start_arg(p, atts);
    if (parent >= ELEMENT_NODE && parent <= ELEMENT_ARG && streq(name, "annotation"))
        return start_annotation(p, parent, atts);
    if (strict(p))
        fail(p, -EBADMSG, "Element '%.100s' has no place here", name);
    return ELEMENT_SKIPPED;
}

static void on_start(void *userdata, const XML_Char *name, const XML_Char **atts)
{
    parser *p = userdata;
    element e;

    if (p->error)
        return;
    if (p->depth >= HYBUS_INTERFACE_DEPTH_MAX) {
        fail(p, -E2BIG, "Elements are nested more than %u deep", HYBUS_INTERFACE_DEPTH_MAX);
        return;
    }
    e = start(p, name, atts);
    if (!p->error)
        p->stack[p->depth++] = e;
}

static void on_end(void *userdata, const XML_Char *name)
{
    parser *p = userdata;

    if (p->error)
        return;
    p->depth--;
    free(take_comment(p));
}

static void on_comment(void *userdata, const XML_Char *text)
{
    parser *p = userdata;

    if (p->error)
        return;
    /* A member's annotations come after its comment was claimed; the licence line and the like are
     * overwritten by the comment that stands next to the element. */
    free(p->comment);
    p->comment = strdup(text);
    if (!p->comment)
        fail(p, -ENOMEM, "Out of memory");
}

static void on_text(void *userdata, const XML_Char *text, int length)
{
    parser *p = userdata;

    if (p->error || !strict(p))
        return;
    for (int i = 0; i < length; i++)
        if (!strchr(" \t\r\n", text[i])) {
            fail(p, -EBADMSG, "Text has no place here");
            return;
        }
}

static void on_doctype(void *userdata, const XML_Char *name, const XML_Char *system_id,
                       const XML_Char *public_id, int has_internal_subset)
{
    parser *p = userdata;

    if (has_internal_subset)
        fail(p, -EBADMSG, "An internal DTD subset is not accepted");
    else if (system_id && strchr(system_id, '<'))
        fail(p, -EBADMSG, "A DTD name with '<' is not accepted");
}

static void on_instruction(void *userdata, const XML_Char *target, const XML_Char *data)
{
    fail(userdata, -EBADMSG, "A processing instruction is not accepted");
}

static void on_cdata(void *userdata)
{
    fail(userdata, -EBADMSG, "A CDATA section is not accepted");
}

static void on_entity(void *userdata, const XML_Char *name, int is_parameter_entity)
{
    fail(userdata, -EBADMSG, "Entity '%.100s' is not accepted", name);
}

static int on_external_entity(XML_Parser expat, const XML_Char *context, const XML_Char *base,
                              const XML_Char *system_id, const XML_Char *public_id)
{
    return XML_STATUS_ERROR;
}

/* With an external DTD that it does not read, expat drops unknown entities from attribute values
 * without a word, so that "log&x;.read" would read as "log.read". The handlers above see to it that
 * in an accepted document "<!--" is always a comment; everywhere else only the predefined entities
 * and character references may follow '&'. Returns the first other one, or NULL. */
static const char *find_entity(const char *text, size_t size)
{
    static const char *const predefined[] = {"#", "amp;", "lt;", "gt;", "quot;", "apos;"};
    const char *end = text + size;

    for (const char *c = text; c < end; c++) {
        size_t i;

        if (end - c >= 4 && memcmp(c, "<!--", 4) == 0) {
            c = memmem(c + 4, end - c - 4, "-->", 3);
            if (!c)
                return NULL;
        }
        if (*c != '&')
            continue;
        for (i = 0; i < ELEMENTS(predefined); i++) {
            size_t n = strlen(predefined[i]);

            if ((size_t)(end - c) > n && memcmp(c + 1, predefined[i], n) == 0)
                break;
        }
        if (i == ELEMENTS(predefined))
            return c;
    }
    return NULL;
}

static int refuse_entity(const char *name, const char *text, const char *at, char **ret_error)
{
    unsigned line = 1;
    const char *start = text;

    for (const char *c = text; c < at; c++)
        if (*c == '\n') {
            line++;
            start = c + 1;
        }
    if (asprintf(ret_error, "%s:%u:%zu: Entities of its own are not accepted", name, line,
                 (size_t)(at - start) + 1) < 0)
        *ret_error = NULL;
    return -EBADMSG;
}

static int run(parser *p, const char *text, size_t size)
{
    enum XML_Error code;

    XML_SetUserData(p->expat, p);
    XML_SetElementHandler(p->expat, on_start, on_end);
    XML_SetCommentHandler(p->expat, on_comment);
    XML_SetCharacterDataHandler(p->expat, on_text);
    XML_SetStartDoctypeDeclHandler(p->expat, on_doctype);
    XML_SetProcessingInstructionHandler(p->expat, on_instruction);
    XML_SetStartCdataSectionHandler(p->expat, on_cdata);
    XML_SetSkippedEntityHandler(p->expat, on_entity);
    XML_SetExternalEntityRefHandler(p->expat, on_external_entity);
    XML_SetParamEntityParsing(p->expat, XML_PARAM_ENTITY_PARSING_NEVER);

    if (XML_Parse(p->expat, text, (int)size, XML_TRUE) == XML_STATUS_OK || p->error)
        return p->error;
    code = XML_GetErrorCode(p->expat);
    if (code == XML_ERROR_NO_MEMORY)
        fail(p, -ENOMEM, "Out of memory");
    else
        fail(p, -EBADMSG, "%s", XML_ErrorString(code));
    return p->error;
}

int hybus_xml_parse(const char *name, const char *text, size_t size, hybus_xml_flags flags,
                    hybus_xml **ret, char **ret_error)
{
    _cleanup_(hybus_xml_freep) hybus_xml *xml = calloc(1, sizeof *xml);
    parser p = {.flags = flags, .name = name, .xml = xml};
    const char *entity;
    int r;

    *ret_error = NULL;
    if (!xml)
        return -ENOMEM;
    if (size > HYBUS_INTERFACE_SIZE_MAX) {
        if (asprintf(ret_error, "%s:1:1: More than %u bytes", name, HYBUS_INTERFACE_SIZE_MAX) < 0)
            *ret_error = NULL;
        return -E2BIG;
    }
    entity = find_entity(text, size);
    if (entity)
        return refuse_entity(name, text, entity, ret_error);
    /* The encoding is ours to say: another one in the text is not believed. */
    p.expat = XML_ParserCreate("UTF-8");
    if (!p.expat)
        return -ENOMEM;
    r = run(&p, text, size);
    XML_ParserFree(p.expat);
    free(p.comment);
    if (r < 0) {
        *ret_error = p.message;
        return r;
    }
    *ret = TAKE_PTR(xml);
    return 0;
}

int hybus_xml_read_fd(const char *name, int fd, hybus_xml_flags flags, hybus_xml **ret,
                      char **ret_error)
{
    _cleanup_(freep) char *text = NULL;
    size_t size = 0, room = 0;

    *ret_error = NULL;
    /* One byte more than allowed is read, so that the parser is the one to complain. */
    while (size <= HYBUS_INTERFACE_SIZE_MAX) {
        ssize_t n;

        if (size == room) {
            char *bigger = realloc(text, room = room ? room * 2 : 16384);

            if (!bigger)
                return -ENOMEM;
            text = bigger;
        }
        n = read(fd, text + size, room - size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        size += n;
    }
    return hybus_xml_parse(name, text, size, flags, ret, ret_error);
}

static void annotations_free(hybus_xml_annotation *items, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        free(items[i].name);
        free(items[i].value);
    }
    free(items);
}

static void member_done(hybus_xml_member *m)
{
    for (size_t i = 0; i < m->n_args; i++) {
        free(m->args[i].name);
        free(m->args[i].type);
        annotations_free(m->args[i].annotations, m->args[i].n_annotations);
    }
    free(m->args);
    annotations_free(m->annotations, m->n_annotations);
    free(m->name);
    free(m->in);
    free(m->out);
    free(m->doc);
}

void hybus_xml_free(hybus_xml *x)
{
    if (!x)
        return;
    for (size_t i = 0; i < x->n_interfaces; i++) {
        hybus_xml_interface *iface = &x->interfaces[i];

        for (size_t j = 0; j < iface->n_members; j++)
            member_done(&iface->members[j]);
        free(iface->members);
        annotations_free(iface->annotations, iface->n_annotations);
        free(iface->name);
        free(iface->doc);
    }
    free(x->interfaces);
    for (size_t i = 0; i < x->n_children; i++)
        free(x->children[i]);
    free(x->children);
    free(x->path);
    free(x);
}

const hybus_xml_interface *hybus_xml_find_interface(const hybus_xml *x, const char *name)
{
    for (size_t i = 0; i < x->n_interfaces; i++)
        if (x->interfaces[i].name && streq(x->interfaces[i].name, name))
            return &x->interfaces[i];
    return NULL;
}

const hybus_xml_member *hybus_xml_find_member(const hybus_xml_interface *i, hybus_xml_kind kind,
                                              const char *name)
{
    for (size_t j = 0; j < i->n_members; j++)
        if (i->members[j].kind == kind && streq(i->members[j].name, name))
            return &i->members[j];
    return NULL;
}

const char *hybus_xml_annotation_get(const hybus_xml_annotation *annotations, size_t n_annotations,
                                     const char *name)
{
    for (size_t i = 0; i < n_annotations; i++)
        if (streq(annotations[i].name, name))
            return annotations[i].value;
    return NULL;
}

const char *hybus_xml_permission(const hybus_xml_member *m, bool write)
{
    const char *own = NULL;

    if (m->kind == HYBUS_XML_PROPERTY)
        own = hybus_xml_annotation_get(m->annotations, m->n_annotations,
                                       write ? HYBUS_ANNOTATION_PERMISSION_WRITE
                                             : HYBUS_ANNOTATION_PERMISSION_READ);
    if (own)
        return own;
    return hybus_xml_annotation_get(m->annotations, m->n_annotations, HYBUS_ANNOTATION_PERMISSION);
}
