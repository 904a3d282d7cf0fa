/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What a CoAP message means to the core, and what the core's answer looks like as one: RFC 7252,
 * with RFC 8075 (HTTP mapping), 7959 (blocks), 7641 (Observe), 8132 (FETCH, PATCH, iPATCH), 7967
 * (No-Response), 9175 (Echo, Request-Tag). No state and no input or output. */

#include <syslog.h>
/* Before the library's headers, which have names of their own for what syslog.h defines. */

#include <coap3/coap.h>
#include <endpoint/endpoint.h>
#include <hybus/base.h>

#define COAPD_PATH_MAX 1024u
#define COAPD_QUERY_MAX 1024u
#define COAPD_ETAGS_MAX 4u /* of one request; further ones are left out */
#define COAPD_FIELDS_MAX 8u
#define COAPD_FORMAT_NONE 0xffffffffu
#define COAPD_BLOCK_SIZE_MAX 1024u

typedef struct coapd_block {
    bool there, more;
    uint32_t number;
    uint8_t szx; /* as it stands in the message: 0 to 6, 7 is BERT (RFC 8323, 6) */
} coapd_block;

static inline size_t coapd_block_size(uint8_t szx)
{
    return szx >= 6 ? COAPD_BLOCK_SIZE_MAX : (size_t)16 << szx;
}

typedef struct coapd_etag {
    uint8_t size, bytes[8];
} coapd_etag;

/* A request, as understood. Spans point into the message. */
typedef struct coapd_question {
    const char *method;
    bool safe, idempotent;
    char path[COAPD_PATH_MAX + 1], query[COAPD_QUERY_MAX + 1], host[256];
    uint32_t accept, format; /* COAPD_FORMAT_NONE: not said */
    int observe;             /* 0 register, 1 cancel, -1 not there */
    coapd_block block1, block2;
    uint64_t size1; /* UINT64_MAX: not said */
    bool size2;
    coapd_etag etags[COAPD_ETAGS_MAX], if_match[COAPD_ETAGS_MAX];
    size_t n_etags, n_if_match;
    bool if_none_match;
    uint8_t no_response; /* RFC 7967: classes that are not wanted */
    size_t size;         /* bytes of the message, about */
    const uint8_t *echo, *payload;
    size_t echo_size, payload_size;
    uint64_t key; /* the same for all blocks of one request, different for others */
} coapd_question;

/* 0, or the code with which the request is refused. */
coap_pdu_code_t coapd_question_parse(const coap_pdu_t *pdu, bool reliable, coapd_question *ret);

/* An answer before it is a message. */
typedef struct coapd_answer {
    coap_pdu_code_t code;
    uint32_t format;
    bool has_max_age, has_observe, has_size1, has_size2;
    uint32_t max_age, observe, size1, size2;
    coapd_etag etag;
    coapd_block block1, block2;
    uint8_t echo[40], echo_size;
    char location[256]; /* "/path?query" */
    const void *payload;
    size_t payload_size;
} coapd_answer;

#define COAPD_ANSWER(value) ((coapd_answer){.code = (value), .format = COAPD_FORMAT_NONE})

/* A message of it; NULL: no memory, or it does not fit into `room` bytes. */
coap_pdu_t *coapd_answer_pdu(const coapd_answer *a, coap_pdu_type_t type, coap_mid_t mid,
                             const uint8_t *token, size_t token_size, size_t room);

/* RFC 8075, 7, the other way round. */
coap_pdu_code_t coapd_code_of(unsigned status, const char *method);
/* IANA's CoAP Content-Formats. NULL, COAPD_FORMAT_NONE: not registered. */
const char *coapd_format_name(uint32_t format);
uint32_t coapd_format_of(const char *type, size_t size);

/* Fills in what the fields of a responder's answer say. */
void coapd_answer_fields(coapd_answer *a, const endpoint_field *fields, size_t n);
/* A problem document (RFC 9457) as a diagnostic payload (RFC 7252, 5.5.2): title or detail, and the
 * audit id. Returns the size. */
size_t coapd_diagnostic(const void *problem, size_t size, char *text, size_t room);

/* Entity tags. Those of up to eight printable bytes are the same on both sides; longer ones are
 * known to CoAP by the first eight bytes of their SHA-256. */
void coapd_etag_of(const char *tag, size_t size, coapd_etag *ret);
void coapd_etag_of_body(const void *body, size_t size, coapd_etag *ret);
static inline bool coapd_etag_equal(const coapd_etag *a, const coapd_etag *b)
{
    return a->size == b->size && memcmp(a->bytes, b->bytes, a->size) == 0;
}
/* `"…"`, or false: it is the hash of something longer. */
bool coapd_etag_text(const coapd_etag *e, char text[11]);
