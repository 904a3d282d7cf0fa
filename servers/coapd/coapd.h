/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* h-coapd: a thin translation between libcoap and the endpoint core. One Coapd per process; below
 * it listeners and sessions (one remote address and port), below a session its exchanges (one
 * request with its answer, over all their blocks), its observers, and records of the messages that
 * it has sent. libcoap does messages, and over UDP sessions and retransmission; it is asked to keep
 * its hands off blocks and Observe, which it would answer from within its handlers and hold whole
 * in memory. TCP, TLS and DTLS are ours (docs/coapd.md says why): what a session needs of the road
 * below it is a coapd_road. */

#include "coap-directory.h"
#include "coap-format.h"
#include "coap-message.h"

#include <endpoint/claim.h>
#include <endpoint/doors.h>
#include <endpoint/list.h>
#include <endpoint/server1.h>
#include <endpoint/timer.h>
#include <hybridos.h>
#include <hybus/config.h>

#define COAPD_SESSION_BUCKETS 256u
#define COAPD_RECORDS_MAX 32u               /* of one session */
#define COAPD_RECORD_BYTES (8u << 20)       /* of all answers in records */
#define COAPD_RECORD_USEC (247u * 1000000u) /* EXCHANGE_LIFETIME (RFC 7252, 4.8.2) */
#define COAPD_LINGER_USEC (60u * 1000000u)  /* between two blocks */
#define COAPD_FETCH_USEC (2u * 1000000u)    /* that a transfer is not disturbed by a newer value */
#define COAPD_WINDOW (256u * 1024u)         /* of an answer, held for its blocks */
#define COAPD_HISTORY (16u * 1024u)         /* of these, blocks that were sent already */
#define COAPD_HELD_BYTES (32u << 20)        /* of all answers */
#define COAPD_EVENTS_PER_TURN 64
#define COAPD_LIBRARY_USEC (100u * 1000u) /* until it is asked when it wants to be called */

#define COAPD_RESERVED 8u        /* one in so many observers is kept for the known */
#define COAPD_DATAGRAM_MAX 1152u /* MAX_MESSAGE of RFC 7252, 4.6 */

typedef struct coapd_settings {
    char **udp, **tcp, **dtls, **tls;
    char *scope, *verify;
    bool convert, node_loopback;
    uint64_t nodes, nodes_owner, node_links, node_link_bytes, node_lifetime, node_cache,
        node_timeout, node_stale;
    uint64_t sessions, requests, requests_session, observers, observers_session, body;
    uint64_t connections, connections_reserved, connections_address, handshakes;
    uint64_t deadline, acknowledge, idle, confirm, handshake;
} coapd_settings;

extern const hybus_setting coapd_setting_table[];

typedef struct Coapd Coapd;
typedef struct CoapdListener CoapdListener;
typedef struct CoapdSession CoapdSession;
typedef struct CoapdExchange CoapdExchange;
typedef struct CoapdObserver CoapdObserver;
typedef struct CoapdRecord CoapdRecord;
typedef struct CoapdUpstream CoapdUpstream;
typedef struct CoapdPermit CoapdPermit;

/* Who gives way to whom when there is no room for another request. */
typedef enum coapd_rank {
    COAPD_RANK_UNVERIFIED, /* it may not even be there */
    COAPD_RANK_STRANGER,
    COAPD_RANK_KNOWN, /* it has authenticated */
    COAPD_RANKS
} coapd_rank;

typedef struct coapd_counters {
    uint64_t sessions, requests, duplicates, malformed, limited, separate, answers[6],
        notifications, notifications_confirmable, observers, observers_lost, observers_rejected,
        kicked, blocks, nodes, node_requests, node_cached, node_failures, node_notifications,
        connections, connections_refused, connections_evicted, handshakes_failed, aborts,
        exchanges_evicted;
} coapd_counters;

typedef enum coapd_door {
    COAPD_DOOR_UDP,
    COAPD_DOOR_TCP,
    COAPD_DOOR_DTLS,
    COAPD_DOOR_TLS
} coapd_door;

struct CoapdListener {
    Coapd *coapd;
    coap_endpoint_t *endpoint; /* NULL: not the library's */
    sd_event_source *io;       /* of ours */
    struct CoapdHello *hello;  /* DTLS */
    endpoint_address bound;
    unsigned kind;
    uint16_t port;
    int fd; /* UDP: the library's */
    char address[ENDPOINT_ADDRESS_TEXT];
};

/* What it takes to answer a message. */
typedef struct coapd_message {
    uint8_t token[8], token_size, no_response;
    coap_mid_t mid;
    bool confirmable;
    bool acknowledged; /* by an empty message: the answer is one of its own */
    bool idempotent;
} coapd_message;

