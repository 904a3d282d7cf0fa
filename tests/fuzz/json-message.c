/* SPDX-License-Identifier: Apache-2.0 */
/* D-Bus to JSON: the input is what a random message is made of. */
#include "../hybus-json/generate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    source s = {.data = data, .size = MIN_OF(size, (size_t)4096)};
    sd_bus_message *m = message_new();
    char type[HYBUS_SIGNATURE_MAX + 1];

    do {
        type[generate_type(&s, type, 40, 0)] = 0;
        generate_value(&s, m, type, 0);
    } while (s.size && strlen(strempty(sd_bus_message_get_signature(m, true))) < 200);
    message_seal(m);
    check_round_trip(m);
    sd_bus_message_unref(m);
    return 0;
}
