/* SPDX-License-Identifier: Apache-2.0 */
/* D-Bus -> JSON by signature. Recursion is bounded by HYBUS_JSON_DEPTH_MAX. */
#include <math.h>

#include "json-internal.h"
#include "signature.h"

static int read_value(sd_bus_message *m, const char *type, size_t n, json_t **ret, const place *at,
                      walk *w, unsigned depth);

static json_t *read_double(double d)
{
    if (isnan(d))
        return json_string("NaN");
    if (isinf(d))
        return json_string(d < 0 ? "-Infinity" : "Infinity");
    return json_real(d);
}

static json_t *read_integer(char type, const void *p)
{
    union {
        int64_t x;
        uint64_t t;
    } v = {};
    char text[24];

    switch (type) {
    case 'y':
        return json_integer(*(const uint8_t *)p);
    case 'n':
        return json_integer(*(const int16_t *)p);
    case 'q':
        return json_integer(*(const uint16_t *)p);
    case 'i':
        return json_integer(*(const int32_t *)p);
    case 'u':
        return json_integer(*(const uint32_t *)p);
    default:
        memcpy(&v, p, sizeof v);
    }
    if (type == 't' ? v.t <= (uint64_t)EXACT_MAX : v.x >= -EXACT_MAX && v.x <= EXACT_MAX)
        return json_integer(v.x);
    if (type == 't')
        snprintf(text, sizeof text, "%llu", (unsigned long long)v.t);
    else
        snprintf(text, sizeof text, "%lld", (long long)v.x);
    return json_string(text);
}

static int read_basic(sd_bus_message *m, char type, json_t **ret, const place *at, walk *w)
{
    union {
        int b;
        double d;
        const char *s;
        uint64_t any;
    } v = {};
    int r;

    if (type == 'h')
        return json_fail(w, at, -EOPNOTSUPP, "h", 1, "file descriptors cannot be written as JSON");
    r = sd_bus_message_read_basic(m, type, &v);
    if (r <= 0)
        return r < 0 ? r : -EBADMSG;
    switch (type) {
    case 'b':
        *ret = json_boolean(v.b);
        break;
    case 'd':
        *ret = read_double(v.d);
        break;
    case 's':
    case 'o':
    case 'g':
        *ret = json_string(v.s);
        break;
    default:
        *ret = read_integer(type, &v);
        break;
    }
    return *ret ? 0 : -ENOMEM;
}

static int read_bytes(sd_bus_message *m, json_t **ret)
{
    _cleanup_(freep) char *text = NULL;
    const void *data;
    size_t size;
    int r = sd_bus_message_read_array(m, 'y', &data, &size);

    if (r >= 0)
        r = hybus_base64_encode(data, size, &text);
    if (r < 0)
        return r;
    *ret = json_string(text);
    return *ret ? 0 : -ENOMEM;
}

static int read_entry(sd_bus_message *m, const char *type, size_t n, json_t *object,
                      const place *at, walk *w, unsigned depth)
{
    _cleanup_(hybus_json_decrefp) json_t *key = NULL, *value = NULL;
    _cleanup_(freep) char *text = NULL;
    place here = {.up = at, .key = "…"};
    int r = json_count(w, at, depth + 1);

    if (r >= 0)
        r = read_basic(m, type[2], &key, at, w);
    if (r >= 0)
        r = json_key_text(key, &text);
    if (r < 0)
        return r;
    here.key = text;
    if (json_object_get(object, text))
        return json_fail(w, &here, -EBADMSG, type, n, "the key is there twice");
    r = read_value(m, type + 3, n - 4, &value, &here, w, depth + 1);
    if (r < 0)
        return r;
    return json_object_set(object, text, value) < 0 ? -ENOMEM : 0;
}

static int read_dict(sd_bus_message *m, const char *type, size_t n, json_t **ret, const place *at,
                     walk *w, unsigned depth)
{
    _cleanup_(hybus_json_decrefp) json_t *object = json_object();
    char entry[HYBUS_SIGNATURE_MAX + 1];
    int r;

    if (!object)
        return -ENOMEM;
    snprintf(entry, sizeof entry, "%.*s", (int)(n - 3), type + 2);
    while ((r = sd_bus_message_enter_container(m, 'e', entry)) > 0) {
        r = read_entry(m, type, n, object, at, w, depth);
        if (r >= 0)
            r = sd_bus_message_exit_container(m);
        if (r < 0)
            return r;
    }
    if (r < 0)
        return r;
    *ret = TAKE_PTR(object);
    return 0;
}

