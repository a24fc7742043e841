"""The route table and the reading of paths."""

from __future__ import annotations

import pytest

from broker.errors import BadName
from broker.http.problem import Problem
from broker.http.routes import ROUTES, Endpoint, resolve


@pytest.mark.parametrize(
    ("method", "path", "endpoint", "names"),
    [
        ("GET", "/", Endpoint.WELCOME, {}),
        ("GET", "/channels", Endpoint.CHANNELS, {}),
        ("GET", "/channels/work", Endpoint.TAKE, {"channel": "work"}),
        ("HEAD", "/channels/work", Endpoint.PEEK, {"channel": "work"}),
        ("POST", "/channels/work", Endpoint.PUBLISH, {"channel": "work"}),
        ("DELETE", "/channels/work", Endpoint.PURGE, {"channel": "work"}),
        ("GET", "/channels/work/stats", Endpoint.CHANNEL_STATS, {"channel": "work"}),
        ("GET", "/channels/stats", Endpoint.TAKE, {"channel": "stats"}),
        ("GET", "/channels/work/topics", Endpoint.CHANNEL_TOPICS, {"channel": "work"}),
        ("PUT", "/channels/work/topics/news", Endpoint.SUBSCRIBE, {"channel": "work", "topic": "news"}),
        ("DELETE", "/channels/work/topics/news", Endpoint.UNSUBSCRIBE, {"channel": "work", "topic": "news"}),
        ("GET", "/topics", Endpoint.TOPICS, {}),
        ("POST", "/topics/news", Endpoint.PUBLISH_TO_TOPIC, {"topic": "news"}),
        ("GET", "/topics/news/channels", Endpoint.TOPIC_CHANNELS, {"topic": "news"}),
        ("POST", "/messages/7/touch", Endpoint.TOUCH, {"message": "7"}),
        ("DELETE", "/messages/7", Endpoint.SETTLE, {"message": "7"}),
        ("GET", "/stats", Endpoint.STATS, {}),
        ("GET", "/metrics", Endpoint.METRICS, {}),
        ("GET", "/healthz", Endpoint.HEALTH, {}),
        ("GET", "/readyz", Endpoint.READY, {}),
    ],
)
def test_every_route(method: str, path: str, endpoint: Endpoint, names: dict[str, str]) -> None:
    match = resolve(method, path)
    assert (match.endpoint, match.names) == (endpoint, names)


def test_the_table_names_every_endpoint_once() -> None:
    named = [endpoint for methods in ROUTES.values() for endpoint in methods.values()]
    assert sorted(e.name for e in named) == sorted(e.name for e in Endpoint)


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/channels/",
        "//channels",
        "/channels//work",
        "/channels/work/",
        "/channels/work/topics/",
        "/channels/work/other",
        "/channels/a/b/c/d",
        "/%63hannels",
        "/messages",
        "/messages/",
        "/messages/abc",
        "/messages/-1",
        "/messages/1.5",
        "/messages/\u0661",
        '/channels/a"b',
        "/channels/a[b]",
        "/channels/\xe9",
        "channels",
        "",
    ],
)
def test_unknown_paths_are_404(path: str) -> None:
    with pytest.raises(Problem) as raised:
        resolve("GET", path)
    assert raised.value.status == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/", ("GET", "HEAD")),
        ("PUT", "/channels/work", ("DELETE", "GET", "HEAD", "POST")),
        ("OPTIONS", "/channels/work", ("DELETE", "GET", "HEAD", "POST")),
        ("get", "/channels/work", ("DELETE", "GET", "HEAD", "POST")),
        ("GET", "/channels/work/topics/news", ("DELETE", "PUT")),
        ("HEAD", "/topics/news", ("POST",)),
        ("GET", "/topics/news", ("POST",)),
        ("PUT", "/messages/7", ("DELETE", "GET", "HEAD")),
        ("GET", "/messages/7/touch", ("POST",)),
        ("BREW", "/stats", ("GET", "HEAD")),
    ],
)
def test_a_known_path_without_the_method_is_405(method: str, path: str, allowed: tuple[str, ...]) -> None:
    with pytest.raises(Problem) as raised:
        resolve(method, path)
    assert (raised.value.status, raised.value.allow) == (405, allowed)


@pytest.mark.parametrize("path", ["/", "/channels", "/channels/work/stats", "/stats", "/topics", "/healthz"])
def test_head_is_allowed_where_get_changes_nothing(path: str) -> None:
    assert resolve("HEAD", path) == resolve("GET", path)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("a%2Fb", "a/b"),
        ("a%20b", "a b"),
        ("%E2%82%AC", "\u20ac"),
        ("a.b:c+d~e@f", "a.b:c+d~e@f"),
        ("!$&'()*+,;=", "!$&'()*+,;="),
        ("a%25b", "a%b"),
        ("..", ".."),
        ("n" * 250, "n" * 250),
    ],
)
def test_a_name_may_hold_anything_rfc_3986_allows_in_a_segment(raw: str, name: str) -> None:
    assert resolve("GET", f"/channels/{raw}").channel == name


@pytest.mark.parametrize("raw", ["%FF", "%C3", "a%", "a%2", "%zz"])
def test_a_name_that_does_not_decode_is_400(raw: str) -> None:
    with pytest.raises(Problem) as raised:
        resolve("GET", f"/channels/{raw}")
    assert (raised.value.status, raised.value.reason) == (400, "Bad Request")


@pytest.mark.parametrize("raw", ["n" * 251, "%E2%82%AC" * 84, "a%00b", "a%0Ab", "%C2%85"])
def test_a_name_the_broker_refuses(raw: str) -> None:
    with pytest.raises(BadName):
        resolve("GET", f"/channels/{raw}")


def test_message_numbers() -> None:
    assert resolve("DELETE", "/messages/0012").message == 12
    assert resolve("DELETE", f"/messages/{2**63 - 1}").message == 2**63 - 1
    for too_long in (str(2**63), "9" * 10_000):
        with pytest.raises(Problem) as raised:
            _ = resolve("DELETE", f"/messages/{too_long}").message
        assert raised.value.status == 400
