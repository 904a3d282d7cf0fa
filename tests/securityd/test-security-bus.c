/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <hybus/error.h>
#include <jansson.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "agent-socket.h"
#include "fixture.h"
#include "private-bus.h"
#include "security-bus.h"

#define NAME "org.hybridos.Security1"
#define PATH "/org/hybridos/Security1"
#define DEADLINE_USEC (60u * 1000u * 1000u)

static const char xml[] =
    "<node><interface name=\"org.hybridos.Log1\"><method name=\"Read\"><annotation "
    "name=\"org.hybridos.Permission\" value=\"log.read\"/></method><method name=\"Hidden\"/>"
    "<property name=\"Level\" type=\"u\" access=\"read\"><annotation "
    "name=\"org.hybridos.Permission\" value=\"log.read\"/></property></interface></node>";

/* --- a bus that obeys, and counts how often it is asked to -------------------------------------
 */

struct BusPolicy {
    sd_event_source *answer;
    unsigned updates;
    BusApplied f;
    void *userdata;
};

static int on_obeyed(sd_event_source *s, void *userdata)
{
    BusPolicy *b = userdata;
    BusApplied f = TAKE_PTR(b->f);

    if (f)
        f(0, "in force", b->userdata);
    return 0;
}

int bus_policy_update(BusPolicy *b, Rule *more, BusApplied f, void *userdata)
{
    b->updates++;
    b->f = f;
    b->userdata = userdata;
    return sd_event_source_set_enabled(b->answer, SD_EVENT_ONESHOT);
}

void bus_policy_cancel(BusPolicy *b, void *userdata)
{
    if (b->userdata == userdata)
        b->f = NULL;
}

bool bus_policy_governs(const BusPolicy *b, const Subject *subject)
{
    return false;
}

const char *bus_policy_error(const BusPolicy *b)
{
    return NULL;
}

int bus_policy_new(Security *security, sd_bus *bus, const char *directory, const char *group,
                   BusPolicy **ret)
{
    return -EOPNOTSUPP;
}

void bus_policy_free(BusPolicy *b)
{
}

/* Our own uid holds everything but reboot.now; nobody but the handlers judges here. */
typedef struct Bus {
    Fixture *f;
    private_bus *process;
    sd_event *event;
    sd_bus *server, *client;
    AgentSocket *socket;
    BusPolicy bus_policy;
    SecurityBus *security_bus;
    char path[128], me[32];
    unsigned invalidated;
} Bus;

static int on_changed(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    Bus *b = userdata;
    const char *interface;

    assert_true(sd_bus_message_read(m, "s", &interface) > 0);
    assert_string_equal(interface, NAME);
    assert_true(sd_bus_message_skip(m, "a{sv}") > 0);
    b->invalidated++;
    return 0;
}

static int set_up_with(void **state, bool bus_too)
{
    char policy[512];
    Bus *b = calloc(1, sizeof *b);
    int fd;

    assert_non_null(b);
    b->f = fixture_new();
    snprintf(b->me, sizeof b->me, "uid:%u", geteuid());
    snprintf(policy, sizeof policy,
             "[grant me]\nTo = %s\nPermission = *\n"
             "[deny not-me]\nTo = %s\nPermission = reboot.now\n"
             "[grant dark]\nTo = user:alice\nPermission = lamp.use\nWhen = encrypted\n",
             b->me, b->me);
    fixture_remove(b->f->policy_directories[2],
                   "50-vendor.policy"); /* whoever we are, one rule is ours */
    fixture_write(b->f->policy_directories[0], "60-site.policy", policy);
    fixture_write(b->f->settings.vendor_interfaces[0], "org.hybridos.Log1.xml", xml);
    fixture_open(b->f);
    b->process = private_bus_new();
    assert_true(sd_event_new(&b->event) >= 0);
    assert_true(hybus_error_register() >= 0);
    snprintf(b->path, sizeof b->path, "%s/agent.sock", b->f->settings.runtime_directory);
    fd = agent_socket_listen(b->path);
    assert_true(fd >= 0);
    assert_int_equal(agent_socket_new(b->event, b->f->security, fd, &b->socket), 0);
    b->server = private_bus_connect(b->process, b->event);
    assert_int_equal(security_bus_publish(b->f->security, b->socket,
                                          bus_too ? &b->bus_policy : NULL, b->server,
                                          &b->security_bus),
                     0);
    assert_true(sd_bus_request_name(b->server, NAME, 0) >= 0);
    b->client = private_bus_connect(b->process, b->event);
    assert_true(sd_bus_match_signal(b->client, NULL, NAME, PATH, "org.freedesktop.DBus.Properties",
                                    "PropertiesChanged", on_changed, b) >= 0);
    assert_true(sd_event_add_defer(b->event, &b->bus_policy.answer, on_obeyed, &b->bus_policy) >=
                0);
    assert_true(sd_event_source_set_enabled(b->bus_policy.answer, SD_EVENT_OFF) >= 0);
    *state = b;
    return 0;
}

static int set_up(void **state)
{
    return set_up_with(state, false);
}

static int set_up_with_bus(void **state)
{
    return set_up_with(state, true);
}

