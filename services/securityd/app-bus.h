/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* org.hybridos.Security1.NoteApp: what h-app does is done by root; whether it may, and that it was,
 * is said here. */

#include <systemd/sd-bus.h>

int method_note_app(sd_bus_message *m, void *userdata, sd_bus_error *error);
