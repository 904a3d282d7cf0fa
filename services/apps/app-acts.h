/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What is done to apps. Every step is such that the state in between is the stricter one, and that
 * the same act can be done again after a crash. Functions say on standard error what went wrong,
 * and return a negative errno then. */

#include "app-files.h"
#include "app-policy.h"

#define APP_DIRECTORY "/var/lib/hybridos/apps"

typedef struct Acts {
    Apps apps;
    AppFiles files;
    sd_bus *bus; /* NULL until it is needed */
} Acts;

int acts_open(bool make, Acts *ret);
void acts_done(Acts *a);
int acts_bus(Acts *a); /* h-securityd can be asked through a->bus */

/* -ENOENT: there is none that is installed. */
int acts_find(Acts *a, const char *name, App **ret);

/* Which of its requests are granted with it. */
typedef struct AppConsent {
    bool all;
    char *const *permissions; /* or these */
} AppConsent;

/* Takes over what is in `manifest` when it succeeds; a failure leaves nothing behind but a used-up
 * uid. */
int acts_install(Acts *a, AppManifest *manifest, json_t *source, const AppConsent *consent,
                 App **ret);
/* The same app with another manifest: what is no longer requested is revoked, what is new is not
 * granted. */
int acts_update(Acts *a, App *app, AppManifest *manifest, json_t *source,
                const AppConsent *consent);
int acts_start(Acts *a, const App *app);
int acts_remove(Acts *a, App *app, bool keep_data);

/* Only what the manifest requests can be granted here. */
int acts_grant(Acts *a, const App *app, const AppConsent *consent);
int acts_revoke(Acts *a, const App *app, char *const *permissions);

/* Users, before anybody asks for them. */
int acts_publish(Acts *a);
/* Units and endpoints as the policy has it now; those whose right to the network has changed are
 * restarted. `boot`: and those that start by themselves are started. */
int acts_refresh(Acts *a, bool boot);
