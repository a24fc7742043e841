"""SENDs that repeat a header block, and those for one queue that come together."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from broker.core.burst import Burst, Told
from broker.core.destination import queue
from broker.core.policy import Policies, Policy, Rule
from broker.errors import StoreUnavailable
from broker.stomp import breath, flavour
from broker.stomp.dialect import V1_0, V1_1, V1_2, Dialect
from broker.stomp.frames import Frame, Repeated
from broker.stomp.heads import Heads
from broker.stomp.server import StompFactory
from broker.stomp.wire import FrameError, Limits, Parser
from broker.stomp.wishes import Terms
from tests.stomp.support import Client, FrontTest

_values = st.sampled_from(["/queue/q", "a", " a ", "", "r-1", "3", "0", "x\\c", "ä", "a\rb", "r:2"])
_lines = st.tuples(st.sampled_from(["destination", "receipt", "content-length", "x", "priority"]), _values)
_bodies = st.sampled_from([b"", b"abc", b"a\0b", b"\n\n", b"0123456789"])
_streams = st.lists(
    st.tuples(st.sampled_from(["SEND", "SEND", "ACK", "SENDING"]), st.lists(_lines, max_size=4), _bodies), max_size=6
)


def written(frames: list[tuple[str, list[tuple[str, str]], bytes]]) -> bytes:
    """Each frame three times, so that its header block is remembered and comes again."""
    found = b""
    for command, lines, body in frames:
        head = "".join(f"{name}:{value}\n" for name, value in lines)
        found += f"{command}\n{head}\n".encode() + body + b"\0" + (b"\n" if len(body) % 2 else b"")
    return found * 3


def parsed(parser: Parser, data: bytes, cuts: list[int]) -> tuple[list[Frame], str]:
    """The frames, and what was wrong in the end."""
    found, at = [], 0
    places = sorted(cut % (len(data) + 1) for cut in cuts)
    for place in (*places, len(data)):
        parser.feed(data[at:place])
        at = place
        try:
            while (frame := parser.next_frame()) is not None:
                found.append(frame)
        except FrameError as error:
            return found, str(error)
    return found, ""


@given(_streams, st.sampled_from([V1_0, V1_1, V1_2]), st.lists(st.integers(0, 1_000), max_size=5))
@settings(max_examples=300)
def test_what_is_remembered_means_what_it_meant(
    frames: list[tuple[str, list[tuple[str, str]], bytes]], dialect: Dialect, cuts: list[int]
) -> None:
    data = written(frames)
    limits = Limits(body=8, headers=3, line=20)
    remembering = Parser(dialect, limits)
    remembering.heads = Heads()
    assert parsed(remembering, data, cuts) == parsed(Parser(dialect, limits), data, [])


def remembering() -> Parser:
    parser = Parser(V1_2, Limits())
    parser.heads = Heads()
    return parser


def test_a_block_is_the_same_whatever_its_receipt() -> None:
    parser = remembering()
    for receipt in ("0", "1", "2"):
        parser.feed(f"SEND\nreceipt:{receipt}\ndestination:/queue/q\n\nbody{receipt}\0".encode())
    parser.feed(b"SEND\ndestination:/queue/q\n\nnone\0")
    before, first, second, third = [parser.take() for _ in range(4)]
    assert isinstance(before, Frame)
    assert isinstance(first, Frame)
    assert isinstance(second, Repeated)
    assert isinstance(third, Repeated)
    assert (second.receipt, second.body, third.receipt, third.head) == (b"2", b"body2", None, second.head)
    assert second.frame.headers == {"destination": "/queue/q", "receipt": "2"}
    assert first.headers == {"destination": "/queue/q", "receipt": "1"}


def heads_of(*blocks: bytes, most: int = 100) -> Heads:
    """What is remembered of these blocks."""
    parser = remembering()
    parser.heads = Heads(most)
    for block in blocks:
        parser.feed(block + b"\n\n\0")
        assert parser.take() is not None
        assert len(parser.heads._known) <= most
        assert len(parser.heads._came) <= most
    return parser.heads


def test_blocks_are_forgotten_when_there_are_many_and_what_came_once_is_not_remembered() -> None:
    blocks = [b"SEND\nn:%d" % n for n in range(300)]
    assert len(heads_of(*blocks, most=300)) == 0
    assert len(heads_of(*blocks, *blocks, most=300)) == 300
    twice = [block for block in blocks for _ in range(2)]
    assert 0 < len(heads_of(*twice)) <= 100


def test_long_blocks_are_not_remembered() -> None:
    assert len(heads_of(*[b"SEND\nlong:" + b"x" * 600] * 3)) == 0
    assert len(heads_of(*[b"SEND\nshort:" + b"x" * 400] * 3)) == 1


class TogetherTests(FrontTest):
    """A producer's messages for one queue that come in one read."""

    def sends(self, *bodies: str, receipts: bool = True, destination: str = "/queue/q", more: str = "") -> bytes:
        return b"".join(
            f"SEND\ndestination:{destination}\n{more}{f'receipt:{body}' if receipts else 'x:y'}\n\n{body}\0".encode()
            for body in bodies
        )

    def producer(self) -> Client:
        """One who has sent such messages before, so that the queue is there and the header block known."""
        client = self.open().connect()
        for body in ("first", "second"):
            client.raw(self.sends(body))
            self.assertEqual(self.taken(), [body.encode()])
        return client

    def taken(self, name: str = "q") -> list[bytes]:
        found: list[bytes] = []
        while True:
            delivery = self.successResultOf(Deferred.fromCoroutine(self.broker.take(name)))
            if delivery is None:
                return found
            self.successResultOf(self.broker.ack([delivery]))
            found.append(delivery.message.body)

    def receipts(self, frames: list[Frame]) -> list[str]:
        return [frame.headers["receipt-id"] for frame in frames if frame.command == "RECEIPT"]

    def test_they_are_stored_and_answered_in_order(self) -> None:
        client = self.producer()
        commits = self.store.commits
        answers = client.raw(self.sends("a", "b", "c"))
        self.assertEqual(self.receipts(answers), ["a", "b", "c"])
        self.assertEqual(self.store.commits, commits + 1)
        self.assertEqual(self.taken(), [b"a", b"b", b"c"])

    def test_none_is_answered_before_its_commit_and_what_follows_waits_its_turn(self) -> None:
        client = self.producer()
        self.store.hold = True
        self.assertEqual(client.raw(self.sends("a", "b") + b"BEGIN\ntransaction:t\nreceipt:begun\n\n\0"), [])
        self.store.release_commit()
        self.assertEqual(self.receipts(client.frames()), ["a", "b", "begun"])

    def test_what_wishes_more_goes_by_itself_between_them(self) -> None:
        client = self.producer()
        data = self.sends("a") + self.sends("p", more="priority:9\n") + self.sends("b")
        for _ in range(2):
            self.assertEqual(self.receipts(client.raw(data)), ["a", "p", "b"])
        self.assertEqual(self.taken(), [b"p", b"p", b"a", b"b", b"a", b"b"])

    def test_another_queue_another_burst(self) -> None:
        client = self.producer()
        data = self.sends("a") + self.sends("o", destination="/queue/other") + self.sends("b")
        for _ in range(2):
            self.assertEqual(self.receipts(client.raw(data)), ["a", "o", "b"])
        self.assertEqual((self.taken(), self.taken("other")), ([b"a", b"b", b"a", b"b"], [b"o", b"o"]))

    def test_headers_and_type_are_kept(self) -> None:
        client = self.producer()
        for body in ("a", "b"):
            client.raw(self.sends(body, more="content-type:text/plain\nx:y\n"))
        consumer = self.open().connect()
        messages = consumer.subscribe("/queue/q")
        self.assertEqual([(m.headers["content-type"], m.headers["x"]) for m in messages], [("text/plain", "y")] * 2)

    def test_without_receipts_nothing_is_answered(self) -> None:
        client = self.producer()
        for _ in range(2):
            self.assertEqual(client.raw(self.sends("a", "b", receipts=False)), [])
        self.assertEqual(self.taken(), [b"a", b"b"] * 2)

    def test_a_failed_commit_is_the_first_ones_error_and_the_end(self) -> None:
        client = self.producer()
        self.store.hold = True
        client.raw(self.sends("a", "b"))
        self.store.fail_commit(StoreUnavailable("no room"))
        (error,) = client.frames()
        self.assertEqual((error.command, error.headers["receipt-id"]), ("ERROR", "a"))
        self.assertEqual(client.raw(self.sends("c")), [])

    def test_where_a_session_goes_on_each_has_its_error(self) -> None:
        keeping = next(one for one in vars(flavour).values() if getattr(one, "on_error", "") == "keep")
        self.factory = StompFactory(self.broker, clock=self.clock, terms=Terms(flavour=keeping))
        client = self.producer()
        self.store.hold = True
        client.raw(self.sends("a", "b"))
        self.store.fail_commit(StoreUnavailable("no room"))
        self.assertEqual(
            [(e.command, e.headers["receipt-id"]) for e in client.frames()], [("ERROR", "a"), ("ERROR", "b")]
        )
        self.store.hold = False
        self.clock.advance(60)
        self.assertEqual(self.receipts(client.raw(self.sends("c"))), ["c"])

    def test_a_limit_of_the_queue_is_kept(self) -> None:
        client = self.producer()
        rules = Policies(Policy(), [Rule("q", {"max_messages": 1})])
        self.successResultOf(Deferred.fromCoroutine(self.broker.reload(rules)))
        answers = client.raw(self.sends("a", "b"))
        self.assertEqual([frame.command for frame in answers], ["RECEIPT", "ERROR"])
        self.assertEqual(self.taken(), [b"a"])

    def delivered(self, *bodies: str) -> tuple[Client, list[bytes]]:
        """A consumer, and the ACKs of what it has on loan."""
        consumer = self.open().connect()
        consumer.subscribe("/queue/q", ack="client-individual")
        self.producer_of(*bodies)
        return consumer, [f"ACK\nid:{frame.headers['ack']}\n\n\0".encode() for frame in consumer.frames()]

    def producer_of(self, *bodies: str) -> None:
        self.open().connect().raw(self.sends(*bodies))

    def test_acks_are_settled_together(self) -> None:
        consumer, acks = self.delivered("a", "b", "c")
        commits = self.store.commits
        self.assertEqual(consumer.raw(b"".join(acks)), [])
        self.assertEqual(self.store.commits, commits + 1)
        stats = self.broker.queue_stats("q")
        self.assertEqual((stats.on_loan, stats.settled), (0, 3))

    def test_an_ack_that_names_nothing_is_an_error_behind_those_before_it(self) -> None:
        consumer, acks = self.delivered("a", "b", "c")
        (error,) = consumer.raw(acks[0] + b"ACK\nid:nothing.7\n\n\0" + acks[1])
        self.assertEqual(error.command, "ERROR")
        self.assertEqual(self.broker.queue_stats("q").settled, 1)

    def test_a_disconnects_receipt_waits_for_the_acks_before_it(self) -> None:
        consumer, acks = self.delivered("a", "b")
        self.store.hold = True
        self.assertEqual(consumer.raw(b"".join(acks) + b"DISCONNECT\nreceipt:bye\n\n\0"), [])
        self.store.release_commit()
        self.assertEqual(self.receipts(consumer.frames()), ["bye"])

    def test_an_ack_in_a_transaction_and_one_with_a_receipt_go_by_themselves(self) -> None:
        consumer, acks = self.delivered("a", "b", "c")
        inside = acks[1].replace(b"\n\n", b"\ntransaction:t\n\n")
        answered = acks[2].replace(b"\n\n", b"\nreceipt:done\n\n")
        frames = consumer.raw(acks[0] + b"BEGIN\ntransaction:t\n\n\0" + inside + answered)
        self.assertEqual(self.receipts(frames), ["done"])
        self.assertEqual(self.broker.queue_stats("q").on_loan, 1)

    def test_a_burst_is_what_is_used(self) -> None:
        """The tests above would pass without one."""
        client = self.producer()
        put = self.counted()
        client.raw(self.sends(*"abcde"))
        self.assertEqual(put, [[5]])
        self.assertEqual(self.broker.queue_stats(queue("q").name).published, 7)

    def counted(self) -> list[list[int]]:
        """Of what is put in together from now on: how many messages for one destination after the other."""
        found: list[list[int]] = []
        original = self.broker.put

        def put(bursts: Sequence[Burst], told: Told) -> None:
            found.append([len(burst.messages) for burst in bursts])
            original(bursts, told)

        self.patch(self.broker, "put", put)
        return found

    def known(self) -> tuple[Client, bytes]:
        """A producer, and SENDs of it for three queues that have been there often enough."""
        client = self.producer()
        data = b"".join(self.sends(name + "1", name + "2", destination=f"/queue/{name}") for name in "xyx")
        client.raw(data)
        client.raw(data)
        return client, data

    def test_those_for_several_queues_are_put_in_together(self) -> None:
        client, data = self.known()
        put, commits = self.counted(), self.store.commits
        self.store.hold = True
        self.assertEqual(client.raw(data), [])
        self.store.release_commit()
        self.assertEqual(self.receipts(client.frames()), ["x1", "x2", "y1", "y2", "x1", "x2"])
        self.assertEqual((put, self.store.commits), ([[2, 2, 2]], commits + 1))
        self.store.hold = False
        self.assertEqual((self.taken("x")[-4:], self.taken("y")[-2:]), ([b"x1", b"x2"] * 2, [b"y1", b"y2"]))

    def test_a_failed_commit_of_several_queues_is_the_first_ones_error(self) -> None:
        client, data = self.known()
        self.store.hold = True
        client.raw(data)
        self.store.fail_commit(StoreUnavailable("no room"))
        (error,) = client.frames()
        self.assertEqual((error.command, error.headers["receipt-id"]), ("ERROR", "x1"))
        self.store.hold = False
        self.assertEqual((len(self.taken("x")), len(self.taken("y"))), (8, 4))

    def test_not_more_than_so_many_are_put_in_together(self) -> None:
        client, data = self.known()
        put = self.counted()
        for name, value, expected in (("MAX_SENDS", 4, [[2, 2], [2]]), ("MAX_SENT", 4, [[2], [2], [2]])):
            with self.subTest(name):
                put.clear()
                self.patch(breath, name, value)
                self.assertEqual(len(self.receipts(client.raw(data))), 6)
                self.assertEqual(put, expected)
                self.patch(breath, name, 1_000)

    def test_a_topics_are_put_in_by_themselves(self) -> None:
        client, _ = self.known()
        parts = [self.sends(name, destination=f"/{kind}/{name}") for kind, name in (("queue", "x"), ("topic", "t"))]
        data = b"".join((parts[0], parts[1], parts[0]))
        client.raw(data)
        client.raw(data)
        put = self.counted()
        self.store.hold = True
        self.assertEqual(client.raw(data), [])
        self.store.release_commit()
        self.store.release_commit()
        self.assertEqual(self.receipts(client.frames()), ["x", "t", "x"])
        self.assertEqual(put, [[1], [1], [1]])
