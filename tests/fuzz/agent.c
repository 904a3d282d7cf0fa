/* SPDX-License-Identifier: Apache-2.0 */

/* What the agent answers, as its client reads it: one packet a line, to questions 1 (a row), 2 (a
 * judgement), 3 (a connect request) and 4 (an exchange). Every callback comes at most once. */

#include <assert.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <hybus/agent-internal.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int answers[4];

static void on_row(hybus_row *row, int error, void *userdata)
{
    assert(++answers[0] == 1 && (error < 0) == !row);
    for (uint32_t i = 0; row && i < row->n_bits; i++)
        (void)hybus_row_bit(row, i);
    assert(!row || (row->slot < HYBUS_PAGE_SLOTS && !hybus_row_bit(row, row->n_bits)));
    free(row);
}

static void on_verdict(const hybus_verdict *v, int error, void *userdata)
{
    assert(++answers[1] == 1 && (error < 0) == !v);
    assert(!v || (v->audit && v->rule && v->reason));
}

static void on_principal(const hybus_principal *p, int error, uint64_t retry, void *userdata)
{
    assert(++answers[2] == 1 && (error < 0) == !p);
    assert(!p || p->name);
}

static void on_reply(const char *reply, size_t size, int error, void *userdata)
{
    assert(++answers[3] == 1 && (error < 0) == !reply);
}

static void greet(hybus_agent *a, hybus_page_writer *w)
{
    char text[512];
    int n = snprintf(
        text, sizeof text,
        "{\"id\":%llu,\"ok\":true,\"epoch\":\"%llu\",\"generation\":1,\"permissions\":[\"p\","
        "\"q\"],\"members\":[[\"i\",\"m\",\"m\",0],[\"i\",\"n\",\"g\",-1]]}",
        (unsigned long long)HYBUS_AGENT_PENDING_MAX << 32,
        (unsigned long long)hybus_page_writer_epoch(w));

    assert(hybus_agent_packet(a, text, (size_t)n, hybus_page_writer_fd(w)) == 0);
    assert(hybus_agent_alive(a));
}

static void ask(hybus_agent *a)
{
    const hybus_subject subject = {.uid = 1};
    const hybus_call call = {.interface = "i", .member = "m", .kind = HYBUS_MEMBER_METHOD};
    const hybus_connection connection = {.protocol = "http", .bearer = "t"};

    assert(hybus_agent_row(a, &subject, NULL, 0, on_row, NULL, NULL) == 0);
    assert(hybus_agent_judge(a, &subject, &call, on_verdict, NULL, NULL) == 0);
    assert(hybus_agent_check_connection(a, &connection, on_principal, NULL, NULL) == 0);
    assert(hybus_agent_exchange(a, "{\"op\":\"x\"}", on_reply, NULL, NULL) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *at = (const char *)data, *end = at + size;
    hybus_page_writer *w = NULL;
    sd_event *event = NULL;
    hybus_agent *a = NULL;
    char directory[] = "/tmp/fuzz-agent-XXXXXX";
    int fd, backlog = 1;

    memset(answers, 0, sizeof answers);
    /* A listener that never accepts: what is sent to it stays in its queue. */
    assert(mkdtemp(directory));
    snprintf(address.sun_path, sizeof address.sun_path, "%s/s", directory);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    assert(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0);
    assert(listen(fd, backlog) == 0);
    assert(sd_event_new(&event) >= 0);
    assert(hybus_page_writer_new(&w) == 0);
    assert(hybus_agent_new(event, "fuzz", NULL, address.sun_path, &a) == 0);
    greet(a, w);
    ask(a);
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((newline ? newline : end) - at);

        if (hybus_agent_packet(a, at, n, -1) < 0)
            break; /* the connection would be closed */
        at += n + 1;
    }
    hybus_agent_free(a);
    hybus_page_writer_free(w);
    sd_event_unref(event);
    close(fd);
    unlink(address.sun_path);
    rmdir(directory);
    return 0;
}
