"""``/readyz`` of a whole broker: when it is not ready, and the reason it gives."""

from __future__ import annotations

import contextlib
import json

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from broker.core.destination import queue
from broker.core.message import Message
from broker.errors import StoreUnavailable
from broker.storage.memory import MemoryStore
from tests.clients.support import Http
from tests.support import serving, tx


async def readiness(port: int) -> tuple[int, str]:
    """The status, and the reason if it is none that is good."""
    http = Http(port)
    try:
        status, headers, body = await deferToThread(http.ask, "GET", "/readyz")
    finally:
        http.close()
    if status == 200:
        return status, ""
    assert headers["content-type"] == "application/problem+json"
    return status, json.loads(body)["detail"]


@tx()
async def test_a_store_that_does_not_commit_is_the_reason_until_it_does() -> None:
    store = MemoryStore()
    async with serving(store) as served:
        assert await readiness(served.http) == (200, "")
        store.hold = True
        published = served.broker.publish(queue("q"), Message(body=b"x"))
        store.fail_commit(StoreUnavailable("the disk is full"))
        store.hold = False
        _ = published.addErrback(lambda failure: failure.trap(StoreUnavailable))
        assert await readiness(served.http) == (503, "the store does not commit: the disk is full")
        await served.broker.publish(queue("q"), Message(body=b"x"))
        assert await readiness(served.http) == (200, "")


@tx()
async def test_a_broker_that_stops_says_so_while_its_http_port_is_open() -> None:
    store = MemoryStore()
    async with serving(store) as served:
        store.hold = True
        published = served.broker.publish(queue("q"), Message(body=b"x"))
        stopped = served.service.stopService()
        answer = None
        while answer is None:
            # Who came just before and had not asked is closed on: what he sent may be unread, which is a reset.
            with contextlib.suppress(ConnectionResetError, BrokenPipeError):
                answer = await readiness(served.http)
        assert answer == (503, "the broker is stopping")
        store.hold = False
        store.release_commit()
        await published
        await stopped
        assert served.service.unready() == "the broker is stopping"


def test_before_it_is_open_it_is_starting() -> None:
    from twisted.internet import reactor

    from broker.config import Config
    from broker.service import build

    config = Config(memcache=["off"], stomp=["off"], http=["0"])
    service = build(config, reactor=reactor, store=MemoryStore(), tell=lambda line: None)  # type: ignore[arg-type]
    service.running = True
    service.opening = Deferred()
    assert service.unready() == "the broker is starting"
    for front in service.fronts:
        front.way.close()
