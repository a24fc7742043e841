"""The binary protocol: packets, statuses, quiet commands, opaque, SASL; and bytes that are no packets."""

from __future__ import annotations

import itertools
import struct
import tracemalloc
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from broker.auth.door import Door
from broker.auth.rights import EVERYTHING, User
from broker.auth.users import IAuthenticator
from broker.core.broker import Broker
from broker.core.policy import Policy
from broker.memcache.binary import HEADER, BinaryParser
from broker.memcache.commands import Malformed
from broker.memcache.dialect import SPOKEN
from broker.memcache.server import MemcacheFactory
from broker.storage.memory import MemoryStore
from tests.memcache.support import NOW, Client, FrontTest

STORED = struct.pack(">II", 7, 0)


class Answer(NamedTuple):
    """A response, taken apart."""

    opcode: int
    status: int
    opaque: int
    cas: int
    extras: bytes
    key: bytes
    value: bytes


def packet(
    opcode: int, key: bytes = b"", value: bytes = b"", extras: bytes = b"", opaque: int = 0, cas: int = 0
) -> bytes:
    size = len(extras) + len(key) + len(value)
    head = struct.pack(">BBHBBHIIQ", 0x80, opcode, len(key), len(extras), 0, 0, size, opaque, cas)
    return head + extras + key + value


def answers(data: bytes) -> list[Answer]:
    found = []
    while data:
        magic, opcode, key, extras, kind, status, size, opaque, cas = struct.unpack(">BBHBBHIIQ", data[:HEADER])
        assert (magic, kind) == (0x81, 0)
        body, data = data[HEADER : HEADER + size], data[HEADER + size :]
        assert len(body) == size
        found.append(
            Answer(opcode, status, opaque, cas, body[:extras], body[extras : extras + key], body[extras + key :])
        )
    return found


def put(key: bytes, value: bytes, opcode: int = 0x01, opaque: int = 0, cas: int = 0, expiry: int = 0) -> bytes:
    return packet(opcode, key, value, struct.pack(">II", 7, expiry), opaque, cas)


