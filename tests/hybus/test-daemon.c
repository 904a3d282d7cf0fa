/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
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
#include <hybus/daemon.h>
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

static int checked(const char *option)
{
    pid_t pid = fork();
    int status;

    assert_true(pid >= 0);
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        execl(program, "h-fixtured", "--check-config", option, NULL);
        _exit(127);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* What a daemon reads beside its settings is looked at in the standard places. */
static void test_check_more(void **state)
{
    assert_int_equal(checked(NULL), 0);
    setenv("FIXTURE_BAD_FILE", "1", 1);
    assert_int_equal(checked(NULL), 1);
    assert_int_equal(checked("--config=/dev/null"), 0);
    unsetenv("FIXTURE_BAD_FILE");
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

/* --- sockets from systemd --- */

#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "%s:%d: " #x "\n", __FILE__, __LINE__);                                \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)

static void pass_socket(int fd, int family, int type, bool listening)
{
    int s = socket(family, type, 0); /* blocking and inherited, as systemd passes it */
    sa_family_t any = AF_UNIX;       /* the kernel finds a name */

    REQUIRE(s >= 0);
    REQUIRE(family != AF_UNIX || bind(s, (struct sockaddr *)&any, sizeof any) == 0);
    REQUIRE(!listening || listen(s, 8) == 0);
    REQUIRE(s == fd || (dup2(s, fd) == fd && close(s) == 0));
}

static void take_sockets(const char *pid)
{
    static const hybus_daemon_info info = {.component = "fixtured", .concept = "Fixture"};
    char *arguments[] = {(char *)"h-fixtured", NULL};
    hybus_daemon *d = NULL;
    int on = 0;
    socklen_t size = sizeof on;

    pass_socket(3, AF_UNIX, SOCK_STREAM, true);
    pass_socket(4, AF_INET, SOCK_STREAM, true);
    pass_socket(5, AF_UNIX, SOCK_STREAM, true);
    pass_socket(6, AF_UNIX, SOCK_DGRAM, false);
    pass_socket(7, AF_UNIX, SOCK_STREAM, false);
    setenv("LISTEN_PID", pid, 1);
    setenv("LISTEN_FDS", "5", 1);
    setenv("LISTEN_FDNAMES", "channel:tls:channel:datagram:mute", 1);
    REQUIRE(hybus_daemon_new(&info, 1, arguments, &d) == 1);
    if (atoi(pid) != getpid()) { /* meant for somebody else */
        REQUIRE(hybus_daemon_listen_fd(d, "channel", AF_UNIX, SOCK_STREAM) == -ENOENT);
        _exit(0);
    }

    REQUIRE(hybus_daemon_listen_fd(d, "chan", AF_UNIX, SOCK_STREAM) == -ENOENT);
    REQUIRE(hybus_daemon_listen_fd(d, "tls", AF_UNIX, SOCK_STREAM) == -EPROTOTYPE);
    REQUIRE(hybus_daemon_listen_fd(d, "channel", AF_UNIX, SOCK_SEQPACKET) == -EPROTOTYPE);
    REQUIRE(hybus_daemon_listen_fd(d, "datagram", AF_UNIX, SOCK_STREAM) == -EPROTOTYPE);
    REQUIRE(hybus_daemon_listen_fd(d, "datagram", AF_UNIX, SOCK_DGRAM) == 6);
    REQUIRE(hybus_daemon_listen_fd(d, "mute", AF_UNIX, SOCK_STREAM) == -EPROTOTYPE);

    /* Each once, in order, whatever was refused before. */
    REQUIRE(hybus_daemon_listen_fd(d, "channel", AF_UNIX, SOCK_STREAM) == 3);
    REQUIRE(hybus_daemon_listen_fd(d, "channel", AF_UNIX, SOCK_STREAM) == 5);
    REQUIRE(hybus_daemon_listen_fd(d, "channel", AF_UNIX, SOCK_STREAM) == -ENOENT);
    REQUIRE(hybus_daemon_listen_fd(d, NULL, AF_UNSPEC, SOCK_STREAM) == 4);
    for (int fd = 3; fd <= 5; fd++) {
        REQUIRE(fcntl(fd, F_GETFL) & O_NONBLOCK);
        REQUIRE(fcntl(fd, F_GETFD) & FD_CLOEXEC);
        REQUIRE(accept(fd, NULL, NULL) < 0 && errno == EAGAIN);
    }
    REQUIRE(!getenv("LISTEN_FDS"));

    /* What was given belongs to who has it, the rest ends with the daemon. */
    hybus_daemon_free(d);
    REQUIRE(getsockopt(3, SOL_SOCKET, SO_ACCEPTCONN, &on, &size) == 0 && on);
    REQUIRE(fcntl(6, F_GETFD) >= 0 && fcntl(7, F_GETFD) < 0);
    _exit(0);
}

static void test_listen_fd(void **state)
{
    for (int own = 0; own < 2; own++) {
        pid_t pid = fork();
        int status;

        assert_true(pid >= 0);
        if (pid == 0) {
            char text[16];
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            alarm(60);
            snprintf(text, sizeof text, "%d", own ? (int)getpid() : (int)getppid());
            take_sockets(text);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
}

int main(int argc, char *argv[])
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_life, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_check_config, set_up, tear_down),
        cmocka_unit_test(test_check_more),
        cmocka_unit_test_setup_teardown(test_name_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_bus_lost, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_idle_exit, set_up, tear_down),
        cmocka_unit_test(test_listen_fd),
    };

    if (argc != 2)
        return 2;
    program = argv[1];
    return cmocka_run_group_tests(tests, NULL, NULL);
}
