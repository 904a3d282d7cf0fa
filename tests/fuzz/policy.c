/* SPDX-License-Identifier: Apache-2.0 */
#include "policy-read.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Whatever is accepted must survive being written and read again. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hybus_config_error e = {0};
    PolicyNotes notes = {0};
    Policy *p = NULL;
    Rule *const *rules;

    if (policy_parse("fuzz", (const char *)data, size, &p, &notes, &e) >= 0)
        for (size_t i = 0, n = policy_rules(p, &rules); i < n; i++) {
            char *text = rule_format(rules[i], true);
            Policy *again = NULL;

            if (!text || policy_parse("again", text, strlen(text), &again, NULL, NULL) < 0)
                abort();
            policy_unref(again);
            free(text);
        }
    policy_unref(p);
    policy_notes_done(&notes);
    hybus_config_error_done(&e);
    return 0;
}
