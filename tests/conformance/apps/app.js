// SPDX-License-Identifier: Apache-2.0
'use strict';
// The conformance app in JavaScript: app.js NAMESPACE [--takeover]; see ../README.md.

const { App, Response } = require('../../../clients/js/hybridos');

const app = new App('conformance', { warn: () => {} });
const namespace = process.argv[2];
const watches = new Map();
let cancelled = 0;
let release;

function pattern(start, size) {
  const data = Buffer.allocUnsafe(size);
  for (let i = 0; i < size; i++) data[i] = (start + i) % 251;
  return data;
}

async function* stream(size) {
  for (let at = 0; at < size; at += 10000) yield pattern(at, Math.min(10000, size - at));
}

const whole = app.endpoint(namespace, async (request) => {
  const [verb, argument] = request.subpath.slice(1).split('/');
  switch (verb) {
    case 'echo':
      return new Response(await request.read(), {
        headers: {
          'X-Method': request.method,
          'x-query': request.query,
          'x-principal': request.principal,
          'x-handle': String(request.handle),
          'x-test': request.headers['x-test'] ?? '',
        },
      });
    case 'status':
      return new Response(null, { status: Number(argument) });
    case 'large':
      return pattern(0, Number(argument));
    case 'stream':
      return stream(Number(argument));
    case 'later':
      await new Promise((resolve) => { release = resolve; });
      return 'later';
    case 'release':
      release();
      return 'released';
    case 'never':
      return new Promise((_, reject) => {
        request.signal.addEventListener('abort', () => {
          cancelled++;
          reject(request.signal.reason);
        });
      });
    case 'cancelled':
      return String(cancelled);
    case 'fail':
      throw Object.assign(new Error('gave up'), { name: 'AbortError' });
    case 'notify':
      whole.notify(await request.read(), { path: '/value', contentType: 'text/plain', id: 'v1', maxAge: 7 });
      return new Response(null, { status: 204 });
    case 'watches':
      return [...watches].sort().map(([path, n]) => `${path} ${n}\n`).join('');
    default:
      return new Response('no such case', { status: 404 });
  }
}, { title: 'conformance', attributes: 'rt="test";ct=50', rules: ['GET /public endpoint.public'], takeover: process.argv.includes('--takeover') });
whole.onWatch((path, watchers) => { watches.set(path, watchers); });
whole.onResume((path, id) => {
  const n = id[0] === 'v' ? Number(id.slice(1)) : 0;
  if (path !== '/value' || n === 3) return undefined;
  const next = n > 0 && n < 3 ? `v${n + 1}` : 'v3';
  return { body: `value ${next}`, id: next, contentType: 'text/plain', missed: !(n > 0 && n <= 3) };
});
whole.onState((status, reason) => { console.log(`state ${status} ${reason}`); });

app.endpoint(`${namespace}-pieces`, async (request) => {
  if (request.subpath === '/hold') await new Promise(() => {});
  let total = 0;
  for await (const piece of request) total += piece.length;
  return String(total);
}, { takeover: process.argv.includes('--takeover') }).onState(() => {}); // its fate is that of the first

app.run().then(() => { console.log('stopped'); });
