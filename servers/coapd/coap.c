/* SPDX-License-Identifier: Apache-2.0 */
/* The server as a whole: settings, the library's context, and its place in the loop. The library's
 * epoll descriptor, which has its timer in it, stands in sd-event. */

#include "coap-connection.h"
#include "coap-node.h"

#include <hybus/log.h>
#include <openssl/rand.h>
#include <sys/epoll.h>
#include <time.h>

#define SETTING(section, key, type, field, value, ...)                                             \
    {                                                                                              \
        section, key, HYBUS_SETTING_##type, offsetof(coapd_settings, field), value, __VA_ARGS__    \
    }

const hybus_setting coapd_setting_table[] = {
    SETTING("listen", "Udp", STRINGS, udp, "5683", 0, 0),
    SETTING("listen", "Tcp", STRINGS, tcp, "5683", 0, 0),
    SETTING("listen", "Dtls", STRINGS, dtls, "5684", 0, 0),
    SETTING("listen", "Tls", STRINGS, tls, "5684", 0, 0),
    SETTING("listen", "Scope", STRING, scope, "claimed", 0, 0),
    SETTING("limits", "Sessions", UINT, sessions, "1024", 8, 65536),
    SETTING("limits", "Requests", UINT, requests, "1024", 8, 65536),
    SETTING("limits", "RequestsPerSession", UINT, requests_session, "16", 1, 1024),
    SETTING("limits", "Observers", UINT, observers, "1280", 8, 65536),
    SETTING("limits", "ObserversPerSession", UINT, observers_session, "16", 1, 1024),
    SETTING("limits", "Connections", UINT, connections, "256", 8, 4096),
    SETTING("limits", "ConnectionsReserved", UINT, connections_reserved, "32", 1, 4095),
    SETTING("limits", "ConnectionsPerAddress", UINT, connections_address, "64", 1, 4096),
    SETTING("limits", "Handshakes", UINT, handshakes, "64", 1, 4096),
    SETTING("limits", "Body", BYTES, body, "1M", 1024, 31u << 20),
    SETTING("timeouts", "Deadline", SECONDS, deadline, "30s", 100000, 3600000000u),
    SETTING("timeouts", "Acknowledge", SECONDS, acknowledge, "500ms", 100000, 1900000),
    SETTING("timeouts", "Handshake", SECONDS, handshake, "20s", 1000000, 120000000u),
    SETTING("timeouts", "Idle", SECONDS, idle, "300s", 10000000, 86400000000u),
    SETTING("abuse", "Verify", STRING, verify, "remote", 0, 0),
    SETTING("convert", "Requests", BOOL, convert, "yes", 0, 0),
    SETTING("nodes", "Nodes", UINT, nodes, "64", 0, DIRECTORY_NODES_MAX),
    SETTING("nodes", "NodesPerClient", UINT, nodes_owner, "8", 1, DIRECTORY_NODES_MAX),
    SETTING("nodes", "Links", UINT, node_links, "64", 1, 1024),
    SETTING("nodes", "LinkBytes", BYTES, node_link_bytes, "16K", 256, 256u << 10),
    SETTING("nodes", "Lifetime", SECONDS, node_lifetime, "2592000s", 60000000, 2592000000000u),
    SETTING("nodes", "Loopback", BOOL, node_loopback, "no", 0, 0),
    SETTING("nodes", "Timeout", SECONDS, node_timeout, "10s", 100000, 3600000000u),
    SETTING("nodes", "Stale", SECONDS, node_stale, "86400s", 0, 2592000000000u),
    SETTING("nodes", "Cache", BYTES, node_cache, "1M", 0, 64u << 20),
    SETTING("observe", "Confirm", SECONDS, confirm, "60s", 1000000, 86400000000u),
    {},
};

void coapd_settings_to_core(const coapd_settings *s, endpoint_settings *ret)
{
    *ret = (endpoint_settings){.deadline_usec = s->deadline,
                               .body_max = s->body,
                               .requests_max = s->requests,
                               .requests_peer_max = s->requests_session,
                               .watches_max = s->observers,
                               .watches_peer_max = s->observers_session};
}

