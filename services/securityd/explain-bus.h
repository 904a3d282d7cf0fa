/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The members of org.hybridos.Security1 that say why: for a refusal, a live connection, a call that
 * nobody made (explain-bus.c), and for a policy that is not in force yet (simulate-bus.c). */

#include "security-call.h"

/* An a{sv} of what is known. */
int explain_append(sd_bus_message *m, const AuditRecord *r);
int explain_append_string(sd_bus_message *m, const char *key, const char *value);
/* What named_subject_parse() returned, for the caller. */
int explain_subject_error(sd_bus_error *error, int r, const char *text);

int explain_method(sd_bus_message *m, void *userdata, sd_bus_error *error);
int explain_method_call(sd_bus_message *m, void *userdata, sd_bus_error *error);
int explain_method_polkit(sd_bus_message *m, void *userdata, sd_bus_error *error);
int explain_method_connection(sd_bus_message *m, void *userdata, sd_bus_error *error);

int simulate_method(sd_bus_message *m, void *userdata, sd_bus_error *error);
int record_method(sd_bus_message *m, void *userdata, sd_bus_error *error);
int list_calls_method(sd_bus_message *m, void *userdata, sd_bus_error *error);
