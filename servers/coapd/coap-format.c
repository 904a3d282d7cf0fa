/* SPDX-License-Identifier: Apache-2.0 */
#include "coap-format.h"

#include <cbor.h>
#include <jansson.h>
#include <math.h>

typedef struct output {
    uint8_t *bytes;
    size_t size, room;
    int error;
} output;

static void put(output *o, const void *data, size_t size)
{
    if (o->error < 0)
        return;
    if (size > COAPD_CONVERT_MAX - o->size) {
        o->error = -EMSGSIZE;
        return;
    }
    if (o->size + size > o->room) {
        size_t room = MAX_OF(o->size + size, o->room * 2 + 256);
        uint8_t *bytes = realloc(o->bytes, room);

        if (!bytes) {
            o->error = -ENOMEM;
            return;
        }
        o->bytes = bytes;
        o->room = room;
    }
    if (size > 0)
        memcpy(o->bytes + o->size, data, size);
    o->size += size;
}

static void put_text(output *o, const char *text)
{
    put(o, text, strlen(text));
}

static int hand_over(output *o, uint8_t **ret, size_t *ret_size)
{
    if (o->error < 0) {
        free(o->bytes);
        return o->error;
    }
    *ret = o->bytes;
    *ret_size = o->size;
    return 0;
}

/* --- CBOR to JSON -------------------------------------------------------------------------------
 */

typedef enum kind { ARRAY, MAP, TEXT, BYTES } kind;

typedef struct level {
    kind kind;
    bool endless;  /* until a break */
    uint64_t left; /* items; of a map, keys and values each */
    bool first, value;
} level;

typedef struct reader {
    output out;
    level levels[COAPD_CONVERT_DEPTH];
    unsigned depth;
    output chunks; /* of a string that comes in pieces */
    bool tagged, done;
} reader;

static void fail(reader *r, int error)
{
    if (r->out.error == 0)
        r->out.error = error;
}

static level *top(reader *r)
{
    return r->depth > 0 ? &r->levels[r->depth - 1] : NULL;
}

static void close_levels(reader *r)
{
    while (r->depth > 0 && !top(r)->endless && top(r)->left == 0) {
        put_text(&r->out, top(r)->kind == ARRAY ? "]" : "}");
        r->depth--;
    }
    r->done = r->depth == 0;
}

/* What stands between items. Says whether this one is a map's key. */
static bool item_begins(reader *r)
{
    level *l = top(r);
    bool key;

    r->tagged = false;
    if (!l)
        return false;
    if (l->kind == TEXT || l->kind == BYTES) {
        fail(r, -EBADMSG);
        return false;
    }
    key = l->kind == MAP && !l->value;
    if (l->kind == MAP && l->value)
        put_text(&r->out, ":");
    else if (!l->first)
        put_text(&r->out, ",");
    l->first = false;
    l->value = key;
    if (!l->endless)
        l->left--;
    return key;
}

static void item_ends(reader *r)
{
    close_levels(r);
}

/* A plain item as it stands; text around it where it is a key. */
static void item(reader *r, const char *text, bool may_be_key)
{
    bool key = item_begins(r);

    if (key && !may_be_key)
        fail(r, -EBADMSG);
    if (key)
        put_text(&r->out, "\"");
    put_text(&r->out, text);
    if (key)
        put_text(&r->out, "\"");
    item_ends(r);
}

static void integer(reader *r, bool negative, uint64_t n)
{
    char text[24];

    if (negative && n == UINT64_MAX)
        snprintf(text, sizeof(text), "-18446744073709551616");
    else
        snprintf(text, sizeof(text), "%s%llu", negative ? "-" : "",
                 (unsigned long long)(negative ? n + 1 : n));
    item(r, text, true);
}

static void on_uint8(void *c, uint8_t n)
{
    integer(c, false, n);
}

static void on_uint16(void *c, uint16_t n)
{
    integer(c, false, n);
}

static void on_uint32(void *c, uint32_t n)
{
    integer(c, false, n);
}

static void on_uint64(void *c, uint64_t n)
{
    integer(c, false, n);
}

static void on_negint8(void *c, uint8_t n)
{
    integer(c, true, n);
}

static void on_negint16(void *c, uint16_t n)
{
    integer(c, true, n);
}

static void on_negint32(void *c, uint32_t n)
{
    integer(c, true, n);
}

static void on_negint64(void *c, uint64_t n)
{
    integer(c, true, n);
}

static void on_double(void *c, double d)
{
    char text[40];

    if (!isfinite(d)) {
        item(c, "null", false);
        return;
    }
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, d);
        if (strtod(text, NULL) == d)
            break;
    }
    item(c, text, false);
}

static void on_float(void *c, float f)
{
    on_double(c, (double)f);
}

static void on_bool(void *c, bool b)
{
    item(c, b ? "true" : "false", false);
}

