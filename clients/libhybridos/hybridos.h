/* SPDX-License-Identifier: Apache-2.0 */
#ifndef HYBRIDOS_H
#define HYBRIDOS_H

/* libhybridos: register once, answer requests of every protocol that the device speaks.
 *
 *     static void hello(hybridos_request *r, void *userdata)
 *     {
 *         hybridos_reply(r, 200, "text/plain", "hello\n", 6);
 *     }
 *     int main(void)
 *     {
 *         hybridos_app *app;
 *         if (hybridos_app_new("hello", NULL, &app) < 0)
 *             return 1;
 *         hybridos_register(app, "/hello", hello, NULL, NULL);
 *         int r = hybridos_run(app);
 *         hybridos_app_free(app);
 *         return r < 0;
 *     }
 *
 * Functions that return int give 0 or more, or a negative errno. An app object and what belongs to
 * it is used by one thread; hybridos_wakeup() and hybridos_stop() may be called from any thread and
 * from signal handlers. Callbacks come only out of hybridos_process() and hybridos_run(). Strings
 * are UTF-8 or what the client sent, ended by NUL, and valid as long as the object that gave them.
 * The channel that all this rides on is described in docs/protocols/channel.md; a longer text is
 * hybridos(3). */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct hybridos_app hybridos_app;
typedef struct hybridos_endpoint hybridos_endpoint;
typedef struct hybridos_request hybridos_request;

/* --- the app -------------------------------------------------------------------------------- */

/* `name` shows in the registrar's list. `registrar` is the path of its socket; NULL means
 * $HYBRIDOS_REGISTRAR, or else /run/hybridos/endpointd/channel.sock. Nothing has to be running yet:
 * the app connects, and connects again, by itself. */
int hybridos_app_new(const char *name, const char *registrar, hybridos_app **ret);

/* Closes everything and frees all endpoints and requests, without callbacks. Not within one. */
void hybridos_app_free(hybridos_app *app);

/* Serves until hybridos_stop() (then 0), or until an endpoint without a state callback is refused
 * (then -EACCES, -EEXIST, -EINVAL or -ESTALE; hybridos_endpoint_reason() says why). */
int hybridos_run(hybridos_app *app);

/* For a loop of your own: poll this descriptor for reading (it does not change), and call
 * hybridos_process() when it is readable. That reads what has come, calls back, and writes
 * everything that it and you produced, with one write for each connection. Errors as
 * hybridos_run(), -EBUSY from within a callback; 1 once a stop is complete. */
int hybridos_fd(hybridos_app *app);
int hybridos_process(hybridos_app *app);

/* Ends gracefully: no new requests, open ones may finish for five seconds. */
void hybridos_stop(hybridos_app *app);

/* Makes the loop call `wakeup` soon, once for any number of calls. So a worker thread hands a
 * result over: put it in a queue with a lock, wake the app up, and reply from the callback. */
typedef void (*hybridos_wakeup_fn)(hybridos_app *app, void *userdata);
void hybridos_on_wakeup(hybridos_app *app, hybridos_wakeup_fn wakeup, void *userdata);
void hybridos_wakeup(hybridos_app *app);

/* --- endpoints ------------------------------------------------------------------------------ */

/* Called for each request, when its whole body is there (unless hybridos_on_body() is used). Answer
 * within the call or later. */
typedef void (*hybridos_request_fn)(hybridos_request *r, void *userdata);

/* Registers `namespace`, such as "/thermo". It happens at the next turn of the loop, and again
 * whenever a daemon was restarted. Set the following up before that. `ret` may be NULL. -EINVAL:
 * not a namespace, -EEXIST: this app has it already. */
int hybridos_register(hybridos_app *app, const char *namespace_, hybridos_request_fn request,
                      void *userdata, hybridos_endpoint **ret);

/* Gives the namespace back. Its open requests fail, without callbacks. */
void hybridos_unregister(hybridos_endpoint *e);

/* A rule is "METHODS SUBPATH PERMISSION", for example "GET,HEAD /public endpoint.public". */
int hybridos_endpoint_rule(hybridos_endpoint *e, const char *rule);
int hybridos_endpoint_title(hybridos_endpoint *e, const char *title);
/* How links to it are described (RFC 6690), for example "rt=\"temperature\";if=sensor;ct=50". */
int hybridos_endpoint_attributes(hybridos_endpoint *e, const char *attributes);
/* Replaces another program of the same user that holds the namespace. */
void hybridos_endpoint_takeover(hybridos_endpoint *e);

enum {
    HYBRIDOS_REGISTERED = 200, /* and on every server that runs, a moment later */
    HYBRIDOS_INVALID = 400,    /* the namespace or a rule */
    HYBRIDOS_FORBIDDEN = 403,  /* no grant */
    HYBRIDOS_CONFLICT = 409,   /* somebody else has it */
    HYBRIDOS_REPLACED = 410,   /* somebody took it over */
};
/* Says how the registration stands. 429 and 503 are only told: the app tries again by itself. After
 * any other refusal it does not. */
typedef void (*hybridos_state_fn)(hybridos_endpoint *e, unsigned status, const char *reason,
                                  void *userdata);
void hybridos_on_state(hybridos_endpoint *e, hybridos_state_fn state);

/* The request has gone: 499 the client left, 504 the deadline passed, 403 access was revoked, 502
 * the server's connection was lost. It can still be read, but no longer answered (-ECANCELED), and
 * is freed when the callback returns; forget `r`. */
