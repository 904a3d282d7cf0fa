/* SPDX-License-Identifier: Apache-2.0 */
#include "catalogue.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int parse_again(const char *xml, size_t size, void *userdata)
{
    return catalogue_parse(userdata, "again", xml, size, true, NULL);
}

/* Whatever is accepted must survive being written and read again. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    hybus_config_error e = {0};
    Catalogue *c = NULL, *again = NULL;

    if (catalogue_new(&c) < 0 || catalogue_new(&again) < 0)
        abort();
    if (catalogue_parse(c, "fuzz", (const char *)data, size, true, &e) >= 0) {
        catalogue_finish(c);
        if (catalogue_format(c, parse_again, again) < 0)
            abort();
        catalogue_finish(again);
        if (!catalogue_equal(c, again))
            abort();
    }
    catalogue_free(c);
    catalogue_free(again);
    hybus_config_error_done(&e);
    return 0;
}
