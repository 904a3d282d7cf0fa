/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Agents on the bus that ask people (org.hybridos.ConsentAgent1), and the members of org.hybridos.Security1
 * by which they register and answers are looked at. */

#include "security-call.h"

#define CONSENT_AGENTS_MAX 8u

typedef struct ConsentBus ConsentBus;

/* Becomes the asker of security->consent. */
int consent_bus_new(SecurityBus *b, ConsentBus **ret);
void consent_bus_free(ConsentBus *c);

int consent_method_register(sd_bus_message *m, void *userdata, sd_bus_error *error);
int consent_method_unregister(sd_bus_message *m, void *userdata, sd_bus_error *error);
int consent_method_list(sd_bus_message *m, void *userdata, sd_bus_error *error);
int consent_method_forget(sd_bus_message *m, void *userdata, sd_bus_error *error);