class BinaryTests(FrontTest):
    """What each opcode does with a queue."""

    policy = Policy(max_messages=3, max_message_size=1000)

    def ask(self, data: bytes) -> list[Answer]:
        return answers(self.client.send(data))

    def one(self, data: bytes) -> Answer:
        (answer,) = self.ask(data)
        return answer

    def test_set_and_get(self) -> None:
        stored = self.one(put(b"q", b"hello", opaque=9))
        self.assertEqual(stored[:3], (0x01, 0, 9))
        self.assertEqual((stored.extras, stored.key, stored.value), (b"", b"", b""))
        got = self.one(packet(0x00, b"q", opaque=0xDEADBEEF))
        self.assertEqual(got, (0x00, 0, 0xDEADBEEF, stored.cas, struct.pack(">I", 7), b"", b"hello"))
        self.assertEqual(self.one(packet(0x00, b"q")), (0x00, 1, 0, 0, b"", b"", b"Not found"))
        self.assertEqual(self.broker.stats.settled, 1)

    def test_getk_carries_the_key_as_sent(self) -> None:
        self.ask(put(b"q", b"x"))
        self.assertEqual(self.one(packet(0x0C, b"q/open")).key, b"q/open")
        self.assertEqual(self.one(packet(0x0C, b"none")), (0x0C, 1, 0, 0, b"", b"none", b""))

    def test_quiet_gets_hide_misses_and_noop_ends_them(self) -> None:
        self.ask(put(b"b", b"x"))
        sent = packet(0x09, b"a") + packet(0x0D, b"b", opaque=2) + packet(0x0D, b"b") + packet(0x0A, opaque=3)
        hit, noop = self.ask(sent)
        self.assertEqual((hit.opcode, hit.opaque, hit.key, hit.value), (0x0D, 2, b"b", b"x"))
        self.assertEqual(noop, (0x0A, 0, 3, 0, b"", b"", b""))

    def test_other_quiet_commands_hide_success(self) -> None:
        sent = put(b"q", b"x", 0x11) * 3 + packet(0x14, b"none") + packet(0x18) + put(b"q", b"x", 0x12) + packet(0x0A)
        found = self.ask(sent)
        self.assertEqual([(one.opcode, one.status) for one in found], [(0x14, 1), (0x12, 2), (0x0A, 0)])
        self.assertEqual(self.ready("q"), 0)

    def test_a_full_queue_is_not_stored_quietly_or_not(self) -> None:
        found = self.ask(put(b"q", b"x", 0x11) * 5)
        self.assertEqual([one[:2] for one in found], [(0x11, 5), (0x11, 5)])
        self.assertEqual(found[0].value, b"Not stored.")

    def test_what_one_cannot_do_to_a_queue(self) -> None:
        for opcode, status in (0x02, 2), (0x03, 1):
            self.assertEqual(self.one(put(b"q", b"x", opcode)).status, status)
        for opcode in 0x0E, 0x0F:
            self.assertEqual(self.one(packet(opcode, b"q", b"x")).status, 5)
        for opcode in 0x05, 0x06:
            extras = struct.pack(">QQI", 1, 0, 0xFFFFFFFF)
            self.assertEqual(self.one(packet(opcode, b"q", extras=extras)).status, 1)
        self.assertEqual(self.broker.queues(), [])

    def test_delete_and_flush(self) -> None:
        self.ask(put(b"q", b"x") + put(b"r", b"x"))
        self.assertEqual(self.one(packet(0x04, b"q")).status, 0)
        self.assertEqual(self.one(packet(0x04, b"q")), (0x04, 1, 0, 0, b"", b"", b"Not found"))
        self.assertEqual(self.one(packet(0x08, extras=bytes(4))).status, 0)
        self.assertEqual(self.ready("r"), 0)
        self.assertEqual(self.one(packet(0x08, extras=b"\0\0\0\1")).status, 4)

    def test_ids_settle(self) -> None:
        number = self.one(put(b"q", b"x")).cas
        self.ask(packet(0x00, b"q/open"))
        self.assertEqual(self.one(packet(0x04, b"q", cas=number + 1)).status, 2)
        self.assertEqual(self.one(packet(0x04, b"q", cas=number)).status, 0)
        number = self.one(put(b"q", b"y")).cas
        self.ask(packet(0x00, b"q/open"))
        self.assertEqual(self.one(put(b"r", b"z", cas=number)).status, 0)
        self.assertEqual((self.broker.stats.settled, self.ready("r")), (2, 1))
        self.assertEqual(self.one(put(b"r", b"z", cas=number)).status, 1)

    def test_touch_and_gat(self) -> None:
        self.ask(put(b"q", b"x"))
        seconds = struct.pack(">I", 60)
        self.assertEqual(self.one(packet(0x1C, b"q", extras=seconds)).status, 1)
        self.assertEqual(self.one(packet(0x23, b"q/open", extras=seconds))[5:], (b"q/open", b"x"))
        self.assertEqual(self.one(packet(0x1C, b"q", extras=seconds)).status, 0)
        self.assertEqual(self.ask(packet(0x1E, b"none", extras=seconds)), [])

    def test_expiry_is_as_in_text(self) -> None:
        self.ask(put(b"q", b"x", expiry=0xFFFFFFFF) + put(b"q", b"y", expiry=5))
        self.assertEqual(self.one(packet(0x00, b"q")).value, b"y")

    def test_version_verbosity_and_quit(self) -> None:
        self.assertEqual(self.one(packet(0x0B)).value, SPOKEN.encode())
        self.assertEqual(self.one(packet(0x1B, extras=bytes(4))).status, 0)
        self.assertEqual(self.one(packet(0x07)), (0x07, 0, 0, 0, b"", b"", b""))
        self.assertTrue(self.client.closed)
        silent = Client(self.factory)
        self.assertEqual(silent.send(packet(0x17)), b"")
        self.assertTrue(silent.closed)

    def test_stat_is_a_packet_for_each_and_one_without_a_name(self) -> None:
        self.ask(put(b"q", b"x"))
        *numbers, end = self.ask(packet(0x10, opaque=4))
        self.assertEqual(end, (0x10, 0, 4, 0, b"", b"", b""))
        shown = {one.key: one.value for one in numbers}
        self.assertEqual((shown[b"curr_items"], shown[b"queue_q_items"]), (b"1", b"1"))
        settings_, end = self.ask(packet(0x10, b"settings"))[-2:]
        self.assertEqual((settings_.key, end.key), (b"dialect", b""))
        self.assertEqual(self.one(packet(0x10, b"nonsense")).status, 1)

    def test_without_users_sasl_is_unknown(self) -> None:
        for opcode, key in (0x20, b""), (0x21, b"PLAIN"), (0x22, b"PLAIN"):
            self.assertEqual(self.one(packet(opcode, key))[:2], (opcode, 0x81))

    def test_unknown_opcodes_keep_the_connection(self) -> None:
        for opcode in 0x1F, 0x25, 0x40, 0xFF:
            self.assertEqual(self.one(packet(opcode, b"k", b"v", b"12345678")).status, 0x81)
        self.assertEqual(self.one(packet(0x0A)).status, 0)

    def test_lengths_that_lie_close(self) -> None:
        for head in (
            struct.pack(">BBHBBHIIQ", 0x80, 0, 5, 0, 0, 0, 1, 0, 0),
            struct.pack(">BBHBBHIIQ", 0x80, 1, 1, 9, 0, 0, 1, 0, 0),
            struct.pack(">BBHBBHIIQ", 0x80, 1, 1, 255, 0, 0, 500, 0, 0),
            struct.pack(">BBHBBHIIQ", 0x80, 0, 2000, 0, 0, 0, 2000, 0, 0),
            packet(0x00),
            packet(0x00, b"q", b"x"),
            packet(0x01, b"q", b"x"),
            packet(0x0A, b"q"),
        ):
            client = Client(self.factory)
            (answer,) = answers(client.send(head))
            self.assertEqual((answer.status, answer.value), (4, b"Invalid arguments"))
            self.assertTrue(client.closed)

    def test_text_in_the_middle_closes_silently(self) -> None:
        self.ask(packet(0x0A))
        self.says(b"version\r\n" * 3, b"")
        self.assertTrue(self.client.closed)

    def test_a_body_that_is_too_large_is_passed_over(self) -> None:
        answer, noop = self.ask(put(b"q", bytes(1001), opaque=5) + packet(0x0A))
        self.assertEqual((answer.status, answer.opaque, answer.value, noop.status), (3, 5, b"Too large.", 0))

    def test_names_that_are_none(self) -> None:
        for sent in packet(0x00, b"k" * 251), put(b"k" * 251, b"x"):
            client = Client(self.factory)
            (answer,) = answers(client.send(sent))
            self.assertEqual((answer.status, answer.value, client.closed), (4, b"Invalid arguments", True))
        self.assertEqual(self.one(put(b"a\0b", b"x")).value, b"the name holds control characters")
        self.ask(put(b"a b", b"x"))
        self.assertEqual(self.broker.queues(), ["a b"])

    def test_a_wait_holds_what_is_behind_it(self) -> None:
        self.assertEqual(self.ask(packet(0x00, b"q/t=1000", opaque=1) + packet(0x0A, opaque=2)), [])
        Client(self.factory).send(b"set q 0 0 1\r\nx\r\n")
        self.clock.advance(0)
        self.assertEqual([one.opaque for one in answers(self.client.received())], [1, 2])

    def test_pipelined_sets_share_a_commit_and_are_answered_in_order(self) -> None:
        self.store.hold = True
        self.assertEqual(self.client.send(put(b"a", b"1", opaque=1) + put(b"b", b"2", opaque=2) + packet(0x0A)), b"")
        while self.store.held is not None:
            self.store.release_commit()
        self.assertEqual([one.opaque for one in answers(self.client.received())], [1, 2, 0])


