"""The client, against the front it belongs to: over a socket where that matters, over a clock where time does."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from broker.stomp.client import Lost, Message, StompClient, StompError
from broker.stomp.client_wire import ClientProtocol
from broker.stomp.frames import Frame
from tests.stomp.support import port_of_ours
from tests.support import Served, serving, tx


@contextlib.asynccontextmanager
async def connected(**headers: str) -> AsyncIterator[tuple[StompClient, Served]]:
    """A client of a broker."""
    async with serving() as served:
        client = client_of(served.stomp, **headers)
        try:
            yield client, served
        finally:
            await client.stop()


def client_of(port: int, **headers: str) -> StompClient:
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
    client = StompClient(endpoint, reactor, headers=headers, retry=lambda attempt: 0.01)
    client.start()
    return client


def break_off(served: Served) -> None:
    """End all STOMP connections."""
    for front in served.service.fronts:
        if front.name == "stomp":
            front.connections.cut()


@tx(120)
async def test_messages_are_sent_and_come_and_are_settled() -> None:
    async with connected() as (client, served):
        said = await client.connected()
        assert said["version"] == "1.2"
        for n in range(3):
            await client.send("/queue/q", b"%d" % n, {"colour": "red"})
        assert served.service.broker.queue_stats("q").ready == 3
        bodies = []
        async for message in client.subscribe("/queue/q"):
            bodies.append(message.body)
            assert message.headers["colour"] == "red"
            assert message.destination == "/queue/q"
            await message.ack()
            if len(bodies) == 3:
                break
        assert bodies == [b"0", b"1", b"2"]
        stats = served.service.broker.queue_stats("q")
        assert (stats.ready, stats.on_loan) == (0, 0)


@tx(120)
async def test_it_connects_and_subscribes_again() -> None:
    async with connected() as (client, served):
        subscription = client.subscribe("/queue/q")
        await client.connected()
        await client.send("/queue/q", b"1")
        first = await anext(subscription)
        break_off(served)
        again = await anext(subscription)
        assert (again.body, again.headers["redelivered"]) == (b"1", "true")
        with pytest.raises(Lost):
            await first.ack()
        await again.ack()
        await client.send("/queue/q", b"2")
        assert (await anext(subscription)).body == b"2"


@tx(120)
async def test_a_nack_brings_it_back() -> None:
    async with connected() as (client, _):
        subscription = client.subscribe("/queue/q")
        await client.send("/queue/q", b"1")
        await (await anext(subscription)).nack(reason="not now")
        assert (await anext(subscription)).headers["delivery-count"] == "2"


@tx(120)
async def test_what_the_server_refuses_is_raised() -> None:
    async with connected() as (client, _):
        with pytest.raises(StompError, match="Invalid destination") as raised:
            await client.send("/topic/", b"x")
        assert raised.value.code == "invalid-destination"
        subscription = client.subscribe("/queue/q", headers={"selector": "a = "})
        with pytest.raises(StompError, match="Invalid selector"):
            await anext(subscription)
        await client.send("/queue/q", b"it goes on, on a new connection")


@tx(120)
async def test_a_closed_subscription_ends() -> None:
    async with connected() as (client, _):
        subscription = client.subscribe("/topic/t", ack="auto")
        await client.connected()
        await client.send("/topic/t", b"1")
        got = []
        async for message in subscription:
            got.append(message.body)
            subscription.close()
        assert got == [b"1"]


@tx(120)
async def test_who_is_not_there_is_said_after_as_many_attempts_as_wanted() -> None:
    with port_of_ours() as port:
        client = client_of(port)
        with pytest.raises(Exception, match="refused"):
            await client.connected(attempts=2)
        await client.stop()


class Wire:
    """A protocol on a fake wire, before a server that says what the test wants."""

    def __init__(self, beats: tuple[int, int] = (0, 0)) -> None:
        self.clock = Clock()
        self.messages: list[Frame] = []
        self.over = False
        self.transport = StringTransport()
        self.protocol = ClientProtocol(self.clock, {"login": "me"}, beats, self._message, self._ended)
        self.protocol.makeConnection(self.transport)

    def _message(self, protocol: ClientProtocol, frame: Frame) -> None:
        self.messages.append(frame)

    def _ended(self, protocol: ClientProtocol) -> None:
        self.over = True


def result_of(deferred: Deferred[Any]) -> Any:
    """What it has."""
    found: list[Any] = []
    _ = deferred.addBoth(found.append)
    return found[0] if found else None


def test_connect_says_who_and_which_versions() -> None:
    wire = Wire((100, 200))
    assert wire.transport.value() == b"CONNECT\naccept-version:1.0,1.1,1.2\nheart-beat:100,200\nlogin:me\n\n\0"


def test_heart_beats_go_out_and_are_expected() -> None:
    wire = Wire((400, 1000))
    wire.protocol.dataReceived(b"CONNECTED\nversion:1.2\nheart-beat:1000,400\n\n\0")
    wire.transport.clear()
    wire.clock.advance(0.35)
    assert wire.transport.value() == b"\n"
    wire.clock.pump([0.5] * 3)
    assert not wire.transport.disconnecting
    wire.clock.pump([0.5] * 2)
    assert wire.transport.disconnected


def test_versions_are_spoken_as_agreed() -> None:
    for version, name, escaped in (
        ("1.0", "message-id", b"a:b"),
        ("1.1", "message-id", b"a\\cb"),
        ("1.2", "id", b"a\\cb"),
    ):
        wire = Wire()
        wire.protocol.dataReceived(b"CONNECTED\nversion:%b\n\n\0" % version.encode())
        headers = b"message-id:%b\nack:%b\nsubscription:1\n" % (escaped, escaped)
        wire.protocol.dataReceived(b"MESSAGE\n" + headers + b"\nx\0")
        wire.transport.clear()
        _ = Message(wire.messages[0].headers, b"x", wire.protocol).ack()
        assert b"\n%b:%b\n" % (name.encode(), escaped) in wire.transport.value()


def test_an_error_before_the_door_and_bytes_that_are_no_frame() -> None:
    wire = Wire()
    wire.protocol.dataReceived(b"ERROR\nmessage:Access refused\n\nno\0")
    wire.protocol.connectionLost()
    assert isinstance(result_of(wire.protocol.entered).value, StompError)
    wire = Wire()
    wire.protocol.dataReceived(b"CONNECTED\nversion:9\n\n\0")
    assert wire.transport.disconnected
    wire = Wire()
    wire.protocol.dataReceived(b"nonsense\nwithout colon\n\n\0")
    assert wire.transport.disconnected
    wire.protocol.connectionLost()
    assert wire.over
    assert "no frame" in str(result_of(wire.protocol.entered).value)


def test_what_was_asked_fails_with_the_connection() -> None:
    wire = Wire()
    wire.protocol.dataReceived(b"CONNECTED\nversion:1.2\n\n\0")
    asked = wire.protocol.ask("SEND", {"destination": "q"})
    wire.protocol.connectionLost()
    assert isinstance(result_of(asked).value, Lost)
    assert isinstance(result_of(wire.protocol.ask("SEND", {})).value, Lost)


# -- the command


def run(*arguments: str, **environment: str) -> Deferred[subprocess.CompletedProcess[str]]:
    from twisted.internet.threads import deferToThread

    command = [
        sys.executable,
        "-c",
        "import sys; from broker.cli import main; sys.exit(main())",
        "subscribe",
        *arguments,
    ]
    return deferToThread(
        subprocess.run, command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )


@tx(240)
async def test_the_command_prints_what_comes_and_takes_it_from_a_queue() -> None:
    async with connected() as (client, served):
        for n in range(3):
            await client.send("/queue/q", b"%d" % n, {"n": str(n)})
        at = f"--stomp=127.0.0.1:{served.stomp}"
        done = await run("q", at, "--count=1", "--selector=n > 0")
        assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
        done = await run("/queue/q", at, "--count=2", "--json")
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        assert [line["body"] for line in lines] == ["0", "2"]
        assert lines[0]["destination"] == "/queue/q"
        stats = served.service.broker.queue_stats("q")
        assert (stats.ready, stats.on_loan) == (0, 0)


@tx(240)
async def test_the_command_says_why_it_ends() -> None:
    async with serving() as served:
        at = f"--stomp=127.0.0.1:{served.stomp}"
        done = await run("q", at, "--selector=n >")
        assert (done.returncode, done.stdout) == (3, "")
        assert "Invalid selector: bad selector at character" in done.stderr
        done = await run("q", "--stomp=nowhere")
        assert (done.returncode, done.stderr) == (2, "broker: 'nowhere' is not HOST:PORT\n")
    with port_of_ours() as port:
        done = await run("q", f"--stomp=127.0.0.1:{port}")
    assert done.returncode == 4
    assert "cannot reach" in done.stderr
