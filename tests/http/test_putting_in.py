"""What a publish may say, and what becomes of it: groups, keys, full channels, several places, several messages."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from broker.core.destination import Destination, Kind
from broker.core.policy import Policies, Policy, Rule, TopicPolicy
from broker.storage.memory import MemoryStore
from tests.http.support import Response, World

JSON = {"Content_Type": "application/json"}


def world(store: MemoryStore | None = None, **rules: Any) -> World:
    """A broker whose channel ``work`` has this policy; publishers' keys are remembered for a minute everywhere."""
    policies = Policies(
        Policy(dedup_window=60_000),
        [Rule("work", rules)],
        topic_default=TopicPolicy(dedup_window=60_000),
        topic_rules=[Rule("small", {"max_message_size": 3})],
        aliases={"both": (Destination(Kind.QUEUE, "one"), Destination(Kind.TOPIC, "two"))},
    )
    return World(store=store, policy=policies)


# -- groups


def test_messages_of_a_group_go_out_one_at_a_time() -> None:
    on = world(groups=True)
    for body, group in ((b"a1", "a"), (b"a2", "a"), (b"b1", "b")):
        on.post("work", body, f"?group={group}")
    first, second = on.get("work"), on.get("work")
    assert [(one.body, one.headers["x-linger-group"]) for one in (first, second)] == [(b"a1", "a"), (b"b1", "b")]
    assert on.get("work").status == 204
    on.ask("DELETE", f"/messages/{first.id}")
    assert on.get("work").body == b"a2"


# -- keys


def test_the_same_key_again_is_answered_with_the_first_id() -> None:
    on = world()
    first = on.post("work", b"x", Idempotency_Key='"k-1"')
    again = on.post("work", b"x", Idempotency_Key='"k-1"')
    assert (again.status, again.id, again.headers["x-linger-duplicate"]) == (202, first.id, "1")
    assert "x-linger-duplicate" not in first.headers
    assert on.post("work", b"x", Idempotency_Key='"k-2"').id != first.id
    assert on.ready("work") == (2, 0)


def test_the_same_key_for_another_message_is_refused() -> None:
    on = world()
    on.post("work", b"x", Idempotency_Key="k")
    other = on.post("work", b"y", Idempotency_Key="k", Accept="application/json")
    assert (other.status, other.json["type"]) == (422, "/problems/idempotency-mismatch")
    on.clock.advance(61)
    assert on.post("work", b"y", Idempotency_Key="k").status == 202


@pytest.mark.parametrize("path", ["/channels/work", "/channels/work/messages", "/topics/news"])
def test_a_key_whose_first_publish_is_under_way_is_409(path: str) -> None:
    on = world()
    on.ask("PUT", "/channels/work/topics/news")
    said = {**JSON, "Idempotency_Key": "k", "Accept": "application/json"}
    on.store.hold = True
    first = on.waiting("POST", path, b"[1]", **said)
    early = on.ask("POST", path, b"[1]", **said)
    assert (early.status, early.json["type"]) == (409, "/problems/idempotency-in-progress")
    assert early.headers["retry-after"] == "1"
    other = on.waiting("POST", path, b"[1]", **{**said, "Idempotency_Key": "l"})
    on.store.hold = False
    on.store.release_commit()
    assert [first.answer().status, other.answer().status] == [202, 202]
    again = on.ask("POST", path, b"[1]", **said)
    assert (again.status, "x-linger-duplicate" in again.headers) == (202, True)
    assert on.ready("work") == (2, 0)


def test_a_key_whose_first_publish_failed_is_free_again() -> None:
    on = world()
    on.store.hold = True
    first = on.waiting("POST", "/channels/work", b"x", Idempotency_Key="k")
    on.store.fail_commit()
    assert first.answer().status == 503
    on.store.hold = False
    if on.store.held is not None:
        on.store.release_commit()
    on.clock.advance(2)
    assert on.post("work", b"y", Idempotency_Key="k").status == 202


def test_an_event_under_way_is_answered_with_the_first_id() -> None:
    on = world()
    on.store.hold = True
    both = [on.waiting("POST", "/channels/work", b"x", ce_id="1", ce_source="s") for _ in range(2)]
    on.store.hold = False
    on.store.release_commit()
    first, again = [one.answer() for one in both]
    assert (again.id, again.headers["x-linger-duplicate"]) == (first.id, "1")


def test_a_key_whose_publish_was_refused_was_not_used() -> None:
    on = world(max_messages=1)
    first = on.post("work")
    assert on.post("work", b"x", Idempotency_Key="k").status == 507
    on.ask("DELETE", f"/messages/{first.id}")
    assert on.post("work", b"y", Idempotency_Key="k").status == 202


