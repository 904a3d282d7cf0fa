/* SPDX-License-Identifier: Apache-2.0 */
#include "bus-rules.h"

#include <grp.h>
#include <pwd.h>

#define PROPERTIES "org.freedesktop.DBus.Properties"

/* --- users ----------------------------------------------------------------------------------- */

void bus_users_done(BusUsers *u)
{
    for (size_t i = 0; i < u->n_users; i++) {
        free(u->users[i].name);
        free(u->users[i].gids);
    }
    free(u->users);
    *u = (BusUsers){0};
}

/* What may stand in a configuration file without being escaped. Both buses look names up in NSS,
 * and one that they cannot read makes them drop the whole file. */
static bool user_name_is_plain(const char *s)
{
    size_t n = strlen(s);

    if (n < 1 || n > 64 || !((*s >= 'a' && *s <= 'z') || *s == '_'))
        return false;
    for (; *s; s++)
        if (!(*s >= 'a' && *s <= 'z') && !(*s >= '0' && *s <= '9') && *s != '_' && *s != '-')
            return false;
    return true;
}

static int read_groups(BusUser *u, gid_t primary)
{
    gid_t gids[POLICY_GROUPS_MAX];
    int n = POLICY_GROUPS_MAX;

    _Static_assert(sizeof(gid_t) == sizeof(uint32_t), "gids are copied as they are");
    if (getgrouplist(u->name, primary, gids, &n) < 0)
        return -ENOBUFS;
    u->gids = malloc((size_t)n * sizeof *gids);
    if (!u->gids)
        return -ENOMEM;
    memcpy(u->gids, gids, (size_t)n * sizeof *gids);
    u->n_gids = (size_t)n;
    return 0;
}

static int add_user(BusUsers *users, const struct passwd *pw)
{
    BusUser *larger, *u;

    if (!user_name_is_plain(pw->pw_name) || !uid_may_hold(pw->pw_uid))
        return 0;
    for (size_t i = 0; i < users->n_users; i++)
        if (streq(users->users[i].name, pw->pw_name))
            return 0;
    larger = reallocarray(users->users, users->n_users + 1, sizeof *larger);
    if (!larger)
        return -ENOMEM;
    users->users = larger;
    u = &larger[users->n_users];
    *u = (BusUser){.name = strdup(pw->pw_name), .uid = pw->pw_uid};
    if (!u->name)
        return -ENOMEM;
    users->n_users++;
    return read_groups(u, pw->pw_gid);
}

static int compare_users(const void *pa, const void *pb)
{
    const BusUser *a = pa, *b = pb;
    return strcmp(a->name, b->name);
}

/* getgrnam() lists those who have the group besides their own. */
static int add_listed(BusUsers *users, char *const *names)
{
    int r = 0;

    for (; *names && r >= 0; names++) {
        const struct passwd *pw = getpwnam(*names);

        if (pw)
            r = add_user(users, pw);
    }
    return r;
}

static int add_primary(BusUsers *users, gid_t gid)
{
    const struct passwd *pw;
    int r = 0;

    setpwent();
    while (r >= 0 && (errno = 0, pw = getpwent()))
        if (pw->pw_gid == gid) {
            /* add_user() asks NSS for groups, never for another user: pw stays valid. */
            r = add_user(users, pw);
        }
    endpwent();
    return r;
}

int bus_users_read(const char *group, BusUsers *ret)
{
    const struct group *gr = getgrnam(group);
    BusUsers users = {0};
    char **names = NULL;
    gid_t gid;
    int r = 0;

    *ret = users;
    if (!gr)
        return 0;
    gid = gr->gr_gid;
    /* A copy: looking users up may use the same buffer. */
    for (char **name = gr->gr_mem; *name && r >= 0; name++)
        r = words_add(&names, *name, strlen(*name));
    if (r >= 0 && names)
        r = add_listed(&users, names);
    words_free(names);
    if (r >= 0)
        r = add_primary(&users, gid);
    if (r < 0) {
        bus_users_done(&users);
        return r;
    }
    if (users.n_users > 0)
        qsort(users.users, users.n_users, sizeof *users.users, compare_users);
    *ret = users;
    return 0;
}

/* --- judging --------------------------------------------------------------------------------- */

