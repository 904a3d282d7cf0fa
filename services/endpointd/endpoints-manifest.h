/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Manifests of apps that start on demand: *.app files in the common configuration syntax.
 *
 *     [endpoint /thermo]
 *     Unit  = thermo.service
 *     User  = thermo
 *     Title = Thermometer
 *     Rule  = GET /public endpoint.public
 */

#include <hybus/config.h>

#include "endpoints.h"

/* 0 and the uid of a user; -ESRCH: there is none of this name. */
typedef int (*manifest_user)(const char *name, uint32_t *ret);

/* The system's users, or a plain number. */
int manifest_system_user(const char *name, uint32_t *ret);

/* One spec per section. All or nothing: -EBADMSG with `e` set for whatever is not right. Free with
 * manifest_done(). */
int manifest_read(const hybus_config *c, manifest_user user, endpoints_spec **ret, size_t *ret_n,
                  hybus_config_error *e);
/* Reads the directories. Files must belong to root and be writable by nobody else. */
int manifest_load(const char *const *directories, manifest_user user, endpoints_spec **ret,
                  size_t *ret_n, hybus_config_error *e);
void manifest_done(endpoints_spec *specs, size_t n);
