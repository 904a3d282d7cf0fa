/* SPDX-License-Identifier: Apache-2.0 */
/* A watcher that comes back: what it has missed is asked of its app, one value after another, each when the
 * client has taken the one before. Meanwhile it gets no live value, since what the app says to be next
 * covers those; when nothing is next, it is live. */

#include "core.h"

enum {
    RESUME_NOT, /* live */
    RESUME_ASK, /* in `resume_todo`, also while the app is away */
    RESUME_ASKED,
    RESUME_HELD, /* the client has a value to take first */
};

static void set(endpoint_watch *w, unsigned state, list *in)
{
    list_remove(&w->resume_node);
    w->resume = state;
    if (in)
        list_append(in, &w->resume_node);
}

static bool id_valid(const char *id)
{
    size_t n = strlen(id);

    for (size_t i = 0; i < n; i++)
        if ((unsigned char)id[i] < 0x20 || id[i] == 0x7f)
            return false;
    return n > 0 && n <= CHANNEL_NOTIFY_ID_MAX;
}

void resume_want(endpoint_watch *w, const char *last_id)
{
    if (last_id && id_valid(last_id))
        w->last_id = strdup(last_id); /* without memory it begins with the latest value, like others */
}

/* False: its app does not do this. */
bool resume_begin(endpoint_watch *w, const entry *e)
{
    if (!w->last_id || !e->attachment || !e->attachment->resume)
        return false;
    set(w, RESUME_ASK, &w->core->resume_todo);
    core_wake(w->core);
    return true;
}

void resume_end(endpoint_watch *w)
{
    set(w, RESUME_NOT, NULL);
    free(TAKE_PTR(w->last_id));
}

/* The app will not say. The watcher is told that something may be missing, and goes on with what there is. */
static void give_up(endpoint_watch *w)
{
    resume_end(w);
    w->gap = true;
    watch_last_value(w);
}

static void ask(endpoint_watch *w, attachment *a)
{
    endpoint_core *c = w->core;

    if (++c->resume_token == 0)
        c->resume_token = 1;
    w->resume_token = c->resume_token;
    set(w, RESUME_ASKED, &c->resume_asked);
    link_resume(a, w->resume_token, w->topic->path + w->topic->owner->size, w->last_id);
}

void resume_turn(endpoint_core *c)
{
    list todo;

    list_move_all(&c->resume_todo, &todo);
    while (!list_empty(&todo)) {
        endpoint_watch *w = list_entry(todo.next, endpoint_watch, resume_node);
        const entry *e = w->topic->owner;

        set(w, RESUME_ASK, &c->resume_todo);
        if (!e || (!e->attachment && e->d.road == ROAD_CHANNEL))
            continue; /* its app comes back, or the watch ends with the entry */
        if (!e->attachment || !e->attachment->resume)
            give_up(w);
        else
            ask(w, e->attachment);
    }
}

/* What was asked there is asked again of whoever comes next. */
void resume_detached(endpoint_core *c, const entry *e)
{
    for (list *n = c->resume_asked.next, *next; n != &c->resume_asked; n = next) {
        endpoint_watch *w = list_entry(n, endpoint_watch, resume_node);
        next = n->next;
        if (w->topic->owner == e)
            set(w, RESUME_ASK, &c->resume_todo);
    }
}

void resume_owner_changed(const topic *t)
{
    list_for_each(n, &t->watches)
    {
        endpoint_watch *w = list_entry(n, endpoint_watch, topic_node);
        if (w->resume == RESUME_ASKED)
            set(w, RESUME_ASK, &t->core->resume_todo);
    }
}

void endpoint_watch_next(endpoint_watch *w)
{
    if (w->ended || w->resume != RESUME_HELD)
        return;
    set(w, RESUME_ASK, &w->core->resume_todo);
    core_wake(w->core);
}

/* --- the answer ------------------------------------------------------------------------------------ */

typedef struct resumed {
    char type[256], id[CHANNEL_NOTIFY_ID_MAX + 1];
    uint64_t token, max_age;
    bool gap;
    const uint8_t *body;
    size_t size;
} resumed;

static int parse(const hybus_frame *f, resumed *ret)
{
    hybus_frame_fields fields;
    endpoint_field field;
    uint64_t flag = 0;
    int r = hybus_frame_split(f, &fields, &ret->body, &ret->size);

    while (r >= 0 && (r = hybus_frame_fields_next(&fields, &field)) > 0) {
        if (hybus_frame_field_is(&field, ":token"))
            r = hybus_frame_field_number(&field, UINT32_MAX, &ret->token);
        else if (hybus_frame_field_is(&field, "content-type"))
            r = hybus_frame_field_copy(&field, ret->type, sizeof(ret->type));
        else if (hybus_frame_field_is(&field, ":id"))
            r = hybus_frame_field_copy(&field, ret->id, sizeof(ret->id));
        else if (hybus_frame_field_is(&field, ":gap"))
            r = hybus_frame_field_number(&field, 1, &flag);
    }
    ret->gap = flag == 1;
    if (r < 0 || ret->token == 0 || (f->code != 200 && f->code != 204))
        return -EBADMSG;
    for (const char *p = ret->type; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return -EBADMSG;
    return f->code == 204 || id_valid(ret->id) ? 0 : -EBADMSG;
}

static endpoint_watch *find(endpoint_core *c, const entry *e, uint64_t token)
{
    list_for_each(n, &c->resume_asked)
    {
        endpoint_watch *w = list_entry(n, endpoint_watch, resume_node);
        /* An app answers for its own watchers. */
        if (w->resume_token == token)
            return w->topic->owner == e ? w : NULL;
    }
    return NULL;
}

int resume_answer(endpoint_core *c, const entry *e, const hybus_frame *f)
{
    resumed a = {.type = "application/octet-stream"};
    endpoint_watch *w;
    endpoint_value v;
    char *id;
    int r = parse(f, &a);

    if (r < 0)
        return r;
    w = e ? find(c, e, a.token) : NULL;
    if (!w) /* it has gone meanwhile */
        return 0;
    if (f->code == 204) {
        resume_end(w);
        w->follows = true;
        return 0;
    }
    id = strdup(a.id);
    /* The same again would never end. */
    if (!id || streq(a.id, w->last_id) || a.size > c->settings.value_size_max) {
        free(id);
        give_up(w);
        return 0;
    }
    free(w->last_id);
    w->last_id = id;
    set(w, RESUME_HELD, NULL);
    v = (endpoint_value){.path = w->topic->path,
                         .content_type = a.type,
                         .id = a.id,
                         .sequence = ++w->topic->sequence,
                         .received_usec = timer_now(),
                         .body = a.body,
                         .size = a.size,
                         .resumed = true,
                         .gap = a.gap};
    w->ops->value(w, &v, w->userdata);
    return 0;
}
