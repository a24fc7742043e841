"""Workers as processes, against a broker: what is on loan, and what becomes of it however they end."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker.stages.link import Refused
from tests.stages.support import Cable, Http, Worker, data_of
from tests.support import Twistd


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with Twistd(tmp_path_factory.mktemp("data"), "--data=:memory:") as twistd:
        yield f"http://127.0.0.1:{twistd.ports()['HTTP']}"


@pytest.fixture
def http(url: str) -> Iterator[Http]:
    one = Http(url)
    yield one
    for channel in one.ask("GET", "/channels")["channels"]:
        one.ask("DELETE", f"/channels/{channel}?config=1")
    one.close()


#: A stage that says when it has begun, and ends when it is told to.
SLOW = """
    import json, urllib.request
    def ask(path, body=None):
        return urllib.request.urlopen(os.environ["BROKER_URL"] + path, body, timeout=150).read()
    def slow(event):
        ask("/channels/begun", event.raw)
        ask("/channels/go?wait=120&ack=auto")
        return event
"""


def flow_of(said: str, function: str = "slow", grace: float = 25) -> str:
    """A flow of one stage."""
    return f"""
    f = Pipeline("f", grace={grace})
    f.stage({said})({function})
    f.run()
"""


def test_outputs_and_ack_become_true_and_everything_says_where_it_comes_from(http: Http, tmp_path: Path) -> None:
    program = """
        import json
        f = Pipeline("indexer", retain=60)
        @f.stage("raw", to="docs", concurrency=2)
        def parse(event):
            try:
                return json.loads(event.raw)
            except ValueError as error:
                raise Reject(f"not JSON: {error}")
        @f.stage("docs", to="words", mode="process", concurrency=2)
        def split(event):
            for word in event.data["text"].split():
                yield {"word": word}
        @f.stage("words", to="out", batch=10)
        async def shout(events):
            return [event.child(event.data["word"].upper()) for event in events]
        f.run()
    """
    with Worker(http.url, tmp_path, program) as worker:
        http.ask(
            "POST", "/channels/raw", b'{"text": "a b c"}', fields={"ce-id": "r1", "ce-source": "/s", "ce-type": "t"}
        )
        http.ask("POST", "/channels/raw", b"no")
        assert sorted(http.get("out", 3)) == ["A", "B", "C"]
        (dead,) = http.events("raw.dead")
        assert dead["deadreason"].startswith("not JSON")
        assert dead["data"] == "no"
        assert "Traceback" not in worker.stop()
    words = [message["event"] for message in http.look("words", "done")]
    assert [word["data"]["word"] for word in words] == ["a", "b", "c"]
    for word in words:
        assert word.items() >= {"rootid": "r1", "stage": "split", "codeversion": "v1"}.items()
    assert http.counts("raw") == http.counts("docs") == http.counts("words") == (0, 0)
    (definition,) = http.ask("GET", "/topics/flow%2Findexer/messages")["messages"]
    assert [stage["name"] for stage in definition["event"]["data"]["stages"]] == ["parse", "split", "shout"]
    assert definition["event"]["data"]["wanted"] == "v1"


def test_an_input_that_kills_its_process_runs_alone_before_it_is_dead(http: Http, tmp_path: Path) -> None:
    program = """
        f = Pipeline("f")
        def stage(event):
            if event.data == "killer":
                os.kill(os.getpid(), 9)
            if event.data == "leaver":
                os._exit(3)
            return event
        # more retries than it takes: a lease that ends because the machine is slow is one of them
        rules = {"retries": 50, "backoff": [0.05], "lease": 2}
        f.stage("in", to="out", name="threads", **rules)(stage)
        f.stage("in2", to="out", name="processes", mode="process", **rules)(stage)
        @f.stage("in3", to="out", batch=10, **rules)
        def batches(events):
            return [output for event in events if (output := stage(event))]
        f.run()
    """
    for channel in ("in", "in2", "in3"):
        for word in ("killer", "good", "leaver"):
            http.put(channel, word)
    with Worker(http.url, tmp_path, program) as worker:
        dead = [one for channel in ("in", "in2", "in3") for one in http.events(f"{channel}.dead", 2)]
        assert http.get("out", 3) == ["good"] * 3
        said = worker.stop()
    assert {(one["data"], one["deadreason"]) for one in dead} == {
        ("killer", "killed its process (signal 9), alone in it, 3 times"),
        ("leaver", "ended its process (status 3), alone in it, 3 times"),
    }
    assert "a process of workers died: killed (signal 9); it is started again" in said


def somebody_waits(http: Http) -> bool:
    """Whether a worker waits for an input."""
    return any(one["kind"] == "waiting request" for one in http.ask("GET", "/channels/in/consumers")["consumers"])


def test_sigterm_lets_what_was_begun_be_finished_and_takes_nothing_more(http: Http, tmp_path: Path) -> None:
    program = SLOW + flow_of('"in", to="out", concurrency=2')
    with Worker(http.url, tmp_path, program) as worker:
        http.put("in", 1)
        http.get("begun")
        while not somebody_waits(http):  # else the other one may have yet to begin
            pass
        worker.process.terminate()
        # the other one, that waits, hears of it too
        while somebody_waits(http):
            pass
        http.put("in", 2)
        http.put("go", 1)
        assert worker.process.wait(60) == 0
    assert http.get("out") == [1]
    assert data_of(http.look("in")) == [2]


@pytest.mark.parametrize("twice", [False, True])
def test_what_is_not_finished_in_time_is_given_back_as_not_tried(http: Http, tmp_path: Path, twice: bool) -> None:
    grace = 30 if twice else 0.1
    program = SLOW + flow_of('"in", to="out", lease=60', grace=grace)
    with Worker(http.url, tmp_path, program) as worker:
        http.put("in", 1)
        http.get("begun")
        worker.process.terminate()
        while twice and worker.process.poll() is None:
            worker.process.terminate()
            try:
                worker.process.wait(0.2)
            except Exception:
                continue
        assert "gave back 1 inputs" in "".join(worker.process.communicate(timeout=60))
    (message,) = http.look("in")
    assert (message["state"], message["attempts"]) == ("ready", 0)


def test_a_lease_is_touched_while_the_stage_runs(http: Http, tmp_path: Path) -> None:
    program = SLOW + flow_of('"in", to="out", lease=6')  # long enough for a machine that stands still for half of it
    with Worker(http.url, tmp_path, program) as worker:
        http.put("in", 1)
        http.get("begun")
        # nobody else gets it, for longer than its lease
        assert http.ask("POST", "/channels/in/lease?wait=7") is None
        http.put("go", 1)
        assert http.get("out") == [1]
        worker.stop()


def test_the_work_of_a_machine_that_lost_its_network_moves_to_another(http: Http, tmp_path: Path) -> None:
    port = int(http.url.rpartition(":")[2])
    both = [tmp_path / "one", tmp_path / "two"]
    for folder in both:
        folder.mkdir()
    with Cable(port) as cable:
        far = f"http://127.0.0.1:{cable.port}"
        with Worker(far, both[0], SLOW + flow_of('"in", to="out", lease=1, concurrency=2'), version="far"):
            for word in "ab":
                http.put("in", word)
            http.get("begun", 2)
            cable.pull()
            quick = "    def quick(event): return event\n" + flow_of('"in", to="out", lease=1', "quick")
            with Worker(http.url, both[1], quick, version="near") as near:
                events = http.events("out", 2)
                # whose lease ends first depends on which of them was touched last
                found = sorted((event["data"], event["codeversion"]) for event in events)
                assert found == [("a", "near"), ("b", "near")]
                near.stop()
    assert http.counts("in") == http.counts("out") == (0, 0)


@pytest.mark.parametrize("mode", ["thread", "async"])
def test_of_an_input_whose_lease_is_lost_nothing_goes_out(http: Http, tmp_path: Path, mode: str) -> None:
    program = SLOW
    if mode == "async":
        program += """
    import asyncio
    async def waits(event):
        if event.data == "first":
            ask("/channels/begun", event.raw)
            try:
                await asyncio.sleep(30)
            finally:
                ask("/channels/cancelled", b"x")
        return event
