"""The numbers: one definition each, and the same at every place where they are seen."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import attrs
import msgspec
from prometheus_client.parser import text_string_to_metric_families
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread

from broker.core.broker import Broker
from broker.core.destination import queue, topic
from broker.core.message import Message
from broker.core.stats import OF_BROKER, OF_FRONT, OF_QUEUE, BrokerGauges, BrokerStats, QueueStats, values
from broker.core.store import Sizes
from broker.core.survey import FRESH, PATIENCE, SLICE, Survey, Surveyor
from broker.errors import StoreUnavailable
from broker.http.metrics import family_name
from broker.memcache.stats import NAMES, QUEUE_NAMES
from broker.storage.memory import MemoryStore
from tests.clients.support import Http, settled, stomp_wired, wired
from tests.http.support import done
from tests.support import Served, flush_logged_errors, serving, tx

POLICIES = {"work": {"max_attempts": 1, "dead_letter": "dead"}}


# -- the same everywhere


@attrs.frozen
class Seen:
    """What one place shows: of the broker, and of each queue."""

    broker: Mapping[str, float]
    queues: Mapping[str, Mapping[str, float]]


async def live(served: Served) -> None:
    """Something of everything, by all three protocols."""
    async with wired(served.memcache) as memcache, stomp_wired(served.stomp) as stomp:
        for body in (b"a", b"b"):
            await memcache.ask(b"set work 0 0 1\r\n%b\r\n" % body, rb"STORED\r\n")
        await memcache.ask(b"set late 0 -1 1\r\nx\r\n", rb"STORED\r\n")
        await memcache.ask(b"get late\r\n", rb"^END\r\n")
        await memcache.ask(b"get none/t=1\r\n", rb"^END\r\n")
        subscribe = b"SUBSCRIBE\nid:1\ndestination:/queue/work\nack:client-individual\nprefetch-count:1\n\n\0"
        first = (await stomp.ask(subscribe, rb"MESSAGE\n.*?\nack:(\S+)\n.*\n\na\0")).group(1)
        second = (await stomp.ask(b"NACK\nid:%b\n\n\0" % first, rb"MESSAGE\n.*?\nack:(\S+)\n.*\n\nb\0")).group(1)
        await stomp.ask(b"ACK\nid:%b\nreceipt:1\n\n\0" % second, rb"RECEIPT\n")
        await stomp.ask(b"SEND\ndestination:/topic/news\nreceipt:2\n\nx\0", rb"RECEIPT\n")
        http = Http(served.http)
        try:

            async def ask(method: str, path: str, body: bytes | None = None) -> int:
                return (await deferToThread(http.ask, method, path, body))[0]

            assert await ask("PUT", "/channels/reader/topics/news") == 204
            assert await ask("POST", "/topics/news", b"x") == 202
            for _ in range(3):
                assert await ask("POST", "/channels/trash?priority=-1", b"x") == 202
            assert await ask("DELETE", "/channels/trash") == 204
            assert await ask("POST", "/channels/later?delay=1000", b"x") == 202
            assert await ask("GET", "/channels/reader?nowait") == 200
        finally:
            http.close()
        await memcache.ask(b"set rest 0 0 1\r\nc\r\n", rb"STORED\r\n")
        await settled(lambda: served.broker.queue_stats("dead").ready == 1)
    await left(served)


async def left(served: Served) -> None:
    """Wait until the broker has seen that its clients are gone."""
    await settled(lambda: not any(front.connections for front in served.service.front_stats().values()))


async def by_http(port: int) -> Seen:
    http = Http(port)
    try:
        _, _, stats = await deferToThread(http.ask, "GET", "/stats")
        _, _, channels = await deferToThread(http.ask, "GET", "/channels?detail=1")
    finally:
        http.close()
    detail = {one["name"]: one for one in json.loads(channels)["channels"]}
    queues = {name: {what: float(bool(one[what]) if what == "blocked" else one[what]) for what in OF_QUEUE}
              for name, one in detail.items()}  # fmt: skip
    return Seen(json.loads(stats)["broker"], queues)


async def by_memcache(port: int) -> Seen:
    async with wired(port) as memcache:
        said = (await memcache.ask(b"stats\r\n", rb"^(.*)END\r\n")).group(1).decode()
    lines = dict(re.findall(r"^STAT (\S+) (\S+)\r$", said, re.MULTILINE))
    names = re.findall(r"^STAT queue_(\S+)_total_items ", said, re.MULTILINE)
    queues = {n: {what: float(lines[f"queue_{n}_{QUEUE_NAMES.get(what, what)}"]) for what in OF_QUEUE} for n in names}
    return Seen({what: float(lines[NAMES.get(what, what)]) for what in OF_BROKER}, queues)


async def by_metrics(port: int) -> Seen:
    http = Http(port)
    try:
        _, _, said = await deferToThread(http.ask, "GET", "/metrics")
    finally:
        http.close()
    broker: dict[str, float] = {}
    queues: dict[str, dict[str, float]] = {}
    samples = {
        (sample.name.removesuffix("_total"), sample.labels.get("queue")): sample.value
        for family in text_string_to_metric_families(said.decode())
        for sample in family.samples
    }
    for what, metric in OF_BROKER.items():
        broker[what] = samples[family_name("broker", what, metric), None]
    for name in {name for _, name in samples if name is not None}:
        queues[name] = {}
        for what, metric in OF_QUEUE.items():
            scale = 1000 if metric.unit == "milliseconds" else 1
            queues[name][what] = samples[family_name("broker_queue", what, metric), name] * scale
    return Seen(broker, queues)


def ageless(queues: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Without what grows from one look to the next."""
    return {name: {**numbers, "oldest_ms": 0} for name, numbers in queues.items()}


