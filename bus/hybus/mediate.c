/* SPDX-License-Identifier: Apache-2.0 */
/* What a call asks for, and whether its caller may. */
#include <sys/random.h>

#include "mediate-internal.h"

#include "error.h"
#include "json.h"
#include "members.h"

#define CONTRADICTIONS_MAX 3u /* the policy may move while it is asked, but not for ever */
#define FLUSH_USEC (60u * 1000u * 1000u)
#define FLUSH_ACCURACY_USEC (5u * 1000u * 1000u)
#define DEADLINE_ACCURACY_USEC (100u * 1000u)
#define PROPERTIES "org.freedesktop.DBus.Properties"

/* What a message asks for. */
typedef struct Need {
    uint32_t bit;         /* one permission, or */
    const uint32_t *bits; /* several */
    size_t n;
    bool nobody; /* no permission could ever allow it */
    const char *interface, *member;
    hybus_member_kind kind;
} Need;

/* --- replies --------------------------------------------------------------------------------- */

void mediate_refuse(sd_bus_message *m, int error, const char *text)
{
    _cleanup_(sd_bus_error_free) sd_bus_error e = SD_BUS_ERROR_NULL;

    (void)sd_bus_error_set(&e, hybus_error_name(error), text);
    (void)sd_bus_reply_method_error(m, &e); /* none when the caller wants none */
}

void mediate_flush_later(hybus_mediator *m)
{
    if (_likely_(m->flushing))
        return;
    m->flushing = true;
    (void)sd_event_source_set_time_relative(m->flush, FLUSH_USEC);
    (void)sd_event_source_set_enabled(m->flush, SD_EVENT_ONESHOT);
}

void mediate_audit_id(const hybus_mediator *m, uint64_t number, char ret[MEDIATE_AUDIT_SIZE])
{
    snprintf(ret, MEDIATE_AUDIT_SIZE, "%s-%llu", m->audit_prefix, (unsigned long long)number);
}

static const hybus_subject others = {.unknown = true, .bus_name = ":others"};

/* The first one of a caller is told at once, the others as a count: a flood costs nobody but itself. */
static bool tell_limited(hybus_mediator *m, Sender *s, sd_bus_message *message, const char *audit)
{
    hybus_subject subject = s ? sender_subject(s) : others;

    return hybus_agent_unjudged(m->agent, &subject, "limit", audit,
                                s ? sd_bus_message_get_interface(message) : NULL,
                                s ? sd_bus_message_get_member(message) : NULL, 1);
}

/* The agent may not be able to say how it calls the record, and this refusal does not wait: the id is ours.
 * Of a caller that is not known yet the record waits until it is. */
int mediate_over_limit(hybus_mediator *m, Sender *s, sd_bus_message *message)
{
    uint64_t *number = s ? &s->limited_number : &m->limited_number;
    uint64_t *count = s ? &s->limited : &m->limited;
    char text[256], audit[MEDIATE_AUDIT_SIZE];
    bool first = *number == 0;

    m->statistics.dropped++;
    if (first)
        *number = ++m->audit_number;
    mediate_audit_id(m, *number, audit);
    if (!first || (s && !s->known) || !tell_limited(m, s, message, audit))
        (*count)++;
    mediate_flush_later(m);
    snprintf(text, sizeof text,
             "Too many calls of this caller wait for a decision; try again later (audit id %s; see: "
             "h-policy explain %s)",
             audit, audit);
    mediate_refuse(message, -ENOBUFS, text);
    return 1;
}

void mediate_unavailable(hybus_mediator *m, sd_bus_message *message)
{
    m->statistics.unavailable++;
    mediate_refuse(message, -ENOKEY,
                   "The policy agent h-securityd does not answer, and nothing is allowed "
                   "without it; try again later");
}

/* --- refusals -------------------------------------------------------------------------------- */

static void need_of(const members *table, sd_bus_message *message, const char *interface,
                    const char *member, Need *ret);
static void on_verdict(const hybus_verdict *v, int error, void *userdata);

/* Several permissions (GetAll) are judged one by one, and never as a single call. */
static hybus_call call_of(const hybus_mediator *m, sd_bus_message *message, const Need *need,
                          uint32_t bit)
{
    bool single = !need->bits && bit != UINT32_MAX;

    return (hybus_call){.permission = members_permission(m->members, bit),
                        .interface = need->interface,
                        .member = need->member,
                        .path = sd_bus_message_get_path(message),
                        .kind = need->kind,
                        .single = single,
                        .has_arguments = single};
}

