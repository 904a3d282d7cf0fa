/* SPDX-License-Identifier: Apache-2.0 */
#include "fixture.h"

#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>

#define REQUIRE(x)                                                                                 \
    do {                                                                                           \
        if (!(x)) {                                                                                \
            fprintf(stderr, "fixture: %s:%i: %s: %m\n", __FILE__, __LINE__, #x);                   \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

const Subject fixture_root = {.uid = 0};

Subject fixture_uid(uint32_t uid)
{
    return (Subject){.uid = uid};
}

Fixture *fixture_new(void)
{
    static const char *const names[] = {"etc",        "grants", "vendor", "interfaces",
                                        "interfaces-etc", "state",  "run"};
    Fixture *f = calloc(1, sizeof *f);

    REQUIRE(f);
    /* In memory where possible: hundreds of changes must fit into the two seconds that a silent peer has. */
    strcpy(f->directory, access("/dev/shm", W_OK) == 0 ? "/dev/shm/securityd-XXXXXX"
                                                       : "/tmp/securityd-XXXXXX");
    REQUIRE(mkdtemp(f->directory));
    for (size_t i = 0; i < ELEMENTS(names); i++) {
        snprintf(f->paths[i], sizeof f->paths[i], "%s/%s", f->directory, names[i]);
        REQUIRE(mkdir(f->paths[i], 0700) == 0);
    }
    for (size_t i = 0; i < 3; i++)
        f->policy_directories[i] = f->paths[i];
    f->vendor[0] = f->paths[3];
    f->administrator[0] = f->paths[4];
    f->settings = (SecuritySettings){
        .policy_directories = f->policy_directories,
        .grant_directory = f->paths[1],
        .vendor_interfaces = f->vendor,
        .administrator_interfaces = f->administrator,
        .state_directory = f->paths[5],
        .runtime_directory = f->paths[6],
        .bus_directory = (char *)"",
        .bus_group = (char *)"",
        .label_code_file = (char *)"",
    };
    fixture_write(f->paths[2], "50-vendor.policy",
                  "[grant root-all]\nTo = uid:0\nPermission = *\n");
    return f;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

void fixture_free(Fixture *f)
{
    fixture_close(f);
    REQUIRE(nftw(f->directory, remove_one, 8, FTW_DEPTH | FTW_PHYS) == 0);
    free(f);
}

void fixture_open(Fixture *f)
{
    fixture_close(f);
    REQUIRE(security_new(&f->settings, NULL, &f->security) == 0);
}

void fixture_close(Fixture *f)
{
    security_free(f->security);
    f->security = NULL;
}

static void path_of(const char *directory, const char *name, char ret[256])
{
    REQUIRE((size_t)snprintf(ret, 256, "%s/%s", directory, name) < 256);
}

void fixture_write(const char *directory, const char *name, const char *text)
{
    char path[256];
    FILE *file;

    path_of(directory, name, path);
    (void)unlink(path);
    file = fopen(path, "we");
    REQUIRE(file && fputs(text, file) >= 0 && fclose(file) == 0);
    REQUIRE(chmod(path, 0600) == 0);
}

void fixture_remove(const char *directory, const char *name)
{
    char path[256];

    path_of(directory, name, path);
    REQUIRE(unlink(path) == 0);
}

bool fixture_has(const char *directory, const char *name)
{
    struct stat st;
    char path[256];

    path_of(directory, name, path);
    return lstat(path, &st) == 0;
}

char *fixture_read(const char *directory, const char *name, size_t *ret_size)
{
    char path[256], *text;
    struct stat st;
    FILE *file;

    path_of(directory, name, path);
    file = fopen(path, "re");
    REQUIRE(file && fstat(fileno(file), &st) == 0);
    text = calloc(1, (size_t)st.st_size + 1);
    REQUIRE(text && fread(text, 1, (size_t)st.st_size, file) == (size_t)st.st_size);
    fclose(file);
    if (ret_size)
        *ret_size = (size_t)st.st_size;
    return text;
}

bool fixture_allows(Fixture *f, Subject subject, const char *permission)
{
    return policy_judge(f->security->policy, &subject, permission).allowed;
}

const AuditRecord *fixture_record(Fixture *f, const char *verdict)
{
    uint64_t number = UINT64_MAX;
    const AuditRecord *r;

    while ((r = audit_older(f->security->audit, number))) {
        if (streq(r->verdict, verdict))
            return r;
        number = r->number;
    }
    return NULL;
}
