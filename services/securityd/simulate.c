/* SPDX-License-Identifier: Apache-2.0 */
#include "simulate.h"

#include "security-internal.h"

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

int simulate_policy(const Policy *in_force, const char *name, const char *text, Policy **ret,
                    hybus_config_error *e)
{
    _cleanup_(policy_unrefp) Policy *parsed = NULL;
    _cleanup_(freep) Rule **rules = NULL;
    Rule *const *old, *const *new;
    size_t n_old = policy_rules(in_force, &old), n_new, n = 0, twice = 0;
    int r = policy_parse(name, text, strlen(text), &parsed, NULL, e);

    if (r < 0)
        return r;
    n_new = policy_rules(parsed, &new);
    rules = calloc(n_old + n_new + 1, sizeof *rules);
    if (!rules)
        return -ENOMEM;
    for (size_t i = 0; i < n_old; i++)
        if (!streq(base_name(old[i]->file), base_name(name)))
            rules[n++] = old[i];
    for (size_t i = 0; i < n_new; i++)
        rules[n++] = new[i];
    r = policy_new(rules, n, ret, &twice);
    if (r == -EEXIST)
        return hybus_config_error_set(e, NULL, "the id \"%s\" is taken already", rules[twice]->id);
    return r;
}

/* --- what the change can concern -------------------------------------------------------------- */

static bool same_rule(const Rule *a, const Rule *b)
{
    return a == b || (a && b && a->kind == b->kind &&
                      streq(strempty(a->when), strempty(b->when)) &&
                      words_equal(a->subjects, b->subjects) &&
                      words_equal(a->permissions, b->permissions));
}

/* The patterns of the rules that `b` does not have as `a` has them. */
static int add_touched(const Policy *a, const Policy *b, char ***ret)
{
    Rule *const *rules;
    size_t n = policy_rules(a, &rules);

    for (size_t i = 0; i < n; i++) {
        if (same_rule(rules[i], policy_rule(b, rules[i]->id)))
            continue;
        for (char **p = rules[i]->permissions; p && *p; p++)
            if (!words_contain(*ret, *p) && words_add(ret, *p, strlen(*p)) < 0)
                return -ENOMEM;
    }
    return 0;
}

static bool is_touched(char *const *touched, const char *permission)
{
    for (; touched && *touched; touched++)
        if (permission_pattern_covers(*touched, permission))
            return true;
    return false;
}

/* Names without an open end that the interfaces or the changed rules speak of. */
static int names_touched(const Security *s, char *const *touched, char ***ret)
{
    const Member *members;
    const Destination *destinations;
    size_t n = catalogue_members(s->catalogue, &members);
    int r = 0;

    for (size_t i = 0; i < n && r >= 0; i++)
        if (members[i].permission && !words_contain(*ret, members[i].permission) &&
            is_touched(touched, members[i].permission))
            r = words_add(ret, members[i].permission, strlen(members[i].permission));
    n = catalogue_destinations(s->catalogue, &destinations);
    for (size_t i = 0; i < 2 * n && r >= 0; i++) {
        const char *p = i % 2 ? destinations[i / 2].write : destinations[i / 2].read;

        if (p && !words_contain(*ret, p) && is_touched(touched, p))
            r = words_add(ret, p, strlen(p));
    }
    for (; r >= 0 && touched && *touched; touched++)
        if (!permission_is_open(*touched) && !words_contain(*ret, *touched))
            r = words_add(ret, *touched, strlen(*touched));
    return r;
}

/* --- the comparison -------------------------------------------------------------------------- */

typedef struct Run {
    Security *security;
    const Policy *after;
    int (*f)(const Change *change, void *userdata);
    void *userdata;
} Run;

static int compare(const Run *run, const Subject *subject, const char *permission,
                   const char *service, uint64_t count)
{
    Subject now = *subject;
    Change c = {.subject = subject,
                      .permission = permission,
                      .service = service,
                      .count = count};

    now.moment = security_moment(run->security);
    c.before = policy_judge(run->security->policy, &now, permission);
    c.after = policy_judge(run->after, &now, permission);
    return c.before.allowed == c.after.allowed ? 0 : run->f(&c, run->userdata);
}

static int compare_recorded(const Run *run, char *const *touched)
{
    uint64_t now = security_boottime(), number = UINT64_MAX;
    const HistoryKind *k;
    int r = 0;

    while (r >= 0 && (k = history_older(run->security->history, number, now))) {
        number = k->number;
        if (*k->permission && is_touched(touched, k->permission))
            r = compare(run, k->subject, k->permission, k->service, k->allowed + k->denied);
    }
    return r;
}

int simulate(Security *s, const Policy *after, const Subject *live, size_t n_live,
             int (*f)(const Change *change, void *userdata), void *userdata)
{
    const Run run = {.security = s, .after = after, .f = f, .userdata = userdata};
    _cleanup_(words_freep) char **touched = NULL, **names = NULL;
    int r = add_touched(s->policy, after, &touched);

    if (r >= 0)
        r = add_touched(after, s->policy, &touched);
    if (r >= 0)
        r = names_touched(s, touched, &names);
    if (r >= 0)
        r = compare_recorded(&run, touched);
    for (size_t i = 0; i < n_live; i++)
        for (char **name = names; r >= 0 && name && *name; name++)
            r = compare(&run, &live[i], *name, NULL, 0);
    return r;
}
