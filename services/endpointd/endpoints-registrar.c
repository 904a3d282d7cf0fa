/* SPDX-License-Identifier: Apache-2.0 */
#include "endpoints-registrar.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <time.h>

#include <hybus/log.h>

#include "endpoints-pace.h"

#define SAVE_ACCURACY_USEC 1000u
#define TIMER_ACCURACY_USEC (100u * 1000u)

/* Of one manifest: when its unit may be started again. */
typedef struct starter {
    char *unit;
    uint64_t next_usec, pause_usec;
    uint64_t wanted_usec; /* until when; 0: by nobody */
} starter;

struct registrar {
    sd_event *event;
    endpoints *table;
    judge *judge;
    char *directory, *bus_id, *table_path;
    sd_event_source *expiry, *save, *save_later, *start;
    uint64_t save_usec; /* when the table may be written again */
    bool unsaved, unpaced;
    pace pace;
    const registrar_road *roads[ENDPOINTS_START];
    const registrar_servers *servers;
    void *servers_userdata;
    void (*moved)(void *userdata);
    void *moved_userdata;
    starter *starters;
    size_t n_starters;
    registrar_request *requests;
    bool stopping;
};

/* A registration on its way, and later, as userdata of its entry, the one who watches over it. */
struct registrar_request {
    registrar *registrar;
    registrar_request *previous, *next;
    endpoints_spec spec;
    endpoints_identity *identity;
    void *owner;
    uint32_t owner_id;
    bool adopt;
    endpoints_entry *entry; /* once entered */
    judge_case *judged;
    registrar_callback callback;
    void *userdata;
};

static void on_judged(judge_case *c, const judge_verdict *v, void *userdata);

static void request_free(registrar_request *q)
{
    if (!q)
        return;
    if (q->previous)
        q->previous->next = q->next;
    else
        q->registrar->requests = q->next;
    if (q->next)
        q->next->previous = q->previous;
    judge_case_free(q->judged);
    endpoints_spec_done(&q->spec);
    endpoints_identity_unref(q->identity);
    free(q);
}

void registrar_request_cancel(registrar_request *q)
{
    if (q && !q->entry)
        request_free(q);
}

/* --- the table's own events ----------------------------------------------------------------- */

/* At the end of this turn, however much changes in it, or when the pause after the last writing is over:
 * the work stays small, whoever comes and goes how often. */
static void save_soon(registrar *g)
{
    uint64_t now = 0;

    if (g->unsaved || !g->save)
        return;
    g->unsaved = true;
    (void)sd_event_now(g->event, CLOCK_MONOTONIC, &now);
    if (now >= g->save_usec) {
        (void)sd_event_source_set_enabled(g->save, SD_EVENT_ONESHOT);
        return;
    }
    (void)sd_event_source_set_time(g->save_later, g->save_usec);
    (void)sd_event_source_set_enabled(g->save_later, SD_EVENT_ONESHOT);
}

static void on_table_changed(const endpoints_entry *entry, bool gone, void *userdata)
{
    registrar *g = userdata;

    if (g->stopping)
        return;
    if (g->servers)
        g->servers->changed(entry, gone, g->servers_userdata);
    save_soon(g);
}

static void tell_withdrawn(registrar *g, endpoints_entry *entry, unsigned code, const char *reason,
                           const char *audit)
{
    const registrar_road *road = g->roads[entry->spec.road];

    if (entry->owner && road)
        road->withdrawn(entry->owner, entry, code, reason, audit);
}

static void on_displaced(endpoints_entry *entry, void *userdata)
{
    tell_withdrawn(userdata, entry, 410, "taken over by another connection of the same user", NULL);
}

static void on_freed(endpoints_entry *entry, void *userdata)
{
    registrar_request *q = entry->userdata;

    entry->userdata = NULL;
    request_free(q);
}

static const endpoints_ops table_ops = {
    .changed = on_table_changed,
    .displaced = on_displaced,
    .freed = on_freed,
};

