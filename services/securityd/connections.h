/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Everybody who is connected to the bus at this moment, each kind of credentials once. */

#include <systemd/sd-bus.h>

#include "subject.h"

#define CONNECTIONS_MAX 1024u    /* more are not looked at */
#define CONNECTIONS_AT_ONCE 32u  /* questions in flight: a bus gives a connection 128 */

typedef struct Connections Connections;

/* `f` is called once, from the loop, unless connections_free() comes first. */
typedef void (*ConnectionsListed)(Connections *c, int error, void *userdata);
int connections_list(sd_bus *bus, ConnectionsListed f, void *userdata, Connections **ret);
void connections_free(Connections *c);

/* Local subjects; they stay the list's. *ret_more: connections over the limit. */
size_t connections_subjects(const Connections *c, const Subject **ret, size_t *ret_more);
