/* SPDX-License-Identifier: Apache-2.0 */
/* What a person is asked, what an answer is bound to, and how little a flood can do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "consent.h"
#include "fixture.h"

#define SECOND UINT64_C(1000000)

/* Somebody who reads every question. */
typedef struct Person {
    ConsentQuestion *questions[64];
    size_t n, n_cancelled;
    uint32_t uid; /* their own */
} Person;

static int ask(ConsentQuestion *q, const ConsentCall *call, void *userdata)
{
    Person *p = userdata;

    if (call->uid == p->uid)
        return -ENOENT;
    assert_true(p->n < ELEMENTS(p->questions));
    p->questions[p->n++] = q;
    return 0;
}

static void cancel(ConsentQuestion *q, void *userdata)
{
    ((Person *)userdata)->n_cancelled++;
}

typedef struct Waiter {
    ConsentWaiter w;
    unsigned yes, no;
    char why[64];
} Waiter;

static void on_answer(ConsentWaiter *waiter, bool yes, const char *why)
{
    Waiter *w = (Waiter *)waiter;

    *(yes ? &w->yes : &w->no) += 1;
    snprintf(w->why, sizeof w->why, "%s", why);
}

typedef struct State {
    Fixture *f;
    Consent *c;
    Person person;
} State;

static int set_up(void **state)
{
    State *s = calloc(1, sizeof *s);

    s->f = fixture_new();
    assert_int_equal(consent_new(s->f->settings.state_directory, &s->c), 0);
    s->person.uid = 1;
    consent_set_asker(s->c, &(ConsentAsker){.ask = ask, .cancel = cancel, .userdata = &s->person});
    *state = s;
    return 0;
}

static int tear_down(void **state)
{
    State *s = *state;

    consent_free(s->c);
    fixture_free(s->f);
    free(s);
    return 0;
}

static ConsentCall call_with(const char *subject, const char *arguments)
{
    return (ConsentCall){.subject = subject,
                         .inputs = "",
                         .permission = "unit.start",
                         .rule = "ask-me",
                         .service = "unitd",
                         .interface = "org.hybridos.Unit1",
                         .member = "Start",
                         .path = "/",
                         .arguments = arguments,
                         .kind = 'm',
                         .uid = 1000};
}

static int put(State *s, const ConsentCall *call, Waiter *w)
{
    *w = (Waiter){.w.f = on_answer};
    return consent_ask(s->c, call, SECOND, &w->w);
}

static int known(State *s, const ConsentCall *call, uint64_t now)
{
    const char *why;

    return consent_remembered(s->c, call, now, &why);
}

static void the_same_call_is_one_question(void **state)
{
    const ConsentCall call = call_with("uid:1000", "[1]");
    State *s = *state;
    Waiter w[10];

    for (size_t i = 0; i < ELEMENTS(w); i++)
        assert_int_equal(put(s, &call, &w[i]), 0);
    assert_int_equal(s->person.n, 1);
    assert_int_equal(consent_answer(s->person.questions[0], true, 0, "said so", SECOND), 0);
    for (size_t i = 0; i < ELEMENTS(w); i++) {
        assert_int_equal(w[i].yes, 1);
        assert_int_equal(w[i].no, 0);
        assert_string_equal(w[i].why, "said so");
    }
    assert_int_equal(known(s, &call, SECOND), 0); /* once is once */
}

/* Every part of the call counts: one that differs anywhere is another. */
static void an_answer_is_bound_to_all_of_the_call(void **state)
{
    ConsentCall call = call_with("uid:1000", "[\"a\"]"), other[9];
    State *s = *state;
    Waiter w;

    assert_int_equal(put(s, &call, &w), 0);
    assert_int_equal(consent_answer(s->person.questions[0], true, 60, "x", SECOND), 0);
    assert_int_equal(known(s, &call, SECOND), 1);
    assert_int_equal(known(s, &call, 61 * SECOND - 1), 1);
    for (size_t i = 0; i < ELEMENTS(other); i++)
        other[i] = call;
    other[0].subject = "uid:1001";
    other[1].permission = "unit.stop";
    other[2].rule = "ask-me-too";
    other[3].service = "unite";
    other[4].interface = "org.hybridos.Unit2";
    other[5].member = "Stop";
    other[6].path = "/x";
    other[7].arguments = "[\"b\"]";
    other[8].kind = 's';
    for (size_t i = 0; i < ELEMENTS(other); i++)
        assert_int_equal(known(s, &other[i], SECOND), 0);
    assert_int_equal(known(s, &call, 61 * SECOND), 0); /* the time is over */
}

