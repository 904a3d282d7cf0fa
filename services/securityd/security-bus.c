/* SPDX-License-Identifier: Apache-2.0 */
#include "security-bus.h"

#include <hybus/error.h>

#include "account-bus.h"
#include "app-bus.h"
#include "bind-bus.h"
#include "consent-bus.h"
#include "explain-bus.h"
#include "filter-bus.h"
#include "named-subject.h"
#include "security-call.h"

#define PATH "/org/hybridos/Security1"
#define INTERFACE "org.hybridos.Security1"
#define ANSWER_MAX (8u * 1024u * 1024u) /* bytes of rules in one answer */

static int new_answer(sd_bus_message *m, sd_bus_message **ret)
{
    return sd_bus_message_new_method_return(m, ret);
}

static void message_unrefp(sd_bus_message **m)
{
    sd_bus_message_unref(*m);
}

/* --- handlers: questions --------------------------------------------------------------------- */

static int reply_check(Call *c, const Subject *subject, const char *permission)
{
    const Question q = {.permission = permission, .kind = 'm'};
    Verdict v = security_judge(c->bus->security, subject, &q);
    char reason[512];
    int r;

    if (v.candidate)
        snprintf(reason, sizeof reason, "rule %s would grant it, but only when %s", v.candidate->id,
                 strempty(v.candidate->when));
    else
        snprintf(reason, sizeof reason, "%s", v.reason);
    r = sd_bus_message_new_method_return(c->message, &c->reply);
    if (r >= 0)
        r = sd_bus_message_append(c->reply, "bss", v.allowed, v.rule ? v.rule->id : "default",
                                  reason);
    return r < 0 ? r : 1;
}

static int check_other(Call *c, const Subject *other, sd_bus_error *error)
{
    if (other->remote || other->group_only || other->uid != c->caller.uid) {
        Security *s = c->bus->security;
        const Question q = {.permission = "security.explain",
                            .interface = INTERFACE,
                            .member = "Check",
                            .service = "securityd",
                            .path = PATH,
                            .kind = 'm'};
        const AuditRecord *record = NULL;
        Verdict v;

        if (security_refuse(s, &c->caller, &q, &v, &record) < 0 || !v.allowed)
            return hybus_error_set(error, -EACCES,
                                   "Asking about others needs security.explain (audit %s)",
                                   record ? record->id : "");
    }
    return 0;
}

/* c->subject is now the other connection. */
static int check_connection(Call *c, sd_bus_error *error)
{
    const char *subject, *permission;
    int r = check_other(c, &c->subject, error);

    if (r >= 0)
        r = sd_bus_message_rewind(c->message, true);
    if (r >= 0)
        r = sd_bus_message_read(c->message, "ss", &subject, &permission);
    return r < 0 ? r : reply_check(c, &c->subject, permission);
}

static int check(Call *c, sd_bus_error *error)
{
    const char *text, *permission, *name;
    NamedSubject named;
    int r;

    memcpy(c->caller_gids, c->gids, sizeof c->gids);
    c->caller = c->subject;
    c->caller.gids = c->caller_gids;
    if (c->caller.behalf) {
        c->caller_behalf = c->behalf;
        c->caller.behalf = &c->caller_behalf;
    }
    r = sd_bus_message_read(c->message, "ss", &text, &permission);
    if (r < 0)
        return r;
    if (!permission_is_valid(permission))
        return hybus_error_set(error, -EINVAL, "\"%.80s\" is not a permission", permission);
    name = startswith(text, "bus:");
    if (name) {
        if (*name != ':' || strlen(name) > 255)
            return hybus_error_set(error, -EINVAL, "bus: needs a unique name such as :1.42");
        c->handler = check_connection;
        c->subject = (Subject){0};
        c->settling = true;
        r = call_ask_credentials(c, name);
        if (r == -EINVAL)
            return hybus_error_set(error, r, "bus: needs a unique name such as :1.42");
        return r < 0 ? r : 0;
    }
    r = named_subject_parse(c->bus->security, text, &named);
    if (r < 0)
        return explain_subject_error(error, r, text);
    r = check_other(c, &named.subject, error);
    if (r >= 0)
        r = reply_check(c, &named.subject, permission);
    named_subject_done(&named);
    return r;
}

static int method_check(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return call_with_caller(m, userdata, check, error);
}

