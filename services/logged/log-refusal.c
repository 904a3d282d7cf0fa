/* SPDX-License-Identifier: Apache-2.0 */
#include "log-refusal.h"

#include "log-record.h"

#define COMMAND_MAX 50u /* bytes of a sender's command line that dbus-daemon quotes, unescaped */

const char *const log_broker_fields[LOG_BROKER_FIELDS] = {
    [LOG_BROKER_ACTION] = "DBUS_BROKER_TRANSMIT_ACTION",
    [LOG_BROKER_TYPE] = "DBUS_BROKER_MESSAGE_TYPE",
    [LOG_BROKER_SENDER] = "DBUS_BROKER_SENDER_UNIQUE_NAME",
    [LOG_BROKER_DESTINATION] = "DBUS_BROKER_MESSAGE_DESTINATION",
    [LOG_BROKER_INTERFACE] = "DBUS_BROKER_MESSAGE_INTERFACE",
    [LOG_BROKER_MEMBER] = "DBUS_BROKER_MESSAGE_MEMBER",
    [LOG_BROKER_PATH] = "DBUS_BROKER_MESSAGE_PATH",
};

#define DIGITS "0123456789"
#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"
#define MEMBER_BYTES LETTERS DIGITS
#define INTERFACE_BYTES MEMBER_BYTES "."
#define NAME_BYTES INTERFACE_BYTES ":-"
#define PATH_BYTES MEMBER_BYTES "/"

bool log_refusal_equal(const log_refusal *a, const log_refusal *b)
{
    return a->uid == b->uid && a->type == b->type && a->receive == b->receive &&
           streq(a->sender, b->sender) && streq(a->destination, b->destination) &&
           streq(a->interface, b->interface) && streq(a->member, b->member) &&
           streq(a->path, b->path);
}

/* --- words ---------------------------------------------------------------------------------- */

static bool all_of(const char *s, size_t n, const char *bytes)
{
    for (size_t i = 0; i < n; i++)
        if (s[i] == '\0' || !strchr(bytes, s[i]))
            return false;
    return true;
}

static bool take(const char *s, size_t n, const char *bytes, char ret[LOG_REFUSAL_NAME_MAX + 1])
{
    if (n > LOG_REFUSAL_NAME_MAX || !all_of(s, n, bytes))
        return false;
    memcpy(ret, s, n);
    return true;
}

static bool take_type(const char *s, size_t n, char *ret)
{
    static const struct {
        const char *name;
        char type;
    } types[] = {{"method_call", 'm'}, {"signal", 'e'}, {"method_return", 'r'}, {"error", 'r'}};

    for (size_t i = 0; i < ELEMENTS(types); i++)
        if (strlen(types[i].name) == n && memcmp(types[i].name, s, n) == 0) {
            *ret = types[i].type;
            return true;
        }
    return false;
}

/* --- dbus-daemon ---------------------------------------------------------------------------- */

typedef struct cursor {
    const char *at, *end;
} cursor;

static bool skip(cursor *c, const char *text)
{
    size_t n = strlen(text);

    if ((size_t)(c->end - c->at) < n || memcmp(c->at, text, n) != 0)
        return false;
    c->at += n;
    return true;
}

static size_t skip_digits(cursor *c, uint64_t *ret)
{
    const char *start = c->at;

    for (*ret = 0; c->at < c->end && *c->at >= '0' && *c->at <= '9' && c->at - start < 10; c->at++)
        *ret = *ret * 10 + (uint64_t)(*c->at - '0');
    return (size_t)(c->at - start);
}

/* Up to the quote that ends it. */
static bool quoted(cursor *c, const char **ret, size_t *ret_size)
{
    const char *quote = memchr(c->at, '"', (size_t)(c->end - c->at));

    if (!quote)
        return false;
    *ret = c->at;
    *ret_size = (size_t)(quote - c->at);
    c->at = quote + 1;
    return true;
}

/* A name, or "(unset)". */
static bool name(cursor *c, const char *bytes, char ret[LOG_REFUSAL_NAME_MAX + 1])
{
    const char *s;
    size_t n;

    if (skip(c, "(unset)\""))
        return true;
    return quoted(c, &s, &n) && take(s, n, bytes, ret);
}