/* What carries the messages of a session. */
typedef struct coapd_road {
    const char *protocol; /* "coap", "coaps", "coap+tcp", "coaps+tcp" */
    bool reliable, encrypted;
    coap_mid_t (*send)(CoapdSession *s, coap_pdu_t *p); /* takes over `p`; COAP_INVALID_MID: lost */
    bool (*full)(const CoapdSession *s);                /* what can wait should; NULL: never */
    void (*close)(CoapdSession *s);                     /* its road ends; NULL: the library's */
} coapd_road;

struct CoapdSession {
    list node;          /* of all */
    CoapdSession *next; /* in the hash bucket */
    Coapd *coapd;
    const coapd_road *road;
    coap_session_t *session; /* UDP: the library's */
    void *below;             /* the road's */
    bool closed;             /* the road has ended */
    bool counted;            /* one of those that have slots of their own: its peer is somebody */
    endpoint_address remote;
    uint16_t port; /* it came to */
    uint16_t next_mid;
    size_t message_max; /* that the far end takes; of ours */
    endpoint_peer *peer;
    bool dead;      /* nothing of it is served any more */
    bool checked;   /* it is known whom it stands for */
    bool reliable;  /* TCP, TLS */
    bool verified;  /* it has been seen to receive what we send to its address */
    bool proven;    /* and that by something that nobody can guess */
    unsigned holds; /* of the library's session */
    uint64_t id, since_usec, requests;
    list exchanges, observers, records;
    size_t n_exchanges, n_observers, n_records;
    uint8_t record_counts[64]; /* by the end of their message id */
    list nodes;                /* that have registered from here */
    list upstream;             /* what is asked of them */
    size_t n_upstream;         /* of these, what waits for an answer */
    CoapdUpstream *in_flight;  /* whose message is out */
    char peer_name[ENDPOINT_ADDRESS_TEXT], local_name[ENDPOINT_ADDRESS_TEXT];
};

struct CoapdExchange {
    list node;                  /* of the session */
    list idle;                  /* it waits for its client: of all like it */
    endpoint_timer acknowledge; /* until an empty message says that the answer takes longer */
    endpoint_timer linger;      /* until nobody seems to want the next block */
    endpoint_timer again;       /* until it is asked again what there is to see */
    unsigned tries;
    char query[256]; /* what that is filtered by */
    CoapdSession *session;
    endpoint_request *request; /* NULL: the answer was not asked for, it is a value's */
    coapd_message message;     /* the last one that asked */
    bool waiting;              /* it has not been answered */
    bool replied, ended, failed, uploading;
    bool gone; /* freed as soon as nobody is in it any more */
    unsigned busy;
    coapd_rank rank; /* of its client, when it began */
    bool blockwise;  /* its client has asked for a block, or was given one */
    uint32_t accept;
    size_t request_size; /* bytes of the message that asked */
    bool collecting;     /* a request that is converted when it is whole; in `body` */
    const char *method;
    uint64_t key;
    unsigned status;
    coapd_answer answer; /* without payload */
    coapd_etag etags[COAPD_ETAGS_MAX];
    size_t n_etags;
    uint8_t *body; /* from body_at on */
    size_t body_at, body_size, body_room;
    size_t wanted; /* where the block begins that is asked for */
    uint8_t szx;
    coapd_block block1; /* to be confirmed with the answer */
    size_t uploaded;
    uint8_t *stuck; /* a block that the responder has no room for yet */
    size_t stuck_size;
    CoapdObserver *observer; /* whose registration this is */
    struct rd_question *rd;  /* for the directory */
};

