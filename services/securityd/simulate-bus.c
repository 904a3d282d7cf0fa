/* SPDX-License-Identifier: Apache-2.0 */
#include <hybus/error.h>

#include "connections.h"
#include "explain-bus.h"
#include "filter-bus.h"
#include "named-subject.h"
#include "security-internal.h"
#include "simulate.h"

#define CHANGES_MAX 1000u /* in one answer, each way; the rest is counted */

/* --- Simulate -------------------------------------------------------------------------------- */

/* One of the two lists of the answer. */
typedef struct List {
    sd_bus_message *reply;
    bool allowed;
    size_t n;
    uint64_t *more;
} List;

static int append_change(sd_bus_message *m, const Change *c)
{
    const Verdict *v = &c->after;
    int r = sd_bus_message_open_container(m, 'a', "{sv}");

    r = r < 0 ? r : explain_append_string(m, "subject", security_subject_name(c->subject));
    r = r < 0 ? r : explain_append_string(m, "inputs", security_inputs(c->subject));
    r = r < 0 ? r : explain_append_string(m, "permission", c->permission);
    r = r < 0 ? r : explain_append_string(m, "service", c->service);
    if (r >= 0 && c->count > 0)
        r = sd_bus_message_append(m, "{sv}", "count", "t", c->count);
    r = r < 0 ? r : explain_append_string(m, "rule", v->rule ? v->rule->id : "default");
    r = r < 0 ? r
              : explain_append_string(m, "before", c->before.rule ? c->before.rule->id : "default");
    r = r < 0 ? r : explain_append_string(m, "reason", v->reason);
    return r < 0 ? r : sd_bus_message_close_container(m);
}

static int on_change(const Change *c, void *userdata)
{
    List *list = userdata;

    if (c->after.allowed != list->allowed)
        return 0;
    if (list->n >= CHANGES_MAX) {
        (*list->more)++;
        return 0;
    }
    list->n++;
    return append_change(list->reply, c);
}

/* Twice, since a list stands behind the other in the answer. */
static int compare(Call *c, const Policy *after, const Subject *live, size_t n_live, uint64_t more)
{
    int r = sd_bus_message_new_method_return(c->message, &c->reply);

    for (size_t i = 0; i < 2 && r >= 0; i++) {
        List list = {.reply = c->reply, .allowed = i == 0, .more = &more};

        r = sd_bus_message_open_container(c->reply, 'a', "a{sv}");
        if (r >= 0)
            r = simulate(c->bus->security, after, live, n_live, on_change, &list);
        if (r >= 0)
            r = sd_bus_message_close_container(c->reply);
    }
    if (r >= 0)
        r = sd_bus_message_append(c->reply, "t", more);
    return r < 0 ? r : 1;
}

/* Those on the bus and those whom servers serve. */
static int all_live(Call *c, Subject **ret, size_t *ret_n, size_t *ret_more)
{
    const Subject *local;
    size_t n_local = connections_subjects(c->connections, &local, ret_more);
    size_t n_remote = agent_socket_principals(c->bus->socket, NULL, 0);
    Subject *all = calloc(n_local + n_remote + 1, sizeof *all);

    if (!all)
        return -ENOMEM;
    if (n_local > 0)
        memcpy(all, local, n_local * sizeof *all);
    (void)agent_socket_principals(c->bus->socket, all + n_local, n_remote);
    *ret = all;
    *ret_n = n_local + n_remote;
    return 0;
}

static int answer_simulate(Call *c, sd_bus_error *error)
{
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    _cleanup_(policy_unrefp) Policy *after = NULL;
    _cleanup_(freep) Subject *live = NULL;
    size_t n_live, more;
    const char *name, *text;
    int r = sd_bus_message_rewind(c->message, true);

    if (r >= 0)
        r = sd_bus_message_read(c->message, "ss", &name, &text);
    if (r < 0)
        return r;
    r = simulate_policy(c->bus->security->policy, name, text, &after, &e);
    if (r < 0)
        return hybus_error_set(error, r == -EBADMSG ? -EINVAL : r, "%s",
                               e.message ? e.message : strerror(-r));
    r = all_live(c, &live, &n_live, &more);
    return r < 0 ? r : compare(c, after, live, n_live, more);
}

static void on_listed(Connections *list, int result, void *userdata)
{
    sd_bus_error error = SD_BUS_ERROR_NULL;
    Call *c = userdata;

    call_end(c, result < 0 ? result : c->handler(c, &error), &error);
}

