/* SPDX-License-Identifier: Apache-2.0 */
#include "config.h"

#include "utf8.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#define FILE_SIZE_MAX (1024u * 1024u)
#define LINE_SIZE_MAX (64u * 1024u)
#define FILES_MAX 1024u

struct hybus_config {
    char **strings; /* everything that sections, entries and positions point to */
    size_t n_strings, allocated_strings;
    hybus_config_section *sections;
    size_t n_sections, allocated_sections;
    hybus_config_shadow *shadows;
    size_t n_shadows;
    size_t n_files;
};

void hybus_config_error_done(hybus_config_error *e)
{
    if (!e)
        return;
    free(e->message);
    e->message = NULL;
}

int hybus_config_error_set(hybus_config_error *e, const hybus_config_position *at,
                           const char *format, ...)
{
    _cleanup_(freep) char *text = NULL;
    va_list args;
    int n;

    if (!e)
        return -EBADMSG;
    va_start(args, format);
    n = vasprintf(&text, format, args);
    va_end(args);
    hybus_config_error_done(e);
    if (n < 0) {
        text = NULL;
        return -EBADMSG;
    }
    if (!at) {
        e->message = TAKE_PTR(text);
        return -EBADMSG;
    }
    if (asprintf(&e->message, "%s:%u:%u: %s", at->file, at->line, at->column, text) < 0)
        e->message = NULL;
    return -EBADMSG;
}

int hybus_config_new(hybus_config **ret)
{
    hybus_config *c = calloc(1, sizeof *c);

    if (!c)
        return -ENOMEM;
    *ret = c;
    return 0;
}

static void truncate_to(hybus_config *c, size_t n_strings, size_t n_sections)
{
    while (c->n_sections > n_sections)
        free((void *)c->sections[--c->n_sections].entries);
    while (c->n_strings > n_strings)
        free(c->strings[--c->n_strings]);
}

void hybus_config_free(hybus_config *c)
{
    if (!c)
        return;
    truncate_to(c, 0, 0);
    free(c->strings);
    free(c->sections);
    free(c->shadows);
    free(c);
}

/* Makes room for one more element of `size` bytes; grows by doubling. */
static int grow(void *array, size_t *allocated, size_t n, size_t size)
{
    void **a = array, *larger;
    size_t want = *allocated ? *allocated * 2 : 8;

    if (n < *allocated)
        return 0;
    larger = reallocarray(*a, want, size);
    if (!larger)
        return -ENOMEM;
    *a = larger;
    *allocated = want;
    return 0;
}

static const char *keep(hybus_config *c, const char *s, size_t size)
{
    char *copy;

    if (grow(&c->strings, &c->allocated_strings, c->n_strings, sizeof *c->strings) < 0)
        return NULL;
    copy = strndup(s, size);
    if (copy)
        c->strings[c->n_strings++] = copy;
    return copy;
}

/* --- the parser ------------------------------------------------------------------------------ */

typedef struct Parser {
    hybus_config *config;
    hybus_config_error *error;
    const char *file; /* kept by the config */
    const char *text, *end;
    unsigned line;            /* of `text` */
    size_t entries_allocated; /* of the last section */
} Parser;

typedef struct Line {
    const char *start, *end; /* without the line end */
} Line;

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' ||
           c == '_' || c == '.';
}

static int fail_at(Parser *p, unsigned line, size_t column, const char *message)
{
    hybus_config_position at = {p->file, line, (unsigned)column + 1};
    return hybus_config_error_set(p->error, &at, "%s", message);
}

static int check_characters(Parser *p, const Line *l)
{
    for (const char *s = l->start; s < l->end;) {
        unsigned char c = (unsigned char)*s;
        size_t n = hybus_utf8_sequence(s, (size_t)(l->end - s));

        if (n == 0)
            return fail_at(p, p->line, (size_t)(s - l->start), "not valid UTF-8");
        if (c == 0)
            return fail_at(p, p->line, (size_t)(s - l->start), "NUL byte");
        if ((c < 0x20 && c != '\t') || c == 0x7f)
            return fail_at(p, p->line, (size_t)(s - l->start), "control character");
        s += n;
    }
    return 0;
}