static int method_list_rules(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    _cleanup_(message_unrefp) sd_bus_message *reply = NULL;
    SecurityBus *b = userdata;
    Rule *const *rules;
    size_t n = policy_rules(b->security->policy, &rules), size = 0;
    int r = new_answer(m, &reply);

    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'a', "(ssssssu)");
    for (size_t i = 0; i < n && r >= 0; i++) {
        const Rule *rule = rules[i];

        size += strlen(rule->to) + strlen(rule->permission) + strlen(rule->file) + 128;
        if (size > ANSWER_MAX)
            return hybus_error_set(error, -ENOBUFS, "The policy is too large for one answer");
        r = sd_bus_message_append(reply, "(ssssssu)", rule->id, rule_kind_to_string(rule->kind),
                                  rule->to, rule->permission, strempty(rule->when), rule->file,
                                  rule->line);
    }
    if (r >= 0)
        r = sd_bus_message_close_container(reply);
    return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int method_list_audit(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    _cleanup_(message_unrefp) sd_bus_message *reply = NULL;
    SecurityBus *b = userdata;
    const char *subject = NULL, *verdict = NULL;
    uint64_t since = 0;
    const FilterKey keys[] = {
        {"subject", 's', &subject}, {"verdict", 's', &verdict}, {"since", 't', &since}, {0}};
    const AuditRecord *record = NULL;
    uint64_t number = UINT64_MAX;
    uint32_t n = 0, limit = 0;
    int r = filter_read(m, keys, &limit, error);

    if (r >= 0)
        r = new_answer(m, &reply);
    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'a', "a{sv}");
    while (r >= 0 && n < limit && (record = audit_older(b->security->audit, number))) {
        number = record->number;
        if ((subject && !streq(subject, record->subject)) ||
            (verdict && !streq(verdict, record->verdict)) || record->time_usec < since)
            continue;
        r = explain_append(reply, record);
        n++;
    }
    if (r >= 0)
        r = sd_bus_message_close_container(reply);
    return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

/* An array of rows: append(reply, store, i) for each. */
static int reply_with_list(sd_bus_message *m, const Store *s, const char *type, size_t n,
                           int (*append)(sd_bus_message *, const Store *, size_t))
{
    _cleanup_(message_unrefp) sd_bus_message *reply = NULL;
    int r = new_answer(m, &reply);

    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'a', type);
    for (size_t i = 0; i < n && r >= 0; i++)
        r = append(reply, s, i);
    if (r >= 0)
        r = sd_bus_message_close_container(reply);
    return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

static int append_token(sd_bus_message *reply, const Store *s, size_t i)
{
    const Token *t = &s->tokens[i];

    return sd_bus_message_append(reply, "(ssttt)", t->name, t->principal, t->created, t->expires,
                                 t->last_used);
}

static int method_list_tokens(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const SecurityBus *b = userdata;
    const Store *s = b->security->store;

    return reply_with_list(m, s, "(ssttt)", s->n_tokens, append_token);
}

static int method_list_nodes(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    _cleanup_(message_unrefp) sd_bus_message *reply = NULL;
    const SecurityBus *b = userdata;
    const Nodes *nodes = b->security->nodes;
    int r = new_answer(m, &reply);

    if (r >= 0)
        r = sd_bus_message_open_container(reply, 'a', "(st)");
    for (size_t i = 0; i < nodes->n && r >= 0; i++)
        r = sd_bus_message_append(reply, "(st)", nodes->list[i].name, nodes->list[i].created);
    if (r >= 0)
        r = sd_bus_message_close_container(reply);
    return r < 0 ? r : sd_bus_send(NULL, reply, NULL);
}

/* --- handlers: changes ----------------------------------------------------------------------- */

/* `r` as the model returned it, with what it said about it. */
static int change_error(sd_bus_error *error, int r, hybus_config_error *e, const char *what)
{
    if (e->message)
        (void)hybus_error_set(error, r, "%s", e->message);
    else
        (void)hybus_error_set(error, r, "%s: %s", what, strerror(-r));
    hybus_config_error_done(e);
    return r;
}

static int adopt_grant(Call *c, sd_bus_error *error)
{
    hybus_config_error e = {0};
    int r = security_grant_commit(c->bus->security, &c->subject, c->rule, &e);

    if (r < 0)
        return change_error(error, r, &e, "Cannot grant");
    hybus_config_error_done(&e);
    r = call_settle_with_generation(c, c->rule->id);
    /* Who is told that it failed must not find it granted. */
    if (r < 0 && security_revoke(c->bus->security, &c->subject, c->rule->id, &e) >= 0)
        (void)agent_socket_changed(c->bus->socket, NULL, NULL);
    hybus_config_error_done(&e);
    return r;
}

