/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Messages as bytes, for the roads that are ours: datagrams (RFC 7252, 3), streams and their
 * signaling (RFC 8323, 3 and 5). No state and no input or output. */

#include "coap-message.h"

#define COAPD_STREAM_MAX 32768u /* Max-Message-Size that we announce */
#define COAPD_STREAM_DEFAULT 1152u /* of a peer that has announced none (RFC 8323, 5.3.1) */

/* Bytes that the message takes, header and all; 0: it is not known yet. -EBADMSG: no message;
 * -EMSGSIZE: larger than `max`. */
ssize_t coapd_stream_size(const uint8_t *data, size_t size, size_t max);

/* A message out of bytes; NULL: they are none. coap_delete_pdu() frees it. */
coap_pdu_t *coapd_wire_parse(coap_proto_t proto, const uint8_t *data, size_t size);

/* Bytes of a message, from malloc(); NULL: no memory. */
uint8_t *coapd_wire_datagram(const coap_pdu_t *p, size_t *ret_size);
uint8_t *coapd_wire_stream(const coap_pdu_t *p, size_t *ret_size);

typedef struct coapd_signal {
    uint64_t message_max; /* CSM; 0: not said */
    bool blocks;          /* CSM */
    bool custody;         /* Ping, Pong */
    uint16_t bad_option;  /* critical and not known: the connection ends */
} coapd_signal;

void coapd_signal_parse(const coap_pdu_t *p, coapd_signal *ret);
coap_pdu_t *coapd_signal_csm(void);
/* The Pong of a Ping. */
coap_pdu_t *coapd_signal_pong(const coap_pdu_t *ping, bool custody);
coap_pdu_t *coapd_signal_release(void);
coap_pdu_t *coapd_signal_abort(const char *why, uint16_t bad_option);
