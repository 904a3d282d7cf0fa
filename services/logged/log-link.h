/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The road to the server of the sink: TLS over TCP, never waiting. Its certificate must come from the given
 * authority and bear the given name. Names are looked up by a thread, since nothing else does it without
 * waiting. */

#include "log-sink.h"

#define LOG_LINK_OPEN_USEC (30u * 1000u * 1000u) /* to be connected and known */
#define LOG_LINK_DEAD_MSEC 30000u                /* the other machine says nothing to what we send */
#define LOG_LINK_SEND_BUFFER (256 * 1024)

#define LOG_LINK_NO_NETWORK                                                                        \
    "h-logged has no network; see /usr/lib/hybridos/h-logged-network.conf"

typedef struct log_link_options {
    const char *host, *port;
    const char *name;      /* that the certificate must bear: a host name or an address */
    const char *authority; /* file of the CA certificates */
    const char *certificate, *key; /* of this device; NULL: none */
} log_link_options;

typedef struct log_link log_link;

int log_link_new(sd_event *event, const log_link_options *o, log_link **ret); /* copies */
void log_link_free(log_link *l);
HYBUS_DEFINE_CLEANUP(log_link, log_link_free)
/* Whose road it is. */
void log_link_serve(log_link *l, log_sink *s);

extern const log_sink_road log_link_road; /* its userdata is the log_link */

/* "host:port", "[2001:db8::1]:port", "host"; the parts are allocated. -EINVAL. */
int log_link_parse(const char *text, const char *default_port, char **ret_host, char **ret_port);
