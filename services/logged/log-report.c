/* SPDX-License-Identifier: Apache-2.0 */
#include "log-report.h"

#include <hybus/credentials.h>
#include <hybus/log.h>

#include "log-native.h"
#include "log-record.h"

#define AGAIN_USEC (1000u * 1000u) /* when h-securityd does not read fast enough */

typedef struct kind {
    log_report *report;
    log_refusal refusal; /* as it was logged */
    uint64_t count;      /* 0: a free place */
    uint32_t uid;        /* as it was logged, or as the bus said later */
    sd_bus_slot *slot;   /* the bus is being asked who it was */
} kind;

struct log_report {
    sd_bus *bus;
    hybus_agent *agent;
    sd_event_source *later;
    uint64_t connected; /* monotonic; names in older records may be of another bus */
    uint64_t more;      /* refusals that found no place */
    kind kinds[LOG_REPORT_KINDS_MAX];
};

static void kind_done(kind *k)
{
    sd_bus_slot_unref(k->slot);
    *k = (kind){};
}

static void tell_later(log_report *r, uint64_t usec)
{
    if (sd_event_source_set_time_relative(r->later, usec) < 0 ||
        sd_event_source_set_enabled(r->later, SD_EVENT_ONESHOT) < 0)
        hybus_warning("Cannot tell h-securityd what the bus has refused");
}

static bool tell_kind(log_report *r, const kind *k)
{
    const log_refusal *f = &k->refusal;
    const hybus_subject subject = {
        .unknown = k->uid == LOG_NOBODY, .uid = k->uid, .bus_name = f->sender};

    return hybus_agent_bus_refused(r->agent, &subject,
                                   &(hybus_refusal){.type = f->type,
                                                    .receive = f->receive,
                                                    .destination = f->destination,
                                                    .interface = f->interface,
                                                    .member = f->member,
                                                    .path = f->path},
                                   k->count);
}

/* False: not now. */
static bool tell_all(log_report *r)
{
    for (size_t i = 0; i < LOG_REPORT_KINDS_MAX; i++) {
        kind *k = &r->kinds[i];

        if (k->count == 0 || k->slot)
            continue;
        if (!tell_kind(r, k))
            return false;
        kind_done(k);
    }
    if (r->more > 0) {
        if (!tell_kind(r, &(kind){.uid = LOG_NOBODY, .refusal.type = 'm', .count = r->more}))
            return false;
        r->more = 0;
    }
    return true;
}

/* When h-securityd is away, on_changed() comes with it. */
static int on_later(sd_event_source *s, uint64_t usec, void *userdata)
{
    log_report *r = userdata;

    if (!tell_all(r) && hybus_agent_alive(r->agent))
        tell_later(r, AGAIN_USEC);
    return 0;
}

static void on_changed(hybus_agent *a, uint64_t generation, void *userdata)
{
    hybus_agent_settled(a, on_changed, userdata, generation);
    tell_later(userdata, 0);
}

static void on_credentials(sd_bus_message *reply, int error, void *userdata)
{
    kind *k = userdata;
    hybus_credentials c;

    k->slot = sd_bus_slot_unref(k->slot);
    if (error >= 0 && hybus_credentials_read(reply, &c) >= 0)
        k->uid = c.uid;
    tell_later(k->report, 0);
}

int log_report_new(sd_bus *bus, hybus_agent *agent, log_report **ret)
{
    _cleanup_(log_report_freep) log_report *r = calloc(1, sizeof(*r));
    int e;

    if (!r)
        return -ENOMEM;
    r->bus = bus;
    r->connected = log_clock_now().monotonic;
    e = sd_event_add_time_relative(sd_bus_get_event(bus), &r->later, CLOCK_MONOTONIC, 0, 0,
                                   on_later, r);
    if (e >= 0)
        e = sd_event_source_set_enabled(r->later, SD_EVENT_OFF);
    if (e >= 0)
        e = hybus_agent_add_changed(agent, on_changed, r);
    if (e < 0)
        return e;
    r->agent = agent;
    *ret = TAKE_PTR(r);
    return 0;
}

void log_report_free(log_report *r)
{
    if (!r)
        return;
    if (r->agent)
        hybus_agent_remove_changed(r->agent, on_changed, r);
    sd_event_source_disable_unref(r->later);
    for (size_t i = 0; i < LOG_REPORT_KINDS_MAX; i++)
        kind_done(&r->kinds[i]);
    free(r);
}

static kind *place_for(log_report *r, const log_refusal *refusal)
{
    kind *free_one = NULL;

    for (size_t i = 0; i < LOG_REPORT_KINDS_MAX; i++) {
        kind *k = &r->kinds[i];

        if (k->count > 0 && log_refusal_equal(&k->refusal, refusal))
            return k;
        if (k->count == 0 && !free_one)
            free_one = k;
    }
    return free_one;
}

void log_report_add(log_report *r, const log_refusal *refusal, uint64_t monotonic)
{
    kind *k = place_for(r, refusal);

    tell_later(r, 0);
    if (!k) {
        r->more++;
        return;
    }
    if (k->count++ > 0)
        return;
    k->report = r;
    k->refusal = *refusal;
    k->uid = refusal->uid;
    if (k->uid == LOG_NOBODY && *refusal->sender && monotonic > r->connected)
        (void)hybus_credentials_ask(r->bus, refusal->sender, on_credentials, k, &k->slot);
}
