// SPDX-License-Identifier: Apache-2.0
// A constrained node with node-coap: node.js NAME HOST PORT. Registers in the server's resource directory from the socket
// on which it answers; each line on standard input is the meter's next value, its end the node's.
'use strict';
const coap = require('coap');
const dgram = require('dgram');
const readline = require('readline');

const [name, host, port] = process.argv.slice(2);
const watching = new Set();
let value = '0';

function answer(request, response) {
  const path = request.url.split('?')[0];
  if (path !== '/meter') {
    response.code = '4.04';
    response.end();
    return;
  }
  if (request.method === 'POST') {
    value = request.payload.toString();
    response.code = '2.04';
    response.end();
    return;
  }
  response.setOption('Content-Format', 'text/plain');
  response.setOption('Max-Age', 0);
  if (request.headers.Observe === 0) {
    watching.add(response);
    response.on('finish', () => watching.delete(response));
    response.write(value);
  } else {
    response.end(value);
  }
}

const socket = dgram.createSocket('udp4');
socket.bind(Number(port), '127.0.0.1', () => {
  const server = coap.createServer({ type: 'udp4' }, answer);
  server.listen(socket, () => {
    const agent = new coap.Agent({ type: 'udp4', socket });
    const ask = (method, pathname, query, then) => {
      const request = coap.request({ host, port: 5683, method, pathname, query, agent, confirmable: true });
      request.setOption('Content-Format', 40);
      request.on('response', then);
      request.end(method === 'POST' ? '</meter>;rt="meter";obs' : undefined);
    };
    ask('POST', '/rd', `ep=${name}&lt=3600`, response => {
      console.log(response.code === '2.01' ? 'registered' : `refused ${response.code} ${response.payload}`);
      const location = '/' + response.options.filter(o => o.name === 'Location-Path').map(o => o.value.toString()).join('/');
      const lines = readline.createInterface({ input: process.stdin });
      lines.on('line', line => {
        value = line;
        for (const response of watching) response.write(value);
      });
      lines.on('close', () => ask('DELETE', location, undefined, () => process.exit(0)));
    });
  });
});
