/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The scaffold that every daemon stands in. A main reads as a story:
 *
 *     int main(int argc, char *argv[])
 *     {
 *         _cleanup_(hybus_daemon_freep) hybus_daemon *daemon = NULL;
 *         _cleanup_(manager_freep) Manager *manager = NULL;
 *         int r;
 *
 *         r = hybus_daemon_new(&info, argc, argv, &daemon);
 *         if (r <= 0)                                          // --help, --check-config, or an error
 *             return hybus_daemon_exit_status(r);              // that has been logged
 *         r = manager_new(hybus_daemon_event(daemon), hybus_daemon_settings(daemon), &manager);
 *         …
 *         r = hybus_daemon_connect(daemon);                    // system bus with mediation filter
 *         r = log_bus_publish(manager, hybus_daemon_bus(daemon));
 *         r = hybus_daemon_run(daemon, manager);               // claims the name, READY=1, loop
 *         return hybus_daemon_exit_status(r);
 *     }
 *
 * The loop is one sd-event loop. SIGTERM and SIGINT end it, SIGHUP reloads the configuration, the
 * systemd watchdog is served, the loss of the bus ends the daemon (its unit restarts it). */

#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include "agent.h"
#include "base.h"
#include "config.h"

typedef struct hybus_daemon hybus_daemon;

typedef struct hybus_daemon_info {
    const char *component;    /* "logged": h-logged, logged.conf */
    const char *concept;      /* "Log": org.hybridos.Log1, /org/hybridos/Log1 */
    const char *description;  /* one line for --help */
    const char *const *interfaces; /* all that are published and mediated; NULL-terminated */
    const hybus_setting *settings; /* NULL: no configuration file */
    size_t settings_size;
    bool mediate;             /* install the filter; false only in h-securityd, which judges itself */
    uint64_t idle_exit_usec;  /* 0: never; otherwise exit after that long without work */
    /* SIGHUP: the new settings have been read and accepted; adopt them. May be NULL. `userdata` is
     * what hybus_daemon_run() got. */
    int (*reload)(hybus_daemon *d, void *userdata);
    /* --check-config: looks at what else is read in the standard places, and says what is wrong
     * there. Not asked with --config. May be NULL. */
    int (*check)(void);
    /* Asked to end: stop taking new work. Return 0 when done, 1 when hybus_daemon_stopped() will be
     * called later. May be NULL. */
    int (*stop)(hybus_daemon *d, void *userdata);
} hybus_daemon_info;

/* 1: go on; 0: everything asked for is done (--help, --version, --check-config); <0: failed, and
 * said so. */
HYBUS_EXPORT int hybus_daemon_new(const hybus_daemon_info *info, int argc, char *argv[],
                                  hybus_daemon **ret);
HYBUS_EXPORT void hybus_daemon_free(hybus_daemon *d);
HYBUS_DEFINE_CLEANUP(hybus_daemon, hybus_daemon_free)

HYBUS_EXPORT sd_event *hybus_daemon_event(hybus_daemon *d);
HYBUS_EXPORT sd_bus *hybus_daemon_bus(hybus_daemon *d);       /* after connect */
HYBUS_EXPORT hybus_agent *hybus_daemon_agent(hybus_daemon *d); /* NULL without mediation */
HYBUS_EXPORT const void *hybus_daemon_settings(hybus_daemon *d); /* valid until the next reload */

/* A listening socket that systemd has passed under this FileDescriptorName= (systemd.socket(5)), or
 * with NULL any; nonblocking and close-on-exec, the caller's to close. Each is given once: ask again for
 * the next of that name. -ENOENT: there is none (left); -EPROTOTYPE: it does not listen (which datagram sockets need
 * not), or is not of this family (AF_UNSPEC: any) and type (SOCK_STREAM, …). Logs nothing. */
HYBUS_EXPORT int hybus_daemon_listen_fd(hybus_daemon *d, const char *name, int family, int type);

/* Opens the system bus and installs the mediation filter; no name is claimed yet. */
HYBUS_EXPORT int hybus_daemon_connect(hybus_daemon *d);

/* Claims the name, tells systemd READY=1, runs the loop until asked to end. */
HYBUS_EXPORT int hybus_daemon_run(hybus_daemon *d, void *userdata);

/* The same in two halves for a daemon whose protocol library owns the outer loop: after start(),
 * dispatch hybus_daemon_event() until hybus_daemon_finished(); then stop. */
HYBUS_EXPORT int hybus_daemon_start(hybus_daemon *d, void *userdata);
HYBUS_EXPORT bool hybus_daemon_finished(hybus_daemon *d);
HYBUS_EXPORT void hybus_daemon_stopped(hybus_daemon *d);

/* For idle exit: the daemon is busy while any hold exists. */
HYBUS_EXPORT void hybus_daemon_hold(hybus_daemon *d);
HYBUS_EXPORT void hybus_daemon_release(hybus_daemon *d);

HYBUS_EXPORT int hybus_daemon_exit_status(int r);
