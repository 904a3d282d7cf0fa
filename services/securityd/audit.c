/* SPDX-License-Identifier: Apache-2.0 */
#include "audit.h"

#include <sys/random.h>
#include <systemd/sd-journal.h>
#include <time.h>

#define JOURNAL_BUCKETS 64u
#define JOURNAL_BURST 200u
#define JOURNAL_PERIOD_USEC (10u * 1000u * 1000u)

typedef struct Entry {
    AuditRecord record;
    uint64_t hash; /* of the subject */
} Entry;

struct Audit {
    char prefix[9];
    uint64_t number;
    AuditSink sink;
    void *userdata;
    size_t n_entries;
    Entry entries[AUDIT_RECORDS_MAX];
};

static uint64_t hash(const char *s)
{
    uint64_t h = 0xcbf29ce484222325u;

    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return h;
}

void audit_record_done(AuditRecord *r)
{
    free(r->id);
    free(r->subject);
    free(r->permission);
    free(r->call);
    free(r->rule);
    free(r->file);
    free(r->reason);
    free(r->suggestion);
    *r = (AuditRecord){0};
}

int audit_new(AuditSink sink, void *userdata, Audit **ret)
{
    Audit *a = calloc(1, sizeof *a);
    uint32_t random;

    if (!a)
        return -ENOMEM;
    if (getrandom(&random, sizeof random, 0) != sizeof random) {
        free(a);
        return -EIO;
    }
    snprintf(a->prefix, sizeof a->prefix, "%06x", random & 0xffffffu);
    a->sink = sink;
    a->userdata = userdata;
    *ret = a;
    return 0;
}

void audit_free(Audit *a)
{
    if (!a)
        return;
    for (size_t i = 0; i < a->n_entries; i++)
        audit_record_done(&a->entries[i].record);
    free(a);
}

/* What others wrote must not move a terminal's cursor or end a line. */
static char *clean(const char *s)
{
    char *copy, *to;

    if (!s)
        return strdup("");
    copy = to = malloc(4 * MIN_OF(strlen(s), (size_t)AUDIT_TEXT_MAX) + 1);
    if (!copy)
        return NULL;
    for (size_t i = 0; s[i] && i < AUDIT_TEXT_MAX; i++)
        if ((unsigned char)s[i] < ' ' || (unsigned char)s[i] >= 127 || s[i] == '\\')
            to += sprintf(to, "\\x%02x", (unsigned char)s[i]);
        else
            *to++ = s[i];
    *to = '\0';
    return copy;
}

static int copy_record(Audit *a, const AuditRecord *from, AuditRecord *to)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    *to = (AuditRecord){
        .number = a->number + 1,
        .time_usec = (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u,
        .subject = clean(from->subject),
        .permission = clean(from->permission),
        .call = clean(from->call),
        .rule = clean(from->rule),
        .file = clean(from->file),
        .reason = clean(from->reason),
        .suggestion = clean(from->suggestion),
        .verdict = from->verdict,
        .line = from->line,
        .layer = from->layer,
        .generation = from->generation,
    };
    if (asprintf(&to->id, "%s-%llu", a->prefix, (unsigned long long)to->number) < 0)
        to->id = NULL;
    if (!to->id || !to->subject || !to->permission || !to->call || !to->rule || !to->file ||
        !to->reason || !to->suggestion) {
        audit_record_done(to);
        return -ENOMEM;
    }
    return 0;
}

/* A free place, or the oldest of the subject when its share is used up, or the oldest of all. */
static Entry *place_for(Audit *a, uint64_t subject)
{
    Entry *oldest = NULL, *own = NULL;
    size_t n_own = 0;

    for (size_t i = 0; i < a->n_entries; i++) {
        Entry *e = &a->entries[i];

        if (e->hash == subject) {
            n_own++;
            if (!own || e->record.number < own->record.number)
                own = e;
        }
        if (!oldest || e->record.number < oldest->record.number)
            oldest = e;
    }
    if (n_own >= AUDIT_RECORDS_MAX / AUDIT_SHARE)
        return own;
    return a->n_entries < AUDIT_RECORDS_MAX ? &a->entries[a->n_entries++] : oldest;
}

int audit_add(Audit *a, const AuditRecord *record, const AuditRecord **ret)
{
    AuditRecord copy;
    Entry *place;
    int r = copy_record(a, record, &copy);

    if (r < 0)
        return r;
    a->number++;
    place = place_for(a, hash(copy.subject));
    audit_record_done(&place->record);
    place->record = copy;
    place->hash = hash(copy.subject);
    if (a->sink)
        a->sink(&place->record, a->userdata);
    if (ret)
        *ret = &place->record;
    return 0;
}

const AuditRecord *audit_find(const Audit *a, const char *id)
{
    for (size_t i = 0; i < a->n_entries; i++)
        if (streq(a->entries[i].record.id, id))
            return &a->entries[i].record;
    return NULL;
}

const AuditRecord *audit_older(const Audit *a, uint64_t number)
{
    const AuditRecord *best = NULL;

    for (size_t i = 0; i < a->n_entries; i++) {
        const AuditRecord *r = &a->entries[i].record;

        if (r->number < number && (!best || r->number > best->number))
            best = r;
    }
    return best;
}

/* Returns whether this one may be logged, and how many before it were not. */
static bool journal_admits(const AuditRecord *r, unsigned *ret_skipped)
{
    static struct {
        uint64_t since;
        unsigned n, skipped;
    } buckets[JOURNAL_BUCKETS], *b;

    *ret_skipped = 0;
    b = &buckets[hash(r->subject) % JOURNAL_BUCKETS];
    if (r->time_usec < b->since || r->time_usec - b->since > JOURNAL_PERIOD_USEC) {
        *ret_skipped = b->skipped;
        b->since = r->time_usec;
        b->n = b->skipped = 0;
    }
    if (b->n < JOURNAL_BURST) {
        b->n++;
        return true;
    }
    b->skipped++;
    return false;
}

void audit_journal(const AuditRecord *r, void *userdata)
{
    unsigned skipped;

    if (!journal_admits(r, &skipped))
        return;
    (void)sd_journal_send(
        "MESSAGE=%s %s: %s %s%s%s (rule %s, %s)%s", r->id, r->verdict, r->subject,
        *r->permission ? r->permission : "nothing", *r->call ? " for " : "", r->call, r->rule,
        r->reason, skipped ? "; earlier ones of this subject were only counted" : "", "PRIORITY=%i",
        5, "SYSLOG_IDENTIFIER=h-securityd", "HYBRIDOS_AUDIT=%s", r->id, "HYBRIDOS_VERDICT=%s",
        r->verdict, "HYBRIDOS_SUBJECT=%s", r->subject, "HYBRIDOS_PERMISSION=%s", r->permission,
        "HYBRIDOS_CALL=%s", r->call, "HYBRIDOS_RULE=%s", r->rule, "HYBRIDOS_REASON=%s", r->reason,
        "HYBRIDOS_GENERATION=%llu", (unsigned long long)r->generation, "HYBRIDOS_SKIPPED=%u",
        skipped, NULL);
}
