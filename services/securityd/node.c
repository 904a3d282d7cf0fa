/* SPDX-License-Identifier: Apache-2.0 */
#include "node.h"

#include <fcntl.h>
#include <hybus/json.h>
#include <hybus/log.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>
#include <sys/stat.h>

#include "subject.h"

#define FILE_NAME "nodes"
#define FILE_KIND "nodes"
#define FILE_MAX (1024u * 1024u)
#define SECRET_NAME "nodes-secret"
#define SECRET_KIND "nodes-secret"
#define NONCE_SIZE 12u
#define TAG_SIZE 16u
#define SEALED_SIZE (NONCE_SIZE + NODE_KEY_SIZE + TAG_SIZE)

typedef struct Sealer {
    uint8_t key[32];
} Sealer;

static void sealer_done(Sealer *s)
{
    explicit_bzero(s, sizeof *s);
}

static void json_cleanup(json_t **j)
{
    json_decref(*j);
}

/* --- what the keys are encrypted with -------------------------------------------------------- */

static int make_secret(const char *directory)
{
    uint8_t random[32];
    char text[65];
    int r;

    if (getrandom(random, sizeof random, 0) != sizeof random)
        return -EIO;
    hex_encode(random, sizeof random, text);
    r = write_checked_file(directory, SECRET_NAME, SECRET_KIND, text, strlen(text));
    explicit_bzero(random, sizeof random);
    explicit_bzero(text, sizeof text);
    return r;
}

/* "none": a file system without birth times, which protects less. */
static int birth_time(const char *directory, char ret[64])
{
    _cleanup_(freep) char *path = NULL;
    struct statx st;

    if (asprintf(&path, "%s/%s", directory, SECRET_NAME) < 0) {
        path = NULL;
        return -ENOMEM;
    }
    if (statx(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &st) < 0)
        return -errno;
    if (st.stx_mask & STATX_BTIME)
        snprintf(ret, 64, "%lld.%09u", (long long)st.stx_btime.tv_sec, st.stx_btime.tv_nsec);
    else
        snprintf(ret, 64, "none");
    return 0;
}

static int sealer_open(const char *directory, Sealer *ret)
{
    _cleanup_(freep) char *text = NULL;
    uint8_t secret[32];
    char birth[64];
    unsigned n = sizeof ret->key;
    size_t size = 0;
    int r = read_checked_file(directory, SECRET_NAME, SECRET_KIND, 256, &text, &size);

    if (r >= 0)
        r = hex_decode(text, secret, sizeof secret);
    if (text)
        explicit_bzero(text, size);
    if (r >= 0)
        r = birth_time(directory, birth);
    if (r >= 0 &&
        !HMAC(EVP_sha256(), secret, sizeof secret, (uint8_t *)birth, strlen(birth), ret->key, &n))
        r = -EIO;
    explicit_bzero(secret, sizeof secret);
    return r;
}

/* AES-256-GCM; the name goes in, so that keys cannot be exchanged between nodes. */
static int seal(const Sealer *s, const Node *node, uint8_t ret[SEALED_SIZE])
{
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    uint8_t *body = ret + NONCE_SIZE;
    int n = 0;
    bool ok;

    ok = c && getrandom(ret, NONCE_SIZE, 0) == NONCE_SIZE &&
         EVP_EncryptInit_ex(c, EVP_aes_256_gcm(), NULL, s->key, ret) == 1 &&
         EVP_EncryptUpdate(c, NULL, &n, (uint8_t *)node->name, (int)strlen(node->name)) == 1 &&
         EVP_EncryptUpdate(c, body, &n, node->key, NODE_KEY_SIZE) == 1 &&
         EVP_EncryptFinal_ex(c, body + NODE_KEY_SIZE, &n) == 1 &&
         EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_GET_TAG, TAG_SIZE, body + NODE_KEY_SIZE) == 1;
    EVP_CIPHER_CTX_free(c);
    return ok ? 0 : -EIO;
}

static int unseal(const Sealer *s, const uint8_t *sealed, Node *node)
{
    EVP_CIPHER_CTX *c = EVP_CIPHER_CTX_new();
    const uint8_t *body = sealed + NONCE_SIZE;
    uint8_t tag[TAG_SIZE];
    int n = 0;
    bool ok;

    memcpy(tag, body + NODE_KEY_SIZE, TAG_SIZE);
    ok = c && EVP_DecryptInit_ex(c, EVP_aes_256_gcm(), NULL, s->key, sealed) == 1 &&
         EVP_DecryptUpdate(c, NULL, &n, (uint8_t *)node->name, (int)strlen(node->name)) == 1 &&
         EVP_DecryptUpdate(c, node->key, &n, body, NODE_KEY_SIZE) == 1 &&
         EVP_CIPHER_CTX_ctrl(c, EVP_CTRL_GCM_SET_TAG, TAG_SIZE, tag) == 1 &&
         EVP_DecryptFinal_ex(c, node->key + NODE_KEY_SIZE, &n) == 1;
    EVP_CIPHER_CTX_free(c);
    return ok ? 0 : -EBADMSG;
}

/* --- the file -------------------------------------------------------------------------------- */

static void node_done(Node *n)
{
    free(n->name);
    explicit_bzero(n, sizeof *n);
}

void nodes_free(Nodes *n)
{
    if (!n)
        return;
    for (size_t i = 0; i < n->n; i++)
        node_done(&n->list[i]);
    free(n->list);
    free(n->directory);
    free(n);
}

