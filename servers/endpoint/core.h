/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What the parts of the core know of each other. Each part is one file and says here what it
 * offers; the structs that two parts share stand first. Callbacks of a server may free any request,
 * watch or peer, so no part touches one after calling out (peers are held where they are needed
 * again). */

#include "endpoint-limits.h"
#include "endpoint.h"
#include "list.h"
#include "timer.h"

/* --- table.c: the registrar's table
 * --------------------------------------------------------------- */

typedef struct permission {
    struct permission *next; /* in the hash bucket */
    uint32_t hash, refs, page, bit;
    uint64_t since; /* the page's version from which on the bit is this one's */
    char name[];
} permission;

/* Rows are asked for HYBUS_AGENT_PERMISSIONS_MAX names at a time. A bit never moves, but may be
 * given to another: a row answers for what was in the page when it was asked for, so that who
 * registers without end makes nobody else's rows worthless. */
typedef struct permission_page {
    permission *permissions[HYBUS_AGENT_PERMISSIONS_MAX];
    uint64_t version; /* counts what was put in */
    uint32_t used, end;
    size_t bytes;
} permission_page;

typedef enum entry_road { ROAD_CHANNEL, ROAD_BUS, ROAD_START } entry_road;

typedef struct rule {
    char *methods, *subpath;
    size_t subpath_size;
    permission *permission;
} rule;

/* What one ENTRY frame says. */
typedef struct entry_definition {
    char key[17];
    uint32_t uid;
    entry_road road;
    char *bus_name, *object, *unit, *title, *attributes;
    bool stream, watch;
    rule *rules;
    size_t n_rules;
} entry_definition;

struct attachment;

typedef struct entry {
    list node;
    struct entry *next; /* in the hash bucket */
    struct endpoint_core *core;
    uint32_t hash;
    entry_definition d;
    permission *read, *write;
    struct attachment *attachment;
    uint64_t wait_until;  /* the app is expected to attach until then */
    bool seen;            /* in the snapshot that is being received */
    uint64_t start_asked; /* when; 0: not */
    endpoint_timer stale; /* not in the last snapshot: goes when this fires */
    list waiting;         /* requests, by endpoint_request.wait_node */
    list values;          /* topics with a value, least recent first */
    size_t n_values, values_bytes;
    size_t size;
    char namespace[];
} entry;

#define TABLE_BUCKETS 1024u

typedef struct table {
    list entries;
    size_t n_entries, longest;
    uint64_t revision;
    entry *buckets[TABLE_BUCKETS];
    permission *permissions[TABLE_BUCKETS];
    permission_page *pages[LIMIT_PERMISSION_PAGES];
} table;

void table_init(table *t);
void table_done(table *t);
entry *table_find(const table *t, const char *namespace, size_t size);
/* The entry with the longest namespace that the path belongs to, or NULL. No allocation. */
entry *table_match(const table *t, const char *path);
bool namespace_valid(const char *namespace);
/* Takes over the content of `d` on success. */
int table_set(struct endpoint_core *c, const char *namespace, entry_definition *d, entry **ret);
void table_remove(struct endpoint_core *c, entry *e);
void entry_definition_done(table *t, entry_definition *d);
int entry_definition_add_rule(table *t, entry_definition *d, const char *text);
permission *entry_permission(const entry *e, const char *method, const char *path);
int permission_get(table *t, const char *name, permission **ret);
static inline permission *permission_ref(permission *p)
{
    p->refs++;
    return p;
}
void permission_unref(table *t, permission *p);

/* --- wire.c: one framed connection
 * ---------------------------------------------------------------- */

struct wire;
typedef struct wire_ops {
    /* -EBADMSG and the like end the connection. */
    int (*frame)(struct wire *w, const hybus_frame *f);
    void (*closed)(struct wire *w, int error);
    void (*drained)(struct wire *w); /* less than LIMIT_OUT_HIGH is queued again; may be NULL */
} wire_ops;

typedef struct wire {
    struct endpoint_core *core;
    const wire_ops *ops;
    int fd;
    sd_event_source *source;
    hybus_frame_reader in;
    hybus_frame_queue out;
    list dirty_node;
    bool reading; /* frames of `in` are being looked at */
    bool writing; /* EPOLLOUT is watched */
    bool deaf;    /* the other side reads no more */
    bool full;    /* it does not read what it made us say */
    bool high;
} wire;

