/* SPDX-License-Identifier: Apache-2.0 */
#include "error.h"

#include <stdarg.h>

static const sd_bus_error_map error_map[] = {
    SD_BUS_ERROR_MAP(HYBUS_ERROR_ACCESS_DENIED, EACCES),
    SD_BUS_ERROR_MAP(HYBUS_ERROR_UNAUTHENTICATED, EKEYREJECTED),
    SD_BUS_ERROR_MAP(HYBUS_ERROR_POLICY_UNAVAILABLE, ENOKEY),
    SD_BUS_ERROR_MAP(HYBUS_ERROR_INVALID_ARGUMENT, EINVAL),
    SD_BUS_ERROR_MAP(HYBUS_ERROR_NOT_FOUND, ENOENT),
    SD_BUS_ERROR_MAP(HYBUS_ERROR_EXISTS, EEXIST),
    SD_BUS_ERROR_MAP(HYBUS_ERROR_LIMIT_EXCEEDED, ENOBUFS),
    SD_BUS_ERROR_MAP(HYBUS_ERROR_TIMEOUT, ETIMEDOUT),
    SD_BUS_ERROR_MAP(HYBUS_ERROR_UNAVAILABLE, EHOSTDOWN),
    SD_BUS_ERROR_MAP(HYBUS_ERROR_CONFLICT, EBUSY),
    SD_BUS_ERROR_MAP(HYBUS_ERROR_NOT_SUPPORTED, EOPNOTSUPP),
    SD_BUS_ERROR_MAP(HYBUS_ERROR_CANCELED, ECANCELED),
    SD_BUS_ERROR_MAP(HYBUS_ERROR_INTERNAL, EIO),
    SD_BUS_ERROR_MAP_END,
};

int hybus_error_register(void)
{
    return sd_bus_error_add_map(error_map);
}

const char *hybus_error_name(int error)
{
    error = abs(error);
    for (const sd_bus_error_map *m = error_map; m->name; m++)
        if (m->code == error)
            return m->name;
    return HYBUS_ERROR_INTERNAL;
}

int hybus_error_set(sd_bus_error *error, int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)sd_bus_error_setfv(error, hybus_error_name(code), format, args);
    va_end(args);
    return code;
}
