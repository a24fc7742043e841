"""Sends a broker whatever comes to mind, by text, meta and binary, in every dialect, and looks whether it minds.

``script/fuzz --seconds 300 --seed 1``: so many seconds, and what to begin with. It says what it did, and ends with
status 1 if a client was not answered in its protocol, if anything was left behind when all clients were gone, if a
probe beside it was harmed, or if memory grew.
"""

from __future__ import annotations

import argparse
import gc
import random
import struct
import sys
import time
import tracemalloc

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.core.broker import Broker
from broker.core.policy import Policy
from broker.memcache.dialect import DIALECTS, Dialect
from broker.memcache.server import MemcacheFactory
from broker.storage.memory import MemoryStore
from tests.memcache.support import NOW, Client

#: Sessions with one broker, and the bytes it may hold more after them than before.
SESSIONS = 200
MOST_HELD = 8 * 1024 * 1024

_KEYS = [
    *(b"a", b"b", b"c", b"a+b", b"a.c", b"/queue/a", b"/topic/t", b"a/open", b"a/close", b"a/close/open", b"a/abort"),
    *(b"a/peek", b"a/any", b"b/any/open", b"a/t=0", b"a/sync"),
]
_ODD_KEYS = [b"\x80", b"/open", b"k" * 251, b"\xff", b"a/t=x", b"%2F", b"a/open/peek", b"/", b"+", b"."]
_NUMBERS = [b"0", b"1", b"5", b"-1", b"300", b"x", b"4294967296", b"18446744073709551616", b"", b"noreply", b"2000000"]
_WORDS = [
    *(b"get", b"gets", b"gat", b"gats", b"set", b"add", b"replace", b"append", b"prepend", b"cas", b"delete", b"touch"),
    *(
        b"incr",
        b"decr",
        b"flush",
        b"flush_all",
        b"flush_expired",
        b"flush_all_expired",
        b"monitor",
        b"confirm",
        b"stats",
    ),
    *(b"dump_stats", b"dump_config", b"status", b"reload", b"version", b"verbosity", b"quit", b"bogus", b"mg", b"ms"),
    *(b"md", b"ma", b"me", b"mn", b"cache_memlimit", b"shutdown", b"GET", b"Set"),
]
_FLAGS = b"v k O1 q c C5 T-1 F9 ME MS b s t f h l N S2 \xff O".split()


