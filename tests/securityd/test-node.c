/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <jansson.h>

#include "agent-socket.h"
#include "fixture.h"

static int set_up(void **state)
{
    *state = fixture_new();
    fixture_open(*state);
    return 0;
}

static int tear_down(void **state)
{
    fixture_free(*state);
    return 0;
}

static const Node *add(Fixture *f, const char *name)
{
    hybus_config_error e = {0};
    const Node *node = NULL;

    assert_int_equal(security_add_node(f->security, &fixture_root, name, &node, &e), 0);
    return node;
}

static int connect_as(Fixture *f, const char *name, const char *key_id, Principal **ret)
{
    const Connect c = {
        .protocol = "coap", .peer = "192.0.2.1:9", .tls = "DTLSv1.2", .node = name, .node_key = key_id};
    uint64_t wait = 0;

    *ret = NULL;
    return security_connect(f->security, &c, ret, &wait);
}

static void test_a_key_is_another_each_time_and_survives_a_restart(void **state)
{
    Fixture *f = *state;
    uint8_t key[NODE_KEY_SIZE];
    char *file;
    size_t size;

    memcpy(key, add(f, "lamp")->key, sizeof key);
    assert_memory_not_equal(key, add(f, "door")->key, sizeof key);
    for (size_t i = 0; i < sizeof key; i++)
        assert_true(key[i] > ' ' && key[i] < 127); /* text */
    fixture_open(f);
    assert_int_equal(f->security->nodes->n, 2);
    assert_false(f->security->nodes->lost);
    assert_memory_equal(nodes_find(f->security->nodes, "lamp")->key, key, sizeof key);
    file = fixture_read(f->settings.state_directory, "nodes", &size);
    assert_null(memmem(file, size, key, sizeof key));
    free(file);
}

static void test_names(void **state)
{
    static const char *const bad[] = {"", "a b", "a:b", "../x", "x\n", "%s"};
    Fixture *f = *state;
    hybus_config_error e = {0};
    const Node *node;

    add(f, "lamp");
    assert_int_equal(security_add_node(f->security, &fixture_root, "lamp", &node, &e), -EEXIST);
    for (size_t i = 0; i < ELEMENTS(bad); i++)
        assert_int_equal(security_add_node(f->security, &fixture_root, bad[i], &node, &e), -EINVAL);
    assert_int_equal(security_remove_node(f->security, &fixture_root, "nobody"), -ENOENT);
}

static void test_files_that_come_from_elsewhere_are_void(void **state)
{
    static const char *const names[] = {"nodes", "nodes-secret"};
    Fixture *f = *state;
    const char *directory = f->settings.state_directory;
    char *files[2];

    add(f, "lamp");
    for (size_t i = 0; i < 2; i++)
        files[i] = fixture_read(directory, names[i], NULL);
    /* Byte for byte, but made anew. */
    for (size_t i = 0; i < 2; i++) {
        fixture_remove(directory, names[i]);
        fixture_write(directory, names[i], files[i]);
        free(files[i]);
    }
    fixture_open(f);
    assert_int_equal(f->security->nodes->n, 0);
    assert_true(f->security->nodes->lost);
    add(f, "lamp"); /* and one can go on */
    fixture_open(f);
    assert_int_equal(f->security->nodes->n, 1);
}

/* Each byte of a key's ciphertext, and another node's in its place. */
static void test_what_was_tampered_with_is_void(void **state)
{
    Fixture *f = *state;
    const char *directory = f->settings.state_directory;
    const char *mark = "\"key\": \"";
    char *text, *line, *one, *two, swap[120];
    json_t *j;

    add(f, "lamp");
    add(f, "door");
    text = fixture_read(directory, "nodes", NULL);
    line = strchr(text, '\n') + 1;
    j = json_loads(line, 0, NULL);
    assert_int_equal(json_array_size(j), 2);
    json_decref(j);
    one = strstr(line, mark) + strlen(mark);
    two = strstr(one, mark) + strlen(mark);
    memcpy(swap, one, sizeof swap);
    memcpy(one, two, sizeof swap);
    memcpy(two, swap, sizeof swap);
    assert_int_equal(write_checked_file(directory, "nodes", "nodes", line, strlen(line)), 0);
    fixture_open(f);
    assert_int_equal(f->security->nodes->n, 0);
    memcpy(two, one, sizeof swap);
    memcpy(one, swap, sizeof swap);
    two[30] = two[30] == '0' ? '1' : '0';
    assert_int_equal(write_checked_file(directory, "nodes", "nodes", line, strlen(line)), 0);
    fixture_open(f);
    assert_int_equal(f->security->nodes->n, 0);
    free(text);
}

