/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions outlive h-securityd, in a file in memory beside its socket. It holds no secret, only
 * what one is recognised by. Each session names the password that opened it: whatever was lost
 * between writing one file and another, a session of a password that is no longer the user's does
 * not come back. */

#include <hybus/log.h>
#include <jansson.h>

#include "security-internal.h"

#define SESSIONS_FILE "sessions"
#define FILE_MAX (4u * 1024u * 1024u)

/* NULL: they cannot log in. */
static const char *password_mark(const Security *s, const char *user, char ret[2 * SHA256_SIZE + 1])
{
    const User *u = store_user(s->store, user);
    uint8_t hash[SHA256_SIZE];

    if (!u || !u->password)
        return NULL;
    sha256(u->password, strlen(u->password), hash);
    hex_encode(hash, sizeof hash, ret);
    return ret;
}

static json_t *session_to_json(const Security *s, const Session *session)
{
    char hash[2 * SHA256_SIZE + 1], password[2 * SHA256_SIZE + 1];

    hex_encode(session->hash, sizeof session->hash, hash);
    return json_pack("{sI ss ss ss ss ss* sI sI sI}", "id", (json_int_t)session->id, "user",
                     session->user, "protocol", session->protocol, "peer", session->peer, "sha256",
                     hash, "password", password_mark(s, session->user, password), "created",
                     (json_int_t)session->created, "begun", (json_int_t)session->begun, "used",
                     (json_int_t)session->used);
}

static int write_sessions(const Security *s)
{
    json_t *list = json_array(), *j;
    char *text;
    int r = 0;

    for (size_t i = 0; i < s->sessions.n; i++)
        r |= json_array_append_new(list, session_to_json(s, &s->sessions.list[i]));
    j = json_pack("{sI so}", "last", (json_int_t)s->sessions.last_id, "sessions", list);
    text = j && r == 0 ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (!text)
        return -ENOMEM;
    r = write_checked_file(s->settings->runtime_directory, SESSIONS_FILE, "sessions", text,
                           strlen(text));
    free(text);
    return r;
}

static int forget_file(const Security *s)
{
    _cleanup_(freep) char *path = NULL;

    if (asprintf(&path, "%s/%s", s->settings->runtime_directory, SESSIONS_FILE) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    return unlink(path) < 0 && errno != ENOENT ? -errno : 0;
}

int security_save_sessions(Security *s)
{
    int r = write_sessions(s);

    s->sessions.saved = security_boottime();
    if (r >= 0)
        return 0;
    hybus_log_errno(LOG_WARNING, r, "Sessions will end with h-securityd: they cannot be kept in %s",
                    s->settings->runtime_directory);
    return forget_file(s);
}

/* --- the start ------------------------------------------------------------------------------ */

static bool read_time(const json_t *j, const char *key, uint64_t max, uint64_t *ret)
{
    json_int_t n = json_integer_value(json_object_get(j, key));

    *ret = (uint64_t)n;
    return n > 0 && (uint64_t)n <= max;
}

/* Whatever is not as it was written, nobody has. */
static int load_session(Security *s, const json_t *j)
{
    const char *user = strempty(json_string_value(json_object_get(j, "user")));
    const char *password = strempty(json_string_value(json_object_get(j, "password")));
    Session new = {.user = (char *)user,
                   .protocol = (char *)strempty(json_string_value(json_object_get(j, "protocol"))),
                   .peer = (char *)strempty(json_string_value(json_object_get(j, "peer")))};
    char mark[2 * SHA256_SIZE + 1];
    uint64_t id, last = s->sessions.last_id;
    Session *victim, *one;
    int r;

    if (!read_time(j, "id", last, &id) || sessions_find(&s->sessions, id) ||
        !read_time(j, "created", INT64_MAX, &new.created) ||
        !read_time(j, "used", security_boottime(), &new.used) ||
        !read_time(j, "begun", new.used, &new.begun) ||
        hex_decode(strempty(json_string_value(json_object_get(j, "sha256"))), new.hash,
                   sizeof new.hash) < 0 ||
        !password_mark(s, user, mark) || !streq(mark, password) ||
        security_session_is_over(s, &new) || sessions_make_room(&s->sessions, user, &victim) < 0 ||
        victim)
        return 0;
    r = sessions_add(&s->sessions, &new, &one);
    if (r >= 0)
        one->id = id;
    s->sessions.last_id = last;
    return r;
}

static int load_all(Security *s, const char *text, size_t size)
{
    json_t *j = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL), *one;
    size_t i;
    int r = read_time(j, "last", INT64_MAX, &s->sessions.last_id) ? 0 : -EBADMSG;

    json_array_foreach(json_object_get(j, "sessions"), i, one) if (r >= 0) r = load_session(s, one);
    json_decref(j);
    return r;
}

int security_load_sessions(Security *s)
{
    _cleanup_(freep) char *text = NULL;
    size_t size = 0;
    int r;

    /* Of another state than the one that is in force. */
    if (s->store->restored || s->store->damaged || s->store->foreign)
        return forget_file(s);
    r = read_checked_file(s->settings->runtime_directory, SESSIONS_FILE, "sessions", FILE_MAX,
                          &text, &size);
    if (r >= 0)
        r = load_all(s, text, size);
    if (r == -ENOMEM)
        return r;
    if (r < 0 && r != -ENOENT) {
        sessions_done(&s->sessions);
        hybus_log_errno(LOG_WARNING, r, "Cannot read who was logged in; all have to log in again");
    }
    return 0;
}
