/* SPDX-License-Identifier: Apache-2.0 */
#include "log-responder.h"

#include <hybridos.h>
#include <hybus/log.h>
#include <strings.h>
#include <sys/queue.h>

#include "log-native.h"

#define NAMESPACE "/system/log"
#define BUDGET 20000u
#define PAGE_POLICY                                                                                \
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "                  \
    "frame-ancestors 'none'"

/* An answer on its way. */
typedef struct stream {
    LIST_ENTRY(stream) list;
    log_responder *responder;
    hybridos_request *request;
    log_filter filter;
    log_walk walk;
    log_look look;
    log_text text;
    size_t written;
    bool follow, full, last; /* last: nothing comes after the text */
} stream;

/* A path that somebody watches. */
typedef struct topic {
    LIST_ENTRY(topic) list;
    char *path;
    log_filter filter;
    log_walk walk;
} topic;

struct log_responder {
    log_book *book;
    hybridos_app *app;
    hybridos_endpoint *endpoint;
    sd_event_source *io, *turn, *push;
    bool pushing; /* the timer is set */
    LIST_HEAD(, stream) streams;
    LIST_HEAD(, topic) topics;
    size_t n_streams, n_topics;
    log_text value;
};

static const char style[] =
    "body{font:14px/1.4 system-ui,sans-serif;margin:1em}table{border-collapse:collapse;width:100%}"
    "td{padding:.15em .6em .15em 0;vertical-align:top;overflow-wrap:anywhere}"
    "td:first-child{white-space:nowrap}td:last-child{white-space:pre-wrap;width:70%}"
    ".p0,.p1,.p2,.p3{color:#b00}.p4{color:#850}.p7{color:#777}"
    "@media(max-width:40em){td{display:block;width:auto!important}tr{display:block;"
    "border-bottom:1px solid #ddd;padding:.3em 0}}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}.p0,.p1,.p2,.p3{color:#f77}"
    ".p4{color:#fc6}}";

/* --- what is asked for
 * ------------------------------------------------------------------------------- */

static int hex_digit(char c)
{
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}

/* Percent-decodes in place; -EINVAL. */
static int decode(char *s)
{
    char *to = s;

    for (; *s; s++)
        if (*s == '+')
            *to++ = ' ';
        else if (*s != '%')
            *to++ = *s;
        else if (hex_digit(s[1]) < 0 || hex_digit(s[2]) < 0 || (s[1] == '0' && s[2] == '0'))
            return -EINVAL;
        else {
            *to++ = (char)(hex_digit(s[1]) << 4 | hex_digit(s[2]));
            s += 2;
        }
    *to = '\0';
    return 0;
}

static int parse_path(const char *path, log_filter *f)
{
    const char *rest;

    if (streq(path, "/"))
        return 0;
    if (streq(path, "/audit"))
        return log_filter_set(f, "audit", "1", 0);
    if ((rest = startswith(path, "/unit/")) && *rest)
        return log_filter_set(f, "unit", rest, 0);
    if ((rest = startswith(path, "/priority/")))
        return log_filter_set(f, "priority", rest, 0) < 0 ? -ENOENT : 0;
    return -ENOENT;
}

static int parse_pair(char *pair, uint64_t now, log_filter *f, bool *ret_follow)
{
    char *value = strchr(pair, '=');
    int r;

    if (value)
        *value++ = '\0';
    else
        value = pair + strlen(pair);
    r = decode(pair);
    if (r >= 0)
        r = decode(value);
    /* The path alone decides on the audit: it is what permissions hang on. */
    if (r < 0 || streq(pair, "audit"))
        return -EINVAL;
    if (streq(pair, "follow")) {
        *ret_follow = !streq(value, "0");
        return 0;
    }
    return log_filter_set(f, pair, value, now) < 0 ? -EINVAL : 0;
}

int log_responder_parse(const char *path, const char *query, uint64_t now, log_filter *ret,
                        bool *ret_follow)
{
    _cleanup_(freep) char *copy = strdup(query);
    _cleanup_(log_filter_done) log_filter f = {};
    char *rest = copy, *pair;
    bool follow = false;
    int r = copy ? parse_path(path, &f) : -ENOMEM;

    while (r >= 0 && (pair = strsep(&rest, "&")))
        if (*pair)
            r = parse_pair(pair, now, &f, &follow);
    if (r >= 0 && follow && f.backwards)
        r = -EINVAL;
    if (r < 0)
        return r;
    *ret = f;
    f = (log_filter){};
    *ret_follow = follow;
    return 0;
}

