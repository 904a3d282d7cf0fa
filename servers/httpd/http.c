/* SPDX-License-Identifier: Apache-2.0 */
/* The server as a whole: settings, the library's configuration, and the loop. The library's loop is
 * the outer one, since it keeps its epoll descriptor to itself; sd-event's stands in it as one more
 * descriptor. */

#include "http.h"

#include <hybus/log.h>
#include <openssl/rand.h>
#include <signal.h>
#include <time.h>

#define EVENTS_PER_TURN 64
#define SWEEP_MS 1000
#define FAREWELL_USEC (1500u * 1000u)
#define SETTING(section, key, type, field, value, ...)                                             \
    {                                                                                              \
        section, key, HYBUS_SETTING_##type, offsetof(http_settings, field), value, __VA_ARGS__     \
    }

const hybus_setting http_setting_table[] = {
    SETTING("listen", "Tls", STRINGS, tls, "8443", 0, 0),
    SETTING("listen", "Plain", STRINGS, plain, "", 0, 0),
    SETTING("listen", "Scope", STRING, scope, "claimed", 0, 0),
    SETTING("listen", "HostNames", STRINGS, host_names, "", 0, 0),
    SETTING("tls", "Certificate", STRING, certificate, "", 0, 0),
    SETTING("tls", "Key", STRING, key, "", 0, 0),
    SETTING("files", "Root", STRING, root, "", 0, 0),
    SETTING("cors", "Origins", STRINGS, origins, "", 0, 0),
    SETTING("log", "Access", STRING, access_log, "off", 0, 0),
    SETTING("limits", "Connections", UINT, connections, "256", 8, 16384),
    SETTING("limits", "ConnectionsReserved", UINT, connections_reserved, "32", 1, 4096),
    SETTING("limits", "ConnectionsPerAddress", UINT, connections_address, "64", 1, 16384),
    SETTING("limits", "RequestsPerAddress", UINT, requests_address, "1024", 1, 65536),
    SETTING("limits", "RequestRate", UINT, rate_address, "0", 0, 10000000),
    SETTING("limits", "Body", BYTES, body, "8M", 1024, 31u << 20),
    SETTING("limits", "Resets", UINT, resets, "200", 1, 1000000),
    SETTING("timeouts", "Request", SECONDS, request_timeout, "30s", 100000, 3600000000u),
    SETTING("timeouts", "Idle", SECONDS, idle_timeout, "60s", 100000, 86400000000u),
    SETTING("timeouts", "Stall", SECONDS, stall_timeout, "30s", 100000, 3600000000u),
    SETTING("timeouts", "Drain", SECONDS, drain_timeout, "20s", 0, 80000000u),
    SETTING("timeouts", "Deadline", SECONDS, deadline, "30s", 100000, 3600000000u),
    SETTING("timeouts", "KeepAlive", SECONDS, keep_alive, "20s", 1000000, 3600000000u),
    {},
};

uint64_t http_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

void http_settings_to_core(const http_settings *s, endpoint_settings *ret)
{
    *ret = (endpoint_settings){.deadline_usec = s->deadline, .body_max = s->body};
}

/* --- the library -------------------------------------------------------------------------------
 */

static void apply_limits(Http *h, const http_settings *s)
{
    h->config.max_request_entity_size = s->body;
    h->config.handshake_timeout = MIN_OF(s->request_timeout / 1000u, (uint64_t)10000u);
    h->config.http1.req_timeout = s->request_timeout / 1000u;
    h->config.http1.upgrade_to_http2 = 0;
    h->config.http2.idle_timeout = s->idle_timeout / 1000u;
    h->config.http2.graceful_shutdown_timeout = s->drain_timeout / 1000u;
    h->config.http2.max_concurrent_requests_per_connection = 100;
    h->config.http2.max_streams_for_priority = 16;
    if (!h->loop)
        return;
    /* The context has copies. */
    h->context.handshake_timeout.timeout = h->config.handshake_timeout;
    h->context.http1.req_timeout.timeout = h->config.http1.req_timeout;
    h->context.http2.idle_timeout.timeout = h->config.http2.idle_timeout;
    h->context.http2.graceful_shutdown_timeout.timeout = h->config.http2.graceful_shutdown_timeout;
}

/* Bodies above the threshold would be spilled to a file; there is no place for one, so that the
 * stream fails instead. The limit on bodies lies below in any case. */