def test_a_key_is_remembered_for_its_window_and_over_a_restart() -> None:
    store = MemoryStore()
    first = world(store).post("work", Idempotency_Key="k")
    later = world(store)
    assert later.post("work", Idempotency_Key="k").id == first.id
    later.clock.advance(61)
    assert later.post("work", Idempotency_Key="k").id != first.id


def test_source_and_id_of_an_event_are_a_key_too() -> None:
    on = world()
    ids = [on.post("work", b"x", ce_id=id, ce_source=source).id for id, source in ("1a", "1a", "2a", "1b")]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


def test_a_long_key_is_a_key_too() -> None:
    on = world()
    ids = [on.post("work", b"x", Idempotency_Key="k" * 5_000 + last).id for last in "aab"]
    assert ids[0] == ids[1] != ids[2]


def test_without_a_window_every_publish_is_new() -> None:
    on = World()
    assert on.post("work", Idempotency_Key="k").id != on.post("work", Idempotency_Key="k").id


def test_a_topic_answers_a_double_with_the_first_ids() -> None:
    on = world()
    on.ask("PUT", "/channels/a/topics/news")
    first, again = [on.ask("POST", "/topics/news", b"x", Idempotency_Key="k") for _ in range(2)]
    assert (first.json, again.headers["x-linger-duplicate"]) == (again.json, "1")
    assert on.ready("a") == (1, 0)


# -- full channels


def test_a_full_channel_is_507_and_says_when_to_come_back() -> None:
    on = world(max_messages=1)
    on.post("work")
    full = on.post("work", Accept="application/json")
    assert (full.status, full.headers["retry-after"]) == (507, "1")
    assert (full.json["type"], full.json["channel"]) == ("/problems/channel-full", "work")


def test_what_a_full_channel_drops_is_202_without_an_id() -> None:
    on = world(max_messages=1, overflow="drop_new")
    on.post("work")
    dropped = on.post("work", b"too much")
    assert (dropped.status, dropped.json, dropped.headers["x-linger-skipped"]) == (202, {"id": 0}, "work")
    assert on.get("work").body == b"a message"


def test_a_filter_that_says_no_is_no_full_channel() -> None:
    on = world()
    on.ask("PUT", "/channels/picky/sources/queue:work?match=size%20%3E%20100")
    assert "x-linger-skipped" not in on.post("work").headers


def test_who_waits_for_room_is_answered_when_there_is_some() -> None:
    on = world(max_messages=1, overflow="wait")
    first = on.post("work")
    waiting = on.waiting("POST", "/channels/work", b"second")
    assert waiting.answers() == []
    on.ask("DELETE", f"/messages/{first.id}")
    assert waiting.answer().status == 202
    assert on.get("work").body == b"second"


def test_who_waits_too_long_for_room_gets_507() -> None:
    on = world(max_messages=1, overflow="wait")
    on.post("work")
    waiting = on.waiting("POST", "/channels/work", b"second")
    on.clock.advance(30)
    assert waiting.answer().status == 507
    assert on.ready("work") == (1, 0)


def test_who_leaves_while_waiting_for_room_has_published_nothing() -> None:
    on = world(max_messages=1, overflow="wait")
    first = on.post("work")
    on.waiting("POST", "/channels/work", b"second").leave()
    on.ask("DELETE", f"/messages/{first.id}")
    assert on.ready("work") == (0, 0)


def test_who_waits_for_room_when_we_stop_gets_503_and_nothing_is_kept() -> None:
    on = world(max_messages=1, overflow="wait")
    on.post("work")
    waiting = on.waiting("POST", "/channels/work", b"second")
    on.site.drain()
    assert waiting.answer().status == 503


def test_a_topic_tells_which_channels_were_full_and_strictly_gives_it_to_none() -> None:
    on = world(max_messages=1)
    for channel in ("work", "other"):
        on.ask("PUT", f"/channels/{channel}/topics/news")
    on.post("work")
    strict = on.ask("POST", "/topics/news?strict=1", b"x", Accept="application/json")
    assert (strict.status, strict.json["channels"], on.ready("other")) == (507, ["work"], (0, 0))
    loose = on.ask("POST", "/topics/news", b"x")
    assert (loose.status, set(loose.json), loose.headers["x-linger-skipped"]) == (202, {"other"}, "work")


def test_a_topic_has_a_size_of_its_own() -> None:
    on = world()
    on.ask("PUT", "/channels/a/topics/small")
    assert on.ask("POST", "/topics/small", b"abcd").status == 400
    assert on.ask("POST", "/topics/small", b"abc").status == 202