/* The next physical line; 0 at the end of the text. p->line is its number afterwards. */
static int next_line(Parser *p, Line *ret)
{
    const char *newline;
    Line l;
    int r;

    if (p->text >= p->end)
        return 0;
    newline = memchr(p->text, '\n', (size_t)(p->end - p->text));
    l = (Line){p->text, newline ? newline : p->end};
    p->text = newline ? newline + 1 : p->end;
    p->line++;
    if ((size_t)(l.end - l.start) > LINE_SIZE_MAX)
        return fail_at(p, p->line, LINE_SIZE_MAX, "line longer than 64 KiB");
    if (l.end > l.start && l.end[-1] == '\r')
        l.end--;
    r = check_characters(p, &l);
    if (r < 0)
        return r;
    *ret = l;
    return 1;
}

static const char *skip_blanks(const char *s, const char *end)
{
    while (s < end && is_blank(*s))
        s++;
    return s;
}

static const char *trim_end(const char *start, const char *end)
{
    while (end > start && is_blank(end[-1]))
        end--;
    return end;
}

/* `s` is at the opening bracket. */
static int parse_section(Parser *p, const Line *l, const char *s)
{
    hybus_config *c = p->config;
    hybus_config_section section = {.at = {p->file, p->line, (unsigned)(s - l->start) + 1}};
    const char *name = s + 1, *name_end = name, *argument, *end;
    int r;

    while (name_end < l->end && is_word(*name_end))
        name_end++;
    if (name_end == name)
        return fail_at(p, p->line, (size_t)(name - l->start), "a section needs a name: [name]");
    argument = skip_blanks(name_end, l->end);
    end = memchr(argument, ']', (size_t)(l->end - argument));
    if (!end)
        return fail_at(p, p->line, (size_t)(l->end - l->start), "\"]\" is missing");
    if (argument == name_end && end != name_end)
        return fail_at(p, p->line, (size_t)(name_end - l->start),
                       "bad character in a section's name");
    if (memchr(argument, '[', (size_t)(end - argument)))
        return fail_at(p, p->line, (size_t)(argument - l->start), "\"[\" inside a section's head");
    if (skip_blanks(end + 1, l->end) != l->end)
        return fail_at(p, p->line, (size_t)(end + 1 - l->start), "text after \"]\"");

    r = grow(&c->sections, &c->allocated_sections, c->n_sections, sizeof *c->sections);
    if (r < 0)
        return r;
    section.name = keep(c, name, (size_t)(name_end - name));
    section.argument = keep(c, argument, (size_t)(trim_end(argument, end) - argument));
    if (!section.name || !section.argument)
        return -ENOMEM;
    c->sections[c->n_sections++] = section;
    p->entries_allocated = 0;
    return 0;
}

/* Collects a value over its continuation lines into `value`. Comment lines in between are skipped,
 * as systemd does it. */
static int continue_value(Parser *p, const char *start, const char *end, char **ret)
{
    _cleanup_(freep) char *value = strndup(start, (size_t)(end - start));
    size_t size = (size_t)(end - start);
    unsigned first = p->line;

    if (!value)
        return -ENOMEM;
    while (size > 0 && value[size - 1] == '\\') {
        const char *s;
        char *larger;
        size_t n;
        Line l;
        int r = next_line(p, &l);

        if (r < 0)
            return r;
        if (r == 0)
            return fail_at(p, p->line, 0, "the file ends after a line that is to be continued");
        s = skip_blanks(l.start, l.end);
        if (s < l.end && (*s == '#' || *s == ';'))
            continue;
        n = (size_t)(trim_end(s, l.end) - s);
        if (size + n > LINE_SIZE_MAX)
            return fail_at(p, first, 0, "continued line longer than 64 KiB");
        size = (size_t)(trim_end(value, value + size - 1) - value);
        larger = realloc(value, size + n + 2);
        if (!larger)
            return -ENOMEM;
        value = larger;
        if (size > 0 && n > 0)
            value[size++] = ' ';
        memcpy(value + size, s, n);
        size += n;
        value[size] = '\0';
        if (n == 0)
            break;
    }
    *ret = TAKE_PTR(value);
    return 0;
}