int simulate_method(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *name, *text;
    Call *c;
    int r = sd_bus_message_read(m, "ss", &name, &text);

    if (r < 0)
        return r;
    if (!*name || strlen(name) > 255 || strlen(text) > SIMULATE_TEXT_MAX)
        return hybus_error_set(error, -EINVAL, "a name of 1 to 255 and a text of at most %u bytes",
                               SIMULATE_TEXT_MAX);
    r = call_new(m, userdata, answer_simulate, &c, error);
    if (r < 0)
        return r;
    r = connections_list(c->bus->bus, on_listed, c, &c->connections);
    if (r < 0) {
        call_free(c);
        return r;
    }
    return 1;
}

/* --- Record and ListCalls -------------------------------------------------------------------- */

/* Rows that are cached now have told of their first uses: they are fetched anew. */
int record_method(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    SecurityBus *b = userdata;
    NamedSubject named;
    const char *text;
    int r = sd_bus_message_read(m, "s", &text);

    if (r < 0)
        return r;
    r = named_subject_parse(b->security, text, &named);
    if (r < 0)
        return explain_subject_error(error, r, text);
    security_move_principal(b->security, security_subject_name(&named.subject));
    named_subject_done(&named);
    r = agent_socket_changed(b->socket, NULL, NULL);
    return r < 0 ? r : sd_bus_reply_method_return(m, "t", history_number(b->security->history));
}

typedef struct Filter {
    char subject[300];
    uint64_t after;
    uint32_t limit;
} Filter;

/* Subjects are told apart by one name of several that they may have. */
static int read_subject(SecurityBus *b, const char *text, Filter *f, sd_bus_error *error)
{
    NamedSubject named;
    int r = named_subject_parse(b->security, text, &named);

    if (r < 0)
        return explain_subject_error(error, r, text);
    snprintf(f->subject, sizeof f->subject, "%s", security_subject_name(&named.subject));
    named_subject_done(&named);
    return 0;
}

static int read_filter(SecurityBus *b, sd_bus_message *m, Filter *f, sd_bus_error *error)
{
    const char *subject = NULL;
    const FilterKey keys[] = {{"subject", 's', &subject}, {"after", 't', &f->after}, {0}};
    int r = filter_read(m, keys, &f->limit, error);

    return r < 0 || !subject ? r : read_subject(b, subject, f, error);
}

/* As it would be judged now. */
static int append_kind(sd_bus_message *m, Security *s, const HistoryKind *k)
{
    const Question q = {.permission = *k->permission ? k->permission : NULL, .kind = 'm'};
    Verdict v = security_judge(s, k->subject, &q);
    int r = sd_bus_message_open_container(m, 'a', "{sv}");

    r = r < 0 ? r : explain_append_string(m, "subject", security_subject_name(k->subject));
    r = r < 0 ? r : explain_append_string(m, "inputs", security_inputs(k->subject));
    r = r < 0 ? r : explain_append_string(m, "permission", k->permission);
    r = r < 0 ? r : explain_append_string(m, "service", k->service);
    r = r < 0 ? r : explain_append_string(m, "call", k->call);
    r = r < 0 ? r : explain_append_string(m, "last", k->last_allowed ? "allowed" : "denied");
    if (r >= 0)
        r = sd_bus_message_append(m, "{sv}{sv}{sv}{sv}", "allowed", "t", k->allowed, "denied", "t",
                                  k->denied, "number", "t", k->number, "now", "b", v.allowed);
    r = r < 0 ? r : explain_append_string(m, "rule", v.rule ? v.rule->id : "default");
    if (r >= 0 && v.rule)
        r = explain_append_string(m, "file", v.rule->file);
    if (r >= 0 && v.rule)
        r = sd_bus_message_append(m, "{sv}", "line", "u", v.rule->line);
    r = r < 0 ? r : explain_append_string(m, "reason", v.reason);
    return r < 0 ? r : sd_bus_message_close_container(m);
}

int list_calls_method(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
    SecurityBus *b = userdata;
    uint64_t number = UINT64_MAX, now = security_boottime();
    const HistoryKind *k;
    Filter f = {0};
    uint32_t n = 0;
    int r = read_filter(b, m, &f, error);

    if (r >= 0)
        r = sd_bus_message_new_method_return(m, &reply);
    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'a', "a{sv}");
    while (r >= 0 && n < f.limit && (k = history_older(b->security->history, number, now)) &&
           k->number > f.after) {
        number = k->number;
        if (*f.subject && !streq(f.subject, security_subject_name(k->subject)))
            continue;
        r = append_kind(reply, b->security, k);
        n++;
    }
    if (r >= 0)
        r = sd_bus_message_close_container(reply);
    return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}
