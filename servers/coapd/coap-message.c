/* SPDX-License-Identifier: Apache-2.0 */
#include "coap-message.h"

#include <jansson.h>
#include <openssl/sha.h>
#include <strings.h>

/* --- options ------------------------------------------------------------------------------------
 */

#define OPTION_REQUEST_TAG 292

typedef struct option {
    uint16_t number;
    uint8_t min, max;
    bool repeats;
} option;

static const option options[] = {
    {COAP_OPTION_IF_MATCH, 0, 8, true},    {COAP_OPTION_URI_HOST, 1, 255, false},
    {COAP_OPTION_ETAG, 1, 8, true},        {COAP_OPTION_IF_NONE_MATCH, 0, 0, false},
    {COAP_OPTION_OBSERVE, 0, 3, false},    {COAP_OPTION_URI_PORT, 0, 2, false},
    {COAP_OPTION_URI_PATH, 0, 255, true},  {COAP_OPTION_CONTENT_FORMAT, 0, 2, false},
    {COAP_OPTION_URI_QUERY, 0, 255, true}, {COAP_OPTION_ACCEPT, 0, 2, false},
    {COAP_OPTION_BLOCK2, 0, 3, false},     {COAP_OPTION_BLOCK1, 0, 3, false},
    {COAP_OPTION_SIZE2, 0, 4, false},      {COAP_OPTION_SIZE1, 0, 4, false},
    {COAP_OPTION_ECHO, 1, 40, false},      {COAP_OPTION_NORESPONSE, 0, 1, false},
    {COAP_OPTION_PROXY_URI, 1, 255, false}, {COAP_OPTION_PROXY_SCHEME, 1, 255, false},
    {OPTION_REQUEST_TAG, 0, 8, true},
};

typedef struct span {
    const uint8_t *base;
    size_t size;
} span;

static uint32_t number_of(span v)
{
    uint32_t n = 0;

    for (size_t i = 0; i < v.size; i++)
        n = n << 8 | v.base[i];
    return n;
}

static uint64_t hash(uint64_t h, const void *data, size_t size)
{
    const uint8_t *p = data;

    for (size_t i = 0; i < size; i++)
        h = (h ^ p[i]) * 1099511628211u;
    return (h ^ size) * 1099511628211u; /* "ab","c" is not "a","bc" */
}

static bool utf8_valid(span v)
{
    for (size_t i = 0; i < v.size;) {
        uint8_t c = v.base[i++];
        unsigned more = c < 0x80 ? 0 : c >= 0xc2 && c < 0xe0 ? 1 : (c & 0xf0) == 0xe0 ? 2 : 3;
        uint32_t code = more == 0 ? c : more == 1 ? c & 0x1f : more == 2 ? c & 0x0f : c & 0x07;

        if ((c >= 0x80 && c < 0xc2) || c > 0xf4 || v.size - i < more)
            return false;
        for (unsigned k = 0; k < more; k++, i++) {
            if ((v.base[i] & 0xc0) != 0x80)
                return false;
            code = code << 6 | (v.base[i] & 0x3f);
        }
        if ((more == 2 && (code < 0x800 || (code >= 0xd800 && code < 0xe000))) ||
            (more == 3 && (code < 0x10000 || code > 0x10ffff)) || code < 0x20 || code == 0x7f)
            return false;
    }
    return true;
}

/* One segment. A slash inside it would move the borders that permissions are drawn along. */
static coap_pdu_code_t add_segment(coapd_question *q, size_t *at, span v)
{
    bool dots =
        (v.size == 1 && v.base[0] == '.') || (v.size == 2 && v.base[0] == '.' && v.base[1] == '.');

    if (dots || memchr(v.base, '/', v.size) || !utf8_valid(v))
        return COAP_RESPONSE_CODE(400);
    if (*at + v.size + 1 > COAPD_PATH_MAX)
        return COAP_RESPONSE_CODE(400);
    q->path[(*at)++] = '/';
    memcpy(q->path + *at, v.base, v.size);
    *at += v.size;
    return 0;
}

static bool is_plain(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("-._~!$'()*,;=:@/?", c));
}

/* The core's query is raw: what had been decoded for CoAP is encoded again. */
static coap_pdu_code_t add_argument(coapd_question *q, size_t *at, span v)
{
    static const char digits[] = "0123456789ABCDEF";

    if (!utf8_valid(v))
        return COAP_RESPONSE_CODE(400);
    if (*at > 0 && *at < COAPD_QUERY_MAX)
        q->query[(*at)++] = '&';
    for (size_t i = 0; i < v.size; i++) {
        uint8_t c = v.base[i];

        if (*at + 3 > COAPD_QUERY_MAX)
            return COAP_RESPONSE_CODE(400);
        if (is_plain(c)) {
            q->query[(*at)++] = (char)c;
        } else {
            q->query[(*at)++] = '%';
            q->query[(*at)++] = digits[c >> 4];
            q->query[(*at)++] = digits[c & 15];
        }
    }
    return 0;
}

