/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Nodes as providers. The directory says which there are (coap-directory.h); each stands at
 * /nodes/<name> as an endpoint of this daemon, which is an app like any other to the servers; what
 * is asked there is asked of the node, over the very session from which it registered. */

#include "coap-directory.h"
#include "coapd.h"

#include <hybridos.h>

#define COAPD_UPSTREAM_QUEUE 8u          /* requests that wait for one node */
#define COAPD_UPSTREAM_MAX 128u          /* for all nodes */
#define COAPD_NODE_BODY (64u * 1024u)    /* of a request to a node */
#define COAPD_NODE_ANSWER (256u * 1024u) /* of a node's answer */
#define COAPD_NODE_REQUESTS_MAX 128u     /* of clients, for one node */
#define COAPD_NODE_RELATIONS_MAX 16u     /* observed at one node */
#define COAPD_CACHE_ENTRIES_MAX 1024u
#define COAPD_CACHE_KEY_MAX 512u

/* --- coap-upstream.c: this server as a client of a node -----------------------------------------
 */

typedef struct coapd_ask {
    coap_pdu_code_t method;
    const char *path, *query; /* decoded; raw */
    uint32_t format, accept;
    coapd_etag etags[COAPD_ETAGS_MAX], if_match[COAPD_ETAGS_MAX];
    size_t n_etags, n_if_match;
    bool if_none_match, observe;
    const void *body;
    size_t size;
} coapd_ask;

typedef struct coapd_told {
    coap_pdu_code_t code;
    uint32_t format, max_age;
    bool has_max_age, has_observe;
    uint32_t observe;
    coapd_etag etag;
    coapd_block block1, block2;
    char location[256]; /* "/path?query", encoded */
    const void *body;
    size_t size;
} coapd_told;

/* An answer, or -ETIMEDOUT (also when its session is over), -ECONNRESET (it does not want to be
 * asked), -EMSGSIZE, -EBADMSG. With `end` it was the last, and the object is gone. */
typedef void (*coapd_told_fn)(int error, const coapd_told *t, bool end, void *userdata);

/* -ENOBUFS: too many wait; -ENAMETOOLONG: no message holds this path and query. */
int coapd_upstream_ask(CoapdSession *s, const coapd_ask *ask, uint64_t usec, coapd_told_fn told,
                       void *userdata, CoapdUpstream **ret);
/* Nobody wants to know any more; an observation is cancelled at the node. */
void coapd_upstream_free(CoapdUpstream *u);
/* A message to this node has not been answered in time, and is still on its way. */
bool coapd_upstream_asleep(const CoapdSession *s);
void coapd_upstream_session_over(CoapdSession *s);
void coapd_upstream_acknowledged(CoapdSession *s, coap_mid_t mid);
void coapd_upstream_failed(CoapdSession *s, coap_mid_t mid, bool rejected);
/* A response has come on any road. False: nobody has asked. */
bool coapd_take_response(CoapdSession *s, const coap_pdu_t *received);
coap_response_t coapd_on_response(coap_session_t *session, const coap_pdu_t *sent,
                                  const coap_pdu_t *received, const coap_mid_t mid);
void coapd_told_parse(const coap_pdu_t *pdu, coapd_told *ret);

/* --- coap-cache.c: what nodes have said ---------------------------------------------------------
 */

typedef struct coapd_cached {
    list node; /* least recently used first */
    void *of;  /* the node */
    uint64_t hash;
    char *key;
    uint32_t format, max_age;
    coapd_etag etag;
    uint64_t received_usec;
    uint8_t *body;
    size_t size;
} coapd_cached;

typedef struct coapd_cache {
    list entries;
    size_t n, bytes, bytes_max;
} coapd_cache;

void coapd_cache_init(coapd_cache *c);
void coapd_cache_resize(coapd_cache *c, size_t bytes_max);
coapd_cached *coapd_cache_find(coapd_cache *c, const void *of, const char *key);
/* NULL: not kept (it is too large, or there is no memory); what was there is gone then. */
coapd_cached *coapd_cache_put(coapd_cache *c, void *of, const char *key, const coapd_told *t,
                              uint64_t now_usec);
void coapd_cache_drop(coapd_cache *c, coapd_cached *e);
/* All of a node, or of one path of it. */
void coapd_cache_drop_of(coapd_cache *c, const void *of, const char *path);
static inline uint64_t coapd_cached_age(const coapd_cached *e, uint64_t now_usec)
{
    return (now_usec - e->received_usec) / 1000000u;
}

/* --- coap-node.c: the endpoint at /nodes/<name> -------------------------------------------------
 */

typedef struct CoapdNode CoapdNode;

struct CoapdNode {
    list session_node; /* of the session that it registered from */
    Coapd *coapd;
    CoapdSession *session; /* NULL: it has gone, and may come back */
    directory_node *entry;
    hybridos_endpoint *endpoint;
    list waiting;   /* requests that have no answer yet */
    list fetches;   /* GETs on their way, each for all who ask the same */
    list relations; /* what is observed there */
    size_t n_waiting, n_relations;
    CoapdPermit *permit; /* asked again: may it still be here? */
    char base[ENDPOINT_ADDRESS_TEXT + 16];
};

int coapd_node_new(Coapd *d, directory_node *entry, CoapdSession *s, CoapdNode **ret);
void coapd_node_free(CoapdNode *n);
/* It has registered (again), from there. */
void coapd_node_moved(CoapdNode *n, CoapdSession *s, bool anew);
int coapd_app_open(Coapd *d);
void coapd_app_close(Coapd *d);
/* The loop tells the servers what has been said. */
void coapd_app_flush(Coapd *d);

/* --- coap-rd.c: what is asked of the directory --------------------------------------------------
 */

#define COAPD_SIMPLE "/.well-known/rd"

bool coapd_rd_path(const Coapd *d, const char *path);
void coapd_rd_ask(CoapdExchange *x, const coapd_question *q, const void *body, size_t size);
/* -ENOENT. */
int coapd_rd_remove(Coapd *d, const char *name);
/* The exchange goes. */
void coapd_rd_forget(CoapdExchange *x);
void coapd_rd_session_over(CoapdSession *s);
void coapd_rd_init(Coapd *d);
void coapd_rd_done(Coapd *d);
/* The policy has moved: who may still be here? Settles COAPD_SETTLE_NODES. */
void coapd_rd_recheck(Coapd *d);
/* The node goes while it is asked whether it may stay. */
void coapd_rd_rechecked(CoapdNode *n);
/* Its own links for /.well-known/core. */
size_t coapd_rd_links(const Coapd *d, const coapd_filters *f, FILE *file, size_t n);

/* --- coap-permit.c: one question to h-securityd
 * ---------------------------------------------------
 */

/* 0; -EACCES with the audit id (403, 401 for nobody in particular); -EAGAIN (503). */
typedef void (*coapd_permit_done)(int error, const char *audit, void *userdata);
/* Never called back from within. With `record` a refusal is on record. */
int coapd_permit_ask(CoapdSession *s, const char *permission, const char *path, bool record,
                     coapd_permit_done done, void *userdata, CoapdPermit **ret);
void coapd_permit_cancel(CoapdPermit *p);
