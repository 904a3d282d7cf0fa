/* SPDX-License-Identifier: Apache-2.0 */
#include "log-journal.h"

#include <fcntl.h>
#include <hybus/log.h>
#include <sys/mman.h>
#include <systemd/sd-id128.h>
#include <systemd/sd-journal.h>

#include "log-native.h"

#define CURSOR_MAX 240u
#define SEEK_BACK 64u /* entries: where a cursor is found again is not always where it was */
#define RETRY_USEC (5u * 1000u * 1000u)

/* In a mapped file: two slots in turn, so that one is always whole. */
typedef struct cursor_slot {
    uint64_t count, seq;          /* the entry at `cursor` got this seq, if it was stored */
    uint64_t realtime, monotonic; /* of the entry */
    char cursor[CURSOR_MAX];
} cursor_slot;

typedef struct cursor_file {
    cursor_slot slots[2];
} cursor_file;

struct log_journal {
    sd_event *event;
    log_book *book;
    sd_journal *journal;
    sd_event_source *io, *again;
    cursor_file *cursors;
    uint64_t entries;
    uint32_t bus_uid;
    log_journal_refused refused;
    void *refused_userdata;
    /* After a restart: what was read by then is passed over, wherever the search for it ends. */
    bool resuming, stored;
    char resume[CURSOR_MAX];
    uint8_t fields[HLOG_FIELDS_MAX];
};

/* --- one entry
 * ------------------------------------------------------------------------------------ */

static const struct {
    const char *journal, *name;
} renamed[] = {
    {"MESSAGE", "MESSAGE"},     {"SYSLOG_IDENTIFIER", "IDENTIFIER"},
    {"CODE_FILE", "CODE_FILE"}, {"CODE_LINE", "CODE_LINE"},
    {"ERRNO", "ERRNO"},
};
/* Told by the record itself, or of no use on one device. */
static const char *const left_out[] = {
    "PRIORITY",   "SYSLOG_FACILITY", "SYSLOG_PID", "SYSLOG_TIMESTAMP",
    "SYSLOG_RAW", "CODE_FUNC",       "TID",        "INVOCATION_ID"};

uint8_t *log_journal_field(uint8_t *to, const uint8_t *end, const void *data, size_t size)
{
    const char *name = data, *equal = memchr(data, '=', size);
    size_t name_size = equal ? (size_t)(equal - name) : 0, value_size = size - name_size - 1;
    uint8_t code;

    if (!equal || !log_field_name_valid(name, name_size))
        return to; /* the journal's own fields begin with _ */
    for (size_t i = 0; i < ELEMENTS(left_out); i++)
        if (strlen(left_out[i]) == name_size && memcmp(left_out[i], name, name_size) == 0)
            return to;
    for (size_t i = 0; i < ELEMENTS(renamed); i++)
        if (strlen(renamed[i].journal) == name_size &&
            memcmp(renamed[i].journal, name, name_size) == 0) {
            code = log_code_of(renamed[i].name, strlen(renamed[i].name));
            return hlog_put(to, end, NULL, 0, code, equal + 1,
                            MIN_OF(value_size, (size_t)UINT16_MAX));
        }
    /* What only h-logged or h-securityd may say is not taken from a field that anybody can send. */
    if (log_code_of(name, name_size) != HLOG_NAMED)
        return to;
    return hlog_put(to, end, name, name_size, HLOG_NAMED, equal + 1,
                    MIN_OF(value_size, (size_t)UINT16_MAX));
}

static const char *get(sd_journal *j, const char *name, char *to, size_t size)
{
    size_t name_size = strlen(name) + 1, n;
    const void *data;

    if (sd_journal_get_data(j, name, &data, &n) < 0 || n < name_size || n - name_size >= size)
        return NULL;
    memcpy(to, (const char *)data + name_size, n - name_size);
    to[n - name_size] = '\0';
    return to;
}

