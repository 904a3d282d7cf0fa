/* SPDX-License-Identifier: Apache-2.0 */
/* JSON text in and out, errors, and what both directions share. */
#include <stdarg.h>

#include "json-internal.h"
#include "signature.h"

void hybus_json_error_done(hybus_json_error *e)
{
    free(e->message);
    *e = (hybus_json_error){};
}

static void print_place(FILE *f, const place *at)
{
    bool plain = true;

    if (!at) {
        fputc('$', f);
        return;
    }
    print_place(f, at->up);
    if (!at->key) {
        fprintf(f, "[%zu]", at->index);
        return;
    }
    for (const char *c = at->key; *c; c++)
        plain = plain && ((*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || *c == '_' ||
                          (c > at->key && *c >= '0' && *c <= '9'));
    if (plain && *at->key && strlen(at->key) <= 64)
        fprintf(f, ".%s", at->key);
    else {
        _cleanup_(freep) char *quoted = NULL;
        json_t *key = json_stringn(at->key, strnlen(at->key, 64));

        /* A cut inside a character is no JSON string any more. */
        if (!key || hybus_json_dump(key, HYBUS_JSON_COMPACT, &quoted) < 0)
            fputs("[…]", f);
        else
            fprintf(f, "[%s]", quoted);
        json_decref(key);
    }
}

int json_fail(walk *w, const place *at, int error, const char *type, size_t type_length,
              const char *format, ...)
{
    size_t size;
    va_list args;
    FILE *f;

    if (!w->error || w->error->message)
        return error;
    if (type)
        snprintf(w->error->expected, sizeof w->error->expected, "%.*s", (int)type_length, type);
    f = open_memstream(&w->error->message, &size);
    if (!f)
        return error;
    print_place(f, at);
    fputs(": ", f);
    va_start(args, format);
    vfprintf(f, format, args);
    va_end(args);
    if (fclose(f) != 0) {
        free(w->error->message);
        w->error->message = NULL;
    }
    return error;
}

int json_count(walk *w, const place *at, unsigned depth)
{
    if (depth > HYBUS_JSON_DEPTH_MAX)
        return json_fail(w, at, -E2BIG, NULL, 0, "more than %u containers in each other",
                         HYBUS_JSON_DEPTH_MAX);
    if (++w->n_values > HYBUS_JSON_VALUES_MAX)
        return json_fail(w, at, -E2BIG, NULL, 0, "more than %u values", HYBUS_JSON_VALUES_MAX);
    return 0;
}

const integer_range *json_integer_range(char type)
{
    static const integer_range ranges[] = {
        {'y', 0, UINT8_MAX},         {'n', INT16_MIN, INT16_MAX}, {'q', 0, UINT16_MAX},
        {'i', INT32_MIN, INT32_MAX}, {'u', 0, UINT32_MAX},        {'x', INT64_MIN, INT64_MAX},
        {'t', 0, UINT64_MAX},
    };

    for (size_t i = 0; i < ELEMENTS(ranges); i++)
        if (ranges[i].type == type)
            return &ranges[i];
    return NULL;
}

int json_parse_integer(const char *s, size_t length, bool *ret_negative, uint64_t *ret_magnitude)
{
    bool negative = length && *s == '-';
    uint64_t magnitude = 0;

    if (negative) {
        s++;
        length--;
    }
    if (!length || (*s == '0' && (length > 1 || negative)))
        return -EINVAL;
    for (size_t i = 0; i < length; i++)
        if (s[i] < '0' || s[i] > '9')
            return -EINVAL;
    for (size_t i = 0; i < length; i++)
        if (__builtin_mul_overflow(magnitude, 10, &magnitude) ||
            __builtin_add_overflow(magnitude, (uint64_t)(s[i] - '0'), &magnitude))
            return -ERANGE;
    if (negative && magnitude > (uint64_t)INT64_MAX + 1)
        return -ERANGE;
    *ret_negative = negative;
    *ret_magnitude = magnitude;
    return 0;
}

/* Copies a JSON text, with integers that jansson would refuse turned into marked strings. Looks at
 * nothing else but brackets and U+0000: the syntax is jansson's to judge. */
static int prepare(const char *text, size_t size, char **ret, size_t *ret_size, walk *w)
{
    _cleanup_(freep) char *copy = NULL;
    unsigned depth = 0;
    bool in_string = false;
    size_t n, copy_size;
    FILE *f = open_memstream(&copy, &copy_size);
    int r = 0;

    if (!f)
        return -ENOMEM;
    for (size_t i = 0; i < size && r == 0; i += n) {
        n = 1;
        if (in_string) {
            if (text[i] == '\\' && size - i >= 2) {
                n = 2;
                if (size - i >= 6 && memcmp(text + i, "\\u0000", 6) == 0)
                    r = json_fail(w, NULL, -EBADMSG, NULL, 0, "\\u0000 is not accepted");
            } else if (text[i] == '"')
                in_string = false;
            fwrite(text + i, 1, n, f);
            continue;
        }
        if (text[i] == '"')
            in_string = true;
        else if (text[i] == '[' || text[i] == '{') {
            if (++depth > HYBUS_JSON_TEXT_DEPTH_MAX)
                r = json_fail(w, NULL, -E2BIG, NULL, 0, "brackets are nested more than %u deep",
                              HYBUS_JSON_TEXT_DEPTH_MAX);
        } else if ((text[i] == ']' || text[i] == '}') && depth)
            depth--;
        else if (text[i] == '-' || (text[i] >= '0' && text[i] <= '9')) {
            bool whole = true, negative;
            uint64_t magnitude;

            while (i + n < size && text[i + n] && strchr("0123456789.eE+-", text[i + n]))
                n++;
            for (size_t j = 1; j < n; j++)
                whole = whole && text[i + j] >= '0' && text[i + j] <= '9';
            if (whole && n >= 19) {
                int q = json_parse_integer(text + i, n, &negative, &magnitude);

                if (q == -ERANGE || (q == 0 && !negative && magnitude > INT64_MAX)) {
                    fprintf(f, "\"\\u0000%.*s\"", (int)MIN_OF(n, (size_t)512), text + i);
                    continue;
                }
            }
        }
        fwrite(text + i, 1, n, f);
    }
    if (fclose(f) != 0)
        return -ENOMEM;
    if (r < 0)
        return r;
    *ret = TAKE_PTR(copy);
    *ret_size = copy_size;
    return 0;
}

int hybus_json_load(const char *text, size_t size, json_t **ret, hybus_json_error *e)
{
    _cleanup_(freep) char *copy = NULL;
    walk w = {.error = e};
    json_error_t error;
    json_t *j;
    int r;

    if (size > HYBUS_JSON_TEXT_MAX)
        return json_fail(&w, NULL, -E2BIG, NULL, 0, "more than %u bytes of JSON",
                         HYBUS_JSON_TEXT_MAX);
    r = prepare(text, size, &copy, &size, &w);
    if (r < 0)
        return r;
    j = json_loadb(copy, size, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &error);
    if (!j) {
        if (json_error_code(&error) == json_error_out_of_memory)
            return -ENOMEM;
        return json_fail(&w, NULL, -EBADMSG, NULL, 0, "not JSON, line %d column %d: %s", error.line,
                         error.column, error.text);
    }
    *ret = j;
    return 0;
}

/* Length of a UTF-8 sequence that a terminal could take as an order, and its code point; or 0. */
static size_t unsafe_sequence(const unsigned char *c, unsigned *ret_code)
{
    if (*c == 0x7f)
        return *ret_code = *c, 1;
    if (c[0] == 0xc2 && c[1] >= 0x80 && c[1] <= 0x9f)
        return *ret_code = c[1], 2;
    if (c[0] == 0xd8 && c[1] == 0x9c)
        return *ret_code = 0x61c, 2;
    if (c[0] == 0xe2 && (c[1] == 0x80 || c[1] == 0x81) && c[2]) {
        unsigned code = 0x2000 + (c[1] & 1) * 64 + (c[2] & 63);

        if ((code >= 0x200e && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) ||
            (code >= 0x2066 && code <= 0x2069))
            return *ret_code = code, 3;
    }
    return 0;
}

int hybus_json_dump(const json_t *value, hybus_json_style style, char **ret)
{
    _cleanup_(freep) char *text =
        json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17) |
                              (style == HYBUS_JSON_PRETTY ? JSON_INDENT(2) : JSON_COMPACT));
    char *safe = NULL;
    size_t size;
    FILE *f;

    if (!text)
        return -ENOMEM;
    f = open_memstream(&safe, &size);
    if (!f)
        return -ENOMEM;
    for (const char *c = text; *c;) {
        unsigned code;
        size_t n = unsafe_sequence((const unsigned char *)c, &code);

        if (n)
            fprintf(f, "\\u%04X", code);
        else
            fputc(*c, f);
        c += n ? n : 1;
    }
    if (fclose(f) != 0) {
        free(safe);
        return -ENOMEM;
    }
    *ret = safe;
    return 0;
}

