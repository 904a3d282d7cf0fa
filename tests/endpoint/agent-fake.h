/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* h-securityd as the core sees it, in the test's own process: it stands in for the client functions
 * of hybus/agent.h. Answers come from the loop, never from within a question. */

#include <hybus/agent.h>

hybus_agent *agent_fake_new(sd_event *event);
/* Permissions as "principal permission"; a permission that ends in "*" is a prefix. The principal "once":
 * everybody's single requests. */
void agent_fake_grant(hybus_agent *a, const char *principal, const char *permission);
void agent_fake_revoke(hybus_agent *a, const char *principal, const char *permission);
void agent_fake_change(hybus_agent *a);  /* moves the generation and tells the core */
void agent_fake_restart(hybus_agent *a); /* another life: all handles and rows are void */
void agent_fake_set_alive(hybus_agent *a, bool alive);
void agent_fake_set_silent(hybus_agent *a, bool silent);   /* questions are kept, not answered */
void agent_fake_set_overtaken(hybus_agent *a, unsigned n); /* the next n rows are void on arrival */
uint64_t agent_fake_settled(const hybus_agent *a);
uint64_t agent_fake_generation(const hybus_agent *a);
unsigned agent_fake_rows(const hybus_agent *a);
unsigned agent_fake_judged(const hybus_agent *a);
unsigned agent_fake_released(const hybus_agent *a);
