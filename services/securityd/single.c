/* SPDX-License-Identifier: Apache-2.0 */
#include "single.h"

#include "security-internal.h"

/* As it stands after arg.NAME=. Others than plain values match nothing, and what is secret neither.
 */
static const char *text_of(const json_t *v, char *buffer, size_t size)
{
    if (json_is_string(v))
        return json_string_value(v);
    if (json_is_boolean(v))
        return json_is_true(v) ? "true" : "false";
    if (!json_is_integer(v))
        return NULL;
    snprintf(buffer, size, "%lld", (long long)json_integer_value(v));
    return buffer;
}

static void read_arguments(Single *single, const json_t *arguments)
{
    Moment *m = &single->moment;
    const Member *member = single->member;
    size_t n = words_count(member->arguments);

    for (size_t i = 0; i < n && i < json_array_size(arguments) && i < CATALOGUE_ARGUMENTS_MAX;
         i++) {
        single->names[i] = member->arguments[i];
        single->values[i] = member->secret >> i & 1
                                ? NULL
                                : text_of(json_array_get(arguments, i), single->numbers[i],
                                          sizeof single->numbers[i]);
        m->n_arguments = i + 1;
    }
    m->names = single->names;
    m->values = single->values;
}

static void take(Security *s, const Rule *rule, const Subject *subject)
{
    if (rule->more.rate)
        rates_take(&s->rates, rule->id, security_subject_name(subject), rule->more.rate,
                   rule->more.rate_usec, security_boottime());
}

/* Of two, each uses up its own: a holder has no more of it by acting for many, nor a principal by
 * being acted for by many. */
static void count(Security *s, const Subject *subject, const Question *q, const Verdict *v)
{
    Subject holder = *subject;
    Verdict own;

    security_used(s, subject, q->permission, q->service, 1);
    if (!subject->behalf) {
        take(s, v->rule, subject);
        return;
    }
    holder.behalf = NULL;
    own = policy_judge(s->policy, &holder, q->permission);
    if (own.rule)
        take(s, own.rule, &holder);
    take(s, v->rule, subject->behalf);
}

/* The moment of the call, for both of a bound caller. */
static void set_moments(Security *s, Subject *subject, Single *single)
{
    Subject holder = *subject;

    holder.behalf = NULL;
    single->moment.rates = &s->rates;
    single->moment.who = security_subject_name(&holder);
    subject->moment = &single->moment;
    if (!subject->behalf)
        return;
    single->behalf_moment = single->moment;
    single->behalf_moment.who = subject->behalf->name ? subject->behalf->name : "anonymous";
    single->behalf = *subject->behalf;
    single->behalf.moment = &single->behalf_moment;
    subject->behalf = &single->behalf;
}

int single_judge(Security *s, Subject *subject, const Question *q, const json_t *arguments,
                 Single *ret)
{
    bool wants = false;

    *ret = (Single){.moment = *security_moment(s)};
    if (!q->permission || subject->unknown)
        return 0;
    ret->member = catalogue_find(s->catalogue, q->interface, q->member, q->kind);
    /* The row of it: what it allows needs no second look. */
    subject->moment = security_moment(s);
    if (policy_judge(s->policy, subject, q->permission).allowed) {
        subject->moment = NULL;
        return 0;
    }
    ret->moment.wants_arguments = &wants;
    if (ret->member && json_is_array(arguments))
        read_arguments(ret, arguments);
    set_moments(s, subject, ret);
    ret->verdict = policy_judge(s->policy, subject, q->permission);
    ret->moment.wants_arguments = ret->behalf_moment.wants_arguments =
        NULL; /* it outlives this call */
    /* A person speaks for one of the two only, and both must be allowed. */
    ret->ask = !subject->behalf && !ret->verdict.allowed && ret->verdict.rule &&
               ret->verdict.rule->kind == RULE_ASK;
    /* A person is shown them in any case. */
    ret->wants_arguments = (wants || ret->ask) && json_is_false(arguments) && ret->member;
    ret->once = ret->verdict.allowed && !ret->wants_arguments;
    if (ret->once)
        count(s, subject, q, &ret->verdict);
    return 0;
}