static int parse_entry(Parser *p, const Line *l, const char *s)
{
    hybus_config *c = p->config;
    hybus_config_entry entry = {.at = {p->file, p->line, (unsigned)(s - l->start) + 1}};
    _cleanup_(freep) char *joined = NULL;
    const char *key_end = s, *equals, *value;
    hybus_config_section *section;
    hybus_config_entry *entries;
    int r;

    while (key_end < l->end && is_word(*key_end))
        key_end++;
    equals = skip_blanks(key_end, l->end);
    if (key_end == s || equals == l->end || *equals != '=')
        return fail_at(p, p->line, (size_t)(equals - l->start),
                       "expected \"Key = value\", \"[section]\" or a comment");
    if (c->n_sections == 0 || c->sections[c->n_sections - 1].at.file != p->file)
        return fail_at(p, p->line, (size_t)(s - l->start), "a setting needs a [section] above it");

    value = skip_blanks(equals + 1, l->end);
    entry.value_at = (hybus_config_position){p->file, p->line, (unsigned)(value - l->start) + 1};
    r = continue_value(p, value, trim_end(value, l->end), &joined);
    if (r < 0)
        return r;

    section = &c->sections[c->n_sections - 1];
    entries = (hybus_config_entry *)section->entries;
    r = grow(&entries, &p->entries_allocated, section->n_entries, sizeof *entries);
    section->entries = entries;
    if (r < 0)
        return r;
    entry.key = keep(c, s, (size_t)(key_end - s));
    entry.value = keep(c, joined, strlen(joined));
    if (!entry.key || !entry.value)
        return -ENOMEM;
    entries[section->n_entries++] = entry;
    return 0;
}

static int parse_lines(Parser *p)
{
    for (;;) {
        const char *s;
        Line l;
        int r = next_line(p, &l);

        if (r <= 0)
            return r;
        s = skip_blanks(l.start, l.end);
        if (s == l.end || *s == '#' || *s == ';')
            continue;
        r = *s == '[' ? parse_section(p, &l, s) : parse_entry(p, &l, s);
        if (r < 0)
            return r;
    }
}

int hybus_config_parse(hybus_config *c, const char *name, const char *text, size_t size,
                       hybus_config_error *e)
{
    size_t n_strings = c->n_strings, n_sections = c->n_sections;
    Parser p = {.config = c, .error = e, .text = text, .end = text + size};
    int r = -ENOMEM;

    p.file = keep(c, name, strlen(name));
    if (p.file && size > FILE_SIZE_MAX)
        r = fail_at(&p, 1, 0, "file larger than 1 MiB");
    else if (p.file)
        r = parse_lines(&p);
    if (r < 0)
        truncate_to(c, n_strings, n_sections);
    return r;
}

/* --- files ----------------------------------------------------------------------------------- */

static int file_error(hybus_config_error *e, const char *path, int error, const char *doing)
{
    hybus_config_position at = {path, 1, 1};
    (void)hybus_config_error_set(e, &at, "%s: %s", doing, strerrordesc_np(-error));
    return error;
}

static bool is_null_device(const struct stat *st)
{
    return S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3);
}

static int read_all(int fd, char **ret_text, size_t *ret_size)
{
    /* One byte more than allowed, so that the parser sees a file that is too large. */
    _cleanup_(freep) char *text = malloc(FILE_SIZE_MAX + 1);
    size_t size = 0;

    if (!text)
        return -ENOMEM;
    while (size < FILE_SIZE_MAX + 1) {
        ssize_t n = read(fd, text + size, FILE_SIZE_MAX + 1 - size);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        size += (size_t)n;
    }
    *ret_text = TAKE_PTR(text);
    *ret_size = size;
    return 0;
}

int hybus_config_read_file(hybus_config *c, const char *path, hybus_config_file_check check,
                           hybus_config_error *e)
{
    _cleanup_(closep) int fd = -1;
    _cleanup_(freep) char *text = NULL;
    struct stat st;
    size_t size = 0;
    int r;

    /* Not blocking: somebody may have put a FIFO there. */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0)
        return file_error(e, path, -errno, "cannot open");
    if (fstat(fd, &st) < 0)
        return file_error(e, path, -errno, "cannot examine");
    if (is_null_device(&st))
        return 0;
    if (!S_ISREG(st.st_mode)) {
        hybus_config_position at = {path, 1, 1};
        return hybus_config_error_set(e, &at, "not a regular file");
    }
    r = check ? check(fd, path, e) : 0;
    if (r < 0)
        return r;
    if (++c->n_files > FILES_MAX) {
        hybus_config_position at = {path, 1, 1};
        return hybus_config_error_set(e, &at, "more than %u files", FILES_MAX);
    }
    r = read_all(fd, &text, &size);
    if (r < 0)
        return file_error(e, path, r, "cannot read");
    return hybus_config_parse(c, path, text, size, e);
}

