/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "audit.h"

typedef struct Sink {
    unsigned n;
    uint64_t last_count, sum;
    char last_id[32];
} Sink;

static Sink sink;
static Audit *audit;

static void on_record(const AuditRecord *r, void *userdata)
{
    assert_ptr_equal(userdata, &sink);
    sink.n++;
    sink.last_count = r->count;
    snprintf(sink.last_id, sizeof sink.last_id, "%s", r->id);
}

static int set_up(void **state)
{
    sink = (Sink){0};
    return audit_new(on_record, &sink, &audit);
}

static int tear_down(void **state)
{
    audit_free(audit);
    return 0;
}

static AuditRecord record(const char *subject, const char *verdict)
{
    return (AuditRecord){.subject = (char *)subject,
                         .permission = (char *)"log.read",
                         .call = (char *)"logd: org.hybridos.Log1.Read (method)",
                         .rule = (char *)"default",
                         .file = (char *)"",
                         .reason = (char *)"no rule grants it",
                         .suggestion = (char *)"h-policy grant uid:1000 log.read",
                         .verdict = verdict,
                         .line = 7,
                         .layer = 2,
                         .generation = 3};
}

static unsigned count_of(const char *subject)
{
    uint64_t number = UINT64_MAX;
    const AuditRecord *r;
    unsigned n = 0;

    while ((r = audit_older(audit, number))) {
        number = r->number;
        n += !subject || streq(r->subject, subject);
    }
    return n;
}

static void test_a_record_says_everything(void **state)
{
    AuditRecord in = record("uid:1000", "denied");
    const AuditRecord *r = NULL;

    assert_int_equal(audit_add(audit, &in, &r), 0);
    assert_string_equal(r->subject, "uid:1000");
    assert_string_equal(r->permission, "log.read");
    assert_string_equal(r->call, "logd: org.hybridos.Log1.Read (method)");
    assert_string_equal(r->rule, "default");
    assert_string_equal(r->reason, "no rule grants it");
    assert_string_equal(r->suggestion, "h-policy grant uid:1000 log.read");
    assert_string_equal(r->verdict, "denied");
    assert_int_equal(r->line, 7);
    assert_int_equal(r->layer, 2);
    assert_int_equal(r->generation, 3);
    assert_int_equal(r->number, 1);
    assert_int_equal(r->count, 1);
    assert_true(r->time_usec > UINT64_C(1500000000) * 1000000);
    assert_ptr_equal(audit_find(audit, r->id), r);
    assert_string_equal(sink.last_id, r->id);
    assert_null(audit_find(audit, "none-1"));
    assert_null(audit_find(audit, ""));
}

static void test_ids_are_not_those_of_an_earlier_start(void **state)
{
    AuditRecord in = record("uid:1000", "denied");
    Audit *other;
    const AuditRecord *a, *b;

    assert_int_equal(audit_new(NULL, NULL, &other), 0);
    assert_int_equal(audit_add(audit, &in, &a), 0);
    assert_int_equal(audit_add(other, &in, &b), 0);
    assert_string_not_equal(a->id, b->id);
    audit_free(other);
}

