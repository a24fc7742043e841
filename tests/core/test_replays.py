"""Replays: what they put in, that a crash at any moment neither loses nor doubles it, and that it can be undone."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from broker.core import replay_work
from broker.core.browsing import State as Standing
from broker.core.destination import Destination, queue, topic
from broker.core.filter import BadFilter
from broker.core.level import Level
from broker.core.message import Message
from broker.core.policy import Policies, Policy, Rule, TopicPolicy
from broker.core.replay import Job, Plan, State
from broker.core.replays import Preview
from broker.core.survey import Surveyor
from broker.errors import BadValue, BrokerError, NotFound
from broker.storage.memory import MemoryStore
from tests.core.support import Bench, Holding, result, start, text

NEWS = topic("news")
RETAINED = TopicPolicy(retain=3_600_000)


def bench(store: MemoryStore | Holding | None = None, **queues: dict[str, Any]) -> Bench:
    rules = [Rule(name, says) for name, says in queues.items()]
    return Bench(store, Policies(Policy(), rules, topic_default=RETAINED))


def put(on: Bench, to: Destination, *bodies: str, **fields: Any) -> None:
    for body in bodies:
        sent = on.broker.publish(to, text(body, **fields))
        on.turn()
        result(sent)


def begin(on: Bench, **plan: Any) -> Job:
    creating = start(on.broker.replays.create(Plan(**{"source": NEWS, "target": queue("again")} | plan)))
    on.turn()
    return result(creating)


def job(on: Bench, id: int = 1) -> Job:
    return on.broker.replays.find(id).job


def bodies(on: Bench, name: str = "again") -> list[str]:
    return [message.body.decode() for message in messages(on, name)]


def messages(on: Bench, name: str = "again") -> list[Message]:
    looking = start(on.broker.browse(queue(name), states=(Standing.READY,), limit=1_000))
    on.turn()
    return [seen.message for seen in result(looking).seen]


def cancel(on: Bench, id: int = 1, *, undo: bool = False) -> Job:
    cancelling = start(on.broker.replays.cancel(id, undo=undo))
    on.turn()
    return result(cancelling)


def change(on: Bench, id: int = 1, **what: Any) -> Job:
    changing = start(on.broker.replays.change(id, **what))
    on.turn()
    return result(changing)


def dead(on: Bench, *letters: str, name: str = "work") -> None:
    """Have messages die in a queue."""
    put(on, queue(name), *letters)
    for _ in letters:
        taking = start(on.broker.take(name))
        on.turn()
        delivery = result(taking)
        assert delivery is not None
        _ = on.broker.reject([delivery])
        on.turn()


# -- what is put in


def test_a_topics_past_comes_again_in_order_whatever_its_priority() -> None:
    on = bench()
    for body, priority in (("a", 0), ("b", -3), ("c", 5)):
        put(on, NEWS, body, priority=priority)
    made = begin(on)
    assert (made.id, made.total, made.state) == (1, 3, State.RUNNING)
    assert bodies(on) == ["a", "b", "c"]
    assert (job(on).state, job(on).copied, job(on).examined, job(on).left) == (State.DONE, 3, 3, 0)


def test_only_what_lies_between_the_bounds_and_matches_comes() -> None:
    on = bench()
    put(on, NEWS, "1", "2")
    on.turn(10)
    since = on.broker.now()
    put(on, NEWS, "3", "4", "5")
    on.turn(10)
    until = on.broker.now()
    put(on, NEWS, "6")
    begin(on, since=since, until=until, match="data != 4")
    assert bodies(on) == ["3", "5"]
    assert (job(on).total, job(on).examined, job(on).matched) == (3, 3, 2)


def test_what_is_published_after_the_beginning_is_not_replayed_even_into_its_own_source() -> None:
    on = bench()
    result(start(on.broker.bind("reader", NEWS)))
    put(on, NEWS, "a", "b")
    begin(on, target=NEWS, rate=1)
    put(on, NEWS, "c")
    on.turn(60)
    assert bodies(on, "reader") == ["a", "b", "a", "c", "b"]
    assert job(on).state is State.DONE
    begin(on, target=NEWS)
    assert job(on, 2).copied == 3  # what the first one put in is no past of the topic


def test_what_a_queue_held_comes_again_although_it_is_settled() -> None:
    on = bench(work={"retain": 60_000})
    put(on, queue("work"), "a", "b")
    assert [on.body("work"), on.body("work")] == [b"a", b"b"]
    begin(on, source=queue("work"))
    assert bodies(on) == ["a", "b"]


def test_what_waits_can_be_copied_and_moved() -> None:
    on = bench()
    put(on, queue("work"), "a", "b", "c")
    taking = start(on.broker.take("work"))
    on.turn()
    assert result(taking) is not None
    begin(on, source=queue("work"), waiting=True)
    assert (bodies(on), bodies(on, "work"), job(on).left) == (["b", "c"], ["b", "c"], 1)
    begin(on, source=queue("work"), waiting=True, move=True, target=queue("elsewhere"), match="body = 'c'")
    assert (bodies(on, "elsewhere"), bodies(on, "work")) == (["c"], ["b"])
    on.boot()
    assert bodies(on, "work") == ["a", "b"]


def test_what_is_kept_in_memory_only_is_moved_too() -> None:
    on = bench(work={"durable": False})
    put(on, queue("work"), "a", "b")
    begin(on, source=queue("work"), waiting=True, move=True)
    assert (bodies(on), bodies(on, "work")) == (["a", "b"], [])


def test_a_message_keeps_who_it_was_and_says_which_replay_brought_it() -> None:
    on = bench()
    put(on, NEWS, "a", content_type="text/x", flags=3, group="g", headers={"colour": "red", "Ce-Run": "old"}, ttl=9_000)
    put(on, NEWS, "b", headers={"ce-id": "17", "ce-source": "/shop", "ce-time": "2023-01-01T00:00:00Z"})
    on.turn(60)
    begin(on)
    first, second = messages(on)
    assert (first.content_type, first.flags, first.group, first.priority) == ("text/x", 3, "g", 10)
    assert first.headers == {
        "colour": "red",
        "ce-id": "3.0",
        "ce-source": "/topic/news",
        "ce-time": "2023-11-14T22:13:20.000001Z",
        "ce-run": "1",
    } | {"ce-id": first.headers["ce-id"], "ce-time": first.headers["ce-time"]}
    assert first.expires > on.broker.now()
    assert second.headers == {
        "ce-id": "17",
        "ce-source": "/shop",
        "ce-time": "2023-01-01T00:00:00Z",
        "ce-run": "1",
    }


def test_a_topic_gets_them_as_if_they_were_published() -> None:
    on = bench()
    put(on, NEWS, "a", "bb")
    result(start(on.broker.bind("long", topic("copies"), match="size > 1")))
    result(start(on.broker.bind("all", topic("copies"))))
    begin(on, target=topic("copies"))
    assert (bodies(on, "long"), bodies(on, "all")) == (["bb"], ["a", "bb"])


def test_no_more_than_the_most_and_no_faster_than_the_rate() -> None:
    on = bench()
    put(on, NEWS, *map(str, range(50)))
    begin(on, rate=20, most=30)
    on.turn(0.5)
    assert 2 <= len(bodies(on)) <= 14
    for _ in range(20):
        on.turn(0.1)
    assert bodies(on) == [str(number) for number in range(30)]
    assert job(on).state is State.DONE


def test_a_dry_run_counts_and_shows_five() -> None:
    on = bench()
    put(on, NEWS, *map(str, range(20)))
    looking = start(on.broker.replays.preview(Plan(source=NEWS, target=queue("again"), match="data >= 10")))
    on.turn()
    seen = result(looking)
    assert isinstance(seen, Preview)
    assert (seen.examined, seen.matched) == (20, 10)
    assert [one.message.body for one in seen.samples] == [b"10", b"11", b"12", b"13", b"14"]
    assert on.broker.replays.all() == []
    assert bodies(on) == []


def test_it_is_counted() -> None:
    on = bench(again={"max_messages": 4})
    put(on, NEWS, *"abcd")
    begin(on)
    looking = start(Surveyor(on.broker).survey())
    on.turn()
    told = result(looking).broker
    assert (told["replays"], told["replays_waiting"], told["replayed"]) == (1, 1, 3)


# -- beside live traffic


def test_a_full_target_makes_it_wait_and_keeps_room_for_what_is_published() -> None:
    on = bench(again={"max_messages": 10})
    put(on, NEWS, *map(str, range(20)))
    begin(on)
    assert len(bodies(on)) == 9
    assert on.broker.replays.find(1).waits_for == "again is full"
    put(on, queue("again"), "live")
    assert on.body("again") == b"live"
    got = []
    for _ in range(40):
        body = on.body("again")
        if body is not None:
            got.append(body.decode())
        on.turn(0.1)
    assert got == [str(number) for number in range(20)]
    assert job(on).state is State.DONE


def test_it_drives_nothing_out_of_a_queue_that_drops_its_oldest() -> None:
    on = bench(again={"max_messages": 4, "overflow": "drop_oldest"})
    put(on, queue("again"), "live")
    put(on, NEWS, "a", "b", "c", "d")
    begin(on)
    assert sorted(bodies(on)) == ["a", "b", "live"]


def test_where_the_store_is_busy_every_second_commit_has_none_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_work, "MAX_MESSAGES", 5)
    memory = MemoryStore()
    holding = Holding(lambda: memory)
    on = bench(holding)
    put(on, NEWS, *map(str, range(50)))
    holding.hold = True
    _ = start(on.broker.replays.create(Plan(source=NEWS, target=queue("again"))))
    shares = []
    while not on.broker.replays.all() or not job(on).state.over:
        # Somebody publishes all the time, as a busy front would.
        _ = on.broker.publish(queue("live"), text("x"))
        on.turn()
        assert holding.held is not None
        parts = [message for part in holding.held.parts.values() for message in part]
        shares.append(any("ce-run" in message.headers for message in parts))
        holding.release_commit()
    assert shares.count(True) == 10
    assert not any(one and following for one, following in pairwise(shares))


def test_it_waits_while_the_broker_takes_nothing_in() -> None:
    on = bench()
    put(on, NEWS, *"abc")
    begin(on, rate=1)
    on.broker.status.become(Level.DRAINING)
    on.turn(5)
    before = len(bodies(on))
    on.turn(5)
    assert len(bodies(on)) == before < 3
    on.broker.status.become(Level.UP)
    for _ in range(5):
        on.turn(1)
    assert bodies(on) == ["a", "b", "c"]


# -- its life


def test_it_is_paused_and_goes_on_at_another_rate() -> None:
    on = bench()
    put(on, NEWS, *map(str, range(10)))
    begin(on, rate=1)
    assert change(on, paused=True).state is State.PAUSED
    on.turn(5)
    before = len(bodies(on))
    on.boot()
    on.turn(5)
    assert len(bodies(on)) == before < 5
    assert change(on, paused=False, rate=1_000).plan.rate == 1_000
    on.turn(1)
    on.turn(1)
    assert bodies(on) == [str(number) for number in range(10)]


def test_a_cancelled_one_puts_nothing_more_in() -> None:
    on = bench()
    put(on, NEWS, *map(str, range(10)))
    begin(on, rate=1)
    ended = cancel(on)
    on.turn(20)
    assert (ended.state, bodies(on)) == (State.CANCELLED, [str(number) for number in range(ended.copied)])
    with pytest.raises(BadValue, match="replay 1 is over: it is cancelled"):
        change(on, paused=True)
    on.boot()
    on.turn(20)
    assert job(on) == ended


@pytest.mark.parametrize("move", [False, True])
def test_a_kill_in_the_middle_neither_loses_nor_doubles(move: bool) -> None:
    """Killed with a commit under way, be it that it happened or not, again and again."""
    memory = MemoryStore()
    holding = Holding(lambda: memory)
    on = bench(holding)
    source = queue("work") if move else NEWS
    put(on, source, *map(str, range(20)))
    begin(on, source=source, waiting=move, move=move, rate=10)
    kills = 0
    while not job(on).state.over:
        holding.hold = True
        on.turn(0.2)
        assert holding.held is not None
        if kills % 2:
            holding.release_commit()
        kills += 1
        on.boot()
        holding.hold = False
        on.turn()
    assert kills > 5
    on.turn(10)
    on.boot()
    assert bodies(on) == [str(number) for number in range(20)]
    assert (job(on).state, job(on).copied, job(on).examined) == (State.DONE, 20, 20)
    if move:
        assert bodies(on, "work") == []


def test_a_store_that_does_not_commit_is_waited_for() -> None:
    memory = MemoryStore()
    holding = Holding(lambda: memory)
    on = bench(holding)
    put(on, NEWS, *map(str, range(20)))
    begin(on, rate=100)
    holding.hold = True
    on.turn(0.1)
    holding.fail_commit()
    holding.hold = False
    on.turn()
    assert on.broker.replays.find(1).waits_for == "the commit was made to fail"
    on.turn(5)
    assert bodies(on) == [str(number) for number in range(20)]


def test_what_it_has_still_to_read_is_kept_although_everybody_has_read_it() -> None:
    on = bench(work={"retain": 5_000})
    put(on, queue("work"), *map(str, range(8)))
    for _ in range(8):
        on.body("work")
    begin(on, source=queue("work"), rate=1)
    for _ in range(6):
        on.turn(1)
    on.boot()
    for _ in range(20):
        on.turn(1)
    assert bodies(on) == [str(number) for number in range(8)]


def test_a_source_that_is_gone_ends_it_with_the_reason() -> None:
    on = bench()
    put(on, queue("work"), *map(str, range(9)))
    begin(on, source=queue("work"), waiting=True, rate=1)
    deleting = start(on.broker.delete("work"))
    on.turn(2)
    assert result(deleting)
    assert (job(on).state, job(on).reason) == (State.FAILED, "there is no queue work any more")
    on.boot()
    assert job(on).reason == "there is no queue work any more"


# -- undo


def test_undo_leaves_nothing_waiting_in_any_queue_that_got_it() -> None:
    on = bench(light={"durable": False})
    put(on, NEWS, *map(str, range(5)))
    result(start(on.broker.bind("one", topic("copies"))))
    result(start(on.broker.bind("light", topic("copies"))))
    put(on, topic("copies"), "live")
    begin(on, target=topic("copies"))
    taking = start(on.broker.take("one"))
    on.turn()
    live = result(taking)
    taking = start(on.broker.take("one"))
    on.turn()
    loan = result(taking)
    assert live is not None
    assert loan is not None
    assert (live.message.body, loan.message.body) == (b"live", b"0")
    undone = cancel(on, undo=True)
    assert (undone.state, undone.undone, undone.undoing) == (State.DONE, 9, False)
    assert (bodies(on, "one"), bodies(on, "light")) == ([], ["live"])
    result(on.broker.ack([live, loan]))
    on.boot()
    assert bodies(on, "one") == []


def test_undo_settles_what_is_held_back_after_a_failure() -> None:
    on = bench(again={"backoff": (10_000,)})
    put(on, NEWS, "a", "b")
    begin(on)
    taking = start(on.broker.take("again"))
    on.turn()
    delivery = result(taking)
    assert delivery is not None
    on.broker.nack([delivery])
    on.turn()
    assert cancel(on, undo=True).undone == 2
    on.turn(20)
    assert bodies(on) == []


def test_undo_touches_nothing_of_another_replay_into_the_same_queue() -> None:
    on = bench()
    put(on, NEWS, "a")
    begin(on)
    begin(on)
    assert job(on, 1).run == job(on, 2).run
    assert cancel(on, 1, undo=True).undone == 1
    assert [message.headers["ce-run"] for message in messages(on)] == ["2"]


def test_an_undo_that_is_killed_goes_on_at_the_next_start() -> None:
    memory = MemoryStore()
    holding = Holding(lambda: memory)
    on = bench(holding)
    put(on, NEWS, "a", "b", "c")
    begin(on)
    holding.hold = True
    _ = start(on.broker.replays.cancel(1, undo=True)).addErrback(lambda _: None)
    on.turn()
    holding.release_commit()
    on.turn()
    on.boot()
    holding.hold = False
    on.boot()
    on.turn()
    assert bodies(on) == []
    assert not job(on).undoing


@pytest.mark.parametrize("durable", [True, False])
def test_what_was_moved_goes_back_but_for_what_somebody_has(durable: bool) -> None:
    on = bench(again={"durable": durable})
    put(on, queue("work"), *map(str, range(600)))
    begin(on, source=queue("work"), waiting=True, move=True)
    assert on.body("again") == b"0"
    taking = start(on.broker.take("again"))
    on.turn()
    loan = result(taking)
    assert loan is not None
    assert cancel(on, undo=True).undone == 598
    assert (bodies(on), bodies(on, "work")) == ([], [str(number) for number in range(2, 600)])
    assert messages(on, "work")[0].headers.keys() == {"ce-id", "ce-source", "ce-time"}
    on.boot()
    assert bodies(on, "work") == [str(number) for number in range(2, 600)]
    assert bodies(on) == (["1"] if durable else [])


def test_what_was_moved_to_a_topic_stays_there() -> None:
    on = bench()
    put(on, queue("work"), "a")
    result(start(on.broker.bind("again", NEWS)))
    begin(on, source=queue("work"), waiting=True, move=True, target=NEWS)
    with pytest.raises(BadValue, match="replay 1 moved its messages to a topic: there is no moving them back"):
        cancel(on, undo=True)
    assert bodies(on) == ["a"]


def test_a_redrive_is_undone_and_is_no_second_chance_that_was_lost() -> None:
    on = bench(work={"dead_letter": "graves", "redrive_max": 1}, play={"dead_letter": "graves"})
    dead(on, "a", "b")
    dead(on, "c", name="play")
    redriven(on, all=True)
    assert on.body("work") == b"a"
    assert cancel(on, undo=True).undone == 2
    assert (bodies(on, "work"), bodies(on, "play"), bodies(on, "graves")) == ([], [], ["b", "c"])
    redriven(on, all=True)
    assert (bodies(on, "work"), bodies(on, "play"), bodies(on, "graves")) == (["b"], ["c"], [])


def test_moving_back_is_killed_and_gone_on_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.replay_undo.MAX_MESSAGES", 2)
    memory = MemoryStore()
    holding = Holding(lambda: memory)
    on = bench(holding)
    put(on, queue("work"), *map(str, range(9)))
    begin(on, source=queue("work"), waiting=True, move=True)
    holding.hold = True
    _ = start(on.broker.replays.cancel(1, undo=True)).addErrback(lambda _: None)
    for _ in range(4):
        on.turn()
        holding.release_commit()
    on.boot()
    holding.hold = False
    on.turn()
    on.turn()
    assert (bodies(on), bodies(on, "work")) == ([], [str(number) for number in range(9)])
    assert (job(on).undoing, job(on).undone) == (False, 9)


# -- redrive


def redriven(on: Bench, **plan: Any) -> Job:
    said = {"source": queue("graves"), "waiting": True, "move": True, "target": None}
    return begin(on, **said | plan)


def test_dead_letters_go_home() -> None:
    on = bench(work={"dead_letter": "graves"}, play={"dead_letter": "graves"})
    dead(on, "a", "b")
    dead(on, "c", name="play")
    put(on, queue("graves"), "stray")
    redriven(on, all=True)
    assert (bodies(on, "work"), bodies(on, "play"), bodies(on, "graves")) == (["a", "b"], ["c"], ["stray"])
    assert (job(on).copied, job(on).left, job(on).state) == (3, 1, State.DONE)
    (one,) = messages(on, "play")
    assert one.headers["dead-letter-count"] == "1"
    assert one.headers["ce-source"] == "/queue/play"
    assert one.headers["ce-id"] == one.headers["origin"]


def test_a_redrive_wants_a_bound() -> None:
    on = bench(work={"dead_letter": "graves"})
    dead(on, "a", "b", "c")
    with pytest.raises(BadValue, match="a redrive has a bound: since, max, or all"):
        redriven(on)
    redriven(on, most=2)
    assert (bodies(on, "work"), bodies(on, "graves")) == (["a", "b"], ["c"])


def test_what_dies_again_too_often_is_parked() -> None:
    on = bench(work={"dead_letter": "graves", "redrive_max": 2})
    dead(on, "a")
    for times in (1, 2):
        assert redriven(on, all=True).id == times
        taking = start(on.broker.take("work"))
        on.turn()
        delivery = result(taking)
        assert delivery is not None
        assert (delivery.attempts, delivery.message.headers["redriven"]) == (0, str(times))
        _ = on.broker.reject([delivery])
        on.turn()
    redriven(on, all=True)
    assert (bodies(on, "work"), bodies(on, "graves"), job(on, 3).parked) == ([], ["a"], 1)


# -- what cannot be


@pytest.mark.parametrize(
    ("plan", "error", "reason"),
    [
        ({"source": queue("none"), "waiting": True}, NotFound, "there is no queue none"),
        ({"source": topic("none")}, NotFound, "nothing of /topic/none is kept"),
        ({"match": "size >"}, BadFilter, "bad filter at character 7"),
        ({"move": True}, BadValue, "only what waits in a queue can be moved"),
        ({"target": None, "all": True}, BadValue, "only what waits in a queue can go home"),
        ({"target": topic("a.*")}, BadValue, "topic a.\\* is a pattern"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(plan: dict[str, Any], error: type[BrokerError], reason: str) -> None:
    on = bench()
    put(on, NEWS, "a")
    with pytest.raises(error, match=reason):
        begin(on, **plan)
    assert on.broker.replays.all() == []


def test_the_oldest_that_are_over_are_forgotten_and_no_number_comes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.core.replays.MAX_OVER", 2)
    on = bench()
    put(on, NEWS, "a")
    for _ in range(4):
        begin(on)
    assert [one.job.id for one in on.broker.replays.all()] == [2, 3, 4]
    on.turn()
    on.boot()
    assert begin(on).id == 5
    assert [one.job.id for one in on.broker.replays.all()] == [3, 4, 5]
