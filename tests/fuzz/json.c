/* SPDX-License-Identifier: Apache-2.0 */
/* JSON to D-Bus: a signature, a newline, and the text. What is accepted must survive the way back.
 */
#include "../hybus-json/generate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *newline = memchr(data, '\n', size);
    char signature[HYBUS_SIGNATURE_MAX + 2];
    hybus_json_error e = {};
    json_t *json = NULL;
    sd_bus_message *m;
    size_t n = newline ? (size_t)(newline - data) : 0;

    if (!newline || n >= sizeof signature)
        return 0;
    memcpy(signature, data, n);
    signature[n] = 0;
    if (hybus_json_load((const char *)newline + 1, size - n - 1, &json, &e) >= 0) {
        m = message_new();
        if (hybus_json_append(m, signature, json, &e) >= 0) {
            message_seal(m);
            check_round_trip(m);
        }
        sd_bus_message_unref(m);
        json_decref(json);
    }
    hybus_json_error_done(&e);
    return 0;
}
