/* SPDX-License-Identifier: Apache-2.0 */
/* The first byte chooses: a registration (query, newline, links), a query to look up, or what a node
 * answers. */
#include <assert.h>
#include <coap-node.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool everybody(const directory_node *n, void *userdata)
{
    return true;
}

static const char *base(const directory_node *n)
{
    return "coap://192.0.2.1";
}

/* What is written is link format again, whatever came. */
static void look_up(const directory *d, bool nodes, const char *query)
{
    char *text = NULL;
    size_t size = 0;
    const char *at;
    coapd_link link;
    FILE *file = open_memstream(&text, &size);
    int r = directory_look_up(d, nodes, query, everybody, base, NULL, file);

    fclose(file);
    at = text;
    while (r >= 0 && (r = coapd_link_next(&at, text + size, &link)) > 0) {
        assert(memcmp(link.target.base, nodes ? "/rd/" : "/nodes/", nodes ? 4 : 7) == 0);
        assert(coapd_link_target_local(link.target) || link.target.size > 250);
    }
    assert(r <= 0);
    free(text);
}

static void registration(directory *d, const char *query, const char *links, size_t size)
{
    directory_owner owner = {.principal = "user:a", .host = "192.0.2.1"};
    directory_spec spec;
    directory_node *n;
    const char *why = NULL;

    if (directory_parse(d, query, false, &spec, &why) < 0 ||
        directory_register(d, &spec, &owner, "0123456789abcdef", links, size, 1, &n, &why) < 0) {
        assert(why);
        return;
    }
    assert(directory_name_valid(n->name, strlen(n->name)) && n->lifetime > 0);
    assert(n->n_links <= d->limits.links);
    look_up(d, false, "");
    look_up(d, true, "");
}

static void question(directory *d, const char *query)
{
    static const char links[] = "</a>;rt=\"b c\";if=d,</e/f?g>;title=\"\\\"\"";

    registration(d, "ep=lamp&et=x&y", links, sizeof(links) - 1);
    look_up(d, false, query);
    look_up(d, true, query);
}

static void answer(const uint8_t *data, size_t size)
{
    coap_pdu_t *pdu = coap_pdu_init(0, 0, 0, 65536);
    coapd_told told;

    if (pdu && coap_pdu_parse(COAP_PROTO_UDP, data, size, pdu)) {
        coapd_told_parse(pdu, &told);
        assert(strlen(told.location) < sizeof(told.location));
        for (const char *c = told.location; *c; c++)
            assert(*c > 0x20 && *c < 0x7f);
        assert(told.block2.szx < 7 && told.etag.size <= 8);
    }
    coap_delete_pdu(pdu);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    directory d = {.limits = {.nodes = 2,
                              .nodes_owner = 2,
                              .links = 16,
                              .link_bytes = 4096,
                              .lifetime_max = 1000}};
    char *text;

    if (size == 0)
        return 0;
    coap_set_log_level(LOG_EMERG);
    directory_init(&d);
    text = strndup((const char *)data + 1, size - 1);
    if (data[0] % 3 == 0) {
        char *links = strchr(text, '\n');

        if (links)
            *links++ = 0;
        registration(&d, text, strempty(links), strlen(strempty(links)));
    } else if (data[0] % 3 == 1) {
        question(&d, text);
    } else {
        answer(data + 1, size - 1);
    }
    free(text);
    directory_done(&d);
    return 0;
}
