/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* org.hybridos.Endpoints1: registration over the system bus. */

#include <systemd/sd-bus.h>

#include "endpoints-channel.h"
#include "endpoints-registrar.h"

#define ENDPOINTS_BUS_NAME "org.hybridos.Endpoints1"
#define ENDPOINTS_BUS_PATH "/org/hybridos/Endpoints1"
#define ENDPOINTS_BUS_CALLS_MAX 64u       /* whose caller is not known yet; the bus itself allows 128 */
#define ENDPOINTS_BUS_CALLS_OWNER_MAX 16u /* registrations on their way, of one connection */
#define ENDPOINTS_BUS_OWNERS_MAX 512u     /* connections that have registered something */
#define ENDPOINTS_BUS_OPTIONS_MAX 16u     /* of one call */
#define ENDPOINTS_NOTIFY_MAX (60u * 1024u) /* bytes of a value */
#define ENDPOINTS_NOTIFY_PATH_MAX 1024u    /* bytes */

typedef struct endpoints_bus endpoints_bus;

/* Publishes the object and looks for the holders of what registrar_restore() expects back. */
int endpoints_bus_new(sd_bus *bus, registrar *g, channel *c, endpoints_bus **ret);
void endpoints_bus_free(endpoints_bus *b);
HYBUS_DEFINE_CLEANUP(endpoints_bus, endpoints_bus_free)
