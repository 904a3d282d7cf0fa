/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the files of the filter share: mediate.c decides, mediate-sender.c knows who calls and which
 * of their calls wait. */

#include <sys/queue.h>

#include "mediate.h"

#define MEDIATE_BUCKETS 2048u
#define MEDIATE_NAME_MAX 255u /* D-Bus specification, "Valid Names" */
#define MEDIATE_DRIVER "org.freedesktop.DBus"

typedef struct Sender Sender;

typedef enum CallState {
    CALL_PARKED,  /* waits for its sender's row */
    CALL_RESUMED, /* back in sd-bus's queue, to run through the filter again */
    CALL_REFUSED, /* waits for the agent's verdict, which has a deadline of its own */
    CALL_ADMITTED, /* back in sd-bus's queue, and `pass` lets it through */
} CallState;

typedef struct Call {
    TAILQ_ENTRY(Call) queue; /* of the sender, in order of arrival; refused ones are in another */
    TAILQ_ENTRY(Call) all;   /* of the mediator, in order of their deadlines; not refused ones */
    Sender *sender;
    sd_bus_message *message;
    CallState state;
    uint64_t deadline_usec;
    hybus_agent_question *question; /* of a refused one */
    bool asked_arguments;
    hybus_pass pass;
    unsigned contradicted;          /* verdicts that allowed what the row did not */
} Call;

TAILQ_HEAD(Calls, Call);

/* One connection to the bus. Unique names are never given out twice in the life of a bus, and this
 * daemon ends with the connection, so that a name says who it is as long as it is in the table. */
struct Sender {
    Sender *next; /* in the bucket */
    TAILQ_ENTRY(Sender) used;
    hybus_mediator *mediator;
    uint32_t bucket, uid, *gids;
    size_t n_gids;
    bool known; /* uid and gids are */
    hybus_row *row;
    uint64_t *counts; /* per bit of the row: 0 never used, 1 reported, n: n - 1 not reported yet */
    bool counted;
    sd_bus_slot *identify;
    hybus_agent_question *question;
    struct Calls calls, refused;
    size_t n_calls;
    uint64_t limited;        /* calls over a limit that the agent has not been told of */
    uint64_t limited_number; /* of their audit id; 0: there were none */
    char name[];
};

struct hybus_mediator {
    sd_bus *bus;
    sd_event *event;
    hybus_agent *agent;
    sd_bus_slot *filter, *owner_match;
    sd_event_source *deadline, *flush;
    bool flushing; /* the timer is set */
    uint64_t limited, limited_number; /* as in Sender, of callers without a place in the table */
    char audit_prefix[8];             /* of the ids of what nobody is asked about */
    uint64_t audit_number;
    struct members *members;
    Sender *buckets[MEDIATE_BUCKETS];
    TAILQ_HEAD(Senders, Sender) senders; /* least recently used first */
    size_t n_senders, n_calls;
    struct Calls calls; /* all that wait for us */
    hybus_mediator_statistics statistics;
};

/* --- mediate.c ------------------------------------------------------------------------------- */

/* Nothing is parked and nobody is being asked. */
bool hybus_mediator_idle(const hybus_mediator *m);

/* The filter itself, for tests and benchmarks: 0 lets the message pass, 1 has dealt with it. */
int hybus_mediator_filter(sd_bus_message *message, void *mediator, sd_bus_error *error);

void mediate_refuse(sd_bus_message *m, int error, const char *text);
/* An audit id that this filter has made itself; the same for the same number. */
#define MEDIATE_AUDIT_SIZE 32u
void mediate_audit_id(const hybus_mediator *m, uint64_t number, char ret[MEDIATE_AUDIT_SIZE]);
/* Returns 1: the message has been dealt with. `s` NULL: of a caller for whom there is no place. */
int mediate_over_limit(hybus_mediator *m, Sender *s, sd_bus_message *message);
/* A parked call whose caller the bus does not attest: the agent refuses and records it. */
void mediate_deny_unknown(Call *c);
/* Counts are told to the agent later. */
void mediate_flush_later(hybus_mediator *m);
void mediate_unavailable(hybus_mediator *m, sd_bus_message *message);

/* --- mediate-sender.c ------------------------------------------------------------------------ */

uint32_t sender_bucket(const char *name);
Sender *sender_find(hybus_mediator *m, const char *name, uint32_t bucket);
/* NULL: no room, no memory, or no name of a connection. */
Sender *sender_new(hybus_mediator *m, const char *name, uint32_t bucket);
void sender_free(Sender *s);
/* It has left the bus. Calls whose caller was never known are told to the agent. */
void sender_left(Sender *s);
void sender_touch(Sender *s);
hybus_subject sender_subject(const Sender *s);
/* Tells the agent the counts that it has not been told yet. */
void sender_report(Sender *s);
void sender_drop_row(Sender *s);
/* Finds out who it is, then what it may; its parked calls go on or are refused. */
void sender_fetch(Sender *s);
/* Calls that were parked behind resumed ones, to keep their order, go on when those are through. */
void sender_resume_if_due(Sender *s);

/* NULL: the limits are reached, or no memory. */
Call *call_new(Sender *s, sd_bus_message *message, CallState state);
void call_free(Call *c);
/* It waits for a verdict from now on. */
void call_refuse(Call *c);
/* From the refused ones back to the others, before or behind all of them, with a new deadline. */
void call_return(Call *c, CallState state);
int call_on_deadline(sd_event_source *source, uint64_t usec, void *userdata);
