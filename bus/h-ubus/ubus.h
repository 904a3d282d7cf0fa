/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* h-ubus: the command of uBus's users. What the verbs share: options, connection, introspection,
 * output. Everything that comes from the bus is hostile to a terminal until it was escaped. */

#include "hybus/interface.h"
#include "hybus/json.h"

#define UBUS_OBJECTS_MAX 4096u /* objects that are looked at in one service */
#define UBUS_TEXT_MAX 4096u    /* bytes of a remote text that are shown on standard error */
#define UBUS_TIMEOUT_USEC (25u * UINT64_C(1000000))

/* Exit codes, as in h-ubus(1). */
enum {
    UBUS_OK = 0,
    UBUS_REMOTE = 1,    /* the method answered with another error */
    UBUS_USAGE = 2,     /* bad arguments, or JSON that does not fit the signature */
    UBUS_NOT_FOUND = 3, /* no such name, object, interface, method or property */
    UBUS_DENIED = 4,
    UBUS_TIMEOUT = 5,
    UBUS_NO_BUS = 6, /* no connection, or it was lost */
    UBUS_LOCAL = 7,  /* memory, output */
};

typedef struct ubus {
    sd_bus *bus;
    const char *address, *signature, *destination, *interfaces;
    const char *endpoint;
    bool user, verbose, all, objects, quiet;
    bool pretty;
    uint64_t timeout_usec; /* UINT64_MAX: for ever */
    bool timeout_given;
    bool bound;      /* acts for the principal `handle` */
    uint64_t handle;
    uint64_t count; /* signals to wait for; 0: no end */
} ubus;

int ubus_connect(ubus *u);
int ubus_connect_monitor(ubus *u); /* gives up all but listening */
/* Says what went wrong and returns the exit code for it. */
int ubus_failed(const char *what, const sd_bus_error *error, int r);
int ubus_usage_error(const char *format, ...) _printf_(1, 2);
/* Writes remote text so that no terminal obeys it. */
void ubus_print_safe(FILE *f, const char *text);
/* One JSON value on standard output. Returns an exit code. */
int ubus_print_json(const ubus *u, const json_t *value);

/* The end of the time that the user allowed, on CLOCK_MONOTONIC. */
uint64_t ubus_now(void);
uint64_t ubus_deadline(const ubus *u);

/* What an object says of itself. Negative errno, `error` filled. */
int ubus_introspect(ubus *u, const char *name, const char *path, hybus_xml **ret,
                    sd_bus_error *error);
/* What the installed files say of an interface; NULL when they say nothing. Only the files of
 * HybridOS tell permissions. */
hybus_xml *ubus_installed(const ubus *u, const char *interface, bool *ret_ours);

/* "/org/hybridos/Log1" for "org.hybridos.Log1"; NULL for a unique name. */
char *ubus_default_path(const char *name);

/* All objects below `path`, breadth first. `f` returns non-zero to stop. */
typedef int (*ubus_object)(ubus *u, const char *name, const char *path, const hybus_xml *xml,
                           void *userdata);
int ubus_walk(ubus *u, const char *name, const char *path, ubus_object f, void *userdata);

/* "Check(subject s, permission s) -> (allowed b)" */
void ubus_print_member(FILE *f, const hybus_xml_member *m);

/* Masks what the installed interface files call a secret in the arguments of any message, as
 * {"secret": LENGTH}. Remembers calls, to know what their answers are. Returns NULL, or why `args`
 * cannot be shown at all. */
typedef struct ubus_secrets ubus_secrets;
ubus_secrets *ubus_secrets_new(ubus *u);
void ubus_secrets_free(ubus_secrets *s);
HYBUS_DEFINE_CLEANUP(ubus_secrets, ubus_secrets_free)
const char *ubus_secrets_mask(ubus_secrets *s, sd_bus_message *m, json_t *args);

bool ubus_is_name(const char *s);
bool ubus_hidden(const char *interface); /* org.freedesktop.DBus.{Peer,…}: every object has them */

/* The verbs: argv[0] is the verb. Return exit codes. */
int verb_list(ubus *u, int argc, char *argv[]);
int verb_call(ubus *u, int argc, char *argv[]);
int verb_get(ubus *u, int argc, char *argv[]);
int verb_set(ubus *u, int argc, char *argv[]);
int verb_send(ubus *u, int argc, char *argv[]);
int verb_listen(ubus *u, int argc, char *argv[]);
int verb_subscribe(ubus *u, int argc, char *argv[]);
int verb_wait_for(ubus *u, int argc, char *argv[]);
int verb_monitor(ubus *u, int argc, char *argv[]);
int verb_respond(ubus *u, int argc, char *argv[]);

static inline _unused_ void sd_bus_message_unrefp_(sd_bus_message **m)
{
    sd_bus_message_unref(*m);
}
#define _message_ _cleanup_(sd_bus_message_unrefp_) sd_bus_message
