"""Whatever a client says: no failure of ours, one ERROR at most and that last, and nothing stays on loan."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.core.broker import Broker
from broker.core.destination import queue
from broker.core.message import Message
from broker.stomp.flavour import DEFAULT, FLAVOURS, Flavour
from broker.stomp.frames import Frame, encode
from broker.stomp.server import StompFactory
from broker.stomp.wishes import Terms
from broker.storage.memory import MemoryStore
from tests.stomp.support import NOW, Client, bodies

VERSIONS = ("1.0", "1.1", "1.2")
#: Values that mean something in some header: ids, modes, counts, destinations.
_values = st.sampled_from(
    ["a", "b", "/queue/a", "/topic/t", "1", "2", "a.1", "a.2", "1.1", "1.2", "2.3", "client", "client-individual"]
) | st.sampled_from(["auto", "false", "", "0", "-1", "\\n", ":", "é", "9" * 25])
_names = st.sampled_from(["destination", "id", "ack", "transaction", "message-id", "subscription", "receipt"])
_commands = st.sampled_from(
    ["SEND", "SEND", "SUBSCRIBE", "SUBSCRIBE", "UNSUBSCRIBE", "ACK", "ACK", "NACK", "BEGIN", "COMMIT", "ABORT"]
) | st.sampled_from(["DISCONNECT", "CONNECT", "MESSAGE"])
#: Mostly what a sane client would say.
_sane = st.sampled_from(
    [
        Frame("SEND", {"destination": "a", "receipt": "1"}),
        Frame("SEND", {"destination": "/topic/t"}),
        Frame("SEND", {"destination": "a", "transaction": "1"}),
        Frame("SUBSCRIBE", {"destination": "a", "id": "a", "ack": "client", "receipt": "1"}),
        Frame("SUBSCRIBE", {"destination": "a", "id": "1", "ack": "client-individual", "prefetch-count": "2"}),
        Frame("SUBSCRIBE", {"destination": "/topic/t", "id": "2"}),
        Frame("UNSUBSCRIBE", {"id": "a"}),
        Frame("BEGIN", {"transaction": "1"}),
        Frame("COMMIT", {"transaction": "1", "receipt": "1"}),
        Frame("ABORT", {"transaction": "1"}),
    ]
)
#: What the clients of other brokers say.
_rich = st.sampled_from(
    [
        Frame("SEND", {"destination": "/queue/a,b,/topic/t", "receipt": "1"}),
        Frame("SEND", {"destination": "a", "reply-to": "/temp-queue/r"}),
        Frame("SEND", {"destination": "/temp-queue/r", "transaction": "1"}),
        Frame("SEND", {"destination": "/topic/t", "colour": "red", "JMSXGroupID": "g"}),
        Frame("SUBSCRIBE", {"destination": "/temp-queue/r", "id": "r", "ack": "client"}),
        Frame("SUBSCRIBE", {"destination": "a", "id": "w", "ack": "client", "browser": "true", "receipt": "1"}),
        Frame("SUBSCRIBE", {"destination": "a", "id": "x", "ack": "client", "consumer-window-size": "900"}),
        Frame("SUBSCRIBE", {"destination": "a", "id": "x", "ack": "client", "selector": "colour = 'red'"}),
        Frame("SUBSCRIBE", {"destination": "/topic/t", "id": "d", "activemq.subscriptionName": "n", "receipt": "1"}),
        Frame("SUBSCRIBE", {"destination": "/topic/t", "id": "d", "durable": "true", "ack": "client"}),
        Frame("SUBSCRIBE", {"destination": "/topic/*", "id": "p", "selector": "colour IS NULL", "no-local": "true"}),
        Frame("SUBSCRIBE", {"destination": "/topic/t", "id": "f", "from-seq": "start", "ack": "client"}),
        Frame("UNSUBSCRIBE", {"id": "d", "activemq.subscriptionName": "n", "receipt": "1"}),
        Frame("UNSUBSCRIBE", {"id": "d", "durable": "true"}),
        Frame("UNSUBSCRIBE", {"id": "x"}),
        Frame("UNSUBSCRIBE", {"id": "f"}),
    ]
)
#: An ACK or NACK of one of the deliveries that came, and what else it says.
_settles = st.tuples(
    st.sampled_from(["ACK", "ACK", "NACK"]),
    st.integers(0, 8),
    st.sampled_from([{}, {}, {"transaction": "1"}, {"transaction": "1"}, {"requeue": "false"}, {"receipt": "1"}]),
)
_odd = st.builds(Frame, _commands, st.dictionaries(_names, _values, max_size=5), st.binary(max_size=3))
_store = st.sampled_from(["take", "hold", "release", "fail"])
_steps = st.lists(st.one_of(_sane, _sane, _rich, _rich, _settles, _settles, _settles, _store, _odd), max_size=60)


class Conversation:
    """One client after the other, each until it is refused, on one broker."""

    def __init__(self, version: str, mode: str, flavour: Flavour) -> None:
        self.version = version
        self.keeps = flavour.on_error == "keep"
        self.mode = mode
        self.clock, self.store = Clock(), MemoryStore()
        self.broker = Broker(self.store, self.clock, wall=lambda: NOW + self.clock.seconds())
        assert Deferred.fromCoroutine(self.broker.start()).called
        self.factory = StompFactory(self.broker, clock=self.clock, terms=Terms(flavour=flavour))
        self.published = 5
        for number in range(self.published):
            assert self.broker.publish(queue("a"), Message(body=b"%d" % (number + 1))).called
        self.client = self.connect()
        self.begin()

    def connect(self, *, takes: bool = False) -> Client:
        self.frames: list[Frame] = []
        return Client(self.factory, self.clock, takes=takes).connect(self.version)

    def step(self, step: Frame | str | tuple[str, int, dict[str, str]]) -> None:
        store = self.store
        if isinstance(step, Frame):
            if step.command == "SEND":
                self.published += 1
                step = msgspec.structs.replace(step, body=b"%d" % self.published)
            self.say(step)
        elif isinstance(step, tuple):
            command, place, more = step
            messages = [frame.headers for frame in self.frames if frame.command == "MESSAGE"]
            if messages:
                named = messages[-1 - place % len(messages)]
                names = {"id": named.get("ack", "a.1"), "message-id": named["message-id"]}
                self.say(Frame(command, {**names, "subscription": named.get("subscription", ""), **more}))
        elif step == "take":
            self.client.take()
        else:
            store.hold = step == "hold"
            if store.held and step == "release":
                store.release_commit()
            elif store.held and step == "fail":
                store.fail_commit()
        self.listen()
        if self.client.transport.half_closed:
            self.end()
            self.client = self.connect()
            self.begin()

    def begin(self) -> None:
        """What most clients do first."""
        self.say(Frame("SUBSCRIBE", {"destination": "a", "id": "s.1", "ack": self.mode, "prefetch-count": "4"}))
        self.say(Frame("BEGIN", {"transaction": "1"}))
        self.listen()

    def say(self, frame: Frame) -> None:
        self.client.protocol.dataReceived(encode(frame, self.client.parser.dialect))

    def listen(self) -> None:
        self.frames += self.client.frames()

    def end(self) -> None:
        """The client goes."""
        self.client.lose()
        commands = [frame.command for frame in self.frames]
        assert set(commands) <= {"ERROR", "RECEIPT", "MESSAGE"}
        assert self.keeps or "ERROR" not in commands[:-1]
        assert not any(frame.headers.get("error-code") == "processing-error" for frame in self.frames)


@given(
    version=st.sampled_from(VERSIONS),
    mode=st.sampled_from(["auto", "client", "client", "client-individual"]),
    steps=_steps,
    tail=st.binary(max_size=20),
    stop=st.booleans(),
    flavour=st.sampled_from([DEFAULT, *FLAVOURS.values()]),
)
@settings(max_examples=200, deadline=None)
def test_any_conversation_ends_well(
    version: str,
    mode: str,
    steps: list[Frame | str | tuple[str, int, dict[str, str]]],
    tail: bytes,
    stop: bool,
    flavour: Flavour,
) -> None:
    conversation = Conversation(version, mode, flavour)
    broker, store = conversation.broker, conversation.store
    for step in steps:
        conversation.step(step)
    conversation.client.protocol.dataReceived(tail)
    if stop:
        conversation.factory.shut_down()
    store.hold = False
    if store.held:
        store.release_commit()
    conversation.listen()
    conversation.end()
    assert broker.queue_stats("a").on_loan == 0
    assert not [name for name in broker.queues() if name.startswith("temp-queue/")]
    assert not conversation.factory.connections
    calls = [getattr(call, "func", None) for call in conversation.clock.getDelayedCalls()]
    timers = [getattr(call, "__module__", "") for call in calls]
    assert not [module for module in timers if module.startswith("broker.stomp")]

    last = conversation.connect(takes=True)
    left = bodies(last.subscribe("/queue/a", "last"))
    while more := bodies(last.frames()):
        left += more
    assert len(set(left)) == len(left)
    assert {int(body) for body in left} <= set(range(1, conversation.published + 1))
    last.lose()
