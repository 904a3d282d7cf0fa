/* SPDX-License-Identifier: Apache-2.0 */
#include "policy-read.h"

#include <libgen.h>
#include <pwd.h>
#include <sys/stat.h>

#define NOTES_MAX 256u

void policy_notes_done(PolicyNotes *notes)
{
    words_free(notes->warnings);
    words_free(notes->masked);
    words_free(notes->development);
    *notes = (PolicyNotes){0};
}

static int note(char ***list, const char *text)
{
    if (words_count(*list) >= NOTES_MAX)
        return 0;
    return words_add(list, text, strlen(text));
}

/* The agent owns what Grant wrote, also when somebody else reads it (h-policy check). */
static bool is_owner(uid_t uid)
{
    const struct passwd *pw;

    if (uid == 0 || uid == geteuid())
        return true;
    pw = getpwuid(uid);
    return pw && streq(pw->pw_name, "h-securityd");
}

static bool is_safe(const struct stat *st)
{
    return is_owner(st->st_uid) && !(st->st_mode & (S_IWGRP | S_IWOTH));
}

int policy_file_check(int fd, const char *path, hybus_config_error *e)
{
    _cleanup_(freep) char *copy = strdup(path);
    hybus_config_position at = {.file = path, .line = 1, .column = 1};
    struct stat st;

    if (!copy)
        return -ENOMEM;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (!S_ISREG(st.st_mode))
        return hybus_config_error_set(e, &at, "is not a regular file");
    if (!is_safe(&st))
        return hybus_config_error_set(e, &at,
                                      "must belong to root and be writable by its owner only "
                                      "(it is uid %u, mode %04o)",
                                      st.st_uid, st.st_mode & 07777);
    if (stat(dirname(copy), &st) < 0)
        return -errno;
    if (!is_safe(&st))
        return hybus_config_error_set(e, &at,
                                      "its directory must belong to root and be writable by its "
                                      "owner only (it is uid %u, mode %04o)",
                                      st.st_uid, st.st_mode & 07777);
    return 0;
}

/* --- one rule -------------------------------------------------------------------------------- */

typedef struct Reader {
    Rule *rule;
    PolicyNotes *notes;
    hybus_config_error *error;
} Reader;

/* The place of a word inside a value. Continued lines are counted as one. */
static hybus_config_position place(const hybus_config_entry *entry, const char *word)
{
    hybus_config_position at = entry->value_at;

    at.column += (unsigned)(word - entry->value);
    return at;
}

static int read_subject(Reader *r, const hybus_config_entry *entry, const char *word, size_t size)
{
    hybus_config_position at = place(entry, word);
    _cleanup_(freep) char *text = strndup(word, size), *subject = NULL;
    int result;

    if (!text)
        return -ENOMEM;
    result = size > POLICY_NAME_MAX ? -EINVAL : subject_parse(text, &subject);
    if (result == -ENOENT) {
        _cleanup_(freep) char *warning = NULL;

        if (asprintf(&warning, "%s:%u:%u: %s does not exist and matches nobody", at.file, at.line,
                     at.column, text) < 0) {
            warning = NULL;
            return -ENOMEM;
        }
        if (r->notes && (result = note(&r->notes->warnings, warning)) < 0)
            return result;
    } else if (result == -EINVAL)
        return hybus_config_error_set(r->error, &at, "\"%s\" is not a subject", text);
    else if (result < 0)
        return result;
    return words_add(&r->rule->subjects, subject, strlen(subject));
}

static int read_permission(Reader *r, const hybus_config_entry *entry, const char *word,
                           size_t size)
{
    hybus_config_position at = place(entry, word);
    _cleanup_(freep) char *text = strndup(word, size);

    if (!text)
        return -ENOMEM;
    if (!permission_pattern_is_valid(text))
        return hybus_config_error_set(r->error, &at, "\"%s\" is not a permission", text);
    return words_add(&r->rule->permissions, text, size);
}

static int read_words(Reader *r, const hybus_config_entry *entry,
                      int (*read)(Reader *, const hybus_config_entry *, const char *, size_t))
{
    const char *s = entry->value;
    size_t n_words = 0;
    int result;

    for (;;) {
        size_t n;

        s += strspn(s, " \t");
        n = strcspn(s, " \t");
        if (n == 0)
            break;
        if (++n_words > POLICY_LIST_MAX)
            return hybus_config_error_set(r->error, &entry->value_at,
                                          "more than %u words in one rule", POLICY_LIST_MAX);
        result = read(r, entry, s, n);
        if (result < 0)
            return result;
        s += n;
    }
    if (n_words == 0)
        return hybus_config_error_set(r->error, &entry->at, "%s needs a value", entry->key);
    return 0;
}

