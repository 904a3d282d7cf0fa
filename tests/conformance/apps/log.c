/* SPDX-License-Identifier: Apache-2.0 */

/* What test_log.py asks for, in C: log CASE; see ../README.md. */

#include <hybridos-log.h>
#include <stdio.h>
#include <stdlib.h>

static void text(int priority, const char *message)
{
    if (hybridos_log_fields(priority, message, NULL, 0) < 0)
        puts("failed");
}

static void refused(const char *name)
{
    if (hybridos_log_fields(LOG_INFO, "refused", &(hybridos_log_field){name, "x", 1, false}, 1) < 0)
        puts("refused");
}

static void flood(void)
{
    unsigned dropped = 0;

    for (unsigned i = 0; i < 20000; i++) {
        char message[200];
        snprintf(message, sizeof(message), "%u %0150u", i, 0);
        dropped += hybridos_log_fields(LOG_INFO, message, NULL, 0) < 0;
    }
    printf("%u\n", dropped);
    fflush(stdout);
    (void)getchar();
    text(LOG_INFO, "last");
}

static void large(void)
{
    size_t n = 70000;
    char *s = malloc(n + 1);

    for (size_t i = 0; i < n; i += 2)
        memcpy(s + i, "ä", 2);
    s[n] = '\0';
    text(LOG_INFO, s);
    hybridos_log(LOG_INFO, "%s", s);
    if (hybridos_log_fields(LOG_INFO, "x", &(hybridos_log_field){"BIG", s, 61440, false}, 1) < 0)
        puts("refused");
    free(s);
}

int main(int argc, char *argv[])
{
    const char *what = argc > 1 ? argv[1] : "";
    hybridos_log_field many[121];

    hybridos_log_identifier("tester");
    if (strcmp(what, "plain") == 0) {
        text(LOG_WARNING, "hello");
    } else if (strcmp(what, "facility") == 0) {
        text(LOG_LOCAL0 | LOG_ERR, "hello");
    } else if (strcmp(what, "fields") == 0) {
        hybridos_log_fields(LOG_INFO, "measured",
                            (hybridos_log_field[]){{"SENSOR", "\0\377\n", 3, false},
                                                   HYBRIDOS_LOG_SECRET("PIN", "1234"),
                                                   HYBRIDOS_LOG_TEXT("ERRNO", "5")},
                            3);
    } else if (strcmp(what, "identifier") == 0) {
        hybridos_log_fields(LOG_INFO, "hello",
                            &(hybridos_log_field)HYBRIDOS_LOG_TEXT("IDENTIFIER", "other"), 1);
    } else if (strcmp(what, "names") == 0) {
        static const char *const names[] = {
            "", "lower", "_X", "1X", "A B", "UNIT", "PEER", "DROPPED", "AUDIT",
            "A1234567890123456789012345678901234567890123456789012345678901234"};
        for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
            refused(names[i]);
        for (size_t i = 0; i < 121; i++)
            many[i] = (hybridos_log_field){"X", "", 0, false};
        if (hybridos_log_fields(LOG_INFO, "many", many, 121) < 0)
            puts("refused");
        if (hybridos_log_fields(192, "priority", NULL, 0) < 0)
            puts("refused");
        hybridos_log_fields(LOG_INFO, "many", many, 120);
    } else if (strcmp(what, "levels") == 0) {
        text(LOG_DEBUG, "debug");
        text(LOG_INFO, "info");
        hybridos_log_level(LOG_ERR);
        text(LOG_WARNING, "warning");
        text(LOG_ERR, "err");
    } else if (strcmp(what, "flood") == 0) {
        flood();
    } else if (strcmp(what, "large") == 0) {
        large();
    } else if (strcmp(what, "lines") == 0) {
        hybridos_log_fields(LOG_ERR, "one\ntwo\033[1m \303\244\377",
                            (hybridos_log_field[]){HYBRIDOS_LOG_TEXT("A", "b\n"),
                                                   HYBRIDOS_LOG_SECRET("PIN", "1234")},
                            2);
    } else if (strcmp(what, "again") == 0) {
        while (getchar() != EOF)
            text(LOG_INFO, "again");
    }
    return 0;
}
