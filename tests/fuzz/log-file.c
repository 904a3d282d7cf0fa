/* SPDX-License-Identifier: Apache-2.0 */

/* The reader of a ring's file, of which anything may be left. */

#include <assert.h>

#include "log-format.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static log_text text;
    uint64_t *aligned;
    log_file f;

    if (size > 64u * 1024u)
        return 0;
    aligned = malloc(size + 8);
    assert(aligned);
    memcpy(aligned, data, size);
    if (log_file_scan(aligned, size, &f) == 0) {
        for (size_t i = 0; i < f.n; i++) {
            const log_record *r = log_file_record(&f, i);
            log_found found = {.record = r, .boot = log_file_boot_id(f.head, r->boot)};
            assert(i == 0 || r->seq >= log_file_record(&f, i - 1)->seq);
            text.size = 0;
            log_format_record(&text, &found, &(log_look){.format = LOG_FORMAT_JSON});
        }
        log_file_done(&f);
    }
    free(aligned);
    return 0;
}