/* The value with single spaces, as it is shown to people. */
static char *as_written(const char *value)
{
    char *copy = strdup(value), *to = copy;

    if (!copy)
        return NULL;
    for (const char *from = copy; *from; from++)
        if (*from != ' ' && *from != '\t')
            *to++ = *from;
        else if (to > copy && to[-1] != ' ')
            *to++ = ' ';
    if (to > copy && to[-1] == ' ')
        to--;
    *to = '\0';
    return copy;
}

static int read_entry(Reader *r, const hybus_config_entry *entry)
{
    Rule *rule = r->rule;
    char **text;
    int result;

    if (streq(entry->key, "To"))
        text = &rule->to;
    else if (streq(entry->key, "Permission"))
        text = &rule->permission;
    else if (streq(entry->key, "When"))
        text = &rule->when;
    else if (streq(entry->key, "Description"))
        text = &rule->description;
    else
        return hybus_config_error_set(
            r->error, &entry->at, "unknown key \"%s\"; a rule has To, Permission, When, Description",
            entry->key);
    if (*text)
        return hybus_config_error_set(r->error, &entry->at, "%s stands twice in one rule",
                                      entry->key);
    *text = as_written(entry->value);
    if (!*text)
        return -ENOMEM;
    if (text == &rule->to)
        return read_words(r, entry, read_subject);
    if (text == &rule->permission)
        return read_words(r, entry, read_permission);
    if (text == &rule->when) {
        const char *bad = NULL;

        result = conditions_parse(entry->value, rule, &bad);
        if (result == -EINVAL) {
            hybus_config_position at = place(entry, bad);
            return hybus_config_error_set(
                r->error, &at,
                "\"%.*s\" is not a condition; there are local, remote, encrypted, protocol=NAME, "
                "peer=NETWORK, time=HH:MM-HH:MM, days=mon-fri, rate=N/s (of grants), arg.NAME=VALUE",
                (int)MIN_OF(strcspn(bad, " \t"), (size_t)64), bad);
        }
        return result;
    }
    return 0;
}

static int read_rule(const hybus_config_section *section, PolicyNotes *notes, Rule **ret,
                     hybus_config_error *e)
{
    _cleanup_(rule_unrefp) Rule *rule = calloc(1, sizeof *rule);
    Reader reader = {.rule = rule, .notes = notes, .error = e};
    int r;

    if (!rule)
        return -ENOMEM;
    rule->n_ref = 1;
    if (streq(section->name, "grant"))
        rule->kind = RULE_GRANT;
    else if (streq(section->name, "deny"))
        rule->kind = RULE_DENY;
    else if (streq(section->name, "ask"))
        rule->kind = RULE_ASK;
    else
        return hybus_config_error_set(e, &section->at,
                                      "unknown section \"%s\"; there are grant, deny and ask",
                                      section->name);
    if (!rule_id_is_valid(section->argument) || streq(section->argument, "default"))
        return hybus_config_error_set(
            e, &section->at, "a rule needs an id of 1 to 64 of a-z 0-9 . _ - (not \"default\")");
    rule->id = strdup(section->argument);
    rule->file = strdup(strempty(section->at.file));
    if (!rule->id || !rule->file)
        return -ENOMEM;
    rule->line = section->at.line;
    rule->column = section->at.column;
    for (size_t i = 0; i < section->n_entries; i++)
        if ((r = read_entry(&reader, &section->entries[i])) < 0)
            return r;
    if (!rule->to || !rule->permission)
        return hybus_config_error_set(e, &section->at, "rule \"%s\" needs %s", rule->id,
                                      rule->to ? "Permission =" : "To =");
    *ret = TAKE_PTR(rule);
    return 0;
}

/* --- all rules ------------------------------------------------------------------------------- */

int policy_note_development(const Policy *p, PolicyNotes *notes)
{
    Rule *const *rules;
    size_t n = policy_rules(p, &rules);
    int r = 0;

    for (size_t i = 0; i < n && r >= 0; i++) {
        const char *slash = strrchr(rules[i]->file, '/');
        const char *name = slash ? slash + 1 : rules[i]->file;

        if (strstr(name, "development") && !words_contain(notes->development, name))
            r = note(&notes->development, name);
    }
    return r;
}

static int build(Rule *const *rules, size_t n_rules, Policy **ret, hybus_config_error *e)
{
    size_t twice = 0;
    int r = policy_new(rules, n_rules, ret, &twice);

    if (r == -EEXIST) {
        const Rule *rule = rules[twice], *first = rule;
        hybus_config_position at = {.file = rule->file, .line = rule->line, .column = rule->column};

        for (size_t i = 0; i < twice && first == rule; i++)
            if (streq(rules[i]->id, rule->id))
                first = rules[i];
        return hybus_config_error_set(e, &at, "the id \"%s\" is taken already by %s:%u", rule->id,
                                      first->file, first->line);
    }
    if (r == -ENOBUFS)
        return hybus_config_error_set(e, NULL, "more than %u rules", POLICY_RULES_MAX);
    return r;
}

