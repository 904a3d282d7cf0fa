/* SPDX-License-Identifier: Apache-2.0 */
#include "audit.h"

#include <hybus/log.h>
#include <log-protocol.h>
#include <sys/random.h>
#include <syslog.h>
#include <systemd/sd-journal.h>
#include <time.h>

typedef struct Entry {
    AuditRecord record;
    uint64_t hash;  /* of the subject */
    uint64_t share; /* of whom it uses up a share */
    uint64_t same;  /* hash of all that makes it the same; 0: each of these stands for itself */
    uint64_t told, told_usec; /* the count that the sink knows, and since when */
    bool allowed;
} Entry;

struct Audit {
    char prefix[9];
    uint64_t number;
    AuditSink sink;
    void *userdata;
    size_t n_entries;
    Entry entries[AUDIT_RECORDS_MAX];
};

static uint64_t hash_more(uint64_t h, const char *s)
{
    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * 0x100000001b3u;
    return (h ^ '\n') * 0x100000001b3u;
}

static uint64_t hash(const char *s)
{
    return hash_more(0xcbf29ce484222325u, s);
}

/* Whoever the bus does not attest may come under ever new names: all of them share one share. */
static const char *share_of(const char *subject)
{
    return startswith(subject, "bus:") ? "bus:" : subject;
}