async def by_core(broker: Broker) -> Seen:
    survey = await Surveyor(broker).survey(lambda name: True, most=100)
    return Seen(survey.broker, {name: values(stats, OF_QUEUE) for name, stats in survey.queues})


@tx()
async def test_all_places_show_the_same_numbers() -> None:
    async with serving(queue=POLICIES) as served:
        await live(served)
        core = await by_core(served.broker)
        for seen in (await by_http(served.http), await by_memcache(served.memcache), await by_metrics(served.http)):
            assert {**seen.broker, "uptime": 0} == {**core.broker, "uptime": 0}
            assert ageless(seen.queues) == ageless(core.queues)
        expected = {
            "published": 10,  # the move to the dead letters is one
            "published_to_topics": 2,
            "delivered": 3,
            "settled": 1,
            "expired": 1,
            "discarded": 1,
            "moved": 1,
            "purged": 3,
            "bound": 1,
            "queues": len(core.queues),
            "queues_in_use": 3,
            "topics": 1,
            "bindings": 1,
            "ready": 2,
            "on_loan": 1,
            "delayed": 1,
            "trouble": 0,
        }
        assert {name: core.broker[name] for name in expected} == expected
        assert core.broker["store_data"] > 0
        assert core.queues["work"]["failed"] == core.queues["work"]["moved"] == 1
        assert core.queues["dead"]["ready"] == 1
        of_broker = {name: getattr(served.broker.stats, name) for name in ("delivered", "settled", "purged")}
        assert of_broker == {name: core.broker[name] for name in of_broker}


@tx()
async def test_connections_are_counted_for_each_front() -> None:
    async with serving() as served:
        async with wired(served.memcache), wired(served.memcache), stomp_wired(served.stomp):
            # A client is connected before its connection is accepted.
            await settled(lambda: served.service.front_stats()["memcache"].connections_opened == 2)
            fronts = served.service.front_stats()
            assert (fronts["memcache"].connections, fronts["memcache"].connections_opened) == (2, 2)
            assert (fronts["stomp"].connections, fronts["stomp"].connections_opened) == (1, 1)
            assert (fronts["http"].connections, fronts["http"].connections_opened) == (0, 0)
        await left(served)
        assert served.service.front_stats()["memcache"].connections_opened == 2
        http = Http(served.http)
        try:
            _, _, stats = await deferToThread(http.ask, "GET", "/stats")
        finally:
            http.close()
        assert json.loads(stats)["fronts"] == {
            "memcache": {"connections": 0, "connections_opened": 2},
            "stomp": {"connections": 0, "connections_opened": 1},
            "http": {"connections": 1, "connections_opened": 1},
        }


# -- the definitions


def test_every_number_is_defined_with_a_sentence_and_no_other_field_is_a_number() -> None:
    for metrics in (OF_BROKER, OF_FRONT, OF_QUEUE):
        for name, metric in metrics.items():
            assert re.fullmatch(r"[A-Z].{5,}\.", metric.help, re.DOTALL), name
    assert {field.name for field in attrs.fields(BrokerStats)} - set(OF_BROKER) == {"started", "fronts"}
    assert set(BrokerGauges.__struct_fields__) <= set(OF_BROKER)
    assert set(QueueStats.__struct_fields__) - set(OF_QUEUE) == {"last_id"}


def test_a_text_is_a_flag() -> None:
    assert values(QueueStats(blocked="dead is full", paused=True), OF_QUEUE)["blocked"] == 1
    assert values(QueueStats(paused=True), OF_QUEUE)["paused"] == 1
    assert values(QueueStats(), OF_QUEUE)["blocked"] == 0


# -- surveys


