"""The benchmarks at a small size: what they say of memory, counts and order, which does not depend on the machine."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import socket
import subprocess
from contextlib import ExitStack
from pathlib import Path
from typing import cast

import pytest
from twisted.internet import task
from twisted.internet.base import ReactorBase

from benchmarks import (
    against,
    busy_group,
    idle_connections,
    measuring,
    peers,
    plots,
    queue_sizes,
    running,
    slow_subscriber,
    turns,
)
from benchmarks import cases as cases_module
from benchmarks.cases import Comparison, Latency, Load, Mixed, Point, Sweep
from broker.core import settlement
from broker.core.message import Message, pack
from tests.support import tx

#: Ends a load: by how much it did, however long that takes. In a fifth of a second a busy machine may do nothing.
BOUND = " count=1000 seconds=30"


def the_reactor() -> ReactorBase:
    from twisted.internet import reactor

    return cast(ReactorBase, reactor)


@tx(60)
async def test_a_busy_group_at_the_head_does_not_starve_the_next_one() -> None:
    wide, narrow = await busy_group.measure(the_reactor(), 20_000)
    assert busy_group.missed([wide, narrow]) == []
    assert "blocked" not in wide
    assert str(narrow["blocked"]) == "max_scan: 2000 messages of busy groups lie before what follows"


@pytest.mark.parametrize("case", turns.CASES)
@tx(60)
async def test_no_reactor_turn_handles_too_many_messages(case: str) -> None:
    _, counted = await turns.run(the_reactor(), case, 4_000, 10)
    assert counted.misses == []


@pytest.mark.parametrize("case", ["expire before a consumer", "expire to a queue", "dead-letter", "browse", "replay"])
@tx(60)
async def test_no_reactor_turn_handles_too_many_bytes(case: str) -> None:
    _, counted = await turns.run(the_reactor(), case, 500, 2_000)
    assert counted.misses == []


@tx()
async def test_a_turn_that_handles_too_much_is_found() -> None:
    packed = pack([Message(stamp=n + 1, body=bytes(400)) for n in range(600)])

    def unpack(data: bytes) -> None:
        vars(settlement)["unpack"](600, data)  # the name that is wrapped, as the broker calls it

    with turns.counting(the_reactor()) as counted:
        for _ in range(2):
            await task.deferLater(the_reactor(), 0)
            unpack(packed)
        await task.deferLater(the_reactor(), 0)
        assert counted.misses == []
        unpack(packed)
        unpack(packed)
        await task.deferLater(the_reactor(), 0)
    assert [miss.split(" were ")[0] for miss in counted.misses] == ["1,200 messages", f"{2 * len(packed):,} bytes"]


@pytest.mark.parametrize("overflow", ["drop_oldest", "disconnect"])
def test_a_subscriber_that_does_not_read_costs_its_buffer_and_no_more(overflow: str) -> None:
    row = slow_subscriber.measure(6 * measuring.MIB, measuring.MIB, overflow)
    assert slow_subscriber.missed(row, measuring.MIB) == []
    assert 0 < int(str(row["read in the end"])) < 6 * 256


def test_idle_connections_stay_open_and_cost_little() -> None:
    row = idle_connections.measure(300, 0.5, probes=20)
    assert [row["memcache left"], row["stomp left"], row["http left"]] == [100, 100, 100]
    assert float(str(row["KiB each"])) * 1024 < idle_connections.MOST_BYTES


@pytest.mark.parametrize("case", queue_sizes.CASES)
def test_a_backlog_costs_no_more_memory_than_its_windows(case: str) -> None:
    row = queue_sizes.measure(case, 0.001, restarted=case == "many queues")
    assert queue_sizes.missed(row) == []
    assert int(str(row["messages"])) >= 1_000


def test_what_is_written_of_a_run_names_neither_the_machine_nor_its_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measuring, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", [str(tmp_path / "some.py"), "1000"])
    assert measuring.report("some", [{"case": "a", "rate": 1234}, {"case": "b", "other": 0.5}], []) == 0
    assert measuring.report("other", [], ["too much"]) == 1
    text = (tmp_path / "some.json").read_text()
    written = json.loads(text)
    assert written["command"] == "python -m benchmarks.some 1000"
    assert written["results"][0] == {"case": "a", "rate": 1234}
    assert {"twisted-broker", "python", "twisted", "sqlite"} <= written["versions"].keys()
    assert written["machine"]["processors"] >= 1
    for secret in (socket.gethostname(), str(measuring.ROOT), str(tmp_path), str(Path.home())):
        assert secret not in text
    said = capsys.readouterr()
    assert said.out.splitlines()[:3] == ["case   rate  other", "a     1,234", "b              0.5"]
    assert said.err == "missed: too much\n"


# -- beside peers


def test_the_page_and_its_plots_are_what_the_results_give(tmp_path: Path) -> None:
    report = json.loads((measuring.RESULTS / "peers.json").read_text())
    against.write(report, tmp_path / "page.rst", tmp_path)
    assert (tmp_path / "page.rst").read_text() == against.PAGE.read_text()
    drawn = {file.name: file.read_text() for file in against.STATIC.glob("bench-*.svg")}
    assert {file.name: file.read_text() for file in tmp_path.glob("bench-*.svg")} == drawn
    text = json.dumps(report)
    for secret in (socket.gethostname(), str(measuring.ROOT), str(Path.home())):
        assert secret not in text


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_case_of_each_kind_says_what_it_took(tmp_path: Path) -> None:
    how = running.How(seconds=0.2, rounds=1, generator=running.compiled(tmp_path))
    put = Load("memcache", "both=3 depth=2" + BOUND)
    swept = Sweep("s", "t", "x", [Point(1, put), Point(10, Load("http", "both=2 batch=5" + BOUND), waiting=50)])
    stomp = Load("stomp", "puts=2 takes=2 queue=/queue/x ack=client-individual" + BOUND, "takes")
    mixed = Mixed("m", "t", [put, stomp])
    latency = Latency("l", "t", [(peers.MemoryBroker, put)])
    kinds: list[cases_module.Case] = [Comparison("c", "t", put, []), swept, mixed, latency]
    rows = [row for case in kinds for row in running.run(case, how, pytest.fail)]
    assert len(rows) == 1 + 2 + 2 + 3
    for row in rows:
        assert row["rate"] > 0
        times = row.get("put") or row["take"]
        assert 0 < times["p50"] <= times["p99.9"] <= times["max"]
        assert 0 < row["generator_share"] < 1.5


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_page_says_what_was_run_anew_and_how(tmp_path: Path) -> None:
    results = tmp_path / "peers.json"
    report = json.loads((measuring.RESULTS / "peers.json").read_text())
    report["command"] = "script/benchmark --seconds 7"
    for case in report["cases"].values():
        case.pop("command", None)
    results.write_text(json.dumps(report))
    assert against.main([*written_to(tmp_path), "--only=start", "--seconds=0.2"]) == 0
    after = json.loads(results.read_text())
    assert (after["command"], after["date"]) == (report["command"], report["date"])
    assert after["cases"]["start"]["command"] == "script/benchmark --only start --seconds 0.2"
    assert [name for name, case in after["cases"].items() if "command" in case] == ["start"]
    text = (tmp_path / "page.rst").read_text()
    assert "``script/benchmark --seconds 7`` on" in text
    assert "Run anew: start; ``script/benchmark --only start --seconds 0.2``" in text


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
@pytest.mark.parametrize("only", [[], ["--only=idle"]], ids=["of all", "of one"])
def test_a_case_that_fails_is_named_and_no_other_command_is_said_to_have_measured_it(
    only: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> list[measuring.Row]:
        raise OSError(24, "Too many open files")

    before = json.loads((measuring.RESULTS / "peers.json").read_text())
    (tmp_path / "peers.json").write_text(json.dumps(before))
    monkeypatch.setattr(against, "LIMITS", {"idle": ("idle connections", fail)})
    monkeypatch.setattr(against, "cases", lambda backlog: [])
    monkeypatch.setattr(against, "all_synced", lambda how, say: [])
    monkeypatch.setattr(peers, "PEERS", [])
    assert against.main([*written_to(tmp_path), *only]) == 1
    said = capsys.readouterr().err
    assert "idle: [Errno 24] Too many open files" in said
    assert "benchmark: not measured: idle; why is said above" in said
    after = json.loads((tmp_path / "peers.json").read_text())["cases"]
    assert after == ({"idle": before["cases"]["idle"]} if only else {})


def test_a_process_that_has_ended_takes_nothing_more(tmp_path: Path) -> None:
    with peers.Broker(tmp_path) as server:
        there = server.cpu(), server.rss()
        ended = subprocess.Popen(["true"])
        ended.wait()
        server.processes = lambda: [server.process.pid, ended.pid]  # type: ignore[method-assign]
        assert server.cpu() >= there[0] > 0
        assert server.rss() > there[1] // 2


def written_to(folder: Path) -> list[str]:
    """The options for it."""
    return ["--no-install", f"--results={folder}", f"--page={folder / 'page.rst'}", f"--static={folder}"]


def test_more_connections_are_allowed_where_files_are_open_and_the_limit_is_never_lowered(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        for number in range(150):
            stack.enter_context((tmp_path / str(number)).open("w"))
        few = len(os.listdir("/dev/fd")) + 200  # what tests before this one have open counts too
        resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard))
        assert idle_connections.allowed(10) == 10
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (few, hard)
        assert idle_connections.allowed(300) == 300
        for _ in range(300):
            stack.enter_context(Path(os.devnull).open())


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_level_load_takes_as_many_as_it_puts_however_many_wait(tmp_path: Path) -> None:
    how = running.How(seconds=0.2, rounds=1, generator=running.compiled(tmp_path))
    consumed = Load("stomp", "puts=2 takes=2 level=1 queue=/queue/l ack=client-individual prefetch=50" + BOUND)
    with running.up([peers.MemoryBroker], pytest.fail) as there:
        server = there[peers.MemoryBroker]
        running.end(running.begin(how, server, Load("memcache", "puts=1 depth=9 count=5000 queue=l")), how)
        found = running.end(running.begin(how, server, consumed), how)
    assert found["takes"] == found["puts"] > 0


def test_every_case_has_a_name_of_its_own_and_words_the_generator_knows() -> None:
    known = set(re.findall(r'\{"(\w+)", &|argument, "(\w+)"\)', running.SOURCE.read_text()))
    words = {name for pair in known for name in pair if name}
    found = cases_module.cases(5_000_000)
    assert len({case.name for case in found}) == len(found)
    for case in found:
        for load in loads(case):
            assert {word.partition("=")[0] for word in load.settings.split()} <= words


def loads(case: cases_module.Case) -> list[Load]:
    match case:
        case Comparison():
            return [case.ours, *(side.load for side in case.against)]
        case Sweep():
            return [point.load for point in case.points]
        case Mixed():
            return list(case.loads)
    return [load for _, load in case.sides]


def test_a_plot_has_a_point_for_each_number_in_the_order_of_their_sizes() -> None:
    drawn = plots.plot("a < b", "x", "y", {"one": [(0, 10), (10, 100), (1_000, 1_000)]})
    places = [tuple(map(float, place)) for place in re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawn)]
    assert [x for x, _ in places] == sorted(x for x, _ in places)
    assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
    assert "a &lt; b" in drawn
