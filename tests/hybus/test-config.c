/* SPDX-License-Identifier: Apache-2.0 */
#include <fcntl.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>

#include <cmocka.h>

#include <hybus/config.h>

static int parse(hybus_config **ret, const char *text, size_t size, char **ret_message)
{
    hybus_config_error e = {0};
    int r;

    assert_int_equal(hybus_config_new(ret), 0);
    r = hybus_config_parse(*ret, "f", text, size, &e);
    *ret_message = e.message;
    return r;
}

static void expect_error(const char *text, size_t size, const char *message)
{
    _cleanup_(hybus_config_freep) hybus_config *c = NULL;
    _cleanup_(freep) char *got = NULL;
    const hybus_config_section *sections;

    assert_int_equal(parse(&c, text, size, &got), -EBADMSG);
    assert_non_null(got);
    assert_string_equal(got, message);
    assert_int_equal(hybus_config_sections(c, &sections), 0);
}
#define EXPECT_ERROR(text, message) expect_error(text, sizeof(text) - 1, message)

static void test_parse(void **state)
{
    static const char text[] = "# c\n"
                               "; c\n"
                               "\n"
                               "[grant operators read]\r\n"
                               "  To =  a  b \t\n"
                               "Long=one \\\n"
                               "  # not part of it\n"
                               "\ttwo\\\n"
                               "three\n"
                               "Empty =\n"
                               "[other]\n"
                               "[grant  x ]\n"
                               "Utf8 = gr\xc3\xbc\xc3\x9f # kept\n"
                               "Last = no newline";
    _cleanup_(hybus_config_freep) hybus_config *c = NULL;
    _cleanup_(freep) char *message = NULL;
    const hybus_config_section *s;

    assert_int_equal(parse(&c, text, sizeof text - 1, &message), 0);
    assert_int_equal(hybus_config_sections(c, &s), 3);
    assert_string_equal(s[0].name, "grant");
    assert_string_equal(s[0].argument, "operators read");
    assert_int_equal(s[0].at.line, 4);
    assert_int_equal(s[0].n_entries, 3);
    assert_string_equal(s[0].entries[0].key, "To");
    assert_string_equal(s[0].entries[0].value, "a  b");
    assert_int_equal(s[0].entries[0].at.line, 5);
    assert_int_equal(s[0].entries[0].at.column, 3);
    assert_int_equal(s[0].entries[0].value_at.column, 9);
    assert_string_equal(s[0].entries[1].value, "one two three");
    assert_string_equal(s[0].entries[2].value, "");
    assert_int_equal(s[0].entries[2].at.line, 10);
    assert_string_equal(s[1].argument, "");
    assert_int_equal(s[1].n_entries, 0);
    assert_string_equal(s[2].argument, "x");
    assert_string_equal(s[2].entries[0].value, "gr\xc3\xbc\xc3\x9f # kept");
    assert_string_equal(s[2].entries[1].value, "no newline");
    assert_string_equal(s[2].entries[1].at.file, "f");
}

static void test_errors(void **state)
{
    EXPECT_ERROR("A = b\n", "f:1:1: a setting needs a [section] above it");
    EXPECT_ERROR("[a]\nfoo bar\n", "f:2:5: expected \"Key = value\", \"[section]\" or a comment");
    EXPECT_ERROR("[a]\n = b\n", "f:2:2: expected \"Key = value\", \"[section]\" or a comment");
    EXPECT_ERROR("[a\n", "f:1:3: \"]\" is missing");
    EXPECT_ERROR("[]\n", "f:1:2: a section needs a name: [name]");
    EXPECT_ERROR("[a] x\n", "f:1:4: text after \"]\"");
    EXPECT_ERROR("[a b[c]\n", "f:1:4: \"[\" inside a section's head");
    EXPECT_ERROR("[a]\nB = \xff\n", "f:2:5: not valid UTF-8");
    EXPECT_ERROR("[a]\nB = \xc0\xaf\n", "f:2:5: not valid UTF-8");
    EXPECT_ERROR("[a]\nB = \xed\xa0\x80\n", "f:2:5: not valid UTF-8");
    EXPECT_ERROR("[a]\nB = x\0y\n", "f:2:6: NUL byte");
    EXPECT_ERROR("[a]\nB = x\033y\n", "f:2:6: control character");
    EXPECT_ERROR("[a]\nB = x\\", "f:2:1: the file ends after a line that is to be continued");
}

