/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Conditional requests and ranges (RFC 9110, 13 and 14) as functions over bytes. */

#include "http-request.h"

#define HTTP_RANGES_MAX 16u
#define HTTP_DATE_SIZE 30u /* "Sun, 06 Nov 1994 08:49:37 GMT" and its end */

typedef struct http_range {
    uint64_t first, last; /* bytes, both of them included */
} http_range;

/* What identifies one state of a file. */
typedef struct http_validators {
    const char *etag; /* with its quotes; weak ones start with W/ */
    int64_t modified; /* seconds since 1970; negative: not said */
} http_validators;

/* The request's fields; empty where there are none. */
typedef struct http_conditions {
    http_span if_match, if_none_match, if_modified_since, if_unmodified_since, if_range;
} http_conditions;

/* The form that everybody sends today, and the two older ones (RFC 9110, 5.6.7). */
int http_date_parse(http_span text, int64_t *ret_seconds);
const char *http_date_format(int64_t seconds, char buffer[HTTP_DATE_SIZE]);

/* For GET and HEAD, in the order of RFC 9110, 13.2.2: 0 (go on), 304 or 412. */
unsigned http_conditions_judge(const http_conditions *c, const http_validators *v);
/* May ranges be served? Without If-Range they may. */
bool http_if_range_holds(http_span if_range, const http_validators *v);

/* Which parts of `size` bytes a Range field asks for. Returns their number; 0: the field counts for
 * nothing (not bytes, malformed, more than HTTP_RANGES_MAX, more bytes than there are); -ERANGE:
 * nothing of it is there (416). */
int http_ranges_parse(http_span value, uint64_t size, http_range ret[HTTP_RANGES_MAX]);