static uint64_t monotonic(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void save(registrar *g)
{
    uint64_t begin = monotonic(), end, pause;
    int r;

    g->unsaved = false;
    if (g->table_path) {
        r = endpoints_table_save(g->table, g->table_path, strempty(g->bus_id));
        if (r < 0)
            hybus_log_errno(LOG_WARNING, r,
                            "Cannot write %s; after a crash endpoints are missing until their apps "
                            "are back",
                            g->table_path);
    }
    end = monotonic();
    pause = MAX_OF((end - begin) * REGISTRAR_SAVE_PAUSE, (uint64_t)REGISTRAR_SAVE_MIN_USEC);
    g->save_usec = end + MIN_OF(pause, (uint64_t)REGISTRAR_SAVE_MAX_USEC);
    if (g->moved)
        g->moved(g->moved_userdata);
}

static int on_save(sd_event_source *source, void *userdata)
{
    save(userdata);
    return 0;
}

static int on_save_later(sd_event_source *source, uint64_t usec, void *userdata)
{
    save(userdata);
    return 0;
}

void registrar_stop(registrar *g)
{
    if (!g->stopping)
        save(g);
    g->stopping = true;
}

/* Its holder has been found on the bus, and the policy is being asked: it outlasts its time. */
static bool is_adopted(const endpoints_entry *entry, void *userdata)
{
    const registrar *g = userdata;

    for (const registrar_request *q = g->requests; q; q = q->next)
        if (q->adopt && !q->entry && streq(q->spec.ns, entry->spec.ns))
            return true;
    return false;
}

static int on_expiry(sd_event_source *source, uint64_t usec, void *userdata)
{
    registrar *g = userdata;
    size_t n = endpoints_expire(g->table, is_adopted, g);

    if (n > 0)
        hybus_notice("%zu endpoints did not come back after the restart and were removed", n);
    return 0;
}

/* --- registering ---------------------------------------------------------------------------- */

static unsigned code_of(int error)
{
    switch (error) {
    case -EACCES:
        return 403;
    case -EINVAL:
        return 400;
    case -EEXIST:
        return 409;
    case -ENOBUFS:
        return 429;
    default:
        return 503;
    }
}

static void finish(registrar_request *q, int error, const char *reason, const char *audit)
{
    registrar_callback f = q->callback;
    void *userdata = q->userdata;
    registrar_outcome outcome = {
        .code = error < 0 ? code_of(error) : 200,
        .reason = reason,
        .audit = audit,
        .entry = q->entry,
    };

    q->callback = NULL;
    if (f)
        f(&outcome, userdata);
}

static void withdraw(registrar_request *q, const judge_verdict *v)
{
    registrar *g = q->registrar;
    endpoints_entry *entry = q->entry;

    hybus_notice("The registration of %s by uid %u is withdrawn: %s", entry->spec.ns,
                 entry->spec.uid, v->reason);
    tell_withdrawn(g, entry, code_of(v->error), v->reason, v->audit);
    endpoints_remove(g->table, entry); /* frees q */
}

static starter *find_starter(registrar *g, const char *unit)
{
    for (size_t i = 0; i < g->n_starters; i++)
        if (streq(g->starters[i].unit, unit))
            return &g->starters[i];
    return NULL;
}

/* The app of a manifest is there: its next start needs no long pause. */
static void starter_came(registrar *g, const endpoints_entry *entry)
{
    const endpoints_entry *manifest = endpoints_manifest(g->table, entry->spec.ns);
    starter *s = manifest ? find_starter(g, manifest->spec.unit) : NULL;

    if (s) {
        s->pause_usec = 0;
        s->wanted_usec = 0;
    }
}

static void enter(registrar_request *q)
{
    registrar *g = q->registrar;
    const char *why = "out of memory";
    endpoints_entry *entry;
    int r;

    r = endpoints_register(g->table, &q->spec, q->identity, q->owner, q->owner_id, &entry, &why);
    if (r < 0) {
        finish(q, r, why, NULL);
        request_free(q);
        return;
    }
    q->entry = entry;
    entry->userdata = q;
    starter_came(g, entry);
    finish(q, 0, NULL, NULL);
}

/* What is to be adopted. Meanwhile it may have registered by itself, expired, or been taken over. */
static endpoints_entry *find_adopted(const registrar_request *q)
{
    endpoints_entry *entry = endpoints_find(q->registrar->table, q->spec.ns);

    if (!entry || entry->owner || entry->spec.road != ENDPOINTS_BUS ||
        entry->spec.uid != q->identity->uid || !streq(entry->spec.bus_name, q->identity->bus_name))
        return NULL;
    return entry;
}

static void on_adoption_judged(registrar_request *q, const judge_verdict *v)
{
    registrar *g = q->registrar;
    endpoints_entry *entry = find_adopted(q);

    if (entry && v->error == 0) {
        endpoints_adopt(g->table, entry, q->identity, q->owner);
        q->entry = entry;
        entry->userdata = q;
        return;
    }
    /* The app does not know of any of this, so nobody but us asks again for it. Without an agent
     * the question takes its time. */
    if (entry && v->error != -EACCES) {
        judge_case_free(TAKE_PTR(q->judged));
        if (judge_ask(g->judge, q->identity, q->spec.ns, on_judged, q, &q->judged) >= 0)
            return;
    }
    if (entry) {
        hybus_notice("%s of uid %u is not taken back after the restart: %s", entry->spec.ns,
                     entry->spec.uid, v->reason);
        endpoints_remove(g->table, entry);
    }
    request_free(q);
}

static void on_judged(judge_case *c, const judge_verdict *v, void *userdata)
{
    registrar_request *q = userdata;

    if (q->entry) {
        if (v->error < 0)
            withdraw(q, v);
    } else if (q->adopt)
        on_adoption_judged(q, v);
    else if (v->error < 0) {
        finish(q, v->error, v->reason, v->audit);
        request_free(q);
    } else
        enter(q);
}

static int request_new(registrar *g, endpoints_identity *identity, void *owner,
                       registrar_request **ret)
{
    registrar_request *q = calloc(1, sizeof(*q));

    if (!q)
        return -ENOMEM;
    q->registrar = g;
    q->identity = endpoints_identity_ref(identity);
    q->owner = owner;
    q->next = g->requests;
    if (q->next)
        q->next->previous = q;
    g->requests = q;
    *ret = q;
    return 0;
}

int registrar_register(registrar *g, endpoints_spec *spec, endpoints_identity *identity,
                       void *owner, uint32_t owner_id, registrar_callback f, void *userdata,
                       registrar_request **ret)
{
    registrar_request *q;
    uint64_t now = 0;
    int r;

    if (!spec->ns)
        return -EINVAL;
    (void)sd_event_now(g->event, CLOCK_MONOTONIC, &now);
    if (!g->unpaced && !pace_admit(&g->pace, identity->uid, now))
        return -EBUSY;
    spec->uid = identity->uid;
    r = request_new(g, identity, owner, &q);
    if (r < 0)
        return r;
    q->owner_id = owner_id;
    q->callback = f;
    q->userdata = userdata;
    q->spec = *spec;
    *spec = (endpoints_spec){};
    r = judge_ask(g->judge, identity, q->spec.ns, on_judged, q, &q->judged);
    if (r < 0) {
        request_free(q);
        return r;
    }
    *ret = q;
    return 0;
}

const char *registrar_refusal(int error)
{
    return error == -ENOBUFS  ? "too many registrations of this user on their way"
           : error == -EBUSY ? "this user registers too often; try later"
                             : "the policy could not be asked";
}

int registrar_adopt(registrar *g, const char *ns, endpoints_identity *identity, void *owner)
{
    registrar_request *q;
    int r;

    r = request_new(g, identity, owner, &q);
    if (r < 0)
        return r;
    q->adopt = true;
    r = endpoints_spec_set_namespace(&q->spec, ns, strlen(ns));
    if (r >= 0)
        r = judge_ask(g->judge, identity, ns, on_judged, q, &q->judged);
    if (r < 0)
        request_free(q);
    return r;
}

void registrar_owner_gone(registrar *g, const void *owner)
{
    registrar_request *next;

    for (registrar_request *q = g->requests; q; q = next) {
        endpoints_entry *entry = q->adopt && !q->entry ? find_adopted(q) : NULL;
        next = q->next;
        if (q->owner != owner || q->entry)
            continue;
        request_free(q);
        if (entry)
            endpoints_remove(g->table, entry);
    }
    endpoints_remove_owner(g->table, owner);
}

/* --- starting ------------------------------------------------------------------------------- */

static int start_path(registrar *g, const char *unit, char ret[PATH_MAX])
{
    int stem = (int)(strlen(unit) - strlen(".service"));

    if (snprintf(ret, PATH_MAX, "%s/start/%.*s", g->directory, stem, unit) >= PATH_MAX)
        return -ENAMETOOLONG;
    return 0;
}

/* systemd watches the file by a .path unit; being written is what starts the unit. */
static int touch(registrar *g, const char *unit)
{
    _cleanup_(closep) int fd = -1;
    char path[PATH_MAX];
    int r = start_path(g, unit, path);

    if (r < 0)
        return r;
    fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0644);
    if (fd < 0)
        return -errno;
    return futimens(fd, NULL) < 0 ? -errno : 0;
}

