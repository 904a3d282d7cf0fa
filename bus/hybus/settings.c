/* SPDX-License-Identifier: Apache-2.0 */
#include <ctype.h>

#include "config.h"

typedef struct Unit {
    const char *suffix;
    uint64_t factor;
} Unit;

static const Unit no_units[] = {{"", 1}, {NULL}};
static const Unit byte_units[] = {
    {"", 1}, {"K", 1ull << 10}, {"M", 1ull << 20}, {"G", 1ull << 30}, {NULL}};
static const Unit time_units[] = {{"", 1000000ull},
                                  {"ms", 1000ull},
                                  {"s", 1000000ull},
                                  {"min", 60 * 1000000ull},
                                  {"h", 3600 * 1000000ull},
                                  {"d", 86400 * 1000000ull},
                                  {NULL}};

static void *field(const hybus_setting *s, void *settings)
{
    return (char *)settings + s->offset;
}

static int parse_number(const char *text, const Unit *units, uint64_t *ret)
{
    uint64_t n = 0;
    const char *s = text;

    if (!isdigit((unsigned char)*s))
        return -EINVAL;
    for (; isdigit((unsigned char)*s); s++)
        if (__builtin_mul_overflow(n, 10, &n) ||
            __builtin_add_overflow(n, (uint64_t)(*s - '0'), &n))
            return -ERANGE;
    for (; *s == ' '; s++)
        ;
    for (; units->suffix; units++)
        if (streq(s, units->suffix)) {
            if (__builtin_mul_overflow(n, units->factor, &n))
                return -ERANGE;
            *ret = n;
            return 0;
        }
    return -EINVAL;
}

static int parse_bool(const char *text, bool *ret)
{
    static const char *const yes[] = {"yes", "true", "on", "1"}, *const no[] = {"no", "false",
                                                                                "off", "0"};

    for (size_t i = 0; i < ELEMENTS(yes); i++)
        if (strcasecmp(text, yes[i]) == 0 || strcasecmp(text, no[i]) == 0) {
            *ret = strcasecmp(text, yes[i]) == 0;
            return 0;
        }
    return -EINVAL;
}

static void strings_free(char **list)
{
    for (char **s = list; s && *s; s++)
        free(*s);
    free(list);
}

static int strings_append(char ***list, const char *text)
{
    size_t n = 0;

    while (*list && (*list)[n])
        n++;
    for (const char *s = text;;) {
        size_t size;
        char **larger;

        s += strspn(s, " \t");
        size = strcspn(s, " \t");
        larger = reallocarray(*list, n + 2, sizeof *larger);
        if (!larger)
            return -ENOMEM;
        *list = larger;
        larger[n] = larger[n + 1] = NULL;
        if (size == 0)
            return 0;
        larger[n] = strndup(s, size);
        if (!larger[n++])
            return -ENOMEM;
        s += size;
    }
}

static int assign_number(const hybus_setting *s, const char *text, void *settings)
{
    const Unit *units = s->type == HYBUS_SETTING_BYTES     ? byte_units
                        : s->type == HYBUS_SETTING_SECONDS ? time_units
                                                           : no_units;
    uint64_t n;
    int r = parse_number(text, units, &n);

    if (r < 0)
        return r;
    if (n < s->min || (s->max > 0 && n > s->max))
        return -ERANGE;
    *(uint64_t *)field(s, settings) = n;
    return 0;
}

/* `first`: the first time in the files, which replaces the default of a list. */
static int assign(const hybus_setting *s, const char *text, bool first, void *settings)
{
    switch (s->type) {
    case HYBUS_SETTING_BOOL:
        return parse_bool(text, field(s, settings));
    case HYBUS_SETTING_STRING: {
        char *copy = strdup(text), **p = field(s, settings);

        if (!copy)
            return -ENOMEM;
        free(*p);
        *p = copy;
        return 0;
    }
    case HYBUS_SETTING_STRINGS: {
        char ***p = field(s, settings);

        if (first || !*text) {
            strings_free(*p);
            *p = NULL;
        }
        return strings_append(p, text);
    }
    default:
        return assign_number(s, text, settings);
    }
}

void hybus_settings_done(const hybus_setting *table, void *settings)
{
    for (const hybus_setting *s = table; s && s->key; s++) {
        if (s->type == HYBUS_SETTING_STRING) {
            char **p = field(s, settings);
            free(*p);
            *p = NULL;
        } else if (s->type == HYBUS_SETTING_STRINGS) {
            char ***p = field(s, settings);
            strings_free(*p);
            *p = NULL;
        }
    }
}

/* --- what was probably meant ----------------------------------------------------------------- */

#define WORD_MAX 63u

