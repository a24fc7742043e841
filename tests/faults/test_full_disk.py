"""A disk that is full: by SQLite's own limit, and by the system's limit on a real process."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
from pathlib import Path

import pytest
from pymemcache.exceptions import MemcacheServerError
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.core.destination import queue
from broker.core.journal import QUIET
from broker.core.message import Message
from broker.errors import StoreUnavailable
from tests.clients.support import Http, Memcache, Refused, Stomp
from tests.faults.support import Disk, emptied, numbers, opened, put, take, tried_again
from tests.support import Twistd, tx


@tx()
async def test_sqlite_finds_no_room(tmp_path: Path) -> None:
    disk, clock = Disk(), Clock()
    bodies: list[bytes] = []
    told: list[str] = []
    async with opened(tmp_path / "data", disk, clock) as broker:

        async def fill(count: int) -> int:
            """Publish until there is no room, or that many; how many were taken."""
            for n in range(count):
                body = b"%d " % len(bodies) + bytes(3000)
                published = await put(broker, body)
                if published is None:
                    return n
                bodies.append(body)
                told.append(published)
            return count

        await fill(5)
        loaned = [await take(broker) for _ in range(2)]
        disk.pages = 60
        taken = await fill(100)
        assert 0 < taken < 100
        assert broker.trouble.startswith("the disk is full")
        with pytest.raises(StoreUnavailable, match="the disk is full"):
            await broker.publish(queue("other"), Message(body=bytes(100_000)))
        # what needs no room is not stopped
        assert (await take(broker)).message.body == bodies[2]
        disk.fails = lambda tried, at: at == "before INSERT"  # not even a short ack finds any
        acked = broker.ack(loaned)
        await tried_again(disk, clock)
        assert not acked.called

        disk.is_back()
        await tried_again(disk, clock)
        await acked
        clock.advance(QUIET)
        assert broker.trouble == ""
        assert await fill(20) == 20
        assert numbers(told) == list(range(len(told)))
    async with opened(tmp_path / "data") as broker:
        assert await emptied(broker) == bodies[2:]


@tx()
async def test_there_is_room_again_without_anybody_coming(tmp_path: Path) -> None:
    """An ack finds it by itself: it is tried again every second."""
    disk, clock = Disk(), Clock()
    async with opened(tmp_path / "data", disk, clock) as broker:
        await put(broker, b"0")
        delivery = await take(broker)
        disk.pages = 1
        assert await put(broker, bytes(200_000)) is None
        acked = broker.ack([delivery])
        waiting = Deferred.fromCoroutine(broker.purge("nothing"))
        disk.pages = 0
        await tried_again(disk, clock)
        await acked
        await waiting
        clock.advance(QUIET)
        assert broker.trouble == ""


def test_a_process_that_may_write_no_more(tmp_path: Path) -> None:
    """RLIMIT_FSIZE, lowered and raised around a running broker; the signal for it is one that Python ignores."""
    with Twistd(tmp_path, "--data=broker.sqlite") as broker:
        ports = broker.ports()
        pid = broker.process.pid
        memcache, http = Memcache(ports["memcache"]), Http(ports["HTTP"])
        stomp = Stomp(ports["STOMP"])
        confirmed: dict[str, list[bytes]] = {"memcache": [], "STOMP": [], "HTTP": []}
        ids: list[int] = []

        def by_memcache(body: bytes) -> None:
            memcache.put("memcache", body)
            confirmed["memcache"].append(body)

        def by_stomp(body: bytes) -> None:
            stomp.put("STOMP", body)
            confirmed["STOMP"].append(body)

        def by_http(body: bytes) -> int:
            status, _, answer = http.ask("POST", "/channels/HTTP", body)
            if status == 202:
                confirmed["HTTP"].append(body)
                ids.append(json.loads(answer)["id"])
            return status

        def all_three(*numbers: int) -> None:
            for number in numbers:
                body = b"%d " % number + bytes(5000)
                by_memcache(body)
                by_stomp(body)
                assert by_http(body) == 202

        try:
            all_three(*range(10))
            status, fields, _ = http.ask("GET", "/channels/HTTP?nowait")
            assert status == 200
            first = fields["x-linger-msg-id"]

            limit(pid, os.stat(tmp_path / "broker.sqlite-wal").st_size)
            with pytest.raises(MemcacheServerError, match="the disk"):
                by_memcache(bytes(5000))
            with pytest.raises(Refused, match="Store unavailable"):
                by_stomp(bytes(5000))
            assert by_http(bytes(5000)) == 503
            # who reads is served as ever, who acknowledges waits
            assert http.ask("GET", "/channels/HTTP/stats")[0] == 200
            settling = Settling(ports["HTTP"], first)
            assert by_http(bytes(5000)) == 503
            assert settling.status is None
            limit(pid, resource.RLIM_INFINITY)

            assert settling.wait() == 204
            stomp.close()
            stomp = Stomp(ports["STOMP"])
            all_three(*range(10, 20))
            assert [number - ids[0] for number in ids] == list(range(20))
        finally:
            for client in memcache, stomp, http:
                client.close()
        broker.kill()
    assert broker.said.count("cannot write") == broker.said.count("can write") == 1
    assert "Traceback" not in broker.said

    confirmed["HTTP"].pop(0)
    with Twistd(tmp_path, "--data=broker.sqlite") as broker:
        memcache = Memcache(broker.ports()["memcache"])
        for name, bodies in confirmed.items():
            assert [memcache.take(name).body for _ in bodies] == bodies
            assert memcache.look(name) is None
        memcache.close()


def limit(pid: int, size: int) -> None:
    """From now on process `pid` can write no file beyond `size` bytes."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


class Settling:
    """A DELETE of a message that is answered when it is on disk; the request is sent when the object is made."""

    def __init__(self, port: int, message_id: str) -> None:
        self._client = Http(port)
        self.status: int | None = None
        self._client.begin("DELETE", f"/messages/{message_id}")
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self.status = self._client.end()[0]

    def wait(self) -> int | None:
        """The status, once it is known."""
        self._thread.join(60)
        self._client.close()
        return self.status


def test_a_process_on_a_full_disk_ends_in_time(tmp_path: Path) -> None:
    with Twistd(tmp_path, "--data=broker.sqlite") as broker:
        ports = broker.ports()
        memcache = Memcache(ports["memcache"])
        memcache.put("q", b"0")
        limit(broker.process.pid, os.stat(tmp_path / "broker.sqlite-wal").st_size)
        with pytest.raises(MemcacheServerError):
            memcache.put("q", bytes(5000))
        memcache.close()
        broker.process.terminate()
        assert broker.wait() == -signal.SIGTERM
        assert "#info] stopped" in broker.said
    with Twistd(tmp_path, "--data=broker.sqlite") as broker:
        memcache = Memcache(broker.ports()["memcache"])
        assert memcache.take("q").body == b"0"
        memcache.close()
