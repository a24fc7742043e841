"""A real client over a real socket."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import closing
from typing import Any, TypeVar

from pymemcache import serde
from pymemcache.client.base import Client
from pymemcache.exceptions import MemcacheClientError, MemcacheServerError, MemcacheUnknownCommandError
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.threads import deferToThread

from broker.core.broker import Broker
from broker.core.policy import Policy
from broker.memcache.dialect import SPOKEN
from broker.memcache.server import MemcacheFactory
from broker.storage.memory import MemoryStore
from tests.support import tx

Result = TypeVar("Result")

#: Seconds a client waits before its test fails.
PATIENCE = 60


async def served(work: Callable[[int], Result]) -> tuple[Result, Broker]:
    """Do `work(port)` in a thread while a broker serves that port; its result, and the broker, stopped."""
    from twisted.internet import reactor

    broker = Broker(MemoryStore(), reactor, policy=Policy(max_message_size=1024 * 1024))
    await broker.start()
    factory = MemcacheFactory(broker)
    port = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(factory)
    try:
        return await deferToThread(work, port.getHost().port), broker
    finally:
        await Deferred.fromCoroutine(_stop(port, factory, broker))


async def _stop(port: Any, factory: MemcacheFactory, broker: Broker) -> None:
    await port.stopListening()
    await factory.close()
    await broker.stop()


def client(port: int, **options: Any) -> closing[Any]:
    return closing(Client(("127.0.0.1", port), timeout=PATIENCE, **options))


def talk(port: int, data: bytes) -> bytes:
    """Send, close our half, and return all that comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


@tx(120)
async def test_pymemcache_puts_and_takes() -> None:
    def work(port: int) -> None:
        with client(port, default_noreply=False) as memcache:
            assert memcache.get("work") is None
            assert memcache.set("work", b"1") is True
            assert memcache.set("work", b"2", expire=60, flags=7) is True
            assert memcache.get("work/peek") == b"1"
            assert memcache.get("work/open") == b"1"
            assert memcache.get("work/close/open") == b"2"
            assert memcache.get("work/close") is None
            assert memcache.get("work/t=50") is None
            assert memcache.set_many({"a": b"1", "b": b"2"}) == []
            assert memcache.get_many(["a", "b", "c"]) == {"a": b"1", "b": b"2"}
            assert memcache.set("a", b"") is True
            value, cas = memcache.gets("a")
            assert (value, int(cas) > 0) == (b"", True)
            large = bytes(range(256)) * 4096
            assert memcache.set("large", large) is True
            assert memcache.get("large") == large

    await served(work)


@tx(120)
async def test_pymemcache_asks_for_no_replies() -> None:
    def work(port: int) -> None:
        with client(port) as memcache:
            for number in range(5000):
                memcache.set("work", b"%d" % number)
            assert [memcache.get("work") for _ in range(5000)] == [b"%d" % number for number in range(5000)]
            memcache.delete("work")
            memcache.add("work", b"x")
            memcache.touch("work", 5)
            memcache.flush_all()
            assert memcache.get("work") is None

    _, broker = await served(work)
    assert broker.stats.published == broker.stats.settled == 5000


@tx(120)
async def test_pymemcache_administers() -> None:
    def work(port: int) -> None:
        with client(port, default_noreply=False) as memcache:
            assert memcache.version() == SPOKEN.encode()
            assert memcache.set("work", b"1") is True
            stats = memcache.stats()
            assert stats[b"curr_items"] == 1
            assert stats[b"queue_work_items"] == 1
            assert memcache.stats("settings")[b"dialect"] == b"default"
            for argument in "items", "slabs":
                assert memcache.stats(argument) == {}
            assert memcache.delete("work") is True
            assert memcache.delete("work") is False
            assert memcache.set("work", b"1") is True
            assert memcache.flush_all() is True
            assert memcache.get("work") is None
            memcache.quit()

    await served(work)


@tx(120)
async def test_pymemcache_understands_our_refusals() -> None:
    def raises(error: type[Exception], call: Callable[..., object], *args: object) -> str:
        try:
            call(*args)
        except error as raised:
            return str(raised.args[0])
        raise AssertionError(f"no {error.__name__}")

    def work(port: int) -> None:
        with client(port, default_noreply=False) as memcache:
            assert memcache.add("work", b"x") is False
            assert memcache.replace("work", b"x") is False
            assert memcache.incr("work", 1) is None
            assert memcache.cas("work", b"x", b"1") is None
            assert memcache.touch("work", 1) is False
            raises(MemcacheClientError, memcache.get, "work/open/peek")
            raises(MemcacheClientError, memcache.get, "/topic/news")
            raises(MemcacheServerError, memcache.set, "work", bytes(2 * 1024 * 1024))
            assert memcache.set("work", b"1") is True
            assert memcache.get("work/open") == b"1"
            raises(MemcacheUnknownCommandError, memcache.get, "work")

    await served(work)


@tx(120)
async def test_values_of_any_type_come_back_as_they_went_in() -> None:
    values = [b"bytes", "text ü", 42, 2**70, None, 1.5, {"a": [1, (2,)]}, "x" * 10_000]

    def work(port: int) -> None:
        with client(port, serde=serde.compressed_serde) as memcache:
            for value in values:
                memcache.set("work", value, noreply=False)
            assert [memcache.get("work") for _ in values] == values

    await served(work)


@tx(120)
async def test_two_clients_share_a_queue() -> None:
    def work(port: int) -> None:
        with client(port, default_noreply=False) as one, client(port, default_noreply=False) as other:
            one.set("work", b"1")
            assert other.get("work/open") == b"1"
            assert one.get("work") is None
            other.close()
            assert one.get("work/t=50000") == b"1"  # however late the broker hears of it

    await served(work)


@tx(120)
async def test_a_client_that_closes_its_half_is_answered() -> None:
    def work(port: int) -> bytes:
        return talk(port, b"set work 0 0 1\r\n1\r\nget work\r\nget work/t=60000\r\nquit")

    answer, broker = await served(work)
    assert answer == b"STORED\r\nVALUE work 0 1\r\n1\r\nEND\r\nEND\r\n"
    assert broker.stats.settled == 1


@tx(120)
async def test_garbage_beside_a_client_does_it_no_harm() -> None:
    def work(port: int) -> None:
        with client(port, default_noreply=False) as memcache:
            for garbage in bytes(range(256)) * 200, b"get " * 100_000, b"\x80" + bytes(23), b"set a 0 0 99999999\r\nx":
                try:
                    talk(port, garbage)
                except TimeoutError:
                    raise
                except OSError:  # the broker has closed already: a reset, or no connection is there to be shut down
                    pass
                assert memcache.set("work", b"1") is True
                assert memcache.get("work") == b"1"

    await served(work)
