/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <grp.h>
#include <hybus/agent.h>
#include <hybus/json.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#include "agent-socket.h"
#include "fixture.h"

#define STRANGER 60991u /* no rule names it */
#define DAEMON 60990u   /* holds security.row and security.connect */
#define DEADLINE_SECONDS 60

static const char xml[] =
    "<node><interface name=\"org.hybridos.Log1\"><method name=\"Read\"><annotation "
    "name=\"org.hybridos.Permission\" value=\"log.read\"/></method><method name=\"Hidden\"/>"
    "<method name=\"Write\"><annotation name=\"org.hybridos.Permission\" value=\"log.write\"/>"
    "</method><property name=\"Level\" type=\"u\" access=\"read\"><annotation "
    "name=\"org.hybridos.Permission\" value=\"log.read\"/></property></interface></node>";

typedef struct Socket {
    Fixture *f;
    sd_event *event;
    AgentSocket *socket;
    char path[128];
} Socket;

static int set_up(void **state)
{
    Socket *s = calloc(1, sizeof *s);
    int fd;

    assert_non_null(s);
    s->f = fixture_new();
    fixture_write(s->f->settings.vendor_interfaces[0], "org.hybridos.Log1.xml", xml);
    fixture_write(s->f->policy_directories[0], "60-site.policy",
                  "[grant daemon]\nTo = uid:60990\nPermission = security.row security.connect\n"
                  "[grant reader]\nTo = uid:1000\nPermission = log.read\n"
                  "[grant group]\nTo = gid:777\nPermission = log.write\n"
                  "[grant ci]\nTo = token:ci\nPermission = log.write\n");
    fixture_open(s->f);
    assert_true(sd_event_new(&s->event) >= 0);
    snprintf(s->path, sizeof s->path, "%s/agent.sock", s->f->settings.runtime_directory);
    assert_int_equal(chmod(s->f->directory, 0711), 0);
    assert_int_equal(chmod(s->f->settings.runtime_directory, 0711), 0);
    fd = agent_socket_listen(s->path);
    assert_true(fd >= 0);
    assert_int_equal(agent_socket_new(s->event, s->f->security, fd, &s->socket), 0);
    *state = s;
    return 0;
}

static int tear_down(void **state)
{
    Socket *s = *state;

    agent_socket_free(s->socket);
    sd_event_unref(s->event);
    fixture_free(s->f);
    free(s);
    return 0;
}

/* --- a peer ---------------------------------------------------------------------------------- */

/* For tests of what depends on who asks. */
static void need_root(void)
{
    if (geteuid() != 0)
        skip();
}

/* The kernel attests whoever we are at this moment. */
static int connect_as(Socket *s, uint32_t uid)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int r;

    assert_true(fd >= 0);
    strcpy(address.sun_path, s->path);
    assert_true(uid == geteuid() || seteuid(uid) == 0);
    for (unsigned i = 0; i < 100; i++) {
        r = connect(fd, (struct sockaddr *)&address, sizeof address);
        if (r == 0 || errno != EAGAIN)
            break;
        assert_true(sd_event_run(s->event, 0) >= 0); /* the backlog is full */
    }
    assert_int_equal(r, 0);
    assert_true(uid == 0 || getuid() != 0 || seteuid(0) == 0);
    while (sd_event_run(s->event, 0) > 0)
        ;
    return fd;
}

static int connect_peer(Socket *s)
{
    return connect_as(s, geteuid());
}

static bool over(time_t since)
{
    return time(NULL) - since > DEADLINE_SECONDS;
}

static void send_bytes(Socket *s, int fd, const void *data, size_t size)
{
    time_t since = time(NULL);

    while (send(fd, data, size, MSG_NOSIGNAL) < 0) {
        if (errno == EPIPE || errno == ECONNRESET)
            return;
        assert_int_equal(errno, EAGAIN);
        assert_false(over(since));
        assert_true(sd_event_run(s->event, 0) >= 0);
    }
}

static void send_text(Socket *s, int fd, const char *text)
{
    send_bytes(s, fd, text, strlen(text));
}

/* The next packet; NULL: the connection is closed. *ret_fd: what came along, or -1. */
static json_t *receive_with(Socket *s, int fd, int *ret_fd)
{
    static char buffer[HYBUS_AGENT_PACKET_MAX + 1];
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec iov = {buffer, sizeof buffer};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof control};
    time_t since = time(NULL);
    json_t *j;
    ssize_t n;

    *ret_fd = -1;
    while ((n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC)) < 0 && errno == EAGAIN) {
        assert_false(over(since));
        assert_true(sd_event_run(s->event, 10000) >= 0);
        m.msg_controllen = sizeof control;
    }
    if (n <= 0)
        return NULL;
    if (m.msg_controllen > 0 && CMSG_FIRSTHDR(&m))
        memcpy(ret_fd, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof *ret_fd);
    j = json_loadb(buffer, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
    assert_true(json_is_object(j));
    return j;
}

static json_t *receive(Socket *s, int fd)
{
    int passed;
    json_t *j = receive_with(s, fd, &passed);

    safe_close(passed);
    return j;
}

static bool is_closed(Socket *s, int fd)
{
    json_t *j = receive(s, fd);

    json_decref(j);
    return !j;
}

static json_t *ask(Socket *s, int fd, const char *question)
{
    json_t *answer;

    send_text(s, fd, question);
    answer = receive(s, fd);
    assert_non_null(answer);
    return answer;
}

static const char *text_of(const json_t *j, const char *key)
{
    return strempty(json_string_value(json_object_get(j, key)));
}

/* Asks, and expects this error ("": none). */
static void expect(Socket *s, int fd, const char *question, const char *error)
{
    json_t *answer = ask(s, fd, question);

    if (!streq(text_of(answer, "error"), error))
        fail_msg("%.200s gave %s (%s)", question, text_of(answer, "error"),
                 text_of(answer, "message"));
    assert_true(json_is_true(json_object_get(answer, "ok")) == !*error);
    assert_true(!*error || *text_of(answer, "message"));
    json_decref(answer);
}

#define HELLO                                                                                      \
    "{\"id\":1,\"op\":\"hello\",\"version\":1,\"service\":\"logd\",\"interfaces\":"                \
    "[\"org.hybridos.Log1\"]}"

static int connect_and_greet(Socket *s, uint32_t uid)
{
    int fd = connect_as(s, uid);

    expect(s, fd, HELLO, "");
    return fd;
}

/* Whatever somebody does, others are served. */
static void expect_alive(Socket *s)
{
    int fd = connect_and_greet(s, geteuid());

    expect(s, fd, "{\"id\":2,\"op\":\"row\",\"uid\":1000,\"gids\":[]}", "");
    close(fd);
}

static bool bit(const json_t *row, unsigned i)
{
    void *bytes;
    size_t size;
    bool set;

    assert_int_equal(
        hybus_base64_decode(text_of(row, "bits"), strlen(text_of(row, "bits")), &bytes, &size), 0);
    assert_true(i / 8 < size);
    set = ((uint8_t *)bytes)[i / 8] >> (i % 8) & 1;
    free(bytes);
    return set;
}

