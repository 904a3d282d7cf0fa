/* SPDX-License-Identifier: Apache-2.0 */
#include "accepted.h"

#include <hybus/config.h>
#include <inttypes.h>

#include "policy-read.h"
#include "state-file.h"

#define ACCEPTED_FILE "accepted"
/* Between parts; cannot be part of a rule or of XML that we write. */
#define PART "\x1e\n"
/* A document without interfaces, which versions that do not know it read as such. */
#define MARK_START "<!-- generation "

static int write_document(const char *xml, size_t size, void *userdata)
{
    FILE *f = userdata;

    return fwrite(xml, 1, size, f) == size && fputs(PART, f) >= 0 ? 0 : -ENOMEM;
}

static int write_rules(FILE *f, const Policy *policy)
{
    Rule *const *rules;
    size_t n = policy_rules(policy, &rules);

    for (size_t i = 0; i < n; i++) {
        _cleanup_(freep) char *text = rule_format(rules[i], false);

        /* Its place is kept apart: the text is parsed again, and the reader wants to know. */
        if (!text || fprintf(f, "%s\t%u\t%u\n%s" PART, rules[i]->file, rules[i]->line,
                             rules[i]->column, text) < 0)
            return -ENOMEM;
    }
    return fputs(PART, f) >= 0 ? 0 : -ENOMEM;
}

int accepted_save(const char *directory, const Policy *policy, const Catalogue *catalogue,
                  const AcceptedMark *mark)
{
    _cleanup_(freep) char *text = NULL;
    size_t size = 0;
    FILE *f = open_memstream(&text, &size);
    int r;

    if (!f)
        return -ENOMEM;
    r = write_rules(f, policy);
    if (r >= 0)
        r = catalogue_format(catalogue, write_document, f);
    if (r >= 0 && fprintf(f, MARK_START "%" PRIu64 " time %" PRIu64 " -->\n<node/>\n" PART,
                          mark->generation, mark->time_usec) < 0)
        r = -ENOMEM;
    if (fclose(f) != 0 && r >= 0)
        r = -ENOMEM;
    if (r < 0)
        return r;
    if (size > ACCEPTED_MAX)
        return -EFBIG;
    return write_checked_file(directory, ACCEPTED_FILE, "policy", text, size);
}

/* One rule as write_rules() wrote it. */
static int load_rule(char *part, Rule **ret)
{
    _cleanup_(policy_unrefp) Policy *one = NULL;
    char *tab = strchr(part, '\t'), *end = strchr(part, '\n'), *rest;
    unsigned long line, column;
    Rule *const *rules;
    char *file;
    int r;

    if (!tab || !end || tab > end)
        return -EBADMSG;
    *tab = '\0';
    line = strtoul(tab + 1, &rest, 10);
    column = *rest == '\t' ? strtoul(rest + 1, NULL, 10) : 0;
    r = policy_parse(part, end + 1, strlen(end + 1), &one, NULL, NULL);
    if (r < 0)
        return r;
    if (policy_rules(one, &rules) != 1 || !(file = strdup(part)))
        return -EBADMSG;
    *ret = rule_ref(rules[0]);
    free((*ret)->file);
    (*ret)->file = file;
    (*ret)->line = (unsigned)line;
    (*ret)->column = (unsigned)column;
    return 0;
}

/* Cuts off the part at *text. 1: *ret, 0: an empty one, -EBADMSG: not even that. */
static int next_part(char **text, char **ret)
{
    char *part = *text, *end = strstr(part, PART);

    if (!end)
        return -EBADMSG;
    *end = '\0';
    *text = end + strlen(PART);
    *ret = part;
    return *part != '\0';
}

static int load_rules(char **text, Policy **ret)
{
    Rule **rules = NULL;
    size_t n = 0, allocated = 0, twice;
    char *part;
    int r;

    while ((r = next_part(text, &part)) > 0) {
        if (n == allocated) {
            Rule **larger =
                reallocarray(rules, allocated = allocated ? allocated * 2 : 64, sizeof *larger);
            if (!larger) {
                r = -ENOMEM;
                break;
            }
            rules = larger;
        }
        r = load_rule(part, &rules[n]);
        if (r < 0)
            break;
        n++;
    }
    if (r >= 0)
        r = policy_new(rules, n, ret, &twice);
    for (size_t i = 0; i < n; i++)
        rule_unref(rules[i]);
    free(rules);
    return r;
}

int accepted_load(const char *directory, Policy **ret_policy, Catalogue **ret_catalogue,
                  AcceptedMark *ret_mark)
{
    _cleanup_(catalogue_freep) Catalogue *catalogue = NULL;
    _cleanup_(policy_unrefp) Policy *policy = NULL;
    _cleanup_(freep) char *text = NULL;
    AcceptedMark mark = {0};
    size_t size;
    char *at, *part;
    int r;

    r = read_checked_file(directory, ACCEPTED_FILE, "policy", ACCEPTED_MAX, &text, &size);
    if (r < 0)
        return r;
    at = text;
    r = load_rules(&at, &policy);
    if (r >= 0)
        r = catalogue_new(&catalogue);
    while (r >= 0 && *at && (r = next_part(&at, &part)) >= 0) {
        if (startswith(part, MARK_START) && sscanf(part, MARK_START "%" SCNu64 " time %" SCNu64,
                                                   &mark.generation, &mark.time_usec) != 2)
            r = -EBADMSG;
        if (r >= 0)
            r = catalogue_parse(catalogue, "(last accepted)", part, strlen(part), true, NULL);
    }
    if (r < 0)
        return r == -ENOMEM ? r : -EBADMSG;
    catalogue_finish(catalogue);
    *ret_policy = TAKE_PTR(policy);
    *ret_catalogue = TAKE_PTR(catalogue);
    *ret_mark = mark;
    return 0;
}