/* A rule may have been changed since the row was fetched: then the call is decided from scratch. */
static void decide_again(Call *c)
{
    call_return(c, CALL_PARKED);
    sender_resume_if_due(c->sender);
}

/* It runs through the filter again, as sd-bus wants it, and passes if the policy has not moved. */
static void admit(Call *c, const hybus_pass *pass)
{
    hybus_mediator *m = c->sender->mediator;

    c->pass = *pass;
    call_return(c, CALL_ADMITTED);
    if (sd_bus_enqueue_for_read(m->bus, c->message) < 0) {
        (void)mediate_over_limit(m, c->sender, c->message);
        call_free(c);
    }
}

/* What is secret is told by its length only. */
static void hide(json_t *arguments, uint64_t mask)
{
    for (size_t i = 0; i < json_array_size(arguments) && i < 64; i++) {
        const json_t *v = json_array_get(arguments, i);
        json_int_t n = json_is_string(v)  ? (json_int_t)json_string_length(v)
                       : json_is_array(v) ? (json_int_t)json_array_size(v)
                                          : 0;

        if (mask >> i & 1)
            (void)json_array_set_new(arguments, i, json_pack("{sI}", "secret", n));
    }
}

/* Its arguments as JSON; NULL: they are too long or have no such form. */
static char *arguments_of(sd_bus_message *message, uint64_t mask)
{
    _cleanup_(hybus_json_error_done) hybus_json_error e = {0};
    _cleanup_(hybus_json_decrefp) json_t *all = NULL;
    char *text;

    if (sd_bus_message_rewind(message, true) < 0 || hybus_json_read(message, &all, &e) < 0)
        all = NULL;
    (void)sd_bus_message_rewind(message, true);
    if (!all)
        return NULL;
    if (streq(strempty(sd_bus_message_get_interface(message)), PROPERTIES)) {
        /* only Set has one, in a variant */
        json_t *value = json_incref(json_object_get(json_array_get(all, 2), "value"));

        json_array_clear(all);
        if (value)
            json_array_append_new(all, value);
    }
    hide(all, mask);
    text = json_dumps(all, JSON_COMPACT);
    if (text && strlen(text) > HYBUS_AGENT_ARGUMENTS_MAX) {
        explicit_bzero(text, strlen(text));
        free(TAKE_PTR(text));
    }
    return text;
}

static void ask_with_arguments(Call *c, uint64_t mask)
{
    _cleanup_(freep) char *arguments = arguments_of(c->message, mask);
    hybus_mediator *m = c->sender->mediator;
    hybus_subject subject = sender_subject(c->sender);
    hybus_call call;
    Need need;

    c->asked_arguments = true;
    if (!m->members) {
        mediate_unavailable(m, c->message);
        call_free(c);
        return;
    }
    need_of(m->members, c->message, sd_bus_message_get_interface(c->message),
            sd_bus_message_get_member(c->message), &need);
    call = call_of(m, c->message, &need, need.bits ? UINT32_MAX : need.bit);
    call.arguments = arguments ? arguments : "";
    if (hybus_agent_judge(m->agent, &subject, &call, on_verdict, c, &c->question) < 0) {
        c->question = NULL;
        mediate_unavailable(m, c->message);
        call_free(c);
    }
}

static void on_verdict(const hybus_verdict *v, int error, void *userdata)
{
    Call *c = userdata;
    hybus_mediator *m = c->sender->mediator;
    char text[1024];

    c->question = NULL;
    if (error == 0 && v->wants_arguments && !c->asked_arguments) {
        ask_with_arguments(c, v->hide);
        return;
    }
    if (error == 0 && v->once && c->contradicted++ < CONTRADICTIONS_MAX) {
        admit(c, &v->pass);
        return;
    }
    if (error == 0 && v->allowed && !v->once && c->contradicted++ < CONTRADICTIONS_MAX) {
        sender_drop_row(c->sender);
        decide_again(c);
        return;
    }
    if (error == -ENOKEY || error == -ENOBUFS || (error == 0 && v->allowed)) {
        mediate_unavailable(m, c->message);
    } else if (error < 0) {
        mediate_refuse(c->message, -EACCES, "Access denied; the policy agent could not say why");
    } else {
        snprintf(text, sizeof text,
                 "Access denied by rule \"%s\": %s (audit id %s; see: h-policy explain %s)",
                 v->rule, v->reason, v->audit, v->audit);
        mediate_refuse(c->message, -EACCES, text);
    }
    call_free(c);
}

