"""Many of everything: what it costs, and that it works."""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.core.broker import Broker
from broker.core.destination import queue
from broker.core.message import Message
from broker.core.policy import Policy
from broker.stomp.destinations import Names
from broker.stomp.dialect import DIALECTS, Dialect
from broker.stomp.frames import Frame, encode, message_head
from broker.stomp.messages import Tails
from broker.stomp.server import StompFactory
from broker.stomp.wire import Limits, Parser
from broker.storage.memory import MemoryStore
from tests.core.support import no_collection
from tests.stomp.support import NOW, Client, FrontTest, bodies, header, receipts

_QUEUE = queue("q")


def calls(work: Callable[[], object]) -> int:
    """How many functions are called by `work`."""
    profile = cProfile.Profile()
    with no_collection():
        profile.runcall(work)
    return int(pstats.Stats(profile).total_calls)  # type: ignore[attr-defined]


class ManyTest(FrontTest):
    policy = Policy(max_message_size=20 * 1024 * 1024)

    def cumulative(self, count: int) -> int:
        client = self.client()
        self.put(f"q{count}", *(b"x" for _ in range(count)))
        frames = client.subscribe(f"q{count}", ack="client", prefetch_count=count)
        while len(frames) < count:
            frames += client.frames()
        last = frames[-1].headers["ack"]
        return calls(lambda: self.assertEqual(receipts(client.send("ACK", id=last, receipt="1")), ["1"]))

    def test_a_cumulative_ack_costs_what_it_settles(self) -> None:
        """Line 57: 10,000 cost at most 2.3 times what 5,000 cost."""
        self.assertLessEqual(self.cumulative(10_000), 2.3 * self.cumulative(5_000))

    def test_a_thousand_subscriptions_in_one_session(self) -> None:
        client = self.client()
        for n in range(1000):
            client.protocol.dataReceived(b"SUBSCRIBE\nid:%d\ndestination:/topic/%d\n\n\0" % (n, n))
        frames = []
        for n in (0, 500, 999):
            frames += client.send("SEND", destination=f"/topic/{n}")
        self.assertEqual(header(frames, "subscription"), ["0", "500", "999"])

    def test_a_body_of_16_mib(self) -> None:
        """Line 14."""
        client, body = self.client(), bytes(range(256)) * 65_536
        client.subscribe("/queue/q")
        self.assertEqual(bodies(client.send("SEND", body, destination="/queue/q", content_length=len(body))), [body])

    def test_one_subscriber_of_a_thousand_that_does_not_read_holds_up_nobody(self) -> None:
        """Line 33."""
        clients = [self.client(takes=n != 500) for n in range(1000)]
        for client in clients:
            client.protocol.dataReceived(b"SUBSCRIBE\nid:1\ndestination:/topic/t\n\n\0")
        sent = [b"%d" % n * 10_000 for n in range(10)]
        for body in sent:
            clients[0].protocol.dataReceived(b"SEND\ndestination:/topic/t\n\n%b\0" % body)
            self.clock.advance(0)
        unread = len(clients[500].transport.value())
        for n, client in enumerate(clients):
            if n != 500:
                self.assertEqual(bodies(client.frames()), sent, n)
        self.assertLess(unread, 90_000)

    def test_a_selective_consumer_gets_its_own_behind_fifty_thousand_others(self) -> None:
        for _ in range(50):
            for _ in range(1000):
                _ = self.broker.publish(_QUEUE, Message(body=b"x", headers={"colour": "blue"}))
            self.clock.advance(0)
        self.put("q", b"mine", headers={"colour": "red"})
        client = self.client()
        frames = client.subscribe("/queue/q", selector="colour = 'red'")
        for _ in range(1000):
            if frames:
                break
            frames = client.frames()
        self.assertEqual(bodies(frames), [b"mine"])
        self.assertEqual(self.ready("q"), 50_000)