"""
    else:
        program += "\n    def waits(event): return slow(event) if event.data == 'first' else event\n"
    program += flow_of('"in", to="out", lease=1', "waits")
    with Worker(http.url, tmp_path, program) as worker:
        http.put("in", "first")
        http.get("begun")
        http.ask("DELETE", "/channels/in")
        if mode == "async":
            http.get("cancelled")
        else:
            http.put("go", 1)
        http.put("in", "second")
        assert http.get("out") == ["second"]
        assert "is lost" in worker.stop()


def test_a_full_channel_holds_up_the_stage_and_what_will_never_fit_is_dead(http: Http, tmp_path: Path) -> None:
    program = """
        f = Pipeline("f")
        @f.stage("in", to="out", batch=5, retries=0)
        def double(events):
            return [event.child(n) for event in events for n in range(event.data)]
        f.run()
    """
    http.configure("out", max_messages=2)
    for count in (1, 1, 1, 2):
        http.put("in", count)
    with Worker(http.url, tmp_path, program) as worker:
        # the first two go out, the others stay on loan until there is room
        assert http.get("out", 5) == [0, 0, 0, 0, 1]
        http.put("in", 3)
        (dead,) = http.events("in.dead")
        assert dead["deadreason"] == "its 3 outputs are more than channel out ever holds"
        assert "waits: 507" in worker.stop()
    assert http.counts("in") == (0, 0)


CHAIN = """
    import sys
    f = Pipeline("chain")
    for place, (source, to) in enumerate(zip("abcd", "bcde")):
        f.stage(source, to=to, name=f"s{place}", concurrency=2)(lambda event: event)
    f.run(*sys.argv[1:])