static void a_no_is_kept_as_well(void **state)
{
    const ConsentCall call = call_with("uid:1000", "");
    State *s = *state;
    Waiter w;

    assert_int_equal(put(s, &call, &w), 0);
    assert_int_equal(consent_answer(s->person.questions[0], false, 60, "no", SECOND), 0);
    assert_int_equal(w.no, 1);
    assert_int_equal(known(s, &call, SECOND), -EACCES);
}

/* A person has seen its length only: another secret of that length would pass. */
static void what_holds_a_secret_is_answered_once(void **state)
{
    ConsentCall call = call_with("uid:1000", "[{\"secret\":8}]");
    State *s = *state;
    Waiter w[2];

    call.secret = true;
    assert_int_equal(put(s, &call, &w[0]), 0);
    assert_int_equal(put(s, &call, &w[1]), 0);
    assert_int_equal(s->person.n, 2); /* nor is it one question */
    assert_int_equal(consent_answer(s->person.questions[0], true, CONSENT_ALWAYS, "x", SECOND), 0);
    assert_int_equal(w[0].yes, 1);
    assert_int_equal(w[1].yes, 0);
    assert_int_equal(known(s, &call, SECOND), 0);
    consent_withdraw(&w[1].w);
}

static void a_flood_is_cut(void **state)
{
    State *s = *state;
    Waiter w[64];
    char arguments[64], subject[32];
    size_t n = 0;

    for (unsigned i = 0; i < 20; i++) {
        snprintf(arguments, sizeof arguments, "[%u]", i);
        const ConsentCall call = call_with("uid:1000", arguments);
        int r = put(s, &call, &w[n]);

        assert_int_equal(r, i < CONSENT_PER_SUBJECT_MAX ? 0 : -ENOBUFS);
        n += r == 0;
    }
    assert_int_equal(s->person.n, CONSENT_PER_SUBJECT_MAX);
    /* Answered quickly, they still come no faster than CONSENT_RATE. */
    for (size_t i = 0; i < n; i++)
        consent_answer(s->person.questions[i], false, 0, "no", SECOND);
    for (unsigned i = 100; i < 110; i++) {
        snprintf(arguments, sizeof arguments, "[%u]", i);
        const ConsentCall call = call_with("uid:1000", arguments);

        if (put(s, &call, &w[0]) == 0)
            consent_answer(s->person.questions[s->person.n - 1], false, 0, "no", SECOND);
    }
    assert_int_equal(s->person.n, CONSENT_RATE);
    /* Others are asked about all the same, up to what a person can have before them. */
    n = 0;
    for (unsigned i = 0; i < CONSENT_PENDING_MAX + 8; i++) {
        snprintf(subject, sizeof subject, "user:u%u", i);
        const ConsentCall call = call_with(subject, "");

        n += put(s, &call, &w[i]) == 0;
    }
    assert_int_equal(n, CONSENT_PENDING_MAX);
    for (unsigned i = 0; i < CONSENT_PENDING_MAX; i++)
        consent_withdraw(&w[i].w);
    assert_int_equal(s->person.n_cancelled, CONSENT_PENDING_MAX);
}

static void waiters_are_bounded(void **state)
{
    const ConsentCall call = call_with("uid:1000", "");
    Waiter *w = calloc(CONSENT_WAITERS_MAX + 1, sizeof *w);
    State *s = *state;

    for (size_t i = 0; i < CONSENT_WAITERS_MAX; i++)
        assert_int_equal(put(s, &call, &w[i]), 0);
    assert_int_equal(put(s, &call, &w[CONSENT_WAITERS_MAX]), -ENOBUFS);
    for (size_t i = 0; i < CONSENT_WAITERS_MAX; i++)
        consent_withdraw(&w[i].w);
    assert_int_equal(s->person.n_cancelled, 1); /* with the last of them */
    assert_int_equal(put(s, &call, &w[0]), 0);
    consent_withdraw(&w[0].w);
    free(w);
}