static coap_pdu_code_t take_host(coapd_question *q, span v)
{
    for (size_t i = 0; i < v.size; i++)
        if (v.base[i] <= 0x20 || v.base[i] >= 0x7f || strchr("/?#@\\", v.base[i]))
            return COAP_RESPONSE_CODE(400);
    memcpy(q->host, v.base, v.size);
    q->host[v.size] = 0;
    return 0;
}

static void take_etag(coapd_etag *list, size_t *n, span v)
{
    if (*n == COAPD_ETAGS_MAX)
        return;
    list[*n].size = (uint8_t)v.size;
    memcpy(list[*n].bytes, v.base, v.size);
    (*n)++;
}

static coap_pdu_code_t take_block(coapd_block *b, span v, bool reliable)
{
    uint32_t n = number_of(v);

    *b = (coapd_block){.there = true, .more = n & 8, .number = n >> 4, .szx = n & 7};
    return b->szx == 7 && !reliable ? COAP_RESPONSE_CODE(400) : 0;
}

typedef struct walk {
    coapd_question *q;
    size_t path, query;
    uint32_t seen; /* of the table above */
    bool reliable;
} walk;

static coap_pdu_code_t take_option(walk *w, uint16_t number, span v)
{
    coapd_question *q = w->q;

    switch (number) {
    case COAP_OPTION_IF_MATCH:
        take_etag(q->if_match, &q->n_if_match, v);
        break;
    case COAP_OPTION_URI_HOST:
        return take_host(q, v);
    case COAP_OPTION_ETAG:
        take_etag(q->etags, &q->n_etags, v);
        return 0; /* which representations a client has is no part of the question */
    case COAP_OPTION_IF_NONE_MATCH:
        q->if_none_match = true;
        break;
    case COAP_OPTION_OBSERVE:
        q->observe = (int)MIN_OF(number_of(v), 2u);
        return 0;
    case COAP_OPTION_URI_PATH:
        return add_segment(q, &w->path, v);
    case COAP_OPTION_CONTENT_FORMAT:
        q->format = number_of(v);
        break;
    case COAP_OPTION_URI_QUERY:
        return add_argument(q, &w->query, v);
    case COAP_OPTION_ACCEPT:
        q->accept = number_of(v);
        break;
    case COAP_OPTION_BLOCK2:
        return take_block(&q->block2, v, w->reliable);
    case COAP_OPTION_BLOCK1:
        return take_block(&q->block1, v, w->reliable);
    case COAP_OPTION_SIZE2:
        q->size2 = true;
        return 0;
    case COAP_OPTION_SIZE1:
        q->size1 = number_of(v);
        return 0;
    case COAP_OPTION_ECHO:
        q->echo = v.base;
        q->echo_size = v.size;
        return 0;
    case COAP_OPTION_NORESPONSE:
        q->no_response = (uint8_t)number_of(v);
        return 0;
    case COAP_OPTION_PROXY_URI:
    case COAP_OPTION_PROXY_SCHEME:
        return COAP_RESPONSE_CODE(505);
    case OPTION_REQUEST_TAG:
        break;
    default:
        return 0;
    }
    q->key = hash(hash(q->key, &number, sizeof(number)), v.base, v.size);
    return 0;
}

/* What has a wrong length or comes twice counts as not known (RFC 7252, 5.4.3 and 5.4.5). */
static coap_pdu_code_t check_option(walk *w, uint16_t number, span v)
{
    for (size_t i = 0; i < ELEMENTS(options); i++) {
        const option *o = &options[i];
        bool again = w->seen & 1u << i;

        if (o->number != number)
            continue;
        w->seen |= 1u << i;
        if (v.size < o->min || v.size > o->max || (again && !o->repeats))
            return number & 1 ? COAP_RESPONSE_CODE(402) : 0;
        return take_option(w, number, v);
    }
    return number & 1 ? COAP_RESPONSE_CODE(402) : 0;
}

