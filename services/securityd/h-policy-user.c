/* SPDX-License-Identifier: Apache-2.0 */
/* h-policy user and h-policy session. */

#include <ctype.h>
#include <termios.h>

#include "h-policy.h"

#define PASSWORD_SIZE 258 /* 256 bytes and the end of the line */

/* --- passwords: from the terminal or standard input, never an argument ------------------------ */

/* false: nothing there. What does not fit is no password. */
static bool read_line(char password[PASSWORD_SIZE])
{
    size_t n;
    int c;

    if (!fgets(password, PASSWORD_SIZE, stdin)) {
        *password = '\0';
        return false;
    }
    n = strlen(password);
    if (n > 0 && password[n - 1] != '\n' && !feof(stdin))
        while ((c = getchar()) != EOF && c != '\n')
            ;
    password[strcspn(password, "\r\n")] = '\0';
    return true;
}

static bool prompt(const char *text, char password[PASSWORD_SIZE])
{
    struct termios old, silent;
    bool terminal = tcgetattr(STDIN_FILENO, &old) == 0, read;

    fprintf(stderr, "%s: ", text);
    if (terminal) {
        silent = old;
        silent.c_lflag &= ~(tcflag_t)ECHO;
        silent.c_lflag |= ECHONL;
        (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &silent);
    }
    read = read_line(password);
    if (terminal)
        (void)tcsetattr(STDIN_FILENO, TCSAFLUSH, &old);
    return read;
}

/* "": none was given. */
static int read_password(const char *what, char password[PASSWORD_SIZE])
{
    char again[PASSWORD_SIZE];
    bool same;

    setvbuf(stdin, NULL, _IONBF, 0); /* no copy of it in a buffer */
    if (!isatty(STDIN_FILENO)) {
        (void)read_line(password);
        return 0;
    }
    if (!prompt("Password (empty: none)", password) || !*password)
        return 0;
    same = prompt("Once more", again) && streq(password, again);
    explicit_bzero(again, sizeof again);
    return same ? 0 : complain(what, -EINVAL, "the two are not the same");
}

static int send_password(const char *what, json_t *question, const char *password)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    int r;

    if (question && *password)
        json_object_set_new(question, "secret", json_string(password));
    r = ask(what, question, &answer);
    return r < 0 ? r : answered(what, answer);
}

int verb_user_add(const Options *o, char **words, int n)
{
    json_t *q = json_pack("{sI ss ss}", "id", (json_int_t)1, "op", "user-add", "name", words[0]);
    char password[PASSWORD_SIZE] = "";
    int r = read_password("user add", password);

    if (r < 0) {
        json_decref(q);
        return r;
    }
    if (q && o->roles)
        json_object_set_new(q, "roles", list_of_roles(o->roles));
    r = send_password("user add", q, password);
    if (r >= 0 && !*password && !o->json)
        fprintf(stderr, "Without a password: give it a token (h-policy token add --user %s NAME) or "
                        "a password (h-policy user password %s)\n",
                words[0], words[0]);
    explicit_bzero(password, sizeof password);
    return r;
}

int verb_user_password(const Options *o, char **words, int n)
{
    char password[PASSWORD_SIZE] = "";
    int r = read_password("user password", password);

    if (r >= 0 && !*password)
        return complain("user password", -EINVAL, "no password was given");
    if (r >= 0)
        r = send_password("user password",
                          json_pack("{sI ss ss}", "id", (json_int_t)1, "op", "user-password", "name",
                                    words[0]),
                          password);
    explicit_bzero(password, sizeof password);
    return r;
}

/* --- the rest goes over the bus --------------------------------------------------------------- */

int verb_user_roles(const Options *o, char **words, int n)
{
    _cleanup_(sd_bus_flush_close_unrefp) sd_bus *bus = NULL;
    _cleanup_(sd_bus_message_unrefp) sd_bus_message *m = NULL;
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    int r = open_bus(&bus);

    if (r < 0)
        return r;
    r = sd_bus_message_new_method_call(bus, &m, SECURITY, SECURITY_PATH, SECURITY, "SetUserRoles");
    if (r >= 0)
        r = sd_bus_message_append(m, "s", words[0]);
    if (r >= 0)
        r = sd_bus_message_append_strv(m, words + 1);
    return r < 0 ? complain("user roles", r, NULL) : call_message(bus, m, "user roles", &answer);
}

int verb_user_remove(const Options *o, char **words, int n)
{
    return call("RemoveUser", NULL, "s", words[0]);
}

int verb_user_list(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    const json_t *user, *role;
    size_t i, k;
    int r = call("ListUsers", &answer, "");

    if (r < 0)
        return r;
    if (o->json)
        return print_json(json_array_get(answer, 0));
    json_array_foreach(json_array_get(answer, 0), i, user)
    {
        printf("%-24s since ", text_of(json_array_get(user, 0)));
        put_time(json_array_get(user, 1), "an unknown time");
        printf(json_is_true(json_array_get(user, 3)) ? ", with a password" : ", without a password");
        json_array_foreach(json_array_get(user, 2), k, role)
        {
            printf(k ? " " : ", roles ");
            put(stdout, text_of(role));
        }
        putchar('\n');
    }
    return 0;
}

int verb_session_list(const Options *o, char **words, int n)
{
    _cleanup_(hybus_json_decrefp) json_t *answer = NULL;
    const json_t *session;
    size_t i;
    int r = call("ListSessions", &answer, "");

    if (r < 0)
        return r;
    if (o->json)
        return print_json(json_array_get(answer, 0));
    json_array_foreach(json_array_get(answer, 0), i, session)
    {
        printf("%-6llu user:%-20s ", (unsigned long long)number_of(json_array_get(session, 0)),
               text_of(json_array_get(session, 1)));
        put(stdout, text_of(json_array_get(session, 2)));
        printf(" from ");
        put(stdout, text_of(json_array_get(session, 3)));
        printf(", since ");
        put_time(json_array_get(session, 4), "-");
        printf(", last used ");
        put_time(json_array_get(session, 5), "-");
        putchar('\n');
    }
    return 0;
}

int verb_session_remove(const Options *o, char **words, int n)
{
    char *end;
    unsigned long long id;

    errno = 0;
    id = strtoull(words[0], &end, 10);
    if (!isdigit((unsigned char)*words[0]) || *end || errno)
        return complain("session remove", -EINVAL, "the number that session list shows");
    return call("RemoveSession", NULL, "t", (uint64_t)id);
}
