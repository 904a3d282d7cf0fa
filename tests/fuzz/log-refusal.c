/* SPDX-License-Identifier: Apache-2.0 */

/* What the bus says of a refusal, as a line of dbus-daemon and as fields of dbus-broker, one a
 * line: whatever comes, only names come out. */

#include <assert.h>

#include "log-record.h"
#include "log-refusal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_name(const char name[LOG_REFUSAL_NAME_MAX + 1])
{
    size_t n = strnlen(name, LOG_REFUSAL_NAME_MAX + 1);

    assert(n <= LOG_REFUSAL_NAME_MAX);
    for (size_t i = 0; i < n; i++)
        assert(name[i] > ' ' && name[i] < 127 && name[i] != '"' && name[i] != '\\');
}

static void check(const log_refusal *r)
{
    assert(r->type == 'm' || r->type == 'e' || r->type == 'r');
    check_name(r->sender);
    check_name(r->destination);
    check_name(r->interface);
    check_name(r->member);
    check_name(r->path);
    assert(log_refusal_equal(r, r));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *at = (const char *)data, *values[LOG_BROKER_FIELDS] = {}, *end;
    log_refusal r;
    char *text;

    if (log_refusal_of_daemon(at, size, &r))
        check(&r);
    text = strndup(at, size);
    assert(text);
    end = text + strlen(text);
    at = text;
    for (size_t i = 0; i < LOG_BROKER_FIELDS && at < end; i++) {
        size_t n = strcspn(at, "\n");

        text[at - text + n] = '\0';
        if (n > 0) /* an empty line: no such field */
            values[i] = at;
        at += n + 1;
    }
    if (log_refusal_of_broker(values, &r)) {
        check(&r);
        assert(r.uid == LOG_NOBODY);
    }
    free(text);
    return 0;
}
