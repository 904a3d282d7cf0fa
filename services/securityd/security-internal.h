/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the files of the model share: security.c, grant.c, account.c, principal.c, setup.c. */

#include "security.h"

void security_adopt(Security *s, Policy *policy);
/* What is in force has changed: count it and remember it for the next boot. */
int security_accept(Security *s);

/* Moves the slots that a rule may have touched. A rule for groups, roles or everybody touches all.
 */
void security_move_rule(Security *s, const Rule *rule);
void security_move_principal(Security *s, const char *principal);

/* May the caller let somebody in who holds what `as` (a user; NULL: nobody in particular) and the
 * roles do? */
int security_check_from_outside(Security *s, const Subject *caller, const char *as,
                                char *const *roles, hybus_config_error *e);

/* How many there were; negative: they are over now, but may come back when h-securityd is started
 * anew. */
int security_end_sessions(Security *s, const char *user);
/* For the next start of h-securityd in this boot. 0 also when they will end with it; negative: what
 * is no session any more may come back. */
int security_save_sessions(Security *s);
int security_load_sessions(Security *s);               /* -ENOMEM, or 0 */
bool security_expire_sessions(Security *s);            /* whether there were any */
uint64_t security_next_session_end(const Security *s); /* µs of CLOCK_BOOTTIME; UINT64_MAX */

bool security_user_may_connect(Security *s, const User *u, const Connect *c);
bool security_user_may_change_password(Security *s, const User *u, const Connect *c);
/* `hash` as crypt(5) writes it. What cannot be written down is not in force either. */
int security_write_password(Security *s, User *u, const char *hash);
/* As security_note(), by a subject from outside: `kind` and `name` together. */
void security_note_as(Security *s, const char *kind, const char *name, const char *call,
                      const char *reason);

/* Remembers what was refused, for h-policy simulate and record. */
void security_note_refused(Security *s, const Subject *subject, const Question *q, uint64_t n);

/* Whoever grants all of `rule` must hold it, under no more conditions. */
int security_check_holds(const Security *s, const Subject *caller, const Rule *rule,
                         hybus_config_error *e);
/* Writes the rule and puts it in force: 1, or negative and nothing has changed. */
int security_grant_rule(Security *s, const Subject *caller, Rule *rule);

/* Whoever could make somebody with rights of others would grant what they do not hold. */
int security_check_rights_of(const Security *s, const Subject *caller, const char *subject,
                             hybus_config_error *e);

/* Somebody from outside, with a new handle; the credential is the caller's to fill in. */
int security_principal_new(Security *s, const char *name, const Connect *c, char *const *roles,
                           Principal **ret);

/* Nodes as principals: node-account.c. */
int security_connect_node(Security *s, const Connect *c, Principal **ret);
bool security_node_is_void(Security *s, const Principal *p);

/* Takes back what security_grant_rule() did. */
void security_ungrant_rule(Security *s, Rule *rule);
/* An id that no rule has; never the same twice, also while the first one still waits for the bus.
 */
void security_fresh_id(Security *s, char *ret, size_t size);

/* Shows the setup code as long as nobody has claimed the device. */
int security_offer_code(Security *s);
