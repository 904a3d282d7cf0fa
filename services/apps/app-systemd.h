/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* systemd, by its own command: it waits for jobs and says what went wrong. */

#include <hybus/base.h>

int app_systemd_reload(void);
/* verb: "start", "reload", …; waits unless `wait` is false. Its own words are on standard error.
 * -EIO: it failed. */
int app_systemd_do(const char *verb, const char *unit, bool wait);
/* "stop", "try-restart", "reset-failed": of a unit that may not be there. */
int app_systemd_do_if_loaded(const char *verb, const char *unit);
/* The directories that systemd made for the unit, with all that is in them. */
int app_systemd_clean(const char *unit);
bool app_systemd_is_active(const char *unit);
/* Whether h-endpointd can read all of its manifests; it says itself what is wrong. */
int app_systemd_check_registrar(void);
