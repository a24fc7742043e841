"""What of each part is logged, changed while the broker runs."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.logger import FilteringLogObserver, ILogObserver, LogEvent, Logger, LogLevel

import broker.stomp.server  # noqa: F401 - it is a part once it is there
from broker.debug import MAX_PARTS, Levels
from broker.errors import BadValue
from tests.http.support import World


def logged(levels: Levels, *events: tuple[str, Any]) -> list[str]:
    """The namespaces of these events that come through."""
    found: list[LogEvent] = []
    observer = FilteringLogObserver(cast(ILogObserver, found.append), [levels])
    for namespace, level in events:
        Logger(namespace=namespace, observer=observer).emit(level, "x")
    return [event["log_namespace"] for event in found]


def test_a_part_is_logged_with_what_lies_below_it_and_nothing_else() -> None:
    levels = Levels("warn")
    events = [
        ("broker.stomp.server.StompFactory", LogLevel.debug),
        ("broker.http.server.Site", LogLevel.info),
        ("broker.http.server.Site", LogLevel.warn),
    ]
    assert logged(levels, *events) == ["broker.http.server.Site"]
    assert levels.set("stomp", "debug", "me") == "broker.stomp"
    assert logged(levels, *events) == ["broker.stomp.server.StompFactory", "broker.http.server.Site"]
    levels.set("broker.stomp", "", "me")
    assert logged(levels, *events) == ["broker.http.server.Site"]


def test_the_inner_part_wins_and_all_go_back_together() -> None:
    levels = Levels("info")
    levels.set("broker", "error", "me")
    levels.set("broker.core.journal", "debug", "me")
    events = [("broker.core.journal.Journal", LogLevel.debug), ("broker.core.broker", LogLevel.warn)]
    assert logged(levels, *events) == ["broker.core.journal.Journal"]
    levels.clear("me")
    assert (levels.parts, logged(levels, *events)) == ({}, ["broker.core.broker"])


@pytest.mark.parametrize("part", ["", "stmop", "os", "broker.", "broker.stomp\nx", "\x00" * 9999, "twistedx"])
def test_what_is_no_module_of_the_broker_is_no_part(part: str) -> None:
    with pytest.raises(BadValue) as refused:
        Levels().set(part, "debug", "me")
    assert len(refused.value.reason) < 250
    assert refused.value.reason.isprintable()


def test_there_are_not_more_parts_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.debug.MAX_PARTS", 1)
    assert MAX_PARTS > 1
    levels = Levels()
    levels.set("stomp", "debug", "me")
    levels.set("stomp", "error", "me")
    with pytest.raises(BadValue):
        levels.set("http", "debug", "me")


def test_over_http_levels_are_set_shown_and_cleared() -> None:
    levels = Levels("error")
    world = World(levels=levels)
    assert world.ask("GET", "/debug").json == {"log": {"level": "error", "parts": {}}}
    said = world.ask("PUT", "/debug/log?part=http.server&level=debug", b"")
    assert (said.status, said.json["log"]["parts"]) == (200, {"broker.http.server": "debug"})
    assert logged(levels, ("broker.http.server.Site", LogLevel.debug)) == ["broker.http.server.Site"]
    assert world.ask("PUT", "/debug/log?level=", b"").json["log"]["parts"] == {}
    assert world.ask("PUT", "/debug/log?level=warn", b"").json["log"]["parts"] == {"broker": "warn"}


@pytest.mark.parametrize("query", ["", "?part=stomp", "?part=nothing&level=debug", "?part=stomp&level=loud"])
def test_bad_values_are_problems_and_change_nothing(query: str) -> None:
    world = World()
    answer = world.ask("PUT", f"/debug/log{query}", b"", Accept="application/json")
    assert (answer.status, answer.json["type"]) == (400, "/problems/bad-parameter")
    assert world.ask("GET", "/debug").json["log"]["parts"] == {}


def test_a_part_is_known_to_log_everything_from_when_it_does() -> None:
    levels = Levels()
    assert not levels.debugs("broker.http.server.Site")
    levels.set("http.server", "debug", "me")
    assert levels.debugs("broker.http.server.Site")
    assert not levels.debugs("broker.http.channel.Channel")
    levels.clear("me")
    assert not levels.debugs("broker.http.server.Site")
