"""Clients that others wrote, against one broker in a process of its own: Linger's, and one that asks everything."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from lingerclient import BlockingLingerClient, LingerClientError
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance
from tornado.httpclient import HTTPError

from benchmarks import long_polls
from tests.support import Twistd

#: The type of most bodies here.
JSON = "application/json"


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a broker's HTTP is."""
    with Twistd(tmp_path_factory.mktemp("broker"), "--memcache=off", "--stomp=off", "--data=:memory:") as twistd:
        yield f"http://127.0.0.1:{twistd.ports()['HTTP']}"
        assert twistd.process.poll() is None
        twistd.process.terminate()
        assert twistd.wait() in (0, -signal.SIGTERM)
        assert "Traceback" not in twistd.said


# -- Linger's own client


@pytest.fixture
def linger(url: str) -> Iterator[BlockingLingerClient]:
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        asyncio.set_event_loop(loop)
        client = BlockingLingerClient(linger_url=url)
        yield client
        client.close()
    asyncio.set_event_loop(None)


def test_lingers_client_puts_takes_touches_and_settles(linger: BlockingLingerClient) -> None:
    id = linger.post("linger", {"n": 1}, priority=-1, timeout=60, deliver=3, linger=600)
    assert "linger" in linger.channels()
    message = linger.get("linger")
    assert (message["id"], message["body"], message["channel"]) == (id, {"n": 1}, "linger")
    assert (message["priority"], message["timeout"], message["deliver"], message["delivered"]) == (-1, 60, 3, 1)
    assert linger.get("linger", nowait=True) is None
    linger.touch(id)
    linger.delete(id)
    with pytest.raises(HTTPError) as gone:
        linger.delete(id)
    assert gone.value.code == 404


def test_lingers_client_subscribes_and_publishes(linger: BlockingLingerClient) -> None:
    linger.subscribe("lc-a", "lc-news", priority=1, timeout=5)
    linger.subscribe("lc-b", "lc-news")
    assert sorted(linger.subscribers("lc-news")) == ["lc-a", "lc-b"]
    assert linger.subscriptions("lc-a") == ["lc-news"]
    assert "lc-news" in linger.topics()
    ids = linger.publish("lc-news", "hello")
    message = linger.get("lc-a")
    assert (message["id"], message["topic"], message["body"], message["timeout"]) == (
        ids["lc-a"],
        "lc-news",
        "hello",
        5,
    )
    assert linger.channel_stats("lc-b") == {"ready": 1, "hidden": 0}
    linger.unsubscribe("lc-a", "lc-news")
    linger.unsubscribe("lc-b", "lc-news")
    assert linger.publish("lc-news", "nobody") == {}
    linger.drain("lc-b")
    assert linger.channel_stats("lc-b") == {"ready": 0, "hidden": 0}
    assert linger.stats()["current-uptime"] >= 0


def test_lingers_client_streams(linger: BlockingLingerClient) -> None:
    for number in range(3):
        linger.post("lc-stream", number)
    stream = linger.stream("lc-stream")
    assert [stream.next()["body"] for _ in range(3)] == [0, 1, 2]


def test_lingers_client_understands_a_refusal(linger: BlockingLingerClient) -> None:
    with pytest.raises((HTTPError, LingerClientError)) as refused:
        linger.post("linger", "x", timeout=0)
    assert refused.value.code == 400


# -- one that asks everything

#: Not asked: what has no end, and what would end the questions for all others.
ENDLESS = ("/stream", "/trace", "/drain", "/resume", "/status")
#: Requests for each operation.
EXAMPLES = 6


def operations() -> list[tuple[str, str]]:
    from broker.http.openapi import document

    paths = document()["paths"]
    return [(path, method) for path, methods in paths.items() for method in methods if not path.endswith(ENDLESS)]


@pytest.fixture(scope="module")
def schema(url: str) -> Any:
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.parametrize(("path", "method"), operations())
def test_whatever_is_asked_is_answered_as_promised(path: str, method: str, schema: Any, url: str) -> None:
    operation = schema[path][method.upper()]

    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def ask(case: Any) -> None:
        case.query = {**(case.query or {}), "nowait": "1"}
        if "lease" in path or "wait" in case.query:
            case.query["wait"] = 0
        started = time.monotonic()  # what waits does so for two minutes
        case.call_and_validate(
            base_url=url, checks=[not_a_server_error, status_code_conformance, content_type_conformance], timeout=60
        )
        assert time.monotonic() - started < 60

    ask()