int wire_open(wire *w, struct endpoint_core *c, int fd, const wire_ops *ops);
void wire_close(wire *w); /* without ops->closed() */
void wire_fail(wire *w, int error);
void wire_dirty(wire *w);
void wire_flush(wire *w);
/* Ends the frame that was begun in `out`. One that finds no room ends the connection at the next
 * flush. */
void wire_end(wire *w);
void wire_add(wire *w, const hybus_frame *f);
void wire_send(wire *w, uint8_t type, uint16_t code, uint32_t stream, uint32_t value);

/* --- link.c: one app's channel
 * ---------------------------------------------------------------------- */

/* All that runs under one uid is one app, however many connections and namespaces it has. */
typedef struct owner {
    list node;
    uint32_t uid, refs;
    size_t open, links;
    size_t bus_open, bus_lost, bus_fds; /* calls without an answer; of these, nobody waits for */
    size_t bus_spooled, bus_watches;
    list bus_queue, bus_node; /* calls that wait for a place; of the owners that have some */
} owner;

owner *owner_get(struct endpoint_core *c, uint32_t uid);
void owner_unref(owner *o);

typedef struct attachment {
    list node; /* of the link */
    struct link *link;
    entry *entry; /* NULL: waits for the table, or was detached */
    uint32_t id;
    char key[17];
    char *namespace;
    bool resume; /* it knows what came after a value */
    endpoint_timer timer;
} attachment;

#define LINK_BUCKETS 256u

typedef struct link {
    wire wire;
    list node, dead_node;
    owner *owner;
    bool greeted, goaway;
    uint32_t last_stream;
    size_t open, requests_max, n_attachments;
    list attachments;
    endpoint_timer hello;
    struct endpoint_request *streams[LINK_BUCKETS];
} link_t;

int link_listen(struct endpoint_core *c);
int link_new(struct endpoint_core *c, int fd, link_t **ret);
void link_close(link_t *l, int error);
void link_free(link_t *l);
void link_goaway(link_t *l);
void entry_deliver_waiting(entry *e);
void link_table_changed(struct endpoint_core *c, entry *e);
void attachment_detach(attachment *a, const char *reason);
void link_watch(attachment *a, const char *subpath, uint32_t watchers);
void link_resume(attachment *a, uint32_t token, const char *subpath, const char *id);
/* 0, or the status with which the request is refused. */
unsigned link_send_request(link_t *l, entry *e, struct endpoint_request *r,
                           const endpoint_request_info *i);
void link_pump(struct endpoint_request *r);
void link_cancel(struct endpoint_request *r, uint16_t code);
void link_remove_stream(struct endpoint_request *r);

/* --- registrar.c
 * ---------------------------------------------------------------------------------------- */

typedef struct registrar {
    wire wire;
    struct endpoint_core *core;
    char *path;
    bool connected, greeted, snapshot;
    uint64_t backoff;
    endpoint_timer timer;
} registrar;

int registrar_init(registrar *g, struct endpoint_core *c, const char *path);
void registrar_done(registrar *g);
int registrar_start_unit(registrar *g, const entry *e);
int registrar_parse_entry(table *t, const hybus_frame *f, char *namespace, entry_definition *ret,
                          uint64_t *ret_revision);

/* --- principal.c: whom a peer stands for, and the cached rows
 * ------------------------------------------- */

typedef struct row_page {
    struct principal *principal;
    uint64_t version, asked_version; /* of the page, for the row and for the question */
    uint32_t index;
    hybus_row *row;
    hybus_agent_question *question;
    bool asking, settling;
    unsigned tries;
    int error;
    list node; /* rows_queued or rows_ready */
    uint16_t used[HYBUS_AGENT_PERMISSIONS_MAX];
} row_page;

typedef struct principal {
    list node, peers;
    struct endpoint_core *core;
    uint64_t handle, expires;
    uint64_t touched; /* µs of timer_now(): when the agent was last told that it is in use */
    uint32_t refs;
    char *name;
    row_page *pages[LIMIT_PERMISSION_PAGES];
} principal;

int principal_get(struct endpoint_core *c, const hybus_principal *p, principal **ret);
void principal_unref(principal *p);
hybus_subject principal_subject(const principal *p);
/* 1: allowed; 0: denied; -EAGAIN: peer_rows_ready() will be called; -ENOKEY. No system call on a
 * hit. */
int principal_allows(principal *p, const permission *needed, bool count);
void principal_prefetch(principal *p);
void principals_turn(struct endpoint_core *c);
void principals_changed(struct endpoint_core *c);

/* --- peer.c
 * -----------------------------------------------------------------------------------------------
 */

