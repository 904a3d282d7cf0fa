/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Connections to the bus on which somebody acts for a principal. What is asked on one is judged for the
 * principal and for its holder, and both must be allowed: a binding can only narrow, so whoever invents one
 * gains nothing. It lasts as long as the connection; forgetting one would widen it, so they are written
 * down beside the socket and outlive this process, though not the bus. */

#include "security-internal.h"

#define BINDINGS_MAX 4096u
#define BINDINGS_OF_UID_MAX 512u
#define BINDING_NAME_MAX 255u

typedef struct Binding {
    char *name;           /* ":1.42" */
    uint32_t uid;         /* whose connection it is */
    Principal *principal; /* its own copy; NULL: anonymous */
} Binding;

/* -EEXIST: bound to somebody else already, for good. -ENOBUFS. 1; 0: it was so already. `principal` (NULL:
 * anonymous) is copied. */
int security_bind(Security *s, const char *name, uint32_t uid, const Principal *principal);
/* The connection has left the bus. */
void security_unbind(Security *s, const char *name);

/* Puts the principal of a bound connection, if it is one, into `subject`; `behalf` is where to. Somebody
 * whose binding cannot be looked at holds nothing. */
void security_apply_binding(Security *s, Subject *subject, const char *name, Subject *behalf);

/* Those from before this process was started. When they cannot be read, nobody but root holds anything on
 * the bus: any connection could be a bound one. */
int security_bindings_load(Security *s);
/* The bus is this one: bindings of another have gone with it. */
int security_bindings_adopt(Security *s, const char *bus_id);
void security_bindings_done(Security *s);

/* Moves the slots of bound connections that a word of a rule, or a principal, may concern. */
void security_move_bound(Security *s, const char *word);
