/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <stdarg.h>
#include <time.h>

#include "hybus/bound.h"
#include "ubus.h"

#define DBUS_ERROR "org.freedesktop.DBus.Error."
#define OUR_ERROR "org.hybridos.Error."

int ubus_usage_error(const char *format, ...)
{
    _cleanup_(freep) char *text = NULL;
    va_list args;

    va_start(args, format);
    if (vasprintf(&text, format, args) < 0)
        text = NULL;
    va_end(args);
    fputs("h-ubus: ", stderr);
    ubus_print_safe(stderr, text ? text : "out of memory");
    fputc('\n', stderr);
    return UBUS_USAGE;
}

void ubus_print_safe(FILE *f, const char *text)
{
    _cleanup_(freep) char *safe = NULL;
    size_t n = strnlen(text, UBUS_TEXT_MAX);
    json_t *j = json_stringn(text, n);

    while (!j && n && strnlen(text, UBUS_TEXT_MAX) - n < 4)
        j = json_stringn(text, --n); /* the cut went through a character */
    if (!j || hybus_json_dump(j, HYBUS_JSON_COMPACT, &safe) < 0) {
        fputs("(not UTF-8)", f);
        json_decref(j);
        return;
    }
    json_decref(j);
    /* The dump's own escapes of quotes and backslashes are for JSON, not for people. */
    for (const char *c = safe + 1; c[0] && c[1]; c++) {
        if (c[0] == '\\' && (c[1] == '"' || c[1] == '\\'))
            c++;
        fputc(*c, f);
    }
    if (text[n])
        fputs("…", f);
}

int ubus_print_json(const ubus *u, const json_t *value)
{
    _cleanup_(freep) char *text = NULL;

    if (hybus_json_dump(value, u->pretty ? HYBUS_JSON_PRETTY : HYBUS_JSON_COMPACT, &text) < 0) {
        fprintf(stderr, "h-ubus: out of memory\n");
        return UBUS_LOCAL;
    }
    puts(text);
    return fflush(stdout) == 0 ? UBUS_OK : UBUS_LOCAL;
}

static int code_of(const sd_bus_error *error, int r)
{
    static const struct {
        const char *name;
        int code;
    } codes[] = {
        {DBUS_ERROR "ServiceUnknown", UBUS_NOT_FOUND},
        {DBUS_ERROR "NameHasNoOwner", UBUS_NOT_FOUND},
        {DBUS_ERROR "UnknownObject", UBUS_NOT_FOUND},
        {DBUS_ERROR "UnknownInterface", UBUS_NOT_FOUND},
        {DBUS_ERROR "UnknownMethod", UBUS_NOT_FOUND},
        {DBUS_ERROR "UnknownProperty", UBUS_NOT_FOUND},
        {OUR_ERROR "NotFound", UBUS_NOT_FOUND},
        {DBUS_ERROR "AccessDenied", UBUS_DENIED},
        {DBUS_ERROR "AuthFailed", UBUS_DENIED},
        {DBUS_ERROR "InteractiveAuthorizationRequired", UBUS_DENIED},
        {OUR_ERROR "AccessDenied", UBUS_DENIED},
        {OUR_ERROR "Unauthenticated", UBUS_DENIED},
        {OUR_ERROR "PolicyUnavailable", UBUS_DENIED},
        {DBUS_ERROR "NoReply", UBUS_TIMEOUT},
        {DBUS_ERROR "Timeout", UBUS_TIMEOUT},
        {DBUS_ERROR "TimedOut", UBUS_TIMEOUT},
        {OUR_ERROR "Timeout", UBUS_TIMEOUT},
        {DBUS_ERROR "Disconnected", UBUS_NO_BUS},
    };

    if (r == -ENOTCONN || r == -ECONNRESET || r == -EPIPE || r == -ESHUTDOWN)
        return UBUS_NO_BUS;
    if (r == -ENOMEM)
        return UBUS_LOCAL;
    if (error && error->name)
        for (size_t i = 0; i < ELEMENTS(codes); i++)
            if (streq(codes[i].name, error->name))
                return codes[i].code;
    return r == -ETIMEDOUT ? UBUS_TIMEOUT : r == -EACCES || r == -EPERM ? UBUS_DENIED : UBUS_REMOTE;
}