enum peer_state { PEER_CHECKING, PEER_GOOD, PEER_BAD };

struct endpoint_peer {
    list node, principal_node;
    struct endpoint_core *core;
    const endpoint_peer_ops *ops;
    void *userdata;
    enum peer_state state;
    bool told, gone, settling;
    unsigned rechecks; /* without a row in between */
    int error;
    uint32_t refs;
    principal *principal;
    hybus_agent_question *question;
    bool asking;
    hybus_connection connection; /* copies, to be checked again when the agent has forgotten us */
    list requests, watches;
    list waiting; /* requests that wait for a row */
    size_t open, n_watches, n_waiting;
};

void peer_ref(struct endpoint_peer *p);
void peer_unref(struct endpoint_peer *p);
void peer_check(struct endpoint_peer *p);
void peer_rows_ready(struct endpoint_peer *p, int error);

/* --- request.c
 * -------------------------------------------------------------------------------------------- */

enum request_state {
    REQUEST_WAITING, /* for a row, a verdict, a unit or an app */
    REQUEST_OPEN,    /* with the responder */
    REQUEST_DONE,    /* nothing more is told */
};

struct saved_info;
struct bus_call;

struct endpoint_request {
    list peer_node, wait_node;
    struct endpoint_request *next_stream;
    struct endpoint_core *core;
    struct endpoint_peer *peer;
    const endpoint_reply_ops *ops;
    void *userdata;
    enum request_state state;
    bool head; /* the answer has no body: HEAD, 204, 304 */
    bool replied, starved, body_ended, counted;
    bool has_length;
    uint8_t decisions;
    uint64_t id;
    endpoint_timer deadline;
    permission *permission;
    owner *owner;
    link_t *link;
    struct bus_call *bus;
    uint32_t stream;
    uint32_t send_credit, receive_credit;
    size_t body_total;
    uint64_t length_left; /* of a declared content-length */
    struct saved_info *saved;
    uint8_t *held; /* request body that the credit did not admit yet */
    size_t held_size, held_at;
    bool held_end;
    hybus_agent_question *question;
    bool has_pass; /* it was let through by itself */
    hybus_pass pass;
    bool judging;
    uint32_t uid;
};

void request_decide_saved(struct endpoint_request *r);
/* What a responder answered. -EBADMSG: not as the protocol has it (and nothing has been done). */
int request_reply(struct endpoint_request *r, unsigned status, const endpoint_field *fields,
                  size_t n_fields, const void *body, size_t size, bool end);
int request_data(struct endpoint_request *r, const void *data, size_t size, bool end);
/* The core's own end: as reply with a problem document, or as abort. */
void request_fail(struct endpoint_request *r, unsigned status, const char *detail);
void request_recheck(struct endpoint_request *r);
void request_release(struct endpoint_request *r); /* from its responder, silently */
int request_hold_body(struct endpoint_request *r, const void *data, size_t size, bool end);
void request_id_text(const struct endpoint_request *r, char text[34]);
void request_sent(struct endpoint_request *r, owner *o, uint32_t uid);

/* --- bus-road.c, bus-reply.c
 * ------------------------------------------------------------------------------------------- */

unsigned bus_send_request(entry *e, struct endpoint_request *r, const endpoint_request_info *i);
int bus_body(struct endpoint_request *r, const void *data, size_t size, bool end);
void bus_cancel(struct endpoint_request *r);
void bus_release(struct endpoint_request *r);
void bus_consumed(struct endpoint_request *r);
void bus_turn(struct endpoint_core *c);
void bus_done(struct endpoint_core *c);
/* False: not now, because the app has not answered the one before or too many have not. It comes
 * again by watch_places(). */
bool bus_watch(struct endpoint_core *c, entry *e, const char *subpath, uint32_t watchers);

/* --- watch.c
 * ---------------------------------------------------------------------------------------------- */

typedef struct topic {
    struct topic *next; /* in the hash bucket */
    list node, dirty_node;
    struct endpoint_core *core;
    uint32_t hash, refs;
    entry *owner; /* whose value it is and who is told of watchers */
    list watches;
    size_t n_watches;
    bool told; /* that somebody watches */
    uint64_t sequence;
    bool has_value;
    list entry_node, recent_node;
    uint64_t max_age_usec, received_usec;
    char *content_type, *id;
    uint8_t *body;
    size_t body_size;
    size_t size;
    char path[];
} topic;

