/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* h-httpd: a thin translation between libh2o and the endpoint core. One Http per process; below it
 * addresses (limits), connections, peers (one principal inside one connection) and exchanges (one
 * request with its answer). Exchanges live in the pool of their h2o request and end with it. */

#include <fcntl.h>
#include <h2o.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <systemd/sd-event.h>

#include <endpoint/doors.h>
#include <endpoint/endpoint.h>
#include <endpoint/key-pair.h>
#include <hybus/base.h>
#include <hybus/config.h>

#include "http-request.h"

#define HTTP_PEERS_PER_CONNECTION 4u /* principals inside one connection */
#define HTTP_LISTENERS_MAX ENDPOINT_DOORS_MAX
#define HTTP_STREAM_PENDING_MAX (128u * 1024u) /* bytes of events that wait for a slow reader */
#define HTTP_BODY_PIECE (32u * 1024u)          /* bytes of request body handed over at a time */
#define HTTP_SENDING_MAX (1024u * 1024u)       /* bytes of one response held for a slow reader */
#define HTTP_HELD_MAX (96u * 1024u * 1024u)    /* bytes of all responses and headers held */

typedef struct http_settings {
    char **tls, **plain; /* "8443" or "192.0.2.1:8443" */
    char *scope;         /* "claimed", "loopback", "all" */
    char **host_names;
    char *certificate, *key; /* "": made on the device */
    char *root;              /* of static files; "": none */
    char **origins;          /* allowed by CORS */
    char *access_log;        /* "off", "errors", "all" */
    uint64_t connections, connections_reserved, connections_address;
    uint64_t requests_address, rate_address;
    uint64_t body, resets;
    uint64_t request_timeout, idle_timeout, stall_timeout, drain_timeout, deadline, keep_alive;
} http_settings;

extern const hybus_setting http_setting_table[];

typedef struct Http Http;
typedef struct HttpAddress HttpAddress;
typedef struct HttpConnection HttpConnection;
typedef struct HttpPeer HttpPeer;
typedef struct HttpExchange HttpExchange;
typedef struct HttpFile HttpFile;
typedef struct HttpLinger HttpLinger;
typedef struct HttpListener HttpListener;
typedef struct HttpLogin HttpLogin;

typedef struct http_counters {
    uint64_t connections, requests, responses[6], refused_connections, limited, evicted, resets,
        bad_requests, misdirected, stalled, greedy, kicked, body_bytes_in, body_bytes_out, streams;
} http_counters;

/* One remote address (an IPv6 /64). */
struct HttpAddress {
    HttpAddress *next;
    unsigned char key[16];
    unsigned connections, requests;
    uint64_t tokens, refilled_usec; /* rate of requests; tokens in millionths */
};

enum { HTTP_DOOR_PLAIN, HTTP_DOOR_TLS };

struct HttpListener {
    Http *http;
    h2o_socket_t *socket;
    h2o_accept_ctx_t accept;
    bool tls;
    endpoint_address bound;
    char address[ENDPOINT_ADDRESS_TEXT];
    uint16_t port;
};

struct HttpConnection {
    HttpConnection *next, **prev; /* all */
    HttpConnection *dying_next;
    Http *http;
    h2o_socket_t *socket;
    HttpAddress *address;
    HttpPeer *peers;
    HttpExchange *exchanges;
    uint64_t id, since_usec, active_usec; /* since: CLOCK_REALTIME, active: CLOCK_MONOTONIC */
    uint64_t requests, resets;
    size_t held;      /* bytes of responses that its client has not taken */
    size_t collected; /* bytes of requests that are not complete, at the last sweep */
    unsigned open, n_peers;
    int linger_fd; /* the socket once more, from when the library lets go of it */
    bool authenticated, tls, dying, http2;
    bool last_bytes; /* the library has let go of it, what it sent last is not out yet */
    char
        certificate[65]; /* SHA-256, in hex, of what the client has shown and proved; "": nothing */
    char peer_name[ENDPOINT_ADDRESS_TEXT];
    char local_name[ENDPOINT_ADDRESS_TEXT];
};

struct HttpPeer {
    HttpPeer *next;
    HttpConnection *connection;
    endpoint_peer *peer;
    HttpExchange *waiting, *waiting_tail;
    unsigned users;
    unsigned char hash[32];
    bool bearer, checked, dead;
    int error; /* of the check */
    uint64_t retry_usec;
    uint64_t used_usec;
    hybus_row *row;                 /* what it may do with our own pages */
    hybus_agent_question *question; /* for a new one */
    bool rejudging;
    unsigned overtaken;
};

/* Pages that the server itself answers, by the permission they need. */
typedef enum http_page {
    HTTP_PAGE_METRICS, /* server.read */
    HTTP_PAGE_FILES,   /* endpoint.read:/ */
} http_page;

typedef enum http_exchange_state {
    HTTP_WAITING, /* for the peer's check or the responder */
    HTTP_STREAMING,
    HTTP_DONE, /* everything has been given to the library */
} http_exchange_state;

