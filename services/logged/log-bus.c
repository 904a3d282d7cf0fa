/* SPDX-License-Identifier: Apache-2.0 */
#include "log-bus.h"

#include <hybus/error.h>
#include <hybus/log.h>
#include <hybus/object.h>
#include <sys/queue.h>

#include "log-access.h"
#include "log-native.h"

typedef enum call_kind { CALL_QUERY, CALL_STREAM, CALL_FOLLOW } call_kind;

/* A reader: first a call that waits for what its caller may see, then, for a pipe, the right to go
 * on. */
typedef struct reader {
    LIST_ENTRY(reader) list;
    log_bus *bus;
    sd_bus_message *message; /* until it is answered */
    call_kind kind;
    log_access *access;
    hybus_agent_question *question; /* the reason of a refusal */
    const char *refused;            /* the permission that was missing */
    log_filter filter;
    log_format format;
    log_pipe *pipe;
    log_rights rights; /* that the pipe was opened with */
    bool judging;
} reader;

struct log_bus {
    log_bus_options o;
    hybus_object *object;
    LIST_HEAD(, reader) readers;
    size_t n_calls;
    size_t n_judging;
    uint64_t generation;
    bool settling;
};

static void settle(log_bus *b);

static void reader_free(reader *r)
{
    if (r->message) {
        r->bus->n_calls--;
        sd_bus_message_unref(r->message);
    }
    LIST_REMOVE(r, list);
    if (r->judging)
        r->bus->n_judging--;
    hybus_agent_question_cancel(r->question);
    log_access_free(r->access);
    log_pipe_free(r->pipe);
    log_filter_done(&r->filter);
    free(r);
}

static void fail(reader *r, int error, const char *text)
{
    _cleanup_(sd_bus_error_free) sd_bus_error e = SD_BUS_ERROR_NULL;

    hybus_error_set(&e, error, "%s", text);
    (void)sd_bus_reply_method_error(r->message, &e);
    reader_free(r);
}

/* --- Query
 * ---------------------------------------------------------------------------------------- */

static int append_records(reader *r, sd_bus_message *reply, log_text *text)
{
    log_look look = {.format = LOG_FORMAT_JSON, .secrets = r->rights.secrets};
    uint64_t budget = UINT64_MAX, cursor = 0, bytes = 0;
    char number[24] = "";
    log_walk walk;
    log_found found;
    int e, more = false;

    log_walk_start(&walk, r->bus->o.book, &r->filter);
    e = sd_bus_message_open_container(reply, 'a', "s");
    while (e >= 0 && log_walk_next(&walk, &budget, &found) > 0) {
        text->size = 0;
        log_format_record(text, &found, &look);
        if (text->failed)
            return -ENOMEM;
        bytes += text->size;
        if (bytes > LOG_BUS_QUERY_BYTES && cursor > 0) {
            more = true;
            break;
        }
        text->data[text->size - 1] = '\0'; /* the line end */
        e = sd_bus_message_append(reply, "s", text->data);
        cursor = found.record->seq;
    }
    more = more || log_walk_complete(&walk);
    if (cursor > 0)
        snprintf(number, sizeof(number), "%llu", (unsigned long long)cursor);
    if (e >= 0)
        e = sd_bus_message_close_container(reply);
    return e < 0 ? e : sd_bus_message_append(reply, "sb", number, more);
}

static int answer_query(reader *r)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
    _cleanup_(log_text_done) log_text text = {};
    int e;

    if (r->filter.limit == 0)
        r->filter.limit = LOG_BUS_QUERY_DEFAULT;
    r->filter.limit = MIN_OF(r->filter.limit, (uint64_t)LOG_BUS_QUERY_MAX);
    e = sd_bus_message_new_method_return(r->message, &reply);
    if (e >= 0)
        e = append_records(r, reply, &text);
    if (e >= 0)
        e = sd_bus_send(NULL, reply, NULL);
    if (e >= 0)
        reader_free(r);
    return e;
}

/* --- Stream and Follow
 * ------------------------------------------------------------------------------ */

