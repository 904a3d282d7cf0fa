/* SPDX-License-Identifier: Apache-2.0 */

/* The native protocol: whatever comes, what is stored can be read and shown in every format, what
 * is shown is one line of JSON, and what goes to another server is a well-formed message of RFC 5424. */

#include <assert.h>
#include <jansson.h>

#include "log-format.h"
#include "log-forward.h"
#include "log-native.h"
#include "log-syslog.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void forward(const log_found *found)
{
    char message[LOG_FORWARD_MAX];
    log_syslog_param p = {};
    log_syslog s;
    int r;

    size_t size = log_forward_message(found, "host", message);
    assert(size <= sizeof(message) && log_syslog_parse(message, size, &s) == 0);
    assert(s.rfc5424 && s.priority == found->record->priority && s.structured_data.size > 0);
    while ((r = log_syslog_next_param(s.structured_data, &p)) > 0)
        ;
    assert(r == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const log_clock now = {.realtime = 1700000000000000, .monotonic = 1000000};
    static log_book *book;
    static log_text text;
    log_filter filter = {.backwards = true};
    uint64_t budget = 10;
    log_found found;
    log_walk walk;
    int r;

    if (!book) {
        log_settings settings = {.storage = LOG_STORAGE_VOLATILE, .rate_interval = 1000000};
        assert(log_book_open(&(log_book_options){.settings = &settings, .now = now}, &book) == 0);
    }
    r = log_native_take(book, data, size, 1000, 7, "u.service", 1000, now);
    assert(r == 1 || r == -EBADMSG || r == -EPERM || r == -EMSGSIZE);
    for (unsigned audit = 0; r == 1 && audit < 2; audit++) {
        filter.audit = audit;
        log_walk_start(&walk, book, &filter);
        if (log_walk_next(&walk, &budget, &found) <= 0 ||
            found.record->seq != log_book_newest(book))
            continue;
        forward(&found);
        for (log_format f = LOG_FORMAT_JSON; f <= LOG_FORMAT_RECORD; f++) {
            json_t *json;
            text.size = 0;
            log_format_record(&text, &found,
                              &(log_look){.format = f, .colours = f % 2, .utc = true});
            assert(!text.failed && text.size > 0);
            if (f != LOG_FORMAT_JSON)
                continue;
            assert(memchr(text.data, '\n', text.size) == text.data + text.size - 1);
            json = json_loadb(text.data, text.size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
            assert(json);
            json_decref(json);
        }
    }
    return 0;
}
