/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* JSON and CBOR (RFC 8949) into each other, so that a responder that speaks one of them serves
 * clients that speak the other. As RFC 8949, 6 has it: byte strings become base64url text, tags are
 * left out, NaN and infinities become null, integer keys become text; what has no counterpart gives
 * -EBADMSG. Depth is bounded, and so is the size of what comes out (-EMSGSIZE). */

#include <stddef.h>
#include <stdint.h>

#include <hybus/base.h>

#define COAPD_CONVERT_MAX (256u * 1024u) /* bytes, in and out */
#define COAPD_CONVERT_DEPTH 32u

#define COAPD_FORMAT_JSON 50u
#define COAPD_FORMAT_CBOR 60u

/* One content format into another; -ENOTSUP. */
int coapd_convert(uint32_t from, uint32_t to, const void *data, size_t size, uint8_t **ret,
                  size_t *ret_size);
int coapd_cbor_to_json(const void *data, size_t size, uint8_t **ret, size_t *ret_size);
int coapd_json_to_cbor(const void *data, size_t size, uint8_t **ret, size_t *ret_size);
