/* SPDX-License-Identifier: Apache-2.0 */
#include "core.h"

/* --- topics: a path that is watched, or whose last value is known
 * --------------------------------------- */

static uint32_t topic_hash(const char *s)
{
    uint32_t h = 2166136261u;

    for (; *s; s++)
        h = (h ^ (unsigned char)*s) * 16777619u;
    return h;
}

static topic *topic_find(endpoint_core *c, const char *path)
{
    uint32_t hash = topic_hash(path);

    for (topic *t = c->topics[hash % TOPIC_BUCKETS]; t; t = t->next)
        if (t->hash == hash && streq(t->path, path))
            return t;
    return NULL;
}

static topic *topic_get(endpoint_core *c, const char *path)
{
    topic *t = topic_find(c, path);
    size_t size = strlen(path);

    if (t)
        return t;
    t = calloc(1, sizeof(*t) + size + 1);
    if (!t)
        return NULL;
    memcpy(t->path, path, size);
    t->size = size;
    t->core = c;
    t->hash = topic_hash(path);
    t->sequence = c->sequence_floor;
    list_init(&t->dirty_node);
    list_init(&t->watches);
    list_init(&t->entry_node);
    list_init(&t->recent_node);
    t->next = c->topics[t->hash % TOPIC_BUCKETS];
    c->topics[t->hash % TOPIC_BUCKETS] = t;
    list_append(&c->all_topics, &t->node);
    return t;
}

static size_t value_bytes(const topic *t)
{
    return t->body_size + t->size;
}

static void value_drop(topic *t)
{
    endpoint_core *c = t->core;

    if (!t->has_value)
        return;
    t->has_value = false;
    c->statistics.values--;
    c->values_bytes -= value_bytes(t);
    t->owner->n_values--;
    t->owner->values_bytes -= value_bytes(t);
    list_remove(&t->entry_node);
    list_remove(&t->recent_node);
    free(TAKE_PTR(t->body));
    free(TAKE_PTR(t->content_type));
    free(TAKE_PTR(t->id));
    t->body_size = 0;
}

static void topic_release(topic *t)
{
    endpoint_core *c = t->core;
    topic **at;

    if (t->refs > 0 || t->has_value || t->n_watches > 0 || !list_empty(&t->dirty_node))
        return;
    c->sequence_floor = MAX_OF(c->sequence_floor, t->sequence);
    for (at = &c->topics[t->hash % TOPIC_BUCKETS]; *at != t; at = &(*at)->next)
        ;
    *at = t->next;
    list_remove(&t->node);
    free(t);
}

static void topic_dirty(topic *t)
{
    list_remove(&t->dirty_node); /* it may have waited for its app */
    list_append(&t->core->dirty_topics, &t->dirty_node);
    core_wake(t->core);
}

/* --- values
 * ------------------------------------------------------------------------------------------------
 */

static void make_room(endpoint_core *c, entry *e, size_t size)
{
    size_t share = MAX_OF(c->settings.values_max / LIMIT_VALUES_SHARE, (size_t)1);
    topic *t;

    /* Its own first: an app that floods forgets itself. */
    while (e->n_values > 0 && (e->n_values >= share ||
                               e->values_bytes + size > LIMIT_VALUES_BYTES / LIMIT_VALUES_SHARE)) {
        t = list_entry(e->values.next, topic, entry_node);
        value_drop(t);
        topic_release(t);
    }
    while (!list_empty(&c->recent_values) && (c->statistics.values >= c->settings.values_max ||
                                              c->values_bytes + size > LIMIT_VALUES_BYTES)) {
        t = list_entry(c->recent_values.next, topic, recent_node);
        value_drop(t);
        topic_release(t);
    }
}

