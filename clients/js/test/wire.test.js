// SPDX-License-Identifier: Apache-2.0
'use strict';
// The parts that need no peer; everything else is in tests/conformance.

const assert = require('node:assert/strict');
const test = require('node:test');
const wire = require('../hybridos/wire.js');
const { App, Response } = require('../hybridos');

test('frames in any pieces', () => {
  const frames = [
    [wire.PING, { value: 7 }, Buffer.alloc(0)],
    [wire.DATA, { flags: wire.END, stream: 1 }, Buffer.alloc(65536, 'x')],
    [wire.RESPONSE, { code: 599, stream: 0xffffffff, value: 3 }, Buffer.from('abc')],
  ];
  const data = Buffer.concat(frames.map((f) => wire.encode(...f)));
  for (const step of [1, 15, 16, 17, 40000, data.length]) {
    const decoder = new wire.Decoder();
    const got = [];
    for (let at = 0; at < data.length; at += step) got.push(...decoder.feed(data.subarray(at, at + step)));
    assert.equal(got.length, 3);
    got.forEach((f, i) => {
      assert.equal(f.type, frames[i][0]);
      assert.equal(f.stream, frames[i][1].stream ?? 0);
      assert.equal(f.value, frames[i][1].value ?? 0);
      assert.equal(f.code, frames[i][1].code ?? 0);
      assert.deepEqual(Buffer.from(f.payload), frames[i][2]);
    });
    if (step === 1) assert.equal(got[0].flags, 0);
  }
});

test('a frame too long', () => {
  const header = Buffer.alloc(16);
  header.writeUInt32LE(65537);
  assert.throws(() => [...new wire.Decoder().feed(header)], wire.ProtocolError);
});

test('fields', () => {
  const pairs = [[':path', '/ä'], ['x', '']];
  assert.deepEqual(wire.decodeFields(wire.encodeFields(pairs)), pairs);
  for (const broken of [Buffer.from([1]), Buffer.from('\x01\0\x05\0ab'), Buffer.from('\0\0\x01\0x'),
    wire.encodeFields(Array(129).fill(['a', 'b']))]) {
    assert.throws(() => wire.decodeFields(broken), wire.ProtocolError);
  }
});

test('kinds of answers', () => {
  assert.equal(new Response('x').body.toString(), 'x');
  assert.equal(new Response({ a: 1 }).body.toString(), '{"a":1}');
  assert.throws(() => new Response(7), TypeError);
  assert.throws(() => new Response('', { status: 101 }), RangeError);
});

test('headers cannot be split', () => {
  for (const headers of [{ 'a b': 'c' }, { a: 'b\r\nset-cookie: x' }, { '': 'x' }, { a: '\0' }, { ':a': 'x' }]) {
    assert.throws(() => new Response('', { headers }), TypeError);
  }
});

test('namespaces', () => {
  const app = new App('test', { registrar: '/nonexistent' });
  for (const bad of ['', '/', 'a', '/a/', '/a//b', '/..', '/a/.', '/a b', `/${'a'.repeat(255)}`, '/a\n']) {
    assert.throws(() => app.endpoint(bad, () => ''), TypeError);
  }
  app.endpoint('/a/.b/~c-d_', () => '');
});

test('what a peer would end the connection for is the caller\'s error', () => {
  const app = new App('test', { registrar: '/nonexistent' });
  for (const options of [{ rules: Array(33).fill('GET / a') }, { rules: ['x'.repeat(1025)] }, { title: 'ä'.repeat(129) }]) {
    assert.throws(() => app.endpoint('/a', () => '', options), RangeError);
  }
  const endpoint = app.endpoint('/a', () => '', { rules: Array(32).fill('GET / a'), title: 'x'.repeat(256) });
  assert.equal(endpoint.notify(Buffer.alloc(61440)), false); // nobody to send it to, but it could be
  assert.throws(() => endpoint.notify(Buffer.alloc(61441)), RangeError);
  assert.throws(() => endpoint.notify(Buffer.alloc(61440), { path: `/${'€'.repeat(2000)}` }), RangeError);
  assert.throws(() => endpoint.notify(Buffer.alloc(61440), { contentType: 'a'.repeat(8000) }), RangeError);
});