static int tear_down(void **state)
{
    Bus *b = *state;

    sd_event_source_disable_unref(b->bus_policy.answer);

    agent_socket_free(b->socket);
    security_bus_free(b->security_bus);
    sd_bus_close_unref(b->client);
    sd_bus_close_unref(b->server);
    sd_event_unref(b->event);
    private_bus_free(b->process);
    fixture_free(b->f);
    free(b);
    return 0;
}

/* --- calls ----------------------------------------------------------------------------------- */

typedef struct Answer {
    bool done;
    char error[96], text[512];
    sd_bus_message *m;
} Answer;

static int on_answer(sd_bus_message *m, void *userdata, sd_bus_error *unused)
{
    const sd_bus_error *e = sd_bus_message_get_error(m);
    Answer *a = userdata;

    a->done = true;
    a->m = sd_bus_message_ref(m);
    snprintf(a->error, sizeof a->error, "%s", e ? e->name : "");
    snprintf(a->text, sizeof a->text, "%s", e ? strempty(e->message) : "");
    return 0;
}

static void answer_done(Answer *a)
{
    sd_bus_message_unref(a->m);
    *a = (Answer){0};
}

static void turn(Bus *b)
{
    assert_true(sd_event_run(b->event, DEADLINE_USEC) > 0);
}

static void start(Bus *b, sd_bus *client, Answer *a, const char *interface, const char *member,
                  const char *types, va_list args)
{
    sd_bus_message *m = NULL;

    *a = (Answer){0};
    assert_true(sd_bus_message_new_method_call(client, &m, NAME, PATH, interface, member) >= 0);
    assert_true(sd_bus_message_appendv(m, types, args) >= 0);
    assert_true(sd_bus_call_async(client, NULL, m, on_answer, a, DEADLINE_USEC) >= 0);
    sd_bus_message_unref(m);
}

static void begin(Bus *b, Answer *a, const char *member, const char *types, ...)
{
    va_list args;

    va_start(args, types);
    start(b, b->client, a, NAME, member, types, args);
    va_end(args);
}

/* The answer, which is for answer_done(). */
static Answer call(Bus *b, const char *member, const char *types, ...)
{
    static Answer a;
    va_list args;

    va_start(args, types);
    start(b, b->client, &a, NAME, member, types, args);
    va_end(args);
    while (!a.done)
        turn(b);
    return a;
}

static sd_bus_message *property(Bus *b, const char *name, const char *type)
{
    static Answer a;
    const char *contents;
    va_list none;

    (void)none;
    a = (Answer){0};
    assert_true(sd_bus_call_method_async(b->client, NULL, NAME, PATH,
                                         "org.freedesktop.DBus.Properties", "Get", on_answer, &a,
                                         "ss", NAME, name) >= 0);
    while (!a.done)
        turn(b);
    assert_string_equal(a.error, "");
    assert_true(sd_bus_message_peek_type(a.m, NULL, &contents) > 0);
    assert_string_equal(contents, type);
    assert_true(sd_bus_message_enter_container(a.m, 'v', type) > 0);
    return a.m;
}

static void expect_error(Bus *b, Answer a, const char *error, const char *text)
{
    char name[96];

    snprintf(name, sizeof name, HYBUS_ERROR_PREFIX "%s", error);
    if (!streq(a.error, name) || !strstr(a.text, text))
        fail_msg("%s: %s, not %s: %s", a.error, a.text, name, text);
    answer_done(&a);
}

#define EXPECT(b, error, text, ...) expect_error(b, call(b, __VA_ARGS__), error, text)
#define OK(b, ...)                                                                                 \
    do {                                                                                           \
        Answer _a = call(b, __VA_ARGS__);                                                          \
        if (*_a.error)                                                                             \
            fail_msg("%s: %s", _a.error, _a.text);                                                 \
        answer_done(&_a);                                                                          \
    } while (0)

/* A string of an a{sv} into which `m` has just been entered... */
static void read_record(sd_bus_message *m, json_t *ret)
{
    assert_true(sd_bus_message_enter_container(m, 'a', "{sv}") > 0);
    while (sd_bus_message_enter_container(m, 'e', "sv") > 0) {
        const char *key, *contents, *text;
        uint64_t t;
        uint32_t u;

        assert_true(sd_bus_message_read(m, "s", &key) > 0);
        assert_true(sd_bus_message_peek_type(m, NULL, &contents) > 0);
        if (streq(contents, "s")) {
            assert_true(sd_bus_message_read(m, "v", "s", &text) > 0);
            json_object_set_new(ret, key, json_string(text));
        } else if (streq(contents, "t")) {
            assert_true(sd_bus_message_read(m, "v", "t", &t) > 0);
            json_object_set_new(ret, key, json_integer((json_int_t)t));
        } else {
            assert_true(sd_bus_message_read(m, "v", "u", &u) > 0);
            json_object_set_new(ret, key, json_integer(u));
        }
        assert_true(sd_bus_message_exit_container(m) >= 0);
    }
    assert_true(sd_bus_message_exit_container(m) >= 0);
}

static const char *field(const json_t *record, const char *key)
{
    return strempty(json_string_value(json_object_get(record, key)));
}

static json_t *explanation(Bus *b, Answer a)
{
    json_t *record = json_object();

    assert_string_equal(a.error, "");
    read_record(a.m, record);
    answer_done(&a);
    return record;
}

