/* SPDX-License-Identifier: Apache-2.0 */
#include "binding.h"

#include <fcntl.h>
#include <hybus/log.h>
#include <jansson.h>

#define BINDINGS_FILE "bindings"
#define FILE_MAX (8u * 1024u * 1024u)

static void binding_done(Binding *b)
{
    free(b->name);
    principal_free(b->principal);
}

void security_bindings_done(Security *s)
{
    for (size_t i = 0; i < s->n_bindings; i++)
        binding_done(&s->bindings[i]);
    free(s->bindings);
    free(s->bus_id);
    safe_close(s->bindings_fd);
    s->bindings = NULL;
    s->bus_id = NULL;
    s->bindings_fd = -1;
    s->n_bindings = 0;
}

static Binding *find(const Security *s, const char *name)
{
    for (size_t i = 0; i < s->n_bindings; i++)
        if (streq(s->bindings[i].name, name))
            return &s->bindings[i];
    return NULL;
}

static int copy_principal(const Principal *from, Principal **ret)
{
    _cleanup_(principal_freep) Principal *p = calloc(1, sizeof *p);
    int r = 0;

    if (!p)
        return -ENOMEM;
    *p = (Principal){.handle = from->handle,
                     .encrypted = from->encrypted,
                     .credential = from->credential,
                     .has_peer = from->has_peer,
                     .peer = from->peer,
                     .expires = from->expires};
    memcpy(p->hash, from->hash, sizeof p->hash);
    p->name = strdup(from->name);
    p->token = from->token ? strdup(from->token) : NULL;
    p->protocol = strdup(strempty(from->protocol));
    for (char *const *role = from->own_roles; r >= 0 && role && *role; role++)
        r = words_add(&p->own_roles, *role, strlen(*role));
    if (r < 0 || !p->name || !p->protocol || !p->token != !from->token)
        return -ENOMEM;
    *ret = TAKE_PTR(p);
    return 0;
}

/* --- beside the socket ----------------------------------------------------------------------- */

/* One line of JSON for each. */
static char *binding_to_line(const Security *s, const Binding *b)
{
    const Principal *p = b->principal;
    char hash[2 * SHA256_SIZE + 1] = "", peer[2 * sizeof p->peer.address + 1], *text, *line = NULL;
    json_t *roles = json_array(), *j;

    if (p)
        hex_encode(p->hash, sizeof p->hash, hash);
    if (p && p->has_peer)
        hex_encode(p->peer.address, sizeof p->peer.address, peer);
    for (char **role = p ? p->own_roles : NULL; role && *role; role++)
        json_array_append_new(roles, json_string(*role));
    j = json_pack("{s:s s:s s:I s:s* s:s* s:s* s:s* s:b s:i s:I s:s s:o}", "bus",
                  strempty(s->bus_id), "name", b->name, "uid", (json_int_t)b->uid, "principal",
                  p ? p->name : NULL, "token", p ? p->token : NULL, "protocol",
                  p ? p->protocol : NULL, "peer", p && p->has_peer ? peer : NULL, "encrypted",
                  p && p->encrypted, "credential", p ? (int)p->credential : 0, "expires",
                  (json_int_t)(p ? p->expires : 0), "sha256", hash, "roles", roles);
    text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (!text || asprintf(&line, "%s\n", text) < 0)
        line = NULL;
    free(text);
    return line;
}

static int write_line(const Security *s, const Binding *b)
{
    _cleanup_(freep) char *line = binding_to_line(s, b);
    ssize_t n;
    off_t end;

    if (!line)
        return -ENOMEM;
    if (s->bindings_fd < 0)
        return s->bus_id ? -EIO : 0; /* without a bus: tests of the model */
    if (s->bindings_lost)
        return -EIO;
    end = lseek(s->bindings_fd, 0, SEEK_END);
    n = write(s->bindings_fd, line, strlen(line));
    if (n >= 0 && (size_t)n == strlen(line))
        return 0;
    /* Half a line would spoil the next one. */
    return ftruncate(s->bindings_fd, end) < 0 ? -EIO : n < 0 ? -errno : -ENOSPC;
}

