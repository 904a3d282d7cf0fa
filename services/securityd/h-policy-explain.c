/* SPDX-License-Identifier: Apache-2.0 */
/* h-policy explain and simulate: why, and what if. */
#include "h-policy.h"

#include <hybus/base.h>

#define FILE_MAX (256u * 1024u) /* as much as h-securityd takes */

/* --- explain --------------------------------------------------------------------------------- */

static bool is_connection(const char *word)
{
    return *word == ':' || startswith(word, "bus:");
}

static const char *connection_name(const char *word)
{
    const char *rest = startswith(word, "bus:");

    return rest ? rest : word;
}

static void print_call(const json_t *record)
{
    uint64_t allowed = number_of(plain(json_object_get(record, "allowed")));
    uint64_t denied = number_of(plain(json_object_get(record, "denied")));
    bool now = json_is_true(plain(json_object_get(record, "now")));

    printf("  %-8s ", now ? "allowed" : "denied");
    put(stdout, *field(record, "permission") ? field(record, "permission") : "(no permission)");
    if (*field(record, "service")) {
        printf(" at ");
        put(stdout, field(record, "service"));
    }
    if (*field(record, "call")) {
        printf(" for ");
        put(stdout, field(record, "call"));
    }
    printf(", used %llu times, refused %llu; now by rule ", (unsigned long long)allowed,
           (unsigned long long)denied);
    put(stdout, field(record, "rule"));
    if (*field(record, "file")) {
        putchar(' ');
        put(stdout, field(record, "file"));
        printf(":%llu", (unsigned long long)number_of(plain(json_object_get(record, "line"))));
    }
    putchar('\n');
    if (!now && *field(record, "permission") && streq(field(record, "rule"), "default")) {
        printf("           h-policy grant ");
        put(stdout, field(record, "subject"));
        putchar(' ');
        put(stdout, field(record, "permission"));
        putchar('\n');
    }
}

/* Who it is, what it did in the last day, and how that would be judged now. */
static int explain_connection(const Options *o, const char *name)
{
    _cleanup_(hybus_json_decrefp) json_t *who = NULL, *calls = NULL;
    const json_t *record;
    const char *subject;
    size_t i;
    int r = call("ExplainConnection", &who, "s", name);

    if (r < 0)
        return r;
    subject = field(json_array_get(who, 0), "subject");
    r = call("ListCalls", &calls, "a{sv}u", 1, "subject", "s", subject, o->limit);
    if (r < 0)
        return r;
    if (o->json) {
        _cleanup_(hybus_json_decrefp) json_t *both = json_object();

        json_object_set(both, "connection", json_array_get(who, 0));
        json_object_set(both, "calls", json_array_get(calls, 0));
        return print_json(both);
    }
    printf("%-12s ", "subject");
    put(stdout, subject);
    printf("\n%-12s ", "inputs");
    put(stdout, field(json_array_get(who, 0), "inputs"));
    printf("\n%-12s %s\n%-12s %s\n", "other calls",
           json_is_true(plain(json_object_get(json_array_get(who, 0), "governed")))
               ? "to other services only as this policy grants them, by the bus (layer 1)"
               : "to other services as the bus's own files say",
           "last day", json_array_size(json_array_get(calls, 0)) ? "" : "nothing recorded");
    json_array_foreach(json_array_get(calls, 0), i, record) print_call(record);
    return 0;
}

int verb_explain(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    char subject[300], *member;
    int r;

    if (n == 1 && is_connection(words[0]))
        return explain_connection(o, connection_name(words[0]));
    if (n == 1) {
        r = call("Explain", &answer, "s", words[0]);
    } else {
        member = strrchr(words[1], '.');
        if (!member || member == words[1] || !member[1])
            return complain("explain", -EINVAL, "the call is INTERFACE.MEMBER");
        *member++ = '\0';
        snprintf(subject, sizeof subject, "%s%.280s", is_connection(words[0]) ? "bus:" : "",
                 is_connection(words[0]) ? connection_name(words[0]) : words[0]);
        r = call("ExplainCall", &answer, "ssss", subject, words[1], member,
                 n > 2 ? words[2] : "method");
    }
    if (r < 0)
        return r;
    if (o->json)
        return print_json(json_array_get(answer, 0));
    print_record(json_array_get(answer, 0));
    return 0;
}

/* --- simulate -------------------------------------------------------------------------------- */

static int read_file(const char *path, char **ret)
{
    bool input = streq(path, "-");
    FILE *f = input ? stdin : fopen(path, "re");
    char *text = malloc(FILE_MAX + 2);
    size_t n = 0;
    int r = 0;

    if (!f || !text)
        r = !f ? -errno : -ENOMEM;
    if (r == 0) {
        n = fread(text, 1, FILE_MAX + 1, f);
        if (ferror(f))
            r = -EIO;
        else if (n > FILE_MAX)
            r = -EFBIG;
        else if (memchr(text, '\0', n))
            r = -EINVAL;
    }
    if (f && !input)
        fclose(f);
    if (r < 0) {
        free(text);
        return complain(path, r, NULL);
    }
    text[n] = '\0';
    *ret = text;
    return 0;
}

static void print_changes(const char *title, const json_t *changes)
{
    const json_t *c;
    size_t i;

    printf("%s: %zu\n", title, json_array_size(changes));
    json_array_foreach((json_t *)changes, i, c)
    {
        uint64_t count = number_of(plain(json_object_get(c, "count")));

        printf("  ");
        put(stdout, field(c, "subject"));
        putchar(' ');
        put(stdout, field(c, "permission"));
        if (count > 0) {
            printf(" at ");
            put(stdout, field(c, "service"));
            printf(" (%llu calls in the last day)", (unsigned long long)count);
        } else {
            printf(" (connected now)");
        }
        printf(": rule ");
        put(stdout, field(c, "rule"));
        printf(", now ");
        put(stdout, field(c, "before"));
        putchar('\n');
    }
}

int verb_simulate(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    _cleanup_(freep) char *text = NULL;
    const char *slash = strrchr(words[0], '/');
    uint64_t more;
    int r = read_file(words[0], &text);

    if (r < 0)
        return r;
    r = call("Simulate", &answer, "ss", slash ? slash + 1 : words[0], text);
    if (r < 0)
        return r;
    if (o->json)
        return print_json(answer);
    print_changes("newly allowed", json_array_get(answer, 0));
    print_changes("newly denied", json_array_get(answer, 1));
    more = number_of(json_array_get(answer, 2));
    if (more > 0)
        printf("and %llu more, which did not fit\n", (unsigned long long)more);
    return 0;
}