static void test_a_node_is_a_principal_until_it_is_removed(void **state)
{
    Fixture *f = *state;
    char key_id[NODE_KEY_ID_SIZE], wrong[NODE_KEY_ID_SIZE];
    hybus_config_error e = {0};
    const Rule *rule;
    Principal *p, *none;

    node_key_id(add(f, "lamp"), key_id);
    memcpy(wrong, key_id, sizeof wrong);
    wrong[0] = wrong[0] == '0' ? '1' : '0';
    assert_int_equal(security_grant(f->security, &fixture_root, "x", "node:lamp", "log.read",
                                    "encrypted", &rule, &e), 1);
    assert_int_equal(connect_as(f, "lamp", wrong, &none), -EKEYREJECTED);
    assert_int_equal(connect_as(f, "lamp", NULL, &none), -EKEYREJECTED);
    assert_int_equal(connect_as(f, "lamp", "", &none), -EKEYREJECTED);
    assert_int_equal(connect_as(f, "door", key_id, &none), -EKEYREJECTED);
    assert_int_equal(connect_as(f, "lamp", key_id, &p), 0);
    assert_string_equal(p->name, "node:lamp");
    assert_true(fixture_allows(f, security_remote_subject(p), "log.read"));
    assert_false(fixture_allows(f, security_remote_subject(p), "log.write"));
    assert_false(security_principal_is_void(f->security, p));
    assert_int_equal(security_remove_node(f->security, &fixture_root, "lamp"), 1);
    assert_true(security_principal_is_void(f->security, p));
    add(f, "lamp"); /* another key: another node */
    assert_true(security_principal_is_void(f->security, p));
    assert_int_equal(connect_as(f, "lamp", key_id, &none), -EKEYREJECTED);
    fixture_open(f);
    assert_int_equal(f->security->nodes->n, 1);
    principal_free(p);
}

static void test_removing_moves_its_slot(void **state)
{
    Fixture *f = *state;
    const Subject node = {.remote = true, .name = "node:lamp", .encrypted = YES};
    uint64_t before;

    add(f, "lamp");
    before = hybus_page_writer_slot(f->security->page, security_slot(&node));
    assert_int_equal(security_remove_node(f->security, &fixture_root, "lamp"), 1);
    assert_true(hybus_page_writer_slot(f->security->page, security_slot(&node)) > before);
    assert_string_equal(fixture_record(f, "changed")->call, "RemoveNode");
}

/* Who could make a node "x" would have what is granted to node:x. */
static void test_nobody_makes_a_node_with_rights_of_others(void **state)
{
    Fixture *f = *state;
    const Subject helper = fixture_uid(500);
    hybus_config_error e = {0};
    const Node *node;
    const Rule *rule;

    assert_int_equal(security_grant(f->security, &fixture_root, "y", "node:lamp", "reboot.now", "",
                                    &rule, &e), 1);
    assert_int_equal(security_add_node(f->security, &helper, "lamp", &node, &e), -EACCES);
    hybus_config_error_done(&e);
    assert_int_equal(security_add_node(f->security, &helper, "door", &node, &e), 0);
}

static void test_they_are_bounded(void **state)
{
    Fixture *f = *state;
    Node *node;
    char name[16];

    while (f->security->nodes->n < NODES_MAX - 1) { /* without writing each time */
        Node *one = &f->security->nodes->list[f->security->nodes->n++];

        snprintf(name, sizeof name, "n%zu", f->security->nodes->n);
        *one = (Node){.name = strdup(name)};
    }
    assert_int_equal(nodes_add(f->security->nodes, "last", 1, &node), 0);
    assert_int_equal(nodes_add(f->security->nodes, "more", 1, &node), -ENOBUFS);
    fixture_open(f);
    assert_int_equal(f->security->nodes->n, NODES_MAX);
}

