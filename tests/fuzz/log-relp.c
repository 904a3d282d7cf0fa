/* SPDX-License-Identifier: Apache-2.0 */

/* What a RELP server answers: frames lie within what came, and a shorter piece of it says the same or waits. */

#include <assert.h>

#include "log-relp.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    log_relp_frame f, g;
    ssize_t n, part;

    for (size_t at = 0; at < size; at += (size_t)n) {
        n = log_relp_parse(data + at, size - at, &f);
        if (n <= 0)
            return 0;
        assert((size_t)n <= size - at && f.size <= LOG_RELP_DATA_MAX && f.txnr <= LOG_RELP_TXNR_MAX);
        assert((const uint8_t *)f.data >= data && (const uint8_t *)f.data + f.size <= data + size);
        (void)log_relp_status(&f);
        for (size_t less = 0; less < (size_t)n && less < 64; less++) {
            part = log_relp_parse(data + at, less, &g);
            assert(part == 0);
        }
    }
    return 0;
}
