/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* The core of every server: routing by the registrar's table, both roads to the responders,
 * admission, limits, deadlines, cancellation, subscriptions, and the questions to h-securityd. A
 * server is a thin translation between its protocol library and this header; it never speaks D-Bus
 * or the channel itself. One thread, one loop; no function blocks.
 *
 * Strings and buffers given to callbacks are valid during the callback only. */

#include <systemd/sd-bus.h>
#include <systemd/sd-event.h>

#include <hybus/agent.h>
#include <hybus/daemon.h>
#include <hybus/frame.h>

typedef struct endpoint_core endpoint_core;
typedef struct endpoint_peer endpoint_peer;
typedef struct endpoint_request endpoint_request;
typedef struct endpoint_watch endpoint_watch;

typedef hybus_frame_field endpoint_field; /* names in lower case */

typedef struct endpoint_settings {
    uint64_t deadline_usec;   /* of a request, from its last piece of body on; default 30 s */
    size_t requests_max;      /* open in all; default 4096, then 503 */
    size_t requests_peer_max; /* open of one peer; default 256, then 429 */
    size_t responder_max;     /* open with one responder; default 1024, then 503 */
    size_t body_max;          /* bytes of a request body; default 8 MiB, then 413 */
    size_t watches_max;       /* default 1024, then 503 */
    size_t watches_peer_max;  /* default 64, then 429 */
    size_t values_max;        /* last values kept; default 1024, the least recent leaves */
    size_t value_size_max;    /* bytes of one value; default 64 KiB, larger are refused */
} endpoint_settings;

/* `server` is the component ("httpd": /run/hybridos/servers/h-httpd.sock, whose listening socket is
 * `listen_fd`, as hybus_daemon_listen_fd() gives it), `protocol` what requests are labelled with.
 * NULL paths: the real ones. `bus` may be NULL in tests: no bus road then. */
typedef struct endpoint_options {
    const char *server, *protocol;
    sd_event *event;
    sd_bus *bus;
    hybus_agent *agent;
    int listen_fd; /* nonblocking; taken over; -1: none */
    const char *registrar_path;
    endpoint_settings settings; /* zero members mean the default */
} endpoint_options;

int endpoint_core_new(const endpoint_options *options, endpoint_core **ret);
/* Of a connected daemon: its loop, bus and agent. */
int endpoint_core_of_daemon(hybus_daemon *d, const char *server, const char *protocol,
                            int listen_fd, const endpoint_settings *settings, endpoint_core **ret);
void endpoint_core_free(endpoint_core *c);
HYBUS_DEFINE_CLEANUP(endpoint_core, endpoint_core_free)

void endpoint_core_configure(endpoint_core *c, const endpoint_settings *s);

/* Graceful end: apps get GOAWAY, open requests may finish. */
void endpoint_core_drain(endpoint_core *c);
size_t endpoint_core_open_requests(const endpoint_core *c);

/* Writes everything that this turn of the loop produced, one write per app. The core does this by
 * itself before its sd-event sleeps; a server with an outer loop of its own calls it at the end of
 * each turn. */
void endpoint_core_flush(endpoint_core *c);

/* --- peers: one per connection from outside -------------------------------------------------- */

/* Checks a connect request with h-securityd. `checked` is called exactly once (maybe before the
 * return) with 0 or -EKEYREJECTED (401), -EACCES (403), -EAGAIN (429 after `retry_after_usec`),
 * -ENOKEY (503). On success the peer stands for the principal. A peer that is never checked, or
 * whose check failed, is nobody: every request of it gives 503. May be called again with other
 * credentials, e.g. for a bearer token inside one connection. `revoked` is called when the policy
 * no longer lets this principal be connected. */
typedef struct endpoint_peer_ops {
    void (*checked)(endpoint_peer *p, int error, uint64_t retry_after_usec, void *userdata);
    void (*revoked)(endpoint_peer *p, void *userdata);
} endpoint_peer_ops;

int endpoint_peer_new(endpoint_core *c, const hybus_connection *connection,
                      const endpoint_peer_ops *ops, void *userdata, endpoint_peer **ret);
/* A peer that is as anonymous as `like`, of which h-securityd would hear nothing new: it is not
 * asked, and `checked` is not called. For datagrams, whose senders may be a thousand a second.
 * -EAGAIN: `like` is not checked (yet), or somebody. */
int endpoint_peer_new_like(const endpoint_peer *like, const hybus_connection *connection,
                           const endpoint_peer_ops *ops, void *userdata, endpoint_peer **ret);
/* Its requests and watches must have been freed before. */
void endpoint_peer_free(endpoint_peer *p);
const char *endpoint_peer_principal(const endpoint_peer *p);
bool endpoint_peer_anonymous(const endpoint_peer *p);
/* For questions of the server's own to h-securityd; 0: anonymous, or not checked. */
uint64_t endpoint_peer_handle(const endpoint_peer *p);

/* The namespaces that this peer may read (GET at the namespace itself), in no order. -EAGAIN: that
 * is being asked, try again; -ENOKEY: it is not admitted, or the agent is away. */
typedef struct endpoint_listing {
    const char *namespace;
    const char *title;      /* as its responder gave it, or NULL */
    const char *attributes; /* likewise: link attributes (RFC 6690), name="value";name */
} endpoint_listing;
int endpoint_peer_list(endpoint_peer *p, void (*each)(const endpoint_listing *l, void *userdata),
                       void *userdata);

