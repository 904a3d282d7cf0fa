/* SPDX-License-Identifier: Apache-2.0 */
/* The pages that the server answers itself are judged like any other: by the row of the exchange's
 * principal. A refusal is judged once more by h-securityd, so that it is on record. */

#include "http.h"

static const char *const permissions[] = {
    [HTTP_PAGE_METRICS] = "server.read",
    [HTTP_PAGE_FILES] = "endpoint.read:/",
};

static hybus_subject subject_of(const HttpExchange *x)
{
    return (hybus_subject){.remote = true, .handle = endpoint_peer_handle(x->peer->peer)};
}

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
    if (v->allowed) { /* the policy has moved: the next attempt is judged by a fresh row */
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
    hybus_subject s = subject_of(x);
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
    else
        http_exchange_problem(x, 503, 1000000u);
}

void http_permit(HttpExchange *x, http_page page, void (*allowed)(HttpExchange *x))
{
    hybus_agent *agent = x->connection->http->agent;
    hybus_agent_question *question = NULL;
    hybus_subject s = subject_of(x);

    x->page = page;
    x->permitted = allowed;
    if (!agent) {
        http_exchange_problem(x, 503, 1000000u);
    } else if (x->peer->row && hybus_agent_row_current(agent, x->peer->row)) {
        decide(x);
    } else {
        x->asking = true;
        asked(x,
              hybus_agent_row(agent, &s, permissions, ELEMENTS(permissions), on_row, x, &question),
              question);
    }
}