/* --- questions ------------------------------------------------------------------------------- */

static bool check(Bus *b, const char *subject, const char *permission, const char *rule,
                  const char *reason)
{
    Answer a = call(b, "Check", "ss", subject, permission);
    const char *by, *why;
    int allowed;

    assert_string_equal(a.error, "");
    assert_true(sd_bus_message_read(a.m, "bss", &allowed, &by, &why) > 0);
    assert_string_equal(by, rule);
    if (!strstr(why, reason))
        fail_msg("%s", why);
    answer_done(&a);
    return allowed;
}

static void test_check(void **state)
{
    Bus *b = *state;
    char other[64];
    const char *unique;

    assert_true(check(b, b->me, "log.read", "me", "granted"));
    assert_false(check(b, b->me, "reboot.now", "not-me", "deny"));
    assert_false(check(b, "uid:60991", "log.read", "default", "no rule"));
    assert_false(check(b, "group:root", "log.read", "default", "no rule"));
    assert_false(check(b, "anonymous", "log.read", "default", "no rule"));
    OK(b, "AddUser", "s", "alice");
    assert_false(check(b, "user:alice", "lamp.use", "default", "only when encrypted"));
    assert_true(sd_bus_get_unique_name(b->client, &unique) >= 0);
    snprintf(other, sizeof other, "bus:%s", unique);
    assert_true(check(b, other, "log.read", "me", "granted"));
    EXPECT(b, "NotFound", "Nobody", "Check", "ss", "bus::1.99999", "log.read");
    EXPECT(b, "InvalidArgument", "unique", "Check", "ss", "bus:" NAME, "log.read");
    EXPECT(b, "InvalidArgument", "unique", "Check", "ss", "bus:", "log.read");
    EXPECT(b, "InvalidArgument", "not a permission", "Check", "ss", b->me, "log.*");
    EXPECT(b, "InvalidArgument", "not a permission", "Check", "ss", b->me, "");
    EXPECT(b, "InvalidArgument", "not a subject", "Check", "ss", "me", "log.read");
    EXPECT(b, "InvalidArgument", "not a subject", "Check", "ss", "remote", "log.read");
    EXPECT(b, "NotFound", "no subject", "Check", "ss", "user:nobody", "log.read");
    EXPECT(b, "NotFound", "no subject", "Check", "ss", "token:nobody", "log.read");
    EXPECT(b, "NotFound", "no subject", "Check", "ss", "unix:no-such-user-here", "log.read");
}

/* Whoever may check may look at themselves only. */
static void test_check_of_others_needs_explain(void **state)
{
    char policy[256], other[64];
    Bus *b = *state;
    const char *unique;

    snprintf(policy, sizeof policy, "[deny not-explain]\nTo = %s\nPermission = security.explain\n",
             b->me);
    fixture_write(b->f->policy_directories[0], "61-site.policy", policy);
    OK(b, "Reload", "");
    assert_true(check(b, b->me, "log.read", "me", "granted"));
    assert_true(sd_bus_get_unique_name(b->client, &unique) >= 0);
    snprintf(other, sizeof other, "bus:%s", unique);
    assert_true(check(b, other, "log.read", "me", "granted"));
    EXPECT(b, "AccessDenied", "needs security.explain (audit ", "Check", "ss", "uid:60991",
           "log.read");
    EXPECT(b, "AccessDenied", "needs security.explain", "Check", "ss", "anonymous", "log.read");
    EXPECT(b, "AccessDenied", "needs security.explain", "Check", "ss", "group:root", "log.read");
    assert_string_equal(fixture_record(b->f, "denied")->rule, "not-explain");
}

static void test_rules_are_listed(void **state)
{
    Bus *b = *state;
    Answer a = call(b, "ListRules", "");
    const char *id, *kind, *to, *permission, *when, *file;
    uint32_t line, n = 0;

    assert_true(sd_bus_message_enter_container(a.m, 'a', "(ssssssu)") > 0);
    while (sd_bus_message_read(a.m, "(ssssssu)", &id, &kind, &to, &permission, &when, &file,
                               &line) > 0) {
        n++;
        if (streq(id, "dark")) {
            assert_string_equal(kind, "grant");
            assert_string_equal(to, "user:alice");
            assert_string_equal(permission, "lamp.use");
            assert_string_equal(when, "encrypted");
            assert_non_null(strstr(file, "/etc/60-site.policy"));
            assert_int_equal(line, 7);
        }
    }
    assert_int_equal(n, 3);
    answer_done(&a);
}

static void test_explain(void **state)
{
    const Question q = {.permission = "log.read",
                        .interface = "org.hybridos.Log1",
                        .member = "Read",
                        .service = "logd",
                        .kind = 'm'};
    Bus *b = *state;
    const AuditRecord *r;
    json_t *record;
    Verdict v;

    EXPECT(b, "NotFound", "no record", "Explain", "s", "abc-1");
    EXPECT(b, "NotFound", "no record", "Explain", "s", "");
    assert_int_equal(security_refuse(b->f->security, &(Subject){.uid = 60991}, &q, &v, &r), 0);
    record = explanation(b, call(b, "Explain", "s", r->id));
    assert_string_equal(field(record, "audit"), r->id);
    assert_string_equal(field(record, "subject"), "uid:60991");
    assert_string_equal(field(record, "rule"), "default");
    assert_string_equal(field(record, "call"), "logd: org.hybridos.Log1.Read (method)");
    assert_string_equal(field(record, "suggestion"), "h-policy grant uid:60991 log.read");
    assert_int_equal(json_integer_value(json_object_get(record, "layer")), 2);
    assert_null(json_object_get(record, "count"));
    json_decref(record);
}

