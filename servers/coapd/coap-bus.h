/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "coapd.h"

typedef struct CoapdBus CoapdBus;

/* Publishes org.hybridos.Server1 and org.hybridos.Coap1 at /org/hybridos/Coap1, and follows whether
 * the device has been claimed. <0: said why. Free it before `d`. */
int coapd_bus_publish(Coapd *d, sd_bus *bus, CoapdBus **ret);
void coapd_bus_free(CoapdBus *b);
HYBUS_DEFINE_CLEANUP(CoapdBus, coapd_bus_free)
