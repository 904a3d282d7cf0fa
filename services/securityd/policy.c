/* SPDX-License-Identifier: Apache-2.0 */
#include "policy.h"

#include "names.h"

/* What one permission can be matched by: itself, "*", and one pattern per separator. */
#define CANDIDATES_MAX (POLICY_NAME_MAX + 3u)
/* What one subject can be named by: its groups, roles and a few general words. */
#define KEYS_MAX (POLICY_GROUPS_MAX + 16u)

/* "Rule r speaks of subject s and pattern p", sorted by (s, p, kind, r): what matters for one subject
 * and one permission lies together, denies first. */
typedef struct Entry {
    uint32_t subject, pattern, rule;
} Entry;

struct Policy {
    unsigned n_ref;
    Rule **rules;
    size_t n_rules;
    Names subjects, patterns, ids;
    Entry *entries;
    size_t n_entries;
    uint32_t *timed; /* rules whose answer depends on the time of day */
    size_t n_timed;
    uint32_t *first; /* of each subject's entries; one more at the end */
};

/* --- the index ------------------------------------------------------------------------------- */

static int compare_entries(const void *pa, const void *pb, void *userdata)
{
    const Entry *a = pa, *b = pb;
    Rule *const *rules = userdata;

    if (a->subject != b->subject)
        return a->subject < b->subject ? -1 : 1;
    if (a->pattern != b->pattern)
        return a->pattern < b->pattern ? -1 : 1;
    if (rules[a->rule]->kind != rules[b->rule]->kind)
        return rules[a->rule]->kind < rules[b->rule]->kind ? -1 : 1;
    return a->rule < b->rule ? -1 : a->rule > b->rule;
}

static int index_rule(Policy *p, size_t number, size_t *allocated)
{
    const Rule *rule = p->rules[number];
    size_t n_patterns = words_count(rule->permissions);
    _cleanup_(freep) uint32_t *patterns = calloc(n_patterns ? n_patterns : 1, sizeof *patterns);
    size_t need = p->n_entries + words_count(rule->subjects) * n_patterns;
    int r;

    if (!patterns)
        return -ENOMEM;
    if (need > *allocated) {
        size_t want = MAX_OF(need, *allocated * 2);
        Entry *larger = want < UINT32_MAX ? reallocarray(p->entries, want, sizeof *larger) : NULL;

        if (!larger)
            return -ENOMEM;
        p->entries = larger;
        *allocated = want;
    }
    for (size_t i = 0; i < n_patterns; i++)
        if ((r = names_add(&p->patterns, rule->permissions[i], &patterns[i])) < 0)
            return r;
    for (char **s = rule->subjects; s && *s; s++) {
        uint32_t subject;

        if ((r = names_add(&p->subjects, *s, &subject)) < 0)
            return r;
        for (size_t i = 0; i < n_patterns; i++)
            p->entries[p->n_entries++] =
                (Entry){.subject = subject, .pattern = patterns[i], .rule = (uint32_t)number};
    }
    return 0;
}

static int index_build(Policy *p, size_t *ret_index)
{
    size_t allocated = 0;
    uint32_t number;
    int r;

    for (size_t i = 0; i < p->n_rules; i++) {
        r = names_add(&p->ids, p->rules[i]->id, &number);
        if (r == 0) {
            *ret_index = i;
            return -EEXIST;
        }
        if (r > 0)
            r = index_rule(p, i, &allocated);
        if (r < 0)
            return r;
    }
    if (p->n_entries > 0)
        qsort_r(p->entries, p->n_entries, sizeof *p->entries, compare_entries, p->rules);
    p->first = calloc(p->subjects.n_names + 1, sizeof *p->first);
    if (!p->first)
        return -ENOMEM;
    for (size_t i = p->n_entries, s = p->subjects.n_names + 1; s-- > 0;) {
        while (i > 0 && p->entries[i - 1].subject >= s)
            i--;
        p->first[s] = (uint32_t)i;
    }
    return 0;
}

static bool is_timed(const Rule *rule)
{
    return rule->more.has_time || rule->more.days;
}

