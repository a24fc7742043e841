"""The server's status: one for all fronts, whoever changes it, and kept over a restart."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from broker.core.destination import queue, topic
from broker.core.level import Level
from broker.core.message import Message
from broker.errors import Blocked, BrokerError, Stopping
from broker.http.server import make_site
from broker.memcache.server import MemcacheFactory
from broker.status import ServerStatus
from broker.stomp.server import StompFactory
from tests.core.support import Bench, result, start
from tests.core.test_failing_reads import Unreadable
from tests.http.support import World, done
from tests.memcache.support import Client as Memcache
from tests.stomp.support import Client as Stomp
from tests.support import Twistd, serving, tx
from tests.test_cli import run

REFUSING = {Level.DRAINING: Stopping, Level.READONLY: Blocked, Level.QUIESCENT: Blocked}


class Fronts(World):
    """A broker with all fronts and one status."""

    def __init__(self, grace: float = 0.0) -> None:
        super().__init__()
        self.status = ServerStatus(self.clock, grace, enforce=self.broker.status.become)
        self.site = make_site(self.broker, status=self.status)
        memcache = MemcacheFactory(self.broker, status=self.status)
        self.memcache = Memcache(memcache)
        self.stomp_factory = StompFactory(self.broker, clock=self.clock)


@pytest.mark.parametrize("level", list(Level))
def test_the_core_keeps_to_a_level(level: Level) -> None:
    broker = World().broker
    done(broker.publish(queue("q"), Message(body=b"x")))
    loan = done(broker.take("q"))
    done(broker.publish(queue("q"), Message(body=b"y")))
    broker.status.become(level)

    def tried(what: object) -> type[BrokerError] | None:
        try:
            assert callable(what)
            done(what())
        except BrokerError as error:
            return type(error)
        return None

    puts = REFUSING.get(level)
    assert tried(lambda: broker.publish(queue("q"), Message(body=b"x"))) is puts
    assert tried(lambda: broker.publish(topic("t"), Message(body=b"x"))) is puts
    assert tried(lambda: broker.bind("q", topic("t"))) is puts
    assert broker.burst(queue("q")) is None or puts is None
    takes = Blocked if level is Level.QUIESCENT else None
    assert tried(lambda: broker.peek("q")) is takes
    assert tried(lambda: broker.take("q")) is takes
    assert tried(lambda: broker.ack([loan])) is None
    purges = Blocked if level in (Level.READONLY, Level.QUIESCENT) else None
    assert tried(lambda: broker.purge("q")) is purges
    assert tried(lambda: broker.delete("q")) is purges
    broker.status.become(Level.UP)
    assert tried(lambda: broker.publish(queue("q"), Message(body=b"x"))) is None


def test_who_waits_gets_nothing_while_quiescent_and_all_of_it_afterwards() -> None:
    world = World()
    got: list[bytes] = []
    world.broker.subscribe(queue("q"), lambda delivery: got.append(delivery.message.body), prefetch=10)
    world.broker.status.become(Level.QUIESCENT)
    waiting = world.broker.status
    for reason in (queue("q"), topic("t")):
        with pytest.raises(Blocked):
            world.broker.subscribe(reason, lambda delivery: None, prefetch=1)
    waiting.become(Level.UP)
    done(world.broker.publish(queue("q"), Message(body=b"1")))
    assert got == [b"1"]
    delivered = world.broker.subscribe(queue("other"), lambda delivery: got.append(delivery.message.body), prefetch=1)
    world.broker.pause(delivered)
    done(world.broker.publish(queue("other"), Message(body=b"2")))
    waiting.become(Level.QUIESCENT)
    world.broker.resume(delivered)
    world.clock.advance(1)
    assert got == [b"1"]
    waiting.become(Level.UP)
    world.clock.advance(1)
    assert got == [b"1", b"2"]


def test_who_polls_waits_on_while_quiescent() -> None:
    world = World()
    taken = Deferred.fromCoroutine(world.broker.take("q", wait=60))
    world.broker.status.become(Level.QUIESCENT)
    world.clock.advance(1)
    assert not taken.called
    world.broker.status.become(Level.UP)
    done(world.broker.publish(queue("q"), Message(body=b"x")))
    assert done(taken).message.body == b"x"


def test_who_asks_for_what_is_there_now_is_not_left_waiting_when_it_becomes_quiescent() -> None:
    store = Unreadable()
    bench = Bench(store)
    result(bench.broker.publish(queue("q"), Message(body=b"x")))
    bench.boot()
    store.slow = True
    asked = [start(ask("q")) for ask in (bench.broker.take, bench.broker.peek)]
    bench.broker.status.become(Level.QUIESCENT)
    for one in asked:
        with pytest.raises(Blocked):
            result(one)
    store.answer()
    bench.broker.status.become(Level.UP)
    bench.turn()
    assert bench.body("q") == b"x"


def test_a_level_does_not_begin_anew_what_has_stopped() -> None:
    broker = World().broker
    done(broker.stop())
    broker.status.become(Level.UP)
    with pytest.raises(Stopping):
        _ = broker.publish(queue("q"), Message(body=b"x"))


@pytest.mark.parametrize(
    ("level", "kind", "stomp"),
    [
        ("draining", "draining", "Shutting down"),
        ("readonly", "blocked", "Blocked by the status"),
        ("quiescent", "blocked", "Blocked by the status"),
    ],
)
def test_no_front_puts_in_and_each_says_why(level: str, kind: str, stomp: str) -> None:
    world = Fronts()
    assert world.ask("PUT", f"/status?status={level}", b"").json == {"status": level, "holds": level}
    assert world.memcache.send(b"status\r\n") == f"{level.upper()}\r\n".encode()
    for path in ("/channels/q", "/topics/t"):
        refused = world.ask("POST", path, b"x", Accept="application/json")
        assert (refused.status, refused.json["type"]) == (503, f"/problems/{kind}")
    assert world.memcache.send(b"set q 0 0 1\r\nx\r\n").startswith(b"SERVER_ERROR ")
    client = Stomp(world.stomp_factory, world.clock)
    client.connect()
    (error,) = client.send("SEND", b"x", destination="/queue/q")
    assert (error.command, error.headers["message"]) == ("ERROR", stomp)
    assert world.ask("GET", "/channels/q/stats").json["ready"] == 0


def test_quiescent_lets_nobody_read_on_any_front() -> None:
    world = Fronts()
    world.post("q")
    assert world.memcache.send(b"status quiescent\r\n") == b"END\r\n"
    assert world.ask("GET", "/status").json["status"] == "quiescent"
    for path in ("/channels/q?nowait", "/channels/q", "/channels/q/stream", "/topics/t/stream"):
        assert world.ask("GET", path).status == 503, path
    assert world.ask("DELETE", "/channels/q?state=hidden").status == 503
    assert world.memcache.send(b"get q\r\n").startswith(b"SERVER_ERROR ")
    client = Stomp(world.stomp_factory, world.clock)
    client.connect()
    (error,) = client.send("SUBSCRIBE", destination="/queue/q", id="1")
    assert error.headers["message"] == "Blocked by the status"
    assert world.ask("POST", "/resume").json == {"draining": False}
    assert world.get("q").status == 200


def test_drain_and_resume_are_levels() -> None:
    world = Fronts(grace=5)
    assert world.ask("POST", "/drain").json == {"draining": True}
    assert world.ask("GET", "/status").json == {"status": "draining", "holds": "draining"}
    assert world.ask("POST", "/resume").status == 202
    assert world.memcache.send(b"status\r\n") == b"UP\r\n"
    assert world.ask("PUT", "/status?status=Read-Only", b"").json == {"status": "readonly", "holds": "up"}
    assert world.post("q").status == 202
    world.clock.advance(5)
    assert world.post("q").status == 503


@pytest.mark.parametrize("query", ["", "?status=", "?status=down", "?status=upp", "?level=up"])
def test_a_status_that_is_none_is_a_problem(query: str) -> None:
    answer = World().ask("PUT", f"/status{query}", b"", Accept="application/json")
    assert (answer.status, answer.json["type"]) == (400, "/problems/bad-parameter")


@tx()
async def test_it_is_not_ready_while_it_is_not_up() -> None:
    async with serving() as served:
        for level in Level:
            await served.service.status.change(level, "the test")
            assert (served.service.unready() == "") == (level is Level.UP), level


def test_the_command_changes_it_and_a_restart_keeps_it(tmp_path: Path) -> None:
    def said(url: str, *words: str) -> str:
        return run(url, "status", *words).stdout.decode()

    with Twistd(tmp_path) as twistd:
        url = f"http://127.0.0.1:{twistd.ports()['HTTP']}"
        assert (said(url), said(url, "readonly")) == ("up\n", "readonly\n")
        run(url, "publish", "q", "x", status=3)
        run(url, "status", "down", status=2)
        twistd.process.terminate()
        twistd.until("stopped")
        twistd.process.wait(Twistd.PATIENCE)
    with Twistd(tmp_path) as twistd:
        url = f"http://127.0.0.1:{twistd.ports()['HTTP']}"
        assert "the server's status is READONLY" in twistd.said
        refused: subprocess.CompletedProcess[bytes] = run(url, "publish", "q", "x", status=3)
        assert b"503" in refused.stderr
        assert json.loads(said(url, "up", "--json")) == {"status": "up", "holds": "up"}
        run(url, "publish", "q", "x")