static json_int_t number_of(const json_t *j, const char *key)
{
    return json_integer_value(json_object_get(j, key));
}

/* --- hello ----------------------------------------------------------------------------------- */

static void test_hello(void **state)
{
    Socket *s = *state;
    int fd = connect_peer(s), passed;
    const hybus_page *page;
    json_t *answer, *member;
    size_t i, bits[4] = {9, 9, 9, 9};

    send_text(s, fd, HELLO);
    answer = receive_with(s, fd, &passed);
    assert_int_equal(number_of(answer, "id"), 1);
    assert_true(json_is_true(json_object_get(answer, "ok")));
    assert_false(json_is_true(json_object_get(answer, "claimed")));
    assert_int_equal(hybus_page_map(passed, &page), 0);
    assert_true(hybus_page_alive(page));
    assert_int_equal(page->epoch, strtoull(text_of(answer, "epoch"), NULL, 10));
    assert_int_equal(number_of(answer, "generation"),
                     hybus_page_writer_generation(s->f->security->page));
    hybus_page_unmap(page);
    close(passed);
    assert_int_equal(json_array_size(json_object_get(answer, "permissions")), 2);
    assert_int_equal(json_array_size(json_object_get(answer, "members")), 4);
    json_array_foreach(json_object_get(answer, "members"), i, member)
    {
        const char *name = json_string_value(json_array_get(member, 1));

        bits[streq(name, "Read")    ? 0
             : streq(name, "Write") ? 1
             : streq(name, "Level") ? 2
                                    : 3] = (size_t)json_integer_value(json_array_get(member, 3));
    }
    assert_true(bits[0] < 2 && bits[1] < 2 && bits[0] != bits[1]);
    assert_int_equal(bits[2], bits[0]);
    assert_int_equal(bits[3], SIZE_MAX); /* -1: nobody */
    json_decref(answer);
    /* Again, for another list. */
    answer = ask(s, fd, "{\"id\":7,\"op\":\"hello\",\"version\":1,\"service\":\"logd\"}");
    assert_int_equal(number_of(answer, "id"), 7);
    assert_int_equal(json_array_size(json_object_get(answer, "members")), 0);
    json_decref(answer);
    close(fd);
}

static void test_hellos_that_are_refused(void **state)
{
    static const struct {
        const char *rest, *error;
    } cases[] = {
        {"\"service\":\"logd\"", "InvalidArgument"},
        {"\"version\":2,\"service\":\"logd\"", "InvalidArgument"},
        {"\"version\":\"1\",\"service\":\"logd\"", "InvalidArgument"},
        {"\"version\":1", "InvalidArgument"},
        {"\"version\":1,\"service\":\"\"", "InvalidArgument"},
        {"\"version\":1,\"service\":\"Log D\"", "InvalidArgument"},
        {"\"version\":1,\"service\":7", "InvalidArgument"},
        {"\"version\":1,\"service\":\"logd\",\"interfaces\":{}", "InvalidArgument"},
        {"\"version\":1,\"service\":\"logd\",\"interfaces\":\"org.hybridos.Log1\"",
         "InvalidArgument"},
        {"\"version\":1,\"service\":\"logd\",\"interfaces\":[1,null,[]]", ""},
        {"\"version\":1,\"service\":\"logd\",\"interfaces\":[\"org.hybridos.Nobody1\"]", ""},
    };
    Socket *s = *state;
    char question[4096];
    int fd = connect_peer(s);

    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        snprintf(question, sizeof question, "{\"id\":1,\"op\":\"hello\",%s}", cases[i].rest);
        expect(s, fd, question, cases[i].error);
    }
    strcpy(question,
           "{\"id\":1,\"op\":\"hello\",\"version\":1,\"service\":\"logd\",\"interfaces\":[\"a\"");
    for (unsigned i = 0; i < AGENT_INTERFACES_MAX; i++)
        strcat(question, ",\"a\"");
    strcat(question, "]}");
    expect(s, fd, question, "LimitExceeded");
    close(fd);
}

/* Whoever asks for more than an answer can hold gets none, and costs little. */
static void test_a_hello_for_everything_at_once(void **state)
{
    Socket *s = *state;
    char *text = NULL, question[4096];
    size_t size;
    FILE *f = open_memstream(&text, &size);
    int fd;

    fprintf(f, "<node><interface name=\"org.hybridos.Big1\">");
    for (unsigned i = 0; i < 1000; i++)
        fprintf(f,
                "<method name=\"M%u\"><annotation name=\"org.hybridos.Permission\" "
                "value=\"big.p%u\"/></method>",
                i, i);
    fprintf(f, "</interface></node>");
    fclose(f);
    fixture_write(s->f->settings.vendor_interfaces[0], "org.hybridos.Big1.xml", text);
    free(text);
    assert_int_equal(security_reload(s->f->security), 1);
    fd = connect_peer(s);
    expect(s, fd,
           "{\"id\":1,\"op\":\"hello\",\"version\":1,\"service\":\"logd\",\"interfaces\":"
           "[\"org.hybridos.Big1\"]}",
           "");
    strcpy(question,
           "{\"id\":1,\"op\":\"hello\",\"version\":1,\"service\":\"logd\",\"interfaces\":["
           "\"org.hybridos.Big1\"");
    for (unsigned i = 1; i < AGENT_INTERFACES_MAX; i++)
        strcat(question, ",\"org.hybridos.Big1\"");
    strcat(question, "]}");
    expect(s, fd, question, "LimitExceeded");
    expect(s, fd, HELLO, "");
    close(fd);
}

/* --- packets --------------------------------------------------------------------------------- */

static void test_packets_that_end_the_connection(void **state)
{
    static const char *const before_hello[] = {
        "{\"id\":1,\"op\":\"row\",\"uid\":0}",
        "{\"id\":1,\"op\":\"judge\",\"uid\":0}",
        "{\"id\":1,\"op\":\"connect\",\"protocol\":\"http\"}",
        "{\"op\":\"used\",\"uid\":0,\"permission\":\"a.b\",\"count\":1}",
        "{\"op\":\"settled\",\"generation\":1}",
        "{\"id\":1,\"op\":\"nothing-like-it\"}",
        "{\"id\":1}",
    };
    static const char *const always[] = {
        "",
        "x",
        "{",
        "[]",
        "null",
        "\"hello\"",
        "{}",
        "{\"id\":1,\"id\":1,\"op\":\"hello\"}",
        "{\"op\":\"hello\",\"version\":1,\"service\":\"logd\"}",
        "{\"id\":0,\"op\":\"hello\",\"version\":1,\"service\":\"logd\"}",
        "{\"id\":-1,\"op\":\"hello\",\"version\":1,\"service\":\"logd\"}",
        "{\"id\":9007199254740993,\"op\":\"hello\",\"version\":1,\"service\":\"logd\"}",
        "{\"id\":99999999999999999999999,\"op\":\"hello\",\"version\":1,\"service\":\"logd\"}",
        "{\"id\":1.5,\"op\":\"hello\",\"version\":1,\"service\":\"logd\"}",
        "{\"id\":\"1\",\"op\":\"hello\",\"version\":1,\"service\":\"logd\"}",
        "{\"id\":1,\"op\":\"hello\",\"service\":\"\xff\xfe\"}",
    };
    Socket *s = *state;
    int fd;

    for (size_t i = 0; i < ELEMENTS(before_hello); i++) {
        fd = connect_peer(s);
        send_text(s, fd, before_hello[i]);
        if (!is_closed(s, fd))
            fail_msg("%s", before_hello[i]);
        close(fd);
    }
    for (size_t i = 0; i < ELEMENTS(always); i++) {
        fd = connect_and_greet(s, geteuid());
        send_text(s, fd, always[i]);
        if (!is_closed(s, fd))
            fail_msg("%s", always[i]);
        close(fd);
    }
    /* An unknown question after hello is only that. */
    fd = connect_and_greet(s, geteuid());
    expect(s, fd, "{\"id\":2,\"op\":\"nothing-like-it\"}", "InvalidArgument");
    expect(s, fd, "{\"id\":2,\"op\":17}", "InvalidArgument");
    close(fd);
    expect_alive(s);
}

