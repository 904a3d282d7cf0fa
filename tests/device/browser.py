# SPDX-License-Identifier: Apache-2.0
"""Headless Chromium inside the device, driven by the DevTools protocol over a pipe."""
import base64
import contextlib
import json
import os
import select
import subprocess
import time

DEADLINE = 60


class Browser:
    """One page. `problems` are errors in its console: scripts, requests, and what the content security policy blocked."""

    def __init__(self, device):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()
        # The protocol speaks on descriptors 3 and 4.
        words = device.command(['bash', '-c', f'export HOME=/tmp/browser; exec "$@" 3<&{theirs_in} 4>&{theirs_out}', 'bash', 'chromium-headless-shell',
                                '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--remote-debugging-pipe',
                                '--ignore-certificate-errors', '--user-data-dir=/tmp/browser', 'about:blank'])
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
                                        stderr=subprocess.DEVNULL, pass_fds=[theirs_in, theirs_out])
        os.close(theirs_in), os.close(theirs_out)
        self.pipe_in, self.pipe_out, self.buffer = ours_in, ours_out, b''
        self.number, self.problems, self.events, self.session = 0, [], [], None
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        for domain in ('Page', 'Runtime', 'Log', 'Network'):
            self.call(f'{domain}.enable')

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self.pipe_out)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        os.close(self.pipe_in)

    def _receive(self, deadline):
        while b'\0' not in self.buffer:
            ready, _, _ = select.select([self.pipe_in], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self.pipe_in, 1 << 20) if ready else b''
            assert ready, 'the browser did not answer'
            assert data, 'the browser has ended'
            self.buffer += data
        line, self.buffer = self.buffer.split(b'\0', 1)
        message = json.loads(line)
        if 'method' in message:
            self._note(message['method'], message['params'])
        return message

    def _note(self, method, params):
        self.events.append((method, params))
        if method == 'Runtime.exceptionThrown':
            details = params['exceptionDetails']
            self.problems.append(details.get('exception', {}).get('description') or details['text'])
        elif method == 'Runtime.consoleAPICalled' and params['type'] in ('error', 'warning', 'assert'):
            self.problems.append(' '.join(str(a.get('value')) for a in params['args']))
        elif method == 'Log.entryAdded' and params['entry']['level'] in ('error', 'warning'):
            self.problems.append(f'{params["entry"]["text"]} {params["entry"].get("url", "")}')

    def call(self, method, **params):
        self.number += 1
        message = {'id': self.number, 'method': method, 'params': params}
        if self.session:
            message['sessionId'] = self.session
        os.write(self.pipe_out, json.dumps(message).encode() + b'\0')
        deadline = time.monotonic() + DEADLINE
        while (answer := self._receive(deadline)).get('id') != self.number:
            pass
        assert 'error' not in answer, f'{method}: {answer}'
        return answer['result']

    def event(self, method):
        deadline = time.monotonic() + DEADLINE
        while True:
            for i, (name, params) in enumerate(self.events):
                if name == method:
                    del self.events[:i + 1]
                    return params
            self._receive(deadline)

    def open(self, url, width=1000, height=800, phone=False, dark=False):
        self.problems, self.events = [], []
        self.call('Emulation.setDeviceMetricsOverride', width=width, height=height, deviceScaleFactor=2 if phone else 1,
                  mobile=phone)
        self.call('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': 'dark' if dark else 'light'}])
        self.call('Page.navigate', url=url)
        self.event('Page.loadEventFired')

    def evaluate(self, expression):
        result = self.call('Runtime.evaluate', expression=expression, returnByValue=True, awaitPromise=True)
        assert 'exceptionDetails' not in result, f'{expression}: {result}'
        return result['result'].get('value')

    def until(self, expression):
        """Waits for something true in the page."""
        deadline = time.monotonic() + DEADLINE
        while not self.evaluate(f'Boolean({expression})'):
            assert time.monotonic() < deadline, f'{expression} never came true'
            time.sleep(0.05)

    def screenshot(self, path, whole=True):
        image = self.call('Page.captureScreenshot', format='png', captureBeyondViewport=whole)['data']
        with open(path, 'wb') as f:
            f.write(base64.b64decode(image))
