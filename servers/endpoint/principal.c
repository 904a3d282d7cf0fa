/* SPDX-License-Identifier: Apache-2.0 */
#include "core.h"

#define USED_MAX UINT16_MAX
#define TOUCH_USEC (60u * 1000u * 1000u)

hybus_subject principal_subject(const principal *p)
{
    return (hybus_subject){.remote = true, .handle = p->handle};
}

int principal_get(endpoint_core *c, const hybus_principal *from, principal **ret)
{
    principal *p;

    list_for_each(n, &c->principals)
    {
        p = list_entry(n, principal, node);
        if (p->handle == from->handle && (p->handle == 0 || streq(p->name, from->name))) {
            p->refs++;
            p->expires = from->expires_usec;
            *ret = p;
            return 0;
        }
    }
    p = calloc(1, sizeof(*p));
    if (!p)
        return -ENOMEM;
    p->name = strdup(from->handle ? from->name : "anonymous");
    if (!p->name) {
        free(p);
        return -ENOMEM;
    }
    p->core = c;
    p->refs = 1;
    p->handle = from->handle;
    p->expires = from->expires_usec;
    list_init(&p->peers);
    list_append(&c->principals, &p->node);
    *ret = p;
    return 0;
}

static bool knows(const row_page *g, const permission *p)
{
    return p->since <= g->version;
}

static void report_used(row_page *g)
{
    endpoint_core *c = g->principal->core;
    hybus_subject subject = principal_subject(g->principal);
    permission_page *page = c->table.pages[g->index];

    for (uint32_t i = 0; i < HYBUS_AGENT_PERMISSIONS_MAX; i++) {
        /* What was counted for one that is gone is lost rather than put to another permission. */
        if (g->used[i] > 1 && page && page->permissions[i] && knows(g, page->permissions[i]))
            hybus_agent_used(c->agent, &subject, page->permissions[i]->name, g->used[i] - 1u);
        g->used[i] = 0;
    }
}

static void settled(row_page *g)
{
    if (g->settling) {
        g->settling = false;
        g->principal->core->settling--;
    }
}

static void page_free(row_page *g)
{
    if (g->asking) {
        hybus_agent_question_cancel(g->question);
        g->principal->core->rows_asked--;
    }
    settled(g);
    list_remove(&g->node);
    free(g->row);
    free(g);
}

void principal_unref(principal *p)
{
    if (!p || --p->refs > 0)
        return;
    for (size_t i = 0; i < LIMIT_PERMISSION_PAGES; i++)
        if (p->pages[i]) {
            report_used(p->pages[i]);
            page_free(p->pages[i]);
        }
    if (p->handle != 0)
        hybus_agent_release(p->core->agent, p->handle);
    list_remove(&p->node);
    free(p->name);
    free(p);
}

/* --- asking
 * -------------------------------------------------------------------------------------------- */

static void page_ready(row_page *g, int error)
{
    endpoint_core *c = g->principal->core;

    g->error = error;
    list_remove(&g->node);
    list_append(&c->rows_ready, &g->node);
    core_wake(c);
}

static void on_row(hybus_row *row, int error, void *userdata)
{
    row_page *g = userdata;

    g->asking = false;
    g->question = NULL;
    g->principal->core->rows_asked--;
    free(g->row);
    g->row = error < 0 ? NULL : row;
    g->version = g->asked_version;
    page_ready(g, error < 0 ? error : 0);
}

static void page_ask(row_page *g)
{
    endpoint_core *c = g->principal->core;
    permission_page *page = c->table.pages[g->index];
    const char *names[HYBUS_AGENT_PERMISSIONS_MAX];
    hybus_subject subject = principal_subject(g->principal);
    hybus_agent_question *q = NULL;
    int r;

    for (uint32_t i = 0; i < page->end;
         i++) /* holes keep the numbering: a name that nobody holds */
        names[i] = page->permissions[i] ? page->permissions[i]->name : "endpoint.none";
    if (page->end == 0)
        names[0] = "endpoint.none";
    g->asked_version = page->version;
    g->asking = true;
    c->rows_asked++;
    r = hybus_agent_row(c->agent, &subject, names, MAX_OF(page->end, 1u), on_row, g, &q);
    if (r < 0) {
        g->asking = false;
        c->rows_asked--;
        page_ready(g, r);
    } else if (g->asking)
        g->question = q;
}

