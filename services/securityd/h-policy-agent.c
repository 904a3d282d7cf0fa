/* SPDX-License-Identifier: Apache-2.0 */
/* h-policy agent: asks the person at this terminal; and what has been answered. */
#include "h-policy.h"

#include <hybus/base.h>
#include <hybus/error.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <systemd/sd-event.h>

#define AGENT_PATH "/org/hybridos/ConsentAgent1"
#define AGENT_INTERFACE "org.hybridos.ConsentAgent1"
#define QUESTIONS_MAX 32u /* as many as h-securityd asks at a time */
#define ALWAYS UINT64_MAX

typedef struct Question {
    TAILQ_ENTRY(Question) list;
    sd_bus_message *message;
    json_t *what;
} Question;

typedef struct Agent {
    sd_event *event;
    TAILQ_HEAD(, Question) questions; /* the first is before the person */
    size_t n_questions;
    char line[256];
    size_t size;
    bool too_long;
} Agent;

static void question_free(Agent *a, Question *q)
{
    TAILQ_REMOVE(&a->questions, q, list);
    a->n_questions--;
    sd_bus_message_unref(q->message);
    json_decref(q->what);
    free(q);
}

static void show_line(const char *name, const char *value)
{
    if (!*value)
        return;
    printf("  %-10s ", name);
    put(stdout, value);
    putchar('\n');
}

static void show(const Agent *a)
{
    const Question *q = TAILQ_FIRST(&a->questions);
    bool once;

    if (!q)
        return;
    once = json_is_true(plain(json_object_get(q->what, "once")));
    printf("\nMay ");
    put(stdout, field(q->what, "subject"));
    printf(" call ");
    put(stdout, field(q->what, "call"));
    printf(" of ");
    put(stdout, field(q->what, "service"));
    printf("?\n");
    show_line("arguments", field(q->what, "arguments"));
    if (json_is_true(plain(json_object_get(q->what, "cut"))))
        printf("             and more, which is not shown\n");
    show_line("path", field(q->what, "path"));
    show_line("who", field(q->what, "inputs"));
    show_line("permission", field(q->what, "permission"));
    show_line("rule", field(q->what, "rule"));
    printf(once ? "yes or no: " : "yes, no, yes SECONDS, no SECONDS, yes always, no always: ");
    fflush(stdout);
}

/* False: not an answer. */
static bool parse_answer(const char *line, bool *ret_yes, uint64_t *ret_keep)
{
    const char *rest;
    char *end;

    if ((rest = startswith(line, "yes")))
        *ret_yes = true;
    else if ((rest = startswith(line, "no")))
        *ret_yes = false;
    else
        return false;
    *ret_keep = 0;
    if (!*rest)
        return true;
    if (*rest++ != ' ')
        return false;
    if (streq(rest, "always")) {
        *ret_keep = ALWAYS;
        return true;
    }
    if (*rest < '0' || *rest > '9')
        return false;
    errno = 0;
    *ret_keep = strtoull(rest, &end, 10);
    return !*end && !errno && *ret_keep <= 86400;
}

static void on_line(Agent *a)
{
    Question *q = TAILQ_FIRST(&a->questions);
    uint64_t keep;
    bool yes;

    if (!q)
        return;
    if (!parse_answer(a->line, &yes, &keep)) {
        printf("That is no answer.\n");
    } else {
        (void)sd_bus_reply_method_return(q->message, "bt", (int)yes, keep);
        question_free(a, q);
    }
    show(a);
}

static int on_input(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
    Agent *a = userdata;
    char buffer[256];
    ssize_t n = read(fd, buffer, sizeof buffer);

    if (n <= 0)
        return sd_event_exit(a->event, 0);
    for (ssize_t i = 0; i < n; i++) {
        if (buffer[i] != '\n') {
            a->too_long |= a->size + 1 >= sizeof a->line;
            if (!a->too_long)
                a->line[a->size++] = buffer[i];
            continue;
        }
        a->line[a->too_long ? 0 : a->size] = '\0';
        a->size = 0;
        a->too_long = false;
        on_line(a);
    }
    return 0;
}

/* --- the object ------------------------------------------------------------------------------ */