/* `c` is NULL for a call that comes for the first time; one that was parked keeps its deadline. */
static int deny(Sender *s, sd_bus_message *message, const Need *need, uint32_t bit, Call *c)
{
    hybus_mediator *m = s->mediator;
    hybus_subject subject = sender_subject(s);
    hybus_call call = call_of(m, message, need, bit);

    m->statistics.denied++;
    if (c) {
        call_refuse(c);
    } else {
        c = call_new(s, message, CALL_REFUSED);
    }
    if (!c)
        return mediate_over_limit(m, s, message);
    if (hybus_agent_judge(m->agent, &subject, &call, on_verdict, c, &c->question) < 0) {
        c->question = NULL;
        mediate_unavailable(m, message);
        call_free(c);
    }
    return 1;
}

void mediate_deny_unknown(Call *c)
{
    const char *interface = sd_bus_message_get_interface(c->message);
    const Need need = {.interface = strempty(interface),
                       .member = sd_bus_message_get_member(c->message),
                       .kind = HYBUS_MEMBER_METHOD};

    (void)deny(c->sender, c->message, &need, UINT32_MAX, c);
}

/* --- deciding -------------------------------------------------------------------------------- */

static bool is_free(const char *interface, const char *member)
{
    const char *rest = startswith(interface, "org.freedesktop.DBus.");

    if (!rest)
        return false;
    return (streq(rest, "Introspectable") && streq(member, "Introspect")) ||
           (streq(rest, "Peer") && (streq(member, "Ping") || streq(member, "GetMachineId")));
}

/* Properties are judged by what they name. Anything that does not name it properly is nobody's. */
static void need_of_property(const members *table, sd_bus_message *message, Need *need)
{
    const char *interface = NULL, *property = NULL;
    bool all = streq(need->member, "GetAll");

    if (!all && !streq(need->member, "Get") && !streq(need->member, "Set"))
        return;
    if (!sd_bus_message_has_signature(message, all                          ? "s"
                                               : streq(need->member, "Get") ? "ss"
                                                                            : "ssv"))
        return;
    if (sd_bus_message_read_basic(message, 's', &interface) <= 0 ||
        (!all && sd_bus_message_read_basic(message, 's', &property) <= 0) ||
        sd_bus_message_rewind(message, true) < 0 || !*interface ||
        strlen(interface) > MEDIATE_NAME_MAX || (property && strlen(property) > MEDIATE_NAME_MAX))
        return;
    need->interface = interface;
    need->kind = streq(need->member, "Set") ? HYBUS_MEMBER_SET : HYBUS_MEMBER_GET;
    if (all) {
        need->bits = members_readable(table, interface, &need->n);
        need->nobody = !need->bits;
        need->member = "*";
        return;
    }
    need->member = property;
    need->bit = members_find(table, interface, property, need->kind);
    need->nobody = need->bit == UINT32_MAX;
}

static void need_of(const members *table, sd_bus_message *message, const char *interface,
                    const char *member, Need *ret)
{
    *ret = (Need){.bit = UINT32_MAX,
                  .nobody = true,
                  .interface = strempty(interface),
                  .member = member,
                  .kind = HYBUS_MEMBER_METHOD};
    if (!interface)
        return;
    if (streq(interface, PROPERTIES)) {
        need_of_property(table, message, ret);
        return;
    }
    ret->bit = members_find(table, interface, member, HYBUS_MEMBER_METHOD);
    ret->nobody = ret->bit == UINT32_MAX;
}

static void note_use(Sender *s, uint32_t bit)
{
    hybus_mediator *m = s->mediator;
    hybus_subject subject;

    if (_likely_(s->counts[bit]++ > 0)) {
        s->counted = true;
        mediate_flush_later(m);
        return;
    }
    subject = sender_subject(s);
    hybus_agent_used(m->agent, &subject, members_permission(m->members, bit), 1);
}

static int on_flush(sd_event_source *source, uint64_t usec, void *userdata)
{
    hybus_mediator *m = userdata;
    char audit[MEDIATE_AUDIT_SIZE];
    Sender *s;

    m->flushing = false;
    TAILQ_FOREACH (s, &m->senders, used)
        sender_report(s);
    mediate_audit_id(m, m->limited_number, audit);
    if (m->limited > 0 &&
        hybus_agent_unjudged(m->agent, &others, "limit", audit, NULL, NULL, m->limited))
        m->limited = 0;
    return 0;
}

