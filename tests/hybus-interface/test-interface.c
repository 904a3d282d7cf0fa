/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <dirent.h>
#include <fcntl.h>

#include "hybus/interface.h"
#include "hybus/signature.h"

static const char *interfaces_dir;

#define DOCTYPE                                                                                    \
    "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\" "            \
    "\"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n"

static int parse(const char *text, hybus_xml_flags flags, hybus_xml **ret, char **ret_error)
{
    return hybus_xml_parse("x.xml", text, strlen(text), flags, ret, ret_error);
}

static void expect(const char *text, hybus_xml_flags flags, int error, const char *message)
{
    hybus_xml *xml = NULL;
    char *what = NULL;
    int r = parse(text, flags, &xml, &what);

    if (r != error || !what || !strstr(what, message))
        print_message("%s\n-> %d %s\n", text, r, what ? what : "(none)");
    assert_int_equal(r, error);
    assert_null(xml);
    assert_non_null(what);
    assert_non_null(strstr(what, message));
    free(what);
}

static hybus_xml *accept(const char *text, hybus_xml_flags flags)
{
    hybus_xml *xml = NULL;
    char *what = NULL;
    int r = parse(text, flags, &xml, &what);

    if (r < 0)
        print_message("%s\n", what);
    assert_int_equal(r, 0);
    assert_null(what);
    return xml;
}

static void test_signatures(void **state)
{
    static const char *const single[] = {"y",   "v", "as", "a{sv}", "(ii)", "a(sa{s(vv)})",
                                         "aay", "h"};
    static const char *const several[] = {"", "ss", "a{sv}as"};
    static const char *const bad[] = {"a",    "(",     ")",      "()",      "{sv}", "a{}",
                                      "a{s}", "a{vs}", "a{sss}", "a{(s)s}", "(i",   "z",
                                      "e",    "r",     "s z",    "a{sv",    "(a)"};
    char deep[300];

    for (size_t i = 0; i < ELEMENTS(single); i++) {
        assert_true(hybus_signature_is_single(single[i]));
        assert_true(hybus_signature_is_valid(single[i]));
        assert_int_equal(hybus_signature_first(single[i]), strlen(single[i]));
    }
    for (size_t i = 0; i < ELEMENTS(several); i++) {
        assert_false(hybus_signature_is_single(several[i]));
        assert_true(hybus_signature_is_valid(several[i]));
    }
    for (size_t i = 0; i < ELEMENTS(bad); i++)
        assert_false(hybus_signature_is_valid(bad[i]));

    memset(deep, 'a', 33);
    strcpy(deep + 32, "y");
    assert_true(hybus_signature_is_single(deep));
    strcpy(deep + 32, "ay");
    assert_false(hybus_signature_is_valid(deep));
    memset(deep, '(', 33);
    deep[33] = 'y';
    memset(deep + 34, ')', 33);
    deep[67] = 0;
    assert_false(hybus_signature_is_valid(deep));
    deep[66] = 0;
    assert_true(hybus_signature_is_valid(deep + 1));
    memset(deep, 'y', 256);
    deep[256] = 0;
    assert_false(hybus_signature_is_valid(deep));
    deep[255] = 0;
    assert_true(hybus_signature_is_valid(deep));
}

