/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* An endpoint as an ENTRY frame, and the table as a file of such frames: what a restarted registrar
 * finds of the one before. */

#include <hybus/frame.h>

#include "endpoints.h"

#define ENDPOINTS_TABLE_SIZE_MAX (8u * 1024u * 1024u) /* bytes of the whole table as frames */

/* `flags`: CHANNEL_GONE or 0. Errors as hybus_frame_end(). */
int endpoints_entry_put(hybus_frame_queue *q, const endpoints_entry *entry, uint8_t flags);

/* -EBADMSG when anything about the frame is not as endpoints_entry_put() writes it. */
int endpoints_entry_parse(const hybus_frame *frame, endpoints_spec *ret);

/* `tag` names the life of the bus that unique names belong to (its id; may be empty). Replaces the
 * file in one step. */
int endpoints_table_save(const endpoints *t, const char *path, const char *tag);
/* Expects everything that the file names; entries on a bus of another life are left out. -ENOENT:
 * no file; -EBADMSG: damaged, what came before the damage is expected. */
int endpoints_table_load(endpoints *t, const char *path, const char *tag);
/* The same from memory. */
int endpoints_table_parse(endpoints *t, const void *data, size_t size, const char *tag);
