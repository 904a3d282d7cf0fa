/* SPDX-License-Identifier: Apache-2.0 */
/* The first byte chooses: a datagram, a message of a stream, CBOR, JSON, a problem document, a tag;
 * from 250 on, the bytes of a stream as they come. */
#include <assert.h>
#include <coap-format.h>
#include <coap-wire.h>
#include <jansson.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_question(const coapd_question *q)
{
    assert(q->method && q->path[0] == '/' && strlen(q->path) <= COAPD_PATH_MAX);
    assert(!strstr(q->path, "/../") && !strstr(q->path, "/./"));
    for (const char *c = q->path; *c; c++)
        assert((unsigned char)*c >= 0x20 && *c != 0x7f);
    for (const char *c = q->query; *c; c++)
        assert(*c > 0x20 && *c < 0x7f && *c != '#' && *c != '"');
    assert(q->n_etags <= COAPD_ETAGS_MAX && q->n_if_match <= COAPD_ETAGS_MAX);
    assert(q->observe >= -1 && q->observe <= 1);
}

/* An answer that has everything is a message that can be read. */
static void answer(const coapd_question *q)
{
    coapd_answer a = COAPD_ANSWER(COAP_RESPONSE_CODE(201));
    coap_pdu_t *p;

    a.block1 = q->block1;
    a.block2 = q->block2;
    a.has_observe = a.has_max_age = a.has_size1 = a.has_size2 = true;
    a.payload = q->payload;
    a.payload_size = MIN_OF(q->payload_size, (size_t)1024);
    if (q->n_etags > 0)
        a.etag = q->etags[0];
    snprintf(a.location, sizeof(a.location), "%.100s?%.100s", q->path, q->query);
    p = coapd_answer_pdu(&a, COAP_MESSAGE_ACK, 1, (const uint8_t *)"abcd", 4, 2048);
    assert(p && coap_pdu_get_code(p) == a.code);
    coap_delete_pdu(p);
}

static void message(coap_proto_t proto, const uint8_t *data, size_t size)
{
    coap_pdu_t *pdu = coap_pdu_init(0, 0, 0, 65536);
    coapd_question q;

    if (pdu && coap_pdu_parse(proto, data, size, pdu) &&
        coapd_question_parse(pdu, COAP_PROTO_RELIABLE(proto), &q) == 0) {
        check_question(&q);
        answer(&q);
    }
    coap_delete_pdu(pdu);
}

static void cbor(const uint8_t *data, size_t size)
{
    uint8_t *text = NULL, *again = NULL;
    size_t n = 0, m = 0;
    json_t *v;

    if (coapd_cbor_to_json(data, size, &text, &n) < 0)
        return;
    v = json_loadb((char *)text, n, JSON_DECODE_ANY, NULL);
    /* What comes out is JSON, but for numbers that the checker cannot hold, and NUL in a key. */
    assert(v || strpbrk((char *)text, "0123456789") || memmem(text, n, "\\u0000", 6));
    json_decref(v);
    if (coapd_json_to_cbor(text, n, &again, &m) == 0)
        free(again);
    free(text);
}

static void json(const uint8_t *data, size_t size)
{
    uint8_t *bytes = NULL, *text = NULL;
    size_t n = 0, m = 0;

    if (coapd_json_to_cbor(data, size, &bytes, &n) < 0)
        return;
    if (coapd_cbor_to_json(bytes, n, &text, &m) == 0) /* larger than it may be, otherwise */
        free(text);
    free(bytes);
}

static void texts(const uint8_t *data, size_t size)
{
    char text[64], tag[11];
    coapd_etag e;

    assert(coapd_diagnostic(data, size, text, sizeof(text)) < sizeof(text));
    coapd_etag_of((const char *)data, size, &e);
    assert(e.size >= 1 && e.size <= 8);
    if (coapd_etag_text(&e, tag) && size <= 10 && size >= 3 && data[0] == '"')
        assert(strlen(tag) == (size_t)e.size + 2);
    (void)coapd_format_of((const char *)data, size);
}