static void test_document(void **state)
{
    hybus_xml *xml = accept(
        "<?xml version='1.0'?>\n" DOCTYPE
        "<!-- licence --><node xmlns:doc='http://www.freedesktop.org/dbus/1.0/doc.dtd' "
        "name='/a/b'>\n"
        "<!-- a.B:\n  @short_description: What it does\n\n  More.\n-->\n"
        "<interface name='a.B'><annotation name='k' value='a&lt;&#x41;'/>\n"
        "  <!-- Do:\n    @x: the x,\n     goes on\n    @y: the y\n    Errors: .NotFound.\n\n"
        "    First sentence of it. Second\n    line.\n  -->\n"
        "  <method name='Do'><annotation name='org.hybridos.Permission' value='a.do'/>\n"
        "   <arg name='x' type='a{sv}'><annotation name='org.hybridos.Secret' "
        "value='true'/></arg>\n"
        "   <arg name='y' type='u' direction='out'/><arg type='s' direction='in'/></method>\n"
        "  <signal name='Do'><arg name='s' type='s'/></signal>\n"
        "  <!-- P: a property; with words. -->\n"
        "  <property name='P' type='(ss)' access='readwrite'>\n"
        "   <annotation name='org.hybridos.Permission' value='a.read'/>\n"
        "   <annotation name='org.hybridos.Permission.Write' value='a.write'/></property>\n"
        "</interface><node name='child'/></node>\n",
        HYBUS_XML_STRICT);
    const hybus_xml_interface *i = hybus_xml_find_interface(xml, "a.B");
    const hybus_xml_member *m;
    hybus_xml_doc d;

    assert_string_equal(xml->path, "/a/b");
    assert_int_equal(xml->n_children, 1);
    assert_string_equal(xml->children[0], "child");
    assert_non_null(i);
    assert_string_equal(hybus_xml_annotation_get(i->annotations, i->n_annotations, "k"), "a<A");
    assert_int_equal(hybus_xml_doc_parse(i->doc, i->name, &d), 0);
    assert_string_equal(d.summary, "What it does");
    assert_int_equal(d.n_paragraphs, 1);
    hybus_xml_doc_done(&d);

    m = hybus_xml_find_member(i, HYBUS_XML_METHOD, "Do");
    assert_non_null(m);
    assert_string_equal(m->in, "a{sv}s");
    assert_string_equal(m->out, "u");
    assert_int_equal(m->n_args, 3);
    assert_int_equal(m->args[0].n_annotations, 1);
    assert_string_equal(hybus_xml_permission(m, false), "a.do");
    assert_int_equal(m->column, 3);
    assert_int_equal(hybus_xml_doc_parse(m->doc, m->name, &d), 0);
    assert_string_equal(hybus_xml_doc_arg_text(&d, "x"), "the x, goes on");
    assert_string_equal(hybus_xml_doc_arg_text(&d, "y"), "the y");
    assert_int_equal(d.n_paragraphs, 2);
    assert_string_equal(d.paragraphs[0], "Errors: .NotFound.");
    assert_string_equal(d.paragraphs[1], "First sentence of it. Second line.");
    assert_string_equal(d.summary, "First sentence of it");
    hybus_xml_doc_done(&d);

    m = hybus_xml_find_member(i, HYBUS_XML_SIGNAL, "Do");
    assert_non_null(m);
    assert_string_equal(m->out, "s");
    assert_null(hybus_xml_permission(m, false));

    m = hybus_xml_find_member(i, HYBUS_XML_PROPERTY, "P");
    assert_true(m->readable && m->writable);
    assert_string_equal(hybus_xml_permission(m, false), "a.read");
    assert_string_equal(hybus_xml_permission(m, true), "a.write");
    assert_int_equal(hybus_xml_doc_parse(m->doc, m->name, &d), 0);
    assert_string_equal(d.summary, "a property");
    hybus_xml_doc_done(&d);
    hybus_xml_free(xml);
}

#define IN(x) "<node><interface name='a.B'>" x "</interface></node>"

