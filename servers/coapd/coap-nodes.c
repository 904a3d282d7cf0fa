/* SPDX-License-Identifier: Apache-2.0 */
/* The keys of nodes, fetched from h-securityd whenever the policy has moved: a handshake cannot
 * wait for them. A node that is gone loses its sessions before the policy counts as settled. */

#include "coap-connection.h"

#include <hybus/json.h>
#include <hybus/log.h>
#include <jansson.h>
#include <malloc.h>

static void ask(Coapd *d);

/* Whatever JSON has held may have been a key. */
static void wiping_free(void *p)
{
    if (p)
        explicit_bzero(p, malloc_usable_size(p));
    free(p);
}

static void finish(Coapd *d)
{
    d->nodes.question = NULL;
    coapd_policy_settled(d, COAPD_SETTLE_KEYS);
}

static int add(Coapd *d, const json_t *one)
{
    const char *name = strempty(json_string_value(json_array_get(one, 0)));
    const json_t *text = json_array_get(one, 1);
    void *key = NULL;
    size_t size = 0;
    int r = json_is_string(text) ? hybus_base64_decode(json_string_value(text),
                                                       json_string_length(text), &key, &size)
                                 : -EPROTO;

    if (r >= 0)
        r = coapd_nodes_add(d, name, key, size);
    if (key)
        wiping_free(key);
    return r;
}

/* 1: there are more. */
static int take(Coapd *d, const json_t *answer)
{
    const json_t *nodes = json_object_get(answer, "nodes"), *one;
    json_int_t generation = json_integer_value(json_object_get(answer, "generation"));
    size_t i;
    int r = 0;

    if (json_object_get(answer, "error"))
        return -EACCES;
    if (!json_is_array(nodes))
        return -EPROTO;
    if (d->nodes.known > 0 && generation != d->nodes.generation)
        return -EAGAIN; /* not a picture of one moment */
    d->nodes.generation = generation;
    json_array_foreach(nodes, i, one) if (r >= 0) r = add(d, one);
    d->nodes.known += json_array_size(nodes);
    return r < 0 ? r : json_is_true(json_object_get(answer, "more"));
}

static void start(Coapd *d)
{
    d->nodes.known = 0;
    if (coapd_nodes_begin(d) < 0)
        finish(d);
    else
        ask(d);
}

static void on_reply(const char *reply, size_t size, int error, void *userdata)
{
    Coapd *d = userdata;
    json_t *answer;
    int r;

    d->nodes.question = NULL;
    if (error < 0) { /* the agent is away, and will be heard of; its keys stay until then */
        finish(d);
        return;
    }
    answer = json_loadb(reply, size, JSON_REJECT_DUPLICATES, NULL);
    r = take(d, answer);
    json_decref(answer);
    if (r == -EAGAIN) {
        start(d);
        return;
    }
    if (r == 1) {
        ask(d);
        return;
    }
    if (r < 0) {
        hybus_log_errno(LOG_ERR, r, "no keys of nodes: nobody gets in by one (security.psk)");
        r = coapd_nodes_begin(d);
    }
    if (r >= 0)
        coapd_nodes_commit(d);
    finish(d);
}

static void ask(Coapd *d)
{
    char text[64];
    int r;

    snprintf(text, sizeof(text), "{\"op\":\"psk\",\"after\":%zu}", d->nodes.known);
    r = hybus_agent_exchange(d->agent, text, on_reply, d, &d->nodes.question);
    if (r < 0)
        on_reply(NULL, 0, r, d);
}

void coapd_nodes_fetch(Coapd *d)
{
    hybus_agent_question_cancel(TAKE_PTR(d->nodes.question));
    start(d);
}

void coapd_nodes_init(void)
{
    json_set_alloc_funcs(malloc, wiping_free);
}