typedef struct File {
    const char *directory;
    char *name;
    size_t rank; /* of the directory; 0 wins */
} File;

typedef struct FileList {
    File *files;
    size_t n, allocated;
} FileList;

static void file_list_done(FileList *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->files[i].name);
    free(l->files);
}

static bool ends_with(const char *s, const char *suffix)
{
    size_t n = strlen(s), m = strlen(suffix);
    return n > m && streq(s + n - m, suffix);
}

static int list_directory(FileList *l, const char *directory, size_t rank, const char *suffix,
                          hybus_config_error *e)
{
    DIR *d = opendir(directory);
    int r = 0;

    if (!d)
        return errno == ENOENT ? 0 : file_error(e, directory, -errno, "cannot open");
    for (;;) {
        struct dirent *entry;

        errno = 0;
        entry = readdir(d);
        if (!entry) {
            r = errno ? file_error(e, directory, -errno, "cannot read") : 0;
            break;
        }
        if (entry->d_name[0] == '.' || !ends_with(entry->d_name, suffix))
            continue;
        if (l->n >= FILES_MAX) {
            hybus_config_position at = {directory, 1, 1};
            r = hybus_config_error_set(e, &at, "more than %u files", FILES_MAX);
            break;
        }
        r = grow(&l->files, &l->allocated, l->n, sizeof *l->files);
        if (r < 0)
            break;
        l->files[l->n] = (File){directory, strdup(entry->d_name), rank};
        if (!l->files[l->n].name) {
            r = -ENOMEM;
            break;
        }
        l->n++;
    }
    closedir(d);
    return r;
}

static int compare_files(const void *a, const void *b)
{
    const File *x = a, *y = b;
    int r = strcmp(x->name, y->name);
    return r ? r : (x->rank > y->rank) - (x->rank < y->rank);
}

static int add_shadow(hybus_config *c, const File *file, const char *by)
{
    hybus_config_shadow *larger;
    char path[PATH_MAX];

    larger = reallocarray(c->shadows, c->n_shadows + 1, sizeof *larger);
    if (!larger)
        return -ENOMEM;
    c->shadows = larger;
    snprintf(path, sizeof path, "%s/%s", file->directory, file->name);
    larger[c->n_shadows].file = keep(c, path, strlen(path));
    larger[c->n_shadows].by = keep(c, by, strlen(by));
    if (!larger[c->n_shadows].file || !larger[c->n_shadows].by)
        return -ENOMEM;
    c->n_shadows++;
    return 0;
}

static int read_files(hybus_config *c, const FileList *l, hybus_config_file_check check,
                      hybus_config_error *e)
{
    char path[PATH_MAX] = "";

    for (size_t i = 0; i < l->n; i++) {
        const File *f = &l->files[i];
        int r;

        if (i > 0 && streq(f->name, f[-1].name)) {
            r = add_shadow(c, f, path);
        } else {
            snprintf(path, sizeof path, "%s/%s", f->directory, f->name);
            r = hybus_config_read_file(c, path, check, e);
        }
        if (r < 0)
            return r;
    }
    return 0;
}

int hybus_config_read_directories(hybus_config *c, const char *const *directories,
                                  const char *suffix, hybus_config_file_check check,
                                  hybus_config_error *e)
{
    _cleanup_(file_list_done) FileList list = {0};
    size_t n_strings = c->n_strings, n_sections = c->n_sections, n_shadows = c->n_shadows;
    int r = 0;

    for (size_t rank = 0; directories[rank] && r == 0; rank++)
        r = list_directory(&list, directories[rank], rank, suffix, e);
    if (r == 0) {
        if (list.n > 0)
            qsort(list.files, list.n, sizeof *list.files, compare_files);
        r = read_files(c, &list, check, e);
    }
    if (r < 0) {
        truncate_to(c, n_strings, n_sections);
        c->n_shadows = n_shadows;
    }
    return r;
}

size_t hybus_config_sections(const hybus_config *c, const hybus_config_section **ret)
{
    *ret = c->sections;
    return c->n_sections;
}

size_t hybus_config_shadows(const hybus_config *c, const hybus_config_shadow **ret)
{
    *ret = c->shadows;
    return c->n_shadows;
}