/* Every permission that the service's interfaces name for its properties, and at least one. */
static Verdict judge_properties(const Policy *policy, const Catalogue *catalogue,
                                const Subject *subject, const char *service, char kind,
                                const char **ret_permission)
{
    Verdict v = {.reason =
                     "the properties of this service carry no permission: nobody may use them"};
    const Destination *all;
    size_t n = catalogue_destinations(catalogue, &all);

    *ret_permission = NULL;
    for (size_t i = 0; i < n; i++) {
        const char *permission = kind == 'g' ? all[i].read : all[i].write;

        if (!all[i].name || !streq(all[i].name, service) || !permission)
            continue;
        v = policy_judge(policy, subject, permission);
        *ret_permission = permission;
        if (!v.allowed)
            break;
    }
    return v;
}

Verdict bus_rules_judge(const Policy *policy, const Catalogue *catalogue, const Subject *subject,
                        const char *interface, const char *member, char kind,
                        const char **ret_permission)
{
    const Destination *d = catalogue_destination(catalogue, interface);
    const Member *m = catalogue_find(catalogue, interface, member, 'm');

    *ret_permission = NULL;
    if (!d || !d->name)
        return (Verdict){.reason = "two interface files disagree whose interface this is"};
    if (kind == 'g' || kind == 's')
        return judge_properties(policy, catalogue, subject, d->name, kind, ret_permission);
    if (!m || !m->permission)
        return (Verdict){.reason = "this member carries no permission: nobody may use it"};
    *ret_permission = m->permission;
    return policy_judge(policy, subject, m->permission);
}

/* --- compiling ------------------------------------------------------------------------------- */

typedef struct Compiler {
    const Policy *policy;
    const Catalogue *catalogue;
    BusRules *rules;
    FILE *file; /* the body at hand */
    char *text;
    size_t size;
    unsigned user_allows; /* of the user at hand, in this body */
} Compiler;

static int body_begin(Compiler *c)
{
    if (c->rules->n_bodies >= BUS_RULES_FILES_MAX)
        return -E2BIG;
    c->file = open_memstream(&c->text, &c->size);
    return c->file ? 0 : -ENOMEM;
}

static int body_end(Compiler *c)
{
    char **larger;

    if (fclose(TAKE_PTR(c->file)) != 0)
        return -ENOMEM;
    larger = reallocarray(c->rules->bodies, c->rules->n_bodies + 1, sizeof *larger);
    if (!larger)
        return -ENOMEM;
    c->rules->bodies = larger;
    larger[c->rules->n_bodies++] = TAKE_PTR(c->text);
    return 0;
}

static int user_end(Compiler *c)
{
    bool any = c->user_allows > 0;

    c->user_allows = 0;
    return any && fputs("  </policy>\n", c->file) < 0 ? -ENOMEM : 0;
}

/* A new body when this one is large enough; a user may stand in several. */
static int body_next(Compiler *c)
{
    int r;

    if (ftell(c->file) < (long)BUS_RULES_FILE_SIZE)
        return 0;
    r = user_end(c);
    if (r >= 0)
        r = body_end(c);
    return r < 0 ? r : body_begin(c);
}

static int allow(Compiler *c, const BusUser *u, const char *destination, const char *interface,
                 const char *member)
{
    int r = body_next(c);

    if (r < 0)
        return r;
    if (++c->rules->n_allows > BUS_RULES_ALLOWS_MAX)
        return -E2BIG;
    if (c->user_allows++ == 0)
        fprintf(c->file, "  <policy user=\"%s\">\n", u->name);
    return fprintf(c->file,
                   "    <allow send_type=\"method_call\" send_destination=\"%s\" "
                   "send_interface=\"%s\" send_member=\"%s\"/>\n",
                   destination, interface, member) < 0
               ? -ENOMEM
               : 0;
}

static Subject subject_of(const BusUser *u)
{
    return (Subject){.uid = u->uid, .gids = u->gids, .n_gids = u->n_gids};
}

static bool may_properties(const Compiler *c, const BusUser *u, const char *service, char kind)
{
    const Subject subject = subject_of(u);
    const char *permission;

    return judge_properties(c->policy, c->catalogue, &subject, service, kind, &permission).allowed;
}

static int compile_properties(Compiler *c, const BusUser *u, const char *service)
{
    int r = 0;

    if (may_properties(c, u, service, 'g')) {
        r = allow(c, u, service, PROPERTIES, "Get");
        if (r >= 0)
            r = allow(c, u, service, PROPERTIES, "GetAll");
    }
    if (r >= 0 && may_properties(c, u, service, 's'))
        r = allow(c, u, service, PROPERTIES, "Set");
    return r;
}

