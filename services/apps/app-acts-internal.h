/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Steps that installing, removing and refreshing share. All say what went wrong. */

#include "app-acts.h"

#define REGISTRAR "h-endpointd.service"

int acts_complain(int r, const char *format, ...) _printf_(2, 3); /* returns `r` */
int acts_failed(const char *what, const App *app, int r);         /* likewise */

/* Its user, known to the system, and its endpoints. */
int acts_publish_one(Acts *a, const App *app);
/* h-endpointd reads manifests all or none, so one of a user who is gone would keep out everybody's.
 */
int acts_withdraw_endpoints(Acts *a, const App *app);
/* 1: changed. Who cannot be asked about has no network; who has no user has no program. */
int acts_write_unit(Acts *a, const App *app, int *result);
/* "stop", "try-restart", …; a unit that systemd does not know is no error. */
int acts_do(const App *app, const char *verb);
