/* SPDX-License-Identifier: Apache-2.0 */
/* h-policy: the administrator's command. Everything goes through org.hybridos.Security1; only what
 * makes a secret (setup, token add, node add) goes over the agent's private socket, since a secret is never a
 * bus argument. */

#include <ctype.h>
#include <getopt.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>

#include <hybus/agent.h>
#include <hybus/error.h>

#include "h-policy.h"

#define DAEMON SBINDIR "/h-securityd"

enum {
    EXIT_USAGE = 2,
    EXIT_NOT_FOUND = 3,
    EXIT_DENIED = 4,
    EXIT_UNAVAILABLE = 5,
};

typedef struct Verb {
    const char *name, *sub; /* sub NULL: none */
    int min, max;           /* words after it; max -1: any number */
    int (*run)(const Options *o, char **words, int n);
    const char *usage, *help;
} Verb;

/* --- talking to h-securityd ------------------------------------------------------------------- */

static int exit_code(int r)
{
    switch (-r) {
    case 0:
        return EXIT_SUCCESS;
    case EINVAL:
        return EXIT_USAGE;
    case ENOENT:
        return EXIT_NOT_FOUND;
    case EACCES:
    case EKEYREJECTED:
        return EXIT_DENIED;
    case ENOKEY:
    case EHOSTUNREACH:
    case ECONNREFUSED:
        return EXIT_UNAVAILABLE;
    default:
        return EXIT_FAILURE;
    }
}

/* Text from outside never moves the cursor. */
void put(FILE *f, const char *s)
{
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;

        if (c < 0x20 || c == 0x7f ||
            (c == 0xc2 && (unsigned char)s[1] >= 0x80 && (unsigned char)s[1] < 0xa0))
            fprintf(f, "\\x%02x", c);
        else
            putc(c, f);
    }
}

int complain(const char *what, int r, const char *message)
{
    fprintf(stderr, "h-policy: %s: ", what);
    put(stderr, message && *message ? message : strerror(-r));
    putc('\n', stderr);
    return r;
}

int open_bus(sd_bus **ret)
{
    int r = sd_bus_open_system(ret);

    return r < 0 ? complain("cannot reach the system bus", r, NULL) : 0;
}

/* The arguments of the answer come as a JSON array. */
int call_message(sd_bus *bus, sd_bus_message *m, const char *method, json_t **ret)
{
    _cleanup_(sd_bus_error_free) sd_bus_error error = SD_BUS_ERROR_NULL;
    _cleanup_(hybus_json_error_done) hybus_json_error bad = {0};
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *reply = NULL;
    int r = sd_bus_call(bus, m, ANSWER_SECONDS * 1000000ull, &error, &reply);

    if (r < 0)
        return complain(method, r, error.message);
    r = hybus_json_read(reply, ret, &bad);
    return r < 0 ? complain(method, r, bad.message) : 0;
}

int call(const char *method, json_t **ret, const char *signature, ...)
{
    _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    va_list arguments;
    int r = open_bus(&bus);

    if (r < 0)
        return r;
    r = sd_bus_message_new_method_call(bus, &m, SECURITY, SECURITY_PATH, SECURITY, method);
    if (r >= 0 && *signature) {
        va_start(arguments, signature);
        r = sd_bus_message_appendv(m, signature, arguments);
        va_end(arguments);
    }
    if (r < 0)
        return complain(method, r, NULL);
    r = call_message(bus, m, method, &answer);
    if (r >= 0 && ret)
        *ret = TAKE_PTR(answer);
    return r;
}

static int connect_agent(void)
{
    const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = HYBUS_AGENT_SOCKET};
    const struct timeval limit = {.tv_sec = ANSWER_SECONDS};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0 ||
        connect(fd, (const struct sockaddr *)&address, sizeof address) < 0) {
        int r = -errno;

        safe_close(fd);
        return r;
    }
    return fd;
}

/* One question over the private socket; buffers that held secrets are wiped. Takes over `question`.
 */
