/* SPDX-License-Identifier: Apache-2.0 */
/* respond: a command answers the requests of an endpoint, one process each, told as by RFC 3875. */
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <systemd/sd-event.h>

#include "cgi.h"
#include "hybus/error.h"
#include "hybus/memfd.h"
#include "ubus.h"

#define REGISTRAR "org.hybridos.Endpoints1"
#define REGISTRAR_PATH "/org/hybridos/Endpoints1"
#define OBJECT "/org/hybridos/Responder1"
#define RUNNING_MAX 16u         /* processes at a time; more requests are told to come again */
#define DEADLINE_MAX_MS 300000u /* and the time of a request that names none: */
#define DEADLINE_DEFAULT_MS 30000u
#define INLINE_MAX (64u * 1024u) /* bytes of a body within the reply; larger ones go as a memfd */

typedef struct responder responder;

typedef struct job {
    responder *r;
    struct job *next;
    sd_bus_message *request;
    char *id;
    pid_t pid;
    int out;
    bool dead;
    char *output;
    size_t n_output;
    sd_event_source *io, *child, *timer;
} job;

struct responder {
    ubus *u;
    sd_event *event;
    char **command;
    char *key;
    job *jobs;
    unsigned n_jobs;
    bool registered;
    int code;
};

static void end(responder *r, int code)
{
    r->code = code;
    sd_event_exit(r->event, 0);
}

static void job_free(job *j)
{
    responder *r = j->r;

    for (job **p = &r->jobs; *p; p = &(*p)->next)
        if (*p == j) {
            *p = j->next;
            r->n_jobs--;
            break;
        }
    sd_event_source_disable_unref(j->io);
    sd_event_source_disable_unref(j->timer);
    sd_event_source_disable_unref(j->child);
    if (j->pid > 0 && !j->dead) {
        kill(-j->pid, SIGKILL);
        waitpid(j->pid, NULL, 0); /* killed: does not block for long */
    }
    safe_close(j->out);
    sd_bus_message_unref(j->request);
    free(j->id);
    free(j->output);
    free(j);
}