static int start_now(registrar *g, starter *s, uint64_t now)
{
    int r;

    /* A unit that has been left alone for long begins anew. */
    if (s->pause_usec == 0 || now > s->next_usec + REGISTRAR_START_LAST_USEC)
        s->pause_usec = REGISTRAR_START_FIRST_USEC;
    s->next_usec = now + s->pause_usec;
    if (s->next_usec > s->wanted_usec)
        s->wanted_usec = 0;
    s->pause_usec = MIN_OF(s->pause_usec * 2, (uint64_t)REGISTRAR_START_LAST_USEC);
    r = touch(g, s->unit);
    if (r < 0)
        return hybus_log_errno(LOG_ERR, r, "Cannot ask systemd for %s through %s/start", s->unit,
                               g->directory);
    hybus_info("Asked for %s", s->unit);
    return 0;
}

static int on_start(sd_event_source *source, uint64_t usec, void *userdata);

/* The timer stands at the first unit that is wanted. */
static int arm_start(registrar *g)
{
    uint64_t first = UINT64_MAX;

    for (size_t i = 0; i < g->n_starters; i++)
        if (g->starters[i].wanted_usec > 0)
            first = MIN_OF(first, g->starters[i].next_usec);
    g->start = sd_event_source_disable_unref(g->start);
    if (first == UINT64_MAX)
        return 0;
    return sd_event_add_time(g->event, &g->start, CLOCK_MONOTONIC, first, TIMER_ACCURACY_USEC,
                             on_start, g);
}

