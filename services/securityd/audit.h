/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What has been refused, and why. A bounded ring in memory for h-policy, and a structured record of
 * each in the journal for ever. One subject's denials fill at most a fixed share of the ring, so that
 * nobody can wash away the traces of somebody else. */

#include <hybus/base.h>

#define AUDIT_RECORDS_MAX 4096u
#define AUDIT_SHARE 8u /* one subject gets at most that part */
#define AUDIT_TEXT_MAX 256u

typedef struct AuditRecord {
    char *id;           /* "a1b2-42" */
    uint64_t number;    /* counts from 1 */
    uint64_t time_usec; /* CLOCK_REALTIME */
    char *subject, *permission, *call, *rule, *file, *reason, *suggestion;
    const char *verdict; /* "denied", "allowed", "changed" */
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

/* NULL: never was, or has been overwritten. */
const AuditRecord *audit_find(const Audit *a, const char *id);

/* Newest first: the next record older than `number` (UINT64_MAX: the newest), or NULL. */
const AuditRecord *audit_older(const Audit *a, uint64_t number);

/* The sink of the daemon: one structured journal entry each; a flood of one subject is cut to a
 * count. */
void audit_journal(const AuditRecord *record, void *userdata);