static void test_explain_call(void **state)
{
    static const struct {
        const char *member, *kind, *verdict, *reason;
    } cases[] = {
        {"Read", "method", "denied", "no rule grants it"},
        {"Level", "get", "denied", "no rule grants it"},
        {"Level", "set", "denied", "no interface file describes"},
        {"Hidden", "method", "denied", "no permission"},
        {"Nothing", "method", "denied", "no interface file describes"},
        {"Read", "signal", "denied", "no interface file describes"},
    };
    Bus *b = *state;
    json_t *record;

    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        record = explanation(b, call(b, "ExplainCall", "ssss", "uid:60991", "org.hybridos.Log1",
                                     cases[i].member, cases[i].kind));
        assert_string_equal(field(record, "verdict"), cases[i].verdict);
        if (!strstr(field(record, "reason"), cases[i].reason))
            fail_msg("%zu: %s", i, field(record, "reason"));
        assert_null(json_object_get(record, "audit")); /* nobody made that call */
        json_decref(record);
    }
    record = explanation(
        b, call(b, "ExplainCall", "ssss", b->me, "org.hybridos.Log1", "Read", "method"));
    assert_string_equal(field(record, "verdict"), "allowed");
    assert_string_equal(field(record, "rule"), "me");
    json_decref(record);
    EXPECT(b, "InvalidArgument", "kind is one of", "ExplainCall", "ssss", b->me, "a.b", "C",
           "call");
    EXPECT(b, "InvalidArgument", "not a subject", "ExplainCall", "ssss", "x", "a.b", "C", "method");
    EXPECT(b, "NotFound", "no subject", "ExplainCall", "ssss", "user:x", "a.b", "C", "method");
    assert_null(fixture_record(b->f, "denied"));
}

static unsigned count_audit(Bus *b, const char *key, const char *type, const char *value,
                            uint32_t limit)
{
    Answer a = call(b, "ListAudit", "a{sv}u", 1, key, type, value, limit);
    unsigned n = 0;

    assert_string_equal(a.error, "");
    assert_true(sd_bus_message_enter_container(a.m, 'a', "a{sv}") > 0);
    while (!sd_bus_message_at_end(a.m, false)) {
        json_t *record = json_object();

        read_record(a.m, record);
        if (!streq(key, "since"))
            assert_string_equal(field(record, key), value);
        json_decref(record);
        n++;
    }
    answer_done(&a);
    return n;
}

static void test_audit_is_listed(void **state)
{
    const Question q = {.permission = "log.read", .interface = "a.b", .member = "C", .kind = 'm'};
    Bus *b = *state;
    const AuditRecord *r;
    Verdict v;

    for (unsigned i = 0; i < 30; i++)
        assert_int_equal(
            security_refuse(b->f->security, &(Subject){.uid = 60990 + i % 3}, &q, &v, &r), 0);
    security_used(b->f->security, &fixture_root, "log.read", "logd", 7);
    assert_int_equal(count_audit(b, "verdict", "s", "denied", 1000), 30);
    assert_int_equal(count_audit(b, "verdict", "s", "allowed", 1000), 1);
    assert_int_equal(count_audit(b, "subject", "s", "uid:60991", 1000), 10);
    assert_int_equal(count_audit(b, "subject", "s", "uid:60991", 4), 4);
    assert_int_equal(count_audit(b, "subject", "s", "uid:1", 4), 0);
    EXPECT(b, "InvalidArgument", "limit", "ListAudit", "a{sv}u", 0, 0u);
    EXPECT(b, "InvalidArgument", "limit", "ListAudit", "a{sv}u", 0, 1001u);
    EXPECT(b, "InvalidArgument", "unknown filter", "ListAudit", "a{sv}u", 1, "colour", "s", "red",
           1u);
    EXPECT(b, "InvalidArgument", "wrong type", "ListAudit", "a{sv}u", 1, "subject", "u", 5u, 1u);
    EXPECT(b, "InvalidArgument", "wrong type", "ListAudit", "a{sv}u", 1, "since", "s", "now", 1u);
    Answer a = call(b, "ListAudit", "a{sv}u", 1, "since", "t", UINT64_MAX, 10u);
    assert_true(sd_bus_message_enter_container(a.m, 'a', "a{sv}") > 0);
    assert_true(sd_bus_message_at_end(a.m, false));
    answer_done(&a);
}

/* --- changes --------------------------------------------------------------------------------- */

