"""Each action of each front is possible with its rights, and with nothing less; what is said tells of no name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from broker.auth.door import Door
from broker.auth.rights import Action
from broker.core.destination import queue, topic
from broker.core.message import Message
from broker.http.routes import Endpoint, resolve
from broker.http.server import make_site
from broker.memcache import commands
from broker.memcache.dialect import DEFAULT
from broker.memcache.server import MemcacheFactory
from broker.memcache.wire import Parser
from broker.stomp.server import StompFactory
from tests.auth.rights_table import PAGE, SOME, TABLE, WHOLE, Row, written
from tests.auth.support import PASSWORD, Known, everything
from tests.auth.test_http import basic
from tests.auth.test_memcache import login
from tests.http.support import Connection, World, done
from tests.memcache.support import Client as Memcache
from tests.stomp.support import Client as Stomp

JSON = {"/config", "/commit", "/replays", "/definitions"}


class Broker(World):
    """A broker with all fronts, where bob may do what a test lets him."""

    def __init__(self) -> None:
        super().__init__()
        self.known = Known({"alice": everything(), "bob": {}})
        door = Door(self.broker, self.known)

        async def reload(asked: str) -> Any:
            self.done.append("reload")
            return {}

        self.done: list[str] = []
        self.site = make_site(self.broker, door=door, reload=reload)
        self.stomp = StompFactory(self.broker, clock=self.clock, door=door)
        self.memcache = MemcacheFactory(self.broker, door=door, reload=reload, shutdown=self.done.append)
        for _ in range(3):
            self._put()
        done(self.broker.bind("Q", topic("other")))
        self.lent = done(self.broker.take("Q", leased=True)).id
        self.number = self.broker.queue_stats("Q").last_id
        self._plan()
        self.opened: list[Any] = []

    def _put(self) -> None:
        done(self.broker.publish(queue("Q"), Message(body=b"x")))

    def _plan(self) -> None:
        body = b'{"source":{"channel":"Q"},"target":{"topic":"T"},"rate":1}'
        answer = self.ask("POST", "/replays", body, Authorization=basic("alice"), Content_Type="application/json")
        assert answer.status == 202, answer
        self.clock.advance(0)

    def state(self) -> object:
        """What nobody may have changed who has no right to."""
        stats = self.broker.queue_stats("Q")
        replays = [(one.job.id, one.job.state) for one in self.broker.replays.all()]
        return (
            self.broker.queues(),
            (stats.ready, stats.on_loan, stats.consumers),
            self.broker.sources("Q"),
            dict(self.broker.configured),
            (self.broker.draining, self.memcache.status.level, list(self.done), replays),
        )

    def close(self) -> None:
        """End what was begun."""
        for one in self.opened:
            one()

    # -- a request, and what becomes of it: a refusal's words, or None

    def try_memcache(self, line: str, *, hidden: bool = False) -> str | None:
        client = Memcache(self.memcache)
        assert client.send(login("bob")) == b"STORED\r\n"
        self.opened.append(client.go)
        head, _, body = self._filled(line).partition("\n")
        answer = client.send(f"{head}\r\n{body}{chr(13) + chr(10) if body else ''}".encode())
        words = (b"CLIENT_ERROR not allowed", b"NOT_FOUND") if hidden else b"CLIENT_ERROR not allowed"
        return answer.decode().strip() if answer.startswith(words) else None

    def try_stomp(self, line: str) -> str | None:
        client = Stomp(self.stomp, self.clock)
        client.connect(login="bob", passcode=PASSWORD)
        self.opened.append(client.lose)
        command, *words = self._filled(line).split(" ")
        headers = dict(word.split(":", 1) for word in words if ":" in word)
        if words and ":" not in words[0]:
            headers["destination"] = words[0]
        frames = client.send(command, **headers)
        errors = [frame for frame in frames if frame.headers.get("message") == "Access refused"]
        return errors[0].body.decode().strip() if errors else None

    def try_http(self, line: str, *, hidden: bool = False) -> str | None:
        method, path, *rest = self._filled(line).split(" ", 2)
        kind = "application/json" if rest and any(word in path for word in JSON) else "text/plain"
        if path.endswith("/messages"):
            kind = "application/cloudevents-batch+json"
        body = rest[0].encode() if rest else None if method in ("GET", "HEAD", "DELETE") else b""
        connection: Connection = self.waiting(method, path, body, Authorization=basic("bob"), Content_Type=kind)
        self.opened.append(connection.leave)
        first, *_ = connection.transport.value().decode().split("\r\n")
        assert not re.match(r"HTTP/1.1 (401|5\d\d)", first), first
        if first.startswith("HTTP/1.1 403 "):
            return first
        there_is_none = "there is no" in first or first.startswith("HTTP/1.1 409 ")
        return first if hidden and there_is_none else None

    def _filled(self, line: str) -> str:
        numbers = {"L": self.lent, "N": self.number, "R": 1}
        return re.sub(r"(?<![A-Za-z-])(C?)([LNR])(?![A-Za-z-])", lambda found: f"{found[1]}{numbers[found[2]]}", line)


def requests() -> Iterator[tuple[Row, str, str]]:
    for row in TABLE:
        for front in ("memcache", "stomp", "http"):
            for request in getattr(row, front):
                yield row, front, request


CASES = [pytest.param(*case, id=f"{case[1]} {case[2][:40]}".replace("\n", " ")) for case in requests()]


def refused(broker: Broker, row: Row, front: str, request: str) -> str | None:
    match front:
        case "memcache":
            return broker.try_memcache(request, hidden=row.hidden)
        case "stomp":
            return broker.try_stomp(request)
        case _:
            return broker.try_http(request, hidden=row.hidden)


def rights(needs: tuple[str, ...]) -> dict[str, str]:
    """Exactly these."""
    found: dict[str, list[str]] = {}
    for need in needs:
        action, where = need.split()
        found.setdefault(action, []).append({WHOLE: "*", SOME: "queue:some"}.get(where, where))
    return {action: " ".join(patterns) for action, patterns in found.items()}


def all_but(need: str) -> dict[str, str]:
    """Every right but this one: others on the same destination, and this one on others."""
    action, where = need.split()
    elsewhere = {WHOLE: "queue:*", SOME: ""}.get(where, "queue:elsewhere topic:elsewhere")
    if where == WHOLE:
        return everything() | {action: elsewhere}
    kept = "" if where == SOME else " ".join(_others(where))
    return everything() | {action: f"{elsewhere} {kept}".strip()}


def _others(where: str) -> list[str]:
    """The destinations of the table that are not `where`."""
    return [one for one in ("queue:Q", "queue:NEW", "topic:T", "queue:dsub/bob/n") if one != where]


@pytest.mark.parametrize(("row", "front", "request_"), CASES)
def test_it_is_possible_with_its_rights_and_with_nothing_less(row: Row, front: str, request_: str) -> None:
    broker = Broker()
    for need in row.needs:
        broker.known.allow("bob", **all_but(need))
        before = broker.state()
        words = refused(broker, row, front, request_)
        assert words is not None, need
        broker.close()
        broker.opened.clear()
        assert broker.state() == before
    broker.known.allow("bob", **rights(row.needs))
    assert refused(broker, row, front, request_) is None
    broker.close()


@pytest.mark.parametrize(("row", "front", "request_"), [case for case in CASES if case.values[0].needs])  # type: ignore[union-attr]
def test_who_has_no_right_is_told_the_same_of_what_is_there_and_of_what_is_not(
    row: Row, front: str, request_: str
) -> None:
    broker = Broker()
    there = refused(broker, row, front, request_)
    if row.hidden:
        broker.lent, broker.number = broker.lent + 1_000_000, broker.number + 1_000_000
        other = re.sub(r"/replays/R", "/replays/999", request_)
    else:
        other = re.sub(r"(?<![A-Za-z-])([QT])(?![A-Za-z-])", r"\1none", request_)
    not_there = refused(broker, row, front, other)
    assert there is not None
    assert not_there is not None
    assert re.sub(r"\d+", "N", not_there.replace("none", "")) == re.sub(r"\d+", "N", there)
    broker.close()


# -- nothing is missing


def test_every_endpoint_of_http_is_in_the_table() -> None:
    asked = set()
    for _, front, request in requests():
        if front == "http":
            method, path = request.replace("/N", "/1").replace("/L", "/1").replace("/R", "/1").split(" ")[:2]
            asked.add(resolve(method, path.partition("?")[0]).endpoint)
    assert asked == set(Endpoint)


def test_every_command_of_memcache_is_in_the_table() -> None:
    asked = set()
    for _, front, request in requests():
        if front == "memcache":
            parser = Parser(1000, DEFAULT)
            head, _, body = re.sub(r"\bC?L\b", "C1" if request.startswith("md") else "1", request).partition("\n")
            parser.feed(f"{head}\r\n{body}{chr(13) + chr(10) if body else ''}".encode())
            asked.add(type(parser.next_command()))
    known = {kind for kind in get_args(commands.Command) for kind in (get_args(kind) or (kind,))}
    assert asked == known - {commands.Malformed, commands.Login}


def test_every_frame_of_a_stomp_client_is_in_the_table() -> None:
    asked = {request.split(" ")[0] for _, front, request in requests() if front == "stomp"}
    frames = {"SEND", "SUBSCRIBE", "UNSUBSCRIBE", "ACK", "NACK", "BEGIN", "COMMIT", "ABORT", "DISCONNECT"}
    assert asked == frames


def test_every_right_is_in_the_table() -> None:
    assert {need.split()[0] for row in TABLE for need in row.needs} == {action.value for action in Action}


def test_the_page_shows_the_table() -> None:
    page = PAGE.read_text()
    assert page == written(page), "python -m tests.auth.rights_table"
