/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What TCP, TLS and DTLS have in common: a far end that has shown that it is there, and a slot for
 * it. Slots are bounded, by address as well; some are kept for those who authenticate themselves.
 */

#include "coapd.h"

#include <openssl/ssl.h>

typedef struct coapd_identity {
    char name[65], key_id[33];
} coapd_identity;

typedef struct CoapdConnection {
    list node; /* of all: first */
    Coapd *coapd;
    CoapdSession *session;
    unsigned char key[16]; /* endpoint_address_key() */
    bool handshaking;
    SSL *ssl;                      /* NULL: TCP alone */
    coapd_identity offered, known; /* what the handshake spoke of; who it has shown to be: "" not */
    char certificate[65];          /* SHA-256: "" none */
    char tls[64];                  /* "DTLSv1.2 PSK-AES128-CCM8" */
} CoapdConnection;

/* Is there a slot for somebody from there? Whoever has to go for it goes. */
bool coapd_connection_admit(Coapd *d, const endpoint_address *remote);
/* Takes the slot, and begins its session. */
int coapd_connection_begin(CoapdConnection *c, Coapd *d, const coapd_road *road,
                           const endpoint_address *remote, const endpoint_address *local);
/* Leaves the slot; of the road's close(). */
void coapd_connection_done(CoapdConnection *c);
/* The handshake is over. */
void coapd_connection_established(CoapdConnection *c);
static inline CoapdConnection *coapd_connection_of(const CoapdSession *s)
{
    return s->session ? NULL : s->below;
}
/* Those whose key or certificate is no longer good end. */
void coapd_connections_recheck(Coapd *d);

/* --- coap-pipe.c: TCP and TLS; coap-flow.c: DTLS -------------------------------------------------
 */
int coapd_pipe_listen(Coapd *d, CoapdListener *l);
int coapd_flow_listen(Coapd *d, CoapdListener *l);
void coapd_flow_unlisten(CoapdListener *l);

/* --- coap-tls.c: what is shown, and whom we know
 * --------------------------------------------------
 */
#define COAPD_COOKIE_SIZE 32u

int coapd_secrets_new(Coapd *d);
void coapd_secrets_free(struct CoapdSecrets *s);
/* The server's key pair; -ENOENT: there is none, only keys of nodes are good. */
int coapd_secrets_load(Coapd *d, const char *certificate, const char *key);
/* Keys of nodes, as h-securityd tells them: all of them anew. `add` with name NULL: that was all.
 */
int coapd_nodes_begin(Coapd *d);
int coapd_nodes_add(Coapd *d, const char *name, const void *key, size_t size);
void coapd_nodes_commit(Coapd *d);
bool coapd_nodes_has(const Coapd *d, const char *name, const char *key_id);
/* For one connection; SSL_free(). */
SSL *coapd_secrets_server(Coapd *d, bool datagram);
/* Fills in who the far end has shown to be. */
void coapd_secrets_identify(CoapdConnection *c);
/* Shows that somebody receives what is sent there; for two minutes at most. */
void coapd_cookie_make(const Coapd *d, const endpoint_address *remote, uint64_t minute,
                       uint8_t ret[COAPD_COOKIE_SIZE]);
bool coapd_cookie_good(const Coapd *d, const endpoint_address *remote, const uint8_t *cookie,
                       size_t size);

/* --- coap-nodes.c: asks h-securityd for them
 * ------------------------------------------------------
 */
/* Before JSON is used: what it frees is wiped. */
void coapd_nodes_init(void);
/* Settles COAPD_SETTLE_KEYS when what is no longer good is gone. */
void coapd_nodes_fetch(Coapd *d);
