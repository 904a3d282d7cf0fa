/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Reading what stands on disk and is not larger than it may be. */

#include "base.h"

#define HYBUS_FILE_PADDING 8u /* zero bytes behind what was read */

/* All of a regular file from where `fd` stands, for free(). -EBADMSG: not a regular file; -EFBIG: more
 * than `max` bytes. Of one that is written meanwhile, at most what there was. */
HYBUS_EXPORT int hybus_file_read(int fd, size_t max, void **ret, size_t *ret_size);