/* The bus obeys a grant before anybody else does, so that it is never half in force. */
static void on_grant_proven(int result, const char *message, void *userdata)
{
    sd_bus_error error = SD_BUS_ERROR_NULL;
    Call *c = userdata;

    c->settling = false;
    if (result < 0)
        result = hybus_error_set(&error, result, "Not granted: %s", message);
    else {
        result = adopt_grant(c, &error);
        if (result < 0)
            (void)bus_policy_update(c->bus->bus_policy, NULL, NULL, NULL);
    }
    call_end(c, result, &error);
}

/* Most rules are about our own daemons: then the bus is left alone, which spares looking up all
 * users. */
static bool bus_is_concerned(const SecurityBus *b, const Rule *rule)
{
    return b->bus_policy && bus_rules_concern(b->security->catalogue, rule);
}

static int grant(Call *c, sd_bus_error *error)
{
    const char *id, *to, *permissions, *conditions;
    hybus_config_error e = {0};
    int r = sd_bus_message_read(c->message, "ssss", &id, &to, &permissions, &conditions);

    if (r < 0)
        return r;
    r = security_grant_check(c->bus->security, &c->subject, id, to, permissions, conditions,
                             &c->rule, &e);
    if (r < 0)
        return change_error(error, r, &e, "Cannot grant");
    hybus_config_error_done(&e);
    if (!bus_is_concerned(c->bus, c->rule))
        return adopt_grant(c, error);
    r = bus_policy_update(c->bus->bus_policy, c->rule, on_grant_proven, c);
    c->settling = r >= 0;
    return r;
}

static int method_grant(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return call_with_caller(m, userdata, grant, error);
}

static int revoke_rule(Call *c, sd_bus_error *error)
{
    hybus_config_error e = {0};
    const char *id;
    int r = sd_bus_message_read(c->message, "s", &id);
    const Rule *rule;

    if (r < 0)
        return r;
    rule = policy_rule(c->bus->security->policy, id);
    c->bus_too = rule && bus_is_concerned(c->bus, rule);
    r = security_revoke(c->bus->security, &c->subject, id, &e);
    if (r < 0) {
        /* It may be revoked all the same: whoever still allows it must hear of it. */
        (void)agent_socket_changed(c->bus->socket, NULL, NULL);
        security_bus_changed(c->bus);
        return change_error(error, r, &e, r == -ENOENT ? "No such rule" : "Cannot revoke");
    }
    hybus_config_error_done(&e);
    return call_settle_with_generation(c, NULL);
}

static int method_revoke(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return call_with_caller(m, userdata, revoke_rule, error);
}

static int reload(Call *c, sd_bus_error *error)
{
    Security *s = c->bus->security;
    int r = security_reload(s);

    if (r < 0) {
        security_bus_changed(c->bus);
        return hybus_error_set(error, -EINVAL, "%s",
                               s->policy_error ? s->policy_error : strerror(-r));
    }
    security_note(s, &c->subject, "Reload", r > 0 ? "changed" : "nothing changed");
    c->bus_too = true; /* also when nothing changed: users may have come and gone */
    return call_settle_with_generation(c, NULL);
}

static int method_reload(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return call_with_caller(m, userdata, reload, error);
}

static int change_name(Call *c, int (*f)(Security *, const Subject *, const char *), bool removes,
                       sd_bus_error *error)
{
    hybus_config_error e = {0};
    const char *name;
    int r = sd_bus_message_read(c->message, "s", &name);

    if (r < 0)
        return r;
    r = f(c->bus->security, &c->subject, name);
    if (r < 0) {
        if (r == -ENOENT || !removes)
            return change_error(error, r, &e, removes ? "There is none of that name" : "Not added");
        /* It is gone all the same: whoever still allows it must hear of it. */
        (void)agent_socket_changed(c->bus->socket, NULL, NULL);
        return change_error(error, r, &e, "Removed, but it may be back after the next start");
    }
    return call_settle_empty(c);
}

static int add_user(Call *c, sd_bus_error *error)
{
    return change_name(c, security_add_user, false, error);
}

static int method_add_user(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return call_with_caller(m, userdata, add_user, error);
}

static int remove_user(Call *c, sd_bus_error *error)
{
    return change_name(c, security_remove_user, true, error);
}

static int method_remove_user(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return call_with_caller(m, userdata, remove_user, error);
}

static int remove_token(Call *c, sd_bus_error *error)
{
    return change_name(c, security_remove_token, true, error);
}

static int method_remove_token(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return call_with_caller(m, userdata, remove_token, error);
}

