/* SPDX-License-Identifier: Apache-2.0 */
/* h2o/http2_internal.h wants this header of its source tree, which the package leaves out. Only the
 * layout of its structures is used (http-connection.c); the map inside stays closed. */
#pragma once

typedef unsigned khiter_t;
#define KHASH_MAP_INIT_INT64(name, type) typedef struct kh_##name##_s kh_##name##_t;
#define khash_t(name) kh_##name##_t
#define kh_get(name, map, key) ((void)(map), (void)(key), 0u)
#define kh_end(map) ((void)(map), 0u)
#define kh_val(map, at) ((void)(map), (void)(at), NULL)
