/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Link format (RFC 6690) from outside, with limits, and the filters of a look-up. No state. */

#include <hybus/base.h>

#define COAPD_LINK_ATTRIBUTES_MAX 16u
#define COAPD_LINK_TARGET_MAX 255u /* bytes, as it stands there */
#define COAPD_LINK_NAME_MAX 32u
#define COAPD_LINK_VALUE_MAX 255u /* bytes, unquoted */
#define COAPD_FILTERS_MAX 8u

typedef struct coapd_span {
    const char *base;
    size_t size;
} coapd_span;

typedef struct coapd_attribute {
    coapd_span name, value; /* the value as it stands between the quotes; base NULL: none */
} coapd_attribute;

typedef struct coapd_link {
    coapd_span target;
    coapd_attribute attributes[COAPD_LINK_ATTRIBUTES_MAX];
    size_t n;
} coapd_link;

/* Takes the next link from [*at, end). 1: `ret` is one; 0: there is none any more; -EINVAL: no link
 * format; -ENOBUFS: past a limit above. */
int coapd_link_next(const char **at, const char *end, coapd_link *ret);
/* Without the backslashes of a quoted string; the size. */
size_t coapd_link_unquote(coapd_span value, char text[COAPD_LINK_VALUE_MAX + 1]);
const coapd_attribute *coapd_link_find(const coapd_link *l, const char *name);
/* A path of the one who says it: "/a/b?c", no other host, no dots, nothing encoded wrongly. */
bool coapd_link_target_local(coapd_span target);
/* Writes `;name="value"`, or `;name`; what a quoted string cannot carry is left out. */
void coapd_link_write(FILE *file, const char *name, const char *value);

/* What a look-up asks for: all of them have to match. */
typedef struct coapd_filter {
    char name[COAPD_LINK_NAME_MAX + 1], value[COAPD_LINK_VALUE_MAX + 1];
    bool prefix; /* the value's end is open */
} coapd_filter;

typedef struct coapd_filters {
    coapd_filter list[COAPD_FILTERS_MAX];
    size_t n;
} coapd_filters;

/* From a raw query; -EINVAL, -ENOBUFS. */
int coapd_filters_parse(const char *query, coapd_filters *ret);
bool coapd_filter_text(const coapd_filter *f, const char *value);
/* One of the words of `value`; `rt`, `if`, `rel` and `ct` are lists (RFC 6690, 3). */
bool coapd_filter_value(const coapd_filter *f, const char *value);