struct HttpExchange {
    h2o_generator_t generator;  /* first: the library hands it back */
    HttpExchange *next, **prev; /* of the connection */
    HttpExchange *waiting_next;
    HttpConnection *connection;
    HttpPeer *peer;
    h2o_req_t *req;
    endpoint_request *request;
    endpoint_watch *watch;
    hybus_agent_question *question;
    http_span query, last_event_id;
    http_span session; /* of its cookie; empty: none */
    HttpLogin *login;
    char *path;
    http_exchange_state state;
    void (*permitted)(HttpExchange *x);
    http_page page;
    unsigned overtaken;
    HttpFile *file;   /* where the body comes from; the request's pool has it */
    size_t body_sent; /* of the request's body, to the core */
    h2o_buffer_t *sending, *pending;
    uint64_t moved_usec; /* when the client last took something */
    size_t moved_bytes, held;
    bool in_flight, ended, aborted, asking, head, event_stream, first_value, resumes, replied, cut;
};

struct Http {
    sd_event *event;
    endpoint_core *core;
    hybus_agent *agent;
    const http_settings *settings;
    h2o_evloop_t *loop;
    h2o_globalconf_t config;
    h2o_context_t context;
    h2o_hostconf_t *host;
    h2o_socket_t *event_socket;
    bool event_ready, claimed, draining, failed;
    SSL_CTX *tls;
    char fingerprint[ENDPOINT_FINGERPRINT_SIZE]; /* "AB:CD:…" */
    struct timespec
        authority; /* when the file of the clients' authority was written; 0: there is none */
    HttpListener *listeners[HTTP_LISTENERS_MAX];
    size_t n_listeners;
    int passed[HTTP_LISTENERS_MAX];
    bool passed_tls[HTTP_LISTENERS_MAX];
    size_t n_passed;
    HttpConnection *connections, *dying;
    HttpLinger *lingers;
    HttpAddress *addresses;
    size_t held, rejudging; /* rejudging: peers whose row is asked for again */
    bool settling;
    uint64_t settling_generation;
    size_t n_connections, n_authenticated, n_addresses, n_streams, n_lingers;
    uint64_t next_id, swept_usec, bodies_swept_usec, streams_usec, drain_since_usec,
        drain_until_usec, log_second;
    unsigned log_lines;
    char life[9]; /* tells this server's own event ids from those of its earlier lives */
    char host_name[256];
    http_counters counters;
    void (*drained)(Http *h, void *userdata);
    void *drained_userdata;
    void (*listeners_changed)(Http *h, void *userdata);
    void *listeners_userdata;
};

/* --- http.c: the server ------------------------------------------------------------------------
 */
int http_new(sd_event *event, const http_settings *settings, Http **ret);
void http_free(Http *h);
HYBUS_DEFINE_CLEANUP(Http, http_free)
/* The core outlives no connection: it is set before the first listener opens. */
int http_set_core(Http *h, endpoint_core *core, hybus_agent *agent);
/* New settings; -errno when the certificate cannot be read, everything stays as it was then. */
int http_reconfigure(Http *h, const http_settings *settings);
/* Certificate and authority anew. */
int http_load_certificates(Http *h, const http_settings *settings);
/* One turn of the loop: sleeps at most `usec`, then handles everything that is there. */
int http_turn(Http *h, uint64_t usec);
/* Stops listening, lets requests finish, then calls `drained`. 1: that will be later. */
int http_drain(Http *h, void (*drained)(Http *h, void *userdata), void *userdata);
void http_settings_to_core(const http_settings *s, endpoint_settings *ret);
uint64_t http_now(void);

/* --- http-library.c: flaws of the library, mended -----------------------------------------------
 */
int http_library_init(void);
/* Ends a stream whose client does not take what it was given. */
void http_library_reset(h2o_req_t *req);
/* From here on no request with more than one frame of header begins. */
void http_library_drain(bool draining);

/* --- http-listen.c ------------------------------------------------------------------------------
 */
/* Sockets passed by systemd, owned from here on. */
int http_listen_pass(Http *h, int fd, bool tls);
/* Opens what settings and claim allow, closes what they do not allow any more. */
int http_listen_update(Http *h);
void http_listen_close(Http *h);
/* May the network connect, where no address is given? */
bool http_listen_is_open(const Http *h);
void http_set_claimed(Http *h, bool claimed);

/* --- http-tls.c ---------------------------------------------------------------------------------
 */
/* Loads both and replaces the context; connections that exist keep theirs. */
int http_tls_load(Http *h, const char *certificate, const char *key);
/* Has the authority of clients come or changed since? */
bool http_tls_is_stale(const Http *h);
void http_tls_describe(h2o_socket_t *socket, char *buffer, size_t room);

/* --- http-connection.c --------------------------------------------------------------------------
 */
/* Takes a fresh socket under the limits; false: it has been closed. */
bool http_connection_new(Http *h, h2o_socket_t *socket, bool tls);
/* NULL: another kind of socket. */
HttpConnection *http_socket_connection(const h2o_socket_t *socket);
HttpConnection *http_connection_of(h2o_req_t *req);
HttpConnection *http_connection_find(Http *h, uint64_t id);
/* Cuts the connection; its exchanges end in this turn of the loop. */
void http_connection_kill(HttpConnection *c);
/* A request of it ended before it was answered. */
void http_connection_reset(HttpConnection *c);
/* May this request be served now? 0, or 429 or 503. */
unsigned http_connection_admit(HttpConnection *c, uint64_t *ret_retry_usec);
void http_connections_sweep(Http *h);
void http_connections_bury(Http *h);