int ubus_failed(const char *what, const sd_bus_error *error, int r)
{
    fputs("h-ubus: ", stderr);
    ubus_print_safe(stderr, what);
    fputs(": ", stderr);
    if (error && error->name) {
        ubus_print_safe(stderr, error->message ? error->message : "(no message)");
        fputs(" (", stderr);
        ubus_print_safe(stderr, error->name);
        fputs(")\n", stderr);
    } else
        fprintf(stderr, "%s\n", strerror(-r));
    return code_of(error, r);
}

static int open_bus(ubus *u, bool monitor)
{
    const char *address = u->address;
    int r = sd_bus_new(&u->bus);

    if (!address)
        address = getenv(u->user ? "DBUS_SESSION_BUS_ADDRESS" : "DBUS_SYSTEM_BUS_ADDRESS");
    if (r >= 0 && u->user && !monitor && (!address || !*address)) {
        sd_bus_unref(u->bus);
        u->bus = NULL;
        return sd_bus_open_user(&u->bus);
    }
    if (!address || !*address)
        address = "unix:path=/run/dbus/system_bus_socket";
    if (r >= 0)
        r = sd_bus_set_address(u->bus, address);
    if (r >= 0)
        r = sd_bus_set_bus_client(u->bus, true);
    if (r >= 0 && monitor)
        r = sd_bus_set_monitor(u->bus, true);
    if (r >= 0)
        r = sd_bus_start(u->bus);
    return r;
}

static int connect_bus(ubus *u, bool monitor)
{
    const char *unique;
    int r = open_bus(u, monitor);

    /* Waits for the Hello, so that a bus that is not there is told from a service that is not. */
    if (r >= 0)
        r = sd_bus_get_unique_name(u->bus, &unique);
    if (r >= 0 && u->bound) {
        r = hybus_bus_bind(u->bus, u->handle, NULL);
        if (r >= 0)
            return UBUS_OK;
        ubus_failed("cannot act for that principal", NULL, r);
        return r == -ENOENT ? UBUS_NOT_FOUND : UBUS_DENIED;
    }
    if (r >= 0)
        return UBUS_OK;
    ubus_failed("no connection to the bus", NULL, r);
    return UBUS_NO_BUS;
}

int ubus_connect(ubus *u)
{
    return connect_bus(u, false);
}

int ubus_connect_monitor(ubus *u)
{
    return connect_bus(u, true);
}

uint64_t ubus_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

uint64_t ubus_deadline(const ubus *u)
{
    return u->timeout_given ? ubus_now() + u->timeout_usec : UINT64_MAX;
}

bool ubus_is_name(const char *s)
{
    return sd_bus_service_name_is_valid(s) > 0;
}

bool ubus_hidden(const char *interface)
{
    return streq(interface, "org.freedesktop.DBus.Peer") ||
           streq(interface, "org.freedesktop.DBus.Introspectable") ||
           streq(interface, "org.freedesktop.DBus.Properties") ||
           streq(interface, "org.freedesktop.DBus.ObjectManager");
}

char *ubus_default_path(const char *name)
{
    char *path;

    if (*name == ':' || asprintf(&path, "/%s", name) < 0)
        return NULL;
    for (char *c = path; *c; c++)
        *c = *c == '.' ? '/' : *c == '-' ? '_' : *c;
    return path;
}

