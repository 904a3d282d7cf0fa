#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The resources of the ETSI CoAP plug-test descriptions, as a responder on /plug: what plugtest.py asks."""
import asyncio

import hybridos

app = hybridos.App('plug')
LARGE = b''.join(b'%07d\n' % i for i in range(400))
state = {'version': 1, 'obs': 0, 'made': 0, 'created': False, 'type': 'text/plain', 'gone': False, 'large': LARGE}
tag = lambda: f'"v{state["version"]}"'


async def validate(request):
    """ETag, If-Match, If-None-Match (CORE_21 to 23)."""
    if request.method == 'GET':
        if tag() in request.headers.get('if-none-match', ''):
            return hybridos.Response(None, 304, headers={'etag': tag()})
        return hybridos.Response(f'version {state["version"]}', headers={'etag': tag()})
    wanted = request.headers.get('if-match')
    if wanted and tag() not in wanted:
        return hybridos.Response('another version', 412)
    state['version'] += 1
    return hybridos.Response(None, 204)


async def create1(request):
    if request.headers.get('if-none-match') == '*' and state['created']:
        return hybridos.Response('is there', 412)
    state['created'] = True
    return hybridos.Response(None, 201)


async def large(request):
    if request.method == 'GET':
        return hybridos.Response(state['large'], content_type='text/plain')
    body = await request.read()
    if request.subpath == '/large-create':
        return hybridos.Response(None, 201, headers={'location': '/plug/large-created'})
    state['large'] = body
    return hybridos.Response(None, 204)


async def multi_format(request):
    accept = request.headers.get('accept', 'text/plain')
    if 'application/xml' in accept:
        return hybridos.Response('<xml/>', content_type='application/xml')
    if 'text/plain' in accept:
        return hybridos.Response('text')
    return hybridos.Response('no such format', 406)


async def observed(request):
    if request.method == 'GET':
        if state['gone']:
            return hybridos.Response('gone', 404)
        return hybridos.Response(f'value {state["obs"]}', content_type=state['type'], headers={'cache-control': 'max-age=7'})
    if request.method == 'DELETE':
        state['gone'] = True
        plug.notify_gone('/obs')
        return hybridos.Response(None, 204)
    body = (await request.read()).decode()
    state['obs'] += 1
    state['gone'] = False
    plug.notify(body, path='/obs', content_type=request.headers.get('content-type', 'text/plain'), max_age=7)
    return hybridos.Response(None, 204)


async def observed_large(request):
    if request.method != 'GET':
        state['obs'] += 1
        plug.notify(LARGE + str(state['obs']).encode(), path='/obs-large', content_type='text/plain')
        return hybridos.Response(None, 204)
    return hybridos.Response(LARGE, content_type='text/plain')


async def separate(request):
    await asyncio.sleep(1.5)
    return hybridos.Response('after a while')


async def test(request):
    if request.method == 'GET':
        return hybridos.Response('test')
    await request.read()
    if request.method == 'POST':
        state['made'] += 1
        return hybridos.Response(None, 201, headers={'location': f'/plug/made/{state["made"]}'})
    return hybridos.Response(None, 204)


async def location_query(request):
    return hybridos.Response(None, 201, headers={'location': '/plug/?first=1&second=2'})


async def seen(request):
    return hybridos.Response(f'{request.path}?{request.query} {request.principal}')


PATHS = {'/test': test, '/validate': validate, '/create1': create1, '/large': large, '/large-update': large,
         '/large-create': large, '/multi-format': multi_format, '/obs': observed, '/obs-large': observed_large,
         '/separate': separate, '/location-query': location_query, '/query': seen, '/seg1/seg2/seg3': seen}


@app.endpoint('/plug', title='Plug test')
async def plug(request):
    handler = PATHS.get(request.subpath)
    return await handler(request) if handler else hybridos.Response('nothing there', 404)


@plug.on_state
def told(status, reason):
    print('state', status, reason, flush=True)


app.run()
