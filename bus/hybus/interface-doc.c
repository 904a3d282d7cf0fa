/* SPDX-License-Identifier: Apache-2.0 */
/* Documentation comments of interface XML, taken apart. */
#include <ctype.h>

#include "interface.h"

/* Appends `text` (n bytes) to *s, whitespace folded to single spaces. */
static int append_folded(char **s, const char *text, size_t n)
{
    size_t have = *s ? strlen(*s) : 0;
    char *longer = realloc(*s, have + n + 2), *end;

    if (!longer)
        return -ENOMEM;
    *s = longer;
    end = longer + have;
    if (have && n)
        *end++ = ' ';
    for (size_t i = 0; i < n; i++)
        if (!isspace((unsigned char)text[i]))
            *end++ = text[i];
        else if (end > longer && end[-1] != ' ')
            *end++ = ' ';
    while (end > longer && end[-1] == ' ')
        end--;
    *end = 0;
    return 0;
}

static int begin_arg(hybus_xml_doc *d, const char *line, size_t n)
{
    const char *colon = memchr(line, ':', n);
    hybus_xml_doc_arg *args = reallocarray(d->args, d->n_args + 1, sizeof *args);

    if (!args)
        return -ENOMEM;
    d->args = args;
    args += d->n_args;
    args->text = NULL;
    args->name = strndup(line + 1, colon - line - 1);
    if (!args->name)
        return -ENOMEM;
    d->n_args++;
    return append_folded(&args->text, colon + 1, line + n - colon - 1);
}

static int begin_paragraph(hybus_xml_doc *d)
{
    char **paragraphs = reallocarray(d->paragraphs, d->n_paragraphs + 1, sizeof *paragraphs);

    if (!paragraphs)
        return -ENOMEM;
    d->paragraphs = paragraphs;
    paragraphs[d->n_paragraphs++] = NULL;
    return 0;
}

/* The short description, or the first sentence of what there is. */
static int make_summary(hybus_xml_doc *d)
{
    for (size_t i = 0; i < d->n_args; i++)
        if (streq(d->args[i].name, "short_description")) {
            d->summary = d->args[i].text;
            free(d->args[i].name);
            memmove(&d->args[i], &d->args[i + 1], (--d->n_args - i) * sizeof *d->args);
            return 0;
        }
    for (size_t i = 0; i < d->n_paragraphs; i++) {
        const char *p = d->paragraphs[i], *stop = p;

        if (startswith(p, "Errors:"))
            continue;
        while ((stop = strpbrk(stop, ".;")) && stop[1] && stop[1] != ' ')
            stop++;
        d->summary = stop ? strndup(p, stop - p) : strdup(p);
        return d->summary ? 0 : -ENOMEM;
    }
    d->summary = strdup("");
    return d->summary ? 0 : -ENOMEM;
}

static int parse(const char *doc, const char *name, hybus_xml_doc *d)
{
    bool in_paragraph = false, in_arg = false, titled = false;
    size_t arg_indent = 0;

    for (const char *line = doc, *next; *line; line = next) {
        size_t n = strcspn(line, "\n"), indent = 0;
        const char *rest;
        int r = 0;

        next = line + n + (line[n] == '\n');
        while (indent < n && isspace((unsigned char)line[indent]))
            indent++;
        line += indent;
        n -= indent;
        while (n && isspace((unsigned char)line[n - 1]))
            n--;
        if (!n) {
            in_paragraph = in_arg = false;
            continue;
        }

        rest = titled ? NULL : startswith(line, name);
        titled = true;
        if (rest && *rest == ':') {
            n -= rest + 1 - line;
            line = rest + 1;
            while (n && isspace((unsigned char)*line)) {
                line++;
                n--;
            }
            if (!n)
                continue;
        }

        if (*line == '@' && memchr(line, ':', n)) {
            r = begin_arg(d, line, n);
            arg_indent = indent;
            in_arg = true;
            in_paragraph = false;
        } else if (in_arg && indent > arg_indent)
            r = append_folded(&d->args[d->n_args - 1].text, line, n);
        else {
            if (!in_paragraph || startswith(line, "Errors:"))
                r = begin_paragraph(d);
            in_paragraph = true;
            in_arg = false;
            if (r == 0)
                r = append_folded(&d->paragraphs[d->n_paragraphs - 1], line, n);
        }
        if (r < 0)
            return r;
    }
    return make_summary(d);
}

int hybus_xml_doc_parse(const char *doc, const char *name, hybus_xml_doc *ret)
{
    hybus_xml_doc d = {};
    int r = parse(strempty(doc), name, &d);

    if (r < 0) {
        hybus_xml_doc_done(&d);
        return r;
    }
    *ret = d;
    return 0;
}

void hybus_xml_doc_done(hybus_xml_doc *d)
{
    for (size_t i = 0; i < d->n_args; i++) {
        free(d->args[i].name);
        free(d->args[i].text);
    }
    for (size_t i = 0; i < d->n_paragraphs; i++)
        free(d->paragraphs[i]);
    free(d->args);
    free(d->paragraphs);
    free(d->summary);
    *d = (hybus_xml_doc){};
}

const char *hybus_xml_doc_arg_text(const hybus_xml_doc *d, const char *name)
{
    for (size_t i = 0; i < d->n_args; i++)
        if (streq(d->args[i].name, name))
            return d->args[i].text;
    return NULL;
}
