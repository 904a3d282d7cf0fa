/* SPDX-License-Identifier: Apache-2.0 */
#include "core.h"

static void connection_done(hybus_connection *n)
{
    free((char *)n->protocol);
    free((char *)n->peer);
    free((char *)n->local);
    free((char *)n->tls);
    free((char *)n->cert_sha256);
    wipe_free((char *)n->bearer);
    free((char *)n->node);
    free((char *)n->node_key);
    *n = (hybus_connection){};
}

static int copy(const char *from, const char **to)
{
    *to = from ? strdup(from) : NULL;
    return from && !*to ? -ENOMEM : 0;
}

static int connection_copy(const hybus_connection *from, hybus_connection *to)
{
    int r = copy(from->protocol, &to->protocol) | copy(from->peer, &to->peer) |
            copy(from->local, &to->local) | copy(from->tls, &to->tls) |
            copy(from->cert_sha256, &to->cert_sha256) | copy(from->bearer, &to->bearer) |
            copy(from->node, &to->node) | copy(from->node_key, &to->node_key);

    return r ? -ENOMEM : 0;
}

void peer_ref(endpoint_peer *p)
{
    p->refs++;
}

void peer_unref(endpoint_peer *p)
{
    if (--p->refs > 0)
        return;
    connection_done(&p->connection);
    free(p);
}

static void peer_unbind(endpoint_peer *p)
{
    list_remove(&p->principal_node);
    principal_unref(TAKE_PTR(p->principal));
}

static void peer_settled(endpoint_peer *p)
{
    if (p->settling) {
        p->settling = false;
        p->core->settling--;
        core_wake(p->core);
    }
}

static void cut_all(endpoint_peer *p, unsigned status, const char *detail)
{
    list todo;

    list_move_all(&p->requests, &todo);
    while (!list_empty(&todo)) {
        endpoint_request *r = list_entry(todo.next, endpoint_request, peer_node);
        list_remove(&r->peer_node);
        list_append(&p->requests, &r->peer_node);
        request_fail(r, status, detail);
    }
    list_move_all(&p->watches, &todo);
    while (!list_empty(&todo)) {
        endpoint_watch *w = list_entry(todo.next, endpoint_watch, peer_node);
        list_remove(&w->peer_node);
        list_append(&p->watches, &w->peer_node);
        watch_end(w, status, detail);
    }
}

static void check_failed(endpoint_peer *p, int error)
{
    p->state = PEER_BAD;
    p->error = error;
    peer_unbind(p);
    if (error == -EKEYREJECTED || error == -EACCES)
        cut_all(p, error == -EACCES ? 403 : 401, "This connection is no longer admitted.");
    else
        cut_all(p, 503, "The policy agent is away.");
}

static void on_checked(const hybus_principal *from, int error, uint64_t retry_after_usec,
                       void *userdata)
{
    endpoint_peer *p = userdata;
    bool again = p->told;

    p->asking = false;
    p->question = NULL;
    peer_ref(p);
    if (error >= 0) {
        principal *bound;
        error = principal_get(p->core, from, &bound);
        if (error >= 0) {
            peer_unbind(p);
            p->principal = bound;
            list_append(&bound->peers, &p->principal_node);
            p->state = PEER_GOOD;
            p->error = 0;
        }
    }
    if (error < 0)
        check_failed(p, error);
    else {
        principal_prefetch(p->principal);
        /* What has not waited for the check, and what is decided by the row of a new handle. */
        peer_rows_ready(p, 0);
    }
    peer_settled(p);
    p->told = true;
    if (!p->gone && !again)
        p->ops->checked(p, error, retry_after_usec, p->userdata);
    else if (!p->gone && error < 0 && p->ops->revoked)
        p->ops->revoked(p, p->userdata);
    peer_unref(p);
}

void peer_check(endpoint_peer *p)
{
    hybus_agent_question *q = NULL;
    int r;

    if (p->asking || p->gone)
        return;
    p->asking = true;
    if (p->told && p->core->settle && !p->settling) {
        p->settling = true;
        p->core->settling++;
    }
    p->state = PEER_CHECKING;
    r = hybus_agent_check_connection(p->core->agent, &p->connection, on_checked, p, &q);
    if (r < 0)
        on_checked(NULL, r, 0, p);
    else if (p->asking)
        p->question = q;
}

static void recheck_all(endpoint_peer *p)
{
    list todo;

    list_move_all(&p->requests, &todo);
    while (!list_empty(&todo)) {
        endpoint_request *r = list_entry(todo.next, endpoint_request, peer_node);
        list_remove(&r->peer_node);
        list_append(&p->requests, &r->peer_node);
        request_recheck(r);
    }
    list_move_all(&p->watches, &todo);
    while (!list_empty(&todo)) {
        endpoint_watch *w = list_entry(todo.next, endpoint_watch, peer_node);
        list_remove(&w->peer_node);
        list_append(&p->watches, &w->peer_node);
        watch_decide(w);
    }
}

