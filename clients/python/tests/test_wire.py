# SPDX-License-Identifier: Apache-2.0
"""The parts that need no peer; everything else is in tests/conformance."""
import random
import unittest

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


if __name__ == "__main__":
    unittest.main()
