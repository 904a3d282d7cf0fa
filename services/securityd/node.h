/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Constrained nodes and their keys (PSK): one file of its own beside the state. DTLS needs the key
 * itself, so it is kept encrypted, not hashed. What encrypts it is made of a second file and of that
 * file's birth time, which nobody can copy: the two files taken elsewhere, or put back from a backup, are
 * worth nothing. Whoever is root on the device, or has its whole disk, has the keys: there is no
 * other secret on it that they could be bound to. */

#include "state-file.h"

#define NODES_MAX 1024u
#define NODE_KEY_SIZE 32u

typedef struct Node {
    char *name;
    uint8_t key[NODE_KEY_SIZE];
    uint64_t created; /* µs of CLOCK_REALTIME */
} Node;

typedef struct Nodes {
    char *directory;
    Node *list; /* NODES_MAX; wiped before it is freed */
    size_t n;
    bool lost; /* there were some, and their keys cannot be read here */
} Nodes;

/* A missing file is an empty list, one that cannot be read likewise. */
int nodes_open(const char *directory, Nodes **ret);
void nodes_free(Nodes *n);
HYBUS_DEFINE_CLEANUP(Nodes, nodes_free)

Node *nodes_find(const Nodes *n, const char *name);
/* With a new key. -EINVAL, -EEXIST, -ENOBUFS; after a failure nothing has changed. */
int nodes_add(Nodes *n, const char *name, uint64_t now, Node **ret);
/* Others than -ENOENT: it is gone, but may be back after the next start. */
int nodes_remove(Nodes *n, const char *name);

#define NODE_KEY_ID_SIZE 33u
/* Tells this key from a later one of the same name, and nothing else about it. */
void node_key_id(const Node *n, char ret[NODE_KEY_ID_SIZE]);
