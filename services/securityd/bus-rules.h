/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Layer 1: what the bus itself lets daemons and apps do to services that know nothing of us. The
 * policy and the annotated interfaces are compiled into bus configuration that holds only allows,
 * on top of the static file that denies (bus/config/hybridos.conf.in): a lost file is stricter,
 * never laxer. Knows neither files nor buses; bus-apply.c brings the result into force. */

#include "catalogue.h"
#include "policy.h"

#define BUS_RULES_ALLOWS_MAX 100000u
#define BUS_RULES_FILES_MAX 16u
#define BUS_RULES_FILE_SIZE (768u * 1024u) /* both buses skip a file of more than 1 MiB */

/* A user of whom the static file denies everything: a daemon of ours or an app. */
typedef struct BusUser {
    char *name;
    uint32_t uid;
    uint32_t *gids;
    size_t n_gids;
} BusUser;

typedef struct BusUsers {
    BusUser *users; /* sorted by name */
    size_t n_users;
} BusUsers;

/* Members of the group `name`, as NSS knows them now. Nobody: the group does not exist. */
int bus_users_read(const char *group, BusUsers *ret);
void bus_users_done(BusUsers *u);

/* Whether the bus asks the policy about somebody at all: a member of that group. */
bool bus_rules_govern(const char *group, const Subject *subject);

/* Bodies of configuration files: policy elements without what goes round them. The same input gives
 * the same text. */
typedef struct BusRules {
    char **bodies;
    size_t n_bodies, n_allows;
} BusRules;

/* -E2BIG: more than a bus should carry. */
int bus_rules_compile(const Policy *policy, const Catalogue *catalogue, const BusUsers *users,
                      BusRules *ret);
void bus_rules_done(BusRules *r);
/* Whether a rule can make a difference to them, whoever the users are. */
bool bus_rules_concern(const Catalogue *catalogue, const Rule *rule);
bool bus_rules_equal(const BusRules *a, const BusRules *b);

/* A whole file: the body, and `canary`, a bus name that only `owner` may own and only while exactly
 * this file is in force. A new text or NULL. */
char *bus_rules_file(const char *body, const char *canary, const char *owner);

/* What the compiled rules say to one call; `property` reads ('g') and writes ('s') are judged for
 * the whole service at once. *ret_permission: the one that decided, or NULL when there is none
 * (nobody may). The interface must have a destination (catalogue_destination()). */
Verdict bus_rules_judge(const Policy *policy, const Catalogue *catalogue, const Subject *subject,
                        const char *interface, const char *member, char kind,
                        const char **ret_permission);
