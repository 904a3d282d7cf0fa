/* SPDX-License-Identifier: Apache-2.0 */
/* The responder over the channel: the C SDK as an app would use it. */
#include <hybridos.h>

#include "body.h"

static void answer(hybridos_request *r, void *userdata)
{
    (void)userdata;
    hybridos_reply(r, 200, BODY_TYPE, body, BODY_SIZE);
}

int main(int argc, char *argv[])
{
    hybridos_app *app;
    int r;

    if (hybridos_app_new("bench", NULL, &app) < 0)
        return 1;
    r = hybridos_register(app, argc > 1 ? argv[1] : "/bench", answer, NULL, NULL);
    if (r >= 0)
        r = hybridos_run(app);
    hybridos_app_free(app);
    return r < 0;
}
