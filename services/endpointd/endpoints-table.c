/* SPDX-License-Identifier: Apache-2.0 */
#include "endpoints-table.h"

#include <fcntl.h>
#include <hybus/file.h>

#include <channel.h>

int endpoints_entry_put(hybus_frame_queue *q, const endpoints_entry *entry, uint8_t flags)
{
    const endpoints_spec *s = &entry->spec;

    hybus_frame_begin(q, CHANNEL_ENTRY, flags, 0, 0, 0);
    hybus_frame_put_number(q, ":revision", entry->revision);
    hybus_frame_put(q, ":namespace", s->ns);
    if (!(flags & CHANNEL_GONE)) {
        hybus_frame_put(q, ":key", s->key[0] ? s->key : NULL);
        hybus_frame_put_number(q, ":uid", s->uid);
        hybus_frame_put(q, ":road", endpoints_road_name(s->road));
        hybus_frame_put(q, ":bus-name", s->bus_name);
        hybus_frame_put(q, ":object", s->object);
        hybus_frame_put(q, ":stream", s->stream ? "1" : NULL);
        hybus_frame_put(q, ":watch", s->watch ? "1" : NULL);
        hybus_frame_put(q, ":unit", s->unit);
        hybus_frame_put(q, ":title", s->title);
        hybus_frame_put(q, ":attributes", s->attributes);
        for (size_t i = 0; i < s->n_rules; i++)
            hybus_frame_put(q, ":rule", s->rules[i]);
    }
    return hybus_frame_end(q);
}

static int parse_uid(const hybus_frame_field *field, uint32_t *ret)
{
    uint64_t uid = 0;

    if (field->value_size == 0 || field->value_size > 10)
        return -EINVAL;
    for (size_t i = 0; i < field->value_size; i++) {
        if (field->value[i] < '0' || field->value[i] > '9')
            return -EINVAL;
        uid = uid * 10 + (uint64_t)(field->value[i] - '0');
    }
    if (uid >= UINT32_MAX)
        return -EINVAL;
    *ret = (uint32_t)uid;
    return 0;
}

static bool value_is(const hybus_frame_field *field, const char *value)
{
    return field->value_size == strlen(value) &&
           memcmp(field->value, value, field->value_size) == 0;
}

static int parse_road(const hybus_frame_field *field, endpoints_road *ret)
{
    for (endpoints_road road = ENDPOINTS_CHANNEL; road <= ENDPOINTS_START; road++)
        if (value_is(field, endpoints_road_name(road))) {
            *ret = road;
            return 0;
        }
    return -EINVAL;
}

static int parse_field(const hybus_frame_field *f, endpoints_spec *s, bool *has_uid)
{
    if (hybus_frame_field_is(f, ":namespace"))
        return endpoints_spec_set_namespace(s, f->value, f->value_size);
    if (hybus_frame_field_is(f, ":key"))
        return endpoints_spec_set_key(s, f->value, f->value_size);
    if (hybus_frame_field_is(f, ":uid")) {
        *has_uid = true;
        return parse_uid(f, &s->uid);
    }
    if (hybus_frame_field_is(f, ":road"))
        return parse_road(f, &s->road);
    if (hybus_frame_field_is(f, ":bus-name"))
        return endpoints_spec_set_bus_name(s, f->value, f->value_size);
    if (hybus_frame_field_is(f, ":object"))
        return endpoints_spec_set_object(s, f->value, f->value_size);
    if (hybus_frame_field_is(f, ":unit"))
        return endpoints_spec_set_unit(s, f->value, f->value_size);
    if (hybus_frame_field_is(f, ":title"))
        return endpoints_spec_set_title(s, f->value, f->value_size);
    if (hybus_frame_field_is(f, ":attributes"))
        return endpoints_spec_set_attributes(s, f->value, f->value_size);
    if (hybus_frame_field_is(f, ":rule"))
        return endpoints_spec_add_rule(s, f->value, f->value_size);
    if (hybus_frame_field_is(f, ":stream"))
        s->stream = value_is(f, "1");
    else if (hybus_frame_field_is(f, ":watch"))
        s->watch = value_is(f, "1");
    return 0;
}

