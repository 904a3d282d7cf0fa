/* SPDX-License-Identifier: Apache-2.0 */
#include "private-bus.h"

#include <hybus/base.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

struct private_bus {
    char directory[64], config[96], address[256];
    pid_t pid;
};

#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "private bus: %s:%i: %s: %m\n", __FILE__, __LINE__, #x);               \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

private_bus *private_bus_new(void)
{
    private_bus *b = calloc(1, sizeof *b);
    int out[2];
    ssize_t n;
    FILE *f;

    REQUIRE(b);
    strcpy(b->directory, "/tmp/private-bus-XXXXXX");
    REQUIRE(mkdtemp(b->directory));
    snprintf(b->config, sizeof b->config, "%s/bus.conf", b->directory);
    f = fopen(b->config, "we");
    REQUIRE(f);
    fprintf(
        f,
        "<busconfig><type>session</type><listen>unix:path=%s/socket</listen><auth>EXTERNAL</auth>"
        "<policy context=\"default\"><allow send_destination=\"*\" eavesdrop=\"true\"/><allow "
        "eavesdrop=\"true\"/>"
        "<allow own=\"*\"/><allow user=\"*\"/></policy>"
        "<limit name=\"max_connections_per_user\">2000</limit></busconfig>\n",
        b->directory);
    fclose(f);
    REQUIRE(pipe(out) == 0);
    fflush(NULL);
    b->pid = fork();
    REQUIRE(b->pid >= 0);
    if (b->pid == 0) {
        char config[128];

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(out[1], 3);
        snprintf(config, sizeof config, "--config-file=%s", b->config);
        execlp("dbus-daemon", "dbus-daemon", "--nofork", "--nopidfile", "--nosyslog", config,
               "--print-address=3", NULL);
        _exit(127);
    }
    close(out[1]);
    n = read(out[0], b->address, sizeof b->address - 1);
    REQUIRE(n > 1);
    b->address[n - 1] = '\0';
    close(out[0]);
    return b;
}

void private_bus_free(private_bus *b)
{
    char path[96];

    if (!b)
        return;
    kill(b->pid, SIGKILL);
    (void)waitpid(b->pid, NULL, 0);
    snprintf(path, sizeof path, "%s/socket", b->directory);
    unlink(path);
    unlink(b->config);
    rmdir(b->directory);
    free(b);
}

const char *private_bus_address(const private_bus *b)
{
    return b->address;
}

sd_bus *private_bus_connect(const private_bus *b, sd_event *event)
{
    sd_bus *bus;

    REQUIRE(sd_bus_new(&bus) >= 0);
    REQUIRE(sd_bus_set_address(bus, b->address) >= 0);
    REQUIRE(sd_bus_set_bus_client(bus, true) >= 0);
    REQUIRE(sd_bus_start(bus) >= 0);
    if (event)
        REQUIRE(sd_bus_attach_event(bus, event, 0) >= 0);
    return bus;
}
