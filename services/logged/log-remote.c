/* SPDX-License-Identifier: Apache-2.0 */
#include "log-remote.h"

#include "log-link.h"

#define STATE_PATH "/var/lib/hybridos/logged/sink.cursor"
#define RUN_PATH "/run/hybridos/logged/sink.cursor"
#define SYSLOG_PORT "6514" /* RFC 5425 */
#define RELP_PORT "2514"

struct log_remote {
    log_link *link;
    log_sink *sink;
};

static bool is_relp(const log_remote_settings *s)
{
    return streq(s->protocol, "relp");
}

static int severity_of(const char *name, uint8_t *ret)
{
    _cleanup_(log_filter_done) log_filter f = {};
    int r = log_filter_set(&f, "priority", name, 0);

    *ret = f.severity;
    return r;
}

int log_remote_check(const log_remote_settings *s, const char **ret_why)
{
    _cleanup_(freep) char *host = NULL, *port = NULL;
    uint8_t severity;

    *ret_why = NULL;
    if (!*s->address)
        return 0;
    if (log_link_parse(s->address, SYSLOG_PORT, &host, &port) < 0)
        *ret_why = "Address takes HOST or HOST:PORT";
    else if (!is_relp(s) && !streq(s->protocol, "syslog"))
        *ret_why = "Protocol takes syslog or relp";
    else if (severity_of(s->priority, &severity) < 0)
        *ret_why = "Priority takes a level, as \"info\"";
    else if (!*s->authority)
        *ret_why = "Authority is missing: the file with the certificates that the server's must come from";
    else if (!*s->certificate != !*s->key)
        *ret_why = "Certificate and Key go together";
    return *ret_why ? -EINVAL : 0;
}

static const char *or_null(const char *s)
{
    return *s ? s : NULL;
}

int log_remote_new(sd_event *event, log_book *b, const log_remote_settings *s,
                   uint64_t save_interval, log_remote **ret)
{
    _cleanup_(log_remote_freep) log_remote *m = NULL;
    _cleanup_(freep) char *host = NULL, *port = NULL, *destination = NULL;
    log_sink_options o = {.event = event,
                          .book = b,
                          .road = &log_link_road,
                          .protocol = is_relp(s) ? LOG_SINK_RELP : LOG_SINK_SYSLOG,
                          .state_path = STATE_PATH,
                          .run_path = RUN_PATH,
                          .save_interval = save_interval,
                          .audit = s->audit};
    int r;

    *ret = NULL;
    if (!*s->address)
        return 0;
    m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    r = severity_of(s->priority, &o.severity);
    if (r >= 0)
        r = log_link_parse(s->address, is_relp(s) ? RELP_PORT : SYSLOG_PORT, &host, &port);
    if (r >= 0 && asprintf(&destination, "%s port %s", host, port) < 0)
        r = -ENOMEM;
    if (r >= 0)
        r = log_link_new(event,
                         &(log_link_options){.host = host,
                                             .port = port,
                                             .name = or_null(s->server_name) ?: host,
                                             .authority = s->authority,
                                             .certificate = or_null(s->certificate),
                                             .key = or_null(s->key)},
                         &m->link);
    if (r < 0)
        return r;
    o.destination = destination;
    o.userdata = m->link;
    r = log_sink_new(&o, &m->sink);
    if (r < 0)
        return r;
    log_link_serve(m->link, m->sink);
    *ret = TAKE_PTR(m);
    return 0;
}

void log_remote_free(log_remote *m)
{
    if (!m)
        return;
    log_sink_free(m->sink);
    log_link_free(m->link);
    free(m);
}

void log_remote_wake(log_remote *m)
{
    if (m)
        log_sink_wake(m->sink);
}

void log_remote_statistics(const log_remote *m, log_sink_statistics *ret)
{
    *ret = (log_sink_statistics){};
    if (m)
        log_sink_statistics_get(m->sink, ret);
}

uint64_t log_remote_saved(void)
{
    return log_sink_saved(STATE_PATH, RUN_PATH);
}
