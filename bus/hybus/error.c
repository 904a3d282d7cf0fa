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

/* sd-bus's own map is no use here: it makes of an app's plain "Failed" a refusal (EACCES), and of an
 * unknown method EBADR, which no name of the table stands for. */
int hybus_error_errno(const sd_bus_error *e)
{
    static const struct {
        const char *name;
        int error;
    } foreign[] = {
        {SD_BUS_ERROR_SERVICE_UNKNOWN, -EHOSTDOWN},
        {SD_BUS_ERROR_NAME_HAS_NO_OWNER, -EHOSTDOWN},
        {SD_BUS_ERROR_NO_SERVER, -EHOSTDOWN},
        {SD_BUS_ERROR_DISCONNECTED, -EHOSTDOWN},
        {SD_BUS_ERROR_NO_REPLY, -ETIMEDOUT},
        {SD_BUS_ERROR_TIMEOUT, -ETIMEDOUT},
        {SD_BUS_ERROR_ACCESS_DENIED, -EACCES},
        {SD_BUS_ERROR_AUTH_FAILED, -EACCES},
        {SD_BUS_ERROR_INTERACTIVE_AUTHORIZATION_REQUIRED, -EACCES},
        {SD_BUS_ERROR_LIMITS_EXCEEDED, -ENOBUFS},
        {SD_BUS_ERROR_NO_MEMORY, -ENOBUFS},
        {SD_BUS_ERROR_INVALID_ARGS, -EINVAL},
        {SD_BUS_ERROR_INVALID_SIGNATURE, -EINVAL},
        {SD_BUS_ERROR_NOT_SUPPORTED, -EOPNOTSUPP},
        {SD_BUS_ERROR_UNKNOWN_METHOD, -EOPNOTSUPP},
        {SD_BUS_ERROR_UNKNOWN_OBJECT, -EOPNOTSUPP},
        {SD_BUS_ERROR_UNKNOWN_INTERFACE, -EOPNOTSUPP},
        {SD_BUS_ERROR_UNKNOWN_PROPERTY, -EOPNOTSUPP},
    };

    if (!sd_bus_error_is_set(e))
        return 0;
    for (const sd_bus_error_map *m = error_map; m->name; m++)
        if (streq(e->name, m->name))
            return -m->code;
    for (size_t i = 0; i < ELEMENTS(foreign); i++)
        if (streq(e->name, foreign[i].name))
            return foreign[i].error;
    if (startswith(e->name, "org.freedesktop.DBus.Error.Spawn.") ||
        startswith(e->name, "org.freedesktop.systemd1."))
        return -EHOSTDOWN; /* it could not be started */
    return -EIO;
}

int hybus_error_set(sd_bus_error *error, int code, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    (void)sd_bus_error_setfv(error, hybus_error_name(code), format, args);
    va_end(args);
    return code;
}