struct Coapd {
    sd_event *event;
    sd_event_source *io;
    endpoint_timer library; /* it wants to be called */
    endpoint_core *core;
    hybus_agent *agent;
    endpoint_peer *stranger; /* whoever comes by UDP is like it */
    const coapd_settings *settings;
    coap_context_t *context;
    endpoint_timers timers;
    CoapdListener listeners[ENDPOINT_DOORS_MAX];
    size_t n_listeners;
    list sessions;
    list idle[COAPD_RANKS]; /* exchanges that wait for their client, oldest first */
    CoapdSession *buckets[COAPD_SESSION_BUCKETS];
    struct coapd_value *last_value; /* the newest that somebody observes */
    list due;                       /* observers who are to be told */
    sd_event_source *turn;          /* tells some of them */
    size_t expected;                /* acknowledgements, soon */
    uint64_t expected_until;
    endpoint_timer silence;
    struct CoapdSecrets *secrets; /* coap-tls.c */
    struct {
        hybus_agent_question *question;
        long long generation;
        size_t known;
    } nodes;          /* coap-nodes.c */
    list connections; /* CoapdPipe and CoapdFlow, by their first member; oldest first */
    size_t n_connections, n_authenticated, n_handshakes;
    size_t n_sessions, n_exchanges, n_of_rank[COAPD_RANKS], n_waiting[COAPD_RANKS], n_observers,
        held, record_bytes;
    uint64_t next_id;
    uint32_t observe_sequence;
    directory directory;
    endpoint_timer node_expiry;
    list simple; /* simple registrations on their way */
    size_t n_simple, n_upstream, rechecking;
    uint64_t settle_generation;
    unsigned
        unsettled; /* COAPD_SETTLE_: what is still being looked at since the policy has moved */
    bool (*judge)(const char *permission); /* of a test; without an agent */
    const char *registrar;                 /* NULL: the real one */
    hybridos_app *app;
    sd_event_source *app_io, *app_flush;
    struct coapd_cache *cache;
    unsigned char echo_key[32];
    bool claimed, draining, freeing;
    coapd_counters counters;
    void (*listeners_changed)(Coapd *d, void *userdata);
    void *listeners_userdata;
};

/* --- coap.c: the server and its loop ------------------------------------------------------------
 */
int coapd_new(sd_event *event, const coapd_settings *settings, Coapd **ret);
void coapd_free(Coapd *d);
HYBUS_DEFINE_CLEANUP(Coapd, coapd_free)
void coapd_set_core(Coapd *d, endpoint_core *core, hybus_agent *agent);
int coapd_reconfigure(Coapd *d, const coapd_settings *settings);
void coapd_settings_to_core(const coapd_settings *s, endpoint_settings *ret);
void coapd_drain(Coapd *d);
directory_limits coapd_directory_limits(const coapd_settings *s);
/* Takes some of what has come over UDP; false: there may be more. */
bool coapd_read(Coapd *d);
#define COAPD_SETTLE_KEYS 1u  /* those whose key is gone have lost their sessions */
#define COAPD_SETTLE_NODES 2u /* nodes that may not be here any more are gone */
/* The agent is told when nothing is left. */
void coapd_policy_settled(Coapd *d, unsigned part);
void coapd_statistics(Coapd *d, endpoint_counter_each each, void *to);

/* --- coap-listen.c ------------------------------------------------------------------------------
 */
int coapd_listen_update(Coapd *d);
void coapd_listen_close(Coapd *d);
bool coapd_listen_is_open(const Coapd *d);
const char *coapd_door_name(unsigned kind); /* "udp" */
void coapd_set_claimed(Coapd *d, bool claimed);

/* --- coap-session.c -----------------------------------------------------------------------------
 */
/* Of the library's session; makes it when it is new. NULL: no memory. */
CoapdSession *coapd_session_get(Coapd *d, coap_session_t *session);
/* On a road of ours. `below` is the road's; it is free to go when close() has been called. */
CoapdSession *coapd_session_new(Coapd *d, const coapd_road *road, void *below,
                                const endpoint_address *remote, const endpoint_address *local);
/* Its road ends, with everything on it. */
void coapd_session_close(CoapdSession *s);
/* Takes over `p`. COAP_INVALID_MID: it could not be sent. */
coap_mid_t coapd_session_send(CoapdSession *s, coap_pdu_t *p);
coap_mid_t coapd_session_mid(CoapdSession *s);
/* Bytes that a message may have. */
size_t coapd_session_message_max(const CoapdSession *s);
/* What can wait should wait: the client does not take what it has been sent. */
bool coapd_session_is_full(const CoapdSession *s);
/* Nothing of it is open: its road may end. A node is reached on the road on which it registered. */
bool coapd_session_is_idle(const CoapdSession *s);
/* The library is about to forget it. */
void coapd_session_forget(CoapdSession *s);
/* Everything of it ends, silently. */
void coapd_session_end(CoapdSession *s);
void coapd_session_hold(CoapdSession *s);
void coapd_session_release(CoapdSession *s);
/* The principal's side; 0, or the code with which requests are refused now. */
coap_pdu_code_t coapd_session_admit(CoapdSession *s);
/* Asks anew what strangers may. */
void coapd_strangers_check(Coapd *d);
CoapdSession *coapd_session_find(Coapd *d, uint64_t id);
/* Bytes that a payload may have in one message of this session. */
size_t coapd_session_payload_room(const CoapdSession *s);
/* Calls `f` for the sessions of that remote address. */
void coapd_session_each_of(Coapd *d, const struct sockaddr *remote,
                           void (*f)(CoapdSession *s, void *userdata), void *userdata);
uint32_t coapd_address_hash(const struct sockaddr *a);

/* --- coap-echo.c: is somebody there?
 * --------------------------------------------------------------
 */