static void forbid_spill(void)
{
    h2o_socket_buffer_mmap_settings.threshold = 32u << 20;
    snprintf(h2o_socket_buffer_mmap_settings.fn_template,
             sizeof(h2o_socket_buffer_mmap_settings.fn_template), "/proc/none/XXXXXX");
}

static void setup_library(Http *h)
{
    h2o_pathconf_t *path;
    h2o_handler_t *handler;

    forbid_spill();
    h2o_config_init(&h->config);
    h->config.server_name = h2o_iovec_init(H2O_STRLIT("HybridOS"));
    apply_limits(h, h->settings);
    h->host = h2o_config_register_host(&h->config, h2o_iovec_init(H2O_STRLIT("default")), 65535);
    h->host->http2.reprioritize_blocking_assets = 0;
    h->host->http2.push_preload = 0;
    path = h2o_config_register_path(h->host, "/", 0);
    path->error_log.emit_request_errors = 0;
    h->host->fallback_path.error_log.emit_request_errors = 0;
    handler = h2o_create_handler(path, sizeof(*handler));
    handler->on_req = http_exchange_on_request;
    http_static_register(path);
    h->loop = h2o_evloop_create();
    h2o_context_init(&h->context, h->loop, &h->config);
}

static void on_event_ready(h2o_socket_t *socket, const char *error)
{
    Http *h = socket->data;
    h->event_ready = true;
}

static int nest_events(Http *h)
{
    int fd = fcntl(sd_event_get_fd(h->event), F_DUPFD_CLOEXEC, 3);

    if (fd < 0)
        return -errno;
    h->event_socket = h2o_evloop_socket_create(h->loop, fd, H2O_SOCKET_FLAG_DONT_READ);
    h->event_socket->data = h;
    h2o_socket_read_start(h->event_socket, on_event_ready);
    return 0;
}

/* --- life ----------------------------------------------------------------------------------------
 */

int http_new(sd_event *event, const http_settings *settings, Http **ret)
{
    _cleanup_(http_freep) Http *h = calloc(1, sizeof(*h));
    unsigned char life[4];

    if (!h)
        return -ENOMEM;
    if (http_library_init() < 0)
        return -ENOSYS;
    h->settings = settings;
    h->event = sd_event_ref(event);
    if (RAND_bytes(life, sizeof(life)) != 1)
        return -EIO;
    snprintf(h->life, sizeof(h->life), "%02x%02x%02x%02x", life[0], life[1], life[2], life[3]);
    if (gethostname(h->host_name, sizeof(h->host_name) - 1) < 0)
        return -errno;
    signal(SIGPIPE, SIG_IGN);
    setup_library(h);
    if (nest_events(h) < 0)
        return -ENOMEM;
    *ret = TAKE_PTR(h);
    return 0;
}

int http_set_core(Http *h, endpoint_core *core, hybus_agent *agent)
{
    h->core = core;
    h->agent = agent;
    return agent ? http_permit_follow(h) : 0;
}

static void close_connections(Http *h)
{
    for (HttpConnection *c = h->connections; c; c = c->next)
        http_connection_kill(c);
    for (int i = 0; i < 100 && h->connections; i++) {
        http_connections_bury(h);
        h2o_evloop_run(h->loop, 0);
    }
}

void http_free(Http *h)
{
    if (h->loop) {
        http_listen_close(h);
        close_connections(h);
    }
    http_lingers_free(h);
    if (h->agent)
        http_permit_unfollow(h);
    for (size_t i = 0; i < h->n_passed; i++)
        safe_close(h->passed[i]);
    if (h->event_socket) {
        h2o_socket_read_stop(h->event_socket);
        h2o_socket_close(h->event_socket);
    }
    while (h->addresses && !h->connections) {
        HttpAddress *next = h->addresses->next;

        free(h->addresses);
        h->addresses = next;
    }
    if (h->loop && !h->connections) {
        /* One more turn lets the library free what it only marked. */
        h2o_evloop_run(h->loop, 0);
        if (h2o_timeout_is_linked(&h->context.http2._graceful_shutdown_timeout))
            h2o_timeout_unlink(&h->context.http2._graceful_shutdown_timeout);
        h2o_context_dispose(&h->context);
        h2o_config_dispose(&h->config);
        h2o_evloop_destroy(h->loop);
    }
    SSL_CTX_free(h->tls);
    sd_event_unref(h->event);
    free(h);
}

