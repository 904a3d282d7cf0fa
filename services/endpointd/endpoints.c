/* SPDX-License-Identifier: Apache-2.0 */
#include "endpoints.h"

#include <sys/random.h>

/* Sorted by namespace. */
typedef struct entries {
    endpoints_entry **at;
    size_t n;
} entries;

struct endpoints {
    const endpoints_ops *ops;
    void *userdata;
    entries registrations, manifests;
    uint64_t revision;
};

/* --- identities ----------------------------------------------------------------------------- */

int endpoints_identity_new(uint32_t uid, const uint32_t *gids, size_t n_gids, const char *bus_name,
                           endpoints_identity **ret)
{
    _cleanup_(endpoints_identity_unrefp) endpoints_identity *i = calloc(1, sizeof(*i));

    if (!i)
        return -ENOMEM;
    i->refs = 1;
    i->uid = uid;
    if (n_gids > 0) {
        i->gids = calloc(n_gids, sizeof(*gids));
        if (!i->gids)
            return -ENOMEM;
        memcpy(i->gids, gids, n_gids * sizeof(*gids));
        i->n_gids = n_gids;
    }
    if (bus_name && !(i->bus_name = strdup(bus_name)))
        return -ENOMEM;
    *ret = TAKE_PTR(i);
    return 0;
}

endpoints_identity *endpoints_identity_ref(endpoints_identity *i)
{
    if (i)
        i->refs++;
    return i;
}

void endpoints_identity_unref(endpoints_identity *i)
{
    if (!i || --i->refs > 0)
        return;
    free(i->gids);
    free(i->bus_name);
    free(i);
}

/* --- specs ---------------------------------------------------------------------------------- */

#define LOWER "abcdefghijklmnopqrstuvwxyz"
#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS "0123456789"

/* The length of the front of `s` that consists of `set`, never past `size`. */
static size_t span(const char *s, size_t size, const char *set)
{
    size_t n = 0;

    while (n < size && s[n] && strchr(set, s[n]))
        n++;
    return n;
}

/* Segments of [A-Za-z0-9._~-], none of them "." or "..". */
static bool path_valid(const char *s, size_t size)
{
    while (size > 0) {
        size_t n;
        if (s[0] != '/')
            return false;
        n = span(s + 1, size - 1, LOWER UPPER DIGITS "._~-");
        if (n == 0 || (s[1] == '.' && (n == 1 || (n == 2 && s[2] == '.'))))
            return false;
        s += n + 1;
        size -= n + 1;
    }
    return true;
}

bool endpoints_namespace_valid(const char *s, size_t size)
{
    return size >= 2 && size <= ENDPOINTS_NAMESPACE_MAX && path_valid(s, size);
}

const char *endpoints_road_name(endpoints_road road)
{
    static const char *const names[] = {"channel", "bus", "start"};

    return names[road];
}

void endpoints_spec_done(endpoints_spec *s)
{
    free(s->ns);
    free(s->title);
    free(s->attributes);
    free(s->bus_name);
    free(s->object);
    free(s->unit);
    for (size_t i = 0; i < s->n_rules; i++)
        free(s->rules[i]);
    free(s->rules);
    *s = (endpoints_spec){};
}

static int set_string(char **field, const char *value, size_t size)
{
    char *copy = strndup(value, size);

    if (!copy)
        return -ENOMEM;
    free(*field);
    *field = copy;
    return 0;
}

int endpoints_spec_set_namespace(endpoints_spec *s, const char *value, size_t size)
{
    if (!endpoints_namespace_valid(value, size))
        return -EINVAL;
    return set_string(&s->ns, value, size);
}

/* A title is shown to people: printable ASCII. */
int endpoints_spec_set_title(endpoints_spec *s, const char *value, size_t size)
{
    if (size > ENDPOINTS_TITLE_MAX)
        return -EINVAL;
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)value[i] < ' ' || value[i] == 0x7f || (unsigned char)value[i] >= 0x80)
            return -EINVAL;
    return set_string(&s->title, value, size);
}

static bool is_attribute_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '.';
}

static bool is_attribute_value(char c, bool quoted)
{
    return c > ' ' - quoted && c < 0x7f && c != '"' && c != '\\' &&
           (quoted || (c != ';' && c != ','));
}

/* What the servers say themselves: where it leads, and its title. */
static bool is_taken_name(const char *name, size_t size)
{
    static const char *const taken[] = {"href", "anchor", "title"};

    for (size_t i = 0; i < ELEMENTS(taken); i++)
        if (size == strlen(taken[i]) && memcmp(name, taken[i], size) == 0)
            return true;
    return false;
}