class Measured(MemoryStore):
    """A store whose measuring takes as long as the test likes."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[Deferred[Sizes]] = []

    def measure(self) -> Deferred[Sizes]:
        """Later."""
        self.asked.append(Deferred())
        return self.asked[-1]


def started(store: MemoryStore) -> tuple[Broker, Clock]:
    clock = Clock()
    broker = Broker(store, clock, wall=lambda: 1_700_000_000 + clock.seconds())
    done(broker.start())
    return broker, clock


def surveyed(surveyor: Surveyor) -> tuple[Deferred[Survey], list[Survey]]:
    results: list[Survey] = []
    survey = Deferred.fromCoroutine(surveyor.survey())
    _ = survey.addCallback(results.append)
    return survey, results


def test_those_who_ask_at_the_same_time_wait_for_one_measuring_which_is_good_for_a_while() -> None:
    store = Measured()
    broker, clock = started(store)
    surveyor = Surveyor(broker)
    (_, first), (_, second) = surveyed(surveyor), surveyed(surveyor)
    assert (first, second, len(store.asked)) == ([], [], 1)
    store.asked[0].callback(Sizes(data=7, wal=5))
    assert [survey.broker["store_data"] for survey in first + second] == [7, 7]
    clock.advance(FRESH / 2)
    assert surveyed(surveyor)[1][0].broker["store_wal"] == 5
    assert len(store.asked) == 1
    clock.advance(FRESH)
    surveyed(surveyor)
    assert len(store.asked) == 2
    clock.advance(PATIENCE)


def test_a_store_that_is_stuck_holds_up_no_survey() -> None:
    store = Measured()
    broker, clock = started(store)
    surveyor = Surveyor(broker)
    _, first = surveyed(surveyor)
    clock.advance(PATIENCE)
    assert "store_data" not in first[0].broker
    assert first[0].broker["memory_limit"] > 0
    store.asked[0].callback(Sizes(data=7))
    assert len(store.asked) == 1
    clock.advance(FRESH)
    _, second = surveyed(surveyor)
    clock.advance(PATIENCE)
    assert second[0].broker["store_data"] == 7  # what it said last


def test_who_goes_while_the_store_measures_leaves_nothing_behind() -> None:
    store = Measured()
    broker, clock = started(store)
    surveyor = Surveyor(broker)
    gone, told = surveyed(surveyor)
    _ = gone.addErrback(lambda failure: failure.trap(CancelledError))
    gone.cancel()
    assert not any(call.getTime() == PATIENCE for call in clock.getDelayedCalls())
    _, stayed = surveyed(surveyor)
    store.asked[0].callback(Sizes(data=7))
    assert (told, stayed[0].broker["store_data"]) == ([], 7)


def test_a_store_that_cannot_say_its_size_is_asked_again() -> None:
    store = Measured()
    broker, _ = started(store)
    surveyor = Surveyor(broker)
    for number, error in enumerate((StoreUnavailable("closed"), ValueError("a fault"))):
        _, told = surveyed(surveyor)
        store.asked[number].errback(error)
        assert "store_data" not in told[0].broker
    assert len(flush_logged_errors(ValueError)) == 1


def test_many_queues_are_looked_at_in_several_turns() -> None:
    broker, clock = started(MemoryStore())
    for number in range(2 * SLICE + 1):
        _ = broker.publish(queue(f"q{number:05}"), Message(body=b"x"))
    done(broker.bind("q00000", topic("news")))
    done(broker.bind("q00001", topic("news")))
    told: list[Survey] = []
    _ = Deferred.fromCoroutine(Surveyor(broker).survey(lambda name: name >= "q01000", most=1)).addCallback(told.append)
    assert not told
    assert any(not call.getTime() for call in clock.getDelayedCalls())
    clock.advance(0)
    assert (told[0].broker["queues"], told[0].broker["ready"]) == (2 * SLICE + 1, 2 * SLICE + 1)
    assert (told[0].broker["topics"], told[0].broker["bindings"], told[0].topic_bindings) == (1, 2, 2)
    assert ([name for name, _ in told[0].queues], told[0].left_out) == (["q01000"], 0)
    asked = done_after_turns(clock, Surveyor(broker), most=1)
    assert (asked.queues, asked.left_out) == ([], 2 * SLICE + 1)


def done_after_turns(clock: Clock, surveyor: Surveyor, *, most: int) -> Survey:
    told: list[Survey] = []
    _ = Deferred.fromCoroutine(surveyor.survey(lambda name: True, most=most)).addCallback(told.append)
    clock.pump([0] * 10)
    return told[0]


def test_names_come_sorted_and_page_by_page() -> None:
    broker, _ = started(MemoryStore())
    for name in ("c", "a", "d", "b"):
        _ = broker.publish(queue(name), Message(body=b"x"))
    surveyor = Surveyor(broker)
    assert surveyor.queues() == ["a", "b", "c", "d"]
    assert surveyor.queues(after="a", most=2) == ["b", "c"]
    assert surveyor.queues(lambda name: name != "c", after="b", most=9) == ["d"]


def test_a_survey_is_of_plain_values() -> None:
    broker, clock = started(MemoryStore())
    _ = broker.publish(queue("q"), Message(body=b"x"))
    survey = done_after_turns(clock, Surveyor(broker), most=10)
    assert msgspec.json.decode(msgspec.json.encode(survey), type=Survey) == survey