static int append_body(sd_bus_message *m, const char *body, size_t size)
{
    _cleanup_(closep) int fd = -1;
    int r;

    if (size <= INLINE_MAX) {
        r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
            r = sd_bus_message_append(m, "s", "body");
        if (r >= 0)
            r = sd_bus_message_open_container(m, 'v', "ay");
        if (r >= 0)
            r = sd_bus_message_append_array(m, 'y', body, size);
    } else {
        fd = memfd_create("body", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0 || cgi_write_all(fd, body, size) < 0 ||
            fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
            return -EIO;
        r = sd_bus_message_open_container(m, 'e', "sv");
        if (r >= 0)
            r = sd_bus_message_append(m, "s", "body");
        if (r >= 0)
            r = sd_bus_message_open_container(m, 'v', "h");
        if (r >= 0)
            r = sd_bus_message_append(m, "h", fd);
    }
    if (r >= 0)
        r = sd_bus_message_close_container(m);
    return r < 0 ? r : sd_bus_message_close_container(m);
}

static void reply(sd_bus_message *request, const cgi_response *a)
{
    _message_ *m = NULL;
    int r = sd_bus_message_new_method_return(request, &m);

    if (r >= 0)
        r = sd_bus_message_append(m, "u", a->status);
    if (r >= 0)
        r = sd_bus_message_open_container(m, 'a', "(ss)");
    for (size_t i = 0; i < a->n_headers && r >= 0; i++)
        r = sd_bus_message_append(m, "(ss)", a->headers[i].name, a->headers[i].value);
    if (r >= 0)
        r = sd_bus_message_close_container(m);
    if (r >= 0)
        r = sd_bus_message_open_container(m, 'a', "{sv}");
    if (r >= 0)
        r = append_body(m, a->body, a->n_body);
    if (r >= 0)
        r = sd_bus_message_close_container(m);
    if (r >= 0)
        r = sd_bus_send(NULL, m, NULL);
    if (r < 0)
        sd_bus_reply_method_errnof(request, r, "the answer could not be sent");
}

static void reply_status(sd_bus_message *request, uint32_t status, const char *text)
{
    cgi_response a = {.status = status, .body = text, .n_body = strlen(text), .n_headers = 1};

    a.headers[0] = (cgi_header){"content-type", "text/plain; charset=utf-8"};
    if (status == 503)
        a.headers[a.n_headers++] = (cgi_header){"retry-after", "1"};
    reply(request, &a);
}

/* Reads what is there. 0: the end, 1: more may come, negative: too much or broken. */
static int drain(job *j)
{
    for (;;) {
        ssize_t n;

        if (j->n_output >= CGI_OUTPUT_MAX)
            return -E2BIG;
        n = read(j->out, j->output + j->n_output, CGI_OUTPUT_MAX - j->n_output);
        if (n < 0)
            return errno == EAGAIN ? 1 : errno == EINTR ? 1 : -errno;
        if (n == 0)
            return 0;
        j->n_output += n;
    }
}

static void give_up(job *j, uint32_t status, const char *text)
{
    reply_status(j->request, status, text);
    job_free(j);
}

static int on_output(sd_event_source *s, int fd, uint32_t revents, void *userdata)
{
    job *j = userdata;
    int r = drain(j);

    if (r < 0)
        give_up(j, 502, "The command wrote too much.\n");
    else if (r == 0)
        sd_event_source_set_enabled(s, SD_EVENT_OFF);
    return 0;
}

static int on_exit_child(sd_event_source *s, const siginfo_t *si, void *userdata)
{
    cgi_response a = {};
    job *j = userdata;

    j->dead = true;
    kill(-j->pid, SIGKILL); /* what it left behind has nobody to answer to */
    if (drain(j) < 0)
        give_up(j, 502, "The command wrote too much.\n");
    else if (si->si_code != CLD_EXITED)
        give_up(j, 502, "The command was killed.\n");
    else if (si->si_status != 0 && j->n_output == 0)
        give_up(j, 500, "The command failed.\n");
    else if (cgi_parse(j->output, j->n_output, &a) < 0)
        give_up(j, 502, "The command wrote headers that cannot be sent.\n");
    else {
        reply(j->request, &a);
        job_free(j);
    }
    return 0;
}

static int on_deadline(sd_event_source *s, uint64_t usec, void *userdata)
{
    give_up(userdata, 504, "The command took too long.\n");
    return 0;
}

static int start_job(job *j, const cgi_request *q, int body)
{
    _cleanup_(cgi_environment_done) cgi_environment e = {};
    int out[2], r = cgi_environment_make(q, &e);
    sigset_t none;

    if (r < 0)
        return r;
    if (pipe2(out, O_CLOEXEC) < 0)
        return -errno;
    j->out = out[0];
    (void)fcntl(out[0], F_SETFL, O_NONBLOCK);
    j->pid = fork();
    if (j->pid == 0) {
        setpgid(0, 0);
        sigemptyset(&none);
        sigprocmask(SIG_SETMASK, &none, NULL);
        signal(SIGPIPE, SIG_DFL);
        if (dup2(body, STDIN_FILENO) < 0 || dup2(out[1], STDOUT_FILENO) < 0)
            _exit(126);
        execvpe(j->r->command[0], j->r->command, e.items);
        _exit(127);
    }
    close(out[1]);
    if (j->pid < 0)
        return -errno;
    setpgid(j->pid, j->pid);
    r = sd_event_add_child(j->r->event, &j->child, j->pid, WEXITED, on_exit_child, j);
    if (r >= 0)
        r = sd_event_add_io(j->r->event, &j->io, j->out, EPOLLIN, on_output, j);
    if (r >= 0)
        r = sd_event_add_time_relative(j->r->event, &j->timer, CLOCK_MONOTONIC,
                                       q->deadline_ms * UINT64_C(1000), 10000, on_deadline, j);
    return r;
}

static int read_headers(sd_bus_message *m, cgi_request *q)
{
    const char *name, *value;
    int r = sd_bus_message_enter_container(m, 'a', "(ss)");

    while (r >= 0 && (r = sd_bus_message_read(m, "(ss)", &name, &value)) > 0)
        if (q->n_headers < CGI_HEADERS_MAX)
            q->headers[q->n_headers++] = (cgi_header){name, value};
    return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_field(sd_bus_message *m, cgi_request *q, int *ret_body)
{
    const struct {
        const char *key;
        const char **value;
    } strings[] = {{"id", &q->id},
                   {"namespace", &q->name},
                   {"protocol", &q->protocol},
                   {"method", &q->method},
                   {"path", &q->path},
                   {"query", &q->query},
                   {"principal", &q->principal},
                   {"peer", &q->peer}};
    const char *key, *contents;
    int r = sd_bus_message_read(m, "s", &key);

    if (r >= 0)
        r = sd_bus_message_peek_type(m, NULL, &contents);
    if (r < 0)
        return r;
    for (size_t i = 0; i < ELEMENTS(strings); i++)
        if (streq(key, strings[i].key) && streq(contents, "s"))
            return sd_bus_message_read(m, "v", "s", strings[i].value);
    if (streq(key, "deadline") && streq(contents, "u"))
        return sd_bus_message_read(m, "v", "u", &q->deadline_ms);
    if (streq(key, "body") && streq(contents, "h"))
        return sd_bus_message_read(m, "v", "h", ret_body);
    if (!streq(key, "headers") || !streq(contents, "a(ss)"))
        return sd_bus_message_skip(m, "v");
    r = sd_bus_message_enter_container(m, 'v', contents);
    if (r >= 0)
        r = read_headers(m, q);
    return r < 0 ? r : sd_bus_message_exit_container(m);
}

static int read_request(sd_bus_message *m, cgi_request *q, int *ret_fd, sd_bus_error *error)
{
    int r = sd_bus_message_enter_container(m, 'a', "{sv}"), passed = -1, fd;
    const void *body;
    uint64_t sealed;
    size_t size;

    while (r >= 0 && (r = sd_bus_message_enter_container(m, 'e', "sv")) > 0) {
        r = read_field(m, q, &passed);
        if (r >= 0)
            r = sd_bus_message_exit_container(m);
    }
    if (r >= 0)
        r = sd_bus_message_exit_container(m);
    if (r >= 0)
        r = sd_bus_message_read_array(m, 'y', &body, &size);
    if (r < 0)
        return r;
    if (!q->id || !q->method || !q->path)
        return -EINVAL;
    if (passed >= 0) {
        r = hybus_memfd_open(passed, HYBUS_MEMFD_SEALS_SIZE, SIZE_MAX, ret_fd, &sealed);
        q->n_body = r < 0 ? 0 : (size_t)sealed;
        return r < 0 ? hybus_error_set(error, -EINVAL,
                                       "the body is no memfd with the seals shrink "
                                       "and grow")
                     : 0;
    }
    fd = memfd_create("body", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    q->n_body = size;
    if (cgi_write_all(fd, body, size) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        return safe_close(fd), -EIO;
    *ret_fd = fd;
    return 0;
}

static int on_handle(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    cgi_request q = {.deadline_ms = DEADLINE_DEFAULT_MS};
    _cleanup_(closep) int body = -1;
    responder *r = userdata;
    job *j;
    int q_error = read_request(m, &q, &body, error);

    if (q_error < 0)
        return q_error;
    if (r->n_jobs >= RUNNING_MAX) {
        reply_status(m, 503, "Too many requests at a time.\n");
        return 1;
    }
    q.deadline_ms = MAX_OF(q.deadline_ms, 1u);
    q.deadline_ms = MIN_OF(q.deadline_ms, DEADLINE_MAX_MS);
    j = calloc(1, sizeof *j);
    if (!j)
        return -ENOMEM;
    *j = (job){.r = r, .next = r->jobs, .request = sd_bus_message_ref(m), .out = -1};
    r->jobs = j;
    r->n_jobs++;
    j->id = strdup(q.id);
    j->output = malloc(CGI_OUTPUT_MAX); /* touched only as far as it is written */
    if (!j->id || !j->output || start_job(j, &q, body) < 0)
        give_up(j, 500, "The command could not be started.\n");
    return 1;
}

static int on_cancel(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    responder *r = userdata;
    const char *id;

    if (sd_bus_message_read(m, "s", &id) < 0)
        return 1;
    for (job *j = r->jobs; j; j = j->next)
        if (streq(j->id, id)) {
            give_up(j, 504, "Canceled.\n");
            break;
        }
    return 1;
}

static int on_watch(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    return sd_bus_reply_method_return(m, NULL);
}

static const sd_bus_vtable vtable[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD_WITH_ARGS("Handle", SD_BUS_ARGS("a{sv}", request, "ay", body),
                            SD_BUS_RESULT("u", status, "a(ss)", headers, "a{sv}", reply), on_handle,
                            SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD_WITH_ARGS("Cancel", SD_BUS_ARGS("s", id), SD_BUS_NO_RESULT, on_cancel,
                            SD_BUS_VTABLE_UNPRIVILEGED | SD_BUS_VTABLE_METHOD_NO_REPLY),
    SD_BUS_METHOD_WITH_ARGS("Watch", SD_BUS_ARGS("s", path, "u", watchers), SD_BUS_NO_RESULT,
                            on_watch, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

static int on_registered(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const sd_bus_error *e = sd_bus_message_get_error(m);
    responder *r = userdata;
    const char *key;

    if (e) {
        int code;

        /* When it is not there yet, its coming is what we wait for. */
        if (streq(e->name, SD_BUS_ERROR_SERVICE_UNKNOWN) || streq(e->name, SD_BUS_ERROR_NO_REPLY) ||
            streq(e->name, SD_BUS_ERROR_NAME_HAS_NO_OWNER))
            return 0;
        code = ubus_failed(r->u->endpoint, e, -sd_bus_error_get_errno(e));
        end(r, code);
        return 0;
    }
    if (sd_bus_message_read(m, "s", &key) >= 0) {
        free(r->key);
        r->key = strdup(key);
    }
    if (!r->u->quiet)
        fprintf(stderr, "h-ubus: %s\n", r->registered ? "registered again" : "registered");
    r->registered = true;
    return 0;
}

static int register_endpoint(responder *r)
{
    _message_ *m = NULL;
    int q = sd_bus_message_new_method_call(r->u->bus, &m, REGISTRAR, REGISTRAR_PATH, REGISTRAR,
                                           "Register");

    if (q >= 0)
        q = sd_bus_message_append(m, "so", r->u->endpoint, OBJECT);
    if (q >= 0)
        q = sd_bus_message_open_container(m, 'a', "{sv}");
    if (q >= 0 && r->key)
        q = sd_bus_message_append(m, "{sv}", "key", "s", r->key);
    if (q >= 0)
        q = sd_bus_message_close_container(m);
    return q < 0 ? q : sd_bus_call_async(r->u->bus, NULL, m, on_registered, r, r->u->timeout_usec);
}

static int on_registrar(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    const char *name, *old, *new;
    responder *r = userdata;

    if (sd_bus_message_read(m, "sss", &name, &old, &new) >= 0 && *new &&register_endpoint(r) < 0)
        end(r, UBUS_LOCAL);
    return 0;
}

static int on_disconnected(sd_bus_message *m, void *userdata, sd_bus_error *error)
{
    fprintf(stderr, "h-ubus: the bus went away\n");
    end(userdata, UBUS_NO_BUS);
    return 0;
}

int verb_respond(ubus *u, int argc, char *argv[])
{
    responder r = {.u = u, .command = argv};
    sigset_t blocked;
    int code, q;

    if (!u->endpoint || u->endpoint[0] != '/')
        return ubus_usage_error("respond needs --endpoint=/NAME");
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    signal(SIGPIPE, SIG_IGN);
    code = ubus_connect(u);
    if (code)
        return code;
    q = sd_event_new(&r.event);
    if (q >= 0)
        q = sd_event_add_signal(r.event, NULL, SIGTERM, NULL, NULL);
    if (q >= 0)
        q = sd_event_add_signal(r.event, NULL, SIGINT, NULL, NULL);
    if (q >= 0)
        q = sd_bus_attach_event(u->bus, r.event, 0);
    if (q >= 0)
        q = sd_bus_add_object_vtable(u->bus, NULL, OBJECT, "org.hybridos.Responder1", vtable, &r);
    if (q >= 0)
        q = sd_bus_match_signal(u->bus, NULL, "org.freedesktop.DBus.Local",
                                "/org/freedesktop/DBus/Local", "org.freedesktop.DBus.Local",
                                "Disconnected", on_disconnected, &r);
    if (q >= 0)
        q = sd_bus_add_match(u->bus, NULL,
                             "type='signal',sender='org.freedesktop.DBus',"
                             "interface='org.freedesktop.DBus',member='NameOwnerChanged',"
                             "arg0='" REGISTRAR "'",
                             on_registrar, &r);
    if (q >= 0)
        q = register_endpoint(&r);
    if (q >= 0)
        q = sd_event_loop(r.event);
    while (r.jobs)
        job_free(r.jobs);
    free(r.key);
    sd_bus_detach_event(u->bus);
    sd_event_unref(r.event);
    return q < 0 ? ubus_failed("respond", NULL, q) : r.code;
}