static void test_the_length_of_a_packet(void **state)
{
    static char packet[HYBUS_AGENT_PACKET_MAX + 1];
    static const char hello[] = HELLO;
    Socket *s = *state;
    int fd = connect_peer(s);

    memset(packet, ' ', sizeof packet);
    memcpy(packet, hello, sizeof hello - 1);
    send_bytes(s, fd, packet, HYBUS_AGENT_PACKET_MAX);
    json_t *answer = receive(s, fd);
    assert_true(json_is_true(json_object_get(answer, "ok")));
    json_decref(answer);
    send_bytes(s, fd, packet, HYBUS_AGENT_PACKET_MAX + 1);
    assert_true(is_closed(s, fd));
    close(fd);
    /* Deeply nested. */
    fd = connect_peer(s);
    memset(packet, '[', HYBUS_AGENT_PACKET_MAX);
    send_bytes(s, fd, packet, HYBUS_AGENT_PACKET_MAX);
    assert_true(is_closed(s, fd));
    close(fd);
    expect_alive(s);
}

/* Descriptors that come along are closed by the kernel and never pile up here. */
static void test_descriptors_are_not_taken(void **state)
{
    Socket *s = *state;
    int fd = connect_peer(s), ends[2];
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control = {.header = {.cmsg_level = SOL_SOCKET,
                            .cmsg_type = SCM_RIGHTS,
                            .cmsg_len = CMSG_LEN(sizeof(int))}};
    struct iovec iov = {(void *)HELLO, strlen(HELLO)};
    struct msghdr m = {.msg_iov = &iov,
                       .msg_iovlen = 1,
                       .msg_control = &control,
                       .msg_controllen = sizeof control};
    char byte;
    json_t *answer;

    assert_int_equal(pipe(ends), 0);
    memcpy(CMSG_DATA(&control.header), &ends[1], sizeof(int));
    assert_true(sendmsg(fd, &m, 0) > 0);
    close(ends[1]);
    answer = receive(s, fd);
    assert_non_null(answer);
    json_decref(answer);
    assert_int_equal(read(ends[0], &byte, 1), 0); /* nobody holds the other end */
    close(ends[0]);
    close(fd);
}

/* --- rows and judgements --------------------------------------------------------------------- */

static void test_rows(void **state)
{
    Socket *s = *state;
    int fd = connect_and_greet(s, geteuid());
    const Rule *rule;
    hybus_config_error e = {0};
    json_t *row = ask(s, fd,
                      "{\"id\":3,\"op\":\"row\",\"uid\":1000,\"gids\":[1,777],\"permissions\":"
                      "[\"log.read\",\"log.write\",\"x.y\",\"not one\",5]}");
    uint64_t stamp;

    assert_int_equal(number_of(row, "count"), 5);
    assert_true(bit(row, 0));
    assert_true(bit(row, 1));
    assert_false(bit(row, 2) || bit(row, 3) || bit(row, 4));
    assert_int_equal(strtoull(text_of(row, "epoch"), NULL, 10),
                     hybus_page_writer_epoch(s->f->security->page));
    stamp = strtoull(text_of(row, "stamp"), NULL, 10);
    assert_int_equal(
        stamp, hybus_page_writer_slot(s->f->security->page, (uint32_t)number_of(row, "slot")));
    /* A grant moves the slot on. */
    assert_int_equal(
        security_grant(s->f->security, &fixture_root, "", "uid:1000", "x.y", "", &rule, &e), 1);
    assert_true(hybus_page_writer_slot(s->f->security->page, (uint32_t)number_of(row, "slot")) >
                stamp);
    json_decref(row);
    /* Those of hello, if none are named. */
    row = ask(s, fd, "{\"id\":3,\"op\":\"row\",\"uid\":1000}");
    assert_int_equal(number_of(row, "count"), 2);
    assert_true(bit(row, 0) != bit(row, 1));
    json_decref(row);
    row = ask(s, fd, "{\"id\":3,\"op\":\"row\",\"uid\":60992,\"gids\":[]}");
    assert_false(bit(row, 0) || bit(row, 1));
    json_decref(row);
    /* Anonymous, and one whom the bus does not know. */
    row = ask(s, fd, "{\"id\":3,\"op\":\"row\",\"handle\":0}");
    assert_false(bit(row, 0) || bit(row, 1));
    json_decref(row);
    row = ask(s, fd, "{\"id\":3,\"op\":\"row\",\"name\":\":1.5\"}");
    assert_false(bit(row, 0) || bit(row, 1));
    json_decref(row);
    close(fd);
}