static void test_limits(void **state)
{
    size_t size = 1024 * 1024 + 1;
    _cleanup_(freep) char *text = malloc(size);

    assert_non_null(text);
    memset(text, '\n', size);
    expect_error(text, size, "f:1:1: file larger than 1 MiB");
    memset(text, 'x', size);
    memcpy(text, "[a]\nB=", 6);
    expect_error(text, 70000, "f:2:65537: line longer than 64 KiB");
    for (size_t i = 6; i + 2 < 200000; i += 1000)
        memcpy(text + i, "\\\n", 2);
    expect_error(text, 200000, "f:2:1: continued line longer than 64 KiB");
}

/* A file has to bring its own section: entries never fall into that of the file before it. */
static void test_files_do_not_flow_together(void **state)
{
    _cleanup_(hybus_config_freep) hybus_config *c = NULL;
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    const hybus_config_section *s;

    assert_int_equal(hybus_config_new(&c), 0);
    assert_int_equal(hybus_config_parse(c, "a", "[x]\nA=1\n", 8, &e), 0);
    assert_int_equal(hybus_config_parse(c, "a", "B=2\n", 4, &e), -EBADMSG);
    assert_int_equal(hybus_config_parse(c, "b", "[y]\nB=2\n!\n", 10, &e), -EBADMSG);
    assert_int_equal(hybus_config_sections(c, &s), 1);
    assert_int_equal(s[0].n_entries, 1);
}

/* --- directories ----------------------------------------------------------------------------- */

