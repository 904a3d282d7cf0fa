/* SPDX-License-Identifier: Apache-2.0 */
/* The first byte chooses what the rest is: a request target, a head, an authority, a list, a token, conditions.
 */
#include <assert.h>
#include <http-condition.h>
#include <http-request.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void target(http_span s)
{
    char path[HTTP_PATH_MAX + 1], again[HTTP_PATH_MAX + 1];
    size_t path_size, again_size;
    http_span query;

    if (http_target_parse(s, path, &path_size, &query) < 0)
        return;
    assert(path[0] == '/' && path_size <= HTTP_PATH_MAX && strlen(path) == path_size);
    assert(!strstr(path, "/../") && !strstr(path, "/./"));
    assert(query.size <= HTTP_QUERY_MAX);
    /* What has come out without escapes stays as it is. */
    if (!strpbrk(path, "%?#") &&
        http_target_parse((http_span){path, path_size}, again, &again_size, &query) == 0)
        assert(streq(path, again));
}

static void others(http_span s)
{
    char buffer[256];
    http_span part;
    uint16_t port;
    bool body;

    (void)http_head_check(s.base, s.size, &body);
    if (http_authority_parse(s, &part, &port) == 0)
        assert(part.size > 0 && part.size <= 255 && !memchr(part.base, 0, part.size));
    if (http_bearer_parse(s, &part))
        assert(part.size > 0 && part.size <= HTTP_BEARER_MAX && !memchr(part.base, ' ', part.size));
    if (http_cookie_find(s, "a", &part) == 1)
        assert(part.size > 0 && part.size <= HTTP_BEARER_MAX && !memchr(part.base, ';', part.size));
    if (http_form_find(s, "a", buffer, 16) == 0)
        assert(strlen(buffer) < 16);
    assert(http_hpack_count((const uint8_t *)s.base, s.size) <= s.size);
    (void)http_list_has(s, "text/event-stream");
    (void)http_field_is_forwarded(s);
    (void)http_field_is_returned(s);
    (void)http_type_is_passive(s);
    http_escape(s, buffer, sizeof(buffer));
    for (char *c = buffer; *c; c++)
        assert(*c > 0x20 && *c < 0x7f && *c != '"');
}

static void conditions(http_span s)
{
    const http_validators v = {"\"a-b\"", 784111777};
    const http_conditions each[] = {{.if_match = s},
                                    {.if_none_match = s},
                                    {.if_modified_since = s},
                                    {.if_unmodified_since = s}};
    http_range ranges[HTTP_RANGES_MAX];
    char buffer[HTTP_DATE_SIZE];
    uint64_t total = 0;
    int64_t date;
    int n;

    for (size_t i = 0; i < ELEMENTS(each); i++) {
        unsigned status = http_conditions_judge(&each[i], &v);
        assert(status == 0 || status == 304 || status == 412);
    }
    (void)http_if_range_holds(s, &v);
    if (http_date_parse(s, &date) == 0 && http_date_format(date, buffer))
        assert(strlen(buffer) == HTTP_DATE_SIZE - 1);
    n = http_ranges_parse(s, 1000, ranges);
    for (int i = 0; i < n; i++) {
        assert(ranges[i].first <= ranges[i].last && ranges[i].last < 1000);
        total += ranges[i].last - ranges[i].first + 1;
    }
    assert(total <= 1000);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    http_span s;

    if (size < 1)
        return 0;
    s = (http_span){(const char *)data + 1, size - 1};
    if (data[0] == 't')
        target(s);
    else if (data[0] == 'c')
        conditions(s);
    else
        others(s);
    return 0;
}
