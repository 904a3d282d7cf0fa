/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A dbus-daemon of the test's own. */

#include <systemd/sd-bus.h>

typedef struct private_bus private_bus;

private_bus *private_bus_new(void);
void private_bus_free(private_bus *b);
const char *private_bus_address(const private_bus *b);
sd_bus *private_bus_connect(const private_bus *b, sd_event *event);
