/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Bodies that travel as a file descriptor. Only sealed memfds are taken: of anything else the
 * sender could change, cut off or never deliver what is being read. */

#include "base.h"

#define HYBUS_MEMFD_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

/* Opens anew, for reading from the start, what was passed as `fd` (which stays the caller's): the
 * sender shares the offset of the one that it passed. -EBADMSG: no memfd, or without the seals;
 * -EFBIG: more than `max` bytes. */
HYBUS_EXPORT int hybus_memfd_open(int fd, uint64_t max, int *ret_fd, uint64_t *ret_size);
