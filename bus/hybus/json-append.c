/* SPDX-License-Identifier: Apache-2.0 */
/* JSON -> D-Bus by signature. Recursion is bounded by HYBUS_JSON_DEPTH_MAX. */
#include <math.h>

#include "json-internal.h"
#include "signature.h"

static int append(sd_bus_message *m, const char *type, size_t n, json_t *value, const place *at,
                  walk *w, unsigned depth);

/* What the value is, for an error: short, and safe for a terminal. */
static const char *describe(const json_t *value, char buffer[static 96])
{
    _cleanup_(freep) char *text = NULL;

    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_NULL:
        return "null";
    case JSON_STRING:
        if (json_string_length(value) && !*json_string_value(value)) {
            snprintf(buffer, 96, "%.64s", json_string_value(value) + 1);
            return buffer;
        }
        if (json_string_length(value) > 64)
            return "a string";
        break;
    default:
        break;
    }
    if (hybus_json_dump(value, HYBUS_JSON_COMPACT, &text) < 0 || strlen(text) > 90)
        return "a value";
    snprintf(buffer, 96, "%s", text);
    return buffer;
}

static int mismatch(walk *w, const place *at, const char *type, size_t n, const char *wanted,
                    const json_t *value)
{
    char buffer[96];

    return json_fail(w, at, -EINVAL, type, n, "%.*s needs %s, not %s", (int)n, type, wanted,
                     describe(value, buffer));
}

/* The integer in any of its forms: number, decimal string, or what load() made of a big one. */
static int get_integer(const json_t *value, bool *ret_negative, uint64_t *ret_magnitude)
{
    const char *s;
    size_t length;

    if (json_is_integer(value)) {
        json_int_t i = json_integer_value(value);

        *ret_negative = i < 0;
        *ret_magnitude = i < 0 ? -(uint64_t)i : (uint64_t)i;
        return 0;
    }
    if (!json_is_string(value))
        return -EINVAL;
    s = json_string_value(value);
    length = json_string_length(value);
    if (length && *s == BIG_INTEGER_MARK)
        return json_parse_integer(s + 1, length - 1, ret_negative, ret_magnitude);
    return json_parse_integer(s, length, ret_negative, ret_magnitude);
}

static int append_integer(sd_bus_message *m, char type, json_t *value, const place *at, walk *w)
{
    const integer_range *range = json_integer_range(type);
    union {
        uint8_t y;
        int16_t n;
        uint16_t q;
        int32_t i;
        uint32_t u;
        int64_t x;
        uint64_t t;
    } v;
    uint64_t magnitude = 0;
    bool negative = false;
    int r = get_integer(value, &negative, &magnitude);

    if (r == -EINVAL)
        return mismatch(w, at, &type, 1, "a whole number or its decimal string", value);
    if (r < 0 || (negative ? magnitude > -(uint64_t)range->min : magnitude > range->max)) {
        char buffer[96];

        return json_fail(w, at, -ERANGE, &type, 1, "%s is out of range for %c (%lld..%llu)",
                         describe(value, buffer), type, (long long)range->min,
                         (unsigned long long)range->max);
    }
    /* Two's complement: the low bits are the value in every width. */
    magnitude = negative ? -magnitude : magnitude;
    switch (type) {
    case 'y':
        v.y = magnitude;
        break;
    case 'n':
    case 'q':
        v.q = magnitude;
        break;
    case 'i':
    case 'u':
        v.u = magnitude;
        break;
    default:
        v.t = magnitude;
        break;
    }
    return sd_bus_message_append_basic(m, type, &v);
}