log_format log_responder_format(const char *accept, const char **ret_type)
{
    for (const char *p = accept; p; p = strchr(p, ',')) {
        p += strspn(p, ", \t");
        if (strncasecmp(p, "text/html", 9) == 0) {
            *ret_type = "text/html; charset=utf-8";
            return LOG_FORMAT_HTML;
        }
        if (strncasecmp(p, "text/plain", 10) == 0) {
            *ret_type = "text/plain; charset=utf-8";
            return LOG_FORMAT_SHORT;
        }
        if (strncasecmp(p, "application/", 12) == 0)
            break;
    }
    *ret_type = "application/x-ndjson";
    return LOG_FORMAT_JSON;
}

/* --- answers
 * ------------------------------------------------------------------------------------------- */

static void stream_free(stream *s)
{
    LIST_REMOVE(s, list);
    s->responder->n_streams--;
    log_filter_done(&s->filter);
    log_text_done(&s->text);
    free(s);
}

static const char page_begin[] =
    "<!DOCTYPE html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" "
    "content=\"width=device-width\"><title>Log</title><link rel=\"stylesheet\" "
    "href=\"/system/log/style.css\"><h1>Log</h1><table>\n";
static const char page_end[] = "</table></html>\n";

static void tell_missed(stream *s)
{
    if (s->walk.missed > 0)
        log_format_gap(&s->text, s->walk.missed, &s->look);
    s->walk.missed = 0;
}

/* More text; false: there is none now. */
static bool fill(stream *s, uint64_t *budget)
{
    log_found found;
    int r = 1;

    s->text.size = s->written = 0;
    while (s->text.size < LOG_RESPONDER_TEXT && (r = log_walk_next(&s->walk, budget, &found)) > 0) {
        tell_missed(s);
        log_format_record(&s->text, &found, &s->look);
        *budget -= *budget > 0;
    }
    tell_missed(s);
    if (r == 0 && (!s->follow || log_walk_complete(&s->walk))) {
        if (s->look.format == LOG_FORMAT_HTML)
            log_text_string(&s->text, page_end);
        s->last = true;
    }
    return s->text.size > 0 || s->last;
}

/* 1: go on later by itself, 0: waits, <0: it is over, and freed. */
static int pump(stream *s)
{
    uint64_t budget = BUDGET;
    ssize_t n = 0;

    s->full = false;
    for (;;) {
        while (s->written < s->text.size) {
            n = hybridos_write(s->request, s->text.data + s->written, s->text.size - s->written);
            if (n <= 0)
                break;
            s->written += (size_t)n;
        }
        if (s->written < s->text.size || s->text.failed) {
            s->full = n == 0 && !s->text.failed;
            break;
        }
        if (s->last) {
            (void)hybridos_end(s->request);
            stream_free(s);
            return -EPIPE;
        }
        if (!fill(s, &budget))
            return budget == 0;
        if (budget == 0 && s->text.size == 0)
            return 1;
    }
    if (s->full)
        return 0;
    hybridos_abort(s->request);
    stream_free(s);
    return -EPIPE;
}

static void turn(stream *s)
{
    if (pump(s) > 0)
        log_responder_wake(s->responder);
}

static void answer(hybridos_request *r, unsigned status, const char *text)
{
    if (hybridos_reply(r, status, "text/plain; charset=utf-8", text, strlen(text)) < 0)
        hybridos_abort(r);
}

