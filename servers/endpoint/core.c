/* SPDX-License-Identifier: Apache-2.0 */
#include <sys/random.h>

#include "core.h"

#define TURNS_MAX 16

static void set_default(void *field, uint64_t value)
{
    uint64_t *n = field;
    if (*n == 0)
        *n = value;
}

void endpoint_core_configure(endpoint_core *c, const endpoint_settings *s)
{
    endpoint_settings n = *s;

    _Static_assert(sizeof(size_t) == sizeof(uint64_t), "settings are 64 bits wide each");
    set_default(&n.deadline_usec, 30u * 1000u * 1000u);
    set_default(&n.requests_max, 4096);
    set_default(&n.requests_peer_max, 256);
    set_default(&n.responder_max, 1024);
    set_default(&n.body_max, 8u * 1024u * 1024u);
    set_default(&n.watches_max, 1024);
    set_default(&n.watches_peer_max, 64);
    set_default(&n.values_max, 1024);
    set_default(&n.value_size_max, 65536);
    c->settings = n;
}

void core_wake(endpoint_core *c)
{
    c->again = true;
    if (!c->flushing && !c->freeing)
        sd_event_source_set_enabled(c->flush_source, SD_EVENT_ONESHOT);
}

static void reap(endpoint_core *c)
{
    while (!list_empty(&c->dead_links))
        link_free(list_entry(c->dead_links.next, link_t, dead_node));
}

static void flush_wires(endpoint_core *c)
{
    list dirty;

    list_move_all(&c->dirty_wires, &dirty);
    while (!list_empty(&dirty))
        wire_flush(list_entry(dirty.next, wire, dirty_node));
    list_for_each(n, &c->links)
    {
        link_t *l = list_entry(n, link_t, node);
        if (l->goaway && l->open == 0 && hybus_frame_queue_pending(&l->wire.out) == 0) {
            link_close(l, 0);
            break; /* the list has changed; the next turn looks again */
        }
    }
}

/* What the callbacks of this turn left to do. Each step may call servers, and these the core again.
 */
static void turn(endpoint_core *c)
{
    if (c->table_dirty) {
        c->table_dirty = false;
        watch_table_changed(c);
    }
    bus_turn(c);
    principals_turn(c);
    watch_turn(c);
    resume_turn(c);
    flush_wires(c);
}

void endpoint_core_flush(endpoint_core *c)
{
    if (c->flushing)
        return;
    c->flushing = true;
    for (int i = 0; c->again && i < TURNS_MAX; i++) {
        c->again = false;
        turn(c);
    }
    c->flushing = false;
    reap(c);
    sd_event_source_set_enabled(c->flush_source, c->again ? SD_EVENT_ONESHOT : SD_EVENT_OFF);
}

static int on_flush(sd_event_source *s, void *userdata)
{
    endpoint_core_flush(userdata);
    return 0;
}

void core_agent_changed(hybus_agent *a, uint64_t generation, void *userdata)
{
    endpoint_core *c = userdata;

    c->settle = true;
    c->settle_generation = generation;
    principals_changed(c);
}

static int core_open(endpoint_core *c, const endpoint_options *o)
{
    permission *first;
    int r;

    c->server = strdup(o->server);
    c->protocol = strdup(o->protocol);
    if (!c->server || !c->protocol)
        return -ENOMEM;
    if (getrandom(&c->id_prefix, sizeof(c->id_prefix), 0) != sizeof(c->id_prefix))
        return -EIO;
    r = sd_event_add_defer(c->event, &c->flush_source, on_flush, c);
    if (r >= 0)
        r = sd_event_source_set_enabled(c->flush_source, SD_EVENT_OFF);
    if (r >= 0)
        r = timers_init(&c->timers, c->event);
    /* A row always has something to ask for, so that every principal has one. */
    if (r >= 0)
        r = permission_get(&c->table, "endpoint.list", &first);
    if (r >= 0)
        r = hybus_agent_add_changed(c->agent, core_agent_changed, c);
    if (r >= 0 && c->listen_fd >= 0)
        r = link_listen(c);
    if (r >= 0)
        r = registrar_init(&c->registrar, c,
                           o->registrar_path ? o->registrar_path : CHANNEL_REGISTRAR_SOCKET);
    return r;
}

