/* SPDX-License-Identifier: Apache-2.0 */
#include <hybus/log.h>
#include <sys/random.h>
#include <time.h>

#include "accepted.h"
#include "authority.h"
#include "binding.h"
#include "security-internal.h"

#define SECOND UINT64_C(1000000)
#define GONE_TOLD_MAX 64u /* rules of the vendor that a single change has removed */

/* Only local root, as long as nothing better can be read. */
static const char fallback_policy[] = "[grant last-resort-root]\n"
                                      "To = uid:0\n"
                                      "Permission = *\n"
                                      "When = local\n"
                                      "Description = no policy could be read\n";

uint64_t security_boottime(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec / 1000u;
}

/* --- subjects -------------------------------------------------------------------------------- */

static uint32_t slot_of(const char *key)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (; *key; key++)
        h = (h ^ (unsigned char)*key) * 0x100000001b3u;
    return (uint32_t)((h ^ h >> 32) % HYBUS_PAGE_SLOTS);
}

/* Both, in the audit; the rules speak of either alone. */
const char *security_subject_name(const Subject *subject)
{
    static char text[400];
    Subject holder;

    if (subject->behalf && !subject->unknown) {
        const char *principal = subject->behalf->name ? subject->behalf->name : "anonymous";

        holder = *subject;
        holder.behalf = NULL;
        (void)security_subject_name(&holder);
        snprintf(text + strlen(text), sizeof text - strlen(text), " for %.128s", principal);
        return text;
    }

    if (subject->unknown) {
        snprintf(text, sizeof text, "bus:%.255s", strempty(subject->bus_name));
        return text;
    }
    if (subject->remote)
        return subject->name ? subject->name : "anonymous";
    if (subject->group_only)
        snprintf(text, sizeof text, "gid:%u", subject->n_gids ? subject->gids[0] : UINT32_MAX);
    else
        snprintf(text, sizeof text, "uid:%u", subject->uid);
    return text;
}

/* How much fits; what is cut ends with "…". */
static void add_input(char *text, size_t size, const char *format, ...)
{
    size_t used = strlen(text);
    va_list arguments;
    int n;

    va_start(arguments, format);
    n = vsnprintf(text + used, size - used, format, arguments);
    va_end(arguments);
    if (n < 0 || (size_t)n >= size - used)
        strcpy(text + size - 4, "...");
}

const char *security_inputs(const Subject *s)
{
    static char text[AUDIT_TEXT_MAX];

    *text = '\0';
    if (s->unknown) {
        add_input(text, sizeof text, "connection=%s", strempty(s->bus_name));
    } else if (!s->remote) {
        if (!s->group_only)
            add_input(text, sizeof text, "uid=%u", s->uid);
        for (size_t i = 0; i < s->n_gids && i < 64; i++)
            add_input(text, sizeof text, "%s%u", i ? "," : *text ? " gids=" : "gids=", s->gids[i]);
    } else {
        add_input(text, sizeof text, "principal=%s", s->name ? s->name : "anonymous");
        if (s->token)
            add_input(text, sizeof text, " token=%s", s->token);
        for (char *const *role = s->roles; role && *role; role++)
            add_input(text, sizeof text, "%s%s", role == s->roles ? " roles=" : ",", *role);
        if (s->ended)
            add_input(text, sizeof text, " ended=yes");
        add_input(text, sizeof text, " encrypted=%s protocol=%s",
                  s->encrypted == UNKNOWN ? "unknown"
                  : s->encrypted == YES   ? "yes"
                                          : "no",
                  s->protocol ? s->protocol : "unknown");
    }
    return text;
}

uint32_t security_slot(const Subject *subject)
{
    const Subject connection = {.unknown = true, .bus_name = subject->bus_name};

    if (subject->behalf) /* others of its uid are not narrowed */
        return security_slot(&connection);
    return slot_of(security_subject_name(subject));
}