"""


def test_a_stage_that_stands_still_holds_up_all_before_it_up_to_the_door(http: Http, tmp_path: Path) -> None:
    for channel in "abcd":
        http.configure(channel, max_messages=5)
    put = 0
    with Worker(http.url, tmp_path, CHAIN, "s0", "s1", "s2") as worker:
        # until all four are full: one may look so while a message moves, as they are counted one after another
        while put < 20:
            try:
                http.put("a", put)
                put += 1
            except Refused as refused:
                http.ask("POST", f"/channels/nothing/lease?wait={refused.after:.0f}")
        with pytest.raises(Refused) as refusal:
            http.put("a", put)
        assert (refusal.value.status, refusal.value.after) == (507, 1)
        assert [sum(http.counts(channel)) for channel in "abcd"] == [5, 5, 5, 5]
        with Worker(http.url, tmp_path, CHAIN, "s3") as last:
            assert sorted(http.get("e", put)) == list(range(put))
            http.put("a", put)
            assert http.get("e") == [put]
            last.stop()
        worker.stop()


def test_a_process_that_takes_too_long_is_killed_and_a_coroutine_cancelled(http: Http, tmp_path: Path) -> None:
    program = """
        import asyncio, time
        f = Pipeline("f")
        @f.stage("in", mode="process", timeout=0.3, retries=0, backoff=[0.05])
        def hangs(event):
            time.sleep(60)
        @f.stage("in2", timeout=0.3, retries=0)
        async def waits(event):
            await asyncio.sleep(60)
        f.run()
    """
    with Worker(http.url, tmp_path, program) as worker:
        http.put("in", 1)
        http.put("in2", 1)
        assert http.events("in2.dead")[0]["deadreason"] == "TimeoutError: it took longer than 0.3 s"
        assert http.events("in.dead")[0]["deadreason"] == "took longer than 0.3 s"
        worker.stop()


def test_what_the_dead_channel_does_not_take_stays_and_says_why(http: Http, tmp_path: Path) -> None:
    program = """
        f = Pipeline("f")
        @f.stage("in", retries=0, backoff=[60])
        def fails(event):
            raise ValueError("no")
        f.run()
    """
    http.configure("in.dead", max_message_size=10)
    with Worker(http.url, tmp_path, program) as worker:
        http.ask("POST", "/channels/in", b"longer than ten", fields={"ce-odd-name": "x"})
        while not any(message["attempts"] for message in http.look("in")):
            http.ask("POST", "/channels/nothing/lease?wait=1")
        assert "cannot be settled" in worker.stop()
    (message,) = http.look("in")
    assert message["reason"].startswith("ValueError: no (dead: in.dead): ")


def test_dead_letters_go_home_and_what_is_made_of_them_belongs_to_the_replay(http: Http, tmp_path: Path) -> None:
    program = """
        f = Pipeline("f")
        @f.stage("in", to="out", retries=0)
        def mended(event):
            if event.run is None:
                raise ValueError("not yet")
            return [event.attempt, event.run]
        f.run()
    """
    with Worker(http.url, tmp_path, program) as worker:
        http.ask("POST", "/channels/in", b"x", fields={"ce-id": "r9"})
        while http.counts("in.dead") != (1, 0):
            http.ask("POST", "/channels/nothing/lease?wait=1")
        said = {"source": {"channel": "in.dead"}, "mode": "move", "target": "origin", "all": True}
        run = http.ask("POST", "/replays", said)["run"]
        first, second = http.events("out", 2)
        assert (first["data"], second["data"]) == (1, run)
        assert first.items() >= {"run": run, "rootid": "r9", "parentid": "r9"}.items()
        worker.stop()


def test_filters_topics_and_several_sources(http: Http, tmp_path: Path) -> None:
    program = """
        f = Pipeline("f")
        f.stage("topic:orders", to="large", name="large", match="data.total >= 100")(lambda event: event)
        @f.stage(["one", "two"], to="both")
        def both(event):
            if event.data == 0:
                f.publish("more", [f.publish("more", 1) != f.publish("more", 2)])
            return event
        f.publish("one", 0)
        f.run()
    """
    with Worker(http.url, tmp_path, program) as worker:
        assert http.get("both") == [0]  # it is there
        for total in (99, 100):
            http.ask("POST", "/topics/orders", {"total": total})
        http.put("two", 2)
        assert http.get("large") == [{"total": 100}]
        assert http.get("both") == [2]
        assert http.get("more", 3) == [1, 2, [True]]
        worker.stop()


def test_workers_end_with_the_process_that_looks_after_them(http: Http, tmp_path: Path) -> None:
    program = (
        SLOW
        + """
    f = Pipeline("f")
    @f.stage("in", to="out", mode="process")
    def say(event):
        return os.getpid()
    f.run()
"""
    )
    with Worker(http.url, tmp_path, program) as worker:
        http.put("in", 1)
        (pid,) = http.get("out")
        os.kill(worker.process.pid, signal.SIGKILL)
        # its pipes are open as long as one of them lives
        worker.process.communicate(timeout=60)
        assert pid != worker.process.pid
