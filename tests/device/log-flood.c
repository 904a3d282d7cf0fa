/* SPDX-License-Identifier: Apache-2.0 */

/* Logs as a daemon does, much faster than anybody takes it in: "log-flood N", then a line on standard input for each record
 * more. */

#include <hybus/log.h>

int main(int argc, char *argv[])
{
    unsigned n = argc > 1 ? (unsigned)atoi(argv[1]) : 0;

    hybus_log_open("log-flood");
    for (unsigned i = 0; i < n; i++)
        hybus_info("flooding %u", i);
    puts("done");
    fflush(stdout);
    for (int c = getchar(); c != EOF; c = getchar())
        if (c == '\n')
            hybus_info("one more");
    return 0;
}