static void on_pipe_gone(log_pipe *p, void *userdata)
{
    reader *r = userdata;
    log_bus *b = r->bus;

    r->pipe = NULL; /* frees itself */
    reader_free(r);
    settle(b);
}

static int answer_pipe(reader *r)
{
    _cleanup_(closep) int fd = -1;
    log_pipe_options o = {
        .filter = r->filter,
        .look = {.format = r->format, .secrets = r->rights.secrets},
        .follow = r->kind == CALL_FOLLOW,
        .uid = log_access_uid(r->access),
    };
    int e;

    o.from_end = o.follow && o.filter.after == 0 && o.filter.since == 0;
    r->filter = (log_filter){};
    e = log_pipe_new(r->bus->o.pipes, &o, on_pipe_gone, r, &r->pipe, &fd);
    if (e >= 0)
        e = sd_bus_reply_method_return(r->message, "h", fd);
    if (e < 0)
        return e;
    r->message = sd_bus_message_unref(r->message);
    r->bus->n_calls--;
    return 0;
}

/* --- who may see what
 * --------------------------------------------------------------------------------- */

static void on_verdict(const hybus_verdict *v, int error, void *userdata)
{
    reader *r = userdata;
    char text[512];

    r->question = NULL;
    if (error < 0 || v->allowed)
        snprintf(text, sizeof(text), "This needs %s", r->refused);
    else
        snprintf(text, sizeof(text), "This needs %s: %s (rule %s, audit %s; h-policy explain %s)",
                 r->refused, strempty(v->reason), strempty(v->rule), strempty(v->audit),
                 strempty(v->audit));
    fail(r, -EACCES, text);
}

static void refuse(reader *r, const char *permission)
{
    static const char *const members[] = {"Query", "Stream", "Follow"};
    hybus_subject subject = log_access_subject(r->access);
    hybus_call call = {.permission = permission,
                       .interface = LOG_BUS_NAME,
                       .member = members[r->kind],
                       .path = LOG_BUS_PATH,
                       .kind = HYBUS_MEMBER_METHOD};

    r->refused = permission;
    if (hybus_agent_judge(r->bus->o.agent, &subject, &call, on_verdict, r, &r->question) < 0)
        fail(r, -EACCES, "Refused by the policy");
}

/* Less than log.read narrows what is found to what the caller's own user wrote. */
static void narrow(reader *r)
{
    if (r->rights.all)
        return;
    /* Somebody else's was asked for: no record is of two users. */
    if (r->filter.has_uid && r->filter.uid != log_access_uid(r->access))
        r->filter.limit = r->filter.before = 1;
    r->filter.has_uid = true;
    r->filter.uid = log_access_uid(r->access);
}

static void on_access(log_access *a, int error, void *userdata)
{
    reader *r = userdata;
    int e;

    if (error < 0) {
        fail(r, error, "What the caller may see could not be asked");
        return;
    }
    r->rights = *log_access_rights(a);
    if (r->filter.audit && !r->rights.audit) {
        refuse(r, "log.audit");
        return;
    }
    /* It may have been taken away since the filter let the call pass. */
    if (!r->filter.audit && !r->rights.all && !r->rights.own) {
        refuse(r, "log.read-own");
        return;
    }
    if (!r->filter.audit)
        narrow(r);
    e = r->kind == CALL_QUERY ? answer_query(r) : answer_pipe(r);
    if (e == -ENOBUFS)
        fail(r, e, "Too many pipes are open");
    else if (e < 0)
        fail(r, e, "The records could not be given");
}

/* --- when the policy moves
 * ---------------------------------------------------------------------------- */

static void on_changed(hybus_agent *a, uint64_t generation, void *userdata);

static void settle(log_bus *b)
{
    if (b->settling && b->n_judging == 0) {
        b->settling = false;
        hybus_agent_settled(b->o.agent, on_changed, b, b->generation);
    }
}

static bool still(const reader *r, const log_rights *now)
{
    bool audit = !r->rights.audit || now->audit, all = !r->rights.all || now->all;

    return audit && all && (!r->rights.secrets || now->secrets) &&
           (now->all || now->own || now->audit);
}

