# SPDX-License-Identifier: Apache-2.0
"""A client with aiocoap: ask.py METHOD URL [observe]. Prints the code, then the body; with "observe" three values, each on
a line."""
import asyncio
import sys

import aiocoap

method, url = sys.argv[1:3]


async def main():
    context = await aiocoap.Context.create_client_context()
    message = aiocoap.Message(code=getattr(aiocoap, method), uri=url)
    if sys.argv[3:] == ['observe']:
        message.opt.observe = 0
        request = context.request(message)
        first = await request.response
        print(first.payload.decode().strip(), flush=True)
        n = 1
        async for value in request.observation:
            print(value.payload.decode().strip(), flush=True)
            n += 1
            if n == 3:
                break
    else:
        got = await context.request(message).response
        print(got.code, flush=True)
        sys.stdout.buffer.write(got.payload)
    sys.stdout.flush()


asyncio.run(asyncio.wait_for(main(), 60))
