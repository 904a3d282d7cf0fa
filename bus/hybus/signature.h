/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* D-Bus type signatures, for code that has no message at hand (D-Bus specification, "Signature
 * Strings"). Signatures come from outside: introspection XML, JSON, the command line. */

#include "base.h"

#define HYBUS_SIGNATURE_MAX 255u        /* bytes, from the specification */
#define HYBUS_SIGNATURE_ARRAYS_MAX 32u  /* nested arrays, from the specification */
#define HYBUS_SIGNATURE_STRUCTS_MAX 32u /* nested structs, dict entries counted as such */

/* Any number of complete types; "" is valid. */
HYBUS_EXPORT bool hybus_signature_is_valid(const char *signature);

/* Exactly one complete type. */
HYBUS_EXPORT bool hybus_signature_is_single(const char *signature);

/* Length of the first complete type of a signature, or -EINVAL ("" included). */
HYBUS_EXPORT int hybus_signature_first(const char *signature);
