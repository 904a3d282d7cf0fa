/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the parts of libhybridos share. Arrows: app → registrar, server → connection → wire; request
 * belongs to server.
 *
 * Lifetimes: connections and endpoints are freed only at the end of a turn (sweep), so callbacks
 * may unregister and reply as they like while a connection is being read. */

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

#pragma GCC visibility push(default)
#include "hybridos.h"
#pragma GCC visibility pop

/* All limits of the SDK. */
#define SERVERS_MAX 16u
#define REQUESTS_MAX CHANNEL_REQUESTS_MAX     /* open at one server */
#define REQUEST_BUCKETS 1024u                 /* a power of two */
#define WATCHES_MAX 2048u                     /* paths at one server */
#define RULES_MAX 32u                         /* of one endpoint */
#define HEADERS_SIZE_MAX (32u * 1024)         /* of one answer */
#define NOTIFY_SIZE_MAX (60u * 1024)          /* body of one value */
#define COLLECT_MAX (8u * 1024 * 1024)        /* body of one request */
#define COLLECT_TOTAL_MAX (64u * 1024 * 1024) /* bodies of all requests */
#define INPUT_SIZE (256u * 1024)              /* one read */
#define OUTPUT_HIGH (1024u * 1024)            /* above it the connection is not read */
#define OUTPUT_NOTIFY_MAX (4u * 1024 * 1024)  /* above it no value is queued */
#define BACKOFF_MIN_USEC (20u * 1000)
#define BACKOFF_MAX_USEC (1000u * 1000)
#define STOP_USEC (5u * 1000 * 1000)

enum role {
    ROLE_REGISTRAR,
    ROLE_SERVER,
};

/* A try that is repeated with doubling pauses. `at` 0: not waiting. */
struct retry {
    uint64_t at, pause;
};

enum attachment_state {
    ATTACHMENT_NEW, /* to be asked for, after `retry.at` if set */
    ATTACHMENT_ASKED,
    ATTACHMENT_UP,
};

/* An endpoint at one server. */
struct attachment {
    struct attachment *next;
    hybridos_endpoint *endpoint;
    uint32_t id; /* stream of ATTACH, WATCH, NOTIFY; never used twice */
    enum attachment_state state;
    struct retry retry;
};

struct watch {
    struct watch *next;
    hybridos_endpoint *endpoint;
    unsigned watchers;
    char path[];
};

struct connection {
    struct connection *next;
    hybridos_app *app;
    enum role role;
    char *name, *path;
    int fd; /* -1: waiting for `retry` */
    struct retry retry;
    bool hello;    /* has come */
    bool draining; /* GOAWAY has come */
    bool stale;    /* server: not named by the present registrar yet */
    bool removed;  /* free it at the end of the turn */
    bool stopped;  /* answered the PING that followed our GOAWAY */
    uint32_t events;
    struct buffer in, out;
    /* of a server: */
    struct attachment *attachments;
    struct watch *watches;
    size_t n_watches;
    hybridos_request **requests; /* REQUEST_BUCKETS lists */
    size_t n_requests;
    uint32_t highest; /* stream so far */
};

enum endpoint_state {
    ENDPOINT_NEW, /* to be asked for, after `retry.at` if set */
    ENDPOINT_ASKED,
    ENDPOINT_REGISTERED,
    ENDPOINT_REFUSED, /* for good */
};

struct hybridos_endpoint {
    hybridos_endpoint *next;
    hybridos_app *app;
    char *namespace_, *title, *attributes, *reason;
    char *rules[RULES_MAX];
    size_t n_rules;
    bool takeover, removed;
    char key[32 + 1];
    uint32_t id; /* stream of REGISTER */
    enum endpoint_state state;
    struct retry retry;
    hybridos_request_fn request;
    hybridos_state_fn state_changed;
    hybridos_cancel_fn cancel;
    hybridos_body_fn body;
    hybridos_writable_fn writable;
    hybridos_watch_fn watch;
    hybridos_resume_fn resume;
    struct resuming *resuming; /* while that is called */
    void *userdata;
};

struct hybridos_app {
    char *name;
    int epoll_fd, event_fd, timer_fd;
    uint64_t timer_at; /* what the timer is set to */
    atomic_bool kicked, woken, stop;
    bool in_turn, stopping, stop_complete;
    uint64_t stop_at;
    int error; /* of this turn, for hybridos_process() */
    uint32_t next_id;
    size_t collected; /* bytes of bodies */
    struct connection *registrar, *servers;
    size_t n_servers;
    hybridos_endpoint *endpoints;
    hybridos_wakeup_fn wakeup;
    void *wakeup_userdata;
};

struct hybridos_request {
    hybridos_request *next; /* in its bucket */
    struct connection *connection;
    hybridos_endpoint *endpoint;
    uint32_t stream;
    bool called;       /* the app knows it */
    bool begun;        /* RESPONSE was sent */
    bool body_end;     /* whole request body has come */
    bool streamed;     /* the body goes to the body callback */
    bool want_credit;  /* write() took less than it was given */
    bool finish;       /* END follows the rest */
    bool gone;         /* in its cancel callback: nothing can be answered any more */
    uint32_t credit;   /* bytes that may still be sent */
    uint32_t allowed;  /* bytes that may still come */
    uint32_t owed;     /* bytes that the app has dealt with, not yet given back as credit */
    uint64_t deadline; /* CLOCK_MONOTONIC, usec */
    struct buffer body;
    struct buffer rest;    /* of a whole answer, waiting for credit */
    struct buffer headers; /* fields of the answer to come */
    unsigned n_headers;
    void *userdata;
    size_t fields_size;
    char fields[]; /* "name\0value\0" … */
};

/* app.c */
uint64_t now_usec(void);
void retry_later(struct retry *retry);
uint32_t app_new_id(hybridos_app *app);
/* Something was put into an output buffer, or has to be done at the next turn. */
void app_kick(hybridos_app *app);

/* connection.c */
struct connection *connection_new(hybridos_app *app, enum role role, const char *name,
                                  const char *path);
void connection_free(struct connection *c);
void connection_connect(struct connection *c);
/* Reads once and handles all frames. */
void connection_read(struct connection *c);
/* Writes once. */
void connection_flush(struct connection *c);
void connection_lost(struct connection *c);
bool connection_open(const struct connection *c);

/* registrar.c: the conversation about registrations */
void registrar_turn(hybridos_app *app, uint64_t now);
int registrar_frame(struct connection *c, const struct frame *f);
void registrar_lost(struct connection *c);
void endpoint_free(hybridos_endpoint *e);

/* server.c: the conversation about requests */
void server_turn(struct connection *c, uint64_t now);
int server_frame(struct connection *c, const struct frame *f);
void server_lost(struct connection *c);
void server_forget(struct connection *c, hybridos_endpoint *e);
hybridos_request *server_find(struct connection *c, uint32_t stream);
void server_remove(struct connection *c, hybridos_request *r);

/* request.c: one request */
int request_open(struct connection *c, const struct frame *f);
int request_data(hybridos_request *r, const struct frame *f);
int request_credit(hybridos_request *r, uint32_t credit);
void request_cancelled(hybridos_request *r, unsigned status);
void request_free(hybridos_request *r);
