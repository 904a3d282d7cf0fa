# SPDX-License-Identifier: Apache-2.0
"""A constrained node with aiocoap: node.py NAME SERVER PORT. Registers in the server's resource directory and answers;
each line on standard input is the lamp's next state. Its end ends the node, which unregisters."""
import asyncio
import sys

import aiocoap
import aiocoap.resource as resource
from aiocoap.resourcedirectory.client.register import Registerer

name, server, port = sys.argv[1:]


class Light(resource.ObservableResource):
    rt, if_, ct = 'light', 'core.a', 50
    state = 'off'

    def get_link_description(self):
        return {**super().get_link_description(), 'title': 'Lamp, "red"'}

    async def render_get(self, request):
        print('get', flush=True)
        return aiocoap.Message(payload=f'{{"state":"{self.state}"}}'.encode(), content_format=50, max_age=0)

    async def render_put(self, request):
        self.state = request.payload.decode()
        self.updated_state()
        return aiocoap.Message(code=aiocoap.CHANGED)


class Big(resource.Resource):
    body = bytes(range(256)) * 20

    async def render_get(self, request):
        return aiocoap.Message(payload=self.body, content_format=42, max_age=1)

    async def render_put(self, request):
        Big.body = request.payload
        return aiocoap.Message(code=aiocoap.CHANGED)


async def main():
    site, light = resource.Site(), Light()
    site.add_resource(['.well-known', 'core'], resource.WKCResource(site.get_resources_as_linkheader))
    site.add_resource(['light'], light)
    site.add_resource(['big'], Big())
    context = await aiocoap.Context.create_server_context(site, bind=('127.0.0.1', int(port)))
    registered = Registerer(context, rd=server, lt=3600, registration_parameters={'ep': name, 'et': 'lamp'})
    while registered.state != 'registered':
        await asyncio.sleep(0.05)
    print('registered', flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).decode().strip():
        light.state = line
        light.updated_state()
    await registered.shutdown()
    await context.shutdown()


asyncio.run(main())