static bool take_method(coapd_question *q, coap_pdu_code_t code)
{
    static const struct {
        coap_pdu_code_t code;
        const char *name;
        bool safe, idempotent;
    } methods[] = {
        {COAP_REQUEST_CODE_GET, "GET", true, true},
        {COAP_REQUEST_CODE_POST, "POST", false, false},
        {COAP_REQUEST_CODE_PUT, "PUT", false, true},
        {COAP_REQUEST_CODE_DELETE, "DELETE", false, true},
        {COAP_REQUEST_CODE_FETCH, "FETCH", true, true},
        {COAP_REQUEST_CODE_PATCH, "PATCH", false, false},
        {COAP_REQUEST_CODE_IPATCH, "PATCH", false, true},
    };

    for (size_t i = 0; i < ELEMENTS(methods); i++)
        if (methods[i].code == code) {
            q->method = methods[i].name;
            q->safe = methods[i].safe;
            q->idempotent = methods[i].idempotent;
            q->key = hash(14695981039346656037u, &code, sizeof(code));
            return true;
        }
    return false;
}

coap_pdu_code_t coapd_question_parse(const coap_pdu_t *pdu, bool reliable, coapd_question *q)
{
    walk w = {.q = q, .reliable = reliable};
    coap_opt_iterator_t it;
    coap_opt_t *opt;

    memset(q, 0, offsetof(coapd_question, path));
    q->accept = q->format = COAPD_FORMAT_NONE;
    q->observe = -1;
    q->block1 = q->block2 = (coapd_block){};
    q->size1 = UINT64_MAX;
    q->size2 = q->if_none_match = false;
    q->n_etags = q->n_if_match = 0;
    q->no_response = 0;
    q->echo = q->payload = NULL;
    q->echo_size = q->payload_size = 0;
    q->size = 4 + coap_pdu_get_token(pdu).length;
    q->host[0] = 0;
    if (!take_method(q, coap_pdu_get_code(pdu)))
        return COAP_RESPONSE_CODE(405);
    coap_option_iterator_init(pdu, &it, COAP_OPT_ALL);
    while ((opt = coap_option_next(&it))) {
        coap_pdu_code_t refused;

        q->size += coap_opt_length(opt) + 1;
        refused = check_option(&w, it.number, (span){coap_opt_value(opt), coap_opt_length(opt)});

        if (refused)
            return refused;
    }
    if (w.path == 0)
        q->path[w.path++] = '/';
    q->path[w.path] = 0;
    q->query[w.query] = 0;
    q->key = hash(hash(q->key, q->path, w.path), q->query, w.query);
    (void)coap_get_data(pdu, &q->payload_size, &q->payload);
    q->size += q->payload_size;
    if (q->observe > 1)
        q->observe = -1; /* any other value counts as not there (RFC 7641, 2) */
    return 0;
}

/* --- answers ------------------------------------------------------------------------------------
 */

static bool add(coap_pdu_t *p, uint16_t number, const void *value, size_t size)
{
    return coap_add_option(p, number, size, value) > 0;
}

static bool add_number(coap_pdu_t *p, uint16_t number, uint32_t value)
{
    uint8_t bytes[4];

    return add(p, number, bytes, coap_encode_var_safe(bytes, sizeof(bytes), value));
}

static bool add_block(coap_pdu_t *p, uint16_t number, const coapd_block *b)
{
    return !b->there || add_number(p, number, b->number << 4 | (b->more ? 8u : 0u) | b->szx);
}

/* "/a/b" as Location-Path, or "x=1&y" as Location-Query. */
static bool add_parts(coap_pdu_t *p, uint16_t number, const char *text, size_t size, char separator)
{
    while (size > 0) {
        const char *end = memchr(text, separator, size);
        size_t n = end ? (size_t)(end - text) : size;

        if (!add(p, number, text, n))
            return false;
        text += n + (end ? 1 : 0);
        size -= n + (end ? 1 : 0);
    }
    return true;
}

static bool add_location(coap_pdu_t *p, const coapd_answer *a, bool query)
{
    const char *mark = strchr(a->location, '?');
    size_t path = mark ? (size_t)(mark - a->location) : strlen(a->location);

    if (!query)
        return path < 2 || add_parts(p, COAP_OPTION_LOCATION_PATH, a->location + 1, path - 1, '/');
    return !mark || add_parts(p, COAP_OPTION_LOCATION_QUERY, mark + 1, strlen(mark + 1), '&');
}