static int compile_methods(Compiler *c, const BusUser *u, const Destination *d)
{
    const Member *members;
    size_t n = catalogue_interface(c->catalogue, d->interface, &members);
    const Subject subject = subject_of(u);
    int r = 0;

    for (size_t i = 0; i < n && r >= 0; i++)
        if (members[i].kind == 'm' && members[i].permission &&
            policy_judge(c->policy, &subject, members[i].permission).allowed)
            r = allow(c, u, d->name, d->interface, members[i].name);
    return r;
}

/* Whether an earlier interface is of the same service. */
static bool seen_before(const Destination *all, size_t i)
{
    for (size_t k = 0; k < i; k++)
        if (all[k].name && streq(all[k].name, all[i].name))
            return true;
    return false;
}

static int compile_user(Compiler *c, const BusUser *u)
{
    const Destination *all;
    size_t n = catalogue_destinations(c->catalogue, &all);
    int r = 0;

    for (size_t i = 0; i < n && r >= 0; i++) {
        if (!all[i].name)
            continue;
        r = compile_methods(c, u, &all[i]);
        if (r >= 0 && !seen_before(all, i))
            r = compile_properties(c, u, all[i].name);
    }
    return r < 0 ? r : user_end(c);
}

int bus_rules_compile(const Policy *policy, const Catalogue *catalogue, const BusUsers *users,
                      BusRules *ret)
{
    BusRules rules = {0};
    Compiler c = {.policy = policy, .catalogue = catalogue, .rules = &rules};
    int r = body_begin(&c);

    for (size_t i = 0; i < users->n_users && r >= 0; i++)
        r = compile_user(&c, &users->users[i]);
    if (r >= 0)
        r = body_end(&c);
    if (c.file)
        fclose(c.file);
    free(c.text);
    if (r < 0) {
        bus_rules_done(&rules);
        return r;
    }
    *ret = rules;
    return 0;
}

bool bus_rules_govern(const char *group, const Subject *subject)
{
    const struct group *gr = subject->remote || subject->unknown ? NULL : getgrnam(group);

    for (size_t i = 0; gr && i < subject->n_gids; i++)
        if (subject->gids[i] == gr->gr_gid)
            return true;
    return false;
}

static bool covers(const Rule *rule, const char *permission)
{
    for (char **pattern = rule->permissions; permission && *pattern; pattern++)
        if (permission_pattern_covers(*pattern, permission))
            return true;
    return false;
}

static bool covers_method(const Catalogue *catalogue, const Rule *rule, const char *interface)
{
    const Member *members;
    size_t n = catalogue_interface(catalogue, interface, &members);

    for (size_t i = 0; i < n; i++)
        if (members[i].kind == 'm' && covers(rule, members[i].permission))
            return true;
    return false;
}

bool bus_rules_concern(const Catalogue *catalogue, const Rule *rule)
{
    const Destination *all;
    size_t n = catalogue_destinations(catalogue, &all);

    for (size_t i = 0; i < n; i++)
        if (all[i].name && (covers(rule, all[i].read) || covers(rule, all[i].write) ||
                            covers_method(catalogue, rule, all[i].interface)))
            return true;
    return false;
}

void bus_rules_done(BusRules *r)
{
    for (size_t i = 0; i < r->n_bodies; i++)
        free(r->bodies[i]);
    free(r->bodies);
    *r = (BusRules){0};
}

bool bus_rules_equal(const BusRules *a, const BusRules *b)
{
    if (a->n_bodies != b->n_bodies)
        return false;
    for (size_t i = 0; i < a->n_bodies; i++)
        if (!streq(a->bodies[i], b->bodies[i]))
            return false;
    return true;
}

char *bus_rules_file(const char *body, const char *canary, const char *owner)
{
    char *text;
    int n =
        asprintf(&text,
                 "<?xml version=\"1.0\"?>\n"
                 "<!DOCTYPE busconfig PUBLIC \"-//freedesktop//DTD D-Bus Bus Configuration "
                 "1.0//EN\"\n"
                 " \"http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd\">\n"
                 "<!-- Made by h-securityd from the policy; changes are overwritten. The name below"
                 "\n     proves that the bus obeys this very file. -->\n"
                 "<busconfig>\n"
                 "%s"
                 "  <policy user=\"%s\">\n"
                 "    <allow own=\"%s\"/>\n"
                 "  </policy>\n"
                 "</busconfig>\n",
                 body, owner, canary);

    return n < 0 ? NULL : text;
}
