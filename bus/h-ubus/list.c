/* SPDX-License-Identifier: Apache-2.0 */
#include <fnmatch.h>

#include "ubus.h"

static void print_installed(FILE *f, const hybus_xml_interface *docs, const hybus_xml_member *m,
                            bool ours)
{
    const hybus_xml_member *d = docs ? hybus_xml_find_member(docs, m->kind, m->name) : NULL;
    const char *read = d && ours ? hybus_xml_permission(d, false) : NULL;
    const char *write = d && ours ? hybus_xml_permission(d, true) : NULL;
    hybus_xml_doc doc;

    if (m->kind != HYBUS_XML_PROPERTY || !m->writable)
        write = NULL;
    if (m->kind == HYBUS_XML_PROPERTY && !m->readable)
        read = NULL;
    if (read || write) {
        fputs("  [", f);
        ubus_print_safe(f, read ? read : write);
        if (read && write && !streq(read, write)) {
            fputs(", write: ", f);
            ubus_print_safe(f, write);
        }
        fputc(']', f);
    } else if (ours)
        fputs("  [nobody]", f);
    fputc('\n', f);
    if (d && hybus_xml_doc_parse(d->doc, d->name, &doc) >= 0) {
        if (*doc.summary) {
            fputs("        ", f);
            ubus_print_safe(f, doc.summary);
            fputc('\n', f);
        }
        hybus_xml_doc_done(&doc);
    }
}

static void print_interface(ubus *u, const hybus_xml_interface *i)
{
    static const char *const words[] = {"method", "signal", "property"};
    bool ours = false;
    _cleanup_(hybus_xml_freep) hybus_xml *installed = ubus_installed(u, i->name, &ours);
    const hybus_xml_interface *docs =
        installed ? hybus_xml_find_interface(installed, i->name) : NULL;
    hybus_xml_doc doc;

    printf("  %s", i->name);
    if (docs && hybus_xml_doc_parse(docs->doc, docs->name, &doc) >= 0) {
        if (*doc.summary) {
            fputs(" - ", stdout);
            ubus_print_safe(stdout, doc.summary);
        }
        hybus_xml_doc_done(&doc);
    }
    putchar('\n');
    for (size_t j = 0; j < i->n_members; j++) {
        printf("    %s ", words[i->members[j].kind]);
        ubus_print_member(stdout, &i->members[j]);
        print_installed(stdout, docs, &i->members[j], docs && ours);
    }
}

static int print_object(ubus *u, const char *name, const char *path, const hybus_xml *xml,
                        void *userdata)
{
    size_t n = 0;

    for (size_t i = 0; i < xml->n_interfaces; i++)
        n += u->all || !ubus_hidden(xml->interfaces[i].name);
    if (n == 0)
        return 0; /* a folder of others */
    printf("%s %s\n", name, path);
    for (size_t i = 0; u->verbose && i < xml->n_interfaces; i++)
        if (u->all || !ubus_hidden(xml->interfaces[i].name))
            print_interface(u, &xml->interfaces[i]);
    return ferror(stdout) ? UBUS_LOCAL : 0;
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Sorted, each name once; running services, and with `activatable` what could be started. */
static size_t merge(char **names, char **activatable, char ***ret)
{
    size_t n = 0, m = 0, unique = 0;
    char **all;

    while (names && names[n])
        n++;
    while (activatable && activatable[m])
        m++;
    all = calloc(n + m + 1, sizeof *all);
    *ret = all;
    if (!all)
        return 0;
    if (n)
        memcpy(all, names, n * sizeof *all);
    if (m)
        memcpy(all + n, activatable, m * sizeof *all);
    qsort(all, n + m, sizeof *all, compare);
    for (size_t i = 0; i < n + m; i++)
        if (i == 0 || !streq(all[i], all[unique - 1]))
            all[unique++] = all[i];
    return unique;
}

static void strv_free(char **v)
{
    for (char **s = v; s && *s; s++)
        free(*s);
    free(v);
}

int verb_list(ubus *u, int argc, char *argv[])
{
    const char *pattern = argc > 0 ? argv[0] : NULL;
    bool look = u->verbose || u->objects, matched = false;
    char **names = NULL, **activatable = NULL, **all;
    int code = ubus_connect(u), r;
    size_t n;

    if (code)
        return code;
    /* To look at an exact name may start it; a pattern only looks at what runs. */
    if (look && pattern && ubus_is_name(pattern))
        return ubus_walk(u, pattern, "/", print_object, NULL);
    r = sd_bus_list_names(u->bus, &names, look ? NULL : &activatable);
    if (r < 0)
        return ubus_failed("list", NULL, r);
    n = merge(names, activatable, &all);
    for (size_t i = 0; i < n && code == 0; i++) {
        if (!ubus_is_name(all[i]) || (all[i][0] == ':' && !u->all) ||
            (pattern && fnmatch(pattern, all[i], 0) != 0))
            continue;
        matched = true;
        if (look)
            code = ubus_walk(u, all[i], "/", print_object, NULL);
        else
            puts(all[i]);
        if (look && code != UBUS_LOCAL && code != UBUS_NO_BUS)
            code = 0; /* said so; the others are still of interest */
    }
    free(all);
    strv_free(names);
    strv_free(activatable);
    if (code == 0 && pattern && !matched) {
        fputs("h-ubus: no name matches ", stderr);
        ubus_print_safe(stderr, pattern);
        fputc('\n', stderr);
        return UBUS_NOT_FOUND;
    }
    return code;
}
