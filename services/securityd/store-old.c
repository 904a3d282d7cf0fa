/* SPDX-License-Identifier: Apache-2.0 */
/* The state as it was kept before there was a database: one JSON file with a checksum. It is read once
 * and copied to a backup. In its place stays a note: a version from before the database takes it for a
 * damaged file, which means that the device stays claimed and lets nobody in. Without the note it would
 * find no state at all, and the next visitor could claim the device. */

#include <fcntl.h>
#include <jansson.h>
#include <sys/stat.h>

#include "policy.h"
#include "store-internal.h"

#define STATE_KIND "state"
#define STATE_MAX (4u * 1024u * 1024u)
#define DAMAGED_FILE "state.damaged"
#define NOTE "The state is in " STORE_DATABASE ". This note keeps older versions from starting anew.\n"

static void json_cleanup(json_t **j)
{
    json_decref(*j);
}

static uint64_t number(const json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 ? (uint64_t)value : 0;
}

static const char *string(const json_t *object, const char *key)
{
    return strempty(json_string_value(json_object_get(object, key)));
}

static int load_user(Store *s, const json_t *j)
{
    const User u = {.name = (char *)string(j, "name"), .created = number(j, "created")};
    int r = store_put_user(s, &u);

    return r == -ENOMEM ? r : r < 0 ? -EBADMSG : 0;
}

static int load_token(Store *s, const json_t *j)
{
    const json_t *roles = json_object_get(j, "roles"), *role;
    _cleanup_(words_freep) char **words = NULL;
    Token t = {.name = (char *)string(j, "name"),
               .principal = (char *)string(j, "principal"),
               .created = number(j, "created"),
               .expires = number(j, "expires"),
               .last_used = number(j, "last_used")};
    size_t i;
    int r = 0;

    json_array_foreach (roles, i, role) {
        const char *text = strempty(json_string_value(role));

        if (r >= 0)
            r = words_add(&words, text, strlen(text));
    }
    if (r < 0)
        return r;
    if (hex_decode(string(j, "sha256"), t.hash, sizeof t.hash) < 0)
        return -EBADMSG;
    t.roles = words;
    r = store_put_token(s, &t);
    return r == -ENOMEM ? r : r < 0 ? -EBADMSG : 0;
}

static int parse(Store *s, const char *text, size_t size, const char *anchor)
{
    _cleanup_(json_cleanup) json_t *j = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    const json_t *users = json_object_get(j, "users"), *tokens = json_object_get(j, "tokens"), *one;
    size_t i;
    int r = 0;

    if (!json_is_object(j) || !json_is_array(users) || !json_is_array(tokens) ||
        json_array_size(users) > STORE_USERS_MAX || json_array_size(tokens) > STORE_TOKENS_MAX)
        return -EBADMSG;
    s->generation = number(j, "generation");
    s->floor = number(j, "floor");
    s->claimed = json_is_true(json_object_get(j, "claimed"));
    json_array_foreach (users, i, one)
        if (r >= 0)
            r = load_user(s, one);
    s->restored = !streq(string(j, "anchor"), anchor);
    if (s->restored)
        return r;
    json_array_foreach (tokens, i, one)
        if (r >= 0)
            r = load_token(s, one);
    return r;
}

int store_old_load(Store *s, const char *anchor)
{
    _cleanup_(freep) char *text = NULL, *raw = NULL;
    size_t size = 0;
    int r = read_checked_file(s->directory, STORE_OLD_FILE, STATE_KIND, STATE_MAX, &text, &size);

    if (r == -EBADMSG && read_file_limited(s->directory, STORE_OLD_FILE, sizeof NOTE, &raw, &size) >= 0 &&
        streq(raw, NOTE))
        return -EALREADY;
    if (r == -EFBIG || r == -ELOOP)
        return -EBADMSG;
    return r < 0 ? r : parse(s, text, size, anchor);
}

int store_old_retire(const char *directory)
{
    _cleanup_(freep) char *text = NULL;
    size_t size = 0;
    int r = read_file_limited(directory, STORE_OLD_FILE, STATE_MAX, &text, &size);

    if (r >= 0 && streq(text, NOTE))
        return 0;
    if (r >= 0) {
        r = write_file_atomically(directory, STORE_OLD_BACKUP, text, size, 0600);
        if (r < 0)
            return r;
    }
    return write_file_atomically(directory, STORE_OLD_FILE, NOTE, strlen(NOTE), 0600);
}

int store_old_put_aside(const char *directory)
{
    _cleanup_(closep) int dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (dir < 0 || renameat(dir, STORE_OLD_FILE, dir, DAMAGED_FILE) < 0)
        return -errno;
    return fsync(dir) < 0 ? -errno : 0;
}
