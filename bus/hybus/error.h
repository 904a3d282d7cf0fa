/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* One table maps errno to D-Bus error names and back. Handlers return negative errno or fill a
 * sd_bus_error through hybus_error_set(); callers get the errno back from sd-bus by itself. */

#include <systemd/sd-bus.h>

#include "base.h"

#define HYBUS_ERROR_PREFIX "org.hybridos.Error."
#define HYBUS_ERROR_ACCESS_DENIED HYBUS_ERROR_PREFIX "AccessDenied"             /* EACCES */
#define HYBUS_ERROR_UNAUTHENTICATED HYBUS_ERROR_PREFIX "Unauthenticated"        /* EKEYREJECTED */
#define HYBUS_ERROR_POLICY_UNAVAILABLE HYBUS_ERROR_PREFIX "PolicyUnavailable"   /* ENOKEY */
#define HYBUS_ERROR_INVALID_ARGUMENT HYBUS_ERROR_PREFIX "InvalidArgument"       /* EINVAL */
#define HYBUS_ERROR_NOT_FOUND HYBUS_ERROR_PREFIX "NotFound"                     /* ENOENT */
#define HYBUS_ERROR_EXISTS HYBUS_ERROR_PREFIX "Exists"                          /* EEXIST */
#define HYBUS_ERROR_LIMIT_EXCEEDED HYBUS_ERROR_PREFIX "LimitExceeded"           /* ENOBUFS */
#define HYBUS_ERROR_TIMEOUT HYBUS_ERROR_PREFIX "Timeout"                        /* ETIMEDOUT */
#define HYBUS_ERROR_UNAVAILABLE HYBUS_ERROR_PREFIX "Unavailable"                /* EHOSTDOWN */
#define HYBUS_ERROR_CONFLICT HYBUS_ERROR_PREFIX "Conflict"                      /* EBUSY */
#define HYBUS_ERROR_NOT_SUPPORTED HYBUS_ERROR_PREFIX "NotSupported"             /* EOPNOTSUPP */
#define HYBUS_ERROR_CANCELED HYBUS_ERROR_PREFIX "Canceled"                      /* ECANCELED */
#define HYBUS_ERROR_INTERNAL HYBUS_ERROR_PREFIX "Internal"                      /* EIO */

/* Registers the table with sd-bus. Call once, before the first connection. */
HYBUS_EXPORT int hybus_error_register(void);

/* The error name for a negative or positive errno; unknown values give ….Internal. */
HYBUS_EXPORT const char *hybus_error_name(int error);

/* The other way: the negative errno of the table for an error of ours, of the bus or of a stranger;
 * -EIO for what it has no word for, 0 when `error` is not set. */
HYBUS_EXPORT int hybus_error_errno(const sd_bus_error *error);

/* Sets `error` to the name for `code` (negative errno) with a message, and returns `code`, so that
 * a handler can `return hybus_error_set(error, -EINVAL, "…")`. */
HYBUS_EXPORT int hybus_error_set(sd_bus_error *error, int code, const char *format, ...)
    _printf_(3, 4);
