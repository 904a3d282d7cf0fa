#!/usr/bin/env node
// SPDX-License-Identifier: Apache-2.0
'use strict';
// The device's status in JavaScript: JSON or a page by Accept, and an event a second while somebody watches.
//
//   ./hybridos app run --endpoint /examples/status-js -- clients/examples/status.js

const fs = require('node:fs');
const os = require('node:os');
const { App, Response, log } = require('hybridos');

const app = new App('status-js');
const namespace = process.argv[2] ?? '/examples/status-js';

function sample() {
  const disk = fs.statfsSync ? fs.statfsSync('/') : null;
  return {
    hostname: os.hostname(),
    uptime: Math.floor(os.uptime()),
    load: os.loadavg(),
    memory: { total: os.totalmem(), available: os.freemem() },
    ...(disk && { disk: { size: disk.blocks * disk.bsize, free: disk.bavail * disk.bsize } }),
  };
}

const escape = (s) => String(s).replace(/[&<>"']/g, (c) => `&#${c.charCodeAt(0)};`);

function page(status) {
  const rows = Object.entries(status).map(([k, v]) => `<dt>${escape(k)}</dt><dd>${escape(JSON.stringify(v))}</dd>`);
  return '<!DOCTYPE html><html lang=en><meta name=viewport content="width=device-width">'
    + `<title>Status</title><h1>Status</h1><dl>${rows.join('')}</dl></html>`;
}

const status = app.endpoint(namespace, async (request) => {
  if (!['GET', 'HEAD'].includes(request.method)) {
    return new Response('only GET and HEAD\n', { status: 405, headers: { allow: 'GET, HEAD' } });
  }
  if (request.subpath !== '/') return new Response('no such page\n', { status: 404 });
  if (/text\/html/.test(request.headers.accept ?? '')) {
    return new Response(page(sample()), { contentType: 'text/html; charset=utf-8' });
  }
  return sample();
}, { title: 'Status, in JavaScript' });

// One timer, however many watch; none when nobody does.
let timer = null;
const push = () => status.notify(sample(), { maxAge: 2 });
status.onWatch((path, watchers) => {
  if (path !== '/') return;
  if (watchers && !timer) {
    push();
    timer = setInterval(push, 1000);
  } else if (!watchers) {
    clearInterval(timer);
    timer = null;
  }
});

app.run().catch((e) => {
  log.error(e.message);
  process.exitCode = 1;
});