static void test_refused(void **state)
{
    expect("<!DOCTYPE node [<!ENTITY a 'aa'>]><node/>", 0, -EBADMSG, "x.xml:1:");
    expect("<!DOCTYPE node [<!ENTITY a 'aa'>]><node/>", 0, -EBADMSG, "internal DTD subset");
    expect(DOCTYPE "<node>&a;</node>", 0, -EBADMSG, "Entities");
    /* A permission must not change by what expat leaves out. */
    expect(DOCTYPE "\n<node><interface name='a&x;.b'/></node>", 0, -EBADMSG,
           "x.xml:3:25: Entities");
    expect(DOCTYPE "<!-- & --><node name='&#x2f;&amp'/>", 0, -EBADMSG, "Entities");
    expect("<!DOCTYPE node SYSTEM '<!--'><node name='&x;'/><!-- -->", 0, -EBADMSG, "'<'");
    expect("<?x <!-- ?><node name='&x;'/><!-- -->", 0, -EBADMSG, "processing instruction");
    expect("<node><![CDATA[<!--]]><node name='&x;'/><!-- --></node>", 0, -EBADMSG, "CDATA");
    hybus_xml_free(accept(DOCTYPE "<!-- &x; --><node name='&#x2f;a'/>", HYBUS_XML_STRICT));
    expect("", 0, -EBADMSG, "no element");
    expect("<node>", 0, -EBADMSG, "");
    expect("<nod/>", 0, -EBADMSG, "root element");
    expect("<node>\xff</node>", 0, -EBADMSG, "");
    expect("<node><interface name='nodot'/></node>", 0, -EBADMSG, "name of an interface");
    expect("<node><interface/></node>", 0, -EBADMSG, "name of an interface");
    expect(IN("<method name='a-b'/>"), 0, -EBADMSG, "name of a method");
    expect(IN("<method name='M'><arg/></method>"), 0, -EBADMSG, "one complete type");
    expect(IN("<method name='M'><arg type='ss'/></method>"), 0, -EBADMSG, "one complete type");
    expect(IN("<signal name='M'><arg type='s' direction='in'/></signal>"), 0, -EBADMSG,
           "direction");
    expect(IN("<property name='M' type='s'/>"), 0, -EBADMSG, "access");
    expect(IN("<property name='M' type='s' access='any'/>"), 0, -EBADMSG, "access");
    expect(IN("<method name='M'><annotation name='k'/></method>"), 0, -EBADMSG, "annotation");
}

static void test_strict(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {IN("<method name='M'/><method name='M'/>"), "twice"},
        {"<node><interface name='a.B'/><interface name='a.B'/></node>", "twice"},
        {IN("<annotation name='k' value='1'/><annotation name='k' value='2'/>"), "twice"},
        {IN("<other/>"), "no place here"},
        {IN("text"), "Text"},
        {IN("<method name='M' x='y'/>"), "Unknown attribute"},
        {"<node><node name='a'><interface name='a.B'/></node></node>", "no place here"},
    };

    for (size_t i = 0; i < ELEMENTS(cases); i++) {
        expect(cases[i].text, HYBUS_XML_STRICT, -EBADMSG, cases[i].message);
        hybus_xml_free(accept(cases[i].text, 0));
    }
}

static void test_lenient_first_wins(void **state)
{
    hybus_xml *xml = accept(
        IN("<method name='M'><arg type='s'/></method><method name='M'><arg type='u'/>"
           "<annotation name='k' value='2'/></method><tp:x xmlns:tp='y'><method name='N'/></tp:x>"),
        0);

    assert_int_equal(xml->interfaces[0].n_members, 1);
    assert_string_equal(xml->interfaces[0].members[0].in, "s");
    assert_int_equal(xml->interfaces[0].members[0].n_annotations, 0);
    hybus_xml_free(xml);
}

/* A '#' in the piece is replaced by its number. */
static char *repeated(const char *before, const char *piece, size_t n, const char *after)
{
    char *s = NULL;
    size_t size;
    FILE *f = open_memstream(&s, &size);

    fputs(before, f);
    for (size_t i = 0; i < n; i++)
        for (const char *c = piece; *c; c++)
            if (*c == '#')
                fprintf(f, "%zu", i);
            else
                fputc(*c, f);
    fputs(after, f);
    fclose(f);
    return s;
}

