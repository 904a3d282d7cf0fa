/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "page.h"

static void put_text(FILE *f, const char *s)
{
    for (; *s; s++)
        switch (*s) {
        case '<':
            fputs("&lt;", f);
            break;
        case '>':
            fputs("&gt;", f);
            break;
        case '&':
            fputs("&amp;", f);
            break;
        case '"':
            fputs("&quot;", f);
            break;
        case '\'':
            fputs("&#39;", f);
            break;
        default:
            fputc(*s, f);
        }
}

static void put_bytes(FILE *f, json_int_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double v = (double)bytes;
    unsigned i = 0;
    for (; v >= 1024 && i < 4; i++)
        v /= 1024;
    fprintf(f, i == 0 ? "%.0f %s" : "%.1f %s", v, units[i]);
}

static void put_duration(FILE *f, json_int_t seconds)
{
    fprintf(f, "%lld d %02lld:%02lld:%02lld", (long long)seconds / 86400,
            (long long)seconds / 3600 % 24, (long long)seconds / 60 % 60, (long long)seconds % 60);
}

/* How a value is shown; page.js has the same list. */
static void put_value(FILE *f, const char *key, const json_t *v)
{
    static const char *const bytes[] = {"total",     "available", "cached", "swap-total",
                                        "swap-free", "size",      "used",   "free",
                                        "received",  "sent",      "memory"};
    if (strcmp(key, "uptime") == 0) {
        put_duration(f, json_integer_value(v));
        return;
    }
    for (size_t i = 0; json_is_integer(v) && i < sizeof(bytes) / sizeof(bytes[0]); i++)
        if (strcmp(key, bytes[i]) == 0) {
            put_bytes(f, json_integer_value(v));
            return;
        }
    if (json_is_string(v))
        put_text(f, json_string_value(v));
    else if (json_is_integer(v))
        fprintf(f, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v))
        fprintf(f, strcmp(key, "percent") == 0 ? "%.1f %%" : "%.2f", json_real_value(v));
    else if (json_is_array(v))
        for (size_t i = 0; i < json_array_size(v); i++)
            fprintf(f, i == 0 ? "%.2f" : " %.2f", json_number_value(json_array_get(v, i)));
}

static void put_pairs(FILE *f, const char *id, const json_t *o)
{
    const char *key;
    json_t *v;

    fprintf(f, "<dl id=\"%s\">", id);
    json_object_foreach((json_t *)o, key, v)
    {
        if (json_is_object(v) || (json_is_array(v) && json_is_object(json_array_get(v, 0))) ||
            strcmp(key, "time") == 0)
            continue;
        fputs("<div><dt>", f);
        put_text(f, key);
        fputs("</dt><dd>", f);
        put_value(f, key, v);
        fputs("</dd></div>", f);
    }
    fputs("</dl>\n", f);
}

static void put_table(FILE *f, const char *id, const json_t *rows)
{
    const char *key;
    size_t i;
    json_t *row, *v;

    fprintf(f, "<div class=\"scroll\"><table id=\"%s\"><thead><tr>", id);
    json_object_foreach(json_array_get(rows, 0), key, v)
    {
        fputs("<th>", f);
        put_text(f, key);
        fputs("</th>", f);
    }
    fputs("</tr></thead><tbody>", f);
    json_array_foreach((json_t *)rows, i, row)
    {
        fputs("<tr>", f);
        json_object_foreach(row, key, v)
        {
            fputs("<td>", f);
            put_value(f, key, v);
            fputs("</td>", f);
        }
        fputs("</tr>", f);
    }
    fputs("</tbody></table></div>\n", f);
}

char *page_render(const json_t *status, size_t *ret_size)
{
    static const char *const pairs[] = {"cpu", "memory"}, *const tables[] = {"disks", "network",
                                                                             "units"};
    char *page = NULL;
    FILE *f = open_memstream(&page, ret_size);
    if (!f)
        return NULL;

    fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
          "<title>Device status</title>"
          "<link rel=\"icon\" href=\"/system/status/icon.svg\">"
          "<link rel=\"stylesheet\" href=\"/system/status/style.css\">"
          "<script src=\"/system/status/app.js\" defer></script></head><body>\n"
          "<header><h1>Device status</h1><p id=\"live\" role=\"status\">as of the moment it was "
          "loaded</p></header>\n<main>\n<section>",
          f);
    put_pairs(f, "system", status);
    fputs("</section>\n", f);
    for (size_t i = 0; i < 2; i++) {
        fprintf(f, "<section><h2>%s</h2>", pairs[i]);
        put_pairs(f, pairs[i], json_object_get(status, pairs[i]));
        fputs("</section>\n", f);
    }
    for (size_t i = 0; i < 3; i++) {
        fprintf(f, "<section><h2>%s</h2>", tables[i]);
        put_table(f, tables[i], json_object_get(status, tables[i]));
        fputs("</section>\n", f);
    }
    fputs("</main></body></html>\n", f);
    if (fclose(f) != 0) {
        free(page);
        return NULL;
    }
    return page;
}
