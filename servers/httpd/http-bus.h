/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "http.h"

typedef struct HttpBus HttpBus;

/* Publishes org.hybridos.Server1 and org.hybridos.Http1 at /org/hybridos/Http1, and follows whether
 * the device has been claimed. <0: said why. Free it before `h`. */
int http_bus_publish(Http *h, sd_bus *bus, HttpBus **ret);
void http_bus_free(HttpBus *b);
HYBUS_DEFINE_CLEANUP(HttpBus, http_bus_free)

void http_bus_certificate_changed(HttpBus *b);
