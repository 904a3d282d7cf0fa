/* SPDX-License-Identifier: Apache-2.0 */
#include "catalogue.h"

#include <dirent.h>
#include <expat.h>
#include <fcntl.h>
#include <hybus/file.h>
#include <stdarg.h>
#include <sys/stat.h>

#include "policy.h"

#define ANNOTATION_READ "org.hybridos.Permission"
#define ANNOTATION_SECRET "org.hybridos.Secret"
#define ANNOTATION_POLKIT "org.hybridos.Polkit"
#define ANNOTATION_WRITE "org.hybridos.Permission.Write"
#define ANNOTATION_DESTINATION "org.hybridos.Destination"
#define ANNOTATION_PROPERTIES_READ "org.hybridos.Properties"
#define ANNOTATION_PROPERTIES_WRITE "org.hybridos.Properties.Write"

struct Catalogue {
    Member *members;
    size_t n_members, allocated;
    Destination *destinations;
    size_t n_destinations;
    char **vendor_prefixes;
};

int catalogue_new(Catalogue **ret)
{
    return (*ret = calloc(1, sizeof(Catalogue))) ? 0 : -ENOMEM;
}

static void member_done(Member *m)
{
    free(m->interface);
    free(m->name);
    free(m->permission);
    free(m->file);
    words_free(m->arguments);
    free(m->polkit);
}

static void destination_done(Destination *d)
{
    free(d->interface);
    free(d->name);
    free(d->read);
    free(d->write);
    free(d->file);
}

void catalogue_free(Catalogue *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_destinations; i++)
        destination_done(&c->destinations[i]);
    free(c->destinations);
    for (size_t i = 0; i < c->n_members; i++)
        member_done(&c->members[i]);
    free(c->members);
    words_free(c->vendor_prefixes);
    free(c);
}

static int compare_members(const void *pa, const void *pb)
{
    const Member *a = pa, *b = pb;
    int order = strcmp(a->interface, b->interface);

    if (order == 0)
        order = strcmp(a->name, b->name);
    return order ? order : a->kind - b->kind;
}

static int compare_destinations(const void *pa, const void *pb)
{
    const Destination *a = pa, *b = pb;
    return strcmp(a->interface, b->interface);
}

/* --- one file -------------------------------------------------------------------------------- */

typedef struct Parser {
    Catalogue *catalogue;
    XML_Parser expat;
    hybus_config_error *error;
    const char *file;
    bool vendor;
    int result;
    unsigned depth;
    size_t first, first_destination; /* of this file */
    char interface[256], member[256];
    unsigned member_depth, interface_depth, argument_depth;
    size_t read, write; /* indexes of the member at hand, or SIZE_MAX */
} Parser;

static void _printf_(2, 3) fail(Parser *p, const char *format, ...)
{
    hybus_config_position at = {.file = p->file,
                                .line = (unsigned)XML_GetCurrentLineNumber(p->expat),
                                .column = (unsigned)XML_GetCurrentColumnNumber(p->expat) + 1};
    char text[512];
    va_list args;

    if (p->result < 0)
        return;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    p->result = hybus_config_error_set(p->error, &at, "%s", text);
    XML_StopParser(p->expat, XML_FALSE);
}

static void out_of_memory(Parser *p)
{
    p->result = -ENOMEM;
    XML_StopParser(p->expat, XML_FALSE);
}

static const char *attribute(const XML_Char **attributes, const char *name)
{
    for (; attributes[0]; attributes += 2)
        if (streq(attributes[0], name))
            return attributes[1];
    return NULL;
}

static bool name_is_valid(const char *s, bool dots)
{
    size_t n = strlen(s);

    if (n < 1 || n > 255)
        return false;
    for (; *s; s++)
        if (!(*s >= 'a' && *s <= 'z') && !(*s >= 'A' && *s <= 'Z') && !(*s >= '0' && *s <= '9') &&
            *s != '_' && !(dots && *s == '.'))
            return false;
    return true;
}

