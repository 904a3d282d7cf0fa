/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Stands in for h-securityd's client: questions wait until the test answers them. */

#include <hybus/agent.h>

void fake_agent_reset(void);
void fake_agent_grant(uint32_t uid, const char *permission);
void fake_agent_grant_all(void); /* everything to everybody */
void fake_agent_revoke(uint32_t uid, const char *permission);
/* Answers all that wait now; the number of answers. */
size_t fake_agent_answer(void);
size_t fake_agent_waiting(void);
void fake_agent_away(bool away);   /* answers are -ENOKEY */
void fake_agent_stale(unsigned n); /* so many rows are out of date on arrival */
void fake_agent_change(void);      /* the generation moves */
uint64_t fake_agent_settled(void); /* the last generation that was settled */
size_t fake_agent_judged(void);    /* refusals that were recorded */