static int load_node(Nodes *n, const Sealer *s, const json_t *j)
{
    const char *name = strempty(json_string_value(json_object_get(j, "name")));
    const char *text = strempty(json_string_value(json_object_get(j, "key")));
    json_int_t created = json_integer_value(json_object_get(j, "created"));
    uint8_t sealed[SEALED_SIZE];
    Node *node = &n->list[n->n];
    int r;

    if (n->n >= NODES_MAX || !principal_name_is_valid(name) || nodes_find(n, name) ||
        hex_decode(text, sealed, sizeof sealed) < 0)
        return -EBADMSG;
    *node = (Node){.name = strdup(name), .created = created > 0 ? (uint64_t)created : 0};
    if (!node->name)
        return -ENOMEM;
    r = unseal(s, sealed, node);
    if (r < 0)
        node_done(node);
    else
        n->n++;
    return r;
}

static int load(Nodes *n, const Sealer *s, const char *text, size_t size)
{
    _cleanup_(json_cleanup) json_t *j = json_loadb(text, size, JSON_REJECT_DUPLICATES, NULL);
    const json_t *one;
    size_t i;
    int r = 0;

    if (!json_is_array(j))
        return -EBADMSG;
    json_array_foreach (j, i, one)
        if (r >= 0)
            r = load_node(n, s, one);
    return r;
}

static int read_all(Nodes *n)
{
    _cleanup_(sealer_done) Sealer s = {0};
    _cleanup_(freep) char *text = NULL;
    size_t size = 0;
    int r = read_checked_file(n->directory, FILE_NAME, FILE_KIND, FILE_MAX, &text, &size);

    if (r >= 0)
        r = sealer_open(n->directory, &s);
    return r < 0 ? r : load(n, &s, text, size);
}

int nodes_open(const char *directory, Nodes **ret)
{
    _cleanup_(nodes_freep) Nodes *n = calloc(1, sizeof *n);
    int r;

    if (!n || !(n->directory = strdup(directory)) || !(n->list = calloc(NODES_MAX, sizeof(Node))))
        return -ENOMEM;
    r = read_all(n);
    if (r == -ENOMEM)
        return r;
    if (r < 0) {
        struct stat st;
        _cleanup_(freep) char *path = NULL;

        if (asprintf(&path, "%s/%s", directory, FILE_NAME) < 0) {
            path = NULL;
            return -ENOMEM;
        }
        n->lost = lstat(path, &st) == 0;
        while (n->n > 0)
            node_done(&n->list[--n->n]);
    }
    *ret = TAKE_PTR(n);
    return 0;
}

static int save(const Nodes *n)
{
    _cleanup_(sealer_done) Sealer s = {0};
    _cleanup_(json_cleanup) json_t *j = json_array();
    _cleanup_(freep) char *text = NULL;
    int r = sealer_open(n->directory, &s);

    if (r < 0) { /* none yet, or of no use: nothing depends on it that could be read */
        r = make_secret(n->directory);
        if (r >= 0)
            r = sealer_open(n->directory, &s);
    }
    for (size_t i = 0; i < n->n && r >= 0; i++) {
        uint8_t sealed[SEALED_SIZE];
        char hex[2 * SEALED_SIZE + 1];

        r = seal(&s, &n->list[i], sealed);
        hex_encode(sealed, sizeof sealed, hex);
        if (r >= 0 && json_array_append_new(j, json_pack("{s:s, s:I, s:s}", "name",
                                                         n->list[i].name, "created",
                                                         (json_int_t)n->list[i].created, "key",
                                                         hex)) < 0)
            r = -ENOMEM;
    }
    if (r < 0)
        return r;
    text = json_dumps(j, JSON_INDENT(1));
    return text ? write_checked_file(n->directory, FILE_NAME, FILE_KIND, text, strlen(text))
                : -ENOMEM;
}

/* --- nodes ----------------------------------------------------------------------------------- */

Node *nodes_find(const Nodes *n, const char *name)
{
    for (size_t i = 0; i < n->n; i++)
        if (streq(n->list[i].name, name))
            return &n->list[i];
    return NULL;
}

/* 192 random bits, written so that every tool takes them: as text, which is the key's bytes. */
static int make_key(uint8_t ret[NODE_KEY_SIZE])
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

    if (getrandom(ret, NODE_KEY_SIZE, 0) != NODE_KEY_SIZE)
        return -EIO;
    for (size_t i = 0; i < NODE_KEY_SIZE; i++)
        ret[i] = (uint8_t)digits[ret[i] & 63];
    return 0;
}

int nodes_add(Nodes *n, const char *name, uint64_t now, Node **ret)
{
    Node *node = &n->list[n->n];
    int r;

    if (!principal_name_is_valid(name))
        return -EINVAL;
    if (nodes_find(n, name))
        return -EEXIST;
    if (n->n >= NODES_MAX)
        return -ENOBUFS;
    *node = (Node){.name = strdup(name), .created = now};
    if (!node->name)
        return -ENOMEM;
    if (make_key(node->key) < 0) {
        node_done(node);
        return -EIO;
    }
    n->n++;
    r = save(n);
    if (r < 0) {
        n->n--;
        node_done(node);
        return r;
    }
    n->lost = false;
    *ret = node;
    return 0;
}

int nodes_remove(Nodes *n, const char *name)
{
    Node *node = nodes_find(n, name);

    if (!node)
        return -ENOENT;
    node_done(node);
    memmove(node, node + 1, (size_t)(n->list + n->n - node - 1) * sizeof *node);
    explicit_bzero(&n->list[--n->n], sizeof *node);
    return save(n);
}

void node_key_id(const Node *n, char ret[NODE_KEY_ID_SIZE])
{
    uint8_t hash[SHA256_SIZE];

    sha256(n->key, NODE_KEY_SIZE, hash);
    hex_encode(hash, (NODE_KEY_ID_SIZE - 1) / 2, ret);
    explicit_bzero(hash, sizeof hash);
}
