/* SPDX-License-Identifier: Apache-2.0 */
/* h-policy record: what a test run used and was refused, as a minimal policy. */
#include "h-policy.h"

#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <hybus/base.h>

extern char **environ;

#define RECORDS_MAX 1000u

/* Its exit status does not matter: what it tried before it failed is what we are here for. */
static int run(char **words)
{
    pid_t child;
    int status, r;

    r = posix_spawnp(&child, words[0], NULL, NULL, words, environ);
    if (r != 0)
        return complain(words[0], -r, NULL);
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return complain(words[0], -errno, NULL);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        fprintf(stderr, "h-policy: %s failed; the proposal covers what it tried until then\n", words[0]);
    return 0;
}

static int run_or_wait(char **words, int n)
{
    int c;

    if (n > 0)
        return run(words);
    fprintf(stderr, "Recording. Run the test, then press Enter (or end the input) here.\n");
    while ((c = getchar()) != EOF && c != '\n')
        ;
    return 0;
}

/* --- the proposal ---------------------------------------------------------------------------- */

static bool was_seen(const json_t *records, size_t until, const char *permission)
{
    for (size_t i = 0; i < until; i++)
        if (streq(field(json_array_get(records, i), "permission"), permission))
            return true;
    return false;
}

static void print_reason(const json_t *record, const char *temporary)
{
    const char *rule = field(record, "rule");
    bool refused = streq(field(record, "last"), "denied");

    printf("#   ");
    put(stdout, field(record, "permission"));
    printf(": %s", refused ? "was refused" : "was used");
    if (*field(record, "service")) {
        printf(" at ");
        put(stdout, field(record, "service"));
    }
    if (!streq(rule, "default") && !streq(rule, temporary)) {
        printf("; rule ");
        put(stdout, rule);
        printf(json_is_true(plain(json_object_get(record, "now"))) ? " grants it already" : " stands in the way");
    }
    putchar('\n');
}

static void propose(const Options *o, const char *subject, const json_t *records, const char *temporary)
{
    const json_t *record;
    const char *permission;
    size_t i, n = 0;

    json_array_foreach((json_t *)records, i, record)
    {
        if (*field(record, "permission"))
            print_reason(record, temporary);
        else
            fprintf(stderr, "h-policy: nobody may call %s: it carries no permission\n", field(record, "call"));
    }
    json_array_foreach((json_t *)records, i, record)
    {
        permission = field(record, "permission");
        if (!*permission || was_seen(records, i, permission))
            continue;
        if (n++ == 0) {
            printf("[grant %s]\nTo         = ", o->id ? o->id : "recorded");
            put(stdout, subject);
            printf("\nPermission = ");
        } else {
            putchar(' ');
        }
        put(stdout, permission);
    }
    if (n > 0)
        putchar('\n');
    else
        fprintf(stderr, "h-policy: %s called nothing that needs a permission\n", subject);
}

/* --- the verb -------------------------------------------------------------------------------- */

/* As long as this runs; taken back however it ends, but for a kill. */
static int open_up(const char *subject, char *ret_rule, size_t size)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    int r = call("Grant", &answer, "ssss", "", subject, "*", "");

    if (r < 0)
        return r;
    snprintf(ret_rule, size, "%s", text_of(json_array_get(answer, 0)));
    fprintf(stderr, "Everything is granted to %s by rule %s until the end of the recording.\n", subject,
            ret_rule);
    return 0;
}

static void on_interrupt(int signal)
{
}

/* An interrupt ends the test (or the wait for it); the proposal and the end of what was granted still
 * come. */
static void on_signals(void (*handler)(int))
{
    const struct sigaction action = {.sa_handler = handler}; /* no SA_RESTART: getchar() must return */
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};

    for (size_t i = 0; i < ELEMENTS(signals); i++)
        (void)sigaction(signals[i], &action, NULL);
}

/* A daemon tells what is used before it answers, over a socket of its own: the first question here gives
 * h-securityd the turn in which it reads that, the second one's answer has it. */
static int list_calls(const char *subject, uint64_t after, json_t **ret)
{
    int r = call("ListCalls", NULL, "a{sv}u", 1, "subject", "s", subject, 1);

    return r < 0 ? r
                 : call("ListCalls", ret, "a{sv}u", 2, "subject", "s", subject, "after", "t", after,
                        RECORDS_MAX);
}

int verb_record(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *start = NULL, *answer = NULL;
    char temporary[80] = "";
    int r, closed;

    on_signals(SIG_IGN);
    if (o->permissive && (r = open_up(words[0], temporary, sizeof temporary)) < 0)
        return r;
    r = call("Record", &start, "s", words[0]);
    if (r >= 0) {
        on_signals(on_interrupt);
        r = run_or_wait(words + 1, n - 1);
        on_signals(SIG_IGN);
    }
    if (r >= 0)
        r = list_calls(words[0], number_of(json_array_get(start, 0)), &answer);
    closed = *temporary ? call("Revoke", NULL, "s", temporary) : 0;
    if (r >= 0 && o->json)
        r = print_json(json_array_get(answer, 0));
    else if (r >= 0)
        propose(o, words[0], json_array_get(answer, 0), temporary);
    return r < 0 ? r : closed;
}
