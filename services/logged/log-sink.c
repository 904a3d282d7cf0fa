/* SPDX-License-Identifier: Apache-2.0 */
#include "log-sink.h"

#include <syslog.h>

#include "log-native.h"
#include "log-relp.h"
#include "log-sink-state.h"

#define NOTE_USEC (60u * 1000u * 1000u)
#define POLL_USEC (5u * 1000u)
#define POLL_MAX_USEC (200u * 1000u)
#define GAP_ROOM 512u /* so that what is missing is always told */
#define FRAME_HEAD_MAX 32u /* "TXNR syslog SIZE " and the like */

/* What is on its way: whole frames, sent at once. */
typedef struct chunk {
    log_sink_place before, after; /* where the walk stood */
    uint64_t end;                 /* syslog: position on the wire behind it */
    uint32_t first, left;         /* RELP: its first transaction; answers still to come */
    uint32_t n;                   /* messages */
    uint64_t arrived;             /* monotonic */
} chunk;

typedef struct chunks {
    chunk list[LOG_SINK_CHUNKS];
    size_t first, n;
} chunks;

typedef enum sink_state { SINK_WAITING, SINK_OPENING, SINK_HELLO, SINK_UP } sink_state;

struct log_sink {
    log_sink_options o;
    char *destination;
    char host[HOST_NAME_MAX + 1];
    uint64_t hash; /* of the destination */
    sink_state state;
    sd_event_source *timer, *later;
    bool woken, blocked, dirty;
    log_filter filter;
    log_walk walk;
    log_sink_place place; /* all before it has arrived */
    log_sink_state on_disk, in_memory;
    chunks on_way, arrived; /* the latter may be in doubt when the connection breaks */
    chunk next;             /* being filled; after.seq is what is in `data` */
    uint8_t data[LOG_SINK_CHUNK + GAP_ROOM];
    size_t size;
    char message[LOG_FORWARD_MAX]; /* found no room in the chunk before */
    size_t message_size;
    uint32_t txnr; /* of the next message */
    uint8_t answer[LOG_RELP_DATA_MAX + 64];
    size_t answer_size;
    uint64_t retry_at, retry, poll, progress, next_note, save_at;
    uint64_t newest_sent;
    bool complained;
    log_sink_statistics statistics;
};

static uint64_t monotonic(void)
{
    return log_clock_now().monotonic;
}

/* --- places
 * ----------------------------------------------------------------------------------------- */

static log_sink_place where(const log_sink *s)
{
    log_sink_place p = {.seq = s->place.seq};

    for (log_stream i = 0; i < LOG_STREAMS; i++) {
        log_store *store = log_book_store(s->o.book, i);
        if (!store)
            continue;
        memcpy(p.streams[i].file, log_store_head(store)->id, sizeof(p.streams[i].file));
        p.streams[i].place = s->walk.streams[i].place;
        p.streams[i].ordinal = s->walk.streams[i].ordinal;
        p.seq = MAX_OF(p.seq, s->walk.streams[i].seq);
    }
    return p;
}

/* The walk goes on behind a place; of a ring that was made anew meanwhile by the sequence alone. */
static void walk_from(log_sink *s, const log_sink_place *p)
{
    s->filter.after = p->seq;
    log_walk_start(&s->walk, s->o.book, &s->filter);
    for (log_stream i = 0; i < LOG_STREAMS; i++) {
        log_store *store = log_book_store(s->o.book, i);
        if (!store || p->streams[i].place.seq == 0 ||
            memcmp(p->streams[i].file, log_store_head(store)->id, sizeof(p->streams[i].file)) != 0)
            continue;
        s->walk.streams[i].place = p->streams[i].place;
        s->walk.streams[i].seq = p->streams[i].place.seq;
        s->walk.streams[i].ordinal = p->streams[i].ordinal;
    }
    s->size = s->message_size = 0;
    s->next = (chunk){.before = *p, .after = *p};
}

static void save(log_sink *s)
{
    if (s->dirty)
        (void)log_sink_state_write(&s->on_disk, s->hash, &s->place);
    s->dirty = false;
    s->save_at = 0;
}