static void test_subjects_that_are_none(void **state)
{
    static const struct {
        const char *subject, *error;
    } cases[] = {
        {"\"x\":1", "InvalidArgument"},
        {"\"name\":\"org.hybridos.Log1\"", "InvalidArgument"},
        {"\"name\":5", "InvalidArgument"},
        {"\"uid\":0,\"handle\":0", "InvalidArgument"},
        {"\"uid\":-1", "InvalidArgument"},
        {"\"uid\":4294967296", "InvalidArgument"},
        {"\"uid\":\"0\"", "InvalidArgument"},
        {"\"uid\":0.0", "InvalidArgument"},
        {"\"uid\":null", "InvalidArgument"},
        {"\"uid\":0,\"gids\":0", "InvalidArgument"},
        {"\"uid\":0,\"gids\":[\"a\"]", "InvalidArgument"},
        {"\"uid\":0,\"gids\":[-1]", "InvalidArgument"},
        {"\"handle\":-1", "InvalidArgument"},
        {"\"handle\":\"1\"", "InvalidArgument"},
        {"\"handle\":1", "NotFound"},
        {"\"handle\":9007199254740992", "NotFound"},
    };
    static const char *const ops[] = {"row", "judge"};
    Socket *s = *state;
    int fd = connect_and_greet(s, geteuid());
    char question[8192];

    for (size_t k = 0; k < ELEMENTS(ops); k++)
        for (size_t i = 0; i < ELEMENTS(cases); i++) {
            snprintf(question, sizeof question,
                     "{\"id\":3,\"op\":\"%s\",\"permission\":\"log.read\",%s}", ops[k],
                     cases[i].subject);
            expect(s, fd, question, cases[i].error);
        }
    strcpy(question, "{\"id\":3,\"op\":\"row\",\"uid\":0,\"gids\":[1");
    for (unsigned i = 0; i < POLICY_GROUPS_MAX; i++)
        strcat(question, ",1");
    strcat(question, "]}");
    expect(s, fd, question, "InvalidArgument");
    strcpy(question, "{\"id\":3,\"op\":\"row\",\"uid\":0,\"permissions\":[\"a\"");
    for (unsigned i = 0; i < HYBUS_AGENT_PERMISSIONS_MAX; i++)
        strcat(question, ",\"a\"");
    strcat(question, "]}");
    expect(s, fd, question, "LimitExceeded");
    expect(s, fd, "{\"id\":3,\"op\":\"row\",\"uid\":0,\"permissions\":{}}", "InvalidArgument");
    close(fd);
}

static void test_judgements(void **state)
{
    Socket *s = *state;
    int fd = connect_and_greet(s, geteuid());
    const AuditRecord *record;
    json_t *v = ask(s, fd, "{\"id\":3,\"op\":\"judge\",\"uid\":1000,\"permission\":\"log.read\"}");

    assert_true(json_is_true(json_object_get(v, "allowed")));
    assert_null(json_object_get(v, "audit"));
    json_decref(v);
    v = ask(s, fd,
            "{\"id\":3,\"op\":\"judge\",\"uid\":1000,\"permission\":\"log.write\",\"interface\":"
            "\"org.hybridos.Log1\",\"member\":\"Write\",\"path\":\"/x\",\"kind\":\"m\"}");
    assert_true(json_is_false(json_object_get(v, "allowed")));
    assert_string_equal(text_of(v, "rule"), "default");
    record = audit_find(s->f->security->audit, text_of(v, "audit"));
    assert_non_null(record);
    assert_string_equal(record->subject, "uid:1000");
    assert_string_equal(record->call, "logd: org.hybridos.Log1.Write (method) on /x");
    json_decref(v);
    v = ask(s, fd,
            "{\"id\":3,\"op\":\"judge\",\"uid\":0,\"permission\":null,\"interface\":"
            "\"org.hybridos.Log1\",\"member\":\"Hidden\"}");
    assert_non_null(strstr(text_of(v, "reason"), "no permission"));
    json_decref(v);
    v = ask(s, fd,
            "{\"id\":3,\"op\":\"judge\",\"name\":\":1.7\",\"permission\":null,\"interface\":"
            "\"org.hybridos.Log1\",\"member\":\"Read\"}");
    assert_non_null(strstr(text_of(v, "reason"), "identity"));
    record = audit_find(s->f->security->audit, text_of(v, "audit"));
    assert_string_equal(record->subject, "bus::1.7");
    json_decref(v);
    expect(s, fd, "{\"id\":3,\"op\":\"judge\",\"uid\":0,\"kind\":\"x\"}", "InvalidArgument");
    expect(s, fd, "{\"id\":3,\"op\":\"judge\",\"uid\":0,\"kind\":\"mm\"}", "InvalidArgument");
    close(fd);
}

/* Whoever reads the log of the bus says so; nobody else. */
static void test_what_the_bus_refused(void **state)
{
    static const char refused[] =
        "{\"op\":\"bus-refused\",\"uid\":1000,\"name\":\":1.9\",\"type\":\"m\","
        "\"receive\":false,\"destination\":\"a.B\",\"interface\":\"a.B\",\"member\":"
        "\"C\",\"path\":\"/d\",\"count\":5}";
    Socket *s = *state;
    Security *security = s->f->security;
    int fd = connect_and_greet(s, geteuid());
    const AuditRecord *r;

    send_text(s, fd, refused);
    send_text(s, fd, refused);
    send_text(s, fd, "{\"op\":\"bus-refused\",\"uid\":1000,\"type\":\"x\",\"count\":5}");
    send_text(s, fd, "{\"op\":\"bus-refused\",\"uid\":1000,\"type\":\"mm\",\"count\":5}");
    send_text(s, fd, "{\"op\":\"bus-refused\",\"uid\":1000,\"type\":\"m\",\"count\":0}");
    send_text(s, fd, "{\"op\":\"bus-refused\",\"uid\":-1,\"type\":\"m\",\"count\":1}");
    send_text(s, fd, "{\"op\":\"bus-refused\",\"uid\":\"0\",\"type\":\"m\",\"count\":1}");
    expect(s, fd, HELLO, "");
    r = fixture_record(s->f, "denied");
    assert_string_equal(r->subject, "uid:1000");
    assert_string_equal(r->call, "a.B: a.B.C (method) on /d");
    assert_int_equal(r->layer, 1);
    assert_int_equal(r->count, 10);
    assert_int_equal(security->statistics.denied, 10);
    /* More kinds than could be told apart. */
    send_text(s, fd, "{\"op\":\"bus-refused\",\"name\":\"\",\"type\":\"m\",\"count\":7}");
    expect(s, fd, HELLO, "");
    r = fixture_record(s->f, "denied");
    assert_string_equal(r->subject, "bus:");
    assert_int_equal(r->count, 7);
    close(fd);
    need_root();
    fd = connect_and_greet(s, DAEMON);
    send_text(s, fd, refused);
    expect(s, fd, HELLO, "");
    assert_int_equal(security->statistics.denied, 17);
    close(fd);
}

