/* SPDX-License-Identifier: Apache-2.0 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "page.h"

/* What is laid out here is kept fresh by app.js: an element says with data-k which figure of the
 * status it shows and with data-f how. The formats are the same ones there. */

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

/* --- formats ---------------------------------------------------------------------------------- */

static void put_bytes(FILE *f, const json_t *v)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double n = json_number_value(v);
    unsigned i = 0;
    for (; n >= 1024 && i < 4; i++)
        n /= 1024;
    fprintf(f, i == 0 || n >= 100 ? "%.0f %s" : "%.1f %s", n, units[i]);
}

static void put_percent(FILE *f, const json_t *v)
{
    fprintf(f, "%.0f %%", json_number_value(v));
}

static void put_duration(FILE *f, const json_t *v)
{
    long long s = (long long)json_number_value(v);
    if (s >= 86400)
        fprintf(f, "%lld d ", s / 86400);
    fprintf(f, "%02lld:%02lld:%02lld", s / 3600 % 24, s / 60 % 60, s % 60);
}

static void put_seconds(FILE *f, const json_t *v)
{
    fprintf(f, "%.2f s", json_number_value(v));
}

static void put_plain(FILE *f, const json_t *v)
{
    if (json_is_string(v))
        put_text(f, json_string_value(v));
    else if (json_is_integer(v))
        fprintf(f, "%lld", (long long)json_integer_value(v));
}

static void put_load(FILE *f, const json_t *v)
{
    for (size_t i = 0; i < json_array_size(v); i++)
        fprintf(f, i == 0 ? "%.2f" : " %.2f", json_number_value(json_array_get(v, i)));
}

static void put_clock(FILE *f, const json_t *v)
{
    time_t t = (time_t)json_number_value(v);
    char text[64];
    struct tm tm;

    if (gmtime_r(&t, &tm) && strftime(text, sizeof(text), "as of %H:%M:%S UTC", &tm) > 0)
        fputs(text, f);
}

/* A loopback has no state. */
static void put_state(FILE *f, const json_t *v)
{
    const char *s = json_string_value(v);
    put_text(f, !s || strcmp(s, "unknown") == 0 ? "–" : s);
}

static void put_failed(FILE *f, const json_t *v)
{
    size_t n = json_array_size(v);

    if (n == 0) {
        fputs(v ? "All units are well" : "What the units do is not known", f);
        return;
    }
    fprintf(f, n == 1 ? "%zu unit has failed: " : "%zu units have failed: ", n);
    for (size_t i = 0; i < n; i++) {
        fputs(i > 0 ? ", " : "", f);
        put_plain(f, json_array_get(v, i));
    }
}

typedef struct Format {
    const char *name;
    void (*put)(FILE *f, const json_t *v);
} Format;

static const Format bytes = {"bytes", put_bytes}, percent = {"percent", put_percent},
                    duration = {"duration", put_duration}, seconds = {"seconds", put_seconds},
                    plain = {"plain", put_plain}, load = {"load", put_load},
                    moment = {"clock", put_clock}, state = {"state", put_state},
                    failed = {"failed", put_failed};

/* --- parts of the page ------------------------------------------------------------------------ */

/* "disks.0.size": keys of objects and numbers of rows. NULL if it is not there. */
static const json_t *find(const json_t *status, const char *key)
{
    char name[32];

    while (status && *key) {
        size_t n = strcspn(key, ".");
        snprintf(name, sizeof(name), "%.*s", (int)n, key);
        status = json_is_array(status) ? json_array_get(status, strtoul(name, NULL, 10))
                                       : json_object_get(status, name);
        key += n + (key[n] == '.');
    }
    return status;
}

static void put(FILE *f, const json_t *status, const char *key, const Format *format)
{
    const json_t *v = find(status, key);

    fprintf(f, "<span data-k=\"%s\" data-f=\"%s\">", key, format->name);
    if (v || format == &failed)
        format->put(f, v);
    fputs("</span>", f);
}

static void put_bar(FILE *f, const json_t *status, const char *key)
{
    double n = json_number_value(find(status, key));

    fprintf(f,
            "<svg class=\"bar\" viewBox=\"0 0 100 1\" preserveAspectRatio=\"none\" "
            "aria-hidden=\"true\"><rect height=\"1\" width=\"%.1f\" class=\"%s\" data-k=\"%s\" "
            "data-f=\"bar\"/></svg>",
            n, n >= 90 ? "high" : "", key);
}

static void put_tile(FILE *f, const json_t *status, const char *title, const char *key,
                     const Format *format)
{
    fprintf(f, "<section class=\"tile\"><h2>%s</h2><p class=\"big\">", title);
    put(f, status, key, format);
    fputs("</p>", f);
    if (format == &percent)
        put_bar(f, status, key);
}