static void test_texts_of_others_are_tamed(void **state)
{
    AuditRecord in = record("uid:1000", "denied");
    const AuditRecord *r;
    char longer[5000];

    in.call = (char *)"a\nb\x1b[2J\\\x7f\xc3\xa9\t";
    assert_int_equal(audit_add(audit, &in, &r), 0);
    assert_string_equal(r->call, "a\\x0ab\\x1b[2J\\x5c\\x7f\\xc3\\xa9\\x09");
    memset(longer, '\1', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    in.call = in.subject = in.permission = in.reason = longer;
    assert_int_equal(audit_add(audit, &in, &r), 0);
    assert_int_equal(strlen(r->call), 4 * AUDIT_TEXT_MAX);
    assert_int_equal(strlen(r->subject), 4 * AUDIT_TEXT_MAX);
    /* Texts that nobody gave are empty. */
    in = (AuditRecord){.verdict = "changed"};
    assert_int_equal(audit_add(audit, &in, &r), 0);
    assert_string_equal(r->subject, "");
    assert_string_equal(r->suggestion, "");
}

static void test_newest_first(void **state)
{
    AuditRecord in = record("uid:1000", "denied");
    uint64_t number = UINT64_MAX;

    for (unsigned i = 0; i < 300; i++)
        assert_int_equal(audit_add(audit, &in, NULL), 0);
    for (unsigned i = 300; i > 0; i--) {
        const AuditRecord *r = audit_older(audit, number);

        assert_int_equal(r->number, i);
        number = i;
    }
    assert_null(audit_older(audit, number));
}

static void test_nobody_washes_away_the_traces_of_others(void **state)
{
    AuditRecord quiet = record("uid:1", "denied"), loud = record("uid:2", "denied");
    const AuditRecord *first;
    char id[32];

    assert_int_equal(audit_add(audit, &quiet, &first), 0);
    snprintf(id, sizeof id, "%s", first->id);
    for (unsigned i = 0; i < 3 * AUDIT_RECORDS_MAX; i++)
        assert_int_equal(audit_add(audit, &loud, NULL), 0);
    assert_int_equal(count_of("uid:2"), AUDIT_RECORDS_MAX / AUDIT_SHARE);
    assert_int_equal(count_of("uid:1"), 1);
    assert_non_null(audit_find(audit, id));
    /* All went to the sink. */
    assert_int_equal(sink.n, 1 + 3 * AUDIT_RECORDS_MAX);
}

/* Nor by coming under ever new names. */
static void test_connections_that_nobody_knows_are_one_subject(void **state)
{
    AuditRecord quiet = record("uid:1", "denied"), loud = record("", "denied");
    char subject[32];

    assert_int_equal(audit_add(audit, &quiet, NULL), 0);
    loud.subject = subject;
    for (unsigned i = 0; i < 2 * AUDIT_RECORDS_MAX; i++) {
        snprintf(subject, sizeof subject, "bus::1.%u", i);
        assert_int_equal(audit_count(audit, &loud, 1, NULL), 0);
    }
    assert_int_equal(count_of(NULL), 1 + AUDIT_RECORDS_MAX / AUDIT_SHARE);
    assert_int_equal(count_of("uid:1"), 1);
}

static void test_what_is_allowed_does_not_crowd_out_what_is_not(void **state)
{
    AuditRecord in = record("", "denied");
    char subject[16];

    for (unsigned i = 0; i < AUDIT_RECORDS_MAX; i++) {
        snprintf(subject, sizeof subject, "uid:%u", i);
        in.subject = subject;
        in.verdict = "denied";
        assert_int_equal(audit_add(audit, &in, NULL), 0);
    }
    for (unsigned i = 0; i < 2 * AUDIT_RECORDS_MAX; i++) {
        snprintf(subject, sizeof subject, "uid:%u", i);
        in.subject = subject;
        in.verdict = "allowed";
        assert_int_equal(audit_add(audit, &in, NULL), 0);
    }
    /* A ring full of refusals keeps them, but for the one whose place is used again and again. */
    assert_int_equal(count_of(NULL), AUDIT_RECORDS_MAX);
    assert_non_null(audit_older(audit, 3));
    for (unsigned i = 0; i < 2 * AUDIT_RECORDS_MAX; i++) {
        snprintf(subject, sizeof subject, "uid:%u", i);
        in.subject = subject;
        in.verdict = "denied";
        assert_int_equal(audit_add(audit, &in, NULL), 0);
    }
    assert_int_equal(count_of(NULL), AUDIT_RECORDS_MAX);
}

static void test_allowed_ones_get_half(void **state)
{
    AuditRecord in = record("", "allowed");
    unsigned allowed = 0;
    uint64_t number = UINT64_MAX;
    const AuditRecord *r;
    char subject[16];

    for (unsigned i = 0; i < 2 * AUDIT_RECORDS_MAX; i++) {
        snprintf(subject, sizeof subject, "uid:%u", i);
        in.subject = subject;
        assert_int_equal(audit_add(audit, &in, NULL), 0);
    }
    assert_int_equal(count_of(NULL), AUDIT_ALLOWED_MAX);
    in.verdict = "denied";
    for (unsigned i = 0; i < 2 * AUDIT_RECORDS_MAX; i++) {
        snprintf(subject, sizeof subject, "uid:%u", i);
        in.subject = subject;
        assert_int_equal(audit_add(audit, &in, NULL), 0);
    }
    while ((r = audit_older(audit, number))) {
        number = r->number;
        allowed += streq(r->verdict, "allowed");
    }
    assert_int_equal(allowed, AUDIT_ALLOWED_MAX);
    assert_int_equal(count_of(NULL), AUDIT_RECORDS_MAX);
}

static void test_the_same_again_is_a_count(void **state)
{
    AuditRecord in = record("uid:1", "allowed"), other;
    const AuditRecord *r;

    assert_int_equal(audit_count(audit, &in, 1, &r), 0);
    assert_int_equal(r->count, 1);
    assert_int_equal(audit_count(audit, &in, 41, &r), 0);
    assert_int_equal(r->count, 42);
    assert_true(r->last_usec >= r->time_usec);
    assert_int_equal(count_of(NULL), 1);
    assert_int_equal(sink.n, 1);
    /* Whatever differs makes it another. */
    for (unsigned i = 0; i < 6; i++) {
        other = in;
        *(const char **[]){(const char **)&other.subject, (const char **)&other.permission,
                           (const char **)&other.call,    (const char **)&other.rule,
                           (const char **)&other.reason,  &other.verdict}[i] = "something else";
        assert_int_equal(audit_count(audit, &other, 1, NULL), 0);
        assert_int_equal(count_of(NULL), 2 + i);
    }
    /* One that stands for itself is never counted into. */
    assert_int_equal(audit_add(audit, &in, NULL), 0);
    assert_int_equal(count_of(NULL), 8);
}

/* What a filter has told its caller already is what the record is called. */
static void test_ids_of_filters(void **state)
{
    static const char *const bad[] = {
        "", "-", "a-", "-1", "a1", "A-1", "a 1-1", "a-1\n", "a-123456789012345678901234567890"};
    AuditRecord r = record("uid:1000", "limited"), other = record("uid:1001", "limited");
    const AuditRecord *first, *got;
    char own[32];

    assert_int_equal(audit_add(audit, &r, &first), 0);
    snprintf(own, sizeof own, "%s", first->id);
    for (size_t i = 0; i < ELEMENTS(bad); i++)
        if (audit_id_is_valid(audit, bad[i]))
            fail_msg("\"%s\" is valid", bad[i]);
    *strchr(own, '-') = '\0';
    strcat(own, "-99"); /* the agent's own, to come */
    assert_false(audit_id_is_valid(audit, own));
    assert_true(audit_id_is_valid(audit, "0a1b2c-7"));

    r.id = other.id = (char *)"0a1b2c-7";
    assert_int_equal(audit_count(audit, &r, 3, &got), 0);
    assert_string_equal(got->id, "0a1b2c-7");
    assert_ptr_equal(audit_find(audit, "0a1b2c-7"), got);
    r.call = (char *)"logd"; /* the rest of them, without saying which calls they were */
    assert_int_equal(audit_count(audit, &r, 4, &got), 0);
    assert_string_equal(got->id, "0a1b2c-7");
    assert_int_equal(got->count, 7);
    /* Nobody adds to a record of somebody else, nor hides behind its name. */
    assert_int_equal(audit_count(audit, &other, 5, &got), 0);
    assert_string_not_equal(got->id, "0a1b2c-7");
    assert_string_equal(got->subject, "uid:1001");
    assert_int_equal(audit_find(audit, "0a1b2c-7")->count, 7);
    r.verdict = "denied";
    assert_int_equal(audit_count(audit, &r, 1, &got), 0);
    assert_string_not_equal(got->id, "0a1b2c-7");
    /* The same of another connection has a name of its own. */
    r = record("uid:1000", "limited");
    r.id = (char *)"0a1b2c-8";
    assert_int_equal(audit_count(audit, &r, 1, &got), 0);
    assert_string_equal(got->id, "0a1b2c-8");
    assert_int_equal(got->count, 1);
    assert_int_equal(audit_add(audit, &r, &got),
                     0); /* which is for others to say only where it counts */
    assert_string_not_equal(got->id, "0a1b2c-8");
}

static void test_no_count_is_lost(void **state)
{
    AuditRecord in = record("uid:1", "limited"), loud = record("uid:1", "denied");
    const AuditRecord *r;

    assert_int_equal(audit_count(audit, &in, 1, &r), 0);
    for (unsigned i = 0; i < 1000; i++)
        assert_int_equal(audit_count(audit, &in, 3, &r), 0);
    assert_int_equal(sink.n, 1); /* not a record for each */
    /* The record leaves: its count goes to the sink first. */
    sink.sum = 0;
    for (unsigned i = 0; i < AUDIT_RECORDS_MAX / AUDIT_SHARE; i++) {
        unsigned before = sink.n;

        assert_int_equal(audit_add(audit, &loud, NULL), 0);
        sink.sum += sink.n - before - 1;
    }
    assert_int_equal(sink.sum, 1);
    assert_int_equal(count_of("uid:1"), AUDIT_RECORDS_MAX / AUDIT_SHARE);
    /* At the end all that has not been told is. */
    in.subject = (char *)"uid:3";
    assert_int_equal(audit_count(audit, &in, 1, &r), 0);
    assert_int_equal(audit_count(audit, &in, 7, &r), 0);
    in.verdict = "allowed";
    assert_int_equal(audit_count(audit, &in, 1, &r), 0);
    assert_int_equal(audit_count(audit, &in, 7, &r), 0);
    sink.n = 0;
    audit_free(audit);
    assert_int_equal(sink.n, 1);
    assert_int_equal(sink.last_count, 8);
    assert_int_equal(audit_new(on_record, &sink, &audit), 0);
}

static void test_the_journal_gets_a_bounded_part(void **state)
{
    static AuditMeter meter;
    uint64_t now = 1000 * AUDIT_METER_PERIOD_USEC, skipped;
    unsigned admitted = 0;
    char *subject, name[16];

    for (unsigned i = 0; i < 1000; i++)
        admitted += audit_meter_admits(&meter, "uid:1", now);
    assert_int_equal(admitted, AUDIT_METER_BURST);
    /* Nobody else is silenced by it. */
    for (unsigned i = 0; i < AUDIT_METER_SUBJECTS - 1; i++) {
        snprintf(name, sizeof name, "user:u%u", i);
        assert_true(audit_meter_admits(&meter, name, now));
    }
    assert_false(audit_meter_skipped(&meter, now, &subject, &skipped));
    assert_false(audit_meter_admits(&meter, "uid:1", now + AUDIT_METER_PERIOD_USEC));
    now += AUDIT_METER_PERIOD_USEC + 1;
    assert_true(audit_meter_skipped(&meter, now, &subject, &skipped));
    assert_string_equal(subject, "uid:1");
    assert_int_equal(skipped, 1000 - AUDIT_METER_BURST + 1);
    free(subject);
    assert_false(audit_meter_skipped(&meter, now, &subject, &skipped));
    assert_true(audit_meter_admits(&meter, "uid:1", now));
    /* More who flood than there are places: the counts go on, without the names. */
    for (unsigned i = 0; i < 2 * AUDIT_METER_SUBJECTS; i++) {
        snprintf(name, sizeof name, "token:t%u", i);
        for (unsigned k = 0; k < AUDIT_METER_BURST + 5; k++)
            (void)audit_meter_admits(&meter, name, now);
    }
    admitted = 0;
    while (audit_meter_skipped(&meter, UINT64_MAX, &subject, &skipped)) {
        admitted += (unsigned)skipped;
        free(subject);
    }
    assert_int_equal(admitted, 5 * 2 * AUDIT_METER_SUBJECTS);
    /* A clock that is set back silences nobody. */
    for (unsigned i = 0; i < 2 * AUDIT_METER_BURST; i++)
        (void)audit_meter_admits(&meter, "uid:9", now);
    assert_true(audit_meter_admits(&meter, "uid:9", now / 2));
    while (audit_meter_skipped(&meter, UINT64_MAX, &subject, &skipped))
        free(subject);
    for (unsigned i = 0; i < AUDIT_METER_SUBJECTS; i++)
        free(meter.subjects[i].subject);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_a_record_says_everything),
        T(test_ids_are_not_those_of_an_earlier_start),
        T(test_texts_of_others_are_tamed),
        T(test_newest_first),
        T(test_nobody_washes_away_the_traces_of_others),
        T(test_connections_that_nobody_knows_are_one_subject),
        T(test_what_is_allowed_does_not_crowd_out_what_is_not),
        T(test_allowed_ones_get_half),
        T(test_the_same_again_is_a_count),
        T(test_ids_of_filters),
        T(test_no_count_is_lost),
        T(test_the_journal_gets_a_bounded_part),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