static uint64_t grant(Bus *b, const char *id, const char *to, const char *permission)
{
    Answer a = call(b, "Grant", "ssss", id, to, permission, "");
    const char *rule;
    uint64_t generation;

    if (*a.error)
        fail_msg("%s: %s", a.error, a.text);
    assert_true(sd_bus_message_read(a.m, "st", &rule, &generation) > 0);
    assert_true(!*id || streq(rule, id));
    assert_int_equal(generation, security_generation(b->f->security));
    assert_non_null(policy_rule(b->f->security->policy, rule));
    answer_done(&a);
    return generation;
}

static void test_grant_and_revoke(void **state)
{
    Bus *b = *state;
    uint64_t before = security_generation(b->f->security), generation;
    Answer a;

    assert_int_equal(grant(b, "one", "uid:60991", "log.read"), before + 1);
    assert_int_equal(grant(b, "", "uid:60991 user:alice", "a.b c.*"), before + 2);
    assert_true(fixture_allows(b->f, fixture_uid(60991), "log.read"));
    assert_true(b->invalidated >= 2);
    a = call(b, "Revoke", "s", "one");
    assert_string_equal(a.error, "");
    assert_true(sd_bus_message_read(a.m, "t", &generation) > 0);
    assert_int_equal(generation, before + 3);
    answer_done(&a);
    assert_false(fixture_allows(b->f, fixture_uid(60991), "log.read"));
    EXPECT(b, "NotFound", "No such rule", "Revoke", "s", "one");
    EXPECT(b, "NotFound", "No such rule", "Revoke", "s", "");
    EXPECT(b, "NotSupported", "60-site.policy:1", "Revoke", "s", "me");
    assert_true(fixture_allows(b->f, fixture_uid(geteuid()), "log.read"));
}

static const char pump[] =
    "<node><interface name=\"com.example.Pump1\"><annotation name=\"org.hybridos.Destination\" "
    "value=\"com.example.Pump1\"/><method name=\"Start\"><annotation "
    "name=\"org.hybridos.Permission\" value=\"pump.start\"/></method></interface></node>";

/* The bus is asked about rules that it can obey, and left alone otherwise. */
static void test_the_bus_is_asked_when_it_is_concerned(void **state)
{
    Bus *b = *state;

    fixture_write(b->f->settings.vendor_interfaces[0], "com.example.Pump1.xml", pump);
    OK(b, "Reload", "");
    assert_int_equal(b->bus_policy.updates, 1);
    (void)grant(b, "log", "uid:60991", "log.read pump.stop a.*");
    assert_true(fixture_allows(b->f, fixture_uid(60991), "log.read"));
    OK(b, "Revoke", "s", "log");
    assert_false(fixture_allows(b->f, fixture_uid(60991), "log.read"));
    assert_int_equal(b->bus_policy.updates, 1);
    (void)grant(b, "pump", "uid:60991", "log.read pump.*");
    assert_int_equal(b->bus_policy.updates, 2);
    assert_true(fixture_allows(b->f, fixture_uid(60991), "pump.start"));
    OK(b, "Revoke", "s", "pump");
    assert_int_equal(b->bus_policy.updates, 3);
    assert_false(fixture_allows(b->f, fixture_uid(60991), "pump.start"));
    OK(b, "Reload", ""); /* nothing has changed, but users may have */
    assert_int_equal(b->bus_policy.updates, 4);
}

static void test_nobody_grants_what_they_do_not_hold(void **state)
{
    Bus *b = *state;
    uint64_t before = security_generation(b->f->security);

    EXPECT(b, "AccessDenied", "do not hold reboot.now", "Grant", "ssss", "x", "uid:60991",
           "reboot.now", "");
    EXPECT(b, "AccessDenied", "do not hold *", "Grant", "ssss", "x", "uid:60991", "*", "");
    EXPECT(b, "AccessDenied", "do not hold reboot.*", "Grant", "ssss", "x", "uid:60991",
           "log.read reboot.*", "");
    EXPECT(b, "Exists", "taken", "Grant", "ssss", "me", "uid:60991", "log.read", "");
    EXPECT(b, "InvalidArgument", "", "Grant", "ssss", "A b", "uid:60991", "log.read", "");
    EXPECT(b, "InvalidArgument", "not a subject", "Grant", "ssss", "x", "everybody", "log.read",
           "");
    EXPECT(b, "InvalidArgument", "not a permission", "Grant", "ssss", "x", "uid:1", "log..", "");
    EXPECT(b, "InvalidArgument", "not a condition", "Grant", "ssss", "x", "uid:1", "log.read", "x");
    EXPECT(b, "InvalidArgument", "never holds", "Grant", "ssss", "x", "uid:65534", "log.read", "");
    assert_int_equal(security_generation(b->f->security), before);
    assert_null(policy_rule(b->f->security->policy, "x"));
    assert_false(fixture_has(b->f->settings.grant_directory, "70-granted-x.policy"));
}

static void with_full_disk(bool full)
{
    const struct rlimit none = {RLIM_INFINITY, RLIM_INFINITY}, little = {20, RLIM_INFINITY};

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, full ? &little : &none), 0);
}