int policy_from_config(const hybus_config *c, Policy **ret, PolicyNotes *notes,
                       hybus_config_error *e)
{
    const hybus_config_section *sections;
    size_t n = hybus_config_sections(c, &sections), n_rules = 0;
    _cleanup_(freep) Rule **rules = calloc(n ? n : 1, sizeof *rules);
    _cleanup_(policy_unrefp) Policy *policy = NULL;
    int r = 0;

    if (!rules)
        return -ENOMEM;
    for (size_t i = 0; i < n && r >= 0; i++) {
        r = read_rule(&sections[i], notes, &rules[n_rules], e);
        n_rules += r >= 0;
    }
    if (r >= 0)
        r = build(rules, n_rules, &policy, e);
    if (r >= 0 && notes)
        r = policy_note_development(policy, notes);
    for (size_t i = 0; i < n_rules; i++)
        rule_unref(rules[i]);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(policy);
    return 0;
}

int policy_read_directories(const char *const *directories, Policy **ret, PolicyNotes *notes,
                            hybus_config_error *e)
{
    _cleanup_(hybus_config_freep) hybus_config *c = NULL;
    const hybus_config_shadow *shadows;
    size_t n;
    int r;

    r = hybus_config_new(&c);
    if (r >= 0)
        r = hybus_config_read_directories(c, directories, ".policy", policy_file_check, e);
    if (r < 0)
        return r;
    n = hybus_config_shadows(c, &shadows);
    for (size_t i = 0; notes && i < n; i++) {
        _cleanup_(freep) char *text = NULL;

        if (asprintf(&text, "%s is not in force: %s stands in its place", shadows[i].file,
                     shadows[i].by) < 0) {
            text = NULL;
            return -ENOMEM;
        }
        if ((r = note(&notes->masked, text)) < 0)
            return r;
    }
    return policy_from_config(c, ret, notes, e);
}

int policy_parse(const char *name, const char *text, size_t size, Policy **ret, PolicyNotes *notes,
                 hybus_config_error *e)
{
    _cleanup_(hybus_config_freep) hybus_config *c = NULL;
    int r = hybus_config_new(&c);

    if (r >= 0)
        r = hybus_config_parse(c, name, text, size, e);
    return r < 0 ? r : policy_from_config(c, ret, notes, e);
}

/* --- rules from words ------------------------------------------------------------------------ */

static bool is_one_line(const char *s)
{
    for (; *s; s++)
        if ((unsigned char)*s < ' ' || *s == 127 || *s == '\\')
            return false;
    return true;
}

int rule_new(RuleKind kind, const char *id, const char *to, const char *permissions,
             const char *when, Rule **ret, hybus_config_error *e)
{
    hybus_config_entry entries[3] = {
        {.key = "To", .value = to},
        {.key = "Permission", .value = permissions},
        {.key = "When", .value = when},
    };
    hybus_config_section section = {.name = rule_kind_to_string(kind),
                                    .argument = id,
                                    .entries = entries,
                                    .n_entries = *when ? 3 : 2};
    PolicyNotes notes = {0};
    int r;

    /* They will be written to a file: a line of their own would be a rule of their own. */
    if (!is_one_line(to) || !is_one_line(permissions) || !is_one_line(when))
        return (void)hybus_config_error_set(e, NULL, "control characters and \\ are not allowed"),
               -EINVAL;
    section.at = (hybus_config_position){.file = "argument", .line = 1, .column = 1};
    for (size_t i = 0; i < ELEMENTS(entries); i++)
        entries[i].at = entries[i].value_at = (hybus_config_position){
            .file = entries[i].key, .line = 1, .column = 1};
    r = read_rule(&section, &notes, ret, e);
    if (r >= 0 && notes.warnings) {
        rule_unref(*ret);
        *ret = NULL;
        r = hybus_config_error_set(e, NULL, "%s", notes.warnings[0]);
    }
    policy_notes_done(&notes);
    return r == -EBADMSG ? -EINVAL : r;
}

char *rule_format(const Rule *rule, bool position)
{
    _cleanup_(freep) char *when = NULL, *about = NULL, *from = NULL;
    char *text;

    if (*strempty(rule->when) && asprintf(&when, "When = %s\n", rule->when) < 0)
        return NULL;
    if (*strempty(rule->description) &&
        asprintf(&about, "Description = %s\n", rule->description) < 0)
        return NULL;
    if (position && asprintf(&from, "# %s:%u:%u\n", rule->file, rule->line, rule->column) < 0)
        return NULL;
    if (asprintf(&text, "%s[%s %s]\nTo = %s\nPermission = %s\n%s%s\n", strempty(from),
                 rule_kind_to_string(rule->kind), rule->id, rule->to, rule->permission,
                 strempty(when), strempty(about)) < 0)
        return NULL;
    return text;
}