static int on_start(sd_event_source *source, uint64_t usec, void *userdata)
{
    registrar *g = userdata;
    uint64_t now = usec;

    (void)sd_event_now(g->event, CLOCK_MONOTONIC, &now);
    for (size_t i = 0; i < g->n_starters; i++)
        if (g->starters[i].wanted_usec > 0 && g->starters[i].next_usec <= now)
            (void)start_now(g, &g->starters[i], now);
    return arm_start(g);
}

int registrar_start(registrar *g, const char *ns)
{
    const endpoints_entry *entry = endpoints_find(g->table, ns);
    uint64_t now = 0;
    starter *s;
    int r;

    if (!entry || entry->spec.road != ENDPOINTS_START)
        return -ENOENT;
    s = find_starter(g, entry->spec.unit);
    if (!s)
        return -ENOENT;
    (void)sd_event_now(g->event, CLOCK_MONOTONIC, &now);
    s->wanted_usec = now + REGISTRAR_START_WANTED_USEC;
    r = now >= s->next_usec ? start_now(g, s, now) : 0;
    if (r >= 0)
        r = arm_start(g);
    return r;
}

static int make_start_file(registrar *g, const char *unit)
{
    char path[PATH_MAX];
    int r = start_path(g, unit, path);

    if (r < 0)
        return r;
    /* An existing file is left alone: opening it for writing would start the unit. */
    if (access(path, F_OK) == 0)
        return 0;
    return touch(g, unit);
}

static void starters_free(starter *starters, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(starters[i].unit);
    free(starters);
}

/* One for each unit; those that there were keep their pauses. */
static int starters_build(registrar *g, const endpoints_spec *specs, size_t n, starter **ret,
                          size_t *ret_n)
{
    starter *made = calloc(n > 0 ? n : 1, sizeof(*made));
    size_t used = 0;

    if (!made)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        const starter *old = find_starter(g, specs[i].unit);
        bool known = false;
        for (size_t k = 0; k < used; k++)
            known = known || streq(made[k].unit, specs[i].unit);
        if (known)
            continue;
        made[used] = old ? *old : (starter){};
        made[used].unit = strdup(specs[i].unit);
        if (!made[used].unit) {
            starters_free(made, used);
            return -ENOMEM;
        }
        used++;
    }
    *ret = made;
    *ret_n = used;
    return 0;
}

