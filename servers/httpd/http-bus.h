/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "http.h"

/* Publishes org.hybridos.Server1 and org.hybridos.Http1 at /org/hybridos/Http1, and follows whether
 * the device has been claimed. */
int http_bus_publish(Http *h, sd_bus *bus);
void http_bus_certificate_changed(sd_bus *bus);
