/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Brings the parts together: a registration of either road is judged, entered, told to the servers,
 * watched, and withdrawn when the policy takes it back. */

#include <systemd/sd-event.h>

#include "endpoints-judge.h"
#include "endpoints-table.h"
#include "endpoints.h"

/* Between two writings of the table: so many times as long as the last one took. */
#define REGISTRAR_SAVE_PAUSE 20u
#define REGISTRAR_SAVE_MIN_USEC (5u * 1000u)
#define REGISTRAR_SAVE_MAX_USEC (500u * 1000u)
#define REGISTRAR_RETURN_USEC (10u * 1000u * 1000u) /* for apps to come back after a restart */
/* Between two starts of a unit; doubles. So that one that always dies at once is not started more
 * often than systemd allows by default, five times in ten seconds. */
#define REGISTRAR_START_FIRST_USEC (500u * 1000u)
#define REGISTRAR_START_LAST_USEC (30u * 1000u * 1000u)
#define REGISTRAR_START_WANTED_USEC (30u * 1000u * 1000u) /* how long one request asks for it */

typedef struct registrar registrar;
typedef struct registrar_request registrar_request;

typedef struct registrar_outcome {
    unsigned code; /* 200, or the status of REFUSED */
    const char *reason, *audit;
    const endpoints_entry *entry; /* with 200 */
} registrar_outcome;
typedef void (*registrar_callback)(const registrar_outcome *o, void *userdata);

/* One per road: how holders hear that they have lost their place. `owner` tells whose it is. */
typedef struct registrar_road {
    void (*withdrawn)(void *owner, const endpoints_entry *entry, unsigned code, const char *reason,
                      const char *audit);
} registrar_road;

/* The servers, as channel.c has them. */
typedef struct registrar_servers {
    void (*changed)(const endpoints_entry *entry, bool gone, void *userdata);
} registrar_servers;

/* `directory`: the runtime directory, for the table and the start files. */
int registrar_new(sd_event *event, hybus_agent *agent, const char *directory, registrar **ret);
void registrar_free(registrar *g);
/* Writes the table for the next life; from here on nothing is told or written any more. */
void registrar_stop(registrar *g);
HYBUS_DEFINE_CLEANUP(registrar, registrar_free)

void registrar_set_road(registrar *g, endpoints_road road, const registrar_road *ops);
void registrar_set_servers(registrar *g, const registrar_servers *ops, void *userdata);
/* Called when the revision has moved and the table has been written. */
void registrar_set_moved(registrar *g, void (*f)(void *userdata), void *userdata);
/* Something has changed that has not been written yet. */
bool registrar_unsaved(const registrar *g);

endpoints *registrar_table(registrar *g);
judge *registrar_judge(registrar *g);

/* What the life before has left, and from here on a place to write. `bus_id` may be "". */
int registrar_restore(registrar *g, const char *bus_id);

/* `spec` is emptied. The callback comes exactly once, not before the return, unless cancelled.
 * -ENOBUFS: too many of this uid on their way; -EBUSY: it registers too often. */
int registrar_register(registrar *g, endpoints_spec *spec, endpoints_identity *identity,
                       void *owner, uint32_t owner_id, registrar_callback f, void *userdata,
                       registrar_request **ret);
void registrar_request_cancel(registrar_request *q);
/* What an app is told of such an error. */
const char *registrar_refusal(int error);
/* For tests of other things: nobody registers too often. */
void registrar_unpaced(registrar *g);

/* An owner has left: what it holds and what it has asked for ends, without a callback. */
void registrar_owner_gone(registrar *g, const void *owner);

/* A bus app found alive after a restart: judged, then its expected entries are its own again. */
int registrar_adopt(registrar *g, const char *ns, endpoints_identity *identity, void *owner);

/* A request has come for an entry whose app is not there. Asks for its unit, at once or when its
 * pause is over, and again until the app is there or nobody waits any more: systemd does not see
 * what is asked for while the unit is still stopping. -ENOENT: nothing to start. */
int registrar_start(registrar *g, const char *ns);
/* Adopts manifests: makes the start files. */
int registrar_set_manifests(registrar *g, endpoints_spec *specs, size_t n);