static int read_principal(const json_t *j, Principal **ret)
{
    const char *name = json_string_value(json_object_get(j, "principal"));
    const char *token = json_string_value(json_object_get(j, "token"));
    const char *peer = json_string_value(json_object_get(j, "peer"));
    const json_t *roles = json_object_get(j, "roles"), *role;
    _cleanup_(principal_freep) Principal *p = NULL;
    size_t i;
    int r = 0;

    if (!name)
        return 0;
    p = calloc(1, sizeof *p);
    if (!p)
        return -ENOMEM;
    p->name = strdup(name);
    p->token = token ? strdup(token) : NULL;
    p->protocol = strdup(strempty(json_string_value(json_object_get(j, "protocol"))));
    p->encrypted = json_is_true(json_object_get(j, "encrypted"));
    p->credential = (Credential)json_integer_value(json_object_get(j, "credential"));
    p->expires = (uint64_t)json_integer_value(json_object_get(j, "expires"));
    json_array_foreach(roles, i, role) if (r >= 0) r =
        words_add(&p->own_roles, strempty(json_string_value(role)), json_string_length(role));
    if (r < 0 || !p->name || !p->protocol || !p->token != !token)
        return -ENOMEM;
    if (hex_decode(strempty(json_string_value(json_object_get(j, "sha256"))), p->hash,
                   sizeof p->hash) < 0 ||
        (peer && hex_decode(peer, p->peer.address, sizeof p->peer.address) < 0))
        return -EBADMSG;
    p->has_peer = peer != NULL;
    p->peer.prefix = 128;
    *ret = TAKE_PTR(p);
    return 0;
}

static int add(Security *s, const char *name, uint32_t uid, Principal *principal)
{
    Binding *larger = reallocarray(s->bindings, s->n_bindings + 1, sizeof *larger);
    Binding *b;

    if (!larger)
        return -ENOMEM;
    s->bindings = larger;
    b = &s->bindings[s->n_bindings];
    *b = (Binding){.name = strdup(name), .uid = uid, .principal = principal};
    if (!b->name)
        return -ENOMEM;
    s->n_bindings++;
    return 0;
}

static int load_line(Security *s, const char *line, size_t size)
{
    json_t *j = json_loadb(line, size, JSON_REJECT_DUPLICATES, NULL);
    const char *name = strempty(json_string_value(json_object_get(j, "name")));
    const char *bus = json_string_value(json_object_get(j, "bus"));
    Principal *p = NULL;
    int r = bus && *name == ':' ? read_principal(j, &p) : -EBADMSG;

    if (r >= 0 && !s->bus_id && !(s->bus_id = strdup(bus)))
        r = -ENOMEM;
    if (r >= 0 && !find(s, name)) {
        r = add(s, name, (uint32_t)json_integer_value(json_object_get(j, "uid")), p);
        if (r >= 0)
            p = NULL;
    }
    principal_free(p);
    json_decref(j);
    return r;
}

/* Only what is still needed; the file is in memory and a start is rare. */
static int rewrite(Security *s)
{
    const char *directory = s->settings->runtime_directory;
    _cleanup_(freep) char *path = NULL;
    int r = write_file_atomically(directory, BINDINGS_FILE, "", 0, 0600);

    if (r < 0)
        return r;
    if (asprintf(&path, "%s/%s", directory, BINDINGS_FILE) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    safe_close(s->bindings_fd);
    s->bindings_fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC | O_NOFOLLOW);
    if (s->bindings_fd < 0)
        return -errno;
    s->bindings_written = s->n_bindings;
    for (size_t i = 0; r >= 0 && i < s->n_bindings; i++)
        r = write_line(s, &s->bindings[i]);
    return r;
}

/* A last line without its end was never acknowledged. */
static int load_lines(Security *s, const char *text)
{
    int r = 0;

    for (const char *end; r >= 0 && (end = strchr(text, '\n')); text = end + 1)
        r = load_line(s, text, (size_t)(end - text));
    return r;
}

