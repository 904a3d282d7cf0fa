/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Reader of D-Bus introspection XML: our interface files, and what remote objects answer to
 * Introspect. The text is hostile: an internal DTD subset, entities of its own, a wrong encoding or
 * anything beyond the limits is refused, and nothing is ever fetched.
 *
 * Comments before an element become its documentation, in gtk-doc's manner:
 *     Name: optional first words
 *     @argument: what it is; continued by deeper indented lines
 *
 *     Paragraphs. "Errors:" starts one.
 */

#include "base.h"

#define HYBUS_INTERFACE_SIZE_MAX (1024u * 1024u) /* bytes of XML */
#define HYBUS_INTERFACE_DEPTH_MAX 16u            /* open elements */
#define HYBUS_INTERFACE_VALUE_MAX 4096u          /* bytes of an attribute value */
#define HYBUS_INTERFACE_MEMBERS_MAX 8192u        /* interfaces and members of a document */
#define HYBUS_INTERFACE_ARGS_MAX 255u            /* of one member: a signature has no more */
#define HYBUS_INTERFACE_ANNOTATIONS_MAX 64u      /* of one element */
#define HYBUS_INTERFACE_CHILDREN_MAX 16384u      /* child nodes */

#define HYBUS_ANNOTATION_PERMISSION "org.hybridos.Permission"
#define HYBUS_ANNOTATION_PERMISSION_READ "org.hybridos.Permission.Read"
#define HYBUS_ANNOTATION_PERMISSION_WRITE "org.hybridos.Permission.Write"
#define HYBUS_ANNOTATION_SECRET "org.hybridos.Secret"

typedef struct hybus_xml_annotation {
    char *name, *value;
} hybus_xml_annotation;

typedef struct hybus_xml_arg {
    char *name; /* "" when the XML has none */
    char *type; /* one complete type */
    bool out;
    hybus_xml_annotation *annotations;
    size_t n_annotations;
} hybus_xml_arg;

typedef enum hybus_xml_kind {
    HYBUS_XML_METHOD,
    HYBUS_XML_SIGNAL, /* its arguments all are `out` */
    HYBUS_XML_PROPERTY,
} hybus_xml_kind;

typedef struct hybus_xml_member {
    hybus_xml_kind kind;
    char *name;
    char *in,
        *out; /* signatures: of a method; of a signal `out`; of a property its type in `out` */
    bool readable, writable; /* property */
    hybus_xml_arg *args;
    size_t n_args;
    hybus_xml_annotation *annotations;
    size_t n_annotations;
    char *doc;             /* the comment as it stands, or NULL */
    unsigned line, column; /* where the element starts, from 1 */
} hybus_xml_member;

typedef struct hybus_xml_interface {
    char *name;
    hybus_xml_member *members; /* as they stand in the file */
    size_t n_members;
    hybus_xml_annotation *annotations;
    size_t n_annotations;
    char *doc;
    unsigned line, column;
} hybus_xml_interface;

typedef struct hybus_xml {
    char *path; /* of the root node; NULL when not given */
    hybus_xml_interface *interfaces;
    size_t n_interfaces;
    char **children; /* names of child nodes, relative to the root */
    size_t n_children;
} hybus_xml;

typedef enum hybus_xml_flags {
    /* For our files, whose reader decides what people may do: unknown elements and attributes,
     * names given twice, members in child nodes and text outside comments are errors. Without it
     * (for what remote objects say) the first of several wins and the unknown is skipped. */
    HYBUS_XML_STRICT = 1 << 0,
} hybus_xml_flags;

/* `name` is what errors begin with: "name:line:column: message"; *ret_error is allocated and may be
 * NULL when memory is short. -EBADMSG bad XML, -E2BIG over a limit, -ENOMEM. */
HYBUS_EXPORT int hybus_xml_parse(const char *name, const char *text, size_t size,
                                 hybus_xml_flags flags, hybus_xml **ret, char **ret_error);

/* The same from an open file (read from its present offset; not closed). */
HYBUS_EXPORT int hybus_xml_read_fd(const char *name, int fd, hybus_xml_flags flags, hybus_xml **ret,
                                   char **ret_error);

HYBUS_EXPORT void hybus_xml_free(hybus_xml *x);
HYBUS_DEFINE_CLEANUP(hybus_xml, hybus_xml_free)

HYBUS_EXPORT const hybus_xml_interface *hybus_xml_find_interface(const hybus_xml *x,
                                                                 const char *name);
HYBUS_EXPORT const hybus_xml_member *hybus_xml_find_member(const hybus_xml_interface *i,
                                                           hybus_xml_kind kind, const char *name);
/* Value of an annotation or NULL. */
HYBUS_EXPORT const char *hybus_xml_annotation_get(const hybus_xml_annotation *annotations,
                                                  size_t n_annotations, const char *name);

/* Which permission a member needs, or NULL: nobody may. Reading and writing a property can differ:
 * org.hybridos.Permission.Read and .Write are for one of them, org.hybridos.Permission for
 * whichever has none of its own. */
HYBUS_EXPORT const char *hybus_xml_permission(const hybus_xml_member *m, bool write);

/* The documentation of an element, taken apart. */
typedef struct hybus_xml_doc_arg {
    char *name, *text;
} hybus_xml_doc_arg;

typedef struct hybus_xml_doc {
    char *summary; /* one line: @short_description, or the first sentence; "" when there is none */
    char **paragraphs; /* the rest of the text, whitespace folded */
    size_t n_paragraphs;
    hybus_xml_doc_arg *args;
    size_t n_args;
} hybus_xml_doc;

/* `doc` may be NULL. `name` is that of the element, which the comment begins with. */
HYBUS_EXPORT int hybus_xml_doc_parse(const char *doc, const char *name, hybus_xml_doc *ret);
HYBUS_EXPORT void hybus_xml_doc_done(hybus_xml_doc *d);
HYBUS_EXPORT const char *hybus_xml_doc_arg_text(const hybus_xml_doc *d, const char *name);