int http_load_certificates(Http *h, const http_settings *settings)
{
    if (settings->certificate[0])
        return http_tls_load(h, settings->certificate, settings->key);
    return http_tls_load(h, HTTP_STATE_DIRECTORY "/certificate.pem",
                         HTTP_STATE_DIRECTORY "/key.pem");
}

int http_reconfigure(Http *h, const http_settings *settings)
{
    const http_settings *old = h->settings;
    int r;

    h->settings = settings;
    apply_limits(h, settings);
    r = http_load_certificates(h, settings);
    if (r < 0) {
        h->settings = old;
        return r;
    }
    http_static_check(settings);
    return http_listen_update(h);
}

/* --- drain ---------------------------------------------------------------------------------------
 */

static void end_streams(Http *h)
{
    for (HttpConnection *c = h->connections; c; c = c->next)
        for (HttpExchange *x = c->exchanges, *next; x; x = next) {
            next = x->next;
            if (x->event_stream && x->state == HTTP_STREAMING)
                http_stream_end(x, 503);
        }
}

int http_drain(Http *h, void (*drained)(Http *h, void *userdata), void *userdata)
{
    h->draining = true;
    http_library_drain(true);
    http_listen_close(h);
    end_streams(h);
    h2o_context_request_shutdown(&h->context);
    if (!h->connections && !h->lingers)
        return 0;
    h->drained = drained;
    h->drained_userdata = userdata;
    h->drain_since_usec = http_now();
    h->drain_until_usec = h->drain_since_usec + h->settings->drain_timeout;
    return 1;
}

/* Idle HTTP/1 connections have nothing to be told: they are cut. HTTP/2 ones get the library's two
 * GOAWAY frames, a second apart, first. */
static bool is_drained(const Http *h)
{
    return h->drained && !h->connections && !h->lingers;
}

static void check_drain(Http *h)
{
    uint64_t now = http_now();
    void (*drained)(Http * h, void *userdata) = h->drained;

    if (!drained)
        return;
    for (HttpConnection *c = h->connections; c; c = c->next)
        if ((!c->exchanges && !c->last_bytes &&
             (!c->http2 || now >= h->drain_since_usec + FAREWELL_USEC)) ||
            now >= h->drain_until_usec)
            http_connection_kill(c);
    if (!is_drained(h))
        return;
    h->drained = NULL;
    drained(h, h->drained_userdata);
}

/* --- the loop ------------------------------------------------------------------------------------
 */

/* Everything that sd-event has, up to a bound; leaves it prepared for the next sleep. Returns 1
 * when more is waiting. */
static int dispatch_events(Http *h)
{
    for (int i = 0; i < EVENTS_PER_TURN; i++) {
        int r;

        if (sd_event_get_state(h->event) == SD_EVENT_INITIAL) {
            r = sd_event_prepare(h->event);
            if (r == 0)
                return 0;
        } else if (sd_event_get_state(h->event) == SD_EVENT_ARMED) {
            r = sd_event_wait(h->event, 0);
        } else {
            r = sd_event_dispatch(h->event);
        }
        if (r < 0)
            return r;
        if (sd_event_get_state(h->event) == SD_EVENT_FINISHED)
            return 0;
    }
    return 1;
}

int http_turn(Http *h, uint64_t usec)
{
    int32_t wait = usec > (uint64_t)INT32_MAX * 1000u ? INT32_MAX : (int32_t)(usec / 1000u);
    int r;

    r = dispatch_events(h);
    if (r < 0 || sd_event_get_state(h->event) == SD_EVENT_FINISHED)
        return r;
    if (h->core)
        endpoint_core_flush(h->core);
    if (h->dying || r > 0 || is_drained(h)) /* a linger may just have ended */
        wait = 0;
    else if (h->connections && wait > SWEEP_MS)
        wait = SWEEP_MS;
    h->event_ready = false;
    if (h2o_evloop_run(h->loop, wait) < 0 && errno != EINTR)
        return -errno;
    http_connections_bury(h);
    http_connections_sweep(h);
    http_streams_tick(h);
    check_drain(h);
    if (h->core)
        endpoint_core_flush(h->core);
    return 0;
}