/* --- what the library tells ---------------------------------------------------------------------
 */

static int on_event(coap_session_t *session, const coap_event_t event)
{
    CoapdSession *s = coap_session_get_app_data(session);

    if (!s)
        return 0;
    switch (event) {
    case COAP_EVENT_SERVER_SESSION_DEL:
        coapd_session_forget(s);
        break;
    case COAP_EVENT_DTLS_CLOSED:
    case COAP_EVENT_DTLS_ERROR:
    case COAP_EVENT_TCP_CLOSED:
    case COAP_EVENT_TCP_FAILED:
    case COAP_EVENT_SESSION_CLOSED:
    case COAP_EVENT_SESSION_FAILED:
        coapd_session_end(s);
        break;
    default:
        break;
    }
    return 0;
}

static void on_nack(coap_session_t *session, const coap_pdu_t *sent,
                    const coap_nack_reason_t reason, const coap_mid_t mid)
{
    CoapdSession *s = coap_session_get_app_data(session);

    if (!s || reason == COAP_NACK_ICMP_ISSUE)
        return;
    coapd_session_hold(s);
    coapd_observer_lost(s, mid, reason == COAP_NACK_RST);
    coapd_upstream_failed(s, mid, reason != COAP_NACK_TOO_MANY_RETRIES);
    coapd_session_release(s);
}

/* --- the loop -----------------------------------------------------------------------------------
 */

/* The library measures by the clock that people set: a jump forward would end every session and
 * send every confirmable message again at once, a jump back stop both. It asks for its ticks
 * through the dynamic linker, so that this function takes the place of its own. */
__attribute__((visibility("default"))) void coap_ticks(coap_tick_t *t)
{
    struct timespec now;

    clock_gettime(CLOCK_BOOTTIME, &now);
    *t = (coap_tick_t)now.tv_sec * COAP_TICKS_PER_SECOND +
         (coap_tick_t)now.tv_nsec / (1000000000u / COAP_TICKS_PER_SECOND);
}

/* The library disarms its own timer when what is due next has become due while it was looking: with
 * some hundred sessions that is soon the case, and nothing is repeated or given up any more until
 * something else comes. So it is asked when it wants to be called, and called. */
static void keep_time(Coapd *d)
{
    coap_tick_t now;
    unsigned milliseconds;

    coap_ticks(&now);
    milliseconds = coap_io_prepare_epoll(d->context, now);
    if (milliseconds > 0)
        timer_start(&d->timers, TIMERS_SHORT, &d->library, timer_now() + milliseconds * 1000ull);
    else
        timer_stop(&d->library);
}

static void on_library(endpoint_timer *t)
{
    keep_time(list_entry(t, Coapd, library));
}

/* Not each turn: it looks at all sessions. */
static void keep_time_soon(Coapd *d)
{
    uint64_t soon = timer_now() + COAPD_LIBRARY_USEC;

    if (list_empty(&d->library.node) || d->library.when > soon)
        timer_start(&d->timers, TIMERS_SHORT, &d->library, soon);
}

bool coapd_read(Coapd *d)
{
    struct epoll_event events[16];
    int fd = coap_context_get_coap_fd(d->context), i;

    /* The library reads one datagram of each socket at a time. */
    for (i = 0; i < COAPD_EVENTS_PER_TURN; i++) {
        int n = epoll_wait(fd, events, ELEMENTS(events), 0);

        if (n <= 0)
            break;
        if (d->n_observers > 0 || d->n_upstream > 0)
            coapd_peek(d);
        coap_io_do_epoll(d->context, events, (size_t)n);
    }
    keep_time_soon(d);
    return i < COAPD_EVENTS_PER_TURN;
}

static int on_io(sd_event_source *source, int fd, uint32_t revents, void *userdata)
{
    (void)coapd_read(userdata);
    return 0;
}

/* --- life ---------------------------------------------------------------------------------------
 */

static void on_policy_changed(hybus_agent *agent, uint64_t generation, void *userdata)
{
    Coapd *d = userdata;

    d->settle_generation = generation;
    d->unsettled = COAPD_SETTLE_KEYS | COAPD_SETTLE_NODES;
    coapd_exchanges_recheck(d);
    coapd_strangers_check(d);
    coapd_nodes_fetch(d);
    coapd_rd_recheck(d);
}

