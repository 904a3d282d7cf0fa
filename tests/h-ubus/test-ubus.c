/* SPDX-License-Identifier: Apache-2.0 */
/* h-ubus as its users run it, on a bus of our own with a service that is partly hostile. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <fcntl.h>
#include <libgen.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "hybus/error.h"
#include "hybus/json.h"

static const char *program, *interfaces;
static char directory[] = "/tmp/h-ubus-test.XXXXXX", address[256];
static pid_t bus_pid, service_pid;

/* ---- the service, in a process of its own ---- */

static uint32_t level = 7;

static int method_add(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    uint8_t a;
    uint32_t b;
    int r = sd_bus_message_read(m, "yu", &a, &b);

    return r < 0
               ? r
               : sd_bus_reply_method_return(m, "t", b == UINT32_MAX ? UINT64_MAX : (uint64_t)a + b);
}

static int method_fail(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *name;
    int r = sd_bus_message_read(m, "s", &name);

    return r < 0 ? r : sd_bus_error_set(error, name, "told\x1b[31m to\xc2\x9b fail");
}

static int method_hang(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return 1; /* never answers */
}

static int method_echo(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    sd_bus_message *reply = NULL;
    int r = sd_bus_message_new_method_return(m, &reply);

    if (r >= 0)
        r = sd_bus_message_copy(reply, m, true);
    if (r >= 0)
        r = sd_bus_send(NULL, reply, NULL);
    sd_bus_message_unref(reply);
    return r < 0 ? r : 1;
}

static int set_level(sd_bus *bus, const char *path, const char *interface, const char *property,
                     sd_bus_message *value, void *userdata, sd_bus_error *error)
{
    int r = sd_bus_message_read(value, "u", &level);

    return r < 0 ? r : sd_bus_emit_properties_changed(bus, path, interface, property, NULL);
}

static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD_WITH_ARGS("Add", SD_BUS_ARGS("y", a, "u", b), SD_BUS_RESULT("t", sum), method_add,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Fail", SD_BUS_ARGS("s", error), SD_BUS_NO_RESULT, method_fail,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("Hang", "", "", method_hang, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("Echo", "a{sv}ayx", "a{sv}ayx", method_echo, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_WRITABLE_PROPERTY("Level", "u", NULL, set_level, 0,
                             SD_BUS_VTABLE_PROPERTY_EMITS_CHANGE | SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_SIGNAL_WITH_ARGS("Changed", SD_BUS_ARGS("s", what, "v", value), 0),
    SD_BUS_VTABLE_END,
};

static char *responder;

static int method_register(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *name, *object;

    if (sd_bus_message_read(m, "so", &name, &object) < 0)
        return -EINVAL;
    if (streq(name, "/taken"))
        return sd_bus_error_set(error, "org.hybridos.Error.AccessDenied", "not yours");
    free(responder);
    responder = strdup(sd_bus_message_get_sender(m));
    return sd_bus_reply_method_return(m, "s", "key");
}

static int method_responder(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return sd_bus_reply_method_return(m, "s", strempty(responder));
}

