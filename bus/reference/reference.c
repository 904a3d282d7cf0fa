/* SPDX-License-Identifier: Apache-2.0 */
/* Writes the D-Bus reference, one page per interface file and an index, or checks that what lies
 * there is what would be written: hybus-reference write|check FOLDER FILE.xml… */
#include <dirent.h>
#include <fcntl.h>

#include "hybus/interface.h"

static int failed(const char *what, const char *name)
{
    fprintf(stderr, "reference: %s: %s\n", name, what);
    return 1;
}

/* Text of comments is prose: only what markdown would take for HTML or emphasis is escaped. */
static void print_text(FILE *f, const char *text)
{
    for (const char *c = text; *c; c++) {
        if (strchr("<>*|[]\\", *c))
            fputc('\\', f);
        fputc(*c, f);
    }
}

static void print_args(FILE *f, const hybus_xml_member *m, bool out)
{
    const char *comma = "";

    fputc('(', f);
    for (size_t i = 0; i < m->n_args; i++)
        if (m->args[i].out == out) {
            fprintf(f, "%s%s%s%s", comma, m->args[i].name, *m->args[i].name ? " " : "",
                    m->args[i].type);
            comma = ", ";
        }
    fputc(')', f);
}

static const char *annotation(const hybus_xml_member *m, const char *name)
{
    return hybus_xml_annotation_get(m->annotations, m->n_annotations, name);
}

static void print_permission(FILE *f, const hybus_xml_member *m)
{
    const char *read = hybus_xml_permission(m, false), *write = hybus_xml_permission(m, true);

    fputs("Permission: ", f);
    if (m->kind == HYBUS_XML_PROPERTY && m->readable && m->writable && read && write &&
        !streq(read, write))
        fprintf(f, "`%s` to read, `%s` to write", read, write);
    else if (m->kind == HYBUS_XML_PROPERTY && !m->readable ? write : read)
        fprintf(f, "`%s`", m->kind == HYBUS_XML_PROPERTY && !m->readable ? write : read);
    else
        fputs("none: refused to all", f);
    fputs(".\n", f);
}

static void print_notes(FILE *f, const hybus_xml_member *m)
{
    const char *changes = annotation(m, "org.freedesktop.DBus.Property.EmitsChangedSignal");
    const char *no_reply = annotation(m, "org.freedesktop.DBus.Method.NoReply");

    if (changes && streq(changes, "invalidates"))
        fputs("\nA change is announced without the value.\n", f);
    else if (changes && streq(changes, "false"))
        fputs("\nChanges are not announced.\n", f);
    else if (changes && streq(changes, "const"))
        fputs("\nNever changes.\n", f);
    if (no_reply && streq(no_reply, "true"))
        fputs("\nSends no reply.\n", f);
}

static int print_doc(FILE *f, const char *text, const char *name, const hybus_xml_member *m)
{
    hybus_xml_doc doc;
    int r = hybus_xml_doc_parse(text, name, &doc);

    if (r < 0)
        return r;
    for (size_t i = 0; i < doc.n_paragraphs; i++) {
        fputc('\n', f);
        print_text(f, doc.paragraphs[i]);
        fputc('\n', f);
    }
    if (m && m->n_args)
        fputc('\n', f);
    for (size_t i = 0; m && i < m->n_args; i++) {
        const char *about = hybus_xml_doc_arg_text(&doc, m->args[i].name);

        fprintf(f, "- `%s` `%s`%s", m->args[i].name, m->args[i].type,
                m->kind == HYBUS_XML_METHOD && m->args[i].out ? " (out)" : "");
        if (about) {
            fputs(": ", f);
            print_text(f, about);
        }
        fputc('\n', f);
    }
    hybus_xml_doc_done(&doc);
    return 0;
}

static int print_members(FILE *f, const hybus_xml_interface *iface, hybus_xml_kind kind,
                         const char *title)
{
    bool any = false;

    for (size_t i = 0; i < iface->n_members; i++) {
        const hybus_xml_member *m = &iface->members[i];
        int r;

        if (m->kind != kind)
            continue;
        if (!any)
            fprintf(f, "\n## %s\n", title);
        any = true;
        fprintf(f, "\n### %s\n\n```\n%s", m->name, m->name);
        if (kind == HYBUS_XML_PROPERTY)
            fprintf(f, " %s %s", m->out,
                    m->readable && m->writable ? "readwrite"
                    : m->readable              ? "read"
                                               : "write");
        else
            print_args(f, m, kind == HYBUS_XML_SIGNAL);
        if (kind == HYBUS_XML_METHOD && *m->out) {
            fputs(" -> ", f);
            print_args(f, m, true);
        }
        fputs("\n```\n\n", f);
        print_permission(f, m);
        r = print_doc(f, m->doc, m->name, m);
        if (r < 0)
            return r;
        print_notes(f, m);
    }
    return 0;
}

