# SPDX-License-Identifier: Apache-2.0
"""A developer's program in the device: a uid, a sandbox and a grant of its own, for as long as it runs."""
import contextlib
import json
import pathlib
import re
import shutil
import subprocess

import interrupt
from problem import Problem

UIDS = range(60700, 61100)
SANDBOX = {
    'Type': 'exec', 'SupplementaryGroups': 'hybridos', 'PrivateNetwork': 'yes', 'IPAddressDeny': 'any',
    'RestrictAddressFamilies': 'AF_UNIX', 'PrivateTmp': 'yes', 'PrivateDevices': 'yes',
    'ProtectSystem': 'strict', 'ProtectHome': 'yes', 'ProtectProc': 'invisible', 'ProtectClock': 'yes',
    'ProtectKernelTunables': 'yes', 'ProtectKernelModules': 'yes', 'ProtectKernelLogs': 'yes',
    'ProtectControlGroups': 'yes', 'ProtectHostname': 'yes', 'NoNewPrivileges': 'yes',
    'CapabilityBoundingSet': '', 'RestrictNamespaces': 'yes', 'RestrictSUIDSGID': 'yes',
    'LockPersonality': 'yes', 'SystemCallArchitectures': 'native', 'SystemCallFilter': '@system-service',
    'MemoryMax': '128M', 'TasksMax': '64', 'CPUQuota': '100%', 'UMask': '0077',
}


class App:
    def __init__(self, device, endpoint, say):
        if not re.fullmatch(r'(/[A-Za-z0-9._~-]+)+', endpoint):
            raise Problem(f'{endpoint} is no endpoint: it looks like /name, with segments of [A-Za-z0-9._~-]')
        self.device, self.endpoint, self.say = device, endpoint, say
        self.rules, self.seen = [], set()

    def _do(self, *command):
        done = self.device.run(*command)
        if done.returncode:
            words = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise Problem(f'{command[0]} in the device: {words[-1] if words else done.returncode}')
        return done.stdout

    def _take_uid(self):
        records = self._do('getent', 'passwd').splitlines()
        taken = {int(r.split(':')[2]) for r in records}
        self.uid = next((u for u in UIDS if u not in taken), None)
        if self.uid is None:
            raise Problem('all app uids of the device are in use')
        self.name = f'app-{self.uid}'
        self._do('useradd', '--no-create-home', '--no-user-group', '--gid', 'hybridos', '--home-dir', '/',
                 '--shell', '/usr/sbin/nologin', '--uid', str(self.uid), self.name)

    def _grant(self, what, *words):
        rule = f'{self.name}-{what}'
        self.device.run('h-policy', 'revoke', rule)  # of an app that ended with its device
        self._do('h-policy', 'grant', '--id', rule, *words)
        self.rules.append(rule)

    def _copy(self, command):
        """The program goes into the device, readable and no more; other words stay as they are."""
        source = pathlib.Path(command[0])
        if not source.is_file():
            return command
        folder = pathlib.Path(f'/proc/{self.device.init}/root/run/hybridos-apps/{self.name}')
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / source.name
        shutil.copyfile(source, target)
        target.chmod(0o555)
        return [f'/run/hybridos-apps/{self.name}/{source.name}', *command[1:]]

    def run(self, command):
        with interrupt.held():
            self._take_uid()
        process = None
        try:
            with interrupt.held():
                words = self._copy(command)
                self._grant('register', f'unix:{self.name}', 'endpoint.register',
                            f'endpoint.register:{self.endpoint}')
                if self.device.state().get('development'):
                    below = [f'endpoint.{verb}:{self.endpoint}{rest}'
                             for verb in ('read', 'write') for rest in ('', '/*')]
                    self._grant('try', 'anonymous', *below)
                properties = [f'--property={k}={v}' for k, v in SANDBOX.items()]
                process = self.device.popen(
                    'systemd-run', '--quiet', '--wait', '--pipe', '--collect', f'--unit={self.name}',
                    f'--uid={self.name}', '--gid=hybridos', *properties,
                    f'--setenv=HYBRIDOS_ENDPOINT={self.endpoint}', '--setenv=PYTHONUNBUFFERED=1', '--', *words,
                    stdin=subprocess.DEVNULL, start_new_session=True)
            self.say(f'{command[0]} runs as {self.name}; try curl -k '
                     f'https://localhost:{self.device.state()["port"]}{self.endpoint}')
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(1)
                self._tell_denials()
                if process.returncode is not None:
                    return process.returncode
        finally:
            with interrupt.held():
                self._remove(process)

    def _tell_denials(self):
        done = self.device.run('busctl', '--json=short', 'call', 'org.hybridos.Security1',
                               '/org/hybridos/Security1', 'org.hybridos.Security1', 'ListAudit', 'a{sv}u',
                               '1', 'subject', 's', f'uid:{self.uid}', '100')
        if done.returncode:
            return
        for record in reversed(json.loads(done.stdout)['data'][0]):
            record = {k: v['data'] for k, v in record.items()}
            audit = record.get('audit') or record.get('id')
            if not audit or audit in self.seen or record.get('verdict', 'denied').startswith('allow'):
                continue
            self.seen.add(audit)
            what = record.get('call') or record.get('permission')
            self.say(f'denied: {what} ({record.get("reason", record.get("rule", ""))}), audit {audit}; '
                     f'why: ./hybridos exec -- h-policy explain {audit}')

    def _remove(self, process):
        if not self.device.running():
            return
        self.device.run('systemctl', 'stop', f'{self.name}.service')
        if process:
            process.terminate()
            process.wait()
        for rule in self.rules:
            self.device.run('h-policy', 'revoke', rule)
        self.device.run('userdel', self.name)
        self.device.run('rm', '-rf', f'/run/hybridos-apps/{self.name}')