static void moved(log_sink *s, const log_sink_place *p)
{
    s->place = *p;
    s->dirty = true;
    (void)log_sink_state_write(&s->in_memory, s->hash, p);
    if (s->save_at == 0 && s->o.save_interval > 0)
        s->save_at = monotonic() + s->o.save_interval;
}

/* --- the lists
 * -------------------------------------------------------------------------------------- */

static chunk *at(chunks *c, size_t i)
{
    return &c->list[(c->first + i) % LOG_SINK_CHUNKS];
}

static void drop_first(chunks *c)
{
    c->first = (c->first + 1) % LOG_SINK_CHUNKS;
    c->n--;
}

static void push(chunks *c, const chunk *new)
{
    if (c->n == LOG_SINK_CHUNKS)
        drop_first(c);
    *at(c, c->n++) = *new;
}

/* --- filling
 * ---------------------------------------------------------------------------------------- */

/* One frame, if it fits. */
static bool add(log_sink *s, const char *message, size_t size, size_t room)
{
    char head[FRAME_HEAD_MAX];
    bool relp = s->o.protocol == LOG_SINK_RELP;
    size_t n = (size_t)(relp ? snprintf(head, sizeof(head), "%u syslog %zu ", s->txnr, size)
                             : snprintf(head, sizeof(head), "%zu ", size));

    if (s->size + n + size + relp > room)
        return false;
    memcpy(s->data + s->size, head, n);
    memcpy(s->data + s->size + n, message, size);
    s->size += n + size;
    if (relp) {
        s->data[s->size++] = '\n';
        s->txnr = s->txnr == LOG_RELP_TXNR_MAX ? 1 : s->txnr + 1;
    }
    s->next.n++;
    return true;
}

static bool wanted(const log_sink *s, const log_found *f)
{
    return f->stream == LOG_STREAM_AUDIT || log_record_severity(f->record) <= s->o.severity;
}

/* Until the chunk is full or there is no more. 0: no more; 1: there may be. */
static int fill(log_sink *s, uint64_t *budget)
{
    log_found found;
    int r;

    if (s->size == 0) {
        s->next.before = s->next.after;
        s->next.n = 0;
        s->next.first = s->txnr;
    }
    if (s->message_size > 0) {
        if (!add(s, s->message, s->message_size, LOG_SINK_CHUNK))
            return 1;
        s->message_size = 0;
        s->next.after = where(s);
    }
    while (*budget > 0) {
        --*budget;
        r = log_walk_next(&s->walk, budget, &found);
        if (s->walk.missed > 0) {
            char gap[LOG_FORWARD_MAX];
            size_t size = log_forward_gap(s->walk.missed, log_clock_now(), s->host, gap);
            s->statistics.missed += s->walk.missed;
            s->walk.missed = 0;
            (void)add(s, gap, size, sizeof(s->data));
        }
        if (r <= 0) {
            s->next.after = where(s);
            return r == 0 ? 0 : 1;
        }
        if (!wanted(s, &found)) {
            s->next.after = where(s);
            continue;
        }
        s->message_size = log_forward_message(&found, s->host, s->message);
        if (!add(s, s->message, s->message_size, LOG_SINK_CHUNK))
            return 1;
        s->message_size = 0;
        s->next.after = where(s);
    }
    return 1;
}

/* --- sending and arriving
 * ------------------------------------------------------------------------------- */

static void arm(log_sink *s);

static void arrived(log_sink *s)
{
    chunk *c = at(&s->on_way, 0);

    c->arrived = s->progress = monotonic();
    s->statistics.acknowledged += c->n;
    s->retry = 0;
    moved(s, &c->after);
    push(&s->arrived, c);
    drop_first(&s->on_way);
}

static void look_what_arrived(log_sink *s)
{
    uint64_t there;

    if (s->o.protocol == LOG_SINK_RELP)
        return;
    there = s->o.road->acknowledged(s->o.userdata);
    while (s->on_way.n > 0 && at(&s->on_way, 0)->end <= there) {
        arrived(s);
        s->poll = POLL_USEC;
    }
}

