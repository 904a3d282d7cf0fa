/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One call of org.hybridos.Responder1.Handle, for the two files that make the bus road: bus-road.c
 * sends it, bus-reply.c reads what the app answers. */

#include "core.h"

#define BUS_CHUNK (64u * 1024u)

/* A call lives through these in order, and may skip all but SENT:
 *
 *   COLLECTING  the request's body is still coming; nothing has been sent
 *   QUEUED      it waits in its owner's queue for a place among the calls in flight
 *   SENT        it holds such a place, until the app's reply comes or the app leaves the bus
 *   STREAMING   answered; the body of the reply is read from a pipe or a memfd
 *   LOST        SENT, but nobody waits for the answer any more (deadline, cancelled). The bus still
 *               counts the reply as due from the app, so the place stays taken. */
enum bus_state { BUS_COLLECTING, BUS_QUEUED, BUS_SENT, BUS_STREAMING, BUS_LOST };

typedef struct bus_call {
    enum bus_state state;
    struct endpoint_core *core;
    struct endpoint_request *request; /* NULL: lost */
    owner *owner;
    list node; /* of the owner's queue, or of the core's lost calls */
    endpoint_timer timer;
    sd_bus_slot *slot;
    sd_event_source *source; /* the pipe, or a defer source that reads the memfd */
    entry_definition to;     /* a copy: the table may change meanwhile */
    sd_bus_message *message; /* complete but for what send_message() adds */
    int body_fd, reply_fd;
    bool stream, piped;
    unsigned fds;   /* that travel with it */
    size_t spooled; /* bytes in body_fd */
    uint64_t left;  /* of the reply's memfd */
} bus_call;

int bus_on_reply(sd_bus_message *m, void *userdata, sd_bus_error *e);
void bus_answered(bus_call *b);
void bus_stream_next(bus_call *b);