static void on_null(void *c)
{
    item(c, "null", false);
}

static void put_string(reader *r, const uint8_t *s, size_t size)
{
    json_t *string = json_stringn((const char *)s, size); /* checks UTF-8 */
    char *text = string ? json_dumps(string, JSON_ENCODE_ANY) : NULL;

    if (text)
        put_text(&r->out, text);
    else
        fail(r, -EBADMSG);
    free(text);
    json_decref(string);
}

static void put_base64url(output *o, const uint8_t *s, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    for (size_t i = 0; i < size && o->error == 0; i += 3) {
        uint32_t n = (uint32_t)s[i] << 16 | (i + 1 < size ? (uint32_t)s[i + 1] << 8 : 0) |
                     (i + 2 < size ? s[i + 2] : 0);
        char four[4] = {digits[n >> 18], digits[n >> 12 & 63], digits[n >> 6 & 63], digits[n & 63]};

        put(o, four, size - i >= 3 ? 4 : size - i + 1);
    }
}

static void whole_string(reader *r, kind k, const uint8_t *s, size_t size)
{
    (void)item_begins(r); /* both kinds may be keys: they are text in JSON */
    if (k == TEXT) {
        put_string(r, s, size);
    } else {
        put_text(&r->out, "\"");
        put_base64url(&r->out, s, size);
        put_text(&r->out, "\"");
    }
    item_ends(r);
}

static void string(reader *r, kind k, const uint8_t *s, size_t size)
{
    level *l = top(r);

    if (l && (l->kind == TEXT || l->kind == BYTES)) {
        if (l->kind != k)
            fail(r, -EBADMSG);
        put(&r->chunks, s, size);
    } else {
        whole_string(r, k, s, size);
    }
}

static void on_text(void *c, cbor_data s, size_t size)
{
    string(c, TEXT, s, size);
}

static void on_bytes(void *c, cbor_data s, size_t size)
{
    string(c, BYTES, s, size);
}

static void open_level(reader *r, kind k, bool endless, uint64_t items)
{
    if (r->depth == COAPD_CONVERT_DEPTH) {
        fail(r, -EBADMSG);
        return;
    }
    if (k == ARRAY || k == MAP) {
        if (item_begins(r))
            fail(r, -EBADMSG);
        put_text(&r->out, k == ARRAY ? "[" : "{");
    } else if (top(r) && (top(r)->kind == TEXT || top(r)->kind == BYTES)) {
        fail(r, -EBADMSG); /* no pieces in pieces */
    }
    r->levels[r->depth++] = (level){.kind = k, .endless = endless, .left = items, .first = true};
    close_levels(r);
}

static void on_array(void *c, size_t n)
{
    open_level(c, ARRAY, false, n);
}

static void on_endless_array(void *c)
{
    open_level(c, ARRAY, true, 0);
}

static void on_map(void *c, size_t n)
{
    if (n > COAPD_CONVERT_MAX)
        fail(c, -EBADMSG);
    else
        open_level(c, MAP, false, 2 * (uint64_t)n);
}

static void on_endless_map(void *c)
{
    open_level(c, MAP, true, 0);
}

static void on_endless_text(void *c)
{
    open_level(c, TEXT, true, 0);
}

static void on_endless_bytes(void *c)
{
    open_level(c, BYTES, true, 0);
}

static void on_break(void *c)
{
    reader *r = c;
    level *l = top(r);
    kind k;

    if (!l || !l->endless || (l->kind == MAP && l->value) || r->tagged) {
        fail(r, -EBADMSG);
        return;
    }
    k = l->kind;
    r->depth--;
    if (k == TEXT || k == BYTES) {
        whole_string(r, k, r->chunks.bytes, r->chunks.size);
        r->chunks.size = 0;
        return;
    }
    put_text(&r->out, k == ARRAY ? "]" : "}");
    close_levels(r);
}

/* A tag belongs to the item that follows. */
static void on_tag(void *c, uint64_t tag)
{
    reader *r = c;

    if (top(r) && (top(r)->kind == TEXT || top(r)->kind == BYTES))
        fail(r, -EBADMSG);
    r->tagged = true;
}

static const struct cbor_callbacks callbacks = {
    .uint8 = on_uint8,
    .uint16 = on_uint16,
    .uint32 = on_uint32,
    .uint64 = on_uint64,
    .negint8 = on_negint8,
    .negint16 = on_negint16,
    .negint32 = on_negint32,
    .negint64 = on_negint64,
    .byte_string_start = on_endless_bytes,
    .byte_string = on_bytes,
    .string = on_text,
    .string_start = on_endless_text,
    .indef_array_start = on_endless_array,
    .array_start = on_array,
    .indef_map_start = on_endless_map,
    .map_start = on_map,
    .tag = on_tag,
    .float2 = on_float,
    .float4 = on_float,
    .float8 = on_double,
    .undefined = on_null,
    .null = on_null,
    .boolean = on_bool,
    .indef_break = on_break,
};

