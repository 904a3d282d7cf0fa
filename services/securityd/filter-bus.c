/* SPDX-License-Identifier: Apache-2.0 */
#include "filter-bus.h"

#include <hybus/error.h>

static int read_entry(sd_bus_message *m, const FilterKey *keys, sd_bus_error *error)
{
    const char *name;
    int r = sd_bus_message_read(m, "s", &name);

    if (r < 0)
        return r;
    for (; keys->name; keys++)
        if (streq(keys->name, name)) {
            const char type[] = {keys->type, '\0'};

            r = sd_bus_message_read(m, "v", type, keys->value);
            return r == -ENXIO ? hybus_error_set(error, -EINVAL, "filter of the wrong type") : r;
        }
    return hybus_error_set(error, -EINVAL, "unknown filter \"%.64s\"", name);
}

int filter_read(sd_bus_message *m, const FilterKey *keys, uint32_t *ret_limit, sd_bus_error *error)
{
    uint32_t limit;
    int r = sd_bus_message_enter_container(m, 'a', "{sv}");

    while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
        r = read_entry(m, keys, error);
        if (r >= 0)
            r = sd_bus_message_exit_container(m);
    }
    if (r >= 0)
        r = sd_bus_message_exit_container(m);
    if (r >= 0)
        r = sd_bus_message_read(m, "u", &limit);
    if (r < 0)
        return r;
    if (limit < 1 || limit > FILTER_LIMIT_MAX)
        return hybus_error_set(error, -EINVAL, "limit is 1 to %u", FILTER_LIMIT_MAX);
    *ret_limit = limit;
    return 0;
}