void coapd_policy_settled(Coapd *d, unsigned part)
{
    if (!(d->unsettled & part))
        return;
    d->unsettled &= ~part;
    if (d->unsettled == 0)
        hybus_agent_settled(d->agent, on_policy_changed, d, d->settle_generation);
}

directory_limits coapd_directory_limits(const coapd_settings *s)
{
    return (directory_limits){.nodes = s->nodes,
                              .nodes_owner = s->nodes_owner,
                              .links = s->node_links,
                              .link_bytes = s->node_link_bytes,
                              .lifetime_max = (uint32_t)(s->node_lifetime / 1000000u)};
}

static void apply(Coapd *d)
{
    const coapd_settings *s = d->settings;

    coap_context_set_max_idle_sessions(d->context, (unsigned)s->sessions);
    coap_context_set_session_timeout(d->context, (unsigned)(s->idle / 1000000u));
    coapd_cache_resize(d->cache, s->node_cache);
}

static int add_resources(Coapd *d)
{
    static const coap_request_t methods[] = {
        COAP_REQUEST_GET,   COAP_REQUEST_POST,  COAP_REQUEST_PUT,   COAP_REQUEST_DELETE,
        COAP_REQUEST_FETCH, COAP_REQUEST_PATCH, COAP_REQUEST_IPATCH};
    /* The library would list its own resources there. */
    coap_resource_t *known = coap_resource_init(coap_make_str_const(".well-known/core"), 0);
    coap_resource_t *others = coap_resource_unknown_init2(coapd_on_request, 0);

    if (!known || !others)
        return -ENOMEM;
    for (size_t i = 0; i < ELEMENTS(methods); i++) {
        coap_register_request_handler(known, methods[i], coapd_on_request);
        coap_register_request_handler(others, methods[i], coapd_on_request);
    }
    coap_add_resource(d->context, known);
    coap_add_resource(d->context, others);
    return 0;
}

static int open_context(Coapd *d)
{
    int r;

    list_init(&d->library.node);
    d->library.fire = on_library;
    coap_startup();
    coap_set_log_level(LOG_EMERG); /* it would write a line for each bad datagram */
    d->context = coap_new_context(NULL);
    if (!d->context)
        return -ENOMEM;
    coap_set_app_data(d->context, d);
    coap_context_set_block_mode(d->context, 0);
    coap_register_event_handler(d->context, on_event);
    coap_register_nack_handler(d->context, on_nack);
    coap_register_response_handler(d->context, coapd_on_response);
    coap_register_option(d->context, COAP_OPTION_ECHO);
    apply(d);
    r = add_resources(d);
    if (r < 0)
        return r;
    return sd_event_add_io(d->event, &d->io, coap_context_get_coap_fd(d->context), EPOLLIN, on_io,
                           d);
}

int coapd_new(sd_event *event, const coapd_settings *settings, Coapd **ret)
{
    _cleanup_(coapd_freep) Coapd *d = calloc(1, sizeof(*d));
    int r;

    if (!d)
        return -ENOMEM;
    list_init(&d->sessions);
    list_init(&d->connections);
    list_init(&d->due);
    for (size_t i = 0; i < COAPD_RANKS; i++)
        list_init(&d->idle[i]);
    coapd_rd_init(d);
    d->event = sd_event_ref(event);
    d->settings = settings;
    r = RAND_bytes(d->echo_key, sizeof(d->echo_key)) == 1 ? 0 : -EIO;
    if (r >= 0)
        r = timers_init(&d->timers, event);
    if (r >= 0)
        r = coapd_observers_open(d);
    if (r >= 0)
        r = coapd_secrets_new(d);
    if (r >= 0)
        r = coapd_app_open(d);
    if (r >= 0)
        r = open_context(d);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(d);
    return 0;
}

void coapd_set_core(Coapd *d, endpoint_core *core, hybus_agent *agent)
{
    d->core = core;
    d->agent = agent;
    if (agent && hybus_agent_add_changed(agent, on_policy_changed, d) < 0)
        d->agent = NULL;
    coapd_strangers_check(d);
}