/* Both nesting limits of signatures bound the recursion. */
static const char *example(FILE *f, const char *s)
{
    switch (*s) {
    case 'b':
        fputs("true", f);
        return s + 1;
    case 'd':
        fputs("0.5", f);
        return s + 1;
    case 's':
        fputs("\"text\"", f);
        return s + 1;
    case 'o':
        fputs("\"/object/path\"", f);
        return s + 1;
    case 'g':
        fputs("\"as\"", f);
        return s + 1;
    case 'v':
        fputs("{\"type\": \"s\", \"value\": \"text\"}", f);
        return s + 1;
    case 'a':
        if (s[1] == 'y') {
            fputs("\"aGVsbG8=\"", f);
            return s + 2;
        }
        if (s[1] == '{') {
            fprintf(f, "{%s: ",
                    strchr("so", s[2]) ? s[2] == 's' ? "\"key\"" : "\"/object/path\""
                    : s[2] == 'g'      ? "\"as\""
                    : s[2] == 'b'      ? "\"true\""
                    : s[2] == 'd'      ? "\"0.5\""
                                       : "\"1\"");
            s = example(f, s + 3);
            fputc('}', f);
            return s + 1;
        }
        fputc('[', f);
        s = example(f, s + 1);
        fputc(']', f);
        return s;
    case '(':
        fputc('[', f);
        for (s++; *s != ')';) {
            s = example(f, s);
            if (*s != ')')
                fputs(", ", f);
        }
        fputc(']', f);
        return s + 1;
    default:
        fputc('1', f);
        return s + 1;
    }
}

int hybus_json_example(const char *signature, char **ret)
{
    char *text = NULL;
    size_t size;
    FILE *f;

    if (!hybus_signature_is_valid(signature))
        return -EINVAL;
    f = open_memstream(&text, &size);
    if (!f)
        return -ENOMEM;
    fputc('[', f);
    while (*signature) {
        signature = example(f, signature);
        if (*signature)
            fputs(", ", f);
    }
    fputc(']', f);
    if (fclose(f) != 0) {
        free(text);
        return -ENOMEM;
    }
    *ret = text;
    return 0;
}

int json_key_text(const json_t *key, char **ret)
{
    if (!json_is_string(key))
        return hybus_json_dump(key, HYBUS_JSON_COMPACT, ret);
    *ret = strdup(json_string_value(key));
    return *ret ? 0 : -ENOMEM;
}
