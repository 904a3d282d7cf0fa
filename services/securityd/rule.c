/* SPDX-License-Identifier: Apache-2.0 */
#include "rule.h"

#include "words.h"

const char *rule_kind_to_string(RuleKind kind)
{
    static const char *const names[] = {
        [RULE_DENY] = "deny", [RULE_ASK] = "ask", [RULE_GRANT] = "grant"};
    return names[kind];
}

Rule *rule_ref(Rule *rule)
{
    rule->n_ref++;
    return rule;
}

void rule_unref(Rule *rule)
{
    if (!rule || --rule->n_ref > 0)
        return;
    free(rule->id);
    words_free(rule->subjects);
    words_free(rule->permissions);
    free(rule->protocol);
    free(rule->description);
    free(rule->to);
    free(rule->permission);
    free(rule->when);
    free(rule->file);
    free(rule);
}

bool rule_id_is_valid(const char *id)
{
    return word_is_made_of(id, 64, "._-");
}

int conditions_parse(const char *s, unsigned *ret, char **ret_protocol, const char **ret_bad)
{
    _cleanup_(freep) char *protocol = NULL;
    unsigned conditions = 0;

    for (;;) {
        size_t n;

        s += strspn(s, " \t");
        n = strcspn(s, " \t");
        if (n == 0)
            break;
        if (n == 5 && strncmp(s, "local", n) == 0)
            conditions |= CONDITION_LOCAL;
        else if (n == 6 && strncmp(s, "remote", n) == 0)
            conditions |= CONDITION_REMOTE;
        else if (n == 9 && strncmp(s, "encrypted", n) == 0)
            conditions |= CONDITION_ENCRYPTED;
        else if (n > 9 && n < 9 + 32 && startswith(s, "protocol=") && !protocol) {
            protocol = strndup(s + 9, n - 9);
            if (!protocol)
                return -ENOMEM;
            if (!word_is_made_of(protocol, 32, "-")) {
                *ret_bad = s;
                return -EINVAL;
            }
        } else {
            *ret_bad = s;
            return -EINVAL;
        }
        s += n;
    }
    *ret = conditions;
    *ret_protocol = TAKE_PTR(protocol);
    return 0;
}