static uint32_t get_number(sd_journal *j, const char *name, uint32_t otherwise)
{
    char text[24], *end;
    unsigned long n;

    if (!get(j, name, text, sizeof(text)))
        return otherwise;
    n = strtoul(text, &end, 10);
    return *end || end == text || n > UINT32_MAX ? otherwise : (uint32_t)n;
}

/* Trusted fields by themselves; of the others as many as there is room for. */
static size_t read_fields(log_journal *j)
{
    const uint8_t *end = j->fields + sizeof(j->fields) - 512;
    uint8_t *to = j->fields, *more;
    const void *data;
    size_t size;
    unsigned n = 0;

    SD_JOURNAL_FOREACH_DATA(j->journal, data, size)
    {
        more = log_journal_field(to, end, data, size);
        if (!more)
            continue;
        n += more > to;
        to = more;
        if (n == HLOG_COUNT_MAX - 4)
            break;
    }
    return (size_t)(to - j->fields);
}

static log_source source_of(sd_journal *j)
{
    char transport[32];

    return get(j, "_TRANSPORT", transport, sizeof(transport)) && streq(transport, "kernel")
               ? LOG_SOURCE_KERNEL
               : LOG_SOURCE_JOURNAL;
}

/* The unit is known by the sender's control group, the user by its credentials, and neither can be
 * forged. Programs that dbus-daemon starts by itself run in its unit, but as another user. What
 * comes by a unit's standard output bears the name of whoever opened it. */
static bool is_of_bus(log_journal *j, const log_entry *e)
{
    char transport[16];

    return j->refused && e->uid == j->bus_uid && e->speaker &&
           (streq(e->speaker, "dbus.service") || streq(e->speaker, "dbus-broker.service")) &&
           get(j->journal, "_TRANSPORT", transport, sizeof(transport)) &&
           (streq(transport, "syslog") || streq(transport, "journal"));
}

static bool read_refusal(sd_journal *journal, log_refusal *ret)
{
    char line[LOG_REFUSAL_LINE_MAX + 1], fields[LOG_BROKER_FIELDS][LOG_REFUSAL_LINE_MAX];
    const char *values[LOG_BROKER_FIELDS], *message = get(journal, "MESSAGE", line, sizeof(line));

    if (message && log_refusal_of_daemon(message, strlen(message), ret))
        return true;
    for (size_t i = 0; i < LOG_BROKER_FIELDS; i++)
        values[i] = get(journal, log_broker_fields[i], fields[i], sizeof(fields[i]));
    return log_refusal_of_broker(values, ret);
}

static void store(log_journal *j, log_clock now)
{
    char unit[LOG_UNIT_MAX], other[LOG_UNIT_MAX];
    uint32_t severity = get_number(j->journal, "PRIORITY", LOG_INFO);
    uint32_t facility = get_number(j->journal, "SYSLOG_FACILITY", LOG_DAEMON >> 3);
    log_entry e = {.when = now, .source = source_of(j->journal)};
    log_refusal refusal;
    sd_id128_t boot;

    (void)sd_journal_get_realtime_usec(j->journal, &e.when.realtime);
    (void)sd_journal_get_monotonic_usec(j->journal, &e.when.monotonic, &boot);
    e.uid = get_number(j->journal, "_UID", LOG_NOBODY);
    e.pid = get_number(j->journal, "_PID", 0);
    e.priority = (uint8_t)((facility < 24 ? facility << 3 : LOG_DAEMON) | (severity & 7u));
    e.unit = get(j->journal, "_SYSTEMD_UNIT", unit, sizeof(unit));
    /* What the service manager says about a unit belongs to that unit, but is not its doing. */
    e.speaker = e.unit;
    if (e.pid == 1 && e.uid == 0)
        e.unit = get(j->journal, "UNIT", other, sizeof(other)) ?: e.unit;
    e.size = read_fields(j);
    e.fields = j->fields;
    j->entries++;
    (void)log_book_append(j->book, &e, now, NULL);
    if (is_of_bus(j, &e) && read_refusal(j->journal, &refusal))
        j->refused(&refusal, e.when.monotonic, j->refused_userdata);
}