static int method_ask(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    _cleanup_(hybus_json_error_done) hybus_json_error bad = {0};
    _cleanup_(hybus_json_decrefp) json_t *all = NULL;
    Agent *a = userdata;
    Question *q;
    int r = hybus_json_read(m, &all, &bad);

    if (r < 0)
        return r;
    if (a->n_questions >= QUESTIONS_MAX)
        return hybus_error_set(error, -ENOBUFS, "Too many questions");
    q = calloc(1, sizeof *q);
    if (!q)
        return -ENOMEM;
    q->message = sd_bus_message_ref(m);
    q->what = json_incref(json_array_get(all, 0));
    TAILQ_INSERT_TAIL(&a->questions, q, list);
    if (a->n_questions++ == 0)
        show(a);
    return 1;
}

static int method_cancel(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    Agent *a = userdata;
    Question *q;
    const char *id;
    int r = sd_bus_message_read(m, "s", &id);

    if (r < 0)
        return r;
    TAILQ_FOREACH (q, &a->questions, list)
        if (streq(field(q->what, "id"), id)) {
            bool shown = q == TAILQ_FIRST(&a->questions);

            question_free(a, q);
            if (shown) {
                printf("\nNobody waits for that any more.\n");
                show(a);
            }
            break;
        }
    return sd_bus_reply_method_return(m, "");
}

static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD_WITH_ARGS("Ask", SD_BUS_ARGS("a{sv}", question), SD_BUS_RESULT("b", allowed, "t", keep),
                            method_ask, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Cancel", SD_BUS_ARGS("s", id), SD_BUS_NO_RESULT, method_cancel,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

static int on_lost(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *name, *old, *new;
    Agent *a = userdata;

    /* Whoever comes back does not know us: better to end than to sit there for nothing. */
    if (sd_bus_message_read(m, "sss", &name, &old, &new) >= 0 && *old)
        return sd_event_exit(a->event, -ENOKEY);
    return 0;
}

static int set_up(Agent *a, sd_bus *bus)
{
    int r = sd_bus_attach_event(bus, a->event, 0);

    if (r >= 0)
        r = sd_bus_add_object_vtable(bus, NULL, AGENT_PATH, AGENT_INTERFACE, vtable, a);
    if (r >= 0)
        r = sd_bus_add_match(bus, NULL,
                             "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',"
                             "arg0='" SECURITY "'",
                             on_lost, a);
    if (r >= 0)
        r = sd_event_add_io(a->event, NULL, STDIN_FILENO, EPOLLIN, on_input, a);
    return r;
}

int verb_agent(const Options *o, char **words, int n)
{
    _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
    _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
    Agent a = {.questions = TAILQ_HEAD_INITIALIZER(a.questions)};
    int r = open_bus(&bus);

    if (r < 0)
        return r;
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    r = sd_event_new(&a.event);
    if (r >= 0)
        r = set_up(&a, bus);
    if (r >= 0)
        r = sd_bus_call_method(bus, SECURITY, SECURITY_PATH, SECURITY, "RegisterConsentAgent", &error, NULL, "o",
                               AGENT_PATH);
    if (r < 0) {
        (void)complain("agent", r, error.message);
    } else {
        printf("Questions about calls are asked here; the end of the input ends this.\n");
        fflush(stdout);
        r = sd_event_loop(a.event);
        if (r < 0)
            (void)complain("agent", r, r == -ENOKEY ? "h-securityd has gone" : NULL);
    }
    while (!TAILQ_EMPTY(&a.questions))
        question_free(&a, TAILQ_FIRST(&a.questions));
    sd_bus_detach_event(bus);
    sd_event_unref(a.event);
    return r;
}

/* --- what has been answered ------------------------------------------------------------------- */

int verb_consent_list(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    const json_t *c;
    size_t i;
    int r = call("ListConsents", &answer, "");

    if (r < 0)
        return r;
    if (o->json)
        return print_json(json_array_get(answer, 0));
    json_array_foreach(json_array_get(answer, 0), i, c)
    {
        uint64_t seconds = number_of(json_array_get(c, 5));

        printf("%s %s ", text_of(json_array_get(c, 0)), json_is_true(json_array_get(c, 3)) ? "yes" : "no");
        put(stdout, text_of(json_array_get(c, 1)));
        putchar(' ');
        put(stdout, text_of(json_array_get(c, 2)));
        printf(" (");
        put(stdout, text_of(json_array_get(c, 4)));
        if (seconds == ALWAYS)
            printf(", for always)\n");
        else
            printf(", %llu seconds left)\n", (unsigned long long)seconds);
    }
    return 0;
}

int verb_consent_forget(const Options *o, char **words, int n)
{
    return call("ForgetConsent", NULL, "s", words[0]);
}
