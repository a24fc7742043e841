"""ACKs that come together and say nothing but an id."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from broker.stomp.dialect import V1_2
from broker.stomp.flavour import COILMQ
from broker.stomp.frames import Acks, Frame
from broker.stomp.server import StompFactory
from broker.stomp.wire import FrameError, Limits, Parser
from broker.stomp.wishes import Terms
from tests.stomp.support import Client, FrontTest, bodies, receipts

_frames = st.sampled_from(
    [f"ACK\nid:{id}.{number}\n\n\0" for id in ("a", "b.c", "") for number in ("0", "7", "12", "012", "x", "9" * 20)]
    + ["ACK\nid:a\n\n\0", "ACK\nid:a.1\nreceipt:r\n\n\0", "ACK\nid:a.1\n\nx\0", "ACK\r\nid:a.1\r\n\r\n\0", "\n", "\r\n"]
    + ["ACKS\n\n\0", "ABORT\ntransaction:1\n\n\0", "SEND\ndestination:q\n\nACK\nid:a.1\n\n\0", "ACK\nid:a\\c.1\n\n\0"]
)


def parsed(parser: Parser, data: bytes, cuts: list[int]) -> tuple[list[Frame], str]:
    """The frames, and what was wrong in the end."""
    found: list[Frame] = []
    at = 0
    for place in (*sorted(cut % (len(data) + 1) for cut in cuts), len(data)):
        parser.feed(data[at:place])
        at = place
        try:
            while (one := parser.take()) is not None:
                assert isinstance(one, Acks | Frame)
                found += one.frames if isinstance(one, Acks) else [one]
        except FrameError as error:
            return found, str(error)
    return found, ""


@given(st.lists(_frames, max_size=10), st.lists(st.integers(0, 1_000), max_size=5))
@settings(max_examples=300)
def test_acks_mean_together_what_they_mean_one_by_one(frames: list[str], cuts: list[int]) -> None:
    data = "".join(frames).encode()
    together = Parser(V1_2, Limits())
    together.together = True
    assert parsed(together, data, cuts) == parsed(Parser(V1_2, Limits()), data, [])


def test_acks_of_one_subscription_are_one() -> None:
    parser = Parser(V1_2, Limits())
    parser.together = True
    parser.feed(b"ACK\nid:a.b.1\n\n\0\nACK\nid:a.b.22\n\n\0ACK\nid:a.3\n\n\0ACK\nid:a.4\n\n")
    first, second = parser.take(), parser.take()
    assert isinstance(first, Acks)
    assert isinstance(second, Acks)
    assert ((first.id, first.numbers), (second.id, second.numbers)) == (("a.b", [1, 22]), ("a", [3]))
    assert parser.take() is None
    parser.feed(b"\0")
    assert parser.take() == Frame("ACK", {"id": "a.4"})  # it came in two parts


class AcksTests(FrontTest):
    """What they do."""

    def consumer(self, client: Client | None = None, **headers: object) -> tuple[Client, list[bytes]]:
        """Who has four messages on loan, and their ACKs."""
        consumer = client or self.client()
        self.put("q", b"1", b"2", b"3", b"4")
        mode = {"ack": "client-individual", **headers}
        frames = [*consumer.subscribe("/queue/q", **mode), *consumer.frames()]  # type: ignore[arg-type]
        return consumer, [f"ACK\nid:{frame.headers['ack']}\n\n\0".encode() for frame in frames]

    def settled(self) -> int:
        return self.broker.queue_stats("q").settled

    def test_one_that_is_named_twice_is_refused_the_second_time(self) -> None:
        consumer, acks = self.consumer()
        (error,) = consumer.raw(acks[0] + acks[1] + acks[0] + acks[2])
        self.assertEqual((error.command, error.headers["message"]), ("ERROR", "Message not found"))
        self.assertEqual(self.settled(), 2)

    def test_where_a_session_goes_on_those_behind_a_refused_one_are_settled(self) -> None:
        self.factory = StompFactory(self.broker, clock=self.clock, terms=Terms(flavour=COILMQ))
        consumer, acks = self.consumer(prefetch_count=10)
        found = consumer.raw(acks[0] + b"ACK\nid:0.99\n\n\0" + acks[1] + acks[2])
        self.assertEqual([frame.command for frame in found], ["ERROR"])
        self.assertEqual(self.settled(), 3)

    def test_one_that_is_no_longer_on_loan_is_refused_and_those_before_it_are_settled(self) -> None:
        consumer, acks = self.consumer()
        self.broker.release([next(iter(self.broker._directory.queues["q"].loans()))])
        *_, error = consumer.raw(acks[1] + acks[2] + acks[0])
        self.assertEqual((error.command, error.headers["message"]), ("ERROR", "Message not found"))
        self.assertEqual(self.settled(), 2)

    def test_the_last_of_a_run_settles_what_was_before_it(self) -> None:
        consumer, acks = self.consumer(ack="client")
        self.assertEqual(consumer.raw(acks[1] + acks[3]), [])
        self.assertEqual((self.settled(), self.on_loan("q")), (4, 0))

    def test_what_was_unsubscribed_can_still_be_settled(self) -> None:
        consumer, acks = self.consumer()
        consumer.send("UNSUBSCRIBE", id="0")
        self.assertEqual(consumer.raw(b"".join(acks)), [])
        self.assertEqual(self.settled(), 4)

    def test_they_make_room_for_further_messages(self) -> None:
        consumer, acks = self.consumer(prefetch_count=4)
        self.put("q", b"5", b"6", b"7", b"8", b"9")
        found = consumer.raw(b"".join(acks[:3]))
        self.clock.advance(0)
        self.assertEqual(bodies([*found, *consumer.frames()]), [b"5", b"6", b"7"])

    def test_a_receipt_behind_them_follows_their_commit(self) -> None:
        consumer, acks = self.consumer()
        self.store.hold = True
        last = acks[3].replace(b"\n\n", b"\nreceipt:r\n\n")
        self.assertEqual(consumer.raw(b"".join(acks[:3]) + last), [])
        while self.store.held is not None:
            self.store.release_commit()
        self.assertEqual(receipts(consumer.frames()), ["r"])
        self.assertEqual(self.settled(), 4)