/* A pipe whose rights have shrunk is cut; its reader asks anew and gets what it may have now. */
static void on_judged(log_access *a, int error, void *userdata)
{
    reader *r = userdata;
    log_bus *b = r->bus;

    if (r->judging) {
        r->judging = false;
        b->n_judging--;
    }
    if (error < 0 || !still(r, log_access_rights(a)))
        reader_free(r);
    settle(b);
}

static void on_changed(hybus_agent *a, uint64_t generation, void *userdata)
{
    log_bus *b = userdata;
    reader *r, *next;

    b->generation = generation;
    b->settling = true;
    for (r = LIST_FIRST(&b->readers); r; r = next) {
        next = LIST_NEXT(r, list);
        if (!r->pipe)
            continue;
        if (!r->judging) {
            r->judging = true;
            b->n_judging++;
        }
        if (log_access_again(r->access, on_judged, r) < 0)
            reader_free(r);
    }
    settle(b);
}

/* --- handlers
 * ------------------------------------------------------------------------------------------- */

static int set_one(log_filter *f, const char *name, const char *value, uint64_t now,
                   sd_bus_error *error)
{
    int e = log_filter_set(f, name, value, now);

    if (e == -ENOENT)
        return hybus_error_set(error, -EINVAL, "There is no filter \"%.40s\"", name);
    if (e == -EINVAL)
        return hybus_error_set(error, e, "\"%.80s\" is no value for \"%.40s\"", value, name);
    if (e == -E2BIG)
        return hybus_error_set(error, -EINVAL, "\"%.40s\" is too long, or given too often", name);
    return e;
}

static int set_fields(log_filter *f, const char *values, uint64_t now, sd_bus_error *error)
{
    _cleanup_(freep) char *copy = strdup(values);
    char *rest = copy, *one;
    int e = copy ? 0 : -ENOMEM;

    while (e >= 0 && (one = strsep(&rest, "\n")))
        e = set_one(f, "field", one, now, error);
    return e;
}

static int read_filter(sd_bus_message *m, log_filter *f, sd_bus_error *error)
{
    uint64_t now = log_clock_now().realtime;
    const char *name, *value;
    int e;

    e = sd_bus_message_enter_container(m, 'a', "{ss}");
    while (e >= 0 && (e = sd_bus_message_read(m, "{ss}", &name, &value)) > 0)
        e = streq(name, "field") ? set_fields(f, value, now, error)
                                 : set_one(f, name, value, now, error);
    return e < 0 ? e : sd_bus_message_exit_container(m);
}

static size_t calls_of(const log_bus *b, const char *sender)
{
    const reader *r;
    size_t n = 0;

    LIST_FOREACH(r, &b->readers, list)
    n += r->message && streq(strempty(sd_bus_message_get_sender(r->message)), sender);
    return n;
}

static int method_read(sd_bus_message *m, log_bus *b, call_kind kind, sd_bus_error *error)
{
    const char *sender = strempty(sd_bus_message_get_sender(m)), *format;
    reader *r;
    int e;

    if (b->n_calls >= LOG_BUS_CALLS_MAX || calls_of(b, sender) >= LOG_BUS_CALLS_CALLER_MAX)
        return hybus_error_set(error, -ENOBUFS, "Too many questions at once");
    r = calloc(1, sizeof(*r));
    if (!r)
        return -ENOMEM;
    r->bus = b;
    r->kind = kind;
    r->message = sd_bus_message_ref(m);
    LIST_INSERT_HEAD(&b->readers, r, list);
    b->n_calls++;
    e = read_filter(m, &r->filter, error);
    if (e >= 0 && kind != CALL_QUERY) {
        e = sd_bus_message_read(m, "s", &format);
        if (e >= 0 && log_format_parse(format, &r->format) < 0)
            e = hybus_error_set(error, -EINVAL, "\"%.40s\" is not a format", format);
    }
    if (e >= 0 && kind == CALL_FOLLOW && r->filter.backwards)
        e = hybus_error_set(error, -EINVAL, "Following goes forwards only");
    if (e >= 0)
        e = log_access_new(b->o.bus, b->o.agent, sender, on_access, r, &r->access);
    if (e < 0) {
        reader_free(r);
        return e;
    }
    return 1;
}