static size_t add_member(Parser *p, char kind)
{
    Catalogue *c = p->catalogue;
    Member *m;

    if (c->n_members >= CATALOGUE_MEMBERS_MAX) {
        fail(p, "more than %u members in all files", CATALOGUE_MEMBERS_MAX);
        return SIZE_MAX;
    }
    if (c->n_members == c->allocated) {
        size_t want = c->allocated ? c->allocated * 2 : 64;
        Member *larger = reallocarray(c->members, want, sizeof *larger);

        if (!larger) {
            out_of_memory(p);
            return SIZE_MAX;
        }
        c->members = larger;
        c->allocated = want;
    }
    m = &c->members[c->n_members];
    *m = (Member){.interface = strdup(p->interface),
                  .name = strdup(p->member),
                  .kind = kind,
                  .file = strdup(p->file),
                  .line = (unsigned)XML_GetCurrentLineNumber(p->expat)};
    c->n_members++;
    if (!m->interface || !m->name || !m->file)
        out_of_memory(p);
    return c->n_members - 1;
}

static void start_interface(Parser *p, const XML_Char **attributes)
{
    const char *name = attribute(attributes, "name");

    if (p->interface_depth)
        return fail(p, "an interface inside another");
    if (!name || !name_is_valid(name, true) || !strchr(name, '.'))
        return fail(p, "an interface needs a valid name");
    if (!p->vendor && startswith(name, "org.hybridos."))
        return fail(p, "%s is reserved for the system", name);
    snprintf(p->interface, sizeof p->interface, "%s", name);
    p->interface_depth = p->depth;
}

static void start_member(Parser *p, const char *element, const XML_Char **attributes)
{
    const char *name = attribute(attributes, "name"), *access = attribute(attributes, "access");

    if (p->member_depth)
        return fail(p, "a member inside another");
    if (!name || !name_is_valid(name, false))
        return fail(p, "a member needs a valid name");
    snprintf(p->member, sizeof p->member, "%s", name);
    p->member_depth = p->depth;
    p->read = p->write = SIZE_MAX;
    if (streq(element, "method"))
        p->read = add_member(p, 'm');
    else if (streq(element, "signal"))
        p->read = add_member(p, 'e');
    else if (!access || (!streq(access, "read") && !streq(access, "readwrite") &&
                         !streq(access, "write")))
        fail(p, "a property needs access read, write or readwrite");
    else {
        if (!streq(access, "write"))
            p->read = add_member(p, 'g');
        if (!streq(access, "read"))
            p->write = add_member(p, 's');
        if (p->write != SIZE_MAX && words_add(&p->catalogue->members[p->write].arguments, "value", 5) < 0)
            out_of_memory(p);
    }
}

static bool prefix_is_vendors(const Catalogue *c, const char *permission)
{
    for (char **prefix = c->vendor_prefixes; prefix && *prefix; prefix++)
        if (strcspn(permission, ".:") == strlen(*prefix) && startswith(permission, *prefix))
            return true;
    return false;
}

static bool check_permission(Parser *p, const char *value)
{
    if (!permission_is_valid(value))
        fail(p, "\"%s\" is not a permission", value);
    else if (!p->vendor && prefix_is_vendors(p->catalogue, value))
        fail(p, "the prefix of \"%s\" is reserved for the system", value);
    return p->result >= 0;
}

/* The entry of the interface at hand; one per file and interface. */
static Destination *need_destination(Parser *p)
{
    Catalogue *c = p->catalogue;
    Destination *larger, *d;

    for (size_t i = p->first_destination; i < c->n_destinations; i++)
        if (streq(c->destinations[i].interface, p->interface))
            return &c->destinations[i];
    if (c->n_destinations >= CATALOGUE_DESTINATIONS_MAX) {
        fail(p, "more than %u interfaces of other services", CATALOGUE_DESTINATIONS_MAX);
        return NULL;
    }
    larger = reallocarray(c->destinations, c->n_destinations + 1, sizeof *larger);
    if (!larger) {
        out_of_memory(p);
        return NULL;
    }
    c->destinations = larger;
    d = &larger[c->n_destinations++];
    *d = (Destination){.interface = strdup(p->interface),
                       .file = strdup(p->file),
                       .line = (unsigned)XML_GetCurrentLineNumber(p->expat)};
    if (!d->interface || !d->file) {
        out_of_memory(p);
        return NULL;
    }
    return d;
}

