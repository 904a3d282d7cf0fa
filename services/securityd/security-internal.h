/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the files of the model share: security.c, grant.c, account.c, principal.c, setup.c. */

#include "security.h"

void security_adopt(Security *s, Policy *policy);
/* What is in force has changed: count it and remember it for the next boot. */
int security_accept(Security *s);

/* Moves the slots that a rule may have touched. A rule for groups, roles or everybody touches all. */
void security_move_rule(Security *s, const Rule *rule);
void security_move_principal(Security *s, const char *principal);

/* How many there were. */
size_t security_end_sessions(Security *s, const char *user);
bool security_expire_sessions(Security *s); /* whether there were any */
uint64_t security_next_session_end(const Security *s); /* µs of CLOCK_BOOTTIME; UINT64_MAX */

bool security_user_may_connect(Security *s, const User *u, const Connect *c);
/* As security_note(), by a subject from outside: `kind` and `name` together. */
void security_note_as(Security *s, const char *kind, const char *name, const char *call,
                      const char *reason);

/* Whoever grants all of `rule` must hold it, under no more conditions. */
int security_check_holds(const Security *s, const Subject *caller, const Rule *rule,
                         hybus_config_error *e);
/* Writes the rule and puts it in force: 1, or negative and nothing has changed. */
int security_grant_rule(Security *s, const Subject *caller, Rule *rule);

/* Takes back what security_grant_rule() did. */
void security_ungrant_rule(Security *s, Rule *rule);
/* An id that no rule has; never the same twice, also while the first one still waits for the bus. */
void security_fresh_id(Security *s, char *ret, size_t size);

/* Shows the setup code as long as nobody has claimed the device. */
int security_offer_code(Security *s);