const Moment *security_moment(Security *s)
{
    uint64_t real = store_now(s->store), now = security_boottime();
    uint64_t least = s->wall_at ? s->moment.wall_usec + (now - s->wall_at) : 0;

    s->moment = (Moment){.wall_usec = MAX_OF(real, least), .now_usec = now};
    s->wall_at = now;
    return &s->moment;
}

bool security_windows_moved(Security *s)
{
    uint64_t windows = policy_windows(s->policy, security_moment(s)->wall_usec);

    if (windows == s->windows)
        return false;
    s->windows = windows;
    (void)hybus_page_writer_bump(s->page, UINT32_MAX);
    return true;
}

/* Windows begin and end with a minute. The clock may be set forward meanwhile, so nobody sleeps
 * longer. */
uint64_t security_next_window(Security *s)
{
    if (s->windows == 0)
        return UINT64_MAX;
    return 60 * SECOND - security_moment(s)->wall_usec % (60 * SECOND);
}

static Verdict judge_now(Security *s, const Subject *subject, const char *permission)
{
    Subject now = *subject;

    if (!now.moment)
        now.moment = security_moment(s);
    return policy_judge(s->policy, &now, permission);
}

bool security_allows(Security *s, const Subject *subject, const char *permission)
{
    return judge_now(s, subject, permission).allowed;
}

uint64_t security_generation(const Security *s)
{
    return s->store->generation;
}

/* --- changes --------------------------------------------------------------------------------- */

void security_move_rule(Security *s, const Rule *rule)
{
    for (char **subject = rule->subjects; subject && *subject; subject++) {
        const char *name = startswith(*subject, "token:");
        const Token *token = name ? store_token(s->store, name) : NULL;

        if (!startswith(*subject, "uid:") && !startswith(*subject, "user:") && !name &&
            !streq(*subject, "anonymous")) {
            (void)hybus_page_writer_bump(s->page, UINT32_MAX);
            return;
        }
        security_move_principal(s, *subject);
        if (token && !streq(token->principal, *subject))
            security_move_principal(s, token->principal);
    }
}

void security_adopt(Security *s, Policy *policy)
{
    policy_unref(s->policy);
    s->policy = policy;
    s->windows = policy_windows(policy, security_moment(s)->wall_usec);
    s->fallback = false;
}

int security_accept(Security *s)
{
    AcceptedMark mark = {.generation = ++s->store->generation, .time_usec = store_now(s->store)};

    return accepted_save(s->settings->state_directory, s->policy, s->catalogue, &mark);
}

void security_move_principal(Security *s, const char *principal)
{
    (void)hybus_page_writer_bump(s->page, slot_of(principal));
    security_move_bound(s, principal);
}

/* --- files ----------------------------------------------------------------------------------- */

static void set_policy_error(Security *s, int error, hybus_config_error *e)
{
    free(s->policy_error);
    s->policy_error = NULL;
    if (error >= 0)
        return;
    s->policy_error = e->message ? TAKE_PTR(e->message) : strdup(strerror(-error));
    hybus_error("The policy files are not accepted, what was in force stays: %s",
                strempty(s->policy_error));
}

static int read_catalogue(const Security *s, Catalogue **ret, hybus_config_error *e)
{
    CatalogueSource sources[32];
    size_t n = 0;

    for (char **d = s->settings->vendor_interfaces; d && *d && n < 16; d++)
        sources[n++] = (CatalogueSource){.directory = *d, .vendor = true};
    for (char **d = s->settings->administrator_interfaces; d && *d && n < ELEMENTS(sources); d++)
        sources[n++] = (CatalogueSource){.directory = *d};
    return catalogue_read(sources, n, policy_file_check, ret, e);
}