/* --- requests -------------------------------------------------------------------------------- */

typedef struct endpoint_request_info {
    const char *method;            /* "GET" */
    const char *path;              /* decoded once, dot segments removed, starts with "/" */
    const char *query;             /* raw, without "?"; "" if none */
    const endpoint_field *headers; /* without credentials and hop-by-hop fields */
    size_t n_headers;
    const void *body; /* what is there already */
    size_t body_size;
    bool body_end;
} endpoint_request_info;

/* What the server is told. Exactly one reply() per request, unless it is freed first; then data()
 * until `end`, or abort(). A status that the core itself decides (401, 403, 404, 413, 429, 502,
 * 503, 504) also comes as reply(), with a problem document (RFC 9457) as body and, where due,
 * retry-after; `audit` ids are in there. After `end` or abort() no callback comes any more; the
 * request still has to be freed. */
typedef struct endpoint_reply_ops {
    void (*reply)(endpoint_request *r, unsigned status, const endpoint_field *headers,
                  size_t n_headers, const void *body, size_t size, bool end, void *userdata);
    void (*data)(endpoint_request *r, const void *data, size_t size, bool end, void *userdata);
    void (*abort)(endpoint_request *r, unsigned status, void *userdata);
    /* The responder takes more of the request body: `size` bytes (0: after -EAGAIN, nothing yet).
     * Never from within endpoint_request_body(), and not for an app on the bus, which counts as
     * having taken what that accepted. May be NULL. */
    void (*taken)(endpoint_request *r, size_t size, void *userdata);
} endpoint_reply_ops;

/* `info` is not kept. Always gives a request (-ENOMEM aside): refusals come as replies, from within
 * this call at the earliest. */
int endpoint_request_new(endpoint_peer *p, const endpoint_request_info *info,
                         const endpoint_reply_ops *ops, void *userdata, endpoint_request **ret);
/* More request body, at most 256 KiB at a time (-EMSGSIZE). -EAGAIN says that nothing was taken;
 * wait for taken(), whose size may be 0. -EFBIG: larger than body_max; the reply 413 has been
 * given. What `info` carries beyond the responder's credit is copied, up to a limit that all
 * requests share (503): a server passes large bodies in pieces. */
int endpoint_request_body(endpoint_request *r, const void *data, size_t size, bool end);
/* The client has received `size` bytes of response body: gives that much credit to the responder.
 */
void endpoint_request_consumed(endpoint_request *r, size_t size);
/* Uid of the app that answers, as the kernel attests it; UINT32_MAX: nobody (yet), or the core
 * itself. */
uint32_t endpoint_request_uid(const endpoint_request *r);
/* Frees; if the reply is not complete the responder is told to cancel. */
void endpoint_request_free(endpoint_request *r);
HYBUS_DEFINE_CLEANUP(endpoint_request, endpoint_request_free)

/* --- watches: changes pushed by Notify ----------------------------------------------------------
 */

typedef struct endpoint_value {
    const char *path; /* whole path */
    const char *content_type;
    const char *id;         /* the responder's, or a number made by the core; never empty */
    uint64_t sequence;      /* of this path in this server's life */
    uint64_t max_age_usec;  /* 0: not said */
    uint64_t received_usec; /* CLOCK_MONOTONIC */
    const void *body;
    size_t size;
    bool gone;
    bool resumed; /* follows on what the client has had; if it was missed, the next one comes after
                   * endpoint_watch_next() */
    bool gap;     /* others between this one and the one before are, or may be, missing */
} endpoint_value;

typedef struct endpoint_watch_ops {
    /* Judged, allowed and set up. If a last value exists, value() follows in the same turn. */
    void (*started)(endpoint_watch *w, void *userdata);
    void (*value)(endpoint_watch *w, const endpoint_value *v, void *userdata);
    /* Refused (status as for requests) or ended: 403 revoked, 404/410 endpoint gone, 503. The last
     * callback; `detail` is a problem document. */
    void (*ended)(endpoint_watch *w, unsigned status, const char *detail, void *userdata);
} endpoint_watch_ops;

int endpoint_watch_new(endpoint_peer *p, const char *path, const endpoint_watch_ops *ops,
                       void *userdata, endpoint_watch **ret);
/* The same for a client that comes back and has had everything up to the value `last_id` (as the
 * responder named it; NULL: none). If its app knows what came since, that comes first: value by
 * value, `resumed`, the next one when the client has taken the one before. Otherwise the latest
 * value. */
int endpoint_watch_resume(endpoint_peer *p, const char *path, const char *last_id,
                          const endpoint_watch_ops *ops, void *userdata, endpoint_watch **ret);
void endpoint_watch_next(endpoint_watch *w);
void endpoint_watch_free(endpoint_watch *w);
HYBUS_DEFINE_CLEANUP(endpoint_watch, endpoint_watch_free)

/* Is there a responder that this path belongs to, as far as this server knows? */
bool endpoint_core_has(const endpoint_core *c, const char *path);

/* --- statistics ----------------------------------------------------------------------------------
 */

typedef struct endpoint_statistics {
    uint64_t requests, refused, unauthenticated, not_found, responder_gone, timeouts, overloaded,
        cancelled, notifies, notifies_dropped;
    size_t open_requests, peers, watches, values, responders, namespaces;
} endpoint_statistics;
void endpoint_core_statistics(const endpoint_core *c, endpoint_statistics *ret);