int registrar_set_manifests(registrar *g, endpoints_spec *specs, size_t n)
{
    char path[PATH_MAX];
    starter *starters;
    size_t n_starters;
    int r;

    if (snprintf(path, sizeof(path), "%s/start", g->directory) >= (int)sizeof(path))
        return -ENAMETOOLONG;
    if (n > 0 && mkdir(path, 0755) < 0 && errno != EEXIST)
        return -errno;
    r = starters_build(g, specs, n, &starters, &n_starters);
    if (r < 0)
        return r;
    r = endpoints_set_manifests(g->table, specs, n);
    if (r < 0) {
        starters_free(starters, n_starters);
        return r;
    }
    starters_free(g->starters, g->n_starters);
    g->starters = starters;
    g->n_starters = n_starters;
    for (size_t i = 0; i < n_starters; i++) {
        r = make_start_file(g, starters[i].unit);
        if (r < 0)
            hybus_log_errno(LOG_WARNING, r, "%s cannot be started on demand", starters[i].unit);
    }
    return 0;
}

/* --- life ----------------------------------------------------------------------------------- */

int registrar_restore(registrar *g, const char *bus_id)
{
    size_t n = 0;
    int r;

    g->bus_id = strdup(bus_id);
    if (!g->bus_id || asprintf(&g->table_path, "%s/table", g->directory) < 0)
        return -ENOMEM;
    r = endpoints_table_load(g->table, g->table_path, bus_id);
    if (r < 0 && r != -ENOENT)
        hybus_log_errno(LOG_WARNING, r, "The table of the life before is damaged: %s",
                        g->table_path);
    while (endpoints_registration_at(g->table, n))
        n++;
    if (n == 0)
        return 0;
    hybus_info("%zu endpoints are expected back", n);
    return sd_event_add_time_relative(g->event, &g->expiry, CLOCK_MONOTONIC, REGISTRAR_RETURN_USEC,
                                      TIMER_ACCURACY_USEC, on_expiry, g);
}

int registrar_new(sd_event *event, hybus_agent *agent, const char *directory, registrar **ret)
{
    _cleanup_(registrar_freep) registrar *g = calloc(1, sizeof(*g));
    int r;

    if (!g)
        return -ENOMEM;
    g->event = sd_event_ref(event);
    g->directory = strdup(directory);
    if (!g->directory)
        return -ENOMEM;
    r = endpoints_new(&table_ops, g, &g->table);
    if (r < 0)
        return r;
    r = judge_new(agent, g->table, &g->judge);
    if (r < 0)
        return r;
    r = sd_event_add_defer(event, &g->save, on_save, g);
    if (r >= 0)
        r = sd_event_source_set_enabled(g->save, SD_EVENT_OFF);
    if (r >= 0) /* after everything that this turn still changes */
        r = sd_event_source_set_priority(g->save, SD_EVENT_PRIORITY_NORMAL + 10);
    if (r >= 0)
        r = sd_event_add_time(event, &g->save_later, CLOCK_MONOTONIC, 0, SAVE_ACCURACY_USEC,
                              on_save_later, g);
    if (r >= 0)
        r = sd_event_source_set_enabled(g->save_later, SD_EVENT_OFF);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(g);
    return 0;
}

void registrar_free(registrar *g)
{
    if (!g)
        return;
    g->stopping = true;
    sd_event_source_disable_unref(g->expiry);
    sd_event_source_disable_unref(g->save);
    sd_event_source_disable_unref(g->save_later);
    sd_event_source_disable_unref(g->start);
    endpoints_free(g->table);
    while (g->requests)
        request_free(g->requests);
    judge_free(g->judge);
    starters_free(g->starters, g->n_starters);
    free(g->directory);
    free(g->bus_id);
    free(g->table_path);
    sd_event_unref(g->event);
    free(g);
}

void registrar_set_road(registrar *g, endpoints_road road, const registrar_road *ops)
{
    g->roads[road] = ops;
}

void registrar_set_servers(registrar *g, const registrar_servers *ops, void *userdata)
{
    g->servers = ops;
    g->servers_userdata = userdata;
}

void registrar_set_moved(registrar *g, void (*f)(void *userdata), void *userdata)
{
    g->moved = f;
    g->moved_userdata = userdata;
}

bool registrar_unsaved(const registrar *g)
{
    return g->unsaved;
}

void registrar_unpaced(registrar *g)
{
    g->unpaced = true;
}

endpoints *registrar_table(registrar *g)
{
    return g->table;
}

judge *registrar_judge(registrar *g)
{
    return g->judge;
}