static void test_uses_and_what_was_turned_away(void **state)
{
    Socket *s = *state;
    int fd = connect_and_greet(s, geteuid());

    send_text(s, fd, "{\"op\":\"used\",\"uid\":1000,\"permission\":\"log.read\",\"count\":1}");
    send_text(s, fd, "{\"op\":\"used\",\"uid\":1000,\"permission\":\"log.read\",\"count\":41}");
    send_text(s, fd, "{\"op\":\"used\",\"handle\":4711,\"permission\":\"log.read\",\"count\":8}");
    send_text(s, fd, "{\"op\":\"used\",\"uid\":1000,\"permission\":\"log read\",\"count\":1}");
    send_text(s, fd, "{\"op\":\"used\",\"uid\":1000,\"permission\":\"log.read\",\"count\":-1}");
    send_text(s, fd, "{\"op\":\"used\",\"uid\":1000,\"permission\":\"log.read\",\"count\":\"1\"}");
    send_text(s, fd, "{\"op\":\"used\"}");
    send_text(s, fd, "{\"op\":\"unjudged\",\"uid\":1000,\"reason\":\"limit\",\"count\":3}");
    send_text(s, fd, "{\"op\":\"unjudged\",\"uid\":1000,\"reason\":\"limit\",\"count\":4}");
    send_text(
        s, fd,
        "{\"op\":\"unjudged\",\"uid\":1000,\"reason\":\"limit\",\"audit\":\"aa-1\",\"count\":5}");
    send_text(
        s, fd,
        "{\"op\":\"unjudged\",\"uid\":1000,\"reason\":\"limit\",\"audit\":\"aa-1\",\"count\":6}");
    send_text(
        s, fd,
        "{\"op\":\"unjudged\",\"uid\":1000,\"reason\":\"limit\",\"audit\":\"no id\",\"count\":7}");
    send_text(s, fd, "{\"op\":\"unjudged\",\"uid\":1000,\"reason\":\"made up\",\"count\":4}");
    send_text(s, fd, "{\"op\":\"unjudged\",\"uid\":1000,\"reason\":\"limit\",\"count\":0}");
    send_text(s, fd,
              "{\"op\":\"unjudged\",\"name\":\":1.9\",\"reason\":\"identity\",\"interface\":"
              "\"a.b\",\"member\":\"C\",\"count\":2}");
    expect(s, fd, HELLO, ""); /* all has been read */
    assert_int_equal(fixture_record(s->f, "allowed")->count, 42);
    assert_string_equal(fixture_record(s->f, "allowed")->rule, "reader");
    assert_int_equal(s->f->security->statistics.used, 50);
    assert_string_equal(fixture_record(s->f, "limited")->subject, "bus::1.9");
    assert_string_equal(fixture_record(s->f, "limited")->call, "logd: a.b.C (method)");
    assert_int_equal(s->f->security->statistics.limited, 27);
    assert_int_equal(audit_find(s->f->security->audit, "aa-1")->count, 11);
    assert_null(audit_find(s->f->security->audit, "no id"));
    close(fd);
}

/* A stranger may connect, say hello and claim the device with its code, and learns nothing else. */
static void test_strangers(void **state)
{
    Socket *s = *state;
    const char *before;
    int fd;

    need_root();
    fd = connect_and_greet(s, STRANGER);
    expect(s, fd, "{\"id\":3,\"op\":\"row\",\"uid\":0,\"gids\":[]}", "AccessDenied");
    expect(s, fd, "{\"id\":3,\"op\":\"row\",\"uid\":60991,\"gids\":[]}", "AccessDenied");
    expect(s, fd, "{\"id\":3,\"op\":\"judge\",\"uid\":60991,\"permission\":\"a.b\"}",
           "AccessDenied");
    expect(s, fd, "{\"id\":3,\"op\":\"connect\",\"protocol\":\"http\"}", "AccessDenied");
    expect(s, fd, "{\"id\":3,\"op\":\"setup\",\"user\":\"eve\"}", "AccessDenied");
    expect(s, fd, "{\"id\":3,\"op\":\"setup\",\"user\":\"eve\",\"code\":\"guess\"}",
           "AccessDenied");
    expect(s, fd, "{\"id\":3,\"op\":\"token-add\",\"name\":\"eve\"}", "AccessDenied");
    before = fixture_record(s->f, "denied")->permission;
    assert_string_equal(before, "security.tokens");
    assert_string_equal(fixture_record(s->f, "denied")->subject, "uid:60991");
    send_text(s, fd, "{\"op\":\"used\",\"uid\":0,\"permission\":\"log.read\",\"count\":1000}");
    send_text(s, fd, "{\"op\":\"unjudged\",\"uid\":0,\"reason\":\"limit\",\"count\":1000}");
    expect(s, fd, HELLO, "");
    assert_int_equal(s->f->security->statistics.used, 0);
    assert_int_equal(s->f->security->statistics.limited, 0);
    close(fd);
    /* A daemon may ask, and change nothing. */
    fd = connect_and_greet(s, DAEMON);
    expect(s, fd, "{\"id\":3,\"op\":\"row\",\"uid\":0,\"gids\":[]}", "");
    expect(s, fd, "{\"id\":3,\"op\":\"connect\",\"protocol\":\"http\"}", "");
    expect(s, fd, "{\"id\":3,\"op\":\"token-add\",\"name\":\"eve\"}", "AccessDenied");
    close(fd);
}

/* Groups are attested as well. */
static void test_groups_of_a_peer(void **state)
{
    gid_t old[256], in[] = {777, 778};
    Socket *s = *state;
    int n, fd;

    need_root();
    fixture_write(s->f->policy_directories[0], "61-group.policy",
                  "[grant by-group]\nTo = gid:778\nPermission = security.row\n");
    assert_int_equal(security_reload(s->f->security), 1);
    n = getgroups(ELEMENTS(old), old);
    assert_true(n >= 0);
    assert_int_equal(setgroups(ELEMENTS(in), in), 0);
    fd = connect_and_greet(s, STRANGER);
    assert_int_equal(setgroups((size_t)n, old), 0);
    expect(s, fd, "{\"id\":3,\"op\":\"row\",\"uid\":0,\"gids\":[]}", "");
    close(fd);
}

/* --- clients from outside -------------------------------------------------------------------- */

static char *make_token(Socket *s, const char *name, uint64_t lifetime)
{
    hybus_config_error e = {0};
    char *secret;

    assert_int_equal(
        security_add_token(s->f->security, &fixture_root, name, NULL, NULL, lifetime, &secret, &e),
        0);
    return secret;
}

static json_t *connect_client(Socket *s, int fd, const char *bearer)
{
    char question[512];

    snprintf(question, sizeof question,
             "{\"id\":5,\"op\":\"connect\",\"protocol\":\"http\",\"peer\":\"192.0.2.1:99\",\"tls\":"
             "\"TLSv1.3\"%s%s%s}",
             bearer ? ",\"bearer\":\"" : "", strempty(bearer), bearer ? "\"" : "");
    return ask(s, fd, question);
}

static bool handle_holds(Socket *s, int fd, json_int_t handle, const char *permission)
{
    char question[256];
    json_t *row;
    bool holds;

    snprintf(question, sizeof question,
             "{\"id\":6,\"op\":\"row\",\"handle\":%lld,\"permissions\":[\"%s\"]}",
             (long long)handle, permission);
    row = ask(s, fd, question);
    assert_true(json_is_true(json_object_get(row, "ok")));
    holds = bit(row, 0);
    json_decref(row);
    return holds;
}

static void expect_no_handle(Socket *s, int fd, json_int_t handle)
{
    char question[256];

    snprintf(question, sizeof question, "{\"id\":6,\"op\":\"row\",\"handle\":%lld}",
             (long long)handle);
    expect(s, fd, question, "NotFound");
}

