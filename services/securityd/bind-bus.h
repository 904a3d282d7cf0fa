/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Security1.Bind, and who has left the bus. */

#include <systemd/sd-bus.h>

#include "security-bus.h"

int method_bind(sd_bus_message *m, void *userdata, sd_bus_error *error);
/* Takes over the bindings of before, and follows who leaves. */
int bind_bus_start(SecurityBus *b, sd_bus_slot **ret);