static void nobody_there(void **state)
{
    ConsentCall call = call_with("uid:1", "");
    State *s = *state;
    Waiter w;

    call.uid = 1;
    assert_int_equal(put(s, &call, &w), -ENOENT); /* about themselves */
    consent_set_asker(s->c, NULL);
    call.uid = 1000;
    assert_int_equal(put(s, &call, &w), -ENOENT);
}

static void always_is_kept_in_a_file_and_a_damaged_one_is_none(void **state)
{
    const ConsentCall call = call_with("user:alice", "[1]"), other = call_with("user:alice", "[2]");
    State *s = *state;
    const ConsentRemembered *all;
    const char *directory = s->f->settings.state_directory;
    char *text;
    size_t size;
    Waiter w;

    assert_int_equal(put(s, &call, &w), 0);
    assert_int_equal(consent_answer(s->person.questions[0], true, CONSENT_ALWAYS, "x", SECOND), 0);
    assert_int_equal(put(s, &other, &w), 0);
    assert_int_equal(consent_answer(s->person.questions[1], true, 60, "x", SECOND), 0);
    consent_free(s->c);
    assert_int_equal(consent_new(directory, &s->c), 0);
    consent_set_asker(s->c, &(ConsentAsker){.ask = ask, .cancel = cancel, .userdata = &s->person});
    assert_int_equal(known(s, &call, SECOND), 1);
    assert_int_equal(known(s, &other, SECOND), 0);
    assert_int_equal(consent_list(s->c, SECOND, &all), 1);
    assert_string_equal(all[0].subject, "user:alice");

    text = fixture_read(directory, "consents", &size);
    text[size - 5] ^= 1;
    fixture_write(directory, "consents", text);
    consent_free(s->c);
    assert_int_equal(consent_new(directory, &s->c), 0);
    assert_int_equal(known(s, &call, SECOND), 0);
    text[size - 5] ^= 1;
    fixture_write(directory, "consents", text);
    free(text);
    consent_free(s->c);
    assert_int_equal(consent_new(directory, &s->c), 0);
    assert_int_equal(known(s, &call, SECOND), 1);
    /* Whoever comes later by that name is somebody else. */
    consent_forget_subject(s->c, "user:alice");
    assert_int_equal(known(s, &call, SECOND), 0);
    consent_free(s->c);
    assert_int_equal(consent_new(directory, &s->c), 0);
    assert_int_equal(known(s, &call, SECOND), 0);
}

static void what_is_remembered_is_bounded(void **state)
{
    char arguments[32], subject[32];
    State *s = *state;
    Waiter w;

    for (unsigned i = 0; i < CONSENT_REMEMBERED_MAX + 10; i++) {
        const ConsentCall call = call_with(subject, arguments);

        (void)snprintf(subject, sizeof subject, "user:u%u", i);
        (void)snprintf(arguments, sizeof arguments, "[%u]", i);
        s->person.n = 0;
        assert_int_equal(put(s, &call, &w), 0);
        assert_int_equal(consent_answer(s->person.questions[0], true, 3600, "x", SECOND),
                         i < CONSENT_REMEMBERED_MAX ? 0 : -ENOBUFS);
        assert_int_equal(w.yes, 1); /* this once all the same */
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_same_call_is_one_question, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_answer_is_bound_to_all_of_the_call, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_no_is_kept_as_well, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_holds_a_secret_is_answered_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_flood_is_cut, set_up, tear_down),
        cmocka_unit_test_setup_teardown(waiters_are_bounded, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nobody_there, set_up, tear_down),
        cmocka_unit_test_setup_teardown(always_is_kept_in_a_file_and_a_damaged_one_is_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_remembered_is_bounded, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
