/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What has been refused, changed, and used for the first time, and why. A bounded ring in memory for
 * h-policy, and a structured record of each in h-logged's audit, or in the journal without it. One subject's records fill at
 * most a fixed share of the ring, and what was allowed at most half of it, so that nobody can wash
 * away the traces of somebody else, or their own. What is the same again and again is one record with
 * a count. */

#include <hybus/base.h>

#define AUDIT_RECORDS_MAX 4096u
#define AUDIT_ALLOWED_MAX 2048u /* of them, what was allowed */
#define AUDIT_SHARE 8u          /* one subject gets at most that part of what was not allowed, */
#define AUDIT_ALLOWED_SHARE 4u  /* and that part of what was */
#define AUDIT_AGAIN_USEC (60u * 1000u * 1000u) /* how soon a count goes to the sink again */
#define AUDIT_TEXT_MAX 256u
#define AUDIT_ID_MAX 31u

typedef struct AuditRecord {
    char *id;           /* "a1b2-42" */
    uint64_t number;    /* counts from 1 */
    uint64_t time_usec; /* CLOCK_REALTIME */
    uint64_t count, last_usec; /* how often until now, and when last */
    char *subject, *inputs, *permission, *call, *rule, *file, *reason, *suggestion;
    const char *verdict; /* "denied", "allowed", "changed", "limited" */
    unsigned line, layer;
    uint64_t generation;
} AuditRecord;

void audit_record_done(AuditRecord *record);

typedef struct Audit Audit;

/* Where records go besides the ring. NULL: nowhere (tests). */
typedef void (*AuditSink)(const AuditRecord *record, void *userdata);

int audit_new(AuditSink sink, void *userdata, Audit **ret);
void audit_free(Audit *a);
HYBUS_DEFINE_CLEANUP(Audit, audit_free)

/* Copies `record` without its id, number and time, which it gives itself. Texts are cut at
 * AUDIT_TEXT_MAX and their control characters escaped. The result stays valid until the next call. */
int audit_add(Audit *a, const AuditRecord *record, const AuditRecord **ret);

/* An id that a filter has made itself: of others' choice, but not one of ours. */
bool audit_id_is_valid(const Audit *a, const char *id);

/* The same thing `n` times: one record for a subject, verdict, permission, call, rule and reason, with
 * a count. The sink gets the first, then the count so far, at most every AUDIT_AGAIN_USEC and when the
 * record leaves; of what was allowed only the first. With record->id (audit_id_is_valid()): the record of
 * that id, whatever else is the same. */
int audit_count(Audit *a, const AuditRecord *record, uint64_t n, const AuditRecord **ret);

/* NULL: never was, or has been overwritten. */
const AuditRecord *audit_find(const Audit *a, const char *id);

/* Newest first: the next record older than `number` (UINT64_MAX: the newest), or NULL. */
const AuditRecord *audit_older(const Audit *a, uint64_t number);

/* The sink of the daemon: one structured record each, to h-logged or the journal; a flood of one subject is cut, and how
 * many were cut is said by the next entry, at the latest by audit_journal_end(). */
void audit_journal(const AuditRecord *record, void *userdata);
void audit_journal_end(void);

/* How much of one subject goes to the journal. For the sink, and its tests. */
#define AUDIT_METER_SUBJECTS 256u
#define AUDIT_METER_BURST 200u
#define AUDIT_METER_PERIOD_USEC (10u * 1000u * 1000u)

typedef struct AuditMeter {
    struct AuditMeterSubject {
        char *subject; /* NULL: free */
        uint64_t since, skipped;
        unsigned n;
    } subjects[AUDIT_METER_SUBJECTS];
    uint64_t others_skipped; /* of those who had to make room */
} AuditMeter;

/* Whether one more of this subject may be logged at `now`. */
bool audit_meter_admits(AuditMeter *m, const char *subject, uint64_t now);
/* Takes out a count of what was not logged, of a subject whose period is over (or of anybody, when
 * `now` is UINT64_MAX). *ret_subject is for free(); false: there is none. */
bool audit_meter_skipped(AuditMeter *m, uint64_t now, char **ret_subject, uint64_t *ret_skipped);
