# SPDX-License-Identifier: Apache-2.0
"""What a rule of the kind "ask" leaves to a person: who is asked, what an answer is bound to, and that nobody
who cannot be asked says yes."""
import re
import select
import subprocess
import time

import pytest

USER, UID = "asked-about", "60975"
SECURITY = ("org.hybridos.Security1", "/org/hybridos/Security1", "org.hybridos.Security1")
POLICY = "/etc/hybridos/policy.d/77-test-consent.policy"
CALL = ("busctl", "--timeout=120", "call", *SECURITY, "ExplainCall", "ssss")


def call(subject="anonymous"):
    return (*CALL, subject, "org.hybridos.Log1", "Read", "method")


class Agent:
    """h-policy agent, with a person who reads and types."""

    def __init__(self, device, user=None):
        self.process = device.popen("h-policy", "agent", user=user, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                    stderr=subprocess.STDOUT)
        self.text = ""
        self.until("Questions about calls")

    def until(self, words, seconds=60):
        deadline = time.monotonic() + seconds
        while words not in self.text:
            assert time.monotonic() < deadline, (words, self.text)
            ready, _, _ = select.select([self.process.stdout], [], [], 1)
            if ready:
                more = self.process.stdout.read1(4096).decode()
                assert more, (words, self.text)
                self.text += more
        seen, self.text = self.text.split(words, 1)
        return seen

    def question(self):
        return self.until(": ")  # of the prompt's end; the lines before it have none

    def say(self, line):
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def close(self):
        self.process.stdin.close()
        self.process.wait(30)
        self.process.stdout.close()


@pytest.fixture(autouse=True)
def rule(device):
    device.user(USER, UID)
    device.write(POLICY, f"[ask test-consent]\nTo = unix:{USER}\nPermission = security.explain\n")
    device.run("h-policy", "reload", check=True)
    yield
    device.run("rm", "-f", POLICY)
    device.run("h-policy", "reload", check=True)
    for line in device.run("h-policy", "consent", "list", check=True).stdout.splitlines():
        device.run("h-policy", "consent", "forget", line.split()[0], check=True)
    # How often a subject may be asked about is counted in memory.
    device.run("systemctl", "restart", "h-securityd.service", check=True)
    device.wait(lambda: device.run("h-policy", "status").returncode == 0, "h-securityd to be back")


@pytest.fixture
def agent(device):
    a = Agent(device)
    yield a
    a.close()


def start(device, *words):
    return device.popen(*words, user=USER, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                        text=True)


