/* SPDX-License-Identifier: Apache-2.0 */

/* The table file and its entries. What has been read can be written, and reads back the same. */

#include <assert.h>

#include "endpoints-table.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const endpoints_ops ops = {};
    _cleanup_(endpoints_freep) endpoints *t = NULL;
    const endpoints_entry *e;

    assert(endpoints_new(&ops, NULL, &t) == 0);
    (void)endpoints_table_parse(t, data, size, "bus-1");
    for (size_t i = 0; (e = endpoints_registration_at(t, i)); i++) {
        hybus_frame_queue q = {.max = HYBUS_FRAME_MAX};
        hybus_frame_reader r = {.max = HYBUS_FRAME_MAX};
        endpoints_spec again;
        hybus_frame frame;

        assert(endpoints_entry_put(&q, e, 0) == 0);
        assert(hybus_frame_reader_push(&r, q.buffer, q.end) == 0);
        assert(hybus_frame_reader_next(&r, &frame) == 1);
        assert(endpoints_entry_parse(&frame, &again) == 0);
        assert(streq(again.ns, e->spec.ns) && again.n_rules == e->spec.n_rules);
        endpoints_spec_done(&again);
        hybus_frame_queue_done(&q);
        hybus_frame_reader_done(&r);
    }
    return 0;
}
