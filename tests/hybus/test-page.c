/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cmocka.h>

#include <hybus/page.h>

/* --- passing the page ------------------------------------------------------------------------ */

static void send_fd(int socket, int fd)
{
    char space[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {0};
    struct iovec iov = {"x", 1};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &fd, sizeof fd);
    if (sendmsg(socket, &msg, 0) != 1)
        _exit(9);
}

static int receive_fd(int socket)
{
    char space[CMSG_SPACE(sizeof(int))] __attribute__((aligned(8))) = {0}, byte;
    struct iovec iov = {&byte, 1};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    int fd;

    assert_int_equal(recvmsg(socket, &msg, MSG_CMSG_CLOEXEC), 1);
    assert_non_null(CMSG_FIRSTHDR(&msg));
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&msg)), sizeof fd);
    return fd;
}

/* A child that has a page and does whatever `act` says, once a byte comes. */
static pid_t writer(void (*act)(hybus_page_writer *w), int *ret_socket, const hybus_page **ret)
{
    int pair[2], fd;
    pid_t pid;

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        hybus_page_writer *w;
        char byte;

        close(pair[0]);
        if (hybus_page_writer_new(&w) < 0)
            _exit(8);
        send_fd(pair[1], hybus_page_writer_fd(w));
        while (read(pair[1], &byte, 1) == 1) {
            act(w);
            if (write(pair[1], "d", 1) != 1)
                break;
        }
        _exit(0);
    }
    close(pair[1]);
    fd = receive_fd(pair[0]);
    assert_int_equal(hybus_page_map(fd, ret), 0);
    close(fd);
    *ret_socket = pair[0];
    return pid;
}

static void nudge(int socket)
{
    char byte;

    assert_int_equal(write(socket, "x", 1), 1);
    assert_int_equal(read(socket, &byte, 1), 1);
}

/* --- tests ----------------------------------------------------------------------------------- */

static void nothing(hybus_page_writer *w)
{
}

static void test_killed_writer_is_seen(void **state)
{
    const hybus_page *page;
    int socket;
    pid_t pid = writer(nothing, &socket, &page);

    nudge(socket);
    assert_true(hybus_page_alive(page));
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_false(hybus_page_alive(page));
    hybus_page_unmap(page);
    close(socket);
}

static void test_exiting_writer_is_seen(void **state)
{
    const hybus_page *page;
    int socket;
    pid_t pid = writer(nothing, &socket, &page);

    close(socket);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_false(hybus_page_alive(page));
    hybus_page_unmap(page);
}

static void execute(hybus_page_writer *w)
{
    execl("/bin/sleep", "sleep", "1000", NULL);
}

/* A program that replaces the writer does not inherit its life. */
static void test_exec_is_death(void **state)
{
    const hybus_page *page;
    int socket;
    char byte;
    pid_t pid = writer(execute, &socket, &page);

    assert_int_equal(write(socket, "x", 1), 1);
    /* The kernel closes the child's end after it has marked the page. */
    assert_int_equal(read(socket, &byte, 1), 0);
    assert_false(hybus_page_alive(page));
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    hybus_page_unmap(page);
    close(socket);
}