/* The chunk that is full, or all there is. */
static int send_chunk(log_sink *s)
{
    int r = s->o.road->send(s->data, s->size, s->o.userdata);

    s->blocked = r == -EAGAIN;
    if (r < 0)
        return r;
    if (s->on_way.n == 0)
        s->progress = monotonic();
    s->next.end = s->o.road->sent(s->o.userdata);
    s->next.left = s->next.n;
    s->statistics.sent += s->next.n;
    if (s->next.after.seq <= s->newest_sent)
        s->statistics.again += s->next.n;
    s->newest_sent = MAX_OF(s->newest_sent, s->next.after.seq);
    push(&s->on_way, &s->next);
    s->size = 0;
    s->poll = POLL_USEC;
    return 0;
}

static void pump(log_sink *s)
{
    uint64_t budget = LOG_SINK_BUDGET;
    int r = 0, more = 1;

    while (s->state == SINK_UP && !s->blocked && more && s->on_way.n < LOG_SINK_CHUNKS) {
        more = fill(s, &budget);
        if (s->size > 0)
            r = send_chunk(s);
        else if (more == 0 && s->on_way.n == 0 && s->next.after.seq > s->place.seq)
            s->place = s->next.after; /* nothing in it was wanted */
        if (r < 0 && r != -EAGAIN) {
            log_sink_lost(s, r, strerror(-r));
            return;
        }
        if (budget == 0)
            break;
    }
    if (budget == 0)
        log_sink_wake(s);
    arm(s);
}

static int on_later(sd_event_source *source, void *userdata)
{
    log_sink *s = userdata;

    s->woken = false;
    if (s->state == SINK_UP) {
        look_what_arrived(s);
        pump(s);
    }
    return 0;
}

void log_sink_wake(log_sink *s)
{
    if (!s || s->woken || s->state != SINK_UP || s->blocked || s->on_way.n == LOG_SINK_CHUNKS)
        return;
    s->woken = sd_event_source_set_enabled(s->later, SD_EVENT_ONESHOT) >= 0;
}

void log_sink_writable(log_sink *s)
{
    int r;

    if (s->state != SINK_UP || !s->blocked)
        return;
    r = send_chunk(s);
    if (r == -EAGAIN)
        return;
    if (r < 0)
        log_sink_lost(s, r, strerror(-r));
    else
        pump(s);
}

/* --- RELP
 * ------------------------------------------------------------------------------------------- */

static int say_hello(log_sink *s)
{
    static const char offers[] =
        "relp_version=0\nrelp_software=h-logged\ncommands=syslog";
    char frame[128];
    int n = snprintf(frame, sizeof(frame), "1 open %zu %s\n", sizeof(offers) - 1, offers);

    s->state = SINK_HELLO;
    return s->o.road->send(frame, (size_t)n, s->o.userdata);
}

static void up(log_sink *s)
{
    log_clock now = log_clock_now();

    s->state = SINK_UP;
    s->statistics.connected = true;
    s->blocked = false;
    s->txnr = 2;
    walk_from(s, &s->place);
    if (s->complained)
        log_book_note(s->o.book, now, LOG_NOTICE, NULL, 0, "The log goes to %s again",
                      s->destination);
    s->complained = false;
    log_sink_wake(s);
}

/* An answer for one message of one chunk; they need not come in order. */
static int answered(log_sink *s, uint32_t txnr)
{
    for (size_t i = 0; i < s->on_way.n; i++) {
        chunk *c = at(&s->on_way, i);
        uint32_t offset = txnr >= c->first ? txnr - c->first
                                           : txnr + LOG_RELP_TXNR_MAX - c->first;
        if (offset >= c->n || c->left == 0)
            continue;
        c->left--;
        while (s->on_way.n > 0 && at(&s->on_way, 0)->left == 0)
            arrived(s);
        return 0;
    }
    return -EBADMSG;
}

static int take_answer(log_sink *s, const log_relp_frame *f)
{
    if (streq(f->command, "serverclose"))
        return -ENOTCONN;
    if (log_relp_status(f) != 200)
        return -EREMOTEIO;
    if (s->state == SINK_HELLO) {
        up(s);
        return 0;
    }
    return answered(s, f->txnr);
}

