"""stomp.py against one broker process: connections, acks, transactions, heart-beats, subscriptions, reconnection."""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import stomp
from stomp.exception import ConnectFailedException
from stomp.utils import Frame

from tests.stomp.support import port_of_ours
from tests.support import Twistd

#: Seconds a client waits before its test fails.
PATIENCE = 60.0
VERSIONS = {"1.0": stomp.Connection10, "1.1": stomp.Connection11, "1.2": stomp.Connection12}
_names = (f"/queue/q{n}" for n in itertools.count())


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Where the broker's STOMP is."""
    with Twistd(tmp_path_factory.mktemp("data"), "--data=:memory:") as broker:
        yield broker.ports()["STOMP"]


class Client(stomp.ConnectionListener):  # type: ignore[misc]
    """One connection, and what came on it."""

    def __init__(self, port: int, version: str = "1.2", **options: Any) -> None:
        self.frames: queue.Queue[tuple[str, Frame]] = queue.Queue()
        self.gone = threading.Event()
        self.beaten = threading.Event()
        headers = options.pop("headers", {})
        self.at = VERSIONS[version]([("127.0.0.1", port)], **options)
        self.at.set_listener("", self)
        self.at.connect("someone", "secret", wait=True, headers=headers)

    def on_message(self, frame: Frame) -> None:
        self.frames.put(("MESSAGE", frame))

    def on_receipt(self, frame: Frame) -> None:
        self.frames.put(("RECEIPT", frame))

    def on_error(self, frame: Frame) -> None:
        self.frames.put(("ERROR", frame))

    def on_disconnected(self) -> None:
        self.gone.set()

    def on_heartbeat(self) -> None:
        self.beaten.set()

    def next(self, command: str = "MESSAGE") -> Any:
        """The next frame, which is this."""
        found, frame = self.frames.get(timeout=PATIENCE)
        assert found == command, (found, frame.headers, frame.body)
        return frame

    def send(self, destination: str, *texts: str, **headers: str) -> None:
        """Send, and see it confirmed."""
        for text in texts:
            self.at.send(destination, text, receipt="sent", headers=headers)
            assert self.next("RECEIPT").headers["receipt-id"] == "sent"

    def ack(self, message: Frame, command: str = "ack", **options: Any) -> None:
        """Settle."""
        ids = [message.headers[name] for name in ("ack",) if name in message.headers]
        if not ids:
            ids = [message.headers["message-id"], message.headers["subscription"]]
        if isinstance(self.at, stomp.Connection10):
            del ids[1:]
        getattr(self.at, command)(*ids, **options)

    def leave(self) -> None:
        """DISCONNECT, if it is still there."""
        if not self.gone.is_set():
            self.at.disconnect()

    def drop(self) -> None:
        """Break the connection."""
        self.at.transport.disconnect_socket()


@pytest.fixture
def clients(port: int) -> Iterator[Any]:
    """Makes clients, and has them leave."""
    made: list[Client] = []

    def make(version: str = "1.2", **options: Any) -> Client:
        made.append(Client(port, version, **options))
        return made[-1]

    yield make
    for client in made:
        client.leave()


def settled(client: Client, name: str) -> None:
    """Nothing is left in a queue."""
    client.at.subscribe(name, "look", ack="auto", headers={"browser": "true"})
    assert client.next().headers["browser"] == "end"
    client.at.unsubscribe("look")


@pytest.mark.parametrize("version", VERSIONS)
def test_a_message_goes_through(clients: Any, version: str) -> None:
    """Lines 13, 23, 33 and 41."""
    client, name = clients(version), next(_names)
    client.send(name, "grün", colour="rot:blau")
    client.at.subscribe(name, "1", ack="client")
    message = client.next()
    assert (message.body, message.headers["colour"], message.headers["destination"]) == ("grün", "rot:blau", name)
    client.ack(message, receipt="acked")
    assert client.next("RECEIPT").headers["receipt-id"] == "acked"


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_what_is_not_acked_comes_again(clients: Any, version: str) -> None:
    """Lines 56 and 62."""
    client, name = clients(version), next(_names)
    client.send(name, "1", "2")
    client.at.subscribe(name, "1", ack="client-individual")
    first, second = client.next(), client.next()
    assert (first.headers["redelivered"], second.headers["redelivered"]) == ("false", "false")
    client.ack(second, receipt="acked")
    client.next("RECEIPT")
    client.drop()
    again = clients(version)
    again.at.subscribe(name, "1", ack="client-individual")
    message = again.next()
    assert (message.body, message.headers["redelivered"], message.headers["delivery-count"]) == ("1", "true", "2")
    again.ack(message)


def test_a_cumulative_ack(clients: Any) -> None:
    """Line 57."""
    client, name = clients(), next(_names)
    client.send(name, "1", "2", "3")
    client.at.subscribe(name, "1", ack="client")
    last = [client.next() for _ in range(3)][-1]
    client.ack(last, receipt="acked")
    client.next("RECEIPT")
    settled(client, name)


def test_a_nack_with_and_without_requeue(clients: Any) -> None:
    """Line 59."""
    client, name = clients(), next(_names)
    client.send(name, "1")
    client.at.subscribe(name, "1", ack="client-individual")
    client.ack(client.next(), "nack")
    again = client.next()
    assert again.headers["redelivered"] == "true"
    client.ack(again, "nack", requeue="false", receipt="gone")
    client.next("RECEIPT")
    settled(client, name)


