/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Steps that installing, removing and refreshing share. All say what went wrong. */

#include "app-acts.h"

int acts_complain(int r, const char *format, ...) _printf_(2, 3); /* returns `r` */
int acts_failed(const char *what, const App *app, int r);         /* likewise */

/* Its user, known to the system. */
int acts_publish_one(Acts *a, const App *app);
int acts_check_user(const App *app);

/* h-endpointd's manifest of one that starts on demand. 1: changed. */
int acts_write_endpoints(Acts *a, const App *app, int *result);
int acts_withdraw_endpoints(Acts *a, const App *app);
int acts_reload_registrar(void);
/* The unit that systemd starts it by. */
#define APP_START_UNIT_SIZE 96u
void acts_start_unit(const App *app, char ret[APP_START_UNIT_SIZE]);

/* 1: changed. Who cannot be asked about has no network; who has no user has no program. */
int acts_write_unit(Acts *a, const App *app, int *result);
/* "stop", "try-restart", …; a unit that systemd does not know is no error. */
int acts_do(const App *app, const char *verb);
