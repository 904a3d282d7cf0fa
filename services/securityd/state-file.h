/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Small files that must survive a crash, and checksums. */

#include <hybus/base.h>

#define SHA256_SIZE 32u

/* Replaces `name` in `directory` so that a crash leaves the old or the new content. */
int write_file_atomically(const char *directory, const char *name, const char *data, size_t size,
                          unsigned mode);
/* -ENOENT, -EFBIG. *ret is NUL-terminated. */
int read_file_limited(const char *directory, const char *name, size_t max, char **ret,
                      size_t *ret_size);
void sha256(const void *data, size_t size, uint8_t ret[SHA256_SIZE]);
void hex_encode(const uint8_t *data, size_t size, char *ret); /* 2 * size + 1 */
int hex_decode(const char *s, uint8_t *ret, size_t size);