static int remove_node(Call *c, sd_bus_error *error)
{
    return change_name(c, security_remove_node, true, error);
}

static int method_remove_node(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return call_with_caller(m, userdata, remove_node, error);
}

/* --- properties ------------------------------------------------------------------------------ */

static int get_generation(sd_bus *bus, const char *path, const char *interface,
                          const char *property, sd_bus_message *reply, void *userdata,
                          sd_bus_error *error)
{
    SecurityBus *b = userdata;
    return sd_bus_message_append(reply, "t", security_generation(b->security));
}

static int get_claimed(sd_bus *bus, const char *path, const char *interface, const char *property,
                       sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
    SecurityBus *b = userdata;
    return sd_bus_message_append(reply, "b", b->security->store->claimed);
}

static int get_development(sd_bus *bus, const char *path, const char *interface,
                           const char *property, sd_bus_message *reply, void *userdata,
                           sd_bus_error *error)
{
    SecurityBus *b = userdata;
    return sd_bus_message_append_strv(reply, b->security->notes.development);
}

static int get_policy_error(sd_bus *bus, const char *path, const char *interface,
                            const char *property, sd_bus_message *reply, void *userdata,
                            sd_bus_error *error)
{
    SecurityBus *b = userdata;
    return sd_bus_message_append(reply, "s", strempty(b->security->policy_error));
}

static int get_bus_error(sd_bus *bus, const char *path, const char *interface, const char *property,
                         sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
    SecurityBus *b = userdata;
    return sd_bus_message_append(reply, "s",
                                 b->bus_policy ? strempty(bus_policy_error(b->bus_policy)) : "");
}

static int get_statistics(sd_bus *bus, const char *path, const char *interface,
                          const char *property, sd_bus_message *reply, void *userdata,
                          sd_bus_error *error)
{
    SecurityBus *b = userdata;
    const SecurityStatistics *s = &b->security->statistics;
    const struct {
        const char *name;
        uint64_t value;
    } all[] = {
        {"rows", s->rows},
        {"judgements", s->judgements},
        {"denied", s->denied},
        {"connections", s->connections},
        {"checks", s->checks},
        {"throttled", s->throttled},
        {"used", s->used},
        {"limited", s->limited},
        {"rules", policy_rules(b->security->policy, NULL)},
    };
    int r = sd_bus_message_open_container(reply, 'a', "{st}");

    for (size_t i = 0; i < ELEMENTS(all) && r >= 0; i++)
        r = sd_bus_message_append(reply, "{st}", all[i].name, all[i].value);
    return r < 0 ? r : sd_bus_message_close_container(reply);
}

/* --- the object ------------------------------------------------------------------------------ */

