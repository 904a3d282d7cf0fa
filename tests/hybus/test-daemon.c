/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <cmocka.h>

#include <hybus/base.h>
#include <hybus/error.h>

#include "fake-agent.h"
#include "private-bus.h"

#define NAME "org.hybridos.Fixture1"

static const char *const permissions[] = {"fixture.count", NULL};
static const hybus_member members[] = {{NAME, "Count", HYBUS_MEMBER_METHOD, 0}, {NULL}};

static const char *program;

typedef struct Fixture {
    fake_agent *fake;
    private_bus *bus;
    sd_bus *client;
    char directory[64], config[96], notify[96];
    int notify_fd;
    pid_t pid;
} Fixture;

static void write_config(Fixture *f, const char *text)
{
    FILE *file = fopen(f->config, "we");

    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static int set_up(void **state)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    Fixture *f = calloc(1, sizeof *f);

    assert_non_null(f);
    f->fake = fake_agent_new(members, permissions);
    f->bus = private_bus_new();
    f->client = private_bus_connect(f->bus, NULL);
    strcpy(f->directory, "/tmp/test-daemon-XXXXXX");
    assert_non_null(mkdtemp(f->directory));
    snprintf(f->config, sizeof f->config, "%s/fixtured.conf", f->directory);
    snprintf(f->notify, sizeof f->notify, "%s/notify", f->directory);
    strcpy(address.sun_path, f->notify);
    f->notify_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(f->notify_fd, (struct sockaddr *)&address, sizeof address), 0);
    write_config(f, "[fixture]\nCount = 3\n");
    assert_true(hybus_error_register() >= 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    Fixture *f = *state;

    if (f->pid > 0) {
        kill(f->pid, SIGKILL);
        (void)waitpid(f->pid, NULL, 0);
    }
    sd_bus_close_unref(f->client);
    private_bus_free(f->bus);
    fake_agent_free(f->fake);
    close(f->notify_fd);
    unlink(f->notify);
    unlink(f->config);
    rmdir(f->directory);
    free(f);
    return 0;
}

static void start(Fixture *f, const char *argument)
{
    f->pid = fork();
    assert_true(f->pid >= 0);
    if (f->pid > 0)
        return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setenv("NOTIFY_SOCKET", f->notify, 1);
    setenv("DBUS_SYSTEM_BUS_ADDRESS", private_bus_address(f->bus), 1);
    setenv("HYBRIDOS_AGENT_SOCKET", fake_agent_path(f->fake), 1);
    execl(program, "h-fixtured", "--config", f->directory, argument, NULL);
    _exit(127);
}

static int ended(Fixture *f)
{
    int status;

    assert_int_equal(waitpid(f->pid, &status, 0), f->pid);
    f->pid = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void expect_notify(Fixture *f, const char *text)
{
    char buffer[256];
    ssize_t n = recv(f->notify_fd, buffer, sizeof buffer - 1, 0);

    assert_true(n > 0);
    buffer[n] = '\0';
    assert_non_null(startswith(buffer, text));
}

static int64_t count(Fixture *f)
{
    _cleanup_(sd_bus_error_free) sd_bus_error e = SD_BUS_ERROR_NULL;
    sd_bus_message *reply = NULL;
    uint64_t n = 0;
    int r = sd_bus_call_method(f->client, NAME, "/org/hybridos/Fixture1", NAME, "Count", &e, &reply,
                               "");

    if (r >= 0)
        assert_true(sd_bus_message_read(reply, "t", &n) > 0);
    sd_bus_message_unref(reply);
    return r < 0 ? r : (int64_t)n;
}

static void test_life(void **state)
{
    Fixture *f = *state;

    start(f, NULL);
    expect_notify(f, "READY=1");
    assert_int_equal(count(f), -EACCES);
    fake_agent_allow(f->fake, "*", "fixture.count", true);
    assert_int_equal(count(f), 3);

    write_config(f, "[fixture]\nCount = 5\n");
    assert_int_equal(kill(f->pid, SIGHUP), 0);
    expect_notify(f, "RELOADING=1\nMONOTONIC_USEC=");
    expect_notify(f, "READY=1");
    assert_int_equal(count(f), 5);

    /* A bad configuration changes nothing. */
    write_config(f, "[fixture]\nCount = 50\n");
    assert_int_equal(kill(f->pid, SIGHUP), 0);
    expect_notify(f, "RELOADING=1");
    expect_notify(f, "READY=1");
    assert_int_equal(count(f), 5);

    assert_int_equal(kill(f->pid, SIGTERM), 0);
    expect_notify(f, "STOPPING=1");
    assert_int_equal(ended(f), 0);
}

static void test_check_config(void **state)
{
    Fixture *f = *state;

    start(f, "--check-config");
    assert_int_equal(ended(f), 0);
    write_config(f, "[fixture]\nCuont = 5\n");
    start(f, "--check-config");
    assert_int_equal(ended(f), 1);
    start(f, NULL);
    assert_int_equal(ended(f), 1);
    start(f, "--no-such-option");
    assert_int_equal(ended(f), 1);
    start(f, "--version");
    assert_int_equal(ended(f), 0);
}

/* Somebody sits on the name while the service restarts: it does not run without its name. */
static void test_name_taken(void **state)
{
    Fixture *f = *state;

    assert_true(sd_bus_request_name(f->client, NAME, 0) >= 0);
    start(f, NULL);
    assert_int_equal(ended(f), 1);
}

static void test_bus_lost(void **state)
{
    Fixture *f = *state;

    start(f, NULL);
    expect_notify(f, "READY=1");
    sd_bus_close(f->client);
    private_bus_free(f->bus);
    f->bus = NULL;
    assert_int_equal(ended(f), 1);
}

static void test_idle_exit(void **state)
{
    Fixture *f = *state;

    setenv("FIXTURE_IDLE", "1", 1);
    start(f, NULL);
    unsetenv("FIXTURE_IDLE");
    expect_notify(f, "READY=1");
    expect_notify(f, "STOPPING=1");
    assert_int_equal(ended(f), 0);
}

int main(int argc, char *argv[])
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_life, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_check_config, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_name_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bus_lost, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_idle_exit, set_up, tear_down),
    };

    if (argc != 2)
        return 2;
    program = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