static void begin(log_responder *l, hybridos_request *r, log_filter *filter, bool follow)
{
    const char *type;
    log_format format = log_responder_format(hybridos_request_field(r, "accept"), &type);
    stream *s = l->n_streams < LOG_RESPONDER_STREAMS_MAX ? calloc(1, sizeof(*s)) : NULL;

    if (!s) {
        log_filter_done(filter);
        hybridos_header(r, "retry-after", "5");
        answer(r, 503, "too many are reading\n");
        return;
    }
    s->responder = l;
    s->request = r;
    s->filter = *filter;
    s->look = (log_look){.format = format, .utc = true};
    s->follow = follow;
    LIST_INSERT_HEAD(&l->streams, s, list);
    l->n_streams++;
    if (format == LOG_FORMAT_HTML) {
        if (s->filter.limit == 0)
            s->filter.limit = LOG_RESPONDER_PAGE_RECORDS;
        s->filter.backwards = !follow;
        hybridos_header(r, "content-security-policy", PAGE_POLICY);
        log_text_string(&s->text, page_begin);
    }
    log_walk_start(&s->walk, l->book, &s->filter);
    if (follow && !s->filter.after && !s->filter.since)
        log_walk_to_end(&s->walk);
    hybridos_header(r, "vary", "accept");
    hybridos_header(r, "cache-control", "no-store");
    hybridos_header(r, "x-content-type-options", "nosniff");
    hybridos_request_set_userdata(r, s);
    if (hybridos_begin(r, 200, type) < 0) {
        hybridos_abort(r);
        stream_free(s);
        return;
    }
    turn(s);
}

static void on_request(hybridos_request *r, void *userdata)
{
    log_responder *l = userdata;
    const char *path = hybridos_request_subpath(r), *method = hybridos_request_method(r), *type;
    log_filter filter = {};
    bool follow;
    int e;

    if (!streq(method, "GET") && !streq(method, "HEAD")) {
        hybridos_header(r, "allow", "GET, HEAD");
        answer(r, 405, "only GET and HEAD\n");
        return;
    }
    if (streq(path, "/style.css")) {
        hybridos_header(r, "cache-control", "max-age=3600");
        if (hybridos_reply(r, 200, "text/css; charset=utf-8", style, sizeof(style) - 1) < 0)
            hybridos_abort(r);
        return;
    }
    e = log_responder_parse(path, hybridos_request_query(r), log_clock_now().realtime, &filter,
                            &follow);
    if (e == -ENOENT)
        answer(r, 404, "there are /, /audit, /unit/NAME and /priority/LEVEL\n");
    else if (e < 0)
        answer(r, 400, "the query is not one; see docs/logged.md\n");
    else if (streq(method, "HEAD")) {
        log_filter_done(&filter);
        (void)log_responder_format(hybridos_request_field(r, "accept"), &type);
        if (hybridos_reply(r, 200, type, NULL, 0) < 0)
            hybridos_abort(r);
    } else
        begin(l, r, &filter, follow);
}

static void on_writable(hybridos_request *r, void *userdata)
{
    stream *s = hybridos_request_userdata(r);

    if (s)
        turn(s);
}

static void on_cancel(hybridos_request *r, unsigned status, void *userdata)
{
    stream *s = hybridos_request_userdata(r);

    if (s)
        stream_free(s);
}

/* --- watchers
 * --------------------------------------------------------------------------------------------- */

static void topic_free(log_responder *l, topic *t)
{
    LIST_REMOVE(t, list);
    l->n_topics--;
    log_filter_done(&t->filter);
    free(t->path);
    free(t);
}

/* The next records of the walk, as many as go into one value, whose id is the cursor of the last; 0: none.
 * `ret_more`: there may be others. */
static uint64_t collect(log_responder *l, log_walk *walk, bool *ret_more)
{
    const log_look look = {.format = LOG_FORMAT_JSON};
    uint64_t budget = BUDGET, cursor = 0;
    log_found found;
    int r = 1;

    l->value.size = 0;
    while (l->value.size < LOG_RESPONDER_VALUE_MAX / 2 &&
           (r = log_walk_next(walk, &budget, &found)) > 0) {
        size_t before = l->value.size;
        log_format_record(&l->value, &found, &look);
        cursor = found.record->seq;
        if (l->value.size > LOG_RESPONDER_VALUE_MAX) { /* a single large one: by its cursor only */
            l->value.size = before;
            log_text_printf(&l->value, "{\"cursor\":\"%llu\",\"too-large\":true}\n",
                            (unsigned long long)cursor);
        }
    }
    if (walk->missed > 0)
        log_format_gap(&l->value, walk->missed, &look);
    walk->missed = 0;
    *ret_more = r != 0;
    return l->value.failed ? 0 : cursor;
}

