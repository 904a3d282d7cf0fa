/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The status as a page for people; everything in it is escaped. Works without its script, which
 * only keeps it fresh. */

#include <jansson.h>
#include <stddef.h>

/* A new string; NULL without memory. */
char *page_render(const json_t *status, size_t *ret_size);