int ask(const char *what, json_t *question, json_t **ret)
{
    static char buffer[HYBUS_AGENT_PACKET_MAX];
    _cleanup_(closep) int fd = connect_agent();
    size_t size;
    ssize_t n;
    int r = 0;

    if (fd < 0) {
        json_decref(question);
        return complain("cannot reach h-securityd (is it running? systemctl status h-securityd)",
                        fd, NULL);
    }
    size = question ? json_dumpb(question, buffer, sizeof buffer, JSON_COMPACT) : 0;
    json_decref(question);
    if (size == 0 || size > sizeof buffer)
        return complain(what, -EINVAL, NULL);
    n = send(fd, buffer, size, MSG_NOSIGNAL);
    explicit_bzero(buffer, sizeof buffer);
    n = n < 0 ? n : recv(fd, buffer, sizeof buffer, 0);
    if (n <= 0)
        r = complain(what, n < 0 ? -errno : -ENOKEY,
                     n < 0 ? NULL : "h-securityd closed the connection");
    else if (!(*ret = json_loadb(buffer, (size_t)n, JSON_REJECT_DUPLICATES, NULL)) ||
             !json_is_object(*ret))
        r = complain(what, -EPROTO, NULL);
    explicit_bzero(buffer, sizeof buffer);
    return r;
}

int answered(const char *what, const json_t *answer)
{
    static const struct {
        const char *name;
        int error;
    } errors[] = {{"AccessDenied", -EACCES}, {"InvalidArgument", -EINVAL}, {"NotFound", -ENOENT},
                  {"Exists", -EEXIST}};
    const char *error = json_string_value(json_object_get(answer, "error"));
    int r = -EIO;

    if (!error)
        return 0;
    for (size_t i = 0; i < ELEMENTS(errors); i++)
        if (streq(errors[i].name, error))
            r = errors[i].error;
    return complain(what, r, json_string_value(json_object_get(answer, "message")));
}

int ask_secret(const char *what, json_t *question, json_t **answer, const char **ret_secret)
{
    int r = ask(what, question, answer);

    if (r >= 0)
        r = answered(what, *answer);
    if (r < 0)
        return r;
    *ret_secret = json_string_value(json_object_get(*answer, "secret"));
    return *ret_secret ? 0 : complain(what, -EPROTO, NULL);
}

static int print_secret(const Options *o, const char *what, json_t *question)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    const char *secret;
    int r = ask_secret(what, question, &answer, &secret);

    if (r < 0)
        return r;
    if (!o->json && isatty(STDERR_FILENO))
        fprintf(stderr, "This token is shown once; only a hash of it is kept:\n");
    if (o->json)
        printf("{\"secret\":\"%s\"}\n", secret);
    else
        printf("%s\n", secret);
    return 0;
}

/* --- showing answers -------------------------------------------------------------------------- */

int print_json(const json_t *value)
{
    _cleanup_(freep) char *text = NULL;
    int r = hybus_json_dump(value, HYBUS_JSON_PRETTY, &text);

    if (r < 0)
        return complain("cannot show the answer", r, NULL);
    puts(text);
    return 0;
}

const char *text_of(const json_t *v)
{
    return strempty(json_string_value(v));
}

/* Times and counters may come as numbers or as decimal strings. */
uint64_t number_of(const json_t *v)
{
    return json_is_string(v) ? strtoull(json_string_value(v), NULL, 10)
                             : (uint64_t)json_integer_value(v);
}

void put_time(const json_t *v, const char *none)
{
    time_t t = (time_t)(number_of(v) / 1000000u);
    struct tm tm;
    char text[32];

    if (t == 0 || !localtime_r(&t, &tm)) {
        printf("%s", none);
        return;
    }
    strftime(text, sizeof text, "%F %T", &tm);
    printf("%s", text);
}

/* A string of an a{sv}; "" if it is not there. */
const char *field(const json_t *record, const char *key)
{
    const json_t *v = json_object_get(record, key);

    return text_of(json_is_object(v) ? json_object_get(v, "value") : v);
}

