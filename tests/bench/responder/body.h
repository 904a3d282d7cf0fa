/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/* What every responder of this benchmark answers: 200 bytes, so that no side has less to send. */
#define BODY_TYPE "application/json"
#define BODY_SIZE 200
static const char body[BODY_SIZE + 1] =
    "{\"temperature\": 21.375, \"unit\": \"celsius\", \"sensor\": \"28-0316a2795bff\", \"place\": \"cold "
    "store, door side\", \"battery\": 0.93, \"sequence\": 184467, \"note\": \"the quick brown fox jumps "
    "over 13 dogs\"}\n      ";