static void test_a_failed_grant_leaves_nothing(void **state)
{
    Bus *b = *state;
    Answer a;

    with_full_disk(true);
    a = call(b, "Grant", "ssss", "x", "uid:60991", "log.read", "");
    with_full_disk(false);
    assert_string_not_equal(a.error, "");
    answer_done(&a);
    assert_null(policy_rule(b->f->security->policy, "x"));
    assert_false(fixture_has(b->f->settings.grant_directory, "70-granted-x.policy"));
    OK(b, "Reload", "");
    assert_false(fixture_allows(b->f, fixture_uid(60991), "log.read"));
    (void)grant(b, "x", "uid:60991", "log.read");
}

static void test_a_failed_revoke_is_told_and_stays(void **state)
{
    Bus *b = *state;

    (void)grant(b, "x", "uid:60991", "log.read");
    with_full_disk(true);
    expect_error(b, call(b, "Revoke", "s", "x"), "Internal", "revoked, but");
    with_full_disk(false);
    assert_false(fixture_allows(b->f, fixture_uid(60991), "log.read"));
    EXPECT(b, "NotFound", "No such rule", "Revoke", "s", "x");
}

static void test_reload(void **state)
{
    Bus *b = *state;
    const char *text;
    sd_bus_message *m;

    fixture_write(b->f->policy_directories[0], "90-bad.policy",
                  "[grant bad]\nTo = uid:1\nPermission = a..b\n");
    EXPECT(b, "InvalidArgument", "90-bad.policy:3:14: ", "Reload", "");
    m = property(b, "PolicyError", "s");
    assert_true(sd_bus_message_read(m, "s", &text) > 0);
    assert_non_null(strstr(text, "90-bad.policy:3:14: "));
    sd_bus_message_unref(m);
    assert_true(fixture_allows(b->f, fixture_uid(geteuid()), "log.read"));
    fixture_remove(b->f->policy_directories[0], "90-bad.policy");
    OK(b, "Reload", "");
    m = property(b, "PolicyError", "s");
    assert_true(sd_bus_message_read(m, "s", &text) > 0);
    assert_string_equal(text, "");
    sd_bus_message_unref(m);
    assert_string_equal(fixture_record(b->f, "changed")->call, "Reload");
}

static void test_users_and_tokens(void **state)
{
    Bus *b = *state;
    hybus_config_error e = {0};
    const char *name, *principal;
    uint64_t created, expires, used;
    char *secret;
    const char *roles[2];
    Session *session;
    int has_password;
    Answer a;

    OK(b, "AddUser", "s", "alice");
    OK(b, "AddUser", "s", "bob");
    EXPECT(b, "Exists", "", "AddUser", "s", "alice");
    EXPECT(b, "InvalidArgument", "", "AddUser", "s", "Not A Name");
    EXPECT(b, "NotFound", "", "RemoveSession", "t", UINT64_C(7));
    assert_int_equal(sessions_add(&b->f->security->sessions,
                                  &(Session){.user = (char *)"bob", .protocol = (char *)"http"},
                                  &session),
                     0);
    a = call(b, "ListSessions", "");
    assert_true(sd_bus_message_enter_container(a.m, 'a', "(tssstt)") > 0);
    assert_true(sd_bus_message_at_end(a.m, false) == 0);
    answer_done(&a);
    OK(b, "RemoveSession", "t", session->id);
    assert_int_equal(b->f->security->sessions.n, 0);
    EXPECT(b, "NotFound", "", "SetUserRoles", "sas", "carol", 1, "operator");
    EXPECT(b, "InvalidArgument", "", "SetUserRoles", "sas", "bob", 1, "Not A Role");
    OK(b, "SetUserRoles", "sas", "bob", 2, "operator", "reader");
    assert_int_equal(security_set_password(b->f->security, &fixture_root, "bob", "$y$j75$x", &e),
                     1);
    a = call(b, "ListUsers", "");
    assert_true(sd_bus_message_enter_container(a.m, 'a', "(stasb)") > 0);
    assert_true(sd_bus_message_read(a.m, "(stasb)", &name, &created, 0, &has_password) > 0);
    assert_string_equal(name, "alice");
    assert_true(created > 0);
    assert_false(has_password);
    assert_true(sd_bus_message_read(a.m, "(stasb)", &name, &created, 2, &roles[0], &roles[1],
                                    &has_password) > 0);
    assert_string_equal(name, "bob");
    assert_string_equal(roles[0], "operator");
    assert_string_equal(roles[1], "reader");
    assert_true(has_password);
    assert_true(sd_bus_message_at_end(a.m, false));
    answer_done(&a);
    assert_int_equal(security_add_token(b->f->security, &fixture_root, "ci", "user:alice", NULL,
                                        UINT64_C(3600000000), &secret, &e),
                     0);
    free(secret);
    assert_int_equal(
        security_add_token(b->f->security, &fixture_root, "own", NULL, NULL, 0, &secret, &e), 0);
    free(secret);
    a = call(b, "ListTokens", "");
    assert_true(sd_bus_message_enter_container(a.m, 'a', "(ssttt)") > 0);
    assert_true(sd_bus_message_read(a.m, "(ssttt)", &name, &principal, &created, &expires, &used) >
                0);
    assert_string_equal(name, "ci");
    assert_string_equal(principal, "user:alice");
    assert_int_equal(expires, created + UINT64_C(3600000000));
    assert_int_equal(used, 0);
    assert_true(sd_bus_message_read(a.m, "(ssttt)", &name, &principal, &created, &expires, &used) >
                0);
    assert_string_equal(principal, "token:own");
    assert_true(sd_bus_message_at_end(a.m, false));
    answer_done(&a);
    OK(b, "RemoveToken", "s", "own");
    EXPECT(b, "NotFound", "", "RemoveToken", "s", "own");
    OK(b, "RemoveUser", "s", "alice");
    EXPECT(b, "NotFound", "", "RemoveUser", "s", "alice");
    EXPECT(b, "NotFound", "", "RemoveToken", "s", "ci");
    with_full_disk(true);
    expect_error(b, call(b, "AddUser", "s", "carol"), "Internal", "Not added");
    expect_error(b, call(b, "RemoveUser", "s", "bob"), "Internal", "may be back");
    with_full_disk(false);
    assert_int_equal(b->f->security->store->n_users, 0);
}

