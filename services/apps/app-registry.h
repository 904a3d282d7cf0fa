/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Which apps are installed, and whose uid is whose. One checksummed file per app in a directory of
 * root's, and one that says which uid comes next: a uid is given out once and never again, so that
 * whatever still refers to one (a file, a rule, a record of the audit) never comes to mean another
 * app. Knows neither bus nor systemd. */

#include "app-manifest.h"

#define APP_UID_FIRST 70000u
#define APP_UID_LAST 79999u
#define APPS_MAX 256u

typedef enum AppState {
    APP_INSTALLED,
    APP_UNFINISHED, /* on its way in or out: it is not started */
    APP_KEPT,       /* removed; its files and its uid wait for it */
} AppState;

typedef struct App {
    AppManifest manifest;
    json_t *source; /* of the manifest */
    uint32_t uid;
    AppState state;
} App;

typedef struct Apps {
    char *directory;
    int lock; /* held as long as this is open */
    App *list;
    size_t n, n_bad;
} Apps;

/* Told of each file that is not what it must be; that app is then not in the list. */
typedef void (*AppsComplain)(const char *file, const char *why);

/* Waits for whoever has it open. A directory that does not exist is made if `make` is set, and is
 * an empty registry otherwise. -EPERM: others than root could write there. */
int apps_open(const char *directory, bool make, AppsComplain complain, Apps *ret);
void apps_done(Apps *apps);

App *apps_find(Apps *apps, const char *name);

/* A record of its own with a fresh uid, on disk, unfinished. taken() says whether the system knows
 * a uid already. -EEXIST: there is one of that name, be it a damaged one; -ENOSPC: all uids have
 * been given out; -EBADMSG: it cannot be known which have been; -EOVERFLOW: APPS_MAX. Takes over
 * what is in `manifest` when it succeeds. */
int apps_add(Apps *apps, AppManifest *manifest, json_t *source, bool (*taken)(uint32_t uid),
             App **ret);
/* On disk, then in the list. */
int apps_set_state(Apps *apps, App *app, AppState state);
/* Unfinished from here on. */
int apps_set_manifest(Apps *apps, App *app, AppManifest *manifest, json_t *source);
int apps_remove(Apps *apps, App *app);

const char *app_state_name(AppState state);
/* "h-app-NAME", "h-app@NAME.service" */
#define APP_USER_SIZE 40u
#define APP_UNIT_SIZE 48u
void app_user(const char *name, char ret[APP_USER_SIZE]);
void app_unit(const char *name, char ret[APP_UNIT_SIZE]);