class Killed:
    """A broker whose process dies at a step of a transaction, and what is there after its next start."""

    def __init__(self, steps: int) -> None:
        self.store = MemoryStore()
        clock, broker = self.start()
        for body in (b"job", b"other"):
            _ = broker.publish(queue("work"), Message(body=body))
        factory = StompFactory(broker, clock=clock)
        worker = Client(factory, clock).connect()
        self.listener = Client(factory, clock).connect()
        self.listener.subscribe("/topic/news")
        (job,) = worker.subscribe("/queue/work", ack="client-individual", prefetch_count=1)
        self.store.hold = True
        self.confirmed = False
        turns: list[Callable[[], object]] = [
            lambda: worker.send("BEGIN", transaction="t"),
            lambda: worker.send("SEND", b"a", destination="/queue/a", transaction="t"),
            lambda: worker.send("SEND", b"b", destination="/queue/b", transaction="t"),
            lambda: worker.send("SEND", b"n", destination="/topic/news", transaction="t"),
            lambda: worker.send("ACK", id=job.headers["ack"], transaction="t"),
            lambda: worker.send("COMMIT", transaction="t", receipt="done"),
            self.store.release_commit,
            lambda: setattr(self, "confirmed", receipts(worker.frames()) == ["done"]),
        ]
        for turn in turns[:steps]:
            turn()

    def start(self) -> tuple[Clock, Broker]:
        clock = Clock()
        broker = Broker(self.store, clock, wall=lambda: NOW + clock.seconds())
        _ = Deferred.fromCoroutine(broker.start())
        return clock, broker

    def after(self) -> tuple[int, int, int]:
        """Messages in the three queues after the next start."""
        self.store.hold = False
        _, broker = self.start()
        stats = [broker.queue_stats(name) for name in ("work", "a", "b")]
        work, a, b = (one.ready + one.on_loan for one in stats)
        return work, a, b


@pytest.mark.parametrize("steps", range(9))
def test_a_transaction_is_all_or_nothing_wherever_the_process_dies(steps: int) -> None:
    killed = Killed(steps)
    heard = bodies(killed.listener.frames())
    found = killed.after()
    if steps < 7:
        assert (found, heard) == ((2, 0, 0), [])
    else:
        assert (found, heard) == ((1, 1, 1), [b"n"])
    assert killed.confirmed == (steps == 8)


_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
_RESERVED = {"destination", "message-id", "timestamp", "priority", "expires", "content-length", "subscription", "ack"}
_OTHERS = {"redelivered", "receipt", "transaction", "content-type", "reply-to", "delivery-count", "browser", "no-local"}


@given(
    st.dictionaries(_text.filter(bool), _text, max_size=6),
    st.sampled_from(DIALECTS),
    st.sampled_from(DIALECTS),
)
@settings(max_examples=300)
def test_any_header_crosses_from_any_version_to_any(
    headers: dict[str, str], sender: Dialect, receiver: Dialect
) -> None:
    """Lines 7, 8 and 16: what the receiver can write comes as it was sent, and nothing adds a line."""
    parser = Parser(sender, Limits())
    parser.feed(encode(Frame("SEND", {"destination": "q", **headers}), sender))
    frame = parser.next_frame()
    assert frame is not None
    kept = {name: value for name, value in frame.headers.items() if name not in _RESERVED | _OTHERS}
    shown = _Shown(Message(body=b"x", headers=kept))
    data = message_head({"subscription": "1"}, receiver) + Tails().of(shown, receiver, Names())
    reader = Parser(receiver, Limits())
    reader.feed(data)
    got = reader.next_frame()
    assert got is not None
    assert reader.next_frame() is None
    expected = {_as_written(name, receiver, True): _as_written(value, receiver, False) for name, value in kept.items()}
    theirs = {name: value for name, value in got.headers.items() if name not in _RESERVED | _OTHERS}
    if len(expected) == len(kept):
        assert theirs == expected


def _as_written(text: str, dialect: Dialect, is_name: bool) -> str:
    """What a receiver of this version reads."""
    if dialect.version == "1.0":
        for character in "\n\r:" if is_name else "\n\r":
            text = text.replace(character, " ")
        return text if is_name else text.strip(" \t")
    if dialect.version == "1.1" and not is_name and text.endswith("\r"):
        return text[:-1] + " "
    return text


class _Shown:
    """A message on its way out."""

    message_id = "1.0"
    source = _QUEUE

    def __init__(self, message: Message) -> None:
        self.message = message