static char root[64];

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static int make_root(void **state)
{
    strcpy(root, "/tmp/test-config-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    return nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static const char *path_of(const char *name)
{
    static char path[256];

    snprintf(path, sizeof path, "%s/%s", root, name);
    return path;
}

static void put(const char *name, const char *text)
{
    FILE *f = fopen(path_of(name), "we");

    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static int read_three(hybus_config *c, hybus_config_file_check check, hybus_config_error *e)
{
    char a[128], b[128], d[128];
    const char *const directories[] = {a, b, d, NULL};

    snprintf(a, sizeof a, "%s/a", root);
    snprintf(b, sizeof b, "%s/b", root);
    snprintf(d, sizeof d, "%s/missing", root);
    return hybus_config_read_directories(c, directories, ".conf", check, e);
}

static void test_directories(void **state)
{
    _cleanup_(hybus_config_freep) hybus_config *c = NULL;
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    const hybus_config_section *s;
    const hybus_config_shadow *shadows;

    assert_int_equal(mkdir(path_of("a"), 0700), 0);
    assert_int_equal(mkdir(path_of("b"), 0700), 0);
    put("b/10-first.conf", "[first]\n");
    put("b/20-both.conf", "[loses]\n");
    put("a/20-both.conf", "[wins]\n");
    put("b/30-masked.conf", "[masked]\n");
    assert_int_equal(symlink("/dev/null", path_of("a/30-masked.conf")), 0);
    put("b/40-empty.conf", "[masked]\n");
    put("a/40-empty.conf", "");
    put("a/05-zero.conf", "[zero]\n");
    put("a/50-other.txt", "not read");
    put("a/.hidden.conf", "not read");

    assert_int_equal(hybus_config_new(&c), 0);
    assert_int_equal(read_three(c, NULL, &e), 0);
    assert_int_equal(hybus_config_sections(c, &s), 3);
    assert_string_equal(s[0].name, "zero");
    assert_string_equal(s[1].name, "first");
    assert_string_equal(s[2].name, "wins");
    assert_int_equal(hybus_config_shadows(c, &shadows), 3);
    assert_non_null(strstr(shadows[0].file, "b/20-both.conf"));
    assert_non_null(strstr(shadows[0].by, "a/20-both.conf"));

    /* What cannot be read is never skipped. */
    assert_int_equal(symlink("/nonexistent", path_of("b/60-dangling.conf")), 0);
    assert_int_equal(read_three(c, NULL, &e), -ENOENT);
    assert_int_equal(hybus_config_sections(c, &s), 3);
    assert_int_equal(unlink(path_of("b/60-dangling.conf")), 0);
    assert_int_equal(mkdir(path_of("b/60-folder.conf"), 0700), 0);
    assert_int_equal(read_three(c, NULL, &e), -EBADMSG);
    assert_int_equal(rmdir(path_of("b/60-folder.conf")), 0);
    assert_int_equal(mkfifo(path_of("b/60-fifo.conf"), 0600), 0);
    assert_int_equal(read_three(c, NULL, &e), -EBADMSG);
}

static int reject_first(int fd, const char *path, hybus_config_error *e)
{
    hybus_config_position at = {path, 1, 1};

    return strstr(path, "10-first") ? hybus_config_error_set(e, &at, "unsafe") : 0;
}

static void test_check(void **state)
{
    _cleanup_(hybus_config_freep) hybus_config *c = NULL;
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    const hybus_config_section *s;

    assert_int_equal(mkdir(path_of("a"), 0700), 0);
    put("a/05-zero.conf", "[zero]\n");
    put("a/10-first.conf", "[first]\n");
    assert_int_equal(hybus_config_new(&c), 0);
    assert_int_equal(read_three(c, reject_first, &e), -EBADMSG);
    assert_non_null(strstr(e.message, "10-first.conf:1:1: unsafe"));
    assert_int_equal(hybus_config_sections(c, &s), 0);
}

/* --- settings -------------------------------------------------------------------------------- */

typedef struct Settings {
    bool on;
    uint64_t count, size, time;
    char *name;
    char **list;
} Settings;

static const hybus_setting table[] = {
    {"limits", "On", HYBUS_SETTING_BOOL, offsetof(Settings, on), "yes"},
    {"limits", "Count", HYBUS_SETTING_UINT, offsetof(Settings, count), "5", 1, 10},
    {"limits", "Size", HYBUS_SETTING_BYTES, offsetof(Settings, size), "8M"},
    {"limits", "Time", HYBUS_SETTING_SECONDS, offsetof(Settings, time), "30s", 1000, 60000000},
    {"names", "Name", HYBUS_SETTING_STRING, offsetof(Settings, name), "x"},
    {"names", "List", HYBUS_SETTING_STRINGS, offsetof(Settings, list), "a b"},
    {NULL},
};

static int load(Settings *s, const char *text, hybus_config_error *e)
{
    _cleanup_(hybus_config_freep) hybus_config *c = NULL;

    *s = (Settings){0};
    assert_int_equal(hybus_config_new(&c), 0);
    assert_int_equal(hybus_config_parse(c, "f", text, strlen(text), e), 0);
    return hybus_settings_load(table, c, s, e);
}

static void test_settings(void **state)
{
    Settings s = {0};

    assert_int_equal(hybus_settings_load(table, NULL, &s, NULL), 0);
    assert_true(s.on);
    assert_int_equal(s.size, 8 << 20);
    assert_int_equal(s.time, 30000000);
    assert_string_equal(s.list[1], "b");
    assert_null(s.list[2]);
    hybus_settings_done(table, &s);

    assert_int_equal(load(&s,
                          "[limits]\nOn=no\nCount=10\nSize=64K\nTime=500ms\n[names]\nName=a b\n"
                          "List=c\nList=d  e\n[limits]\nOn=off\n",
                          NULL),
                     0);
    assert_false(s.on);
    assert_int_equal(s.count, 10);
    assert_int_equal(s.size, 65536);
    assert_int_equal(s.time, 500000);
    assert_string_equal(s.name, "a b");
    assert_string_equal(s.list[0], "c");
    assert_string_equal(s.list[2], "e");
    assert_null(s.list[3]);
    hybus_settings_done(table, &s);

    assert_int_equal(load(&s, "[names]\nList=c\nList=\n", NULL), 0);
    assert_null(s.list[0]);
    hybus_settings_done(table, &s);
}

static void test_settings_errors(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"[limts]\n", "f:1:1: unknown section [limts]; known is [limits]"},
        {"[limits x]\n", "f:1:1: unknown section [limits x]; known is [limits]"},
        {"[limits]\nCout=1\n", "f:2:1: unknown setting Cout in [limits]; did you mean Count?"},
        {"[limits]\nName=1\n", "f:2:1: unknown setting Name in [limits]; did you mean Time?"},
        {"[limits]\nCount=11\n", "f:2:7: Count = \"11\" is not a whole number from 1 to 10"},
        {"[limits]\nCount=-1\n", "f:2:7: Count = \"-1\" is not a whole number"},
        {"[limits]\nCount=18446744073709551617\n",
         "f:2:7: Count = \"18446744073709551617\" is not a whole number from 1 to 10"},
        {"[limits]\nOn=maybe\n", "f:2:4: On = \"maybe\" is not yes or no"},
        {"[limits]\nTime=2h\n", "f:2:6: Time = \"2h\" is not a time, such as 500ms, 30s, 5min, 2h "
                                "or 1d from 1ms to 60000ms"},
    };

    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
        Settings s;

        assert_int_equal(load(&s, cases[i].text, &e), -EBADMSG);
        assert_string_equal(e.message, cases[i].message);
        assert_null(s.name);
        assert_null(s.list);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_files_do_not_flow_together),
        cmocka_unit_test_setup_teardown(test_directories, make_root, remove_root),
        cmocka_unit_test_setup_teardown(test_check, make_root, remove_root),
        cmocka_unit_test(test_settings),
        cmocka_unit_test(test_settings_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
