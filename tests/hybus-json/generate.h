/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* Random messages from a stream of bytes: the fuzzer's input, or a seeded generator. */

#include <math.h>
#include <sys/socket.h>
#include <systemd/sd-bus.h>

#include "hybus/json.h"
#include "hybus/signature.h"

typedef struct source {
    const uint8_t *data;
    size_t size;
    uint64_t seed; /* goes on when the data is used up; 0: zeros then */
} source;

static inline uint8_t source_byte(source *s)
{
    if (s->size) {
        s->size--;
        return *s->data++;
    }
    if (!s->seed)
        return 0;
    s->seed ^= s->seed << 13;
    s->seed ^= s->seed >> 7;
    s->seed ^= s->seed << 17;
    return s->seed >> 24;
}

static inline uint64_t source_u64(source *s)
{
    uint64_t v = 0;

    for (int i = 0; i < 8; i++)
        v = v << 8 | source_byte(s);
    return v;
}

/* A complete type of at most `room` bytes. */
static inline size_t generate_type(source *s, char *type, size_t room, unsigned depth)
{
    static const char basic[] = "ybnqiuxtdsog";
    uint8_t b = source_byte(s);
    size_t n;

    if (room < 8 || depth > 5 || b < 150) {
        *type = basic[b % (sizeof basic - 1)];
        return 1;
    }
    if (b < 180) {
        *type = 'v';
        return 1;
    }
    if (b < 210) {
        *type = 'a';
        return 1 + generate_type(s, type + 1, room - 1, depth + 1);
    }
    if (b < 230) {
        memcpy(type, "a{", 2);
        type[2] = basic[source_byte(s) % (sizeof basic - 1)];
        n = 3 + generate_type(s, type + 3, room - 4, depth + 1);
        type[n] = '}';
        return n + 1;
    }
    *type = '(';
    n = 1;
    do
        n += generate_type(s, type + n, room - n - 1, depth + 1);
    while (room - n > 8 && source_byte(s) & 1);
    type[n] = ')';
    return n + 1;
}

static inline void generate_value(source *s, sd_bus_message *m, const char *type, unsigned depth);

static inline void check_ok(int r)
{
    if (r < 0) {
        fprintf(stderr, "generate: %s\n", strerror(-r));
        abort();
    }
}

static inline void generate_basic(source *s, sd_bus_message *m, char type, unsigned counter)
{
    static const char *const strings[] = {"",
                                          "a",
                                          "\"quoted\"\\",
                                          "\x1b[2J\n\t",
                                          "\xc3\xa9\xe2\x82\xac",
                                          "\xf0\x9f\x98\x80",
                                          "\xc2\x9b"
                                          "31m",
                                          "\xe2\x80\xae"
                                          "evil",
                                          "NaN",
                                          "12",
                                          "true"};
    static const char *const signatures[] = {"", "s", "a{sv}", "(yv)as"};
    static const double doubles[] = {0.0,  -0.0, 0.1,      1e308,    5e-324,
                                     -1.5, 1e22, INFINITY, -INFINITY};
    uint64_t v = source_u64(s) >> (source_byte(s) % 64), edge = source_byte(s);
    char text[64];

    /* Edges are worth more than the middle. */
    if (edge < 40)
        v = (UINT64_C(1) << (edge % 64)) - (edge & 1);
    else if (edge < 80)
        v = -((UINT64_C(1) << (edge % 64)) - (edge & 1));
    v += counter;

    switch (type) {
    case 'b': {
        int b = v & 1;

        check_ok(sd_bus_message_append_basic(m, 'b', &b));
        break;
    }
    case 'd': {
        double d;

        memcpy(&d, &v, sizeof d);
        if (edge < 128 || d != d)
            d = doubles[v % ELEMENTS(doubles)];
        check_ok(sd_bus_message_append_basic(m, 'd', &d));
        break;
    }
    case 's':
        snprintf(text, sizeof text, "%s%u", strings[v % ELEMENTS(strings)], counter);
        check_ok(sd_bus_message_append_basic(m, 's', text));
        break;
    case 'o':
        snprintf(text, sizeof text, "/p%u/x_%llu", counter, (unsigned long long)v % 1000);
        check_ok(sd_bus_message_append_basic(m, 'o', text));
        break;
    case 'g':
        check_ok(sd_bus_message_append_basic(m, 'g', signatures[v % ELEMENTS(signatures)]));
        break;
    default:
        /* Little and big endian machines take other bytes of it: any are good. */
        check_ok(sd_bus_message_append_basic(m, type, &v));
        break;
    }
}

/* Keys differ, as JSON wants. */
static inline unsigned key_count(char type, unsigned n)
{
    return type == 'b' || type == 'd' || type == 'g' ? MIN_OF(n, 1u) : n;
}

