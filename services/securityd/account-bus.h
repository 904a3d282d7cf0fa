/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Methods of org.hybridos.Security1 about people and their sessions; `userdata` is the SecurityBus. */

#include <systemd/sd-bus.h>

int method_list_users(sd_bus_message *m, void *userdata, sd_bus_error *error);
int method_set_user_roles(sd_bus_message *m, void *userdata, sd_bus_error *error);
int method_list_sessions(sd_bus_message *m, void *userdata, sd_bus_error *error);
int method_remove_session(sd_bus_message *m, void *userdata, sd_bus_error *error);