/* --- the cursor
 * ------------------------------------------------------------------------------------ */

static cursor_slot *newest_slot(cursor_file *f)
{
    return &f->slots[f->slots[1].count > f->slots[0].count];
}

/* Before the entry is stored: which it is, and which seq it will get. */
static void announce(log_journal *j)
{
    cursor_slot *old = newest_slot(j->cursors),
                *new = old == &j->cursors->slots[0] ? &j->cursors->slots[1] : &j->cursors->slots[0];
    _cleanup_(freep) char *cursor = NULL;
    sd_id128_t boot;

    if (sd_journal_get_cursor(j->journal, &cursor) < 0 || strlen(cursor) >= CURSOR_MAX)
        return;
    new->seq = log_book_newest(j->book) + 1;
    (void)sd_journal_get_realtime_usec(j->journal, &new->realtime);
    (void)sd_journal_get_monotonic_usec(j->journal, &new->monotonic, &boot);
    strcpy(new->cursor, cursor);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    __atomic_store_n(&new->count, old->count + 1, __ATOMIC_RELEASE);
}

static int map_cursors(const char *path, cursor_file **ret)
{
    _cleanup_(closep) int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    void *p;

    if (fd < 0)
        return -errno;
    if (posix_fallocate(fd, 0, sizeof(cursor_file)) != 0)
        return -ENOSPC;
    p = mmap(NULL, sizeof(cursor_file), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED)
        return -errno;
    *ret = p;
    return 0;
}

/* The journal knows better than /proc, which in a sandbox inside a container may be another one's.
 */
int log_journal_boot_id(uint8_t ret[16])
{
    sd_journal *journal = NULL;
    sd_id128_t boot;
    uint64_t usec;
    int r = sd_journal_open(&journal, SD_JOURNAL_LOCAL_ONLY);

    if (r >= 0)
        r = sd_journal_seek_tail(journal);
    if (r >= 0)
        r = sd_journal_previous(journal);
    if (r > 0)
        r = sd_journal_get_monotonic_usec(journal, &usec, &boot);
    else
        r = sd_id128_get_boot(&boot);
    sd_journal_close(journal);
    if (r >= 0)
        memcpy(ret, boot.bytes, sizeof(boot.bytes));
    return r;
}

/* Did the entry come to be stored? Its number alone does not say: a datagram may have got it. */
static bool was_stored(log_book *b, const cursor_slot *at)
{
    bool overwritten = log_book_newest(b) >= at->seq;

    for (log_stream s = 0; s < LOG_STREAMS; s++) {
        log_store *store = log_book_store(b, s);
        const log_record *r = store ? log_store_after(store, at->seq - 1) : NULL;
        if (!r || r->seq != at->seq)
            continue;
        overwritten = false;
        if ((r->source == LOG_SOURCE_JOURNAL || r->source == LOG_SOURCE_KERNEL) &&
            r->realtime == at->realtime && r->monotonic == at->monotonic)
            return true;
    }
    return overwritten;
}

/* "s=<id>;i=<number>;…": the journal's own order. */
static bool read_place(const char *cursor, char ret_id[33], unsigned long long *ret_number)
{
    return sscanf(cursor, "s=%32[0-9a-f];i=%llx;", ret_id, ret_number) == 2;
}

/* Was this entry dealt with before the restart? */
static bool is_behind(log_journal *j)
{
    _cleanup_(freep) char *cursor = NULL;
    unsigned long long here, last;
    char id[33], last_id[33];

    if (!j->resuming || sd_journal_get_cursor(j->journal, &cursor) < 0)
        return false;
    if (read_place(cursor, id, &here) && read_place(j->resume, last_id, &last) &&
        streq(id, last_id) && (here < last || (here == last && j->stored)))
        return true;
    j->resuming = false;
    return false;
}