static void audit_notes(Security *s, const PolicyNotes *old)
{
    const Subject self = {.uid = geteuid()};

    for (char **m = s->notes.masked; m && *m; m++)
        if (!words_contain(old->masked, *m))
            security_note(s, &self, "policy files", *m);
    for (char **w = s->notes.warnings; w && *w; w++)
        if (!words_contain(old->warnings, *w))
            hybus_warning("%s", *w);
    for (char **d = s->notes.development; d && *d; d++)
        if (!words_contain(old->development, *d))
            hybus_warning("Development policy in force: %s opens more than a device should", *d);
}

/* The directory of the lowest precedence is the vendor's. */
static bool is_vendor_rule(const Security *s, const Rule *rule)
{
    char **directory = s->settings->policy_directories;
    const char *rest;

    if (!directory || !*directory)
        return false;
    while (directory[1])
        directory++;
    rest = startswith(rule->file, *directory);
    return rest && *rest == '/';
}

/* A rule of the vendor may be a deny: that it went is as telling as that it was masked. */
static void audit_gone(Security *s, const Policy *old)
{
    const Subject self = {.uid = geteuid()};
    size_t n, n_told = 0;
    Rule *const *rules;

    n = policy_rules(old, &rules);
    for (size_t i = 0; i < n; i++) {
        const Rule *now = policy_rule(s->policy, rules[i]->id);
        char text[AUDIT_TEXT_MAX];

        if (!is_vendor_rule(s, rules[i]) || (now && is_vendor_rule(s, now)))
            continue;
        snprintf(text, sizeof text, "rule %s of %s:%u is gone", rules[i]->id, rules[i]->file,
                 rules[i]->line);
        if (n_told++ < GONE_TOLD_MAX)
            security_note(s, &self, "policy files", text);
    }
    if (n_told > GONE_TOLD_MAX)
        security_note(s, &self, "policy files", "and more rules of the vendor are gone");
}

/* Both files are good: take them. */
static int take(Security *s, Policy *policy, Catalogue *catalogue, PolicyNotes *notes)
{
    _cleanup_(policy_unrefp) Policy *before = s->policy ? policy_ref(s->policy) : NULL;
    PolicyNotes old = s->notes;
    bool changed = !s->policy || s->fallback || !policy_equal(s->policy, policy) || !s->catalogue ||
                   !catalogue_equal(s->catalogue, catalogue);
    int r;

    security_adopt(s, policy);
    catalogue_free(s->catalogue);
    s->catalogue = catalogue;
    s->notes = *notes;
    *notes = (PolicyNotes){0};
    if (changed) {
        (void)hybus_page_writer_bump(s->page, UINT32_MAX);
        r = security_accept(s);
        /* In force it is all the same, and the files are there at the next start. */
        if (r < 0)
            hybus_log_errno(LOG_ERR, r, "The policy in force could not be kept for the next boot");
    }
    audit_notes(s, &old);
    policy_notes_done(&old);
    if (before)
        audit_gone(s, before);
    return changed;
}

int security_reload(Security *s)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    _cleanup_(catalogue_freep) Catalogue *catalogue = NULL;
    _cleanup_(policy_unrefp) Policy *policy = NULL;
    PolicyNotes notes = {0};
    int r;

    r = policy_read_directories((const char *const *)s->settings->policy_directories, &policy,
                                &notes, &e);
    if (r >= 0)
        r = read_catalogue(s, &catalogue, &e);
    set_policy_error(s, r, &e);
    if (r >= 0)
        r = take(s, TAKE_PTR(policy), TAKE_PTR(catalogue), &notes);
    policy_notes_done(&notes);
    return r;
}

/* --- start ----------------------------------------------------------------------------------- */

/* Without permissions of members even root could call nothing: the interfaces may be good although
 * the policy is not. */
static void save_interfaces(Security *s)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    Catalogue *catalogue = NULL;

    if (read_catalogue(s, &catalogue, &e) < 0) {
        hybus_error("No interfaces either: %s", strempty(e.message));
        return;
    }
    catalogue_free(s->catalogue);
    s->catalogue = catalogue;
    (void)hybus_page_writer_bump(s->page, UINT32_MAX);
}