/* The rows of its principal are there (or, with an error, are not to be had): what waited for them
 * is decided from scratch, what is open is judged again. */
void peer_rows_ready(endpoint_peer *p, int error)
{
    list waiting;

    if (p->gone || p->state != PEER_GOOD)
        return;
    peer_ref(p);
    if (error == 0)
        recheck_all(p);
    else {
        list todo;
        list_move_all(&p->watches, &todo);
        while (!list_empty(&todo)) {
            endpoint_watch *w = list_entry(todo.next, endpoint_watch, peer_node);
            list_remove(&w->peer_node);
            list_append(&p->watches, &w->peer_node);
            if (!w->started && !w->ended)
                watch_end(w, 503, "The policy agent is away.");
        }
    }
    list_move_all(&p->waiting, &waiting);
    while (!list_empty(&waiting)) {
        endpoint_request *r = list_entry(waiting.next, endpoint_request, wait_node);
        list_remove(&r->wait_node);
        if (error == 0)
            request_decide_saved(r);
        else
            request_fail(r, 503, "The policy agent is away.");
    }
    peer_unref(p);
}

static int peer_alloc(endpoint_core *c, const hybus_connection *connection,
                      const endpoint_peer_ops *ops, void *userdata, endpoint_peer **ret)
{
    endpoint_peer *p = calloc(1, sizeof(*p));
    int r;

    if (!p)
        return -ENOMEM;
    r = connection_copy(connection, &p->connection);
    if (r < 0) {
        connection_done(&p->connection);
        free(p);
        return r;
    }
    p->core = c;
    p->ops = ops;
    p->userdata = userdata;
    p->refs = 1;
    p->error = -ENOKEY;
    list_init(&p->principal_node);
    list_init(&p->requests);
    list_init(&p->watches);
    list_init(&p->waiting);
    list_append(&c->peers, &p->node);
    c->statistics.peers++;
    *ret = p;
    return 0;
}

int endpoint_peer_new(endpoint_core *c, const hybus_connection *connection,
                      const endpoint_peer_ops *ops, void *userdata, endpoint_peer **ret)
{
    int r = peer_alloc(c, connection, ops, userdata, ret);

    if (r >= 0)
        peer_check(*ret);
    return r;
}

int endpoint_peer_new_like(const endpoint_peer *like, const hybus_connection *connection,
                           const endpoint_peer_ops *ops, void *userdata, endpoint_peer **ret)
{
    endpoint_peer *p;
    int r;

    if (like->state != PEER_GOOD || !endpoint_peer_anonymous(like))
        return -EAGAIN;
    r = peer_alloc(like->core, connection, ops, userdata, &p);
    if (r < 0)
        return r;
    p->principal = like->principal;
    p->principal->refs++;
    list_append(&p->principal->peers, &p->principal_node);
    p->state = PEER_GOOD;
    p->error = 0;
    p->told = true;
    *ret = p;
    return 0;
}

void endpoint_peer_free(endpoint_peer *p)
{
    if (!p || p->gone)
        return;
    p->gone = true;
    if (p->asking)
        hybus_agent_question_cancel(p->question);
    peer_settled(p);
    peer_unbind(p);
    list_remove(&p->node);
    p->core->statistics.peers--;
    peer_unref(p);
}

const char *endpoint_peer_principal(const endpoint_peer *p)
{
    return p->principal ? p->principal->name : "";
}

bool endpoint_peer_anonymous(const endpoint_peer *p)
{
    return !p->principal || p->principal->handle == 0;
}

uint64_t endpoint_peer_handle(const endpoint_peer *p)
{
    return p->principal ? p->principal->handle : 0;
}

/* Twice over the table: nothing is told before everything is known. */
int endpoint_peer_list(endpoint_peer *p, void (*each)(const endpoint_listing *l, void *userdata),
                       void *userdata)
{
    list *entries = &p->core->table.entries;
    int result = 0;

    if (p->state != PEER_GOOD)
        return p->state == PEER_CHECKING ? -EAGAIN : -ENOKEY;
    list_for_each(n, entries)
    {
        const entry *e = list_entry(n, entry, node);
        int k = principal_allows(p->principal, entry_permission(e, "GET", e->namespace), false);

        if (k < 0 && result != -ENOKEY)
            result = k == -EAGAIN ? -EAGAIN : -ENOKEY;
    }
    if (result < 0)
        return result;
    list_for_each(n, entries)
    {
        const entry *e = list_entry(n, entry, node);
        endpoint_listing l = {.namespace = e->namespace, .title = e->d.title, .attributes = e->d.attributes};

        if (principal_allows(p->principal, entry_permission(e, "GET", e->namespace), false) > 0)
            each(&l, userdata);
    }
    return 0;
}
