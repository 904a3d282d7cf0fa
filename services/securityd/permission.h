/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Names of permissions ("log.read", "endpoint.read:/thermo"), and patterns, which may leave the last
 * part open ("log.*", "endpoint.read:*", "*"). */

#include <hybus/base.h>

#define POLICY_NAME_MAX 255u /* bytes of a permission or subject */

bool permission_is_valid(const char *name);         /* one name, nothing left open */
bool permission_pattern_is_valid(const char *name); /* or with an open end */
bool permission_is_open(const char *pattern);
bool permission_pattern_covers(const char *pattern, const char *other);