/* The last accepted policy first: whatever the files look like now, it is what was in force. */
static int load_policy(Security *s)
{
    AcceptedMark mark = {0};
    int r;

    r = accepted_load(s->settings->state_directory, &s->policy, &s->catalogue, &mark);
    s->store->generation = MAX_OF(s->store->generation, mark.generation);
    s->store->floor = MAX_OF(s->store->floor, mark.time_usec);
    if (r >= 0)
        r = policy_note_development(s->policy, &s->notes);
    if (r == -ENOMEM)
        return r;
    if (r < 0 && r != -ENOENT)
        hybus_log_errno(LOG_ERR, r, "The last accepted policy is damaged and not used");
    if (r < 0) {
        s->fallback = true;
        r = policy_parse("(last resort)", fallback_policy, strlen(fallback_policy), &s->policy,
                         NULL, NULL);
        if (r < 0)
            return r;
        r = catalogue_new(&s->catalogue);
        if (r < 0)
            return r;
    }
    r = security_reload(s);
    if (r < 0 && s->fallback) {
        hybus_error("No policy at all: only local root may act until the files are repaired");
        save_interfaces(s);
    }
    return r == -ENOMEM ? r : 0;
}

int security_new(const SecuritySettings *settings, AuditSink sink, Security **ret)
{
    _cleanup_(security_freep) Security *s = calloc(1, sizeof *s);
    const Subject self = {.uid = geteuid()};
    int r;

    if (!s)
        return -ENOMEM;
    s->settings = settings;
    s->bindings_fd = -1;
    throttle_init(&s->bearers, 6 * SECOND, 60 * SECOND, SECOND / 4, 60 * SECOND);
    /* Nobody is slowed by what all together guess: that would lock the owner out. */
    throttle_init(&s->logins, 6 * SECOND, 60 * SECOND, 0, 0);
    throttle_init(&s->names, 30 * SECOND, 300 * SECOND, 0, 0);
    throttle_init(&s->codes, 60 * SECOND, 300 * SECOND, 20 * SECOND, 600 * SECOND);
    r = rates_init(&s->rates);
    if (r >= 0)
        r = audit_new(sink, s, &s->audit);
    if (r >= 0)
        r = history_new(&s->history);
    if (r >= 0)
        r = consent_new(settings->state_directory, &s->consent);
    if (r >= 0)
        r = hybus_page_writer_new(&s->page);
    if (r >= 0)
        r = store_open(settings->state_directory, &s->store);
    if (r >= 0)
        r = nodes_open(settings->state_directory, &s->nodes);
    if (r < 0)
        return r;
    r = authority_publish(settings->state_directory, settings->runtime_directory);
    if (r < 0 && r != -ENOENT)
        hybus_log_errno(LOG_WARNING, r, "Servers cannot read the certificate of the authority");
    r = security_bindings_load(s);
    if (r >= 0)
        r = security_load_sessions(s);
    if (r < 0)
        return r;
    if (s->store->damaged) {
        hybus_error("%s was damaged: users and tokens are gone; local root can make new ones",
                    settings->state_directory);
        security_note(s, &self, "state", "damaged: users and tokens are gone");
    }
    if (s->store->foreign) {
        hybus_error("%s was written by a newer version: nobody from outside is known until that is "
                    "installed again; nothing is lost",
                    settings->state_directory);
        security_note(s, &self, "state", "written by a newer version: not used");
    }
    if (*s->store->backup)
        hybus_notice("The state of an older version was taken over; as it was, it is kept in %s/%s",
                     settings->state_directory, s->store->backup);
    if (s->store->restored)
        hybus_warning("The state comes from elsewhere or from a backup: all tokens are void");
    if (s->nodes->lost)
        hybus_warning("The keys of nodes come from elsewhere or from a backup: they are void");
    r = load_policy(s);
    if (r >= 0)
        r = security_offer_code(s);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(s);
    return 0;
}

