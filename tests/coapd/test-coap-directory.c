/* SPDX-License-Identifier: Apache-2.0 */
/* The directory as a table, and the cache: whose a name is, what is too much, and what is forgotten. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "coap-node.h"

static const directory_owner alice = {.principal = "user:alice", .host = "192.0.2.1"};
static const directory_owner alice_elsewhere = {.principal = "user:alice", .host = "192.0.2.9"};
static const directory_owner bob = {.principal = "user:bob", .host = "192.0.2.1"};
static const directory_owner nobody = {
    .principal = "anonymous", .host = "192.0.2.1", .anonymous = true};
static const directory_owner another = {
    .principal = "anonymous", .host = "192.0.2.2", .anonymous = true};

static void make(directory *d)
{
    *d = (directory){
        .limits = {
            .nodes = 4, .nodes_owner = 2, .links = 3, .link_bytes = 100, .lifetime_max = 1000}};
    directory_init(d);
}

static int put(directory *d, const char *query, const directory_owner *o, const char *links,
               directory_node **ret)
{
    directory_spec spec;
    const char *why;
    directory_node *n;
    int r = directory_parse(d, query, false, &spec, &why);

    if (r >= 0)
        r = directory_register(d, &spec, o, "id", links, strlen(links), 1000000, &n, &why);
    if (r >= 0 && ret)
        *ret = n;
    return r;
}

static void test_a_name_has_one_owner(void **state)
{
    directory_node *n, *again;
    directory d;

    make(&d);
    assert_int_equal(put(&d, "ep=lamp", &alice, "</a>", &n), 0);
    assert_int_equal(put(&d, "ep=lamp", &bob, "</b>", NULL), -EEXIST);
    assert_int_equal(put(&d, "ep=lamp", &nobody, "</b>", NULL), -EEXIST);
    assert_int_equal(put(&d, "ep=lamp", &alice_elsewhere, "</c>", &again), 0);
    assert_ptr_equal(n, again);
    assert_string_equal(n->links[0], "</c>");
    assert_int_equal(put(&d, "ep=meter", &nobody, "</a>", &n), 0);
    assert_int_equal(put(&d, "ep=meter", &another, "</a>", NULL), -EEXIST);
    assert_int_equal(put(&d, "ep=meter", &alice, "</a>", NULL), -EEXIST);
    assert_true(directory_owns(n, &nobody));
    assert_false(directory_owns(n, &another));
    directory_done(&d);
}

static void test_everything_is_bounded(void **state)
{
    directory_node *n;
    directory d;
    char text[128];

    make(&d);
    assert_int_equal(put(&d, "ep=a", &alice, "</1>,</2>,</3>", &n), 0);
    assert_int_equal(put(&d, "ep=a", &alice, "</1>,</2>,</3>,</4>", NULL), -ENOBUFS);
    memset(text, 'x', 101);
    memcpy(text, "</", 2);
    memcpy(text + 100, ">", 2);
    assert_int_equal(put(&d, "ep=a", &alice, text, NULL), -ENOBUFS);
    assert_int_equal(n->n_links, 3); /* as before */
    assert_int_equal(put(&d, "ep=b", &alice, "", NULL), 0);
    assert_int_equal(put(&d, "ep=c", &alice, "", NULL), -ENOBUFS);
    assert_int_equal(put(&d, "ep=c", &bob, "", NULL), 0);
    assert_int_equal(put(&d, "ep=d", &bob, "", NULL), 0);
    assert_int_equal(put(&d, "ep=e", &nobody, "", NULL), -ENOBUFS);
    directory_remove(&d, n);
    assert_int_equal(put(&d, "ep=e", &nobody, "", NULL), 0);
    assert_int_equal(put(&d, "ep=e&lt=1001", &nobody, "", NULL), -EINVAL);
    directory_done(&d);
}

static void test_lifetimes(void **state)
{
    directory_spec spec;
    directory_node *n;
    uint64_t next;
    const char *why;
    directory d;

    make(&d);
    assert_int_equal(put(&d, "ep=a&lt=10", &alice, "", &n), 0);
    assert_null(directory_expired(&d, 10999999, &next));
    assert_int_equal(next, 11000000);
    assert_ptr_equal(directory_expired(&d, 11000000, &next), n);
    assert_int_equal(directory_parse(&d, "", true, &spec, &why), 0);
    directory_update(n, &spec, 5000000); /* as long again */
    assert_null(directory_expired(&d, 14000000, &next));
    assert_int_equal(directory_parse(&d, "lt=1", true, &spec, &why), 0);
    directory_update(n, &spec, 5000000);
    assert_ptr_equal(directory_expired(&d, 6000000, &next), n);
    assert_int_equal(directory_parse(&d, "ep=b", true, &spec, &why), -EINVAL);
    directory_done(&d);
}

static void test_the_cache_is_bounded(void **state)
{
    uint8_t body[400] = {};
    coapd_told told = {.code = COAP_RESPONSE_CODE(205), .body = body, .size = sizeof(body)};
    coapd_cache c = {};
    char key[16];
    int a, b;

    coapd_cache_init(&c);
    coapd_cache_resize(&c, 4096);
    for (int i = 0; i < 100; i++) {
        snprintf(key, sizeof(key), "1  /%d", i);
        assert_non_null(coapd_cache_put(&c, &a, key, &told, 0));
        assert_non_null(coapd_cache_find(&c, &a, "1  /0")); /* what is used stays */
        assert_true(c.bytes <= 4096);
    }
    assert_true(c.n >= 4 && c.n < 10);
    assert_null(coapd_cache_find(&c, &a, "1  /50"));
    assert_null(coapd_cache_find(&c, &b, "1  /0"));
    told.size = 1;
    for (int i = 0; i < 2000; i++) {
        coapd_cache_resize(&c, 1 << 20);
        snprintf(key, sizeof(key), "1  /%d", i);
        assert_non_null(coapd_cache_put(&c, &b, key, &told, 0));
    }
    assert_int_equal(c.n, COAPD_CACHE_ENTRIES_MAX);
    assert_non_null(coapd_cache_put(&c, &b, "50 a=b /x y", &told, 0));
    coapd_cache_drop_of(&c, &b, "/x");
    assert_non_null(coapd_cache_find(&c, &b, "50 a=b /x y"));
    coapd_cache_drop_of(&c, &b, "/x y");
    assert_null(coapd_cache_find(&c, &b, "50 a=b /x y"));
    told.size = sizeof(body);
    coapd_cache_resize(&c, 600);
    assert_null(coapd_cache_put(&c, &b, "1  /1", &told, 0)); /* more than half of it */
    coapd_cache_drop_of(&c, &b, NULL);
    coapd_cache_drop_of(&c, &a, NULL);
    assert_int_equal(c.n, 0);
    assert_int_equal(c.bytes, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_name_has_one_owner),
        cmocka_unit_test(test_everything_is_bounded),
        cmocka_unit_test(test_lifetimes),
        cmocka_unit_test(test_the_cache_is_bounded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
