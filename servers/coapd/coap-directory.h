/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The resource directory (RFC 9176) as a table: which nodes there are, whose they are, for how long,
 * and what they have. Knows no sockets, no policy and no clock. */

#include "coap-linkformat.h"

#include <endpoint/list.h>

#define DIRECTORY_NODES_MAX 64u /* the registrar takes as many namespaces of one user */
#define DIRECTORY_NAME_MAX 63u
#define DIRECTORY_TEXT_MAX 256u /* bytes of a node's own attributes */
#define DIRECTORY_LIFETIME 90000u
#define DIRECTORY_PREFIX "/nodes/"

typedef struct directory_limits {
    size_t nodes, nodes_owner, links, link_bytes;
    uint32_t lifetime_max; /* seconds */
} directory_limits;

/* Who registers: the principal, and for somebody without a name also where it is, so that no
 * neighbour takes its place. */
typedef struct directory_owner {
    const char *principal, *host;
    bool anonymous;
} directory_owner;

/* The query of a registration, understood. */
typedef struct directory_spec {
    char name[DIRECTORY_NAME_MAX + 1], type[64];
    char attributes[DIRECTORY_TEXT_MAX]; /* ";et=\"…\"" and the like */
    uint32_t lifetime;
    bool has_lifetime;
    char base[128]; /* "" if it says none */
} directory_spec;

typedef struct directory_node {
    list node;
    char name[DIRECTORY_NAME_MAX + 1], id[17], type[64];
    char attributes[DIRECTORY_TEXT_MAX];
    char *principal, *host; /* of the owner; host NULL: whatever it is */
    bool anonymous;
    char **links; /* "<path>;attributes" each, in a form of our own */
    size_t n_links, link_bytes;
    uint32_t lifetime;
    uint64_t expires_usec, since_usec;
    void *userdata;
} directory_node;

typedef struct directory {
    directory_limits limits;
    list nodes;
    size_t n;
} directory;

void directory_init(directory *d);
void directory_done(directory *d);

/* "ep=…&lt=…" of a registration, or of an update, which has no name. -EINVAL with a sentence. */
int directory_parse(const directory *d, const char *query, bool update, directory_spec *ret,
                    const char **ret_why);
bool directory_name_valid(const char *name, size_t size);

/* Registers, or replaces what this owner has registered under the name. `links` is link format.
 * -EEXIST: somebody else has the name; -ENOBUFS: too many nodes or links; -EINVAL: no link format,
 * or a link that leads elsewhere. On failure all is as before. `id` is used if the node is new. */
int directory_register(directory *d, const directory_spec *spec, const directory_owner *owner,
                       const char *id, const char *links, size_t size, uint64_t now_usec,
                       directory_node **ret, const char **ret_why);
void directory_update(directory_node *n, const directory_spec *spec, uint64_t now_usec);
void directory_remove(directory *d, directory_node *n);
directory_node *directory_find(const directory *d, const char *name);
directory_node *directory_by_id(const directory *d, const char *id);
bool directory_owns(const directory_node *n, const directory_owner *owner);
/* Whose lifetime is over; NULL, and then `ret_next` is when the next one's is (UINT64_MAX). */
directory_node *directory_expired(const directory *d, uint64_t now_usec, uint64_t *ret_next);

/* Writes the links (or the nodes) that match; `may` says who is seen. -EINVAL, -ENOBUFS: the query. */
typedef bool (*directory_may)(const directory_node *n, void *userdata);
int directory_look_up(const directory *d, bool nodes, const char *query, directory_may may,
                      const char *(*base)(const directory_node *n), void *userdata, FILE *file);