/* --- properties ------------------------------------------------------------------------------ */

static void test_what_is_done_to_apps_is_noted(void **state)
{
    Bus *b = *state;

    OK(b, "NoteApp", "ssu", "install", "thermo", 70000u);
    assert_string_equal(fixture_record(b->f, "changed")->call, "app-install");
    assert_string_equal(fixture_record(b->f, "changed")->reason, "thermo uid:70000");
    OK(b, "NoteApp", "ssu", "removed", "thermo", 70000u);
    assert_string_equal(fixture_record(b->f, "changed")->call, "app-removed");
    EXPECT(b, "InvalidArgument", "no act", "NoteApp", "ssu", "eat", "thermo", 70000u);
    EXPECT(b, "InvalidArgument", "no name", "NoteApp", "ssu", "install", "a b", 70000u);
    EXPECT(b, "InvalidArgument", "no name", "NoteApp", "ssu", "install", "", 70000u);
    EXPECT(b, "InvalidArgument", "no uid", "NoteApp", "ssu", "install", "thermo", 0u);
    EXPECT(b, "InvalidArgument", "no uid", "NoteApp", "ssu", "install", "thermo", 65534u);
}

static void test_properties(void **state)
{
    Bus *b = *state;
    uint64_t number;
    char **list = NULL;
    const char *key;
    sd_bus_message *m;
    unsigned n = 0;
    int claimed;

    m = property(b, "Generation", "t");
    assert_true(sd_bus_message_read(m, "t", &number) > 0);
    assert_int_equal(number, security_generation(b->f->security));
    sd_bus_message_unref(m);
    m = property(b, "Claimed", "b");
    assert_true(sd_bus_message_read(m, "b", &claimed) > 0);
    assert_false(claimed);
    sd_bus_message_unref(m);
    fixture_write(b->f->policy_directories[0], "90-development.policy",
                  "[grant open]\nTo = anonymous\nPermission = a.b\n");
    OK(b, "Reload", "");
    m = property(b, "Development", "as");
    assert_true(sd_bus_message_read_strv(m, &list) > 0);
    assert_string_equal(list[0], "90-development.policy");
    assert_null(list[1]);
    for (char **p = list; *p; p++)
        free(*p);
    free(list);
    sd_bus_message_unref(m);
    m = property(b, "Statistics", "a{st}");
    assert_true(sd_bus_message_enter_container(m, 'a', "{st}") > 0);
    while (sd_bus_message_read(m, "{st}", &key, &number) > 0) {
        n++;
        if (streq(key, "rules"))
            assert_int_equal(number, 4);
    }
    assert_int_equal(n, 9);
    sd_bus_message_unref(m);
}

/* --- peers of the private socket ------------------------------------------------------------- */

static int connect_peer(Bus *b)
{
    static const char hello[] = "{\"id\":1,\"op\":\"hello\",\"version\":1,\"service\":\"logd\"}";
    static const char row[] = "{\"id\":2,\"op\":\"row\",\"uid\":1}";
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    char buffer[65536];

    strcpy(address.sun_path, b->path);
    assert_int_equal(connect(fd, (struct sockaddr *)&address, sizeof address), 0);
    assert_true(send(fd, hello, sizeof hello - 1, 0) > 0);
    assert_true(send(fd, row, sizeof row - 1, 0) > 0);
    for (unsigned i = 0; i < 2;)
        if (recv(fd, buffer, sizeof buffer, 0) > 0)
            i++;
        else
            turn(b);
    return fd;
}

static void settle(Bus *b, int fd, uint64_t generation)
{
    char note[64];
    int n = snprintf(note, sizeof note, "{\"op\":\"settled\",\"generation\":%llu}",
                     (unsigned long long)generation);

    assert_true(send(fd, note, (size_t)n, 0) > 0);
}

/* "changed" has come over the private socket. */
static void wait_changed(Bus *b, int fd)
{
    char buffer[65536];

    while (recv(fd, buffer, sizeof buffer, 0) <= 0)
        turn(b);
}