static const sd_bus_vtable registrar[] = {
    SD_BUS_VTABLE_START(SD_BUS_VTABLE_HIDDEN),
    SD_BUS_METHOD("Register", "soa{sv}", "s", method_register, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("Responder", "", "s", method_responder, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

static const sd_bus_vtable other[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Only", "", "s", method_hang, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("Hang", "", "", method_hang, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

/* What its interface file calls a secret is "squeamish" everywhere. */
static int method_open(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    sd_bus_message *reply = NULL;
    int r = sd_bus_message_new_method_return(m, &reply);

    if (r >= 0)
        r = sd_bus_message_append_array(reply, 'y', "squeamish", 9);
    if (r >= 0)
        r = sd_bus_message_append(reply, "t", UINT64_C(77));
    if (r >= 0)
        r = sd_bus_send(NULL, reply, NULL);
    sd_bus_message_unref(reply);
    return r;
}

static int vault_property(sd_bus *bus, const char *path, const char *interface, const char *name,
                          sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
    return sd_bus_message_append(reply, "s", streq(name, "Code") ? "squeamish" : "public");
}

static int set_code(sd_bus *bus, const char *path, const char *interface, const char *property,
                    sd_bus_message *value, void *userdata, sd_bus_error *error)
{
    const char *code;
    int r = sd_bus_message_read(value, "s", &code);

    if (r < 0)
        return r;
    return sd_bus_emit_signal(bus, path, "org.freedesktop.DBus.Properties", "PropertiesChanged",
                              "sa{sv}as", interface, 2, "Code", "s", "squeamish", "Label", "s",
                              "public", 0);
}

static const sd_bus_vtable vault[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Open", "ss", "ayt", method_open, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_WRITABLE_PROPERTY("Code", "s", vault_property, set_code, 0, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_PROPERTY("Label", "s", vault_property, 0, 0),
    SD_BUS_VTABLE_END,
};

/* Says what it likes of itself. */
static int hostile(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *path = sd_bus_message_get_path(m);

    if (!sd_bus_message_is_method_call(m, "org.freedesktop.DBus.Introspectable", "Introspect") ||
        !path || !strstr(path, "hostile"))
        return 0;
    return sd_bus_reply_method_return(
        m, "s",
        streq(path, "/hostile/entity")
            ? "<!DOCTYPE node [<!ENTITY a 'aaaa'>]><node/>"
            : "<node><interface name='a.B'><method name='M'><arg name='&#x9b;31mx&#x202e;' "
              "type='s'/>"
              "</method></interface><node name='..'/><node name='entity'/></node>");
}

static int serve(int ready)
{
    sd_bus *bus = NULL;
    int r = sd_bus_new(&bus);

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (r >= 0)
        r = sd_bus_set_address(bus, address);
    if (r >= 0)
        r = sd_bus_set_bus_client(bus, true);
    if (r >= 0)
        r = sd_bus_start(bus);
    if (r >= 0)
        r = sd_bus_add_object_vtable(bus, NULL, "/org/example/Test1", "org.example.Test1", vtable,
                                     &level);
    if (r >= 0)
        r = sd_bus_add_object_vtable(bus, NULL, "/other", "org.example.Other1", other, NULL);
    if (r >= 0)
        r = sd_bus_add_object_vtable(bus, NULL, "/org/hybridos/Endpoints1",
                                     "org.hybridos.Endpoints1", registrar, NULL);
    if (r >= 0)
        r = sd_bus_add_object_vtable(bus, NULL, "/vault/one", "org.example.Vault1", vault, NULL);
    if (r >= 0)
        r = sd_bus_add_object_manager(bus, NULL, "/vault");
    if (r >= 0)
        r = sd_bus_request_name(bus, "org.hybridos.Endpoints1", 0);
    if (r >= 0)
        r = sd_bus_add_filter(bus, NULL, hostile, NULL);
    if (r >= 0)
        r = sd_bus_request_name(bus, "org.example.Test1", 0);
    if (r < 0 || write(ready, "r", 1) != 1)
        return 1;
    while ((r = sd_bus_process(bus, NULL)) >= 0)
        (void)sd_bus_wait(bus, UINT64_MAX);
    fprintf(stderr, "the service ends: %s\n", strerror(-r));
    return 0;
}

static int start(void **state)
{
    char config[300], text[1] = {};
    int fds[2];
    FILE *f;

    assert_non_null(mkdtemp(directory));
    snprintf(config, sizeof config, "%s/bus.conf", directory);
    f = fopen(config, "w");
    fprintf(
        f,
        "<busconfig><type>session</type><listen>unix:path=%s/bus</listen>"
        "<policy context='default'><allow user='*'/><allow own='*'/><allow send_destination='*'/>"
        "<allow eavesdrop='true'/></policy></busconfig>",
        directory);
    fclose(f);
    snprintf(address, sizeof address, "unix:path=%s/bus", directory);

    assert_int_equal(pipe(fds), 0);
    bus_pid = fork();
    if (bus_pid == 0) {
        char argument[330], print[32];

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        snprintf(argument, sizeof argument, "--config-file=%s", config);
        snprintf(print, sizeof print, "--print-address=%d", fds[1]);
        execlp("dbus-daemon", "dbus-daemon", "--nofork", "--nopidfile", argument, print, NULL);
        _exit(127);
    }
    assert_int_equal(read(fds[0], text, 1), 1);
    service_pid = fork();
    if (service_pid == 0)
        _exit(serve(fds[1]));
    close(fds[1]);
    do
        assert_int_equal(read(fds[0], text, 1), 1);
    while (*text != 'r');
    close(fds[0]);
    return 0;
}

static int stop(void **state)
{
    char path[300];

    kill(service_pid, SIGKILL);
    kill(bus_pid, SIGTERM);
    waitpid(service_pid, NULL, 0);
    waitpid(bus_pid, NULL, 0);
    snprintf(path, sizeof path, "%s/bus.conf", directory);
    unlink(path);
    snprintf(path, sizeof path, "%s/bus", directory);
    unlink(path);
    rmdir(directory);
    return 0;
}

/* ---- running the command ---- */

typedef struct child {
    pid_t pid;
    int out, err;
    char output[65536], errors[65536];
    size_t n_output, n_errors;
} child;

static void child_exec(child *c, const char *const *argv)
{
    int out[2], err[2];

    assert_int_equal(pipe(out), 0);
    assert_int_equal(pipe(err), 0);
    memset(c, 0, sizeof *c);
    c->pid = fork();
    if (c->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(out[1], 1);
        dup2(err[1], 2);
        close(out[0]);
        close(err[0]);
        execvp(argv[0], (char **)argv);
        _exit(127);
    }
    close(out[1]);
    close(err[1]);
    c->out = out[0];
    c->err = err[0];
}

static void child_start(child *c, const char *const *args)
{
    const char *argv[24] = {program, "--address", address, "--interfaces", interfaces};
    size_t n = 5;

    while (*args)
        argv[n++] = *args++;
    child_exec(c, argv);
}

/* Reads until both ends are closed, or `wanted` stands in the output or errors. */
static void child_read(child *c, const char *wanted)
{
    while (c->out >= 0 || c->err >= 0) {
        struct pollfd p[2] = {{c->out, POLLIN, 0}, {c->err, POLLIN, 0}};

        if (wanted && (strstr(c->output, wanted) || strstr(c->errors, wanted)))
            return;
        assert_true(poll(p, 2, 60000) > 0);
        for (int i = 0; i < 2; i++) {
            int *fd = i ? &c->err : &c->out;
            char *buffer = i ? c->errors : c->output;
            size_t *n = i ? &c->n_errors : &c->n_output;
            ssize_t k;

            if (!p[i].revents)
                continue;
            k = read(*fd, buffer + *n, 65535 - *n);
            if (k > 0)
                *n += k;
            else {
                close(*fd);
                *fd = -1;
            }
        }
    }
}

static int child_end(child *c)
{
    int status;

    child_read(c, NULL);
    assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

#define ARGS(...) ((const char *const[]){__VA_ARGS__, NULL})

static child last;

static void expect(int code, const char *output, const char *errors, const char *const *args)
{
    int r;

    child_start(&last, args);
    r = child_end(&last);
    if (r != code || (output && !streq(last.output, output)) ||
        (errors && !strstr(last.errors, errors)))
        print_message("%s %s -> %d\n%s--\n%s\n", args[0], strempty(args[1]), r, last.output,
                      last.errors);
    assert_int_equal(r, code);
    if (output)
        assert_string_equal(last.output, output);
    if (errors)
        assert_non_null(strstr(last.errors, errors));
}

/* ---- the tests ---- */

static void test_harness(void **state)
{
    expect(0, "org.example.Test1\n", NULL, ARGS("list", "org.example.*"));
}

static void test_list(void **state)
{
    expect(0,
           "org.example.Test1 /other\norg.example.Test1 /vault/one\n"
           "org.example.Test1 /org/example/Test1\n",
           NULL, ARGS("list", "-o", "org.example.Test1"));
    expect(0,
           "org.example.Test1 /other\n"
           "  org.example.Other1\n"
           "    method Only() -> (s)\n"
           "    method Hang()\n"
           "org.example.Test1 /vault/one\n"
           "  org.example.Vault1\n"
           "    method Open(s, s) -> (ay, t)  [nobody]\n"
           "    property Code s readwrite  [nobody]\n"
           "    property Label s read  [nobody]\n"
           "org.example.Test1 /org/example/Test1\n"
           "  org.example.Test1 - Something to call\n"
           "    method Add(a y, b u) -> (sum t)  [test.add]\n"
           "        adds two numbers\n"
           "    method Fail(error s)  [nobody]\n"
           "    method Hang()  [nobody]\n"
           "    method Echo(a{sv}, ay, x) -> (a{sv}, ay, x)  [nobody]\n"
           "    property Level u readwrite  [test.read, write: test.write]\n"
           "        readable by some, writable by fewer\n"
           "    signal Changed(what s, value v)  [nobody]\n",
           NULL, ARGS("list", "-v", "org.example.Test1"));
    expect(3, "", "no name matches", ARGS("list", "org.nothing.*"));
    expect(3, "", "ServiceUnknown", ARGS("list", "-v", "org.nothing.Here"));
}

static void test_call(void **state)
{
    expect(0, "7\n", NULL, ARGS("call", "org.example.Test1", "Add", "[3, 4]"));
    expect(0, "7\n", NULL,
           ARGS("call", "org.example.Test1", "/org/example/Test1", "org.example.Test1.Add",
                "[\"3\", 4]"));
    expect(0, "\"18446744073709551615\"\n", NULL,
           ARGS("call", "org.example.Test1", "Add", "[0, 4294967295]"));
    expect(0, "7\n", NULL,
           ARGS("call", "-s", "yu", "org.example.Test1", "org.example.Test1.Add", "[3, 4]"));
    expect(
        0, "[{\"a\":{\"type\":\"as\",\"value\":[\"x\"]}},\"AAE=\",\"9007199254740993\"]\n", NULL,
        ARGS("call", "org.example.Test1", "Echo", "[{\"a\":[\"x\"]}, \"AAE=\", 9007199254740993]"));

    expect(2, "",
           "$[0]: 256 is out of range for y (0..255)\nExpected: Add(a y, b u) -> (sum t)\n"
           "Example:  h-ubus call org.example.Test1 /org/example/Test1 org.example.Test1.Add "
           "'[1, 1]'\n",
           ARGS("call", "org.example.Test1", "Add", "[256, 1]"));
    expect(2, "", "$: 2 values expected (yu), not 0", ARGS("call", "org.example.Test1", "Add"));
    expect(2, "", "not JSON", ARGS("call", "org.example.Test1", "Add", "[3,"));
    expect(2, "", "is not a bus name", ARGS("call", "nodot", "Add"));
    expect(2, "", "is not an object path", ARGS("call", "org.example.Test1", "/a/", "Add"));
    expect(2, "", "usage: h-ubus call", ARGS("call", "org.example.Test1"));
    expect(2, "", "one JSON list", ARGS("call", "org.example.Test1", "Add", "3", "4"));
    expect(2, "", "is not a verb", ARGS("cal", "x"));
    expect(2, "", "does not take -n", ARGS("call", "-n", "1", "org.example.Test1", "Add"));
    expect(2, "", "is not a number of seconds", ARGS("-t", "nan", "list"));
    expect(2, "", "is not a signature",
           ARGS("call", "-s", "a", "org.example.Test1", "org.example.Test1.Add"));
}

static void test_errors(void **state)
{
    expect(1, "", "told\\u001B[31m to\\u009B fail (org.example.Error.Own)",
           ARGS("call", "org.example.Test1", "Fail", "\"org.example.Error.Own\""));
    expect(4, "", NULL,
           ARGS("call", "org.example.Test1", "Fail", "\"org.hybridos.Error.AccessDenied\""));
    expect(3, "", NULL,
           ARGS("call", "org.example.Test1", "Fail", "\"org.hybridos.Error.NotFound\""));
    expect(3, "", "has no method Nothing", ARGS("call", "org.example.Test1", "Nothing"));
    expect(3, "", "has at /other no method Add",
           ARGS("call", "org.example.Test1", "/other", "Add"));
    expect(3, "", NULL, ARGS("call", "org.nothing.Here", "Nothing"));
    expect(5, "", NULL,
           ARGS("call", "-t", "0.3", "org.example.Test1", "/org/example/Test1", "Hang"));
    /* The last address given counts. */
    expect(6, "", "no connection", ARGS("--address", "unix:path=/nonexistent/bus", "list"));
}

static void test_properties(void **state)
{
    expect(0, "7\n", NULL, ARGS("get", "org.example.Test1", "Level"));
    expect(0, "", NULL, ARGS("set", "org.example.Test1", "Level", "8"));
    expect(0, "8\n", NULL, ARGS("get", "org.example.Test1", "org.example.Test1.Level"));
    expect(0, "{\"Level\":{\"type\":\"u\",\"value\":8}}\n", NULL,
           ARGS("get", "-a", "org.example.Test1", "org.example.Test1"));
    expect(2, "",
           "$: -1 is out of range for u (0..4294967295)\nExpected: Level u readwrite\n"
           "Example:  h-ubus set org.example.Test1 /org/example/Test1 org.example.Test1.Level "
           "'1'\n",
           ARGS("set", "org.example.Test1", "Level", "-1"));
    expect(3, "", "no property", ARGS("get", "org.example.Test1", "Nothing"));
}

static void test_hostile(void **state)
{
    expect(2, "", "M(\\u009B31mx\\u202E s)", ARGS("call", "org.example.Test1", "/hostile", "M"));
    expect(1, "", "internal DTD subset", ARGS("call", "org.example.Test1", "/hostile/entity", "M"));
}

static void test_signals(void **state)
{
    static child listener, subscriber;

    child_start(&listener, ARGS("listen", "-n", "1", "org.example.*"));
    child_read(&listener, "listening");
    child_start(&subscriber, ARGS("subscribe", "-n", "1", "org.example.Test1"));
    child_read(&subscriber, "listening");

    expect(2, "", "Expected: Changed(what s, value v)",
           ARGS("send", "/a", "org.example.Test1.Changed", "[1, 2]"));
    expect(2, "", "say --signature", ARGS("send", "/a", "a.B.C", "[1]"));
    expect(0, "", "", ARGS("send", "/a", "org.example.Test1.Changed", "[\"x\", 2]"));
    assert_int_equal(child_end(&listener), 0);
    assert_non_null(strstr(listener.output,
                           "\"path\":\"/a\",\"interface\":\"org.example.Test1\","
                           "\"member\":\"Changed\",\"signature\":\"sv\",\"args\":[\"x\","
                           "{\"type\":\"i\",\"value\":2}]}"));

    /* That one came from a stranger: who subscribes to a name does not see it, only this. */
    expect(0, "", NULL, ARGS("set", "org.example.Test1", "Level", "9"));
    assert_int_equal(child_end(&subscriber), 0);
    assert_null(strstr(subscriber.output, "\"/a\""));
    assert_non_null(strstr(subscriber.output, "PropertiesChanged"));
}

static void test_wait_for(void **state)
{
    expect(0, "", "", ARGS("wait_for", "org.example.Test1", "org.freedesktop.DBus"));
    expect(5, "", "org.nothing.Here has no owner",
           ARGS("-t", "0.1", "wait_for", "org.example.Test1", "org.nothing.Here"));
    expect(2, "", "well-known", ARGS("wait_for", ":1.1"));
}

static void test_monitor(void **state)
{
    static child monitor;

    child_start(&monitor, ARGS("monitor", "-n", "1", "type='method_call',member='Add'"));
    child_read(&monitor, "monitoring");
    expect(0, "7\n", NULL, ARGS("call", "org.example.Test1", "Add", "[3, 4]"));
    assert_int_equal(child_end(&monitor), 0);
    assert_non_null(strstr(monitor.output, "\"type\":\"call\""));
    assert_non_null(strstr(monitor.output, "\"args\":[3,4]"));
}

#define VAULT(member, signature, args)                                                             \
    ARGS("call", "-s", signature, "org.example.Test1", "/vault/one", member, args)
#define GET "org.freedesktop.DBus.Properties."

static void monitor_start(child *c, const char *rule)
{
    child_start(c, ARGS("monitor", "-n", "99", rule));
    child_read(c, "monitoring");
}

static void monitor_end(child *c, const char *wanted)
{
    child_read(c, wanted);
    if (!strstr(c->output, wanted))
        print_message("not seen: %s\n%s\n%s\n", wanted, c->output, c->errors);
    assert_non_null(strstr(c->output, wanted));
    kill(c->pid, SIGKILL);
    (void)waitpid(c->pid, NULL, 0);
    child_read(c, NULL);
}

static void saw(const child *c, const char *text)
{
    if (!strstr(c->output, text))
        print_message("not seen: %s\n%s\n", text, c->output);
    assert_non_null(strstr(c->output, text));
}

/* What the file calls a secret is a length, whichever way it goes over the bus. */
static void test_monitor_secrets(void **state)
{
    static child all, answers, signals;

    monitor_start(&all, "path_namespace='/vault'");
    expect(0, NULL, NULL, VAULT("org.example.Vault1.Open", "ss", "[\"me\", \"squeamish\"]"));
    expect(0, NULL, NULL, VAULT(GET "Get", "ss", "[\"org.example.Vault1\", \"Code\"]"));
    expect(0, NULL, NULL, VAULT(GET "GetAll", "s", "[\"org.example.Vault1\"]"));
    expect(0, NULL, NULL,
           VAULT(GET "Set", "ssv", "[\"org.example.Vault1\", \"Code\", \"squeamish\"]"));
    expect(0, NULL, NULL, ARGS("call", "org.example.Test1", "/vault", "GetManagedObjects"));
    expect(0, NULL, NULL,
           ARGS("send", "/vault", "org.example.Vault1.Changed", "[\"it\", \"squeamish\"]"));
    /* Not as the file says. */
    expect(1, NULL, NULL, VAULT("org.example.Vault1.Open", "sss", "[\"a\", \"b\", \"squeamish\"]"));
    expect(3, NULL, NULL, VAULT("org.example.Vault1.Opne", "s", "[\"squeamish\"]"));
    expect(0, NULL, NULL, ARGS("send", "-s", "", "/vault", "a.b.End", "[]"));
    monitor_end(&all, "\"End\"");
    saw(&all, "\"signature\":\"ss\",\"args\":[\"me\",{\"secret\":9}]");
    saw(&all, "\"signature\":\"ssv\",\"args\":[\"org.example.Vault1\",\"Code\",{\"secret\":9}]");
    saw(&all,
        "[\"org.example.Vault1\",{\"Code\":{\"secret\":9},\"Label\":{\"type\":\"s\",\"value\":"
        "\"public\"}},[]]");
    saw(&all, "\"args\":[\"it\",{\"secret\":9}]");
    saw(&all, "\"withheld\":\"it is not as the interface file says");
    assert_null(strstr(all.output, "squeamish"));

    /* Answers have no path: all there is. */
    child_start(&answers, ARGS("monitor", "-n", "9999"));
    child_read(&answers, "monitoring");
    expect(0, NULL, NULL, VAULT("org.example.Vault1.Open", "ss", "[\"me\", \"squeamish\"]"));
    expect(0, NULL, NULL, VAULT(GET "Get", "ss", "[\"org.example.Vault1\", \"Code\"]"));
    expect(0, NULL, NULL, VAULT(GET "Get", "ss", "[\"org.example.Vault1\", \"Label\"]"));
    expect(0, NULL, NULL, VAULT(GET "GetAll", "s", "[\"org.example.Vault1\"]"));
    expect(0, NULL, NULL, ARGS("call", "org.example.Test1", "/vault", "GetManagedObjects"));
    expect(0, NULL, NULL, ARGS("send", "-s", "", "/vault", "a.b.End", "[]"));
    monitor_end(&answers, "\"End\"");
    saw(&answers, "\"signature\":\"ayt\",\"args\":[{\"secret\":9},77]");
    saw(&answers, "\"signature\":\"v\",\"args\":[{\"secret\":9}]");
    saw(&answers, "\"signature\":\"v\",\"args\":[{\"type\":\"s\",\"value\":\"public\"}]");
    saw(&answers, "\"signature\":\"a{sv}\",\"args\":[{\"Code\":{\"secret\":9},");
    saw(&answers, "\"org.example.Vault1\":{\"Code\":{\"secret\":9},");
    assert_null(strstr(answers.output, "squeamish"));
    assert_null(strstr(answers.output, "c3F1ZWFtaXNo"));

    /* Without the calls nobody knows what is an answer to what. */
    monitor_start(&signals, "type='method_return'");
    expect(0, NULL, NULL, VAULT("org.example.Vault1.Open", "ss", "[\"me\", \"squeamish\"]"));
    monitor_end(&signals, "\"signature\":\"ayt\",\"withheld\":\"the call was not seen");
    assert_null(strstr(signals.output, "c3F1ZWFtaXNo"));
}

static void answer(const char *script, const char *options, const char *body, const char *wanted)
{
    _cleanup_(freep) char *request = NULL, *name = NULL;
    static child r;

    child_start(&r, ARGS("respond", "--endpoint=/hello", "--", "sh", "-c", script));
    child_read(&r, "registered");
    expect(0, NULL, NULL,
           ARGS("call", "-s", "", "org.hybridos.Endpoints1", "org.hybridos.Endpoints1.Responder"));
    name = strndup(last.output + 1, strlen(last.output) - 3);
    assert_true(asprintf(&request,
                         "[{\"id\":\"r1\",\"namespace\":\"/hello\",\"protocol\":\"HTTP/2\","
                         "\"method\":\"POST\",\"path\":\"/hello/a b\",\"query\":\"q=1\"%s},\"%s\"]",
                         options, body) > 0);
    expect(
        0, wanted, NULL,
        ARGS("call", name, "/org/hybridos/Responder1", "org.hybridos.Responder1.Handle", request));
    kill(r.pid, SIGTERM);
    assert_int_equal(child_end(&r), 0);
}

static void test_respond(void **state)
{
    /* "hi" in, text out. */
    answer("cat", "", "aGk=",
           "[200,[[\"content-type\",\"text/plain; charset=utf-8\"]],"
           "{\"body\":{\"type\":\"ay\",\"value\":\"aGk=\"}}]\n");
    answer("printf 'Status: 404 Nope\\r\\nContent-Type: a/b\\r\\n\\r\\nhi'", "", "",
           "[404,[[\"content-type\",\"a/b\"]],{\"body\":{\"type\":\"ay\",\"value\":\"aGk=\"}}]\n");
    answer(
        "[ \"$REQUEST_METHOD $SCRIPT_NAME$PATH_INFO?$QUERY_STRING $HTTP_X_A $CONTENT_TYPE "
        "$CONTENT_LENGTH $REMOTE_ADDR ${HTTP_PROXY-none}\" = "
        "'POST /hello/a b?q=1 v, w t/x 2 192.0.2.7 none' ] && printf hi",
        ",\"peer\":\"192.0.2.7:4711\",\"headers\":{\"type\":\"a(ss)\",\"value\":[[\"x-a\",\"v\"],"
        "[\"content-type\",\"t/x\"],[\"proxy\",\"evil\"],[\"x-a\",\"w\"],[\"x_a\",\"evil\"]]}",
        "aGk=",
        "[200,[[\"content-type\",\"text/plain; charset=utf-8\"]],"
        "{\"body\":{\"type\":\"ay\",\"value\":\"aGk=\"}}]\n");

#define PLAIN(status, body)                                                                        \
    "[" status ",[[\"content-type\",\"text/plain; charset=utf-8\"]],{\"body\":{\"type\":\"ay\","   \
    "\"value\":\"" body "\"}}]\n"
    answer("exit 1", "", "", PLAIN("500", "VGhlIGNvbW1hbmQgZmFpbGVkLgo="));
    answer("kill -9 $$", "", "", PLAIN("502", "VGhlIGNvbW1hbmQgd2FzIGtpbGxlZC4K"));
    answer("sleep 1000", ",\"deadline\":{\"type\":\"u\",\"value\":100}", "",
           PLAIN("504", "VGhlIGNvbW1hbmQgdG9vayB0b28gbG9uZy4K"));
    answer("yes", "", "", PLAIN("502", "VGhlIGNvbW1hbmQgd3JvdGUgdG9vIG11Y2guCg=="));
    answer("printf 'A: b\\033\\n\\nhi'", "", "",
           PLAIN("502", "VGhlIGNvbW1hbmQgd3JvdGUgaGVhZGVycyB0aGF0IGNhbm5vdCBiZSBzZW50Lgo="));
    expect(4, "", "not yours", ARGS("respond", "--endpoint=/taken", "true"));
    expect(2, "", "needs --endpoint", ARGS("respond", "true"));
}

/* What "cat" answers to a body that comes as a descriptor; "" and the error's name otherwise. */
static const char *handle_fd(sd_bus *bus, const char *name, int fd, const char **ret_error)
{
    static sd_bus_error error;
    static char body[64];
    sd_bus_message *m = NULL, *reply = NULL;
    const char *key, *text, *value;
    uint32_t status;
    const void *data;
    size_t size;

    sd_bus_error_free(&error);
    assert_true(sd_bus_message_new_method_call(bus, &m, name, "/org/hybridos/Responder1",
                                               "org.hybridos.Responder1", "Handle") >= 0);
    assert_true(sd_bus_message_append(m, "a{sv}", 5, "id", "s", "r1", "namespace", "s", "/hello",
                                      "method", "s", "POST", "path", "s", "/hello", "body", "h",
                                      fd) >= 0);
    assert_true(sd_bus_message_append_array(m, 'y', NULL, 0) >= 0);
    *body = 0;
    *ret_error = "";
    if (sd_bus_call(bus, m, 0, &error, &reply) < 0)
        *ret_error = error.name;
    else {
        assert_true(sd_bus_message_read(reply, "u", &status) > 0);
        assert_int_equal(status, 200);
        assert_true(sd_bus_message_read(reply, "a(ss)", 1, &text, &value) >= 0);
        assert_true(sd_bus_message_enter_container(reply, 'a', "{sv}") > 0);
        assert_true(sd_bus_message_enter_container(reply, 'e', "sv") > 0);
        assert_true(sd_bus_message_read(reply, "s", &key) > 0);
        assert_true(sd_bus_message_enter_container(reply, 'v', "ay") > 0);
        assert_true(sd_bus_message_read_array(reply, 'y', &data, &size) > 0);
        snprintf(body, sizeof body, "%.*s", (int)size, (const char *)data);
    }
    sd_bus_message_unref(m);
    sd_bus_message_unref(reply);
    return body;
}

/* A body that its sender could still change is not read. */
static void test_respond_sealed(void **state)
{
    static const int seals[] = {F_SEAL_SHRINK, F_SEAL_GROW};
    _cleanup_(freep) char *name = NULL;
    const char *error;
    sd_bus *bus;
    static child r;
    int fd;

    child_start(&r, ARGS("respond", "--endpoint=/hello", "--", "cat"));
    child_read(&r, "registered");
    expect(0, NULL, NULL,
           ARGS("call", "-s", "", "org.hybridos.Endpoints1", "org.hybridos.Endpoints1.Responder"));
    name = strndup(last.output + 1, strlen(last.output) - 3);
    assert_true(sd_bus_new(&bus) >= 0);
    assert_true(sd_bus_set_address(bus, address) >= 0);
    assert_true(sd_bus_set_bus_client(bus, true) >= 0);
    assert_true(sd_bus_start(bus) >= 0);

    for (size_t missing = 0; missing <= ELEMENTS(seals); missing++) {
        fd = memfd_create("body", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        assert_int_equal(write(fd, "sealed", 6), 6);
        for (size_t i = 0; i < ELEMENTS(seals); i++)
            if (i != missing)
                assert_int_equal(fcntl(fd, F_ADD_SEALS, seals[i]), 0);
        if (missing == ELEMENTS(seals))
            break;
        assert_string_equal(handle_fd(bus, name, fd, &error), "");
        assert_string_equal(error, HYBUS_ERROR_INVALID_ARGUMENT);
        close(fd);
    }
    /* From the start, wherever the sender's own offset stands. */
    assert_string_equal(handle_fd(bus, name, fd, &error), "sealed");
    close(fd);
    fd = open(program, O_RDONLY | O_CLOEXEC);
    assert_string_equal(handle_fd(bus, name, fd, &error), "");
    assert_string_equal(error, HYBUS_ERROR_INVALID_ARGUMENT);
    close(fd);
    sd_bus_close_unref(bus);
    kill(r.pid, SIGTERM);
    assert_int_equal(child_end(&r), 0);
}

/* --- shell completion --- */

static const char *completion;

/* What bash would offer after `line`, one word a line. */
static void expect_words(const char *line, const char *wanted)
{
    static child c;
    static const char script[] =
        "source \"$1\"; COMP_LINE=$2; COMP_POINT=${#2}; _h_ubus\n"
        "[[ ${#COMPREPLY[@]} -eq 0 ]] || printf '%s\\n' \"${COMPREPLY[@]}\"";
    _cleanup_(freep) char *whole = NULL;

    assert_true(asprintf(&whole, "h-ubus --address %s %s", address, line) > 0);
    child_exec(
        &c, (const char *const[]){"bash", "--norc", "-c", script, "bash", completion, whole, NULL});
    assert_int_equal(child_end(&c), 0);
    if (!streq(c.output, wanted))
        print_message("%s\n%s%s", line, c.output, c.errors);
    assert_string_equal(c.errors, "");
    assert_string_equal(c.output, wanted);
}

static void test_completion(void **state)
{
    _cleanup_(freep) char *folder = strdup(program), *path = NULL;

    assert_true(asprintf(&path, "%s:%s", dirname(folder), getenv("PATH")) > 0);
    assert_int_equal(setenv("PATH", path, true), 0);
    expect_words("l", "list\nlisten\n");
    expect_words("list --o", "--objects\n");
    expect_words("call org.ex", "org.example.Test1\n");
    expect_words("wait_for org.example.Test1 org.example.", "org.example.Test1\n");
    expect_words("call org.example.Test1 org.example.Test1.A", "org.example.Test1.Add\n");
    expect_words("get org.example.Test1 org.example.Test1.", "org.example.Test1.Level\n");
    expect_words("get org.example.Test1 /", "/org/example/Test1\n/vault/one\n");
    expect_words("call -t 3 org.example.Test1 /other ",
                 "org.example.Other1.Only\norg.example.Other1.Hang\n");
    expect_words("call org.example.Test1 org.example.Test1.Add ", "");
    expect_words("call org.nothing.Here ", "");
}

int main(int argc, char *argv[])
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_harness),    cmocka_unit_test(test_list),
        cmocka_unit_test(test_call),       cmocka_unit_test(test_errors),
        cmocka_unit_test(test_properties), cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_signals),    cmocka_unit_test(test_wait_for),
        cmocka_unit_test(test_monitor),    cmocka_unit_test(test_monitor_secrets),
        cmocka_unit_test(test_respond),    cmocka_unit_test(test_respond_sealed),
        cmocka_unit_test(test_completion),
    };

    assert_true(argc == 4);
    program = argv[1];
    interfaces = dirname(argv[2]);
    completion = argv[3];
    return cmocka_run_group_tests(tests, start, stop);
}