/* A little before the last entry that was announced, or to the first one of this boot. */
static int seek(log_journal *j)
{
    cursor_slot *at = newest_slot(j->cursors);
    sd_id128_t boot;
    int r;

    at->cursor[CURSOR_MAX - 1] = '\0';
    if (at->count > 0 && sd_journal_seek_cursor(j->journal, at->cursor) >= 0) {
        j->resuming = true;
        j->stored = was_stored(j->book, at);
        strcpy(j->resume, at->cursor);
        r = sd_journal_previous_skip(j->journal, SEEK_BACK);
        if (r > 0)
            r = sd_journal_previous(j->journal);
        return r == 0 ? sd_journal_seek_head(j->journal) : r;
    }
    r = log_journal_boot_id(boot.bytes);
    if (r >= 0)
        r = sd_journal_seek_monotonic_usec(j->journal, boot, 0);
    return r;
}

/* --- the loop
 * -------------------------------------------------------------------------------------- */

static int drain(log_journal *j)
{
    log_clock now = log_clock_now();
    unsigned n = 0;
    int r = 0;

    while (n < LOG_JOURNAL_TURN && (r = sd_journal_next(j->journal)) > 0) {
        n++;
        if (is_behind(j))
            continue;
        announce(j);
        store(j, now);
    }
    if (r < 0 && r != -EADDRNOTAVAIL)
        hybus_log_errno(LOG_WARNING, r, "Cannot read the journal; trying again");
    if (r > 0) /* more: after the others had their turn */
        return sd_event_source_set_time_relative(j->again, 0) < 0
                   ? 0
                   : sd_event_source_set_enabled(j->again, SD_EVENT_ONESHOT);
    if (r < 0 && sd_event_source_set_time_relative(j->again, RETRY_USEC) >= 0)
        return sd_event_source_set_enabled(j->again, SD_EVENT_ONESHOT);
    return 0;
}

static int on_again(sd_event_source *s, uint64_t usec, void *userdata)
{
    return drain(userdata);
}

static int on_change(sd_event_source *s, int fd, uint32_t events, void *userdata)
{
    log_journal *j = userdata;
    int r = sd_journal_process(j->journal);

    if (r < 0)
        hybus_log_errno(LOG_WARNING, r, "Cannot watch the journal");
    return r == SD_JOURNAL_NOP ? 0 : drain(j);
}

int log_journal_new(sd_event *event, log_book *b, const char *cursor_path, log_journal **ret)
{
    _cleanup_(log_journal_freep) log_journal *j = calloc(1, sizeof(*j));
    int r, fd;

    if (!j)
        return -ENOMEM;
    j->book = b;
    r = map_cursors(cursor_path, &j->cursors);
    if (r < 0)
        return r;
    r = sd_journal_open(&j->journal, SD_JOURNAL_LOCAL_ONLY);
    if (r < 0)
        return r;
    (void)sd_journal_set_data_threshold(j->journal, UINT16_MAX);
    r = seek(j);
    if (r < 0)
        return r;
    fd = sd_journal_get_fd(j->journal);
    if (fd < 0)
        return fd;
    r = sd_event_add_io(event, &j->io, fd, (uint32_t)sd_journal_get_events(j->journal), on_change,
                        j);
    if (r >= 0)
        r = sd_event_add_time_relative(event, &j->again, CLOCK_MONOTONIC, 0, 1, on_again, j);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(j);
    return 0;
}

void log_journal_free(log_journal *j)
{
    if (!j)
        return;
    sd_event_source_disable_unref(j->io);
    sd_event_source_disable_unref(j->again);
    sd_journal_close(j->journal);
    if (j->cursors)
        munmap(j->cursors, sizeof(*j->cursors));
    free(j);
}

void log_journal_on_refused(log_journal *j, uint32_t uid, log_journal_refused f, void *userdata)
{
    j->bus_uid = uid;
    j->refused = f;
    j->refused_userdata = userdata;
}

uint64_t log_journal_entries(const log_journal *j)
{
    return j->entries;
}