int ubus_introspect(ubus *u, const char *name, const char *path, hybus_xml **ret,
                    sd_bus_error *error)
{
    _message_ *m = NULL, *reply = NULL;
    _cleanup_(freep) char *message = NULL;
    const char *text;
    int r = sd_bus_message_new_method_call(u->bus, &m, name, path,
                                           "org.freedesktop.DBus.Introspectable", "Introspect");

    if (r >= 0)
        r = sd_bus_call(u->bus, m, u->timeout_usec, error, &reply);
    if (r >= 0)
        r = sd_bus_message_read(reply, "s", &text);
    if (r < 0)
        return r;
    r = hybus_xml_parse("introspection", text, strlen(text), 0, ret, &message);
    if (r < 0)
        sd_bus_error_setf(error, "org.hybridos.Error.InvalidArgument",
                          "what it says of itself cannot be read: %s", strempty(message));
    return r;
}

hybus_xml *ubus_installed(const ubus *u, const char *interface, bool *ret_ours)
{
    static const char *const directories[] = {
        "/etc/hybridos/interfaces", "/usr/lib/hybridos/interfaces", "/usr/share/dbus-1/interfaces"};

    for (size_t i = 0; i < (u->interfaces ? 1 : ELEMENTS(directories)); i++) {
        _cleanup_(freep) char *path = NULL, *error = NULL;
        _cleanup_(closep) int fd = -1;
        hybus_xml *xml;

        if (asprintf(&path, "%s/%s.xml", u->interfaces ? u->interfaces : directories[i],
                     interface) < 0) {
            path = NULL;
            return NULL;
        }
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (fd < 0)
            continue;
        if (hybus_xml_read_fd(path, fd, 0, &xml, &error) < 0)
            continue;
        *ret_ours = u->interfaces || i < 2;
        return xml;
    }
    return NULL;
}

int ubus_walk(ubus *u, const char *name, const char *path, ubus_object f, void *userdata)
{
    char **queue = calloc(UBUS_OBJECTS_MAX, sizeof *queue);
    size_t head = 0, tail = 0;
    int r = queue && (queue[tail++] = strdup(path)) ? 0 : -ENOMEM;

    while (r == 0 && head < tail) {
        _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
        _cleanup_(hybus_xml_freep) hybus_xml *xml = NULL;
        const char *here = queue[head++];

        r = ubus_introspect(u, name, here, &xml, &error);
        if (r < 0) {
            /* One bad object does not hide the others; the first one is the answer itself. */
            r = head == 1 ? ubus_failed(name, &error, r) : 0;
            continue;
        }
        r = f(u, name, here, xml, userdata);
        for (size_t i = 0; r == 0 && i < xml->n_children && tail < UBUS_OBJECTS_MAX; i++) {
            char *child;

            if (asprintf(&child, "%s/%s", here[1] ? here : "", xml->children[i]) < 0)
                r = -ENOMEM;
            else if (!sd_bus_object_path_is_valid(child) || strlen(child) > 1024)
                free(child);
            else
                queue[tail++] = child;
        }
    }
    for (size_t i = 0; i < tail; i++)
        free(queue[i]);
    free(queue);
    if (r == -ENOMEM)
        return ubus_failed("introspection", NULL, r);
    return r;
}

static void print_args(FILE *f, const hybus_xml_member *m, bool out)
{
    bool first = true;

    fputc('(', f);
    for (size_t i = 0; i < m->n_args; i++) {
        if (m->args[i].out != out)
            continue;
        if (!first)
            fputs(", ", f);
        first = false;
        if (*m->args[i].name) {
            ubus_print_safe(f, m->args[i].name);
            fputc(' ', f);
        }
        fputs(m->args[i].type, f);
    }
    fputc(')', f);
}

void ubus_print_member(FILE *f, const hybus_xml_member *m)
{
    fputs(m->name, f);
    switch (m->kind) {
    case HYBUS_XML_METHOD:
        print_args(f, m, false);
        if (*m->out) {
            fputs(" -> ", f);
            print_args(f, m, true);
        }
        break;
    case HYBUS_XML_SIGNAL:
        print_args(f, m, true);
        break;
    case HYBUS_XML_PROPERTY:
        fprintf(f, " %s %s", m->out,
                m->readable && m->writable ? "readwrite"
                : m->readable              ? "read"
                                           : "write");
        break;
    }
}