static int page_want(principal *p, uint32_t index)
{
    endpoint_core *c = p->core;
    row_page *g = p->pages[index];

    if (!g) {
        g = p->pages[index] = calloc(1, sizeof(*g));
        if (!g)
            return -ENOMEM;
        g->principal = p;
        g->index = index;
        list_init(&g->node);
    }
    if (g->asking || !list_empty(&g->node))
        return 0;
    report_used(g);
    if (c->rows_asked >= LIMIT_ROWS_ASKED)
        list_append(&c->rows_queued, &g->node);
    else
        page_ask(g);
    return 0;
}

static bool page_current(row_page *g)
{
    return g->row && hybus_agent_row_current(g->principal->core->agent, g->row);
}

/* A session that is in use does not end. */
static void touch(principal *p)
{
    uint64_t now = timer_now();

    if (_likely_(p->touched && now - p->touched < TOUCH_USEC))
        return;
    p->touched = now;
    hybus_agent_touch(p->core->agent, p->handle);
}

int principal_allows(principal *p, const permission *needed, bool count)
{
    row_page *g = p->pages[needed->page];

    if (_unlikely_(!g || !page_current(g) || !knows(g, needed))) {
        int r = page_want(p, needed->page);
        return r < 0 ? r : -EAGAIN;
    }
    if (!hybus_row_bit(g->row, needed->bit))
        return 0;
    if (count && p->handle != 0)
        touch(p);
    if (count) {
        uint16_t *used = &g->used[needed->bit];
        if (_unlikely_(*used == 0 || *used == USED_MAX)) {
            hybus_subject subject = principal_subject(p);
            hybus_agent_used(p->core->agent, &subject, needed->name, *used ? *used : 1u);
            *used = 1;
        }
        (*used)++;
    }
    return 1;
}

void principal_prefetch(principal *p)
{
    if (!p->pages[0] || !page_current(p->pages[0]))
        page_want(p, 0);
}

/* --- answers
 * --------------------------------------------------------------------------------------------- */

static bool is_passing(int error)
{
    return error == -ENOKEY || error == -ENOBUFS || error == -ETIMEDOUT || error == -ENOMEM ||
           error == -ENOTCONN || error == -ECONNRESET || error == -EAGAIN;
}

static void tell_peers(principal *p, int error)
{
    list todo;

    p->refs++;
    list_move_all(&p->peers, &todo);
    while (!list_empty(&todo)) {
        endpoint_peer *peer = list_entry(todo.next, endpoint_peer, principal_node);
        list_remove(&peer->principal_node);
        list_append(&p->peers, &peer->principal_node);
        peer_ref(peer);
        if (error < 0 && p->handle != 0 && !is_passing(error) && peer->rechecks++ < 3)
            peer_check(peer); /* the agent has forgotten the handle, or ended it */
        else {
            if (error == 0)
                peer->rechecks = 0;
            peer_rows_ready(peer, error);
        }
        peer_unref(peer);
    }
    principal_unref(p);
}

static void page_answered(row_page *g)
{
    principal *p = g->principal;

    if (g->error == 0 && !page_current(g) && g->tries < 8) {
        g->tries++; /* overtaken by another change */
        page_want(p, g->index);
        return;
    }
    if (g->error == 0 && !page_current(g))
        g->error = -ENOKEY;
    g->tries = 0;
    p->refs++;
    tell_peers(p, g->error);
    settled(g);
    principal_unref(p);
}

void principals_turn(endpoint_core *c)
{
    list ready;

    list_move_all(&c->rows_ready, &ready);
    while (!list_empty(&ready)) {
        row_page *g = list_entry(ready.next, row_page, node);
        list_remove(&g->node);
        page_answered(g);
    }
    while (!list_empty(&c->rows_queued) && c->rows_asked < LIMIT_ROWS_ASKED) {
        row_page *g = list_entry(c->rows_queued.next, row_page, node);
        list_remove(&g->node);
        page_ask(g);
    }
    if (c->settle && c->settling == 0 && list_empty(&c->rows_ready)) {
        c->settle = false;
        hybus_agent_settled(c->agent, core_agent_changed, c, c->settle_generation);
    }
}

/* The policy has moved: every row that no longer holds is asked for again, and what hangs on it is
 * judged again before this generation is called settled. */
void principals_changed(endpoint_core *c)
{
    list_for_each(n, &c->principals)
    {
        principal *p = list_entry(n, principal, node);
        for (uint32_t i = 0; i < LIMIT_PERMISSION_PAGES; i++) {
            row_page *g = p->pages[i];
            if (!g || (page_current(g) && !g->asking && list_empty(&g->node)))
                continue;
            if (!g->settling) {
                g->settling = true;
                c->settling++;
            }
            page_want(p, i);
        }
    }
    core_wake(c);
}
