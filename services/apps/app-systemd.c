/* SPDX-License-Identifier: Apache-2.0 */
#include "app-systemd.h"

#include <spawn.h>
#include <sys/wait.h>

extern char **environ;

static int run_program(const char *program, const char *const *words)
{
    pid_t pid;
    int status, r = posix_spawn(&pid, program, NULL, NULL, (char *const *)words, environ);

    if (r != 0) {
        fprintf(stderr, "h-app: cannot run %s: %s\n", program, strerror(r));
        return -r;
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return -errno;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static int run(const char *const *words)
{
    return run_program("/usr/bin/systemctl", words);
}

int app_systemd_reload(void)
{
    return run((const char *const[]){"systemctl", "daemon-reload", NULL});
}

int app_systemd_do(const char *verb, const char *unit, bool wait)
{
    return run(
        (const char *const[]){"systemctl", wait ? "--quiet" : "--no-block", verb, unit, NULL});
}

/* A pattern means what systemd has loaded: a unit that it does not know is no error then. */
int app_systemd_do_if_loaded(const char *verb, const char *unit)
{
    char pattern[256];
    size_t n = strlen(unit);

    if (n == 0 || (size_t)snprintf(pattern, sizeof pattern, "%.*s[%c]", (int)n - 1, unit,
                                   unit[n - 1]) >= sizeof pattern)
        return -ENAMETOOLONG;
    return run((const char *const[]){"systemctl", "--quiet", verb, pattern, NULL});
}

int app_systemd_clean(const char *unit)
{
    return run((const char *const[]){"systemctl", "--what=all", "clean", unit, NULL});
}

bool app_systemd_is_active(const char *unit)
{
    return run((const char *const[]){"systemctl", "--quiet", "is-active", unit, NULL}) == 0;
}

int app_systemd_check_registrar(void)
{
    return run_program("/usr/sbin/h-endpointd",
                       (const char *const[]){"h-endpointd", "--check-config", NULL});
}