static int index_timed(Policy *p)
{
    for (size_t i = 0; i < p->n_rules; i++)
        p->n_timed += is_timed(p->rules[i]);
    p->timed = calloc(p->n_timed + 1, sizeof *p->timed);
    if (!p->timed)
        return -ENOMEM;
    for (size_t i = 0, n = 0; i < p->n_rules; i++)
        if (is_timed(p->rules[i]))
            p->timed[n++] = (uint32_t)i;
    return 0;
}

uint64_t policy_windows(const Policy *p, uint64_t wall_usec)
{
    uint64_t h = 0xcbf29ce484222325u;

    if (p->n_timed == 0)
        return 0;
    for (size_t i = 0; i < p->n_timed; i++)
        h = (h ^ (conditions_in_time(&p->rules[p->timed[i]]->more, wall_usec) ? 2 : 1)) *
            0x100000001b3u;
    return h ? h : 1;
}

int policy_new(Rule *const *rules, size_t n_rules, Policy **ret, size_t *ret_index)
{
    _cleanup_(policy_unrefp) Policy *p = NULL;
    int r;

    if (n_rules > POLICY_RULES_MAX)
        return -ENOBUFS;
    p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->n_ref = 1;
    p->rules = calloc(n_rules ? n_rules : 1, sizeof(Rule *));
    if (!p->rules)
        return -ENOMEM;
    for (; p->n_rules < n_rules; p->n_rules++)
        p->rules[p->n_rules] = rule_ref(rules[p->n_rules]);
    r = index_build(p, ret_index);
    if (r >= 0)
        r = index_timed(p);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(p);
    return 0;
}

Policy *policy_ref(Policy *p)
{
    p->n_ref++;
    return p;
}

void policy_unref(Policy *p)
{
    if (!p || --p->n_ref > 0)
        return;
    for (size_t i = 0; i < p->n_rules; i++)
        rule_unref(p->rules[i]);
    free(p->rules);
    names_done(&p->subjects);
    names_done(&p->patterns);
    names_done(&p->ids);
    free(p->entries);
    free(p->first);
    free(p->timed);
    free(p);
}

size_t policy_rules(const Policy *p, Rule *const **ret)
{
    if (ret)
        *ret = p->rules;
    return p->n_rules;
}

Rule *policy_rule(const Policy *p, const char *id)
{
    uint32_t number = names_find(&p->ids, id, strlen(id));
    return number == UINT32_MAX ? NULL : p->rules[number];
}

bool policy_equal(const Policy *a, const Policy *b)
{
    if (a->n_rules != b->n_rules)
        return false;
    for (size_t i = 0; i < a->n_rules; i++) {
        const Rule *x = a->rules[i], *y = policy_rule(b, x->id);

        if (x == y)
            continue;
        if (!y || x->kind != y->kind || x->conditions != y->conditions ||
            !streq(strempty(x->protocol), strempty(y->protocol)) ||
            ((conditions_any(&x->more) || conditions_any(&y->more)) &&
             !streq(strempty(x->when), strempty(y->when))) ||
            !words_equal(x->subjects, y->subjects) || !words_equal(x->permissions, y->permissions))
            return false;
    }
    return true;
}

/* --- judging --------------------------------------------------------------------------------- */

static void add_key(const Policy *p, uint32_t *keys, size_t *n, const char *key)
{
    uint32_t number = names_find(&p->subjects, key, strlen(key));

    if (number != UINT32_MAX && *n < KEYS_MAX)
        keys[(*n)++] = number;
}

static void add_id_key(const Policy *p, uint32_t *keys, size_t *n, const char *prefix, uint32_t id)
{
    char key[32];

    snprintf(key, sizeof key, "%s:%u", prefix, id);
    add_key(p, keys, n, key);
}

