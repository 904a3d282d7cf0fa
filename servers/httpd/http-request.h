/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The translation of what a client wrote into what the endpoint core is asked, as functions over
 * bytes: no library, no sockets, no allocation. Everything here reads what strangers send. */

#include <endpoint/endpoint.h>
#include <hybus/base.h>

#define HTTP_PATH_MAX 2048u  /* bytes of a decoded path */
#define HTTP_QUERY_MAX 8192u /* bytes of a query */
#define HTTP_METHOD_MAX 32u
#define HTTP_HEAD_MAX (32u * 1024u) /* bytes of a header, as it comes */
#define HTTP_FIELDS_MAX                                                                            \
    112u /* header fields that go to a responder; the library reads at most 100 */
#define HTTP_BEARER_MAX 512u /* bytes of a token */

typedef struct http_span {
    const char *base;
    size_t size;
} http_span;

#define HTTP_SPAN(literal) ((http_span){(literal), sizeof(literal) - 1})

static inline bool http_span_is(http_span s, const char *literal)
{
    return s.size == strlen(literal) && (s.size == 0 || memcmp(s.base, literal, s.size) == 0);
}

bool http_span_is_nocase(http_span s, const char *literal);

/* Decodes percent-encoding exactly once, then removes dot segments (RFC 3986, 5.2.4), and splits
 * off the query. `path` must have room for HTTP_PATH_MAX + 1 bytes. -EINVAL: not an absolute path,
 * bad escapes, NUL or control characters, invalid UTF-8; -ENAMETOOLONG. What is decoded is never
 * decoded again: "%252e" is the three characters "%2e". */
int http_target_parse(http_span target, char *path, size_t *ret_path_size, http_span *ret_query);

/* An HTTP/1 request head, as it stood on the wire: judges framing strictly where the library is
 * lenient. `bytes` starts with the request line, `size` may reach beyond the end of the head.
 * `ret_body`: the request announces a body, even an empty one. -EBADMSG: bare CR or LF, a folded
 * line, a space before the colon, control characters, Host missing (HTTP/1.1) or repeated,
 * Content-Length together with Transfer-Encoding or repeated or not a number, a transfer coding
 * other than one "chunked". */
int http_head_check(const char *bytes, size_t size, bool *ret_body);

/* How many fields a header block of HTTP/2 (RFC 7541) holds, size updates included; never fewer than a
 * decoder finds before it gives up. */
size_t http_hpack_count(const uint8_t *block, size_t size);

/* Splits "host:port", "[v6]:port", "host". The port is 0 when missing. -EINVAL: not an authority.
 */
int http_authority_parse(http_span authority, http_span *ret_host, uint16_t *ret_port);

/* Does this field go to a responder? Not: credentials, hop-by-hop fields, what the server itself
 * answers, and what pretends to come from a proxy (nobody stands in front of us). `name` is lower
 * case. */
bool http_field_is_forwarded(http_span name);

/* Does this response field of a responder go to the client? Not: hop-by-hop fields and what only
 * the server may say (cookies, policies of the origin, transport). `name` is lower case. */
bool http_field_is_returned(http_span name);

/* Free of CR, LF, NUL and other control characters but tab. */
bool http_value_is_clean(http_span value);

/* The token of "Bearer <token>"; false: another scheme or not a token (RFC 6750, 2.1). */
bool http_bearer_parse(http_span authorization, http_span *ret_token);

/* The value of the cookie `name` (RFC 6265, 4.2.1): 1; 0: there is none; -EBADMSG: more than one, or what is
 * no token. */
int http_cookie_find(http_span cookies, const char *name, http_span *ret);

/* The value of `name` in a body of application/x-www-form-urlencoded, decoded; `value` has room for `room`
 * bytes, the NUL included. -ENOENT; -EINVAL: bad escapes or NUL; -ENAMETOOLONG; -EEXIST: more than one. */
int http_form_find(http_span form, const char *name, char *value, size_t room);

/* Does a comma-separated list such as Accept name `token` (parameters ignored, q=0 means no)? */
bool http_list_has(http_span list, const char *token);

/* Methods that by their definition change nothing (RFC 9110, 9.2.1). */
bool http_method_is_safe(http_span method);

/* Content types that no browser takes for an active document, given nosniff. */
bool http_type_is_passive(http_span type);

const char *http_reason(unsigned status);

/* Writes `s` for a log line: control characters, quotes, backslashes and bytes above ASCII as \xNN,
 * cut at the room; returns `buffer`. */
const char *http_escape(http_span s, char *buffer, size_t room);
