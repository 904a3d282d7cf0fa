/* SPDX-License-Identifier: Apache-2.0 */
/* A responder whose value changes once a second: ticker NAMESPACE. */
#include <hybridos.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "../responder/body.h"

static void answer(hybridos_request *r, void *userdata)
{
    (void)userdata;
    hybridos_reply(r, 200, BODY_TYPE, body, BODY_SIZE);
}

int main(int argc, char *argv[])
{
    hybridos_app *app;
    hybridos_endpoint *e;
    int r = argc == 2 ? hybridos_app_new("ticker", NULL, &app) : -1;

    if (r >= 0)
        r = hybridos_register(app, argv[1], answer, NULL, &e);
    for (time_t last = 0; r >= 0;) {
        char value[BODY_SIZE + 1];
        time_t now = time(NULL);

        (void)poll(&(struct pollfd){.fd = hybridos_fd(app), .events = POLLIN}, 1, 100);
        if (now != last) {
            memcpy(value, body, sizeof(value));
            value[17] = (char)('0' + now % 10);
            (void)hybridos_notify(e, "/", BODY_TYPE, NULL, 2, value, BODY_SIZE);
            last = now;
        }
        r = hybridos_process(app);
    }
    return 1;
}