static int read_array(sd_bus_message *m, const char *type, size_t n, json_t **ret, const place *at,
                      walk *w, unsigned depth)
{
    _cleanup_(hybus_json_decrefp) json_t *array = NULL;
    char contents[HYBUS_SIGNATURE_MAX + 1];
    int r;

    if (n == 2 && type[1] == 'y')
        return read_bytes(m, ret);
    snprintf(contents, sizeof contents, "%.*s", (int)(n - 1), type + 1);
    r = sd_bus_message_enter_container(m, 'a', contents);
    if (r <= 0)
        return r < 0 ? r : -EBADMSG;
    if (type[1] == '{')
        r = read_dict(m, type, n, &array, at, w, depth);
    else {
        array = json_array();
        if (!array)
            return -ENOMEM;
        while ((r = sd_bus_message_at_end(m, false)) == 0) {
            place here = {.up = at, .index = json_array_size(array)};
            json_t *item;

            r = read_value(m, type + 1, n - 1, &item, &here, w, depth + 1);
            if (r < 0)
                return r;
            if (json_array_append_new(array, item) < 0)
                return -ENOMEM;
        }
    }
    if (r >= 0)
        r = sd_bus_message_exit_container(m);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(array);
    return 0;
}

static int read_sequence(sd_bus_message *m, const char *type, size_t n, json_t **ret,
                         const place *at, walk *w, unsigned depth)
{
    _cleanup_(hybus_json_decrefp) json_t *array = json_array();
    int length;

    if (!array)
        return -ENOMEM;
    for (size_t i = 0; i < n; i += length) {
        place here = {.up = at, .index = json_array_size(array)};
        json_t *item;
        int r;

        length = hybus_signature_first(type + i);
        r = read_value(m, type + i, length, &item, &here, w, depth);
        if (r < 0)
            return r;
        if (json_array_append_new(array, item) < 0)
            return -ENOMEM;
    }
    *ret = TAKE_PTR(array);
    return 0;
}

static int read_struct(sd_bus_message *m, const char *type, size_t n, json_t **ret, const place *at,
                       walk *w, unsigned depth)
{
    _cleanup_(hybus_json_decrefp) json_t *array = NULL;
    char contents[HYBUS_SIGNATURE_MAX + 1];
    int r;

    snprintf(contents, sizeof contents, "%.*s", (int)(n - 2), type + 1);
    r = sd_bus_message_enter_container(m, 'r', contents);
    if (r <= 0)
        return r < 0 ? r : -EBADMSG;
    r = read_sequence(m, type + 1, n - 2, &array, at, w, depth + 1);
    if (r >= 0)
        r = sd_bus_message_exit_container(m);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(array);
    return 0;
}

static int read_variant(sd_bus_message *m, json_t **ret, const place *at, walk *w, unsigned depth)
{
    _cleanup_(hybus_json_decrefp) json_t *value = NULL;
    place here = {.up = at, .key = "value"};
    const char *contents;
    char type;
    int r = sd_bus_message_peek_type(m, &type, &contents);

    if (r <= 0 || type != 'v' || !hybus_signature_is_single(contents))
        return r < 0 ? r : -EBADMSG;
    r = sd_bus_message_enter_container(m, 'v', contents);
    if (r < 0)
        return r;
    r = read_value(m, contents, strlen(contents), &value, &here, w, depth + 1);
    if (r < 0)
        return r;
    *ret = json_pack("{sssO}", "type", contents, "value", value);
    if (!*ret)
        return -ENOMEM;
    r = sd_bus_message_exit_container(m);
    if (r < 0)
        json_decref(TAKE_PTR(*ret));
    return r < 0 ? r : 0;
}

static int read_value(sd_bus_message *m, const char *type, size_t n, json_t **ret, const place *at,
                      walk *w, unsigned depth)
{
    int r = json_count_type(w, at, *type, depth);

    if (r < 0)
        return r;
    switch (*type) {
    case 'a':
        return read_array(m, type, n, ret, at, w, depth);
    case 'v':
        return read_variant(m, ret, at, w, depth);
    case '(':
        return read_struct(m, type, n, ret, at, w, depth);
    default:
        return read_basic(m, *type, ret, at, w);
    }
}

int hybus_json_read(sd_bus_message *m, json_t **ret, hybus_json_error *e)
{
    const char *signature = strempty(sd_bus_message_get_signature(m, true));
    walk w = {.error = e};

    if (!hybus_signature_is_valid(signature))
        return json_fail(&w, NULL, -EBADMSG, NULL, 0, "the message has no valid signature");
    return read_sequence(m, signature, strlen(signature), ret, NULL, &w, 0);
}

int hybus_json_read_value(sd_bus_message *m, const char *type, json_t **ret, hybus_json_error *e)
{
    walk w = {.error = e};

    if (!hybus_signature_is_single(type))
        return json_fail(&w, NULL, -EINVAL, NULL, 0, "the type is not valid");
    return read_value(m, type, strlen(type), ret, NULL, &w, 0);
}
