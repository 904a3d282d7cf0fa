/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Which services run and which units have failed, as systemd tells over the bus: one question at a
 * time, never waited for, at most one a second. What h-sysinfo may ask is a grant of its own
 * (sysinfo.policy), which h-securityd turns into a rule of the bus. */

#include <jansson.h>
#include <stdbool.h>

typedef struct Units Units;

/* The question has been answered, or could not be: units_list() has what is known now. */
typedef void (*units_answered_fn)(void *userdata);

int units_new(units_answered_fn answered, void *userdata, Units **ret);
void units_free(Units *u);

/* Makes sure that an answer comes; false if that of the last second still stands and none will. */
bool units_ask(Units *u);

/* An array of {"name", "description", "state"}, failed ones first; NULL: not known. */
const json_t *units_list(const Units *u);

/* For the loop, as sd_bus_get_fd(3) and its relatives; -1, 0 and -1 without a connection. Call
 * units_process() after every poll. */
int units_fd(const Units *u);
short units_events(const Units *u);
int units_timeout_msec(const Units *u);
void units_process(Units *u);
