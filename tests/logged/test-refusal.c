/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "log-record.h"
#include "log-refusal.h"

#define COMMAND "busctl call org.freedesktop.hostname1 /org/freedes"
#define START                                                                                      \
    "[system] Rejected send message, 1 matched rules; type=\"method_call\", sender=\":1.7\" "      \
    "(uid=60604 pid=59 "
#define END                                                                                        \
    ") interface=\"org.freedesktop.hostname1\" member=\"Describe\" error name=\"(unset)\" "        \
    "requested_reply=\"0\" "                                                                       \
    "destination=\"org.freedesktop.hostname1\" (bus)"

static char text[2048];

/* "TYPE RECEIVE|uid|sender|destination|interface|member|path" */
static const char *write_down(const log_refusal *r)
{
    sprintf(text, "%c%d|%d|%s|%s|%s|%s|%s", r->type, r->receive, (int)r->uid, r->sender,
            r->destination, r->interface, r->member, r->path);
    return text;
}

static const char *parse(const char *line)
{
    log_refusal r;

    return log_refusal_of_daemon(line, strlen(line), &r) ? write_down(&r) : "nothing";
}

#define HOSTNAME "m0|60604|:1.7|org.freedesktop.hostname1|org.freedesktop.hostname1|Describe|"

static void test_lines_of_dbus_daemon(void **state)
{
    assert_string_equal(parse(START "comm=\"" COMMAND "\"" END), HOSTNAME);
    assert_string_equal(parse(START "comm=\"x\" label=\"unconfined\"" END), HOSTNAME);
    assert_string_equal(parse(START END), HOSTNAME);
    assert_string_equal(
        parse(
            "[system] Rejected receive message, 2 matched rules; type=\"method_call\", "
            "sender=\":1.10\" (uid=0 "
            "pid=62 comm=\"busctl\") interface=\"org.hybridos.Responder1\" member=\"Handle\" error "
            "name=\"(unset)\" requested_reply=\"0\" destination=\"org.hybridos.Log1\" (uid=60605 "
            "pid=38 "
            "comm=\"/usr/sbin/h-logged\")"),
        "m1|0|:1.10|org.hybridos.Log1|org.hybridos.Responder1|Handle|");
    assert_string_equal(parse("[system] Rejected send message, 3 matched rules; type=\"error\", "
                              "sender=\"(inactive)\" (uid=5 pid=6 "
                              "comm=\"x\") interface=\"(unset)\" member=\"(unset)\" error "
                              "name=\"a.b.C\" requested_reply=\"0\" "
                              "destination=\":1.4\" (bus)"),
                        "r0|5||:1.4|||");
}

/* Whoever is refused chooses their command line, and it is quoted as it is. */
static void test_a_command_line_cannot_pass_for_the_rest(void **state)
{
    assert_string_equal(
        parse(START "comm=\"x\") interface=\"a.B\" member=\"C\" error name=\"d\"" END), HOSTNAME);
    assert_string_equal(parse(START "comm=\") interface=\"a.B"
                                    "\"" END),
                        HOSTNAME);
    assert_string_equal(parse(START "comm=\"(uid=0 pid=1 comm=\""
                                    "\"" END),
                        HOSTNAME);
    assert_string_equal(parse(START "comm=\"\" sender=\":1.1\" (uid=0 "
                                    "\"" END),
                        HOSTNAME);
}

static void test_what_is_none(void **state)
{
    static const char whole[] = START "comm=\"x\"" END;
    char line[sizeof(whole)];
    static char longer[LOG_REFUSAL_LINE_MAX + 2];

    assert_string_equal(parse(""), "nothing");
    assert_string_equal(parse("[system] Activating via systemd: service name='a.b'"), "nothing");
    assert_string_equal(parse("x" START END), "nothing");
    assert_string_equal(
        parse("[system] Rejected sent message, 1 matched rules; type=\"method_call\""), "nothing");
    assert_string_equal(parse(START "comm=\"x\") interface=\"a b\" member=\"C\" error name=\"d\" "
                                    "requested_reply=\"0\" destination=\"e\" (bus)"),
                        "nothing");
    /* Cut before its end, it is none. */
    for (size_t n = 0; n < sizeof(whole) - sizeof("\" (bus)"); n++) {
        memcpy(line, whole, n);
        line[n] = '\0';
        assert_string_equal(parse(line), "nothing");
    }
    memset(longer, 'x', sizeof(longer) - 1);
    memcpy(longer, whole, sizeof(whole) - 1);
    assert_string_equal(parse(longer), "nothing");
    longer[LOG_REFUSAL_LINE_MAX] = '\0';
    assert_string_equal(parse(longer), HOSTNAME);
}

static void test_fields_of_dbus_broker(void **state)
{
    const char *values[LOG_BROKER_FIELDS] = {
        [LOG_BROKER_ACTION] = "send",
        [LOG_BROKER_TYPE] = "method_call",
        [LOG_BROKER_SENDER] = ":1.8",
        [LOG_BROKER_DESTINATION] = "org.freedesktop.hostname1",
        [LOG_BROKER_INTERFACE] = "org.freedesktop.DBus.Properties",
        [LOG_BROKER_MEMBER] = "Get",
        [LOG_BROKER_PATH] = "/org/freedesktop/hostname1",
    };
    char path[600];
    log_refusal r;

    assert_true(log_refusal_of_broker(values, &r));
    assert_string_equal(write_down(&r),
                        "m0|-1|:1.8|org.freedesktop.hostname1|org.freedesktop.DBus.Properties|Get|"
                        "/org/freedesktop/hostname1");
    values[LOG_BROKER_ACTION] = "receive";
    values[LOG_BROKER_TYPE] = "signal";
    values[LOG_BROKER_MEMBER] = values[LOG_BROKER_INTERFACE] = NULL;
    memset(path, '/', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    values[LOG_BROKER_PATH] = path;
    assert_true(log_refusal_of_broker(values, &r));
    assert_true(r.receive && r.type == 'e' && strlen(r.path) == LOG_REFUSAL_NAME_MAX);
    assert_string_equal(r.member, "");
    values[LOG_BROKER_PATH] = "/\xff";
    assert_false(log_refusal_of_broker(values, &r));
    values[LOG_BROKER_PATH] = NULL;
    values[LOG_BROKER_SENDER] = path;
    assert_false(log_refusal_of_broker(values, &r));
    values[LOG_BROKER_SENDER] = NULL;
    assert_true(log_refusal_of_broker(values, &r));
    values[LOG_BROKER_ACTION] = "own";
    assert_false(log_refusal_of_broker(values, &r));
    values[LOG_BROKER_ACTION] = NULL;
    assert_false(log_refusal_of_broker(values, &r));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines_of_dbus_daemon),
        cmocka_unit_test(test_a_command_line_cannot_pass_for_the_rest),
        cmocka_unit_test(test_what_is_none),
        cmocka_unit_test(test_fields_of_dbus_broker),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