static void put_tiles(FILE *f, const json_t *status)
{
    fputs("<div class=\"tiles\">", f);
    put_tile(f, status, "CPU", "cpu.percent", &percent);
    fputs("<p>load ", f);
    put(f, status, "load", &load);
    fputs("</p><p>cores: ", f);
    put(f, status, "cpu.cores", &plain);
    fputs("</p><svg id=\"spark\" viewBox=\"0 0 59 100\" preserveAspectRatio=\"none\" "
          "aria-hidden=\"true\"><polyline/></svg></section>",
          f);
    put_tile(f, status, "Memory", "memory.percent", &percent);
    fputs("<p>", f);
    put(f, status, "memory.used", &bytes);
    fputs(" of ", f);
    put(f, status, "memory.total", &bytes);
    fputs("</p></section>", f);
    put_tile(f, status, "Disk", "disks.0.percent", &percent);
    fputs("<p>", f);
    put(f, status, "disks.0.used", &bytes);
    fputs(" of ", f);
    put(f, status, "disks.0.size", &bytes);
    fputs("</p></section>", f);
    put_tile(f, status, "Up", "uptime", &duration);
    fputs("</section></div>\n", f);
}

typedef struct Column {
    const char *title, *key;
    const Format *format;
    const char *class; /* "n" a number, "w" for wide screens only */
} Column;

static void put_row(FILE *f, const json_t *row, const Column *columns)
{
    fprintf(f, "<tr class=\"%s\">",
            json_object_get(row, "state") &&
                    strcmp(json_string_value(json_object_get(row, "state")), "failed") == 0
                ? "failed"
                : "");
    for (const Column *c = columns; c->title; c++) {
        const json_t *v = json_object_get(row, c->key);
        fprintf(f, "<td class=\"%s\">", c->class);
        if (v)
            c->format->put(f, v);
        else
            fputs("–", f);
        fputs("</td>", f);
    }
    fputs("</tr>", f);
}

static void put_table(FILE *f, const json_t *status, const char *title, const char *key,
                      const Column *columns)
{
    size_t i;
    json_t *row;

    fprintf(f, "<section><h2>%s</h2><table data-rows=\"%s\"><thead><tr>", title, key);
    for (const Column *c = columns; c->title; c++)
        fprintf(f, "<th scope=\"col\" class=\"%s\" data-c=\"%s\" data-g=\"%s\">%s</th>", c->class,
                c->key, c->format->name, c->title);
    fputs("</tr></thead><tbody>", f);
    json_array_foreach(json_object_get(status, key), i, row) put_row(f, row, columns);
    fputs("</tbody></table></section>\n", f);
}

static const Column unit_columns[] = {{"Unit", "name", &plain, ""},
                                      {"Description", "description", &plain, "w"},
                                      {"State", "state", &state, ""},
                                      {"Tasks", "tasks", &plain, "n w"},
                                      {"Memory", "memory", &bytes, "n"},
                                      {"CPU time", "cpu-seconds", &seconds, "n w"},
                                      {0}};
static const Column network_columns[] = {{"Interface", "name", &plain, ""},
                                         {"State", "state", &state, ""},
                                         {"Received", "received", &bytes, "n"},
                                         {"Sent", "sent", &bytes, "n"},
                                         {0}};
static const Column disk_columns[] = {
    {"Mounted at", "mount", &plain, ""}, {"Type", "type", &plain, "w"},
    {"Used", "used", &bytes, "n"},       {"Free", "free", &bytes, "n"},
    {"Size", "size", &bytes, "n w"},     {0}};

static void put_header(FILE *f, const json_t *status)
{
    static const char *const keys[] = {"model", "os", "kernel", "architecture"};
    const char *between = "";

    fputs("<header><h1>", f);
    put(f, status, "hostname", &plain);
    fputs("</h1><p id=\"live\" role=\"status\">", f);
    put(f, status, "time", &moment);
    fputs("</p><p class=\"about\">", f);
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (find(status, keys[i])) {
            fputs(between, f);
            put(f, status, keys[i], &plain);
            between = " · ";
        }
    bool bad = json_array_size(find(status, "failed")) > 0;
    fprintf(f, "</p><p id=\"health\" class=\"%s\">", bad ? "bad" : "");
    put(f, status, "failed", &failed);
    fputs("</p></header>\n", f);
}

char *page_render(const json_t *status, size_t *ret_size)
{
    char *page = NULL;
    FILE *f = open_memstream(&page, ret_size);
    if (!f)
        return NULL;

    fputs("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
          "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
          "<meta name=\"color-scheme\" content=\"light dark\"><title>",
          f);
    put_plain(f, find(status, "hostname"));
    fputs(" · device status</title>"
          "<link rel=\"icon\" href=\"/system/status/icon.svg\">"
          "<link rel=\"stylesheet\" href=\"/system/status/style.css\">"
          "<script src=\"/system/status/app.js\" defer></script></head><body>\n",
          f);
    put_header(f, status);
    fputs("<main>", f);
    put_tiles(f, status);
    put_table(f, status, "Units", "units", unit_columns);
    put_table(f, status, "Network", "network", network_columns);
    put_table(f, status, "Disks", "disks", disk_columns);
    fputs("</main>\n<footer>Programs get the same as JSON, and with <code>Accept: "
          "text/event-stream</code> once a second.</footer></body></html>\n",
          f);
    if (fclose(f) != 0) {
        free(page);
        return NULL;
    }
    return page;
}