static void end_sessions(Coapd *d)
{
    list_for_each(n, &d->sessions) coapd_session_end(list_entry(n, CoapdSession, node));
}

static void close_connections(Coapd *d)
{
    while (!list_empty(&d->connections))
        coapd_session_close(((CoapdConnection *)d->connections.next)->session);
}

void coapd_free(Coapd *d)
{
    if (!d)
        return;
    d->freeing = true;
    if (d->agent)
        hybus_agent_remove_changed(d->agent, on_policy_changed, d);
    hybus_agent_question_cancel(d->nodes.question);
    d->unsettled = 0;
    sd_event_source_disable_unref(d->io);
    coapd_rd_done(d);
    if (d->context) {
        coapd_listen_close(d);
        coap_free_context(d->context);
        coap_cleanup();
    }
    close_connections(d);
    endpoint_peer_free(d->stranger);
    coapd_secrets_free(d->secrets);
    sd_event_source_disable_unref(d->turn);
    coapd_app_close(d);
    timers_done(&d->timers);
    sd_event_unref(d->event);
    free(d);
}

int coapd_reconfigure(Coapd *d, const coapd_settings *settings)
{
    d->settings = settings;
    if (settings->connections_reserved >= settings->connections)
        return hybus_log_errno(LOG_ERR, -EINVAL,
                               "[limits] ConnectionsReserved is less than Connections");
    if (!endpoint_scope_valid(settings->scope))
        return hybus_log_errno(LOG_ERR, -EINVAL, "[listen] Scope is claimed, loopback or all");
    if (!coapd_verify_valid(settings->verify))
        return hybus_log_errno(LOG_ERR, -EINVAL, "[abuse] Verify is remote, always or never");
    apply(d);
    return coapd_listen_update(d);
}

void coapd_drain(Coapd *d)
{
    d->draining = true;
    end_sessions(d);
    close_connections(d);
    coapd_listen_close(d);
}

void coapd_statistics(Coapd *d, endpoint_counter_each each, void *to)
{
    const coapd_counters *c = &d->counters;
    const struct {
        const char *name;
        uint64_t value;
    } table[] = {
        {"sessions_total", c->sessions},
        {"sessions_kicked_total", c->kicked},
        {"requests_total", c->requests},
        {"requests_duplicate_total", c->duplicates},
        {"requests_bad_total", c->malformed},
        {"requests_limited_total", c->limited},
        {"responses_2xx_total", c->answers[2]},
        {"responses_4xx_total", c->answers[4]},
        {"responses_5xx_total", c->answers[5]},
        {"responses_separate_total", c->separate},
        {"blocks_total", c->blocks},
        {"observers_total", c->observers},
        {"observers_lost_total", c->observers_lost},
        {"observers_rejected_total", c->observers_rejected},
        {"notifications_total", c->notifications},
        {"notifications_confirmable_total", c->notifications_confirmable},
        {"connections_total", c->connections},
        {"connections_refused_total", c->connections_refused},
        {"connections_evicted_total", c->connections_evicted},
        {"handshakes_failed_total", c->handshakes_failed},
        {"aborts_total", c->aborts},
        {"requests_evicted_total", c->exchanges_evicted},
        {"connections", d->n_connections},
        {"connections_authenticated", d->n_authenticated},
        {"handshakes", d->n_handshakes},
        {"nodes_total", c->nodes},
        {"node_requests_total", c->node_requests},
        {"node_answers_cached_total", c->node_cached},
        {"node_failures_total", c->node_failures},
        {"node_notifications_total", c->node_notifications},
        {"nodes", d->directory.n},
        {"node_cache_bytes", d->cache->bytes},
        {"sessions", d->n_sessions},
        {"exchanges", d->n_exchanges},
        {"observers", d->n_observers},
        {"held_bytes", d->held},
        {"record_bytes", d->record_bytes},
    };

    for (size_t i = 0; i < ELEMENTS(table); i++)
        each(table[i].name, table[i].value, to);
    endpoint_statistics_each(d->core, each, to);
}