#define COAPD_ECHO_SIZE 12u
bool coapd_verify_valid(const char *verify);
/* A session that has just begun. */
void coapd_echo_begin(CoapdSession *s);
void coapd_echo_make(const CoapdSession *s, uint8_t ret[COAPD_ECHO_SIZE]);
/* What came with a request. */
void coapd_echo_check(CoapdSession *s, const uint8_t *echo, size_t size);
void coapd_verified(CoapdSession *s);
/* The largest block that an answer to a request of that many bytes may have; `szx` if it is known
 * who gets it. */
uint8_t coapd_echo_szx(const CoapdSession *s, uint8_t szx, size_t request_size);

/* --- coap-link.c: /.well-known/core
 * ---------------------------------------------------------------
 */
#define COAPD_WELL_KNOWN "/.well-known/core"
/* The link format document (RFC 6690) of what this session may see; `query` filters. -EAGAIN: not
 * known yet; -ENOKEY. */
int coapd_links(CoapdSession *s, const char *query, char **ret, size_t *ret_size);

/* --- coap-record.c: messages are answered once, however often they come
 * ---------------------------
 */
/* True: this message has been here before, and was taken care of. */
bool coapd_record_again(CoapdSession *s, const coapd_message *m);
/* Says that somebody answers it. */
void coapd_record_new(CoapdSession *s, const coapd_message *m);
void coapd_records_free(CoapdSession *s);
/* An empty message: the answer will be one of its own. */
void coapd_acknowledge(CoapdSession *s, coapd_message *m);
/* Answers, and keeps the answer for the next time that the same message comes. The message's id if
 * it was a confirmable one. */
coap_mid_t coapd_send_answer(CoapdSession *s, coapd_message *m, const coapd_answer *a);
void coapd_refuse(CoapdSession *s, coapd_message *m, coap_pdu_code_t code, const char *text);
/* A message that nobody asked for; COAP_INVALID_MID. */
coap_mid_t coapd_push(CoapdSession *s, const coapd_message *m, const coapd_answer *a);

/* --- coap-exchange.c ----------------------------------------------------------------------------
 */
void coapd_on_request(coap_resource_t *resource, coap_session_t *session, const coap_pdu_t *request,
                      const coap_string_t *query, coap_pdu_t *response);
/* A request that has come on any road. */
void coapd_take_request(CoapdSession *s, const coap_pdu_t *request);
void coapd_exchange_free(CoapdExchange *x);
/* It is known whether the observer of a registration may be one. */
void coapd_exchange_decided(CoapdSession *s, const CoapdObserver *o);
/* Bodies that wait for the next block were given to somebody who may not have them any more. */
void coapd_exchanges_recheck(Coapd *d);
/* For whoever answers here instead of a responder: an answer with a body, which may go in blocks,
 * or one that is a single message. The exchange may be gone afterwards. */
void coapd_exchange_answer(CoapdExchange *x, const coapd_answer *a);
void coapd_exchange_finish(CoapdExchange *x, const coapd_answer *a);
/* A value too large for one message: its first block goes into `a`, the others are fetched by
 * requests with that key. */
int coapd_exchange_of_value(CoapdSession *s, uint64_t key, const void *body, size_t size,
                            uint8_t szx, coapd_answer *a);

/* --- coap-observe.c -----------------------------------------------------------------------------
 */
/* Starts to watch for whoever asks; the answer to the registration is the exchange's. NULL: not
 * observed. */
CoapdObserver *coapd_observer_new(CoapdExchange *x, const coapd_question *q);
void coapd_observer_free(CoapdObserver *o);
/* Nobody has said yet whether it may. */
bool coapd_observer_undecided(const CoapdObserver *o);
/* The registration is about to be answered: the option goes in, or the observer goes. */
void coapd_observer_answer(CoapdObserver *o, coapd_answer *a);
void coapd_observer_cancel(CoapdSession *s, const coapd_message *m);
/* Notifications go out some at a time, from the loop. */
int coapd_observers_open(Coapd *d);
/* The road takes more again. */
void coapd_observers_flush(CoapdSession *s);
/* What the library does not tell: an empty message has come. */
void coapd_observer_acknowledged(CoapdSession *s, coap_mid_t mid);
/* A notification was rejected, or never acknowledged. */
void coapd_observer_lost(CoapdSession *s, coap_mid_t mid, bool rejected);

/* --- coap-peek.c --------------------------------------------------------------------------------
 */
/* Looks at the datagram that each socket has next, before the library takes it. */
void coapd_peek(Coapd *d);
/* The library's socket that is bound like this; -ENOENT. */
int coapd_peek_find(const endpoint_address *a, int type);