/* --- over the private socket ------------------------------------------------------------------ */

static json_t *ask(Fixture *f, uint32_t uid, const char *question)
{
    char *answer = NULL;
    json_t *j;

    assert_int_equal(agent_socket_feed(f->security, uid, question, strlen(question), &answer), 0);
    j = json_loads(answer, 0, NULL);
    assert_non_null(j);
    free(answer);
    return j;
}

static void expect_error(Fixture *f, uint32_t uid, const char *question, const char *error)
{
    json_t *answer = ask(f, uid, question);
    const char *got = json_string_value(json_object_get(answer, "error"));

    assert_string_equal(got ? got : "", error);
    json_decref(answer);
}

static void test_keys_over_the_socket(void **state)
{
    Fixture *f = *state;
    size_t known = 0;
    bool more = true;

    for (unsigned i = 0; i < 300; i++) {
        Node *one = &f->security->nodes->list[f->security->nodes->n++];
        char name[16];

        snprintf(name, sizeof name, "n%u", i);
        *one = (Node){.name = strdup(name)};
        memset(one->key, 'k', NODE_KEY_SIZE);
    }
    while (more) {
        char question[64];
        json_t *answer, *list;

        snprintf(question, sizeof question, "{\"id\":1,\"op\":\"psk\",\"after\":%zu}", known);
        answer = ask(f, 0, question);
        list = json_object_get(answer, "nodes");
        assert_true(json_array_size(list) > 0);
        assert_string_equal(json_string_value(json_array_get(json_array_get(list, 0), 1)),
                            "a2tra2tra2tra2tra2tra2tra2tra2tra2tra2tra2s=");
        known += json_array_size(list);
        more = json_is_true(json_object_get(answer, "more"));
        json_decref(answer);
    }
    assert_int_equal(known, 300);
    expect_error(f, 500, "{\"id\":1,\"op\":\"psk\"}", "AccessDenied");
    expect_error(f, 0, "{\"id\":1,\"op\":\"psk\",\"after\":-1}", "InvalidArgument");
    expect_error(f, 0, "{\"id\":1,\"op\":\"psk\",\"after\":\"x\"}", "InvalidArgument");
    expect_error(f, 0, "{\"id\":1,\"op\":\"psk\",\"after\":99999}", "");
}

static void test_making_one_over_the_socket(void **state)
{
    Fixture *f = *state;
    json_t *answer;

    expect_error(f, 500, "{\"id\":1,\"op\":\"node-add\",\"name\":\"lamp\"}", "AccessDenied");
    expect_error(f, 0, "{\"id\":1,\"op\":\"node-add\"}", "InvalidArgument");
    answer = ask(f, 0, "{\"id\":1,\"op\":\"node-add\",\"name\":\"lamp\"}");
    assert_int_equal(strlen(json_string_value(json_object_get(answer, "secret"))), NODE_KEY_SIZE);
    json_decref(answer);
    /* A server that has no keys cannot say whose it was; a token and a node at once is nobody. */
    expect_error(f, 500, "{\"id\":1,\"op\":\"connect\",\"protocol\":\"coap\",\"node\":\"lamp\"}",
                 "AccessDenied");
    expect_error(f, 0,
                 "{\"id\":1,\"op\":\"connect\",\"protocol\":\"coap\",\"node\":\"lamp\",\"bearer\":\"x\"}",
                 "AccessDenied");
    expect_error(f, 0, "{\"id\":1,\"op\":\"connect\",\"protocol\":\"coap\",\"node\":7}",
                 "InvalidArgument");
    expect_error(f, 0, "{\"id\":1,\"op\":\"connect\",\"protocol\":\"coap\",\"node\":\"lamp\"}",
                 "Unauthenticated");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_a_key_is_another_each_time_and_survives_a_restart),
        TEST(test_names),
        TEST(test_files_that_come_from_elsewhere_are_void),
        TEST(test_what_was_tampered_with_is_void),
        TEST(test_a_node_is_a_principal_until_it_is_removed),
        TEST(test_removing_moves_its_slot),
        TEST(test_nobody_makes_a_node_with_rights_of_others),
        TEST(test_they_are_bounded),
        TEST(test_keys_over_the_socket),
        TEST(test_making_one_over_the_socket),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