def ends(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out + err


def test_nobody_there_means_no(device):
    done = device.run(*call(), user=USER)
    assert done.returncode != 0 and "nobody is there to be asked" in done.stderr
    audit = re.search(r"h-policy explain ([0-9a-z-]+)", done.stderr)[1]
    text = device.run("h-policy", "explain", audit, check=True).stdout
    assert "test-consent" in text and "h-policy agent" in text


def test_the_person_sees_who_and_what_and_decides_once(device, agent):
    for answer, expected in (("yes", 0), ("no", 1), ("yes", 0)):
        process = start(device, *call())
        text = agent.question()
        assert f"May uid:{UID} call org.hybridos.Security1.ExplainCall of securityd?" in text
        assert '["anonymous","org.hybridos.Log1","Read","method"]' in text
        assert f"uid={UID}" in text and "test-consent" in text
        agent.say(answer)
        code, text = ends(process)
        assert code == expected, text
        assert (answer == "no") == ("declined by the person" in text)
    text = device.run("h-policy", "audit", "--subject", f"uid:{UID}", check=True).stdout
    assert text.count("consented") == 2


def test_an_answer_for_a_time_is_bound_to_the_arguments(device, agent):
    process = start(device, *call())
    agent.question()
    agent.say("yes 600")
    assert ends(process)[0] == 0
    assert device.run(*call(), user=USER).returncode == 0  # not asked again
    process = start(device, *call("uid:0"))
    assert "uid:0" in agent.question()
    agent.say("no 600")
    assert ends(process)[0] != 0
    done = device.run(*call("uid:0"), user=USER)
    assert done.returncode != 0 and "declined" in done.stderr
    kept = device.run("h-policy", "consent", "list", check=True).stdout.splitlines()
    assert len(kept) == 2 and all("seconds left" in line for line in kept)
    # A deny that comes later beats what a person said.
    device.write(POLICY, f"[ask test-consent]\nTo = unix:{USER}\nPermission = security.explain\n"
                         f"[deny test-consent-no]\nTo = unix:{USER}\nPermission = security.explain\n")
    device.run("h-policy", "reload", check=True)
    done = device.run(*call(), user=USER)
    assert done.returncode != 0 and "test-consent-no" in done.stderr


def test_always_outlives_the_daemon_until_it_is_forgotten(device):
    agent = Agent(device)
    process = start(device, *call())
    agent.question()
    agent.say("yes always")
    assert ends(process)[0] == 0
    device.run("systemctl", "restart", "h-securityd.service", check=True)
    agent.process.wait(60)  # it has nobody to answer to
    agent.process.stdout.close()
    agent.process.stdin.close()
    device.wait(lambda: device.run("h-policy", "status").returncode == 0, "h-securityd to be back")
    assert device.run(*call(), user=USER).returncode == 0
    kept = device.run("h-policy", "consent", "list", check=True).stdout
    assert "for always" in kept
    device.run("h-policy", "consent", "forget", kept.split()[0], check=True)
    assert device.run(*call(), user=USER).returncode != 0


def test_an_agent_needs_a_permission_and_never_answers_for_its_own_uid(device):
    done = device.run("h-policy", "agent", user=USER, input="")
    assert done.returncode == 4, done.stdout + done.stderr
    device.run("h-policy", "grant", "--id", "test-consent-agent", f"unix:{USER}", "security.consent", check=True)
    try:
        agent = Agent(device, user=USER)
        try:
            done = device.run(*call(), user=USER)
            assert done.returncode != 0 and "nobody is there to be asked" in done.stderr
            assert "May" not in agent.text
        finally:
            agent.close()
    finally:
        device.run("h-policy", "revoke", "test-consent-agent", check=True)


def test_a_caller_who_leaves_is_no_longer_asked_about(device, agent):
    process = start(device, *call())
    agent.question()
    device.run("pkill", "-u", USER, "busctl", check=True)
    ends(process)
    agent.until("Nobody waits for that any more")
    agent.say("yes 600")  # to nothing
    assert device.run("h-policy", "consent", "list", check=True).stdout == ""
    process = start(device, *call())
    agent.question()  # asked anew
    agent.say("no")
    assert ends(process)[0] != 0


def test_a_flood_asks_little(device, agent):
    """Ten times the same is one question; of different ones, four wait and six in a minute are asked at all."""
    same = [start(device, *call()) for _ in range(10)]
    agent.question()
    others = [start(device, *call(f"uid:{n}")) for n in range(1, 9)]
    device.wait(lambda: sum(p.poll() is not None for p in others) >= 5, "the refusals of what is too much")
    agent.say("yes")
    assert all(ends(p)[0] == 0 for p in same)
    asked = [p for p in others if p.poll() is None]
    assert len(asked) == 3
    for p in asked:
        agent.question()
        agent.say("no")
    for p in others:
        code, text = ends(p)
        assert code != 0 and ("declined" in text if p in asked else "asked too much" in text), text


def test_a_question_cannot_be_forged(device, agent):
    name = None
    for line in device.run("busctl", "--acquired", "--unique", "list", check=True).stdout.splitlines():
        if "h-policy" in line:
            name = line.split()[0]
    assert name
    for user in (USER, "root", "h-logged"):
        done = device.run("busctl", "call", name, "/org/hybridos/ConsentAgent1", "org.hybridos.ConsentAgent1", "Ask",
                          "a{sv}", "0", user=user)
        assert done.returncode != 0 and "denied" in done.stderr.lower(), (user, done.stderr)