/* One attribute; its size, or 0. */
static size_t attribute_size(const char *s, size_t size)
{
    size_t name = 0, n;
    bool quoted;

    while (name < size && is_attribute_name(s[name]))
        name++;
    if (name == 0 || is_taken_name(s, name))
        return 0;
    if (name == size || s[name] != '=')
        return name;
    n = name + 1;
    quoted = n < size && s[n] == '"';
    n += quoted;
    for (name = n; n < size && is_attribute_value(s[n], quoted); n++)
        ;
    if (!quoted)
        return n > name ? n : 0;
    return n < size && s[n] == '"' ? n + 1 : 0;
}

int endpoints_spec_set_attributes(endpoints_spec *s, const char *value, size_t size)
{
    if (size == 0 || size > ENDPOINTS_ATTRIBUTES_MAX)
        return -EINVAL;
    for (size_t at = 0;;) {
        size_t n = attribute_size(value + at, size - at);

        if (n == 0)
            return -EINVAL;
        at += n;
        if (at == size)
            break;
        if (value[at++] != ';')
            return -EINVAL;
    }
    return set_string(&s->attributes, value, size);
}

int endpoints_spec_set_key(endpoints_spec *s, const char *value, size_t size)
{
    if (size != ENDPOINTS_KEY_SIZE || span(value, size, DIGITS "abcdef") != size)
        return -EINVAL;
    memcpy(s->key, value, size);
    s->key[size] = 0;
    return 0;
}

static bool methods_valid(const char *s, size_t size)
{
    bool word = false;

    if (size == 1 && s[0] == '*')
        return true;
    if (size == 0 || size > 64)
        return false;
    for (size_t i = 0; i < size; i++) {
        if (s[i] == ',' && !word)
            return false;
        word = s[i] != ',';
        if (word && s[i] != '-' && (s[i] < 'A' || s[i] > 'Z'))
            return false;
    }
    return word;
}

static bool subpath_valid(const char *s, size_t size)
{
    return size >= 1 && size <= ENDPOINTS_NAMESPACE_MAX && s[0] == '/' &&
           (size == 1 || path_valid(s, size));
}

/* "log.read", "endpoint.read:/thermo": two words at least, no wildcards. */
static bool permission_valid(const char *s, size_t size)
{
    size_t n = span(s, size, LOWER DIGITS ".-_");

    if (size > 300 || n < 3 || !memchr(s, '.', n) || s[0] == '.' || s[n - 1] == '.')
        return false;
    for (size_t i = 1; i < n; i++)
        if (s[i] == '.' && s[i - 1] == '.')
            return false;
    return n == size || (s[n] == ':' && endpoints_namespace_valid(s + n + 1, size - n - 1));
}

int endpoints_spec_add_rule(endpoints_spec *s, const char *value, size_t size)
{
    const char *end = value + size, *subpath, *permission;
    char **rules, *copy;

    if (size == 0 || memchr(value, 0, size))
        return -EINVAL;
    if (s->n_rules >= ENDPOINTS_RULES_MAX || size > ENDPOINTS_RULES_SIZE - s->rules_size)
        return -ENOBUFS;
    subpath = memchr(value, ' ', size);
    permission = subpath ? memchr(subpath + 1, ' ', (size_t)(end - subpath - 1)) : NULL;
    if (!permission || !methods_valid(value, (size_t)(subpath - value)) ||
        !subpath_valid(subpath + 1, (size_t)(permission - subpath - 1)) ||
        !permission_valid(permission + 1, (size_t)(end - permission - 1)))
        return -EINVAL;
    rules = realloc(s->rules, (s->n_rules + 1) * sizeof(*rules));
    if (!rules)
        return -ENOMEM;
    s->rules = rules;
    copy = strndup(value, size);
    if (!copy)
        return -ENOMEM;
    s->rules[s->n_rules++] = copy;
    s->rules_size += size;
    return 0;
}

int endpoints_spec_set_object(endpoints_spec *s, const char *value, size_t size)
{
    if (size == 0 || size > 255 || value[0] != '/')
        return -EINVAL;
    for (size_t at = 0; size > 1 && at < size;) {
        size_t n =
            value[at] == '/' ? span(value + at + 1, size - at - 1, LOWER UPPER DIGITS "_") : 0;
        if (n == 0)
            return -EINVAL;
        at += n + 1;
    }
    return set_string(&s->object, value, size);
}

/* Unique names only: a well-known name can change hands. */
int endpoints_spec_set_bus_name(endpoints_spec *s, const char *value, size_t size)
{
    if (size < 4 || size > 255 || value[0] != ':' ||
        span(value + 1, size - 1, LOWER UPPER DIGITS "._-") != size - 1)
        return -EINVAL;
    return set_string(&s->bus_name, value, size);
}