/* The records since the last value. True: there are more. */
static bool push(log_responder *l, topic *t)
{
    char id[24];
    bool more;
    uint64_t cursor = collect(l, &t->walk, &more);

    if (cursor > 0) {
        snprintf(id, sizeof(id), "%llu", (unsigned long long)cursor);
        /* A server that does not keep up misses this one; whoever watches sees that by the cursors.
         */
        (void)hybridos_notify(l->endpoint, t->path, "application/x-ndjson", id, 0, l->value.data,
                              l->value.size);
    }
    return more;
}

static int on_push(sd_event_source *s, uint64_t usec, void *userdata)
{
    log_responder *l = userdata;
    bool more = false;
    topic *t;

    l->pushing = false;
    LIST_FOREACH(t, &l->topics, list)
    more |= push(l, t);
    if (more)
        log_responder_wake(l);
    (void)hybridos_process(l->app);
    return 0;
}

/* The newest few first, so that a watcher begins with something. */
static void start_recent(log_responder *l, topic *t)
{
    log_filter newest = t->filter;
    uint64_t budget = BUDGET, first = 0;
    log_found found;
    log_walk w;

    newest.backwards = true;
    newest.limit = LOG_RESPONDER_RECENT;
    log_walk_start(&w, l->book, &newest);
    while (log_walk_next(&w, &budget, &found) > 0)
        first = found.record->seq;
    log_walk_start(&t->walk, l->book, &t->filter);
    if (first > 0)
        t->filter.after = first - 1;
    else
        log_walk_to_end(&t->walk);
}

static void on_watch(hybridos_endpoint *e, const char *path, unsigned watchers, void *userdata)
{
    log_responder *l = userdata;
    bool follow;
    topic *t;

    LIST_FOREACH(t, &l->topics, list)
    if (streq(t->path, path))
        break;
    if (t && watchers == 0)
        topic_free(l, t);
    if (t || watchers == 0)
        return;
    t = l->n_topics < LOG_RESPONDER_TOPICS_MAX ? calloc(1, sizeof(*t)) : NULL;
    if (!t)
        return;
    LIST_INSERT_HEAD(&l->topics, t, list);
    l->n_topics++;
    t->path = strdup(path);
    if (!t->path || log_responder_parse(path, "", 0, &t->filter, &follow) < 0) {
        topic_free(l, t);
        return;
    }
    start_recent(l, t);
    (void)push(l, t);
}

/* Could records after that one have been overwritten? What a ring has lost ended before its oldest one. */
static bool maybe_lost(const log_responder *l, const log_filter *f, uint64_t after)
{
    for (log_stream s = 0; s < LOG_STREAMS; s++) {
        log_store *store = log_book_store(l->book, s);
        const log_record *oldest = store ? log_store_oldest(store) : NULL;

        if (oldest && (s == LOG_STREAM_AUDIT) == f->audit && oldest->ordinal > 0 &&
            oldest->seq > after + 1)
            return true;
    }
    return false;
}

/* A watcher comes back. What is live has to be told before "nothing is next" is said, or it would come once more
 * with the next push. */
static void on_resume(hybridos_endpoint *e, const char *path, const char *id, void *userdata)
{
    log_responder *l = userdata;
    _cleanup_(log_filter_done) log_filter filter = {};
    bool follow, lost, more;
    char next[24];
    uint64_t cursor = 0;
    log_walk walk;
    topic *t;

    if (log_responder_parse(path, "", 0, &filter, &follow) < 0)
        return;
    LIST_FOREACH(t, &l->topics, list)
    if (streq(t->path, path))
        for (unsigned i = 0; i < LOG_RESPONDER_CATCH_UP && push(l, t); i++)
            ;
    lost = log_filter_set(&filter, "cursor", id, 0) < 0 || filter.after > log_book_newest(l->book);
    if (lost) /* not one of ours, or of another life */
        filter.after = 0;
    lost |= maybe_lost(l, &filter, filter.after);
    log_walk_start(&walk, l->book, &filter);
    for (unsigned i = 0; i < LOG_RESPONDER_CATCH_UP; i++)
        if ((cursor = collect(l, &walk, &more)) > 0 || !more)
            break;
    if (cursor == 0 && !more)
        return;
    if (cursor == 0) { /* a large ring with next to nothing for this path: others have waited enough */
        cursor = log_book_newest(l->book);
        lost = true;
    }
    snprintf(next, sizeof(next), "%llu", (unsigned long long)cursor);
    (void)hybridos_resume(e, "application/x-ndjson", next, lost, l->value.data, l->value.size);
}