static void same(const coap_pdu_t *a, const coap_pdu_t *b)
{
    coap_bin_const_t x = coap_pdu_get_token(a), y = coap_pdu_get_token(b);
    coap_opt_iterator_t i, j;
    const uint8_t *p, *q;
    size_t n = 0, m = 0;

    assert(coap_pdu_get_code(a) == coap_pdu_get_code(b));
    assert(x.length == y.length && memcmp(x.s, y.s, x.length) == 0);
    coap_option_iterator_init(a, &i, COAP_OPT_ALL);
    coap_option_iterator_init(b, &j, COAP_OPT_ALL);
    for (;;) {
        coap_opt_t *one = coap_option_next(&i), *two = coap_option_next(&j);

        assert(!one == !two);
        if (!one)
            break;
        assert(i.number == j.number && coap_opt_length(one) == coap_opt_length(two));
        assert(memcmp(coap_opt_value(one), coap_opt_value(two), coap_opt_length(one)) == 0);
    }
    assert(coap_get_data(a, &n, &p) == coap_get_data(b, &m, &q) && n == m);
    assert(n == 0 || memcmp(p, q, n) == 0);
}

/* What we write of a message is the message, on both kinds of roads. */
static void write_again(const coap_pdu_t *p)
{
    size_t size = 0;
    uint8_t *bytes = coapd_wire_stream(p, &size);
    coap_pdu_t *again;

    assert(bytes && coapd_stream_size(bytes, size, SIZE_MAX) == (ssize_t)size);
    again = coapd_wire_parse(COAP_PROTO_TCP, bytes, size);
    assert(again);
    same(p, again);
    coap_delete_pdu(again);
    free(bytes);
    bytes = coapd_wire_datagram(p, &size);
    assert(bytes);
    again = coapd_wire_parse(COAP_PROTO_UDP, bytes, size);
    assert(again);
    same(p, again);
    coap_delete_pdu(again);
    free(bytes);
}

static void signals(const coap_pdu_t *p)
{
    coapd_signal g;
    coap_pdu_t *answer;

    coapd_signal_parse(p, &g);
    answer = coapd_signal_pong(p, g.custody);
    write_again(answer);
    coap_delete_pdu(answer);
    answer = coapd_signal_abort("why", g.bad_option);
    write_again(answer);
    coap_delete_pdu(answer);
}

static void stream(const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t n = coapd_stream_size(data, size, COAPD_STREAM_MAX);
        coap_pdu_t *p;

        /* No part of it says more than the whole. */
        for (size_t i = 0; i < MIN_OF(size, (size_t)8); i++) {
            ssize_t part = coapd_stream_size(data, i, COAPD_STREAM_MAX);
            assert(part == 0 || part == n);
        }
        if (n <= 0 || (size_t)n > size)
            return;
        assert(n >= 2 && n <= (ssize_t)COAPD_STREAM_MAX);
        p = coapd_wire_parse(COAP_PROTO_TCP, data, (size_t)n);
        if (p && COAP_RESPONSE_CLASS(coap_pdu_get_code(p)) == 7)
            signals(p);
        if (p)
            write_again(p);
        coap_delete_pdu(p);
        data += n;
        size -= (size_t)n;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    coap_set_log_level(LOG_EMERG);
    if (data[0] >= 250) {
        stream(data + 1, size - 1);
        return 0;
    }
    switch (data[0] % 5) {
    case 0:
        message(COAP_PROTO_UDP, data + 1, size - 1);
        break;
    case 1:
        message(COAP_PROTO_TCP, data + 1, size - 1);
        break;
    case 2:
        cbor(data + 1, size - 1);
        break;
    case 3:
        json(data + 1, size - 1);
        break;
    default:
        texts(data + 1, size - 1);
        break;
    }
    return 0;
}