/* In the order of their numbers. */
static bool add_options(coap_pdu_t *p, const coapd_answer *a)
{
    return (!a->etag.size || add(p, COAP_OPTION_ETAG, a->etag.bytes, a->etag.size)) &&
           (!a->has_observe || add_number(p, COAP_OPTION_OBSERVE, a->observe & 0xffffffu)) &&
           add_location(p, a, false) &&
           (a->format == COAPD_FORMAT_NONE ||
            add_number(p, COAP_OPTION_CONTENT_FORMAT, a->format)) &&
           (!a->has_max_age || add_number(p, COAP_OPTION_MAXAGE, a->max_age)) &&
           add_location(p, a, true) && add_block(p, COAP_OPTION_BLOCK2, &a->block2) &&
           add_block(p, COAP_OPTION_BLOCK1, &a->block1) &&
           (!a->has_size2 || add_number(p, COAP_OPTION_SIZE2, a->size2)) &&
           (!a->has_size1 || add_number(p, COAP_OPTION_SIZE1, a->size1)) &&
           (!a->echo_size || add(p, COAP_OPTION_ECHO, a->echo, a->echo_size));
}

coap_pdu_t *coapd_answer_pdu(const coapd_answer *a, coap_pdu_type_t type, coap_mid_t mid,
                             const uint8_t *token, size_t token_size, size_t room)
{
    coap_pdu_t *p = coap_pdu_init(type, a->code, mid, room);

    if (!p)
        return NULL;
    if ((token_size > 0 && !coap_add_token(p, token_size, token)) || !add_options(p, a) ||
        (a->payload_size > 0 && !coap_add_data(p, a->payload_size, a->payload))) {
        coap_delete_pdu(p);
        return NULL;
    }
    return p;
}

coap_pdu_code_t coapd_code_of(unsigned status, const char *method)
{
    static const struct {
        unsigned status, code;
    } table[] = {
        {201, 201}, {203, 205}, {304, 203}, {400, 400}, {401, 401}, {403, 403},
        {404, 404}, {405, 405}, {406, 406}, {408, 408}, {409, 409}, {410, 404},
        {412, 412}, {413, 413}, {415, 415}, {422, 422}, {429, 429}, {500, 500},
        {501, 501}, {502, 502}, {503, 503}, {504, 504},
    };

    for (size_t i = 0; i < ELEMENTS(table); i++)
        if (table[i].status == status)
            return (coap_pdu_code_t)COAP_RESPONSE_CODE(table[i].code);
    if (status >= 200 && status < 300)
        return streq(method, "GET") || streq(method, "FETCH") ? COAP_RESPONSE_CODE(205)
               : streq(method, "DELETE")                      ? COAP_RESPONSE_CODE(202)
                                                              : COAP_RESPONSE_CODE(204);
    if (status >= 400 && status < 500)
        return COAP_RESPONSE_CODE(400);
    return status < 400 ? COAP_RESPONSE_CODE(502) /* CoAP has no redirections */
                        : COAP_RESPONSE_CODE(500);
}

/* --- content formats ----------------------------------------------------------------------------
 */

static const struct {
    uint32_t format;
    const char *name;
} formats[] = {
    {0, "text/plain"},
    {40, "application/link-format"},
    {41, "application/xml"},
    {42, "application/octet-stream"},
    {47, "application/exi"},
    {50, "application/json"},
    {51, "application/json-patch+json"},
    {52, "application/merge-patch+json"},
    {60, "application/cbor"},
    {61, "application/cwt"},
    {62, "application/multipart-core"},
    {63, "application/cbor-seq"},
    {64, "application/link-format+cbor"},
    {110, "application/senml+json"},
    {111, "application/sensml+json"},
    {112, "application/senml+cbor"},
    {113, "application/sensml+cbor"},
    {256, "application/coap-group+json"},
    {257, "application/concise-problem-details+cbor"},
    {310, "application/senml+xml"},
    {320, "application/senml-etch+json"},
    {322, "application/senml-etch+cbor"},
    {432, "application/td+json"},
    {10000, "application/vnd.ocf+cbor"},
    {20000, "text/css"},
    {30000, "image/svg+xml"},
    {21, "image/gif"},
    {22, "image/jpeg"},
    {23, "image/png"},
};

const char *coapd_format_name(uint32_t format)
{
    for (size_t i = 0; i < ELEMENTS(formats); i++)
        if (formats[i].format == format)
            return formats[i].name;
    return NULL;
}

uint32_t coapd_format_of(const char *type, size_t size)
{
    const char *end = memchr(type, ';', size);

    if (end)
        size = (size_t)(end - type);
    while (size > 0 && (type[size - 1] == ' ' || type[size - 1] == '\t'))
        size--;
    for (size_t i = 0; i < ELEMENTS(formats); i++)
        if (strlen(formats[i].name) == size && strncasecmp(formats[i].name, type, size) == 0)
            return formats[i].format;
    return COAPD_FORMAT_NONE;
}

/* --- a responder's fields -----------------------------------------------------------------------
 */

