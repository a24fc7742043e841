"""The meta protocol: codes, flags in the order they were asked for, quiet, opaque, base64 keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.policy import Policy
from broker.memcache.commands import Done, Malformed
from broker.memcache.meta import DUPLICATE, FORMAT, INVALID, MAX_FLAGS_COUNT, METAS, OPAQUE_TOO_LONG
from broker.memcache.voice import Outcome
from broker.memcache.wire import Parser
from broker.memcache.words import MAX_KEY, Payload
from tests.memcache.support import Client, FrontTest


class MetaTests(FrontTest):
    """What a queue does with them."""

    policy = Policy(max_messages=10, max_message_size=1000)

    def id_of_head(self, name: bytes = b"q") -> bytes:
        """The id under which the next message is known."""
        return self.client.send(b"mg %b c\r\n" % name).strip().split(b" c")[1]

    def test_mn(self) -> None:
        self.says(b"mn\r\n", b"MN\r\n")

    def test_ms_stores_and_mg_v_takes(self) -> None:
        self.says(b"ms q 2 F5 T0\r\nab\r\n", b"HD\r\n")
        self.says(b"mg q v f s\r\n", b"VA 2 f5 s2\r\nab\r\n")
        self.says(b"mg q v\r\n", b"EN\r\n")

    def test_ms_answers_in_the_order_that_was_asked_for(self) -> None:
        answer = self.client.send(b"ms a 2 F5 T0 c k O7\r\nab\r\n")
        self.assertRegex(answer, rb"^HD c[0-9]+ ka O7\r\n$")
        self.assertEqual(answer, b"HD c%b ka O7\r\n" % self.id_of_head(b"a"))

    def test_the_id_that_ms_tells_is_that_of_the_queue_it_names(self) -> None:
        self.says(b"mg a+child v\r\nmg a+other v\r\n", b"EN\r\nEN\r\n")
        answer = self.client.send(b"ms a 1 c\r\nx\r\n")
        self.assertEqual(answer, b"HD c%b\r\n" % self.id_of_head(b"a"))
        self.assertNotEqual(answer, b"HD c%b\r\n" % self.id_of_head(b"a+child"))
        self.says(b"ms /topic/t 1 c\r\nx\r\n", b"HD c0\r\n")

    def test_mg_answers_in_the_order_that_was_asked_for(self) -> None:
        self.says(b"ms a 1 T60\r\nx\r\n", b"HD\r\n")
        number = self.id_of_head(b"a")
        self.says(b"mg a v f k t s c O12 h l\r\n", b"VA 1 f0 ka t60 s1 c%b O12 h0 l0\r\nx\r\n" % number)

    def test_mg_without_v_takes_nothing(self) -> None:
        self.says(b"ms a 0 \r\n\r\n", b"HD\r\n")
        self.says(b"mg a\r\nmg a t s k\r\n", b"HD\r\nHD t-1 s0 ka\r\n")
        self.says(b"mg a v\r\nmg a\r\n", b"VA 0\r\n\r\nEN\r\n")

    def test_mg_without_v_takes_nothing_of_any_queue_either(self) -> None:
        self.says(b"ms a 1\r\nx\r\nmg a/any\r\nmg a/open\r\n", b"HD\r\n" * 3)
        self.assertEqual((self.ready("a"), self.broker.queue_stats("a").on_loan), (1, 0))

    def test_options_stay_in_the_key(self) -> None:
        self.says(b"ms a 1\r\nx\r\n", b"HD\r\n")
        self.says(b"mg a/open v k\r\n", b"VA 1 ka/open\r\nx\r\n")
        self.says(b"mg a/close v\r\n", b"EN\r\n")
        self.assertEqual(self.broker.stats.settled, 1)

    def test_q_hides_what_went_as_it_should_and_misses(self) -> None:
        self.says(b"ms a 1 q\r\nx\r\nmg a q v\r\nmg a q v\r\nmn\r\n", b"VA 1\r\nx\r\nMN\r\n")
        self.says(b"ms a 1 q ME\r\nx\r\nmd nothing q\r\nma a q\r\nmn\r\n", b"NS\r\nNF\r\nNF\r\nMN\r\n")

    def test_a_key_in_base64(self) -> None:
        self.says(b"ms Zm9v 1 b\r\nx\r\n", b"HD\r\n")
        self.says(b"mg Zm9v b k v O1\r\n", b"VA 1 kZm9v b O1\r\nx\r\n")
        self.says(b"ms YSBi 1 b\r\nx\r\n", b"HD\r\n")
        self.assertEqual(self.broker.queues(), ["a b"])
        self.says(b"mg Zm9 b v\r\n", b"CLIENT_ERROR error decoding key\r\n")

    def test_modes_that_a_queue_has_not(self) -> None:
        for mode in b"EAPR":
            self.says(b"ms a 1 M%c O1\r\nx\r\n" % mode, b"NS O1\r\n")
        self.says(b"ms a 1 MS\r\nx\r\n", b"HD\r\n")
        self.says(b"ms a 4 MX\r\nquit\r\nmn\r\n", b"CLIENT_ERROR invalid mode for ms M token\r\nMN\r\n")

    def test_md_deletes_a_queue(self) -> None:
        self.says(b"ms a 1\r\nx\r\nmd a k\r\nmd a k O1\r\n", b"HD\r\nHD ka\r\nNF ka O1\r\n")

    def test_md_with_an_id_settles_from_any_connection(self) -> None:
        self.says(b"ms a 1\r\nx\r\nms a 1\r\ny\r\n", b"HD\r\nHD\r\n")
        opened = self.client.send(b"mg a/open c v\r\n")
        number = opened.split(b" c")[1].split(b"\r")[0]
        other = Client(self.factory)
        self.assertEqual(other.send(b"md b C%b\r\n" % number), b"EX\r\n")
        self.assertEqual(other.send(b"md a C%b\r\n" % number), b"HD\r\n")
        self.assertEqual(other.send(b"md a C%b\r\n" % number), b"EX\r\n")
        self.assertEqual(self.broker.stats.settled, 1)
        self.says(b"mg a/close v\r\n", b"EN\r\n")
        self.assertEqual((self.broker.stats.settled, self.ready("a")), (1, 1))

    def test_a_read_settled_by_its_id_leaves_the_next_to_close(self) -> None:
        self.says(b"ms a 1\r\nx\r\n", b"HD\r\n")
        number = self.client.send(b"mg a/open c v\r\n").split(b" c")[1].split(b"\r")[0]
        self.says(b"md a C%b\r\n" % number, b"HD\r\n")
        self.says(b"ms a 1\r\ny\r\n", b"HD\r\n")
        self.says(b"mg a v\r\n", b"VA 1\r\ny\r\n")  # nothing is open any more

    def test_ms_with_an_id_settles_that_and_stores_this(self) -> None:
        self.says(b"ms a 1\r\nx\r\n", b"HD\r\n")
        number = self.client.send(b"mg a/open c v\r\n").split(b" c")[1].split(b"\r")[0]
        commits = self.store.commits
        self.says(b"ms b 1 C%b\r\ny\r\n" % number, b"HD\r\n")
        self.assertEqual(self.store.commits - commits, 1)
        self.assertEqual((self.broker.stats.settled, self.ready("b")), (1, 1))
        self.says(b"ms b 1 C%b\r\nz\r\n" % number, b"NF\r\n")

    def test_ma_finds_no_number(self) -> None:
        self.says(b"ma n v D1 J5 N0 MI O9\r\n", b"NF O9\r\n")
        self.says(b"ma n Dx\r\n", b"CLIENT_ERROR bad token in command line format\r\n")

    def test_me_tells_of_a_queue(self) -> None:
        self.says(b"me a\r\n", b"EN\r\n")
        self.says(b"ms a 1\r\nx\r\n", b"HD\r\n")
        told = self.client.send(b"me a\r\n")
        self.assertTrue(told.startswith(b"ME a items=1 "))
        self.assertIn(b" max_messages=10 ", told)
        self.assertEqual(told.count(b"\n"), 1)

    def test_a_body_that_is_too_large_is_swallowed(self) -> None:
        self.says(
            b"ms a 1001 k\r\n" + bytes(1001) + b"\r\nmn\r\n", b"SERVER_ERROR object too large for cache\r\nMN\r\n"
        )

    def test_a_body_without_its_end(self) -> None:
        self.says(b"ms a 1\r\nxyz\r\nmn\r\n", b"CLIENT_ERROR bad data chunk\r\nMN\r\n")

    def test_a_full_queue(self) -> None:
        self.says(b"ms a 1 q\r\nx\r\n" * 10 + b"ms a 1 q O3\r\nx\r\n", b"NS O3\r\n")

    def test_keys_of_251_bytes(self) -> None:
        key = b"k" * 251
        self.says(b"mg %b v\r\nmd %b\r\n" % (key, key), FORMAT * 2)
        self.says(b"ms %b 4\r\nquit\r\nmn\r\n" % key, FORMAT + b"MN\r\n")

    def test_pipelines_stay_in_order(self) -> None:
        self.says(
            b"ms a 1 O1 q\r\n1\r\nmg a v O2\r\nms a 1 O3\r\n2\r\nmg a v O4 q\r\nmg a v O5 q\r\nmn\r\n",
            b"VA 1 O2\r\n1\r\nHD O3\r\nVA 1 O4\r\n2\r\nMN\r\n",
        )


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"mg", b"ERROR\r\n"),
        (b"md", b"ERROR\r\n"),
        (b"ms a", b"ERROR\r\n"),
        (b"mg a v v", DUPLICATE),
        (b"mg a !", INVALID),
        (b"mg a F5", INVALID),
        (b"mg a O" + b"x" * 33, OPAQUE_TOO_LONG),
        (b"ms a S4", FORMAT),
        (b"ms a x", FORMAT),
        (b"mg a Tx", b"CLIENT_ERROR bad token in command line format\r\n"),
        (b"mg " + b"k" * (MAX_KEY + 1), FORMAT),
        (b"mg a" + b" v" * (MAX_FLAGS_COUNT + 1), b"CLIENT_ERROR options flags are too long\r\n"),
    ],
)
def test_a_line_that_is_wrong(line: bytes, answer: bytes) -> None:
    parsed = METAS.parse(line.split())
    assert isinstance(parsed, Malformed)
    assert (parsed.reply, parsed.close) == (answer, False)


def test_words_that_only_look_like_meta() -> None:
    assert METAS.parse([b"mx", b"a"]) is None
    assert METAS.parse([b"mn"]) == Done(METAS._noop.voice, Outcome.NOOP)


_words = st.lists(
    st.sampled_from(
        [b"a", b"k", b"v", b"O1", b"q", b"C5", b"T-1", b"F9", b"ME", b"b", b"4", b"\xff", b"S2", b"N", b"MS"]
    ),
    max_size=8,
)


@given(command=st.sampled_from([b"mg", b"ms", b"md", b"ma", b"me", b"mn"]), words=_words)
def test_no_words_raise(command: bytes, words: list[bytes]) -> None:
    parsed = METAS.parse([command, *words])
    assert parsed is not None
    if isinstance(parsed, Payload):
        assert parsed.refused is not None or parsed.make is not None


@given(
    lines=st.lists(st.sampled_from([b"mn\r\n", b"ms a 2 q\r\nab\r\n", b"mg a v k\r\n", b"md a C1\r\n", b"me a\r\n"])),
    cut=st.integers(1, 40),
)
def test_no_split_of_the_bytes_changes_the_commands(lines: list[bytes], cut: int) -> None:
    def parse(pieces: list[bytes]) -> list[object]:
        parser = Parser(100)
        found: list[object] = []
        for piece in pieces:
            parser.feed(piece)
            while (command := parser.next_command()) is not None:
                found.append(command)
        return found

    data = b"".join(lines)
    assert parse([data[at : at + cut] for at in range(0, len(data), cut)]) == parse([data])
    assert len(parse([data])) == len(lines)
