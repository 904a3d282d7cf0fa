/* SPDX-License-Identifier: Apache-2.0 */
#include "explain-bus.h"

#include <hybus/error.h>

#include "named-subject.h"

/* --- explanations ---------------------------------------------------------------------------- */

int explain_append_string(sd_bus_message *m, const char *key, const char *value)
{
    return value && *value ? sd_bus_message_append(m, "{sv}", key, "s", value) : 0;
}

int explain_append(sd_bus_message *m, const AuditRecord *r)
{
    int e = sd_bus_message_open_container(m, 'a', "{sv}");

    e = e < 0 ? e : explain_append_string(m, "audit", r->id);
    if (e >= 0 && r->time_usec)
        e = sd_bus_message_append(m, "{sv}", "time", "t", r->time_usec);
    if (e >= 0 && r->count > 1)
        e = sd_bus_message_append(m, "{sv}", "count", "t", r->count);
    if (e >= 0 && r->count > 1)
        e = sd_bus_message_append(m, "{sv}", "last", "t", r->last_usec);
    e = e < 0 ? e : explain_append_string(m, "subject", r->subject);
    e = e < 0 ? e : explain_append_string(m, "inputs", r->inputs);
    e = e < 0 ? e : explain_append_string(m, "permission", r->permission);
    e = e < 0 ? e : explain_append_string(m, "call", r->call);
    e = e < 0 ? e : explain_append_string(m, "verdict", r->verdict);
    e = e < 0 ? e : explain_append_string(m, "rule", r->rule);
    e = e < 0 ? e : explain_append_string(m, "file", r->file);
    if (e >= 0 && r->line)
        e = sd_bus_message_append(m, "{sv}", "line", "u", r->line);
    if (e >= 0)
        e = sd_bus_message_append(m, "{sv}", "layer", "u", r->layer);
    if (e >= 0)
        e = sd_bus_message_append(m, "{sv}", "generation", "t", r->generation);
    e = e < 0 ? e : explain_append_string(m, "reason", r->reason);
    e = e < 0 ? e : explain_append_string(m, "suggestion", r->suggestion);
    return e < 0 ? e : sd_bus_message_close_container(m);
}

int explain_subject_error(sd_bus_error *error, int r, const char *text)
{
    if (r == -ENOENT)
        return hybus_error_set(error, r, "There is no subject %.80s", text);
    if (r == -EINVAL)
        return hybus_error_set(error, r, "\"%.80s\" is not a subject", text);
    return r;
}

static int reply_with_record(sd_bus_message *m, const AuditRecord *record)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
    int r = sd_bus_message_new_method_return(m, &reply);

    if (r >= 0)
        r = explain_append(reply, record);
    return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

int explain_method(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    SecurityBus *b = userdata;
    const AuditRecord *record;
    const char *id;
    int r = sd_bus_message_read(m, "s", &id);

    if (r < 0)
        return r;
    record = audit_find(b->security->audit, id);
    if (!record)
        return hybus_error_set(error, -ENOENT,
                               "There is no record %.64s; older ones may be in the journal", id);
    return reply_with_record(m, record);
}

/* --- a call that nobody made ------------------------------------------------------------------ */

/* A call to a service that the bus guards. Others than our daemons and apps it does not ask us about. */
static int explain_bus_call(SecurityBus *b, const Subject *subject, Question *q, AuditRecord *ret)
{
    Security *s = b->security;
    bool governed = b->bus_policy && bus_policy_governs(b->bus_policy, subject);
    Verdict v = bus_rules_judge(s->policy, s->catalogue, subject, q->interface, q->member, q->kind,
                                &q->permission);
    char reason[400];
    const Member *m;
    int r;

    m = catalogue_find(s->catalogue, q->interface, q->member, 'm');
    if (governed && v.allowed && q->kind == 'm' && m && m->polkit) {
        snprintf(reason, sizeof reason,
                 "granted; the service asks polkit for %s as well: without a rule of polkit's it has no effect alone",
                 m->polkit);
        v.reason = reason;
    }
    if (!governed)
        v.reason = subject->remote
                       ? "the bus does not see clients from outside: only a daemon of ours can call for one"
                       : "the bus asks this policy about daemons and apps only; here its own rules decide";
    r = security_explain(s, subject, q, &v, ret);
    if (r < 0)
        return r;
    ret->layer = 1;
    if (!governed)
        ret->verdict = subject->remote ? "denied" : "ungoverned";
    return 0;
}

static int explain_call(SecurityBus *b, const Subject *subject, const char *interface,
                        const char *member, char kind, AuditRecord *ret)
{
    Security *s = b->security;
    const Member *found = catalogue_find(s->catalogue, interface, member, kind);
    Question q = {.permission = found ? found->permission : NULL,
                  .interface = interface,
                  .member = member,
                  .kind = kind};
    Verdict v;

    if (catalogue_destination(s->catalogue, interface))
        return explain_bus_call(b, subject, &q, ret);
    v = security_judge(s, subject, &q);
    if (!found)
        v.reason = "no interface file describes this member: nobody may use it";
    else if (found->conflict)
        v.reason = "two interface files disagree about its permission: nobody may use it";
    return security_explain(s, subject, &q, &v, ret);
}

