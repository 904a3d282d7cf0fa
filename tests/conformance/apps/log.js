// SPDX-License-Identifier: Apache-2.0
'use strict';
// What test_log.py asks for, in JavaScript: log.js CASE; see ../README.md.

const { log } = require('../../../clients/js/hybridos');

function refused(priority, message, fields) {
  try {
    log.send(priority, message, fields);
  } catch {
    console.log('refused');
  }
}

function flood() {
  let dropped = 0;
  for (let i = 0; i < 20000; i++) dropped += !log.send(log.INFO, `${i} ${'0'.repeat(150)}`);
  console.log(dropped);
  process.stdin.once('data', () => {
    log.info('last');
    process.stdin.destroy();
  });
}

const many = (n) => Object.fromEntries(Array.from({ length: n }, (_, i) => [`X${i}`, '']));

log.setIdentifier('tester');
switch (process.argv[2]) {
  case 'plain':
    log.warning('hello');
    break;
  case 'facility':
    log.send((16 << 3) | log.ERR, 'hello');
    break;
  case 'fields':
    log.info('measured', { SENSOR: Buffer.from([0, 255, 10]), PIN: new log.Secret('1234'), ERRNO: 5 });
    break;
  case 'identifier':
    log.info('hello', { IDENTIFIER: 'other' });
    break;
  case 'names':
    for (const name of ['', 'lower', '_X', '1X', 'A B', 'UNIT', 'PEER', 'DROPPED', 'AUDIT', 'A1234567890'.repeat(6)]) {
      refused(log.INFO, 'refused', { [name]: 'x' });
    }
    refused(log.INFO, 'many', many(121));
    refused(192, 'priority', {});
    log.info('many', many(120));
    break;
  case 'levels':
    log.debug('debug');
    log.info('info');
    log.setLevel(log.ERR);
    log.warning('warning');
    log.error('err');
    break;
  case 'flood':
    flood();
    break;
  case 'large':
    log.info('ä'.repeat(35000));
    log.info('ä'.repeat(35000));
    refused(log.INFO, 'x', { BIG: Buffer.alloc(61440) });
    break;
  case 'lines':
    log.error(Buffer.from('one\ntwo\x1b[1m \xc3\xa4\xff', 'latin1'), { A: 'b\n', PIN: new log.Secret('1234') });
    break;
  case 'again':
    process.stdin.on('data', (data) => { for (let i = 0; i < data.length; i++) log.info('again'); });
    break;
}