/* The words by which rules may speak of this subject, as far as any rule does. */
static size_t keys_of(const Policy *p, const Subject *s, uint32_t *keys)
{
    size_t n = 0;

    add_key(p, keys, &n, "anyone");
    if (!s->remote) {
        add_key(p, keys, &n, "local");
        if (!s->group_only)
            add_id_key(p, keys, &n, "uid", s->uid);
        for (size_t i = 0; i < s->n_gids && i < POLICY_GROUPS_MAX; i++)
            if (gid_may_hold(s->gids[i]))
                add_id_key(p, keys, &n, "gid", s->gids[i]);
        return n;
    }
    if (!s->name) {
        add_key(p, keys, &n, "anonymous");
        return n;
    }
    add_key(p, keys, &n, "remote");
    add_key(p, keys, &n, s->name);
    if (s->token && !streq(s->token, s->name))
        add_key(p, keys, &n, s->token);
    for (char *const *role = s->roles; role && *role; role++) {
        char key[POLICY_NAME_MAX + 8];

        snprintf(key, sizeof key, "role:%.*s", (int)POLICY_NAME_MAX, *role);
        add_key(p, keys, &n, key);
    }
    return n;
}

static void add_candidate(const Policy *p, uint32_t *found, size_t *n, const char *s, size_t size)
{
    uint32_t number = names_find(&p->patterns, s, size);

    if (number != UINT32_MAX)
        found[(*n)++] = number;
}

/* The numbers of all patterns that cover a name or pattern, as far as any rule uses them. */
static size_t candidates_of(const Policy *p, const char *name, uint32_t *found)
{
    char text[POLICY_NAME_MAX + 4];
    size_t size = strlen(name), n = 0, stem = strcspn(name, ":");

    if (size > POLICY_NAME_MAX)
        return 0;
    add_candidate(p, found, &n, "*", 1);
    if (!streq(name, "*"))
        add_candidate(p, found, &n, name, size);
    memcpy(text, name, size + 1);
    for (size_t i = 0; i < size; i++) {
        char kept = text[i + 1];

        if (i < stem ? text[i] != '.' : (text[i] != ':' && text[i] != '/'))
            continue;
        if (i + 2 == size && kept == '*')
            break; /* this is the pattern itself */
        text[i + 1] = '*';
        add_candidate(p, found, &n, text, i + 2);
        text[i + 1] = kept;
    }
    if (stem < size && !permission_is_open(name)) {
        memcpy(text + size, "/*", 3);
        add_candidate(p, found, &n, text, size + 2);
    }
    return n;
}