/* --- the loop
 * -------------------------------------------------------------------------------------------- */

static int on_turn(sd_event_source *source, void *userdata)
{
    log_responder *l = userdata;
    stream *s = LIST_FIRST(&l->streams), *next;

    (void)sd_event_source_set_enabled(source, SD_EVENT_OFF);
    for (; s; s = next) {
        next = LIST_NEXT(s, list);
        if (!s->full)
            turn(s);
    }
    if (l->n_topics > 0 && !l->pushing &&
        sd_event_source_set_time_relative(l->push, LOG_RESPONDER_PUSH_USEC) >= 0)
        l->pushing = sd_event_source_set_enabled(l->push, SD_EVENT_ONESHOT) >= 0;
    (void)hybridos_process(l->app);
    return 0;
}

static int on_io(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
    log_responder *l = userdata;
    int r = hybridos_process(l->app);

    if (r < 0)
        hybus_log_errno(LOG_WARNING, r, NAMESPACE " is not served: %s",
                        hybridos_endpoint_reason(l->endpoint));
    return r < 0 ? sd_event_source_set_enabled(s, SD_EVENT_OFF) : 0;
}

static void on_state(hybridos_endpoint *e, unsigned status, const char *reason, void *userdata)
{
    if (status == HYBRIDOS_REGISTERED)
        hybus_debug(NAMESPACE " is registered");
    else if (status != 429 && status != 503)
        hybus_warning(NAMESPACE " is refused: %s", reason);
}

void log_responder_wake(log_responder *l)
{
    if (l->n_streams > 0 || l->n_topics > 0)
        (void)sd_event_source_set_enabled(l->turn, SD_EVENT_ONESHOT);
}

static int set_up_endpoint(log_responder *l)
{
    int r = hybridos_app_new("logged", NULL, &l->app);

    if (r >= 0)
        r = hybridos_register(l->app, NAMESPACE, on_request, l, &l->endpoint);
    if (r >= 0)
        r = hybridos_endpoint_rule(l->endpoint, "GET,HEAD / log.read");
    if (r >= 0)
        r = hybridos_endpoint_rule(l->endpoint, "GET,HEAD /audit log.audit");
    if (r >= 0)
        r = hybridos_endpoint_title(l->endpoint, "Log");
    if (r < 0)
        return r;
    hybridos_on_state(l->endpoint, on_state);
    hybridos_on_cancel(l->endpoint, on_cancel);
    hybridos_on_writable(l->endpoint, on_writable);
    hybridos_on_watch(l->endpoint, on_watch);
    hybridos_on_resume(l->endpoint, on_resume);
    return 0;
}

int log_responder_new(sd_event *event, log_book *b, log_responder **ret)
{
    _cleanup_(log_responder_freep) log_responder *l = calloc(1, sizeof(*l));
    int r;

    if (!l)
        return -ENOMEM;
    l->book = b;
    LIST_INIT(&l->streams);
    LIST_INIT(&l->topics);
    r = set_up_endpoint(l);
    if (r >= 0)
        r = sd_event_add_io(event, &l->io, hybridos_fd(l->app), EPOLLIN, on_io, l);
    if (r >= 0)
        r = sd_event_add_defer(event, &l->turn, on_turn, l);
    if (r >= 0)
        r = sd_event_source_set_priority(l->turn, SD_EVENT_PRIORITY_NORMAL + 10);
    if (r >= 0)
        r = sd_event_add_time_relative(event, &l->push, CLOCK_MONOTONIC, 0, 0, on_push, l);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(l);
    return 0;
}

void log_responder_free(log_responder *l)
{
    if (!l)
        return;
    while (!LIST_EMPTY(&l->streams))
        stream_free(LIST_FIRST(&l->streams));
    while (!LIST_EMPTY(&l->topics))
        topic_free(l, LIST_FIRST(&l->topics));
    sd_event_source_disable_unref(l->io);
    sd_event_source_disable_unref(l->turn);
    sd_event_source_disable_unref(l->push);
    hybridos_app_free(l->app);
    log_text_done(&l->value);
    free(l);
}
