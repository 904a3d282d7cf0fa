/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The log as an endpoint, /system/log, for every protocol that a server on this device speaks.
 * Answers to requests are streamed from the rings; changes go to whoever watches. Knows no
 * protocol. */

#include <systemd/sd-event.h>

#include "log-format.h"

#define LOG_RESPONDER_STREAMS_MAX 64u
#define LOG_RESPONDER_CATCH_UP 64u             /* values pushed at once before somebody is live */
#define LOG_RESPONDER_TOPICS_MAX 64u           /* paths that are watched */
#define LOG_RESPONDER_TEXT (64u * 1024u)       /* bytes made before they are taken */
#define LOG_RESPONDER_VALUE_MAX (56u * 1024u)  /* bytes of one value that is pushed */
#define LOG_RESPONDER_PUSH_USEC (200u * 1000u) /* between two values */
#define LOG_RESPONDER_PAGE_RECORDS 500u        /* on the page, unless asked otherwise */
#define LOG_RESPONDER_RECENT 20u               /* in the first value of a topic */

/* A path below the namespace and a raw query to a filter. -ENOENT: no such path; -EINVAL: a bad
 * query; `ret_follow`: the answer goes on for ever. */
int log_responder_parse(const char *path, const char *query, uint64_t now, log_filter *ret,
                        bool *ret_follow);
/* The format for an Accept header (NULL: any), and its media type. */
log_format log_responder_format(const char *accept, const char **ret_type);

typedef struct log_responder log_responder;

int log_responder_new(sd_event *event, log_book *b, log_responder **ret);
void log_responder_free(log_responder *r);
HYBUS_DEFINE_CLEANUP(log_responder, log_responder_free)

/* Something was stored. Cheap. */
void log_responder_wake(log_responder *r);