const json_t *plain(const json_t *variant)
{
    return json_is_object(variant) ? json_object_get(variant, "value") : variant;
}

void print_record(const json_t *record)
{
    const char *key;
    json_t *v;

    json_object_foreach((json_t *)record, key, v)
    {
        const json_t *value = plain(v);

        printf("%-12s ", key);
        if (streq(key, "time"))
            put_time(value, "-");
        else if (json_is_string(value))
            put(stdout, json_string_value(value));
        else
            printf("%" JSON_INTEGER_FORMAT, json_integer_value(value));
        putchar('\n');
    }
}

/* --- verbs ------------------------------------------------------------------------------------ */

static int verb_status(const Options *o, char **words, int n)
{
    _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    const json_t *properties, *names, *name;
    size_t i;
    int r = open_bus(&bus);

    if (r >= 0)
        r = sd_bus_message_new_method_call(bus, &m, SECURITY, SECURITY_PATH,
                                           "org.freedesktop.DBus.Properties", "GetAll");
    if (r >= 0)
        r = sd_bus_message_append(m, "s", SECURITY);
    if (r >= 0)
        r = call_message(bus, m, "status", &answer);
    if (r < 0)
        return r;
    properties = json_array_get(answer, 0);
    if (o->json)
        return print_json(properties);
    printf("claimed      %s\n", json_is_true(plain(json_object_get(properties, "Claimed")))
                                    ? "yes"
                                    : "no: closed until h-policy setup creates an administrator");
    printf("generation   %llu\n",
           (unsigned long long)number_of(plain(json_object_get(properties, "Generation"))));
    names = plain(json_object_get(properties, "Development"));
    printf("development  %s", json_array_size(names) ? "" : "no drop-in in force");
    json_array_foreach((json_t *)names, i, name)
    {
        put(stdout, text_of(name));
        putchar(' ');
    }
    printf("\npolicy       ");
    put(stdout, *field(properties, "PolicyError") ? field(properties, "PolicyError") : "accepted");
    printf("\nbus          ");
    put(stdout, *field(properties, "BusError") ? field(properties, "BusError")
                                               : "obeys the rules for other services");
    putchar('\n');
    return 0;
}

static int verb_check(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    bool allowed;
    int r;

    if (n == 0) {
        execl(DAEMON, "h-securityd", "--check-config", (char *)NULL);
        return complain("cannot run " DAEMON, -errno, NULL);
    }
    if (n != 2)
        return complain("check", -EINVAL, "takes nothing, or SUBJECT PERMISSION");
    r = call("Check", &answer, "ss", words[0], words[1]);
    if (r < 0)
        return r;
    allowed = json_is_true(json_array_get(answer, 0));
    if (o->json)
        r = print_json(answer);
    else {
        printf("%s: rule ", allowed ? "allowed" : "denied");
        put(stdout, text_of(json_array_get(answer, 1)));
        printf(": ");
        put(stdout, text_of(json_array_get(answer, 2)));
        putchar('\n');
    }
    return r < 0 ? r : allowed ? 0 : -EACCES;
}

static int verb_list(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    const json_t *rule;
    size_t i;
    int r = call("ListRules", &answer, "");

    if (r < 0)
        return r;
    if (o->json)
        return print_json(json_array_get(answer, 0));
    json_array_foreach(json_array_get(answer, 0), i, rule)
    {
        printf("[%s ", text_of(json_array_get(rule, 1)));
        put(stdout, text_of(json_array_get(rule, 0)));
        printf("]\n  To         = ");
        put(stdout, text_of(json_array_get(rule, 2)));
        printf("\n  Permission = ");
        put(stdout, text_of(json_array_get(rule, 3)));
        if (*text_of(json_array_get(rule, 4))) {
            printf("\n  When       = ");
            put(stdout, text_of(json_array_get(rule, 4)));
        }
        printf("\n  # ");
        put(stdout, text_of(json_array_get(rule, 5)));
        printf(":%llu\n", (unsigned long long)number_of(json_array_get(rule, 6)));
    }
    return 0;
}