# -- over a restart


def ask(
    port: int, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=Twistd.PATIENCE)
    with contextlib.closing(connection):
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        response = connection.getresponse()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()


def test_keys_leases_and_settings_survive_a_kill(tmp_path: Any) -> None:
    configured = json.dumps({"dedup_window": 600_000, "retain": 600_000}).encode()
    with Twistd(tmp_path, "--memcache=off", "--stomp=off") as first:
        port = first.ports()["HTTP"]
        status, _, _ = ask(port, "PUT", "/channels/work/config", configured, Content_Type="application/json")
        assert status == 201
        _, _, put = ask(port, "POST", "/channels/work", b"x", Idempotency_Key="k")
        _, got, _ = ask(port, "GET", "/channels/work?timeout=500")
        ask(port, "POST", "/channels/other", b"y")  # what is stored before it, the lease too, is stored with it
        first.kill()
    with Twistd(tmp_path, "--memcache=off", "--stomp=off") as second:
        port = second.ports()["HTTP"]
        _, _, shown = ask(port, "GET", "/channels/work/config")
        assert json.loads(shown)["set"] == ["dedup_window", "retain"]
        _, said, again = ask(port, "POST", "/channels/work", b"x", Idempotency_Key="k")
        assert (json.loads(again), said["x-linger-duplicate"]) == (json.loads(put), "1")
        id, lease = got["x-linger-msg-id"], got["x-linger-lease"]
        assert ask(port, "GET", "/channels/work?nowait")[0] == 204
        assert ask(port, "DELETE", f"/messages/{id}?lease=0")[0] == 409
        assert ask(port, "DELETE", f"/messages/{id}?lease={lease}")[0] == 204
        _, _, page = ask(port, "GET", "/channels/work/messages?state=done")
        assert len(json.loads(page)["messages"]) == 1
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=Twistd.PATIENCE) as ready:
            assert ready.status == 200


# -- who waits


def test_polls_that_wait_cost_nothing_and_are_answered_beside_others() -> None:
    row = long_polls.measure(20, 100, 1.0)
    assert float(str(row["with"])) < 3
    assert int(str(row["requests/s"])) > 0
    assert float(str(row["woken p50 ms"])) > 0


# -- killed in the middle


def test_a_kill_among_commits_leaves_each_message_on_one_side(tmp_path: Path) -> None:
    everything = set(range(400))
    with Twistd(tmp_path, "--memcache=off", "--stomp=off") as first:
        port = first.ports()["HTTP"]
        ask(port, "POST", "/channels/in/messages", json.dumps(sorted(everything)).encode(), Content_Type=JSON)

        def work() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
                while True:
                    _, _, said = ask(port, "POST", "/channels/in/lease", b'{"max": 3}', Content_Type=JSON)
                    ops: list[Any] = []
                    for one in json.loads(said)["messages"]:
                        publish = {"channel": "out", "body": str(one["event"]["data"]), "content_type": JSON}
                        ops += [{"ack": {"id": one["id"], "lease": one["lease"]}}, {"publish": publish}]
                    ask(port, "POST", "/commit", json.dumps({"ops": ops}).encode(), Content_Type=JSON)

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        while json.loads(ask(port, "GET", "/channels/out/stats")[2])["ready"] < 60:
            assert any(worker.is_alive() for worker in workers)
        first.kill()
        for worker in workers:
            worker.join()
    with Twistd(tmp_path, "--memcache=off", "--stomp=off") as second:
        port = second.ports()["HTTP"]
        pages = [ask(port, "GET", f"/channels/{name}/messages?limit=1000")[2] for name in ("in", "out")]
    left, done = ([one["event"]["data"] for one in json.loads(page)["messages"]] for page in pages)
    assert len(done) >= 60
    assert sorted([*left, *done]) == sorted(everything)
