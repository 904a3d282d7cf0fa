/* SPDX-License-Identifier: Apache-2.0 */

/* What anybody may send to the private socket of h-securityd: one packet a line, from root, from a
 * daemon, and from a stranger in turn. Each answer is JSON, and a stranger learns and changes
 * nothing. */

#include <assert.h>
#include <ftw.h>
#include <jansson.h>
#include <sys/stat.h>

#include "agent-socket.h"
#include "password.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DAEMON 60990u
#define STRANGER 60991u

static const char policy[] = "[grant root-all]\nTo = uid:0\nPermission = *\n"
                             "[grant daemon]\nTo = uid:60990\n"
                             "Permission = security.row security.connect\n"
                             "[grant reader]\nTo = uid:1000\nPermission = log.read\n";
static const char xml[] =
    "<node><interface name=\"org.hybridos.Log1\"><method name=\"Read\"><annotation "
    "name=\"org.hybridos.Permission\" value=\"log.read\"/></method></interface></node>";

/* In memory where possible: everything here is synchronised to the disk again and again. */
static char directory[] = "/dev/shm/fuzz-agent-ops-XXXXXX", paths[5][64];

static void write_file(const char *path, const char *name, const char *text)
{
    char whole[128];
    FILE *f;

    snprintf(whole, sizeof whole, "%s/%s", path, name);
    f = fopen(whole, "we");
    assert(f && fputs(text, f) >= 0 && fclose(f) == 0 && chmod(whole, 0600) == 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static void remove_all(void)
{
    (void)nftw(directory, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static Security *security;

static void close_security(void)
{
    security_free(security);
    security = NULL;
    remove_all();
}

static Security *open_security(void)
{
    static const char *const names[] = {"policy", "grants", "interfaces", "state", "run"};
    static char *directories[3], *interfaces[2], *none[1];
    static SecuritySettings settings;
    Security *s;

    strcpy(directory, access("/dev/shm", W_OK) == 0 ? "/dev/shm/fuzz-agent-ops-XXXXXX" : "/tmp/fuzz-agent-ops-XXXXXX");
    assert(mkdtemp(directory));
    for (size_t i = 0; i < ELEMENTS(names); i++) {
        snprintf(paths[i], sizeof paths[i], "%s/%s", directory, names[i]);
        assert(mkdir(paths[i], 0700) == 0);
    }
    write_file(paths[0], "50-vendor.policy", policy);
    write_file(paths[2], "org.hybridos.Log1.xml", xml);
    directories[0] = paths[0];
    directories[1] = paths[1];
    interfaces[0] = paths[2];
    settings = (SecuritySettings){.policy_directories = directories,
                                  .grant_directory = paths[1],
                                  .vendor_interfaces = interfaces,
                                  .administrator_interfaces = none,
                                  .state_directory = paths[3],
                                  .runtime_directory = paths[4],
                                  .bus_directory = (char *)"",
                                  .bus_group = (char *)"",
                                  .label_code_file = (char *)""};
    assert(security_new(&settings, NULL, &s) == 0);
    return s;
}

static bool is_one_of(const json_t *q, const char *const *ops)
{
    const char *op = json_string_value(json_object_get(q, "op"));

    for (; op && *ops; ops++)
        if (streq(*ops, op))
            return true;
    return false;
}

static void check(Security *s, uint32_t uid, const char *packet, size_t size)
{
    static const char *const open[] = {"hello", NULL};
    static const char *const of_daemons[] = {"hello", "row", "judge", "connect", "login", "logout", NULL};
    const uint64_t generation = security_generation(s);
    const size_t tokens = s->store->n_tokens, users = s->store->n_users;
    const size_t certificates = s->store->n_certificates, nodes = s->nodes->n;
    json_t *q = json_loadb(packet, size, JSON_REJECT_DUPLICATES, NULL), *j = NULL;
    char *answer = NULL;
    int r = agent_socket_feed(s, uid, packet, size, &answer);

    assert(r >= 0 || !answer);
    if (answer) {
        j = json_loads(answer, JSON_REJECT_DUPLICATES, NULL);
        assert(json_is_object(j));
        assert(json_equal(json_object_get(j, "id"), json_object_get(q, "id")));
        assert(json_is_true(json_object_get(j, "ok")) !=
               json_is_string(json_object_get(j, "error")));
    }
    if (uid != 0) {
        assert(security_generation(s) == generation && s->store->n_tokens == tokens);
        assert(s->store->n_users == users && s->store->n_certificates == certificates);
        assert(s->nodes->n == nodes);
        assert(!json_is_true(json_object_get(j, "ok")) ||
               is_one_of(q, uid == DAEMON ? of_daemons : open));
    }
    json_decref(j);
    json_decref(q);
    free(answer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const uint32_t uids[] = {STRANGER, DAEMON, 0};
    static bool registered;
    const char *at = (const char *)data, *end = at + size;

    if (!registered)
        registered = atexit(close_security) == 0;
    password_cost = 1;
    if (!security)
        security = open_security();
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((newline ? newline : end) - at);

        for (size_t i = 0; i < ELEMENTS(uids); i++)
            check(security, uids[i], at, n);
        at += n + 1;
    }
    /* What root makes adds up. */
    if (security->store->n_tokens > 16 || security->store->n_certificates > 16 || security->nodes->n > 16)
        close_security();
    return 0;
}