static bool is_subject(const char *word)
{
    static const char *const prefixes[] = {
        "unix:", "uid:", "group:", "gid:", "user:", "token:", "role:", "cert:", "node:"};
    static const char *const whole[] = {"anonymous", "local", "remote", "anyone"};

    for (size_t i = 0; i < ELEMENTS(prefixes); i++)
        if (startswith(word, prefixes[i]))
            return true;
    for (size_t i = 0; i < ELEMENTS(whole); i++)
        if (streq(word, whole[i]))
            return true;
    return false;
}

/* Joins with single spaces; false when `list` is too small. */
static bool add_word(char *list, size_t size, const char *word)
{
    size_t used = strlen(list);

    return (size_t)snprintf(list + used, size - used, "%s%s", used ? " " : "", word) < size - used;
}

/* A grant that does nothing alone must not look like one that does: the rule of polkit's that it needs. */
static void hint_polkit(const char *to, const char *permissions)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    const json_t *action;
    size_t i;

    if (!strstr(to, "uid:") && !strstr(to, "unix:") && !strstr(to, "group:") && !strstr(to, "gid:") &&
        !strstr(to, "local"))
        return;
    if (call("ListPolkitActions", &answer, "s", permissions) < 0 ||
        json_array_size(json_array_get(answer, 0)) == 0)
        return;
    fprintf(stderr, "The services that this is for ask polkit as well; without a rule like this in "
                    "/etc/polkit-1/rules.d/60-hybridos.rules\nthe grant has no effect alone:\n\n"
                    "polkit.addRule(function(action, subject) {\n    if ([");
    json_array_foreach(json_array_get(answer, 0), i, action)
    {
        fprintf(stderr, "%s\"", i ? ", " : "");
        put(stderr, text_of(action));
        fputc('"', stderr);
    }
    fprintf(stderr, "].indexOf(action.id) >= 0 &&\n        subject.user == \"NAME\")\n"
                    "        return polkit.Result.YES;\n});\n\nwith the name of the user for NAME.\n");
}

static int verb_grant(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    static char to[16384], permissions[16384];
    int r;

    for (int i = 0; i < n; i++) {
        bool subject = is_subject(words[i]);

        if (!add_word(subject ? to : permissions, sizeof to, words[i]))
            return complain("grant", -EINVAL, "too many words");
    }
    if (!*to || !*permissions)
        return complain("grant", -EINVAL,
                        "needs at least one subject (user:alice, unix:tom, group:adm, token:ci, "
                        "anonymous, …) and one permission (log.read, endpoint.read:/thermo, …)");
    r = call("Grant", &answer, "ssss", strempty(o->id), to, permissions, strempty(o->when));
    if (r < 0)
        return r;
    if (o->json)
        return print_json(answer);
    printf("granted by rule ");
    put(stdout, text_of(json_array_get(answer, 0)));
    printf(", in force from generation %llu; to undo: h-policy revoke ",
           (unsigned long long)number_of(json_array_get(answer, 1)));
    put(stdout, text_of(json_array_get(answer, 0)));
    putchar('\n');
    hint_polkit(to, permissions);
    return 0;
}

static int verb_revoke(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    int r = call("Revoke", &answer, "s", words[0]);

    if (r < 0)
        return r;
    if (o->json)
        return print_json(answer);
    printf("revoked, from generation %llu\n",
           (unsigned long long)number_of(json_array_get(answer, 0)));
    return 0;
}

static int verb_reload(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    int r = call("Reload", &answer, "");

    if (r < 0)
        return r;
    if (o->json)
        return print_json(answer);
    printf("accepted; generation %llu\n", (unsigned long long)number_of(json_array_get(answer, 0)));
    return 0;
}