void security_free(Security *s)
{
    if (!s)
        return;
    hybus_page_writer_free(s->page);
    policy_unref(s->policy);
    catalogue_free(s->catalogue);
    policy_notes_done(&s->notes);
    store_free(s->store);
    sessions_done(&s->sessions);
    security_bindings_done(s);
    nodes_free(s->nodes);
    audit_free(s->audit);
    history_free(s->history);
    consent_free(s->consent);
    free(s->policy_error);
    explicit_bzero(s->setup_code, sizeof s->setup_code);
    free(s);
}

/* --- judging and explaining ------------------------------------------------------------------ */

Verdict security_judge(Security *s, const Subject *subject, const Question *q)
{
    s->statistics.judgements++;
    if (!q->permission && !subject->unknown)
        return (Verdict){.reason = q->interface && *q->interface ? "this member carries no "
                                                                   "permission: nobody may use it"
                                                                 : "the call names no interface"};
    return judge_now(s, subject, q->permission);
}

static const char *kind_name(char kind)
{
    return kind == 'm'   ? "method"
           : kind == 'g' ? "get"
           : kind == 's' ? "set"
           : kind == 'r' ? "answer"
                         : "signal";
}

static int suggest(const Security *s, const Subject *subject, const Question *q, const Verdict *v,
                   char **ret)
{
    const char *name;
    Subject alone = *subject;
    int n;

    /* Of two, the one that lacks it. */
    alone.behalf = NULL;
    if (subject->behalf && q->permission && policy_judge(s->policy, &alone, q->permission).allowed)
        alone = *subject->behalf;
    subject = &alone;
    name = security_subject_name(subject);

    if (v->allowed || !q->permission || subject->unknown)
        n = asprintf(ret, "%s", "");
    else if (subject->ended)
        n = asprintf(ret, "%s", "make a new token: h-policy token add");
    else if (v->rule && v->rule->kind == RULE_ASK)
        n = asprintf(ret, "let somebody answer (h-policy agent): rule %s in %s:%u asks",
                     v->rule->id, v->rule->file, v->rule->line);
    else if (v->rule)
        n = asprintf(ret, "change rule %s in %s:%u", v->rule->id, v->rule->file, v->rule->line);
    else if (v->candidate)
        n = asprintf(ret, "meet the conditions of rule %s (When = %s), or: h-policy grant %s %s",
                     v->candidate->id, strempty(v->candidate->when), name, q->permission);
    else if (!subject->remote && !subject->group_only && !uid_may_hold(subject->uid))
        n = asprintf(ret, "%s", "give the program a user of its own");
    else
        n = asprintf(ret, "h-policy grant %s %s", name, q->permission);
    if (n < 0) {
        *ret = NULL;
        return -ENOMEM;
    }
    return 0;
}

static int describe_call(const Question *q, char **ret)
{
    int n;

    if (!q->interface && !q->member)
        n = asprintf(ret, "%s", strempty(q->service));
    else if (!*strempty(q->interface) && !*strempty(q->member))
        n = asprintf(ret, "%s%s%s", strempty(q->service), q->service ? ": " : "",
                     kind_name(q->kind));
    else
        n = asprintf(ret, "%s%s%.255s.%.255s (%s)%s%.255s", strempty(q->service),
                     q->service ? ": " : "", strempty(q->interface), strempty(q->member),
                     kind_name(q->kind), q->path && *q->path ? " on " : "", strempty(q->path));
    if (n < 0) {
        *ret = NULL;
        return -ENOMEM;
    }
    return 0;
}