static void test_clients(void **state)
{
    Socket *s = *state;
    int fd = connect_and_greet(s, geteuid()), other = connect_and_greet(s, geteuid());
    char *secret = make_token(s, "ci", 0), question[64];
    json_t *p = connect_client(s, fd, NULL);
    json_int_t handle;

    assert_int_equal(number_of(p, "handle"), 0);
    assert_string_equal(text_of(p, "principal"), "anonymous");
    assert_string_equal(text_of(p, "expires"), "never");
    json_decref(p);
    p = connect_client(s, fd, secret);
    handle = number_of(p, "handle");
    assert_true(handle > 0);
    assert_string_equal(text_of(p, "principal"), "token:ci");
    json_decref(p);
    assert_true(handle_holds(s, fd, handle, "log.write"));
    assert_false(handle_holds(s, fd, handle, "log.read"));
    /* It is good on this connection only. */
    expect_no_handle(s, other, handle);
    snprintf(question, sizeof question, "{\"op\":\"release\",\"handle\":%lld}", (long long)handle);
    send_text(s, other, question);
    assert_true(handle_holds(s, fd, handle, "log.write"));
    /* Removed, it holds nothing; released, it is not known. */
    assert_int_equal(security_remove_token(s->f->security, &fixture_root, "ci"), 1);
    assert_false(handle_holds(s, fd, handle, "log.write"));
    send_text(s, fd, question);
    expect_no_handle(s, fd, handle);
    send_text(s, fd, question);
    p = connect_client(s, fd, secret);
    assert_string_equal(text_of(p, "error"), "Unauthenticated");
    json_decref(p);
    close(fd);
    close(other);
    free(secret);
}

static void test_throttled_clients(void **state)
{
    Socket *s = *state;
    int fd = connect_and_greet(s, geteuid());
    char *secret = make_token(s, "ci", 0);
    unsigned wrong = 0;
    json_t *p;

    while ((p = connect_client(s, fd, "hyb_guess")) &&
           streq(text_of(p, "error"), "Unauthenticated")) {
        wrong++;
        json_decref(p);
    }
    assert_string_equal(text_of(p, "error"), "Throttled");
    assert_in_range(number_of(p, "retry_after"), 1, 6);
    assert_in_range(wrong, 10, 11);
    json_decref(p);
    p = connect_client(s, fd, secret);
    assert_true(number_of(p, "handle") > 0);
    json_decref(p);
    expect(s, fd, "{\"id\":5,\"op\":\"connect\",\"protocol\":\"HTTP 2\"}", "InvalidArgument");
    expect(s, fd, "{\"id\":5,\"op\":\"connect\"}", "InvalidArgument");
    expect(s, fd, "{\"id\":5,\"op\":\"connect\",\"protocol\":\"http\",\"bearer\":5}",
           "InvalidArgument");
    close(fd);
    free(secret);
}

static void test_handles_are_bounded(void **state)
{
    Socket *s = *state;
    int fd = connect_and_greet(s, geteuid());
    char *secret = make_token(s, "ci", 0), question[64];
    static json_int_t handles[AGENT_HANDLES_MAX];
    unsigned near = 0;
    json_t *p;

    for (unsigned i = 0; i < AGENT_HANDLES_MAX; i++) {
        p = connect_client(s, fd, secret);
        handles[i] = number_of(p, "handle");
        assert_true(handles[i] > 0 && handles[i] <= (json_int_t)1 << 53);
        if (i > 0)
            near += llabs(handles[i] - handles[i - 1]) < 1000000;
        json_decref(p);
    }
    assert_true(near < 3); /* who has one does not know the next */
    p = connect_client(s, fd, secret);
    assert_string_equal(text_of(p, "error"), "LimitExceeded");
    json_decref(p);
    /* Every second one goes; the others are still found, and there is room again. */
    for (unsigned i = 0; i < AGENT_HANDLES_MAX; i += 2) {
        snprintf(question, sizeof question, "{\"op\":\"release\",\"handle\":%lld}",
                 (long long)handles[i]);
        send_text(s, fd, question);
    }
    for (unsigned i = 0; i < AGENT_HANDLES_MAX; i += 511) {
        if (i % 2 == 0)
            expect_no_handle(s, fd, handles[i]);
        else
            assert_true(handle_holds(s, fd, handles[i], "log.write"));
    }
    p = connect_client(s, fd, secret);
    assert_true(number_of(p, "handle") > 0);
    json_decref(p);
    close(fd);
    free(secret);
}

static json_t *next_changed(Socket *s, int fd)
{
    json_t *j = receive(s, fd);

    assert_string_equal(text_of(j, "op"), "changed");
    return j;
}

static void test_an_expired_token_is_announced(void **state)
{
    Socket *s = *state;
    int fd = connect_and_greet(s, geteuid());
    json_t *answer = ask(s, fd, "{\"id\":8,\"op\":\"token-add\",\"name\":\"ci\",\"expires\":1}"),
           *p;
    uint64_t generation = hybus_page_writer_generation(s->f->security->page);
    json_int_t handle;

    p = connect_client(s, fd, text_of(answer, "secret"));
    assert_true(strtoull(text_of(p, "expires"), NULL, 10) > 0);
    handle = number_of(p, "handle");
    assert_true(handle > 0);
    json_decref(answer);
    json_decref(p);
    answer = next_changed(s, fd);
    assert_true((uint64_t)number_of(answer, "generation") > generation);
    assert_false(handle_holds(s, fd, handle, "log.write"));
    json_decref(answer);
    close(fd);
}

/* --- setup and tokens ------------------------------------------------------------------------ */

static void test_setup(void **state)
{
    Socket *s = *state;
    int fd, witness;
    char *code, question[256];
    json_t *answer;

    need_root();
    code = fixture_read(s->f->settings.runtime_directory, "setup-code", NULL);
    witness = connect_and_greet(s, 0);
    fd = connect_as(s, STRANGER);
    snprintf(question, sizeof question,
             "{\"id\":1,\"op\":\"setup\",\"user\":\"admin\",\"code\":\"%s\"}", code);
    answer = ask(s, fd, question);
    assert_true(startswith(text_of(answer, "secret"), "hyb_"));
    json_decref(answer);
    json_decref(next_changed(s, witness)); /* servers open their listeners now */
    expect(s, fd, question, "AccessDenied");
    for (unsigned i = 0; i < 20; i++)
        expect(s, fd, question, "AccessDenied"); /* not throttled: there is nothing to guess */
    close(fd);
    fd = connect_as(s, 0);
    expect(s, fd, "{\"id\":1,\"op\":\"setup\",\"user\":\"second\"}", "");
    expect(s, fd, "{\"id\":1,\"op\":\"setup\",\"user\":\"No Name\"}", "InvalidArgument");
    expect(s, fd, "{\"id\":1,\"op\":\"setup\"}", "InvalidArgument");
    close(fd);
    close(witness);
    free(code);
}

static void test_setup_is_throttled(void **state)
{
    static const char guess[] = "{\"id\":1,\"op\":\"setup\",\"user\":\"eve\",\"code\":\"guess\"}";
    Socket *s = *state;
    json_t *answer;
    int fd;

    need_root();
    fd = connect_as(s, STRANGER);
    for (unsigned i = 0; i < 5; i++)
        expect(s, fd, guess, "AccessDenied");
    /* Another connection is the same peer. */
    close(fd);
    fd = connect_as(s, STRANGER);
    answer = ask(s, fd, guess);
    assert_string_equal(text_of(answer, "error"), "Throttled");
    assert_in_range(number_of(answer, "retry_after"), 1, 60);
    json_decref(answer);
    close(fd);
}