static int verb_audit(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    const json_t *record;
    size_t i;
    int r = o->subject
                ? call("ListAudit", &answer, "a{sv}u", 1, "subject", "s", o->subject, o->limit)
                : call("ListAudit", &answer, "a{sv}u", 0, o->limit);

    if (r < 0)
        return r;
    if (o->json)
        return print_json(json_array_get(answer, 0));
    json_array_foreach(json_array_get(answer, 0), i, record)
    {
        put_time(plain(json_object_get(record, "time")), "-");
        for (const char *const *key = (const char *const[]){"audit", "verdict", "subject",
                                                            "permission", "call", "rule", NULL};
             *key; key++)
            if (*field(record, *key)) {
                putchar(' ');
                put(stdout, field(record, *key));
            }
        putchar('\n');
    }
    return 0;
}

json_t *list_of_roles(const char *text)
{
    json_t *list = json_array();

    while (*(text += strspn(text, " ,"))) {
        size_t n = strcspn(text, " ,");

        json_array_append_new(list, json_stringn(text, n));
        text += n;
    }
    return list;
}

static int verb_token_add(const Options *o, char **words, int n)
{
    json_t *q = json_pack("{sI ss ss sI}", "id", (json_int_t)1, "op", "token-add", "name", words[0],
                          "expires", (json_int_t)o->expires);

    if (q && o->user)
        json_object_set_new(q, "user", json_string(o->user));
    if (q && o->roles)
        json_object_set_new(q, "roles", list_of_roles(o->roles));
    return print_secret(o, "token add", q);
}

static int verb_token_remove(const Options *o, char **words, int n)
{
    return call("RemoveToken", NULL, "s", words[0]);
}

static int verb_token_list(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    const json_t *token;
    size_t i;
    int r = call("ListTokens", &answer, "");

    if (r < 0)
        return r;
    if (o->json)
        return print_json(json_array_get(answer, 0));
    json_array_foreach(json_array_get(answer, 0), i, token)
    {
        printf("%-20s %-20s made ", text_of(json_array_get(token, 0)),
               text_of(json_array_get(token, 1)));
        put_time(json_array_get(token, 2), "-");
        printf(", expires ");
        put_time(json_array_get(token, 3), "never");
        printf(", last used ");
        put_time(json_array_get(token, 4), "never");
        putchar('\n');
    }
    return 0;
}

/* The code comes from standard input: arguments can be read by everybody on the device. */
static int verb_setup(const Options *o, char **words, int n)
{
    json_t *q = json_pack("{sI ss ss}", "id", (json_int_t)1, "op", "setup", "user",
                          o->user ? o->user : "admin");
    char code[64];

    if (q && o->code) {
        if (isatty(STDIN_FILENO))
            fprintf(stderr, "Setup code (on the console or the device's label): ");
        if (!fgets(code, sizeof code, stdin)) {
            json_decref(q);
            return complain("setup", -EINVAL, "no code was given");
        }
        code[strcspn(code, "\r\n")] = '\0';
        json_object_set_new(q, "code", json_string(code));
        explicit_bzero(code, sizeof code);
    }
    return print_secret(o, "setup", q);
}

