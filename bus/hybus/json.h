/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* JSON <-> D-Bus by signature, exact both ways:
 *
 *     y n q i u x t   number; decimal string beyond ±2^53; both forms are read at every size
 *     b               true, false
 *     d               number; "NaN", "Infinity", "-Infinity"
 *     s o g           string, without U+0000; paths and signatures are checked
 *     ay              base64 (RFC 4648, padded); an array of numbers is read too
 *     a…  (…)         array
 *     a{…}            object; keys that are not strings are written as decimal or "true"/"false"
 *     v               {"type": "u", "value": 7}; see below
 *     h               refused
 *
 * Read in place of the full form of a variant: a string is s, true and false are b, a whole number
 * is i or, when too large for it, x or t, another number is d, a non-empty array of one such kind
 * is an array of that, any other object is a{sv}. Arrays that are empty or mixed need their type
 * told.
 */

#include <jansson.h>
#include <systemd/sd-bus.h>

#include "base.h"

#define HYBUS_JSON_TEXT_MAX (16u * 1024u * 1024u) /* bytes of JSON text */
#define HYBUS_JSON_VALUES_MAX 1000000u            /* values in one message */
#define HYBUS_JSON_DEPTH_MAX 64u                  /* containers in containers, variants counted */
#define HYBUS_JSON_TEXT_DEPTH_MAX 160u            /* brackets in JSON text: a variant takes two */

typedef struct hybus_json_error {
    char *message; /* "$[0].foo: 256 is out of range for y (0..255)"; NULL when memory is short */
    char expected[256]; /* the type wanted at that place, or "" */
} hybus_json_error;

HYBUS_EXPORT void hybus_json_error_done(hybus_json_error *e);

/* Reads one JSON text of any type. Duplicate keys, U+0000 and what is over the limits are refused.
 * Integers that no long long holds are kept exactly, in a form that only hybus_json_append()
 * understands. -EBADMSG with `e` set, -E2BIG, -ENOMEM. */
HYBUS_EXPORT int hybus_json_load(const char *text, size_t size, json_t **ret, hybus_json_error *e);

/* Appends the elements of the array `args`, one for each complete type of `signature`.
 * -EINVAL (wrong type or value), -ERANGE, -E2BIG, -EOPNOTSUPP (h): the message is half written then
 * and good for nothing. */
HYBUS_EXPORT int hybus_json_append(sd_bus_message *m, const char *signature, json_t *args,
                                   hybus_json_error *e);

/* The same for one value of one complete type. */
HYBUS_EXPORT int hybus_json_append_value(sd_bus_message *m, const char *type, json_t *value,
                                         hybus_json_error *e);

/* Reads all of a message (from where it is read up to, to the end) as an array. -EBADMSG for what
 * JSON cannot hold exactly (a key twice in a dictionary), -E2BIG, -EOPNOTSUPP. */
HYBUS_EXPORT int hybus_json_read(sd_bus_message *m, json_t **ret, hybus_json_error *e);

/* Reads the next value, of the one complete type given. */
HYBUS_EXPORT int hybus_json_read_value(sd_bus_message *m, const char *type, json_t **ret,
                                       hybus_json_error *e);

typedef enum hybus_json_style {
    HYBUS_JSON_COMPACT, /* one line */
    HYBUS_JSON_PRETTY,
} hybus_json_style;

/* Text that is safe to show: DEL, C1 controls, bidirectional overrides and line separators are
 * written as \uXXXX as well. */
HYBUS_EXPORT int hybus_json_dump(const json_t *value, hybus_json_style style, char **ret);

/* An example of JSON arguments for a signature: ["text", 0]. */
HYBUS_EXPORT int hybus_json_example(const char *signature, char **ret);

HYBUS_EXPORT int hybus_base64_encode(const void *data, size_t size, char **ret);
/* Strict: padded, nothing but the alphabet, unused bits zero. -EBADMSG. */
HYBUS_EXPORT int hybus_base64_decode(const char *text, size_t length, void **ret, size_t *ret_size);

static inline _unused_ void hybus_json_decrefp(json_t **j)
{
    json_decref(*j);
}