@implementer(IAuthenticator)
class OnlyAlice:
    """Knows one password."""

    anonymous = None

    def password(self, name: str, password: str, address: str) -> Deferred[User | None]:
        return succeed(User("alice", EVERYTHING) if (name, password) == ("alice", "secret") else None)

    def token(self, bearer: str, address: str) -> Deferred[User | None]:
        return succeed(None)

    def named(self, name: str) -> User | None:
        return None


class SaslTests(FrontTest):
    """PLAIN."""

    def setUp(self) -> None:
        super().setUp()
        self.factory = MemcacheFactory(self.broker, door=Door(self.broker, OnlyAlice()))
        self.client = Client(self.factory)

    def statuses(self, data: bytes) -> list[tuple[int, bytes]]:
        return [(one.status, one.value) for one in answers(self.client.send(data))]

    def test_the_mechanisms_are_told(self) -> None:
        self.assertEqual(self.statuses(packet(0x20)), [(0, b"PLAIN")])

    def test_a_login(self) -> None:
        self.assertEqual(self.statuses(packet(0x21, b"PLAIN", b"\0alice\0secret")), [(0, b"Authenticated")])
        self.assertEqual(self.statuses(put(b"q", b"x") + packet(0x00, b"q")), [(0, b""), (0, b"x")])
        self.assertEqual(self.statuses(put(b"q", bytes(5000))), [(0, b"")])
        shown = {one.key: one.value for one in answers(self.client.send(packet(0x10)))}
        self.assertEqual((shown[b"auth_cmds"], shown[b"auth_errors"]), (b"1", b"0"))

    def test_a_wrong_one_is_refused_and_the_connection_kept(self) -> None:
        wrong = (0x20, b"Auth failure.")
        for key, token in (
            (b"PLAIN", b"\0alice\0wrong"),
            (b"PLAIN", b"alice secret"),
            (b"PLAIN", b""),
            (b"PLAIN", b"\0\xff\0secret"),
            (b"CRAM-MD5", b"\0alice\0secret"),
        ):
            self.assertEqual(self.statuses(packet(0x21, key, token)), [wrong])
        self.assertEqual(self.statuses(packet(0x22, b"PLAIN", b"x")), [wrong])
        self.assertEqual(self.statuses(packet(0x21, b"PLAIN", b"\0alice\0secret")), [(0, b"Authenticated")])

    def test_before_it_only_a_version_is_told(self) -> None:
        wrong = (0x20, b"Auth failure.")
        self.assertEqual(self.statuses(packet(0x0B)), [(0, SPOKEN.encode())])
        for asked in packet(0x0A), packet(0x07), put(b"q", b"x"), packet(0x09, b"q"), packet(0x10), packet(0xFF):
            self.assertEqual(self.statuses(asked), [wrong])
        self.assertEqual(self.statuses(put(b"q", bytes(5000))), [wrong])
        self.assertFalse(self.client.closed)

    def test_text_logs_in_on_the_same_port(self) -> None:
        text = Client(self.factory)
        self.assertEqual(text.send(b"set x 0 0 12\r\nalice secret\r\nversion\r\n")[:15], b"STORED\r\nVERSION")


