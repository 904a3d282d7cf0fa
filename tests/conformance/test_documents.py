# SPDX-License-Identifier: Apache-2.0
"""The programs that the documentation shows a beginner are run as they stand there."""
import os
import re
import shlex
import subprocess
import sys

import pytest

from conftest import ROOT, World

BUILD = os.environ.get("HYBRIDOS_BUILD", os.path.join(ROOT, "build"))


def snippet(document, language):
    text = open(os.path.join(ROOT, document), encoding="utf-8").read()
    return re.search(rf"```{language}\n(.*?)```", text, re.S)[1]


def c(folder, text):
    source, program = os.path.join(folder, "hello.c"), os.path.join(folder, "hello")
    open(source, "w").write(text)
    env = dict(os.environ, PKG_CONFIG_PATH=os.path.join(BUILD, "meson-uninstalled"))
    flags = subprocess.run(["pkg-config", "--cflags", "--libs", "libhybridos"], env=env, check=True,
                           capture_output=True, text=True).stdout
    subprocess.run(["cc", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", source, *shlex.split(flags),
                    "-o", program], check=True)
    return ["env", f"LD_LIBRARY_PATH={os.path.join(BUILD, 'clients/libhybridos')}", program]


def python(folder, text):
    open(os.path.join(folder, "hello.py"), "w").write(text)
    return [sys.executable, os.path.join(folder, "hello.py")]


def js(folder, text):
    open(os.path.join(folder, "hello.js"), "w").write(text)
    return ["env", f"NODE_PATH={os.path.join(ROOT, 'clients/js')}", os.environ.get("NODE", "node"),
            os.path.join(folder, "hello.js")]


@pytest.mark.parametrize("document, language, build", [
    ("docs/first-responder.md", "python", python),
    ("docs/first-responder.md", "c", c),
    ("clients/python/README.md", "python", python),
    ("clients/js/README.md", "js", js),
    ("clients/libhybridos/hybridos.h", None, c),
])
def test_first_program(document, language, build, tmp_path):
    if language:
        text = snippet(document, language)
    else:  # the comment at the top of the header, which leaves the include out
        header = open(os.path.join(ROOT, document), encoding="utf-8").read()
        text = "#include <hybridos.h>\n" + "\n".join(
            line[7:] for line in header.split("/*")[2].split("*/")[0].splitlines() if line.startswith(" *     "))
    world = World(build(str(tmp_path), text))
    world.namespace = "/hello"
    try:
        world.start()
        world.accept_registrar()
        world.name_server()
        world.admit(world.registers(1))
        server = world.accept_server(attach=False)
        server.attach("/hello")
        answer = server.get("/")
        assert answer.status == 200
        assert answer.body in (b"hello\n", b"hello user:alice\n")
    finally:
        world.end()


def test_all_packages_have_one_version():
    versions = {p: re.search(pattern, open(os.path.join(ROOT, p), encoding="utf-8").read())[1] for p, pattern in (
        ("meson.build", r"version: '([^']+)'"), ("clients/python/pyproject.toml", r'version = "([^"]+)"'),
        ("clients/js/hybridos/package.json", r'"version": "([^"]+)"'))}
    assert len(set(versions.values())) == 1, versions


def test_little_to_read_before_the_first_program():
    """Of each SDK: its page and the guide, and for C the whole header."""
    def lines(*paths):
        return sum(len(open(os.path.join(ROOT, p), encoding="utf-8").readlines()) for p in paths)
    assert lines("docs/first-responder.md", "clients/python/README.md") < 200
    assert lines("docs/first-responder.md", "clients/js/README.md") < 200
    assert lines("docs/first-responder.md", "docs/sdk-c.md") < 200
    assert lines("clients/libhybridos/hybridos.h") < 200