static int method_query(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return method_read(m, userdata, CALL_QUERY, error);
}

static int method_stream(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return method_read(m, userdata, CALL_STREAM, error);
}

static int method_follow(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return method_read(m, userdata, CALL_FOLLOW, error);
}

static void on_synced(uint64_t seq, int error, void *userdata)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = userdata;
    char number[24];

    snprintf(number, sizeof(number), "%llu", (unsigned long long)seq);
    if (error < 0)
        (void)sd_bus_reply_method_errorf(m, HYBUS_ERROR_INTERNAL, "Not on the disk: %s",
                                         strerrordesc_np(-error) ?: "unknown error");
    else
        (void)sd_bus_reply_method_return(m, "s", number);
}

static int method_sync(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    log_bus *b = userdata;
    int e = log_sync_request(b->o.sync, on_synced, m);

    if (e < 0)
        return hybus_error_set(error, e, "Too many wait for the disk");
    sd_bus_message_ref(m);
    return 1;
}

static int append_ring(sd_bus_message *m, log_book *b, log_stream s)
{
    log_store *store = log_book_store(b, s);
    const char *name = log_stream_name(s);
    log_store_statistics st;
    char key[64];
    int e = 0;

    if (!store)
        return 0;
    log_store_statistics_get(store, &st);
    const struct {
        const char *name;
        uint64_t value;
    } values[] = {{"records", st.records},
                  {"bytes", st.bytes},
                  {"size", st.size},
                  {"stored", st.stored},
                  {"overwritten", st.overwritten},
                  {"lost", st.lost}};
    for (size_t i = 0; e >= 0 && i < ELEMENTS(values); i++) {
        snprintf(key, sizeof(key), "%s-%s", name, values[i].name);
        e = sd_bus_message_append(m, "{st}", key, values[i].value);
    }
    return e;
}

static int method_get_statistics(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
    log_bus *b = userdata;
    log_counters counters = {};
    log_book_statistics st;
    int e;

    log_book_statistics_get(b->o.book, &st);
    b->o.counters(&counters, b->o.userdata);
    const struct {
        const char *name;
        uint64_t value;
    } values[] = {{"stored", st.stored},
                  {"rate-limited", st.rate_limited},
                  {"sender-dropped", st.sender_dropped},
                  {"too-large", st.too_large},
                  {"malformed", counters.malformed},
                  {"from-native", st.by_source[LOG_SOURCE_NATIVE]},
                  {"from-journal", st.by_source[LOG_SOURCE_JOURNAL]},
                  {"from-kernel", st.by_source[LOG_SOURCE_KERNEL]},
                  {"from-syslog", st.by_source[LOG_SOURCE_SYSLOG]},
                  {"from-self", st.by_source[LOG_SOURCE_SELF]},
                  {"syslog-connections", counters.receive.connections},
                  {"syslog-refused", counters.receive.refused},
                  {"syslog-busy", counters.receive.busy},
                  {"syslog-cut", counters.receive.cut},
                  {"syslog-malformed", counters.receive.malformed},
                  {"sink", counters.sink.on},
                  {"sink-connected", counters.sink.connected},
                  {"sink-sent", counters.sink.sent},
                  {"sink-sent-again", counters.sink.again},
                  {"sink-arrived", counters.sink.acknowledged},
                  {"sink-missed", counters.sink.missed},
                  {"sink-failures", counters.sink.failures},
                  {"sink-cursor", counters.sink.cursor},
                  {"pipes", log_pipes_count(b->o.pipes)}};
    e = sd_bus_message_new_method_return(m, &reply);
    if (e >= 0)
        e = sd_bus_message_open_container(reply, 'a', "{st}");
    for (size_t i = 0; e >= 0 && i < ELEMENTS(values); i++)
        e = sd_bus_message_append(reply, "{st}", values[i].name, values[i].value);
    for (log_stream s = 0; e >= 0 && s < LOG_STREAMS; s++)
        e = append_ring(reply, b->o.book, s);
    if (e >= 0)
        e = sd_bus_message_close_container(reply);
    return e < 0 ? e : sd_bus_send(NULL, reply, NULL);
}