static const Verb verbs[] = {
    {"status", NULL, 0, 0, verb_status, "status",
     "is the device claimed, which policy is in force"},
    {"setup", NULL, 0, 0, verb_setup, "setup [--user NAME] [--code]",
     "create the first administrator; prints its token once"},
    {"check", NULL, 0, 2, verb_check, "check [SUBJECT PERMISSION]",
     "check all policy files, or whether a subject holds a permission"},
    {"list", NULL, 0, 0, verb_list, "list", "all rules in force, with file and line"},
    {"grant", NULL, 2, -1, verb_grant, "grant [--id ID] [--when COND] SUBJECT... PERMISSION...",
     "write a grant and put it in force"},
    {"revoke", NULL, 1, 1, verb_revoke, "revoke ID",
     "take a grant back; calls sent after this has returned are refused"},
    {"reload", NULL, 0, 0, verb_reload, "reload", "read all policy files anew, all or none"},
    {"explain", NULL, 1, 3, verb_explain,
     "explain AUDIT-ID | :CONNECTION | SUBJECT INTERFACE.MEMBER [get|set|signal]",
     "why was this refused, and what would change it"},
    {"simulate", NULL, 1, 1, verb_simulate, "simulate FILE",
     "what a policy file would newly allow and deny, for who is connected and the last day"},
    {"record", NULL, 1, -1, verb_record, "record [--permissive] [--id ID] SUBJECT [-- COMMAND...]",
     "learn what a test run needs, and propose a minimal policy"},
    {"agent", NULL, 0, 0, verb_agent, "agent", "ask the person at this terminal what rules leave to consent"},
    {"consent", "list", 0, 0, verb_consent_list, "consent list", "answers that are kept"},
    {"consent", "forget", 1, 1, verb_consent_forget, "consent forget ID", ""},
    {"audit", NULL, 0, 0, verb_audit, "audit [--subject SUBJECT] [--limit N]",
     "the last refusals and changes, newest first"},
    {"user", "add", 1, 1, verb_user_add, "user add [--role ROLES] NAME",
     "a remote user; its password is read from standard input, none: no login"},
    {"user", "password", 1, 1, verb_user_password, "user password NAME",
     "a new one, from standard input; its sessions end"},
    {"user", "roles", 1, -1, verb_user_roles, "user roles NAME [ROLE...]",
     "instead of those it had"},
    {"user", "list", 0, 0, verb_user_list, "user list", ""},
    {"user", "remove", 1, 1, verb_user_remove, "user remove NAME",
     "with its tokens and sessions, at once"},
    {"session", "list", 0, 0, verb_session_list, "session list", "who has logged in"},
    {"session", "remove", 1, 1, verb_session_remove, "session remove ID",
     "ends it on every server, at once"},
    {"cert", "init", 0, 0, verb_cert_init, "cert init",
     "an authority of the device's own for certificates of clients"},
    {"cert", "issue", 1, 1, verb_cert_issue,
     "cert issue [--user NAME] [--role ROLES] [--expires SECONDS] --out FILE NAME",
     "a key and its certificate: PEM, or PKCS #12 if FILE ends in .p12"},
    {"cert", "list", 0, 0, verb_cert_list, "cert list", ""},
    {"cert", "revoke", 1, 1, verb_cert_revoke, "cert revoke NAME", "cuts what it opened, at once"},
    {"token", "add", 1, 1, verb_token_add,
     "token add [--user NAME] [--role ROLES] [--expires SECONDS] NAME", "prints the token once"},
    {"token", "list", 0, 0, verb_token_list, "token list", ""},
    {"token", "remove", 1, 1, verb_token_remove, "token remove NAME",
     "cuts what it opened, at once"},
    {"node", "add", 1, 1, verb_node_add, "node add NAME",
     "a constrained node; prints its identity and key (PSK) once"},
    {"node", "list", 0, 0, verb_node_list, "node list", ""},
    {"node", "remove", 1, 1, verb_node_remove, "node remove NAME",
     "its key is void and its sessions are cut, at once"},
};

static int help(void)
{
    printf("h-policy [OPTION...] VERB ...\n\nWho may do what on this device, and why.\n\n");
    for (size_t i = 0; i < ELEMENTS(verbs); i++)
        printf("  %s%s%s\n", verbs[i].usage, *verbs[i].help ? "\n        " : "", verbs[i].help);
    printf("\nOptions:\n"
           "  -j --json          answers as JSON\n"
           "     --id ID         of the new rule\n"
           "     --when COND     encrypted, local, remote, protocol=NAME, peer=NETWORK,\n"
           "                     time=HH:MM-HH:MM, days=mon-fri, rate=N/m, arg.NAME=VALUE\n"
           "     --user NAME     setup: the administrator; token add: whom it speaks for\n"
           "     --role ROLES    of the token or user\n"
           "     --expires SECS  of the token; 0: never (default)\n"
           "     --out FILE      cert issue: where to; it must not be there yet\n"
           "     --code          setup: read the setup code from standard input\n"
           "     --permissive    record: everything is granted to the subject as long as it runs\n"
           "     --subject S     audit: of this subject only\n"
           "     --limit N       audit: at most so many, 1 to 1000 (default 50)\n"
           "  -h --help\n"
           "     --version\n\n"
           "Exit status: 0 done or allowed, 1 failed, 2 usage, 3 not found, 4 denied, 5 "
           "h-securityd is\n"
           "away. See h-policy(1).\n");
    return EXIT_SUCCESS;
}

