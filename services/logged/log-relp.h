/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Frames of RELP (https://github.com/rsyslog/librelp, relp.html): "TXNR SP COMMAND SP DATALEN [SP DATA] LF". */

#include <hybus/base.h>

#define LOG_RELP_TXNR_MAX 999999999u
#define LOG_RELP_DATA_MAX 8192u /* bytes that a server may answer */

typedef struct log_relp_frame {
    uint32_t txnr;
    char command[33];
    const char *data;
    size_t size;
} log_relp_frame;

/* Bytes of the first frame in `data`; 0: it is not all there; -EBADMSG. */
ssize_t log_relp_parse(const void *data, size_t size, log_relp_frame *ret);
/* A response: its status (200: fine); -EBADMSG: none. */
int log_relp_status(const log_relp_frame *f);