static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD_WITH_ARGS("Check", SD_BUS_ARGS("s", subject, "s", permission),
                            SD_BUS_RESULT("b", allowed, "s", rule, "s", reason), method_check,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("ListRules", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(ssssssu)", rules),
                            method_list_rules, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS(
        "Grant", SD_BUS_ARGS("s", id, "s", to, "s", permissions, "s", conditions),
        SD_BUS_RESULT("s", rule, "t", generation), method_grant, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Revoke", SD_BUS_ARGS("s", id), SD_BUS_RESULT("t", generation),
                            method_revoke, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Reload", SD_BUS_NO_ARGS, SD_BUS_RESULT("t", generation), method_reload,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Explain", SD_BUS_ARGS("s", audit), SD_BUS_RESULT("a{sv}", explanation),
                            explain_method, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS(
        "ExplainCall", SD_BUS_ARGS("s", subject, "s", interface, "s", member, "s", kind),
        SD_BUS_RESULT("a{sv}", explanation), explain_method_call, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("ExplainConnection", SD_BUS_ARGS("s", name),
                            SD_BUS_RESULT("a{sv}", explanation), explain_method_connection,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("ListPolkitActions", SD_BUS_ARGS("s", permissions),
                            SD_BUS_RESULT("as", actions), explain_method_polkit,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Simulate", SD_BUS_ARGS("s", name, "s", text),
                            SD_BUS_RESULT("aa{sv}", allowed, "aa{sv}", denied, "t", more),
                            simulate_method, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Record", SD_BUS_ARGS("s", subject), SD_BUS_RESULT("t", number),
                            record_method, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("ListCalls", SD_BUS_ARGS("a{sv}", filter, "u", limit),
                            SD_BUS_RESULT("aa{sv}", calls), list_calls_method,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("RegisterConsentAgent", SD_BUS_ARGS("o", path), SD_BUS_NO_RESULT,
                            consent_method_register, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("UnregisterConsentAgent", SD_BUS_NO_ARGS, SD_BUS_NO_RESULT,
                            consent_method_unregister, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("ListConsents", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(sssbst)", consents),
                            consent_method_list, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("ForgetConsent", SD_BUS_ARGS("s", id), SD_BUS_NO_RESULT,
                            consent_method_forget, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("ListAudit", SD_BUS_ARGS("a{sv}", filter, "u", limit),
                            SD_BUS_RESULT("aa{sv}", records), method_list_audit,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("AddUser", SD_BUS_ARGS("s", name), SD_BUS_NO_RESULT, method_add_user,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("ListUsers", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(stasb)", users),
                            method_list_users, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("RemoveUser", SD_BUS_ARGS("s", name), SD_BUS_NO_RESULT,
                            method_remove_user, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Bind", SD_BUS_ARGS("t", handle), SD_BUS_RESULT("s", principal),
                            method_bind, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("SetUserRoles", SD_BUS_ARGS("s", name, "as", roles), SD_BUS_NO_RESULT,
                            method_set_user_roles, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("ListSessions", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(tssstt)", sessions),
                            method_list_sessions, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("RemoveSession", SD_BUS_ARGS("t", id), SD_BUS_NO_RESULT,
                            method_remove_session, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("ListCertificates", SD_BUS_NO_ARGS,
                            SD_BUS_RESULT("a(sssttt)", certificates), method_list_certificates,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("RevokeCertificate", SD_BUS_ARGS("s", name), SD_BUS_NO_RESULT,
                            method_revoke_certificate, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("ListTokens", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(ssttt)", tokens),
                            method_list_tokens, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("RemoveToken", SD_BUS_ARGS("s", name), SD_BUS_NO_RESULT,
                            method_remove_token, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("ListNodes", SD_BUS_NO_ARGS, SD_BUS_RESULT("a(st)", nodes),
                            method_list_nodes, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("RemoveNode", SD_BUS_ARGS("s", name), SD_BUS_NO_RESULT,
                            method_remove_node, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("NoteApp", SD_BUS_ARGS("s", act, "s", name, "u", uid), SD_BUS_NO_RESULT,
                            method_note_app, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_PROPERTY("Generation", "t", get_generation, 0,
                    SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
    SD_BUS_PROPERTY("Claimed", "b", get_claimed, 0, SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
    SD_BUS_PROPERTY("Development", "as", get_development, 0,
                    SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
    SD_BUS_PROPERTY("PolicyError", "s", get_policy_error, 0,
                    SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
    SD_BUS_PROPERTY("BusError", "s", get_bus_error, 0, SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
    SD_BUS_PROPERTY("Statistics", "a{st}", get_statistics, 0, 0),
    SD_BUS_VTABLE_END,
};

static void on_socket_change(void *userdata)
{
    security_bus_changed(userdata);
}

int security_bus_publish(Security *security, AgentSocket *socket, BusPolicy *bus_policy,
                         sd_bus *bus, SecurityBus **ret)
{
    _cleanup_(security_bus_freep) SecurityBus *b = calloc(1, sizeof *b);
    int r;

    if (!b)
        return -ENOMEM;
    LIST_INIT(&b->calls);
    b->security = security;
    b->socket = socket;
    b->bus_policy = bus_policy;
    b->bus = sd_bus_ref(bus);
    r = consent_bus_new(b, &b->consent);
    if (r >= 0)
        r = hybus_object_publish(bus, PATH, INTERFACE, vtable, b, &b->object);
    if (r < 0)
        return r;
    r = bind_bus_start(b, &b->left);
    if (r < 0)
        return r;
    agent_socket_on_change(socket, on_socket_change, b);
    *ret = TAKE_PTR(b);
    return 0;
}

void security_bus_free(SecurityBus *b)
{
    Call *c;

    if (!b)
        return;
    hybus_object_free(b->object);
    consent_bus_free(b->consent);
    sd_bus_slot_unref(b->left);
    while ((c = LIST_FIRST(&b->calls)))
        call_free(c);
    sd_bus_unref(b->bus);
    free(b);
}

void security_bus_announce(SecurityBus *b)
{
    hybus_object_changed(b->object, "Generation", "Claimed", "Development", "PolicyError",
                         "BusError", NULL);
}

void security_bus_changed(SecurityBus *b)
{
    if (b->bus_policy)
        (void)bus_policy_update(b->bus_policy, NULL, NULL, NULL);
    security_bus_announce(b);
}