int endpoints_entry_parse(const hybus_frame *frame, endpoints_spec *ret)
{
    endpoints_spec s = {};
    hybus_frame_fields fields;
    hybus_frame_field field;
    bool has_uid = false;
    int r;

    hybus_frame_fields_init(&fields, frame->payload, frame->size);
    while ((r = hybus_frame_fields_next(&fields, &field)) > 0) {
        r = parse_field(&field, &s, &has_uid);
        if (r < 0)
            break;
    }
    if (r == 0 && (!s.ns || !has_uid || (s.road == ENDPOINTS_BUS && (!s.bus_name || !s.object)) ||
                   (s.road == ENDPOINTS_START) != !s.key[0]))
        r = -EBADMSG;
    if (r < 0) {
        endpoints_spec_done(&s);
        return r == -ENOMEM ? r : -EBADMSG;
    }
    *ret = s;
    return 0;
}

/* --- the file: a HELLO frame with the tag, then entries ----------------------------------------
 */

static int table_encode(const endpoints *t, const char *tag, hybus_frame_queue *q)
{
    int r;

    hybus_frame_begin(q, CHANNEL_HELLO, 0, 0, 0, CHANNEL_VERSION);
    hybus_frame_put(q, ":bus", tag);
    r = hybus_frame_end(q);
    for (size_t i = 0; r >= 0; i++) {
        const endpoints_entry *entry = endpoints_registration_at(t, i);
        if (!entry)
            break;
        r = endpoints_entry_put(q, entry, 0);
    }
    return r;
}

static int write_all(int fd, const uint8_t *data, size_t size)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);
        if (n < 0 && errno != EINTR)
            return -errno;
        if (n > 0) {
            data += n;
            size -= (size_t)n;
        }
    }
    return 0;
}

int endpoints_table_save(const endpoints *t, const char *path, const char *tag)
{
    hybus_frame_queue q = {.max = ENDPOINTS_TABLE_SIZE_MAX};
    _cleanup_(closep) int fd = -1;
    char temporary[PATH_MAX];
    int r;

    if ((size_t)snprintf(temporary, sizeof(temporary), "%s.new", path) >= sizeof(temporary))
        return -ENAMETOOLONG;
    r = table_encode(t, tag, &q);
    if (r >= 0) {
        fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
        r = fd < 0 ? -errno : write_all(fd, q.buffer + q.start, hybus_frame_queue_pending(&q));
    }
    if (r >= 0 && rename(temporary, path) < 0)
        r = -errno;
    if (r < 0 && fd >= 0)
        (void)unlink(temporary);
    hybus_frame_queue_done(&q);
    return r;
}

static int parse_tag(const hybus_frame *frame, const char *tag, bool *ret_same)
{
    hybus_frame_fields fields;
    hybus_frame_field field;
    int r;

    if (frame->type != CHANNEL_HELLO || frame->value != CHANNEL_VERSION)
        return -EBADMSG;
    hybus_frame_fields_init(&fields, frame->payload, frame->size);
    while ((r = hybus_frame_fields_next(&fields, &field)) > 0)
        if (hybus_frame_field_is(&field, ":bus"))
            *ret_same = tag[0] && value_is(&field, tag);
    return r;
}

int endpoints_table_parse(endpoints *t, const void *data, size_t size, const char *tag)
{
    hybus_frame_reader reader = {.max = ENDPOINTS_TABLE_SIZE_MAX + HYBUS_FRAME_MAX};
    hybus_frame frame;
    bool same_bus = false;
    int r;

    r = hybus_frame_reader_push(&reader, data, size);
    if (r >= 0)
        r = hybus_frame_reader_next(&reader, &frame);
    if (r == 0 && size > 0)
        r = -EBADMSG;
    if (r > 0)
        r = parse_tag(&frame, tag, &same_bus);
    while (r >= 0 && (r = hybus_frame_reader_next(&reader, &frame)) > 0) {
        endpoints_spec spec;
        r = frame.type == CHANNEL_ENTRY ? endpoints_entry_parse(&frame, &spec) : -EBADMSG;
        if (r < 0)
            break;
        if (spec.road == ENDPOINTS_CHANNEL || (spec.road == ENDPOINTS_BUS && same_bus))
            r = endpoints_expect(t, &spec);
        endpoints_spec_done(&spec);
        if (r == -EEXIST || r == -ENOBUFS)
            r = -EBADMSG;
    }
    hybus_frame_reader_done(&reader);
    return r;
}

int endpoints_table_load(endpoints *t, const char *path, const char *tag)
{
    _cleanup_(closep) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    _cleanup_(freep) void *data = NULL;
    size_t size;
    int r = fd < 0 ? -errno : hybus_file_read(fd, ENDPOINTS_TABLE_SIZE_MAX, &data, &size);

    if (r == -EFBIG)
        return -EBADMSG;
    return r < 0 ? r : endpoints_table_parse(t, data, size, tag);
}
