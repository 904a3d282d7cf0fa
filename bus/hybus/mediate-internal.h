/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "mediate.h"

/* Nothing is parked and nobody is being asked. */
bool hybus_mediator_idle(const hybus_mediator *m);

/* The filter itself, for tests and benchmarks: 0 lets the message pass, 1 has dealt with it. */
int hybus_mediator_filter(sd_bus_message *message, void *mediator, sd_bus_error *error);