static void test_the_answer_waits_until_all_have_settled(void **state)
{
    static const char *const methods[] = {"Revoke", "RemoveToken", "RemoveUser"};
    Bus *b = *state;
    hybus_config_error e = {0};
    char *secret;
    Answer a;
    int fd;

    (void)grant(b, "x", "uid:60991", "log.read");
    OK(b, "AddUser", "s", "x");
    assert_int_equal(
        security_add_token(b->f->security, &fixture_root, "x", NULL, NULL, 0, &secret, &e), 0);
    free(secret);
    fd = connect_peer(b);
    for (size_t i = 0; i < ELEMENTS(methods); i++) {
        begin(b, &a, methods[i], "s", "x");
        wait_changed(b, fd);
        for (unsigned k = 0; k < 20; k++)
            assert_true(sd_event_run(b->event, 1000) >= 0);
        assert_false(a.done);
        settle(b, fd, hybus_page_writer_generation(b->f->security->page));
        while (!a.done)
            turn(b);
        assert_string_equal(a.error, "");
        answer_done(&a);
    }
    close(fd);
}

static void test_too_many_changes_at_once(void **state)
{
    static Answer answers[SECURITY_BUS_CALLS_MAX + 8];
    Bus *b = *state;
    sd_bus *clients[3];       /* the bus allows one of them 128 calls at a time */
    int fd = connect_peer(b); /* settles nothing, and is cut off after two seconds */
    unsigned refused = 0;

    for (size_t i = 0; i < ELEMENTS(clients); i++)
        clients[i] = private_bus_connect(b->process, b->event);
    for (unsigned i = 0; i < ELEMENTS(answers); i++) {
        char name[16];

        snprintf(name, sizeof name, "u%u", i);
        assert_true(sd_bus_call_method_async(clients[i % 3], NULL, NAME, PATH, NAME, "Grant",
                                             on_answer, &answers[i], "ssss", name, "uid:60991",
                                             "log.read", "") >= 0);
    }
    for (unsigned i = 0; i < ELEMENTS(answers); i++) {
        while (!answers[i].done)
            turn(b);
        if (*answers[i].error) {
            assert_string_equal(answers[i].error, HYBUS_ERROR_LIMIT_EXCEEDED);
            refused++;
        }
        answer_done(&answers[i]);
    }
    assert_int_equal(refused, 8);
    assert_int_equal(policy_rules(b->f->security->policy, NULL), 3 + SECURITY_BUS_CALLS_MAX);
    (void)grant(b, "one-more", "uid:60991", "log.read");
    for (size_t i = 0; i < ELEMENTS(clients); i++)
        sd_bus_close_unref(clients[i]);
    close(fd);
}

/* Its identity can no longer be had: nothing is changed for it. */
static void test_a_caller_that_has_gone_changes_nothing(void **state)
{
    Bus *b = *state;
    sd_bus *other = private_bus_connect(b->process, NULL);
    sd_bus *witness = private_bus_connect(b->process, NULL);
    const char *name;
    char kept[64];
    Answer unused = {0};

    assert_true(sd_bus_get_unique_name(other, &name) >= 0);
    snprintf(kept, sizeof kept, "%s", name);
    assert_true(sd_bus_call_method_async(other, NULL, NAME, PATH, NAME, "Grant", on_answer, &unused,
                                         "ssss", "x", "uid:60991", "log.read", "") >= 0);
    assert_true(sd_bus_flush(other) >= 0);
    sd_bus_close_unref(other);
    for (int owned = true; owned;) {
        sd_bus_message *reply = NULL;

        assert_true(sd_bus_call_method(witness, "org.freedesktop.DBus", "/org/freedesktop/DBus",
                                       "org.freedesktop.DBus", "NameHasOwner", NULL, &reply, "s",
                                       kept) >= 0);
        assert_true(sd_bus_message_read(reply, "b", &owned) > 0);
        sd_bus_message_unref(reply);
    }
    sd_bus_close_unref(witness);
    OK(b, "ListRules", "");
    OK(b, "AddUser", "s",
       "after"); /* asked for later, so the answer about the other one is there */
    assert_null(policy_rule(b->f->security->policy, "x"));
}

/* What is done over the private socket is announced as well. */
static void test_setup_is_announced(void **state)
{
    static const char question[] = "{\"id\":3,\"op\":\"setup\",\"user\":\"admin\"}";
    Bus *b = *state;
    unsigned before;
    int fd;

    if (geteuid() != 0)
        skip();
    OK(b, "ListUsers", "");
    fd = connect_peer(b);
    before = b->invalidated;
    assert_true(send(fd, question, sizeof question - 1, 0) > 0);
    while (b->invalidated == before)
        turn(b);
    assert_true(b->f->security->store->claimed);
    close(fd);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_check),
        T(test_check_of_others_needs_explain),
        T(test_rules_are_listed),
        T(test_explain),
        T(test_explain_call),
        T(test_audit_is_listed),
        cmocka_unit_test_setup_teardown(test_the_bus_is_asked_when_it_is_concerned, set_up_with_bus,
                                        tear_down),
        T(test_grant_and_revoke),
        T(test_nobody_grants_what_they_do_not_hold),
        T(test_a_failed_grant_leaves_nothing),
        T(test_a_failed_revoke_is_told_and_stays),
        T(test_reload),
        T(test_users_and_tokens),
        T(test_what_is_done_to_apps_is_noted),
        T(test_properties),
        T(test_the_answer_waits_until_all_have_settled),
        T(test_too_many_changes_at_once),
        T(test_a_caller_that_has_gone_changes_nothing),
        T(test_setup_is_announced),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