static inline void generate_key(source *s, sd_bus_message *m, char type, unsigned i)
{
    uint64_t v = (source_byte(s) & 3) == 0 && i == 0 ? 0 : i + 1;

    if (type == 's' || type == 'o' || type == 'd' || type == 'b' || type == 'g')
        generate_basic(s, m, type, i);
    else
        check_ok(sd_bus_message_append_basic(m, type, &v));
}

static inline void generate_value(source *s, sd_bus_message *m, const char *type, unsigned depth)
{
    size_t length = strlen(type);
    char inner[HYBUS_SIGNATURE_MAX + 1];
    unsigned n = depth > 8 ? 0 : source_byte(s) % 4;

    switch (*type) {
    case 'v':
        inner[generate_type(s, inner, depth > 8 ? 1 : 20, depth)] = 0;
        if (depth > 8)
            strcpy(inner, "u");
        check_ok(sd_bus_message_open_container(m, 'v', inner));
        generate_value(s, m, inner, depth + 1);
        break;
    case '(':
        snprintf(inner, sizeof inner, "%.*s", (int)length - 2, type + 1);
        check_ok(sd_bus_message_open_container(m, 'r', inner));
        for (const char *t = inner; *t;) {
            char one[HYBUS_SIGNATURE_MAX + 1];
            int k = hybus_signature_first(t);

            check_ok(k);
            snprintf(one, sizeof one, "%.*s", k, t);
            generate_value(s, m, one, depth + 1);
            t += k;
        }
        break;
    case 'a':
        check_ok(sd_bus_message_open_container(m, 'a', type + 1));
        if (type[1] == '{')
            n = key_count(type[2], n);
        for (unsigned i = 0; i < n; i++)
            if (type[1] == '{') {
                snprintf(inner, sizeof inner, "%.*s", (int)length - 3, type + 2);
                check_ok(sd_bus_message_open_container(m, 'e', inner));
                generate_key(s, m, type[2], i);
                snprintf(inner, sizeof inner, "%.*s", (int)length - 4, type + 3);
                generate_value(s, m, inner, depth + 1);
                check_ok(sd_bus_message_close_container(m));
            } else
                generate_value(s, m, type + 1, depth + 1);
        break;
    default:
        generate_basic(s, m, *type, 0);
        return;
    }
    check_ok(sd_bus_message_close_container(m));
}

/* A connection that is good for making messages and nothing else. */
static inline sd_bus *message_bus(void)
{
    static sd_bus *bus;
    int fds[2];

    if (bus)
        return bus;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) < 0)
        abort();
    check_ok(sd_bus_new(&bus));
    check_ok(sd_bus_set_fd(bus, fds[0], fds[0]));
    check_ok(sd_bus_start(bus));
    return bus;
}

static inline sd_bus_message *message_new(void)
{
    sd_bus_message *m = NULL;

    check_ok(sd_bus_message_new_method_call(message_bus(), &m, "a.b", "/", "a.b", "C"));
    return m;
}

static inline void message_seal(sd_bus_message *m)
{
    check_ok(sd_bus_message_seal(m, 1, 0));
}

/* Message -> JSON -> text -> JSON -> message: both messages and both texts must be the same. */
static inline void check_round_trip(sd_bus_message *m)
{
    const char *signature = strempty(sd_bus_message_get_signature(m, true));
    char *text = NULL, *again = NULL;
    json_t *json = NULL, *parsed = NULL, *back = NULL;
    hybus_json_error e = {};
    sd_bus_message *copy = message_new();
    int r = hybus_json_read(m, &json, &e);

    if (r >= 0)
        r = hybus_json_dump(json, HYBUS_JSON_COMPACT, &text);
    if (r >= 0)
        r = hybus_json_load(text, strlen(text), &parsed, &e);
    if (r >= 0)
        r = hybus_json_append(copy, signature, parsed, &e);
    if (r >= 0) {
        message_seal(copy);
        r = hybus_json_read(copy, &back, &e);
    }
    if (r >= 0)
        r = hybus_json_dump(back, HYBUS_JSON_COMPACT, &again);
    if (r < 0 || !streq(text, again) ||
        !streq(strempty(sd_bus_message_get_signature(copy, true)), signature)) {
        fprintf(stderr, "round trip of %s: %s: %s\n%s\n%s\n", signature, strerror(-r),
                strempty(e.message), strempty(text), strempty(again));
        abort();
    }
    hybus_json_error_done(&e);
    json_decref(json);
    json_decref(parsed);
    json_decref(back);
    free(text);
    free(again);
    sd_bus_message_unref(copy);
}