static size_t lower_bound(const Policy *p, uint32_t subject, uint32_t pattern)
{
    size_t low = p->first[subject], high = p->first[subject + 1];

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (p->entries[middle].pattern < pattern)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static Verdict judge(const Policy *p, const Subject *s, const uint32_t *keys, size_t n_keys,
                     const char *permission)
{
    uint32_t found[CANDIDATES_MAX];
    size_t n_found = candidates_of(p, permission, found);
    const Rule *best = NULL, *candidate = NULL;

    for (size_t k = 0; k < n_keys; k++)
        for (size_t c = 0; c < n_found; c++)
            for (size_t i = lower_bound(p, keys[k], found[c]);
                 i < p->first[keys[k] + 1] && p->entries[i].pattern == found[c]; i++) {
                const Rule *rule = p->rules[p->entries[i].rule];

                if (best && rule->kind >= best->kind)
                    break; /* sorted by kind: nothing stronger follows */
                if (conditions_hold(rule, s)) {
                    best = rule;
                    break;
                }
                if (rule->kind == RULE_GRANT && !candidate)
                    candidate = rule;
            }
    if (!best)
        return (Verdict){.candidate = candidate,
                         .reason = candidate ? "a rule would grant it, but its conditions do not hold"
                                             : "no rule grants it"};
    if (best->kind == RULE_GRANT)
        return (Verdict){.allowed = true, .rule = best, .reason = "granted"};
    return (Verdict){.rule = best,
                     .reason = best->kind == RULE_DENY
                                   ? "denied by a rule; a deny beats every grant"
                                   : "needs the consent of a person, and nobody has been asked"};
}

/* Why this subject holds nothing, whatever the rules say; or NULL. */
static const char *holds_nothing(const Subject *s)
{
    if (s->behalf && s->behalf->ended)
        return "the credentials of whom it acts for have been removed or have expired";
    if (s->unknown)
        return "the caller's identity cannot be established";
    if (s->remote)
        return s->ended ? "its credentials have been removed or have expired" : NULL;
    if (!s->group_only && !uid_may_hold(s->uid))
        return "overflow and dynamic uids never hold a permission";
    /* A deny may speak of one that is not looked at. */
    return s->n_gids > POLICY_GROUPS_MAX ? "more groups than can be judged" : NULL;
}

/* For whom it acts, at the moment at which it does. */
static Subject behalf_of(const Subject *s)
{
    Subject behalf = *s->behalf;

    if (!behalf.moment)
        behalf.moment = s->moment;
    return behalf;
}

Verdict policy_judge(const Policy *p, const Subject *s, const char *permission)
{
    const char *nothing = holds_nothing(s);
    uint32_t keys[KEYS_MAX];
    Subject behalf;
    Verdict v;

    if (nothing)
        return (Verdict){.reason = nothing};
    if (!permission || !permission_is_valid(permission))
        return (Verdict){.reason = "not a permission"};
    v = judge(p, s, keys, keys_of(p, s, keys), permission);
    if (!v.allowed || !s->behalf)
        return v;
    behalf = behalf_of(s);
    return policy_judge(p, &behalf, permission);
}

/* Takes away what the other one does not hold. */
static void narrow(const Policy *p, const Subject *s, const char *const *permissions,
                   size_t n_permissions, uint64_t *bits)
{
    const Subject behalf = behalf_of(s);

    for (size_t i = 0; i < n_permissions; i++)
        if ((bits[i / 64] >> (i % 64) & 1) && !policy_judge(p, &behalf, permissions[i]).allowed)
            bits[i / 64] &= ~(UINT64_C(1) << (i % 64));
}

void policy_row(const Policy *p, const Subject *s, const char *const *permissions,
                size_t n_permissions, uint64_t *bits)
{
    uint32_t keys[KEYS_MAX];
    size_t n_keys;

    if (holds_nothing(s))
        return;
    n_keys = keys_of(p, s, keys);
    for (size_t i = 0; i < n_permissions; i++)
        if (permission_is_valid(permissions[i]) &&
            judge(p, s, keys, n_keys, permissions[i]).allowed)
            bits[i / 64] |= UINT64_C(1) << (i % 64);
    if (s->behalf)
        narrow(p, s, permissions, n_permissions, bits);
}

/* Such a deny does not stand in the way of handing on the rest: it binds the receiver too. */
static bool binds_everybody(const Rule *rule)
{
    return words_contain(rule->subjects, "anyone") && !rule->conditions && !rule->protocol &&
           !conditions_any(&rule->more);
}

bool policy_holds(const Policy *p, const Subject *s, const char *pattern, const Rule *rule)
{
    uint32_t keys[KEYS_MAX], found[CANDIDATES_MAX];
    size_t n_keys, n_found;
    bool granted = false;

    if (holds_nothing(s) || !permission_pattern_is_valid(pattern))
        return false;
    if (s->behalf && !policy_holds(p, s->behalf, pattern, rule))
        return false;
    n_keys = keys_of(p, s, keys);
    n_found = candidates_of(p, pattern, found);
    for (size_t k = 0; k < n_keys; k++)
        for (size_t i = p->first[keys[k]]; i < p->first[keys[k] + 1]; i++) {
            const Rule *mine = p->rules[p->entries[i].rule];
            const char *other = p->patterns.names[p->entries[i].pattern];

            if (mine->kind != RULE_GRANT) {
                if (!binds_everybody(mine) && (permission_pattern_covers(other, pattern) ||
                                               permission_pattern_covers(pattern, other)))
                    return false;
                continue;
            }
            for (size_t c = 0; c < n_found && !granted; c++)
                granted = found[c] == p->entries[i].pattern && conditions_imply(mine, rule);
        }
    return granted;
}
