/* SPDX-License-Identifier: Apache-2.0 */
#include "log-record.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

static const struct {
    const char *name;
    uint8_t size;
} codes[HLOG_CODE_END] = {
#define CODE(code, text) [code] = {text, sizeof(text) - 1}
    CODE(HLOG_MESSAGE, "MESSAGE"),
    CODE(HLOG_UNIT, "UNIT"),
    CODE(HLOG_IDENTIFIER, "IDENTIFIER"),
    CODE(HLOG_CODE_FILE, "CODE_FILE"),
    CODE(HLOG_CODE_LINE, "CODE_LINE"),
    CODE(HLOG_ERRNO, "ERRNO"),
    CODE(HLOG_HOSTNAME, "HOSTNAME"),
    CODE(HLOG_PROCID, "PROCID"),
    CODE(HLOG_MSGID, "MSGID"),
    CODE(HLOG_STRUCTURED_DATA, "STRUCTURED_DATA"),
    CODE(HLOG_PEER, "PEER"),
    CODE(HLOG_DROPPED, "DROPPED"),
    CODE(HLOG_AUDIT, "AUDIT"),
#undef CODE
};

static const char *const sources[LOG_SOURCE_END] = {
    [LOG_SOURCE_NATIVE] = "native", [LOG_SOURCE_JOURNAL] = "journal",
    [LOG_SOURCE_KERNEL] = "kernel", [LOG_SOURCE_SYSLOG] = "syslog",
    [LOG_SOURCE_SELF] = "self"};

const char *log_source_name(uint8_t source)
{
    return source < LOG_SOURCE_END && sources[source] ? sources[source] : "?";
}

log_source log_source_of(const char *name)
{
    log_source s = LOG_SOURCE_NATIVE;

    while (s < LOG_SOURCE_END && !streq(name, sources[s]))
        s++;
    return s;
}

uint64_t log_record_checksum(const log_record *r)
{
    return XXH3_64bits_withSeed((const uint8_t *)r + sizeof(r->checksum),
                                r->size - sizeof(r->checksum), r->mark);
}

bool log_record_intact(const log_record *r, uint64_t room, uint32_t mark)
{
    return room >= sizeof(*r) && r->mark == mark && r->size >= sizeof(*r) &&
           r->size <= LOG_RECORD_MAX && r->size <= room && r->checksum == log_record_checksum(r);
}

const char *log_code_name(uint8_t code, uint8_t *ret_size)
{
    if (code == HLOG_NAMED || code >= HLOG_CODE_END)
        return NULL;
    *ret_size = codes[code].size;
    return codes[code].name;
}

uint8_t log_code_of(const char *name, size_t size)
{
    for (uint8_t code = 1; code < HLOG_CODE_END; code++)
        if (codes[code].size == size && memcmp(codes[code].name, name, size) == 0)
            return code;
    return HLOG_NAMED;
}

bool log_field_name_valid(const char *name, size_t size)
{
    if (size == 0 || size > HLOG_NAME_MAX || name[0] == '_' || (name[0] >= '0' && name[0] <= '9'))
        return false;
    for (size_t i = 0; i < size; i++)
        if (!(name[i] >= 'A' && name[i] <= 'Z') && !(name[i] >= '0' && name[i] <= '9') &&
            name[i] != '_')
            return false;
    return true;
}

int log_fields_next(log_fields *f, log_field *ret)
{
    const uint8_t *at = f->at;
    log_field field = {};

    if (at == f->end)
        return 0;
    if (f->n >= HLOG_COUNT_MAX)
        return -EBADMSG;
    field.secret = *at & HLOG_SECRET;
    field.code = *at++ & ~HLOG_SECRET;
    if (field.code == HLOG_NAMED) {
        if (f->end - at < 1 || f->end - at - 1 < *at)
            return -EBADMSG;
        field.name_size = *at++;
        field.name = (const char *)at;
        at += field.name_size;
        if (!log_field_name_valid(field.name, field.name_size))
            return -EBADMSG;
    } else {
        field.name = log_code_name(field.code, &field.name_size);
        if (!field.name)
            return -EBADMSG;
    }
    if (f->end - at < 2)
        return -EBADMSG;
    field.size = (uint32_t)at[0] | (uint32_t)at[1] << 8;
    at += 2;
    if ((size_t)(f->end - at) < field.size)
        return -EBADMSG;
    field.value = at;
    f->at = at + field.size;
    f->n++;
    *ret = field;
    return 1;
}

int log_record_field(const log_record *r, uint8_t code, log_field *ret)
{
    log_fields fields;
    log_field field;

    log_record_fields(r, &fields);
    while (log_fields_next(&fields, &field) > 0)
        if (field.code == code) {
            *ret = field;
            return 0;
        }
    return -ENOENT;
}
