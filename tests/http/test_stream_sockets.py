"""Event streams over real sockets: a client that does not read, one that leaves, and the end of the broker."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator

from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from broker.core.destination import queue, topic
from broker.core.message import Message
from tests.http.test_sockets import Listening, listening
from tests.support import Twistd, tx

SIZE = 100_000


def stream(port: int, path: str) -> socket.socket:
    """A client of a stream that has read nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(Twistd.PATIENCE)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-ndjson\r\n\r\n".encode())
    return client


def lines(client: socket.socket, most: int) -> Iterator[bytes]:
    """So many lines of its answer."""
    with client.makefile("rb") as file:
        while file.readline() != b"\r\n":
            pass
        rest = b""
        while most:
            size = int(file.readline(), 16)
            if not size:
                return
            *whole, rest = (rest + file.read(size)).split(b"\n")
            file.readline()
            for line in filter(None, whole):
                most -= 1
                yield line


async def turns(server: Listening, until: object) -> None:
    from twisted.internet import reactor

    while not until():  # type: ignore[operator]
        await deferLater(reactor, 0.005)


@tx()
async def test_who_does_not_read_holds_a_bounded_part_and_gets_all_once_he_reads() -> None:
    async with listening() as server:
        for number in range(60):
            await server.broker.publish(queue("work"), Message(body=b"%d" % number + b"x" * SIZE))
        with contextlib.closing(stream(server.port, "/channels/work/stream?credit=1000")) as client:
            await turns(server, lambda: server.broker.queue_stats("work").on_loan)
            for _ in range(20):
                await server.ask("GET", "/healthz")
            assert 0 < server.broker.queue_stats("work").on_loan < 50
            found = await deferToThread(lambda: list(lines(client, 60)))
        starts = [
            json.loads(line)["event"]["data_base64" if "data_base64" in line.decode() else "data"] for line in found
        ]
        assert [start.split("x")[0] for start in starts] == [str(number) for number in range(60)]
        await turns(server, lambda: server.broker.queue_stats("work").ready == 60)


@tx()
async def test_a_topics_reader_that_does_not_read_costs_its_buffer_and_no_more() -> None:
    async with listening() as server:
        with contextlib.closing(stream(server.port, "/topics/news/stream")):
            await turns(server, lambda: server.site.waits)
            for _ in range(300):
                await server.broker.publish(topic("news"), Message(body=b"x" * SIZE))
            (channel,) = server.site.channels
            assert sum(map(len, channel.transport._tempDataBuffer)) + len(channel.transport.dataBuffer) < 10 * SIZE
        await turns(server, lambda: not server.site.channels)


@tx()
async def test_a_stream_ends_when_the_broker_does() -> None:
    async with listening() as server:
        await server.broker.publish(queue("work"), Message(body=b"x"))
        client = stream(server.port, "/channels/work/stream")
        assert len(await deferToThread(lambda: list(lines(client, 1)))) == 1
        server.site.drain()
        assert (await deferToThread(client.recv, 100)).endswith(b"0\r\n\r\n")
        client.close()
        assert server.broker.queue_stats("work").ready == 1


@tx()
async def test_who_leaves_in_the_middle_of_a_message_keeps_no_lease() -> None:
    async with listening() as server:
        await server.broker.publish(queue("work"), Message(body=b"x" * 5_000_000))
        client = stream(server.port, "/channels/work?nowait")
        await turns(server, lambda: server.broker.queue_stats("work").on_loan)
        client.close()
        await turns(server, lambda: server.broker.queue_stats("work").ready == 1)
        got, _ = await server.ask("GET", "/channels/work?nowait")
        assert got.headers.getRawHeaders("X-Linger-Delivered") == ["2"]


@tx()
async def test_ack_auto_settles_what_was_read_and_returns_what_was_not() -> None:
    async with listening() as server:
        await server.broker.publish(queue("work"), Message(body=b"x" * 5_000_000))
        client = stream(server.port, "/channels/work?ack=auto&nowait")
        await turns(server, lambda: server.broker.queue_stats("work").on_loan)
        for _ in range(5):
            await server.ask("GET", "/healthz")
        assert server.broker.queue_stats("work").on_loan == 1
        client.close()
        await turns(server, lambda: server.broker.queue_stats("work").ready == 1)
        got, body = await server.ask("GET", "/channels/work?ack=auto&nowait")
        assert (got.code, len(body)) == (200, 5_000_000)
        await turns(server, lambda: not server.broker.queue_stats("work").on_loan)
        assert server.broker.queue_stats("work").ready == 0