/* Ours are never guarded by the bus, the bus itself is not for sale, and who is not the vendor speaks
 * only for interfaces that carry the service's own name in front. */
static bool check_destination(Parser *p, const char *name)
{
    const char *rest = startswith(p->interface, name);

    if (!name_is_valid(name, true) || !strchr(name, '.') || name[0] == '.')
        fail(p, "\"%s\" is not a well-known bus name", name);
    else if (startswith(name, "org.hybridos.") || streq(name, "org.freedesktop.DBus"))
        fail(p, "%s is not a service that the bus guards by this policy", name);
    else if (!p->vendor && (!rest || (*rest && *rest != '.')))
        fail(p, "%s does not belong to %s", p->interface, name);
    return p->result >= 0;
}

static void start_interface_annotation(Parser *p, const char *name, const char *value)
{
    Destination *d;
    char **field;

    if (p->depth != p->interface_depth + 1 || !p->interface_depth)
        return fail(p, "%s belongs to an interface", name);
    if (!(streq(name, ANNOTATION_DESTINATION) ? check_destination(p, value)
                                              : check_permission(p, value)))
        return;
    d = need_destination(p);
    if (!d)
        return;
    field = streq(name, ANNOTATION_DESTINATION)       ? &d->name
            : streq(name, ANNOTATION_PROPERTIES_READ) ? &d->read
                                                      : &d->write;
    if (*field)
        return fail(p, "%s stands twice", name);
    if (!(*field = strdup(value)))
        out_of_memory(p);
}

static void start_argument(Parser *p, const XML_Char **attributes)
{
    const char *name = attribute(attributes, "name"), *direction = attribute(attributes, "direction");
    Member *m;

    if (p->read == SIZE_MAX || p->depth != p->member_depth + 1 || (direction && streq(direction, "out")))
        return;
    m = &p->catalogue->members[p->read];
    if (m->kind != 'm' || words_count(m->arguments) >= CATALOGUE_ARGUMENTS_MAX)
        return;
    if (!name || !name_is_valid(name, false))
        name = "";
    p->argument_depth = p->depth;
    if (words_add(&m->arguments, name, strlen(name)) < 0)
        out_of_memory(p);
}