static int read_call(sd_bus_message *m, const char **text, const char **interface,
                     const char **member, char *ret_kind, sd_bus_error *error)
{
    static const char *const kinds[] = {"method", "get", "set", "signal"};
    const char *kind;
    int r = sd_bus_message_read(m, "ssss", text, interface, member, &kind);

    if (r < 0)
        return r;
    for (size_t i = 0; i < ELEMENTS(kinds); i++)
        if (streq(kinds[i], kind)) {
            *ret_kind = "mgse"[i];
            return 0;
        }
    return hybus_error_set(error, -EINVAL, "kind is one of method, get, set, signal");
}

/* c->subject is the connection that the call is about. */
static int explain_call_of_connection(Call *c, sd_bus_error *error)
{
    const char *text, *interface, *member;
    AuditRecord record;
    char kind;
    int r = sd_bus_message_rewind(c->message, true);

    if (r >= 0)
        r = read_call(c->message, &text, &interface, &member, &kind, error);
    if (r >= 0)
        r = explain_call(c->bus, &c->subject, interface, member, kind, &record);
    if (r < 0)
        return r;
    r = sd_bus_message_new_method_return(c->message, &c->reply);
    if (r >= 0)
        r = explain_append(c->reply, &record);
    audit_record_done(&record);
    return r < 0 ? r : 1;
}

int explain_method_call(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *text, *interface, *member, *name;
    SecurityBus *b = userdata;
    NamedSubject named;
    AuditRecord record;
    char kind;
    int r = read_call(m, &text, &interface, &member, &kind, error);

    if (r < 0)
        return r;
    name = startswith(text, "bus:");
    if (name)
        return call_with_connection(m, b, name, explain_call_of_connection, error);
    r = named_subject_parse(b->security, text, &named);
    if (r < 0)
        return explain_subject_error(error, r, text);
    r = explain_call(b, &named.subject, interface, member, kind, &record);
    named_subject_done(&named);
    if (r < 0)
        return r;
    r = reply_with_record(m, &record);
    audit_record_done(&record);
    return r;
}

/* --- polkit ---------------------------------------------------------------------------------- */

static bool covered(const char *permissions, const char *permission)
{
    char word[POLICY_NAME_MAX + 1];

    for (;;) {
        size_t n;

        permissions += strspn(permissions, " \t");
        n = strcspn(permissions, " \t");
        if (n == 0)
            return false;
        if (n < sizeof word) {
            memcpy(word, permissions, n);
            word[n] = '\0';
            if (permission_pattern_covers(word, permission))
                return true;
        }
        permissions += n;
    }
}

int explain_method_polkit(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
    _cleanup_(words_freep) char **seen = NULL;
    SecurityBus *b = userdata;
    const Member *members;
    const char *permissions;
    size_t n = catalogue_members(b->security->catalogue, &members);
    int r = sd_bus_message_read(m, "s", &permissions);

    if (r >= 0)
        r = sd_bus_message_new_method_return(m, &reply);
    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'a', "s");
    for (size_t i = 0; i < n && r >= 0; i++) {
        const char *action = members[i].polkit;

        if (!action || !members[i].permission || words_contain(seen, action) ||
            !covered(permissions, members[i].permission))
            continue;
        r = words_add(&seen, action, strlen(action));
        if (r >= 0)
            r = sd_bus_message_append(reply, "s", action);
    }
    if (r >= 0)
        r = sd_bus_message_close_container(reply);
    return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

/* --- a live connection ------------------------------------------------------------------------ */

static int describe_connection(Call *c, sd_bus_error *error)
{
    Security *s = c->bus->security;
    bool governed = c->bus->bus_policy && bus_policy_governs(c->bus->bus_policy, &c->subject);
    int r = sd_bus_message_new_method_return(c->message, &c->reply);

    if (r >= 0)
        r = sd_bus_message_open_container(c->reply, 'a', "{sv}");
    if (r >= 0)
        r = explain_append_string(c->reply, "subject", security_subject_name(&c->subject));
    if (r >= 0)
        r = explain_append_string(c->reply, "inputs", security_inputs(&c->subject));
    if (r >= 0)
        r = sd_bus_message_append(c->reply, "{sv}", "governed", "b", governed);
    if (r >= 0)
        r = sd_bus_message_append(c->reply, "{sv}", "generation", "t", security_generation(s));
    if (r >= 0)
        r = sd_bus_message_close_container(c->reply);
    return r < 0 ? r : 1;
}

int explain_method_connection(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *name;
    int r = sd_bus_message_read(m, "s", &name);

    return r < 0 ? r : call_with_connection(m, userdata, name, describe_connection, error);
}