static int append_double(sd_bus_message *m, json_t *value, const place *at, walk *w)
{
    double d;

    if (json_is_number(value))
        d = json_number_value(value);
    else if (json_is_string(value)) {
        const char *s = json_string_value(value);

        if (json_string_length(value) && *s == BIG_INTEGER_MARK) {
            /* Digits only, so no locale is in it. */
            d = strtod(s + 1, NULL);
            if (!isfinite(d))
                return json_fail(w, at, -ERANGE, "d", 1, "the number is out of range for d");
        } else if (streq(s, "NaN"))
            d = NAN;
        else if (streq(s, "Infinity"))
            d = INFINITY;
        else if (streq(s, "-Infinity"))
            d = -INFINITY;
        else
            return mismatch(w, at, "d", 1, "a number, \"NaN\", \"Infinity\" or \"-Infinity\"",
                            value);
    } else
        return mismatch(w, at, "d", 1, "a number, \"NaN\", \"Infinity\" or \"-Infinity\"", value);
    return sd_bus_message_append_basic(m, 'd', &d);
}

static int append_string(sd_bus_message *m, char type, json_t *value, const place *at, walk *w)
{
    const char *s = json_string_value(value);
    char buffer[96];

    if (!s || (json_string_length(value) && *s == BIG_INTEGER_MARK))
        return mismatch(w, at, &type, 1, "a string", value);
    if (strlen(s) != json_string_length(value))
        return json_fail(w, at, -EINVAL, &type, 1, "a string with U+0000");
    if (type == 'o' && !sd_bus_object_path_is_valid(s))
        return json_fail(w, at, -EINVAL, &type, 1, "%s is not an object path",
                         describe(value, buffer));
    if (type == 'g' && !hybus_signature_is_valid(s))
        return json_fail(w, at, -EINVAL, &type, 1, "%s is not a signature",
                         describe(value, buffer));
    return sd_bus_message_append_basic(m, type, s);
}

static int append_basic(sd_bus_message *m, char type, json_t *value, const place *at, walk *w)
{
    switch (type) {
    case 'b': {
        int b = json_is_true(value);

        if (!json_is_boolean(value))
            return mismatch(w, at, "b", 1, "true or false", value);
        return sd_bus_message_append_basic(m, 'b', &b);
    }
    case 'd':
        return append_double(m, value, at, w);
    case 's':
    case 'o':
    case 'g':
        return append_string(m, type, value, at, w);
    case 'h':
        return json_fail(w, at, -EOPNOTSUPP, "h", 1, "file descriptors cannot be written as JSON");
    default:
        return append_integer(m, type, value, at, w);
    }
}

static int append_key(sd_bus_message *m, char type, const char *key, const place *at, walk *w)
{
    _cleanup_(hybus_json_decrefp) json_t *value = NULL;

    if (type == 'b') {
        if (streq(key, "true") || streq(key, "false"))
            value = json_boolean(streq(key, "true"));
    } else if (type == 'd' && key[0] && !strchr("NI", key[0]) && !streq(key, "-Infinity")) {
        _cleanup_(freep) char *canonical = NULL;

        value = json_loads(key, JSON_DECODE_ANY, NULL);
        if (!json_is_real(value) || json_key_text(value, &canonical) < 0 || !streq(canonical, key))
            return json_fail(w, at, -EINVAL, &type, 1,
                             "a key of type d must stand as it is written by this device, with 17 "
                             "digits");
    } else
        value = json_string(key);
    if (!value)
        return json_fail(w, at, -EINVAL, &type, 1, "the key is no %c", type);
    return append_basic(m, type, value, at, w);
}

static int append_bytes(sd_bus_message *m, json_t *value, const place *at, walk *w)
{
    _cleanup_(freep) void *data = NULL;
    size_t size;
    int r;

    if (json_string_length(value) && *json_string_value(value) == BIG_INTEGER_MARK)
        return mismatch(w, at, "ay", 2, "base64 or an array", value);
    r = hybus_base64_decode(json_string_value(value), json_string_length(value), &data, &size);
    if (r == -EBADMSG)
        return json_fail(w, at, -EINVAL, "ay", 2, "the string is not base64");
    if (r < 0)
        return r;
    return sd_bus_message_append_array(m, 'y', data, size);
}