/* A service whose name is also a plain file name and a template's instance. */
int endpoints_spec_set_unit(endpoints_spec *s, const char *value, size_t size)
{
    static const char suffix[] = ".service";
    size_t stem = sizeof(suffix) - 1;

    if (size <= stem || size > 128 || memcmp(value + size - stem, suffix, stem) != 0)
        return -EINVAL;
    stem = size - stem;
    if (strchr(".-@", value[0]) || value[stem - 1] == '@' ||
        span(value, stem, LOWER UPPER DIGITS "_.-@") != stem)
        return -EINVAL;
    return set_string(&s->unit, value, size);
}

/* --- entries -------------------------------------------------------------------------------- */

/* The index of `ns`, or with `*ret_found` false where it belongs. */
static size_t entries_search(const entries *e, const char *ns, bool *ret_found)
{
    size_t low = 0, high = e->n;

    *ret_found = false;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int c = strcmp(e->at[middle]->spec.ns, ns);
        if (c == 0)
            *ret_found = true;
        if (c < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static endpoints_entry *entries_find(const entries *e, const char *ns)
{
    bool found;
    size_t i = entries_search(e, ns, &found);

    return found ? e->at[i] : NULL;
}

static int entries_insert(entries *e, endpoints_entry *entry)
{
    bool found;
    size_t i = entries_search(e, entry->spec.ns, &found);
    endpoints_entry **at;

    if (found)
        return -EEXIST;
    at = realloc(e->at, (e->n + 1) * sizeof(*at));
    if (!at)
        return -ENOMEM;
    e->at = at;
    memmove(at + i + 1, at + i, (e->n - i) * sizeof(*at));
    at[i] = entry;
    e->n++;
    return 0;
}

static void entries_take_out(entries *e, const endpoints_entry *entry)
{
    bool found;
    size_t i = entries_search(e, entry->spec.ns, &found);

    memmove(e->at + i, e->at + i + 1, (e->n - i - 1) * sizeof(*e->at));
    e->n--;
}

static void entry_free(endpoints *t, endpoints_entry *entry)
{
    if (t->ops->freed)
        t->ops->freed(entry, t->userdata);
    endpoints_identity_unref(entry->identity);
    endpoints_spec_done(&entry->spec);
    free(entry);
}

static void entries_done(endpoints *t, entries *e)
{
    for (size_t i = 0; i < e->n; i++)
        entry_free(t, e->at[i]);
    free(e->at);
    *e = (entries){};
}

int endpoints_new(const endpoints_ops *ops, void *userdata, endpoints **ret)
{
    endpoints *t = calloc(1, sizeof(*t));

    if (!t)
        return -ENOMEM;
    t->ops = ops;
    t->userdata = userdata;
    *ret = t;
    return 0;
}

void endpoints_free(endpoints *t)
{
    if (!t)
        return;
    entries_done(t, &t->registrations);
    entries_done(t, &t->manifests);
    free(t);
}

uint64_t endpoints_revision(const endpoints *t)
{
    return t->revision;
}

static void tell_changed(endpoints *t, endpoints_entry *entry, bool gone)
{
    entry->revision = ++t->revision;
    if (t->ops->changed)
        t->ops->changed(entry, gone, t->userdata);
}

/* Something has left this namespace: a manifest may show again. */
static void tell_left(endpoints *t, endpoints_entry *left)
{
    endpoints_entry *manifest = entries_find(&t->manifests, left->spec.ns);

    if (manifest)
        tell_changed(t, manifest, false);
    else
        tell_changed(t, left, true);
}

/* --- judging -------------------------------------------------------------------------------- */

static bool at_or_below(const char *ns, const char *root)
{
    const char *rest = startswith(ns, root);

    return rest && (*rest == 0 || *rest == '/');
}

bool endpoints_nested(const endpoints *t, const char *ns, uint32_t uid)
{
    char above[ENDPOINTS_NAMESPACE_MAX + 1];
    size_t size = strlen(ns);

    if (at_or_below(ns, "/system") || at_or_below(ns, "/nodes"))
        return true;
    if (size > ENDPOINTS_NAMESPACE_MAX)
        return true;
    memcpy(above, ns, size + 1);
    /* Any ancestor of another uid, not just the nearest: who was let in between lends nothing on.
     */
    for (char *slash; (slash = strrchr(above, '/')) && slash > above;) {
        const endpoints_entry *r, *m;
        *slash = 0;
        r = entries_find(&t->registrations, above);
        m = entries_find(&t->manifests, above);
        if ((r && r->spec.uid != uid) || (m && m->spec.uid != uid))
            return true;
    }
    return false;
}

static size_t count_uid(const endpoints *t, uint32_t uid)
{
    size_t n = 0;

    for (size_t i = 0; i < t->registrations.n; i++)
        n += t->registrations.at[i]->spec.uid == uid;
    return n;
}

int endpoints_admit(const endpoints *t, const endpoints_spec *spec, const void *owner,
                    const char **ret_why)
{
    const endpoints_entry *holder = entries_find(&t->registrations, spec->ns);
    const endpoints_entry *manifest = entries_find(&t->manifests, spec->ns);

    if (manifest && manifest->spec.uid != spec->uid) {
        *ret_why = "a manifest keeps this namespace for another user";
        return -EEXIST;
    }
    if (!holder) {
        if (t->registrations.n >= ENDPOINTS_MAX) {
            *ret_why = "too many registrations";
            return -ENOBUFS;
        }
        if (count_uid(t, spec->uid) >= ENDPOINTS_UID_MAX) {
            *ret_why = "too many registrations of this user";
            return -ENOBUFS;
        }
        return 0;
    }
    if (holder->spec.uid != spec->uid) {
        *ret_why = "the namespace is taken by another user";
        return -EEXIST;
    }
    /* Who knows the key is the holder, come back sooner than its old connection was seen to end;
     * and a holder that is only expected back has left the place to its own user. */
    if (holder->owner && !spec->takeover && !streq(holder->spec.key, spec->key)) {
        *ret_why = owner && holder->owner == owner
                       ? "the namespace is already registered here"
                       : "the namespace is taken; the same user may ask with takeover";
        return -EEXIST;
    }
    return 0;
}

static int make_key(char ret[ENDPOINTS_KEY_SIZE + 1])
{
    uint64_t random;

    if (getrandom(&random, sizeof(random), 0) != sizeof(random))
        return -EIO;
    snprintf(ret, ENDPOINTS_KEY_SIZE + 1, "%016llx", (unsigned long long)random);
    return 0;
}

int endpoints_register(endpoints *t, endpoints_spec *spec, endpoints_identity *identity,
                       void *owner, uint32_t owner_id, endpoints_entry **ret, const char **ret_why)
{
    endpoints_entry *entry, *holder;
    char key[ENDPOINTS_KEY_SIZE + 1];
    int r;

    r = endpoints_admit(t, spec, owner, ret_why);
    if (r < 0)
        return r;
    memcpy(key, spec->key, sizeof(key));
    if (!key[0] && (r = make_key(key)) < 0)
        return r;
    entry = calloc(1, sizeof(*entry));
    if (!entry)
        return -ENOMEM;
    entry->spec = *spec;
    memcpy(entry->spec.key, key, sizeof(key));
    entry->owner = owner;
    entry->owner_id = owner_id;

    holder = entries_find(&t->registrations, spec->ns);
    if (holder) {
        bool found;
        t->registrations.at[entries_search(&t->registrations, spec->ns, &found)] = entry;
    } else if ((r = entries_insert(&t->registrations, entry)) < 0) {
        free(entry);
        return r;
    }
    *spec = (endpoints_spec){};
    entry->identity = endpoints_identity_ref(identity);
    if (holder) {
        if (holder->owner && t->ops->displaced)
            t->ops->displaced(holder, t->userdata);
        entry_free(t, holder);
    }
    tell_changed(t, entry, false);
    *ret = entry;
    return 0;
}

void endpoints_remove(endpoints *t, endpoints_entry *entry)
{
    entries_take_out(&t->registrations, entry);
    tell_left(t, entry);
    entry_free(t, entry);
}

void endpoints_remove_owner(endpoints *t, const void *owner)
{
    for (size_t i = t->registrations.n; i > 0; i--)
        if (t->registrations.at[i - 1]->owner == owner)
            endpoints_remove(t, t->registrations.at[i - 1]);
}

/* --- restart -------------------------------------------------------------------------------- */

int endpoints_expect(endpoints *t, endpoints_spec *spec)
{
    endpoints_entry *entry;
    int r;

    if (t->registrations.n >= ENDPOINTS_MAX || count_uid(t, spec->uid) >= ENDPOINTS_UID_MAX)
        return -ENOBUFS;
    entry = calloc(1, sizeof(*entry));
    if (!entry)
        return -ENOMEM;
    entry->spec = *spec;
    r = entries_insert(&t->registrations, entry);
    if (r < 0) {
        free(entry);
        return r;
    }
    *spec = (endpoints_spec){};
    tell_changed(t, entry, false);
    return 0;
}

void endpoints_adopt(endpoints *t, endpoints_entry *entry, endpoints_identity *identity,
                     void *owner)
{
    endpoints_identity_unref(entry->identity);
    entry->identity = endpoints_identity_ref(identity);
    entry->owner = owner;
}

size_t endpoints_expire(endpoints *t, bool (*keep)(const endpoints_entry *entry, void *userdata),
                        void *userdata)
{
    size_t n = 0;

    for (size_t i = t->registrations.n; i > 0; i--) {
        endpoints_entry *entry = t->registrations.at[i - 1];
        if (entry->owner || (keep && keep(entry, userdata)))
            continue;
        endpoints_remove(t, entry);
        n++;
    }
    return n;
}

/* --- manifests ------------------------------------------------------------------------------ */

static bool same_string(const char *a, const char *b)
{
    return streq(strempty(a), strempty(b));
}

static bool same_manifest(const endpoints_spec *a, const endpoints_spec *b)
{
    if (a->uid != b->uid || a->n_rules != b->n_rules || !same_string(a->unit, b->unit) ||
        !same_string(a->title, b->title) || !same_string(a->attributes, b->attributes))
        return false;
    for (size_t i = 0; i < a->n_rules; i++)
        if (!streq(a->rules[i], b->rules[i]))
            return false;
    return true;
}

static int manifests_build(endpoints_spec *specs, size_t n, entries *ret)
{
    for (size_t i = 0; i < n; i++) {
        endpoints_entry *entry = calloc(1, sizeof(*entry));
        int r = -ENOMEM;
        if (entry) {
            entry->spec = specs[i];
            r = entries_insert(ret, entry);
        }
        if (r < 0) {
            free(entry);
            return r;
        }
    }
    return 0;
}

int endpoints_set_manifests(endpoints *t, endpoints_spec *specs, size_t n)
{
    entries made = {}, old = t->manifests;
    int r;

    if (n > ENDPOINTS_MANIFESTS_MAX)
        return -ENOBUFS;
    r = manifests_build(specs, n, &made);
    if (r < 0) { /* the strings still belong to the caller */
        for (size_t i = 0; i < made.n; i++)
            free(made.at[i]);
        free(made.at);
        return r;
    }
    for (size_t i = 0; i < n; i++)
        specs[i] = (endpoints_spec){};

    t->manifests = made;
    for (size_t i = 0; i < made.n; i++) {
        const endpoints_entry *before = entries_find(&old, made.at[i]->spec.ns);
        if (before)
            made.at[i]->revision = before->revision;
        if ((!before || !same_manifest(&before->spec, &made.at[i]->spec)) &&
            !entries_find(&t->registrations, made.at[i]->spec.ns))
            tell_changed(t, made.at[i], false);
    }
    for (size_t i = 0; i < old.n; i++)
        if (!entries_find(&made, old.at[i]->spec.ns) &&
            !entries_find(&t->registrations, old.at[i]->spec.ns))
            tell_changed(t, old.at[i], true);
    entries_done(t, &old);
    return 0;
}

/* --- looking -------------------------------------------------------------------------------- */

endpoints_entry *endpoints_find(const endpoints *t, const char *ns)
{
    endpoints_entry *entry = entries_find(&t->registrations, ns);

    return entry ? entry : entries_find(&t->manifests, ns);
}

endpoints_entry *endpoints_manifest(const endpoints *t, const char *ns)
{
    return entries_find(&t->manifests, ns);
}

endpoints_entry *endpoints_find_owned(const endpoints *t, const void *owner, uint32_t owner_id)
{
    for (size_t i = 0; i < t->registrations.n; i++)
        if (t->registrations.at[i]->owner == owner && t->registrations.at[i]->owner_id == owner_id)
            return t->registrations.at[i];
    return NULL;
}

endpoints_entry *endpoints_registration_at(const endpoints *t, size_t index)
{
    return index < t->registrations.n ? t->registrations.at[index] : NULL;
}

/* A merge of both lists; where both name a namespace, the registration stands. */
endpoints_entry *endpoints_next(const endpoints *t, endpoints_cursor *cursor)
{
    endpoints_entry *r = endpoints_registration_at(t, cursor->registration);
    endpoints_entry *m =
        cursor->manifest < t->manifests.n ? t->manifests.at[cursor->manifest] : NULL;
    int c = !r ? 1 : !m ? -1 : strcmp(r->spec.ns, m->spec.ns);

    cursor->registration += r && c <= 0;
    cursor->manifest += m && c >= 0;
    return r && c <= 0 ? r : m;
}