/* The row is current. 0: pass. */
static int decide(Sender *s, sd_bus_message *message, const Need *need, Call *c)
{
    const uint32_t *bits = need->bits ? need->bits : &need->bit;
    size_t n = need->bits ? need->n : 1;

    if (need->nobody)
        return deny(s, message, need, UINT32_MAX, c);
    for (size_t i = 0; i < n; i++)
        if (!hybus_row_bit(s->row, bits[i]))
            return deny(s, message, need, bits[i], c);
    s->mediator->statistics.hits++;
    for (size_t i = 0; i < n; i++)
        note_use(s, bits[i]);
    return 0;
}

static int park(Sender *s, sd_bus_message *message)
{
    hybus_mediator *m = s->mediator;

    if (!call_new(s, message, CALL_PARKED))
        return mediate_over_limit(m, s, message);
    m->statistics.parked++;
    return 1;
}

/* A message that went through sd_bus_enqueue_for_read(). Only its place in the order is remembered;
 * the decision is made anew. */
static Call *find_resumed(Sender *s, sd_bus_message *message)
{
    Call *c;

    TAILQ_FOREACH (c, &s->calls, queue)
        if (c->message == message && (c->state == CALL_RESUMED || c->state == CALL_ADMITTED))
            return c;
    return NULL;
}

static bool has_row(const Sender *s)
{
    return _likely_(s->row) && hybus_agent_row_current(s->mediator->agent, s->row) &&
           s->mediator->members;
}

static int filter_resumed(Sender *s, Call *c, sd_bus_message *message)
{
    bool behind = TAILQ_FIRST(&s->calls) != c;
    Need need;
    int r;

    if (c->state == CALL_ADMITTED && !behind && hybus_agent_pass_current(s->mediator->agent, &c->pass)) {
        s->mediator->statistics.hits++;
        call_free(c);
        return 0;
    }
    if (behind || !has_row(s)) {
        /* Keeps its place and its deadline. */
        c->state = CALL_PARKED;
        s->mediator->statistics.misses++;
        if (!behind)
            sender_fetch(s);
        return 1;
    }
    need_of(s->mediator->members, message, sd_bus_message_get_interface(message),
            sd_bus_message_get_member(message), &need);
    r = decide(s, message, &need, c);
    if (r == 0)
        call_free(c); /* sd-bus holds the message while it is dispatched */
    return r;
}

static int filter_new(Sender *s, sd_bus_message *message, const char *interface, const char *member)
{
    Need need;
    int r;

    if (_likely_(TAILQ_EMPTY(&s->calls) && has_row(s))) {
        need_of(s->mediator->members, message, interface, member, &need);
        return decide(s, message, &need, NULL);
    }
    s->mediator->statistics.misses++;
    r = park(s, message);
    if (TAILQ_FIRST(&s->calls) && TAILQ_FIRST(&s->calls)->state == CALL_PARKED)
        sender_fetch(s);
    return r;
}

int hybus_mediator_filter(sd_bus_message *message, void *mediator, sd_bus_error *error)
{
    hybus_mediator *m = mediator;
    const char *name, *interface, *member;
    uint32_t bucket;
    uint8_t type;
    Sender *s;
    Call *c;
    int r;

    if (sd_bus_message_get_type(message, &type) < 0 || type != SD_BUS_MESSAGE_METHOD_CALL)
        return 0;
    name = sd_bus_message_get_sender(message);
    interface = sd_bus_message_get_interface(message);
    member = sd_bus_message_get_member(message);
    if (!name || !member) {
        mediate_refuse(message, -EACCES, "The caller's identity cannot be established");
        return 1;
    }
    if (streq(name, MEDIATE_DRIVER) || (interface && is_free(interface, member)))
        return 0;

    bucket = sender_bucket(name);
    s = sender_find(m, name, bucket);
    if (_unlikely_(!s)) {
        s = sender_new(m, name, bucket);
        if (!s)
            return mediate_over_limit(m, NULL, message);
    }
    sender_touch(s);
    if (_likely_(TAILQ_EMPTY(&s->calls)))
        return filter_new(s, message, interface, member);
    c = find_resumed(s, message);
    if (!c)
        return filter_new(s, message, interface, member);
    r = filter_resumed(s, c, message);
    sender_resume_if_due(s);
    return r;
}

/* --- set-up ---------------------------------------------------------------------------------- */

