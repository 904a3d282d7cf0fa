/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Questions are read and answered in the same words, whatever they are about. */

#include "agent-peer.h"

json_t *decimal(uint64_t n);
json_t *answer_to(const json_t *question);
int refuse(Peer *p, const json_t *question, int error, const char *message);
int throttled(Peer *p, const json_t *question, uint64_t wait); /* µs */
/* Wipes and frees it. */
int send_secret(Peer *p, const json_t *question, char *secret);

const char *string(const json_t *j, const char *key); /* NULL: it is none */
bool is_missing_or(const json_t *j, const char *key, json_type type);
/* A list of at most 64 words; NULL is an empty one. */
int read_words(const json_t *list, char ***ret);