int security_bindings_load(Security *s)
{
    _cleanup_(freep) char *text = NULL;
    size_t size = 0;
    int r =
        read_file_limited(s->settings->runtime_directory, BINDINGS_FILE, FILE_MAX, &text, &size);

    if (r >= 0)
        r = load_lines(s, text);
    if (r < 0 && r != -ENOENT) {
        s->bindings_lost = true;
        hybus_log_errno(LOG_ERR, r,
                        "Cannot read who is bound on the bus: until the bus or the device is "
                        "restarted, only root may call there");
    }
    return r == -ENOMEM ? r : 0;
}

int security_bindings_adopt(Security *s, const char *bus_id)
{
    char *id = strdup(bus_id);

    if (!id)
        return -ENOMEM;
    if (s->bus_id && !streq(s->bus_id, id)) {
        for (size_t i = 0; i < s->n_bindings; i++)
            binding_done(&s->bindings[i]);
        s->n_bindings = 0;
        s->bindings_lost = false;
    }
    free(s->bus_id);
    s->bus_id = id;
    return s->bindings_lost ? 0 : rewrite(s);
}

/* --- binding --------------------------------------------------------------------------------- */

static uint32_t slot_of_name(const char *name)
{
    const Subject subject = {.unknown = true, .bus_name = name};

    return security_slot(&subject);
}

static bool is_same(const Binding *b, const Principal *p)
{
    if (!b->principal || !p)
        return !b->principal && !p;
    return streq(b->principal->name, p->name) && b->principal->credential == p->credential &&
           memcmp(b->principal->hash, p->hash, sizeof p->hash) == 0;
}

int security_bind(Security *s, const char *name, uint32_t uid, const Principal *principal)
{
    const Binding *old = find(s, name);
    Principal *copy = NULL;
    char text[32];
    size_t n = 0;
    int r = 0;

    if (old)
        return old->uid == uid && is_same(old, principal) ? 0 : -EEXIST;
    for (size_t i = 0; i < s->n_bindings; i++)
        n += s->bindings[i].uid == uid;
    if (s->n_bindings >= BINDINGS_MAX || n >= BINDINGS_OF_UID_MAX)
        return -ENOBUFS;
    if (s->bindings_written > 2 * BINDINGS_MAX) /* mostly of those that have left */
        r = rewrite(s);
    if (r >= 0 && principal)
        r = copy_principal(principal, &copy);
    if (r >= 0)
        r = add(s, name, uid, copy);
    if (r < 0) {
        principal_free(copy);
        return r;
    }
    r = write_line(s, &s->bindings[s->n_bindings - 1]);
    if (r < 0) {
        binding_done(&s->bindings[--s->n_bindings]);
        return r;
    }
    s->bindings_written++;
    /* What was cached for this connection stands under its uid. */
    snprintf(text, sizeof text, "uid:%u", uid);
    security_move_principal(s, text);
    return 1;
}

void security_unbind(Security *s, const char *name)
{
    Binding *b = find(s, name);

    if (!b)
        return;
    binding_done(b);
    *b = s->bindings[--s->n_bindings];
}

void security_apply_binding(Security *s, Subject *subject, const char *name, Subject *behalf)
{
    Binding *b = name ? find(s, name) : NULL;

    if (!b && (!name || !s->bindings_lost || subject->uid == 0))
        return;
    *behalf = (Subject){.remote = true, .ended = true, .encrypted = UNKNOWN};
    subject->behalf = behalf;
    subject->bus_name = b ? b->name : name;
    if (!b)
        return;
    if (b->principal && security_principal_refresh(s, b->principal) >= 0) {
        *behalf = security_remote_subject(b->principal);
        behalf->ended = security_principal_is_void(s, b->principal);
    } else if (!b->principal) {
        behalf->ended = false;
    }
    if (b->uid != subject->uid)
        behalf->ended = true;
}

static bool concerns(const Binding *b, const char *word)
{
    const char *uid = startswith(word, "uid:");

    if (uid)
        return strtoul(uid, NULL, 10) == b->uid;
    if (!b->principal)
        return streq(word, "anonymous");
    return streq(b->principal->name, word) ||
           (b->principal->token && streq(b->principal->token, word));
}

void security_move_bound(Security *s, const char *word)
{
    for (size_t i = 0; i < s->n_bindings; i++)
        if (concerns(&s->bindings[i], word))
            (void)hybus_page_writer_bump(s->page, slot_of_name(s->bindings[i].name));
}