static int print_page(FILE *f, const hybus_xml *xml, const hybus_xml_interface *iface)
{
    hybus_xml_doc doc;
    int r = hybus_xml_doc_parse(iface->doc, iface->name, &doc);

    if (r < 0)
        return r;
    fprintf(
        f,
        "<!-- Generated from interfaces/%s.xml: change it there, then \"ninja reference\". -->\n",
        iface->name);
    fprintf(f, "# %s\n", iface->name);
    if (*doc.summary) {
        fputc('\n', f);
        print_text(f, doc.summary);
        fputs(".\n", f);
    }
    hybus_xml_doc_done(&doc);
    r = print_doc(f, iface->doc, iface->name, NULL);
    if (xml->path)
        fprintf(f, "\nObject: `%s`\n", xml->path);
    if (r >= 0)
        r = print_members(f, iface, HYBUS_XML_METHOD, "Methods");
    if (r >= 0)
        r = print_members(f, iface, HYBUS_XML_PROPERTY, "Properties");
    if (r >= 0)
        r = print_members(f, iface, HYBUS_XML_SIGNAL, "Signals");
    return r;
}

/* Writes the page, or compares. 0 or an exit code. */
static int finish(bool check, const char *folder, const char *name, const char *text, size_t size)
{
    _cleanup_(freep) char *path = NULL, *old = NULL;
    _cleanup_(fclosep) FILE *f = NULL;

    if (asprintf(&path, "%s/%s.md", folder, name) < 0) {
        path = NULL;
        return failed("out of memory", name);
    }
    f = fopen(path, check ? "re" : "we");
    if (!f)
        return failed(strerror(errno), path);
    if (!check)
        return fwrite(text, 1, size, f) == size && fflush(f) == 0 ? 0
                                                                  : failed("cannot write", path);
    old = malloc(size + 1);
    if (!old)
        return failed("out of memory", name);
    if (fread(old, 1, size + 1, f) != size || memcmp(old, text, size) != 0)
        return failed("stale; run \"ninja reference\" and commit", path);
    return 0;
}

static int page(bool check, const char *folder, const char *file, FILE *index)
{
    _cleanup_(hybus_xml_freep) hybus_xml *xml = NULL;
    _cleanup_(freep) char *error = NULL, *text = NULL;
    _cleanup_(closep) int fd = open(file, O_RDONLY | O_CLOEXEC);
    const hybus_xml_interface *iface;
    hybus_xml_doc doc;
    size_t size;
    FILE *f;
    int r;

    if (fd < 0)
        return failed(strerror(errno), file);
    r = hybus_xml_read_fd(file, fd, HYBUS_XML_STRICT, &xml, &error);
    if (r < 0)
        return failed(error ? error : strerror(-r), file);
    if (xml->n_interfaces != 1)
        return failed("a file defines one interface", file);
    iface = &xml->interfaces[0];
    f = open_memstream(&text, &size);
    if (!f)
        return failed("out of memory", file);
    r = print_page(f, xml, iface);
    if (fclose(f) != 0 || r < 0 || hybus_xml_doc_parse(iface->doc, iface->name, &doc) < 0)
        return failed("out of memory", file);
    fprintf(index, "- [%s](%s.md)%s", iface->name, iface->name, *doc.summary ? ": " : "");
    print_text(index, doc.summary);
    fputc('\n', index);
    hybus_xml_doc_done(&doc);
    return finish(check, folder, iface->name, text, size);
}

/* A page whose interface is gone is as stale as any. */
static int count_pages(const char *folder)
{
    DIR *dir = opendir(folder);
    int n = 0;

    for (struct dirent *entry; dir && (entry = readdir(dir));)
        n += strlen(entry->d_name) > 3 && streq(entry->d_name + strlen(entry->d_name) - 3, ".md");
    if (dir)
        closedir(dir);
    return n;
}

int main(int argc, char *argv[])
{
    _cleanup_(freep) char *text = NULL;
    bool check;
    size_t size;
    FILE *index;
    int code = 0;

    if (argc < 4 || !(streq(argv[1], "write") || streq(argv[1], "check")))
        return failed("write|check FOLDER FILE.xml…", "usage");
    check = streq(argv[1], "check");
    index = open_memstream(&text, &size);
    if (!index)
        return failed("out of memory", argv[2]);
    fputs("<!-- Generated from interfaces/*.xml: change it there, then \"ninja reference\". -->\n"
          "# D-Bus reference\n\n"
          "Every member names the permission that a caller needs ([policy](../policy.md)). The "
          "same is "
          "shown on a device by `h-ubus list -v NAME`.\n\n",
          index);
    for (int i = 3; i < argc; i++)
        code |= page(check, argv[2], argv[i], index);
    if (fclose(index) != 0)
        return failed("out of memory", argv[2]);
    code |= finish(check, argv[2], "README", text, size);
    if (count_pages(argv[2]) != argc - 3 + 1)
        code |= failed("holds pages of interfaces that are gone", argv[2]);
    return code;
}