typedef void (*hybridos_cancel_fn)(hybridos_request *r, unsigned status, void *userdata);
void hybridos_on_cancel(hybridos_endpoint *e, hybridos_cancel_fn cancel);

/* Bodies in pieces: requests are called back at once, and their bodies piece by piece until `end`.
 * Not more than 256 KiB come before you call hybridos_request_consumed(). Without this callback a
 * body is collected: up to 8 MiB (or 413), and 64 MiB in all (or 503). */
typedef void (*hybridos_body_fn)(hybridos_request *r, const void *data, size_t size, bool end,
                                 void *userdata);
void hybridos_on_body(hybridos_endpoint *e, hybridos_body_fn body);

/* hybridos_write() took less than it was given; now it takes more. */
typedef void (*hybridos_writable_fn)(hybridos_request *r, void *userdata);
void hybridos_on_writable(hybridos_endpoint *e, hybridos_writable_fn writable);

/* `path` (below the namespace, "/" at least) has now this many watchers at all servers together; 0:
 * nobody any more. A good moment to notify the current value. */
typedef void (*hybridos_watch_fn)(hybridos_endpoint *e, const char *path, unsigned watchers,
                                  void *userdata);
void hybridos_on_watch(hybridos_endpoint *e, hybridos_watch_fn watch);

/* A watcher of `path` comes back who has had all up to the value `id`: within the callback hybridos_resume()
 * gives the one that came next (then this is asked again), `missed`: not all did; without a call: none did.
 * Without this callback a watcher who comes back gets the latest value, and is told that there is a gap. */
typedef void (*hybridos_resume_fn)(hybridos_endpoint *e, const char *path, const char *id,
                                   void *userdata);
void hybridos_on_resume(hybridos_endpoint *e, hybridos_resume_fn resume);
int hybridos_resume(hybridos_endpoint *e, const char *content_type, const char *id, bool missed,
                    const void *body, size_t size);

const char *hybridos_endpoint_namespace(const hybridos_endpoint *e);
/* Of the last refusal, with its audit id where there is one; "" if none. */
const char *hybridos_endpoint_reason(const hybridos_endpoint *e);
/* At how many servers the endpoint can be reached now. */
unsigned hybridos_endpoint_servers(const hybridos_endpoint *e);

/* Pushes a new value to every watcher of `path`; at most 60 KiB (or -EMSGSIZE). `id` (NULL: none,
 * at most 128 bytes) names this value, `max_age` is in seconds (0: not said). -EAGAIN: a server
 * does not keep up, and this value was not queued for it; -ENOTCONN: at no server now. */
int hybridos_notify(hybridos_endpoint *e, const char *path, const char *content_type,
                    const char *id, uint32_t max_age, const void *body, size_t size);
/* The value at `path` is no more. */
int hybridos_notify_gone(hybridos_endpoint *e, const char *path);

/* --- requests ------------------------------------------------------------------------------- */

/* A request is yours from its callback until hybridos_reply(), hybridos_end() or hybridos_abort()
 * has succeeded, or its cancel callback has returned; then the pointer is dead. */

const char *hybridos_request_method(const hybridos_request *r); /* "GET" */
const char *hybridos_request_path(const hybridos_request *r);   /* decoded, whole */
const char *hybridos_request_subpath(const hybridos_request *r);   /* below the namespace, or "/" */
const char *hybridos_request_query(const hybridos_request *r);     /* raw; "" if none */
const char *hybridos_request_principal(const hybridos_request *r); /* "anonymous", "user:alice" */
/* Of the principal, for org.hybridos.Security1.Bind: hybridos(3), "Acting for the client". Below
 * 2^53; 0: anonymous. Good while the client is connected; not for logs, answers or other apps. */
uint64_t hybridos_request_handle(const hybridos_request *r);
/* A header by its lower-case name, or ":id", ":protocol", ":peer", …; NULL if there is none. */
const char *hybridos_request_field(const hybridos_request *r, const char *name);
/* Milliseconds that are left until the server answers 504 itself. */
uint32_t hybridos_request_deadline(const hybridos_request *r);
/* The whole body, unless hybridos_on_body() is used. */
const void *hybridos_request_body(const hybridos_request *r, size_t *ret_size);
/* `size` more bytes of the body are dealt with: as many may come again. */
void hybridos_request_consumed(hybridos_request *r, size_t size);
/* The app's own pointer for this request; NULL at first. */
void hybridos_request_set_userdata(hybridos_request *r, void *userdata);
void *hybridos_request_userdata(const hybridos_request *r);

/* Adds a header to the answer to come. -EINVAL: not a header name, or control characters. */
int hybridos_header(hybridos_request *r, const char *name, const char *value);

/* The whole answer; the body is copied. `content_type` may be NULL. On failure the request is still
 * open. */
int hybridos_reply(hybridos_request *r, unsigned status, const char *content_type, const void *body,
                   size_t size);

/* Or a streamed one: begin, then write any number of times, then end. write() returns how many
 * bytes it has taken, 0 as well: the client is slow, go on from the writable callback. */
int hybridos_begin(hybridos_request *r, unsigned status, const char *content_type);
ssize_t hybridos_write(hybridos_request *r, const void *data, size_t size);
int hybridos_end(hybridos_request *r);

/* Fails: 502 if nothing was answered yet, else the stream is cut off. */
void hybridos_abort(hybridos_request *r);

#ifdef __cplusplus
}
#endif
#endif