static void start_polkit(Parser *p, const char *value)
{
    Member *m = p->read == SIZE_MAX ? NULL : &p->catalogue->members[p->read];

    if (!p->member_depth || p->depth != p->member_depth + 1 || !m || m->kind != 'm')
        return fail(p, ANNOTATION_POLKIT " belongs to a method");
    if (m->polkit || strlen(value) < 1 || strlen(value) > 255 ||
        strspn(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") != strlen(value))
        return fail(p, "\"%s\" is not one polkit action", value);
    if (!(m->polkit = strdup(value)))
        out_of_memory(p);
}

/* Of an argument, or of a property that is written. */
static void start_secret(Parser *p, const char *value)
{
    if (!streq(value, "true"))
        return fail(p, ANNOTATION_SECRET " is \"true\" or not there");
    if (p->argument_depth && p->depth == p->argument_depth + 1) {
        Member *m = &p->catalogue->members[p->read];

        m->secret |= UINT64_C(1) << (words_count(m->arguments) - 1);
    } else if (p->member_depth && p->depth == p->member_depth + 1 && p->write != SIZE_MAX) {
        p->catalogue->members[p->write].secret = 1;
    }
}

static void start_annotation(Parser *p, const XML_Char **attributes)
{
    const char *name = attribute(attributes, "name"), *value = attribute(attributes, "value");
    size_t number;
    Member *m;

    if (!name || !value)
        return fail(p, "an annotation needs name and value");
    if (streq(name, ANNOTATION_DESTINATION) || streq(name, ANNOTATION_PROPERTIES_READ) ||
        streq(name, ANNOTATION_PROPERTIES_WRITE))
        return start_interface_annotation(p, name, value);
    if (streq(name, ANNOTATION_SECRET))
        return start_secret(p, value);
    if (streq(name, ANNOTATION_POLKIT))
        return start_polkit(p, value);
    if (!streq(name, ANNOTATION_READ) && !streq(name, ANNOTATION_WRITE))
        return;
    if (!p->member_depth || p->depth != p->member_depth + 1)
        return fail(p, "%s belongs to a method, property or signal", name);
    number = streq(name, ANNOTATION_READ) ? p->read : p->write;
    if (number == SIZE_MAX)
        return fail(p, "%s does not fit the access of %s", name, p->member);
    if (!check_permission(p, value))
        return;
    m = &p->catalogue->members[number];
    if (m->permission)
        return fail(p, "%s stands twice", name);
    m->permission = strdup(value);
    if (!m->permission)
        out_of_memory(p);
}

static void start_element(void *userdata, const XML_Char *element, const XML_Char **attributes)
{
    Parser *p = userdata;

    if (p->result < 0)
        return;
    if (++p->depth > CATALOGUE_DEPTH_MAX)
        return fail(p, "nested deeper than %u", CATALOGUE_DEPTH_MAX);
    if (p->depth == 1 && !streq(element, "node"))
        return fail(p, "the outermost element must be node");
    if (streq(element, "interface"))
        start_interface(p, attributes);
    else if (streq(element, "annotation"))
        start_annotation(p, attributes);
    else if (p->member_depth && streq(element, "arg"))
        start_argument(p, attributes);
    else if (p->interface_depth && (streq(element, "method") || streq(element, "property") ||
                                    streq(element, "signal")))
        start_member(p, element, attributes);
}

static void end_element(void *userdata, const XML_Char *element)
{
    Parser *p = userdata;

    if (p->depth == p->argument_depth)
        p->argument_depth = 0;
    if (p->depth == p->member_depth)
        p->member_depth = 0;
    if (p->depth == p->interface_depth)
        p->interface_depth = 0;
    p->depth--;
}

/* The usual DOCTYPE is fine and is not followed; declarations of one's own are not. */
static void start_doctype(void *userdata, const XML_Char *name, const XML_Char *system_id,
                          const XML_Char *public_id, int has_internal_subset)
{
    if (has_internal_subset)
        fail(userdata, "an internal DTD subset is not allowed");
}

static void entity_declaration(void *userdata, const XML_Char *name, int is_parameter,
                               const XML_Char *value, int length, const XML_Char *base,
                               const XML_Char *system_id, const XML_Char *public_id,
                               const XML_Char *notation)
{
    fail(userdata, "entities are not allowed");
}

static void skipped_entity(void *userdata, const XML_Char *name, int is_parameter)
{
    fail(userdata, "entities are not allowed");
}

static int parse(Parser *p, const char *text, size_t size)
{
    XML_SetUserData(p->expat, p);
    XML_SetElementHandler(p->expat, start_element, end_element);
    XML_SetStartDoctypeDeclHandler(p->expat, start_doctype);
    XML_SetEntityDeclHandler(p->expat, entity_declaration);
    XML_SetSkippedEntityHandler(p->expat, skipped_entity);
    if (XML_Parse(p->expat, text, (int)size, XML_TRUE) != XML_STATUS_OK && p->result >= 0)
        fail(p, "%s", XML_ErrorString(XML_GetErrorCode(p->expat)));
    return p->result;
}

/* Joins the new file's members with those of earlier files. */
static int merge(Catalogue *c, size_t first, const char *file, hybus_config_error *e)
{
    for (size_t i = first; i < c->n_members; i++) {
        Member *m = &c->members[i], *old = NULL;
        hybus_config_position at = {.file = file, .line = m->line, .column = 1};
        size_t k;

        for (k = 0; k < i && !old; k++)
            if (compare_members(&c->members[k], m) == 0)
                old = &c->members[k];
        if (!old)
            continue;
        if (k > first)
            return hybus_config_error_set(e, &at, "%s.%s stands twice", m->interface, m->name);
        if (m->permission && !old->permission && !old->conflict) {
            old->permission = TAKE_PTR(m->permission);
            free(old->file);
            old->file = TAKE_PTR(m->file);
            old->line = m->line;
        } else if (m->permission && old->permission && !streq(m->permission, old->permission)) {
            old->conflict = true;
            free(TAKE_PTR(old->permission));
        }
        /* An overlay only annotates; what it hides stays hidden. */
        if (!old->arguments)
            old->arguments = TAKE_PTR(m->arguments);
        old->secret |= m->secret;
        if (!old->polkit)
            old->polkit = TAKE_PTR(m->polkit);
        member_done(m);
        memmove(m, m + 1, (--c->n_members - i) * sizeof *m);
        i--;
    }
    return 0;
}

/* One word of two files: what only one says counts, what both say differently is a conflict. */
static bool merge_word(char **old, char **new)
{
    if (*new && !*old)
        *old = TAKE_PTR(*new);
    return !*new || streq(*old, *new);
}

static int merge_destinations(Catalogue *c, size_t first, const char *file, hybus_config_error *e)
{
    for (size_t i = first; i < c->n_destinations; i++) {
        Destination *d = &c->destinations[i];
        hybus_config_position at = {.file = file, .line = d->line, .column = 1};
        Destination *old = NULL;

        if (!d->name)
            return hybus_config_error_set(e, &at, "%s says nothing of its " ANNOTATION_DESTINATION,
                                          d->interface);
        for (size_t k = 0; k < first && !old; k++)
            if (streq(c->destinations[k].interface, d->interface))
                old = &c->destinations[k];
        if (!old)
            continue;
        /* A conflict stays one (the name is gone), whatever a third file says. */
        if (old->name && (!streq(old->name, d->name) || !merge_word(&old->read, &d->read) ||
                          !merge_word(&old->write, &d->write)))
            free(TAKE_PTR(old->name));
        destination_done(d);
        memmove(d, d + 1, (--c->n_destinations - i) * sizeof *d);
        i--;
    }
    return 0;
}

static int keep_prefix(Catalogue *c, const char *permission)
{
    char prefix[POLICY_NAME_MAX + 1];

    if (!permission || prefix_is_vendors(c, permission))
        return 0;
    snprintf(prefix, sizeof prefix, "%.*s", (int)strcspn(permission, ".:"), permission);
    return words_add(&c->vendor_prefixes, prefix, strlen(prefix));
}

static int keep_prefixes(Catalogue *c, size_t first, size_t first_destination)
{
    int r = 0;

    for (size_t i = first; i < c->n_members && r >= 0; i++)
        r = keep_prefix(c, c->members[i].permission);
    for (size_t i = first_destination; i < c->n_destinations && r >= 0; i++) {
        r = keep_prefix(c, c->destinations[i].read);
        if (r >= 0)
            r = keep_prefix(c, c->destinations[i].write);
    }
    return r;
}

int catalogue_parse(Catalogue *c, const char *name, const char *text, size_t size, bool vendor,
                    hybus_config_error *e)
{
    Parser p = {.catalogue = c,
                .file = name,
                .vendor = vendor,
                .error = e,
                .first = c->n_members,
                .first_destination = c->n_destinations};
    hybus_config_position at = {.file = name, .line = 1, .column = 1};
    int r;

    if (size > CATALOGUE_FILE_MAX)
        return hybus_config_error_set(e, &at, "larger than %u bytes", CATALOGUE_FILE_MAX);
    p.expat = XML_ParserCreate("UTF-8");
    if (!p.expat)
        return -ENOMEM;
    r = parse(&p, text, size);
    XML_ParserFree(p.expat);
    if (r >= 0)
        r = vendor ? keep_prefixes(c, p.first, p.first_destination) : 0;
    if (r >= 0)
        r = merge_destinations(c, p.first_destination, name, e);
    if (r >= 0)
        r = merge(c, p.first, name, e);
    if (r < 0)
        while (c->n_destinations > p.first_destination)
            destination_done(&c->destinations[--c->n_destinations]);
    if (r < 0)
        while (c->n_members > p.first)
            member_done(&c->members[--c->n_members]);
    return r;
}

void catalogue_finish(Catalogue *c)
{
    if (c->n_members > 0)
        qsort(c->members, c->n_members, sizeof *c->members, compare_members);
    if (c->n_destinations > 0)
        qsort(c->destinations, c->n_destinations, sizeof *c->destinations, compare_destinations);
}

/* --- directories ----------------------------------------------------------------------------- */

static int read_file(Catalogue *c, const char *path, bool vendor, hybus_config_file_check check,
                     hybus_config_error *e)
{
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    hybus_config_position at = {.file = path, .line = 1, .column = 1};
    _cleanup_(freep) void *text = NULL;
    size_t size;
    int r;

    if (fd < 0)
        return hybus_config_error_set(e, &at, "%s", strerror(errno));
    if (check && (r = check(fd, path, e)) < 0)
        return r;
    r = hybus_file_read(fd, CATALOGUE_FILE_MAX, &text, &size);
    if (r == -ENOMEM)
        return r;
    if (r == -EFBIG)
        return hybus_config_error_set(e, &at, "larger than %u bytes", CATALOGUE_FILE_MAX);
    if (r < 0)
        return hybus_config_error_set(e, &at, "%s",
                                      r == -EBADMSG ? "not a regular file" : strerror(-r));
    return catalogue_parse(c, path, text, size, vendor, e);
}

static int is_xml(const struct dirent *entry)
{
    size_t n = strlen(entry->d_name);
    return n > 4 && entry->d_name[0] != '.' && streq(entry->d_name + n - 4, ".xml");
}

static int read_directory(Catalogue *c, const CatalogueSource *source, size_t *n_files,
                          hybus_config_file_check check, hybus_config_error *e)
{
    struct dirent **entries;
    int n = scandir(source->directory, &entries, is_xml, alphasort), r = 0;

    if (n < 0)
        return errno == ENOENT ? 0 : -errno;
    for (int i = 0; i < n; i++) {
        _cleanup_(freep) char *path = NULL;

        if (r >= 0 && ++*n_files > CATALOGUE_FILES_MAX)
            r = hybus_config_error_set(e, NULL, "more than %u interface files",
                                       CATALOGUE_FILES_MAX);
        if (r >= 0 && asprintf(&path, "%s/%s", source->directory, entries[i]->d_name) < 0) {
            path = NULL;
            r = -ENOMEM;
        }
        if (r >= 0)
            r = read_file(c, path, source->vendor, check, e);
        free(entries[i]);
    }
    free(entries);
    return r;
}

int catalogue_read(const CatalogueSource *sources, size_t n_sources, hybus_config_file_check check,
                   Catalogue **ret, hybus_config_error *e)
{
    _cleanup_(catalogue_freep) Catalogue *c = NULL;
    size_t n_files = 0;
    int r = catalogue_new(&c);

    for (size_t i = 0; i < n_sources && r >= 0; i++)
        r = read_directory(c, &sources[i], &n_files, check, e);
    if (r < 0)
        return r;
    catalogue_finish(c);
    *ret = TAKE_PTR(c);
    return 0;
}

/* --- answers --------------------------------------------------------------------------------- */

size_t catalogue_members(const Catalogue *c, const Member **ret)
{
    *ret = c->members;
    return c->n_members;
}

size_t catalogue_interface(const Catalogue *c, const char *interface, const Member **ret)
{
    size_t low = 0, high = c->n_members, end;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (strcmp(c->members[middle].interface, interface) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (end = low; end < c->n_members && streq(c->members[end].interface, interface);)
        end++;
    *ret = c->members + low;
    return end - low;
}

const Member *catalogue_find(const Catalogue *c, const char *interface, const char *name, char kind)
{
    const Member *members;
    size_t n = catalogue_interface(c, interface, &members);

    for (size_t i = 0; i < n; i++)
        if (members[i].kind == kind && streq(members[i].name, name))
            return &members[i];
    return NULL;
}

size_t catalogue_destinations(const Catalogue *c, const Destination **ret)
{
    *ret = c->destinations;
    return c->n_destinations;
}

const Destination *catalogue_destination(const Catalogue *c, const char *interface)
{
    const Destination key = {.interface = (char *)interface};

    return c->n_destinations ? bsearch(&key, c->destinations, c->n_destinations,
                                       sizeof *c->destinations, compare_destinations)
                             : NULL;
}

static bool destinations_equal(const Catalogue *a, const Catalogue *b)
{
    if (a->n_destinations != b->n_destinations)
        return false;
    for (size_t i = 0; i < a->n_destinations; i++) {
        const Destination *x = &a->destinations[i], *y = &b->destinations[i];

        if (!streq(x->interface, y->interface) || !streq(strempty(x->name), strempty(y->name)) ||
            !streq(strempty(x->read), strempty(y->read)) ||
            !streq(strempty(x->write), strempty(y->write)))
            return false;
    }
    return true;
}

bool catalogue_equal(const Catalogue *a, const Catalogue *b)
{
    if (a->n_members != b->n_members || !destinations_equal(a, b))
        return false;
    for (size_t i = 0; i < a->n_members; i++)
        if (compare_members(&a->members[i], &b->members[i]) != 0 ||
            !streq(strempty(a->members[i].permission), strempty(b->members[i].permission)) ||
            !words_equal(a->members[i].arguments, b->members[i].arguments) ||
            a->members[i].secret != b->members[i].secret ||
            !streq(strempty(a->members[i].polkit), strempty(b->members[i].polkit)))
            return false;
    return true;
}

static int format_member(FILE *f, const Member *m)
{
    static const char *const elements[] = {['m'] = "method", ['e'] = "signal"};
    const char *access = m->kind == 'g' ? "read" : "write";

    if (m->kind == 'm' || m->kind == 'e')
        fprintf(f, "<%s name=\"%s\">", elements[(unsigned char)m->kind], m->name);
    else
        fprintf(f, "<property name=\"%s\" access=\"%s\">", m->name, access);
    if (m->permission)
        fprintf(f, "<annotation name=\"%s\" value=\"%s\"/>",
                m->kind == 's' ? ANNOTATION_WRITE : ANNOTATION_READ, m->permission);
    if (m->polkit)
        fprintf(f, "<annotation name=\"" ANNOTATION_POLKIT "\" value=\"%s\"/>", m->polkit);
    if (m->kind == 's' && m->secret)
        fputs("<annotation name=\"" ANNOTATION_SECRET "\" value=\"true\"/>", f);
    for (size_t i = 0; m->kind == 'm' && m->arguments && m->arguments[i]; i++)
        fprintf(f, m->secret >> i & 1 ? "<arg name=\"%s\"><annotation name=\"" ANNOTATION_SECRET
                                        "\" value=\"true\"/></arg>"
                                      : "<arg name=\"%s\"/>",
                m->arguments[i]);
    return fprintf(f, "</%s>\n", m->kind == 'm' || m->kind == 'e' ? elements[(unsigned char)m->kind]
                                                                  : "property");
}

static void format_annotation(FILE *f, const char *name, const char *value)
{
    if (value)
        fprintf(f, "<annotation name=\"%s\" value=\"%s\"/>\n", name, value);
}

/* Without a name (a conflict) it is left out: nobody may use the interface then either. */
static void format_destination(FILE *f, const Destination *d)
{
    if (!d || !d->name)
        return;
    format_annotation(f, ANNOTATION_DESTINATION, d->name);
    format_annotation(f, ANNOTATION_PROPERTIES_READ, d->read);
    format_annotation(f, ANNOTATION_PROPERTIES_WRITE, d->write);
}

/* One document for an interface with the members that stand at `m`. */
static int format_interface(const Catalogue *c, const char *interface, const Member *m, size_t n,
                            int (*f)(const char *xml, size_t size, void *userdata), void *userdata)
{
    _cleanup_(freep) char *text = NULL;
    size_t size;
    FILE *file = open_memstream(&text, &size);

    if (!file)
        return -ENOMEM;
    fprintf(file, "<node><interface name=\"%s\">\n", interface);
    format_destination(file, catalogue_destination(c, interface));
    for (size_t i = 0; i < n; i++)
        (void)format_member(file, &m[i]);
    fprintf(file, "</interface></node>\n");
    if (fclose(file) != 0)
        return -ENOMEM;
    return f(text, size, userdata);
}

int catalogue_format(const Catalogue *c, int (*f)(const char *xml, size_t size, void *userdata),
                     void *userdata)
{
    const Member *members;
    size_t n;
    int r = 0;

    for (size_t i = 0; i < c->n_members && r >= 0; i += n) {
        n = catalogue_interface(c, c->members[i].interface, &members);
        r = format_interface(c, members->interface, members, n, f, userdata);
    }
    for (size_t i = 0; i < c->n_destinations && r >= 0; i++)
        if (catalogue_interface(c, c->destinations[i].interface, &members) == 0)
            r = format_interface(c, c->destinations[i].interface, NULL, 0, f, userdata);
    return r;
}