class Fuzz:
    """What clients send, from one seed on."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def session(self) -> list[bytes]:
        """What one client sends, in the pieces it comes in."""
        choose = self._random
        if choose.random() < 0.3:
            data = b"".join(self._packet() for _ in range(choose.randrange(8)))
            if choose.random() < 0.3:
                data = self._spoiled(data)
        else:
            data = b"".join(self._line() for _ in range(choose.randrange(12)))
            if choose.random() < 0.3:
                data = self._spoiled(data)
        cuts = sorted(choose.randrange(len(data) + 1) for _ in range(choose.randrange(4)))
        return [data[low:high] for low, high in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def _key(self) -> bytes:
        return self._random.choice(_KEYS if self._random.random() < 0.9 else _ODD_KEYS)

    def _body(self) -> bytes:
        choose = self._random
        return choose.choice(
            [b"", b"x", b"END\r\n", b"get a\r\n", bytes(200), choose.randbytes(choose.randrange(2000))]
        )

    def _line(self) -> bytes:
        choose = self._random
        word = choose.choice(_WORDS)
        if choose.random() < 0.3:
            body = self._body()
            noreply = choose.choice([b"", b"", b" noreply", b" "])
            return b"set %b %d 0 %d%b\r\n%b\r\n" % (self._key(), choose.randrange(2**32), len(body), noreply, body)
        if word in (b"ms", b"add", b"cas", b"append") and choose.random() < 0.8:
            body = self._body()
            flags = b" ".join(choose.choices(_FLAGS, k=choose.randrange(4)))
            head = b"%b %d %b" if word == b"ms" else b"%b 0 0 %d %b"
            return b"%b %b\r\n%b\r\n" % (word, head % (self._key(), len(body), flags), body)
        words = [
            self._key() if choose.random() < 0.5 else choose.choice(_NUMBERS + _FLAGS)
            for _ in range(choose.randrange(5))
        ]
        return b" ".join([word, *words]) + choose.choice([b"\r\n", b"\n", b" \r\n"])

    def _packet(self) -> bytes:
        choose = self._random
        opcode = choose.choice([0x00, 0x01, 0x01, 0x09, 0x0A, 0x0C, 0x0D, 0x11, 0x04, 0x10, choose.randrange(256)])
        extras = bytes(choose.choice([0, 0, 4, 8, 20])) if opcode not in (0x01, 0x11) else bytes(8)
        key, body = self._key(), self._body() if choose.random() < 0.5 else b""
        size = len(extras) + len(key) + len(body)
        cas = choose.choice([0, 0, 0, 1 << 33, choose.randrange(2**64)])
        head = struct.pack(">BBHBBHIIQ", 0x80, opcode, len(key), len(extras), 0, 0, size, choose.randrange(2**32), cas)
        return head + extras + key + body

    def _spoiled(self, data: bytes) -> bytes:
        """The same with a few bytes that are others, missing, or too many."""
        choose, spoiled = self._random, bytearray(data)
        for _ in range(choose.randrange(1, 6)):
            at = choose.randrange(len(spoiled) + 1)
            spoiled[at : at + choose.randrange(3)] = choose.randbytes(choose.randrange(3))
        return bytes(spoiled)


def run(dialect: Dialect, sessions: list[list[bytes]]) -> int:
    """Have clients send these, two at a time; how many bytes were answered. `AssertionError` for what must not be."""
    clock = Clock()
    policy = Policy(max_message_size=1500, max_messages=50, max_open=3)
    broker = Broker(MemoryStore(), clock, policy=policy, wall=lambda: NOW + clock.seconds())
    assert Deferred.fromCoroutine(broker.start()).called
    factory = MemcacheFactory(broker, dialect=dialect)
    answered = 0
    for first, second in zip(sessions[::2], sessions[1::2], strict=False):
        pairs = [(Client(factory), list(first), []), (Client(factory), list(second), [])]  # type: ignore[var-annotated]
        for turn in range(max(len(first), len(second))):
            for client, pieces, answers in pairs:
                if turn < len(pieces) and not client.closed:
                    answers.append(client.send(pieces[turn]))
            clock.advance(1)
        clock.advance(3_000)
        for client, pieces, answers in pairs:
            answer = b"".join([*answers, client.received()])
            check(b"".join(pieces), answer)
            answered += len(answer)
            client.go()
        clock.advance(1)
        probe = Client(MemcacheFactory(broker))
        asked = b"set probe%d 0 0 1\r\nx\r\nget probe%d\r\n"
        assert probe.send(asked % (answered, answered)).endswith(b"x\r\nEND\r\n"), "the probe was not answered"
        probe.go()
        clock.advance(1)
    for name in broker.queues():
        numbers = broker.queue_stats(name)
        assert not numbers.on_loan, f"on loan in {name} after all clients went"
        assert not numbers.waiters, f"somebody waits in {name} after all clients went"
    return answered


def check(sent: bytes, answer: bytes) -> None:
    """That an answer is in the protocol of what was sent."""
    assert b"internal error" not in answer.lower(), f"{sent!r} is answered with an internal error"
    if sent.startswith(b"\x80"):
        while answer:
            magic, size = answer[0], int.from_bytes(answer[8:12], "big")
            assert magic == 0x81, f"{sent!r} is answered with no packet"
            assert len(answer) >= 24 + size, f"{sent!r} is answered with a part of a packet"
            answer = answer[24 + size :]
    else:
        assert answer == b"" or answer.endswith(b"\n"), f"{sent!r} is answered with a part of a line"


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, prog="script/fuzz")
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--seed", type=int, default=0)
    said = parser.parse_args()
    end, rounds, answered, seed = time.monotonic() + said.seconds, 0, 0, said.seed
    tracemalloc.start()
    before = held = 0
    while time.monotonic() < end:
        dialect = list(DIALECTS.values())[rounds % len(DIALECTS)]
        fuzz = Fuzz(seed)
        try:
            answered += run(dialect, [fuzz.session() for _ in range(SESSIONS)])
        except Exception:
            print(f"dialect {dialect.name}, --seed {seed}:", file=sys.stderr)
            raise
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
        before = before or held
        if rounds > len(DIALECTS) and held > before + MOST_HELD:
            print(f"--seed {seed}: {held - before} bytes more are held than at first", file=sys.stderr)
            return 1
        rounds += 1
        seed += 1
    print(
        f"{rounds * SESSIONS} sessions in {len(DIALECTS)} dialects, seeds {said.seed} to {seed - 1}: "
        f"{answered} bytes answered, {(held - before) // 1024} KiB more held than at first; nothing was harmed"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
