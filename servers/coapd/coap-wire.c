/* SPDX-License-Identifier: Apache-2.0 */
#include "coap-wire.h"

#define HEADER_MAX 6u
#define OPTION_MAX_MESSAGE_SIZE 2
#define OPTION_BLOCK_WISE 4
#define OPTION_CUSTODY 2
#define OPTION_BAD_CSM 2

/* --- reading ------------------------------------------------------------------------------------
 */

ssize_t coapd_stream_size(const uint8_t *data, size_t size, size_t max)
{
    static const struct {
        uint8_t extra;
        uint32_t base;
    } lengths[] = {[13] = {1, 13}, [14] = {2, 269}, [15] = {4, 65805}};
    uint64_t length, total;
    uint8_t nibble, token, extra;

    if (size == 0)
        return 0;
    nibble = data[0] >> 4;
    token = data[0] & 15;
    if (token > 8)
        return -EBADMSG;
    extra = nibble < 13 ? 0 : lengths[nibble].extra;
    if (size < 1u + extra)
        return 0;
    length = 0;
    for (uint8_t i = 0; i < extra; i++)
        length = length << 8 | data[1 + i];
    length += nibble < 13 ? nibble : lengths[nibble].base;
    total = 2u + extra + token + length;
    if (total > max)
        return -EMSGSIZE;
    return (ssize_t)total;
}

coap_pdu_t *coapd_wire_parse(coap_proto_t proto, const uint8_t *data, size_t size)
{
    coap_pdu_t *p = coap_pdu_init(0, 0, 0, size + HEADER_MAX);

    if (p && size >= (COAP_PROTO_RELIABLE(proto) ? 2u : 4u) && coap_pdu_parse(proto, data, size, p))
        return p;
    coap_delete_pdu(p);
    return NULL;
}

/* --- writing ------------------------------------------------------------------------------------
 */

typedef struct writer {
    uint8_t *at;
    uint16_t last;
} writer;

static void put(writer *w, const void *data, size_t size)
{
    if (size > 0)
        memcpy(w->at, data, size);
    w->at += size;
}

static void put_byte(writer *w, unsigned value)
{
    *w->at++ = (uint8_t)value;
}

static unsigned nibble_of(size_t n)
{
    return n < 13 ? (unsigned)n : n < 269 ? 13 : 14;
}

static void put_extended(writer *w, size_t n)
{
    if (n >= 269) {
        put_byte(w, (unsigned)(n - 269) >> 8);
        put_byte(w, (unsigned)(n - 269) & 255);
    } else if (n >= 13) {
        put_byte(w, (unsigned)(n - 13));
    }
}

static void put_option(writer *w, uint16_t number, const uint8_t *value, size_t size)
{
    size_t delta = number - w->last;

    put_byte(w, nibble_of(delta) << 4 | nibble_of(size));
    put_extended(w, delta);
    put_extended(w, size);
    put(w, value, size);
    w->last = number;
}

static size_t payload_of(const coap_pdu_t *p, const uint8_t **ret)
{
    size_t size = 0;

    return coap_get_data(p, &size, ret) ? size : 0;
}

/* Options and payload; an option takes at most five bytes more than its value. */
static size_t body_room(const coap_pdu_t *p)
{
    coap_opt_iterator_t it;
    const uint8_t *payload;
    coap_opt_t *o;
    size_t n = payload_of(p, &payload) + 1;

    coap_option_iterator_init(p, &it, COAP_OPT_ALL);
    while ((o = coap_option_next(&it)))
        n += coap_opt_length(o) + 5;
    return n;
}

static void put_body(writer *w, const coap_pdu_t *p)
{
    coap_opt_iterator_t it;
    const uint8_t *payload;
    coap_opt_t *o;
    size_t n = payload_of(p, &payload);

    coap_option_iterator_init(p, &it, COAP_OPT_ALL);
    while ((o = coap_option_next(&it)))
        put_option(w, it.number, coap_opt_value(o), coap_opt_length(o));
    if (n > 0) {
        put_byte(w, 0xff);
        put(w, payload, n);
    }
}

uint8_t *coapd_wire_datagram(const coap_pdu_t *p, size_t *ret_size)
{
    coap_bin_const_t token = coap_pdu_get_token(p);
    uint8_t *bytes = malloc(4 + token.length + body_room(p));
    unsigned mid = (unsigned)coap_pdu_get_mid(p);
    writer w = {.at = bytes};

    if (!bytes)
        return NULL;
    put_byte(&w, 1u << 6 | (unsigned)coap_pdu_get_type(p) << 4 | (unsigned)token.length);
    put_byte(&w, coap_pdu_get_code(p));
    put_byte(&w, mid >> 8 & 255);
    put_byte(&w, mid & 255);
    put(&w, token.s, token.length);
    put_body(&w, p);
    *ret_size = (size_t)(w.at - bytes);
    return bytes;
}

