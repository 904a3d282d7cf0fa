/* SPDX-License-Identifier: Apache-2.0 */
/* The pages that the server answers itself are judged like any other: by the row of the exchange's
 * principal. A refusal is judged once more by h-securityd, so that it is on record. */

#include "http.h"

#include <hybus/log.h>

#define OVERTAKEN_MAX 8u /* rows that another change has made void before they came */

static const char *const permissions[] = {
    [HTTP_PAGE_METRICS] = "server.read",
    [HTTP_PAGE_FILES] = "endpoint.read:/",
};

static hybus_subject subject_of(const HttpPeer *p)
{
    return (hybus_subject){.remote = true, .handle = endpoint_peer_handle(p->peer)};
}

static void ask_row(HttpExchange *x);

static void on_verdict(const hybus_verdict *v, int error, void *userdata)
{
    HttpExchange *x = userdata;
    char body[512], audit[64] = "";
    unsigned status;
    int n;

    x->asking = false;
    x->question = NULL;
    if (error < 0) {
        http_exchange_problem(x, 503, 1000000u);
        return;
    }
    if (v->allowed) { /* the policy has moved */
        if (x->overtaken++ < OVERTAKEN_MAX)
            ask_row(x);
        else
            http_exchange_problem(x, 503, 1000000u);
        return;
    }
    status = endpoint_peer_anonymous(x->peer->peer) ? 401 : 403;
    n = snprintf(body, sizeof(body), "{\"title\":\"%s\",\"status\":%u,\"audit\":\"%s\"}\n",
                 http_reason(status), status,
                 http_escape((http_span){strempty(v->audit), strlen(strempty(v->audit))}, audit,
                             sizeof(audit)));
    http_reply_start(x, status);
    if (status == 401)
        http_reply_header(x, "www-authenticate", "Bearer");
    http_reply_body(x, "application/problem+json", body, (size_t)n);
}

/* The answer may have come already, from within the question. */
static void asked(HttpExchange *x, int r, hybus_agent_question *question)
{
    if (r < 0) {
        x->asking = false;
        http_exchange_problem(x, 503, 1000000u);
    } else if (x->asking) {
        x->question = question;
    }
}

static void refuse(HttpExchange *x)
{
    hybus_agent_question *question = NULL;
    hybus_subject s = subject_of(x->peer);
    hybus_call call = {.permission = permissions[x->page],
                       .interface = "org.hybridos.Http1",
                       .member = "GET",
                       .path = x->path,
                       .kind = HYBUS_MEMBER_METHOD};

    x->asking = true;
    asked(x, hybus_agent_judge(x->connection->http->agent, &s, &call, on_verdict, x, &question),
          question);
}

static void decide(HttpExchange *x)
{
    if (hybus_row_bit(x->peer->row, x->page))
        x->permitted(x);
    else
        refuse(x);
}

static void on_row(hybus_row *row, int error, void *userdata);

static void ask_row(HttpExchange *x)
{
    hybus_agent_question *question = NULL;
    hybus_subject s = subject_of(x->peer);
    int r;

    x->asking = true;
    r = hybus_agent_row(x->connection->http->agent, &s, permissions, ELEMENTS(permissions), on_row,
                        x, &question);
    asked(x, r, question);
}

static void on_row(hybus_row *row, int error, void *userdata)
{
    HttpExchange *x = userdata;

    x->asking = false;
    x->question = NULL;
    if (error < 0) {
        http_exchange_problem(x, 503, 1000000u);
        return;
    }
    free(x->peer->row);
    x->peer->row = row;
    if (hybus_agent_row_current(x->connection->http->agent, row))
        decide(x);
    else if (x->overtaken++ < OVERTAKEN_MAX)
        ask_row(x);
    else
        http_exchange_problem(x, 503, 1000000u);
}

void http_permit(HttpExchange *x, http_page page, void (*allowed)(HttpExchange *x))
{
    hybus_agent *agent = x->connection->http->agent;

    x->page = page;
    x->permitted = allowed;
    if (!agent)
        http_exchange_problem(x, 503, 1000000u);
    else if (x->peer->row && hybus_agent_row_current(agent, x->peer->row))
        decide(x);
    else
        ask_row(x);
}

/* --- when the policy moves ----------------------------------------------------------------------
 */

static void on_changed(hybus_agent *agent, uint64_t generation, void *userdata);

static void settle(Http *h)
{
    if (!h->settling || h->rejudging > 0)
        return;
    h->settling = false;
    hybus_agent_settled(h->agent, on_changed, h, h->settling_generation);
}

void http_permit_leave(HttpPeer *p)
{
    Http *h = p->connection->http;

    if (!p->rejudging)
        return;
    hybus_agent_question_cancel(p->question);
    p->question = NULL;
    p->rejudging = false;
    h->rejudging--;
    settle(h);
}

static bool serves_file(const HttpPeer *p)
{
    for (const HttpExchange *x = p->connection->exchanges; x; x = x->next)
        if (x->peer == p && x->file)
            return true;
    return false;
}

/* While the agent is away nothing is taken from anybody; it will be back, and this asked again. */
static bool is_away(int error)
{
    return error == -ENOKEY || error == -ENOTCONN || error == -ECONNRESET;
}

static void ask_again(HttpPeer *p);

static void on_row_again(hybus_row *row, int error, void *userdata)
{
    HttpPeer *p = userdata;
    Http *h = p->connection->http;

    p->question = NULL;
    p->rejudging = false;
    h->rejudging--;
    if (error >= 0) {
        free(p->row);
        p->row = row;
    }
    if (error >= 0 && !hybus_agent_row_current(h->agent, row) && p->overtaken++ < OVERTAKEN_MAX)
        ask_again(p);
    else if (error >= 0 ? !hybus_row_bit(row, HTTP_PAGE_FILES) : !is_away(error))
        http_peer_cut(p, true);
    settle(h);
}

static void ask_again(HttpPeer *p)
{
    Http *h = p->connection->http;
    hybus_subject s = subject_of(p);

    p->rejudging = true;
    h->rejudging++;
    if (hybus_agent_row(h->agent, &s, permissions, ELEMENTS(permissions), on_row_again, p,
                        &p->question) < 0)
        on_row_again(NULL, -ENOBUFS, p);
}

/* What is on its way is judged again before the agent hears that nothing is left. */
static void on_changed(hybus_agent *agent, uint64_t generation, void *userdata)
{
    Http *h = userdata;

    if (http_tls_is_stale(h) && http_load_certificates(h, h->settings) < 0)
        hybus_error("the certificates cannot be loaded: new connections use what was there before");
    h->settling = true;
    h->settling_generation = generation;
    h->rejudging++; /* nothing settles before all have been asked */
    for (HttpConnection *c = h->connections; c; c = c->next)
        for (HttpPeer *p = c->peers; p; p = p->next) {
            p->overtaken = 0;
            if (!p->rejudging && serves_file(p))
                ask_again(p);
        }
    h->rejudging--;
    settle(h);
}

int http_permit_follow(Http *h)
{
    return hybus_agent_add_changed(h->agent, on_changed, h);
}

void http_permit_unfollow(Http *h)
{
    hybus_agent_remove_changed(h->agent, on_changed, h);
}