struct endpoint_watch {
    list peer_node, topic_node;
    struct endpoint_core *core;
    struct endpoint_peer *peer;
    const endpoint_watch_ops *ops;
    void *userdata;
    topic *topic;
    permission *permission;
    bool started, ended;
    uint8_t decisions;
    hybus_agent_question *question;
    bool judging;
    char *last_id; /* what it has had, while it comes back */
    unsigned resume;
    uint32_t resume_token;
    list resume_node;
    /* Of its next value: something is missing before it; nothing is, since it came back. */
    bool gap, follows;
};

typedef struct notify {
    const char *path, *content_type, *id; /* the whole path; id may be NULL */
    uint64_t max_age_usec;
    const void *body;
    size_t size;
    bool gone;
} notify;

int watch_notify(struct endpoint_core *c, entry *e, const notify *n);
/* A NOTIFY's fields, below `e`; -EBADMSG. */
int watch_notify_frame(struct endpoint_core *c, entry *e, const hybus_frame *f);
void watch_decide(struct endpoint_watch *w);
void watch_end(struct endpoint_watch *w, unsigned status, const char *detail);
void watch_entry_gone(struct endpoint_core *c, entry *e);
void watch_table_changed(struct endpoint_core *c);
void watch_attached(struct endpoint_core *c, entry *e);
void watch_turn(struct endpoint_core *c);
void watch_places(struct endpoint_core *c); /* bus_watch() may have a place again */
void watch_done(struct endpoint_core *c);
/* Gives it the last value, if there is one. */
void watch_last_value(struct endpoint_watch *w);

/* --- resume.c
 * --------------------------------------------------------------------------------------------- */

void resume_want(struct endpoint_watch *w, const char *last_id);
bool resume_begin(struct endpoint_watch *w, const entry *e);
void resume_end(struct endpoint_watch *w);
void resume_turn(struct endpoint_core *c);
void resume_detached(struct endpoint_core *c, const entry *e);
void resume_owner_changed(const topic *t);
/* A RESUMED of the app that holds `e` (NULL: nothing); -EBADMSG. */
int resume_answer(struct endpoint_core *c, const entry *e, const hybus_frame *f);

/* --- status.c
 * --------------------------------------------------------------------------------------------- */

const char *status_title(unsigned status);
/* A problem document (RFC 9457); `audit` may be NULL. Returns its size. */
#define PROBLEM_MAX 512u
size_t status_problem(char buffer[PROBLEM_MAX], unsigned status, const char *detail,
                      const char *audit);
/* A path as it may stand in an audit record: what is not printable ASCII as %XX, cut when long. */
#define AUDIT_PATH_MAX 512u
void status_audit_path(char buffer[AUDIT_PATH_MAX], const char *path);
bool status_retry(unsigned status); /* does retry-after belong to it? */
/* What a responder may not say: drops fields, -EBADMSG on a name or value that HTTP cannot carry.
 */
int status_filter_fields(endpoint_field *fields, size_t *n_fields);

/* --- core.c
 * ------------------------------------------------------------------------------------------------
 */

#define TOPIC_BUCKETS 1024u

struct endpoint_core {
    sd_event *event;
    sd_bus *bus;
    hybus_agent *agent;
    char *server, *protocol;
    endpoint_settings settings;
    endpoint_statistics statistics;
    bool draining, flushing, again, freeing;
    int listen_fd;
    sd_event_source *listen_source, *flush_source;
    endpoint_timers timers;
    table table;
    bool table_dirty;
    registrar registrar;
    list owners, links, dead_links, dirty_wires;
    size_t n_links;
    list peers, principals;
    list rows_queued, rows_ready;
    size_t rows_asked, settling;
    bool settle;
    uint64_t settle_generation;
    list spare;
    size_t n_spare, n_waiting, held_bytes, open;
    uint64_t id_prefix, id_next;
    size_t bus_open, bus_fds, bus_spooled, n_bus_queues;
    bool bus_busy;             /* a reply has come: there may be more */
    list bus_queues, bus_lost; /* owners with calls that wait; calls nobody waits for */
    list bus_tellings;         /* calls of Watch without an answer */
    size_t bus_watches;
    topic *topics[TOPIC_BUCKETS];
    list all_topics, dirty_topics, recent_values;
    list untold_topics; /* by dirty_node: whose apps could not be told */
    list resume_todo, resume_asked;
    uint32_t resume_token;
    size_t values_bytes;
    uint64_t sequence_floor;
};

void core_wake(struct endpoint_core *c);
void core_agent_changed(hybus_agent *a, uint64_t generation, void *userdata);