static void test_tokens_are_made(void **state)
{
    static const struct {
        const char *rest, *error;
    } cases[] = {
        {"\"name\":\"a\",\"expires\":0,\"roles\":[\"x\",\"y\"]", ""},
        {"\"name\":\"a\"", "Exists"},
        {"\"name\":\"\"", "InvalidArgument"},
        {"\"name\":\"b\",\"expires\":-1", "InvalidArgument"},
        {"\"name\":\"b\",\"expires\":2147483648", "InvalidArgument"},
        {"\"name\":\"b\",\"expires\":\"60\"", "InvalidArgument"},
        {"\"name\":\"b\",\"expires\":60.5", "InvalidArgument"},
        {"\"name\":\"b\",\"user\":5", "InvalidArgument"},
        {"\"name\":5", "InvalidArgument"},
        {"\"name\":\"b\",\"roles\":\"x\"", "InvalidArgument"},
        {"\"name\":\"b\",\"roles\":[1]", "InvalidArgument"},
        {"\"name\":\"b\",\"roles\":[\"X y\"]", "InvalidArgument"},
        {"\"name\":\"b\",\"user\":\"alice\"", "NotFound"},
        {"\"name\":\"b\",\"user\":\"user:alice\"", "NotFound"},
    };
    Socket *s = *state;
    int fd = connect_peer(s);
    char question[512];

    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        snprintf(question, sizeof question, "{\"id\":1,\"op\":\"token-add\",%s}", cases[i].rest);
        expect(s, fd, question, cases[i].error);
    }
    assert_int_equal(s->f->security->store->n_tokens, 1);
    /* For somebody, as people write it. */
    assert_int_equal(security_add_user(s->f->security, &fixture_root, "alice"), 0);
    expect(s, fd, "{\"id\":1,\"op\":\"token-add\",\"name\":\"b\",\"user\":\"alice\"}", "");
    expect(s, fd, "{\"id\":1,\"op\":\"token-add\",\"name\":\"c\",\"user\":\"user:alice\"}", "");
    assert_string_equal(store_token(s->f->security->store, "b")->principal, "user:alice");
    assert_string_equal(store_token(s->f->security->store, "c")->principal, "user:alice");
    close(fd);
}

/* --- peers that flood or sleep --------------------------------------------------------------- */

static void test_a_flood_without_reading(void **state)
{
    Socket *s = *state;
    int fd = connect_and_greet(s, geteuid());
    time_t since = time(NULL);
    unsigned sent = 0;

    for (;;) {
        ssize_t n = send(fd, HELLO, strlen(HELLO), MSG_NOSIGNAL | MSG_DONTWAIT);

        if (n < 0 && errno != EAGAIN)
            break; /* it was thrown out */
        sent += n > 0;
        assert_false(over(since));
        if (n < 0)
            assert_true(sd_event_run(s->event, 0) >= 0);
    }
    assert_true(sent > AGENT_UNANSWERED_MAX);
    close(fd);
    expect_alive(s);
}

/* Others get their turn while somebody sends without end. */
static void test_a_flood_does_not_starve_others(void **state)
{
    Socket *s = *state;
    int loud = connect_and_greet(s, geteuid()), quiet = connect_and_greet(s, geteuid());
    static const char note[] = "{\"op\":\"used\",\"uid\":1000,\"permission\":\"a.b\",\"count\":1}";
    json_t *answer = NULL;
    unsigned turns = 0;

    send_text(s, quiet, HELLO);
    while (!answer) {
        char buffer[HYBUS_AGENT_PACKET_MAX];
        ssize_t n;

        while (send(loud, note, sizeof note - 1, MSG_NOSIGNAL | MSG_DONTWAIT) > 0)
            ;
        assert_true(sd_event_run(s->event, 0) >= 0);
        assert_true(++turns < 100);
        n = recv(quiet, buffer, sizeof buffer, MSG_DONTWAIT);
        if (n > 0)
            answer = json_loadb(buffer, (size_t)n, 0, NULL);
    }
    json_decref(answer);
    close(loud);
    close(quiet);
}

static void test_a_slow_reader_gets_all_in_order(void **state)
{
    enum { QUESTIONS = 900 };
    Socket *s = *state;
    int fd = connect_and_greet(s, geteuid());
    char question[96];

    for (unsigned i = 1; i <= QUESTIONS; i++) {
        snprintf(question, sizeof question, "{\"id\":%u,\"op\":\"row\",\"uid\":1000}", i);
        send_text(s, fd, question);
        if (i % 64 == 0)
            while (sd_event_run(s->event, 0) > 0)
                ;
    }
    expect_alive(s);
    for (unsigned i = 1; i <= QUESTIONS; i++) {
        json_t *answer = receive(s, fd);

        assert_int_equal(number_of(answer, "id"), i);
        json_decref(answer);
    }
    close(fd);
}

static void test_peers_that_leave_at_any_time(void **state)
{
    Socket *s = *state;

    for (unsigned i = 0; i < 50; i++) {
        int fd = connect_peer(s);

        if (i % 5 > 0)
            send_text(s, fd, HELLO);
        if (i % 5 > 1)
            send_text(s, fd, "{\"id\":2,\"op\":\"row\",\"uid\":1000}");
        if (i % 5 == 3)
            assert_true(sd_event_run(s->event, 0) >= 0);
        if (i % 5 == 4)
            assert_int_equal(shutdown(fd, SHUT_RD), 0);
        close(fd);
        (void)agent_socket_changed(s->socket, NULL, NULL);
    }
    expect_alive(s);
}

/* --- how many -------------------------------------------------------------------------------- */

static void raise_descriptors(void)
{
    struct rlimit limit;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    if (limit.rlim_max < 4096)
        skip();
}