static int property_storage(sd_bus *bus, const char *path, const char *interface,
                            const char *property, sd_bus_message *reply, void *userdata,
                            sd_bus_error *error)
{
    static const char *const names[] = {"persistent", "volatile", "split"};
    const log_bus *b = userdata;

    return sd_bus_message_append(reply, "s", names[log_book_settings(b->o.book)->storage]);
}

static int property_storage_errors(sd_bus *bus, const char *path, const char *interface,
                                   const char *property, sd_bus_message *reply, void *userdata,
                                   sd_bus_error *error)
{
    const log_bus *b = userdata;
    int e = sd_bus_message_open_container(reply, 'a', "(ss)");

    for (log_stream s = 0; e >= 0 && s < LOG_STREAMS; s++) {
        log_store *store = log_book_store(b->o.book, s);
        log_store_statistics st = {};
        if (store)
            log_store_statistics_get(store, &st);
        if (st.error < 0)
            e = sd_bus_message_append(reply, "(ss)", log_stream_name(s),
                                      strerrordesc_np(-st.error) ?: "unknown error");
    }
    return e < 0 ? e : sd_bus_message_close_container(reply);
}

static int property_rate(sd_bus *bus, const char *path, const char *interface, const char *property,
                         sd_bus_message *reply, void *userdata, sd_bus_error *error)
{
    const log_bus *b = userdata;
    const log_settings *s = log_book_settings(b->o.book);

    return sd_bus_message_append(reply, "t",
                                 streq(property, "RateBurst") ? s->rate_burst : s->rate_interval);
}

static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD_WITH_ARGS("Query", SD_BUS_ARGS("a{ss}", filter),
                            SD_BUS_RESULT("as", records, "s", cursor, "b", more), method_query,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Stream", SD_BUS_ARGS("a{ss}", filter, "s", format),
                            SD_BUS_RESULT("h", pipe), method_stream, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Follow", SD_BUS_ARGS("a{ss}", filter, "s", format),
                            SD_BUS_RESULT("h", pipe), method_follow, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Sync", SD_BUS_NO_ARGS, SD_BUS_RESULT("s", cursor), method_sync,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("GetStatistics", SD_BUS_NO_ARGS, SD_BUS_RESULT("a{st}", statistics),
                            method_get_statistics, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_PROPERTY("Storage", "s", property_storage, 0, SD_BUS_VTABLE_PROPERTY_CONST),
    SD_BUS_PROPERTY("StorageErrors", "a(ss)", property_storage_errors, 0, 0),
    SD_BUS_PROPERTY("RateInterval", "t", property_rate, 0,
                    SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
    SD_BUS_PROPERTY("RateBurst", "t", property_rate, 0, SD_BUS_VTABLE_PROPERTY_EMITS_INVALIDATION),
    SD_BUS_VTABLE_END,
};

void log_bus_settings_changed(log_bus *b)
{
    hybus_object_changed(b->object, "RateInterval", "RateBurst", NULL);
}

int log_bus_new(const log_bus_options *o, log_bus **ret)
{
    _cleanup_(log_bus_freep) log_bus *b = calloc(1, sizeof(*b));
    int r;

    if (!b)
        return -ENOMEM;
    b->o = *o;
    LIST_INIT(&b->readers);
    r = hybus_agent_add_changed(o->agent, on_changed, b);
    if (r >= 0)
        r = hybus_object_publish(o->bus, LOG_BUS_PATH, LOG_BUS_NAME, vtable, b, &b->object);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(b);
    return 0;
}

void log_bus_free(log_bus *b)
{
    if (!b)
        return;
    hybus_agent_remove_changed(b->o.agent, on_changed, b);
    while (!LIST_EMPTY(&b->readers))
        reader_free(LIST_FIRST(&b->readers));
    hybus_object_free(b->object);
    free(b);
}