static int on_owner_changed(sd_bus_message *message, void *userdata, sd_bus_error *error)
{
    hybus_mediator *m = userdata;
    const char *name, *old, *new;
    Sender *s;

    if (sd_bus_message_read(message, "sss", &name, &old, &new) < 0 || *new)
        return 0;
    s = sender_find(m, name, sender_bucket(name));
    if (!s)
        return 0;
    sender_left(s);
    sender_free(s); /* nobody waits for its answers any more */
    return 0;
}

static void on_changed(hybus_agent *a, uint64_t generation, void *userdata)
{
    hybus_mediator *m = userdata;
    const char *const *permissions;
    const hybus_member *list;
    size_t n = hybus_agent_members(a, &list), n_permissions;
    members *new = NULL;
    Sender *s;

    n_permissions = hybus_agent_permissions(a, &permissions);
    /* Cached bits mean something only over the list they were asked for. */
    if (!m->members || !members_same_permissions(m->members, permissions, n_permissions))
        TAILQ_FOREACH (s, &m->senders, used)
            sender_drop_row(s);
    /* Without memory there are no members, and so nothing is allowed. */
    if (members_new(list, n, permissions, n_permissions, &new) < 0) {
        TAILQ_FOREACH (s, &m->senders, used)
            sender_drop_row(s);
        new = NULL;
    }
    members_free(m->members);
    m->members = new;
    hybus_agent_settled(a, on_changed, m, generation);
}

static int set_up_timers(hybus_mediator *m)
{
    int r = sd_event_add_time(m->event, &m->deadline, CLOCK_MONOTONIC, 0, DEADLINE_ACCURACY_USEC,
                              call_on_deadline, m);
    if (r >= 0)
        r = sd_event_source_set_enabled(m->deadline, SD_EVENT_OFF);
    if (r >= 0)
        r = sd_event_add_time(m->event, &m->flush, CLOCK_MONOTONIC, 0, FLUSH_ACCURACY_USEC,
                              on_flush, m);
    if (r >= 0)
        r = sd_event_source_set_enabled(m->flush, SD_EVENT_OFF);
    return r;
}

int hybus_mediator_new(sd_bus *bus, hybus_agent *agent, hybus_mediator **ret)
{
    _cleanup_(hybus_mediator_freep) hybus_mediator *m = calloc(1, sizeof *m);
    uint32_t random;
    int r;

    if (!m)
        return -ENOMEM;
    if (getrandom(&random, sizeof random, 0) != sizeof random)
        return -EIO;
    snprintf(m->audit_prefix, sizeof m->audit_prefix, "%06x", random & 0xffffffu);
    TAILQ_INIT(&m->senders);
    TAILQ_INIT(&m->calls);
    if (!sd_bus_get_event(bus))
        return -EINVAL;
    m->bus = sd_bus_ref(bus);
    m->event = sd_event_ref(sd_bus_get_event(bus));
    m->agent = agent;
    r = set_up_timers(m);
    if (r >= 0)
        r = hybus_agent_add_changed(agent, on_changed, m);
    /* Only those that leave: arg2, the new owner, is empty. Others do not wake this daemon. */
    if (r >= 0)
        r = sd_bus_add_match_async(bus, &m->owner_match,
                                   "type='signal',sender='" MEDIATE_DRIVER
                                   "',interface='" MEDIATE_DRIVER
                                   "',member='NameOwnerChanged',arg2=''",
                                   on_owner_changed, NULL, m);
    if (r >= 0)
        r = sd_bus_add_filter(bus, &m->filter, hybus_mediator_filter, m);
    if (r < 0)
        return r;
    if (hybus_agent_alive(agent))
        on_changed(agent, 0, m);
    *ret = TAKE_PTR(m);
    return 0;
}

void hybus_mediator_free(hybus_mediator *m)
{
    Sender *s;

    if (!m)
        return;
    sd_bus_slot_unref(m->filter);
    sd_bus_slot_unref(m->owner_match);
    while ((s = TAILQ_FIRST(&m->senders)))
        sender_free(s);
    hybus_agent_remove_changed(m->agent, on_changed, m);
    sd_event_source_disable_unref(m->deadline);
    sd_event_source_disable_unref(m->flush);
    members_free(m->members);
    sd_event_unref(m->event);
    sd_bus_unref(m->bus);
    free(m);
}

bool hybus_mediator_idle(const hybus_mediator *m)
{
    return m->n_calls == 0;
}

void hybus_mediator_statistics_get(hybus_mediator *m, hybus_mediator_statistics *ret)
{
    *ret = m->statistics;
}