int coapd_cbor_to_json(const void *data, size_t size, uint8_t **ret, size_t *ret_size)
{
    reader r = {};
    const uint8_t *p = data;

    if (size > COAPD_CONVERT_MAX)
        return -EMSGSIZE;
    while (!r.done && r.out.error == 0) {
        struct cbor_decoder_result got = cbor_stream_decode(p, size, &callbacks, &r);

        if (got.status != CBOR_DECODER_FINISHED || got.read == 0) {
            fail(&r, -EBADMSG);
            break;
        }
        p += got.read;
        size -= got.read;
    }
    if (size > 0 || r.tagged)
        fail(&r, -EBADMSG);
    if (r.chunks.error < 0)
        fail(&r, r.chunks.error);
    free(r.chunks.bytes);
    return hand_over(&r.out, ret, ret_size);
}

/* --- JSON to CBOR -------------------------------------------------------------------------------
 */

typedef size_t (*encode_head)(uint64_t n, unsigned char *to, size_t room);

static void put_head(output *o, encode_head f, uint64_t n)
{
    unsigned char bytes[9];

    put(o, bytes, f(n, bytes, sizeof(bytes)));
}

static size_t head_string(uint64_t n, unsigned char *to, size_t room)
{
    return cbor_encode_string_start((size_t)n, to, room);
}

static size_t head_array(uint64_t n, unsigned char *to, size_t room)
{
    return cbor_encode_array_start((size_t)n, to, room);
}

static size_t head_map(uint64_t n, unsigned char *to, size_t room)
{
    return cbor_encode_map_start((size_t)n, to, room);
}

static size_t head_uint(uint64_t n, unsigned char *to, size_t room)
{
    return cbor_encode_uint(n, to, room);
}

static size_t head_negint(uint64_t n, unsigned char *to, size_t room)
{
    return cbor_encode_negint(n, to, room);
}

static void write_string(output *o, const char *s, size_t size)
{
    put_head(o, head_string, size);
    put(o, s, size);
}

/* The shorter of two that say the same. */
static void write_real(output *o, double d)
{
    unsigned char bytes[9];

    if ((double)(float)d == d)
        put(o, bytes, cbor_encode_single((float)d, bytes, sizeof(bytes)));
    else
        put(o, bytes, cbor_encode_double(d, bytes, sizeof(bytes)));
}

static void write_value(output *o, json_t *v, unsigned depth)
{
    unsigned char byte[1];
    const char *key;
    json_t *child;
    size_t i;

    if (depth == COAPD_CONVERT_DEPTH && o->error == 0)
        o->error = -EBADMSG;
    if (o->error < 0)
        return;
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        put_head(o, head_map, json_object_size(v));
        json_object_foreach(v, key, child)
        {
            write_string(o, key, strlen(key));
            write_value(o, child, depth + 1);
        }
        break;
    case JSON_ARRAY:
        put_head(o, head_array, json_array_size(v));
        json_array_foreach(v, i, child) write_value(o, child, depth + 1);
        break;
    case JSON_STRING:
        write_string(o, json_string_value(v), json_string_length(v));
        break;
    case JSON_INTEGER:
        if (json_integer_value(v) < 0)
            put_head(o, head_negint, (uint64_t)(-1 - json_integer_value(v)));
        else
            put_head(o, head_uint, (uint64_t)json_integer_value(v));
        break;
    case JSON_REAL:
        write_real(o, json_real_value(v));
        break;
    case JSON_TRUE:
    case JSON_FALSE:
        put(o, byte, cbor_encode_bool(json_is_true(v), byte, sizeof(byte)));
        break;
    case JSON_NULL:
        put(o, byte, cbor_encode_null(byte, sizeof(byte)));
        break;
    }
}

int coapd_json_to_cbor(const void *data, size_t size, uint8_t **ret, size_t *ret_size)
{
    output o = {};
    json_t *v;

    if (size > COAPD_CONVERT_MAX)
        return -EMSGSIZE;
    v = json_loadb(data, size, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
    if (!v)
        return -EBADMSG;
    write_value(&o, v, 0);
    json_decref(v);
    return hand_over(&o, ret, ret_size);
}

int coapd_convert(uint32_t from, uint32_t to, const void *data, size_t size, uint8_t **ret,
                  size_t *ret_size)
{
    if (from == COAPD_FORMAT_CBOR && to == COAPD_FORMAT_JSON)
        return coapd_cbor_to_json(data, size, ret, ret_size);
    if (from == COAPD_FORMAT_JSON && to == COAPD_FORMAT_CBOR)
        return coapd_json_to_cbor(data, size, ret, ret_size);
    return -ENOTSUP;
}
