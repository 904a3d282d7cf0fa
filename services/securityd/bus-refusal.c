/* SPDX-License-Identifier: Apache-2.0 */
#include "bus-refusal.h"

#include "bus-rules.h"
#include "security-internal.h"

#define PROPERTIES "org.freedesktop.DBus.Properties"

static const char by_the_bus[] =
    "the bus refused it by its own rules (dbus-1/system.d); this policy is not "
    "asked about such a message";
static const char by_others[] =
    "the bus refused it, and this policy grants it: by a rule of the service's own file "
    "(dbus-1/system.d), or before the grant was in force";
static const char not_known[] =
    "daemons and apps reach only services that an interface file describes";

/* An interface of the service: the bus guards all properties of a service at once. */
static const char *interface_of(const Catalogue *c, const char *service)
{
    const Destination *all;
    size_t n = catalogue_destinations(c, &all);

    for (size_t i = 0; i < n; i++)
        if (all[i].name && streq(all[i].name, service))
            return all[i].interface;
    return NULL;
}

/* The words of the bus as a question to the policy. False: the policy has no say in it. */
static bool ask(Security *s, const Subject *subject, const BusRefusal *refusal, Question *q)
{
    if (!*s->settings->bus_directory || refusal->type != 'm' || refusal->receive ||
        !bus_rules_govern(s->settings->bus_group, subject))
        return false;
    if (streq(strempty(refusal->interface), PROPERTIES)) {
        q->interface = interface_of(s->catalogue, strempty(refusal->destination));
        q->kind = streq(strempty(refusal->member), "Set") ? 's' : 'g';
    }
    return true;
}

static Verdict judge(Security *s, const Subject *subject, Question *q)
{
    Verdict v = {.reason = not_known};

    if (q->interface && catalogue_destination(s->catalogue, q->interface))
        v = bus_rules_judge(s->policy, s->catalogue, subject, q->interface, strempty(q->member),
                            q->kind, &q->permission);
    if (v.allowed)
        v = (Verdict){.reason = by_others};
    return v;
}

void security_bus_refused(Security *s, const Subject *subject, const BusRefusal *refusal,
                          uint64_t n)
{
    const bool named = refusal->destination && *refusal->destination;
    Question q = {.interface = refusal->interface,
                  .member = refusal->member,
                  .path = refusal->path,
                  .service = named ? refusal->destination : NULL,
                  .kind = refusal->type};
    Verdict v = {.reason = by_the_bus};
    AuditRecord record;

    if (ask(s, subject, refusal, &q))
        v = judge(s, subject, &q);
    q.interface = refusal->interface; /* as it was called */
    q.kind = refusal->type;
    s->statistics.denied += n;
    if (security_explain(s, subject, &q, &v, &record) < 0)
        return;
    record.layer = 1;
    if (v.reason == by_others)
        *record.suggestion = '\0'; /* it is granted already */
    if (q.permission)
        security_note_refused(s, subject, &q, n);
    (void)audit_count(s->audit, &record, n, NULL);
    audit_record_done(&record);
}
