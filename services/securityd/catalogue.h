/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Which permission each member of each interface needs, read from D-Bus introspection XML. What is not
 * annotated nobody may use. One file defines an interface; another may annotate what that one leaves
 * open (an overlay for somebody else's service); where two files disagree the member is denied. */

#include <hybus/config.h>

#define CATALOGUE_FILE_MAX (1024u * 1024u)
#define CATALOGUE_FILES_MAX 1024u
#define CATALOGUE_MEMBERS_MAX 8000u
#define CATALOGUE_DEPTH_MAX 16u
#define CATALOGUE_DESTINATIONS_MAX 256u
#define CATALOGUE_ARGUMENTS_MAX 64u /* of one method; later ones have no names */

typedef struct Member {
    char *interface, *name;
    char kind;        /* 'm' method, 'g' property read, 's' property write, 'e' signal */
    char *permission; /* NULL: nobody may */
    bool conflict;    /* two files disagree */
    char *file;       /* that annotated it, or else defined it */
    unsigned line;
    char **arguments;   /* names of what goes in, in order; "" without a name. A written property: "value" */
    char *polkit;       /* the action that the service asks polkit for as well; NULL: none is known */
    uint64_t secret;    /* bit i: argument i is a secret (org.hybridos.Secret) */
} Member;

/* An interface of a service that the bus alone guards (org.hybridos.Destination). The bus does not see
 * the names of properties, so reading and writing them is one permission each for the whole service. */
typedef struct Destination {
    char *interface, *name; /* name: the service's well-known name; NULL: two files disagree */
    char *read, *write;     /* permissions for all properties; NULL: this interface says nothing */
    char *file;
    unsigned line;
} Destination;

typedef struct Catalogue Catalogue;

/* Where a set of files comes from. Files that are not the vendor's may neither define nor annotate
 * org.hybridos.*, nor use a permission prefix (the part before the first dot) that the vendor uses. */
typedef struct CatalogueSource {
    const char *directory;
    bool vendor;
} CatalogueSource;

int catalogue_new(Catalogue **ret);
void catalogue_free(Catalogue *c);
HYBUS_DEFINE_CLEANUP(Catalogue, catalogue_free)

/* The vendor's first. -EBADMSG and `e`: one of the files is not as it must be. A directory that does
 * not exist is empty. */
int catalogue_read(const CatalogueSource *sources, size_t n_sources, hybus_config_file_check check,
                   Catalogue **ret, hybus_config_error *e);
int catalogue_parse(Catalogue *c, const char *name, const char *text, size_t size, bool vendor,
                    hybus_config_error *e);
/* Sorts; to be called after the last catalogue_parse(). */
void catalogue_finish(Catalogue *c);

size_t catalogue_members(const Catalogue *c, const Member **ret);
/* The members of one interface, sorted by name and kind. */
size_t catalogue_interface(const Catalogue *c, const char *interface, const Member **ret);
const Member *catalogue_find(const Catalogue *c, const char *interface, const char *name,
                             char kind);
/* Sorted by interface. */
size_t catalogue_destinations(const Catalogue *c, const Destination **ret);
const Destination *catalogue_destination(const Catalogue *c, const char *interface);
/* The same as introspection XML, interface by interface: each call of `f` gets a whole document. */
int catalogue_format(const Catalogue *c, int (*f)(const char *xml, size_t size, void *userdata),
                     void *userdata);
bool catalogue_equal(const Catalogue *a, const Catalogue *b);