static int append_dict(sd_bus_message *m, const char *type, size_t n, json_t *value,
                       const place *at, walk *w, unsigned depth)
{
    char entry[HYBUS_SIGNATURE_MAX + 1];
    const char *key;
    json_t *item;
    int r;

    if (!json_is_object(value))
        return mismatch(w, at, type, n, "an object", value);
    snprintf(entry, sizeof entry, "%.*s", (int)(n - 3), type + 2);
    json_object_foreach(value, key, item)
    {
        place here = {.up = at, .key = key};

        r = json_count(w, &here, depth + 1);
        if (r >= 0)
            r = sd_bus_message_open_container(m, 'e', entry);
        if (r >= 0)
            r = append_key(m, type[2], key, &here, w);
        if (r >= 0)
            r = append(m, type + 3, n - 4, item, &here, w, depth + 1);
        if (r >= 0)
            r = sd_bus_message_close_container(m);
        if (r < 0)
            return r;
    }
    return 0;
}

static int append_array(sd_bus_message *m, const char *type, size_t n, json_t *value,
                        const place *at, walk *w, unsigned depth)
{
    char contents[HYBUS_SIGNATURE_MAX + 1];
    int r;

    if (n == 2 && type[1] == 'y' && json_is_string(value))
        return append_bytes(m, value, at, w);

    snprintf(contents, sizeof contents, "%.*s", (int)(n - 1), type + 1);
    if (type[1] != '{' && !json_is_array(value))
        return mismatch(w, at, type, n,
                        n == 2 && type[1] == 'y' ? "base64 or an array" : "an array", value);
    r = sd_bus_message_open_container(m, 'a', contents);
    if (r < 0)
        return r;
    if (type[1] == '{')
        r = append_dict(m, type, n, value, at, w, depth);
    else
        for (size_t i = 0; i < json_array_size(value) && r >= 0; i++) {
            place here = {.up = at, .index = i};

            r = append(m, type + 1, n - 1, json_array_get(value, i), &here, w, depth + 1);
        }
    return r < 0 ? r : sd_bus_message_close_container(m);
}

/* The elements of `array` by the types that stand one after the other in type[0..n). */
static int append_sequence(sd_bus_message *m, const char *type, size_t n, json_t *array,
                           const place *at, walk *w, unsigned depth)
{
    size_t wanted = 0;
    int length, r;

    for (size_t i = 0; i < n; i += length, wanted++)
        length = hybus_signature_first(type + i);
    if (!json_is_array(array))
        return mismatch(w, at, type, n, "an array", array);
    if (json_array_size(array) != wanted)
        return json_fail(w, at, -EINVAL, type, n, "%zu value%s expected (%.*s), not %zu", wanted,
                         wanted == 1 ? "" : "s", (int)n, type, json_array_size(array));
    for (size_t i = 0; i < wanted; i++) {
        place here = {.up = at, .index = i};

        length = hybus_signature_first(type);
        r = append(m, type, length, json_array_get(array, i), &here, w, depth);
        if (r < 0)
            return r;
        type += length;
    }
    return 0;
}