static void put_length(writer *w, size_t length, size_t token)
{
    if (length < 13) {
        put_byte(w, (unsigned)(length << 4 | token));
    } else if (length < 269) {
        put_byte(w, (unsigned)(13 << 4 | token));
        put_byte(w, (unsigned)(length - 13));
    } else if (length < 65805) {
        put_byte(w, (unsigned)(14 << 4 | token));
        put_byte(w, (unsigned)(length - 269) >> 8);
        put_byte(w, (unsigned)(length - 269) & 255);
    } else {
        put_byte(w, (unsigned)(15 << 4 | token));
        for (int shift = 24; shift >= 0; shift -= 8)
            put_byte(w, (unsigned)((length - 65805) >> shift) & 255);
    }
}

/* The body is written where the longest header would end, and moved. */
uint8_t *coapd_wire_stream(const coap_pdu_t *p, size_t *ret_size)
{
    coap_bin_const_t token = coap_pdu_get_token(p);
    size_t before = HEADER_MAX + token.length, length;
    uint8_t *bytes = malloc(before + body_room(p));
    writer w = {.at = bytes};

    if (!bytes)
        return NULL;
    w.at += before;
    put_body(&w, p);
    length = (size_t)(w.at - bytes) - before;
    w.at = bytes;
    put_length(&w, length, token.length);
    put_byte(&w, coap_pdu_get_code(p));
    put(&w, token.s, token.length);
    memmove(w.at, bytes + before, length);
    *ret_size = (size_t)(w.at - bytes) + length;
    return bytes;
}

/* --- signaling ----------------------------------------------------------------------------------
 */

static uint64_t number_of(const coap_opt_t *o)
{
    return coap_decode_var_bytes8(coap_opt_value(o), MIN_OF(coap_opt_length(o), 8u));
}

void coapd_signal_parse(const coap_pdu_t *p, coapd_signal *ret)
{
    coap_pdu_code_t code = coap_pdu_get_code(p);
    bool ping = code == COAP_SIGNALING_CODE_PING || code == COAP_SIGNALING_CODE_PONG;
    coap_opt_iterator_t it;
    coap_opt_t *o;

    *ret = (coapd_signal){};
    coap_option_iterator_init(p, &it, COAP_OPT_ALL);
    while ((o = coap_option_next(&it))) {
        if (code == COAP_SIGNALING_CODE_CSM && it.number == OPTION_MAX_MESSAGE_SIZE)
            ret->message_max = number_of(o);
        else if (code == COAP_SIGNALING_CODE_CSM && it.number == OPTION_BLOCK_WISE)
            ret->blocks = true;
        else if (ping && it.number == OPTION_CUSTODY)
            ret->custody = true;
        else if ((it.number & 1) && !ret->bad_option)
            ret->bad_option = it.number;
    }
}

static coap_pdu_t *signal_new(unsigned code, size_t room)
{
    return coap_pdu_init(COAP_MESSAGE_CON, (coap_pdu_code_t)code, 0, room);
}

static void add_number(coap_pdu_t *p, uint16_t number, uint32_t value)
{
    uint8_t bytes[4];

    (void)coap_add_option(p, number, coap_encode_var_safe(bytes, sizeof(bytes), value), bytes);
}

coap_pdu_t *coapd_signal_csm(void)
{
    coap_pdu_t *p = signal_new(COAP_SIGNALING_CODE_CSM, 16);

    if (p) {
        add_number(p, OPTION_MAX_MESSAGE_SIZE, COAPD_STREAM_MAX);
        (void)coap_add_option(p, OPTION_BLOCK_WISE, 0, NULL);
    }
    return p;
}

coap_pdu_t *coapd_signal_pong(const coap_pdu_t *ping, bool custody)
{
    coap_bin_const_t token = coap_pdu_get_token(ping);
    coap_pdu_t *p = signal_new(COAP_SIGNALING_CODE_PONG, 16);

    if (p && token.length > 0)
        (void)coap_add_token(p, token.length, token.s);
    if (p && custody)
        (void)coap_add_option(p, OPTION_CUSTODY, 0, NULL);
    return p;
}

coap_pdu_t *coapd_signal_release(void)
{
    return signal_new(COAP_SIGNALING_CODE_RELEASE, 16);
}

coap_pdu_t *coapd_signal_abort(const char *why, uint16_t bad_option)
{
    coap_pdu_t *p = signal_new(COAP_SIGNALING_CODE_ABORT, strlen(why) + 16);

    if (p && bad_option)
        add_number(p, OPTION_BAD_CSM, bad_option);
    if (p && *why)
        (void)coap_add_data(p, strlen(why), (const uint8_t *)why);
    return p;
}
