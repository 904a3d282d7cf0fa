/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A stand-in for h-securityd that speaks docs/protocols/agent.md: a child process with a page of
 * its own, so that it can be killed like the real one. The parent holds the listening socket, as
 * systemd does. All functions are synchronous and fail the test on trouble. */

#include <hybus/agent.h>

typedef struct fake_agent fake_agent;

/* `members` ends with a NULL interface; their permission is an index into `permissions`
 * (NULL-terminated). Makes a temporary directory for the socket. */
fake_agent *fake_agent_new(const hybus_member *members, const char *const *permissions);
void fake_agent_free(fake_agent *f);
const char *fake_agent_path(const fake_agent *f);

void fake_agent_start(fake_agent *f); /* done by fake_agent_new(); again after a kill */
void fake_agent_kill(fake_agent *f);  /* SIGKILL; returns when it is dead */

/* `subject`: "uid:N", "handle:N", or "*". Publishes a new generation and says "changed". */
void fake_agent_allow(fake_agent *f, const char *subject, const char *permission, bool allowed);
/* Moves the generation only, without telling anybody over the socket. */
void fake_agent_bump(fake_agent *f);
/* Keeps answers to `op` back until released. "no judge": every judgement allows; "once": a single call may
 * pass; "stale": with a pass that is overtaken; "want": its arguments are asked for, the first one only by
 * its length; "wait": says that a person is asked, and keeps the answer until "judge" is released. */
void fake_agent_hold(fake_agent *f, const char *op, bool hold);
/* How often `op` was asked since the start. */
unsigned fake_agent_count(fake_agent *f, const char *op);
/* Sum of the counts told by "used" for the permission, or by "unjudged" for the reason or the audit id; or how
 * often these arguments (JSON) were judged. */
unsigned fake_agent_used(fake_agent *f, const char *permission);