/* The type of a variant's value that came without one. */
static const char *guess_type(const json_t *value)
{
    bool negative;
    uint64_t magnitude;

    switch (json_typeof(value)) {
    case JSON_TRUE:
    case JSON_FALSE:
        return "b";
    case JSON_REAL:
        return "d";
    case JSON_OBJECT:
        return "a{sv}";
    case JSON_STRING:
        if (!json_string_length(value) || *json_string_value(value) != BIG_INTEGER_MARK)
            return "s";
        _fallthrough_;
    case JSON_INTEGER:
        if (get_integer(value, &negative, &magnitude) < 0)
            return NULL;
        return magnitude <= INT32_MAX ? "i" : negative || magnitude <= INT64_MAX ? "x" : "t";
    case JSON_ARRAY: {
        const json_t *first = json_array_get(value, 0);
        const char *type = first && !json_is_array(first) ? guess_type(first) : NULL;

        for (size_t i = 1; type && i < json_array_size(value); i++) {
            const json_t *item = json_array_get(value, i);
            const char *other = json_is_array(item) ? NULL : guess_type(item);

            /* Whole numbers of several sizes take the widest. */
            if (other && type[0] != other[0] && strchr("ixt", type[0]) && strchr("ixt", other[0]))
                type = type[0] == 't' || other[0] == 't' ? "t" : "x";
            else if (!other || !streq(type, other))
                return NULL;
        }
        if (!type)
            return NULL;
        return streq(type, "s")   ? "as"
               : streq(type, "b") ? "ab"
               : streq(type, "d") ? "ad"
               : streq(type, "i") ? "ai"
               : streq(type, "x") ? "ax"
               : streq(type, "t") ? "at"
                                  : "aa{sv}";
    }
    default:
        return NULL;
    }
}

static int append_variant(sd_bus_message *m, json_t *value, const place *at, walk *w,
                          unsigned depth)
{
    json_t *told = json_object_get(value, "type"), *inner = json_object_get(value, "value");
    place here = {.up = at, .key = "value"};
    const char *type;
    int r;

    if (json_object_size(value) == 2 && told && inner) {
        type = json_string_value(told);
        here.key = "type";
        if (!type || strlen(type) != json_string_length(told) || !hybus_signature_is_single(type))
            return mismatch(w, &here, "v", 1, "one complete type here", told);
        here.key = "value";
        at = &here;
        value = inner;
    } else {
        type = guess_type(value);
        if (!type)
            return json_fail(w, at, -EINVAL, "v", 1,
                             "the type cannot be told; write {\"type\": \"…\", \"value\": …}");
    }
    r = sd_bus_message_open_container(m, 'v', type);
    if (r >= 0)
        r = append(m, type, strlen(type), value, at, w, depth + 1);
    return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append_struct(sd_bus_message *m, const char *type, size_t n, json_t *value,
                         const place *at, walk *w, unsigned depth)
{
    char contents[HYBUS_SIGNATURE_MAX + 1];
    int r;

    snprintf(contents, sizeof contents, "%.*s", (int)(n - 2), type + 1);
    r = sd_bus_message_open_container(m, 'r', contents);
    if (r >= 0)
        r = append_sequence(m, type + 1, n - 2, value, at, w, depth + 1);
    return r < 0 ? r : sd_bus_message_close_container(m);
}

static int append(sd_bus_message *m, const char *type, size_t n, json_t *value, const place *at,
                  walk *w, unsigned depth)
{
    int r = json_count_type(w, at, *type, depth);

    if (r < 0)
        return r;
    switch (*type) {
    case 'a':
        return append_array(m, type, n, value, at, w, depth);
    case 'v':
        return append_variant(m, value, at, w, depth);
    case '(':
        return append_struct(m, type, n, value, at, w, depth);
    default:
        return append_basic(m, *type, value, at, w);
    }
}

int hybus_json_append(sd_bus_message *m, const char *signature, json_t *args, hybus_json_error *e)
{
    walk w = {.error = e};

    if (!hybus_signature_is_valid(signature))
        return json_fail(&w, NULL, -EINVAL, NULL, 0, "the signature is not valid");
    return append_sequence(m, signature, strlen(signature), args, NULL, &w, 0);
}

int hybus_json_append_value(sd_bus_message *m, const char *type, json_t *value, hybus_json_error *e)
{
    walk w = {.error = e};

    if (!hybus_signature_is_single(type))
        return json_fail(&w, NULL, -EINVAL, NULL, 0, "the type is not valid");
    return append(m, type, strlen(type), value, NULL, &w, 0);
}