void audit_record_done(AuditRecord *r)
{
    free(r->id);
    free(r->subject);
    free(r->inputs);
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

static void tell(Audit *a, Entry *e)
{
    e->told = e->record.count;
    e->told_usec = e->record.last_usec;
    if (a->sink)
        a->sink(&e->record, a->userdata);
}

static void entry_done(Audit *a, Entry *e)
{
    if (e->record.count > e->told && !e->allowed)
        tell(a, e);
    audit_record_done(&e->record);
}

void audit_free(Audit *a)
{
    if (!a)
        return;
    for (size_t i = 0; i < a->n_entries; i++)
        entry_done(a, &a->entries[i]);
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

static uint64_t realtime(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000u + (uint64_t)now.tv_nsec / 1000u;
}

static int copy_record(Audit *a, const AuditRecord *from, uint64_t n, AuditRecord *to)
{
    uint64_t now = realtime();

    *to = (AuditRecord){
        .number = a->number + 1,
        .time_usec = now,
        .count = n,
        .last_usec = now,
        .subject = clean(from->subject),
        .inputs = clean(from->inputs),
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
    if (from->id)
        to->id = strdup(from->id);
    else if (asprintf(&to->id, "%s-%llu", a->prefix, (unsigned long long)to->number) < 0)
        to->id = NULL;
    if (!to->id || !to->subject || !to->inputs || !to->permission || !to->call || !to->rule ||
        !to->file || !to->reason || !to->suggestion) {
        audit_record_done(to);
        return -ENOMEM;
    }
    return 0;
}

/* A free place; or the oldest of the subject when its share is used up, the oldest allowed one when
 * there are too many of those or something else needs the place, the oldest of all. */
static Entry *place_for(Audit *a, uint64_t share, bool allowed)
{
    Entry *oldest[2] = {NULL, NULL}, *own = NULL; /* not allowed, allowed */
    size_t n_own = 0, n_allowed = 0;

    for (size_t i = 0; i < a->n_entries; i++) {
        Entry *e = &a->entries[i];

        n_allowed += e->allowed;
        if (e->share == share && e->allowed == allowed) {
            n_own++;
            if (!own || e->record.number < own->record.number)
                own = e;
        }
        if (!oldest[e->allowed] || e->record.number < oldest[e->allowed]->record.number)
            oldest[e->allowed] = e;
    }
    if (n_own >=
        (allowed ? AUDIT_ALLOWED_MAX / AUDIT_ALLOWED_SHARE : AUDIT_RECORDS_MAX / AUDIT_SHARE))
        return own;
    if (allowed && n_allowed >= AUDIT_ALLOWED_MAX)
        return oldest[true];
    if (a->n_entries < AUDIT_RECORDS_MAX)
        return &a->entries[a->n_entries++];
    if (!allowed)
        return oldest[a->n_entries - n_allowed < AUDIT_RECORDS_MAX - AUDIT_ALLOWED_MAX];
    return oldest[n_allowed > 0];
}

static int add(Audit *a, const AuditRecord *record, uint64_t n, uint64_t same,
               const AuditRecord **ret)
{
    AuditRecord copy;
    uint64_t share;
    Entry *place;
    int r = copy_record(a, record, n, &copy);

    if (r < 0)
        return r;
    a->number++;
    share = hash(share_of(copy.subject));
    place = place_for(a, share, streq(copy.verdict, "allowed"));
    entry_done(a, place);
    *place = (Entry){.record = copy,
                     .hash = hash(copy.subject),
                     .share = share,
                     .same = same,
                     .allowed = streq(copy.verdict, "allowed")};
    tell(a, place);
    if (ret)
        *ret = &place->record;
    return 0;
}

int audit_add(Audit *a, const AuditRecord *record, const AuditRecord **ret)
{
    AuditRecord copy = *record;

    copy.id = NULL;
    return add(a, &copy, 1, 0, ret);
}

bool audit_id_is_valid(const Audit *a, const char *id)
{
    size_t n = strlen(id), prefix = strcspn(id, "-");

    return n <= AUDIT_ID_MAX && prefix > 0 && prefix + 1 < n &&
           strspn(id, "0123456789abcdefghijklmnopqrstuvwxyz-") == n &&
           !(prefix == strlen(a->prefix) && strncmp(id, a->prefix, prefix) == 0);
}

/* Never 0. The texts before they are cut and escaped: what differs there only is not the same. */
static uint64_t hash_of_all(const AuditRecord *r)
{
    uint64_t h = hash(strempty(r->subject));

    h = hash_more(h, r->verdict);
    h = hash_more(h, strempty(r->permission));
    h = hash_more(h, strempty(r->call));
    h = hash_more(h, strempty(r->rule));
    return hash_more(h, strempty(r->reason)) | 1;
}

static void count(Audit *a, Entry *e, uint64_t n)
{
    e->record.count += n;
    e->record.last_usec = realtime();
    /* a clock set back is no reason to be silent */
    if (!e->allowed && (e->record.last_usec < e->told_usec ||
                        e->record.last_usec - e->told_usec >= AUDIT_AGAIN_USEC))
        tell(a, e);
}

static Entry *entry_of(Audit *a, const char *id)
{
    for (size_t i = 0; i < a->n_entries; i++)
        if (streq(a->entries[i].record.id, id))
            return &a->entries[i];
    return NULL;
}

static Entry *same_entry(Audit *a, uint64_t same)
{
    for (size_t i = 0; i < a->n_entries; i++)
        if (a->entries[i].same == same)
            return &a->entries[i];
    return NULL;
}

int audit_count(Audit *a, const AuditRecord *record, uint64_t n, const AuditRecord **ret)
{
    uint64_t same = hash_of_all(record);
    AuditRecord copy = *record;
    Entry *e = NULL;

    if (copy.id) {
        e = entry_of(a, copy.id);
        /* Nobody adds to what is somebody else's, nor takes its name. */
        if (e &&
            (e->hash != hash(strempty(copy.subject)) || !streq(e->record.verdict, copy.verdict))) {
            e = NULL;
            copy.id = NULL;
        }
    }
    if (!copy.id)
        e = same_entry(a, same);
    if (!e)
        return add(a, &copy, n, same, ret);
    count(a, e, n);
    if (ret)
        *ret = &e->record;
    return 0;
}

const AuditRecord *audit_find(const Audit *a, const char *id)
{
    const Entry *e = entry_of((Audit *)a, id);

    return e ? &e->record : NULL;
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

/* --- the journal ----------------------------------------------------------------------------- */

/* Who makes room first: nobody yet, one with nothing left to tell, the one longest silent. */
static bool leaves_before(const struct AuditMeterSubject *a, const struct AuditMeterSubject *b)
{
    if (!a->subject || !b->subject)
        return !a->subject && b->subject;
    if (!a->skipped != !b->skipped)
        return !a->skipped;
    return a->since < b->since;
}

static struct AuditMeterSubject *meter_find(AuditMeter *m, const char *subject)
{
    struct AuditMeterSubject *place = &m->subjects[0];

    for (size_t i = 0; i < AUDIT_METER_SUBJECTS; i++) {
        struct AuditMeterSubject *s = &m->subjects[i];

        if (s->subject && streq(s->subject, subject))
            return s;
        if (leaves_before(s, place))
            place = s;
    }
    m->others_skipped += place->skipped;
    free(place->subject);
    *place = (struct AuditMeterSubject){.subject = strdup(subject)};
    return place->subject ? place : NULL;
}

static bool period_is_over(const struct AuditMeterSubject *s, uint64_t now)
{
    return now < s->since || now - s->since > AUDIT_METER_PERIOD_USEC;
}

bool audit_meter_admits(AuditMeter *m, const char *subject, uint64_t now)
{
    struct AuditMeterSubject *s = meter_find(m, subject);

    if (!s)
        return true;
    if (period_is_over(s, now)) {
        s->since = now;
        s->n = 0;
    }
    if (s->n < AUDIT_METER_BURST) {
        s->n++;
        return true;
    }
    s->skipped++;
    return false;
}

bool audit_meter_skipped(AuditMeter *m, uint64_t now, char **ret_subject, uint64_t *ret_skipped)
{
    for (size_t i = 0; i < AUDIT_METER_SUBJECTS; i++) {
        struct AuditMeterSubject *s = &m->subjects[i];

        if (!s->subject || !s->skipped || (now != UINT64_MAX && !period_is_over(s, now)))
            continue;
        *ret_subject = TAKE_PTR(s->subject);
        *ret_skipped = s->skipped;
        *s = (struct AuditMeterSubject){0};
        return true;
    }
    if (m->others_skipped == 0 || !(*ret_subject = strdup("others")))
        return false;
    *ret_skipped = m->others_skipped;
    m->others_skipped = 0;
    return true;
}

/* --- the audit of h-logged ------------------------------------------------------------------- */

static uint8_t *put(uint8_t *to, const uint8_t *end, const char *name, const char *value)
{
    return hlog_put(to, end, name, strlen(name), HLOG_NAMED, value, strlen(value));
}

static uint8_t *put_number(uint8_t *to, const uint8_t *end, const char *name, uint64_t value)
{
    char text[24];

    snprintf(text, sizeof text, "%llu", (unsigned long long)value);
    return put(to, end, name, text);
}

/* Its ring takes these from nobody else, so no flood of the log pushes them out. False: h-logged is
 * not there, or has no room. */
static bool to_logged(const AuditRecord *r, const char *message)
{
    uint8_t fields[12288], *to = fields, *end = fields + sizeof fields;

    to = hlog_put(to, end, NULL, 0, HLOG_MESSAGE, message, strlen(message));
    to = hlog_put(to, end, NULL, 0, HLOG_IDENTIFIER, "h-securityd", strlen("h-securityd"));
    to = hlog_put(to, end, NULL, 0, HLOG_AUDIT, r->id, strlen(r->id));
    to = put(to, end, "VERDICT", r->verdict);
    to = put(to, end, "SUBJECT", r->subject);
    to = put(to, end, "INPUTS", r->inputs);
    to = put(to, end, "PERMISSION", r->permission);
    to = put(to, end, "CALL", r->call);
    to = put(to, end, "RULE", r->rule);
    to = put(to, end, "REASON", r->reason);
    to = put_number(to, end, "GENERATION", r->generation);
    to = put_number(to, end, "COUNT", r->count);
    return to && hybus_log_send(LOG_AUTHPRIV | LOG_NOTICE, fields, (size_t)(to - fields)) >= 0;
}

static AuditMeter meter;

static void tell_skipped(uint64_t now)
{
    uint64_t skipped;
    char *subject;

    while (audit_meter_skipped(&meter, now, &subject, &skipped)) {
        (void)sd_journal_send("MESSAGE=%llu more records of %s were only counted",
                              (unsigned long long)skipped, subject, "PRIORITY=%i", LOG_NOTICE,
                              "SYSLOG_IDENTIFIER=h-securityd", "HYBRIDOS_SUBJECT=%s", subject,
                              "HYBRIDOS_SKIPPED=%llu", (unsigned long long)skipped, NULL);
        free(subject);
    }
}

void audit_journal(const AuditRecord *r, void *userdata)
{
    char count[48] = "", message[AUDIT_TEXT_MAX * 16];

    tell_skipped(r->last_usec);
    if (!audit_meter_admits(&meter, share_of(r->subject), r->last_usec))
        return;
    if (r->count > 1)
        snprintf(count, sizeof count, ", %llu times", (unsigned long long)r->count);
    snprintf(message, sizeof message, "%s %s: %s %s%s%s (rule %s, %s%s)", r->id, r->verdict,
             r->subject, *r->permission ? r->permission : "nothing", *r->call ? " for " : "",
             r->call, *r->rule ? r->rule : "none", r->reason, count);
    if (to_logged(r, message))
        return;
    (void)sd_journal_send("MESSAGE=%s", message, "PRIORITY=%i", LOG_NOTICE,
                          "SYSLOG_IDENTIFIER=h-securityd", "HYBRIDOS_AUDIT=%s", r->id,
                          "HYBRIDOS_VERDICT=%s", r->verdict, "HYBRIDOS_SUBJECT=%s", r->subject,
                          "HYBRIDOS_PERMISSION=%s", r->permission, "HYBRIDOS_CALL=%s", r->call,
                          "HYBRIDOS_RULE=%s", r->rule, "HYBRIDOS_REASON=%s", r->reason,
                          "HYBRIDOS_GENERATION=%llu", (unsigned long long)r->generation,
                          "HYBRIDOS_COUNT=%llu", (unsigned long long)r->count, NULL);
}

void audit_journal_end(void)
{
    tell_skipped(UINT64_MAX);
}