static bool field_named(const endpoint_field *f, const char *name)
{
    return f->name_size == strlen(name) && memcmp(f->name, name, f->name_size) == 0;
}

static bool parse_seconds(const char *s, size_t size, uint32_t *ret)
{
    uint64_t n = 0;

    for (size_t i = 0; i < size && s[i] >= '0' && s[i] <= '9'; i++)
        n = MIN_OF(n * 10 + (uint64_t)(s[i] - '0'), (uint64_t)UINT32_MAX);
    *ret = (uint32_t)n;
    return size > 0 && s[0] >= '0' && s[0] <= '9';
}

static void take_freshness(coapd_answer *a, const endpoint_field *f)
{
    static const char key[] = "max-age=";

    for (size_t i = 0; i < f->value_size; i++) {
        const char *s = f->value + i;
        size_t left = f->value_size - i;

        if (i > 0 && s[-1] != ',' && s[-1] != ' ')
            continue;
        if ((left >= 8 && strncasecmp(s, "no-store", 8) == 0) ||
            (left >= 8 && strncasecmp(s, "no-cache", 8) == 0)) {
            a->has_max_age = true;
            a->max_age = 0;
            return;
        }
        if (left > strlen(key) && strncasecmp(s, key, strlen(key)) == 0)
            a->has_max_age = parse_seconds(s + strlen(key), left - strlen(key), &a->max_age);
    }
}

static void take_location(coapd_answer *a, const endpoint_field *f)
{
    if (f->value_size < 2 || f->value_size >= sizeof(a->location) || f->value[0] != '/' ||
        f->value[1] == '/' || memchr(f->value, '%', f->value_size) ||
        memchr(f->value, '#', f->value_size))
        return; /* of another host, or nothing that CoAP could carry as it is */
    memcpy(a->location, f->value, f->value_size);
    a->location[f->value_size] = 0;
}

void coapd_answer_fields(coapd_answer *a, const endpoint_field *fields, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const endpoint_field *f = &fields[i];

        if (field_named(f, "content-type"))
            a->format = coapd_format_of(f->value, f->value_size);
        else if (field_named(f, "etag"))
            coapd_etag_of(f->value, f->value_size, &a->etag);
        else if (field_named(f, "cache-control"))
            take_freshness(a, f);
        else if (field_named(f, "location") && a->code == COAP_RESPONSE_CODE(201))
            take_location(a, f);
    }
    for (size_t i = 0; i < n; i++)
        if (field_named(&fields[i], "retry-after"))
            a->has_max_age = parse_seconds(fields[i].value, fields[i].value_size, &a->max_age);
}

size_t coapd_diagnostic(const void *problem, size_t size, char *text, size_t room)
{
    json_t *o = json_loadb(problem, size, 0, NULL);
    const char *detail = json_string_value(json_object_get(o, "detail"));
    const char *title = json_string_value(json_object_get(o, "title"));
    const char *audit = json_string_value(json_object_get(o, "audit"));
    int n = snprintf(text, room, audit ? "%s (%s)" : "%s", strempty(detail ? detail : title),
                     strempty(audit));

    json_decref(o);
    return n < 0 ? 0 : MIN_OF((size_t)n, room - 1);
}

/* --- entity tags --------------------------------------------------------------------------------
 */

static void hash_into(const void *data, size_t size, coapd_etag *ret)
{
    unsigned char digest[SHA256_DIGEST_LENGTH];

    SHA256(data, size, digest);
    ret->size = 8;
    memcpy(ret->bytes, digest, 8);
}

static bool is_tag_byte(uint8_t c)
{
    return c > 0x20 && c < 0x7f && c != '"';
}

void coapd_etag_of(const char *tag, size_t size, coapd_etag *ret)
{
    bool plain = size >= 3 && size <= 10 && tag[0] == '"' && tag[size - 1] == '"';

    for (size_t i = 1; plain && i + 1 < size; i++)
        plain = is_tag_byte((uint8_t)tag[i]);
    if (!plain) {
        hash_into(tag, size, ret);
        return;
    }
    ret->size = (uint8_t)(size - 2);
    memcpy(ret->bytes, tag + 1, size - 2);
}

void coapd_etag_of_body(const void *body, size_t size, coapd_etag *ret)
{
    hash_into(body, size, ret);
}

bool coapd_etag_text(const coapd_etag *e, char text[11])
{
    for (size_t i = 0; i < e->size; i++)
        if (!is_tag_byte(e->bytes[i]))
            return false;
    if (e->size == 0)
        return false;
    text[0] = '"';
    memcpy(text + 1, e->bytes, e->size);
    text[e->size + 1] = '"';
    text[e->size + 2] = 0;
    return true;
}