static bool parse_number(const char *text, uint64_t max, uint64_t *ret)
{
    char *end;

    errno = 0;
    *ret = strtoull(text, &end, 10);
    return isdigit((unsigned char)*text) && !*end && !errno && *ret <= max;
}

static const Verb *find_verb(char ***words, int *n)
{
    for (size_t i = 0; i < ELEMENTS(verbs); i++) {
        const Verb *v = &verbs[i];
        int used = v->sub ? 2 : 1;

        if (*n < used || !streq((*words)[0], v->name) || (v->sub && !streq((*words)[1], v->sub)))
            continue;
        *words += used;
        *n -= used;
        return v;
    }
    return NULL;
}

/* 1: go on, 0: help was shown, -EINVAL. */
static int parse_options(int argc, char *argv[], Options *o)
{
    enum { ID = 256, WHEN, USER, ROLE, EXPIRES, CODE, SUBJECT, LIMIT, OUT, PERMISSIVE, VERSION_ };
    static const struct option options[] = {
        {"json", no_argument, NULL, 'j'},          {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, VERSION_},  {"id", required_argument, NULL, ID},
        {"when", required_argument, NULL, WHEN},   {"user", required_argument, NULL, USER},
        {"role", required_argument, NULL, ROLE},   {"expires", required_argument, NULL, EXPIRES},
        {"code", no_argument, NULL, CODE},         {"subject", required_argument, NULL, SUBJECT},
        {"limit", required_argument, NULL, LIMIT}, {"out", required_argument, NULL, OUT},
        {"permissive", no_argument, NULL, PERMISSIVE},
        {0},
    };
    uint64_t limit = 50;
    int c;

    while ((c = getopt_long(argc, argv, "jh", options, NULL)) >= 0)
        switch (c) {
        case 'j':
            o->json = true;
            break;
        case 'h':
            return help();
        case VERSION_:
            puts("h-policy " PROJECT_VERSION);
            return 0;
        case ID:
            o->id = optarg;
            break;
        case WHEN:
            o->when = optarg;
            break;
        case USER:
            o->user = optarg;
            break;
        case ROLE:
            o->roles = optarg;
            break;
        case EXPIRES:
            if (!parse_number(optarg, INT32_MAX, &o->expires))
                return complain("--expires", -EINVAL, "a number of seconds, up to 2147483647");
            break;
        case CODE:
            o->code = true;
            break;
        case OUT:
            o->out = optarg;
            break;
        case PERMISSIVE:
            o->permissive = true;
            break;
        case SUBJECT:
            o->subject = optarg;
            break;
        case LIMIT:
            if (!parse_number(optarg, 1000, &limit) || limit == 0)
                return complain("--limit", -EINVAL, "1 to 1000");
            break;
        default:
            return -EINVAL;
        }
    o->limit = (unsigned)limit;
    return 1;
}

int main(int argc, char *argv[])
{
    Options o = {0};
    char **words;
    const Verb *v;
    int n, r = parse_options(argc, argv, &o);

    if (r <= 0)
        return exit_code(r);
    words = argv + optind;
    n = argc - optind;
    v = find_verb(&words, &n);
    if (!v || n < v->min || (v->max >= 0 && n > v->max)) {
        if (v)
            fprintf(stderr, "h-policy: usage: h-policy %s\n", v->usage);
        else
            fprintf(stderr, "h-policy: %s; see h-policy --help\n",
                    n > 0 ? "there is no such verb" : "a verb is missing");
        return EXIT_USAGE;
    }
    r = hybus_error_register();
    return exit_code(r < 0 ? r : v->run(&o, words, n));
}