static void expect_repeated(const char *before, const char *piece, size_t n, const char *after,
                            int error)
{
    char *s = repeated(before, piece, n, after);
    hybus_xml *xml = NULL;
    char *what = NULL;

    assert_int_equal(parse(s, 0, &xml, &what), error);
    hybus_xml_free(xml);
    free(what);
    free(s);
}

static void test_limits(void **state)
{
    expect_repeated("", "<node><!--#-->", HYBUS_INTERFACE_DEPTH_MAX + 1, "", -E2BIG);
    expect_repeated("<node>", "<node name='n#'/>", HYBUS_INTERFACE_CHILDREN_MAX, "</node>", 0);
    expect_repeated("<node>", "<node name='n#'/>", HYBUS_INTERFACE_CHILDREN_MAX + 1, "</node>",
                    -E2BIG);
    expect_repeated("<node><interface name='a.B'>", "<method name='m#'/>",
                    HYBUS_INTERFACE_MEMBERS_MAX - 1, "</interface></node>", 0);
    expect_repeated("<node><interface name='a.B'>", "<method name='m#'/>",
                    HYBUS_INTERFACE_MEMBERS_MAX, "</interface></node>", -E2BIG);
    expect_repeated("<node><interface name='a.B'><method name='M'>", "<arg type='s'/><!--#-->", 255,
                    "</method></interface></node>", 0);
    expect_repeated("<node><interface name='a.B'><method name='M'>", "<arg type='s'/><!--#-->", 256,
                    "</method></interface></node>", -E2BIG);
    expect_repeated("<node><interface name='a.B'>", "<annotation name='k#' value=''/>",
                    HYBUS_INTERFACE_ANNOTATIONS_MAX + 1, "</interface></node>", -E2BIG);
    expect_repeated("<node name='", "x", HYBUS_INTERFACE_VALUE_MAX + 1, "'/>", -E2BIG);
    expect_repeated("<node>", " ", HYBUS_INTERFACE_SIZE_MAX, "</node>", -E2BIG);
}

/* What we ship is the first thing that must be readable, strictly, with a permission everywhere. */
static void test_shipped(void **state)
{
    DIR *dir = opendir(interfaces_dir);
    unsigned n = 0;

    assert_non_null(dir);
    for (struct dirent *entry; (entry = readdir(dir));) {
        _cleanup_(hybus_xml_freep) hybus_xml *xml = NULL;
        _cleanup_(freep) char *error = NULL;
        size_t length = strlen(entry->d_name);
        int fd, r;

        if (length < 4 || !streq(entry->d_name + length - 4, ".xml"))
            continue;
        fd = openat(dirfd(dir), entry->d_name, O_RDONLY | O_CLOEXEC);
        assert_true(fd >= 0);
        r = hybus_xml_read_fd(entry->d_name, fd, HYBUS_XML_STRICT, &xml, &error);
        close(fd);
        if (r < 0)
            print_message("%s\n", error);
        assert_int_equal(r, 0);
        assert_int_equal(xml->n_interfaces, 1);
        assert_int_equal(strncmp(entry->d_name, xml->interfaces[0].name, length - 4), 0);
        n++;
        for (size_t i = 0; i < xml->interfaces[0].n_members; i++) {
            const hybus_xml_member *m = &xml->interfaces[0].members[i];

            if (!hybus_xml_permission(m, false) || !hybus_xml_permission(m, true) || !m->doc)
                print_message("%s: %s has no permission or no documentation\n", entry->d_name,
                              m->name);
            assert_non_null(hybus_xml_permission(m, false));
            assert_non_null(hybus_xml_permission(m, true));
            assert_non_null(m->doc);
        }
    }
    closedir(dir);
    assert_true(n >= 4);
}

int main(int argc, char *argv[])
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signatures),
        cmocka_unit_test(test_document),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_strict),
        cmocka_unit_test(test_lenient_first_wins),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_shipped),
    };

    interfaces_dir = argc > 1 ? argv[1] : "interfaces";
    return cmocka_run_group_tests(tests, NULL, NULL);
}