/* Whether the connection was let in. */
static bool is_served(Socket *s, int fd)
{
    char buffer[8];

    while (sd_event_run(s->event, 0) > 0)
        ;
    return recv(fd, buffer, sizeof buffer, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static void test_connections_of_one_user(void **state)
{
    Socket *s = *state;
    int fds[AGENT_CONNECTIONS_PER_UID], fd;

    need_root();
    for (unsigned i = 0; i < AGENT_CONNECTIONS_PER_UID; i++) {
        fds[i] = connect_as(s, STRANGER);
        assert_true(is_served(s, fds[i]));
    }
    fd = connect_as(s, STRANGER);
    assert_false(is_served(s, fd));
    close(fd);
    expect_alive(s);
    close(fds[7]);
    while (sd_event_run(s->event, 0) > 0)
        ;
    fds[7] = connect_as(s, STRANGER);
    assert_true(is_served(s, fds[7]));
    for (unsigned i = 0; i < AGENT_CONNECTIONS_PER_UID; i++)
        close(fds[i]);
}

/* However many strangers come together, those who judge and serve get through. */
static void test_connections_of_all(void **state)
{
    static int fds[AGENT_CONNECTIONS_MAX];
    Socket *s = *state;
    int fd;

    need_root();
    raise_descriptors();
    for (unsigned i = 0; i < AGENT_CONNECTIONS_MAX; i++) {
        fds[i] = connect_as(s, 61000 + i / AGENT_CONNECTIONS_PER_UID);
        assert_true(is_served(s, fds[i]));
    }
    fd = connect_as(s, STRANGER);
    assert_false(is_served(s, fd));
    close(fd);
    fd = connect_as(s, DAEMON);
    assert_true(is_served(s, fd));
    close(fd);
    fd = connect_as(s, 0);
    assert_true(is_served(s, fd));
    close(fd);
    for (unsigned i = 0; i < AGENT_CONNECTIONS_MAX; i++)
        close(fds[i]);
}

/* --- settling -------------------------------------------------------------------------------- */

static void on_settled(void *userdata)
{
    (*(unsigned *)userdata)++;
}

static uint64_t change(Socket *s)
{
    return hybus_page_writer_bump(s->f->security->page, UINT32_MAX);
}

static int connect_and_hold(Socket *s, uint32_t uid)
{
    int fd = connect_and_greet(s, uid);

    expect(s, fd, "{\"id\":2,\"op\":\"row\",\"uid\":1000}", "");
    return fd;
}

static void settle(Socket *s, int fd, uint64_t generation)
{
    char note[64];

    snprintf(note, sizeof note, "{\"op\":\"settled\",\"generation\":%llu}",
             (unsigned long long)generation);
    send_text(s, fd, note);
}

static void turns(Socket *s)
{
    for (unsigned i = 0; i < 20; i++)
        assert_true(sd_event_run(s->event, 0) >= 0);
}

static void test_it_waits_for_all_who_hold_something(void **state)
{
    Socket *s = *state;
    int a = connect_and_hold(s, geteuid()), b = connect_and_hold(s, geteuid());
    int idle = connect_and_greet(s, geteuid()), mute = connect_peer(s);
    uint64_t generation = change(s);
    unsigned done = 0;
    json_t *told;

    assert_int_equal(agent_socket_changed(s->socket, on_settled, &done), 0);
    assert_int_equal(done, 0); /* never from inside */
    told = next_changed(s, a);
    assert_int_equal(number_of(told, "generation"), generation);
    json_decref(told);
    json_decref(next_changed(s, b));
    json_decref(next_changed(s, idle));
    settle(s, a, generation);
    turns(s);
    assert_int_equal(done, 0);
    settle(s, b, generation - 1); /* of an earlier change */
    turns(s);
    assert_int_equal(done, 0);
    settle(s, b, generation);
    turns(s);
    assert_int_equal(done, 1);
    /* One that leaves is one less to wait for. */
    generation = change(s);
    assert_int_equal(agent_socket_changed(s->socket, on_settled, &done), 0);
    settle(s, a, generation);
    turns(s);
    assert_int_equal(done, 1);
    close(b);
    turns(s);
    assert_int_equal(done, 2);
    /* With nobody to wait for it is over at once. */
    close(a);
    turns(s);
    (void)change(s);
    assert_int_equal(agent_socket_changed(s->socket, on_settled, &done), 0);
    turns(s);
    assert_int_equal(done, 3);
    close(idle);
    close(mute);
}

static uint64_t monotonic(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

/* A silent peer is cut off: it costs a revocation two seconds, once. */
static void test_a_silent_peer_is_disconnected(void **state)
{
    Socket *s = *state;
    int silent = connect_and_hold(s, geteuid()), good = connect_and_hold(s, geteuid());
    uint64_t generation = change(s), since = monotonic();
    unsigned done = 0, again = 0;

    assert_int_equal(agent_socket_changed(s->socket, on_settled, &done), 0);
    settle(s, good, generation);
    while (!done)
        assert_true(sd_event_run(s->event, UINT64_C(60000000)) >= 0);
    assert_true(monotonic() - since >= AGENT_SETTLE_USEC);
    json_decref(next_changed(s, silent));
    assert_true(is_closed(s, silent));
    json_decref(next_changed(s, good));
    expect(s, good, "{\"id\":2,\"op\":\"row\",\"uid\":1000}", "");
    generation = change(s);
    assert_int_equal(agent_socket_changed(s->socket, on_settled, &again), 0);
    settle(s, good, generation);
    turns(s);
    assert_int_equal(again, 1);
    close(silent);
    close(good);
}

static void test_waiting_is_bounded(void **state)
{
    Socket *s = *state;
    int fd = connect_and_hold(s, geteuid());
    unsigned done = 0;
    uint64_t generation = change(s);

    for (unsigned i = 0; i < AGENT_SETTLING_MAX; i++)
        assert_int_equal(agent_socket_changed(s->socket, on_settled, &done), 0);
    assert_int_equal(agent_socket_changed(s->socket, on_settled, &done), -ENOBUFS);
    settle(s, fd, generation);
    turns(s);
    assert_int_equal(done, AGENT_SETTLING_MAX);
    /* What still waits when the socket goes is not called any more. */
    (void)change(s);
    assert_int_equal(agent_socket_changed(s->socket, on_settled, &done), 0);
    close(fd);
}

/* --- without a socket ------------------------------------------------------------------------ */

static void test_feed(void **state)
{
    Socket *s = *state;
    static const char question[] = "{\"id\":3,\"op\":\"judge\",\"uid\":5,\"permission\":\"a.b\"}";
    char *answer;

    assert_int_equal(agent_socket_feed(s->f->security, 0, question, strlen(question), &answer), 0);
    assert_non_null(strstr(answer, "\"allowed\":false"));
    free(answer);
    assert_int_equal(agent_socket_feed(s->f->security, 0, "{", 1, &answer), -EPROTO);
    assert_null(answer);
}

#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_hello),
        T(test_hellos_that_are_refused),
        T(test_a_hello_for_everything_at_once),
        T(test_packets_that_end_the_connection),
        T(test_the_length_of_a_packet),
        T(test_descriptors_are_not_taken),
        T(test_rows),
        T(test_subjects_that_are_none),
        T(test_judgements),
        T(test_what_the_bus_refused),
        T(test_uses_and_what_was_turned_away),
        T(test_strangers),
        T(test_groups_of_a_peer),
        T(test_clients),
        T(test_throttled_clients),
        T(test_handles_are_bounded),
        T(test_an_expired_token_is_announced),
        T(test_setup),
        T(test_setup_is_throttled),
        T(test_tokens_are_made),
        T(test_a_flood_without_reading),
        T(test_a_flood_does_not_starve_others),
        T(test_a_slow_reader_gets_all_in_order),
        T(test_peers_that_leave_at_any_time),
        T(test_connections_of_one_user),
        T(test_connections_of_all),
        T(test_it_waits_for_all_who_hold_something),
        T(test_a_silent_peer_is_disconnected),
        T(test_waiting_is_bounded),
        T(test_feed),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
