// SPDX-License-Identifier: Apache-2.0
// A client with node-coap: ask.js METHOD URL [observe]. Prints the code, then the body; with "observe" each value on a line,
// three of them.
'use strict';
const coap = require('coap');
const [method, url, observe] = process.argv.slice(2);

const request = coap.request({ ...split(url), method, observe: observe === 'observe' });
request.on('response', response => {
  if (observe !== 'observe') {
    console.log(response.code);
    process.stdout.write(response.payload, () => process.exit(0));
    return;
  }
  // Its filter compares Observe options, which it loses when a value comes in blocks.
  response._disableFiltering = true;
  let n = 0;
  response.on('data', data => {
    console.log(data.toString());
    if (++n === 3) process.exit(0);
  });
});
request.end();

function split(text) {
  const u = new URL(text);
  return { host: u.hostname, port: Number(u.port || 5683), pathname: u.pathname, query: u.search.slice(1) };
}
