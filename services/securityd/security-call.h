/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Calls to org.hybridos.Security1 whose answer waits. */

#include <hybus/object.h>
#include <sys/queue.h>

#include "security-bus.h"

struct SecurityBus {
    Security *security;
    AgentSocket *socket;
    BusPolicy *bus_policy; /* NULL: the bus guards nothing for us */
    sd_bus *bus;
    hybus_object *object;
    struct ConsentBus *consent;
    sd_bus_slot *left; /* who leaves the bus */
    LIST_HEAD(, Call) calls;
    size_t n_calls;
};

typedef struct Call Call;
typedef int (*CallHandler)(Call *call, sd_bus_error *error);

/* A call whose answer waits: for somebody's credentials, for all peers to settle, for the bus. */
struct Call {
    LIST_ENTRY(Call) calls;
    SecurityBus *bus;
    sd_bus_message *message, *reply;
    sd_bus_slot *slot;
    CallHandler handler;
    Subject subject; /* whose credentials were asked for */
    uint32_t gids[POLICY_GROUPS_MAX];
    char asked[256];                 /* their unique name */
    Subject behalf, caller_behalf;   /* when they are bound */
    Subject caller;
    uint32_t caller_gids[POLICY_GROUPS_MAX];
    Rule *rule; /* that Grant adopts once the bus obeys it */
    bool settling;
    struct Connections *connections; /* all that are on the bus (connections.h) */
    bool bus_too; /* the bus must obey as well before this is answered */
};

void call_free(Call *c);
/* Answers with what became of it: < 0, 0 (it goes on waiting when c->settling) or more. */
void call_end(Call *c, int result, sd_bus_error *error);

/* Registered with `b`; the caller sees to it that call_end() is reached. */
int call_new(sd_bus_message *m, SecurityBus *b, CallHandler handler, Call **ret, sd_bus_error *error);
/* The handler runs once the caller's credentials are there, in c->subject. */
int call_with_caller(sd_bus_message *m, SecurityBus *b, CallHandler handler, sd_bus_error *error);
/* The same with the credentials of another connection, by its unique name. */
int call_with_connection(sd_bus_message *m, SecurityBus *b, const char *name, CallHandler handler,
                         sd_bus_error *error);
/* c->handler runs again when those of `name` are in c->subject. */
int call_ask_credentials(Call *c, const char *name);

/* The answer leaves when nobody allows any more what has been revoked, nor does the bus if c->bus_too
 * is set. `rule` may be NULL. */
int call_settle_with_generation(Call *c, const char *rule);
int call_settle_empty(Call *c);

/* Announces the properties that a change of policy may have changed. */
void security_bus_announce(SecurityBus *b);
