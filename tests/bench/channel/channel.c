/* SPDX-License-Identifier: Apache-2.0 */

/* Requests a second of the core alone: a responder in another process, no protocol library in
 * front, every request policy-checked from a warm row. Arguments: requests in flight (128), seconds
 * (3). Prints one JSON object. */

#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "device.h"

#define KEY "0123456789abcdef"
#define BODY 200

static uint64_t done;
static client c;
static size_t open_now;

static void on_reply(endpoint_request *r, unsigned status, const endpoint_field *headers, size_t n,
                     const void *body, size_t size, bool end, void *userdata)
{
    if (status != 200 || size != BODY || !end)
        abort();
    done++;
    open_now--;
    endpoint_request_free(r);
}

static const endpoint_reply_ops ops = {.reply = on_reply};

/* Drains what has come, answers all of it with one write. */
static _Noreturn void respond(int fd)
{
    static uint8_t in[1 << 20], body[BODY];
    hybus_frame_queue out = {.max = 64u << 20};
    size_t size = 0;

    for (;;) {
        ssize_t n = recv(fd, in + size, sizeof(in) - size, 0), k;
        size_t at = 0;
        hybus_frame f;

        if (n <= 0)
            _exit(0);
        size += (size_t)n;
        while ((k = hybus_frame_parse(in + at, size - at, &f)) > 0) {
            at += (size_t)k;
            if (f.type == CHANNEL_REQUEST) {
                hybus_frame_begin(&out, CHANNEL_RESPONSE, CHANNEL_END, 200, f.stream, 0);
                hybus_frame_put(&out, "content-type", "application/json");
                hybus_frame_put_body(&out, body, sizeof(body));
                if (hybus_frame_end(&out) < 0)
                    _exit(1);
            }
        }
        memmove(in, in + at, size - at);
        size -= at;
        while (hybus_frame_queue_pending(&out) > 0) {
            n = send(fd, out.buffer + out.start, hybus_frame_queue_pending(&out), MSG_NOSIGNAL);
            if (n <= 0)
                _exit(0);
            out.start += (size_t)n;
        }
        out.start = out.end = 0;
    }
}

int main(int argc, char *argv[])
{
    static const endpoint_field headers[] = {{"accept", 6, "application/json", 16},
                                             {"user-agent", 10, "bench", 5},
                                             {"host", 4, "localhost", 9}};
    size_t in_flight = argc > 1 ? (size_t)atoi(argv[1]) : 128;
    uint64_t seconds = argc > 2 ? (uint64_t)atoi(argv[2]) : 3, start;
    endpoint_settings s = {.requests_peer_max = 1024};
    endpoint_request_info i = {.method = "GET",
                               .path = "/bench/x",
                               .query = "",
                               .headers = headers,
                               .n_headers = 3,
                               .body_end = true};
    device *d = device_new(&s, NULL);
    endpoint_request *r;
    struct rusage usage;
    double elapsed;
    side *app;
    pid_t pid;

    agent_fake_grant(d->agent, "anonymous", ALLOW_ALL);
    registrar_channel(d, "/bench", KEY);
    app = app_attached(d, "/bench", KEY);
    pid = fork();
    if (pid == 0)
        respond(app->fd);
    client_new(d, &c, NULL);
    start = timer_now();
    while (timer_now() - start < seconds * 1000000u) {
        while (open_now < in_flight) {
            open_now++;
            if (endpoint_request_new(c.peer, &i, &ops, NULL, &r) < 0)
                return 1;
        }
        endpoint_core_flush(d->core);
        device_turn(d);
    }
    elapsed = (double)(timer_now() - start) / 1e6;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"name\":\"channel\",\"in_flight\":%zu,\"requests_per_second\":%.0f,\"cpu_us_per_"
           "request\":%.2f}\n",
           in_flight, (double)done / elapsed,
           ((double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6 +
            (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec)) /
               (double)MAX_OF(done, (uint64_t)1));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    return 0;
}
