/* SPDX-License-Identifier: Apache-2.0 */
#include "bus-policy.h"

#include <hybus/log.h>
#include <sys/queue.h>

#define SECOND UINT64_C(1000000)
#define RETRY_FIRST (1 * SECOND)
#define RETRY_MAX (64 * SECOND)

typedef struct Waiter {
    TAILQ_ENTRY(Waiter) list;
    uint64_t ticket;
    Rule *more; /* to be compiled as if it were in force already */
    BusApplied f;
    void *userdata;
} Waiter;

struct BusPolicy {
    Security *security;
    BusApply *apply;
    char *group;
    sd_event_source *start, *retry;
    TAILQ_HEAD(, Waiter) waiters;
    uint64_t ticket, trying; /* the latest change; the latest that the try at hand knows of */
    uint64_t retry_usec;
    BusRules rules; /* in force when `proven`, or being tried */
    bool proven, busy;
    bool incomplete; /* the policy could not be compiled: `rules` allow nothing */
    char *error;
};

static void waiter_free(BusPolicy *b, Waiter *w)
{
    TAILQ_REMOVE(&b->waiters, w, list);
    rule_unref(w->more);
    free(w);
}

static void set_error(BusPolicy *b, int result, const char *message)
{
    free(TAKE_PTR(b->error));
    if (result < 0)
        b->error = strdup(message);
}

static void schedule(BusPolicy *b)
{
    if (!b->busy)
        (void)sd_event_source_set_enabled(b->start, SD_EVENT_ONESHOT);
}

/* Tells everybody whose change that try knew of. Whoever is told may come back with another. */
static void tell(BusPolicy *b, int result, const char *message)
{
    Waiter *w;

    while ((w = TAILQ_FIRST(&b->waiters)) && w->ticket <= b->trying) {
        BusApplied f = w->f;
        void *userdata = w->userdata;

        /* A grant that failed is out of the next try: that is its way back. */
        if (result < 0 && w->more)
            b->ticket++;
        waiter_free(b, w);
        if (f)
            f(result, message, userdata);
    }
}

static void finish(BusPolicy *b, int result, const char *message)
{
    b->busy = false;
    b->proven = result >= 0;
    if (b->proven && b->incomplete) {
        result = -E2BIG;
        message =
            "the policy does not compile to rules for the bus, so none is in force: it grants too "
            "much to too many";
    }
    if (result < 0 && (!b->error || !streq(b->error, message)))
        hybus_error("Rules for other services are not in force: %s", message);
    if (result >= 0 && b->error)
        hybus_notice("Rules for other services are in force again");
    if (!b->proven) {
        b->retry_usec = b->retry_usec ? MIN_OF(b->retry_usec * 2, RETRY_MAX) : RETRY_FIRST;
        (void)sd_event_source_set_time_relative(b->retry, b->retry_usec);
        (void)sd_event_source_set_enabled(b->retry, SD_EVENT_ONESHOT);
    } else {
        b->retry_usec = 0;
        (void)sd_event_source_set_enabled(b->retry, SD_EVENT_OFF);
    }
    set_error(b, result, message);
    tell(b, result, message);
    if (b->ticket > b->trying)
        schedule(b);
}

static void on_applied(int result, const char *message, void *userdata)
{
    finish(userdata, result, message);
}

/* The grants that wait for the bus. One that is in force by now, or that two wait for, counts once.
 */
static Rule **waiting_rules(BusPolicy *b, size_t *ret_n)
{
    Rule **more;
    size_t n = 0;
    Waiter *w;

    TAILQ_FOREACH (w, &b->waiters, list)
        n += w->more != NULL;
    more = calloc(n + 1, sizeof *more);
    if (!more)
        return NULL;
    n = 0;
    TAILQ_FOREACH (w, &b->waiters, list) {
        bool known = !w->more || policy_rule(b->security->policy, w->more->id);

        for (size_t i = 0; i < n && !known; i++)
            known = streq(more[i]->id, w->more->id);
        if (!known)
            more[n++] = w->more;
    }
    *ret_n = n;
    return more;
}

static int compile_with(BusPolicy *b, Rule *const *more, size_t n_more, BusRules *ret)
{
    _cleanup_(policy_unrefp) Policy *policy = NULL;
    BusUsers users = {0};
    int r = security_policy_with(b->security->policy, more, n_more, NULL, &policy);

    if (r >= 0)
        r = bus_users_read(b->group, &users);
    if (r >= 0)
        r = bus_rules_compile(policy, b->security->catalogue, &users, ret);
    bus_users_done(&users);
    return r;
}

