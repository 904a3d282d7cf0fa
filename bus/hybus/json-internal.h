/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Shared by the two directions of JSON <-> D-Bus. */

#include "json.h"

/* An integer too large for jansson is carried as a string that begins with U+0000, which no
 * accepted text can contain by itself. */
#define BIG_INTEGER_MARK '\0'

#define EXACT_MAX (INT64_C(1) << 53)

/* Where a value stands, for errors: a list from the value up to the root, on the stack. */
typedef struct place {
    const struct place *up;
    const char *key; /* NULL: an index */
    size_t index;
} place;

typedef struct walk {
    hybus_json_error *error;
    size_t n_values;
} walk;

int json_fail(walk *w, const place *at, int error, const char *type, size_t type_length,
              const char *format, ...) _printf_(6, 7);
int json_count(walk *w, const place *at, unsigned depth);
/* The same for a value of that type, which may be a container. */
static inline int json_count_type(walk *w, const place *at, char type, unsigned depth)
{
    return json_count(w, at, depth + (type == 'a' || type == 'v' || type == '('));
}

/* The text of a dictionary key, which is the only form of it that is accepted: so that two keys can
 * never become the same. */
int json_key_text(const json_t *key, char **ret);

typedef struct integer_range {
    char type;
    int64_t min;
    uint64_t max;
} integer_range;

const integer_range *json_integer_range(char type);

/* A decimal number as its digits: canonical ("0", "-7", no leading zeros or plus) or -EINVAL;
 * -ERANGE when neither int64_t nor uint64_t holds it. */
int json_parse_integer(const char *s, size_t length, bool *ret_negative, uint64_t *ret_magnitude);
