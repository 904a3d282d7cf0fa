/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* A record as a syslog message (RFC 5424) for another machine. Nothing is allocated. What its sender marked
 * secret stays here. */

#include "log-query.h"

#define LOG_FORWARD_MAX 8192u /* bytes of a message; what is longer is cut */
/* Carries the cursor, the boot, and the record's other fields. 32473 is the number for examples (RFC 5612): the
 * project has none of its own. */
#define LOG_FORWARD_SD_ID "hybridos@32473"

/* Gives the size. `host` is this device's name. */
size_t log_forward_message(const log_found *f, const char *host, char to[LOG_FORWARD_MAX]);
/* Says that records are missing here. */
size_t log_forward_gap(uint64_t missed, log_clock now, const char *host, char to[LOG_FORWARD_MAX]);
