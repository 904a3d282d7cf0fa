/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the rest of the system is told of an app, in files that do not outlive a boot: its user
 * (JSON records that nss-systemd reads), the drop-in that makes an instance of the unit template a
 * program, and a manifest for h-endpointd. All are made from the registry and can be made again at
 * any time. */

#include "app-registry.h"

typedef struct AppFiles {
    const char *userdb, *units, *endpoints; /* directories */
    uint32_t gid;                           /* of the group whose members the policy governs */
} AppFiles;

/* `member` false: it is in no group any more, and so in no rule of the bus. */
int app_files_write_user(const AppFiles *f, const App *app, bool member);
int app_files_remove_user(const AppFiles *f, const App *app);

/* 1: changed; 0: it stood there already. */
int app_files_write_unit(const AppFiles *f, const App *app, bool network);
int app_files_remove_unit(const AppFiles *f, const App *app);

/* Those of its endpoints that are marked; no file if none is. 1: changed. */
int app_files_write_endpoints(const AppFiles *f, const App *app,
                              const bool marked[APP_ENDPOINTS_MAX]);
int app_files_remove_endpoints(const AppFiles *f, const App *app); /* 1: it was there */

/* Removes drop-ins of apps that are not installed (any more). 1: there were some. */
int app_files_sweep_units(const AppFiles *f, Apps *apps);

/* The texts alone, or NULL. */
char *app_files_user_text(const AppFiles *f, const App *app, bool member);
char *app_files_unit_text(const App *app, bool network);
char *app_files_endpoints_text(const App *app, const bool marked[APP_ENDPOINTS_MAX]);
