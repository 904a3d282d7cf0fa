/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The table of endpoints: who answers for which namespace. Knows no bus, no sockets, no policy. */

#include <sys/types.h>

#include <hybus/base.h>

/* All bounds of the registrar, in one place. */
#define ENDPOINTS_MAX 1024u   /* registrations in all */
#define ENDPOINTS_UID_MAX 64u /* of one uid */
#define ENDPOINTS_MANIFESTS_MAX 256u
#define ENDPOINTS_NAMESPACE_MAX 255u /* bytes */
#define ENDPOINTS_RULES_MAX 32u      /* of one registration */
#define ENDPOINTS_RULES_SIZE 4096u   /* bytes of all its rules */
#define ENDPOINTS_TITLE_MAX 128u     /* bytes */
#define ENDPOINTS_ATTRIBUTES_MAX 512u /* bytes */
#define ENDPOINTS_KEY_SIZE 16u       /* hexadecimal digits */

typedef enum endpoints_road {
    ENDPOINTS_CHANNEL,
    ENDPOINTS_BUS,
    ENDPOINTS_START, /* nobody yet: a unit that can be started */
} endpoints_road;

/* Who somebody is, as the kernel or the bus attests. Counted references. */
typedef struct endpoints_identity {
    unsigned refs;
    uint32_t uid;
    uint32_t *gids;
    size_t n_gids;
    char *bus_name; /* NULL on the channel */
} endpoints_identity;

int endpoints_identity_new(uint32_t uid, const uint32_t *gids, size_t n_gids, const char *bus_name,
                           endpoints_identity **ret);
endpoints_identity *endpoints_identity_ref(endpoints_identity *i);
void endpoints_identity_unref(endpoints_identity *i);
HYBUS_DEFINE_CLEANUP(endpoints_identity, endpoints_identity_unref)

/* What a registration or a manifest says. Owns its strings. */
typedef struct endpoints_spec {
    char *ns, *title, *attributes;
    char *bus_name, *object; /* road bus */
    char *unit;              /* road start */
    char **rules;
    size_t n_rules, rules_size;
    char key[ENDPOINTS_KEY_SIZE + 1]; /* empty: none */
    uint32_t uid;
    endpoints_road road;
    bool stream, watch, takeover;
} endpoints_spec;

void endpoints_spec_done(endpoints_spec *s);
/* Each takes bytes from outside and returns -EINVAL when they break the rules of the protocol page,
 * -ENOBUFS past a limit. */
int endpoints_spec_set_namespace(endpoints_spec *s, const char *value, size_t size);
int endpoints_spec_set_title(endpoints_spec *s, const char *value, size_t size);
/* Link attributes (RFC 6690): name="value";name=value;name */
int endpoints_spec_set_attributes(endpoints_spec *s, const char *value, size_t size);
int endpoints_spec_set_key(endpoints_spec *s, const char *value, size_t size);
int endpoints_spec_add_rule(endpoints_spec *s, const char *value, size_t size);
int endpoints_spec_set_object(endpoints_spec *s, const char *value, size_t size);
int endpoints_spec_set_bus_name(endpoints_spec *s, const char *value, size_t size);
int endpoints_spec_set_unit(endpoints_spec *s, const char *value, size_t size);

bool endpoints_namespace_valid(const char *s, size_t size);
const char *endpoints_road_name(endpoints_road road);

typedef struct endpoints endpoints;

typedef struct endpoints_entry {
    endpoints_spec spec;
    /* Who holds it: the road's own object and its number there. NULL: a manifest, or expected back
     * after a restart of the registrar. */
    void *owner;
    uint32_t owner_id;
    endpoints_identity *identity;
    uint64_t revision;
    void *userdata; /* of the one who registers; see `freed` */
} endpoints_entry;

typedef struct endpoints_ops {
    /* The servers' view of a namespace has changed: `entry` stands there now, or with `gone`
     * nothing stands there any more. */
    void (*changed)(const endpoints_entry *entry, bool gone, void *userdata);
    /* The registration has lost its place to another one of the same uid. */
    void (*displaced)(endpoints_entry *entry, void *userdata);
    /* The last word of an entry; owner and userdata still stand. */
    void (*freed)(endpoints_entry *entry, void *userdata);
} endpoints_ops;

int endpoints_new(const endpoints_ops *ops, void *userdata, endpoints **ret);
void endpoints_free(endpoints *t);
HYBUS_DEFINE_CLEANUP(endpoints, endpoints_free)

uint64_t endpoints_revision(const endpoints *t);

/* Does this uid need leave to nest for this namespace, as the table stands now? */
bool endpoints_nested(const endpoints *t, const char *ns, uint32_t uid);

/* Would it be accepted? 0, -EEXIST, -ENOBUFS; `ret_why` is a static sentence. */
int endpoints_admit(const endpoints *t, const endpoints_spec *spec, const void *owner,
                    const char **ret_why);
/* Registers; `spec` is emptied on success. Errors as endpoints_admit(), and -ENOMEM. */
int endpoints_register(endpoints *t, endpoints_spec *spec, endpoints_identity *identity,
                       void *owner, uint32_t owner_id, endpoints_entry **ret, const char **ret_why);
void endpoints_remove(endpoints *t, endpoints_entry *entry);
void endpoints_remove_owner(endpoints *t, const void *owner);

/* After a restart: what was registered before, expected back until endpoints_expire(). */
int endpoints_expect(endpoints *t, endpoints_spec *spec);
/* An expected entry whose holder has been found to be still there. */
void endpoints_adopt(endpoints *t, endpoints_entry *entry, endpoints_identity *identity,
                     void *owner);
/* Removes what is still only expected, but for what `keep` (may be NULL) speaks for. */
size_t endpoints_expire(endpoints *t, bool (*keep)(const endpoints_entry *entry, void *userdata),
                        void *userdata);

/* Replaces all manifests; the specs are emptied. -EEXIST: two for the same namespace. */
int endpoints_set_manifests(endpoints *t, endpoints_spec *specs, size_t n);

/* What the servers see at exactly this namespace. */
endpoints_entry *endpoints_find(const endpoints *t, const char *ns);
/* The manifest of exactly this namespace, whoever stands there. */
endpoints_entry *endpoints_manifest(const endpoints *t, const char *ns);
endpoints_entry *endpoints_find_owned(const endpoints *t, const void *owner, uint32_t owner_id);
/* All of it, sorted by namespace; the cursor starts zeroed, NULL ends. No change in between. */
typedef struct endpoints_cursor {
    size_t registration, manifest;
} endpoints_cursor;
endpoints_entry *endpoints_next(const endpoints *t, endpoints_cursor *cursor);
/* Registrations alone (expected ones included), sorted. */
endpoints_entry *endpoints_registration_at(const endpoints *t, size_t index);
