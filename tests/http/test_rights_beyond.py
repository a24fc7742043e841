"""Who may do what of that which goes beyond Linger: each part of a request is looked at."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.auth.support import Known, everything
from tests.auth.test_http import Guarded, basic
from tests.http.support import Response

JSON = {"Content_Type": "application/json"}


@pytest.fixture
def world() -> Guarded:
    """Alice may do everything, Bob publish to ``in`` and take from ``out``, Carol look into ``in``."""
    rights = {
        "bob": {"publish": "queue:in", "subscribe": "queue:out topic:news", "create": "*"},
        "carol": {"browse": "queue:in"},
    }
    return Guarded(Known({"alice": everything(), **rights}))


def ask(world: Guarded, user: str, method: str, path: str, said: Any = None) -> Response:
    body = None if said is None else json.dumps(said).encode()
    return world.ask(method, path, body, **JSON, Authorization=basic(user))


@pytest.mark.parametrize(
    ("user", "method", "path", "said", "status"),
    [
        ("bob", "POST", "/channels/in/messages", [1], 202),
        ("bob", "POST", "/channels/out/messages", [1], 403),
        ("bob", "POST", "/channels/in?to=queue:out", {}, 403),
        ("bob", "POST", "/channels/out/lease", {}, 204),
        ("bob", "POST", "/channels/in/lease", {}, 403),
        ("bob", "GET", "/channels/in/stream", None, 403),
        ("bob", "GET", "/topics/secret/stream", None, 403),
        ("bob", "GET", "/channels/in/messages", None, 403),
        ("carol", "GET", "/channels/in/messages", None, 200),
        ("carol", "GET", "/channels/in/config", None, 200),
        ("carol", "PUT", "/channels/in/config", {"ttl": 1}, 403),
        ("carol", "POST", "/channels/in/pause", {}, 403),
        ("carol", "GET", "/definitions", None, 403),
        ("carol", "PUT", "/definitions", {}, 403),
        ("carol", "POST", "/drain", {}, 403),
        ("bob", "PUT", "/channels/out/sources/queue:in", {}, 403),
        ("alice", "PUT", "/channels/out/sources/queue:in", {}, 204),
        ("bob", "POST", "/commit", {"ops": [{"publish": {"channel": "in", "body": "x"}}]}, 200),
        ("bob", "POST", "/commit", {"ops": [{"publish": {"channel": "out", "body": "x"}}]}, 403),
    ],
)
def test_each_takes_its_right(user: str, method: str, path: str, said: Any, status: int, world: Guarded) -> None:
    assert ask(world, user, method, path, said).status == status


def test_a_commit_touches_only_what_one_may_take(world: Guarded) -> None:
    world.put("in")
    got = world.by("alice", "GET", "/channels/in?nowait")
    ops = {"ops": [{"publish": {"channel": "in", "body": "x"}}, {"ack": {"id": got.id}}]}
    refused = ask(world, "bob", "POST", "/commit", ops)
    assert (refused.status, world.ready_of("in")) == (409, 0)  # as for a message that is not there
    assert world.by("carol", "GET", f"/messages/{got.id}").status == 200
    assert world.by("bob", "GET", f"/messages/{got.id}").status == 404
    assert world.by("bob", "POST", f"/messages/{got.id}/nack").status == 404
