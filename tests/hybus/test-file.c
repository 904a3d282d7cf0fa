/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <hybus/file.h>
#include <sys/mman.h>
#include <sys/stat.h>

static int file_of(const char *text)
{
    int fd = memfd_create("file", MFD_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    assert_int_equal(lseek(fd, 0, SEEK_SET), 0);
    return fd;
}

static void test_all_of_it(void **state)
{
    static const char *const texts[] = {"", "a", "hello\n"};

    for (size_t i = 0; i < ELEMENTS(texts); i++) {
        _cleanup_(closep) int fd = file_of(texts[i]);
        _cleanup_(freep) void *data = NULL;
        size_t size = 99;

        assert_int_equal(hybus_file_read(fd, strlen(texts[i]), &data, &size), 0);
        assert_int_equal(size, strlen(texts[i]));
        assert_string_equal(data, texts[i]);
        for (size_t k = 0; k < HYBUS_FILE_PADDING; k++)
            assert_int_equal(((char *)data)[size + k], 0);
    }
}

static void test_what_is_too_large_or_no_file(void **state)
{
    _cleanup_(closep) int fd = file_of("hello"), directory = open("/", O_RDONLY | O_CLOEXEC),
                          null = open("/dev/zero", O_RDONLY | O_CLOEXEC);
    int pipe[2];
    void *data = &pipe;
    size_t size = 99;

    assert_int_equal(hybus_file_read(fd, 4, &data, &size), -EFBIG);
    assert_int_equal(hybus_file_read(directory, 4096, &data, &size), -EBADMSG);
    assert_int_equal(hybus_file_read(null, 4096, &data, &size), -EBADMSG);
    assert_int_equal(pipe2(pipe, O_CLOEXEC | O_NONBLOCK), 0);
    assert_int_equal(hybus_file_read(pipe[0], 4096, &data, &size), -EBADMSG);
    assert_int_equal(hybus_file_read(-1, 4096, &data, &size), -EBADF);
    assert_ptr_equal(data, &pipe);
    assert_int_equal(size, 99);
    close(pipe[0]);
    close(pipe[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_of_it),
        cmocka_unit_test(test_what_is_too_large_or_no_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
