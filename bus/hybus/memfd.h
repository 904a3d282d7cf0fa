/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Bodies that travel as a file descriptor. Only sealed memfds are taken: of anything else the
 * sender could cut off or never deliver what is being read, or change it meanwhile. */

#include "base.h"

/* From an app: nobody can change what is read. */
#define HYBUS_MEMFD_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)
/* From a server: the size stands, but the server takes the memory back when the request is over. */
#define HYBUS_MEMFD_SEALS_SIZE (F_SEAL_SHRINK | F_SEAL_GROW)

/* Opens anew, for reading from the start, what was passed as `fd` (which stays the caller's): the
 * sender shares the offset of the one that it passed. -EBADMSG: no memfd, or without the seals
 * `wanted`; -EFBIG: more than `max` bytes. */
HYBUS_EXPORT int hybus_memfd_open(int fd, int wanted, uint64_t max, int *ret_fd,
                                  uint64_t *ret_size);