/* Edit distance, without regard to case (Wagner-Fischer with one row). */
static size_t distance(const char *a, const char *b)
{
    size_t row[WORD_MAX + 1], n = strlen(b);

    if (n > WORD_MAX || strlen(a) > WORD_MAX)
        return SIZE_MAX;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];

        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t change =
                diagonal + (tolower((unsigned char)a[i - 1]) != tolower((unsigned char)b[j - 1]));

            diagonal = row[j];
            row[j] = MIN_OF(row[j], row[j - 1]) + 1;
            row[j] = MIN_OF(row[j], change);
        }
    }
    return row[n];
}

static const char *nearest(const hybus_setting *table, const char *section, const char *word)
{
    const char *best = NULL;
    size_t best_distance = SIZE_MAX;

    for (const hybus_setting *s = table; s->key; s++) {
        const char *candidate = section ? s->key : s->section;
        size_t d;

        if (section && !streq(s->section, section))
            continue;
        d = distance(word, candidate);
        if (d < best_distance) {
            best = candidate;
            best_distance = d;
        }
    }
    return best;
}

static bool known_section(const hybus_setting *table, const char *name)
{
    for (const hybus_setting *s = table; s->key; s++)
        if (streq(s->section, name))
            return true;
    return false;
}

static const hybus_setting *find(const hybus_setting *table, const char *section, const char *key)
{
    for (const hybus_setting *s = table; s->key; s++)
        if (streq(s->section, section) && streq(s->key, key))
            return s;
    return NULL;
}

/* --- loading --------------------------------------------------------------------------------- */

static const char *expected(const hybus_setting *s)
{
    switch (s->type) {
    case HYBUS_SETTING_BOOL:
        return "yes or no";
    case HYBUS_SETTING_BYTES:
        return "a number of bytes, such as 4096, 64K, 8M or 1G";
    case HYBUS_SETTING_SECONDS:
        return "a time, such as 500ms, 30s, 5min, 2h or 1d";
    default:
        return "a whole number";
    }
}

static int value_error(const hybus_setting *s, const hybus_config_entry *entry, int error,
                       hybus_config_error *e)
{
    char range[96] = "";
    const char *unit = s->type == HYBUS_SETTING_SECONDS ? "ms" : "";
    uint64_t divisor = s->type == HYBUS_SETTING_SECONDS ? 1000 : 1;

    if (error == -ENOMEM)
        return error;
    if (error == -ERANGE && s->max > 0)
        snprintf(range, sizeof range, " from %llu%s to %llu%s",
                 (unsigned long long)(s->min / divisor), unit,
                 (unsigned long long)(s->max / divisor), unit);
    else if (error == -ERANGE)
        snprintf(range, sizeof range, ", at least %llu%s", (unsigned long long)(s->min / divisor),
                 unit);
    return hybus_config_error_set(e, &entry->value_at, "%s = \"%.64s\" is not %s%s", s->key,
                                  entry->value, expected(s), range);
}

static int load_section(const hybus_setting *table, const hybus_config_section *section, bool *seen,
                        void *settings, hybus_config_error *e)
{
    if (!known_section(table, section->name) || *section->argument) {
        const char *near = nearest(table, NULL, section->name);
        return hybus_config_error_set(e, &section->at, "unknown section [%s%s%s]; known is [%s]",
                                      section->name, *section->argument ? " " : "",
                                      section->argument, strempty(near));
    }
    for (size_t i = 0; i < section->n_entries; i++) {
        const hybus_config_entry *entry = &section->entries[i];
        const hybus_setting *s = find(table, section->name, entry->key);
        int r;

        if (!s)
            return hybus_config_error_set(
                e, &entry->at, "unknown setting %s in [%s]; did you mean %s?", entry->key,
                section->name, nearest(table, section->name, entry->key));
        r = assign(s, entry->value, !seen[s - table], settings);
        if (r < 0)
            return value_error(s, entry, r, e);
        seen[s - table] = true;
    }
    return 0;
}

int hybus_settings_load(const hybus_setting *table, const hybus_config *c, void *settings,
                        hybus_config_error *e)
{
    const hybus_config_section *sections = NULL;
    _cleanup_(freep) bool *seen = NULL;
    size_t n = c ? hybus_config_sections(c, &sections) : 0, n_settings = 0;
    int r = 0;

    while (table[n_settings].key)
        n_settings++;
    seen = calloc(n_settings + 1, sizeof *seen);
    if (!seen)
        return -ENOMEM;
    for (const hybus_setting *s = table; s->key && r == 0; s++) {
        r = assign(s, strempty(s->default_value), true, settings);
        if (r < 0 && r != -ENOMEM)
            (void)hybus_config_error_set(e, NULL, "the built-in default of %s is not valid",
                                         s->key);
    }
    for (size_t i = 0; i < n && r == 0; i++)
        r = load_section(table, &sections[i], seen, settings, e);
    if (r < 0)
        hybus_settings_done(table, settings);
    return r;
}
