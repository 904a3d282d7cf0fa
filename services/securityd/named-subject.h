/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Subjects as people write them, for questions about somebody who is not calling. */

#include "security.h"

typedef struct NamedSubject {
    Subject subject; /* points into the rest */
    uint32_t gids[POLICY_GROUPS_MAX];
    char *name, *token;
    char **roles;
} NamedSubject;

/* "uid:N" and "unix:NAME" with the groups that NSS knows, "gid:N", "group:NAME", "user:NAME",
 * "token:NAME", "role:NAME", "cert:SHA256", "anonymous". -EINVAL: no such form; -ENOENT: nobody. */
int named_subject_parse(Security *s, const char *text, NamedSubject *ret);
void named_subject_done(NamedSubject *n);