int endpoint_core_new(const endpoint_options *o, endpoint_core **ret)
{
    _cleanup_(endpoint_core_freep) endpoint_core *c = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return -ENOMEM;
    c->event = sd_event_ref(o->event);
    c->bus = o->bus ? sd_bus_ref(o->bus) : NULL;
    c->agent = o->agent;
    c->listen_fd = o->listen_fd;
    c->registrar.wire.fd = -1;
    table_init(&c->table);
    list *lists[] = {&c->owners,      &c->links,       &c->dead_links,   &c->dirty_wires,
                     &c->peers,       &c->principals,  &c->rows_queued,  &c->rows_ready,
                     &c->spare,       &c->all_topics,  &c->dirty_topics, &c->recent_values,
                     &c->bus_queues,  &c->bus_lost,    &c->bus_tellings, &c->untold_topics,
                     &c->resume_todo, &c->resume_asked};
    for (size_t i = 0; i < ELEMENTS(lists); i++)
        list_init(lists[i]);
    endpoint_core_configure(c, &o->settings);
    r = core_open(c, o);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(c);
    return 0;
}

int endpoint_core_of_daemon(hybus_daemon *d, const char *server, const char *protocol,
                            int listen_fd, const endpoint_settings *settings, endpoint_core **ret)
{
    const endpoint_options options = {.server = server,
                                      .protocol = protocol,
                                      .event = hybus_daemon_event(d),
                                      .bus = hybus_daemon_bus(d),
                                      .agent = hybus_daemon_agent(d),
                                      .listen_fd = listen_fd,
                                      .settings = *settings};

    return endpoint_core_new(&options, ret);
}

/* Peers, requests and watches are the server's and have been freed; the agent must not be
 * dispatched any more, since it knows us by pointer. */
void endpoint_core_free(endpoint_core *c)
{
    if (!c)
        return;
    c->freeing = true;
    hybus_agent_remove_changed(c->agent, core_agent_changed, c);
    registrar_done(&c->registrar);
    while (!list_empty(&c->links))
        link_close(list_entry(c->links.next, link_t, node), 0);
    reap(c);
    bus_done(c);
    watch_done(c);
    table_done(&c->table);
    while (!list_empty(&c->spare)) {
        endpoint_request *r = list_entry(c->spare.next, endpoint_request, peer_node);
        list_remove(&r->peer_node);
        free(r);
    }
    timers_done(&c->timers);
    sd_event_source_disable_unref(c->flush_source);
    sd_event_source_disable_unref(c->listen_source);
    safe_close(c->listen_fd);
    sd_bus_unref(c->bus);
    sd_event_unref(c->event);
    free(c->server);
    free(c->protocol);
    free(c);
}

void endpoint_core_drain(endpoint_core *c)
{
    c->draining = true;
    list_for_each(n, &c->links) link_goaway(list_entry(n, link_t, node));
}

size_t endpoint_core_open_requests(const endpoint_core *c)
{
    return c->open;
}

bool endpoint_core_has(const endpoint_core *c, const char *path)
{
    return table_match(&c->table, path) != NULL;
}

void endpoint_core_statistics(const endpoint_core *c, endpoint_statistics *ret)
{
    *ret = c->statistics;
    ret->open_requests = c->open;
    ret->namespaces = c->table.n_entries;
    ret->responders = 0;
    list_for_each(n, &c->table.entries)
    {
        const entry *e = list_entry(n, entry, node);
        ret->responders += e->attachment || e->d.road == ROAD_BUS;
    }
}
