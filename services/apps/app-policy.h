/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Questions and requests to h-securityd, which alone decides what an app may do. Every function
 * returns a negative errno after having said on standard error what went wrong. */

#include <hybus/base.h>
#include <systemd/sd-bus.h>

int app_policy_open(sd_bus **ret);

/* Records an administrative act in the audit: "install", "update", "remove" before it is done, and
 * "removed" after it. -EACCES: it may not be. */
int app_policy_note(sd_bus *bus, const char *act, const char *name, uint32_t uid);

/* Whether the policy grants it now. */
int app_policy_check(sd_bus *bus, const char *user, const char *permission, bool *ret);
int app_policy_grant(sd_bus *bus, const char *user, const char *permission);
/* Revokes rules that are for this user alone: of one permission, or all of them (NULL). How many.
 * What else grants it (a file, a rule for several) is said, and stays. */
int app_policy_revoke(sd_bus *bus, const char *user, uint32_t uid, const char *permission);
/* Names of users are looked up anew, and the bus obeys what has become of that. */
int app_policy_reload(sd_bus *bus);