int security_explain(Security *s, const Subject *subject, const Question *q, const Verdict *v,
                     AuditRecord *ret)
{
    AuditRecord r = {.verdict = v->allowed ? "allowed" : "denied",
                     .layer = 2,
                     .line = v->rule ? v->rule->line : 0,
                     .generation = security_generation(s),
                     .subject = strdup(security_subject_name(subject)),
                     .inputs = strdup(security_inputs(subject)),
                     .permission = strdup(strempty(q->permission)),
                     .rule = strdup(v->rule ? v->rule->id : "default"),
                     .file = strdup(v->rule ? v->rule->file : ""),
                     .reason = strdup(v->reason)};
    int error = describe_call(q, &r.call);

    if (error >= 0)
        error = suggest(s, subject, q, v, &r.suggestion);
    if (error < 0 || !r.subject || !r.inputs || !r.permission || !r.rule || !r.file || !r.reason) {
        audit_record_done(&r);
        return -ENOMEM;
    }
    *ret = r;
    return 0;
}

void security_note_refused(Security *s, const Subject *subject, const Question *q, uint64_t n)
{
    char call[300];

    snprintf(call, sizeof call, "%.127s.%.127s (%s)", strempty(q->interface), strempty(q->member),
             kind_name(q->kind));
    history_note(s->history, subject, q->permission, q->service, call, false, n,
                 security_boottime());
}

int security_record_refusal(Security *s, const Subject *subject, const Question *q,
                            const Verdict *v, const AuditRecord **ret_record)
{
    AuditRecord record;
    int r;

    *ret_record = NULL;
    s->statistics.denied++;
    r = security_explain(s, subject, q, v, &record);
    if (r < 0)
        return r;
    security_note_refused(s, subject, q, 1);
    r = audit_add(s->audit, &record, ret_record);
    audit_record_done(&record);
    return r;
}

int security_refuse(Security *s, const Subject *subject, const Question *q, Verdict *ret,
                    const AuditRecord **ret_record)
{
    *ret = security_judge(s, subject, q);
    *ret_record = NULL;
    return ret->allowed ? 0 : security_record_refusal(s, subject, q, ret, ret_record);
}

void security_used(Security *s, const Subject *subject, const char *permission, const char *service,
                   uint64_t n)
{
    const Verdict v = judge_now(s, subject, permission);
    const AuditRecord record = {
        .verdict = "allowed",
        .layer = 2,
        .generation = security_generation(s),
        .subject = (char *)security_subject_name(subject),
        .permission = (char *)permission,
        .call = (char *)service,
        .rule = v.allowed ? v.rule->id : (char *)"",
        .file = v.allowed ? v.rule->file : (char *)"",
        .line = v.allowed ? v.rule->line : 0,
        .reason = (char *)(v.allowed ? v.reason : "granted then, and no longer"),
    };

    s->statistics.used += n;
    history_note(s->history, subject, permission, service, NULL, true, n, security_boottime());
    (void)audit_count(s->audit, &record, n, NULL);
}

void security_turned_away(Security *s, const Subject *subject, const Question *q,
                          const char *reason, const char *audit, uint64_t n)
{
    AuditRecord record = {
        .id = (char *)(audit && audit_id_is_valid(s->audit, audit) ? audit : NULL),
        .verdict = "limited",
        .layer = 2,
        .generation = security_generation(s),
        .subject = (char *)security_subject_name(subject),
        .rule = (char *)"",
        .reason = (char *)reason,
    };

    s->statistics.limited += n;
    if (describe_call(q, &record.call) < 0)
        return;
    (void)audit_count(s->audit, &record, n, NULL);
    free(record.call);
}

void security_note(Security *s, const Subject *subject, const char *call, const char *reason)
{
    const AuditRecord record = {.verdict = "changed",
                                .layer = 2,
                                .generation = s->store ? security_generation(s) : 0,
                                .subject = (char *)security_subject_name(subject),
                                .call = (char *)call,
                                .rule = (char *)"",
                                .reason = (char *)reason};

    (void)audit_add(s->audit, &record, NULL);
}

void security_note_as(Security *s, const char *kind, const char *name, const char *call,
                      const char *reason)
{
    char text[128];
    const Subject subject = {.remote = true, .name = text};

    snprintf(text, sizeof text, "%s%.80s", kind, name);
    security_note(s, &subject, call, reason);
}