static void test_fork_is_not_life(void **state)
{
    _cleanup_(hybus_page_writer_freep) hybus_page_writer *w = NULL;
    const hybus_page *page;
    pid_t pid;

    assert_int_equal(hybus_page_writer_new(&w), 0);
    assert_int_equal(hybus_page_map(hybus_page_writer_fd(w), &page), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    /* A child that goes does not take its parent with it. */
    assert_true(hybus_page_alive(page));
    hybus_page_unmap(page);
}

static void bump(hybus_page_writer *w)
{
    (void)hybus_page_writer_bump(w, 7);
}

static void test_counters(void **state)
{
    const hybus_page *page;
    uint64_t before, other, generation;
    int socket;
    pid_t pid = writer(bump, &socket, &page);

    before = hybus_page_slot(page, 7);
    other = hybus_page_slot(page, 8);
    generation = atomic_load(&page->generation);
    nudge(socket);
    assert_int_equal(hybus_page_slot(page, 7), before + 1);
    assert_int_equal(hybus_page_slot(page, 8), other);
    assert_int_equal(atomic_load(&page->generation), generation + 1);
    close(socket);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    hybus_page_unmap(page);
}

static void test_sealed(void **state)
{
    _cleanup_(hybus_page_writer_freep) hybus_page_writer *w = NULL;
    const hybus_page *page;
    int fd;

    assert_int_equal(hybus_page_writer_new(&w), 0);
    fd = hybus_page_writer_fd(w);
    assert_true(write(fd, "x", 1) < 0);
    assert_true(ftruncate(fd, 0) < 0);
    assert_true(ftruncate(fd, 1 << 20) < 0);
    assert_ptr_equal(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0), MAP_FAILED);
    assert_int_equal(hybus_page_map(fd, &page), 0);
    assert_true(mprotect((void *)page, 4096, PROT_READ | PROT_WRITE) < 0);
    hybus_page_unmap(page);
}

static void test_freed_writer_is_dead(void **state)
{
    hybus_page_writer *w, *second;
    const hybus_page *page;

    assert_int_equal(hybus_page_writer_new(&w), 0);
    assert_int_equal(hybus_page_writer_new(&second), -EBUSY);
    assert_int_equal(hybus_page_map(hybus_page_writer_fd(w), &page), 0);
    assert_true(hybus_page_alive(page));
    hybus_page_writer_free(w);
    assert_false(hybus_page_alive(page));
    hybus_page_unmap(page);
    assert_int_equal(hybus_page_writer_new(&w), 0);
    hybus_page_writer_free(w);
}

static void test_wrong_descriptors(void **state)
{
    const int all = F_SEAL_FUTURE_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    const int some[] = {0, all & ~F_SEAL_FUTURE_WRITE, all & ~F_SEAL_SHRINK, all & ~F_SEAL_SEAL};
    const hybus_page *page = (void *)1;
    int fd, pipes[2];

    assert_int_equal(pipe(pipes), 0);
    assert_true(hybus_page_map(pipes[0], &page) < 0);
    close(pipes[0]);
    close(pipes[1]);
    fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    assert_true(hybus_page_map(fd, &page) < 0);
    close(fd);
    assert_true(hybus_page_map(-1, &page) < 0);
    for (size_t i = 0; i < ELEMENTS(some); i++) {
        fd = memfd_create("x", MFD_ALLOW_SEALING | MFD_CLOEXEC);
        assert_int_equal(ftruncate(fd, sizeof(hybus_page)), 0);
        assert_int_equal(fcntl(fd, F_ADD_SEALS, some[i]), 0);
        assert_int_equal(hybus_page_map(fd, &page), -EPERM);
        close(fd);
    }
    /* Well sealed, but too small, or without content. */
    for (size_t size = 4096; size <= sizeof(hybus_page); size += sizeof(hybus_page) - 4096) {
        fd = memfd_create("x", MFD_ALLOW_SEALING | MFD_CLOEXEC);
        assert_int_equal(ftruncate(fd, (off_t)size), 0);
        assert_int_equal(fcntl(fd, F_ADD_SEALS, all), 0);
        assert_int_equal(hybus_page_map(fd, &page), -EPROTO);
        close(fd);
    }
    assert_ptr_equal(page, (void *)1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed_writer_is_seen),
        cmocka_unit_test(test_exiting_writer_is_seen),
        cmocka_unit_test(test_exec_is_death),
        cmocka_unit_test(test_fork_is_not_life),
        cmocka_unit_test(test_counters),
        cmocka_unit_test(test_sealed),
        cmocka_unit_test(test_freed_writer_is_dead),
        cmocka_unit_test(test_wrong_descriptors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