static int value_store(topic *t, entry *e, const notify *n)
{
    _cleanup_(freep) uint8_t *body = malloc(n->size + 1);
    _cleanup_(freep) char *type = strdup(n->content_type), *id = NULL;
    char number[24];

    snprintf(number, sizeof(number), "%llu", (unsigned long long)t->sequence);
    id = strdup(n->id && *n->id ? n->id : number);
    if (!body || !type || !id)
        return -ENOMEM;
    if (n->size > 0)
        memcpy(body, n->body, n->size);
    value_drop(t);
    make_room(t->core, e, n->size + t->size);
    t->owner = e;
    t->body = TAKE_PTR(body);
    t->content_type = TAKE_PTR(type);
    t->id = TAKE_PTR(id);
    t->body_size = n->size;
    t->max_age_usec = n->max_age_usec;
    t->received_usec = timer_now();
    t->has_value = true;
    t->core->statistics.values++;
    t->core->values_bytes += value_bytes(t);
    e->n_values++;
    e->values_bytes += value_bytes(t);
    list_append(&e->values, &t->entry_node);
    list_append(&t->core->recent_values, &t->recent_node);
    return 0;
}

static endpoint_value value_of(const topic *t)
{
    return (endpoint_value){
        .path = t->path,
        .content_type = t->content_type,
        .id = t->id,
        .sequence = t->sequence,
        .max_age_usec = t->max_age_usec,
        .received_usec = t->received_usec,
        .body = t->body,
        .size = t->body_size,
    };
}

static void tell(endpoint_watch *w, const endpoint_value *v)
{
    endpoint_value one = *v;

    if (w->resume) /* what its app says next covers this one */
        return;
    one.gap = w->gap;
    one.resumed = w->follows;
    w->gap = w->follows = false;
    w->ops->value(w, &one, w->userdata);
}

/* Callbacks may free any watch, this one included, and add new ones (which have had the value). */
static void topic_tell(topic *t, const endpoint_value *v)
{
    list todo;

    list_move_all(&t->watches, &todo);
    while (!list_empty(&todo)) {
        endpoint_watch *w = list_entry(todo.next, endpoint_watch, topic_node);
        list_remove(&w->topic_node);
        list_append(&t->watches, &w->topic_node);
        if (w->started && !w->ended)
            tell(w, v);
    }
}

int watch_notify(endpoint_core *c, entry *e, const notify *n)
{
    endpoint_value v;
    topic *t;
    int r = 0;

    if (n->size > c->settings.value_size_max || table_match(&c->table, n->path) != e) {
        c->statistics.notifies_dropped++;
        return -EACCES;
    }
    t = n->gone ? topic_find(c, n->path) : topic_get(c, n->path);
    if (!t)
        return n->gone ? 0 : -ENOMEM;
    c->statistics.notifies++;
    t->refs++;
    t->sequence++;
    if (n->gone) {
        char number[24];
        snprintf(number, sizeof(number), "%llu", (unsigned long long)t->sequence);
        value_drop(t);
        v = (endpoint_value){.path = t->path,
                             .content_type = "",
                             .sequence = t->sequence,
                             .body = "",
                             .id = n->id && *n->id ? n->id : number,
                             .received_usec = timer_now(),
                             .gone = true};
        topic_tell(t, &v);
    } else {
        r = value_store(t, e, n);
        if (r >= 0) {
            v = value_of(t);
            topic_tell(t, &v);
        }
    }
    t->refs--;
    topic_release(t);
    return r;
}

static bool subpath_valid(const char *s, size_t size)
{
    if (size == 0 || s[0] != '/')
        return false;
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
            return false;
    for (size_t i = 0; i < size; i++) { /* the clients' paths are normalised, so must these be */
        size_t n = i + 1;
        if (s[i] != '/')
            continue;
        while (n < size && s[n] != '/')
            n++;
        n -= i + 1;
        if ((n == 1 && s[i + 1] == '.') || (n == 2 && s[i + 1] == '.' && s[i + 2] == '.'))
            return false;
    }
    return true;
}

