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
    conditions_done(&rule->more);
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