@pytest.mark.parametrize("version", VERSIONS)
def test_transactions(clients: Any, version: str) -> None:
    """Lines 63, 64 and 65."""
    client, name, other = clients(version), next(_names), next(_names)
    client.send(name, "job")
    client.at.subscribe(name, "1", ack="client")
    client.at.subscribe(other, "2")
    job = client.next()
    for end in ("abort", "commit"):
        transaction = client.at.begin()
        client.ack(job, transaction=transaction)
        client.at.send(other, end, transaction=transaction)
        getattr(client.at, end)(transaction)
    assert client.next().body == "commit"
    if version != "1.0":
        settled(client, name)


def test_heart_beats_both_ways(clients: Any) -> None:
    """Line 30."""
    # It is dropped if it is silent for twice its own period, and so must go on for longer than that; the period is what
    # the machine may be late by. What it makes of our silence is not looked at.
    client = clients(heartbeats=(3000, 500), heart_beat_receive_scale=PATIENCE)
    end = time.monotonic() + 6.5
    while time.monotonic() < end:
        client.beaten.clear()
        assert client.beaten.wait(PATIENCE)
    assert not client.gone.is_set()
    client.send(next(_names), "still there")


def test_two_subscribers_share_a_queue_and_both_get_a_topic(clients: Any) -> None:
    """Lines 33 and 50."""
    one, two, name = clients(), clients("1.1"), next(_names)
    for client in (one, two):
        client.at.subscribe(name, "q", ack="client-individual", headers={"prefetch-count": "1"})
        client.at.subscribe("/topic/prices.*", "t", headers={"receipt": "listens"})
        client.next("RECEIPT")
    one.at.send(name, "1")
    one.at.send(name, "2")
    assert {one.next().body, two.next().body} == {"1", "2"}
    one.at.send("/topic/prices.gold", "up")
    for client in (one, two):
        assert client.next().headers["destination"] == "/topic/prices.gold"


def test_a_selector(clients: Any) -> None:
    """Line 49."""
    client, name = clients(), next(_names)
    client.send(name, "blue", colour="blue")
    client.send(name, "red", colour="red")
    client.at.subscribe(name, "1", headers={"selector": "colour = 'red'"})
    assert client.next().body == "red"


def test_a_durable_subscription(clients: Any) -> None:
    """Line 68."""
    durable = {"activemq.subscriptionName": "news"}
    reader = clients("1.1", headers={"client-id": "reader"})
    reader.at.subscribe("/topic/news", "1", headers={**durable, "receipt": "made"})
    reader.next("RECEIPT")
    reader.leave()
    assert reader.gone.wait(PATIENCE)
    clients().send("/topic/news", "missed")
    reader = clients("1.1", headers={"client-id": "reader"})
    reader.at.subscribe("/topic/news", "1", headers=durable)
    assert reader.next().body == "missed"


def test_a_request_and_its_reply(clients: Any) -> None:
    """Line 71."""
    client, worker, name = clients(), clients("1.1"), next(_names)
    worker.at.subscribe(name, "1")
    client.at.send(name, "question", headers={"reply-to": "/temp-queue/answers"})
    request = worker.next()
    worker.at.send(request.headers["reply-to"], "answer")
    reply = client.next()
    assert (reply.body, reply.headers["subscription"]) == ("answer", "/temp-queue/answers")


def test_an_error_reaches_the_client(clients: Any) -> None:
    """Lines 38 and 44."""
    client = clients()
    client.at.send("/topic/", "x", receipt="never")
    error = client.next("ERROR")
    assert (error.headers["error-code"], error.headers["receipt-id"]) == ("invalid-destination", "never")
    assert client.gone.wait(PATIENCE)


def test_the_same_client_connects_again(clients: Any) -> None:
    """Line 28."""
    client, name = clients(), next(_names)
    for text in ("1", "2"):
        client.gone.clear()
        client.send(name, text)
        client.at.disconnect(receipt="bye")
        client.next("RECEIPT")
        assert client.gone.wait(PATIENCE)
        client.at.connect("someone", "secret", wait=True)
    client.gone.clear()
    client.at.subscribe(name, "1")
    assert [client.next().body for _ in range(2)] == ["1", "2"]


def test_after_a_crash_a_client_connects_again_and_finds_what_was_confirmed(tmp_path: Any) -> None:
    with port_of_ours() as port:
        options = (f"--stomp={port}", "--memcache=0", "--http=0")
        with Twistd(tmp_path, *options, free_ports=False) as broker:
            broker.ports()
            client = Client(port, reconnect_attempts_max=30, reconnect_sleep_initial=0.1, reconnect_sleep_increase=0.0)
            client.send("/queue/q", "kept")
            broker.kill()
            assert client.gone.wait(PATIENCE)
        with pytest.raises(ConnectFailedException):
            Client(port, reconnect_attempts_max=1)
        with Twistd(tmp_path, *options, free_ports=False) as broker:
            broker.ports()
            client.at.connect("someone", "secret", wait=True)
            client.at.subscribe("/queue/q", "1")
            assert client.next().body == "kept"
            client.at.disconnect()
