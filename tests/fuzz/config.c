/* SPDX-License-Identifier: Apache-2.0 */

/* The configuration parser: whatever it accepts has positions inside the text and values without
 * control characters; whatever it rejects it says where, and leaves nothing behind. */

#include <assert.h>

#include <hybus/config.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct Settings {
    uint64_t number, bytes, time;
    bool on;
    char *name, **list;
} Settings;

static const hybus_setting table[] = {
    {"a", "Number", HYBUS_SETTING_UINT, offsetof(Settings, number), "1", 1, 100},
    {"a", "Bytes", HYBUS_SETTING_BYTES, offsetof(Settings, bytes), "1K"},
    {"a", "Time", HYBUS_SETTING_SECONDS, offsetof(Settings, time), "1s"},
    {"a", "On", HYBUS_SETTING_BOOL, offsetof(Settings, on), "no"},
    {"a", "Name", HYBUS_SETTING_STRING, offsetof(Settings, name), ""},
    {"a", "List", HYBUS_SETTING_STRINGS, offsetof(Settings, list), ""},
    {NULL},
};

static void check_entry(const hybus_config_entry *e, size_t size)
{
    assert(*e->key && e->at.line > 0 && e->at.column > 0 && e->at.line <= size + 1);
    assert(e->value_at.column > e->at.column);
    for (const char *s = e->value; *s; s++)
        assert((unsigned char)*s >= 0x20 || *s == '\t');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    _cleanup_(hybus_config_freep) hybus_config *c = NULL;
    _cleanup_(hybus_config_error_done) hybus_config_error e = {0};
    const hybus_config_section *sections;
    Settings settings = {0};
    size_t n;

    if (hybus_config_new(&c) < 0)
        return 0;
    if (hybus_config_parse(c, "f", (const char *)data, size, &e) < 0) {
        assert(e.message);
        assert(hybus_config_sections(c, &sections) == 0);
        return 0;
    }
    n = hybus_config_sections(c, &sections);
    for (size_t i = 0; i < n; i++) {
        assert(*sections[i].name);
        for (size_t k = 0; k < sections[i].n_entries; k++)
            check_entry(&sections[i].entries[k], size);
    }
    if (hybus_settings_load(table, c, &settings, &e) == 0)
        assert(settings.number >= 1 && settings.number <= 100);
    hybus_settings_done(table, &settings);
    return 0;
}