void log_sink_received(log_sink *s, const void *data, size_t size)
{
    const uint8_t *from = data;
    log_relp_frame f;
    ssize_t n = 1;
    int r = 0;

    /* RFC 5425: a server says nothing. */
    while (s->o.protocol == LOG_SINK_RELP && size > 0 && r >= 0) {
        size_t fits = MIN_OF(size, sizeof(s->answer) - s->answer_size), used = 0;
        memcpy(s->answer + s->answer_size, from, fits);
        s->answer_size += fits;
        from += fits;
        size -= fits;
        while (r >= 0 && (n = log_relp_parse(s->answer + used, s->answer_size - used, &f)) > 0) {
            used += (size_t)n;
            r = take_answer(s, &f);
        }
        if (n < 0 || (used == 0 && s->answer_size == sizeof(s->answer)))
            r = -EBADMSG;
        memmove(s->answer, s->answer + used, s->answer_size - used);
        s->answer_size -= used;
    }
    if (r == -ENOTCONN)
        log_sink_lost(s, 0, "The server ends the session");
    else if (r < 0)
        log_sink_lost(s, r, r == -EREMOTEIO ? "The server refuses a message"
                                            : "What the server answers is not RELP");
    else if (s->state == SINK_UP)
        pump(s);
}

/* --- the connection
 * --------------------------------------------------------------------------------- */

static void open_road(log_sink *s)
{
    int r;

    s->state = SINK_OPENING;
    s->answer_size = 0;
    r = s->o.road->open(s->o.userdata);
    if (r < 0)
        log_sink_lost(s, r, strerror(-r));
}

void log_sink_opened(log_sink *s)
{
    int r = 0;

    if (s->o.protocol == LOG_SINK_RELP)
        r = say_hello(s);
    else
        up(s);
    if (r < 0)
        log_sink_lost(s, r, strerror(-r));
    s->progress = monotonic();
    arm(s);
}

/* A server that is killed has received what it had no time to read: its machine says so by a reset, but not how much.
 * What has arrived a moment before is sent again then. */
static void go_back(log_sink *s)
{
    uint64_t now = monotonic();

    for (size_t i = 0; i < s->arrived.n; i++) {
        chunk *c = at(&s->arrived, i);
        if (now - c->arrived > LOG_SINK_DOUBT_USEC)
            continue;
        moved(s, &c->before);
        return;
    }
}

void log_sink_lost(log_sink *s, int error, const char *why)
{
    log_clock now = log_clock_now();

    if (s->state == SINK_WAITING)
        return;
    if (s->state == SINK_UP && s->o.protocol == LOG_SINK_SYSLOG) {
        look_what_arrived(s);
        if (error < 0)
            go_back(s);
    }
    s->o.road->close(s->o.userdata);
    s->state = SINK_WAITING;
    s->statistics.connected = false;
    s->statistics.failures++;
    s->on_way.n = s->arrived.n = 0;
    s->retry = s->retry == 0 ? s->o.retry : MIN_OF(2 * s->retry, LOG_SINK_RETRY_TIMES * s->o.retry);
    /* Not all devices at the same moment after the server has been away. */
    s->retry_at = now.monotonic + s->retry + s->retry / 4 * (now.monotonic % 1000) / 1000;
    if (now.monotonic >= s->next_note) {
        log_book_note(s->o.book, now, LOG_WARNING, NULL, 0,
                      "The log does not go to %s: %s; it is kept here, trying again",
                      s->destination, why);
        s->complained = true;
        s->next_note = now.monotonic + NOTE_USEC;
    }
    arm(s);
}

/* --- time
 * ------------------------------------------------------------------------------------------- */

