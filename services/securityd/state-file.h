/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Small files that must survive a crash, and checksums. */

#include <hybus/base.h>

#define SHA256_SIZE 32u

/* Replaces `name` in `directory` so that a crash leaves the old or the new content. */
int write_file_atomically(const char *directory, const char *name, const char *data, size_t size,
                          unsigned mode);
/* *ret is NUL-terminated. -ENOENT, -EFBIG, -EBADMSG (not a regular file), -EPERM (others own it or may
 * write it). */
int read_file_limited(const char *directory, const char *name, size_t max, char **ret,
                      size_t *ret_size);
/* The same, after a line that says which `kind` of file it is and what it must add up to. -EBADMSG also
 * when it is another kind, or does not add up. */
int write_checked_file(const char *directory, const char *name, const char *kind, const char *data,
                       size_t size);
int read_checked_file(const char *directory, const char *name, const char *kind, size_t max,
                      char **ret, size_t *ret_size);

void sha256(const void *data, size_t size, uint8_t ret[SHA256_SIZE]);
void hex_encode(const uint8_t *data, size_t size, char *ret); /* 2 * size + 1 */
int hex_decode(const char *s, uint8_t *ret, size_t size);