/* The library is about to close the socket. */
void http_connection_leave(HttpConnection *c);

/* --- http-linger.c ------------------------------------------------------------------------------
 */
/* Takes the socket over: what the client has to read, it will be able to read. */
void http_linger(Http *h, int fd);
void http_lingers_free(Http *h);

/* --- http-peer.c --------------------------------------------------------------------------------
 */
/* The peer for a token (or none), checked or being checked. -ENOBUFS: all are in use. */
int http_peer_get(HttpConnection *c, const http_span *bearer, HttpPeer **ret);
void http_peer_leave(HttpPeer *p);
/* Ends what is on its way to it: everything, or the files. */
void http_peer_cut(HttpPeer *p, bool files_only);
void http_peers_free(HttpConnection *c);

/* --- http-exchange.c ----------------------------------------------------------------------------
 */
int http_exchange_on_request(h2o_handler_t *handler, h2o_req_t *req);
/* The peer of `x` has been checked. */
void http_exchange_checked(HttpExchange *x, int error, uint64_t retry_usec);
void http_exchange_problem(HttpExchange *x, unsigned status, uint64_t retry_usec);
/* Counts bytes held for the client; over the bound, whoever makes us hold most is cut. */
void http_exchange_hold(HttpExchange *x, size_t size);
void http_exchange_release(HttpExchange *x, size_t size);
/* The connection is being cut. */
void http_exchange_cut(HttpExchange *x);

/* --- http-reply.c -------------------------------------------------------------------------------
 */
extern const endpoint_reply_ops http_reply_ops;
void http_reply_start(HttpExchange *x, unsigned status);
void http_reply_body(HttpExchange *x, const char *type, const void *body, size_t size);
/* Headers alone. */
void http_reply_empty(HttpExchange *x);
/* A page of our own may do what the system's pages may. */
void http_reply_page_policy(HttpExchange *x, http_span type);
void http_reply_header(HttpExchange *x, const char *name, const char *value);
/* Begins a streamed body with what has been written so far. */
void http_reply_stream(HttpExchange *x);
/* Streaming: hands bytes to the client, or holds them until it can take them. */
int http_reply_write(HttpExchange *x, const void *data, size_t size);
void http_reply_end(HttpExchange *x);
void http_reply_send_more(HttpExchange *x);
/* Ends the answer where it is, so that nobody takes it for whole. The exchange may be gone then. */
void http_reply_cut(HttpExchange *x);

/* --- http-permit.c: our own pages ---------------------------------------------------------------
 */
/* Judges the exchange's principal; `allowed` follows, or the refusal has been sent. */
void http_permit(HttpExchange *x, http_page page, void (*allowed)(HttpExchange *x));
/* Files on their way are judged again when the policy moves. */
int http_permit_follow(Http *h);
void http_permit_unfollow(Http *h);
/* The peer goes. */
void http_permit_leave(HttpPeer *p);

/* --- http-stream.c: server-sent events ----------------------------------------------------------
 */
void http_stream_start(HttpExchange *x);
/* Tells the client that the stream ends, and the status that it would get if it asked now. */
void http_stream_end(HttpExchange *x, unsigned status);
void http_stream_next(HttpExchange *x);
void http_streams_tick(Http *h);

/* --- http-login.c -------------------------------------------------------------------------------
 */
#define HTTP_SESSION_COOKIE "__Host-hybridos"
/* A page of login, logout or password is answered here. `token`: what stands in Authorization. */
bool http_login_takes(HttpExchange *x, http_span token);
/* The exchange goes: nobody waits for the answer. */
void http_login_leave(HttpExchange *x);
/* What the cookie said is no longer good. */
void http_login_forget_cookie(HttpExchange *x);

/* --- http-origin.c: hosts and origins ------------------------------------------------------------
 */
bool http_host_is_ours(Http *h, HttpConnection *c, http_span authority);
/* 0, or a status: judges Origin, answers to CORS are added. `ambient`: the request carries what a
 * browser adds by itself. */
unsigned http_origin_check(HttpExchange *x, bool bearer, bool ambient);
bool http_origin_preflight(HttpExchange *x);

/* --- http-log.c, http-metrics.c, http-static.c ---------------------------------------------------
 */
void http_log_access(HttpExchange *x);
#define HTTP_METRICS_PATH "/system/http/metrics"
void http_statistics(Http *h, void (*each)(const char *name, uint64_t value, void *userdata),
                     void *userdata);
void http_metrics_reply(HttpExchange *x);
/* Is this path the document root's? */
bool http_static_has(const HttpExchange *x);
void http_static_reply(HttpExchange *x);
/* Writes the next piece of the file. */
void http_static_refill(HttpExchange *x);
void http_static_register(h2o_pathconf_t *path);
/* Says so when the root is not there. */
void http_static_check(const http_settings *s);
