# SPDX-License-Identifier: Apache-2.0
"""The parts that need no peer; everything else is in tests/conformance."""
import asyncio
import random
import unittest
from unittest import mock

import hybridos.app
from hybridos import App, Response, wire


class Codec(unittest.TestCase):
    def test_frames_in_any_pieces(self):
        frames = [(wire.PING, 0, 0, 0, 7, b""), (wire.DATA, wire.END, 0, 1, 0, b"x" * 65536),
                  (wire.RESPONSE, 0, 599, 0xffffffff, 3, b"abc")]
        data = b"".join(wire.encode(t, flags=f, code=c, stream=s, value=v, payload=p)
                        for t, f, c, s, v, p in frames)
        for seed in range(20):
            rng, decoder, got, at = random.Random(seed), wire.Decoder(), [], 0
            while at < len(data):
                n = rng.choice([1, 15, 16, 17, 40000])
                got += decoder.feed(data[at:at + n])
                at += n
            self.assertEqual([tuple(f) for f in got], frames)

    def test_too_long(self):
        with self.assertRaises(wire.ProtocolError):
            list(wire.Decoder().feed(b"\x01\x00\x01\x00" + bytes(12)))

    def test_fields(self):
        pairs = [(":path", "/ä"), ("x", ""), ("y", "\udcff")]  # not UTF-8, kept as it was
        self.assertEqual(wire.decode_fields(wire.encode_fields(pairs)), pairs)
        for broken in (b"\x01", b"\x01\x00\x05\x00ab", b"\x00\x00\x01\x00x",
                       wire.encode_fields([("a", "b")] * 129)):
            with self.assertRaises(wire.ProtocolError):
                wire.decode_fields(broken)

    def test_noise_never_breaks_out(self):
        for seed in range(2000):
            rng = random.Random(seed)
            data = bytes(rng.choice([0, 1, 2, 16, 32, rng.randrange(256)]) for _ in range(80))
            try:
                for frame in wire.Decoder().feed(data):
                    wire.decode_fields(frame.payload)
            except wire.ProtocolError:
                pass


class Answers(unittest.TestCase):
    def test_kinds(self):
        self.assertEqual(Response("x").body, b"x")
        self.assertEqual(Response({"a": 1}).body, b'{"a":1}')
        with self.assertRaises(TypeError):
            Response(object())
        with self.assertRaises(ValueError):
            Response("", 101)

    def test_headers_cannot_be_split(self):
        for headers in ({"a b": "c"}, {"a": "b\r\nset-cookie: x"}, {"": "x"}, {"a": "\0"}, {":a": "x"}):
            with self.assertRaises(ValueError):
                Response("", headers=headers)

    def test_namespaces(self):
        app = App("test", registrar="/nonexistent")
        for bad in ("", "/", "a", "/a/", "/a//b", "/..", "/a/.", "/a b", "/" + "a" * 255, "/a\n"):
            with self.assertRaises(ValueError):
                app.endpoint(bad)
        app.endpoint("/a/.b/~c-d_")


class Limits(unittest.TestCase):
    """What the registrar or a server would end the connection for is the caller's error."""

    def setUp(self):
        self.app = App("test", registrar="/nonexistent")

    async def handler(self, request):
        return ""

    def test_registrations(self):
        for options in ({"rules": ["GET / a"] * 33}, {"rules": ["x" * 1025]}, {"title": "x" * 257},
                        {"title": "ä" * 129}):
            with self.assertRaises(ValueError):
                self.app.endpoint("/a", **options)(self.handler)
        self.app.endpoint("/a", rules=["GET / a"] * 32, title="x" * 256)(self.handler)

    def test_values(self):
        endpoint = self.app.endpoint("/a")(self.handler)
        self.assertFalse(endpoint.notify(b"x" * 61440))  # nobody to send it to, but it could be
        for arguments in ({"path": "/" + "\U0001f600" * 2000}, {"content_type": "a" * 8000}):
            with self.assertRaises(ValueError):
                endpoint.notify(b"x" * 61440, **arguments)
        for body in (b"x" * 61441, iter([])):
            with self.assertRaises((ValueError, TypeError)):
                endpoint.notify(body)


class Serving(unittest.IsolatedAsyncioTestCase):
    async def test_again_after_a_stop(self):
        """The five seconds of a stop are not those of the next life."""
        app = App("test", registrar="/nonexistent")
        loop = asyncio.get_running_loop()
        with mock.patch.object(hybridos.app, "STOP_SECONDS", 0.05):
            for _ in range(2):
                serving = loop.create_task(app.serve())
                await asyncio.sleep(0)
                app.stop()
                await serving
            serving = loop.create_task(app.serve())
            done, _ = await asyncio.wait([serving], timeout=0.2)
        self.assertFalse(done)
        app.stop()
        await serving


if __name__ == "__main__":
    unittest.main()