# -- the parser


def parse(pieces: list[bytes], limit: int = 1000) -> list[object]:
    parser = BinaryParser(limit)
    found: list[object] = []
    for piece in pieces:
        parser.feed(piece)
        while (command := parser.next_command()) is not None:
            found.append(command)
    return found


_packets = st.one_of(
    st.builds(put, st.sampled_from([b"a", b"b/open"]), st.binary(max_size=50), st.sampled_from([1, 0x11, 2])),
    st.builds(packet, st.integers(0, 255), st.binary(max_size=9), st.binary(max_size=9), st.binary(max_size=9)),
    st.just(put(b"big", bytes(1500))),
    st.just(packet(0x0A)),
)


@given(sent=st.lists(_packets, max_size=8).map(b"".join), cuts=st.lists(st.integers(0, 3000), max_size=8))
def test_no_split_of_the_bytes_changes_the_commands(sent: bytes, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(sent)) for cut in cuts), len(sent)]
    assert parse([sent[a:b] for a, b in itertools.pairwise(edges)]) == parse([sent])


@given(sent=st.binary(max_size=200))
def test_garbage_never_raises(sent: bytes) -> None:
    found = parse([b"\x80" + sent])
    assert found == parse([bytes((byte,)) for byte in b"\x80" + sent])
    for command in found[:-1]:
        assert not (isinstance(command, Malformed) and command.close)


@pytest.mark.parametrize("step", [100, 64 * 1024])
def test_no_more_is_held_than_the_body_and_a_mebibyte(step: int) -> None:
    size = 4 * 1024 * 1024
    for kept in True, False:
        parser = BinaryParser(size if kept else size - 1)
        sent = put(b"a", bytes(size))
        tracemalloc.start()
        try:
            for at in range(0, len(sent), step):
                parser.feed(sent[at : at + step])
                command = parser.next_command()
                held = min(at + step, size) if kept else 0
                assert tracemalloc.get_traced_memory()[0] <= held + 1024 * 1024 or at + step >= len(sent)
            assert kept == (command is not None)
        finally:
            tracemalloc.stop()


@settings(deadline=None)
@given(sent=st.lists(st.one_of(_packets, st.binary(max_size=60)), max_size=8), cut=st.integers(0, 300))
def test_whatever_comes_is_answered_in_packets(sent: list[bytes], cut: int) -> None:
    clock = Clock()
    broker = Broker(MemoryStore(), clock, policy=Policy(max_message_size=1000), wall=lambda: NOW + clock.seconds())
    assert Deferred.fromCoroutine(broker.start()).called
    factory = MemcacheFactory(broker)
    client, probe = Client(factory), Client(factory)
    data = b"\x80" + b"".join(sent)[1:] if sent else b""
    answer = client.send(data[:cut])
    if not client.closed:
        answer += client.send(data[cut:])
    answers(answer)
    assert b"Internal error" not in answer
    client.go()
    clock.advance(0)
    assert probe.send(b"set probe 0 0 1\r\nx\r\nget probe\r\n") == b"STORED\r\nVALUE probe 0 1\r\nx\r\nEND\r\n"
    probe.go()