int watch_notify_frame(endpoint_core *c, entry *e, const hybus_frame *f)
{
    char path[CHANNEL_NAMESPACE_MAX + LIMIT_PATH + 1], type[256] = "application/octet-stream";
    char id[CHANNEL_NOTIFY_ID_MAX + 1] = "";
    notify n = {.path = path, .content_type = type, .id = id, .gone = f->flags & CHANNEL_GONE};
    const uint8_t *body;
    hybus_frame_fields fields;
    endpoint_field field;
    bool has_path = false;
    uint64_t age;
    int r = hybus_frame_split(f, &fields, &body, &n.size);

    n.body = body;
    while (r >= 0 && (r = hybus_frame_fields_next(&fields, &field)) > 0) {
        if (hybus_frame_field_is(&field, ":path")) {
            size_t size = field.value_size;
            if (!subpath_valid(field.value, size) || size > LIMIT_PATH)
                return -EBADMSG;
            if (size == 1)
                size = 0;
            memcpy(path, e->namespace, e->size);
            memcpy(path + e->size, field.value, size);
            path[e->size + size] = 0;
            has_path = true;
        } else if (hybus_frame_field_is(&field, "content-type"))
            r = hybus_frame_field_copy(&field, type, sizeof(type));
        else if (hybus_frame_field_is(&field, ":id"))
            r = hybus_frame_field_copy(&field, id, sizeof(id));
        else if (hybus_frame_field_is(&field, ":max-age")) {
            r = hybus_frame_field_number(&field, 365u * 86400u, &age);
            n.max_age_usec = r < 0 ? 0 : age * 1000000u;
        }
    }
    if (r < 0 || !has_path)
        return -EBADMSG;
    for (const char *p = type; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return -EBADMSG;
    for (const char *p = id; *p; p++)
        if ((unsigned char)*p < 0x20 || *p == 0x7f)
            return -EBADMSG;
    r = watch_notify(c, e, &n);
    return r == -ENOMEM ? r : 0;
}

/* --- watches
 * -------------------------------------------------------------------------------------------------
 */

static void watch_leave(endpoint_watch *w)
{
    topic *t = w->topic;

    if (!t)
        return;
    resume_end(w);
    w->topic = NULL;
    list_remove(&w->topic_node);
    if (w->started && --t->n_watches == 0)
        topic_dirty(t);
    t->refs--;
    topic_release(t);
}

static void watch_finish(endpoint_watch *w, unsigned status, const char *detail, const char *audit)
{
    char problem[PROBLEM_MAX];

    if (w->ended)
        return;
    w->ended = true;
    if (w->judging)
        hybus_agent_question_cancel(w->question);
    w->judging = false;
    watch_leave(w);
    permission_unref(&w->core->table, TAKE_PTR(w->permission));
    status_problem(problem, status, detail, audit);
    w->ops->ended(w, status, problem, w->userdata);
}

void watch_end(endpoint_watch *w, unsigned status, const char *detail)
{
    watch_finish(w, status, detail, NULL);
}

static void watch_verdict(const hybus_verdict *v, int error, void *userdata)
{
    endpoint_watch *w = userdata;

    w->judging = false;
    w->question = NULL;
    if (error < 0)
        watch_finish(w, 503, "The policy agent is away.", NULL);
    else if (v->allowed)
        watch_decide(w);
    else
        watch_finish(w, endpoint_peer_anonymous(w->peer) ? 401 : 403,
                     "The policy does not allow this.", v->audit);
}

static void watch_refuse(endpoint_watch *w)
{
    char path[AUDIT_PATH_MAX];
    hybus_call call = {
        .permission = w->permission->name,
        .interface = "org.hybridos.Responder1",
        .member = "GET",
        .path = path,
        .kind = HYBUS_MEMBER_METHOD,
    };
    hybus_subject subject = principal_subject(w->peer->principal);
    hybus_agent_question *q = NULL;
    int k;

    status_audit_path(path, w->topic->path);
    w->judging = true;
    k = hybus_agent_judge(w->core->agent, &subject, &call, watch_verdict, w, &q);
    if (k < 0) {
        w->judging = false;
        watch_finish(w, 503, "The policy agent is away.", NULL);
    } else if (w->judging)
        w->question = q;
}

void watch_last_value(endpoint_watch *w)
{
    endpoint_value v;

    if (!w->topic->has_value)
        return;
    v = value_of(w->topic);
    tell(w, &v);
}

static void watch_start(endpoint_watch *w, entry *e)
{
    topic *t = w->topic;
    uint64_t sequence;
    bool there = false;

    w->started = true;
    w->decisions = 0;
    if (t->owner != e) {
        value_drop(t);
        t->owner = e;
    }
    if (t->n_watches++ == 0)
        topic_dirty(t);
    t->refs++; /* the callbacks may end this watch, and tell by the list whether they did */
    sequence = t->sequence;
    w->ops->started(w, w->userdata);
    list_for_each(n, &t->watches) there = there || list_entry(n, endpoint_watch, topic_node) == w;
    if (there && !resume_begin(w, e) && t->sequence == sequence)
        watch_last_value(w);
    t->refs--;
    topic_release(t);
}

/* Decides a new watch, and decides a running one again. */
void watch_decide(endpoint_watch *w)
{
    endpoint_core *c = w->core;
    permission *needed;
    entry *e;
    int k;

    if (w->ended || w->judging || w->peer->state == PEER_CHECKING)
        return;
    if (w->peer->state == PEER_BAD || (!w->started && ++w->decisions > 4 * LIMIT_DECISIONS)) {
        watch_finish(w, 503, "The policy agent has not admitted this connection.", NULL);
        return;
    }
    e = table_match(&c->table, w->topic->path);
    if (!e) {
        watch_finish(w, w->started ? 410 : 404, "No app answers for this address.", NULL);
        return;
    }
    needed = permission_ref(entry_permission(e, "GET", w->topic->path));
    permission_unref(&c->table, w->permission);
    w->permission = needed;
    k = principal_allows(w->peer->principal, needed, !w->started);
    if (k == 0 && !w->started)
        watch_refuse(w);
    else if (k == 0)
        watch_finish(w, 403, "The policy no longer allows this.", NULL);
    else if (k > 0 && !w->started)
        watch_start(w, e);
    else if (k < 0 && k != -EAGAIN)
        watch_finish(w, 503, "The policy agent is away.", NULL);
}

int endpoint_watch_new(endpoint_peer *p, const char *path, const endpoint_watch_ops *ops,
                       void *userdata, endpoint_watch **ret)
{
    return endpoint_watch_resume(p, path, NULL, ops, userdata, ret);
}

int endpoint_watch_resume(endpoint_peer *p, const char *path, const char *last_id,
                          const endpoint_watch_ops *ops, void *userdata, endpoint_watch **ret)
{
    endpoint_core *c = p->core;
    endpoint_watch *w;
    unsigned status = 0;

    w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->core = c;
    w->peer = p;
    w->ops = ops;
    w->userdata = userdata;
    list_init(&w->topic_node);
    list_init(&w->resume_node);
    resume_want(w, last_id);
    if (c->draining || c->statistics.watches >= c->settings.watches_max)
        status = 503;
    else if (p->n_watches >= c->settings.watches_peer_max)
        status = 429;
    else if (path[0] != '/' || strlen(path) > LIMIT_PATH)
        status = 404;
    list_append(&p->watches, &w->peer_node);
    p->n_watches++;
    c->statistics.watches++;
    *ret = w;
    if (!status && !table_match(&c->table, path))
        status = 404; /* before a topic is made: addresses that nobody serves cost nothing */
    if (!status) {
        w->topic = topic_get(c, path);
        if (w->topic) {
            w->topic->refs++;
            list_append(&w->topic->watches, &w->topic_node);
            watch_decide(w);
            return 0;
        }
        status = 503;
    }
    watch_finish(w, status, status_title(status), NULL);
    return 0;
}

void endpoint_watch_free(endpoint_watch *w)
{
    if (!w)
        return;
    if (w->judging)
        hybus_agent_question_cancel(w->question);
    watch_leave(w);
    resume_end(w);
    permission_unref(&w->core->table, w->permission);
    list_remove(&w->peer_node);
    w->peer->n_watches--;
    w->core->statistics.watches--;
    free(w);
}

/* --- the table and the apps
 * ------------------------------------------------------------------------------------ */

void watch_entry_gone(endpoint_core *c, entry *e)
{
    for (list *n = c->all_topics.next, *next; n != &c->all_topics; n = next) {
        topic *t = list_entry(n, topic, node);
        next = n->next;
        if (t->owner != e)
            continue;
        value_drop(t);
        t->owner = NULL;
        t->told = false;
        topic_release(t);
    }
}

void watch_table_changed(endpoint_core *c)
{
    list todo;

    list_for_each(n, &c->all_topics)
    {
        topic *t = list_entry(n, topic, node);
        entry *e = table_match(&c->table, t->path);
        if (t->owner == e)
            continue;
        value_drop(t);
        t->owner = e;
        t->told = false;
        resume_owner_changed(t);
        topic_dirty(t); /* to tell the new owner; an empty one goes with the next turn */
    }
    list_move_all(&c->peers, &todo);
    while (!list_empty(&todo)) {
        endpoint_peer *p = list_entry(todo.next, endpoint_peer, node);
        list watches;
        list_remove(&p->node);
        list_append(&c->peers, &p->node);
        list_move_all(&p->watches, &watches);
        peer_ref(p);
        while (!list_empty(&watches)) {
            endpoint_watch *w = list_entry(watches.next, endpoint_watch, peer_node);
            list_remove(&w->peer_node);
            list_append(&p->watches, &w->peer_node);
            watch_decide(w);
        }
        peer_unref(p);
    }
}

static void tell_owner(topic *t)
{
    entry *e = t->owner;
    const char *sub = e ? t->path + e->size : "";
    uint32_t n = (uint32_t)t->n_watches;

    if (!e || (n > 0) == t->told)
        return;
    if (e->attachment)
        link_watch(e->attachment, sub, n);
    else if (e->d.road != ROAD_BUS || !e->d.watch)
        return;
    else if (!bus_watch(t->core, e, *sub ? sub : "/", n)) {
        list_append(&t->core->untold_topics, &t->dirty_node);
        return;
    }
    t->told = n > 0;
}

void watch_places(endpoint_core *c)
{
    if (list_empty(&c->untold_topics))
        return;
    /* Behind what is dirty already, in the order in which they have waited. */
    while (!list_empty(&c->untold_topics)) {
        topic *t = list_entry(c->untold_topics.next, topic, dirty_node);
        list_remove(&t->dirty_node);
        list_append(&c->dirty_topics, &t->dirty_node);
    }
    core_wake(c);
}

/* A holder that has just come is told of all who are watching already. */
void watch_attached(endpoint_core *c, entry *e)
{
    list_for_each(n, &c->all_topics)
    {
        topic *t = list_entry(n, topic, node);
        if (t->owner == e) {
            t->told = false;
            topic_dirty(t);
        }
    }
}

void watch_turn(endpoint_core *c)
{
    while (!list_empty(&c->dirty_topics)) {
        topic *t = list_entry(c->dirty_topics.next, topic, dirty_node);
        list_remove(&t->dirty_node);
        tell_owner(t);
        topic_release(t);
    }
}

void watch_done(endpoint_core *c)
{
    while (!list_empty(&c->all_topics)) {
        topic *t = list_entry(c->all_topics.next, topic, node);
        value_drop(t);
        list_remove(&t->node);
        free(t);
    }
}
