/* SPDX-License-Identifier: Apache-2.0 */
/* What nodes are to the policy: principals "node:NAME", made and removed like tokens. */

#include <openssl/crypto.h>

#include "security-internal.h"

static void principal_name(const char *name, char ret[80])
{
    snprintf(ret, 80, "node:%.64s", name);
}

int security_add_node(Security *s, const Subject *caller, const char *name, const Node **ret,
                      hybus_config_error *e)
{
    char principal[80];
    Node *node;
    int r;

    if (!principal_name_is_valid(name))
        return -EINVAL;
    principal_name(name, principal);
    r = security_check_rights_of(s, caller, "remote", e);
    if (r >= 0)
        r = security_check_rights_of(s, caller, "anyone", e);
    if (r >= 0)
        r = security_check_rights_of(s, caller, principal, e);
    if (r >= 0)
        r = nodes_add(s->nodes, name, store_now(s->store), &node);
    if (r < 0)
        return r;
    security_move_principal(s, principal);
    security_note(s, caller, "node-add", name);
    *ret = node;
    return 0;
}

int security_remove_node(Security *s, const Subject *caller, const char *name)
{
    char principal[80];
    int r = nodes_remove(s->nodes, name);

    if (r == -ENOENT)
        return r;
    principal_name(name, principal);
    security_move_principal(s, principal);
    security_note(s, caller, "RemoveNode", name);
    return r < 0 ? r : 1;
}

bool security_node_is_void(Security *s, const Principal *p)
{
    const char *name = startswith(p->name, "node:");
    const Node *node = name ? nodes_find(s->nodes, name) : NULL;
    uint8_t hash[SHA256_SIZE];
    bool same;

    if (!node)
        return true;
    sha256(node->key, NODE_KEY_SIZE, hash);
    same = CRYPTO_memcmp(hash, p->hash, sizeof hash) == 0;
    explicit_bzero(hash, sizeof hash);
    return !same;
}

int security_connect_node(Security *s, const Connect *c, Principal **ret)
{
    _cleanup_(principal_freep) Principal *p = NULL;
    const Node *node = nodes_find(s->nodes, c->node);
    char key_id[NODE_KEY_ID_SIZE], name[80];
    int r;

    if (!node)
        return -EKEYREJECTED;
    node_key_id(node, key_id);
    if (!c->node_key || strlen(c->node_key) != strlen(key_id) ||
        CRYPTO_memcmp(c->node_key, key_id, strlen(key_id)) != 0)
        return -EKEYREJECTED;
    snprintf(name, sizeof name, "node:%s", node->name);
    r = security_principal_new(s, name, c, NULL, &p);
    if (r < 0)
        return r;
    p->credential = CREDENTIAL_NODE;
    sha256(node->key, NODE_KEY_SIZE, p->hash);
    *ret = TAKE_PTR(p);
    return 0;
}
