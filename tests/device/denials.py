# SPDX-License-Identifier: Apache-2.0
"""What a program met that it may not do: each refusal by a HybridOS daemon, as h-securityd's audit has it, and what the bus
itself refused, as its log tells."""
import contextlib
import json
import os
import re
import subprocess
import time

SENDER = re.compile(r'^\[system\] Rejected .*? sender="[^"]*" \(uid=(\d+) ')
MEMBER = re.compile(r' interface="([^"]*)" member="([^"]*)" .* destination="([^"]*)"')

KEPT = 512  # of each subject: AUDIT_RECORDS_MAX / AUDIT_SHARE in services/securityd/audit.h


class Denials:
    def __init__(self, device, uid, say):
        self.device, self.uid, self.say = device, uid, say
        self.since, self.seen = time.time_ns() // 1000, set()
        last = device.run('journalctl', '--quiet', '--no-pager', '--lines=1', '--output=json').stdout
        self.cursor = json.loads(last)['__CURSOR'] if last.strip() else None
        self.follower, self.rest = None, b''

    # --- by our daemons ----------------------------------------------------------------------

    def poll(self):
        """To be called every second or so."""
        done = self.device.run('busctl', '--json=short', 'call', 'org.hybridos.Security1', '/org/hybridos/Security1',
                               'org.hybridos.Security1', 'ListAudit', 'a{sv}u', '3', 'subject', 's', f'uid:{self.uid}',
                               'verdict', 's', 'denied', 'since', 't', str(self.since), '1000')
        records = json.loads(done.stdout)['data'][0] if done.returncode == 0 else []  # it may be starting anew
        records = [{k: v['data'] for k, v in record.items()} for record in reversed(records)]
        # What the bus refused (layer 1) is told from its own log, also when nobody knows any more whose it was.
        new = [record for record in records if record['audit'] not in self.seen and record.get('layer') != 1]
        if len(new) >= KEPT:
            self.say('denied: more than is kept; of that the last:')
        for record in new:
            self.seen.add(record['audit'])
            self.since = record['time']
            self._tell_audit(record)

    def _tell_audit(self, record):
        audit = record['audit']
        self.say(f'denied: {record.get("permission") or "no permission"} for {record.get("call")}: {record.get("reason")}. '
                 f'Audit id {audit}, why: {self.device.script} exec -- h-policy explain {audit}')

    # --- by the bus --------------------------------------------------------------------------

    def _words(self, *more):
        # Not --after-cursor: with matches that skips the first one, wherever the cursor stood.
        since = [f'--cursor={self.cursor}'] if self.cursor else ['--boot']
        return ['journalctl', '--quiet', '--no-pager', '--output=json', *since, *more,
                '_SYSTEMD_UNIT=dbus.service', '_SYSTEMD_UNIT=dbus-broker.service']

    def fileno(self):
        """Readable when there is something for read()."""
        if not self.follower:  # ends with its standard input, so also when this process is killed
            self.follower = self.device.popen('sh', '-c', '"$@" & cat > /dev/null; kill $!', 'sh',
                                              *self._words('--follow', '--no-tail'), stdin=subprocess.PIPE,
                                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True)
        return self.follower.stdout.fileno()

    def read(self):
        """False at the end of the journal: the device is going down."""
        data = os.read(self.fileno(), 1 << 20)
        *lines, self.rest = (self.rest + data).split(b'\n')
        for line in lines:
            self._tell(line)
        return bool(data)

    def end(self):
        """Everything that was refused until now has been told when this returns."""
        self.close()
        if self.device.running():
            self.poll()
            self.device.run('journalctl', '--sync')
            for line in self.device.run(*self._words()).stdout.encode().splitlines():
                self._tell(line)

    def close(self):
        if self.follower:
            with contextlib.suppress(BrokenPipeError):
                self.follower.stdin.close()
            self.follower.stdout.close()
            self.follower.wait()
            self.follower, self.rest = None, b''

    def _tell(self, line):
        record = json.loads(line)
        if record['__CURSOR'] == self.cursor:
            return
        self.cursor = record['__CURSOR']
        if 'DBUS_BROKER_MESSAGE_MEMBER' in record:
            self._tell_broker(record)
        elif (sender := SENDER.match(str(record.get('MESSAGE')))) and int(sender[1]) == self.uid:
            if member := MEMBER.search(record['MESSAGE']):
                self._tell_bus(*member.groups())

    def _tell_broker(self, record):
        """dbus-broker names the connection, not the user."""
        sender = record.get('DBUS_BROKER_SENDER_UNIQUE_NAME', '')
        asked = self.device.run('busctl', 'call', 'org.freedesktop.DBus', '/org/freedesktop/DBus',
                                'org.freedesktop.DBus', 'GetConnectionUnixUser', 's', sender)
        if not asked.returncode and asked.stdout.split() != ['u', str(self.uid)]:
            return
        self._tell_bus(*(record.get(f'DBUS_BROKER_MESSAGE_{k}', '') for k in ('INTERFACE', 'MEMBER', 'DESTINATION')),
                       perhaps=' (or of somebody who has gone already)' if asked.returncode else '')

    def _tell_bus(self, interface, member, destination, perhaps=''):
        self.say(f'denied by the bus{perhaps}: {interface}.{member} of {destination}, which keeps apps to HybridOS names; '
                 f'no audit id, why: {self.device.script} exec -- h-policy explain uid:{self.uid} {interface}.{member}')