static void arm(log_sink *s)
{
    uint64_t due = s->save_at > 0 ? s->save_at : UINT64_MAX, now = monotonic();

    if (s->state == SINK_WAITING)
        due = MIN_OF(due, s->retry_at);
    else if (s->on_way.n > 0 || s->state == SINK_HELLO)
        due = MIN_OF(due, s->o.protocol == LOG_SINK_RELP ? s->progress + LOG_SINK_STALL_USEC
                                                        : now + s->poll);
    if (due == UINT64_MAX) {
        (void)sd_event_source_set_enabled(s->timer, SD_EVENT_OFF);
        return;
    }
    (void)sd_event_source_set_time(s->timer, due);
    (void)sd_event_source_set_enabled(s->timer, SD_EVENT_ONESHOT);
}

static int on_time(sd_event_source *source, uint64_t usec, void *userdata)
{
    log_sink *s = userdata;
    uint64_t now = monotonic();

    if (s->save_at > 0 && now >= s->save_at)
        save(s);
    if (s->state == SINK_WAITING && now >= s->retry_at)
        open_road(s);
    else if (s->state == SINK_UP) {
        s->poll = MIN_OF(2 * s->poll, POLL_MAX_USEC);
        look_what_arrived(s);
    }
    if ((s->on_way.n > 0 || s->state == SINK_HELLO) && now >= s->progress + LOG_SINK_STALL_USEC)
        log_sink_lost(s, -ETIMEDOUT, "Nothing arrives any more");
    else if (s->state == SINK_UP)
        pump(s);
    arm(s);
    return 0;
}

/* --- life
 * ------------------------------------------------------------------------------------------- */

uint64_t log_sink_saved(const char *state_path, const char *run_path)
{
    log_sink_place p;
    uint64_t seq = 0;

    if (log_sink_state_read(state_path, 0, &p) == 0)
        seq = p.seq;
    if (log_sink_state_read(run_path, 0, &p) == 0)
        seq = MAX_OF(seq, p.seq);
    return seq;
}

/* The one in memory is the newer one, if there is one: it may have gone back. */
static void load(log_sink *s)
{
    log_sink_place p;

    if (log_sink_state_open(&s->on_disk, s->o.state_path, s->hash, &p) == 0)
        s->place = p;
    if (log_sink_state_open(&s->in_memory, s->o.run_path, s->hash, &p) == 0)
        s->place = p;
    s->newest_sent = s->place.seq;
}

int log_sink_new(const log_sink_options *o, log_sink **ret)
{
    _cleanup_(log_sink_freep) log_sink *s = calloc(1, sizeof(*s));
    int r;

    if (!s)
        return -ENOMEM;
    s->o = *o;
    s->o.retry = o->retry ? o->retry : LOG_SINK_RETRY_USEC;
    s->on_disk.fd = s->in_memory.fd = -1;
    s->destination = strdup(o->destination);
    if (!s->destination)
        return -ENOMEM;
    s->hash = log_sink_hash(o->destination, strlen(o->destination)) | 1;
    s->statistics.on = true;
    s->filter.both = o->audit;
    if (gethostname(s->host, HOST_NAME_MAX) < 0 || !*s->host)
        strcpy(s->host, "-");
    load(s);
    r = sd_event_add_time(o->event, &s->timer, CLOCK_MONOTONIC, 0, 1000, on_time, s);
    if (r >= 0) /* at once */
        r = sd_event_add_defer(o->event, &s->later, on_later, s);
    if (r >= 0)
        r = sd_event_source_set_enabled(s->later, SD_EVENT_OFF);
    if (r >= 0) /* others first */
        r = sd_event_source_set_priority(s->later, SD_EVENT_PRIORITY_NORMAL + 20);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(s);
    return 0;
}

void log_sink_free(log_sink *s)
{
    if (!s)
        return;
    if (s->state == SINK_UP)
        look_what_arrived(s);
    if (s->state != SINK_WAITING)
        s->o.road->close(s->o.userdata);
    save(s);
    log_sink_state_done(&s->on_disk);
    log_sink_state_done(&s->in_memory);
    sd_event_source_disable_unref(s->timer);
    sd_event_source_disable_unref(s->later);
    free(s->destination);
    free(s);
}

void log_sink_statistics_get(const log_sink *s, log_sink_statistics *ret)
{
    *ret = s->statistics;
    ret->cursor = s->place.seq;
}
