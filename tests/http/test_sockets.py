"""Over real sockets, with clients that know nothing of us."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import treq
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.web.client import HTTPConnectionPool

from broker.core.broker import Broker
from broker.http.server import Site, make_site
from broker.storage.memory import MemoryStore
from tests.support import Twistd, tx


class Listening:
    """A broker with an HTTP front on a free port."""

    def __init__(self, broker: Broker, site: Site, port: int) -> None:
        self.broker = broker
        self.site = site
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def ask(self, method: str, path: str, data: bytes | None = None) -> tuple[Any, bytes]:
        """Ask by treq, on a connection of its own."""
        from twisted.internet import reactor

        pool = HTTPConnectionPool(reactor, persistent=False)
        response = await treq.request(method, self.url + path, data=data, pool=pool)
        return response, await response.content()


@contextlib.asynccontextmanager
async def listening(**options: Any) -> AsyncIterator[Listening]:
    """Serve on 127.0.0.1 for as long as this lasts."""
    from twisted.internet import reactor

    broker = Broker(MemoryStore(), reactor)
    await broker.start()
    site = make_site(broker, **options)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(site)
    address = port.getHost()
    assert isinstance(address, IPv4Address)
    try:
        yield Listening(broker, site, address.port)
    finally:
        await maybeDeferred(port.stopListening)
        while site.channels:
            await deferLater(reactor, 0)
        await broker.stop()


@tx()
async def test_a_message_with_treq() -> None:
    async with listening() as server:
        put, answer = await server.ask("POST", "/channels/work?timeout=9", bytes(range(256)))
        assert put.code == 202, answer
        got, body = await server.ask("GET", "/channels/work")
        assert (got.code, body) == (200, bytes(range(256)))
        number = got.headers.getRawHeaders("X-Linger-Msg-Id")[0]
        assert (await server.ask("DELETE", f"/messages/{number}"))[0].code == 204
        assert (await server.ask("GET", "/channels/work?nowait"))[0].code == 204


@tx()
async def test_a_long_poll_with_treq() -> None:
    from twisted.internet import reactor

    async with listening() as server:
        waiting = Deferred.fromCoroutine(server.ask("GET", "/channels/work"))
        while not server.broker.queue_stats("work").waiters:
            await deferLater(reactor, 0)
        await server.ask("POST", "/channels/work", b"here")
        got, body = await waiting
        assert (got.code, body) == (200, b"here")


@tx()
async def test_a_client_that_leaves() -> None:
    from twisted.internet import reactor

    async with listening() as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        with client:
            client.sendall(b"GET /channels/work HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while not server.broker.queue_stats("work").waiters:
                await deferLater(reactor, 0)
        while server.broker.queue_stats("work").waiters:
            await deferLater(reactor, 0)
        await server.ask("POST", "/channels/work", b"kept")
        got, body = await server.ask("GET", "/channels/work?nowait")
        assert (body, got.headers.getRawHeaders("X-Linger-Delivered")) == (b"kept", ["1"])


@tx()
async def test_one_connection_many_requests() -> None:
    def client(port: int) -> list[tuple[int, bytes]]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=Twistd.PATIENCE)
        answers = []
        with contextlib.closing(connection):
            for method, path, body in (
                ("POST", "/channels/work", iter([b"in ", b"chunks"])),
                ("HEAD", "/channels/work", None),
                ("GET", "/channels/work", None),
                ("PUT", "/channels/work/topics/news", b""),
                ("GET", "/nothing", None),
                ("GET", "/topics", None),
            ):
                connection.request(method, path, body)
                response = connection.getresponse()
                answers.append((response.status, response.read()))
        return answers

    async with listening() as server:
        answers = await deferToThread(client, server.port)
    assert [status for status, _ in answers] == [202, 200, 200, 204, 404, 200]
    assert answers[2][1] == b"in chunks"
    assert answers[5][1] == b'{"topics":["news"]}'


@tx()
async def test_who_sends_far_too_much_can_read_why() -> None:
    def client(port: int) -> tuple[int, str | None]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=Twistd.PATIENCE)
        with contextlib.closing(connection):
            connection.request("POST", "/channels/work", b"x" * 30_000_000)
            response = connection.getresponse()
            response.read()
            return response.status, response.getheader("Connection")

    async with listening() as server:
        assert await deferToThread(client, server.port) == (413, "close")


@tx()
async def test_who_waits_when_the_port_closes_gets_503() -> None:
    from twisted.internet import reactor

    async with listening() as server:
        waiting = Deferred.fromCoroutine(server.ask("GET", "/channels/work"))
        while not server.broker.queue_stats("work").waiters:
            await deferLater(reactor, 0)
    got, _ = await waiting
    assert got.code == 503


@tx()
async def test_long_bodies_of_json_are_read_beside_the_reactor() -> None:
    bodies = ["x" * 1_000] * 200

    def client(port: int) -> list[tuple[int, bytes]]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=Twistd.PATIENCE)
        answers = []
        with contextlib.closing(connection):
            ops = [{"publish": {"channel": "work", "body": body}} for body in bodies]
            for path, said in (("/channels/work/messages", json.dumps(bodies)), ("/commit", json.dumps({"ops": ops}))):
                for body in (said, said[:-1]):
                    connection.request("POST", path, body, {"Content-Type": "application/json"})
                    response = connection.getresponse()
                    answers.append((response.status, response.read()))
        return answers

    async with listening() as server:
        answers = await deferToThread(client, server.port)
        assert server.broker.queue_stats("work").ready == 400
    assert [status for status, _ in answers] == [202, 400, 200, 400]
    assert len(json.loads(answers[0][1])["ids"]) == 200
