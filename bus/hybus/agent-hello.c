/* SPDX-License-Identifier: Apache-2.0 */
/* What the agent tells of itself and of the service: its page, the members with their permissions,
 * the generation; and whether everybody here has caught up with it. */
#include "agent-internal.h"

static int parse_permissions(const json_t *hello, const char ***ret, size_t *ret_n)
{
    const json_t *list = json_object_get(hello, "permissions");
    size_t n = json_array_size(list);
    _cleanup_(freep) const char **permissions = NULL;

    if (!json_is_array(list) || n > AGENT_MEMBERS_MAX)
        return -EPROTO;
    permissions = calloc(n + 1, sizeof *permissions);
    if (!permissions)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        permissions[i] = json_string_value(json_array_get(list, i));
        if (!permissions[i])
            return -EPROTO;
    }
    *ret = TAKE_PTR(permissions);
    *ret_n = n;
    return 0;
}

static int parse_member(const json_t *v, size_t n_permissions, hybus_member *ret)
{
    const char *kind = json_string_value(json_array_get(v, 2));
    const json_t *permission = json_array_get(v, 3);
    json_int_t index = json_integer_value(permission);

    ret->interface = json_string_value(json_array_get(v, 0));
    ret->member = json_string_value(json_array_get(v, 1));
    if (!ret->interface || !ret->member || !kind || !*kind || kind[1] || !strchr("mgse", *kind) ||
        !json_is_integer(permission) || index < -1 || index >= (json_int_t)n_permissions)
        return -EPROTO;
    ret->kind = (hybus_member_kind)*kind;
    ret->permission = index < 0 ? UINT32_MAX : (uint32_t)index;
    return 0;
}

static int parse_members(const json_t *hello, size_t n_permissions, hybus_member **ret,
                         size_t *ret_n)
{
    const json_t *list = json_object_get(hello, "members");
    size_t n = json_array_size(list);
    _cleanup_(freep) hybus_member *members = NULL;

    if (!json_is_array(list) || n > AGENT_MEMBERS_MAX)
        return -EPROTO;
    members = calloc(n + 1, sizeof *members);
    if (!members)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        int r = parse_member(json_array_get(list, i), n_permissions, &members[i]);
        if (r < 0)
            return r;
    }
    *ret = TAKE_PTR(members);
    *ret_n = n;
    return 0;
}

void agent_send_settled(hybus_agent *a)
{
    uint64_t least = a->generation;

    for (size_t i = 0; i < a->n_changed; i++)
        least = MIN_OF(least, a->changed[i].settled);
    if (least <= a->settled)
        return;
    a->settled = least;
    agent_send_note(a, json_pack("{ss sI}", "op", "settled", "generation", (json_int_t)least),
                    false);
}

/* Takes over the page when the descriptor is good. */
static int attach_page(hybus_agent *a, const json_t *answer, int fd)
{
    const hybus_page *page;
    uint64_t epoch;
    int r;

    if (fd < 0)
        return a->page ? 0 : -EPROTO;
    r = hybus_page_map(fd, &page);
    if (r < 0)
        return r;
    if (agent_decimal(json_object_get(answer, "epoch"), &epoch) < 0 || epoch != page->epoch ||
        !hybus_page_alive(page)) {
        hybus_page_unmap(page);
        return -EPROTO;
    }
    hybus_page_unmap(a->page);
    a->page = page;
    return 0;
}

int agent_answer_hello(hybus_agent *a, json_t *answer, int fd)
{
    _cleanup_(freep) hybus_member *members = NULL;
    _cleanup_(freep) const char **permissions = NULL;
    size_t n_members = 0, n_permissions = 0;
    uint64_t generation;
    int r = agent_error_code(answer);

    if (r == 0)
        r = agent_decimal(json_object_get(answer, "generation"), &generation);
    if (r == 0)
        r = parse_permissions(answer, &permissions, &n_permissions);
    if (r == 0)
        r = parse_members(answer, n_permissions, &members, &n_members);
    if (r == 0)
        r = attach_page(a, answer, fd);
    if (r < 0)
        return r;

    free(a->members);
    free(a->permissions);
    json_decref(a->hello);
    a->hello = json_incref(answer);
    a->members = TAKE_PTR(members);
    a->n_members = n_members;
    a->permissions = TAKE_PTR(permissions);
    a->n_permissions = n_permissions;
    a->hellos_answered++;
    a->generation = MAX_OF(a->generation, generation);
    a->ready = true;
    a->retry_usec = AGENT_RETRY_FIRST_USEC;
    for (size_t i = 0; i < a->n_changed; i++)
        a->changed[i].f(a, a->generation, a->changed[i].userdata);
    agent_send_settled(a);
    agent_flush(a);
    return 0;
}

int agent_send_hello(hybus_agent *a)
{
    _cleanup_(freep) char *packet = NULL;
    json_t *o = json_pack("{ss sI si ss sO}", "op", "hello", "id", AGENT_HELLO_ID, "version", 1,
                          "service", a->service, "interfaces", a->interfaces);
    int r;

    packet = o ? json_dumps(o, JSON_COMPACT) : NULL;
    json_decref(o);
    if (!packet)
        return -ENOMEM;
    r = agent_send_packet(a, packet);
    if (r <= 0) /* full: cannot be with so few packets, unless the agent hangs */
        return r < 0 ? r : -ENOBUFS;
    a->hellos_sent++;
    return 0;
}

/* --- what is known --------------------------------------------------------------------------- */

bool hybus_agent_alive(hybus_agent *a)
{
    return a->ready && hybus_page_alive(a->page);
}

bool hybus_agent_row_current(hybus_agent *a, const hybus_row *row)
{
    const hybus_page *page = a->page;

    return _likely_(page && row->epoch == page->epoch) &&
           row->stamp == hybus_page_slot(page, row->slot) && hybus_page_alive(page);
}

bool hybus_agent_pass_current(hybus_agent *a, const hybus_pass *pass)
{
    const hybus_page *page = a->page;

    return _likely_(page && pass->epoch == page->epoch) &&
           pass->stamp == hybus_page_slot(page, pass->slot) && hybus_page_alive(page);
}

size_t hybus_agent_members(hybus_agent *a, const hybus_member **ret)
{
    *ret = a->members;
    return a->n_members;
}

size_t hybus_agent_permissions(hybus_agent *a, const char *const **ret)
{
    *ret = a->permissions;
    return a->n_permissions;
}

int hybus_agent_add_changed(hybus_agent *a, hybus_agent_changed f, void *userdata)
{
    if (a->n_changed == AGENT_CHANGED_MAX)
        return -ENOBUFS;
    a->changed[a->n_changed++] = (Changed){.f = f, .userdata = userdata};
    return 0;
}

void hybus_agent_remove_changed(hybus_agent *a, hybus_agent_changed f, void *userdata)
{
    for (size_t i = 0; i < a->n_changed; i++)
        if (a->changed[i].f == f && a->changed[i].userdata == userdata) {
            a->changed[i] = a->changed[--a->n_changed];
            return;
        }
}

void hybus_agent_settled(hybus_agent *a, hybus_agent_changed f, void *userdata, uint64_t generation)
{
    for (size_t i = 0; i < a->n_changed; i++)
        if (a->changed[i].f == f && a->changed[i].userdata == userdata)
            a->changed[i].settled = MAX_OF(a->changed[i].settled, generation);
    agent_send_settled(a);
}