# -- when


def test_a_message_is_due_at_a_moment() -> None:
    on = world()
    now = on.broker.now() // 1_000_000
    for at in (str(now + 60), "60s", "2023-11-14T22%3A14%3A20Z"):
        late = on.post("work", query=f"?at={at}")
        assert late.status == 202, at
    assert on.get("work").status == 204
    on.clock.advance(61)
    assert [on.get("work").status for _ in range(4)] == [200, 200, 200, 204]
    assert on.post("work", query="?at=soon").status == 400
    assert on.post("work", b"now", "?at=2001-01-01").status == 202
    assert on.get("work").body == b"now"


# -- several places


def test_one_publish_to_several_places_is_one_commit() -> None:
    on = world()
    on.ask("PUT", "/channels/reader/topics/news")
    before = on.store.commits
    put = on.post("a", b"x", "?to=queue:b,topic:news")
    assert on.store.commits == before + 1
    assert put.json["id"] == put.json["ids"]["a"]
    assert set(put.json["ids"]) == {"a", "b", "reader"}
    assert [on.get(name).body for name in ("a", "b", "reader")] == [b"x"] * 3
    assert on.post("a", query="?to=b").status == 400


def test_an_alias_stands_for_its_targets() -> None:
    on = world()
    on.ask("PUT", "/channels/reader/topics/two")
    put = on.post("both", b"x")
    assert set(put.json["ids"]) == {"one", "reader"}
    assert put.json["id"] in put.json["ids"].values()
    assert [on.get(name).body for name in ("one", "reader")] == [b"x"] * 2


# -- several messages


def batch(on: World, kind: str, body: bytes, query: str = "", **headers: str) -> Response:
    return on.ask("POST", f"/channels/work/messages{query}", body, Content_Type=kind, **headers)


EVENTS = msgspec.json.encode(
    [{"specversion": "1.0", "id": id, "source": "/s", "type": "t", "data": {"n": 1}} for id in "ab"]
)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'[{"n":1}, {"n":2}]'),
        ("application/x-ndjson", b'{"n":1}\n\n{"n": 2}\n'),
        ("application/cloudevents-batch+json; charset=utf-8", EVENTS),
    ],
)
def test_a_batch_is_stored_in_one_commit(kind: str, body: bytes) -> None:
    on = world()
    before = on.store.commits
    put = batch(on, kind, body, "?priority=-1")
    assert (put.status, on.store.commits) == (202, before + 1)
    got = [on.get("work") for _ in range(2)]
    assert [one.id for one in got] == put.json["ids"]
    assert got[0].headers["content-type"] == "application/json"
    assert {one.headers["x-linger-priority"] for one in got} == {"-1"}
    assert got[0].json == {"n": 1}


def test_a_batch_sent_again_is_not_stored_again() -> None:
    on = world()
    first, again = [batch(on, "application/json", b"[1,2]", Idempotency_Key="b") for _ in range(2)]
    assert (again.json, again.headers["x-linger-duplicate"]) == (first.json, "0,1")
    assert on.ready("work") == (2, 0)


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("application/json", b"{}", 400),
        ("application/json", b"[", 400),
        ("application/json", b"[]", 400),
        ("application/x-ndjson", b'{"n":1}\n{', 400),
        ("application/cloudevents-batch+json", b'[{"id":"1"}]', 400),
        ("application/cloudevents-batch+json", b'{"id":"1"}', 400),
        ("application/cloudevents-batch+json", b'[{"specversion":"1.0","id":"1","source":"s","type":"t"}]', 400),
        ("text/plain", b"x", 415),
        ("", b"x", 415),
        ("application/json", b"[" + b"1," * 1000 + b"1]", 413),
        ("application/json", b'["' + b"x" * 60_000 + b'"]', 202),
    ],
)
def test_a_batch_that_is_wrong_stores_nothing(kind: str, body: bytes, status: int) -> None:
    on = world()
    assert batch(on, kind, body).status == status
    assert on.ready("work") == (1 if status == 202 else 0, 0)


def test_a_batch_that_does_not_fit_stores_nothing() -> None:
    on = world(max_messages=1)
    assert batch(on, "application/json", b"[1,2]").status == 507
    assert on.ready("work") == (0, 0)


def test_a_topic_tells_the_position_of_what_was_published() -> None:
    on = world()
    on.ask("PUT", "/channels/a/topics/news")
    first, second = [int(on.ask("POST", "/topics/news", b"x").headers["x-linger-seq"]) for _ in range(2)]
    assert first < second
    page = on.ask("GET", f"/channels/a/messages?after={first}").json["messages"]
    assert [one["position"] for one in page] == [second]
