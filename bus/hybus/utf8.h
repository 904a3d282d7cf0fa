/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* UTF-8 as in RFC 3629: no surrogates, no overlong forms, nothing above U+10FFFF. */

#include "base.h"

/* Length of the valid sequence at the beginning of `s`, which has at least one byte; 0: none. */
HYBUS_EXPORT size_t hybus_utf8_sequence(const char *s, size_t size);
HYBUS_EXPORT bool hybus_utf8_is_valid(const char *s, size_t size);