/* What follows who it was. */
static bool read_message(cursor c, log_refusal *r)
{
    char error[LOG_REFUSAL_NAME_MAX + 1];
    uint64_t requested;

    return name(&c, INTERFACE_BYTES, r->interface) && skip(&c, " member=\"") &&
           name(&c, MEMBER_BYTES, r->member) && skip(&c, " error name=\"") &&
           name(&c, INTERFACE_BYTES, error) && skip(&c, " requested_reply=\"") &&
           skip_digits(&c, &requested) > 0 && skip(&c, "\" destination=\"") &&
           name(&c, NAME_BYTES, r->destination);
}

/* The sender's command line stands before it as it is, quotes included. Nothing in it can pass for
 * all that must follow, which is longer than what is quoted of it. */
static bool find_message(cursor c, log_refusal *r)
{
    static const char start[] = ") interface=\"";
    _Static_assert(
        sizeof(
            ") interface=\"\" member=\"\" error name=\"\" requested_reply=\"0\" destination=\"\"") >
            COMMAND_MAX,
        "a command line could hold a whole message");
    const log_refusal before = *r;
    const char *found;

    while ((found = memmem(c.at, (size_t)(c.end - c.at), start, sizeof(start) - 1))) {
        c.at = found + sizeof(start) - 1;
        *r = before;
        if (read_message(c, r))
            return true;
    }
    return false;
}

bool log_refusal_of_daemon(const char *line, size_t size, log_refusal *ret)
{
    cursor c = {line, line + size};
    log_refusal r = {.uid = LOG_NOBODY};
    uint64_t number;
    const char *s;
    size_t n;

    if (size > LOG_REFUSAL_LINE_MAX || !skip(&c, "[system] Rejected "))
        return false;
    r.receive = skip(&c, "receive");
    if ((!r.receive && !skip(&c, "send")) || !skip(&c, " message, ") || !skip_digits(&c, &number) ||
        !skip(&c, " matched rules; type=\"") || !quoted(&c, &s, &n) || !take_type(s, n, &r.type) ||
        !skip(&c, ", sender=\"") || !quoted(&c, &s, &n))
        return false;
    if (n > 0 && *s == ':' && !take(s, n, NAME_BYTES, r.sender))
        return false;
    if (!skip(&c, " ("))
        return false;
    if (skip(&c, "uid=") && skip_digits(&c, &number) > 0 && number < LOG_NOBODY)
        r.uid = (uint32_t)number;
    if (!find_message(c, &r))
        return false;
    *ret = r;
    return true;
}

/* --- dbus-broker ---------------------------------------------------------------------------- */

static bool value(const char *s, const char *bytes, char ret[LOG_REFUSAL_NAME_MAX + 1])
{
    return !s || take(s, strlen(s), bytes, ret);
}

bool log_refusal_of_broker(const char *const values[LOG_BROKER_FIELDS], log_refusal *ret)
{
    const char *action = values[LOG_BROKER_ACTION], *type = values[LOG_BROKER_TYPE];
    const char *path = values[LOG_BROKER_PATH];
    log_refusal r = {.uid = LOG_NOBODY};

    if (!action || !type || (!streq(action, "send") && !streq(action, "receive")))
        return false;
    r.receive = streq(action, "receive");
    if (!take_type(type, strlen(type), &r.type) ||
        !value(values[LOG_BROKER_SENDER], NAME_BYTES, r.sender) ||
        !value(values[LOG_BROKER_DESTINATION], NAME_BYTES, r.destination) ||
        !value(values[LOG_BROKER_INTERFACE], INTERFACE_BYTES, r.interface) ||
        !value(values[LOG_BROKER_MEMBER], MEMBER_BYTES, r.member))
        return false;
    if (path && !take(path, MIN_OF(strlen(path), (size_t)LOG_REFUSAL_NAME_MAX), PATH_BYTES, r.path))
        return false;
    *ret = r;
    return true;
}