static void refuse_waiting_rules(BusPolicy *b, int result)
{
    Waiter *w, *next;

    for (w = TAILQ_FIRST(&b->waiters); w && w->ticket <= b->trying; w = next) {
        BusApplied f = w->f;
        void *userdata = w->userdata;

        next = TAILQ_NEXT(w, list);
        if (!w->more)
            continue;
        waiter_free(b, w);
        if (f)
            f(result,
              "it does not compile to rules for the bus: the policy grants too much to too many",
              userdata);
    }
}

/* One grant too many is refused alone. A policy that does not compile is none: stricter, never
 * laxer. */
static int compile(BusPolicy *b, BusRules *ret)
{
    const BusUsers nobody = {0};
    _cleanup_(freep) Rule **more = NULL;
    size_t n_more = 0;
    int r = (more = waiting_rules(b, &n_more)) ? 0 : -ENOMEM;

    b->incomplete = false;
    if (r >= 0)
        r = compile_with(b, more, n_more, ret);
    if (r < 0 && n_more > 0) {
        refuse_waiting_rules(b, r);
        r = compile_with(b, NULL, 0, ret);
    }
    if (r >= 0)
        return 0;
    b->incomplete = true;
    return bus_rules_compile(b->security->policy, b->security->catalogue, &nobody, ret);
}

static int on_start(sd_event_source *s, void *userdata)
{
    BusPolicy *b = userdata;
    BusRules rules = {0};
    int r;

    b->busy = true;
    b->trying = b->ticket;
    r = compile(b, &rules);
    if (r >= 0 && b->proven && bus_rules_equal(&rules, &b->rules)) {
        bus_rules_done(&rules);
        finish(b, 0, "in force");
        return 0;
    }
    if (r >= 0) {
        bus_rules_done(&b->rules);
        b->rules = rules;
        b->proven = false;
        r = bus_apply_start(b->apply, &b->rules, on_applied, b);
    }
    if (r < 0)
        finish(b, r, strerror(-r));
    return 0;
}

static int on_retry(sd_event_source *s, uint64_t usec, void *userdata)
{
    schedule(userdata);
    return 0;
}

int bus_policy_new(Security *security, sd_bus *bus, const char *directory, const char *group,
                   BusPolicy **ret)
{
    _cleanup_(bus_policy_freep) BusPolicy *b = calloc(1, sizeof *b);
    sd_event *event = sd_bus_get_event(bus);
    int r;

    if (!b)
        return -ENOMEM;
    TAILQ_INIT(&b->waiters);
    b->security = security;
    b->group = strdup(group);
    if (!b->group)
        return -ENOMEM;
    r = bus_apply_new(bus, directory, &b->apply);
    if (r >= 0)
        r = sd_event_add_defer(event, &b->start, on_start, b);
    if (r >= 0)
        r = sd_event_source_set_enabled(b->start, SD_EVENT_OFF);
    if (r >= 0)
        r = sd_event_add_time(event, &b->retry, CLOCK_MONOTONIC, UINT64_MAX, 0, on_retry, b);
    if (r >= 0)
        r = sd_event_source_set_enabled(b->retry, SD_EVENT_OFF);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(b);
    return 0;
}

void bus_policy_free(BusPolicy *b)
{
    Waiter *w;

    if (!b)
        return;
    while ((w = TAILQ_FIRST(&b->waiters)))
        waiter_free(b, w);
    bus_apply_free(b->apply);
    sd_event_source_disable_unref(b->start);
    sd_event_source_disable_unref(b->retry);
    bus_rules_done(&b->rules);
    free(b->group);
    free(b->error);
    free(b);
}

int bus_policy_update(BusPolicy *b, Rule *more, BusApplied f, void *userdata)
{
    Waiter *w = calloc(1, sizeof *w);

    if (!w)
        return -ENOMEM;
    *w = (Waiter){
        .ticket = ++b->ticket, .more = more ? rule_ref(more) : NULL, .f = f, .userdata = userdata};
    TAILQ_INSERT_TAIL(&b->waiters, w, list);
    schedule(b);
    return 0;
}

void bus_policy_cancel(BusPolicy *b, void *userdata)
{
    Waiter *w;

    TAILQ_FOREACH (w, &b->waiters, list)
        if (w->userdata == userdata)
            w->f = NULL;
}

bool bus_policy_governs(const BusPolicy *b, const Subject *subject)
{
    return bus_rules_govern(b->group, subject);
}

const char *bus_policy_error(const BusPolicy *b)
{
    return b->error;
}
